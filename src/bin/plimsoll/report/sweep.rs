//! The curve of a sweep: what `plimsoll sweep --json` prints.

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

/// The file. What a later version adds is left alone.
#[derive(Deserialize)]
struct Curve {
    baseline_time: u64,
    points: Vec<Entry>,
}

/// One budget of it; without a plan it tells no time.
#[derive(Deserialize)]
struct Entry {
    budget: u64,
    peak: Option<u64>,
    time: Option<u64>,
    lower_bound: Option<f64>,
}

/// Read the curve; `baseline` is the time of the problem with everything kept, which must be that of the file.
pub fn load(path: &Path, baseline: Nanos) -> Result<Vec<Point>> {
    let text = crate::input::text(path)?;
    let fault =
        |why: String| Error::Format { file: path.display().to_string(), expected: "plimsoll sweep --json", why };
    let curve: Curve = serde_json::from_str(&text).map_err(|error| fault(error.to_string()))?;
    if curve.baseline_time != baseline.get() {
        return Err(fault("it is of another problem, or of other times of its ops: sweep it anew".into()));
    }
    let point = |entry: &Entry| {
        let (peak, time, bound) = (entry.peak?, entry.time?, entry.lower_bound?);
        Some(Point { budget: entry.budget, peak, time, bound })
    };
    let mut points: Vec<Point> = curve.points.iter().filter_map(point).collect();
    if points.is_empty() {
        return Err(fault("it holds no budget with a plan".into()));
    }
    points.sort_by_key(|point| (point.budget, point.peak, point.time));
    Ok(points)
}
