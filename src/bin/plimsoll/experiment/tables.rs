//! Results as tables: Markdown to read, comma-separated values to compute with.

use std::fmt::Write as _;

use plimsoll::{Bytes, Nanos};

use super::declare::Experiment;
use super::grid::{Case, Cell, Kind};
use super::results::{Outcome, Record};
use crate::output;

/// A column of the Markdown table.
type Column = (&'static str, fn(&Record) -> String);

fn percent(x: Option<f64>) -> String {
    x.map_or("-".into(), output::percent)
}

fn bytes(x: Option<u64>) -> String {
    match x {
        None => "-".into(),
        Some(u64::MAX) => "unlimited".into(),
        Some(bytes) => Bytes(bytes).to_string(),
    }
}

fn nanos(x: Option<u64>) -> String {
    x.map_or("-".into(), |ns| Nanos(ns).to_string())
}

/// Of two numbers, the first over the second.
fn over(x: Option<u64>, y: Option<u64>) -> String {
    match (x, y) {
        (Some(x), Some(y)) if y > 0 => format!("{:.3}", x as f64 / y as f64),
        _ => "-".into(),
    }
}

/// Columns that tell cells apart; those that are the same in all cells are left out.
const WHICH: &[Column] = &[
    ("problem", |r| r.cell.case_name()),
    ("roofline", |r| r.cell.roofline().unwrap_or("-").to_owned()),
    ("solver", |r| r.cell.solver.clone()),
    ("budget", |r| r.cell.budget.clone()),
    ("seed", |r| r.cell.seed.to_string()),
];

const PLANNED: &[Column] = &[
    ("ops", |r| r.outcome.ops.map_or("-".into(), |ops| ops.to_string())),
    ("status", |r| r.outcome.status.clone()),
    ("peak", |r| bytes(r.outcome.peak)),
    ("overhead", |r| percent(r.outcome.overhead)),
    ("at least", |r| percent(r.outcome.lower_bound)),
    ("gap", |r| percent(r.outcome.gap)),
    ("needs", |r| bytes(r.outcome.minimum)),
    ("seconds", |r| r.outcome.seconds.map_or("-".into(), |s| format!("{s:.2}"))),
];

const MEASURED: &[Column] = &[
    ("status", |r| r.outcome.status.clone()),
    ("within", |r| bytes(r.outcome.budget)),
    ("planned peak", |r| bytes(r.outcome.peak)),
    ("measured peak", |r| bytes(r.outcome.measured_peak)),
    ("planned / measured", |r| over(r.outcome.peak, r.outcome.measured_peak)),
    ("predicted time", |r| nanos(r.outcome.time)),
    ("measured time", |r| nanos(r.outcome.measured_time)),
    ("predicted / measured", |r| over(r.outcome.time, r.outcome.measured_time)),
    ("overhead", |r| percent(r.outcome.overhead)),
    ("needs", |r| bytes(r.outcome.minimum)),
];

/// The table to read.
pub fn markdown(name: &str, experiment: &Experiment, rows: &[&Record]) -> String {
    let mut text = format!("# {name}\n\n");
    if !experiment.about.is_empty() {
        let _ = writeln!(text, "{}\n", experiment.about.trim());
    }
    let told = WHICH.iter().filter(|(_, of)| {
        let first = rows.first().map(|row| of(row));
        rows.iter().any(|row| Some(of(row)) != first)
    });
    let results = if experiment.kind == Kind::Plan { PLANNED } else { MEASURED };
    // One cell is told apart by nothing.
    let told: Vec<&Column> = if rows.len() > 1 { told.collect() } else { WHICH.iter().collect() };
    let columns: Vec<&Column> = told.into_iter().chain(results).collect();
    let header: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let rows_of = rows.iter().map(|row| columns.iter().map(|(_, of)| of(row)).collect());
    text.push_str(&output::markdown(&header, rows_of));
    let common: String = same(rows).map(|same| format!("\n{same}\n")).unwrap_or_default();
    text + &common + &reasons(rows)
}

/// Why cells have no result, where that is not a matter of the budget.
fn reasons(rows: &[&Record]) -> String {
    let mut text = String::new();
    for Record { cell, outcome, .. } in rows {
        if let ("unsupported" | "failed", Some(why)) = (outcome.status.as_str(), &outcome.why) {
            let why = why.replace('\n', " ");
            let _ = writeln!(text, "- {}, {}, {}: {why}", cell.case_name(), cell.solver, cell.budget);
        }
    }
    match text.is_empty() {
        true => text,
        false => format!("\n{text}"),
    }
}

/// What all cells have in common.
fn same(rows: &[&Record]) -> Option<String> {
    let first = &rows.first()?.cell;
    let common: Vec<String> = WHICH
        .iter()
        .filter(|(_, of)| rows.len() > 1 && rows.iter().all(|row| of(row) == of(rows[0])))
        .map(|(name, of)| format!("{name} {}", of(rows[0])))
        .filter(|text| !text.ends_with(" -"))
        .chain([limits(first)])
        .collect();
    Some(format!("In all cells: {}.", common.join(", ")))
}

fn limits(cell: &Cell) -> String {
    let mut text = format!("planned in at most {} s", cell.time_limit);
    if let Some(nodes) = cell.node_limit {
        let _ = write!(text, " and {nodes} search steps");
    }
    if let Some(how) = &cell.measure {
        let _ = write!(text, ", {} steps measured on {} after {} to warm up", how.steps, how.device, how.warmup);
    }
    text
}

/// Everything, a line for each cell.
pub fn csv(rows: &[&Record]) -> String {
    let mut text = String::from(
        "problem,settings,roofline,solver,seed,budget,status,ops,budget_bytes,peak,time,baseline_peak,baseline_time,\
         overhead,lower_bound,gap,minimum,seconds,threads,measured_peak,measured_time,process_peak\n",
    );
    for Record { cell, outcome, .. } in rows {
        let Outcome { status, ops, budget, peak, time, baseline_peak, baseline_time, .. } = outcome;
        let Outcome { minimum, measured_peak, measured_time, process_peak, .. } = outcome;
        let number = |x: &Option<u64>| x.map_or(String::new(), |x| x.to_string());
        let fraction = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
        let (problem, settings) = match &cell.case {
            Case::Model { name, settings, .. } => (name.clone(), settings.join(" ")),
            Case::Problem { file, .. } => (file.clone(), String::new()),
        };
        let cells = [
            quoted(&problem),
            quoted(&settings),
            quoted(cell.roofline().unwrap_or_default()),
            cell.solver.clone(),
            cell.seed.to_string(),
            cell.budget.clone(),
            status.clone(),
            number(ops),
            number(budget),
            number(peak),
            number(time),
            number(baseline_peak),
            number(baseline_time),
            fraction(outcome.overhead),
            fraction(outcome.lower_bound),
            fraction(outcome.gap),
            number(minimum),
            fraction(outcome.seconds),
            outcome.threads.map_or(String::new(), |n| n.to_string()),
            number(measured_peak),
            number(measured_time),
            number(process_peak),
        ];
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    text
}

/// A cell that may hold commas.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}
