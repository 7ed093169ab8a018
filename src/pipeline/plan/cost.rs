//! What a planned stage costs in a pipeline: times, messages, and the row of its device's memory.

use super::extract::StageProblem;
use super::stages::Stages;
use crate::error::{Error, Result};
use crate::graph::Phase;
use crate::pipeline::{ChunkCost, DeviceCost, Workload};
use crate::plan::{Step, Timeline, simulate};
use crate::units::{Bytes, Nanos};

/// One stage with a plan. A device holds `resident + state + gradients + workspace + kept x microbatches in flight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageCost {
    /// Time of the forward of a microbatch.
    pub forward: Nanos,
    /// Time of the backward with what it computes again.
    pub backward: Nanos,
    /// Bytes of parameters and whatever else is resident.
    pub resident: Bytes,
    /// Bytes of residents that no op reads (optimizer states), shared among stages by their parameters' bytes.
    pub state: Bytes,
    /// Bytes in which gradients of parameters are summed over the microbatches.
    pub gradients: Bytes,
    /// Bytes of a microbatch that are kept from its forward to its backward.
    pub kept: Bytes,
    /// Bytes that the microbatch being computed takes beside all these.
    pub workspace: Bytes,
    /// Bytes of the message to the stage behind.
    pub output: Bytes,
    /// Bytes of the gradients to the stage before.
    pub gradient: Bytes,
}

impl StageCost {
    /// Bytes of a device that holds so many microbatches at once.
    pub fn memory(&self, in_flight: usize) -> Bytes {
        let held = (0..in_flight).map(|_| self.kept).sum();
        self.constant() + held
    }

    /// What does not depend on the microbatches in flight.
    fn constant(&self) -> Bytes {
        self.resident + self.state + self.gradients + self.workspace
    }
}

impl Stages<'_> {
    /// What stage `stage` costs with a plan for its problem, [`problem`](Stages::problem).
    ///
    /// # Errors
    /// [`Error::IllegalPlan`] and the like when the steps are no plan of that problem; [`Error::InvalidSetting`] when they
    /// move values to the host, which a pipeline does not yet allow for.
    pub fn cost(&self, stage: usize, part: &StageProblem, steps: &[Step]) -> Result<StageCost> {
        let timeline = simulate(&part.problem, steps)?;
        if steps.iter().any(|step| matches!(step, Step::Offload(_) | Step::Prefetch(_))) {
            let why = "a stage's plan moves values to the host; pipelines cannot do that yet".to_owned();
            return Err(Error::InvalidSetting { name: "plan".into(), why });
        }
        let graph = &part.problem.graph;
        let behind = |step: &Step| matches!(step, Step::Compute { op, .. } if *op >= part.backward);
        let split = steps.iter().position(behind).unwrap_or(steps.len());
        let time = |steps: &[Step]| {
            let computed = steps.iter().filter_map(|step| match step {
                Step::Compute { op, .. } => Some(part.problem.costs.time[*op]),
                _ => None,
            });
            computed.sum::<Nanos>()
        };
        let resident = graph.resident_bytes();
        // Gradients that have come back are no part of what waits for them.
        let waiting = after(part, steps, &timeline, split).saturating_sub(part.gradient_received);
        let kept = waiting.saturating_sub(resident);
        let sent = stage.checked_sub(1).map_or(&[][..], |boundary| self.sent_down(boundary));
        let summed = graph.outputs().iter().filter(|&&v| {
            let backward = |op| op >= part.backward && graph.ops()[op].phase != Phase::Update;
            graph.values()[v].producer.is_some_and(backward)
                && part.values[v].is_none_or(|whole| !sent.contains(&whole))
        });
        Ok(StageCost {
            forward: time(&steps[..split]),
            backward: time(&steps[split..]),
            resident,
            state: self.state(stage),
            gradients: summed.map(|&v| graph.storages()[graph.values()[v].storage].bytes).sum(),
            kept,
            workspace: timeline.peak.saturating_sub(resident + kept),
            output: part.sent,
            gradient: part.gradient_sent,
        })
    }

    /// The share of residents that no op reads, by the bytes of those that a stage reads; rounded up.
    fn state(&self, stage: usize) -> Bytes {
        let graph = &self.problem.graph;
        let bytes = |of: &dyn Fn(usize) -> bool| -> u128 {
            let read = graph.storages().values().filter(|s| s.resident);
            read.filter(|s| s.values.iter().any(|&v| self.readers(v).any(of))).map(|s| u128::from(s.bytes.get())).sum()
        };
        let unread = u128::from(graph.resident_bytes().get()) - bytes(&|_| true);
        let all: u128 = (0..self.count()).map(|k| bytes(&|reader| reader == k)).sum();
        let share = match all {
            0 => unread.div_ceil(self.count() as u128),
            all => (unread * bytes(&|reader| reader == stage)).div_ceil(all),
        };
        Bytes(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

/// Bytes live before step `index`: after the one before it, without what that only needed while it ran.
fn after(part: &StageProblem, steps: &[Step], timeline: &Timeline, index: usize) -> Bytes {
    match index.checked_sub(1).map(|last| (&steps[last], timeline.live[last])) {
        None => part.problem.graph.resident_bytes(),
        Some((Step::Compute { op, .. }, live)) => live.saturating_sub(part.problem.costs.workspace[*op]),
        Some((_, live)) => live,
    }
}

impl Workload {
    /// The workload of a schedule with one chunk per device, of these stages.
    pub fn of_stages(stages: &[StageCost]) -> Self {
        let chunk = |stage: &StageCost| ChunkCost {
            forward: stage.forward,
            input_gradient: stage.backward,
            activation: stage.kept,
            output: stage.output,
            gradient: stage.gradient,
            ..ChunkCost::default()
        };
        let device = |stage: &StageCost| DeviceCost { speed: 100, constant: stage.constant(), memory: None };
        Self {
            chunks: stages.iter().map(chunk).collect(),
            devices: stages.iter().map(device).collect(),
            ..Self::default()
        }
    }
}
