//! Measuring what ops take that are asked for one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use burn_ir::{HandleKind, OperationIr, TensorId, TensorIr, TensorStatus};

use super::random::random_op;
use super::target::{Interpreter, Local, Target};
use crate::graph::trace::SetStatus;
use crate::units::Nanos;

/// See [`Target::row`]: for a backend `B` whose ops are measured by itself or within another's, `given` a tensor of the other's.
pub(super) fn time_row<L: Local, B: Target<Device = L::Device>>(
    device: &B::Device,
    handlers: &B::Handlers,
    ops: &[&OperationIr],
    lead: usize,
    layout: &dyn Fn(TensorId) -> String,
    given: &dyn Fn(HandleKind<L>) -> Result<HandleKind<B>, String>,
) -> Result<Nanos, String> {
    let mut read_last: BTreeMap<TensorId, usize> = BTreeMap::new();
    let mut made: BTreeSet<TensorId> = BTreeSet::new();
    let mut from_outside: Vec<&TensorIr> = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        for input in op.inputs() {
            if read_last.insert(input.id, at).is_none() && !made.contains(&input.id) {
                from_outside.push(input);
            }
        }
        made.extend(op.outputs().map(|output| output.id));
    }
    let ready: Vec<_> =
        ops.iter().enumerate().map(|(at, op)| in_turn(op, B::QUEUES, &|id| read_last[&id] == at)).collect();
    let run = |count: usize| -> Result<Duration, String> {
        let mut interpreter = B::Interpreter::new(device, handlers.clone());
        for input in &from_outside {
            // Integers index things: zero is an index of everything.
            let fill = if input.dtype.is_float() { 0.5 } else { 0.0 };
            let stand_in = L::stand_in(&input.shape, input.dtype, &layout(input.id), fill, device);
            interpreter.bind(input.id, given(stand_in.ok_or("an unreadable layout")?)?);
        }
        B::empty_queue(device)?;
        L::settle(device);
        let start = Instant::now();
        for (op, dropped) in &ready[..count] {
            match random_op(op) {
                Some(random) => interpreter.draw(random, 0)?,
                None => interpreter.run(op.clone()),
            }
            dropped.iter().for_each(|last| interpreter.run(OperationIr::Drop(last.clone())));
        }
        B::empty_queue(device)?;
        L::settle(device);
        Ok(start.elapsed())
    };
    // Both wait once for the device.
    let first = run(lead)?;
    let took = run(ops.len())?.saturating_sub(first);
    Ok(Nanos(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)))
}

/// An op as a step runs it, and what is dropped after it of what it is the last to read: what is not given away to it
/// ([`given_away`](crate::plan::given_away)), where anything is.
fn in_turn(op: &OperationIr, gives: bool, last: &dyn Fn(TensorId) -> bool) -> (OperationIr, Vec<TensorIr>) {
    let bytes = |it: &TensorIr| it.shape.num_elements() * it.dtype.size();
    let (mut given, mut dropped) = (BTreeSet::new(), BTreeMap::new());
    for input in op.inputs().filter(|input| last(input.id)) {
        let once = op.inputs().filter(|other| other.id == input.id).count() == 1;
        if gives && once && op.outputs().all(|out| bytes(out) != bytes(input)) {
            given.insert(input.id);
        } else {
            dropped.insert(input.id, TensorIr { status: TensorStatus::ReadWrite, ..input.clone() });
        }
    }
    let mut op = op.clone();
    op.visit_mut(&mut SetStatus(|it: &TensorIr| match given.contains(&it.id) {
        true => TensorStatus::ReadWrite,
        false => it.status,
    }));
    (op, dropped.into_values().collect())
}
