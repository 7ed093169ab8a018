//! The curve of a sweep: what `plimsoll sweep --json` prints, one object a line.

use std::path::Path;

use plimsoll::{Error, Nanos, Result};
use serde::{Deserialize, Serialize};

/// A point of the curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The budget, in bytes, that the plan was made for.
    pub budget: u64,
    /// Peak in bytes.
    pub peak: u64,
    /// Time in nanoseconds.
    pub time: u64,
    /// No plan within the budget has less overhead.
    pub bound: f64,
}

/// A line of the file. What a later version adds is left alone.
#[derive(Deserialize)]
struct Line {
    budget: Option<u64>,
    peak: Option<u64>,
    time: Option<u64>,
    overhead: Option<f64>,
    lower_bound: Option<f64>,
}

/// Read the curve; `baseline` is the time of the problem with everything kept, which the overheads in the
/// file must be of.
pub fn load(path: &Path, baseline: Nanos) -> Result<Vec<Point>> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    let fault =
        |why: String| Error::Format { file: path.display().to_string(), expected: "plimsoll sweep --json", why };
    let mut points = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = |why: String| fault(format!("line {}: {why}", index + 1));
        let line: Line = serde_json::from_str(line).map_err(|error| at(error.to_string()))?;
        let Some(budget) = line.budget else { return Err(at("it has no \"budget\"".into())) };
        let (Some(peak), Some(time), Some(overhead), Some(bound)) =
            (line.peak, line.time, line.overhead, line.lower_bound)
        else {
            continue; // There is no plan for this budget.
        };
        let base = baseline.get() as f64;
        if (base * (1.0 + overhead) - time as f64).abs() > 1.0 + 1e-6 * base {
            return Err(at("its time and overhead are not of this problem: sweep it anew".into()));
        }
        points.push(Point { budget, peak, time, bound });
    }
    if points.is_empty() {
        return Err(fault("it holds no budget with a plan".into()));
    }
    points.sort_by_key(|point| (point.budget, point.peak, point.time));
    Ok(points)
}
