//! Recomputation and offload chosen together, for any graph.
//!
//! Orders that recompute for the budget, for larger ones and not at all each get copies for the
//! rest; so do the schedules of [`pofo`](super::pofo) where the graph is a chain. The fastest by
//! simulation is then improved by ruin and recreate on both sides: some repeated runs are taken
//! out or some more are put in, some gaps are given up, and copies are placed anew from what is
//! left. What is better is kept, so more work is never worse.

use rayon::prelude::*;

use super::auto::{closure_starts, construct};
use super::evict::{Evictor, Rule};
use super::frame::Frame;
use super::offload::{Copies, Effort, Judged, Name};
use super::pofo::{self, Candidate};
use super::reorder::shrink_first;
use super::rng::Rng;
use super::sim::Sim;
use crate::error::Result;
use crate::units::{Bytes, Nanos};

/// Steps simulated at most, in all: a few seconds on two cores.
const WORK: u64 = 40_000_000;
/// Searches side by side: a constant, so that results do not depend on the number of cores.
const LANES: usize = 4;
/// Between rounds the lanes start over from the best.
const ROUNDS: usize = 6;
/// Parts of what is over the budget that recomputation leaves to the copies, in tenths.
const PARTS: [u64; 8] = [9, 7, 5, 4, 3, 2, 1, 0];

/// The fastest of `best` and of plans that recompute and offload; `order` is the best found
/// without offload, `peak` that of everything kept.
pub(super) fn mixed(frame: &Frame, order: Option<&[u32]>, peak: Bytes, best: Option<Judged>) -> Result<Option<Judged>> {
    let model = &frame.model;
    let late = || frame.limits.late();
    let effort = Effort::new(frame, WORK, &late);
    let mut orders = vec![model.keep_all(), shrink_first(model)];
    orders.extend(order.map(<[u32]>::to_vec));
    let more = peak.saturating_sub(frame.budget).get();
    for part in PARTS {
        if !frame.limits.late() {
            let budget = frame.budget.get() + (u128::from(more) * u128::from(part) / 10) as u64;
            let found = construct(model, budget, closure_starts(model, budget), true, &frame.limits);
            orders.extend(found.into_iter().take(2).map(|(order, _)| order));
        }
    }
    let share = effort.part(2 * orders.len());
    let mut found: Vec<Candidate> = gather(
        orders
            .into_par_iter()
            .map(|order| fit(frame, order, &[], Nanos(u64::MAX), &mut share.at_most(u64::MAX)))
            .collect(),
    )?;
    found.extend(pofo::candidates(frame)?);
    found.sort_by_key(|c| (c.judged.1.time, c.judged.1.peak));
    if let Some(first) = found.first() {
        let enough = frame.least();
        let mut lanes: Vec<Lane> = (0..LANES)
            .map(|lane| Lane {
                rng: Rng::new(frame.options.seed.wrapping_mul(7_368_787).wrapping_add(lane as u64)),
                best: found[lane % found.len()].clone(),
            })
            .collect();
        let mut best = first.clone();
        let share = effort.part(2 * LANES * ROUNDS);
        for _ in 0..ROUNDS {
            if frame.limits.late() || best.judged.1.time.get() <= enough {
                break;
            }
            let done: Vec<Result<()>> = lanes.par_iter_mut().map(|lane| lane.improve(frame, share)).collect();
            done.into_iter().collect::<Result<()>>()?;
            let first = lanes.iter().map(|lane| &lane.best).min_by_key(|c| c.judged.1.time).expect("there are lanes");
            if first.judged.1.time < best.judged.1.time {
                best = first.clone();
            }
            let last = lanes.iter_mut().max_by_key(|lane| lane.best.judged.1.time).expect("there are lanes");
            last.best = best.clone();
        }
        found[0] = best;
    }
    let found = found.into_iter().next().map(|c| c.judged);
    Ok(best.into_iter().chain(found).min_by_key(|(_, timeline)| timeline.time))
}

/// The fastest plan that runs nothing twice and offloads, of two orders: where the link is fast there is none better.
pub(super) fn copied(frame: &Frame) -> Result<Option<Judged>> {
    let late = || frame.limits.late();
    let share = Effort::new(frame, WORK, &late).part(2 * LANES * ROUNDS);
    let orders = [frame.model.keep_all(), shrink_first(&frame.model)];
    let fit = |order| fit(frame, order, &[], Nanos(u64::MAX), &mut share.at_most(u64::MAX));
    let found = gather(orders.into_par_iter().map(fit).collect())?;
    Ok(found.into_iter().map(|c| c.judged).min_by_key(|(_, timeline)| timeline.time))
}

fn gather(found: Vec<Result<Option<Candidate>>>) -> Result<Vec<Candidate>> {
    found.into_iter().filter_map(Result::transpose).collect()
}

/// An order with the copies it needs to fit, those of `chosen` among them, not slower than `slowest`.
fn fit(
    frame: &Frame,
    order: Vec<u32>,
    chosen: &[Name],
    slowest: Nanos,
    effort: &mut Effort,
) -> Result<Option<Candidate>> {
    let (base, timeline) = frame.steps(&order)?;
    if timeline.time > slowest {
        return Ok(None);
    }
    let mut copies = Copies::new(frame.problem, &base, &timeline);
    copies.slowest = slowest;
    for gap in &mut copies.gaps {
        gap.chosen = chosen.binary_search(&gap.name).is_ok();
    }
    Ok(copies.fit(frame.budget, effort)?.map(|judged| Candidate { order, judged, chosen: copies.chosen() }))
}

/// One search.
struct Lane {
    rng: Rng,
    best: Candidate,
}

impl Lane {
    fn improve(&mut self, frame: &Frame, mut effort: Effort) -> Result<()> {
        while !effort.over() {
            let order = self.changed(frame);
            let keep = [0.8, 0.95, 1.0][self.rng.below(3)];
            let mut chosen = self.best.chosen.clone();
            chosen.retain(|_| self.rng.unit() < keep);
            effort.spend(order.len() as u64);
            // Most changes are no good, which shows soon.
            let mut trial = effort.at_most(60 * order.len() as u64);
            let before = trial;
            if let Some(found) = fit(frame, order, &chosen, self.best.judged.1.time, &mut trial)? {
                self.best = found;
            }
            effort.spend(before.spent(&trial));
        }
        Ok(())
    }

    /// The order with some repeated runs more or less.
    fn changed(&mut self, frame: &Frame) -> Vec<u32> {
        let model = &frame.model;
        let mut order = self.best.order.clone();
        let mut seen = vec![false; model.units.len()];
        let repeats: Vec<usize> =
            (0..order.len()).filter(|&i| std::mem::replace(&mut seen[order[i] as usize], true)).collect();
        let mut sim = Sim::default();
        let ruin = self.rng.below(4);
        if !repeats.is_empty() && ruin > 0 {
            let mut out = vec![false; order.len()];
            let first = self.rng.below(repeats.len());
            let most = [1, 2, 1 + repeats.len() / 8][ruin - 1];
            let width = 1 + self.rng.below(most);
            repeats[first..].iter().take(width).for_each(|&i| out[i] = true);
            let mut i = 0;
            order.retain(|_| {
                i += 1;
                !out[i - 1]
            });
            sim.prune(model, &mut order);
        }
        if ruin == 0 || self.rng.below(3) == 0 {
            let peak = sim.run(model, &order).peak;
            let less = (peak as f64 * 0.05 * self.rng.unit() * self.rng.unit()) as u64;
            let rule = Rule { noise: [0.1, 0.5, 1.5][self.rng.below(3)], ..Rule::PLAIN };
            let limit = 30 * order.len() as u64;
            let mut evictor = Evictor::default();
            let stop = |work| work > limit || frame.limits.late();
            evictor.run(model, &mut order, peak - less, rule, &mut self.rng, &stop);
            sim.prune(model, &mut order);
        }
        order
    }
}
