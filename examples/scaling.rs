//! How planning scales: GPTs from 4 to 192 layers at half of their peak, drawn as
//! `docs/figures/scaling.svg`.
//!
//! ```text
//! cargo run --release --features cli,zoo,fuzzing,highs --example scaling [LAYERS...] [--out FILE]
//! ```
//!
//! Nothing is measured but planning: op times come from a roofline. Times are of the processor, all
//! threads added up, so that other work on the machine shows little.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use plimsoll::solver::{self, Options};
use plimsoll::{Bytes, Result, alloc};

#[path = "../benches/made/mod.rs"]
mod made;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

const LAYERS: [usize; 7] = [4, 8, 12, 24, 48, 96, 192];

/// One problem planned.
struct Point {
    layers: usize,
    ops: usize,
    seconds: f64,
    overhead: f64,
    bound: f64,
    heap: Bytes,
}

/// Seconds of the processor this process has used; of the clock where the system does not tell.
fn seconds(started: Instant) -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // User and system time in hundredths of a second: fields 14 and 15 of proc(5).
    match (fields.get(11).and_then(|f| f.parse::<f64>().ok()), fields.get(12).and_then(|f| f.parse::<f64>().ok())) {
        (Some(user), Some(system)) => (user + system) / 100.0,
        _ => started.elapsed().as_secs_f64(),
    }
}

fn measure(layers: usize) -> Result<Point> {
    let problem = made::gpt(layers)?;
    let budget = Bytes(solver::baseline(&problem).1.peak.get() / 2);
    let options = Options { time_limit: Duration::from_secs(60), ..Options::default() };
    alloc::reset_peak();
    let started = Instant::now();
    let before = seconds(started);
    let plan = solver::plan(&problem, budget, "auto", &options)?;
    Ok(Point {
        layers,
        ops: problem.graph.ops().len(),
        seconds: seconds(started) - before,
        overhead: plan.predicted.overhead,
        bound: plan.predicted.lower_bound,
        heap: alloc::peak(),
    })
}

/// Solve time per op against ops, both logarithmic, with a line that grows as log n.
fn svg(points: &[Point]) -> String {
    let (width, height, left, bottom, top, right) = (640.0, 400.0, 70.0, 350.0, 40.0, 610.0);
    let per_op = |p: &Point| p.seconds * 1e6 / p.ops as f64;
    let first = points.first().map_or(1.0, |p| p.ops as f64);
    let last = points.last().map_or(10.0, |p| p.ops as f64);
    // Through the first point: what n log n is per op.
    let line = |ops: f64| points.first().map_or(1.0, per_op) * ops.ln() / first.ln();
    let values = || points.iter().map(per_op).chain([line(last)]);
    let low = 10f64.powf(values().fold(f64::MAX, f64::min).log10().floor());
    let high = 10f64.powf(values().fold(f64::MIN, f64::max).log10().ceil());
    let (from, to) = (first * 0.8, last * 1.25);
    let x = |ops: f64| left + (right - left) * (ops / from).ln() / (to / from).ln();
    let y = |value: f64| bottom - (bottom - top) * (value / low).ln() / (high / low).ln();
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-20 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect x=\"-20\" width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{left}\" y=\"22\" font-size=\"14\">Planning a GPT at half of its peak: processor time per op</text>\n\
         <path d=\"M{left} {top}V{bottom}H{right}\" fill=\"none\" stroke=\"black\"/>\n"
    );
    let mut tick = low;
    while tick <= high * 1.001 {
        let _ = writeln!(
            text,
            "<path d=\"M{left} {0:.1}H{right}\" stroke=\"#ddd\"/><text x=\"62\" y=\"{1:.1}\" text-anchor=\"end\">{tick} µs</text>",
            y(tick),
            y(tick) + 4.0
        );
        tick *= 10.0;
    }
    for p in points {
        let at = x(p.ops as f64);
        let _ = writeln!(
            text,
            "<circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"#06c\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            y(per_op(p)),
            bottom + 16.0,
            p.ops
        );
    }
    let path = |value: &dyn Fn(f64) -> f64| {
        let at = (0..=40).map(|k| first * (last / first).powf(f64::from(k) / 40.0));
        at.map(|ops| format!("{:.1},{:.1}", x(ops), y(value(ops)))).collect::<Vec<_>>().join(" ")
    };
    let measured = points.iter().map(|p| format!("{:.1},{:.1}", x(p.ops as f64), y(per_op(p)))).collect::<Vec<_>>();
    let _ = write!(
        text,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\"/>\n\
         <polyline points=\"{}\" fill=\"none\" stroke=\"#c60\" stroke-dasharray=\"5 4\"/>\n\
         <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#c60\">n log n through the first point</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">ops</text>\n</svg>\n",
        measured.join(" "),
        path(&line),
        right,
        y(line(last)) - 8.0,
        (left + right) / 2.0,
        bottom + 36.0,
    );
    text
}

fn main() -> Result<()> {
    let mut layers: Vec<usize> = Vec::new();
    let mut out = format!("{}/docs/figures/scaling.svg", env!("CARGO_MANIFEST_DIR"));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--out" => out = arguments.next().unwrap_or(out),
            number => layers.extend(number.parse::<usize>()),
        }
    }
    if layers.is_empty() {
        layers = LAYERS.to_vec();
    }
    println!("| layers | ops | seconds | µs per op | per op log op | overhead | bound | heap |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut points = Vec::new();
    for layers in layers {
        let p = measure(layers)?;
        let per_op = p.seconds * 1e6 / p.ops as f64;
        println!(
            "| {} | {} | {:.2} | {per_op:.1} | {:.2} | {:.3} % | {:.3} % | {} |",
            p.layers,
            p.ops,
            p.seconds,
            per_op / (p.ops as f64).ln(),
            p.overhead * 100.0,
            p.bound * 100.0,
            p.heap
        );
        points.push(p);
    }
    std::fs::write(&out, svg(&points)).map_err(|source| plimsoll::Error::Io {
        action: "write",
        path: out.clone().into(),
        source,
    })?;
    println!("drawn in {out}");
    Ok(())
}
