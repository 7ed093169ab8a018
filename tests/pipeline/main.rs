//! Pipeline schedules: generators against the papers' formulas, the verifier against schedules broken by hand and
//! against what schedules compute, the simulator against sums done by hand and bounds, the file, and `plimsoll
//! simulate`.

mod bounds;
mod command;
mod files;
mod formulas;
mod generated;
mod gradients;
mod hand;
mod recompute;
mod simulator;
mod topology;
mod verifier;

use plimsoll::pipeline::{Device, Link, Run, Schedule, Shape, Workload, by_name, names, simulate};
use plimsoll::{Bytes, Nanos};

fn generate(name: &str, p: usize, m: usize, v: Option<usize>) -> Schedule {
    let shape = Shape { stages: p, microbatches: m, chunks: v };
    by_name(name).unwrap().generate(shape).unwrap_or_else(|e| panic!("{name} {p} {m} {v:?}: {e}"))
}

/// Run with the same times everywhere and messages that take none.
fn uniform(schedule: &Schedule, [f, b, w]: [u64; 3]) -> Run {
    let name = format!("{} of {}", schedule.name(), schedule.devices().len());
    simulate(schedule, &Workload::uniform(schedule, f, b, w)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn in_flight(run: &Run) -> Vec<usize> {
    run.devices.iter().map(|device| device.peak_in_flight).collect()
}

/// Deterministic numbers (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// Chunks of different times; links and devices too if `all`.
fn heterogeneous(schedule: &Schedule, numbers: &mut Numbers, all: bool) -> Workload {
    let mut work = Workload::uniform(schedule, 1, 1, 1);
    for chunk in &mut work.chunks {
        chunk.forward = Nanos(1 + numbers.below(100));
        chunk.input_gradient = Nanos(1 + numbers.below(100));
        chunk.weight_gradient = Nanos(numbers.below(100));
        chunk.activation = Bytes(numbers.below(1000));
        chunk.kept = Bytes(numbers.below(1000));
        if all {
            chunk.update = Nanos(numbers.below(50));
            chunk.output = Bytes(numbers.below(1000));
            chunk.gradient = Bytes(numbers.below(1000));
        }
    }
    if all {
        for device in &mut work.devices {
            device.speed = 25 + numbers.below(400) as u32;
        }
        work.link = Link { latency: Nanos(numbers.below(20)), bytes_per_s: 10_000_000_000 };
        let slow = Link { latency: Nanos(numbers.below(200)), bytes_per_s: 1_000_000_000 };
        work.links.insert((Device(0), Device(1)), slow);
    }
    work
}

/// A schedule of a random generator and shape.
fn any_schedule(numbers: &mut Numbers) -> Schedule {
    let name = names()[numbers.below(9) as usize];
    let (mut p, mut m) = (1 + numbers.below(6) as usize, 1 + numbers.below(12) as usize);
    match name {
        "chimera" => (p, m) = (2 * (1 + p / 3), 2 * (1 + p / 3) * (1 + m / 6)),
        "interleaved" => m = p * (1 + m / 4),
        _ => {}
    }
    generate(name, p, m, None)
}
