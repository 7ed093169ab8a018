//! The schedule file, `*.schedule.json`.
//!
//! ```json
//! { "format": "plimsoll.schedule", "version": 1, "name": "1f1b", "queue": 1,
//!   "routes": [[0, 1]], "route_of": [0],
//!   "devices": [ [{"forward": [0, 0]}, {"send_activation": [0, 0, 1]}, {"receive_gradient": [0, 1, 1]}, ...], ... ] }
//! ```

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use super::schedule::{Action, Device, Schedule};
use crate::error::Result;
use crate::files;

const FORMAT: &str = "plimsoll.schedule";
const VERSION: u64 = 1;

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
    files::entries(deserializer, |i| Device::at(i).to_string())
}

fn actions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Action>, D::Error> {
    files::entries(deserializer, |i| format!("action {i}"))
}

impl Schedule {
    /// Read a schedule from JSON text; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format), [`Error::NewerVersion`](crate::Error::NewerVersion) or
    /// [`Error::InvalidSchedule`](crate::Error::InvalidSchedule).
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        files::check_header(text, file, FORMAT, VERSION)?;
        let raw: Raw<Actions> = files::parse(text, file, FORMAT)?;
        let devices = raw.devices.into_iter().map(|actions| actions.0).collect();
        Self::new(&raw.name, raw.queue, raw.routes, raw.route_of, devices)
    }

    /// The schedule as JSON text, the same bytes for the same schedule.
    pub fn to_json(&self) -> String {
        let raw = Raw {
            format: FORMAT.to_owned(),
            version: VERSION,
            name: self.name.clone(),
            queue: self.queue,
            routes: self.routes.clone(),
            route_of: self.route_of.clone(),
            devices: self.devices.iter().collect(),
        };
        serde_json::to_string(&raw).expect("a schedule is plain data")
    }

    /// Read a schedule file.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), and those of [`from_json`](Self::from_json).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_json(&files::read(path)?, &path.display().to_string())
    }

    /// Write a schedule file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), &self.to_json())
    }
}
