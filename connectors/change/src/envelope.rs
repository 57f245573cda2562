//! A row change as it travels: Debezium's MySQL envelope, plain or with its schema.
//!
//! Values stay the raw JSON text that the connector wrote, so that no number loses a digit on the
//! way: a sink turns them into literals for the column they go to.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::fault::{Code, Fault};
use crate::form;

/// What happened to the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Op {
    /// The row came into being.
    #[serde(rename = "c")]
    Insert,
    /// The row changed.
    #[serde(rename = "u")]
    Update,
    /// The row went away.
    #[serde(rename = "d")]
    Delete,
    /// The row is there: it was read from the table, not logged.
    #[serde(rename = "r")]
    Read,
}

impl Op {
    /// Debezium's letter.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Read => "r",
        }
    }
}

/// The columns of one row image, in the source's order: name and raw JSON text.
#[derive(Clone, Debug, Default)]
pub struct Row<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'a> Row<'a> {
    /// The columns in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &'a str)> + Clone {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    /// The raw JSON text of a column; `None` where it is absent, which is not null.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(column, _)| column == name).map(|(_, value)| *value)
    }

    /// The raw JSON text of a column by whose name it is; the case of names does not matter.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&'a str> {
        self.get(name).or_else(|| {
            self.0.iter().find(|(column, _)| is_same_column(column, name)).map(|(_, value)| *value)
        })
    }

    /// How many columns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Row<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = Row<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of columns")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Row<'de>, M::Error> {
                let mut columns = Vec::with_capacity(16);
                while let Some(Name(name)) = map.next_key()? {
                    columns.push((name, map.next_value::<&RawValue>()?.get()));
                }
                Ok(Row(columns))
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

/// Whether both name one column: to the servers their case does not matter.
#[must_use]
pub fn is_same_column(a: &str, b: &str) -> bool {
    match a.is_ascii() && b.is_ascii() {
        true => a.eq_ignore_ascii_case(b),
        false => a.to_lowercase() == b.to_lowercase(),
    }
}

/// A column name, borrowed where it has no escapes (`Cow` alone would always copy).
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// One row change.
#[derive(Debug, Deserialize)]
pub struct Envelope<'a> {
    /// The row before; absent for an insert and for a row that was read.
    #[serde(borrow)]
    pub before: Option<Row<'a>>,
    /// The row after; absent for a delete.
    #[serde(borrow)]
    pub after: Option<Row<'a>>,
    /// Where the change comes from, as raw JSON.
    #[serde(borrow)]
    pub source: Option<&'a RawValue>,
    /// What happened.
    pub op: Op,
    /// The bytes of the record that this one stands for.
    #[serde(default)]
    too_large: Option<u64>,
}

/// Begins what stands for a change that is too large to travel.
const STANDS_FOR_LARGER: &str = "{\"too_large\":";

impl<'a> Envelope<'a> {
    /// What travels in the place of a change whose record would have so many bytes: with its key it
    /// says which row can't be carried, and [`parse`](Self::parse) refuses it.
    #[must_use]
    pub fn of_larger(op: Op, bytes: usize) -> String {
        format!(
            "{STANDS_FOR_LARGER}{bytes},\"before\":null,\"after\":null,\"source\":null,\"transaction\":null,\"op\":\"{}\",\"ts_ms\":0}}",
            op.as_str()
        )
    }

    /// Whether a record only stands for one that is too large. Cheap.
    pub fn stands_for_larger(bytes: &[u8]) -> Result<bool, Fault> {
        Ok(form::payload(bytes)?.starts_with(STANDS_FOR_LARGER.as_bytes()))
    }

    /// Reads an envelope of either form, and sees that it holds the images its operation needs.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let payload = form::payload(bytes)?;
        let envelope: Self = serde_json::from_slice(payload).map_err(|error| {
            Fault::poison(Code::Record, format!("a record's envelope can't be read: {error}"))
        })?;
        if let Some(bytes) = envelope.too_large {
            return Err(refuse_larger(bytes));
        }
        let whole = match envelope.op {
            Op::Insert | Op::Read => envelope.after.is_some(),
            Op::Update => envelope.before.is_some() && envelope.after.is_some(),
            Op::Delete => envelope.before.is_some(),
        };
        if whole {
            return Ok(envelope);
        }
        Err(Fault::poison(
            Code::Record,
            format!("an envelope with op {:?} lacks a row image", envelope.op.as_str()),
        ))
    }

    /// Splits an update's bytes into those of a delete of the old row and an insert of the new
    /// one, all else unchanged.
    pub fn split(bytes: &'a [u8]) -> Result<(Vec<u8>, Vec<u8>), Fault> {
        let parts = form::parts(bytes)?;
        let update = Raw::read(parts.map_or(bytes, |parts| parts.payload))?;
        let delete = Raw { after: None, op: Op::Delete, ..update };
        let insert = Raw { before: None, op: Op::Insert, ..update };
        let written = |half: Raw<'_>| {
            let half = half.write()?;
            Ok(parts.map_or_else(|| half.clone(), |parts| form::join(parts.head, &half)))
        };
        Ok((written(delete)?, written(insert)?))
    }

    /// The change's bytes as those of the operation `op`, without the columns `hidden` and without
    /// the images that the operation does not have, all else unchanged.
    pub fn narrow(bytes: &'a [u8], op: Op, hidden: &[String]) -> Result<Vec<u8>, Fault> {
        let parts = form::parts(bytes)?;
        let change = Raw::read(parts.map_or(bytes, |parts| parts.payload))?;
        let shown = |image: Option<&'a RawValue>| {
            image.map(|image| without(image, hidden)).transpose().map_err(unwritable)
        };
        let (before, after) = match op {
            Op::Insert | Op::Read => (None, shown(change.after)?),
            Op::Update => (shown(change.before)?, shown(change.after)?),
            Op::Delete => (shown(change.before)?, None),
        };
        let left = Raw { before: before.as_deref(), after: after.as_deref(), op, ..change };
        let left = left.write()?;
        Ok(parts.map_or_else(|| left.clone(), |parts| form::join(parts.head, &left)))
    }
}

#[cold]
fn refuse_larger(bytes: u64) -> Fault {
    Fault::poison(
        Code::TooLarge,
        format!("a change that takes {bytes} bytes as a record, more than travels"),
    )
    .hint(
        "keep such values elsewhere and replicate their address, or exclude the table; \
         for this change: bring the row to the source's by hand, then unitflow skip",
    )
}

/// An envelope in its parts, to be written again.
#[derive(Clone, Copy, Deserialize, Serialize)]
struct Raw<'a> {
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<&'a RawValue>,
    #[serde(borrow)]
    source: &'a RawValue,
    #[serde(borrow)]
    transaction: &'a RawValue,
    op: Op,
    #[serde(borrow)]
    ts_ms: &'a RawValue,
    // Records of former releases lack these.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    ts_us: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    ts_ns: Option<&'a RawValue>,
}

impl<'a> Raw<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        serde_json::from_slice(bytes).map_err(unwritable)
    }

    fn write(&self) -> Result<Vec<u8>, Fault> {
        serde_json::to_vec(self).map_err(unwritable)
    }
}

fn unwritable(error: serde_json::Error) -> Fault {
    Fault::poison(Code::Record, format!("a record's envelope can't be taken apart: {error}"))
}

/// A row image without some of its columns.
fn without(image: &RawValue, hidden: &[String]) -> Result<Box<RawValue>, serde_json::Error> {
    if hidden.is_empty() {
        return Ok(image.to_owned());
    }
    let row: Row<'_> = serde_json::from_str(image.get())?;
    let mut text = String::with_capacity(image.get().len());
    for (name, value) in row.iter() {
        if hidden.iter().any(|hidden| is_same_column(hidden, name)) {
            continue;
        }
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(&serde_json::to_string(name)?);
        text.push(':');
        text.push_str(value);
    }
    text.push_str(if text.is_empty() { "{}" } else { "}" });
    RawValue::from_string(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPDATE: &str = r#"{"before":{"id":1,"d":"12345678901234567890123456789012.10"},"after":{"id":2,"d":null},"source":{"gtid":"0-1-4"},"transaction":null,"op":"u","ts_ms":5,"ts_us":5000}"#;

    #[test]
    fn values_keep_every_digit_and_absent_is_not_null() {
        let envelope = Envelope::parse(UPDATE.as_bytes()).unwrap();
        let before = envelope.before.unwrap();
        assert_eq!(before.get("d"), Some(r#""12345678901234567890123456789012.10""#));
        let after = envelope.after.unwrap();
        assert_eq!(after.get("d"), Some("null"));
        assert_eq!(after.get("x"), None);
    }

    #[test]
    fn a_split_update_is_a_delete_and_an_insert_of_the_same_images() {
        let (delete, insert) = Envelope::split(UPDATE.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(delete).unwrap(),
            UPDATE.replace(r#"{"id":2,"d":null}"#, "null").replace(r#""op":"u""#, r#""op":"d""#)
        );
        let insert = Envelope::parse(&insert).unwrap();
        assert_eq!(insert.op, Op::Insert);
        assert_eq!(insert.after.unwrap().get("id"), Some("2"));
    }

    #[test]
    fn with_schema_the_same_is_read_and_split() {
        let head = br#"{"schema":{"type":"struct","payload":1},"payload":"#;
        let bytes = form::join(head, UPDATE.as_bytes());
        assert_eq!(Envelope::parse(&bytes).unwrap().after.unwrap().get("id"), Some("2"));
        let (plain, _) = Envelope::split(UPDATE.as_bytes()).unwrap();
        let (delete, _) = Envelope::split(&bytes).unwrap();
        assert_eq!(delete, form::join(head, &plain));
    }

    #[test]
    fn a_narrowed_change_lacks_what_is_hidden_and_nothing_else() {
        let hidden = ["D".to_owned(), "none".to_owned()];
        let narrow =
            |op| String::from_utf8(Envelope::narrow(UPDATE.as_bytes(), op, &hidden).unwrap());
        let rest =
            r#""source":{"gtid":"0-1-4"},"transaction":null,"op":"u","ts_ms":5,"ts_us":5000}"#;
        let update = format!(r#"{{"before":{{"id":1}},"after":{{"id":2}},{rest}"#);
        assert_eq!(narrow(Op::Update).unwrap(), update);
        let insert = update.replace(r#"{"id":1}"#, "null").replace(r#""op":"u""#, r#""op":"c""#);
        assert_eq!(narrow(Op::Insert).unwrap(), insert);
        let read = insert.replace(r#""op":"c""#, r#""op":"r""#);
        assert_eq!(narrow(Op::Read).unwrap(), read);
        assert_eq!(Envelope::parse(read.as_bytes()).unwrap().op, Op::Read);
        let delete = update.replace(r#"{"id":2}"#, "null").replace(r#""op":"u""#, r#""op":"d""#);
        assert_eq!(narrow(Op::Delete).unwrap(), delete);
        let all = ["id".to_owned(), "d".to_owned()];
        let none = Envelope::narrow(UPDATE.as_bytes(), Op::Delete, &all).unwrap();
        assert!(String::from_utf8(none).unwrap().starts_with(r#"{"before":{},"after":null,"#));
    }

    #[test]
    fn what_stands_for_a_larger_change_is_refused_as_such() {
        let plain = Envelope::of_larger(Op::Update, 300 << 20);
        let with_schema =
            form::join(br#"{"schema":{"type":"struct"},"payload":"#, plain.as_bytes());
        for bytes in [plain.as_bytes(), &with_schema] {
            assert!(Envelope::stands_for_larger(bytes).unwrap());
            let fault = Envelope::parse(bytes).unwrap_err();
            assert_eq!((fault.kind, fault.code), (crate::fault::Kind::Poison, Code::TooLarge));
            assert!(fault.what.contains("314572800 bytes"), "{fault}");
        }
        assert!(!Envelope::stands_for_larger(UPDATE.as_bytes()).unwrap());
    }

    #[test]
    fn an_operation_without_its_image_is_poison() {
        let fault = Envelope::parse(br#"{"before":null,"after":null,"op":"d"}"#).unwrap_err();
        assert_eq!(fault.kind, crate::fault::Kind::Poison);
    }
}
