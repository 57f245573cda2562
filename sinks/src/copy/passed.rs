//! Records that this unit was let pass over, because they were gone, and that a copy has still to bring.
//!
//! The ledger stands behind them, so whoever takes rows from here would hold what they wrote for older
//! than it is. Each lane's place before them is kept in `unitflow.marker` until all has come.

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use unitflow_change::Fault;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_mysql::connect::fault as judge;
use unitflow_mysql::literal::quote_string;

/// Notes that a lane passes over what stands behind this record; the oldest note counts.
pub async fn note(conn: &mut Conn, (log, lane): (&Log, i32), stands: Seq) -> Result<(), Fault> {
    let put = "INSERT INTO unitflow.marker (name, n) VALUES (?, ?) \
               ON DUPLICATE KEY UPDATE n = LEAST(n, VALUES(n))";
    conn.exec_drop(put, (format!("passed {log} {lane}"), stands.0))
        .await
        .map_err(|error| judge(&error).at("unitflow.marker"))
}

/// The lanes of a log that lack what they passed over.
pub async fn lanes(conn: &mut Conn, log: &Log) -> Result<Vec<i32>, Fault> {
    let names: Vec<String> = conn
        .exec("SELECT name FROM unitflow.marker WHERE name LIKE ?", (format!("passed {log} %"),))
        .await
        .map_err(|error| judge(&error).at("unitflow.marker"))?;
    let mut lanes: Vec<i32> =
        names.iter().filter_map(|name| name.rsplit(' ').next()?.parse().ok()).collect();
    lanes.sort_unstable();
    Ok(lanes)
}

/// What a log's lanes have passed over has come.
pub async fn forget(conn: &mut Conn, log: &Log) -> Result<(), Fault> {
    // A log's name holds nothing that LIKE would take for more.
    conn.exec_drop("DELETE FROM unitflow.marker WHERE name LIKE ?", (format!("passed {log} %"),))
        .await
        .map_err(|error| judge(&error).at("unitflow.marker"))
}

/// The statement that reads, for some tables, which lanes stand lower than the ledger says: log, lane and
/// where. A parked table lacks what its lane passes over, too.
#[must_use]
pub fn query(tables: &[(&str, &str)]) -> String {
    let mut sql = "SELECT SUBSTRING_INDEX(SUBSTRING(name, 8), ' ', 1), \
                   CAST(SUBSTRING_INDEX(name, ' ', -1) AS SIGNED), n \
                   FROM unitflow.marker WHERE name LIKE 'passed %'"
        .to_owned();
    let mut names = Vec::new();
    for (place, (database, table)) in tables.iter().enumerate() {
        names.extend_from_slice(if place == 0 { b"(" } else { b",(" });
        quote_string(&mut names, database);
        names.push(b',');
        quote_string(&mut names, table);
        names.push(b')');
    }
    if !names.is_empty() {
        sql.push_str(" UNION ALL SELECT log, lane, seq FROM unitflow.parked WHERE (db, tbl) IN (");
        sql.push_str(&String::from_utf8_lossy(&names));
        sql.push(')');
    }
    sql
}
