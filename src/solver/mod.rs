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
mod evict;
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
mod load;
#[cfg(feature = "highs")]
mod milp;
#[cfg(feature = "highs")]
mod moccasin;
mod model;
mod offload;
#[cfg(feature = "highs")]
mod phases;
mod registry;
mod reorder;
mod rng;
mod rockmate;
mod rotor;
mod segments;
mod sim;
mod stages;
mod sweep;

pub use frame::{baseline, lower_bound, plan, strongest_bound};
pub use registry::{by_name, names, solvers};
pub use sweep::sweep;

use std::time::Duration;

use crate::cost::Problem;
use crate::error::{Blocker, Result};
use crate::plan::Plan;
use crate::units::Bytes;

/// What a solver may use.
#[derive(Clone, Debug)]
pub struct Options {
    /// Wall-clock limit.
    pub time_limit: Duration,
    /// Limit on search steps, for runs that must not depend on the machine's speed.
    pub node_limit: Option<u64>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Let plans take over storage in place where the graph allows it.
    pub inplace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { time_limit: Duration::from_secs(10), node_limit: None, seed: 0, inplace: true }
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
    /// Legal and within the budget; the plan's `lower_bound` says how much better another could be.
    Feasible(Plan),
    /// No plan fits, or none was found below `minimum`.
    Infeasible {
        /// The smallest budget a plan was found for.
        minimum: Option<Bytes>,
        /// What stands in the way.
        blockers: Vec<Blocker>,
        /// Whether it is proved that no legal plan fits.
        proved: bool,
        /// The reason in words.
        why: String,
    },
}

/// One algorithm.
pub trait Solver: Send + Sync {
    /// The name in the registry.
    fn name(&self) -> &'static str;
    /// One line: what it does and after which paper.
    fn about(&self) -> &'static str;
    /// Find a plan for `problem` within `budget` bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) when the problem is not of the kind the
    /// solver takes. That no plan fits is an [`Outcome`], not an error.
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome>;
}
