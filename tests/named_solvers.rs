//! The field's named solvers: against brute force, against each other, on real graphs.

use std::time::{Duration, Instant};

use plimsoll::check::check;
use plimsoll::cost::Problem;
use plimsoll::entity::OpId;
use plimsoll::plan::{Lowering, Plan, lower, simulate};
use plimsoll::solver::{self, Options};
use plimsoll::{Bytes, Error};

const FILES: [&str; 3] = ["gpt-4x256-b8", "resnet-8x32-b8", "unet-3x16-b4"];

fn load(name: &str) -> Problem {
    Problem::load(format!("{}/tests/data/{name}.problem.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The peak with everything kept and no in-place reuse, of which budgets are fractions.
fn keep_all_peak(problem: &Problem) -> u64 {
    let order: Vec<OpId> = problem.graph.ops().keys().collect();
    simulate(problem, &lower(&problem.graph, &order, Lowering { inplace: false })).unwrap().peak.get()
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
}

/// Those that take small graphs only.
const EXACT: [&str; 3] = ["checkmate", "checkmate-lp", "moccasin"];
/// Those that take chains only.
#[cfg(feature = "fuzzing")]
const CHAINS: [&str; 3] = ["rotor", "rockmate", "pofo"];

fn named() -> Vec<&'static str> {
    solver::names().into_iter().filter(|n| !["auto", "evict", "chain", "keep-all"].contains(n)).collect()
}

fn quick(nodes: u64) -> Options {
    Options { time_limit: Duration::from_secs(600), node_limit: Some(nodes), ..Options::default() }
}

/// `auto` is at least as good as each named method, within one percent of the step's time.
#[test]
fn auto_is_no_worse_on_real_graphs() {
    for name in FILES {
        let problem = load(name);
        let peak = keep_all_peak(&problem) as f64;
        for fraction in [0.7, 0.5, 0.4] {
            let budget = Bytes((peak * fraction) as u64);
            let auto = solver::plan(&problem, budget, "auto", &quick(3000)).unwrap();
            verify(&problem, &auto);
            let mut planned = 0;
            for solver in named() {
                // Its family is the same for all budgets, and takes seconds to make.
                if solver == "hierarchical" && fraction != 0.5 {
                    continue;
                }
                match solver::plan(&problem, budget, solver, &quick(3000)) {
                    Ok(plan) => {
                        verify(&problem, &plan);
                        planned += 1;
                        let (ours, theirs) = (auto.predicted.overhead, plan.predicted.overhead);
                        assert!(ours <= theirs + 0.01, "{name} {fraction} {solver}: {ours} against {theirs}");
                    }
                    // What is told as the smallest budget is one: it gets a plan.
                    Err(Error::Infeasible { minimum, .. }) => {
                        let minimum = minimum.expect("there is a plan for some budget");
                        assert!(minimum > budget);
                        verify(&problem, &solver::plan(&problem, minimum, solver, &quick(3000)).unwrap());
                    }
                    Err(Error::Unsupported { solver: who, why }) => {
                        assert_eq!(who, solver);
                        assert!(EXACT.contains(&solver) && why.contains("ops that make storage"), "{solver}: {why}");
                    }
                    Err(other) => panic!("{name} {solver}: {other}"),
                }
            }
            assert!(planned >= 3 || name.starts_with("unet"), "{name} {fraction}: {planned}");
        }
    }
}

#[cfg(feature = "fuzzing")]
mod random {
    use plimsoll::fuzz::{Shape, problem, series_parallel};
    use plimsoll::graph::Phase;
    #[cfg(feature = "highs")]
    use plimsoll::plan::{Status, Step};

    use super::*;

    #[test]
    fn plans_are_legal_and_more_budget_is_no_slower() {
        let (mut planned, mut refused) = (0, 0);
        for seed in 0..120u64 {
            let shape = Shape { inplace: seed % 3 > 0, once: seed % 2 == 0, ..Shape::all(5 + (seed % 50) as usize) };
            let problem = problem(seed, shape);
            let (low, high) = (problem.trivial_bound().get(), solver::baseline(&problem).1.peak.get());
            for name in named().into_iter().filter(|n| !EXACT.contains(n)) {
                // Many small programs each.
                if ["rockmate", "hierarchical"].contains(&name) && seed % 30 > 0 {
                    continue;
                }
                let options = Options { inplace: seed % 5 > 0, ..quick(100) };
                let mut last = u64::MAX;
                for k in 0..5 {
                    let budget = Bytes(low + high.saturating_sub(low) * k / 4);
                    match solver::plan(&problem, budget, name, &options) {
                        Ok(plan) => {
                            verify(&problem, &plan);
                            // What fits in place may differ with the budget, the order does not.
                            assert!(plan.predicted.time.get() <= last, "seed {seed} {name}");
                            last = plan.predicted.time.get();
                            planned += 1;
                        }
                        Err(Error::Infeasible { minimum, .. }) => assert!(minimum.is_none_or(|m| m > budget)),
                        Err(Error::Unsupported { solver, .. }) => {
                            assert_eq!(solver, name);
                            refused += 1;
                        }
                        Err(other) => panic!("seed {seed}: {other}"),
                    }
                }
            }
        }
        println!("{planned} plans, {refused} refusals");
        assert!(planned > 800 && refused > 40);
    }

    /// Graphs where no tensor carries on alone.
    #[test]
    fn solvers_of_chains_refuse_other_graphs() {
        let mut refused = 0;
        for seed in 0..40 {
            let problem = problem(seed, Shape::all(30));
            let least = problem.trivial_bound();
            for name in CHAINS {
                match solver::plan(&problem, least, name, &quick(100)) {
                    Err(Error::Unsupported { solver, why }) => {
                        assert_eq!(solver, name);
                        assert!(!why.is_empty());
                        refused += 1;
                    }
                    Ok(plan) => verify(&problem, &plan),
                    Err(Error::Infeasible { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        }
        assert!(refused > 20, "{refused}");
    }

    /// Every solver on graphs that are no chains: a checked plan, an honest failure or a refusal.
    fn planned_or_refused(problem: &Problem, budget: Bytes) -> (Vec<&'static str>, Vec<&'static str>) {
        let (mut planned, mut refused) = (Vec::new(), Vec::new());
        for name in solver::names() {
            // Programs of large graphs have no limit on nodes that means little time.
            let options = Options { time_limit: Duration::from_secs(20), ..quick(10) };
            match solver::plan(problem, budget, name, &options) {
                Ok(plan) => {
                    verify(problem, &plan);
                    planned.push(name);
                }
                Err(Error::Unsupported { solver, why }) => {
                    assert!(solver == name && !why.is_empty());
                    refused.push(name);
                }
                Err(Error::Infeasible { minimum, .. }) => assert!(minimum.is_none_or(|m| m > budget), "{name}"),
                Err(other) => panic!("{} {name}: {other}", problem.name),
            }
        }
        println!("{}: planned by {planned:?}, refused by {refused:?}", problem.name);
        (planned, refused)
    }

    #[test]
    fn no_solver_assumes_a_chain() {
        let mut linked = series_parallel(8, 400, true);
        linked.device.host_memory = Bytes(10_000);
        (linked.device.d2h_bytes_per_s, linked.device.h2d_bytes_per_s) = (500_000_000, 500_000_000);
        let mut problems = vec![load("unet-3x16-b4"), load("seq2seq-2x128-b8"), linked];
        problems.push(series_parallel(1, 2000, true));
        problems.push(series_parallel(3, 2000, false));
        for problem in problems {
            let (low, high) = (problem.trivial_bound().get(), keep_all_peak(&problem));
            let (planned, refused) = planned_or_refused(&problem, Bytes(low.midpoint(high)));
            // A forward part alone leaves little to recompute.
            let backward = problem.graph.ops().values().any(|op| op.phase == Phase::Backward);
            assert!(!backward || planned.contains(&"auto"), "{planned:?}");
            assert!(EXACT.iter().all(|name| refused.contains(name)));
            // Branches run side by side nearly everywhere: no chain, or one for all that need one.
            if problem.name.starts_with("series-parallel") {
                let chains = CHAINS.iter().filter(|name| refused.contains(name)).count();
                assert!(chains == CHAINS.len() || chains == 0, "{refused:?}");
            }
        }
    }

    #[test]
    fn the_generator_makes_series_parallel_steps() {
        let (mut sums, mut joins) = (0, 0);
        for seed in 0..40 {
            let step = series_parallel(seed, 300, true);
            let count = |kind: &str| step.graph.ops().values().filter(|op| op.kind == kind).count();
            assert!((200..400).contains(&step.graph.ops().len()), "{}", step.graph.ops().len());
            sums += count("Sum");
            joins += step.graph.ops().values().filter(|op| op.kind.starts_with("Op") && op.inputs.len() > 1).count();
            // As many splits as joins: each branch of a join is a gradient to add up.
            assert_eq!(series_parallel(seed, 300, false).graph.ops().len(), 300);
        }
        assert!(sums > 400 && joins > 400, "{sums} {joins}");
    }

    /// The best of Checkmate's class for each peak, by trying all: phase t ends with op t (the
    /// last with nothing) and runs any of the ops before it, each once, in order. Not in place.
    #[cfg(feature = "highs")]
    fn best_of_class(problem: &Problem) -> Vec<(u64, u64)> {
        let ops: Vec<OpId> = problem.graph.ops().keys().collect();
        let free = ops.len() * (ops.len() + 1) / 2;
        let mut best = Vec::new();
        for mut bits in 0u32..1 << free {
            let mut order = Vec::new();
            for t in 0..=ops.len() {
                for &op in &ops[..t] {
                    if bits & 1 == 1 {
                        order.push(op);
                    }
                    bits >>= 1;
                }
                order.extend(ops.get(t));
            }
            if let Ok(timeline) = simulate(problem, &lower(&problem.graph, &order, Lowering { inplace: false })) {
                best.push((timeline.peak.get(), timeline.time.get()));
            }
        }
        best
    }

    /// Whether a plan's runs are of the class.
    #[cfg(feature = "highs")]
    fn in_class(problem: &Problem, plan: &Plan) -> bool {
        let mut first = problem.graph.ops().keys();
        let mut next = first.next();
        let mut last = None;
        plan.steps.iter().all(|step| match step {
            Step::Compute { op, .. } if Some(*op) == next => {
                (next, last) = (first.next(), None);
                true
            }
            Step::Compute { op, .. } => {
                let fine = last < Some(*op) && next.is_none_or(|next| *op < next);
                last = Some(*op);
                fine
            }
            _ => true,
        })
    }

    #[cfg(feature = "highs")]
    #[test]
    fn checkmate_is_the_best_of_its_class() {
        let (mut cases, mut exact, mut recomputing) = (0, 0, 0);
        for seed in 0..60u64 {
            let shape = Shape { views: false, once: false, inplace: false, ..Shape::all(3 + (seed % 3) as usize) };
            let problem = problem(seed, shape);
            // Dead code is in the class as it was written down here, but never runs.
            let dead = problem.graph.ops().values().any(|op| {
                op.outputs.iter().all(|&v| problem.graph.uses(v).is_empty() && !problem.graph.values()[v].output)
            });
            if dead {
                continue;
            }
            let all = best_of_class(&problem);
            let mut budgets: Vec<u64> = all.iter().map(|a| a.0).collect();
            budgets.sort_unstable();
            budgets.dedup();
            budgets.insert(0, budgets[0] - 1);
            let once = solver::baseline(&problem).1.time.get();
            for &budget in budgets.iter().take(6) {
                let least = all.iter().filter(|a| a.0 <= budget).map(|a| a.1).min();
                let options = Options { inplace: false, ..Options::default() };
                let found = solver::plan(&problem, Bytes(budget), "checkmate", &options);
                let lp = solver::plan(&problem, Bytes(budget), "checkmate-lp", &options);
                let few = solver::plan(&problem, Bytes(budget), "moccasin", &options);
                lp.iter().for_each(|plan| verify(&problem, plan));
                match (found, least) {
                    (Ok(plan), Some(least)) => {
                        verify(&problem, &plan);
                        let time = plan.predicted.time.get();
                        assert_eq!(plan.predicted.status, Status::Optimal);
                        assert!(time <= least, "seed {seed} budget {budget}: {time} over {least}");
                        assert!(
                            time == least || !in_class(&problem, &plan),
                            "seed {seed} budget {budget}: {time} {least}"
                        );
                        exact += usize::from(time == least);
                        recomputing += usize::from(time > once);
                        if let Ok(few) = few {
                            verify(&problem, &few);
                            assert!(few.predicted.time.get() >= time || !in_class(&problem, &few));
                        }
                    }
                    (Err(Error::Infeasible { .. }), None) => assert!(few.is_err()),
                    (found, least) => panic!("seed {seed} budget {budget}: {found:?} against {least:?}"),
                }
                cases += 1;
            }
        }
        println!("{exact} of {cases}, {recomputing} recomputing");
        assert!(cases > 200 && exact > 100 && recomputing > 12);
    }

    /// With views, in-place reuse and effects the exact programs stay legal, and no worse than
    /// what is rounded from them but for what is outside their class.
    #[cfg(feature = "highs")]
    #[test]
    fn exact_plans_of_any_graph_are_legal() {
        let (mut planned, mut proved) = (0, 0);
        for seed in 0..40u64 {
            let problem = problem(seed, Shape::all(8 + (seed % 8) as usize));
            let (low, high) = (problem.trivial_bound().get(), solver::baseline(&problem).1.peak.get());
            for part in [0, 1, 2] {
                let budget = Bytes(low + high.saturating_sub(low) * part / 3);
                let options = Options { inplace: seed % 2 == 0, ..Options::default() };
                for name in EXACT {
                    match solver::plan(&problem, budget, name, &options) {
                        Ok(plan) => {
                            verify(&problem, &plan);
                            planned += 1;
                            proved += usize::from(plan.predicted.status == Status::Optimal);
                        }
                        Err(Error::Infeasible { minimum, .. }) => assert!(minimum.is_none_or(|m| m > budget)),
                        Err(other) => panic!("seed {seed}: {other}"),
                    }
                }
            }
        }
        println!("{planned} plans, {proved} proved");
        assert!(planned > 150 && proved > 100);
    }

    #[cfg(feature = "highs")]
    #[test]
    fn proves_an_optimum_of_thirty_ops() {
        let problem = problem(1, Shape { once: false, inplace: false, ..Shape::all(30) });
        let (low, high) = (problem.trivial_bound().get(), solver::baseline(&problem).1.peak.get());
        let options = Options { time_limit: Duration::from_secs(600), ..Options::default() };
        let plan = solver::plan(&problem, Bytes(low + (high - low) * 7 / 10), "checkmate", &options).unwrap();
        verify(&problem, &plan);
        assert_eq!(plan.predicted.status, Status::Optimal);
    }
}

#[cfg(feature = "highs")]
#[test]
fn exact_programs_refuse_large_graphs() {
    let problem = load("gpt-4x256-b8");
    for name in EXACT {
        match solver::plan(&problem, Bytes(keep_all_peak(&problem) / 2), name, &quick(10)) {
            Err(Error::Unsupported { solver, .. }) => assert_eq!(solver, name),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
#[ignore = "prints a table; slow"]
fn table() {
    let only = std::env::var("PLIMSOLL_SOLVERS").unwrap_or_default();
    for name in FILES {
        let problem = load(name);
        let peak = keep_all_peak(&problem) as f64;
        for solver in named() {
            if !only.is_empty() && !only.split(',').any(|s| s == solver) {
                continue;
            }
            for fraction in [0.8, 0.7, 0.5, 0.4] {
                let started = Instant::now();
                let options = Options { time_limit: Duration::from_secs(60), ..Options::default() };
                match solver::plan(&problem, Bytes((peak * fraction) as u64), solver, &options) {
                    Ok(plan) => {
                        verify(&problem, &plan);
                        println!(
                            "{name} {solver} {fraction}: {:.2} % {:.2?}",
                            plan.predicted.overhead * 100.0,
                            started.elapsed()
                        );
                    }
                    Err(Error::Infeasible { minimum, .. }) => {
                        let part = minimum.map(|m| m.get() as f64 / peak);
                        println!("{name} {solver} {fraction}: needs {part:.3?} {:.2?}", started.elapsed());
                    }
                    Err(error) => println!("{name} {solver} {fraction}: {error}"),
                }
            }
        }
    }
}

/// Seconds to prove an optimum on problems of about 40 ops.
#[cfg(all(feature = "highs", feature = "fuzzing"))]
#[test]
#[ignore = "prints times; slow"]
fn times_of_exact_solvers() {
    use plimsoll::fuzz::{Shape, problem};
    for seed in 0..6 {
        let problem = problem(seed, Shape { once: false, inplace: false, ..Shape::all(40) });
        let (low, high) = (problem.trivial_bound().get(), solver::baseline(&problem).1.peak.get());
        for part in [0.7, 0.4, 0.2] {
            for name in ["checkmate", "moccasin", "checkmate-lp", "auto"] {
                let started = Instant::now();
                let budget = Bytes(low + ((high - low) as f64 * part) as u64);
                let options = Options { time_limit: Duration::from_secs(60), ..Options::default() };
                let found = solver::plan(&problem, budget, name, &options);
                let told = found.map(|p| (p.predicted.time.get(), p.predicted.status)).map_err(|e| e.to_string());
                println!("{seed} {part} {name}: {told:?} {:.2?}", started.elapsed());
            }
        }
    }
}
