//! An order of the backward part that goes back over the forward part as it came.
//!
//! ```text
//! forward    a1 a2 a3 b1 b2 b3        two branches, one after the other
//! backward   b3'a3'b2'a2'b1'a1'       recorded in turns: wherever it is cut, both sides have something of both
//!            b3'b2'b1'a3'a2'a1'       in reverse: a cut between the branches separates them
//! ```
//!
//! A pipeline's stage has a stretch of the forward and a stretch of the backward. So a backward op gets a *place*: the op of the forward
//! that it goes back over, which is the last one whose results it reads, and no later than those of what it is made from.
//! What reads no forward result goes along with what it is made from or with what is made of it, whichever leaves fewer bytes
//! waiting: sums of many gradients are made where the last of them is, and the gradients with them.

use crate::cost::Problem;
use crate::entity::{EntityMap, OpId};
use crate::graph::Replay;

use super::cuts::is_source;

/// `order` with its ops from `turn` on by falling places; none where some of them have effects, which keep their order.
pub(super) fn reversed(problem: &Problem, order: &[OpId], turn: usize) -> Option<Vec<OpId>> {
    let graph = &problem.graph;
    let (forward, backward) = order.split_at(turn);
    if backward.iter().any(|&op| graph.ops()[op].replay == Replay::Once) {
        return None;
    }
    let mut at: EntityMap<OpId, Option<usize>> = EntityMap::filled(None, graph.ops().len());
    forward
        .iter()
        .enumerate()
        .filter(|(_, op)| !is_source(problem, **op))
        .for_each(|(place, &op)| at[op] = Some(place));
    let mut behind = EntityMap::filled(false, graph.ops().len());
    backward.iter().for_each(|&op| behind[op] = true);
    let producers = |op: OpId| graph.ops()[op].inputs.iter().filter_map(|&v| graph.values()[v].producer);
    let consumers = |op: OpId| graph.ops()[op].outputs.iter().flat_map(|&v| graph.uses(v)).copied();
    // The place of the last forward op that an op reads from itself.
    let read = |op: OpId| producers(op).filter_map(|p| at[p]).max().unwrap_or(turn);
    let mut first: EntityMap<OpId, usize> = EntityMap::filled(turn, graph.ops().len());
    for &op in backward {
        first[op] = producers(op).filter(|&p| behind[p]).map(|p| first[p]).fold(read(op), usize::min);
    }
    let mut last = first.clone();
    for &op in backward.iter().rev() {
        last[op] = consumers(op).map(|c| last[c]).max().unwrap_or(first[op]);
    }
    // In this order what an op is made from has its place before it. `last` never rises from an op to what is made of it, so
    // neither choice stands before what it is made from.
    let mut place = last.clone();
    for &op in backward {
        let early = producers(op).filter(|&p| behind[p]).map(|p| place[p]).fold(read(op), usize::min);
        if early > last[op] && settles(problem, op, &last) {
            place[op] = early;
        }
    }
    let mut sorted = backward.to_vec();
    sorted.sort_by_key(|&op| std::cmp::Reverse(place[op]));
    Some([forward, &sorted].concat())
}

/// Whether an op frees no less than it makes if it runs as soon as it can, others as late as they can. Views go along with
/// their readers.
fn settles(problem: &Problem, op: OpId, last: &EntityMap<OpId, usize>) -> bool {
    let graph = &problem.graph;
    let it = &graph.ops()[op];
    let storage = |v| graph.values()[v].storage;
    let mut read: Vec<_> = it.inputs.iter().map(|&v| storage(v)).filter(|&s| !graph.storages()[s].resident).collect();
    read.sort_unstable();
    read.dedup();
    let made: Vec<_> = it.outputs.iter().filter(|&&v| !read.contains(&storage(v))).collect();
    if made.is_empty() || made.iter().all(|&&v| graph.storages()[storage(v)].resident) {
        return false;
    }
    let waits = |s| {
        let looks = |other: OpId| graph.ops()[other].outputs.iter().all(|&v| storage(v) == s);
        let readers = graph.storages()[s].values.iter().flat_map(|&v| graph.uses(v)).copied();
        let mut others = readers.filter(|&other| other != op && !looks(other));
        others.all(|other| last[other] > last[op])
    };
    let freed: u64 = read.into_iter().filter(|&s| waits(s)).map(|s| graph.storages()[s].bytes.get()).sum();
    let kept = made.into_iter().filter(|&&v| !graph.values()[v].output || !graph.uses(v).is_empty());
    freed >= kept.map(|&v| graph.values()[v].bytes.get()).sum()
}

#[cfg(all(test, feature = "fuzzing"))]
mod tests {
    use super::super::cuts::Layout;
    use super::*;
    use crate::cost::{Costs, Device};
    use crate::entity::ValueId;
    use crate::fuzz::series_parallel;
    use crate::graph::{GraphBuilder, NewValue, Op, Phase, Role};
    use crate::units::{Bytes, Nanos};

    #[test]
    fn orders_are_valid() {
        let mut moved = 0;
        for seed in 0..300 {
            let problem = series_parallel(seed, 20 + seed as usize % 60, true);
            let graph = &problem.graph;
            let order: Vec<OpId> = graph.ops().keys().collect();
            let turn = graph.ops().values().position(|op| op.phase == Phase::Backward).unwrap_or(order.len());
            let reversed = reversed(&problem, &order, turn).unwrap();
            let mut sorted = reversed.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, order, "seed {seed}");
            assert_eq!(reversed[..turn], order[..turn], "seed {seed}");
            let mut done = EntityMap::filled(false, order.len());
            for &op in &reversed {
                let mut makers = graph.ops()[op].inputs.iter().filter_map(|&v| graph.values()[v].producer);
                assert!(makers.all(|maker| done[maker]), "seed {seed}: {op} before what it reads is made");
                done[op] = true;
            }
            moved += usize::from(reversed != order);
        }
        assert!(moved > 50, "{moved} moved");
    }

    /// Branches of `length` ops from one input, one after the other, whose backwards are recorded in turns.
    fn branches(length: usize) -> Problem {
        let (mut graph, mut time) = (GraphBuilder::new(), EntityMap::new());
        let mut op = |graph: &mut GraphBuilder, phase, inputs: Vec<ValueId>, role| {
            let made = graph.value(NewValue { bytes: Bytes(100), role, ..NewValue::default() });
            time.push(Nanos(10));
            let (kind, inplace) = ("Op".into(), Vec::new());
            graph.op(Op { kind, phase, inputs, outputs: vec![made], inplace, replay: Replay::Pure });
            made
        };
        let input = op(&mut graph, Phase::Forward, vec![], Role::Input);
        let mut made: Vec<Vec<ValueId>> = Vec::new();
        for _ in 0..2 {
            let mut branch = vec![input];
            for _ in 0..length {
                let last = branch[branch.len() - 1];
                branch.push(op(&mut graph, Phase::Forward, vec![last], Role::Activation));
            }
            made.push(branch);
        }
        let loss = op(&mut graph, Phase::Loss, made.iter().map(|branch| branch[length]).collect(), Role::Loss);
        let start = op(&mut graph, Phase::Backward, vec![loss], Role::Activation);
        let mut gradients = [start; 2];
        for k in (0..length).rev() {
            for (gradient, branch) in gradients.iter_mut().zip(&made) {
                *gradient = op(&mut graph, Phase::Backward, vec![*gradient, branch[k + 1]], Role::Activation);
            }
        }
        graph.output(loss);
        gradients.iter().for_each(|&gradient| graph.output(gradient));
        let graph = graph.finish().unwrap();
        let workspace = EntityMap::filled(Bytes::ZERO, graph.ops().len());
        Problem::new("branches", graph, Costs { time, workspace }, Device::default()).unwrap()
    }

    #[test]
    fn branches_recorded_in_turns_are_cut_apart() {
        let problem = branches(8);
        let (layout, cuts) = Layout::new(&problem);
        // The first branch's end goes forward, and the gradient of it comes back.
        let between = cuts.iter().find(|cut| cut.forward == 9).unwrap();
        assert_eq!((between.values, between.sent, between.returned), (2, 100, 100));
        assert_eq!(layout.ops - between.backward, 8);
    }
}
