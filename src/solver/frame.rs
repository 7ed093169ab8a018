//! What every solver does around its search: prove what is easy, judge by the simulator, report.

use super::auto::{Limits, closure_starts, construct, least_time};
#[cfg(feature = "highs")]
use super::{auto::time_of_all, instants};
use super::explain;
use super::model::{Model, needed};
use super::reorder::shrink_first;
use super::{Options, Outcome, offload, registry};
use crate::cost::Problem;
use crate::entity::OpId;
use crate::error::{Error, Result};
use crate::plan::{Lowering, Plan, Predicted, Status, Step, Timeline, lower, simulate};
use crate::units::{Bytes, Nanos};

/// Plan `problem` within `budget` bytes with the named solver (`auto` is the default one).
///
/// # Errors
/// [`Error::UnknownSolver`], [`Error::Unsupported`], and [`Error::Infeasible`] when no plan was
/// found.
pub fn plan(problem: &Problem, budget: Bytes, solver: &str, options: &Options) -> Result<Plan> {
    match registry::by_name(solver)?.solve(problem, budget, options)? {
        Outcome::Optimal(plan) | Outcome::Feasible(plan) => Ok(plan),
        Outcome::Infeasible { minimum, blockers, why, .. } => Err(Error::Infeasible { budget, minimum, blockers, why }),
    }
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
/// Where the device can offload it is only what running every needed op once takes: the bound
/// knows nothing of links. Negative only where the graph has ops that nothing needs.
pub fn lower_bound(problem: &Problem, budget: Bytes) -> f64 {
    let model = Model::new(problem, true);
    // With room for everything the bound is the time of running all once.
    let room = if offload::possible(problem) { u64::MAX >> 1 } else { budget.get() };
    overhead(Nanos(least_time(&model, room)), baseline(problem).1.time)
}

/// [`lower_bound`] or, with HiGHS (feature `highs`), what integer programs over up to four instants
/// prove within the limits in `options`: a fifth of the time limit, or nodes in proportion to the
/// node limit. It holds for the same plans. The plans of `auto` come with it.
pub fn strongest_bound(problem: &Problem, budget: Bytes, options: &Options) -> f64 {
    if offload::possible(problem) {
        return lower_bound(problem, budget);
    }
    let model = Model::new(problem, true);
    let limits = Limits::new(&model, options);
    let least = least_time(&model, budget.get());
    overhead(Nanos(least.max(prove(&model, budget, u64::MAX, options, &limits))), baseline(problem).1.time)
}

/// The least time of any plan without offload, by integer programs; `enough` is a plan's time.
#[cfg(feature = "highs")]
fn prove(model: &Model, budget: Bytes, enough: u64, options: &Options, limits: &Limits) -> u64 {
    let all = time_of_all(model);
    all.saturating_add(instants::prove(model, budget.get(), enough.saturating_sub(all), options, limits))
}

#[cfg(not(feature = "highs"))]
fn prove(_: &Model, _: Bytes, _: u64, _: &Options, _: &Limits) -> u64 {
    0
}

fn overhead(time: Nanos, baseline: Nanos) -> f64 {
    match baseline.get() {
        0 => 0.0,
        base => (time.get() as f64 - base as f64) / base as f64,
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
    pub least: u64,
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
        let all = simulate(problem, &steps)?;
        let model = Model::new(problem, options.inplace);
        let limits = Limits::new(&model, options);
        let baseline = baseline(problem).1;
        let mut frame = Frame { problem, budget, options, model, limits, least: all.time.get(), name, baseline };
        if let Some(proof) = explain::proved(problem, budget) {
            let minimum = proof.minimum(&frame, &all);
            return Ok(proof.outcome(minimum));
        }
        if all.peak <= budget {
            return Ok(frame.outcome(steps, &all));
        }
        let offloads = offload::possible(problem) && matches!(name, "auto" | "evict");
        if !offload::possible(problem) {
            frame.least = least_time(&frame.model, budget.get());
        }
        let order = search(&frame)?;
        let mut best = order.as_deref().map(|order| frame.steps(order)).transpose()?;
        best = best.filter(|(_, timeline)| timeline.peak <= budget);
        if offloads {
            best = frame.offloaded(order.as_deref(), all.peak, best)?;
        }
        if let Some((steps, timeline)) = best {
            if name == "auto" && !offload::possible(problem) {
                frame.least = frame.least.max(prove(&frame.model, budget, timeline.time.get(), options, &frame.limits));
            }
            return Ok(frame.outcome(steps, &timeline));
        }
        explain::search(&frame, order.as_deref(), &all)
    }

    /// The plan with nothing recomputed, or what stands in its way.
    pub fn keep_all(name: &'static str, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        let order: Vec<OpId> = problem.graph.ops().keys().collect();
        let steps = lower(&problem.graph, &order, Lowering { inplace: options.inplace });
        let all = simulate(problem, &steps)?;
        if let Some(proof) = explain::proved(problem, budget) {
            return Ok(proof.outcome(all.peak));
        }
        let outcome = Frame::solve(name, problem, budget, options, |_| {
            Err(Error::Unsupported { solver: name, why: "nothing to search for".to_owned() })
        });
        match outcome {
            Err(Error::Unsupported { .. }) => Ok(explain::unproved(problem, all.peak, Some((steps, all)))),
            other => other,
        }
    }

    /// The steps of an order of units and what they come to, by the one simulator.
    pub fn steps(&self, order: &[u32]) -> Result<(Vec<Step>, Timeline)> {
        let lowering = Lowering { inplace: self.options.inplace };
        let steps = lower(&self.problem.graph, &self.model.expand(order), lowering);
        let timeline = simulate(self.problem, &steps)?;
        Ok((steps, timeline))
    }

    /// The fastest of `best` and of plans that recompute for a larger budget and offload the rest.
    fn offloaded(
        &self,
        order: Option<&[u32]>,
        peak: Bytes,
        mut best: Option<(Vec<Step>, Timeline)>,
    ) -> Result<Option<(Vec<Step>, Timeline)>> {
        let mut orders = vec![self.model.keep_all(), shrink_first(&self.model)];
        orders.extend(order.map(<[u32]>::to_vec));
        let more = peak.saturating_sub(self.budget).get();
        for part in [7, 5, 3, 2, 1] {
            if !self.limits.late() {
                let budget = self.budget.get() + (u128::from(more) * part / 10) as u64;
                let starts = closure_starts(&self.model, budget);
                let found = construct(&self.model, budget, starts, true, &self.limits);
                orders.extend(found.into_iter().take(2).map(|(order, _)| order));
            }
        }
        for order in orders {
            if self.limits.late() {
                break;
            }
            let (steps, _) = self.steps(&order)?;
            if let Some((steps, timeline)) = offload::offload(self.problem, &steps, self.budget)?
                && timeline.host_peak <= self.problem.device.host_memory
                && best.as_ref().is_none_or(|(_, best)| timeline.time < best.time)
            {
                best = Some((steps, timeline));
            }
        }
        Ok(best)
    }

    /// A plan within the budget, and whether it is proved that none is faster.
    pub fn outcome(&self, steps: Vec<Step>, timeline: &Timeline) -> Outcome {
        let optimal = timeline.time.get() <= self.least;
        let base = self.baseline.time;
        let predicted = Predicted {
            peak: timeline.peak,
            time: timeline.time,
            baseline_peak: self.baseline.peak,
            baseline_time: base,
            overhead: overhead(timeline.time, base),
            lower_bound: overhead(Nanos(self.least), base),
            status: if optimal { Status::Optimal } else { Status::Feasible },
        };
        let plan = Plan::new(&self.problem.graph, self.budget, self.name, steps, predicted);
        if optimal { Outcome::Optimal(plan) } else { Outcome::Feasible(plan) }
    }
}
