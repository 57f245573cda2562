//! The roles of `run`, one file each, in the order in which a change meets them.

mod connector;
mod copier;
mod grouping;
mod heartbeat;
pub mod redis;
mod relay;
mod sink;
mod stand_by;
mod state;
mod transformer;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use unitflow_change::name::Name;
use unitflow_change::{Code, Fault};
use unitflow_kafka::broker::Broker;

use crate::Outcome;
use crate::bridge;
use crate::cli::{Role, RunArgs};
use crate::config::{Mesh, Topology};
use crate::notice::Board;
use crate::supervisor::Supervisor;
use crate::telemetry::{self, Meters};

pub use connector::ensure_goes_on;
pub use copier::Scan;
pub use stand_by::{GONE_AFTER, is_worked_on};
pub use state::{
    BinlogReader, ConnectorState, RelayState, TransformerState, ensure_same_topic, ensure_tail,
    load as load_state, look as look_at_state, require,
};

/// Runs the named roles of one unit until the process is told to stop.
pub async fn run(mesh: Mesh, args: &RunArgs) -> Result<Outcome, Fault> {
    let unit = mesh.unit(&args.unit)?;
    if !has_work(&mesh, args) {
        return Err(Fault::fatal(
            Code::Config,
            format!("unit {} has nothing to do in these roles", args.unit),
        )
        .hint("see the flows of this unit and --role"));
    }
    let address = args.prometheus.as_ref().or(mesh.telemetry.prometheus.as_ref());
    let (meter, server) = telemetry::serve_metrics(address).await?;
    let cancel = CancellationToken::new();
    cancel_on_signal(cancel.clone())?;
    let topic = mesh.topics.heartbeat(&args.unit);
    ensure_notice_topic(&unit.broker, &topic).await?;
    let board = Arc::new(Board::open(&unit.broker, &topic)?);
    let mesh = Arc::new(mesh);
    let meters = Meters::new(&meter);
    let mut supervisor = Supervisor::new(cancel, board.clone(), meters.clone());
    let added = add_roles(&mut supervisor, &mesh, args, &meters, &board);
    let measure = bridge::measure(mesh, args.unit.clone(), args.role.clone(), meters);
    let _measure = AbortOnDropHandle::new(tokio::spawn(measure));
    info!(unit = %args.unit, roles = added, "running");
    let result = supervisor.wait().await;
    board.close().await;
    drop(server);
    result.map(|()| Outcome::Fine)
}

fn wanted(args: &RunArgs, role: Role) -> bool {
    args.role.is_empty() || args.role.contains(&role)
}

fn has_work(mesh: &Mesh, args: &RunArgs) -> bool {
    let captures = mesh.all_logs().any(|log| log.unit == args.unit);
    let applies = mesh.logs_to(&args.unit).next().is_some()
        || mesh.cache_ways().any(|(_, to)| to == args.unit);
    (captures && (wanted(args, Role::Connector) || wanted(args, Role::Transformer)))
        || (wanted(args, Role::Relay) && relayed_at(mesh, &args.unit).next().is_some())
        || (wanted(args, Role::Sink) && applies)
}

/// A broker that creates topics by itself would make one from the first notice, as none should be.
async fn ensure_notice_topic(broker: &Broker, topic: &str) -> Result<(), Fault> {
    match ensure_same_topic(broker, topic, None).await {
        Err(fault) if fault.is_retry() => {
            warn!(code = %fault.code, "{}", fault.what);
            Ok(())
        }
        outcome => outcome.map(drop),
    }
}

fn add_roles(
    supervisor: &mut Supervisor,
    mesh: &Arc<Mesh>,
    args: &RunArgs,
    meters: &Meters,
    board: &Arc<Board>,
) -> usize {
    let wanted = |role| wanted(args, role);
    let unit = &args.unit;
    let mut added = 0;
    let own = mesh.logs().filter(|(log, _)| log.unit == *unit);
    for log in own.map(|(log, _)| log) {
        if wanted(Role::Connector) {
            let (mesh, meters, log) = (mesh.clone(), meters.clone(), log.clone());
            supervisor.add(format!("connector {log}"), move |begin, cancel| {
                connector::run(mesh.clone(), log.clone(), meters.clone(), begin, cancel)
            });
            added += 1;
        }
        if wanted(Role::Transformer) {
            let (mesh, meters) = (mesh.clone(), meters.clone());
            supervisor.add(format!("transformer {log}"), move |begin, cancel| {
                transformer::run(mesh.clone(), log.clone(), meters.clone(), begin, cancel)
            });
            added += 1;
        }
    }
    for log in relayed_at(mesh, unit) {
        if wanted(Role::Relay) {
            let (mesh, meters) = (mesh.clone(), meters.clone());
            supervisor.add(format!("relay {log}"), move |begin, cancel| {
                relay::run(mesh.clone(), log.clone(), meters.clone(), begin, cancel)
            });
            added += 1;
        }
    }
    for (log, _) in mesh.logs_to(unit) {
        if wanted(Role::Sink) {
            let (mesh, meters, board) = (mesh.clone(), meters.clone(), board.clone());
            let unit = unit.clone();
            supervisor.add(format!("sink {log}"), move |_, cancel| {
                sink::run(
                    mesh.clone(),
                    log.clone(),
                    unit.clone(),
                    meters.clone(),
                    board.clone(),
                    cancel,
                )
            });
            added += 1;
        }
    }
    added + add_redis_roles(supervisor, mesh, args, meters, board)
}

fn add_redis_roles(
    supervisor: &mut Supervisor,
    mesh: &Arc<Mesh>,
    args: &RunArgs,
    meters: &Meters,
    board: &Arc<Board>,
) -> usize {
    let unit = &args.unit;
    let mut added = 0;
    for log in mesh.cache_logs().map(|(log, _)| log).filter(|log| log.unit == *unit) {
        if wanted(args, Role::Connector) {
            let (mesh, meters, log) = (mesh.clone(), meters.clone(), log.clone());
            supervisor.add(format!("connector {log}"), move |begin, cancel| {
                redis::connector::run(mesh.clone(), log.clone(), meters.clone(), begin, cancel)
            });
            added += 1;
        }
        if wanted(args, Role::Transformer) {
            let (mesh, meters) = (mesh.clone(), meters.clone());
            supervisor.add(format!("transformer {log}"), move |begin, cancel| {
                redis::transformer::run(mesh.clone(), log.clone(), meters.clone(), begin, cancel)
            });
            added += 1;
        }
    }
    for (log, _) in mesh.cache_ways().filter(|(_, to)| to == unit) {
        if wanted(args, Role::Sink) {
            let (mesh, meters, board) = (mesh.clone(), meters.clone(), board.clone());
            let to = unit.clone();
            supervisor.add(format!("sink {log}"), move |_, cancel| {
                let (mesh, meters, board) = (mesh.clone(), meters.clone(), board.clone());
                redis::sink::run(mesh, log.clone(), to.clone(), meters, board, cancel)
            });
            added += 1;
        }
    }
    added
}

/// The logs that a unit copies into its own Kafka for others.
pub fn relayed_at<'a>(
    mesh: &'a Mesh,
    unit: &Name,
) -> impl Iterator<Item = unitflow_change::Log> + 'a {
    let hub = matches!(&mesh.topology, Topology::Star(hub) if hub == unit).then(|| unit.clone());
    mesh.all_logs().filter(move |log| hub.as_ref().is_some_and(|hub| log.unit != *hub))
}

fn cancel_on_signal(cancel: CancellationToken) -> Result<(), Fault> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind).map_err(|error| Fault::fatal(Code::Local, format!("no signals: {error}")))
    };
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping");
        cancel.cancel();
    });
    Ok(())
}
