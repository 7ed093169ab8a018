//! What a pipeline can run on: devices, in the order of the stages, and the links between them.
//!
//! ```json
//! { "format": "plimsoll.topology", "version": 1, "name": "two boxes",
//!   "devices": [ {"name": "a0", "node": 0, "memory": 8589934592, "speed": 100}, {"name": "b0", "node": 1, "memory": 8589934592} ],
//!   "inside": {"latency": 2000, "bytes_per_s": 300000000000}, "between": {"latency": 10000, "bytes_per_s": 12500000000},
//!   "links": [ {"from": 0, "to": 1, "latency": 5000, "bytes_per_s": 25000000000} ] }
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::files::{self, Format};
use crate::pipeline::{Device, Link, Schedule, Workload};
use crate::units::{Bytes, Nanos};

const FORMAT: Format = Format { name: "plimsoll.topology", version: 1 };

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopologyDevice {
    /// A name for people.
    #[serde(default)]
    pub name: String,
    /// The machine it is in: devices with the same number are joined by the links inside a machine.
    #[serde(default)]
    pub node: u32,
    /// Its memory in bytes.
    pub memory: Bytes,
    /// In percent of what times were measured on.
    #[serde(default = "usual")]
    pub speed: u32,
    /// Host memory that it may use, in bytes; 0 for none.
    #[serde(default)]
    pub host_memory: Bytes,
    /// Bytes a second to the host, and as many back; 0 where nothing can be moved there.
    #[serde(default)]
    pub host_bytes_per_s: u64,
}

fn usual() -> u32 {
    100
}

/// Devices and links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    name: String,
    devices: Vec<TopologyDevice>,
    inside: Link,
    between: Link,
    links: BTreeMap<(Device, Device), Link>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileLink {
    latency: Nanos,
    bytes_per_s: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEdge {
    from: Device,
    to: Device,
    #[serde(default)]
    latency: Nanos,
    #[serde(default)]
    bytes_per_s: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    version: u64,
    #[serde(default)]
    name: String,
    #[serde(deserialize_with = "devices")]
    devices: Vec<TopologyDevice>,
    #[serde(default)]
    inside: FileLink,
    #[serde(default)]
    between: FileLink,
    #[serde(default, deserialize_with = "links")]
    links: Vec<FileEdge>,
}

fn devices<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TopologyDevice>, D::Error> {
    files::entries(deserializer, |i| Device::at(i).to_string(), std::convert::identity)
}

fn links<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<FileEdge>, D::Error> {
    files::entries(deserializer, |i| format!("link {i}"), std::convert::identity)
}

impl From<FileLink> for Link {
    fn from(link: FileLink) -> Self {
        Self { latency: link.latency, bytes_per_s: link.bytes_per_s }
    }
}

impl From<Link> for FileLink {
    fn from(link: Link) -> Self {
        Self { latency: link.latency, bytes_per_s: link.bytes_per_s }
    }
}

impl Topology {
    /// The same where every device has `memory` bytes.
    pub fn with_memory(mut self, memory: Bytes) -> Self {
        self.devices.iter_mut().for_each(|device| device.memory = memory);
        self
    }

    /// The same where one device has no more than `memory` bytes.
    ///
    /// # Panics
    /// When there is no such device.
    pub fn with_at_most(mut self, device: usize, memory: Bytes) -> Self {
        let it = &mut self.devices[device];
        it.memory = it.memory.min(memory);
        self
    }

    /// `count` equal devices of `memory` bytes in one machine, between which messages take no time.
    pub fn equal(count: usize, memory: Bytes) -> Self {
        let device = |i: usize| TopologyDevice {
            name: Device::at(i).to_string(),
            node: 0,
            memory,
            speed: usual(),
            host_memory: Bytes::ZERO,
            host_bytes_per_s: 0,
        };
        let (devices, links) = ((0..count).map(device).collect(), BTreeMap::new());
        let name = format!("{count} equal devices");
        Self { name, devices, inside: Link::default(), between: Link::default(), links }
    }

    /// The devices of one of `replicas` that share all devices evenly and in order, each as weak as the weakest of
    /// those it stands for, and so are its links.
    pub(crate) fn folded(&self, replicas: usize) -> Self {
        let count = self.devices.len() / replicas.max(1);
        if replicas < 2 || count == 0 {
            return self.clone();
        }
        let mut devices = self.devices[..count].to_vec();
        for (d, other) in self.devices.iter().enumerate().skip(count) {
            let place = &mut devices[d % count];
            place.memory = place.memory.min(other.memory);
            place.speed = place.speed.min(other.speed);
            place.host_memory = place.host_memory.min(other.host_memory);
            place.host_bytes_per_s = place.host_bytes_per_s.min(other.host_bytes_per_s);
        }
        let mut links = BTreeMap::new();
        for from in 0..count {
            for to in (0..count).filter(|&to| to != from) {
                let each = (0..replicas).map(|r| r * count);
                let each = each.map(|first| self.link(Device::at(first + from), Device::at(first + to)));
                links.extend(each.reduce(Link::slower).map(|link| ((Device::at(from), Device::at(to)), link)));
            }
        }
        Self { name: self.name.clone(), devices, inside: self.inside, between: self.between, links }
    }

    /// Read a topology from JSON text; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`], [`Error::NewerVersion`] or [`Error::InvalidTopology`].
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        Self::of(FORMAT.text(text, file)?)
    }

    fn of(raw: File) -> Result<Self> {
        let invalid = |at: String, why: String| Err(Error::InvalidTopology { at, why });
        let count = raw.devices.len();
        if count == 0 {
            return invalid("devices".into(), "there are none".into());
        }
        if let Some(d) = raw.devices.iter().position(|device| device.speed == 0) {
            return invalid(Device::at(d).to_string(), "its speed is 0".into());
        }
        let mut links = BTreeMap::new();
        for (index, edge) in raw.links.iter().enumerate() {
            let at = format!("link {index} ({} to {})", edge.from, edge.to);
            if edge.from.index() >= count || edge.to.index() >= count {
                return invalid(at, format!("there are {count} devices"));
            }
            if edge.from == edge.to {
                return invalid(at, "it leads to the device it comes from".into());
            }
            let link = Link { latency: edge.latency, bytes_per_s: edge.bytes_per_s };
            if links.insert((edge.from, edge.to), link).is_some() {
                return invalid(at, "it is listed twice".into());
            }
        }
        let (inside, between) = (raw.inside.into(), raw.between.into());
        Ok(Self { name: raw.name, devices: raw.devices, inside, between, links })
    }

    /// The topology as JSON text, the same bytes for the same topology.
    pub fn to_json(&self) -> String {
        let edge = |(&(from, to), link): (&(Device, Device), &Link)| FileEdge {
            from,
            to,
            latency: link.latency,
            bytes_per_s: link.bytes_per_s,
        };
        let raw = File {
            format: FORMAT.name.to_owned(),
            version: FORMAT.version,
            name: self.name.clone(),
            devices: self.devices.clone(),
            inside: self.inside.into(),
            between: self.between.into(),
            links: self.links.iter().map(edge).collect(),
        };
        serde_json::to_string(&raw).expect("a topology is plain data")
    }

    /// Read a topology file, compressed with Zstandard or not.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::TooLarge`], and those of [`from_json`](Self::from_json).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::of(FORMAT.load(path.as_ref())?)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its devices.
    pub fn devices(&self) -> &[TopologyDevice] {
        &self.devices
    }

    /// The link from one device to another: the one listed, or that of its kind.
    ///
    /// # Panics
    /// When there is no such device.
    pub fn link(&self, from: Device, to: Device) -> Link {
        let node = |device: Device| self.devices[device.index()].node;
        let usual = if node(from) == node(to) { self.inside } else { self.between };
        self.links.get(&(from, to)).copied().unwrap_or(usual)
    }

    /// Give a schedule's workload these devices' memory and speed, and their links.
    ///
    /// # Errors
    /// [`Error::InvalidTopology`] when it has another number of devices than the schedule.
    pub fn apply(&self, schedule: &Schedule, workload: &mut Workload) -> Result<()> {
        let count = schedule.devices().len();
        if count != self.devices.len() || count != workload.devices.len() {
            let why = format!("there are {}; the schedule has {count}", self.devices.len());
            return Err(Error::InvalidTopology { at: "devices".into(), why });
        }
        for (cost, device) in workload.devices.iter_mut().zip(&self.devices) {
            (cost.memory, cost.speed) = (Some(device.memory), device.speed);
        }
        for from in (0..count).map(Device::at) {
            for to in (0..count).map(Device::at).filter(|&to| to != from) {
                workload.links.insert((from, to), self.link(from, to));
            }
        }
        Ok(())
    }
}
