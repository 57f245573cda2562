//! From the envelope's JSON to SQL: the one place where values become text of a statement.
//!
//! Everything from outside is either a number, which is checked to be one, or stands in quotes,
//! where every byte with a meaning to the server is escaped. Sessions never have
//! `NO_BACKSLASH_ESCAPES`. Strings pass as utf8mb4, so no byte of a character can be taken for a
//! quote.

use std::borrow::Cow;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use unitflow_change::fault::{Code, Fault};

use crate::schema::{Column, Type};

/// A name in backticks, those inside doubled.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Appends the literal that stores `json`, a value as the envelope writes it, in `column`.
pub fn write_literal(sql: &mut Vec<u8>, column: &Column, json: &str) -> Result<(), Fault> {
    if json == "null" {
        sql.extend_from_slice(b"NULL");
        return Ok(());
    }
    match &column.kind {
        Type::Integer => write_number(sql, column, json),
        Type::Decimal => write_number(sql, column, &text(column, json)?),
        Type::Float => {
            // The exact value of the four bytes, so that it also compares equal.
            let value: f32 = json.parse().map_err(|_| unfit(column, "a number"))?;
            let _ = write!(sql, "{:e}", f64::from(value));
            Ok(())
        }
        Type::Double => {
            let value: f64 = json.parse().map_err(|_| unfit(column, "a number"))?;
            let _ = write!(sql, "{value:e}");
            Ok(())
        }
        Type::Bit => write_bits(sql, column, json),
        Type::Temporal => write_temporal(sql, column, json),
        Type::Text { .. } | Type::Choice | Type::Json | Type::JsonText { .. } | Type::Address => {
            write_string(sql, &text(column, json)?);
            Ok(())
        }
        Type::Binary => {
            write_hex(sql, &bytes(column, &text(column, json)?)?);
            Ok(())
        }
        Type::Geometry { axis_order } => write_geometry(sql, column, json, *axis_order),
        Type::Vector { from_text } => {
            if json.bytes().any(|b| !(b.is_ascii_digit() || b"[],.+-eE ".contains(&b))) {
                return Err(unfit(column, "a list of numbers"));
            }
            let _ = write!(sql, "{from_text}('{json}')");
            Ok(())
        }
        Type::Unknown => Err(Fault::fatal(
            Code::Table,
            format!("column {:?} has the type {}, which this build does not know", column.name, column.sql_type),
        )
        .hint("exclude the table from the flow")),
    }
}

/// Appends a condition that holds if and only if the column's value is exactly `json`.
/// `quoted` is the column's quoted name.
pub fn write_comparison(
    sql: &mut Vec<u8>,
    column: &Column,
    quoted: &str,
    json: &str,
) -> Result<(), Fault> {
    if json == "null" {
        sql.extend_from_slice(quoted.as_bytes());
        sql.extend_from_slice(b" IS NULL");
        return Ok(());
    }
    if let Type::JsonText { comparable } = column.kind {
        if !comparable {
            // The same document has many texts, and this server can't tell.
            sql.extend_from_slice(quoted.as_bytes());
            sql.extend_from_slice(b" IS NOT NULL");
            return Ok(());
        }
        let _ = write!(sql, "JSON_EQUALS({quoted},");
        write_literal(sql, column, json)?;
        sql.push(b')');
        return Ok(());
    }
    sql.extend_from_slice(quoted.as_bytes());
    sql.extend_from_slice(if column.kind == Type::Json { b"=CAST(" } else { b"=" });
    write_literal(sql, column, json)?;
    match column.kind {
        Type::Json => sql.extend_from_slice(b" AS JSON)"),
        Type::Text { exact } => {
            let _ = write!(sql, " COLLATE {exact}");
        }
        _ => {}
    }
    Ok(())
}

/// The text of a JSON string, borrowed where it has no escapes.
fn text<'a>(column: &Column, json: &'a str) -> Result<Cow<'a, str>, Fault> {
    let inside = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inside {
        Some(inside) if !inside.contains('\\') => Ok(Cow::Borrowed(inside)),
        Some(_) => serde_json::from_str(json).map(Cow::Owned).map_err(|_| unfit(column, "a string")),
        None => Err(unfit(column, "a string")),
    }
}

fn bytes(column: &Column, base64: &str) -> Result<Vec<u8>, Fault> {
    BASE64.decode(base64).map_err(|_| unfit(column, "base64"))
}

fn write_number(sql: &mut Vec<u8>, column: &Column, number: &str) -> Result<(), Fault> {
    let number = match number {
        "true" => "1",
        "false" => "0",
        number => number,
    };
    let digits = number.strip_prefix('-').unwrap_or(number);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if !plain {
        return Err(unfit(column, "a number"));
    }
    sql.extend_from_slice(number.as_bytes());
    Ok(())
}

/// One bit is a boolean; more are bytes in base64, the lowest first.
fn write_bits(sql: &mut Vec<u8>, column: &Column, json: &str) -> Result<(), Fault> {
    let number = match json {
        "true" => 1,
        "false" => 0,
        json => {
            let low_first = bytes(column, &text(column, json)?)?;
            if low_first.len() > 8 {
                return Err(unfit(column, "at most 64 bits"));
            }
            low_first.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        }
    };
    let _ = write!(sql, "{number}");
    Ok(())
}

/// `2026-01-02T03:04:05.5Z` becomes `'2026-01-02 03:04:05.5'`.
fn write_temporal(sql: &mut Vec<u8>, column: &Column, json: &str) -> Result<(), Fault> {
    let text = text(column, json)?;
    let text = text.strip_suffix('Z').unwrap_or(&text);
    if text.bytes().any(|b| !(b.is_ascii_digit() || b"-:.T ".contains(&b))) {
        return Err(unfit(column, "a date or time"));
    }
    sql.push(b'\'');
    sql.extend(text.bytes().map(|b| if b == b'T' { b' ' } else { b }));
    sql.push(b'\'');
    Ok(())
}

fn write_geometry(sql: &mut Vec<u8>, column: &Column, json: &str, axis_order: bool) -> Result<(), Fault> {
    #[derive(serde::Deserialize)]
    struct Geometry<'a> {
        #[serde(borrow)]
        wkb: Cow<'a, str>,
        srid: Option<u32>,
    }
    let geometry: Geometry<'_> = serde_json::from_str(json).map_err(|_| unfit(column, "a geometry"))?;
    sql.extend_from_slice(b"ST_GeomFromWKB(");
    write_hex(sql, &bytes(column, &geometry.wkb)?);
    let _ = write!(sql, ",{}", geometry.srid.unwrap_or(0));
    sql.extend_from_slice(if axis_order { b",'axis-order=long-lat')" } else { b")" });
    Ok(())
}

fn write_hex(sql: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    sql.extend_from_slice(b"X'");
    for byte in bytes {
        sql.push(DIGITS[usize::from(byte >> 4)]);
        sql.push(DIGITS[usize::from(byte & 15)]);
    }
    sql.push(b'\'');
}

/// The characters that MySQL's manual lists for string literals ("Special Character Escape
/// Sequences"); all others stand for themselves.
fn write_string(sql: &mut Vec<u8>, text: &str) {
    sql.push(b'\'');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            0 => b'0',
            b'\n' => b'n',
            b'\r' => b'r',
            0x1a => b'Z',
            b'\'' | b'"' | b'\\' => byte,
            _ => continue,
        };
        sql.extend_from_slice(&text.as_bytes()[plain..at]);
        sql.extend_from_slice(&[b'\\', escape]);
        plain = at + 1;
    }
    sql.extend_from_slice(&text.as_bytes()[plain..]);
    sql.push(b'\'');
}

fn unfit(column: &Column, expected: &str) -> Fault {
    Fault::poison(
        Code::Record,
        format!("a value for column {:?} ({}) is not {expected}", column.name, column.sql_type),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(kind: Type) -> Column {
        Column { name: "c".into(), kind, sql_type: "x".into(), nullable: true, generated: false }
    }

    fn literal(kind: Type, json: &str) -> Result<String, Fault> {
        let mut sql = Vec::new();
        write_literal(&mut sql, &column(kind), json)?;
        Ok(String::from_utf8(sql).unwrap())
    }

    #[test]
    fn each_kind_of_value_has_its_literal() {
        let text = Type::Text { exact: "utf8mb4_0900_bin" };
        for (kind, json, expected) in [
            (Type::Integer, "18446744073709551615", "18446744073709551615"),
            (Type::Integer, "null", "NULL"),
            (Type::Decimal, r#""-12345678901234567890.0100""#, "-12345678901234567890.0100"),
            (Type::Float, "0.1", "1.0000000149011612e-1"),
            (Type::Double, "0.1", "1e-1"),
            (Type::Bit, "true", "1"),
            (Type::Bit, r#""AQI=""#, "513"),
            (Type::Temporal, r#""2026-01-02T03:04:05.50Z""#, "'2026-01-02 03:04:05.50'"),
            (Type::Temporal, r#""-838:59:59Z""#, "'-838:59:59'"),
            (text.clone(), r#""plain""#, "'plain'"),
            (text, r#""it's \"\\\n\u0000\u001a😀""#, "'it\\'s \\\"\\\\\\n\\0\\Z😀'"),
            (Type::Binary, r#""AP8=""#, "X'00FF'"),
            (Type::Vector { from_text: "STRING_TO_VECTOR" }, "[1.5,-2e-3]", "STRING_TO_VECTOR('[1.5,-2e-3]')"),
        ] {
            assert_eq!(literal(kind, json).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn what_is_not_of_the_columns_kind_is_refused() {
        for (kind, json) in [
            (Type::Integer, "1); DROP TABLE t"),
            (Type::Integer, r#""1""#),
            (Type::Decimal, r#""1 OR 1""#),
            (Type::Temporal, r#""2026' OR '1""#),
            (Type::Double, "[1]"),
            (Type::Vector { from_text: "f" }, "['x']"),
            (Type::Bit, r#""AAAAAAAAAAAA""#),
            (Type::Unknown, "1"),
        ] {
            assert!(literal(kind, json).is_err(), "{json}");
        }
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quote_identifier("a`; DROP TABLE `b"), "`a``; DROP TABLE ``b`");
    }
}
