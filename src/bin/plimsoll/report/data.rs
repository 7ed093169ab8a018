//! What the page is given: plain arrays, small enough for plans of tens of thousands of steps.
//!
//! Sums, stacks and texts are the page's work. Names, shapes, sizes and times stand in tables, and
//! what grows is written as differences. A life is a buffer while it holds one value.

use std::collections::BTreeMap;

use plimsoll::cost::Problem;
use plimsoll::entity::{Entity as _, ValueId};
use plimsoll::graph::Phase;
use plimsoll::plan::{Lane, Step};
use serde::Serialize;

use super::category::{Categories, Category};
use super::picture::Picture;
use super::player::{Life, Made};
use super::sweep::Point;
use super::text::plain;
use crate::output;
use crate::uses::{Uses, by_size};

/// How many of the largest values the page lists.
const LISTED: usize = 200;

/// Everything on the page.
#[derive(Serialize)]
pub struct Page {
    version: &'static str,
    name: String,
    fingerprint: String,
    device: String,
    links: bool,
    resident: u64,
    categories: Vec<&'static str>,
    about: String,
    ops: Ops,
    values: Values,
    plans: Vec<PlanData>,
    sweep: Vec<Point>,
}

/// A list of which few items differ: the items, and for each place which it is.
#[derive(Serialize)]
struct Table<T: Ord> {
    of: Vec<T>,
    at: Vec<usize>,
}

impl<T: Ord + Clone> Table<T> {
    fn new(items: impl Iterator<Item = T>) -> Self {
        let (mut places, mut of) = (BTreeMap::new(), Vec::new());
        let at = items.map(|item| {
            *places.entry(item).or_insert_with_key(|item| {
                of.push(item.clone());
                of.len() - 1
            })
        });
        let at = at.collect();
        Self { of, at }
    }
}

#[derive(Serialize)]
struct Ops {
    kind: Table<String>,
    /// f, l, b or u.
    phase: String,
    time: Table<u64>,
    workspace: Table<u64>,
}

#[derive(Serialize)]
struct Values {
    name: Vec<String>,
    bytes: Table<u64>,
    shape: Table<String>,
    /// The op that writes each, less the one before it; -1 stands for none.
    by: Vec<i64>,
}

#[derive(Serialize)]
struct PlanData {
    label: String,
    baseline: bool,
    solver: String,
    status: String,
    note: String,
    budget: Option<u64>,
    peak: u64,
    peak_step: usize,
    time: u64,
    overhead: f64,
    bound: Option<f64>,
    host_peak: u64,
    /// c compute, r the same again, d drop, o offload, p prefetch.
    steps: String,
    /// The op or value of each step, less that of the step before.
    what: Vec<i64>,
    /// `[step, ns]` where a step has to wait for a copy.
    waits: Vec<(usize, u64)>,
    /// `[0 to the host or 1 to the device, step, start, end]`.
    copies: Vec<(u8, usize, u64, u64)>,
    lives: Lives,
    /// `[value, runs of its op, offloads, in place]` of the largest values.
    largest: Vec<(usize, u32, u32, u32)>,
}

#[derive(Serialize)]
struct Lives {
    /// The value of each, less that of the one before.
    value: Vec<i64>,
    /// The step it begins in, less that of the one before.
    from: Vec<usize>,
    /// How many steps it lasts.
    steps: Vec<usize>,
    /// A digit each: the category.
    category: String,
    /// s resident, c first run, r again, p prefetched; a capital where in place.
    made: String,
    /// `[life, bytes]` where the buffer is not of the value's size.
    bytes: Vec<(usize, u64)>,
}

impl Page {
    /// Gather what the page shows. The baseline comes last.
    pub fn new(problem: &Problem, categories: &Categories, pictures: &[Picture], sweep: Vec<Point>) -> Self {
        let graph = &problem.graph;
        let (ops, values) = (graph.ops(), graph.values());
        let shape = |dims: &[u64]| dims.iter().map(u64::to_string).collect::<Vec<_>>().join("×");
        let baseline = pictures.iter().find(|picture| picture.plan.is_none()).map(|picture| picture.timeline.time);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            name: plain(&problem.name),
            fingerprint: graph.fingerprint().to_string(),
            device: plain(&problem.device.name),
            links: problem.device.d2h_bytes_per_s > 0 && problem.device.h2d_bytes_per_s > 0,
            resident: graph.resident_bytes().get(),
            categories: Category::ALL.iter().map(|&c| categories.name(c)).collect(),
            about: categories.about.clone(),
            ops: Ops {
                kind: Table::new(ops.values().map(|op| plain(&op.kind))),
                phase: ops.values().map(|op| letter(op.phase)).collect(),
                time: Table::new(problem.costs.time.values().map(|t| t.get())),
                workspace: Table::new(problem.costs.workspace.values().map(|w| w.get())),
            },
            values: Values {
                name: values.values().map(|v| plain(&v.name)).collect(),
                bytes: Table::new(values.values().map(|v| v.bytes.get())),
                shape: Table::new(values.values().map(|v| plain(&shape(&v.dims)))),
                by: differences(values.values().map(|v| v.producer.map_or(-1, |op| op.index() as i64))),
            },
            plans: pictures.iter().map(|p| PlanData::new(problem, p, baseline.unwrap_or_default())).collect(),
            sweep,
        }
    }
}

impl PlanData {
    fn new(problem: &Problem, picture: &Picture, baseline: plimsoll::Nanos) -> Self {
        let timeline = &picture.timeline;
        let predicted = picture.plan.as_ref().map(|plan| &plan.2);
        let (note, believed) = picture.note();
        Self {
            label: plain(&picture.label),
            baseline: predicted.is_none(),
            solver: picture.plan.as_ref().map_or(String::new(), |plan| plain(&plan.0)),
            status: predicted.map_or(String::new(), output::status),
            note,
            budget: picture.budget().map(|budget| budget.get()),
            peak: timeline.peak.get(),
            peak_step: timeline.peak_step,
            time: timeline.time.get(),
            overhead: timeline.time.over(baseline),
            bound: predicted.filter(|_| believed).map(|p| p.lower_bound),
            host_peak: timeline.host_peak.get(),
            steps: picture.steps.iter().zip(&picture.again).map(|(step, &again)| verb(step, again)).collect(),
            what: differences(picture.steps.iter().map(|step| match step {
                Step::Compute { op, .. } => op.index() as i64,
                Step::Drop(v) | Step::Offload(v) | Step::Prefetch(v) => v.index() as i64,
            })),
            waits: waits(picture),
            copies: copies(picture),
            lives: Lives::new(problem, picture),
            largest: largest(problem, picture),
        }
    }
}

impl Lives {
    fn new(problem: &Problem, picture: &Picture) -> Self {
        let lives = &picture.lives;
        let made = |life: &Life| {
            let letter = match life.made {
                Made::Resident => 's',
                Made::First => 'c',
                Made::Again => 'r',
                Made::Prefetched => 'p',
            };
            if life.inplace { letter.to_ascii_uppercase() } else { letter }
        };
        let size = |life: &Life| problem.graph.values()[life.value].bytes.get();
        let odd = lives.iter().enumerate().filter(|(_, life)| life.bytes != size(life));
        let mut before = 0;
        Self {
            value: differences(lives.iter().map(|life| life.value.index() as i64)),
            from: lives.iter().map(|life| life.from - std::mem::replace(&mut before, life.from)).collect(),
            steps: lives.iter().map(|life| life.to.saturating_sub(life.from)).collect(),
            category: lives.iter().filter_map(|life| char::from_digit(life.category.index() as u32, 10)).collect(),
            made: lives.iter().map(made).collect(),
            bytes: odd.map(|(index, life)| (index, life.bytes)).collect(),
        }
    }
}

fn letter(phase: Phase) -> char {
    match phase {
        Phase::Forward => 'f',
        Phase::Loss => 'l',
        Phase::Backward => 'b',
        Phase::Update => 'u',
    }
}

fn verb(step: &Step, again: bool) -> char {
    match step {
        Step::Compute { .. } if again => 'r',
        Step::Compute { .. } => 'c',
        Step::Drop(_) => 'd',
        Step::Offload(_) => 'o',
        Step::Prefetch(_) => 'p',
    }
}

/// Each number less the one before it; the first less zero.
fn differences(numbers: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut before = 0;
    numbers.map(|number| number - std::mem::replace(&mut before, number)).collect()
}

/// Where a step does not begin when the one before it ends.
fn waits(picture: &Picture) -> Vec<(usize, u64)> {
    let mut now = 0;
    let mut waits = Vec::new();
    for (index, &(start, end)) in picture.when.iter().enumerate() {
        if start.get() > now {
            waits.push((index, start.get() - now));
        }
        now = end.get();
    }
    waits
}

fn copies(picture: &Picture) -> Vec<(u8, usize, u64, u64)> {
    let spans = picture.timeline.spans.iter().filter_map(|span| {
        let lane = match span.lane {
            Lane::Compute => return None,
            Lane::DeviceToHost => 0,
            Lane::HostToDevice => 1,
        };
        Some((lane, span.step, span.start.get(), span.end.get()))
    });
    spans.collect()
}

fn largest(problem: &Problem, picture: &Picture) -> Vec<(usize, u32, u32, u32)> {
    let uses = Uses::count(problem, &picture.steps);
    let row = |v: ValueId| (v.index(), uses.computes[v], uses.offloads[v], uses.inplace[v]);
    by_size(problem).into_iter().take(LISTED).map(row).collect()
}
