//! What a device can hold and move.

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// Capacities and link speeds of one device. Zero means unknown or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    /// A name for people.
    pub name: String,
    /// Device memory in bytes.
    pub memory: Bytes,
    /// Host memory that offloaded values may fill, in bytes.
    pub host_memory: Bytes,
    /// Device-to-host bandwidth in bytes per second.
    pub d2h_bytes_per_s: u64,
    /// Host-to-device bandwidth in bytes per second.
    pub h2d_bytes_per_s: u64,
}

/// How fast tensors move between a device and host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Device to host, in bytes per second.
    pub d2h_bytes_per_s: u64,
    /// Host to device, in bytes per second.
    pub h2d_bytes_per_s: u64,
}
