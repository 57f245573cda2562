//! The sink's worker of a Redis log: its way into this unit.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use unitflow_change::Fault;
use unitflow_change::name::{Log, Name};
use unitflow_sinks::copy::own_log::OwnLog;
use unitflow_sinks::flow;
use unitflow_sinks::redis::lane::Way;
use unitflow_sinks::redis::own_keys::OwnKeys;

use crate::config::Mesh;
use crate::notice::Board;
use crate::pipeline::sink::{Faults, own_place, road};
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
    let store = mesh.cache(&to, &log.store)?.clone();
    let applied = lanes_into(&mesh, &to, &log.store);
    let way = Way {
        road: road(&mesh, &log, &to).await?,
        own_log: own_log(&mesh, &log, &to)?,
        applied,
        store,
    };
    let instruments = meters.sinks();
    let listener = Arc::new(Faults { log, meters, board });
    flow::run(Arc::new(way), instruments, listener, cancel).await
}

/// The lanes of all logs that are applied to a unit's store of this name.
pub fn lanes_into(mesh: &Mesh, to: &Name, store: &Name) -> Vec<(Log, i32)> {
    let logs = mesh.cache_ways().filter(|(log, unit)| unit == to && log.store == *store);
    logs.flat_map(|(log, _)| (0..mesh.lanes(&log)).map(move |lane| (log.clone(), lane))).collect()
}

/// The target unit's own log of the same store, where one is captured.
fn own_log(mesh: &Mesh, log: &Log, to: &Name) -> Result<Option<Arc<OwnLog<OwnKeys>>>, Fault> {
    let own = Log { unit: to.clone(), store: log.store.clone() };
    if !mesh.cache_logs().any(|(known, _)| known == own) {
        return Ok(None);
    }
    let applied = mesh.cache_ways().filter(|(other, unit)| unit == to && other.store == log.store);
    let applied = applied.map(|(log, _)| (mesh.lanes(&log), log)).map(|(lanes, log)| (log, lanes));
    let keys = OwnKeys::new(mesh.cache(to, &log.store)?.clone(), applied.collect());
    Ok(Some(OwnLog::new(own_place(mesh, log, own)?, keys)))
}
