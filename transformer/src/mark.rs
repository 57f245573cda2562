//! Tells the unit's own transactions from those that a sink applied.
//!
//! A sink begins every transaction by writing its ledger row, so a transaction whose first change
//! is one to `unitflow.ledger` carries another unit's changes: it has crossed already and must
//! not cross again. A change to the ledger further inside is no mark.

use serde::{Deserialize, Serialize};
use unitflow_change::inject;
use unitflow_change::routing::{INTERNAL_DATABASE, LEDGER_TABLE};

/// Whose changes the open transaction holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whose {
    /// The unit's own.
    Own,
    /// Another unit's, applied here by a sink.
    Applied,
    /// None's: they are rows as the store holds them, read by a copy.
    Copied,
}

/// Judges a transaction by its first change.
#[must_use]
pub fn whose(database: &str, table: &str) -> Whose {
    if database == INTERNAL_DATABASE && table == LEDGER_TABLE && !inject::on("ignore_mark") {
        Whose::Applied
    } else {
        Whose::Own
    }
}
