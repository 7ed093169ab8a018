//! A decoder-only transformer that predicts the next token.

use burn::module::{Module, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{
    Dropout, DropoutConfig, Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::tensor::{Bool, DType, Device, Int, Tensor};

use super::ZooModel;
use super::data::{Source, ints};
use super::layers::{Block, in_f32, linear};
use super::settings::{config, require};
use crate::error::Result;

config! {
    /// GPT: a decoder-only transformer that predicts the next token.
    pub struct GptConfig("gpt") -> Gpt {
        /// Sequences in a batch.
        batch: usize = 2, 2, 1..=65_536;
        /// Transformer blocks.
        layers: usize = 6, 2, 1..=1_024;
        /// Features per token.
        width: usize = 256, 16, 1..=65_536;
        /// Attention heads; they share the width equally.
        heads: usize = 8, 2, 1..=1_024;
        /// Tokens in a sequence.
        sequence: usize = 256, 32, 2..=1_048_576;
        /// Different tokens.
        vocab: usize = 96, 13, 2..=1_048_576;
        /// Probability of dropping an activation.
        dropout: f64 = 0.0, 0.0, 0.0..=0.95;
        /// Whether the output projection is the token embedding.
        tied: bool = false, false, false..=true;
        /// Whether activations are bfloat16; parameters, normalization, softmax and loss are 32-bit floats all the same.
        bf16: bool = false, false, false..=true;
        /// The same with 16-bit floats.
        f16: bool = false, false, false..=true;
    }
}

/// The model that [`GptConfig`] describes.
#[derive(Module, Debug)]
pub struct Gpt {
    tokens: Embedding,
    positions: Param<Tensor<2>>,
    dropout: Dropout,
    blocks: Vec<Block>,
    norm: LayerNorm,
    /// Absent where the token embedding takes its place.
    head: Option<Linear>,
    /// The element type of activations.
    #[module(skip)]
    dtype: DType,
}

impl GptConfig {
    fn consistent(&self) -> Result<()> {
        require(!(self.bf16 && self.f16), "bf16", || "activations are of one type: bf16 or f16".to_owned())?;
        require(self.width.is_multiple_of(self.heads), "heads", || {
            format!("{} heads cannot share a width of {} equally", self.heads, self.width)
        })
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Gpt {
        let head = LinearConfig::new(self.width, self.vocab).with_bias(false);
        Gpt {
            tokens: EmbeddingConfig::new(self.vocab, self.width)
                .with_initializer(Initializer::Normal { mean: 0.0, std: 0.02 })
                .init(device),
            positions: Initializer::Normal { mean: 0.0, std: 0.02 }.init([self.sequence, self.width], device),
            dropout: DropoutConfig::new(self.dropout).init(),
            blocks: (0..self.layers).map(|_| Block::new(self.width, self.heads, self.dropout, device)).collect(),
            norm: LayerNormConfig::new(self.width).init(device),
            head: (!self.tied).then(|| head.init(device)),
            dtype: match (self.bf16, self.f16) {
                (true, _) => DType::BF16,
                (_, true) => DType::F16,
                _ => DType::F32,
            },
        }
    }

    /// Tokens and the tokens that follow them, both `[batch, sequence]`. A sequence advances by a step of its own,
    /// which two tokens give away.
    pub fn data(&self, seed: u64, device: &Device) -> (Tensor<2, Int>, Tensor<2, Int>) {
        let mut source = Source::new(seed);
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for _ in 0..self.batch {
            let (mut token, step) = (source.below(self.vocab), 1 + source.below(self.vocab.min(8) - 1));
            for _ in 0..self.sequence {
                tokens.push(token);
                token = (token + step) % self.vocab;
                targets.push(token);
            }
        }
        let shape = [self.batch, self.sequence];
        (ints(tokens, shape, device), ints(targets, shape, device))
    }
}

impl Gpt {
    /// Scores of the next token, `[batch, sequence, vocab]`, for tokens `[batch, sequence]`.
    pub fn logits(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let device = tokens.device();
        let [_, sequence] = tokens.dims();
        let positions = self.positions.val().narrow(0, 0, sequence).unsqueeze::<3>();
        let mask = Tensor::<2, Bool>::tril_mask([sequence, sequence], 0, &device);
        let mut x = self.tokens.forward(tokens) + positions;
        if self.dtype != DType::F32 {
            x = x.cast(self.dtype);
        }
        let mut x = self.dropout.forward(x);
        for block in &self.blocks {
            x = block.forward(x, Some(mask.clone()));
        }
        let x = in_f32(x, |x| self.norm.forward(x));
        let logits = match &self.head {
            Some(head) => linear(head, x),
            None if self.dtype == DType::F32 => x.matmul(self.tokens.weight.val().transpose().unsqueeze::<3>()),
            None => x.matmul(self.tokens.weight.val().cast(self.dtype).transpose().unsqueeze::<3>()),
        };
        match self.dtype {
            DType::F32 => logits,
            _ => logits.cast(DType::F32),
        }
    }

    /// The same as [`logits`](Self::logits).
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.logits(tokens)
    }

    /// Mean cross entropy, `[1]`, of the targets `[batch, sequence]` after the tokens `[batch, sequence]`.
    pub fn loss(&self, tokens: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<1> {
        let device = tokens.device();
        let logits = self.logits(tokens);
        let [batch, sequence, vocab] = logits.dims();
        let criterion = CrossEntropyLossConfig::new().init(&device);
        criterion.forward(logits.reshape([batch * sequence, vocab]), targets.reshape([batch * sequence]))
    }
}

impl ZooModel for Gpt {
    type Inputs = (Tensor<2, Int>, Tensor<2, Int>);

    fn batch_loss(&self, (tokens, targets): Self::Inputs) -> Tensor<1> {
        self.loss(tokens, targets)
    }
}
