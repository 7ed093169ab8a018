//! MOCCASIN: few retention intervals per value.
//!
//! Bartan et al., "Moccasin: efficient tensor rematerialization for neural networks" (2023). Each
//! value is kept during at most C intervals, each begun by a run of its op; the authors' choice
//! C = 2 is used: an op runs once or twice. Time is minimized under the cumulative memory
//! constraint.
//!
//! The paper states this as a constraint program over the intervals' ends. Here the same plans are
//! described by the program over [`phases`](super::phases), with at most C runs of each op in all
//! of it, for HiGHS: a start of an interval is R, and S between a start and the interval's end.
//! So the columns are still about n^2/2, but far fewer combinations of them are feasible. Which
//! class of plans an optimum is proved for: that of [`checkmate`](super::checkmate), with no op run
//! more than twice.

use super::checkmate::{Goal, exact};
use super::family::settle;
use super::{Options, Outcome, Solver};
use crate::cost::Problem;
use crate::error::Result;
use crate::units::Bytes;

/// Intervals per value.
const INTERVALS: u32 = 2;
/// Ops that make storage, above which there must be a limit on nodes.
const EXACT: usize = 100;

/// See the module's description.
pub(super) struct Moccasin;

impl Solver for Moccasin {
    fn name(&self) -> &'static str {
        "moccasin"
    }
    fn about(&self) -> &'static str {
        "two retention intervals per value at most (Bartan et al. 2023), as an integer program; small graphs"
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        solve(problem, budget, options, Goal::Fastest)
    }
    fn fit(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        solve(problem, budget, options, Goal::Any)
    }
}

fn solve(problem: &Problem, budget: Bytes, options: &Options, goal: Goal) -> Result<Outcome> {
    let name = Moccasin.name();
    settle(name, problem, budget, options, |frame| exact(frame, name, EXACT, Some(INTERVALS), goal))
}
