//! A Fourier neural operator: layers that act on the lowest frequencies of a function.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv1d, Conv1dConfig};
use burn::nn::{Gelu, Initializer};
use burn::signal::{irfft, rfft};
use burn::tensor::{Device, Tensor};

use super::ZooModel;
use super::data::{Source, floats};
use super::settings::{config, require};
use crate::error::Result;

config! {
    /// FNO: a Fourier neural operator that learns how heat spreads on a ring.
    pub struct FnoConfig("fno") -> Fno {
        /// Functions in a batch.
        batch: usize = 8, 4, 1..=65_536;
        /// Fourier layers.
        layers: usize = 6, 2, 1..=1_024;
        /// Channels per point.
        width: usize = 32, 8, 1..=4_096;
        /// Points at which a function is given, a power of two.
        points: usize = 256, 32, 4..=1_048_576;
        /// Frequencies a layer acts on, at most half the points and one.
        modes: usize = 8, 6, 1..=524_289;
    }
}

/// A linear map of the lowest frequencies, one matrix of complex numbers for each.
#[derive(Module, Debug)]
struct SpectralConv {
    /// Real parts, `[modes, inputs, outputs]`.
    real: Param<Tensor<3>>,
    /// Imaginary parts, `[modes, inputs, outputs]`.
    imaginary: Param<Tensor<3>>,
}

impl SpectralConv {
    fn new(modes: usize, width: usize, device: &Device) -> Self {
        let bound = 1.0 / width as f64;
        let weights = || Initializer::Uniform { min: -bound, max: bound }.init([modes, width, width], device);
        Self { real: weights(), imaginary: weights() }
    }

    /// From `[batch, width, points]` to the same.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, width, points] = x.dims();
        let [modes, ..] = self.real.dims();
        let (real, imaginary) = rfft(x, 2, None);
        // Frequencies first: one product of matrices for each of them.
        let low = |spectrum: Tensor<3>| spectrum.narrow(2, 0, modes).permute([2, 0, 1]);
        let (real, imaginary) = (low(real), low(imaginary));
        let (weight_real, weight_imaginary) = (self.real.val(), self.imaginary.val());
        let mixed_real = real.clone().matmul(weight_real.clone()) - imaginary.clone().matmul(weight_imaginary.clone());
        let mixed_imaginary = real.matmul(weight_imaginary) + imaginary.matmul(weight_real);
        let rest = Tensor::zeros([batch, width, points / 2 + 1 - modes], &mixed_real.device());
        let whole = |low: Tensor<3>| match points / 2 + 1 - modes {
            0 => low.permute([1, 2, 0]),
            _ => Tensor::cat(vec![low.permute([1, 2, 0]), rest.clone()], 2),
        };
        irfft(whole(mixed_real), whole(mixed_imaginary), 2, Some(points))
    }
}

/// The model that [`FnoConfig`] describes.
#[derive(Module, Debug)]
pub struct Fno {
    lift: Conv1d,
    spectral: Vec<SpectralConv>,
    pointwise: Vec<Conv1d>,
    hidden: Conv1d,
    project: Conv1d,
    activation: Gelu,
}

impl FnoConfig {
    fn consistent(&self) -> Result<()> {
        require(self.points.is_power_of_two(), "points", || format!("{} is not a power of two", self.points))?;
        require(self.modes <= self.points / 2 + 1, "modes", || {
            format!("{} points have {} frequencies, not {}", self.points, self.points / 2 + 1, self.modes)
        })
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Fno {
        let conv = |inputs, outputs| Conv1dConfig::new(inputs, outputs, 1).init(device);
        Fno {
            lift: conv(2, self.width),
            spectral: (0..self.layers).map(|_| SpectralConv::new(self.modes, self.width, device)).collect(),
            pointwise: (0..self.layers).map(|_| conv(self.width, self.width)).collect(),
            hidden: conv(self.width, 2 * self.width),
            project: conv(2 * self.width, 1),
            activation: Gelu::new(),
        }
    }

    /// Temperatures on a ring, with the place of each point, `[batch, 2, points]`, and the temperatures some time
    /// later, `[batch, 1, points]`: the exact solution of the heat equation.
    pub fn data(&self, seed: u64, device: &Device) -> (Tensor<3>, Tensor<3>) {
        const WAVES: usize = 6;
        let mut source = Source::new(seed);
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        let place = |at: usize| at as f32 / self.points as f32;
        for _ in 0..self.batch {
            let waves: Vec<(f32, f32)> = (0..WAVES).map(|_| (source.normal(0.6), source.unit())).collect();
            let temperature = |at: usize, time: f32| -> f32 {
                let wave = |(k, (height, phase)): (usize, &(f32, f32))| {
                    let turns = (k as f32) * place(at) + phase;
                    height * (std::f32::consts::TAU * turns).sin() * (-((k * k) as f32) * time).exp()
                };
                waves.iter().enumerate().map(wave).sum()
            };
            inputs.extend((0..self.points).map(|at| temperature(at, 0.0)));
            inputs.extend((0..self.points).map(place));
            targets.extend((0..self.points).map(|at| temperature(at, 0.05)));
        }
        (floats(inputs, [self.batch, 2, self.points], device), floats(targets, [self.batch, 1, self.points], device))
    }
}

impl Fno {
    /// Values `[batch, 1, points]` for functions with their places `[batch, 2, points]`.
    pub fn forward(&self, functions: Tensor<3>) -> Tensor<3> {
        let mut x = self.lift.forward(functions);
        for (spectral, pointwise) in self.spectral.iter().zip(&self.pointwise) {
            x = self.activation.forward(spectral.forward(x.clone()) + pointwise.forward(x));
        }
        self.project.forward(self.activation.forward(self.hidden.forward(x)))
    }

    /// Mean squared error, `[1]`, for functions `[batch, 2, points]` that become `[batch, 1, points]`.
    pub fn loss(&self, functions: Tensor<3>, targets: Tensor<3>) -> Tensor<1> {
        (self.forward(functions) - targets).square().mean()
    }
}

impl ZooModel for Fno {
    type Inputs = (Tensor<3>, Tensor<3>);

    fn batch_loss(&self, (functions, targets): Self::Inputs) -> Tensor<1> {
        self.loss(functions, targets)
    }
}
