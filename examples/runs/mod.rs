//! What the examples say of a run: which bits its gradients have, and how long its steps take.

use std::time::Duration;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// A hash of every bit of every gradient. They are read one at a time, so that comparing two runs costs neither of them
/// memory.
pub fn hash<M: Module>(model: &M, gradients: &GradientsParams) -> u64 {
    struct Hasher<'a>(&'a GradientsParams, u64);
    impl ModuleVisitor for Hasher<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(gradient) = self.0.get::<D>(param.id) else { return };
            for &byte in gradient.into_data().as_bytes() {
                self.1 = (self.1 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut hasher = Hasher(gradients, 0xcbf2_9ce4_8422_2325);
    model.visit(&mut hasher);
    hasher.1
}

/// Median in milliseconds.
pub fn median_ms(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |t| t.as_secs_f64() * 1e3)
}
