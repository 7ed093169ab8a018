//! `plimsoll sweep`.

use std::path::PathBuf;

use plimsoll::cost::Problem;
use plimsoll::plan::Status;
use plimsoll::solver::{self, Options, Point};
use plimsoll::{Budget, Bytes, Error, Result};
use serde::Serialize;

use crate::output::{self, Failure};
use crate::solving::Solving;
use crate::{input, progress};

/// Plan a problem under many budgets: the curve of peak against time.
#[derive(clap::Args)]
#[command(after_help = "Example: plimsoll sweep gpt.problem.json --points 20 --csv")]
pub struct Args {
    /// Problem file; `-` reads standard input
    problem: PathBuf,
    /// How many budgets, evenly spread
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u16).range(2..=10_000))]
    points: u16,
    /// Smallest budget, written as for `plan`; default: the smallest that the solver finds a plan for
    #[arg(long, value_name = "BUDGET", allow_hyphen_values = true)]
    from: Option<String>,
    /// Largest budget; default: the peak with everything kept
    #[arg(long, value_name = "BUDGET", allow_hyphen_values = true)]
    to: Option<String>,
    #[command(flatten)]
    solving: Solving,
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values instead of a table
    #[arg(long)]
    csv: bool,
}

/// What `--json` prints: the problem, what keeping everything takes, and a point for each budget.
#[derive(Serialize)]
struct Curve<'a> {
    problem: &'a str,
    ops: usize,
    solver: &'a str,
    baseline_peak: Bytes,
    baseline_time: u64,
    points: &'a [Row],
}

/// One budget in a report. Bytes, nanoseconds, fractions of the baseline's time; what there is no
/// plan to tell of is null.
#[derive(Serialize)]
struct Row {
    budget: Bytes,
    status: Status,
    peak: Option<Bytes>,
    time: Option<u64>,
    overhead: Option<f64>,
    lower_bound: Option<f64>,
    gap: Option<f64>,
    /// Where there is no plan: the smallest budget that has one.
    minimum: Option<Bytes>,
    solve_seconds: f64,
}

impl Row {
    fn new(point: &Point) -> Self {
        let predicted = point.outcome.plan().map(|plan| &plan.predicted);
        Self {
            budget: point.budget,
            status: point.outcome.status(),
            peak: predicted.map(|p| p.peak),
            time: predicted.map(|p| p.time.get()),
            overhead: predicted.map(|p| p.overhead),
            lower_bound: predicted.map(|p| p.lower_bound),
            gap: predicted.map(|p| p.gap()),
            minimum: if predicted.is_none() { point.outcome.minimum_feasible() } else { None },
            solve_seconds: point.solve_time.as_secs_f64(),
        }
    }
}

/// Solve, check, report. Without any plan the exit code is that of `plan` without one.
pub fn run(args: &Args) -> Result<(), Failure> {
    let options = args.solving.options()?;
    let [from, to] = [&args.from, &args.to].map(|text| text.as_ref().map(|text| text.parse::<Budget>()).transpose());
    let (from, to) = (from?, to?);
    if let Some(out) = &args.out {
        input::spare(out, [args.problem.as_path()])?;
    }
    let problem = input::problem(&args.problem)?;
    let name = &args.solving.solver;
    let points = progress::shown(&options, |options| {
        let budgets = spread(&ends(&problem, from, to, name, options)?, args.points);
        solver::sweep(&problem, &budgets, name, options)
    })?;
    for plan in points.iter().filter_map(|point| point.outcome.plan()) {
        plimsoll::check::check(&problem, plan)?;
    }
    let rows: Vec<Row> = points.iter().map(Row::new).collect();
    let text = match (args.json, args.csv) {
        (true, _) => {
            let baseline = solver::baseline(&problem).1;
            output::json(&Curve {
                problem: &problem.name,
                ops: problem.graph.ops().len(),
                solver: name,
                baseline_peak: baseline.peak,
                baseline_time: baseline.time.get(),
                points: &rows,
            })
        }
        (_, true) => csv(&rows),
        _ => table(&problem, &points, &rows),
    };
    match &args.out {
        Some(path) => {
            let written = std::fs::write(path, text);
            written.map_err(|source| Error::Io { action: "write", path: path.clone(), source })?;
        }
        None => output::print(&text)?,
    }
    match rows.iter().any(|row| row.peak.is_some()) {
        true => Ok(()),
        false => Err(Failure::NoPlan),
    }
}

/// The smallest and the largest budget.
fn ends(
    problem: &Problem,
    from: Option<Budget>,
    to: Option<Budget>,
    solver: &str,
    options: &Options,
) -> Result<[Bytes; 2]> {
    let baseline = solver::baseline(problem).1.peak;
    let invalid = |name: &str, why: String| Error::InvalidSetting { name: name.into(), why };
    let finite = |name: &str, budget: Budget| match budget.resolve(baseline)? {
        Bytes(u64::MAX) => Err(invalid(name, "a sweep needs an end: give a number of bytes or a share".into())),
        bytes => Ok(bytes),
    };
    let to = match to {
        Some(to) => finite("--to", to)?,
        // Without in-place reuse that is more than the baseline's.
        None => solver::plan(problem, Bytes(u64::MAX), "keep-all", options)?.predicted.peak,
    };
    let from = match from {
        Some(from) => finite("--from", from)?,
        None => match solver::minimum_budget(problem, solver, options)? {
            Some(least) if least <= to => least,
            least => {
                let least = least.map_or("none".to_owned(), output::exact);
                return Err(invalid("--to", format!("the smallest budget with a plan is {least}: give --from too")));
            }
        },
    };
    match from <= to {
        true => Ok([from, to]),
        false => Err(invalid("--from", format!("{} is more than --to, {}", output::exact(from), output::exact(to)))),
    }
}

/// That many budgets from one end to the other, both among them; fewer where bytes are few.
fn spread(&[from, to]: &[Bytes; 2], points: u16) -> Vec<Bytes> {
    let (width, gaps) = (u128::from(to.get() - from.get()), u128::from(points) - 1);
    // No larger than the width, which is a u64.
    let step = |k: u128| (width * k / gaps) as u64;
    let mut budgets: Vec<Bytes> = (0..=gaps).map(|k| from + Bytes(step(k))).collect();
    budgets.dedup();
    budgets
}

fn csv(rows: &[Row]) -> String {
    let mut text = String::from("budget,status,peak,time,overhead,lower_bound,gap,minimum,solve_seconds\n");
    for row in rows {
        let cell = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
        let bytes = |x: Option<Bytes>| x.map_or(String::new(), |x| x.get().to_string());
        let cells = [
            row.budget.get().to_string(),
            output::word(row.status).to_owned(),
            bytes(row.peak),
            row.time.map_or(String::new(), |time| time.to_string()),
            cell(row.overhead),
            cell(row.lower_bound),
            cell(row.gap),
            bytes(row.minimum),
            row.solve_seconds.to_string(),
        ];
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    text
}

fn table(problem: &Problem, points: &[Point], rows: &[Row]) -> String {
    let baseline = solver::baseline(problem).1;
    let share = |bytes: Bytes| match baseline.peak.get() {
        0 => "-".to_owned(),
        peak => output::percent(bytes.get() as f64 / peak as f64),
    };
    let header = ["budget", "of the peak", "peak", "time", "overhead", "at least", "gap", "status", "seconds"];
    let mut cells = vec![header.map(str::to_owned).to_vec()];
    for (row, point) in rows.iter().zip(points) {
        let percent = |x: Option<f64>| x.map_or("-".to_owned(), output::percent);
        let time = point.outcome.plan().map_or("-".to_owned(), |plan| plan.predicted.time.to_string());
        cells.push(vec![
            row.budget.get().to_string(),
            share(row.budget),
            row.peak.map_or("-".to_owned(), |peak| peak.get().to_string()),
            time,
            percent(row.overhead),
            percent(row.lower_bound),
            percent(row.gap),
            output::word(row.status).to_owned(),
            format!("{:.2}", row.solve_seconds),
        ]);
    }
    let name = if problem.name.is_empty() { "(unnamed)" } else { &problem.name };
    let mut text = output::rows([
        ("problem", format!("{name}, {} ops", problem.graph.ops().len())),
        ("baseline", format!("{}, {} with everything kept", output::exact(baseline.peak), baseline.time)),
    ]);
    text.push('\n');
    text.push_str(&output::table(&cells, &[0, 1, 2, 3, 4, 5, 6, 8]));
    text
}
