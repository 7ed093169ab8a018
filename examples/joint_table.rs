//! Joint planning beside its baselines where memory is tight: the rows of the table in docs/RESULTS.md.
//!
//! ```text
//! cargo run --release --features cli,zoo,fuzzing,highs --example joint_table -- FILE... [--devices 2,4,8] [--seconds 6] [--part 0.6]
//! ```
//!
//! Each file is the problem of one microbatch; a step takes eight, by 1F1B, on equal devices between which messages take no time.
//! A device has a part of what the fullest one needs where layers are cut equally and nothing is recomputed.

use std::time::{Duration, Instant};

use clap::Parser;
use plimsoll::cost::Problem;
use plimsoll::joint::{Method, Options, PipelinePlan, methods, plan_pipeline};
use plimsoll::pipeline::Topology;
use plimsoll::{Bytes, Error, Nanos, Result};

#[derive(Parser)]
struct Args {
    /// Problem files
    #[arg(required = true)]
    files: Vec<String>,
    /// Numbers of devices
    #[arg(long, value_delimiter = ',', default_value = "2,4,8")]
    devices: Vec<usize>,
    /// What each method may take
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// Part of the memory that equal layers need
    #[arg(long, default_value_t = 0.6)]
    part: f64,
}

fn planned(problem: &Problem, topology: &Topology, method: Method, seconds: u64) -> Result<PipelinePlan> {
    let time_limit = Duration::from_secs(seconds);
    let options = Options { method, schedule: Some("1f1b".into()), time_limit, ..Options::default() };
    plan_pipeline(problem, topology, &options)
}

/// What joint planning recomputes, and the best baseline.
fn cell(problem: &Problem, devices: usize, args: &Args) -> Result<String> {
    let roomy = Topology::equal(devices, Bytes(1 << 50));
    let full = planned(problem, &roomy, Method::EqualLayers, args.seconds)?;
    let full = full.run.devices.iter().map(|device| device.peak.get()).max().unwrap_or(0);
    let topology = Topology::equal(devices, Bytes((full as f64 * args.part) as u64));
    let start = Instant::now();
    let joint = planned(problem, &topology, Method::Joint, args.seconds);
    let took = start.elapsed().as_secs_f64();
    let mut best: Option<(Nanos, Method)> = None;
    for method in methods().into_iter().filter(|method| *method != Method::Joint) {
        match planned(problem, &topology, method, args.seconds) {
            Ok(plan) if best.is_none_or(|(known, _)| plan.makespan < known) => best = Some((plan.makespan, method)),
            Ok(_) | Err(Error::Infeasible { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let plan = match joint {
        Ok(plan) => plan,
        Err(Error::Infeasible { proved, why, .. }) => {
            eprintln!("{} on {devices}, {took:.1} s: {why}", problem.name);
            assert!(best.is_none(), "joint planning begins with the baselines");
            return Ok(if proved { "none fits".into() } else { "none found".into() });
        }
        Err(error) => return Err(error),
    };
    let again: Nanos = plan.stages.iter().map(|stage| stage.overhead).sum();
    let work: Nanos = plan.stages.iter().map(|stage| stage.forward_time + stage.backward_time).sum();
    let again = 100.0 * again.get() as f64 / work.get().max(1) as f64;
    eprintln!("{} on {devices}: {} pipelines in {took:.1} s", problem.name, plan.tried);
    Ok(match best {
        None => format!("{again:.1}%; no baseline fits"),
        Some((time, method)) => {
            format!("{again:.1}%; {method} {:.3} x", time.get() as f64 / plan.makespan.get().max(1) as f64)
        }
    })
}

fn main() -> Result<()> {
    let args = Args::parse();
    for file in &args.files {
        let problem = Problem::load(file)?;
        let name = problem.name.split(' ').next().unwrap_or_default().to_owned();
        let cells = args.devices.iter().map(|&devices| cell(&problem, devices, &args));
        println!("| {name} | {} |", cells.collect::<Result<Vec<_>>>()?.join(" | "));
    }
    Ok(())
}
