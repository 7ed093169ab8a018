//! How long planning takes, and how good the plans are: `make bench`.
//!
//! Times are criterion's; overheads are printed once for each problem, budget and solver.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use plimsoll::Bytes;
use plimsoll::cost::Problem;
use plimsoll::plan::simulate;
use plimsoll::solver::{self, Options};

const PROBLEMS: [&str; 3] = ["gpt-4x256-b8", "resnet-8x32-b8", "unet-3x16-b4"];

/// Solvers for small problems only are left out: their time is their limit.
const EXACT: [&str; 3] = ["checkmate", "checkmate-lp", "moccasin"];

fn load(name: &str) -> Problem {
    Problem::load(format!("{}/tests/data/{name}.problem.json", env!("CARGO_MANIFEST_DIR"))).expect("a problem file")
}

/// One solver on one problem within a share of its peak, where it finds a plan at all.
fn bench(c: &mut Criterion, group: &str, name: &str, problem: &Problem, solver: &str, percent: u64) {
    let peak = solver::baseline(problem).1.peak.get();
    let budget = Bytes(peak / 100 * percent + peak % 100);
    let options = Options::default();
    let label = format!("{name} at {percent} %");
    match solver::plan(problem, budget, solver, &options) {
        Ok(plan) => {
            let (overhead, bound) = (100.0 * plan.predicted.overhead, 100.0 * plan.predicted.lower_bound);
            println!("{group}/{solver}/{label}: overhead {overhead:.3} % (bound {bound:.3} %)");
        }
        Err(error) => {
            println!("{group}/{solver}/{label}: {}", error.to_string().lines().next().unwrap_or_default());
            return;
        }
    }
    let mut group = c.benchmark_group(group);
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group.bench_function(BenchmarkId::new(solver, label), |b| {
        b.iter(|| black_box(solver::plan(problem, budget, solver, &options)));
    });
    group.finish();
}

fn named(c: &mut Criterion) {
    for name in PROBLEMS {
        let problem = load(name);
        for solver in solver::names().into_iter().filter(|name| !EXACT.contains(name)) {
            for percent in [70, 50] {
                bench(c, "plan", name, &problem, solver, percent);
            }
        }
    }
}

fn simulating(c: &mut Criterion) {
    for name in PROBLEMS {
        let problem = load(name);
        let (steps, _) = solver::baseline(&problem);
        c.bench_function(&format!("simulate {name}"), |b| b.iter(|| simulate(&problem, black_box(&steps))));
    }
}

/// What is made of the zoo.
#[cfg(feature = "zoo")]
#[path = "made/mod.rs"]
mod made;

/// Each model in its test size and its default size.
#[cfg(feature = "zoo")]
fn sizes(c: &mut Criterion) {
    for model in plimsoll::zoo::models() {
        let tiny = plimsoll::zoo::Settings::tiny(model.name).expect("a model of the zoo");
        for (size, settings) in [("tiny", tiny), ("default", plimsoll::zoo::Settings::new())] {
            let problem = made::problem(model.name, &settings).expect("a model of the zoo");
            for solver in ["evict", "auto"] {
                bench(c, "zoo", &format!("{} {size}", model.name), &problem, solver, 60);
            }
        }
    }
}

/// GPTs that differ in depth alone.
#[cfg(feature = "zoo")]
fn scaling(c: &mut Criterion) {
    for layers in [4, 8, 12, 24, 48, 96, 192] {
        let problem = made::gpt(layers).expect("a model of the zoo");
        for solver in ["boundary-knapsack", "evict", "auto"] {
            bench(c, "scaling", &format!("gpt of {layers} layers"), &problem, solver, 50);
        }
    }
}

#[cfg(not(feature = "zoo"))]
fn sizes(_: &mut Criterion) {}
#[cfg(not(feature = "zoo"))]
fn scaling(_: &mut Criterion) {}

criterion_group!(benches, named, simulating, sizes, scaling);
criterion_main!(benches);
