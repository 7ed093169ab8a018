//! Graph + costs + device: what a solver is given.

use std::collections::BTreeSet;

use crate::cost::Device;
use crate::entity::{EntityMap, OpId};
use crate::error::{Error, Result, shortened};
use crate::graph::{Graph, Replay};
use crate::units::{Bytes, Nanos};

/// Time and workspace of every op of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Costs {
    /// How long each op runs.
    pub time: EntityMap<OpId, Nanos>,
    /// Bytes each op needs while it runs, beside its inputs and outputs.
    pub workspace: EntityMap<OpId, Bytes>,
}

/// Everything a solver is given: a graph, what its ops cost, and the device's capacities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A name for people.
    pub name: String,
    /// The training step.
    pub graph: Graph,
    /// What its ops cost.
    pub costs: Costs,
    /// What the device can hold and move.
    pub device: Device,
    /// Ops that only bring a tensor from host memory: they take their time on the lane of such copies, beside
    /// computing. See [`with_loads`](Self::with_loads).
    loads: BTreeSet<OpId>,
}

impl Problem {
    /// Put the parts together.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] when there is not one cost per op, or when times or sizes add up
    /// to more than 2^62, which leaves room to run every op many times over without overflow.
    pub fn new(name: impl Into<String>, graph: Graph, costs: Costs, device: Device) -> Result<Self> {
        let fault = |at: &str, why: String| Error::InvalidProblem { at: shortened(at).into(), why };
        for (what, len) in [("time", costs.time.len()), ("workspace", costs.workspace.len())] {
            if len != graph.ops().len() {
                return Err(fault(what, format!("it has {len} entries for {} ops", graph.ops().len())));
            }
        }
        const LIMIT: u64 = 1 << 62;
        let mut time = 0u64;
        for (op, t) in costs.time.iter() {
            time = time.checked_add(t.get()).filter(|&t| t <= LIMIT).ok_or_else(|| {
                fault(&graph.describe_op(op), "the times up to this op add up to more than 2^62 ns".into())
            })?;
        }
        let mut bytes: u64 = graph.storages().values().map(|s| s.bytes.get()).sum();
        if bytes > LIMIT {
            return Err(fault("values", "their sizes add up to more than 2^62 bytes".into()));
        }
        for (op, w) in costs.workspace.iter() {
            bytes = bytes.checked_add(w.get()).filter(|&b| b <= LIMIT).ok_or_else(|| {
                fault(
                    &graph.describe_op(op),
                    "the sizes of all values and the workspaces up to this op add up to more than 2^62 bytes".into(),
                )
            })?;
        }
        Ok(Self { name: name.into(), graph, costs, device, loads: BTreeSet::new() })
    }

    /// The same, where these ops only bring a tensor from host memory.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] for an op that is not there, works in place or has side effects.
    pub fn with_loads(mut self, loads: impl IntoIterator<Item = OpId>) -> Result<Self> {
        self.loads = loads.into_iter().collect();
        for &load in &self.loads {
            let fault = |at: String, why: &str| Error::InvalidProblem { at: shortened(&at).into(), why: why.into() };
            let Some(op) = self.graph.ops().get(load) else {
                return Err(fault(load.to_string(), "it is to load a tensor, and is not there"));
            };
            if !op.inplace.is_empty() || op.replay == Replay::Once {
                let why = "it loads a tensor, which is done in place nowhere and may be done again";
                return Err(fault(self.graph.describe_op(load), why));
            }
        }
        Ok(self)
    }

    /// Whether an op only brings a tensor from host memory.
    pub fn loads(&self, op: OpId) -> bool {
        self.loads.contains(&op)
    }

    /// Whether any op does.
    pub fn has_loads(&self) -> bool {
        !self.loads.is_empty()
    }

    /// A bound no plan's peak can go below: the larger of what is live at the end and what any one op needs by itself. An op that
    /// may work in place needs its output's bytes only once.
    pub fn trivial_bound(&self) -> Bytes {
        let graph = &self.graph;
        let ops = graph.ops().keys().map(|op| {
            let saved =
                graph.ops()[op].inplace.iter().map(|&(_, b)| graph.values()[graph.ops()[op].outputs[b]].bytes).sum();
            graph.footprint(op).saturating_sub(saved) + self.costs.workspace[op]
        });
        ops.max().unwrap_or_default().max(graph.final_bytes())
    }
}
