//! Burn's own gradient checkpointing, "balanced": what is cheap to make is made again.
//!
//! Burn's autodiff marks each operation as compute-bound (its output is kept for the backward
//! pass) or memory-bound (elementwise operations, activations and changes of shape: made again
//! from what is kept, recursively, when the backward pass first asks for it, and kept from then
//! on). The choice is by the operation's kind alone, see `ops/tensor.rs` and `ops/activation.rs`
//! of burn-autodiff. There is no budget: one plan, which fits or does not. Any graph whose ops
//! carry Burn's names and that has a boundary is taken; ops of other names are kept.

use super::family::{boundary, fastest, lazily, settle};
use super::segments::no_boundary;
use super::{Options, Outcome, Solver};
use crate::cost::Problem;
use crate::error::Result;
use crate::units::Bytes;

/// See the module's description.
pub(super) struct Balanced;

/// What burn-autodiff 0.22 declares memory-bound, by the names of recorded operations.
#[rustfmt::skip]
const MEMORY_BOUND: &[&str] = &[
    "Abs", "Acos", "Acosh", "Add", "AddScalar", "Asin", "Asinh", "Atan", "Atan2", "Atanh", "Ceil", "Cos", "Cosh",
    "Div", "DivScalar", "Erf", "Exp", "Expand", "Flip", "Floor", "Gelu", "Log", "Log1p", "LogSigmoid", "Mul",
    "MulScalar", "Neg", "Permute", "Powf", "PowfScalar", "Recip", "Relu", "Rem", "RemScalar", "RepeatDim", "Reshape",
    "Round", "Select", "SelectAssign", "Sigmoid", "Sign", "Sin", "Sinh", "Slice", "SliceAssign", "Sqrt", "Sub",
    "SubScalar", "SwapDims", "Tan", "Tanh", "Trunc",
];

/// Whether Burn would make again what an op of this kind (`NumericFloat.Add`) makes.
fn memory_bound(kind: &str) -> bool {
    // Autodiff tracks float tensors only; results of other ops are kept.
    let tracked = |family: &str| matches!(family, "NumericFloat" | "Float" | "BaseFloat" | "Activation");
    kind.split_once('.').is_some_and(|(family, name)| tracked(family) && MEMORY_BOUND.binary_search(&name).is_ok())
}

impl Solver for Balanced {
    fn name(&self) -> &'static str {
        "burn-balanced"
    }
    fn about(&self) -> &'static str {
        "makes elementwise ops again, keeps the others, as Burn's checkpointing does; one plan for all budgets"
    }
    fn solve(&self, problem: &Problem, budget: Bytes, options: &Options) -> Result<Outcome> {
        settle(self.name(), problem, budget, options, |frame| {
            let model = &frame.model;
            let n = boundary(model).ok_or_else(|| no_boundary(self.name()))?;
            let cheap =
                |u: u32| model.units[u as usize].op.is_some_and(|op| memory_bound(&problem.graph.ops()[op].kind));
            fastest(frame, [lazily(model, n, &cheap)])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        assert!(MEMORY_BOUND.is_sorted());
        assert!(memory_bound("NumericFloat.Add") && memory_bound("Activation.Gelu"));
        for kept in ["Float.Matmul", "NumericFloat.MeanDim", "Module.Conv2d", "NumericInt.Add", "Add", ""] {
            assert!(!memory_bound(kept), "{kept}");
        }
    }
}
