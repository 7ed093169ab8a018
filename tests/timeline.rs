//! The simulator against timelines drawn by hand.

use plimsoll::Bytes;
use plimsoll::cost::Problem;
use plimsoll::plan::{Lane, Step, Timeline, queue_ends, simulate};

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

/// Where a queue is emptied: by hand, and that it is enough whatever the queue does.
#[test]
fn a_queue_is_emptied_where_drops_must_make_room() {
    let steps: Vec<Step> = serde_json::from_str(
        r#"[{"compute":0},{"compute":1},{"compute":2},{"drop":2},{"compute":3,"inplace":[[0,0]]}]"#,
    )
    .unwrap();
    let ends = |limit| queue_ends(&problem(), &steps, Bytes(limit)).unwrap();
    // 10 + 100, + 100 and 7, + 20; v2 goes; D takes v1 over and needs 3 beside it. With v2 still there and a buffer of its own
    // for v4 that is 333.
    assert_eq!(ends(333), [0usize; 0]);
    assert_eq!(ends(332), [4]);
    assert_eq!(ends(230), [4]);
}

#[cfg(feature = "fuzzing")]
mod queues {
    use plimsoll::Bytes;
    use plimsoll::cost::Problem;
    use plimsoll::entity::ValueId;
    use plimsoll::plan::{Step, queue_ends};

    /// Buffers, counted by another hand: who lives in each, and its size.
    #[derive(Default)]
    struct Buffers(Vec<(Vec<ValueId>, u64)>);

    impl Buffers {
        fn bytes(&self) -> u64 {
            self.0.iter().map(|buffer| buffer.1).sum()
        }

        fn leave(&mut self, v: ValueId) {
            self.0.iter_mut().for_each(|buffer| buffer.0.retain(|&u| u != v));
            self.0.retain(|buffer| !buffer.0.is_empty());
        }

        /// The buffer that a value joins, or the size of a new one.
        fn enter(&mut self, problem: &Problem, v: ValueId) -> u64 {
            let values = problem.graph.values();
            let (storage, shares) = (values[v].storage, values[v].alias_of.is_some());
            let home =
                self.0.iter().position(|buffer| shares && buffer.0.iter().any(|&u| values[u].storage == storage));
            match home {
                Some(at) => {
                    self.0[at].0.push(v);
                    0
                }
                None => {
                    let bytes = problem.graph.storages()[storage].bytes.get();
                    self.0.push((vec![v], bytes));
                    bytes
                }
            }
        }
    }

    #[test]
    fn what_waits_in_a_queue_never_exceeds_the_limit() {
        let (mut emptied, mut in_place) = (0, 0);
        for seed in 0..300 {
            let problem = match seed % 2 {
                0 => plimsoll::fuzz::layered(seed, 6, 4),
                _ => plimsoll::fuzz::problem(seed, plimsoll::fuzz::Shape::all(12)),
            };
            let (_, baseline) = plimsoll::solver::baseline(&problem);
            let options = plimsoll::solver::Options { node_limit: Some(50), ..Default::default() };
            let budget = Bytes(baseline.peak.get() * 7 / 10);
            let Ok(plan) = plimsoll::solver::plan(&problem, budget, "evict", &options) else { continue };
            let ends = queue_ends(&problem, &plan.steps, budget).unwrap();
            assert!(ends.windows(2).all(|w| w[0] < w[1]));
            assert!(queue_ends(&problem, &plan.steps, Bytes(u64::MAX)).unwrap().is_empty());
            emptied += ends.len();
            let mut buffers = Buffers::default();
            for (v, _) in problem.graph.values().iter().filter(|(_, value)| value.resident) {
                buffers.enter(&problem, v);
            }
            // What there was when the queue was empty, and all that was made since, in place or not: an op that is alone in it
            // does as it should.
            let (mut worst, mut waiting) = (buffers.bytes(), 0);
            for (index, step) in plan.steps.iter().enumerate() {
                if ends.binary_search(&index).is_ok() {
                    (worst, waiting) = (buffers.bytes(), 0);
                }
                match step {
                    Step::Compute { op, inplace } => {
                        let op = &problem.graph.ops()[*op];
                        in_place += inplace.len();
                        for (k, &v) in op.outputs.iter().enumerate() {
                            match inplace.iter().find(|pair| pair.1 == k) {
                                None => worst += buffers.enter(&problem, v),
                                Some(&(a, _)) => {
                                    let input = op.inputs[a];
                                    let at = buffers.0.iter().position(|buffer| buffer.0.contains(&input)).unwrap();
                                    worst += buffers.0[at].1;
                                    buffers.0[at].0.push(v);
                                }
                            }
                        }
                        inplace.iter().for_each(|&(a, _)| buffers.leave(op.inputs[a]));
                    }
                    Step::Drop(v) => buffers.leave(*v),
                    other => panic!("{other:?}"),
                }
                waiting += 1;
                assert!(waiting == 1 || worst <= budget.get(), "{seed}, step {index}: {worst} of {budget}");
            }
        }
        assert!(emptied > 500 && in_place > 10, "{emptied} {in_place}");
    }
}
