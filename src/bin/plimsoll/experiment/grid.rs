//! The cells of a grid, and the names under which their results are kept.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::hash::Hash;

/// What is done in each cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Plan: how good are the solvers?
    Plan,
    /// Plan, train by it and measure: is the prediction right?
    Measure,
}

/// What is planned for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Case {
    /// A model of the zoo, with op times from a roofline or measured here.
    Model {
        /// Its name.
        name: String,
        /// Its settings, `name=value`.
        settings: Vec<String>,
        /// `FLOPS,BYTES_PER_S`.
        roofline: Option<String>,
    },
    /// A problem file.
    Problem {
        /// The file as the declaration names it, from where that is.
        file: String,
        /// What is in it: a changed file is another problem.
        content: String,
    },
}

/// One cell of the grid: everything that its result depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// What is done.
    pub kind: Kind,
    /// For what.
    pub case: Case,
    /// The solver.
    pub solver: String,
    /// The budget.
    pub budget: String,
    /// The solver's seed; of measured steps that of the initial values and the data.
    pub seed: u64,
    /// Seconds the solver may take.
    pub time_limit: f64,
    /// Search steps that it may take.
    pub node_limit: Option<u64>,
    /// Where and how long a step is measured.
    pub measure: Option<Measure>,
}

/// How steps are measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// The device.
    pub device: String,
    /// Steps measured.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
}

impl Cell {
    /// The name under which its result is kept: the same for the same content, in whatever file and
    /// place it is declared.
    pub fn key(&self) -> String {
        Hash::of(serde_json::to_string(self).expect("a cell is plain data").as_bytes()).to_string()
    }

    /// What is planned for, in short.
    pub fn case_name(&self) -> String {
        match &self.case {
            Case::Problem { file, .. } => {
                let name = Path::new(file).file_name().map_or(file.as_str().into(), |name| name.to_string_lossy());
                name.trim_end_matches(".zst").trim_end_matches(".problem.json").to_owned()
            }
            Case::Model { name, settings, .. } if settings.is_empty() => name.clone(),
            Case::Model { name, settings, .. } => format!("{name} {}", settings.join(" ")),
        }
    }

    /// The roofline, if one is taken.
    pub fn roofline(&self) -> Option<&str> {
        match &self.case {
            Case::Model { roofline, .. } => roofline.as_deref(),
            Case::Problem { .. } => None,
        }
    }
}
