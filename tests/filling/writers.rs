//! Writers of a table in several units at once: on rows that are each one unit's own, and on rows
//! that all of them write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::task::JoinSet;
use tokio::time::{Interval, interval};
use unitflow_harness::load::connect;
use unitflow_harness::random::Random;
use unitflow_local::Mysql;

/// What must stand in each row that has one writer only; none where it was deleted.
pub type Last = BTreeMap<u64, Option<u64>>;

/// Rows below are the prepared ones.
pub const NEW_ROWS: u64 = 10_000_000;
/// The pause of each writer between two transactions.
const PAUSE: Duration = Duration::from_millis(4);
/// The same where many of them write.
const LONG_PAUSE: Duration = Duration::from_millis(40);
/// Two units that write one row may lock each other's.
const DEADLOCK: u16 = 1213;
const LOCK_WAIT_TIMEOUT: u16 = 1205;
const DUPLICATE: u16 = 1062;

/// Writers at work.
pub struct Writers {
    pause: Duration,
    /// Whether rows are deleted too.
    deletes: bool,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<anyhow::Result<Last>>,
}

/// Gives each value of `n` once.
static NEXT: AtomicU64 = AtomicU64::new(1);

fn next() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Writers {
    /// Nobody writes.
    pub fn none() -> Self {
        Self { pause: PAUSE, deletes: true, stop: Arc::default(), tasks: JoinSet::new() }
    }

    /// Nobody writes, and those that will take their time.
    pub fn slow() -> Self {
        Self { pause: LONG_PAUSE, ..Self::none() }
    }

    /// They delete nothing.
    pub fn keeping(self) -> Self {
        Self { deletes: false, ..self }
    }

    /// A unit writes rows of a table that nobody else does: those whose number leaves `place` when
    /// divided by `units`, of `rows` and above.
    pub async fn own(
        &mut self,
        (server, table): (&Mysql, &'static str),
        (place, units): (u64, u64),
        rows: std::ops::Range<u64>,
        random: Random,
    ) -> anyhow::Result<()> {
        let conn = connect(server).await?;
        let how = (interval(self.pause), self.deletes, self.stop.clone());
        self.tasks.spawn(own((conn, table), (place, units), rows, random, how));
        Ok(())
    }

    /// A unit writes rows that others write too.
    pub async fn clashing(
        &mut self,
        (server, table): (&Mysql, &'static str),
        rows: std::ops::Range<u64>,
        random: Random,
    ) -> anyhow::Result<()> {
        let conn = connect(server).await?;
        let how = (interval(self.pause), self.deletes, self.stop.clone());
        self.tasks.spawn(clash((conn, table), rows, random, how));
        Ok(())
    }

    /// Ends them, and says what must stand in the rows of one writer.
    pub async fn stop(mut self) -> anyhow::Result<Last> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Last::new();
        while let Some(last) = self.tasks.join_next().await {
            all.extend(last.context("a writer panicked")??);
        }
        Ok(all)
    }
}

async fn own(
    (mut conn, table): (Conn, &str),
    (place, units): (u64, u64),
    rows: std::ops::Range<u64>,
    mut random: Random,
    (mut tick, deletes, stop): (Interval, bool, Arc<AtomicBool>),
) -> anyhow::Result<Last> {
    let mut last = Last::new();
    let (first, remainder) = (NEW_ROWS + place, (NEW_ROWS + place) % units);
    // A server that went back in time has less of them than were given.
    let known = format!(
        "SELECT MAX(id) FROM {table} WHERE id >= {NEW_ROWS} AND id % {units} = {remainder}"
    );
    let known: Option<Option<u64>> = conn.query_first(known).await?;
    let mut fresh = known.flatten().map_or(first, |known| known + units);
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let n = next();
        match random.below(10) {
            0 => {
                let sql = format!(
                    "INSERT INTO {table} (id, n, body) VALUES ({fresh}, {n}, REPEAT('x', {}))",
                    random.below(120)
                );
                conn.query_drop(sql).await?;
                last.insert(fresh, Some(n));
                fresh += units;
            }
            1 if deletes => {
                let id = row(&mut random, (place, units), &rows);
                conn.query_drop(format!("DELETE FROM {table} WHERE id = {id}")).await?;
                if conn.affected_rows() == 1 {
                    last.insert(id, None);
                }
            }
            _ => {
                let id = row(&mut random, (place, units), &rows);
                conn.query_drop(format!("UPDATE {table} SET n = {n} WHERE id = {id}")).await?;
                if conn.affected_rows() == 1 {
                    last.insert(id, Some(n));
                }
            }
        }
    }
    Ok(last)
}

fn row(random: &mut Random, (place, units): (u64, u64), rows: &std::ops::Range<u64>) -> u64 {
    let count = (rows.end - rows.start) / units;
    rows.start / units * units + random.below(count) * units + place
}

async fn clash(
    (mut conn, table): (Conn, &str),
    rows: std::ops::Range<u64>,
    mut random: Random,
    (mut tick, deletes, stop): (Interval, bool, Arc<AtomicBool>),
) -> anyhow::Result<Last> {
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let (n, id) = (next(), rows.start + random.below(rows.end - rows.start));
        let sql = match random.below(4) {
            0 if deletes => format!("DELETE FROM {table} WHERE id = {id}"),
            1 => format!("INSERT INTO {table} (id, n, body) VALUES ({id}, {n}, 'clash')"),
            _ => format!("UPDATE {table} SET n = {n} WHERE id = {id}"),
        };
        match conn.query_drop(sql).await {
            Err(mysql_async::Error::Server(error))
                if matches!(error.code, DEADLOCK | LOCK_WAIT_TIMEOUT | DUPLICATE) => {}
            outcome => outcome?,
        }
    }
    Ok(Last::new())
}
