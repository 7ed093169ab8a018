//! A bidirectional LSTM that labels each token: many small ops, one after another.

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{BiLstm, BiLstmConfig, Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};

use super::ZooModel;
use super::data::{Source, ints};
use super::settings::config;
use crate::error::Result;

config! {
    /// BiLSTM: a recurrent tagger that reads a sequence in both directions.
    pub struct LstmConfig("lstm") -> Lstm {
        /// Sequences in a batch.
        batch: usize = 16, 8, 1..=65_536;
        /// Layers, each in both directions.
        layers: usize = 1, 1, 1..=256;
        /// Features per token and direction.
        width: usize = 64, 8, 1..=65_536;
        /// Tokens in a sequence.
        sequence: usize = 48, 6, 1..=65_536;
        /// Different tokens.
        vocab: usize = 32, 7, 2..=1_048_576;
        /// Different tags.
        tags: usize = 8, 3, 2..=1_048_576;
    }
}

/// The model that [`LstmConfig`] describes.
#[derive(Module, Debug)]
pub struct Lstm {
    tokens: Embedding,
    layers: Vec<BiLstm>,
    head: Linear,
}

impl LstmConfig {
    fn consistent(&self) -> Result<()> {
        Ok(())
    }

    /// A new model, with parameters from Burn's generator.
    pub fn init(&self, device: &Device) -> Lstm {
        let inputs = |layer: usize| if layer == 0 { self.width } else { 2 * self.width };
        Lstm {
            tokens: EmbeddingConfig::new(self.vocab, self.width).init(device),
            layers: (0..self.layers)
                .map(|layer| BiLstmConfig::new(inputs(layer), self.width, true).init(device))
                .collect(),
            head: LinearConfig::new(2 * self.width, self.tags).init(device),
        }
    }

    /// Tokens and tags, both `[batch, sequence]`; a token's tag depends on both of its neighbors.
    pub fn data(&self, seed: u64, device: &Device) -> (Tensor<2, Int>, Tensor<2, Int>) {
        let mut source = Source::new(seed);
        let (mut tokens, mut tags) = (Vec::new(), Vec::new());
        for _ in 0..self.batch {
            let row: Vec<usize> = (0..self.sequence).map(|_| source.below(self.vocab)).collect();
            let last = self.sequence - 1;
            tags.extend((0..=last).map(|at| (row[at.saturating_sub(1)] + row[(at + 1).min(last)]) % self.tags));
            tokens.extend(row);
        }
        let shape = [self.batch, self.sequence];
        (ints(tokens, shape, device), ints(tags, shape, device))
    }
}

impl Lstm {
    /// Scores `[batch, sequence, tags]` of the tags of tokens `[batch, sequence]`.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let mut x = self.tokens.forward(tokens);
        for layer in &self.layers {
            x = layer.forward(x, None).0;
        }
        self.head.forward(x)
    }

    /// Mean cross entropy, `[1]`, for tokens `[batch, sequence]` with tags `[batch, sequence]`.
    pub fn loss(&self, tokens: Tensor<2, Int>, tags: Tensor<2, Int>) -> Tensor<1> {
        let criterion = CrossEntropyLossConfig::new().init(&tokens.device());
        let scores = self.forward(tokens);
        let [batch, sequence, classes] = scores.dims();
        criterion.forward(scores.reshape([batch * sequence, classes]), tags.reshape([batch * sequence]))
    }
}

impl ZooModel for Lstm {
    type Inputs = (Tensor<2, Int>, Tensor<2, Int>);

    fn batch_loss(&self, (tokens, tags): Self::Inputs) -> Tensor<1> {
        self.loss(tokens, tags)
    }
}
