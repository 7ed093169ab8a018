//! When values are needed if every op runs once, in the order of the graph.

use crate::entity::OpId;
use crate::graph::Graph;
use crate::units::Bytes;

impl Graph {
    /// What one op needs by itself: every resident storage, and those of its inputs and outputs.
    pub fn footprint(&self, op: OpId) -> Bytes {
        let op = &self.ops()[op];
        let mut storages: Vec<_> = op
            .inputs
            .iter()
            .chain(&op.outputs)
            .map(|&v| self.values()[v].storage)
            .filter(|&s| !self.storages()[s].resident)
            .collect();
        storages.sort_unstable();
        storages.dedup();
        self.resident_bytes() + storages.into_iter().map(|s| self.storages()[s].bytes).sum()
    }

    /// The bytes live when the step ends: residents and outputs.
    pub fn final_bytes(&self) -> Bytes {
        let mut storages: Vec<_> = self.outputs().iter().map(|&v| self.values()[v].storage).collect();
        storages.sort_unstable();
        storages.dedup();
        self.resident_bytes()
            + storages.into_iter().filter(|&s| !self.storages()[s].resident).map(|s| self.storages()[s].bytes).sum()
    }
}
