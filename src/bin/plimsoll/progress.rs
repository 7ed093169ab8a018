//! A line or a bar while something takes long.

use std::io::IsTerminal as _;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use plimsoll::solver::{Options, Progress};

/// Do `work` with these options; when it takes longer than a second and standard error is a
/// terminal, show how far the solver has come.
pub fn shown<T>(options: &Options, work: impl FnOnce(&Options) -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work(options);
    }
    let line = Arc::new(Mutex::new(String::from("planning")));
    let latest = line.clone();
    let on_progress = move |progress: &Progress| {
        *latest.lock().unwrap_or_else(PoisonError::into_inner) = progress.to_string();
    };
    let options = Options { on_progress: Some(Arc::new(on_progress)), ..options.clone() };
    std::thread::scope(|scope| {
        let (done, waiting) = channel::<()>();
        scope.spawn(move || {
            let still_working = |pause| waiting.recv_timeout(pause) == Err(RecvTimeoutError::Timeout);
            if !still_working(Duration::from_secs(1)) {
                return;
            }
            let spinner = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
                spinner.set_style(style);
            }
            while still_working(Duration::from_millis(100)) {
                spinner.set_message(line.lock().unwrap_or_else(PoisonError::into_inner).clone());
                spinner.tick();
            }
            spinner.finish_and_clear();
        });
        let result = work(&options);
        drop(done);
        result
    })
}

/// A bar for so many of `what` on standard error, where that is a terminal.
pub fn bar(what: &str, count: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(count as u64);
    if let Ok(style) = ProgressStyle::with_template(&format!("{what} {{bar:40}} {{pos}}/{{len}} {{msg}}")) {
        bar.set_style(style);
    }
    bar
}
