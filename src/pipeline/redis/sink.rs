//! The sink's worker of a Redis log: its way into this unit.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use unitflow_change::Fault;
use unitflow_change::name::{Log, Name};
use unitflow_sinks::flow;
use unitflow_sinks::redis::lane::Way;

use crate::config::Mesh;
use crate::notice::Board;
use crate::pipeline::sink::{Faults, road};
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
    let way = Way { road: road(&mesh, &log, &to).await?, store };
    let instruments = meters.sinks();
    let listener = Arc::new(Faults { log, meters, board });
    flow::run(Arc::new(way), instruments, listener, cancel).await
}
