//! The same of flows between Redis stores.

use unitflow_change::Fault;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::seq::Seq;
use unitflow_redis::Client;
use unitflow_sinks::ledger::Entry;
use unitflow_sinks::redis::{filling, ledger};

use super::{FillingStatus, LogStatus, captured_behind, relay_lag};
use crate::bridge;
use crate::config::Mesh;
use crate::pipeline::load_state;
use crate::pipeline::redis::{ConnectorState, TransformerState};

/// Fills in what is known of a log.
pub async fn fill_log(mesh: &Mesh, log: &Log, found: &mut LogStatus) -> Result<(), Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let connector: Option<ConnectorState> =
        load_state(broker, &mesh.topics, log, Stage::Connector).await?;
    let Some(connector) = connector else {
        found.unknown = Some("[position_missing] not initialised: unitflow init".to_owned());
        return Ok(());
    };
    let position = &connector.position;
    found.position = format!("{}:{}", position.history, position.offset);
    found.captured_seq = Some(connector.seq.0);
    let transformer: Option<TransformerState> =
        load_state(broker, &mesh.topics, log, Stage::Transformer).await?;
    let read = transformer.as_ref().map_or(Seq::NONE, |state| state.function.seq);
    found.transformer_lag_records = captured_behind(connector.seq, read);
    let place = transformer.as_ref().map(|state| (state.function.offset, state.function.seq));
    found.bridged_by_captured =
        bridge::of_captured_from(mesh, log, place, connector.seq).await.ok();
    if mesh.read_at(log) != &log.unit {
        let tails = transformer.map(|state| state.function.tails).unwrap_or_default();
        found.relay_lag_records = Some(relay_lag(mesh, log, &tails).await?);
        found.bridged_by_tagged = bridge::of_relay(mesh, log).await.ok();
    }
    Ok(())
}

/// The last record of each lane of a log's tagged topic.
pub async fn tails(mesh: &Mesh, log: &Log) -> Result<Vec<Seq>, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let state: Option<TransformerState> =
        load_state(broker, &mesh.topics, log, Stage::Transformer).await?;
    Ok(state.map(|state| state.function.tails).unwrap_or_default())
}

/// Where the lanes of a log into a unit stand.
pub async fn entries(mesh: &Mesh, log: &Log, to: &Name) -> Result<Vec<Entry>, Fault> {
    let mut client = Client::open(mesh.cache(to, &log.store)?).await?;
    let known = ledger::read_all(&mut client, log, mesh.lanes(log)).await?;
    Ok(known.iter().map(|(lane, standing)| standing.entry(*lane)).collect())
}

/// Whether a unit's store is being filled with the keys of a log's unit, and how that goes on.
pub async fn filling(mesh: &Mesh, log: &Log, to: &Name) -> Result<Vec<FillingStatus>, Fault> {
    let mut client = Client::open(mesh.cache(to, &log.store)?).await?;
    let fillers = filling::fillers(&mut client).await?;
    let of_log = fillers.into_iter().find(|(known, _)| *known == log.to_string());
    let Some((_, filler)) = of_log else { return Ok(Vec::new()) };
    let is_filled = filler.is_to(to);
    let to = filler.to.into_iter().collect::<Vec<_>>().join(",");
    let command =
        format!("unitflow resync full --from {} --store {} --to {to} --why …", log.unit, log.store);
    let command = match filler.whole {
        true => command,
        false => command.replace("resync full", "resync keys --key …"),
    };
    let unsettled = filling::count(&mut client).await?;
    // Elsewhere what comes from there is only noted.
    let table = if is_filled { log.store.to_string() } else { format!("{} of {to}", log.store) };
    Ok(vec![FillingStatus { table, unsettled, command }])
}
