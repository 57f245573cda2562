//! One lane: one partition, one connection, one ledger row, in order.
//!
//! A lane begins where its ledger row says, drops what it has applied, stops where a record does
//! not follow the one before it, and commits whole source transactions as they end in its
//! partition. After any fault that may be tried again it begins anew from the ledger, which alone
//! knows what was applied.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use unitflow_change::ddl::Stored;
use unitflow_change::fault::Kind as FaultKind;
use unitflow_change::name::{Log, Name};
use unitflow_change::rename::Rename;
use unitflow_change::seq::{Seq, Step, step};
use unitflow_change::tag::{After, HEADER, Kind, ORIGIN, Tag};
use unitflow_change::{Code, Fault, form, inject};
use unitflow_kafka::broker::Broker;
use unitflow_kafka::control::InForce;
use unitflow_kafka::quarantine::Quarantine;
use unitflow_kafka::reader::{Item, Reader, Record};
use unitflow_kafka::topics;
use unitflow_mysql::connect::Store;

use crate::batch::{Batch, Limits};
use crate::ledger::Entry;
use crate::metrics::LaneMetrics;
use crate::mirror::{Mark, Mirror};
use crate::mysql::apply::{Applier, End, Part};
use crate::park::{Parked, parks};

/// Bytes fetched ahead for each lane.
pub(crate) const QUEUE_BYTES: usize = 4 << 20;
/// How often an idle connection shows that it is alive.
const PING_EVERY: Duration = Duration::from_secs(20);
/// How long a transaction stays open at the target while nothing more of it comes.
const OPEN_FOR: Duration = Duration::from_secs(3);
/// How often another lane's ledger row is looked at while this one waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// After how long such a wait is worth a line in the log.
pub(crate) const LONG_WAIT: Duration = Duration::from_secs(10);
/// How often a batch that met a deadlock is tried again before the lane begins anew.
const ATTEMPTS: u32 = 5;

/// What a sink does when a schema change arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDdl {
    /// It parks the tables whose changes the target can't take as it is, until a person has brought
    /// them to the same schema.
    Stop,
    /// It goes on.
    Pass,
    /// It does the same at the target.
    Apply,
}

/// A flow's way into one unit, the same for all its lanes.
#[derive(Clone, Debug)]
pub struct Way {
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
    /// The store it is applied to.
    pub store: Store,
    /// What that store calls the mesh's tables.
    pub rename: Rename,
    /// How much one commit may hold.
    pub limits: Limits,
    /// What happens at a schema change.
    pub on_ddl: OnDdl,
    /// Stored code that is brought along where schema changes are applied.
    pub stored_code: Vec<Stored>,
    /// Whether some unit of the flow has names of its own: statements can't be told then.
    pub renamed: bool,
    /// Whether source transactions stay whole: then no table of them may wait alone.
    pub whole: bool,
    /// The flow's name in orders.
    pub flow: String,
    /// Where orders come from: the target unit's Kafka and its control topic.
    pub control: (Broker, String),
    /// Takes what is not applied.
    pub quarantine: Arc<Quarantine>,
}

/// Runs one lane until it is cancelled or fails. `committed` is what the consumer group holds for
/// it, `orders` what holds for the flow: a lane begins anew with others.
pub async fn run(
    way: &Way,
    lane: i32,
    committed: Option<(i64, String)>,
    mirror: Arc<Mirror>,
    metrics: LaneMetrics,
    orders: InForce,
    cancel: CancellationToken,
) -> Result<(), Fault> {
    tokio::select! {
        () = cancel.cancelled() => Ok(()),
        result = apply_all(way, lane, committed, &mirror, metrics, orders) => result,
    }
}

async fn apply_all(
    way: &Way,
    lane: i32,
    committed: Option<(i64, String)>,
    mirror: &Mirror,
    metrics: LaneMetrics,
    orders: InForce,
) -> Result<(), Fault> {
    if orders.pauses() {
        info!(lane, "paused");
        return std::future::pending().await;
    }
    let mut applier = Applier::open(&way.store, way.rename.clone(), way.log.clone(), lane).await?;
    let entry = applier.entry().await?;
    if entry.topic_id != way.topic_id {
        return Err(Fault::fatal(
            Code::TopicRecreated,
            format!(
                "{} has the id {}, but lane {lane} was reading {}: it was created again",
                way.topic, way.topic_id, entry.topic_id
            ),
        )
        .hint("what the old topic held and this unit had not applied is gone: resync, see the runbook"));
    }
    let wanted = starting_offset(&entry, committed, mirror.believed(lane))?;
    // Where retention took everything, the ledger's offset is gone with it. Whether a record is
    // missing is proved by the first one's `prev`.
    let (low, _) = topics::bounds(&way.broker, &way.topic, lane).await?;
    let start = wanted.max(low);
    let parked = Parked::load(applier.conn(), &way.log, lane).await?;
    info!(lane, seq = entry.seq.0, offset = start, "lane begins");
    let mut lane = Lane {
        way,
        lane,
        applier,
        at: End { seq: entry.seq, offset: entry.topic_offset, commit_us: 0 },
        seen: End { seq: entry.seq, offset: entry.topic_offset, commit_us: 0 },
        inside: false,
        proven: false,
        raised: start > wanted,
        batch: Batch::default(),
        parked,
        orders,
        mirror,
        metrics,
    };
    // One that is only noted comes again.
    if let Some(barrier) = entry.barrier.filter(|barrier| *barrier <= entry.seq) {
        lane.meet(barrier).await?;
    }
    lane.release().await?;
    let reader = Reader::open(&way.broker, &way.topic, &[(lane.lane, start)], QUEUE_BYTES).await?;
    lane.run(&reader).await
}

/// Where to read from: the ledger's offset, unless an operator moved the group's back.
fn starting_offset(
    entry: &Entry,
    committed: Option<(i64, String)>,
    believed: Option<Seq>,
) -> Result<i64, Fault> {
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
            warn!(lane = entry.lane, offset, "an operator moved the group back: reading again, which changes nothing");
            Ok(offset)
        }
        Some((offset, None)) if offset > entry.topic_offset => Err(Fault::fatal(
            Code::OffsetForward,
            format!(
                "the group's offset of lane {} was moved forwards to {offset}, over records from {} on that are not applied",
                entry.lane, entry.topic_offset
            ),
        )
        .hint("set it back with kafka-consumer-groups --reset-offsets to that offset or a lower one; Unitflow seeks by its ledger")),
        _ => Ok(entry.topic_offset),
    }
}

pub(crate) struct Lane<'a> {
    pub(crate) way: &'a Way,
    pub(crate) lane: i32,
    pub(crate) applier: Applier,
    /// Where the ledger stands.
    pub(crate) at: End,
    /// Where it will stand once all that is gathered is committed.
    seen: End,
    /// Whether a part of a long source transaction is applied and not committed.
    inside: bool,
    /// Whether something was applied since the target's tables were first read.
    proven: bool,
    /// Whether the topic no longer holds the offset that the ledger names.
    raised: bool,
    batch: Batch,
    pub(crate) parked: Parked,
    pub(crate) orders: InForce,
    mirror: &'a Mirror,
    pub(crate) metrics: LaneMetrics,
}

/// What the next item asks for.
enum Action {
    /// Gather on.
    Gather,
    /// Apply what is gathered, which ends where it may be committed.
    Apply,
    /// The partition's end was read: mirror this offset once all before it is applied.
    Ended(i64),
}

impl Lane<'_> {
    async fn run(&mut self, reader: &Reader) -> Result<(), Fault> {
        loop {
            let item = match reader.try_next()? {
                Some(item) => item,
                // Nothing more is at hand: what is whole should not wait for what may come.
                None if self.batch.ends_a_transaction() => {
                    self.apply().await?;
                    continue;
                }
                None => self.wait(reader).await?,
            };
            let action = match item {
                Item::Record(record) => self.select(&record).await?,
                Item::End { offset, .. } => Action::Ended(offset),
            };
            match action {
                Action::Gather => {}
                Action::Apply => self.apply().await?,
                Action::Ended(offset) => self.ended(offset).await?,
            }
        }
    }

    /// Waits for the next item: with a transaction open only for a moment, since it holds locks,
    /// unless a large record is under way.
    async fn wait<'r>(&mut self, reader: &'r Reader) -> Result<Item<'r>, Fault> {
        let mut pieces = reader.pieces();
        loop {
            let patience = if self.inside { OPEN_FOR } else { PING_EVERY };
            match tokio::time::timeout(patience, reader.next()).await {
                Ok(item) => return item,
                Err(_) if self.inside && reader.pieces() == pieces => {
                    let what = "the rest of a long transaction does not come; it was rolled back";
                    return Err(Fault::retry(Code::Timeout, what));
                }
                Err(_) => {
                    pieces = reader.pieces();
                    self.applier.ping().await?;
                }
            }
        }
    }

    /// Takes one record into the batch, or finds that it was seen, or that it can't be taken.
    async fn select(&mut self, record: &Record<'_>) -> Result<Action, Fault> {
        let tag = Tag::parse(record.header(HEADER).unwrap_or_default()).map_err(|fault| {
            fault.at(format!("{} [{}] {}", self.way.topic, self.lane, record.offset()))
        })?;
        match step(self.seen.seq, tag.seq, tag.prev) {
            Step::Seen if !inject::on("no_cas") => {
                self.metrics.repeated();
                return Ok(Action::Gather);
            }
            Step::Gap if !inject::on("no_cas") => return Err(self.gap(&tag, record.offset())),
            _ => {}
        }
        self.ensure_foreign(record.header(ORIGIN).unwrap_or_default())?;
        if matches!(tag.kind, Kind::Ddl | Kind::Barrier) {
            self.commit_what_precedes().await?;
            let offsets = (record.offset(), record.next_offset());
            self.pass(&tag, offsets, record.value().unwrap_or_default()).await?;
            return Ok(Action::Gather);
        }
        let key = &*form::plain_key(record.key().unwrap_or_default())?;
        let value = form::payload(record.value().unwrap_or_default())?;
        let here = End { seq: tag.seq, offset: record.offset(), commit_us: tag.commit_us };
        let is_row = tag.kind == Kind::Row;
        let skipped = is_row && self.orders.skips(self.lane, tag.seq);
        if skipped {
            self.skip(here, &String::from_utf8_lossy(key)).await?;
        }
        if skipped || (is_row && self.parked.holds(key)?) {
            self.batch.push(record.offset(), &Tag { kind: Kind::Watermark, ..tag }, b"", b"");
        } else {
            if let Some(after) = tag.after {
                self.wait_for(after).await?;
            }
            self.batch.push(record.offset(), &tag, key, value);
        }
        self.seen = End { seq: tag.seq, offset: record.next_offset(), commit_us: tag.commit_us };
        Ok(if self.batch.is_full(&self.way.limits) { Action::Apply } else { Action::Gather })
    }

    /// Before it waits, a lane commits what precedes, even inside a source transaction: the other
    /// lane may be waiting for this one. Waits only ever point to lower numbers, so they end.
    async fn wait_for(&mut self, after: After) -> Result<(), Fault> {
        self.commit_what_precedes().await?;
        let begun = tokio::time::Instant::now();
        let mut told = false;
        while self.applier.seq_of(after.lane).await? < after.seq {
            if begun.elapsed() > LONG_WAIT && !told {
                told = true;
                warn!(
                    lane = self.lane,
                    other = after.lane,
                    seq = after.seq.0,
                    "waiting for another lane"
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn commit_what_precedes(&mut self) -> Result<(), Fault> {
        match (self.inside, self.batch.is_empty()) {
            (false, true) => Ok(()),
            (false, false) => self.apply_part(Part::Whole).await,
            (true, _) => self.apply_part(Part::Last).await,
        }
    }

    /// Passes over a record, as an order says; what it held goes to quarantine first.
    pub(crate) async fn skip(&mut self, at: End, key: &str) -> Result<(), Fault> {
        let order = self.orders.order.clone();
        let (by, why) = order.map_or_else(Default::default, |order| (order.by, order.why));
        warn!(lane = self.lane, seq = at.seq.0, by, why, "passed over by order");
        self.tell_quarantine(at, key, Code::Control, &why, &by).await
    }

    /// The ledger was moved.
    pub(crate) fn stands_at(&mut self, at: End) {
        (self.at, self.seen) = (at, at);
        self.mirror.applied(self.lane, at.offset, at.seq);
    }

    /// Applies the batch and commits it if a source transaction ends with it.
    async fn apply(&mut self) -> Result<(), Fault> {
        let part = match (self.inside, self.batch.ends_a_transaction()) {
            (false, true) => Part::Whole,
            (false, false) => Part::First,
            (true, false) => Part::Middle,
            (true, true) => Part::Last,
        };
        self.apply_part(part).await
    }

    async fn apply_part(&mut self, part: Part) -> Result<(), Fault> {
        let mut attempt = 1;
        loop {
            match self.applier.apply(&self.batch, part, self.at, self.seen).await {
                Ok(()) => break,
                Err(fault)
                    if fault.kind == FaultKind::Retry
                        && part == Part::Whole
                        && attempt < ATTEMPTS
                        && !matches!(
                            fault.code,
                            Code::LedgerMoved | Code::TargetLostCommits | Code::Unreachable
                        ) =>
                {
                    self.metrics.retried();
                    tokio::time::sleep(LOOK_EVERY * attempt).await;
                    attempt += 1;
                }
                // The target's tables may have changed since they were read.
                Err(fault) if parks(&fault) && self.proven => {
                    return Err(Fault { kind: FaultKind::Retry, ..fault });
                }
                Err(fault) if parks(&fault) && !self.way.whole => {
                    return Err(self.park(fault).await);
                }
                Err(fault) => return Err(fault),
            }
        }
        self.proven = true;
        self.inside = matches!(part, Part::First | Part::Middle);
        if !self.inside {
            self.at = self.seen;
            self.mirror.applied(self.lane, self.at.offset, self.at.seq);
        }
        self.metrics.applied(&self.batch, !self.inside);
        self.batch.clear();
        Ok(())
    }

    async fn ended(&mut self, offset: i64) -> Result<(), Fault> {
        if self.batch.ends_a_transaction() {
            self.apply().await?;
        }
        if self.batch.is_empty() && !self.inside {
            self.mirror.applied(self.lane, offset, self.at.seq);
        }
        Ok(())
    }

    /// A log holds its own unit's changes only, and never comes back to that unit.
    fn ensure_foreign(&self, origin: &[u8]) -> Result<(), Fault> {
        if origin == self.way.log.unit.as_str().as_bytes() && self.way.log.unit != self.way.to {
            return Ok(());
        }
        Err(Fault::fatal(
            Code::Looped,
            format!(
                "a change of unit {} came to unit {} in log {}",
                origin.escape_ascii(),
                self.way.to,
                self.way.log
            ),
        )
        .hint("do not restart: find out who writes to the tagged topic, see the runbook"))
    }

    fn gap(&self, tag: &Tag<'_>, offset: i64) -> Fault {
        Fault::fatal(
            if self.raised && self.seen == self.at { Code::OffsetGone } else { Code::Gap },
            format!(
                "{} lane {}: record {} at offset {offset} follows {}, but the last one applied is {}",
                self.way.log, self.lane, tag.seq, tag.prev, self.seen.seq
            ),
        )
        .hint("the topic lost records that this unit has not applied: resync, see the runbook")
    }
}
