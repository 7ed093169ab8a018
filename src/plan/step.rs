//! The steps a plan is made of.

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::entity::{Entity, OpId, ValueId};

/// One instruction to the executor.
///
/// ```text
/// compute lane  |--op3--|--op4--|..wait..|--op9--|
/// D2H lane              |--offload v3--|
/// H2D lane                      |--prefetch v3--|
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Run an op (again, if it ran before). Its inputs must be live and none of its outputs.
    Compute {
        /// The op.
        op: OpId,
        /// `(index into inputs, index into outputs)`: that output takes over that input's
        /// storage, and the input's value ends with the step.
        inplace: Vec<(usize, usize)>,
    },
    /// End a value's life on the device; its storage is freed when its last live value goes.
    Drop(ValueId),
    /// Begin copying a value to the host. Its device bytes are freed by the first drop after it.
    Offload(ValueId),
    /// Allocate a value on the device and begin copying it back; computes that read it wait.
    Prefetch(ValueId),
}

impl Step {
    /// Run `op` into fresh storage.
    pub fn compute(op: OpId) -> Self {
        Step::Compute { op, inplace: Vec::new() }
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Step::Compute { op, inplace } => {
                map.serialize_entry("compute", op)?;
                if !inplace.is_empty() {
                    map.serialize_entry("inplace", inplace)?;
                }
            }
            Step::Drop(v) => map.serialize_entry("drop", v)?,
            Step::Offload(v) => map.serialize_entry("offload", v)?,
            Step::Prefetch(v) => map.serialize_entry("prefetch", v)?,
        }
        map.end()
    }
}

// Written by hand: serde's `untagged` would accept steps with two verbs and report faults as "did
// not match any variant".
impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StepVisitor;
        impl<'de> Visitor<'de> for StepVisitor {
            type Value = Step;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "a step: {\"compute\": OP}, {\"drop\": VALUE}, {\"offload\": VALUE} or {\"prefetch\": VALUE}",
                )
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Step, A::Error> {
                let mut verb: Option<(String, u32)> = None;
                let mut inplace: Option<Vec<(usize, usize)>> = None;
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "inplace" if inplace.is_none() => inplace = Some(map.next_value()?),
                        "compute" | "drop" | "offload" | "prefetch" if verb.is_none() => {
                            verb = Some((key, map.next_value()?));
                        }
                        "compute" | "drop" | "offload" | "prefetch" | "inplace" => {
                            return Err(de::Error::custom(format!("a step has one verb; `{key}` is one too many")));
                        }
                        _ => {
                            return Err(de::Error::unknown_field(
                                &key,
                                &["compute", "inplace", "drop", "offload", "prefetch"],
                            ));
                        }
                    }
                }
                let Some((verb, index)) = verb else {
                    return Err(de::Error::custom("a step without compute, drop, offload or prefetch"));
                };
                let index = index as usize;
                if verb != "compute" && inplace.is_some() {
                    return Err(de::Error::custom("only a compute step can be in place"));
                }
                Ok(match verb.as_str() {
                    "compute" => Step::Compute { op: OpId::from_index(index), inplace: inplace.unwrap_or_default() },
                    "drop" => Step::Drop(ValueId::from_index(index)),
                    "offload" => Step::Offload(ValueId::from_index(index)),
                    _ => Step::Prefetch(ValueId::from_index(index)),
                })
            }
        }
        deserializer.deserialize_map(StepVisitor)
    }
}
