//! The ledger: one row a lane in the target itself, which is at once the exactly-once record, the
//! fence against a second sink, and the mark by which the target's transformer knows the
//! transaction is not its unit's own.
//!
//! Every transaction begins by moving its lane's row from the `seq` the lane believes in to the
//! last one it applies; only a row that was where it was believed to be may be committed.

use std::io::Write as _;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use unitflow_change::copy::Chunk;
use unitflow_change::name::{Log, Name};
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault, inject};
use unitflow_mysql::connect::fault as judge;

/// One lane's row.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The lane.
    pub lane: i32,
    /// The last record applied.
    pub seq: Seq,
    /// The Kafka id of the tagged topic that `topic_offset` belongs to.
    pub topic_id: String,
    /// The offset to read next.
    pub topic_offset: i64,
    /// Seconds since the row was last written, by the target's clock.
    pub idle_seconds: f64,
    /// Seconds between the source's commit of the last change and its commit here.
    pub lag_seconds: Option<f64>,
    /// The last record that the lane may pass only together with all others; above `seq` where it
    /// waits for them before it.
    pub barrier: Option<Seq>,
}

/// A record that some lanes have come to and others have not, though all have to pass it together.
#[derive(Clone, Debug, PartialEq)]
pub struct Meeting {
    /// The record.
    pub seq: Seq,
    /// The lanes that have not come to it; none where only the first is left, which acts for all.
    pub missing: Vec<i32>,
    /// For how long the first to come has stood there.
    pub seconds: f64,
    /// A lane that has come to it.
    pub met: i32,
}

/// Where a log's lanes wait for each other, if they do.
#[must_use]
pub fn meeting(entries: &[Entry]) -> Option<Meeting> {
    let (seq, met) = entries.iter().filter_map(|entry| Some((entry.barrier?, entry.lane))).max()?;
    let has_come = |entry: &&Entry| entry.barrier == Some(seq);
    if entries.iter().all(|entry| entry.seq >= seq) {
        return None;
    }
    let missing = entries.iter().filter(|entry| !has_come(entry) && entry.seq < seq);
    let mut missing: Vec<i32> = missing.map(|entry| entry.lane).collect();
    // It can't be told whether the first has come before it has waited for long.
    if missing == [0] {
        missing.clear();
    }
    let waited = entries.iter().filter(has_come).map(|entry| entry.idle_seconds);
    Some(Meeting { seq, missing, seconds: waited.fold(0.0, f64::max), met })
}

const SELECT: &str = "SELECT lane, seq, topic_id, topic_offset, \
    TIMESTAMPDIFF(MICROSECOND, applied_at, CURRENT_TIMESTAMP(6)) / 1e6, \
    TIMESTAMPDIFF(MICROSECOND, committed_at, applied_at) / 1e6, barrier FROM unitflow.ledger WHERE log = ?";

/// All rows of a log, by lane.
pub async fn read_all(conn: &mut Conn, log: &Log) -> Result<Vec<Entry>, Fault> {
    let rows: Vec<Row> = conn
        .exec(format!("{SELECT} ORDER BY lane"), (log.to_string(),))
        .await
        .map_err(|error| judge(&error).at("unitflow.ledger"))?;
    rows.into_iter().map(entry).collect()
}

/// Where every lane of every log stands.
pub async fn read_logs(conn: &mut Conn) -> Result<Vec<(Log, i32, Seq)>, Fault> {
    let rows: Vec<(String, i32, u64)> = conn
        .query("SELECT log, lane, seq FROM unitflow.ledger ORDER BY log, lane")
        .await
        .map_err(|error| judge(&error).at("unitflow.ledger"))?;
    let known =
        rows.into_iter().filter_map(|(log, lane, seq)| Some((Log::parse(&log)?, lane, Seq(seq))));
    Ok(known.collect())
}

/// Whether all that a chunk's source had applied of third units is applied here too, where lanes stand
/// like this.
#[must_use]
pub fn has_applied(stands: &[(Log, i32, Seq)], chunk: &Chunk, here: &Name) -> bool {
    let known = chunk.ledger.iter().filter_map(|(name, lanes)| Some((Log::parse(name)?, lanes)));
    let others = known.filter(|(log, _)| log.unit != *here);
    let wanted: Vec<_> = others
        .flat_map(|(log, lanes)| {
            lanes.iter().map(move |there| (log.clone(), there.lane, there.seq))
        })
        .collect();
    is_up_to(stands, &wanted)
}

/// Whether lanes that stand like this have come to where others stand. A log that does not come here
/// has no rows here.
#[must_use]
pub fn is_up_to(stands: &[(Log, i32, Seq)], wanted: &[(Log, i32, Seq)]) -> bool {
    wanted.iter().all(|(log, lane, seq)| {
        let known = stands.iter().find(|(of, number, _)| (of, number) == (log, lane));
        known.is_none_or(|(.., stands)| stands >= seq)
    })
}

/// One lane's row; a missing one stops, for it is not a fresh start.
pub async fn read(conn: &mut Conn, log: &Log, lane: i32) -> Result<Entry, Fault> {
    let row: Option<Row> = conn
        .exec_first(format!("{SELECT} AND lane = ?"), (log.to_string(), lane))
        .await
        .map_err(|error| judge(&error).at("unitflow.ledger"))?;
    let row = row.ok_or_else(|| {
        Fault::fatal(Code::LedgerMissing, format!("unitflow.ledger has no row for log {log}, lane {lane}"))
            .hint("a flow that never ran: unitflow init; one that ran has lost its place: restore the row, or see the runbook for how a log begins anew")
    })?;
    entry(row)
}

fn entry(row: Row) -> Result<Entry, Fault> {
    let (lane, seq, topic_id, topic_offset, idle_seconds, lag_seconds, barrier) =
        mysql_async::from_row_opt(row).map_err(|error| {
            Fault::fatal(
                Code::LedgerMissing,
                format!("a row of unitflow.ledger can't be read: {error}"),
            )
        })?;
    let (seq, barrier): (u64, Option<u64>) = (seq, barrier);
    let (seq, barrier) = (Seq(seq), barrier.map(Seq));
    Ok(Entry { lane, seq, topic_id, topic_offset, idle_seconds, lag_seconds, barrier })
}

/// Creates a lane's first row, at `seq` and the topic's beginning. Only `init` and `join` may.
pub async fn create(
    conn: &mut Conn,
    log: &Log,
    lane: i32,
    seq: Seq,
    topic_id: &str,
) -> Result<(), Fault> {
    conn.exec_drop(
        "INSERT INTO unitflow.ledger (log, lane, seq, topic_id, topic_offset, origin) VALUES (?, ?, ?, ?, 0, ?)",
        (log.to_string(), lane, seq.0, topic_id, log.unit.as_str()),
    )
    .await
    .map_err(|error| judge(&error).at("unitflow.ledger"))
}

/// Takes away all that is held of a log, and its unit's clock, in one transaction; says how many
/// lanes there were. The ledger's rows come first, so that it is no change of this unit's own.
pub async fn forget(conn: &mut Conn, log: &Log) -> Result<usize, Fault> {
    let (name, unit) = (log.to_string(), log.unit.as_str());
    let lanes = async {
        conn.query_drop("BEGIN").await?;
        conn.exec_drop("DELETE FROM unitflow.ledger WHERE log = ?", (&name,)).await?;
        let lanes = conn.affected_rows();
        conn.exec_drop("DELETE FROM unitflow.parked WHERE log = ?", (&name,)).await?;
        conn.exec_drop("DELETE FROM unitflow.ddl WHERE log = ?", (&name,)).await?;
        // Nobody brings what is noted in tables that were filled from it.
        let notes = "DELETE FROM unitflow.unsettled WHERE (db, tbl) IN \
                     (SELECT db, tbl FROM unitflow.filling WHERE log = ?)";
        conn.exec_drop(notes, (&name,)).await?;
        conn.exec_drop("DELETE FROM unitflow.filling WHERE log = ?", (&name,)).await?;
        // Where the log begins anew its numbers are low again, and have to lie behind what is noted.
        let low = "UPDATE IGNORE unitflow.unsettled SET lane = 0, seq = 0 WHERE log = ?";
        conn.exec_drop(low, (&name,)).await?;
        conn.exec_drop("DELETE FROM unitflow.unsettled WHERE log = ? AND seq > 0", (&name,))
            .await?;
        let passed = format!("passed {name} %");
        conn.exec_drop("DELETE FROM unitflow.marker WHERE name LIKE ?", (passed,)).await?;
        conn.exec_drop("DELETE FROM unitflow.heartbeat WHERE unit = ?", (unit,)).await?;
        conn.query_drop("COMMIT").await?;
        Ok(lanes)
    };
    let lanes = lanes.await.map_err(|error: mysql_async::Error| judge(&error).at("unitflow"))?;
    Ok(usize::try_from(lanes).unwrap_or(usize::MAX))
}

/// Whether each lane has applied its last record.
#[must_use]
pub fn reached(entries: &[Entry], tails: &[Seq]) -> bool {
    (0..)
        .zip(tails)
        .all(|(lane, tail)| entries.iter().any(|entry| entry.lane == lane && entry.seq >= *tail))
}

/// Lets a lane go on at another offset, behind records that it will never apply; nothing happens
/// where it no longer stands at `from`.
pub async fn pass_over(
    conn: &mut Conn,
    (log, lane): (&Log, i32),
    (from, to): (Seq, Seq),
    topic_offset: i64,
) -> Result<(), Fault> {
    conn.exec_drop(
        "UPDATE unitflow.ledger SET seq = ?, topic_offset = ?, barrier = NULL, applied_at = CURRENT_TIMESTAMP(6) \
         WHERE log = ? AND lane = ? AND seq = ?",
        (to.0, topic_offset, log.to_string(), lane, from.0),
    )
    .await
    .map_err(|error| judge(&error).at("unitflow.ledger"))
}

/// The row's move to a batch's end, as SQL.
#[derive(Debug)]
pub struct Move<'a> {
    /// The log.
    pub log: &'a Log,
    /// The lane.
    pub lane: i32,
    /// Where the row must stand.
    pub from: Seq,
    /// Where it is moved to; equal to `from` for the mark that opens a long transaction.
    pub to: Seq,
    /// The offset to read next.
    pub topic_offset: i64,
    /// When the source committed the last change, in µs since 1970; 0 if unknown.
    pub commit_us: u64,
    /// Whether `to` is a record that all lanes have to reach together.
    pub barrier: bool,
}

impl Move<'_> {
    /// Appends the statement; it must be seen to match one row. `applied_at` always changes, for
    /// an update that changes nothing is not logged and would mark nothing.
    pub fn write(&self, sql: &mut Vec<u8>) {
        let Self { log, lane, from, to, topic_offset, commit_us, barrier } = self;
        // Names hold letters, digits, hyphens and a dot; writing to a Vec can't fail.
        let _ = write!(sql, "UPDATE unitflow.ledger SET seq={to},topic_offset={topic_offset},");
        if *commit_us > 0 {
            let (seconds, micros) = (commit_us / 1_000_000, commit_us % 1_000_000);
            let _ = write!(sql, "committed_at=FROM_UNIXTIME({seconds}.{micros:06}),");
        }
        if *barrier {
            let _ = write!(sql, "barrier={to},");
        }
        let _ = write!(sql, "applied_at=CURRENT_TIMESTAMP(6) WHERE log='{log}' AND lane={lane}");
        if !inject::on("no_cas") {
            let _ = write!(sql, " AND seq={from}");
        }
    }
}

/// What it means that the row was not where the lane believed: the one place that says so.
pub async fn explain(conn: &mut Conn, log: &Log, lane: i32, believed: Seq) -> Fault {
    match read(conn, log, lane).await {
        Err(fault) => fault,
        Ok(entry) if entry.seq < believed => Fault::retry(
            Code::TargetLostCommits,
            format!(
                "the ledger of {log}, lane {lane}, stands at {} but {believed} was committed: the target lost commits",
                entry.seq
            ),
        ),
        Ok(entry) if entry.seq == believed => Fault::retry(
            Code::LedgerMoved,
            format!("the ledger of {log}, lane {lane}, was held by another transaction"),
        ),
        Ok(entry) => Fault::retry(
            Code::LedgerMoved,
            format!(
                "the ledger of {log}, lane {lane}, stands at {} instead of {believed}: another worker applies this lane",
                entry.seq
            ),
        ),
    }
}

/// Creates the rows of the units' clocks, equal everywhere, so that their updates find them.
pub async fn create_heartbeats(conn: &mut Conn, units: &[Name]) -> Result<(), Fault> {
    for unit in units {
        conn.exec_drop(
            "INSERT INTO unitflow.heartbeat (unit, beat, beat_at) SELECT ?, 0, '1970-01-01 00:00:01' FROM DUAL \
             WHERE NOT EXISTS (SELECT 1 FROM unitflow.heartbeat WHERE unit = ?)",
            (unit.as_str(), unit.as_str()),
        )
        .await
        .map_err(|error| judge(&error).at("unitflow.heartbeat"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(lane: i32, seq: u64, barrier: Option<u64>) -> Entry {
        Entry {
            lane,
            seq: Seq(seq),
            topic_id: String::new(),
            topic_offset: 0,
            idle_seconds: f64::from(lane),
            lag_seconds: None,
            barrier: barrier.map(Seq),
        }
    }

    #[test]
    fn lanes_that_wait_for_others_show_for_whom() {
        let missing = |entries: &[Entry]| meeting(entries).map(|meeting| meeting.missing);
        let behind = |lane| entry(lane, 4, Some(2));
        let there = |lane| entry(lane, 8, Some(8));
        // The first lane has read the record and may not stand on it before the others do.
        let noted = entry(0, 4, Some(8));
        assert_eq!(missing(&[there(0), there(1), entry(2, 9, Some(8))]), None);
        assert_eq!(missing(&[behind(0), behind(1)]), None);
        assert_eq!(missing(&[behind(0), there(1), behind(2)]), Some(vec![0, 2]));
        assert_eq!(missing(&[noted.clone(), behind(1)]), Some(vec![1]));
        assert_eq!(missing(&[behind(0), there(1), there(2)]), Some(vec![]));
        assert_eq!(missing(&[noted, there(1)]), Some(vec![]));
        assert_eq!(meeting(&[behind(0), there(1), there(2)]).unwrap().seconds, 2.0);
    }
}
