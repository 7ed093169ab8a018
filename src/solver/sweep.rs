//! The curve of peak against time: many budgets of one problem.
//!
//! ```text
//! down   from the largest budget to the smallest: the plan for one is a start of the next,
//!        where more has to give way
//! up     from the smallest to the largest: what fits less fits more; where it is faster than
//!        what was found there, that budget is solved again from it
//! ```
//!
//! Solvers that take no starts have one family of plans each: their budgets are solved side by
//! side, and only what is faster within less is carried up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::{Options, Outcome, Solver, lower_bound, registry};
use crate::cost::Problem;
use crate::error::{Error, Result};
use crate::plan::{Plan, Status};
use crate::units::Bytes;

/// One budget of a sweep.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Point {
    /// The budget.
    pub budget: Bytes,
    /// What was found for it.
    pub outcome: Outcome,
    /// How long that took, all solves for this budget together.
    pub solve_time: Duration,
}

/// Solve for `budgets`, in any order; the points come back in theirs.
///
/// More budget never gives a slower plan, and a plan never turns up below a budget that has none
/// above it. The limits of `options` are those of each solve, of which a budget has two at most.
///
/// # Errors
/// [`Error::UnknownSolver`]; [`Error::Unsupported`] when the solver takes the problem at none of
/// the budgets.
pub fn sweep(problem: &Problem, budgets: &[Bytes], solver: &str, options: &Options) -> Result<Vec<Point>> {
    let solver = registry::by_name(solver)?;
    let mut ascending = budgets.to_vec();
    ascending.sort_unstable();
    ascending.dedup();
    let sweep = Sweep { problem, solver: &*solver, options };
    let solved = match solver.uses_starts() {
        true => sweep.down(&ascending),
        false => sweep.side_by_side(&ascending),
    };
    let mut points = sweep.taken(&ascending, solved)?;
    sweep.up(&mut points)?;
    sweep.tighten(&mut points);
    let place = |budget| ascending.binary_search(budget).expect("each budget was solved");
    Ok(budgets.iter().map(|budget| points[place(budget)].clone()).collect())
}

/// The smallest budget that a solver is known to find a plan for, from its own search for it.
///
/// # Errors
/// [`Error::UnknownSolver`], [`Error::Unsupported`].
pub fn minimum_budget(problem: &Problem, solver: &str, options: &Options) -> Result<Option<Bytes>> {
    // No bytes at all suffice for nothing, and the solver then says what would.
    let options = Options { search_minimum: true, ..options.clone() };
    Ok(registry::by_name(solver)?.solve(problem, Bytes::ZERO, &options)?.minimum_feasible())
}

struct Sweep<'a> {
    problem: &'a Problem,
    solver: &'a dyn Solver,
    options: &'a Options,
}

impl Sweep<'_> {
    fn solve(&self, budget: Bytes, starts: &[&Plan], search_minimum: bool) -> Result<Point> {
        let started = Instant::now();
        let mut options = Options { search_minimum, ..self.options.clone() };
        options.starts.extend(starts.iter().map(|&plan| Arc::new(plan.clone())));
        let outcome = self.solver.solve(self.problem, budget, &options)?;
        Ok(Point { budget, outcome, solve_time: started.elapsed() })
    }

    /// Each budget from the plan for the next larger one. The smallest budget that suffices is
    /// searched for once, where the first plan is missing.
    fn down(&self, ascending: &[Bytes]) -> Vec<Result<Point>> {
        let mut points: Vec<Result<Point>> = Vec::with_capacity(ascending.len());
        let plan = |point: &Result<Point>| point.as_ref().ok()?.outcome.plan().cloned();
        for &budget in ascending.iter().rev() {
            let larger = points.iter().rev().find_map(plan);
            let first = points.iter().all(|point| plan(point).is_some());
            points.push(self.solve(budget, larger.as_ref().as_slice(), self.options.search_minimum && first));
        }
        points.reverse();
        points
    }

    /// Each budget by itself.
    fn side_by_side(&self, ascending: &[Bytes]) -> Vec<Result<Point>> {
        ascending.par_iter().map(|&budget| self.solve(budget, &[], self.options.search_minimum)).collect()
    }

    /// A solver may refuse some budgets of a problem that it takes.
    fn taken(&self, ascending: &[Bytes], solved: Vec<Result<Point>>) -> Result<Vec<Point>> {
        let mut refused = None;
        let mut points = Vec::with_capacity(ascending.len());
        for (&budget, result) in ascending.iter().zip(solved) {
            points.push(match result {
                Err(error @ Error::Unsupported { .. }) => {
                    let (minimum_feasible, blockers, why) = (None, Vec::new(), error.to_string());
                    refused = Some(error);
                    let outcome = Outcome::Unknown { minimum_feasible, blockers, why };
                    Point { budget, outcome, solve_time: Duration::ZERO }
                }
                other => other?,
            });
        }
        match refused {
            Some(error) if points.iter().all(|point| point.outcome.plan().is_none()) => Err(error),
            _ => Ok(points),
        }
    }

    /// Carry plans to larger budgets, and search on from there.
    fn up(&self, points: &mut [Point]) -> Result<()> {
        let time = |plan: &Plan| plan.predicted.time;
        let slower = |point: &Point, carried: &Plan| point.outcome.plan().is_none_or(|p| time(p) > time(carried));
        let mut carried: Option<Plan> = None;
        for i in 0..points.len() {
            if let Some(carried) = carried.as_ref().filter(|carried| slower(&points[i], carried)) {
                let mut outcome = self.moved(carried, &points[i]);
                if self.solver.uses_starts() && matches!(outcome, Outcome::Feasible { .. }) {
                    let plans = points[i..].iter().filter_map(|point| point.outcome.plan());
                    let starts: Vec<&Plan> = [carried].into_iter().chain(plans.take(2)).collect();
                    let again = self.solve(points[i].budget, &starts, false)?;
                    points[i].solve_time += again.solve_time;
                    if !slower(&again, carried) {
                        outcome = again.outcome;
                    }
                }
                points[i].outcome = outcome;
            }
            carried = points[i].outcome.plan().cloned().or(carried);
        }
        Ok(())
    }

    /// A plan for less as the answer for more.
    fn moved(&self, carried: &Plan, point: &Point) -> Outcome {
        let mut plan = carried.clone();
        plan.budget = point.budget;
        plan.predicted.lower_bound = match point.outcome.plan() {
            Some(plan) => plan.predicted.lower_bound,
            None => lower_bound(self.problem, point.budget),
        };
        // What was the fastest within less need not be the fastest within more.
        plan.predicted.status = match plan.predicted.gap() > 0.0 {
            true => Status::Feasible,
            false => Status::Optimal,
        };
        Outcome::of(plan)
    }

    /// A bound for more budget holds for less; and the smallest budget with a plan is known.
    fn tighten(&self, points: &mut [Point]) {
        let mut least = f64::NEG_INFINITY;
        for point in points.iter_mut().rev() {
            if let Outcome::Optimal(plan) | Outcome::Feasible { plan, .. } = &mut point.outcome {
                least = least.max(plan.predicted.lower_bound);
                if plan.predicted.lower_bound < least {
                    plan.predicted.lower_bound = least;
                    if plan.predicted.gap() <= 0.0 {
                        plan.predicted.status = Status::Optimal;
                    }
                    point.outcome = Outcome::of(plan.clone());
                }
            }
        }
        let known = |point: &Point| match point.outcome.plan() {
            Some(_) => Some(point.budget),
            None => point.outcome.minimum_feasible(),
        };
        let known: Vec<Bytes> = points.iter().filter_map(known).collect();
        for point in points {
            if let Outcome::Infeasible { minimum_feasible, .. } | Outcome::Unknown { minimum_feasible, .. } =
                &mut point.outcome
            {
                *minimum_feasible = known.iter().copied().filter(|&known| known > point.budget).min();
            }
        }
    }
}
