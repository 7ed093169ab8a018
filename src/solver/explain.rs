//! Why a budget is too small: what is proved, what was tried, and what stands in the way.

use super::auto::{Limits, Scored, closure_starts, construct};
use super::frame::Frame;
use super::model::needed;
use super::{Options, Outcome, registry};
use crate::cost::Problem;
use crate::entity::{OpId, StorageId};
use crate::error::{Blocker, Result};
use crate::plan::{Step, Timeline};
use crate::units::Bytes;

/// How many values are named.
const NAMED: usize = 8;
/// Budgets tried in the search for the smallest that suffices.
const TRIES: u32 = 8;

/// A proof that no plan fits.
pub(super) struct Proof {
    /// No plan's peak is smaller.
    bytes: Bytes,
    why: String,
    blockers: Vec<Blocker>,
}

impl Proof {
    /// The outcome, with a budget that a plan was found for.
    pub fn told(self, minimum: Bytes) -> Outcome {
        Outcome::Infeasible { minimum_feasible: Some(minimum), blockers: self.blockers, why: self.why }
    }

    /// The outcome, with the smallest budget that the frame's solver finds a plan for.
    pub fn outcome(self, frame: &Frame) -> Outcome {
        let minimum = self.minimum(frame).unwrap_or(frame.everything);
        self.told(minimum)
    }

    /// What the solver says of the least budget that the proof leaves: often it suffices.
    fn minimum(&self, frame: &Frame) -> Option<Bytes> {
        frame.limits.explain();
        if !frame.options.search_minimum || frame.limits.late() {
            return None;
        }
        let remaining = frame.remaining();
        // Where it does not, most of the time is better spent on larger ones.
        let options = match is_common(frame) {
            true => Options { time_limit: remaining.time_limit / 4, search_minimum: false, ..remaining },
            false => remaining,
        };
        let outcome = registry::by_name(frame.name()).ok()?.fit(frame.problem, self.bytes, &options).ok()?;
        if outcome.plan().is_some() {
            return Some(self.bytes);
        }
        if !is_common(frame) {
            return outcome.minimum_feasible();
        }
        let (mut low, mut high) = (self.bytes.get(), frame.everything.get());
        bisect(frame, &mut low, &mut high, &mut |_| Ok(None)).ok()?;
        Some(Bytes(high))
    }
}

/// Whether the frame's solver begins with what is tried here.
fn is_common(frame: &Frame) -> bool {
    matches!(frame.name(), "auto" | "evict")
}

/// A proof if one op that has to run, or the outputs, need more than the budget by themselves.
pub(super) fn proved(problem: &Problem, budget: Bytes) -> Option<Proof> {
    let graph = &problem.graph;
    let needed = needed(problem);
    let alone = |op: OpId| {
        let it = &graph.ops()[op];
        // An output that may work in place needs its bytes only once; each output counts once.
        let mut inplace: Vec<usize> = it.inplace.iter().map(|&(_, b)| b).collect();
        inplace.sort_unstable();
        inplace.dedup();
        let saved: Bytes = inplace.into_iter().map(|b| graph.values()[it.outputs[b]].bytes).sum();
        graph.footprint(op).saturating_sub(saved) + problem.costs.workspace[op]
    };
    let worst = graph.ops().keys().filter(|&op| needed[op]).max_by_key(|&op| (alone(op), std::cmp::Reverse(op)));
    let (bytes, why, blockers) = match worst {
        Some(op) if alone(op) >= graph.final_bytes() => {
            let bytes = alone(op);
            let name = graph.describe_op(op);
            let touched = graph.ops()[op].inputs.iter().chain(&graph.ops()[op].outputs);
            let storages = touched.map(|&v| graph.values()[v].storage).collect();
            let why = format!("{name} alone needs {} bytes ({bytes}) with parameters and inputs", bytes.get());
            (bytes, why, blockers(problem, storages, &format!("needed by {name}")))
        }
        _ => {
            let bytes = graph.final_bytes();
            let storages = graph.outputs().iter().map(|&v| graph.values()[v].storage).collect();
            let why = format!("parameters, inputs and outputs alone are {} bytes ({bytes})", bytes.get());
            (bytes, why, blockers(problem, storages, "output"))
        }
    };
    (bytes > budget).then_some(Proof { bytes, why, blockers })
}

/// Nothing was found: look for the smallest budget that suffices, starting from the best order
/// that was found and the graph's own. If that turns up a plan after all, it is returned.
pub(super) fn search(frame: &Frame, order: Option<&[u32]>) -> Result<Outcome> {
    frame.limits.explain();
    let mut binding: Option<(Vec<Step>, Timeline)> = None;
    let mut consider = |order: &[u32]| -> Result<Option<Outcome>> {
        let (steps, timeline) = frame.steps(order)?;
        if timeline.peak <= frame.budget {
            return Ok(Some(frame.outcome(steps, &timeline)));
        }
        if binding.as_ref().is_none_or(|(_, best)| timeline.peak < best.peak) {
            binding = Some((steps, timeline));
        }
        Ok(None)
    };
    if let Some(outcome) = consider(order.unwrap_or(&frame.model.keep_all()))? {
        return Ok(outcome);
    }
    // A solver of its own way may have missed what the common search finds. It is asked at every
    // budget it reports, so that whoever asks again with the minimum gets a plan.
    if !is_common(frame)
        && let Some((order, _)) = fits(frame, frame.budget.get(), &frame.limits)
        && let Some(outcome) = consider(&order)?
    {
        return Ok(outcome);
    }
    let (mut low, mut high) = (frame.budget.get(), frame.everything.get());
    if frame.options.search_minimum
        && let Some(outcome) = bisect(frame, &mut low, &mut high, &mut consider)?
    {
        return Ok(outcome);
    }
    Ok(unproved(frame.problem, Bytes(high), binding))
}

/// A lower bound says that no plan fits.
pub(super) fn bounded(frame: &Frame) -> Result<Outcome> {
    Ok(match search(frame, None)? {
        Outcome::Unknown { minimum_feasible, blockers, why } => {
            let why = format!("a lower bound on what must be live at one instant exceeds the budget; {why}");
            Outcome::Infeasible { minimum_feasible, blockers, why }
        }
        other => other,
    })
}

/// Nothing was found, for the reason given: ask the same solver again with larger budgets for the
/// smallest that suffices.
#[cfg(feature = "highs")]
pub(super) fn asked(frame: &Frame, why: &str) -> Result<Outcome> {
    let solver = registry::by_name(frame.name())?;
    let mut binding = frame.steps(&frame.model.keep_all())?;
    let (mut low, mut high) = (frame.budget.get(), frame.everything.get());
    frame.limits.explain();
    if frame.options.search_minimum {
        for left in (1..=TRIES).rev() {
            if high.saturating_sub(low) <= 1 || frame.limits.late() {
                break;
            }
            let budget = low + (high - low) / 2;
            let remaining = frame.remaining();
            let options = Options { time_limit: remaining.time_limit / left, search_minimum: false, ..remaining };
            match solver.fit(frame.problem, Bytes(budget), &options)?.into_plan(Bytes(budget)) {
                Ok(plan) => {
                    high = budget;
                    let timeline = crate::plan::simulate(frame.problem, &plan.steps)?;
                    binding = (plan.steps, timeline);
                }
                Err(_) => low = budget,
            }
        }
    }
    Ok(match unproved(frame.problem, Bytes(high), Some(binding)) {
        Outcome::Unknown { minimum_feasible, blockers, why: known } => {
            Outcome::Unknown { minimum_feasible, blockers, why: format!("{why}; {known}") }
        }
        other => other,
    })
}

/// The best that is found for a budget without improvement; nothing when time is over.
fn fits(frame: &Frame, budget: u64, limits: &Limits) -> Option<Scored> {
    if limits.late() {
        return None;
    }
    let starts = closure_starts(&frame.model, budget);
    construct(&frame.model, budget, starts, true, limits).into_iter().next()
}

/// Close in on the smallest budget for which something is found. Only budgets that were tried
/// count, not peaks that came out: who asks again with the minimum repeats the search for it.
fn bisect(
    frame: &Frame,
    low: &mut u64,
    high: &mut u64,
    consider: &mut dyn FnMut(&[u32]) -> Result<Option<Outcome>>,
) -> Result<Option<Outcome>> {
    let mut next = None;
    for left in (0..TRIES).rev() {
        if high.saturating_sub(*low) <= 1 {
            break;
        }
        // What came out smaller than asked for is asked for in turn, at last.
        let budget = next.filter(|&peak| left == 0 && peak > *low).unwrap_or(*low + (*high - *low) / 2);
        let limits = frame.limits.hurried(left + 1);
        let Some((order, score)) = fits(frame, budget, &limits) else { break };
        if let Some(outcome) = consider(&order)? {
            return Ok(Some(outcome));
        }
        match score.peak <= budget {
            true => (*high, next) = (budget, Some(score.peak).filter(|&peak| peak < budget)),
            false => *low = budget,
        }
    }
    Ok(None)
}

/// The report on the smallest peak found: the op where it is reached and the values live there.
pub(super) fn unproved(problem: &Problem, minimum: Bytes, binding: Option<(Vec<Step>, Timeline)>) -> Outcome {
    let graph = &problem.graph;
    let (mut why, mut blocking) = ("no plan was found that fits".to_owned(), Vec::new());
    if let Some((steps, timeline)) = binding
        && let Some(Step::Compute { op, .. }) = steps.get(timeline.peak_step)
    {
        why = format!("the smallest peak found is {} bytes, at {}", timeline.peak.get(), graph.describe_op(*op));
        blocking = blockers(problem, live_at(problem, &steps, timeline.peak_step), "live at that op");
    }
    Outcome::Unknown { minimum_feasible: Some(minimum), blockers: blocking, why }
}

/// Storages with a live value during a step.
fn live_at(problem: &Problem, steps: &[Step], at: usize) -> Vec<StorageId> {
    let graph = &problem.graph;
    let mut live: Vec<bool> = graph.values().values().map(|v| v.resident).collect();
    let index = crate::entity::Entity::index;
    for step in &steps[..at] {
        match step {
            Step::Compute { op, inplace } => {
                let op = &graph.ops()[*op];
                inplace.iter().for_each(|&(a, _)| live[index(op.inputs[a])] = false);
                op.outputs.iter().for_each(|&v| live[index(v)] = true);
            }
            Step::Drop(v) => live[index(*v)] = false,
            Step::Offload(_) | Step::Prefetch(_) => {}
        }
    }
    if let Step::Compute { op, .. } = &steps[at] {
        graph.ops()[*op].outputs.iter().for_each(|&v| live[index(v)] = true);
    }
    graph.values().iter().filter(|(v, _)| live[index(*v)]).map(|(_, value)| value.storage).collect()
}

/// The largest of these storages, each once, named by their first value.
fn blockers(problem: &Problem, mut storages: Vec<StorageId>, why: &str) -> Vec<Blocker> {
    let graph = &problem.graph;
    storages.extend(graph.storages().iter().filter(|(_, s)| s.resident).map(|(s, _)| s));
    storages.sort_unstable();
    storages.dedup();
    storages.sort_by_key(|&s| (std::cmp::Reverse(graph.storages()[s].bytes), s));
    let name = |&s: &StorageId| {
        let storage = &graph.storages()[s];
        let why = if storage.resident { "resident: a parameter or an input" } else { why };
        Blocker { value: graph.describe_value(storage.root), bytes: storage.bytes, why: why.to_owned() }
    };
    storages.iter().take(NAMED).map(name).collect()
}
