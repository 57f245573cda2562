//! Values of two columns, so that equal ones have the same bytes.
//!
//! Two units may hold one value in columns of different types: `1` and `1.00`, a document as MySQL
//! prints it and as somebody wrote it into MariaDB. What is equal is what the sinks take for equal when
//! they compare a row with its image before a change.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use unitflow_mysql::schema::Type;

/// How deep documents nest; MySQL's own limit.
const DEPTH_MAX: usize = 100;

/// How the values of two columns are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// By the envelope's text.
    Exact,
    /// As decimals.
    Number,
    /// As points in time or spans, whatever the digits behind the second.
    Moment,
    /// As bytes: vectors may be kept as such.
    Bytes,
    /// As JSON documents.
    Document,
}

impl Family {
    pub fn of(one: &Type, other: &Type) -> Self {
        let both = |is: fn(&Type) -> bool| is(one) && is(other);
        let either = |is: fn(&Type) -> bool| is(one) || is(other);
        match () {
            () if both(is_number) => Self::Number,
            () if both(is_moment) => Self::Moment,
            () if either(is_document) => Self::Document,
            () if either(|kind| *kind == Type::Vector) => Self::Bytes,
            () => Self::Exact,
        }
    }
}

pub(crate) fn is_number(kind: &Type) -> bool {
    matches!(
        kind,
        Type::Integer { .. }
            | Type::Decimal { .. }
            | Type::Float
            | Type::Double
            | Type::Year
            | Type::Bit(_)
    )
}

pub(crate) fn is_moment(kind: &Type) -> bool {
    matches!(kind, Type::Date | Type::Time(_) | Type::Datetime(_) | Type::Timestamp(_))
}

fn is_document(kind: &Type) -> bool {
    matches!(kind, Type::Json | Type::Text { json: true, .. })
}

/// Appends the value, whose raw text in the envelope is `json`. What is no value of its type stays
/// as it is, and so differs from all others.
pub(crate) fn write(out: &mut Vec<u8>, family: Family, kind: &Type, json: &str) {
    let start = out.len();
    let written = match family {
        _ if json == "null" => None,
        Family::Exact => None,
        Family::Number => write_number(out, kind, json),
        Family::Moment => write_moment(out, json),
        Family::Bytes => write_bytes(out, json),
        Family::Document => write_text(out, json, *kind == Type::Json),
    };
    if written.is_none() {
        out.truncate(start);
        out.extend_from_slice(json.as_bytes());
    }
}

fn unquote(json: &str) -> Option<&str> {
    json.strip_prefix('"')?.strip_suffix('"')
}

fn write_number(out: &mut Vec<u8>, kind: &Type, json: &str) -> Option<()> {
    let text = match (json, kind) {
        ("true", _) => "1",
        ("false", _) => "0",
        (_, Type::Bit(_)) => {
            let mut wide = [0; 8];
            let bytes = STANDARD.decode(unquote(json)?).ok()?;
            wide.get_mut(..bytes.len())?.copy_from_slice(&bytes);
            return write_decimal(out, &u64::from_le_bytes(wide).to_string());
        }
        _ => unquote(json).unwrap_or(json),
    };
    write_decimal(out, text)
}

/// All digits from the first that is not zero to the last, and the power of ten of the last.
/// A negative zero is another number than zero.
fn write_decimal(out: &mut Vec<u8>, text: &str) -> Option<()> {
    let (sign, number) = text.strip_prefix('-').map_or(("", text), |number| ("-", number));
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i64 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if whole.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let bare = digits.trim_end_matches('0');
    let zeros = (digits.len() - bare.len()) as i64;
    let bare = bare.trim_start_matches('0');
    let power = match bare.is_empty() {
        true => 0,
        false => exponent.checked_sub(fraction.len() as i64)?.checked_add(zeros)?,
    };
    out.extend_from_slice(format!("{sign}{bare}e{power}").as_bytes());
    Some(())
}

/// Without `Z` and zeros at the end; a date alone is its midnight.
fn write_moment(out: &mut Vec<u8>, json: &str) -> Option<()> {
    let text = unquote(json)?;
    let text = text.strip_suffix('Z').unwrap_or(text);
    let is_date = text.len() == 10 && text.as_bytes()[4] == b'-';
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    out.extend_from_slice(whole.as_bytes());
    out.extend_from_slice(if is_date { b"T00:00:00." } else { b"." });
    out.extend_from_slice(fraction.trim_end_matches('0').as_bytes());
    Some(())
}

fn write_bytes(out: &mut Vec<u8>, json: &str) -> Option<()> {
    if let Some(inside) = json.strip_prefix('[').and_then(|json| json.strip_suffix(']')) {
        for number in inside.split(',').filter(|number| !number.is_empty()) {
            out.extend_from_slice(&number.trim().parse::<f32>().ok()?.to_le_bytes());
        }
        return Some(());
    }
    out.extend_from_slice(&STANDARD.decode(unquote(json)?).ok()?);
    Some(())
}

/// A document inside a JSON string; `typed` where it may hold values of SQL types.
fn write_text(out: &mut Vec<u8>, json: &str, typed: bool) -> Option<()> {
    let text: String = serde_json::from_str(json).ok()?;
    write_document(out, serde_json::from_str(&text).ok()?, typed, 0)
}

/// Members by their names; the last of two with one name counts, as in MySQL. A string that stands
/// for a value of an SQL type, its first character escaped without need, is no other string.
fn write_document(out: &mut Vec<u8>, document: &RawValue, typed: bool, depth: usize) -> Option<()> {
    let text = document.get();
    if depth > DEPTH_MAX {
        return None;
    }
    match text.as_bytes().first()? {
        b'{' => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
            for (place, (name, value)) in members.into_iter().enumerate() {
                out.push(if place == 0 { b'{' } else { b',' });
                serde_json::to_writer(&mut *out, &name).ok()?;
                out.push(b':');
                write_document(out, value, typed, depth + 1)?;
            }
            out.push(b'}');
        }
        b'[' => {
            let cells: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            out.push(b'[');
            for cell in cells {
                write_document(out, cell, typed, depth + 1)?;
                out.push(b',');
            }
            out.push(b']');
        }
        b'"' => {
            let string: String = serde_json::from_str(text).ok()?;
            let plain = |c: char| (' '..='~').contains(&c) && !matches!(c, '"' | '\\');
            let is_typed = typed && text.starts_with("\"\\u00") && string.starts_with(plain);
            out.extend_from_slice(if is_typed { b"\\" } else { b"" });
            serde_json::to_writer(&mut *out, &string).ok()?;
        }
        b'-' | b'0'..=b'9' => write_decimal(out, text)?,
        _ => out.extend_from_slice(text.as_bytes()),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INT: Type = Type::Integer { bits: 32, unsigned: false };
    const DECIMAL: Type = Type::Decimal { precision: 20, scale: 4 };

    fn json(fixed: bool) -> Type {
        match fixed {
            true => Type::Json,
            false => Type::Text {
                charset: "utf8mb4".into(),
                collation: "utf8mb4_bin".into(),
                fixed: false,
                json: true,
            },
        }
    }

    fn same((one, a): (&Type, &str), (other, b): (&Type, &str)) -> bool {
        let family = Family::of(one, other);
        let canonical = |kind, json| {
            let mut out = Vec::new();
            write(&mut out, family, kind, json);
            out
        };
        canonical(one, a) == canonical(other, b)
    }

    #[test]
    fn equal_values_of_other_types_are_the_same() {
        let (date, datetime) = (Type::Date, Type::Datetime(0));
        let (mysql, mariadb) = (json(true), json(false));
        for (one, a, other, b) in [
            (&INT, "100", &DECIMAL, "\"100.0000\""),
            (&INT, "0", &DECIMAL, "\"0.0000\""),
            (&INT, "-120", &Type::Double, "-120.0"),
            (&DECIMAL, "\"0.0012\"", &Type::Double, "1.2e-3"),
            (&Type::Bit(1), "true", &Type::Bit(9), "\"AQA=\""),
            (&Type::Bit(17), "\"AQEB\"", &INT, "65793"),
            (
                &Type::Timestamp(3),
                "\"2026-01-02T03:04:05.100Z\"",
                &datetime,
                "\"2026-01-02T03:04:05.1Z\"",
            ),
            (
                &Type::Timestamp(3),
                "\"2026-01-02T03:04:05.000Z\"",
                &datetime,
                "\"2026-01-02T03:04:05Z\"",
            ),
            (&date, "\"2026-01-02Z\"", &datetime, "\"2026-01-02T00:00:00Z\""),
            (&Type::Vector, "[1.0,-2.5]", &Type::Blob(8), "\"AACAPwAAIMA=\""),
            (&mysql, r#""[\"A\"]""#, &mariadb, r#""[\"\\u0041\"]""#),
            (
                &mysql,
                r#""{\"a\": 1.0, \"b\": [\"é\", {}]}""#,
                &mariadb,
                r#""{\"b\" :[\"\\u00e9\",{ }],\"a\":10e-1}""#,
            ),
        ] {
            assert!(same((one, a), (other, b)), "{a} {b}");
            assert!(same((other, b), (one, a)), "{a} {b}");
            assert!(!same((one, a), (other, "null")), "{a}");
        }
    }

    #[test]
    fn other_values_are_not() {
        let time = Type::Time(0);
        let mysql = json(true);
        for (kind, a, b) in [
            (&INT, "10", "100"),
            (&INT, "1", "-1"),
            (&Type::Double, "0.0", "-0.0"),
            (&DECIMAL, "\"0.0010\"", "\"0.0100\""),
            (&time, "\"-838:59:59Z\"", "\"838:59:59Z\""),
            (&Type::Datetime(6), "\"2026-01-02T03:04:05.01Z\"", "\"2026-01-02T03:04:05.1Z\""),
            (&mysql, r#""[\"\\u0032026-01-02\"]""#, r#""[\"2026-01-02\"]""#),
            (&mysql, r#""[1, 2]""#, r#""[2, 1]""#),
            (&mysql, r#""[12]""#, r#""[1, 2]""#),
            (&mysql, r#""{\"a\": null}""#, r#""{}""#),
            (&mysql, r#""\"null\"""#, r#""null""#),
            (&mysql, r#""{}""#, r#""[]""#),
            (&Type::Vector, "[1.0]", "[1.0,0.0]"),
        ] {
            assert!(!same((kind, a), (kind, b)), "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            for family in [Family::Number, Family::Moment, Family::Bytes, Family::Document] {
                write(&mut Vec::new(), family, &Type::Bit(9), &text);
                write(&mut Vec::new(), family, &INT, &format!("\"{text}\""));
            }
        }

        #[test]
        fn integers_are_the_same_whatever_their_zeros(number in any::<i64>(), zeros in 0_usize..9) {
            let decimal = format!("\"{number}.{}\"", "0".repeat(zeros + 1));
            prop_assert!(same((&INT, &number.to_string()), (&DECIMAL, &decimal)));
        }
    }
}
