//! Small networks, each with one thing that a planner or a tracer could get wrong.
//!
//! All are stacks of linear layers that learn to shift their input by one feature.

use burn::module::{Lora, Module};
use burn::nn::{Dropout, DropoutConfig as DropoutLayerConfig, Gelu, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};

use super::ZooModel;
use super::data::{Source, floats};
use super::settings::{config, require};
use crate::error::Result;

/// Declares the configuration of a variant: the settings they all have, and more.
macro_rules! variant {
    (
        $(#[doc = $about:literal])+
        pub struct $config:ident($name:literal) -> $model:ty {
            $($(#[doc = $doc:literal])+ $field:ident: $kind:ty = $default:literal, $tiny:literal, $range:expr;)*
        }
    ) => {
        config! {
            $(#[doc = $about])+
            pub struct $config($name) -> $model {
                /// Rows in a batch.
                batch: usize = 2_048, 32, 1..=1_048_576;
                /// Layers.
                layers: usize = 12, 3, 2..=1_024;
                /// Features in a row.
                width: usize = 128, 8, 2..=65_536;
                $($(#[doc = $doc])+ $field: $kind = $default, $tiny, $range;)*
            }
        }

        impl $config {
            /// Rows `[batch, width]`, and the same shifted by one feature.
            pub fn data(&self, seed: u64, device: &Device) -> (Tensor<2>, Tensor<2>) {
                shifted_rows(seed, self.batch, self.width, device)
            }
        }
    };
}

/// Implements the loss of a model whose `forward` maps `[batch, width]` to the same.
macro_rules! regression {
    ($model:ty) => {
        impl $model {
            /// Mean squared error, `[1]`, for rows `[batch, width]` that should become the targets `[batch, width]`.
            pub fn loss(&self, rows: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
                (self.forward(rows) - targets).square().mean()
            }
        }

        impl ZooModel for $model {
            type Inputs = (Tensor<2>, Tensor<2>);

            fn batch_loss(&self, (rows, targets): Self::Inputs) -> Tensor<1> {
                self.loss(rows, targets)
            }
        }
    };
}

fn shifted_rows(seed: u64, batch: usize, width: usize, device: &Device) -> (Tensor<2>, Tensor<2>) {
    let mut source = Source::new(seed);
    let rows: Vec<f32> = (0..batch * width).map(|_| source.normal(1.0)).collect();
    let targets = rows.chunks(width).flat_map(|row| (0..width).map(|at| row[(at + 1) % width])).collect();
    (floats(rows, [batch, width], device), floats(targets, [batch, width], device))
}

/// Linear layers with GELU between them.
#[derive(Module, Debug)]
pub struct Mlp {
    layers: Vec<Linear>,
    activation: Gelu,
}

impl Mlp {
    fn new(layers: usize, width: usize, device: &Device) -> Self {
        Self {
            layers: (0..layers).map(|_| LinearConfig::new(width, width).init(device)).collect(),
            activation: Gelu::new(),
        }
    }

    /// From `[batch, width]` to the same.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.forward_with(x, |_, x| x)
    }

    /// Like [`forward`](Self::forward), with `between` applied after each activation to the layer's index and its
    /// result.
    fn forward_with(&self, mut x: Tensor<2>, between: impl Fn(usize, Tensor<2>) -> Tensor<2>) -> Tensor<2> {
        let last = self.layers.len() - 1;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            if index < last {
                x = between(index, self.activation.forward(x));
            }
        }
        x
    }
}

regression!(Mlp);

variant! {
    /// Frozen: every other layer, the first included, has parameters that are not trained.
    pub struct FrozenConfig("frozen") -> Mlp {}
}

impl FrozenConfig {
    fn consistent(&self) -> Result<()> {
        Ok(())
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Mlp {
        let mut mlp = Mlp::new(self.layers, self.width, device);
        mlp.layers = mlp
            .layers
            .into_iter()
            .enumerate()
            .map(|(index, layer)| if index % 2 == 0 { layer.no_grad() } else { layer })
            .collect();
        mlp
    }
}

variant! {
    /// LoRA: all layers are frozen and trained through low-rank adapters, which do not start at zero here.
    pub struct LoraConfig("lora") -> Mlp {
        /// Rank of the adapters.
        rank: usize = 8, 2, 1..=65_536;
        /// Scale of the adapters, before division by the rank.
        alpha: f64 = 16.0, 4.0, 0.001..=1000.0;
    }
}

impl LoraConfig {
    fn consistent(&self) -> Result<()> {
        require(self.rank <= self.width, "rank", || {
            format!("a rank of {} exceeds the width of {}", self.rank, self.width)
        })
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Mlp {
        Mlp::new(self.layers, self.width, device).apply_lora(Lora::new(self.rank, self.alpha))
    }
}

variant! {
    /// Shared: one and the same layer is applied again and again.
    pub struct SharedConfig("shared") -> Shared {}
}

/// The model that [`SharedConfig`] describes.
#[derive(Module, Debug)]
pub struct Shared {
    layer: Linear,
    activation: Gelu,
    times: usize,
}

impl SharedConfig {
    fn consistent(&self) -> Result<()> {
        Ok(())
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Shared {
        let layer = LinearConfig::new(self.width, self.width).init(device);
        Shared { layer, activation: Gelu::new(), times: self.layers }
    }
}

impl Shared {
    /// From `[batch, width]` to the same.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        (1..self.times).fold(self.layer.forward(x), |x, _| self.layer.forward(self.activation.forward(x)))
    }
}

regression!(Shared);

variant! {
    /// Unreached: has a trainable layer that the loss does not depend on, and one whose result is thrown away.
    pub struct UnreachedConfig("unreached") -> Unreached {}
}

/// The model that [`UnreachedConfig`] describes.
#[derive(Module, Debug)]
pub struct Unreached {
    mlp: Mlp,
    unused: Linear,
    thrown_away: Linear,
}

impl UnreachedConfig {
    fn consistent(&self) -> Result<()> {
        Ok(())
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Unreached {
        let layer = || LinearConfig::new(self.width, self.width).init(device);
        Unreached { mlp: Mlp::new(self.layers, self.width, device), unused: layer(), thrown_away: layer() }
    }
}

impl Unreached {
    /// From `[batch, width]` to the same.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let _ = self.thrown_away.forward(x.clone());
        self.mlp.forward(x)
    }
}

regression!(Unreached);

variant! {
    /// Constants: the forward pass makes constants, from host data, by counting and by filling.
    pub struct ConstantsConfig("constants") -> Constants {}
}

/// The model that [`ConstantsConfig`] describes.
#[derive(Module, Debug)]
pub struct Constants {
    mlp: Mlp,
}

impl ConstantsConfig {
    fn consistent(&self) -> Result<()> {
        Ok(())
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Constants {
        Constants { mlp: Mlp::new(self.layers, self.width, device) }
    }
}

impl Constants {
    /// From `[batch, width]` to the same.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let ([batch, width], device) = (x.dims(), x.device());
        let places = Tensor::<1, Int>::arange(0..width as i64, &device).float().div_scalar(width as f64);
        let x = x + places.sin().mul_scalar(0.1).unsqueeze::<2>();
        let x = self.mlp.forward_with(x, |layer, x| match layer % 3 {
            0 => x + Tensor::<2>::ones([batch, width], &device).mul_scalar(0.1),
            1 => x * Tensor::<2>::full([1, width], 1.25, &device),
            _ => Tensor::cat(vec![x, Tensor::zeros([1, width], &device)], 0).narrow(0, 0, batch),
        });
        let scale: Vec<f32> = (0..width).map(|at| if at % 2 == 0 { 1.5 } else { 0.75 }).collect();
        x * floats(scale, [1, width], &device)
    }
}

regression!(Constants);

variant! {
    /// Outputs: gives its predictions and hidden rows along with the loss, which has a term for each.
    pub struct OutputsConfig("outputs") -> Outputs {}
}

/// The model that [`OutputsConfig`] describes.
#[derive(Module, Debug)]
pub struct Outputs {
    encoder: Mlp,
    decoder: Mlp,
}

/// What [`Outputs::outputs`] gives.
#[derive(Clone, Debug)]
pub struct Step {
    /// The loss, `[1]`.
    pub loss: Tensor<1>,
    /// The predictions, `[batch, width]`.
    pub predictions: Tensor<2>,
    /// The rows between the two halves of the model, `[batch, width]`.
    pub hidden: Tensor<2>,
}

impl OutputsConfig {
    fn consistent(&self) -> Result<()> {
        Ok(())
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Outputs {
        let half = self.layers / 2;
        Outputs {
            encoder: Mlp::new(self.layers - half, self.width, device),
            decoder: Mlp::new(half, self.width, device),
        }
    }
}

impl Outputs {
    /// From `[batch, width]` to the predictions and the hidden rows, both `[batch, width]`.
    pub fn forward(&self, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let hidden = self.encoder.forward(x);
        (self.decoder.forward(hidden.clone().tanh()), hidden)
    }

    /// Loss and all other outputs, for rows and targets `[batch, width]`.
    pub fn outputs(&self, rows: Tensor<2>, targets: Tensor<2>) -> Step {
        let (predictions, hidden) = self.forward(rows);
        let loss = (predictions.clone() - targets).square().mean() + hidden.clone().square().mean().mul_scalar(0.01);
        Step { loss, predictions, hidden }
    }

    /// The loss, `[1]`, for rows and targets `[batch, width]`.
    pub fn loss(&self, rows: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
        self.outputs(rows, targets).loss
    }
}

impl ZooModel for Outputs {
    type Inputs = (Tensor<2>, Tensor<2>);

    fn batch_loss(&self, (rows, targets): Self::Inputs) -> Tensor<1> {
        self.loss(rows, targets)
    }
}

variant! {
    /// Assign: overwrites parts of its activations, with a constant and with other activations.
    pub struct AssignConfig("assign") -> Assign {}
}

/// The model that [`AssignConfig`] describes.
#[derive(Module, Debug)]
pub struct Assign {
    mlp: Mlp,
}

impl AssignConfig {
    fn consistent(&self) -> Result<()> {
        Ok(())
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Assign {
        Assign { mlp: Mlp::new(self.layers, self.width, device) }
    }
}

impl Assign {
    /// From `[batch, width]` to the same.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let ([batch, width], device) = (x.dims(), x.device());
        self.mlp.forward_with(x, |layer, x| {
            let column = layer % width;
            let value = match layer % 2 {
                0 => Tensor::full([batch, 1], 0.5, &device),
                _ => x.clone().narrow(1, (column + 1) % width, 1).tanh(),
            };
            x.slice_assign([0..batch, column..column + 1], value)
        })
    }
}

regression!(Assign);

variant! {
    /// Dropout: has dropout after each activation, with probability 0 unless set otherwise.
    pub struct DropoutConfig("dropout") -> WithDropout {
        /// Probability of dropping an activation.
        dropout: f64 = 0.0, 0.0, 0.0..=0.95;
    }
}

/// The model that [`DropoutConfig`] describes.
#[derive(Module, Debug)]
pub struct WithDropout {
    mlp: Mlp,
    dropout: Dropout,
}

impl DropoutConfig {
    fn consistent(&self) -> Result<()> {
        Ok(())
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> WithDropout {
        WithDropout {
            mlp: Mlp::new(self.layers, self.width, device),
            dropout: DropoutLayerConfig::new(self.dropout).init(),
        }
    }
}

impl WithDropout {
    /// From `[batch, width]` to the same.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.mlp.forward_with(x, |_, x| self.dropout.forward(x))
    }
}

regression!(WithDropout);

variant! {
    /// Buffers: holds tensors that are no parameters, which no visitor of its parameters sees.
    pub struct BuffersConfig("buffers") -> Buffers {}
}

/// The model that [`BuffersConfig`] describes.
#[derive(Module, Debug)]
pub struct Buffers {
    mlp: Mlp,
    /// `[width]`.
    offset: Tensor<1>,
    /// `[width]`.
    scale: Tensor<1>,
}

impl BuffersConfig {
    fn consistent(&self) -> Result<()> {
        Ok(())
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Buffers {
        let mut source = Source::new(0);
        let mut row = |low: f32| (0..self.width).map(|_| low + 0.5 * source.unit()).collect();
        Buffers {
            offset: floats(row(-0.25), [self.width], device),
            scale: floats(row(0.75), [self.width], device),
            mlp: Mlp::new(self.layers, self.width, device),
        }
    }
}

impl Buffers {
    /// From `[batch, width]` to the same.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = (x + self.offset.clone().unsqueeze()) * self.scale.clone().unsqueeze();
        self.mlp.forward(x) * self.scale.clone().unsqueeze()
    }
}

regression!(Buffers);
