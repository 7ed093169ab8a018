//! What every solver does around its search: prove what is easy, judge by the simulator, report.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::auto::{Limits, branches, least_time};
use super::bound::ranked;
use super::exact::{self, Found};
use super::explain;
use super::mixed::{copied, mixed};
use super::model::{Model, needed};
use super::moves::Move;
use super::progress::Watch;
use super::reach::{self, Reach};
use super::regress;
use super::reorder::shrink_first;
use super::{Options, Outcome, offload, registry};
#[cfg(feature = "highs")]
use super::{auto::time_of_all, instants};
use crate::cost::Problem;
use crate::entity::OpId;
use crate::error::{Error, Result};
use crate::plan::{Lowering, Plan, Predicted, Status, Step, Timeline, early, lower, simulate};
use crate::units::{Bytes, Nanos};

/// Tenths of the time after which the search from the end is given up.
const REGRESS: u32 = 2;
/// What proves that nothing fits where all that can be live, or needed, was gone through.
const UNREACHED: &str = "no set of values that fits and can be reached leads to the outputs; ";

/// Plan `problem` within `budget` bytes with the named solver (`auto` is the default one).
///
/// # Errors
/// [`Error::UnknownSolver`], [`Error::Unsupported`], and [`Error::Infeasible`] when no plan was
/// found, be it proved that there is none or not.
pub fn plan(problem: &Problem, budget: Bytes, solver: &str, options: &Options) -> Result<Plan> {
    registry::by_name(solver)?.solve(problem, budget, options)?.into_plan(budget)
}

/// The graph in its order, nothing recomputed, in place where legal: what plans are compared with.
///
/// # Panics
/// Never on a problem made by [`Problem::new`]: its order is valid.
pub fn baseline(problem: &Problem) -> (Vec<Step>, Timeline) {
    let order: Vec<OpId> = problem.graph.ops().keys().collect();
    let steps = lower(&problem.graph, &order, Lowering::default());
    let timeline = simulate(problem, &steps).expect("a graph's own order is valid");
    (steps, timeline)
}

/// The least overhead any plan within `budget` can have, by the closure of one instant: the first
/// run of the op that proves most, what it needs live beside what is kept for later. Exact
/// arithmetic, milliseconds to tenths of a second; it holds for every legal plan, in any order and
/// in place or not, but for plans that offload. docs/BOUNDS.md says why.
///
/// Where copies go on beside computing (the device can offload, or the problem has
/// [loads](Problem::with_loads)) it is only what running every needed op once takes on the compute lane: the bound
/// knows nothing of links. Negative only there and where the graph has ops that nothing needs, infinite where it
/// is proved that no plan fits.
pub fn lower_bound(problem: &Problem, budget: Bytes) -> f64 {
    if copies_aside(problem) {
        return overhead_of_bound(problem, once(problem));
    }
    let model = Model::new(problem, true);
    overhead_of_bound(problem, least_time(&model, budget.get(), &ranked(&model, budget.get())))
}

/// Whether a plan may copy while it computes, so that how long it takes is not the sum of what its ops take.
fn copies_aside(problem: &Problem) -> bool {
    offload::possible(problem) || problem.has_loads()
}

/// How long the compute lane is busy at the least: with every needed op once.
fn once(problem: &Problem) -> u64 {
    let needed = needed(problem);
    let computes = problem.graph.ops().keys().filter(|&op| needed[op] && !problem.loads(op));
    computes.map(|op| problem.costs.time[op].get()).sum()
}

/// Steps with copies from host memory begun ahead of what reads them, as far as the budget has room, and what that comes to.
fn ahead(problem: &Problem, steps: Vec<Step>, budget: Bytes) -> Result<(Vec<Step>, Timeline)> {
    let steps = if problem.has_loads() { early(problem, &steps, budget)? } else { steps };
    let timeline = simulate(problem, &steps)?;
    Ok((steps, timeline))
}

/// A time that no plan goes below as an overhead; infinite where none fits.
fn overhead_of_bound(problem: &Problem, least: u64) -> f64 {
    match least {
        u64::MAX => f64::INFINITY,
        least => Nanos(least).over(baseline(problem).1.time),
    }
}

/// [`lower_bound`] or, with HiGHS (feature `highs`), what integer programs over up to four instants
/// prove within the limits in `options`: a quarter of the time limit, or nodes in proportion to the
/// node limit. It holds for the same plans. The plans of `auto` come with it.
pub fn strongest_bound(problem: &Problem, budget: Bytes, options: &Options) -> f64 {
    if copies_aside(problem) {
        return lower_bound(problem, budget);
    }
    let model = Model::new(problem, true);
    let limits = Limits::new(&model, options, Watch::new("auto", budget.get(), 0, 0, options));
    let ranked = ranked(&model, budget.get());
    let least = least_time(&model, budget.get(), &ranked);
    overhead_of_bound(problem, least.max(prove(&model, budget, u64::MAX, &ranked, options, &limits)))
}

/// The least time of any plan without offload, by integer programs; `enough` is a plan's time.
#[cfg(feature = "highs")]
fn prove(model: &Model, budget: Bytes, enough: u64, ranked: &[(u64, u32)], options: &Options, limits: &Limits) -> u64 {
    let all = time_of_all(model);
    all.saturating_add(instants::prove(model, budget.get(), enough.saturating_sub(all), ranked, options, limits))
}

#[cfg(not(feature = "highs"))]
fn prove(_: &Model, _: Bytes, _: u64, _: &[(u64, u32)], _: &Options, _: &Limits) -> u64 {
    0
}

/// What is told where no plan was found, when it is proved that none fits; and by what, if there is more to say.
fn infeasible(found: Outcome, by: &str) -> Outcome {
    match found {
        Outcome::Unknown { minimum_feasible, blockers, why } => {
            Outcome::Infeasible { minimum_feasible, blockers, why: format!("{by}{why}") }
        }
        found => found,
    }
}

/// One solver call on one problem.
pub(super) struct Frame<'a> {
    pub problem: &'a Problem,
    pub budget: Bytes,
    pub options: &'a Options,
    pub model: Model<'a>,
    pub limits: Limits,
    /// No plan is faster.
    least: AtomicU64,
    /// It is proved that no plan fits.
    refuted: AtomicBool,
    /// The [instants](ranked) for the budget; none where it was not asked.
    pub instants: Vec<(u64, u32)>,
    /// The peak with everything kept: a budget that suffices every solver.
    pub everything: Bytes,
    /// Orders of units that the options hand in.
    pub starts: Vec<Vec<u32>>,
    name: &'static str,
    baseline: Timeline,
}

impl<'a> Frame<'a> {
    /// Settle what needs no search; otherwise let `search` find an order of units.
    pub fn solve(
        name: &'static str,
        problem: &'a Problem,
        budget: Bytes,
        options: &'a Options,
        search: impl FnOnce(&Frame) -> Result<Option<Vec<u32>>>,
    ) -> Result<Outcome> {
        let needed = needed(problem);
        let order: Vec<OpId> = problem.graph.ops().keys().filter(|&op| needed[op]).collect();
        let steps = lower(&problem.graph, &order, Lowering { inplace: options.inplace });
        let (steps, all) = ahead(problem, steps, budget)?;
        let (baseline, least) = (baseline(problem).1, once(problem));
        let watch = Watch::new(name, budget.get(), baseline.time.get(), least, options);
        let mut model = Model::new(problem, options.inplace);
        model.moves = options.moves;
        let limits = Limits::new(&model, options, watch);
        let (everything, starts) = (all.peak, Vec::new());
        let (least, instants, refuted) = (AtomicU64::new(least), Vec::new(), AtomicBool::new(false));
        let mut frame = Frame {
            problem,
            budget,
            options,
            model,
            limits,
            least,
            refuted,
            instants,
            everything,
            starts,
            name,
            baseline,
        };
        if let Some(proof) = explain::proved(problem, budget) {
            return Ok(proof.outcome(&frame));
        }
        if all.peak <= budget {
            // Nothing has to be recomputed; the default still holds less where that costs nothing.
            if name == "auto" {
                let (other, timeline) = frame.steps(&shrink_first(&frame.model))?;
                if timeline.peak <= budget && (timeline.time, timeline.peak) < (all.time, all.peak) {
                    return Ok(frame.outcome(other, &timeline));
                }
            }
            return Ok(frame.outcome(steps, &all));
        }
        if name == "auto" && !copies_aside(problem) && options.moves.has(Move::Exact) {
            match exact::solve(problem, budget, options, &|| frame.limits.late()) {
                Found::Optimal(steps) => {
                    let timeline = simulate(problem, &steps)?;
                    frame.raise(timeline.time.get());
                    return Ok(frame.outcome(steps, &timeline));
                }
                Found::Infeasible => return Ok(infeasible(explain::search(&frame, None)?, "")),
                Found::Unknown => {}
            }
        }
        if name == "auto" && !copies_aside(problem) && options.moves.has(Move::Regress) {
            let late = || frame.limits.late() || (options.node_limit.is_none() && frame.limits.spent(REGRESS));
            // It leaves out views, each of which takes its time at least once.
            let views: u64 = frame.model.views.iter().map(|view| view.time).sum();
            match regress::search(&frame.model, budget.get(), options.inplace, options.node_limit, &late) {
                Some(regress::Found::Fastest(order, time)) => {
                    frame.raise(time.saturating_add(views));
                    if let Some(order) = reach::replayable(&frame.model, order) {
                        let (steps, timeline) = frame.steps(&order)?;
                        if timeline.peak <= budget && timeline.time.get() <= frame.least() {
                            return Ok(frame.outcome(steps, &timeline));
                        }
                        frame.starts.push(order);
                    }
                }
                Some(regress::Found::Bound(time)) => frame.raise(time.saturating_add(views)),
                Some(regress::Found::Never) => {
                    return Ok(infeasible(explain::search(&frame, None)?, UNREACHED));
                }
                None => {}
            }
        }
        let offloads = offload::possible(problem) && matches!(name, "auto" | "evict");
        if !offload::possible(problem) && !frame.limits.late() {
            frame.limits.watch.phase("bound");
            // The order to begin with in a large graph does not wait for the bound.
            let begin = name == "auto" && frame.model.is_large();
            let instants = || ranked(&frame.model, budget.get());
            frame.instants = rayon::join(instants, || begin.then(|| branches(&frame.model))).0;
            match least_time(&frame.model, budget.get(), &frame.instants) {
                u64::MAX => return explain::bounded(&frame),
                // What is live at an instant is the same where copies go on beside computing, and its time is not.
                _ if problem.has_loads() => {}
                least => frame.raise(least),
            }
        }
        let starts: Vec<Vec<u32>> = options.starts.iter().filter_map(|plan| frame.order_of(plan)).collect();
        frame.starts.extend(starts);
        frame.limits.watch.phase("search");
        let mut best: Option<(Vec<Step>, Timeline)> = if offloads { copied(&frame)? } else { None };
        if let Some((steps, timeline)) = best.take_if(|(_, timeline)| timeline.time.get() <= frame.least()) {
            return Ok(frame.outcome(steps, &timeline));
        }
        // What recomputation alone comes to leaves time for both together.
        let half = offloads.then(|| frame.limits.hurried(2));
        let whole = half.map(|half| std::mem::replace(&mut frame.limits, half));
        let order = search(&frame)?;
        frame.limits = whole.unwrap_or(frame.limits);
        for order in order.iter().chain(&frame.starts) {
            let (steps, timeline) = frame.steps(order)?;
            if timeline.peak <= budget && best.as_ref().is_none_or(|(_, best)| timeline.time < best.time) {
                best = Some((steps, timeline));
            }
        }
        if offloads {
            frame.limits.watch.phase("offload");
            best = mixed(&frame, order.as_deref(), frame.everything, best)?;
        }
        if let Some((steps, timeline)) = best {
            return Ok(frame.outcome(steps, &timeline));
        }
        let found = explain::search(&frame, order.as_deref())?;
        Ok(if frame.refuted() { infeasible(found, UNREACHED) } else { found })
    }

    /// Go through all that can be live at once, where nothing was found: an order that fits, if there is one.
    pub fn reach(&self) -> Option<Vec<u32>> {
        if offload::possible(self.problem) || !self.options.moves.has(Move::Reach) {
            return None;
        }
        self.limits.watch.phase("reach");
        let states = self.options.node_limit.map(|nodes| nodes.saturating_mul(reach::NODES));
        let late = || self.limits.late() || self.limits.spent(reach::MOST);
        match reach::search(&self.model, self.budget.get(), states, &late) {
            Reach::Fits(order) => Some(order),
            Reach::Never => {
                self.refuted.store(true, Ordering::Relaxed);
                None
            }
            Reach::Unknown => None,
        }
    }

    /// Whether it is proved that no plan fits.
    pub fn refuted(&self) -> bool {
        self.refuted.load(Ordering::Relaxed)
    }

    /// What the time that is left allows, for another solve inside this one. It reports nothing:
    /// it is for another budget.
    pub fn remaining(&self) -> Options {
        Options { time_limit: self.limits.left(), on_progress: None, prove: false, ..self.options.clone() }
    }

    /// No plan is faster, as far as is proved.
    pub fn least(&self) -> u64 {
        self.least.load(Ordering::Relaxed)
    }

    /// It is proved that no plan is faster.
    fn raise(&self, least: u64) {
        let known = self.least.fetch_max(least, Ordering::Relaxed);
        if known < least {
            self.limits.watch.bound(least);
        }
    }

    /// Let integer programs raise [`Self::least`], not beyond `enough`.
    pub fn prove(&self, enough: u64) {
        if self.options.prove && !copies_aside(self.problem) {
            self.limits.watch.phase("bound");
            self.raise(prove(&self.model, self.budget, enough, &self.instants, self.options, &self.limits));
        }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The order of units in which a plan computes; `None` where that is none of this graph.
    fn order_of(&self, plan: &Plan) -> Option<Vec<u32>> {
        plan.belongs_to(&self.problem.graph).ok()?;
        let order = self.model.order_of(&plan.steps)?;
        // The model does not know all that may depend on units with effects: the simulator does.
        self.steps(&order).is_ok().then_some(order)
    }

    /// The plan with nothing recomputed, or what stands in its way.
    pub fn keep_all(name: &'static str, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        let order: Vec<OpId> = problem.graph.ops().keys().collect();
        let steps = lower(&problem.graph, &order, Lowering { inplace: options.inplace });
        let (steps, all) = ahead(problem, steps, budget)?;
        if let Some(proof) = explain::proved(problem, budget) {
            return Ok(proof.told(all.peak));
        }
        let outcome = Frame::solve(name, problem, budget, options, |_| {
            Err(Error::Unsupported { solver: name, why: "nothing to search for".to_owned() })
        });
        match outcome {
            Err(Error::Unsupported { .. }) => Ok(explain::unproved(problem, all.peak, Some((steps, all)))),
            other => other,
        }
    }

    /// The steps of an order of units, copies from host memory begun ahead, and what they come to, by the one simulator.
    pub fn steps(&self, order: &[u32]) -> Result<(Vec<Step>, Timeline)> {
        let lowering = Lowering { inplace: self.options.inplace };
        ahead(self.problem, lower(&self.problem.graph, &self.model.expand(order), lowering), self.budget)
    }

    /// A plan within the budget, and whether it is proved that none is faster.
    pub fn outcome(&self, steps: Vec<Step>, timeline: &Timeline) -> Outcome {
        let (optimal, watch) = (timeline.time.get() <= self.least(), &self.limits.watch);
        watch.found(timeline.peak.get(), timeline.time.get());
        watch.phase("done");
        let base = self.baseline.time;
        let predicted = Predicted {
            peak: timeline.peak,
            time: timeline.time,
            baseline_peak: self.baseline.peak,
            baseline_time: base,
            overhead: timeline.time.over(base),
            lower_bound: Nanos(self.least()).over(base),
            status: if optimal { Status::Optimal } else { Status::Feasible },
        };
        Outcome::of(Plan::new(&self.problem.graph, self.budget, self.name, steps, predicted))
    }
}
