//! An order of units that can be edited, its live bytes kept up to date.
//!
//! [`Sim`](super::sim::Sim) evaluates a whole order. A search that puts in or takes out one run at
//! a time needs less than that: runs stand in slots with free ones between them, each life of a
//! storage is an interval of slots, and a tree over the slots (range add, range maximum) holds the
//! bytes live in each. An edit costs O(log n) for each storage that the run touches.
//!
//! ```text
//! slot     0   1   2   3   4   5   6   7
//! run      .   a   .   b   .   .   .   c
//! life         =========                    made by a, last read by b
//! life                 ==================   made by b, last read by c
//! ```
//!
//! A life that another takes over in place ends one slot early; the other has at least its bytes.
//! The peak is exactly that of [`Sim`](super::sim::Sim); a test says so.

use std::ops::Range;

use super::model::{Model, NONE};

/// Slots for each run of a loaded order; twice as many each time they do not suffice, up to a most.
const SPACE: usize = 4;
const MOST_SPACE: usize = 16;
/// What is taken off a slot without a run, so that no peak lies there.
const EMPTY: i64 = 1 << 60;

/// Sizes no machine has are cut, so that sums stay below [`EMPTY`].
fn counted(bytes: u64) -> i64 {
    bytes.min(1 << 48) as i64
}

/// Where an item is touched, and whether it is made there.
type Touch = (usize, bool);

/// A life of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    /// Where it is made, and where it is touched for the last time.
    from: u32,
    last: u32,
    /// Another takes it over at `last`.
    taken: bool,
    bytes: i64,
}

impl Life {
    /// The slots during which its bytes count.
    fn slots(&self) -> (usize, usize) {
        (self.from as usize, self.last as usize + usize::from(!self.taken))
    }
}

/// See the module's description.
#[derive(Default)]
pub(super) struct Tape {
    /// The unit in each slot, or [`NONE`].
    units: Vec<u32>,
    runs: usize,
    space: usize,
    /// Where each item is touched: twice the slot, and one more where it is made; ascending.
    touches: Vec<Vec<u32>>,
    lives: Vec<Vec<Life>>,
    live: Tree,
    /// Items whose lives may have changed.
    queue: Vec<u32>,
    fresh: Vec<Life>,
    /// Elementary steps so far, in about the time that one position takes a simulation.
    pub work: u64,
}

impl Tape {
    /// Begin with an order; every unit it reads from must stand before it.
    pub fn load(&mut self, model: &Model, order: &[u32]) {
        self.space = SPACE;
        self.place(model, order, 0..0);
    }

    /// Load an order, with more room than elsewhere before the run at the end of `wide`, as much as
    /// for all of its runs and some more.
    fn place(&mut self, model: &Model, order: &[u32], wide: Range<usize>) {
        self.work += 2 * order.len() as u64;
        let extra = 4 * wide.len();
        let slot_of = |position: usize| {
            (position + 1) * self.space - 1 + if !wide.is_empty() && position >= wide.end { extra } else { 0 }
        };
        self.units.clear();
        self.units.resize(order.len() * self.space + extra, NONE);
        self.runs = order.len();
        self.touches.resize_with(model.items.len(), Vec::new);
        self.lives.resize_with(model.items.len(), Vec::new);
        self.touches.iter_mut().for_each(Vec::clear);
        self.lives.iter_mut().for_each(Vec::clear);
        self.queue.clear();
        let mut bytes = vec![-EMPTY; self.units.len()];
        for (position, &u) in order.iter().enumerate() {
            let slot = slot_of(position);
            self.units[slot] = u;
            let unit = &model.units[u as usize];
            bytes[slot] = counted(unit.workspace);
            unit.reads.iter().for_each(|&s| self.touches[s as usize].push(2 * slot as u32));
            unit.writes.iter().for_each(|&s| self.touches[s as usize].push(2 * slot as u32 + 1));
        }
        // Change of the live bytes from slot to slot. Units stand in a valid order, so what may be
        // taken over has its bytes before what takes it over.
        let mut change = vec![0i64; self.units.len() + 1];
        for &s in model.units.iter().flat_map(|u| &u.writes) {
            let mut lives = std::mem::take(&mut self.lives[s as usize]);
            self.lives_of(model, s, &mut lives);
            for life in &lives {
                let (from, to) = life.slots();
                change[from] += life.bytes;
                change[to] -= life.bytes;
            }
            self.lives[s as usize] = lives;
        }
        let mut live = counted(model.resident);
        for (bytes, change) in bytes.iter_mut().zip(&change) {
            live += change;
            *bytes += live;
        }
        self.live.load(&bytes);
    }

    /// The order as it stands.
    pub fn order(&self) -> Vec<u32> {
        self.units.iter().copied().filter(|&u| u != NONE).collect()
    }

    /// Whether it stands at this order.
    pub fn holds(&self, order: &[u32]) -> bool {
        self.runs == order.len() && self.units.iter().filter(|&&u| u != NONE).eq(order)
    }

    /// The number of runs.
    pub fn len(&self) -> usize {
        self.runs
    }

    /// The unit in a slot.
    pub fn unit(&self, slot: usize) -> u32 {
        self.units[slot]
    }

    /// The most live bytes, and the first slot where they are reached.
    pub fn peak(&self, model: &Model) -> (u64, usize) {
        let (peak, at) = self.live.peak();
        (peak.max(counted(model.resident)) as u64, at)
    }

    /// Live bytes in a slot.
    pub fn live(&self, slot: usize) -> u64 {
        self.live.most(slot, slot + 1).max(0) as u64
    }

    /// The most live bytes in a range of slots; zero where nothing runs.
    pub fn most(&self, from: usize, to: usize) -> u64 {
        if from < to { self.live.most(from, to).max(0) as u64 } else { 0 }
    }

    /// Where an item is touched, ascending.
    pub fn touches(&self, item: u32) -> impl DoubleEndedIterator<Item = Touch> + '_ {
        self.touches[item as usize].iter().map(|&t| (t as usize / 2, t & 1 == 1))
    }

    /// The last touch before a slot and the first one at or after it.
    pub fn around(&self, item: u32, slot: usize) -> (Option<Touch>, Option<Touch>) {
        let touches = &self.touches[item as usize];
        let next = touches.partition_point(|&t| (t as usize) < 2 * slot);
        let at = |i: usize| touches.get(i).map(|&t| (t as usize / 2, t & 1 == 1));
        (next.checked_sub(1).and_then(at), at(next))
    }

    /// Run `chain` right before the run in `slot`. Where there is no room left all runs move: the
    /// new slot of each old one is returned then.
    pub fn insert(&mut self, model: &Model, slot: usize, chain: &[u32]) -> Option<Vec<u32>> {
        let free = self.units[..slot].iter().rev().take_while(|&&u| u == NONE).count();
        if free < chain.len() {
            let mut order = Vec::with_capacity(self.runs + chain.len());
            let mut old: Vec<usize> = Vec::with_capacity(self.runs + chain.len());
            let mut wide = 0..0;
            for (place, &u) in self.units.iter().enumerate().filter(|(_, u)| **u != NONE) {
                if place == slot {
                    wide = order.len()..order.len() + chain.len();
                    order.extend_from_slice(chain);
                    old.resize(order.len(), usize::MAX);
                }
                order.push(u);
                old.push(place);
            }
            let mut moved = vec![NONE; self.units.len()];
            self.space = (2 * self.space).min(MOST_SPACE);
            self.place(model, &order, wide);
            let new = (0..self.units.len()).filter(|&place| self.units[place] != NONE);
            for (old, new) in old.into_iter().zip(new).filter(|(old, _)| *old != usize::MAX) {
                moved[old] = new as u32;
            }
            return Some(moved);
        }
        // To the left, so that there is room for others right before the slot.
        for (i, &u) in chain.iter().enumerate() {
            self.put(model, slot - free + i, u);
        }
        self.settle(model);
        None
    }

    /// Take out the run in a slot.
    pub fn remove(&mut self, model: &Model, slot: usize) {
        let unit = &model.units[self.units[slot] as usize];
        self.live.add(slot, slot + 1, -counted(unit.workspace) - EMPTY);
        for &s in unit.reads.iter().chain(&unit.writes) {
            let touches = &mut self.touches[s as usize];
            let at = touches.partition_point(|&t| (t as usize) < 2 * slot);
            touches.remove(at);
            self.queue.push(s);
        }
        self.units[slot] = NONE;
        self.runs -= 1;
        self.settle(model);
    }

    /// Put a run back into the slot it was taken out of.
    pub fn restore(&mut self, model: &Model, slot: usize, unit: u32) {
        self.put(model, slot, unit);
        self.settle(model);
    }

    fn put(&mut self, model: &Model, slot: usize, u: u32) {
        let unit = &model.units[u as usize];
        self.units[slot] = u;
        self.runs += 1;
        self.live.add(slot, slot + 1, counted(unit.workspace) + EMPTY);
        let reads = unit.reads.iter().map(|&s| (s, 2 * slot as u32));
        for (s, touch) in reads.chain(unit.writes.iter().map(|&s| (s, 2 * slot as u32 + 1))) {
            let touches = &mut self.touches[s as usize];
            let at = touches.partition_point(|&t| t < touch);
            touches.insert(at, touch);
            self.queue.push(s);
        }
    }

    /// Bring lives and live bytes up to date after the touches changed.
    fn settle(&mut self, model: &Model) {
        let mut fresh = std::mem::take(&mut self.fresh);
        while let Some(s) = self.queue.pop() {
            self.work += 4;
            fresh.clear();
            self.lives_of(model, s, &mut fresh);
            let mut old = std::mem::take(&mut self.lives[s as usize]);
            for life in old.iter().filter(|life| !fresh.contains(life)) {
                let (from, to) = life.slots();
                self.live.add(from, to, -life.bytes);
                self.wake(model, life.last);
            }
            for life in fresh.iter().filter(|life| !old.contains(life)) {
                let (from, to) = life.slots();
                self.live.add(from, to, life.bytes);
                self.wake(model, life.last);
            }
            old.clear();
            old.extend_from_slice(&fresh);
            self.lives[s as usize] = old;
        }
        self.fresh = fresh;
    }

    /// Where a life ends, others may be taken over, or take over, that were not before.
    fn wake(&mut self, model: &Model, slot: u32) {
        let u = self.units[slot as usize];
        if u != NONE {
            let unit = &model.units[u as usize];
            for &(r, w) in &unit.pairs {
                self.queue.extend([unit.reads[r as usize], unit.writes[w as usize]]);
            }
        }
    }

    /// The lives of an item by its touches and what takes over what.
    fn lives_of(&self, model: &Model, s: u32, lives: &mut Vec<Life>) {
        let touches = &self.touches[s as usize];
        let mut next = 0;
        while let Some(&first) = touches.get(next) {
            let reads = touches[next + 1..].iter().take_while(|&&t| t & 1 == 0).count();
            let (from, last) = (first / 2, touches[next + reads] / 2);
            let own = counted(model.items[s as usize].bytes);
            let source = self.takeover(model, from, |_, to| to == s).map(|(source, _)| source);
            let before = source.and_then(|x| self.lives[x as usize].iter().find(|life| life.last == from));
            let taken = reads > 0 && self.takeover(model, last, |source, _| source == s).is_some();
            lives.push(Life { from, last, taken, bytes: own.max(before.map_or(0, |life| life.bytes)) });
            next += reads + 1;
        }
    }

    /// The first pair of items (taken over, taking over) in a slot that `is` the one looked for.
    fn takeover(&self, model: &Model, slot: u32, is: impl Fn(u32, u32) -> bool) -> Option<(u32, u32)> {
        let unit = &model.units[self.units[slot as usize] as usize];
        let mut taken: u64 = 0;
        let mut gone: Vec<u32> = Vec::new();
        for &(r, w) in &unit.pairs {
            // Pairs name outputs below 64 only; an input is taken over once.
            if taken & (1 << w) == 0 && !gone.contains(&r) && self.dies(unit.reads[r as usize], slot) {
                let pair = (unit.reads[r as usize], unit.writes[w as usize]);
                if is(pair.0, pair.1) {
                    return Some(pair);
                }
                // Another output of the unit: most have one.
                if unit.writes.len() == 1 {
                    return None;
                }
                taken |= 1 << w;
                gone.push(r);
            }
        }
        None
    }

    /// Whether an item's life ends where it is read in a slot.
    fn dies(&self, s: u32, slot: u32) -> bool {
        let touches = &self.touches[s as usize];
        let after = touches.partition_point(|&t| t / 2 <= slot);
        touches.get(after).is_none_or(|&t| t & 1 == 1)
    }
}

/// Numbers in a row: add to a range, find the first of the largest.
#[derive(Default)]
struct Tree {
    leaves: usize,
    /// The largest below each node, what was added at the node itself included.
    most: Vec<i64>,
    /// What was added to everything below a node.
    added: Vec<i64>,
}

impl Tree {
    fn load(&mut self, values: &[i64]) {
        self.leaves = values.len().next_power_of_two();
        self.most.clear();
        self.most.resize(2 * self.leaves, i64::MIN / 2);
        self.added.clear();
        self.added.resize(self.leaves, 0);
        self.most[self.leaves..self.leaves + values.len()].copy_from_slice(values);
        for node in (1..self.leaves).rev() {
            self.most[node] = self.most[2 * node].max(self.most[2 * node + 1]);
        }
    }

    fn add(&mut self, from: usize, to: usize, value: i64) {
        if from >= to || value == 0 {
            return;
        }
        let (mut a, mut b) = (from + self.leaves, to + self.leaves);
        while a < b {
            if a & 1 == 1 {
                self.apply(a, value);
                a += 1;
            }
            if b & 1 == 1 {
                b -= 1;
                self.apply(b, value);
            }
            (a, b) = (a / 2, b / 2);
        }
        // Both ends meet at some ancestor; above it one walk is enough.
        let (mut a, mut b) = (from + self.leaves, to - 1 + self.leaves);
        while a > 1 {
            (a, b) = (a / 2, b / 2);
            self.renew(a);
            if a != b {
                self.renew(b);
            }
        }
    }

    fn apply(&mut self, node: usize, value: i64) {
        self.most[node] += value;
        if node < self.leaves {
            self.added[node] += value;
        }
    }

    fn renew(&mut self, node: usize) {
        self.most[node] = self.most[2 * node].max(self.most[2 * node + 1]) + self.added[node];
    }

    fn peak(&self) -> (i64, usize) {
        let mut node = 1;
        while node < self.leaves {
            node = if self.most[2 * node] >= self.most[2 * node + 1] { 2 * node } else { 2 * node + 1 };
        }
        (self.most[1], node - self.leaves)
    }

    fn most(&self, from: usize, to: usize) -> i64 {
        // The largest on each side so far, with what was added at the nodes passed on the way up.
        let (mut a, mut b) = (from + self.leaves, to + self.leaves);
        let (mut left, mut right) = (i64::MIN / 2, i64::MIN / 2);
        let (mut low, mut high) = (a, b - 1);
        while a < b {
            if a & 1 == 1 {
                left = left.max(self.most[a]);
                a += 1;
            }
            if b & 1 == 1 {
                b -= 1;
                right = right.max(self.most[b]);
            }
            (a, b) = (a / 2, b / 2);
            (low, high) = (low / 2, high / 2);
            // Of the nodes above, those that contain what was looked at so far.
            left += self.added.get(low).copied().unwrap_or(0);
            right += self.added.get(high).copied().unwrap_or(0);
        }
        let mut most = (left, right);
        while low > 1 {
            (low, high) = (low / 2, high / 2);
            most.0 += self.added[low];
            most.1 += self.added[high];
        }
        most.0.max(most.1)
    }
}

#[cfg(all(test, feature = "fuzzing"))]
mod tests {
    use super::*;
    use crate::fuzz::{Shape, problem};
    use crate::solver::rng::Rng;
    use crate::solver::sim::Sim;

    #[test]
    fn agrees_with_the_simulation_after_every_edit() {
        let (mut edits, mut moves, mut takeovers) = (0, 0, 0);
        for seed in 0..400 {
            let problem = problem(seed, Shape::all(8 + seed as usize % 40));
            for inplace in [true, false] {
                let model = Model::new(&problem, inplace);
                let (mut tape, mut sim, mut rng) = (Tape::default(), Sim::default(), Rng::new(seed));
                tape.load(&model, &model.keep_all());
                for _ in 0..30 {
                    // Run some units again before a later one, or undo that.
                    let slots: Vec<usize> = (0..tape.units.len()).filter(|&s| tape.units[s] != NONE).collect();
                    let at = slots[rng.below(slots.len())];
                    let before: Vec<u32> = tape.units[..at].iter().copied().filter(|&u| u != NONE).collect();
                    let again = |u: &u32| model.units[*u as usize].replayable;
                    let chain: Vec<u32> = (0..1 + rng.below(5))
                        .filter_map(|_| before.get(rng.below(before.len())).copied().filter(again))
                        .collect();
                    let old = tape.order();
                    if !chain.is_empty() && rng.below(3) > 0 {
                        let moved = tape.insert(&model, at, &chain);
                        let now = moved.map_or(at, |moved| {
                            moves += 1;
                            moved[at] as usize
                        });
                        let position = before.len();
                        let mut expected = old.clone();
                        expected.splice(position..position, chain);
                        assert_eq!(tape.order(), expected);
                        assert_eq!(
                            tape.units[..now].iter().filter(|&&u| u != NONE).count(),
                            position + expected.len() - old.len()
                        );
                    } else if before.contains(&tape.units[at]) {
                        let unit = tape.units[at];
                        tape.remove(&model, at);
                        assert_eq!(tape.len(), old.len() - 1);
                        if rng.below(2) == 0 {
                            tape.restore(&model, at, unit);
                            assert_eq!(tape.order(), old);
                        }
                    } else {
                        continue;
                    }
                    edits += 1;
                    takeovers += tape.lives.iter().flatten().filter(|life| life.taken).count();
                    let score = sim.run(&model, &tape.order());
                    let (peak, at) = tape.peak(&model);
                    assert_eq!(peak, score.peak, "seed {seed}");
                    if score.peak > model.resident {
                        assert_eq!(tape.units[..at].iter().filter(|&&u| u != NONE).count(), score.at, "seed {seed}");
                    }
                    let (from, to) = (rng.below(tape.units.len()), rng.below(tape.units.len()));
                    let most = (from..to).map(|slot| tape.live(slot)).max().unwrap_or(0);
                    assert_eq!(tape.most(from, to), most);
                }
            }
        }
        assert!(edits > 5_000 && moves > 100 && takeovers > 1_000, "{edits} edits, {moves} moves, {takeovers}");
    }
}
