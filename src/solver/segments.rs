//! Checkpointing by segments: keep what crosses from one to the next, run the rest again.
//!
//! Chen, Xu, Zhang, Guestrin, "Training deep nets with sublinear memory cost" (2016). The part of
//! the graph before the boundary is cut into segments; what one segment makes and a later one
//! reads is kept, everything else is dropped and made again, a whole segment at a time, when the
//! backward part first reads from it. The last segment's backward follows at once, so it is kept.
//!
//! There is no budget in this method: each of the two solvers has one plan, which fits or does not.
//! Any graph with a boundary is taken; units that may not run twice keep what they made.

use super::family::{boundary, crossing, fastest, last_reads, settle};
use super::model::{Model, NONE};
use super::sim::Sim;
use super::{Options, Outcome, Solver};
use crate::cost::Problem;
use crate::error::{Error, Result};
use crate::units::Bytes;

/// Numbers of segments that a search begins with.
const SEGMENTS: [usize; 3] = [12, 24, 48];

/// Segments end where the fewest bytes cross, as at the ends of a network's blocks.
pub(super) struct RecomputeAll;

impl Solver for RecomputeAll {
    fn name(&self) -> &'static str {
        "recompute-all"
    }
    fn about(&self) -> &'static str {
        "keeps each block's input, runs every block again (Chen et al. 2016); one plan for all budgets"
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        settle(self.name(), problem, budget, options, |frame| {
            let n = boundary(&frame.model).ok_or_else(|| no_boundary(self.name()))?;
            let cuts = minima(&crossing(&frame.model, n));
            fastest(frame, [checkpointed(&frame.model, n, &cuts, &frame.model.keep_all())])
        })
    }
}

/// About sqrt(n) segments of equal time, each cut moved to the cheapest place near it.
pub(super) struct Sqrt;

impl Solver for Sqrt {
    fn name(&self) -> &'static str {
        "sqrt"
    }
    fn about(&self) -> &'static str {
        "sqrt(n) segments, each one's input kept (Chen et al. 2016); one plan for all budgets"
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        settle(self.name(), problem, budget, options, |frame| {
            let n = boundary(&frame.model).ok_or_else(|| no_boundary(self.name()))?;
            let cuts = even(&frame.model, n, (n as f64).sqrt().round().max(1.0) as usize);
            fastest(frame, [checkpointed(&frame.model, n, &cuts, &frame.model.keep_all())])
        })
    }
}

pub(super) fn no_boundary(solver: &'static str) -> Error {
    Error::Unsupported { solver, why: "it has no forward part whose results a backward part reads".to_owned() }
}

/// Places where fewer bytes cross than anywhere near, the first of equals.
fn minima(crossing: &[u64]) -> Vec<usize> {
    let n = crossing.len() - 1;
    let near = (n / 32).max(1);
    let is_minimum = |&p: &usize| {
        let before = (p.saturating_sub(near).max(1)..p).all(|q| crossing[q] > crossing[p]);
        before && (p + 1..=(p + near).min(n - 1)).all(|q| crossing[q] >= crossing[p])
    };
    (1..n).filter(is_minimum).collect()
}

/// Orders of segments of equal time, of several numbers of segments, that run what comes after the boundary as `base` does.
pub(super) fn orders(model: &Model, base: &[u32]) -> Vec<Vec<u32>> {
    let Some(n) = boundary(model) else { return Vec::new() };
    let mut sim = Sim::default();
    let start = |segments| {
        let mut order = checkpointed(model, n, &even(model, n, segments), base);
        sim.prune(model, &mut order);
        order
    };
    SEGMENTS.map(start).into()
}

fn even(model: &Model, n: usize, segments: usize) -> Vec<usize> {
    let crossing = crossing(model, n);
    let total: u128 = model.units[..n].iter().map(|u| u128::from(u.time)).sum();
    let (mut cuts, mut time, mut p) = (Vec::new(), 0u128, 0);
    for k in 1..segments {
        while p < n && time * (segments as u128) < total * k as u128 {
            time += u128::from(model.units[p].time);
            p += 1;
        }
        let near = n / segments / 2;
        let place =
            (p.saturating_sub(near).max(1)..=(p + near).min(n - 1)).min_by_key(|&q| (crossing[q], q.abs_diff(p)));
        cuts.extend(place.filter(|q| !cuts.contains(q)));
    }
    cuts.sort_unstable();
    cuts
}

/// The order of units that checkpoints at `cuts`, ascending places in 1..n, and then goes on as `base` does.
fn checkpointed(model: &Model, n: usize, cuts: &[usize], base: &[u32]) -> Vec<u32> {
    let segment = |unit: usize| cuts.partition_point(|&c| c <= unit);
    let last = last_reads(model, n);
    let kept = |s: u32| {
        let maker = model.items[s as usize].maker as usize;
        segment(last[s as usize].max(maker)) != segment(maker)
    };
    // A segment's input is kept as long as anything of the segment may be made from it.
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut again = vec![false; cuts.len() + 1];
    again[cuts.len()] = true;
    for &u in base.iter().filter(|&&u| u as usize >= n) {
        let mut wanted: Vec<usize> = Vec::new();
        for &s in &model.units[u as usize].reads {
            let maker = model.items[s as usize].maker;
            if maker != NONE && (maker as usize) < n && !kept(s) && !again[segment(maker as usize)] {
                again[segment(maker as usize)] = true;
                wanted.push(segment(maker as usize));
            }
        }
        wanted.sort_unstable();
        for g in wanted {
            let from = if g == 0 { 0 } else { cuts[g - 1] };
            let runs = (from..cuts[g]).filter(|&v| {
                let unit = &model.units[v];
                unit.replayable && !unit.writes.iter().all(|&s| kept(s))
            });
            order.extend(runs.map(|v| v as u32));
        }
        order.push(u);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_where_little_crosses() {
        assert_eq!(minima(&[0, 5, 2, 5, 5, 1, 5, 0]), [2, 5]);
        assert_eq!(minima(&[0, 3, 3, 3, 0]), [1]);
        assert!(minima(&[0, 0]).is_empty());
    }
}
