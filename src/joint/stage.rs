//! One stage as a problem of its own, so that every single-device solver can plan it.
//!
//! ```text
//! Receive   makes what the stage before sends                        (not in the first stage)
//! forward   the stage's forward ops
//! Send      reads what is sent on
//! Turn      makes the gradients that come back: here other microbatches pass
//! backward  the stage's backward ops; where they are split, first what the stage before waits for
//! Return    reads what is sent back                                  (not in the first stage)
//! Between   and, where they are split, the other backward ops after it
//! ```
//!
//! What is live across `Turn` is live once for every microbatch in flight, so with `f` of them, `saved` bytes across
//! `Turn` and a peak of `peak`, the device needs `(f - 1) saved + peak`. A workspace of `Turn` (the *reserve*) makes a
//! solver save less: within a budget `B`, a reserve of `B - s` leaves `s` bytes.
//!
//! A parameter's gradient is added to the device's sum of gradients as soon as it is made (`Accumulate`), and freed.
//! Inputs of the step are there on every device.

use std::collections::BTreeMap;

use super::Messages;
use super::cuts::{Cut, Layout, is_source};
use crate::cost::{Costs, Device, Problem};
use crate::entity::{Entity, EntityMap, OpId, ValueId};
use crate::error::Result;
use crate::graph::{Graph, GraphBuilder, NewValue, Op, Phase, Replay, Role};
use crate::plan::{Lowering, Marker, StageStep, Step, Timeline, lower, simulate};
use crate::units::{Bytes, Nanos};

/// A stage's problem, and what stands where in it.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    /// The problem; its budget holds parameters and one microbatch.
    pub problem: Problem,
    /// Where other microbatches pass.
    pub turn: OpId,
    /// Where a split backward is split.
    pub between: Option<OpId>,
    /// What comes back at `turn`, in bytes.
    pub returned: Bytes,
    /// Bytes of the gradients that are summed up.
    pub gradients: Bytes,
    /// What crosses its borders.
    pub messages: Messages,
    /// Bytes of what each microbatch gives out and leaves there until the end of the step.
    pub results: Bytes,
    /// What each op stands for.
    pub origins: EntityMap<OpId, Origin>,
    /// What each value is in the whole step; none for what says an order.
    pub values: EntityMap<ValueId, Option<ValueId>>,
}

/// What an op of a stage stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// An op of the whole step.
    Op(OpId),
    /// The inputs of the step.
    Inputs,
    /// What is added.
    Marker(Marker),
}

/// Names of the ops that are added.
fn kind_of(marker: Marker) -> &'static str {
    match marker {
        Marker::Receive => "Pipeline.Receive",
        Marker::Send => "Pipeline.Send",
        Marker::Turn => "Pipeline.Turn",
        Marker::Return => "Pipeline.Return",
        Marker::Between => "Pipeline.Between",
        Marker::Accumulate(_) => "Pipeline.Accumulate",
    }
}

/// What a plan of a stage comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measure {
    /// Until `Turn`.
    pub forward: Nanos,
    /// From `Turn` to `Between`, or to the end.
    pub backward: Nanos,
    /// From `Between` to the end.
    pub weights: Nanos,
    /// Parameters and everything of one microbatch, at most.
    pub peak: Bytes,
    /// Of one microbatch, live while others pass.
    pub saved: Bytes,
    /// The same between the parts of a split backward.
    pub kept: Bytes,
    /// Parameters and inputs that are there all the time.
    pub resident: Bytes,
}

impl Measure {
    /// All a microbatch takes.
    pub fn time(&self) -> Nanos {
        self.forward + self.backward + self.weights
    }
}

/// Values up to which every choice of what to save is tried.
const FEW: usize = 8;

struct Builder<'a> {
    from: &'a Problem,
    graph: GraphBuilder,
    /// The new value for each old one that the stage has.
    map: EntityMap<ValueId, Option<ValueId>>,
    /// By new value: the one whose storage it is in.
    roots: Vec<ValueId>,
    time: EntityMap<OpId, Nanos>,
    workspace: EntityMap<OpId, Bytes>,
    origins: EntityMap<OpId, Origin>,
    values: EntityMap<ValueId, Option<ValueId>>,
}

impl Builder<'_> {
    fn declare(&mut self, value: NewValue) -> ValueId {
        let root = value.alias_of.map(|base| self.roots[base.index()]);
        let id = self.graph.value(value);
        self.roots.push(root.unwrap_or(id));
        self.values.push(None);
        id
    }

    /// A value that stands for nothing but an order.
    fn token(&mut self) -> ValueId {
        self.declare(NewValue { name: "token".into(), ..NewValue::default() })
    }

    /// The old value, in storage of its own or in that of another.
    fn copy(&mut self, old: ValueId, alias_of: Option<ValueId>) -> ValueId {
        let value = &self.from.graph.values()[old];
        let new = NewValue {
            name: value.name.clone(),
            bytes: value.bytes,
            dims: value.dims.clone(),
            alias_of,
            role: value.role,
        };
        let id = self.declare(new);
        self.map[old] = Some(id);
        self.values[id] = Some(old);
        id
    }

    fn resident(&mut self, old: ValueId) -> ValueId {
        if let Some(new) = self.map[old] {
            return new;
        }
        let base = self.from.graph.values()[old].alias_of.map(|base| self.resident(base));
        let new = self.copy(old, base);
        self.graph.resident(new);
        new
    }

    fn push(&mut self, op: Op, origin: Origin, time: Nanos, workspace: Bytes) -> OpId {
        self.origins.push(origin);
        self.time.push(time);
        self.workspace.push(workspace);
        self.graph.op(op)
    }

    /// An op that only says in which order things happen.
    fn marker(
        &mut self,
        marker: Marker,
        phase: Phase,
        inputs: Vec<ValueId>,
        outputs: Vec<ValueId>,
        reserve: Bytes,
    ) -> OpId {
        let kind = kind_of(marker).into();
        let op = Op { kind, phase, inputs, outputs, inplace: Vec::new(), replay: Replay::Once };
        self.push(op, Origin::Marker(marker), Nanos::ZERO, reserve)
    }

    /// An op of the step; `after` is read as well, but by a view: it takes no time and no bytes wherever it stands, and
    /// who reads it comes after. Whether `after` was read.
    fn op(&mut self, id: OpId, after: Option<ValueId>) -> bool {
        let from = self.from;
        let op = &from.graph.ops()[id];
        let mut inputs: Vec<ValueId> = Vec::with_capacity(op.inputs.len() + 1);
        for &v in &op.inputs {
            inputs.push(match (self.map[v], from.graph.values()[v].resident) {
                (Some(new), _) => new,
                (None, _) => self.resident(v),
            });
        }
        // An output can only be in a storage that the op has at hand; else it is a copy here.
        let mut around: Vec<ValueId> = inputs.iter().map(|v| self.roots[v.index()]).collect();
        let mut outputs = vec![None; op.outputs.len()];
        for (k, v) in from.graph.outputs_roots_first(id) {
            let base = from.graph.values()[v].alias_of.and_then(|base| self.map[base]);
            let base = base.filter(|base| around.contains(&self.roots[base.index()]));
            let new = self.copy(v, base);
            around.push(self.roots[new.index()]);
            outputs[k] = Some(new);
        }
        let root = |v: &ValueId| self.roots[v.index()];
        let view = inputs.first().is_some_and(|first| {
            let all = inputs.iter().chain(outputs.iter().flatten());
            !outputs.is_empty() && all.into_iter().all(|v| root(v) == root(first))
        });
        let after = after.filter(|_| !view);
        inputs.extend(after);
        let (kind, inplace) = (op.kind.clone(), op.inplace.clone());
        let outputs = outputs.into_iter().flatten().collect();
        let op = Op { kind, phase: op.phase, inputs, outputs, inplace, replay: op.replay };
        self.push(op, Origin::Op(id), from.costs.time[id], from.costs.workspace[id]);
        after.is_some()
    }

    /// Have the inputs of the step that `ops` read.
    fn sources(&mut self, ops: &[OpId]) {
        let graph = &self.from.graph;
        let mut wanted: BTreeMap<OpId, Vec<ValueId>> = BTreeMap::new();
        for &v in ops.iter().flat_map(|&op| &graph.ops()[op].inputs) {
            if let Some(op) = graph.values()[v].producer.filter(|&op| is_source(self.from, op)) {
                let list = wanted.entry(op).or_default();
                if !list.contains(&v) {
                    list.push(v);
                }
            }
        }
        for (op, mut values) in wanted {
            values.sort_unstable();
            let outputs = values.into_iter().map(|v| self.copy(v, None)).collect();
            let op = Op { inputs: Vec::new(), outputs, inplace: Vec::new(), ..graph.ops()[op].clone() };
            self.push(op, Origin::Inputs, Nanos::ZERO, Bytes::ZERO);
        }
    }

    /// `ops` in order, each after what made `token`.
    fn part(&mut self, ops: &[OpId], token: Option<ValueId>, depends: &mut EntityMap<ValueId, bool>) {
        let graph = &self.from.graph;
        for &id in ops {
            let op = &graph.ops()[id];
            let follows = op.inputs.iter().any(|&v| depends[v]);
            let after = self.op(id, token.filter(|_| !follows));
            op.outputs.iter().for_each(|&v| depends[v] = follows || after);
            for &v in
                op.outputs.iter().filter(|&&v| graph.values()[v].output && graph.values()[v].role == Role::Gradient)
            {
                let (gradient, done) = (self.map[v].expect("it was just made"), self.token());
                self.marker(Marker::Accumulate(v), Phase::Update, vec![gradient], vec![done], Bytes::ZERO);
            }
        }
    }
}

impl Stage {
    /// The ops between two cuts, with the backward split or whole. `reserve` is the workspace of `Turn`.
    pub fn build(
        problem: &Problem,
        layout: &Layout,
        (lower, upper): (Option<&Cut>, Option<&Cut>),
        split: bool,
        reserve: Bytes,
        device: Device,
    ) -> Result<Self> {
        let graph = &problem.graph;
        let ids = |from: usize, to: usize| -> Vec<OpId> {
            layout.order[from..to].iter().copied().filter(|&op| !is_source(problem, op)).collect()
        };
        let first = lower.map_or((0, layout.ops), |cut| (cut.forward, cut.backward));
        let last = upper.map_or((layout.turn, layout.turn), |cut| (cut.forward, cut.backward));
        let (forward, backward) = (ids(first.0, last.0), ids(last.1, first.1));
        let (received, sent_back) = lower.map_or_else(Default::default, |cut| layout.crossing(cut));
        let (sent, returned) = upper.map_or_else(Default::default, |cut| layout.crossing(cut));

        let mut to = Builder {
            from: problem,
            graph: GraphBuilder::new(),
            map: EntityMap::filled(None, graph.values().len()),
            roots: Vec::new(),
            time: EntityMap::new(),
            workspace: EntityMap::new(),
            origins: EntityMap::new(),
            values: EntityMap::new(),
        };
        to.sources(&[forward.as_slice(), backward.as_slice()].concat());
        if !received.is_empty() {
            let outputs = received.iter().map(|&v| to.copy(v, None)).collect();
            to.marker(Marker::Receive, Phase::Forward, Vec::new(), outputs, Bytes::ZERO);
        }
        let mut depends = EntityMap::filled(false, graph.values().len());
        to.part(&forward, None, &mut depends);
        // What is sent on is made by then; in the last stage what its last op makes.
        let mut ready: Vec<ValueId> = sent.iter().filter_map(|&v| to.map[v]).collect();
        // And what the step gives out: running statistics are the next microbatch's to go on from.
        let made = forward.iter().flat_map(|&op| &graph.ops()[op].outputs);
        let given = made.filter(|&&v| graph.values()[v].output && graph.values()[v].role != Role::Gradient);
        ready.extend(given.filter_map(|&v| to.map[v]));
        ready.sort_unstable();
        ready.dedup();
        if let Some(&op) = forward.last().filter(|_| ready.is_empty()) {
            ready.extend(graph.ops()[op].outputs.iter().filter_map(|&v| to.map[v]));
        }
        let (gone, token) = (to.token(), to.token());
        to.marker(Marker::Send, Phase::Forward, ready, vec![gone], Bytes::ZERO);
        let mut made: Vec<ValueId> = returned.iter().map(|&v| to.copy(v, None)).collect();
        made.push(token);
        returned.iter().for_each(|&v| depends[v] = true);
        let turn = to.marker(Marker::Turn, Phase::Backward, vec![gone], made, reserve);
        let urgent = leads_to(graph, &backward, &sent_back);
        let (inputs, weights): (Vec<OpId>, Vec<OpId>) = backward.iter().partition(|&&op| !split || urgent[op]);
        to.part(&inputs, Some(token), &mut depends);
        let ready: Vec<ValueId> = sent_back.iter().filter_map(|&v| to.map[v]).collect();
        let mut last = token;
        if !ready.is_empty() {
            last = to.token();
            to.marker(Marker::Return, Phase::Backward, ready, vec![last], Bytes::ZERO);
        }
        let mut between = None;
        if split {
            let next = to.token();
            between = Some(to.marker(Marker::Between, Phase::Backward, vec![last], vec![next], Bytes::ZERO));
            let mut depends = EntityMap::filled(false, graph.values().len());
            to.part(&weights, Some(next), &mut depends);
        }
        let (mut gradients, mut results) = (Bytes::ZERO, Bytes::ZERO);
        // Where a problem does not say what its gradients are, outputs may be gradients, and are not kept.
        let says = graph.outputs().iter().any(|&v| graph.values()[v].role == Role::Gradient);
        for &v in graph.outputs() {
            let value = &graph.values()[v];
            match to.map[v] {
                Some(_) if value.role == Role::Gradient && !value.resident => gradients += value.bytes,
                Some(new) if !received.contains(&v) && !returned.contains(&v) => {
                    to.graph.output(new);
                    results += if value.resident || !says { Bytes::ZERO } else { value.bytes };
                }
                _ => {}
            }
        }
        let back = returned.iter().map(|&v| graph.values()[v].bytes).sum();
        let messages = Messages { received, sent, returned, sent_back };
        let costs = Costs { time: to.time, workspace: to.workspace };
        let loads = to.origins.iter().filter(|(_, origin)| matches!(origin, Origin::Op(op) if problem.loads(*op)));
        let loads: Vec<OpId> = loads.map(|(op, _)| op).collect();
        let problem = Problem::new(problem.name.clone(), to.graph.finish()?, costs, device)?.with_loads(loads)?;
        let (origins, values) = (to.origins, to.values);
        Ok(Self { problem, turn, between, returned: back, gradients, messages, results, origins, values })
    }

    /// The same with another reserve.
    pub fn reserving(&self, reserve: Bytes) -> Self {
        let mut stage = self.clone();
        stage.problem.costs.workspace[self.turn] = reserve;
        stage
    }

    /// In small stages all that can be saved, in bytes; nothing where that would be too much.
    pub fn sums(&self) -> Vec<u64> {
        let graph = &self.problem.graph;
        let crosses = |&v: &ValueId| {
            let value = &graph.values()[v];
            let made = value.producer.is_some_and(|op| op < self.turn) && value.alias_of.is_none();
            made && value.bytes > Bytes::ZERO
        };
        let sizes: Vec<u64> = graph.values().keys().filter(crosses).map(|v| graph.values()[v].bytes.get()).collect();
        if sizes.len() > FEW {
            return Vec::new();
        }
        let mut sums = vec![0u64];
        for size in sizes {
            let more: Vec<u64> = sums.iter().map(|sum| sum + size).collect();
            sums.extend(more);
            sums.sort_unstable();
            sums.dedup();
        }
        sums
    }

    /// Bytes that the op which needs most needs beside parameters: no plan of the stage needs less.
    pub fn largest(&self) -> u64 {
        let graph = &self.problem.graph;
        let resident = graph.resident_bytes();
        let mut wanted: EntityMap<ValueId, bool> = EntityMap::filled(false, graph.values().len());
        graph.outputs().iter().for_each(|&v| wanted[v] = true);
        let mut most = 0;
        for (id, op) in graph.ops().iter().rev() {
            // Markers run in any plan.
            if op.replay != Replay::Once && !op.outputs.iter().any(|&v| wanted[v]) {
                continue;
            }
            op.inputs.iter().for_each(|&v| wanted[v] = true);
            if self.origins[id] != Origin::Inputs {
                let alone = graph.footprint(id).saturating_sub(resident + in_place(graph, op)).get();
                let workspace = if id == self.turn { 0 } else { self.problem.costs.workspace[id].get() };
                most = most.max(alone + workspace);
            }
        }
        most
    }

    /// Everything kept, in the order of the step.
    pub fn keep_all(&self) -> Vec<Step> {
        let order: Vec<OpId> = self.problem.graph.ops().keys().collect();
        lower(&self.problem.graph, &order, Lowering::default())
    }

    /// The steps of a plan of this stage, as the whole step names things.
    pub fn in_step(&self, steps: &[Step]) -> Vec<StageStep> {
        let value = |v: &ValueId| self.values[*v];
        let named = steps.iter().filter_map(|step| {
            Some(match step {
                Step::Compute { op, inplace } => match self.origins[*op] {
                    Origin::Op(op) => StageStep::Step(Step::Compute { op, inplace: inplace.clone() }),
                    Origin::Inputs => return None,
                    Origin::Marker(marker) => StageStep::Marker(marker),
                },
                Step::Drop(v) => StageStep::Step(Step::Drop(value(v)?)),
                Step::Offload(v) => StageStep::Step(Step::Offload(value(v)?)),
                Step::Prefetch(v) => StageStep::Step(Step::Prefetch(value(v)?)),
            })
        });
        named.collect()
    }

    /// What a plan comes to, the reserve left out.
    ///
    /// # Errors
    /// Those of the simulator, for steps that cannot run.
    pub fn measure(&self, steps: &[Step]) -> Result<Measure> {
        let bare = self.reserving(Bytes::ZERO);
        let timeline = simulate(&bare.problem, steps)?;
        let resident = self.problem.graph.resident_bytes();
        let mut measure = Measure { peak: timeline.peak, resident, ..Measure::default() };
        let turn = bare.passes(steps, &timeline, self.turn, self.returned);
        let between = self.between.map(|op| bare.passes(steps, &timeline, op, Bytes::ZERO));
        measure.forward = turn.0;
        measure.saved = turn.1.saturating_sub(resident);
        measure.kept = between.map_or(measure.saved, |it| it.1.saturating_sub(resident));
        let middle = between.map_or(timeline.time, |it| it.0);
        measure.backward = middle.saturating_sub(turn.0);
        measure.weights = timeline.time.saturating_sub(middle);
        Ok(measure)
    }

    /// When a marker runs, and what is live across it but what it makes.
    fn passes(&self, steps: &[Step], timeline: &Timeline, marker: OpId, makes: Bytes) -> (Nanos, Bytes) {
        let runs = |step: &Step| matches!(step, Step::Compute { op, .. } if *op == marker);
        let Some(at) = steps.iter().position(runs) else { return (timeline.time, timeline.peak) };
        let when = timeline.spans.iter().find(|span| span.step == at).map_or(Nanos::ZERO, |span| span.start);
        (when, timeline.live[at].saturating_sub(makes))
    }
}

/// What an op's outputs do not need where they may take over what its inputs lie in.
pub(super) fn in_place(graph: &Graph, op: &Op) -> Bytes {
    let mut outputs: Vec<usize> = op.inplace.iter().map(|&(_, output)| output).collect();
    outputs.sort_unstable();
    outputs.dedup();
    outputs.into_iter().map(|output| graph.values()[op.outputs[output]].bytes).sum()
}

/// The ops of a part that some of `targets` need.
fn leads_to(graph: &Graph, part: &[OpId], targets: &[ValueId]) -> EntityMap<OpId, bool> {
    let mut wanted: EntityMap<ValueId, bool> = EntityMap::filled(false, graph.values().len());
    let mut leads = EntityMap::filled(false, graph.ops().len());
    targets.iter().for_each(|&v| wanted[v] = true);
    for &id in part.iter().rev() {
        let op = &graph.ops()[id];
        leads[id] = op.outputs.iter().any(|&v| wanted[v]);
        if leads[id] {
            op.inputs.iter().for_each(|&v| wanted[v] = true);
        }
    }
    leads
}
