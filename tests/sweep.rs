//! Sweeps: monotone, legal, and no worse for being warm.

#![cfg(feature = "fuzzing")]

use std::sync::Arc;
use std::time::Duration;

use plimsoll::check::check;
use plimsoll::cost::Problem;
use plimsoll::fuzz::{Shape, problem};
use plimsoll::plan::{Plan, Status, simulate};
use plimsoll::solver::{self, Options, Outcome, Point};
use plimsoll::{Bytes, Error};

fn load(name: &str) -> Problem {
    Problem::load(format!("{}/tests/data/{name}.problem.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn quick(nodes: u64) -> Options {
    Options { time_limit: Duration::from_secs(600), node_limit: Some(nodes), ..Options::default() }
}

/// Budgets from a little below what any plan needs to what everything kept needs.
fn spread(problem: &Problem, points: u64) -> Vec<Bytes> {
    let (low, high) = (problem.trivial_bound().get(), solver::baseline(problem).1.peak.get());
    let low = low - low / 20;
    (0..points).map(|k| Bytes(low + high.saturating_sub(low) * k / (points - 1))).collect()
}

fn time(plan: &Plan) -> u64 {
    plan.predicted.time.get()
}

/// Everything a sweep promises; the number of plans.
fn verify(problem: &Problem, budgets: &[Bytes], points: &[Point]) -> usize {
    assert_eq!(points.iter().map(|point| point.budget).collect::<Vec<_>>(), budgets);
    let mut ascending: Vec<&Point> = points.iter().collect();
    ascending.sort_by_key(|point| point.budget);
    let (mut last, mut bound) = (u64::MAX, f64::INFINITY);
    for point in &ascending {
        match &point.outcome {
            Outcome::Optimal(plan) | Outcome::Feasible { plan, .. } => {
                check(problem, plan).unwrap();
                let told = &plan.predicted;
                let timeline = simulate(problem, &plan.steps).unwrap();
                assert_eq!((plan.budget, told.peak, told.time), (point.budget, timeline.peak, timeline.time));
                assert!(time(plan) <= last, "slower with more");
                assert!(told.lower_bound <= bound && told.lower_bound <= told.overhead, "{told:?}");
                (last, bound) = (time(plan), told.lower_bound);
                if let Outcome::Feasible { gap, lower_bound, .. } = &point.outcome {
                    assert_eq!((*gap, *lower_bound), (told.gap(), told.lower_bound));
                }
                assert_eq!(point.outcome.status(), told.status);
            }
            Outcome::Infeasible { minimum_feasible, .. } | Outcome::Unknown { minimum_feasible, .. } => {
                assert_eq!(last, u64::MAX, "a plan below a budget that has none");
                assert!(minimum_feasible.is_none_or(|least| least > point.budget));
            }
            other => panic!("{other:?}"),
        }
    }
    ascending.iter().filter(|point| point.outcome.plan().is_some()).count()
}

#[test]
fn random_problems_have_monotone_curves() {
    let (mut planned, mut missing) = (0, 0);
    for seed in 0..60u64 {
        let shape = Shape { inplace: seed % 3 > 0, once: seed % 2 == 0, ..Shape::all(4 + (seed % 40) as usize) };
        let problem = problem(seed, shape);
        // Out of order, and one of them twice.
        let mut budgets = spread(&problem, 9);
        budgets.swap(1, 7);
        budgets.push(budgets[2]);
        for name in ["auto", "evict", "sqrt", "boundary-knapsack", "keep-all"] {
            let options = Options { inplace: seed % 5 > 0, seed, ..quick(60) };
            let points = match solver::sweep(&problem, &budgets, name, &options) {
                Err(Error::Unsupported { .. }) => continue,
                other => other.unwrap(),
            };
            let plans = verify(&problem, &budgets, &points);
            planned += plans;
            missing += points.len() - plans;
        }
    }
    println!("{planned} plans, {missing} budgets without");
    assert!(planned > 800 && missing > 200);
}

/// Offloading plans are carried up as well.
#[test]
fn curves_with_links_are_monotone() {
    let mut copies = 0;
    for seed in 0..30u64 {
        let mut problem = problem(seed, Shape::all(10 + (seed % 30) as usize));
        let device = &mut problem.device;
        (device.d2h_bytes_per_s, device.h2d_bytes_per_s) = (1 + seed * 30_000_000, 400_000_000);
        device.host_memory = Bytes(seed % 7 * 12);
        let budgets = spread(&problem, 7);
        let points = solver::sweep(&problem, &budgets, "auto", &quick(60)).unwrap();
        verify(&problem, &budgets, &points);
        let steps = points.iter().filter_map(|point| point.outcome.plan()).flat_map(|plan| &plan.steps);
        copies += steps.filter(|step| matches!(step, plimsoll::plan::Step::Offload(_))).count();
    }
    assert!(copies > 20, "{copies} copies");
}

/// Warm or not, each budget gets a plan as good as a call for it alone gives, within a small part
/// of the step.
#[test]
fn a_sweep_is_as_good_as_single_calls() {
    let problem = load("resnet-8x32-b8");
    let peak = solver::baseline(&problem).1.peak.get();
    let budgets: Vec<Bytes> = (3..=9).map(|k| Bytes(peak * k / 10)).collect();
    let points = solver::sweep(&problem, &budgets, "auto", &quick(400)).unwrap();
    assert_eq!(verify(&problem, &budgets, &points), budgets.len());
    for point in &points {
        let alone = solver::plan(&problem, point.budget, "auto", &quick(400)).unwrap();
        let (ours, theirs) = (point.outcome.plan().unwrap().predicted.overhead, alone.predicted.overhead);
        println!("{}: {:.3} % in the sweep, {:.3} % alone", point.budget, ours * 100.0, theirs * 100.0);
        assert!(ours <= theirs + 0.002, "{}: {ours} against {theirs}", point.budget);
    }
}

#[test]
fn the_same_sweep_twice() {
    let problem = problem(5, Shape::all(40));
    let budgets = spread(&problem, 6);
    for name in ["auto", "boundary-knapsack"] {
        let plans = || -> Vec<Option<String>> {
            let points = solver::sweep(&problem, &budgets, name, &quick(80)).unwrap();
            points.iter().map(|point| point.outcome.plan().map(Plan::to_json)).collect()
        };
        assert_eq!(plans(), plans(), "{name}");
    }
}

#[test]
fn the_smallest_budget_begins_the_curve() {
    for seed in [2, 9, 14] {
        let problem = problem(seed, Shape::all(25));
        for name in ["auto", "keep-all", "sqrt"] {
            let least = match solver::minimum_budget(&problem, name, &quick(100)) {
                Err(Error::Unsupported { .. }) => continue,
                other => other.unwrap().expect("everything kept suffices"),
            };
            let points = solver::sweep(&problem, &[least], name, &quick(100)).unwrap();
            assert_eq!(verify(&problem, &[least], &points), 1, "seed {seed} {name}");
        }
    }
}

#[test]
fn refusals_are_errors() {
    let problem = load("tiny");
    let sweep = |name: &str| solver::sweep(&problem, &[Bytes(1), Bytes(20_000)], name, &quick(10));
    assert!(matches!(sweep("magic"), Err(Error::UnknownSolver { .. })));
    assert!(solver::sweep(&problem, &[], "auto", &quick(10)).unwrap().is_empty());
    let points = sweep("auto").unwrap();
    assert_eq!(points[0].outcome.status(), Status::Infeasible);
    assert!(points[0].outcome.minimum_feasible().is_some_and(|least| least <= Bytes(20_000)));
    assert_eq!(points[1].outcome.status(), Status::Optimal);
}

/// A start is a floor under what is found, and what is no plan of the graph does no harm.
#[test]
fn starts_are_never_lost() {
    let mut helped = 0;
    for seed in 0..40u64 {
        let problem = problem(seed, Shape::all(20 + (seed % 20) as usize));
        let other = stranger(seed + 1000);
        for budget in spread(&problem, 6) {
            // A solver of orders: `auto` is exact on small problems, by plans that are more than that.
            let Ok(good) = solver::plan(&problem, budget, "evict", &quick(400)) else { continue };
            let mut broken = good.clone();
            broken.steps.reverse();
            // Hardly any search of its own.
            for name in ["auto", "evict"] {
                let starts = |plans: &[&Plan]| Options {
                    starts: plans.iter().map(|&plan| Arc::new(plan.clone())).collect(),
                    time_limit: Duration::ZERO,
                    ..quick(0)
                };
                let warm = solver::plan(&problem, budget, name, &starts(&[&broken, &other, &good])).unwrap();
                check(&problem, &warm).unwrap();
                assert!(time(&warm) <= time(&good), "seed {seed} {name}");
                let cold = solver::plan(&problem, budget, name, &starts(&[&broken, &other]));
                helped += usize::from(cold.map_or(true, |plan| time(&plan) > time(&warm)));
            }
        }
    }
    assert!(helped > 20, "starts helped {helped} times");
}

/// The plan of another graph.
fn stranger(seed: u64) -> Plan {
    solver::plan(&problem(seed, Shape::all(20)), Bytes(u64::MAX), "keep-all", &Options::default()).unwrap()
}
