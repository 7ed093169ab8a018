//! What a pipeline stage does for one microbatch.

use super::Step;
use crate::entity::ValueId;

/// One thing that a stage does for a microbatch. Ops and values are named as in the whole step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StageStep {
    /// A step as of any plan.
    Step(Step),
    /// A place where the stage meets others, or other microbatches.
    Marker(Marker),
}

/// A place in a stage's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// What the stage before sent is there.
    Receive,
    /// What goes on to the next stage is made.
    Send,
    /// Other microbatches pass; then the gradients that the next stage sent back are there.
    Turn,
    /// What goes back to the stage before is made.
    Return,
    /// Other microbatches pass between the two parts of a split backward.
    Between,
    /// A gradient of this microbatch is made, and is added to the sum of all.
    Accumulate(ValueId),
}
