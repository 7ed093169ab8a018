//! Doing one cell. What goes wrong in it is its outcome; the others go on.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use plimsoll::cost::{DeviceSpec, Problem, Roofline};
use plimsoll::solver::{self, Options};
use plimsoll::{Budget, Error, Nanos, Result};

use super::declare;
use super::grid::{Case, Cell, Kind};
use super::results::Outcome;
use crate::worker::{self, Answer, Task};
use crate::{output, trace};

/// Bytes of optimizer state per trained parameter: Adam's.
const OPTIMIZER_BYTES: f64 = 8.0;

/// The problems of all cells that plan.
pub fn problems(file: &Path, cells: &[&Cell], bar: &ProgressBar) -> BTreeMap<Case, Result<Problem>> {
    let mut problems = BTreeMap::new();
    for cell in cells.iter().filter(|cell| cell.kind == Kind::Plan) {
        problems.entry(cell.case.clone()).or_insert_with(|| {
            bar.set_message(format!("{}, tracing", cell.case_name()));
            problem(file, &cell.case)
        });
    }
    problems
}

fn problem(file: &Path, case: &Case) -> Result<Problem> {
    match case {
        Case::Problem { file: problem, .. } => Problem::load(declare::beside(file, problem)),
        Case::Model { name, settings, roofline } => {
            let settings = settings.iter().map(|text| trace::setting(text)).collect::<Result<Vec<_>>>()?;
            let roofline = roofline.as_deref().map(str::parse::<Roofline>).transpose()?;
            trace::trace_model(name, &settings, OPTIMIZER_BYTES, roofline.map(DeviceSpec::from).as_ref())
        }
    }
}

/// Plan; the plan is checked.
pub fn plan(cell: &Cell, problem: &Result<Problem>, threads: usize) -> Outcome {
    let problem = match problem {
        Ok(problem) => problem,
        Err(error) => return Outcome::none("failed", error),
    };
    let baseline = solver::baseline(problem).1;
    let options = Options {
        time_limit: Duration::from_secs_f64(cell.time_limit),
        node_limit: cell.node_limit,
        seed: cell.seed,
        ..Options::default()
    };
    let start = Instant::now();
    let planned = cell.budget.parse::<Budget>().and_then(|budget| budget.resolve(baseline.peak)).and_then(|budget| {
        let plan = solver::plan(problem, budget, &cell.solver, &options)?;
        plimsoll::check::check(problem, &plan)?;
        Ok((budget, plan))
    });
    let seconds = start.elapsed().as_secs_f64();
    let outcome = match planned {
        Ok((budget, plan)) => {
            let p = &plan.predicted;
            Outcome {
                status: output::word(p.status).to_owned(),
                budget: Some(budget.get()),
                peak: Some(p.peak.get()),
                time: Some(p.time.get()),
                overhead: Some(p.overhead),
                lower_bound: Some(p.lower_bound),
                gap: Some(p.gap()),
                ..Outcome::default()
            }
        }
        Err(Error::Infeasible { budget, minimum, proved, why, .. }) => Outcome {
            budget: Some(budget.get()),
            minimum: minimum.map(|bytes| bytes.get()),
            ..Outcome::none(if proved { "infeasible" } else { "unknown" }, why)
        },
        Err(error @ Error::Unsupported { .. }) => Outcome::none("unsupported", error),
        Err(error) => Outcome::none("failed", error),
    };
    Outcome {
        ops: Some(problem.graph.ops().len() as u64),
        baseline_peak: Some(baseline.peak.get()),
        baseline_time: Some(baseline.time.get()),
        seconds: Some(seconds),
        threads: Some(threads),
        ..outcome
    }
}

/// Train by a plan, in a process of its own, and measure.
pub fn measure(cell: &Cell) -> Outcome {
    let (Case::Model { name, settings, .. }, Some(how)) = (&cell.case, &cell.measure) else {
        return Outcome::none("failed", "only models can be measured");
    };
    let task = Task {
        model: name.clone(),
        settings: settings.clone(),
        device: how.device.clone(),
        variant: format!("{}@{}", cell.budget, cell.solver),
        steps: how.steps,
        warmup: how.warmup,
        init_seed: cell.seed,
        data_seed: cell.seed,
        time_limit: cell.time_limit,
    };
    let ran = match worker::start(&task) {
        Ok(Answer::Ran(ran)) => ran,
        Ok(Answer::NoPlan(none)) => {
            return Outcome {
                budget: Some(none.budget.get()),
                minimum: none.minimum.map(|bytes| bytes.get()),
                ..Outcome::none(if none.proved { "infeasible" } else { "unknown" }, none.why)
            };
        }
        Ok(Answer::Failed(why)) => return Outcome::none("failed", why),
        Err(error) => return Outcome::none("failed", error),
    };
    let Some(plan) = &ran.plan else { return Outcome::none("failed", "the run made no plan") };
    Outcome {
        // What is run is planned without a proof.
        status: "feasible".to_owned(),
        budget: Some(plan.budget),
        peak: Some(plan.planned_peak),
        time: Some(plan.predicted_ns),
        baseline_peak: Some(plan.baseline_peak),
        baseline_time: Some(plan.baseline_ns),
        overhead: Some(Nanos(plan.predicted_ns).over(Nanos(plan.baseline_ns))),
        seconds: Some(plan.plan_seconds),
        measured_peak: plan.measured_peak,
        measured_time: Some(worker::median_ns(&plan.ran_ns) as u64),
        process_peak: ran.peak,
        ..Outcome::default()
    }
}
