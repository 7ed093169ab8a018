//! `plimsoll estimate`: will it fit?

use std::path::Path;

use plimsoll::cost::{DeviceSpec, Problem};
use plimsoll::graph::Phase;
use plimsoll::plan::{Plan, Step};
use plimsoll::solver::{self, Options};
use plimsoll::{Budget, Bytes, Error, Result};
use serde::Serialize;

use crate::output::{self, Failure};
use crate::report::{Categories, Category, Picture};
use crate::solving::Solving;
use crate::{input, progress, trace};

/// Say whether a training step fits a device, and what would.
#[derive(clap::Args)]
#[command(after_help = "Example: plimsoll estimate gpt --set layers=12 --set batch=16 --device l4")]
pub struct Args {
    /// Problem file, or a model of the zoo (`plimsoll trace --list`); `-` reads a problem from standard input
    what: String,
    /// A setting of the model, `key=value`; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    set: Vec<String>,
    /// Bytes of optimizer state per trained parameter of the model (Adam: 8)
    #[arg(long, value_name = "BYTES", default_value_t = 8.0, allow_hyphen_values = true, value_parser = trace::optimizer_bytes)]
    optimizer_bytes: f64,
    /// Device to fit, by name (`plimsoll devices`) or a device file; a model's costs are then computed for it
    /// instead of measured here
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "budget")]
    device: Option<String>,
    /// Bytes to fit, or a share of what keeping everything takes
    #[arg(long, short)]
    budget: Option<String>,
    /// Leave out the search for the largest batch
    #[arg(long)]
    no_batch: bool,
    #[command(flatten)]
    solving: Solving,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. Bytes and fractions.
#[derive(Serialize)]
struct Report {
    problem: String,
    device: Option<String>,
    capacity: Option<Bytes>,
    /// Whether some plan fits; none where nothing was given to fit.
    fits: Option<bool>,
    fits_with_everything_kept: Option<bool>,
    /// Capacity less what the chosen plan takes.
    headroom: Option<Bytes>,
    keep_all: Row,
    /// A step of plain Burn: everything kept, and autodiff's record of it where that is in the same memory.
    plain: Row,
    /// That record, wherever it is.
    tape: Bytes,
    /// The plan for the capacity, where keeping everything does not fit.
    plan: Option<Row>,
    /// The smallest peak that a plan was found for.
    least: Option<Row>,
    largest_batch: Option<Batches>,
    smallest_device: Devices,
}

/// A plan's peak by category.
#[derive(Serialize)]
struct Row {
    peak: Bytes,
    overhead: f64,
    parameters: u64,
    state: u64,
    inputs: u64,
    gradients: u64,
    activations: u64,
    workspace: u64,
    /// Autodiff's record of the ops; planned steps have none.
    tape: u64,
}

impl Row {
    fn of(picture: &Picture, overhead: f64) -> Self {
        Self::at(picture, picture.timeline.peak_step, overhead, 0)
    }

    /// What is live during a step, with a tape.
    fn at(picture: &Picture, step: usize, overhead: f64, tape: u64) -> Self {
        let level = picture.levels.get(step).copied().unwrap_or_default();
        let at = |category: Category| level[category.index()];
        use Category::{Activations, Backward, Gradients, Inputs, Parameters, Recomputed, Results, State, Workspace};
        Self {
            peak: Bytes(level.iter().sum::<u64>().saturating_add(tape)),
            overhead,
            parameters: at(Parameters),
            state: at(State),
            inputs: at(Inputs),
            gradients: at(Gradients),
            activations: at(Activations) + at(Recomputed) + at(Backward) + at(Results),
            workspace: at(Workspace),
            tape,
        }
    }

    /// A step of plain Burn, whose tape grows with each op of the forward and is there to the end, where it is in
    /// the device's own memory.
    fn of_plain(everything: &Picture, problem: &Problem) -> Self {
        let each = if on_the_host(problem) { TAPE_PER_OP } else { 0 };
        let mut recorded = 0;
        let with_tape = everything.steps.iter().zip(&everything.levels).enumerate().map(|(step, (what, level))| {
            recorded += u64::from(is_recorded(what, problem));
            (level.iter().sum::<u64>().saturating_add(recorded * each), step, recorded * each)
        });
        let fullest = with_tape.max_by_key(|&(bytes, step, _)| (bytes, std::cmp::Reverse(step)));
        let (_, step, tape) = fullest.unwrap_or_default();
        Self::at(everything, step, 0.0, tape)
    }

    fn of_plan(plan: &Plan, problem: &Problem, categories: &Categories) -> Result<Self> {
        let picture = Picture::of_plan(String::new(), plan, problem, categories)?;
        Ok(Self::of(&picture, plan.predicted.overhead))
    }
}

/// Bytes that Burn's autodiff keeps on the heap for each op of the forward, until the backward has gone through it: the node
/// and what counts references to it, the boxed backward step, what that checkpoints, and the op's entries in the
/// tables of steps, parents, checkpoints and graphs, which grow by doubling. Measured on Burn 0.22 by what plain steps take
/// beyond their tensors (docs/RESULTS.md). It weighs something where thousands of ops make small tensors.
const TAPE_PER_OP: u64 = 700;

/// Whether autodiff keeps a record of a step: of every op of the forward, tracked or not.
fn is_recorded(step: &Step, problem: &Problem) -> bool {
    let Step::Compute { op, .. } = step else { return false };
    matches!(problem.graph.ops()[*op].phase, Phase::Forward | Phase::Loss)
}

/// Whether the device computes in the host's memory, where autodiff's tape is.
fn on_the_host(problem: &Problem) -> bool {
    problem.device.name == "cpu" || problem.device.name.starts_with("flex ")
}

/// The largest batches that fit.
#[derive(Serialize)]
struct Batches {
    given: usize,
    keep_all: Option<usize>,
    planned: Option<usize>,
    /// Of the plan for the latter.
    overhead: Option<f64>,
}

/// The smallest devices of the catalog that would do.
#[derive(Serialize)]
struct Devices {
    keep_all: Option<String>,
    planned: Option<String>,
}

/// Something whose step is estimated.
enum Subject<'a> {
    Problem(Box<Problem>),
    Model { name: &'a str, settings: Vec<(String, String)>, optimizer_bytes: f64, device: Option<DeviceSpec> },
}

impl Subject<'_> {
    fn problem(&self, batch: Option<usize>) -> Result<Problem> {
        match self {
            Subject::Problem(problem) => Ok((**problem).clone()),
            Subject::Model { name, settings, optimizer_bytes, device } => {
                let mut settings = settings.clone();
                settings.extend(batch.map(|batch| ("batch".to_owned(), batch.to_string())));
                // Other batches are computed, not measured: there are many, and what counts is memory.
                let computed = batch.map(|_| DeviceSpec::find("cpu")).transpose()?;
                trace::trace_model(name, &settings, *optimizer_bytes, device.as_ref().or(computed.as_ref()))
            }
        }
    }

    /// The batch it has, where that can be changed.
    fn batch(&self) -> Option<usize> {
        let Subject::Model { name, settings, .. } = self else { return None };
        let spec = plimsoll::zoo::spec(name).ok()?;
        let default = spec.settings.iter().find(|setting| setting.name == "batch")?.default;
        let given = settings.iter().rev().find(|(key, _)| key == "batch").map_or(default, |(_, value)| value);
        given.parse().ok()
    }
}

/// Estimate and say so, yes or no first.
pub fn run(args: &Args) -> Result<(), Failure> {
    let options = args.solving.options()?;
    let spec = args.device.as_deref().map(DeviceSpec::find).transpose()?;
    let subject = subject(args, spec.clone())?;
    let problem = subject.problem(None)?;
    let categories = Categories::of(&problem);
    let everything = Picture::of_baseline(&problem, &categories);
    let capacity = capacity(args, spec.as_ref(), &problem, everything.timeline.peak)?;
    let keep_all = Row::of(&everything, 0.0);
    let recorded = everything.steps.iter().filter(|step| is_recorded(step, &problem)).count() as u64;
    let least = least(&problem, &categories, &args.solving.solver, &options)?;
    let kept = capacity.map(|capacity| keep_all.peak <= capacity);
    let plan = match capacity.filter(|_| kept == Some(false)) {
        Some(capacity) => planned(&problem, capacity, &args.solving.solver, &options)?,
        None => None,
    };
    let plan = plan.map(|plan| Row::of_plan(&plan, &problem, &categories)).transpose()?;
    let fits = kept.map(|kept| kept || plan.is_some());
    let best = if kept == Some(true) { Some(keep_all.peak) } else { plan.as_ref().map(|row| row.peak) };
    let least_peak = least.as_ref().map_or(keep_all.peak, |row| row.peak);
    let batches = match (capacity, subject.batch()) {
        (Some(capacity), Some(given)) if !args.no_batch => {
            Some(batches(&subject, given, capacity, &args.solving.solver, &options)?)
        }
        _ => None,
    };
    let report = Report {
        problem: problem.name.clone(),
        device: spec.map(|spec| spec.device.name),
        capacity,
        fits,
        fits_with_everything_kept: kept,
        headroom: capacity.zip(best).map(|(capacity, peak)| capacity.saturating_sub(peak)),
        smallest_device: Devices { keep_all: smallest(keep_all.peak), planned: smallest(least_peak) },
        plain: Row::of_plain(&everything, &problem),
        tape: Bytes(recorded * TAPE_PER_OP),
        keep_all,
        plan,
        least,
        largest_batch: batches,
    };
    let text = if args.json { output::json(&report) } else { told(&report) };
    output::print(&text)?;
    if report.fits == Some(false) { Err(Failure::NoPlan) } else { Ok(()) }
}

fn subject(args: &Args, device: Option<DeviceSpec>) -> Result<Subject<'_>> {
    let is_model = plimsoll::zoo::models().iter().any(|spec| spec.name == args.what);
    if is_model && !Path::new(&args.what).is_file() {
        let settings = args.set.iter().map(|text| trace::setting(text)).collect::<Result<_>>()?;
        return Ok(Subject::Model { name: &args.what, settings, optimizer_bytes: args.optimizer_bytes, device });
    }
    if !args.set.is_empty() {
        let why = format!("{} is no model of the zoo, and only those have settings", args.what);
        return Err(Error::InvalidSetting { name: "--set".into(), why });
    }
    if args.what != "-" && !Path::new(&args.what).exists() {
        // Its error lists the models.
        plimsoll::zoo::spec(&args.what)?;
    }
    Ok(Subject::Problem(Box::new(input::problem(Path::new(&args.what))?)))
}

/// What is to be fitted: the budget, the device asked for, or the one in the problem.
fn capacity(args: &Args, spec: Option<&DeviceSpec>, problem: &Problem, baseline: Bytes) -> Result<Option<Bytes>> {
    if let Some(budget) = &args.budget {
        return Ok(Some(budget.parse::<Budget>()?.resolve(baseline)?));
    }
    let memory = spec.map_or(problem.device.memory, |spec| spec.device.memory);
    Ok(Some(memory).filter(|&memory| memory > Bytes::ZERO))
}

/// A plan within so many bytes, if one is found.
fn planned(problem: &Problem, budget: Bytes, solver: &str, options: &Options) -> Result<Option<Plan>> {
    let options = Options { prove: false, search_minimum: false, ..options.clone() };
    match progress::shown(&options, |options| solver::plan(problem, budget, solver, options)) {
        Ok(plan) => {
            plimsoll::check::check(problem, &plan)?;
            Ok(Some(plan))
        }
        Err(Error::Infeasible { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The plan with the smallest peak that the solver finds.
fn least(problem: &Problem, categories: &Categories, solver: &str, options: &Options) -> Result<Option<Row>> {
    let minimum = progress::shown(options, |options| solver::minimum_budget(problem, solver, options))?;
    let Some(minimum) = minimum else { return Ok(None) };
    let plan = planned(problem, minimum, solver, options)?;
    plan.map(|plan| Row::of_plan(&plan, problem, categories)).transpose()
}

/// The largest batches that fit, by bisection over traces.
fn batches(subject: &Subject, given: usize, capacity: Bytes, solver: &str, options: &Options) -> Result<Batches> {
    let mut keeps = |batch| Ok(solver::baseline(&subject.problem(Some(batch))?).1.peak <= capacity);
    let keep_all = largest(given, &mut keeps)?;
    let mut overhead = None;
    let mut plans = |batch: usize| -> Result<bool> {
        let problem = subject.problem(Some(batch))?;
        let plan = planned(&problem, capacity, solver, options)?;
        overhead = plan.as_ref().map(|plan| plan.predicted.overhead).or(overhead);
        Ok(plan.is_some())
    };
    let planned = largest(keep_all.unwrap_or(1).max(given), &mut plans)?;
    Ok(Batches { given, keep_all, planned, overhead: planned.and(overhead) })
}

/// The largest number that `fits`, looked for upwards or downwards from `from`; the last call that
/// said yes was for it. `None` if not even one fits. A number that the model refuses fits not.
fn largest(from: usize, fits: &mut dyn FnMut(usize) -> Result<bool>) -> Result<Option<usize>> {
    let mut try_it = |batch: usize| match fits(batch) {
        Err(Error::InvalidSetting { .. }) => Ok(false),
        other => other,
    };
    let (mut low, mut high) = (0, from);
    while try_it(high)? {
        (low, high) = (high, high.saturating_mul(2));
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        // Beyond a hundred what counts is the size, not the last unit.
        if low > 0 && (high - low) * 64 < low {
            break;
        }
        if try_it(middle)? { low = middle } else { high = middle }
    }
    Ok(Some(low).filter(|&low| low > 0))
}

/// The smallest device of the catalog that holds so many bytes.
fn smallest(bytes: Bytes) -> Option<String> {
    let fitting = DeviceSpec::catalog().into_iter().filter(|spec| spec.device.name != "cpu");
    fitting.map(|spec| spec.device).filter(|device| device.memory >= bytes).min_by_key(|d| d.memory).map(|d| d.name)
}

fn told(report: &Report) -> String {
    let place = report.device.clone().unwrap_or_else(|| "the budget".to_owned());
    let answer = match (report.fits, report.fits_with_everything_kept) {
        (None, _) => "nothing was given to fit: name a device (--device) or a budget (--budget)".to_owned(),
        (_, Some(true)) => format!("yes: it fits {place} with everything kept"),
        (Some(true), _) => {
            let slower = report.plan.as_ref().map_or(0.0, |row| row.overhead);
            format!("yes, with a plan: it fits {place}, {} slower", output::percent(slower))
        }
        _ => format!("no: no plan was found that fits {place}"),
    };
    let mut text = format!("{answer}\n\n");
    let mut rows = vec![("problem", report.problem.clone())];
    rows.extend(report.capacity.map(|capacity| ("capacity", output::exact(capacity))));
    rows.extend(report.headroom.map(|left| ("headroom", output::exact(left))));
    let device = |name: &Option<String>| name.clone().unwrap_or_else(|| "none of the catalog".to_owned());
    let (kept, planned) = (device(&report.smallest_device.keep_all), device(&report.smallest_device.planned));
    rows.push(("smallest GPU", format!("{kept} with everything kept, {planned} with a plan")));
    if let Some(batches) = &report.largest_batch {
        let number = |batch: Option<usize>| batch.map_or("none".to_owned(), |batch| batch.to_string());
        let slower = batches.overhead.map_or(String::new(), |x| format!(" ({} slower)", output::percent(x)));
        let (kept, planned) = (number(batches.keep_all), number(batches.planned));
        rows.push(("largest batch", format!("{kept} with everything kept, {planned} with a plan{slower}")));
    }
    text.push_str(&output::rows(rows));
    text.push('\n');
    let columns = [Some(&report.plain), Some(&report.keep_all), report.plan.as_ref(), report.least.as_ref()];
    let titles = ["plain Burn", "everything kept", "plan that fits", "smallest found"];
    let shown: Vec<(&str, &Row)> = titles.into_iter().zip(columns).filter_map(|(t, row)| Some((t, row?))).collect();
    let mut table =
        vec![std::iter::once("at the peak").chain(shown.iter().map(|(t, _)| *t)).map(str::to_owned).collect()];
    let mut line = |title: &str, of: &dyn Fn(&Row) -> String| {
        table.push(std::iter::once(title.to_owned()).chain(shown.iter().map(|(_, row)| of(row))).collect());
    };
    line("parameters", &|row| Bytes(row.parameters).to_string());
    line("optimizer state, buffers", &|row| Bytes(row.state).to_string());
    line("gradients", &|row| Bytes(row.gradients).to_string());
    line("inputs, constants", &|row| Bytes(row.inputs).to_string());
    line("activations", &|row| Bytes(row.activations).to_string());
    line("workspace", &|row| Bytes(row.workspace).to_string());
    line("autodiff's tape", &|row| Bytes(row.tape).to_string());
    line("all", &|row| row.peak.to_string());
    line("time", &|row| format!("+{}", output::percent(row.overhead)));
    text.push_str(&output::table(&table, &(1..=shown.len()).collect::<Vec<_>>()));
    text
}

#[cfg(test)]
mod tests {
    use super::largest;

    #[test]
    fn the_largest_is_found_from_below_and_from_above() {
        for from in [1, 3, 64, 1000] {
            for limit in [1, 2, 5, 63, 64, 65] {
                let found = largest(from, &mut |batch| Ok(batch <= limit)).unwrap();
                assert_eq!(found, Some(limit), "from {from}");
            }
            assert_eq!(largest(from, &mut |_| Ok(false)).unwrap(), None);
        }
        let near = largest(1, &mut |batch| Ok(batch <= 10_000)).unwrap().unwrap();
        assert!((9_800..=10_000).contains(&near));
    }
}
