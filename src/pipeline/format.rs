//! The schedule file, `*.schedule.json`, and the step file, `*.step.json`: a schedule with what its parts cost.
//!
//! ```json
//! { "format": "plimsoll.schedule", "version": 1, "name": "1f1b", "queue": 1,
//!   "routes": [[0, 1]], "route_of": [0],
//!   "devices": [ [{"forward": [0, 0]}, {"send_activation": [0, 0, 1]}, {"receive_gradient": [0, 1, 1]}, ...], ... ] }
//! { "format": "plimsoll.step", "version": 1, "problem": "gpt",
//!   "schedule": { "name": "1f1b", "queue": 1, "routes": [[0, 1]], "route_of": [0], "devices": [ ... ] },
//!   "chunks": [{"forward": 100, "input_gradient": 200, "weight_gradient": 0, "update": 0, "activation": 4096, ...}, ...],
//!   "devices": [{"speed": 100, "constant": 1024, "memory": 65536}, ...],
//!   "link": {"latency": 0, "bytes_per_s": 0}, "links": [{"from": 0, "to": 1, "latency": 5000, "bytes_per_s": 900000000}] }
//! ```
//! Times are nanoseconds, sizes bytes.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use super::schedule::{Action, Chunk, Device, Schedule};
use super::workload::{ChunkCost, DeviceCost, Link, Workload};
use crate::error::{Error, Result};
use crate::files::{self, Format};
use crate::units::Nanos;

const FORMAT: Format = Format { name: "plimsoll.schedule", version: 1 };
const STEP: Format = Format { name: "plimsoll.step", version: 1 };

/// The file's fields, in its order. `T` is a device's list.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "T: Deserialize<'de>"))]
struct Raw<T> {
    format: String,
    version: u64,
    name: String,
    queue: u32,
    routes: Vec<Vec<Device>>,
    route_of: Vec<u32>,
    #[serde(deserialize_with = "devices")]
    devices: Vec<T>,
}

/// The fields of a step file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "T: Deserialize<'de>"))]
struct RawStep<T> {
    format: String,
    version: u64,
    problem: String,
    schedule: Body<T>,
    #[serde(deserialize_with = "chunk_costs")]
    chunks: Vec<ChunkCost>,
    #[serde(deserialize_with = "devices")]
    devices: Vec<DeviceCost>,
    link: Link,
    #[serde(deserialize_with = "links")]
    links: Vec<RawLink>,
}

/// A schedule inside another file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "T: Deserialize<'de>"))]
struct Body<T> {
    name: String,
    queue: u32,
    routes: Vec<Vec<Device>>,
    route_of: Vec<u32>,
    #[serde(deserialize_with = "devices")]
    devices: Vec<T>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    from: Device,
    to: Device,
    latency: Nanos,
    bytes_per_s: u64,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Actions(#[serde(deserialize_with = "actions")] Vec<Action>);

fn devices<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    files::entries(deserializer, |i| Device::at(i).to_string(), std::convert::identity)
}

fn chunk_costs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ChunkCost>, D::Error> {
    files::entries(deserializer, |i| Chunk::at(i).to_string(), std::convert::identity)
}

fn links<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RawLink>, D::Error> {
    files::entries(deserializer, |i| format!("link {i}"), std::convert::identity)
}

fn actions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Action>, D::Error> {
    files::entries(deserializer, |i| format!("action {i}"), std::convert::identity)
}

impl Schedule {
    /// Read a schedule from JSON text; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format), [`Error::NewerVersion`](crate::Error::NewerVersion) or
    /// [`Error::InvalidSchedule`](crate::Error::InvalidSchedule).
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        Self::of(FORMAT.text(text, file)?)
    }

    fn of(raw: Raw<Actions>) -> Result<Self> {
        let devices = raw.devices.into_iter().map(|actions| actions.0).collect();
        Self::new(&raw.name, raw.queue, raw.routes, raw.route_of, devices)
    }

    fn raw(&self) -> Raw<&Vec<Action>> {
        Raw {
            format: FORMAT.name.to_owned(),
            version: FORMAT.version,
            name: self.name.clone(),
            queue: self.queue,
            routes: self.routes.clone(),
            route_of: self.route_of.clone(),
            devices: self.devices.iter().collect(),
        }
    }

    /// The schedule as JSON text, the same bytes for the same schedule.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.raw()).expect("a schedule is plain data")
    }

    /// Read a schedule file, compressed with Zstandard or not.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::TooLarge`](crate::Error::TooLarge), and those of
    /// [`from_json`](Self::from_json).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::of(FORMAT.load(path.as_ref())?)
    }

    /// Read a schedule from anything, as from a file; `name` names it in errors.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn from_reader(source: impl Read, name: &str) -> Result<Self> {
        Self::of(FORMAT.read(source, Path::new(name))?)
    }

    /// Write a schedule file, whole or not at all; compressed where its name ends in `.zst`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::TooLarge`](crate::Error::TooLarge).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), &self.raw())
    }
}

/// A schedule and what its parts cost: all that [`simulate`](super::simulate) needs, and so all that a picture of the step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostedStep {
    /// The name of the problem.
    pub problem: String,
    /// Who does what in which order.
    pub schedule: Schedule,
    /// What that takes.
    pub workload: Workload,
}

impl CostedStep {
    fn of(raw: RawStep<Actions>) -> Result<Self> {
        let body = raw.schedule;
        let lists = body.devices.into_iter().map(|actions| actions.0).collect();
        let schedule = Schedule::new(&body.name, body.queue, body.routes, body.route_of, lists)?;
        let links = raw.links.into_iter();
        let links = links.map(|RawLink { from, to, latency, bytes_per_s }| ((from, to), Link { latency, bytes_per_s }));
        let workload = Workload { chunks: raw.chunks, devices: raw.devices, link: raw.link, links: links.collect() };
        workload.validate(&schedule)?;
        let count = schedule.devices().len();
        if let Some((from, to)) = workload.links.keys().find(|(from, to)| from.index().max(to.index()) >= count) {
            let why = format!("one is from {from} to {to}; the schedule has {count} devices");
            return Err(Error::InvalidSetting { name: "links".into(), why });
        }
        Ok(Self { problem: raw.problem, schedule, workload })
    }

    /// Read a step from JSON text; `file` names it in errors.
    ///
    /// # Errors
    /// Those of [`Schedule::from_json`], and [`Error::InvalidSetting`](crate::Error::InvalidSetting) for costs that are not those
    /// of its schedule.
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        Self::of(STEP.text(text, file)?)
    }

    /// Read a step file, compressed with Zstandard or not.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::TooLarge`](crate::Error::TooLarge), and those of
    /// [`from_json`](Self::from_json).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::of(STEP.load(path.as_ref())?)
    }

    /// Read a step from anything, as from a file; `name` names it in errors.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn from_reader(source: impl Read, name: &str) -> Result<Self> {
        Self::of(STEP.read(source, Path::new(name))?)
    }

    /// Write a step file, whole or not at all; compressed where its name ends in `.zst`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::TooLarge`](crate::Error::TooLarge).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let Schedule { name, queue, routes, route_of, devices } = &self.schedule;
        let (name, routes, route_of) = (name.clone(), routes.clone(), route_of.clone());
        let links = self.workload.links.iter().map(|(&(from, to), link)| {
            let Link { latency, bytes_per_s } = *link;
            RawLink { from, to, latency, bytes_per_s }
        });
        let raw = RawStep {
            format: STEP.name.to_owned(),
            version: STEP.version,
            problem: self.problem.clone(),
            schedule: Body { name, queue: *queue, routes, route_of, devices: devices.iter().collect() },
            chunks: self.workload.chunks.clone(),
            devices: self.workload.devices.clone(),
            link: self.workload.link,
            links: links.collect(),
        };
        files::write(path.as_ref(), &raw)
    }
}
