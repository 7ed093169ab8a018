//! Random problems, for tests and fuzz targets: the same problem for the same seed, everywhere;
//! and what the fuzz targets do.

mod targets;

pub use targets::{CHOICES, load_plan, load_problem, mutated, plan_problem, solve_then_check};

use crate::cost::{Costs, Device, Problem};
use crate::entity::{Entity, EntityMap, ValueId};
use crate::graph::{GraphBuilder, NewValue, Op, Phase, Replay, Role};
use crate::units::{Bytes, Nanos};

/// What [`problem`] may put into a graph.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Number of ops.
    pub ops: usize,
    /// Ops in the second half read values of the first in reverse order, as a backward pass does.
    pub mirrored: bool,
    /// Views, of residents too, some larger than what they look at.
    pub views: bool,
    /// In-place pairs.
    pub inplace: bool,
    /// Ops with several outputs.
    pub multi: bool,
    /// Ops that must run exactly once.
    pub once: bool,
    /// Among the views ops that read other values as well.
    pub joins: bool,
}

impl Shape {
    /// Everything there is but joins, which no model traced so far has.
    pub fn all(ops: usize) -> Self {
        Self { ops, mirrored: true, views: true, inplace: true, multi: true, once: true, joins: false }
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }
}

/// A random valid problem.
///
/// # Panics
/// Never: what it builds is valid, and the builder says so.
pub fn problem(seed: u64, shape: Shape) -> Problem {
    let mut dice = Dice(seed);
    let mut builder = GraphBuilder::new();
    let mut values: Vec<(ValueId, u64)> = Vec::new();
    let new = |bytes: u64, alias_of: Option<ValueId>, role: Role| NewValue {
        bytes: Bytes(bytes),
        alias_of,
        role,
        ..NewValue::default()
    };
    for _ in 0..1 + dice.roll(3) {
        let bytes = 1 + dice.roll(20);
        let v = builder.value(new(bytes, None, Role::Parameter));
        builder.resident(v);
        values.push((v, bytes));
    }
    let residents = values.len();
    let (mut time, mut workspace) = (EntityMap::new(), EntityMap::new());
    let mut read = vec![false; residents];
    for i in 0..shape.ops {
        let view = shape.views && dice.chance(25);
        let joins = view && shape.joins && dice.chance(50);
        let count = if view && !joins { 1 } else { 1 + dice.roll(3) as usize };
        let mut inputs: Vec<usize> = Vec::new();
        for k in 0..count {
            let n = values.len();
            // Mostly recent values; in the second half also those of the mirrored place.
            let near = n - 1 - dice.roll(n.min(3) as u64) as usize;
            let mirror = (2 * shape.ops).saturating_sub(2 * i).min(n - 1);
            let pick = match dice.roll(4) {
                0 => dice.roll(n as u64) as usize,
                1 if shape.mirrored && 2 * i > shape.ops => mirror,
                _ if k == 0 => near,
                _ => dice.roll(n as u64) as usize,
            };
            inputs.push(pick);
        }
        inputs.iter().for_each(|&k| read[k] = true);
        let outputs = if shape.multi && !view && dice.chance(15) { 2 } else { 1 };
        let mut made = Vec::new();
        for _ in 0..outputs {
            let same = values[inputs[0]].1;
            let bytes = if dice.chance(60) { same } else { 1 + dice.roll(30) };
            let base = view.then_some(values[inputs[0]].0);
            made.push((builder.value(new(bytes, base, Role::Activation)), bytes));
        }
        let pairs = match shape.inplace && !view && inputs[0] >= residents && dice.chance(50) {
            true => vec![(0, 0)],
            false => Vec::new(),
        };
        builder.op(Op {
            kind: if view { "View".into() } else { format!("Op{}", dice.roll(5)) },
            phase: Phase::Forward,
            inputs: inputs.iter().map(|&k| values[k].0).collect(),
            outputs: made.iter().map(|m| m.0).collect(),
            inplace: pairs,
            replay: if shape.once && !view && dice.chance(4) { Replay::Once } else { Replay::Pure },
        });
        time.push(Nanos(if view { dice.roll(2) } else { dice.roll(50) }));
        workspace.push(Bytes(if !view && dice.chance(10) { dice.roll(15) } else { 0 }));
        read.extend(made.iter().map(|_| false));
        values.extend(made);
    }
    // What nothing reads is a result, mostly: a little dead code is part of the game.
    let last = values.len() - 1;
    for (k, &(v, _)) in values.iter().enumerate().skip(residents) {
        if k == last || (!read[k] && dice.chance(90)) || dice.chance(3) {
            builder.output(v);
        }
    }
    let graph = builder.finish().expect("the generator makes valid graphs");
    debug_assert_eq!(graph.ops().len(), shape.ops);
    debug_assert!(graph.values().keys().all(|v| v.index() < values.len()));
    Problem::new(format!("random-{seed}"), graph, Costs { time, workspace }, Device::default()).expect("sums are small")
}

/// A training step of `layers` equal layers of about `width` ops each way: the forward of each layer
/// is one small random graph, its backward the mirror image. The same problem for the same seed.
///
/// # Panics
/// Never: what it builds is valid, and the builder says so.
pub fn layered(seed: u64, layers: usize, width: usize) -> Problem {
    let mut dice = Dice(seed);
    // Each op reads the result before it and perhaps an earlier one of its layer.
    let ops: Vec<(u64, u64, Option<usize>)> = (0..width.max(1))
        .map(|i| {
            let extra = (i > 1 && dice.chance(30)).then(|| dice.roll(i as u64 - 1) as usize);
            ((1 + dice.roll(8)) << 10, 1_000 + dice.roll(40) * dice.roll(40) * 100, extra)
        })
        .collect();
    let mut builder = GraphBuilder::new();
    let (mut time, mut workspace) = (EntityMap::new(), EntityMap::new());
    let value = |builder: &mut GraphBuilder, bytes: u64, role: Role| {
        builder.value(NewValue { bytes: Bytes(bytes), alias_of: None, role, ..NewValue::default() })
    };
    let mut op = |builder: &mut GraphBuilder, phase, kind: String, inputs: Vec<ValueId>, output, nanos: u64| {
        let (outputs, replay) = (vec![output], Replay::Pure);
        builder.op(Op { kind, phase, inputs, outputs, inplace: Vec::new(), replay });
        time.push(Nanos(nanos));
        workspace.push(Bytes(0));
    };
    let input = value(&mut builder, 4 << 10, Role::Input);
    builder.resident(input);
    let mut last = input;
    let mut made: Vec<Vec<ValueId>> = Vec::new();
    for _ in 0..layers {
        let weight = value(&mut builder, 8 << 10, Role::Parameter);
        builder.resident(weight);
        let mut here = vec![weight];
        for (i, &(bytes, nanos, extra)) in ops.iter().enumerate() {
            let mut inputs = vec![last];
            inputs.extend(extra.map(|e| here[e + 1]));
            inputs.extend((i == 0).then_some(weight));
            last = value(&mut builder, bytes, Role::Activation);
            op(&mut builder, Phase::Forward, format!("F{i}"), inputs, last, nanos);
            here.push(last);
        }
        made.push(here);
    }
    let loss = value(&mut builder, 4, Role::Loss);
    op(&mut builder, Phase::Loss, "Loss".into(), vec![last], loss, 500);
    builder.output(loss);
    let mut gradient = loss;
    for here in made.iter().rev() {
        for (i, &(bytes, nanos, _)) in ops.iter().enumerate().rev() {
            let inputs = vec![gradient, here[i + 1]];
            gradient = value(&mut builder, bytes, Role::Activation);
            op(&mut builder, Phase::Backward, format!("B{i}"), inputs, gradient, 2 * nanos);
        }
        let of_weight = value(&mut builder, 8 << 10, Role::Gradient);
        op(&mut builder, Phase::Backward, "W".into(), vec![gradient, here[0]], of_weight, 700);
        builder.output(of_weight);
    }
    let graph = builder.finish().expect("the generator makes valid graphs");
    Problem::new(format!("layered-{seed}-{layers}"), graph, Costs { time, workspace }, Device::default())
        .expect("sums are small")
}

/// The training step of a recurrence that goes through a sequence in both directions, recorded in turns in the backward part. The
/// gradient of each step's result is a slice of a whole sequence's, and what is left of it a copy with a hole in it; gradients of the
/// weights are added up against the order in which the steps' gradients are made.
///
/// # Panics
/// Never: what it builds is valid.
pub fn both_ways(steps: usize) -> Problem {
    const STEP: u64 = 4 << 10;
    let mut builder = GraphBuilder::new();
    let (mut time, mut workspace) = (EntityMap::new(), EntityMap::new());
    let mut op = |builder: &mut GraphBuilder, phase, kind: &str, inputs: Vec<ValueId>, bytes: u64| {
        let role = if phase == Phase::Forward { Role::Activation } else { Role::Gradient };
        let output = builder.value(NewValue { bytes: Bytes(bytes), alias_of: None, role, ..NewValue::default() });
        let (kind, outputs, replay) = (kind.to_owned(), vec![output], Replay::Pure);
        builder.op(Op { kind, phase, inputs, outputs, inplace: Vec::new(), replay });
        time.push(Nanos(1_000));
        workspace.push(Bytes(0));
        output
    };
    let resident = |builder: &mut GraphBuilder, bytes: u64, role: Role| {
        let value = builder.value(NewValue { bytes: Bytes(bytes), alias_of: None, role, ..NewValue::default() });
        builder.resident(value);
        value
    };
    let input = resident(&mut builder, STEP, Role::Input);
    let weights = [(); 2].map(|()| resident(&mut builder, STEP, Role::Parameter));
    let mut states = [vec![input], vec![input]];
    let mut gates = [Vec::new(), Vec::new()];
    for (way, &weight) in weights.iter().enumerate() {
        for step in 0..steps {
            let state = states[way][step];
            let gate = op(&mut builder, Phase::Forward, "Gates", vec![state, weight], 8 * STEP);
            gates[way].push(gate);
            states[way].push(op(&mut builder, Phase::Forward, "Cell", vec![gate, state], STEP));
        }
    }
    let ends = states.iter().flat_map(|states| states[1..].iter().copied()).collect();
    let loss = op(&mut builder, Phase::Loss, "Loss", ends, 4);
    builder.output(loss);
    let whole = steps as u64 * STEP;
    let mut rest = [(); 2].map(|()| op(&mut builder, Phase::Backward, "Whole", vec![loss], whole));
    let mut carried = [loss; 2];
    let mut of_gates = [Vec::new(), Vec::new()];
    for step in (0..steps).rev() {
        for way in 0..2 {
            let slice = op(&mut builder, Phase::Backward, "Slice", vec![rest[way]], STEP);
            let gradient = op(&mut builder, Phase::Backward, "Add", vec![slice, carried[way]], STEP);
            let of_gate = op(&mut builder, Phase::Backward, "OfGates", vec![gradient, gates[way][step]], 4 * STEP);
            if step > 0 {
                carried[way] = op(&mut builder, Phase::Backward, "OfState", vec![of_gate, weights[way]], STEP);
                rest[way] = op(&mut builder, Phase::Backward, "Hole", vec![rest[way]], whole);
            }
            of_gates[way].push(of_gate);
        }
    }
    for way in 0..2 {
        let mut sum = None;
        for (step, &of_gate) in of_gates[way].iter().rev().enumerate() {
            let inputs = [of_gate, states[way][step]].into_iter().chain(sum).collect();
            sum = Some(op(&mut builder, Phase::Backward, "OfWeight", inputs, STEP));
        }
        sum.into_iter().for_each(|sum| builder.output(sum));
    }
    let graph = builder.finish().expect("the generator makes valid graphs");
    Problem::new(format!("both-ways-{steps}"), graph, Costs { time, workspace }, Device::default())
        .expect("sums are small")
}

/// A random series-parallel graph of about `ops` ops, in any number of which branches run side by
/// side; with `backward`, about half of them are its backward pass, which reads what was made on
/// the way forward and adds up the gradients of what has several readers.
///
/// # Panics
/// Never: what it builds is valid, and the builder says so.
pub fn series_parallel(seed: u64, ops: usize, backward: bool) -> Problem {
    let mut net = Net {
        dice: Dice(seed ^ 0x5e71_e5fa_4a11_e100),
        builder: GraphBuilder::new(),
        costs: Costs { time: EntityMap::new(), workspace: EntityMap::new() },
        bytes: Vec::new(),
        ops: Vec::new(),
    };
    let size = 1 + net.dice.roll(40);
    let input = net.value(size, Role::Input);
    net.builder.resident(input);
    // The backward takes an op for each, and the sums.
    let forward = if backward { ops * 2 / 5 } else { ops };
    let output = net.block(input, forward.max(1));
    match backward {
        false => net.builder.output(output),
        true => net.backward(output),
    }
    let graph = net.builder.finish().expect("the generator makes valid graphs");
    Problem::new(format!("series-parallel-{seed}"), graph, net.costs, Device::default()).expect("sums are small")
}

/// A graph under construction and what its ops read and make.
struct Net {
    dice: Dice,
    builder: GraphBuilder,
    costs: Costs,
    bytes: Vec<u64>,
    ops: Vec<(Vec<ValueId>, ValueId)>,
}

impl Net {
    fn value(&mut self, bytes: u64, role: Role) -> ValueId {
        self.bytes.push(bytes);
        self.builder.value(NewValue { bytes: Bytes(bytes), role, ..NewValue::default() })
    }

    fn op(&mut self, kind: &str, phase: Phase, inputs: Vec<ValueId>, outputs: Vec<ValueId>) {
        self.costs.time.push(Nanos(1 + self.dice.roll(60)));
        let workspace = if self.dice.chance(10) { self.dice.roll(20) } else { 0 };
        self.costs.workspace.push(Bytes(workspace));
        let (inplace, replay) = (Vec::new(), Replay::Pure);
        self.builder.op(Op { kind: kind.into(), phase, inputs, outputs, inplace, replay });
    }

    /// One forward op.
    fn forward(&mut self, inputs: Vec<ValueId>) -> ValueId {
        let same = self.bytes[inputs[0].index()];
        let bytes = if self.dice.chance(60) { same } else { 1 + self.dice.roll(40) };
        let output = self.value(bytes, Role::Activation);
        let kind = format!("Op{}", self.dice.roll(5));
        self.op(&kind, Phase::Forward, inputs.clone(), vec![output]);
        self.ops.push((inputs, output));
        output
    }

    /// `ops` ops between two ends: one after the other, or branches and an op that joins them.
    fn block(&mut self, input: ValueId, ops: usize) -> ValueId {
        if ops < 4 || self.dice.chance(50) {
            if ops == 1 {
                return self.forward(vec![input]);
            }
            let first = 1 + self.dice.roll(ops as u64 - 1) as usize;
            let middle = self.block(input, first);
            return self.block(middle, ops - first);
        }
        let branches = 2 + self.dice.roll(2.min(ops as u64 - 3)) as usize;
        let mut left = ops - 1;
        let mut ends = Vec::new();
        for k in (0..branches).rev() {
            let most = left - k;
            let here = if k == 0 { most } else { 1 + self.dice.roll(most as u64) as usize };
            left -= here;
            ends.push(self.block(input, here));
        }
        self.forward(ends)
    }

    fn backward(&mut self, output: ValueId) {
        let mut gradient: Vec<Option<ValueId>> = vec![None; self.bytes.len()];
        let seed = self.value(self.bytes[output.index()], Role::Gradient);
        self.op("Loss", Phase::Loss, vec![output], vec![seed]);
        gradient[output.index()] = Some(seed);
        for (inputs, output) in std::mem::take(&mut self.ops).into_iter().rev() {
            let Some(from) = gradient[output.index()] else { continue };
            let mut reads = vec![from];
            reads.extend(inputs.iter().filter(|_| self.dice.chance(60)));
            reads.extend(self.dice.chance(30).then_some(output));
            let made: Vec<ValueId> = inputs.iter().map(|v| self.value(self.bytes[v.index()], Role::Gradient)).collect();
            let mut outputs = made.clone();
            if self.dice.chance(40) {
                let bytes = 1 + self.dice.roll(5);
                let weights = self.value(bytes, Role::Gradient);
                self.builder.output(weights);
                outputs.push(weights);
            }
            self.op("Backward", Phase::Backward, reads, outputs);
            for (v, made) in inputs.into_iter().zip(made) {
                let sum = match gradient[v.index()] {
                    None => made,
                    Some(before) => {
                        let sum = self.value(self.bytes[v.index()], Role::Gradient);
                        self.op("Sum", Phase::Backward, vec![before, made], vec![sum]);
                        sum
                    }
                };
                gradient[v.index()] = Some(sum);
            }
        }
        // The input's.
        self.builder.output(gradient[0].expect("every path leads to the input"));
    }
}
