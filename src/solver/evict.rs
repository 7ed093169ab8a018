//! Greedy eviction on single ops.
//!
//! While the peak exceeds the budget: among the storages that live through the peak without being
//! touched there, take the one whose absence costs least time per byte, end its life at its last
//! use before the peak, and make it again right before its next use. What it is made from is made
//! again too where it is gone (its time counts), or kept longer where that is the better trade.
//!
//! ```text
//! before   make s ---use------------peak------------use---
//! after    make s ---use            peak  make s' ---use---
//! ```
//!
//! The score is the "h'" family of Kirisame et al., "Dynamic Tensor Rematerialization" (2021),
//! with the neighbourhood cost evaluated exactly and ahead of time: cost^a / (bytes^b * gap^c).
//! Because an order may name a unit any number of times, what is made again can be evicted again,
//! which is how several levels of recomputation come about.

use super::model::{Model, NONE};
use super::moves::Move;
use super::rng::Rng;
use super::sim::Sim;

/// How candidates are ranked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Exponent of the time it costs.
    pub cost: f64,
    /// Exponent of the length of the gap.
    pub gap: f64,
    /// An ancestor is kept longer instead of made again when it is at most this part of the size.
    pub keep: f64,
    /// Bytes beyond the excess count this much.
    pub surplus: f64,
    /// Size of the random factor on scores.
    pub noise: f64,
    /// Factor on the score of what would be made again where there is no room for it, or by the
    /// very unit that runs at the peak: such an eviction mostly moves the peak. 1 for no care.
    pub care: f64,
}

impl Rule {
    pub const PLAIN: Self = Self { cost: 1.0, gap: 0.0, keep: 0.3, surplus: 1.0, noise: 0.0, care: 1.0 };

    /// The rules tried by every solver that starts from everything kept.
    pub const PORTFOLIO: [Self; 9] = [
        Self::PLAIN,
        Self { keep: 0.0, ..Self::PLAIN },
        Self { gap: 0.3, surplus: 0.0, ..Self::PLAIN },
        Self { cost: 0.6, keep: 0.6, ..Self::PLAIN },
        Self { surplus: 0.3, keep: 0.1, ..Self::PLAIN },
        Self { cost: 0.8, gap: 0.5, keep: 0.0, ..Self::PLAIN },
        Self { care: 20.0, ..Self::PLAIN },
        Self { care: 20.0, keep: 0.0, ..Self::PLAIN },
        Self { care: 1e6, cost: 0.5, keep: 0.6, surplus: 0.3, ..Self::PLAIN },
    ];
}

/// Where each item is touched in an order, and scratch space of the eviction.
#[derive(Default)]
pub(super) struct Evictor {
    pub sim: Sim,
    /// `touches[starts[s]..starts[s + 1]]`: positions where item s is touched, ascending.
    starts: Vec<u32>,
    touches: Vec<u32>,
    /// Units in the chain being priced.
    chain: Vec<u32>,
    in_chain: Vec<u32>,
    epoch: u32,
}

/// The gap of an item's life around a position.
struct Gap {
    from: usize,
    to: usize,
}

/// What was priced: time, and bytes that stay because ancestors are kept longer.
struct Price {
    time: u64,
    kept: u64,
}

impl Evictor {
    /// Evict from `order` until it fits `budget`, or `late` says of the work done that it is enough. Returns whether it does; if not, `order` is the
    /// last one tried.
    pub fn run(
        &mut self,
        model: &Model,
        order: &mut Vec<u32>,
        budget: u64,
        rule: Rule,
        rng: &mut Rng,
        late: &dyn Fn(u64) -> bool,
    ) -> bool {
        // Every eviction adds runs; an order this long is not converging.
        let longest = 4 * model.units.len() + 64;
        let mut best = u64::MAX;
        let mut stalled = 0;
        loop {
            let score = self.sim.run(model, order);
            if score.peak <= budget {
                return true;
            }
            stalled = if score.peak < best { 0 } else { stalled + 1 };
            best = best.min(score.peak);
            if order.len() > longest || late(self.sim.work) || stalled > 64 + model.units.len() / 4 {
                return false;
            }
            self.index(model, order);
            let mut chosen = self.choose(model, order, score.at, budget, score.peak - budget, rule, rng);
            if chosen.is_empty() {
                return false;
            }
            // Pricing all candidates is work too.
            self.sim.work += order.len() as u64;
            // From the back, so that the places of the others stay what they are.
            chosen.sort_unstable_by_key(|&(item, to)| (std::cmp::Reverse(to), item));
            let price = |&(item, to): &(u32, usize)| {
                self.price(model, order, item, score.at, to, rule.keep);
                self.chain.sort_unstable();
                (to, self.chain.clone())
            };
            let chains: Vec<(usize, Vec<u32>)> = chosen.iter().map(price).collect();
            for (to, chain) in chains {
                order.splice(to..to, chain);
            }
        }
    }

    fn index(&mut self, model: &Model, order: &[u32]) {
        self.starts.clear();
        self.starts.resize(model.items.len() + 2, 0);
        let touched = |u: u32| {
            let unit = &model.units[u as usize];
            unit.reads.iter().chain(&unit.writes)
        };
        for &s in order.iter().flat_map(|&u| touched(u)) {
            self.starts[s as usize + 2] += 1;
        }
        for s in 2..self.starts.len() {
            self.starts[s] += self.starts[s - 1];
        }
        self.touches.clear();
        self.touches.resize(*self.starts.last().unwrap_or(&0) as usize, 0);
        for (position, &u) in order.iter().enumerate() {
            for &s in touched(u) {
                let at = &mut self.starts[s as usize + 1];
                self.touches[*at as usize] = position as u32;
                *at += 1;
            }
        }
    }

    fn touches(&self, item: u32) -> &[u32] {
        &self.touches[self.starts[item as usize] as usize..self.starts[item as usize + 1] as usize]
    }

    /// The gap of `item`'s life strictly around `at`, if it lives there untouched.
    fn gap(&self, model: &Model, order: &[u32], item: u32, at: usize) -> Option<Gap> {
        let touches = self.touches(item);
        let next = touches.partition_point(|&t| (t as usize) < at);
        let to = *touches.get(next)? as usize;
        if next == 0 || to == at || writes(model, order[to], item) {
            return None;
        }
        Some(Gap { from: touches[next - 1] as usize, to })
    }

    #[allow(clippy::too_many_arguments)]
    /// The storages to evict at position `at`, best first, with the positions of their next uses.
    fn choose(
        &mut self,
        model: &Model,
        order: &[u32],
        at: usize,
        budget: u64,
        excess: u64,
        rule: Rule,
        rng: &mut Rng,
    ) -> Vec<(u32, usize)> {
        // One at a time is best; in large graphs a few at a time is nearly as good.
        let batch = if model.moves.has(Move::Batch) { 1 + order.len() / 2000 } else { 1 };
        let mut best: Vec<(f64, u32, usize, u64)> = Vec::with_capacity(batch + 1);
        for item in 0..model.items.len() as u32 {
            let bytes = model.items[item as usize].bytes;
            let maker = model.items[item as usize].maker;
            if bytes == 0 || maker == NONE || !model.units[maker as usize].replayable {
                continue;
            }
            let Some(gap) = self.gap(model, order, item, at) else { continue };
            let Some(price) = self.price(model, order, item, at, gap.to, rule.keep) else { continue };
            if price.kept >= bytes {
                continue;
            }
            let freed = bytes - price.kept;
            let useful = freed.min(excess) as f64 + rule.surplus * freed.saturating_sub(excess) as f64;
            let mut score = (price.time as f64 + 1.0).powf(rule.cost) / useful;
            if rule.gap > 0.0 {
                score /= ((gap.to - gap.from) as f64).powf(rule.gap);
            }
            if rule.care > 1.0 && model.moves.has(Move::Care) {
                let largest = self.chain.iter().map(|&u| model.units[u as usize].footprint).max().unwrap_or(0);
                let moved = self.chain.contains(&order[at]);
                let tight = self.sim.live[gap.to].saturating_add(largest) > budget;
                if moved || tight {
                    score *= rule.care;
                }
            }
            if rule.noise > 0.0 {
                score *= (rule.noise * (rng.unit() * 2.0 - 1.0)).exp();
            }
            if best.len() < batch || best.last().is_some_and(|worst| score < worst.0) {
                let place = best.partition_point(|better| better.0 <= score);
                best.insert(place, (score, item, gap.to, freed));
                best.truncate(batch);
            }
        }
        let mut covered = 0u64;
        let enough = best.iter().take_while(|&&(.., freed)| {
            let more = covered < excess;
            covered = covered.saturating_add(freed);
            more
        });
        enough.map(|&(_, item, to, _)| (item, to)).collect()
    }

    /// Fill `self.chain` with the units to run again right before `to` so that `item` is there,
    /// and say what that costs. `None` when something cannot be made again.
    fn price(&mut self, model: &Model, order: &[u32], item: u32, at: usize, to: usize, keep: f64) -> Option<Price> {
        self.epoch += 1;
        self.in_chain.resize(model.units.len(), 0);
        self.chain.clear();
        let mut price = Price { time: 0, kept: 0 };
        let keep = if model.moves.has(Move::Keep) { keep } else { 0.0 };
        let largest = (model.items[item as usize].bytes as f64 * keep) as u64;
        self.chain.push(model.items[item as usize].maker);
        self.in_chain[model.items[item as usize].maker as usize] = self.epoch;
        let mut next = 0;
        while let Some(&unit) = self.chain.get(next) {
            next += 1;
            price.time = price.time.saturating_add(model.units[unit as usize].time);
            for &x in &model.units[unit as usize].reads {
                let maker = model.items[x as usize].maker;
                if self.in_chain[maker as usize] == self.epoch {
                    continue;
                }
                let touches = self.touches(x);
                let later = touches.partition_point(|&t| (t as usize) < to);
                let lives = touches.get(later).is_some_and(|&t| !writes(model, order[t as usize], x));
                if lives {
                    continue;
                }
                let last = touches[later - 1] as usize;
                let (bytes, over) = (model.items[x as usize].bytes, last < at);
                let replayable = model.units[maker as usize].replayable;
                if !over || !replayable || bytes <= largest {
                    // Kept from its last use on; below the peak only if that was earlier.
                    if over {
                        price.kept = price.kept.saturating_add(bytes);
                    }
                    if price.kept >= model.items[item as usize].bytes {
                        return None;
                    }
                    continue;
                }
                self.in_chain[maker as usize] = self.epoch;
                self.chain.push(maker);
            }
        }
        Some(price)
    }
}

#[inline]
fn writes(model: &Model, unit: u32, item: u32) -> bool {
    model.units[unit as usize].writes.contains(&item)
}
