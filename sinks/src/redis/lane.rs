//! One lane into a Redis store: one partition, one connection, one ledger key, in order.
//!
//! A lane begins where its ledger key says, drops what it has applied, stops where a record does not follow the one before
//! it, and applies whole source transactions. After any fault that may be tried again it begins anew from the ledger,
//! which alone knows what was applied.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, Value};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use unitflow_change::copy::Chunk;
use unitflow_change::name::Log;
use unitflow_change::redis::{Due, Write, write_key};
use unitflow_change::seq::{Seq, Step, step};
use unitflow_change::tag::{HEADER, Kind, ORIGIN, Tag, is_for};
use unitflow_change::{Code, Fault, inject};
use unitflow_kafka::control::InForce;
use unitflow_kafka::reader::{Item, Options, Reader, Record};
use unitflow_kafka::topics;
use unitflow_redis::client::refusal;
use unitflow_redis::{Client, Store};

use super::batch::{Batch, Idle, Place};
use super::copies::Copies;
use super::filling::{self, Phase};
use super::late::Late;
use super::ledger::{self, Standing, WATCH_COMMANDS};
use super::own_keys::OwnKeys;
use crate::copy::own_log::OwnLog;
use crate::metrics::LaneMetrics;
use crate::mirror::Mirror;
use crate::road::{Apply, ReadFrom, Road, Start, starting_offset};

/// Bytes fetched ahead for each lane, and in one answer.
const QUEUE_BYTES: usize = 4 << 20;
const FETCH_BYTES: usize = 256 << 10;
/// By how much the server's clock may be behind what is known of it.
const CLOCKS_DIFFER_MS: u64 = 50;
/// How much too early an expiry may come to be waited for; by more, and the key is looked at.
const EARLY_MS: u64 = 100;
/// Why a key is noted whose value came from others, or follows its own time.
const SPREAD: &str = "written from what is not settled";
/// Why one is noted that a command did not fit.
const MISFIT: &str = "a command did not fit";
/// The pause before a conflict is told again.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often an idle connection shows that it is alive.
const PING_EVERY: Duration = Duration::from_secs(20);

/// When a key expires, in ms since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expires {
    At(u64),
    Never,
    /// There is no such key.
    Gone,
}

/// The keys of a write, each once, as records name them; of one that goes to another database that one's, too.
fn names_of(write: &Write<'_>) -> Vec<String> {
    let name = |db, key: &[u8]| {
        let mut name = Vec::new();
        write_key(&mut name, db, key);
        String::from_utf8_lossy(&name).into_owned()
    };
    let mut names: Vec<String> = write.keys().map(|key| name(write.db, key)).collect();
    names.extend(write.in_another_database().map(|(db, key)| name(db, key)));
    names.sort_unstable();
    names.dedup();
    names
}

/// A flow's way into one unit's Redis store, the same for all its lanes.
#[derive(Clone, Debug)]
pub struct Way {
    /// Its road.
    pub road: Road,
    /// The store it is applied to.
    pub store: Store,
    /// The unit's own log of the same store, where one is captured: copied keys are judged by it.
    pub own_log: Option<Arc<OwnLog<OwnKeys>>>,
    /// The lanes of all logs that are applied to the store.
    pub applied: Vec<(Log, i32)>,
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
            result = apply_all(self, lane, start) => result,
        }
    }
}

async fn apply_all(way: &Way, lane: i32, start: Start) -> Result<(), Fault> {
    if start.orders.pauses() {
        info!(lane, "paused");
        return std::future::pending().await;
    }
    loop {
        match apply_from_ledger(way, lane, &start).await? {
            Ended::Anew => info!(lane, "another command fills the store, or none: from the ledger"),
        }
    }
}

/// How a lane ends without a fault.
enum Ended {
    /// What is to be noted is another, also with what was gathered.
    Anew,
}

async fn apply_from_ledger(way: &Way, lane: i32, start: &Start) -> Result<Ended, Fault> {
    let Start { committed, orders, mirror, metrics } = start;
    let road = &way.road;
    let mut client = Client::open(&way.store).await?;
    let mut pipeline = Pipeline::new();
    ledger::watch(&road.log, lane, &mut pipeline);
    let answers = client.answers(&pipeline).await?;
    let (standing, marks) = ledger::watched(&road.log, lane, &answers)?;
    let entry = standing.entry(lane);
    road.ensure_same_topic(&entry)?;
    let (wanted, moved_to) = match starting_offset(&entry, committed.clone(), mirror.believed(lane))
    {
        ReadFrom::At(offset) => (offset, 0),
        ReadFrom::Forward(offset) => {
            road.ensure_may_be_forward(&entry, offset, orders).await?;
            (entry.topic_offset, offset)
        }
    };
    let (low, _) = topics::bounds(&road.broker, &road.topic, lane).await?;
    let begin = wanted.max(low);
    info!(lane, seq = entry.seq.0, offset = begin, "lane begins");
    let mut lane = Lane {
        way,
        lane,
        client,
        at: entry.seq,
        seen: entry.seq,
        offset: entry.topic_offset,
        raised: begin > wanted,
        moved_to,
        batch: Batch::default(),
        copies: Copies::default(),
        late: Late::known(&standing.late),
        watched: true,
        filling: Phase::of(&marks, &road.log, &road.to),
        marks,
        anew: false,
        orders: orders.clone(),
        mirror,
        metrics: metrics.clone(),
    };
    let options =
        Options { queue_bytes: QUEUE_BYTES, fetch_bytes: FETCH_BYTES, ..Options::default() };
    let partitions = [(lane.lane, begin)];
    let reader = Reader::open_with(&road.broker, &road.topic, &partitions, options).await?;
    match lane.run(&reader).await {
        Err(fault) if lane.anew && fault.code == Code::LedgerMoved => Ok(Ended::Anew),
        Err(fault) => Err(fault),
        Ok(never) => match never {},
    }
}

pub(super) struct Lane<'a> {
    pub(super) way: &'a Way,
    pub(super) lane: i32,
    pub(super) client: Client,
    /// Where the ledger stands.
    pub(super) at: Seq,
    /// Where it will stand once all that is gathered is applied, and the offset behind that.
    seen: Seq,
    offset: i64,
    /// Whether the topic no longer holds the offset that the ledger names.
    raised: bool,
    /// Up to where an operator moved the group's offset forwards; 0 if nobody did.
    moved_to: i64,
    pub(super) batch: Batch,
    pub(super) copies: Copies,
    pub(super) late: Late,
    /// Whether the ledger key is watched, and stood where it was believed when it was read behind that.
    pub(super) watched: bool,
    /// What is noted, to be read again, while stores are filled.
    filling: Phase,
    /// What fills stores, as the server says; with another the lane begins anew, at once.
    marks: Value,
    anew: bool,
    orders: InForce,
    pub(super) mirror: &'a Mirror,
    pub(super) metrics: LaneMetrics,
}

impl Lane<'_> {
    async fn run(&mut self, reader: &Reader) -> Result<Infallible, Fault> {
        loop {
            let item = match reader.try_next()? {
                Some(item) => item,
                // Nothing more is at hand: what is whole should not wait for what may come.
                None if self.batch.is_whole() => {
                    self.apply().await?;
                    continue;
                }
                None if self.copies.waits() => {
                    self.apply_copies().await?;
                    continue;
                }
                None => match tokio::time::timeout(PING_EVERY, reader.next()).await {
                    Ok(item) => item?,
                    Err(_) => {
                        self.client.ask(&redis::cmd("PING")).await?;
                        continue;
                    }
                },
            };
            match item {
                Item::Record(record) => self.take(&record).await?,
                Item::End { offset, .. } => {
                    if self.batch.is_whole() {
                        self.apply().await?;
                    }
                    if self.copies.waits() {
                        self.apply_copies().await?;
                    }
                    if self.batch.is_empty() && self.copies.is_empty() {
                        self.mirror.applied(self.lane, offset, self.at);
                    }
                }
            }
        }
    }

    /// Takes one record into the batch, or finds that it was seen, or that it can't be taken.
    async fn take(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let road = &self.way.road;
        let tag = Tag::parse(record.header(HEADER).unwrap_or_default()).map_err(|fault| {
            fault.at(format!("{} [{}] {}", road.topic, self.lane, record.offset()))
        })?;
        match step(self.seen, tag.seq, tag.prev) {
            Step::Seen => {
                self.metrics.repeated();
                return Ok(());
            }
            Step::Gap => {
                let gone = self.raised && self.seen == self.at;
                return Err(road.gap(self.lane, (&tag, record.offset()), self.seen, gone));
            }
            Step::Next => {}
        }
        road.ensure_foreign(record.header(ORIGIN).unwrap_or_default())?;
        if tag.kind == Kind::Copy && is_for(tag.to, road.to.as_str()) {
            if !self.batch.is_empty() {
                self.apply().await?;
            }
            (self.seen, self.offset) = (tag.seq, record.next_offset());
            return self.gather_copy(record, &tag).await;
        }
        self.close_copies().await?;
        match tag.kind {
            Kind::Command => self.gather(record, &tag).await?,
            Kind::Watermark | Kind::Barrier | Kind::Copy => {}
            Kind::Chunk => {
                let chunk = Chunk::parse(record.value().unwrap_or_default())?;
                self.copies.begin(chunk, &tag, road.to.as_str());
            }
            kind => {
                return Err(Fault::fatal(
                    Code::Record,
                    format!("record {} ({kind:?}) has no place in a Redis log", tag.seq),
                ));
            }
        }
        self.seen = tag.seq;
        self.offset = record.next_offset();
        // A part of a key that is copied to others stands for itself.
        self.batch.took(tag.last || tag.kind == Kind::Copy, tag.commit_us);
        if self.batch.is_full() { self.apply().await } else { Ok(()) }
    }

    async fn gather(&mut self, record: &Record<'_>, tag: &Tag<'_>) -> Result<(), Fault> {
        let mut place = Place::at(tag.seq, record.offset());
        if self.orders.skips(self.lane, tag.seq) {
            return self.skip(&place, record.key().unwrap_or_default()).await;
        }
        let at = (place.seq, place.offset);
        self.way.road.ensure_not_passed_by(self.lane, at, self.moved_to)?;
        let mut write = Write::parse(record.value().unwrap_or_default())
            .map_err(|fault| fault.at(format!("record {}", tag.seq)))?;
        if let Some(due) = write.due {
            return self.delete_what_is_due(place, &write, due).await;
        }
        place.idle = Idle::of(&write);
        if self.filling > Phase::Filled {
            self.note_what_may_follow(&mut place, &write);
        }
        let now_ms = self.client.now_us() / 1000;
        self.late.put_off(&mut write, tag.commit_us / 1000, now_ms);
        self.batch.push(place, &write);
        Ok(())
    }

    /// While the store is being filled a command may not fit what a key holds, may take what is wrong from one key to
    /// another, or may take a key away before the scan comes to it: such keys are noted with it.
    fn note_what_may_follow(&mut self, place: &mut Place, write: &Write<'_>) {
        place.noted = names_of(write);
        let is_each = write.is("DEL") || write.is("UNLINK") || write.is("MSET");
        let spreads = place.noted.len() > 1 && !is_each;
        match self.filling {
            Phase::Copying | Phase::Emptying if spreads || write.may_empty() => {
                self.push_notes(place);
            }
            Phase::Spreading if spreads => {
                let log = &self.way.road.log;
                let note = filling::together(log, self.lane, place.seq, &place.noted);
                self.batch.push_note(note);
            }
            _ => {}
        }
    }

    /// Notes the keys of a record with what is gathered.
    fn push_notes(&mut self, of: &Place) {
        for key in &of.noted {
            let note = self.note(key, of.seq, SPREAD);
            self.batch.push_note(note.put());
        }
    }

    /// Deletes a key that has expired at its source, unless somebody renewed it here.
    async fn delete_what_is_due(
        &mut self,
        place: Place,
        write: &Write<'_>,
        due: Due,
    ) -> Result<(), Fault> {
        let key = write.word(1);
        // Once it is due here, too, the server takes it for gone, for whatever comes behind this.
        let now_ms = self.client.now_us() / 1000;
        let early_ms = (due.ms + CLOCKS_DIFFER_MS).saturating_sub(now_ms);
        let is_known =
            self.filling < Phase::Copying && due.sure && !self.late.holds(write.db, key, due.ms);
        if is_known && early_ms <= EARLY_MS {
            if early_ms > 0 {
                if self.batch.is_whole() {
                    self.apply().await?;
                }
                tokio::time::sleep(Duration::from_millis(early_ms)).await;
            }
            return Ok(());
        }
        // What the key is now has to be seen, and nothing gathered may change it.
        if self.batch.is_whole() {
            self.apply().await?;
        } else if self.late.holds(write.db, key, due.ms) {
            // What put it off may be gathered itself.
            self.batch.push(place, write);
            return Ok(());
        }
        self.batch.hurry();
        let expires = self.expires_at(write.db, key).await?;
        let goes = match expires {
            Expires::At(ms) => self.late.told(write.db, key, ms) <= due.ms,
            Expires::Never | Expires::Gone => !due.sure,
        };
        if goes {
            self.batch.push(place, write);
        } else if self.filling == Phase::Copying && expires != Expires::Gone {
            self.push_notes(&Place { noted: names_of(write), ..place });
        }
        Ok(())
    }

    /// When the target's key expires. It is watched from here on.
    async fn expires_at(&mut self, db: u32, key: &[u8]) -> Result<Expires, Fault> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SELECT").arg(db).cmd("WATCH").arg(key).cmd("PEXPIRETIME").arg(key);
        pipeline.cmd("SELECT").arg(0);
        let answers = self.client.answers(&pipeline).await?;
        if let Some(fault) = answers.iter().find_map(refusal) {
            return Err(fault.at(self.client.place()));
        }
        match answers.get(2) {
            Some(Value::Int(-2)) => Ok(Expires::Gone),
            Some(Value::Int(at)) => Ok(u64::try_from(*at).map_or(Expires::Never, Expires::At)),
            _ => Err(Fault::fatal(
                Code::StreamCorrupt,
                "the server does not tell when a key expires",
            )),
        }
    }

    /// Passes over a record, as an order says; what it held goes to quarantine first.
    async fn skip(&mut self, place: &Place, key: &[u8]) -> Result<(), Fault> {
        let order = self.orders.order.clone();
        let (by, why) = order.map_or_else(Default::default, |order| (order.by, order.why));
        warn!(lane = self.lane, seq = place.seq.0, by, why, "passed over by order");
        let (at, key) = ((place.seq, place.offset), String::from_utf8_lossy(key));
        self.way.road.tell_quarantine(self.lane, at, &key, Code::Control, (&why, &by)).await
    }

    /// Applies what is gathered, which is whole.
    async fn apply(&mut self) -> Result<(), Fault> {
        let log = &self.way.road.log;
        let mut pipeline = Pipeline::new();
        if !self.watched {
            self.watch().await?;
        }
        let standing = self.standing((self.seen, self.offset), self.batch.committed_us());
        let (records, committed_us) = (self.batch.records(), self.batch.committed_us());
        let mark = ledger::set(log, self.lane, &standing)?;
        let places = self.batch.transaction(mark, &mut pipeline);
        // Read ahead for the next one, with the answer to this.
        ledger::watch(log, self.lane, &mut pipeline);
        self.watched = false;
        inject::die_at("die_before_commit");
        let answers = self.client.answers(&pipeline).await?;
        inject::die_at("die_after_commit");
        let executed = answers.len().checked_sub(WATCH_COMMANDS + 1);
        let executed = executed.and_then(|place| answers.get(place));
        self.watched = true;
        self.judge(&answers, executed, &places).await?;
        self.at = self.seen;
        self.believe(&answers)?;
        self.mirror.applied(self.lane, self.offset, self.at);
        self.metrics.applied_records(records, committed_us, true);
        Ok(())
    }

    /// What the ledger says once all up to this record is applied; `committed_us` is when the source committed it.
    pub(super) fn standing(&self, (seq, topic_offset): (Seq, i64), committed_us: u64) -> Standing {
        Standing {
            seq,
            topic_id: self.way.road.topic_id.clone(),
            topic_offset,
            committed_us,
            applied_us: ledger::now_us(),
            late: self.late.kept(self.client.now_us() / 1000),
        }
    }

    pub(super) async fn watch(&mut self) -> Result<(), Fault> {
        let mut pipeline = Pipeline::new();
        ledger::watch(&self.way.road.log, self.lane, &mut pipeline);
        let answers = self.client.answers(&pipeline).await?;
        self.believe(&answers)?;
        self.watched = true;
        match self.anew {
            // What was gathered would have been noted otherwise.
            true => Err(Fault::retry(Code::LedgerMoved, "what fills the store is another")),
            false => Ok(()),
        }
    }

    /// What came of a transaction.
    pub(super) async fn judge(
        &mut self,
        answers: &[Value],
        executed: Option<&Value>,
        places: &[Option<Place>],
    ) -> Result<(), Fault> {
        match executed {
            Some(Value::Array(results)) => self.find_misfits(results, places).await,
            // A watched key was written since: another sink's ledger, or a key that expired.
            Some(Value::Nil) => {
                self.believe(answers)?;
                Err(Fault::retry(Code::LedgerMoved, "a key that was watched was written since"))
            }
            _ => {
                // Nothing was done. Which command the server did not take says why.
                let refused = answers.iter().find_map(refusal);
                Err(refused.map_or_else(
                    || Fault::retry(Code::Unreachable, "the server did not execute a transaction"),
                    |fault| fault.at(self.client.place()),
                ))
            }
        }
    }

    /// The ledger has moved past commands that failed, or did nothing: the server takes none back. So they are told.
    /// While the store is being filled their keys are noted.
    async fn find_misfits(
        &mut self,
        results: &[Value],
        places: &[Option<Place>],
    ) -> Result<(), Fault> {
        let mut failed: Option<(Seq, String)> = None;
        for (result, place) in results.iter().zip(places) {
            let Some(place) = place else { continue };
            let does_not_fit =
                refusal(result).is_some() || place.idle.is_some_and(|idle| idle.is(result));
            if does_not_fit && !place.noted.is_empty() {
                let why =
                    refusal(result).map_or_else(|| "nothing was done".into(), |fault| fault.what);
                debug!(lane = self.lane, seq = place.seq.0, why, "noted, and read again");
                self.note_misfit(place).await?;
                continue;
            }
            if let Some(fault) = refusal(result) {
                self.tell(place, &fault.what).await?;
                failed.get_or_insert((place.seq, fault.what));
            } else if place.idle.is_some_and(|idle| idle.is(result)) {
                let what = "it did nothing here, where the key is not as it was at the source";
                warn!(code = %Code::Conflict, lane = self.lane, seq = place.seq.0, "{what}");
                self.tell(place, what).await?;
            }
        }
        let Some((seq, what)) = failed else { return Ok(()) };
        let fault = Fault::fatal(Code::Conflict, format!("record {seq} did not fit: {what}"));
        Err(fault.at(self.client.place()).hint("what the key holds here is of another kind than at the source: compare the key in both units and mend it; the record is passed (it stands in the quarantine topic), and the lane goes on behind it when the sink is started again"))
    }

    /// Notes the keys of a record that is passed already, however long that takes.
    async fn note_misfit(&mut self, place: &Place) -> Result<(), Fault> {
        let mut pipeline = Pipeline::new();
        for key in &place.noted {
            pipeline.add_command(self.note(key, place.seq, MISFIT).put());
        }
        loop {
            let noted = match self.client.answers(&pipeline).await {
                Ok(answers) => answers.iter().find_map(refusal).map_or(Ok(()), Err),
                Err(fault) => Err(fault),
            };
            let Err(fault) = noted else { return Ok(()) };
            if !fault.is_retry() {
                return Err(fault);
            }
            warn!(code = %fault.code, "{}; a key is noted again", fault.what);
            tokio::time::sleep(TELL_EVERY).await;
            if let Ok(client) = Client::open(&self.way.store).await {
                (self.client, self.watched) = (client, false);
            }
        }
    }

    /// Tells the quarantine of a record that is passed already, however long that takes.
    async fn tell(&self, place: &Place, why: &str) -> Result<(), Fault> {
        let at = (place.seq, place.offset);
        loop {
            let told = self.way.road.tell_quarantine(self.lane, at, "", Code::Conflict, (why, ""));
            match told.await {
                Err(fault) if fault.is_retry() => {
                    warn!(code = %fault.code, "{}; a conflict is told again", fault.what);
                    tokio::time::sleep(TELL_EVERY).await;
                }
                told => return told,
            }
        }
    }

    /// The ledger has to stand where it was left.
    pub(super) fn believe(&mut self, answers: &[Value]) -> Result<(), Fault> {
        let (log, lane) = (&self.way.road.log, self.lane);
        let (standing, marks) = ledger::watched(log, lane, answers)?;
        if marks != self.marks {
            self.filling = Phase::of(&marks, log, &self.way.road.to);
            (self.marks, self.anew) = (marks, true);
        }
        if standing.seq == self.at || inject::on("no_cas") {
            return Ok(());
        }
        let what = format!(
            "the ledger of {log}, lane {lane}, stands at {} instead of {}",
            standing.seq, self.at
        );
        Err(match standing.seq < self.at {
            true => {
                Fault::retry(Code::TargetLostCommits, format!("{what}: the target lost commits"))
            }
            false => {
                Fault::retry(Code::LedgerMoved, format!("{what}: another worker applies this lane"))
            }
        })
    }
}
