//! What cuts and a schedule come to, with every stage planned.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bound::Saved;
use super::cuts::{Cut, Layout, is_source};
use super::early::early;
use super::estimate::Place;
use super::stage::{Measure, Stage};
use super::{Method, PipelinePlan, StagePlan};
use crate::check;
use crate::cost::{Device, Problem};
use crate::entity::{Entity, OpId};
use crate::error::{Error, Result};
use crate::graph::{Fnv, Replay};
use crate::pipeline::{self, Action, ChunkCost, DeviceCost, Link, Schedule, Topology, Workload};
use crate::plan::{Lowering, Plan, Predicted, Status, Step, lower, simulate};
use crate::solver;
use crate::units::{Bytes, Nanos};

/// Shares of what the backward needs beside what is saved, if nothing is recomputed, that plans get.
const SHARES: [f64; 5] = [1.0, 0.7, 0.85, 1.25, 0.5];
/// Shares of a device's room that all in flight save together, where nothing else fits: the less, the more is left for
/// the one that computes everything else again. The first stage can save nothing at all.
const SAVED: [f64; 5] = [0.4, 0.2, 0.08, 0.6, 0.0];

/// Ops of a stage up to which all ways to plan it are tried.
const SMALL: usize = 64;

/// A way to run a stage.
type Planned = (Measure, Vec<Step>);
/// A stage with everything kept and with everything computed again, and what its [largest](Stage::largest) op needs.
type Known = (Stage, Planned, Planned, u64);
/// Stage (segments), whether its backward is split, speed in percent.
type Key = (usize, usize, bool, u32);

/// Plans stages, and remembers them.
pub(super) struct Evaluator<'a> {
    pub problem: &'a Problem,
    pub topology: &'a Topology,
    pub layout: &'a Layout,
    pub cuts: &'a [Cut],
    pub method: Method,
    /// The devices of all replicas of the pipeline; `topology` is that of one.
    pub whole: &'a Topology,
    pub replicas: usize,
    /// Limit on the search steps of each stage's plan.
    pub nodes: Cell<Option<u64>>,
    pub deadline: Option<Instant>,
    /// What one stage's plan may take.
    pub each: Duration,
    /// Bytes of optimizer state per byte of gradients.
    pub state: f64,
    pub tried: Cell<usize>,
    /// Keep everything or nothing, plan nothing.
    pub plain: Cell<bool>,
    /// Plan at fewer budgets.
    pub quick: Cell<bool>,
    /// The first plan of a stage that fits will do.
    pub any: Cell<bool>,
    /// Begin with an order as well that runs [early] what frees more than it makes.
    pub early: Cell<bool>,
    /// The least that any plan of a stage saves.
    pub saved: RefCell<Saved<'a>>,
    stages: RefCell<BTreeMap<Key, Known>>,
    /// By what a stage and its budget come to: equal stages are planned once.
    plans: RefCell<BTreeMap<u128, Option<Planned>>>,
}

/// A chunk on its device.
struct Chunk {
    key: Key,
    devices: Vec<usize>,
    chosen: Option<Planned>,
}

impl<'a> Evaluator<'a> {
    pub fn new(problem: &'a Problem, topology: &'a Topology, layout: &'a Layout, cuts: &'a [Cut], state: f64) -> Self {
        Self {
            problem,
            topology,
            layout,
            cuts,
            method: Method::Joint,
            whole: topology,
            replicas: 1,
            nodes: Cell::new(None),
            deadline: None,
            each: Duration::from_secs(2),
            state,
            tried: Cell::new(0),
            plain: Cell::new(false),
            quick: Cell::new(false),
            any: Cell::new(false),
            early: Cell::new(false),
            saved: RefCell::new(Saved::new(problem, layout, cuts)),
            stages: RefCell::default(),
            plans: RefCell::default(),
        }
    }

    pub fn late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// The time that is left.
    pub fn left(&self) -> Duration {
        self.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn bounds(&self, from: usize, to: usize) -> (Option<&'a Cut>, Option<&'a Cut>) {
        (from.checked_sub(1).map(|i| &self.cuts[i]), self.cuts.get(to - 1))
    }

    /// Have a stage, with everything kept and with everything computed again.
    fn prepare(&self, key: Key, place: usize) -> Result<()> {
        if self.stages.borrow().contains_key(&key) {
            return Ok(());
        }
        let (from, to, split, speed) = key;
        let place = &self.topology.devices()[place];
        let device = Device {
            name: place.name.clone(),
            memory: place.memory,
            host_memory: place.host_memory,
            d2h_bytes_per_s: place.host_bytes_per_s,
            h2d_bytes_per_s: place.host_bytes_per_s,
        };
        let mut stage = Stage::build(self.problem, self.layout, self.bounds(from, to), split, Bytes::ZERO, device)?;
        let ids: Vec<OpId> = stage.problem.graph.ops().keys().collect();
        for id in ids {
            let time = &mut stage.problem.costs.time[id];
            *time = Nanos((u128::from(time.get()) * 100).div_ceil(u128::from(speed.max(1))) as u64);
        }
        let keep = stage.keep_all();
        let again = everything_again(&stage);
        let keep = (stage.measure(&keep)?, keep);
        let again = (stage.measure(&again)?, again);
        let largest = stage.largest();
        self.stages.borrow_mut().insert(key, (stage, keep, again, largest));
        Ok(())
    }

    /// Bytes of summed gradients and optimizer state, and of the results of all microbatches.
    fn state_of(&self, stage: &Stage, schedule: &Schedule) -> Bytes {
        let results = stage.results.get() * schedule.microbatches() as u64;
        Bytes(stage.gradients.get() + (stage.gradients.get() as f64 * self.state) as u64 + results)
    }

    /// Bytes of the messages that wait for a device at most: as many as a queue holds.
    fn waiting(&self, device: usize, schedule: &Schedule, key: impl Fn(usize) -> Key) -> u64 {
        let mut queues: BTreeMap<(pipeline::Device, bool), (u64, u64)> = BTreeMap::new();
        for action in &schedule.devices()[device] {
            let (from, gradient) = match action {
                Action::ReceiveActivation(.., from) => (*from, false),
                Action::ReceiveGradient(.., from) => (*from, true),
                _ => continue,
            };
            let key = key(action.chunk().index());
            let (lower, upper) = self.bounds(key.0, key.1);
            let bytes = if gradient { lower.map(|cut| cut.returned) } else { upper.map(|cut| cut.sent) };
            let (count, most) = queues.entry((from, gradient)).or_default();
            (*count, *most) = (*count + 1, (*most).max(bytes.unwrap_or(0)));
        }
        queues.values().map(|(count, most)| u64::from(schedule.queue()).min(*count) * most).sum()
    }

    /// Cut after the segments in `ends`, run by `schedule`, which the verifier accepts; none where some device does not
    /// have the memory, or where the step is not shorter than `below`.
    ///
    /// # Errors
    /// Those of building stages and of the simulators.
    pub fn run(&self, ends: &[usize], schedule: &Schedule, below: Nanos) -> Result<Option<PipelinePlan>> {
        self.tried.set(self.tried.get() + 1);
        let mut chunks = self.chunks(ends, schedule)?;
        for device in 0..schedule.devices().len() {
            if self.fill(device, schedule, &mut chunks)? > 0 {
                return Ok(None);
            }
        }
        if at_least(schedule, &chunks) >= below {
            return Ok(None);
        }
        self.finish(schedule, chunks)
    }

    /// For the same cuts: the bytes that each device lacks.
    ///
    /// # Errors
    /// Those of building stages.
    pub fn missing(&self, ends: &[usize], schedule: &Schedule) -> Result<Vec<u64>> {
        let mut chunks = self.chunks(ends, schedule)?;
        (0..schedule.devices().len()).map(|device| self.fill(device, schedule, &mut chunks)).collect()
    }

    /// The same for one device alone.
    ///
    /// # Errors
    /// Those of building stages.
    pub fn missing_on(&self, device: usize, ends: &[usize], schedule: &Schedule) -> Result<u64> {
        let mut chunks = self.chunks(ends, schedule)?;
        self.fill(device, schedule, &mut chunks)
    }

    /// Whether it is proved that no plan of a stage without offload fits a place where each microbatch in flight saves `each` bytes
    /// at least.
    ///
    /// # Errors
    /// Those of building stages.
    pub fn refuted(&self, (from, to): (usize, usize), place: &Place, each: u64, schedule: &Schedule) -> Result<bool> {
        let (lower, upper) = self.bounds(from, to);
        let device = Device { memory: Bytes(place.memory), ..Device::default() };
        let stage = Stage::build(self.problem, self.layout, (lower, upper), splits(schedule), Bytes::ZERO, device)?;
        let waiting =
            place.queues.0 * lower.map_or(0, |cut| cut.sent) + place.queues.1 * upper.map_or(0, |cut| cut.returned);
        let others = place.in_flight.saturating_sub(1).saturating_mul(each);
        let fixed = self.state_of(&stage, schedule).get().saturating_add(waiting).saturating_add(others);
        let Some(budget) = place.memory.checked_sub(fixed) else { return Ok(true) };
        Ok(solver::lower_bound(&stage.problem, Bytes(budget)).is_infinite())
    }

    /// The chunks of these cuts, their stages prepared.
    fn chunks(&self, ends: &[usize], schedule: &Schedule) -> Result<Vec<Chunk>> {
        let split = splits(schedule);
        let edges: Vec<usize> =
            std::iter::once(0).chain(ends.iter().copied()).chain(std::iter::once(self.cuts.len() + 1)).collect();
        let mut chunks: Vec<Chunk> = Vec::with_capacity(schedule.chunks());
        for c in 0..schedule.chunks() {
            let devices: Vec<usize> =
                schedule.replicas(pipeline::Chunk::at(c)).into_iter().map(pipeline::Device::index).collect();
            // Replicas run one plan: that for the slower device.
            let slow = devices.iter().copied().min_by_key(|&d| self.topology.devices()[d].speed).unwrap_or(0);
            let key = (edges[c], edges[c + 1], split, self.topology.devices()[slow].speed);
            self.prepare(key, slow)?;
            chunks.push(Chunk { key, devices, chosen: None });
        }
        Ok(chunks)
    }

    /// Choose the plans of a device's chunks; the bytes that it lacks for the least of those there are.
    fn fill(&self, device: usize, schedule: &Schedule, chunks: &mut [Chunk]) -> Result<u64> {
        let own: Vec<usize> = (0..chunks.len()).filter(|&c| chunks[c].devices.contains(&device)).collect();
        let stages = self.stages.borrow();
        let memory = self.topology.devices()[device].memory.get();
        let flights = flights(schedule, device, chunks.len());
        let state: u64 = own.iter().map(|&c| self.state_of(&stages[&chunks[c].key].0, schedule).get()).sum();
        let fixed = state + self.waiting(device, schedule, |c| chunks[c].key);
        let need = |plans: &[&Measure]| -> u64 {
            let resident: u64 = plans.iter().map(|plan| plan.resident.get()).sum();
            let beside = plans.iter().map(|plan| (plan.peak - plan.resident - plan.saved).get()).max().unwrap_or(0);
            let held = |counts: &Vec<(u64, u64)>| -> u64 {
                let each = own.iter().zip(plans);
                each.map(|(&c, plan)| counts[c].0 * plan.saved.get() + counts[c].1 * plan.kept.get()).sum()
            };
            fixed + resident + beside + flights.iter().map(held).max().unwrap_or(0)
        };
        let parameters: u64 = own.iter().map(|&c| stages[&chunks[c].key].1.0.resident.get()).sum();
        let largest = own.iter().map(|&c| stages[&chunks[c].key].3).max().unwrap_or(0);
        let floor = fixed + parameters + largest;
        if floor > memory {
            return Ok(floor - memory);
        }
        // Chosen already, for a replica.
        let old: Vec<Option<Planned>> = own.iter().map(|&c| chunks[c].chosen.clone()).collect();
        let all = |pick: &dyn Fn(&Known) -> Planned| -> Vec<Planned> {
            let each = own.iter().zip(&old);
            each.map(|(&c, old)| old.clone().unwrap_or_else(|| pick(&stages[&chunks[c].key]))).collect()
        };
        let mut best: Option<(u64, Vec<Planned>)> = None;
        let mut least = u64::MAX;
        let mut consider = |plans: Vec<Planned>| {
            let time: u64 = plans.iter().map(|plan| plan.0.time().get()).sum();
            let measures: Vec<&Measure> = plans.iter().map(|plan| &plan.0).collect();
            let need = need(&measures);
            least = least.min(need);
            let fits = need <= memory;
            if fits && best.as_ref().is_none_or(|(known, _)| time < *known) {
                best = Some((time, plans));
            }
            fits
        };
        let keeps = self.method != Method::FullRecompute && consider(all(&|stage| stage.1.clone()));
        let mut fits = keeps;
        if !keeps && matches!(self.method, Method::FullRecompute | Method::InterOp | Method::Joint) {
            fits = consider(all(&|stage| stage.2.clone()));
        }
        if !keeps && !self.plain.get() && self.method == Method::Joint && old.iter().any(Option::is_none) {
            let keep = all(&|stage| stage.1.clone());
            let beside =
                keep.iter().map(|plan| (plan.0.peak - plan.0.resident - plan.0.saved).get()).max().unwrap_or(0);
            let count = flights.iter().map(|counts| own.iter().map(|&c| counts[c].0 + counts[c].1).sum::<u64>()).max();
            let room = memory.saturating_sub(fixed + parameters);
            let count = count.unwrap_or(1).max(1);
            let few = self.quick.get() || schedule.devices().len() > 8;
            let shares = if few { &SHARES[..2] } else { &SHARES[..] };
            let saved = |share: &f64| (room - ((beside as f64 * share) as u64).min(room)) / count;
            let mut saves: Vec<u64> = shares.iter().map(saved).collect();
            if let [c] = own[..] {
                saves.extend(
                    stages[&chunks[c].key].0.sums().into_iter().filter(|sum| sum.saturating_mul(count) <= room),
                );
            }
            // Whether plans were found, and fit.
            let mut attempt = |saved: u64, beside: u64| -> Result<Option<bool>> {
                let mut planned = Vec::with_capacity(own.len());
                for (&c, old) in own.iter().zip(&old) {
                    let plan = match old {
                        Some(old) => Some(old.clone()),
                        None => self.solve(&stages[&chunks[c].key].0, saved, beside)?,
                    };
                    let Some(plan) = plan else { return Ok(None) };
                    planned.push(plan);
                }
                Ok(Some(consider(planned)))
            };
            // Where even everything computed again does not fit: first one microbatch alone in all the room; if there is a plan
            // for that, less and less saved. More than that is then not worth its time in large stages.
            if !fits {
                let alone = attempt(room, 0)?;
                fits = alone == Some(true);
                let least = match own[..] {
                    [c] => Some(self.saved.borrow_mut().least(chunks[c].key.0, chunks[c].key.1)),
                    _ => None,
                };
                let least = least.filter(|least| least.saturating_mul(count) <= room);
                let shares = SAVED.into_iter().map(|share| (room as f64 * share) as u64 / count);
                for saved in least.into_iter().chain(shares).filter(|_| alone.is_some()) {
                    fits = fits || attempt(saved, room - saved * count)? == Some(true);
                }
            }
            let small = || own.iter().all(|&c| stages[&chunks[c].key].0.problem.graph.ops().len() <= SMALL);
            if fits && !self.any.get() || !fits && small() {
                for saved in saves.into_iter().take_while(|_| !fits || !self.late()) {
                    attempt(saved, room - saved * count)?;
                }
            }
        }
        let Some((_, plans)) = best else { return Ok(least.saturating_sub(memory).max(1)) };
        for (&c, plan) in own.iter().zip(plans) {
            chunks[c].chosen = Some(plan);
        }
        Ok(0)
    }

    /// The plan of a stage that saves `saved` bytes across its turn and needs `beside` more while it computes, if one is found.
    fn solve(&self, stage: &Stage, saved: u64, beside: u64) -> Result<Option<Planned>> {
        let resident = stage.problem.graph.resident_bytes().get();
        let budget = resident + saved + beside;
        let reserve = budget.saturating_sub(resident + saved + stage.returned.get());
        let stage = stage.reserving(Bytes(reserve));
        let name = name_of(&stage, budget, self.nodes.get(), self.early.get());
        if let Some(known) = self.plans.borrow().get(&name) {
            return Ok(known.clone());
        }
        let starts = if self.early.get() { vec![Arc::new(early_plan(&stage)?)] } else { Vec::new() };
        let options = solver::Options {
            starts,
            time_limit: self.each.min(self.left()),
            node_limit: self.nodes.get(),
            search_minimum: false,
            prove: false,
            ..solver::Options::default()
        };
        let planned = match solver::plan(&stage.problem, Bytes(budget), "auto", &options) {
            Ok(plan) => Some((stage.measure(&plan.steps)?, plan.steps)),
            Err(Error::Infeasible { .. } | Error::InvalidBudget { .. }) => None,
            Err(fault) => return Err(fault),
        };
        self.plans.borrow_mut().insert(name, planned.clone());
        Ok(planned)
    }

    fn finish(&self, schedule: &Schedule, chunks: Vec<Chunk>) -> Result<Option<PipelinePlan>> {
        let stages = self.stages.borrow();
        let mut workload = Workload::default();
        let mut plans = Vec::with_capacity(chunks.len());
        let keys: Vec<Key> = chunks.iter().map(|chunk| chunk.key).collect();
        let mut constant: Vec<u64> =
            (0..schedule.devices().len()).map(|d| self.waiting(d, schedule, |c| keys[c])).collect();
        let mut beside = vec![0u64; schedule.devices().len()];
        for chunk in chunks {
            let (stage, keep, ..) = &stages[&chunk.key];
            let Some((measure, steps)) = chunk.chosen else { return Ok(None) };
            let state = self.state_of(stage, schedule);
            let (lower, upper) = self.bounds(chunk.key.0, chunk.key.1);
            let (sent, returned) = (upper.map_or(0, |cut| cut.sent), lower.map_or(0, |cut| cut.returned));
            for &d in &chunk.devices {
                constant[d] += (state + measure.resident).get();
                beside[d] = beside[d].max((measure.peak - measure.resident - measure.saved).get());
            }
            workload.chunks.push(ChunkCost {
                forward: measure.forward,
                input_gradient: measure.backward,
                weight_gradient: measure.weights,
                update: self.reduce(stage, &chunk.devices),
                activation: measure.saved,
                kept: measure.kept,
                output: Bytes(sent),
                gradient: Bytes(returned),
                ..ChunkCost::default()
            });
            let place = |from: usize, to: usize| {
                let ops = self.layout.order[from..to].iter().copied();
                ops.filter(|&op| !is_source(self.problem, op)).collect::<Vec<OpId>>()
            };
            let turn = self.layout.turn;
            let forward = place(lower.map_or(0, |cut| cut.forward), upper.map_or(turn, |cut| cut.forward));
            let backward =
                place(upper.map_or(turn, |cut| cut.backward), lower.map_or(self.layout.ops, |cut| cut.backward));
            let (time, baseline) = (measure.time(), keep.0.time());
            let predicted = Predicted {
                peak: measure.peak,
                time,
                baseline_peak: keep.0.peak,
                baseline_time: baseline,
                overhead: time.over(baseline),
                lower_bound: 0.0,
                status: Status::Feasible,
            };
            let plan = Plan::new(&stage.problem.graph, measure.peak, "joint", steps, predicted);
            check::check(&stage.problem, &plan)?;
            plans.push(StagePlan {
                forward_ops: forward.len(),
                steps: stage.in_step(&plan.steps),
                messages: stage.messages.clone(),
                ops: [forward, backward].concat(),
                problem: stage.problem.clone(),
                plan,
                forward_time: measure.forward,
                backward_time: measure.backward,
                weight_time: measure.weights,
                overhead: time.saturating_sub(baseline),
                saved: measure.saved,
                sent: Bytes(sent),
                returned: Bytes(returned),
                devices: chunk.devices,
                state,
            });
        }
        for (d, place) in self.topology.devices()[..schedule.devices().len()].iter().enumerate() {
            // Times are those of the device already.
            let constant = Bytes(constant[d] + beside[d]);
            workload.devices.push(DeviceCost { speed: 100, constant, memory: Some(place.memory) });
            let here = pipeline::Device::at(d);
            for peer in schedule.devices()[d].iter().filter_map(|action| action.peer()) {
                workload.links.insert((here, peer), self.topology.link(here, peer));
                workload.links.insert((peer, here), self.topology.link(peer, here));
            }
        }
        let run = pipeline::simulate_verified(schedule, &workload)?;
        let fits = run.devices.iter().zip(self.topology.devices()).all(|(run, place)| run.peak <= place.memory);
        if !fits {
            return Ok(None);
        }
        let makespan = run.makespan;
        Ok(Some(PipelinePlan {
            method: self.method,
            schedule: schedule.clone(),
            stages: plans,
            workload,
            run,
            makespan,
            lower_bound: Nanos::ZERO,
            tried: 0,
        }))
    }

    /// Time of adding up the gradients of a chunk on all devices with a replica of it (`devices` in one pipeline): around a
    /// ring, as fast as the slowest link in it.
    fn reduce(&self, stage: &Stage, devices: &[usize]) -> Nanos {
        let stages = self.topology.devices().len();
        let holders =
            (0..self.replicas).flat_map(|r| devices.iter().map(move |d| pipeline::Device::at(r * stages + d)));
        let holders: Vec<pipeline::Device> = holders.collect();
        let next = holders.iter().cycle().skip(1);
        let links = holders.iter().zip(next).filter(|(from, to)| from != to);
        let Some(link) = links.map(|(&from, &to)| self.whole.link(from, to)).reduce(Link::slower) else {
            return Nanos::ZERO;
        };
        let (count, rounds) = (holders.len() as u128, 2 * (holders.len() as u128 - 1));
        let bytes = u128::from(stage.gradients.get()) * rounds / count;
        let sending = link.sending(Bytes(u64::try_from(bytes).unwrap_or(u64::MAX)));
        let waiting = rounds * u128::from(link.latency.get());
        Nanos(u64::try_from(u128::from(sending.get()) + waiting).unwrap_or(u64::MAX >> 8))
    }
}

/// Whether backwards are split into input and weight gradient.
fn splits(schedule: &Schedule) -> bool {
    schedule.devices().iter().flatten().any(|action| matches!(action, Action::InputGradient(..)))
}

/// No step is shorter, whatever the messages take: a device works for all its chunks; and, with one route, waits for the
/// chunks before its first one to bring the first microbatch, and is waited for by them with the last.
fn at_least(schedule: &Schedule, chunks: &[Chunk]) -> Nanos {
    let measures: Vec<Measure> = chunks.iter().filter_map(|chunk| chunk.chosen.as_ref().map(|plan| plan.0)).collect();
    if measures.len() < chunks.len() {
        return Nanos::ZERO;
    }
    let devices = schedule.devices().iter().map(|actions| {
        let mut busy = Nanos::ZERO;
        let mut first = chunks.len();
        for action in actions {
            let c = action.chunk().index();
            first = first.min(c);
            busy += match action {
                Action::Forward(..) => measures[c].forward,
                Action::Backward(..) => measures[c].backward + measures[c].weights,
                Action::InputGradient(..) => measures[c].backward,
                Action::WeightGradient(..) => measures[c].weights,
                _ => Nanos::ZERO,
            };
        }
        let before = if schedule.routes().len() == 1 { &measures[..first] } else { &[] };
        busy + before.iter().map(|measure| measure.forward + measure.backward).sum()
    });
    devices.max().unwrap_or(Nanos::ZERO)
}

/// How many microbatches of each chunk are in flight (between forward and input gradient, between that and the weight
/// gradient) beside the one that is computing, at each forward and backward of a device. Each is counted until its part ends.
pub(super) fn flights(schedule: &Schedule, device: usize, chunks: usize) -> Vec<Vec<(u64, u64)>> {
    let mut counts = vec![(0u64, 0u64); chunks];
    let mut all: Vec<Vec<(u64, u64)>> = Vec::new();
    let mut note = |counts: &Vec<(u64, u64)>| {
        if !all.contains(counts) {
            all.push(counts.clone());
        }
    };
    for action in &schedule.devices()[device] {
        let c = action.chunk().index();
        match action {
            Action::Forward(..) => {
                counts[c].0 += 1;
                note(&counts);
            }
            Action::Backward(..) => counts[c].0 -= 1,
            Action::InputGradient(..) => {
                counts[c].0 -= 1;
                counts[c].1 += 1;
                note(&counts);
            }
            Action::WeightGradient(..) => counts[c].1 -= 1,
            _ => {}
        }
    }
    all
}

/// The whole forward again after the turn, as where only a stage's input is kept.
fn everything_again(stage: &Stage) -> Vec<Step> {
    let graph = &stage.problem.graph;
    let turn = stage.turn.index();
    let mut order: Vec<OpId> = (0..=turn).map(OpId::from_index).collect();
    let mut wanted = vec![false; turn];
    for op in graph.ops().values().skip(turn + 1) {
        for p in op.inputs.iter().filter_map(|&v| graph.values()[v].producer).filter(|p| p.index() < turn) {
            wanted[p.index()] = true;
        }
    }
    for op in (0..turn).rev().filter(|&op| graph.ops()[OpId::from_index(op)].replay != Replay::Once) {
        if wanted[op] {
            for &v in &graph.ops()[OpId::from_index(op)].inputs {
                if let Some(p) = graph.values()[v].producer {
                    wanted[p.index()] = true;
                }
            }
        }
    }
    let replayed = (0..turn).filter(|&op| wanted[op] && graph.ops()[OpId::from_index(op)].replay != Replay::Once);
    order.extend(replayed.map(OpId::from_index));
    order.extend((turn + 1..graph.ops().len()).map(OpId::from_index));
    lower(graph, &order, Lowering::default())
}

/// Everything kept in the order that is [early].
fn early_plan(stage: &Stage) -> Result<Plan> {
    let graph = &stage.problem.graph;
    let steps = lower(graph, &early(graph), Lowering::default());
    let timeline = simulate(&stage.problem, &steps)?;
    let predicted = Predicted {
        peak: timeline.peak,
        time: timeline.time,
        baseline_peak: timeline.peak,
        baseline_time: timeline.time,
        overhead: 0.0,
        lower_bound: 0.0,
        status: Status::Feasible,
    };
    Ok(Plan::new(graph, timeline.peak, "early", steps, predicted))
}

/// A name for a stage, its budget, and how hard it is planned.
fn name_of(stage: &Stage, budget: u64, nodes: Option<u64>, early: bool) -> u128 {
    let mut hash = Fnv::new();
    hash.text(&stage.problem.graph.fingerprint().to_string());
    stage.problem.costs.time.values().for_each(|time| hash.word(time.get()));
    stage.problem.costs.workspace.values().for_each(|bytes| hash.word(bytes.get()));
    let device = &stage.problem.device;
    let words =
        [nodes.unwrap_or(u64::MAX), budget, device.host_memory.get(), device.d2h_bytes_per_s, device.h2d_bytes_per_s];
    words.into_iter().chain([u64::from(early)]).for_each(|word| hash.word(word));
    u128::from_str_radix(&hash.finish().to_string(), 16).unwrap_or(0)
}
