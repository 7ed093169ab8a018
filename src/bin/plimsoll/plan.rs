//! `plimsoll plan`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use plimsoll::cost::Problem;
use plimsoll::plan::{Plan, Status};
use plimsoll::solver::{self, Options};
use plimsoll::{Blocker, Budget, Bytes, Error, Result};
use serde::Serialize;

use crate::output::{self, Failure};
use crate::{input, progress};

/// Plan a problem under a byte budget.
#[derive(clap::Args)]
pub struct Args {
    /// Problem file; `-` reads standard input
    problem: PathBuf,
    /// Bytes (8GiB, 1500MB, 8_000_000_000), a share of the baseline's peak (40%), or `unlimited`
    #[arg(long, short, allow_hyphen_values = true)]
    budget: String,
    /// Solver to use; `plimsoll solvers` lists them
    #[arg(long, short, default_value = "auto")]
    solver: String,
    /// Seconds the solver may take
    #[arg(long, default_value = "10", value_name = "SECONDS", allow_hyphen_values = true)]
    time_limit: f64,
    /// Seed of every random choice of the solver
    #[arg(long, default_value = "0", allow_hyphen_values = true)]
    seed: u64,
    /// Never take over an input's storage in place
    #[arg(long)]
    no_inplace: bool,
    /// Write the plan to this file
    #[arg(long, short, value_name = "PLAN")]
    out: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What `--json` prints for a plan. Bytes, nanoseconds, fractions of the baseline's time.
#[derive(Serialize)]
struct Report<'a> {
    status: Status,
    solver: &'a str,
    budget: Bytes,
    peak: Bytes,
    time: u64,
    baseline_peak: Bytes,
    baseline_time: u64,
    overhead: f64,
    lower_bound: f64,
    solve_seconds: f64,
}

/// What `--json` prints when no plan fits.
#[derive(Serialize)]
struct Refusal<'a> {
    status: Status,
    solver: &'a str,
    budget: Bytes,
    minimum: Option<Bytes>,
    blockers: &'a [Blocker],
    why: &'a str,
    solve_seconds: f64,
}

/// Plan, check, save, report.
pub fn run(args: &Args) -> Result<(), Failure> {
    let budget: Budget = args.budget.parse()?;
    let options = options(args)?;
    let problem = input::problem(&args.problem)?;
    // Before anything expensive: a wrong name is an error, not a wait.
    solver::by_name(&args.solver)?;
    let (_, baseline) = solver::baseline(&problem);
    let budget = budget.resolve(baseline.peak)?;
    let start = Instant::now();
    let found =
        progress::shown("planning", options.time_limit, || solver::plan(&problem, budget, &args.solver, &options));
    let solve_seconds = start.elapsed().as_secs_f64();
    match found {
        Ok(plan) => {
            plimsoll::check::check(&problem, &plan)?;
            if let Some(out) = &args.out {
                plan.save(out)?;
            }
            Ok(output::print(&match args.json {
                true => json(&report(&plan, solve_seconds)),
                false => table(&problem, &plan, solve_seconds),
            })?)
        }
        Err(Error::Infeasible { budget, minimum, blockers, why }) => {
            if args.json {
                output::print(&json(&Refusal {
                    status: Status::Infeasible,
                    solver: &args.solver,
                    budget,
                    minimum,
                    blockers: &blockers,
                    why: &why,
                    solve_seconds,
                }))?;
            } else {
                output::complain(refusal(budget, minimum, &blockers, &why).trim_end());
            }
            Err(Failure::Infeasible)
        }
        Err(error) => Err(error.into()),
    }
}

fn options(args: &Args) -> Result<Options> {
    let time_limit = Duration::try_from_secs_f64(args.time_limit).map_err(|_| Error::InvalidSetting {
        name: "--time-limit".into(),
        why: format!("{} is not a number of seconds, zero or more", args.time_limit),
    })?;
    Ok(Options { time_limit, seed: args.seed, inplace: !args.no_inplace, ..Options::default() })
}

fn json<T: Serialize>(report: &T) -> String {
    let mut text = serde_json::to_string(report).expect("a report is plain data");
    text.push('\n');
    text
}

fn report(plan: &Plan, solve_seconds: f64) -> Report<'_> {
    let predicted = &plan.predicted;
    Report {
        status: predicted.status,
        solver: &plan.solver,
        budget: plan.budget,
        peak: predicted.peak,
        time: predicted.time.get(),
        baseline_peak: predicted.baseline_peak,
        baseline_time: predicted.baseline_time.get(),
        overhead: predicted.overhead,
        lower_bound: predicted.lower_bound,
        solve_seconds,
    }
}

fn table(problem: &Problem, plan: &Plan, solve_seconds: f64) -> String {
    let p = &plan.predicted;
    let name = if problem.name.is_empty() { "(unnamed)" } else { &problem.name };
    output::rows([
        ("problem", format!("{name}, {} ops", problem.graph.ops().len())),
        ("solver", format!("{}, {solve_seconds:.2} s", plan.solver)),
        ("status", output::status(p.status, p.lower_bound)),
        ("budget", output::exact(plan.budget)),
        ("peak", output::exact(p.peak)),
        ("baseline", format!("{} with everything kept", output::exact(p.baseline_peak))),
        ("time", output::against(p.time, p.baseline_time, p.overhead)),
    ])
}

fn refusal(budget: Bytes, minimum: Option<Bytes>, blockers: &[Blocker], why: &str) -> String {
    let minimum = match minimum {
        Some(minimum) => output::exact(minimum),
        None => "none found".into(),
    };
    let mut text = output::rows([
        ("infeasible", why.to_owned()),
        ("budget", output::exact(budget)),
        ("smallest budget with a plan", minimum),
    ]);
    if !blockers.is_empty() {
        let mut rows = vec![vec!["in the way".to_owned(), "bytes".into(), "because".into()]];
        rows.extend(blockers.iter().map(|b| vec![b.value.clone(), b.bytes.get().to_string(), b.why.clone()]));
        text.push_str(&output::table(&rows, &[1]));
    }
    text
}
