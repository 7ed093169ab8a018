//! The step of one stage by itself, as a problem.

use std::collections::BTreeMap;

use super::stages::Stages;
use crate::cost::{Costs, Device, Problem};
use crate::entity::{Entity as _, EntityMap, OpId, ValueId};
use crate::error::Result;
use crate::graph::{GraphBuilder, NewValue, Op, Phase, Replay, Role};
use crate::units::{Bytes, Nanos};

/// One stage's step: a problem like any other.
///
/// Three kinds of ops stand for the other stages; they take no time, and each runs once: `Pipeline.Receive`, the first
/// op, hands over what the stage before sends; `Pipeline.Exchange` reads what the stage behind is sent and hands over
/// the gradients that come back, so it stands where the loss stands in a whole step. What goes to the stage before is an
/// output of the problem.
#[derive(Clone, Debug)]
pub struct StageProblem {
    /// The problem.
    pub problem: Problem,
    /// The value of the whole step that each value is; none for the tokens that stand for an empty message.
    pub values: EntityMap<ValueId, Option<ValueId>>,
    /// The op of the whole step that each op is; none for those that stand for other stages.
    pub ops: EntityMap<OpId, Option<OpId>>,
    /// Where the forward ends: the first op that is not a part of it.
    pub backward: OpId,
    /// Bytes of the message from the stage before.
    pub received: Bytes,
    /// Bytes of the message to the stage behind.
    pub sent: Bytes,
    /// Bytes of the gradients from the stage behind.
    pub gradient_received: Bytes,
    /// Bytes of the gradients to the stage before.
    pub gradient_sent: Bytes,
}

/// A problem under construction.
struct Extract<'a> {
    stages: &'a Stages<'a>,
    builder: GraphBuilder,
    costs: Costs,
    /// What a value of the whole step is here, and the value that its storage belongs to.
    here: BTreeMap<ValueId, (ValueId, ValueId)>,
    values: EntityMap<ValueId, Option<ValueId>>,
    ops: EntityMap<OpId, Option<OpId>>,
}

impl Stages<'_> {
    /// The step of a stage; its numbers are from 0.
    ///
    /// # Errors
    /// Those of [`Problem::new`], none of which a part of a valid problem can have.
    ///
    /// # Panics
    /// When there is no such stage.
    pub fn problem(&self, stage: usize) -> Result<StageProblem> {
        assert!(stage < self.count(), "there are {} stages", self.count());
        let none: &[ValueId] = &[];
        let before = stage.checked_sub(1);
        let behind = Some(stage).filter(|&stage| stage + 1 < self.count());
        let mut extract = Extract::new(self);
        extract.residents(stage);
        let received =
            extract.receive(before.map_or(none, |b| self.sent_up(b)), "Pipeline.Receive", &[], Phase::Forward);
        let graph = &self.problem.graph;
        let (forwards, backwards): (Vec<OpId>, Vec<OpId>) = graph.ops().keys().partition(|&op| op < self.backward);
        forwards.into_iter().for_each(|op| extract.op(op, stage));
        let (sent, mut gradient_received) = (behind.map_or(none, |b| self.sent_up(b)), Bytes::ZERO);
        if let Some(behind) = behind {
            gradient_received = extract.receive(self.sent_down(behind), "Pipeline.Exchange", sent, Phase::Loss);
        }
        let backward = OpId::from_index(extract.ops.len());
        backwards.into_iter().for_each(|op| extract.op(op, stage));
        let gradients = before.map_or(none, |b| self.sent_down(b));
        let wire = |values: &[ValueId]| Self::groups(self, values).iter().map(|group| group.1).sum();
        let (sent, gradient_sent) = (wire(sent), wire(gradients));
        extract.outputs(gradients, stage);
        let Extract { builder, costs, values, ops, .. } = extract;
        let name = format!("{} stage {stage}", self.problem.name);
        let problem = Problem::new(name, builder.finish()?, costs, Device::default())?;
        Ok(StageProblem { problem, values, ops, backward, received, sent, gradient_received, gradient_sent })
    }

    /// A message's values by storage, each group with its bytes: a value that goes alone needs its own bytes, several of
    /// one storage go as that storage.
    fn groups(&self, values: &[ValueId]) -> Vec<(Vec<ValueId>, Bytes)> {
        let graph = &self.problem.graph;
        let mut groups: BTreeMap<_, Vec<ValueId>> = BTreeMap::new();
        for &v in values {
            groups.entry(graph.values()[v].storage).or_default().push(v);
        }
        let bytes = |storage, group: &[ValueId]| match group {
            [alone] => graph.values()[*alone].bytes.min(graph.storages()[storage].bytes),
            _ => graph.storages()[storage].bytes,
        };
        groups.into_iter().map(|(storage, group)| (group.clone(), bytes(storage, &group))).collect()
    }
}

impl<'a> Extract<'a> {
    fn new(stages: &'a Stages<'a>) -> Self {
        let costs = Costs { time: EntityMap::new(), workspace: EntityMap::new() };
        let (builder, here) = (GraphBuilder::new(), BTreeMap::new());
        Self { stages, builder, costs, here, values: EntityMap::new(), ops: EntityMap::new() }
    }

    /// Declare a value of the whole step; `root` is the value here whose storage it shares.
    fn value(&mut self, v: ValueId, bytes: Bytes, root: Option<ValueId>) -> ValueId {
        let value = &self.stages.problem.graph.values()[v];
        let new = self.builder.value(NewValue {
            name: value.name.clone(),
            bytes,
            dims: value.dims.clone(),
            alias_of: root,
            role: value.role,
        });
        self.values.push(Some(v));
        self.here.insert(v, (new, root.unwrap_or(new)));
        new
    }

    /// What is resident and read here, and whatever shares its storage as its owner.
    fn residents(&mut self, stage: usize) {
        let graph = &self.stages.problem.graph;
        for (v, value) in graph.values().iter().filter(|(_, value)| value.resident) {
            let kept = value.output && stage == 0;
            if !kept && !self.stages.readers(v).any(|reader| reader == stage) {
                continue;
            }
            let root = graph.storages()[value.storage].root;
            if root != v && !self.here.contains_key(&root) {
                let here = self.value(root, graph.values()[root].bytes, None);
                self.builder.resident(here);
            }
            if !self.here.contains_key(&v) {
                let root = self.here.get(&root).map(|root| root.0);
                let here = self.value(v, value.bytes, root);
                self.builder.resident(here);
            }
        }
    }

    /// An op that hands over values, after it has read `sends`. Nothing if there is nothing to do.
    fn receive(&mut self, values: &[ValueId], kind: &str, sends: &[ValueId], phase: Phase) -> Bytes {
        if values.is_empty() && sends.is_empty() {
            return Bytes::ZERO;
        }
        let inputs = sends.iter().map(|v| self.here[v].0).collect();
        let (mut outputs, mut all) = (Vec::new(), Bytes::ZERO);
        for (group, bytes) in self.stages.groups(values) {
            // The owner of the storage is the largest of them.
            let mut root = None;
            for v in group {
                let own = self.stages.problem.graph.values()[v].bytes;
                let here = self.value(v, if root.is_none() { bytes } else { own }, root);
                root = root.or(Some(here));
                outputs.push(here);
            }
            all += bytes;
        }
        if outputs.is_empty() {
            let token = self.builder.value(NewValue { name: "sent".into(), role: Role::Output, ..NewValue::default() });
            self.values.push(None);
            self.builder.output(token);
            outputs.push(token);
        }
        let op = Op { kind: kind.to_owned(), phase, inputs, outputs, inplace: Vec::new(), replay: Replay::Once };
        self.push(op, None, Nanos::ZERO, Bytes::ZERO);
        all
    }

    fn push(&mut self, op: Op, whole: Option<OpId>, time: Nanos, workspace: Bytes) {
        self.builder.op(op);
        self.ops.push(whole);
        self.costs.time.push(time);
        self.costs.workspace.push(workspace);
    }

    /// An op of the whole step, if it belongs to the stage.
    fn op(&mut self, id: OpId, stage: usize) {
        let whole = self.stages.problem;
        let (op, values) = (&whole.graph.ops()[id], whole.graph.values());
        let mut outputs = op.outputs.clone();
        if self.stages.hands_over(id) {
            // Every stage is handed the inputs that it reads, the first also those that nobody does.
            let reads = |v: ValueId| self.stages.readers(v).any(|reader| reader == stage);
            let unread = |v: ValueId| stage == 0 && self.stages.readers(v).next().is_none();
            outputs.retain(|&v| reads(v) || unread(v));
        } else if self.stages.stage_of(id) != stage {
            return;
        }
        if outputs.is_empty() {
            return;
        }
        // Owners of storages first: views of the same op share theirs.
        let mut order = outputs.clone();
        order.sort_by_key(|&v| values[v].alias_of.is_some());
        for &v in &order {
            let near = op.inputs.iter().chain(&order).filter(|&&u| u != v && values[u].storage == values[v].storage);
            let root = values[v].alias_of.and_then(|_| near.filter_map(|u| self.here.get(u)).map(|u| u.1).next());
            self.value(v, values[v].bytes, root);
        }
        let at = |v: &ValueId| self.here[v].0;
        let here = Op {
            kind: op.kind.clone(),
            phase: op.phase,
            inputs: op.inputs.iter().map(at).collect(),
            outputs: outputs.iter().map(at).collect(),
            inplace: if outputs.len() == op.outputs.len() { op.inplace.clone() } else { Vec::new() },
            replay: op.replay,
        };
        self.push(here, Some(id), whole.costs.time[id], whole.costs.workspace[id]);
    }

    /// What the stage makes of the whole step's outputs, and the gradients that it sends.
    fn outputs(&mut self, gradients: &[ValueId], stage: usize) {
        let graph = &self.stages.problem.graph;
        let mine = |v: ValueId| match graph.values()[v].producer {
            Some(op) if self.stages.hands_over(op) => self.stages.readers(v).min().unwrap_or(0) == stage,
            Some(op) => self.stages.stage_of(op) == stage,
            None => stage == 0,
        };
        let mut outputs: Vec<ValueId> = graph.outputs().iter().copied().filter(|&v| mine(v)).collect();
        outputs.extend(gradients);
        outputs.sort_unstable();
        outputs.dedup();
        for v in outputs {
            self.builder.output(self.here[&v].0);
        }
    }
}
