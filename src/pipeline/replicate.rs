//! Replicas of a whole pipeline, side by side.
//!
//! ```text
//! d0  F0 F1 ...  U      replica 0: devices 0 .. p, the first microbatches
//! d1  .  F0 ...  U
//! d2  F2 F3 ...  U      replica 1: devices p .. 2p, the next ones; each chunk's update is a meeting of its devices
//! d3  .  F2 ...  U
//! ```

use super::schedule::{Action, Chunk, Device, Microbatch, Schedule};
use crate::error::{Error, Result};

impl Schedule {
    /// The same pipeline so many times: replica `r` has the `r`-th part of the devices and of the microbatches, in
    /// order. Weights are updated by all together.
    ///
    /// # Errors
    /// [`Error::InvalidSetting`] for none, or where there would be more than 2^32 of anything.
    pub fn replicated(&self, replicas: usize) -> Result<Self> {
        let refuse = |why: String| Err(Error::InvalidSetting { name: "replicas".into(), why });
        if replicas == 0 {
            return refuse("there must be at least one".into());
        }
        let (devices, microbatches, routes) = (self.devices.len(), self.microbatches(), self.routes.len());
        let most = devices.max(microbatches).max(routes);
        let Some(most) = most.checked_mul(replicas).filter(|&most| u32::try_from(most).is_ok()) else {
            return refuse(format!("{replicas} times {most} devices, microbatches or routes are more than 2^32"));
        };
        let all = |replica: usize| Shift { device: replica * devices, microbatch: replica * microbatches };
        let mut whole = Self {
            name: self.name.clone(),
            queue: self.queue,
            routes: Vec::with_capacity(routes * replicas),
            route_of: Vec::with_capacity(most),
            devices: Vec::with_capacity(devices * replicas),
        };
        for replica in 0..replicas {
            let shift = all(replica);
            let route = |route: &Vec<Device>| route.iter().map(|&device| shift.device(device)).collect();
            whole.routes.extend(self.routes.iter().map(route));
            whole.route_of.extend(self.route_of.iter().map(|&route| (replica * routes) as u32 + route));
            let list = |actions: &Vec<Action>| actions.iter().map(|&action| shift.action(action)).collect();
            whole.devices.extend(self.devices.iter().map(list));
        }
        Ok(whole)
    }

    /// The devices with a replica of a chunk, in the order of the routes: that in which their gradients are added.
    pub fn replicas(&self, c: Chunk) -> Vec<Device> {
        let mut replicas: Vec<Device> = Vec::with_capacity(self.routes.len());
        for route in &self.routes {
            if !replicas.contains(&route[c.index()]) {
                replicas.push(route[c.index()]);
            }
        }
        replicas
    }
}

/// From the names of one replica to those of all.
struct Shift {
    device: usize,
    microbatch: usize,
}

impl Shift {
    fn device(&self, device: Device) -> Device {
        Device::at(self.device + device.index())
    }

    fn action(&self, action: Action) -> Action {
        use Action::*;
        let device = |device: Device| self.device(device);
        let microbatch = |m: Microbatch| Microbatch::at(self.microbatch + m.index());
        match action {
            Forward(m, c) => Forward(microbatch(m), c),
            Recompute(m, c) => Recompute(microbatch(m), c),
            Backward(m, c) => Backward(microbatch(m), c),
            InputGradient(m, c) => InputGradient(microbatch(m), c),
            WeightGradient(m, c) => WeightGradient(microbatch(m), c),
            SendActivation(m, c, to) => SendActivation(microbatch(m), c, device(to)),
            SendGradient(m, c, to) => SendGradient(microbatch(m), c, device(to)),
            ReceiveActivation(m, c, from) => ReceiveActivation(microbatch(m), c, device(from)),
            ReceiveGradient(m, c, from) => ReceiveGradient(microbatch(m), c, device(from)),
            Update(c) => Update(c),
        }
    }
}
