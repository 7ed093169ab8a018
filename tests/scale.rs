//! Large graphs: memory while planning, and plans as good as for small ones.
#![cfg(feature = "fuzzing")]

use std::time::Duration;

use plimsoll::check::check;
use plimsoll::cost::Problem;
use plimsoll::plan::Plan;
use plimsoll::solver::{self, Options};
use plimsoll::{Bytes, alloc, fuzz};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

const GIB: u64 = 1 << 30;

fn plan(problem: &Problem, percent: u64, nodes: u64) -> Plan {
    let (low, high) = (problem.graph.resident_bytes().get(), solver::baseline(problem).1.peak.get());
    let budget = Bytes(low + (high - low) / 100 * percent);
    let options = Options { time_limit: Duration::from_secs(600), node_limit: Some(nodes), ..Options::default() };
    let plan = solver::plan(problem, budget, "auto", &options).unwrap();
    check(problem, &plan).unwrap();
    assert!(plan.predicted.peak <= budget);
    plan
}

/// One test, because it reads the allocator of the whole program.
#[test]
fn twenty_thousand_ops_take_little_memory_and_plan_as_well_as_two_thousand() {
    for seed in [0] {
        let (few, many) = (fuzz::layered(seed, 120, 8), fuzz::layered(seed, 1_200, 8));
        assert!(many.graph.ops().len() > 20_000);
        for percent in [60, 40] {
            let small = plan(&few, percent, 2_000);
            alloc::reset_peak();
            let before = alloc::live().get();
            let large = plan(&many, percent, 500);
            let heap = alloc::peak().get() - before;
            println!(
                "seed {seed} at {percent} %: {:.3} % of {} ops, {:.3} % of {} ops, {} more on the heap",
                100.0 * small.predicted.overhead,
                few.graph.ops().len(),
                100.0 * large.predicted.overhead,
                many.graph.ops().len(),
                Bytes(heap)
            );
            assert!(heap < GIB / 2, "{}", Bytes(heap));
            assert!(large.predicted.overhead <= 1.2 * small.predicted.overhead);
        }
    }
}
