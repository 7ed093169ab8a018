//! Devices that need not be at hand: what they hold, move and compute.
//!
//! Figures are the makers' data sheets: dense 32-bit floating-point rate without tensor cores, memory
//! bandwidth, capacity (in decimal gigabytes, which leaves the driver a few per cent). A link moves what
//! PCIe 4.0 or 5.0 with 16 lanes reaches in practice, about four fifths of its rate. `cpu` is a server of 16
//! cores. Other devices are described in a file:
//!
//! ```json
//! { "format": "plimsoll.device", "version": 1, "name": "my-gpu", "memory": 17179869184,
//!   "flops_per_s": 30e12, "bytes_per_s": 500e9, "launch": 5000,
//!   "d2h_bytes_per_s": 25000000000, "h2d_bytes_per_s": 25000000000, "host_memory": 0 }
//! ```
//!
//! Rates are a second's, sizes bytes, times nanoseconds; all but the first six may be left out.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Device, Roofline};
use crate::error::{Error, Result};
use crate::files::{self, Format};
use crate::units::{Bytes, Nanos};

const FORMAT: Format = Format { name: "plimsoll.device", version: 1 };

const GB: u64 = 1_000_000_000;

/// A device to plan for: what a problem says of it, and what times follow from.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSpec {
    /// Its capacities and link. Without host memory nothing is offloaded.
    pub device: Device,
    /// Its rates.
    pub roofline: Roofline,
}

/// A device of which only the rates are known.
impl From<Roofline> for DeviceSpec {
    fn from(roofline: Roofline) -> Self {
        Self { device: Device { name: roofline.to_string(), ..Device::default() }, roofline }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    version: u64,
    name: String,
    memory: u64,
    flops_per_s: f64,
    bytes_per_s: f64,
    #[serde(default)]
    launch: Option<u64>,
    #[serde(default)]
    d2h_bytes_per_s: u64,
    #[serde(default)]
    h2d_bytes_per_s: u64,
    #[serde(default)]
    host_memory: u64,
}

impl File {
    fn spec(self) -> Result<DeviceSpec> {
        let roofline = Roofline::new(self.flops_per_s, self.bytes_per_s)?;
        Ok(DeviceSpec {
            device: Device {
                name: self.name,
                memory: Bytes(self.memory),
                host_memory: Bytes(self.host_memory),
                d2h_bytes_per_s: self.d2h_bytes_per_s,
                h2d_bytes_per_s: self.h2d_bytes_per_s,
            },
            roofline: roofline.with_launch(self.launch.map_or(roofline.launch(), Nanos)),
        })
    }
}

/// Name, memory in bytes, flops a second, bytes a second, bytes a second of the link to the host, launch in ns.
type Row = (&'static str, u64, f64, f64, u64, u64);

const CATALOG: [Row; 8] = [
    ("a100-40gb", 40 * GB, 19.5e12, 1.555e12, 25 * GB, 5_000),
    ("a100-80gb", 80 * GB, 19.5e12, 2.039e12, 25 * GB, 5_000),
    ("h100", 80 * GB, 67e12, 3.35e12, 50 * GB, 5_000),
    ("h200", 141 * GB, 67e12, 4.8e12, 50 * GB, 5_000),
    ("rtx-4090", 24 * GB, 82.6e12, 1.008e12, 25 * GB, 5_000),
    ("l4", 24 * GB, 30.3e12, 0.3e12, 25 * GB, 5_000),
    ("rtx-3060", 12 * GB, 12.7e12, 0.36e12, 25 * GB, 5_000),
    ("cpu", 64 * GB, 1e12, 0.1e12, 0, 1_000),
];

impl DeviceSpec {
    /// The built-in devices.
    pub fn catalog() -> Vec<Self> {
        let spec = |&(name, memory, flops, bytes, link, launch): &Row| Self {
            device: Device {
                name: name.to_owned(),
                memory: Bytes(memory),
                host_memory: Bytes::ZERO,
                d2h_bytes_per_s: link,
                h2d_bytes_per_s: link,
            },
            roofline: Roofline::new(flops, bytes).expect("rates are positive").with_launch(Nanos(launch)),
        };
        CATALOG.iter().map(spec).collect()
    }

    /// A built-in device by its name, or one described in a file.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] when there is neither a device nor a file of that name; those of
    /// [`load`](Self::load).
    pub fn find(name: &str) -> Result<Self> {
        let plain = |text: &str| text.to_ascii_lowercase().replace([' ', '_'], "-");
        if let Some(spec) = Self::catalog().into_iter().find(|spec| spec.device.name == plain(name)) {
            return Ok(spec);
        }
        if Path::new(name).exists() {
            return Self::load(name);
        }
        let known: Vec<&str> = CATALOG.iter().map(|row| row.0).collect();
        let why = format!("`{name}` is neither a file nor one of: {}", known.join(", "));
        Err(Error::InvalidSetting { name: "device".into(), why })
    }

    /// Read a device file, compressed with Zstandard or not.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::TooLarge`], [`Error::Format`], [`Error::NewerVersion`], and
    /// [`Error::InvalidSetting`] when a rate is not a positive number.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        FORMAT.load::<File>(path.as_ref())?.spec()
    }

    /// Read a device from JSON text; `file` names it in errors.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        FORMAT.text::<File>(text, file)?.spec()
    }

    /// The device as a file describes it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.file()).expect("a device is plain data")
    }

    /// Write a device file, whole or not at all; compressed where its name ends in `.zst`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), &self.file())
    }

    fn file(&self) -> File {
        let device = &self.device;
        File {
            format: FORMAT.name.to_owned(),
            version: FORMAT.version,
            name: device.name.clone(),
            memory: device.memory.get(),
            flops_per_s: self.roofline.flops_per_s(),
            bytes_per_s: self.roofline.bytes_per_s(),
            launch: Some(self.roofline.launch().get()),
            d2h_bytes_per_s: device.d2h_bytes_per_s,
            h2d_bytes_per_s: device.h2d_bytes_per_s,
            host_memory: device.host_memory.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_reads_back_and_is_found_by_name() {
        for spec in DeviceSpec::catalog() {
            assert_eq!(DeviceSpec::from_json(&spec.to_json(), "text").unwrap(), spec);
            assert_eq!(DeviceSpec::find(&spec.device.name.to_uppercase().replace('-', " ")).unwrap(), spec);
        }
    }

    #[test]
    fn what_is_wrong_with_a_device_is_said() {
        let said = |name: &str| DeviceSpec::find(name).unwrap_err().to_string();
        assert!(said("h300").contains("neither a file nor one of: a100-40gb"));
        let spec = DeviceSpec::catalog().remove(0).to_json();
        let read = |text: &str| DeviceSpec::from_json(text, "my.json").unwrap_err().to_string();
        assert!(read(&spec.replace("\"version\":1", "\"version\":2")).contains("upgrade plimsoll"));
        assert!(read(&spec.replace("plimsoll.device", "plimsoll.plan")).contains("my.json is not a plimsoll.device"));
        assert!(read(&spec.replace("\"memory\"", "\"memroy\"")).contains("memroy"));
        assert!(read(&spec.replace("19500000000000.0", "0")).contains("FLOPS must be a positive number"));
    }
}
