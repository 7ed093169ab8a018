//! What an op and a value know.

use serde::{Deserialize, Serialize};

use crate::entity::{OpId, StorageId, ValueId};
use crate::units::Bytes;

/// The part of a training step an op belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Computes the loss.
    #[default]
    Forward,
    /// The op that writes the loss.
    Loss,
    /// Computes gradients.
    Backward,
    /// Updates parameters or buffers.
    Update,
}

/// How an op may be run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Replay {
    /// Same inputs, same bits.
    #[default]
    Pure,
    /// A random op: same seed, same bits.
    Seeded,
    /// A side effect: must run exactly once.
    Once,
}

/// What a value is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A parameter of the model.
    Parameter,
    /// An input of the step.
    Input,
    /// A tensor made inside the model from host data.
    Constant,
    /// Module state that is not trained (running statistics), and optimizer state.
    Buffer,
    /// Made by the step and used in it.
    #[default]
    Activation,
    /// The gradient of a parameter.
    Gradient,
    /// The loss.
    Loss,
    /// Any other result the caller receives.
    Output,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The recorded operation's name, `Float.Matmul`.
    pub kind: String,
    /// Where in the step it stands.
    pub phase: Phase,
    /// Values read; one value may stand here more than once.
    pub inputs: Vec<ValueId>,
    /// Values written.
    pub outputs: Vec<ValueId>,
    /// `(index into inputs, index into outputs)`: the output may take over the input's storage.
    pub inplace: Vec<(usize, usize)>,
    /// How it may be run again.
    pub replay: Replay,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// A name for people; need not be unique.
    pub name: String,
    /// Size of its elements. A broadcast view may be larger than its storage.
    pub bytes: Bytes,
    /// Shape, empty when unknown.
    pub dims: Vec<u64>,
    /// The buffer it lives in.
    pub storage: StorageId,
    /// The value whose buffer it shares, when it is a view.
    pub alias_of: Option<ValueId>,
    /// What it is for.
    pub role: Role,
    /// The op that writes it; `None` for resident values.
    pub producer: Option<OpId>,
    /// Live from before the first step to after the last.
    pub resident: bool,
    /// Must be live at the end.
    pub output: bool,
}

/// One buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The value that is not a view.
    pub root: ValueId,
    /// Its size.
    pub bytes: Bytes,
    /// Every value in it, the root first, then views in the order of their ids.
    pub values: Vec<ValueId>,
    /// Whether it holds a resident value, and so can never be freed.
    pub resident: bool,
}
