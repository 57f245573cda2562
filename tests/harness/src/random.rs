//! The seed that a test prints, and the choices made from it.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Choices that are the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Choices from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another source of choices, which depends on this one's seed and on `of`.
    #[must_use]
    pub const fn branch(&self, of: u64) -> Self {
        let mut other = Self(self.0 ^ of.wrapping_mul(0xd6e8_feb8_6659_fd93));
        other.next();
        other
    }

    /// Any number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not zero.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A place in a slice of `length`, which is not zero.
    pub fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.next() % (length as u64)).expect("a place in a slice")
    }
}

/// The seed in `UNITFLOW_SEED`, or a new one. Printed, so that a failure can be seen again.
#[must_use]
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("UNITFLOW_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    println!("{test}: UNITFLOW_SEED={seed}");
    seed
}

/// Whether `UNITFLOW_FULL=1` asks for the long runs.
#[must_use]
pub fn is_full() -> bool {
    std::env::var("UNITFLOW_FULL").is_ok_and(|full| full == "1")
}
