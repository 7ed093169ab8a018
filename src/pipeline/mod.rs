//! Pipeline schedules as data: who computes and sends what, in which order.
//!
//! ```text
//! d0  F0 F1 F2 F3 .  .  .  .  .  .  B0 - B1 - B2 - B3 -      a device's line, over time
//! d1  .  F0 F1 F2 F3 .  .  .  B0 -  B1 - B2 - B3 -           F2: forward of microbatch 2
//! ```
//!
//! A model is cut into *chunks*, numbered in the order a microbatch passes them. A *route* places every chunk on a
//! device; most schedules have one route, bidirectional ones two, so that a chunk has a replica on each, and
//! [replicas](Schedule::replicated) of a whole pipeline one or two each. A [`Schedule`] is, for each device, an ordered list of [`Action`]s. Generators ([`by_name`]) write schedules,
//! [`verify`] decides whether one is legal, [`simulate`] says what it costs. The verifier and the simulator
//! know nothing of generators: a schedule from a file is as good as a generated one.
//!
//! ```
//! use plimsoll::pipeline::{Shape, Workload, by_name, simulate};
//! let schedule = by_name("1f1b")?.generate(Shape { stages: 4, microbatches: 8, chunks: None })?;
//! let run = simulate(&schedule, &Workload::uniform(&schedule, 1, 1, 1))?;
//! assert_eq!(run.makespan.get(), (8 + 4 - 1) * 3);
//! assert_eq!(run.devices[0].peak_in_flight, 4);
//! # Ok::<(), plimsoll::Error>(())
//! ```

mod again;
mod format;
mod generate;
mod memory;
mod replicate;
mod schedule;
mod simulate;
mod topology;
mod verify;
mod workload;

pub use format::CostedStep;
pub use generate::{Generator, Shape, by_name, generators, names};
pub use schedule::{Action, Chunk, Device, Microbatch, Schedule};
pub(crate) use simulate::simulate_verified;
pub use simulate::{DeviceRun, Event, Run, simulate};
pub use topology::{Topology, TopologyDevice};
pub use verify::{Rule, Violation, verify};
pub use workload::{ChunkCost, DeviceCost, Link, Workload};
