//! Reading and writing `*.problem.json`.
//!
//! Version 1 is the only one. A reader refuses what is newer and says so; fields it does not know
//! are refused too, so that a misspelt one is never silently ignored.

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use crate::cost::{Costs, Device, Problem};
use crate::entity::{Entity, OpId, ValueId};
use crate::error::Result;
use crate::files;
use crate::graph::{Graph, GraphBuilder, NewValue, Op, Phase, Replay, Role};
use crate::units::{Bytes, Nanos};

const FORMAT: &str = "plimsoll.problem";
const VERSION: u64 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileValue {
    #[serde(default)]
    name: String,
    bytes: u64,
    #[serde(default)]
    alias_of: Option<u64>,
    #[serde(default)]
    dims: Vec<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    role: Role,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileOp {
    kind: String,
    #[serde(default)]
    phase: Phase,
    time: u64,
    #[serde(default)]
    workspace: u64,
    inputs: Vec<u64>,
    outputs: Vec<u64>,
    #[serde(default)]
    inplace: Option<Vec<(u64, u64)>>,
    #[serde(default)]
    replay: Option<Replay>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProblem {
    format: String,
    version: u64,
    #[serde(default)]
    name: String,
    #[serde(deserialize_with = "values")]
    values: Vec<FileValue>,
    #[serde(deserialize_with = "ops")]
    ops: Vec<FileOp>,
    resident: Vec<u64>,
    outputs: Vec<u64>,
    #[serde(default)]
    device: Option<Device>,
}

fn values<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<FileValue>, D::Error> {
    files::entries(deserializer, |i| ValueId::from_index(i).to_string())
}

fn ops<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<FileOp>, D::Error> {
    files::entries(deserializer, |i| OpId::from_index(i).to_string())
}

fn is_default<T: Default + PartialEq>(x: &T) -> bool {
    *x == T::default()
}

fn value_id(index: u64) -> ValueId {
    // Out-of-range ids are clamped to an id that is out of range too, and reported by the builder.
    ValueId::from_index(usize::try_from(index).unwrap_or(usize::MAX).min(u32::MAX as usize))
}

impl Problem {
    /// Read a problem from JSON text; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format), [`Error::NewerVersion`](crate::Error::NewerVersion) or
    /// [`Error::InvalidProblem`](crate::Error::InvalidProblem), naming the first
    /// fault.
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        files::check_header(text, file, FORMAT, VERSION)?;
        let raw: FileProblem = files::parse(text, file, FORMAT)?;
        let mut builder = GraphBuilder::new();
        for value in raw.values {
            builder.value(NewValue {
                name: value.name,
                bytes: Bytes(value.bytes),
                dims: value.dims,
                alias_of: value.alias_of.map(value_id),
                role: value.role,
            });
        }
        let mut costs = Costs { time: Default::default(), workspace: Default::default() };
        for op in raw.ops {
            costs.time.push(Nanos(op.time));
            costs.workspace.push(Bytes(op.workspace));
            builder.op(Op {
                kind: op.kind,
                phase: op.phase,
                inputs: op.inputs.into_iter().map(value_id).collect(),
                outputs: op.outputs.into_iter().map(value_id).collect(),
                inplace: op
                    .inplace
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(a, b)| {
                        let clamp = |x: u64| usize::try_from(x).unwrap_or(usize::MAX);
                        (clamp(a), clamp(b))
                    })
                    .collect(),
                replay: op.replay.unwrap_or_default(),
            });
        }
        raw.resident.into_iter().for_each(|v| builder.resident(value_id(v)));
        raw.outputs.into_iter().for_each(|v| builder.output(value_id(v)));
        Problem::new(raw.name, builder.finish()?, costs, raw.device.unwrap_or_default())
    }

    /// The problem as JSON text, the same bytes for the same problem.
    pub fn to_json(&self) -> String {
        let graph = &self.graph;
        let index = |v: &ValueId| v.index() as u64;
        let raw = FileProblem {
            format: FORMAT.to_owned(),
            version: VERSION,
            name: self.name.clone(),
            values: graph
                .values()
                .values()
                .map(|v| FileValue {
                    name: v.name.clone(),
                    bytes: v.bytes.get(),
                    alias_of: v.alias_of.as_ref().map(index),
                    dims: v.dims.clone(),
                    role: v.role,
                })
                .collect(),
            ops: graph
                .ops()
                .iter()
                .map(|(id, op)| FileOp {
                    kind: op.kind.clone(),
                    phase: op.phase,
                    time: self.costs.time[id].get(),
                    workspace: self.costs.workspace[id].get(),
                    inputs: op.inputs.iter().map(index).collect(),
                    outputs: op.outputs.iter().map(index).collect(),
                    inplace: Some(op.inplace.iter().map(|&(a, b)| (a as u64, b as u64)).collect()),
                    replay: Some(op.replay),
                })
                .collect(),
            resident: residents(graph),
            outputs: graph.outputs().iter().map(index).collect(),
            device: Some(self.device.clone()),
        };
        serde_json::to_string(&raw).expect("a problem is plain data")
    }

    /// Read a problem file.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), and those of [`from_json`](Self::from_json).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_json(&files::read(path)?, &path.display().to_string())
    }

    /// Write a problem file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), &self.to_json())
    }
}

fn residents(graph: &Graph) -> Vec<u64> {
    graph.values().iter().filter(|(_, v)| v.resident).map(|(id, _)| id.index() as u64).collect()
}
