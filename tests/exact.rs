//! Exact programs on problems of forty ops.
#![cfg(all(feature = "highs", feature = "fuzzing"))]

use std::time::Duration;

use plimsoll::check::check;
use plimsoll::cost::Problem;
use plimsoll::entity::OpId;
use plimsoll::fuzz::{Shape, problem, series_parallel};
use plimsoll::plan::{Lowering, Plan, Status, lower, simulate};
use plimsoll::solver::{self, Options};
use plimsoll::{Bytes, Error};

/// Problems of about so many ops: side by side and after one another, a forward and a backward part
/// of such, and what the general generator makes.
fn corpus(ops: usize) -> Vec<(String, Problem)> {
    let mut all = Vec::new();
    for seed in 0..4 {
        all.push((format!("series-parallel {seed}"), series_parallel(seed, ops, false)));
        all.push((format!("step {seed}"), series_parallel(seed, ops, true)));
        let shape = Shape { once: false, inplace: false, views: false, ..Shape::all(ops) };
        all.push((format!("mirrored {seed}"), problem(seed, shape)));
    }
    all
}

/// The peak in the graph's order, nothing taken over.
fn keep_all_peak(problem: &Problem) -> u64 {
    let order: Vec<OpId> = problem.graph.ops().keys().collect();
    simulate(problem, &lower(&problem.graph, &order, Lowering { inplace: false })).unwrap().peak.get()
}

fn verify(problem: &Problem, plan: &Plan) {
    check(problem, plan).unwrap();
    assert!(plan.predicted.lower_bound <= plan.predicted.overhead);
}

/// A few that take seconds.
#[test]
fn forty_ops_are_proved_optimal() {
    let all = corpus(40);
    let cells = [
        ("series-parallel 0", 0.7),
        ("step 0", 0.8),
        ("step 0", 0.7),
        ("step 1", 0.8),
        ("step 1", 0.7),
        ("step 1", 0.6),
        ("step 2", 0.8),
        ("step 2", 0.7),
        ("step 2", 0.6),
        ("step 3", 0.8),
        ("step 3", 0.6),
        ("mirrored 0", 0.8),
        ("mirrored 0", 0.7),
        ("mirrored 1", 0.7),
    ];
    for (name, part) in cells {
        let problem = &all.iter().find(|(known, _)| known == name).expect("it is in the corpus").1;
        let budget = Bytes((keep_all_peak(problem) as f64 * part) as u64);
        let options = Options { time_limit: Duration::from_secs(3600), inplace: false, ..Options::default() };
        let [plan, all] = ["checkmate", "auto"].map(|solver| {
            let plan = solver::plan(problem, budget, solver, &options).unwrap();
            verify(problem, &plan);
            assert_eq!(plan.predicted.status, Status::Optimal, "{name}, {solver}");
            plan
        });
        // The one is the fastest of a class, the other of all plans.
        assert!(all.predicted.time <= plan.predicted.time, "{name}");
        assert_eq!(all.predicted.lower_bound, all.predicted.overhead, "{name}");
    }
}

/// A plan that need not be fast is found exactly where there is a fastest one.
#[test]
fn what_fits_is_what_is_solved() {
    let (mut fits, mut none) = (0, 0);
    for seed in 0..15 {
        let problem = series_parallel(seed, 20, true);
        let peak = keep_all_peak(&problem);
        for budget in [6, 7, 8, 9].map(|tenths| Bytes(peak * tenths / 10)) {
            for name in ["checkmate", "moccasin"] {
                let solver = solver::by_name(name).unwrap();
                let time_limit = Duration::from_secs(3600);
                let options = Options { time_limit, inplace: false, search_minimum: false, ..Options::default() };
                let fastest = solver.solve(&problem, budget, &options).unwrap().into_plan(budget).ok();
                let any = solver.fit(&problem, budget, &options).unwrap().into_plan(budget).ok();
                assert_eq!(any.is_some(), fastest.is_some(), "seed {seed} budget {budget} {name}");
                any.iter().for_each(|plan| verify(&problem, plan));
                if let Some((any, fastest)) = any.zip(fastest) {
                    let told =
                        format!("seed {seed} budget {budget} {name}: {:?}, {:?}", any.predicted, fastest.predicted);
                    assert!(any.predicted.peak <= budget, "{told}");
                    assert!(fastest.predicted.time <= any.predicted.time, "{told}");
                    fits += 1;
                } else {
                    none += 1;
                }
            }
        }
    }
    assert!(fits > 20 && none > 20, "{fits} fit, {none} do not");
}

#[test]
#[ignore = "prints times; slow"]
fn table() {
    let only = std::env::var("PLIMSOLL_ONLY").unwrap_or_default();
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let (limit, ops) = (number("PLIMSOLL_LIMIT").unwrap_or(60), number("PLIMSOLL_OPS").unwrap_or(40));
    let solver = std::env::var("PLIMSOLL_SOLVER").unwrap_or("checkmate".into());
    let cpu = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        stat.split(' ').nth(13).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0) / 100.0
    };
    for (name, problem) in corpus(ops as usize).into_iter().filter(|(name, _)| name.contains(&only)) {
        let peak = keep_all_peak(&problem) as f64;
        for part in [0.8, 0.7, 0.6, 0.5] {
            let started = cpu();
            // The times are of the answer; what budget would suffice is another question.
            let time_limit = Duration::from_secs(limit);
            let options = Options { time_limit, inplace: false, search_minimum: false, ..Options::default() };
            let found = solver::plan(&problem, Bytes((peak * part) as u64), &solver, &options);
            let told = match found {
                Ok(plan) => {
                    verify(&problem, &plan);
                    format!("{:?} {:.2} %", plan.predicted.status, 100.0 * plan.predicted.overhead)
                }
                Err(Error::Infeasible { why, .. }) => why,
                Err(error) => error.to_string(),
            };
            println!("{name} ({} ops) {part}: {told} {:.1} s", problem.graph.ops().len(), cpu() - started);
        }
    }
}
