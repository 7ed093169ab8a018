//! The schedule file.

use std::fmt::Write as _;

use plimsoll::pipeline::{Schedule, Workload, simulate};
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
