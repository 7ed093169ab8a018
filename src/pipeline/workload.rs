//! What a schedule's parts cost: times, sizes, devices, links.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::schedule::{Device, Schedule};
use crate::error::{Error, Result};
use crate::units::{Bytes, Nanos};

/// What one microbatch of one chunk takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkCost {
    /// Time of the forward on a device of speed 100.
    pub forward: Nanos,
    /// Time of the input gradient. A fused backward takes this and the next.
    pub input_gradient: Nanos,
    /// Time of the weight gradient.
    pub weight_gradient: Nanos,
    /// Time of the update.
    pub update: Nanos,
    /// Bytes held from the start of the forward to the end of the input gradient (or of the fused backward).
    pub activation: Bytes,
    /// Bytes held from the end of the input gradient to the end of the weight gradient.
    pub kept: Bytes,
    /// Bytes of what the forward sends on.
    pub output: Bytes,
    /// Bytes of the gradient that the backward sends back.
    pub gradient: Bytes,
    /// Time of computing the activation again, which is then done before each backward. With more than zero only
    /// [`checkpoint`](Self::checkpoint) bytes are held from the forward to the start of that; see
    /// [`simulate`](super::simulate).
    pub recompute: Nanos,
    /// Bytes held instead of the activation until it is computed again.
    pub checkpoint: Bytes,
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceCost {
    /// In percent: 200 halves every time. Never 0.
    pub speed: u32,
    /// Bytes that are there all the time: parameters, gradients, optimizer state.
    pub constant: Bytes,
    /// Bytes it has. What is recomputed ahead of time never makes a device need more; the rest of a schedule may, see
    /// [`DeviceRun::peak`](super::DeviceRun::peak).
    pub memory: Option<Bytes>,
}

/// A connection, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// From the last byte sent to its arrival.
    pub latency: Nanos,
    /// 0: sending takes no time.
    pub bytes_per_s: u64,
}

impl Link {
    /// One as slow as the slower of two in each respect.
    pub(crate) fn slower(self, other: Self) -> Self {
        // A bandwidth of 0 has no limit.
        let limits = [self.bytes_per_s, other.bytes_per_s].into_iter().filter(|&limit| limit > 0);
        Self { latency: self.latency.max(other.latency), bytes_per_s: limits.min().unwrap_or(0) }
    }

    /// How long the bytes of a message occupy it, rounded up.
    pub(crate) fn sending(self, bytes: Bytes) -> Nanos {
        bytes.moved_at(self.bytes_per_s)
    }
}

/// The costs of a schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// By chunk.
    pub chunks: Vec<ChunkCost>,
    /// By device.
    pub devices: Vec<DeviceCost>,
    /// Between any two devices.
    pub link: Link,
    /// Where it is another one.
    pub links: BTreeMap<(Device, Device), Link>,
}

impl Workload {
    /// The same times for every chunk, an activation of one byte that is kept until the weight gradient, equal
    /// devices, messages that take no time.
    pub fn uniform(schedule: &Schedule, forward: u64, input_gradient: u64, weight_gradient: u64) -> Self {
        let chunk = ChunkCost {
            forward: Nanos(forward),
            input_gradient: Nanos(input_gradient),
            weight_gradient: Nanos(weight_gradient),
            activation: Bytes(1),
            kept: Bytes(1),
            ..ChunkCost::default()
        };
        Self {
            chunks: vec![chunk; schedule.chunks()],
            devices: vec![DeviceCost { speed: 100, constant: Bytes::ZERO, memory: None }; schedule.devices().len()],
            ..Self::default()
        }
    }

    /// The link between two devices.
    pub fn link(&self, from: Device, to: Device) -> Link {
        self.links.get(&(from, to)).copied().unwrap_or(self.link)
    }

    /// How long something takes on a device, rounded up.
    pub fn on(&self, device: Device, time: Nanos) -> Nanos {
        let scaled = (u128::from(time.get()) * 100).div_ceil(u128::from(self.devices[device.index()].speed.max(1)));
        Nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
    }

    /// How long the bytes of a message occupy a link, rounded up.
    pub fn sending(&self, link: Link, bytes: Bytes) -> Nanos {
        link.sending(bytes)
    }

    /// Whether it fits the schedule, and no sum of it overflows.
    pub(super) fn validate(&self, schedule: &Schedule) -> Result<()> {
        let invalid = |name: &str, why: String| Err(Error::InvalidSetting { name: name.to_owned(), why });
        if self.chunks.len() != schedule.chunks() {
            let why =
                format!("costs of {} chunks are given; the schedule has {}", self.chunks.len(), schedule.chunks());
            return invalid("chunks", why);
        }
        if self.devices.len() != schedule.devices().len() {
            let (given, has) = (self.devices.len(), schedule.devices().len());
            return invalid("devices", format!("costs of {given} devices are given; the schedule has {has}"));
        }
        if let Some(d) = self.devices.iter().position(|device| device.speed == 0) {
            return invalid("speed", format!("that of {} is 0", Device::at(d)));
        }
        // Everything one after the other, at the slowest: no run takes longer or holds more.
        let slowest = self.devices.iter().map(|device| device.speed).min().unwrap_or(1);
        let links = || self.links.values().chain([&self.link]);
        let wire = |bytes: Bytes| {
            links().map(|&l| u128::from(self.sending(l, bytes).get()) + u128::from(l.latency.get())).sum::<u128>()
        };
        let (mut time, mut bytes) = (0u128, 0u128);
        for c in &self.chunks {
            let work = [c.forward, c.input_gradient, c.weight_gradient, c.update, c.recompute];
            let work: u128 = work.iter().map(|time| u128::from(time.get()) * 100 / u128::from(slowest) + 1).sum();
            let wire: u128 = [c.output, c.gradient].map(wire).iter().sum();
            time += work + wire;
            bytes += [c.activation, c.kept, c.checkpoint].iter().map(|b| u128::from(b.get())).sum::<u128>();
        }
        let limit = u128::from(u64::MAX >> 1) / schedule.microbatches() as u128;
        if time > limit {
            return invalid("times", "added up they are more than 2^63 ns".into());
        }
        let constant = self.devices.iter().map(|device| device.constant.get()).max().unwrap_or(0);
        if bytes > limit || constant > u64::MAX >> 1 {
            return invalid("bytes", "added up they are more than 2^63".into());
        }
        Ok(())
    }
}
