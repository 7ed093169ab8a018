//! `plimsoll compare`: variants of training one model, as an experiment that would survive review.
//!
//! ```text
//! repetition 0   seeds s0   | 50% | plain | checkpoint |      one process each, in turn,
//! repetition 1   seeds s1   | plain | checkpoint | 50% |      in an order drawn anew
//! ```
//!
//! All variants of a repetition see the same initial values and the same data, so that their
//! results pair; repetitions differ in both. What pairs show is for `plimsoll::stats` to say.

mod report;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use plimsoll::stats::Draw;
use plimsoll::{Error, zoo};
use serde::Serialize;

use crate::output::{self, Failure};
use crate::progress;
use crate::worker::{self, Answer, Ran, Task, Variant};
use report::Report;

/// Compare ways of training a model on a device: time, peak, and whether they compute the same bits.
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Model; `plimsoll trace --list` names them
    model: String,
    /// A way to train, at least two, the first being what the others are compared with: plain (plain Burn), checkpoint
    /// (Burn's own gradient checkpointing), BUDGET or BUDGET@SOLVER (50%, 2GiB@rotor, unlimited), plan:FILE; after a budget,
    /// +offload to move activations to the host too, +unfused to keep Burn from fusing operations, +one-launch to have the
    /// device record the step and replay it, +timed to have it say how long operations and copies take, and how much
    /// of the copies' time operations hide
    #[arg(long = "variant", value_name = "VARIANT", allow_hyphen_values = true)]
    variants: Vec<String>,
    /// A setting of the model, `key=value`; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", allow_hyphen_values = true)]
    set: Vec<String>,
    /// The device: flex, or wgpu or cuda where the build has the feature
    #[arg(long, default_value = "flex")]
    device: String,
    /// Repetitions; each runs every variant once. Below 6 no difference can be shown
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// Steps measured in a run
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    steps: u32,
    /// Steps before them that are not measured, the first of which plans
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    warmup: u32,
    /// Seed of the order of runs, the initial values and the data
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How probable it has to be that one variant outperforms the other for a difference to be called one
    #[arg(long, default_value_t = 0.75, value_name = "PROBABILITY", allow_hyphen_values = true)]
    threshold: f64,
    /// Seconds the planner may take
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS", allow_hyphen_values = true)]
    time_limit: f64,
    /// Write every run to this file as it ends, one JSON object a line
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the table to this file as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

const EXAMPLE: &str = "Example:
  plimsoll compare gpt --set layers=2 --variant plain --variant checkpoint --variant 40% --runs 15 --out raw.jsonl";

/// One run as `--out` keeps it.
#[derive(Serialize)]
struct Raw<'a> {
    repetition: usize,
    /// Its place among the runs of the repetition.
    place: usize,
    #[serde(flatten)]
    task: &'a Task,
    #[serde(flatten)]
    ran: &'a Ran,
}

/// Run everything in turn, then report.
pub fn run(args: &Args) -> Result<(), Failure> {
    let (variants, tasks) = (parse(args)?, tasks(args));
    let labels = labels(&variants);
    let io = |path: &PathBuf| {
        let path = path.clone();
        move |source| Error::Io { action: "write", path, source }
    };
    // That a file cannot be written is told before the runs, not after.
    let create = |path| File::create(path).map(|file| (file, path)).map_err(io(path));
    let mut out = args.out.as_ref().map(create).transpose()?;
    let mut markdown = args.markdown.as_ref().map(create).transpose()?;
    let mut runs: Vec<Vec<Ran>> = vec![Vec::new(); variants.len()];
    let mut order: Vec<usize> = (0..variants.len()).collect();
    let mut draw = Draw::new(args.seed);
    let bar = progress::bar("runs", args.runs as usize * variants.len());
    for (repetition, task) in tasks.iter().enumerate() {
        draw.shuffle(&mut order);
        for (place, &variant) in order.iter().enumerate() {
            bar.set_message(labels[variant].clone());
            let task = Task { variant: variants[variant].to_string(), ..task.clone() };
            let ran = match worker::start(&task)? {
                Answer::Ran(ran) => *ran,
                Answer::NoPlan(none) => {
                    bar.finish_and_clear();
                    output::complain(&format!("{}: {}", labels[variant], none.why));
                    return Err(Failure::NoPlan);
                }
                Answer::Failed(why) => {
                    return Err(Error::Execution { at: format!("the run of {}", labels[variant]), why }.into());
                }
            };
            if let Some((file, path)) = &mut out {
                let line = output::json(&Raw { repetition, place, task: &task, ran: &ran });
                file.write_all(line.as_bytes()).map_err(io(path))?;
            }
            runs[variant].push(ran);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let mut report = Report::new(args, labels, &runs);
    if !report.identical && variants.iter().any(Variant::is_planned) {
        report.random = worker::draws(&args.model, &settings(args)?)?;
    }
    if let Some((file, path)) = &mut markdown {
        file.write_all(report.markdown().as_bytes()).map_err(io(path))?;
    }
    Ok(output::print(&match args.json {
        true => output::json(&report),
        false => report.human(),
    })?)
}

fn settings(args: &Args) -> plimsoll::Result<zoo::Settings> {
    zoo::Settings::new().with(&args.set)
}

/// Everything that can be known to be wrong before an hour of runs.
fn parse(args: &Args) -> plimsoll::Result<Vec<Variant>> {
    let invalid = |name: &str, why: &str| Error::InvalidSetting { name: name.into(), why: why.into() };
    zoo::check(&args.model, &settings(args)?)?;
    zoo::device(&args.device)?;
    if !(args.threshold > 0.5 && args.threshold <= 1.0) {
        return Err(invalid("--threshold", "a probability above 0.5 and up to 1 is needed"));
    }
    if std::time::Duration::try_from_secs_f64(args.time_limit).is_err() {
        return Err(invalid("--time-limit", "a number of seconds, zero or more, is needed"));
    }
    if args.variants.len() < 2 {
        return Err(invalid("--variant", "give at least two: the others are compared with the first"));
    }
    args.variants.iter().map(|text| Variant::parse(text)).collect()
}

/// One task for each repetition, for all variants.
fn tasks(args: &Args) -> Vec<Task> {
    // A stream of its own, so that the seeds do not depend on how many variants there are.
    let mut seeds = Draw::new(!args.seed);
    let task = |_| Task {
        model: args.model.clone(),
        settings: args.set.clone(),
        device: args.device.clone(),
        variant: String::new(),
        steps: args.steps as usize,
        warmup: args.warmup as usize,
        init_seed: seeds.number(),
        data_seed: seeds.number(),
        time_limit: args.time_limit,
    };
    (0..args.runs).map(task).collect()
}

/// What variants are called; one that is there again, to see what no difference looks like, is numbered.
fn labels(variants: &[Variant]) -> Vec<String> {
    let again = |at: usize| variants[..at].iter().filter(|&v| *v == variants[at]).count();
    let label = |at: usize| match again(at) {
        0 => variants[at].to_string(),
        n => format!("{} ({})", variants[at], n + 1),
    };
    (0..variants.len()).map(label).collect()
}
