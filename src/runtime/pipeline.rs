//! The workers of a pipeline: for every device a thread that does its list of actions.
//!
//! ```text
//! receive    take the message from the queue                        (waits)
//! forward    a frame of its own for the microbatch; up to its Turn
//! send       copy what the forward made into the receiver's memory   (waits for a place in the queue)
//! backward   the same frame to its end, or to Between and later to its end
//! update     of a chunk with replicas: the first adds the others' gradients to its own, in their order   (waits for them)
//! ```
//!
//! What a microbatch holds while others pass is what its frame holds. Gradients are added to their sums as they are made,
//! in the order of the schedule, so that sums are the same bits as where one device does one microbatch after the other.
//! Replicas add up by themselves, and their sums are added on the first replica's device, in the order of the replicas; what
//! is made of them there, every replica gets with the next step's parameters, so that none ever has other bits.
//! Nothing outside changes until all workers are done: what a step that fails has made is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use burn_backend::Scalar;
use burn_ir::HandleKind;

use super::executor::{Binding, Executable, Frame};
use super::looks::{Crests, Looks};
use super::target::Target;
use crate::alloc;
use crate::entity::{OpId, ValueId};
use crate::error::{Error, Result};
use crate::graph::trace::{panic_message, quietly};
use crate::pipeline::{Action, Chunk, Device, Microbatch, Schedule};
use crate::plan::Marker;
use crate::units::{Bytes, Nanos};

/// What a chunk of a pipeline does for each microbatch.
#[derive(Clone, Debug)]
pub struct ChunkProgram {
    /// Its steps.
    pub executable: Executable,
    /// What it uses that is there all the time: parameters, statistics, constants.
    pub resident: Vec<ValueId>,
    /// The inputs of the microbatch it uses.
    pub inputs: Vec<ValueId>,
    /// From the chunk before, forward.
    pub received: Vec<ValueId>,
    /// On to the next chunk.
    pub sent: Vec<ValueId>,
    /// From the next chunk, backward.
    pub returned: Vec<ValueId>,
    /// Back to the chunk before.
    pub sent_back: Vec<ValueId>,
    /// What each microbatch gives out.
    pub results: Vec<ValueId>,
    /// Statistics, and what a microbatch makes of them for the next one.
    pub state: Vec<(ValueId, ValueId)>,
}

/// What the workers of one step are given.
pub struct Batch<'a, B: Target> {
    /// Parameters, statistics and constants, wherever they are.
    pub resident: &'a BTreeMap<ValueId, HandleKind<B>>,
    /// The inputs of each microbatch.
    pub microbatches: &'a [Vec<Binding<B>>],
    /// The seed of a random op for a microbatch.
    pub seed: &'a (dyn Fn(usize, OpId) -> u64 + Sync),
    /// Handlers of custom ops.
    pub handlers: &'a (dyn Fn() -> B::Handlers + Sync),
    /// Where each device's pools hold most, as far as earlier steps showed.
    pub crests: &'a [Crests],
}

/// One thing that a device did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Did {
    /// What.
    pub action: Action,
    /// When it began, from the begin of the step.
    pub start: Nanos,
    /// When it ended.
    pub end: Nanos,
}

/// What one device made.
pub struct Made<B: Target> {
    /// Sums of gradients, by chunk; those of all replicas on the device of the first.
    pub gradients: BTreeMap<(usize, ValueId), HandleKind<B>>,
    /// By microbatch.
    pub results: BTreeMap<(usize, ValueId), HandleKind<B>>,
    /// What the last microbatch made of statistics, by what the first began with.
    pub state: BTreeMap<ValueId, HandleKind<B>>,
    /// What it did, in order.
    pub did: Vec<Did>,
    /// The most that its step took; none where that cannot be measured.
    pub peak: Option<Bytes>,
}

/// Why a step failed.
#[derive(Debug)]
pub struct Failure {
    /// The device in whose memory it happened, where it was on one.
    pub device: Option<Device>,
    /// What happened.
    pub error: Error,
}

/// The threads of a pipeline's devices. Each device has threads and an account of its own, so that what it takes can be told
/// apart where all devices share one heap.
pub struct Workers {
    pools: Vec<(rayon::ThreadPool, Option<usize>)>,
    /// One step at a time: two would wait for each other's threads.
    at_work: Mutex<()>,
}

impl Workers {
    /// `threads` for each of `devices`.
    ///
    /// # Errors
    /// [`Error::Execution`] where the system has no more threads.
    pub fn new<B: Target>(devices: usize, threads: usize) -> Result<Self> {
        let mut workers = Self { pools: Vec::with_capacity(devices), at_work: Mutex::new(()) };
        for d in 0..devices {
            let account = alloc::take_account();
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads.max(1))
                .thread_name(move |n| format!("plimsoll d{d} {n}"))
                .start_handler(move |_| {
                    alloc::on_account(account);
                })
                .build();
            let failed = |error: rayon::ThreadPoolBuildError| {
                account.into_iter().for_each(alloc::give_account);
                Error::Execution { at: format!("the threads of d{d}"), why: error.to_string() }
            };
            let pool = pool.map_err(failed)?;
            pool.broadcast(|_| B::warm());
            workers.pools.push((pool, account));
        }
        Ok(workers)
    }

    /// Run one step: what each device of the schedule made.
    ///
    /// `chunks` are the schedule's chunks, `devices` the schedule's devices; a device waits `patience` for another at
    /// most.
    ///
    /// # Errors
    /// [`Error::Execution`] or [`Error::OutOfMemory`] naming device, action and op that failed first, after all workers have
    /// stopped; [`Error::Worker`] where the device is gone.
    pub fn run<B: Target>(
        &self,
        schedule: &Schedule,
        chunks: &[ChunkProgram],
        devices: &[B::Device],
        batch: &Batch<'_, B>,
        patience: Duration,
    ) -> Result<Vec<Made<B>>, Failure> {
        let _alone = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let step = Step {
            schedule,
            chunks,
            devices,
            batch,
            wires: Wires::new(schedule.queue() as usize, patience),
            accounts: self.pools.iter().map(|(_, account)| *account).collect(),
            start: Instant::now(),
        };
        step.accounts.iter().flatten().for_each(|&account| alloc::open_account(account));
        let made = std::thread::scope(|scope| {
            let mut threads = Vec::with_capacity(devices.len());
            for (d, (pool, _)) in self.pools.iter().take(schedule.devices().len()).enumerate() {
                let step = &step;
                let begun = std::thread::Builder::new()
                    .name(format!("plimsoll d{d}"))
                    .spawn_scoped(scope, move || pool.install(|| Worker::new(d, step).run()));
                threads.push(begun.map_err(|error| step.fail(format!("the thread of d{d}"), error.to_string())).ok());
            }
            let made = threads.into_iter().enumerate().map(|(d, thread)| {
                let joined = thread?.join();
                joined.unwrap_or_else(|panic| {
                    step.fail(format!("the worker of d{d}"), panic_message(&*panic));
                    None
                })
            });
            made.collect::<Vec<Option<Made<B>>>>()
        });
        match step.wires.failure() {
            Some(failure) => Err(failure),
            None => Ok(made.into_iter().flatten().collect()),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.pools.iter().filter_map(|(_, account)| *account).for_each(alloc::give_account);
    }
}

/// From, to, and whether it carries gradients.
type Queue = (Device, Device, bool);
/// A microbatch's values at the border of a chunk.
type Message<B> = Vec<HandleKind<B>>;

/// The queues between devices, and whether all must stop.
struct Wires<B: Target> {
    places: usize,
    patience: Duration,
    state: Mutex<Traffic<B>>,
    moved: Condvar,
}

/// Gradients of a chunk.
type Sums<B> = Vec<(ValueId, HandleKind<B>)>;

struct Traffic<B: Target> {
    queues: BTreeMap<Queue, VecDeque<Message<B>>>,
    /// What replicas have added up, by chunk and device, until the first replica takes it.
    sums: BTreeMap<(Chunk, Device), Sums<B>>,
    stopped: bool,
    failure: Option<Failure>,
}

impl<B: Target> Traffic<B> {
    fn queue(&mut self, queue: Queue) -> &mut VecDeque<Message<B>> {
        self.queues.entry(queue).or_default()
    }
}

/// Why a worker does not go on.
enum Halt {
    /// Another one failed.
    Stopped,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl<B: Target> Wires<B> {
    fn new(places: usize, patience: Duration) -> Self {
        let state = Traffic { queues: BTreeMap::new(), sums: BTreeMap::new(), stopped: false, failure: None };
        Self { places, patience, state: Mutex::new(state), moved: Condvar::new() }
    }

    /// Every update is whole, so a panic elsewhere spoils nothing.
    fn lock(&self) -> MutexGuard<'_, Traffic<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.moved.notify_all();
    }

    fn fail(&self, failure: Failure) {
        self.lock().failure.get_or_insert(failure);
        self.stop();
    }

    fn failure(&self) -> Option<Failure> {
        self.lock().failure.take()
    }

    /// Wait until something holds; `what` says what did not happen where it never does.
    fn wait(
        &self,
        what: &str,
        ready: impl Fn(&mut Traffic<B>) -> bool,
    ) -> std::result::Result<MutexGuard<'_, Traffic<B>>, Halt> {
        // A limit too far away to be an instant is a year.
        let year = Duration::from_secs(365 * 86400);
        let until = Instant::now() + self.patience.min(year);
        let mut traffic = self.lock();
        loop {
            if traffic.stopped {
                return Err(Halt::Stopped);
            }
            if ready(&mut traffic) {
                return Ok(traffic);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let why = format!("{what} within {} s", self.patience.as_secs_f64());
                return Err(Halt::Failed(Error::Execution { at: String::new(), why }));
            }
            traffic = self.moved.wait_timeout(traffic, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn send(&self, queue: Queue, message: impl FnOnce() -> Result<Message<B>>) -> std::result::Result<(), Halt> {
        let places = self.places.max(1);
        let late = format!("{} took no message", queue.1);
        drop(self.wait(&late, |traffic| traffic.queue(queue).len() < places)?);
        // Nobody else sends here, so the place stays free while the message is copied.
        let message = message()?;
        self.lock().queue(queue).push_back(message);
        self.moved.notify_all();
        if self.places == 0 {
            drop(self.wait(&late, |traffic| traffic.queue(queue).is_empty())?);
        }
        Ok(())
    }

    fn receive(&self, queue: Queue) -> std::result::Result<Message<B>, Halt> {
        let late = format!("{} sent nothing", queue.0);
        let mut traffic = self.wait(&late, |traffic| !traffic.queue(queue).is_empty())?;
        let message = traffic.queue(queue).pop_front();
        drop(traffic);
        self.moved.notify_all();
        message.ok_or(Halt::Stopped)
    }

    /// Leave what a replica has added up for the first one.
    fn leave(&self, chunk: Chunk, here: Device, sums: Sums<B>) {
        self.lock().sums.insert((chunk, here), sums);
        self.moved.notify_all();
    }

    /// Take what another replica has added up.
    fn take(&self, chunk: Chunk, from: Device) -> std::result::Result<Sums<B>, Halt> {
        let late = format!("{from} added up no gradients");
        let mut traffic = self.wait(&late, |traffic| traffic.sums.contains_key(&(chunk, from)))?;
        traffic.sums.remove(&(chunk, from)).ok_or(Halt::Stopped)
    }
}

/// What the workers of a step share.
struct Step<'a, B: Target> {
    schedule: &'a Schedule,
    chunks: &'a [ChunkProgram],
    devices: &'a [B::Device],
    batch: &'a Batch<'a, B>,
    wires: Wires<B>,
    accounts: Vec<Option<usize>>,
    start: Instant,
}

impl<B: Target> Step<'_, B> {
    fn fail(&self, at: String, why: String) {
        self.wires.fail(Failure { device: None, error: Error::Execution { at, why } });
    }
}

/// A microbatch at a chunk; whether it is about gradients.
type Border = (Microbatch, Chunk, bool);

struct Worker<'a, B: Target> {
    step: &'a Step<'a, B>,
    here: Device,
    /// In whose memory it is working.
    memory: Device,
    device: B::Device,
    frames: BTreeMap<(Microbatch, Chunk), Frame<B>>,
    /// What was received, or made here for another chunk here, by the chunk that made it.
    arrived: BTreeMap<Border, Message<B>>,
    /// What is to be sent, by the chunk that made it.
    leaving: BTreeMap<Border, Message<B>>,
    resident: BTreeMap<ValueId, HandleKind<B>>,
    /// What the pools held before, and at most since.
    pools: Option<(Bytes, Bytes)>,
    /// Where that is looked at.
    looks: Looks,
    /// What was allocated before where the tensors lie.
    watched: Option<Bytes>,
    made: Made<B>,
}

impl<'a, B: Target> Worker<'a, B> {
    fn new(d: usize, step: &'a Step<'a, B>) -> Self {
        let device = step.devices[d].clone();
        let pools = B::usage(&device).map(|usage| (usage.in_use, usage.in_use));
        // One heap's watch cannot tell its devices apart: that is what accounts are for.
        let watched = if B::ON_ACCOUNTS || pools.is_some() { None } else { B::watch(&device) };
        let made = Made {
            gradients: BTreeMap::new(),
            results: BTreeMap::new(),
            state: BTreeMap::new(),
            did: Vec::with_capacity(step.schedule.devices()[d].len()),
            peak: None,
        };
        Self {
            step,
            here: Device(d as u32),
            memory: Device(d as u32),
            device,
            frames: BTreeMap::new(),
            arrived: BTreeMap::new(),
            leaving: BTreeMap::new(),
            resident: BTreeMap::new(),
            pools,
            looks: Looks::at(step.batch.crests[d].next()),
            watched,
            made,
        }
    }

    /// What it made; nothing where it, or another, failed: then the wires have the error.
    fn run(mut self) -> Option<Made<B>> {
        let mut doing = "parameters".to_owned();
        let worked = quietly(|| self.work(&mut doing)).unwrap_or_else(|panic| Err(failed(panic_message(&*panic))));
        match worked {
            Ok(()) => {
                let own = self.step.accounts[self.here.index()].filter(|_| B::ON_ACCOUNTS && alloc::installed());
                if let Some((before, _)) = self.pools {
                    self.step.batch.crests[self.here.index()].learn(self.looks, before);
                }
                let pools = self.pools.map(|(before, most)| most.saturating_sub(before));
                let watched = self.watched.and_then(|before| Some(B::watched(&self.device)?.saturating_sub(before)));
                self.made.peak = own.map(alloc::account_peak).or(pools).or(watched);
                Some(self.made)
            }
            Err(Halt::Stopped) => None,
            Err(Halt::Failed(error)) => {
                let place = format!("{}, {doing}", self.here);
                let error = match B::lost(&self.device).unwrap_or(error) {
                    Error::Execution { at, why } if at.is_empty() => B::failure(&self.device, place, why),
                    Error::Execution { at, why } => B::failure(&self.device, format!("{place}, {at}"), why),
                    Error::OutOfMemory { at, why } => Error::OutOfMemory { at: format!("{place}, {at}"), why },
                    other => other,
                };
                self.step.wires.fail(Failure { device: Some(self.memory), error });
                None
            }
        }
    }

    fn work(&mut self, doing: &mut String) -> std::result::Result<(), Halt> {
        let own =
            (0..self.step.chunks.len()).filter(|&c| self.step.schedule.holders(Chunk(c as u32)).contains(&self.here));
        for v in own.flat_map(|c| &self.step.chunks[c].resident) {
            let Some(handle) = self.step.batch.resident.get(v) else { continue };
            let handle = match B::device_of(handle) == self.device {
                true => handle.clone(),
                false => B::transfer(handle, &self.device).map_err(failed)?,
            };
            self.resident.insert(*v, handle);
        }
        let schedule = self.step.schedule;
        for &action in &schedule.devices()[self.here.index()] {
            *doing = action.to_string();
            let start = self.step.start.elapsed();
            self.act(action)?;
            if action.peer().is_none() {
                // What is done elsewhere is waited for, so that times are those of the work.
                B::finish(&self.device).map_err(failed)?;
            }
            let nanos = |time: Duration| Nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            self.made.did.push(Did { action, start: nanos(start), end: nanos(self.step.start.elapsed()) });
        }
        "its end".clone_into(doing);
        B::finish(&self.device).map_err(failed)
    }

    fn act(&mut self, action: Action) -> std::result::Result<(), Halt> {
        match action {
            Action::Forward(m, c) => self.forward(m, c),
            Action::Backward(m, c) | Action::WeightGradient(m, c) => {
                self.go_on(m, c, None)?;
                self.finish(m, c)
            }
            Action::InputGradient(m, c) => self.go_on(m, c, Some(Marker::Between)),
            Action::SendActivation(m, c, to) => self.send((m, c, false), to),
            Action::SendGradient(m, c, to) => self.send((m, c, true), to),
            Action::ReceiveActivation(m, c, from) => self.receive((m, c, false), from),
            Action::ReceiveGradient(m, c, from) => self.receive((m, c, true), from),
            // Stages compute again what their own plans say.
            Action::Recompute(..) => Ok(()),
            // Weights are updated by the caller, all or none.
            Action::Update(c) => self.meet(c),
        }
    }

    /// Add up the gradients of all replicas of a chunk. Others need not wait for the first one: nothing here changes
    /// weights.
    fn meet(&mut self, c: Chunk) -> std::result::Result<(), Halt> {
        let (step, replicas) = (self.step, self.step.schedule.replicas(c));
        let Some((&first, others)) = replicas.split_first().filter(|(_, others)| !others.is_empty()) else {
            return Ok(());
        };
        if self.here != first {
            let own: Vec<(usize, ValueId)> =
                self.made.gradients.keys().filter(|(chunk, _)| *chunk == c.index()).copied().collect();
            let sums = own.into_iter().filter_map(|key| Some((key.1, self.made.gradients.remove(&key)?)));
            step.wires.leave(c, self.here, sums.collect());
            return Ok(());
        }
        for &other in others {
            for (v, sum) in step.wires.take(c, other)? {
                let moved = B::transfer(&sum, &self.device).map_err(failed)?;
                // Its memory was the other's.
                let own = alloc::on_account(step.accounts[other.index()]);
                drop(sum);
                alloc::on_account(own);
                let key = (c.index(), v);
                let sum = added::<B>(self.made.gradients.remove(&key), moved)?;
                self.made.gradients.insert(key, sum);
            }
        }
        Ok(())
    }

    fn forward(&mut self, m: Microbatch, c: Chunk) -> std::result::Result<(), Halt> {
        let chunk = &self.step.chunks[c.index()];
        let mut bindings: Vec<Binding<B>> =
            chunk.resident.iter().filter_map(|v| Some((*v, self.resident.get(v)?.clone()))).collect();
        for (v, handle) in &self.step.batch.microbatches[m.index()] {
            if chunk.inputs.contains(v) {
                bindings.push((*v, B::transfer(handle, &self.device).map_err(failed)?));
            }
        }
        let frame = chunk.executable.begin(&self.device, (self.step.batch.handlers)(), bindings);
        self.frames.insert((m, c), frame);
        self.go_on(m, c, Some(Marker::Turn))
    }

    /// Run a frame up to a marker, or to its end.
    fn go_on(&mut self, m: Microbatch, c: Chunk, until: Option<Marker>) -> std::result::Result<(), Halt> {
        let (batch, chunk) = (self.step.batch, &self.step.chunks[c.index()]);
        let Some(mut frame) = self.frames.remove(&(m, c)) else {
            return Err(failed("its forward was not run".into()));
        };
        // A frame that stands at its turn begins with what came back.
        if until != Some(Marker::Turn)
            && !chunk.returned.is_empty()
            && let Some(values) = self.arrived.remove(&(m, Chunk(c.0 + 1), true))
        {
            chunk.executable.bind(&mut frame, chunk.returned.iter().copied().zip(values).collect());
        }
        let seed = |op| (batch.seed)(m.index(), op);
        loop {
            let (device, pools, looks) = (&self.device, &mut self.pools, &mut self.looks);
            let mut sample = |_| {
                if let Some((_, most)) = pools.as_mut() {
                    looks.pass(|| {
                        let in_use = B::usage(device)?.in_use;
                        *most = (*most).max(in_use);
                        Some(in_use)
                    });
                }
            };
            let reached = chunk.executable.advance(device, &mut frame, seed, &mut sample)?;
            match reached {
                Some(Marker::Receive) => {
                    let border = (m, Chunk(c.0.saturating_sub(1)), false);
                    let values = self.arrived.remove(&border).ok_or_else(|| failed("nothing was received".into()))?;
                    chunk.executable.bind(&mut frame, chunk.received.iter().copied().zip(values).collect());
                }
                Some(Marker::Send) => {
                    // Statistics are there now; later a plan may have dropped them, to make them again at its end.
                    let news: Vec<ValueId> = chunk.state.iter().map(|(_, new)| *new).collect();
                    let values = chunk.executable.fetch(&self.device, &mut frame, &news)?;
                    for ((old, _), value) in chunk.state.iter().zip(values) {
                        self.resident.insert(*old, value.clone());
                        self.made.state.insert(*old, value);
                    }
                    let values = chunk.executable.fetch(&self.device, &mut frame, &chunk.sent)?;
                    self.hand_on((m, c, false), c.index() + 1, values)?;
                }
                Some(Marker::Return) => {
                    let values = chunk.executable.fetch(&self.device, &mut frame, &chunk.sent_back)?;
                    self.hand_on((m, c, true), c.index().wrapping_sub(1), values)?;
                }
                Some(Marker::Accumulate(v)) => {
                    let gradient = chunk.executable.fetch(&self.device, &mut frame, &[v])?.pop();
                    let sum = self.made.gradients.remove(&(c.index(), v));
                    let sum = gradient.map(|gradient| added::<B>(sum, gradient)).transpose()?;
                    self.made.gradients.extend(sum.map(|sum| ((c.index(), v), sum)));
                }
                Some(marker) if Some(marker) == until => break,
                Some(_) => {}
                None => break,
            }
        }
        self.frames.insert((m, c), frame);
        Ok(())
    }

    /// Keep what goes to the next chunk or the one before: here, if that is here too, or until it is sent.
    fn hand_on(&mut self, border: Border, chunk: usize, values: Message<B>) -> Result<()> {
        if chunk >= self.step.chunks.len() || values.is_empty() {
            return Ok(());
        }
        if self.step.schedule.device_of(border.0, Chunk(chunk as u32)) == self.here {
            // A chunk owns what it receives, wherever that comes from.
            self.arrived.insert(border, copies::<B>(&values, &self.device)?);
        } else {
            self.leaving.insert(border, values);
        }
        Ok(())
    }

    /// The microbatch is done here.
    fn finish(&mut self, m: Microbatch, c: Chunk) -> std::result::Result<(), Halt> {
        let chunk = &self.step.chunks[c.index()];
        let Some(mut frame) = self.frames.remove(&(m, c)) else { return Ok(()) };
        let values = chunk.executable.fetch(&self.device, &mut frame, &chunk.results)?;
        let named = chunk.results.iter().zip(values).map(|(v, handle)| ((m.index(), *v), handle));
        self.made.results.extend(named);
        Ok(())
    }

    fn send(&mut self, border: Border, to: Device) -> std::result::Result<(), Halt> {
        // What is empty is sent too, so that senders and receivers count alike.
        let values = self.leaving.remove(&border).unwrap_or_default();
        let (wires, account) = (&self.step.wires, self.step.accounts[to.index()]);
        let device = &self.step.devices[to.index()];
        self.memory = to;
        wires.send((self.here, to, border.2), || {
            let own = alloc::on_account(account);
            let copies = copies::<B>(&values, device);
            alloc::on_account(own);
            copies
        })?;
        self.memory = self.here;
        Ok(())
    }

    fn receive(&mut self, border: Border, from: Device) -> std::result::Result<(), Halt> {
        let values = self.step.wires.receive((from, self.here, border.2))?;
        self.arrived.insert(border, values);
        Ok(())
    }
}

fn failed(why: String) -> Halt {
    Halt::Failed(Error::Execution { at: String::new(), why })
}

fn copies<B: Target>(values: &[HandleKind<B>], device: &B::Device) -> Result<Message<B>> {
    let copy = |value| B::transfer(value, device).map_err(|why| Error::Execution { at: String::new(), why });
    values.iter().map(copy).collect()
}

/// A sum with one more summand.
///
/// # Errors
/// [`Error::Execution`] for what is no float tensor.
pub fn added<B: Target>(sum: Option<HandleKind<B>>, more: HandleKind<B>) -> Result<HandleKind<B>> {
    match (sum, more) {
        (None, more) => Ok(more),
        (Some(HandleKind::Float(sum)), HandleKind::Float(more)) => Ok(HandleKind::Float(B::float_add(sum, more))),
        _ => Err(Error::Execution { at: String::new(), why: "only float tensors are summed up".into() }),
    }
}

/// A sum of `count` summands as their mean.
pub fn mean<B: Target>(sum: HandleKind<B>, count: usize) -> HandleKind<B> {
    match sum {
        HandleKind::Float(sum) => HandleKind::Float(B::float_div_scalar(sum, Scalar::Float(count as f64))),
        other => other,
    }
}
