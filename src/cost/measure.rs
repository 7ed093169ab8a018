//! Measuring what ops cost: one measurement per distinct signature, kept for the next run.

use std::fmt;

use crate::cost::{OpCost, Profile};
use crate::entity::{EntityMap, OpId, ValueId};
use crate::error::{Error, Result, shortened};
use crate::units::Bytes;

/// Something that can run one op of a program by itself and say what it did.
///
/// Implemented by the runtime; this module decides what to measure and what to keep.
pub trait Probe {
    /// The ops, in order.
    fn ops(&self) -> usize;
    /// Values read and written by an op.
    fn reads_and_writes(&self, op: OpId) -> (Vec<ValueId>, Vec<ValueId>);
    /// Its outputs where `op` does nothing but stand for what is there from the start, or for what comes from elsewhere.
    fn stands_for(&self, op: OpId) -> Option<Vec<ValueId>>;
    /// How a value that is there from the start, or comes from elsewhere, lies in memory.
    fn layout_at_start(&self, value: ValueId) -> String;
    /// A name for everything the cost of `op` depends on, its inputs' layouts included.
    fn signature(&self, op: OpId, layouts: &[&str]) -> String;
    /// Run the op and measure it.
    ///
    /// # Errors
    /// [`Error::Execution`] when the op cannot run by itself.
    fn measure(&mut self, op: OpId, layouts: &[&str]) -> Result<OpCost>;
}

/// The cost of every op: looked up in `profile` by signature, measured and added to it where it
/// is not there yet, or where what is there cannot be the op's. `progress` is called with the number
/// of ops done and the number of ops.
///
/// # Errors
/// Those of [`Probe::measure`].
pub fn measure(
    probe: &mut dyn Probe,
    values: usize,
    profile: &mut Profile,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<EntityMap<OpId, OpCost>> {
    let (mut done, count) = (0, probe.ops());
    each(probe, values, &mut |probe, sought| {
        let known = profile.get(&sought.signature).filter(|cost| sought.contradiction(cost).is_none());
        let cost = match known {
            Some(known) => known.clone(),
            None => {
                let cost = probe.measure(sought.op, &sought.layouts)?;
                profile.insert(sought.signature, cost.clone());
                cost
            }
        };
        done += 1;
        progress(done, count);
        Ok(cost)
    })
}

/// The cost of every op, as `profile` has it: nothing is run.
///
/// # Errors
/// [`Error::InvalidInput`] where the profile lacks an op or contradicts it.
pub fn look_up(probe: &mut dyn Probe, values: usize, profile: &Profile) -> Result<EntityMap<OpId, OpCost>> {
    each(probe, values, &mut |_, sought| {
        let why = match profile.get(&sought.signature) {
            None => format!("lacks {sought}: it is of another step; measure this one there"),
            Some(cost) => match sought.contradiction(cost) {
                None => return Ok(cost.clone()),
                Some(what) => format!("contradicts {sought}: {what}; measure it anew"),
            },
        };
        Err(Error::InvalidInput { why: format!("the profile of {} {why}", profile.device) })
    })
}

/// An op whose cost is sought.
struct Sought<'a> {
    op: OpId,
    layouts: Vec<&'a str>,
    signature: String,
    inputs: usize,
    outputs: usize,
}

impl Sought<'_> {
    /// What of `cost` this op cannot do, if anything: files may say what they like.
    fn contradiction(&self, cost: &OpCost) -> Option<&'static str> {
        let each = [cost.views.len(), cost.sizes.len(), cost.layouts.len()];
        if each.iter().any(|&n| n != self.outputs) {
            return Some("it has another number of outputs");
        }
        if cost.views.iter().flatten().any(|&a| a >= self.inputs) {
            return Some("there is no such input as an output is a view of");
        }
        if cost.inplace.iter().any(|&(a, b)| a >= self.inputs || b >= self.outputs) {
            return Some("an in-place pair is out of range");
        }
        if cost.sizes.iter().any(|&size| size > Bytes(1 << 62)) {
            return Some("an output has more than 2^62 bytes");
        }
        None
    }
}

impl fmt::Display for Sought<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.op, shortened(&self.signature))
    }
}

/// What `cost_of` says of every op, in order: how the inputs of one lie in memory is told by the costs
/// of those before it.
fn each(
    probe: &mut dyn Probe,
    values: usize,
    cost_of: &mut dyn FnMut(&mut dyn Probe, Sought<'_>) -> Result<OpCost>,
) -> Result<EntityMap<OpId, OpCost>> {
    let mut layouts: EntityMap<ValueId, Option<String>> = EntityMap::filled(None, values);
    let mut costs = EntityMap::new();
    for op in EntityMap::<OpId, ()>::filled((), probe.ops()).keys() {
        if let Some(outputs) = probe.stands_for(op) {
            costs.push(OpCost::nothing(outputs.len()));
            continue;
        }
        let (inputs, outputs) = probe.reads_and_writes(op);
        for &v in &inputs {
            if layouts[v].is_none() {
                layouts[v] = Some(probe.layout_at_start(v));
            }
        }
        let here: Vec<&str> = inputs.iter().map(|&v| layouts[v].as_deref().expect("it was just filled")).collect();
        let signature = probe.signature(op, &here);
        let sought = Sought { op, layouts: here, signature, inputs: inputs.len(), outputs: outputs.len() };
        let cost = cost_of(probe, sought)?;
        for (&v, layout) in outputs.iter().zip(&cost.layouts) {
            layouts[v] = Some(layout.clone());
        }
        costs.push(cost);
    }
    Ok(costs)
}
