//! The topology file.

use std::fmt::Write as _;

use plimsoll::pipeline::{Device, Link, Topology, Workload, simulate};
use plimsoll::{Bytes, Error, Nanos};
use serde_json::{Value, json};

use super::generate;

fn boxes() -> Value {
    json!({"format": "plimsoll.topology", "version": 1, "name": "two boxes",
        "devices": [{"name": "a0", "node": 0, "memory": 1000, "speed": 100}, {"memory": 2000},
            {"node": 1, "memory": 3000, "speed": 50}],
        "inside": {"latency": 2, "bytes_per_s": 1_000_000_000}, "between": {"latency": 10},
        "links": [{"from": 0, "to": 1, "latency": 5, "bytes_per_s": 500_000_000}]})
}

#[test]
fn links_are_those_listed_or_of_their_kind() {
    let topology = Topology::from_json(&boxes().to_string(), "t").unwrap();
    assert_eq!(Topology::from_json(&topology.to_json(), "t").unwrap(), topology);
    let link = |from, to| topology.link(Device(from), Device(to));
    assert_eq!(link(0, 1), Link { latency: Nanos(5), bytes_per_s: 500_000_000 });
    assert_eq!(link(1, 0), Link { latency: Nanos(2), bytes_per_s: 1_000_000_000 });
    assert_eq!((link(1, 2), link(2, 0)), (link(0, 2), Link { latency: Nanos(10), bytes_per_s: 0 }));
    assert_eq!((topology.devices()[1].speed, topology.devices()[1].node), (100, 0));
}

#[test]
fn schedules_run_on_it() {
    let topology = Topology::from_json(&boxes().to_string(), "t").unwrap();
    let schedule = generate("1f1b", 3, 1, None);
    let mut work = Workload::uniform(&schedule, 10, 20, 0);
    for chunk in &mut work.chunks {
        (chunk.output, chunk.gradient) = (Bytes(100), Bytes(50));
    }
    topology.apply(&schedule, &mut work).unwrap();
    let run = simulate(&schedule, &work).unwrap();
    // F 10, sent in 200 + 5, F 10, sent in 10, F and B at half the speed, sent in 10, B, sent in 50 + 2, B.
    assert_eq!(run.makespan, Nanos(10 + 205 + 10 + 10 + 20 + 40 + 10 + 20 + 52 + 20));
    assert_eq!(work.devices.iter().map(|d| d.memory.unwrap().get()).collect::<Vec<_>>(), [1000, 2000, 3000]);
    let two = generate("1f1b", 2, 1, None);
    let error = topology.apply(&two, &mut Workload::uniform(&two, 1, 1, 1)).unwrap_err();
    assert_eq!(error.to_string(), "invalid topology: devices: there are 3; the schedule has 2");
}

#[test]
fn files_that_are_no_topology_say_what_is_wrong_and_where() {
    type Fault = (&'static str, fn(&mut Value));
    let faults: [Fault; 10] = [
        ("another format", |t| t["format"] = json!("plimsoll.plan")),
        ("a newer version", |t| t["version"] = json!(2)),
        ("an unknown field", |t| t["links"][0]["speed"] = json!(2)),
        ("no devices", |t| t["devices"] = json!([])),
        ("no memory", |t| t["devices"][1] = json!({"node": 1})),
        ("no speed", |t| t["devices"][1]["speed"] = json!(0)),
        ("a negative latency", |t| t["inside"]["latency"] = json!(-1)),
        ("no such device", |t| t["links"][0]["to"] = json!(3)),
        ("a link to itself", |t| t["links"][0]["to"] = json!(0)),
        ("a link twice", |t| {
            let link = t["links"][0].clone();
            t["links"].as_array_mut().unwrap().push(link);
        }),
    ];
    let mut text = String::new();
    for (name, fault) in faults {
        let mut raw = boxes();
        fault(&mut raw);
        let error = Topology::from_json(&raw.to_string(), "t.json").expect_err(name);
        assert!(!matches!(error, Error::Io { .. }));
        let _ = writeln!(text, "{name}\n    {error}");
    }
    insta::assert_snapshot!("faulty_topologies", text);
}
