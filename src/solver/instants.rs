//! Several instants at once: the strongest lower bound, as an integer program.
//!
//! **Which plans.** All legal plans without offload: any order, any number of repetitions, in place
//! or not.
//!
//! **The chain.** Let each of the units d(1), .., d(k) need the one before. Then their first runs
//! stand in this order in every plan and cut its runs into intervals 0..=k; interval j ends with
//! the first run of d(j+1). What d(j) needs has run by its first run (*before*), what needs d(j)
//! has not (*after*). With variables in {0, 1}
//!
//! ```text
//! keep(j, s)  storage s is live while d(j) runs first, and still right after
//! late(j, u)  unit u runs after that
//! runs(i, u)  unit u runs in interval i
//! ```
//!
//! every plan satisfies, for each unit u that reads a storage s with maker m:
//!
//! ```text
//! late(j, u) = 1                               u after d(j), the end among them
//! late(j, u) <= late(j, m) + keep(j, s)        what is read later was kept or is made later
//! late(j+1, u) <= late(j, u)
//! runs(i, u) <= runs(i, m) + keep(i, s)        the same within an interval
//! keep(j, s) <= keep(j-1, s) + runs(j-1, m)    what is live was live before or was made since
//! late(j, u) <= sum over i >= j of runs(i, u)
//! sum over i of runs(i, u) >= 1                over the intervals in which u's first run can be
//! taken(j, p) + keep(j, s) <= 1               p is a pair of d(j) that takes s over in place
//! sum over p of taken(j, p) <= 1              the pairs that name the same input, or the same output
//! fixed(j) + sum over s of bytes(s) keep(j, s) - sum over p of saves(p) taken(j, p) <= budget - residents
//! ```
//! (see [`Load`](super::load::Load); the unit's own storages are among what is fixed).
//!
//! A plan takes at least `sum time runs`: runs in different intervals are different runs. So the
//! least value of the program bounds every plan, and so does any lower bound on it, such as the
//! one a search has proved when it is stopped. Without `runs`, a unit that d(j) needs costs its
//! time once if `late(j, u)` for any such j: weaker, but a smaller program. With k = 1 that is the
//! closure of [`super::bound`] in integers, which counts much where few ops take most of the time.
//! `late` is not implied by `runs` once fractions are allowed: half a run in each of two intervals
//! would make up for a value that was never kept.
//!
//! With [`Detail::Room`] what needs most room must fit wherever it runs: see `Program::room`.
//!
//! HiGHS computes in floating point. Sizes are rounded down and room up to a grid, and one part in
//! 10^6 of the time of all ops is taken off, which is more than its tolerances add up to.

use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::Options;
use super::auto::{Limits, time_of_all};
use super::bound::Boundary;
use super::load::{Load, Pair, bytes};
use super::milp::{Milp, Term, Verdict};
use super::model::{Item, Model, NONE};

/// Instants solved each by itself, before any together.
const SINGLE: usize = 4;
/// Programs tried in turn after that: instants, how far they are apart, and what they know.
const PROGRAMS: [(usize, Apart, Detail); 6] = [
    (2, Apart::Far, Detail::Once),
    (2, Apart::Far, Detail::Runs),
    // In small graphs the last one knows all of this and more.
    (4, Apart::Near, Detail::Runs),
    (3, Apart::Far, Detail::Runs),
    (4, Apart::Far, Detail::Runs),
    (4, Apart::Near, Detail::Room),
];
/// Units that need most room: their runs are held to the budget in every interval.
const ROOMY: usize = 16;
/// Units and items of a graph for which that is worth the try.
const ROOMY_SIZE: usize = 700;
/// Columns of a program that is worth the try.
const COLUMNS: usize = 40_000;
/// Time before the deadline, for each column of a program, after which it is not begun: what comes before the first node is
/// not interrupted.
const PREPARING: Duration = Duration::from_micros(140);
/// Steps of the grid of sizes.
const GRID: u64 = 1 << 20;
/// Part of the time, where that is the limit.
const SHARE: u32 = 4;
/// Evaluations of the search that stand for one node of a program, under a node limit; smaller
/// limits leave programs out.
const NODES: u64 = 100_000;

/// The least overhead in ns of any plan within `budget`, as far as the limits allow; `enough` is
/// what there is no need to exceed, `ranked` are the instants to choose from.
pub(super) fn prove(
    model: &Model,
    budget: u64,
    enough: u64,
    ranked: &[(u64, u32)],
    options: &Options,
    limits: &Limits,
) -> u64 {
    let nodes = options.node_limit.map(|nodes| nodes / NODES);
    // Without a node limit the proof gets a part of the time.
    let span = match nodes {
        Some(0) => return 0,
        Some(_) => limits.left(),
        None => limits.left().min(options.time_limit / SHARE),
    };
    if span.is_zero() {
        return 0;
    }
    // A limit too far away to be an instant is none.
    let end = Instant::now().checked_add(span);
    let mut best = ranked.first().map_or(0, |first| first.0);
    let size = model.units.len() + model.items.len();
    let program = |chain: &[Boundary], detail: Detail, part: u32| {
        let left = end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
        let fits = match detail {
            Detail::Once => size * chain.len() <= COLUMNS,
            Detail::Runs => size * chain.len() * 2 <= COLUMNS,
            Detail::Room => size <= ROOMY_SIZE,
        };
        // Under a node limit nothing may depend on the clock but the deadline.
        let clocked = nodes.is_none();
        let preparing = PREPARING.saturating_mul(u32::try_from(size * chain.len()).unwrap_or(u32::MAX));
        let late = clocked && limits.left() < preparing;
        let left = if clocked { left / part } else { left };
        if !fits || late || left.is_zero() {
            return 0;
        }
        let program = Program::new(model, chain, budget, detail);
        program.map_or(0, |program| program.solve(&Options { time_limit: left, ..options.clone() }, nodes))
    };
    // In whole numbers another instant may be the strongest.
    let single = &ranked[..ranked.len().min(SINGLE)];
    let alone = |&(value, unit): &(u64, u32)| match value {
        0 => 0,
        _ => program(&[Boundary::during(model, unit as usize)], Detail::Once, 2),
    };
    if best < enough {
        best = single.par_iter().map(alone).max().unwrap_or(0).max(best);
    }
    // Two at a time: HiGHS takes one core.
    for some in PROGRAMS.chunks(2) {
        let late = end.is_some_and(|end| Instant::now() >= end);
        if best >= enough || late {
            break;
        }
        let proved = some.par_iter().map(|&(count, apart, detail)| {
            let chain = chain(model, ranked, count, apart);
            // Shorter programs are tried far apart anyway.
            let least = if apart == Apart::Near { 2 } else { count };
            let known = apart == Apart::Near && detail == Detail::Runs && size <= ROOMY_SIZE;
            if chain.len() < least || known {
                return 0;
            }
            let part = if detail == Detail::Room { 1 } else { 2 };
            program(&chain, detail, part)
        });
        best = best.max(proved.max().unwrap_or(0));
    }
    best
}

/// What a program knows beside what is kept and what is late at each instant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// Repetitions count once.
    Once,
    /// Runs count in each interval.
    Runs,
    /// And what takes most room must fit wherever it runs.
    Room,
}

/// The least distance between the instants of a program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Apart {
    /// What is kept where memory is tightest must also fit right before and right after.
    Near = 160,
    /// What is kept must fit all through the step.
    Far = 18,
}

/// The strongest instants of which each needs the one before, one part in `apart` of the graph between them.
fn chain<'a, 'm>(model: &'a Model<'m>, ranked: &[(u64, u32)], count: usize, apart: Apart) -> Vec<Boundary<'a, 'm>> {
    let apart = (model.units.len() / apart as usize).max(1);
    let mut chain: Vec<Boundary> = Vec::new();
    for &(value, unit) in ranked {
        let unit = unit as usize;
        let fits =
            |c: &Boundary| (c.after[unit] || (c.before[unit] && c.unit != unit)) && c.unit.abs_diff(unit) >= apart;
        if value == 0 || chain.len() == count {
            break;
        }
        if chain.iter().all(fits) {
            chain.push(Boundary::during(model, unit));
        }
    }
    chain.sort_by_key(|c| c.unit);
    chain
}

/// The units that need most room, and their loads.
fn roomy(model: &Model) -> Vec<(usize, Load)> {
    // The end needs none.
    let mut units: Vec<usize> = (0..model.units.len() - 1).collect();
    units.sort_by_key(|&u| (std::cmp::Reverse(model.units[u].footprint), u));
    units.truncate(ROOMY);
    units.into_iter().map(|u| (u, Load::during(model, u))).collect()
}

struct Program<'a, 'm> {
    model: &'a Model<'m>,
    chain: &'a [Boundary<'a, 'm>],
    milp: Milp,
    /// By instant and item.
    keep: Vec<Vec<Term>>,
    /// By instant and unit.
    late: Vec<Vec<Term>>,
    /// By interval and unit; empty if repetitions count once.
    runs: Vec<Vec<Term>>,
    /// Time of all units once.
    total: u64,
    /// Time of the units whose first run the program counts.
    counted: u64,
}

const NO: Term = Term::Known(0.0);
const YES: Term = Term::Known(1.0);

fn is(term: Term, value: f64) -> bool {
    matches!(term, Term::Known(x) if x == value)
}

impl<'a, 'm> Program<'a, 'm> {
    /// `None` if an instant alone exceeds the budget.
    fn new(model: &'a Model<'m>, chain: &'a [Boundary<'a, 'm>], budget: u64, detail: Detail) -> Option<Self> {
        let total = time_of_all(model);
        let (milp, keep, late, runs) = (Milp::default(), Vec::new(), Vec::new(), Vec::new());
        let mut program = Self { model, chain, milp, keep, late, runs, total, counted: 0 };
        program.columns(detail != Detail::Once);
        for j in 0..chain.len() {
            program.later(j);
            program.memory(j, budget)?;
        }
        for i in 0..program.runs.len() {
            program.interval(i);
        }
        if detail == Detail::Room {
            let loads = roomy(model);
            for i in 1..program.runs.len() {
                let through = program.through(i);
                loads.iter().for_each(|(unit, load)| program.room(i, *unit, load, &through, budget));
            }
        }
        Some(program)
    }

    fn cost(&self, unit: usize) -> f64 {
        1000.0 * self.model.units[unit].time as f64 / self.total.max(1) as f64
    }

    fn columns(&mut self, repeats: bool) {
        let (model, chain) = (self.model, self.chain);
        for it in chain {
            let made = |item: &Item| item.maker != NONE && !it.after[item.maker as usize];
            let keep = |(s, item): (usize, &Item)| match (made(item), it.load.is_own(s as u32)) {
                (false, _) => NO,
                // Live in any case.
                (true, true) if !it.load.may_go(s as u32) => YES,
                (true, _) => self.milp.column(true, 0.0),
            };
            self.keep.push(model.items.iter().enumerate().map(keep).collect());
        }
        let mut paid = vec![repeats; model.units.len()];
        for it in chain {
            let mut late = Vec::with_capacity(model.units.len());
            for (u, unit) in model.units.iter().enumerate() {
                late.push(match (it.after[u], it.before[u]) {
                    (true, _) => YES,
                    (_, true) if unit.once => NO,
                    (_, before) => {
                        let cost = if before && !std::mem::replace(&mut paid[u], true) { self.cost(u) } else { 0.0 };
                        self.milp.column(true, cost)
                    }
                });
            }
            self.late.push(late);
        }
        if !repeats {
            return;
        }
        self.runs = vec![vec![NO; model.units.len()]; chain.len() + 1];
        for (u, unit) in model.units.iter().enumerate() {
            let first = chain.iter().take_while(|it| it.after[u]).count();
            let last = chain.iter().position(|it| it.before[u]).unwrap_or(chain.len());
            for i in first..=chain.len() {
                self.runs[i][u] = if i == first && i == last { YES } else { self.milp.column(true, self.cost(u)) };
            }
            if first < last {
                self.counted += unit.time;
                self.milp.at_most((first..=last).map(|i| (-1.0, self.runs[i][u])), -1.0);
            }
            if unit.once {
                self.milp.at_most((first..=chain.len()).map(|i| (1.0, self.runs[i][u])), 1.0);
            }
        }
    }

    /// `what` only if one of `any`.
    fn implies(&mut self, what: Term, any: &[Term]) {
        if !is(what, 0.0) && !any.iter().any(|&t| is(t, 1.0)) {
            self.milp.at_most(std::iter::once((1.0, what)).chain(any.iter().map(|&t| (-1.0, t))), 0.0);
        }
    }

    fn maker(&self, item: u32) -> usize {
        self.model.items[item as usize].maker as usize
    }

    /// What runs after an instant.
    fn later(&mut self, j: usize) {
        let model = self.model;
        for (u, unit) in model.units.iter().enumerate() {
            let what = self.late[j][u];
            for &s in &unit.reads {
                self.implies(what, &[self.late[j][self.maker(s)], self.keep[j][s as usize]]);
            }
            if j > 0 {
                self.implies(what, &[self.late[j - 1][u]]);
            }
            if !self.runs.is_empty() && !is(what, 1.0) {
                let runs: Vec<Term> = self.runs[j + 1..].iter().map(|runs| runs[u]).collect();
                self.implies(what, &runs);
            }
        }
    }

    /// What is live at an instant. `None` if that cannot fit.
    fn memory(&mut self, j: usize, budget: u64) -> Option<()> {
        let it = &self.chain[j];
        let room = budget.checked_sub(self.model.resident)?;
        // Powers of two, so that everything is exact.
        let grain = (room / GRID).max(1).next_power_of_two();
        // Less than that may be left, or nothing, as what is taken over is not live twice.
        let left = room.div_ceil(grain) as f64 - (it.load.fixed / grain) as f64;
        let scale = |x: u64| x as f64 / 1024.0;
        let others = (0..self.model.items.len()).filter(|&s| !it.load.is_own(s as u32));
        let row = others.map(|s| (scale(bytes(self.model, s as u32) / grain), self.keep[j][s]));
        let mut row: Vec<(f64, Term)> = row.filter(|&(factor, term)| factor > 0.0 && !is(term, 0.0)).collect();
        let mut taken: Vec<(Pair, Term)> = Vec::new();
        for &pair in &it.load.pairs {
            let column = self.milp.column(true, 0.0);
            self.milp.at_most([(1.0, column), (1.0, self.keep[j][pair.read as usize])], 1.0);
            // What is saved is rounded up, so that nothing is ruled out.
            row.push((-scale(pair.saves.div_ceil(grain)), column));
            taken.push((pair, column));
        }
        self.once_each(&taken);
        self.milp.at_most(row, left / 1024.0);
        Some(())
    }

    /// What runs in an interval, and what is live when it ends.
    fn interval(&mut self, i: usize) {
        let model = self.model;
        let kept = |program: &Self, s: u32| if i == 0 { NO } else { program.keep[i - 1][s as usize] };
        for (u, unit) in model.units.iter().enumerate() {
            for &s in &unit.reads {
                let any = [self.runs[i][self.maker(s)], kept(self, s)];
                self.implies(self.runs[i][u], &any);
            }
        }
        if i < self.chain.len() {
            for s in (0..model.items.len() as u32).filter(|&s| model.items[s as usize].maker != NONE) {
                let any = [self.runs[i][self.maker(s)], kept(self, s)];
                self.implies(self.keep[i][s as usize], &any);
            }
        }
    }

    /// The unit whose first run ends an interval.
    fn next(&self, i: usize) -> usize {
        self.chain.get(i).map_or(self.model.units.len() - 1, |it| it.unit)
    }

    /// By item: it is live all through an interval, as it is live at its end and not made within.
    fn through(&mut self, i: usize) -> Vec<Term> {
        let model = self.model;
        let read = &model.units[self.next(i)].reads;
        let mut through = vec![NO; model.items.len()];
        for (s, item) in model.items.iter().enumerate().filter(|(_, item)| item.maker != NONE) {
            let end = match read.contains(&(s as u32)) {
                true => YES,
                false => self.keep.get(i).map_or(NO, |keep| keep[s]),
            };
            let made = self.runs[i][item.maker as usize];
            through[s] = if is(made, 0.0) || is(end, 0.0) {
                end
            } else if is(made, 1.0) || bytes(model, s as u32) == 0 {
                NO
            } else {
                let column = self.milp.column(false, 0.0);
                self.implies(end, &[made, column]);
                column
            };
        }
        through
    }

    /// Any run of a unit in an interval, be it the first or not, fits beside what is live all through the interval. (Of
    /// several runs take the first.) Whatever d(i+1) reads is live then as well, or is made later in the interval
    /// from what in turn is live then or made later in the interval.
    fn room(&mut self, i: usize, u: usize, load: &Load, through: &[Term], budget: u64) {
        let (model, next, run) = (self.model, self.next(i), self.runs[i][u]);
        // What ends the interval is an instant by itself.
        if u == next || is(run, 0.0) {
            return;
        }
        let counts = |s: u32| !load.is_own(s) && bytes(model, s) > 0 && model.items[s as usize].maker != NONE;
        let mut live: Vec<Term> = through.to_vec();
        let mut raised = vec![false; live.len()];
        let mut raise = |program: &mut Self, live: &mut [Term], s: u32| {
            let s = s as usize;
            if !is(live[s], 1.0) && !std::mem::replace(&mut raised[s], true) {
                let column = program.milp.column(false, 0.0);
                program.implies(live[s], &[column]);
                live[s] = column;
            }
            live[s]
        };
        let read = if next + 1 < model.units.len() { &model.units[next].reads[..] } else { &[] };
        for &s in read.iter().filter(|&&s| counts(s)) {
            let there = raise(self, &mut live, s);
            for &r in model.units[self.maker(s)].reads.iter().filter(|&&r| counts(r)) {
                let from = raise(self, &mut live, r);
                self.implies(run, &[there, from, self.runs[i][self.maker(r)]]);
            }
        }
        let room = budget.saturating_sub(model.resident);
        let grain = (room / GRID).max(1).next_power_of_two();
        let scale = |x: u64| x as f64 / 1024.0;
        let mut row = vec![(scale(load.fixed / grain), run)];
        let others = (0..model.items.len() as u32).filter(|&s| counts(s) && !is(live[s as usize], 0.0));
        row.extend(others.map(|s| (scale(bytes(model, s) / grain), live[s as usize])));
        let mut taken: Vec<(Pair, Term)> = Vec::new();
        for &pair in &load.pairs {
            let column = self.milp.column(false, 0.0);
            self.milp.at_most([(1.0, column), (1.0, through[pair.read as usize])], 1.0);
            self.implies(column, &[run]);
            row.push((-scale(pair.saves.div_ceil(grain)), column));
            taken.push((pair, column));
        }
        self.once_each(&taken);
        self.milp.at_most(row, scale(room.div_ceil(grain)));
    }

    /// An input is taken over once, and an output takes over one input.
    fn once_each(&mut self, taken: &[(Pair, Term)]) {
        let mut items: Vec<u32> = taken.iter().flat_map(|(pair, _)| [pair.read, pair.write]).collect();
        items.sort_unstable();
        items.dedup();
        for item in items {
            let of = taken.iter().filter(|(pair, _)| pair.read == item || pair.write == item);
            self.milp.at_most(of.map(|&(_, column)| (1.0, column)), 1.0);
        }
    }

    /// What is proved within the limits, in ns of overhead.
    fn solve(self, options: &Options, nodes: Option<u64>) -> u64 {
        let (total, counted) = (self.total as f64, self.counted as f64);
        let answer = self.milp.solve(options, nodes);
        if answer.verdict == Verdict::Infeasible || !answer.bound.is_finite() {
            // That no plan fits is for exact arithmetic to say.
            return 0;
        }
        let proved = answer.bound / 1000.0 * total.max(1.0) - counted - 1e-6 * total.max(1.0);
        // Times are whole.
        if proved > 0.0 { proved.ceil() as u64 } else { 0 }
    }
}
