//! The one place where values and names become SQL.
//!
//! Values come as the raw JSON text of the envelope and leave as literals for a column of a known
//! type. Nothing is copied into a statement unchecked: text is unescaped from JSON and escaped for
//! SQL, all else is read and written anew, or allowed only the characters of its type.
//!
//! The session must be one of [`crate::connect()`]: utf8mb4, UTC, without `NO_BACKSLASH_ESCAPES`.

mod document;
mod number;

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use unitflow_change::fault::{Code, Fault};

use crate::connect::Flavor;
use crate::schema::{Column, Type};
use crate::value::{inet6_text, write_integer};

/// Characters of base64 that are written in hexadecimal: readable, and twice as long.
const HEX_TEXT_MAX: usize = 1024;

/// Appends a name in backquotes.
pub fn quote_identifier(out: &mut Vec<u8>, name: &str) {
    out.push(b'`');
    for byte in name.bytes() {
        if byte == b'`' {
            out.push(b'`');
        }
        out.push(byte);
    }
    out.push(b'`');
}

/// Appends text as a string literal.
pub fn quote_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'\'');
    write_escaped(out, text.as_bytes());
    out.push(b'\'');
}

/// Appends the inside of a string literal. The session speaks UTF-8, where no byte of a longer
/// character is ever taken for a quote or a backslash; that holds for other bytes too.
fn write_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut clean = 0;
    for (at, &byte) in text.iter().enumerate() {
        let escape = match byte {
            0 => b'0',
            b'\n' => b'n',
            b'\r' => b'r',
            0x1a => b'Z',
            b'\\' | b'\'' | b'"' => byte,
            _ => continue,
        };
        out.extend_from_slice(&text[clean..at]);
        out.extend_from_slice(&[b'\\', escape]);
        clean = at + 1;
    }
    out.extend_from_slice(&text[clean..]);
}

/// Appends the literal of a value for a column; `json` is the value's raw text in the envelope.
///
/// A value that does not look like one of the type is [`Code::Record`]; one that the type can't
/// hold exactly, though the server would bend it without an error, and a type that can't be written
/// are [`Code::Table`]. All name the column and never the value.
pub fn write_literal(out: &mut Vec<u8>, column: &Column, json: &str) -> Result<(), Fault> {
    let start = out.len();
    if json == "null" {
        out.extend_from_slice(b"NULL");
        return Ok(());
    }
    let written = match &column.kind {
        Type::Integer { .. } | Type::Year => sound(write_number(out, json)),
        Type::Decimal { scale, .. } => write_decimal(out, json, *scale),
        Type::Float => write_float(out, json),
        Type::Double => write_double(out, json),
        Type::Bit(_) => sound(write_bits(out, json)),
        Type::Date => write_time(out, json, false, 0),
        Type::Time(fraction) => write_time(out, json, false, *fraction),
        Type::Datetime(fraction) | Type::Timestamp(fraction) => {
            write_time(out, json, true, *fraction)
        }
        Type::Text { fixed: true, .. } if json.ends_with(" \"") => {
            Err(Refused::Inexact("text that ends with a space, which CHAR does not keep"))
        }
        Type::Text { fixed: false, charset, .. } if would_lose_spaces(column, charset, json) => {
            Err(Refused::Inexact("longer text that ends with a space, which would be cut off"))
        }
        Type::Text { json: true, .. } if holds_typed(json) => {
            Err(Refused::Inexact("a JSON document with a date, a time or bytes of an SQL type"))
        }
        Type::Enum(_) if is_no_member(column, json) => {
            out.push(b'0');
            Ok(())
        }
        Type::Text { .. } | Type::Enum(_) | Type::Set(_) => sound(write_text(out, json)),
        Type::Json => document::write(out, json),
        Type::Binary(length) => write_bytes(out, json, Some(*length)),
        Type::Blob(_) => write_bytes(out, json, None),
        Type::Geometry { axes } => sound(write_geometry(out, json, *axes)),
        Type::Vector => write_bytes(out, json, None),
        Type::Uuid | Type::Inet6 | Type::Inet4 => write_address(out, &column.kind, json),
        Type::Other(kind) => {
            return Err(Fault::fatal(
                Code::Table,
                format!("column {}: values of type {kind} can't be written", column.name),
            )
            .hint("exclude the table or change the column's type"));
        }
    };
    written.map_err(|refused| {
        out.truncate(start);
        let (name, kind) = (&column.name, &column.kind);
        match refused {
            Refused::Malformed => Fault::poison(
                Code::Record,
                format!("column {name}: the record's value does not fit its type {kind:?}"),
            )
            .hint("compare the table's definitions in the two units"),
            Refused::Inexact(what) => {
                Fault::poison(Code::Table, format!("column {name}: {what}; its type is {kind:?}"))
                    .hint("no value of this type is equal to it: change the column's type here, or the value at the source")
            }
        }
    })
}

/// Whether the value is what a server keeps in an ENUM column of something that is no member,
/// its number being 0. Its literal is only taken by a statement that is not strict
/// ([`write_lenient`]).
#[must_use]
pub fn is_no_member(column: &Column, json: &str) -> bool {
    match &column.kind {
        Type::Enum(definition) => json == "0" || (json == "\"\"" && !has_empty_member(definition)),
        _ => false,
    }
}

/// Whether one of the members of `enum('a','b''c','')` is empty.
pub(crate) fn has_empty_member(definition: &str) -> bool {
    let members = definition.strip_prefix("enum(").unwrap_or(definition);
    let mut bytes = members.bytes().peekable();
    let (mut inside, mut length) = (false, 0);
    while let Some(byte) = bytes.next() {
        match (inside, byte) {
            (false, b'\'') => (inside, length) = (true, 0),
            (true, b'\'') if bytes.peek() == Some(&b'\'') => {
                bytes.next();
                length += 1;
            }
            (true, b'\'') if length == 0 => return true,
            (true, b'\'') => inside = false,
            (true, _) => length += 1,
            (false, _) => {}
        }
    }
    false
}

/// Appends the start of an UPDATE that bends values without an error, up to the table's name.
pub fn write_lenient(out: &mut Vec<u8>, flavor: Flavor) {
    const MODE: &str = "ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO";
    let text = match flavor {
        Flavor::Mysql => format!("UPDATE /*+ SET_VAR(sql_mode='{MODE}') */ "),
        Flavor::Mariadb => format!("SET STATEMENT sql_mode='{MODE}' FOR UPDATE "),
    };
    out.extend_from_slice(text.as_bytes());
}

/// Why a value is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// It is not what a value of the type looks like.
    Malformed,
    /// No value of the type is equal to it, and the server would bend it without an error.
    Inexact(&'static str),
}

fn sound(written: Option<()>) -> Result<(), Refused> {
    written.ok_or(Refused::Malformed)
}

/// Whether a text that ends with a space is longer than its column: the server cuts spaces off
/// without an error. Whatever else is too long it refuses.
fn would_lose_spaces(column: &Column, charset: &str, json: &str) -> bool {
    if column.length == 0 || !json.ends_with(" \"") {
        return false;
    }
    let (mut characters, mut bytes) = (0, 0);
    let counted = unescaped(json, |part| {
        for character in part.chars() {
            characters += 1;
            bytes += bytes_in(charset, character);
        }
    });
    counted.is_some() && (characters > column.length || bytes > column.bytes)
}

/// The most bytes that a character takes in a character set.
fn bytes_in(charset: &str, character: char) -> u64 {
    let bytes = match charset {
        "utf8mb4" | "utf8mb3" | "utf8" => character.len_utf8(),
        "utf16" | "utf16le" | "ucs2" => 2 * character.len_utf16(),
        "utf32" => 4,
        _ if character.is_ascii() => 1,
        "gb18030" => 4,
        "ujis" | "eucjpms" => 3,
        "big5" | "cp932" | "euckr" | "gb2312" | "gbk" | "sjis" => 2,
        _ => 1,
    };
    bytes as u64
}

/// Whether a string of a JSON document stands for a value of an SQL type: then the character it
/// starts with is escaped, without need.
fn is_typed(token: &str) -> bool {
    let digits = token.strip_prefix("\"\\u00").and_then(|rest| rest.get(..2));
    // A digit, a minus, and the b of base64.
    matches!(
        digits,
        Some("30" | "31" | "32" | "33" | "34" | "35" | "36" | "37" | "38" | "39" | "2d" | "62")
    )
}

/// Whether a document, as the envelope's JSON string, holds such strings.
fn holds_typed(json: &str) -> bool {
    json.match_indices("\\\"\\\\u00").any(|(at, _)| {
        json.get(at + 7..at + 9).is_some_and(|digits| is_typed(&format!("\"\\u00{digits}")))
    })
}

/// Appends a condition that is true where `left`, a column of this definition, holds exactly the
/// value of `right`, a literal of [`write_literal`] or another column of the same definition. Text
/// is compared by its characters, not by its collation; NULL equals NULL. Never NULL itself.
pub fn write_comparison(out: &mut Vec<u8>, column: &Column, left: &[u8], right: &[u8]) {
    let mut put = |parts: &[&[u8]]| parts.iter().for_each(|part| out.extend_from_slice(part));
    match &column.kind {
        // MariaDB's JSON is the text that somebody wrote, and a MySQL unit has its own for the
        // same document. Each holding the other does not tell [1,[1]] from [[1],1]. From 10.7 on
        // the server has one form for both. A string that is escaped in another way is another to it.
        Type::Text { json: true, .. } => put(&[
            b"(CAST(",
            left,
            b" AS BINARY)<=>CAST(",
            right,
            b" AS BINARY) OR COALESCE(JSON_CONTAINS(",
            left,
            b",",
            right,
            b") AND JSON_CONTAINS(",
            right,
            b",",
            left,
            b") AND JSON_DEPTH(",
            left,
            b")=JSON_DEPTH(",
            right,
            b") AND (0/*M!100700 +1*/=0 OR CAST(/*M!100700 JSON_NORMALIZE*/(",
            left,
            b") AS BINARY)=CAST(/*M!100700 JSON_NORMALIZE*/(",
            right,
            b") AS BINARY)),0))",
        ]),
        Type::Text { charset, .. }
            if charset == "utf8mb4" || charset == "utf8mb3" || charset == "ascii" =>
        {
            put(&[b"CAST(", left, b" AS BINARY)<=>CAST(", right, b" AS BINARY)"]);
        }
        // The server compares no vectors as such.
        Type::Vector => put(&[b"CAST(", left, b" AS BINARY)<=>CAST(", right, b" AS BINARY)"]),
        Type::Text { .. } | Type::Enum(_) | Type::Set(_) => put(&[
            b"CAST(CONVERT(",
            left,
            b" USING utf8mb4) AS BINARY)<=>CAST(CONVERT(",
            right,
            b" USING utf8mb4) AS BINARY)",
        ]),
        // Equal as documents, or, where a document holds what JSON text can't say (dates), by
        // their text.
        Type::Json => put(&[
            b"(",
            left,
            b"<=>CAST(",
            right,
            b" AS JSON) OR CAST(CAST(",
            left,
            b" AS CHAR) AS BINARY)<=>CAST(CAST(",
            right,
            b" AS CHAR) AS BINARY))",
        ]),
        _ => put(&[left, b"<=>", right]),
    }
}

/// The inside of a JSON string without escapes.
pub(crate) fn unquote(json: &str) -> Option<&str> {
    let inside = json.strip_prefix('"')?.strip_suffix('"')?;
    (!inside.bytes().any(|byte| byte == b'\\' || byte == b'"')).then_some(inside)
}

fn write_number(out: &mut Vec<u8>, json: &str) -> Option<()> {
    let digits = match json {
        "true" => "1",
        "false" => "0",
        _ => json,
    };
    let unsigned = digits.strip_prefix('-').unwrap_or(digits);
    let good = !unsigned.is_empty()
        && unsigned.len() <= 20
        && unsigned.bytes().all(|byte| byte.is_ascii_digit());
    good.then(|| out.extend_from_slice(digits.as_bytes()))
}

fn write_decimal(out: &mut Vec<u8>, json: &str, scale: u8) -> Result<(), Refused> {
    let text = unquote(json).unwrap_or(json);
    let (before, behind) = number::digits(text).ok_or(Refused::Malformed)?;
    if before > 65 || behind > 65 {
        return Err(Refused::Malformed);
    }
    // The server rounds without a word.
    let zeros = text.bytes().rev().take_while(|byte| *byte == b'0').count().min(behind);
    if behind - zeros > usize::from(scale) {
        return Err(Refused::Inexact("a number with more digits behind the point"));
    }
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// A FLOAT column is compared as the double of its 32 bits, so that is what is written for it.
fn write_float(out: &mut Vec<u8>, json: &str) -> Result<(), Refused> {
    let value: f32 = json.parse().map_err(|_| Refused::Malformed)?;
    if !value.is_finite() {
        return Err(Refused::Malformed);
    }
    if !number::same(json, ryu::Buffer::new().format_finite(value)) {
        return Err(Refused::Inexact("a number with more digits than FLOAT keeps"));
    }
    put_double(out, f64::from(value));
    Ok(())
}

fn write_double(out: &mut Vec<u8>, json: &str) -> Result<(), Refused> {
    let value: f64 = json.parse().map_err(|_| Refused::Malformed)?;
    if !value.is_finite() {
        return Err(Refused::Malformed);
    }
    if !number::same(json, ryu::Buffer::new().format_finite(value)) {
        return Err(Refused::Inexact("a number with more digits than DOUBLE keeps"));
    }
    put_double(out, value);
    Ok(())
}

/// With an exponent, so that it is a DOUBLE and not a DECIMAL to the server.
fn put_double(out: &mut Vec<u8>, value: f64) {
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(value);
    out.extend_from_slice(text.as_bytes());
    if !text.contains('e') {
        out.extend_from_slice(b"e0");
    }
}

fn write_bits(out: &mut Vec<u8>, json: &str) -> Option<()> {
    let mut wide = [0; 8];
    match json {
        "true" => wide[0] = 1,
        "false" => {}
        _ => {
            // Eight bytes in base64 are twelve characters.
            let text = unquote(json).filter(|text| text.len() <= 12)?;
            let mut raw = [0; 9];
            let count = STANDARD.decode_slice(text, &mut raw).ok()?;
            wide.get_mut(..count)?.copy_from_slice(&raw[..count]);
        }
    }
    write_integer(out, u64::from_le_bytes(wide));
    Some(())
}

fn write_time(out: &mut Vec<u8>, json: &str, moment: bool, fraction: u8) -> Result<(), Refused> {
    let text = unquote(json).ok_or(Refused::Malformed)?;
    let text = text.strip_suffix('Z').unwrap_or(text);
    if text.is_empty() || text.len() > 32 {
        return Err(Refused::Malformed);
    }
    // The server rounds without a word.
    let behind = text.split_once('.').map_or("", |(_, behind)| behind).trim_end_matches('0');
    if behind.len() > usize::from(fraction) {
        return Err(Refused::Inexact("a time with more digits behind the second"));
    }
    out.push(b'\'');
    for byte in text.bytes() {
        out.push(match byte {
            b'0'..=b'9' | b'-' | b':' | b'.' => byte,
            b'T' if moment => b' ',
            _ => return Err(Refused::Malformed),
        });
    }
    out.push(b'\'');
    Ok(())
}

/// MariaDB takes several spellings of an address and keeps one.
fn write_address(out: &mut Vec<u8>, kind: &Type, json: &str) -> Result<(), Refused> {
    let text = unquote(json).filter(|text| text.len() <= 48).ok_or(Refused::Malformed)?;
    let spelled = match kind {
        Type::Inet4 => text.parse().ok().map(|address: Ipv4Addr| address.to_string()),
        Type::Inet6 => text.parse().ok().map(|address: Ipv6Addr| inet6_text(address.octets())),
        _ => is_uuid(text).then(|| text.to_ascii_lowercase()),
    };
    match spelled {
        Some(spelled) if spelled == text => {
            out.push(b'\'');
            out.extend_from_slice(text.as_bytes());
            out.push(b'\'');
            Ok(())
        }
        Some(_) => Err(Refused::Inexact("an address in another spelling than MariaDB's own")),
        None => Err(Refused::Malformed),
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, byte)| match i {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A JSON string as an SQL string.
fn write_text(out: &mut Vec<u8>, json: &str) -> Option<()> {
    out.push(b'\'');
    unescaped(json, |part| write_escaped(out, part.as_bytes()))?;
    out.push(b'\'');
    Some(())
}

/// The text of a JSON string, part by part; `None` where it is no JSON string.
pub(crate) fn unescaped(json: &str, mut take: impl FnMut(&str)) -> Option<()> {
    let mut rest = json.strip_prefix('"')?.strip_suffix('"')?;
    // A quote inside would have to be escaped: what is not is no JSON string.
    while let Some(at) = rest.bytes().position(|byte| matches!(byte, b'\\' | b'"')) {
        let (clean, escaped) = rest.split_at(at);
        take(clean);
        let (character, length) = unescape(escaped)?;
        take(character.encode_utf8(&mut [0; 4]));
        rest = escaped.get(length..)?;
    }
    take(rest);
    Some(())
}

/// The character of an escape at the text's start, and the escape's length.
fn unescape(text: &str) -> Option<(char, usize)> {
    if !text.starts_with('\\') {
        return None;
    }
    let simple = match text.as_bytes().get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = |at: usize| {
                let digits = text.get(at..at + 4)?;
                digits
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit())
                    .then(|| u32::from_str_radix(digits, 16).ok())?
            };
            let first = unit(2)?;
            if !(0xd800..0xdc00).contains(&first) {
                return Some((char::from_u32(first)?, 6));
            }
            let second = text.get(6..8).filter(|start| *start == "\\u").and_then(|_| unit(8))?;
            let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
            return Some((char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + low)?, 12));
        }
        _ => return None,
    };
    Some((simple, 2))
}

/// Bytes, or a vector as the bytes of its numbers; `length` where the server would fill them up.
fn write_bytes(out: &mut Vec<u8>, json: &str, length: Option<u32>) -> Result<(), Refused> {
    let count = if json.starts_with('[') {
        sound(write_vector(out, json))?;
        4 * json.split(',').count()
    } else {
        let text = unquote(json).ok_or(Refused::Malformed)?;
        sound(write_binary(out, text))?;
        text.trim_end_matches('=').len() * 3 / 4
    };
    if length.is_some_and(|length| count as u64 != u64::from(length)) {
        return Err(Refused::Inexact("bytes of another length than the column's"));
    }
    Ok(())
}

/// Base64 as `X'…'`, or where that would double much as `_binary'…'`.
fn write_binary(out: &mut Vec<u8>, text: &str) -> Option<()> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if text.len() > HEX_TEXT_MAX {
        out.reserve(text.len());
        out.extend_from_slice(b"_binary'");
        decoded(text, |bytes| write_escaped(out, bytes))?;
    } else {
        out.extend_from_slice(b"X'");
        decoded(text, |bytes| {
            for byte in bytes {
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        })?;
    }
    out.push(b'\'');
    Some(())
}

/// The bytes of base64, part by part, so that a large value is not held twice.
pub(crate) fn decoded(text: &str, mut take: impl FnMut(&[u8])) -> Option<()> {
    let mut raw = [0; 768];
    // Whole groups of four characters at a time.
    for piece in text.as_bytes().chunks(1024) {
        let count = STANDARD.decode_slice(piece, &mut raw).ok()?;
        take(&raw[..count]);
    }
    Some(())
}

/// `{"wkb":"…","srid":4326}`, the fields in this order.
fn write_geometry(out: &mut Vec<u8>, json: &str, axes: bool) -> Option<()> {
    let rest = json.strip_prefix("{\"wkb\":\"")?;
    let (wkb, rest) = rest.split_once('"')?;
    let srid = rest.strip_prefix(",\"srid\":")?.strip_suffix('}')?;
    out.extend_from_slice(b"ST_GeomFromWKB(");
    write_binary(out, wkb)?;
    if srid != "null" {
        out.push(b',');
        write_integer(out, srid.parse::<u32>().ok()?);
        if axes {
            // The bytes are as they are stored, whatever the reference system says.
            out.extend_from_slice(b",'axis-order=long-lat'");
        }
    }
    out.push(b')');
    Some(())
}

fn write_vector(out: &mut Vec<u8>, json: &str) -> Option<()> {
    let inside = json.strip_prefix('[')?.strip_suffix(']')?;
    out.extend_from_slice(b"X'");
    for number in inside.split(',') {
        let number: f32 = number.trim().parse().ok().filter(|number: &f32| number.is_finite())?;
        for byte in number.to_le_bytes() {
            out.extend_from_slice(format!("{byte:02X}").as_bytes());
        }
    }
    out.push(b'\'');
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(kind: Type) -> Column {
        Column {
            name: "c".into(),
            kind,
            nullable: true,
            generated: None,
            invisible: false,
            counted: false,
            required: false,
            length: 0,
            bytes: 0,
        }
    }

    fn text() -> Type {
        Type::Text {
            charset: "utf8mb4".into(),
            collation: "utf8mb4_bin".into(),
            fixed: false,
            json: false,
        }
    }

    fn literal(kind: Type, json: &str) -> Option<String> {
        let mut out = b"x".to_vec();
        match write_literal(&mut out, &column(kind), json) {
            Ok(()) => Some(String::from_utf8(out).unwrap()[1..].to_owned()),
            Err(fault) => {
                assert_eq!(out, b"x", "nothing may be left of {fault}");
                None
            }
        }
    }

    #[test]
    fn literals_of_each_type() {
        for (kind, json, expected) in [
            (text(), "null", "NULL"),
            (
                text(),
                r#""a'b\"c\\d\n\u0000\u001a\u00e9\ud83d\ude00é""#,
                "'a\\'b\\\"c\\\\d\\n\\0\\Zé😀é'",
            ),
            (
                Type::Integer { bits: 64, unsigned: true },
                "18446744073709551615",
                "18446744073709551615",
            ),
            (Type::Integer { bits: 8, unsigned: false }, "true", "1"),
            (Type::Decimal { precision: 9, scale: 2 }, "\"-0.10\"", "-0.10"),
            (Type::Float, "0.1", "0.10000000149011612e0"),
            (Type::Double, "0.1", "0.1e0"),
            (Type::Double, "1e300", "1e300"),
            (Type::Bit(1), "true", "1"),
            (Type::Bit(17), "\"AQEB\"", "65793"),
            (Type::Bit(64), "\"//////////8=\"", "18446744073709551615"),
            (Type::Date, "\"0000-00-00Z\"", "'0000-00-00'"),
            (Type::Time(6), "\"-838:59:58.999999Z\"", "'-838:59:58.999999'"),
            (Type::Datetime(3), "\"2026-01-02T03:04:05.678Z\"", "'2026-01-02 03:04:05.678'"),
            (Type::Blob(9), "\"AP8=\"", "X'00FF'"),
            (Type::Blob(9), "\"\"", "X''"),
            (
                Type::Geometry { axes: true },
                r#"{"wkb":"AA==","srid":4326}"#,
                "ST_GeomFromWKB(X'00',4326,'axis-order=long-lat')",
            ),
            (
                Type::Geometry { axes: false },
                r#"{"wkb":"AA==","srid":null}"#,
                "ST_GeomFromWKB(X'00')",
            ),
            (Type::Vector, "[1.0,-2.5]", "X'0000803F000020C0'"),
            (
                Type::Uuid,
                "\"123e4567-e89b-12d3-a456-426614174000\"",
                "'123e4567-e89b-12d3-a456-426614174000'",
            ),
        ] {
            assert_eq!(literal(kind, json).as_deref(), Some(expected), "{json}");
        }
    }

    #[test]
    fn large_binary_values_are_escaped_and_not_doubled() {
        let all: Vec<u8> = (0..=u8::MAX).cycle().take(10_000).collect();
        let written = {
            let mut out = Vec::new();
            let json = format!("\"{}\"", STANDARD.encode(&all));
            write_literal(&mut out, &column(Type::Blob(1 << 20)), &json).unwrap();
            out
        };
        assert!(written.len() < all.len() * 21 / 20, "{} bytes", written.len());
        let inside = written.strip_prefix(b"_binary'").unwrap().strip_suffix(b"'").unwrap();
        let mut back = Vec::new();
        let mut bytes = inside.iter();
        while let Some(&byte) = bytes.next() {
            assert_ne!(byte, b'\'', "a quote ends the literal");
            back.push(match (byte, bytes.as_slice().first()) {
                (b'\\', Some(&escape)) => {
                    bytes.next();
                    match escape {
                        b'0' => 0,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b'Z' => 0x1a,
                        other => other,
                    }
                }
                (byte, _) => byte,
            });
        }
        assert!(back == all);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (kind, json) in [
            (Type::Integer { bits: 64, unsigned: false }, "1;drop"),
            (Type::Integer { bits: 64, unsigned: false }, "1.5"),
            (Type::Integer { bits: 64, unsigned: false }, "\"1\""),
            (Type::Integer { bits: 64, unsigned: false }, "-"),
            (Type::Decimal { precision: 9, scale: 2 }, "\"1'\""),
            (Type::Decimal { precision: 9, scale: 2 }, "\"1e5\""),
            (Type::Decimal { precision: 9, scale: 2 }, "\"\""),
            (Type::Float, "nan"),
            (Type::Double, "1e999"),
            (Type::Double, "inf"),
            (Type::Date, "\"2026-01-02' or '\""),
            (Type::Date, "\"\""),
            (text(), "1"),
            (text(), r#""\ud800""#),
            (text(), r#""a"b""#),
            (text(), r#""\x""#),
            (text(), r#""\""#),
            (Type::Blob(9), "\"A\""),
            (Type::Blob(9), "\"A'==\""),
            (Type::Geometry { axes: true }, r#"{"wkb":"AA==","srid":1,2}"#),
            (Type::Uuid, "\"x'\""),
            (Type::Other("xml".into()), "1"),
            (Type::Bit(64), "\"/////////////////w==\""),
        ] {
            assert_eq!(literal(kind, json), None, "{json}");
        }
    }

    #[test]
    fn names_are_quoted() {
        let mut out = Vec::new();
        quote_identifier(&mut out, "a`b'\"\\😀");
        assert_eq!(String::from_utf8(out).unwrap(), "`a``b'\"\\😀`");
    }

    /// Reads a string literal as the server does.
    fn read_back(literal: &str) -> Option<String> {
        let mut text = String::new();
        let mut characters = literal.strip_prefix('\'')?.strip_suffix('\'')?.chars();
        while let Some(character) = characters.next() {
            match character {
                '\'' => return None,
                '\\' => text.push(match characters.next()? {
                    '0' => '\0',
                    'n' => '\n',
                    'r' => '\r',
                    'Z' => '\u{1a}',
                    other => other,
                }),
                other => text.push(other),
            }
        }
        Some(text)
    }

    proptest! {
        #[test]
        fn any_text_reads_back(value in any::<String>()) {
            let json = serde_json::to_string(&value).unwrap();
            let written = literal(text(), &json).unwrap();
            prop_assert_eq!(read_back(&written), Some(value));
        }

        #[test]
        fn no_text_leaves_its_quotes(json in "\"[a'\"\\\\nu0dc8Z/é]{0,20}\"") {
            if let Some(written) = literal(text(), &json) {
                prop_assert!(read_back(&written).is_some(), "{}", written);
            }
        }

        #[test]
        fn nothing_panics(json in any::<String>()) {
            for kind in [text(), Type::Bit(9), Type::Blob(9), Type::Geometry { axes: true }, Type::Vector, Type::Float,
                Type::Date, Type::Datetime(6), Type::Decimal { precision: 9, scale: 2 }, Type::Uuid] {
                let _ = literal(kind, &json);
            }
        }
    }
}
