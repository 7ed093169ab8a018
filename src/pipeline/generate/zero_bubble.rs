//! ZB-H1 and ZB-H2: 1F1B with backwards in two parts. "Zero Bubble Pipeline Parallelism", Qi et al., 2023.
//!
//! ```text
//! ZB-H1, p = 3    F F F B W F B W F B W     B W B W       weight gradients wait until as many microbatches are in
//!                   F F B F B W F B W F B W B W W         flight as on the first device
//!                     F B F B F B W F B W B W W W
//! ```

use super::super::schedule::{Action, Chunk, Microbatch, Schedule};
use super::link::link;
use super::{Generator, Shape, round_robin};
use crate::error::Result;

/// As much memory as 1F1B takes on its first device, on every device.
///
/// Any `p`, `m`; `v` = 1. With `m >= p` and `W <= F`: idle `(p-1)(F+B-W)`, in flight `p` on every device.
pub struct H1;

impl Generator for H1 {
    fn name(&self) -> &'static str {
        "zb-h1"
    }
    fn about(&self) -> &'static str {
        "zero bubble with 1F1B's memory: weight gradients fill gaps (Qi et al. 2023)"
    }
    fn generate(&self, shape: Shape) -> Result<Schedule> {
        let (p, m) = shape.checked_exactly(1, self.name())?;
        let orders = (0..p).map(|i| order(i, m, p - i, i)).collect();
        link(self.name(), round_robin(p, 1), vec![0; m], orders)
    }
}

/// Twice that memory, and no bubble when `F = B = W`.
///
/// Any `p`, `m`; `v` = 1. With `m >= 2p-1`, `W <= F` and `2W <= F+B`: idle `(p-1)(F+B-2W)`, in flight `2p-1` on every
/// device.
pub struct H2;

impl Generator for H2 {
    fn name(&self) -> &'static str {
        "zb-h2"
    }
    fn about(&self) -> &'static str {
        "zero bubble with twice 1F1B's memory (Qi et al. 2023)"
    }
    fn generate(&self, shape: Shape) -> Result<Schedule> {
        let (p, m) = shape.checked_exactly(1, self.name())?;
        let orders = (0..p).map(|i| order(i, m, 2 * (p - i) - 1, 2 * i)).collect();
        link(self.name(), round_robin(p, 1), vec![0; m], orders)
    }
}

/// `ahead` forwards; then input gradient, weight gradient, forward in turn, the weight gradients `behind` the input
/// gradients; after the last forward in turn without lag; then the weight gradients that are left.
fn order(stage: usize, m: usize, ahead: usize, behind: usize) -> Vec<Action> {
    let named = |action: fn(Microbatch, Chunk) -> Action| move |j| action(Microbatch::at(j), Chunk::at(stage));
    let (forward, input, weight) =
        (named(Action::Forward), named(Action::InputGradient), named(Action::WeightGradient));
    let mut order: Vec<Action> = (0..ahead.min(m)).map(forward).collect();
    let mut weights = 0;
    for k in 0..m {
        order.push(input(k));
        let last = ahead + k >= m;
        if last || k - weights >= behind {
            order.push(weight(weights));
            weights += 1;
        }
        order.extend((!last).then(|| forward(ahead + k)));
    }
    order.extend((weights..m).map(weight));
    order
}
