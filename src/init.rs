//! `unitflow init`: what a new mesh needs before its first change.
//!
//! Safe to repeat: what exists is left as it is. It creates a lane's ledger row only for a flow
//! that never ran, since a row that is missing later means that its place was lost.

use std::fmt::Write as _;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::task::block_in_place;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::position::Position;
use unitflow_change::seq::Seq;
use unitflow_change::tag::{HEADER, Kind, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::members::committed;
use unitflow_kafka::notes;
use unitflow_kafka::topics::{self, Retention, Spec};
use unitflow_kafka::{Writer, positions};
use unitflow_mysql::connect::{Server, connect, fault};
use unitflow_sinks::ledger;

use crate::Outcome;
use crate::cli::InitArgs;
use crate::config::{Flow, Mesh};
use crate::pipeline::{ConnectorState, load_state, relayed_at};

/// The largest record of a data topic, compressed, in bytes.
const RECORD_BYTES_MAX: u32 = 16 << 20;
/// The generation a new log begins with.
const FIRST_GENERATION: u16 = 1;

/// Initialises the mesh, or one unit of it.
pub async fn run(mesh: &Mesh, args: &InitArgs) -> Result<Outcome, Fault> {
    let units = units(mesh, args.unit.as_ref())?;
    if args.print {
        print!("{}", plan(mesh, &units));
        return Ok(Outcome::Fine);
    }
    // In this order, so that a position is never older than what it stands on, and a sink's first
    // place never older than the log.
    for unit in &units {
        create_schema(mesh, unit).await?;
        create_topics(mesh, unit).await?;
    }
    for (log, flow) in mesh.logs().filter(|(log, _)| units.contains(&log.unit)) {
        start_log(mesh, &log, flow).await?;
    }
    for (log, to, flow) in mesh.ways().filter(|(_, to, _)| units.contains(to)) {
        create_lanes(mesh, &log, &to, flow).await?;
    }
    println!("initialised: {}", units.iter().map(Name::as_str).collect::<Vec<_>>().join(", "));
    Ok(Outcome::Fine)
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
    let mut specs = vec![notes::spec(mesh.topics.heartbeat(unit), at.replication, min_insync)];
    for (log, flow) in mesh.logs().filter(|(log, _)| log.unit == *unit) {
        specs.push(data(mesh.topics.captured(&log), 1));
        specs.push(data(mesh.topics.tagged(&log), flow.routing.partitions));
        specs.push(position(&log));
    }
    for log in relayed_at(mesh, unit) {
        specs.push(data(mesh.topics.tagged(&log), mesh.flows[&log.store].routing.partitions));
        specs.push(position(&log));
    }
    Ok(specs)
}

async fn create_schema(mesh: &Mesh, unit: &Name) -> Result<(), Fault> {
    for store in mesh.unit(unit)?.stores.values() {
        let mut conn = connect(store).await?;
        for (object, statement) in ledger::SCHEMA {
            if !exists(&mut conn, object).await? {
                conn.query_drop(*statement).await.map_err(|error| fault(&error).at(&store.name))?;
            }
        }
        let units: Vec<Name> = mesh.units.keys().cloned().collect();
        ledger::create_heartbeats(&mut conn, &units).await?;
    }
    Ok(())
}

async fn exists(conn: &mut Conn, object: &str) -> Result<bool, Fault> {
    let found: Option<u8> = conn
        .exec_first(
            "SELECT 1 FROM information_schema.SCHEMATA WHERE ? = '' AND SCHEMA_NAME = 'unitflow' \
             UNION ALL SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'unitflow' AND TABLE_NAME = ?",
            (object, object),
        )
        .await
        .map_err(|error| fault(&error))?;
    Ok(found.is_some())
}

async fn create_topics(mesh: &Mesh, unit: &Name) -> Result<(), Fault> {
    let broker = &mesh.unit(unit)?.broker;
    topics::create_missing(broker, &topic_specs(mesh, unit)?).await.map(drop)
}

/// The log's first record and the position it is captured from: all that the store has executed so
/// far is taken to be in every unit.
async fn start_log(mesh: &Mesh, log: &Log, flow: &Flow) -> Result<(), Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    // Looked at first without the fence, which would stop a connector that runs; then behind it.
    if has_position(mesh, log).await? {
        return Ok(());
    }
    let mut writer =
        Writer::open(broker, &mesh.topics.transactional_id(log, Stage::Connector)).await?;
    if has_position(mesh, log).await? {
        return Ok(());
    }
    let captured = mesh.topics.captured(log);
    let (_, end) = topics::bounds(broker, &captured, 0).await?;
    if end > 0 {
        return Err(Fault::fatal(
            Code::PositionMissing,
            format!("{captured} holds records, but {} has no position of its connector", mesh.topics.position(log)),
        )
        .hint("the flow has run and lost its position: resync, see the runbook; init never starts it anew"));
    }
    let mut conn = connect(mesh.store(&log.unit, &log.store)?).await?;
    let server = Server::read(&mut conn).await?;
    let seq = Seq::start_of(FIRST_GENERATION);
    let state = ConnectorState {
        seq,
        position: Position::after(server.executed),
        routing: flow.routing.clone(),
        captured_id: topic_id(broker, &captured).await?,
    };
    let tag = Tag {
        kind: Kind::Barrier,
        seq,
        prev: Seq::NONE,
        transaction: "",
        index: 0,
        last: true,
        commit_us: 0,
        after: None,
        to: "",
    };
    let mut header = Vec::new();
    tag.write(&mut header);
    writer.send(&captured, 0, None, Some(&json(&flow.routing)?), &[(HEADER, &header)], 0)?;
    let stage = Stage::Connector.partition();
    positions::store(&mut writer, &mesh.topics.position(log), stage, &json(&state)?)?;
    block_in_place(|| writer.commit())
}

async fn has_position(mesh: &Mesh, log: &Log) -> Result<bool, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let known: Option<ConnectorState> =
        load_state(broker, &mesh.topics, log, Stage::Connector).await?;
    Ok(known.is_some())
}

/// The ledger rows of a flow into a unit, unless it has run before.
async fn create_lanes(mesh: &Mesh, log: &Log, to: &Name, flow: &Flow) -> Result<(), Fault> {
    let broker = &mesh.unit(mesh.read_at(log))?.broker;
    let topic = mesh.topics.tagged(log);
    let mut conn = connect(mesh.store(to, &log.store)?).await?;
    let known = ledger::read_all(&mut conn, log).await?;
    let lanes = 0..flow.routing.partitions;
    let missing: Vec<i32> =
        lanes.clone().filter(|lane| known.iter().all(|entry| entry.lane != *lane)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mirrored = committed(broker, &mesh.topics.group(log, to), &topic, lanes.end).await?;
    let start = Seq::start_of(FIRST_GENERATION);
    if mirrored.iter().any(Option::is_some) || known.iter().any(|entry| entry.seq != start) {
        return Err(Fault::fatal(
            Code::LedgerMissing,
            format!("unitflow.ledger in unit {to} lacks lanes {missing:?} of log {log}, which has run before"),
        )
        .hint("restore the rows from a backup of that store, or resync; init never starts a flow anew, see the runbook"));
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
    for lane in missing {
        ledger::create(&mut conn, log, lane, start, &id).await?;
    }
    Ok(())
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

/// What `init` would do, as SQL and topics for others to read and run.
fn plan(mesh: &Mesh, units: &[Name]) -> String {
    let mut text = String::new();
    for unit in units {
        // Writing to a String can't fail.
        let _ = writeln!(text, "-- unit {unit}: on each of its stores");
        for (_, statement) in ledger::SCHEMA {
            let _ = writeln!(text, "{statement};");
        }
        let _ = writeln!(text, "-- the user that Unitflow logs in with, instead of <user>");
        for grant in GRANTS {
            let _ = writeln!(text, "{grant};");
        }
        if let Ok(specs) = topic_specs(mesh, unit) {
            for spec in specs {
                let _ = writeln!(
                    text,
                    "-- topic {} partitions={} replication={} {:?}",
                    spec.name, spec.partitions, spec.replication, spec.retention
                );
            }
        }
    }
    text
}

/// What the stores' user needs. MariaDB's word for the second is BINLOG MONITOR.
const GRANTS: &[&str] = &[
    "GRANT REPLICATION SLAVE ON *.* TO <user>",
    "GRANT REPLICATION CLIENT ON *.* TO <user>",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON <each replicated database>.* TO <user>",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON unitflow.* TO <user>",
];
