//! What no pipeline does better, whatever its cuts, schedule and recomputation: bounds on time and on memory.

use std::collections::BTreeMap;

use super::cuts::{Cut, Layout, is_source};
use super::stage::in_place;
use crate::cost::Problem;
use crate::entity::{Entity, EntityMap, OpId, StorageId};
use crate::graph::Role;
use crate::pipeline::Topology;
use crate::solver::Network;
use crate::units::{Bytes, Nanos};

/// No pipeline is faster: all devices always busy, or one microbatch along the longest path of its ops.
pub(super) fn time(problem: &Problem, topology: &Topology, microbatches: usize) -> Nanos {
    let graph = &problem.graph;
    let mut path: EntityMap<OpId, u64> = EntityMap::filled(0, graph.ops().len());
    let (mut longest, mut total) = (0u64, 0u64);
    for (id, op) in graph.ops().iter() {
        let before = op.inputs.iter().filter_map(|&v| graph.values()[v].producer).map(|p| path[p]).max().unwrap_or(0);
        path[id] = before + problem.costs.time[id].get();
        longest = longest.max(path[id]);
        total += problem.costs.time[id].get();
    }
    let speeds: u128 = topology.devices().iter().map(|place| u128::from(place.speed)).sum();
    let fastest = topology.devices().iter().map(|place| u128::from(place.speed)).max().unwrap_or(100);
    let even = u128::from(total) * microbatches as u128 * 100 / speeds.max(1);
    let alone = u128::from(longest) * 100 / fastest.max(1);
    Nanos(u64::try_from(even.max(alone)).unwrap_or(u64::MAX))
}

/// Why no pipeline fits the devices of one replica, if that can be said of all: what stays for the whole step is on some
/// device, and every op runs on one.
pub(super) fn too_small(problem: &Problem, topology: &Topology) -> Option<String> {
    let graph = &problem.graph;
    let memory: u64 = topology.devices().iter().fold(0, |sum, place| sum.saturating_add(place.memory.get()));
    let gradients = graph.outputs().iter().map(|&v| &graph.values()[v]);
    let gradients = gradients.filter(|value| value.role == Role::Gradient && !value.resident);
    let gradients: u64 = gradients.map(|value| value.bytes.get()).sum();
    let stays = graph.resident_bytes().get().saturating_add(gradients);
    if stays > memory {
        return Some(format!(
            "parameters, summed gradients and optimizer state alone are {}, and all devices together have {}",
            Bytes(stays),
            Bytes(memory)
        ));
    }
    let most = topology.devices().iter().map(|place| place.memory.get()).max().unwrap_or(0);
    let (op, bytes) = largest(problem)?;
    (bytes > most).then(|| {
        let name = graph.describe_op(op);
        format!("{name} alone needs {} with its parameters, and no device has more than {}", Bytes(bytes), Bytes(most))
    })
}

/// The op that needs most by itself.
fn largest(problem: &Problem) -> Option<(OpId, u64)> {
    let alone = alone(problem);
    let all = alone.iter().map(|(op, &bytes)| (op, bytes));
    all.max_by_key(|&(op, bytes)| (bytes, std::cmp::Reverse(op)))
}

/// What each op needs by itself, parameters counted; nothing for those of which nothing is made.
pub(super) fn alone(problem: &Problem) -> EntityMap<OpId, u64> {
    let graph = &problem.graph;
    let mut wanted = EntityMap::filled(false, graph.values().len());
    graph.outputs().iter().for_each(|&v| wanted[v] = true);
    let mut alone = EntityMap::filled(0, graph.ops().len());
    for (id, op) in graph.ops().iter().rev() {
        if is_source(problem, id) || !op.outputs.iter().any(|&v| wanted[v]) {
            continue;
        }
        op.inputs.iter().for_each(|&v| wanted[v] = true);
        // A view of a larger storage may have been sent by itself.
        let mut touched: Vec<(StorageId, u64)> = Vec::with_capacity(op.inputs.len() + op.outputs.len());
        for &v in op.inputs.iter().chain(&op.outputs) {
            let value = &graph.values()[v];
            let bytes = value.bytes.min(graph.storages()[value.storage].bytes).get();
            match touched.iter_mut().find(|(storage, _)| *storage == value.storage) {
                Some((_, known)) => *known = (*known).max(bytes),
                None => touched.push((value.storage, bytes)),
            }
        }
        let all = touched.into_iter().map(|(_, bytes)| bytes).sum::<u64>() + problem.costs.workspace[id].get();
        alone[id] = all.saturating_sub(in_place(graph, op).get());
    }
    alone
}

/// The least that any plan of a stage without offload has live for a microbatch that is between its forward and its backward there.
///
/// What the backward reads of the forward's results is live then, or is made again from what is; what was received cannot be
/// made again. So what is live separates the two in the stage's forward: no less than a minimum cut, a storage's bytes for
/// each storage. Inputs of the step and parameters are always there. A storage that an op joins while it reads others is
/// counted as nothing, since who reads it may need only some of what it was made of; one that is received as the least that
/// any view of it takes, since views of it may be copies here.
pub(super) struct Saved<'a> {
    problem: &'a Problem,
    layout: &'a Layout,
    cuts: &'a [Cut],
    /// Bytes of each storage; none for those that no cut has to separate.
    bytes: EntityMap<StorageId, Option<u64>>,
    /// By first segment: the network as far as it has been built, and the least for each end up to there.
    known: BTreeMap<usize, (Network, Vec<u64>)>,
}

/// Above as many ops nothing is said: all networks together take time in proportion to ops times cuts.
const LARGE: usize = 24_000;

impl<'a> Saved<'a> {
    pub fn new(problem: &'a Problem, layout: &'a Layout, cuts: &'a [Cut]) -> Self {
        let graph = &problem.graph;
        let storages = graph.storages();
        let mut bytes: EntityMap<StorageId, Option<u64>> =
            storages.values().map(|storage| (!storage.resident).then_some(storage.bytes.get())).collect();
        for op in graph.ops().values() {
            let of = |v| graph.values()[v].storage;
            let others = |s| op.inputs.iter().any(|&v| of(v) != s && !storages[of(v)].resident);
            for s in op.outputs.iter().filter(|&&v| graph.values()[v].alias_of.is_some()).map(|&v| of(v)) {
                if others(s) {
                    bytes[s] = bytes[s].map(|_| 0);
                }
            }
        }
        Self { problem, layout, cuts, bytes, known: BTreeMap::new() }
    }

    /// For the stage of the segments from `from` to before `to`.
    pub fn least(&mut self, from: usize, to: usize) -> u64 {
        // The first stage has what it is made of.
        if from == 0 || self.problem.graph.ops().len() > LARGE {
            return 0;
        }
        let (mut net, mut least) = self.known.remove(&from).unwrap_or_else(|| (self.begun(from), Vec::new()));
        while least.len() < to - from {
            let segment = from + least.len();
            self.extend(&mut net, segment);
            let storages = self.bytes.len();
            let more = net.cut(2 * storages, 2 * storages + 1).unwrap_or(0);
            let before = least.last().copied().unwrap_or(0);
            least.push(before.saturating_add(u64::try_from(more).unwrap_or(u64::MAX)));
        }
        let found = least[to - from - 1];
        self.known.insert(from, (net, least));
        found
    }

    /// What is received, and nothing else yet.
    fn begun(&self, from: usize) -> Network {
        let values = self.problem.graph.values();
        let storages = self.bytes.len();
        let mut bytes = self.bytes.clone();
        let mut net = Network::new(2 * storages + 2);
        for v in self.layout.crossing(&self.cuts[from - 1]).0 {
            let s = values[v].storage;
            let views = self.problem.graph.storages()[s].values.iter().map(|&v| values[v].bytes.get());
            bytes[s] = bytes[s].map(|all| views.fold(all, u64::min));
            net.arc(2 * storages, s.index(), Network::UNLIMITED);
        }
        for (s, bytes) in bytes.iter() {
            if let Some(bytes) = bytes {
                net.arc(s.index(), storages + s.index(), i128::from(*bytes));
            }
        }
        net
    }

    /// One more segment: what its forward makes of what, and what its backward reads.
    fn extend(&self, net: &mut Network, segment: usize) {
        let graph = &self.problem.graph;
        let (layout, storages) = (self.layout, self.bytes.len());
        let last = self.cuts.get(segment).map_or((layout.turn, layout.turn), |cut| (cut.forward, cut.backward));
        let first = self.cuts[segment - 1];
        let of = |v| graph.values()[v].storage;
        for &id in &layout.order[first.forward..last.0] {
            let op = &graph.ops()[id];
            for (r, w) in op.inputs.iter().flat_map(|&r| op.outputs.iter().map(move |&w| (of(r), of(w)))) {
                if r != w && !is_source(self.problem, id) {
                    net.arc(storages + r.index(), w.index(), Network::UNLIMITED);
                }
            }
        }
        for &id in &layout.order[last.1..first.backward] {
            let op = &graph.ops()[id];
            let view = op.outputs.iter().all(|&w| op.inputs.iter().all(|&r| of(r) == of(w)));
            // Those that come from before the turn, and not back across the border behind the stage.
            let here = |v: &&_| graph.values()[**v].producer.is_some_and(|p| layout.place[p] < last.0);
            for &v in op.inputs.iter().filter(here).filter(|_| !view) {
                net.arc(storages + of(v).index(), 2 * storages + 1, Network::UNLIMITED);
            }
        }
    }
}
