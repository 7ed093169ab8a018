//! The one error type of the crate.
//!
//! Every message names what was wrong, where, and what to do about it.

use std::borrow::Cow;
use std::path::PathBuf;

use crate::check::Violation;
use crate::pipeline::Violation as ScheduleViolation;
use crate::units::Bytes;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, by kind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A budget that cannot be read or makes no sense.
    #[error("invalid budget `{text}`: {why}")]
    InvalidBudget {
        /// The budget as it was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A problem whose parts contradict each other.
    #[error("invalid problem: {at}: {why}")]
    InvalidProblem {
        /// The op or value at fault (`op12 (Float.Matmul)`, `v7 (t81)`), or the field.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file whose text is not of the expected format.
    #[error("{file} is not a {expected} file: {why}")]
    Format {
        /// The file, or what stands for one.
        file: String,
        /// `plimsoll.problem`, `plimsoll.plan`, `plimsoll.profile` or `plimsoll.device`.
        expected: &'static str,
        /// Where reading failed and why.
        why: String,
    },
    /// A file written by a newer version of this program.
    #[error("{file} has version {found} of {format}; this program reads up to {supported}: upgrade plimsoll")]
    NewerVersion {
        /// The file, or what stands for one.
        file: String,
        /// `plimsoll.problem`, `plimsoll.plan`, `plimsoll.profile` or `plimsoll.device`.
        format: &'static str,
        /// The version found.
        found: u64,
        /// The newest version understood.
        supported: u64,
    },
    /// A file that holds more text than is read or written, compressed or not.
    #[error("{file} is too large: more than {limit} bytes ({} MiB) of text, the most a file may hold", limit >> 20)]
    TooLarge {
        /// The file, or what stands for one.
        file: String,
        /// The most bytes of text there may be.
        limit: u64,
    },
    /// A file that could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A plan made for another graph than the one at hand.
    #[error("the plan was made for graph {plan}, but this graph is {graph}: plan it anew")]
    PlanForAnotherGraph {
        /// Fingerprint in the plan.
        plan: String,
        /// Fingerprint of the graph at hand.
        graph: String,
    },
    /// A plan that breaks a rule; found by [`check`](crate::check::check).
    #[error("illegal plan: {0}")]
    IllegalPlan(#[from] Violation),
    /// A schedule whose parts contradict each other.
    #[error("invalid schedule: {at}: {why}")]
    InvalidSchedule {
        /// The route, microbatch, or device and action at fault, or the field.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// A topology whose parts contradict each other or what it is used for.
    #[error("invalid topology: {at}: {why}")]
    InvalidTopology {
        /// The device or link at fault.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// A schedule that breaks a rule; found by [`pipeline::verify`](crate::pipeline::verify).
    #[error("illegal schedule: {0}")]
    IllegalSchedule(#[from] ScheduleViolation),
    /// A schedule name that no generator has.
    #[error("no schedule is called `{name}`; there are: {known}")]
    UnknownSchedule {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// No plan of this graph fits the budget, or none was found: see `proved`.
    #[error("{}", infeasible_message(*.budget, *.minimum, *.proved, .why))]
    Infeasible {
        /// The budget in bytes.
        budget: Bytes,
        /// The smallest budget for which a plan was found, if one was.
        minimum: Option<Bytes>,
        /// Whether it is proved that no plan fits; if not, the search found none.
        proved: bool,
        /// What forces the bound: the binding op and the largest values live there.
        blockers: Vec<Blocker>,
        /// The reason in words.
        why: String,
    },
    /// A solver name that the registry does not hold.
    #[error("no solver is called `{name}`; there are: {known}")]
    UnknownSolver {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// An option that the chosen solver cannot work with.
    #[error("solver {solver} cannot take this problem: {why}")]
    Unsupported {
        /// The solver.
        solver: &'static str,
        /// What it lacks.
        why: String,
    },
    /// A model or closure that cannot be traced.
    #[error("cannot trace the step: {why}\n  help: {help}")]
    Trace {
        /// What in the model or the closure caused it.
        why: String,
        /// What to do.
        help: String,
    },
    /// Inputs that do not fit the traced step.
    #[error("invalid input: {why}")]
    InvalidInput {
        /// What is wrong with which input.
        why: String,
    },
    /// A step that failed while running.
    #[error("the step failed at {at}: {why}")]
    Execution {
        /// The op or step.
        at: String,
        /// The reason, usually the backend's panic message.
        why: String,
    },
    /// A device that ran out of memory while a step ran, because something else holds what the plan counts on. The
    /// step is undone and everything it made is freed.
    #[error(
        "the device ran out of memory at {at}: {why}\n  help: free what else is on it, give the step a smaller budget, or have \
         that done (`Settings::replan_on_oom`)"
    )]
    OutOfMemory {
        /// The op or step.
        at: String,
        /// What the backend says.
        why: String,
    },
    /// A worker that cannot be reached, does not let this program in, or is gone. What was on its
    /// devices is gone with it.
    #[error("worker {address}: {why}")]
    Worker {
        /// Where the worker is, as it was asked for.
        address: String,
        /// What went wrong, and what to do.
        why: String,
    },
    /// A wrong setting of a model, device or option.
    #[error("invalid setting {name}: {why}")]
    InvalidSetting {
        /// The setting.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A value that stands in the way of a smaller budget.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Blocker {
    /// The value's name in the problem, with its id.
    pub value: String,
    /// Its size.
    pub bytes: Bytes,
    /// Why it has to be there (`parameter`, `input of op12 (Float.Matmul)`, ...).
    pub why: String,
}

fn infeasible_message(budget: Bytes, minimum: Option<Bytes>, proved: bool, why: &str) -> String {
    let fits = if proved { "no plan fits" } else { "no plan was found for" };
    let found = match minimum {
        Some(minimum) => format!("the smallest budget a plan was found for is {} ({minimum})", minimum.0),
        None => "no budget was found to suffice".to_owned(),
    };
    format!("{fits} the budget of {} bytes ({budget}): {why}; {found}", budget.0)
}

/// The beginning of a text out of a file, which may be of any length, for messages.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(80) {
        None => text.into(),
        Some((end, _)) => format!("{}...", &text[..end]).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::check::Rule;

    /// One of each kind. A new kind does not compile until it stands here too.
    fn each() -> Vec<Error> {
        let file = || "gpt.problem.json".to_owned();
        let why = || "a reason".to_owned();
        let source = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let violation = Violation { step: 3, rule: Rule::NoSuchValue { index: 9, count: 5 } };
        let illegal = ScheduleViolation {
            device: crate::pipeline::Device(1),
            index: 4,
            action: Some(crate::pipeline::Action::Update(crate::pipeline::Chunk(2))),
            rule: crate::pipeline::Rule::NoReplica,
        };
        let infeasible = |minimum, proved| Error::Infeasible {
            budget: Bytes(5000),
            minimum,
            proved,
            blockers: vec![],
            why: "op1 (Tanh) needs 9216 bytes by itself".into(),
        };
        let all = vec![
            Error::InvalidBudget { text: "much".into(), why: why() },
            Error::InvalidProblem { at: "v7 (t81)".into(), why: why() },
            Error::Format { file: file(), expected: "plimsoll.problem", why: why() },
            Error::NewerVersion { file: file(), format: "plimsoll.problem", found: 7, supported: 1 },
            Error::TooLarge { file: file(), limit: 256 << 20 },
            Error::Io { action: "read", path: "gpt.problem.json".into(), source: source() },
            Error::PlanForAnotherGraph { plan: "01".into(), graph: "23".into() },
            Error::IllegalPlan(violation),
            Error::InvalidSchedule { at: "d0 action 2".into(), why: why() },
            Error::InvalidTopology { at: "link 3".into(), why: why() },
            Error::IllegalSchedule(illegal),
            Error::UnknownSchedule { name: "2f2b".into(), known: "gpipe, 1f1b".into() },
            infeasible(Some(Bytes(10_244)), true),
            infeasible(None, false),
            Error::UnknownSolver { name: "oracle".into(), known: "auto, evict".into() },
            Error::Unsupported { solver: "exact", why: why() },
            Error::Trace { why: why(), help: "do something else".into() },
            Error::InvalidInput { why: why() },
            Error::Execution { at: "op12 (Float.Matmul)".into(), why: why() },
            Error::OutOfMemory { at: "op12 (Float.Matmul)".into(), why: "no 4096 bytes".into() },
            Error::Worker { address: "gpu7:4000".into(), why: why() },
            Error::InvalidSetting { name: "--seed".into(), why: why() },
        ];
        for error in &all {
            match error {
                Error::InvalidBudget { .. }
                | Error::InvalidProblem { .. }
                | Error::Format { .. }
                | Error::NewerVersion { .. }
                | Error::TooLarge { .. }
                | Error::Io { .. }
                | Error::PlanForAnotherGraph { .. }
                | Error::IllegalPlan(_)
                | Error::InvalidSchedule { .. }
                | Error::InvalidTopology { .. }
                | Error::IllegalSchedule(_)
                | Error::UnknownSchedule { .. }
                | Error::Infeasible { .. }
                | Error::UnknownSolver { .. }
                | Error::Unsupported { .. }
                | Error::Trace { .. }
                | Error::InvalidInput { .. }
                | Error::Execution { .. }
                | Error::OutOfMemory { .. }
                | Error::Worker { .. }
                | Error::InvalidSetting { .. } => {}
            }
        }
        all
    }

    #[test]
    fn every_error_says_what_where_and_what_to_do() {
        let mut text = String::new();
        each().iter().for_each(|error| writeln!(text, "{error}").unwrap());
        insta::assert_snapshot!(text, @r"
        invalid budget `much`: a reason
        invalid problem: v7 (t81): a reason
        gpt.problem.json is not a plimsoll.problem file: a reason
        gpt.problem.json has version 7 of plimsoll.problem; this program reads up to 1: upgrade plimsoll
        gpt.problem.json is too large: more than 268435456 bytes (256 MiB) of text, the most a file may hold
        cannot read gpt.problem.json: permission denied
        the plan was made for graph 01, but this graph is 23: plan it anew
        illegal plan: step 3: there is no value 9: the graph has 5
        invalid schedule: d0 action 2: a reason
        invalid topology: link 3: a reason
        illegal schedule: d1 action 4 (update c2): the device has no replica of the chunk
        no schedule is called `2f2b`; there are: gpipe, 1f1b
        no plan fits the budget of 5000 bytes (4.88 KiB): op1 (Tanh) needs 9216 bytes by itself; the smallest budget a plan was found for is 10244 (10.00 KiB)
        no plan was found for the budget of 5000 bytes (4.88 KiB): op1 (Tanh) needs 9216 bytes by itself; no budget was found to suffice
        no solver is called `oracle`; there are: auto, evict
        solver exact cannot take this problem: a reason
        cannot trace the step: a reason
          help: do something else
        invalid input: a reason
        the step failed at op12 (Float.Matmul): a reason
        the device ran out of memory at op12 (Float.Matmul): no 4096 bytes
          help: free what else is on it, give the step a smaller budget, or have that done (`Settings::replan_on_oom`)
        worker gpu7:4000: a reason
        invalid setting --seed: a reason
        ");
    }

    #[test]
    fn texts_of_any_length_are_shortened_between_characters() {
        assert_eq!(shortened(&"é".repeat(80)), "é".repeat(80));
        assert_eq!(shortened(&"é".repeat(81)), format!("{}...", "é".repeat(80)));
    }
}
