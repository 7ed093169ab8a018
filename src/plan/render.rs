//! Plans for people: a table of steps and a picture of memory over time, in plain text.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use crate::cost::Problem;
use crate::entity::{EntityMap, OpId};
use crate::plan::{Lane, Step, Timeline};
use crate::units::{Bytes, Nanos};

/// One line per step: its number, the bytes live during it, and what it does. The timeline is that
/// of the steps.
pub fn render_steps(problem: &Problem, steps: &[Step], timeline: &Timeline) -> String {
    let graph = &problem.graph;
    let mut ran: EntityMap<OpId, bool> = EntityMap::filled(false, graph.ops().len());
    let mut text = format!("{:>6}  {:>12}  does\n", "step", "live");
    for (index, (step, live)) in steps.iter().zip(&timeline.live).enumerate() {
        let what = match step {
            Step::Compute { op, inplace } => {
                let verb = match std::mem::replace(&mut ran[*op], true) {
                    false => "compute",
                    true => "recompute",
                };
                let mut what = format!("{verb:<9} {}", graph.describe_op(*op));
                for (place, &(a, _)) in inplace.iter().enumerate() {
                    what.push_str(if place == 0 { ", in place of " } else { " and " });
                    what.push_str(&graph.describe_value(graph.ops()[*op].inputs[a]));
                }
                what
            }
            Step::Drop(v) => format!("drop      {}", graph.describe_value(*v)),
            Step::Offload(v) => format!("offload   {}", graph.describe_value(*v)),
            Step::Prefetch(v) => format!("prefetch  {}", graph.describe_value(*v)),
        };
        let _ = writeln!(text, "{index:>6}  {live:>12}  {what}");
    }
    text
}

/// Live bytes over the plan's time as a bar chart of `width` x `height` characters, with a line
/// at the budget where it is in range. Copies between device and host are drawn below it.
pub fn render_timeline(timeline: &Timeline, budget: Bytes, width: usize, height: usize) -> String {
    const PARTS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (width, height) = (width.max(16), height.max(2));
    let columns = columns(timeline, width);
    let top = match budget < timeline.peak + timeline.peak {
        true => budget.max(timeline.peak),
        false => timeline.peak,
    };
    let scale = |bytes: Bytes| (bytes.get() as f64 / (top.get().max(1)) as f64 * (height * 8) as f64).round() as usize;
    let budget_row = (budget <= top).then(|| (scale(budget).max(1) - 1) / 8);
    let mut text = String::new();
    for row in (0..height).rev() {
        let label = match (Some(row) == budget_row, row + 1 == height, row) {
            (true, _, _) => format!("budget {budget:>11}"),
            (_, true, _) => format!("{top:>18}"),
            (_, _, 0) => format!("{:>18}", "0 B"),
            _ => " ".repeat(18),
        };
        let bar = columns.iter().map(|&bytes| match scale(bytes).saturating_sub(row * 8).min(8) {
            0 if Some(row) == budget_row => '╌',
            filled => PARTS[filled],
        });
        let _ = writeln!(text, "{label} │{}", bar.collect::<String>().trim_end());
    }
    let _ = writeln!(text, "{} └{}", " ".repeat(18), "─".repeat(width));
    for (label, lane) in [("to the host", Lane::DeviceToHost), ("to the device", Lane::HostToDevice)] {
        if let Some(busy) = copies(timeline, lane, width) {
            let _ = writeln!(text, "{label:>18}  {}", busy.trim_end());
        }
    }
    let end = timeline.time.to_string();
    let _ = writeln!(text, "{}  0{end:>rest$}", " ".repeat(18), rest = width - 1);
    text
}

/// The most bytes live in each of `width` equal parts of the plan's time.
fn columns(timeline: &Timeline, width: usize) -> Vec<Bytes> {
    let mut columns = vec![Bytes::ZERO; width];
    let mut raise = |start: Nanos, end: Nanos, live: Bytes| {
        for column in &mut columns[places(timeline, start, end, width)] {
            *column = (*column).max(live);
        }
    };
    let (mut done, mut free) = (0, Nanos::ZERO);
    for span in timeline.spans.iter().filter(|s| s.lane == Lane::Compute) {
        // While the lane waits for a copy, what the steps since the last compute left is live.
        if let (true, Some(&live)) = (span.start > free, timeline.live[done..span.step].iter().max()) {
            raise(free, span.start, live);
        }
        raise(span.start, span.end, timeline.live[span.step]);
        (done, free) = (span.step + 1, span.end);
    }
    columns
}

/// Where a lane copies, if it ever does.
fn copies(timeline: &Timeline, lane: Lane, width: usize) -> Option<String> {
    let mut busy = vec![' '; width];
    let mut any = false;
    for span in timeline.spans.iter().filter(|s| s.lane == lane) {
        any = true;
        busy[places(timeline, span.start, span.end, width)].fill('─');
    }
    any.then(|| busy.into_iter().collect())
}

/// The columns a stretch of time covers: at least one, even when it takes no time.
fn places(timeline: &Timeline, start: Nanos, end: Nanos, width: usize) -> RangeInclusive<usize> {
    let total = timeline.time.get().max(1) as f64;
    let place = |t: u64| ((t as f64 / total * width as f64) as usize).min(width - 1);
    let (start, end) = (start.get(), end.get());
    // Half-open: what ends on the border of a column does not reach into it.
    place(start)..=place(end.saturating_sub(1).max(start))
}
