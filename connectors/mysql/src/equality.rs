//! Whether a column holds a value of the envelope, without sending a large one.
//!
//! A change names every column of the row as it was. For a large value its digest says the same,
//! and the server reads the value where it lies: SHA-256 over the bytes of a binary value, and over
//! the UTF-8 of a text, whatever the column's character set.

use sha2::{Digest as _, Sha256};
use unitflow_change::fault::Fault;

use crate::literal::{decoded, unescaped, unquote, write_comparison, write_literal};
use crate::schema::{Column, Type};

/// Bytes of a value's raw text above which its digest is compared.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Appends a condition that is true where `left`, a column of this definition, holds exactly the
/// value whose raw text in the envelope is `json`. Never NULL itself.
///
/// # Errors
/// As [`write_literal`].
pub fn write_equality(
    out: &mut Vec<u8>,
    column: &Column,
    left: &[u8],
    json: &str,
) -> Result<(), Fault> {
    if json.len() > VALUE_BYTES_MAX
        && let Some(digest) = digest(column, json)
    {
        let parts: [&[u8]; 5] = match column.kind {
            Type::Text { .. } => {
                [b"SHA2(CONVERT(", left, b" USING utf8mb4),256)<=>'", &digest, b"'"]
            }
            _ => [b"SHA2(", left, b",256)<=>'", &digest, b"'"],
        };
        parts.iter().for_each(|part| out.extend_from_slice(part));
        return Ok(());
    }
    let mut literal = Vec::with_capacity(json.len() + 16);
    write_literal(&mut literal, column, json)?;
    write_comparison(out, column, left, &literal);
    Ok(())
}

/// In hexadecimal. `None` where other bytes than these may mean the same value, and for what is no
/// value of the column, which [`write_literal`] refuses.
fn digest(column: &Column, json: &str) -> Option<Vec<u8>> {
    let mut hasher = Sha256::new();
    match &column.kind {
        Type::Text { json: false, .. } => unescaped(json, |part| hasher.update(part))?,
        Type::Binary(_) | Type::Blob(_) => decoded(unquote(json)?, |bytes| hasher.update(bytes))?,
        _ => return None,
    }
    Some(hasher.finalize().iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect())
}

#[cfg(test)]
mod tests {
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

    fn condition(kind: Type, json: &str) -> Option<String> {
        let mut out = Vec::new();
        write_equality(&mut out, &column(kind), b"`c`", json).ok()?;
        String::from_utf8(out).ok()
    }

    #[test]
    fn only_large_values_are_digested() {
        // SHA-256 of 66,000 times `a`, as sha256sum computes it.
        let large = format!("\"{}\"", "a".repeat(66_000));
        let text = |json| Type::Text {
            charset: "latin1".into(),
            collation: "latin1_bin".into(),
            fixed: false,
            json,
        };
        let digest = "a6a10217e5a4536d85d8d3ff33c151b338e9962ad5390ec03103dbc408f8df65";
        assert_eq!(
            condition(text(false), &large).unwrap(),
            format!("SHA2(CONVERT(`c` USING utf8mb4),256)<=>'{digest}'")
        );
        let blob = format!("\"{}\"", "YWFh".repeat(22_000));
        assert_eq!(
            condition(Type::Blob(1 << 20), &blob).unwrap(),
            format!("SHA2(`c`,256)<=>'{digest}'")
        );
        assert!(condition(text(true), &large).unwrap().contains("JSON_CONTAINS"));
        let document = format!("\"[{}1]\"", "1, ".repeat(30_000));
        assert!(condition(Type::Json, &document).unwrap().contains("AS JSON"));
        assert_eq!(condition(Type::Blob(9), "\"AP8=\"").unwrap(), "`c`<=>X'00FF'");
        assert_eq!(condition(Type::Blob(9), "null").unwrap(), "`c`<=>NULL");
    }

    #[test]
    fn large_values_that_are_none_are_refused() {
        let text = format!("\"{}\"", "a\"".repeat(66_000));
        for kind in [Type::Blob(1 << 20), Type::Integer { bits: 64, unsigned: false }] {
            assert_eq!(condition(kind, &text), None);
        }
        let large = format!("\"{}\"", "?".repeat(66_000));
        assert_eq!(condition(Type::Blob(1 << 20), &large), None);
    }
}
