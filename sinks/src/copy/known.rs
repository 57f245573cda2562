//! From which record of its own log on this unit can judge copies that come to it.
//!
//! A copy leaves alone what this unit wrote and the copy's source had not applied, by number. What it
//! wrote while its log was not captured has none: a source that stands before the first record behind
//! that may hold older rows.

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use unitflow_change::Fault;
use unitflow_change::seq::Seq;
use unitflow_mysql::connect::fault as judge;

/// The row of `unitflow.marker` that says it.
const NAME: &str = "known from";

/// Sets the first record behind what was not captured.
pub async fn set(conn: &mut Conn, from: Seq) -> Result<(), Fault> {
    let put = "INSERT INTO unitflow.marker (name, n) VALUES (?, ?) \
               ON DUPLICATE KEY UPDATE n = VALUES(n)";
    conn.exec_drop(put, (NAME, from.0)).await.map_err(|error| judge(&error).at("unitflow.marker"))
}

/// What was set last; the log's beginning where all was captured.
pub async fn from(conn: &mut Conn) -> Result<Seq, Fault> {
    let found: Option<u64> = conn
        .exec_first("SELECT n FROM unitflow.marker WHERE name = ?", (NAME,))
        .await
        .map_err(|error| judge(&error).at("unitflow.marker"))?;
    Ok(found.map_or(Seq::NONE, Seq))
}

/// The log begins anew: all that comes to it is captured.
pub async fn forget(conn: &mut Conn) -> Result<(), Fault> {
    conn.exec_drop("DELETE FROM unitflow.marker WHERE name = ?", (NAME,))
        .await
        .map_err(|error| judge(&error).at("unitflow.marker"))
}
