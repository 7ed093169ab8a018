//! What a comparison found: figures, a table, Markdown.

use std::fmt::Write as _;

use plimsoll::stats::{self, Verdict};
use plimsoll::{Bytes, Nanos};
use serde::Serialize;

use super::Args;
use crate::output;
use crate::worker::{Ran, Timed, median_ns};

/// What differs from one repetition to the next.
const VARIED: [&str; 4] = ["initial values", "data", "process", "order of runs"];

/// A comparison, as `--json` prints it.
#[derive(Serialize)]
pub struct Report {
    model: String,
    settings: Vec<String>,
    device: String,
    runs: u32,
    steps: u32,
    warmup: u32,
    seed: u64,
    threshold: f64,
    varied: [&'static str; 4],
    /// Whether losses, gradients and parameters of all variants are the same bits in every repetition.
    pub identical: bool,
    /// Whether they cannot be, as the model draws random numbers.
    pub random: bool,
    variants: Vec<Row>,
}

/// One variant. Ratios are to the first.
#[derive(Serialize)]
struct Row {
    variant: String,
    /// Median of the runs' median step times, in nanoseconds.
    step_time: f64,
    /// Median over repetitions of the ratio of step times.
    ratio: f64,
    /// Its 95 % interval; none below 6 repetitions.
    ratio_low: Option<f64>,
    ratio_high: Option<f64>,
    /// The share of repetitions in which this variant was faster than the first, and the 95 %
    /// interval of the probability.
    faster: f64,
    faster_low: f64,
    faster_high: f64,
    verdict: &'static str,
    /// Median peak in bytes; none where the device does not tell.
    peak: Option<u64>,
    peak_ratio: Option<f64>,
    /// Where its bits first differ from the first variant's.
    differs: Option<String>,
    /// What its plan promised: the peak of a step, which is not that of the process.
    planned_peak: Option<u64>,
    /// What its plan promised: the time of a step, in nanoseconds. On the CPU that is without what wrapping a step takes.
    planned_time: Option<f64>,
    /// Median nanoseconds in which the executor asked for one step of the plan; on the CPU that is doing it.
    asked_per_step: Option<f64>,
    /// Median seconds of tracing, measuring and planning.
    plan_seconds: Option<f64>,
    /// Of a timed variant, what operations and copies took, in nanoseconds a step, in the median run.
    lanes: Option<Timed>,
}

impl Row {
    fn new(variant: String, threshold: f64, first: &[Ran], mine: &[Ran]) -> Self {
        let times = |runs: &[Ran]| runs.iter().map(Ran::step_time).collect::<Vec<_>>();
        let (base, time) = (times(first), times(mine));
        let ratios: Vec<f64> = time.iter().zip(&base).map(|(mine, first)| mine / first).collect();
        let interval = stats::median_interval(&ratios);
        let faster = stats::smaller(time.iter().copied().zip(base.iter().copied()));
        let peak = |runs: &[Ran]| {
            let peaks: Option<Vec<f64>> = runs.iter().map(|run| run.peak.map(|peak| peak as f64)).collect();
            peaks.map(|peaks| stats::median(&peaks))
        };
        let over_plans = |of: fn(&crate::worker::Planned) -> f64| {
            let plans: Option<Vec<f64>> = mine.iter().map(|run| run.plan.as_ref().map(of)).collect();
            plans.map(|values| stats::median(&values))
        };
        Self {
            variant,
            step_time: stats::median(&time),
            ratio: stats::median(&ratios),
            ratio_low: interval.map(|i| i.low),
            ratio_high: interval.map(|i| i.high),
            faster: faster.share,
            faster_low: faster.interval.low,
            faster_high: faster.interval.high,
            verdict: match stats::verdict(&faster, threshold) {
                Verdict::Smaller => "faster",
                Verdict::Larger => "slower",
                Verdict::NotShown => "not shown",
            },
            peak: peak(mine).map(|peak| peak as u64),
            peak_ratio: peak(mine).zip(peak(first)).map(|(mine, first)| mine / first),
            differs: differs(first, mine),
            planned_peak: over_plans(|plan| plan.planned_peak as f64).map(|peak| peak as u64),
            planned_time: over_plans(|plan| plan.predicted_ns as f64),
            asked_per_step: over_plans(|plan| median_ns(&plan.asked_ns) / plan.steps.max(1) as f64),
            plan_seconds: over_plans(|plan| plan.plan_seconds),
            lanes: timed(mine),
        }
    }

    /// Cells of both tables; the first variant has nothing to be compared with.
    fn cells(&self, first: bool) -> Vec<String> {
        let interval = |low: f64, high: f64, show: fn(f64) -> String| format!("{} to {}", show(low), show(high));
        let ratio = |x: f64| format!("{x:.3}");
        let share = |x: f64| format!("{:.0}%", 100.0 * x);
        let unless_first = |text: String| if first { "-".to_owned() } else { text };
        vec![
            self.variant.clone(),
            Nanos(self.step_time as u64).to_string(),
            unless_first(ratio(self.ratio)),
            unless_first(
                self.ratio_low.zip(self.ratio_high).map_or("-".into(), |(low, high)| interval(low, high, ratio)),
            ),
            unless_first(share(self.faster)),
            unless_first(interval(self.faster_low, self.faster_high, share)),
            unless_first(self.verdict.to_owned()),
            self.peak.map_or("-".into(), |peak| Bytes(peak).to_string()),
            unless_first(self.peak_ratio.map_or("-".into(), ratio)),
        ]
    }
}

/// Of the run whose steps took the median time of all that were timed.
fn timed(runs: &[Ran]) -> Option<Timed> {
    let mut timed: Vec<Timed> = runs.iter().filter_map(|run| run.plan.as_ref()?.lanes).collect();
    timed.sort_by_key(|lanes| lanes.span);
    timed.get(timed.len() / 2).copied()
}

const HEADER: [&str; 9] =
    ["variant", "step", "ratio", "95% interval", "faster in", "95% interval", "verdict", "peak", "of the first"];

impl Report {
    /// The figures of `runs`, by variant and repetition.
    pub fn new(args: &Args, labels: Vec<String>, runs: &[Vec<Ran>]) -> Self {
        let row = |(label, mine): (String, &Vec<Ran>)| Row::new(label, args.threshold, &runs[0], mine);
        let variants: Vec<Row> = labels.into_iter().zip(runs).map(row).collect();
        Self {
            model: args.model.clone(),
            settings: args.set.clone(),
            device: args.device.clone(),
            runs: args.runs,
            steps: args.steps,
            warmup: args.warmup,
            seed: args.seed,
            threshold: args.threshold,
            varied: VARIED,
            identical: variants.iter().all(|row| row.differs.is_none()),
            random: false,
            variants,
        }
    }

    /// What was done and whether it computed the same, line by line.
    fn head(&self) -> Vec<(&'static str, String)> {
        let settings = if self.settings.is_empty() { "default settings".into() } else { self.settings.join(" ") };
        let mut head = vec![
            ("model", format!("{}, {settings}, on {}", self.model, self.device)),
            ("runs", format!("{} of each variant, each a process of its own; seed {}", self.runs, self.seed)),
            ("steps", format!("{} measured in each run, after {} to warm up", self.steps, self.warmup)),
            ("varied", format!("{}; the variants of a repetition share the first two", self.varied.join(", "))),
        ];
        match self.identical {
            true => head.push(("results", "identical bits: losses, gradients and parameters of all variants".into())),
            false => {
                let first = &self.variants[0].variant;
                for (row, at) in self.variants.iter().filter_map(|row| Some((row, row.differs.as_ref()?))) {
                    head.push(("results", format!("DIFFERENT: {} from {first} in {at}", row.variant)));
                }
            }
        }
        for row in &self.variants {
            let Some(lanes) = row.lanes else { continue };
            let copies = lanes.to_host + lanes.from_host;
            let hidden = match copies {
                0 => "no copies".to_owned(),
                _ => format!(
                    "copies {} to the host and {} back, {:.1} % of that while operations ran",
                    Nanos(lanes.to_host),
                    Nanos(lanes.from_host),
                    100.0 * lanes.hidden as f64 / copies as f64
                ),
            };
            let line =
                format!("{}: operations {} of {}, {hidden}", row.variant, Nanos(lanes.compute), Nanos(lanes.span));
            head.push(("timed", line));
        }
        if self.random {
            let why = "the model draws random numbers (dropout), and a plan's are not plain Burn's, by design: \
                       without them the bits can be compared";
            head.push(("", why.into()));
        }
        head
    }

    /// For people.
    pub fn human(&self) -> String {
        let mut rows = vec![HEADER.map(str::to_owned).to_vec()];
        rows.extend(self.variants.iter().enumerate().map(|(i, row)| row.cells(i == 0)));
        format!("{}\n{}", output::rows(self.head()), output::table(&rows, &[1, 2, 3, 4, 5, 7, 8]))
    }

    /// For documents.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (label, line) in self.head() {
            let _ = writeln!(text, "- {label}{}{line}", if label.is_empty() { "" } else { ": " });
        }
        text.push('\n');
        text.push_str(&output::markdown(&HEADER, self.variants.iter().enumerate().map(|(i, row)| row.cells(i == 0))));
        text
    }
}

/// Where two variants first computed other bits, if they did.
fn differs(first: &[Ran], mine: &[Ran]) -> Option<String> {
    let mut all = first.iter().zip(mine).enumerate();
    all.find_map(|(repetition, (a, b))| {
        let step = |a: &[String], b: &[String]| a.iter().zip(b).position(|(a, b)| a != b);
        let what = match (step(&a.losses, &b.losses), step(&a.gradients, &b.gradients)) {
            (Some(loss), gradient) if gradient.is_none_or(|g| loss <= g) => format!("the loss of step {loss}"),
            (_, Some(gradient)) => format!("the gradients of step {gradient}"),
            _ if a.parameters != b.parameters => "the parameters and statistics at the end".to_owned(),
            _ => return None,
        };
        Some(format!("{what} of repetition {repetition}"))
    })
}
