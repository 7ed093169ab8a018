//! `plimsoll pipeline`.

use std::path::PathBuf;
use std::time::Instant;

use plimsoll::cost::Problem;
use plimsoll::joint::{self, Method, Options, PipelinePlan, plan_best};
use plimsoll::pipeline::{CostedStep, Topology};
use plimsoll::{Budget, Bytes, Error, Nanos, Result};
use serde::Serialize;

use crate::output::{self, Failure};
use crate::simulate::{grid, picture};
use crate::{input, solving};

/// Cut a model into pipeline stages and plan them together: cuts, schedule, recomputation, offload.
#[derive(clap::Args)]
#[command(
    after_help = "Example: plimsoll pipeline gpt.problem.json --devices 4 --memory 24GiB --microbatches 16 --schedule 1f1b"
)]
pub struct Args {
    /// Problem file of one microbatch; `-` reads standard input. Several for a batch that can be split in several ways
    #[arg(required = true, value_name = "PROBLEM")]
    problems: Vec<PathBuf>,
    /// Topology file: machines, their devices, what connects them
    #[arg(long, value_name = "FILE", required_unless_present = "devices", conflicts_with_all = ["devices", "memory"])]
    topology: Option<PathBuf>,
    /// Equal devices in place of a topology, between which messages take no time
    #[arg(long, short = 'p', requires = "memory")]
    devices: Option<usize>,
    /// Bytes of each of them
    #[arg(long, value_name = "BYTES", requires = "devices")]
    memory: Option<String>,
    /// Microbatches in a step, for each problem: `8`, or `4,8,16` for three, of which the best is taken
    #[arg(long, short, value_delimiter = ',', default_value = "8")]
    microbatches: Vec<usize>,
    /// Schedule (`plimsoll simulate --list`); the best of several if not given
    #[arg(long)]
    schedule: Option<String>,
    /// Chunks per device, for schedules that leave it open
    #[arg(long, short = 'v')]
    chunks: Option<usize>,
    /// How to cut and what to recompute: joint, equal-layers, equal-time, memory-aware, full-recompute, inter-op
    #[arg(long, default_value = "joint", conflicts_with = "compare")]
    method: String,
    /// Plan by every method, and compare them
    #[arg(long)]
    compare: bool,
    /// Replicas of the pipeline: they share devices and microbatches evenly, in order, and add up their gradients
    #[arg(long, default_value_t = 1)]
    replicas: usize,
    /// Seconds planning may take
    #[arg(long, default_value = "60", value_name = "SECONDS", allow_hyphen_values = true)]
    time_limit: f64,
    /// Save the schedule
    #[arg(long, value_name = "FILE")]
    save_schedule: Option<PathBuf>,
    /// Save the step, the schedule with what its parts take, which `plimsoll report` draws
    #[arg(long, short, value_name = "FILE", conflicts_with = "compare")]
    output: Option<PathBuf>,
    /// Draw the step, with what each device holds: a page, or the picture alone where the name ends in `.svg`
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    report: Option<PathBuf>,
    /// Columns up to which a picture of the step is drawn
    #[arg(long, default_value_t = 160)]
    width: usize,
    /// Print one JSON object instead of tables
    #[arg(long, conflicts_with = "compare")]
    json: bool,
}

/// Replicas of a stage that are listed.
const FEW: usize = 4;
/// Devices that are listed and drawn.
const SHOWN: usize = 128;

/// What `--json` prints. Bytes, nanoseconds.
#[derive(Serialize)]
struct Report<'a> {
    method: String,
    schedule: &'a str,
    microbatches: usize,
    makespan: Nanos,
    lower_bound: Nanos,
    /// Share of the devices' time that is idle.
    bubble: f64,
    tried: usize,
    solve_seconds: f64,
    stages: Vec<Row<'a>>,
    devices: Vec<Device>,
}

#[derive(Serialize)]
struct Row<'a> {
    devices: &'a [usize],
    ops: usize,
    forward_ops: usize,
    forward_time: Nanos,
    backward_time: Nanos,
    weight_time: Nanos,
    overhead: Nanos,
    peak: Bytes,
    saved: Bytes,
    state: Bytes,
    sent: Bytes,
    returned: Bytes,
}

#[derive(Serialize)]
struct Device {
    memory: Bytes,
    peak: Bytes,
    peak_in_flight: usize,
    busy: Nanos,
    idle: Nanos,
}

/// Plan, tell.
pub fn run(args: &Args) -> Result<(), Failure> {
    let topology = topology(args)?;
    let options = options(args)?;
    for out in [&args.save_schedule, &args.output, &args.report].into_iter().flatten() {
        input::spare(out, args.problems.iter().chain(&args.topology).map(PathBuf::as_path))?;
    }
    let problems = args.problems.iter().map(|path| input::problem(path)).collect::<Result<Vec<_>>>()?;
    let splits = splits(args, &problems)?;
    if args.compare {
        let mut rows = vec![
            ["method", "schedule", "step", "to the best", "recomputed", "largest peak"].map(str::to_owned).to_vec(),
        ];
        let mut plans = Vec::new();
        for method in joint::methods() {
            match plan_best(&splits, &topology, &Options { method, ..options.clone() }) {
                Ok((_, plan)) => plans.push((method, Some(plan))),
                Err(Error::Infeasible { .. }) => plans.push((method, None)),
                Err(error) => return Err(error.into()),
            }
        }
        let best = plans.iter().filter_map(|(_, plan)| plan.as_ref().map(|plan| plan.makespan)).min();
        let Some(best) = best else {
            output::complain("no method found a pipeline that fits");
            return Err(Failure::NoPlan);
        };
        for (method, plan) in &plans {
            rows.push(match plan {
                None => vec![method.to_string(), "-".into(), "does not fit".into(), "-".into(), "-".into(), "-".into()],
                Some(plan) => {
                    let again: Nanos = plan.stages.iter().map(|stage| stage.overhead).sum();
                    let work: Nanos =
                        plan.stages.iter().map(|s| s.forward_time + s.backward_time + s.weight_time).sum();
                    let peak = plan.run.devices.iter().map(|device| device.peak).max().unwrap_or_default();
                    vec![
                        method.to_string(),
                        plan.schedule.name().to_owned(),
                        plan.makespan.to_string(),
                        format!("{:.3} x", plan.makespan.get() as f64 / best.get().max(1) as f64),
                        output::percent(again.get() as f64 / work.get().max(1) as f64),
                        peak.to_string(),
                    ]
                }
            });
        }
        return Ok(output::print(&output::table(&rows, &[2, 3, 4, 5]))?);
    }
    let start = Instant::now();
    match plan_best(&splits, &topology, &options) {
        Ok((index, plan)) => {
            if let Some(path) = &args.save_schedule {
                plan.run.placed(&plan.schedule).save(path)?;
            }
            let problem = splits[index].0;
            if let Some(path) = &args.output {
                let (schedule, workload) = (plan.run.placed(&plan.schedule), plan.workload.clone());
                CostedStep { problem: problem.name.clone(), schedule, workload }.save(path)?;
            }
            if let Some(path) = &args.report {
                let memory: Vec<Option<Bytes>> = topology.devices().iter().map(|place| Some(place.memory)).collect();
                picture::write(path, picture::titled(&problem.name), &plan.schedule, &plan.run, &memory)?;
            }
            let seconds = start.elapsed().as_secs_f64();
            Ok(output::print(&match args.json {
                true => output::json(&report(&plan, &topology, seconds)),
                false => told(&plan, &topology, args.replicas, seconds, args.width),
            })?)
        }
        Err(Error::Infeasible { proved, why, .. }) => {
            let word = if proved { "no pipeline fits" } else { "no pipeline was found that fits" };
            output::complain(&format!("{word}: {why}"));
            Err(Failure::NoPlan)
        }
        Err(error) => Err(error.into()),
    }
}

/// Each problem with its number of microbatches.
fn splits<'a>(args: &Args, problems: &'a [Problem]) -> Result<Vec<(&'a Problem, usize)>> {
    let (given, numbers) = (problems.len(), args.microbatches.len());
    if given != numbers {
        let why = format!("{given} problems are given, and {numbers} numbers: each problem needs its own");
        return Err(Error::InvalidSetting { name: "--microbatches".into(), why });
    }
    Ok(problems.iter().zip(args.microbatches.iter().copied()).collect())
}

fn topology(args: &Args) -> Result<Topology> {
    match (&args.topology, args.devices, &args.memory) {
        (Some(path), ..) => Topology::load(path),
        (None, Some(0), _) => {
            Err(Error::InvalidSetting { name: "--devices".into(), why: "there must be at least one".into() })
        }
        (None, devices, memory) => {
            let memory: Budget = memory.as_deref().unwrap_or("unlimited").parse()?;
            Ok(Topology::equal(devices.unwrap_or(1), memory.resolve(Bytes(u64::MAX >> 2))?))
        }
    }
}

fn options(args: &Args) -> Result<Options> {
    let time_limit = solving::limit(args.time_limit)?;
    let method: Method = args.method.parse()?;
    let (schedule, chunks, replicas) = (args.schedule.clone(), args.chunks, args.replicas);
    Ok(Options { schedule, chunks, method, replicas, time_limit, ..Options::default() })
}

fn bubble(plan: &PipelinePlan) -> f64 {
    let idle: f64 = plan.run.devices.iter().map(|device| device.idle.get() as f64).sum();
    idle / (plan.makespan.get().max(1) as f64 * plan.run.devices.len() as f64)
}

fn report<'a>(plan: &'a PipelinePlan, topology: &Topology, solve_seconds: f64) -> Report<'a> {
    let row = |stage: &'a joint::StagePlan| Row {
        devices: &stage.devices,
        ops: stage.ops.len(),
        forward_ops: stage.forward_ops,
        forward_time: stage.forward_time,
        backward_time: stage.backward_time,
        weight_time: stage.weight_time,
        overhead: stage.overhead,
        peak: stage.plan.predicted.peak,
        saved: stage.saved,
        state: stage.state,
        sent: stage.sent,
        returned: stage.returned,
    };
    let devices = plan.run.devices.iter().zip(topology.devices()).map(|(run, place)| Device {
        memory: place.memory,
        peak: run.peak,
        peak_in_flight: run.peak_in_flight,
        busy: run.busy,
        idle: run.idle,
    });
    Report {
        method: plan.method.to_string(),
        schedule: plan.schedule.name(),
        microbatches: plan.schedule.microbatches(),
        makespan: plan.makespan,
        lower_bound: plan.lower_bound,
        bubble: bubble(plan),
        tried: plan.tried,
        solve_seconds,
        stages: plan.stages.iter().map(row).collect(),
        devices: devices.collect(),
    }
}

fn told(plan: &PipelinePlan, topology: &Topology, replicas: usize, seconds: f64, width: usize) -> String {
    let mut name = if topology.name().is_empty() { String::new() } else { format!(", {}", topology.name()) };
    if replicas > 1 {
        name.push_str(&format!(", {replicas} replicas"));
    }
    let above = plan.makespan.over(plan.lower_bound);
    let mut text = output::rows([
        ("devices", format!("{}{name}", plan.run.devices.len())),
        ("schedule", format!("{}, {} microbatches", plan.schedule.name(), plan.schedule.microbatches())),
        ("method", format!("{}, {} pipelines tried, {seconds:.2} s", plan.method, plan.tried)),
        ("step", format!("{}, bubble {}", plan.makespan, output::percent(bubble(plan)))),
        (
            "bound",
            format!(
                "no pipeline on these devices takes less than {} ({} below)",
                plan.lower_bound,
                output::percent(above)
            ),
        ),
    ]);
    let header = ["stage", "device", "ops", "forward", "backward", "weights", "again", "saved", "sends", "state"];
    let rows = plan.stages.iter().enumerate().map(|(c, stage)| {
        let mut devices: Vec<String> = stage.devices.iter().take(FEW).map(|d| format!("d{d}")).collect();
        if stage.devices.len() > FEW {
            devices.push(format!("and {} more", stage.devices.len() - FEW));
        }
        let time = stage.forward_time + stage.backward_time + stage.weight_time;
        vec![
            format!("c{c}"),
            devices.join(" "),
            format!("{} + {}", stage.forward_ops, stage.ops.len() - stage.forward_ops),
            stage.forward_time.to_string(),
            stage.backward_time.to_string(),
            stage.weight_time.to_string(),
            output::percent(stage.overhead.get() as f64 / time.get().max(1) as f64),
            stage.saved.to_string(),
            stage.sent.to_string(),
            stage.state.to_string(),
        ]
    });
    text.push('\n');
    let rows: Vec<Vec<String>> = std::iter::once(header.map(str::to_owned).to_vec()).chain(rows).collect();
    text.push_str(&output::table(&rows, &[2, 3, 4, 5, 6, 7, 8, 9]));
    let header = ["device", "memory", "peak", "in flight", "busy", "idle"].map(str::to_owned).to_vec();
    let shown = plan.run.devices.iter().zip(topology.devices()).enumerate().take(SHOWN);
    let rows = shown.map(|(d, (run, place))| {
        let (memory, peak) = (place.memory.to_string(), run.peak.to_string());
        let flight = run.peak_in_flight.to_string();
        vec![format!("d{d} {}", place.name), memory, peak, flight, run.busy.to_string(), run.idle.to_string()]
    });
    text.push('\n');
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    text.push_str(&output::table(&rows, &[1, 2, 3, 4, 5]));
    let devices = plan.run.devices.len();
    if devices > SHOWN {
        text.push_str(&format!("and {} more (--json tells of all)\n", devices - SHOWN));
        return text;
    }
    if let Some(grid) = grid::draw(&plan.schedule, &plan.run, width) {
        text.push('\n');
        text.push_str(&grid);
    }
    text
}
