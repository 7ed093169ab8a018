//! What is live while a unit runs for the first time, whatever else is kept.
//!
//! During the run its inputs, its outputs and its workspace are live together with all that is
//! kept across it, since a run ends the life of nothing but of inputs taken over in place. An
//! output that takes over input a holds max(a, output) bytes, so the pair saves the smaller of the
//! two; an output takes over one input at most, and an input is taken over by one output at most.
//! A storage that is taken over is gone: it is not kept for later, and where both inputs of a
//! product are still wanted its result has a buffer of its own. So a plan makes a *choice*, which
//! pairs there are; what is derived from here must hold for every one of them.
//!
//! The pairs are those of the graph, whether or not a solver uses them, so that what is derived
//! from here holds for every legal plan. Pinned storages count nothing, see [`super::bound`].

use super::model::Model;
use crate::entity::ValueId;

/// Choices told apart at most; where there are more, the pairs of the outputs that come last save
/// what they can, and nothing is gone for it.
const CHOICES: usize = 8;

/// Bytes beside residents.
pub(super) struct Load {
    /// Live whatever is kept, and nothing is taken over.
    pub fixed: u64,
    /// The unit's own items, ascending: they are among what is fixed.
    own: Vec<u32>,
    /// What may be taken over.
    pub pairs: Vec<Pair>,
}

/// An output that may take over an input.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    pub write: u32,
    pub read: u32,
    /// The bytes that saves.
    pub saves: u64,
}

/// A load for one choice of what is taken over.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Choice {
    /// Live whatever is kept.
    pub fixed: u64,
    /// The unit's own items, and what keeping them across its run takes beyond that, ascending.
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
        Self { fixed: 0, own: Vec::new(), pairs: Vec::new() }
    }

    /// During the unit's first run.
    pub fn during(model: &Model, unit: usize) -> Self {
        let it = &model.units[unit];
        let mut own: Vec<u32> = it.reads.iter().chain(&it.writes).copied().collect();
        own.sort_unstable();
        let fixed = it.workspace + own.iter().map(|&s| bytes(model, s)).sum::<u64>();
        let saving = |(write, read)| Pair { write, read, saves: bytes(model, write).min(bytes(model, read)) };
        let mut pairs: Vec<Pair> = pairs(model, unit).into_iter().map(saving).filter(|pair| pair.saves > 0).collect();
        pairs.sort_unstable();
        pairs.dedup();
        Self { fixed, own, pairs }
    }

    /// Whether the unit reads or makes an item.
    pub fn is_own(&self, item: u32) -> bool {
        self.own.binary_search(&item).is_ok()
    }

    /// Whether an item may be taken over.
    #[cfg(feature = "highs")]
    pub fn may_go(&self, item: u32) -> bool {
        self.pairs.iter().any(|pair| pair.read == item)
    }

    /// Every choice that may be best for some plan.
    pub fn choices(&self) -> Vec<Choice> {
        let own = self.own.iter().map(|&s| (s, 0)).collect();
        let mut all = vec![Choice { fixed: self.fixed, own }];
        for pairs in self.pairs.chunk_by(|a, b| a.write == b.write) {
            if all.len() * (pairs.len() + 1) > CHOICES {
                let most = pairs.iter().map(|pair| pair.saves).max().unwrap_or(0);
                all.iter_mut().for_each(|choice| choice.fixed -= most);
                continue;
            }
            // To take over nothing is no better than to take over something that is then kept all the
            // same, but where another output wants it.
            let elsewhere = |pair: &Pair| self.pairs.iter().any(|it| it.read == pair.read && it.write != pair.write);
            let with = |choice: &Choice| -> Vec<Choice> {
                let free = pairs.iter().filter(|pair| choice.keeping(pair.read) == Some(0));
                let mut taken: Vec<Choice> = free.map(|pair| choice.with(pair)).collect();
                if taken.is_empty() || pairs.iter().any(elsewhere) {
                    taken.push(choice.clone());
                }
                taken
            };
            all = all.iter().flat_map(with).collect();
        }
        all
    }
}

impl Choice {
    fn with(&self, pair: &Pair) -> Self {
        let mut with = self.clone();
        with.fixed -= pair.saves;
        if let Ok(k) = with.own.binary_search_by_key(&pair.read, |own| own.0) {
            with.own[k].1 = pair.saves;
        }
        with
    }

    /// What keeping one of the unit's own items takes beyond what is fixed.
    fn keeping(&self, item: u32) -> Option<u64> {
        self.own.binary_search_by_key(&item, |own| own.0).ok().map(|k| self.own[k].1)
    }

    /// What keeping an item across the run takes beyond what is fixed.
    pub fn bytes(&self, model: &Model, item: u32) -> u64 {
        self.keeping(item).unwrap_or_else(|| bytes(model, item))
    }
}

/// The graph's in-place pairs as (item written, item read).
fn pairs(model: &Model, unit: usize) -> Vec<(u32, u32)> {
    let graph = &model.problem.graph;
    let it = &model.units[unit];
    let Some(op) = it.op.map(|id| &graph.ops()[id]) else { return Vec::new() };
    let item = |items: &[u32], v: ValueId| {
        let storage = graph.values()[v].storage;
        items.iter().copied().find(|&s| model.items[s as usize].storage == Some(storage))
    };
    // Nothing is taken over from residents, and no storage that was there already.
    let pairs = op.inplace.iter();
    pairs.filter_map(|&(a, b)| Some((item(&it.writes, op.outputs[b])?, item(&it.reads, op.inputs[a])?))).collect()
}
