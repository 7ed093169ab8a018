//! A mixed integer program, stated with `good_lp` and solved by HiGHS.
//!
//! Deterministic: one thread, a fixed seed, limits in nodes as well as seconds.

use good_lp::{Expression, ProblemVariables, SolverModel, constraint, variable};
use highs::{HighsModelStatus, HighsSolutionStatus};

use super::Options;

/// A column, or what is known beforehand.
#[derive(Clone, Copy, Debug)]
pub(super) enum Term {
    Known(f64),
    Column(usize),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The values are an optimum.
    Optimal,
    /// A limit was reached; the values are feasible.
    Feasible,
    /// There is no solution.
    Infeasible,
    /// A limit was reached, or numbers were too hard; there are no values.
    Unknown,
}

/// The solver's answer; `value` makes sense if there is a solution.
pub(super) struct Answer {
    pub verdict: Verdict,
    /// No solution costs less, as far as the solver's floating point goes; minus infinity where
    /// nothing is known.
    pub bound: f64,
    columns: Vec<f64>,
}

impl Answer {
    pub fn value(&self, term: Term) -> f64 {
        match term {
            Term::Known(x) => x,
            Term::Column(c) => self.columns.get(c).copied().unwrap_or(0.0),
        }
    }
}

/// In 0..=1.
struct Column {
    integer: bool,
    cost: f64,
}

/// `sum of factor * column <= bound`.
struct Row {
    terms: Vec<(usize, f64)>,
    bound: f64,
}

/// Minimize a cost subject to rows `expression <= bound`, columns in 0..=1.
#[derive(Default)]
pub(super) struct Milp {
    /// Solutions that cost this or more are of no use; if there are no others the verdict is
    /// [`Verdict::Infeasible`].
    pub cutoff: Option<f64>,
    /// Costs of any two solutions differ by this or not at all.
    pub step: f64,
    /// The relative gap that is good enough.
    pub gap: f64,
    columns: Vec<Column>,
    rows: Vec<Row>,
}

impl Milp {
    /// A column in 0..=1.
    pub fn column(&mut self, integer: bool, cost: f64) -> Term {
        self.columns.push(Column { integer, cost });
        Term::Column(self.columns.len() - 1)
    }

    /// Require `sum of factor * term <= bound`.
    pub fn at_most(&mut self, terms: impl IntoIterator<Item = (f64, Term)>, bound: f64) {
        let mut row = Row { terms: Vec::new(), bound };
        for (factor, term) in terms {
            match term {
                Term::Known(x) => row.bound -= factor * x,
                Term::Column(c) => row.terms.push((c, factor)),
            }
        }
        // A row without columns that does not hold must still be seen.
        if !row.terms.is_empty() || row.bound < -1e-9 {
            self.rows.push(row);
        }
    }

    /// Solve within the limits: `options.time_limit` is the time left, and HiGHS looks at nothing
    /// but that once it has begun.
    pub fn solve(self, options: &Options, nodes: Option<u64>) -> Answer {
        let unknown = |verdict| Answer { verdict, bound: f64::NEG_INFINITY, columns: Vec::new() };
        if options.cancel.is_cancelled() {
            return unknown(Verdict::Unknown);
        }
        let mut columns = ProblemVariables::new();
        let (mut cost, mut order) = (Expression::from(0.0), Vec::with_capacity(self.columns.len()));
        for column in &self.columns {
            let variable = columns.add(match column.integer {
                true => variable().binary(),
                false => variable().min(0.0).max(1.0),
            });
            cost.add_mul(column.cost, variable);
            order.push(variable);
        }
        let zero = columns.add(variable().min(0.0).max(0.0));
        let mut problem = columns.minimise(cost).using(good_lp::highs);
        for row in &self.rows {
            let mut sum = Expression::from(0.0);
            row.terms.iter().for_each(|&(c, factor)| sum.add_mul(factor, order[c]));
            problem.add_constraint(constraint!(sum + zero <= row.bound));
        }
        let Ok(mut model) = problem.try_into_inner() else { return unknown(Verdict::Unknown) };
        model.make_quiet();
        model.set_option("threads", 1);
        model.set_option("parallel", "off");
        model.set_option("mip_rel_gap", self.gap);
        // What is left open may be just less than the next better cost.
        model.set_option("mip_abs_gap", (0.9 * self.step).max(1e-7));
        if let Some(cutoff) = self.cutoff {
            model.set_option("objective_bound", cutoff);
        }
        model.set_option("mip_feasibility_tolerance", 1e-7);
        model.set_option("primal_feasibility_tolerance", 1e-8);
        model.set_option("time_limit", options.time_limit.as_secs_f64().clamp(0.01, 1e7));
        if let Some(nodes) = nodes {
            model.set_option("mip_max_nodes", i32::try_from(nodes).unwrap_or(i32::MAX));
        }
        let Ok(solved) = model.try_solve() else { return unknown(Verdict::Unknown) };
        let bound = solved.double_info_value(c"mip_dual_bound").unwrap_or(f64::NEG_INFINITY);
        let verdict = match solved.status() {
            HighsModelStatus::Optimal => Verdict::Optimal,
            HighsModelStatus::Infeasible
            | HighsModelStatus::UnboundedOrInfeasible
            | HighsModelStatus::ObjectiveBound => {
                return unknown(Verdict::Infeasible);
            }
            _ if solved.primal_solution_status() == HighsSolutionStatus::Feasible => Verdict::Feasible,
            _ => return Answer { bound, ..unknown(Verdict::Unknown) },
        };
        let columns = solved.get_solution().columns().to_vec();
        let cost: f64 = self.columns.iter().zip(&columns).map(|(column, x)| column.cost * x).sum();
        // HiGHS leaves out what cannot stay below the cutoff, but tells of solutions above it that it comes across.
        match self.cutoff.is_some_and(|cutoff| cost >= cutoff) {
            true if verdict == Verdict::Optimal => unknown(Verdict::Infeasible),
            true => Answer { bound, ..unknown(Verdict::Unknown) },
            false => Answer { verdict, bound, columns },
        }
    }
}
