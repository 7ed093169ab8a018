//! `plimsoll check`.

use std::path::PathBuf;

use plimsoll::plan::simulate;
use plimsoll::{Bytes, Error};
use serde::Serialize;

use crate::input;
use crate::output::{self, Failure};

/// Check that a plan is legal, within its budget, and costs what it predicts.
#[derive(clap::Args)]
#[command(after_help = "Example: plimsoll check gpt.problem.json gpt.plan.json")]
pub struct Args {
    /// Problem file; `-` reads standard input
    problem: PathBuf,
    /// Plan file; `-` reads standard input
    plan: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What `--json` prints of a plan that passes. Bytes, nanoseconds, a fraction of the baseline's time.
#[derive(Serialize)]
struct Report {
    ok: bool,
    steps: usize,
    peak: Bytes,
    budget: Bytes,
    host_peak: Bytes,
    time: u64,
    baseline_time: u64,
    overhead: f64,
}

/// The checker judges the steps; what the plan predicts is compared with the simulator.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (problem, plan) = input::both(&args.problem, &args.plan)?;
    let checked = plimsoll::check::check(&problem, &plan)?;
    let timeline = simulate(&problem, &plan.steps)?;
    let predicted = &plan.predicted;
    let differs = |what: &str, said: u64, is: u64| Error::InvalidInput {
        why: format!("the plan predicts {what} of {said}, but it is {is}: plan it anew"),
    };
    if predicted.peak != checked.peak {
        return Err(differs("a peak in bytes", predicted.peak.get(), checked.peak.get()).into());
    }
    // The times of a graph may be measured anew; a plan stays legal then, but not its prediction.
    if predicted.time != timeline.time {
        return Err(differs("a time in nanoseconds", predicted.time.get(), timeline.time.get()).into());
    }
    if args.json {
        return Ok(output::print(&output::json(&Report {
            ok: true,
            steps: plan.steps.len(),
            peak: checked.peak,
            budget: plan.budget,
            host_peak: checked.host_peak,
            time: timeline.time.get(),
            baseline_time: predicted.baseline_time.get(),
            overhead: predicted.overhead,
        }))?);
    }
    Ok(output::print(&output::rows([
        ("ok", format!("{} steps, legal and within the budget", plan.steps.len())),
        ("peak", output::exact(checked.peak)),
        ("budget", output::exact(plan.budget)),
        ("host peak", output::exact(checked.host_peak)),
        ("time", output::against(timeline.time, predicted.baseline_time, predicted.overhead)),
    ]))?)
}
