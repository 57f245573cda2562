//! A worker whose role another one took over waits until that one is gone.
//!
//! Whoever has a role stores its state at least every [`ALIVE_EVERY`], even if nothing changed. A
//! state that stands for [`GONE_AFTER`] has no worker: whoever sees it takes the role over, and the
//! fence makes sure that there is only one.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::{Code, Fault};
use unitflow_kafka::topics;

use crate::config::Mesh;
use crate::supervisor::Begin;

/// How often a state is stored at least.
pub const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// After how long without a new state its worker is gone.
pub const GONE_AFTER: Duration = Duration::from_secs(7);
/// How often a worker that stands by looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Whether a worker has this role: its state is stored anew while it is looked at. Takes a few seconds
/// where none has.
pub async fn is_worked_on(mesh: &Mesh, at: &Name, log: &Log, stage: Stage) -> Result<bool, Fault> {
    let broker = &mesh.unit(at)?.broker;
    let topic = mesh.topics.position(log);
    let end = async || match topics::bounds(broker, &topic, stage.partition()).await {
        Ok((_, end)) => Ok(end),
        // Without a topic no stage works.
        Err(fault) if fault.code == Code::TopicMissing => Ok(0),
        Err(fault) => Err(fault),
    };
    let (first, since) = (end().await?, Instant::now());
    while since.elapsed() < GONE_AFTER {
        if end().await? != first {
            return Ok(true);
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(false)
}

impl Begin {
    /// Returns when the role may be taken over: at once, unless another worker has it.
    pub async fn stand_by(
        self,
        mesh: &Mesh,
        at: &Name,
        log: &Log,
        stage: Stage,
    ) -> Result<(), Fault> {
        if self == Self::AtOnce {
            return Ok(());
        }
        info!("another worker has this role; standing by");
        let broker = &mesh.unit(at)?.broker;
        let topic = mesh.topics.position(log);
        let (mut end, mut since) = (-1, Instant::now());
        while since.elapsed() < GONE_AFTER {
            let (_, now) = topics::bounds(broker, &topic, stage.partition()).await?;
            if now != end {
                (end, since) = (now, Instant::now());
            }
            sleep(LOOK_EVERY).await;
        }
        info!("the other worker is gone; taking over");
        Ok(())
    }
}
