//! The checker against a second implementation, written here in another style: a plan is judged
//! by keeping the whole list of buffers and recounting everything after every step. Random small
//! problems, plans made illegal at random.

use std::collections::BTreeMap;

use plimsoll::check::check_steps;
use plimsoll::cost::{Costs, Device, Problem};
use plimsoll::entity::{Entity, OpId, ValueId};
use plimsoll::graph::{GraphBuilder, NewValue, Op, Phase, Replay};
use plimsoll::plan::{Lowering, Step, lower, simulate};
use plimsoll::{Bytes, Nanos};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

// ---- the second implementation ------------------------------------------------------------

/// Who lives in each buffer, and its size; and what the host holds.
#[derive(Clone, Default)]
struct World {
    buffers: Vec<(Vec<ValueId>, u64)>,
    host: Vec<ValueId>,
    ran: Vec<OpId>,
}

impl World {
    fn buffer_of(&self, v: ValueId) -> Option<usize> {
        self.buffers.iter().position(|(tenants, _)| tenants.contains(&v))
    }
    fn bytes(&self) -> u64 {
        self.buffers.iter().map(|b| b.1).sum()
    }
    fn without(mut self, v: ValueId) -> Self {
        for buffer in &mut self.buffers {
            buffer.0.retain(|&u| u != v);
        }
        self.buffers.retain(|b| !b.0.is_empty());
        self
    }
}

/// The world after a step and the most bytes during it, or `None` when the step is illegal.
fn next(problem: &Problem, world: &World, step: &Step) -> Option<(World, u64)> {
    let graph = &problem.graph;
    let value = |v: ValueId| graph.values().get(v);
    let size = |v: ValueId| graph.storages()[graph.values()[v].storage].bytes.get();
    let same = |u: ValueId, v: ValueId| graph.values()[u].storage == graph.values()[v].storage;
    let mut after = world.clone();
    match step {
        Step::Drop(v) => {
            let legal = !value(*v)?.resident && world.buffer_of(*v).is_some();
            let after = legal.then(|| after.without(*v))?;
            let bytes = after.bytes();
            Some((after, bytes))
        }
        Step::Offload(v) => {
            value(*v)?;
            world.buffer_of(*v)?;
            after.host.push(*v);
            let held: u64 = after.host.iter().map(|&u| graph.values()[u].bytes.get()).sum();
            let legal = !world.host.contains(v)
                && problem.device.d2h_bytes_per_s > 0
                && held <= problem.device.host_memory.get();
            legal.then(|| (after, world.bytes()))
        }
        Step::Prefetch(v) => {
            value(*v)?;
            let legal = world.host.contains(v) && world.buffer_of(*v).is_none() && problem.device.h2d_bytes_per_s > 0;
            after.host.retain(|u| u != v);
            after.buffers.push((vec![*v], size(*v)));
            let bytes = after.bytes();
            legal.then_some((after, bytes))
        }
        Step::Compute { op: id, inplace } => {
            let op = graph.ops().get(*id)?;
            let inputs_live = op.inputs.iter().all(|&v| world.buffer_of(v).is_some());
            let outputs_dead = op.outputs.iter().all(|&v| world.buffer_of(v).is_none());
            let may_run = op.replay != Replay::Once || !world.ran.contains(id);
            if !(inputs_live && outputs_dead && may_run && inplace.iter().all(|pair| op.inplace.contains(pair))) {
                return None;
            }
            let taken: Vec<ValueId> = inplace.iter().map(|&(a, _)| op.inputs[a]).collect();
            let given: Vec<ValueId> = inplace.iter().map(|&(_, b)| op.outputs[b]).collect();
            let distinct = |list: &[ValueId]| (1..list.len()).all(|i| !list[..i].contains(&list[i]));
            if !distinct(&taken) || !distinct(&given) {
                return None;
            }
            for (&from, &to) in taken.iter().zip(&given) {
                let buffer = world.buffer_of(from)?;
                if value(from)?.resident || world.buffers[buffer].0 != [from] {
                    return None;
                }
                after.buffers[buffer].0.push(to);
                after.buffers[buffer].1 = after.buffers[buffer].1.max(size(to));
            }
            let is_view = |v: &ValueId| graph.values()[*v].alias_of.is_some();
            let (views, owners): (Vec<ValueId>, Vec<ValueId>) =
                op.outputs.iter().filter(|v| !given.contains(v)).partition(|v| is_view(v));
            after.buffers.extend(owners.iter().map(|&v| (vec![v], size(v))));
            for v in views {
                let near =
                    op.inputs.iter().chain(&op.outputs).find(|&&u| same(u, v) && after.buffer_of(u).is_some())?;
                if taken.contains(near) {
                    return None;
                }
                let buffer = after.buffer_of(*near)?;
                after.buffers[buffer].0.push(v);
            }
            let during = after.bytes() + problem.costs.workspace[*id].get();
            after.ran.push(*id);
            Some((taken.into_iter().fold(after, World::without), during))
        }
    }
}

/// Peaks of the device and the host, or the index of the first step at fault.
fn judge(problem: &Problem, steps: &[Step], budget: u64) -> Result<(u64, u64), usize> {
    let graph = &problem.graph;
    let mut world = World::default();
    for storage in graph.storages().values() {
        let residents: Vec<ValueId> = storage.values.iter().copied().filter(|&v| graph.values()[v].resident).collect();
        if !residents.is_empty() {
            world.buffers.push((residents, storage.bytes.get()));
        }
    }
    let (mut peak, mut host_peak) = (world.bytes(), 0);
    if peak > budget {
        return Err(0);
    }
    for (index, step) in steps.iter().enumerate() {
        let (after, during) = next(problem, &world, step).ok_or(index)?;
        if during > budget {
            return Err(index);
        }
        peak = peak.max(during);
        host_peak = host_peak.max(after.host.iter().map(|&u| graph.values()[u].bytes.get()).sum());
        world = after;
    }
    let outputs = graph.outputs().iter().all(|&v| world.buffer_of(v).is_some());
    let effects = graph.ops().iter().all(|(id, op)| op.replay != Replay::Once || world.ran.contains(&id));
    if outputs && effects { Ok((peak, host_peak)) } else { Err(steps.len()) }
}

// ---- random problems and plans --------------------------------------------------------------

/// What a random op is drawn from; numbers are taken modulo what there is, so that shrinking keeps
/// the problem valid.
type DrawnOp = (u8, u16, u16, u8, u8);
/// What a change of a plan is drawn from.
type Change = (u8, u16, u16);

fn drawn_ops() -> impl Strategy<Value = Vec<DrawnOp>> {
    prop::collection::vec((0u8..10, any::<u16>(), any::<u16>(), 1u8..64, 0u8..16), 1..9)
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec((0u8..10, any::<u16>(), any::<u16>()), 0..5)
}

fn build(drawn: &[DrawnOp]) -> Problem {
    let mut builder = GraphBuilder::new();
    let new = |bytes: u8, alias_of| NewValue { bytes: Bytes(bytes.into()), alias_of, ..Default::default() };
    let mut known = vec![builder.value(new(8, None)), builder.value(new(16, None))];
    known.iter().for_each(|&v| builder.resident(v));
    let mut costs = Costs { time: Default::default(), workspace: Default::default() };
    for &(kind, a, b, bytes, workspace) in drawn {
        // Mostly recent values, so that chains form.
        let pick = |n: u16| known[known.len() - 1 - usize::from(n) % known.len().min(5)];
        let (first, second) = (pick(a), pick(b));
        let (mut inputs, mut outputs) = (vec![first], vec![]);
        let mut inplace = vec![];
        match kind {
            0 => outputs.push(builder.value(new(bytes, Some(first)))),
            1 => {
                // A view listed before the output whose storage it joins.
                let view = builder.value(new(bytes, None));
                let owner = builder.value(new(bytes, None));
                outputs.extend([view, owner]);
            }
            2 => {
                inputs.push(second);
                outputs.extend([builder.value(new(bytes, None)), builder.value(new(bytes / 2, None))]);
                inplace.extend([(0, 0), (1, 0), (1, 1), (0, 1)]);
            }
            3 => {
                // In place, and a view of the same input.
                outputs.extend([builder.value(new(bytes, None)), builder.value(new(bytes, Some(first)))]);
                inplace.push((0, 0));
            }
            4..=6 => {
                outputs.push(builder.value(new(bytes, None)));
                inplace.push((0, 0));
            }
            _ => {
                inputs.push(second);
                outputs.push(builder.value(new(bytes, None)));
                inplace.push((1, 0));
            }
        }
        known.extend(&outputs);
        costs.time.push(Nanos(u64::from(bytes)));
        costs.workspace.push(Bytes(workspace.into()));
        let replay = if kind == 9 { Replay::Once } else { Replay::Pure };
        builder.op(Op { kind: format!("K{kind}"), phase: Phase::Forward, inputs, outputs, inplace, replay });
    }
    builder.output(*known.last().unwrap());
    let device = Device {
        host_memory: Bytes(48),
        d2h_bytes_per_s: 1_000_000_000,
        h2d_bytes_per_s: if drawn.len() == 3 { 0 } else { 500_000_000 },
        ..Default::default()
    };
    let problem = Problem::new("random", builder.finish().unwrap(), costs, device).unwrap();
    // The builder has no way to alias forwards, files do.
    let json = problem.to_json();
    let mut raw: serde_json::Value = serde_json::from_str(&json).unwrap();
    let ops = raw["ops"].as_array().unwrap().clone();
    for op in ops.iter().filter(|op| op["kind"] == "K1") {
        raw["values"][op["outputs"][0].as_u64().unwrap() as usize]["alias_of"] = op["outputs"][1].clone();
    }
    Problem::from_json(&raw.to_string(), "random").unwrap()
}

/// A legal plan: every op in order, some again just before they are needed.
fn legal(problem: &Problem, inplace: bool) -> Vec<Step> {
    let order: Vec<OpId> = problem.graph.ops().keys().collect();
    lower(&problem.graph, &order, Lowering { inplace })
}

fn change(problem: &Problem, steps: &mut Vec<Step>, &(kind, a, b): &Change) {
    let at = |n: u16, len: usize| usize::from(n) % len.max(1);
    let value = ValueId::from_index(at(b, problem.graph.values().len() + 1));
    let op = OpId::from_index(at(b, problem.graph.ops().len() + 1));
    let place = at(a, steps.len() + 1);
    match kind {
        0 if !steps.is_empty() => drop(steps.remove(at(a, steps.len()))),
        1 if !steps.is_empty() => {
            let (i, j) = (at(a, steps.len()), at(b, steps.len()));
            steps.swap(i, j);
        }
        2 if !steps.is_empty() => {
            let copy = steps[at(a, steps.len())].clone();
            steps.insert(at(b, steps.len() + 1), copy);
        }
        3 => steps.insert(place, Step::Drop(value)),
        4 => steps.insert(place, Step::compute(op)),
        5 => {
            // Out to the host and back at once: legal wherever the value lives and the links allow.
            let there = [Step::Offload(value), Step::Drop(value), Step::Prefetch(value)];
            steps.splice(place..place, there);
        }
        6 => {
            // Run an op anew right after its results were dropped.
            let Some(again) = problem.graph.ops().get(op) else { return };
            let drops: Vec<Step> = again.outputs.iter().map(|&v| Step::Drop(v)).collect();
            steps.splice(place..place, drops.into_iter().chain([Step::compute(op)]));
        }
        7 => steps.insert(place, Step::Offload(value)),
        8 => {
            // Leave an op out, with everything that ends its results.
            let Some(op) = problem.graph.ops().get(op).map(|_| op) else { return };
            let outputs = &problem.graph.ops()[op].outputs;
            steps.retain(|step| match step {
                Step::Compute { op: id, .. } => *id != op,
                Step::Drop(v) => !outputs.contains(v),
                _ => true,
            });
        }
        _ => {
            let count = steps.len();
            if let Some(Step::Compute { inplace, op }) = steps.get_mut(at(a, count)) {
                match b % 3 {
                    0 => inplace.clear(),
                    1 => inplace.push((usize::from(b / 3 % 3), usize::from(b / 9 % 3))),
                    _ => inplace.extend(problem.graph.ops().get(*op).map(|op| op.inplace.clone()).unwrap_or_default()),
                }
            }
        }
    }
}

fn compare(problem: &Problem, steps: &[Step]) -> Result<Option<&'static str>, TestCaseError> {
    let _ = simulate(problem, steps);
    match (judge(problem, steps, u64::MAX), check_steps(problem, steps, Bytes(u64::MAX))) {
        (Ok((peak, host_peak)), Ok(checked)) => {
            prop_assert_eq!((peak, host_peak), (checked.peak.get(), checked.host_peak.get()));
            let timeline = simulate(problem, steps).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!((timeline.peak, timeline.host_peak), (checked.peak, checked.host_peak));
            prop_assert!(check_steps(problem, steps, checked.peak).is_ok());
            if peak > 0 {
                let violation = check_steps(problem, steps, Bytes(peak - 1)).unwrap_err();
                prop_assert_eq!(judge(problem, steps, peak - 1).unwrap_err(), violation.step);
            }
            Ok(None)
        }
        (Err(step), Err(violation)) => {
            prop_assert_eq!(step, violation.step, "{}", violation);
            let text = format!("{:?}", violation.rule);
            Ok(Some(RULES.iter().find(|rule| text.starts_with(*rule)).unwrap_or(&"?")))
        }
        (naive, checked) => Err(TestCaseError::fail(format!("here {naive:?}, checker {checked:?}"))),
    }
}

/// What random changes can break without a budget.
const RULES: [&str; 15] = [
    "NoSuchOp",
    "NoSuchValue",
    "InputNotLive",
    "OutputLive",
    "RunsTwice",
    "PairNotAllowed",
    "PairTwice",
    "NotTakeable",
    "DropNotLive",
    "DropResident",
    "BadOffload",
    "BadPrefetch",
    "OutputMissing",
    "NeverRan",
    "OverHostMemory",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn lowered_orders_are_legal(ops in drawn_ops(), inplace: bool) {
        let problem = build(&ops);
        prop_assert_eq!(compare(&problem, &legal(&problem, inplace))?, None);
    }

    #[test]
    fn checker_and_second_implementation_agree(ops in drawn_ops(), inplace: bool, changes in changes()) {
        let problem = build(&ops);
        let mut steps = legal(&problem, inplace);
        changes.iter().for_each(|c| change(&problem, &mut steps, c));
        compare(&problem, &steps)?;
    }
}

/// The generator draws legal plans and plans that break every rule, so the agreement above means
/// something.
#[test]
fn the_generator_covers_every_rule() {
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..6000 {
        let (ops, changes) = (drawn_ops(), changes()).new_tree(&mut runner).unwrap().current();
        let problem = build(&ops);
        let mut steps = legal(&problem, true);
        let untouched = steps.clone();
        changes.iter().for_each(|c| change(&problem, &mut steps, c));
        let verdict = compare(&problem, &steps).unwrap();
        *seen.entry(verdict.unwrap_or(if steps == untouched { "legal" } else { "legal, changed" })).or_default() += 1;
    }
    for rule in RULES.iter().chain(&["legal", "legal, changed"]) {
        assert!(seen.get(rule).is_some_and(|&n| n >= 3), "{rule} is drawn too rarely: {seen:?}");
    }
    assert!(!seen.contains_key("?"), "{seen:?}");
}
