//! Offload on top of any order: copy to the host what is not touched for long, and bring it back.
//!
//! ```text
//! compute  |make v|-use-|........|peak|.........|use v|
//! D2H             |---copy v---|
//! device   ====================|                |=====
//! H2D                                  |-copy v-|
//! ```
//!
//! The offload stands right after v is made; the drop where the copy will have ended; the prefetch
//! as late as the copies back, taken from the last use to the first, still arrive in time. Values
//! are picked for the present peak, longest gap first (vDNN, Rhu et al., 2016, picks by layer;
//! here everything competes). Where the link is too slow for that, the drop is moved before the
//! peak and the prefetch after it, and the compute lane waits. The simulator is the judge.

use crate::cost::Problem;
use crate::entity::{Entity, ValueId};
use crate::error::Result;
use crate::plan::{Lane, Step, Timeline, simulate};
use crate::units::Bytes;

/// More rounds than this do not pay.
const ROUNDS: usize = 1500;

/// Whether the device can offload at all.
pub(super) fn possible(problem: &Problem) -> bool {
    let device = &problem.device;
    device.d2h_bytes_per_s > 0 && device.h2d_bytes_per_s > 0 && device.host_memory > Bytes::ZERO
}

/// A stretch of steps in which a value is all that lives of its storage, and is not touched.
struct Gap {
    value: ValueId,
    bytes: u64,
    /// The step that made the value.
    made: usize,
    /// The last step that touched the storage, and the next one.
    from: usize,
    to: usize,
    chosen: bool,
    /// The drop stands before this step at the latest, the prefetch before that at the earliest.
    out_by: usize,
    not_before: usize,
    /// Where the drop and the prefetch stand: before these steps.
    out: usize,
    back: usize,
}

/// The steps, which copy nothing yet, changed so that they fit. `None` when that fails.
pub(super) fn offload(problem: &Problem, base: &[Step], budget: Bytes) -> Result<Option<(Vec<Step>, Timeline)>> {
    let plain = simulate(problem, base)?;
    let (starts, ends) = times(base, &plain);
    let mut gaps = gaps(problem, base, &starts);
    let mut held = 0u64;
    for _ in 0..ROUNDS {
        schedule(problem, &mut gaps, &starts, &ends);
        let (steps, origin) = build(base, &gaps);
        let timeline = simulate(problem, &steps)?;
        if timeline.peak <= budget {
            return Ok(Some((steps, timeline)));
        }
        // Before the first step, or at a prefetch: what matters is the step it stands before.
        let at = origin[timeline.peak_step];
        let room = problem.device.host_memory.get().saturating_sub(held);
        let spans = |gap: &Gap| gap.from < at && at < gap.to;
        let mut open: Vec<usize> =
            (0..gaps.len()).filter(|&g| !gaps[g].chosen && spans(&gaps[g]) && gaps[g].bytes <= room).collect();
        let excess = timeline.peak.get() - budget.get();
        let long = |gap: &Gap| u128::from(starts[gap.to] - ends[gap.from]) * u128::from(gap.bytes.min(excess));
        open.sort_by_key(|&g| (std::cmp::Reverse(long(&gaps[g])), g));
        let mut done = false;
        for &g in open.iter().take(24) {
            gaps[g].chosen = true;
            schedule(problem, &mut gaps, &starts, &ends);
            if gaps[g].out <= at && at < gaps[g].back {
                held += gaps[g].bytes;
                done = true;
                break;
            }
            gaps[g].chosen = false;
        }
        if done {
            continue;
        }
        // Nothing gets out of the way without waiting.
        let cost = |gap: &Gap| at.saturating_sub(gap.from).min(gap.to - at);
        let away = |gap: &Gap| gap.chosen && gap.out <= at && at < gap.back;
        let pick = (0..gaps.len())
            .filter(|&g| spans(&gaps[g]) && !away(&gaps[g]) && (gaps[g].chosen || gaps[g].bytes <= room))
            .max_by_key(|&g| (gaps[g].chosen, cost(&gaps[g]) as u128 * u128::from(gaps[g].bytes.min(excess)), g));
        let Some(g) = pick else { return Ok(None) };
        let gap = &mut gaps[g];
        if !gap.chosen {
            gap.chosen = true;
            held += gap.bytes;
        }
        gap.out_by = gap.out_by.min(at);
        gap.not_before = gap.not_before.max(at + 1);
    }
    Ok(None)
}

/// When each step starts and ends; other steps than computes at the next one's start.
fn times(steps: &[Step], timeline: &Timeline) -> (Vec<u64>, Vec<u64>) {
    let (mut starts, mut ends) = (vec![u64::MAX; steps.len()], vec![0; steps.len()]);
    for span in timeline.spans.iter().filter(|span| span.lane == Lane::Compute) {
        starts[span.step] = span.start.get();
        ends[span.step] = span.end.get();
    }
    let mut next = timeline.time.get();
    for i in (0..steps.len()).rev() {
        if starts[i] == u64::MAX {
            (starts[i], ends[i]) = (next, next);
        }
        next = starts[i];
    }
    (starts, ends)
}

/// The longest gap of every value.
fn gaps(problem: &Problem, steps: &[Step], starts: &[u64]) -> Vec<Gap> {
    let graph = &problem.graph;
    let mut live: Vec<Vec<ValueId>> = vec![Vec::new(); graph.storages().len()];
    let mut last = vec![0usize; graph.storages().len()];
    let mut made = vec![0usize; graph.values().len()];
    let mut best: Vec<Option<Gap>> = (0..graph.values().len()).map(|_| None).collect();
    let place = |v: ValueId| graph.values()[v].storage.index();
    for (i, step) in steps.iter().enumerate() {
        match step {
            Step::Compute { op, inplace } => {
                let op = &graph.ops()[*op];
                for &v in &op.inputs {
                    let (s, value) = (place(v), &graph.values()[v]);
                    let storage = &graph.storages()[value.storage];
                    let whole = !storage.resident && value.bytes == storage.bytes && value.bytes > Bytes::ZERO;
                    if whole && live[s] == [v] && last[s] + 1 < i {
                        let (from, bytes) = (last[s], value.bytes.get());
                        let longer = best[v.index()]
                            .as_ref()
                            .is_none_or(|gap| starts[gap.to] - starts[gap.from] < starts[i] - starts[from]);
                        if longer {
                            let (made, out_by, not_before) = (made[v.index()], usize::MAX, 0);
                            let (to, chosen) = (i, false);
                            best[v.index()] = Some(Gap {
                                value: v,
                                bytes,
                                made,
                                from,
                                to,
                                chosen,
                                out_by,
                                not_before,
                                out: 0,
                                back: 0,
                            });
                        }
                    }
                }
                for &v in op.inputs.iter().chain(&op.outputs) {
                    last[place(v)] = i;
                }
                for &(a, _) in inplace {
                    live[place(op.inputs[a])].retain(|&v| v != op.inputs[a]);
                }
                for &v in &op.outputs {
                    live[place(v)].push(v);
                    made[v.index()] = i;
                }
            }
            Step::Drop(v) => {
                live[place(*v)].retain(|u| u != v);
                last[place(*v)] = i;
            }
            Step::Offload(_) | Step::Prefetch(_) => {}
        }
    }
    best.into_iter().flatten().collect()
}

/// Where drops and prefetches of the chosen gaps stand.
fn schedule(problem: &Problem, gaps: &mut [Gap], starts: &[u64], ends: &[u64]) {
    let nanos = |bytes: u64, rate: u64| {
        u64::try_from((u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(rate))).unwrap_or(u64::MAX)
    };
    let mut order: Vec<usize> = (0..gaps.len()).filter(|&g| gaps[g].chosen).collect();
    order.sort_by_key(|&g| (gaps[g].made, gaps[g].value));
    let mut free = 0u64;
    for &g in &order {
        let gap = &mut gaps[g];
        free = free.max(ends[gap.made]).saturating_add(nanos(gap.bytes, problem.device.d2h_bytes_per_s));
        let ready = starts.partition_point(|&start| start < free);
        gap.out = ready.min(gap.out_by).clamp(gap.from + 1, gap.to);
    }
    order.sort_by_key(|&g| (std::cmp::Reverse(gaps[g].to), gaps[g].value));
    let mut next = u64::MAX;
    for &g in &order {
        let gap = &mut gaps[g];
        next = next.min(starts[gap.to]).saturating_sub(nanos(gap.bytes, problem.device.h2d_bytes_per_s));
        let latest = starts.partition_point(|&start| start <= next).saturating_sub(1);
        gap.back = latest.max(gap.not_before).clamp(gap.out, gap.to);
    }
}

/// The steps with the copies of the chosen gaps, and for each the base step it is or stands before.
fn build(base: &[Step], gaps: &[Gap]) -> (Vec<Step>, Vec<usize>) {
    let mut before: Vec<Vec<(u8, usize, Step)>> = vec![Vec::new(); base.len() + 1];
    for gap in gaps.iter().filter(|gap| gap.chosen && gap.out < gap.back) {
        before[gap.made + 1].push((2, 0, Step::Offload(gap.value)));
        before[gap.out].push((3, 0, Step::Drop(gap.value)));
        before[gap.back].push((4, gap.to, Step::Prefetch(gap.value)));
    }
    let (mut steps, mut origin) = (Vec::with_capacity(base.len() * 2), Vec::with_capacity(base.len() * 2));
    for (i, step) in base.iter().map(Some).chain([None]).enumerate() {
        before[i].sort_by_key(|&(kind, to, _)| (kind, to));
        let copies = before[i].drain(..).map(|(.., step)| step);
        for step in copies.chain(step.cloned()) {
            steps.push(step);
            origin.push(i.min(base.len().saturating_sub(1)));
        }
    }
    (steps, origin)
}
