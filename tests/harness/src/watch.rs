//! What has to hold at a target while changes arrive.
//!
//! * [`versions`]: a version polled there never goes down.
//! * [`rows`]: so does a number in a row, and a row that was deleted does not come back.
//! * [`totals`]: a unit's money adds up in every consistent read.
//! * [`ensure_positions`]: in one snapshot, the ledger and the rows tell the same: every pulse stands where
//!   the last record up to its lane's ledger position left it. So a position is stored with the
//!   data and is never ahead of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use unitflow_change::invariants::Versions;
use unitflow_local::Mysql;

use crate::load::connect;
use crate::plan::{ACCOUNTS, BALANCE};
use crate::schema::DATABASE;
use crate::tagged::{self, Tagged};

const PAUSE: Duration = Duration::from_millis(10);
/// Between two reads of whole tables.
const PAUSE_ROWS: Duration = Duration::from_millis(300);
const QUERY: Duration = Duration::from_secs(30);

/// A watcher at work.
#[derive(Debug)]
pub struct Watch<T> {
    signals: Arc<Signals>,
    task: JoinHandle<anyhow::Result<T>>,
}

#[derive(Debug, Default)]
struct Signals {
    stop: AtomicBool,
    /// How often what is watched was seen to have moved.
    moves: AtomicUsize,
}

impl Signals {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl<T> Watch<T> {
    /// Waits until what is watched was seen to have moved so often.
    pub async fn wait_for_moves(&self, moves: usize, within: Duration) -> anyhow::Result<()> {
        let moved = async {
            while self.signals.moves.load(Ordering::Relaxed) < moves && !self.task.is_finished() {
                sleep(PAUSE).await;
            }
        };
        timeout(within, moved).await.with_context(|| {
            let seen = self.signals.moves.load(Ordering::Relaxed);
            format!("seen to move {seen} times, not {moves}, in {within:?}")
        })
    }

    /// Stops watching; what was found, if it was in order.
    pub async fn stop(self) -> anyhow::Result<T> {
        self.signals.stop.store(true, Ordering::Relaxed);
        timeout(QUERY * 2, self.task).await.context("a watcher hangs")??
    }

    fn start<F>(watch: impl FnOnce(Arc<Signals>) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let signals = Arc::new(Signals::default());
        let task = tokio::spawn(watch(signals.clone()));
        Self { signals, task }
    }
}

/// Polls the pulses and some orders of all units at a target; gives the number of polls.
pub async fn versions(target: &Mysql) -> anyhow::Result<Watch<u64>> {
    let mut conn = connect(target).await?;
    Ok(Watch::start(|signals| async move {
        let mut versions: Versions<(String, String, u32)> = Versions::default();
        let mut polls = 0;
        while !signals.is_over() {
            for table in ["pulse", "accounts", "items"] {
                let query =
                    format!("SELECT unit, number, version FROM {DATABASE}.{table} LIMIT 500");
                let rows: Vec<(String, u32, u32)> = timeout(QUERY, conn.query(query)).await??;
                for (unit, number, version) in rows {
                    versions.see((table.to_owned(), unit, number), version.into())?;
                }
            }
            polls += 1;
            sleep(PAUSE).await;
        }
        conn.disconnect().await?;
        Ok(polls)
    }))
}

/// Polls rows that have one writer at a target, by a query for each one's `id` and `n`: `n` only rises, and
/// who is gone does not come back. Gives the number of polls.
pub async fn rows(target: &Mysql, query: &str) -> anyhow::Result<Watch<u64>> {
    let mut conn = connect(target).await?;
    let query = query.to_owned();
    Ok(Watch::start(|signals| async move {
        let mut versions: Versions<u64> = Versions::default();
        let mut last: BTreeSet<u64> = BTreeSet::new();
        let mut gone: BTreeSet<u64> = BTreeSet::new();
        let mut polls = 0;
        while !signals.is_over() {
            let rows: Vec<(u64, u64)> = timeout(QUERY, conn.query(&query)).await??;
            for (id, n) in &rows {
                versions.see(*id, *n)?;
                ensure!(!gone.contains(id), "row {id} was deleted, and came back");
            }
            let now = rows.into_iter().map(|(id, _)| id).collect();
            gone.extend(last.difference(&now));
            last = now;
            polls += 1;
            sleep(PAUSE_ROWS).await;
        }
        conn.disconnect().await?;
        Ok(polls)
    }))
}

/// Reads the money of each unit at a target, over and over; gives the number of reads that saw some.
pub async fn totals(target: &Mysql) -> anyhow::Result<Watch<u64>> {
    let mut conn = connect(target).await?;
    Ok(Watch::start(|signals| async move {
        let mut reads = 0;
        while !signals.is_over() {
            let query = format!(
                "SELECT unit, CAST(SUM(balance) AS SIGNED), COUNT(*) FROM {DATABASE}.accounts GROUP BY unit"
            );
            let rows: Vec<(String, i64, i64)> = timeout(QUERY, conn.query(query)).await??;
            for (unit, total, accounts) in rows {
                ensure!(
                    total == accounts * BALANCE,
                    "{unit}'s {accounts} accounts hold {total}, not {}",
                    accounts * BALANCE
                );
                ensure!(
                    accounts % i64::from(ACCOUNTS) == 0,
                    "{accounts} accounts of {unit}: a transaction is there in part"
                );
                reads += 1;
            }
            sleep(PAUSE).await;
        }
        conn.disconnect().await?;
        Ok(reads)
    }))
}

/// What one snapshot of a target holds.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Lane and number of the ledger rows of one log.
    ledger: Vec<(i32, u64)>,
    /// Number and version of that unit's pulses.
    pulses: Vec<(u32, u32)>,
}

/// Takes snapshots of a target over and over, for [`ensure_positions`]; it moves where the ledger does.
pub async fn snapshots(target: &Mysql, from: &str) -> anyhow::Result<Watch<Vec<Snapshot>>> {
    let mut conn = connect(target).await?;
    let from = from.to_owned();
    Ok(Watch::start(|signals| async move {
        let mut snapshots: Vec<Snapshot> = Vec::new();
        while !signals.is_over() {
            let now = timeout(QUERY, snapshot(&mut conn, &from)).await??;
            let before = snapshots.last().map_or(&[][..], |last| &last.ledger);
            signals.moves.fetch_add(usize::from(before != now.ledger), Ordering::Relaxed);
            snapshots.push(now);
            sleep(PAUSE).await;
        }
        conn.disconnect().await?;
        Ok(snapshots)
    }))
}

async fn snapshot(conn: &mut Conn, from: &str) -> anyhow::Result<Snapshot> {
    conn.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
    let ledger = conn
        .query(format!("SELECT lane, seq FROM unitflow.ledger WHERE log = '{from}.shop'"))
        .await?;
    let pulses = conn
        .query(format!("SELECT number, version FROM {DATABASE}.pulse WHERE unit = '{from}'"))
        .await?;
    conn.query_drop("COMMIT").await?;
    Ok(Snapshot { ledger, pulses })
}

/// Compares snapshots with the tagged topic; gives how many different states were seen.
pub fn ensure_positions(
    snapshots: &[Snapshot],
    bootstrap: &str,
    topic: &str,
) -> anyhow::Result<usize> {
    compare(snapshots, &tagged::read(bootstrap, topic)?)
}

fn compare(snapshots: &[Snapshot], changes: &[Tagged]) -> anyhow::Result<usize> {
    let mut pulses: HashMap<u32, Vec<(i32, u64, u32)>> = HashMap::new();
    for change in changes {
        if let (Some((number, version)), "pulse") = (change.row, change.table.as_str()) {
            pulses.entry(number).or_default().push((change.lane, change.seq.0, version));
        }
    }
    let mut states = 0;
    let mut before: &[(i32, u64)] = &[];
    for snapshot in snapshots {
        states += usize::from(before != snapshot.ledger.as_slice());
        before = &snapshot.ledger;
        let ledger: HashMap<i32, u64> = snapshot.ledger.iter().copied().collect();
        let rows: HashMap<u32, u32> = snapshot.pulses.iter().copied().collect();
        for (number, records) in &pulses {
            let reached = |(lane, seq, _): &&(i32, u64, u32)| {
                ledger.get(lane).is_some_and(|position| seq <= position)
            };
            let expected = records.iter().rfind(reached).map(|(_, _, version)| *version);
            let there = rows.get(number).copied();
            ensure!(
                expected == there,
                "pulse {number} stands at version {there:?} while the ledger stands at {expected:?}"
            );
        }
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use unitflow_change::Seq;

    use super::*;

    #[test]
    fn a_position_ahead_of_or_behind_the_data_is_found() {
        let pulse = |seq, version| Tagged {
            lane: 1,
            offset: 0,
            seq: Seq(seq),
            table: "pulse".into(),
            id: None,
            row: Some((7, version)),
        };
        let changes = [pulse(2, 1), pulse(6, 2), pulse(10, 3)];
        let at =
            |seq, version| Snapshot { ledger: vec![(0, 99), (1, seq)], pulses: vec![(7, version)] };
        assert_eq!(compare(&[at(2, 1), at(4, 1), at(6, 2), at(12, 3)], &changes).unwrap(), 4);
        assert!(compare(&[at(6, 1)], &changes).is_err(), "the position is ahead");
        assert!(compare(&[at(4, 2)], &changes).is_err(), "the position is behind");
        let absent = Snapshot { pulses: vec![], ..at(2, 1) };
        assert!(compare(&[absent], &changes).is_err(), "the row is missing");
    }
}
