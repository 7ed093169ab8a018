//! The independent judge: is a schedule legal?
//!
//! It shares no code with the generators or the simulator. A schedule is legal when, and only when, all of these hold.
//!
//! **On each device, in its order.** Let chunk `c` of microbatch `m` belong to the device that `m`'s route gives it.
//! 1. Only the device it belongs to computes it, each of forward and backward exactly once; the backward is fused or
//!    in two parts (input gradient, weight gradient), not both.
//! 2. Forward: what the chunk before made is here, computed or received. Backward or input gradient: its own forward
//!    ran, and the gradient of the next chunk's input is here. Weight gradient: its input gradient ran. Recompute, at
//!    most once: its forward ran, its backward (input gradient) did not.
//! 3. A message is sent by who made it, after it was made, to the one other device that needs it, once; received
//!    there from that device, once.
//! 4. A device updates each chunk it has a replica of exactly once, after all its backwards of that chunk: so every
//!    forward and backward of the step reads the same weights.
//!
//! **Between devices.** From each device to each other one there is a queue of activations and one of gradients.
//! 5. Each message received is sent (that each one sent is received follows from 1 to 3), in the same order within a
//!    queue.
//! 6. With each device going through its list in order, all come to their ends: a receive waits for its message, a
//!    send for a place among the `queue` of its queue (with 0, for its receiver), an update for all replicas. What
//!    waits never takes anything from others, so whether all end does not depend on timing.

use std::collections::{BTreeMap, BTreeSet};

use super::schedule::{Action, Chunk, Device, Microbatch, Schedule};

/// The first rule a schedule breaks, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{device} action {index}{}: {rule}", action.map_or(String::new(), |action| format!(" ({action})")))]
pub struct Violation {
    /// The device at fault.
    pub device: Device,
    /// Index of the action in its list; one past the last for what must have been done by its end.
    pub index: usize,
    /// The action, if there is one.
    pub action: Option<Action>,
    /// The rule.
    pub rule: Rule,
}

/// The ways a schedule can be illegal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each message says what its fields are
pub enum Rule {
    #[error("it belongs to {owner}")]
    NotHere { owner: Device },
    #[error("it was done before")]
    Twice,
    #[error("the backward of this chunk is fused and in parts at once")]
    FusedAndSplit,
    #[error("what {before} made of the microbatch is not here")]
    InputMissing { before: Chunk },
    #[error("its forward did not run before")]
    ForwardMissing,
    #[error("the gradient that {after} makes is not here")]
    GradientMissing { after: Chunk },
    #[error("its backward ran before")]
    BackwardDone,
    #[error("its input gradient did not run before")]
    InputGradientMissing,
    #[error("what it sends was not made here before")]
    NotMade,
    #[error("nobody needs that message")]
    NotNeeded,
    #[error("that message is for {to}")]
    WrongDestination { to: Device },
    #[error("that message comes from {from}")]
    WrongSource { from: Device },
    #[error("{last} still uses the weights")]
    UpdateBeforeLastUse { last: Action },
    #[error("the device has no replica of the chunk")]
    NoReplica,
    #[error("{missing} is missing")]
    Missing { missing: Action },
    #[error("it is never sent")]
    NeverSent,
    #[error("the next message in that queue is {next}")]
    OutOfOrder { next: Action },
    #[error("deadlock: {}", cycle.iter().map(Device::to_string).collect::<Vec<_>>().join(" waits for "))]
    Deadlock { cycle: Vec<Device> },
}

/// Check a schedule.
///
/// # Errors
/// The first [`Violation`].
pub fn verify(schedule: &Schedule) -> Result<(), Violation> {
    for d in 0..schedule.devices().len() {
        Line::new(schedule, Device::at(d)).check()?;
    }
    let messages = matched(schedule)?;
    Progress::new(schedule, messages).check()
}

/// One device's list by itself.
struct Line<'a> {
    schedule: &'a Schedule,
    device: Device,
    /// What was done so far; a fused backward stands for its parts.
    done: Vec<u16>,
    updated: BTreeSet<Chunk>,
}

const FORWARD: u16 = 1;
const FUSED: u16 = 2;
const INPUT: u16 = 4;
const WEIGHT: u16 = 8;
const SENT_ACTIVATION: u16 = 16;
const SENT_GRADIENT: u16 = 32;
const HAS_ACTIVATION: u16 = 64;
const HAS_GRADIENT: u16 = 128;
const AGAIN: u16 = 256;

impl<'a> Line<'a> {
    fn new(schedule: &'a Schedule, device: Device) -> Self {
        let done = vec![0; schedule.microbatches() * schedule.chunks()];
        Self { schedule, device, done, updated: BTreeSet::new() }
    }

    fn done(&mut self, m: Microbatch, c: Chunk) -> &mut u16 {
        &mut self.done[m.index() * self.schedule.chunks() + c.index()]
    }

    fn has(&mut self, m: Microbatch, c: Chunk, what: u16) -> bool {
        *self.done(m, c) & what != 0
    }

    fn check(mut self) -> Result<(), Violation> {
        let (schedule, device) = (self.schedule, self.device);
        let actions = &schedule.devices()[device.index()];
        for (index, &action) in actions.iter().enumerate() {
            self.play(index, action).map_err(|rule| Violation { device, index, action: Some(action), rule })?;
        }
        self.end().map_err(|missing| Violation {
            device,
            index: actions.len(),
            action: None,
            rule: Rule::Missing { missing },
        })
    }

    fn play(&mut self, index: usize, action: Action) -> Result<(), Rule> {
        match action {
            Action::Forward(m, c) => {
                self.own(m, c, FORWARD)?;
                if let Some(before) = before(c)
                    && !self.has(m, before, FORWARD | HAS_ACTIVATION)
                {
                    return Err(Rule::InputMissing { before });
                }
            }
            Action::Recompute(m, c) => {
                self.own(m, c, AGAIN)?;
                if !self.has(m, c, FORWARD) {
                    return Err(Rule::ForwardMissing);
                }
                if self.has(m, c, FUSED | INPUT) {
                    return Err(Rule::BackwardDone);
                }
            }
            Action::Backward(m, c) => {
                self.own(m, c, FUSED)?;
                self.backward(m, c, INPUT | WEIGHT)?;
            }
            Action::InputGradient(m, c) => {
                self.own(m, c, INPUT)?;
                self.backward(m, c, FUSED)?;
            }
            Action::WeightGradient(m, c) => {
                self.own(m, c, WEIGHT)?;
                if self.has(m, c, FUSED) {
                    return Err(Rule::FusedAndSplit);
                }
                if !self.has(m, c, INPUT) {
                    return Err(Rule::InputGradientMissing);
                }
            }
            Action::SendActivation(m, c, to) => self.send(m, c, to, SENT_ACTIVATION)?,
            Action::SendGradient(m, c, to) => self.send(m, c, to, SENT_GRADIENT)?,
            Action::ReceiveActivation(m, c, from) => self.receive(m, c, from, HAS_ACTIVATION)?,
            Action::ReceiveGradient(m, c, from) => self.receive(m, c, from, HAS_GRADIENT)?,
            Action::Update(c) => self.update(index, c)?,
        }
        Ok(())
    }

    /// Rule 1: it belongs here and was not done. Notes it as done.
    fn own(&mut self, m: Microbatch, c: Chunk, what: u16) -> Result<(), Rule> {
        let owner = self.schedule.device_of(m, c);
        if owner != self.device {
            return Err(Rule::NotHere { owner });
        }
        self.once(m, c, what)
    }

    fn once(&mut self, m: Microbatch, c: Chunk, what: u16) -> Result<(), Rule> {
        let done = self.done(m, c);
        if *done & what != 0 {
            return Err(Rule::Twice);
        }
        *done |= what;
        Ok(())
    }

    /// Rule 2 for what starts a backward; `other` is the way it may not have been done as well.
    fn backward(&mut self, m: Microbatch, c: Chunk, other: u16) -> Result<(), Rule> {
        if self.has(m, c, other) {
            return Err(Rule::FusedAndSplit);
        }
        if !self.has(m, c, FORWARD) {
            return Err(Rule::ForwardMissing);
        }
        match after(self.schedule, c) {
            Some(after) if !self.has(m, after, FUSED | INPUT | HAS_GRADIENT) => Err(Rule::GradientMissing { after }),
            _ => Ok(()),
        }
    }

    /// Rule 3 for senders.
    fn send(&mut self, m: Microbatch, c: Chunk, to: Device, what: u16) -> Result<(), Rule> {
        let (made, user) = match what {
            SENT_ACTIVATION => (FORWARD, after(self.schedule, c)),
            _ => (FUSED | INPUT, before(c)),
        };
        let needs = user.map(|user| self.schedule.device_of(m, user)).filter(|&user| user != self.device);
        if !self.has(m, c, made) {
            return Err(Rule::NotMade);
        }
        match needs {
            None => Err(Rule::NotNeeded),
            Some(needs) if needs != to => Err(Rule::WrongDestination { to: needs }),
            Some(_) => self.once(m, c, what),
        }
    }

    /// Rule 3 for receivers.
    fn receive(&mut self, m: Microbatch, c: Chunk, from: Device, what: u16) -> Result<(), Rule> {
        let user = if what == HAS_ACTIVATION { after(self.schedule, c) } else { before(c) };
        let maker = self.schedule.device_of(m, c);
        if maker == self.device || user.map(|user| self.schedule.device_of(m, user)) != Some(self.device) {
            return Err(Rule::NotNeeded);
        }
        if maker != from {
            return Err(Rule::WrongSource { from: maker });
        }
        self.once(m, c, what)
    }

    /// Rule 4.
    fn update(&mut self, index: usize, c: Chunk) -> Result<(), Rule> {
        if !self.schedule.holders(c).contains(&self.device) {
            return Err(Rule::NoReplica);
        }
        if !self.updated.insert(c) {
            return Err(Rule::Twice);
        }
        let uses = |action: &&Action| !matches!(action, Action::Update(_)) && action.peer().is_none();
        let rest = &self.schedule.devices()[self.device.index()][index + 1..];
        match rest.iter().rev().filter(uses).find(|action| action.chunk() == c) {
            Some(&last) => Err(Rule::UpdateBeforeLastUse { last }),
            None => Ok(()),
        }
    }

    /// What was not done, if anything.
    fn end(mut self) -> Result<(), Action> {
        for c in (0..self.schedule.chunks()).map(Chunk::at) {
            for m in (0..self.schedule.microbatches()).map(Microbatch::at) {
                if self.schedule.device_of(m, c) != self.device {
                    continue;
                }
                if !self.has(m, c, FORWARD) {
                    return Err(Action::Forward(m, c));
                }
                if !self.has(m, c, FUSED | INPUT) {
                    return Err(Action::Backward(m, c));
                }
                if !self.has(m, c, FUSED | WEIGHT) {
                    return Err(Action::WeightGradient(m, c));
                }
            }
            if self.schedule.holders(c).contains(&self.device) && !self.updated.contains(&c) {
                return Err(Action::Update(c));
            }
        }
        Ok(())
    }
}

fn before(c: Chunk) -> Option<Chunk> {
    c.0.checked_sub(1).map(Chunk)
}

fn after(schedule: &Schedule, c: Chunk) -> Option<Chunk> {
    Some(Chunk(c.0 + 1)).filter(|after| after.index() < schedule.chunks())
}

/// From, to, and whether it carries gradients.
type Queue = (Device, Device, bool);

/// The queue of a send or a receive of `device`, and whether it sends.
fn queue_of(device: Device, action: Action) -> Option<(Queue, bool)> {
    match action {
        Action::SendActivation(.., to) => Some(((device, to, false), true)),
        Action::SendGradient(.., to) => Some(((device, to, true), true)),
        Action::ReceiveActivation(.., from) => Some(((from, device, false), false)),
        Action::ReceiveGradient(.., from) => Some(((from, device, true), false)),
        _ => None,
    }
}

/// Rule 5. The queues, numbered.
fn matched(schedule: &Schedule) -> Result<BTreeMap<Queue, usize>, Violation> {
    /// Where each message is sent (first) and received (second).
    type Ends = [Vec<(usize, Action)>; 2];
    let mut queues: BTreeMap<Queue, Ends> = BTreeMap::new();
    for (d, actions) in schedule.devices().iter().enumerate() {
        for (index, &action) in actions.iter().enumerate() {
            if let Some((queue, sends)) = queue_of(Device::at(d), action) {
                queues.entry(queue).or_default()[usize::from(!sends)].push((index, action));
            }
        }
    }
    for (&(_, to, _), [sent, received]) in &queues {
        let name = |action: Action| (action.microbatch(), action.chunk());
        let at =
            |device, (index, action): (usize, Action), rule| Violation { device, index, action: Some(action), rule };
        let sends: BTreeSet<_> = sent.iter().map(|x| name(x.1)).collect();
        if let Some(&lone) = received.iter().find(|x| !sends.contains(&name(x.1))) {
            return Err(at(to, lone, Rule::NeverSent));
        }
        if let Some((&sent, &late)) = sent.iter().zip(received).find(|(s, r)| name(s.1) != name(r.1)) {
            return Err(at(to, late, Rule::OutOfOrder { next: sent.1 }));
        }
    }
    Ok(queues.into_keys().enumerate().map(|(number, queue)| (queue, number)).collect())
}

/// Rule 6: what every device has done so far.
struct Progress<'a> {
    schedule: &'a Schedule,
    queues: BTreeMap<Queue, usize>,
    /// How many actions each device has done.
    at: Vec<usize>,
    /// Messages sent to and taken from each queue.
    sent: Vec<u64>,
    taken: Vec<u64>,
}

impl<'a> Progress<'a> {
    fn new(schedule: &'a Schedule, queues: BTreeMap<Queue, usize>) -> Self {
        let (at, none) = (vec![0; schedule.devices().len()], vec![0; queues.len()]);
        Self { schedule, queues, at, sent: none.clone(), taken: none }
    }

    fn next(&self, device: Device) -> Option<Action> {
        self.schedule.devices()[device.index()].get(self.at[device.index()]).copied()
    }

    /// Whom the next action of a device waits for; none if it can be done now.
    fn waits_for(&self, device: Device) -> Option<Device> {
        let action = self.next(device)?;
        if let Action::Update(c) = action {
            // Replicas meet: those that have passed the meeting have seen this device there.
            let comes = |other: &Device| {
                let passed = &self.schedule.devices()[other.index()][..self.at[other.index()]];
                self.next(*other) == Some(action) || passed.contains(&action)
            };
            return self.schedule.holders(c).into_iter().find(|other| !comes(other));
        }
        let (queue, sends) = queue_of(device, action)?;
        let number = self.queues[&queue];
        let waiting = self.sent[number] - self.taken[number];
        let (from, to, _) = queue;
        match (sends, self.schedule.queue()) {
            (true, 0) => {
                let meets = self.next(to).and_then(|next| queue_of(to, next)) == Some((queue, false));
                (waiting > 0 || !meets).then_some(to)
            }
            (true, places) => (waiting >= u64::from(places)).then_some(to),
            (false, _) => (waiting == 0).then_some(from),
        }
    }

    fn check(mut self) -> Result<(), Violation> {
        let all: Vec<Device> = (0..self.at.len()).map(Device::at).collect();
        loop {
            let mut moved = false;
            for &device in &all {
                while let Some(action) = self.next(device)
                    && self.waits_for(device).is_none()
                {
                    if let Some((queue, sends)) = queue_of(device, action) {
                        let number = self.queues[&queue];
                        if sends { self.sent[number] += 1 } else { self.taken[number] += 1 }
                    }
                    self.at[device.index()] += 1;
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        match all.into_iter().find(|&device| self.next(device).is_some()) {
            None => Ok(()),
            Some(stuck) => Err(self.deadlock(stuck)),
        }
    }

    /// Follow who waits for whom until someone comes again.
    fn deadlock(&self, stuck: Device) -> Violation {
        let mut seen = vec![stuck];
        while let Some(next) = self.waits_for(seen[seen.len() - 1]) {
            let known = seen.iter().position(|&device| device == next);
            seen.push(next);
            if let Some(start) = known {
                seen.drain(..start);
                break;
            }
        }
        let device = seen[0];
        let (index, action) = (self.at[device.index()], self.next(device));
        Violation { device, index, action, rule: Rule::Deadlock { cycle: seen } }
    }
}
