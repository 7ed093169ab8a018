//! How good `auto`'s plans are: against bounds, against exact solutions, and what each move is worth.

use std::time::Duration;

use plimsoll::Bytes;
use plimsoll::check::check;
use plimsoll::cost::Problem;
use plimsoll::entity::OpId;
use plimsoll::plan::{Lowering, Plan, lower, simulate};
use plimsoll::solver::{self, Options};

fn load(name: &str) -> Problem {
    Problem::load(format!("{}/tests/data/{name}.problem.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The peak with everything kept and no in-place reuse, of which budgets are fractions.
fn keep_all_peak(problem: &Problem) -> u64 {
    let order: Vec<OpId> = problem.graph.ops().keys().collect();
    simulate(problem, &lower(&problem.graph, &order, Lowering { inplace: false })).unwrap().peak.get()
}

/// What room is counted from: the larger of what is live at the end and what the inputs and outputs of any one op take beside
/// each other; without in-place reuse, as the peak that it is counted to.
fn floor(problem: &Problem) -> u64 {
    let graph = &problem.graph;
    let alone = |op| graph.footprint(op) + problem.costs.workspace[op];
    graph.ops().keys().map(alone).max().unwrap_or_default().max(graph.final_bytes()).get()
}

/// Limits for tests: the same result however slow the machine.
fn quick(nodes: u64) -> Options {
    Options { time_limit: Duration::from_secs(600), node_limit: Some(nodes), ..Options::default() }
}

fn verify(problem: &Problem, plan: &Plan) {
    let checked = check(problem, plan).unwrap();
    assert_eq!(plan.predicted.peak, checked.peak);
    assert!(plan.predicted.peak <= plan.budget);
    assert!(plan.predicted.lower_bound <= plan.predicted.overhead, "{:?}", plan.predicted);
}

/// What is computed again for longest, and where the peak is nearly reached.
fn show(problem: &Problem, plan: &Plan) {
    let timeline = simulate(problem, &plan.steps).unwrap();
    let mut ran = vec![0u32; problem.graph.ops().len()];
    let mut again: Vec<(u64, usize, String)> = Vec::new();
    for (at, step) in plan.steps.iter().enumerate() {
        if let plimsoll::plan::Step::Compute { op, .. } = step {
            let index = plimsoll::entity::Entity::index(*op);
            if ran[index] > 0 {
                again.push((problem.costs.time[*op].get(), at, problem.graph.describe_op(*op)));
            }
            ran[index] += 1;
        }
    }
    again.sort_by_key(|&(time, at, _)| (std::cmp::Reverse(time), at));
    let base = plan.predicted.baseline_time.get() as f64 / 100.0;
    for (time, at, name) in again.iter().take(30) {
        println!("    {:7.4} % at {at:5} {name}", *time as f64 / base);
    }
    println!("    {} runs again", again.len());
    let mut tight: Vec<(u64, usize)> = Vec::new();
    for (at, live) in timeline.live.iter().enumerate() {
        let slack = plan.budget.get() - live.get();
        if slack * 50 < plan.budget.get() {
            tight.push((slack, at));
        }
    }
    for (slack, at) in tight.iter().step_by(tight.len().div_ceil(40)) {
        println!("    slack {slack:9} at {at:5} {:?}", plan.steps[*at]);
    }
}

/// `PLIMSOLL_PROBLEMS`: problem files, separated by colons; those in `tests/data` otherwise.
/// `PLIMSOLL_WITHOUT`: moves to switch off, separated by commas. `PLIMSOLL_PROGRESS`: tell how each solve goes on.
#[test]
#[ignore = "prints a table; slow"]
fn table() {
    let problems: Vec<Problem> = match std::env::var("PLIMSOLL_PROBLEMS") {
        Ok(files) => files.split(':').map(|file| Problem::load(file).unwrap()).collect(),
        Err(_) => ["gpt-4x256-b8", "resnet-8x32-b8", "unet-3x16-b4"].map(load).into(),
    };
    let fractions = std::env::var("PLIMSOLL_FRACTIONS").unwrap_or("0.8,0.6,0.5,0.4".into());
    let (mut sum, mut worst, mut count) = (0.0, 0.0f64, 0);
    for problem in &problems {
        let peak = keep_all_peak(problem);
        let resident = problem.graph.resident_bytes().get();
        for label in fractions.split(',') {
            // "a0.5": of the activations; "r0.12": room; "t0.12": the same above what no plan can go below, in place or not.
            let (of, low) = match label.as_bytes()[0] {
                b'a' => (&label[1..], resident),
                b'r' => (&label[1..], floor(problem)),
                b't' => (&label[1..], problem.trivial_bound().get()),
                _ => (label, 0),
            };
            let part: f64 = of.parse().unwrap();
            let budget = Bytes(low + ((peak - low) as f64 * part) as u64);
            let on_progress: Option<solver::OnProgress> = std::env::var("PLIMSOLL_PROGRESS").is_ok().then(|| {
                let tell: solver::OnProgress = std::sync::Arc::new(|p| println!("  {:6.2?} {p}", p.elapsed));
                tell
            });
            let options = Options {
                on_progress,
                node_limit: std::env::var("PLIMSOLL_NODES").ok().and_then(|n| n.parse().ok()),
                inplace: std::env::var("PLIMSOLL_NO_INPLACE").is_err(),
                time_limit: Duration::from_secs_f64(
                    std::env::var("PLIMSOLL_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10.0),
                ),
                moves: match std::env::var("PLIMSOLL_WITHOUT") {
                    Ok(name) => solver::Move::ALL
                        .into_iter()
                        .filter(|it| name.split(',').any(|name| format!("{it:?}") == name))
                        .fold(solver::Moves::all(), solver::Moves::without),
                    Err(_) => solver::Moves::all(),
                },
                ..Options::default()
            };
            let started = std::time::Instant::now();
            match solver::plan(problem, budget, "auto", &options) {
                Ok(plan) => {
                    let took = started.elapsed();
                    verify(problem, &plan);
                    let p = &plan.predicted;
                    let (over, bound) = (p.overhead * 100.0, solver::lower_bound(problem, budget).max(0.0) * 100.0);
                    let excess = if over - bound <= 0.2 { 0.0 } else { 100.0 * (over / bound.max(1e-9) - 1.0) };
                    sum += excess;
                    worst = worst.max(excess);
                    count += 1;
                    if std::env::var("PLIMSOLL_SHOW").is_ok() {
                        show(problem, &plan);
                    }
                    println!(
                        "{:<24} {label:>5} {over:8.3} bound {bound:8.3} plan's {:8.3} excess {excess:6.1} % {took:.1?}",
                        problem.name,
                        p.lower_bound * 100.0,
                    );
                }
                Err(error) => {
                    let bound = solver::lower_bound(problem, budget) * 100.0;
                    println!("{} {label}: {error} {:.1?} bound {bound:.3}", problem.name, started.elapsed());
                }
            }
        }
    }
    println!("{count} plans: excess {:.1} % on average, {worst:.1} % at worst", sum / f64::from(count));
}

#[cfg(feature = "fuzzing")]
mod random {
    use std::collections::BTreeMap;

    use plimsoll::Error;
    use plimsoll::entity::Entity;
    use plimsoll::fuzz::{Shape, problem, series_parallel};
    use plimsoll::plan::{Status, Step};
    use plimsoll::solver::{Move, Moves, Outcome};

    use super::*;

    /// The least time within a budget of a graph without views, in-place pairs and side effects:
    /// over all sets of live values (bits), by relaxing until nothing changes. `None`: none fits.
    fn least_time(problem: &Problem, budget: u64) -> Option<u64> {
        let graph = &problem.graph;
        let bit = |v: plimsoll::entity::ValueId| 1u64 << v.index();
        let residents: u64 = graph.values().iter().filter(|(_, v)| v.resident).map(|(id, _)| bit(id)).sum();
        let bytes = |set: u64| -> u64 {
            graph.values().iter().filter(|&(id, _)| set & bit(id) != 0).map(|(_, v)| v.bytes.get()).sum()
        };
        let mut times: BTreeMap<u64, u64> = BTreeMap::from([(residents, 0)]);
        let mut todo = vec![residents];
        while let Some(set) = todo.pop() {
            let time = times[&set];
            let mut reach = |next: u64, time: u64| {
                let known = times.entry(next).or_insert(u64::MAX);
                if time < *known {
                    *known = time;
                    todo.push(next);
                }
            };
            for (id, _) in graph.values().iter().filter(|&(id, v)| set & bit(id) != 0 && !v.resident) {
                reach(set & !bit(id), time);
            }
            for (id, op) in graph.ops().iter() {
                let (inputs, outputs) = (&op.inputs, &op.outputs);
                let ready = inputs.iter().all(|&v| set & bit(v) != 0) && outputs.iter().all(|&v| set & bit(v) == 0);
                let next = outputs.iter().fold(set, |set, &v| set | bit(v));
                if ready && bytes(next) + problem.costs.workspace[id].get() <= budget {
                    reach(next, time + problem.costs.time[id].get());
                }
            }
        }
        let outputs: u64 = graph.outputs().iter().map(|&v| bit(v)).fold(0, |set, bit| set | bit);
        times.iter().filter(|&(set, _)| set & outputs == outputs).map(|(_, &time)| time).min()
    }

    fn plain(ops: usize) -> Shape {
        Shape { views: false, inplace: false, once: false, ..Shape::all(ops) }
    }

    /// Budgets from below what is feasible to where everything fits.
    fn budgets(problem: &Problem, count: u64) -> Vec<Bytes> {
        let (low, high) = (problem.trivial_bound().get(), solver::baseline(problem).1.peak.get());
        (0..count).map(|k| Bytes(low.saturating_sub(1) + (high + 1 - low) * k / (count - 1))).collect()
    }

    /// `auto` against an exhaustive search, on graphs small enough for one.
    #[test]
    fn auto_is_exact_on_small_problems() {
        let (mut feasible, mut infeasible, mut recomputing) = (0, 0, 0);
        for seed in 0..400u64 {
            let problem = problem(seed, plain(2 + (seed % 6) as usize));
            for budget in budgets(&problem, 6) {
                let least = least_time(&problem, budget.get());
                match solver::by_name("auto").unwrap().solve(&problem, budget, &quick(10_000)).unwrap() {
                    Outcome::Optimal(plan) => {
                        verify(&problem, &plan);
                        assert_eq!(Some(plan.predicted.time.get()), least, "seed {seed}, budget {budget}");
                        assert_eq!(plan.predicted.status, Status::Optimal);
                        feasible += 1;
                        let runs = plan.steps.iter().filter(|s| matches!(s, Step::Compute { .. })).count();
                        recomputing += usize::from(runs > problem.graph.ops().len());
                    }
                    Outcome::Infeasible { .. } => {
                        assert!(least.is_none(), "seed {seed}, budget {budget}: {least:?}");
                        infeasible += 1;
                    }
                    other => panic!("seed {seed}, budget {budget}: {other:?}"),
                }
            }
        }
        println!("{feasible} feasible, {recomputing} of them recompute; {infeasible} infeasible");
        assert!(feasible > 900 && infeasible > 900 && recomputing > 100);
    }

    /// Where an exact program proves its optimum, `auto` is as fast. (It may be faster: it knows more plans.)
    #[cfg(feature = "highs")]
    #[test]
    fn auto_is_as_good_as_exact_programs() {
        let mut proved = 0;
        for seed in 0..120u64 {
            let problem = problem(seed, Shape { once: seed % 3 == 0, ..Shape::all(6 + (seed % 8) as usize) });
            for budget in budgets(&problem, 5) {
                let exact = solver::by_name("checkmate").unwrap().solve(&problem, budget, &quick(2_000)).unwrap();
                let Outcome::Optimal(exact) = exact else { continue };
                let auto = solver::plan(&problem, budget, "auto", &quick(10_000)).unwrap();
                verify(&problem, &auto);
                let (auto, exact) = (auto.predicted.time, exact.predicted.time);
                assert!(auto <= exact, "seed {seed}, budget {budget}: {auto} against {exact}");
                proved += 1;
            }
        }
        println!("{proved} proved");
        assert!(proved > 200);
    }

    /// The rules that prune the exact search change nothing but its work.
    #[test]
    fn pruning_rules_of_the_exact_search_agree() {
        let mut compared = 0;
        for seed in 0..150u64 {
            let problem = problem(seed, Shape { once: seed % 2 == 0, ..Shape::all(3 + (seed % 4) as usize) });
            for budget in budgets(&problem, 4) {
                let sets = [Moves::all(), Moves::all().without(Move::Estimate), Moves::all().without(Move::LateDrops)];
                let times = sets.map(|moves| {
                    let options = Options { moves, ..quick(10_000) };
                    match solver::plan(&problem, budget, "auto", &options) {
                        Ok(plan) => {
                            verify(&problem, &plan);
                            Some(plan.predicted.time)
                        }
                        Err(Error::Infeasible { .. }) => None,
                        Err(other) => panic!("{other}"),
                    }
                });
                assert!(times.iter().all(|&time| time == times[0]), "seed {seed}, budget {budget}: {times:?}");
                compared += 1;
            }
        }
        assert!(compared > 500);
    }

    /// What a plan is worth: a larger rank is a worse plan.
    fn rank(problem: &Problem, budget: Bytes, options: &Options) -> (bool, u64, bool) {
        match solver::by_name("auto").unwrap().solve(problem, budget, options).unwrap() {
            Outcome::Optimal(plan) => (false, plan.predicted.time.get(), false),
            Outcome::Feasible { plan, .. } => (false, plan.predicted.time.get(), true),
            Outcome::Infeasible { .. } => (true, 0, false),
            Outcome::Unknown { .. } => (true, 0, true),
            other => panic!("{other:?}"),
        }
    }

    /// Where nothing else finds a plan, or says that there is none, going through all that can be live at once does. (Small graphs are
    /// searched exactly before it comes to that, unless that is switched off.)
    #[test]
    fn going_through_all_that_can_be_live_helps() {
        let moves = Moves::all().without(Move::Exact).without(Move::Regress);
        let (mut refuted, mut found) = (0, 0);
        for seed in 0..150u64 {
            let problem = problem(seed, Shape { once: false, ..Shape::all(6 + (seed % 8) as usize) });
            let (low, high) = (problem.trivial_bound().get(), solver::baseline(&problem).1.peak.get());
            let budget = Bytes(low + high.saturating_sub(low) * (seed % 4) / 10);
            let of = |moves| rank(&problem, budget, &Options { moves, search_minimum: false, ..quick(1_000) });
            let (with, without) = (of(moves), of(moves.without(Move::Reach)));
            assert!(with <= without, "seed {seed}, budget {budget}: {with:?} {without:?}");
            if without == (true, 0, true) {
                refuted += usize::from(with == (true, 0, false));
                found += usize::from(!with.0);
            }
        }
        println!("{refuted} refuted, {found} found");
        assert!(refuted > 5 && found > 0, "{refuted} refuted, {found} found");
    }

    /// Each move, and each rule that prunes, makes some plan better than it would be without.
    #[test]
    fn each_move_helps_somewhere() {
        let tight = |problem: &Problem, percent: u64| {
            let (low, high) = (problem.trivial_bound().get(), solver::baseline(problem).1.peak.get());
            Bytes(low + high.saturating_sub(low) * percent / 100)
        };
        let mut left = Move::ALL.to_vec();
        // It helps where the exact search does not come first: see the test before.
        left.retain(|&it| it != Move::Reach);
        if !cfg!(feature = "highs") {
            left.retain(|&it| it != Move::Windows);
        }
        let mut compare = |problem: &Problem, budget: Bytes, nodes: u64, moves: &[Move], case: u64| {
            // What is solved from its end needs no other move, and orders decided anew at peaks hide what others are worth.
            let mut all = Moves::all();
            if !moves.contains(&Move::Forced) {
                all = all.without(Move::Regress);
            }
            if !moves.contains(&Move::Recut) {
                all = all.without(Move::Recut);
            }
            let with = rank(problem, budget, &Options { moves: all, ..quick(nodes) });
            left.retain(|&it| {
                let without = || rank(problem, budget, &Options { moves: all.without(it), ..quick(nodes) });
                let helps = moves.contains(&it) && with < without();
                if helps {
                    println!("{it:?} helps in case {case}");
                }
                !helps
            });
            left.clone()
        };
        let exact = [Move::Exact, Move::Estimate, Move::LateDrops];
        for seed in 0..60u64 {
            let problem = problem(seed, Shape { once: false, ..Shape::all(6 + (seed % 14) as usize) });
            compare(&problem, tight(&problem, 20 + seed % 4 * 20), 5 + seed % 3 * 30, &exact, seed);
        }
        for seed in 0..60u64 {
            let problem = problem(seed, Shape { once: false, ..Shape::all(25 + (seed % 14) as usize) });
            let from_the_end = [Move::Regress, Move::Forced];
            compare(&problem, tight(&problem, 20 + seed % 4 * 20), 5 + seed % 3 * 30, &from_the_end, seed);
        }
        // Only large graphs evict several at a time.
        let large = problem(0, Shape { once: false, ..Shape::all(4000) });
        let mut rest = Vec::new();
        for (case, (percent, nodes)) in [(30, 250), (50, 100), (50, 20), (30, 60), (15, 250)].into_iter().enumerate() {
            rest = compare(&large, tight(&large, percent), nodes, &[Move::Batch], case as u64);
        }
        // Where next to nothing can be kept.
        for seed in [32u64].into_iter().chain(0..40) {
            if !rest.contains(&Move::Demand) {
                break;
            }
            let problem = series_parallel(seed, 60, true);
            rest = compare(&problem, tight(&problem, 4 + seed % 4 * 3), 1_000, &[Move::Demand], seed);
        }
        // Blocks after each other, as in what is trained, where little can be kept.
        for name in ["gpt-4x256-b8", "unet-3x16-b4"] {
            let problem = load(name);
            let (low, high) = (problem.trivial_bound().get(), keep_all_peak(&problem));
            for percent in 9..20 {
                if rest.contains(&Move::Chain) {
                    let budget = Bytes(low + (high - low) * percent / 100);
                    rest = compare(&problem, budget, 1_000, &[Move::Chain], percent);
                }
            }
        }
        // Where they are known to help first.
        for seed in [5u64, 8, 28, 33, 112, 133, 146].into_iter().chain(0..400) {
            if rest.is_empty() {
                break;
            }
            let problem = problem(seed, Shape { once: false, ..Shape::all(30 + (seed % 90) as usize) });
            let budget = tight(&problem, 15 + seed % 4 * 15);
            let nodes = 1_000 + seed % 3 * 2_000;
            if rest.contains(&Move::Recut) {
                rest = compare(&problem, budget, nodes, &[Move::Recut], seed);
            }
            let others = |&it: &Move| it != Move::Forced && it != Move::Recut;
            let moves: Vec<Move> = rest.iter().copied().filter(others).collect();
            rest = compare(&problem, budget, nodes, &moves, seed);
        }
        assert!(rest.is_empty(), "these help nowhere: {rest:?}");
    }
}
