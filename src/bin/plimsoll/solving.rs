//! What every command that solves takes.

use std::time::Duration;

use plimsoll::solver::Options;
use plimsoll::{Error, Result};

/// The solver and its limits.
#[derive(clap::Args)]
pub struct Solving {
    /// Solver to use; `plimsoll solvers` lists them
    #[arg(long, short, default_value = "auto")]
    pub solver: String,
    /// Seconds the solver may take
    #[arg(long, default_value = "10", value_name = "SECONDS", allow_hyphen_values = true)]
    time_limit: f64,
    /// Search steps the solver may take: with a time limit that is never reached, plans are the same on every machine
    #[arg(long, value_name = "STEPS", allow_hyphen_values = true, value_parser = clap::value_parser!(u64).range(1..))]
    node_limit: Option<u64>,
    /// Seed of every random choice of the solver
    #[arg(long, default_value = "0", allow_hyphen_values = true)]
    seed: u64,
    /// Never take over an input's storage in place
    #[arg(long)]
    no_inplace: bool,
}

impl Solving {
    /// The options, once the solver is known to exist: a wrong name is an error, not a wait.
    pub fn options(&self) -> Result<Options> {
        let time_limit = limit(self.time_limit)?;
        plimsoll::solver::by_name(&self.solver)?;
        let (node_limit, seed) = (self.node_limit, self.seed);
        Ok(Options { time_limit, node_limit, seed, inplace: !self.no_inplace, ..Options::default() })
    }
}

/// What `--time-limit` says.
pub fn limit(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| Error::InvalidSetting {
        name: "--time-limit".into(),
        why: match seconds.abs() {
            1e15.. => format!("{seconds:e} seconds are more than there can be"),
            _ => format!("{seconds} is not a number of seconds, zero or more"),
        },
    })
}
