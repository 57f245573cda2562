//! Records larger than a broker takes: cut by the writer, put together by the reader.
//!
//! A record over [`PIECE_BYTES_MAX`] travels as several Kafka records, in the same partition and
//! transaction, so that a reader of committed records sees all of them or none. Each has the header
//! `piece` with its place and their number, `1/3`; the first one has the key and the record's own
//! headers too. Smaller records have no such header and cost nothing.
//!
//! A record's offset is that of its first piece, for that is where a restart has to begin; the
//! offset after it is the one after its last piece.
//!
//! What can go wrong: a reader begins in the middle of a record (a stale offset, or retention that
//! took the first pieces). It goes on at the next whole record, and that something is missing shows
//! in the chain of numbers, as for any other record that is gone. Elsewhere a piece without those
//! before it is a fault: never is a part of a record handed out.

use std::collections::HashMap;
use std::ops::Range;

use unitflow_change::fault::{Code, Fault};

/// The name of the header that tells a piece's place; the first header of a piece.
pub const HEADER: &str = "piece";

/// Key and value of a record that travels whole, and of one piece of another. Far below the 16 MiB
/// that topics are created with: the broker's limit is for a batch, and smaller requests leave
/// it room for those of others.
pub const PIECE_BYTES_MAX: usize = 4 << 20;

/// Key and value of a record put together. An update of a row of 64 MiB has both its images in it,
/// in base64: 171 MiB.
pub const RECORD_BYTES_MAX: usize = 256 << 20;

/// Bytes of a key. What is larger is no key of a server's index.
const KEY_BYTES_MAX: usize = PIECE_BYTES_MAX / 4;

/// A piece's place among those of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// From 1.
    pub number: usize,
    pub of: usize,
}

impl Piece {
    /// Reads `1/3`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (number, of) = std::str::from_utf8(text).ok()?.split_once('/')?;
        let small = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            (digits && text.len() <= 6).then(|| text.parse::<usize>().ok()).flatten()
        };
        let (number, of) = (small(number)?, small(of)?);
        (1 <= number && number <= of && of > 1).then_some(Self { number, of })
    }

    pub fn text(self) -> String {
        format!("{}/{}", self.number, self.of)
    }
}

/// Where to cut a value whose record is larger than a piece may be: at least two parts.
pub(crate) fn cut(
    key: usize,
    value: usize,
    piece_max: usize,
) -> Result<impl Iterator<Item = (Piece, Range<usize>)>, Fault> {
    if key > KEY_BYTES_MAX.min(piece_max / 2) {
        return Err(too_large(format!("a key of {key} bytes")));
    }
    if key + value > RECORD_BYTES_MAX {
        return Err(too_large(format!("a record of {} bytes", key + value)));
    }
    // The first piece has the key too.
    let first = (piece_max - key).min(value);
    let of = 1 + (value - first).div_ceil(piece_max);
    Ok((1..=of).map(move |number| {
        let start = if number == 1 { 0 } else { first + (number - 2) * piece_max };
        let end = if number == 1 { first } else { (start + piece_max).min(value) };
        (Piece { number, of }, start..end)
    }))
}

fn too_large(what: String) -> Fault {
    Fault::poison(Code::TooLarge, format!("{what} is larger than any that travels")).hint(format!(
        "the limit is {RECORD_BYTES_MAX} bytes, for an update of both images together"
    ))
}

/// A record that is whole again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub partition: i32,
    pub offset: i64,
    pub next: i64,
    pub first: First,
    pub value: Vec<u8>,
}

/// What only a record's first piece has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct First {
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub timestamp_ms: Option<i64>,
}

/// Puts the records of one reader together.
#[derive(Debug, Default)]
pub(crate) struct Joining {
    /// Where each partition was begun to be read.
    starts: HashMap<i32, i64>,
    /// What has come of a record so far: the last piece's place, and the record.
    open: HashMap<i32, (Piece, Joined)>,
}

impl Joining {
    /// A partition is read from here on.
    pub fn begin(&mut self, partition: i32, offset: i64) {
        self.starts.insert(partition, offset);
        self.open.remove(&partition);
    }

    /// Whether no record is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes the piece at this offset; the record if it is whole with it. `first` is asked for what
    /// the first piece has.
    pub fn take(
        &mut self,
        (partition, offset): (i32, i64),
        piece: Piece,
        value: &[u8],
        first: impl FnOnce() -> First,
    ) -> Result<Option<Joined>, Fault> {
        if piece.number == 1 {
            self.expect_closed(partition, offset)?;
            let all = piece.of.saturating_mul(value.len()).min(RECORD_BYTES_MAX);
            let mut record =
                Joined { partition, offset, next: offset + 1, first: first(), value: Vec::new() };
            record.value.reserve_exact(all.max(value.len()));
            record.value.extend_from_slice(value);
            self.open.insert(partition, (piece, record));
            return Ok(None);
        }
        let Some((last, record)) = self.open.get_mut(&partition) else {
            let before = i64::try_from(piece.number - 1).unwrap_or(i64::MAX);
            let began = self.starts.get(&partition).copied().unwrap_or(0);
            // The rest of a record whose beginning was not asked for.
            if began > offset.saturating_sub(before) {
                return Ok(None);
            }
            return Err(broken(piece, offset, "without those before it"));
        };
        if piece.of != last.of || piece.number != last.number + 1 {
            return Err(broken(piece, offset, &format!("behind piece {}", last.text())));
        }
        if record.value.len() + value.len() > RECORD_BYTES_MAX {
            return Err(too_large(format!("the record at offset {}", record.offset)));
        }
        record.value.extend_from_slice(value);
        record.next = offset + 1;
        *last = piece;
        if piece.number < piece.of {
            return Ok(None);
        }
        Ok(self.open.remove(&partition).map(|(_, record)| record))
    }

    /// Anything but the next piece can come only where no record is open.
    pub fn expect_closed(&self, partition: i32, offset: i64) -> Result<(), Fault> {
        match self.open.get(&partition) {
            None => Ok(()),
            Some((last, _)) => {
                Err(broken(*last, offset, "is followed by something else than the next one"))
            }
        }
    }
}

fn broken(piece: Piece, offset: i64, what: &str) -> Fault {
    let what = format!("offset {offset}: piece {} of a record {what}", piece.text());
    Fault::fatal(Code::Record, what)
        .hint("the topic lost records, or somebody else writes to it: see the runbook")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_strictly() {
        for (number, of) in [(1, 2), (2, 2), (43, 64)] {
            let piece = Piece { number, of };
            assert_eq!(Piece::parse(piece.text().as_bytes()), Some(piece));
        }
        for text in ["", "1", "1/1", "0/2", "3/2", "+1/2", "1/2/3", "1/ 2", "1/9999999", "/"] {
            assert_eq!(Piece::parse(text.as_bytes()), None, "{text}");
        }
    }

    /// Pieces of a value at these offsets, to a joining that began at `begun`.
    fn join(begun: i64, pieces: &[(i64, usize, usize)]) -> Result<Vec<(i64, i64, Vec<u8>)>, Fault> {
        let mut joining = Joining::default();
        joining.begin(0, begun);
        let mut whole = Vec::new();
        for &(offset, number, of) in pieces {
            let value = [u8::try_from(number).unwrap()];
            let joined = joining.take((0, offset), Piece { number, of }, &value, First::default)?;
            whole.extend(joined.map(|joined| (joined.offset, joined.next, joined.value)));
        }
        Ok(whole)
    }

    #[test]
    fn a_whole_record_spans_its_pieces() {
        let whole = join(5, &[(5, 1, 3), (6, 2, 3), (9, 3, 3), (11, 1, 2), (12, 2, 2)]).unwrap();
        assert_eq!(whole, [(5, 10, vec![1, 2, 3]), (11, 13, vec![1, 2])]);
    }

    #[test]
    fn begun_in_the_middle_it_goes_on_at_the_next_record() {
        let whole = join(6, &[(6, 2, 3), (7, 3, 3), (8, 1, 2), (9, 2, 2)]).unwrap();
        assert_eq!(whole, [(8, 10, vec![1, 2])]);
    }

    #[test]
    fn a_part_is_never_handed_out() {
        for pieces in [
            &[(6, 2, 3)][..],
            &[(5, 1, 3), (6, 3, 3)],
            &[(5, 1, 3), (6, 2, 4)],
            &[(5, 1, 3), (6, 1, 3)],
            &[(5, 1, 2), (6, 2, 2), (7, 2, 2)],
        ] {
            assert_eq!(join(5, pieces).unwrap_err().code, Code::Record, "{pieces:?}");
        }
        let mut joining = Joining::default();
        joining.take((0, 1), Piece { number: 1, of: 2 }, b"a", First::default).unwrap();
        assert_eq!(joining.expect_closed(0, 2).unwrap_err().code, Code::Record);
        joining.begin(0, 9);
        assert!(joining.is_empty() && joining.expect_closed(0, 9).is_ok());
    }

    #[test]
    fn what_is_too_large_is_refused_at_both_ends() {
        let code = |key, value| cut(key, value, PIECE_BYTES_MAX).err().map(|fault| fault.code);
        assert_eq!(code(0, RECORD_BYTES_MAX), None);
        assert_eq!(code(1, RECORD_BYTES_MAX), Some(Code::TooLarge));
        assert_eq!(code(2 << 20, 3 << 20), Some(Code::TooLarge));
        let mut joining = Joining::default();
        let value = vec![0; RECORD_BYTES_MAX / 2 + 1];
        joining.take((0, 1), Piece { number: 1, of: 2 }, &value, First::default).unwrap();
        let fault = joining.take((0, 2), Piece { number: 2, of: 2 }, &value, First::default);
        assert_eq!(fault.unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn what_is_cut_is_whole_again() {
        for (key, value) in (0..9).flat_map(|key| (60..300).map(move |value| (key, value))) {
            const PIECE: usize = 50;
            let bytes: Vec<u8> = (0..value).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let mut joining = Joining::default();
            let mut whole = None;
            for ((piece, range), offset) in cut(key, value, PIECE).unwrap().zip(0..) {
                let room = if piece.number == 1 { PIECE - key } else { PIECE };
                assert!(whole.is_none() && range.len() <= room && !range.is_empty());
                whole = joining.take((0, offset), piece, &bytes[range], First::default).unwrap();
            }
            assert_eq!(whole.unwrap().value, bytes);
        }
    }
}
