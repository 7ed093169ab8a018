//! Joint planning: where a model is cut, in which order its stages work, and what each recomputes or offloads, as one choice.
//!
//! ```text
//! problem of one microbatch --cuts--> places where few bytes cross
//!        --estimate--> a curve of memory against time for every stage there could be
//!        --partitions--> the best cuts of those, for a schedule's microbatches in flight
//!        --stage--> each stage a problem of its own, planned by the single-device solvers
//!        --simulate--> the step's time and every device's peak; then cuts are moved while that helps
//! ```
//!
//! What a device must hold: the parameters of its chunks, their summed gradients and optimizer state; what each microbatch in
//! flight has saved; and what the one that is computing needs beside that. The more it saves for each the less
//! it has to compute again, and the more the devices before it must hold: cuts, schedule and recomputation depend on one
//! another, and are judged together by the pipeline simulator.
//!
//! The problem is that of one microbatch; a step takes `microbatches` of them and adds up their gradients. Replicas of the
//! pipeline are all planned as one: the one whose every device is as weak as the weakest of those it stands for.

mod bound;
mod cuts;
mod early;
mod estimate;
mod evaluate;
mod fitting;
mod order;
mod search;
mod stage;

pub use cuts::Cut;
pub use search::{Method, methods, plan_best, plan_pipeline};

use std::time::Duration;

use crate::cost::Problem;
use crate::entity::{OpId, ValueId};
use crate::pipeline::{Run, Schedule, Workload};
use crate::plan::{Plan, StageStep};
use crate::units::{Bytes, Nanos};

/// What joint planning may do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Microbatches in a step, of all replicas together.
    pub microbatches: usize,
    /// The schedule, by its name in [`pipeline::names`](crate::pipeline::names); none for the best of several.
    pub schedule: Option<String>,
    /// Chunks per device, for schedules that leave it open.
    pub chunks: Option<usize>,
    /// How to cut and what to recompute.
    pub method: Method,
    /// Replicas of the whole pipeline, which share the devices and the microbatches evenly, in order, and add up their
    /// gradients at the end of the step.
    pub replicas: usize,
    /// Wall-clock limit.
    pub time_limit: Duration,
    /// Limit on the search steps of each stage's last plan, for runs that must not depend on the machine's speed.
    pub node_limit: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            microbatches: 8,
            schedule: None,
            chunks: None,
            method: Method::Joint,
            replicas: 1,
            time_limit: Duration::from_secs(60),
            node_limit: None,
        }
    }
}

/// Values that cross the borders of a stage, each list in one order for sender and receiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// From the stage before, forward.
    pub received: Vec<ValueId>,
    /// On to the next stage.
    pub sent: Vec<ValueId>,
    /// From the next stage, backward.
    pub returned: Vec<ValueId>,
    /// Back to the stage before.
    pub sent_back: Vec<ValueId>,
}

/// One chunk of a planned pipeline.
#[derive(Clone, Debug)]
pub struct StagePlan {
    /// The devices that run it; more than one where there are replicas, in the order in which their gradients are added.
    pub devices: Vec<usize>,
    /// Ops of the whole problem that it runs, in order; every stage has the inputs of the step by itself.
    pub ops: Vec<OpId>,
    /// How many of them are forward ops.
    pub forward_ops: usize,
    /// They as a problem, with markers where messages come and go.
    pub problem: Problem,
    /// What it does for each microbatch.
    pub plan: Plan,
    /// The plan's steps in the names of the whole problem.
    pub steps: Vec<StageStep>,
    /// What crosses its borders, in those names.
    pub messages: Messages,
    /// Time of a microbatch's forward.
    pub forward_time: Nanos,
    /// Time of its backward, or of the input gradient where it is split.
    pub backward_time: Nanos,
    /// Time of its weight gradient where the backward is split.
    pub weight_time: Nanos,
    /// Of these, what is computed again or waited for.
    pub overhead: Nanos,
    /// What each microbatch in flight holds.
    pub saved: Bytes,
    /// Summed gradients and optimizer state.
    pub state: Bytes,
    /// What its forward sends on.
    pub sent: Bytes,
    /// What its backward sends back.
    pub returned: Bytes,
}

/// A pipeline that is planned.
#[derive(Clone, Debug)]
pub struct PipelinePlan {
    /// How it was found.
    pub method: Method,
    /// The schedule.
    pub schedule: Schedule,
    /// By chunk.
    pub stages: Vec<StagePlan>,
    /// What the simulator was given.
    pub workload: Workload,
    /// What it said.
    pub run: Run,
    /// Time of a step.
    pub makespan: Nanos,
    /// No pipeline of the same microbatches on the same devices, whatever its cuts, schedule and recomputation, is
    /// faster: the work spread evenly over all devices by their speed, or one microbatch from end to end.
    pub lower_bound: Nanos,
    /// Pipelines that were planned and simulated.
    pub tried: usize,
}
