//! A record's key: `["database","table",{"id":1}]`, compact JSON.
//!
//! The primary key's columns stand in key order with the envelope's forms of their values; a
//! table without primary key has `null` in their place.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::envelope::Row;
use crate::fault::{Code, Fault};

/// A row's identity, read from a record's key.
#[derive(Debug)]
pub struct Key<'a> {
    /// The database (schema) at the source.
    pub database: Cow<'a, str>,
    /// The table at the source.
    pub table: Cow<'a, str>,
    /// The primary key's columns; `None` where the table has none.
    pub columns: Option<Row<'a>>,
}

#[derive(Deserialize)]
struct Raw<'a>(
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] &'a RawValue,
);

impl<'a> Key<'a> {
    /// Reads a key.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let unreadable =
            |error| Fault::fatal(Code::Record, format!("a record's key can't be read: {error}"));
        let Raw(database, table, columns) = serde_json::from_slice(bytes).map_err(unreadable)?;
        let columns = serde_json::from_str(columns.get()).map_err(unreadable)?;
        Ok(Self { database, table, columns })
    }

    /// The table's part of the key bytes: all before the columns. Equal for all rows of a table
    /// and different for different tables, so that it can be looked up without reading the key.
    pub fn table_part(bytes: &[u8]) -> Result<&[u8], Fault> {
        let mut quoted = false;
        let mut escaped = false;
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b'{' | b'n' if !quoted => return Ok(&bytes[..at]),
                _ => {}
            }
        }
        Err(Fault::fatal(Code::Record, "a record's key has no columns"))
    }

    /// The table's part of the keys of this table's rows.
    #[must_use]
    pub fn head(database: &str, table: &str) -> Vec<u8> {
        let mut head = vec![b'['];
        write_json_string(&mut head, database);
        head.push(b',');
        write_json_string(&mut head, table);
        head.push(b',');
        head
    }

    /// Builds the key of the row `columns`, with the key columns of this one.
    pub fn of_row(&self, row: &Row<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
        out.clear();
        out.extend_from_slice(&Self::head(&self.database, &self.table));
        out.push(b'{');
        let columns = self.columns.as_ref().ok_or_else(|| {
            Fault::fatal(Code::Bug, format!("{}.{} has no key", self.database, self.table))
        })?;
        for (place, (name, _)) in columns.iter().enumerate() {
            let value = row.get(name).ok_or_else(|| {
                Fault::fatal(
                    Code::Record,
                    format!(
                        "{}.{}: the row lacks its key column {name}",
                        self.database, self.table
                    ),
                )
            })?;
            if place > 0 {
                out.push(b',');
            }
            write_json_string(out, name);
            out.push(b':');
            out.extend_from_slice(value.as_bytes());
        }
        out.extend_from_slice(b"}]");
        Ok(())
    }
}

/// Appends `text` as a JSON string.
fn write_json_string(out: &mut Vec<u8>, text: &str) {
    // Writing a string to a Vec can't fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_row_after_a_move_has_the_same_columns() {
        let bytes = br#"["shop","or\"d{ers",{"id":1,"part":"x"}]"#;
        let key = Key::parse(bytes).unwrap();
        let row: Row<'_> =
            serde_json::from_str(r#"{"part":"y","n":null,"id":18446744073709551615}"#).unwrap();
        let mut moved = Vec::new();
        key.of_row(&row, &mut moved).unwrap();
        assert_eq!(
            String::from_utf8(moved.clone()).unwrap(),
            r#"["shop","or\"d{ers",{"id":18446744073709551615,"part":"y"}]"#
        );
        assert_eq!(Key::table_part(bytes).unwrap(), Key::table_part(&moved).unwrap());
        assert_eq!(Key::table_part(bytes).unwrap(), br#"["shop","or\"d{ers","#);
        assert_eq!(Key::head("shop", "or\"d{ers"), br#"["shop","or\"d{ers","#);
    }

    #[test]
    fn a_table_without_primary_key_has_no_columns() {
        let bytes = br#"["shop","plain",null]"#;
        assert!(Key::parse(bytes).unwrap().columns.is_none());
        assert_eq!(Key::table_part(bytes).unwrap(), br#"["shop","plain","#);
    }

    #[test]
    fn damaged_keys_are_faults() {
        for bad in ["", "[", "[]", r#"["a"]"#, r#"["a","b",3]"#, "{}", r#"["a","b",{"#] {
            assert!(Key::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
