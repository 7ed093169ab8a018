//! One device that takes one microbatch after the other, with plain Burn: what pipelines are compared with.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsAccumulator, GradientsParams};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Rematerialize, TensorMapper, Tensors};

use super::{Bits, data_of, gradients_of, state_of};

/// A part of a batch.
pub struct Part {
    pub number: usize,
    pub of: usize,
}

impl Part {
    fn range(&self, length: usize) -> (usize, usize) {
        (self.number * (length / self.of), length / self.of)
    }
}

impl TensorMapper for Part {
    fn float<const D: usize>(&mut self, tensor: Tensor<D>) -> Tensor<D> {
        let (start, length) = self.range(tensor.dims()[0]);
        tensor.narrow(0, start, length)
    }
    fn int<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> Tensor<D, Int> {
        let (start, length) = self.range(tensor.dims()[0]);
        tensor.narrow(0, start, length)
    }
    fn bool<const D: usize>(&mut self, tensor: Tensor<D, Bool>) -> Tensor<D, Bool> {
        let (start, length) = self.range(tensor.dims()[0]);
        tensor.narrow(0, start, length)
    }
}

/// Gradients divided by a number, those of several devices added before, in their order.
pub struct Combine<'a> {
    pub sums: &'a [GradientsParams],
    pub divisor: f64,
    pub done: GradientsParams,
}

impl ModuleVisitor for Combine<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let sums = self.sums.iter().filter_map(|one| one.get::<D>(param.id));
        if let Some(sum) = sums.reduce(|sum, one| sum + one) {
            self.done.register::<D>(param.id, sum / self.divisor);
        }
    }
}

/// The mean of the gradients that a wrapped model's own steps give for one microbatch after the other, added up in that order.
pub fn mean_of_steps<M: ZooModel>(one: &Rematerialize<M>, inputs: &M::Inputs, of: usize) -> Vec<Option<TensorData>> {
    let mut sums: GradientsAccumulator<Rematerialize<M>> = GradientsAccumulator::new();
    for number in 0..of {
        let part = inputs.clone().map(&mut Part { number, of });
        sums.accumulate(one, one.step(part, |m: &M, inputs| m.batch_loss(inputs)).unwrap().grads);
    }
    let mut mean = Combine { sums: &[sums.grads()], divisor: of as f64, done: GradientsParams::new() };
    one.visit(&mut mean);
    gradients_of(one, &mean.done)
}

/// Plain Burn on one device: one microbatch after the other, gradients added up in that order; each replica (given for
/// each microbatch) adds up by itself, and then the sums are added.
pub struct OneAfterTheOther {
    pub steps: usize,
    pub replica_of: Vec<usize>,
}

impl ZooVisitor for OneAfterTheOther {
    type Output = Vec<Bits>;

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        mut model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output {
        let device = model.devices()[0].clone();
        let mut optim = AdamWConfig::new().init();
        let mut bits = Vec::new();
        for step in 0..self.steps {
            let inputs = batch(step as u64, &device);
            let replicas = self.replica_of.iter().max().unwrap() + 1;
            let mut sums: Vec<GradientsAccumulator<M>> = (0..replicas).map(|_| GradientsAccumulator::new()).collect();
            let mut loss: Option<Tensor<1>> = None;
            let microbatches = self.replica_of.len();
            for number in 0..microbatches {
                let part = inputs.clone().map(&mut Part { number, of: microbatches });
                let one = model.batch_loss(part);
                let gradients = GradientsParams::from_grads(one.clone().backward(), &model);
                let one = one.inner();
                loss = Some(match loss {
                    None => one,
                    Some(sum) => sum + one,
                });
                sums[self.replica_of[number]].accumulate(&model, gradients);
            }
            let sums: Vec<GradientsParams> = sums.iter_mut().map(GradientsAccumulator::grads).collect();
            let mut combine = Combine { sums: &sums, divisor: microbatches as f64, done: GradientsParams::new() };
            model.visit(&mut combine);
            let gradients = combine.done;
            let loss = data_of(loss.unwrap() / microbatches as f64);
            let found = gradients_of(&model, &gradients);
            model = optim.step(1e-3, model, gradients);
            bits.push(Bits { loss, gradients: found, state: state_of(&model) });
        }
        bits
    }
}

/// The steps of [`OneAfterTheOther`] on this process's processor.
pub fn one_after_the_other(name: &str, settings: &zoo::Settings, steps: usize, replica_of: Vec<usize>) -> Vec<Bits> {
    let device = Device::flex().autodiff();
    zoo::with_model(name, settings, &device, 7, OneAfterTheOther { steps, replica_of }).unwrap()
}
