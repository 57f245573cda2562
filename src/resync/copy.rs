//! Orders a copy and follows it to its end: the connector's durable state says how far it has come,
//! the targets' ledgers when it has arrived.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use mysql_async::prelude::Queryable as _;
use tokio::time::{Instant, sleep};
use tracing::info;
use unitflow_change::ddl::TableName;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault};
use unitflow_kafka::jobs::{self, Job, Jobs, KEYS_MAX, Sparing};
use unitflow_mysql::connect::fault;
use unitflow_sinks::ledger;

use super::plan::Plan;
use crate::bridge::Bereft;
use crate::config::Mesh;
use crate::pipeline::{ConnectorState, Scan, load_state};

/// How often a position is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After how long nobody waits for a job any more.
const OLD: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often it is looked whether somebody has stopped the copy.
const LOOK_STOPPED_EVERY: Duration = Duration::from_secs(2);
/// How often it is said how far the copy is, where there is no terminal to show it.
const SAY_EVERY: Duration = Duration::from_secs(20);
/// After how long without progress the likely cause is told.
const SILENT_FOR: Duration = Duration::from_secs(20);

/// Copies the plan's tables, or goes on with a copy of them that was ordered before; gives its last
/// record. Lanes that are bereft of records pass over them once that is under way.
pub async fn tables(
    plan: &Plan<'_>,
    rows_per_second: Option<u32>,
    bereft: &[(Name, Bereft)],
) -> Result<Seq, Fault> {
    let to: Vec<String> = plan.to.iter().map(ToString::to_string).collect();
    let tables: Vec<String> = plan.tables.iter().map(ToString::to_string).collect();
    let mut job = Job::new(&to, &plan.by, &plan.why);
    (job.tables, job.rows_per_second) = (tables, rows_per_second);
    let state = state(plan.mesh, &plan.log).await?;
    let same = |known: &Job| known.tables == job.tables && known.to == job.to;
    let known = known(plan).await?;
    // Left by a command that was killed. One that runs still waits for its own.
    let left = known.iter().filter(|(name, (_, known))| {
        state.copy.done.contains_key(*name) && (same(known) || is_old(name))
    });
    jobs_removed(plan, &left.map(|(name, _)| name.clone()).collect::<Vec<_>>()).await?;
    if !bereft.is_empty() {
        // What is gone may hold rows of a copy that is under way.
        let older = known.iter().filter(|(_, (_, known))| same(known));
        jobs_removed(plan, &older.map(|(name, _)| name.clone()).collect::<Vec<_>>()).await?;
    }
    let under_way = known.iter().find(|(name, (_, known))| {
        bereft.is_empty()
            && same(known)
            && !state.copy.done.contains_key(*name)
            && !state.copy.failed.contains_key(*name)
    });
    let name = match under_way {
        Some((name, (_, known))) => {
            info!(job = name, "going on with the copy that was ordered before");
            if job.rows_per_second.is_some() && known.rows_per_second != job.rows_per_second {
                let (broker, topic) = control(plan)?;
                jobs::send(broker, &topic, &plan.log, name, &job).await?;
            }
            name.clone()
        }
        None => order(plan, "full", &job).await?,
    };
    plan.pass_over(bereft).await?;
    let mut bar = Bar::new(plan, &estimates(plan).await?);
    let end = follow(plan, &name, Some(&mut bar)).await?;
    bar.close();
    jobs_removed(plan, &[name]).await?;
    Ok(end)
}

/// Copies single rows, in this order.
pub async fn keys(plan: &Plan<'_>, keys: Vec<String>) -> Result<(), Fault> {
    keys_sparing(plan, keys, None).await
}

/// The same, but what is newer than a record is left alone, whatever the source has applied.
pub async fn keys_sparing(
    plan: &Plan<'_>,
    keys: Vec<String>,
    sparing: Option<&Sparing>,
) -> Result<(), Fault> {
    let to: Vec<String> = plan.to.iter().map(ToString::to_string).collect();
    let mut names = Vec::new();
    for keys in keys.chunks(KEYS_MAX) {
        let mut job = Job::new(&to, &plan.by, &plan.why).sparing(sparing.cloned());
        job.keys = keys.to_vec();
        names.push(order(plan, "keys", &job).await?);
    }
    for name in &names {
        follow(plan, name, None).await?;
    }
    jobs_removed(plan, &names).await
}

/// Ends all copies of a log that are under way, by somebody and why; gives them.
pub async fn stop(
    mesh: &Mesh,
    log: &Log,
    by_and_why: (&str, &str),
) -> Result<Vec<(String, Job)>, Fault> {
    let (broker, topic) = (&mesh.unit(&log.unit)?.broker, mesh.topics.control(&log.unit));
    let known = jobs::read(broker, &topic, log).await?;
    for name in known.keys() {
        jobs::take_back(broker, &topic, log, name, by_and_why).await?;
    }
    Ok(known.into_iter().map(|(name, (_, job))| (name, job)).collect())
}

/// Whether a job was ordered so long ago that no command waits for it, by the time in its name.
fn is_old(name: &str) -> bool {
    let ordered = name.rsplit('-').next().and_then(|nanos| u128::from_str_radix(nanos, 16).ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ordered.is_none_or(|ordered| now.as_nanos().saturating_sub(ordered) > OLD.as_nanos())
}

async fn order(plan: &Plan<'_>, kind: &str, job: &Job) -> Result<String, Fault> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = format!("{kind}-{:x}", now.as_nanos());
    let written = serde_json::to_vec(job).unwrap_or_default();
    Job::parse(&written).map_err(|fault| Fault { code: Code::Config, ..fault })?;
    let (broker, topic) = control(plan)?;
    jobs::send(broker, &topic, &plan.log, &name, job).await?;
    Ok(name)
}

async fn jobs_removed(plan: &Plan<'_>, names: &[String]) -> Result<(), Fault> {
    let (broker, topic) = control(plan)?;
    for name in names {
        jobs::remove(broker, &topic, &plan.log, name).await?;
    }
    Ok(())
}

async fn known(plan: &Plan<'_>) -> Result<Jobs, Fault> {
    let (broker, topic) = control(plan)?;
    jobs::read(broker, &topic, &plan.log).await
}

fn control<'m>(plan: &Plan<'m>) -> Result<(&'m unitflow_kafka::Broker, String), Fault> {
    let broker = &plan.mesh.unit(&plan.log.unit)?.broker;
    Ok((broker, plan.mesh.topics.control(&plan.log.unit)))
}

/// How far a log's connector has come.
pub async fn state(mesh: &Mesh, log: &Log) -> Result<ConnectorState, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let state = load_state(broker, &mesh.topics, log, Stage::Connector).await?;
    state.ok_or_else(|| {
        Fault::fatal(Code::PositionMissing, format!("log {log} has no position"))
            .hint("unitflow init first")
    })
}

/// Waits until a job is done and all its units have applied its last record; gives that.
async fn follow(plan: &Plan<'_>, name: &str, mut bar: Option<&mut Bar>) -> Result<Seq, Fault> {
    let (mut moved, mut looked) = (Instant::now(), Instant::now());
    let mut last = None;
    let end = loop {
        let state = state(plan.mesh, &plan.log).await?;
        if let Some(why) = state.copy.failed.get(name) {
            // Who gives the command again orders it anew.
            jobs_removed(plan, &[name.to_owned()]).await?;
            return Err(Fault::fatal(Code::Copy, format!("the copy {name} failed: {why}"))
                .hint("mend it and run the command again"));
        }
        if let Some(end) = state.copy.done.get(name) {
            break *end;
        }
        if let (Some(bar), Some(scan)) = (&mut bar, &state.copy.scan) {
            bar.show(scan);
        }
        if last != Some(state.seq) {
            (moved, last) = (Instant::now(), Some(state.seq));
        }
        if looked.elapsed() > LOOK_STOPPED_EVERY {
            looked = Instant::now();
            // It may be done since the state was read.
            if !known(plan).await?.contains_key(name) && !is_over(plan, name).await? {
                return Err(Fault::fatal(Code::Copy, format!("the copy {name} was stopped"))
                    .hint("unitflow status shows what stays half filled, and how to go on"));
            }
        }
        if moved.elapsed() > SILENT_FOR {
            tracing::warn!(
                "nothing is captured in unit {}: does its connector run?",
                plan.log.unit
            );
            moved = Instant::now();
        }
        sleep(LOOK_EVERY).await;
    };
    if let Some(bar) = bar {
        bar.arriving();
    }
    arrived(plan, end).await?;
    Ok(end)
}

/// Whether nothing more comes of a job, well or not.
async fn is_over(plan: &Plan<'_>, name: &str) -> Result<bool, Fault> {
    let copy = state(plan.mesh, &plan.log).await?.copy;
    Ok(copy.done.contains_key(name) || copy.failed.contains_key(name))
}

async fn arrived(plan: &Plan<'_>, end: Seq) -> Result<(), Fault> {
    for unit in &plan.to {
        let mut conn = plan.connect(unit).await?;
        let mut begun = Instant::now();
        loop {
            let entries = ledger::read_all(&mut conn, &plan.log).await?;
            if !entries.is_empty() && entries.iter().all(|entry| entry.seq >= end) {
                break;
            }
            if begun.elapsed() > SILENT_FOR {
                tracing::warn!(
                    "unit {unit} has not applied all yet: does its sink run? unitflow status shows more"
                );
                begun = Instant::now();
            }
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// How many rows each table has, as the server guesses.
async fn estimates(plan: &Plan<'_>) -> Result<Vec<u64>, Fault> {
    let mut conn = plan.connect(&plan.log.unit).await?;
    let rename = plan.mesh.rename(&plan.log.unit, &plan.log.store)?;
    let mut rows = Vec::new();
    for TableName { database, table } in &plan.tables {
        let local = rename.local(database, table).unwrap_or_default();
        let query = "SELECT COALESCE(TABLE_ROWS, 0) FROM information_schema.TABLES \
                     WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";
        let found: Option<u64> =
            conn.exec_first(query, local).await.map_err(|error| fault(&error))?;
        rows.push(found.unwrap_or(0));
    }
    Ok(rows)
}

/// Progress on stderr; a line now and then where that is no terminal.
struct Bar {
    bar: ProgressBar,
    tables: Vec<TableName>,
    said: Instant,
}

impl Bar {
    fn new(plan: &Plan<'_>, estimates: &[u64]) -> Self {
        let bar = ProgressBar::new(estimates.iter().sum::<u64>().max(1));
        let style =
            "  {bar:30} {human_pos} of about {human_len} rows  {per_sec}  {eta} left  {wide_msg}";
        bar.set_style(
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(format!("{} to {}", plan.log, plan.to_text()));
        Self { bar, tables: plan.tables.clone(), said: Instant::now() }
    }

    fn show(&mut self, scan: &Scan) {
        if scan.all > self.bar.length().unwrap_or(0) {
            self.bar.set_length(scan.all);
        }
        self.bar.set_position(scan.all);
        if let Some(table) = self.tables.get(scan.tables) {
            self.bar.set_message(table.to_string());
        }
        if self.bar.is_hidden() && self.said.elapsed() > SAY_EVERY {
            self.said = Instant::now();
            let (rows, of) = (HumanCount(scan.all), HumanCount(self.bar.length().unwrap_or(0)));
            let rest = HumanDuration(self.bar.eta());
            info!(%rows, %of, %rest, "copying {}", self.bar.message());
        }
    }

    fn arriving(&self) {
        self.bar.set_message("all rows are read; the targets apply them");
    }

    fn close(&self) {
        info!(rows = %HumanCount(self.bar.position()), "copied");
        self.bar.finish_and_clear();
    }
}
