//! Keys as conditions that the primary key's index answers.
//!
//! A key is compared by the server: by the collation of its columns, in the order of its index. An
//! ENUM and a SET are ordered by their numbers, but compared with a text as texts: so their numbers
//! are written. MySQL reads more than it has to for a key that begins with one of these.

use unitflow_change::envelope::Row;
use unitflow_change::fault::{Code, Fault};

use super::column::quoted;
use crate::literal::{unescaped, write_literal};
use crate::schema::{Column, Table, Type};

/// Appends the columns of the primary key.
pub(super) fn write_order(out: &mut Vec<u8>, table: &Table) {
    let names: Vec<_> = table.key_columns().map(|column| quoted(&column.name)).collect();
    out.extend_from_slice(names.join(",").as_bytes());
}

/// Appends a condition that holds for the rows behind this key: `(a>1 OR (a=1 AND (b>2)))`.
pub(super) fn write_after(out: &mut Vec<u8>, table: &Table, key: &Row<'_>) -> Result<(), Fault> {
    write_beyond(out, table, key, ">", ">")
}

/// Appends a condition that holds for the rows up to this key, and for its own.
pub(super) fn write_until(out: &mut Vec<u8>, table: &Table, key: &Row<'_>) -> Result<(), Fault> {
    write_beyond(out, table, key, "<", "<=")
}

/// `last` compares the last of the key's columns.
fn write_beyond(
    out: &mut Vec<u8>,
    table: &Table,
    key: &Row<'_>,
    operator: &str,
    last: &str,
) -> Result<(), Fault> {
    let count = table.primary_key.len();
    out.push(b'(');
    for (place, column) in table.key_columns().enumerate() {
        if place + 1 == count {
            write_side(out, column, last, key)?;
        } else {
            write_side(out, column, operator, key)?;
            out.extend_from_slice(b" OR (");
            write_side(out, column, "=", key)?;
            out.extend_from_slice(b" AND (");
        }
    }
    out.extend_from_slice(&b"))".repeat(count.saturating_sub(1)));
    out.push(b')');
    Ok(())
}

/// Appends a condition that holds for the row with this key: `(a=1 AND b=2)`.
pub(super) fn write_equal(out: &mut Vec<u8>, table: &Table, key: &Row<'_>) -> Result<(), Fault> {
    write_values(out, table.key_columns(), key)
}

/// The same for the rows with this row's values in some columns.
pub(super) fn write_values<'a>(
    out: &mut Vec<u8>,
    columns: impl Iterator<Item = &'a Column>,
    row: &Row<'_>,
) -> Result<(), Fault> {
    for (place, column) in columns.enumerate() {
        out.extend_from_slice(if place == 0 { b"(" } else { b" AND " });
        write_side(out, column, "=", row)?;
    }
    out.push(b')');
    Ok(())
}

fn write_side(
    out: &mut Vec<u8>,
    column: &Column,
    operator: &str,
    key: &Row<'_>,
) -> Result<(), Fault> {
    let json = key.named(&column.name).ok_or_else(|| {
        Fault::fatal(Code::Table, format!("a key lacks the column {}", column.name))
            .hint("compare the primary keys of the table in the two units")
    })?;
    out.extend_from_slice(quoted(&column.name).as_bytes());
    out.extend_from_slice(operator.as_bytes());
    match &column.kind {
        Type::Enum(definition) | Type::Set(definition) => {
            let number = number(&column.kind, definition, json).ok_or_else(|| {
                Fault::poison(
                    Code::Table,
                    format!("column {}: a key's value is no member", column.name),
                )
                .hint("compare the column's definitions in the two units")
            })?;
            out.extend_from_slice(number.to_string().as_bytes());
            Ok(())
        }
        _ => write_literal(out, column, json),
    }
}

/// The number by which the server keeps the value of an ENUM or a SET.
fn number(kind: &Type, definition: &str, json: &str) -> Option<u64> {
    if json == "0" {
        return Some(0);
    }
    let mut text = String::new();
    unescaped(json, |part| text.push_str(part))?;
    let members = members(definition);
    let place = |text: &str| members.iter().position(|member| member == text);
    match kind {
        Type::Enum(_) => match place(&text) {
            Some(place) => Some(place as u64 + 1),
            None => text.is_empty().then_some(0),
        },
        _ if text.is_empty() => Some(0),
        _ => text.split(',').try_fold(0, |all, text| Some(all | 1 << place(text)?)),
    }
}

/// The members of `enum('a','b''c')` or a set.
pub(super) fn members(definition: &str) -> Vec<String> {
    let inside = definition.split_once('(').map_or("", |(_, inside)| inside);
    let mut members = Vec::new();
    let mut member: Option<String> = None;
    let mut characters = inside.chars().peekable();
    while let Some(character) = characters.next() {
        match (&mut member, character) {
            (None, '\'') => member = Some(String::new()),
            (None, _) => {}
            (Some(text), '\'') if characters.peek() == Some(&'\'') => {
                characters.next();
                text.push('\'');
            }
            (Some(_), '\'') => members.extend(member.take()),
            (Some(text), '\\') => text.push(match characters.next() {
                Some('0') => '\0',
                Some('n') => '\n',
                Some('r') => '\r',
                Some(other) => other,
                None => break,
            }),
            (Some(text), other) => text.push(other),
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_a_definition() {
        assert_eq!(members(r"enum('a','b''c','','A\\','(,)')"), ["a", "b'c", "", "A\\", "(,)"]);
        assert!(members("int").is_empty());
    }

    #[test]
    fn conditions_of_a_key_of_three() {
        let column = |name: &str| Column {
            name: name.into(),
            kind: Type::Integer { bits: 32, unsigned: false },
            nullable: false,
            generated: None,
            invisible: false,
            counted: false,
            required: true,
            length: 0,
            bytes: 0,
        };
        let table = Table {
            database: "shop".into(),
            name: "t".into(),
            engine: "InnoDB".into(),
            versioned: false,
            columns: ["c", "a", "b"].map(column).to_vec(),
            primary_key: vec![1, 2, 0],
            primary_partial: false,
            unique_keys: Vec::new(),
            parents: Vec::new(),
            children: Vec::new(),
            triggers: Vec::new(),
        };
        let key: Row<'_> = serde_json::from_str(r#"{"a":1,"b":2,"C":3}"#).unwrap();
        let written = |write: fn(&mut Vec<u8>, &Table, &Row<'_>) -> Result<(), Fault>| {
            let mut out = Vec::new();
            write(&mut out, &table, &key).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(write_after), "(`a`>1 OR (`a`=1 AND (`b`>2 OR (`b`=2 AND (`c`>3)))))");
        assert_eq!(written(write_until), "(`a`<1 OR (`a`=1 AND (`b`<2 OR (`b`=2 AND (`c`<=3)))))");
        assert_eq!(written(write_equal), "(`a`=1 AND `b`=2 AND `c`=3)");
        let short: Row<'_> = serde_json::from_str(r#"{"a":1}"#).unwrap();
        assert_eq!(write_equal(&mut Vec::new(), &table, &short).unwrap_err().code, Code::Table);
    }

    #[test]
    fn numbers_of_members() {
        let definition = "enum('b','','a')";
        let kind = Type::Enum(definition.into());
        for (json, expected) in [
            ("\"b\"", Some(1)),
            ("\"\"", Some(2)),
            ("\"a\"", Some(3)),
            ("0", Some(0)),
            ("\"c\"", None),
        ] {
            assert_eq!(number(&kind, definition, json), expected, "{json}");
        }
        let definition = "set('x','y','z')";
        let kind = Type::Set(definition.into());
        assert_eq!(number(&kind, definition, "\"x,z\""), Some(5));
        assert_eq!(number(&kind, definition, "\"\""), Some(0));
        assert_eq!(number(&kind, definition, "\"x,q\""), None);
    }
}
