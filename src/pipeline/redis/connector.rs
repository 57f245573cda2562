//! The connector of a Redis store: its stream of writes into the captured topic, in order, with the position.
//!
//! It decides nothing about the writes: it numbers them, says which is the last of its transaction, and stops before one
//! that the flow can't carry and says nothing of. A position never stands inside a transaction, nor does a commit.
//!
//! Where the store can't go on behind the position any more, writes may be lost: then it stops. What is to be copied beside
//! it puts into the log where it belongs.

mod chunks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tracing::info;
use unitflow_change::name::{Log, Stage};
use unitflow_change::redis::{Keyspace, LEDGER_PREFIX, Policy, write as write_value, write_key};
use unitflow_change::tag::{Afters, HEADER, Kind, Tag};
use unitflow_change::{Code, Fault, inject};
use unitflow_kafka::{Writer, positions};
use unitflow_redis::commands::{self, Arrives};
use unitflow_redis::stream::{Event, Opened, Options, Stream};
use unitflow_redis::{Command, Position, Store};

use super::copier::Copier;
use super::sink::lanes_into;
use super::state::ConnectorState;
use crate::config::Mesh;
use crate::pipeline::grouping::Grouping;
use crate::pipeline::state::{ensure_same_topic, ensure_tail, look, require};
use crate::supervisor::Begin;
use crate::telemetry::{CaptureMeters, Meters};

/// How often a watermark is written at most.
const WATERMARK_EVERY: Duration = Duration::from_secs(1);
/// How many events are taken before the clock is looked at.
const EVENTS_BETWEEN_LOOKS: u32 = 256;
/// A buffer above this is given back after a large value.
const BUFFER_BYTES_KEPT: usize = 8 << 20;

/// Captures one store until it is cancelled or fails.
pub async fn run(
    mesh: Arc<Mesh>,
    log: Log,
    meters: Meters,
    begin: Begin,
    cancel: CancellationToken,
) -> Result<(), Fault> {
    let capture = async {
        begin.stand_by(&mesh, &log.unit, &log, Stage::Connector).await?;
        let store = mesh.cache(&log.unit, &log.store)?.clone();
        // Who can't go on does not take the role from whoever mends that.
        if let Some(state) = look::<ConnectorState>(
            &mesh.unit(&log.unit)?.broker,
            &mesh.topics,
            &log,
            Stage::Connector,
        )
        .await?
        {
            drop(open_behind(&log, &store, &state.position).await?);
        }
        let mut capture = Capture::open(&mesh, &log, &meters).await?;
        let mut stream = capture.begin(&log, &store).await?;
        info!(%log, offset = stream.position().offset, "capturing");
        capture.run(&mut stream).await.map_err(|fault| fault.at(&store.name))
    };
    tokio::select! {
        () = cancel.cancelled() => Ok(()),
        result = capture => result,
    }
}

/// The write that waits until it is known whether it is its transaction's last.
#[derive(Default)]
struct Held {
    full: bool,
    key: Vec<u8>,
    value: Vec<u8>,
    index: u64,
    commit_us: u64,
}

struct Capture {
    writer: Writer,
    captured: String,
    position_topic: String,
    /// What the configuration says.
    configured: Keyspace,
    state: ConnectorState,
    held: Held,
    /// How many writes of the open transaction came.
    index: u64,
    /// Its name: the history and the offset before it.
    transaction: String,
    /// Whether the open transaction is a sink's.
    applied: bool,
    /// Whether anything else changed since the last watermark.
    moved: bool,
    watermark_at: Instant,
    grouping: Grouping,
    header: Vec<u8>,
    copier: Copier,
    /// Writes since the last commit, for metrics.
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
        let control = (broker.clone(), mesh.topics.control(&log.unit));
        let others = lanes_into(mesh, &log.unit, &log.store);
        let store = mesh.cache(&log.unit, &log.store)?;
        Ok(Self {
            copier: Copier::new(log, store, control, others),
            writer,
            captured,
            position_topic: mesh.topics.position(log),
            configured: mesh.cache_flows[&log.store].keyspace.clone(),
            state,
            held: Held::default(),
            index: 0,
            transaction: String::new(),
            applied: false,
            moved: false,
            watermark_at: Instant::now(),
            grouping: Grouping::new(),
            header: Vec::new(),
            rows: 0,
            meters: meters.capture(log),
        })
    }

    /// Opens the stream where it was left; names the keyspace where it is another than the log's.
    async fn begin(&mut self, log: &Log, store: &Store) -> Result<Stream, Fault> {
        let stream = open_behind(log, store, &self.state.position).await?;
        if self.state.keyspace != self.configured {
            if self.state.keyspace.partitions != self.configured.partitions {
                return Err(Fault::fatal(Code::Routing, "a log keeps its number of lanes"));
            }
            let value = json(&self.configured)?;
            self.state.keyspace = self.configured.clone();
            self.lone_record(Kind::Routing, stream.now_us(), &value)?;
        }
        self.commit(&stream)?;
        Ok(stream)
    }

    async fn run(&mut self, stream: &mut Stream) -> Result<(), Fault> {
        let mut tick = tokio::time::interval(WATERMARK_EVERY);
        loop {
            let goes_on = self.take_what_is_at_hand(stream)?;
            self.copy(stream).await?;
            if goes_on {
                // A backlog never pauses, and others have to run too.
                tokio::task::yield_now().await;
                continue;
            }
            let pause = self.grouping.pause().filter(|_| self.is_whole(stream));
            let waited = tokio::select! {
                biased;
                event = stream.next() => { event?; true }
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {
                    self.commit(stream)?;
                    false
                }
                () = self.copier.ready() => false,
                _ = tick.tick() => false,
            };
            if waited {
                self.take(stream)?;
            }
            self.copy(stream).await?;
            self.look_at_the_clock(stream)?;
        }
    }

    /// Takes events as long as there are some, and commits when that is due. `false`: none is left.
    fn take_what_is_at_hand(&mut self, stream: &mut Stream) -> Result<bool, Fault> {
        let mut goes_on = true;
        for _ in 0..EVENTS_BETWEEN_LOOKS {
            let Some(event) = stream.next().now_or_never() else {
                goes_on = false;
                break;
            };
            event?;
            self.take(stream)?;
            if self.grouping.is_full(&self.writer) || self.copier.is_due() && self.is_whole(stream)
            {
                break;
            }
        }
        if self.grouping.is_due(&self.writer) && self.is_whole(stream) {
            self.commit(stream)?;
        }
        self.look_at_the_clock(stream)?;
        Ok(goes_on)
    }

    /// Whether nothing of an open transaction was taken.
    fn is_whole(&self, stream: &Stream) -> bool {
        !stream.is_inside() && !self.held.full
    }

    fn look_at_the_clock(&mut self, stream: &Stream) -> Result<(), Fault> {
        if !self.is_whole(stream) {
            return Ok(());
        }
        // What sinks wrote here begets no watermark, or two units would keep each other awake.
        if self.moved && self.watermark_at.elapsed() >= WATERMARK_EVERY {
            self.moved = false;
            self.watermark_at = Instant::now();
            self.lone_record(Kind::Watermark, stream.now_us(), b"{}")?;
            self.commit(stream)?;
        }
        if self.grouping.is_silent() { self.commit(stream) } else { Ok(()) }
    }

    /// Takes the event that the stream gave last.
    fn take(&mut self, stream: &Stream) -> Result<(), Fault> {
        match stream.event() {
            Event::Command(db, command) => self.command(db, command, stream),
            Event::End => {
                self.put_held(true)?;
                self.index = 0;
                self.grouping.pending();
                Ok(())
            }
            Event::Alive => Ok(()),
        }
    }

    fn command(&mut self, db: u32, command: &Command, stream: &Stream) -> Result<(), Fault> {
        inject::die_at("die_after_read");
        if self.index == 0 {
            self.applied = command.is("SET") && command.word(1).starts_with(LEDGER_PREFIX);
            let position = stream.position();
            self.transaction = format!("{}:{}", position.history, position.offset);
        }
        self.copier.meets(db, command);
        let form = commands::form(command)?;
        if form.arrives == Arrives::Policy && !self.stays(command)? {
            return Ok(());
        }
        let keys = form.keys(command)?;
        if !self.applied {
            self.ensure_carried_whole(command, &keys)?;
            self.ensure_no_field_expires(command, &keys)?;
        }
        self.put_held(false)?;
        let held = &mut self.held;
        if held.value.capacity() > BUFFER_BYTES_KEPT {
            held.value = Vec::new();
        }
        held.key.clear();
        held.value.clear();
        if let Some(place) = keys.first() {
            write_key(&mut held.key, db, command.word(*place));
        }
        write_value(&mut held.value, db, command.words(), &keys);
        held.full = true;
        held.index = self.index;
        held.commit_us = stream.now_us();
        self.index += 1;
        self.moved |= !self.applied;
        Ok(())
    }

    /// Whether a command that acts on more than keys is to stand in the log, from where it goes no further.
    fn stays(&self, command: &Command) -> Result<bool, Fault> {
        let name = commands::name_of(command);
        // A message is no data.
        if name.ends_with("PUBLISH") {
            return Ok(false);
        }
        match self.configured.commands.get(&name) {
            Some(Policy::Stay) => Ok(true),
            Some(Policy::Stop) | None => Err(Fault::fatal(
                Code::Command,
                format!("{name} came: it acts on more than keys, and is not carried"),
            )
            .hint(format!(
                "see what it did; to go on without it: commands = {{ \"{name}\" = \"stay\" }} in the flow, and start the connector again, before the server's backlog runs over"
            ))),
        }
    }

    /// What acts on several keys works at a target only where all of them travel.
    fn ensure_carried_whole(&self, command: &Command, keys: &[usize]) -> Result<(), Fault> {
        if keys.len() < 2 || command.is("DEL") || command.is("UNLINK") || command.is("MSET") {
            return Ok(());
        }
        let carries = |place: &usize| self.configured.carries(command.word(*place));
        if keys.iter().all(carries) || !keys.iter().any(carries) {
            return Ok(());
        }
        let names: Vec<String> =
            keys.iter().map(|place| command.word(*place).escape_ascii().to_string()).collect();
        Err(Fault::fatal(
            Code::Command,
            format!(
                "{} came with keys of which only some travel: {}",
                commands::name_of(command),
                names.join(", ")
            ),
        )
        .hint("let all of these keys travel or none, under keys and exclude of the flow; then start the connector again, before the server's backlog runs over"))
    }

    /// A server tells that a field of a hash has expired by an `HDEL` that can't be told from a client's.
    fn ensure_no_field_expires(&self, command: &Command, keys: &[usize]) -> Result<(), Fault> {
        let sets_times = command.is("HSETEX")
            && command.words().skip(2).take(2).any(|word| word.eq_ignore_ascii_case(b"PXAT"));
        let carried = || keys.iter().any(|place| self.configured.carries(command.word(*place)));
        if !(command.is("HPEXPIREAT") || sets_times) || !carried() {
            return Ok(());
        }
        Err(Fault::fatal(
            Code::Command,
            format!(
                "{} came: fields of hashes that expire are not carried yet; the key is {}",
                commands::name_of(command),
                command.word(1).escape_ascii()
            ),
        )
        .hint("leave such keys out, under exclude of the flow; then start the connector again, before the server's backlog runs over"))
    }

    /// Writes the held write, which is its transaction's last or not.
    fn put_held(&mut self, last: bool) -> Result<(), Fault> {
        if !std::mem::take(&mut self.held.full) {
            return Ok(());
        }
        let seq = self.state.seq.next_captured();
        let tag = Tag {
            kind: Kind::Command,
            seq,
            prev: self.state.seq,
            transaction: &self.transaction,
            index: self.held.index,
            last,
            commit_us: self.held.commit_us,
            after: Afters::default(),
            to: "",
        };
        self.header.clear();
        tag.write(&mut self.header);
        let held = &self.held;
        self.writer.send(
            &self.captured,
            0,
            (!held.key.is_empty()).then_some(held.key.as_slice()),
            Some(&held.value),
            &[(HEADER, &self.header)],
            millis(held.commit_us),
        )?;
        self.state.seq = seq;
        self.rows += 1;
        Ok(())
    }

    /// Writes a record that is no write and stands alone.
    fn lone_record(&mut self, kind: Kind, commit_us: u64, value: &[u8]) -> Result<(), Fault> {
        self.copied_record((kind, (0, true), ""), commit_us, None, value)
    }

    /// Writes a record that is no write; `index` and `last` are its place in what belongs together.
    fn copied_record(
        &mut self,
        (kind, (index, last), to): (Kind, (u64, bool), &str),
        commit_us: u64,
        key: Option<&[u8]>,
        value: &[u8],
    ) -> Result<(), Fault> {
        let seq = self.state.seq.next_captured();
        let tag = Tag {
            kind,
            seq,
            prev: self.state.seq,
            transaction: "",
            index,
            last,
            commit_us,
            after: Afters::default(),
            to,
        };
        self.header.clear();
        tag.write(&mut self.header);
        let headers = [(HEADER, self.header.as_slice())];
        self.writer.send(&self.captured, 0, key, Some(value), &headers, millis(commit_us))?;
        self.state.seq = seq;
        self.grouping.pending();
        Ok(())
    }

    /// Commits all records written so far with the position behind them, between two transactions.
    fn commit(&mut self, stream: &Stream) -> Result<(), Fault> {
        self.state.position = stream.position().clone();
        let state = json(&self.state)?;
        let stage = Stage::Connector.partition();
        positions::store(&mut self.writer, &self.position_topic, stage, &state)?;
        inject::die_at("die_before_kafka_commit");
        self.grouping.commit(&mut self.writer)?;
        stream.acknowledge(stream.position());
        self.meters.commits.add(1, &self.meters.labels);
        self.meters.rows.add(std::mem::take(&mut self.rows), &self.meters.labels);
        Ok(())
    }
}

/// The store's stream behind a position.
async fn open_behind(log: &Log, store: &Store, position: &Position) -> Result<Stream, Fault> {
    match Stream::open(store, Some(position), Options::default()).await? {
        Opened::Continued(stream) => Ok(stream),
        Opened::Full(_) => Err(Fault::fatal(
            Code::PositionPurged,
            "the store can't go on where it was captured up to: its backlog no longer holds that, or its history is another",
        )
        .at(&store.name)
        .hint(format!(
            "unitflow resync full --from {} --store {} --why … lets it go on from now and brings what was missed; then raise repl-backlog-size",
            log.unit, log.store
        ))),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value)
        .map_err(|error| Fault::fatal(Code::Bug, format!("a state can't be written: {error}")))
}

fn millis(us: u64) -> i64 {
    i64::try_from(us / 1000).unwrap_or(0)
}
