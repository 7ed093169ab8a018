//! `plimsoll`: trace models, plan under a byte budget, check and show plans.
//!
//! Exit codes: 0 done, 1 any error (with a message on standard error), 2 there is no plan for the
//! budget, or none was found.

mod check;
mod compare;
mod devices;
mod diff;
mod estimate;
mod experiment;
mod hash;
mod input;
mod output;
mod pipeline;
mod plan;
mod progress;
mod report;
mod serve;
mod shell;
mod show;
mod simulate;
mod solvers;
mod solving;
mod sweep;
mod trace;
mod uses;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::Failure;

/// Counts what traced models really hold; see `plimsoll::alloc`.
#[global_allocator]
static ALLOCATOR: plimsoll::alloc::Counting = plimsoll::alloc::Counting;

/// Plan memory-bounded training: what to keep, recompute and offload under a byte budget.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trace a training step of a model of the zoo into a problem file
    Trace(trace::Args),
    /// Plan a problem under a byte budget
    Plan(plan::Args),
    /// Plan a problem under many budgets: the curve of peak against time
    Sweep(sweep::Args),
    /// Check that a plan is legal, within its budget, and costs what it predicts
    Check(check::Args),
    /// Show what a plan does
    Show(show::Args),
    /// Draw plans: a page of memory over time, lanes and values, a picture, or a trace
    Report(report::Args),
    /// Say what two plans of a problem do differently, and what that costs
    Diff(diff::Args),
    /// Say whether a training step fits a device, and what would
    Estimate(estimate::Args),
    /// Compare ways of training a model on a device: time, peak, and whether they compute the same
    Compare(compare::Args),
    /// Run a declared grid of problems, solvers and budgets; what is done already is not done again
    Experiment(experiment::Args),
    /// Cut a model into pipeline stages and plan cuts, schedule and recomputation together
    Pipeline(pipeline::Args),
    /// Run a pipeline schedule: how long it takes, and what each device holds
    Simulate(Box<simulate::Args>),
    /// List the solvers
    Solvers(solvers::Args),
    /// List the devices that can be planned for without having them
    Devices(devices::Args),
    /// Serve this machine's devices to other processes and machines
    ///
    /// Until it is told to end (Ctrl+C, SIGTERM). Clients prove that they know the token, which does not travel,
    /// and must be of the same version. Nothing is encrypted: listen on a network that you trust, or
    /// through a tunnel. The log goes to standard error.
    Worker(serve::Args),
    /// Print completions for a shell
    Completions(shell::Completions),
    /// Print a manual page
    Man(shell::Man),
    #[command(name = worker::COMMAND, hide = true)]
    RunOne(worker::Args),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Clap would exit with 2, which here means that no plan fits.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let result = match cli.command {
        Command::Trace(args) => trace::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Estimate(args) => estimate::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Experiment(args) => experiment::run(&args),
        Command::Pipeline(args) => pipeline::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Solvers(args) => solvers::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Worker(args) => serve::run(&args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
        Command::RunOne(args) => worker::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Failure::Error(error) = &failure {
                output::complain(&format!("error: {error}"));
            }
            ExitCode::from(failure.code())
        }
    }
}
