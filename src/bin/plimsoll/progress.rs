//! A bar while something takes long.

use std::io::IsTerminal as _;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Do `work`; when it takes longer than a second and standard error is a terminal, show how much
/// of `limit` has passed.
pub fn shown<T>(what: &'static str, limit: Duration, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    std::thread::scope(|scope| {
        let (done, waiting) = channel::<()>();
        scope.spawn(move || {
            let start = Instant::now();
            let still_working = |pause| waiting.recv_timeout(pause) == Err(RecvTimeoutError::Timeout);
            if !still_working(Duration::from_secs(1)) {
                return;
            }
            let bar = ProgressBar::new(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)).with_message(what);
            if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:32}] {elapsed}") {
                bar.set_style(style);
            }
            while still_working(Duration::from_millis(100)) {
                bar.set_position(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
            }
            bar.finish_and_clear();
        });
        let result = work();
        drop(done);
        result
    })
}
