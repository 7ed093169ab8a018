//! Recomputation and offload of a chain of stages in one table.
//!
//! Beaumont, Eyraud-Dubois, Shilova, "Efficient combination of rematerialization and offloading for
//! training DNNs" (NeurIPS 2021), the solver "POFO". On the way forward each stage is either run
//! saving all its backward needs, or starts a segment of which the input alone is kept, to be run
//! again by [`rotor`](super::rotor)'s table when its turn comes. What is kept stays on the device
//! or goes to the host.
//!
//! The state is Rotor's and two numbers more. `Opt[i][m][o][p]` is the least time of stages i.. from
//! the forward of i to the end of its backward, with m slots beside the input of i, where
//!
//! - `o` slots are bytes of earlier stages that wait to be written out when the forward of i begins,
//! - `p` slots are bytes of earlier stages that are back already when the backward of i ends: what
//!   the link could not read any later.
//!
//! ```text
//! forward   | 0 | 1 | 2 | .idle. | 3 |
//! D2H           |---- 0 ----|---- 1 ----|      both lanes are the same seen from the turn:
//! H2D                      |---- 1 ----|---- 0 ----|     each drains as time passes
//! backward                                | 3 | 2 | 1 | .idle. | 0 |
//! ```
//!
//! With cw, cbw, ftmp and btmp as in Rotor, rest = cbw less the stage's output, and d(t), u(t) the
//! slots the link to the host and back moves in time t, `Opt[i][m][o][p]` is the least of
//!
//! ```text
//! wait      one slot's time + Opt[i][m][o-1][p]  or  + Opt[i][m][o][p-1]
//! save i    fw[i] + Opt[i+1][m - cbw[i] + x + y][(o + y - d(fw[i]))+ + x][(p - u(bw[i]))+ + x + y]
//!           where m >= o + cw[i] + cbw[i] + ftmp[i]  and  m >= p + cw[i] + cbw[i] + btmp[i];
//!           x in {0, rest[i]}, y in {0, cw[i]}: what goes to the host of what it saves, its input
//! segment   fw[i..j] + Rotor[m - p][i][j-1]
//!           + Opt[j][m - cw[j] + y][(o + y - d(fw[i..j]))+][(p - u(all its time on the way back))+ + y]
//!           where the forward without saving fits beside what still waits, for j in i+1..L
//! i = L     the time to write the o - p slots that neither are out nor must be there at once
//! ```
//!
//! It takes chains alone, as Rotor does. Without links it gives what Rotor gives; with links
//! Rotor's plans are among its own, so it is never slower. The table is optimal within what it is
//! told: stages, sizes in slots, links that move bytes rather than tensors, offload on the first
//! way forward only. So each schedule is turned into an order whose chosen tensors are copied (the
//! placing is that of [`offload`](super::offload)), simulated, and the fastest that fits the device
//! and the host is taken; no plan is reported as optimal on the table's account.

use rayon::prelude::*;

use super::family::{boundary, fastest, last_reads, settle};
use super::frame::Frame;
use super::model::{Model, NONE};
use super::offload::{Copies, Effort, Judged, Name, possible};
use super::rotor::{self, Link, NEVER, links, top};
use super::segments::no_boundary;
use super::sim::Sim;
use super::stages::{Chain, MOST, Run};
use super::{Options, Outcome, Solver};
use crate::cost::Problem;
use crate::entity::Entity;
use crate::error::{Error, Result};
use crate::plan::Step;
use crate::units::Bytes;

/// Memory levels of the table; it has their cube of cells per stage.
const SLOTS: usize = 72;
/// Stages of the chain: the state is too large for more.
const STAGES: usize = 14;
/// Steps simulated at most.
const WORK: u64 = 20_000_000;

/// See the module's description.
pub(super) struct Pofo;

impl Solver for Pofo {
    fn name(&self) -> &'static str {
        "pofo"
    }
    fn about(&self) -> &'static str {
        "recomputation and offload of a chain in one table (Beaumont et al. 2021); chains only; without links as rotor"
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        settle(self.name(), problem, budget, options, |frame| {
            let n = boundary(&frame.model).ok_or_else(|| no_boundary(self.name()))?;
            let chain =
                Chain::find(&frame.model, n, MOST).map_err(|why| Error::Unsupported { solver: self.name(), why })?;
            let without = fastest(frame, rotor::orders(&frame.model, &chain))?;
            if !possible(problem) {
                return Ok(without);
            }
            let least = match &without {
                Outcome::Optimal(_) => return Ok(without),
                Outcome::Feasible { plan, .. } => plan.predicted.time.get(),
                Outcome::Infeasible { .. } | Outcome::Unknown { .. } => NEVER,
            };
            let found = candidates(frame)?.into_iter().map(|c| c.judged).min_by_key(|(_, timeline)| timeline.time);
            Ok(match found {
                Some((steps, timeline)) if timeline.time.get() < least => frame.outcome(steps, &timeline),
                _ => without,
            })
        })
    }
}

/// An order with copies that fits.
#[derive(Clone)]
pub(super) struct Candidate {
    pub order: Vec<u32>,
    pub judged: Judged,
    /// The gaps in which values go to the host.
    pub chosen: Vec<Name>,
}

/// Every schedule of the table that fits, for every number of slots; none where the graph is no
/// chain.
pub(super) fn candidates(frame: &Frame) -> Result<Vec<Candidate>> {
    let model = &frame.model;
    let Some(n) = boundary(model) else { return Ok(Vec::new()) };
    let Ok(chain) = Chain::find(model, n, STAGES) else { return Ok(Vec::new()) };
    let slot = top(&chain.stages).div_ceil(SLOTS as u64).max(1);
    let backward: Vec<u64> =
        chain.stages.iter().map(|s| model.units[s.backward.clone()].iter().map(|u| u.time).sum()).collect();
    let device = &frame.problem.device;
    let ways = [device.d2h_bytes_per_s, device.h2d_bytes_per_s].map(|rate| Way { rate, slot });
    let links = links(&chain.stages, slot);
    let late = || frame.limits.late();
    let Some(table) = Table::new(&links, &backward, ways, SLOTS, &late) else { return Ok(Vec::new()) };
    let mut schedules: Vec<Schedule> = Vec::new();
    for slots in 0..=SLOTS {
        if let Some(schedule) = table.schedule(slots)
            && !schedules.contains(&schedule)
        {
            schedules.push(schedule);
        }
    }
    let share = Effort::new(frame, WORK, &late).part(schedules.len());
    let found: Vec<Result<Option<Candidate>>> =
        schedules.into_par_iter().map(|schedule| realize(frame, &chain, &schedule, share)).collect();
    found.into_iter().filter_map(Result::transpose).collect()
}

/// The order of a schedule, with copies of what it sends to the host.
fn realize(frame: &Frame, chain: &Chain, schedule: &Schedule, mut effort: Effort) -> Result<Option<Candidate>> {
    let model = &frame.model;
    let mut order = chain.order(model, &schedule.runs);
    Sim::default().prune(model, &mut order);
    let (base, timeline) = frame.steps(&order)?;
    let mut copies = Copies::new(frame.problem, &base, &timeline);
    let graph = &frame.problem.graph;
    let first = model.units[chain.boundary].op;
    let turn = base.iter().position(|step| matches!(step, Step::Compute { op, .. } if Some(*op) == first));
    let turn = turn.unwrap_or(base.len());
    let last = last_reads(model, chain.boundary);
    let item_of = items(model, graph);
    for gap in &mut copies.gaps {
        let item = item_of[graph.values()[gap.value].storage.index()];
        let across = gap.from < turn && gap.to >= turn;
        gap.chosen = across && item != NONE && schedule.sends(chain, model, item, last[item as usize]);
        gap.barred = !gap.chosen;
    }
    Ok(copies.fit(frame.budget, &mut effort)?.map(|judged| Candidate { order, judged, chosen: copies.chosen() }))
}

/// The item of each storage.
fn items(model: &Model, graph: &crate::graph::Graph) -> Vec<u32> {
    // Items stand in the order of the storages that are not resident.
    let mut next = 0;
    let number = graph.storages().values().map(|storage| match storage.resident {
        true => NONE,
        false => {
            next += 1;
            next - 1
        }
    });
    let items: Vec<u32> = number.collect();
    debug_assert_eq!(next as usize, model.items.len());
    items
}

/// A direction of the link.
#[derive(Clone, Copy, Debug)]
struct Way {
    rate: u64,
    /// Bytes of a slot.
    slot: u64,
}

impl Way {
    /// Whole slots moved in a time.
    fn slots(self, time: u64) -> usize {
        let slots = u128::from(time) * u128::from(self.rate) / (u128::from(self.slot) * 1_000_000_000);
        usize::try_from(slots).unwrap_or(usize::MAX / 8)
    }

    /// The time to move slots.
    fn time(self, slots: usize) -> u64 {
        let nanos = (slots as u128 * u128::from(self.slot) * 1_000_000_000).div_ceil(u128::from(self.rate.max(1)));
        u64::try_from(nanos).unwrap_or(NEVER - 1)
    }
}

/// What the table chose for a state.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// Until a slot more is written, or read.
    WaitOut,
    WaitBack,
    Save {
        way: usize,
        rest: bool,
        input: bool,
    },
    Segment {
        to: usize,
        input: bool,
    },
    End,
}

/// What a choice leads to: time, and the state of the stages after it.
type Next = (u64, Choice, (usize, usize, usize, usize));

struct Table<'a> {
    links: &'a [Link],
    rotor: rotor::Table,
    /// Time of the forwards and backwards before each stage.
    forward: Vec<u64>,
    backward: Vec<u64>,
    ways: [Way; 2],
    slots: usize,
    /// Opt without the times every schedule pays, for each stage and m; within by o, then p.
    best: Vec<Vec<Vec<u64>>>,
}

impl<'a> Table<'a> {
    fn new(
        links: &'a [Link],
        backward: &[u64],
        ways: [Way; 2],
        slots: usize,
        late: &(dyn Fn() -> bool + Sync),
    ) -> Option<Self> {
        let sums = |times: &mut dyn Iterator<Item = u64>| {
            let mut sum = 0u64;
            std::iter::once(0)
                .chain(times.map(|t| {
                    sum = sum.saturating_add(t);
                    sum
                }))
                .collect::<Vec<u64>>()
        };
        let rotor = rotor::Table::new(links, slots);
        let mut table = Self {
            links,
            rotor,
            forward: sums(&mut links.iter().map(|l| l.time)),
            backward: sums(&mut backward.iter().copied()),
            ways,
            slots,
            best: vec![Vec::new(); links.len() + 1],
        };
        for i in (0..=links.len()).rev() {
            let of_stage: Vec<Vec<u64>> = (0..=slots).into_par_iter().map(|m| table.cells(i, m, late)).collect();
            table.best[i] = of_stage;
            if late() {
                return None;
            }
        }
        Some(table)
    }

    /// All o and p for a stage and m. More than m slots cannot be there.
    fn cells(&self, i: usize, m: usize, late: &(dyn Fn() -> bool + Sync)) -> Vec<u64> {
        let mut cells = vec![NEVER; (m + 1) * (m + 1)];
        if late() {
            return cells;
        }
        for o in 0..=m {
            for p in 0..=m {
                let mut least = self.step(i, m, o, p).map_or(NEVER, |next| next.0);
                if o > 0 {
                    least = least.min(cells[(o - 1) * (m + 1) + p].saturating_add(self.ways[0].time(1)));
                }
                if p > 0 {
                    least = least.min(cells[o * (m + 1) + p - 1].saturating_add(self.ways[1].time(1)));
                }
                cells[o * (m + 1) + p] = least;
            }
        }
        cells
    }

    fn at(&self, i: usize, m: usize, o: usize, p: usize) -> u64 {
        let m = m.min(self.slots);
        match o <= m && p <= m {
            true => self.best[i][m][o * (m + 1) + p],
            false => NEVER,
        }
    }

    /// Slots moved while the stages from..to run forward, or their saved backward runs: what the
    /// sums give, so that a part of a slot here and there is not lost.
    fn moved(&self, way: usize, from: usize, to: usize) -> usize {
        let sums = [&self.forward, &self.backward][way];
        self.ways[way].slots(sums[to]) - self.ways[way].slots(sums[from])
    }

    /// The best that can be done at once, without waiting.
    fn step(&self, i: usize, m: usize, o: usize, p: usize) -> Option<Next> {
        let mut best: Option<Next> = None;
        let mut consider = |time: u64, choice: Choice, state: (usize, usize, usize, usize)| {
            if time != NEVER && best.is_none_or(|(least, ..)| time < least) {
                best = Some((time, choice, state));
            }
        };
        let Some(link) = self.links.get(i) else {
            consider(self.ways[0].time(o.saturating_sub(p)), Choice::End, (i, m, o, p));
            return best;
        };
        for (way, &(saved, backward_tmp, time)) in link.ways.iter().enumerate() {
            let needs = link.input + saved;
            if m < o + needs + link.forward_tmp || m < p + needs + backward_tmp {
                continue;
            }
            let output = self.links.get(i + 1).map_or(0, |l| l.input);
            let (all, out) = (saved.saturating_sub(output), self.moved(0, i, i + 1));
            let back = self.moved(1, i, i + 1) + self.ways[1].slots(time);
            for (rest, input) in [(false, false), (true, false), (false, true), (true, true)] {
                if rest && all == 0 || input && link.input == 0 {
                    continue;
                }
                let (x, y) = (if rest { all } else { 0 }, if input { link.input } else { 0 });
                let state = (i + 1, m - saved + x + y, (o + y).saturating_sub(out) + x, p.saturating_sub(back) + x + y);
                let later = self.at(state.0, state.1, state.2, state.3);
                let whole = later.saturating_add(link.time).saturating_add(time);
                consider(if later == NEVER { NEVER } else { whole }, Choice::Save { way, rest, input }, state);
            }
        }
        if m < p {
            return best;
        }
        for input in [false, true] {
            let y = if input { link.input } else { 0 };
            if input && y == 0 {
                continue;
            }
            for to in i + 1..self.links.len() {
                let k = to - 1;
                // The input of the segment is still read by its first stage.
                let waits = match k == i {
                    true => o + y,
                    false => (o + y).saturating_sub(self.moved(0, i, k)),
                };
                if m + y < waits + self.links[k].input + self.links[to].input + self.links[k].forward_tmp {
                    break;
                }
                let segment = self.rotor.time(m - p, i, k);
                if segment == NEVER || m + y < self.links[to].input {
                    continue;
                }
                let back = self.moved(1, i, to) + self.ways[1].slots(segment);
                let state = (
                    to,
                    m + y - self.links[to].input,
                    (o + y).saturating_sub(self.moved(0, i, to)),
                    p.saturating_sub(back) + y,
                );
                let later = self.at(state.0, state.1, state.2, state.3);
                let forward = self.forward[to] - self.forward[i];
                let whole = later.saturating_add(forward).saturating_add(segment);
                consider(if later == NEVER { NEVER } else { whole }, Choice::Segment { to, input }, state);
            }
        }
        best
    }

    /// The table's choices from the first stage on with this many slots.
    fn schedule(&self, slots: usize) -> Option<Schedule> {
        let mut state = (0, slots, 0, 0);
        let mut schedule = Schedule { runs: Vec::new(), rest: Vec::new(), input: Vec::new() };
        let mut on_the_way_back: Vec<Vec<Run>> = Vec::new();
        loop {
            let (i, m, o, p) = (state.0, state.1.min(self.slots), state.2, state.3);
            let least = self.at(i, m, o, p);
            if least == NEVER {
                return None;
            }
            let next = match self.step(i, m, o, p) {
                Some(next) if next.0 == least => next,
                _ if o > 0 && self.at(i, m, o - 1, p).saturating_add(self.ways[0].time(1)) == least => {
                    (least, Choice::WaitOut, (i, m, o - 1, p))
                }
                _ => (least, Choice::WaitBack, (i, m, o, p.checked_sub(1)?)),
            };
            match next.1 {
                Choice::WaitOut | Choice::WaitBack => {}
                Choice::End => break,
                Choice::Save { way, rest, input } => {
                    schedule.runs.push(Run::Forward(i..i + 1));
                    schedule.rest.extend(rest.then_some(i));
                    schedule.input.extend(input.then_some(i));
                    on_the_way_back.push(vec![Run::Backward(i, way)]);
                }
                Choice::Segment { to, input } => {
                    schedule.runs.push(Run::Forward(i..to));
                    schedule.input.extend(input.then_some(i));
                    let mut again = Vec::new();
                    if !self.rotor.schedule(self.links, m - p, i, to - 1, &mut again) {
                        return None;
                    }
                    on_the_way_back.push(again);
                }
            }
            state = next.2;
        }
        schedule.runs.extend(on_the_way_back.into_iter().rev().flatten());
        Some(schedule)
    }
}

/// Runs of stages, and what goes to the host in between.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Schedule {
    runs: Vec<Run>,
    /// Stages, ascending, of which what is saved goes but for their output.
    rest: Vec<usize>,
    /// Stages of which the input goes.
    input: Vec<usize>,
}

impl Schedule {
    /// Whether an item made forward and read there last at unit `last` goes to the host.
    fn sends(&self, chain: &Chain, model: &Model, item: u32, last: usize) -> bool {
        let maker = model.items[item as usize].maker as usize;
        if maker >= chain.boundary {
            return false;
        }
        let stage = chain.stages.partition_point(|s| s.forward.end <= maker);
        match last >= chain.stages[stage].forward.end {
            // It crosses into later stages: it goes with the first of them.
            true => self.input.contains(&(stage + 1)),
            false => self.rest.contains(&stage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rng::Rng;
    use super::*;

    /// What is done with the next stages on the way forward.
    #[derive(Clone, Copy, Debug)]
    enum Act {
        Save { rest: bool, input: bool },
        Segment { to: usize, input: bool },
    }

    /// Every way to treat a chain from stage i on, ends with a saved stage.
    fn all_acts(n: usize, i: usize, acts: &mut Vec<Act>, judge: &mut dyn FnMut(&[Act])) {
        if i == n {
            return judge(acts);
        }
        for input in [false, true] {
            for rest in [false, true] {
                acts.push(Act::Save { rest, input });
                all_acts(n, i + 1, acts, judge);
                acts.pop();
            }
            for to in i + 1..n {
                acts.push(Act::Segment { to, input });
                all_acts(n, to, acts, judge);
                acts.pop();
            }
        }
    }

    /// A chain of stages in slots, and links that move a slot in so many time units.
    struct Case {
        links: Vec<Link>,
        backward: Vec<u64>,
        slot_time: [u64; 2],
        /// Slots there are in all.
        most: i64,
    }

    impl Case {
        /// Rotor's recurrences, plainly.
        fn rotor(&self, m: i64, a: usize, b: usize) -> Option<u64> {
            let l = &self.links;
            let (saved, backward_tmp, _) = l[a].ways[0];
            let fits = m >= (l[a].input + saved + l[a].forward_tmp.max(backward_tmp)) as i64;
            let rest = if a == b { Some(0) } else { self.rotor_if(fits, m - saved as i64, a + 1, b) };
            let mut best = rest.filter(|_| fits).map(|t| t + l[a].time);
            for j in a + 1..=b {
                let forward = (a..j).all(|k| m >= (l[k].input + l[k + 1].input + l[k].forward_tmp) as i64);
                let later = self.rotor_if(forward, m - l[j].input as i64, j, b);
                let earlier = self.rotor_if(forward, m, a, j - 1);
                let whole = later.zip(earlier).map(|(x, y)| x + y + l[a..j].iter().map(|l| l.time).sum::<u64>());
                best = [best, whole].into_iter().flatten().min();
            }
            best
        }

        fn rotor_if(&self, ask: bool, m: i64, a: usize, b: usize) -> Option<u64> {
            if ask && m >= 0 { self.rotor(m, a, b) } else { None }
        }

        /// Whole slots a link moves while stages from..to run.
        fn moved(&self, times: &[u64], way: usize, from: usize, to: usize) -> i64 {
            let until = |i: usize| times[..i].iter().sum::<u64>() / self.slot_time[way];
            (until(to) - until(from)) as i64
        }

        /// The least time of such a list from stage i on with `m` slots, `out` on its way to the host
        /// and `back` there again already, as seen from the ends. It waits as late as possible, and
        /// before what runs again any number of slots.
        fn time(&self, acts: &[Act], i: usize, m: i64, out: i64, back: i64) -> Option<u64> {
            let l = &self.links;
            let forward: Vec<u64> = l.iter().map(|l| l.time).collect();
            // What lies on the device fits.
            if m < out.max(back) {
                return None;
            }
            let Some((act, acts)) = acts.split_first() else {
                return Some((out - back).max(0) as u64 * self.slot_time[0]);
            };
            let input = l[i].input as i64;
            match *act {
                Act::Save { rest, input: sends } => {
                    let (saved, backward_tmp, _) = l[i].ways[0];
                    let [free, free_back] =
                        [l[i].forward_tmp, backward_tmp].map(|tmp| m - input - saved as i64 - tmp as i64);
                    if free < 0 || free_back < 0 {
                        return None;
                    }
                    let waits = (out - free).max(0) as u64 * self.slot_time[0]
                        + (back - free_back).max(0) as u64 * self.slot_time[1];
                    let all = saved as i64 - l.get(i + 1).map_or(0, |l| l.input as i64);
                    let (x, y) = (if rest { all } else { 0 }, if sends { input } else { 0 });
                    let out = (out.min(free) + y - self.moved(&forward, 0, i, i + 1)).max(0) + x;
                    let back = (back.min(free_back) - self.moved(&self.backward, 1, i, i + 1)).max(0) + x + y;
                    let m = (m + x + y - saved as i64).min(self.most);
                    self.time(acts, i + 1, m, out, back).map(|t| t + waits + l[i].time)
                }
                Act::Segment { to, input: sends } => {
                    let y = if sends { input } else { 0 };
                    // The least wait before the forward after which every stage of it fits.
                    let fits = |out: i64| {
                        (i..to).all(|k| {
                            let drained = self.moved(&forward, 0, i, k);
                            let there = if k == i { out + y } else { (out + y - drained).max(0) };
                            m + y - there >= (l[k].input + l[k + 1].input + l[k].forward_tmp) as i64
                        })
                    };
                    let after = (0..=out).rev().find(|&o| fits(o))?;
                    let waits = (out - after) as u64 * self.slot_time[0];
                    let out = (after + y - self.moved(&forward, 0, i, to)).max(0);
                    let with = |wait: i64| {
                        let back = back - wait;
                        let again = self.rotor_if(true, m - back, i, to - 1)?;
                        let moved = self.moved(&self.backward, 1, i, to) + (again / self.slot_time[1]) as i64;
                        let (m, back) = ((m + y - l[to].input as i64).min(self.most), (back - moved).max(0) + y);
                        let later = self.time(acts, to, m, out, back)?;
                        Some(later + again + wait as u64 * self.slot_time[1])
                    };
                    let least = (0..=back).filter_map(with).min()?;
                    Some(least + waits + forward[i..to].iter().sum::<u64>())
                }
            }
        }
    }

    /// A random chain of `n` stages.
    fn links(rng: &mut Rng, n: usize) -> Vec<Link> {
        let mut roll = |low: usize, high: usize| low + rng.below(high - low);
        let inputs: Vec<usize> = (0..n).map(|i| if i == 0 { 0 } else { roll(1, 4) }).collect();
        (0..n)
            .map(|i| Link {
                time: roll(1, 30) as u64,
                input: inputs[i],
                forward_tmp: roll(0, 2),
                ways: vec![(inputs.get(i + 1).copied().unwrap_or(0) + roll(0, 5), roll(0, 3), 0)],
            })
            .collect()
    }

    #[test]
    fn the_table_is_the_best_of_its_class() {
        let mut rng = Rng::new(11);
        let (mut finite, mut sending, mut both, mut faster) = (0, 0, 0, 0);
        for round in 0..160 {
            let n = if round % 8 == 0 { 5 } else { 1 + rng.below(4) };
            let links = links(&mut rng, n);
            let mut roll = |low: usize, high: usize| low + rng.below(high - low);
            let backward: Vec<u64> = (0..n).map(|_| roll(1, 50) as u64).collect();
            let slot_time = [roll(1, 20) as u64, roll(1, 20) as u64];
            let most = 14;
            let case = Case { links: links.clone(), backward: backward.clone(), slot_time, most: most as i64 };
            let ways = slot_time.map(|t| Way { rate: 1_000_000_000, slot: t });
            let table = Table::new(&links, &backward, ways, most, &|| false).unwrap();
            let rotor = rotor::Table::new(&links, most);
            for slots in 0..=most {
                let mut best: Option<u64> = None;
                all_acts(n, 0, &mut Vec::new(), &mut |acts| {
                    best = [best, case.time(acts, 0, slots as i64, 0, 0)].into_iter().flatten().min();
                });
                let ours = table.at(0, slots, 0, 0);
                let ours = (ours != NEVER).then_some(ours);
                assert_eq!(ours, best, "{links:?} {backward:?} {slot_time:?} {slots}");
                let Some(ours) = ours else { continue };
                // The least memory is Rotor's: what runs again from the start on keeps nothing.
                let without = rotor.time(slots, 0, n - 1);
                assert!(ours <= without && without != NEVER);
                let schedule = table.schedule(slots).unwrap();
                let sends = !(schedule.rest.is_empty() && schedule.input.is_empty());
                let forwards = schedule.runs.iter().filter(|run| matches!(run, Run::Forward(_)));
                let again = forwards.map(|run| if let Run::Forward(s) = run { s.len() } else { 0 }).sum::<usize>() > n;
                finite += 1;
                sending += usize::from(sends);
                both += usize::from(sends && again);
                faster += usize::from(ours < without);
            }
        }
        println!("{finite} finite, {sending} send, {both} recompute too, {faster} faster than rotor");
        assert!(finite > 500 && sending > 150 && both > 80 && faster > 100);
    }

    /// Without anything sent, the table is Rotor's.
    #[test]
    fn slow_links_leave_rotor() {
        let mut rng = Rng::new(3);
        for _ in 0..60 {
            let n = 1 + rng.below(6);
            let links = links(&mut rng, n);
            let ways = [Way { rate: 1, slot: 1 << 20 }; 2];
            let table = Table::new(&links, &vec![1; n], ways, 24, &|| false).unwrap();
            let rotor = rotor::Table::new(&links, 24);
            for slots in 0..=24 {
                let (ours, rotors) = (table.at(0, slots, 0, 0), rotor.time(slots, 0, n - 1));
                // A slot takes 2^20 seconds, which no recomputation does.
                assert!(ours == rotors || (rotors == NEVER && ours >= 1 << 50));
            }
        }
    }
}
