//! The solvers by name.

use super::auto::{
    Limits, Scored, bases, best_first, branches, closure_starts, construct, graded_starts, improve, late_starts,
    recut_starts, time_of_all,
};
use super::balanced::Balanced;
use super::chain;
#[cfg(feature = "highs")]
use super::checkmate::{Checkmate, CheckmateLp};
use super::demand;
use super::frame::Frame;
#[cfg(feature = "highs")]
use super::hierarchical::Hierarchical;
use super::knapsack::BoundaryKnapsack;
#[cfg(feature = "highs")]
use super::moccasin::Moccasin;
use super::model::Model;
use super::moves::Move;
use super::pofo::Pofo;
use super::repeat;
use super::rockmate::Rockmate;
use super::rotor::Rotor;
use super::segments::{self, RecomputeAll, Sqrt};
#[cfg(feature = "highs")]
use super::window;
use super::{Options, Outcome, Solver};
use crate::cost::Problem;
use crate::error::{Error, Result};
use crate::units::Bytes;

/// Every solver there is, the default first.
pub fn solvers() -> Vec<Box<dyn Solver>> {
    vec![
        Box::new(Auto),
        Box::new(Evict),
        Box::new(Chain),
        Box::new(KeepAll),
        Box::new(RecomputeAll),
        Box::new(Sqrt),
        Box::new(Balanced),
        Box::new(BoundaryKnapsack),
        Box::new(Rotor),
        Box::new(Rockmate),
        Box::new(Pofo),
        #[cfg(feature = "highs")]
        Box::new(Checkmate),
        #[cfg(feature = "highs")]
        Box::new(CheckmateLp),
        #[cfg(feature = "highs")]
        Box::new(Moccasin),
        #[cfg(feature = "highs")]
        Box::new(Hierarchical),
    ]
}

/// The names of [`solvers`].
pub fn names() -> Vec<&'static str> {
    solvers().iter().map(|s| s.name()).collect()
}

/// The solver called `name`.
///
/// # Errors
/// [`Error::UnknownSolver`], listing those there are.
pub fn by_name(name: &str) -> Result<Box<dyn Solver>> {
    let found = solvers().into_iter().find(|s| s.name() == name);
    found.ok_or_else(|| Error::UnknownSolver { name: name.to_owned(), known: names().join(", ") })
}

/// Orders made on demand by rules drawn at random.
const RANDOM: usize = 8;
/// Of all orders made on demand so many are gone on with.
const BEST: usize = 8;
/// Times that more orders are made on demand where nothing fits.
const TIGHT: u64 = 8;
/// Times that the best is improved again at most.
const AGAIN: u64 = 20;

/// Where branches are recorded in turns next to nothing else begins as well as what the bound keeps. Where what waits after the loss would take
/// most of the room, less has to wait first of all.
fn in_turns(frame: &Frame, waiting: u64) -> Vec<Scored> {
    let (model, limits, budget) = (&frame.model, &frame.limits, frame.budget.get());
    let tight = budget.saturating_sub(model.resident) / 5 * 4 <= waiting;
    let mut found = Vec::new();
    for late in [tight, !tight] {
        if fits(&found, budget) && (late || limits.pressed()) {
            break;
        }
        if !late {
            let starts = graded_starts(model, budget, &frame.instants);
            found.extend(construct(model, budget, starts, false, limits));
            best_first(&mut found, budget);
            continue;
        }
        for starts in late_starts(model, budget, &frame.instants) {
            found.extend(construct(model, budget, starts, false, limits));
            best_first(&mut found, budget);
            if limits.late() || (fits(&found, budget) && limits.pressed()) {
                break;
            }
        }
    }
    found
}

/// Whether the best of what was found fits.
fn fits(found: &[Scored], budget: u64) -> bool {
    found.first().is_some_and(|(_, score)| score.peak <= budget)
}

/// The default: the best of all heuristics by exact simulation, then improved.
struct Auto;

impl Solver for Auto {
    fn name(&self) -> &'static str {
        "auto"
    }
    fn about(&self) -> &'static str {
        "the best of all heuristics, then improved by ruin and recreate"
    }
    fn uses_starts(&self) -> bool {
        true
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        Frame::solve(self.name(), problem, budget, options, |frame| {
            let (budget, moves) = (frame.budget.get(), frame.model.moves);
            let (model, limits) = (&frame.model, &frame.limits);
            limits.watch.phase("construct");
            // What repeats is solved once. (What is done to a unit of a small graph is done to all like it, but where branches are
            // recorded in turns, far more has to change about the order than that can say.)
            let turns = branches(model).filter(|_| model.is_large());
            let spread = match turns {
                Some(_) => Vec::new(),
                None => repeat::orders(model, budget, &limits.part(4).of_a_part()),
            };
            let spread = frame.starts.iter().cloned().chain(spread).collect();
            let mut found = construct(model, budget, spread, false, &limits.part(8));
            let fits = |found: &[Scored]| fits(found, budget);
            let near = |found: &[Scored]| turns.is_some() && fits(found) && near(model, found[0].1.time, frame.least());
            if let Some((_, waiting)) = turns {
                found.extend(in_turns(frame, *waiting));
                best_first(&mut found, budget);
            }
            // Where what waits after the boundary leaves little room, evictions chase the peak from place to place, unless they
            // begin with segments that run again one at a time.
            let free = budget.saturating_sub(model.resident);
            let segments = match &turns {
                Some((base, waiting)) if free / 4 * 3 < *waiting && !near(&found) => {
                    construct(model, budget, segments::orders(model, base), false, limits)
                }
                _ => Vec::new(),
            };
            if !near(&found) && (!fits(&found) || !limits.pressed()) {
                // In large graphs the plain rules first: closures take long there, and cuts at peak after peak.
                let mut starts = Vec::new();
                if !model.is_large() {
                    starts.extend(closure_starts(model, budget));
                    starts.extend(recut_starts(model, budget, limits));
                }
                let part = fits(&segments).then(|| limits.part(3));
                found.extend(construct(model, budget, starts, true, part.as_ref().unwrap_or(limits)));
                found.extend(segments);
                best_first(&mut found, budget);
                if !fits(&found) || !limits.pressed() {
                    let mut starts = if model.is_large() { closure_starts(model, budget) } else { Vec::new() };
                    if moves.has(Move::Chain) {
                        starts.extend(chain::orders(model, budget));
                    }
                    starts.extend(on_demand(frame, RANDOM, limits));
                    if !fits(&found) {
                        found.extend(construct(model, budget, std::mem::take(&mut starts), false, limits));
                        best_first(&mut found, budget);
                    }
                    // Before more is tried: is there a plan at all?
                    if !fits(&found) {
                        let order = frame.reach().into_iter().collect();
                        found.extend(construct(model, budget, order, false, limits));
                        best_first(&mut found, budget);
                        if frame.refuted() {
                            return Ok(found.into_iter().next().map(|(order, _)| order));
                        }
                    }
                    if moves.has(Move::Smaller) {
                        starts.extend(smaller_budgets(frame));
                    }
                    found.extend(construct(model, budget, starts, false, limits));
                }
                best_first(&mut found, budget);
                // A node limit is for one round.
                let rounds = if frame.options.node_limit.is_some() { 0 } else { TIGHT };
                for again in 1..=rounds {
                    if fits(&found) || limits.spent(3) {
                        break;
                    }
                    let starts = on_demand(frame, 2 * RANDOM, &limits.reseeded(again));
                    found.extend(construct(model, budget, starts, false, limits));
                    best_first(&mut found, budget);
                }
            }
            let Some(best) = refined(frame, found, limits) else { return Ok(None) };
            if best.1.peak <= budget {
                frame.prove(best.1.time);
            }
            Ok(Some(further(frame, best).0))
        })
    }
}

/// Whether a large graph's plan is so near to the bound that improving it is worth more than other plans to begin with.
fn near(model: &Model, time: u64, least: u64) -> bool {
    let all = time_of_all(model);
    model.is_large() && time.saturating_sub(all) / 6 * 5 <= least.saturating_sub(all)
}

/// The best of the orders made on demand; none in large graphs, where they take too long.
fn on_demand(frame: &Frame, random: usize, limits: &Limits) -> Vec<Vec<u32>> {
    let model = &frame.model;
    if model.is_large() || !model.moves.has(Move::Demand) {
        return Vec::new();
    }
    let made = demand::orders(model, &bases(model), frame.budget.get(), random, limits);
    made.into_iter().take(BEST).map(|(order, _)| order).collect()
}

/// The best of what is found, improved.
fn refined(frame: &Frame, found: Vec<Scored>, limits: &Limits) -> Option<Scored> {
    let (model, budget) = (&frame.model, frame.budget.get());
    limits.watch.phase("improve");
    let best = improve(model, budget, found, frame.least(), limits).into_iter().next()?;
    #[cfg(feature = "highs")]
    let best = {
        limits.watch.phase("windows");
        window::refine(model, budget, best, frame.least(), limits, frame.options)
    };
    Some(best)
}

/// Improve `best` again from other random numbers, while there is time and it helps. (A node limit
/// is used up by then; and who wants no bounds wants a plan soon.)
fn further(frame: &Frame, mut best: Scored) -> Scored {
    let budget = frame.budget.get();
    if frame.options.node_limit.is_some() || !frame.options.prove {
        return best;
    }
    let mut idle = 0;
    for again in 1..=AGAIN {
        let proved = best.1.peak <= budget && best.1.time <= frame.least();
        if proved || idle == 2 || frame.limits.spent(9) || frame.limits.late() {
            break;
        }
        idle += 1;
        if let Some(better) = refined(frame, vec![best.clone()], &frame.limits.reseeded(again))
            && better.1.rank(budget) < best.1.rank(budget)
        {
            (best, idle) = (better, 0);
        }
    }
    best
}

/// Orders for the next smaller budgets of a grid that depends on the problem alone: what fits
/// them fits here, so that a little more budget does not lead to a slower plan.
fn smaller_budgets(frame: &Frame) -> Vec<Vec<u32>> {
    const GRID: u64 = 32;
    /// Units up to which there is time to improve these orders too.
    const SMALL: usize = 1500;
    let (model, limits) = (&frame.model, &frame.limits);
    let low = frame.problem.trivial_bound().get();
    let step = (model.peak_of_keep_all().saturating_sub(low) / GRID).max(1);
    let below = (frame.budget.get().saturating_sub(low)) / step;
    let small = model.units.len() <= SMALL;
    let rungs: u64 = if small { 4 } else { 2 };
    let mut orders: Vec<Vec<u32>> = Vec::new();
    // The lowest first, as what fits there is where the next begins; without improvement the nearest first.
    let mut rungs: Vec<u64> = (below.saturating_sub(rungs - 1).max(1)..=below).collect();
    if !small {
        rungs.reverse();
    }
    let parts = 2 * rungs.len() as u32;
    for k in rungs {
        if limits.spent(if small { 3 } else { 1 }) || limits.watch.cancelled() {
            break;
        }
        let budget = low + k * step;
        let mut found = construct(model, budget, closure_starts(model, budget), true, limits);
        if small {
            found.extend(construct(model, budget, orders.clone(), false, limits));
            best_first(&mut found, budget);
            found = improve(model, budget, found, frame.least(), &limits.part(parts));
        }
        let best = found.into_iter().take(2).map(|(order, _)| order);
        orders = best.chain(orders).collect();
    }
    orders
}

/// The best that improvement makes of `found`.
fn improved(frame: &Frame, found: Vec<Scored>) -> Option<Vec<u32>> {
    let all = improve(&frame.model, frame.budget.get(), found, frame.least(), &frame.limits);
    all.into_iter().next().map(|(order, _)| order)
}

/// Greedy eviction alone.
struct Evict;

impl Solver for Evict {
    fn name(&self) -> &'static str {
        "evict"
    }
    fn about(&self) -> &'static str {
        "greedy eviction by time per byte (after DTR, ahead of time), then improved"
    }
    fn uses_starts(&self) -> bool {
        true
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        Frame::solve(self.name(), problem, budget, options, |frame| {
            let found = construct(&frame.model, frame.budget.get(), frame.starts.clone(), true, &frame.limits);
            Ok(improved(frame, found))
        })
    }
}

/// The chain table alone.
struct Chain;

impl Solver for Chain {
    fn name(&self) -> &'static str {
        "chain"
    }
    fn about(&self) -> &'static str {
        "dynamic programming over blocks of a chain (after Rotor), then improved op by op"
    }
    fn uses_starts(&self) -> bool {
        true
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        Frame::solve(self.name(), problem, budget, options, |frame| {
            let mut starts = chain::orders(&frame.model, frame.budget.get());
            if starts.is_empty() {
                let why = "it has no chain of blocks that fits the budget by the table's estimate".to_owned();
                return Err(Error::Unsupported { solver: "chain", why });
            }
            starts.extend(frame.starts.iter().cloned());
            let found = construct(&frame.model, frame.budget.get(), starts, false, &frame.limits);
            Ok(improved(frame, found))
        })
    }
}

/// Nothing recomputed.
struct KeepAll;

impl Solver for KeepAll {
    fn name(&self) -> &'static str {
        "keep-all"
    }
    fn about(&self) -> &'static str {
        "every op once in the order of the graph; fits or does not"
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        Frame::keep_all(self.name(), problem, budget, options)
    }
}
