//! Orders made on demand: run the graph from its beginning, drop what is least worth its room when
//! room is wanted, and make again what is gone when it is read.
//!
//! Kirisame et al., "Dynamic Tensor Rematerialization" (2021), does this while training, when
//! nobody knows what comes; here the order of first runs is known, so a value is worth the less the
//! later it is read next (Belady, 1966), be it directly or to make again something that is gone:
//!
//! ```text
//! worth = time to make it again, with all that is gone ^ a / (bytes * distance to its next use ^ b)
//! ```
//!
//! Where memory is so tight that what is made again has to be dropped again before its next use,
//! [eviction](super::evict) from a complete order chases the peak from place to place; this leaves the
//! budget only where nothing is left to drop.

use rayon::prelude::*;

use super::auto::{Limits, Scored, best_first};
use super::model::Model;
use super::rng::Rng;
use super::sim::Sim;

/// How what is dropped is chosen.
#[derive(Clone, Copy, Debug)]
struct Taste {
    /// Exponent of the time to make it again.
    cost: f64,
    /// Exponent of the distance to the next use.
    gap: f64,
    /// Exponent of the bytes.
    bytes: f64,
    /// Size of the random factor.
    noise: f64,
    /// What is among the outputs, or takes very long to make again, stays even where there is no
    /// room for it: it would come back beside all that it is made from.
    firm: bool,
}

impl Taste {
    const ALL: [Self; 7] = [
        Self { cost: 0.0, gap: 1.0, bytes: 0.0, noise: 0.0, firm: true },
        Self { cost: 0.1, gap: 1.0, bytes: 0.1, noise: 0.0, firm: true },
        Self { cost: 0.5, gap: 2.0, bytes: 0.5, noise: 0.0, firm: true },
        Self { cost: 1.0, gap: 1.0, bytes: 1.0, noise: 0.0, firm: true },
        Self { cost: 1.0, gap: 0.5, bytes: 1.0, noise: 0.0, firm: true },
        Self { cost: 0.5, gap: 1.0, bytes: 1.0, noise: 0.0, firm: true },
        Self { cost: 1.0, gap: 0.25, bytes: 0.7, noise: 0.0, firm: true },
    ];

    fn random(rng: &mut Rng) -> Self {
        let pick = |rng: &mut Rng, of: &[f64]| of[rng.below(of.len())];
        Self {
            cost: pick(rng, &[0.0, 0.3, 0.6, 1.0, 1.0, 1.5]),
            gap: pick(rng, &[0.1, 0.25, 0.5, 1.0, 1.5, 2.0]),
            bytes: pick(rng, &[0.5, 0.8, 1.0, 1.2]),
            noise: pick(rng, &[0.0, 0.2, 0.5]),
            firm: rng.below(2) == 0,
        }
    }
}

/// Hundredths of the room to aim at: a little less leaves the [improvement](super::improve) some.
const TARGETS: [u64; 2] = [100, 96];
/// Positions looked at for one order, where a node limit does not ask for less.
const WORK: u64 = 100_000_000;
/// Never read again.
const NEVER: u32 = u32::MAX;
/// Units running for each other at most.
const DEEPEST: usize = 1000;

/// The state of memory between two runs.
struct Room<'a, 'm> {
    model: &'a Model<'m>,
    budget: u64,
    taste: Taste,
    rng: Rng,
    order: Vec<u32>,
    /// Per item: whether it is there, what waits for it to stay, a random factor.
    live: Vec<bool>,
    locks: Vec<u32>,
    noise: Vec<f64>,
    /// Items that stay.
    lasts: Vec<bool>,
    /// What takes longer to make again stays.
    dearest: u64,
    /// Bytes of what is there.
    bytes: u64,
    /// Units that ran before, in the order of the graph's units.
    ran: Vec<bool>,
    /// Per item: where the base order reads it, and how many of these are past.
    uses: Vec<Vec<u32>>,
    past: Vec<usize>,
    at: u32,
    /// Per item: where it is wanted next, directly or for what is gone.
    wanted: Vec<u32>,
    /// Per item: where something larger that is made of it and is there is wanted next.
    guards: Vec<u32>,
    epoch: u32,
    seen: Vec<u32>,
    stack: Vec<u32>,
    /// Positions looked at.
    work: u64,
}

/// Orders for `budget` bytes from each base, of several tastes and `random` more; the best first.
pub(super) fn orders(model: &Model, bases: &[Vec<u32>], budget: u64, random: usize, limits: &Limits) -> Vec<Scored> {
    let mut rng = Rng::new(limits.seed);
    let fixed = Taste::ALL.into_iter().map(|taste| (taste, 0));
    let drawn = (0..random).map(|_| (Taste::random(&mut rng), rng.next()));
    let all: Vec<(Taste, u64, u64)> =
        fixed.chain(drawn).flat_map(|(taste, seed)| TARGETS.map(|part| (taste, seed, part))).collect();
    let most = limits.positions().saturating_mul(4).min(WORK);
    let from = |(base, (taste, seed, part)): (&Vec<u32>, (Taste, u64, u64))| {
        let target = model.resident + budget.saturating_sub(model.resident) / 100 * part;
        let stop = |work| work > most || limits.late();
        let mut order = order(model, base, target, taste, &mut Rng::new(seed), &stop)?;
        let mut sim = Sim::default();
        sim.prune(model, &mut order);
        let score = sim.run(model, &order);
        Some((order, score))
    };
    let all: Vec<_> = bases.iter().flat_map(|base| all.iter().map(move |&it| (base, it))).collect();
    let mut found: Vec<Scored> = all.into_par_iter().filter_map(from).collect();
    best_first(&mut found, budget);
    found
}

/// An order of `budget` bytes if that is possible for this taste; where it is not, an order that
/// comes near. `None` where what was made again kept pushing out what it was made for, or `late`
/// says of the work done that it is enough.
fn order(
    model: &Model,
    base: &[u32],
    budget: u64,
    taste: Taste,
    rng: &mut Rng,
    late: &dyn Fn(u64) -> bool,
) -> Option<Vec<u32>> {
    let mut uses = vec![Vec::new(); model.items.len()];
    for (at, &u) in base.iter().enumerate() {
        model.units[u as usize].reads.iter().for_each(|&s| uses[s as usize].push(at as u32));
    }
    let mut rng = Rng::new(rng.next());
    let noise = model.items.iter().map(|_| (taste.noise * (rng.unit() * 2.0 - 1.0)).exp()).collect();
    let mut lasts = vec![false; model.items.len()];
    let end = model.units.last().map_or(&[][..], |end| &end.reads);
    end.iter().for_each(|&s| lasts[s as usize] = taste.firm);
    let half = model.units.iter().map(|unit| unit.time).sum::<u64>() / 2;
    let mut room = Room {
        model,
        budget,
        taste,
        rng,
        order: Vec::with_capacity(2 * base.len()),
        live: vec![false; model.items.len()],
        locks: vec![0; model.items.len()],
        noise,
        lasts,
        dearest: if taste.firm { half } else { u64::MAX },
        bytes: model.resident,
        ran: vec![false; model.units.len()],
        uses,
        past: vec![0; model.items.len()],
        at: 0,
        wanted: Vec::new(),
        guards: Vec::new(),
        epoch: 0,
        seen: vec![0; model.units.len()],
        stack: Vec::new(),
        work: 0,
    };
    for (at, &u) in base.iter().enumerate() {
        room.at = at as u32;
        room.run(u, 0, late)?;
        room.ran[u as usize] = true;
        model.units[u as usize].reads.iter().for_each(|&s| room.past[s as usize] += 1);
    }
    Some(room.order)
}

impl Room<'_, '_> {
    /// Run a unit, after whatever it reads that is gone.
    fn run(&mut self, u: u32, depth: usize, late: &dyn Fn(u64) -> bool) -> Option<()> {
        let model = self.model;
        let unit = &model.units[u as usize];
        if depth > DEEPEST || self.order.len() > 8 * model.units.len() + 64 || late(self.work) {
            return None;
        }
        unit.reads.iter().for_each(|&s| self.locks[s as usize] += 1);
        let mut missing: Vec<(u64, u32)> = Vec::new();
        for &s in &unit.reads {
            if self.live[s as usize] {
                continue;
            }
            // What takes most to make comes first: what is made before it is in its way.
            let (_, largest) = self.again(s)?;
            missing.push((largest, s));
        }
        missing.sort_unstable_by(|a, b| b.cmp(a));
        for (_, s) in missing {
            if !self.live[s as usize] {
                self.run(model.items[s as usize].maker, depth + 1, late)?;
            }
        }
        self.make_room(u, depth > 0);
        self.order.push(u);
        for &s in &unit.writes {
            if !std::mem::replace(&mut self.live[s as usize], true) {
                self.bytes += model.items[s as usize].bytes;
            }
        }
        unit.reads.iter().for_each(|&s| self.locks[s as usize] -= 1);
        Some(())
    }

    /// Drop what is least worth its room until the unit fits, or nothing is left to drop.
    fn make_room(&mut self, u: u32, again: bool) {
        let model = self.model;
        let unit = &model.units[u as usize];
        let fresh = unit.writes.iter().filter(|&&s| !self.live[s as usize]);
        let fresh: u64 = fresh.map(|&s| model.items[s as usize].bytes).sum();
        let mut needed = self.bytes + fresh + unit.workspace;
        if needed <= self.budget {
            return;
        }
        self.want(u, again);
        // What is read for the last time may be taken over.
        let mut taken = 0u64;
        for &(r, w) in &unit.pairs {
            let (from, to) = (unit.reads[r as usize] as usize, unit.writes[w as usize] as usize);
            let last = self.wanted[from] == NEVER && self.locks[from] == 1 && self.live[from];
            if last && taken & (1 << w) == 0 && !self.live[to] {
                needed -= model.items[from].bytes.min(model.items[to].bytes);
                self.live[from] = false;
                self.bytes -= model.items[from].bytes;
                taken |= 1 << w;
            }
        }
        if needed <= self.budget {
            return;
        }
        let mut offers: Vec<(u64, u32)> = Vec::new();
        for s in 0..model.items.len() as u32 {
            let item = &model.items[s as usize];
            if !self.live[s as usize] || self.locks[s as usize] > 0 || item.bytes == 0 || self.lasts[s as usize] {
                continue;
            }
            let next = self.wanted[s as usize].min(self.guards[s as usize]);
            let worth = match next {
                NEVER => 0.0,
                _ => match self.again(s).filter(|&(time, _)| time <= self.dearest) {
                    // Nobody reads it, but what is live is made from it: the last resort.
                    None if self.wanted[s as usize] == NEVER => f64::MAX,
                    None => continue,
                    Some(_) if unit.writes.contains(&s) => continue,
                    Some((time, _)) => {
                        let gap = f64::from(next.saturating_sub(self.at).max(1));
                        let taste = self.taste;
                        ((time as f64).max(1.0).powf(taste.cost) * self.noise[s as usize])
                            / ((item.bytes as f64).powf(taste.bytes) * gap.powf(taste.gap))
                    }
                },
            };
            offers.push((worth.to_bits(), s));
        }
        offers.sort_unstable();
        for (_, s) in offers {
            if needed <= self.budget {
                break;
            }
            let bytes = model.items[s as usize].bytes;
            self.live[s as usize] = false;
            self.bytes -= bytes;
            needed -= bytes;
            if self.taste.noise > 0.0 {
                self.noise[s as usize] = (self.taste.noise * (self.rng.unit() * 2.0 - 1.0)).exp();
            }
        }
    }

    /// Fill `wanted` and `guards` with what comes after `unit`, which is about to run, for the first time or again.
    fn want(&mut self, unit: u32, again: bool) {
        let model = self.model;
        self.work += (model.units.len() + model.items.len()) as u64;
        let skip = usize::from(!again);
        let first = |s: usize| {
            let uses = &self.uses[s][self.past[s]..];
            let skip = if uses.first() == Some(&self.at) { skip } else { 0 };
            uses.get(skip).copied().unwrap_or(NEVER)
        };
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.clear();
        wanted.extend((0..model.items.len()).map(first));
        let mut guards = std::mem::take(&mut self.guards);
        guards.clear();
        guards.resize(model.items.len(), NEVER);
        // What is read comes before its readers, so what they say of it is complete.
        for (other, _) in self.ran.iter().enumerate().rev().filter(|&(other, ran)| *ran && other != unit as usize) {
            let unit = &model.units[other];
            let gone = unit.writes.iter().filter(|&&s| !self.live[s as usize]).map(|&s| wanted[s as usize]);
            let next = gone.min().unwrap_or(NEVER);
            unit.reads.iter().for_each(|&s| wanted[s as usize] = wanted[s as usize].min(next));
            for &made in &unit.writes {
                let next = if self.live[made as usize] { wanted[made as usize] } else { guards[made as usize] };
                let small = |&&s: &&u32| model.items[s as usize].bytes * 2 <= model.items[made as usize].bytes;
                for &s in unit.reads.iter().filter(small) {
                    guards[s as usize] = guards[s as usize].min(next);
                }
            }
        }
        (self.wanted, self.guards) = (wanted, guards);
    }

    /// Time to make an item again with all that is gone, and the largest footprint among that;
    /// `None` where something of it cannot be made again.
    fn again(&mut self, item: u32) -> Option<(u64, u64)> {
        let model = self.model;
        self.epoch += 1;
        let (mut time, mut largest) = (0u64, 0u64);
        self.stack.clear();
        self.stack.push(model.items[item as usize].maker);
        while let Some(u) = self.stack.pop() {
            if std::mem::replace(&mut self.seen[u as usize], self.epoch) == self.epoch {
                continue;
            }
            self.work += 1;
            let unit = &model.units[u as usize];
            if !unit.replayable {
                return None;
            }
            time = time.saturating_add(unit.time);
            largest = largest.max(unit.footprint);
            let gone = unit.reads.iter().filter(|&&s| !self.live[s as usize]);
            self.stack.extend(gone.map(|&s| model.items[s as usize].maker));
        }
        Some((time, largest))
    }
}
