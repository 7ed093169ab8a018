//! The only constructor of a [`Graph`]; everything a graph promises is checked here.

use crate::entity::{Entity, EntityMap, OpId, StorageId, ValueId};
use crate::error::{Error, Result, shortened};
use crate::graph::Graph;
use crate::graph::node::{Op, Role, Storage, Value};
use crate::units::Bytes;

/// A value as it is declared, before its storage and producer are known.
#[derive(Clone, Debug, Default)]
pub struct NewValue {
    /// A name for people.
    pub name: String,
    /// Size in bytes.
    pub bytes: Bytes,
    /// Shape, empty when unknown.
    pub dims: Vec<u64>,
    /// The value whose storage this one shares.
    pub alias_of: Option<ValueId>,
    /// What it is for.
    pub role: Role,
}

/// Collects values and ops in any order of calls and checks them in [`finish`](Self::finish).
#[derive(Debug, Default)]
pub struct GraphBuilder {
    values: Vec<NewValue>,
    ops: Vec<Op>,
    resident: Vec<ValueId>,
    outputs: Vec<ValueId>,
}

impl GraphBuilder {
    /// An empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// A builder of what was collected elsewhere.
    pub(crate) fn of(values: Vec<NewValue>, ops: Vec<Op>, resident: Vec<ValueId>, outputs: Vec<ValueId>) -> Self {
        Self { values, ops, resident, outputs }
    }

    /// Declare a value.
    pub fn value(&mut self, value: NewValue) -> ValueId {
        self.values.push(value);
        ValueId::from_index(self.values.len() - 1)
    }

    /// Append an op; ops must be appended in a valid order.
    pub fn op(&mut self, op: Op) -> OpId {
        self.ops.push(op);
        OpId::from_index(self.ops.len() - 1)
    }

    /// Declare a value live from before the first step to after the last.
    pub fn resident(&mut self, value: ValueId) {
        self.resident.push(value);
    }

    /// Declare a value that must be live at the end.
    pub fn output(&mut self, value: ValueId) {
        self.outputs.push(value);
    }

    /// Check everything and build the graph.
    ///
    /// # Errors
    /// [`Error::InvalidProblem`] naming the first fault: an id out of range, a value written
    /// twice, read before it is written, or never written; aliases that form a cycle or join no
    /// storage of the op that makes them; in-place pairs out of range; sizes whose sum overflows.
    pub fn finish(self) -> Result<Graph> {
        let count = self.values.len();
        if count > u32::MAX as usize || self.ops.len() > u32::MAX as usize {
            return Err(fault("problem".into(), "it has more than 2^32 ops or values"));
        }
        // The sum of everything must fit, counting each op's workspace elsewhere: then no later
        // sum of live bytes can overflow.
        let mut total = 0u64;
        for (i, value) in self.values.iter().enumerate() {
            total = total.checked_add(value.bytes.get()).ok_or_else(|| {
                fault(self.at(ValueId::from_index(i)), "the sizes up to this value add up to more than 2^64 bytes")
            })?;
        }

        let roots = self.resolve_roots()?;
        let mut storages: EntityMap<StorageId, Storage> = EntityMap::new();
        let mut storage_of = vec![None; count];
        for v in (0..count).map(ValueId::from_index) {
            if roots[v.index()] == v {
                storage_of[v.index()] = Some(storages.push(Storage {
                    root: v,
                    bytes: self.values[v.index()].bytes,
                    values: vec![v],
                    resident: false,
                }));
            }
        }
        for v in (0..count).map(ValueId::from_index) {
            let root = roots[v.index()];
            if root != v {
                let s = storage_of[root.index()].expect("a root has a storage");
                storages[s].values.push(v);
                storage_of[v.index()] = Some(s);
            }
        }

        let Self { values, ops, resident, outputs } = self;
        let mut values: EntityMap<ValueId, Value> = values
            .into_iter()
            .zip(&storage_of)
            .map(|(new, storage)| Value {
                name: new.name,
                bytes: new.bytes,
                dims: new.dims,
                storage: storage.expect("every value has a storage"),
                alias_of: new.alias_of,
                role: new.role,
                producer: None,
                resident: false,
                output: false,
            })
            .collect();

        for &v in &resident {
            in_range(count, v, || "resident".into())?;
            if std::mem::replace(&mut values[v].resident, true) {
                return Err(fault(at(&values, v), "it is listed twice as resident"));
            }
            storages[values[v].storage].resident = true;
        }
        for &v in &outputs {
            in_range(count, v, || "outputs".into())?;
            if std::mem::replace(&mut values[v].output, true) {
                return Err(fault(at(&values, v), "it is listed twice as output"));
            }
        }
        check_ops(&ops, &mut values)?;
        for &v in &outputs {
            if values[v].producer.is_none() && !values[v].resident {
                return Err(fault(at(&values, v), "it is an output, but no op writes it and it is not resident"));
            }
        }
        for (v, value) in values.iter() {
            if let Some(base) = value.alias_of
                && value.resident
                && !values[base].resident
            {
                return Err(fault(
                    at(&values, v),
                    &format!("it is resident, but {}, whose storage it shares, is not", at(&values, base)),
                ));
            }
        }
        Ok(Graph::assemble(ops.into_iter().collect(), values, storages, outputs))
    }

    fn at(&self, v: ValueId) -> String {
        named(v, self.values.get(v.index()).map(|value| value.name.as_str()))
    }

    /// Follow each value's aliases to the value that owns the storage.
    fn resolve_roots(&self) -> Result<Vec<ValueId>> {
        let mut roots: Vec<Option<ValueId>> = vec![None; self.values.len()];
        let mut path = Vec::new();
        for start in (0..self.values.len()).map(ValueId::from_index) {
            let mut v = start;
            path.clear();
            let root = loop {
                if let Some(root) = roots[v.index()] {
                    break root;
                }
                if path.len() > self.values.len() {
                    // So many links can only have ended on the cycle itself.
                    return Err(fault(self.at(v), "its aliases form a cycle"));
                }
                path.push(v);
                match self.values[v.index()].alias_of {
                    None => break v,
                    Some(base) => {
                        in_range(self.values.len(), base, || self.at(v))?;
                        v = base;
                    }
                }
            };
            for v in &path {
                roots[v.index()] = Some(root);
            }
        }
        Ok(roots.into_iter().map(|r| r.expect("every value was visited")).collect())
    }
}

/// `v7 (t81)`, as messages name a value that has a name.
fn named(v: ValueId, name: Option<&str>) -> String {
    match name {
        Some(name) if !name.is_empty() => format!("{v} ({})", shortened(name)),
        _ => v.to_string(),
    }
}

fn at(values: &EntityMap<ValueId, Value>, v: ValueId) -> String {
    named(v, values.get(v).map(|value| value.name.as_str()))
}

fn in_range(count: usize, v: ValueId, at: impl Fn() -> String) -> Result<()> {
    match v.index() < count {
        true => Ok(()),
        false => Err(fault(at(), &format!("it refers to value {}, but there are only {count} values", v.index()))),
    }
}

/// Order, single assignment, aliases and in-place pairs of every op; fills in producers.
fn check_ops(ops: &[Op], values: &mut EntityMap<ValueId, Value>) -> Result<()> {
    for (i, op) in ops.iter().enumerate() {
        let id = OpId::from_index(i);
        let here = || format!("{id} ({})", shortened(&op.kind));
        for &v in &op.inputs {
            in_range(values.len(), v, here)?;
            if !values[v].resident && values[v].producer.is_none() {
                let later = ops[i..].iter().position(|o| o.outputs.contains(&v));
                let why = match later {
                    Some(0) => "which it writes itself".to_owned(),
                    Some(n) => {
                        format!("which only {} writes: the ops are not in a valid order", OpId::from_index(i + n))
                    }
                    None => "which no op writes and which is not resident".to_owned(),
                };
                return Err(fault(here(), &format!("it reads {}, {why}", at(values, v))));
            }
        }
        if op.outputs.is_empty() {
            return Err(fault(here(), "it writes no value"));
        }
        for &v in &op.outputs {
            in_range(values.len(), v, here)?;
            if values[v].resident {
                return Err(fault(here(), &format!("it writes {}, which is resident", at(values, v))));
            }
            if let Some(first) = values[v].producer {
                return Err(fault(here(), &format!("it writes {}, which {first} already wrote", at(values, v))));
            }
            values[v].producer = Some(id);
        }
        let views = op.outputs.iter().any(|&v| values[v].alias_of.is_some());
        // Sorted, so that an op with very many views is not checked in quadratic time.
        let mut around: Vec<StorageId> = Vec::new();
        if views {
            let roots = op.outputs.iter().filter(|&&u| values[u].alias_of.is_none());
            around.extend(op.inputs.iter().chain(roots).map(|&u| values[u].storage));
            around.sort_unstable();
        }
        for &v in &op.outputs {
            if values[v].alias_of.is_some() && around.binary_search(&values[v].storage).is_err() {
                return Err(fault(
                    here(),
                    &format!("its output {} shares the storage of no input or output of the op", at(values, v)),
                ));
            }
        }
        for &(a, b) in &op.inplace {
            if a >= op.inputs.len() || b >= op.outputs.len() {
                return Err(fault(
                    here(),
                    &format!(
                        "its in-place pair [{a},{b}] is out of range: it has {} inputs and {} outputs",
                        op.inputs.len(),
                        op.outputs.len()
                    ),
                ));
            }
            if values[op.outputs[b]].alias_of.is_some() {
                return Err(fault(
                    here(),
                    &format!(
                        "its in-place pair [{a},{b}] names the view {}, which has no storage of its own",
                        at(values, op.outputs[b])
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn fault(at: String, why: &str) -> Error {
    Error::InvalidProblem { at, why: why.to_owned() }
}
