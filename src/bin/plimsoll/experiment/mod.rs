//! `plimsoll experiment`: a declared grid of models or problems, solvers and budgets.
//!
//! ```text
//! grid.toml -> cells, each named by its content -> results/grid.jsonl, a line as each ends
//!                                                  results/grid.md, grid.csv, grid.svg at the end
//! ```
//!
//! Cells whose names are in the results already are not done again, whoever left them there: a run
//! that was killed goes on, and one with a cell more does that cell.

mod cells;
mod declare;
mod grid;
mod picture;
mod results;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use plimsoll::{Error, Result};
use serde::Serialize;

use crate::output::{self, Failure};
use crate::progress;
use declare::Experiment;
use grid::{Cell, Kind};
use results::{Record, Records, Results};

/// Run a declared grid of problems, solvers and budgets, going on where an earlier run stopped.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// The declaration, a TOML file
    file: PathBuf,
    /// Folder for the results; default: `results` beside the declaration
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Cells planned side by side, sharing the processor's threads; default: one for each thread. What is measured
    /// is measured alone
    #[arg(long, short, value_parser = clap::value_parser!(u16).range(1..=4096))]
    jobs: Option<u16>,
    /// Run nothing: list the cells and which of them have results
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object instead of a summary
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "Example:
  plimsoll experiment docs/experiments/solver-quality.toml --out /tmp/quality --jobs 2";

/// What was done.
#[derive(Serialize)]
struct Summary {
    experiment: String,
    cells: usize,
    /// Results that were there already.
    kept: usize,
    done: usize,
    planned: usize,
    /// Cells without a plan, proved or not.
    without_plan: usize,
    unsupported: usize,
    failed: usize,
    /// Results in the file of cells that are not declared, or not any more.
    undeclared: usize,
    results: String,
    table: String,
    csv: String,
    /// None where no cell has anything to draw.
    picture: Option<String>,
}

/// Read, run what is missing, write tables.
pub fn run(args: &Args) -> Result<(), Failure> {
    let experiment = declare::load(&args.file)?;
    let jobs = jobs(args, &experiment)?;
    let name = args.file.file_stem().map_or("experiment".into(), |stem| stem.to_string_lossy().into_owned());
    let folder = args.out.clone().unwrap_or_else(|| declare::beside(&args.file, "results"));
    let path = |extension: &str| folder.join(format!("{name}.{extension}"));
    if args.dry_run {
        let (records, _) = results::read(&path("jsonl"))?;
        return Ok(output::print(&list(args, &name, &experiment, &records))?);
    }
    let (results, records) = Results::open(&path("jsonl"))?;
    let missing: Vec<&Cell> = experiment.cells.iter().filter(|cell| !records.contains_key(&cell.key())).collect();
    let kept = experiment.cells.len() - missing.len();
    let undeclared = records.len() - kept;
    run_cells(&args.file, &missing, jobs, &results)?;
    // As the file has them: reading rounds numbers, and tables made from it later shall be the same.
    let (records, _) = results::read(&path("jsonl"))?;

    // In the order of the declaration; each is there now.
    let rows: Vec<&Record> = experiment.cells.iter().filter_map(|cell| records.get(&cell.key())).collect();
    write(&path("md"), &tables::markdown(&name, &experiment, &rows))?;
    write(&path("csv"), &tables::csv(&rows))?;
    let picture = picture::draw(&name, &experiment, &rows);
    if let Some(picture) = &picture {
        write(&path("svg"), picture)?;
    }
    let count = |statuses: &[&str]| rows.iter().filter(|r| statuses.contains(&r.outcome.status.as_str())).count();
    let summary = Summary {
        experiment: name.clone(),
        cells: rows.len(),
        kept,
        done: missing.len(),
        planned: count(&["optimal", "feasible"]),
        without_plan: count(&["infeasible", "unknown"]),
        unsupported: count(&["unsupported"]),
        failed: count(&["failed"]),
        undeclared,
        results: path("jsonl").display().to_string(),
        table: path("md").display().to_string(),
        csv: path("csv").display().to_string(),
        picture: picture.map(|_| path("svg").display().to_string()),
    };
    Ok(output::print(&if args.json { output::json(&summary) } else { human(&summary) })?)
}

/// The cells, and which of them have results.
fn list(args: &Args, name: &str, experiment: &Experiment, records: &Records) -> String {
    let kept = |cell: &Cell| records.contains_key(&cell.key());
    if args.json {
        let done = experiment.cells.iter().filter(|cell| kept(cell)).count();
        let cells = experiment.cells.len();
        return output::json(&serde_json::json!({ "experiment": name, "cells": cells, "kept": done }));
    }
    let header = ["problem", "roofline", "solver", "budget", "seed", "result"].map(str::to_owned).to_vec();
    let row = |cell: &Cell| {
        let roofline = cell.roofline().unwrap_or("-").to_owned();
        let result = if kept(cell) { "kept" } else { "to do" };
        let (solver, budget) = (cell.solver.clone(), cell.budget.clone());
        vec![cell.case_name(), roofline, solver, budget, cell.seed.to_string(), result.to_owned()]
    };
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(experiment.cells.iter().map(row)).collect();
    output::table(&rows, &[4])
}

fn human(summary: &Summary) -> String {
    let Summary { cells, kept, done, planned, without_plan, unsupported, failed, undeclared, .. } = summary;
    let mut rows = vec![
        ("experiment", format!("{}, {cells} cells", summary.experiment)),
        ("done", format!("{done} now, {kept} before")),
        (
            "of all",
            format!("{planned} planned, {without_plan} without a plan, {unsupported} unsupported, {failed} failed"),
        ),
    ];
    if *undeclared > 0 {
        let left = format!("{undeclared} results of cells that are not declared stay in the file, not in the tables");
        rows.push(("besides", left));
    }
    rows.push(("results", summary.results.clone()));
    rows.push(("tables", format!("{}, {}", summary.table, summary.csv)));
    rows.extend(summary.picture.clone().map(|picture| ("picture", picture)));
    output::rows(rows)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|source| Error::Io { action: "write", path: path.to_owned(), source })
}

/// Cells side by side.
fn jobs(args: &Args, experiment: &Experiment) -> Result<usize> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    match (experiment.kind, args.jobs) {
        (Kind::Measure, Some(2..)) => Err(Error::InvalidSetting {
            name: "--jobs".into(),
            why: "measurements side by side would measure one another: leave it out, or give 1".into(),
        }),
        (Kind::Measure, _) => Ok(1),
        (Kind::Plan, jobs) => Ok(jobs.map_or(threads, usize::from)),
    }
}

/// Do `cells`, `jobs` at a time, each result kept in the file as it comes.
fn run_cells(file: &Path, cells: &[&Cell], jobs: usize, results: &Results) -> Result<()> {
    let bar = progress::bar("cells", cells.len());
    let threads = (std::thread::available_parallelism().map_or(1, usize::from) / jobs).max(1);
    // Tracing measures ops, which nothing may disturb: problems first, one after the other.
    let problems = cells::problems(file, cells, &bar);
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let work = || -> Result<()> {
        // A pool for each job: in one that all share, a solver that waits for its threads would begin
        // another cell meanwhile, and answer for the time that takes.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| Error::Execution { at: "starting threads".into(), why: e.to_string() })?;
        while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
            bar.set_message(format!("{}, {} at {}", cell.case_name(), cell.solver, cell.budget));
            let outcome = match cell.kind {
                Kind::Plan => pool.install(|| cells::plan(cell, &problems[&cell.case], threads)),
                Kind::Measure => cells::measure(cell),
            };
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let record = Record { key: cell.key(), version, cell: Cell::clone(cell), outcome };
            results.keep(&record)?;
            bar.inc(1);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(cells.len()) {
            scope.spawn(|| {
                if let Err(error) = work() {
                    // The others stop after the cells they are at.
                    next.store(cells.len(), Ordering::Relaxed);
                    *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                }
            });
        }
    });
    bar.finish_and_clear();
    failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
}
