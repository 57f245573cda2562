//! The road of a log's changes into a unit: from a tagged topic to the target's store, whatever that is.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::warn;
use unitflow_change::name::{Log, Name};
use unitflow_change::seq::Seq;
use unitflow_change::tag::{HEADER, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::broker::Broker;
use unitflow_kafka::control::InForce;
use unitflow_kafka::last_record_before;
use unitflow_kafka::quarantine::{Entry as Quarantined, Quarantine};

use crate::ledger::Entry;
use crate::metrics::LaneMetrics;
use crate::mirror::{Mark, Mirror};

/// A flow's way into one unit, as far as Kafka goes.
#[derive(Clone, Debug)]
pub struct Road {
    /// The log that is applied.
    pub log: Log,
    /// The unit it is applied in.
    pub to: Name,
    /// The Kafka it is read from.
    pub broker: Broker,
    /// The tagged topic there.
    pub topic: String,
    /// That topic's id.
    pub topic_id: String,
    /// The consumer group.
    pub group: String,
    /// The flow's name in orders.
    pub flow: String,
    /// Where orders come from: the target unit's Kafka and its control topic.
    pub control: (Broker, String),
    /// Takes what is not applied.
    pub quarantine: Arc<Quarantine>,
}

/// What a lane begins with.
pub struct Start {
    /// What the consumer group holds for it.
    pub committed: Option<(i64, String)>,
    /// What holds for the flow: a lane begins anew with others.
    pub orders: InForce,
    /// Where it tells how far it has come.
    pub mirror: Arc<Mirror>,
    /// What it tells of itself.
    pub metrics: LaneMetrics,
}

/// Applies a log's lanes in a store.
///
/// A record is applied if and only if the lane's ledger entry moves past it, as one with the store's data; nothing is
/// applied out of order, and where a record is missing the lane stops.
pub trait Apply: Send + Sync + 'static {
    /// Its road.
    fn road(&self) -> &Road;
    /// Runs one lane from where its ledger stands, until it is cancelled or fails.
    fn run_lane(
        &self,
        lane: i32,
        start: Start,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Where a lane begins to read.
pub(crate) enum ReadFrom {
    /// Here.
    At(i64),
    /// An operator moved the group's offset forwards to this one.
    Forward(i64),
}

/// Where to read from: the ledger's offset, unless an operator moved the group's.
pub(crate) fn starting_offset(
    entry: &Entry,
    committed: Option<(i64, String)>,
    believed: Option<Seq>,
) -> ReadFrom {
    let mark = committed.as_ref().map(|(offset, note)| (*offset, Mark::parse(note)));
    let noted = mark.and_then(|(_, mark)| mark).map(|mark| mark.seq);
    if let Some(seq) = noted.into_iter().chain(believed).max().filter(|seq| *seq > entry.seq) {
        warn!(
            code = %Code::TargetLostCommits, ledger = entry.seq.0, committed = seq.0, lane = entry.lane,
            "the target lost commits: reading again from where its ledger stands"
        );
    }
    match mark {
        Some((offset, None)) if offset < entry.topic_offset => {
            warn!(
                lane = entry.lane,
                offset, "an operator moved the group back: reading again, which changes nothing"
            );
            ReadFrom::At(offset)
        }
        Some((offset, None)) if offset > entry.topic_offset => ReadFrom::Forward(offset),
        _ => ReadFrom::At(entry.topic_offset),
    }
}

impl Road {
    /// Whether the ledger's offset belongs to the topic as it is.
    pub(crate) fn ensure_same_topic(&self, entry: &Entry) -> Result<(), Fault> {
        if entry.topic_id == self.topic_id {
            return Ok(());
        }
        Err(Fault::fatal(
            Code::TopicRecreated,
            format!(
                "{} has the id {}, but lane {} was reading {}: it was created again",
                self.topic, self.topic_id, entry.lane, entry.topic_id
            ),
        )
        .hint("what the old topic held and this unit had not applied is gone: see the runbook for how a log begins anew"))
    }

    /// An offset may have been moved forwards over what is no record, or by an order that says which
    /// records are not to be applied.
    pub(crate) async fn ensure_may_be_forward(
        &self,
        entry: &Entry,
        offset: i64,
        orders: &InForce,
    ) -> Result<(), Fault> {
        let last = last_record_before(&self.broker, &self.topic, entry.lane, offset).await?;
        let last = match &last {
            Some(record) => Tag::parse(record.header(HEADER).unwrap_or_default())?.seq,
            None => Seq::NONE,
        };
        // Whether the order names all of them shows when they are read.
        if last <= entry.seq || orders.skips_some(entry.lane, (entry.seq, last), -1) {
            return Ok(());
        }
        let (lane, stands, first) = (entry.lane, entry.topic_offset, entry.seq.0 + 1);
        Err(Fault::fatal(
            Code::OffsetForward,
            format!("the group's offset of lane {lane} was moved forwards to {offset}, over records from {stands} on that are not applied"),
        )
        .hint(format!(
            "set it back with kafka-consumer-groups --reset-offsets to {stands} or a lower one; or, so that they never are: unitflow skip {} --lane {lane} --seq {first} --to-seq {last} --why …",
            self.flow
        )))
    }

    /// An operator who moves the group's offset forwards to `moved_to` says by an order which records are not to
    /// be applied; every one of them has to be named.
    pub(crate) fn ensure_not_passed_by(
        &self,
        lane: i32,
        (seq, offset): (Seq, i64),
        moved_to: i64,
    ) -> Result<(), Fault> {
        if offset >= moved_to {
            return Ok(());
        }
        Err(Fault::fatal(
            Code::OffsetForward,
            format!("the group's offset of lane {lane} was moved forwards over record {seq} at offset {offset}, which the order in force does not name"),
        )
        .hint(format!(
            "name all of them: unitflow skip {} --lane {lane} --seq {seq} --to-seq … --why …; or set the offset back",
            self.flow
        )))
    }

    /// A log holds its own unit's changes only, and never comes back to that unit.
    pub(crate) fn ensure_foreign(&self, origin: &[u8]) -> Result<(), Fault> {
        if origin == self.log.unit.as_str().as_bytes() && self.log.unit != self.to {
            return Ok(());
        }
        Err(Fault::fatal(
            Code::Looped,
            format!(
                "a change of unit {} came to unit {} in log {}",
                origin.escape_ascii(),
                self.to,
                self.log
            ),
        )
        .hint("do not restart: find out who writes to the tagged topic, see the runbook"))
    }

    /// A record does not follow the one applied before it; `gone` where retention took what was to be read first.
    pub(crate) fn gap(
        &self,
        lane: i32,
        (tag, offset): (&Tag<'_>, i64),
        last: Seq,
        gone: bool,
    ) -> Fault {
        Fault::fatal(
            if gone { Code::OffsetGone } else { Code::Gap },
            format!(
                "{} lane {lane}: record {} at offset {offset} follows {}, but the last one applied is {last}",
                self.log, tag.seq, tag.prev
            ),
        )
        .hint("the topic lost records that this unit has not applied: see the runbook for how a log begins anew")
    }

    /// Tells the quarantine of what is not applied.
    pub(crate) async fn tell_quarantine(
        &self,
        lane: i32,
        (seq, topic_offset): (Seq, i64),
        key: &str,
        code: Code,
        (why, by): (&str, &str),
    ) -> Result<(), Fault> {
        let entry = Quarantined {
            log: &self.log.to_string(),
            lane,
            seq,
            topic_offset,
            key,
            code: code.as_str(),
            why,
            by,
        };
        self.quarantine.put(&entry).await
    }
}
