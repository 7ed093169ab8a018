//! What the solvers share that come with a family of plans rather than a search: the family
//! depends on the problem alone, the fastest member that fits is the answer.

use super::bound::Boundary;
use super::explain;
use super::frame::Frame;
use super::model::{Model, NONE};
use super::sim::Sim;
use super::{Options, Outcome};
use crate::cost::Problem;
use crate::error::{Error, Result};
use crate::graph::Phase;
use crate::plan::{Lowering, Step, Timeline, lower, simulate};
use crate::units::Bytes;

/// Settle what needs no search; otherwise ask `search` for the outcome. Unlike [`Frame::solve`]
/// nothing else is tried where the search finds nothing: a named method answers for itself.
pub(super) fn settle(
    name: &'static str,
    problem: &Problem,
    budget: Bytes,
    options: &Options,
    search: impl FnOnce(&Frame) -> Result<Outcome>,
) -> Result<Outcome> {
    let mut found = None;
    let outcome = Frame::solve(name, problem, budget, options, |frame| {
        found = Some(search(frame));
        // Leaves the frame; the outcome is in `found`.
        Err(Error::Unsupported { solver: name, why: String::new() })
    });
    found.unwrap_or(outcome)
}

/// The fastest of `orders` that fits the budget by exact simulation; where none does, the
/// smallest peak among them is the smallest budget this family knows a plan for.
pub(super) fn fastest(frame: &Frame, orders: impl IntoIterator<Item = Vec<u32>>) -> Result<Outcome> {
    let mut sim = Sim::default();
    let mut best: Option<(Vec<u32>, (u64, u64, u64))> = None;
    for mut order in orders {
        sim.prune(&frame.model, &mut order);
        let rank = sim.run(&frame.model, &order).rank(frame.budget.get());
        if best.as_ref().is_none_or(|(_, least)| rank < *least) {
            best = Some((order, rank));
        }
    }
    let Some((order, _)) = best else {
        return Ok(explain::unproved(frame.problem, Bytes(frame.model.peak_of_keep_all()), None));
    };
    let (steps, timeline) = lowered(frame, &order)?;
    Ok(match timeline.peak <= frame.budget {
        true => frame.outcome(steps, &timeline),
        false => explain::unproved(frame.problem, timeline.peak, Some((steps, timeline))),
    })
}

/// The steps of an order, in place where that is allowed and does not make the peak larger (a
/// smaller tensor that takes over a larger buffer holds all of it).
pub(super) fn lowered(frame: &Frame, order: &[u32]) -> Result<(Vec<Step>, Timeline)> {
    let (steps, timeline) = frame.steps(order)?;
    if timeline.peak > frame.budget && frame.options.inplace {
        let plain = lower(&frame.problem.graph, &frame.model.expand(order), Lowering { inplace: false });
        let other = simulate(frame.problem, &plain)?;
        if other.peak < timeline.peak {
            return Ok((plain, other));
        }
    }
    Ok((steps, timeline))
}

/// The number of units before the backward part, found by the ops' phases or, where the graph does
/// not tell them, at the unit across which most bytes are carried. `None` where nothing is.
pub(super) fn boundary(model: &Model) -> Option<usize> {
    let phase = |u: usize| model.units[u].op.map(|op| model.problem.graph.ops()[op].phase);
    let backward = (0..model.units.len()).find(|&u| phase(u) == Some(Phase::Backward));
    match backward {
        Some(first) => (first > 0).then_some(first),
        None => Boundary::find(model).first().map(|b| b.unit + 1),
    }
}

/// For each place before unit p <= n: bytes made before it and read at or after it, below n.
pub(super) fn crossing(model: &Model, n: usize) -> Vec<u64> {
    let last = last_reads(model, n);
    let mut change = vec![0i128; n + 1];
    for (s, item) in model.items.iter().enumerate() {
        let maker = item.maker as usize;
        if item.maker != NONE && maker < n && last[s] > maker {
            change[maker + 1] += i128::from(item.bytes);
            change[last[s] + 1] -= i128::from(item.bytes);
        }
    }
    let mut live = 0;
    let running = change.into_iter().map(|c| {
        live += c;
        u64::try_from(live).unwrap_or(0)
    });
    running.collect()
}

/// The last unit below n that reads each item, 0 where none does.
pub(super) fn last_reads(model: &Model, n: usize) -> Vec<usize> {
    let mut last = vec![0; model.items.len()];
    for u in 0..n {
        model.units[u].reads.iter().for_each(|&s| last[s as usize] = u);
    }
    last
}

/// Every unit once; after the boundary, what units for which `again` holds made is made again
/// right before it is first read there, each once, and kept from then on.
pub(super) fn lazily(model: &Model, n: usize, again: &dyn Fn(u32) -> bool) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    let mut done = vec![false; model.units.len()];
    for u in n as u32..model.units.len() as u32 {
        remake(model, u, n as u32, again, &mut done, &mut order);
        order.push(u);
    }
    order
}

/// Append the units below n to run again so that `unit` can read what they make.
pub(super) fn remake(
    model: &Model,
    unit: u32,
    n: u32,
    again: &dyn Fn(u32) -> bool,
    done: &mut [bool],
    order: &mut Vec<u32>,
) {
    let mut chain: Vec<u32> = Vec::new();
    let mut stack = vec![unit];
    while let Some(v) = stack.pop() {
        for &s in &model.units[v as usize].reads {
            let maker = model.items[s as usize].maker;
            if maker < n
                && again(maker)
                && model.units[maker as usize].replayable
                && !std::mem::replace(&mut done[maker as usize], true)
            {
                chain.push(maker);
                stack.push(maker);
            }
        }
    }
    chain.sort_unstable();
    order.extend(chain);
}
