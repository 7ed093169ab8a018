//! What a plan does with each value, counted.

use plimsoll::cost::Problem;
use plimsoll::entity::{EntityMap, ValueId};
use plimsoll::plan::Step;

/// How often each value is made, sent to the host, and made in place of another.
pub struct Uses {
    /// How often its op runs.
    pub computes: EntityMap<ValueId, u32>,
    /// How often it is copied to the host.
    pub offloads: EntityMap<ValueId, u32>,
    /// How often it takes an input's storage over.
    pub inplace: EntityMap<ValueId, u32>,
}

impl Uses {
    /// Count them in steps that [`check`](plimsoll::check::check) has found legal.
    pub fn count(problem: &Problem, steps: &[Step]) -> Self {
        let none = EntityMap::filled(0, problem.graph.values().len());
        let mut uses = Self { computes: none.clone(), offloads: none.clone(), inplace: none };
        for step in steps {
            match step {
                Step::Compute { op, inplace } => {
                    let outputs = &problem.graph.ops()[*op].outputs;
                    outputs.iter().for_each(|&v| uses.computes[v] += 1);
                    inplace.iter().for_each(|&(_, b)| uses.inplace[outputs[b]] += 1);
                }
                Step::Offload(v) => uses.offloads[*v] += 1,
                Step::Drop(_) | Step::Prefetch(_) => {}
            }
        }
        uses
    }

    /// How often a value is made again.
    pub fn again(&self, v: ValueId) -> u32 {
        self.computes[v].saturating_sub(1)
    }

    /// What is done with a value, in words.
    pub fn fate(&self, problem: &Problem, v: ValueId) -> String {
        let mut fate = match self.computes[v] {
            _ if problem.graph.values()[v].resident => "resident".to_owned(),
            0 => "never made".into(),
            1 => "kept until its last use".into(),
            2 => "recomputed once".into(),
            n => format!("recomputed {} times", n - 1),
        };
        if self.offloads[v] > 0 {
            fate.push_str(", offloaded");
        }
        fate
    }
}

/// The values that own their storage, the largest first.
pub fn by_size(problem: &Problem) -> Vec<ValueId> {
    let graph = &problem.graph;
    let mut values: Vec<ValueId> = graph.storages().values().map(|s| s.root).collect();
    values.sort_by_key(|&v| (std::cmp::Reverse(graph.values()[v].bytes), v));
    values
}
