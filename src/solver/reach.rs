//! Whether any plan fits at all: a search over what can be live at once.
//!
//! Where memory is so tight that a search for a plan finds none, the question is whether there is one. Time
//! does not matter for that, and without it a plan is a walk over sets of live storages:
//!
//! ```text
//! state    storages that live, units with side effects that ran
//! step     a unit whose reads live runs: its writes live too, if they fit beside everything that does
//! between  anything may be dropped
//! ```
//!
//! The sets that fit are few exactly where memory is tight. So they are gone through, those first from which
//! least is left to do, until one has all outputs or no new one is found. In the one case the runs on the way
//! there are an order for the simulator to judge; in the other no legal plan without offload fits, whatever its
//! order: docs/BOUNDS.md says why.
//!
//! What keeps the sets few, and loses none that matters:
//!
//! - More is better: of two states with the same units run, whatever follows the smaller set follows the larger
//!   one too, after a drop. So a unit that fits beside everything runs at once, and nothing is dropped
//!   but for a unit to fit, and then no more than it takes.
//! - What only one unit reads, which turns it into something no larger in the same place, is turned into it at once.
//! - What is made of one thing in its place waits until it is read, and what is made of nothing in no room but its own is never held.
//! - From a set from which the outputs cannot be made with room for everything nothing follows.
//!
//! Sizes below a threshold count nothing, from coarse to fine: what does not fit then does not fit.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use super::load::bytes;
use super::model::{Model, NONE};
use super::sim::Sim;

/// Words of bits in a state; graphs that need more have too many states.
const MOST_WORDS: usize = 16;
/// States remembered at most: about as many bytes as a hundred times that.
const STATES: usize = 1 << 21;
/// States that stand for an evaluation of an order, where nodes are limited.
pub(super) const NODES: u64 = 2;
/// Tenths of the time after which the search ends.
pub(super) const MOST: u32 = 7;
/// Sets of drops that are tried for one unit in one state.
const DROPS: usize = 512;
/// Ways to take over storage in place that are told apart for one unit.
const CHOICES: usize = 8;
/// Orders in which states are gone on with, in turns: by the time of what is left to do; by how deep in the graph that is, so that
/// what is lost of the beginning counts little; and the same but for what only an output is made of.
const QUEUES: usize = 3;
/// States gone on with side by side at first; more as more are known, as then it is mostly a proof that is looked for. (The number of cores must not
/// matter.)
const TOGETHER: usize = 8;
/// What is smaller than the largest storage by more than this factor does not count; in this order.
const FACTORS: [u64; 4] = [4, 32, 256, u64::MAX];

/// What came of it.
pub(super) enum Reach {
    /// An order that fits.
    Fits(Vec<u32>),
    /// No legal plan without offload fits.
    Never,
    /// The limits came first.
    Unknown,
}

/// Look for an order within `budget`, or a proof that there is none.
/// `most` states are remembered at most, where there is such a limit.
pub(super) fn search(model: &Model, budget: u64, most: Option<u64>, late: &(dyn Fn() -> bool + Sync)) -> Reach {
    let largest = (0..model.items.len()).map(|s| bytes(model, s as u32)).max().unwrap_or(0);
    let mut tried = usize::MAX;
    for factor in FACTORS {
        let threshold = (largest / factor).max(1);
        let counted = (0..model.items.len()).filter(|&s| bytes(model, s as u32) >= threshold).count();
        if std::mem::replace(&mut tried, counted) == counted {
            continue;
        }
        let most = most.map_or(STATES, |most| STATES.min(most as usize));
        let words = (model.items.len() + model.units.iter().filter(|unit| unit.once).count()).div_ceil(64);
        let walk = match words {
            0..=1 => States::<1>::new(model, budget, threshold, most).search(late),
            2 => States::<2>::new(model, budget, threshold, most).search(late),
            3..=4 => States::<4>::new(model, budget, threshold, most).search(late),
            5..=8 => States::<8>::new(model, budget, threshold, most).search(late),
            9..=MOST_WORDS => States::<MOST_WORDS>::new(model, budget, threshold, most).search(late),
            _ => return Reach::Unknown,
        };
        match walk {
            Walk::Done(order) => {
                let order = replayable(model, order);
                if let Some(order) = order.filter(|order| Sim::default().run(model, order).peak <= budget) {
                    return Reach::Fits(order);
                }
            }
            Walk::Over => return Reach::Never,
            Walk::Late => return Reach::Unknown,
        }
    }
    Reach::Unknown
}

/// The order without runs of no use, if it is one of the model's.
pub(super) fn replayable(model: &Model, mut order: Vec<u32>) -> Option<Vec<u32>> {
    order.push(model.units.len() as u32 - 1);
    Sim::default().prune(model, &mut order);
    let mut ran = vec![false; model.units.len()];
    for &u in &order {
        let unit = &model.units[u as usize];
        let made = |&s: &u32| model.items[s as usize].maker == NONE || ran[model.items[s as usize].maker as usize];
        if !unit.reads.iter().all(made) || (ran[u as usize] && !unit.replayable) {
            return None;
        }
        ran[u as usize] = true;
    }
    ran.iter().all(|&ran| ran).then_some(order)
}

/// How a search ended.
enum Walk {
    /// With a state that has everything, by these runs.
    Done(Vec<u32>),
    /// With no state left.
    Over,
    /// By its limits.
    Late,
}

/// A state, and what is left to do from there, for each queue.
type Next<const W: usize> = (Set<W>, [u128; QUEUES]);

/// A unit as the search sees it.
struct Unit<const W: usize> {
    reads: Set<W>,
    writes: Set<W>,
    /// What it reads that does not count.
    nothing: Set<W>,
    /// What it writes, as a list.
    list: Vec<u32>,
    workspace: u64,
    /// The bit that says that it ran, if it has side effects.
    once: Option<usize>,
    /// Ways to take over what is read: the bytes that saves, and what is gone then.
    choices: Vec<(u64, Vec<u32>)>,
    /// Its only read and its only write, where the one is always turned into the other.
    turns: Option<(u32, u32)>,
    /// How much doing it is worth to each queue.
    weights: [u128; QUEUES],
}

/// All states known.
struct States<const W: usize> {
    room: u64,
    bytes: Vec<u64>,
    units: Vec<Unit<W>>,
    /// What each item is turned into, if it is.
    turned: Vec<u32>,
    /// What each item is made of in place, by a unit that reads nothing else: the unit and what it reads.
    becomes: Vec<Option<(u32, u32)>>,
    /// What can be made of nothing that counts, in no more room than it takes itself, by these units: never kept.
    free: Vec<Option<Vec<u32>>>,
    /// States remembered at most.
    most: usize,
    /// Whether all drops were tried.
    complete: bool,
    /// What must live at the end, and have run.
    goal: Set<W>,
    free_items: Set<W>,
    all: Vec<Set<W>>,
    /// The state each one was reached from.
    from: Vec<u32>,
    /// Open addressing: places in `all`, plus one.
    table: Vec<u32>,
}

/// Items, and after them units with side effects that ran.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Set<const W: usize>([u64; W]);

impl<const W: usize> Set<W> {
    const NONE: Self = Self([0; W]);

    fn has(&self, bit: usize) -> bool {
        self.0[bit / 64] >> (bit % 64) & 1 == 1
    }

    fn put(&mut self, bit: usize) {
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    fn take(&mut self, bit: usize) {
        self.0[bit / 64] &= !(1 << (bit % 64));
    }

    fn within(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(part, whole)| part & !whole == 0)
    }

    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(here, there)| *here |= there);
    }

    fn without(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }

    fn bits(&self) -> impl Iterator<Item = usize> + use<W> {
        self.0.into_iter().enumerate().flat_map(|(word, bits)| {
            let mut left = bits;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(word * 64 + bit)
            })
        })
    }
}

impl<const W: usize> States<W> {
    fn new(model: &Model, budget: u64, threshold: u64, most: usize) -> Self {
        let counted = |s: usize| Some(bytes(model, s as u32)).filter(|&b| b >= threshold).unwrap_or(0);
        let bytes: Vec<u64> = (0..model.items.len()).map(counted).collect();
        let set = |list: &[u32]| {
            let mut set = Set::NONE;
            list.iter().filter(|&&s| model.items[s as usize].maker != NONE).for_each(|&s| set.put(s as usize));
            set
        };
        let end = model.units.len() - 1;
        let mut bit = model.items.len();
        let mut readers = vec![0u32; model.items.len()];
        model.units.iter().flat_map(|unit| &unit.reads).for_each(|&s| readers[s as usize] += 1);
        let mut goal: Set<W> = set(&model.units[end].reads);
        let depths = depths(model);
        let deepest = depths.iter().copied().max().unwrap_or(0).max(1);
        let mut becomes = vec![None; model.items.len()];
        let mut free: Vec<Option<Vec<u32>>> = vec![None; model.items.len()];
        let units = model.units[..end].iter().enumerate().map(|(u, unit)| {
            let once = unit.once.then_some(bit);
            bit += usize::from(unit.once);
            let pairs = super::load::Load::during(model, u).pairs;
            let saves = |w: u32, r: u32| bytes[w as usize].min(bytes[r as usize]);
            let pairs: Vec<(u32, u32)> = pairs.iter().map(|pair| (pair.write, pair.read)).collect();
            let turns = match (&pairs[..], &unit.writes[..]) {
                (&[(w, r)], &[only]) if w == only && !unit.once => {
                    let no_larger = bytes[w as usize] <= bytes[r as usize] && bytes[r as usize] > 0;
                    (readers[r as usize] == 1 && no_larger).then_some((r, w))
                }
                _ => None,
            };
            if let &[made] = &unit.writes[..]
                && unit.workspace == 0
                && !unit.once
                && bytes[made as usize] > 0
                && !goal.has(made as usize)
            {
                let mut counted = unit.reads.iter().filter(|&&s| bytes[s as usize] > 0);
                let first = match (counted.next(), counted.next()) {
                    (None, _) => Some(Vec::new()),
                    (Some(&r), None) if pairs.contains(&(made, r)) && bytes[r as usize] <= bytes[made as usize] => {
                        free[r as usize].clone()
                    }
                    _ => None,
                };
                free[made as usize] = first.map(|mut units| {
                    units.push(u as u32);
                    units
                });
            }
            if let (&[(w, r)], &[only], &[read]) = (&pairs[..], &unit.writes[..], &unit.reads[..]) {
                let same = w == only && r == read && bytes[w as usize] >= bytes[r as usize] && unit.workspace == 0;
                let apart = free[w as usize].is_none();
                if apart && same && !unit.once && turns.is_none() && bytes[r as usize] > 0 && !goal.has(w as usize) {
                    becomes[w as usize] = Some((u as u32, r));
                }
            }
            let sink = unit.writes.iter().all(|&s| readers[s as usize] == u32::from(goal.has(s as usize)));
            let deep = 1u128 << (60 * depths[u] / deepest).min(90);
            Unit {
                weights: [u128::from(unit.time), deep, if sink { 1 } else { deep }],
                reads: set(&unit.reads),
                writes: set(&unit.writes),
                nothing: set(&unit.reads.iter().copied().filter(|&s| bytes[s as usize] == 0).collect::<Vec<u32>>()),
                list: unit.writes.clone(),
                workspace: unit.workspace,
                once,
                choices: choices(&pairs, &saves),
                turns,
            }
        });
        let units: Vec<Unit<W>> = units.collect();
        units.iter().filter_map(|unit| unit.once).for_each(|bit| goal.put(bit));
        let mut free_items = Set::NONE;
        free.iter().enumerate().filter(|(_, units)| units.is_some()).for_each(|(s, _)| free_items.put(s));
        let mut turned = vec![NONE; model.items.len()];
        units.iter().filter_map(|unit| unit.turns).for_each(|(read, write)| turned[read as usize] = write);
        let room = budget.saturating_sub(model.resident);
        let (all, from, table) = (Vec::new(), Vec::new(), vec![0; 1 << 12]);
        let complete = true;
        Self { room, bytes, units, turned, becomes, free, free_items, most, complete, goal, all, from, table }
    }

    fn state(&self, index: u32) -> &Set<W> {
        &self.all[index as usize]
    }

    /// Items of a set.
    fn items(&self, set: &Set<W>) -> impl Iterator<Item = usize> + use<'_, W> {
        let items = self.bytes.len();
        set.bits().take_while(move |&s| s < items)
    }

    fn live(&self, set: &Set<W>) -> u64 {
        self.items(set).map(|s| self.bytes[s]).sum()
    }

    fn search(&mut self, late: &(dyn Fn() -> bool + Sync)) -> Walk {
        let mut open: [BinaryHeap<(Reverse<u128>, u32)>; QUEUES] = Default::default();
        let push = |open: &mut [BinaryHeap<_>; QUEUES], rest: [u128; QUEUES], index: u32| {
            open.iter_mut().zip(rest).for_each(|(queue, rest)| queue.push((Reverse(rest), index)));
        };
        let mut start = Set::NONE;
        self.saturate(&mut start, &mut |_| {});
        if let Some(rest) = self.rest(&start)
            && let Some(index) = self.add(&start, 0)
        {
            push(&mut open, rest, index);
        }
        let (mut done, mut turn): (Vec<bool>, usize) = (Vec::new(), 0);
        loop {
            done.resize(self.from.len(), false);
            let together = TOGETHER + self.from.len() / 128;
            let mut some: Vec<u32> = Vec::with_capacity(together);
            // All queues hold every state that is not done.
            while some.len() < together
                && let Some((_, index)) = open[turn].pop()
            {
                if !std::mem::replace(&mut done[index as usize], true) {
                    turn = (turn + 1) % QUEUES;
                    some.push(index);
                }
            }
            let all = |index: &&u32| self.goal.within(self.state(**index));
            if let Some(&index) = some.iter().find(all) {
                return Walk::Done(self.trail(index));
            }
            if some.is_empty() {
                return if self.complete { Walk::Over } else { Walk::Late };
            }
            if late() || self.from.len() > self.most {
                return Walk::Late;
            }
            let next: Vec<(u32, bool, Vec<Next<W>>)> =
                some.into_par_iter().map(|index| self.next(index, late)).collect();
            for (index, complete, states) in next {
                self.complete &= complete;
                for (state, rest) in states {
                    if let Some(new) = self.add(&state, index) {
                        push(&mut open, rest, new);
                    }
                }
            }
        }
    }

    /// What follows a state but for what is known and what leads nowhere, and whether that is all.
    fn next(&self, index: u32, late: &(dyn Fn() -> bool + Sync)) -> (u32, bool, Vec<Next<W>>) {
        if late() {
            return (index, false, Vec::new());
        }
        let mut states: Vec<Next<W>> = Vec::new();
        let complete = self.moves(self.state(index), &mut |_, mut next| {
            self.saturate(&mut next, &mut |_| {});
            if self.find(&next).is_err()
                && let Some(rest) = self.rest(&next)
            {
                states.push((next, rest));
            }
        });
        (index, complete, states)
    }

    /// Where a state is in the table, or the place for it.
    fn find(&self, state: &Set<W>) -> std::result::Result<usize, usize> {
        let mut at = self.slot(state);
        while self.table[at] != 0 {
            if *self.state(self.table[at] - 1) == *state {
                return Ok(at);
            }
            at = (at + 1) % self.table.len();
        }
        Err(at)
    }

    /// Remember a state: its number; `None` where it is known.
    fn add(&mut self, state: &Set<W>, from: u32) -> Option<u32> {
        let place = self.find(state).err()?;
        let index = self.from.len() as u32;
        self.all.push(*state);
        self.from.push(from);
        self.table[place] = index + 1;
        if self.from.len() * 2 > self.table.len() {
            self.table = vec![0; self.table.len() * 2];
            for index in 0..self.from.len() as u32 {
                let mut at = self.slot(self.state(index));
                while self.table[at] != 0 {
                    at = (at + 1) % self.table.len();
                }
                self.table[at] = index + 1;
            }
        }
        Some(index)
    }

    fn slot(&self, state: &Set<W>) -> usize {
        let mix = |hash: u64, &word: &u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = state.0.iter().fold(0, mix);
        (hash ^ hash >> 32) as usize % self.table.len()
    }

    /// Run what fits beside everything, and turn what has one use into what it is used for.
    fn saturate(&self, state: &mut Set<W>, tell: &mut dyn FnMut(u32)) {
        *state = state.without(&self.free_items);
        let mut live = self.live(state);
        loop {
            let mut freed = false;
            for (u, unit) in self.units.iter().enumerate() {
                if unit.once.is_some() || !unit.reads.within(state) {
                    continue;
                }
                if self.lacks(unit, state) {
                    let made = self.live(&unit.writes.without(state));
                    if live + made + unit.workspace <= self.room {
                        state.add(&unit.writes);
                        live += made;
                        tell(u as u32);
                    }
                }
                if let Some((read, write)) = unit.turns.filter(|turns| state.has(turns.0 as usize)) {
                    if !state.has(write as usize) {
                        // In its place: what it grows by is nothing.
                        if live + unit.workspace > self.room {
                            continue;
                        }
                        state.put(write as usize);
                        live += self.bytes[write as usize];
                        tell(u as u32);
                    }
                    state.take(read as usize);
                    live -= self.bytes[read as usize];
                    freed = true;
                }
            }
            // Units stand in a valid order, so that only room allows what did not run before.
            if !freed {
                break;
            }
        }
    }

    /// Whether a unit makes something that does not live, nor what it is turned into.
    fn lacks(&self, unit: &Unit<W>, state: &Set<W>) -> bool {
        !unit.writes.within(state)
            && unit.list.iter().any(|&s| {
                let mut s = s as usize;
                while !state.has(s) && self.turned[s] != NONE {
                    s = self.turned[s] as usize;
                }
                !state.has(s) && !self.free_items.has(s)
            })
    }

    /// What has to run with room for everything, by its weights; `None` where that cannot be.
    fn rest(&self, state: &Set<W>) -> Option<[u128; QUEUES]> {
        let mut wanted = self.goal.without(state);
        let mut rest = [0; QUEUES];
        for unit in self.units.iter().rev() {
            let ran = unit.once.map(|bit| state.has(bit));
            if !unit.writes.meets(&wanted) && ran != Some(false) {
                continue;
            }
            // What it made is gone for good.
            if ran == Some(true) {
                return None;
            }
            rest.iter_mut().zip(unit.weights).for_each(|(rest, weight)| *rest += weight);
            wanted.add(&unit.reads.without(state));
        }
        Some(rest)
    }

    /// Every state one step further, with what runs; false if not all were tried.
    fn moves(&self, state: &Set<W>, tell: &mut dyn FnMut(&[u32], Set<W>)) -> bool {
        let mut complete = true;
        let mut runs: Vec<u32> = Vec::new();
        let mut others: Vec<usize> = Vec::new();
        for (u, unit) in self.units.iter().enumerate() {
            let idle = match unit.once {
                Some(bit) => state.has(bit),
                None => !self.lacks(unit, state),
            };
            let mut there = *state;
            if idle || !self.ready(unit, &mut there, &mut runs) {
                continue;
            }
            runs.push(u as u32);
            let mut with = there;
            with.add(&unit.writes);
            let during = self.live(&with) + unit.workspace;
            others.clear();
            let apart = there.without(&unit.reads).without(&unit.writes);
            others.extend(self.items(&apart).filter(|&s| self.bytes[s] > 0));
            others.sort_by_key(|&s| (Reverse(self.bytes[s]), s));
            for (saves, gone) in &unit.choices {
                // Put off until what is made is read.
                if !gone.is_empty() && self.becomes[unit.list[0] as usize].is_some_and(|it| it.0 == u as u32) {
                    continue;
                }
                let mut next = with;
                gone.iter().for_each(|&s| next.take(s as usize));
                if let Some(bit) = unit.once {
                    next.put(bit);
                }
                let excess = (during - saves).saturating_sub(self.room);
                let mut left = DROPS;
                complete &= self.drops(&others, excess, &mut next, &mut left, &mut |next| tell(&runs, *next));
            }
        }
        complete
    }

    /// Whether all that a unit reads lives, or can be made of what lives in its place: then `state` is the one with that, and
    /// `runs` what makes it.
    fn ready(&self, unit: &Unit<W>, state: &mut Set<W>, runs: &mut Vec<u32>) -> bool {
        runs.clear();
        for missing in unit.reads.without(state).bits() {
            let (first, mut s) = (runs.len(), missing);
            if let Some(units) = &self.free[s] {
                // What does not count is there for good once it was made.
                if !units.iter().all(|&u| self.units[u as usize].nothing.within(state)) {
                    return false;
                }
                runs.extend(units);
                state.put(s);
                continue;
            }
            while !state.has(s) {
                let Some((maker, from)) = self.becomes[s] else { return false };
                runs.push(maker);
                s = from as usize;
            }
            // It is read itself.
            if unit.reads.has(s) {
                return false;
            }
            runs[first..].reverse();
            state.take(s);
            state.put(missing);
        }
        true
    }

    /// Every smallest set of drops that frees so much; false if there are too many.
    fn drops(
        &self,
        others: &[usize],
        excess: u64,
        next: &mut Set<W>,
        left: &mut usize,
        tell: &mut dyn FnMut(&Set<W>),
    ) -> bool {
        if excess == 0 {
            tell(next);
            *left -= usize::from(*left > 0);
            return *left > 0;
        }
        // Larger ones come first, so that without any one of a set that suffices it does not.
        let mut after: u64 = others.iter().map(|&s| self.bytes[s]).sum();
        for (k, &s) in others.iter().enumerate() {
            if after < excess {
                break;
            }
            after -= self.bytes[s];
            next.take(s);
            let fine = self.drops(&others[k + 1..], excess.saturating_sub(self.bytes[s]), next, left, tell);
            next.put(s);
            if !fine {
                return false;
            }
        }
        true
    }

    /// The runs that led to a state.
    fn trail(&self, index: u32) -> Vec<u32> {
        let mut path = vec![index];
        while let Some(&last) = path.last().filter(|&&last| last != 0) {
            path.push(self.from[last as usize]);
        }
        path.reverse();
        let mut order = Vec::new();
        let mut start = Set::NONE;
        self.saturate(&mut start, &mut |u| order.push(u));
        for step in path.windows(2) {
            let (before, after) = (self.state(step[0]), self.state(step[1]));
            let mut runs: Option<Vec<u32>> = None;
            self.moves(before, &mut |first, mut next| {
                if runs.is_none() {
                    let mut ran = first.to_vec();
                    self.saturate(&mut next, &mut |u| ran.push(u));
                    runs = (next == *after).then_some(ran);
                }
            });
            order.extend(runs.unwrap_or_default());
        }
        order
    }
}

/// The longest way to each unit.
fn depths(model: &Model) -> Vec<usize> {
    let mut depths = vec![0; model.units.len()];
    for (u, unit) in model.units.iter().enumerate() {
        let makers = unit.reads.iter().map(|&s| model.items[s as usize].maker).filter(|&maker| maker != NONE);
        depths[u] = makers.map(|maker| depths[maker as usize] + 1).max().unwrap_or(0);
    }
    depths
}

/// Every set of pairs (written, read) in which nothing stands twice, as the bytes it saves and what is gone. Where there are too many
/// all outputs save what they can and nothing is gone.
fn choices(pairs: &[(u32, u32)], saves: &dyn Fn(u32, u32) -> u64) -> Vec<(u64, Vec<u32>)> {
    let mut all: Vec<(u64, Vec<u32>, Vec<u32>)> = vec![(0, Vec::new(), Vec::new())];
    for &(w, r) in pairs.iter().filter(|&&(w, r)| saves(w, r) > 0) {
        let with = |(saved, gone, made): &(u64, Vec<u32>, Vec<u32>)| {
            let free = !gone.contains(&r) && !made.contains(&w);
            let add = |list: &[u32], s: u32| list.iter().copied().chain([s]).collect();
            free.then(|| (saved + saves(w, r), add(gone, r), add(made, w)))
        };
        let more: Vec<_> = all.iter().filter_map(with).collect();
        all.extend(more);
        if all.len() > CHOICES {
            let mut most: Vec<(u32, u64)> = pairs.iter().map(|&(w, r)| (w, saves(w, r))).collect();
            most.sort_unstable_by(|a, b| b.cmp(a));
            most.dedup_by_key(|it| it.0);
            return vec![(most.iter().map(|it| it.1).sum(), Vec::new())];
        }
    }
    all.into_iter().map(|(saved, gone, _)| (saved, gone)).collect()
}
