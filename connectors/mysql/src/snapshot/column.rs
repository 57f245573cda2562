//! What is selected of a column, and what the answer means.

use mysql_async::Value;
use unitflow_change::fault::{Code, Fault};

use super::condition::members;
use crate::bytes::{Broken, Parsed};
use crate::charset::Charset;
use crate::kind::Kind;
use crate::literal::{has_empty_member, quote_identifier};
use crate::schema::{Column, Table, Type};
use crate::value::{self, Clock, Decimal};

/// Where a column's value stands in an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Selected {
    /// The value itself.
    pub at: usize,
    /// What tells more of it: of an ENUM its number, of a document whether its text says all.
    more: Option<usize>,
    charset: Charset,
}

/// What to select of a table, and where each column's value will stand.
pub(super) fn select(table: &Table) -> (String, Vec<Selected>) {
    let mut list = String::new();
    let mut width = 0;
    let mut put = |expression: &str| {
        list.push_str(if width == 0 { "" } else { "," });
        list.push_str(expression);
        width += 1;
        width - 1
    };
    let mut all = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        let name = quoted(&column.name);
        let at = put(&name);
        let more = match &column.kind {
            Type::Enum(definition) if has_empty_member(definition) => {
                Some(put(&format!("CAST({name} AS UNSIGNED)")))
            }
            // What the text says, said again, is another document where it holds a value of an
            // SQL type.
            Type::Json => Some(put(&format!("{name}<=>CAST(CAST({name} AS CHAR) AS JSON)"))),
            _ => None,
        };
        all.push(Selected { at, more, charset: Charset::Binary });
    }
    (list, all)
}

pub(super) fn quoted(name: &str) -> String {
    let mut out = Vec::with_capacity(name.len() + 2);
    quote_identifier(&mut out, name);
    String::from_utf8_lossy(&out).into_owned()
}

/// The bytes of a value, about.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::Bytes(bytes) => bytes.len() + size_of::<Value>(),
        _ => size_of::<Value>(),
    }
}

impl Selected {
    /// What the decoder would call the column; `collation` is the one that the answer names.
    pub fn describe(self, column: &Column, collation: u64) -> Result<(Kind, Self), Fault> {
        let charset = match &column.kind {
            Type::Text { .. } | Type::Enum(_) | Type::Set(_) => Charset::of_collation(collation)
                .ok_or_else(|| {
                    let what = format!("an unknown character set (collation {collation})");
                    Fault::fatal(Code::Table, what)
                        .hint("convert the column to utf8mb4, or exclude the table")
                })?,
            _ => Charset::Binary,
        };
        Ok((kind(&column.kind, charset)?, Self { charset, ..self }))
    }

    /// The text of a document that may hold values of SQL types.
    pub fn doubtful(&self, values: &[Value]) -> Option<String> {
        let sound = self.more.and_then(|more| values.get(more));
        match (values.get(self.at), sound) {
            (Some(Value::Bytes(text)), Some(sound)) if *sound != Value::Int(1) => {
                String::from_utf8(text.clone()).ok()
            }
            _ => None,
        }
    }

    /// Appends the value's JSON as the decoder writes it.
    pub fn write(&self, kind: &Kind, values: &[Value], out: &mut Vec<u8>) -> Parsed<()> {
        let value = values.get(self.at).ok_or_else(|| odd("nothing"))?;
        match (kind, value) {
            (_, Value::NULL) => out.extend_from_slice(b"null"),
            (Kind::Integer { .. } | Kind::Year, Value::Int(number)) => {
                value::write_integer(out, *number);
            }
            (Kind::Integer { .. } | Kind::Year, Value::UInt(number)) => {
                value::write_integer(out, *number);
            }
            (Kind::Float, Value::Float(number)) => value::write_float(out, *number, 0)?,
            (Kind::Double, Value::Double(number)) => value::write_double(out, *number, 0)?,
            (_, &Value::Date(year, month, day, hour, minute, second, micro)) => {
                let clock = Clock {
                    negative: false,
                    year: year.into(),
                    month: month.into(),
                    day: day.into(),
                    hour: hour.into(),
                    minute: minute.into(),
                    second: second.into(),
                    micro,
                };
                write_date(kind, clock, out)?;
            }
            (Kind::Time { .. }, &Value::Time(negative, days, hour, minute, second, micro)) => {
                let clock = Clock {
                    negative,
                    hour: days * 24 + u32::from(hour),
                    minute: minute.into(),
                    second: second.into(),
                    micro,
                    ..Clock::default()
                };
                out.push(b'"');
                clock.write_time(out, value::digits(micro));
                out.extend_from_slice(b"Z\"");
            }
            (kind, Value::Bytes(bytes)) => self.write_bytes(kind, bytes, values, out)?,
            _ => return Err(odd("a value of another type")),
        }
        Ok(())
    }

    fn write_bytes(
        &self,
        kind: &Kind,
        bytes: &[u8],
        values: &[Value],
        out: &mut Vec<u8>,
    ) -> Parsed<()> {
        match kind {
            Kind::Decimal(_) => write_decimal(bytes, out)?,
            Kind::Bit { single: true, .. } => match bytes {
                [0] => out.extend_from_slice(b"false"),
                [1] => out.extend_from_slice(b"true"),
                _ => return Err(odd("a single bit that is neither 0 nor 1")),
            },
            Kind::Bit { .. } => {
                let low_first: Vec<u8> = bytes.iter().rev().copied().collect();
                value::write_base64(out, &low_first);
            }
            Kind::Blob { .. } | Kind::Binary { .. } => value::write_base64(out, bytes),
            // The number tells what is no member from one that is empty.
            Kind::Enum { .. } if bytes.is_empty() && self.number(values) == Some(0) => {
                out.push(b'0');
            }
            Kind::Text { .. } | Kind::Enum { .. } | Kind::Set { .. } => {
                out.push(b'"');
                match self.charset {
                    // Members of bytes: the decoder takes them if they are text.
                    Charset::Binary => write_utf8(bytes, out)?,
                    charset => value::write_text(out, charset, bytes, 0)?,
                }
                out.push(b'"');
            }
            Kind::Json { .. } | Kind::Uuid { .. } | Kind::Inet6 { .. } | Kind::Inet4 { .. } => {
                out.push(b'"');
                write_utf8(bytes, out)?;
                out.push(b'"');
            }
            Kind::Geometry { .. } => value::write_geometry(out, bytes, 0)?,
            Kind::Vector { .. } => value::write_vector(out, bytes, 0)?,
            _ => return Err(odd("a value of another type")),
        }
        Ok(())
    }

    fn number(&self, values: &[Value]) -> Option<i64> {
        match values.get(self.more?)? {
            Value::Int(number) => Some(*number),
            Value::UInt(number) => i64::try_from(*number).ok(),
            _ => None,
        }
    }
}

fn odd(what: &'static str) -> Broken {
    Broken::corrupt(format!("the server answered with {what}"), 0)
}

fn write_utf8(bytes: &[u8], out: &mut Vec<u8>) -> Parsed<()> {
    if std::str::from_utf8(bytes).is_err() {
        return Err(odd("text that is not UTF-8"));
    }
    value::write_escaped(out, bytes);
    Ok(())
}

fn write_date(kind: &Kind, clock: Clock, out: &mut Vec<u8>) -> Parsed<()> {
    match kind {
        Kind::Date => {
            out.push(b'"');
            clock.write_date(out);
            out.extend_from_slice(b"Z\"");
        }
        Kind::Datetime { .. } => value::write_moment(out, &clock, value::digits(clock.micro)),
        Kind::Timestamp { fraction } => value::write_moment(out, &clock, *fraction),
        _ => return Err(odd("a date for another type")),
    }
    Ok(())
}

/// Zeros that ZEROFILL puts before a number are not in the log.
fn write_decimal(bytes: &[u8], out: &mut Vec<u8>) -> Parsed<()> {
    let text = std::str::from_utf8(bytes).map_err(|_| odd("a DECIMAL that is no number"))?;
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let bare = digits.trim_start_matches('0');
    let whole = if bare.is_empty() || bare.starts_with('.') { "0" } else { "" };
    for part in ["\"", sign, whole, bare, "\""] {
        out.extend_from_slice(part.as_bytes());
    }
    Ok(())
}

fn kind(kind: &Type, charset: Charset) -> Result<Kind, Fault> {
    let prefix = 0;
    Ok(match kind {
        Type::Integer { bits, unsigned } => Kind::Integer { bytes: bits / 8, unsigned: *unsigned },
        Type::Decimal { precision, scale } => {
            Kind::Decimal(Decimal::new(*precision, *scale).ok_or_else(|| unreadable(kind))?)
        }
        Type::Float => Kind::Float,
        Type::Double => Kind::Double,
        Type::Bit(bits) => Kind::Bit { bytes: bits.div_ceil(8), bits: *bits, single: *bits == 1 },
        Type::Year => Kind::Year,
        Type::Date => Kind::Date,
        Type::Time(fraction) => Kind::Time { fraction: *fraction },
        Type::Datetime(fraction) => Kind::Datetime { fraction: *fraction },
        Type::Timestamp(fraction) => Kind::Timestamp { fraction: *fraction },
        Type::Text { .. } => Kind::Text { prefix, charset },
        Type::Binary(length) => Kind::Binary { prefix, length: *length as usize },
        Type::Blob(_) => Kind::Blob { prefix },
        Type::Enum(definition) => {
            let member = |member: &String| serde_json::to_vec(member).unwrap_or_default();
            Kind::Enum { bytes: 0, values: members(definition).iter().map(member).collect() }
        }
        Type::Set(definition) => {
            let inside = |member: &String| {
                let mut inside = Vec::new();
                value::write_escaped(&mut inside, member.as_bytes());
                inside
            };
            Kind::Set { bytes: 0, values: members(definition).iter().map(inside).collect() }
        }
        Type::Json => Kind::Json { prefix },
        Type::Geometry { .. } => Kind::Geometry { prefix },
        Type::Vector => Kind::Vector { prefix },
        Type::Uuid => Kind::Uuid { prefix, swapped: false },
        Type::Inet6 => Kind::Inet6 { prefix },
        Type::Inet4 => Kind::Inet4 { prefix },
        Type::Other(_) => return Err(unreadable(kind)),
    })
}

fn unreadable(kind: &Type) -> Fault {
    Fault::fatal(Code::Table, format!("values of type {kind:?} can't be read"))
        .hint("exclude the table or change the column's type")
}
