//! Measuring what ops cost: one measurement per distinct signature, kept for the next run.

use crate::cost::{OpCost, Profile};
use crate::entity::{EntityMap, OpId, ValueId};
use crate::error::Result;

/// Something that can run one op of a program by itself and say what it did.
///
/// Implemented by the runtime; this module decides what to measure and what to keep.
pub trait Probe {
    /// The ops, in order.
    fn ops(&self) -> usize;
    /// Values read and written by an op.
    fn reads_and_writes(&self, op: OpId) -> (Vec<ValueId>, Vec<ValueId>);
    /// Its outputs where `op` does nothing but stand for what is there from the start.
    fn stands_for(&self, op: OpId) -> Option<Vec<ValueId>>;
    /// How a value that is there from the start lies in memory.
    fn layout_at_start(&self, value: ValueId) -> String;
    /// A name for everything the cost of `op` depends on, its inputs' layouts included.
    fn signature(&self, op: OpId, layouts: &[&str]) -> String;
    /// Run the op and measure it.
    ///
    /// # Errors
    /// [`Error::Execution`](crate::Error::Execution) when the op cannot run by itself.
    fn measure(&mut self, op: OpId, layouts: &[&str]) -> Result<OpCost>;
}

/// The cost of every op: looked up in `profile` by signature, measured and added to it where it
/// is not there yet. `progress` is called with the number of ops done and the number of ops.
///
/// # Errors
/// Those of [`Probe::measure`].
pub fn measure(
    probe: &mut dyn Probe,
    values: usize,
    profile: &mut Profile,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<EntityMap<OpId, OpCost>> {
    let count = probe.ops();
    let mut layouts: EntityMap<ValueId, Option<String>> = EntityMap::filled(None, values);
    let mut costs = EntityMap::new();
    for op in EntityMap::<OpId, ()>::filled((), count).keys() {
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
        let cost = match profile.get(&signature) {
            Some(known) => known.clone(),
            None => {
                let cost = probe.measure(op, &here)?;
                profile.insert(signature, cost.clone());
                cost
            }
        };
        for (&v, layout) in outputs.iter().zip(&cost.layouts) {
            layouts[v] = Some(layout.clone());
        }
        costs.push(cost);
        progress(costs.len(), count);
    }
    Ok(costs)
}
