//! An encoder-decoder transformer of Burn's own modules, with padding masks.

use burn::module::{Module, Param};
use burn::nn::attention::generate_autoregressive_mask;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::transformer::{
    TransformerDecoder, TransformerDecoderConfig, TransformerDecoderInput, TransformerEncoder,
    TransformerEncoderConfig, TransformerEncoderInput,
};
use burn::nn::{Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig};
use burn::tensor::{Bool, Device, Int, Tensor};

use super::ZooModel;
use super::data::{Source, bools, ints};
use super::settings::{config, require};
use crate::error::Result;

/// The token that pads a sequence.
const PAD: usize = 0;
/// The token a target starts with.
const START: usize = 1;

config! {
    /// Seq2seq: an encoder-decoder transformer that writes a sequence backwards.
    pub struct Seq2SeqConfig("seq2seq") -> Seq2Seq {
        /// Sequences in a batch.
        batch: usize = 8, 4, 1..=65_536;
        /// Layers of the encoder, and of the decoder.
        layers: usize = 2, 1, 1..=1_024;
        /// Features per token.
        width: usize = 128, 16, 1..=65_536;
        /// Attention heads; they share the width equally.
        heads: usize = 4, 2, 1..=1_024;
        /// Tokens in a sequence.
        sequence: usize = 64, 12, 2..=1_048_576;
        /// Different tokens, two of which are for padding and start.
        vocab: usize = 32, 9, 3..=1_048_576;
        /// Probability of dropping an activation.
        dropout: f64 = 0.0, 0.0, 0.0..=0.95;
    }
}

/// One batch: source `[batch, sequence]`, true where that is padding `[batch, sequence]`, the target shifted by one
/// `[batch, sequence]`, and the target `[batch, sequence]`.
pub type Seq2SeqBatch = (Tensor<2, Int>, Tensor<2, Bool>, Tensor<2, Int>, Tensor<2, Int>);

/// The model that [`Seq2SeqConfig`] describes.
#[derive(Module, Debug)]
pub struct Seq2Seq {
    tokens: Embedding,
    positions: Param<Tensor<2>>,
    encoder: TransformerEncoder,
    decoder: TransformerDecoder,
    head: Linear,
}

impl Seq2SeqConfig {
    fn consistent(&self) -> Result<()> {
        require(self.width.is_multiple_of(self.heads), "heads", || {
            format!("{} heads cannot share a width of {} equally", self.heads, self.width)
        })
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Seq2Seq {
        let (width, hidden, heads, layers) = (self.width, 4 * self.width, self.heads, self.layers);
        Seq2Seq {
            tokens: EmbeddingConfig::new(self.vocab, width).init(device),
            positions: Initializer::Normal { mean: 0.0, std: 0.02 }.init([self.sequence, width], device),
            encoder: TransformerEncoderConfig::new(width, hidden, heads, layers)
                .with_dropout(self.dropout)
                .with_norm_first(true)
                .init(device),
            decoder: TransformerDecoderConfig::new(width, hidden, heads, layers)
                .with_dropout(self.dropout)
                .with_norm_first(true)
                .init(device),
            head: LinearConfig::new(width, self.vocab).init(device),
        }
    }

    /// Sequences of different lengths and the same backwards.
    pub fn data(&self, seed: u64, device: &Device) -> Seq2SeqBatch {
        let mut random = Source::new(seed);
        let length = self.sequence;
        let (mut source, mut shifted, mut target) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.batch {
            let used = length / 2 + random.below(length - length / 2 + 1);
            let row: Vec<usize> = (0..used).map(|_| 2 + random.below(self.vocab - 2)).collect();
            let backwards: Vec<usize> = row.iter().rev().copied().chain(std::iter::repeat(PAD)).take(length).collect();
            source.extend(row.into_iter().chain(std::iter::repeat(PAD)).take(length));
            shifted.push(START);
            shifted.extend(&backwards[..length - 1]);
            target.extend(backwards);
        }
        let shape = [self.batch, length];
        let padding = source.iter().map(|&token| token == PAD).collect();
        (
            ints(source, shape, device),
            bools(padding, shape, device),
            ints(shifted, shape, device),
            ints(target, shape, device),
        )
    }
}

impl Seq2Seq {
    /// Scores `[batch, sequence, vocab]` of the token after each of the target's `[batch, sequence]`, given the source
    /// `[batch, sequence]` and where that is padding `[batch, sequence]`.
    pub fn forward(&self, source: Tensor<2, Int>, padding: Tensor<2, Bool>, shifted: Tensor<2, Int>) -> Tensor<3> {
        let [batch, sequence] = shifted.dims();
        let future = generate_autoregressive_mask(batch, sequence, &shifted.device());
        let encoded = TransformerEncoderInput::new(self.embed(source)).mask_pad(padding.clone());
        let memory = self.encoder.forward(encoded);
        let decoded =
            TransformerDecoderInput::new(self.embed(shifted), memory).memory_mask_pad(padding).target_mask_attn(future);
        self.head.forward(self.decoder.forward(decoded))
    }

    /// Mean cross entropy, `[1]`, of the target's tokens that are not padding; for the shapes see [`Seq2SeqBatch`].
    pub fn loss(
        &self,
        source: Tensor<2, Int>,
        padding: Tensor<2, Bool>,
        shifted: Tensor<2, Int>,
        target: Tensor<2, Int>,
    ) -> Tensor<1> {
        let criterion = CrossEntropyLossConfig::new().with_pad_tokens(Some(vec![PAD])).init(&source.device());
        let scores = self.forward(source, padding, shifted);
        let [batch, sequence, vocab] = scores.dims();
        criterion.forward(scores.reshape([batch * sequence, vocab]), target.reshape([batch * sequence]))
    }

    fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [_, sequence] = tokens.dims();
        self.tokens.forward(tokens) + self.positions.val().narrow(0, 0, sequence).unsqueeze::<3>()
    }
}

impl ZooModel for Seq2Seq {
    type Inputs = Seq2SeqBatch;

    fn batch_loss(&self, (source, padding, shifted, target): Self::Inputs) -> Tensor<1> {
        self.loss(source, padding, shifted, target)
    }
}
