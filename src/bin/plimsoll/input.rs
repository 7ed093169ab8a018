//! Reading problems, plans and schedules, from a file or from standard input (`-`).

use std::io::Read as _;
use std::path::Path;

use plimsoll::cost::Problem;
use plimsoll::pipeline::{CostedStep, Schedule};
use plimsoll::plan::Plan;
use plimsoll::{Error, MAX_FILE_BYTES, Result};

const STDIN: &str = "<stdin>";

/// Read a problem.
pub fn problem(path: &Path) -> Result<Problem> {
    match is_stdin(path) {
        true => Problem::from_reader(std::io::stdin().lock(), STDIN),
        false => Problem::load(path),
    }
}

/// Read a plan.
pub fn plan(path: &Path) -> Result<Plan> {
    match is_stdin(path) {
        true => Plan::from_reader(std::io::stdin().lock(), STDIN),
        false => Plan::load(path),
    }
}

/// Read a pipeline schedule.
pub fn schedule(path: &Path) -> Result<Schedule> {
    match is_stdin(path) {
        true => Schedule::from_reader(std::io::stdin().lock(), STDIN),
        false => Schedule::load(path),
    }
}

/// Read a step.
pub fn step(path: &Path) -> Result<CostedStep> {
    match is_stdin(path) {
        true => CostedStep::from_reader(std::io::stdin().lock(), STDIN),
        false => CostedStep::load(path),
    }
}

/// Read a file, of no more than a problem or a plan may hold.
pub fn bytes(path: &Path) -> Result<Vec<u8>> {
    let failed = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    refuse_to_wait(path).map_err(failed)?;
    let file = std::fs::File::open(path).map_err(failed)?;
    // A byte more tells what is too large.
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(Error::TooLarge { file: path.display().to_string(), limit: MAX_FILE_BYTES }),
        false => Ok(bytes),
    }
}

/// A named pipe may have nobody who writes. What shells put in the place of a command has.
fn refuse_to_wait(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        let has_writer = path.starts_with("/dev") || path.starts_with("/proc");
        if std::fs::metadata(path)?.file_type().is_fifo() && !has_writer {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is a named pipe: give a file"));
        }
    }
    Ok(())
}

/// Read a file of text.
pub fn text(path: &Path) -> Result<String> {
    String::from_utf8(bytes(path)?).map_err(|error| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error());
        Error::Io { action: "read", path: path.to_owned(), source }
    })
}

/// Refuse to write over a file that was read: `-o` with the wrong name would cost the only copy.
pub fn spare<'a>(out: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let real = |path: &Path| std::fs::canonicalize(path).ok().filter(|path| path.is_file());
    let Some(out_file) = real(out) else { return Ok(()) };
    match inputs.into_iter().any(|input| real(input).as_ref() == Some(&out_file)) {
        false => Ok(()),
        true => Err(Error::InvalidInput {
            why: format!("{} is read, and would be written over: give another name", out.display()),
        }),
    }
}

/// Read a problem and a plan, of which one may come from standard input.
pub fn both(problem_path: &Path, plan_path: &Path) -> Result<(Problem, Plan)> {
    if is_stdin(problem_path) && is_stdin(plan_path) {
        return Err(Error::InvalidSetting {
            name: "-".into(),
            why: "the problem and the plan cannot both come from standard input".into(),
        });
    }
    Ok((problem(problem_path)?, plan(plan_path)?))
}

/// Read a problem and plans of it, of which one may come from standard input. Each plan is checked; an
/// error names its file.
pub fn checked<'a>(problem_path: &Path, plans: impl Iterator<Item = &'a Path>) -> Result<(Problem, Vec<Plan>)> {
    let plans: Vec<&Path> = plans.collect();
    if plans.iter().copied().chain([problem_path]).filter(|path| is_stdin(path)).count() > 1 {
        return Err(Error::InvalidSetting {
            name: "-".into(),
            why: "only one file can come from standard input".into(),
        });
    }
    let problem = problem(problem_path)?;
    let read = |path: &&Path| {
        let plan = plan(path)?;
        let checked = plimsoll::check::check(&problem, &plan);
        checked.map_err(|error| Error::InvalidInput { why: format!("{}: {error}", path.display()) })?;
        Ok(plan)
    };
    let plans = plans.iter().map(read).collect::<Result<_>>()?;
    Ok((problem, plans))
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}
