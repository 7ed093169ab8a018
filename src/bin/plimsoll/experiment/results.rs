//! The file that results are kept in: JSON lines, appended as cells end.
//!
//! A run that is killed leaves whole lines and perhaps a piece of one; the piece is dropped, and
//! its cell done again. So no result is lost that was once kept, and none is there twice.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use plimsoll::{Error, Result};
use serde::{Deserialize, Serialize};

use super::grid::Cell;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The cell's key.
    pub key: String,
    /// The version of this program that made it.
    pub version: String,
    /// The cell.
    pub cell: Cell,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a cell. Bytes, nanoseconds, fractions of the baseline's time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// `optimal`, `feasible`, `infeasible`, `unknown` as of plans; `unsupported` where the solver does not take
    /// the problem; `failed` for any other reason, given in `why`.
    pub status: String,
    /// Why there is no plan.
    pub why: Option<String>,
    /// Ops of the problem.
    pub ops: Option<u64>,
    /// The budget in bytes.
    pub budget: Option<u64>,
    /// The planned peak.
    pub peak: Option<u64>,
    /// The planned time.
    pub time: Option<u64>,
    /// The peak with everything kept.
    pub baseline_peak: Option<u64>,
    /// The time with everything kept.
    pub baseline_time: Option<u64>,
    /// The plan's overhead.
    pub overhead: Option<f64>,
    /// No plan has less.
    pub lower_bound: Option<f64>,
    /// The difference of the two.
    pub gap: Option<f64>,
    /// Where there is no plan: the smallest budget that one was found for.
    pub minimum: Option<u64>,
    /// How long planning took: of measured cells with tracing and measuring ops.
    pub seconds: Option<f64>,
    /// Threads that the solver had.
    pub threads: Option<usize>,
    /// The measured peak of a step, counted as the planned one is.
    pub measured_peak: Option<u64>,
    /// The measured median time of a step.
    pub measured_time: Option<u64>,
    /// The measured peak of the whole process, planning included.
    pub process_peak: Option<u64>,
}

impl Outcome {
    /// Nothing but a status and its reason.
    pub fn none(status: &str, why: impl std::fmt::Display) -> Self {
        Self { status: status.to_owned(), why: Some(why.to_string()), ..Self::default() }
    }
}

/// The open file.
pub struct Results {
    path: PathBuf,
    /// None once writing failed: what was then written is a piece of a line, to which nothing may be
    /// appended.
    file: Mutex<Option<File>>,
}

impl Results {
    /// Open or create it for a run of its own, and read what is there. Refused while another run
    /// has it open.
    pub fn open(path: &Path) -> Result<(Self, Records)> {
        let io = |action| move |source| Error::Io { action, path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io("write"))?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io("write"))?;
        match file.try_lock() {
            // A file system without locks: then it is for the user to run one at a time.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => {
                let why = std::io::Error::other("another run of this experiment is at work on it");
                return Err(io("write")(why));
            }
        }
        let (records, whole) = read(path)?;
        // Whoever reads the file finds whole lines, from now on as well.
        file.set_len(whole).map_err(io("write"))?;
        Ok((Self { path: path.to_owned(), file: Mutex::new(Some(file)) }, records))
    }

    /// Keep one result, for good.
    pub fn keep(&self, record: &Record) -> Result<()> {
        let line = crate::output::json(record);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match file.as_mut() {
            Some(file) => file.write_all(line.as_bytes()).and_then(|()| file.sync_data()),
            None => Err(std::io::Error::other("an earlier result could not be written")),
        };
        written.map_err(|source| {
            *file = None;
            Error::Io { action: "write", path: self.path.clone(), source }
        })
    }
}

/// Results by key.
pub type Records = BTreeMap<String, Record>;

/// Read what is there without touching it; nothing where there is no file. Also how many bytes of it
/// are whole lines.
pub fn read(path: &Path) -> Result<(Records, u64)> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        read => read.map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?,
    };
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    let mut records = Records::new();
    for (number, line) in bytes[..whole].split_inclusive(|&byte| byte == b'\n').enumerate() {
        let record: Record = serde_json::from_slice(line).map_err(|error| Error::Format {
            file: path.display().to_string(),
            expected: "results",
            why: format!("line {}: {error}; delete the line, or give another --out", number + 1),
        })?;
        records.insert(record.key.clone(), record);
    }
    Ok((records, whole as u64))
}
