//! Cut points: places where few bytes cross from the ops before to the ops after.

use crate::entity::{Entity, EntityMap, OpId, StorageId};
use crate::graph::Graph;
use crate::units::Bytes;

impl Graph {
    /// For each position `p` in `0..=range.len()` of a run of ops, the bytes of non-resident
    /// storages written before position `p` of the run and read at or after it, within the run.
    ///
    /// The minima of this profile are where a chain of blocks is cut.
    pub fn crossing_bytes(&self, range: std::ops::Range<usize>) -> Vec<Bytes> {
        let mut first: EntityMap<StorageId, Option<usize>> = EntityMap::filled(None, self.storages().len());
        let mut last: EntityMap<StorageId, usize> = EntityMap::filled(0, self.storages().len());
        for p in range.clone() {
            let op = &self.ops()[OpId::from_index(p)];
            for &v in &op.outputs {
                first[self.values()[v].storage].get_or_insert(p);
            }
            for &v in &op.inputs {
                last[self.values()[v].storage] = p;
            }
        }
        let mut delta = vec![0i128; range.len() + 1];
        for (s, storage) in self.storages().iter() {
            if storage.resident {
                continue;
            }
            if let Some(first) = first[s]
                && last[s] > first
            {
                delta[first + 1 - range.start] += i128::from(storage.bytes.get());
                delta[last[s] + 1 - range.start] -= i128::from(storage.bytes.get());
            }
        }
        let mut live = 0i128;
        delta
            .into_iter()
            .map(|d| {
                live += d;
                Bytes(u64::try_from(live).unwrap_or(0))
            })
            .collect()
    }
}
