//! The schedule file.

use std::fmt::Write as _;

use plimsoll::pipeline::{CostedStep, Link, Schedule, Workload, simulate};
use plimsoll::{Bytes, Nanos};
use serde_json::{Value, json};

use super::hand::{TWO, by_hand};
use super::{Numbers, generate};

#[test]
fn files_that_are_no_schedule_say_what_is_wrong_and_where() {
    let good: Value = serde_json::from_str(&by_hand(TWO, 1, &[]).to_json()).unwrap();
    assert_eq!(Schedule::from_json(&good.to_string(), "s.json").unwrap(), by_hand(TWO, 1, &[]));
    type Fault = (&'static str, fn(&mut Value));
    let faults: [Fault; 18] = [
        ("another format", |s| s["format"] = json!("plimsoll.plan")),
        ("a newer version", |s| s["version"] = json!(2)),
        ("no name", |s| drop(s.as_object_mut().unwrap().remove("name"))),
        ("an unknown field", |s| s["speed"] = json!(2)),
        ("a negative queue", |s| s["queue"] = json!(-1)),
        ("no devices", |s| s["devices"] = json!([])),
        ("no routes", |s| s["routes"] = json!([])),
        ("no chunks", |s| s["routes"] = json!([[]])),
        ("routes of different lengths", |s| s["routes"] = json!([[0, 1], [0]])),
        ("a chunk on no device", |s| s["routes"] = json!([[0, 2]])),
        ("no microbatches", |s| s["route_of"] = json!([])),
        ("no such route", |s| s["route_of"] = json!([0, 1])),
        ("no such microbatch", |s| s["devices"][0][2] = json!({"forward": [2, 0]})),
        ("no such chunk", |s| s["devices"][1][8] = json!({"update": 2})),
        ("no such device", |s| s["devices"][0][1] = json!({"send_activation": [0, 0, 2]})),
        ("no such action", |s| s["devices"][0][1] = json!({"wait": [0, 0]})),
        ("a number too few", |s| s["devices"][1][1] = json!({"forward": [0]})),
        ("a list that is none", |s| s["devices"][1] = json!(3)),
    ];
    let mut text = String::new();
    for (name, fault) in faults {
        let mut raw = good.clone();
        fault(&mut raw);
        let error = Schedule::from_json(&raw.to_string(), "s.json").expect_err(name);
        let _ = writeln!(text, "{name}\n    {error}");
    }
    insta::assert_snapshot!("faulty_files", text);
}

#[test]
fn files_cut_short_or_changed_anywhere_are_never_a_panic() {
    let text = generate("chimera", 2, 2, None).to_json();
    for end in 0..text.len() {
        assert!(Schedule::from_json(&text[..end], "s").is_err());
    }
    let mut numbers = Numbers(3);
    for _ in 0..2000 {
        let mut bytes = text.clone().into_bytes();
        let at = numbers.below(bytes.len() as u64) as usize;
        bytes[at] = b"0123456789,[]{}\"a"[numbers.below(17) as usize];
        // What is read after all is judged by the verifier, and run if it is legal.
        if let Ok(schedule) = Schedule::from_json(&String::from_utf8(bytes).unwrap(), "s") {
            let _ = simulate(&schedule, &Workload::uniform(&schedule, 1, 1, 1));
        }
    }
}

#[test]
fn a_step_is_read_as_it_was_written() {
    let schedule = generate("zb-h1", 3, 5, None);
    let mut workload = Workload::uniform(&schedule, 3, 2, 1);
    workload.chunks[1].output = Bytes(4096);
    workload.devices[2].memory = Some(Bytes(1 << 40));
    workload.link = Link { latency: Nanos(7), bytes_per_s: 1 << 30 };
    let route = &schedule.routes()[0];
    workload.links.insert((route[0], route[1]), Link { latency: Nanos(90), bytes_per_s: 0 });
    let step = CostedStep { problem: "a \"name\"".into(), schedule, workload };
    let directory = tempfile::tempdir().unwrap();
    for name in ["a.step.json", "a.step.json.zst"] {
        let path = directory.path().join(name);
        step.save(&path).unwrap();
        let read = CostedStep::load(&path).unwrap();
        assert_eq!(read, step);
        let run = |step: &CostedStep| simulate(&step.schedule, &step.workload).unwrap().makespan;
        assert_eq!(run(&read), run(&step));
    }
    let text = std::fs::read_to_string(directory.path().join("a.step.json")).unwrap();
    type Fault = (&'static str, fn(&mut Value));
    let faults: [Fault; 8] = [
        ("a schedule", |s| s["format"] = json!("plimsoll.schedule")),
        ("a newer version", |s| s["version"] = json!(2)),
        ("costs of another schedule", |s| drop(s["chunks"].as_array_mut().unwrap().pop())),
        ("a device too many", |s| s["devices"] = json!([])),
        ("no speed", |s| s["devices"][0]["speed"] = json!(0)),
        ("no such device", |s| s["links"][0]["to"] = json!(3)),
        ("an unknown cost", |s| s["chunks"][0]["price"] = json!(1)),
        ("too much time", |s| s["chunks"][0]["forward"] = json!(u64::MAX)),
    ];
    let mut told = String::new();
    for (name, fault) in faults {
        let mut raw: Value = serde_json::from_str(&text).unwrap();
        fault(&mut raw);
        let error = CostedStep::from_json(&raw.to_string(), "s.json").expect_err(name);
        let _ = writeln!(told, "{name}\n    {error}");
    }
    insta::assert_snapshot!("faulty_steps", told);
}
