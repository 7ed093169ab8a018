//! Copies to the host and back, put into the steps of any order.
//!
//! ```text
//! compute  |make v|-use-|........|peak|.........|use v|
//! D2H             |---copy v---|
//! device   ====================|                |=====
//! H2D                                  |-copy v-|
//! ```
//!
//! A *gap* is a stretch in which a value lives untouched; a life has as many as it has pairs of
//! neighbouring uses. The offload stands right after v is made (or was used after it came back from
//! an earlier gap); the drop where the copy will have ended; the prefetch as late as the copies
//! back, taken from the last use to the first, still arrive in time. Gaps are picked for the
//! present peak, longest first (vDNN, Rhu et al., 2016, picks by layer; here everything competes).
//! Where the link is too slow for that, the drop is moved before the peak and the prefetch after
//! it, and the compute lane waits. The simulator is the judge.

use super::frame::Frame;
use crate::cost::Problem;
use crate::entity::{Entity, OpId, ValueId};
use crate::error::Result;
use crate::plan::{Lane, Step, Timeline, simulate};
use crate::units::{Bytes, Nanos};

/// More rounds than this do not pay.
const ROUNDS: usize = 1500;
/// Simulations that placing the copies of an order usually takes.
const USUAL: u64 = 40;
/// Gaps looked at for one peak.
const WIDTH: usize = 24;

/// Steps and what they come to.
pub(super) type Judged = (Vec<Step>, Timeline);

/// Whether the device can offload at all.
pub(super) fn possible(problem: &Problem) -> bool {
    let device = &problem.device;
    device.d2h_bytes_per_s > 0 && device.h2d_bytes_per_s > 0 && device.host_memory > Bytes::ZERO
}

/// When to stop: at the time limit, or when the work allowed is done.
#[derive(Clone, Copy)]
pub(super) struct Effort<'a> {
    late: &'a (dyn Fn() -> bool + Sync),
    /// Steps that may still be simulated.
    left: u64,
}

impl<'a> Effort<'a> {
    /// `most` steps, or what placing the copies of as many orders as the options allow nodes takes
    /// if that is less.
    pub fn new(frame: &Frame, most: u64, late: &'a (dyn Fn() -> bool + Sync)) -> Self {
        let node = frame.model.units.len() as u64 * USUAL;
        let nodes = frame.options.node_limit.map(|nodes| nodes.saturating_mul(node));
        Self { late, left: nodes.map_or(most, |nodes| nodes.min(most)) }
    }

    pub fn part(&self, parts: usize) -> Self {
        Self { left: self.left / parts.max(1) as u64, ..*self }
    }

    pub fn at_most(&self, most: u64) -> Self {
        Self { left: self.left.min(most), ..*self }
    }

    pub fn spend(&mut self, steps: u64) {
        self.left = self.left.saturating_sub(steps);
    }

    /// What this effort has more left than `later`, which began as a copy of it.
    pub fn spent(&self, later: &Self) -> u64 {
        self.left - later.left
    }

    pub fn over(&self) -> bool {
        self.left == 0 || (self.late)()
    }
}

/// A gap by what is the same in similar orders: the value, the op that ends it, and how often that
/// ran before.
pub(super) type Name = (ValueId, OpId, u32);

/// A stretch of steps in which a value is all that lives of its storage, and is not touched.
pub(super) struct Gap {
    pub value: ValueId,
    pub bytes: u64,
    pub name: Name,
    /// The step that made the value.
    pub made: usize,
    /// The last step that touched the storage, and the next one.
    pub from: usize,
    pub to: usize,
    /// The value goes to the host here.
    pub chosen: bool,
    /// It may not be chosen unless it is.
    pub barred: bool,
    /// The gap before this one in the same life.
    before: Option<usize>,
    /// The drop stands before this step at the latest, the prefetch before that at the earliest.
    out_by: usize,
    not_before: usize,
    /// Where offload, drop and prefetch stand: before these steps.
    copy: usize,
    out: usize,
    back: usize,
}

impl Gap {
    /// Whether the value is on the host alone at a step.
    fn away(&self, at: usize) -> bool {
        self.chosen && self.out <= at && at < self.back
    }

    fn spans(&self, at: usize) -> bool {
        self.from < at && at < self.to
    }
}

/// The copies of a list of steps that has none yet.
pub(super) struct Copies<'a> {
    problem: &'a Problem,
    base: &'a [Step],
    /// When each step starts and ends; those that take no time at the next one's start.
    starts: Vec<u64>,
    ends: Vec<u64>,
    pub gaps: Vec<Gap>,
    /// Slower plans are not looked for.
    pub slowest: Nanos,
}

impl<'a> Copies<'a> {
    /// `timeline` is what the steps come to.
    pub fn new(problem: &'a Problem, base: &'a [Step], timeline: &Timeline) -> Self {
        let origin: Vec<usize> = (0..base.len()).collect();
        let (gaps, slowest) = (gaps(problem, base), Nanos(u64::MAX));
        let mut copies = Self { problem, base, starts: Vec::new(), ends: Vec::new(), gaps, slowest };
        copies.time(timeline, &origin);
        copies
    }

    /// The gaps in which a value goes to the host.
    pub fn chosen(&self) -> Vec<Name> {
        let mut names: Vec<Name> = self.gaps.iter().filter(|gap| gap.chosen).map(|gap| gap.name).collect();
        names.sort_unstable();
        names
    }

    /// Steps that fit the budget and the host, with the gaps chosen already and, where they are not
    /// enough, others that are not barred. `None` when that fails.
    pub fn fit(&mut self, budget: Bytes, effort: &mut Effort) -> Result<Option<Judged>> {
        let Some(mut best) = self.search(budget, effort)? else { return Ok(None) };
        // Waits make steps later than was thought, and copies end before earlier ones.
        for _ in 0..4 {
            if effort.over() {
                break;
            }
            let (steps, origin) = self.build();
            debug_assert!(steps == best.0);
            self.time(&best.1, &origin);
            self.gaps.iter_mut().for_each(|gap| (gap.out_by, gap.not_before) = (usize::MAX, 0));
            match self.search(budget, effort)? {
                Some(found) if found.1.time < best.1.time => best = found,
                _ => break,
            }
        }
        Ok(Some(best))
    }

    fn search(&mut self, budget: Bytes, effort: &mut Effort) -> Result<Option<Judged>> {
        for _ in 0..ROUNDS {
            if effort.over() {
                return Ok(None);
            }
            self.place();
            let (steps, origin) = self.build();
            let timeline = simulate(self.problem, &steps)?;
            effort.spend(steps.len() as u64);
            if timeline.time > self.slowest {
                return Ok(None);
            }
            let fits = timeline.host_peak <= self.problem.device.host_memory;
            if timeline.peak <= budget {
                return Ok(fits.then_some((steps, timeline)));
            }
            // Before the first step, or at a prefetch: what matters is the step it stands before.
            let at = origin[timeline.peak_step];
            let excess = timeline.peak.get() - budget.get();
            if !self.more(at, excess) && !self.wait(at, excess) {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Choose a gap that frees bytes at a step without making anything wait.
    fn more(&mut self, at: usize, excess: u64) -> bool {
        let gaps = &self.gaps;
        let mut open: Vec<usize> =
            (0..gaps.len()).filter(|&g| !gaps[g].chosen && !gaps[g].barred && gaps[g].spans(at)).collect();
        let long =
            |gap: &Gap| u128::from(self.starts[gap.to] - self.ends[gap.from]) * u128::from(gap.bytes.min(excess));
        open.sort_by_key(|&g| (std::cmp::Reverse(long(&gaps[g])), g));
        for &g in open.iter().take(WIDTH) {
            self.gaps[g].chosen = true;
            self.place();
            if self.gaps[g].away(at) && self.host_peak() <= self.problem.device.host_memory.get() {
                return true;
            }
            self.gaps[g].chosen = false;
        }
        false
    }

    /// Nothing gets out of the way without waiting: make one wait.
    fn wait(&mut self, at: usize, excess: u64) -> bool {
        let cost = |gap: &Gap| at.saturating_sub(gap.from).min(gap.to - at);
        let mut open: Vec<usize> = (0..self.gaps.len())
            .filter(|&g| {
                let gap = &self.gaps[g];
                gap.spans(at) && !gap.away(at) && (gap.chosen || !gap.barred)
            })
            .collect();
        open.sort_by_key(|&g| {
            let gap = &self.gaps[g];
            (std::cmp::Reverse((gap.chosen, cost(gap) as u128 * u128::from(gap.bytes.min(excess)), g)), g)
        });
        for &g in open.iter().take(WIDTH) {
            let gap = &mut self.gaps[g];
            let old = (gap.chosen, gap.out_by, gap.not_before);
            gap.chosen = true;
            gap.out_by = gap.out_by.min(at);
            gap.not_before = gap.not_before.max(at + 1);
            self.place();
            if self.host_peak() <= self.problem.device.host_memory.get() {
                return true;
            }
            let gap = &mut self.gaps[g];
            (gap.chosen, gap.out_by, gap.not_before) = old;
        }
        false
    }

    /// The most bytes on the host at any step.
    fn host_peak(&self) -> u64 {
        let mut change: Vec<(usize, i128)> = Vec::new();
        for gap in self.gaps.iter().filter(|gap| gap.chosen && gap.out < gap.back) {
            change.extend([(gap.copy, i128::from(gap.bytes)), (gap.back, -i128::from(gap.bytes))]);
        }
        // Copies to the host stand before those back.
        change.sort_by_key(|&(at, bytes)| (at, std::cmp::Reverse(bytes)));
        let (mut held, mut most) = (0i128, 0i128);
        for (_, bytes) in change {
            held += bytes;
            most = most.max(held);
        }
        u64::try_from(most).unwrap_or(u64::MAX)
    }

    /// When the base steps run if the steps with copies run like this.
    fn time(&mut self, timeline: &Timeline, origin: &[usize]) {
        let n = self.base.len();
        let (mut starts, mut ends) = (vec![u64::MAX; n], vec![0; n]);
        for span in timeline.spans.iter().filter(|span| span.lane == Lane::Compute) {
            starts[origin[span.step]] = span.start.get();
            ends[origin[span.step]] = span.end.get();
        }
        let mut next = timeline.time.get();
        for i in (0..n).rev() {
            if starts[i] == u64::MAX {
                (starts[i], ends[i]) = (next, next);
            }
            next = starts[i];
        }
        (self.starts, self.ends) = (starts, ends);
    }

    /// Where the copies of the chosen gaps stand.
    fn place(&mut self) {
        let device = &self.problem.device;
        let nanos = |bytes: u64, rate: u64| Bytes(bytes).moved_at(rate).get();
        let mut order: Vec<usize> = (0..self.gaps.len()).filter(|&g| self.gaps[g].chosen).collect();
        for &g in &order {
            let gap = &self.gaps[g];
            // An earlier gap's copy must be back before the next one leaves.
            let mut earlier = gap.before;
            while let Some(b) = earlier.filter(|&b| !self.gaps[b].chosen) {
                earlier = self.gaps[b].before;
            }
            self.gaps[g].copy = earlier.map_or(gap.made, |b| self.gaps[b].to) + 1;
        }
        order.sort_by_key(|&g| (self.gaps[g].copy, self.gaps[g].value));
        let mut free = 0u64;
        for &g in &order {
            let gap = &mut self.gaps[g];
            free = free.max(self.ends[gap.copy - 1]).saturating_add(nanos(gap.bytes, device.d2h_bytes_per_s));
            let ready = self.starts.partition_point(|&start| start < free);
            gap.out = ready.min(gap.out_by).clamp(gap.from + 1, gap.to);
        }
        order.sort_by_key(|&g| (std::cmp::Reverse(self.gaps[g].to), self.gaps[g].value));
        let mut next = u64::MAX;
        for &g in &order {
            let gap = &mut self.gaps[g];
            next = next.min(self.starts[gap.to]).saturating_sub(nanos(gap.bytes, device.h2d_bytes_per_s));
            let latest = self.starts.partition_point(|&start| start <= next).saturating_sub(1);
            gap.back = latest.max(gap.not_before).clamp(gap.out, gap.to);
        }
    }

    /// The steps with the copies of the chosen gaps, and for each the base step it is or stands
    /// before.
    fn build(&self) -> (Vec<Step>, Vec<usize>) {
        let n = self.base.len();
        let mut before: Vec<Vec<(u8, usize, Step)>> = vec![Vec::new(); n + 1];
        for gap in self.gaps.iter().filter(|gap| gap.chosen && gap.out < gap.back) {
            before[gap.copy].push((2, 0, Step::Offload(gap.value)));
            before[gap.out].push((3, 0, Step::Drop(gap.value)));
            before[gap.back].push((4, gap.to, Step::Prefetch(gap.value)));
        }
        let (mut steps, mut origin) = (Vec::with_capacity(n * 2), Vec::with_capacity(n * 2));
        for (i, step) in self.base.iter().map(Some).chain([None]).enumerate() {
            before[i].sort_by_key(|&(kind, to, _)| (kind, to));
            let copies = before[i].drain(..).map(|(.., step)| step);
            for step in copies.chain(step.cloned()) {
                steps.push(step);
                origin.push(i.min(n.saturating_sub(1)));
            }
        }
        (steps, origin)
    }
}

/// Every gap, by value and in the order of the steps.
fn gaps(problem: &Problem, steps: &[Step]) -> Vec<Gap> {
    let graph = &problem.graph;
    let mut live: Vec<Vec<ValueId>> = vec![Vec::new(); graph.storages().len()];
    let mut last = vec![0usize; graph.storages().len()];
    let mut made = vec![0usize; graph.values().len()];
    let mut ran = vec![0u32; graph.ops().len()];
    let mut all: Vec<Gap> = Vec::new();
    let mut latest: Vec<Option<usize>> = vec![None; graph.values().len()];
    let place = |v: ValueId| graph.values()[v].storage.index();
    for (i, step) in steps.iter().enumerate() {
        match step {
            Step::Compute { op: id, inplace } => {
                let op = &graph.ops()[*id];
                for &v in &op.inputs {
                    let (s, value) = (place(v), &graph.values()[v]);
                    let storage = &graph.storages()[value.storage];
                    let whole = !storage.resident && value.bytes == storage.bytes && value.bytes > Bytes::ZERO;
                    let (from, made) = (last[s], made[v.index()]);
                    // An op may read a value twice: its gap is listed once.
                    let known = latest[v.index()].is_some_and(|g| all[g].to == i);
                    if whole && live[s] == [v] && from + 1 < i && !known {
                        all.push(Gap {
                            value: v,
                            bytes: value.bytes.get(),
                            name: (v, *id, ran[id.index()]),
                            made,
                            from,
                            to: i,
                            chosen: false,
                            barred: false,
                            before: latest[v.index()].filter(|&g| all[g].made == made),
                            out_by: usize::MAX,
                            not_before: 0,
                            copy: 0,
                            out: 0,
                            back: 0,
                        });
                        latest[v.index()] = Some(all.len() - 1);
                    }
                }
                ran[id.index()] += 1;
                for &v in op.inputs.iter().chain(&op.outputs) {
                    last[place(v)] = i;
                }
                for &(a, _) in inplace {
                    live[place(op.inputs[a])].retain(|&v| v != op.inputs[a]);
                }
                for &v in &op.outputs {
                    live[place(v)].push(v);
                    made[v.index()] = i;
                }
            }
            Step::Drop(v) => {
                live[place(*v)].retain(|u| u != v);
                last[place(*v)] = i;
            }
            Step::Offload(_) | Step::Prefetch(_) => {}
        }
    }
    all
}
