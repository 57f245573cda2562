//! One lane: one partition, one connection, one ledger row, in order.
//!
//! A lane begins where its ledger row says, drops what it has applied, stops where a record does
//! not follow the one before it, and commits whole source transactions as they end in its
//! partition. After any fault that may be tried again it begins anew from the ledger, which alone
//! knows what was applied.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use unitflow_change::copy::Chunk;
use unitflow_change::ddl::{Stored, TableName};
use unitflow_change::fault::Kind as FaultKind;
use unitflow_change::rename::Rename;
use unitflow_change::seq::{Seq, Step, step};
use unitflow_change::tag::{After, Afters, HEADER, Kind, ORIGIN, Tag, is_for};
use unitflow_change::{Code, Fault, inject};
use unitflow_kafka::control::InForce;
use unitflow_kafka::reader::{Item, Options, Reader, Record};
use unitflow_kafka::topics;
use unitflow_mysql::connect::Store;

use crate::batch::{Batch, Limits, Slot};
use crate::causes::{Other, is_misfit, once_more};
use crate::copy::chunk::Gathered;
use crate::copy::filling::{Note, noted};
use crate::copy::own_log::OwnLog;
use crate::metrics::LaneMetrics;
use crate::mirror::Mirror;
use crate::mysql::apply::{Applier, End, Part};
use crate::mysql::own_rows::OwnRows;
use crate::park::{Parked, key_of, parked_at, parks, payload_of, table_of};
use crate::road::{Apply, ReadFrom, Road, Start, starting_offset};
use crate::schema;

/// Bytes fetched ahead for each lane, and in one answer: a sink has many, and JSON is unpacked to ten
/// times its size.
const QUEUE_BYTES: usize = 4 << 20;
const FETCH_BYTES: usize = 256 << 10;
/// How often an idle connection shows that it is alive.
const PING_EVERY: Duration = Duration::from_secs(20);
/// How long a transaction stays open at the target while nothing more of it comes.
const OPEN_FOR: Duration = Duration::from_secs(3);
/// How often another lane's ledger row is looked at while this one waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often a lane that another worker may have is looked up in the ledger.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(50);
/// After how long such a wait is worth a line in the log.
pub(crate) const LONG_WAIT: Duration = Duration::from_secs(10);
/// How long a lane that a test makes dawdle holds a batch before it begins the transaction.
const DAWDLE: Duration = Duration::from_millis(300);
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
    /// Its road.
    pub road: Road,
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
    /// The target unit's own captured log, by which copied rows are judged; none where nothing is
    /// captured there.
    pub own_log: Option<Arc<OwnLog<OwnRows>>>,
    /// The other logs that are applied to the same store.
    pub others: Vec<Other>,
}

impl Way {
    /// Where what was to be read is gone, says which command mends that.
    fn mended_by_resync(&self, fault: Fault) -> Fault {
        if fault.code != Code::OffsetGone {
            return fault;
        }
        let hint = format!(
            "unitflow resync full --from {} --to {} --why …, see the runbook; then raise the topic's retention",
            self.road.log.unit, self.road.to
        );
        fault.hint(hint)
    }
}

impl Apply for Way {
    fn road(&self) -> &Road {
        &self.road
    }

    async fn run_lane(
        &self,
        lane: i32,
        start: Start,
        cancel: CancellationToken,
    ) -> Result<(), Fault> {
        tokio::select! {
            () = cancel.cancelled() => Ok(()),
            result = apply_all(self, lane, start) => {
                result.map_err(|fault| self.mended_by_resync(fault))
            }
        }
    }
}

async fn apply_all(way: &Way, lane: i32, start: Start) -> Result<(), Fault> {
    let Start { committed, orders, mirror, metrics } = start;
    let mirror = &*mirror;
    if orders.pauses() {
        info!(lane, "paused");
        return std::future::pending().await;
    }
    let mut applier =
        Applier::open(&way.store, way.rename.clone(), way.road.log.clone(), lane).await?;
    schema::ensure_complete(applier.conn()).await?;
    let entry = applier.entry().await?;
    way.road.ensure_same_topic(&entry)?;
    let (wanted, moved_to) = match starting_offset(&entry, committed, mirror.believed(lane)) {
        ReadFrom::At(offset) => (offset, 0),
        ReadFrom::Forward(offset) => {
            way.road.ensure_may_be_forward(&entry, offset, &orders).await?;
            (entry.topic_offset, offset)
        }
    };
    // Where retention took everything, the ledger's offset is gone with it. Whether a record is
    // missing is proved by the first one's `prev`.
    let (low, _) = topics::bounds(&way.road.broker, &way.road.topic, lane).await?;
    let start = wanted.max(low);
    let parked = Parked::load(applier.conn(), &way.road.log, lane).await?;
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
        moved_to,
        batch: Batch::default(),
        gathered: None,
        fresh: true,
        waited_up_to: Seq::NONE,
        soft: false,
        parked,
        orders,
        mirror,
        metrics,
    };
    // One before this may have died while it waited.
    lane.tell_waits(None).await?;
    // What waits precedes the barrier that the lane stands on. One that is only noted comes again.
    lane.release().await?;
    if let Some(barrier) = entry.barrier.filter(|barrier| *barrier <= entry.seq) {
        lane.meet(barrier).await?;
        lane.release().await?;
    }
    let reader = read(way, lane.lane, start).await?;
    lane.run(&reader).await
}

/// Reads a lane's records from there.
pub(crate) async fn read(way: &Way, lane: i32, start: i64) -> Result<Reader, Fault> {
    let options =
        Options { queue_bytes: QUEUE_BYTES, fetch_bytes: FETCH_BYTES, ..Options::default() };
    Reader::open_with(&way.road.broker, &way.road.topic, &[(lane, start)], options).await
}

pub(crate) struct Lane<'a> {
    pub(crate) way: &'a Way,
    pub(crate) lane: i32,
    pub(crate) applier: Applier,
    /// Where the ledger stands.
    pub(crate) at: End,
    /// Where it will stand once all that is gathered is committed.
    pub(crate) seen: End,
    /// Whether a part of a long source transaction is applied and not committed.
    pub(crate) inside: bool,
    /// Whether something was applied since the target's tables were first read.
    proven: bool,
    /// Whether the topic no longer holds the offset that the ledger names.
    raised: bool,
    /// Up to where an operator moved the group's offset forwards; 0 if nobody did.
    moved_to: i64,
    pub(crate) batch: Batch,
    /// The chunk whose rows are being gathered.
    gathered: Option<Gathered>,
    /// Whether the rows of the next chunk are likely not there yet.
    pub(crate) fresh: bool,
    /// The last record before which it was waited for what it may have been made behind.
    pub(crate) waited_up_to: Seq,
    /// Whether the transaction that is applied in parts passes over what does not fit.
    soft: bool,
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
            fault.at(format!("{} [{}] {}", self.way.road.topic, self.lane, record.offset()))
        })?;
        match step(self.seen.seq, tag.seq, tag.prev) {
            Step::Seen => {
                self.metrics.repeated();
                return Ok(Action::Gather);
            }
            Step::Gap => return Err(self.gap(&tag, record.offset())),
            Step::Next => {}
        }
        self.way.road.ensure_foreign(record.header(ORIGIN).unwrap_or_default())?;
        if matches!(tag.kind, Kind::Ddl | Kind::Barrier) {
            self.commit_what_precedes().await?;
            let offsets = (record.offset(), record.next_offset());
            self.pass(&tag, offsets, record.value().unwrap_or_default()).await?;
            return Ok(Action::Gather);
        }
        if matches!(tag.kind, Kind::Chunk | Kind::Copy) {
            return self.gather(record, &tag).await;
        }
        let here = End { seq: tag.seq, offset: record.offset(), commit_us: tag.commit_us };
        let is_row = tag.kind == Kind::Row;
        let skips = is_row && self.orders.skips(self.lane, tag.seq);
        let (key, waits) = match self.key_and_whether_parked(record, is_row) {
            // Nobody can tell which row it is, but it may be passed over all the same.
            Err(_) if skips => (record.key().unwrap_or_default().into(), false),
            read => read.map_err(|fault| fault.at(format!("record {}", tag.seq)))?,
        };
        let skipped = skips && !waits;
        if skipped {
            self.skip(here, &String::from_utf8_lossy(&key)).await?;
        } else if is_row && !waits {
            self.way.road.ensure_not_passed_by(
                self.lane,
                (here.seq, here.offset),
                self.moved_to,
            )?;
            self.wait_for(tag.after, &key).await?;
        }
        if skipped || waits {
            self.batch.push(record.offset(), &Tag { kind: Kind::Watermark, ..tag }, b"", b"");
        } else {
            self.batch.push(record.offset(), &tag, &key, payload_of(record));
        }
        self.seen = End { seq: tag.seq, offset: record.next_offset(), commit_us: tag.commit_us };
        if skipped && !self.way.whole {
            // The next order need not name it again.
            self.commit_what_precedes().await?;
        }
        Ok(if self.batch.is_full(&self.way.limits) { Action::Apply } else { Action::Gather })
    }

    /// A record's key, and whether its changes wait for a person.
    fn key_and_whether_parked<'r>(
        &mut self,
        record: &'r Record<'_>,
        is_row: bool,
    ) -> Result<(Cow<'r, [u8]>, bool), Fault> {
        let key = key_of(record)?;
        let waits = is_row && self.parked.holds(&key)?;
        Ok((key, waits))
    }

    /// Takes the head of a chunk, or one of its rows. A chunk is applied whole, and alone.
    async fn gather(&mut self, record: &Record<'_>, tag: &Tag<'_>) -> Result<Action, Fault> {
        let to = End { seq: tag.seq, offset: record.next_offset(), commit_us: tag.commit_us };
        let value = record.value().unwrap_or_default();
        let passed = Tag { kind: Kind::Watermark, ..*tag };
        if !is_for(tag.to, self.way.road.to.as_str()) {
            self.batch.push(record.offset(), &passed, b"", b"");
            self.seen = to;
            return Ok(Action::Gather);
        }
        if tag.kind == Kind::Chunk {
            self.commit_what_precedes().await?;
            let chunk = Chunk::parse(value)?;
            if tag.last {
                self.heed(&chunk, to).await?;
                return Ok(Action::Gather);
            }
            self.batch.push(record.offset(), &passed, b"", b"");
            self.gathered = Some(Gathered { chunk, read_us: tag.commit_us });
            self.seen = to;
            return Ok(Action::Gather);
        }
        if self.gathered.is_none() {
            // What it would be judged by was removed from the topic.
            self.commit_what_precedes().await?;
            self.note_headless(&key_of(record)?, to).await?;
            return Ok(Action::Gather);
        }
        self.batch.push(record.offset(), tag, &key_of(record)?, payload_of(record));
        self.seen = to;
        if tag.last
            && let Some(gathered) = self.gathered.take()
        {
            self.apply_chunk(gathered, to).await?;
        }
        Ok(Action::Gather)
    }

    /// Before it waits, a lane commits what precedes, even inside a source transaction: the other
    /// lane may be waiting for this one. Waits only ever point to lower numbers, so they end. Where
    /// the other lane parked the table, it is parked here too.
    async fn wait_for(&mut self, afters: Afters<'_>, key: &[u8]) -> Result<(), Fault> {
        if afters.is_empty() {
            return Ok(());
        }
        self.commit_what_precedes().await?;
        let table = table_of(key)?;
        match self.follow(afters, &table).await {
            Err(fault) if fault.code == Code::Parked => Err(self.park_table(&table, fault).await),
            outcome => outcome,
        }
    }

    /// Waits until other lanes have applied this to a table.
    ///
    /// # Errors
    /// [`Code::Parked`], not to be tried again, where a lane has parked the table before that.
    pub(crate) async fn follow(
        &mut self,
        afters: Afters<'_>,
        table: &TableName,
    ) -> Result<(), Fault> {
        let begun = tokio::time::Instant::now();
        let mut told = false;
        for after in afters.iter() {
            while !self.is_applied(after, table).await? {
                if begun.elapsed() > LONG_WAIT && !told {
                    told = true;
                    let (other, seq) = (after.lane, after.seq.0);
                    warn!(lane = self.lane, other, seq, "waiting for another lane");
                }
                // A released table catches up behind its lane's place.
                tokio::time::sleep(LOOK_EVERY).await;
                self.mirror.reached(after.lane, after.seq, LOOK_ELSEWHERE).await;
            }
        }
        Ok(())
    }

    /// The ledger passes over what is parked, so a parked table's own place counts.
    async fn is_applied(&mut self, after: After, table: &TableName) -> Result<bool, Fault> {
        let stands = self.applier.seq_of(after.lane).await?;
        if stands < after.seq {
            return Ok(false);
        }
        let parked = parked_at(self.applier.conn(), &self.way.road.log, after.lane, table).await?;
        let Some(parked) = parked.filter(|parked| parked.seq < after.seq) else {
            return Ok(true);
        };
        // One that is released is catching up.
        if parked.goes_on(table, &self.orders, stands) {
            return Ok(false);
        }
        Err(Fault::fatal(
            Code::Parked,
            format!(
                "lane {} has to apply {} first, and has parked {table} at {}",
                after.lane, after.seq, parked.seq
            ),
        ))
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
        self.apply_part(part).await?;
        if self.inside { Ok(()) } else { self.release_what_is_passed().await }
    }

    async fn apply_part(&mut self, part: Part) -> Result<(), Fault> {
        if part == Part::First {
            self.begin_a_long_one().await?;
        }
        let mut soft = self.soft && part != Part::Whole;
        if inject::on("dawdle") && !self.inside {
            tokio::time::sleep(DAWDLE).await;
        }
        let mut attempt = 1;
        loop {
            let outcome = match soft {
                true => self.apply_softly(part).await,
                false => self.applier.apply(&self.batch, part, self.at, self.seen).await,
            };
            let Err(fault) = outcome else { break };
            let early = is_misfit(&fault) && self.may_be_early().await?;
            if early && self.wait_for_causes().await? {
                if part != Part::Whole {
                    return Err(once_more(fault));
                }
                continue;
            }
            let softens = is_misfit(&fault) && part == Part::Whole && !soft;
            if softens && !self.filled().await?.is_empty() {
                soft = true;
                continue;
            }
            if may_be_repeated(&fault) && part == Part::Whole && attempt < ATTEMPTS {
                self.metrics.retried();
                tokio::time::sleep(LOOK_EVERY * attempt).await;
                attempt += 1;
                continue;
            }
            // The target's tables may have changed since they were read.
            if parks(&fault) && self.proven {
                return Err(Fault { kind: FaultKind::Retry, ..fault });
            }
            if parks(&fault) && !self.way.whole {
                return Err(self.park(fault).await);
            }
            return Err(fault);
        }
        self.inside = matches!(part, Part::First | Part::Middle);
        if !self.inside {
            // What is not committed proves nothing: another attempt would begin before it.
            self.proven = true;
            self.at = self.seen;
            self.mirror.applied(self.lane, self.at.offset, self.at.seq);
        }
        self.metrics.applied(&self.batch, !self.inside);
        self.batch.clear();
        Ok(())
    }

    /// Before the first part of a transaction that is applied in parts. Where it passes over what does not
    /// fit and this unit's rows count, it waits for what it was made behind: it can't be tried twice.
    async fn begin_a_long_one(&mut self) -> Result<(), Fault> {
        self.soft = !self.filled().await?.is_empty();
        if self.soft && self.may_be_early().await? {
            self.wait_for_causes().await?;
        }
        Ok(())
    }

    /// Applies the batch, and notes the changes of tables that are being filled that do not fit.
    async fn apply_softly(&mut self, part: Part) -> Result<(), Fault> {
        let filled = self.filled().await?;
        let (log, lane) = (self.way.road.log.clone(), self.lane);
        let mut passed = 0;
        let mut passes = |slot: &Slot, key: &[u8]| {
            if !filled.contains(&table_of(key)?) {
                return Ok(None);
            }
            passed += 1;
            let (key, why) = (key.to_vec(), "did not fit".to_owned());
            noted(&Note { key, log: log.clone(), lane, seq: slot.seq, why }).map(Some)
        };
        let ends = (self.at, self.seen);
        self.applier.apply_softly(&self.batch, part, ends, &mut passes).await?;
        self.metrics.copied(0, passed);
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

    fn gap(&self, tag: &Tag<'_>, offset: i64) -> Fault {
        let gone = self.raised && self.seen == self.at;
        self.way.road.gap(self.lane, (tag, offset), self.seen.seq, gone)
    }
}

/// Whether the same may succeed at once.
fn may_be_repeated(fault: &Fault) -> bool {
    let elsewhere =
        matches!(fault.code, Code::LedgerMoved | Code::TargetLostCommits | Code::Unreachable);
    fault.kind == FaultKind::Retry && !elsewhere
}
