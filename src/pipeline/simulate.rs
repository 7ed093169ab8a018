//! What a schedule does over time: when each action starts and ends, what each device holds.
//!
//! ```text
//! d0   F0 F1 .  .  B0 -  B1 -
//!        \  \     /     /          messages: the link is theirs for bytes / bandwidth, then they travel for the latency
//! d1   .  F0 B0 -  F1 B1 -
//! ```
//!
//! A device does one action after the other. Sending takes it no time: the message leaves when its link is free (one
//! message at a time in each direction) and the device goes on. A full queue holds the sender up until the receiver
//! has taken a message; without places (queue 0) sender and receiver both wait for the whole transfer. All times follow
//! from the order of the lists alone, so the order in which devices are looked at here does not matter.
//!
//! **Filling bubbles.** A chunk with a recompute time is computed again before its backward. Where the schedule does not
//! say when, that runs while the device waits, if it fits before what the device waits for (or if that is only needed
//! by that very backward) and if the device has the memory to hold the result till then, in the order of the backwards
//! to come; what found no such place runs right before its backward. A message that comes meanwhile is taken as it comes.
//! So nothing ever starts later than with the recompute counted as a part of the backward. [`Run::placed`] is the
//! schedule that says when.

use std::collections::BTreeMap;

use super::again::Again;
use super::memory::Memory;
use super::schedule::{Action, Chunk, Device, Schedule};
use super::verify::verify;
use super::workload::Workload;
use crate::error::Result;
use crate::units::{Bytes, Nanos};

/// One thing that took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where.
    pub device: Device,
    /// Index of the action in the device's list; of a recompute that is not in the list, of the backward it is for.
    pub index: usize,
    /// The action. Of a send or a receive the time on the device: nothing unless it waits for a transfer.
    pub action: Action,
    /// When it starts.
    pub start: Nanos,
    /// When it ends.
    pub end: Nanos,
}

/// What one device does over the step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceRun {
    /// Time spent computing.
    pub busy: Nanos,
    /// The makespan less that.
    pub idle: Nanos,
    /// Idle time between the start of its first computation and the end of its last: what a device that need not wait
    /// for others between two steps would lose.
    pub idle_within: Nanos,
    /// The most microbatches of chunks at once between the start of their forward and the end of their backward
    /// (weight gradient, where that is apart).
    pub peak_in_flight: usize,
    /// The most bytes at any instant.
    pub peak: Bytes,
    /// Bytes held, from each instant on at which they change.
    pub memory: Vec<(Nanos, Bytes)>,
}

/// What a schedule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// When the last device is done.
    pub makespan: Nanos,
    /// By device.
    pub devices: Vec<DeviceRun>,
    /// By device and in the order of its list.
    pub events: Vec<Vec<Event>>,
}

impl Run {
    /// The schedule of which this is a run, with its recomputations where they took place.
    pub fn placed(&self, schedule: &Schedule) -> Schedule {
        let devices = self.events.iter().map(|events| events.iter().map(|event| event.action).collect());
        Schedule { devices: devices.collect(), ..schedule.clone() }
    }
}

/// Run a schedule.
///
/// # Errors
/// [`Error::IllegalSchedule`](crate::Error::IllegalSchedule) when the verifier refuses it;
/// [`Error::InvalidSetting`](crate::Error::InvalidSetting) when the workload is for another one or overflows.
pub fn simulate(schedule: &Schedule, workload: &Workload) -> Result<Run> {
    verify(schedule)?;
    simulate_verified(schedule, workload)
}

/// The same for a schedule that the verifier is known to accept.
pub(crate) fn simulate_verified(schedule: &Schedule, workload: &Workload) -> Result<Run> {
    workload.validate(schedule)?;
    let mut machine = Machine::new(schedule, workload);
    machine.run();
    Ok(machine.finish())
}

/// From, to, and whether it carries gradients.
type Queue = (Device, Device, bool);

/// A queue: when its messages were taken, and what its ends have come to.
#[derive(Default)]
struct Channel {
    taken: Vec<Nanos>,
    sent: Vec<Nanos>,
    /// Since when the receiver waits for the next message.
    receiver: Option<Nanos>,
}

struct Machine<'a> {
    schedule: &'a Schedule,
    workload: &'a Workload,
    at: Vec<usize>,
    clock: Vec<Nanos>,
    channels: BTreeMap<Queue, Channel>,
    /// When each link is free again.
    links: BTreeMap<(Device, Device), Nanos>,
    /// When each replica of a chunk came to its update.
    meetings: BTreeMap<Chunk, BTreeMap<Device, Nanos>>,
    /// By device.
    again: Vec<Again>,
    events: Vec<Vec<Event>>,
}

impl<'a> Machine<'a> {
    fn new(schedule: &'a Schedule, workload: &'a Workload) -> Self {
        let devices = schedule.devices().len();
        let again = (0..devices).map(|d| Again::new(schedule, Device::at(d), workload)).collect();
        Self {
            schedule,
            workload,
            at: vec![0; devices],
            clock: vec![Nanos::ZERO; devices],
            channels: BTreeMap::new(),
            links: BTreeMap::new(),
            meetings: BTreeMap::new(),
            again,
            events: vec![Vec::new(); devices],
        }
    }

    /// The verifier has shown that this comes to all ends.
    fn run(&mut self) {
        let mut moved = true;
        while moved {
            moved = false;
            for device in (0..self.at.len()).map(Device::at) {
                while let Some(&action) = self.schedule.devices()[device.index()].get(self.at[device.index()]) {
                    let Some((start, end)) = self.times(device, action) else { break };
                    let index = self.at[device.index()];
                    self.push(Event { device, index, action, start, end });
                    self.at[device.index()] += 1;
                    moved = true;
                }
            }
        }
    }

    fn push(&mut self, event: Event) {
        self.clock[event.device.index()] = event.end;
        self.events[event.device.index()].push(event);
    }

    /// When the next action of a device starts and ends, if that is known yet.
    fn times(&mut self, device: Device, action: Action) -> Option<(Nanos, Nanos)> {
        let now = self.clock[device.index()];
        let costs = &self.workload.chunks[action.chunk().index()];
        match action {
            Action::Forward(..) => Some((now, now + self.workload.on(device, costs.forward))),
            Action::Recompute(..) => Some((now, now + self.workload.on(device, costs.recompute))),
            Action::WeightGradient(..) => Some((now, now + self.workload.on(device, costs.weight_gradient))),
            Action::Backward(..) | Action::InputGradient(..) => {
                let fused = matches!(action, Action::Backward(..));
                let weight = if fused { costs.weight_gradient } else { Nanos::ZERO };
                let time = self.workload.on(device, costs.input_gradient + weight);
                let index = self.at[device.index()];
                if self.again[device.index()].is_todo(index) {
                    self.again[device.index()].done(index);
                    self.recompute(device, index);
                }
                let start = self.clock[device.index()];
                Some((start, start + time))
            }
            Action::SendActivation(_, _, to) => self.send(device, to, false, costs.output),
            Action::SendGradient(_, _, to) => self.send(device, to, true, costs.gradient),
            Action::ReceiveActivation(_, _, from) => self.receive(device, from, false),
            Action::ReceiveGradient(_, _, from) => self.receive(device, from, true),
            Action::Update(c) => {
                let meeting = self.meetings.entry(c).or_default();
                meeting.entry(device).or_insert(now);
                if meeting.len() < self.schedule.holders(c).len() {
                    return None;
                }
                let start = meeting.values().copied().max()?;
                self.fill(device, start);
                Some((start, start + self.workload.on(device, costs.update)))
            }
        }
    }

    fn send(&mut self, from: Device, to: Device, gradient: bool, bytes: Bytes) -> Option<(Nanos, Nanos)> {
        let now = self.clock[from.index()];
        let places = self.schedule.queue() as usize;
        let channel = self.channels.entry((from, to, gradient)).or_default();
        let number = channel.sent.len();
        let start = match places {
            0 => channel.receiver.take()?.max(now),
            _ if number < places => now,
            _ => (*channel.taken.get(number - places)?).max(now),
        };
        self.fill(from, start);
        let start = start.max(self.clock[from.index()]);
        let link = self.workload.link(from, to);
        let free = self.links.entry((from, to)).or_default();
        let leaves = start.max(*free);
        *free = leaves + self.workload.sending(link, bytes);
        let arrives = *free + link.latency;
        self.channels.entry((from, to, gradient)).or_default().sent.push(arrives);
        Some((start, if places == 0 { arrives } else { start }))
    }

    fn receive(&mut self, to: Device, from: Device, gradient: bool) -> Option<(Nanos, Nanos)> {
        let now = self.clock[to.index()];
        let channel = self.channels.entry((from, to, gradient)).or_default();
        let Some(&arrives) = channel.sent.get(channel.taken.len()) else {
            channel.receiver = Some(now);
            return None;
        };
        channel.taken.push(arrives.max(now));
        self.fill(to, arrives);
        let end = arrives.max(self.clock[to.index()]);
        Some((end, end))
    }

    /// Recompute what fits between now and `until`, when the device's next action can start.
    fn fill(&mut self, device: Device, until: Nanos) {
        let d = device.index();
        let (here, actions) = (self.at[d], &self.schedule.devices()[d]);
        let receives = |a: &&Action| matches!(a, Action::ReceiveActivation(..) | Action::ReceiveGradient(..));
        // What stands behind receives alone is all that can be held up.
        let next = here + actions[here..].iter().take_while(receives).count();
        let mut from = here;
        while self.clock[d] < until {
            let Some(index) = self.again[d].next(here, from) else { return };
            let cost = &self.workload.chunks[actions[index].chunk().index()];
            let fits = index == next || self.clock[d] + self.workload.on(device, cost.recompute) <= until;
            if fits && self.again[d].make_early(here, index, cost) {
                self.recompute(device, index);
            }
            from = index + 1;
        }
    }

    /// The recompute for the backward at `index`.
    fn recompute(&mut self, device: Device, index: usize) {
        let Some(m) = self.schedule.devices()[device.index()][index].microbatch() else { return };
        let c = self.schedule.devices()[device.index()][index].chunk();
        let start = self.clock[device.index()];
        let end = start + self.workload.on(device, self.workload.chunks[c.index()].recompute);
        self.push(Event { device, index, action: Action::Recompute(m, c), start, end });
    }

    fn finish(self) -> Run {
        let makespan = self.clock.iter().copied().max().unwrap_or_default();
        let runs = self.events.iter().zip(&self.workload.devices).map(|(events, device)| {
            let mut memory = Memory::new(device.constant);
            let mut run = DeviceRun::default();
            let (mut first, mut last) = (None, Nanos::ZERO);
            for event in events.iter().filter(|event| event.action.peer().is_none()) {
                first = first.or(Some(event.start));
                last = event.end;
                run.busy += event.end - event.start;
                memory.play(event, &self.workload.chunks[event.action.chunk().index()]);
            }
            run.idle = makespan - run.busy;
            run.idle_within = last - first.unwrap_or_default() - run.busy;
            run.peak_in_flight = memory.peak_in_flight;
            (run.peak, run.memory) = memory.finish();
            run
        });
        Run { makespan, devices: runs.collect(), events: self.events }
    }
}
