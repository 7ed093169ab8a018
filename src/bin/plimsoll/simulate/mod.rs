//! `plimsoll simulate`.

mod costs;
pub mod grid;
pub mod picture;

use std::path::{Path, PathBuf};

use plimsoll::pipeline::{self, Run, Schedule, Shape, Topology, Workload};
use plimsoll::{Bytes, Error, Nanos, Result};
use serde::Serialize;

use self::costs::Costs;
use crate::input;
use crate::output::{self, Failure};

/// Run a pipeline schedule: verify it, say how long it takes and what each device holds.
#[derive(clap::Args)]
#[command(
    after_help = "Example: plimsoll simulate 1f1b --stages 4 --microbatches 8 --forward 1ms --backward 1ms --weight 1ms"
)]
pub struct Args {
    /// Schedule file, or the name of a generator (see --list); `-` reads a schedule from standard input
    #[arg(required_unless_present = "list")]
    what: Option<String>,
    /// List the generators
    #[arg(long, conflicts_with_all = ["what", "json", "output"])]
    list: bool,
    /// Devices of a generated schedule
    #[arg(long, short = 'p')]
    stages: Option<usize>,
    /// Microbatches per step of a generated schedule
    #[arg(long, short = 'm')]
    microbatches: Option<usize>,
    /// Chunks per device of a generated schedule
    #[arg(long, short = 'v')]
    chunks: Option<usize>,
    /// Messages that a queue between two devices holds, instead of what the schedule says; 0 makes senders wait for
    /// their receivers
    #[arg(long)]
    queue: Option<u32>,
    /// Topology file: memory and speed of the devices, latency and bandwidth of the links between them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["memory", "speed", "latency", "bandwidth"])]
    topology: Option<PathBuf>,
    #[command(flatten)]
    costs: Costs,
    /// Save the schedule, with recomputations where they took place
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Draw the step, with what each device holds: a page, or the picture alone where the name ends in `.svg`
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Columns of the picture of the run, at most
    #[arg(long, default_value_t = 160)]
    width: usize,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    schedule: &'a str,
    chunks: usize,
    microbatches: usize,
    queue: u32,
    makespan: Nanos,
    /// Share of the devices' time that is idle.
    bubble: f64,
    devices: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    busy: Nanos,
    idle: Nanos,
    /// Idle between the device's own first and last computation.
    idle_within: Nanos,
    bubble: f64,
    peak_in_flight: usize,
    peak: Bytes,
    /// What the device has, if that was said.
    memory: Option<Bytes>,
}

/// Verify, run, tell.
pub fn run(args: &Args) -> Result<(), Failure> {
    let Some(what) = &args.what else { return Ok(output::print(&listed())?) };
    let mut schedule = schedule(args, what)?;
    if let Some(queue) = args.queue {
        schedule = schedule.with_queue(queue);
    }
    let mut workload = args.costs.workload(&schedule)?;
    if let Some(path) = &args.topology {
        Topology::load(path)?.apply(&schedule, &mut workload)?;
    }
    let run = pipeline::simulate(&schedule, &workload)?;
    if let Some(path) = &args.output {
        run.placed(&schedule).save(path)?;
    }
    if let Some(path) = &args.report {
        let memory: Vec<Option<Bytes>> = workload.devices.iter().map(|device| device.memory).collect();
        picture::write(path, what, &schedule, &run, &memory)?;
    }
    let report = report(&schedule, &workload, &run);
    let text = if args.json { output::json(&report) } else { told(&report, &schedule, &run, args.width) };
    Ok(output::print(&text)?)
}

fn listed() -> String {
    let header = ["schedule", "what it is"].map(str::to_owned).to_vec();
    let lines = pipeline::generators().into_iter().map(|g| vec![g.name().to_owned(), g.about().to_owned()]);
    output::table(&std::iter::once(header).chain(lines).collect::<Vec<_>>(), &[])
}

/// From a file or made; a file goes before a generator of its name.
fn schedule(args: &Args, what: &str) -> Result<Schedule> {
    let generated = pipeline::names().contains(&what) && !Path::new(what).is_file();
    let shape = [("stages", args.stages), ("microbatches", args.microbatches), ("chunks", args.chunks)];
    if generated || (what != "-" && !Path::new(what).exists()) {
        let generator = pipeline::by_name(what)?;
        let needed = |(name, value): (&str, Option<usize>)| {
            let why = format!("{what} is a generator and needs it");
            value.ok_or_else(|| Error::InvalidSetting { name: format!("--{name}"), why })
        };
        let (stages, microbatches) = (needed(shape[0])?, needed(shape[1])?);
        return generator.generate(Shape { stages, microbatches, chunks: args.chunks });
    }
    if let Some((name, _)) = shape.into_iter().find(|(_, value)| value.is_some()) {
        let why = "it is for generators; a schedule file has its own".to_owned();
        return Err(Error::InvalidSetting { name: format!("--{name}"), why });
    }
    input::schedule(Path::new(what))
}

fn share(idle: u128, all: u128) -> f64 {
    if all == 0 { 0.0 } else { idle as f64 / all as f64 }
}

fn report<'a>(schedule: &'a Schedule, workload: &Workload, run: &Run) -> Report<'a> {
    let rows = run.devices.iter().zip(&workload.devices).map(|(device, has)| Row {
        busy: device.busy,
        idle: device.idle,
        idle_within: device.idle_within,
        bubble: share(device.idle.get().into(), run.makespan.get().into()),
        peak_in_flight: device.peak_in_flight,
        peak: device.peak,
        memory: has.memory,
    });
    let idle = run.devices.iter().map(|device| u128::from(device.idle.get())).sum();
    Report {
        schedule: schedule.name(),
        chunks: schedule.chunks(),
        microbatches: schedule.microbatches(),
        queue: schedule.queue(),
        makespan: run.makespan,
        bubble: share(idle, u128::from(run.makespan.get()) * run.devices.len() as u128),
        devices: rows.collect(),
    }
}

fn told(report: &Report, schedule: &Schedule, run: &Run, width: usize) -> String {
    let (devices, queue) = (report.devices.len(), report.queue);
    let size = format!("{devices} devices, {} chunks, {} microbatches", report.chunks, report.microbatches);
    let peak = report.devices.iter().map(|row| row.peak).max().unwrap_or_default();
    let mut rows = vec![
        ("schedule", format!("{}, {size}, legal with queues of {queue}", report.schedule)),
        ("makespan", report.makespan.to_string()),
        ("bubble", format!("{} of all devices' time", output::percent(report.bubble))),
        ("peak", format!("{} on one device", output::exact(peak))),
    ];
    if report.devices.iter().any(|row| row.memory.is_some()) {
        let short = report.devices.iter().enumerate().filter(|(_, row)| row.memory.is_some_and(|has| has < row.peak));
        let short: Vec<String> = short.map(|(d, _)| format!("d{d}")).collect();
        let short =
            if short.is_empty() { "enough everywhere".into() } else { format!("too little on {}", short.join(", ")) };
        rows.push(("memory", short));
    }
    let mut text = output::rows(rows);
    let header = ["device", "busy", "idle", "bubble", "idle within", "in flight", "peak"].map(str::to_owned).to_vec();
    let rows = report.devices.iter().enumerate().map(|(d, row)| {
        let times = [row.busy, row.idle].map(|time| time.to_string());
        let [busy, idle] = times;
        let (bubble, within) = (output::percent(row.bubble), row.idle_within.to_string());
        vec![format!("d{d}"), busy, idle, bubble, within, row.peak_in_flight.to_string(), row.peak.to_string()]
    });
    text.push('\n');
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    text.push_str(&output::table(&rows, &[1, 2, 3, 4, 5, 6]));
    if let Some(grid) = grid::draw(schedule, run, width) {
        text.push('\n');
        text.push_str(&grid);
    }
    text
}
