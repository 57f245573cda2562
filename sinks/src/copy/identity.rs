//! What makes two keys one row.
//!
//! Two units may write one row under keys of other bytes, where the key's collation holds them for
//! equal (`a` and `A`). So texts are folded before they are compared: whatever some collation holds
//! for equal has one identity. That two different rows may share one only costs a second reading.

use unitflow_change::Fault;
use unitflow_change::key::Key;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

/// Whose row a key names, as far as any collation may tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The table, in the mesh's names.
    pub table: u64,
    /// The row; none where its key holds letters that may equal any others.
    pub row: Option<u64>,
}

impl Identity {
    /// The identity of a plain key in the mesh's names.
    pub fn of(key: &[u8]) -> Result<Self, Fault> {
        let table = xxh3_64(Key::table_part(key)?);
        let key = Key::parse(key)?;
        let mut hash = Xxh3::new();
        let mut odd = false;
        // A key's columns may stand in another order in another unit.
        let columns = key.columns.iter().flat_map(unitflow_change::envelope::Row::iter);
        let mut columns: Vec<_> =
            columns.map(|(name, value)| (name.to_lowercase(), value)).collect();
        columns.sort_unstable();
        for (name, value) in columns {
            hash.update(name.as_bytes());
            hash.update(b":");
            odd |= fold(value, &mut hash);
            hash.update(b",");
        }
        Ok(Self { table, row: (!odd).then(|| hash.digest()) })
    }
}

/// The name under which a row is noted: hexadecimal, of 16 bytes. Keys of other bytes are other rows
/// here, or one row's note would take another's place.
pub fn name(key: &[u8]) -> String {
    format!("{:032x}", xxh3_128(key))
}

/// Adds a value's raw JSON; `true` where it holds what some collation may hold for anything.
fn fold(json: &str, hash: &mut Xxh3) -> bool {
    // An escape is of a character that no rule below knows.
    if !json.is_ascii() || json.contains('\\') {
        return true;
    }
    let text = json.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(json);
    for byte in text.trim_end_matches(' ').bytes() {
        // Letters that are one in Roman, Lithuanian or Swedish.
        let folded = match byte.to_ascii_lowercase() {
            b'j' | b'y' => b'i',
            b'u' | b'w' => b'v',
            other => other,
        };
        hash.update(&[folded]);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(columns: &str) -> Identity {
        Identity::of(format!(r#"["shop","t",{columns}]"#).as_bytes()).unwrap()
    }

    #[test]
    fn what_a_collation_holds_for_equal_is_one_row() {
        assert_eq!(identity(r#"{"k":"Jaw "}"#), identity(r#"{"K":"iav"}"#));
        assert_ne!(identity(r#"{"k":"a"}"#), identity(r#"{"k":"b"}"#));
        assert_ne!(identity(r#"{"a":1,"b":12}"#), identity(r#"{"a":11,"b":2}"#));
        assert_eq!(identity(r#"{"a":1,"b":2}"#), identity(r#"{"B":2,"a":1}"#));
        assert_eq!(identity(r#"{"k":"é"}"#).row, None);
        assert_eq!(identity(r#"{"k":"\u0000a"}"#).row, None);
        assert_eq!(identity(r#"{"k":1}"#).table, identity(r#"{"k":2}"#).table);
    }

    #[test]
    fn each_key_is_noted_under_a_name_of_its_own() {
        let named = |columns: &str| name(format!(r#"["shop","t",{columns}]"#).as_bytes());
        // Base64 of other bytes.
        assert_ne!(named(r#"{"k":"AAAAAAAAAAE="}"#), named(r#"{"k":"AAAAAAAAAaE="}"#));
        assert_ne!(named(r#"{"k":"AAAAAAAAAAE="}"#), named(r#"{"k":"AAAAAAAAAAe="}"#));
        assert_eq!(named(r#"{"k":1}"#).len(), 32);
    }
}
