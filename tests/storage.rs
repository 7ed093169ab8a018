//! The graph's storages are the backend's: after every single step of a plan the heap holds what
//! the simulator says, op kind by op kind.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Distribution, Tensor};
use common::{alone, gradients_of, settings, small};
use plimsoll::plan::{Step, simulate};
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, Bytes, Error, Rematerialize, alloc};

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

/// What an op takes beside its buffers depends on how its inputs lie: a plan for the same graph may be too much then.
#[test]
fn an_input_that_lies_another_way_is_planned_anew_where_the_plan_at_hand_is_too_much() {
    #[derive(Module, Debug)]
    struct Two {
        trunk: Vec<Conv2d>,
        last: Conv2d,
    }
    let _alone = alone();
    let device = Device::flex().autodiff();
    let layer = |from, to| Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Same).init(&device);
    let layers = Two { trunk: (0..6).map(|_| layer(4, 4)).collect(), last: layer(32, 4) };
    let random = |channels| Tensor::<4>::random([2, channels, 16, 16], Distribution::Default, &device);
    let (small, plain) = (random(4), random(32));
    let swapped = Tensor::from_data(plain.clone().swap_dims(1, 3).into_data(), &device).swap_dims(1, 3);
    let costs = tempfile::tempdir().unwrap();
    let run = |budget, inputs: &[&Tensor<4>]| -> Vec<_> {
        let settings = settings(Budget::Bytes(budget)).optimizer_bytes_per_parameter(0.0);
        let settings = settings.time_limit(Duration::from_secs(1)).profile_directory(Some(costs.path().to_owned()));
        let model = Rematerialize::with_settings(layers.clone(), settings);
        let step = |&x: &&Tensor<4>| {
            let step = model.step((small.clone(), x.clone()), |m: &Two, (small, x)| {
                let small = m.trunk.iter().fold(small, |x, layer| layer.forward(x).tanh());
                small.mul(m.last.forward(x)).powi_scalar(2).mean()
            })?;
            Ok::<_, Error>((model.latest_plan().unwrap(), step.loss.into_data(), gradients_of(&layers, &step.grads)))
        };
        inputs.iter().map(step).collect()
    };
    let kept = run(Bytes(u64::MAX), &[&plain]).remove(0).unwrap();
    let (want, gradients) = (&kept.1, &kept.2);
    // What is measured besides depends on how many threads share an op: all but the copy of what lies another way is taken for nothing.
    let file = std::fs::read_dir(costs.path()).unwrap().next().unwrap().unwrap().path();
    let read = || -> serde_json::Value { serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap() };
    let before = read();
    run(Bytes(u64::MAX), &[&swapped]).remove(0).unwrap();
    let mut edited = read();
    for (signature, cost) in edited["entries"].as_object_mut().unwrap() {
        let new = before["entries"].get(signature).is_none() && signature.starts_with("Module.Conv2d:");
        cost["workspace"] = if new { 1 << 16 } else { 0 }.into();
    }
    std::fs::write(&file, edited.to_string()).unwrap();
    let peak = run(Bytes(u64::MAX), &[&plain]).remove(0).unwrap().0.predicted.peak.get();
    let mut anew = 0;
    for percent in (80..120).step_by(5) {
        let ran = run(Bytes(peak * percent / 100), &[&plain, &swapped, &plain]);
        for (k, step) in ran.iter().enumerate() {
            match step {
                Ok((_, loss, grads)) => assert_eq!((loss, grads), (want, gradients)),
                Err(Error::Infeasible { .. }) if k == 1 => continue,
                Err(other) => panic!("{other}"),
            }
        }
        let plan = |k: usize| ran[k].as_ref().ok().map(|(plan, ..)| plan);
        assert_eq!(plan(0), plan(2));
        anew += usize::from(plan(1).is_some() && plan(1) != plan(0));
    }
    assert!(anew > 0);
}
