//! Chimera: two routes in opposite directions. "Chimera: Efficiently Training Large-Scale Neural Networks with
//! Bidirectional Pipelines", Li and Hoefler, 2021.
//!
//! ```text
//! d0  0 1 2 . 3 0 1 . 2 3 ...   half of the microbatches enter at the first device, half at the last; each device
//! d1  . 0 2 1 ...               has two chunks, so twice the weights
//! ```

use super::super::schedule::{Action, Chunk, Device, Microbatch, Schedule};
use super::link::link;
use super::{Generator, Shape, refused};
use crate::error::Result;

/// `p` even; `m` even and at most `p`, or a multiple of `p` (units of `p` microbatches one after the other); `v` = 1 per
/// route. With `m = p` and `F = B+W`: the share of idle time is `(p-2)/(2m+p-2)`, in flight are `p/2+1` on the outer
/// devices to `p` on the middle ones.
pub struct Chimera;

impl Generator for Chimera {
    fn name(&self) -> &'static str {
        "chimera"
    }
    fn about(&self) -> &'static str {
        "two routes in opposite directions, twice the weights (Li and Hoefler 2021)"
    }
    fn generate(&self, shape: Shape) -> Result<Schedule> {
        let (p, m) = shape.checked_exactly(1, self.name())?;
        if p % 2 != 0 {
            return Err(refused("stages", format!("{} takes an even number, not {p}", self.name())));
        }
        if m % 2 != 0 || (m > p && m % p != 0) {
            let why = format!("{} takes an even number up to the {p} stages, or a multiple of them", self.name());
            return Err(refused("microbatches", format!("{why}, not {m}")));
        }
        let unit = m.min(p);
        let mut orders = vec![Vec::new(); p];
        for start in (0..m).step_by(unit) {
            for (order, more) in orders.iter_mut().zip(Unit::new(p, unit).orders()) {
                order.extend(more.into_iter().map(|pass| pass.action(start + pass.route * unit / 2)));
            }
        }
        let down: Vec<Device> = (0..p).map(Device::at).collect();
        let up = down.iter().rev().copied().collect();
        let route_of = (0..m).map(|j| u32::from(j % unit >= unit / 2)).collect();
        link(self.name(), vec![down, up], route_of, orders)
    }
}

/// A forward or backward of the `number`-th microbatch on a route.
#[derive(Clone, Copy)]
struct Pass {
    forward: bool,
    route: usize,
    stage: usize,
    number: usize,
}

impl Pass {
    fn action(self, first: usize) -> Action {
        let (m, c) = (Microbatch::at(first + self.number), Chunk::at(self.stage));
        if self.forward { Action::Forward(m, c) } else { Action::Backward(m, c) }
    }
}

/// The two 1F1B pipelines of one unit, merged slot by slot; forward and backward take a slot each. In a slot a device
/// does the backward it can do, otherwise a forward, of the smallest microbatch. Both pipelines then run as if each
/// were alone (shown by the tests for all p up to 16), which is the merge of the paper.
struct Unit {
    p: usize,
    half: usize,
    /// The slot after each forward and backward, by route, stage and number.
    ends: [Vec<Option<usize>>; 2],
    /// Forwards and backwards done, by route and stage.
    done: [Vec<usize>; 2],
}

impl Unit {
    fn new(p: usize, m: usize) -> Self {
        let (ends, done) = (vec![None; p * m], vec![0; 2 * p]);
        Self { p, half: m / 2, ends: [ends.clone(), ends], done: [done.clone(), done] }
    }

    fn at(&self, pass: Pass) -> usize {
        (pass.route * self.p + pass.stage) * self.half + pass.number
    }

    /// Whether a pass that exists has ended by `slot`.
    fn ended(&self, pass: Pass, slot: usize) -> bool {
        self.ends[usize::from(pass.forward)][self.at(pass)].is_some_and(|end| end <= slot)
    }

    /// The next pass of a kind on a route, if it can start in `slot`.
    fn ready(&self, forward: bool, route: usize, stage: usize, slot: usize) -> Option<Pass> {
        let [backwards, forwards] = [0, 1].map(|kind: usize| self.done[kind][route * self.p + stage]);
        let number = if forward { forwards } else { backwards };
        let pass = Pass { forward, route, stage, number };
        let ready = number < self.half
            && match forward {
                // As many in flight as 1F1B allows.
                true if forwards - backwards >= self.p - stage => false,
                true => stage == 0 || self.ended(Pass { stage: stage - 1, ..pass }, slot),
                false if stage + 1 == self.p => self.ended(Pass { forward: true, ..pass }, slot),
                false => self.ended(Pass { stage: stage + 1, ..pass }, slot),
            };
        ready.then_some(pass)
    }

    fn orders(mut self) -> Vec<Vec<Pass>> {
        let mut orders = vec![Vec::new(); self.p];
        let (mut left, mut slot) = (4 * self.half * self.p, 0);
        while left > 0 {
            for (device, order) in orders.iter_mut().enumerate() {
                let stages = [device, self.p - 1 - device];
                let all = [false, true].into_iter().flat_map(|forward| [(forward, 0), (forward, 1)]);
                let ready = all.filter_map(|(forward, route)| self.ready(forward, route, stages[route], slot));
                if let Some(pass) = ready.min_by_key(|pass| (pass.forward, pass.number, self.p - pass.stage)) {
                    let at = self.at(pass);
                    self.ends[usize::from(pass.forward)][at] = Some(slot + 1);
                    self.done[usize::from(pass.forward)][pass.route * self.p + pass.stage] += 1;
                    order.push(pass);
                    left -= 1;
                }
            }
            slot += 1;
        }
        orders
    }
}
