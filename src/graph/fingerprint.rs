//! A name for a graph that is the same in every run and process.

use std::fmt;
use std::str::FromStr;

use crate::entity::Entity;
use crate::graph::Graph;

/// 128-bit FNV-1a hash of everything in a graph that a plan depends on: kinds, edges, sizes,
/// shapes, aliases, in-place pairs, replay, residents and outputs. Names and measured times are
/// left out, so measuring again does not make a plan stale.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(u128);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// FNV-1a over a stream of words and strings; lengths are written before variable parts so that
/// no two streams run together.
#[derive(Clone)]
pub(crate) struct Fnv(u128);

impl Fnv {
    pub(crate) fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ u128::from(b)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
    pub(crate) fn word(&mut self, word: u64) {
        self.bytes(&word.to_le_bytes());
    }
    pub(crate) fn text(&mut self, text: &str) {
        self.word(text.len() as u64);
        self.bytes(text.as_bytes());
    }
    pub(crate) fn finish(&self) -> Fingerprint {
        Fingerprint(self.0)
    }
}

impl Graph {
    /// The graph's name; see [`Fingerprint`].
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = Fnv::new();
        hash.word(self.values().len() as u64);
        for value in self.values().values() {
            hash.word(value.bytes.get());
            hash.word(value.alias_of.map_or(u64::MAX, |v| v.index() as u64));
            hash.word(u64::from(value.resident) | u64::from(value.output) << 1);
            hash.word(value.dims.len() as u64);
            value.dims.iter().for_each(|&d| hash.word(d));
        }
        hash.word(self.ops().len() as u64);
        for op in self.ops().values() {
            hash.text(&op.kind);
            for side in [&op.inputs, &op.outputs] {
                hash.word(side.len() as u64);
                side.iter().for_each(|v| hash.word(v.index() as u64));
            }
            hash.word(op.inplace.len() as u64);
            for &(a, b) in &op.inplace {
                hash.word(a as u64);
                hash.word(b as u64);
            }
            hash.word(op.replay as u64);
        }
        hash.finish()
    }
}
