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
//! **Filling bubbles.** A chunk with a recompute time is computed again before its backward. That runs while the device
//! waits, where it fits before what the device waits for (or where that is only needed by that very backward), in the
//! order of the backwards to come; what found no such place runs right before its backward. So nothing ever starts
//! later than with the recompute counted as a part of the backward.

use std::collections::BTreeMap;

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
    /// Index of the action in the device's list.
    pub index: usize,
    /// The action. Of a send or a receive the time on the device: nothing unless it waits for a transfer.
    pub action: Action,
    /// Whether this is the chunk's forward computed again for the action, a backward.
    pub recompute: bool,
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

/// Run a schedule.
///
/// # Errors
/// [`Error::IllegalSchedule`](crate::Error::IllegalSchedule) when the verifier refuses it;
/// [`Error::InvalidSetting`](crate::Error::InvalidSetting) when the workload is for another one or overflows.
pub fn simulate(schedule: &Schedule, workload: &Workload) -> Result<Run> {
    verify(schedule)?;
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
    /// Backwards whose recompute is done, by device.
    again: Vec<Vec<bool>>,
    events: Vec<Vec<Event>>,
}

impl<'a> Machine<'a> {
    fn new(schedule: &'a Schedule, workload: &'a Workload) -> Self {
        let devices = schedule.devices().len();
        let again = schedule.devices().iter().map(|actions| vec![false; actions.len()]).collect();
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
                    self.push(device, self.at[device.index()], false, start, end);
                    self.at[device.index()] += 1;
                    moved = true;
                }
            }
        }
    }

    fn push(&mut self, device: Device, index: usize, recompute: bool, start: Nanos, end: Nanos) {
        let action = self.schedule.devices()[device.index()][index];
        self.events[device.index()].push(Event { device, index, action, recompute, start, end });
        self.clock[device.index()] = end;
    }

    /// When the next action of a device starts and ends, if that is known yet.
    fn times(&mut self, device: Device, action: Action) -> Option<(Nanos, Nanos)> {
        let now = self.clock[device.index()];
        let costs = &self.workload.chunks[action.chunk().index()];
        match action {
            Action::Forward(..) => Some((now, now + self.workload.on(device, costs.forward))),
            Action::WeightGradient(..) => Some((now, now + self.workload.on(device, costs.weight_gradient))),
            Action::Backward(..) | Action::InputGradient(..) => {
                let fused = matches!(action, Action::Backward(..));
                let weight = if fused { costs.weight_gradient } else { Nanos::ZERO };
                let time = self.workload.on(device, costs.input_gradient + weight);
                let index = self.at[device.index()];
                if costs.recompute > Nanos::ZERO && !self.again[device.index()][index] {
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
        self.fill(to, arrives);
        let end = arrives.max(self.clock[to.index()]);
        self.channels.entry((from, to, gradient)).or_default().taken.push(end);
        Some((end, end))
    }

    /// Recompute what fits between now and `until`, when the device's next action can start.
    fn fill(&mut self, device: Device, until: Nanos) {
        let actions = &self.schedule.devices()[device.index()];
        let here = self.at[device.index()];
        if until <= self.clock[device.index()] || self.workload.chunks.iter().all(|c| c.recompute == Nanos::ZERO) {
            return;
        }
        // Whether only receives stand between here and the action looked at.
        let mut next = true;
        let mut forwards = Vec::new();
        for (index, &action) in actions.iter().enumerate().skip(here) {
            match action {
                Action::Forward(m, c) => forwards.push((m, c)),
                Action::Backward(m, c) | Action::InputGradient(m, c) => {
                    let time = self.workload.on(device, self.workload.chunks[c.index()].recompute);
                    let fits = self.clock[device.index()] + time <= until || next;
                    let todo = time > Nanos::ZERO && !self.again[device.index()][index];
                    if fits && todo && !forwards.contains(&(m, c)) {
                        self.recompute(device, index);
                    }
                    if self.clock[device.index()] >= until {
                        return;
                    }
                }
                _ => {}
            }
            next &= matches!(action, Action::ReceiveActivation(..) | Action::ReceiveGradient(..));
        }
    }

    fn recompute(&mut self, device: Device, index: usize) {
        let start = self.clock[device.index()];
        let chunk = self.schedule.devices()[device.index()][index].chunk();
        let time = self.workload.on(device, self.workload.chunks[chunk.index()].recompute);
        self.again[device.index()][index] = true;
        self.push(device, index, true, start, start + time);
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
