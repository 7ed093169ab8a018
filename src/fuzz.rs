//! Random problems, for tests and fuzz targets: the same problem for the same seed, everywhere.

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
}

impl Shape {
    /// Everything there is.
    pub fn all(ops: usize) -> Self {
        Self { ops, mirrored: true, views: true, inplace: true, multi: true, once: true }
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
        let count = if view { 1 } else { 1 + dice.roll(3) as usize };
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
