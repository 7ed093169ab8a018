//! GPipe, 1F1B and interleaved 1F1B: fused backwards, one route.

use super::super::schedule::{Action, Chunk, Microbatch, Schedule};
use super::link::link;
use super::{Generator, Shape, refused, round_robin};
use crate::error::Result;

/// All forwards, then all backwards. "GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism",
/// Huang et al., 2019.
///
/// Any `p`, `m`; `v` = 1. Idle `(p-1)(F+B+W)`, in flight `m`. With unequal stages the makespan is
/// `sum F + sum B + (m-1)(max F + max B)`, `B` being the fused backward.
pub struct GPipe;

impl Generator for GPipe {
    fn name(&self) -> &'static str {
        "gpipe"
    }
    fn about(&self) -> &'static str {
        "all forwards, then all backwards (Huang et al. 2019)"
    }
    fn generate(&self, shape: Shape) -> Result<Schedule> {
        let (p, m) = shape.checked_exactly(1, self.name())?;
        let orders = (0..p).map(|i| {
            let forwards = (0..m).map(|j| Action::Forward(Microbatch::at(j), Chunk::at(i)));
            forwards.chain((0..m).map(|j| Action::Backward(Microbatch::at(j), Chunk::at(i)))).collect()
        });
        link(self.name(), round_robin(p, 1), vec![0; m], orders.collect())
    }
}

/// A few forwards, then one forward and one backward in turn. "Memory-Efficient Pipeline-Parallel DNN Training"
/// (PipeDream-flush), Narayanan et al., 2021.
///
/// Any `p`, `m`; `v` = 1. Idle `(p-1)(F+B+W)`, in flight at stage `i` (from 0) `min(p-i, m)`.
///
/// With unequal stages, `B` being the fused backward, the makespan is at least `sum_{i<s}(F_i+B_i) + m (F_s+B_s)` for
/// each `s`, and at most `sum(F+B) + (m-1) max(F+B) + D`, where `D` is the largest, over `s`, of `0` and `min(m-1, p-s-1)
/// max_{i<=s} F_i - sum_{i>s}(F_i+B_i)`. Proof of the latter: let the `k`-th backward of stage `s` start at `sum F + D +
/// sum_{i>s} B_i + k max(F+B)`, the forward that it follows in the stage's order end just then, and the forwards before
/// the first backward start as early as they can. That is a timetable which breaks no rule (`D` is what the stages'
/// first forwards need), and a run as early as possible is never later. `D` is 0 when no early stage has a much
/// longer forward than the stages behind it have work; it is needed: `F = 1 0 0`, `B = 0 1 0` takes `m + 2`.
pub struct OneForwardOneBackward;

impl Generator for OneForwardOneBackward {
    fn name(&self) -> &'static str {
        "1f1b"
    }
    fn about(&self) -> &'static str {
        "one forward, one backward in turn (PipeDream-flush, Narayanan et al. 2021)"
    }
    fn generate(&self, shape: Shape) -> Result<Schedule> {
        let (p, m) = shape.checked_exactly(1, self.name())?;
        let orders = (0..p).map(|i| {
            let forward = |k: usize| Action::Forward(Microbatch::at(k), Chunk::at(i));
            let backward = |k: usize| Action::Backward(Microbatch::at(k), Chunk::at(i));
            in_turn(m, p - i - 1, &forward, &backward)
        });
        link(self.name(), round_robin(p, 1), vec![0; m], orders.collect())
    }
}

/// 1F1B over several chunks per device. "Efficient Large-Scale Language Model Training on GPU Clusters Using
/// Megatron-LM", Narayanan et al., 2021.
///
/// `m` a multiple of `p`; any `v`, 2 if none is given. Idle `(p-1)(F+B+W)` of one chunk, so a `v`-th of 1F1B's; in flight
/// at stage `i` `min(m v, 2(p-i-1) + (v-1)p + 1)` chunks.
pub struct Interleaved;

impl Generator for Interleaved {
    fn name(&self) -> &'static str {
        "interleaved"
    }
    fn about(&self) -> &'static str {
        "1F1B over several chunks per device, round robin (Megatron-LM, Narayanan et al. 2021)"
    }
    fn generate(&self, shape: Shape) -> Result<Schedule> {
        let (p, m, v) = shape.checked(2)?;
        if m % p != 0 {
            let why = format!("{} takes a multiple of the {p} stages, not {m}", self.name());
            return Err(refused("microbatches", why));
        }
        // The k-th forward of every device: p microbatches through its first chunk, the same p through its second, ...
        let microbatch = |k: usize| Microbatch::at(k / (p * v) * p + k % p);
        let orders = (0..p).map(|i| {
            let forward = |k: usize| Action::Forward(microbatch(k), Chunk::at(k / p % v * p + i));
            let backward = |k: usize| Action::Backward(microbatch(k), Chunk::at((v - 1 - k / p % v) * p + i));
            in_turn(m * v, 2 * (p - i - 1) + (v - 1) * p, &forward, &backward)
        });
        link(self.name(), round_robin(p, v), vec![0; m], orders.collect())
    }
}

/// `ahead` forwards, then forward and backward in turn, then the backwards that are left; `all` of each.
fn in_turn(
    all: usize,
    ahead: usize,
    forward: &dyn Fn(usize) -> Action,
    backward: &dyn Fn(usize) -> Action,
) -> Vec<Action> {
    let ahead = ahead.min(all);
    let mut order: Vec<Action> = (0..ahead).map(forward).collect();
    for k in 0..all {
        order.extend((ahead + k < all).then(|| forward(ahead + k)));
        order.push(backward(k));
    }
    order
}
