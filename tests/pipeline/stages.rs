//! A training step cut into stages, each a problem of its own.

use std::collections::BTreeSet;

use plimsoll::check::check;
use plimsoll::cost::Problem;
use plimsoll::entity::{Entity as _, OpId, ValueId};
use plimsoll::graph::Phase;
use plimsoll::pipeline::{StageCost, StageProblem, Stages, Workload, simulate};
use plimsoll::plan::Step;
use plimsoll::{Bytes, Error, Nanos, solver};
use serde_json::{Value, json};

use super::generate;

const REAL: [&str; 4] = ["gpt-4x256-b8", "resnet-8x32-b8", "unet-3x16-b4", "seq2seq-2x128-b8"];

fn load(name: &str) -> Problem {
    Problem::load(format!("tests/data/{name}.problem.json")).unwrap()
}

/// Cuts into stages with about the same forward time.
fn even(problem: &Problem, stages: usize) -> Vec<OpId> {
    let later = |op: &OpId| problem.graph.ops()[*op].phase == Phase::Backward;
    let forwards: Vec<OpId> = problem.graph.ops().keys().take_while(|op| !later(op)).collect();
    let all: Nanos = forwards.iter().map(|&op| problem.costs.time[op]).sum();
    let (mut cuts, mut now) = (Vec::new(), Nanos(0));
    for op in forwards {
        if now.get() * stages as u64 >= all.get() * (cuts.len() as u64 + 1) && cuts.len() + 1 < stages {
            cuts.push(op);
        }
        now += problem.costs.time[op];
    }
    cuts
}

/// The values of the whole step among these.
fn whole(stage: &StageProblem, values: impl IntoIterator<Item = ValueId>) -> Vec<ValueId> {
    values.into_iter().filter_map(|v| stage.values[v]).collect()
}

/// What the op that stands for other stages reads and hands over.
fn stands_for(stage: &StageProblem, kind: &str) -> Option<(BTreeSet<ValueId>, BTreeSet<ValueId>)> {
    let op = stage.problem.graph.ops().values().find(|op| op.kind == kind)?;
    let all = |values: &[ValueId]| whole(stage, values.iter().copied()).into_iter().collect();
    Some((all(&op.inputs), all(&op.outputs)))
}

fn set(values: &[ValueId]) -> BTreeSet<ValueId> {
    values.iter().copied().collect()
}

#[test]
fn stages_together_are_the_step() {
    for name in REAL {
        let problem = load(name);
        for count in [1, 2, 3, 4, 8] {
            let cuts = even(&problem, count);
            let stages = Stages::cut(&problem, &cuts).unwrap();
            let parts: Vec<StageProblem> = (0..stages.count()).map(|k| stages.problem(k).unwrap()).collect();
            let what = format!("{name} {count}");
            let mut done = BTreeSet::new();
            let mut outputs = BTreeSet::new();
            for (k, part) in parts.iter().enumerate() {
                let graph = &part.problem.graph;
                let mut last = None;
                for (op, &id) in part.ops.iter() {
                    let Some(id) = id else { continue };
                    // The same op, of the same values, in the same order, on the right side of the exchange.
                    let (here, there) = (&graph.ops()[op], &problem.graph.ops()[id]);
                    assert_eq!((&here.kind, here.replay), (&there.kind, there.replay), "{what}");
                    assert_eq!(whole(part, here.inputs.iter().copied()), there.inputs, "{what} {id}");
                    assert_eq!(whole(part, here.outputs.iter().copied()), there.outputs, "{what} {id}");
                    assert_eq!(part.problem.costs.time[op], problem.costs.time[id]);
                    assert_eq!(stages.stage_of(id), k);
                    assert_eq!(op >= part.backward, there.phase == Phase::Backward, "{what} {id}");
                    assert!(last < Some(id) && done.insert(id), "{what} {id}");
                    last = Some(id);
                }
                // Neighbours agree on every message.
                let (none, received) = (BTreeSet::new(), stands_for(part, "Pipeline.Receive"));
                let exchanged = stands_for(part, "Pipeline.Exchange").unwrap_or_default();
                let made = set(&whole(part, graph.outputs().iter().copied()));
                if k > 0 {
                    assert_eq!(received.unwrap(), (none.clone(), set(stages.sent_up(k - 1))), "{what}");
                    assert!(made.is_superset(&set(stages.sent_down(k - 1))), "{what}");
                    assert_eq!(
                        (part.received, part.gradient_sent),
                        (parts[k - 1].sent, parts[k - 1].gradient_received)
                    );
                }
                if k + 1 < parts.len() {
                    assert_eq!(exchanged, (set(stages.sent_up(k)), set(stages.sent_down(k))), "{what}");
                    assert!(part.sent > Bytes(0), "{what}");
                }
                let sent = if k > 0 { set(stages.sent_down(k - 1)) } else { none };
                let wanted = set(problem.graph.outputs());
                assert!(made.iter().all(|v| sent.contains(v) || wanted.contains(v)), "{what}");
                outputs.extend(made.into_iter().filter(|v| wanted.contains(v)));
            }
            assert_eq!(done.len(), problem.graph.ops().len(), "{what}");
            assert_eq!(outputs, set(problem.graph.outputs()), "{what}");
        }
    }
}

#[test]
fn one_stage_is_the_step_itself() {
    for name in REAL {
        let problem = load(name);
        let part = Stages::cut(&problem, &[]).unwrap().problem(0).unwrap();
        let unread =
            problem.graph.values().iter().filter(|(v, value)| value.resident && problem.graph.uses(*v).is_empty());
        let unread: Bytes = unread.map(|(_, value)| value.bytes).sum();
        let [(_, a), (_, b)] = [&problem, &part.problem].map(solver::baseline);
        assert_eq!((a.time, a.peak), (b.time, b.peak + unread), "{name}");
    }
}

#[test]
fn stages_are_problems_that_any_solver_plans() {
    let problem = load("gpt-4x256-b8");
    let stages = Stages::cut(&problem, &even(&problem, 4)).unwrap();
    for k in 0..4 {
        let part = stages.problem(k).unwrap().problem;
        // As a file it is the same problem.
        let read = Problem::from_json(&part.to_json(), "stage").unwrap();
        assert_eq!(read.graph.fingerprint(), part.graph.fingerprint());
        let (_, baseline) = solver::baseline(&part);
        let (low, high) = (part.trivial_bound(), baseline.peak);
        let budget = Bytes(low.get() + (high.get() - low.get()) * 7 / 10);
        for name in ["evict", "recompute-all"] {
            let options = solver::Options { node_limit: Some(200), ..solver::Options::default() };
            let plan = solver::plan(&part, budget, name, &options).unwrap();
            check(&part, &plan).unwrap();
            assert!(plan.predicted.peak <= budget, "stage {k} {name}");
        }
    }
}

#[test]
fn planned_stages_run_as_a_pipeline_within_their_rows() {
    let problem = load("gpt-4x256-b8");
    let stages = Stages::cut(&problem, &even(&problem, 4)).unwrap();
    let parts: Vec<StageProblem> = (0..4).map(|k| stages.problem(k).unwrap()).collect();
    let costs = |steps: &dyn Fn(&Problem) -> Vec<Step>| -> Vec<StageCost> {
        parts.iter().enumerate().map(|(k, part)| stages.cost(k, part, &steps(&part.problem)).unwrap()).collect()
    };
    let all = costs(&|part| solver::baseline(part).0);
    let tight = |part: &Problem| Bytes(solver::baseline(part).1.peak.get() * 3 / 4);
    let some = costs(&|part| {
        let options = solver::Options { node_limit: Some(200), ..solver::Options::default() };
        solver::plan(part, tight(part), "evict", &options).unwrap().steps
    });
    for (k, (all, some)) in all.iter().zip(&some).enumerate() {
        let part = &parts[k].problem;
        let (_, baseline) = solver::baseline(part);
        assert_eq!(all.memory(1) - all.gradients, baseline.peak, "one microbatch is the step by itself");
        assert_eq!(all.forward + all.backward, baseline.time);
        assert_eq!((some.forward, all.gradients), (all.forward, some.gradients));
        assert!(some.memory(1) - some.gradients <= tight(part), "{k}: {some:?}");
        assert!(some.backward > all.backward && some.kept < all.kept, "{k}: {some:?} {all:?}");
        assert_eq!((all.state, all.output, all.gradient), (Bytes(0), parts[k].sent, parts[k].gradient_sent));
    }
    let gradients: Bytes = all.iter().map(|stage| stage.gradients).sum();
    let outputs = problem.graph.outputs().iter().map(|&v| &problem.graph.values()[v]);
    let behind =
        outputs.filter(|value| value.producer.is_some_and(|op| problem.graph.ops()[op].phase == Phase::Backward));
    assert_eq!(gradients, behind.map(|value| value.bytes).sum());
    let mut makespans = Vec::new();
    for costs in [&all, &some] {
        let schedule = generate("1f1b", 4, 8, None);
        let run = simulate(&schedule, &Workload::of_stages(costs)).unwrap();
        for (k, device) in run.devices.iter().enumerate() {
            assert_eq!((device.peak_in_flight, device.peak), (4 - k, costs[k].memory(4 - k)));
            assert_eq!(device.busy.get(), 8 * (costs[k].forward + costs[k].backward).get());
        }
        makespans.push(run.makespan);
    }
    assert!(makespans[0] < makespans[1]);
}

#[test]
fn states_that_no_op_reads_are_shared_by_parameters() {
    let problem = load("seq2seq-2x128-b8");
    let unread = problem.graph.values().iter().filter(|(v, x)| x.resident && problem.graph.uses(*v).is_empty());
    let unread: u64 = unread.map(|(_, value)| value.bytes.get()).sum();
    let stages = Stages::cut(&problem, &even(&problem, 3)).unwrap();
    let costs = (0..3).map(|k| {
        let part = stages.problem(k).unwrap();
        stages.cost(k, &part, &solver::baseline(&part.problem).0).unwrap()
    });
    let costs: Vec<StageCost> = costs.collect();
    let shares: u64 = costs.iter().map(|cost| cost.state.get()).sum();
    assert!((unread..unread + 3).contains(&shares), "{unread} {shares}");
    for pair in costs.windows(2) {
        let [a, b] = [&pair[0], &pair[1]].map(|cost| cost.state.get() as f64 / cost.resident.get() as f64);
        assert!((a / b - 1.0).abs() < 1e-3, "{a} {b}");
    }
}

/// x -> a -> b -> c -> loss with a skip from a to c; the backward has a sum at a, and a reciprocal of a that only the
/// gradient of a needs. Which forward op a backward op belongs to is in its name.
fn skip() -> Value {
    let op = |kind: &str, phase: &str, inputs: &[u32], outputs: &[u32]| json!({"kind": kind, "phase": phase, "time": 10, "inputs": inputs, "outputs": outputs});
    let value = |name: &str, bytes: u64| json!({"name": name, "bytes": bytes});
    json!({"format": "plimsoll.problem", "version": 1, "name": "skip",
        "values": [value("x", 8), value("w", 4), value("a", 16), value("b", 32), value("c", 64), value("loss", 4),
            value("ones", 4), value("dc", 64), value("da of c", 16), value("db", 32), value("1/a", 16),
            value("da of b", 16), value("da", 16), value("dw", 4)],
        "ops": [op("A", "forward", &[0, 1], &[2]), op("B", "forward", &[2], &[3]), op("C", "forward", &[2, 3], &[4]),
            op("Loss", "loss", &[4], &[5]), op("Ones", "backward", &[], &[6]),
            op("LossBackward", "backward", &[6, 4], &[7]), op("CBackward", "backward", &[7, 3], &[8]),
            op("CBackward", "backward", &[7, 2], &[9]), op("Prepare", "backward", &[2], &[10]),
            op("BBackward", "backward", &[9, 3], &[11]), op("Sum", "backward", &[8, 11], &[12]),
            op("ABackward", "backward", &[12, 10, 0], &[13])],
        "resident": [0, 1], "outputs": [5, 13]})
}

#[test]
fn backward_ops_follow_their_data() {
    let problem = Problem::from_json(&skip().to_string(), "skip").unwrap();
    let ids = |cuts: &[usize]| cuts.iter().map(|&op| OpId::from_index(op)).collect::<Vec<_>>();
    let stages = Stages::cut(&problem, &ids(&[1, 2])).unwrap();
    let of: Vec<usize> = problem.graph.ops().keys().map(|op| stages.stage_of(op)).collect();
    // Gradients stay in the last stage as long as it has what they read: a and b were sent there. That of w goes to w, and
    // what prepares a for it; the sum before it does not, as two gradients would have to be sent instead of one.
    assert_eq!(of, [0, 1, 2, 2, 2, 2, 2, 2, 0, 2, 2, 0]);
    let names = |values: &[ValueId]| values.iter().map(|&v| problem.graph.values()[v].name.clone()).collect::<Vec<_>>();
    assert_eq!((names(stages.sent_up(0)), names(stages.sent_up(1))), (vec!["a".into()], vec!["a".into(), "b".into()]));
    assert_eq!((names(stages.sent_down(0)), names(stages.sent_down(1))), (vec!["da".to_owned()], vec!["da".into()]));
    // With a cut before the loss alone, its gradient is no smaller than what it is made of, and made where that is.
    let stages = Stages::cut(&problem, &ids(&[3])).unwrap();
    let of: Vec<usize> = problem.graph.ops().keys().map(|op| stages.stage_of(op)).collect();
    assert_eq!(of, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!((names(stages.sent_up(0)), names(stages.sent_down(0))), (vec!["c".to_owned()], vec![]));
}

#[test]
fn gradients_are_made_where_their_parameters_are() {
    for name in REAL {
        let problem = load(name);
        for count in [2, 3, 4, 8] {
            let stages = Stages::cut(&problem, &even(&problem, count)).unwrap();
            assert_eq!(stages.count(), count);
            for k in 0..count {
                let part = stages.problem(k).unwrap();
                let graph = &part.problem.graph;
                let mut dims: Vec<&Vec<u64>> =
                    graph.values().values().filter(|v| v.resident).map(|v| &v.dims).collect();
                let wanted = set(problem.graph.outputs());
                let behind = |v: &&ValueId| graph.values()[**v].producer.is_some_and(|op| op >= part.backward);
                for &v in graph.outputs().iter().filter(behind) {
                    if part.values[v].is_none_or(|v| !wanted.contains(&v)) {
                        continue;
                    }
                    let at = dims.iter().position(|&dims| *dims == graph.values()[v].dims);
                    dims.remove(at.unwrap_or_else(|| panic!("{name} {k} of {count}: {v}")));
                }
            }
        }
    }
}

#[test]
fn stages_of_a_transformer_send_gradients_of_what_they_are_sent() {
    let problem = load("gpt-4x256-b8");
    let stages = Stages::cut(&problem, &even(&problem, 4)).unwrap();
    let (mut backward, mut resident) = (Vec::new(), Bytes(0));
    for k in 0..4 {
        let part = stages.problem(k).unwrap();
        let behind = part.ops.iter().filter(|(op, _)| *op >= part.backward).map(|(op, _)| part.problem.costs.time[op]);
        backward.push(behind.sum::<Nanos>().get());
        resident += part.problem.graph.resident_bytes();
        if k > 0 {
            // Beside activations a mask goes up, which has no gradient; and gradients of parameters may come down that the
            // stage behind has already summed over the batch.
            let other = part.received.get().abs_diff(part.gradient_sent.get());
            assert!(other < part.received.get() / 20, "{k}: {} {}", part.received, part.gradient_sent);
        }
    }
    // Nothing is held twice, and no stage has much more of the backward than of the forward, a quarter.
    assert_eq!((stages.shared_residents(), resident), (vec![], problem.graph.resident_bytes()));
    let all: u64 = backward.iter().sum();
    assert!(backward.iter().all(|&time| time * 100 / all > 18 && time * 100 / all < 32), "{backward:?}");
}

#[test]
fn cuts_that_leave_a_stage_empty_are_typed_errors() {
    let problem = Problem::from_json(&skip().to_string(), "skip").unwrap();
    let mut text = String::new();
    for cuts in [&[0][..], &[2, 2], &[3, 1], &[4], &[99]] {
        let cuts: Vec<OpId> = cuts.iter().map(|&op| OpId::from_index(op)).collect();
        let error = Stages::cut(&problem, &cuts).unwrap_err();
        assert!(matches!(error, Error::InvalidSetting { .. }), "{error}");
        text += &format!("{cuts:?}: {error}\n");
    }
    insta::assert_snapshot!("refused_cuts", text);
}
