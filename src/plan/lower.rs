//! From an order of computations to a plan's steps.
//!
//! Once the order in which ops run is fixed (ops may stand in it more than once), the best lives
//! are known: each value lives from its computation to the last read before its op runs again or
//! the order ends. Lowering spells that out as drops, and takes storage over in place wherever
//! the graph allows it. Solvers therefore search over orders alone.

use crate::entity::{EntityMap, OpId, ValueId};
use crate::graph::Graph;
use crate::plan::Step;

/// How to lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lowering {
    /// Take over an input's storage where legal.
    pub inplace: bool,
}

impl Default for Lowering {
    fn default() -> Self {
        Self { inplace: true }
    }
}

/// The steps that run `order`, dropping each value right after its last use.
///
/// The order must run every op that an output needs, each after what makes its inputs; the
/// checker finds out where it does not. Orders that run an op again while a view of its former
/// result is still read are legal but hold both buffers.
pub fn lower(graph: &Graph, order: &[OpId], options: Lowering) -> Vec<Step> {
    let dies = last_reads(graph, order);
    let mut steps = Vec::with_capacity(order.len() * 2);
    let mut lives = Lives::new(graph);
    for (position, &id) in order.iter().enumerate() {
        let op = &graph.ops()[id];
        let ends = |k: usize| dies[position][k];
        let inplace = match options.inplace {
            true => takeovers(graph, &lives, id, &ends),
            false => Vec::new(),
        };
        let taken: Vec<ValueId> = inplace.iter().map(|&(a, _)| op.inputs[a]).collect();
        steps.push(Step::Compute { op: id, inplace: inplace.clone() });
        for (k, v) in graph.outputs_roots_first(id) {
            let source = inplace.iter().find(|p| p.1 == k).map(|&(a, _)| op.inputs[a]);
            lives.start(graph, id, v, source);
        }
        for &v in &taken {
            lives.end(v);
        }
        for (k, &v) in op.inputs.iter().chain(&op.outputs).enumerate() {
            if ends(k) && lives.is_live(v) && !taken.contains(&v) {
                lives.end(v);
                steps.push(Step::Drop(v));
            }
        }
    }
    steps
}

/// For each position of the order and each of its op's inputs, then outputs: whether the value's
/// present life ends there. (An output that nothing reads ends where it is written.)
fn last_reads(graph: &Graph, order: &[OpId]) -> Vec<Vec<bool>> {
    // Walking backwards: does anything later read the life that is current at this point?
    let mut wanted: EntityMap<ValueId, bool> = graph.values().values().map(|v| v.output || v.resident).collect();
    let mut dies = vec![Vec::new(); order.len()];
    for (position, &id) in order.iter().enumerate().rev() {
        let op = &graph.ops()[id];
        let outputs: Vec<bool> = op.outputs.iter().map(|&v| !wanted[v]).collect();
        // Before this position the op's outputs are dead: what it writes is a new life.
        for &v in &op.outputs {
            wanted[v] = false;
        }
        let mut here: Vec<bool> = op.inputs.iter().map(|&v| !wanted[v]).collect();
        for &v in &op.inputs {
            wanted[v] = true;
        }
        here.extend(outputs);
        dies[position] = here;
    }
    dies
}

/// Which in-place pairs of an op are legal here: the input's life ends, nothing else lives in its
/// storage, and neither side is used twice.
fn takeovers(graph: &Graph, lives: &Lives, id: OpId, ends: &dyn Fn(usize) -> bool) -> Vec<(usize, usize)> {
    let op = &graph.ops()[id];
    let mut chosen: Vec<(usize, usize)> = Vec::new();
    for &(a, b) in &op.inplace {
        let input = op.inputs[a];
        let free = ends(a)
            && !graph.values()[input].resident
            && lives.alone(input)
            && op.inputs.iter().filter(|&&v| v == input).count() == 1
            && chosen.iter().all(|&(x, y)| x != a && y != b)
            // A view of the input that the same op makes would live on in the storage taken over.
            && op.outputs.iter().all(|&v| graph.values()[v].storage != graph.values()[input].storage);
        if free {
            chosen.push((a, b));
        }
    }
    chosen
}

/// Which values live now, and how many share each buffer.
struct Lives {
    buffer: EntityMap<ValueId, Option<usize>>,
    count: Vec<usize>,
}

impl Lives {
    fn new(graph: &Graph) -> Self {
        let mut lives = Self { buffer: EntityMap::filled(None, graph.values().len()), count: Vec::new() };
        for storage in graph.storages().values() {
            let residents = storage.values.iter().filter(|&&v| graph.values()[v].resident);
            let buffer = lives.count.len();
            lives.count.push(0);
            for &v in residents {
                lives.buffer[v] = Some(buffer);
                lives.count[buffer] += 1;
            }
        }
        lives
    }

    fn is_live(&self, v: ValueId) -> bool {
        self.buffer[v].is_some()
    }

    fn alone(&self, v: ValueId) -> bool {
        self.buffer[v].is_some_and(|b| self.count[b] == 1)
    }

    fn start(&mut self, graph: &Graph, op: OpId, v: ValueId, takes_from: Option<ValueId>) {
        let value = &graph.values()[v];
        let op = &graph.ops()[op];
        let shared = takes_from.and_then(|u| self.buffer[u]).or_else(|| {
            value.alias_of?;
            op.inputs
                .iter()
                .chain(&op.outputs)
                .filter(|&&u| u != v && graph.values()[u].storage == value.storage)
                .find_map(|&u| self.buffer[u])
        });
        let buffer = shared.unwrap_or_else(|| {
            self.count.push(0);
            self.count.len() - 1
        });
        self.buffer[v] = Some(buffer);
        self.count[buffer] += 1;
    }

    fn end(&mut self, v: ValueId) {
        if let Some(buffer) = self.buffer[v].take() {
            self.count[buffer] -= 1;
        }
    }
}
