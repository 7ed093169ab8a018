//! What each op costs on a device, and the problem this makes together with a graph.

mod catalog;
mod device;
mod format;
mod problem;
mod profile;

pub mod measure;
pub mod roofline;

pub use catalog::DeviceSpec;
pub use device::{Device, Link};
pub use problem::{Costs, Problem};
pub use profile::{OpCost, Pace, Profile};
pub use roofline::Roofline;
