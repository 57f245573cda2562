//! The two forms in which keys and values travel, and the way from one to the other.
//!
//! * **Plain**: the payload alone, as Kafka Connect's JSON converter writes it without schemas.
//! * **With schema**: `{"schema":{…},"payload":…}`, as the same converter reads it with
//!   `schemas.enable=true`. A record of a table carries the table's schema, all others
//!   `"schema":null`.
//!
//! A record says by its first bytes which form it has, so every reader takes both.
//!
//! A key's plain form has a text of its own, `["database","table",{"id":1}]`, and so is the row's
//! identity for lanes and sinks whatever form travels; see [`plain_key`]. With schema the columns
//! are the payload, and database and table are parameters of the schema:
//!
//! ```text
//! {"schema":{"type":"struct","parameters":{"database":"shop","table":"orders"},…},"payload":{"id":1}}
//! ```

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::fault::{Code, Fault};
use crate::key::Key;
use crate::routing::INTERNAL_DATABASE;

/// How keys and values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The payload alone.
    #[default]
    Plain,
    /// Schema and payload.
    WithSchema,
}

impl Form {
    /// The form's name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::WithSchema => "with-schema",
        }
    }

    /// A payload that no schema describes, in this form.
    #[must_use]
    pub fn of_payload(self, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => payload.to_vec(),
            Self::WithSchema => join(b"{\"schema\":null,\"payload\":", payload),
        }
    }
}

/// How a key of this form begins, up to the database; what follows is a comma.
const KEY_HEAD: &str = "{\"schema\":{\"type\":\"struct\",\"parameters\":{\"database\":";

/// What every record with schema begins with.
const BEGINNING: &[u8] = b"{\"schema\":";

/// A record with schema, taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The schema's raw JSON.
    pub schema: &'a str,
    /// All before the payload.
    pub head: &'a [u8],
    /// The payload's raw JSON.
    pub payload: &'a [u8],
}

/// Takes a key or a value apart; `None` where it is plain.
pub fn parts(bytes: &[u8]) -> Result<Option<Parts<'_>>, Fault> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw<'a> {
        #[serde(borrow)]
        schema: &'a RawValue,
        #[serde(borrow)]
        payload: &'a RawValue,
    }
    if !bytes.starts_with(BEGINNING) {
        return Ok(None);
    }
    let Raw { schema, payload } = serde_json::from_slice(bytes).map_err(|error| {
        Fault::poison(Code::Record, format!("a record with schema can't be read: {error}"))
    })?;
    let payload = payload.get().as_bytes();
    // The payload comes last, behind it only the closing brace: it was written by `join`.
    let head = bytes
        .len()
        .checked_sub(payload.len() + 1)
        .and_then(|end| bytes.get(..end))
        .filter(|head| head.ends_with(b"\"payload\":"))
        .ok_or_else(|| {
            Fault::poison(Code::Record, "a record with schema does not end with its payload")
        })?;
    Ok(Some(Parts { schema: schema.get(), head, payload }))
}

/// The payload of a value of either form.
pub fn payload(bytes: &[u8]) -> Result<&[u8], Fault> {
    Ok(parts(bytes)?.map_or(bytes, |parts| parts.payload))
}

/// A record with schema again, of a part before the payload and a payload.
#[must_use]
pub fn join(head: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(head.len() + payload.len() + 1);
    bytes.extend_from_slice(head);
    bytes.extend_from_slice(payload);
    bytes.push(b'}');
    bytes
}

/// How the schema of a table's keys begins. Both names are JSON strings; the schema's other fields
/// follow, each behind a comma.
#[must_use]
pub fn key_schema_head(database: &str, table: &str) -> String {
    format!("{KEY_HEAD}{database},\"table\":{table}}}")
}

/// A key of either form as plain: what names the row in lanes, ledgers and sinks.
pub fn plain_key(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Fault> {
    let Some(parts) = parts(bytes).map_err(fatal)? else { return Ok(Cow::Borrowed(bytes)) };
    let (database, table) = table_of(&parts)?;
    let mut plain = Vec::with_capacity(database.len() + table.len() + parts.payload.len() + 4);
    plain.push(b'[');
    plain.extend_from_slice(database.as_bytes());
    plain.push(b',');
    plain.extend_from_slice(table.as_bytes());
    plain.push(b',');
    plain.extend_from_slice(parts.payload);
    plain.push(b']');
    Ok(Cow::Owned(plain))
}

/// The database and the table that a key's schema names, as JSON strings.
fn table_of<'a>(key: &Parts<'a>) -> Result<(&'a str, &'a str), Fault> {
    #[derive(Deserialize)]
    struct Schema<'a> {
        #[serde(borrow)]
        parameters: Parameters<'a>,
    }
    #[derive(Deserialize)]
    struct Parameters<'a> {
        #[serde(borrow)]
        database: &'a RawValue,
        #[serde(borrow)]
        table: &'a RawValue,
    }
    let Schema { parameters } = serde_json::from_str(key.schema).map_err(|error| {
        Fault::fatal(Code::Record, format!("a key's schema does not name its table: {error}"))
    })?;
    Ok((parameters.database.get(), parameters.table.get()))
}

/// The row that `plain` names, in the form of `key`: of the same columns, and perhaps of a table of
/// another name.
pub fn key_like<'a>(key: &[u8], plain: &'a [u8]) -> Result<Cow<'a, [u8]>, Fault> {
    let Some(parts) = parts(key).map_err(fatal)? else { return Ok(Cow::Borrowed(plain)) };
    let (database, table) = table_of(&parts)?;
    let rest = parts.head.strip_prefix(key_schema_head(database, table).as_bytes());
    let rest =
        rest.ok_or_else(|| Fault::fatal(Code::Record, "a key's schema has another order"))?;
    let name = Key::parse(plain)?;
    let [database, table] =
        [&name.database, &name.table].map(|name| serde_json::to_string(name).unwrap_or_default());
    let columns = plain.get(Key::table_part(plain)?.len()..plain.len() - 1).unwrap_or_default();
    let head = [key_schema_head(&database, &table).as_bytes(), rest].concat();
    Ok(Cow::Owned(join(&head, columns)))
}

/// Another payload, in the form of `value`.
pub fn value_like(value: &[u8], payload: &[u8]) -> Result<Vec<u8>, Fault> {
    Ok(parts(value)?.map_or_else(|| payload.to_vec(), |parts| join(parts.head, payload)))
}

/// Whether a key of either form is of one of our own tables. Cheap.
#[must_use]
pub fn is_internal(key: &[u8]) -> bool {
    let after = |beginning: &str| {
        let rest = key.strip_prefix(beginning.as_bytes())?.strip_prefix(b"\"")?;
        rest.strip_prefix(INTERNAL_DATABASE.as_bytes()).map(|rest| rest.starts_with(b"\","))
    };
    after("[").or_else(|| after(KEY_HEAD)).unwrap_or(false)
}

/// A row without identity can't be parked: it stops the flow.
fn fatal(fault: Fault) -> Fault {
    Fault::fatal(fault.code, fault.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = br#"["shop","or\"d{ers",{"id":1,"part":"payload\":"}]"#;

    fn with_schema() -> Vec<u8> {
        let mut head = key_schema_head(r#""shop""#, r#""or\"d{ers""#).into_bytes();
        head.extend_from_slice(br#","fields":[],"optional":false},"payload":"#);
        join(&head, br#"{"id":1,"part":"payload\":"}"#)
    }

    #[test]
    fn both_forms_of_a_key_are_one_row() {
        assert_eq!(plain_key(&with_schema()).unwrap(), PLAIN);
        assert_eq!(plain_key(PLAIN).unwrap(), PLAIN);
        assert_eq!(key_like(&with_schema(), PLAIN).unwrap(), with_schema());
        assert_eq!(key_like(PLAIN, PLAIN).unwrap(), PLAIN);
        let other = br#"["mall","x",{"id":2}]"#;
        let renamed = key_like(&with_schema(), other).unwrap();
        assert_eq!(plain_key(&renamed).unwrap(), &other[..]);
    }

    #[test]
    fn a_record_is_joined_again_as_it_was() {
        let bytes = with_schema();
        let Parts { head, payload, .. } = parts(&bytes).unwrap().unwrap();
        assert_eq!(join(head, payload), bytes);
        assert_eq!(Form::WithSchema.of_payload(b"{}"), br#"{"schema":null,"payload":{}}"#);
        assert_eq!(super::payload(&Form::WithSchema.of_payload(b"{}")).unwrap(), b"{}");
        assert_eq!(super::payload(b"{}").unwrap(), b"{}");
    }

    #[test]
    fn our_own_tables_are_known_by_the_database_alone() {
        let key = |database: &str| {
            let mut head = key_schema_head(database, r#""t""#);
            head.push_str(r#","fields":[]},"payload":"#);
            join(head.as_bytes(), b"{}")
        };
        assert!(is_internal(&key(r#""unitflow""#)));
        assert!(is_internal(br#"["unitflow","heartbeat",{"unit":"A"}]"#));
        for other in [key(r#""unitflow2""#), key(r#""shop""#), b"".to_vec()] {
            assert!(!is_internal(&other));
        }
        assert!(!is_internal(br#"["shop","unitflow",{"unit":"A"}]"#));
    }

    #[test]
    fn damaged_records_are_faults() {
        for bad in [
            r#"{"schema":"#,
            r#"{"schema":null}"#,
            r#"{"schema":null,"payload":{} }"#,
            r#"{"schema":null,"payload":{},"more":1}"#,
            r#"{"schema":null,"payload" :{}}"#,
        ] {
            assert!(parts(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(plain_key(br#"{"schema":{"type":"struct"},"payload":{}}"#).is_err());
    }
}
