//! The graph's storages are the backend's: after every single step of a plan the heap holds what
//! the simulator says, op kind by op kind.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Device;
use common::{alone, settings, small};
use plimsoll::plan::{Step, simulate};
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, Rematerialize, alloc};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// What a live tensor may take beside its elements.
const PER_TENSOR: i64 = 448;
/// What an entry of the interpreter's table takes, which never shrinks.
const PER_ENTRY: i64 = 400;

struct Audit {
    budget: Budget,
    /// Of each op kind: how often it made a view, wrote in place, wrote anew.
    seen: BTreeMap<String, [usize; 3]>,
}

impl ZooVisitor for Audit {
    type Output = BTreeMap<String, [usize; 3]>;

    fn visit<M: ZooModel>(
        mut self,
        name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output {
        let device = model.devices()[0].clone();
        let model = Rematerialize::with_settings(model, settings(self.budget));
        let step = |m: &M, inputs| m.batch_loss(inputs);
        let problem = model.problem(batch(0, &device), step).unwrap();
        let plan = model.plan(batch(0, &device), step).unwrap();
        let timeline = simulate(&problem, &plan.steps).unwrap();
        // The first run lets the backend's threads set up what they keep; it takes the plan made.
        model.step(batch(0, &device), step).unwrap();

        let mut held = Vec::with_capacity(plan.steps.len());
        model.step_observed(batch(0, &device), step, &mut |_| held.push(alloc::live().get())).unwrap();
        assert_eq!(model.latest_plan().unwrap().steps, plan.steps);
        assert_eq!(held.len(), plan.steps.len());

        let graph = &problem.graph;
        let base = held[0] as i64 - after(&problem, &plan.steps[0], timeline.live[0].get()) as i64;
        let (mut live, mut most) = (0i64, 0i64);
        for (i, step) in plan.steps.iter().enumerate() {
            let predicted = after(&problem, step, timeline.live[i].get()) as i64;
            match step {
                Step::Compute { op, inplace } => live += graph.ops()[*op].outputs.len() as i64 - inplace.len() as i64,
                _ => live -= 1,
            }
            let off = held[i] as i64 - base - predicted;
            most = most.max(live);
            let slack = 4096 + PER_TENSOR * live + PER_ENTRY * (most + 16);
            assert!(
                off.abs() <= slack,
                "{name}: after step {i} ({step:?}) the heap is {off} bytes off, {live} tensors live"
            );
            if let Step::Compute { op, inplace } = step {
                let ops = &graph.ops()[*op];
                let views = ops.outputs.iter().filter(|&&v| graph.values()[v].alias_of.is_some()).count();
                let counts = self.seen.entry(ops.kind.clone()).or_default();
                counts[0] += views;
                counts[1] += inplace.len();
                counts[2] += ops.outputs.len() - views - inplace.len();
            }
        }
        self.seen
    }
}

/// Bytes live once a step is over.
fn after(problem: &plimsoll::cost::Problem, step: &Step, during: u64) -> u64 {
    match step {
        Step::Compute { op, .. } => during - problem.costs.workspace[*op].get(),
        _ => during,
    }
}

#[test]
fn the_heap_follows_the_plan_step_by_step() {
    let _alone = alone();
    let mut seen = BTreeMap::new();
    for spec in zoo::models() {
        let model = small(spec.name);
        for budget in [Budget::Unlimited, Budget::percent(85.0)] {
            let device = Device::flex().autodiff();
            seen = zoo::with_model(spec.name, &model, &device, 3, Audit { budget, seen }).unwrap();
        }
    }
    let mut kinds = BTreeSet::new();
    println!("{:44} {:>8} {:>8} {:>8}", "op", "view", "in place", "new");
    for (kind, [views, inplace, new]) in &seen {
        println!("{kind:44} {views:8} {inplace:8} {new:8}");
        kinds.insert(kind.clone());
    }
    assert!(kinds.len() > 50, "the zoo covers {} op kinds", kinds.len());
    // The liberties a plan counts on were taken.
    for (kind, which) in
        [("BaseFloat.Reshape", 0), ("BaseFloat.SwapDims", 0), ("NumericFloat.Add", 1), ("Float.Exp", 1)]
    {
        assert!(seen[kind][which] > 0, "{kind}");
    }
    assert!(seen["BaseFloat.Reshape"][2] > 0, "reshapes of transposed tensors copy");
}
