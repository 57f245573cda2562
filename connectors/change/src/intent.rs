//! What a sink is about to run: the announcement of a schema change.
//!
//! A statement commits by itself, so neither a mark nor the lane's progress can stand in one
//! transaction with it. Before it runs one, a sink writes a row into `unitflow.ddl`, in a marked
//! transaction of its own. By that row the store's own transformer knows the statement when it
//! comes, and the sink, after a crash, what to look for in the store's log.

use serde::{Deserialize, Serialize};

use crate::ddl::{Class, MARK, Session, Statement, Verb};
use crate::envelope::Row;
use crate::fault::{Code, Fault};
use crate::seq::Seq;

/// The internal table of announcements.
pub const DDL_TABLE: &str = "ddl";

/// An announcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// The log that the statement came from.
    pub log: String,
    /// Its record's number there.
    pub seq: Seq,
    /// What is run.
    pub statement: Statement,
}

impl Intent {
    /// The comment that ends the statement where it is run.
    #[must_use]
    pub fn comment(&self) -> String {
        format!("{MARK}{} {} */", self.log, self.seq)
    }

    /// Whether a statement of the store's log is this one: by the comment; or by doing the same to
    /// the same tables where servers write statements anew; or by being the same word for word, as
    /// by the hand of a person.
    #[must_use]
    pub fn is(&self, statement: &Statement, class: &Class) -> bool {
        if statement.is_marked() {
            return statement.ddl.contains(&self.comment());
        }
        // It was announced by a server that may call its tables otherwise than the one that ran it.
        let mut known = self.statement.clone();
        known.session.folds_names = statement.session.folds_names;
        let anew = class.is_written_anew() && statement.begins_like(&known);
        in_any_order(class) == in_any_order(&known.class())
            && (anew || statement.says_the_same_as(&known))
    }

    /// Reads a row of the table.
    pub fn of_row(row: &Row<'_>) -> Result<Self, Fault> {
        let unreadable =
            || Fault::fatal(Code::Record, "a row of unitflow.ddl can't be read from the log");
        let text = |column: &str| -> Result<String, Fault> {
            let raw = row.get(column).ok_or_else(unreadable)?;
            serde_json::from_str(raw).map_err(|_| unreadable())
        };
        let number = |column: &str| -> Result<u64, Fault> {
            row.get(column).and_then(|raw| raw.parse().ok()).ok_or_else(unreadable)
        };
        Ok(Self {
            log: text("log")?,
            seq: Seq(number("seq")?),
            statement: Statement {
                // An older build's table has no such column.
                session: match row.get("session") {
                    Some(_) => Session::parse(&text("session")?)?,
                    None => Session::default(),
                },
                ..Statement::new(&text("db")?, &text("ddl")?, number("sql_mode")?)
            },
        })
    }
}

/// Servers name the tables that they dropped before those that were not there.
fn in_any_order(class: &Class) -> Class {
    let mut class = class.clone();
    if let Class::Tables(Verb::Drop, tables) = &mut class {
        tables.sort_unstable();
    }
    class
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(announced: &str, found: &str) -> bool {
        let statement = |ddl| Statement::new("shop", ddl, 0);
        let intent =
            Intent { log: "A.shop".into(), seq: Seq(1 << 48), statement: statement(announced) };
        let found = statement(found);
        intent.is(&found, &found.class())
    }

    #[test]
    fn only_what_servers_write_anew_is_known_by_what_it_does() {
        for (announced, found, same) in [
            ("DROP TABLE IF EXISTS t, u", "DROP TABLE IF EXISTS `t`,`u` /* generated */", true),
            ("DROP TABLE IF EXISTS t, u", "DROP TABLE IF EXISTS `u`,`t` /* generated */", true),
            ("DROP TABLE t", "DROP TABLE u", false),
            ("CREATE TABLE t SELECT 1 AS a", "CREATE TABLE `t` (`a` int)", true),
            ("CREATE VIEW v AS SELECT 1", "CREATE DEFINER=`a`@`%` VIEW `v` AS SELECT 1", true),
            ("CREATE VIEW v AS SELECT 1", "DROP VIEW v", false),
            // Somebody's own, at the same time.
            ("ALTER TABLE t DROP b", "ALTER TABLE t MODIFY a BIGINT", false),
            ("CREATE INDEX i ON t (a)", "CREATE INDEX j ON t (b)", false),
            ("ALTER TABLE t DROP b", "alter  table t /* by hand */ DROP b", true),
            ("ALTER TABLE t COMMENT 'a'", "ALTER TABLE t COMMENT 'b'", false),
            ("TRUNCATE t", "TRUNCATE t /* unitflow A.shop 281474976710656 */", true),
            ("TRUNCATE t", "TRUNCATE t /* unitflow A.shop 281474976710658 */", false),
        ] {
            assert_eq!(is(announced, found), same, "{announced}: {found}");
        }
    }
}
