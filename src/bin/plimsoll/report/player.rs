//! Which buffers live when, and for what.
//!
//! Times, copies and totals are the simulator's. It tells only how many bytes are live, so the
//! buffers are followed here by the same rules; their sizes add up to its totals in every step.

use plimsoll::cost::Problem;
use plimsoll::entity::{EntityMap, OpId, ValueId};
use plimsoll::plan::Step;

use super::category::{Categories, Category};

/// Live bytes by category.
pub type Level = [u64; Category::COUNT];

/// How a buffer came to hold a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It was there from the start.
    Resident,
    /// Its op ran.
    First,
    /// Its op ran again.
    Again,
    /// It was copied back from the host.
    Prefetched,
}

/// A buffer while it holds one value (and views of it).
#[derive(Clone, Debug)]
pub struct Life {
    /// The value.
    pub value: ValueId,
    /// Size of the buffer.
    pub bytes: u64,
    /// The first step it counts in.
    pub from: usize,
    /// The first step after that in which it does not.
    pub to: usize,
    /// What for.
    pub category: Category,
    /// How it came about.
    pub made: Made,
    /// Whether the buffer was another value's before.
    pub inplace: bool,
}

/// Which buffers live, step by step.
pub struct Player<'a> {
    problem: &'a Problem,
    categories: &'a Categories,
    /// The buffer of every live value.
    place: EntityMap<ValueId, Option<usize>>,
    /// Of each buffer: its present life, and how many values live in it.
    buffers: Vec<(usize, usize)>,
    ran: EntityMap<OpId, bool>,
    /// Every life so far.
    pub lives: Vec<Life>,
    /// What is live now.
    pub level: Level,
}

impl<'a> Player<'a> {
    /// Before the first step.
    pub fn new(problem: &'a Problem, categories: &'a Categories) -> Self {
        let graph = &problem.graph;
        let mut player = Self {
            problem,
            categories,
            place: EntityMap::filled(None, graph.values().len()),
            buffers: Vec::new(),
            ran: EntityMap::filled(false, graph.ops().len()),
            lives: Vec::new(),
            level: [0; Category::COUNT],
        };
        for storage in graph.storages().values().filter(|s| s.resident) {
            let buffer = player.begin(0, storage.root, Made::Resident, None);
            for &v in storage.values.iter().filter(|&&v| graph.values()[v].resident) {
                player.join(v, buffer);
            }
        }
        player
    }

    /// Play one step; what an op's inputs hold is still there after it. Whether it runs an op again.
    pub fn step(&mut self, index: usize, step: &Step) -> bool {
        match step {
            Step::Compute { op, inplace } => {
                let again = std::mem::replace(&mut self.ran[*op], true);
                self.compute(index, *op, inplace, if again { Made::Again } else { Made::First });
                return again;
            }
            Step::Drop(v) => self.leave(index, *v),
            Step::Offload(_) => {}
            Step::Prefetch(v) => {
                let buffer = self.begin(index, *v, Made::Prefetched, None);
                self.join(*v, buffer);
            }
        }
        false
    }

    fn compute(&mut self, index: usize, id: OpId, inplace: &[(usize, usize)], made: Made) {
        let graph = &self.problem.graph;
        let op = &graph.ops()[id];
        let is_view = |v: ValueId| graph.values()[v].alias_of.is_some();
        let outputs = || op.outputs.iter().copied().enumerate();
        // Views join the storage they share, which may be another output's.
        for (k, v) in outputs().filter(|&(_, v)| !is_view(v)).chain(outputs().filter(|&(_, v)| is_view(v))) {
            let taken = inplace.iter().find(|pair| pair.1 == k).and_then(|pair| self.place[op.inputs[pair.0]]);
            let same = |u: &&ValueId| **u != v && graph.values()[**u].storage == graph.values()[v].storage;
            let shared = || op.inputs.iter().chain(&op.outputs).filter(same).find_map(|&u| self.place[u]);
            let buffer = match (taken, is_view(v)) {
                (Some(buffer), _) => self.begin(index, v, made, Some(buffer)),
                (None, true) => shared().unwrap_or_else(|| self.begin(index, v, made, None)),
                (None, false) => self.begin(index, v, made, None),
            };
            self.join(v, buffer);
        }
    }

    /// What a compute ends when it is over: the lives of inputs whose storage it took over.
    pub fn settle(&mut self, index: usize, step: &Step) {
        if let Step::Compute { op, inplace } = step {
            let inputs = &self.problem.graph.ops()[*op].inputs;
            inplace.iter().for_each(|&(a, _)| self.leave(index, inputs[a]));
        }
    }

    /// Begin a life, in a buffer taken over or a new one.
    fn begin(&mut self, index: usize, v: ValueId, made: Made, taken: Option<usize>) -> usize {
        let storage = self.problem.graph.values()[v].storage;
        let mut bytes = self.problem.graph.storages()[storage].bytes.get();
        let category = match (self.categories.get(storage), made) {
            (Category::Activations | Category::Backward, Made::Again) => Category::Recomputed,
            (category, _) => category,
        };
        let life = self.lives.len();
        let buffer = match taken {
            Some(buffer) => {
                let before = self.buffers[buffer].0;
                self.end(index, before);
                bytes = bytes.max(self.lives[before].bytes);
                self.buffers[buffer].0 = life;
                buffer
            }
            None => {
                self.buffers.push((life, 0));
                self.buffers.len() - 1
            }
        };
        let inplace = taken.is_some();
        self.lives.push(Life { value: v, bytes, from: index, to: usize::MAX, category, made, inplace });
        let level = &mut self.level[category.index()];
        *level = level.saturating_add(bytes);
        buffer
    }

    fn end(&mut self, index: usize, life: usize) {
        let life = &mut self.lives[life];
        life.to = index;
        let level = &mut self.level[life.category.index()];
        *level = level.saturating_sub(life.bytes);
    }

    fn join(&mut self, v: ValueId, buffer: usize) {
        self.place[v] = Some(buffer);
        self.buffers[buffer].1 += 1;
    }

    fn leave(&mut self, index: usize, v: ValueId) {
        if let Some(buffer) = self.place[v].take() {
            self.buffers[buffer].1 -= 1;
            if self.buffers[buffer].1 == 0 {
                self.end(index, self.buffers[buffer].0);
            }
        }
    }
}
