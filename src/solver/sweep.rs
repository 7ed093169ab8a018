//! Many budgets of one problem.

use super::{Options, plan};
use crate::cost::Problem;
use crate::error::Result;
use crate::plan::{Plan, Status};
use crate::units::Bytes;

/// Plans for `budgets`, in their order. More budget never gives a slower plan: each plan for a
/// smaller budget is a candidate for every larger one.
pub fn sweep(problem: &Problem, budgets: &[Bytes], solver: &str, options: &Options) -> Vec<Result<Plan>> {
    let mut ascending: Vec<usize> = (0..budgets.len()).collect();
    ascending.sort_by_key(|&i| (budgets[i], i));
    let mut plans: Vec<Option<Result<Plan>>> = budgets.iter().map(|_| None).collect();
    let mut best: Option<Plan> = None;
    for i in ascending {
        let mut found = plan(problem, budgets[i], solver, options);
        if let Some(carried) = &best {
            let slower = found.as_ref().map_or(true, |plan| plan.predicted.time > carried.predicted.time);
            if slower {
                let bound = match &found {
                    Ok(plan) => plan.predicted.lower_bound,
                    Err(_) => super::lower_bound(problem, budgets[i]),
                };
                let mut plan = carried.clone();
                plan.budget = budgets[i];
                plan.predicted.lower_bound = bound;
                // What was the fastest within less need not be the fastest within more.
                plan.predicted.status = match plan.predicted.overhead <= bound {
                    true => Status::Optimal,
                    false => Status::Feasible,
                };
                found = Ok(plan);
            }
        }
        if let Ok(plan) = &found {
            best = Some(plan.clone());
        }
        plans[i] = Some(found);
    }
    plans.into_iter().map(|plan| plan.expect("every budget was planned")).collect()
}
