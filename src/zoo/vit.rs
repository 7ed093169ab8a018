//! A vision transformer: an image as a sequence of patches.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Dropout, DropoutConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};

use super::ZooModel;
use super::data::labelled_images;
use super::layers::Block;
use super::settings::{config, require};
use crate::error::Result;

config! {
    /// ViT: a transformer that classifies images cut into patches.
    pub struct VitConfig("vit") -> Vit {
        /// Images in a batch.
        batch: usize = 8, 2, 1..=65_536;
        /// Transformer blocks.
        layers: usize = 4, 2, 1..=1_024;
        /// Features per patch.
        width: usize = 128, 16, 1..=65_536;
        /// Attention heads; they share the width equally.
        heads: usize = 4, 2, 1..=1_024;
        /// Height and width of an image.
        image: usize = 32, 16, 1..=8_192;
        /// Height and width of a patch; an image holds a whole number of them.
        patch: usize = 4, 4, 1..=8_192;
        /// Colors of an image.
        channels: usize = 3, 3, 1..=1_024;
        /// Classes to tell apart.
        classes: usize = 10, 5, 2..=1_048_576;
        /// Probability of dropping an activation.
        dropout: f64 = 0.0, 0.0, 0.0..=0.95;
    }
}

/// The model that [`VitConfig`] describes.
#[derive(Module, Debug)]
pub struct Vit {
    patches: Conv2d,
    class_token: Param<Tensor<3>>,
    positions: Param<Tensor<2>>,
    dropout: Dropout,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

impl VitConfig {
    fn consistent(&self) -> Result<()> {
        require(self.width.is_multiple_of(self.heads), "heads", || {
            format!("{} heads cannot share a width of {} equally", self.heads, self.width)
        })?;
        require(self.image.is_multiple_of(self.patch), "patch", || {
            format!("patches of {} do not fill an image of {}", self.patch, self.image)
        })
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Vit {
        let positions = (self.image / self.patch).pow(2) + 1;
        let small = Initializer::Normal { mean: 0.0, std: 0.02 };
        Vit {
            patches: Conv2dConfig::new([self.channels, self.width], [self.patch, self.patch])
                .with_stride([self.patch, self.patch])
                .init(device),
            class_token: small.init([1, 1, self.width], device),
            positions: small.init([positions, self.width], device),
            dropout: DropoutConfig::new(self.dropout).init(),
            blocks: (0..self.layers).map(|_| Block::new(self.width, self.heads, self.dropout, device)).collect(),
            norm: LayerNormConfig::new(self.width).init(device),
            head: LinearConfig::new(self.width, self.classes).init(device),
        }
    }

    /// Images `[batch, channels, image, image]` and their classes `[batch]`.
    pub fn data(&self, seed: u64, device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
        labelled_images(seed, [self.batch, self.channels, self.image], self.classes, device)
    }
}

impl Vit {
    /// Scores `[batch, classes]` of images `[batch, channels, image, image]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let patches = self.patches.forward(images).flatten::<3>(2, 3).swap_dims(1, 2);
        let [batch, _, width] = patches.dims();
        let class = self.class_token.val().expand([batch, 1, width]);
        let x = Tensor::cat(vec![class, patches], 1) + self.positions.val().unsqueeze::<3>();
        let mut x = self.dropout.forward(x);
        for block in &self.blocks {
            x = block.forward(x, None);
        }
        let class = self.norm.forward(x).narrow(1, 0, 1).reshape([batch, width]);
        self.head.forward(class)
    }

    /// Mean cross entropy, `[1]`, for images `[batch, channels, image, image]` of the classes `[batch]`.
    pub fn loss(&self, images: Tensor<4>, classes: Tensor<1, Int>) -> Tensor<1> {
        let criterion = CrossEntropyLossConfig::new().init(&images.device());
        criterion.forward(self.forward(images), classes)
    }
}

impl ZooModel for Vit {
    type Inputs = (Tensor<4>, Tensor<1, Int>);

    fn batch_loss(&self, (images, classes): Self::Inputs) -> Tensor<1> {
        self.loss(images, classes)
    }
}
