//! `plimsoll solvers`.

use plimsoll::solver;
use serde::Serialize;

use crate::output::{self, Failure};

/// List the solvers.
#[derive(clap::Args)]
#[command(after_help = "Example: plimsoll solvers")]
pub struct Args {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    about: &'static str,
}

/// One line per solver: its name, and what it does.
pub fn run(args: &Args) -> Result<(), Failure> {
    let solvers = solver::solvers();
    if args.json {
        let rows: Vec<Row> = solvers.iter().map(|s| Row { name: s.name(), about: s.about() }).collect();
        return Ok(output::print(&output::json(&serde_json::json!({ "solvers": rows })))?);
    }
    Ok(output::print(&output::rows(solvers.iter().map(|s| (s.name(), s.about().to_owned()))))?)
}
