//! The dependency DAG of a graph, carried by `petgraph`.

use petgraph::graph::{DiGraph, NodeIndex};

use crate::entity::{Entity, OpId, ValueId};
use crate::graph::Graph;

impl Graph {
    /// The dependencies as a `petgraph` graph: a node per op (in the order of ids), an edge from
    /// the producer of each value to every op that reads it.
    pub fn dag(&self) -> DiGraph<OpId, ValueId> {
        let mut dag = DiGraph::with_capacity(self.ops().len(), self.ops().len() * 2);
        for op in self.ops().keys() {
            dag.add_node(op);
        }
        for (v, value) in self.values().iter() {
            if let Some(producer) = value.producer {
                for user in self.uses(v) {
                    dag.add_edge(NodeIndex::new(producer.index()), NodeIndex::new(user.index()), v);
                }
            }
        }
        dag
    }
}
