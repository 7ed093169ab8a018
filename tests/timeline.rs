//! The simulator against timelines drawn by hand.

use plimsoll::Bytes;
use plimsoll::cost::Problem;
use plimsoll::entity::{Entity, OpId};
use plimsoll::plan::{Lane, Step, Timeline, early, queue_ends, simulate};

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
    let ends = |limit| queue_ends(&problem(), &steps, Bytes(limit), &|_| false).unwrap();
    // 10 + 100, + 100 and 7, + 20; v2 goes; D takes v1 over and needs 3 beside it. With v2 still there and a buffer of its own
    // for v4 that is 333.
    assert_eq!(ends(333), [0usize; 0]);
    assert_eq!(ends(332), [4]);
    assert_eq!(ends(230), [4]);
}

/// What does not wait in the queue is there while an op that does has its workspace.
#[test]
fn what_does_not_wait_needs_room_beside_all_that_does() {
    let text = r#"{"format":"plimsoll.problem","version":1,"values":[{"bytes":10},{"bytes":10},{"bytes":100}],
        "ops":[{"kind":"W","time":1,"workspace":500,"inputs":[0],"outputs":[1]},
               {"kind":"L","time":1,"inputs":[],"outputs":[2]}],
        "resident":[0],"outputs":[1,2]}"#;
    let problem = Problem::from_json(text, "by hand").unwrap();
    let steps = [OpId::from_index(0), OpId::from_index(1)].map(Step::compute);
    let ends = |limit, jumps: bool| queue_ends(&problem, &steps, Bytes(limit), &|op| jumps && op.index() == 1).unwrap();
    assert_eq!((ends(520, false), ends(520, true)), (vec![], vec![1]));
    assert_eq!((ends(619, true), ends(620, true)), (vec![1], vec![]));
}

/// Layers that read what the one before made and a weight that an op before them brings, of the times and sizes given: `(copy
/// time, op time, weight bytes)`.
fn layers(of: &[(u64, u64, u64)]) -> Problem {
    let (mut values, mut ops) = (vec![r#"{"bytes":10}"#.to_owned()], Vec::new());
    for (k, &(copy, time, bytes)) in of.iter().enumerate() {
        let (weight, made) = (2 * k + 1, 2 * k + 2);
        values.push(format!(r#"{{"bytes":{bytes}}}"#));
        values.push(r#"{"bytes":10}"#.to_owned());
        ops.push(format!(r#"{{"kind":"load","loads":true,"time":{copy},"inputs":[],"outputs":[{weight}]}}"#));
        ops.push(format!(
            r#"{{"kind":"layer","time":{time},"workspace":5,"inputs":[{},{weight}],"outputs":[{made}]}}"#,
            if k == 0 { 0 } else { 2 * k }
        ));
    }
    let text = format!(
        r#"{{"format":"plimsoll.problem","version":2,"values":[{}],"ops":[{}],"resident":[0],"outputs":[{}]}}"#,
        values.join(","),
        ops.join(","),
        2 * of.len()
    );
    let problem = Problem::from_json(&text, "layers").unwrap();
    assert_eq!(Problem::from_json(&problem.to_json(), "again").unwrap(), problem);
    problem
}

/// The end of `steps` where copies are made beside the computing, one after another, and computing waits for what it reads.
fn beside(problem: &Problem, steps: &[Step]) -> u64 {
    let (mut now, mut lane, mut there) = (0, 0, std::collections::BTreeMap::new());
    for step in steps {
        let Step::Compute { op, .. } = step else { continue };
        let (time, of) = (problem.costs.time[*op].get(), &problem.graph.ops()[*op]);
        if problem.loads(*op) {
            lane = lane.max(now) + time;
            there.insert(of.outputs[0], lane);
        } else {
            now = of.inputs.iter().filter_map(|v| there.get(v)).fold(now, |now, &at| now.max(at)) + time;
        }
    }
    now
}

fn order(steps: &[Step]) -> Vec<usize> {
    let computed =
        steps.iter().filter_map(|step| if let Step::Compute { op, .. } = step { Some(op.index()) } else { None });
    computed.collect()
}

#[test]
fn copies_are_begun_as_long_before_as_they_take() {
    // Weights of 100 bytes; the second layer takes longer than the third's copy.
    let problem = layers(&[(20, 20, 100), (20, 40, 100), (20, 20, 100)]);
    let steps = plimsoll::solver::baseline(&problem).0;
    assert_eq!(order(&steps), [0, 1, 2, 3, 4, 5]);
    let at = |limit| early(&problem, &steps, Bytes(limit)).unwrap();
    let wide = at(1000);
    assert_eq!(order(&wide), [0, 2, 1, 4, 3, 5]);
    assert_eq!((beside(&problem, &steps), beside(&problem, &wide)), (140, 100));
    let timeline = simulate(&problem, &wide).unwrap();
    let spans = timeline.spans.iter().map(|span| (span.step, span.lane, span.start.get(), span.end.get()));
    let (compute, copies): (Vec<_>, Vec<_>) = spans.partition(|span| span.1 == Lane::Compute);
    assert_eq!(compute.iter().map(|it| (it.2, it.3)).collect::<Vec<_>>(), [(20, 40), (40, 80), (80, 100)]);
    assert_eq!(copies.iter().map(|it| (it.2, it.3)).collect::<Vec<_>>(), [(0, 20), (20, 40), (40, 60)]);
    assert!(copies.iter().all(|it| it.1 == Lane::HostToDevice), "{copies:?}");
    // The first layer takes 125 bytes with its weight, the others 135.
    assert_eq!(order(&at(235)), [0, 2, 1, 4, 3, 5]);
    assert_eq!(order(&at(234)), [0, 2, 1, 3, 4, 5]);
    assert_eq!(order(&at(224)), [0, 1, 2, 3, 4, 5]);
    assert_eq!(simulate(&problem, &at(235)).unwrap().peak, Bytes(235));
}

#[test]
fn copies_begun_early_stay_legal_within_the_limit_and_are_never_later() {
    let (mut seed, mut gained) = (1u64, 0);
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    for _ in 0..300 {
        let of: Vec<_> = (0..2 + random(12)).map(|_| (random(50), random(50), 1 + random(200))).collect();
        let problem = layers(&of);
        let (steps, timeline) = plimsoll::solver::baseline(&problem);
        let limit = timeline.peak + Bytes(random(500));
        let options = plimsoll::solver::Options::default();
        let plan = plimsoll::solver::plan(&problem, limit, "keep-all", &options).unwrap();
        assert_eq!(plan.steps, early(&problem, &steps, limit).unwrap());
        assert_eq!(plan.predicted.peak, simulate(&problem, &plan.steps).unwrap().peak);
        plimsoll::check::check(&problem, &plan).unwrap();
        assert!(plan.predicted.peak <= limit);
        assert_eq!(plan.steps.len(), steps.len());
        let layers_of = |steps: &[Step]| order(steps).into_iter().filter(|op| op % 2 == 1).collect::<Vec<_>>();
        assert_eq!(layers_of(&plan.steps), layers_of(&steps));
        let (before, after) = (beside(&problem, &steps), beside(&problem, &plan.steps));
        assert!(after <= before, "{of:?}: {after}, not {before}");
        for (steps, time) in [(&steps, before), (&plan.steps, after)] {
            assert_eq!(simulate(&problem, steps).unwrap().time.get(), time, "{of:?}");
        }
        // Solvers begin copies ahead by themselves, and know no bound on what that saves but the computing.
        let predicted = &plan.predicted;
        let computing: u64 = of.iter().map(|layer| layer.1).sum();
        let least = ((1.0 + predicted.lower_bound) * before as f64).round() as u64;
        assert_eq!((predicted.time.get(), predicted.baseline_time.get(), least), (after, before, computing), "{of:?}");
        gained += usize::from(after < before);
        // With room for everything no layer waits for a copy that could have been made while others ran.
        let all = early(&problem, &steps, Bytes(u64::MAX)).unwrap();
        let (mut lane, mut now) = (0, 0);
        for &(copy, time, _) in &of {
            lane += copy;
            now = lane.max(now) + time;
        }
        assert!(beside(&problem, &all) <= now + of.iter().map(|layer| layer.1).max().unwrap(), "{of:?}");
    }
    assert!(gained > 100, "{gained}");
}

/// Weights that are read twice, which a small budget has no room to keep: they are brought again, by every solver.
#[test]
fn what_is_brought_again_is_predicted_and_bounded() {
    use plimsoll::solver::{self, Options};
    let (depth, mut again) = (6, 0);
    let mut values = vec![r#"{"bytes":10}"#.to_owned()];
    values.extend((0..depth).map(|k| format!(r#"{{"bytes":{}}}"#, 50 + 10 * k)));
    values.extend((0..2 * depth).map(|_| r#"{"bytes":10}"#.to_owned()));
    let mut ops: Vec<String> = (0..depth)
        .map(|k| format!(r#"{{"kind":"load","loads":true,"time":{},"inputs":[],"outputs":[{}]}}"#, 20 + k, k + 1))
        .collect();
    ops.extend((0..2 * depth).map(|n| {
        let (weight, read, made) = (n % depth + 1, if n == 0 { 0 } else { depth + n }, depth + n + 1);
        format!(r#"{{"kind":"layer","time":25,"inputs":[{read},{weight}],"outputs":[{made}]}}"#)
    }));
    let text = format!(
        r#"{{"format":"plimsoll.problem","version":2,"values":[{}],"ops":[{}],"resident":[0],"outputs":[{}]}}"#,
        values.join(","),
        ops.join(","),
        3 * depth
    );
    let problem = Problem::from_json(&text, "twice").unwrap();
    let everything = solver::baseline(&problem).1.peak.get();
    for solver in ["auto", "evict", "recompute-all"] {
        for share in [30, 45, 60, 80, 100] {
            let budget = Bytes(everything * share / 100);
            let options = Options { node_limit: Some(200), ..Options::default() };
            let Ok(plan) = solver::plan(&problem, budget, solver, &options) else { continue };
            plimsoll::check::check(&problem, &plan).unwrap();
            let predicted = &plan.predicted;
            let runs =
                plan.steps.iter().filter(|step| matches!(step, Step::Compute { op, .. } if problem.loads(*op))).count();
            again += runs - depth;
            assert!(predicted.peak <= budget && predicted.overhead >= predicted.lower_bound, "{solver}: {predicted:?}");
            assert_eq!(predicted.time.get(), beside(&problem, &plan.steps), "{solver} at {share} %");
        }
    }
    assert!(again > 0, "nothing was brought again");
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
            let at_once = |op: super::OpId| super::Entity::index(op).is_multiple_of(3);
            let ends = queue_ends(&problem, &plan.steps, budget, &at_once).unwrap();
            assert!(ends.windows(2).all(|w| w[0] < w[1]));
            assert!(queue_ends(&problem, &plan.steps, Bytes(u64::MAX), &at_once).unwrap().is_empty());
            emptied += ends.len();
            let mut buffers = Buffers::default();
            for (v, _) in problem.graph.values().iter().filter(|(_, value)| value.resident) {
                buffers.enter(&problem, v);
            }
            // What there was when the queue was empty, and all that was made since, in place or not: an op that is alone in it
            // does as it should.
            let (mut worst, mut waiting) = (buffers.bytes(), 0);
            // What is there while each op that waits is done, workspace among it.
            let mut busy: Vec<u64> = Vec::new();
            for (index, step) in plan.steps.iter().enumerate() {
                if ends.binary_search(&index).is_ok() {
                    (worst, waiting) = (buffers.bytes(), 0);
                    busy.clear();
                }
                match step {
                    Step::Compute { op: id, inplace } => {
                        let (op, before) = (&problem.graph.ops()[*id], worst);
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
                        let during = if waiting == 0 { buffers.bytes() } else { worst };
                        inplace.iter().for_each(|&(a, _)| buffers.leave(op.inputs[a]));
                        if at_once(*id) {
                            busy.iter_mut().for_each(|there| *there += worst - before);
                            assert!(busy.iter().all(|&there| there <= budget.get()), "{seed}, step {index}: {busy:?}");
                        } else {
                            busy.push(during + problem.costs.workspace[*id].get());
                        }
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
