//! A text as numbered characters: what the examples learn.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};

/// What is learnt when no text is given.
const OWN_TEXT: &[&str] = &[
    include_str!("../../README.md"),
    include_str!("../../DESIGN.md"),
    include_str!("../../src/check.rs"),
    include_str!("../../src/plan/timeline.rs"),
    include_str!("../../src/units.rs"),
    include_str!("../train_gpt.rs"),
];

/// Characters by number.
pub struct Corpus {
    tokens: Vec<usize>,
    /// Different characters.
    pub vocab: usize,
}

impl Corpus {
    /// A file's text, or this repository's own prose and source, for sequences of so many characters.
    pub fn open(path: Option<&Path>, sequence: usize) -> Result<Self, String> {
        let text = match path {
            Some(path) => std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?,
            None => OWN_TEXT.concat(),
        };
        let corpus = Self::new(&text);
        if corpus.tokens.len() < sequence + 2 || corpus.vocab < 2 {
            return Err(format!("the text is too short for sequences of {sequence} characters"));
        }
        Ok(corpus)
    }

    fn new(text: &str) -> Self {
        let mut alphabet: Vec<char> = text.chars().collect();
        alphabet.sort_unstable();
        alphabet.dedup();
        let number = |c: char| alphabet.binary_search(&c).expect("every character is in the alphabet");
        Self { tokens: text.chars().map(number).collect(), vocab: alphabet.len() }
    }

    /// Batch number `step`, tokens and those that follow them: the same for every run with the same seed.
    pub fn batch(
        &self,
        [rows, columns]: [usize; 2],
        seed: u64,
        step: usize,
        device: &Device,
    ) -> (Tensor<2, Int>, Tensor<2, Int>) {
        let mut state = seed.wrapping_mul(0x9e37_79b9).wrapping_add(step as u64);
        let mut next = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        let starts: Vec<usize> = (0..rows).map(|_| next(self.tokens.len() - columns)).collect();
        let take = |shift: usize| {
            let data: Vec<i32> =
                starts.iter().flat_map(|&s| &self.tokens[s + shift..s + shift + columns]).map(|&t| t as i32).collect();
            Tensor::<2, Int>::from_data(TensorData::new(data, [rows, columns]), device)
        };
        (take(0), take(1))
    }
}
