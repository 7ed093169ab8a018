//! The stages of the backward's ops; [`stages`](super::stages) says by which rules.

use std::collections::{BTreeMap, BTreeSet};

use super::stages::Stages;
use crate::entity::{EntityMap, OpId, ValueId};
use crate::graph::{Graph, Role, Value};
use crate::units::Bytes;

/// The stages in which something is at hand in the forward: from where it is made, or read first, to where it is
/// read last.
#[derive(Clone, Copy)]
struct Reach {
    from: usize,
    to: usize,
}

struct Place<'a> {
    stages: &'a Stages<'a>,
    graph: &'a Graph,
    of: EntityMap<OpId, usize>,
    /// Whether a gradient leads to an op.
    led: EntityMap<OpId, bool>,
    /// What an op, or what prepares something for it, reads of the forward.
    reads: EntityMap<OpId, BTreeSet<ValueId>>,
    reach: EntityMap<ValueId, Option<Reach>>,
}

/// The stage of every op, given those of the forward.
pub(super) fn backward(stages: &Stages<'_>) -> EntityMap<OpId, usize> {
    let graph = &stages.problem.graph;
    let mut place = Place {
        stages,
        graph,
        of: stages.of.clone(),
        led: EntityMap::filled(false, graph.ops().len()),
        reads: EntityMap::filled(BTreeSet::new(), graph.ops().len()),
        reach: graph.values().keys().map(|v| reach(stages, v)).collect(),
    };
    place.follow();
    place.by_data();
    place.by_shape();
    place.by_use();
    place.of
}

/// Where a value made by the forward, or a resident that it reads, is at hand.
fn reach(stages: &Stages<'_>, v: ValueId) -> Option<Reach> {
    let graph = &stages.problem.graph;
    let readers = || graph.uses(v).iter().filter(|&&op| op < stages.backward).map(|&op| stages.of[op]);
    let from = match stages.maker(v) {
        Some(maker) if maker < stages.backward => stages.of[maker],
        Some(_) => return None,
        None => readers().min()?,
    };
    Some(Reach { from, to: readers().max().unwrap_or(from).max(from) })
}

impl Place<'_> {
    fn behind(&self) -> impl DoubleEndedIterator<Item = OpId> + use<> {
        let backward = self.stages.backward;
        self.graph.ops().keys().filter(move |&op| op >= backward)
    }

    /// Where gradients lead to, beginning with the first op of the backward, which makes that of the loss; and what is
    /// read of the forward on the way.
    fn follow(&mut self) {
        for op in self.behind() {
            let inputs = &self.graph.ops()[op].inputs;
            let maker = |v: ValueId| self.stages.maker(v).filter(|&maker| maker >= self.stages.backward);
            let led = op == self.stages.backward || inputs.iter().any(|&v| maker(v).is_some_and(|m| self.led[m]));
            let mut all: BTreeSet<ValueId> = inputs.iter().copied().filter(|&v| self.reach[v].is_some()).collect();
            for prepares in inputs.iter().filter_map(|&v| maker(v)).filter(|&m| !self.led[m]) {
                all.extend(&self.reads[prepares]);
            }
            (self.led[op], self.reads[op]) = (led, all);
        }
    }

    /// As late as data allows.
    fn by_data(&mut self) {
        for op in self.behind().filter(|&op| self.led[op]).collect::<Vec<_>>() {
            let gradients = self.makers(op).filter(|&m| self.led[m]).map(|m| self.of[m]);
            self.of[op] = self.last(op, gradients.min().unwrap_or(self.stages.count - 1));
        }
    }

    /// The gradient of a bias reads nothing of the forward, so the one of a stage's last op would be made behind it. A
    /// graph does not say whose gradient a value is, but a stage that makes more gradients of a shape than it reads
    /// parameters of that shape has one of the stage before, and that is the last it makes.
    fn by_shape(&mut self) {
        let values = self.graph.values();
        let told = values.values().any(|value| value.resident && value.role == Role::Parameter);
        let parameter = |value: &Value| value.resident && (!told || value.role == Role::Parameter);
        let mut read: BTreeMap<_, i64> = BTreeMap::new();
        for (v, value) in values.iter().filter(|(_, value)| parameter(value)) {
            if let Some(reach) = self.reach[v] {
                *read.entry((reach.to, value.bytes, &value.dims)).or_default() += 1;
            }
        }
        let told = self.graph.outputs().iter().any(|&v| values[v].role == Role::Gradient);
        let made = |&v: &ValueId| Some((v, values[v].producer.filter(|&op| op >= self.stages.backward)?));
        let mut gradients: Vec<(ValueId, OpId)> = self.graph.outputs().iter().filter_map(made).collect();
        gradients.retain(|&(v, _)| !told || values[v].role == Role::Gradient);
        gradients.sort_by_key(|&(v, op)| (op, v));
        for stage in (1..self.stages.count).rev() {
            let mut more: BTreeMap<_, i64> = BTreeMap::new();
            for (v, _) in gradients.iter().copied().filter(|&(_, op)| self.of[op] == stage) {
                *more.entry((values[v].bytes, &values[v].dims)).or_default() += 1;
            }
            for (&(bytes, dims), more) in &mut more {
                *more -= read.get(&(stage, bytes, dims)).copied().unwrap_or(0);
            }
            for &(v, op) in gradients.iter().rev() {
                let Some(more) = more.get_mut(&(values[v].bytes, &values[v].dims)) else { continue };
                if *more > 0 && self.of[op] == stage && self.users(op).next().is_none() && self.at_hand(op, stage - 1) {
                    (self.of[op], *more) = (stage - 1, *more - 1);
                }
            }
        }
    }

    /// To where results are read: always, for what prepares something; otherwise if it pays.
    fn by_use(&mut self) {
        for op in self.behind().rev() {
            match (self.led[op], self.users(op).max()) {
                (false, Some(to)) => self.of[op] = to,
                (false, None) => self.of[op] = self.last(op, self.stages.count - 1),
                (true, Some(to)) if to < self.of[op] && self.pays(op, to) => self.of[op] = to,
                _ => {}
            }
        }
    }

    /// The backward ops that make what an op reads.
    fn makers(&self, op: OpId) -> impl Iterator<Item = OpId> + '_ {
        let inputs = self.graph.ops()[op].inputs.iter();
        inputs.filter_map(|&v| self.stages.maker(v)).filter(|&maker| maker >= self.stages.backward)
    }

    /// The stages that read what an op makes.
    fn users(&self, op: OpId) -> impl Iterator<Item = usize> + '_ {
        self.graph.ops()[op].outputs.iter().flat_map(|&v| self.graph.uses(v)).map(|&user| self.of[user])
    }

    fn at_hand(&self, op: OpId, stage: usize) -> bool {
        self.reads[op].iter().filter_map(|&v| self.reach[v]).all(|reach| (reach.from..=reach.to).contains(&stage))
    }

    /// The last stage up to `most` that has all that an op reads of the forward; where none has, the one that has the last
    /// of it first.
    fn last(&self, op: OpId, most: usize) -> usize {
        let from = self.reads[op].iter().filter_map(|&v| self.reach[v]).map(|reach| reach.from).max();
        (0..=most).rev().find(|&stage| self.at_hand(op, stage)).unwrap_or(from.unwrap_or(most).min(most))
    }

    /// Whether no more has to be sent if an op goes down to a stage that reads its results: gradients that this stage
    /// does not have anyway, against the results.
    fn pays(&self, op: OpId, to: usize) -> bool {
        let values = self.graph.values();
        let others = |v: ValueId| self.graph.uses(v).iter().any(|&user| user != op && self.of[user] <= to);
        let inputs: BTreeSet<ValueId> = self.graph.ops()[op].inputs.iter().copied().collect();
        let gradients = inputs.into_iter().filter(|&v| self.stages.maker(v).is_some_and(|m| m >= self.stages.backward));
        let more: Bytes = gradients.filter(|&v| !others(v)).map(|v| values[v].bytes).sum();
        let less: Bytes = self.graph.ops()[op].outputs.iter().map(|&v| values[v].bytes).sum();
        more <= less && self.at_hand(op, to)
    }
}
