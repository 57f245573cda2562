//! The same for a Redis store: its stream's offset in place of GTIDs.

use redis::Value;
use tokio::time::sleep;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::{Code, Fault};
use unitflow_redis::{Client, Position};
use unitflow_sinks::redis::ledger;

use super::{LOOK_EVERY, behind};
use crate::config::Mesh;
use crate::pipeline::load_state;
use crate::pipeline::redis::{ConnectorState, TransformerState};

/// Returns once nothing is missing, and says meanwhile what is.
pub async fn follow(
    mesh: &Mesh,
    (log, to): (&Log, &Name),
    gtid: Option<&str>,
    missing: &mut String,
) -> Result<(), Fault> {
    if gtid.is_some() {
        let what = format!("--gtid names a transaction of MySQL, and {log} is of a Redis store");
        return Err(Fault::fatal(Code::Config, what));
    }
    let broker = &mesh.unit(&log.unit)?.broker;
    let goal = goal(mesh, log).await?;
    let captured = loop {
        let state: Option<ConnectorState> =
            load_state(broker, &mesh.topics, log, Stage::Connector).await?;
        let state = state.ok_or_else(|| {
            Fault::fatal(Code::PositionMissing, format!("log {log} has no position"))
                .hint("unitflow init first")
        })?;
        let position = &state.position;
        if position.history == goal.history && position.offset >= goal.offset {
            break state.seq;
        }
        sleep(LOOK_EVERY).await;
    };
    *missing = behind("transformer");
    let tails = loop {
        let state: Option<TransformerState> =
            load_state(broker, &mesh.topics, log, Stage::Transformer).await?;
        if let Some(state) = state.filter(|state| state.function.seq >= captured) {
            break state.function.tails;
        }
        sleep(LOOK_EVERY).await;
    };
    *missing = behind("sink");
    let mut client = Client::open(mesh.cache(to, &log.store)?).await?;
    loop {
        let known = ledger::read_all(&mut client, log, mesh.lanes(log)).await?;
        let reached = (0..).zip(&tails).all(|(lane, tail)| {
            known.iter().any(|(known, standing)| *known == lane && standing.seq >= *tail)
        });
        if reached {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Where the store's stream stands now.
async fn goal(mesh: &Mesh, log: &Log) -> Result<Position, Fault> {
    let mut client = Client::open(mesh.cache(&log.unit, &log.store)?).await?;
    let odd =
        || Fault::fatal(Code::StreamCorrupt, "the server does not tell where its stream stands");
    let answer = client.ask(redis::cmd("INFO").arg("replication")).await?;
    let Value::BulkString(text) = answer else { return Err(odd()) };
    let text = String::from_utf8_lossy(&text).into_owned();
    let value = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let offset = value("master_repl_offset").and_then(|offset| offset.parse().ok());
    let history = value("master_replid").ok_or_else(odd)?.to_owned();
    Ok(Position { history, offset: offset.ok_or_else(odd)?, database: 0 })
}
