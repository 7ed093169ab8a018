//! A stage's ops once each, and early what frees more than it makes.
//!
//! A layer's backward makes the gradient of its input, those of its parameters and sums of them from the same two tensors, and the
//! step may have recorded one of these at once and the others much later. All together they free both tensors and leave one. So
//! the readers of a storage run as soon as all of them can, where that frees more than it makes.

use crate::entity::{EntityMap, OpId, StorageId, ValueId};
use crate::graph::Graph;

/// Readers that run early together at most.
const MOST: usize = 16;

/// See the module's description. The order is valid where the graph's is.
pub(super) fn early(graph: &Graph) -> Vec<OpId> {
    let mut order = Early::new(graph);
    for id in graph.ops().keys() {
        order.run(id);
        while let Some(storage) = order.touched.pop() {
            let group = order.group(storage);
            if order.frees(&group) {
                group.into_iter().for_each(|id| order.run(id));
            }
        }
    }
    order.order
}

struct Early<'a> {
    graph: &'a Graph,
    /// Readers of each storage in the graph's order.
    readers: EntityMap<StorageId, Vec<OpId>>,
    /// Whether a storage is never freed.
    stays: EntityMap<StorageId, bool>,
    done: EntityMap<OpId, bool>,
    order: Vec<OpId>,
    /// Storages whose readers may be worth running.
    touched: Vec<StorageId>,
}

impl<'a> Early<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut readers: EntityMap<StorageId, Vec<OpId>> = EntityMap::filled(Vec::new(), graph.storages().len());
        for (s, storage) in graph.storages().iter() {
            readers[s] = storage.values.iter().flat_map(|&v| graph.uses(v)).copied().collect();
            readers[s].sort_unstable();
            readers[s].dedup();
        }
        let mut stays: EntityMap<StorageId, bool> = graph.storages().values().map(|storage| storage.resident).collect();
        graph.outputs().iter().for_each(|&v| stays[graph.values()[v].storage] = true);
        let done = EntityMap::filled(false, graph.ops().len());
        Self { graph, readers, stays, done, order: Vec::new(), touched: Vec::new() }
    }

    fn storages(&self, values: &[ValueId]) -> Vec<StorageId> {
        let mut storages: Vec<StorageId> = values.iter().map(|&v| self.graph.values()[v].storage).collect();
        storages.sort_unstable();
        storages.dedup();
        storages
    }

    fn run(&mut self, id: OpId) {
        if std::mem::replace(&mut self.done[id], true) {
            return;
        }
        self.order.push(id);
        let op = &self.graph.ops()[id];
        let touched = self.storages(&[op.inputs.as_slice(), &op.outputs].concat());
        self.touched.extend(touched.into_iter().filter(|&s| !self.stays[s]));
    }

    /// The readers of a storage that did not run, with those that alone read what they make and make next to nothing; none where
    /// some cannot run yet or there are many.
    fn group(&self, storage: StorageId) -> Vec<OpId> {
        let mut group: Vec<OpId> = self.readers[storage].iter().copied().filter(|&id| !self.done[id]).collect();
        for at in 0..group.len().min(MOST) {
            let made = self.storages(&self.graph.ops()[group[at]].outputs);
            for readers in made.into_iter().map(|s| &self.readers[s]) {
                if let &[reader] = readers.as_slice()
                    && self.bytes(&self.graph.ops()[reader].outputs) == 0
                    && !group.contains(&reader)
                {
                    group.push(reader);
                }
            }
        }
        group.sort_unstable();
        let ready = |id: OpId| {
            let mut makers = self.graph.ops()[id].inputs.iter().filter_map(|&v| self.graph.values()[v].producer);
            makers.all(|maker| self.done[maker] || maker < id && group.contains(&maker))
        };
        match group.len() <= MOST && group.iter().all(|&id| ready(id)) {
            true => group,
            false => Vec::new(),
        }
    }

    fn bytes(&self, values: &[ValueId]) -> u64 {
        self.storages(values).into_iter().map(|s| self.graph.storages()[s].bytes.get()).sum()
    }

    /// Whether more is freed once a group ran than it leaves.
    fn frees(&self, group: &[OpId]) -> bool {
        let of = |values: fn(&crate::graph::Op) -> &Vec<ValueId>| {
            let all: Vec<ValueId> = group.iter().flat_map(|&id| values(&self.graph.ops()[id])).copied().collect();
            self.storages(&all)
        };
        let (read, made) = (of(|op| &op.inputs), of(|op| &op.outputs));
        let over = |s: StorageId| {
            !self.stays[s] && self.readers[s].iter().all(|&reader| self.done[reader] || group.contains(&reader))
        };
        let bytes = |s: &StorageId| self.graph.storages()[*s].bytes.get();
        let freed: u64 = read.iter().filter(|&&s| !made.contains(&s) && over(s)).map(bytes).sum();
        let left: u64 = made.iter().filter(|&&s| !read.contains(&s) && !over(s)).map(bytes).sum();
        freed > left
    }
}

#[cfg(all(test, feature = "fuzzing"))]
mod tests {
    use super::*;
    use crate::cost::{Costs, Device, Problem};
    use crate::fuzz::{Shape, problem};
    use crate::graph::{GraphBuilder, NewValue, Op, Phase, Replay, Role};
    use crate::plan::{Lowering, lower, simulate};
    use crate::units::{Bytes, Nanos};

    #[test]
    fn orders_are_valid() {
        let mut moved = 0;
        for seed in 0..300 {
            let problem = problem(seed, Shape::all(10 + seed as usize % 60));
            let order = early(&problem.graph);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, problem.graph.ops().keys().collect::<Vec<_>>(), "seed {seed}");
            simulate(&problem, &lower(&problem.graph, &order, Lowering::default())).unwrap();
            moved += usize::from(order != sorted);
        }
        assert!(moved > 100, "{moved} moved");
    }

    /// A gradient is read at once by the one that goes on, and at the end by those of the parameters.
    #[test]
    fn what_reads_the_same_runs_together() {
        let (mut graph, mut time) = (GraphBuilder::new(), EntityMap::new());
        let mut op = |graph: &mut GraphBuilder, inputs: &[ValueId], bytes: u64| {
            let made = graph.value(NewValue { bytes: Bytes(bytes), role: Role::Activation, ..NewValue::default() });
            time.push(Nanos(10));
            let (kind, phase, inputs, replay) = ("Op".into(), Phase::Backward, inputs.to_vec(), Replay::Pure);
            graph.op(Op { kind, phase, inputs, outputs: vec![made], inplace: Vec::new(), replay });
            made
        };
        let (input, gradient) = (op(&mut graph, &[], 100), op(&mut graph, &[], 100));
        let other = op(&mut graph, &[], 300);
        let last = op(&mut graph, &[other], 100);
        let back = op(&mut graph, &[input, gradient], 100);
        let weight = op(&mut graph, &[input, gradient], 1);
        [last, back, weight].into_iter().for_each(|v| graph.output(v));
        let graph = graph.finish().unwrap();
        let workspace = EntityMap::filled(Bytes::ZERO, graph.ops().len());
        let problem = Problem::new("early", graph, Costs { time, workspace }, Device::default()).unwrap();
        let peak =
            |order: &[OpId]| simulate(&problem, &lower(&problem.graph, order, Lowering::default())).unwrap().peak.get();
        let recorded: Vec<OpId> = problem.graph.ops().keys().collect();
        assert_eq!((peak(&recorded), peak(&early(&problem.graph))), (600, 501));
    }
}
