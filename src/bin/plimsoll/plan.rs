//! `plimsoll plan`.

use std::path::PathBuf;
use std::time::Instant;

use plimsoll::cost::Problem;
use plimsoll::plan::{Plan, Status};
use plimsoll::solver;
use plimsoll::{Blocker, Budget, Bytes, Error};
use serde::Serialize;

use crate::output::{self, Failure};
use crate::solving::Solving;
use crate::{input, progress};

/// Plan a problem under a byte budget.
#[derive(clap::Args)]
#[command(after_help = "Example: plimsoll plan gpt.problem.json --budget 40% -o gpt.plan.json")]
pub struct Args {
    /// Problem file; `-` reads standard input
    problem: PathBuf,
    /// Bytes (8GiB, 1500MB, 8_000_000_000), a share of the baseline's peak (40%), or `unlimited`
    #[arg(long, short, allow_hyphen_values = true)]
    budget: String,
    #[command(flatten)]
    solving: Solving,
    /// Write the plan to this file, compressed if it ends in .zst; `-` writes it to standard output, and nothing else
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
    gap: f64,
    solve_seconds: f64,
}

/// What `--json` prints where there is no plan: `status` says whether that is proved.
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
    let options = args.solving.options()?;
    let alone = args.out.as_ref().is_some_and(|out| out.as_os_str() == "-");
    if alone && args.json {
        let why = "`--json` and the plan itself would both be written to standard output: choose one".into();
        return Err(Error::InvalidSetting { name: "--out".into(), why }.into());
    }
    if let Some(out) = &args.out {
        input::spare(out, [args.problem.as_path()])?;
    }
    let problem = input::problem(&args.problem)?;
    let (_, baseline) = solver::baseline(&problem);
    let budget = budget.resolve(baseline.peak)?;
    let start = Instant::now();
    let name = &args.solving.solver;
    let found = progress::shown(&options, |options| solver::plan(&problem, budget, name, options));
    let solve_seconds = start.elapsed().as_secs_f64();
    match found {
        Ok(plan) => {
            plimsoll::check::check(&problem, &plan)?;
            if alone {
                return Ok(output::print(&format!("{}\n", plan.to_json()))?);
            }
            if let Some(out) = &args.out {
                plan.save(out)?;
            }
            Ok(output::print(&match args.json {
                true => output::json(&report(&plan, solve_seconds)),
                false => table(&problem, &plan, solve_seconds),
            })?)
        }
        Err(Error::Infeasible { budget, minimum, proved, blockers, why }) => {
            let status = if proved { Status::Infeasible } else { Status::Unknown };
            if args.json {
                output::print(&output::json(&Refusal {
                    status,
                    solver: name,
                    budget,
                    minimum,
                    blockers: &blockers,
                    why: &why,
                    solve_seconds,
                }))?;
            } else {
                output::complain(refusal(status, budget, minimum, &blockers, &why).trim_end());
            }
            Err(Failure::NoPlan)
        }
        Err(error) => Err(error.into()),
    }
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
        gap: predicted.gap(),
        solve_seconds,
    }
}

fn table(problem: &Problem, plan: &Plan, solve_seconds: f64) -> String {
    let p = &plan.predicted;
    let name = if problem.name.is_empty() { "(unnamed)" } else { &problem.name };
    output::rows([
        ("problem", format!("{name}, {} ops", problem.graph.ops().len())),
        ("solver", format!("{}, {solve_seconds:.2} s", plan.solver)),
        ("status", output::status(p)),
        ("budget", output::exact(plan.budget)),
        ("peak", output::exact(p.peak)),
        ("baseline", format!("{} with everything kept", output::exact(p.baseline_peak))),
        ("time", output::against(p.time, p.baseline_time, p.overhead)),
        ("bound", output::bound(problem, p)),
    ])
}

fn refusal(status: Status, budget: Bytes, minimum: Option<Bytes>, blockers: &[Blocker], why: &str) -> String {
    let minimum = match minimum {
        Some(minimum) => output::exact(minimum),
        None => "none found".into(),
    };
    let mut text = output::rows([
        (output::word(status), why.to_owned()),
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
