//! What a pipeline runs on: devices, the machines they are in, and what connects them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cost::DeviceSpec;
use crate::error::{Error, Result};
use crate::files;
use crate::pipeline::Link;
use crate::units::{Bytes, Nanos};

const FORMAT: &str = "plimsoll.topology";
const VERSION: u64 = 1;
/// More devices than this are a slip of the pen.
const MOST: usize = 1 << 16;

/// A device of a topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What it is called.
    pub name: String,
    /// Index of the machine it is in.
    pub node: usize,
    /// Bytes it has.
    pub memory: Bytes,
    /// Its speed in percent of that of the device that the problem's times are for.
    pub speed: u32,
    /// Host memory that it may use, in bytes; 0 for none.
    pub host_memory: Bytes,
    /// Bytes a second to the host and back; 0 where nothing can be moved.
    pub host_bytes_per_s: u64,
}

/// Devices in the order in which stages are laid on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// A name for people.
    pub name: String,
    /// The devices.
    pub places: Vec<Place>,
    /// What connects the devices of each machine.
    pub links: Vec<Link>,
    /// What connects machines.
    pub network: Link,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    version: u64,
    #[serde(default)]
    name: String,
    nodes: Vec<NodeFile>,
    #[serde(default)]
    network: LinkFile,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    #[serde(default = "one")]
    count: usize,
    devices: Vec<DeviceFile>,
    #[serde(default)]
    link: LinkFile,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceFile {
    device: String,
    #[serde(default = "one")]
    count: usize,
    #[serde(default)]
    memory: Option<u64>,
    #[serde(default = "hundred")]
    speed: u32,
    #[serde(default)]
    host_memory: u64,
    #[serde(default)]
    host_bytes_per_s: Option<u64>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkFile {
    #[serde(default)]
    bytes_per_s: u64,
    #[serde(default)]
    latency: u64,
}

fn one() -> usize {
    1
}

fn hundred() -> u32 {
    100
}

impl From<LinkFile> for Link {
    fn from(link: LinkFile) -> Self {
        Self { latency: Nanos(link.latency), bytes_per_s: link.bytes_per_s }
    }
}

impl Topology {
    /// `count` equal devices of `memory` bytes in one machine, between which messages take no time.
    pub fn equal(count: usize, memory: Bytes) -> Self {
        let place = |i: usize| Place {
            name: format!("device {i}"),
            node: 0,
            memory,
            speed: 100,
            host_memory: Bytes::ZERO,
            host_bytes_per_s: 0,
        };
        Self {
            name: format!("{count} equal devices"),
            places: (0..count).map(place).collect(),
            links: vec![Link::default()],
            network: Link::default(),
        }
    }

    /// What connects two devices.
    pub fn link(&self, from: usize, to: usize) -> Link {
        let (a, b) = (self.places[from].node, self.places[to].node);
        if a == b { self.links[a] } else { self.network }
    }

    /// Read a topology file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`], [`Error::NewerVersion`], and [`Error::InvalidSetting`] for an unknown device,
    /// a speed of zero, or no devices.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_json(&files::read(path)?, &path.display().to_string())
    }

    /// Read a topology from JSON text; `file` names it in errors.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        files::check_header(text, file, FORMAT, VERSION)?;
        let raw: File = files::parse(text, file, FORMAT)?;
        let refuse = |name: String, why: String| Err(Error::InvalidSetting { name, why });
        let (mut places, mut links): (Vec<Place>, Vec<Link>) = (Vec::new(), Vec::new());
        for (n, node) in raw.nodes.into_iter().enumerate() {
            let link = Link::from(node.link);
            let mut each: Vec<Place> = Vec::new();
            for device in node.devices {
                let at = || format!("node {n}, device `{}`", device.device);
                let known = DeviceSpec::find(&device.device).ok().map(|spec| spec.device);
                let Some(memory) = device.memory.map(Bytes).or(known.as_ref().map(|known| known.memory)) else {
                    let why = "it is none of the built-in devices, so it needs its `memory` in bytes";
                    return refuse(at(), why.into());
                };
                if device.speed == 0 {
                    return refuse(at(), "its speed is 0 percent".into());
                }
                let host = known.map_or(0, |known| known.d2h_bytes_per_s.min(known.h2d_bytes_per_s));
                let place = Place {
                    name: device.device.clone(),
                    node: 0,
                    memory,
                    speed: device.speed,
                    host_memory: Bytes(device.host_memory),
                    host_bytes_per_s: device.host_bytes_per_s.unwrap_or(host),
                };
                if device.count > MOST {
                    return refuse(at(), format!("{} of them are too many", device.count));
                }
                each.extend(std::iter::repeat_n(place, device.count));
            }
            if each.len().saturating_mul(node.count) > MOST {
                return refuse(format!("node {n}"), format!("that is more than {MOST} devices"));
            }
            for _ in 0..node.count {
                places.extend(each.iter().map(|place| Place { node: links.len(), ..place.clone() }));
                links.push(link);
            }
            if places.len() > MOST {
                return refuse("nodes".into(), format!("they have more than {MOST} devices"));
            }
        }
        if places.is_empty() {
            return refuse("nodes".into(), "there are no devices".into());
        }
        Ok(Self { name: raw.name, places, links, network: raw.network.into() })
    }
}
