//! Pipelines planned as one: cuts, schedule, recomputation.
#![cfg(feature = "fuzzing")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plimsoll::cost::{Costs, Device, Problem};
use plimsoll::entity::{EntityMap, ValueId};
use plimsoll::graph::{GraphBuilder, NewValue, Op, Phase, Replay, Role};
use plimsoll::joint::{Method, Options, PipelinePlan, methods, plan_best, plan_pipeline};
use plimsoll::pipeline::{self, ChunkCost, DeviceCost, Topology, Workload};
use plimsoll::{Bytes, Error, Nanos};

fn load(name: &str) -> Problem {
    Problem::load(format!("{}/tests/data/{name}.problem.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn options(method: Method) -> Options {
    let time_limit = Duration::from_secs(600);
    Options { method, schedule: Some("1f1b".into()), time_limit, node_limit: Some(200), ..Options::default() }
}

/// Numbers from a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// What a block of a chain takes.
#[derive(Clone, Copy, Debug)]
struct Block {
    forward: u64,
    backward: u64,
    /// Bytes of its input.
    input: u64,
}

/// Bytes of the parameter of a block: so many that its forward and backward belong together.
const WEIGHTS: u64 = 300;

/// Blocks one after the other; each backward reads the block's input and the gradient of its output.
fn chain(blocks: &[Block]) -> Problem {
    chain_of(blocks, false)
}

/// The same; `trained` blocks give out the gradients of their parameters too.
fn chain_of(blocks: &[Block], trained: bool) -> Problem {
    let mut graph = GraphBuilder::new();
    let mut value = |name: String, bytes: u64, role: Role| {
        graph.value(NewValue { name, bytes: Bytes(bytes), role, ..NewValue::default() })
    };
    let n = blocks.len();
    let size = |k: usize| if k < n { blocks[k].input } else { 1 };
    let inputs: Vec<ValueId> =
        (0..=n).map(|k| value(format!("a{k}"), size(k), if k == n { Role::Loss } else { Role::Activation })).collect();
    let gradients: Vec<ValueId> = (0..=n).map(|k| value(format!("g{k}"), size(k), Role::Activation)).collect();
    let weights: Vec<ValueId> = (0..n).map(|k| value(format!("w{k}"), WEIGHTS, Role::Parameter)).collect();
    let sums = (0..n).filter(|_| trained).map(|k| value(format!("d{k}"), WEIGHTS, Role::Gradient));
    let sums: Vec<ValueId> = sums.collect();
    let mut time = EntityMap::new();
    let mut op = |kind: &str, phase, inputs: Vec<ValueId>, outputs: Vec<ValueId>, nanos: u64| {
        time.push(Nanos(nanos));
        graph.op(Op { kind: kind.into(), phase, inputs, outputs, inplace: Vec::new(), replay: Replay::Pure });
    };
    op("Start", Phase::Forward, vec![], vec![inputs[0]], 1);
    for k in 0..n {
        op("Forward", Phase::Forward, vec![inputs[k], weights[k]], vec![inputs[k + 1]], blocks[k].forward);
    }
    op("Ones", Phase::Backward, vec![], vec![gradients[n]], 1);
    for k in (0..n).rev() {
        op(
            "Backward",
            Phase::Backward,
            vec![inputs[k], gradients[k + 1], weights[k]],
            std::iter::once(gradients[k]).chain(sums.get(k).copied()).collect(),
            blocks[k].backward,
        );
    }
    weights.iter().for_each(|&w| graph.resident(w));
    sums.iter().for_each(|&sum| graph.output(sum));
    graph.output(inputs[n]);
    graph.output(gradients[0]);
    let graph = graph.finish().unwrap();
    let workspace = EntityMap::filled(Bytes::ZERO, graph.ops().len());
    Problem::new("chain", graph, Costs { time, workspace }, Device::default()).unwrap()
}

/// Every op is in one stage, every stage's plan is legal, every device has the memory.
fn verify(problem: &Problem, topology: &Topology, plan: &PipelinePlan) {
    let mut seen = BTreeSet::new();
    for stage in &plan.stages {
        for op in &stage.ops {
            assert!(seen.insert(*op), "{op} is in two stages");
        }
        let checked = plimsoll::check::check(&stage.problem, &stage.plan).unwrap();
        assert_eq!(checked.peak, stage.plan.predicted.peak);
    }
    let inputs = problem.graph.ops().values().filter(|op| op.kind == "Step.Inputs").count();
    assert_eq!(seen.len() + inputs, problem.graph.ops().len());
    pipeline::verify(&plan.schedule).unwrap();
    assert_eq!(pipeline::simulate(&plan.schedule, &plan.workload).unwrap(), plan.run);
    for (run, place) in plan.run.devices.iter().zip(topology.devices()) {
        assert!(run.peak <= place.memory, "{} of {}", run.peak, place.memory);
    }
    assert!(plan.lower_bound <= plan.makespan);
}

/// What equal layers without recomputation need on the device that needs most.
fn equal_layers_need(problem: &Problem, devices: usize) -> Bytes {
    let plan =
        plan_pipeline(problem, &Topology::equal(devices, Bytes(1 << 50)), &options(Method::EqualLayers)).unwrap();
    plan.run.devices.iter().map(|device| device.peak).max().unwrap()
}

#[test]
fn stages_are_the_step_and_fit_their_devices() {
    for name in ["gpt-4x256-b8", "unet-3x16-b4"] {
        let problem = load(name);
        let need = equal_layers_need(&problem, 4);
        for (part, schedule) in [(1.0, "1f1b"), (0.6, "1f1b"), (0.7, "zb-h1"), (0.9, "gpipe"), (0.8, "interleaved")] {
            let topology = Topology::equal(4, Bytes((need.get() as f64 * part) as u64));
            let options = Options {
                schedule: Some(schedule.into()),
                node_limit: Some(100),
                time_limit: Duration::from_secs(1),
                ..options(Method::Joint)
            };
            match plan_pipeline(&problem, &topology, &options) {
                Ok(plan) => verify(&problem, &topology, &plan),
                Err(Error::Infeasible { why, .. }) => println!("{name} {part} {schedule}: {why}"),
                Err(error) => panic!("{name} {part} {schedule}: {error}"),
            }
        }
    }
}

/// The least time of a stage of blocks `from..to` with `count` microbatches in flight, over every legal plan: for every set
/// that is saved, a search over what is live before and after the turn.
fn least_stage(blocks: &[Block], from: usize, to: usize, count: u64, room: u64) -> Option<(u64, u64, u64)> {
    let n = blocks.len();
    let size = |k: usize| if k < n { blocks[k].input } else { 1 };
    // Bits: activations from..=to, then gradients from..=to.
    let len = to - from + 1;
    let bytes = |set: u32| -> u64 {
        (0..len).map(|i| u64::from(set >> i & 1) * size(from + i)).sum::<u64>()
            + (0..len).map(|i| u64::from(set >> (len + i) & 1) * size(from + i)).sum::<u64>()
    };
    let last = to == n;
    // A message may wait at either end.
    let waiting = if from > 0 { size(from) } else { 0 } + if last { 0 } else { size(to) };
    let room = room.checked_sub(WEIGHTS * (to - from) as u64 + waiting)?;
    let search = |start: &[(u32, u64)], budget: u64, backward: bool| -> BTreeMap<u32, u64> {
        let mut times: BTreeMap<u32, u64> = start.iter().copied().filter(|(set, _)| bytes(*set) <= budget).collect();
        let mut todo: Vec<u32> = times.keys().copied().collect();
        while let Some(set) = todo.pop() {
            let time = times[&set];
            let mut next: Vec<(u32, u64)> =
                (0..2 * len).filter(|i| set >> i & 1 == 1).map(|i| (set & !(1 << i), time)).collect();
            for i in 0..len - 1 {
                let (a, out) = (1u32 << i, 1u32 << (i + 1));
                if set & a != 0 && set & out == 0 {
                    next.push((set | out, time + blocks[from + i].forward));
                }
                let (g, made) = (1u32 << (len + i + 1), 1u32 << (len + i));
                if backward && set & a != 0 && set & g != 0 && set & made == 0 {
                    next.push((set | made, time + blocks[from + i].backward));
                }
            }
            let ones = 1u32 << (2 * len - 1);
            if backward && last && set & ones == 0 {
                next.push((set | ones, time + 1));
            }
            if from == 0 && set & 1 == 0 {
                next.push((set | 1, time + 1));
            }
            for (set, time) in next {
                if bytes(set) <= budget && times.get(&set).is_none_or(|known| time < *known) {
                    times.insert(set, time);
                    todo.push(set);
                }
            }
        }
        times
    };
    let mut best: Option<(u64, u64, u64)> = None;
    for saved in 0..1u32 << len {
        let Some(budget) = room.checked_sub((count - 1) * bytes(saved)) else { continue };
        let start = if from == 0 { 0 } else { 1 };
        // The forward reaches the end of the stage and holds the saved set right after.
        let sent = 1u32 << (len - 1);
        let Some(&forward) = search(&[(start, 0)], budget, false).get(&(saved | sent)) else { continue };
        // The last stage makes its own first gradient.
        let began = if last { saved } else { saved | 1 << (2 * len - 1) };
        let after = search(&[(began, 0)], budget, true);
        let done = after.iter().filter(|(set, _)| **set >> len & 1 == 1 && (!last || **set & sent != 0));
        if let Some(backward) = done.map(|(_, time)| *time).min()
            && best.is_none_or(|(f, b, _)| forward + backward < f + b)
        {
            best = Some((forward, backward, bytes(saved)));
        }
    }
    best
}

/// Chains of up to eight blocks over three devices: no cuts and no recomputation are better.
#[test]
fn joint_planning_is_optimal_on_chains() {
    let (mut planned, mut refused, mut proofs, mut recomputing) = (0, 0, 0, 0);
    for seed in 0..40u64 {
        let mut numbers = Numbers(seed);
        let n = 4 + (seed % 5) as usize;
        let blocks: Vec<Block> = (0..n)
            .map(|_| Block {
                forward: 10 + numbers.below(40),
                backward: 20 + numbers.below(80),
                input: 10 + numbers.below(30),
            })
            .collect();
        let problem = chain(&blocks);
        let need = equal_layers_need(&problem, 3).get();
        for percent in [100, 94, 88, 82] {
            let room = need * percent / 100;
            let (microbatches, topology) = (6, Topology::equal(3, Bytes(room)));
            let mut least: Option<u64> = None;
            let schedule = pipeline::by_name("1f1b")
                .unwrap()
                .generate(pipeline::Shape { stages: 3, microbatches, chunks: None })
                .unwrap();
            for first in 1..n - 1 {
                for second in first + 1..n {
                    let stages = [(0, first, 3), (first, second, 2), (second, n, 1)]
                        .map(|(from, to, count)| least_stage(&blocks, from, to, count, room));
                    let [Some(a), Some(b), Some(c)] = stages else { continue };
                    let chunks = [a, b, c].map(|(forward, backward, _)| ChunkCost {
                        forward: Nanos(forward),
                        input_gradient: Nanos(backward),
                        ..ChunkCost::default()
                    });
                    let device = DeviceCost { speed: 100, constant: Bytes::ZERO, memory: None };
                    let workload =
                        Workload { chunks: chunks.to_vec(), devices: vec![device; 3], ..Workload::default() };
                    let time = pipeline::simulate(&schedule, &workload).unwrap().makespan.get();
                    least = Some(least.map_or(time, |known: u64| known.min(time)));
                }
            }
            let found = plan_pipeline(
                &problem,
                &topology,
                &Options { microbatches, node_limit: Some(1000), ..options(Method::Joint) },
            );
            match (found, least) {
                (Ok(plan), Some(least)) => {
                    verify(&problem, &topology, &plan);
                    let again = plan.stages.iter().any(|stage| stage.overhead > Nanos::ZERO);
                    recomputing += usize::from(again);
                    assert_eq!(plan.makespan.get(), least, "seed {seed} at {percent} %: {blocks:?}");
                    planned += 1;
                }
                (Err(Error::Infeasible { proved, .. }), None) => {
                    refused += 1;
                    proofs += usize::from(proved);
                }
                (found, least) => panic!("seed {seed} at {percent} %: {found:?} {least:?} {blocks:?}"),
            }
        }
    }
    println!("{planned} planned, {recomputing} of them recompute; {refused} refused, of {proofs} it is proved");
    assert!(planned > 60 && recomputing > 30 && refused > 10 && proofs * 2 > refused);
}

/// A bound that knows nothing of the host proves nothing where what microbatches save can be moved there.
#[test]
fn what_the_host_makes_room_for_is_not_refused() {
    let problem = chain(&[Block { forward: 10, backward: 20, input: 200 }; 8]);
    let need = equal_layers_need(&problem, 4).get();
    let plan = |topology: &Topology| plan_pipeline(&problem, topology, &options(Method::Joint));
    let with_host = |memory: Bytes| {
        let device = format!(
            "{{\"memory\": {}, \"host_memory\": 1000000000000, \"host_bytes_per_s\": 1000000000000}}",
            memory.get()
        );
        let devices = vec![device; 4].join(", ");
        let text = format!("{{\"format\": \"plimsoll.topology\", \"version\": 1, \"devices\": [{devices}]}}");
        Topology::from_json(&text, "host").unwrap()
    };
    let proved = |topology: &Topology| matches!(plan(topology), Err(Error::Infeasible { proved: true, .. }));
    let refused: Vec<Bytes> = [75, 70, 65, 60, 55]
        .map(|percent| Bytes(need * percent / 100))
        .into_iter()
        .filter(|&memory| proved(&Topology::equal(4, memory)))
        .collect();
    let found = refused.iter().filter(|&&memory| plan(&with_host(memory)).is_ok()).count();
    println!("{} refused, of these {found} planned with a host", refused.len());
    assert!(found > 0);
}

#[test]
fn joint_planning_never_loses_to_a_baseline() {
    for (name, devices) in [("gpt-4x256-b8", 2), ("gpt-4x256-b8", 4), ("unet-3x16-b4", 2), ("resnet-8x32-b8", 4)] {
        let problem = load(name);
        let memory = Bytes((equal_layers_need(&problem, devices).get() as f64 * 0.6) as u64);
        let topology = Topology::equal(devices, memory);
        let limits = |method| Options { time_limit: Duration::from_secs(10), ..options(method) };
        let joint = plan_pipeline(&problem, &topology, &limits(Method::Joint)).unwrap();
        verify(&problem, &topology, &joint);
        for method in methods().into_iter().filter(|method| *method != Method::Joint) {
            match plan_pipeline(&problem, &topology, &limits(method)) {
                Ok(plan) => {
                    verify(&problem, &topology, &plan);
                    println!("{name} {devices} {method}: {} ({} joint)", plan.makespan, joint.makespan);
                    assert!(joint.makespan <= plan.makespan, "{name} {devices}: {method}");
                }
                Err(Error::Infeasible { why, .. }) => println!("{name} {devices} {method}: {why}"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Replicas are planned as one pipeline on the weakest of their devices, and simulated on their own.
#[test]
fn replicas_share_devices_and_microbatches() {
    let blocks: Vec<Block> =
        (0..6u64).map(|k| Block { forward: 20 + 3 * k, backward: 40 + k, input: 30 + 5 * k }).collect();
    let problem = chain_of(&blocks, true);
    let topology = |nodes: &[u32], memory: &[u64], speed: &[u32], between: &str| {
        let devices = nodes.iter().zip(memory).zip(speed);
        let devices = devices
            .map(|((node, memory), speed)| format!(r#"{{"node": {node}, "memory": {memory}, "speed": {speed}}}"#));
        let devices = devices.collect::<Vec<_>>().join(", ");
        let text =
            format!(r#"{{"format": "plimsoll.topology", "version": 1, "devices": [{devices}], "between": {between}}}"#);
        Topology::from_json(&text, "t").unwrap()
    };
    let free = "{}";
    let need = equal_layers_need(&problem, 2).get();
    let (roomy, tight) = (2 * need, need * 9 / 10);
    let own = |microbatches, replicas| Options { microbatches, replicas, ..options(Method::Joint) };
    for memory in [roomy, tight] {
        let one = topology(&[0, 0], &[memory; 2], &[100, 80], free);
        let alone = plan_pipeline(&problem, &one, &own(4, 1)).unwrap();
        // The second replica is stronger here and there, but its steps wait for the first.
        let all = topology(&[0, 0, 1, 1], &[memory, memory + 99, memory + 9, memory], &[100, 80, 120, 80], free);
        let plan = plan_pipeline(&problem, &all, &own(8, 2)).unwrap();
        verify(&problem, &all, &plan);
        assert_eq!((plan.makespan, plan.schedule.microbatches()), (alone.makespan, 8));
        assert_eq!(plan.stages.iter().map(|stage| stage.devices.clone()).collect::<Vec<_>>(), [vec![0, 2], vec![1, 3]]);
        assert_eq!(plan.run.devices[..2], alone.run.devices);
        assert_eq!(plan.run.devices[2..], alone.run.devices);
        // Around a ring of two each sends half of its sum and half of the whole, and waits for two messages.
        let linked =
            topology(&[0, 0, 1, 1], &[memory; 4], &[100, 80, 100, 80], r#"{"latency": 7, "bytes_per_s": 100000000}"#);
        let plan = plan_pipeline(&problem, &linked, &own(8, 2)).unwrap();
        verify(&problem, &linked, &plan);
        for (stage, cost) in plan.stages.iter().zip(&plan.workload.chunks) {
            let blocks = stage.ops.iter().filter(|&&op| problem.graph.ops()[op].kind == "Backward").count() as u64;
            assert_eq!(cost.update, Nanos(blocks * WEIGHTS * 10 + 2 * 7));
        }
        assert!(plan.makespan > alone.makespan);
    }
    // The routes of a bidirectional schedule are replicas too.
    let pair = topology(&[0, 1], &[roomy; 2], &[100; 2], r#"{"bytes_per_s": 100000000}"#);
    let both = Options { schedule: Some("chimera".into()), ..own(2, 1) };
    let plan = plan_pipeline(&problem, &pair, &both).unwrap();
    let all: Nanos = plan.workload.chunks.iter().map(|cost| cost.update).sum();
    assert_eq!(all, Nanos(6 * WEIGHTS * 10));
    for (replicas, microbatches, devices) in [(0, 8, 4), (3, 9, 4), (2, 7, 4), (5, 10, 4)] {
        let found = plan_pipeline(&problem, &Topology::equal(devices, Bytes(roomy)), &own(microbatches, replicas));
        assert!(matches!(found, Err(Error::InvalidSetting { .. })), "{found:?}");
    }
}

/// Of several ways to split a batch the one with the shortest step, and none that does not fit.
#[test]
fn the_best_split_is_taken() {
    let blocks = |scale: u64| -> Vec<Block> {
        (0..6).map(|_| Block { forward: 20 * scale, backward: 40 * scale, input: 30 * scale }).collect()
    };
    // A batch in 2, 4 and 8: small microbatches are a little slower for their size.
    let problems = [chain(&blocks(40)), chain(&blocks(21)), chain(&blocks(11))];
    let splits: Vec<(&Problem, usize)> = problems.iter().zip([2, 4, 8]).collect();
    let own = Options { node_limit: Some(200), ..options(Method::Joint) };
    let each = |memory| -> Vec<Option<Nanos>> {
        let topology = Topology::equal(2, Bytes(memory));
        let plan = |&(problem, microbatches): &(&Problem, usize)| {
            plan_pipeline(problem, &topology, &Options { microbatches, ..own.clone() }).ok().map(|plan| plan.makespan)
        };
        splits.iter().map(plan).collect()
    };
    let mut taken = Vec::new();
    for memory in [1 << 30, 7500, 4000] {
        let best = plan_best(&splits, &Topology::equal(2, Bytes(memory)), &own);
        let least = each(memory).into_iter().enumerate().filter_map(|(i, time)| Some((time?, i))).min();
        match (best, least) {
            (Ok((index, plan)), Some((time, _))) => {
                assert_eq!(plan.makespan, time);
                taken.push(index);
            }
            (Err(Error::Infeasible { .. }), None) => taken.push(usize::MAX),
            (best, least) => panic!("{memory}: {best:?} {least:?}"),
        }
    }
    println!("{taken:?}");
    assert!(plan_best(&[], &Topology::equal(2, Bytes(1)), &own).is_err());
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let problem = load("gpt-4x256-b8");
    let plan = |topology: &Topology, options: &Options| plan_pipeline(&problem, topology, options);
    let (roomy, tight) = (Topology::equal(2, Bytes(1 << 40)), Topology::equal(2, Bytes(1 << 20)));
    let found = plan(&tight, &options(Method::Joint));
    assert!(matches!(found, Err(Error::Infeasible { proved: true, .. })), "{found:?}");
    assert!(found.unwrap_err().to_string().contains("parameters, summed gradients and optimizer state alone are"));
    // All together would have enough for these, and none for the largest op.
    let many = Topology::equal(32, Bytes(1 << 20));
    let found = plan(&many, &options(Method::Joint));
    assert!(matches!(found, Err(Error::Infeasible { proved: true, .. })), "{found:?}");
    assert!(found.unwrap_err().to_string().contains("and no device has more than 1.00 MiB"));
    let found = plan(&roomy, &Options { microbatches: 0, ..options(Method::Joint) });
    assert!(matches!(found, Err(Error::InvalidSetting { .. })), "{found:?}");
    let found = plan(&roomy, &Options { schedule: Some("nonsense".into()), ..options(Method::Joint) });
    assert!(matches!(found, Err(Error::UnknownSchedule { .. })), "{found:?}");
    let found = plan(&Topology::equal(4000, Bytes(1 << 40)), &options(Method::Joint));
    assert!(matches!(found, Err(Error::InvalidSetting { .. })), "{found:?}");
    assert!("joined".parse::<Method>().is_err());
}
