//! Which activations of a device are still to be computed again, and where in its list there is memory for it.

use std::collections::BTreeMap;

use super::schedule::{Action, Device, Schedule};
use super::workload::{ChunkCost, Workload};
use crate::units::{Bytes, Nanos};

/// A device's recomputations that its list does not place.
pub(super) struct Again {
    /// By index of the backward (input gradient): the index of its forward while the recompute is to come.
    todo: Vec<Option<usize>>,
    left: usize,
    /// Bytes while each action runs, if what is to come runs right before its backward. Only the order of the list
    /// decides about them, not the times.
    held: Vec<Bytes>,
    memory: Option<Bytes>,
}

impl Again {
    pub fn new(schedule: &Schedule, device: Device, workload: &Workload) -> Self {
        let actions = &schedule.devices()[device.index()];
        let costs = &workload.devices[device.index()];
        let (mut forwards, mut now) = (BTreeMap::new(), costs.constant);
        let (mut todo, mut held) = (Vec::with_capacity(actions.len()), Vec::with_capacity(actions.len()));
        for (index, &action) in actions.iter().enumerate() {
            let of = (action.microbatch(), action.chunk());
            let chunk = &workload.chunks[action.chunk().index()];
            let again = chunk.recompute > Nanos::ZERO;
            let left = if again { chunk.checkpoint } else { chunk.activation };
            let (mut during, mut backward) = (now, None);
            match action {
                Action::Forward(..) => {
                    forwards.insert(of, (index, left, again));
                    during += chunk.activation;
                    now += left;
                }
                Action::Recompute(..) => {
                    if let Some((_, left, open)) = forwards.get_mut(&of) {
                        now = now + chunk.activation - *left;
                        (*left, *open) = (chunk.activation, false);
                    }
                    during = now;
                }
                Action::Backward(..) | Action::InputGradient(..) => {
                    let (forward, left, open) = forwards.remove(&of).unwrap_or((index, left, again));
                    backward = Some(forward).filter(|_| open);
                    during = now + chunk.activation - left;
                    now -= left;
                    if matches!(action, Action::InputGradient(..)) {
                        now += chunk.kept;
                    }
                }
                Action::WeightGradient(..) => now -= chunk.kept,
                _ => {}
            }
            todo.push(backward);
            held.push(during);
        }
        Self { left: todo.iter().flatten().count(), todo, held, memory: costs.memory }
    }

    /// Whether the recompute for the backward at `index` is to come.
    pub fn is_todo(&self, index: usize) -> bool {
        self.todo[index].is_some()
    }

    pub fn done(&mut self, index: usize) {
        self.left -= usize::from(self.todo[index].take().is_some());
    }

    /// The first backward at `from` or later that a device about to do the action at `here` could recompute for.
    pub fn next(&self, here: usize, from: usize) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        let backwards = self.todo.iter().enumerate().skip(from);
        backwards.filter(|(_, forward)| forward.is_some_and(|at| at < here)).map(|(index, _)| index).next()
    }

    /// Make the recompute for the backward at `index` before the action at `here` instead; false, and nothing is done,
    /// if the memory does not allow it.
    pub fn make_early(&mut self, here: usize, index: usize, cost: &ChunkCost) -> bool {
        let more = cost.activation.saturating_sub(cost.checkpoint);
        let between = &mut self.held[here..index];
        let most = between.iter().copied().max().unwrap_or_default();
        if !between.is_empty() && self.memory.is_some_and(|memory| most + more > memory) {
            return false;
        }
        between.iter_mut().for_each(|held| *held += more);
        self.done(index);
        true
    }
}
