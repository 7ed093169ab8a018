//! From one device's training step to the stages of a pipeline.
//!
//! ```text
//! step     f0 f1 f2 f3 f4 f5 loss  b5 b4 b3 b2 b1 b0          cut before f2 and f4
//! stage 0  f0 f1 -------- exchange -------- b1 b0
//! stage 1  receive f2 f3 - exchange - b3 b2                   each is a problem of its own, for any solver
//! stage 2  receive f4 f5 loss b5 b4
//! ```
//!
//! [`Stages::cut`] decides which stage each op belongs to and what must be sent between neighbours; [`Stages::problem`]
//! is the step of one stage by itself, [`Stages::cost`] what it costs in a pipeline with a plan of some solver. A
//! [`Topology`] says what there is to run on.

mod cost;
mod extract;
mod place;
mod stages;
mod topology;

pub use cost::StageCost;
pub use extract::StageProblem;
pub use stages::Stages;
pub use topology::{Topology, TopologyDevice};
