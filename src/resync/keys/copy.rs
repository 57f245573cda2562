//! Orders copies and follows them to their end: the connector's durable state says how far they have come, the targets'
//! ledgers when they have arrived.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault};
use unitflow_kafka::jobs::{self, Job, KEYS_MAX};
use unitflow_sinks::redis::ledger;

use super::{JOBS_AT_ONCE, LOOK_EVERY, Plan, SAY_EVERY};
use crate::pipeline::redis::Scan;

/// After how long without progress the likely cause is told.
const SILENT_FOR: Duration = Duration::from_secs(20);
/// After how long nobody waits for single keys any more that are read.
const LEFT_AFTER: Duration = Duration::from_secs(600);

impl Plan<'_> {
    /// Copies all keys, or goes on with a copy that was ordered before.
    pub(super) async fn copy(&self, rows_per_second: Option<u32>) -> Result<(), Fault> {
        let (broker, topic) = self.control(&self.log.unit)?;
        let state = self.state().await?;
        let mut job = self.job();
        (job.store, job.rows_per_second) = (true, rows_per_second);
        let mut under_way = None;
        for (name, (_, known)) in jobs::read(broker, &topic, &self.log).await? {
            if !known.store {
                // Left by a command that was killed.
                if state.copy.done.contains_key(&name) && is_left(&name) {
                    jobs::remove(broker, &topic, &self.log, &name).await?;
                }
                continue;
            }
            let open =
                !state.copy.done.contains_key(&name) && !state.copy.failed.contains_key(&name);
            if known.to == job.to && open && under_way.is_none() {
                info!(job = name, "going on with the copy that was ordered before");
                if rows_per_second.is_some() && known.rows_per_second != rows_per_second {
                    jobs::send(broker, &topic, &self.log, &name, &job).await?;
                }
                under_way = Some(name);
            } else if known.to == job.to {
                jobs::remove(broker, &topic, &self.log, &name).await?;
            }
        }
        let name = match under_way {
            Some(name) => name,
            None => self.order("full", &job).await?,
        };
        let mut bar = Bar::new(&format!("{} to {}", self.log, self.to_text()));
        self.follow(&name, Some(&mut bar)).await?;
        bar.close();
        jobs::remove(broker, &topic, &self.log, &name).await
    }

    /// Has keys read, and waits until the targets have taken them.
    pub(super) async fn ask(&self, keys: Vec<String>) -> Result<(), Fault> {
        let (broker, topic) = self.control(&self.log.unit)?;
        for wave in keys.chunks(KEYS_MAX * JOBS_AT_ONCE) {
            let mut names = Vec::new();
            for keys in wave.chunks(KEYS_MAX) {
                let mut job = self.job();
                job.keys = keys.to_vec();
                names.push(self.order("keys", &job).await?);
            }
            for name in &names {
                self.follow(name, None).await?;
                jobs::remove(broker, &topic, &self.log, name).await?;
            }
        }
        Ok(())
    }

    fn job(&self) -> Job {
        let to: Vec<String> = self.to.iter().map(ToString::to_string).collect();
        Job::new(&to, &self.by, &self.why)
    }

    async fn order(&self, kind: &str, job: &Job) -> Result<String, Fault> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{kind}-{:x}", now.as_nanos());
        let (broker, topic) = self.control(&self.log.unit)?;
        jobs::send(broker, &topic, &self.log, &name, job).await?;
        Ok(name)
    }

    /// Waits until a job is done and the targets have applied its last record.
    async fn follow(&self, name: &str, mut bar: Option<&mut Bar>) -> Result<(), Fault> {
        let (broker, topic) = self.control(&self.log.unit)?;
        let (mut moved, mut last, mut looked) = (Instant::now(), None, Instant::now());
        let end = loop {
            let state = self.state().await?;
            if let Some(why) = state.copy.failed.get(name) {
                jobs::remove(broker, &topic, &self.log, name).await?;
                return Err(Fault::fatal(Code::Copy, format!("the copy {name} failed: {why}")));
            }
            if let Some(end) = state.copy.done.get(name) {
                break *end;
            }
            if let (Some(bar), Some(scan)) = (&mut bar, &state.copy.scan) {
                bar.show(scan);
            }
            if last.replace(state.seq) != Some(state.seq) {
                moved = Instant::now();
            }
            if moved.elapsed() > SILENT_FOR {
                warn!("nothing is captured in unit {}: does its connector run?", self.log.unit);
                moved = Instant::now();
            }
            if looked.elapsed() > Duration::from_secs(2) {
                looked = Instant::now();
                let known = jobs::read(broker, &topic, &self.log).await?;
                if !known.contains_key(name) && !self.state().await?.copy.done.contains_key(name) {
                    return Err(Fault::fatal(Code::Copy, format!("the copy {name} was stopped"))
                        .hint("unitflow status shows what stays half filled, and how to go on"));
                }
            }
            sleep(LOOK_EVERY).await;
        };
        self.arrived(end).await
    }

    async fn arrived(&self, end: Seq) -> Result<(), Fault> {
        for unit in &self.to {
            let mut client = self.client(unit).await?;
            let mut begun = Instant::now();
            loop {
                let lanes = self.mesh.lanes(&self.log);
                let known = ledger::read_all(&mut client, &self.log, lanes).await?;
                if !known.is_empty() && known.iter().all(|(_, standing)| standing.seq >= end) {
                    break;
                }
                if begun.elapsed() > SILENT_FOR {
                    warn!(
                        "unit {unit} has not applied all yet: does its sink run? unitflow status shows more"
                    );
                    begun = Instant::now();
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }
}

/// Whether nobody waits for a job any more that is done, by the time in its name.
fn is_left(name: &str) -> bool {
    let ordered = name.rsplit('-').next().and_then(|nanos| u128::from_str_radix(nanos, 16).ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ordered.is_none_or(|ordered| now.as_nanos().saturating_sub(ordered) > LEFT_AFTER.as_nanos())
}

/// Progress on stderr; a line now and then where that is no terminal.
struct Bar {
    bar: ProgressBar,
    said: Instant,
}

impl Bar {
    fn new(what: &str) -> Self {
        let bar = ProgressBar::new(1);
        let style =
            "  {bar:30} {human_pos} of about {human_len} keys  {per_sec}  {eta} left  {wide_msg}";
        bar.set_style(
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(what.to_owned());
        Self { bar, said: Instant::now() }
    }

    fn show(&mut self, scan: &Scan) {
        self.bar.set_length(scan.of.max(scan.keys).max(1));
        self.bar.set_position(scan.keys);
        if self.bar.is_hidden() && self.said.elapsed() > SAY_EVERY {
            self.said = Instant::now();
            let (keys, of) = (HumanCount(scan.keys), HumanCount(scan.of));
            let rest = HumanDuration(self.bar.eta());
            info!(%keys, %of, %rest, "copying {}", self.bar.message());
        }
    }

    fn close(&self) {
        info!(keys = %HumanCount(self.bar.position()), "copied");
        self.bar.finish_and_clear();
    }
}
