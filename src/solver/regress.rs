//! The fastest plan of all, from its end: best-first search over what is needed.
//!
//! A *state* is what must be live so that what follows can run. Before anything follows that is what must be live at the end. Against the
//! order in which they run, units lead from state to state:
//!
//! ```text
//! state    what is needed after a run      { a, b }
//! run      of a unit that makes some of it     b <- f(c, d)
//! state    what is needed before it         { a, c, d }
//! ```
//!
//! During the run there are what is needed after it, what the unit reads and writes, and its workspace, less what it takes over in place: that can
//! be what it reads and nothing needs afterwards. Nothing else is live, since what nobody needs is dropped, so there is no choice but which
//! unit ran last. That holds for units in any order, run as often as one likes, so the search is over all legal plans without copies to the host; docs/BOUNDS.md says what
//! that proves.
//!
//! The search is A* over the time of all runs so far. What is still to come are at least all units that the state is made of in the end, once each. And
//! while any of them runs for the first time what was made before it and is needed after is live beside it, or is made once more, which takes no less than to make
//! so many bytes of it, the cheapest first. So the first state whose rest is known, since all of that fits in the order of the graph, is the beginning of a
//! fastest plan.
//!
//! A unit whose results nothing else needs earlier, and all of whose reads are needed all the same, may as well be the one that ran last: no other is tried.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BinaryHeap};

use super::load::{Load, bytes};
use super::model::{Model, NONE};
use super::moves::Move;
use super::sets::{Items, Set, bit, bits};

/// States remembered at most, of about a hundred bytes.
const STATES: usize = 400_000;
/// States that stand for an evaluation of an order, where nodes are limited.
const NODES: u64 = 64;
/// States gone on with between looks at the clock.
const LOOK: u64 = 64;
/// Ways to take over storage in place that are told apart for one unit.
const CHOICES: usize = 16;
/// The part of the time of everything that bounds may be wrong by.
const TOLERANCE: f64 = 1e-6;

/// What came of it.
#[derive(Debug)]
pub(super) enum Found {
    /// An order of units, and the time of its runs; no plan without copies takes less for what is not a view.
    Fastest(Vec<u32>, u64),
    /// No plan takes less than this for what is not a view.
    Bound(u64),
    /// No plan fits.
    Never,
}

/// Look for the fastest plan within `budget`, `inplace` or not. `None` where sets are too large for it.
pub(super) fn search(
    model: &Model,
    budget: u64,
    inplace: bool,
    nodes: Option<u64>,
    late: &dyn Fn() -> bool,
) -> Option<Found> {
    let space = Space::new(model, budget, inplace)?;
    let most = nodes.map_or(STATES, |nodes| nodes.saturating_mul(NODES).min(STATES as u64) as usize);
    Some(States { space, states: Vec::new(), places: BTreeMap::new(), open: BinaryHeap::new() }.search(most, late))
}

/// A unit as the search sees it.
struct Unit {
    time: u64,
    workspace: u64,
    reads: Set,
    writes: Set,
    touches: Set,
    /// The bit that says that it ran, if it may run no more than once.
    once: Set,
    /// Ways to take over what is read: what is gone then, and the bytes that saves; those first that save most.
    choices: Vec<(Set, u64)>,
    /// Units that it needs, and itself.
    needs: Set,
    /// What those make without it.
    before: Set,
}

/// The problem by bits.
struct Space {
    room: u64,
    items: Items,
    units: Vec<Unit>,
    /// The unit that makes each item, by its bit.
    makers: Vec<u32>,
    /// Units that may run no more than once.
    once: Vec<u32>,
    /// For each unit and each other: what is read by units that need the one and that the other needs, or is.
    between: Vec<Vec<Set>>,
    /// Units beside which not everything fits that was made before.
    tight: Set,
    /// What must be live at the end.
    end: Set,
    /// The greatest time of which all are multiples.
    step: u64,
    tolerance: f64,
    /// Whether a run that may as well be the last one is the only one that is tried.
    forced: bool,
}

struct State {
    set: Set,
    /// The time of all runs from here on.
    time: u64,
    /// The state after the run that led here, and its unit.
    then: u32,
    unit: u32,
}

/// All states known, and those that are to be gone on with: by the least time of all, then those that are nearest the beginning.
struct States {
    space: Space,
    states: Vec<State>,
    /// Where each set is in `states`.
    places: BTreeMap<Set, u32>,
    open: BinaryHeap<(Reverse<u64>, u64, Reverse<u32>)>,
}

impl States {
    fn search(mut self, most: usize, late: &dyn Fn() -> bool) -> Found {
        self.add(State { set: self.space.end, time: 0, then: NONE, unit: NONE });
        let mut looks = 0;
        while let Some((Reverse(least), time, Reverse(index))) = self.open.pop() {
            let (set, known) = (self.states[index as usize].set, self.states[index as usize].time);
            if known < time {
                continue;
            }
            let space = &self.space;
            let all = space.all(set).unwrap_or(0);
            if space.fits_once(set, all) && time + space.time(all) <= least {
                return Found::Fastest(self.order(index, all), least);
            }
            looks += 1;
            if self.states.len() > most || (looks % LOOK == 0 && late()) {
                return Found::Bound(least);
            }
            for u in bits(space.last(set, all)) {
                if let Some(before) = self.space.before(u, set) {
                    let time = time.saturating_add(self.space.units[u].time);
                    self.add(State { set: before, time, then: index, unit: u as u32 });
                }
            }
        }
        Found::Never
    }

    /// Remember a state, unless it is known to take no more from there on.
    fn add(&mut self, state: State) {
        let index = match self.places.entry(state.set) {
            Entry::Occupied(place) if self.states[*place.get() as usize].time <= state.time => return,
            Entry::Occupied(place) => *place.get(),
            Entry::Vacant(place) => *place.insert(self.states.len() as u32),
        };
        let least = self.space.least(state.set).map(|rest| rest.saturating_add(state.time));
        self.open.extend(least.map(|least| (Reverse(least), state.time, Reverse(index))));
        match self.states.get_mut(index as usize) {
            Some(known) => *known = state,
            None => self.states.push(state),
        }
    }

    /// Units in the order of the graph, and after them what led to a state.
    fn order(&self, index: u32, all: Set) -> Vec<u32> {
        let mut order: Vec<u32> = bits(all).map(|u| u as u32).collect();
        let mut state = &self.states[index as usize];
        while state.then != NONE {
            order.push(state.unit);
            state = &self.states[state.then as usize];
        }
        order
    }
}

impl Space {
    fn new(model: &Model, budget: u64, inplace: bool) -> Option<Self> {
        let (n, end) = (model.units.len(), model.units.len() - 1);
        let once: Vec<u32> = (0..end as u32).filter(|&u| model.units[u as usize].once).collect();
        if n > Set::BITS as usize {
            return None;
        }
        let items = Items::new(model, once.len(), &|s| bytes(model, s), &|unit| !unit.once)?;
        let mut makers = vec![NONE; items.count()];
        for (s, item) in model.items.iter().enumerate() {
            bits(items.bit(s as u32)).for_each(|place| makers[place] = item.maker);
        }
        let mut units: Vec<Unit> = Vec::with_capacity(n);
        for (u, unit) in model.units.iter().enumerate() {
            let (reads, writes) = (items.set(model, &unit.reads), items.set(model, &unit.writes));
            let (mut needs, mut before) = (bit(u), 0);
            for s in bits(reads) {
                let maker = &units[makers[s] as usize];
                needs |= maker.needs;
                before |= maker.before | maker.writes;
            }
            let place = once.iter().position(|&other| other as usize == u);
            units.push(Unit {
                time: unit.time,
                workspace: unit.workspace,
                reads,
                writes,
                touches: reads | writes,
                once: place.map_or(0, |place| bit(items.count() + place)),
                choices: if inplace { choices(model, &items, u) } else { vec![(0, 0)] },
                needs,
                before,
            });
        }
        let between = |j: usize, u: usize| {
            let path = bits(units[u].needs).filter(|&i| i != j && units[i].needs & bit(j) != 0);
            path.fold(0, |all, i| all | units[i].reads)
        };
        let between = (0..n).map(|j| (0..n).map(|u| between(j, u)).collect()).collect();
        let times = model.units.iter().map(|unit| unit.time);
        let mut space = Self {
            room: budget.saturating_sub(model.resident),
            end: units[end].reads,
            items,
            units,
            makers,
            once,
            between,
            tight: 0,
            step: times.clone().fold(0, greatest_divisor).max(1),
            tolerance: TOLERANCE * times.map(|time| time as f64).sum::<f64>(),
            forced: model.moves.has(Move::Forced),
        };
        let over = |&u: &usize| space.held(u, space.units[u].before) > space.room;
        space.tight = (0..n).filter(over).fold(0, |all, u| all | bit(u));
        Some(space)
    }

    fn time(&self, units: Set) -> u64 {
        bits(units).map(|u| self.units[u].time).sum()
    }

    /// Bytes while a unit runs with these beside it, whatever it takes over.
    fn held(&self, u: usize, set: Set) -> u64 {
        let unit = &self.units[u];
        (self.items.size(set | unit.touches) + unit.workspace).saturating_sub(unit.choices[0].1)
    }

    /// The state before a run of a unit after which this is needed; `None` if it does not fit, or if it must not run.
    fn before(&self, u: usize, set: Set) -> Option<Set> {
        let unit = &self.units[u];
        let saved = unit.choices.iter().find(|(gone, _)| gone & set == 0).map_or(0, |choice| choice.1);
        let live = (self.items.size(set | unit.touches) + unit.workspace).saturating_sub(saved);
        (set & unit.once == 0 && live <= self.room).then_some((set & !unit.writes) | unit.reads | unit.once)
    }

    /// Units that a state is made of in the end; `None` where one would run that must not any more.
    fn all(&self, set: Set) -> Option<Set> {
        let mut all = bits(set & self.items.all()).fold(0, |all, s| all | self.units[self.makers[s] as usize].needs);
        for &u in &self.once {
            let unit = &self.units[u as usize];
            match set & unit.once {
                0 => all |= unit.needs,
                _ if all & bit(u as usize) != 0 => return None,
                _ => {}
            }
        }
        Some(all)
    }

    /// Whether units can run once each in the order of the graph.
    fn fits_once(&self, mut set: Set, units: Set) -> bool {
        let mut left = units;
        while left != 0 {
            let u = Set::BITS as usize - 1 - left.leading_zeros() as usize;
            left &= !bit(u);
            match self.before(u, set) {
                Some(before) => set = before,
                None => return false,
            }
        }
        true
    }

    /// Units of which one ran last.
    fn last(&self, set: Set, all: Set) -> Set {
        let mut makers = bits(set & self.items.all()).fold(0, |all, s| all | bit(self.makers[s] as usize));
        makers = self.once.iter().fold(makers, |all, &u| match set & self.units[u as usize].once {
            0 => all | bit(u as usize),
            _ => all,
        });
        let read = bits(all).fold(0, |read, u| read | self.units[u].reads);
        let free = |&u: &usize| {
            let unit = &self.units[u];
            unit.reads & !set == 0 && unit.writes & read == 0 && self.before(u, set).is_some()
        };
        let forced = if self.forced { bits(makers).find(free) } else { None };
        forced.map_or(makers, bit)
    }

    /// A lower bound on the time of what runs before a state; `None` where it cannot be reached.
    fn least(&self, set: Set) -> Option<u64> {
        let all = self.all(set)?;
        let mut again = 0.0f64;
        // What ends in the state and what must run all the same.
        let ends = bits(set & self.items.all()).fold(0, |ends, s| ends | bit(self.makers[s] as usize));
        let undone = self.once.iter().filter(|&&u| set & self.units[u as usize].once == 0);
        let ends = undone.fold(ends, |ends, &u| ends | bit(u as usize));
        for j in bits(all & self.tight) {
            let unit = &self.units[j];
            let wanted = bits(ends).fold(set, |wanted, u| wanted | self.between[j][u]) & unit.before;
            let over = self.held(j, wanted).saturating_sub(self.room);
            again = again.max(self.items.cheapest(wanted & !unit.touches, over));
            if again == f64::INFINITY {
                return None;
            }
        }
        let again = (again - self.tolerance).max(0.0) as u64;
        Some(self.time(all).saturating_add(again.div_ceil(self.step) * self.step))
    }
}

fn greatest_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Ways for a unit to take over what it reads; where there are too many, all of it is saved and nothing gone.
fn choices(model: &Model, items: &Items, unit: usize) -> Vec<(Set, u64)> {
    let pairs = Load::during(model, unit).pairs;
    let mut all: Vec<(Set, Set, u64)> = vec![(0, 0, 0)];
    for pair in &pairs {
        let (read, write) = (items.bit(pair.read), items.bit(pair.write));
        let free = all.iter().filter(|(gone, made, _)| gone & read == 0 && made & write == 0);
        let more: Vec<_> = free.map(|&(gone, made, saved)| (gone | read, made | write, saved + pair.saves)).collect();
        all.extend(more);
        if all.len() > CHOICES {
            let mut most: Vec<(u32, u64)> = pairs.iter().map(|pair| (pair.write, pair.saves)).collect();
            most.sort_unstable_by(|a, b| b.cmp(a));
            most.dedup_by_key(|it| it.0);
            return vec![(0, most.iter().map(|it| it.1).sum())];
        }
    }
    all.sort_by_key(|&(_, _, saved)| Reverse(saved));
    all.into_iter().map(|(gone, _, saved)| (gone, saved)).collect()
}

#[cfg(all(test, feature = "fuzzing"))]
mod tests {
    use super::super::Options;
    use super::super::exact;
    use super::super::moves::Moves;
    use super::super::sim::Sim;
    use super::*;
    use crate::fuzz::{Shape, problem};
    use crate::plan::simulate;
    use crate::units::Bytes;

    /// The search through all that can live and this one agree, with and without the rule that leaves runs out; where views cost something, or storage
    /// is smaller than what is taken over for it, this one is a bound.
    #[test]
    fn agrees_with_the_exact_search() {
        let (mut same, mut again, mut never, mut bounds) = (0, 0, 0, 0);
        for seed in 0..400u64 {
            let plain = seed % 2 == 0;
            let ops = 4 + seed as usize % 6;
            let shape = Shape { joins: seed % 4 == 1, ..Shape::all(ops) };
            let shape = if plain { Shape { views: false, inplace: false, joins: false, ..shape } } else { shape };
            let problem = problem(seed, shape);
            let mut model = Model::new(&problem, true);
            let views: u64 = model.views.iter().map(|view| view.time).sum();
            let once: u64 = model.units.iter().map(|unit| unit.time).sum::<u64>() + views;
            let (low, high) = (problem.trivial_bound().get(), model.peak_of_keep_all());
            for part in [0, 1, 3, 6] {
                let budget = low + high.saturating_sub(low) * part / 10;
                let of = |model: &Model| search(model, budget, true, None, &|| false).expect("it is small");
                model.moves = Moves::all();
                let found = of(&model);
                model.moves = Moves::all().without(Move::Forced);
                let told = format!("seed {seed}, budget {budget}: {found:?}");
                match (&found, of(&model)) {
                    (Found::Fastest(_, time), Found::Fastest(_, other)) => assert_eq!(*time, other, "{told}"),
                    (Found::Never, Found::Never) => {}
                    (_, other) => panic!("{told}, without the rule {other:?}"),
                }
                let options = Options { node_limit: Some(u64::MAX), ..Options::default() };
                let exact = exact::solve(&problem, Bytes(budget), &options, &|| false);
                match (found, exact) {
                    (_, exact::Found::Unknown) => {}
                    (Found::Never, exact::Found::Infeasible) => never += 1,
                    (Found::Fastest(order, time), exact) => {
                        let order = super::super::reach::replayable(&model, order).expect("it is an order");
                        let least = match exact {
                            exact::Found::Optimal(steps) => simulate(&problem, &steps).unwrap().time.get(),
                            exact::Found::Infeasible | exact::Found::Unknown => u64::MAX,
                        };
                        assert!(time + views <= least, "{told}: {least}");
                        let score = Sim::default().run(&model, &order);
                        if plain {
                            assert_eq!((score.time, time), (time, least), "{told}");
                            assert!(score.peak <= budget, "{told}: {}", score.peak);
                        }
                        same += usize::from(time + views == least);
                        again += usize::from(time + views == least && least > once);
                        bounds += usize::from(time + views < least);
                    }
                    (found, exact) => panic!("{told}, {found:?}, {exact:?}"),
                }
            }
        }
        assert!(same > 600 && again > 60 && never > 100, "{same} {again} {never} {bounds}");
    }
}
