//! `plimsoll show`.

use std::path::PathBuf;

use plimsoll::Bytes;
use plimsoll::cost::Problem;
use plimsoll::entity::ValueId;
use plimsoll::plan::{Plan, Status, Step, Timeline, render_steps, render_timeline, simulate};

use serde::Serialize;

use crate::input;
use crate::output::{self, Failure};
use crate::uses::{Uses, by_size};

/// Show what a plan does.
#[derive(clap::Args)]
#[command(after_help = "Example: plimsoll show gpt.plan.json gpt.problem.json --steps")]
pub struct Args {
    /// Plan file; `-` reads standard input
    plan: PathBuf,
    /// Problem file; `-` reads standard input
    problem: PathBuf,
    /// List every step
    #[arg(long)]
    steps: bool,
    /// Columns of the picture of memory over time
    #[arg(long, default_value = "72", value_parser = clap::value_parser!(u16).range(16..=1000))]
    width: u16,
    /// How many of the largest values to list
    #[arg(long, default_value = "10")]
    values: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. Bytes, nanoseconds, fractions of the baseline's time.
#[derive(Serialize)]
struct Report<'a> {
    problem: &'a str,
    ops: usize,
    solver: &'a str,
    status: Status,
    budget: Bytes,
    peak: Bytes,
    peak_step: usize,
    host_peak: Bytes,
    time: u64,
    baseline_peak: Bytes,
    baseline_time: u64,
    overhead: f64,
    lower_bound: f64,
    computes: usize,
    offloads: u32,
    /// The largest values that own their storage.
    values: Vec<Row>,
    /// What is live during each step.
    live: &'a [Bytes],
    /// With `--steps`: the steps, as in the plan.
    steps: Option<&'a [Step]>,
}

#[derive(Serialize)]
struct Row {
    value: String,
    bytes: Bytes,
    made_by: Option<String>,
    computes: u32,
    offloads: u32,
    fate: String,
}

/// Height of the picture in lines.
const HEIGHT: usize = 10;

/// Summary, largest values, picture, steps.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (problem, plan) = input::both(&args.problem, &args.plan)?;
    // What is shown is what would run, so it must be able to run.
    plimsoll::check::check(&problem, &plan)?;
    let timeline = simulate(&problem, &plan.steps)?;
    if args.json {
        return Ok(output::print(&output::json(&report(&problem, &plan, &timeline, args)))?);
    }
    let mut text = summary(&problem, &plan, &timeline);
    text.push('\n');
    text.push_str(&largest(&problem, &plan, args.values));
    text.push('\n');
    text.push_str(&render_timeline(&timeline, plan.budget, args.width.into(), HEIGHT));
    if args.steps {
        text.push('\n');
        text.push_str(&render_steps(&problem, &plan.steps, &timeline));
    }
    Ok(output::print(&text)?)
}

fn report<'a>(problem: &'a Problem, plan: &'a Plan, timeline: &'a Timeline, args: &Args) -> Report<'a> {
    let (graph, predicted) = (&problem.graph, &plan.predicted);
    let uses = Uses::count(problem, &plan.steps);
    let row = |v: ValueId| Row {
        value: graph.describe_value(v),
        bytes: graph.values()[v].bytes,
        made_by: graph.values()[v].producer.map(|op| graph.describe_op(op)),
        computes: uses.computes[v],
        offloads: uses.offloads[v],
        fate: uses.fate(problem, v),
    };
    Report {
        problem: &problem.name,
        ops: graph.ops().len(),
        solver: &plan.solver,
        status: predicted.status,
        budget: plan.budget,
        peak: timeline.peak,
        peak_step: timeline.peak_step,
        host_peak: timeline.host_peak,
        time: timeline.time.get(),
        baseline_peak: predicted.baseline_peak,
        baseline_time: predicted.baseline_time.get(),
        overhead: predicted.overhead,
        lower_bound: predicted.lower_bound,
        computes: computes(plan),
        offloads: uses.offloads.values().sum(),
        values: by_size(problem).into_iter().take(args.values).map(row).collect(),
        live: &timeline.live,
        steps: args.steps.then_some(&plan.steps),
    }
}

fn computes(plan: &Plan) -> usize {
    plan.steps.iter().filter(|s| matches!(s, Step::Compute { .. })).count()
}

fn summary(problem: &Problem, plan: &Plan, timeline: &Timeline) -> String {
    let graph = &problem.graph;
    let predicted = &plan.predicted;
    let uses = Uses::count(problem, &plan.steps);
    let ran = computes(plan);
    let offloads: u32 = uses.offloads.values().sum();
    let name = if problem.name.is_empty() { "(unnamed)" } else { &problem.name };
    let mut rows = vec![
        ("problem", format!("{name}, {} ops, {} values", graph.ops().len(), graph.values().len())),
        ("solver", plan.solver.clone()),
        ("status", output::status(predicted)),
        ("budget", output::exact(plan.budget)),
        ("peak", format!("{} in step {}", output::exact(timeline.peak), timeline.peak_step)),
        ("baseline", format!("{} with everything kept", output::exact(predicted.baseline_peak))),
        ("time", output::against(timeline.time, predicted.baseline_time, predicted.overhead)),
        ("bound", output::bound(problem, predicted)),
        ("computes", format!("{ran}, of which {} again", ran.saturating_sub(graph.ops().len()))),
    ];
    if offloads > 0 {
        rows.push(("offloads", format!("{offloads}, at most {} on the host", output::exact(timeline.host_peak))));
    }
    output::rows(rows)
}

/// The largest values that own their storage, and what the plan does with each.
fn largest(problem: &Problem, plan: &Plan, count: usize) -> String {
    let graph = &problem.graph;
    let uses = Uses::count(problem, &plan.steps);
    let header = ["value", "size", "made by", "what is done with it"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for v in by_size(problem).into_iter().take(count) {
        let value = &graph.values()[v];
        let made_by = value.producer.map_or("-".into(), |op| graph.describe_op(op));
        rows.push(vec![graph.describe_value(v), value.bytes.to_string(), made_by, uses.fate(problem, v)]);
    }
    output::table(&rows, &[1])
}
