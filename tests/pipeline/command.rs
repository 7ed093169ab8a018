//! `plimsoll simulate`, and what `plimsoll pipeline` saves.

use std::fmt::Write as _;
use std::process::{Command, Output};

use assert_cmd::cargo::CommandCargoExt as _;
use plimsoll::pipeline::{Schedule, names};
use serde_json::{Value, json};

use super::generate;

fn run(args: &[&str]) -> Output {
    let mut command = Command::cargo_bin("plimsoll").unwrap();
    command.arg("simulate").args(args).output().unwrap()
}

/// Standard output of a run that must succeed and say nothing on standard error.
fn succeed(args: &[&str]) -> String {
    let output = run(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.as_str()), (Some(0), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a run that must fail with exit code 1 and print nothing on standard output.
fn fail(args: &[&str]) -> String {
    let output = run(args);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), printed.as_str()), (Some(1), ""), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_command_prints_a_table_and_a_picture() {
    let mut text = String::new();
    for args in [
        &["1f1b", "-p", "4", "-m", "4", "--weight", "0"][..],
        &[
            "zb-h1",
            "--stages",
            "3",
            "--microbatches",
            "5",
            "--message",
            "8MiB",
            "--bandwidth",
            "1GB",
            "--constant",
            "1GiB",
        ],
        &["v-half", "-p", "2", "-m", "2", "--forward", "1,2,1,2", "--kept", "512KiB"],
        &["chimera", "-p", "2", "-m", "2", "--update", "500us", "--speed", "100,50"],
        &["gpipe", "-p", "2", "-m", "2", "--recompute", "1ms", "--checkpoint", "64KiB"],
        &["1f1b", "-p", "2", "-m", "4", "--recompute", "1ms", "--memory", "2MiB", "--constant", "256KiB,2MiB"],
        &["1f1b", "-p", "2", "-m", "3", "--topology", "tests/data/pair.topology.json", "--message", "1MB"],
        &["interleaved", "-p", "2", "-m", "64", "-v", "3"],
    ] {
        let _ = writeln!(text, "> {}\n{}", args.join(" "), succeed(args));
    }
    insta::assert_snapshot!("command", text);
    // No room, no picture.
    assert!(!succeed(&["1f1b", "-p", "2", "-m", "2", "--width", "3"]).contains("forward"));
    let listed = succeed(&["--list"]);
    assert!(names().iter().all(|name| listed.contains(name)), "{listed}");
}

#[test]
fn the_command_prints_one_object() {
    let printed =
        succeed(&["1f1b", "-p", "2", "-m", "3", "--forward", "10", "--backward", "20", "--weight", "0", "--json"]);
    assert_eq!(printed.lines().count(), 1);
    let row = |in_flight: u64| {
        let within = if in_flight == 2 { 30 } else { 0 };
        json!({"busy": 90, "idle": 30, "idle_within": within, "bubble": 0.25,
            "peak_in_flight": in_flight, "peak": in_flight << 20, "memory": null})
    };
    let want = json!({"schedule": "1f1b", "chunks": 2, "microbatches": 3, "queue": 1, "makespan": 120, "bubble": 0.25,
        "devices": [row(2), row(1)]});
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), want);
}

#[test]
fn the_command_saves_a_schedule_that_runs_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("h2.schedule.json");
    let file = file.to_str().unwrap();
    let made = succeed(&["zb-h2", "-p", "4", "-m", "7", "-o", file, "--json"]);
    assert_eq!(succeed(&[file, "--json"]), made);
    assert_eq!(Schedule::load(file).unwrap(), generate("zb-h2", 4, 7, None));
    // Recomputations are saved where they took place.
    let args = ["gpipe", "-p", "2", "-m", "3", "--recompute", "1ms", "--json", "-o", file];
    let made = succeed(&args);
    assert_eq!(succeed(&[file, "--json", "--recompute", "1ms"]), made);
    assert!(std::fs::read_to_string(file).unwrap().contains(r#"{"recompute":[0,0]}"#));
    succeed(&["zb-h2", "-p", "4", "-m", "7", "-o", file, "--json"]);
    // A file is what it says, not what it is called; and has its own size.
    assert!(fail(&[file, "-m", "7"]).contains("--microbatches"));
    let text = std::fs::read_to_string(file).unwrap().replacen(r#"{"input_gradient":[0,3]}"#, r#"{"update":3}"#, 1);
    std::fs::write(file, text).unwrap();
    assert_eq!(
        fail(&[file]),
        "error: illegal schedule: d3 action 2 (update c3): weight gradient m6 c3 still uses the weights\n"
    );
}

#[test]
fn the_command_says_what_is_wrong() {
    let mut text = String::new();
    for args in [
        &["2f2b"][..],
        &["1f1b", "-m", "4"],
        &["1f1b", "-p", "4"],
        &["chimera", "-p", "3", "-m", "4"],
        &["chimera", "-p", "2", "-m", "2", "--queue", "0"],
        &["1f1b", "-p", "2", "-m", "4", "--forward", "1ms,2ms,3ms"],
        &["1f1b", "-p", "2", "-m", "4", "--forward", "soon"],
        &["1f1b", "-p", "2", "-m", "4", "--backward", "-1"],
        &["1f1b", "-p", "2", "-m", "4", "--activation", "40%"],
        &["1f1b", "-p", "2", "-m", "4", "--speed", "0"],
        &["1f1b", "-p", "2", "-m", "4", "--forward", "10000000000s"],
        &["1f1b", "-p", "3", "-m", "4", "--topology", "tests/data/pair.topology.json"],
        &["1f1b", "-p", "3", "-m", "4", "--topology", "tests/data/tiny.problem.json"],
        &["Cargo.toml"],
        &["tests/data/tiny.problem.json"],
    ] {
        let _ = writeln!(text, "> {}\n{}", args.join(" "), fail(args).lines().next().unwrap());
    }
    insta::assert_snapshot!("command_errors", text);
    assert!(succeed(&["--help"]).contains("Example: plimsoll simulate"));
}

#[test]
fn a_planned_step_is_drawn_from_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let plimsoll = |args: &[&str]| {
        let output = Command::cargo_bin("plimsoll").unwrap().args(args).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let problem = format!("{}/tests/data/gpt-4x256-b8.problem.json", env!("CARGO_MANIFEST_DIR"));
    let (step, drawn, again, page) = (path("a.step.json"), path("a.svg"), path("b.svg"), path("b.html"));
    let plan = [
        "pipeline",
        &problem,
        "-p",
        "2",
        "--memory",
        "64GiB",
        "-m",
        "4",
        "--schedule",
        "1f1b",
        "--method",
        "equal-layers",
    ];
    let (code, told) = plimsoll(&[&plan[..], &["-o", &step, "--report", &drawn]].concat());
    assert_eq!(code, Some(0), "{told}");
    let (code, told) = plimsoll(&["report", &step, "--svg", &again, "-o", &page]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("1f1b, 2 devices, 4 microbatches") && told.contains("b.html"), "{told}");
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    assert_eq!(read(&drawn), read(&again));
    assert!(read(&page).contains(&read(&again)));
    let (code, told) = plimsoll(&["report", &step, "--trace", &path("t.json")]);
    assert_eq!(code, Some(1));
    assert!(told.contains("--trace") && told.contains("it is for plans"), "{told}");
    let (code, told) = plimsoll(&["report", &problem, "-o", &page]);
    assert_eq!(code, Some(1));
    assert!(told.contains("plimsoll.step"), "{told}");
    // What is read is not written over.
    let (code, told) = plimsoll(&["report", &step, "-o", &step]);
    assert!(code == Some(1) && told.contains("would be written over"), "{told}");
}
