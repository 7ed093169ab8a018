//! From a Burn model and a closure to a [`Program`]: the whole training step as data.

mod capture;
mod offline;
mod problem;
mod program;
mod tensors;

use burn::module::Module;

pub use capture::{Kind, ModuleTensor};
pub(crate) use capture::{Place, model_device, panic_message, quietly};
#[cfg(feature = "remote")]
pub(crate) use program::SetIr;
pub use program::{Ends, Program, ProgramValue};
pub(crate) use program::{SetStatus, kind_of};
pub(crate) use tensors::Forward;
pub use tensors::{StepOutput, TensorMapper, Tensors};

use crate::error::Result;

/// What tracing a step gives: the program, and the closure's results as templates whose tensors
/// are of no use but whose structure (how many elements a `Vec` has) is.
pub struct Traced<O: StepOutput> {
    /// The step.
    pub program: Program,
    /// Structure of the loss.
    pub loss: O::Loss,
    /// Structure of the other results.
    pub outputs: O::Output,
}

/// Trace one training step (forward and backward) without running it and without copying a
/// parameter.
///
/// # Errors
/// [`Error::Trace`](crate::Error::Trace) naming what in the model or the closure cannot be traced
/// and what to do about it.
pub fn trace<M, I, O, F>(model: &M, inputs: &I, step: F) -> Result<Traced<O>>
where
    M: Module,
    I: Tensors,
    O: StepOutput,
    F: FnOnce(&M, I) -> O,
{
    trace_at::<M, I, O, F>(model, inputs, step, Place::Module)
}

/// The same for ops that run elsewhere than at one place with the module.
pub(crate) fn trace_at<M, I, O, F>(model: &M, inputs: &I, step: F, at: Place<'_>) -> Result<Traced<O>>
where
    M: Module,
    I: Tensors,
    O: StepOutput,
    F: FnOnce(&M, I) -> O,
{
    let (captured, loss, outputs) = capture::capture::<M, I, O, F>(model, inputs, step, at)?;
    Ok(Traced { program: Program::new(captured)?, loss, outputs })
}
