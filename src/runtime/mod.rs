//! Runs a plan's steps exactly, on any backend Burn's interpreter drives.
//!
//! The runtime knows nothing of solvers: it is given a program, the steps of a checked plan, and
//! the tensors to start from.

mod executor;
mod flex;
mod random;

pub use executor::{Binding, Executable};
pub use flex::{FlexProbe, flex_custom_ops};
pub(crate) use flex::{flex_tensor, layout_text};
pub(crate) use random::seed_of;
