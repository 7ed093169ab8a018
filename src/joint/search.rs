//! Where to cut: starts from estimates and from the classics, then moves.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use super::bound;
use super::cuts::{Cut, Layout};
use super::estimate::{Again, Estimate, Load, Place, partitions};
use super::evaluate::{Evaluator, flights};
use super::fitting::{Fitting, LARGE};
use super::{Options, PipelinePlan};
use crate::cost::Problem;
use crate::error::{Error, Result};
use crate::pipeline::{self, Action, DeviceCost, Schedule, Shape, Topology};
use crate::units::{Bytes, Nanos};

/// Cuts that are looked at to find some that fit.
const RESCUES: usize = 2000;
/// Ways to cut that are few enough to try them all.
const FEW: u64 = 200;
/// Devices up to which every schedule is tried.
const SMALL: usize = 8;
/// The longest stage is looked for to one part in this many.
const NEARLY: u64 = 32;
/// Search steps of each stage's plan while cuts are looked for.
const NODES: u64 = 100;
/// Shares of the memory that estimates are made for: they err on both sides.
const FACTORS: [f64; 4] = [1.0, 0.85, 0.7, 1.25];

/// How to cut, and what may be computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Everything together, see [the module](super).
    Joint,
    /// The same number of forward ops in every stage, nothing recomputed.
    EqualLayers,
    /// The longest stage as short as can be, nothing recomputed (PipeDream: Narayanan et al. 2019).
    EqualTime,
    /// The shortest step among those that fit without recomputation (as MadPipe: Beaumont et al. 2021).
    MemoryAware,
    /// The same number of forward ops in every stage, of which only the input is kept (Megatron-LM's uniform full
    /// recomputation: Narayanan et al. 2021).
    FullRecompute,
    /// The shortest step where each stage keeps all or only its input (as Alpa's inter-op pass: Zheng et al. 2022).
    InterOp,
}

const METHODS: [(Method, &str); 6] = [
    (Method::Joint, "joint"),
    (Method::EqualLayers, "equal-layers"),
    (Method::EqualTime, "equal-time"),
    (Method::MemoryAware, "memory-aware"),
    (Method::FullRecompute, "full-recompute"),
    (Method::InterOp, "inter-op"),
];

/// All methods, the default first.
pub fn methods() -> Vec<Method> {
    METHODS.iter().map(|(method, _)| *method).collect()
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = METHODS.iter().find(|(method, _)| method == self).map_or("", |(_, name)| name);
        f.pad(name)
    }
}

impl FromStr for Method {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        let found = METHODS.iter().find(|(_, known)| *known == name).map(|(method, _)| *method);
        let known = || METHODS.map(|(_, name)| name).join(", ");
        found.ok_or_else(|| Error::InvalidSetting {
            name: "method".into(),
            why: format!("there is no method `{name}`; there are {}", known()),
        })
    }
}

/// Cut the step of a microbatch into stages for the devices of `topology`, choose a schedule, and plan every stage. With
/// replicas, stages take what they take on the slowest of the devices that have them.
///
/// # Errors
/// [`Error::UnknownSchedule`]; [`Error::InvalidSetting`] when the model has fewer places to be cut than are needed,
/// devices or microbatches cannot be divided among the replicas, or the schedule cannot take their numbers;
/// [`Error::Infeasible`] when nothing was found that fits.
pub fn plan_pipeline(problem: &Problem, topology: &Topology, options: &Options) -> Result<PipelinePlan> {
    let refuse = |name: &str, why: String| Err(Error::InvalidSetting { name: name.into(), why });
    let devices = topology.devices().len();
    if options.microbatches == 0 {
        return refuse("microbatches", "there must be at least one".into());
    }
    let replicas = options.replicas;
    if replicas == 0 {
        return refuse("replicas", "there must be at least one".into());
    }
    for (what, count) in [("devices", devices), ("microbatches", options.microbatches)] {
        if !count.is_multiple_of(replicas) {
            return refuse("replicas", format!("{count} {what} cannot be divided evenly among {replicas}"));
        }
    }
    let bound = bound::time(problem, topology, options.microbatches);
    // From here on it is about one replica.
    let whole = topology;
    let topology = &whole.folded(replicas);
    let devices = devices / replicas;
    let options = &Options { microbatches: options.microbatches / replicas, ..options.clone() };
    if let Some(why) = bound::too_small(problem, topology) {
        return Err(infeasible(topology, true, why));
    }
    let (layout, cuts) = Layout::new(problem);
    let estimate = Estimate::new(problem, &layout, &cuts);
    let schedules = schedules(devices, cuts.len() + 1, options)?;
    let mut evaluator = Evaluator::new(problem, topology, &layout, &cuts, estimate.state);
    evaluator.method = options.method;
    (evaluator.whole, evaluator.replicas) = (whole, replicas);
    evaluator.nodes.set(Some(options.node_limit.map_or(NODES, |nodes| nodes.min(NODES))));
    evaluator.deadline = Instant::now().checked_add(options.time_limit);
    evaluator.each = options.time_limit.div_f64(4.0 * devices as f64).min(std::time::Duration::from_secs(3));
    let search = Search { evaluator, estimate, topology, options, cuts: &cuts };
    let mut plan = match search.find(&schedules)? {
        Found::Plan(plan) => *plan,
        Found::Nothing => return Err(search.nothing()),
        Found::Never => return Err(infeasible(topology, true, impossible(&cuts))),
    };
    spread(&mut plan, whole, replicas)?;
    plan.lower_bound = bound;
    plan.tried = search.evaluator.tried.get();
    Ok(plan)
}

/// What a search comes to.
enum Found {
    Plan(Box<PipelinePlan>),
    Nothing,
    /// It is proved that there is nothing.
    Never,
}

/// Why nothing fits, where that is proved.
fn impossible(cuts: &[Cut]) -> String {
    format!(
        "at whichever of the {} places there are for cuts it is cut, parameters, summed gradients, optimizer state, waiting messages, \
         the least that microbatches in flight save, and what the one that is computing needs are more than some device has",
        cuts.len()
    )
}

/// What the chunks of a route have at most.
pub(super) fn places(topology: &Topology, schedule: &Schedule, route: &[pipeline::Device]) -> Vec<Place> {
    let queue = u64::from(schedule.queue());
    let place = |(c, &device): (usize, &pipeline::Device)| {
        let flights = flights(schedule, device.index(), schedule.chunks());
        let in_flight = flights.iter().map(|counts| counts[c].0).max().unwrap_or(0);
        let mut waiting = (0u64, 0u64);
        for action in &schedule.devices()[device.index()] {
            let of = action.chunk().index();
            match action {
                // Messages are named by the chunk that sends them.
                Action::ReceiveActivation(..) if of + 1 == c => waiting.0 += 1,
                Action::ReceiveGradient(..) if of == c + 1 => waiting.1 += 1,
                _ => {}
            }
        }
        let queues = (waiting.0.min(queue), waiting.1.min(queue));
        let own = &topology.devices()[device.index()];
        let offloads = own.host_memory > Bytes::ZERO && own.host_bytes_per_s > 0;
        Place { memory: own.memory.get(), speed: own.speed, in_flight, queues, offloads }
    };
    route.iter().enumerate().map(place).collect()
}

/// From the plan of one replica to that of all.
fn spread(plan: &mut PipelinePlan, whole: &Topology, replicas: usize) -> Result<()> {
    if replicas == 1 {
        return Ok(());
    }
    let stages = whole.devices().len() / replicas;
    plan.schedule = plan.schedule.replicated(replicas)?;
    for stage in &mut plan.stages {
        let devices = (0..replicas).flat_map(|r| stage.devices.iter().map(move |d| r * stages + d));
        stage.devices = devices.collect();
    }
    let workload = &mut plan.workload;
    workload.links.clear();
    let own = std::mem::take(&mut workload.devices);
    for (place, cost) in whole.devices().iter().zip(own.iter().cycle()) {
        workload.devices.push(DeviceCost { memory: Some(place.memory), ..*cost });
    }
    for (d, actions) in plan.schedule.devices().iter().enumerate() {
        let here = pipeline::Device::at(d);
        for peer in actions.iter().filter_map(|action| action.peer()) {
            workload.links.insert((here, peer), whole.link(here, peer));
            workload.links.insert((peer, here), whole.link(peer, here));
        }
    }
    plan.run = pipeline::simulate(&plan.schedule, workload)?;
    plan.makespan = plan.run.makespan;
    Ok(())
}

/// The best pipeline for a batch that can be split in several ways: each problem is that of one microbatch where a step
/// takes so many of them. Each gets an equal part of the time limit. Says which it is.
///
/// # Errors
/// Those of [`plan_pipeline`]; [`Error::Infeasible`] where nothing was found for any.
pub fn plan_best(
    splits: &[(&Problem, usize)],
    topology: &Topology,
    options: &Options,
) -> Result<(usize, PipelinePlan)> {
    let time_limit = options.time_limit / u32::try_from(splits.len().max(1)).unwrap_or(u32::MAX);
    let mut best: Option<(usize, PipelinePlan)> = None;
    let mut nothing = None;
    for (index, &(problem, microbatches)) in splits.iter().enumerate() {
        match plan_pipeline(problem, topology, &Options { microbatches, time_limit, ..options.clone() }) {
            Ok(plan) if best.as_ref().is_none_or(|(_, known)| plan.makespan < known.makespan) => {
                best = Some((index, plan));
            }
            Ok(_) => {}
            Err(error @ Error::Infeasible { .. }) => nothing = Some(error),
            Err(error) => return Err(error),
        }
    }
    let none = || Error::InvalidSetting { name: "splits".into(), why: "there must be at least one".into() };
    best.ok_or_else(|| nothing.unwrap_or_else(none))
}

/// The schedules to try.
fn schedules(devices: usize, segments: usize, options: &Options) -> Result<Vec<Schedule>> {
    let shape = Shape { stages: devices, microbatches: options.microbatches, chunks: options.chunks };
    let enough = |schedule: Schedule| match schedule.chunks() <= segments {
        true => pipeline::verify(&schedule).map(|()| schedule).map_err(Error::from),
        false => Err(Error::InvalidSetting {
            name: "stages".into(),
            why: format!(
                "{} chunks are needed for {devices} devices, and the model can be cut into {segments} at most",
                schedule.chunks()
            ),
        }),
    };
    if let Some(name) = &options.schedule {
        return Ok(vec![enough(pipeline::by_name(name)?.generate(shape)?)?]);
    }
    if options.method != Method::Joint {
        return Ok(vec![enough(pipeline::by_name("1f1b")?.generate(shape)?)?]);
    }
    let first = enough(pipeline::by_name("1f1b")?.generate(shape)?)?;
    let names = pipeline::names().into_iter().filter(|name| *name != "1f1b" && (devices <= SMALL || *name == "zb-h1"));
    let others = names.filter_map(|name| enough(pipeline::by_name(name).ok()?.generate(shape).ok()?).ok());
    Ok(std::iter::once(first).chain(others).collect())
}

struct Search<'a> {
    evaluator: Evaluator<'a>,
    estimate: Estimate,
    topology: &'a Topology,
    options: &'a Options,
    cuts: &'a [Cut],
}

impl Search<'_> {
    /// The best pipeline that there is time to find.
    fn find(&self, schedules: &[Schedule]) -> Result<Found> {
        let possible = |schedule: &Schedule| {
            let mut routes = schedule.routes().iter();
            routes.all(|route| {
                let places = places(self.topology, schedule, route);
                self.estimate.roomiest(&places, None, &|_, _, _| false).is_some()
            })
        };
        if !schedules.iter().any(possible) {
            return Ok(Found::Never);
        }
        let joint = self.options.method == Method::Joint;
        let mut best: Option<(PipelinePlan, Vec<usize>)> = None;
        if joint {
            // The classics, with all or nothing kept: quick, and never lost to.
            self.evaluator.plain.set(true);
            for schedule in schedules {
                for ends in self.classics(schedule) {
                    self.consider(&ends, schedule, &mut best)?;
                }
            }
            self.evaluator.plain.set(false);
        }
        // Where nothing fits yet the rest of the time goes to cuts that lack less.
        let third = Instant::now().checked_add(self.evaluator.left() / 3);
        for schedule in schedules {
            for ends in self.starts(schedule) {
                let enough = joint && third.is_some_and(|third| Instant::now() >= third);
                if self.evaluator.late() && best.is_some() || enough && best.is_none() {
                    break;
                }
                self.consider(&ends, schedule, &mut best)?;
            }
        }
        if joint {
            if best.is_none() && self.repair(schedules, &mut best)? {
                return Ok(Found::Never);
            }
            self.improve(&schedules[0], &mut best)?;
            self.polish(&mut best)?;
        }
        Ok(best.map_or(Found::Nothing, |(plan, _)| Found::Plan(Box::new(plan))))
    }

    /// Where none of the cuts fit that looked best: others. Whether it is proved that there are none.
    fn repair(&self, schedules: &[Schedule], best: &mut Option<(PipelinePlan, Vec<usize>)>) -> Result<bool> {
        self.evaluator.quick.set(true);
        let mut proved = true;
        for schedule in schedules {
            if best.is_some() || self.evaluator.late() {
                proved = false;
                break;
            }
            if let Some(ends) = self.roomiest(schedule)?
                && !self.fitting(schedule, best)?
            {
                proved = false;
                if best.is_none() {
                    self.rescue(schedule, &ends, best)?;
                }
            }
        }
        self.evaluator.quick.set(false);
        Ok(proved)
    }

    /// Plan and simulate; keep what is better.
    fn consider(
        &self,
        ends: &[usize],
        schedule: &Schedule,
        best: &mut Option<(PipelinePlan, Vec<usize>)>,
    ) -> Result<bool> {
        let below = best.as_ref().map_or(Nanos(u64::MAX), |(known, _)| known.makespan);
        let Some(plan) = self.evaluator.run(ends, schedule, below)? else { return Ok(false) };
        let better = best.as_ref().is_none_or(|(known, _)| plan.makespan < known.makespan);
        if better {
            *best = Some((plan, ends.to_vec()));
        }
        Ok(better)
    }

    /// What each chunk has to cope with, with memory times `factor`.
    fn loads(&self, schedule: &Schedule, again: Again, factor: f64) -> Vec<Load> {
        let devices = schedule.devices();
        let in_flight = |d: usize| -> u64 {
            let (mut now, mut most) = (0u64, 0u64);
            for action in &devices[d] {
                match action {
                    Action::Forward(..) => now += 1,
                    Action::Backward(..) | Action::WeightGradient(..) => now = now.saturating_sub(1),
                    _ => {}
                }
                most = most.max(now);
            }
            most
        };
        let chunks_of = |d: usize| {
            (0..schedule.chunks()).filter(|&c| schedule.routes().iter().any(|route| route[c].index() == d)).count()
        };
        let place = |c: usize| {
            let holders = schedule.routes().iter().map(|route| route[c].index());
            holders.min_by_key(|&d| (self.topology.devices()[d].memory, d)).unwrap_or(0)
        };
        let load = |d: usize| {
            let mut load = Load::new(&self.topology.devices()[d], chunks_of(d) as u64, in_flight(d), again);
            load.memory = (load.memory as f64 * factor) as u64;
            load
        };
        let known: Vec<Load> = (0..devices.len()).map(load).collect();
        (0..schedule.chunks()).map(|c| known[place(c)]).collect()
    }

    /// The best cuts by estimates.
    fn parts(&self, schedule: &Schedule, again: Again, factor: f64) -> Vec<Vec<usize>> {
        partitions(&self.estimate, &self.loads(schedule, again, factor), self.options.microbatches as u64, 1)
    }

    /// Without a limit on memory and with none but the longest stage to mind.
    fn equal_time(&self, schedule: &Schedule) -> Vec<Vec<usize>> {
        partitions(&self.estimate, &self.loads(schedule, Again::Nothing, 1e9), u64::MAX >> 32, 1)
    }

    /// The cuts of every baseline.
    fn classics(&self, schedule: &Schedule) -> Vec<Vec<usize>> {
        let mut all = vec![self.equal_layers(schedule.chunks())];
        all.extend(self.equal_time(schedule));
        for again in [Again::Nothing, Again::All] {
            all.extend(FACTORS.iter().flat_map(|&factor| self.parts(schedule, again, factor)));
        }
        distinct(all)
    }

    /// Cuts to begin with.
    fn starts(&self, schedule: &Schedule) -> Vec<Vec<usize>> {
        let parts = |again: Again| FACTORS.iter().flat_map(move |&factor| self.parts(schedule, again, factor));
        distinct(match self.options.method {
            Method::EqualLayers | Method::FullRecompute => vec![self.equal_layers(schedule.chunks())],
            Method::EqualTime => self.equal_time(schedule),
            Method::MemoryAware => parts(Again::Nothing).collect(),
            Method::InterOp => parts(Again::Nothing).chain(parts(Again::All)).collect(),
            Method::Joint => parts(Again::Some)
                .chain(self.equal_time(schedule))
                .chain([self.equal_layers(schedule.chunks())])
                .chain(parts(Again::Nothing))
                .collect(),
        })
    }

    /// The cuts nearest to equal numbers of forward ops.
    fn equal_layers(&self, chunks: usize) -> Vec<usize> {
        let ops = self.evaluator.layout.turn;
        let mut ends: Vec<usize> = Vec::with_capacity(chunks);
        for c in 1..chunks {
            let low = ends.last().map_or(1, |last| last + 1);
            // As many cuts must be left for the chunks to come.
            let high = self.cuts.len() - (chunks - 1 - c);
            let wanted = ops * c / chunks;
            let nearest = (low..=high).min_by_key(|&end| self.cuts[end - 1].forward.abs_diff(wanted));
            ends.push(nearest.unwrap_or(low));
        }
        ends
    }

    /// The [roomiest](Estimate::roomiest) cuts for the first route, or none where it is proved that there are none for some
    /// route: as long as a stage of those cuts is [refuted](Evaluator::refuted) it is left out, for a quarter of the time and in steps that are not [`LARGE`].
    fn roomiest(&self, schedule: &Schedule) -> Result<Option<Vec<usize>>> {
        let until = Instant::now().checked_add(self.evaluator.left() / 4);
        let large = self.evaluator.problem.graph.ops().len() > LARGE;
        let mut first = None;
        for route in schedule.routes() {
            let places = places(self.topology, schedule, route);
            let (mut refuted, mut looked) = (BTreeSet::new(), BTreeSet::new());
            let ends = loop {
                let without = |k: usize, from: usize, to: usize| refuted.contains(&(k, from, to));
                let saved = || self.evaluator.saved.borrow_mut();
                let ends = self.estimate.roomiest(&places, Some(&mut *saved()), &without);
                let Some(ends) = ends else { return Ok(None) };
                let stages = self.estimate.stages(&ends);
                let known = refuted.len();
                for (k, (&(from, to), place)) in stages.iter().zip(&places).enumerate() {
                    let late = until.is_some_and(|until| Instant::now() >= until);
                    if !large && !late && !place.offloads && looked.insert((k, from, to)) {
                        let each = saved().least(from, to);
                        if self.evaluator.refuted((from, to), place, each, schedule)? {
                            refuted.insert((k, from, to));
                        }
                    }
                }
                if refuted.len() == known {
                    break ends;
                }
            };
            first = first.or(Some(ends));
        }
        Ok(first)
    }

    /// Cuts that [fit](Fitting), and then some that are more nearly equal. Whether it is proved that none fit.
    fn fitting(&self, schedule: &Schedule, best: &mut Option<(PipelinePlan, Vec<usize>)>) -> Result<bool> {
        let [route] = schedule.routes() else { return Ok(false) };
        let evaluator = &self.evaluator;
        let places = places(self.topology, schedule, route);
        let Some(mut fitting) = Fitting::new(evaluator, &self.estimate, schedule, places) else { return Ok(false) };
        let until = Instant::now().checked_add(evaluator.left() / 4 * 3);
        let mut found = fitting.cuts(Nanos(u64::MAX), false, until)?;
        if found.is_none() && !fitting.proved() {
            // Planned harder some stages may fit yet, or their neighbours.
            evaluator.nodes.set(self.options.node_limit);
            evaluator.early.set(true);
            fitting.forget();
            found = fitting.cuts(Nanos(u64::MAX), true, until)?;
        }
        let Some(ends) = found else { return Ok(fitting.proved()) };
        self.consider(&ends, schedule, best)?;
        let (mut low, mut high) = (fitting.equal(), fitting.longest(&ends));
        let until = Instant::now().checked_add(evaluator.left() / 2);
        while high.saturating_sub(low) > Nanos(high.get() / NEARLY) && until.is_none_or(|until| Instant::now() < until)
        {
            let middle = Nanos(low.get() + high.saturating_sub(low).get() / 2);
            let part = Instant::now().checked_add(evaluator.left() / 8);
            match fitting.cuts(middle, false, until.min(part))? {
                Some(ends) => {
                    self.consider(&ends, schedule, best)?;
                    high = fitting.longest(&ends);
                }
                None => low = middle,
            }
        }
        Ok(false)
    }

    /// Where no cuts fit that looked best: from those and the `roomiest` on, the ones that lack the least memory first, cuts
    /// are moved towards the stages that have some.
    fn rescue(
        &self,
        schedule: &Schedule,
        roomiest: &[usize],
        best: &mut Option<(PipelinePlan, Vec<usize>)>,
    ) -> Result<()> {
        let mut seen: BTreeSet<Vec<usize>> = BTreeSet::new();
        let mut open: BTreeSet<(u128, Vec<usize>, Vec<usize>)> = BTreeSet::new();
        // And the cuts at devices that lack some; all where none does, though together they do not fit.
        let lacking = |ends: &[usize]| -> Result<(u128, Vec<usize>)> {
            let missing = self.evaluator.missing(ends, schedule)?;
            let lacks = |c: usize| schedule.routes().iter().any(|route| missing[route[c].index()] > 0);
            let all = missing.iter().all(|&bytes| bytes == 0);
            let cuts = (0..ends.len()).filter(|&cut| all || lacks(cut) || lacks(cut + 1));
            Ok((missing.iter().copied().map(u128::from).sum(), cuts.collect()))
        };
        for ends in distinct([vec![roomiest.to_vec()], self.starts(schedule), self.classics(schedule)].concat()) {
            if self.evaluator.late() {
                break;
            }
            seen.insert(ends.clone());
            let (lack, cuts) = lacking(&ends)?;
            open.insert((lack, ends, cuts));
        }
        // Where there are many cuts the ones that fit may be far.
        let far = self.cuts.len() as isize / 16;
        let steps: Vec<isize> = [far, -far, 1, -1, 3, -3].into_iter().skip(if far > 3 { 0 } else { 2 }).collect();
        while let Some((lack, ends, cuts)) = open.pop_first() {
            if lack == 0 && self.consider(&ends, schedule, best)? {
                break;
            }
            for cut in cuts {
                for &by in &steps {
                    if self.evaluator.late() || seen.len() >= RESCUES {
                        return Ok(());
                    }
                    if let Some(next) = self.pushed(&ends, cut, by).filter(|next| seen.insert(next.clone())) {
                        let (lack, cuts) = lacking(&next)?;
                        open.insert((lack, next, cuts));
                    }
                }
            }
        }
        Ok(())
    }

    /// The same with one cut moved, if there is room between its neighbours.
    fn moved(&self, ends: &[usize], cut: usize, by: isize) -> Option<Vec<usize>> {
        let end = ends[cut].checked_add_signed(by)?;
        let low = if cut == 0 { 1 } else { ends[cut - 1] + 1 };
        let high = ends.get(cut + 1).map_or(self.cuts.len(), |next| next - 1);
        let mut next = ends.to_vec();
        next[cut] = end;
        (low..=high).contains(&end).then_some(next)
    }

    /// The same with one cut moved, and those along with it that are in the way.
    fn pushed(&self, ends: &[usize], cut: usize, by: isize) -> Option<Vec<usize>> {
        let mut next = ends.to_vec();
        next[cut] = next[cut].checked_add_signed(by)?;
        for other in (0..cut).rev() {
            next[other] = next[other].min(next[other + 1].saturating_sub(1));
        }
        for other in cut + 1..next.len() {
            next[other] = next[other].max(next[other - 1] + 1);
        }
        (next[0] >= 1 && next[next.len() - 1] <= self.cuts.len()).then_some(next)
    }

    /// All there are, or cuts moved one by one, for as long as that helps; with the schedule of the best, or `first`.
    fn improve(&self, first: &Schedule, best: &mut Option<(PipelinePlan, Vec<usize>)>) -> Result<()> {
        let schedule = best.as_ref().map_or(first, |(plan, _)| &plan.schedule).clone();
        if ways(self.cuts.len() as u64, schedule.chunks() as u64 - 1) <= FEW {
            let mut ends: Vec<usize> = (1..schedule.chunks()).collect();
            loop {
                self.consider(&ends, &schedule, best)?;
                if self.evaluator.late() || !next_choice(&mut ends, self.cuts.len()) {
                    return Ok(());
                }
            }
        }
        self.evaluator.quick.set(true);
        let mut moved = true;
        while moved {
            moved = false;
            let Some((plan, ends)) = best.clone() else { return Ok(()) };
            // Cuts around the busiest stages first.
            let mut order: Vec<usize> = (0..ends.len()).collect();
            let time = |c: usize| {
                plan.workload.chunks[c].forward
                    + plan.workload.chunks[c].input_gradient
                    + plan.workload.chunks[c].weight_gradient
            };
            order.sort_by_key(|&cut| std::cmp::Reverse(time(cut).max(time(cut + 1))));
            'cuts: for cut in order {
                for by in [1isize, -1, 2, -2, 4, -4] {
                    let ends = best.as_ref().map_or(&ends, |(_, ends)| ends);
                    let Some(ends) = self.moved(ends, cut, by) else { continue };
                    if self.evaluator.late() {
                        return Ok(());
                    }
                    if self.consider(&ends, &schedule, best)? {
                        moved = true;
                        continue 'cuts;
                    }
                }
            }
        }
        Ok(())
    }

    /// The stages of the best planned harder.
    fn polish(&self, best: &mut Option<(PipelinePlan, Vec<usize>)>) -> Result<()> {
        let Some((plan, ends)) = best.clone() else { return Ok(()) };
        let again = plan.stages.iter().any(|stage| stage.overhead > Nanos::ZERO);
        if again && self.options.node_limit.is_none_or(|nodes| nodes > NODES) && !self.evaluator.late() {
            self.evaluator.nodes.set(self.options.node_limit);
            self.consider(&ends, &plan.schedule, best)?;
        }
        Ok(())
    }

    /// What nothing was found among.
    fn nothing(&self) -> Error {
        let tried = self.evaluator.tried.get();
        let why = format!(
            "of {tried} pipelines that were planned ({}) some stage of each needs more than its device has",
            self.options.method
        );
        infeasible(self.topology, false, why)
    }
}

fn infeasible(topology: &Topology, proved: bool, why: String) -> Error {
    let budget = topology.devices().iter().map(|place| place.memory).min().unwrap_or_default();
    Error::Infeasible { budget, minimum: None, proved, blockers: Vec::new(), why }
}

/// Each once, in the order of their first.
fn distinct(all: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    let mut seen = BTreeSet::new();
    all.into_iter().filter(|ends| seen.insert(ends.clone())).collect()
}

/// n choose k, or a number above [`FEW`].
fn ways(n: u64, k: u64) -> u64 {
    let mut ways = 1u64;
    for i in 0..k {
        ways = ways.saturating_mul(n - i) / (i + 1);
        if ways > FEW * 1000 {
            return ways;
        }
    }
    ways
}

/// The next choice of as many numbers of `1..=most` in rising order.
fn next_choice(choice: &mut [usize], most: usize) -> bool {
    for i in (0..choice.len()).rev() {
        if choice[i] < most - (choice.len() - 1 - i) {
            choice[i] += 1;
            for j in i + 1..choice.len() {
                choice[j] = choice[j - 1] + 1;
            }
            return true;
        }
    }
    false
}
