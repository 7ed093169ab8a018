//! From orders of computations to a schedule: messages, updates, the size of the queues.

use std::collections::BTreeMap;

use super::super::schedule::{Action, Chunk, Device, Microbatch, Schedule};
use crate::error::Result;

/// Receives go right before what reads them, sends right after what makes them, updates to the end. Queues are as
/// large as it takes that no send waits when a forward takes one unit of time and each part of a backward one.
pub(super) fn link(
    name: &str,
    routes: Vec<Vec<Device>>,
    route_of: Vec<u32>,
    orders: Vec<Vec<Action>>,
) -> Result<Schedule> {
    let device_of = |m: Microbatch, c: Chunk| routes[route_of[m.index()] as usize][c.index()];
    let last = routes[0].len() - 1;
    let mut devices = Vec::with_capacity(orders.len());
    for (d, order) in orders.into_iter().enumerate() {
        let here = Device::at(d);
        // Another device's, that is.
        let other = |m, c| Some(device_of(m, c)).filter(|&device| device != here);
        let mut actions = Vec::with_capacity(2 * order.len());
        for action in order {
            let c = action.chunk();
            let (before, after) = (c.0.checked_sub(1).map(Chunk), Some(Chunk(c.0 + 1)).filter(|c| c.index() <= last));
            match action {
                Action::Forward(m, _) => {
                    let from = before.and_then(|before| Some((before, other(m, before)?)));
                    actions.extend(from.map(|(before, from)| Action::ReceiveActivation(m, before, from)));
                    actions.push(action);
                    let to = after.and_then(|after| other(m, after));
                    actions.extend(to.map(|to| Action::SendActivation(m, c, to)));
                }
                Action::Backward(m, _) | Action::InputGradient(m, _) => {
                    let from = after.and_then(|after| Some((after, other(m, after)?)));
                    actions.extend(from.map(|(after, from)| Action::ReceiveGradient(m, after, from)));
                    actions.push(action);
                    let to = before.and_then(|before| other(m, before));
                    actions.extend(to.map(|to| Action::SendGradient(m, c, to)));
                }
                _ => actions.push(action),
            }
        }
        let held = (0..=last).filter(|&c| routes.iter().any(|route| route[c] == here));
        actions.extend(held.map(|c| Action::Update(Chunk::at(c))));
        devices.push(actions);
    }
    let queue = queue(&devices);
    Schedule::new(name, queue, routes, route_of, devices)
}

/// Sender, receiver, and whether it carries gradients.
type Queue = (usize, usize, bool);

/// The most messages in any queue when none is ever full.
fn queue(devices: &[Vec<Action>]) -> u32 {
    // Instants at which each queue's messages are sent and taken.
    let mut queues: BTreeMap<Queue, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
    let (mut at, mut clock) = (vec![0; devices.len()], vec![0u64; devices.len()]);
    let mut moved = true;
    while moved {
        moved = false;
        for d in 0..devices.len() {
            while let Some(&action) = devices[d].get(at[d]) {
                match action {
                    Action::SendActivation(.., to) => {
                        queues.entry((d, to.index(), false)).or_default().0.push(clock[d]);
                    }
                    Action::SendGradient(.., to) => queues.entry((d, to.index(), true)).or_default().0.push(clock[d]),
                    Action::ReceiveActivation(.., from) | Action::ReceiveGradient(.., from) => {
                        let gradient = matches!(action, Action::ReceiveGradient(..));
                        let (sent, taken) = queues.entry((from.index(), d, gradient)).or_default();
                        let Some(&arrives) = sent.get(taken.len()) else { break };
                        clock[d] = clock[d].max(arrives);
                        taken.push(clock[d]);
                    }
                    Action::Backward(..) => clock[d] += 2,
                    Action::Update(_) => {}
                    _ => clock[d] += 1,
                }
                at[d] += 1;
                moved = true;
            }
        }
    }
    let most = queues.values().map(|(sent, taken)| {
        let waiting = |(n, at): (usize, &u64)| n + 1 - taken[..n.min(taken.len())].partition_point(|t| t <= at);
        sent.iter().enumerate().map(waiting).max().unwrap_or(0)
    });
    u32::try_from(most.max().unwrap_or(0).max(1)).unwrap_or(u32::MAX)
}
