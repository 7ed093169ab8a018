//! `plimsoll diff`.

use std::path::PathBuf;

use plimsoll::cost::Problem;
use plimsoll::entity::{EntityMap, OpId, ValueId};
use plimsoll::plan::{Plan, Step, Timeline, simulate};
use plimsoll::{Bytes, Nanos};
use serde::Serialize;

use crate::input;
use crate::output::{self, Failure};
use crate::uses::{Uses, by_size};

/// Say what two plans of a problem keep, recompute and offload differently, and what that costs.
#[derive(clap::Args)]
#[command(after_help = "Example: plimsoll diff gpt.problem.json roomy.plan.json tight.plan.json")]
pub struct Args {
    /// Problem file; `-` reads standard input
    problem: PathBuf,
    /// First plan file; `-` reads standard input
    first: PathBuf,
    /// Second plan file; `-` reads standard input
    second: PathBuf,
    /// How many of the values treated differently to list, the largest first
    #[arg(long, default_value = "20")]
    values: usize,
    /// Print one JSON object instead of a table; it lists every value treated differently
    #[arg(long)]
    json: bool,
}

/// What `--json` prints. Bytes, nanoseconds, fractions of the baseline's time.
#[derive(Serialize)]
struct Report<'a> {
    problem: &'a str,
    plans: [Side; 2],
    /// Whether both run the same ops for the first time in the same order.
    same_order: bool,
    /// The values that own their storage and are treated differently, the largest first.
    values: Vec<Row>,
    /// The views among the values made more often by one plan than by the other.
    views: usize,
}

/// One plan as a whole.
#[derive(Serialize)]
struct Side {
    file: String,
    solver: String,
    budget: Bytes,
    peak: Bytes,
    time: Nanos,
    overhead: f64,
    /// Runs of ops that had run before, and their time.
    again: u32,
    again_time: Nanos,
    /// Copies to the host, their bytes, and the most bytes held there.
    offloads: u32,
    offloaded: u64,
    host_peak: Bytes,
    /// Outputs that took an input's storage over.
    inplace: u32,
}

/// One value that the plans treat differently.
#[derive(Serialize)]
struct Row {
    value: String,
    bytes: Bytes,
    made_by: Option<String>,
    plans: [Treatment; 2],
}

/// What one plan does with a value.
#[derive(Serialize)]
struct Treatment {
    fate: String,
    computes: u32,
    offloads: u32,
    /// Time of the runs of its op after the first.
    again_time: Nanos,
}

/// Check both, compare, report.
pub fn run(args: &Args) -> Result<(), Failure> {
    let paths = [&args.first, &args.second];
    let (problem, plans) = input::checked(&args.problem, paths.iter().map(|path| path.as_path()))?;
    let timelines = [simulate(&problem, &plans[0].steps)?, simulate(&problem, &plans[1].steps)?];
    let uses = [0, 1].map(|k| Uses::count(&problem, &plans[k].steps));
    let report = Report {
        problem: &problem.name,
        plans: [0, 1].map(|k| side(&problem, paths[k].display().to_string(), &plans[k], &timelines[k])),
        same_order: order(&problem, &plans[0]) == order(&problem, &plans[1]),
        values: rows(&problem, &uses),
        views: views(&problem, &uses),
    };
    Ok(output::print(&match args.json {
        true => output::json(&report),
        false => table(&problem, &report, args.values),
    })?)
}

/// The ops as they run for the first time.
fn order(problem: &Problem, plan: &Plan) -> Vec<OpId> {
    let mut ran: EntityMap<OpId, bool> = EntityMap::filled(false, problem.graph.ops().len());
    let first = plan.steps.iter().filter_map(|step| match step {
        Step::Compute { op, .. } => (!std::mem::replace(&mut ran[*op], true)).then_some(*op),
        _ => None,
    });
    first.collect()
}

fn side(problem: &Problem, file: String, plan: &Plan, timeline: &Timeline) -> Side {
    let graph = &problem.graph;
    let baseline = plimsoll::solver::baseline(problem).1.time;
    let mut side = Side {
        file,
        solver: plan.solver.clone(),
        budget: plan.budget,
        peak: timeline.peak,
        time: timeline.time,
        overhead: timeline.time.over(baseline),
        again: 0,
        again_time: Nanos::ZERO,
        offloads: 0,
        offloaded: 0,
        host_peak: timeline.host_peak,
        inplace: 0,
    };
    let mut ran: EntityMap<OpId, bool> = EntityMap::filled(false, graph.ops().len());
    for step in &plan.steps {
        match step {
            Step::Compute { op, inplace } => {
                side.inplace += inplace.len() as u32;
                if std::mem::replace(&mut ran[*op], true) {
                    side.again += 1;
                    side.again_time += problem.costs.time[*op];
                }
            }
            Step::Offload(v) => {
                side.offloads += 1;
                side.offloaded = side.offloaded.saturating_add(graph.values()[*v].bytes.get());
            }
            Step::Drop(_) | Step::Prefetch(_) => {}
        }
    }
    side
}

fn differs(uses: &[Uses; 2], v: ValueId) -> bool {
    uses[0].computes[v] != uses[1].computes[v] || uses[0].offloads[v] != uses[1].offloads[v]
}

fn rows(problem: &Problem, uses: &[Uses; 2]) -> Vec<Row> {
    let graph = &problem.graph;
    let treatment = |uses: &Uses, v: ValueId| {
        let time = graph.values()[v].producer.map_or(Nanos::ZERO, |op| problem.costs.time[op]);
        Treatment {
            fate: uses.fate(problem, v),
            computes: uses.computes[v],
            offloads: uses.offloads[v],
            again_time: Nanos(time.get().saturating_mul(uses.again(v).into())),
        }
    };
    let different = by_size(problem).into_iter().filter(|&v| differs(uses, v));
    let row = |v: ValueId| Row {
        value: graph.describe_value(v),
        bytes: graph.values()[v].bytes,
        made_by: graph.values()[v].producer.map(|op| graph.describe_op(op)),
        plans: [treatment(&uses[0], v), treatment(&uses[1], v)],
    };
    different.map(row).collect()
}

fn views(problem: &Problem, uses: &[Uses; 2]) -> usize {
    let values = problem.graph.values();
    values.iter().filter(|(v, value)| value.alias_of.is_some() && differs(uses, *v)).count()
}

fn table(problem: &Problem, report: &Report, count: usize) -> String {
    let [a, b] = &report.plans;
    let name = if problem.name.is_empty() { "(unnamed)" } else { &problem.name };
    let graph = &problem.graph;
    let mut text =
        output::rows([("problem", format!("{name}, {} ops, {} values", graph.ops().len(), graph.values().len()))]);
    text.push('\n');
    let mut rows = vec![["", "first", "second", "difference"].map(str::to_owned).to_vec()];
    let mut row = |label: &str, first: String, second: String, difference: String| {
        rows.push(vec![label.to_owned(), first, second, difference]);
    };
    let bytes = |x: Bytes| if x.get() == u64::MAX { "unlimited".to_owned() } else { x.to_string() };
    let signed = |a: u64, b: u64, show: &dyn Fn(u64) -> String| match b.cmp(&a) {
        std::cmp::Ordering::Equal => "same".to_owned(),
        std::cmp::Ordering::Less => format!("-{}", show(a - b)),
        std::cmp::Ordering::Greater => format!("+{}", show(b - a)),
    };
    let size = |x: u64| bytes(Bytes(x));
    let time = |x: u64| Nanos(x).to_string();
    row("file", a.file.clone(), b.file.clone(), String::new());
    row("solver", a.solver.clone(), b.solver.clone(), String::new());
    let mut measure = |label: &str, a: u64, b: u64, show: &dyn Fn(u64) -> String| {
        row(label, show(a), show(b), signed(a, b, show));
    };
    measure("budget", a.budget.get(), b.budget.get(), &size);
    measure("peak", a.peak.get(), b.peak.get(), &size);
    measure("time", a.time.get(), b.time.get(), &time);
    measure("recomputed ops", a.again.into(), b.again.into(), &|n| n.to_string());
    measure("recomputing takes", a.again_time.get(), b.again_time.get(), &time);
    measure("in place", a.inplace.into(), b.inplace.into(), &|n| n.to_string());
    if a.offloads + b.offloads > 0 {
        measure("offloads", a.offloads.into(), b.offloads.into(), &|n| n.to_string());
        measure("offloaded", a.offloaded, b.offloaded, &size);
        measure("most on the host", a.host_peak.get(), b.host_peak.get(), &size);
    }
    row("overhead", output::percent(a.overhead), output::percent(b.overhead), String::new());
    text.push_str(&output::table(&rows, &[1, 2, 3]));
    text.push('\n');
    text.push_str(&differences(report, count));
    text
}

/// What is treated differently, and how much of it is not listed.
fn differences(report: &Report, count: usize) -> String {
    let mut text = String::new();
    if report.values.is_empty() {
        text.push_str("Both keep, recompute and offload the same values.\n");
    } else {
        let header = ["value", "size", "made by", "first", "again for", "second", "again for"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for row in report.values.iter().take(count) {
            let made_by = row.made_by.clone().unwrap_or_else(|| "-".into());
            let [a, b] = &row.plans;
            let again = |t: &Treatment| if t.computes > 1 { t.again_time.to_string() } else { "-".to_owned() };
            let (again_a, again_b) = (again(a), again(b));
            let size = row.bytes.to_string();
            rows.push(vec![row.value.clone(), size, made_by, a.fate.clone(), again_a, b.fate.clone(), again_b]);
        }
        text.push_str(&output::table(&rows, &[1, 4, 6]));
        let rest = &report.values[count.min(report.values.len())..];
        if !rest.is_empty() {
            let bytes = rest.iter().fold(0u64, |sum, row| sum.saturating_add(row.bytes.get()));
            text.push_str(&format!("and {} more, {} in all\n", rest.len(), Bytes(bytes)));
        }
    }
    if report.views > 0 {
        text.push_str(&format!(
            "{} views, which hold no bytes of their own, are made more or less often\n",
            report.views
        ));
    }
    if !report.same_order {
        text.push_str("The ops run for the first time in different orders.\n");
    }
    text
}
