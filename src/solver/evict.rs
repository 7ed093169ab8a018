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
//!
//! An eviction seldom changes what another one costs, so offers are kept from one to the next and
//! priced anew when they come up as the best, or when the life's next use is another.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::model::{Model, NONE};
use super::moves::Move;
use super::rng::Rng;
use super::sim::Sim;
use super::tape::Tape;

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

    /// The rules tried by every solver that starts from everything kept; where not all can be, the
    /// first ones.
    pub const PORTFOLIO: [Self; 9] = [
        Self::PLAIN,
        Self { cost: 0.8, gap: 0.5, keep: 0.0, ..Self::PLAIN },
        Self { keep: 0.0, ..Self::PLAIN },
        Self { gap: 0.3, surplus: 0.0, ..Self::PLAIN },
        Self { cost: 0.6, keep: 0.6, ..Self::PLAIN },
        Self { surplus: 0.3, keep: 0.1, ..Self::PLAIN },
        Self { care: 20.0, ..Self::PLAIN },
        Self { care: 20.0, keep: 0.0, ..Self::PLAIN },
        Self { care: 1e6, cost: 0.5, keep: 0.6, surplus: 0.3, ..Self::PLAIN },
    ];
}

/// Rounds after which an offer is priced anew even where nothing suggests it.
const STALE: u32 = 64;

/// What evicting an item comes to.
#[derive(Clone, Copy)]
struct Offer {
    /// The slots around the peak between which it is not touched; no such slots when not known.
    from: u32,
    to: u32,
    /// Whether it lives there.
    open: bool,
    /// The round it was priced in, zero for never, and the number of evictions by then.
    round: u32,
    edits: u32,
    /// Its score, but for the bytes that serve.
    cost: f64,
    /// Bytes freed; none where it cannot be had.
    freed: u64,
    /// Its random factor, drawn once; zero before.
    noise: f64,
}

const UNKNOWN: Offer = Offer { from: NONE, to: NONE, open: false, round: 0, edits: 0, cost: 0.0, freed: 0, noise: 0.0 };

/// An order being evicted from, and scratch space.
#[derive(Default)]
pub(super) struct Evictor {
    pub sim: Sim,
    pub tape: Tape,
    offers: Vec<Offer>,
    /// Items that can be evicted at all.
    movable: Vec<u32>,
    ranking: Vec<Reverse<(u64, u32)>>,
    round: u32,
    edits: u32,
    /// Units in the chain being priced.
    chain: Vec<u32>,
    in_chain: Vec<u32>,
    epoch: u32,
}

/// What was priced: time, and bytes that stay because ancestors are kept longer.
struct Price {
    time: u64,
    kept: u64,
}

/// Where the peak lies and what is asked of an eviction.
struct Need {
    at: usize,
    budget: u64,
    excess: u64,
}

impl Evictor {
    /// Work so far, in positions evaluated.
    pub fn work(&self) -> u64 {
        self.sim.work + self.tape.work
    }

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
        self.tape.load(model, order);
        self.offers.clear();
        self.offers.resize(model.items.len(), UNKNOWN);
        (self.round, self.edits) = (0, 0);
        self.movable.clear();
        let items = (0..model.items.len() as u32).filter(|&s| {
            let item = &model.items[s as usize];
            item.bytes > 0 && item.maker != NONE && model.units[item.maker as usize].replayable
        });
        self.movable.extend(items);
        // Every eviction adds runs; an order this long is not converging.
        let longest = 4 * model.units.len() + 64;
        // In large graphs going on without a gain is dear.
        let patience = 64 + (model.units.len() / 4).min(500 + model.units.len() / 32);
        let mut best = u64::MAX;
        let mut stalled = 0;
        let fits = loop {
            let (peak, at) = self.tape.peak(model);
            if peak <= budget {
                break true;
            }
            stalled = if peak < best { 0 } else { stalled + 1 };
            best = best.min(peak);
            if self.tape.len() > longest || late(self.work()) || stalled > patience {
                break false;
            }
            if !self.evict(model, Need { at, budget, excess: peak - budget }, rule, rng) {
                break false;
            }
        };
        if self.edits > 0 {
            *order = self.tape.order();
        }
        fits
    }

    /// Whether `item` lives at `at` untouched; fills in the offer's slots.
    fn spans(&mut self, item: u32, at: usize) -> bool {
        let offer = &mut self.offers[item as usize];
        let slot = at as u32;
        if !(offer.from < slot && slot < offer.to) {
            let (before, next) = self.tape.around(item, at);
            let to = next.map_or(NONE, |(to, _)| to as u32);
            let open = before.is_some() && next.is_some_and(|(to, made)| !made && to != at);
            let from = before.map_or(0, |(from, _)| from as u32);
            *offer = Offer { from, to, open, noise: offer.noise, ..UNKNOWN };
        }
        offer.open
    }

    /// Evict what is best at the peak: one at a time is best; in large graphs a few at a time are
    /// nearly as good. False when there is nothing.
    fn evict(&mut self, model: &Model, mut need: Need, rule: Rule, rng: &mut Rng) -> bool {
        let batch = if model.moves.has(Move::Batch) { 1 + self.tape.len() / 2000 } else { 1 };
        self.round += 1;
        self.tape.work += self.movable.len() as u64 / 4;
        let mut ranking = std::mem::take(&mut self.ranking);
        ranking.clear();
        for i in 0..self.movable.len() {
            let item = self.movable[i];
            if !self.spans(item, need.at) {
                continue;
            }
            let round = self.offers[item as usize].round;
            if round == 0 || round + STALE < self.round {
                self.offer(model, item, &need, rule, rng);
            }
            ranking.extend(self.score(item, &need, rule).map(|score| Reverse((score, item))));
        }
        let mut ranking = BinaryHeap::from(ranking);
        let (mut done, mut covered) = (0, 0u64);
        while let Some(Reverse((score, item))) = ranking.pop() {
            // What was evicted since may have changed it.
            if !self.spans(item, need.at) {
                continue;
            }
            let offer = self.offers[item as usize];
            if offer.round == 0 || offer.edits != self.edits {
                self.offer(model, item, &need, rule, rng);
                match self.score(item, &need, rule) {
                    Some(new) if new > score => ranking.push(Reverse((new, item))),
                    Some(_) => ranking.push(Reverse((score, item))),
                    None => {}
                }
                continue;
            }
            self.price(model, item, need.at, offer.to as usize, rule.keep);
            self.chain.sort_unstable();
            let chain = std::mem::take(&mut self.chain);
            if let Some(moved) = self.tape.insert(model, offer.to as usize, &chain) {
                need.at = moved[need.at] as usize;
                for offer in &mut self.offers {
                    for slot in [&mut offer.from, &mut offer.to] {
                        *slot = moved.get(*slot as usize).map_or(NONE, |&new| if new == NONE { 0 } else { new });
                    }
                }
            }
            for &s in
                chain.iter().flat_map(|&u| model.units[u as usize].reads.iter().chain(&model.units[u as usize].writes))
            {
                self.offers[s as usize].from = NONE;
            }
            self.chain = chain;
            self.edits += 1;
            covered = covered.saturating_add(offer.freed);
            done += 1;
            if done >= batch || covered >= need.excess {
                break;
            }
        }
        self.ranking = ranking.into_vec();
        done > 0
    }

    /// Price an item and keep the offer.
    fn offer(&mut self, model: &Model, item: u32, need: &Need, rule: Rule, rng: &mut Rng) {
        self.tape.work += 4;
        let mut offer = self.offers[item as usize];
        let (from, to) = (offer.from as usize, offer.to as usize);
        if offer.noise == 0.0 {
            offer.noise = if rule.noise > 0.0 { (rule.noise * (rng.unit() * 2.0 - 1.0)).exp() } else { 1.0 };
        }
        (offer.round, offer.edits, offer.freed) = (self.round, self.edits, 0);
        if let Some(price) = self.price(model, item, need.at, to, rule.keep) {
            offer.freed = model.items[item as usize].bytes.saturating_sub(price.kept);
            offer.cost = (price.time as f64 + 1.0).powf(rule.cost) * offer.noise;
            if rule.gap > 0.0 {
                offer.cost /= ((to - from) as f64).powf(rule.gap);
            }
            if rule.care > 1.0 && model.moves.has(Move::Care) {
                let largest = self.chain.iter().map(|&u| model.units[u as usize].footprint).max().unwrap_or(0);
                let moved = self.chain.contains(&self.tape.unit(need.at));
                let tight = || self.tape.live(to).saturating_add(largest) > need.budget;
                if moved || tight() {
                    offer.cost *= rule.care;
                }
            }
        }
        self.offers[item as usize] = offer;
    }

    /// The score of an offer, smaller is better. (The bits of positive numbers are in their order.)
    fn score(&self, item: u32, need: &Need, rule: Rule) -> Option<u64> {
        let offer = &self.offers[item as usize];
        let useful =
            offer.freed.min(need.excess) as f64 + rule.surplus * offer.freed.saturating_sub(need.excess) as f64;
        (offer.freed > 0).then(|| (offer.cost / useful).to_bits())
    }

    /// Fill `self.chain` with the units to run again right before `to` so that `item` is there,
    /// and say what that costs. `None` when something cannot be made again.
    fn price(&mut self, model: &Model, item: u32, at: usize, to: usize, keep: f64) -> Option<Price> {
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
                // It lives on anyway, or is read for the last time before.
                let (Some((last, _)), None | Some((_, true))) = self.tape.around(x, to) else { continue };
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

#[cfg(all(test, feature = "fuzzing"))]
mod tests {
    use super::*;
    use crate::fuzz;
    use crate::solver::sim::Sim;

    #[test]
    fn work_grows_no_faster_than_n_log_n() {
        for seed in 0..2 {
            let mut first = None;
            for layers in [150, 300, 600, 1_200, 2_400] {
                let problem = fuzz::layered(seed, layers, 8);
                let model = Model::new(&problem, true);
                let mut order = model.keep_all();
                let all = Sim::default().run(&model, &order);
                let budget = model.resident + (all.peak - model.resident) / 2;
                let mut evictor = Evictor::default();
                assert!(evictor.run(&model, &mut order, budget, Rule::PLAIN, &mut Rng::new(0), &|_| false));
                let score = Sim::default().run(&model, &order);
                assert!(score.peak <= budget && score.time > all.time);
                let n = model.units.len() as f64;
                let rate = evictor.work() as f64 / (n * n.ln());
                println!("seed {seed}: {n} units, {} steps, {rate:.2} n log n", evictor.work());
                assert!(rate <= 1.25 * *first.get_or_insert(rate), "{rate} against {first:?}");
            }
        }
    }
}
