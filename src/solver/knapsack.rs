//! A knapsack on what is saved for the backward pass.
//!
//! What `torch.compile` does for `activation_memory_budget` (PyTorch's min-cut partitioner with
//! its dynamic-programming knapsack): of the tensors the backward part reads, save those that
//! are worth most time within a number of bytes, and make the others again right before they are
//! first read. A tensor's worth is the time to make it from the other candidates.
//!
//! The knapsack bounds what is saved, not the peak, and less saved can mean a higher peak: so all
//! sizes of a grid are simulated and the fastest plan that fits the budget is taken. Any graph
//! with a boundary is taken.

use super::family::{boundary, fastest, lazily, settle};
use super::model::{Model, NONE};
use super::segments::no_boundary;
use super::{Options, Outcome, Solver};
use crate::cost::Problem;
use crate::error::Result;
use crate::units::Bytes;

/// See the module's description.
pub(super) struct BoundaryKnapsack;

/// Sizes of the knapsack: that many parts of what could be saved.
const SLOTS: usize = 512;

impl Solver for BoundaryKnapsack {
    fn name(&self) -> &'static str {
        "boundary-knapsack"
    }
    fn about(&self) -> &'static str {
        "a knapsack on what is saved for the backward pass, as torch.compile's activation_memory_budget"
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        settle(self.name(), problem, budget, options, |frame| {
            let n = boundary(&frame.model).ok_or_else(|| no_boundary(self.name()))?;
            fastest(frame, family(&frame.model, n))
        })
    }
}

/// The orders of all sizes.
fn family(model: &Model, n: usize) -> Vec<Vec<u32>> {
    let mut read = vec![false; model.items.len()];
    model.units[n..].iter().flat_map(|u| &u.reads).for_each(|&s| read[s as usize] = true);
    let candidates: Vec<u32> = (0..n as u32)
        .filter(|&u| model.units[u as usize].replayable)
        .filter(|&u| model.units[u as usize].writes.iter().any(|&s| read[s as usize]))
        .collect();
    let bytes = |u: u32| -> u64 {
        let writes = model.units[u as usize].writes.iter();
        writes.filter(|&&s| read[s as usize]).map(|&s| model.items[s as usize].bytes).sum()
    };
    let all: u64 = candidates.iter().map(|&u| bytes(u)).sum();
    let slot = all.div_ceil(SLOTS as u64).max(1);
    let things: Vec<(usize, u64)> =
        candidates.iter().map(|&u| (bytes(u).div_ceil(slot) as usize, worth(model, n as u32, u, &read))).collect();
    let mut orders: Vec<Vec<u32>> = Vec::new();
    let saved = fill(&things, SLOTS + candidates.len());
    let mut previous: Option<Vec<bool>> = None;
    for chosen in saved {
        if previous.as_ref() == Some(&chosen) {
            continue;
        }
        let mut again = vec![true; n];
        for (&u, &saved) in candidates.iter().zip(&chosen) {
            again[u as usize] = !saved;
        }
        orders.push(lazily(model, n, &|u| again[u as usize]));
        previous = Some(chosen);
    }
    orders
}

/// The time to make a unit's outputs again from residents and what the backward part reads.
fn worth(model: &Model, n: u32, unit: u32, read: &[bool]) -> u64 {
    let (mut stack, mut seen, mut time) = (vec![unit], vec![unit], 0u64);
    while let Some(v) = stack.pop() {
        time = time.saturating_add(model.units[v as usize].time);
        for &s in &model.units[v as usize].reads {
            let maker = model.items[s as usize].maker;
            if maker != NONE && maker < n && !read[s as usize] && !seen.contains(&maker) {
                seen.push(maker);
                stack.push(maker);
            }
        }
    }
    time
}

/// For each size up to `slots`, which of the things (size, worth) fill a knapsack best.
fn fill(things: &[(usize, u64)], slots: usize) -> Vec<Vec<bool>> {
    let mut best = vec![0u64; slots + 1];
    let mut takes = vec![vec![false; slots + 1]; things.len()];
    for (&(size, worth), takes) in things.iter().zip(&mut takes) {
        for room in (size..=slots).rev() {
            let with = best[room - size].saturating_add(worth);
            if with > best[room] || (with == best[room] && size == 0) {
                best[room] = with;
                takes[room] = true;
            }
        }
    }
    let choose = |mut room: usize| {
        let mut chosen = vec![false; things.len()];
        for (k, &(size, _)) in things.iter().enumerate().rev() {
            if takes[k][room] {
                chosen[k] = true;
                room -= size;
            }
        }
        chosen
    };
    (0..=slots).map(choose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_by_worth() {
        let things = [(3, 4), (4, 5), (2, 3), (0, 1)];
        let filled = fill(&things, 9);
        let worth = |chosen: &[bool]| things.iter().zip(chosen).filter(|(_, c)| **c).map(|(t, _)| t.1).sum::<u64>();
        let worths: Vec<u64> = filled.iter().map(|chosen| worth(chosen)).collect();
        assert_eq!(worths, [1, 1, 4, 5, 6, 8, 9, 10, 10, 13]);
    }
}
