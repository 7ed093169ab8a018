//! The schedule itself: ids, actions, placement. Every id in a [`Schedule`] is in range; whether it is legal is
//! [`verify`](super::verify)'s to say.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The position in a list of all.
            pub const fn index(self) -> usize {
                self.0 as usize
            }

            /// The one at position `index`; schedules have far less than 2^32 of anything.
            pub(crate) fn at(index: usize) -> Self {
                Self(u32::try_from(index).unwrap_or(u32::MAX))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A device of the pipeline; displays as `d2`.
    Device,
    "d"
);
id!(
    /// A piece of the model, in the order a microbatch passes them; displays as `c5`.
    Chunk,
    "c"
);
id!(
    /// A part of the batch; displays as `m7`.
    Microbatch,
    "m"
);

/// One thing a device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The forward of a chunk.
    Forward(Microbatch, Chunk),
    /// The chunk's forward again, before its backward, which then finds what it needs. None has to be in a schedule:
    /// see [`simulate`](super::simulate).
    Recompute(Microbatch, Chunk),
    /// The whole backward: the gradients of the chunk's input and of its weights.
    Backward(Microbatch, Chunk),
    /// The gradient of the chunk's input alone ("B").
    InputGradient(Microbatch, Chunk),
    /// The gradient of the chunk's weights alone ("W").
    WeightGradient(Microbatch, Chunk),
    /// Send what the chunk's forward made to the device of the next chunk.
    SendActivation(Microbatch, Chunk, Device),
    /// Send the gradient of the chunk's input to the device of the chunk before.
    SendGradient(Microbatch, Chunk, Device),
    /// Take what the chunk's forward made from the device that holds it.
    ReceiveActivation(Microbatch, Chunk, Device),
    /// Take the gradient of the chunk's input from the device that made it.
    ReceiveGradient(Microbatch, Chunk, Device),
    /// Update the chunk's weights. A chunk with replicas is updated on all its devices together: each waits for the
    /// others, and their gradients are summed.
    Update(Chunk),
}

impl Action {
    /// The microbatch it is about; none for updates.
    pub fn microbatch(self) -> Option<Microbatch> {
        use Action::*;
        match self {
            Forward(m, _) | Recompute(m, _) => Some(m),
            Backward(m, _) | InputGradient(m, _) | WeightGradient(m, _) => Some(m),
            SendActivation(m, ..) | SendGradient(m, ..) | ReceiveActivation(m, ..) | ReceiveGradient(m, ..) => Some(m),
            Update(_) => None,
        }
    }

    /// The chunk it is about.
    pub fn chunk(self) -> Chunk {
        use Action::*;
        match self {
            Forward(_, c) | Recompute(_, c) | Update(c) => c,
            Backward(_, c) | InputGradient(_, c) | WeightGradient(_, c) => c,
            SendActivation(_, c, _) | SendGradient(_, c, _) => c,
            ReceiveActivation(_, c, _) | ReceiveGradient(_, c, _) => c,
        }
    }

    /// The device it sends to or receives from.
    pub fn peer(self) -> Option<Device> {
        use Action::*;
        match self {
            SendActivation(.., d) | SendGradient(.., d) | ReceiveActivation(.., d) | ReceiveGradient(.., d) => Some(d),
            _ => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Action::*;
        match self {
            Forward(m, c) => write!(f, "forward {m} {c}"),
            Recompute(m, c) => write!(f, "recompute {m} {c}"),
            Backward(m, c) => write!(f, "backward {m} {c}"),
            InputGradient(m, c) => write!(f, "input gradient {m} {c}"),
            WeightGradient(m, c) => write!(f, "weight gradient {m} {c}"),
            SendActivation(m, c, d) => write!(f, "send activation {m} {c} to {d}"),
            SendGradient(m, c, d) => write!(f, "send gradient {m} {c} to {d}"),
            ReceiveActivation(m, c, d) => write!(f, "receive activation {m} {c} from {d}"),
            ReceiveGradient(m, c, d) => write!(f, "receive gradient {m} {c} from {d}"),
            Update(c) => write!(f, "update {c}"),
        }
    }
}

/// What every device of a pipeline does in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub(super) name: String,
    pub(super) queue: u32,
    pub(super) routes: Vec<Vec<Device>>,
    pub(super) route_of: Vec<u32>,
    pub(super) devices: Vec<Vec<Action>>,
}

impl Schedule {
    /// Put a schedule together. `routes[r][c]` is the device of chunk `c` for the microbatches whose `route_of` is
    /// `r`; `devices[d]` what device `d` does, in order. Between two devices there is a queue for activations and one
    /// for gradients, each of which holds up to `queue` messages; with 0 a sender waits for its receiver.
    ///
    /// # Errors
    /// [`Error::InvalidSchedule`], naming the place, when something is empty or out of range.
    pub fn new(
        name: &str,
        queue: u32,
        routes: Vec<Vec<Device>>,
        route_of: Vec<u32>,
        devices: Vec<Vec<Action>>,
    ) -> Result<Self> {
        let schedule = Self { name: name.to_owned(), queue, routes, route_of, devices };
        schedule.validate()?;
        Ok(schedule)
    }

    fn validate(&self) -> Result<()> {
        let invalid = |at: String, why: String| Err(Error::InvalidSchedule { at, why });
        let (devices, chunks) = (self.devices.len(), self.routes.first().map_or(0, Vec::len));
        if devices == 0 {
            return invalid("devices".into(), "there are none".into());
        }
        if chunks == 0 {
            return invalid("routes".into(), "there is no route, or it has no chunks".into());
        }
        if self.route_of.is_empty() {
            return invalid("route_of".into(), "there are no microbatches".into());
        }
        for (r, route) in self.routes.iter().enumerate() {
            if route.len() != chunks {
                let why = format!("it places {} chunks; route 0 places {chunks}", route.len());
                return invalid(format!("route {r}"), why);
            }
            if let Some(c) = route.iter().position(|device| device.index() >= devices) {
                let why = format!("{} is on {}; there are {devices} devices", Chunk::at(c), route[c]);
                return invalid(format!("route {r}"), why);
            }
        }
        if let Some(m) = self.route_of.iter().position(|&route| route as usize >= self.routes.len()) {
            let why = format!("it takes route {}; there are {}", self.route_of[m], self.routes.len());
            return invalid(Microbatch::at(m).to_string(), why);
        }
        for (d, actions) in self.devices.iter().enumerate() {
            for (index, action) in actions.iter().enumerate() {
                let out = match (action.microbatch(), action.chunk(), action.peer()) {
                    (Some(m), ..) if m.index() >= self.route_of.len() => {
                        format!("there are {} microbatches", self.route_of.len())
                    }
                    (_, c, _) if c.index() >= chunks => format!("there are {chunks} chunks"),
                    (.., Some(peer)) if peer.index() >= devices => format!("there are {devices} devices"),
                    _ => continue,
                };
                return invalid(format!("{} action {index} ({action})", Device::at(d)), out);
            }
        }
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Messages that a queue holds.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// The same with queues of another size.
    pub fn with_queue(self, queue: u32) -> Self {
        Self { queue, ..self }
    }

    /// What each device does, in order.
    pub fn devices(&self) -> &[Vec<Action>] {
        &self.devices
    }

    /// The device of each chunk, by route.
    pub fn routes(&self) -> &[Vec<Device>] {
        &self.routes
    }

    /// Number of chunks.
    pub fn chunks(&self) -> usize {
        self.routes[0].len()
    }

    /// Number of microbatches.
    pub fn microbatches(&self) -> usize {
        self.route_of.len()
    }

    /// Where a microbatch passes a chunk.
    pub fn device_of(&self, m: Microbatch, c: Chunk) -> Device {
        self.routes[self.route_of[m.index()] as usize][c.index()]
    }

    /// The devices with a replica of a chunk, in order.
    pub fn holders(&self, c: Chunk) -> Vec<Device> {
        let mut holders: Vec<Device> = self.routes.iter().map(|route| route[c.index()]).collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }
}
