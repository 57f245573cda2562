//! Changes that come before what they were made behind.
//!
//! Each log keeps its order, and logs do not wait for each other: what unit B wrote behind a change of
//! unit C may be here before that change is. It does not fit then, and will a moment later. What it was
//! made behind had been applied in B, so it stood in the Kafka that C's log is read from before B's
//! change did: up to where that Kafka ends now is far enough.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;
use unitflow_change::fault::Kind;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_change::tag::{HEADER, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::{Broker, last_committed};

use crate::lane::Lane;
use crate::ledger;

/// How long a change waits for others that it may have been made behind. It may also be a conflict, as the
/// one that the other log's lane waits with may be.
const CAUSES_WITHIN: Duration = Duration::from_secs(5);
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
        let own = self.tail(&self.way.broker, &self.way.topic, self.lane).await?;
        let tails = self.tails().await?;
        self.waited_up_to = own.unwrap_or(self.seen.seq).max(self.seen.seq);
        let begun = Instant::now();
        while !ledger::is_up_to(&ledger::read_logs(self.applier.conn()).await?, &tails) {
            if begun.elapsed() > CAUSES_WITHIN {
                return Ok(false);
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(true)
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
        for Other { log, broker, topic } in &self.way.others {
            for (_, lane, _) in lanes.iter().filter(|(of, ..)| of == log) {
                if let Some(seq) = self.tail(broker, topic, *lane).await? {
                    tails.push((log.clone(), *lane, seq));
                }
            }
        }
        Ok(tails)
    }
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
