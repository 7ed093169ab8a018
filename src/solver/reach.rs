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
//! - From a set from which the outputs cannot be made with room for everything nothing follows.
//!
//! Sizes below a threshold count nothing, from coarse to fine: what does not fit then does not fit.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use super::load::bytes;
use super::model::{Model, NONE};
use super::sim::Sim;

/// Units of a graph above which there are too many sets.
const MOST_UNITS: usize = 1500;
/// States remembered at most: about as many bytes as a hundred times that.
const STATES: usize = 1 << 21;
/// States that stand for an evaluation of an order, where nodes are limited.
pub(super) const NODES: u64 = 16;
/// Tenths of the time after which the search ends.
pub(super) const MOST: u32 = 6;
/// Sets of drops that are tried for one unit in one state.
const DROPS: usize = 4096;
/// Ways to take over storage in place that are told apart for one unit.
const CHOICES: usize = 8;
/// Orders in which states are gone on with, in turns: by the time of what is left to do; by how deep in the graph that is, so that
/// what is lost of the beginning counts little; and the same but for what only an output is made of.
const QUEUES: usize = 3;
/// States gone on with side by side: a constant, so that results do not depend on the number of cores.
const TOGETHER: usize = 32;
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
pub(super) fn search(model: &Model, budget: u64, most: Option<u64>, late: &dyn Fn() -> bool) -> Reach {
    if model.units.len() > MOST_UNITS {
        return Reach::Unknown;
    }
    let largest = (0..model.items.len()).map(|s| bytes(model, s as u32)).max().unwrap_or(0);
    let mut tried = usize::MAX;
    for factor in FACTORS {
        let threshold = (largest / factor).max(1);
        let counted = (0..model.items.len()).filter(|&s| bytes(model, s as u32) >= threshold).count();
        if std::mem::replace(&mut tried, counted) == counted {
            continue;
        }
        let mut states = States::new(model, budget, threshold);
        states.most = most.map_or(STATES, |most| STATES.min(most as usize));
        match states.search(late) {
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
fn replayable(model: &Model, mut order: Vec<u32>) -> Option<Vec<u32>> {
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
type Next = (Vec<u64>, [u128; QUEUES]);

/// A unit as the search sees it.
struct Unit {
    reads: Vec<u64>,
    writes: Vec<u64>,
    /// What it reads that does not count.
    nothing: Vec<u64>,
    /// What it writes, as a list.
    list: Vec<u32>,
    workspace: u64,
    /// Its place among the units with side effects.
    once: Option<usize>,
    /// Ways to take over what is read: the bytes that saves, and what is gone then.
    choices: Vec<(u64, Vec<u32>)>,
    /// Its only read and its only write, where the one is always turned into the other.
    turns: Option<(u32, u32)>,
    /// How much doing it is worth to each queue.
    weights: [u128; QUEUES],
}

/// All states known: sets of items, and after them of units with side effects, as words of bits.
struct States<'a, 'm> {
    model: &'a Model<'m>,
    room: u64,
    bytes: Vec<u64>,
    units: Vec<Unit>,
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
    /// Words of a state, and of these the words of items.
    words: usize,
    items: usize,
    goal: Vec<u64>,
    once: Vec<u64>,
    all: Vec<u64>,
    /// The state each one was reached from.
    from: Vec<u32>,
    /// Open addressing: places in `all`, plus one.
    table: Vec<u32>,
}

fn has(set: &[u64], bit: usize) -> bool {
    set[bit / 64] >> (bit % 64) & 1 == 1
}

fn put(set: &mut [u64], bit: usize) {
    set[bit / 64] |= 1 << (bit % 64);
}

fn take(set: &mut [u64], bit: usize) {
    set[bit / 64] &= !(1 << (bit % 64));
}

fn within(part: &[u64], set: &[u64]) -> bool {
    part.iter().zip(set).all(|(part, set)| part & !set == 0)
}

impl<'a, 'm> States<'a, 'm> {
    fn new(model: &'a Model<'m>, budget: u64, threshold: u64) -> Self {
        let counted = |s: usize| Some(bytes(model, s as u32)).filter(|&b| b >= threshold).unwrap_or(0);
        let bytes: Vec<u64> = (0..model.items.len()).map(counted).collect();
        let items = model.items.len().div_ceil(64).max(1);
        let set = |list: &[u32]| {
            let mut set = vec![0u64; items];
            list.iter().filter(|&&s| model.items[s as usize].maker != NONE).for_each(|&s| put(&mut set, s as usize));
            set
        };
        let end = model.units.len() - 1;
        let mut onces = 0;
        let mut readers = vec![0u32; model.items.len()];
        model.units.iter().flat_map(|unit| &unit.reads).for_each(|&s| readers[s as usize] += 1);
        let goal = set(&model.units[end].reads);
        let depths = depths(model);
        let deepest = depths.iter().copied().max().unwrap_or(0).max(1);
        let mut becomes = vec![None; model.items.len()];
        let mut free: Vec<Option<Vec<u32>>> = vec![None; model.items.len()];
        let units = model.units[..end].iter().enumerate().map(|(u, unit)| {
            let once = unit.once.then_some(onces);
            onces += usize::from(unit.once);
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
                && !has(&goal, made as usize)
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
                if apart && same && !unit.once && turns.is_none() && bytes[r as usize] > 0 && !has(&goal, w as usize) {
                    becomes[w as usize] = Some((u as u32, r));
                }
            }
            let sink = unit.writes.iter().all(|&s| readers[s as usize] == u32::from(has(&goal, s as usize)));
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
        let units: Vec<Unit> = units.collect();
        let mut turned = vec![NONE; model.items.len()];
        units.iter().filter_map(|unit| unit.turns).for_each(|(read, write)| turned[read as usize] = write);
        let words = items + onces.div_ceil(64);
        let mut once = vec![0u64; words - items];
        (0..onces).for_each(|k| put(&mut once, k));
        let room = budget.saturating_sub(model.resident);
        let (all, from, table) = (Vec::new(), Vec::new(), vec![0; 1 << 12]);
        Self { model, room, bytes, units, turned, becomes, free, most: STATES, complete: true, words, items, goal, once, all, from, table }
    }

    fn state(&self, index: u32) -> &[u64] {
        &self.all[index as usize * self.words..][..self.words]
    }

    fn live(&self, state: &[u64]) -> u64 {
        self.members(state).map(|s| self.bytes[s]).sum()
    }

    fn members<'s>(&self, state: &'s [u64]) -> impl Iterator<Item = usize> + use<'s> {
        state[..self.items].iter().enumerate().flat_map(|(word, &bits)| {
            let mut bits = bits;
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
                bits &= bits - 1;
                Some(word * 64 + bit)
            })
        })
    }

    fn search(&mut self, late: &dyn Fn() -> bool) -> Walk {
        let mut open: [BinaryHeap<(Reverse<u128>, u32)>; QUEUES] = Default::default();
        let push = |open: &mut [BinaryHeap<_>; QUEUES], rest: [u128; QUEUES], index: u32| {
            open.iter_mut().zip(rest).for_each(|(queue, rest)| queue.push((Reverse(rest), index)));
        };
        let mut start = vec![0u64; self.words];
        self.saturate(&mut start, &mut |_| {});
        if let Some(rest) = self.rest(&start)
            && let Some(index) = self.add(&start, 0)
        {
            push(&mut open, rest, index);
        }
        let (mut done, mut turn): (Vec<bool>, usize) = (Vec::new(), 0);
        loop {
            done.resize(self.from.len(), false);
            let mut some: Vec<u32> = Vec::with_capacity(TOGETHER);
            // All queues hold every state that is not done.
            while some.len() < TOGETHER
                && let Some((_, index)) = open[turn].pop()
            {
                if !std::mem::replace(&mut done[index as usize], true) {
                    turn = (turn + 1) % QUEUES;
                    some.push(index);
                }
            }
            let all = |index: &&u32| {
                let state = self.state(**index);
                within(&self.goal, state) && within(&self.once, &state[self.items..])
            };
            if let Some(&index) = some.iter().find(all) {
                return Walk::Done(self.trail(index));
            }
            if some.is_empty() {
                return if self.complete { Walk::Over } else { Walk::Late };
            }
            if late() || self.from.len() > self.most {
                return Walk::Late;
            }
            let next: Vec<(u32, bool, Vec<Next>)> = some.into_par_iter().map(|index| self.next(index)).collect();
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
    fn next(&self, index: u32) -> (u32, bool, Vec<Next>) {
        let mut states: Vec<Next> = Vec::new();
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
    fn find(&self, state: &[u64]) -> std::result::Result<usize, usize> {
        let mut at = self.slot(state);
        while self.table[at] != 0 {
            if self.state(self.table[at] - 1) == state {
                return Ok(at);
            }
            at = (at + 1) % self.table.len();
        }
        Err(at)
    }

    /// Remember a state: its number; `None` where it is known.
    fn add(&mut self, state: &[u64], from: u32) -> Option<u32> {
        let place = self.find(state).err()?;
        let index = self.from.len() as u32;
        self.all.extend_from_slice(state);
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

    fn slot(&self, state: &[u64]) -> usize {
        let mix = |hash: u64, &word: &u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = state.iter().fold(0, mix);
        (hash ^ hash >> 32) as usize % self.table.len()
    }

    /// Run what fits beside everything, and turn what has one use into what it is used for.
    fn saturate(&self, state: &mut [u64], tell: &mut dyn FnMut(u32)) {
        let free = self.members(state).filter(|&s| self.free[s].is_some()).collect::<Vec<usize>>();
        free.into_iter().for_each(|s| take(state, s));
        let mut live = self.live(state);
        loop {
            let mut changed = false;
            for (u, unit) in self.units.iter().enumerate() {
                if unit.once.is_some() || !within(&unit.reads, state) {
                    continue;
                }
                if self.lacks(unit, state) {
                    let made = self.made(unit, state);
                    if live + made + unit.workspace <= self.room {
                        unit.writes.iter().zip(&mut *state).for_each(|(writes, state)| *state |= writes);
                        live += made;
                        tell(u as u32);
                        changed = true;
                    }
                }
                if let Some((read, write)) = unit.turns.filter(|turns| has(state, turns.0 as usize)) {
                    if !has(state, write as usize) {
                        // In its place: what it grows by is nothing.
                        if live + unit.workspace > self.room {
                            continue;
                        }
                        put(state, write as usize);
                        live += self.bytes[write as usize];
                        tell(u as u32);
                    }
                    take(state, read as usize);
                    live -= self.bytes[read as usize];
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
    }

    /// Whether a unit makes something that does not live, nor what it is turned into.
    fn lacks(&self, unit: &Unit, state: &[u64]) -> bool {
        !within(&unit.writes, state)
            && unit.list.iter().any(|&s| {
                let mut s = s as usize;
                while !has(state, s) && self.turned[s] != NONE {
                    s = self.turned[s] as usize;
                }
                !has(state, s) && self.free[s].is_none()
            })
    }

    /// Bytes of what a unit makes that does not live.
    fn made(&self, unit: &Unit, state: &[u64]) -> u64 {
        let mut made = 0;
        for (word, (&writes, &state)) in unit.writes.iter().zip(state).enumerate() {
            let mut bits = writes & !state;
            while bits != 0 {
                made += self.bytes[word * 64 + bits.trailing_zeros() as usize];
                bits &= bits - 1;
            }
        }
        made
    }

    /// The time of all that has to run with room for everything; `None` where that cannot be.
    fn rest(&self, state: &[u64]) -> Option<[u128; QUEUES]> {
        let mut wanted: Vec<u64> = self.goal.iter().zip(state).map(|(goal, state)| goal & !state).collect();
        let mut rest = [0; QUEUES];
        for unit in self.units.iter().rev() {
            let ran = unit.once.map(|k| has(&state[self.items..], k));
            let read = unit.writes.iter().zip(&wanted).any(|(writes, wanted)| writes & wanted != 0);
            if !read && ran != Some(false) {
                continue;
            }
            // What it made is gone for good.
            if ran == Some(true) {
                return None;
            }
            rest.iter_mut().zip(unit.weights).for_each(|(rest, weight)| *rest += weight);
            for ((wanted, reads), state) in wanted.iter_mut().zip(&unit.reads).zip(state) {
                *wanted |= reads & !state;
            }
        }
        Some(rest)
    }

    /// Every state one step further, with what runs; false if not all were tried.
    fn moves(&self, state: &[u64], tell: &mut dyn FnMut(&[u32], Vec<u64>)) -> bool {
        let mut complete = true;
        let mut changed = state.to_vec();
        let mut runs: Vec<u32> = Vec::new();
        for (u, unit) in self.units.iter().enumerate() {
            let ran = unit.once.is_some_and(|k| has(&state[self.items..], k));
            let idle = unit.once.is_none() && !self.lacks(unit, state);
            if ran || idle || !self.ready(unit, state, &mut changed, &mut runs) {
                continue;
            }
            runs.push(u as u32);
            let state = &changed;
            let during = self.live(state) + self.made(unit, state) + unit.workspace;
            let own = |s: usize| has(&unit.reads, s) || has(&unit.writes, s);
            let mut others: Vec<usize> = self.members(state).filter(|&s| self.bytes[s] > 0 && !own(s)).collect();
            others.sort_by_key(|&s| (Reverse(self.bytes[s]), s));
            for (saves, gone) in &unit.choices {
                // Put off until what is made is read.
                if !gone.is_empty() && self.becomes[unit.list[0] as usize].is_some_and(|it| it.0 == u as u32) {
                    continue;
                }
                let mut next = state.to_vec();
                unit.writes.iter().zip(&mut next).for_each(|(writes, next)| *next |= writes);
                gone.iter().for_each(|&s| take(&mut next, s as usize));
                if let Some(k) = unit.once {
                    put(&mut next[self.items..], k);
                }
                let excess = (during - saves).saturating_sub(self.room);
                let mut left = DROPS;
                complete &=
                    self.drops(&others, excess, &mut next, &mut left, &mut |next| tell(&runs, next.to_vec()));
            }
        }
        complete
    }

    /// Whether all that a unit reads lives, or can be made of what lives in its place: then `changed` is the state with that, and
    /// `runs` what makes it.
    fn ready(&self, unit: &Unit, state: &[u64], changed: &mut [u64], runs: &mut Vec<u32>) -> bool {
        runs.clear();
        changed.copy_from_slice(state);
        for (word, (&reads, &there)) in unit.reads.iter().zip(state).enumerate() {
            let mut bits = reads & !there;
            while bits != 0 {
                let missing = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let (first, mut s) = (runs.len(), missing);
                if let Some(units) = &self.free[s] {
                    // What does not count is there for good once it was made.
                    if !units.iter().all(|&u| within(&self.units[u as usize].nothing, state)) {
                        return false;
                    }
                    runs.extend(units);
                    put(changed, s);
                    continue;
                }
                while !has(changed, s) {
                    let Some((maker, from)) = self.becomes[s] else { return false };
                    runs.push(maker);
                    s = from as usize;
                }
                // It is read itself.
                if has(&unit.reads, s) {
                    return false;
                }
                runs[first..].reverse();
                take(changed, s);
                put(changed, missing);
            }
        }
        true
    }

    /// Every smallest set of drops that frees so much; false if there are too many.
    fn drops(
        &self,
        others: &[usize],
        excess: u64,
        next: &mut Vec<u64>,
        left: &mut usize,
        tell: &mut dyn FnMut(&[u64]),
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
            take(next, s);
            let fine = self.drops(&others[k + 1..], excess.saturating_sub(self.bytes[s]), next, left, tell);
            put(next, s);
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
        let mut start = vec![0u64; self.words];
        self.saturate(&mut start, &mut |u| order.push(u));
        for step in path.windows(2) {
            let (before, after) = (self.state(step[0]), self.state(step[1]));
            let mut runs: Option<Vec<u32>> = None;
            self.moves(before, &mut |first, mut next| {
                if runs.is_none() {
                    let mut ran = first.to_vec();
                    self.saturate(&mut next, &mut |u| ran.push(u));
                    runs = (next == after).then_some(ran);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore]
    fn probe() {
        let file = std::env::var("P").unwrap();
        let problem = crate::cost::Problem::load(file).unwrap();
        let model = Model::new(&problem, true);
        for b in std::env::var("B").unwrap().split(',') {
            let budget: u64 = b.parse().unwrap();
            let started = std::time::Instant::now();
            let limit: u64 = std::env::var("S").map_or(60, |s| s.parse().unwrap());
            let end = started + std::time::Duration::from_secs(limit);
            let largest = (0..model.items.len()).map(|s| bytes(&model, s as u32)).max().unwrap_or(0);
            for factor in FACTORS {
                let mut states = States::new(&model, budget, (largest / factor).max(1));
                let told = match states.search(&|| std::time::Instant::now() > end) {
                    Walk::Done(order) => {
                        let order = replayable(&model, order).map(|o| (o.len(), Sim::default().run(&model, &o)));
                        format!("done {order:?}")
                    }
                    Walk::Over => "over".into(),
                    Walk::Late => "late".into(),
                };
                println!("{budget} factor {factor}: {told} {} states {:.1?}", states.from.len(), started.elapsed());
                if told == "over" {
                    break;
                }
            }
        }
    }
}
