//! The connector: a store's binlog into the captured topic, in order, with the position.
//!
//! It decides nothing about the changes. It numbers them, says which is the last of its
//! transaction, and now and then adds a watermark so that idle lanes move on. Where configuration
//! or schema ask for another routing it says so in the log, between two transactions: in a record,
//! or, where keys change lanes, by the barrier that starts a new generation.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;
use tracing::info;
use unitflow_change::copy::{MARKER_TABLE, Part};
use unitflow_change::ddl::{Class, Verb};
use unitflow_change::envelope::{Envelope, Op};
use unitflow_change::form::Form;
use unitflow_change::gtid::GtidSet;
use unitflow_change::name::{Log, Stage};
use unitflow_change::position::{Open, Position};
use unitflow_change::routing::{INTERNAL_DATABASE, Routing, Turn};
use unitflow_change::seq::Seq;
use unitflow_change::tag::{Afters, HEADER, Kind, Tag};
use unitflow_change::{Code, Fault, inject};
use unitflow_kafka::pieces::RECORD_BYTES_MAX;
use unitflow_kafka::{Writer, positions};
use unitflow_mysql::connect::{Store, connect};
use unitflow_mysql::kept::{Kept, kept};
use unitflow_mysql::stream::{Event, Stream};

use super::copier::{Copier, Lot};
use super::grouping::Grouping;
use super::heartbeat;
use super::state::{self, BinlogReader, ConnectorState, ensure_same_topic, ensure_tail, require};
use crate::bridge::{of_stage, targets};
use crate::config::Mesh;
use crate::supervisor::Begin;
use crate::tables;
use crate::telemetry::{CaptureMeters, Meters};

/// How often a watermark is written at most.
const WATERMARK_EVERY: Duration = Duration::from_secs(1);
/// How many events are taken before the clock is looked at.
const EVENTS_BETWEEN_LOOKS: u32 = 256;
/// What a record may have where a test wants little to be too large.
const LITTLE: usize = 1 << 20;
/// A buffer above this is given back after a large row.
const BUFFER_BYTES_KEPT: usize = 8 << 20;

/// Captures one store until it is cancelled or fails.
pub async fn run(
    mesh: Arc<Mesh>,
    log: Log,
    meters: Meters,
    begin: Begin,
    cancel: CancellationToken,
) -> Result<(), Fault> {
    let flow = mesh.flows[&log.store].clone();
    let store = mesh.store(&log.unit, &log.store)?.clone();
    let beat = async {
        if flow.heartbeat && begin == Begin::AtOnce {
            heartbeat::run(&store, &log.unit).await
        } else {
            std::future::pending().await
        }
    };
    let capture = async {
        begin.stand_by(&mesh, &log.unit, &log, Stage::Connector).await?;
        ensure_goes_on(&mesh, &log, &store).await?;
        let mut capture = Capture::open(&mesh, &log, &meters).await?;
        capture.state.ensure_form(&log, flow.envelope)?;
        capture.begin().await?;
        let options = capture.state.options(&log, BinlogReader::Connector);
        let mut stream = Stream::open(&store, capture.state.position.clone(), options).await?;
        capture.state.server = Some(stream.server().to_owned());
        info!(%log, server = stream.server(), position = %capture.state.position.seen(), "capturing");
        capture.run(&mut stream).await
    };
    tokio::select! {
        () = cancel.cancelled() => Ok(()),
        result = capture => {
            result.map_err(|fault| of_stage(fault, &log.unit, targets(&mesh, &log)))
        }
        never = beat => match never {},
    }
}

/// Whether the store has what was captured from it. A connector that can't go on takes the role
/// from nobody: started again and again, it would end every attempt of `resync lost` to turn the log.
pub async fn ensure_goes_on(mesh: &Mesh, log: &Log, store: &Store) -> Result<(), Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let seen = state::look(broker, &mesh.topics, log, Stage::Connector).await?;
    // Where there is none, whoever takes the role says so.
    let Some(state): Option<ConnectorState> = seen else { return Ok(()) };
    let options = state.options(log, BinlogReader::Look);
    // What it may have of an open transaction is seen when that goes on.
    let position = Position { open: None, ..state.position };
    let done = position.done.clone();
    Stream::open(store, position, options).await?.close().await;
    // MariaDB says so only when it is read.
    if matches!(done, GtidSet::Mariadb(_)) && matches!(kept(store, &done).await, Ok(Kept::Gone)) {
        let what = "the source no longer keeps what is to be captured next";
        return Err(Fault::fatal(Code::PositionPurged, what).at(&store.name));
    }
    Ok(())
}

/// The change that waits until it is known whether it is its transaction's last.
#[derive(Default)]
struct Held {
    /// What it is; none while nothing waits.
    kind: Option<Kind>,
    key: Vec<u8>,
    value: Vec<u8>,
    index: u64,
    transaction: String,
    commit_us: u64,
    /// The open transaction's mark before this change.
    before: Option<Open>,
}

impl Held {
    fn fill(&mut self, kind: Kind, key: &[u8], value: &[u8]) {
        self.kind = Some(kind);
        self.key.clear();
        self.key.extend_from_slice(key);
        if self.value.capacity() > BUFFER_BYTES_KEPT {
            self.value = Vec::new();
        }
        self.value.clear();
        self.value.extend_from_slice(value);
    }
}

/// A change's value, or where it is too large to travel what stands for it: that parks its table in
/// the other units, and all else goes on.
fn carried<'v>(form: Form, op: Op, key: &[u8], value: &'v [u8]) -> Cow<'v, [u8]> {
    let most = if inject::on("carry_little") { LITTLE } else { RECORD_BYTES_MAX };
    let bytes = key.len() + value.len();
    match bytes > most {
        true => form.of_payload(Envelope::of_larger(op, bytes).as_bytes()).into(),
        false => value.into(),
    }
}

struct Capture {
    store: Store,
    copier: Copier,
    name: String,
    /// What the configuration says; the store's schema adds to it.
    configured: Routing,
    /// Whether the schema may ask for another routing than the log's since it was looked at.
    stale: bool,
    writer: Writer,
    captured: String,
    position_topic: String,
    state: ConnectorState,
    held: Held,
    open: Option<Open>,
    header: Vec<u8>,
    grouping: Grouping,
    /// Whether the open transaction began with a table of ours: a sink's, or the clock.
    applied: bool,
    /// Whether anything else changed since the last watermark.
    moved: bool,
    watermark_at: Instant,
    /// Rows since the last commit, for metrics.
    rows: u64,
    meters: CaptureMeters,
}

impl Capture {
    /// Fences any older connector, then reads where it stopped and sees that the topic agrees.
    async fn open(mesh: &Mesh, log: &Log, meters: &Meters) -> Result<Self, Fault> {
        let broker = &mesh.unit(&log.unit)?.broker;
        let id = mesh.topics.transactional_id(log, Stage::Connector);
        let writer = Writer::open(broker, &id).await?;
        let state: ConnectorState = require(broker, &mesh.topics, log, Stage::Connector).await?;
        let captured = mesh.topics.captured(log);
        ensure_same_topic(broker, &captured, Some(&state.captured_id)).await?;
        ensure_tail(broker, &captured, 0, state.seq).await?;
        let configured = mesh.routing(log)?;
        state.ensure_leads_to(log, &configured)?;
        let store = mesh.store(&log.unit, &log.store)?.clone();
        let control = (broker.clone(), mesh.topics.control(&log.unit));
        let rename = mesh.rename(&log.unit, &log.store)?.clone();
        Ok(Self {
            copier: Copier::new(log, &store, control, state.envelope, rename),
            name: log.to_string(),
            store,
            configured,
            stale: true,
            writer,
            captured,
            position_topic: mesh.topics.position(log),
            open: state.position.open.clone(),
            state,
            held: Held::default(),
            header: Vec::new(),
            grouping: Grouping::new(),
            applied: false,
            moved: false,
            watermark_at: Instant::now(),
            rows: 0,
            meters: meters.capture(log),
        })
    }

    /// Sees to the routing, unless a transaction is half captured: then before the next one.
    async fn begin(&mut self) -> Result<(), Fault> {
        if self.open.is_some() {
            return Ok(());
        }
        self.look().await?;
        if self.grouping.pause().is_some() { self.commit() } else { Ok(()) }
    }

    /// Compares what configuration and schema ask for with the log's routing. The schema is that of
    /// now, which is the one of the log's next change or a later one.
    async fn look(&mut self) -> Result<(), Fault> {
        let mut conn = connect(&self.store).await?;
        let before = &self.state.routing.bound;
        let next = tables::bind(&mut conn, self.configured.clone(), before).await;
        let _ = conn.disconnect().await;
        self.turn_to(next?)?;
        self.stale = false;
        Ok(())
    }

    /// The same from within the stream's events, between two transactions.
    fn look_if_stale(&mut self) -> Result<(), Fault> {
        if !self.stale || self.open.is_some() {
            return Ok(());
        }
        block_in_place(|| Handle::current().block_on(self.look()))
    }

    /// Lets the log go on with this routing.
    fn turn_to(&mut self, next: Routing) -> Result<(), Fault> {
        let (kind, seq) = match self.state.routing.turn_to(&next) {
            Turn::Stay => return Ok(()),
            Turn::Record => (Kind::Routing, self.state.seq.next_captured()),
            Turn::Generation => {
                let generation = self.state.seq.generation().checked_add(1).ok_or_else(|| {
                    Fault::fatal(Code::Routing, "the log has no generation left to begin")
                })?;
                info!(generation, bound = ?next.bound, "keys change lanes: a new generation begins");
                (Kind::Barrier, Seq::start_of(generation))
            }
            Turn::Impossible => {
                return Err(Fault::fatal(Code::Bug, "another number of lanes was let through"));
            }
        };
        let value = serde_json::to_vec(&next).map_err(|error| {
            Fault::fatal(Code::Bug, format!("a routing can't be written: {error}"))
        })?;
        self.state.routing = next;
        self.lone_record(kind, seq, now_us(), &value)
    }

    async fn run(&mut self, stream: &mut Stream) -> Result<(), Fault> {
        let mut tick = tokio::time::interval(WATERMARK_EVERY);
        loop {
            if self.take_what_is_at_hand(stream)? {
                // A backlog never pauses, and others have to run too.
                tokio::task::yield_now().await;
                continue;
            }
            // The stream pauses. Waiting is what commits are grouped by.
            let pause = self.grouping.pause();
            let waited = tokio::select! {
                biased;
                event = stream.next() => Some(self.take(event?)?),
                () = self.copier.ready() => {
                    self.copy(stream)?;
                    continue;
                }
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => None,
                _ = tick.tick() => None,
            };
            match waited {
                Some(taken) => {
                    self.settle(stream, taken)?;
                    self.copy(stream)?;
                }
                None if pause.is_some() => self.commit_with(stream)?,
                None => {
                    self.watermark(stream)?;
                    if self.grouping.is_silent() {
                        self.commit_with(stream)?;
                    }
                }
            }
        }
    }

    /// Takes events as long as there are some, and commits when that is due. `false`: none is left.
    fn take_what_is_at_hand(&mut self, stream: &mut Stream) -> Result<bool, Fault> {
        for _ in 0..EVENTS_BETWEEN_LOOKS {
            let Some(event) = stream.next().now_or_never() else { return Ok(false) };
            let taken = self.take(event?)?;
            self.settle(stream, taken)?;
            if self.copier.is_reading() {
                // What was read may be there, and the log come up to it.
                self.copier.ready().now_or_never();
                self.copy(stream)?;
            }
            if self.grouping.is_full(&self.writer) {
                break;
            }
        }
        if self.grouping.is_due(&self.writer) {
            self.commit_with(stream)?;
        }
        if self.watermark_at.elapsed() >= WATERMARK_EVERY {
            self.watermark(stream)?;
        }
        Ok(true)
    }

    /// Takes an event's content; [`Capture::settle`] does what needs the stream again.
    fn take(&mut self, event: Event<'_>) -> Result<Taken, Fault> {
        inject::die_at("die_after_read");
        match event {
            Event::Row(row) => {
                // What a sink or the clock writes needs no look at the schema.
                if row.database != INTERNAL_DATABASE {
                    self.look_if_stale()?;
                }
                self.put_held(false)?;
                let kind = if row.moves { Kind::Move } else { Kind::Row };
                let value = carried(self.state.envelope, row.op, row.key, row.value);
                self.held.fill(kind, row.key, &value);
                if self.open.is_none() {
                    // A marker asks for this log to show that it has come up to it.
                    self.applied = row.database == INTERNAL_DATABASE && row.table != MARKER_TABLE;
                }
                if row.database != INTERNAL_DATABASE && self.copier.is_reading() {
                    self.copier.touch(&row)?;
                }
                self.moved |= !self.applied;
                Ok(Taken::Change)
            }
            Event::Ddl(ddl) => {
                let class = ddl.class();
                if class != Class::Local {
                    self.stale = true;
                    self.copier.schema_changed();
                }
                // The rows of CREATE TABLE … SELECT follow in the same transaction.
                if matches!(class, Class::Tables(Verb::Create, _) | Class::Unknown) {
                    self.look_if_stale()?;
                }
                self.put_held(false)?;
                let value = serde_json::to_vec(ddl).map_err(|error| {
                    Fault::fatal(Code::Bug, format!("a statement can't be written: {error}"))
                })?;
                self.held.fill(Kind::Ddl, b"", &self.state.envelope.of_payload(&value));
                Ok(Taken::Change)
            }
            Event::End => {
                self.put_held(true)?;
                Ok(Taken::End)
            }
            Event::Heartbeat => Ok(Taken::Nothing),
        }
    }

    fn settle(&mut self, stream: &Stream, taken: Taken) -> Result<(), Fault> {
        match taken {
            Taken::Change => {
                let transaction = stream.transaction();
                let held = &mut self.held;
                held.before = std::mem::replace(&mut self.open, stream.position().open.clone());
                held.index = held.before.as_ref().map_or(0, |open| open.rows);
                if held.index == 0 || held.transaction.is_empty() {
                    held.transaction.clone_from(&transaction.gtid_text);
                    held.commit_us = transaction.commit_us;
                }
                self.grouping.pending();
                Ok(())
            }
            Taken::End => {
                self.open = None;
                self.grouping.pending();
                Ok(())
            }
            Taken::Nothing => Ok(()),
        }
    }

    /// Puts what was read of tables into the log, between two transactions.
    fn copy(&mut self, stream: &Stream) -> Result<(), Fault> {
        if self.open.is_some() || self.held.kind.is_some() {
            return Ok(());
        }
        let captured = stream.position().done.clone();
        while let Some(lot) = self.copier.next(&mut self.state.copy, &self.state.routing, &captured)
        {
            self.put_lot(&lot)?;
            // A chunk is whole in the log or not there.
            self.commit_with(stream)?;
        }
        Ok(())
    }

    fn put_lot(&mut self, lot: &Lot) -> Result<(), Fault> {
        let value = serde_json::to_vec(&lot.head).map_err(|error| {
            Fault::fatal(Code::Bug, format!("the head of a chunk can't be written: {error}"))
        })?;
        let at_us = if lot.at_us > 0 { lot.at_us } else { now_us() };
        let count = lot.len() as u64;
        let last = |index: u64| index == count;
        let head = self.state.envelope.of_payload(&value);
        self.put_copied(Kind::Chunk, (0, last(0)), (at_us, &lot.to), b"", &head)?;
        let mut index = 0;
        let name = self.name.clone();
        lot.records(&name, |key, value| {
            index += 1;
            let value = carried(self.state.envelope, Op::Read, key, value);
            self.put_copied(Kind::Copy, (index, last(index)), (at_us, &lot.to), key, &value)
        })?;
        if lot.head.part == Part::End {
            self.state.copy.done.insert(lot.head.job.clone(), self.state.seq);
        }
        self.rows += count;
        Ok(())
    }

    fn put_copied(
        &mut self,
        kind: Kind,
        (index, last): (u64, bool),
        (commit_us, to): (u64, &str),
        key: &[u8],
        value: &[u8],
    ) -> Result<(), Fault> {
        let seq = self.state.seq.next_captured();
        let prev = self.state.seq;
        let tag = Tag {
            kind,
            seq,
            prev,
            transaction: "",
            index,
            last,
            commit_us,
            after: Afters::default(),
            to,
        };
        self.header.clear();
        tag.write(&mut self.header);
        self.writer.send(
            &self.captured,
            0,
            (!key.is_empty()).then_some(key),
            Some(value),
            &[(HEADER, &self.header)],
            millis(commit_us),
        )?;
        self.state.seq = seq;
        self.grouping.pending();
        Ok(())
    }

    /// Writes the held change, which is its transaction's last or not.
    fn put_held(&mut self, last: bool) -> Result<(), Fault> {
        let Some(kind) = self.held.kind.take() else { return Ok(()) };
        let seq = self.state.seq.next_captured();
        let tag = Tag {
            kind,
            seq,
            prev: self.state.seq,
            transaction: &self.held.transaction,
            index: self.held.index,
            last,
            commit_us: self.held.commit_us,
            after: Afters::default(),
            to: "",
        };
        self.header.clear();
        tag.write(&mut self.header);
        self.writer.send(
            &self.captured,
            0,
            (!self.held.key.is_empty()).then_some(self.held.key.as_slice()),
            Some(&self.held.value),
            &[(HEADER, &self.header)],
            millis(self.held.commit_us),
        )?;
        self.state.seq = seq;
        self.rows += 1;
        Ok(())
    }

    /// Writes a record that is no row and stands alone.
    fn lone_record(
        &mut self,
        kind: Kind,
        seq: Seq,
        commit_us: u64,
        value: &[u8],
    ) -> Result<(), Fault> {
        let tag = Tag {
            kind,
            seq,
            prev: self.state.seq,
            transaction: "",
            index: 0,
            last: true,
            commit_us,
            after: Afters::default(),
            to: "",
        };
        self.header.clear();
        tag.write(&mut self.header);
        self.writer.send(
            &self.captured,
            0,
            None,
            Some(&self.state.envelope.of_payload(value)),
            &[(HEADER, &self.header)],
            millis(commit_us),
        )?;
        self.state.seq = seq;
        self.grouping.pending();
        Ok(())
    }

    /// Moves idle lanes on, between transactions, if anything of the unit's own changed: what sinks
    /// wrote here begets no watermark, or two units would keep each other awake.
    fn watermark(&mut self, stream: &Stream) -> Result<(), Fault> {
        if !self.moved || self.open.is_some() || self.watermark_at.elapsed() < WATERMARK_EVERY {
            return Ok(());
        }
        self.moved = false;
        self.watermark_at = Instant::now();
        self.lone_record(Kind::Watermark, self.state.seq.next_captured(), now_us(), b"{}")?;
        self.commit_with(stream)
    }

    /// Commits all records written so far with the position behind them. A held change is not
    /// written yet, so the position stands before it.
    fn commit_with(&mut self, stream: &Stream) -> Result<(), Fault> {
        self.state.position = stream.position().clone();
        if self.held.kind.is_some() {
            self.state.position.open = self.held.before.clone();
        }
        self.commit()
    }

    fn commit(&mut self) -> Result<(), Fault> {
        let state = serde_json::to_vec(&self.state).map_err(|error| {
            Fault::fatal(Code::Bug, format!("a position can't be written: {error}"))
        })?;
        positions::store(
            &mut self.writer,
            &self.position_topic,
            Stage::Connector.partition(),
            &state,
        )?;
        inject::die_at("die_before_kafka_commit");
        self.grouping.commit(&mut self.writer)?;
        self.meters.commits.add(1, &self.meters.labels);
        self.meters.rows.add(std::mem::take(&mut self.rows), &self.meters.labels);
        Ok(())
    }
}

/// What an event left to do.
enum Taken {
    Change,
    End,
    Nothing,
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(0)
}

fn millis(us: u64) -> i64 {
    i64::try_from(us / 1000).unwrap_or(0)
}
