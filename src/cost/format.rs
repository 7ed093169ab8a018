//! Reading and writing `*.problem.json` and `*.problem.json.zst`.
//!
//! Version 2 added ops that bring a tensor from host memory (`loads`). A reader refuses what is newer and says so; fields
//! it does not know are refused too, so that a misspelt one is never silently ignored.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cost::{Costs, Device, Problem};
use crate::entity::{Entity, OpId, ValueId};
use crate::error::Result;
use crate::files::{self, Format};
use crate::graph::{Graph, GraphBuilder, NewValue, Op, Phase, Replay, Role};
use crate::units::{Bytes, Nanos};

const FORMAT: Format = Format { name: "plimsoll.problem", version: 2 };

/// An id as a file gives it. Out-of-range ids are clamped to an id that is out of range too, and
/// reported by the builder.
struct Id(ValueId);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = u64::deserialize(deserializer)?;
        Ok(Self(ValueId::from_index(usize::try_from(index).unwrap_or(usize::MAX).min(u32::MAX as usize))))
    }
}

fn ids(ids: Vec<Id>) -> Vec<ValueId> {
    ids.into_iter().map(|Id(v)| v).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileValue {
    #[serde(default)]
    name: String,
    bytes: u64,
    #[serde(default)]
    alias_of: Option<Id>,
    #[serde(default)]
    dims: Vec<u64>,
    #[serde(default)]
    role: Role,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileOp {
    kind: String,
    #[serde(default)]
    phase: Phase,
    time: u64,
    #[serde(default)]
    workspace: u64,
    inputs: Vec<Id>,
    outputs: Vec<Id>,
    #[serde(default)]
    inplace: Option<Vec<(u64, u64)>>,
    #[serde(default)]
    replay: Option<Replay>,
    #[serde(default)]
    loads: bool,
}

/// An op, and what stands in the file beside it.
struct Costed {
    op: Op,
    time: Nanos,
    workspace: Bytes,
    loads: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProblem {
    #[serde(rename = "format")]
    _format: String,
    #[serde(rename = "version")]
    _version: u64,
    #[serde(default)]
    name: String,
    #[serde(deserialize_with = "values")]
    values: Vec<NewValue>,
    #[serde(deserialize_with = "ops")]
    ops: Vec<Costed>,
    resident: Vec<Id>,
    outputs: Vec<Id>,
    #[serde(default)]
    device: Option<Device>,
}

fn values<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NewValue>, D::Error> {
    let make = |value: FileValue| NewValue {
        name: value.name,
        bytes: Bytes(value.bytes),
        dims: value.dims,
        alias_of: value.alias_of.map(|Id(v)| v),
        role: value.role,
    };
    files::entries(deserializer, |i| ValueId::from_index(i).to_string(), make)
}

fn ops<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Costed>, D::Error> {
    fn clamp((a, b): (u64, u64)) -> (usize, usize) {
        (usize::try_from(a).unwrap_or(usize::MAX), usize::try_from(b).unwrap_or(usize::MAX))
    }
    let make = |op: FileOp| {
        let pairs = op.inplace.unwrap_or_default().into_iter();
        let made = Op {
            kind: op.kind,
            phase: op.phase,
            inputs: ids(op.inputs),
            outputs: ids(op.outputs),
            inplace: pairs.map(clamp).collect(),
            replay: op.replay.unwrap_or_default(),
        };
        Costed { op: made, time: Nanos(op.time), workspace: Bytes(op.workspace), loads: op.loads }
    };
    files::entries(deserializer, |i| OpId::from_index(i).to_string(), make)
}

impl TryFrom<FileProblem> for Problem {
    type Error = crate::error::Error;

    fn try_from(file: FileProblem) -> Result<Self> {
        let mut costs = Costs { time: Default::default(), workspace: Default::default() };
        let mut loads = Vec::new();
        let costed = |Costed { op, time, workspace, loads: load }| {
            let id = costs.time.push(time);
            costs.workspace.push(workspace);
            loads.extend(load.then_some(id));
            op
        };
        let ops = file.ops.into_iter().map(costed).collect();
        let builder = GraphBuilder::of(file.values, ops, ids(file.resident), ids(file.outputs));
        Problem::new(file.name, builder.finish()?, costs, file.device.unwrap_or_default())?.with_loads(loads)
    }
}

#[derive(Serialize)]
struct ValueOut<'a> {
    name: &'a str,
    bytes: Bytes,
    alias_of: Option<ValueId>,
    dims: &'a [u64],
    #[serde(skip_serializing_if = "is_default")]
    role: Role,
}

#[derive(Serialize)]
struct OpOut<'a> {
    kind: &'a str,
    phase: Phase,
    time: Nanos,
    workspace: Bytes,
    inputs: &'a [ValueId],
    outputs: &'a [ValueId],
    inplace: &'a [(usize, usize)],
    replay: Replay,
    #[serde(skip_serializing_if = "is_default")]
    loads: bool,
}

#[derive(Serialize)]
struct ProblemOut<'a> {
    format: &'a str,
    version: u64,
    name: &'a str,
    #[serde(serialize_with = "values_out")]
    values: &'a Graph,
    #[serde(serialize_with = "ops_out")]
    ops: &'a Problem,
    #[serde(serialize_with = "resident_out")]
    resident: &'a Graph,
    outputs: &'a [ValueId],
    device: &'a Device,
}

fn is_default<T: Default + PartialEq>(x: &T) -> bool {
    *x == T::default()
}

fn values_out<S: Serializer>(graph: &Graph, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(graph.values().values().map(|v| ValueOut {
        name: &v.name,
        bytes: v.bytes,
        alias_of: v.alias_of,
        dims: &v.dims,
        role: v.role,
    }))
}

fn ops_out<S: Serializer>(problem: &Problem, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(problem.graph.ops().iter().map(|(id, op)| OpOut {
        kind: &op.kind,
        phase: op.phase,
        time: problem.costs.time[id],
        workspace: problem.costs.workspace[id],
        inputs: &op.inputs,
        outputs: &op.outputs,
        inplace: &op.inplace,
        replay: op.replay,
        loads: problem.loads(id),
    }))
}

fn resident_out<S: Serializer>(graph: &Graph, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(graph.values().iter().filter(|(_, v)| v.resident).map(|(id, _)| id))
}

impl Problem {
    /// Read a problem from JSON text; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format), [`Error::NewerVersion`](crate::Error::NewerVersion) or
    /// [`Error::InvalidProblem`](crate::Error::InvalidProblem), naming the first
    /// fault.
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        FORMAT.text::<FileProblem>(text, file)?.try_into()
    }

    /// Read a problem, compressed or not, from anything; `name` stands for it in errors.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn from_reader(source: impl Read, name: impl AsRef<Path>) -> Result<Self> {
        FORMAT.read::<FileProblem>(source, name.as_ref())?.try_into()
    }

    /// The problem as JSON text, the same bytes for the same problem.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.out()).expect("a problem is plain data")
    }

    fn out(&self) -> ProblemOut<'_> {
        ProblemOut {
            format: FORMAT.name,
            version: FORMAT.version,
            name: &self.name,
            values: &self.graph,
            ops: self,
            resident: &self.graph,
            outputs: self.graph.outputs(),
            device: &self.device,
        }
    }

    /// Read a problem file, compressed with Zstandard or not.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::TooLarge`](crate::Error::TooLarge), and those of
    /// [`from_json`](Self::from_json).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        FORMAT.load::<FileProblem>(path.as_ref())?.try_into()
    }

    /// Write a problem file, whole or not at all; compressed where its name ends in `.zst`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::TooLarge`](crate::Error::TooLarge).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), &self.out())
    }
}
