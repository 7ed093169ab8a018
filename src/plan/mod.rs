//! The answer: ordered steps, and what they are predicted to cost.

mod early;
mod format;
mod given;
mod lower;
mod render;
mod stage;
mod step;
mod timeline;

pub use early::early;
pub use format::{Plan, Predicted, Status};
pub use given::{Given, given_away};
pub use lower::{Lowering, lower};
pub use render::{render_steps, render_timeline};
pub use stage::{Marker, StageStep};
pub use step::Step;
pub use timeline::{Lane, Span, Timeline, queue_ends, simulate};
