//! Named solvers: problem in, plan out.
//!
//! A solver searches over orders of computations ([`lower`](crate::plan::lower) turns an order
//! into steps) and is judged by the simulator alone, never by its own estimate. Every plan that
//! leaves this module has passed the checker's rules as the simulator states them and is checked
//! again by whoever runs or saves it.

mod auto;
mod balanced;
mod bound;
mod chain;
#[cfg(feature = "highs")]
mod checkmate;
mod demand;
mod evict;
mod exact;
mod explain;
mod family;
mod flow;
mod frame;
#[cfg(feature = "highs")]
mod hierarchical;
mod improve;
#[cfg(feature = "highs")]
mod instants;
mod knapsack;
mod level;
mod load;
#[cfg(feature = "highs")]
mod milp;
mod mixed;
#[cfg(feature = "highs")]
mod moccasin;
mod model;
mod moves;
mod offload;
#[cfg(feature = "highs")]
mod phases;
mod pofo;
mod progress;
mod reach;
mod recut;
mod registry;
mod regress;
mod reorder;
mod repeat;
mod rng;
mod rockmate;
mod rotor;
mod segments;
mod sets;
mod sim;
mod stages;
#[cfg(feature = "highs")]
mod states;
mod sweep;
mod tape;
#[cfg(feature = "highs")]
mod window;

#[doc(hidden)]
pub use moves::{Move, Moves};

pub(crate) use bound::priced;
pub(crate) use flow::Network;
pub use frame::{baseline, lower_bound, plan, strongest_bound};
pub use progress::{Cancel, OnProgress, Progress};
pub use registry::{by_name, names, solvers};
pub use sweep::{Point, minimum_budget, sweep};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cost::Problem;
use crate::error::{Blocker, Error, Result};
use crate::plan::{Plan, Status};
use crate::units::Bytes;

/// What a solver may use.
#[derive(Clone)]
pub struct Options {
    /// Wall-clock limit.
    pub time_limit: Duration,
    /// Limit on search steps, for runs that must not depend on the machine's speed.
    pub node_limit: Option<u64>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Let plans take over storage in place where the graph allows it.
    pub inplace: bool,
    /// A handle to end the solve early; what was found by then is returned.
    pub cancel: Cancel,
    /// Called as the solve goes on.
    pub on_progress: Option<OnProgress>,
    /// Plans for the same graph, for any budget, whose orders of computations the search begins
    /// with beside its own. Solvers that [use starts](Solver::uses_starts) never return a slower plan
    /// than such an order gives within the budget; the others have one family of plans and ignore
    /// these. What does not belong to the graph is left out.
    pub starts: Vec<Arc<Plan>>,
    /// Whether to look for the smallest budget that suffices where no plan is found. Without, the
    /// outcome names the smallest that came up.
    pub search_minimum: bool,
    /// Whether `auto`, once it has a plan, spends up to a fifth of the time on a stronger lower bound
    /// ([`strongest_bound`]) and, without a node limit, what is left on improving the plan further. Without, the
    /// bound is that of one instant and the plan is there sooner.
    pub prove: bool,
    /// What searches may do: all, except in tests.
    #[doc(hidden)]
    pub moves: Moves,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            time_limit: Duration::from_secs(10),
            node_limit: None,
            seed: 0,
            inplace: true,
            cancel: Cancel::new(),
            on_progress: None,
            starts: Vec::new(),
            search_minimum: true,
            prove: true,
            moves: Moves::all(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("time_limit", &self.time_limit)
            .field("node_limit", &self.node_limit)
            .field("seed", &self.seed)
            .field("inplace", &self.inplace)
            .field("cancel", &self.cancel)
            .field("starts", &self.starts.len())
            .field("search_minimum", &self.search_minimum)
            .field("prove", &self.prove)
            .finish_non_exhaustive()
    }
}

/// What a solver found, told honestly.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Proved: no legal plan within the budget is faster. `checkmate` and `moccasin` prove it of
    /// the plans they model alone, those in the graph's order and not in place; their plans'
    /// `lower_bound` holds for all.
    Optimal(Plan),
    /// Legal and within the budget.
    Feasible {
        /// The plan.
        plan: Plan,
        /// No plan of the class that [`lower_bound`] states has a smaller overhead.
        lower_bound: f64,
        /// The plan's overhead less `lower_bound`: how much better another plan could be at most,
        /// as a fraction of the baseline's time.
        gap: f64,
    },
    /// Proved: no legal plan fits the budget.
    Infeasible {
        /// The smallest budget that the same solver found a plan for.
        minimum_feasible: Option<Bytes>,
        /// What stands in the way: the largest values live at the binding op.
        blockers: Vec<Blocker>,
        /// The proof in words, with the binding op.
        why: String,
    },
    /// Neither a plan was found nor a proof that there is none.
    Unknown {
        /// The smallest budget that the same solver found a plan for.
        minimum_feasible: Option<Bytes>,
        /// What stands in the way: the largest values live where the smallest peak found is reached.
        blockers: Vec<Blocker>,
        /// How far the search came, with the binding op.
        why: String,
    },
}

impl Outcome {
    /// The outcome that a plan's own status stands for.
    fn of(plan: Plan) -> Self {
        match plan.predicted.status {
            Status::Optimal => Outcome::Optimal(plan),
            _ => {
                let (lower_bound, gap) = (plan.predicted.lower_bound, plan.predicted.gap());
                Outcome::Feasible { plan, lower_bound, gap }
            }
        }
    }

    /// The plan, or the error that tells why there is none for `budget`.
    ///
    /// # Errors
    /// [`Error::Infeasible`].
    pub fn into_plan(self, budget: Bytes) -> Result<Plan> {
        let proved = matches!(self, Outcome::Infeasible { .. });
        match self {
            Outcome::Optimal(plan) | Outcome::Feasible { plan, .. } => Ok(plan),
            Outcome::Infeasible { minimum_feasible: minimum, blockers, why }
            | Outcome::Unknown { minimum_feasible: minimum, blockers, why } => {
                Err(Error::Infeasible { budget, minimum, proved, blockers, why })
            }
        }
    }

    /// The plan, where there is one.
    pub fn plan(&self) -> Option<&Plan> {
        match self {
            Outcome::Optimal(plan) | Outcome::Feasible { plan, .. } => Some(plan),
            Outcome::Infeasible { .. } | Outcome::Unknown { .. } => None,
        }
    }

    /// The status that plan files and reports give.
    pub fn status(&self) -> Status {
        match self {
            Outcome::Optimal(_) => Status::Optimal,
            Outcome::Feasible { .. } => Status::Feasible,
            Outcome::Infeasible { .. } => Status::Infeasible,
            Outcome::Unknown { .. } => Status::Unknown,
        }
    }

    /// A budget that a plan is known for: the plan's peak, or the smallest budget that sufficed.
    pub fn minimum_feasible(&self) -> Option<Bytes> {
        match self {
            Outcome::Optimal(plan) | Outcome::Feasible { plan, .. } => Some(plan.predicted.peak),
            Outcome::Infeasible { minimum_feasible, .. } | Outcome::Unknown { minimum_feasible, .. } => {
                *minimum_feasible
            }
        }
    }
}

/// One algorithm.
pub trait Solver: Send + Sync {
    /// The name in the registry.
    fn name(&self) -> &'static str;
    /// One line: what it does and after which paper.
    fn about(&self) -> &'static str;
    /// Whether it makes use of [`Options::starts`].
    fn uses_starts(&self) -> bool {
        false
    }
    /// Find a plan for `problem` within `budget` bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the problem is not of the kind the
    /// solver takes. That no plan fits is an [`Outcome`], not an error.
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome>;
    /// Find a plan within `budget` that need not be fast, where that takes less than to [`solve`](Self::solve): it
    /// is what the search for the smallest budget asks for. A plan that is found here, `solve` finds too, or a faster one, if
    /// its limits allow.
    ///
    /// # Errors
    /// Those of [`solve`](Self::solve).
    fn fit(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        self.solve(problem, budget, options)
    }
}
