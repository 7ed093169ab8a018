//! What live bytes are for.
//!
//! A value's role says it where the problem has roles. Problem files may lack them; what then can be
//! told from the graph alone is: which values are resident, which are results, and in which phase of
//! the step a value is made. See [`Categories::about`].

use std::collections::BTreeMap;

use plimsoll::cost::Problem;
use plimsoll::entity::{EntityMap, StorageId, ValueId};
use plimsoll::graph::{Phase, Role};

/// What live bytes are for, in the order in which pictures stack them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Category {
    /// Parameters.
    Parameters,
    /// Buffers and optimizer state.
    State,
    /// Other residents: inputs and constants.
    Inputs,
    /// Gradients of parameters, which the step returns.
    Gradients,
    /// Other results, the loss among them.
    Results,
    /// Made on the way to the loss.
    Activations,
    /// Made by running an op again.
    Recomputed,
    /// Made after the loss, and no result.
    Backward,
    /// Held by an op only while it runs.
    Workspace,
}

impl Category {
    /// All of them, in order.
    pub const ALL: [Category; 9] = [
        Category::Parameters,
        Category::State,
        Category::Inputs,
        Category::Gradients,
        Category::Results,
        Category::Activations,
        Category::Recomputed,
        Category::Backward,
        Category::Workspace,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place in [`ALL`](Self::ALL).
    pub fn index(self) -> usize {
        self as usize
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Category::Parameters => "parameters",
            Category::State => "buffers and optimizer state",
            Category::Inputs => "inputs and constants",
            Category::Gradients => "gradients of parameters",
            Category::Results => "other results",
            Category::Activations => "activations",
            Category::Recomputed => "recomputed",
            Category::Backward => "backward, not returned",
            Category::Workspace => "workspace",
        }
    }
}

/// The category of every storage, and how it was found.
pub struct Categories {
    of: EntityMap<StorageId, Category>,
    /// How the categories were told, for people.
    pub about: String,
    /// Whether residents could be told apart by roles.
    pub from_roles: bool,
}

impl Categories {
    /// Sort the storages of a problem.
    pub fn of(problem: &Problem) -> Self {
        let graph = &problem.graph;
        // A traced step always has some; a file without roles reads as activations only.
        let from_roles = graph.values().values().any(|v| v.role != Role::Activation);
        let parameters = if from_roles { EntityMap::new() } else { with_gradients(problem) };
        let of = graph.storages().values().map(|storage| {
            let values = || storage.values.iter().map(|&v| &graph.values()[v]);
            let has = |role: Role| values().any(|v| v.role == role);
            let after_loss = |v: ValueId| {
                graph.values()[v]
                    .producer
                    .is_some_and(|op| matches!(graph.ops()[op].phase, Phase::Backward | Phase::Update))
            };
            let output = values().any(|v| v.output);
            if storage.resident && has(Role::Parameter) {
                Category::Parameters
            } else if storage.resident && has(Role::Buffer) {
                Category::State
            } else if storage.resident {
                let parameter = parameters.get(storage.root) == Some(&true);
                if parameter { Category::Parameters } else { Category::Inputs }
            } else if has(Role::Input) {
                Category::Inputs
            } else if has(Role::Gradient) || (output && !from_roles && after_loss(storage.root)) {
                Category::Gradients
            } else if output || has(Role::Loss) || has(Role::Output) {
                Category::Results
            } else if after_loss(storage.root) {
                Category::Backward
            } else {
                Category::Activations
            }
        });
        let of = of.collect();
        let about = match from_roles {
            true => {
                "What a value is for is its role in the problem file; values of no special role are told apart by the \
                 phase of the op that makes them."
            }
            false => {
                "The problem file gives no roles, so they are told from the graph: results that the backward pass makes \
                 are taken for gradients, residents of the shape of such a gradient for the parameters, and other \
                 residents for inputs, constants or state."
            }
        };
        Self { of, about: about.to_owned(), from_roles }
    }

    /// What a storage is for, when it is made for the first time.
    pub fn get(&self, storage: StorageId) -> Category {
        self.of[storage]
    }

    /// What people call a category here.
    pub fn name(&self, category: Category) -> &'static str {
        match category {
            Category::Inputs if !self.from_roles => "other residents",
            _ => category.name(),
        }
    }
}

/// Residents that have a gradient: for each result of the backward pass one of its shape, the
/// first in order that is not taken.
fn with_gradients(problem: &Problem) -> EntityMap<ValueId, bool> {
    let graph = &problem.graph;
    let mut wanted: BTreeMap<_, usize> = BTreeMap::new();
    for &v in graph.outputs() {
        let value = &graph.values()[v];
        let backward = value.producer.is_some_and(|op| graph.ops()[op].phase == Phase::Backward);
        if backward {
            *wanted.entry((&value.dims, value.bytes)).or_default() += 1;
        }
    }
    let values = graph.values().values();
    let taken = values.map(|value| match wanted.get_mut(&(&value.dims, value.bytes)) {
        Some(left) if value.resident && value.alias_of.is_none() && *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    });
    taken.collect()
}
