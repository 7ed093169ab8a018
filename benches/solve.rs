//! How long planning takes: `make bench`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use plimsoll::Bytes;
use plimsoll::cost::Problem;
use plimsoll::plan::simulate;
use plimsoll::solver::{self, Options};

const PROBLEMS: [&str; 3] = ["gpt-4x256-b8", "resnet-8x32-b8", "unet-3x16-b4"];

fn load(name: &str) -> Problem {
    Problem::load(format!("{}/tests/data/{name}.problem.json", env!("CARGO_MANIFEST_DIR"))).expect("a problem file")
}

fn planning(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    for name in PROBLEMS {
        let problem = load(name);
        let peak = solver::baseline(&problem).1.peak.get();
        for solver in ["keep-all", "boundary-knapsack", "rotor", "auto"] {
            for percent in [60, 100] {
                let budget = Bytes(peak / 100 * percent + peak % 100);
                let id = BenchmarkId::new(solver, format!("{name} at {percent} %"));
                group.bench_with_input(id, &budget, |b, &budget| {
                    b.iter(|| black_box(solver::plan(&problem, budget, solver, &Options::default())));
                });
            }
        }
    }
    group.finish();
}

fn simulating(c: &mut Criterion) {
    for name in PROBLEMS {
        let problem = load(name);
        let (steps, _) = solver::baseline(&problem);
        c.bench_function(&format!("simulate {name}"), |b| b.iter(|| simulate(&problem, black_box(&steps))));
    }
}

criterion_group!(benches, planning, simulating);
criterion_main!(benches);
