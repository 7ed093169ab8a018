//! Where a training step can be cut in two.
//!
//! ```text
//! ops      0 ........ c ........ b0 ........ b ........ n
//!          |  forward | forward  |  backward | backward |
//!             before     behind     behind      before
//! ```
//!
//! A cut after `c` forward ops has a partner `b` in the backward part, because backward ops run in about the reverse of
//! the forward's order. Of all partners the one is taken across which the fewest bytes go, unless that would leave the
//! backward cut in another proportion than the forward: values made before the cut and
//! read behind it go forward, values made behind it and read before it go backward. A parameter that both sides read
//! counts as if it were sent, so that an op is on the side of its parameters. A value that is read two stages on crosses two
//! cuts: it is carried.

use std::collections::BTreeMap;

use super::order::reversed;
use crate::cost::Problem;
use crate::entity::{Entity, EntityMap, OpId, ValueId};
use crate::graph::{Phase, Replay, Role};

/// Cuts that are looked at, at most: in larger graphs the best of each stretch of the forward's time.
const MOST: usize = 256;

/// What a partner that is off by the whole backward costs, in times the fewest bytes that cross.
const OFF: f64 = 20.0;

/// Tenths of the bytes that cross cuts of the order as recorded, above which the [reversed] one is not taken.
const MUCH_LESS: f64 = 7.0;

/// Where a step is cut: see the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Ops of the forward part before it.
    pub forward: usize,
    /// Index of the first backward op before it.
    pub backward: usize,
    /// Bytes that go forward across it for each microbatch.
    pub sent: u64,
    /// Bytes that come back.
    pub returned: u64,
    /// Values that go either way.
    pub values: usize,
}

/// What the cuts of a problem are made from. Ops are named by their places in `order`.
pub(super) struct Layout {
    /// The graph's order, but what only hands a gradient out stands where the gradient is made, and what the backward part
    /// does with nothing but the forward's results, and not for a gradient, stands in the forward. Where that makes cuts much
    /// cheaper the backward part is [brought](reversed) into the reverse of the forward's order.
    pub order: Vec<OpId>,
    /// Places of ops in that order.
    pub place: EntityMap<OpId, usize>,
    /// Index of the first op of the backward part.
    pub turn: usize,
    /// All ops.
    pub ops: usize,
    /// Time of all ops before each place.
    passed: Vec<u64>,
    /// Places of each value's producer and readers; residents and what every stage has by itself have none.
    lives: Vec<(ValueId, usize, Vec<usize>, u64)>,
    /// Parameters' readers.
    shared: Vec<(Vec<usize>, u64)>,
    /// First and last op of what no cut may come between: see [`kept_together`].
    together: Vec<(usize, usize)>,
}

/// Whether what an op makes is there on every device without being sent: inputs of the step.
pub(super) fn is_source(problem: &Problem, op: OpId) -> bool {
    let (op, values) = (&problem.graph.ops()[op], problem.graph.values());
    let given = |v: &ValueId| values[*v].role == Role::Input || values[*v].bytes.get() == 0;
    op.inputs.is_empty() && op.outputs.iter().all(given)
}

/// Ops that neither the loss nor a gradient needs, as those that bring running statistics forward; none where a problem
/// does not say what its gradients are.
fn beside(problem: &Problem) -> EntityMap<OpId, bool> {
    let graph = &problem.graph;
    if !graph.outputs().iter().any(|&v| graph.values()[v].role == Role::Gradient) {
        return EntityMap::filled(false, graph.ops().len());
    }
    let mut needed: EntityMap<ValueId, bool> = EntityMap::filled(false, graph.values().len());
    for &v in graph.outputs() {
        needed[v] = matches!(graph.values()[v].role, Role::Loss | Role::Gradient);
    }
    let mut beside = EntityMap::filled(false, graph.ops().len());
    for (id, op) in graph.ops().iter().rev() {
        beside[id] = !is_source(problem, id) && !op.outputs.iter().any(|&v| needed[v]);
        if !beside[id] {
            op.inputs.iter().for_each(|&v| needed[v] = true);
        }
    }
    beside
}

/// See [`Layout::order`]; and where its backward part begins.
fn order(problem: &Problem, beside: &EntityMap<OpId, bool>, turn: usize) -> (Vec<OpId>, usize) {
    let graph = &problem.graph;
    let hands_out = |id: OpId| {
        let given = |&v: &ValueId| {
            let value = &graph.values()[v];
            value.output && value.role == Role::Gradient && value.alias_of.is_some() && graph.uses(v).is_empty()
        };
        let op = &graph.ops()[id];
        op.outputs.iter().all(given) && op.replay == Replay::Pure
    };
    // By op that moves: the one behind which it goes.
    let mut behind: EntityMap<OpId, Option<OpId>> = EntityMap::filled(None, graph.ops().len());
    let mut after: EntityMap<OpId, Vec<OpId>> = EntityMap::filled(Vec::new(), graph.ops().len());
    let mut early = 0;
    for id in graph.ops().keys().skip(turn) {
        let producers = graph.ops()[id].inputs.iter().filter_map(|&v| graph.values()[v].producer);
        let Some(last) = producers.map(|p| behind[p].unwrap_or(p)).max() else { continue };
        let forward = last.index() < turn;
        if (forward && beside[id]) || (!forward && hands_out(id)) {
            behind[id] = Some(last);
            after[last].push(id);
            early += usize::from(forward);
        }
    }
    let mut order = Vec::with_capacity(graph.ops().len());
    for id in graph.ops().keys().filter(|&id| behind[id].is_none()) {
        order.push(id);
        order.extend_from_slice(&after[id]);
    }
    (order, turn + early)
}

/// A device that brings running statistics forward must see every microbatch's, so [such](beside) ops that hang together
/// stay together. First and last place of each such group.
fn kept_together(
    problem: &Problem,
    beside: &EntityMap<OpId, bool>,
    order: &[OpId],
    place: &EntityMap<OpId, usize>,
) -> Vec<(usize, usize)> {
    let graph = &problem.graph;
    // Ops hang together through what one makes and another reads, and through the statistics they read.
    let mut group: EntityMap<OpId, OpId> = graph.ops().keys().collect();
    let root = |group: &EntityMap<OpId, OpId>, mut id: OpId| {
        while group[id] != id {
            id = group[id];
        }
        id
    };
    let mut reader: EntityMap<ValueId, Option<OpId>> = EntityMap::filled(None, graph.values().len());
    for &id in order.iter().filter(|&&id| beside[id]) {
        for &v in &graph.ops()[id].inputs {
            let value = &graph.values()[v];
            let other = match value.producer {
                Some(producer) => Some(producer).filter(|&producer| beside[producer]),
                None if value.role == Role::Buffer => Some(*reader[v].get_or_insert(id)),
                None => None,
            };
            if let Some(other) = other {
                let (a, b) = (root(&group, id), root(&group, other));
                group[b] = a;
            }
        }
    }
    let mut spans: BTreeMap<OpId, (usize, usize)> = BTreeMap::new();
    for &id in order.iter().filter(|&&id| beside[id]) {
        let span = spans.entry(root(&group, id)).or_insert((place[id], place[id]));
        *span = (span.0.min(place[id]), span.1.max(place[id]));
    }
    spans.into_values().filter(|span| span.0 < span.1).collect()
}

impl Layout {
    /// The layout of a problem's step, and the cuts worth looking at.
    pub fn new(problem: &Problem) -> (Self, Vec<Cut>) {
        let graph = &problem.graph;
        let backward = |phase: Phase| matches!(phase, Phase::Backward | Phase::Update);
        let turn = graph.ops().values().position(|op| backward(op.phase)).unwrap_or(graph.ops().len());
        let beside = beside(problem);
        let (order, turn) = order(problem, &beside, turn);
        let reversed = reversed(problem, &order, turn);
        let of = |order| {
            let layout = Self::of(problem, &beside, order, turn);
            let cuts = layout.candidates(problem);
            (layout, cuts)
        };
        let recorded = of(order);
        match reversed.map(of) {
            Some(reversed) if bytes(&reversed.1) <= bytes(&recorded.1) / 10.0 * MUCH_LESS => reversed,
            _ => recorded,
        }
    }

    fn of(problem: &Problem, beside: &EntityMap<OpId, bool>, order: Vec<OpId>, turn: usize) -> Self {
        let graph = &problem.graph;
        let ops = graph.ops().len();
        let mut place = EntityMap::filled(0, ops);
        order.iter().enumerate().for_each(|(at, &op)| place[op] = at);
        let sources: EntityMap<OpId, bool> = graph.ops().keys().map(|op| is_source(problem, op)).collect();
        let (mut lives, mut shared) = (Vec::new(), Vec::new());
        for (id, value) in graph.values().iter() {
            let mut readers: Vec<usize> = graph.uses(id).iter().map(|&op| place[op]).collect();
            readers.sort_unstable();
            // A view that is larger than its storage need not be sent as it is.
            let bytes = value.bytes.min(graph.storages()[value.storage].bytes).get();
            match value.producer {
                None if value.role == Role::Parameter => shared.push((readers, bytes)),
                Some(op) if !sources[op] && !readers.is_empty() => {
                    lives.push((id, place[op], readers, bytes));
                }
                _ => {}
            }
        }
        let times = order.iter().scan(0u64, |sum, &op| {
            *sum += problem.costs.time[op].get();
            Some(*sum)
        });
        let passed = std::iter::once(0).chain(times).collect();
        let together = kept_together(problem, beside, &order, &place);
        Self { order, place, turn, ops, passed, lives, shared, together }
    }

    /// Values that go forward across a cut, and values that come back.
    pub fn crossing(&self, cut: &Cut) -> (Vec<ValueId>, Vec<ValueId>) {
        let behind = |at: usize| (cut.forward..cut.backward).contains(&at);
        let (mut sent, mut returned) = (Vec::new(), Vec::new());
        for (id, producer, readers, _) in &self.lives {
            if behind(*producer) && readers.iter().any(|&r| r >= cut.backward) {
                returned.push(*id);
            } else if *producer < cut.forward && readers.iter().any(|&r| behind(r)) {
                sent.push(*id);
            }
        }
        (sent, returned)
    }

    /// The cut after `forward` ops.
    fn cut(&self, forward: usize) -> Cut {
        // What it costs to have the partner right before op b, as differences.
        let places = self.ops - self.turn + 1;
        let mut change = vec![0i128; places + 1];
        let mut add = |from: usize, to: usize, bytes: u64| {
            let at = |op: usize| op.clamp(self.turn, self.ops + 1) - self.turn;
            if at(from) < at(to) {
                change[at(from)] += i128::from(bytes);
                change[at(to)] -= i128::from(bytes);
            }
        };
        for (_, producer, readers, bytes) in &self.lives {
            if *producer < forward {
                // Sent forward where a reader is behind the cut: the first that comes after it lies before b.
                if let Some(&reader) = readers.iter().find(|&&r| r >= forward) {
                    add(reader + 1, self.ops + 1, *bytes);
                }
            } else if let Some(&last) = readers.last() {
                add(producer + 1, last + 1, *bytes);
            }
        }
        for (readers, bytes) in &self.shared {
            let (first, last) = (readers.first().copied().unwrap_or(0), readers.last().copied().unwrap_or(0));
            let behind = readers.iter().find(|&&r| r >= forward);
            if readers.is_empty() {
                continue;
            }
            // Read on both sides: before by a forward op, or by a backward op from b on.
            match (first < forward, behind) {
                (true, Some(&reader)) => add(reader + 1, self.ops + 1, *bytes),
                (false, _) => add(first + 1, last + 1, *bytes),
                _ => {}
            }
        }
        let sums = change[..places].iter().scan(0i128, |cost, change| {
            *cost += change;
            Some(*cost)
        });
        let costs: Vec<i128> = sums.collect();
        let least = costs.iter().copied().min().unwrap_or(0).max(1) as f64;
        // Where bytes leave it open, the backward is cut in the same proportion as the forward.
        let share = |from: usize, to: usize, at: usize| {
            let all = self.passed[to] - self.passed[from];
            (self.passed[at] - self.passed[from]) as f64 / all.max(1) as f64
        };
        let behind = 1.0 - share(0, self.turn, forward);
        let price = |place: usize| {
            let off = (share(self.turn, self.ops, self.turn + place) - behind).abs();
            costs[place] as f64 / least + OFF * off
        };
        let best = (0..places).min_by(|&a, &b| price(a).total_cmp(&price(b)));
        let backward = self.turn + best.unwrap_or(0);
        let mut cut = Cut { forward, backward, sent: 0, returned: 0, values: 0 };
        for (_, producer, readers, bytes) in &self.lives {
            let behind = |op: usize| (forward..backward).contains(&op);
            if behind(*producer) && readers.iter().any(|&r| r >= backward) {
                cut.returned += bytes;
                cut.values += 1;
            } else if *producer < forward && readers.iter().any(|&r| behind(r)) {
                cut.sent += bytes;
                cut.values += 1;
            }
        }
        cut
    }

    /// The cuts worth looking at, in order, their partners in reverse order.
    fn candidates(&self, problem: &Problem) -> Vec<Cut> {
        // What goes forward at each place, by the forward part alone.
        let mut change = vec![0i128; self.turn + 2];
        for (_, producer, readers, bytes) in &self.lives {
            let last = readers.iter().rev().find(|&&r| r < self.turn);
            if let Some(&last) = last {
                change[producer + 1] += i128::from(*bytes);
                change[last + 1] -= i128::from(*bytes);
            }
        }
        let bytes: Vec<i128> = change
            .iter()
            .scan(0i128, |level, change| {
                *level += change;
                Some(*level)
            })
            .collect();
        let time: Vec<u64> = self.order[..self.turn].iter().map(|&op| problem.costs.time[op].get()).collect();
        let total = time.iter().sum::<u64>().max(1);
        // By stretch of the forward's time: the place of the fewest bytes, later ones first where they are equal.
        let mut stretches: Vec<Option<usize>> = vec![None; MOST];
        let mut passed = 0u64;
        for place in 1..self.turn {
            passed += time[place - 1];
            // Where there are few places all of them are looked at.
            if self.together.iter().any(|&(first, last)| first < place && place <= last) {
                continue;
            }
            let local = self.turn <= MOST || (bytes[place] <= bytes[place - 1] && bytes[place] <= bytes[place + 1]);
            let stretch = (u128::from(passed) * MOST as u128 / (u128::from(total) + 1)) as usize;
            if local && passed > 0 && stretches[stretch].is_none_or(|other| bytes[place] <= bytes[other]) {
                stretches[stretch] = Some(place);
            }
        }
        // Something must be left to the side behind.
        let all = stretches.into_iter().flatten().map(|place| self.cut(place));
        in_reverse(&all.filter(|cut| cut.backward > cut.forward).collect::<Vec<_>>())
    }
}

/// Bytes that cross a cut in the mean.
fn bytes(cuts: &[Cut]) -> f64 {
    let all: f64 = cuts.iter().map(|cut| (cut.sent + cut.returned) as f64).sum();
    if cuts.is_empty() { f64::INFINITY } else { all / cuts.len() as f64 }
}

/// The most cuts of which each has its partner no later than the one before.
fn in_reverse(cuts: &[Cut]) -> Vec<Cut> {
    // By cut: how many such there are up to it, and the one before.
    let mut chains: Vec<(usize, Option<usize>)> = Vec::with_capacity(cuts.len());
    for (i, cut) in cuts.iter().enumerate() {
        let before = (0..i).filter(|&j| cuts[j].backward >= cut.backward).max_by_key(|&j| (chains[j].0, j));
        chains.push((1 + before.map_or(0, |j| chains[j].0), before));
    }
    let mut last = (0..cuts.len()).max_by_key(|&i| (chains[i].0, i));
    let mut kept = Vec::new();
    while let Some(i) = last {
        kept.push(cuts[i]);
        last = chains[i].1;
    }
    kept.reverse();
    kept
}
