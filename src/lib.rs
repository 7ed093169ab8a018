//! Plan and run memory-bounded training for [Burn](https://burn.dev) models.
//!
//! [`Rematerialize`] wraps a module so that its training steps stay within a [`Budget`]. Underneath,
//! each part can be used by itself: [`graph`] (one training step as data, and tracing), [`cost`]
//! (measured costs, problem files), [`solver`] (named solvers and lower bounds), [`plan`] (steps,
//! the simulator, plan files), [`check`] (the independent checker), [`runtime`] (the executor),
//! [`pipeline`] (schedules of pipelines), [`joint`] (stages, cuts and schedules chosen together). `DESIGN.md` says how they fit together.
#![deny(unsafe_code)]
#![deny(missing_docs)]

pub mod alloc;
pub mod check;
pub mod cost;
pub mod entity;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod graph;
pub mod joint;
pub mod pipeline;
pub mod plan;
#[cfg(feature = "flex")]
pub mod runtime;
pub mod solver;
#[cfg(feature = "cli")]
pub mod stats;
#[cfg(feature = "zoo")]
pub mod zoo;

#[cfg(all(doctest, feature = "flex"))]
#[doc = include_str!("../README.md")]
struct Readme;

mod error;
mod files;
mod units;
#[cfg(feature = "flex")]
mod wrap;

pub use error::{Blocker, Error, Result};
pub use files::{MAX_ENTRIES, MAX_FILE_BYTES};
#[cfg(feature = "flex")]
pub use graph::trace::{StepOutput, TensorMapper, Tensors};
#[cfg(feature = "flex")]
pub use runtime::Lanes;
#[cfg(feature = "remote")]
pub use runtime::remote;
pub use units::{Budget, Bytes, Nanos};
#[cfg(feature = "flex")]
pub use wrap::{
    DeviceReport, Inferred, OneLaunch, PipelineReport, PipelineSettings, Reduction, Rematerialize, Retrace, Settings,
    StepReport, Trained,
};
