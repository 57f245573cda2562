//! A unit's clock, written through its store once a second: it travels like any change, so that
//! every target shows in `unitflow.lag` how far behind each unit it is.

use std::convert::Infallible;
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use tracing::warn;
use unitflow_change::name::Name;
use unitflow_change::{Code, Fault};
use unitflow_mysql::connect::{Store, connect_to_write, fault};

/// How often the clock is written.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// The pause after a failure: a store that can't be written to can still be captured.
const PAUSE: Duration = Duration::from_secs(5);

/// Writes the clock for ever. A clock that stands shows as lag in the other units.
pub async fn run(store: &Store, unit: &Name) -> Infallible {
    loop {
        match beat(store, unit).await {
            Ok(never) => match never {},
            Err(fault) => warn!(code = %fault.code, "this unit's clock stands: {}", fault.what),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn beat(store: &Store, unit: &Name) -> Result<Infallible, Fault> {
    let mut conn = connect_to_write(store).await?;
    let mut tick = tokio::time::interval(BEAT_EVERY);
    loop {
        tick.tick().await;
        conn.exec_drop(
            "UPDATE unitflow.heartbeat SET beat = beat + 1, beat_at = CURRENT_TIMESTAMP(6) WHERE unit = ?",
            (unit.as_str(),),
        )
        .await
        .map_err(|error| fault(&error).at("unitflow.heartbeat"))?;
        if conn.affected_rows() == 0 {
            return Err(Fault::fatal(
                Code::LedgerMissing,
                format!("unitflow.heartbeat has no row for unit {unit}"),
            )
            .hint("unitflow init creates it"));
        }
    }
}
