//! One measured run in a process of its own: `compare` and `experiment` start this same program
//! with a hidden subcommand, once for each run, so that no run finds memory, threads or caches as
//! another left them. The task goes in as JSON, the answer comes out as one line of it.

mod train;
mod variant;

use std::process::Command;
use std::time::Duration;

use plimsoll::{Bytes, Error, Lanes, Result};
use serde::{Deserialize, Serialize};

pub use train::draws;
pub use variant::{How, Variant};

use crate::output::{self, Failure};

/// The hidden subcommand.
pub const COMMAND: &str = "run-one";

/// One run, started by `compare` and `experiment`.
#[derive(clap::Args)]
pub struct Args {
    /// The task, as JSON
    task: String,
}

/// What to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// A model of the zoo.
    pub model: String,
    /// Its settings, `name=value`.
    pub settings: Vec<String>,
    /// A device by name.
    pub device: String,
    /// How to train.
    pub variant: String,
    /// Steps that are measured, after
    pub steps: usize,
    /// so many that are not.
    pub warmup: usize,
    /// Seed of the initial values.
    pub init_seed: u64,
    /// Seed of the batches.
    pub data_seed: u64,
    /// Seconds the planner may take.
    pub time_limit: f64,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It ran.
    Ran(Box<Ran>),
    /// There is no plan for the budget, or none was found.
    NoPlan(NoPlan),
    /// Anything else that kept it from running.
    Failed(String),
}

/// A budget without a plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NoPlan {
    /// Whether that is proved.
    pub proved: bool,
    /// The budget.
    pub budget: Bytes,
    /// The smallest budget that a plan was found for.
    pub minimum: Option<Bytes>,
    /// All of it in words.
    pub why: String,
}

/// What a run measured. Times are in nanoseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ran {
    /// Of each measured step: forward, backward, and reading the loss.
    pub step_ns: Vec<u64>,
    /// The most bytes held, from before the model was made to the last update, planning and
    /// warm-up included: of the heap on the CPU, of the device's pools elsewhere, where without
    /// feature `fusion` only planned steps tell.
    pub peak: Option<u64>,
    /// The loss of every step, warm-up included: its bits.
    pub losses: Vec<String>,
    /// A hash of all bits of all gradients of every step.
    pub gradients: Vec<String>,
    /// A hash of all parameters and running statistics after the last step.
    pub parameters: String,
    /// Of a planned step, what the plan promised.
    pub plan: Option<Planned>,
}

/// What a plan promised, and what its executor says of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Planned {
    /// The solver that made it.
    pub solver: String,
    /// The budget in bytes; `u64::MAX` where there is none.
    pub budget: u64,
    /// The planned peak of a step, views counted.
    pub planned_peak: u64,
    /// The measured peak of the measured steps, counted the same way. (What kernels allocate in
    /// the first step and keep is the process's.)
    pub measured_peak: Option<u64>,
    /// The predicted time of a step, the sum of its ops measured one by one.
    pub predicted_ns: u64,
    /// The measured time of each measured step: by the executor on the CPU; elsewhere that of the whole step, until the
    /// device has caught up.
    pub ran_ns: Vec<u64>,
    /// How long the executor took to ask for everything in each of them.
    pub asked_ns: Vec<u64>,
    /// How many operations and other steps that was.
    pub steps: usize,
    /// Of a timed step, what operations and copies took.
    pub lanes: Option<Timed>,
    /// Predicted with everything kept.
    pub baseline_peak: u64,
    /// Predicted with everything kept.
    pub baseline_ns: u64,
    /// Tracing, measuring ops and planning, in seconds.
    pub plan_seconds: f64,
}

/// What operations and copies took, in nanoseconds a step on average.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Timed {
    /// From the beginning of the first to the end of the last.
    pub span: u64,
    /// Operations.
    pub compute: u64,
    /// Copies to the host's memory.
    pub to_host: u64,
    /// Copies from there.
    pub from_host: u64,
    /// Of all copies, while an operation ran.
    pub hidden: u64,
}

impl Timed {
    /// The average of steps; `None` where there is none.
    pub fn mean(steps: &[Lanes]) -> Option<Self> {
        let mean = |of: fn(&Lanes) -> Duration| {
            let all: u128 = steps.iter().map(|lanes| of(lanes).as_nanos()).sum();
            all.checked_div(steps.len() as u128).map(|mean| mean as u64)
        };
        Some(Self {
            span: mean(|lanes| lanes.span)?,
            compute: mean(|lanes| lanes.compute)?,
            to_host: mean(|lanes| lanes.to_host)?,
            from_host: mean(|lanes| lanes.from_host)?,
            hidden: mean(|lanes| lanes.hidden)?,
        })
    }
}

impl Ran {
    /// The median step time in nanoseconds.
    pub fn step_time(&self) -> f64 {
        median_ns(&self.step_ns)
    }
}

/// The median of times.
pub fn median_ns(times: &[u64]) -> f64 {
    plimsoll::stats::median(&times.iter().map(|&ns| ns as f64).collect::<Vec<_>>())
}

/// The subcommand: what goes wrong is an answer too.
pub fn run(args: &Args) -> Result<(), Failure> {
    let task: Task = serde_json::from_str(&args.task).map_err(|why| Error::InvalidInput { why: why.to_string() })?;
    let answer = match train::train(&task) {
        Ok(ran) => Answer::Ran(Box::new(ran)),
        Err(error) => {
            let why = error.to_string();
            match error {
                Error::Infeasible { budget, minimum, proved, .. } => {
                    Answer::NoPlan(NoPlan { proved, budget, minimum, why })
                }
                _ => Answer::Failed(why),
            }
        }
    };
    Ok(output::print(&output::json(&answer))?)
}

/// Run `task` in a process of its own and wait for it.
pub fn start(task: &Task) -> Result<Answer> {
    let failed = |why: String| Error::Execution { at: format!("the run of {}", task.variant), why };
    let io = |source| Error::Io { action: "start", path: "plimsoll".into(), source };
    let mut command = Command::new(std::env::current_exe().map_err(io)?);
    command.args([COMMAND, output::json(task).trim_end()]).stdin(std::process::Stdio::null());
    let output = command.output().map_err(io)?;
    match serde_json::from_slice(&output.stdout) {
        Ok(answer) if output.status.success() => Ok(answer),
        _ => {
            // A panic of the backend, or the system took the process's memory away.
            let said = String::from_utf8_lossy(&output.stderr);
            let last: Vec<&str> = said.lines().rev().take(3).collect();
            let last = last.into_iter().rev().collect::<Vec<_>>().join("; ");
            Err(failed(format!("its process ended with {}: {last}", output.status)))
        }
    }
}
