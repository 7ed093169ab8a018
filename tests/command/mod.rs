//! What the tests of the command line share: running the program, and small files to run it on.
#![allow(dead_code)] // each test program uses a part

use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::CommandCargoExt as _;
use plimsoll::cost::Problem;
use serde_json::{Value, json};

pub const TINY: &str = "tests/data/tiny.problem.json";
pub const YARD: &str = "tests/data/yard.problem.json";

pub fn plimsoll(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("plimsoll").unwrap();
    command.args(args);
    command
}

pub fn run(args: &[&str]) -> Output {
    plimsoll(args).output().unwrap()
}

/// Standard output of a run that must succeed and say nothing on standard error.
pub fn succeed(args: &[&str]) -> String {
    succeeded(&mut plimsoll(args))
}

/// Standard error of a run that must fail with exit code 1 and print nothing on standard output.
pub fn fail(args: &[&str]) -> String {
    failed(&mut plimsoll(args))
}

/// [`succeed`] for a command that needs more than arguments.
pub fn succeeded(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{command:?}");
    text(&output.stdout)
}

/// [`fail`] for a command that needs more than arguments.
pub fn failed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{command:?}");
    let message = text(&output.stderr);
    assert!(!message.is_empty() && !message.contains("panicked"), "{message}");
    message
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn write(dir: &Path, name: &str, value: &Value) -> String {
    let path = dir.join(name);
    std::fs::write(&path, value.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Steps of the tiny problem that run op0 again.
pub fn tight_steps() -> Value {
    json!([{"compute": 0}, {"compute": 1}, {"drop": 2}, {"compute": 2}, {"compute": 3},
        {"compute": 4, "inplace": [[0, 0]]}, {"compute": 5, "inplace": [[0, 0]]}, {"drop": 3}, {"compute": 0},
        {"compute": 6, "inplace": [[0, 0]]}, {"drop": 2}, {"compute": 7}, {"drop": 8}])
}

/// A plan of the tiny problem made by hand, so that what is shown does not depend on a solver.
pub fn by_hand(dir: &Path) -> String {
    let problem = Problem::load(TINY).unwrap();
    let plan = json!({
        "format": "plimsoll.plan", "version": 1, "problem": problem.graph.fingerprint().to_string(),
        "budget": 11000, "solver": "by hand",
        "steps": tight_steps(),
        "predicted": {"peak": 10244, "time": 177000, "baseline_peak": 14340, "baseline_time": 127000,
            "overhead": 0.3937007874015748, "lower_bound": 0.25, "status": "feasible"}
    });
    write(dir, "by-hand.plan.json", &plan)
}
