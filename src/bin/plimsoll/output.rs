//! Printing, and how a command can fail.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};

use plimsoll::cost::Problem;
use plimsoll::plan::{Predicted, Status};
use plimsoll::{Bytes, Error, Nanos};
use serde::Serialize;

/// Why a command did not do what it was asked.
pub enum Failure {
    /// There is no plan for the budget, or none was found; the command has said so already.
    NoPlan,
    /// Anything else.
    Error(Error),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::NoPlan => 2,
            Failure::Error(_) => 1,
        }
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Error(error.into())
    }
}

/// Print to standard output. A reader that has gone away (`| head`) is not an error.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(source) if source.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Io { action: "write", path: "<stdout>".into(), source })
        }
        _ => Ok(()),
    }
}

/// Print a line to standard error, if anyone listens.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Rows of a label and a text, the labels padded to one width.
pub fn rows<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (label, value) in rows {
        let _ = writeln!(text, "{label:<width$}  {value}");
    }
    text
}

/// A table; the first row is the header. Columns listed in `right` are aligned to the right.
pub fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let length = |cell: &String| cell.chars().count();
    let widths: Vec<usize> = (0..columns).map(|c| rows.iter().map(|row| length(&row[c])).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let width = widths[c];
            let _ = match right.contains(&c) {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A table in Markdown.
pub fn markdown(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| {
        let cells = cells.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(header.iter().map(|&cell| cell.to_owned()).collect());
    text.push_str(&format!("|{}\n", "---|".repeat(header.len())));
    rows.into_iter().for_each(|row| text.push_str(&line(row)));
    text
}

/// `10.00 KiB (10240 bytes)`.
pub fn exact(bytes: Bytes) -> String {
    match bytes.get() {
        u64::MAX => "unlimited".to_owned(),
        n @ ..1024 => format!("{n} bytes"),
        n => format!("{bytes} ({n} bytes)"),
    }
}

/// `117.00 us, 9.8% over 107.00 us`.
pub fn against(time: Nanos, baseline: Nanos, overhead: f64) -> String {
    format!("{time}, {} over {baseline}", percent(overhead))
}

/// `9.8%`, never a negative zero; two digits where one would hide most of it.
pub fn percent(fraction: f64) -> String {
    let percent = fraction * 100.0 + 0.0;
    match percent.abs() {
        0.005..0.95 => format!("{percent:.2}%"),
        _ => format!("{percent:.1}%"),
    }
}

/// One line of JSON.
pub fn json<T: Serialize>(report: &T) -> String {
    let mut text = serde_json::to_string(report).expect("a report is plain data");
    text.push('\n');
    text
}

/// A status as files and reports spell it.
pub fn word(status: Status) -> &'static str {
    match status {
        Status::Optimal => "optimal",
        Status::Feasible => "feasible",
        Status::Infeasible => "infeasible",
        Status::Unknown => "unknown",
    }
}

/// A plan's status in words.
pub fn status(predicted: &Predicted) -> String {
    let word = word(predicted.status);
    match predicted.status {
        // The bound holds for more plans than some exact solvers look at.
        Status::Optimal if predicted.gap() > 0.0 => format!("{word} among the plans that the solver models"),
        Status::Optimal => format!("{word}: no plan within the budget is faster"),
        Status::Feasible => format!("{word}: a faster plan may exist"),
        Status::Infeasible | Status::Unknown => word.into(),
    }
}

/// What is certified: the lower bound, the plans it holds for, and the gap left.
pub fn bound(problem: &Problem, predicted: &Predicted) -> String {
    let device = &problem.device;
    let offload = device.d2h_bytes_per_s > 0 && device.h2d_bytes_per_s > 0 && device.host_memory > Bytes::ZERO;
    // With links the bound is only what running everything once takes, which holds for all.
    let who = if offload { "no plan, with offload or without," } else { "no plan without offload" };
    let (bound, gap) = (percent(predicted.lower_bound), percent(predicted.gap()));
    format!("{who} has an overhead below {bound}: a gap of {gap}")
}
