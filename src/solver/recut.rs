//! Orders decided anew where most is live.
//!
//! An [eviction](super::evict) takes one item away at the peak. Where what fills it is a whole chain - the gradients of all
//! gates that wait for the end of a recurrence's backward run - no single one is worth it: to make it again
//! takes all that came before it. Together they are cheap, as the chain runs again once for all of them. Which of all that is live at
//! the peak is best kept, and which runs are best done again for the rest, is a minimum cut, as at the
//! [boundary](super::bound) of forward and backward; and any place of any order is such a boundary, if the order
//! is taken for a graph:
//!
//! ```text
//! order     a b c a d b e        what runs again has units and items of its own:
//! as graph  1 2 3 4 5 6 7        any that runs before the peak may be done again after it
//! ```
//!
//! What came of it has a lower peak, mostly elsewhere, and there it is decided anew, until the budget is met. So what was made
//! again is made again once more where that is the way to have less live: several levels of recomputation, chain by chain.

use super::bound::Boundary;
use super::model::{Item, Model, NONE, Unit};
use super::sim::Sim;

/// Hundredths of the room at the peak to keep something in, and pieces in which the rest is made again: ways to decide.
pub(super) const WAYS: [(u64, u64); 8] = [(100, 1), (96, 1), (90, 1), (80, 1), (65, 1), (90, 8), (80, 16), (80, 4)];
/// Hundredths of the room that are left to what is made after the loss.
const LATE: [u64; 3] = [50, 60, 40];
/// Places of an order that are looked at one after another, at most.
const CUTS: usize = 40;

/// `base` with what is live at its peak decided anew, and then at the peak of what came of that, until it fits `budget` or
/// nothing helps any more. Of the ways there are the one with that number is tried first each time.
pub(super) fn recut(model: &Model, base: &[u32], budget: u64, way: usize, late: &dyn Fn() -> bool) -> Vec<u32> {
    let mut sim = Sim::default();
    let mut order = base.to_vec();
    let mut peak = Peak::of(&sim.profile(model, &order), budget);
    for _ in 0..CUTS {
        if peak.live <= budget || late() {
            break;
        }
        let graph = as_graph(model, &order);
        let boundary = Boundary::between(&graph, peak.at);
        let lower = |&(part, pieces): &(u64, u64)| {
            let mut order = anew(&order, &boundary, budget, part, pieces)?;
            sim.prune(model, &mut order);
            let lower = Peak::of(&sim.profile(model, &order), budget);
            (lower.live <= peak.live && lower.excess < peak.excess).then_some((order, lower))
        };
        let Some(lower) = WAYS[way..].iter().chain(&WAYS[..way]).find_map(lower) else { break };
        (order, peak) = lower;
    }
    order
}

/// Ways to have less waiting after the loss than `base` has: what is live at the peak, or further down the slope behind it, is decided anew
/// for a part of the room, so that what waits for the end of a recurrence is made again in halves or thirds. `late` counts the bytes
/// of what is made [after the loss](super::reorder::late_part) only; the rest can be made again there.
pub(super) struct Late<'a, 'm> {
    late: &'a Model<'m>,
    base: &'a [u32],
    graph: Model<'m>,
    places: [usize; 2],
}

impl<'a, 'm> Late<'a, 'm> {
    pub const WAYS: usize = 2 * LATE.len();

    pub fn new(late: &'a Model<'m>, base: &'a [u32]) -> Self {
        let live = Sim::default().profile(late, base);
        let peak = Peak::of(&live, 0);
        let low = late.resident + (peak.live - late.resident) / 5 * 4;
        let slope = (peak.at..live.len()).find(|&at| live[at] <= low).unwrap_or(peak.at);
        Self { late, base, graph: as_graph(late, base), places: [slope, peak.at] }
    }

    /// What one of the ways comes to within `budget`.
    pub fn order(&self, budget: u64, way: usize) -> Option<Vec<u32>> {
        let boundary = Boundary::between(&self.graph, self.places[way % 2]);
        let mut order = anew(self.base, &boundary, budget, LATE[way / 2 % LATE.len()], 1)?;
        Sim::default().prune(self.late, &mut order);
        Some(order)
    }
}

/// An order whose graph has that boundary, [decided anew](Boundary::graded_order) there.
fn anew(order: &[u32], boundary: &Boundary, budget: u64, part: u64, pieces: u64) -> Option<Vec<u32>> {
    let runs: Vec<u32> = (0..order.len() as u32).collect();
    let runs = boundary.graded_order(budget, part, pieces, &runs)?;
    Some(runs.into_iter().map(|run| order[run as usize]).collect())
}

/// Where most is live.
struct Peak {
    live: u64,
    at: usize,
    /// Bytes beyond the budget, over all runs: of two peaks as high as each other one may be gone.
    excess: u128,
}

impl Peak {
    fn of(live: &[u64], budget: u64) -> Self {
        let first = live.iter().enumerate().max_by_key(|&(at, live)| (live, std::cmp::Reverse(at)));
        let (at, &most) = first.unwrap_or((0, &0));
        let excess = live.iter().map(|live| u128::from(live.saturating_sub(budget))).sum();
        Self { live: most, at, excess }
    }
}

/// An order as a graph of its own, whose units are its runs.
fn as_graph<'a>(model: &Model<'a>, order: &[u32]) -> Model<'a> {
    let mut items: Vec<Item> = Vec::with_capacity(model.items.len() + order.len() / 2);
    // The item that stands for what is there now.
    let mut now: Vec<u32> = vec![NONE; model.items.len()];
    let mut units = Vec::with_capacity(order.len());
    for (&u, run) in order.iter().zip(0..) {
        let unit = &model.units[u as usize];
        let mut version = |s: &u32, maker: u32| {
            let (item, now) = (&model.items[*s as usize], &mut now[*s as usize]);
            if maker != NONE || *now == NONE {
                *now = items.len() as u32;
                items.push(Item { maker, ..item.clone() });
            }
            *now
        };
        let reads = unit.reads.iter().map(|s| version(s, NONE)).collect();
        let writes = unit.writes.iter().map(|s| version(s, run)).collect();
        units.push(Unit { reads, writes, views: Vec::new(), ..unit.clone() });
    }
    Model { units, ..model.with_items(items) }
}

#[cfg(all(test, feature = "fuzzing"))]
mod tests {
    use super::*;
    use crate::fuzz::{Shape, both_ways, layered, problem};
    use crate::plan::{Lowering, lower, simulate};
    use crate::solver::auto::{branches, graded_starts, late_starts};
    use crate::solver::bound::ranked;
    use crate::solver::evict::{Evictor, Rule};
    use crate::solver::reorder::late_part;
    use crate::solver::rng::Rng;

    #[test]
    fn orders_are_legal_and_never_hold_more_at_once() {
        let (mut lower_peaks, mut fit) = (0, 0);
        for seed in 0..300 {
            let problem = problem(seed, Shape { once: seed % 3 > 0, ..Shape::all(10 + seed as usize % 60) });
            let model = Model::new(&problem, true);
            let base = model.keep_all();
            let peak = Sim::default().run(&model, &base).peak;
            let budget = model.resident + (peak - model.resident) / 10 * (4 + seed % 6);
            let order = recut(&model, &base, budget, seed as usize % WAYS.len(), &|| false);
            let steps = lower(&problem.graph, &model.expand(&order), Lowering::default());
            simulate(&problem, &steps).unwrap();
            let score = Sim::default().run(&model, &order);
            assert!(score.peak <= peak, "seed {seed}");
            assert_eq!(model.order_of(&steps), Some(order), "seed {seed}");
            lower_peaks += usize::from(score.peak < peak);
            fit += usize::from(score.peak <= budget);
        }
        assert!(lower_peaks > 100 && fit > 30, "{lower_peaks} lower, {fit} fit");
    }

    /// Where one item at a time leads nowhere whole chains do, and elsewhere they are faster at times.
    #[test]
    fn evictions_that_begin_with_whole_chains_need_less() {
        let (mut found, mut faster) = ([0; 2], 0);
        for problem in [both_ways(32), both_ways(40), both_ways(48), layered(1, 40, 6)] {
            let model = Model::new(&problem, true);
            for base in [model.keep_all(), crate::solver::reorder::branch_by_branch(&model)] {
                let peak = Sim::default().run(&model, &base).peak;
                for part in [4, 5, 6] {
                    let budget = model.resident + (peak - model.resident) / 24 * part;
                    let evicted = |mut order: Vec<u32>| {
                        let rng = &mut Rng::new(0);
                        let fits = Evictor::default().run(&model, &mut order, budget, Rule::PLAIN, rng, &|_| false);
                        fits.then(|| Sim::default().run(&model, &order).time)
                    };
                    let begun = |way| evicted(recut(&model, &base, budget, way, &|| false));
                    let times = [evicted(base.clone()), (0..WAYS.len()).filter_map(begun).min()];
                    times.iter().zip(&mut found).for_each(|(time, found)| *found += usize::from(time.is_some()));
                    if let [Some(alone), Some(chains)] = times {
                        faster += usize::from(chains < alone);
                    }
                }
            }
        }
        assert!(found[1] > found[0] && faster > 2, "found {found:?}, faster in {faster}");
    }

    /// What is best kept at the loss alone leaves evictions to chase what waits for the end of a recurrence from place to place.
    #[test]
    fn less_waits_after_the_loss() {
        for (steps, part) in [(48, 80), (64, 74)] {
            let problem = both_ways(steps);
            let model = Model::new(&problem, true);
            let (base, waiting) = branches(&model).expect("branches in turns");
            let budget = model.resident + waiting / 100 * part;
            let late = late_part(&model);
            let ways = Late::new(&late, base);
            for order in (0..Late::WAYS).filter_map(|way| ways.order(budget, way)) {
                let steps = lower(&problem.graph, &model.expand(&order), Lowering::default());
                simulate(&problem, &steps).unwrap();
            }
            let ranked = ranked(&model, budget);
            let fitting = |starts: Vec<Vec<u32>>| {
                let rng = &mut Rng::new(0);
                let mut fits = |mut order: Vec<u32>| {
                    Evictor::default().run(&model, &mut order, budget, Rule::PLAIN, rng, &|_| false)
                };
                starts.into_iter().map(&mut fits).filter(|&fits| fits).count()
            };
            let all: Vec<Vec<u32>> = late_starts(&model, budget, &ranked).flatten().collect();
            assert!(all.len() > 4 && fitting(all.clone()) == all.len(), "{steps} steps");
            let graded = graded_starts(&model, budget, &ranked);
            assert!(fitting(graded.clone()) < graded.len() / 2, "{steps} steps");
        }
    }

    #[test]
    fn an_order_as_a_graph_holds_what_the_order_does() {
        for seed in 0..100 {
            let problem = problem(seed, Shape { once: false, ..Shape::all(10 + seed as usize % 60) });
            let model = Model::new(&problem, true);
            let mut order = model.keep_all();
            let peak = Sim::default().run(&model, &order).peak;
            let budget = model.resident + (peak - model.resident) / 2;
            Evictor::default().run(&model, &mut order, budget, Rule::PLAIN, &mut Rng::new(seed), &|_| false);
            let graph = as_graph(&model, &order);
            let profile = Sim::default().profile(&model, &order);
            assert_eq!(Sim::default().profile(&graph, &graph.keep_all()), profile, "seed {seed}");
        }
    }
}
