//! What no pipeline does better, whatever its cuts, schedule and recomputation: bounds on time and on memory.

use super::cuts::is_source;
use super::stage::in_place;
use crate::cost::Problem;
use crate::entity::{EntityMap, OpId, StorageId};
use crate::graph::Role;
use crate::pipeline::Topology;
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
