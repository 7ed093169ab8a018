//! Problems made of the zoo, with times from a roofline: nothing is measured.

use burn::tensor::Device;
use plimsoll::cost::Problem;
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, Rematerialize, Result, Settings};

struct Tracer;

impl ZooVisitor for Tracer {
    type Output = Result<Problem>;

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Result<Problem> {
        let inputs = batch(0, &model.devices()[0]);
        let model = Rematerialize::with_settings(model, Settings::new(Budget::Unlimited));
        model.problem_on(&"10e12,200e9".parse()?, inputs, |m: &M, inputs| m.batch_loss(inputs))
    }
}

/// One training step of the model called `name`.
pub fn problem(name: &str, settings: &zoo::Settings) -> Result<Problem> {
    zoo::with_model(name, settings, &Device::flex().autodiff(), 0, Tracer)?
}

/// A GPT of so many layers.
pub fn gpt(layers: usize) -> Result<Problem> {
    problem("gpt", &zoo::Settings::new().set("layers", layers).set("batch", 8))
}
