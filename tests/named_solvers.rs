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

fn named() -> Vec<&'static str> {
    solver::names().into_iter().filter(|n| !["auto", "evict", "chain", "keep-all"].contains(n)).collect()
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
