//! Changes that come before what they were made behind.
//!
//! Each log keeps its order, and logs do not wait for each other: what unit B wrote behind a change of
//! unit C may be here before that change is. It does not fit then, and will a moment later. What it was
//! made behind had been applied in B, so it stood in the Kafka that C's log is read from before B's
//! change did: up to where that Kafka ends now is far enough.
//!
//! Or two units wrote at once, and it never fits. Where that stops its lane, a few seconds of waiting are enough.
//! Where its table is being filled with this unit's rows it is passed over, and a copy of what it was made
//! behind would undo it everywhere: so nothing is given up there while the other log's lanes move, are
//! paused, or have nobody. Two lanes may wait for each other. One of them does so with a conflict, and that is the
//! one whose change was committed first: what was made behind another change was committed after it.

use std::collections::HashMap;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use unitflow_change::fault::Kind;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_change::tag::{HEADER, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::{Broker, control, last_committed, members};
use unitflow_mysql::connect::fault as judge;

use crate::lane::Lane;
use crate::ledger;

/// How long a change waits for others that it may have been made behind. It may also be a conflict, as the
/// one that the other log's lane waits with may be.
const CAUSES_WITHIN: Duration = Duration::from_secs(5);
/// How long another log's lanes stand still, though somebody works for them, before a change is passed over
/// that may have been made behind what they hold: longer than a killed worker's place stays taken.
const STANDSTILL: Duration = Duration::from_secs(30);
/// How often it is asked why they do.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often it is said what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(20);
/// Begins the names of the rows of `unitflow.marker` that say which lanes wait here, and with what: its time
/// of commit, in µs since 1970.
const WAITS: &str = "waits";
/// How often it is looked whether they are here.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Another log that is applied to the same store.
#[derive(Clone, Debug)]
pub struct Other {
    /// The log.
    pub log: Log,
    /// The Kafka it is read from.
    pub broker: Broker,
    /// Its tagged topic there.
    pub topic: String,
    /// The name of its flow into this unit.
    pub flow: String,
    /// The consumer group of that flow, at the same Kafka.
    pub group: String,
}

/// A lane of another log, and its last record.
type Tail = (Log, i32, Seq);

/// What a lane says that waits.
const WAITING: &str =
    "a change does not fit: waiting for what other logs hold, behind which it may have been made";

impl Lane<'_> {
    /// Whether what does not fit may fit later, and somebody would miss it. What is filled with the rows of
    /// another unit comes again from there.
    pub(crate) async fn may_be_early(&mut self) -> Result<bool, Fault> {
        let known = self.way.others.is_empty() || self.seen.seq <= self.waited_up_to;
        Ok(!known && !self.is_filled_from_elsewhere().await?)
    }

    /// Waits until this unit has applied what other logs hold by now; `false` where it has not in time. For
    /// nothing that this lane's log holds by now is waited again.
    pub(crate) async fn wait_for_causes(&mut self) -> Result<bool, Fault> {
        info!(seq = self.at.seq.0, "{WAITING}");
        let own = self.tail(&self.way.road.broker, &self.way.road.topic, self.lane).await?;
        let tails = self.tails().await?;
        self.waited_up_to = own.unwrap_or(self.seen.seq).max(self.seen.seq);
        // What is not committed nobody else would see.
        let tells = !self.inside;
        if tells {
            self.tell_waits(Some(self.seen.commit_us)).await?;
        }
        let outcome = self.come_up_to(&tails).await;
        if tells {
            self.tell_waits(None).await?;
        }
        outcome
    }

    async fn come_up_to(&mut self, tails: &[Tail]) -> Result<bool, Fault> {
        // Amid a transaction of many parts rows are locked, and nobody may wait for them long.
        let is_authority = !self.inside && self.is_filled_from_here().await?;
        let (begun, mut moved) = (Instant::now(), Instant::now());
        let (mut looked, mut said) = (None::<Instant>, None::<Instant>);
        let mut before = Vec::new();
        loop {
            let stands = ledger::read_logs(self.applier.conn()).await?;
            let missing = missing(&stands, tails);
            if missing.is_empty() {
                return Ok(true);
            }
            let mut now = stands;
            now.retain(|(log, lane, _)| missing.contains(&(log.clone(), *lane)));
            if now != before {
                (before, moved) = (now, Instant::now());
            }
            let waited = if is_authority { moved.elapsed() } else { begun.elapsed() };
            let is_due =
                |last: Option<Instant>, every| last.is_none_or(|last| last.elapsed() > every);
            if waited > CAUSES_WITHIN && is_due(looked, ASK_EVERY) {
                looked = Some(Instant::now());
                let because = match is_authority {
                    true => self.must_wait(&missing, waited).await?,
                    false => None,
                };
                let Some(because) = because else { return Ok(false) };
                if is_due(said, SAY_EVERY) {
                    said = Some(Instant::now());
                    warn!("a change waits for what another log holds: {because}");
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Why what is missing may still come; none where there is no telling.
    async fn must_wait(
        &mut self,
        missing: &[(Log, i32)],
        still: Duration,
    ) -> Result<Option<String>, Fault> {
        let waiting = self.waiting().await?;
        let mut all_wait = true;
        for Other { log, broker, flow, group, .. } in &self.way.others {
            let lanes = missing.iter().filter(|(of, _)| of == log);
            let lanes: Vec<(Log, i32)> = lanes.cloned().collect();
            if lanes.is_empty() {
                continue;
            }
            let (control, topic) = &self.way.road.control;
            if control::last(control, topic, flow).await?.pauses() {
                return Ok(Some(format!("the flow {flow} is paused")));
            }
            if members::present(broker, group).await? == 0 {
                return Ok(Some(format!("no sink works for the flow {flow}")));
            }
            // One that waits with an earlier change gives up before this one does.
            let ours = (self.seen.commit_us, &self.way.road.log);
            let later = |lane| waiting.get(lane).is_some_and(|commit_us| (*commit_us, log) > ours);
            all_wait &= lanes.iter().all(later);
        }
        let gives_up = all_wait || still > STANDSTILL;
        Ok((!gives_up).then(|| "its lanes stand still".to_owned()))
    }

    /// Says in the store that this lane waits with a change that was committed then, or no longer waits.
    pub(crate) async fn tell_waits(&mut self, commit_us: Option<u64>) -> Result<(), Fault> {
        let name = format!("{WAITS} {} {}", self.way.road.log, self.lane);
        let conn = self.applier.conn();
        let told = match commit_us {
            Some(commit_us) => {
                let put = "INSERT INTO unitflow.marker (name, n) VALUES (?, ?) \
                           ON DUPLICATE KEY UPDATE n = VALUES(n)";
                conn.exec_drop(put, (name, commit_us)).await
            }
            None => conn.exec_drop("DELETE FROM unitflow.marker WHERE name = ?", (name,)).await,
        };
        told.map_err(|error| judge(&error).at("unitflow.marker"))
    }

    /// The lanes that wait here, and when what they wait with was committed.
    async fn waiting(&mut self) -> Result<HashMap<(Log, i32), u64>, Fault> {
        let rows: Vec<(String, u64)> = self
            .applier
            .conn()
            .exec("SELECT name, n FROM unitflow.marker WHERE name LIKE ?", (format!("{WAITS} %"),))
            .await
            .map_err(|error| judge(&error).at("unitflow.marker"))?;
        let parsed = |(name, commit_us): (String, u64)| {
            let mut words = name.split(' ').skip(1);
            let log = Log::parse(words.next()?)?;
            Some(((log, words.next()?.parse().ok()?), commit_us))
        };
        Ok(rows.into_iter().filter_map(parsed).collect())
    }

    /// A lane's last record.
    async fn tail(&self, broker: &Broker, topic: &str, lane: i32) -> Result<Option<Seq>, Fault> {
        let Some(record) = last_committed(broker, topic, lane).await? else { return Ok(None) };
        Ok(Some(Tag::parse(record.header(HEADER).unwrap_or_default())?.seq))
    }

    /// The last record of each lane of the other logs.
    async fn tails(&mut self) -> Result<Vec<Tail>, Fault> {
        let lanes = ledger::read_logs(self.applier.conn()).await?;
        let mut tails = Vec::new();
        for Other { log, broker, topic, .. } in &self.way.others {
            for (_, lane, _) in lanes.iter().filter(|(of, ..)| of == log) {
                if let Some(seq) = self.tail(broker, topic, *lane).await? {
                    tails.push((log.clone(), *lane, seq));
                }
            }
        }
        Ok(tails)
    }
}

/// The lanes that have not come to where these logs end.
fn missing(stands: &[Tail], tails: &[Tail]) -> Vec<(Log, i32)> {
    let lacks = |tail: &&Tail| !ledger::is_up_to(stands, std::slice::from_ref(*tail));
    tails.iter().filter(lacks).map(|(log, lane, _)| (log.clone(), *lane)).collect()
}

/// Whether a change did not fit the row that it found.
pub(crate) fn is_misfit(fault: &Fault) -> bool {
    fault.code == Code::Conflict && fault.kind == Kind::Fatal
}

/// A change of a transaction that has to begin anew to be tried again, now that all is here: if the same
/// does not fit then, it never will.
pub(crate) fn once_more(fault: Fault) -> Fault {
    Fault { kind: Kind::Retry, ..fault }
}
