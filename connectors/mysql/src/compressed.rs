//! What MariaDB compresses: events (`log_bin_compress`) and the values of COMPRESSED columns.
//!
//! Both say how many bytes they hold before the compressed ones; that much is allocated and no
//! more, and what states more than its bytes could ever unfold to is refused unread.
//!
//! Formats: `binlog_buf_uncompress` in sql/log_event.cc and sql/field_comp.cc of MariaDB.

use flate2::{Decompress, FlushDecompress, Status};

use crate::bytes::{Bytes, Parsed};

/// The largest event that a server sends.
const UNPACKED_BYTES_MAX: usize = 1 << 30;

/// Deflate stores at most 258 bytes in two bits.
const GROWTH_MAX: usize = 1032;

/// Appends the bytes of an event's compressed part: a byte with the number of bytes in which its
/// length follows, high byte first, then a zlib stream.
pub(crate) fn unpack_event(packed: &mut Bytes<'_>, out: &mut Vec<u8>) -> Parsed<()> {
    let head = packed.u8()?;
    // The highest bit always, then three for the method, of which there is one.
    if head & 0xf0 != 0x80 {
        return Err(packed.unknown("an event compressed in an unknown way"));
    }
    let width = usize::from(head & 7);
    if !(1..=4).contains(&width) {
        return Err(packed.corrupt("a compressed event without length"));
    }
    unpack(packed, width, true, UNPACKED_BYTES_MAX, out)
}

/// Appends a value of a COMPRESSED column; `limit` is the most that the column holds.
pub(crate) fn unpack_value(value: &mut Bytes<'_>, limit: usize, out: &mut Vec<u8>) -> Parsed<()> {
    if value.is_empty() {
        return Ok(());
    }
    match value.u8()? {
        0 => {
            out.extend_from_slice(value.rest());
            Ok(())
        }
        head if head >> 4 == 8 => {
            unpack(value, usize::from(head & 7), head & 8 == 0, limit.min(UNPACKED_BYTES_MAX), out)
        }
        _ => Err(value.unknown("a value compressed in an unknown way")),
    }
}

fn unpack(
    packed: &mut Bytes<'_>,
    width: usize,
    wrapped: bool,
    limit: usize,
    out: &mut Vec<u8>,
) -> Parsed<()> {
    let length = packed.unsigned_big(width)? as usize;
    if length > limit || length / GROWTH_MAX > packed.left() {
        return Err(packed.corrupt("compressed bytes state an impossible length"));
    }
    let start = out.len();
    out.reserve_exact(length);
    let ended =
        Decompress::new(wrapped).decompress_vec(packed.rest(), out, FlushDecompress::Finish);
    match ended {
        Ok(Status::StreamEnd) if out.len() - start == length => Ok(()),
        _ => {
            Err(packed.corrupt("compressed bytes can't be unpacked to the length that they state"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use proptest::prelude::*;

    use super::*;

    fn packed(head: u8, stated: &[u8], content: &[u8]) -> Vec<u8> {
        let mut out = vec![head];
        out.extend_from_slice(stated);
        let mut encoder = ZlibEncoder::new(out, Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(bytes: &[u8]) -> Parsed<Vec<u8>> {
        let mut out = b"before".to_vec();
        unpack_event(&mut Bytes::new(bytes), &mut out).map(|()| out)
    }

    #[test]
    fn events_are_unpacked_to_the_byte() {
        let content = [7; 300];
        let event = packed(0x82, &[1, 44], &content);
        assert_eq!(unpacked(&event).unwrap()[6..], content);
        // One byte more or less, another method, a cut.
        for (head, stated) in
            [(0x82, &[1, 43][..]), (0x82, &[1, 45]), (0x92, &[1, 44]), (2, &[1, 44])]
        {
            assert!(unpacked(&packed(head, stated, &content)).is_err(), "{head} {stated:?}");
        }
        assert!(unpacked(&event[..event.len() - 1]).is_err());
    }

    #[test]
    fn a_stated_length_is_not_taken_on_trust() {
        let event = packed(0x84, &[0x3f, 0xff, 0xff, 0xff], b"x");
        let mut out = Vec::new();
        assert!(unpack_event(&mut Bytes::new(&event), &mut out).is_err());
        assert_eq!(out.capacity(), 0);
        let value = packed(0x81, &[200], &[7; 200]);
        assert!(unpack_value(&mut Bytes::new(&value), 199, &mut out).is_err());
        assert!(unpack_value(&mut Bytes::new(&value), 200, &mut out).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = unpacked(&bytes);
            let _ = unpack_value(&mut Bytes::new(&bytes), 1000, &mut Vec::new());
        }
    }
}
