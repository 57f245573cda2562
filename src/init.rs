//! `unitflow init`: what a new mesh needs before its first change.
//!
//! Safe to repeat, also beside running workers: what exists is left as it is, and what a schema of an
//! older build lacks is added. It creates a lane's ledger row only for a flow that never ran, since a
//! row that is missing later means that its place was lost. All that can be looked at beforehand is,
//! so that what can't be finished is not begun.

mod plan;
mod possible;
pub mod redis;

use futures_util::future::join_all;
use tokio::task::block_in_place;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::position::Position;
use unitflow_change::routing::PartitionBy;
use unitflow_change::seq::Seq;
use unitflow_change::tag::{Afters, HEADER, Kind, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::members::committed;
use unitflow_kafka::notes;
use unitflow_kafka::topics::{self, Retention, Spec};
use unitflow_kafka::{Writer, last_record, positions};
use unitflow_mysql::connect::{Server, Store, connect_to_write};
use unitflow_sinks::copy::known;
use unitflow_sinks::{ledger, schema};

use crate::Outcome;
use crate::cli::InitArgs;
use crate::config::{Flow, Mesh};
use crate::output::say;
use crate::pipeline::{ConnectorState, load_state, relayed_at};
use crate::tables;

use possible::ensure_possible;
pub use possible::identity;

/// The largest batch of a data topic, compressed, in bytes. Larger records travel in pieces of 4 MiB.
const RECORD_BYTES_MAX: u32 = 16 << 20;
/// The generation a new log begins with.
const FIRST_GENERATION: u16 = 1;

/// Initialises the mesh, or one unit of it.
pub async fn run(mesh: &Mesh, args: &InitArgs) -> Result<Outcome, Fault> {
    let units = units(mesh, args.unit.as_ref())?;
    if args.print {
        say(plan::of(mesh, &units)?.trim_end());
        return Ok(Outcome::Fine);
    }
    ensure_possible(mesh, &units).await?;
    // In this order, so that a position is never older than what it stands on, and a sink's first
    // place never older than the log.
    let mut done = all(units.iter().map(|unit| prepare(mesh, unit))).await?;
    let logs = mesh.logs().filter(|(log, _)| units.contains(&log.unit));
    done.extend(all(logs.map(|(log, _)| begin(mesh, log))).await?);
    let (mut waiting, mut ready) = (Vec::new(), Vec::new());
    for (log, to, flow) in mesh.ways().filter(|(_, to, _)| units.contains(to)) {
        let place = mesh.read_at(&log);
        if units.contains(place) || has_topic(mesh, &log).await? {
            ready.push((log, to, flow));
        } else {
            waiting.push(format!("{log} to {to}: unit {place} has no topics yet"));
        }
    }
    let lanes = ready.into_iter().map(async |(log, to, flow)| {
        let lanes = create_lanes(mesh, &log, &to, flow).await?;
        Ok((lanes > 0).then(|| format!("{log} to {to}: {lanes} lanes in the ledger")))
    });
    let lanes = all(lanes).await?;
    let mut done: Vec<String> =
        done.into_iter().flatten().chain(lanes.into_iter().flatten()).collect();
    redis::init(mesh, &units, &mut done, &mut waiting).await?;
    Ok(report(&units, &done, &waiting))
}

/// Side by side, since most of it is waiting for brokers. All come to their end before the first
/// fault is told.
async fn all<T>(
    parts: impl Iterator<Item = impl Future<Output = Result<T, Fault>>>,
) -> Result<Vec<T>, Fault> {
    join_all(parts).await.into_iter().collect()
}

/// What has to be in a unit's Kafka and stores; says what was created.
async fn prepare(mesh: &Mesh, unit: &Name) -> Result<Vec<String>, Fault> {
    let topics = create_topics(mesh, unit).await?;
    let mut done: Vec<String> =
        topics.iter().map(|topic| format!("{unit}: topic {topic}")).collect();
    for (name, store) in &mesh.unit(unit)?.stores {
        let created = create_schema(mesh, store).await?;
        done.extend(created.iter().map(|object| format!("{unit}.{name}: {object}")));
    }
    Ok(done)
}

/// Starts a log; says where it begins.
async fn begin(mesh: &Mesh, log: Log) -> Result<Vec<String>, Fault> {
    let Some((position, bound)) = start_log(mesh, &log).await? else { return Ok(Vec::new()) };
    let mut done = vec![format!("{log}: captured from {position} on")];
    done.extend(bound.iter().map(|(table, by)| match by {
        PartitionBy::Columns(columns) => {
            format!("{log}: {table} spread over lanes by {}", columns.join(", "))
        }
        _ => format!("{log}: all of {table} in one lane"),
    }));
    Ok(done)
}

fn report(units: &[Name], done: &[String], waiting: &[String]) -> Outcome {
    let units = units.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
    done.iter().for_each(|line| say(&format!("created  {line}")));
    if !waiting.is_empty() {
        waiting.iter().for_each(|line| say(&format!("waiting  {line}")));
        say("not complete: run unitflow init for the units named, then this again");
        return Outcome::Findings;
    }
    match done.len() {
        0 => say(&format!("initialised before: {units}; nothing was changed")),
        _ => say(&format!("initialised: {units}")),
    }
    Outcome::Fine
}

fn units(mesh: &Mesh, only: Option<&Name>) -> Result<Vec<Name>, Fault> {
    match only {
        Some(unit) => mesh.unit(unit).map(|_| vec![unit.clone()]),
        None => Ok(mesh.units.keys().cloned().collect()),
    }
}

/// The topics that stand in a unit's Kafka, as they have to be.
pub fn topic_specs(mesh: &Mesh, unit: &Name) -> Result<Vec<Spec>, Fault> {
    let at = mesh.unit(unit)?;
    let min_insync = (at.replication - 1).max(1);
    let data = |name: String, partitions: i32| Spec {
        name,
        partitions,
        retention: Retention::ForAtLeast(mesh.outage_longest),
        max_message_bytes: RECORD_BYTES_MAX,
        replication: at.replication,
        min_insync,
        settings: Vec::new(),
    };
    let stages = i32::try_from(Stage::ALL.len()).unwrap_or(0);
    let position =
        |log: &Log| positions::spec(mesh.topics.position(log), stages, at.replication, min_insync);
    let mut specs = vec![
        notes::spec(mesh.topics.heartbeat(unit), at.replication, min_insync),
        notes::spec(mesh.topics.control(unit), at.replication, min_insync),
        data(mesh.topics.quarantine(unit), 1),
    ];
    for log in mesh.all_logs().filter(|log| log.unit == *unit) {
        specs.push(data(mesh.topics.captured(&log), 1));
        specs.push(data(mesh.topics.tagged(&log), mesh.lanes(&log)));
        specs.push(position(&log));
        if mesh.cache_flows.contains_key(&log.store) {
            specs.push(redis::expiry_spec(mesh.topics.expiry(&log), at.replication, min_insync));
        }
    }
    for log in relayed_at(mesh, unit) {
        specs.push(data(mesh.topics.tagged(&log), mesh.lanes(&log)));
        specs.push(position(&log));
    }
    Ok(specs)
}

/// Creates what the store lacks of our schema; says what.
pub async fn create_schema(mesh: &Mesh, store: &Store) -> Result<Vec<String>, Fault> {
    let mut conn = connect_to_write(store).await?;
    let mut created = Vec::new();
    for lack in schema::lacking(&mut conn).await? {
        schema::add(&mut conn, &lack).await.map_err(|fault| {
            let hint = format!("or let an administrator run: {}", lack.statement);
            fault.at(&store.name).hint(hint)
        })?;
        created.push(lack.what);
    }
    let units: Vec<Name> = mesh.units.keys().cloned().collect();
    ledger::create_heartbeats(&mut conn, &units).await?;
    Ok(created)
}

/// Creates the topics that a unit's Kafka lacks; says which.
pub async fn create_topics(mesh: &Mesh, unit: &Name) -> Result<Vec<String>, Fault> {
    let broker = &mesh.unit(unit)?.broker;
    topics::create_missing(broker, &topic_specs(mesh, unit)?).await
}

/// The log's first record and the position it is captured from: all that the store has executed so
/// far is taken to be in every unit. Gives the position of a log that is new, and what its store's
/// schema binds.
pub async fn start_log(mesh: &Mesh, log: &Log) -> Result<Option<(String, tables::Bound)>, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    // Looked at first without the fence, which would stop a connector that runs; then behind it.
    if connector_state(mesh, log).await?.is_some() {
        return Ok(None);
    }
    let mut writer =
        Writer::open(broker, &mesh.topics.transactional_id(log, Stage::Connector)).await?;
    if connector_state(mesh, log).await?.is_some() {
        return Ok(None);
    }
    let captured = mesh.topics.captured(log);
    let (low, _) = topics::bounds(broker, &captured, 0).await?;
    // Not by its end: Kafka may have ended in it what a writer of its predecessor had begun.
    if low > 0 || last_record(broker, &captured, 0).await?.is_some() {
        return Err(Fault::fatal(
            Code::PositionMissing,
            format!("{captured} holds records, but {} has no position of its connector", mesh.topics.position(log)),
        )
        .hint("the flow has run and lost its position: restore the position topic, or see the runbook for how a log begins anew; init never does that by itself"));
    }
    let mut conn = connect_to_write(mesh.store(&log.unit, &log.store)?).await?;
    let server = Server::read(&mut conn).await?;
    let identity = server.identity();
    known::forget(&mut conn).await?;
    // Read behind the position: it is the schema of the log's first change, or a later one.
    let routing = tables::bind(&mut conn, mesh.routing(log)?, &tables::Bound::new()).await?;
    let seq = Seq::start_of(FIRST_GENERATION);
    let state = ConnectorState {
        seq,
        position: Position::after(server.executed),
        routing,
        captured_id: topic_id(broker, &captured).await?,
        envelope: mesh.flows[&log.store].envelope,
        copy: Default::default(),
        server: Some(identity),
    };
    let tag = Tag {
        kind: Kind::Barrier,
        seq,
        prev: Seq::NONE,
        transaction: "",
        index: 0,
        last: true,
        commit_us: 0,
        after: Afters::default(),
        to: "",
    };
    let mut header = Vec::new();
    tag.write(&mut header);
    let value = state.envelope.of_payload(&json(&state.routing)?);
    writer.send(&captured, 0, None, Some(&value), &[(HEADER, &header)], 0)?;
    let stage = Stage::Connector.partition();
    positions::store(&mut writer, &mesh.topics.position(log), stage, &json(&state)?)?;
    block_in_place(|| writer.commit())?;
    Ok(Some((state.position.done.to_string(), state.routing.bound)))
}

/// What the connector stored last; nothing where its topic is still to be created.
async fn connector_state(mesh: &Mesh, log: &Log) -> Result<Option<ConnectorState>, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    match load_state(broker, &mesh.topics, log, Stage::Connector).await {
        Err(fault) if fault.code == Code::TopicMissing => Ok(None),
        state => state,
    }
}

/// Whether the topic that other units read this log from is there.
async fn has_topic(mesh: &Mesh, log: &Log) -> Result<bool, Fault> {
    let broker = &mesh.unit(mesh.read_at(log))?.broker;
    let found = topics::describe(broker, &[&mesh.topics.tagged(log)]).await?;
    Ok(found.iter().all(Option::is_some))
}

/// The ledger rows of a flow into a unit, unless it has run before. Says how many are new.
pub async fn create_lanes(mesh: &Mesh, log: &Log, to: &Name, flow: &Flow) -> Result<usize, Fault> {
    let broker = &mesh.unit(mesh.read_at(log))?.broker;
    let topic = mesh.topics.tagged(log);
    let mut conn = connect_to_write(mesh.store(to, &log.store)?).await?;
    let known = ledger::read_all(&mut conn, log).await?;
    let lanes = 0..flow.routing.partitions;
    let missing: Vec<i32> =
        lanes.clone().filter(|lane| known.iter().all(|entry| entry.lane != *lane)).collect();
    if missing.is_empty() {
        return Ok(0);
    }
    let mirrored = committed(broker, &mesh.topics.group(log, to), &topic, lanes.end).await?;
    let start = Seq::start_of(FIRST_GENERATION);
    if mirrored.iter().any(Option::is_some) || known.iter().any(|entry| entry.seq != start) {
        return Err(Fault::fatal(
            Code::LedgerMissing,
            format!("unitflow.ledger in unit {to} lacks lanes {missing:?} of log {log}, which has run before"),
        )
        .hint("restore the rows from a backup of that store, or see the runbook for how a log begins anew; init never does that by itself"));
    }
    for lane in &missing {
        let (low, _) = topics::bounds(broker, &topic, *lane).await?;
        if low > 0 {
            return Err(Fault::fatal(
                Code::OffsetGone,
                format!("{topic}[{lane}] no longer begins at its first record, so unit {to} can't begin there"),
            )
            .hint("this unit came too late for a plain start: it needs a first copy, see the runbook"));
        }
    }
    let id = topic_id(broker, &topic).await?;
    for lane in &missing {
        ledger::create(&mut conn, log, *lane, start, &id).await?;
    }
    Ok(missing.len())
}

async fn topic_id(broker: &unitflow_kafka::Broker, topic: &str) -> Result<String, Fault> {
    let found = topics::describe(broker, &[topic]).await?.pop().flatten();
    found.map(|topic| topic.id.as_str().to_owned()).ok_or_else(|| {
        Fault::fatal(Code::TopicMissing, format!("the topic {topic} does not exist"))
            .hint("unitflow init --unit creates the topics of its unit; the unit that holds this one comes first")
    })
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value)
        .map_err(|error| Fault::fatal(Code::Bug, format!("a state can't be written: {error}")))
}
