//! What a stage between any two cuts comes to, without planning it.
//!
//! For a ladder of prices of a byte the whole step's cheapest choice of what to keep is known op by op. What a stage
//! keeps, and what it runs again, is then a difference of sums up to its two cuts; a stage takes the first step of the
//! ladder that fits. Neighbouring stages would choose a little differently: plans of the stages themselves decide.

use super::bound::{self, Saved};
use super::cuts::{Cut, Layout, is_source};
use crate::cost::Problem;
use crate::entity::OpId;
use crate::graph::Role;
use crate::pipeline::TopologyDevice;
use crate::solver;

/// Prices looked at.
const PRICES: usize = 24;

/// What lies between two neighbouring cuts.
#[derive(Clone, Default)]
struct Segment {
    time: u64,
    /// By price.
    kept: Vec<u64>,
    again: Vec<u64>,
    /// The most one op needs.
    footprint: u64,
    parameters: u64,
    gradients: u64,
    /// The most one op needs in any plan, parameters that it reads left out.
    floor: u64,
}

/// See the module's description.
pub(super) struct Estimate {
    segments: Vec<Segment>,
    /// Bytes that go forward across the cut before each segment.
    received: Vec<u64>,
    /// Bytes that come back across the cut behind each segment but the last.
    returned: Vec<u64>,
    levels: usize,
    /// Bytes of optimizer state per byte of gradients.
    pub state: f64,
}

/// What a chunk has to cope with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    /// Bytes of its device, for this chunk.
    pub memory: u64,
    /// In percent.
    pub speed: u32,
    /// Microbatches in flight.
    pub in_flight: u64,
    /// Whether it may run anything again.
    pub again: Again,
}

/// What a chunk has at most, whatever its plan.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Bytes of its device.
    pub memory: u64,
    /// Its speed, in percent.
    pub speed: u32,
    /// Microbatches between forward and input gradient, the one that is computing counted.
    pub in_flight: u64,
    /// Whether it can move to its host what microbatches in flight save.
    pub offloads: bool,
    /// Messages that may wait for it in the queue of what goes forward, and in that of what comes back.
    pub queues: (u64, u64),
}

impl Place {
    /// Whether what does not fit the other place does not fit this one.
    pub fn has_no_more(&self, other: &Self) -> bool {
        let queues = self.queues.0 >= other.queues.0 && self.queues.1 >= other.queues.1;
        queues && self.memory <= other.memory && self.in_flight >= other.in_flight && self.offloads <= other.offloads
    }
}

/// What may be run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Nothing,
    /// As much as it takes.
    Some,
    /// As much as there is.
    All,
}

impl Estimate {
    pub fn new(problem: &Problem, layout: &Layout, cuts: &[Cut]) -> Self {
        let graph = &problem.graph;
        let segment_of = |op: OpId| match layout.place[op] {
            at if at < layout.turn => cuts.partition_point(|cut| cut.forward <= at),
            at => cuts.partition_point(|cut| cut.backward > at),
        };
        let prices = solver::priced(problem, PRICES);
        let levels = prices.len().max(1);
        let empty = Segment { kept: vec![0; levels], again: vec![0; levels], ..Segment::default() };
        let mut segments = vec![empty; cuts.len() + 1];
        for (level, priced) in prices.iter().enumerate() {
            for &(op, bytes) in &priced.kept {
                segments[segment_of(op)].kept[level] += bytes;
            }
            for &(op, time) in &priced.again {
                segments[segment_of(op)].again[level] += time;
            }
        }
        let alone = bound::alone(problem);
        for (id, op) in graph.ops().iter().filter(|(id, _)| !is_source(problem, *id)) {
            let segment = &mut segments[segment_of(id)];
            segment.time += problem.costs.time[id].get();
            let mut storages: Vec<_> =
                op.inputs.iter().chain(&op.outputs).map(|&v| graph.values()[v].storage).collect();
            storages.sort_unstable();
            storages.dedup();
            let own = storages.iter().map(|&s| &graph.storages()[s]).filter(|s| !s.resident).map(|s| s.bytes.get());
            segment.footprint = segment.footprint.max(own.sum::<u64>() + problem.costs.workspace[id].get());
            let mut read: Vec<_> = op.inputs.iter().filter(|&&v| graph.values()[v].resident).collect();
            read.sort_unstable();
            read.dedup();
            let read: u64 = read.into_iter().map(|&v| graph.values()[v].bytes.get()).sum();
            segment.floor = segment.floor.max(alone[id].saturating_sub(read));
        }
        let (mut gradients, mut state) = (0u64, 0u64);
        for (id, value) in graph.values().iter() {
            let first = graph.uses(id).first().copied();
            match (value.resident, first) {
                (true, Some(op)) => segments[segment_of(op)].parameters += value.bytes.get(),
                (true, None) if value.role == Role::Buffer => state += value.bytes.get(),
                _ => {}
            }
            if let Some(op) = value.producer.filter(|_| value.output && value.role == Role::Gradient) {
                segments[segment_of(op)].gradients += value.bytes.get();
                gradients += value.bytes.get();
            }
        }
        let received = std::iter::once(0).chain(cuts.iter().map(|cut| cut.sent)).collect();
        let returned = cuts.iter().map(|cut| cut.returned).collect();
        Self { segments, received, returned, levels, state: state as f64 / gradients.max(1) as f64 }
    }

    /// Number of segments.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// First segment of each stage of some cuts, and the one after its last.
    pub fn stages(&self, ends: &[usize]) -> Vec<(usize, usize)> {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(ends.iter().copied().chain([self.segments()])).collect()
    }

    /// The time of one microbatch in the stage of segments `from` to each later end, under a load; none where it does
    /// not fit. The first entry is for one segment.
    pub fn from(&self, from: usize, load: Load) -> Vec<Option<u64>> {
        let mut sum = Segment { kept: vec![0; self.levels], again: vec![0; self.levels], ..Segment::default() };
        let received = self.received[from];
        let mut times = Vec::with_capacity(self.segments.len() - from);
        for segment in &self.segments[from..] {
            sum.time += segment.time;
            sum.footprint = sum.footprint.max(segment.footprint);
            sum.parameters += segment.parameters;
            sum.gradients += segment.gradients;
            for level in 0..self.levels {
                sum.kept[level] += segment.kept[level];
                sum.again[level] += segment.again[level];
            }
            let fixed = sum.parameters + sum.gradients + (sum.gradients as f64 * self.state) as u64 + sum.footprint;
            let fits = |level: &usize| fixed + load.in_flight * (sum.kept[*level] + received) <= load.memory;
            let level = match load.again {
                Again::Nothing => Some(0).filter(fits),
                Again::Some => (0..self.levels).find(fits),
                Again::All => Some(self.levels - 1).filter(fits),
            };
            let scaled = |time: u64| time.saturating_mul(100) / u64::from(load.speed.max(1));
            times.push(level.map(|level| scaled(sum.time + sum.again[level])));
        }
        times
    }

    /// The cuts into as many stages as there are places whose tightest stage has the most to spare, if there are any where
    /// no stage needs more than its place has in whichever plan: parameters, summed gradients, optimizer state, waiting
    /// messages, the least that each microbatch in flight [saves](Saved) if that is asked, and the largest op. Stages for which
    /// `without` says so (by number, first segment, the one after the last) are left out.
    pub fn roomiest(
        &self,
        places: &[Place],
        mut saved: Option<&mut Saved>,
        without: &dyn Fn(usize, usize, usize) -> bool,
    ) -> Option<Vec<usize>> {
        let n = self.segments();
        // By stage and end: bytes to spare, and where the stage begins.
        let mut best: Vec<Vec<Option<(u64, usize)>>> = vec![vec![None; n + 1]; places.len() + 1];
        best[0][0] = Some((u64::MAX, 0));
        for (k, place) in places.iter().enumerate() {
            for from in 0..n {
                let Some((before, _)) = best[k][from] else { continue };
                let (mut parameters, mut gradients, mut floor) = (0u64, 0u64, 0u64);
                for (to, segment) in self.segments.iter().enumerate().skip(from) {
                    parameters += segment.parameters;
                    gradients += segment.gradients;
                    floor = floor.max(segment.floor);
                    let fixed = parameters + gradients + (gradients as f64 * self.state) as u64;
                    if fixed + floor > place.memory {
                        break;
                    }
                    let returned = self.returned.get(to).copied().unwrap_or(0);
                    let waiting = place.queues.0 * self.received[from] + place.queues.1 * returned;
                    let stays = saved.as_mut().filter(|_| !place.offloads);
                    let each = stays.map_or(0, |saved| saved.least(from, to + 1));
                    let others = place.in_flight.saturating_sub(1).saturating_mul(each);
                    let needs = (fixed + waiting + floor.max(each + returned)).saturating_add(others);
                    let Some(spare) = place.memory.checked_sub(needs) else { continue };
                    if without(k, from, to + 1) {
                        continue;
                    }
                    let spare = spare.min(before);
                    if best[k + 1][to + 1].is_none_or(|(known, _)| known < spare) {
                        best[k + 1][to + 1] = Some((spare, from));
                    }
                }
            }
        }
        let mut ends = Vec::with_capacity(places.len());
        let mut at = n;
        for k in (1..=places.len()).rev() {
            ends.push(at);
            at = best[k][at]?.1;
        }
        ends.reverse();
        ends.pop();
        Some(ends)
    }

    /// The time of the forward and backward of each segment.
    pub fn times(&self) -> Vec<u64> {
        self.segments.iter().map(|segment| segment.time).collect()
    }
}

impl Load {
    /// A chunk on a device that has `chunks` of them, with `in_flight` microbatches of all of them together.
    pub fn new(place: &TopologyDevice, chunks: u64, in_flight: u64, again: Again) -> Self {
        // As if all chunks of the device were alike.
        let each = in_flight.div_ceil(chunks.max(1)).max(1);
        Self { memory: place.memory.get() / chunks.max(1), speed: place.speed, in_flight: each, again }
    }
}

/// Segments cut into `loads.len()` stages so that `steps - 1` times the longest and all together are least, as far as
/// estimates go: the last segment of each stage but the last. Several, for different longest stages; the best first.
pub(super) fn partitions(estimate: &Estimate, loads: &[Load], steps: u64, most: usize) -> Vec<Vec<usize>> {
    let (n, stages) = (estimate.segments(), loads.len());
    if stages > n {
        return Vec::new();
    }
    // By stage and first segment; equal loads share.
    let mut tables: Vec<(Load, Vec<Vec<Option<u64>>>)> = Vec::new();
    let mut table_of = Vec::with_capacity(stages);
    for load in loads {
        let at = tables.iter().position(|(known, _)| known == load).unwrap_or_else(|| {
            tables.push((*load, (0..n).map(|from| estimate.from(from, *load)).collect()));
            tables.len() - 1
        });
        table_of.push(at);
    }
    let all: u64 = estimate.times().iter().sum();
    let least = all / stages as u64;
    let mut found: Vec<(u128, Vec<usize>)> = Vec::new();
    for step in 0..24u32 {
        // From what an even share takes to four times that.
        let longest = (least as f64 * 4f64.powf(f64::from(step) / 23.0)) as u64;
        // least[k][j]: time of the first k stages if they end before segment j; and where the last of them begins.
        let mut least: Vec<Vec<Option<(u64, usize)>>> = vec![vec![None; n + 1]; stages + 1];
        least[0][0] = Some((0, 0));
        for k in 0..stages {
            let table = &tables[table_of[k]].1;
            for i in k..n {
                let Some((before, _)) = least[k][i] else { continue };
                for (more, time) in table[i].iter().enumerate() {
                    let (j, Some(time)) = (i + 1 + more, *time) else { continue };
                    if time > longest || n - j < stages - k - 1 {
                        break;
                    }
                    let sum = before.saturating_add(time);
                    if least[k + 1][j].is_none_or(|(known, _)| sum < known) {
                        least[k + 1][j] = Some((sum, i));
                    }
                }
            }
        }
        let Some((sum, _)) = least[stages][n] else { continue };
        let mut ends = Vec::with_capacity(stages);
        let mut j = n;
        for k in (1..=stages).rev() {
            let Some((_, i)) = least[k][j] else { break };
            ends.push(j);
            j = i;
        }
        ends.reverse();
        ends.pop();
        let mut worst = 0;
        let mut i = 0;
        for (k, &j) in ends.iter().chain(std::iter::once(&n)).enumerate() {
            worst = worst.max(tables[table_of[k]].1[i][j - i - 1].unwrap_or(u64::MAX));
            i = j;
        }
        let cost = u128::from(worst) * u128::from(steps.saturating_sub(1)) + u128::from(sum);
        if !found.iter().any(|(_, known)| *known == ends) {
            found.push((cost, ends));
        }
    }
    found.sort();
    found.truncate(most);
    found.into_iter().map(|(_, ends)| ends).collect()
}
