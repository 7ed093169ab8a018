//! Which op belongs to which stage, and what is sent between stages.
//!
//! A cut divides the forward ops (all before the first op of the backward phase) in their order. A backward op
//! belongs to the stage of the forward op it belongs to, which a graph does not say; but data does: gradients come from
//! later stages, and an op reads what was kept at its stage. So, in order, an op that a gradient leads to goes to the
//! last stage that is not behind any gradient it reads and has all it reads of the forward; gradients of parameters
//! to the stages of their parameters. Then, backwards, an op goes to where its results are read if no more
//! has to be sent for it. Ops of the backward that no gradient leads to (a reciprocal, a transposed input, ones)
//! prepare something for others and go where the last of those is; what they read counts as read by those.
//!
//! Values travel from neighbour to neighbour, up (what forwards made) or down (gradients), through every stage between.

use std::collections::BTreeSet;

use crate::cost::Problem;
use crate::entity::{Entity as _, EntityMap, OpId, ValueId};
use crate::error::{Error, Result};
use crate::graph::{Graph, Phase, Role};

/// A training step cut into stages.
#[derive(Clone, Debug)]
pub struct Stages<'a> {
    pub(super) problem: &'a Problem,
    pub(super) count: usize,
    /// The stage of each op.
    pub(super) of: EntityMap<OpId, usize>,
    /// The first op of the backward.
    pub(super) backward: OpId,
    /// By boundary: what the stage before it sends to the stage behind it, and the other way.
    up: Vec<Vec<ValueId>>,
    down: Vec<Vec<ValueId>>,
}

impl<'a> Stages<'a> {
    /// Cut before each of these forward ops, in order; without any there is one stage.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] when they are not forward ops in increasing order, or the first op is among them.
    pub fn cut(problem: &'a Problem, cuts: &[OpId]) -> Result<Self> {
        let ops = problem.graph.ops();
        let backward = first_backward(&problem.graph);
        let invalid = |why: String| Err(Error::InvalidSetting { name: "cuts".into(), why });
        let Some(first) = ops.keys().next() else { return invalid("the problem has no ops".into()) };
        for (k, &cut) in cuts.iter().enumerate() {
            if cut >= backward {
                return invalid(format!("{cut} is not a forward op; those are before {backward}"));
            }
            if cut <= first || (k > 0 && cut <= cuts[k - 1]) {
                return invalid(format!("{cut} leaves a stage without forward ops"));
            }
        }
        let stage = |op: OpId| cuts.partition_point(|&cut| cut <= op);
        let of = ops.keys().map(|op| if op < backward { stage(op) } else { 0 }).collect();
        let mut stages = Self { problem, count: cuts.len() + 1, of, backward, up: Vec::new(), down: Vec::new() };
        stages.of = super::place::backward(&stages);
        stages.find_messages();
        Ok(stages)
    }

    /// Number of stages.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The stage of an op. An op that hands over inputs is in each that reads some, and here in the first.
    pub fn stage_of(&self, op: OpId) -> usize {
        self.of[op]
    }

    /// What the stage before a boundary sends to the one behind it in the forward; boundary 0 is between stages 0 and 1.
    pub fn sent_up(&self, boundary: usize) -> &[ValueId] {
        &self.up[boundary]
    }

    /// What the stage behind a boundary sends to the one before it in the backward.
    pub fn sent_down(&self, boundary: usize) -> &[ValueId] {
        &self.down[boundary]
    }

    /// Parameters (and whatever else is resident) that ops of more than one stage read: each of those stages holds a copy,
    /// and whoever updates one has to update all.
    pub fn shared_residents(&self) -> Vec<ValueId> {
        let graph = &self.problem.graph;
        let residents = graph.values().iter().filter(|(_, value)| value.resident);
        let shared = residents.filter(|&(v, _)| self.readers(v).collect::<BTreeSet<_>>().len() > 1);
        shared.map(|(v, _)| v).collect()
    }

    /// Whether an op hands over inputs of the step: every stage can have those it needs by itself.
    pub(super) fn hands_over(&self, op: OpId) -> bool {
        hands_over(&self.problem.graph, op)
    }

    /// The stages that read a value.
    pub(super) fn readers(&self, v: ValueId) -> impl Iterator<Item = usize> + '_ {
        self.problem.graph.uses(v).iter().map(|&op| self.of[op])
    }

    /// The op that makes a value which others may have to receive; none for what every stage has by itself.
    pub(super) fn maker(&self, v: ValueId) -> Option<OpId> {
        self.problem.graph.values()[v].producer.filter(|&op| !self.hands_over(op))
    }

    fn find_messages(&mut self) {
        let mut up = vec![Vec::new(); self.count - 1];
        let mut down = up.clone();
        for v in self.problem.graph.values().keys() {
            let Some(maker) = self.maker(v) else { continue };
            let at = self.of[maker];
            let (first, last) = self.readers(v).fold((at, at), |(a, b), stage| (a.min(stage), b.max(stage)));
            up[at..last].iter_mut().for_each(|boundary: &mut Vec<ValueId>| boundary.push(v));
            down[first..at].iter_mut().for_each(|boundary| boundary.push(v));
        }
        (self.up, self.down) = (up, down);
    }
}

/// The first op of the backward or of an update, or one past the last op.
fn first_backward(graph: &Graph) -> OpId {
    let later = |op: &OpId| matches!(graph.ops()[*op].phase, Phase::Backward | Phase::Update);
    graph.ops().keys().find(later).unwrap_or_else(|| OpId::from_index(graph.ops().len()))
}

fn hands_over(graph: &Graph, op: OpId) -> bool {
    let op = &graph.ops()[op];
    op.inputs.is_empty() && op.outputs.iter().all(|&v| graph.values()[v].role == Role::Input)
}
