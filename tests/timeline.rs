//! The simulator against timelines drawn by hand.

use plimsoll::cost::Problem;
use plimsoll::plan::{Lane, Step, Timeline, simulate};

/// A device whose links move one byte per nanosecond to the host and half a byte back. Ops: `A`
/// makes v1 (100 B) from the resident v0, `B` makes v2 (100 B), `C` reads both, `D` makes v4.
fn problem() -> Problem {
    let text = r#"{"format":"plimsoll.problem","version":1,
        "values":[{"bytes":10},{"bytes":100},{"bytes":100},{"bytes":20},{"bytes":100}],
        "ops":[{"kind":"A","time":50,"inputs":[0],"outputs":[1]},
               {"kind":"B","time":60,"workspace":7,"inputs":[0],"outputs":[2]},
               {"kind":"C","time":30,"inputs":[1,2],"outputs":[3],"inplace":[]},
               {"kind":"D","time":40,"workspace":3,"inputs":[1],"outputs":[4],"inplace":[[0,0]]}],
        "resident":[0],"outputs":[3],
        "device":{"host_memory":1000,"d2h_bytes_per_s":1000000000,"h2d_bytes_per_s":500000000}}"#;
    Problem::from_json(text, "by hand").unwrap()
}

fn run(steps: &str) -> Timeline {
    let steps: Vec<Step> = serde_json::from_str(steps).unwrap();
    simulate(&problem(), &steps).unwrap()
}

fn spans(timeline: &Timeline) -> Vec<(usize, Lane, u64, u64)> {
    timeline.spans.iter().map(|s| (s.step, s.lane, s.start.get(), s.end.get())).collect()
}

fn live(timeline: &Timeline) -> Vec<u64> {
    timeline.live.iter().map(|b| b.get()).collect()
}

use Lane::{Compute, DeviceToHost, HostToDevice};

#[test]
fn a_drop_waits_for_the_copy_and_a_compute_for_the_prefetch() {
    // compute |--A 0..50--|--B 50..110--|wait drop 150|.........wait for v1 350|--C 350..380--|
    // D2H                 |------v1 50..150-----------|
    // H2D                                             |------v1 150..350-------|
    let t = run(
        r#"[{"compute":0},{"offload":1},{"compute":1},{"drop":1},{"prefetch":1},{"compute":2},{"drop":1},{"drop":2}]"#,
    );
    assert_eq!(
        spans(&t),
        [
            (0, Compute, 0, 50),
            (1, DeviceToHost, 50, 150),
            (2, Compute, 50, 110),
            (4, HostToDevice, 150, 350),
            (5, Compute, 350, 380)
        ]
    );
    assert_eq!(live(&t), [110, 110, 217, 110, 210, 230, 130, 30]);
    assert_eq!((t.time.get(), t.peak.get(), t.peak_step, t.host_peak.get()), (380, 230, 5, 100));
}

#[test]
fn copies_of_one_direction_queue_up() {
    // compute |--A--|--B 50..110--|          |--C 110..140--|
    // D2H           |---v1 50..150---|---v2 150..250---|
    let t = run(r#"[{"compute":0},{"offload":1},{"compute":1},{"offload":2},{"compute":2},{"drop":2},{"drop":1}]"#);
    assert_eq!(
        spans(&t),
        [
            (0, Compute, 0, 50),
            (1, DeviceToHost, 50, 150),
            (2, Compute, 50, 110),
            (3, DeviceToHost, 150, 250),
            (4, Compute, 110, 140)
        ]
    );
    // The last drops wait for the copies, but the compute lane ended before.
    assert_eq!((t.time.get(), t.host_peak.get()), (140, 200));
}

#[test]
fn a_prefetch_queues_behind_another_and_computes_wait_only_for_what_they_read() {
    // compute |A|B 50..110|..drops wait 250..........wait for v1 650|D|C|
    // D2H         |v1 50..150|v2 150..250|
    // H2D                                |v2 250..450|v1 450..650|
    let t = run(r#"[{"compute":0},{"offload":1},{"compute":1},{"offload":2},{"drop":1},{"drop":2},
                    {"prefetch":2},{"prefetch":1},{"compute":3},{"compute":2}]"#);
    assert_eq!(
        spans(&t)[4..],
        [(6, HostToDevice, 250, 450), (7, HostToDevice, 450, 650), (8, Compute, 650, 690), (9, Compute, 690, 720)]
    );
    assert_eq!(t.host_peak.get(), 200);
    assert_eq!(live(&t)[4..8], [110, 10, 110, 210]);
}

#[test]
fn compute_overlaps_with_copies_it_does_not_need() {
    // compute |A 0..50|B 50..110|..drop waits 150|A again 150..200|
    let t = run(r#"[{"compute":0},{"offload":1},{"compute":1},{"drop":1},{"compute":0}]"#);
    assert_eq!(spans(&t)[3], (4, Compute, 150, 200));
    // Without the drop nothing waits.
    let t = run(r#"[{"compute":0},{"offload":1},{"compute":1}]"#);
    assert_eq!(t.time.get(), 110);
}

#[test]
fn taking_over_waits_for_the_copy_like_a_drop() {
    // compute |A 0..50|.....wait 150|D 150..190|
    // D2H             |---v1 50..150|
    let t = run(r#"[{"compute":0},{"offload":1},{"compute":3,"inplace":[[0,0]]},{"prefetch":1},{"drop":1}]"#);
    assert_eq!(spans(&t)[2..], [(2, Compute, 150, 190), (3, HostToDevice, 190, 390)]);
    assert_eq!(live(&t), [110, 110, 113, 210, 110]);
}

#[test]
fn workspace_and_in_place() {
    // Fresh storage: both at once, and the workspace; in place: one, and the workspace.
    let fresh = run(r#"[{"compute":0},{"compute":3},{"drop":1}]"#);
    assert_eq!((live(&fresh), fresh.peak.get()), (vec![110, 213, 110], 213));
    let inplace = run(r#"[{"compute":0},{"compute":3,"inplace":[[0,0]]},{"drop":4}]"#);
    assert_eq!((live(&inplace), inplace.peak.get(), inplace.peak_step), (vec![110, 113, 10], 113, 1));
    assert_eq!(fresh.time, inplace.time);
}

#[test]
fn host_bytes_are_held_until_the_prefetch() {
    let t = run(r#"[{"compute":0},{"offload":1},{"drop":1},{"prefetch":1},{"compute":1},{"offload":2}]"#);
    assert_eq!(t.host_peak.get(), 100);
}

#[test]
fn impossible_steps_are_errors_that_name_step_and_value() {
    for (steps, want) in [
        (r#"[{"compute":9}]"#, "step 0: there is no op9: the graph has 4 ops"),
        (r#"[{"drop":9}]"#, "step 0: there is no v9: the graph has 5 values"),
        (r#"[{"offload":9}]"#, "step 0: there is no v9: the graph has 5 values"),
        (r#"[{"prefetch":9}]"#, "step 0: there is no v9: the graph has 5 values"),
        (r#"[{"compute":3}]"#, "step 0: v1 is not live"),
        (r#"[{"compute":0},{"compute":0}]"#, "step 1: op0 (A) writes v1, which is still live"),
        (
            r#"[{"compute":0},{"compute":3,"inplace":[[5,7]]}]"#,
            "step 1: op3 (D) does not allow the in-place pair [5,7]",
        ),
        (r#"[{"prefetch":1}]"#, "step 0: v1 is prefetched, but not on the host"),
        (r#"[{"compute":0},{"offload":1},{"offload":1}]"#, "step 2: v1 is on the host already"),
        (r#"[{"compute":0},{"offload":1},{"prefetch":1}]"#, "step 2: v1 is prefetched, but still live on the device"),
    ] {
        let steps: Vec<Step> = serde_json::from_str(steps).unwrap();
        let message = simulate(&problem(), &steps).unwrap_err().to_string();
        assert_eq!(message, format!("invalid problem: {want}"));
    }
}

#[test]
fn no_link_no_copy() {
    let mut without = problem();
    without.device = Default::default();
    let steps: Vec<Step> = serde_json::from_str(r#"[{"compute":0},{"offload":1}]"#).unwrap();
    let message = simulate(&without, &steps).unwrap_err().to_string();
    assert_eq!(message, "invalid problem: step 1: the device has no device-to-host link (its bandwidth is 0)");
}
