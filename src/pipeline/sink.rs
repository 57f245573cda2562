//! The sink's worker: one log's way into this unit.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use unitflow_change::Fault;
use unitflow_change::name::{Log, Name, Topics};
use unitflow_change::routing::Order;
use unitflow_kafka::quarantine::Quarantine;
use unitflow_sinks::batch::Limits;
use unitflow_sinks::causes::Other;
use unitflow_sinks::copy::own_log::{OwnLog, Place};
use unitflow_sinks::flow::{self, Listener};
use unitflow_sinks::lane::{OnDdl, Way};
use unitflow_sinks::mysql::own_rows::OwnRows;
use unitflow_sinks::road::Road;

use super::state::ensure_same_topic;
use crate::bridge::ensure_kept;
use crate::config::{Ddl, Mesh};
use crate::notice::Board;
use crate::telemetry::Meters;

/// Applies one log in this unit until it is cancelled or no lane runs any more.
pub async fn run(
    mesh: Arc<Mesh>,
    log: Log,
    to: Name,
    meters: Meters,
    board: Arc<Board>,
    cancel: CancellationToken,
) -> Result<(), Fault> {
    let flow = &mesh.flows[&log.store];
    let road = road(&mesh, &log, &to).await?;
    ensure_kept(&mesh, &log, &to).await?;
    let way = Way {
        store: mesh.store(&to, &log.store)?.clone(),
        rename: mesh.rename(&to, &log.store)?.clone(),
        limits: Limits::default(),
        on_ddl: match &flow.ddl {
            Ddl::Ignore => OnDdl::Pass,
            Ddl::Apply(owner) if *owner == log.unit => OnDdl::Apply,
            Ddl::Stop | Ddl::Apply(_) => OnDdl::Stop,
        },
        stored_code: flow.stored_code.clone(),
        renamed: mesh.renames(&log.store),
        whole: flow.routing.order == Order::Transaction,
        own_log: own_log(&mesh, &log, &to)?,
        others: others(&mesh, &log, &to)?,
        road,
    };
    let listener = Arc::new(Faults { log, meters: meters.clone(), board });
    flow::run(Arc::new(way), meters.sinks(), listener, cancel).await
}

/// The road of a log into a unit.
pub async fn road(mesh: &Mesh, log: &Log, to: &Name) -> Result<Road, Fault> {
    let broker = mesh.unit(mesh.read_at(log))?.broker.clone();
    let own = &mesh.unit(to)?.broker;
    let topic = mesh.topics.tagged(log);
    Ok(Road {
        topic_id: ensure_same_topic(&broker, &topic, None).await?,
        topic,
        group: mesh.topics.group(log, to),
        flow: Topics::flow(log, to),
        quarantine: Arc::new(Quarantine::open(own, &mesh.topics.quarantine(to))?),
        control: (own.clone(), mesh.topics.control(to)),
        log: log.clone(),
        to: to.clone(),
        broker,
    })
}

/// The target unit's own log of the same store, where one is captured.
fn own_log(mesh: &Mesh, log: &Log, to: &Name) -> Result<Option<Arc<OwnLog<OwnRows>>>, Fault> {
    let own = Log { unit: to.clone(), store: log.store.clone() };
    if !mesh.logs().any(|(known, _)| known == own) {
        return Ok(None);
    }
    let rows = OwnRows {
        store: mesh.store(to, &log.store)?.clone(),
        rename: mesh.rename(to, &log.store)?.clone(),
    };
    Ok(Some(OwnLog::new(own_place(mesh, log, own)?, rows)))
}

/// Where a unit's own log is found, by which copies of another one are judged there.
pub fn own_place(mesh: &Mesh, copied: &Log, own: Log) -> Result<Place, Fault> {
    Ok(Place {
        broker: mesh.unit(&own.unit)?.broker.clone(),
        topic: mesh.topics.captured(&own),
        copied: copied.clone(),
        log: own,
    })
}

/// The other logs that are applied to the same store of the unit.
fn others(mesh: &Mesh, log: &Log, to: &Name) -> Result<Vec<Other>, Fault> {
    let others = mesh.logs_to(to).filter(|(other, _)| other.store == log.store && other != log);
    others
        .map(|(log, _)| {
            let broker = mesh.unit(mesh.read_at(&log))?.broker.clone();
            let (flow, group) = (Topics::flow(&log, to), mesh.topics.group(&log, to));
            Ok(Other { topic: mesh.topics.tagged(&log), broker, flow, group, log })
        })
        .collect()
}

/// Passes on what lanes report.
pub struct Faults {
    pub log: Log,
    pub meters: Meters,
    pub board: Arc<Board>,
}

impl Listener for Faults {
    fn fault(&self, lane: i32, fault: &Fault) {
        let name = format!("sink {} lane {lane}", self.log);
        self.meters.fault(&name, fault.code);
        if !fault.is_retry() {
            self.board.fault(&name, fault);
        }
    }
}
