//! A plan and its file, `*.plan.json` or `*.plan.json.zst`.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::files::{self, Format};
use crate::graph::Graph;
use crate::plan::Step;
use crate::units::{Bytes, Nanos};

const FORMAT: Format = Format { name: "plimsoll.plan", version: 1 };

/// How much is known about a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Proved: no legal plan within the budget is faster.
    Optimal,
    /// Legal and within the budget; a faster one may exist.
    Feasible,
    /// Proved: no legal plan fits the budget.
    Infeasible,
    /// Nothing was found and nothing was proved.
    Unknown,
}

/// What a plan is predicted to cost, beside what keeping everything would.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predicted {
    /// The largest number of live bytes at any instant.
    pub peak: Bytes,
    /// When the compute lane ends, in nanoseconds.
    pub time: Nanos,
    /// Peak of the baseline: everything kept, dropped after its last use, in place where legal.
    pub baseline_peak: Bytes,
    /// Time of the baseline.
    pub baseline_time: Nanos,
    /// `(time - baseline_time) / baseline_time`. Negative where a baseline waits for copies that go on beside computing here.
    pub overhead: f64,
    /// No plan of the class the bound covers has a smaller overhead.
    pub lower_bound: f64,
    /// What is proved about it.
    pub status: Status,
}

impl Predicted {
    /// How much better another plan could be at most, as a fraction of the baseline's time: the
    /// overhead less its lower bound.
    pub fn gap(&self) -> f64 {
        (self.overhead - self.lower_bound).max(0.0)
    }
}

/// Ordered steps for one problem under one budget, and what they are predicted to cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    format: String,
    version: u64,
    /// Fingerprint of the graph the plan is for.
    pub problem: String,
    /// The budget it was made for, in bytes.
    pub budget: Bytes,
    /// The solver that made it.
    pub solver: String,
    /// What to do, in order.
    #[serde(deserialize_with = "steps")]
    pub steps: Vec<Step>,
    /// What that is predicted to cost.
    pub predicted: Predicted,
}

fn steps<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Step>, D::Error> {
    files::entries(deserializer, |i| format!("step {i}"), |step| step)
}

impl Plan {
    /// Put a plan together. It is not checked here; see [`check`](crate::check::check).
    pub fn new(graph: &Graph, budget: Bytes, solver: &str, steps: Vec<Step>, predicted: Predicted) -> Self {
        Self {
            format: FORMAT.name.to_owned(),
            version: FORMAT.version,
            problem: graph.fingerprint().to_string(),
            budget,
            solver: solver.to_owned(),
            steps,
            predicted,
        }
    }

    /// Whether the plan was made for this graph.
    ///
    /// # Errors
    /// [`Error::PlanForAnotherGraph`].
    pub fn belongs_to(&self, graph: &Graph) -> Result<()> {
        let fingerprint = graph.fingerprint().to_string();
        if self.problem == fingerprint {
            return Ok(());
        }
        Err(Error::PlanForAnotherGraph { plan: self.problem.chars().take(64).collect(), graph: fingerprint })
    }

    /// Read a plan from JSON text; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Format`] or [`Error::NewerVersion`].
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        FORMAT.text(text, file)
    }

    /// Read a plan, compressed or not, from anything; `name` stands for it in errors.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn from_reader(source: impl Read, name: impl AsRef<Path>) -> Result<Self> {
        FORMAT.read(source, name.as_ref())
    }

    /// The plan as JSON text, the same bytes for the same plan.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a plan is plain data")
    }

    /// Read a plan file, compressed with Zstandard or not.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::TooLarge`], and those of [`from_json`](Self::from_json).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        FORMAT.load(path.as_ref())
    }

    /// Write a plan file, whole or not at all; compressed where its name ends in `.zst`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::TooLarge`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        files::write(path.as_ref(), self)
    }
}
