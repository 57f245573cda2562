//! A row change as it travels: Debezium's MySQL envelope, without schemas.
//!
//! Values stay the raw JSON text that the connector wrote, so that no number loses a digit on the
//! way: a sink turns them into literals for the column they go to.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::fault::{Code, Fault};

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
}

impl Op {
    /// Debezium's letter.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "c",
            Self::Update => "u",
            Self::Delete => "d",
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

/// A column name, borrowed where it has no escapes (`Cow` alone would always copy).
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// One row change.
#[derive(Debug, Deserialize)]
pub struct Envelope<'a> {
    /// The row before; absent for an insert.
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
}

impl<'a> Envelope<'a> {
    /// Reads an envelope, and sees that it holds the images its operation needs.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let envelope: Self = serde_json::from_slice(bytes).map_err(|error| {
            Fault::poison(Code::Record, format!("a record's envelope can't be read: {error}"))
        })?;
        let whole = match envelope.op {
            Op::Insert => envelope.after.is_some(),
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
        #[derive(Deserialize, Serialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            before: Option<&'a RawValue>,
            #[serde(borrow)]
            after: Option<&'a RawValue>,
            #[serde(borrow)]
            source: &'a RawValue,
            op: Op,
            #[serde(borrow)]
            ts_ms: &'a RawValue,
            #[serde(borrow)]
            transaction: &'a RawValue,
        }
        let unreadable = |error| {
            Fault::poison(Code::Record, format!("a record's envelope can't be split: {error}"))
        };
        let update: Raw<'a> = serde_json::from_slice(bytes).map_err(unreadable)?;
        let delete = Raw { after: None, op: Op::Delete, ..update };
        let insert = Raw { before: None, op: Op::Insert, ..update };
        Ok((
            serde_json::to_vec(&delete).map_err(unreadable)?,
            serde_json::to_vec(&insert).map_err(unreadable)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPDATE: &str = r#"{"before":{"id":1,"d":"12345678901234567890123456789012.10"},"after":{"id":2,"d":null},"source":{"gtid":"0-1-4"},"op":"u","ts_ms":5,"transaction":null}"#;

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
    fn an_operation_without_its_image_is_poison() {
        let fault = Envelope::parse(br#"{"before":null,"after":null,"op":"d"}"#).unwrap_err();
        assert_eq!(fault.kind, crate::fault::Kind::Poison);
    }
}
