//! Layers that several models share.

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Device, Tensor};

/// What a masked score becomes: low enough for its weight to vanish, finite in each float type.
const MASKED: f32 = -1.0e4;

/// A linear layer in the element type of its input: parameters of another type are converted where they are used, so that
/// their gradients come back in their own.
pub fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    let (weight, bias) = (layer.weight.val(), layer.bias.as_ref().map(|bias| bias.val()));
    if weight.dtype() == x.dtype() {
        return layer.forward(x);
    }
    let dtype = x.dtype();
    let product = x.matmul(weight.cast(dtype).unsqueeze());
    match bias {
        Some(bias) => product + bias.cast(dtype).unsqueeze(),
        None => product,
    }
}

/// What must not be computed in 16 bits: sums over many elements, and exponentials.
pub fn in_f32<const D: usize>(x: Tensor<D>, compute: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F16 | DType::BF16 => {
            let dtype = x.dtype();
            compute(x.cast(DType::F32)).cast(dtype)
        }
        _ => compute(x),
    }
}

/// Multi-head self-attention, written out so that each intermediate result is a tensor of its own.
#[derive(Module, Debug)]
pub struct Attention {
    qkv: Linear,
    output: Linear,
    dropout: Dropout,
    heads: usize,
}

impl Attention {
    /// Attention over `width` features in `heads` heads, with dropout on the weights.
    pub fn new(width: usize, heads: usize, dropout: f64, device: &Device) -> Self {
        Self {
            qkv: LinearConfig::new(width, 3 * width).init(device),
            output: LinearConfig::new(width, width).init(device),
            dropout: DropoutConfig::new(dropout).init(),
            heads,
        }
    }

    /// `x` is `[batch, sequence, width]`, as is the result; `mask` `[sequence, sequence]` is true where a
    /// query (row) must not see a key (column).
    pub fn forward(&self, x: Tensor<3>, mask: Option<Tensor<2, Bool>>) -> Tensor<3> {
        let [batch, sequence, width] = x.dims();
        let size = width / self.heads;
        let qkv = linear(&self.qkv, x);
        let head = |index: usize| {
            let part = qkv.clone().narrow(2, index * width, width);
            part.reshape([batch, sequence, self.heads, size]).swap_dims(1, 2)
        };
        let (query, key, value) = (head(0), head(1), head(2));
        let scores = query.matmul(key.transpose()).div_scalar((size as f64).sqrt());
        let scores = match mask {
            Some(mask) => scores.mask_fill(mask.reshape([1, 1, sequence, sequence]), MASKED),
            None => scores,
        };
        let weights = self.dropout.forward(in_f32(scores, |scores| softmax(scores, 3)));
        let mixed = weights.matmul(value).swap_dims(1, 2).reshape([batch, sequence, width]);
        linear(&self.output, mixed)
    }
}

/// Two linear layers with GELU between them.
#[derive(Module, Debug)]
pub struct FeedForward {
    inner: Linear,
    outer: Linear,
    activation: Gelu,
}

impl FeedForward {
    /// From `width` features to `hidden` and back.
    pub fn new(width: usize, hidden: usize, device: &Device) -> Self {
        Self {
            inner: LinearConfig::new(width, hidden).init(device),
            outer: LinearConfig::new(hidden, width).init(device),
            activation: Gelu::new(),
        }
    }

    /// `x` is `[.., width]`, as is the result.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear(&self.outer, self.activation.forward(linear(&self.inner, x)))
    }
}

/// One pre-norm transformer block: attention and a feed-forward layer of four times the width.
#[derive(Module, Debug)]
pub struct Block {
    norm_attention: LayerNorm,
    attention: Attention,
    norm_feed_forward: LayerNorm,
    feed_forward: FeedForward,
    dropout: Dropout,
}

impl Block {
    /// A block over `width` features.
    pub fn new(width: usize, heads: usize, dropout: f64, device: &Device) -> Self {
        Self {
            norm_attention: LayerNormConfig::new(width).init(device),
            attention: Attention::new(width, heads, dropout, device),
            norm_feed_forward: LayerNormConfig::new(width).init(device),
            feed_forward: FeedForward::new(width, 4 * width, device),
            dropout: DropoutConfig::new(dropout).init(),
        }
    }

    /// `x` is `[batch, sequence, width]`, as is the result; for `mask` see [`Attention::forward`].
    pub fn forward(&self, x: Tensor<3>, mask: Option<Tensor<2, Bool>>) -> Tensor<3> {
        let attended = self.attention.forward(in_f32(x.clone(), |x| self.norm_attention.forward(x)), mask);
        let x = x + self.dropout.forward(attended);
        let fed = self.feed_forward.forward(in_f32(x.clone(), |x| self.norm_feed_forward.forward(x)));
        x + self.dropout.forward(fed)
    }
}
