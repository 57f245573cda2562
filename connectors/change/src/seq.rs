//! The number of a record in its log, and the two questions every stage asks of it.
//!
//! 16 bits of *generation*, then 48 bits counted from the generation's start. Given once, by the
//! log's only writer; it stays with the record wherever the log is relayed. Captured records have
//! even numbers: a stage that turns one change into two gives the second the odd one behind it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bits below the generation.
const COUNT_BITS: u32 = 48;

/// A record's number in its log.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// Before every record.
    pub const NONE: Self = Self(0);

    /// The barrier that starts `generation`.
    #[must_use]
    pub const fn start_of(generation: u16) -> Self {
        Self((generation as u64) << COUNT_BITS)
    }

    /// The generation this record belongs to.
    #[must_use]
    pub const fn generation(self) -> u16 {
        (self.0 >> COUNT_BITS) as u16
    }

    /// The next captured record's number.
    #[must_use]
    pub const fn next_captured(self) -> Self {
        Self((self.0 | 1) + 1)
    }

    /// The number of the second half of a change that became two.
    #[must_use]
    pub const fn second_half(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a reader that stands at one record may do with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is the next one.
    Next,
    /// It was seen before.
    Seen,
    /// Something between is missing, or the reader stands where it never was.
    Gap,
}

/// Judges a record that carries `seq` and names `prev`, for a reader whose last one was `last`.
#[must_use]
pub fn step(last: Seq, seq: Seq, prev: Seq) -> Step {
    if seq <= last {
        Step::Seen
    } else if prev == last {
        Step::Next
    } else {
        Step::Gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_numbers_are_even_and_stay_in_their_generation() {
        let start = Seq::start_of(3);
        assert_eq!(start.next_captured(), Seq((3 << 48) + 2));
        assert_eq!(start.next_captured().second_half().next_captured(), Seq((3 << 48) + 4));
        assert_eq!(start.next_captured().generation(), 3);
    }

    #[test]
    fn a_record_is_next_seen_or_beyond_a_gap() {
        assert_eq!(step(Seq(4), Seq(8), Seq(4)), Step::Next);
        assert_eq!(step(Seq(8), Seq(8), Seq(4)), Step::Seen);
        assert_eq!(step(Seq(2), Seq(8), Seq(4)), Step::Gap);
        assert_eq!(step(Seq(5), Seq(8), Seq(4)), Step::Gap);
    }
}
