//! What a sink is about to run: the announcement of a schema change.
//!
//! A statement commits by itself, so neither a mark nor the lane's progress can stand in one
//! transaction with it. Before it runs one, a sink writes a row into `unitflow.ddl`, in a marked
//! transaction of its own. By that row the store's own transformer knows the statement when it
//! comes, and the sink, after a crash, what to look for in the store's log.

use serde::{Deserialize, Serialize};

use crate::ddl::{Class, Statement};
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
        format!("/* unitflow {} {} */", self.log, self.seq)
    }

    /// Whether a statement of the store's log is this one: by the comment or, since servers write
    /// some statements anew, by doing the same to the same tables.
    #[must_use]
    pub fn is(&self, statement: &Statement, class: &Class) -> bool {
        if statement.ddl.contains("/* unitflow ") {
            return statement.ddl.contains(&self.comment());
        }
        !matches!(class, Class::Unknown | Class::Local) && *class == self.statement.class()
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
            statement: Statement::new(&text("db")?, &text("ddl")?, number("sql_mode")?),
        })
    }
}
