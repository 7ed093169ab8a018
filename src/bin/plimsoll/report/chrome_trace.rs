//! Plans as Chrome traces, which Perfetto and chrome://tracing open: a process for each plan, a thread
//! for each lane, and a counter of live bytes by category.

use plimsoll::Nanos;
use plimsoll::cost::Problem;
use plimsoll::graph::Phase;
use plimsoll::plan::{Lane, Span, Step};
use serde_json::{Map, Value, json};

use super::category::{Categories, Category};
use super::picture::{Picture, lane_name};
use super::player::Level;

/// The trace as JSON text, an event a line.
pub fn trace(problem: &Problem, categories: &Categories, pictures: &[Picture]) -> String {
    let mut events = Vec::new();
    for (index, picture) in pictures.iter().enumerate() {
        let pid = index + 1;
        names(&mut events, pid, picture);
        events.extend(picture.timeline.spans.iter().map(|span| complete(problem, picture, span, pid)));
        counters(&mut events, categories, picture, pid);
    }
    let mut text = String::from("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
    for (index, event) in events.iter().enumerate() {
        text.push_str(&event.to_string());
        text.push_str(if index + 1 < events.len() { ",\n" } else { "\n" });
    }
    let about = json!({"problem": problem.name, "fingerprint": problem.graph.fingerprint().to_string()});
    text.push_str(&format!("],\"otherData\":{about}}}\n"));
    text
}

/// Microseconds, the unit of the format.
fn micros(time: Nanos) -> f64 {
    time.get() as f64 / 1e3
}

fn names(events: &mut Vec<Value>, pid: usize, picture: &Picture) {
    let mut meta = |name: &str, tid: usize, args: Value| {
        events.push(json!({"ph": "M", "name": name, "pid": pid, "tid": tid, "args": args}));
    };
    meta("process_name", 0, json!({"name": picture.label}));
    meta("process_sort_index", 0, json!({"sort_index": pid}));
    for lane in [Lane::Compute, Lane::DeviceToHost, Lane::HostToDevice] {
        meta("thread_name", thread(lane), json!({"name": lane_name(lane)}));
        meta("thread_sort_index", thread(lane), json!({"sort_index": thread(lane)}));
    }
}

fn thread(lane: Lane) -> usize {
    match lane {
        Lane::Compute => 1,
        Lane::DeviceToHost => 2,
        Lane::HostToDevice => 3,
    }
}

fn complete(problem: &Problem, picture: &Picture, span: &Span, pid: usize) -> Value {
    let graph = &problem.graph;
    let live = picture.timeline.live[span.step].get();
    let (name, about, args) = match &picture.steps[span.step] {
        Step::Compute { op, .. } => {
            let again = picture.again[span.step];
            let made: u64 = graph.ops()[*op].outputs.iter().map(|&v| graph.values()[v].bytes.get()).sum();
            let outputs: Vec<String> = graph.ops()[*op].outputs.iter().map(|&v| graph.describe_value(v)).collect();
            let phase = match graph.ops()[*op].phase {
                Phase::Forward => "forward",
                Phase::Loss => "loss",
                Phase::Backward => "backward",
                Phase::Update => "update",
            };
            let args = json!({"step": span.step, "phase": phase, "again": again, "makes": outputs, "bytes": made,
                "workspace": problem.costs.workspace[*op].get(), "live": live});
            let name = graph.describe_op(*op);
            (if again { format!("again: {name}") } else { name }, if again { "recompute" } else { "compute" }, args)
        }
        Step::Drop(v) | Step::Offload(v) | Step::Prefetch(v) => {
            let args = json!({"step": span.step, "bytes": graph.values()[*v].bytes.get(), "live": live});
            (graph.describe_value(*v), lane_name(span.lane), args)
        }
    };
    json!({"ph": "X", "name": name, "cat": about, "pid": pid, "tid": thread(span.lane), "ts": micros(span.start),
        "dur": micros(Nanos(span.end.get().saturating_sub(span.start.get()))), "args": args})
}

/// What is live when something begins to run or has to wait, and at the end. Of the steps of one instant the
/// last tells, but never less than the compute that follows them.
fn counters(events: &mut Vec<Value>, categories: &Categories, picture: &Picture, pid: usize) {
    let used: Vec<Category> =
        Category::ALL.into_iter().filter(|c| picture.levels.iter().any(|level| level[c.index()] > 0)).collect();
    let mut before: Option<Level> = None;
    let mut count = |at: Nanos, level: Level| {
        if before.replace(level) == Some(level) {
            return;
        }
        let args: Map<String, Value> =
            used.iter().map(|&c| (categories.name(c).to_owned(), level[c.index()].into())).collect();
        events.push(json!({"ph": "C", "name": "live bytes", "pid": pid, "ts": micros(at), "args": args}));
    };
    for (index, &(start, end)) in picture.when.iter().enumerate() {
        let next = picture.when.get(index + 1).map(|next| next.0);
        if end > start || next.is_none_or(|next| next > start) {
            count(start, picture.levels[index]);
        }
        if end > start && next.is_none_or(|next| next > end) {
            count(end, picture.after(index));
        }
    }
}
