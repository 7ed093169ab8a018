//! Plan and run memory-bounded training for [Burn](https://burn.dev) models.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod check;
pub mod cost;
pub mod entity;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod graph;
pub mod plan;
pub mod solver;

mod error;
mod files;
mod units;

pub use error::{Blocker, Error, Result};
pub use units::{Budget, Bytes, Nanos};
