//! A residual convolutional network with batch normalization, whose running statistics a step updates.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d, Relu};
use burn::tensor::{Device, Int, Tensor};

use super::ZooModel;
use super::data::labelled_images;
use super::settings::{config, require};
use crate::error::Result;

config! {
    /// ResNet: a residual network of basic blocks with batch normalization, with a stem for small images.
    pub struct ResNetConfig("resnet") -> ResNet {
        /// Images in a batch.
        batch: usize = 16, 2, 1..=65_536;
        /// Stages; each after the first halves the image and doubles the channels.
        stages: usize = 4, 2, 1..=12;
        /// Blocks in a stage.
        blocks: usize = 2, 1, 1..=256;
        /// Channels of the first stage.
        width: usize = 16, 4, 1..=4_096;
        /// Height and width of an image.
        image: usize = 32, 16, 1..=8_192;
        /// Colors of an image.
        channels: usize = 3, 3, 1..=1_024;
        /// Classes to tell apart.
        classes: usize = 10, 5, 2..=1_048_576;
    }
}

/// A convolution without bias and the batch normalization after it.
#[derive(Module, Debug)]
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    fn new(channels: [usize; 2], kernel: usize, stride: usize, device: &Device) -> Self {
        let pad = kernel / 2;
        let conv = Conv2dConfig::new(channels, [kernel, kernel])
            .with_stride([stride, stride])
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_bias(false);
        Self { conv: conv.init(device), norm: BatchNormConfig::new(channels[1]).init(device) }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.norm.forward(self.conv.forward(x))
    }
}

/// Two convolutions and the way around them.
#[derive(Module, Debug)]
struct BasicBlock {
    first: ConvNorm,
    second: ConvNorm,
    shortcut: Option<ConvNorm>,
    activation: Relu,
}

impl BasicBlock {
    fn new(channels: [usize; 2], stride: usize, device: &Device) -> Self {
        let [inputs, outputs] = channels;
        Self {
            first: ConvNorm::new(channels, 3, stride, device),
            second: ConvNorm::new([outputs, outputs], 3, 1, device),
            shortcut: (inputs != outputs || stride != 1).then(|| ConvNorm::new(channels, 1, stride, device)),
            activation: Relu::new(),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let around = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x.clone()),
            None => x.clone(),
        };
        let through = self.second.forward(self.activation.forward(self.first.forward(x)));
        self.activation.forward(through + around)
    }
}

/// The model that [`ResNetConfig`] describes.
#[derive(Module, Debug)]
pub struct ResNet {
    stem: ConvNorm,
    activation: Relu,
    blocks: Vec<BasicBlock>,
    pool: AdaptiveAvgPool2d,
    head: Linear,
}

impl ResNetConfig {
    fn consistent(&self) -> Result<()> {
        require(self.image >> (self.stages - 1) > 0, "stages", || {
            format!("an image of {} cannot be halved {} times", self.image, self.stages - 1)
        })
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> ResNet {
        let mut blocks = Vec::with_capacity(self.stages * self.blocks);
        let mut channels = self.width;
        for stage in 0..self.stages {
            for block in 0..self.blocks {
                let (outputs, stride) = (self.width << stage, if stage > 0 && block == 0 { 2 } else { 1 });
                blocks.push(BasicBlock::new([channels, outputs], stride, device));
                channels = outputs;
            }
        }
        ResNet {
            stem: ConvNorm::new([self.channels, self.width], 3, 1, device),
            activation: Relu::new(),
            blocks,
            pool: AdaptiveAvgPool2dConfig::new([1, 1]).init(),
            head: LinearConfig::new(channels, self.classes).init(device),
        }
    }

    /// Images `[batch, channels, image, image]` and their classes `[batch]`.
    pub fn data(&self, seed: u64, device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
        labelled_images(seed, [self.batch, self.channels, self.image], self.classes, device)
    }
}

impl ResNet {
    /// Scores `[batch, classes]` of images `[batch, channels, image, image]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let mut x = self.activation.forward(self.stem.forward(images));
        for block in &self.blocks {
            x = block.forward(x);
        }
        self.head.forward(self.pool.forward(x).flatten::<2>(1, 3))
    }

    /// Mean cross entropy, `[1]`, for images `[batch, channels, image, image]` of the classes `[batch]`.
    pub fn loss(&self, images: Tensor<4>, classes: Tensor<1, Int>) -> Tensor<1> {
        let criterion = CrossEntropyLossConfig::new().init(&images.device());
        criterion.forward(self.forward(images), classes)
    }
}

impl ZooModel for ResNet {
    type Inputs = (Tensor<4>, Tensor<1, Int>);

    fn batch_loss(&self, (images, classes): Self::Inputs) -> Tensor<1> {
        self.loss(images, classes)
    }
}
