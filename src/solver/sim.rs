//! What an order of units does to memory and time, fast: the inner loop of every search.
//!
//! It agrees with lowering the expanded order and simulating it (a test says so), but touches only
//! dense arrays. Whoever returns a plan still asks the real simulator.

use super::model::{Model, Stamps};

/// Peak and time of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Score {
    pub peak: u64,
    /// Position where the peak is first reached.
    pub at: usize,
    pub time: u64,
}

impl Score {
    /// Smaller is better: first fit the budget, then be fast, then be small.
    pub fn rank(&self, budget: u64) -> (u64, u64, u64) {
        (self.peak.saturating_sub(budget), self.time, self.peak)
    }
}

/// Scratch space of the evaluation.
#[derive(Default)]
pub(super) struct Sim {
    wanted: Vec<bool>,
    dies: Vec<bool>,
    bytes: Vec<u64>,
    stamps: Stamps,
    /// Positions evaluated so far, over all orders.
    pub work: u64,
}

impl Sim {
    /// Evaluate an order; every unit it reads from must stand before it.
    pub fn run(&mut self, model: &Model, order: &[u32]) -> Score {
        self.each(model, order, &mut |_| {})
    }

    /// Bytes live during each run of an order.
    pub fn profile(&mut self, model: &Model, order: &[u32]) -> Vec<u64> {
        let mut live = Vec::with_capacity(order.len());
        self.each(model, order, &mut |during| live.push(during));
        live
    }

    /// [`Self::run`], told what is live during each run.
    fn each(&mut self, model: &Model, order: &[u32], tell: &mut impl FnMut(u64)) -> Score {
        self.work += order.len() as u64;
        self.mark_deaths(model, order);
        self.bytes.clear();
        self.bytes.resize(model.items.len(), 0);
        self.stamps.reset(model);
        let mut live = model.resident;
        let mut score = Score { peak: live, at: 0, time: 0 };
        let mut touch = 0;
        for (position, &u) in order.iter().enumerate() {
            let unit = &model.units[u as usize];
            let (reads, writes) = (unit.reads.len(), unit.writes.len());
            let views = self.stamps.read(model, u, &mut |_| {});
            score.time = score.time.saturating_add(unit.time).saturating_add(views);
            let dies = &mut self.dies[touch..touch + reads + writes];
            let mut taken = 0u64;
            for &(r, w) in &unit.pairs {
                // Pairs name outputs below 64 only.
                if dies[r as usize] && taken & (1 << w) == 0 {
                    let (from, to) = (unit.reads[r as usize] as usize, unit.writes[w as usize] as usize);
                    let grown = self.bytes[from].max(model.items[to].bytes);
                    live += grown - self.bytes[from];
                    self.bytes[to] = grown;
                    // Taken over, so neither freed here nor allocated below.
                    dies[r as usize] = false;
                    taken |= 1 << w;
                }
            }
            for (w, &s) in unit.writes.iter().enumerate() {
                if w >= 64 || taken & (1 << w) == 0 {
                    self.bytes[s as usize] = model.items[s as usize].bytes;
                    live += self.bytes[s as usize];
                }
            }
            let during = live + unit.workspace;
            tell(during);
            if during > score.peak {
                (score.peak, score.at) = (during, position);
            }
            self.stamps.write(model, u, position);
            for (k, &s) in unit.reads.iter().chain(&unit.writes).enumerate() {
                if dies[k] {
                    live -= self.bytes[s as usize];
                }
            }
            touch += reads + writes;
        }
        score
    }

    /// For each touch in the order: does the storage's life end there?
    fn mark_deaths(&mut self, model: &Model, order: &[u32]) {
        self.wanted.clear();
        self.wanted.resize(model.items.len(), false);
        // The end unit reads the outputs; they are not freed, but nothing comes after it.
        let touches = order.iter().map(|&u| &model.units[u as usize]).map(|u| u.reads.len() + u.writes.len());
        let mut touch = touches.sum();
        self.dies.clear();
        self.dies.resize(touch, false);
        for &u in order.iter().rev() {
            let unit = &model.units[u as usize];
            touch -= unit.reads.len() + unit.writes.len();
            for (k, &s) in unit.writes.iter().enumerate() {
                self.dies[touch + unit.reads.len() + k] = !self.wanted[s as usize];
                self.wanted[s as usize] = false;
            }
            for (k, &s) in unit.reads.iter().enumerate() {
                self.dies[touch + k] = !self.wanted[s as usize];
                self.wanted[s as usize] = true;
            }
        }
    }

    /// Take out of `order` every replayable run of a unit that nothing reads before the unit runs
    /// again or the order ends.
    pub fn prune(&mut self, model: &Model, order: &mut Vec<u32>) {
        self.wanted.clear();
        self.wanted.resize(model.items.len(), false);
        let mut kept = order.len();
        for i in (0..order.len()).rev() {
            let unit = &model.units[order[i] as usize];
            if unit.replayable && unit.writes.iter().all(|&s| !self.wanted[s as usize]) {
                continue;
            }
            for &s in &unit.writes {
                self.wanted[s as usize] = false;
            }
            for &s in &unit.reads {
                self.wanted[s as usize] = true;
            }
            kept -= 1;
            order[kept] = order[i];
        }
        order.drain(..kept);
    }
}
