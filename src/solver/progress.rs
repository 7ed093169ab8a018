//! Stopping a solve from outside, and watching how far it has come.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Options;
use crate::units::{Bytes, Nanos};

/// Asks a running solve to end. Clones are handles on one and the same request.
///
/// A cancelled solve returns the best it has so far, as one does whose time is over; it looks
/// wherever it looks at its time limit. While HiGHS solves a program nothing looks: that ends at
/// the latest when the time limit does.
///
/// ```
/// use plimsoll::solver::{Cancel, Options};
/// let cancel = Cancel::new();
/// let options = Options { cancel: cancel.clone(), ..Options::default() };
/// // ... hand `options` to a solve on another thread, and then:
/// cancel.cancel();
/// assert!(options.cancel.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A request that nobody has made yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Make the request. It cannot be taken back.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was made.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How far a solve has come.
///
/// From one report of a solve to the next the best overhead never increases and the lower bound
/// never decreases.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// The solver, by its name in the registry.
    pub solver: &'static str,
    /// The budget it solves for.
    pub budget: Bytes,
    /// What it is doing, in a word or two: `bound`, `construct`, `improve`, ..., at last `done`.
    pub phase: &'static str,
    /// Time since the solve began.
    pub elapsed: Duration,
    /// The least overhead of a plan found that fits the budget, as a fraction of the baseline's time.
    pub best_overhead: Option<f64>,
    /// The lower bound known so far, as [`Predicted::lower_bound`](crate::plan::Predicted::lower_bound).
    pub lower_bound: f64,
}

impl fmt::Display for Progress {
    /// `auto, 20.00 MiB: improve, overhead 5.13%, at least 2.87%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}: {}, ", self.solver, self.budget, self.phase)?;
        match self.best_overhead {
            // Adding zero makes a negative zero a plain one.
            Some(overhead) => write!(f, "overhead {:.2}%, ", overhead * 100.0 + 0.0)?,
            None => f.write_str("no plan yet, ")?,
        }
        write!(f, "at least {:.2}%", self.lower_bound.max(0.0) * 100.0)
    }
}

/// What is called with each report. It may come from any thread, but never from two at a time.
pub type OnProgress = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Without news there is a report this often, as long as the search looks at its limits.
const BEAT: Duration = Duration::from_millis(100);

/// No plan yet.
const NONE: u64 = u64::MAX;

/// One solve as its caller sees it.
pub(super) struct Watch {
    cancel: Cancel,
    on_progress: Option<OnProgress>,
    solver: &'static str,
    budget: u64,
    baseline: u64,
    started: Instant,
    /// Times: the best plan's, and the lower bound.
    best: AtomicU64,
    least: AtomicU64,
    phase: Mutex<&'static str>,
    /// When the last report was; held while one is made.
    last: Mutex<Instant>,
}

impl Watch {
    /// `baseline` is the time that overheads are fractions of, `least` a bound known beforehand.
    pub fn new(solver: &'static str, budget: u64, baseline: u64, least: u64, options: &Options) -> Self {
        let started = Instant::now();
        Self {
            cancel: options.cancel.clone(),
            on_progress: options.on_progress.clone(),
            solver,
            budget,
            baseline,
            started,
            best: AtomicU64::new(NONE),
            least: AtomicU64::new(least),
            phase: Mutex::new("start"),
            last: Mutex::new(started),
        }
    }

    /// A watch over the same request that reports nothing and knows of no plan.
    pub fn unheard(&self) -> Self {
        Self {
            cancel: self.cancel.clone(),
            on_progress: None,
            solver: self.solver,
            budget: self.budget,
            baseline: self.baseline,
            started: self.started,
            best: AtomicU64::new(NONE),
            least: AtomicU64::new(self.least.load(Ordering::Relaxed)),
            phase: Mutex::new("part"),
            last: Mutex::new(self.started),
        }
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether the caller wants an end; reports that the solve is alive when that is due.
    pub fn cancelled(&self) -> bool {
        if self.on_progress.is_some()
            && let Ok(last) = self.last.try_lock()
            && last.elapsed() >= BEAT
        {
            self.report(last);
        }
        self.cancel.is_cancelled()
    }

    /// A new part of the solve begins.
    pub fn phase(&self, phase: &'static str) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
        self.news();
    }

    /// A plan or an order was found with this peak and time, perhaps for another budget.
    pub fn found(&self, peak: u64, time: u64) {
        if peak <= self.budget && self.best.fetch_min(time, Ordering::Relaxed) > time {
            self.news();
        }
    }

    /// Whether a plan within the budget was found.
    pub fn has_plan(&self) -> bool {
        self.best.load(Ordering::Relaxed) != NONE
    }

    /// No plan takes less time.
    pub fn bound(&self, least: u64) {
        if self.least.fetch_max(least, Ordering::Relaxed) < least {
            self.news();
        }
    }

    /// Report, unless a report is under way: the next one will tell.
    fn news(&self) {
        if self.on_progress.is_some()
            && let Ok(last) = self.last.try_lock()
        {
            self.report(last);
        }
    }

    fn report(&self, mut last: MutexGuard<'_, Instant>) {
        let Some(on_progress) = &self.on_progress else { return };
        let time = |time: u64| Nanos(time).over(Nanos(self.baseline));
        let best = self.best.load(Ordering::Relaxed);
        let phase = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        on_progress(&Progress {
            solver: self.solver,
            budget: Bytes(self.budget),
            phase,
            elapsed: self.started.elapsed(),
            best_overhead: (best != NONE).then(|| time(best)),
            lower_bound: time(self.least.load(Ordering::Relaxed)),
        });
        *last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_news_only() {
        let told: Arc<Mutex<Vec<Progress>>> = Arc::default();
        let sink = told.clone();
        let on_progress: OnProgress = Arc::new(move |p| sink.lock().unwrap().push(p.clone()));
        let options = Options { on_progress: Some(on_progress), ..Options::default() };
        let watch = Watch::new("auto", 100, 1000, 1000, &options);
        watch.phase("construct");
        watch.found(101, 1); // does not fit
        watch.found(100, 1200);
        watch.found(50, 1300); // no better
        watch.bound(900); // weaker
        watch.bound(1050);
        watch.found(99, 1100);
        let told = told.lock().unwrap();
        let seen: Vec<_> = told.iter().map(|p| (p.best_overhead, p.lower_bound)).collect();
        assert_eq!(seen, [(None, 0.0), (Some(0.2), 0.0), (Some(0.2), 0.05), (Some(0.1), 0.05)]);
        assert_eq!(told[0].to_string(), "auto, 100 B: construct, no plan yet, at least 0.00%");
        assert_eq!(told[3].to_string(), "auto, 100 B: construct, overhead 10.00%, at least 5.00%");
    }

    /// A report that asks for an end, and one that comes while another is made, block nothing.
    #[test]
    fn a_report_may_cancel() {
        let cancel = Cancel::new();
        let handle = cancel.clone();
        let on_progress: OnProgress = Arc::new(move |_| handle.cancel());
        let options = Options { on_progress: Some(on_progress), cancel, ..Options::default() };
        let watch = Watch::new("auto", 100, 0, 0, &options);
        assert!(!watch.cancelled());
        watch.phase("construct");
        assert!(watch.cancelled());
    }
}
