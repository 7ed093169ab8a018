//! Ending a solve from outside, and watching it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plimsoll::Bytes;
use plimsoll::check::check;
use plimsoll::cost::Problem;
use plimsoll::solver::{self, Cancel, OnProgress, Options, Outcome, Progress};

fn load(name: &str) -> Problem {
    Problem::load(format!("{}/tests/data/{name}.problem.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// What `endless` may take.
const LIMIT: Duration = Duration::from_secs(3600);

/// A search that would go on for a long time.
fn endless() -> Options {
    Options { time_limit: LIMIT, node_limit: Some(4_000_000), ..Options::default() }
}

/// What a solve reports, and what it comes to.
fn watched(
    problem: &Problem,
    budget: Bytes,
    solver: &str,
    options: Options,
    each: impl Fn(&Progress) + Send + Sync + 'static,
) -> (Vec<Progress>, Outcome) {
    let told: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let sink = told.clone();
    let on_progress: OnProgress = Arc::new(move |progress| {
        sink.lock().unwrap().push(progress.clone());
        each(progress);
    });
    let options = Options { on_progress: Some(on_progress), ..options };
    let outcome = solver::by_name(solver).unwrap().solve(problem, budget, &options).unwrap();
    let told = told.lock().unwrap().clone();
    (told, outcome)
}

fn half(problem: &Problem) -> Bytes {
    Bytes(solver::baseline(problem).1.peak.get() / 2)
}

#[test]
fn cancelled_before_it_begins() {
    let problem = load("gpt-4x256-b8");
    for solver in solver::names() {
        let options = endless();
        options.cancel.cancel();
        let started = Instant::now();
        match solver::by_name(solver).unwrap().solve(&problem, half(&problem), &options) {
            Ok(outcome) => match &outcome {
                Outcome::Optimal(plan) | Outcome::Feasible { plan, .. } => {
                    check(&problem, plan).unwrap();
                }
                Outcome::Unknown { minimum_feasible, .. } => assert!(minimum_feasible.is_some()),
                other => panic!("{solver}: {other:?}"),
            },
            Err(error) => assert!(matches!(error, plimsoll::Error::Unsupported { .. }), "{solver}: {error}"),
        }
        println!("{solver}: {:.2?}", started.elapsed());
        assert!(started.elapsed() < LIMIT, "{solver} does not end");
    }
}

/// What fits without any search is found all the same, and a proof needs none either.
#[test]
fn cancelled_but_settled() {
    let problem = load("unet-3x16-b4");
    let options = endless();
    options.cancel.cancel();
    let solve = |budget| solver::by_name("auto").unwrap().solve(&problem, budget, &options).unwrap();
    assert!(matches!(solve(solver::baseline(&problem).1.peak), Outcome::Optimal(_)));
    assert!(matches!(solve(Bytes(1)), Outcome::Infeasible { .. }));
}

#[test]
fn cancelled_from_a_report() {
    for (name, solver) in [("gpt-4x256-b8", "auto"), ("resnet-8x32-b8", "evict"), ("gpt-4x256-b8", "chain")] {
        let problem = load(name);
        let budget = half(&problem);
        // At once; when there is a plan; when it is being improved.
        let when: [fn(&Progress) -> bool; 3] =
            [|_| true, |p| p.best_overhead.is_some(), |p| p.phase == "improve" && p.elapsed > Duration::from_secs(1)];
        for (k, when) in when.into_iter().enumerate() {
            if k == 2 && solver != "auto" {
                continue;
            }
            let cancel = Cancel::new();
            let options = Options { cancel: cancel.clone(), ..endless() };
            let asked: Arc<Mutex<Option<Instant>>> = Arc::default();
            let at = asked.clone();
            let (_, outcome) = watched(&problem, budget, solver, options, move |progress| {
                if when(progress) {
                    at.lock().unwrap().get_or_insert_with(Instant::now);
                    cancel.cancel();
                }
            });
            let after = asked.lock().unwrap().expect("it was cancelled").elapsed();
            println!("{name} {solver}: ended {after:.2?} after the request");
            assert!(after < LIMIT, "{name} {solver} does not end");
            match &outcome {
                Outcome::Feasible { plan, .. } => {
                    check(&problem, plan).unwrap();
                }
                // A plan in hand is not lost.
                Outcome::Unknown { .. } => assert_eq!(k, 0, "{name} {solver}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// From another thread, while nothing of interest happens.
#[test]
fn cancelled_from_another_thread() {
    let problem = load("unet-3x16-b4");
    let options = endless();
    let cancel = options.cancel.clone();
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            cancel.cancel();
        });
        solver::by_name("auto").unwrap().solve(&problem, half(&problem), &options).unwrap()
    });
    match outcome {
        Outcome::Feasible { plan, .. } => assert!(check(&problem, &plan).is_ok()),
        Outcome::Unknown { .. } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn reports_only_ever_improve() {
    let problem = load("resnet-8x32-b8");
    let options = Options { time_limit: Duration::from_secs(600), node_limit: Some(300), ..Options::default() };
    for solver in ["auto", "evict", "sqrt"] {
        let quiet = solver::by_name(solver).unwrap().solve(&problem, half(&problem), &options).unwrap();
        let (told, outcome) = watched(&problem, half(&problem), solver, options.clone(), |_| {});
        assert!(told.len() >= 3, "{solver}: {told:?}");
        assert!(told.iter().all(|p| p.solver == solver && p.budget == half(&problem)));
        for pair in told.windows(2) {
            let best = |p: &Progress| p.best_overhead.unwrap_or(f64::INFINITY);
            assert!(best(&pair[0]) >= best(&pair[1]), "{pair:?}");
            assert!(pair[0].lower_bound <= pair[1].lower_bound && pair[0].elapsed <= pair[1].elapsed, "{pair:?}");
        }
        // Watching changes nothing, and the last word is what comes out.
        assert_eq!(quiet.plan(), outcome.plan());
        let last = told.last().unwrap();
        match outcome.plan() {
            Some(plan) => {
                let told = &plan.predicted;
                assert_eq!((last.phase, last.best_overhead), ("done", Some(told.overhead)));
                assert_eq!(last.lower_bound, told.lower_bound);
            }
            None => assert_eq!(last.best_overhead, None),
        }
    }
}
