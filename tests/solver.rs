//! The heuristic solvers: floors on real graphs, and what must hold on any graph.

use std::time::Duration;

use plimsoll::check::{check, check_steps};
use plimsoll::cost::Problem;
use plimsoll::entity::OpId;
use plimsoll::plan::{Lowering, Plan, Status, lower, simulate};
use plimsoll::solver::{self, Options, Outcome};
use plimsoll::{Bytes, Error};

/// Overheads in percent a plain greedy reaches at 0.8, 0.6, 0.5 and 0.4 of the keep-all peak.
const FLOORS: [(&str, [Option<f64>; 4]); 3] = [
    ("gpt-4x256-b8", [Some(0.20), Some(2.89), Some(5.12), Some(8.43)]),
    ("resnet-8x32-b8", [Some(0.96), Some(1.98), Some(2.67), Some(3.87)]),
    ("unet-3x16-b4", [Some(0.08), Some(0.20), Some(0.32), None]),
];

fn load(name: &str) -> Problem {
    Problem::load(format!("{}/tests/data/{name}.problem.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The peak with everything kept and no in-place reuse, of which budgets are fractions.
fn keep_all_peak(problem: &Problem) -> u64 {
    let order: Vec<OpId> = problem.graph.ops().keys().collect();
    simulate(problem, &lower(&problem.graph, &order, Lowering { inplace: false })).unwrap().peak.get()
}

fn room(problem: &Problem, room: f64) -> Bytes {
    let (low, high) = (problem.trivial_bound().get() as f64, keep_all_peak(problem) as f64);
    Bytes((low + room * (high - low)) as u64)
}

/// Limits for tests: the same result however slow the machine.
fn quick(nodes: u64) -> Options {
    Options { time_limit: Duration::from_secs(600), node_limit: Some(nodes), ..Options::default() }
}

/// Every claim of a plan, against the checker and the simulator.
fn verify(problem: &Problem, plan: &Plan) {
    let checked = check(problem, plan).unwrap();
    let timeline = simulate(problem, &plan.steps).unwrap();
    let told = &plan.predicted;
    assert_eq!((told.peak, told.time), (timeline.peak, timeline.time));
    assert_eq!(told.peak, checked.peak);
    assert!(told.peak <= plan.budget);
    assert!(told.lower_bound <= told.overhead, "{told:?}");
    let baseline = solver::baseline(problem).1;
    assert_eq!((told.baseline_peak, told.baseline_time), (baseline.peak, baseline.time));
}

#[test]
fn beats_the_floors() {
    for (name, floors) in FLOORS {
        let problem = load(name);
        let peak = keep_all_peak(&problem) as f64;
        for inplace in [true, false] {
            for (fraction, floor) in [0.8, 0.6, 0.5, 0.4].into_iter().zip(floors) {
                let budget = Bytes((peak * fraction) as u64);
                let options = Options { inplace, ..quick(15_000) };
                let started = std::time::Instant::now();
                let plan = solver::plan(&problem, budget, "auto", &options).unwrap();
                verify(&problem, &plan);
                let (overhead, bound) = (plan.predicted.overhead * 100.0, plan.predicted.lower_bound * 100.0);
                println!(
                    "{name} {fraction} inplace {inplace}: {overhead:.3} % (bound {bound:.3} %) {:.2?}",
                    started.elapsed()
                );
                if let Some(floor) = floor {
                    // Floors are rounded to two digits.
                    assert!(overhead < floor + 0.005, "{name} at {fraction}: {overhead:.3} % against {floor} %");
                }
            }
        }
    }
}

#[test]
fn finds_plans_in_little_room() {
    for (name, _) in FLOORS {
        let problem = load(name);
        for part in [0.25, 0.12] {
            let started = std::time::Instant::now();
            match solver::plan(&problem, room(&problem, part), "auto", &quick(10_000)) {
                Ok(plan) => {
                    verify(&problem, &plan);
                    println!("{name} room {part}: {:.2} % {:.2?}", 100.0 * plan.predicted.overhead, started.elapsed());
                }
                Err(error) => assert!(part < 0.2, "{name}: {error}"),
            }
        }
    }
}

#[test]
fn more_budget_is_never_slower() {
    let problem = load("gpt-4x256-b8");
    let peak = keep_all_peak(&problem);
    // Handed over out of order: plans come back in the order of the budgets.
    let budgets: Vec<Bytes> = (0..20).map(|k| Bytes(peak * (20 + (k * 7) % 20 * 4) / 100)).collect();
    let points = solver::sweep(&problem, &budgets, "auto", &quick(300)).unwrap();
    let mut found: Vec<_> =
        budgets.iter().zip(&points).filter_map(|(b, point)| Some((*b, point.outcome.plan()?))).collect();
    assert!(found.len() >= 15);
    found.sort_by_key(|(budget, _)| *budget);
    for (budget, plan) in &found {
        assert_eq!(plan.budget, *budget);
        verify(&problem, plan);
    }
    assert!(found.windows(2).all(|w| w[0].1.predicted.time >= w[1].1.predicted.time));
}

/// Independent calls know nothing of one another: here the search itself has to be steady.
#[test]
fn more_budget_is_never_slower_in_single_calls() {
    for (name, _) in FLOORS {
        let problem = load(name);
        let Err(Error::Infeasible { minimum, .. }) = solver::plan(&problem, Bytes(1), "auto", &quick(1_000)) else {
            panic!("one byte is enough for {name}");
        };
        let (low, high) = (minimum.unwrap().get(), solver::baseline(&problem).1.peak.get());
        let mut last = u64::MAX;
        for k in 0..20 {
            let budget = Bytes(low + (high - low) * k / 19);
            let plan = solver::plan(&problem, budget, "auto", &quick(8_000)).unwrap();
            verify(&problem, &plan);
            assert!(plan.predicted.time.get() <= last, "{name} at {budget}: slower with more");
            last = plan.predicted.time.get();
        }
    }
}

/// The first budgets tried must not use up what there is for the search.
#[cfg(feature = "fuzzing")]
#[test]
fn the_least_budget_is_found_in_larger_graphs_too() {
    let problem = plimsoll::fuzz::layered(0, 120, 8);
    let Err(Error::Infeasible { minimum, .. }) = solver::plan(&problem, Bytes(1), "auto", &quick(1_000)) else {
        panic!("one byte is enough");
    };
    let (minimum, least) = (minimum.unwrap(), problem.trivial_bound().get());
    let room = (minimum.get() - least) as f64 / (solver::baseline(&problem).1.peak.get() - least) as f64;
    println!("{} ops: room {room:.3}", problem.graph.ops().len());
    assert!(room < 0.25, "{room}");
    verify(&problem, &solver::plan(&problem, minimum, "auto", &quick(1_000)).unwrap());
}

/// The problem with links that move the baseline's peak one way in the baseline's time.
fn linked(mut problem: Problem, host: Bytes) -> Problem {
    let baseline = solver::baseline(&problem).1;
    let rate = u128::from(baseline.peak.get()) * 1_000_000_000 / u128::from(baseline.time.get());
    let rate = u64::try_from(rate).unwrap();
    (problem.device.d2h_bytes_per_s, problem.device.h2d_bytes_per_s) = (rate, rate);
    problem.device.host_memory = host;
    problem
}

#[test]
fn offload_halves_the_overhead() {
    let plain = load("gpt-4x256-b8");
    let linked = linked(load("gpt-4x256-b8"), Bytes(1 << 40));
    let budget = Bytes(keep_all_peak(&plain) * 2 / 5);
    let [without, with] = [&plain, &linked].map(|problem| {
        let plan = solver::plan(problem, budget, "auto", &quick(5_000)).unwrap();
        verify(problem, &plan);
        plan.predicted.overhead
    });
    assert!(with <= without / 2.0, "{with} against {without}");
    // Where recomputation alone finds nothing.
    let tight = room(&plain, 0.08);
    assert!(solver::plan(&plain, tight, "auto", &quick(1_000)).is_err());
    verify(&linked, &solver::plan(&linked, tight, "auto", &quick(1_000)).unwrap());
}

#[test]
fn offload_stays_within_the_host_and_needs_links() {
    let plain = load("unet-3x16-b4");
    let budget = Bytes(keep_all_peak(&plain) * 2 / 5);
    let steps = |problem: &Problem| solver::plan(problem, budget, "auto", &quick(500)).unwrap().steps;
    let mut unlinked = plain.clone();
    unlinked.device.host_memory = Bytes(1 << 40);
    unlinked.device.d2h_bytes_per_s = 1 << 30;
    assert_eq!(steps(&plain), steps(&unlinked));
    assert_eq!(steps(&plain), steps(&linked(plain.clone(), Bytes(0))));
    for host in [1, 100_000, 3_000_000, 1 << 40] {
        let problem = linked(plain.clone(), Bytes(host));
        let plan = solver::plan(&problem, budget, "auto", &quick(500)).unwrap();
        verify(&problem, &plan);
        assert!(simulate(&problem, &plan.steps).unwrap().host_peak <= Bytes(host));
    }
}

#[test]
fn everything_fits() {
    let problem = load("unet-3x16-b4");
    let (steps, baseline) = solver::baseline(&problem);
    check_steps(&problem, &steps, baseline.peak).unwrap();
    for name in solver::names() {
        let plan = solver::plan(&problem, baseline.peak, name, &Options::default()).unwrap();
        verify(&problem, &plan);
        assert_eq!((plan.predicted.overhead, plan.predicted.status), (0.0, Status::Optimal));
    }
}

#[test]
fn infeasible_explains_itself() {
    let problem = load("resnet-8x32-b8");
    let below = Bytes(problem.trivial_bound().get() - 1);
    match solver::by_name("auto").unwrap().solve(&problem, below, &Options::default()).unwrap() {
        Outcome::Infeasible { minimum_feasible, blockers, why } => {
            assert!(!blockers.is_empty());
            println!("{why}");
            let minimum = minimum_feasible.expect("some budget suffices");
            verify(&problem, &solver::plan(&problem, minimum, "auto", &Options::default()).unwrap());
        }
        other => panic!("{other:?}"),
    }
    // Just above nothing is proved; what is found suffices.
    match solver::plan(&problem, problem.trivial_bound(), "auto", &quick(300)) {
        Ok(plan) => verify(&problem, &plan),
        Err(Error::Infeasible { minimum, blockers, why, .. }) => {
            let minimum = minimum.expect("some budget suffices");
            println!("{why}; {minimum}");
            assert!(!blockers.is_empty() && minimum > problem.trivial_bound());
            verify(&problem, &solver::plan(&problem, minimum, "auto", &quick(300)).unwrap());
        }
        Err(other) => panic!("{other}"),
    }
    let (_, baseline) = solver::baseline(&problem);
    match solver::plan(&problem, Bytes(baseline.peak.get() - 1), "keep-all", &Options::default()) {
        Err(Error::Infeasible { minimum, .. }) => assert_eq!(minimum, Some(baseline.peak)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn same_seed_same_plan() {
    let problem = load("resnet-8x32-b8");
    let budget = Bytes(keep_all_peak(&problem) * 2 / 5);
    let plan = || solver::plan(&problem, budget, "auto", &quick(500)).unwrap().to_json();
    assert_eq!(plan(), plan());
}

#[test]
fn names_are_known() {
    match solver::by_name("magic").err() {
        Some(Error::UnknownSolver { known, .. }) => assert!(known.contains("auto") && known.contains("evict")),
        other => panic!("{other:?}"),
    }
}

#[cfg(feature = "fuzzing")]
mod random {
    use std::collections::{BTreeMap, BTreeSet};

    use plimsoll::fuzz::{Shape, problem};
    use plimsoll::graph::Replay;

    use super::*;

    /// The least time of any order within every budget, by trying all states: which values live
    /// and which ops ran. Lowered in place or not, whatever is better, step by step.
    fn brute_force(problem: &Problem, longest: usize) -> BTreeMap<u64, u64> {
        let ops: Vec<OpId> = problem.graph.ops().keys().collect();
        let mut best: BTreeMap<u64, u64> = BTreeMap::new();
        let mut order: Vec<OpId> = Vec::new();
        extend(problem, &ops, &mut order, longest, &mut best);
        best
    }

    fn extend(problem: &Problem, ops: &[OpId], order: &mut Vec<OpId>, longest: usize, best: &mut BTreeMap<u64, u64>) {
        for inplace in [true, false] {
            let steps = lower(&problem.graph, order, Lowering { inplace });
            if let Ok(timeline) = simulate(problem, &steps)
                && check_steps(problem, &steps, timeline.peak).is_ok()
            {
                let time = best.entry(timeline.peak.get()).or_insert(u64::MAX);
                *time = (*time).min(timeline.time.get());
            }
        }
        if order.len() == longest {
            return;
        }
        for &op in ops {
            let it = &problem.graph.ops()[op];
            let ran: BTreeSet<OpId> = order.iter().copied().collect();
            let ready = it.inputs.iter().all(|&v| problem.graph.values()[v].producer.is_none_or(|p| ran.contains(&p)));
            if ready && order.last() != Some(&op) && !(it.replay == Replay::Once && ran.contains(&op)) {
                order.push(op);
                extend(problem, ops, order, longest, best);
                order.pop();
            }
        }
    }

    #[test]
    fn brute_force_is_never_beaten() {
        let (mut optimal, mut cases) = (0, 0);
        for seed in 0..60u64 {
            let ops = 3 + (seed % 3) as usize;
            let problem = problem(seed, Shape::all(ops));
            let best = brute_force(&problem, ops + 2);
            let budgets: Vec<u64> = best.keys().copied().collect();
            for &budget in &budgets {
                let least = best.range(..=budget).map(|(_, &time)| time).min().unwrap();
                let base = solver::baseline(&problem).1.time.get() as f64;
                let bound = solver::lower_bound(&problem, Bytes(budget));
                let overhead = if base > 0.0 { (least as f64 - base) / base } else { 0.0 };
                assert!(bound <= overhead + 1e-12, "seed {seed}, budget {budget}: bound {bound} over {overhead}");
                cases += 1;
                match solver::plan(&problem, Bytes(budget), "auto", &quick(200)) {
                    Ok(plan) => {
                        verify(&problem, &plan);
                        let time = plan.predicted.time.get();
                        // Longer orders than were tried are repetitions that cost time or nothing.
                        let longer = plan.steps.iter().filter(|s| matches!(s, plimsoll::plan::Step::Compute { .. }));
                        assert!(time >= least || longer.count() > ops + 2, "seed {seed}, budget {budget}");
                        assert!(plan.predicted.status != Status::Optimal || time <= least, "seed {seed} {budget}");
                        optimal += usize::from(time <= least);
                    }
                    Err(Error::Infeasible { minimum, .. }) => assert!(minimum.is_some(), "seed {seed}, {budget}"),
                    Err(other) => panic!("{other}"),
                }
            }
        }
        println!("optimal in {optimal} of {cases}");
        assert!(optimal * 10 >= cases * 7, "{optimal} of {cases}");
    }

    #[test]
    fn offloading_plans_of_random_graphs_are_legal() {
        let mut copies = 0;
        for seed in 0..150u64 {
            let shape = Shape { once: seed % 2 == 0, ..Shape::all(5 + (seed % 60) as usize) };
            let mut problem = problem(seed, shape);
            let device = &mut problem.device;
            (device.d2h_bytes_per_s, device.h2d_bytes_per_s) = (1 + seed * 20_000_000, 300_000_000);
            device.host_memory = Bytes(seed % 7 * 10);
            let (low, high) = (problem.trivial_bound().get(), solver::baseline(&problem).1.peak.get());
            for k in 0..4 {
                let budget = Bytes(low + high.saturating_sub(low) * k / 4);
                let options = Options { inplace: seed % 5 > 0, ..quick(100) };
                if let Ok(plan) = solver::plan(&problem, budget, "auto", &options) {
                    verify(&problem, &plan);
                    copies += plan.steps.iter().filter(|s| matches!(s, plimsoll::plan::Step::Offload(_))).count();
                }
            }
        }
        assert!(copies > 50, "{copies} copies");
    }

    /// Whatever made a budget too small, the one that is named instead suffices.
    #[test]
    fn minimum_budgets_suffice() {
        for seed in 0..60u64 {
            let problem = problem(seed, Shape { once: seed % 2 == 0, ..Shape::all(5 + (seed * 5 % 300) as usize) });
            let bound = problem.trivial_bound();
            for name in ["auto", "evict", "keep-all"] {
                let options = Options { inplace: seed % 3 > 0, ..quick(300) };
                for budget in [Bytes(0), Bytes(bound.get().saturating_sub(1)), bound] {
                    let Err(error) = solver::plan(&problem, budget, name, &options) else { continue };
                    let Error::Infeasible { minimum: Some(minimum), .. } = error else { panic!("{seed} {error}") };
                    let again = solver::plan(&problem, minimum, name, &options);
                    verify(&problem, &again.unwrap_or_else(|error| panic!("seed {seed} {name} {minimum}: {error}")));
                }
            }
        }
    }

    #[test]
    fn plans_of_random_graphs_are_legal() {
        let mut planned = 0;
        for seed in 0..300u64 {
            let (inplace, once, joins) = (seed % 3 > 0, seed % 2 == 0, seed % 4 == 1);
            let shape = Shape { inplace, once, joins, ..Shape::all(5 + (seed % 60) as usize) };
            let problem = problem(seed, shape);
            let (low, high) = (problem.trivial_bound().get(), solver::baseline(&problem).1.peak.get());
            // Integer programs of this many graphs take long; they have tests of their own.
            let slow = ["checkmate", "checkmate-lp", "moccasin", "rockmate", "hierarchical"];
            for name in solver::names().into_iter().filter(|name| !slow.contains(name)) {
                let options = Options { inplace: seed % 5 > 0, seed, ..quick(100) };
                let budgets: Vec<Bytes> = (0..5).map(|k| Bytes(low + high.saturating_sub(low) * (4 - k) / 4)).collect();
                let mut last = 0;
                let points = match solver::sweep(&problem, &budgets, name, &options) {
                    Err(Error::Unsupported { .. }) => continue,
                    other => other.unwrap(),
                };
                for (budget, point) in budgets.iter().zip(points) {
                    assert_eq!(point.budget, *budget);
                    match point.outcome {
                        Outcome::Optimal(plan) | Outcome::Feasible { plan, .. } => {
                            verify(&problem, &plan);
                            assert!(plan.predicted.time.get() >= last, "seed {seed} {name}: slower with more");
                            last = plan.predicted.time.get();
                            planned += 1;
                        }
                        Outcome::Infeasible { minimum_feasible, .. } | Outcome::Unknown { minimum_feasible, .. } => {
                            last = u64::MAX;
                            assert!(minimum_feasible.is_none_or(|minimum| minimum > *budget));
                        }
                        other => panic!("seed {seed}: {other:?}"),
                    }
                }
            }
        }
        println!("{planned} plans");
    }

    #[test]
    fn the_generator_covers_what_it_should() {
        let (mut views, mut pairs, mut multi, mut once, mut dead) = (0, 0, 0, 0, 0);
        for seed in 0..100 {
            let problem = problem(seed, Shape::all(30));
            let graph = &problem.graph;
            views += graph.values().values().filter(|v| v.alias_of.is_some()).count();
            pairs += graph.ops().values().filter(|op| !op.inplace.is_empty()).count();
            multi += graph.ops().values().filter(|op| op.outputs.len() > 1).count();
            once += graph.ops().values().filter(|op| op.replay == Replay::Once).count();
            dead += graph.values().keys().filter(|&v| graph.uses(v).is_empty() && !graph.values()[v].output).count();
        }
        assert!(views > 100 && pairs > 100 && multi > 100 && once > 30 && dead > 10);
    }
}

#[test]
#[ignore = "prints a table; slow"]
fn table() {
    for (name, _) in FLOORS {
        let problem = load(name);
        let peak = keep_all_peak(&problem) as f64;
        let mut budgets: Vec<(String, Bytes)> =
            [0.8, 0.6, 0.5, 0.4, 0.3].iter().map(|f| (f.to_string(), Bytes((peak * f) as u64))).collect();
        budgets.extend([0.25, 0.12].iter().map(|&r| (format!("room {r}"), room(&problem, r))));
        for (label, budget) in budgets {
            for solver in ["auto", "evict", "chain"] {
                let started = std::time::Instant::now();
                let options = Options {
                    node_limit: std::env::var("PLIMSOLL_NODES").ok().and_then(|n| n.parse().ok()),
                    inplace: std::env::var("PLIMSOLL_NO_INPLACE").is_err(),
                    time_limit: Duration::from_secs(60),
                    ..Options::default()
                };
                match solver::plan(&problem, budget, solver, &options) {
                    Ok(plan) => {
                        verify(&problem, &plan);
                        let p = &plan.predicted;
                        println!(
                            "{name} {label} {solver}: {:.3} % (bound {:.3} %) {:.2?}",
                            p.overhead * 100.0,
                            p.lower_bound * 100.0,
                            started.elapsed()
                        );
                    }
                    Err(error) => println!("{name} {label} {solver}: {error} {:.2?}", started.elapsed()),
                }
            }
        }
    }
}

#[cfg(feature = "fuzzing")]
#[test]
#[ignore = "prints times; slow"]
fn large_graphs() {
    for ops in [3_000, 20_000] {
        let problem =
            plimsoll::fuzz::problem(7, plimsoll::fuzz::Shape { once: false, ..plimsoll::fuzz::Shape::all(ops) });
        let (low, high) = (problem.trivial_bound().get(), solver::baseline(&problem).1.peak.get());
        for percent in [70, 40, 10] {
            let budget = Bytes(low + (high - low) * percent / 100);
            let started = std::time::Instant::now();
            let result = solver::plan(&problem, budget, "auto", &Options::default());
            let took = started.elapsed();
            match result {
                Ok(plan) => {
                    verify(&problem, &plan);
                    let p = &plan.predicted;
                    println!(
                        "{ops} ops, room {percent} %: {:.2} % (bound {:.2} %) {took:.2?}",
                        p.overhead * 100.0,
                        p.lower_bound * 100.0
                    );
                }
                Err(error) => println!("{ops} ops, room {percent} %: {error} {took:.2?}"),
            }
        }
    }
}
