//! Lag, as it is seen at the target.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use unitflow_change::Fault;

use crate::demo::WAYS;
use crate::demo::load::Tally;
use crate::demo::unit::{Unit, fault};

/// How often the age of the newest row is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After how many looks the rows are counted too.
const LOOKS_A_COUNT: u64 = 5;

/// Ages of the newest arrived row, in microseconds, the youngest first.
#[derive(Clone, Debug, Default)]
pub struct Ages(Vec<u64>);

impl Ages {
    /// The age that so many percent of the samples do not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        Duration::from_micros(self.0.get(rank).copied().unwrap_or_default())
    }

    /// How many samples there are.
    pub fn samples(&self) -> usize {
        self.0.len()
    }
}

/// Looks at both targets, over connections of its own. Dropping it ends that.
#[derive(Debug)]
pub struct Watch {
    lookers: [Looker; 2],
    tally: Tally,
}

#[derive(Debug)]
struct Looker {
    seen: Arc<Seen>,
    task: AbortOnDropHandle<Result<(), Fault>>,
}

/// What a target has of the other unit.
#[derive(Debug, Default)]
struct Seen {
    ages_us: Mutex<Vec<u64>>,
    arrived: AtomicU64,
}

impl Watch {
    /// Begins to look. `tally` knows what was committed.
    pub async fn start(units: &[Unit], tally: Tally) -> Result<Self, Fault> {
        let start = |(from, to): (usize, usize)| async move {
            let conn = units[to].connect().await?;
            let seen = Arc::new(Seen::default());
            let looking = look(conn, units[from].name, units[to].title(), seen.clone());
            Ok::<_, Fault>(Looker { seen, task: AbortOnDropHandle::new(tokio::spawn(looking)) })
        };
        let (there, back) = tokio::try_join!(start(WAYS[0]), start(WAYS[1]))?;
        Ok(Self { lookers: [there, back], tally })
    }

    /// How many rows of a way are committed at its source and not at its target; a fourth of a second old.
    pub fn behind(&self, way: usize) -> u64 {
        let committed = self.tally.of(WAYS[way].0).rows();
        committed.saturating_sub(self.lookers[way].seen.arrived.load(Ordering::Relaxed))
    }

    /// The ages seen so far, by way; a fault if one could not be looked at.
    pub async fn stop(self) -> Result<[Ages; 2], Fault> {
        let [there, back] = self.lookers;
        Ok([there.stop().await?, back.stop().await?])
    }
}

impl Looker {
    async fn stop(self) -> Result<Ages, Fault> {
        if self.task.is_finished()
            && let Ok(ended) = self.task.await
        {
            ended?;
        }
        let mut ages = self.seen.ages_us.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ages.sort_unstable();
        Ok(Ages(ages))
    }
}

async fn look(
    mut conn: Conn,
    from: &'static str,
    target: String,
    seen: Arc<Seen>,
) -> Result<(), Fault> {
    // Both servers run by this machine's clock.
    let age =
        "SELECT TIMESTAMPDIFF(MICROSECOND, MAX(written_at), NOW(6)) FROM orders WHERE unit = ?";
    let rows = Unit::count_rows();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for look in 0_u64.. {
        ticks.tick().await;
        let found = conn.exec_first(age, (from,)).await.map_err(|error| fault(&error, &target))?;
        if let Some(Some(age)) = found {
            seen.ages_us.lock().unwrap_or_else(PoisonError::into_inner).push(age);
        }
        if look % LOOKS_A_COUNT == 0 {
            let found = conn
                .exec_first(&rows, (from, from, from))
                .await
                .map_err(|error| fault(&error, &target))?;
            seen.arrived.store(found.unwrap_or_default(), Ordering::Relaxed);
        }
    }
    Ok(())
}
