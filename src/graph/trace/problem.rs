//! From a program and what its ops cost to a problem.

use super::Program;
use crate::cost::{Costs, Device, OpCost, Problem};
use crate::entity::{EntityMap, OpId, ValueId};
use crate::error::Result;
use crate::graph::{GraphBuilder, NewValue, Op, Role};
use crate::units::Bytes;

impl Program {
    /// The problem this program is, given what each op costs and how its outputs share storage.
    ///
    /// `extra` bytes are live all the time beside it: optimizer state and other things the step
    /// does not touch but the device must hold. Every tensor with a buffer of its own takes
    /// `tensor_bytes` beside its elements.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`](crate::Error::InvalidProblem) when costs contradict the program.
    pub fn problem(
        &self,
        name: &str,
        costs: &EntityMap<OpId, OpCost>,
        extra: Bytes,
        tensor_bytes: Bytes,
        device: Device,
    ) -> Result<Problem> {
        let mut builder = GraphBuilder::new();
        let mut alias_of: EntityMap<ValueId, Option<ValueId>> = EntityMap::filled(None, self.values.len());
        let mut bytes: EntityMap<ValueId, Bytes> = self
            .values
            .values()
            .map(|value| Bytes(value.shape.num_elements() as u64 * value.dtype.size() as u64))
            .collect();
        for op in self.ops.keys() {
            let (inputs, outputs) = self.reads_and_writes(op);
            for (&v, view) in outputs.iter().zip(&costs[op].views) {
                // The base named is the value that owns the storage, so that a view stays a view
                // of something when intermediate views are dropped.
                alias_of[v] = view.map(|k| alias_of[inputs[k]].unwrap_or(inputs[k]));
            }
            for (&v, &size) in outputs.iter().zip(&costs[op].sizes) {
                // A backend may round a buffer up, or return a part of a larger one.
                if alias_of[v].is_none() {
                    bytes[v] = bytes[v].max(size);
                }
            }
        }
        for (v, value) in self.values.iter() {
            let own = if alias_of[v].is_none() { tensor_bytes } else { Bytes::ZERO };
            builder.value(NewValue {
                name: format!("t{}", crate::entity::Entity::index(v)),
                bytes: bytes[v] + own,
                dims: value.shape.iter().map(|&d| d as u64).collect(),
                alias_of: alias_of[v],
                role: value.role,
            });
            if self.is_resident(v) {
                builder.resident(v);
            }
            if value.output {
                builder.output(v);
            }
        }
        let begun = self
            .ops
            .keys()
            .any(|op| self.is_take_over(op))
            .then(|| builder.value(NewValue { name: "inputs are there".into(), ..NewValue::default() }));
        if extra > Bytes::ZERO {
            let v = builder.value(NewValue {
                name: "optimizer state".into(),
                bytes: extra,
                role: Role::Buffer,
                ..NewValue::default()
            });
            builder.resident(v);
        }
        // The inputs a step owns are there from its start. So that no plan counts on less, whatever
        // takes memory comes after the op that stands for them: by what it reads or by a value of no
        // size.
        let mut after: EntityMap<ValueId, bool> = EntityMap::filled(false, self.values.len());
        for op in self.ops.keys() {
            let (mut inputs, mut outputs) = self.reads_and_writes(op);
            if let Some(begun) = begun {
                let takes = outputs.iter().any(|&v| alias_of[v].is_none());
                let waits = takes && !inputs.iter().any(|&v| after[v]);
                let is_after = takes || inputs.iter().any(|&v| after[v]);
                outputs.iter().for_each(|&v| after[v] = is_after);
                match self.is_take_over(op) {
                    true => outputs.push(begun),
                    false => inputs.extend(waits.then_some(begun)),
                }
            }
            builder.op(Op {
                kind: self.kinds[op].clone(),
                phase: self.phases[op],
                inputs,
                outputs,
                inplace: costs[op].inplace.clone(),
                replay: self.replay(op),
            });
        }
        let table = Costs {
            time: costs.values().map(|c| c.time).collect(),
            workspace: costs.values().map(|c| c.workspace).collect(),
        };
        let loads = self.ops.keys().filter(|&op| self.loaded(op).is_some());
        Problem::new(name, builder.finish()?, table, device)?.with_loads(loads)
    }
}
