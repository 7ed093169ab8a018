//! Checkmate: the exact program over phases, and its relaxation rounded.
//!
//! Jain et al., "Checkmate: breaking the memory wall with optimal tensor rematerialization"
//! (2020); the program is in [`phases`](super::phases). It minimizes time, for any graph.
//!
//! **What is proved.** [`Outcome::Optimal`] means: no plan *of this class* within the budget is
//! faster. The class: no offload; no in-place reuse; first runs in the order of the graph (among
//! ops that make storage; views run when they are read); between two first runs, and after the
//! last, each op runs once at most, in the order of the graph. Plans outside the class (another order, an op run twice
//! between two first runs, storage taken over) can be faster or fit where none of the class does,
//! so the plan's `lower_bound` stays the one for all plans, and "no plan of the class fits" is not
//! told as proof that none fits. The plan found is taken in place where that does no harm, and
//! loses runs of no use: an op must run when its phase comes, but a result that is made again
//! before it is read need not be made then.
//!
//! A plan of the class is sought first, by eviction with random rules; then there only has to be
//! found a faster one or proved that there is none. The plans of the class are gone through from their end, by what is needed
//! ([`states`](super::states)): that finds the fastest of them, or proves that there is none, mostly in a fraction of the time that the
//! program takes. What it leaves open within two thirds of the time is for HiGHS to say with the whole program. Where only *a* plan is asked
//! for ([`Solver::fit`]), the first one ends it: the search for the smallest budget that suffices proves no optimum on the way.
//!
//! The program has about n^2/2 binary columns for n ops that make storage: above [`EXACT`] of
//! them it is refused unless the options limit its nodes, above [`MOST`] always.

use std::time::Instant;

use super::auto::{closure_starts, construct};
use super::evict::{Evictor, Rule};
use super::explain;
use super::family::{fastest, lowered, settle};
use super::frame::Frame;
use super::improve::Search;
use super::milp::Verdict;
use super::model::{Model, NONE};
use super::phases::{Phases, Solution};
use super::rng::Rng;
use super::sim::{Score, Sim};
use super::states;
use super::{Options, Outcome, Solver};
use crate::cost::Problem;
use crate::error::{Error, Result};
use crate::plan::Status;
use crate::units::Bytes;

/// Ops that make storage, above which there must be a limit on nodes.
const EXACT: usize = 64;
/// Above this not even the relaxation ends in useful time.
const MOST: usize = 160;
/// The part of the time in which states are gone through before HiGHS gets the program, where nodes are not limited.
const WALKED: (u32, u32) = (2, 3);
/// Random evictions in search of a plan to begin with.
const TRIES: usize = 400;

/// States that each phase is left with at most, in the searches for a plan to begin with.
const WIDTHS: [usize; 2] = [100, 1_000];
/// What is told where no plan is in the class.
const NONE_FITS: &str = "no plan of the solver's class fits";

/// A plan as an order of units, if one is known, and its time.
type Known = Option<(Vec<u32>, u64)>;

/// The exact program.
pub(super) struct Checkmate;

impl Solver for Checkmate {
    fn name(&self) -> &'static str {
        "checkmate"
    }
    fn about(&self) -> &'static str {
        "exact integer program over phases (Jain et al. 2020); small graphs; optimal among plans in the graph's order"
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        settle(self.name(), problem, budget, options, |frame| exact(frame, self.name(), EXACT, None, Goal::Fastest))
    }
    fn fit(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        settle(self.name(), problem, budget, options, |frame| exact(frame, self.name(), EXACT, None, Goal::Any))
    }
}

/// The relaxation, rounded.
pub(super) struct CheckmateLp;

impl Solver for CheckmateLp {
    fn name(&self) -> &'static str {
        "checkmate-lp"
    }
    fn about(&self) -> &'static str {
        "Checkmate's linear relaxation, what is kept rounded at several thresholds; small graphs"
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        settle(self.name(), problem, budget, options, |frame| {
            guard(&frame.model, self.name(), MOST, options)?;
            // The rounded plan needs more than the relaxed one, so smaller budgets are tried too.
            let mut orders = Vec::new();
            for part in [1.0, 0.9, 0.8] {
                let room = (budget.get().saturating_sub(frame.model.resident)) as f64 * part;
                let budget = frame.model.resident + room as u64;
                let phases =
                    Phases { model: &frame.model, budget, integer: false, runs: None, faster_than: None, later: false };
                let solution = phases.solve(&frame.remaining());
                if solution.verdict == Verdict::Optimal {
                    orders.extend((1..20).map(|k| rounded(&frame.model, &solution, f64::from(k) * 0.05)));
                }
                if frame.limits.late() {
                    break;
                }
            }
            if orders.is_empty() {
                return explain::asked(frame, "the relaxation has no solution within the limits");
            }
            match fastest(frame, orders)? {
                Outcome::Unknown { why, .. } => explain::asked(frame, &why),
                outcome => Ok(outcome),
            }
        })
    }
}

/// Refuse what is too large.
fn guard(model: &Model, solver: &'static str, exact: usize, options: &Options) -> Result<()> {
    let n = model.units.len() - 1;
    let most = if options.node_limit.is_some() { MOST } else { exact };
    match n > most {
        true => {
            let why = format!("it has {n} ops that make storage, more than the {most} an exact program is solved for");
            Err(Error::Unsupported { solver, why })
        }
        false => Ok(()),
    }
}

/// What is asked of the program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    /// The fastest plan.
    Fastest,
    /// A plan that fits, or that there is none.
    Any,
}

impl Goal {
    /// Whether what is known is enough.
    fn reached(self, known: &Known) -> bool {
        self == Self::Any && known.is_some()
    }
}

/// Solve the program, with `runs` of each unit at most.
pub(super) fn exact(
    frame: &Frame,
    solver: &'static str,
    size: usize,
    runs: Option<u32>,
    goal: Goal,
) -> Result<Outcome> {
    guard(&frame.model, solver, size, frame.options)?;
    // A plan of the class that is known is where the search may stop looking.
    let plain = Model::new(frame.problem, false);
    let mut known = known(frame, &plain, runs);
    let mut proved = !goal.reached(&known) && walked(frame, &plain, runs, goal, &mut known);
    if proved && known.is_none() {
        return explain::asked(frame, NONE_FITS);
    }
    // The second program is larger and proves more; the first is quicker to find a plan.
    for later in [false, true] {
        if proved || goal.reached(&known) || frame.limits.late() {
            break;
        }
        let faster_than = known.as_ref().map(|&(_, time)| time);
        let phases = Phases { model: &plain, budget: frame.budget.get(), integer: true, runs, faster_than, later };
        let mut options = frame.remaining();
        if !later && options.node_limit.is_none() {
            options.time_limit /= 2;
        }
        let solution = phases.solve(&options);
        match (solution.verdict, &known) {
            (Verdict::Infeasible, None) => return explain::asked(frame, NONE_FITS),
            // Nothing in the class is faster.
            (Verdict::Infeasible, Some(_)) => proved = true,
            (Verdict::Unknown, _) => {}
            (verdict, _) => {
                let (order, score) = pruned(&plain, solution.order());
                // HiGHS may overstep a row by its tolerance.
                if score.peak <= frame.budget.get() {
                    proved = verdict == Verdict::Optimal;
                    known = Some((order, score.time));
                }
            }
        }
    }
    let Some((order, _)) = known else {
        return explain::asked(frame, "none was found within the limits of the search");
    };
    let (steps, timeline) = lowered(frame, &order)?;
    if timeline.peak > frame.budget {
        return explain::asked(frame, "the plan found does not fit with storage taken over");
    }
    Ok(match frame.outcome(steps, &timeline) {
        // The model has no lane for copies.
        Outcome::Feasible { mut plan, .. } if proved && !frame.problem.has_loads() => {
            plan.predicted.status = Status::Optimal;
            Outcome::Optimal(plan)
        }
        outcome => outcome,
    })
}

/// Go through the plans of the class for the fastest, or for any that is enough; whether the plan known then, or none, is proved to be the answer.
fn walked(frame: &Frame, model: &Model, runs: Option<u32>, goal: Goal, known: &mut Known) -> bool {
    let budget = frame.budget.get();
    let phases = Phases { model, budget, integer: true, runs, faster_than: None, later: true };
    let options = frame.remaining();
    let part = options.time_limit / WALKED.1 * WALKED.0;
    let end = options.node_limit.map_or(Some(part), |_| None).and_then(|part| Instant::now().checked_add(part));
    let late = || frame.limits.late() || end.is_some_and(|end| Instant::now() >= end);
    let Some(mut search) = states::Search::new(&phases, options.node_limit) else { return false };
    let better = |order: Vec<u32>, known: &mut Known| {
        let (order, score) = pruned(model, order);
        if score.peak <= budget && known.as_ref().is_none_or(|&(_, time)| score.time < time) {
            *known = Some((order, score.time));
        }
    };
    let time = |known: &Known| known.as_ref().map(|&(_, time)| time);
    for width in WIDTHS {
        if let Some(order) = search.some(width, time(known), &late) {
            better(order, known);
        }
        if goal.reached(known) {
            return false;
        }
    }
    if known.is_none() {
        let walk = search.any(&late);
        match walk.order {
            Some(order) => better(order, known),
            None if walk.proved => return true,
            None => {}
        }
        if goal.reached(known) {
            return false;
        }
    }
    let walk = search.fastest(time(known), &late);
    if let Some(order) = walk.order {
        better(order, known);
    }
    walk.proved
}

/// An order without runs of no use, which a plan of the class may have: a first run whose result is made again before anything reads it.
fn pruned(model: &Model, mut order: Vec<u32>) -> (Vec<u32>, Score) {
    let mut sim = Sim::default();
    sim.prune(model, &mut order);
    let score = sim.run(model, &order);
    (order, score)
}

/// The fastest plan of the class that the heuristics find, and its time.
fn known(frame: &Frame, model: &Model, runs: Option<u32>) -> Known {
    let budget = frame.budget.get();
    let mut best: Known = None;
    let mut consider = |order: &[u32]| {
        if let Some(order) = of_class(model, order, runs) {
            let (order, score) = pruned(model, order);
            if score.peak <= budget && best.as_ref().is_none_or(|(_, time)| score.time < *time) {
                best = Some((order, score.time));
            }
        }
    };
    let found = construct(model, budget, closure_starts(model, budget), true, &frame.limits);
    found.iter().for_each(|(order, _)| consider(order));
    // What only repeats units stays in the class, mostly.
    let mut rng = Rng::new(frame.options.seed);
    for _ in 0..TRIES {
        if frame.limits.late() {
            break;
        }
        let noise = 0.2 + 2.0 * rng.unit();
        let rule = Rule { noise, keep: rng.unit(), surplus: rng.unit(), ..Rule::PORTFOLIO[rng.below(9)] };
        let mut order = model.keep_all();
        let most = 50 * order.len() as u64;
        if Evictor::default().run(model, &mut order, budget, rule, &mut rng, &|work| work > most) {
            Search::new(model, budget, order.clone(), 0).give_back(&mut order, &|| frame.limits.late());
            consider(&order);
        }
    }
    best
}

/// The order as one of the class, if its first runs are in the order of the graph: what runs again
/// between two of them once, in that order.
fn of_class(model: &Model, order: &[u32], most: Option<u32>) -> Option<Vec<u32>> {
    let mut class = Vec::with_capacity(order.len());
    let (mut next, mut again) = (0u32, Vec::new());
    for &u in order {
        match u.cmp(&next) {
            std::cmp::Ordering::Less => again.push(u),
            std::cmp::Ordering::Greater => return None,
            std::cmp::Ordering::Equal => {
                again.sort_unstable();
                again.dedup();
                class.append(&mut again);
                class.push(u);
                next += 1;
            }
        }
    }
    let mut runs = vec![0u32; model.units.len()];
    class.iter().for_each(|&u| runs[u as usize] += 1);
    (next as usize == model.units.len() && most.is_none_or(|most| runs.iter().all(|&r| r <= most))).then_some(class)
}

/// The paper's two-phase rounding: what is kept at the start of each phase is what the relaxation
/// keeps to more than the threshold, what runs in the phase is what that leaves to be made.
fn rounded(model: &Model, solution: &Solution, threshold: f64) -> Vec<u32> {
    let n = model.units.len();
    let mut order = Vec::new();
    let mut there = vec![false; model.items.len()];
    for t in 0..n {
        for (s, there) in there.iter_mut().enumerate() {
            let maker = model.items[s].maker;
            let replayable = maker != NONE && model.units[maker as usize].replayable;
            *there &= solution.live[t][s] > threshold || !replayable;
        }
        let mut runs = vec![t as u32];
        let mut next = 0;
        while let Some(&u) = runs.get(next) {
            next += 1;
            for &s in &model.units[u as usize].reads {
                let maker = model.items[s as usize].maker;
                if maker != NONE && !there[s as usize] && !runs.contains(&maker) {
                    runs.push(maker);
                }
            }
        }
        runs.sort_unstable();
        runs.iter().flat_map(|&u| &model.units[u as usize].writes).for_each(|&s| there[s as usize] = true);
        order.extend(runs);
    }
    order
}
