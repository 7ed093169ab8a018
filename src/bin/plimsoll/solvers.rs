//! `plimsoll solvers`.

use plimsoll::solver;

use crate::output::{self, Failure};

/// One line per solver: its name, and what it does.
pub fn run() -> Result<(), Failure> {
    let solvers = solver::solvers();
    Ok(output::print(&output::rows(solvers.iter().map(|s| (s.name(), s.about().to_owned()))))?)
}
