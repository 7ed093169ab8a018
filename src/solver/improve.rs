//! Improvement of an order: give back what fits, then ruin and recreate.
//!
//! Ruin and recreate after Schrimpf et al., "Record breaking optimization results using the ruin
//! and recreate principle" (2000): take out some repeated runs (storages are kept instead, the
//! peak may exceed the budget), evict anew with a perturbed rule, give back what then fits, and
//! accept by simulated annealing.

use super::evict::{Evictor, Rule};
use super::model::{Model, NONE};
use super::moves::Move;
use super::rng::Rng;
use super::sim::Score;
use super::tape::Tape;

/// Runs that move together at most.
const DRAGGED: usize = 12;

/// One order being improved.
pub(super) struct Search<'a, 'm> {
    model: &'a Model<'m>,
    budget: u64,
    pub evictor: Evictor,
    rng: Rng,
    seen: Vec<bool>,
    pub best: Vec<u32>,
    pub score: Score,
    current: Vec<u32>,
    current_score: Score,
}

impl<'a, 'm> Search<'a, 'm> {
    pub fn new(model: &'a Model<'m>, budget: u64, order: Vec<u32>, seed: u64) -> Self {
        let mut evictor = Evictor::default();
        let score = evictor.sim.run(model, &order);
        Self {
            model,
            budget,
            evictor,
            rng: Rng::new(seed),
            seen: Vec::new(),
            current: order.clone(),
            best: order,
            score,
            current_score: score,
        }
    }

    /// Start over from `order`.
    pub fn restart(&mut self, order: &[u32], score: Score) {
        self.current = order.to_vec();
        self.current_score = score;
        if score.rank(self.budget) < self.score.rank(self.budget) {
            self.best = self.current.clone();
            self.score = score;
        }
    }

    /// Ruin and recreate until `work` more positions were evaluated or `late` says so.
    pub fn improve(&mut self, work: u64, heat: f64, late: &dyn Fn() -> bool) {
        let start = self.evictor.work();
        let end = start.saturating_add(work);
        while self.evictor.work() < end && !late() {
            let left = 1.0 - (self.evictor.work() - start) as f64 / work.max(1) as f64;
            let mut order = self.current.clone();
            if !self.ruin(&mut order) {
                return;
            }
            if self.rng.below(3) > 0 && self.model.moves.has(Move::Shift) {
                for _ in 0..1 + self.rng.below(4) {
                    // What stands in the way is mostly at the peak.
                    let from = match self.rng.below(4) {
                        0..3 => self.evictor.sim.run(self.model, &order).at,
                        _ => self.rng.below(order.len()),
                    };
                    self.shift(&mut order, from);
                }
            }
            let rule = self.rule();
            self.evictor.run(self.model, &mut order, self.budget, rule, &mut self.rng, &|work| work > end || late());
            let score = self.give_back(&mut order, late);
            let (new, old) = (score.rank(self.budget), self.current_score.rank(self.budget));
            let over = self.current_score.time.saturating_sub(self.base_time()) as f64;
            let heat = if self.model.moves.has(Move::Anneal) { heat } else { 0.0 };
            let slack = (over * heat * left * self.rng.unit()) as u64;
            if (new.0, new.1) <= (old.0, old.1.saturating_add(slack)) {
                self.current = order;
                self.current_score = score;
                if new < self.score.rank(self.budget) {
                    self.best.clone_from(&self.current);
                    self.score = score;
                }
            }
        }
    }

    fn base_time(&self) -> u64 {
        self.model.units.iter().map(|u| u.time).sum()
    }

    fn rule(&mut self) -> Rule {
        let pick = |rng: &mut Rng, of: &[f64]| of[rng.below(of.len())];
        Rule {
            cost: pick(&mut self.rng, &[0.7, 1.0, 1.0, 1.3]),
            gap: pick(&mut self.rng, &[0.0, 0.0, 0.2, 0.5]),
            keep: pick(&mut self.rng, &[0.0, 0.1, 0.3, 0.6]),
            surplus: pick(&mut self.rng, &[0.0, 0.5, 1.0]),
            care: pick(&mut self.rng, &[1.0, 1.0, 5.0, 100.0]),
            noise: pick(&mut self.rng, &[0.1, 0.4, 1.0]),
        }
    }

    /// Positions of runs that are not the first of their unit.
    fn repeats(&mut self, order: &[u32]) -> Vec<usize> {
        self.seen.clear();
        self.seen.resize(self.model.units.len(), false);
        let seen = &mut self.seen;
        let again = |(i, &u): (usize, &u32)| std::mem::replace(&mut seen[u as usize], true).then_some(i);
        order.iter().enumerate().filter_map(again).collect()
    }

    /// Take out some repeated runs. False when there are none.
    fn ruin(&mut self, order: &mut Vec<u32>) -> bool {
        let repeats = self.repeats(order);
        if repeats.is_empty() {
            return false;
        }
        let mut out = vec![false; order.len()];
        let mut ruins = [Move::RuinStretch, Move::RuinRandom, Move::RuinUnits].to_vec();
        ruins.retain(|&ruin| self.model.moves.has(ruin));
        match ruins.get(self.rng.below(ruins.len())) {
            None => return false,
            // A window of the order.
            Some(Move::RuinStretch) => {
                let width = 1 + self.rng.below(repeats.len().div_ceil(3));
                let first = self.rng.below(repeats.len());
                repeats[first..].iter().take(width).for_each(|&i| out[i] = true);
            }
            // A random few.
            Some(Move::RuinRandom) => {
                let part = self.rng.unit() * 0.3;
                repeats.iter().for_each(|&i| out[i] = self.rng.unit() < part);
                out[repeats[self.rng.below(repeats.len())]] = true;
            }
            // Every repeat of a few units next to each other.
            Some(_) => {
                let unit = order[repeats[self.rng.below(repeats.len())]];
                let width = 1 + self.rng.below(30) as u32;
                repeats.iter().filter(|&&i| order[i].abs_diff(unit) < width).for_each(|&i| out[i] = true);
            }
        }
        let mut i = 0;
        order.retain(|_| {
            i += 1;
            !out[i - 1]
        });
        self.evictor.sim.prune(self.model, order);
        true
    }

    /// Run the unit at a position earlier or later, and with it what stands in its way: what reads its results before the
    /// place it moves to, or makes what it reads.
    fn shift(&mut self, order: &mut [u32], from: usize) {
        let model = self.model;
        // Mostly near, sometimes far.
        let scale = 1 + self.rng.below(order.len().ilog2().max(5) as usize);
        let most = 1 + self.rng.below(1 << scale);
        let later = self.rng.below(2) == 0;
        let (touches, reads) = (
            |u: u32, s: &u32| model.units[u as usize].reads.contains(s) || model.units[u as usize].writes.contains(s),
            |u: u32, s: &u32| model.units[u as usize].reads.contains(s),
        );
        // Whether two runs must stay in the order in which they are.
        let bound = |one: u32, other: u32| {
            let (a, b) = (&model.units[one as usize], &model.units[other as usize]);
            a.writes.iter().any(|s| touches(other, s)) || b.writes.iter().any(|s| reads(one, s))
        };
        // Those that move, and those that they move past, each in their order.
        let (mut moving, mut passed): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut at = from;
        loop {
            let unit = order[at];
            // Units that join storages or have effects are never passed: see `reorder`.
            if !model.units[unit as usize].replayable {
                break;
            }
            if at == from || moving.iter().any(|&other| bound(other, unit)) {
                // So many that go along are no detail of the order any more.
                if moving.len() == DRAGGED {
                    break;
                }
                moving.push(unit);
            } else {
                passed.push(unit);
            }
            let next = if later { at + 1 } else { at.wrapping_sub(1) };
            if passed.len() == most || next >= order.len() {
                break;
            }
            at = next;
        }
        let runs = passed.into_iter().chain(moving);
        if later {
            order[from..].iter_mut().zip(runs).for_each(|(place, unit)| *place = unit);
        } else {
            order[..=from].iter_mut().rev().zip(runs).for_each(|(place, unit)| *place = unit);
        }
    }

    /// Take out every repeated run whose result can be kept instead within the budget, dearest
    /// first; return the score.
    pub fn give_back(&mut self, order: &mut Vec<u32>, late: &dyn Fn() -> bool) -> Score {
        self.evictor.sim.prune(self.model, order);
        let score = self.evictor.sim.run(self.model, order);
        if score.peak > self.budget || !self.model.moves.has(Move::GiveBack) {
            return score;
        }
        let mut units: Vec<(u64, u32)> =
            self.repeats(order).iter().map(|&i| (self.model.units[order[i] as usize].time, order[i])).collect();
        units.sort_unstable_by(|a, b| b.cmp(a));
        units.dedup();
        let tape = &mut self.evictor.tape;
        if !tape.holds(order) {
            tape.load(self.model, order);
        }
        let mut removed: Vec<(usize, u32)> = Vec::new();
        let runs = tape.len();
        for (_, unit) in units {
            if late() {
                break;
            }
            let item = self.model.units[unit as usize].writes[0];
            let mut slots: Vec<usize> = tape.touches(item).filter(|t| t.1).map(|t| t.0).collect();
            // Later ones first: what comes before one does not change when it is taken out.
            while slots.len() > 1 {
                let slot = slots.pop().expect("more than one");
                let quick = self.model.moves.has(Move::QuickLook);
                if quick && !may_fit(self.model, self.budget, tape, slots[slots.len() - 1], slot) {
                    continue;
                }
                take_out(self.model, tape, slot, &mut removed);
                if tape.peak(self.model).0 <= self.budget {
                    slots.retain(|&slot| tape.unit(slot) == unit);
                } else {
                    removed.iter().rev().for_each(|&(slot, unit)| tape.restore(self.model, slot, unit));
                }
            }
        }
        if tape.len() == runs {
            return score;
        }
        *order = tape.order();
        self.evictor.sim.run(self.model, order)
    }
}

/// A quick look before the trial: would what the unit in `after` made in `before` fit if it were
/// kept until then? (Optimistic: what its inputs would free is taken as freed.)
fn may_fit(model: &Model, budget: u64, tape: &mut Tape, before: usize, after: usize) -> bool {
    tape.work += 2;
    let unit = &model.units[tape.unit(after) as usize];
    let bytes: u64 = unit.writes.iter().map(|&s| model.items[s as usize].bytes).sum();
    let inputs: u64 = unit.reads.iter().map(|&s| model.items[s as usize].bytes).sum();
    let limit = budget.saturating_add(inputs).saturating_sub(bytes);
    // Up to its last use before `after` it lives anyway.
    let uses = unit.writes.iter().filter_map(|&s| tape.around(s, after).0);
    let last = uses.map(|(slot, _)| slot).max().unwrap_or(before);
    tape.most(last + 1, after) <= limit
}

/// Take out a run, and then every replayable run of whose results nothing is read.
fn take_out(model: &Model, tape: &mut Tape, slot: usize, removed: &mut Vec<(usize, u32)>) {
    removed.clear();
    let mut stack = vec![slot];
    while let Some(slot) = stack.pop() {
        let unit = tape.unit(slot);
        if unit == NONE {
            continue;
        }
        tape.remove(model, slot);
        removed.push((slot, unit));
        for &s in &model.units[unit as usize].reads {
            let made = tape.touches(s).rev().find(|&(at, made)| made && at < slot).map(|t| t.0);
            stack.extend(made.filter(|&at| is_unread(model, tape, at)));
        }
    }
}

fn is_unread(model: &Model, tape: &Tape, slot: usize) -> bool {
    let unit = &model.units[tape.unit(slot) as usize];
    unit.replayable && unit.writes.iter().all(|&s| tape.around(s, slot + 1).1.is_none_or(|(_, made)| made))
}
