//! Writers, and the record of what was acknowledged.
//!
//! Each writer is a task with a connection and rows of its own. A change counts as acknowledged
//! once the server has answered its COMMIT; one whose answer never came may or may not be there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use unitflow_local::Mysql;

use crate::change::Change;
use crate::plan::{Mix, Plan, Planner};
use crate::random::Random;

/// A statement of a writer takes no longer, or the test has failed.
const STATEMENT: Duration = Duration::from_secs(60);
/// How often a transaction that met a deadlock is run again.
const TRIES: u32 = 20;
const DEADLOCK: u16 = 1213;
const LOCK_WAIT_TIMEOUT: u16 = 1205;

/// What to write.
#[derive(Clone, Debug)]
pub struct Load {
    /// Which transactions.
    pub mix: Mix,
    /// How many connections.
    pub writers: u32,
    /// Transactions a second, all writers together; without it as many as the server takes.
    pub rate: Option<u32>,
    /// Ends by itself after so many transactions, all writers together.
    pub transactions: Option<u64>,
}

/// What was written, by everybody.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Acknowledged.
    pub acknowledged: Vec<Change>,
    /// Sent, and never heard of.
    pub unknown: Vec<Change>,
    /// How many transactions were acknowledged.
    pub commits: u64,
    /// How long the writers wrote.
    pub took: Duration,
}

impl Written {
    /// Adds what others wrote.
    pub fn add(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
        self.commits += other.commits;
        self.took = self.took.max(other.took);
    }

    /// Acknowledged transactions a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let commits = self.commits as f64;
        commits / self.took.as_secs_f64().max(0.001)
    }
}

/// Writers at work.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    writers: JoinSet<anyhow::Result<Written>>,
    begin: Instant,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    begun: AtomicU64,
    commits: AtomicU64,
    most: u64,
}

impl Load {
    /// The usual load: four writers with everything.
    #[must_use]
    pub const fn shop() -> Self {
        Self { mix: Mix::Shop, writers: 4, rate: None, transactions: None }
    }

    /// At most so many transactions a second.
    #[must_use]
    pub const fn rate(self, rate: u32) -> Self {
        Self { rate: Some(rate), ..self }
    }

    /// No more than so many transactions.
    #[must_use]
    pub const fn transactions(self, transactions: u64) -> Self {
        Self { transactions: Some(transactions), ..self }
    }

    /// Other transactions.
    #[must_use]
    pub const fn mix(self, mix: Mix) -> Self {
        Self { mix, ..self }
    }

    /// Starts writing on a unit's server. Writers are numbered from `first`, so that several loads
    /// may follow each other on one unit.
    pub async fn start(
        &self,
        server: &Mysql,
        unit: &str,
        first: u32,
        random: &Random,
    ) -> anyhow::Result<Running> {
        let unit = *unit.as_bytes().first().context("a unit has a name")?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            most: self.transactions.unwrap_or(u64::MAX),
        });
        let mut writers = JoinSet::new();
        for writer in first..first + self.writers {
            let random = random.branch(u64::from(unit) << 32 | u64::from(writer));
            let mut planner = Planner::new(unit, writer, self.mix, random);
            let mut conn = connect(server).await?;
            let mut written = Written::default();
            commit(&mut conn, planner.first(), &mut written).await?;
            let pause = self.rate.map(|rate| Duration::from_secs(1) * self.writers / rate.max(1));
            let shared = shared.clone();
            writers.spawn(write(conn, planner, shared, pause, written));
        }
        Ok(Running { shared, writers, begin: Instant::now() })
    }
}

impl Running {
    /// Transactions acknowledged so far.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// Stops the writers after their open transactions.
    pub async fn stop(self) -> anyhow::Result<Written> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish(STATEMENT).await
    }

    /// Waits until they have written all that they shall.
    pub async fn finish(mut self, patience: Duration) -> anyhow::Result<Written> {
        let mut all = Written::default();
        let joined = timeout(patience, async {
            while let Some(written) = self.writers.join_next().await {
                all.add(written.context("a writer panicked")??);
            }
            anyhow::Ok(())
        });
        joined.await.context("the writers are not done in time")??;
        all.took = self.begin.elapsed();
        Ok(all)
    }
}

/// Writes one transaction of `rows` rows on a unit's server, as the writer numbered `writer`.
pub async fn bulk(
    server: &Mysql,
    unit: &str,
    writer: u32,
    rows: u32,
    random: &Random,
) -> anyhow::Result<Written> {
    let unit = *unit.as_bytes().first().context("a unit has a name")?;
    let mut planner = Planner::new(unit, writer, Mix::Shop, random.branch(u64::from(writer)));
    let mut conn = connect(server).await?;
    let begin = Instant::now();
    let mut written = Written::default();
    for plan in planner.bulk(rows) {
        timeout(STATEMENT, conn.query_drop(&plan.sql)).await.context("a statement hangs")??;
        written.acknowledged.extend(plan.changes);
    }
    written.commits = 1;
    written.took = begin.elapsed();
    conn.disconnect().await?;
    Ok(written)
}

/// A connection to a server of this machine.
pub async fn connect(server: &Mysql) -> anyhow::Result<Conn> {
    let options = Opts::from_url(&server.url())?;
    timeout(STATEMENT, Conn::new(options)).await.context("a connection hangs")?.context("connect")
}

async fn write(
    mut conn: Conn,
    mut planner: Planner,
    shared: Arc<Shared>,
    pause: Option<Duration>,
    mut written: Written,
) -> anyhow::Result<Written> {
    let mut ticks = pause.map(interval);
    if let Some(ticks) = &mut ticks {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    }
    while !shared.stop.load(Ordering::Relaxed) {
        if shared.begun.fetch_add(1, Ordering::Relaxed) >= shared.most {
            break;
        }
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        commit(&mut conn, planner.next_transaction(), &mut written).await?;
        shared.commits.fetch_add(1, Ordering::Relaxed);
    }
    conn.disconnect().await?;
    Ok(written)
}

/// Runs one transaction; one that met a deadlock was rolled back and is run again.
async fn commit(conn: &mut Conn, plan: Plan, written: &mut Written) -> anyhow::Result<()> {
    for _ in 0..TRIES {
        let answer = timeout(STATEMENT, conn.query_drop(&plan.sql)).await;
        match answer.context("a statement hangs")? {
            Ok(()) => {
                written.acknowledged.extend(plan.changes);
                written.commits += 1;
                return Ok(());
            }
            Err(mysql_async::Error::Server(error))
                if matches!(error.code, DEADLOCK | LOCK_WAIT_TIMEOUT) =>
            {
                conn.query_drop("ROLLBACK").await?;
            }
            Err(error) => {
                written.unknown.extend(plan.changes);
                return Err(error).with_context(|| format!("a writer's {}", plan.sql));
            }
        }
    }
    bail!("a writer met {TRIES} deadlocks in a row: {}", plan.sql)
}
