//! What `init` does for flows between Redis stores: the first record of each log, and a ledger key for each lane.

use tokio::task::block_in_place;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::redis::{Expiries, Keyspace, Word};
use unitflow_change::seq::Seq;
use unitflow_change::tag::{Afters, HEADER, Kind, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::members::committed;
use unitflow_kafka::topics::{self, Retention, Spec};
use unitflow_kafka::{Writer, last_record, positions};
use unitflow_redis::rdb::{Key, Part, Piece};
use unitflow_redis::{Client, Opened, Options, Position, Store, Stream};
use unitflow_sinks::redis::ledger;

use super::{FIRST_GENERATION, has_topic, json, topic_id};
use crate::config::Mesh;
use crate::pipeline::redis::{ConnectorState, Progress};
use crate::pipeline::{ensure_same_topic, ensure_tail, load_state, require};

/// How many expiry times of a snapshot stand in one record.
const EXPIRIES_AT_ONCE: usize = 1_000;

/// The expiry topic as it has to be: a stage that begins reads all of it.
pub fn expiry_spec(name: String, replication: i32, min_insync: i32) -> Spec {
    let settings = [
        ("segment.bytes", "16777216"),
        ("segment.ms", "3600000"),
        ("min.cleanable.dirty.ratio", "0.3"),
        ("delete.retention.ms", "3600000"),
    ];
    Spec {
        name,
        partitions: 1,
        retention: Retention::Compacted,
        max_message_bytes: 1 << 20,
        replication,
        min_insync,
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
    }
}

/// Starts the logs of these units' Redis stores and creates the lanes into them; says what was created, and what waits
/// for another unit's `init`.
pub async fn init(
    mesh: &Mesh,
    units: &[Name],
    done: &mut Vec<String>,
    waiting: &mut Vec<String>,
) -> Result<(), Fault> {
    for (log, _) in mesh.cache_logs().filter(|(log, _)| units.contains(&log.unit)) {
        if let Some(position) = start_log(mesh, &log).await? {
            done.push(format!("{log}: captured from {position} on"));
        }
    }
    for (log, to) in mesh.cache_ways().filter(|(_, to)| units.contains(to)) {
        let place = mesh.read_at(&log);
        if !units.contains(place) && !has_topic(mesh, &log).await? {
            waiting.push(format!("{log} to {to}: unit {place} has no topics yet"));
            continue;
        }
        let lanes = create_lanes(mesh, &log, &to).await?;
        if lanes > 0 {
            done.push(format!("{log} to {to}: {lanes} lanes in the ledger"));
        }
    }
    Ok(())
}

async fn connector_state(mesh: &Mesh, log: &Log) -> Result<Option<ConnectorState>, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    match load_state(broker, &mesh.topics, log, Stage::Connector).await {
        Err(fault) if fault.code == Code::TopicMissing => Ok(None),
        state => state,
    }
}

/// The log's first records, and the position it is captured from; that, where the log is new.
async fn start_log(mesh: &Mesh, log: &Log) -> Result<Option<String>, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    // Looked at first without the fence, which would stop a connector that runs; then behind it.
    if connector_state(mesh, log).await?.is_some() {
        return Ok(None);
    }
    let id = mesh.topics.transactional_id(log, Stage::Connector);
    let writer = Writer::open(broker, &id).await?;
    if connector_state(mesh, log).await?.is_some() {
        return Ok(None);
    }
    let captured = mesh.topics.captured(log);
    let (low, _) = topics::bounds(broker, &captured, 0).await?;
    if low > 0 || last_record(broker, &captured, 0).await?.is_some() {
        return Err(Fault::fatal(
            Code::PositionMissing,
            format!("{captured} holds records, but {} has no position of its connector", mesh.topics.position(log)),
        )
        .hint("the flow has run and lost its position: restore the position topic, or see the runbook for how a log begins anew; init never does that by itself"));
    }
    let captured_id = topic_id(broker, &captured).await?;
    let begun = begin(mesh, log, writer, (Seq::NONE, FIRST_GENERATION), captured_id).await?;
    Ok(Some(begun.0))
}

/// Lets a log go on in its next generation behind what its store holds now, and gives the position. Its connector must not be
/// at work.
pub async fn begin_anew(mesh: &Mesh, log: &Log) -> Result<(String, Seq), Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let id = mesh.topics.transactional_id(log, Stage::Connector);
    let writer = Writer::open(broker, &id).await?;
    let state: ConnectorState = require(broker, &mesh.topics, log, Stage::Connector).await?;
    let captured = mesh.topics.captured(log);
    ensure_same_topic(broker, &captured, Some(&state.captured_id)).await?;
    ensure_tail(broker, &captured, 0, state.seq).await?;
    let generation =
        state.seq.generation().checked_add(1).ok_or_else(|| {
            Fault::fatal(Code::Routing, "the log has no generation left to begin")
        })?;
    begin(mesh, log, writer, (state.seq, generation), state.captured_id).await
}

async fn begin(
    mesh: &Mesh,
    log: &Log,
    writer: Writer,
    (seq, generation): (Seq, u16),
    captured_id: String,
) -> Result<(String, Seq), Fault> {
    let keyspace = mesh.cache_flows[&log.store].keyspace.clone();
    // A transaction with Kafka does not last as long as a large snapshot: it begins behind it.
    let mut first = First { keyspace: keyspace.clone(), ..First::default() };
    let position = first.read(mesh.cache(&log.unit, &log.store)?).await?;
    let mut log_end = LogEnd { writer, topic: mesh.topics.captured(log), seq };
    log_end.record(Kind::Barrier, Seq::start_of(generation), &json(&keyspace)?)?;
    for value in &first.records {
        log_end.record(Kind::Expiry, log_end.seq.next_captured(), value)?;
    }
    let LogEnd { mut writer, seq, .. } = log_end;
    let told = format!("{}:{}", position.history, position.offset);
    let copy = Progress::default();
    let state = ConnectorState { seq, position, keyspace, captured_id, copy };
    let stage = Stage::Connector.partition();
    positions::store(&mut writer, &mesh.topics.position(log), stage, &json(&state)?)?;
    block_in_place(|| writer.commit())?;
    Ok((told, seq))
}

/// When the keys of the store's snapshot expire, as records. What the store holds is taken to be in every unit.
#[derive(Default)]
struct First {
    keyspace: Keyspace,
    /// The key whose value is being read.
    key: Vec<u8>,
    records: Vec<Vec<u8>>,
    /// Expiry times for the next record, of keys of this database.
    expiring: Vec<(Vec<u8>, u64)>,
    db: u32,
}

impl First {
    /// Gives where the store's stream goes on behind the snapshot. The store keeps that in its backlog until a connector
    /// comes.
    async fn read(&mut self, store: &Store) -> Result<Position, Fault> {
        let Opened::Full(snapshot) = Stream::open(store, None, Options::default()).await? else {
            return Err(Fault::fatal(Code::Bug, "a store goes on behind nothing"));
        };
        let stream =
            snapshot.read(|part| self.take(part)).await.map_err(|fault| fault.at(&store.name))?;
        self.flush();
        Ok(stream.position().clone())
    }

    fn take(&mut self, part: Part) -> Result<(), Fault> {
        match part {
            Part::Key(Key { database, name, expires_ms, .. }) => {
                self.key.clone_from(&name);
                if let Some(ms) = expires_ms {
                    self.expires(database, name, ms);
                }
            }
            Part::Piece(Piece::Field { expires_ms: Some(_), .. })
                if self.keyspace.carries(&self.key) =>
            {
                let key = self.key.escape_ascii();
                return Err(Fault::fatal(
                    Code::Command,
                    format!("the hash {key} has fields that expire, which are not carried yet"),
                )
                .hint("leave such keys out, under exclude of the flow"));
            }
            _ => {}
        }
        Ok(())
    }

    fn expires(&mut self, db: u32, key: Vec<u8>, ms: u64) {
        if db != self.db || self.expiring.len() >= EXPIRIES_AT_ONCE {
            self.flush();
            self.db = db;
        }
        self.expiring.push((key, ms));
    }

    fn flush(&mut self) {
        let expiring = std::mem::take(&mut self.expiring);
        if expiring.is_empty() {
            return;
        }
        let expires = expiring.into_iter().map(|(key, ms)| (Word(key.into()), ms)).collect();
        let mut value = Vec::new();
        Expiries { db: self.db, expires }.write(&mut value);
        self.records.push(value);
    }
}

/// The end of a captured topic.
struct LogEnd {
    writer: Writer,
    topic: String,
    seq: Seq,
}

impl LogEnd {
    fn record(&mut self, kind: Kind, seq: Seq, value: &[u8]) -> Result<(), Fault> {
        let tag = Tag {
            kind,
            seq,
            prev: self.seq,
            transaction: "",
            index: 0,
            last: true,
            commit_us: 0,
            after: Afters::default(),
            to: "",
        };
        let mut header = Vec::new();
        tag.write(&mut header);
        self.writer.send(&self.topic, 0, None, Some(value), &[(HEADER, &header)], 0)?;
        self.seq = seq;
        Ok(())
    }
}

/// The ledger keys of a flow into a unit, unless it has run before. Says how many are new.
async fn create_lanes(mesh: &Mesh, log: &Log, to: &Name) -> Result<usize, Fault> {
    let broker = &mesh.unit(mesh.read_at(log))?.broker;
    let topic = mesh.topics.tagged(log);
    let lanes = mesh.lanes(log);
    let mut client = Client::open(mesh.cache(to, &log.store)?).await?;
    let known = ledger::read_all(&mut client, log, lanes).await?;
    let missing: Vec<i32> =
        (0..lanes).filter(|lane| known.iter().all(|(known, _)| known != lane)).collect();
    if missing.is_empty() {
        return Ok(0);
    }
    let mirrored = committed(broker, &mesh.topics.group(log, to), &topic, lanes).await?;
    let start = Seq::start_of(FIRST_GENERATION);
    if mirrored.iter().any(Option::is_some) || known.iter().any(|(_, known)| known.seq != start) {
        return Err(Fault::fatal(
            Code::LedgerMissing,
            format!("the store of unit {to} lacks the ledger keys of lanes {missing:?} of log {log}, which has run before"),
        )
        .hint(format!("unitflow resync full --from {} --store {} --to {to} --why … brings what it has lost; init never does that by itself", log.unit, log.store)));
    }
    for lane in &missing {
        let (low, _) = topics::bounds(broker, &topic, *lane).await?;
        if low > 0 {
            return Err(Fault::fatal(
                Code::OffsetGone,
                format!("{topic}[{lane}] no longer begins at its first record, so unit {to} can't begin there"),
            )
            .hint(format!("unitflow resync full --from {} --store {} --to {to} --why … lets it begin with what that unit holds", log.unit, log.store)));
        }
    }
    let id = topic_id(broker, &topic).await?;
    for lane in &missing {
        ledger::create(&mut client, log, *lane, (start, &id, 0)).await?;
    }
    Ok(missing.len())
}

/// Creates the ledger keys that a target lacks behind what its log ends with, for a log that has just begun anew and of
/// which nothing more is captured. Says how many.
pub async fn create_lost_lanes(
    mesh: &Mesh,
    log: &Log,
    to: &Name,
    tails: &[Seq],
) -> Result<usize, Fault> {
    let broker = &mesh.unit(mesh.read_at(log))?.broker;
    let topic = mesh.topics.tagged(log);
    let mut client = Client::open(mesh.cache(to, &log.store)?).await?;
    let known = ledger::read_all(&mut client, log, mesh.lanes(log)).await?;
    let id = topic_id(broker, &topic).await?;
    let mut count = 0;
    for (lane, tail) in (0..).zip(tails) {
        if known.iter().any(|(known, _)| *known == lane) {
            continue;
        }
        let (_, end) = topics::bounds(broker, &topic, lane).await?;
        ledger::create(&mut client, log, lane, (*tail, &id, end)).await?;
        count += 1;
    }
    Ok(count)
}
