//! `kill -9` of a sink at a bad moment.

use std::time::Duration;

use tokio::time::sleep;
use unitflow_change::Fault;

use crate::demo::load::Tally;
use crate::demo::local;
use crate::demo::scene::Scene;
use crate::demo::screen::LoadBars;
use crate::demo::watch::Watch;
use crate::demo::{WAYS, unit::Unit};

/// The moment is bad when more rows than this are on their way to the sink.
const BEHIND_MIN: u64 = 1_000;
/// The way whose sink is killed, of [`WAYS`].
const WAY: usize = 0;
const SINK: &str = "B-sink";

/// What was done.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    /// The process.
    pub pid: u32,
    /// How many rows were committed at the source and not at the target when it was killed.
    pub behind: u64,
    /// It kept up so well that it had to be frozen before.
    pub frozen: bool,
}

/// Kills the sink of unit B in the midst of the load while it is far behind, and starts it again. A sink that is not far
/// behind by a third of the load is frozen until it is.
pub async fn kill_a_sink(
    scene: &Scene,
    watch: &Watch,
    tally: &Tally,
    rows: u64,
    bars: &LoadBars,
) -> Result<Crash, Fault> {
    let sink = scene.worker(SINK)?;
    let [from, to] = [&scene.units()[WAYS[WAY].0], &scene.units()[WAYS[WAY].1]];
    let mut frozen = false;
    loop {
        let inserted = tally.of(WAYS[WAY].0).inserted;
        if !frozen && inserted > rows / 3 {
            sink.program.suspend().await.map_err(local)?;
            frozen = true;
        }
        if inserted > rows / 5 && watch.behind(WAY) > BEHIND_MIN {
            let behind = count_behind(tally, from, to).await?;
            if behind > BEHIND_MIN {
                let pid = sink.crash().await?;
                let crash = Crash { pid, behind, frozen };
                bars.say(&crash);
                return Ok(crash);
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Counted now, not a moment ago. What is committed meanwhile is not counted as behind.
async fn count_behind(tally: &Tally, from: &Unit, to: &Unit) -> Result<u64, Fault> {
    let committed = tally.of(WAYS[WAY].0).rows();
    Ok(committed.saturating_sub(to.rows_of(from.name).await?))
}
