//! What the source has to do beside being copied: short writes at an even pace, each timed.
//!
//! Half of them are updates by key of rows that were there first, half are new rows. A write that had
//! to wait for the one before it counts from when it was due, so that a stall is not counted once.

use std::time::Duration;

use anyhow::Context as _;
use mysql_async::prelude::Queryable as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use unitflow_harness::load::connect;
use unitflow_harness::{Mysql, Random};

use crate::rows::{TABLE, WRITTEN_EACH};

/// Connections that write.
const WRITERS: u64 = 4;
/// Ids that one load may take for new rows.
const IDS_EACH: u64 = 10_000_000;
const STATEMENT: Duration = Duration::from_secs(60);

/// Writers at work.
#[derive(Debug)]
pub struct Load {
    writers: JoinSet<anyhow::Result<Vec<Write>>>,
    stop: CancellationToken,
}

/// One write that was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Write {
    at: Instant,
    took: Duration,
}

/// All of a load.
#[derive(Debug)]
pub struct Written(Vec<Write>);

/// How the writes went in a while.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Acknowledged in a second.
    pub per_second: f64,
    /// Half of them took no longer.
    pub p50: Duration,
    /// Of a hundred, one took longer.
    pub p99: Duration,
}

impl Load {
    /// Begins to write so much a second to a table that had `rows` rows first. Loads of one table have
    /// different numbers.
    pub async fn start(
        server: &Mysql,
        number: u64,
        rows: u64,
        per_second: u32,
    ) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let conn = connect(server).await?;
            let first = rows + 1 + number * IDS_EACH + writer;
            let random = Random::new(number * WRITERS + writer);
            let every = Duration::from_secs(WRITERS) / per_second;
            writers.spawn(write(conn, (first, rows), random, every, stop.clone()));
        }
        Ok(Self { writers, stop })
    }

    /// Lets the open writes end.
    pub async fn stop(mut self) -> anyhow::Result<Written> {
        self.stop.cancel();
        let mut all = Vec::new();
        while let Some(written) = self.writers.join_next().await {
            all.extend(written.context("a writer panicked")??);
        }
        Ok(Written(all))
    }
}

impl Written {
    /// Those that were acknowledged in this while.
    pub fn within(&self, from: Instant, until: Instant) -> anyhow::Result<Pace> {
        let among = self.0.iter().filter(|write| (from..until).contains(&write.at));
        let mut took: Vec<Duration> = among.map(|write| write.took).collect();
        took.sort();
        let last = took.len().checked_sub(1).context("nothing was written meanwhile")?;
        Ok(Pace {
            per_second: took.len() as f64 / (until - from).as_secs_f64(),
            p50: took[last / 2],
            p99: took[last * 99 / 100],
        })
    }
}

/// The pace while nothing else is done, for so long.
pub async fn alone(
    server: &Mysql,
    number: u64,
    rows: u64,
    per_second: u32,
    lasting: Duration,
) -> anyhow::Result<Pace> {
    let load = Load::start(server, number, rows, per_second).await?;
    // The first ones find a cold server.
    sleep(lasting / 10).await;
    let begun = Instant::now();
    sleep(lasting).await;
    let ended = Instant::now();
    load.stop().await?.within(begun, ended)
}

async fn write(
    mut conn: mysql_async::Conn,
    (mut next, rows): (u64, u64),
    mut random: Random,
    every: Duration,
    stop: CancellationToken,
) -> anyhow::Result<Vec<Write>> {
    let mut ticks = interval(every);
    let mut written = Vec::new();
    let mut ended = Instant::now();
    while !stop.is_cancelled() {
        let due = ticks.tick().await;
        let begun = if ended > due { due } else { Instant::now() };
        let sql = statement(&mut next, rows, &mut random);
        timeout(STATEMENT, conn.query_drop(sql)).await.context("a write hangs")??;
        ended = Instant::now();
        written.push(Write { at: ended, took: ended - begun });
    }
    conn.disconnect().await?;
    Ok(written)
}

fn statement(next: &mut u64, rows: u64, random: &mut Random) -> String {
    let amount = random.below(100_000_000) as f64 / 100.0;
    let note = format!("{:016x}", random.next()).repeat(9);
    if random.below(2) == 0 {
        let id = *next;
        *next += WRITERS;
        return format!(
            "INSERT INTO {TABLE} VALUES ({id}, {}, 'open', {amount}, 0, NOW(3), '{note}')",
            id % 100_000
        );
    }
    let id = WRITTEN_EACH * (1 + random.below(rows / WRITTEN_EACH));
    format!(
        "UPDATE {TABLE} SET status = 'paid', amount = {amount}, revision = revision + 1, changed_at = NOW(3), \
         note = '{note}' WHERE id = {id}"
    )
}
