//! LZF, as Redis compresses strings: unpacked as it comes, so that no string has to fit in memory.
//!
//! A control byte below 32 announces that many literal bytes and one more. Any other begins a back reference:
//! its high three bits are the length less 2 (7: the next byte adds to it), its low five bits and the following byte the
//! distance less 1. Source of the format: `lzf_d.c` of LibLZF.

use unitflow_change::fault::{Code, Fault};

/// No reference goes back further.
const WINDOW: usize = 1 << 13;

/// Unpacks one string.
#[derive(Debug, Default)]
pub struct Unpacker {
    /// What was unpacked last, at least a window of it if there was so much, and behind it what is new.
    out: Vec<u8>,
    /// Bytes of `out` that were handed out.
    done: usize,
    /// Of the input, what belongs to a step that is not whole yet.
    kept: Vec<u8>,
}

impl Unpacker {
    /// Unpacks more of the input; gives what that makes.
    ///
    /// # Errors
    /// [`Code::StreamCorrupt`].
    pub fn feed(&mut self, input: &[u8]) -> Result<&[u8], Fault> {
        if self.done > 2 * WINDOW {
            self.out.drain(..self.done - WINDOW);
            self.done = WINDOW;
        }
        let mut kept = std::mem::take(&mut self.kept);
        kept.extend_from_slice(input);
        let mut rest = &kept[..];
        while let Some(after) = self.step(rest)? {
            rest = after;
        }
        self.kept = rest.to_vec();
        let fresh = self.done;
        self.done = self.out.len();
        Ok(&self.out[fresh..])
    }

    /// Whether the input ended with a whole step.
    pub fn is_whole(&self) -> bool {
        self.kept.is_empty()
    }

    /// One literal run or back reference; what follows it, or nothing where it is not whole.
    fn step<'a>(&mut self, input: &'a [u8]) -> Result<Option<&'a [u8]>, Fault> {
        let Some((&control, rest)) = input.split_first() else { return Ok(None) };
        if control < 32 {
            let Some((literal, rest)) = rest.split_at_checked(usize::from(control) + 1) else {
                return Ok(None);
            };
            self.out.extend_from_slice(literal);
            return Ok(Some(rest));
        }
        let (length, rest) = match (control >> 5, rest.split_first()) {
            (7, Some((&more, rest))) => (usize::from(more) + 9, rest),
            (7, None) => return Ok(None),
            (short, _) => (usize::from(short) + 2, rest),
        };
        let Some((&low, rest)) = rest.split_first() else { return Ok(None) };
        let distance = (usize::from(control & 0x1f) << 8 | usize::from(low)) + 1;
        let Some(start) = self.out.len().checked_sub(distance) else {
            return Err(Fault::fatal(
                Code::StreamCorrupt,
                "a compressed string refers to bytes before its begin",
            ));
        };
        // It may reach into what it makes.
        for place in start..start + length {
            self.out.push(self.out[place]);
        }
        Ok(Some(rest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unpack(input: &[u8], pieces: usize) -> Result<Vec<u8>, Fault> {
        let mut unpacker = Unpacker::default();
        let mut out = Vec::new();
        for piece in input.chunks(pieces.max(1)) {
            out.extend_from_slice(unpacker.feed(piece)?);
        }
        assert!(unpacker.is_whole());
        Ok(out)
    }

    #[test]
    fn references_reach_into_what_they_make() {
        // "ab", then ten bytes from two back, then "c".
        let packed = [1, b'a', b'b', 7 << 5, 1, 1, 0, b'c'];
        for pieces in 1..9 {
            assert_eq!(unpack(&packed, pieces).unwrap(), b"ababababababc");
        }
    }

    #[test]
    fn a_reference_before_the_begin_is_an_error() {
        assert!(unpack(&[0, b'a', 1 << 5, 1], 4).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(input in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut unpacker = Unpacker::default();
            let _ = unpacker.feed(&input);
        }

        #[test]
        fn pieces_do_not_matter(
            runs in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..32), 2_usize..264), 1..60),
            pieces in 1_usize..40,
        ) {
            let (mut packed, mut plain) = (Vec::new(), Vec::new());
            for (literal, length) in &runs {
                packed.push(literal.len() as u8 - 1);
                packed.extend_from_slice(literal);
                plain.extend_from_slice(literal);
                let length = (*length).max(3);
                let distance = plain.len().min(WINDOW);
                if length < 9 {
                    packed.push(((length - 2) << 5 | (distance - 1) >> 8) as u8);
                } else {
                    packed.push((7 << 5 | (distance - 1) >> 8) as u8);
                    packed.push((length - 9) as u8);
                }
                packed.push((distance - 1) as u8);
                for _ in 0..length {
                    plain.push(plain[plain.len() - distance]);
                }
            }
            prop_assert_eq!(unpack(&packed, pieces).unwrap(), plain);
        }
    }
}
