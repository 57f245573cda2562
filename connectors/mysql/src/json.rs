//! MySQL's binary JSON, written as the text that the server itself prints.
//!
//! What text can't say, a date, a time or bytes of an SQL type, stands there as the string that the
//! server prints, with its first character escaped: `"\u0032026-01-02"` is a date, `"2026-01-02"` a
//! string. To whoever reads JSON the two are the same; a sink makes the date a date again.
//!
//! Format: <https://dev.mysql.com/doc/dev/mysql-server/latest/json__binary_8h.html>. A container
//! starts with its number of elements and its size; keys and values are found by offsets from
//! there. Small containers count in two bytes, large ones in four.

mod diff;
mod path;

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::bytes::{Broken, Bytes, Parsed};
use crate::value::{Clock, Decimal, write_escaped, write_integer};

pub(crate) use diff::write_changed;

/// How deep documents nest; the server's own limit.
const DEPTH_MAX: usize = 100;

/// How much longer than the binary form the text may be. Offsets may be made to point at the same
/// value many times over; honest documents grow six-fold at most.
const GROWTH_MAX: usize = 16;

/// Appends the document's text.
pub(crate) fn write_document(out: &mut Vec<u8>, document: &[u8]) -> Parsed<()> {
    let Some((&kind, value)) = document.split_first() else {
        // What the server takes an empty document for.
        out.extend_from_slice(b"null");
        return Ok(());
    };
    let limit = out.len() + 64 + document.len().saturating_mul(GROWTH_MAX);
    write_value(out, kind, value, 0, limit)
}

/// Appends the text of one value, whose bytes may go on behind it; `limit` bounds `out`.
fn write_value(
    out: &mut Vec<u8>,
    kind: u8,
    value: &[u8],
    depth: usize,
    limit: usize,
) -> Parsed<()> {
    if depth > DEPTH_MAX || out.len() > limit {
        return Err(Broken::corrupt("a JSON document is nested too deep or refers to itself", 0));
    }
    let mut bytes = Bytes::new(value);
    match kind {
        0..=3 => write_container(out, kind, value, depth, limit)?,
        4 => out.extend_from_slice(match bytes.u8()? {
            0 => b"null",
            1 => b"true",
            2 => b"false",
            _ => return Err(bytes.unknown("a JSON literal of an unknown kind")),
        }),
        5 => write_integer(out, bytes.u16()?.cast_signed()),
        6 => write_integer(out, bytes.u16()?),
        7 => write_integer(out, bytes.u32()?.cast_signed()),
        8 => write_integer(out, bytes.u32()?),
        9 => write_integer(out, bytes.u64()?.cast_signed()),
        10 => write_integer(out, bytes.u64()?),
        11 => write_double(out, f64::from_bits(bytes.u64()?))?,
        12 => {
            let length = read_length(&mut bytes)?;
            let text = bytes.text(length)?;
            write_quoted(out, text);
        }
        15 => {
            let kind = bytes.u8()?;
            let length = read_length(&mut bytes)?;
            write_opaque(out, kind, bytes.take(length)?)?;
        }
        _ => return Err(Broken::unknown(format!("a JSON value of the unknown kind {kind}"), 0)),
    }
    Ok(())
}

fn write_container(
    out: &mut Vec<u8>,
    kind: u8,
    value: &[u8],
    depth: usize,
    limit: usize,
) -> Parsed<()> {
    let mut container = Container::parse(kind, value)?;
    out.push(if container.is_object() { b'{' } else { b'[' });
    let mut first = true;
    while let Some(Element { key, kind, value }) = container.next()? {
        if !std::mem::take(&mut first) {
            out.extend_from_slice(b", ");
        }
        if let Some(key) = key {
            write_quoted(out, key);
            out.extend_from_slice(b": ");
        }
        write_value(out, kind, value, depth + 1, limit)?;
    }
    out.push(if container.is_object() { b'}' } else { b']' });
    Ok(())
}

/// An array or object whose elements are still to be taken.
struct Container<'a> {
    all: &'a [u8],
    /// Bytes of a count, size or offset.
    width: usize,
    left: usize,
    keys: Option<Bytes<'a>>,
    values: Bytes<'a>,
}

/// One of them; `value` may go on behind it.
struct Element<'a> {
    key: Option<&'a str>,
    kind: u8,
    value: &'a [u8],
}

impl<'a> Container<'a> {
    /// Kinds 0 and 1 are objects, 2 and 3 arrays, the odd ones large.
    fn parse(kind: u8, value: &'a [u8]) -> Parsed<Self> {
        let (object, width) = (kind < 2, if kind & 1 == 1 { 4 } else { 2 });
        let mut bytes = Bytes::new(value);
        let count = bytes.unsigned(width)? as usize;
        let size = bytes.unsigned(width)? as usize;
        let all = value.get(..size).ok_or_else(|| bytes.corrupt("a JSON container is cut"))?;
        let key_size = if object { width + 2 } else { 0 };
        let entries = count
            .checked_mul(key_size + 1 + width)
            .and_then(|entries| entries.checked_add(2 * width));
        if entries.is_none_or(|entries| entries > size) {
            return Err(bytes.corrupt("a JSON container has more elements than bytes"));
        }
        Ok(Self {
            all,
            width,
            left: count,
            keys: object.then(|| Bytes::from(all, 2 * width)),
            values: Bytes::from(all, 2 * width + count * key_size),
        })
    }

    fn is_object(&self) -> bool {
        self.keys.is_some()
    }

    fn next(&mut self) -> Parsed<Option<Element<'a>>> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let key = match &mut self.keys {
            Some(keys) => {
                let (offset, length) = (keys.unsigned(self.width)? as usize, keys.u16()?);
                Some(Bytes::from(self.all, offset).text(length.into())?)
            }
            None => None,
        };
        let kind = self.values.u8()?;
        let entry = self.values.take(self.width)?;
        let inlined = matches!(kind, 4..=6) || (self.width == 4 && matches!(kind, 7 | 8));
        let value = if inlined {
            entry
        } else {
            let offset = Bytes::new(entry).unsigned(self.width)? as usize;
            self.all
                .get(offset..)
                .ok_or_else(|| self.values.corrupt("a JSON value lies outside its container"))?
        };
        Ok(Some(Element { key, kind, value }))
    }
}

/// Seven bits in each byte, low ones first, as long as the high bit is set.
fn read_length(bytes: &mut Bytes<'_>) -> Parsed<usize> {
    let mut length = 0_u64;
    for shift in (0..35).step_by(7) {
        let byte = bytes.u8()?;
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(length)
                .map_err(|_| bytes.corrupt("a JSON length is too large"));
        }
    }
    Err(bytes.corrupt("a JSON length does not end"))
}

fn write_quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    write_escaped(out, text.as_bytes());
    out.push(b'"');
}

/// Values of SQL types inside a document.
fn write_opaque(out: &mut Vec<u8>, kind: u8, value: &[u8]) -> Parsed<()> {
    let mut bytes = Bytes::new(value);
    match kind {
        246 => {
            let (precision, scale) = (bytes.u8()?, bytes.u8()?);
            let shape = Decimal::new(precision, scale)
                .ok_or_else(|| bytes.corrupt("a DECIMAL of an impossible shape"))?;
            shape.write(out, &mut bytes)?;
        }
        7 | 10 | 11 | 12 => {
            let packed = bytes.u64()?.cast_signed();
            let mut text = Vec::with_capacity(32);
            if kind == 11 {
                Clock::of_packed_time(packed).write_time(&mut text, 6);
            } else {
                let clock = Clock::of_packed_datetime(packed);
                clock.write_date(&mut text);
                if kind != 10 {
                    // A TIMESTAMP is told from a DATETIME by the escape of its space.
                    let space: &[u8] = if kind == 7 { b"\\u0020" } else { b" " };
                    text.extend_from_slice(space);
                    clock.write_time(&mut text, 6);
                }
            }
            write_typed(out, &text);
        }
        _ => {
            let text = format!("base64:type{kind}:{}", STANDARD.encode(value));
            write_typed(out, text.as_bytes());
        }
    }
    Ok(())
}

/// A string that stands for a value of an SQL type: its first character is escaped.
fn write_typed(out: &mut Vec<u8>, text: &[u8]) {
    let (first, rest) = text.split_first().unwrap_or((&b' ', text));
    // Writing to a Vec can't fail.
    let _ = write!(out, "\"\\u{:04x}", first);
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// A double as the server prints it in JSON: the shortest digits; plain notation while the point
/// stands within 15 places of the first digit, else scientific; `.0` where there is neither point
/// nor exponent. (`my_gcvt` in strings/dtoa.cc.)
pub(crate) fn write_double(out: &mut Vec<u8>, value: f64) -> Parsed<()> {
    if !value.is_finite() {
        return Err(Broken::corrupt("a JSON number that is no number", 0));
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let mut buffer = ryu::Buffer::new();
    let shortest = buffer.format_finite(value.abs());
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = [0_u8; 32];
    let mut count = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if let Some(place) = digits.get_mut(count) {
            *place = digit;
            count += 1;
        }
    }
    let leading = digits[..count].iter().take_while(|digit| **digit == b'0').count();
    let trailing = digits[leading..count].iter().rev().take_while(|digit| **digit == b'0').count();
    // Where the point stands, counted from the first digit that is not zero.
    let point = whole.len() as i32 + exponent - leading as i32;
    let digits = &digits[leading..count - trailing];
    if digits.is_empty() {
        out.extend_from_slice(b"0.0");
        return Ok(());
    }
    let length = digits.len() as i32;
    if point >= -14 && (point <= 15 || length > point) {
        if point <= 0 {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + point.unsigned_abs() as usize, b'0');
            out.extend_from_slice(digits);
        } else if point < length {
            let (whole, fraction) = digits.split_at(point as usize);
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        } else {
            out.extend_from_slice(digits);
            out.resize(out.len() + (point - length) as usize, b'0');
            out.extend_from_slice(b".0");
        }
    } else {
        out.push(digits[0]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        out.push(b'e');
        write_integer(out, point - 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(document: &[u8]) -> String {
        let mut out = Vec::new();
        write_document(&mut out, document).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn containers_scalars_and_nothing() {
        assert_eq!(text(b""), "null");
        assert_eq!(text(&[4, 1]), "true");
        // {"a": [1, "x"]}
        let document = [
            0, 1, 0, 27, 0, 11, 0, 1, 0, 2, 12, 0, b'a', 2, 0, 12, 0, 5, 1, 0, 12, 10, 0, 1, b'x',
            0, 0, 0,
        ];
        assert_eq!(text(&document), r#"{"a": [1, "x"]}"#);
    }

    #[test]
    fn doubles_as_the_server_prints_them() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-1.5, "-1.5"),
            (1e14, "100000000000000.0"),
            (1e15, "1e15"),
            (123_456_789_012_345_680.0, "1.2345678901234568e17"),
            (1e-5, "0.00001"),
            (1e-15, "0.000000000000001"),
            (1e-16, "1e-16"),
            (1.7976931348623157e308, "1.7976931348623157e308"),
            (0.1 + 0.2, "0.30000000000000004"),
            (5e-324, "5e-324"),
        ] {
            let mut out = Vec::new();
            write_double(&mut out, value).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn a_document_that_refers_to_itself_is_refused() {
        // An array of 60 entries that all point back at the array itself.
        let mut document = vec![2, 60, 0, 184, 0];
        for _ in 0..60 {
            document.extend_from_slice(&[2, 0, 0]);
        }
        assert!(write_document(&mut Vec::new(), &document).is_err());
    }

    proptest! {
        #[test]
        fn no_document_panics(document in proptest::collection::vec(0..20_u8, 0..80)) {
            let _ = write_document(&mut Vec::new(), &document);
        }

        #[test]
        fn doubles_read_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let mut out = Vec::new();
            write_double(&mut out, value).unwrap();
            let read: f64 = std::str::from_utf8(&out).unwrap().parse().unwrap();
            prop_assert_eq!(read.to_bits(), bits);
        }
    }
}
