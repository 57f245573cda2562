//! Lets the log go on behind a gap, and targets begin that lack their place in it.

use tokio::time::{Instant, sleep};
use tracing::warn;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::seq::Seq;
use unitflow_change::tag::{HEADER, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::last_committed;
use unitflow_redis::{Opened, Options, Stream};
use unitflow_sinks::redis::ledger;

use super::{LOOK_EVERY, Plan, SAY_EVERY};
use crate::output::say;
use crate::pipeline::{ensure_same_topic, is_worked_on};
use crate::resync::anew;

/// A lane that a target has no ledger key of.
pub(super) struct LackingLane {
    log: Log,
    to: Name,
    lane: i32,
    /// Where it is to begin: record, topic and offset; where the log ends, if not told.
    place: Option<(Seq, String, i64)>,
}

impl Plan<'_> {
    /// Whether the log's connector can't go on: what it is to capture next is gone.
    pub(super) async fn has_gap(&self) -> Result<bool, Fault> {
        if is_worked_on(self.mesh, &self.log.unit, &self.log, Stage::Connector).await? {
            return Ok(false);
        }
        let store = self.mesh.cache(&self.log.unit, &self.log.store)?;
        let position = self.state().await?.position;
        let opened = Stream::open(store, Some(&position), Options::default()).await?;
        if matches!(opened, Opened::Continued(_)) {
            return Ok(false);
        }
        let mut ways = self.mesh.cache_ways().filter(|(log, _)| *log == self.log);
        match ways.find(|(_, to)| !self.to.contains(to)) {
            None => Ok(true),
            Some((_, left)) => Err(Fault::fatal(
                Code::PositionPurged,
                format!("what is to be captured of {} next is gone, and {left} would not get what it held", self.log),
            )
            .hint("copy to all units: the same without --to")),
        }
    }

    /// Lets the log go on behind a gap: what it held comes with the copy.
    pub(super) async fn mend_log(&self) -> Result<(), Fault> {
        warn!(log = %self.log, "what is to be captured next is gone; the copy brings what it held");
        anew::go_on(self.mesh, &self.log, &self.why).await.map(drop)
    }

    /// The ledger keys that a target lacks: it is new, or has lost all. Third units' lanes go on from where the authority stands.
    pub(super) async fn lacking_lanes(&self) -> Result<Vec<LackingLane>, Fault> {
        let mut source = self.client(&self.log.unit).await?;
        let mut lacking = Vec::new();
        for (log, to) in self.ways().into_iter().filter(|(_, to)| self.to.contains(to)) {
            let mut client = self.client(&to).await?;
            let lanes = self.mesh.lanes(&log);
            let known = ledger::read_all(&mut client, &log, lanes).await?;
            let of_source = ledger::read_all(&mut source, &log, lanes).await?;
            if log != self.log && known.is_empty() && of_source.is_empty() {
                // It has not begun anywhere.
                continue;
            }
            let is_missing = |lane: &i32| known.iter().all(|(known, _)| known != lane);
            for lane in (0..lanes).filter(is_missing) {
                let there = of_source.iter().find(|(known, _)| *known == lane);
                if there.is_none() && log != self.log {
                    return Err(Fault::fatal(
                        Code::LedgerMissing,
                        format!("{} lacks the ledger keys of {log} as well, so what it holds of that nobody knows", self.log.unit),
                    )
                    .hint("copy from a unit that has them"));
                }
                let place = there
                    .filter(|_| log != self.log)
                    .map(|(_, known)| (known.seq, known.topic_id.clone(), known.topic_offset));
                lacking.push(LackingLane { log: log.clone(), to: to.clone(), lane, place });
            }
        }
        Ok(lacking)
    }

    /// Makes them. The authority's lanes go on from here: what came before is in the copy, and what it holds already of what
    /// comes is written over by it.
    pub(super) async fn make_lanes(&self, lacking: Vec<LackingLane>) -> Result<(), Fault> {
        for LackingLane { log, to, lane, place } in lacking {
            let mut client = self.client(&to).await?;
            let (seq, id, offset) = match place {
                Some(place) => place,
                None => self.end_of(lane).await?,
            };
            ledger::create(&mut client, &log, lane, (seq, &id, offset)).await?;
            say(&format!("{log} to {to}: lane {lane} in the ledger, which it lacked"));
        }
        Ok(())
    }

    /// The last record of a lane of the log, with its topic's id, and the offset behind it.
    async fn end_of(&self, lane: i32) -> Result<(Seq, String, i64), Fault> {
        let broker = &self.mesh.unit(self.mesh.read_at(&self.log))?.broker;
        let topic = self.mesh.topics.tagged(&self.log);
        let id = ensure_same_topic(broker, &topic, None).await?;
        let last = last_committed(broker, &topic, lane).await?.ok_or_else(|| {
            Fault::retry(Code::TopicMissing, format!("{topic}[{lane}] has no record yet"))
        })?;
        let seq = Tag::parse(last.header(HEADER).unwrap_or_default())?.seq;
        Ok((seq, id, last.offset + 1))
    }

    /// Waits until the log carries what the configuration says.
    pub(super) async fn wait_until_carried(&self) -> Result<(), Fault> {
        let mut said: Option<Instant> = None;
        while self.state().await?.keyspace != self.keyspace {
            if said.is_none_or(|said| said.elapsed() > SAY_EVERY) {
                warn!(
                    "waiting: log {} does not carry what the configuration says; start the connector of unit {} with it",
                    self.log, self.log.unit
                );
                said = Some(Instant::now());
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Waits until the authority has applied of third units all that the targets have: what they did with several keys before these
    /// were marked has to show in the authority before it is read.
    pub(super) async fn wait_for_thirds(&self) -> Result<(), Fault> {
        let mut source = self.client(&self.log.unit).await?;
        for (log, to) in self.ways().into_iter().filter(|(_, to)| self.to.contains(to)) {
            if log == self.log {
                continue;
            }
            let lanes = self.mesh.lanes(&log);
            let wanted = ledger::read_all(&mut self.client(&to).await?, &log, lanes).await?;
            let mut said: Option<Instant> = None;
            loop {
                let stands = ledger::read_all(&mut source, &log, lanes).await?;
                let lags = wanted.iter().any(|(lane, wanted)| {
                    let there = stands.iter().find(|(known, _)| known == lane);
                    there.is_some_and(|(_, there)| there.seq < wanted.seq)
                });
                if !lags {
                    break;
                }
                if said.is_none_or(|said| said.elapsed() > SAY_EVERY) {
                    warn!(
                        "waiting: {} has not applied of {log} what {to} has; does its sink run?",
                        self.log.unit
                    );
                    said = Some(Instant::now());
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }
}
