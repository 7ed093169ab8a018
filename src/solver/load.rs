//! What is live while a unit runs for the first time, whatever else is kept.
//!
//! During the run its inputs, its outputs and its workspace are live together with all that is
//! kept across it, since a run ends the life of nothing but of inputs taken over in place. An
//! output that takes over input a holds max(a, output) bytes, so the pair saves the smaller of the
//! two; an output takes over one input at most. If all pairs of an output name one storage, that
//! storage is gone once the saving is made: keeping it for later costs the saving.
//!
//! The pairs are those of the graph, whether or not a solver uses them, so that what is derived
//! from here holds for every legal plan. Pinned storages count nothing, see [`super::bound`].

use super::model::Model;
use crate::entity::ValueId;

/// Bytes beside residents.
pub(super) struct Load {
    /// Live whatever is kept.
    pub fixed: u64,
    /// What keeping one of the unit's own items across its run takes beyond that, by item,
    /// ascending; any other item takes [`bytes`].
    own: Vec<(u32, u64)>,
}

/// Bytes that an item is sure to hold while it lives.
pub(super) fn bytes(model: &Model, item: u32) -> u64 {
    let item = &model.items[item as usize];
    if item.pinned { 0 } else { item.bytes }
}

impl Load {
    /// Nothing is counted but what is kept: between two steps.
    pub fn none() -> Self {
        Self { fixed: 0, own: Vec::new() }
    }

    /// During the unit's first run.
    pub fn during(model: &Model, unit: usize) -> Self {
        let it = &model.units[unit];
        let touched = || it.reads.iter().chain(&it.writes).copied();
        let mut own: Vec<(u32, u64)> = touched().map(|s| (s, 0)).collect();
        own.sort_unstable();
        let mut fixed = it.workspace + touched().map(|s| bytes(model, s)).sum::<u64>();
        let mut pairs = pairs(model, unit);
        pairs.sort_unstable();
        pairs.dedup();
        for pairs in pairs.chunk_by(|a, b| a.0 == b.0) {
            let saved = |&(w, r): &(u32, u32)| bytes(model, w).min(bytes(model, r));
            let most = pairs.iter().map(saved).max().unwrap_or(0);
            fixed -= most;
            if let [(_, r)] = pairs
                && let Ok(k) = own.binary_search_by_key(r, |o| o.0)
            {
                own[k].1 += most;
            }
        }
        Self { fixed, own }
    }

    /// What keeping an item across the run takes beyond what is live anyway.
    pub fn keeping(&self, model: &Model, item: u32) -> u64 {
        self.own(item).unwrap_or_else(|| bytes(model, item))
    }

    /// The same for an item that the unit reads or writes.
    pub fn own(&self, item: u32) -> Option<u64> {
        self.own.binary_search_by_key(&item, |o| o.0).ok().map(|k| self.own[k].1)
    }
}

/// The graph's in-place pairs as (item written, item read).
fn pairs(model: &Model, unit: usize) -> Vec<(u32, u32)> {
    let graph = &model.problem.graph;
    let it = &model.units[unit];
    let Some(op) = it.op.map(|id| &graph.ops()[id]) else { return Vec::new() };
    let item = |items: &[u32], v: ValueId| {
        let storage = graph.values()[v].storage;
        items.iter().copied().find(|&s| model.items[s as usize].storage == storage)
    };
    // Nothing is taken over from residents, and no storage that was there already.
    let pairs = op.inplace.iter();
    pairs.filter_map(|&(a, b)| Some((item(&it.writes, op.outputs[b])?, item(&it.reads, op.inputs[a])?))).collect()
}
