//! The plans of Checkmate's class, phase by phase, as walks over sets of what is live.
//!
//! The program in [`phases`](super::phases) leaves its branching to HiGHS, which learns slowly that two
//! ways to keep and to make again come to the same. Here they do: a *state* is what is live before unit k
//! of phase t, and of all ways to get there only the fastest goes on.
//!
//! ```text
//! phase t     unit 0 | unit 1 | ... | unit t-1 | unit t      each may run again, then t runs first
//! state              ^ what is live, and the least time spent on second runs up to here
//! ```
//!
//! A breadth-first search, phase after phase and unit after unit, for plans that cost less than a *cutoff*: the
//! plan that is known. When no state is left there is none. Before that a faster plan is looked for among the most promising
//! states alone, which proves nothing, and then below smaller cutoffs, which take a fraction of the time and end the search if there is
//! a plan below them.
//!
//! It goes through all plans of the class, because what is
//! left out is never needed:
//!
//! - Dropping is free, so nothing is dropped but for a unit to fit, and no set of which an item could have stayed.
//! - Of two states before the same unit, one with all that the other has and no more time spent does for both.
//! - A state from which unit t cannot run any more in phase t, as what it reads would have to be made by
//!   a unit whose turn is over, is none.
//! - A state is left out if the time spent and a lower bound on what is still to be spent reach the cutoff.
//!
//! The bounds are two. With room for everything, all units must run again whose results are missing and
//! read later, or wanted by such units in turn. And those of the relaxation of the program in `phases`, which HiGHS solves
//! for the rest of the phases, with a state's set as what is live when they begin: each solution proves a bound linear in
//! that set ([`Line`](super::milp::Line); Benders, "Partitioning procedures for solving mixed-variables programming problems",
//! 1962), so it holds for all other sets too. Which states it is solved for is drawn from those there are, as long as each
//! one leaves out enough of the others.
//!
//! Such a line bounds what a plan costs that begins the phase with *just* that set, and counts against it what is kept
//! for nothing. A larger set is never worse, as it can be dropped, so factors above 0 are taken as 0: the bound is then
//! one for all smaller sets as well. Before unit k of phase t the bound for the beginning of the phase holds, as what follows
//! could have followed there. Bounds are in floating point: a part in 10^6 of the time of everything once is taken off, more
//! than the rounding of sums of prices adds up to.

use rayon::prelude::*;

use super::milp::Relaxation;
use super::model::{Model, NONE};
use super::phases::{Phases, useful};
use super::rng::Rng;

/// States before one unit, above which bounds are looked for that leave some out.
const MANY: usize = 300;
/// Within a phase that is looked at again when there are so many times more, and at least so many.
const GROWN: (usize, usize) = (4, 5_000);
/// Solutions of the relaxation in a row that leave out little, after which no more are asked for.
const POOR: u32 = 3;
/// What is little: less than this part, and fewer states.
const LITTLE: (usize, usize) = (20, 1_000);
/// States before one unit at most: some hundred bytes each.
const STATES: usize = 2 << 20;
/// Runs remembered at most, of eight bytes each.
const RUNS: usize = 1 << 25;
/// Runs that stand for a node of a program, where nodes are limited.
const NODES: u64 = 256;
/// Bounds for each phase; newer ones take the place of older ones.
const LINES: usize = 24;
/// States that each phase begins with at most, in the searches for a plan to begin with.
const WIDTHS: [usize; 2] = [100, 1_000];
/// Ways to make room for one run that these look at.
const WAYS: usize = 24;
/// Cutoffs in turn.
const CUTOFFS: u64 = 5;
/// States that one task goes on from.
const TASK: usize = 256;
/// The part of the time of everything that bounds may be wrong by.
const TOLERANCE: f64 = 1e-6;

/// What came of it.
pub(super) struct Walk {
    /// A plan of the class that is faster than the one known.
    pub order: Option<Vec<u32>>,
    /// Whether no plan of the class is faster than that, or than the one known.
    pub proved: bool,
}

/// Items, and after them views that cost something and are up to date.
type Set = u128;

fn bit(place: usize) -> Set {
    1 << place
}

fn bits(mut set: Set) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(bit)
    })
}

/// A unit as the search sees it.
struct Unit {
    time: u64,
    /// Bytes of what it writes, and its workspace.
    bytes: u64,
    reads: Set,
    writes: Set,
    replayable: bool,
    /// Views that it reads, by their bits.
    views: Vec<usize>,
}

/// A view that costs something.
struct View {
    time: u64,
    /// Views that it is made of, by their bits.
    reads: Vec<usize>,
}

#[derive(Clone, Copy)]
struct State {
    set: Set,
    /// The least time spent to get there, beyond first runs of units.
    spent: u64,
    /// The place of its last run in the trail.
    trail: u32,
}

/// Lower bounds on what is spent from the beginning of a phase on.
struct Lines {
    base: [f64; LINES],
    /// What each item takes off them.
    factors: Vec<[f64; LINES]>,
    count: usize,
}

impl Lines {
    fn new(items: usize) -> Self {
        Self { base: [f64::MIN; LINES], factors: vec![[0.0; LINES]; items], count: 0 }
    }

    /// Put a bound in place of the oldest; where it is.
    fn put(&mut self, base: f64, factors: impl Iterator<Item = (usize, f64)>) -> usize {
        let place = self.count % LINES;
        self.count += 1;
        self.base[place] = base;
        self.factors.iter_mut().for_each(|of_item| of_item[place] = 0.0);
        factors.for_each(|(s, factor)| self.factors[s][place] = factor);
        place
    }

    fn values(&self, set: Set) -> [f64; LINES] {
        let mut values = self.base;
        bits(set)
            .map_while(|s| self.factors.get(s))
            .for_each(|factors| values.iter_mut().zip(factors).for_each(|(value, factor)| *value += factor));
        values
    }

    fn value(&self, line: usize, set: Set) -> f64 {
        self.base[line] + bits(set).map_while(|s| self.factors.get(s)).map(|factors| factors[line]).sum::<f64>()
    }
}

/// The greatest value, in four lanes so that the compiler may do four at a time.
fn greatest(values: &[f64; LINES]) -> f64 {
    let mut lanes = [f64::MIN; 4];
    for four in values.chunks_exact(4) {
        lanes.iter_mut().zip(four).for_each(|(most, &value)| *most = if value > *most { value } else { *most });
    }
    lanes.into_iter().fold(f64::MIN, f64::max)
}

/// States by their sets: open addressing.
struct Table {
    /// Places in `states`, plus one.
    places: Vec<u32>,
    states: Vec<State>,
}

impl Table {
    fn new(states: Vec<State>) -> Self {
        let mut table = Self { places: Vec::new(), states };
        table.grow();
        table
    }

    fn grow(&mut self) {
        self.places = vec![0; (self.states.len() * 4 + 16).next_power_of_two()];
        for (index, state) in self.states.iter().enumerate() {
            let place = Self::place(&self.places, &self.states[..index], state.set);
            self.places[place] = index as u32 + 1;
        }
    }

    /// Where a set is, or would be.
    fn place(places: &[u32], states: &[State], set: Set) -> usize {
        let folded = (set as u64 ^ (set >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut place = (folded ^ (folded >> 32)) as usize & (places.len() - 1);
        while places[place] != 0 && states[places[place] as usize - 1].set != set {
            place = (place + 1) & (places.len() - 1);
        }
        place
    }

    /// Add a state, unless it is known and was reached as fast; whether it was added.
    fn add(&mut self, state: State) -> bool {
        let place = Self::place(&self.places, &self.states, state.set);
        if let Some(index) = self.places[place].checked_sub(1) {
            let known = &mut self.states[index as usize];
            let faster = state.spent < known.spent;
            if faster {
                *known = state;
            }
            return faster;
        }
        self.states.push(state);
        self.places[place] = self.states.len() as u32;
        if self.states.len() * 2 > self.places.len() {
            self.grow();
        }
        true
    }
}

/// The problem by bits, and what is known of the rest.
struct Space {
    room: u64,
    /// By bits; views have none.
    bytes: Vec<u64>,
    makers: Vec<u32>,
    units: Vec<Unit>,
    views: Vec<View>,
    /// The views of each item.
    views_of: Vec<Set>,
    /// What is made before each phase and can be read in it or later, directly or by what runs again.
    useful: Vec<Set>,
    /// What is made before each phase and read by first runs in it or later.
    needed: Vec<Set>,
    /// The greatest time of which all are multiples.
    step: u64,
    tolerance: f64,
    lines: Vec<Lines>,
}

/// The relaxation of the phases from some one on, and the items that its stages begin with.
type Rest = (Relaxation, Vec<Vec<usize>>);

/// The search.
pub(super) struct Search<'a, 'm> {
    phases: &'a Phases<'a, 'm>,
    space: Space,
    rests: Vec<Option<Rest>>,
    /// Each run and the place of the one before.
    trail: Vec<(u32, u32)>,
    /// Runs left, where they are limited.
    left: Option<u64>,
    /// [`MANY`].
    many: usize,
    /// States that each phase begins with at most, where plans are sought and not proved to be the fastest.
    width: Option<usize>,
    rng: Rng,
}

impl<'a, 'm> Search<'a, 'm> {
    /// A search for plans that `phases` asks for, which names a plan that is known; `None` where sets are too large for it.
    pub fn new(phases: &'a Phases<'a, 'm>, nodes: Option<u64>, seed: u64) -> Option<Self> {
        let space = Space::new(phases)?;
        let rests = phases.model.units.iter().map(|_| None).collect();
        let left = nodes.map(|nodes| nodes.saturating_mul(NODES));
        Some(Self { phases, space, rests, trail: Vec::new(), left, many: MANY, width: None, rng: Rng::new(seed) })
    }

    /// The fastest plan that costs less than the one known.
    pub fn search(&mut self, late: &(dyn Fn() -> bool + Sync)) -> Walk {
        let once: u64 = self.space.units.iter().map(|unit| unit.time).sum();
        let Some(known) = self.phases.faster_than else { return Walk { order: None, proved: false } };
        let (mut cutoff, mut best) = (known.saturating_sub(once), None);
        let first = (self.phases.full() + 1).min(self.space.units.len() - 1);
        let line = self.learn(first, None);
        let least = line.map_or(0.0, |line| self.space.lines[first].value(line, self.space.useful[first]));
        let least = (least.max(0.0) as u64).min(cutoff);
        // A faster plan first: the most promising states alone.
        for width in WIDTHS {
            self.width = Some(width);
            if let Some(Some((order, spent))) = self.below(cutoff, late) {
                (cutoff, best) = (spent, Some(order));
            }
        }
        self.width = None;
        let least = least.min(cutoff);
        for part in 1..=CUTOFFS {
            let here = least + (u128::from(cutoff - least) * u128::from(part) / u128::from(CUTOFFS)) as u64;
            match self.below(here, late) {
                Some(None) => {}
                Some(Some((order, _))) => return Walk { order: Some(order), proved: true },
                None => return Walk { order: best, proved: false },
            }
        }
        Walk { order: best, proved: true }
    }

    /// The fastest plan that spends less than the cutoff, if there is one, and what it spends; `None` where the limits came
    /// first.
    fn below(&mut self, cutoff: u64, late: &(dyn Fn() -> bool + Sync)) -> Option<Option<(Vec<u32>, u64)>> {
        self.trail.clear();
        self.trail.push((0, 0));
        let mut layer = vec![State { set: 0, spent: 0, trail: 0 }];
        for t in 0..self.space.units.len() {
            self.thin(t, &mut layer, cutoff);
            self.narrow(t, &mut layer, 1);
            layer = undominated(self.phase(t, layer, cutoff, late)?);
        }
        let Some(best) = layer.iter().min_by_key(|state| state.spent) else { return Some(None) };
        let (mut at, mut order) = (best.trail, Vec::new());
        while at != 0 {
            let (from, unit) = self.trail[at as usize];
            order.push(unit);
            at = from;
        }
        order.reverse();
        Some(Some((order, best.spent)))
    }

    /// All states after phase t from those before it; `None` where the limits came first.
    fn phase(
        &mut self,
        t: usize,
        layer: Vec<State>,
        cutoff: u64,
        late: &(dyn Fn() -> bool + Sync),
    ) -> Option<Vec<State>> {
        let (mut here, mut next) = (Table::new(layer), Table::new(Vec::new()));
        let most = self.width.map_or(usize::MAX, |width| GROWN.0 * width);
        let again = |states: usize| (GROWN.0 * states).max(GROWN.1).min(most).max(states + 1);
        let mut enough = again(here.states.len());
        for k in 0..=t {
            let unit = &self.space.units[k];
            if k < t && (!unit.replayable || unit.writes & self.space.useful[t] == 0) {
                continue;
            }
            let (space, wide) = (&self.space, self.width.is_none());
            let from = |states: &[State]| {
                let mut found = Vec::new();
                let in_time = !late();
                let ways = if wide { usize::MAX } else { WAYS };
                states.iter().filter(|_| in_time).for_each(|state| space.run(t, k, state, (cutoff, ways), &mut found));
                in_time.then_some(found)
            };
            let found: Option<Vec<Vec<State>>> = here.states.par_chunks(TASK).map(from).collect();
            let into = if k < t { &mut here } else { &mut next };
            for mut state in found?.into_iter().flatten() {
                let before = std::mem::replace(&mut state.trail, self.trail.len() as u32);
                if into.add(state) {
                    self.trail.push((before, k as u32));
                }
            }
            if let Some(left) = &mut self.left {
                *left = left.checked_sub(into.states.len() as u64)?;
            }
            if into.states.len() > STATES || self.trail.len() > RUNS {
                return None;
            }
            if here.states.len() > enough && k < t {
                let mut states = std::mem::take(&mut here.states);
                states.retain(|state| self.space.ready(t, k + 1, state.set));
                self.thin(t, &mut states, cutoff);
                self.narrow(t, &mut states, 2);
                here = Table::new(states);
                enough = again(here.states.len() / 2);
            }
        }
        Some(next.states)
    }

    /// Solve the relaxation of phase t and later ones with what is live, or whatever is best to be live; keep what it
    /// proves. The place of the line for phase t.
    fn learn(&mut self, t: usize, set: Option<Set>) -> Option<usize> {
        if self.rests[t].is_none() {
            self.rests[t] = Some(self.phases.rest(t)?);
        }
        let (relaxation, items) = self.rests[t].as_mut()?;
        let value = |&s: &usize| set.map(|set| if set & bit(s) != 0 { 1.0 } else { 0.0 });
        let lines = relaxation.lines(t, items[t].iter().map(value))?;
        let (scale, mut place) = (self.phases.scale(), None);
        for (stage, line) in (t..items.len()).rev().zip(lines) {
            let base = line.base / scale - self.space.tolerance;
            if base > 0.0 || stage == t {
                let factors = items[stage].iter().zip(line.factors).map(|(&s, factor)| (s, factor.min(0.0) / scale));
                place = Some(self.space.lines[stage].put(base, factors));
            }
        }
        place
    }

    /// Keep the most promising states, some times the width, where there is one.
    fn narrow(&self, t: usize, states: &mut Vec<State>, times: usize) {
        let Some(width) = self.width.map(|width| width * times).filter(|&width| states.len() > width) else { return };
        let space = &self.space;
        let promise = |state: &State| {
            let rest = space.rest(t, state.set, u64::MAX).unwrap_or(u64::MAX);
            let bound = greatest(&space.lines[t].values(state.set)).max(0.0) as u64;
            (state.spent.saturating_add(rest.max(bound)), state.set)
        };
        states.sort_by_cached_key(promise);
        states.truncate(width);
    }

    /// Leave out what bounds leave out, old and new ones.
    fn thin(&mut self, t: usize, states: &mut Vec<State>, cutoff: u64) {
        let old = &self.space;
        states.retain(|state| greatest(&old.lines[t].values(state.set)) <= old.most(cutoff, state.spent));
        let mut poor = 0;
        while self.width.is_none() && states.len() > self.many && poor < POOR {
            let before = states.len();
            let drawn = states[self.rng.below(before)].set;
            let Some(line) = self.learn(t, Some(drawn)) else { return };
            let space = &self.space;
            states.retain(|state| space.lines[t].value(line, state.set) <= space.most(cutoff, state.spent));
            let fewer = before - states.len();
            poor += u32::from(fewer * LITTLE.0 < before && fewer < LITTLE.1);
        }
    }
}

impl Space {
    fn new(phases: &Phases) -> Option<Self> {
        let model = phases.model;
        let (n, items) = (model.units.len(), model.items.len());
        let (views, bit_of) = views(model);
        if items + views.len() > Set::BITS as usize {
            return None;
        }
        let made = |&&s: &&u32| model.items[s as usize].maker != NONE;
        let set = |list: &[u32]| list.iter().filter(made).fold(0, |all, &s| all | bit(s as usize));
        let of = |list: &[u32]| list.iter().filter_map(|&v| bit_of[v as usize]).collect();
        let mut views_of = vec![0; items];
        for (v, view) in model.views.iter().enumerate().filter(|(_, view)| view.item != NONE) {
            views_of[view.item as usize] |= bit_of[v].map_or(0, bit);
        }
        let unit = |unit: &super::model::Unit| Unit {
            time: unit.time,
            bytes: unit.workspace + unit.writes.iter().map(|&s| model.items[s as usize].bytes).sum::<u64>(),
            reads: set(&unit.reads),
            writes: set(&unit.writes),
            replayable: unit.replayable,
            views: of(&unit.views),
        };
        let units: Vec<Unit> = model.units.iter().map(unit).collect();
        let last = useful(model);
        let mut before: Vec<Set> = vec![0; n + 1];
        (0..n).for_each(|t| before[t + 1] = before[t] | units[t].writes);
        let mut needed: Vec<Set> = vec![0; n + 1];
        (0..n).rev().for_each(|t| needed[t] = needed[t + 1] | units[t].reads);
        needed.iter_mut().zip(&before).for_each(|(needed, before)| *needed &= before);
        // Which views are up to date is remembered as long as their items are.
        let all_views = (0..views.len()).fold(0, |all, v| all | bit(items + v));
        let live = |t: usize| bits(before[t]).filter(|&s| last[s] >= t).fold(all_views, |all, s| all | bit(s));
        let useful: Vec<Set> = (0..=n).map(live).collect();
        Some(Self {
            room: phases.budget.saturating_sub(model.resident),
            bytes: model.items.iter().map(|item| item.bytes).chain(views.iter().map(|_| 0)).collect(),
            makers: model.items.iter().map(|item| item.maker).collect(),
            tolerance: TOLERANCE * units.iter().map(|unit| unit.time as f64).sum::<f64>(),
            lines: (0..=n).map(|_| Lines::new(items)).collect(),
            step: phases.step().max(1),
            units,
            views,
            views_of,
            useful,
            needed,
        })
    }

    /// What may be spent from here on; costs are multiples of the step.
    fn most(&self, cutoff: u64, spent: u64) -> f64 {
        cutoff as f64 - spent as f64 - self.step as f64 + self.tolerance
    }

    fn size(&self, set: Set) -> u64 {
        bits(set).map(|s| self.bytes[s]).sum()
    }

    /// What must be made again with room for everything, if that is possible and takes less than some time.
    fn rest(&self, t: usize, set: Set, below: u64) -> Option<u64> {
        let mut todo = self.needed[t] & !set;
        let (mut seen, mut again, mut total): (Set, Set, u64) = (todo, 0, 0);
        while todo != 0 {
            let maker = self.makers[todo.trailing_zeros() as usize] as usize;
            todo &= todo - 1;
            if again & bit(maker) == 0 {
                again |= bit(maker);
                let unit = &self.units[maker];
                total = total.saturating_add(unit.time);
                if !unit.replayable || total >= below {
                    return None;
                }
                let more = unit.reads & !set & !seen;
                seen |= more;
                todo |= more;
            }
        }
        (total < below).then_some(total)
    }

    /// Whether what was spent and what must be made again stay below the cutoff.
    fn affordable(&self, t: usize, set: Set, spent: u64, cutoff: u64) -> bool {
        cutoff.checked_sub(spent).is_some_and(|below| self.rest(t, set, below).is_some())
    }

    /// Whether unit t can still run in phase t, with this live before unit k.
    fn ready(&self, t: usize, k: usize, set: Set) -> bool {
        let mut todo = self.units[t].reads & !set;
        let mut seen = todo;
        while todo != 0 {
            let maker = self.makers[todo.trailing_zeros() as usize] as usize;
            todo &= todo - 1;
            if maker < k {
                return false;
            }
            let more = self.units[maker].reads & !set & !seen;
            seen |= more;
            todo |= more;
        }
        true
    }

    /// Make a view that is not up to date, and what it is made of; the time that takes.
    fn refresh(&self, view: usize, set: &mut Set) -> u64 {
        if *set & bit(view) != 0 {
            return 0;
        }
        *set |= bit(view);
        let it = &self.views[view - self.views_of.len()];
        it.time + it.reads.iter().map(|&base| self.refresh(base, set)).sum::<u64>()
    }

    /// The states that come of running unit k in phase t, in so many ways at most.
    fn run(&self, t: usize, k: usize, state: &State, (cutoff, most_ways): (u64, usize), found: &mut Vec<State>) {
        let (unit, first) = (&self.units[k], k == t);
        if unit.reads & !state.set != 0 || (!first && unit.writes & !state.set & self.useful[t] == 0) {
            return;
        }
        let mut live = state.set;
        let views: u64 = unit.views.iter().map(|&view| self.refresh(view, &mut live)).sum();
        let spent = state.spent + views + if first { 0 } else { unit.time };
        let then = t + usize::from(first);
        // What is made again must not be live; views of what was there before are out of date.
        bits(unit.writes).for_each(|s| live &= !(bit(s) | self.views_of[s]));
        let (useful, lines, most) = (self.useful[then], &self.lines[then], self.most(cutoff, spent));
        let after = |kept: Set| (kept | unit.writes) & useful;
        let possible = |kept: Set| {
            self.affordable(then, after(kept), spent, cutoff) && (first || self.ready(t, k + 1, after(kept)))
        };
        let values = lines.values(after(live));
        if greatest(&values) > most || !possible(live) {
            return;
        }
        let over = i128::from(self.size(live)) + i128::from(unit.bytes) - i128::from(self.room);
        let end = |kept: Set| State { set: after(kept), spent, trail: state.trail };
        if over <= 0 {
            found.push(end(live));
            return;
        }
        // Which of what the unit does not read to drop, the largest first.
        let mut drops: Vec<usize> = bits(live & !unit.reads).filter(|&s| self.bytes[s] > 0).collect();
        drops.sort_by_key(|&s| std::cmp::Reverse(self.bytes[s]));
        let mut rest = vec![0i128; drops.len() + 1];
        (0..drops.len()).rev().for_each(|j| rest[j] = rest[j + 1] + i128::from(self.bytes[drops[j]]));
        let enough = found.len().saturating_add(most_ways);
        let mut ways = vec![(0, live, over, values)];
        while let Some((j, kept, over, mut values)) = ways.pop() {
            if rest[j] < over {
                continue;
            }
            if found.len() >= enough {
                return;
            }
            ways.push((j + 1, kept, over, values));
            let s = drops[j];
            let (less, left) = (kept & !(bit(s) | self.views_of[s]), over - i128::from(self.bytes[s]));
            if useful & bit(s) != 0 {
                values.iter_mut().zip(&lines.factors[s]).for_each(|(value, factor)| *value -= factor);
            }
            if greatest(&values) > most || !possible(less) {
                continue;
            }
            if left > 0 {
                ways.push((j + 1, less, left, values));
            } else if drops[..=j].iter().all(|&s| less & bit(s) != 0 || i128::from(self.bytes[s]) > -left) {
                // Nothing that was dropped could have stayed.
                found.push(end(less));
            }
        }
    }
}

/// Views that cost something or are made of one that does, with their bits behind those of the items.
fn views(model: &Model) -> (Vec<View>, Vec<Option<usize>>) {
    let mut views: Vec<View> = Vec::new();
    let mut bit_of: Vec<Option<usize>> = Vec::with_capacity(model.views.len());
    for view in &model.views {
        let reads: Vec<usize> = view.reads.iter().filter_map(|&base| bit_of[base as usize]).collect();
        let costly = view.time > 0 || !reads.is_empty();
        bit_of.push(costly.then_some(model.items.len() + views.len()));
        if costly {
            views.push(View { time: view.time, reads });
        }
    }
    (views, bit_of)
}

/// Without states of which another has all that is live and was reached as fast; with very many, as far as a look at the
/// fastest tells.
fn undominated(mut states: Vec<State>) -> Vec<State> {
    states.sort_unstable_by_key(|state| (state.spent, std::cmp::Reverse(state.set.count_ones()), state.set));
    let looks = (200_000_000 / states.len().max(1)).min(states.len());
    let mut kept: Vec<State> = Vec::with_capacity(states.len());
    for state in states {
        if !kept[..kept.len().min(looks)].iter().any(|other| state.set & !other.set == 0) {
            kept.push(state);
        }
    }
    kept
}

#[cfg(all(test, feature = "fuzzing"))]
mod tests {
    use super::super::Options;
    use super::super::milp::Verdict;
    use super::super::sim::Sim;
    use super::*;
    use crate::fuzz::{Shape, problem};

    /// The walk and the program find plans of the same time, or both none; with bounds asked for wherever there are two states
    /// as with none.
    #[test]
    fn agrees_with_the_program() {
        let (mut plans, mut again, mut none) = (0, 0, 0);
        for seed in 0..120 {
            let problem = problem(seed, Shape { inplace: false, ..Shape::all(5 + seed as usize % 6) });
            let model = Model::new(&problem, false);
            let once: u64 = model.units.iter().map(|unit| unit.time).sum();
            let (most, least) = (model.peak_of_keep_all(), model.units.iter().map(|unit| unit.footprint).max());
            let least = model.resident + least.unwrap_or(0);
            for part in [0, 2, 5] {
                let budget = least + most.saturating_sub(least) * part / 10;
                let faster_than = Some(3 * once + 1000);
                let phases = Phases { model: &model, budget, integer: true, runs: None, faster_than, later: true };
                let solution = phases.solve(&Options::default());
                let order = match solution.verdict {
                    Verdict::Optimal => Some(solution.order()),
                    Verdict::Infeasible => None,
                    other => panic!("seed {seed}: {other:?}"),
                };
                let time = order.map(|order| Sim::default().run(&model, &order).time);
                for many in [MANY, 1] {
                    let mut search = Search::new(&phases, None, seed).expect("it is small");
                    search.many = many;
                    let walk = search.search(&|| false);
                    assert!(walk.proved, "seed {seed}: there are no limits");
                    let score = walk.order.map(|order| Sim::default().run(&model, &order));
                    assert!(score.is_none_or(|score| score.peak <= budget), "seed {seed} budget {budget}: {score:?}");
                    let found = score.map(|score| score.time);
                    assert_eq!(found, time, "seed {seed} budget {budget} many {many}");
                }
                plans += usize::from(time.is_some());
                none += usize::from(time.is_none());
                again +=
                    usize::from(time.is_some_and(|time| time > once + model.views.iter().map(|v| v.time).sum::<u64>()));
            }
        }
        assert!(plans > 100 && again > 30 && none > 10, "{plans} plans, {again} with second runs, {none} without");
    }
}
