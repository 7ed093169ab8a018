//! The compute graph of one training step.
//!
//! A [`Graph`] is immutable and always valid: [`GraphBuilder`] is its only constructor. Its ops
//! stand in the order the trace recorded them, which is a valid order.

mod builder;
mod fingerprint;
mod liveness;
mod node;
mod order;
#[cfg(feature = "flex")]
pub mod trace;

pub use builder::{GraphBuilder, NewValue};
pub use fingerprint::Fingerprint;
pub(crate) use fingerprint::Fnv;
pub use node::{Op, Phase, Replay, Role, Storage, Value};

use crate::entity::{EntityMap, OpId, StorageId, ValueId};
use crate::units::Bytes;

/// One training step: ops and values in the order the trace recorded them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    ops: EntityMap<OpId, Op>,
    values: EntityMap<ValueId, Value>,
    storages: EntityMap<StorageId, Storage>,
    outputs: Vec<ValueId>,
    uses: EntityMap<ValueId, Vec<OpId>>,
    resident_bytes: Bytes,
}

impl Graph {
    /// Called by the builder alone, with parts it has checked.
    fn assemble(
        ops: EntityMap<OpId, Op>,
        values: EntityMap<ValueId, Value>,
        storages: EntityMap<StorageId, Storage>,
        outputs: Vec<ValueId>,
    ) -> Self {
        let mut uses = EntityMap::filled(Vec::new(), values.len());
        for (id, op) in ops.iter() {
            for &v in &op.inputs {
                let users: &mut Vec<OpId> = &mut uses[v];
                if users.last() != Some(&id) {
                    users.push(id);
                }
            }
        }
        let resident_bytes = storages.values().filter(|s| s.resident).map(|s| s.bytes).sum();
        Self { ops, values, storages, outputs, uses, resident_bytes }
    }

    /// The ops, in a valid order.
    pub fn ops(&self) -> &EntityMap<OpId, Op> {
        &self.ops
    }

    /// The values.
    pub fn values(&self) -> &EntityMap<ValueId, Value> {
        &self.values
    }

    /// The buffers.
    pub fn storages(&self) -> &EntityMap<StorageId, Storage> {
        &self.storages
    }

    /// The values that must be live at the end.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The ops that read `value`, each once, in order.
    pub fn uses(&self, value: ValueId) -> &[OpId] {
        &self.uses[value]
    }

    /// The outputs of `op` with their indices, those that own their storage before views, which
    /// join it.
    pub(crate) fn outputs_roots_first(&self, op: OpId) -> impl Iterator<Item = (usize, ValueId)> {
        let outputs = || self.ops[op].outputs.iter().copied().enumerate();
        let is_view = |v: ValueId| self.values[v].alias_of.is_some();
        outputs().filter(move |&(_, v)| !is_view(v)).chain(outputs().filter(move |&(_, v)| is_view(v)))
    }

    /// Bytes of every storage that holds a resident value.
    pub fn resident_bytes(&self) -> Bytes {
        self.resident_bytes
    }

    /// `op12 (Float.Matmul)`, for messages.
    pub fn describe_op(&self, op: OpId) -> String {
        format!("{op} ({})", self.ops[op].kind)
    }

    /// `v7 (t81)`, for messages.
    pub fn describe_value(&self, value: ValueId) -> String {
        let name = &self.values[value].name;
        match name.is_empty() {
            true => value.to_string(),
            false => format!("{value} ({name})"),
        }
    }
}
