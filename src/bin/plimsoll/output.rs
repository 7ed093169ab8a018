//! Printing, and how a command can fail.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};

use plimsoll::plan::Status;
use plimsoll::{Bytes, Error, Nanos};

/// Why a command did not do what it was asked.
pub enum Failure {
    /// No plan fits the budget; the command has said so already.
    Infeasible,
    /// Anything else.
    Error(Error),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Infeasible => 2,
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

/// `9.8%`, never a negative zero.
pub fn percent(fraction: f64) -> String {
    format!("{:.1}%", fraction * 100.0 + 0.0)
}

/// A plan's status in words.
pub fn status(status: Status, lower_bound: f64) -> String {
    match status {
        Status::Optimal => "optimal: no plan within the budget is faster".into(),
        Status::Feasible => format!("feasible: no plan has an overhead below {}", percent(lower_bound)),
        Status::Infeasible => "infeasible".into(),
        Status::Unknown => "unknown".into(),
    }
}
