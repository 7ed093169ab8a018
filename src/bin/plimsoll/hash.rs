//! Short names for long contents, the same in every run.

use std::fmt;

/// FNV-1a, 64 bits. Each part is told apart from the next by its length.
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    /// Of one part.
    pub fn of(part: &[u8]) -> Self {
        let mut hash = Self::default();
        hash.add(part);
        hash
    }

    /// Add a part.
    pub fn add(&mut self, part: &[u8]) {
        for &byte in (part.len() as u64).to_le_bytes().iter().chain(part) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
