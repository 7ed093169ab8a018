//! Runs a plan's steps exactly, on any backend Burn's interpreter drives, here or in a worker.
//!
//! The runtime knows nothing of solvers: it is given a program, the steps of a checked plan, and
//! the tensors to start from.

#[cfg(feature = "cubecl")]
mod cube;
mod executor;
mod flex;
#[cfg(feature = "fusion")]
mod fused;
mod looks;
mod pipeline;
mod probe;
mod random;
mod recorded;
#[cfg(feature = "remote")]
pub mod remote;
#[cfg(feature = "cubecl")]
mod row;
mod target;
mod timing;

pub use executor::{Binding, Bindings, Executable, Frame, Watch};
#[cfg(feature = "fusion")]
pub use fused::{Fused, watch};
pub use looks::{Crests, Looks, Places};
pub use pipeline::{Batch, ChunkProgram, Did, Failure, Made, Workers, added, mean};
pub use probe::OpProbe;
pub(crate) use random::seed_of;
pub use recorded::{Fixed, Inlet, Recorded};
pub use target::{Coming, Interpreter, Local, Overseer, Place, Seen, Target, Usage};
pub use timing::{Lane, Lanes, Windows};
