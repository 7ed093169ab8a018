//! What one device holds over time.

use super::schedule::Action;
use super::simulate::Event;
use super::workload::ChunkCost;
use crate::units::{Bytes, Nanos};

/// Bytes and microbatches in flight, moved by events in the order of time.
pub(super) struct Memory {
    now: Bytes,
    in_flight: usize,
    pub peak_in_flight: usize,
    levels: Vec<(Nanos, Bytes)>,
}

impl Memory {
    pub fn new(constant: Bytes) -> Self {
        Self { now: constant, in_flight: 0, peak_in_flight: 0, levels: vec![(Nanos::ZERO, constant)] }
    }

    /// What is taken is taken from the start, what is given back is given back at the end.
    pub fn play(&mut self, event: &Event, cost: &ChunkCost) {
        let again = cost.recompute > Nanos::ZERO;
        let held = if again { cost.checkpoint } else { cost.activation };
        match event.action {
            Action::Forward(..) => {
                self.in_flight += 1;
                self.peak_in_flight = self.peak_in_flight.max(self.in_flight);
                self.change(event.start, cost.activation, Bytes::ZERO);
                self.change(event.end, held, cost.activation);
            }
            Action::Recompute(..) => self.change(event.start, cost.activation, held),
            Action::Backward(..) => {
                self.in_flight -= 1;
                self.change(event.end, Bytes::ZERO, cost.activation);
            }
            Action::InputGradient(..) => self.change(event.end, cost.kept, cost.activation),
            Action::WeightGradient(..) => {
                self.in_flight -= 1;
                self.change(event.end, Bytes::ZERO, cost.kept);
            }
            _ => {}
        }
    }

    fn change(&mut self, at: Nanos, more: Bytes, less: Bytes) {
        if more == less {
            return;
        }
        self.now = self.now + more - less;
        // What is given back and taken at the same instant is no change.
        if self.levels.last().is_some_and(|last| last.0 == at && at > Nanos::ZERO) {
            self.levels.pop();
        }
        match self.levels.last_mut() {
            Some(last) if last.0 == at => last.1 = self.now,
            Some(last) if last.1 == self.now => {}
            _ => self.levels.push((at, self.now)),
        }
    }

    /// The peak, and the bytes from each instant on.
    pub fn finish(self) -> (Bytes, Vec<(Nanos, Bytes)>) {
        (self.levels.iter().map(|level| level.1).max().unwrap_or_default(), self.levels)
    }
}
