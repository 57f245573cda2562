//! A log of which a stage lacks what it has to read next: its store has purged it, or retention took it.
//!
//! What is gone holds changes of any table, for every unit that the log flows to. The log goes on behind
//! it, and a copy of all tables to all of these units brings what it held. Until then no unit takes for
//! seen what it was let pass over, and none copies to the log's own unit what may be older.

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};
use tracing::{info, warn};
use unitflow_change::name::Stage;
use unitflow_change::position::Position;
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault};
use unitflow_mysql::connect::Server;
use unitflow_sinks::copy::{known, passed};
use unitflow_sinks::ledger;

use super::copy;
use super::plan::Plan;
use super::turn::{self, Onward};
use crate::bridge::{self, Bridge};
use crate::output::say;
use crate::pipeline::{ConnectorState, TransformerState, ensure_goes_on, load_state};

/// Which stage can't go on.
pub struct Broken {
    state: ConnectorState,
    /// The last record before what is gone.
    stands: Seq,
    connector: bool,
    transformer: bool,
}

impl Broken {
    /// None where both can.
    pub async fn find(plan: &Plan<'_>) -> Result<Option<Self>, Fault> {
        let (mesh, log) = (plan.mesh, &plan.log);
        let state = copy::state(mesh, log).await?;
        let store = mesh.store(&log.unit, &log.store)?;
        let connector = match ensure_goes_on(mesh, log, store).await {
            Ok(()) => false,
            Err(fault) if fault.code == Code::PositionPurged => {
                warn!("{}", fault.what);
                true
            }
            Err(fault) => {
                return Err(bridge::of_stage(fault, &log.unit, bridge::targets(mesh, log)));
            }
        };
        let broker = &mesh.unit(&log.unit)?.broker;
        let reads: Option<TransformerState> =
            load_state(broker, &mesh.topics, log, Stage::Transformer).await?;
        let reach = bridge::of_captured(mesh, log, reads.as_ref(), state.seq).await?;
        let transformer = reach == Bridge::Gone;
        let stands = match transformer {
            true => reads.map_or(Seq::NONE, |reads| reads.function.seq),
            false => state.seq,
        };
        Ok((connector || transformer).then_some(Self { state, stands, connector, transformer }))
    }

    /// Whether the plan brings all that may be gone.
    pub fn ensure_whole(&self, plan: &Plan<'_>, all_tables: bool) -> Result<(), Fault> {
        let log = &plan.log;
        if all_tables && bridge::targets(plan.mesh, log).all(|unit| plan.to.contains(unit)) {
            return Ok(());
        }
        let code = if self.connector { Code::PositionPurged } else { Code::OffsetGone };
        let what = format!(
            "what {log} has to go on with is gone, and with it changes of any table, for every unit"
        );
        let command = bridge::resync(&log.unit, None);
        Err(Fault::fatal(code, what).hint(format!("copy all tables to all units: {command}")))
    }

    /// Lets the log go on, for a copy of all tables to all units that is ordered next.
    pub async fn mend(self, plan: &Plan<'_>) -> Result<(), Fault> {
        let (mesh, log) = (plan.mesh, &plan.log);
        let mut conn = plan.connect(&log.unit).await?;
        if self.connector {
            ensure_nothing_is_prepared(&mut conn).await?;
        }
        for unit in &plan.to {
            let mut conn = plan.connect(unit).await?;
            for entry in ledger::read_all(&mut conn, log).await? {
                passed::note(&mut conn, (log, entry.lane), self.stands).await?;
            }
        }
        // Whoever stands behind the last record stands at the turn.
        known::set(&mut conn, Seq(self.state.seq.0 + 1)).await?;
        let position = match self.connector {
            true => Some(Position::after(Server::read(&mut conn).await?.executed)),
            false => None,
        };
        let _ = conn.disconnect().await;
        let from = position.as_ref().map(|position| position.done.to_string());
        let onward = Onward { position, transformer: self.transformer };
        turn::to(mesh, log, &self.state, onward).await?;
        info!(%log, from, "the log goes on; a copy of all tables brings what is gone");
        say(&format!(
            "{log} goes on behind what is gone: start the {} of unit {} again",
            self.stages(),
            log.unit
        ));
        Ok(())
    }

    fn stages(&self) -> &'static str {
        match (self.connector, self.transformer) {
            (true, true) => "connector and the transformer",
            (true, false) => "connector",
            _ => "transformer",
        }
    }
}

/// The rows of a transaction that is prepared now, and committed later, stand in no log that is read.
async fn ensure_nothing_is_prepared(conn: &mut Conn) -> Result<(), Fault> {
    let found: Result<Vec<Row>, _> = conn.query("XA RECOVER").await;
    let prepared = found.unwrap_or_else(|error| {
        // It takes a right of its own, which is asked of nobody.
        warn!("XA RECOVER can't be looked at, so see that nothing is prepared: {error}");
        Vec::new()
    });
    if prepared.is_empty() {
        return Ok(());
    }
    let what =
        format!("{} XA transactions are prepared, whose rows would not be known", prepared.len());
    Err(Fault::fatal(Code::PositionPurged, what)
        .hint("commit or roll back what XA RECOVER lists, then this again"))
}
