//! The plans of Checkmate's class, phase by phase from the last to the first, as walks over sets of what is needed.
//!
//! The program in [`phases`](super::phases) leaves its branching to HiGHS, which learns slowly that two
//! ways to keep and to make again come to the same. Here they do: a *state* is what must be live before unit k
//! of phase t, so that what follows can run, and of all that may follow from there only the fastest goes on.
//!
//! ```text
//! phase t     unit 0 | unit 1 | ... | unit t-1 | unit t      each may run again, then t runs first
//! state              ^ what is needed, and the least time spent on second runs from here on
//! ```
//!
//! Against the order in which they run, a plan's units leave no choice but one. What unit k writes is needed after it or
//! not; what it reads is needed before it; and what is live while it runs is that, and what is needed later. So for a unit that makes
//! something that is needed there are two ways, to run it again here or not to, and for one that does not, or that runs for the first time,
//! there is one. What to drop is no question: what is not needed any more. What recomputation costs is known early, as it is paid in
//! the last phases mostly, and what does not fit is known at once.
//!
//! A walk goes through all plans of the class that spend less than a *cutoff* on second runs, breadth first: phase after
//! phase, unit after unit. It ends at the first unit beside which not everything fits that was made before: till there all is kept. When no state is left,
//! no plan spends so little. The cutoff begins at what bounds say that is spent in any case, and grows until a walk finds plans, whose
//! fastest is the fastest of the class, or is what the plan costs that is known. Each cutoff is to take some times as many states as the one before.
//!
//! What is left out is never needed:
//!
//! - Of two states before the same unit, one that needs nothing that the other does not need, and has spent no more, does for both.
//! - What is needed of units that had their turn in this phase is live when its predecessor's own unit runs, and must fit beside that.
//! - A state is left out if the time spent and a lower bound on what is still to be spent reach the cutoff.
//!
//! The bound looks at the first run of any unit j of an earlier phase: what was made before and is needed by the state, or by first runs between j
//! and the state, is live beside what j reads and writes, or is made again between. What does not fit costs at least what it takes to make so many
//! bytes again, the cheapest ones first. Bounds are in floating point: a part in 10^6 of the time of everything once is allowed for.
//!
//! Before that a plan is looked for among the most promising states alone, which proves nothing. Where none is known, a walk
//! that counts no time says whether there is one at all: of its states only those are left that need least.
//!
//! Views run when they are read, if their storage was made again since: a state holds which ones are read from here on, until it comes to the run
//! that makes their storage, where they are paid for. Views of what is always live are made once. With a limit on how often a unit runs, a state also holds which
//! units ran again later; so with two runs each, MOCCASIN's class, that is one bit for each.

use rayon::prelude::*;

use super::model::{Model, NONE};
use super::phases::Phases;
use super::sets::{Items, Set, bit, bits, first};

/// States before one unit that are looked through for those that can be left out, when there are so many times more than last time,
/// and at least so many.
const GROWN: (usize, usize) = (4, 2_000);
/// States before one unit at most: some hundred bytes each.
const STATES: usize = 2 << 20;
/// Runs remembered at most, of eight bytes each.
const RUNS: usize = 1 << 25;
/// Runs that stand for a node of a program, where nodes are limited.
const NODES: u64 = 256;
/// States compared with others to find those that do for them.
const LOOKS: usize = 400_000_000;
/// States compared side by side.
const BLOCK: usize = 4_096;
/// States that one task goes on from.
const TASK: usize = 256;
/// The next cutoff is twice as far from this one as this from the last, if it took fewer states; or
const FEW: u64 = 20_000;
/// fewer times as many as the last, half as far, if it took more times as many.
const GROWTH: (u64, u64) = (2, 6);
/// The part of the time of everything that the first cutoff is above the bound, and the part below which cutoffs are not told apart.
const STRIDES: (u64, u64) = (32, 4_096);
/// The part of the time of everything that bounds may be wrong by.
const TOLERANCE: f64 = 1e-6;

/// What came of it.
pub(super) struct Walk {
    /// The fastest plan of the class, or any where no time counts.
    pub order: Option<Vec<u32>>,
    /// Whether no plan of the class is faster than that, or, where there is none, than asked for.
    pub proved: bool,
}

/// A unit as the search sees it.
struct Unit {
    time: u64,
    workspace: u64,
    reads: Set,
    writes: Set,
    /// What it reads and writes.
    touches: Set,
    /// Views that it reads, and those that they are made of.
    views: Set,
    /// What it writes, and all views of that.
    begins: Set,
    replayable: bool,
}

#[derive(Clone, Copy)]
struct State {
    /// What must be live.
    set: Set,
    /// Units that run again from here on, where that is limited.
    again: Set,
    /// The least time spent from here on, beyond first runs of units.
    spent: u64,
    /// The place of its run in the trail.
    trail: u32,
}

impl State {
    const END: Self = Self { set: 0, again: 0, spent: 0, trail: 0 };
}

/// States by what they need: open addressing.
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
            let place = Self::place(&self.places, &self.states[..index], state);
            self.places[place] = index as u32 + 1;
        }
    }

    /// Where a state is, or would be.
    fn place(places: &[u32], states: &[State], state: &State) -> usize {
        let mix = |hash: u64, part: u64| (hash.rotate_left(5) ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let parts = [state.set, state.again].into_iter().flat_map(|set| [set as u64, (set >> 64) as u64]);
        let hash = parts.fold(0, mix);
        let mut place = (hash ^ (hash >> 32)) as usize & (places.len() - 1);
        while places[place] != 0 {
            let known = &states[places[place] as usize - 1];
            if known.set == state.set && known.again == state.again {
                break;
            }
            place = (place + 1) & (places.len() - 1);
        }
        place
    }

    /// Add a state, unless it is known and takes no less from there; whether it was added.
    fn add(&mut self, state: State) -> bool {
        let place = Self::place(&self.places, &self.states, &state);
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

/// The problem by bits.
struct Space {
    room: u64,
    items: Items,
    /// Of each view, by its bit behind those of items.
    view_times: Vec<u64>,
    units: Vec<Unit>,
    /// Items made before each unit.
    before: Vec<Set>,
    /// For each phase and each earlier unit: what first runs between the two read.
    between: Vec<Vec<Set>>,
    /// Units beside which not everything fits that was made before.
    tight: Vec<usize>,
    /// The greatest time of which all are multiples.
    step: u64,
    /// The time of all units once, and of that and all views that are made once in any plan.
    once: u64,
    fixed: u64,
    tolerance: f64,
}

/// Rules that leave states out: all, except in tests.
#[derive(Clone, Copy)]
struct Rules {
    /// Bounds on what is still to be spent.
    bounds: bool,
    /// States that others do for.
    others: bool,
    /// What the next first run will need.
    ahead: bool,
}

/// Why a walk did not end.
enum Limit {
    /// Time or nodes ran out.
    Late,
    /// There were too many states.
    Many,
}

/// The search.
pub(super) struct Search {
    space: Space,
    rules: Rules,
    /// Whether no unit may run more than twice.
    twice: bool,
    /// Whether time counts.
    timed: bool,
    /// States that each phase goes on from at most, where a plan is looked for and nothing is proved.
    width: Option<usize>,
    /// The phase of the first unit beside which not everything fits.
    full: usize,
    /// Each run and the place of the one after it.
    trail: Vec<(u32, u32)>,
    /// Runs left, where they are limited.
    left: Option<u64>,
    /// Runs of the last walk.
    runs: u64,
}

impl Search {
    /// A search for plans of the class that `phases` describes; `None` where sets are too large for it.
    pub fn new(phases: &Phases, nodes: Option<u64>) -> Option<Self> {
        let space = Space::new(phases)?;
        let twice = match phases.runs {
            None => false,
            Some(2) => true,
            Some(_) => return None,
        };
        Some(Self {
            full: phases.full(),
            space,
            rules: Rules { bounds: true, others: true, ahead: true },
            twice,
            timed: true,
            width: None,
            trail: Vec::new(),
            left: nodes.map(|nodes| nodes.saturating_mul(NODES)),
            runs: 0,
        })
    }

    /// A plan that takes less time than asked for, if there is one among the most promising states.
    pub fn some(&mut self, width: usize, below: Option<u64>, late: &(dyn Fn() -> bool + Sync)) -> Option<Vec<u32>> {
        let cutoff = below.map(|below| below.saturating_sub(self.space.fixed));
        self.width = Some(width);
        let found = self.walk(cutoff, late);
        self.width = None;
        found.ok()?
    }

    /// A plan, however slow, or that there is none.
    pub fn any(&mut self, late: &(dyn Fn() -> bool + Sync)) -> Walk {
        self.timed = false;
        let found = self.walk(None, late);
        self.timed = true;
        let proved = found.is_ok();
        Walk { order: found.ok().flatten(), proved }
    }

    /// The fastest plan that takes less time than asked for.
    pub fn fastest(&mut self, below: Option<u64>, late: &(dyn Fn() -> bool + Sync)) -> Walk {
        let space = &self.space;
        let n = space.units.len();
        // In no phase a unit runs twice, nor a view more often than there are units.
        let views: u64 = space.view_times.iter().sum();
        let all = space.once.saturating_add(views).saturating_mul(n as u64 + 1);
        let end = below.map_or(all, |below| below.saturating_sub(space.fixed).min(all));
        let bound = if self.rules.bounds { space.bound(n, 0) } else { 0.0 };
        let (mut reached, mut last) = (((bound - space.tolerance).max(0.0) as u64).min(end), 0);
        let nearest = (space.once / STRIDES.1).max(space.step);
        let mut stride = (space.once / STRIDES.0).max(space.step);
        while reached < end {
            let cutoff = reached.saturating_add(stride).min(end);
            match self.walk(Some(cutoff), late) {
                Ok(Some(order)) => return Walk { order: Some(order), proved: true },
                Ok(None) => {
                    reached = cutoff;
                    if self.runs < FEW.max(GROWTH.0 * last) {
                        stride = stride.saturating_mul(2);
                    } else if self.runs > GROWTH.1 * last {
                        stride = (stride / 2).max(nearest);
                    }
                    last = self.runs;
                }
                Err(Limit::Many) if stride > nearest => stride = (stride / 4).max(nearest),
                Err(_) => return Walk { order: None, proved: false },
            }
        }
        Walk { order: None, proved: true }
    }

    /// The fastest plan that spends less than the cutoff, if there is one.
    fn walk(
        &mut self,
        cutoff: Option<u64>,
        late: &(dyn Fn() -> bool + Sync),
    ) -> std::result::Result<Option<Vec<u32>>, Limit> {
        self.trail.clear();
        self.trail.push((0, 0));
        self.runs = 0;
        let most = cutoff.map_or(f64::MAX, |cutoff| self.space.most(cutoff));
        let mut layer = vec![State::END];
        for t in (self.full..self.space.units.len()).rev() {
            layer = self.phase(t, layer, most, late)?;
        }
        let views = self.space.units[..self.full].iter().fold(0, |all, unit| all | unit.views);
        let all = |state: &&State| state.spent + self.space.debt(state.set | views);
        let Some(best) = layer.iter().min_by_key(all).filter(|state| all(state) as f64 <= most) else {
            return Ok(None);
        };
        let (mut at, mut order) = (best.trail, (0..self.full as u32).collect::<Vec<u32>>());
        while at != 0 {
            let (then, unit) = self.trail[at as usize];
            order.push(unit);
            at = then;
        }
        Ok(Some(order))
    }

    /// All states before phase t from those after it.
    fn phase(
        &mut self,
        t: usize,
        layer: Vec<State>,
        most: f64,
        late: &(dyn Fn() -> bool + Sync),
    ) -> std::result::Result<Vec<State>, Limit> {
        let mut here = Table::new(Vec::new());
        let first_runs: Vec<State> = layer.iter().filter_map(|state| self.space.run(t, state, 0)).collect();
        // Units of later phases have no more turns.
        let turns = first(t);
        self.add(&mut here, first_runs.into_iter().map(|state| State { again: state.again & turns, ..state }), t)?;
        let enough = |states: usize| (GROWN.0 * states).max(GROWN.1);
        let mut many = enough(here.states.len());
        for k in (0..t).rev() {
            let unit = &self.space.units[k];
            if !unit.replayable {
                continue;
            }
            let (space, rules) = (&self.space, self.rules);
            let again = if self.twice { bit(k) } else { 0 };
            let time = if self.timed { unit.time } else { 0 };
            let next = |states: &[State]| {
                let wanted = |state: &&State| state.set & unit.writes != 0 && state.again & again == 0;
                let run = |state: &State| {
                    let next = space.run(k, state, time)?;
                    let fits = !rules.ahead || space.leaves_room(t, k, next.set);
                    (fits && next.spent as f64 <= most).then_some(State { again: next.again | again, ..next })
                };
                (!late()).then(|| states.iter().filter(wanted).filter_map(run).collect())
            };
            let found: Option<Vec<Vec<State>>> = here.states.par_chunks(TASK).map(next).collect();
            self.add(&mut here, found.ok_or(Limit::Late)?.into_iter().flatten(), k)?;
            if here.states.len() > many && k > 0 {
                let states = self.thin(t, k, std::mem::take(&mut here.states), most);
                here = Table::new(states);
                many = enough(here.states.len());
            }
        }
        Ok(self.thin(t, 0, here.states, most))
    }

    /// Add states that a unit's run leads to.
    fn add(
        &mut self,
        table: &mut Table,
        states: impl Iterator<Item = State>,
        unit: usize,
    ) -> std::result::Result<(), Limit> {
        let before = table.states.len();
        for mut state in states {
            let then = std::mem::replace(&mut state.trail, self.trail.len() as u32);
            if table.add(state) {
                self.trail.push((then, unit as u32));
            }
        }
        let runs = (table.states.len() - before) as u64;
        self.runs += runs;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(runs.max(1)).ok_or(Limit::Late)?;
        }
        match table.states.len() > STATES || self.trail.len() > RUNS {
            true => Err(Limit::Many),
            false => Ok(()),
        }
    }

    /// Leave out what cannot lead to a plan below the cutoff, or what others do for, after unit k of phase t had its turn.
    fn thin(&self, t: usize, k: usize, states: Vec<State>, most: f64) -> Vec<State> {
        let (space, rules) = (&self.space, self.rules);
        let least = |state: &State| {
            let bound = if rules.bounds { space.bound(t, state.set) } else { 0.0 };
            let bound = if self.timed || bound == f64::INFINITY { bound } else { 0.0 };
            state.spent as f64 + space.debt(state.set) as f64 + bound
        };
        let within = |state: &State| !(rules.ahead || k == 0) || space.leaves_room(t, k, state.set);
        let judge = |state: State| within(&state).then(|| (least(&state), state)).filter(|&(least, _)| least <= most);
        let mut states: Vec<(f64, State)> = states.into_par_iter().filter_map(judge).collect();
        if let Some(width) = self.width.filter(|&width| states.len() > width) {
            states.par_sort_unstable_by(|(one, a), (other, b)| {
                one.total_cmp(other).then_with(|| (a.set, a.again).cmp(&(b.set, b.again)))
            });
            states.truncate(width);
        }
        let states: Vec<State> = states.into_iter().map(|(_, state)| state).collect();
        if rules.others { undominated(states) } else { states }
    }
}

impl Space {
    fn new(phases: &Phases) -> Option<Self> {
        let model = phases.model;
        let n = model.units.len();
        let (closures, view_times, residents) = views(model);
        if n > Set::BITS as usize {
            return None;
        }
        let bytes = |s: u32| model.items[s as usize].bytes;
        let items = Items::new(model, view_times.len(), &bytes, &|unit| unit.replayable)?;
        let set = |list: &[u32]| items.set(model, list);
        let mut views_of = vec![0; items.count()];
        for closure in &closures {
            if let Some((item, view)) = closure.own {
                views_of[item as usize] |= bit(items.count() + view);
            }
        }
        let unit = |unit: &super::model::Unit| {
            let (reads, writes) = (set(&unit.reads), set(&unit.writes));
            let views = unit.views.iter().fold(0, |all, &v| all | closures[v as usize].all) << items.count();
            let begins = unit.writes.iter().fold(writes, |all, &s| all | views_of[s as usize]);
            let (time, workspace, replayable) = (unit.time, unit.workspace, unit.replayable);
            Unit { time, workspace, reads, writes, touches: reads | writes, views, begins, replayable }
        };
        let units: Vec<Unit> = model.units.iter().map(unit).collect();
        let mut before: Vec<Set> = vec![0; n + 1];
        (0..n).for_each(|t| before[t + 1] = before[t] | units[t].writes);
        let mut between: Vec<Vec<Set>> = vec![vec![0; n]];
        for t in 1..=n {
            let reads = units[t - 1].reads;
            let row = (0..n).map(|j| between[t - 1][j] | if j < t - 1 { reads } else { 0 }).collect();
            between.push(row);
        }
        let once = units.iter().map(|unit| unit.time).sum::<u64>();
        let mut space = Self {
            room: phases.budget.saturating_sub(model.resident),
            items,
            view_times,
            units,
            before,
            between,
            tight: Vec::new(),
            step: phases.step().max(1),
            once,
            fixed: once + residents,
            tolerance: TOLERANCE * once as f64,
        };
        let tight = |&j: &usize| space.during(j, space.before[j]) > space.room;
        space.tight = (0..n).filter(tight).collect();
        Some(space)
    }

    /// What may be spent below a cutoff; costs are multiples of the step.
    fn most(&self, cutoff: u64) -> f64 {
        cutoff as f64 - self.step as f64 + self.tolerance
    }

    /// What is live while a unit runs beside which there is what a set holds.
    fn during(&self, u: usize, set: Set) -> u64 {
        let unit = &self.units[u];
        self.items.size(set | unit.touches) + unit.workspace
    }

    /// What views cost that are read, by bits of a set.
    fn debt(&self, set: Set) -> u64 {
        bits(set & !self.items.all()).map(|v| self.view_times[v - self.items.count()]).sum()
    }

    /// The state before a run of unit u from that after it; `None` if it does not fit.
    fn run(&self, u: usize, state: &State, time: u64) -> Option<State> {
        let unit = &self.units[u];
        if self.during(u, state.set) > self.room {
            return None;
        }
        let set = (state.set & !unit.begins) | unit.reads | unit.views;
        Some(State { set, spent: state.spent + time + self.debt(state.set & unit.begins), ..*state })
    }

    /// Whether what no unit makes again any more in phase t, after k had its turn, fits beside the first run before it.
    fn leaves_room(&self, t: usize, k: usize, set: Set) -> bool {
        t.checked_sub(1).is_none_or(|last| self.during(last, set & !self.before[k]) <= self.room)
    }

    /// A lower bound on what is spent before phase t, or before some unit in it, so that this is live there.
    fn bound(&self, t: usize, set: Set) -> f64 {
        let mut most = 0.0f64;
        for &j in self.tight.iter().take_while(|&&j| j < t) {
            let unit = &self.units[j];
            let wanted = (set | self.between[t][j]) & self.before[j];
            let over = self.during(j, wanted).saturating_sub(self.room);
            most = most.max(self.items.cheapest(wanted & !unit.touches, over));
        }
        most
    }
}

/// What a view stands for.
struct Closure {
    /// The bits of those that must be up to date with it, itself among them; none for those that are made once.
    all: Set,
    /// Its item and its bit, where it has one.
    own: Option<(u32, usize)>,
}

/// All views, the times of those that cost something and may be made more than once, and what all others take.
fn views(model: &Model) -> (Vec<Closure>, Vec<u64>, u64) {
    let (mut times, mut closures): (Vec<u64>, Vec<Closure>) = (Vec::new(), Vec::with_capacity(model.views.len()));
    let mut read = vec![false; model.views.len()];
    model.units.iter().flat_map(|unit| &unit.views).for_each(|&v| read[v as usize] = true);
    for (v, view) in model.views.iter().enumerate().rev() {
        if read[v] {
            view.reads.iter().for_each(|&base| read[base as usize] = true);
        }
    }
    let mut residents = 0;
    for (view, read) in model.views.iter().zip(read) {
        let mut all = view.reads.iter().fold(0, |all, &base| all | closures[base as usize].all);
        let mut own = None;
        if view.item == NONE {
            residents += if read { view.time } else { 0 };
        } else if view.time > 0 {
            own = Some((view.item, times.len()));
            // More than fit are refused by whoever asked.
            all |= 1u128.checked_shl(times.len() as u32).unwrap_or(0);
            times.push(view.time);
        }
        closures.push(Closure { all, own });
    }
    (closures, times, residents)
}

/// Without states that others do for: those that need no more and have spent no more; with very many, as far as a look at those that have spent least
/// tells.
fn undominated(mut states: Vec<State>) -> Vec<State> {
    states.par_sort_unstable_by_key(|state| {
        (state.spent, state.set.count_ones() + state.again.count_ones(), state.set, state.again)
    });
    let looks = (LOOKS / states.len().max(1)).min(states.len());
    let mut kept: Vec<State> = Vec::new();
    let does = |other: &State, state: &State| other.set & !state.set == 0 && other.again & !state.again == 0;
    for block in states.chunks(BLOCK) {
        let known = kept.len().min(looks);
        let new = |state: &&State| !kept[..known].iter().any(|other| does(other, state));
        let left: Vec<State> = block.par_iter().filter(new).copied().collect();
        for state in left {
            if !kept[known..kept.len().min(looks)].iter().any(|other| does(other, &state)) {
                kept.push(state);
            }
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

    const ALL: Rules = Rules { bounds: true, others: true, ahead: true };

    /// Budgets from the least for one unit up to what keeps everything.
    fn budgets(model: &Model, tenths: [u64; 3]) -> [u64; 3] {
        let (most, least) = (model.peak_of_keep_all(), model.units.iter().map(|unit| unit.footprint).max());
        let least = model.resident + least.unwrap_or(0);
        tenths.map(|part| least + most.saturating_sub(least) * part / 10)
    }

    /// The walk and the program find plans of the same time, or both none, however often units may run; whichever rules leave states out.
    #[test]
    fn agrees_with_the_program() {
        let (mut plans, mut again, mut none) = (0, 0, 0);
        for seed in 0..120 {
            let problem = problem(seed, Shape { inplace: false, ..Shape::all(5 + seed as usize % 6) });
            let model = Model::new(&problem, false);
            let once: u64 = model.units.iter().map(|unit| unit.time).sum();
            for budget in budgets(&model, [0, 2, 5]) {
                let faster_than = Some(3 * once + 1000);
                for runs in [None, Some(2)] {
                    let phases = Phases { model: &model, budget, integer: true, runs, faster_than, later: true };
                    let solution = phases.solve(&Options::default());
                    let order = match solution.verdict {
                        Verdict::Optimal => Some(solution.order()),
                        Verdict::Infeasible => None,
                        other => panic!("seed {seed}: {other:?}"),
                    };
                    let time = order.map(|order| Sim::default().run(&model, &order).time);
                    let rules = [
                        ALL,
                        Rules { bounds: false, ..ALL },
                        Rules { others: false, ..ALL },
                        Rules { ahead: false, ..ALL },
                    ];
                    for rules in rules {
                        let mut search = Search::new(&phases, None).expect("it is small");
                        search.rules = rules;
                        let walk = search.fastest(faster_than, &|| false);
                        assert!(walk.proved, "seed {seed}: there are no limits");
                        let score = walk.order.map(|order| Sim::default().run(&model, &order));
                        assert!(score.is_none_or(|score| score.peak <= budget), "seed {seed} budget {budget}");
                        let found = score.map(|score| score.time);
                        assert_eq!(found, time, "seed {seed} budget {budget} runs {runs:?}");
                        let any = search.any(&|| false);
                        assert!(any.proved && any.order.is_some() >= time.is_some(), "seed {seed} budget {budget}");
                        assert!(time.is_some() || any.order.is_none(), "seed {seed} budget {budget}");
                        for order in any.order.into_iter().chain(search.some(3, None, &|| false)) {
                            assert!(Sim::default().run(&model, &order).peak <= budget, "seed {seed} budget {budget}");
                        }
                    }
                    plans += usize::from(time.is_some());
                    none += usize::from(time.is_none());
                    let views: u64 = model.views.iter().map(|view| view.time).sum();
                    again += usize::from(time.is_some_and(|time| time > once + views));
                }
            }
        }
        assert!(plans > 200 && again > 60 && none > 20, "{plans} plans, {again} with second runs, {none} without");
    }
}
