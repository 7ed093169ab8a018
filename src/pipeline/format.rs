//! The schedule file, `*.schedule.json`.
//!
//! ```json
//! { "format": "plimsoll.schedule", "version": 1, "name": "1f1b", "queue": 1,
//!   "routes": [[0, 1]], "route_of": [0],
//!   "devices": [ [{"forward": [0, 0]}, {"send_activation": [0, 0, 1]}, {"receive_gradient": [0, 1, 1]}, ...], ... ] }
//! ```

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use super::schedule::{Action, Device, Schedule};
use crate::error::Result;
use crate::files::{self, Format};

const FORMAT: Format = Format { name: "plimsoll.schedule", version: 1 };

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

#[derive(Deserialize)]
#[serde(transparent)]
struct Actions(#[serde(deserialize_with = "actions")] Vec<Action>);

fn devices<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    files::entries(deserializer, |i| Device::at(i).to_string(), std::convert::identity)
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
