//! An MLP-Mixer: linear layers along patches and along features, in turns.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};

use super::ZooModel;
use super::data::labelled_images;
use super::layers::FeedForward;
use super::settings::{config, require};
use crate::error::Result;

config! {
    /// MLP-Mixer: classifies images by mixing along patches and along features in turns.
    pub struct MixerConfig("mixer") -> Mixer {
        /// Images in a batch.
        batch: usize = 8, 4, 1..=65_536;
        /// Mixer blocks.
        layers: usize = 4, 2, 1..=1_024;
        /// Features per patch.
        width: usize = 128, 16, 1..=65_536;
        /// Height and width of an image.
        image: usize = 32, 16, 1..=8_192;
        /// Height and width of a patch; an image holds a whole number of them.
        patch: usize = 4, 4, 1..=8_192;
        /// Colors of an image.
        channels: usize = 3, 3, 1..=1_024;
        /// Classes to tell apart.
        classes: usize = 10, 5, 2..=1_048_576;
    }
}

#[derive(Module, Debug)]
struct MixerBlock {
    norm_patches: LayerNorm,
    patches: FeedForward,
    norm_features: LayerNorm,
    features: FeedForward,
}

impl MixerBlock {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let mixed = self.patches.forward(self.norm_patches.forward(x.clone()).swap_dims(1, 2));
        let x = x + mixed.swap_dims(1, 2);
        x.clone() + self.features.forward(self.norm_features.forward(x))
    }
}

/// The model that [`MixerConfig`] describes.
#[derive(Module, Debug)]
pub struct Mixer {
    patches: Conv2d,
    blocks: Vec<MixerBlock>,
    norm: LayerNorm,
    head: Linear,
}

impl MixerConfig {
    fn consistent(&self) -> Result<()> {
        require(self.image.is_multiple_of(self.patch), "patch", || {
            format!("patches of {} do not fill an image of {}", self.patch, self.image)
        })
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Mixer {
        let (patches, width) = ((self.image / self.patch).pow(2), self.width);
        let norm = || LayerNormConfig::new(width).init(device);
        let block = || MixerBlock {
            norm_patches: norm(),
            patches: FeedForward::new(patches, 2 * patches, device),
            norm_features: norm(),
            features: FeedForward::new(width, 4 * width, device),
        };
        Mixer {
            patches: Conv2dConfig::new([self.channels, width], [self.patch, self.patch])
                .with_stride([self.patch, self.patch])
                .init(device),
            blocks: (0..self.layers).map(|_| block()).collect(),
            norm: norm(),
            head: LinearConfig::new(width, self.classes).init(device),
        }
    }

    /// Images `[batch, channels, image, image]` and their classes `[batch]`.
    pub fn data(&self, seed: u64, device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
        labelled_images(seed, [self.batch, self.channels, self.image], self.classes, device)
    }
}

impl Mixer {
    /// Scores `[batch, classes]` of images `[batch, channels, image, image]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let mut x = self.patches.forward(images).flatten::<3>(2, 3).swap_dims(1, 2);
        for block in &self.blocks {
            x = block.forward(x);
        }
        let [batch, _, width] = x.dims();
        self.head.forward(self.norm.forward(x).mean_dim(1).reshape([batch, width]))
    }

    /// Mean cross entropy, `[1]`, for images `[batch, channels, image, image]` of the classes `[batch]`.
    pub fn loss(&self, images: Tensor<4>, classes: Tensor<1, Int>) -> Tensor<1> {
        let criterion = CrossEntropyLossConfig::new().init(&images.device());
        criterion.forward(self.forward(images), classes)
    }
}

impl ZooModel for Mixer {
    type Inputs = (Tensor<4>, Tensor<1, Int>);

    fn batch_loss(&self, (images, classes): Self::Inputs) -> Tensor<1> {
        self.loss(images, classes)
    }
}
