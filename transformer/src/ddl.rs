//! Tells which statements concern other units.
//!
//! Judged by the leading words alone. What is not recognised concerns them: a sink that stops at
//! a statement loses nothing.

use serde::{Deserialize, Serialize};

/// A statement as it stands in a record's value.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The session's database, in which unqualified names are looked up.
    pub database: String,
    /// The statement's text as the server logged it.
    pub ddl: String,
}

/// Stands in each statement that Unitflow itself executes on a store.
pub const INTERNAL_COMMENT: &str = "/* unitflow internal */";

/// Beginnings of statements about accounts, which never travel, and of maintenance, which each
/// unit does for itself.
const LOCAL: &[&[&str]] = &[
    &["create", "user"],
    &["alter", "user"],
    &["drop", "user"],
    &["rename", "user"],
    &["create", "role"],
    &["drop", "role"],
    &["grant"],
    &["revoke"],
    &["set", "password"],
    &["set", "default"],
    &["set", "role"],
    &["flush"],
    &["analyze"],
    &["optimize"],
    &["repair"],
    &["drop", "temporary"],
    &["create", "temporary"],
];

/// Whether the statement changes what other units need to know.
#[must_use]
pub fn travels(statement: &str) -> bool {
    if statement.contains(INTERNAL_COMMENT) {
        return false;
    }
    let words = leading_words(statement);
    !LOCAL.iter().any(|beginning| {
        words.iter().zip(*beginning).filter(|(a, b)| a == b).count() == beginning.len()
    })
}

/// Whether the statement makes something new, of which rows may stand in the same transaction.
#[must_use]
pub fn creates(statement: &str) -> bool {
    leading_words(statement).first().is_some_and(|word| word == "create")
}

/// The first two words in lower case, without comments (the text of executable ones stays).
fn leading_words(statement: &str) -> Vec<String> {
    let mut text = String::with_capacity(64);
    let mut rest = statement;
    while let Some(start) = rest.find("/*").filter(|_| text.split_whitespace().count() < 2) {
        text.push_str(&rest[..start]);
        text.push(' ');
        let inside = &rest[start + 2..];
        let end = inside.find("*/").unwrap_or(inside.len());
        let comment = &inside[..end];
        if let Some(executable) = comment.strip_prefix("M!").or_else(|| comment.strip_prefix('!')) {
            text.push_str(executable.trim_start_matches(|c: char| c.is_ascii_digit()));
            text.push(' ');
        }
        rest = inside.get(end + 2..).unwrap_or("");
    }
    text.push_str(rest);
    text.split_whitespace().take(2).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_maintenance_and_our_own_statements_stay() {
        for stays in [
            "CREATE USER a",
            "grant all on *.* to a",
            "/* hello */ ANALYZE TABLE t",
            "DROP /*!40005 TEMPORARY */ TABLE IF EXISTS `t`",
            "CREATE TABLE unitflow.x (a int) /* unitflow internal */",
            "FLUSH TABLES",
        ] {
            assert!(!travels(stays), "{stays}");
        }
        for goes in [
            "create table t (a int)",
            "DROP TABLE user",
            "/*",
            "",
            "TRUNCATE t",
            "create usergroup",
        ] {
            assert!(travels(goes), "{goes}");
        }
    }
}
