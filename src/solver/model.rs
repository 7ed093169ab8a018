//! The problem as the searches see it: ops that make new storage, and the storages they touch.
//!
//! Views cost almost nothing and own no bytes, so they are taken out of the search: an order is a
//! list of *units* (ops that do more than look at one storage differently), and views are put back
//! right before the unit that reads them, run again only when their storage was made again. That
//! way no order the search makes holds an old buffer by a forgotten view.
//!
//! What does not fit that picture stays correct but is not recomputed: a *pinned* storage is one
//! that some op joins while it also reads other non-resident storages. Whoever reads what such an op
//! made needs the op, not only the storage: it makes a *token* as well, an item without bytes or storage,
//! which those read.

use std::sync::OnceLock;

use super::moves::Moves;
use crate::cost::Problem;
use crate::entity::{EntityMap, OpId, StorageId, ValueId};
use crate::graph::Replay;
use crate::plan::Step;

/// "No such thing" in the dense tables below.
pub(super) const NONE: u32 = u32::MAX;

/// Units beyond which a graph is large.
const LARGE: usize = 4000;

/// A storage that is not resident, or a token: see the module's description.
#[derive(Clone)]
pub(super) struct Item {
    /// None for a token.
    pub storage: Option<StorageId>,
    pub bytes: u64,
    /// The unit that makes it.
    pub maker: u32,
    /// Some op joins it that is no view; see the module's description.
    pub pinned: bool,
}

/// An op that only looks at one storage differently.
#[derive(Clone)]
pub(super) struct View {
    pub op: OpId,
    pub time: u64,
    /// Its item, or [`NONE`] for a resident storage.
    pub item: u32,
    /// Views it reads.
    pub reads: Vec<u32>,
}

/// An op that is not a view. The last unit is no op: it reads what must be live at the end.
#[derive(Clone)]
pub(super) struct Unit {
    /// None for the end.
    pub op: Option<OpId>,
    pub time: u64,
    pub workspace: u64,
    /// Bytes it needs by itself.
    pub footprint: u64,
    /// Items read, each once.
    pub reads: Vec<u32>,
    /// Items made.
    pub writes: Vec<u32>,
    /// In-place pairs as (index into reads, index into writes).
    pub pairs: Vec<(u32, u32)>,
    /// Views it reads.
    pub views: Vec<u32>,
    /// Whether it may run more than once, and be left out if nothing reads it.
    pub replayable: bool,
    /// Whether it must run exactly once, by its declaration.
    pub once: bool,
}

/// See the module's description.
pub(super) struct Model<'a> {
    pub problem: &'a Problem,
    pub resident: u64,
    pub items: Vec<Item>,
    /// In a valid order; the last is the end.
    pub units: Vec<Unit>,
    pub views: Vec<View>,
    /// What searches over it may do.
    pub moves: Moves,
    /// What [`branches`](super::auto::branches) found, once it was asked.
    pub branches: OnceLock<Option<(Vec<u32>, u64)>>,
}

impl<'a> Model<'a> {
    pub fn new(problem: &'a Problem, inplace: bool) -> Self {
        let graph = &problem.graph;
        let needed = needed(problem);
        let light: EntityMap<OpId, bool> = graph.ops().keys().map(|id| is_light(problem, id)).collect();
        let mut item_of: EntityMap<StorageId, u32> = EntityMap::filled(NONE, graph.storages().len());
        let mut view_of: EntityMap<OpId, u32> = EntityMap::filled(NONE, graph.ops().len());
        let mut model = Self {
            problem,
            resident: graph.resident_bytes().get(),
            items: Vec::new(),
            units: Vec::new(),
            views: Vec::new(),
            moves: Moves::all(),
            branches: OnceLock::new(),
        };
        for (s, storage) in graph.storages().iter().filter(|(_, s)| !s.resident) {
            item_of[s] = u32::from_index(model.items.len());
            let (storage, bytes) = (Some(s), storage.bytes.get());
            model.items.push(Item { storage, bytes, maker: NONE, pinned: false });
        }
        let mut pinned = vec![false; model.items.len()];
        // Tokens that whoever reads a value needs: few values need any.
        let mut tokens: EntityMap<ValueId, Vec<u32>> = EntityMap::filled(Vec::new(), graph.values().len());
        let tokens_of = |tokens: &EntityMap<ValueId, Vec<u32>>, inputs: &[ValueId]| {
            let mut all: Vec<u32> = inputs.iter().flat_map(|&v| tokens[v].iter().copied()).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let views_read = |view_of: &EntityMap<OpId, u32>, inputs: &[ValueId]| {
            let producers = inputs.iter().filter_map(|&v| graph.values()[v].producer);
            let mut views: Vec<u32> = producers.map(|p| view_of[p]).filter(|&l| l != NONE).collect();
            views.dedup();
            views
        };
        for (id, op) in graph.ops().iter().filter(|(id, _)| needed[*id]) {
            if light[id] {
                view_of[id] = u32::from_index(model.views.len());
                model.views.push(View {
                    op: id,
                    time: problem.costs.time[id].get(),
                    item: item_of[graph.values()[op.outputs[0]].storage],
                    reads: views_read(&view_of, &op.inputs),
                });
                let needs = tokens_of(&tokens, &op.inputs);
                op.outputs.iter().filter(|_| !needs.is_empty()).for_each(|&v| tokens[v].clone_from(&needs));
                continue;
            }
            let mut unit = model.unit(id, &item_of, &mut pinned, inplace, views_read(&view_of, &op.inputs));
            let index = u32::from_index(model.units.len());
            unit.reads.extend(tokens_of(&tokens, &op.inputs));
            let made = |v: ValueId| unit.writes.contains(&item_of[graph.values()[v].storage]);
            let joined: Vec<ValueId> = op.outputs.iter().copied().filter(|&v| !made(v)).collect();
            if !joined.is_empty() {
                let token = u32::from_index(model.items.len());
                model.items.push(Item { storage: None, bytes: 0, maker: index, pinned: false });
                pinned.push(false);
                unit.writes.push(token);
                joined.into_iter().for_each(|v| tokens[v].push(token));
            }
            for &s in &unit.writes {
                model.items[s as usize].maker = index;
            }
            model.units.push(unit);
        }
        for (item, pinned) in model.items.iter_mut().zip(&pinned) {
            item.pinned = *pinned;
        }
        for unit in &mut model.units {
            unit.replayable &= unit.writes.iter().all(|&s| !pinned[s as usize]) && !unit.writes.is_empty();
        }
        let items = graph.outputs().iter().map(|&v| item_of[graph.values()[v].storage]).filter(|&s| s != NONE);
        let mut reads: Vec<u32> = items.chain(tokens_of(&tokens, graph.outputs())).collect();
        reads.sort_unstable();
        reads.dedup();
        let views = views_read(&view_of, graph.outputs());
        model.units.push(Unit {
            op: None,
            time: 0,
            workspace: 0,
            footprint: 0,
            reads,
            writes: Vec::new(),
            pairs: Vec::new(),
            views,
            replayable: false,
            once: true,
        });
        model
    }

    /// Whether there are so many units that what looks at all of them often takes too long.
    pub fn is_large(&self) -> bool {
        self.units.len() > LARGE
    }

    /// A model of a part of the same problem, with these items and nothing else yet.
    pub fn with_items(&self, items: Vec<Item>) -> Self {
        Self { items, units: Vec::new(), views: Vec::new(), branches: OnceLock::new(), ..*self }
    }

    fn unit(
        &self,
        id: OpId,
        item_of: &EntityMap<StorageId, u32>,
        pinned: &mut [bool],
        inplace: bool,
        views: Vec<u32>,
    ) -> Unit {
        let graph = &self.problem.graph;
        let op = &graph.ops()[id];
        let item = |v: ValueId| item_of[graph.values()[v].storage];
        let mut reads: Vec<u32> = Vec::with_capacity(op.inputs.len());
        for s in op.inputs.iter().map(|&v| item(v)).filter(|&s| s != NONE) {
            if !reads.contains(&s) {
                reads.push(s);
            }
        }
        let mut replayable = op.replay != Replay::Once;
        let mut writes = Vec::with_capacity(op.outputs.len());
        for &v in &op.outputs {
            let s = item(v);
            if s == NONE || reads.contains(&s) {
                // It joins a storage that is there already, though it is no view.
                replayable = false;
                if s != NONE {
                    pinned[s as usize] = true;
                }
            } else if !writes.contains(&s) {
                writes.push(s);
            }
        }
        let mut pairs = Vec::new();
        for &(a, b) in op.inplace.iter().filter(|_| inplace) {
            let (from, to) = (item(op.inputs[a]), item(op.outputs[b]));
            let once = op.inputs.iter().filter(|&&u| item(u) == from).count() == 1;
            if let (Some(r), Some(w)) = (reads.iter().position(|&s| s == from), writes.iter().position(|&s| s == to))
                && once
                && w < 64
            {
                pairs.push((u32::from_index(r), u32::from_index(w)));
            }
        }
        let workspace = self.problem.costs.workspace[id].get();
        let touched = reads.iter().chain(&writes).map(|&s| self.items[s as usize].bytes);
        let footprint = touched.sum::<u64>() + workspace;
        Unit {
            op: Some(id),
            time: self.problem.costs.time[id].get(),
            workspace,
            footprint,
            reads,
            writes,
            pairs,
            views,
            replayable,
            once: op.replay == Replay::Once,
        }
    }

    /// Every unit once, in the order of the graph.
    pub fn keep_all(&self) -> Vec<u32> {
        (0..u32::from_index(self.units.len())).collect()
    }

    /// The peak with nothing made twice.
    pub fn peak_of_keep_all(&self) -> u64 {
        super::sim::Sim::default().run(self, &self.keep_all()).peak
    }

    /// The order of units that steps compute in; `None` where it is none: a unit that does not run,
    /// runs before what it reads, or runs again though it must not.
    pub fn order_of(&self, steps: &[Step]) -> Option<Vec<u32>> {
        let mut unit_of: EntityMap<OpId, u32> = EntityMap::filled(NONE, self.problem.graph.ops().len());
        for (u, op) in self.units.iter().enumerate().filter_map(|(u, unit)| Some((u, unit.op?))) {
            unit_of[op] = u32::from_index(u);
        }
        let runs = steps.iter().filter_map(|step| match step {
            Step::Compute { op, .. } => unit_of.get(*op).copied().filter(|&u| u != NONE),
            Step::Drop(_) | Step::Offload(_) | Step::Prefetch(_) => None,
        });
        let end = u32::from_index(self.units.len() - 1);
        let order: Vec<u32> = runs.chain([end]).collect();
        let mut ran = vec![false; self.units.len()];
        for &u in &order {
            let unit = &self.units[u as usize];
            let ready = unit.reads.iter().all(|&s| {
                let maker = self.items[s as usize].maker;
                maker == NONE || ran[maker as usize]
            });
            if !ready || (ran[u as usize] && !unit.replayable) {
                return None;
            }
            ran[u as usize] = true;
        }
        ran.iter().all(|&ran| ran).then_some(order)
    }

    /// The order of ops that an order of units stands for, views put in right before they are read.
    pub fn expand(&self, order: &[u32]) -> Vec<OpId> {
        let mut ops = Vec::with_capacity(order.len() + self.views.len());
        let mut stamps = Stamps::new(self);
        for (position, &u) in order.iter().enumerate() {
            stamps.read(self, u, &mut |op| ops.push(op));
            ops.extend(self.units[u as usize].op);
            stamps.write(self, u, position);
        }
        ops
    }
}

/// Which views are up to date: those made since their storage was.
#[derive(Default)]
pub(super) struct Stamps {
    made: Vec<u32>,
    current: Vec<u32>,
    time: u64,
}

impl Stamps {
    pub fn new(model: &Model) -> Self {
        let mut stamps = Self::default();
        stamps.reset(model);
        stamps
    }

    pub fn reset(&mut self, model: &Model) {
        self.made.clear();
        self.made.resize(model.items.len(), 1);
        self.current.clear();
        self.current.resize(model.views.len(), 0);
        self.time = 0;
    }

    /// Make the views that `unit` reads; the time that takes.
    #[inline]
    pub fn read(&mut self, model: &Model, unit: u32, emit: &mut dyn FnMut(OpId)) -> u64 {
        self.time = 0;
        for &view in &model.units[unit as usize].views {
            self.refresh(model, view, emit);
        }
        self.time
    }

    #[inline]
    pub fn write(&mut self, model: &Model, unit: u32, position: usize) {
        for &s in &model.units[unit as usize].writes {
            self.made[s as usize] = position as u32 + 2;
        }
    }

    fn refresh(&mut self, model: &Model, view: u32, emit: &mut dyn FnMut(OpId)) {
        let it = &model.views[view as usize];
        let made = if it.item == NONE { 1 } else { self.made[it.item as usize] };
        if self.current[view as usize] == made {
            return;
        }
        self.current[view as usize] = made;
        for &base in &it.reads {
            self.refresh(model, base, emit);
        }
        self.time = self.time.saturating_add(it.time);
        emit(it.op);
    }
}

/// Dense indices fit 32 bits because the graph's do.
trait FromIndex {
    fn from_index(index: usize) -> Self;
}

impl FromIndex for u32 {
    fn from_index(index: usize) -> Self {
        Self::try_from(index).expect("the graph has no more than 2^32 entities")
    }
}

/// Which ops have to run at all: what the outputs and the ops with side effects need.
pub(super) fn needed(problem: &Problem) -> EntityMap<OpId, bool> {
    let graph = &problem.graph;
    let mut needed: EntityMap<OpId, bool> = EntityMap::filled(false, graph.ops().len());
    for p in graph.outputs().iter().filter_map(|&v| graph.values()[v].producer) {
        needed[p] = true;
    }
    for id in graph.ops().keys().rev() {
        let op = &graph.ops()[id];
        needed[id] |= op.replay == Replay::Once;
        if needed[id] {
            for p in op.inputs.iter().filter_map(|&v| graph.values()[v].producer) {
                needed[p] = true;
            }
        }
    }
    needed
}

/// A view reads one storage (and residents) and writes into it, needs nothing else, and may run
/// at any time.
fn is_light(problem: &Problem, id: OpId) -> bool {
    let graph = &problem.graph;
    let op = &graph.ops()[id];
    let storage = graph.values()[op.outputs[0]].storage;
    let of = |v: &ValueId| graph.values()[*v].storage;
    op.replay != Replay::Once
        && problem.costs.workspace[id].get() == 0
        && op.outputs.iter().all(|v| of(v) == storage)
        && op.inputs.iter().any(|v| of(v) == storage)
        && op.inputs.iter().all(|v| of(v) == storage || graph.storages()[of(v)].resident)
}
