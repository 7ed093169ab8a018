//! Beginning copies from host memory ahead of what reads them.

use crate::cost::Problem;
use crate::entity::{EntityMap, OpId, ValueId};
use crate::error::Result;
use crate::plan::{Step, simulate};
use crate::units::{Bytes, Nanos};

/// The same steps, with each op that [only brings a tensor](Problem::with_loads) begun so long before the first that reads
/// it that its copy has come by then, one copy after another, as far as `limit` has room for what then lies ready.
///
/// ```text
/// before  |load a|--op a--|load b|------op b------|load c|--op c--|
/// after   |load a|--op a--|------op b------|--op c--|
///                 |-load b-|        |load c|
/// ```
///
/// The other steps stay in their order, and nothing is later than it was.
///
/// # Errors
/// Those of [`simulate`].
pub fn early(problem: &Problem, steps: &[Step], limit: Bytes) -> Result<Vec<Step>> {
    let graph = &problem.graph;
    let mut live = simulate(problem, steps)?.live;
    // When the compute lane gets to each step, and to the end.
    let mut at = Vec::with_capacity(steps.len() + 1);
    let mut now = Nanos::ZERO;
    for step in steps {
        at.push(now);
        match step {
            Step::Compute { op, .. } if !problem.loads(*op) => now += problem.costs.time[*op],
            _ => {}
        }
    }
    at.push(now);

    let copies: Vec<Copy> = copies(problem, steps);
    // When each copy should begin, so that it and those after it come in time.
    let mut begins = vec![Nanos::ZERO; copies.len()];
    let mut next = now;
    for (copy, begin) in copies.iter().zip(&mut begins).rev() {
        next = at[copy.needed].min(next).saturating_sub(problem.costs.time[copy.op]);
        *begin = next;
    }

    // Before which step each goes, in their order: those that are needed first have the room first.
    let mut moved: Vec<Option<usize>> = vec![None; steps.len()];
    let mut ready = vec![Bytes::ZERO; steps.len()];
    let mut floor = 0;
    for (copy, &begin) in copies.iter().zip(&begins) {
        let op = &graph.ops()[copy.op];
        let bytes: Bytes = op.outputs.iter().map(|&v| graph.storages()[graph.values()[v].storage].bytes).sum();
        let mut place = copy.step;
        while place > floor && at[place] > begin {
            let passed = place - 1;
            if bars(problem, &steps[passed], copy.op) {
                break;
            }
            if moved[passed].is_none() {
                // A drop leaves less than was there when it began.
                let before = (0..passed).rev().find(|&step| moved[step].is_none());
                let held = before.map_or(Bytes::ZERO, |step| after(problem, &steps[step], live[step])) + ready[passed];
                if held.max(live[passed]) + bytes > limit {
                    break;
                }
                live[passed] += bytes;
            }
            place = passed;
        }
        if place == copy.step {
            floor = place + 1;
        } else {
            moved[copy.step] = Some(place);
            ready[place] += bytes;
            floor = place;
        }
    }

    let mut before: Vec<Vec<usize>> = vec![Vec::new(); steps.len()];
    for (step, place) in moved.iter().enumerate() {
        if let Some(place) = place {
            before[*place].push(step);
        }
    }
    let mut result = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        result.extend(before[index].iter().map(|&copy| steps[copy].clone()));
        if moved[index].is_none() {
            result.push(step.clone());
        }
    }
    Ok(result)
}

/// What a step leaves, by what is live during it.
fn after(problem: &Problem, step: &Step, live: Bytes) -> Bytes {
    match step {
        Step::Compute { op, .. } => live.saturating_sub(problem.costs.workspace[*op]),
        _ => live,
    }
}

/// A step that brings something, and the first that reads it: the end where none does.
struct Copy {
    step: usize,
    op: OpId,
    needed: usize,
}

fn copies(problem: &Problem, steps: &[Step]) -> Vec<Copy> {
    let graph = &problem.graph;
    let mut reader: EntityMap<ValueId, usize> = EntityMap::filled(steps.len(), graph.values().len());
    let mut found = Vec::new();
    for (step, what) in steps.iter().enumerate().rev() {
        let Step::Compute { op, .. } = what else { continue };
        let (inputs, outputs) = (&graph.ops()[*op].inputs, &graph.ops()[*op].outputs);
        if problem.loads(*op) {
            let needed = outputs.iter().map(|&v| reader[v]).min().unwrap_or(steps.len());
            found.push(Copy { step, op: *op, needed });
        }
        // What is written here is another life to those before.
        outputs.iter().for_each(|&v| reader[v] = steps.len());
        inputs.iter().for_each(|&v| reader[v] = step);
    }
    found.reverse();
    found
}

/// Whether `op` cannot be begun before `step`.
fn bars(problem: &Problem, step: &Step, op: OpId) -> bool {
    let op = &problem.graph.ops()[op];
    match step {
        Step::Compute { op: other, .. } => {
            let other = &problem.graph.ops()[*other];
            let makes = other.outputs.iter().any(|v| op.inputs.contains(v) || op.outputs.contains(v));
            makes || other.inputs.iter().any(|v| op.outputs.contains(v))
        }
        Step::Drop(v) | Step::Offload(v) | Step::Prefetch(v) => op.inputs.contains(v) || op.outputs.contains(v),
    }
}
