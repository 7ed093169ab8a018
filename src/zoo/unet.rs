//! A U-Net: its skip connections keep the largest activations until the very end of the forward pass.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::interpolate::{Interpolate2d, Interpolate2dConfig, InterpolateMode};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Gelu, GroupNorm, GroupNormConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

use super::ZooModel;
use super::data::{Source, floats};
use super::settings::{config, require};
use crate::error::Result;

config! {
    /// U-Net: a convolutional network with skip connections that finds discs in noisy images.
    pub struct UnetConfig("unet") -> Unet {
        /// Images in a batch.
        batch: usize = 8, 2, 1..=65_536;
        /// Times the image is halved, with the channels doubled.
        depth: usize = 3, 2, 1..=12;
        /// Channels at full size.
        width: usize = 16, 4, 1..=4_096;
        /// Groups of channels normalized together.
        groups: usize = 4, 2, 1..=4_096;
        /// Height and width of an image.
        image: usize = 32, 16, 1..=8_192;
        /// Colors of an image.
        channels: usize = 3, 1, 1..=1_024;
        /// Whether to enlarge by interpolation and a convolution, rather than by a transposed convolution.
        interpolate: bool = false, false, false..=true;
    }
}

/// Two convolutions, each with group normalization and GELU.
#[derive(Module, Debug)]
struct DoubleConv {
    convs: [Conv2d; 2],
    norms: [GroupNorm; 2],
    activation: Gelu,
}

impl DoubleConv {
    fn new(inputs: usize, outputs: usize, groups: usize, device: &Device) -> Self {
        let conv = |inputs| same_size([inputs, outputs], 3).init(device);
        let norm = || GroupNormConfig::new(groups, outputs).init(device);
        Self { convs: [conv(inputs), conv(outputs)], norms: [norm(), norm()], activation: Gelu::new() }
    }

    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for (conv, norm) in self.convs.iter().zip(&self.norms) {
            x = self.activation.forward(norm.forward(conv.forward(x)));
        }
        x
    }
}

/// Doubles the image and halves the channels.
#[derive(Module, Debug)]
enum Up {
    Transposed(ConvTranspose2d),
    Interpolated(Enlarge),
}

#[derive(Module, Debug)]
struct Enlarge {
    interpolate: Interpolate2d,
    conv: Conv2d,
}

impl Up {
    fn new(inputs: usize, interpolate: bool, device: &Device) -> Self {
        let channels = [inputs, inputs / 2];
        if !interpolate {
            let conv = ConvTranspose2dConfig::new(channels, [2, 2]).with_stride([2, 2]);
            return Self::Transposed(conv.init(device));
        }
        let double = Interpolate2dConfig::new().with_scale_factor(Some([2.0, 2.0]));
        Self::Interpolated(Enlarge {
            interpolate: double.with_mode(InterpolateMode::Nearest).init(),
            conv: same_size(channels, 1).init(device),
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Transposed(conv) => conv.forward(x),
            Self::Interpolated(enlarge) => enlarge.conv.forward(enlarge.interpolate.forward(x)),
        }
    }
}

/// The model that [`UnetConfig`] describes.
#[derive(Module, Debug)]
pub struct Unet {
    down: Vec<DoubleConv>,
    pool: MaxPool2d,
    bottom: DoubleConv,
    up: Vec<Up>,
    merge: Vec<DoubleConv>,
    head: Conv2d,
}

fn same_size(channels: [usize; 2], kernel: usize) -> Conv2dConfig {
    let pad = kernel / 2;
    Conv2dConfig::new(channels, [kernel, kernel]).with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
}

impl UnetConfig {
    fn consistent(&self) -> Result<()> {
        require(self.image.is_multiple_of(1 << self.depth), "depth", || {
            format!("an image of {} cannot be halved {} times", self.image, self.depth)
        })?;
        require(self.width.is_multiple_of(self.groups), "groups", || {
            format!("{} groups cannot share {} channels equally", self.groups, self.width)
        })
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Unet {
        let width = |level: usize| self.width << level;
        let double = |inputs, outputs| DoubleConv::new(inputs, outputs, self.groups, device);
        let inputs = |level: usize| if level == 0 { self.channels } else { width(level - 1) };
        Unet {
            down: (0..self.depth).map(|level| double(inputs(level), width(level))).collect(),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            bottom: double(inputs(self.depth), width(self.depth)),
            up: (0..self.depth).rev().map(|level| Up::new(width(level + 1), self.interpolate, device)).collect(),
            merge: (0..self.depth).rev().map(|level| double(width(level + 1), width(level))).collect(),
            head: same_size([self.width, 1], 1).init(device),
        }
    }

    /// Images `[batch, channels, image, image]` of a disc in noise, and where the disc is,
    /// `[batch, 1, image, image]`: 1 on it and 0 elsewhere.
    pub fn data(&self, seed: u64, device: &Device) -> (Tensor<4>, Tensor<4>) {
        let mut source = Source::new(seed);
        let size = self.image;
        let (mut images, mut masks) = (Vec::new(), Vec::new());
        for _ in 0..self.batch {
            let center = [source.unit() * size as f32, source.unit() * size as f32];
            let radius = (0.15 + 0.2 * source.unit()) * size as f32;
            let mask: Vec<f32> = (0..size * size)
                .map(|at| {
                    let (y, x) = ((at / size) as f32 - center[0], (at % size) as f32 - center[1]);
                    f32::from(u8::from(y * y + x * x < radius * radius))
                })
                .collect();
            for _ in 0..self.channels {
                images.extend(mask.iter().map(|inside| inside + source.normal(0.3)));
            }
            masks.extend(mask);
        }
        (
            floats(images, [self.batch, self.channels, size, size], device),
            floats(masks, [self.batch, 1, size, size], device),
        )
    }
}

impl Unet {
    /// Where the disc is, `[batch, 1, image, image]`, in images `[batch, channels, image, image]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let mut x = images;
        let mut skips = Vec::with_capacity(self.down.len());
        for down in &self.down {
            let skip = down.forward(x);
            x = self.pool.forward(skip.clone());
            skips.push(skip);
        }
        x = self.bottom.forward(x);
        for (up, merge) in self.up.iter().zip(&self.merge) {
            let skip = skips.pop().expect("as many levels up as down");
            x = merge.forward(Tensor::cat(vec![skip, up.forward(x)], 1));
        }
        self.head.forward(x)
    }

    /// Mean squared error, `[1]`, for images `[batch, channels, image, image]` with the discs
    /// `[batch, 1, image, image]`.
    pub fn loss(&self, images: Tensor<4>, discs: Tensor<4>) -> Tensor<1> {
        (self.forward(images) - discs).square().mean()
    }
}

impl ZooModel for Unet {
    type Inputs = (Tensor<4>, Tensor<4>);

    fn batch_loss(&self, (images, discs): Self::Inputs) -> Tensor<1> {
        self.loss(images, discs)
    }
}
