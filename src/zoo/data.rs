//! Synthetic data: numbers from a seed, the same on each machine and backend, never from a global generator.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// The SplitMix64 generator.
pub(super) struct Source(u64);

impl Source {
    /// A generator whose numbers depend on `seed` only.
    pub fn new(seed: u64) -> Self {
        let mut source = Self(seed);
        source.next();
        source
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A whole number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// A number in `[-bound, bound)`.
    pub fn uniform(&mut self, bound: f32) -> f32 {
        (self.unit() * 2.0 - 1.0) * bound
    }

    /// A number from the normal distribution with mean 0.
    pub fn normal(&mut self, deviation: f32) -> f32 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.unit()).cos() * deviation
    }
}

/// A tensor of `values`, in row-major order.
pub(super) fn floats<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A tensor of whole numbers, in row-major order.
pub(super) fn ints<const D: usize>(values: Vec<usize>, shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A tensor of truth values, in row-major order.
pub(super) fn bools<const D: usize>(values: Vec<bool>, shape: [usize; D], device: &Device) -> Tensor<D, Bool> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Labelled images: each class has one fixed pattern, and an image is its class's pattern under noise.
///
/// Returns images `[batch, channels, size, size]` and labels `[batch]`.
pub(super) fn labelled_images(
    seed: u64,
    [batch, channels, size]: [usize; 3],
    classes: usize,
    device: &Device,
) -> (Tensor<4>, Tensor<1, Int>) {
    let pixels = channels * size * size;
    let mut source = Source::new(seed);
    let labels: Vec<usize> = (0..batch).map(|_| source.below(classes)).collect();
    let mut images = Vec::with_capacity(batch * pixels);
    for &label in &labels {
        let mut pattern = Source::new(label as u64);
        images.extend((0..pixels).map(|_| pattern.normal(1.0) + source.normal(0.5)));
    }
    (floats(images, [batch, channels, size, size], device), ints(labels, [batch], device))
}
