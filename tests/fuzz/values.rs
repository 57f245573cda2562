//! Single values: what the log holds inside rows, and what the envelope holds on its way into SQL.

use std::sync::LazyLock;

use unitflow_harness::random::Random;
use unitflow_mysql::equality::write_equality;
use unitflow_mysql::fuzz as decoders;
use unitflow_mysql::literal::write_literal;
use unitflow_mysql::schema::{Column, Type};

use crate::{binlog, damage, fuzz, hex};

/// TABLE_MAP and WRITE_ROWS.
const TABLE: u8 = 19;
const INSERT: u8 = 30;
/// Header, table number, flags, extra data, number of columns, which of them are there.
const ROWS_AT: usize = 19 + 6 + 2 + 2 + 1 + 1;
/// Which are NULL, the key, the document's length.
const BEFORE_DOCUMENT: usize = 1 + 4 + 4;

/// The documents that MySQL's log has of the table `documents`: a number, and a document.
static DOCUMENTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut documents = Vec::new();
    let mut is_table = false;
    for event in binlog::corpus(binlog::MYSQL) {
        if event[4] == TABLE {
            is_table = event.windows(9).any(|name| name == b"documents");
        }
        let (head, mut rows) = event.split_at(ROWS_AT.min(event.len()));
        if head[4] != INSERT || !is_table {
            continue;
        }
        while let Some(size) = rows.get(5..9).and_then(|size| size.first_chunk()) {
            let end = BEFORE_DOCUMENT + u32::from_le_bytes(*size) as usize;
            documents.push(rows[BEFORE_DOCUMENT..end].to_vec());
            rows = &rows[end..];
        }
    }
    assert!(documents.len() > 10, "{} documents", documents.len());
    documents
});

#[test]
fn documents() {
    for document in DOCUMENTS.iter() {
        let text = decoders::document(document).unwrap();
        serde_json::from_slice::<&serde_json::value::RawValue>(&text).unwrap();
    }
    fuzz(
        "binary JSON",
        |random| {
            let mut document = DOCUMENTS[random.place(DOCUMENTS.len())].clone();
            let other = &DOCUMENTS[random.place(DOCUMENTS.len())];
            damage::bytes(random, &mut document, &[other]);
            document
        },
        // What is written is always JSON.
        |document| {
            if let Ok(text) = decoders::document(document) {
                let read = serde_json::from_slice::<&serde_json::value::RawValue>(&text);
                assert!(read.is_ok(), "{}", String::from_utf8_lossy(&text));
            }
        },
        |document| hex(document),
    );
}

/// A DECIMAL's shape and bytes.
#[derive(Debug)]
struct Stored(u8, u8, Vec<u8>);

#[test]
fn decimals() {
    fuzz(
        "DECIMAL",
        |random| {
            let mut below = |end| u8::try_from(random.below(end)).unwrap_or(0);
            let (precision, scale) = (below(70), below(34));
            let length = random.place(40);
            // Groups of nine digits are numbers below a thousand millions, in the order of high
            // bytes first; now and then they are not.
            let mut bytes = Vec::new();
            while bytes.len() < length {
                let most = if random.below(8) == 0 { u64::from(u32::MAX) } else { 1_000_000_000 };
                let group = u32::try_from(random.below(most)).unwrap_or(0);
                bytes.extend_from_slice(&group.to_be_bytes());
            }
            if let Some(first) = bytes.first_mut() {
                *first ^= 0x80;
            }
            Stored(precision, scale, bytes)
        },
        // Digits, with as many behind the point as the scale says.
        |Stored(precision, scale, bytes)| {
            if let Some(Ok(text)) = decoders::decimal(*precision, *scale, bytes) {
                let text = String::from_utf8(text).unwrap();
                let digits = text.strip_prefix('-').unwrap_or(&text);
                let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
                assert_eq!(fraction.len(), usize::from(*scale), "{text}");
                assert!(!whole.is_empty() && text.len() <= 68, "{text}");
                assert!(
                    whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()),
                    "{text}"
                );
            }
        },
        |stored| format!("{stored:?}"),
    );
}

fn types() -> Vec<Type> {
    let text = |json| Type::Text {
        charset: "latin1".into(),
        collation: "latin1_bin".into(),
        fixed: false,
        json,
    };
    vec![
        Type::Integer { bits: 64, unsigned: true },
        Type::Decimal { precision: 65, scale: 30 },
        Type::Float,
        Type::Double,
        Type::Bit(64),
        Type::Year,
        Type::Date,
        Type::Time(6),
        Type::Datetime(6),
        Type::Timestamp(6),
        text(false),
        text(true),
        Type::Binary(16),
        Type::Blob(1 << 32),
        Type::Enum("enum('a','b')".into()),
        Type::Set("set('a','b')".into()),
        Type::Json,
        Type::Geometry { axes: true },
        Type::Vector,
        Type::Uuid,
        Type::Inet6,
        Type::Inet4,
    ]
}

const VALUES: [&str; 14] = [
    "null",
    "true",
    "-9223372036854775808",
    "1.7976931348623157e308",
    "\"-12345678901234567890.0123456789\"",
    "\"2026-01-02T03:04:05.678901Z\"",
    "\"-838:59:58.999999\"",
    "\"text with \\\" \\\\ \\u0000 \\ud83d\\ude00 é ' ; --\"",
    "\"AP8AAQIDBAUGBwgJCgsMDQ4P\"",
    "{\"wkb\":\"AQEAAAAAAAAAAADwPwAAAAAAAABA\",\"srid\":4326}",
    "[1.0,-2.5e-3,3.4028235e38]",
    "\"123e4567-e89b-12d3-a456-426614174000\"",
    "\"{\\\"a\\\": [1, 2.5]}\"",
    "\"2001:db8::1\"",
];

#[test]
fn literals() {
    let types = types();
    fuzz(
        "values into SQL",
        |random: &mut Random| {
            let kind = types[random.place(types.len())].clone();
            let mut value = VALUES[random.place(VALUES.len())].as_bytes().to_vec();
            let other = VALUES[random.place(VALUES.len())].as_bytes();
            damage::text(random, &mut value, &[other]);
            let column = Column {
                name: "c".into(),
                kind,
                nullable: true,
                generated: None,
                invisible: false,
                counted: false,
                required: false,
                length: 0,
                bytes: 0,
            };
            (column, String::from_utf8_lossy(&value).into_owned())
        },
        // What is not refused is one literal, which a value can't leave.
        |(column, value)| {
            let mut sql = Vec::new();
            if write_literal(&mut sql, column, value).is_ok() {
                assert!(is_closed(&sql), "{}", String::from_utf8_lossy(&sql));
                let mut condition = Vec::new();
                write_equality(&mut condition, column, b"`c`", value).unwrap();
                assert!(is_closed(&condition), "{}", String::from_utf8_lossy(&condition));
            } else {
                assert!(sql.is_empty());
            }
        },
        |input| format!("{input:?}"),
    );
}

/// Whether strings and parentheses end, and nothing stands in between that ends a statement.
fn is_closed(sql: &[u8]) -> bool {
    let (mut quoted, mut escaped, mut depth) = (false, false, 0_i32);
    for &byte in sql {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'\'' => quoted = !quoted,
            _ if quoted => {}
            b'(' => depth += 1,
            b')' => depth -= 1,
            b';' | b'#' | b'\\' | b'"' => return false,
            _ => {}
        }
        if depth < 0 {
            return false;
        }
    }
    !quoted && !escaped && depth == 0
}
