//! `plimsoll report`.

mod category;
mod chrome_trace;
mod data;
mod html;
mod picture;
mod player;
mod svg;
mod sweep;
mod text;

use std::path::{Path, PathBuf};

use plimsoll::cost::Problem;
use plimsoll::pipeline::{self, CostedStep};
use plimsoll::plan::Plan;
use plimsoll::{Bytes, Error, Nanos};
use serde::Serialize;

pub use self::category::{Categories, Category};
pub use self::picture::Picture;
pub use self::text::markup;

use self::data::Page;
use crate::input;
use crate::output::{self, Failure};
use crate::simulate::picture as step_picture;

/// Draw plans of a problem: a page of memory over time, lanes and values, a picture, or a trace; or a pipeline's step: who does
/// what over time, and what each device holds.
#[derive(clap::Args)]
#[command(
    group(clap::ArgGroup::new("what").required(true).multiple(true).args(["out", "svg", "trace"])),
    after_help = "Example: plimsoll report gpt.problem.json gpt.plan.json -o gpt.html"
)]
pub struct Args {
    /// Problem file, or, alone, the step file that `plimsoll pipeline -o` writes; `-` reads standard input
    problem: PathBuf,
    /// Plan files, each checked first; `-` reads standard input
    #[arg(value_name = "PLAN")]
    plans: Vec<PathBuf>,
    /// Write a page that needs nothing else, for any browser
    #[arg(long, short, value_name = "HTML")]
    out: Option<PathBuf>,
    /// Write the pictures of memory and lanes alone, those of all plans in one file
    #[arg(long, value_name = "SVG")]
    svg: Option<PathBuf>,
    /// Write a Chrome trace, which ui.perfetto.dev and chrome://tracing open
    #[arg(long, value_name = "JSON")]
    trace: Option<PathBuf>,
    /// What `plimsoll sweep --json` printed for the problem, drawn as a curve on the page
    #[arg(long, value_name = "FILE", requires = "out")]
    sweep: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. Bytes, nanoseconds, fractions of the baseline's time.
#[derive(Serialize)]
struct Report<'a> {
    problem: &'a str,
    written: Vec<Written>,
    plans: Vec<Shown>,
    baseline_peak: Bytes,
    baseline_time: Nanos,
}

/// What `--json` prints for the step of a pipeline.
#[derive(Serialize)]
struct StepReport<'a> {
    problem: &'a str,
    written: Vec<Written>,
    schedule: &'a str,
    makespan: Nanos,
    /// The largest of any device.
    peak: Bytes,
}

/// A file that was written.
#[derive(Serialize)]
struct Written {
    kind: &'static str,
    path: String,
    bytes: usize,
}

/// A plan that was shown.
#[derive(Serialize)]
struct Shown {
    file: String,
    solver: String,
    budget: Bytes,
    peak: Bytes,
    time: Nanos,
    overhead: f64,
}

/// Check, play, draw, write.
pub fn run(args: &Args) -> Result<(), Failure> {
    for out in [&args.out, &args.svg, &args.trace].into_iter().flatten() {
        let read = args.plans.iter().chain([&args.problem]).chain(&args.sweep);
        input::spare(out, read.map(PathBuf::as_path))?;
    }
    if args.plans.is_empty() {
        return step(args);
    }
    let (problem, plans) = input::checked(&args.problem, args.plans.iter().map(PathBuf::as_path))?;
    let categories = Categories::of(&problem);
    let mut pictures = Vec::new();
    for (label, plan) in labels(&args.plans).into_iter().zip(&plans) {
        pictures.push(Picture::of_plan(label, plan, &problem, &categories)?);
    }
    let baseline = Picture::of_baseline(&problem, &categories);
    let base = (baseline.timeline.peak, baseline.timeline.time);
    let points = args.sweep.as_ref().map(|path| sweep::load(path, base.1)).transpose()?.unwrap_or_default();
    let mut written = Vec::new();
    if let Some(path) = &args.svg {
        written.push(write("svg", path, &svg::draw(&problem, &categories, &pictures))?);
    }
    if let Some(path) = &args.trace {
        written.push(write("trace", path, &chrome_trace::trace(&problem, &categories, &pictures))?);
    }
    if let Some(path) = &args.out {
        pictures.push(baseline);
        let data = Page::new(&problem, &categories, &pictures, points);
        written.push(write("html", path, &html::page(&problem, &categories, &pictures, &data))?);
    }
    let shown = |(path, (plan, picture)): (&PathBuf, (&Plan, &Picture))| Shown {
        file: path.display().to_string(),
        solver: plan.solver.clone(),
        budget: plan.budget,
        peak: picture.timeline.peak,
        time: picture.timeline.time,
        overhead: picture.timeline.time.over(base.1),
    };
    let report = Report {
        problem: &problem.name,
        written,
        plans: args.plans.iter().zip(plans.iter().zip(&pictures)).map(shown).collect(),
        baseline_peak: base.0,
        baseline_time: base.1,
    };
    Ok(output::print(&match args.json {
        true => output::json(&report),
        false => table(&problem, &report),
    })?)
}

fn write(kind: &'static str, path: &Path, text: &str) -> Result<Written, Error> {
    let io = |source| Error::Io { action: "write", path: path.to_owned(), source };
    std::fs::write(path, text).map_err(io)?;
    Ok(Written { kind, path: path.display().to_string(), bytes: text.len() })
}

/// Simulate, draw, write.
fn step(args: &Args) -> Result<(), Failure> {
    for (name, given) in [("--trace", args.trace.is_some()), ("--sweep", args.sweep.is_some())] {
        if given {
            let why = "it is for plans, and the step of a pipeline is alone: give a problem and its plans".to_owned();
            return Err(Error::InvalidSetting { name: name.into(), why }.into());
        }
    }
    let hint = |error| match error {
        // A problem, most likely.
        Error::Format { .. } => {
            Error::InvalidInput { why: format!("{error}; without a PLAN it must be the step of a pipeline") }
        }
        other => other,
    };
    let CostedStep { problem, schedule, workload } = input::step(&args.problem).map_err(hint)?;
    let run = pipeline::simulate(&schedule, &workload)?;
    let memory: Vec<Option<Bytes>> = workload.devices.iter().map(|device| device.memory).collect();
    let name = step_picture::titled(&problem);
    let mut written = Vec::new();
    if let Some(path) = &args.svg {
        written.push(write("svg", path, &step_picture::svg(name, &schedule, &run, &memory))?);
    }
    if let Some(path) = &args.out {
        written.push(write("html", path, &step_picture::page(name, &schedule, &run, &memory))?);
    }
    let peak = run.devices.iter().map(|device| device.peak).max().unwrap_or_default();
    let report = StepReport { problem: name, written, schedule: schedule.name(), makespan: run.makespan, peak };
    Ok(output::print(&match args.json {
        true => output::json(&report),
        false => {
            let size = format!("{}, {} devices", report.schedule, run.devices.len());
            let mut text = output::rows([
                ("step", format!("{name}, {size}, {} microbatches", schedule.microbatches())),
                ("makespan", report.makespan.to_string()),
                ("peak", format!("{} on one device", output::exact(peak))),
            ]);
            text.push('\n');
            text.push_str(&files(&report.written));
            text
        }
    })?)
}

/// What plans are called: the names of their files, without what all plan files end in; whole paths where
/// names are not unique.
fn labels(paths: &[PathBuf]) -> Vec<String> {
    let short = |path: &PathBuf| {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let stem = name.strip_suffix(".zst").unwrap_or(&name);
        let stem = stem.strip_suffix(".json").unwrap_or(stem);
        stem.strip_suffix(".plan").unwrap_or(stem).to_owned()
    };
    let names: Vec<String> = paths.iter().map(short).collect();
    let unique = |name: &String| names.iter().filter(|other| *other == name).count() == 1;
    let label = |(path, name): (&PathBuf, &String)| {
        if unique(name) { name.clone() } else { path.display().to_string() }
    };
    paths.iter().zip(&names).map(label).collect()
}

fn table(problem: &Problem, report: &Report) -> String {
    let name = if problem.name.is_empty() { "(unnamed)" } else { &problem.name };
    let mut text = output::rows([
        ("problem", format!("{name}, {} ops", problem.graph.ops().len())),
        ("baseline", format!("{}, {} with everything kept", output::exact(report.baseline_peak), report.baseline_time)),
    ]);
    text.push('\n');
    let mut rows = vec![["plan", "budget", "peak", "time", "overhead"].map(str::to_owned).to_vec()];
    for plan in &report.plans {
        let budget = if plan.budget.get() == u64::MAX { "unlimited".into() } else { plan.budget.to_string() };
        let (peak, time) = (plan.peak.to_string(), plan.time.to_string());
        rows.push(vec![plan.file.clone(), budget, peak, time, output::percent(plan.overhead)]);
    }
    text.push_str(&output::table(&rows, &[1, 2, 3, 4]));
    text.push('\n');
    text.push_str(&files(&report.written));
    text
}

fn files(written: &[Written]) -> String {
    output::rows(written.iter().map(|w| (w.kind, format!("{} ({})", w.path, Bytes(w.bytes as u64)))))
}
