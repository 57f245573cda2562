//! How long an outage can be bridged: for how long from now on binlogs and topics keep what a stage
//! has still to read, and whether it is gone already.
//!
//! A stage that keeps up has the whole time that is configured; one that was away has used up a part
//! of it. `check` compares that with the longest outage, `status` shows it, workers measure it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;
use tracing::debug;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::seq::{Seq, Step, step};
use unitflow_change::tag::{HEADER, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::kept::{self as topic, Kept};
use unitflow_kafka::{Broker, topics};
use unitflow_mysql::connect::connect;
use unitflow_mysql::kept::{self as binlog, kept as kept_by_server};
use unitflow_sinks::ledger::{self, Entry};

use crate::cli::Role;
use crate::config::Mesh;
use crate::pipeline::{ConnectorState, RelayState, TransformerState, load_state, relayed_at};
use crate::telemetry::Meters;

/// How often workers measure.
const MEASURE_EVERY: Duration = Duration::from_secs(60);
/// How long one measurement may take.
const MEASURE_WITHIN: Duration = Duration::from_secs(20);
/// How long a sink that begins looks whether it can go on.
const ENSURE_WITHIN: Duration = Duration::from_secs(5);

/// For how long from now on a stage may be away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bridge {
    /// For no time: what it has to read next was removed.
    Gone,
    /// For this long.
    Seconds(u64),
    /// Nothing removes what it has to read, but a person or a full disk.
    Unlimited,
}

impl Bridge {
    /// In words: `71 h`.
    pub fn text(self) -> String {
        match self {
            Self::Gone => "GONE".to_owned(),
            Self::Unlimited => "no limit".to_owned(),
            Self::Seconds(seconds) => match seconds {
                0..120 => format!("{seconds} s"),
                120..7_200 => format!("{} min", seconds / 60),
                7_200..345_600 => format!("{} h", seconds / 3_600),
                _ => format!("{} d", seconds / 86_400),
            },
        }
    }

    fn seconds(self) -> f64 {
        match self {
            Self::Gone => 0.0,
            Self::Seconds(seconds) => seconds as f64,
            Self::Unlimited => f64::INFINITY,
        }
    }
}

/// The outage of a log's connector that its store's binlog bridges.
pub async fn of_binlog(mesh: &Mesh, log: &Log, state: &ConnectorState) -> Result<Bridge, Fault> {
    let store = mesh.store(&log.unit, &log.store)?;
    Ok(match kept_by_server(store, &state.position.done).await? {
        binlog::Kept::For(left) => Bridge::Seconds(left.as_secs()),
        binlog::Kept::Always => Bridge::Unlimited,
        binlog::Kept::Gone => Bridge::Gone,
    })
}

/// The outage of a log's transformer that its captured topic bridges. `tail`: the connector's last
/// record.
pub async fn of_captured(
    mesh: &Mesh,
    log: &Log,
    state: Option<&TransformerState>,
    tail: Seq,
) -> Result<Bridge, Fault> {
    let place = state.map(|state| (state.function.offset, state.function.seq));
    of_captured_from(mesh, log, place, tail).await
}

/// The same for a transformer that has this offset to read next, behind this record.
pub async fn of_captured_from(
    mesh: &Mesh,
    log: &Log,
    place: Option<(i64, Seq)>,
    tail: Seq,
) -> Result<Bridge, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let at = place.map_or(At::START, |(offset, seq)| At { partition: 0, offset, seq });
    let found = of_topic(broker, &mesh.topics.captured(log), &[at], &[tail]).await?;
    Ok(found.into_iter().min().unwrap_or(Bridge::Unlimited))
}

/// The outage of each lane of a log's sink that the topic it reads bridges, in the order of the
/// ledger's rows.
pub async fn of_lanes(mesh: &Mesh, log: &Log, entries: &[Entry]) -> Result<Vec<Bridge>, Fault> {
    let broker = &mesh.unit(mesh.read_at(log))?.broker;
    let places: Vec<At> = entries
        .iter()
        .map(|entry| At { partition: entry.lane, offset: entry.topic_offset, seq: entry.seq })
        .collect();
    let tails = tails(mesh, log).await.unwrap_or_default();
    of_topic(broker, &mesh.topics.tagged(log), &places, &tails).await
}

/// A lane whose next record was removed.
#[derive(Clone, Copy, Debug)]
pub struct Bereft {
    /// The lane.
    pub lane: i32,
    /// The last record it has applied.
    pub stands: Seq,
    /// What stands before the first record that is still there.
    pub before: Seq,
    /// The offset of that record, or of the next one to come.
    pub offset: i64,
}

/// Those lanes of a log's sink whose next record was removed from the topic.
pub async fn bereft(mesh: &Mesh, log: &Log, entries: &[Entry]) -> Result<Vec<Bereft>, Fault> {
    let broker = &mesh.unit(mesh.read_at(log))?.broker;
    let topic = mesh.topics.tagged(log);
    let tails = tails(mesh, log).await?;
    let mut found = Vec::new();
    for Entry { lane, seq, topic_offset, .. } in entries {
        let at = At { partition: *lane, offset: *topic_offset, seq: *seq };
        let tail = usize::try_from(*lane).ok().and_then(|lane| tails.get(lane)).copied();
        let Some(kept) = topic::kept(broker, &topic, &[(*lane, *topic_offset)]).await?.pop() else {
            continue;
        };
        if !is_gone(&at, &kept, tail)? {
            continue;
        }
        let (before, offset) = match &kept.next {
            Some(record) => {
                (Tag::parse(record.header(HEADER).unwrap_or_default())?.prev, record.offset)
            }
            None => (tail.unwrap_or(*seq), kept.low),
        };
        found.push(Bereft { lane: *lane, stands: *seq, before, offset });
    }
    Ok(found)
}

/// The outage of the hub's relay of a log that the topic at its origin bridges.
pub async fn of_relay(mesh: &Mesh, log: &Log) -> Result<Bridge, Fault> {
    let hub = &mesh.unit(mesh.read_at(log))?.broker;
    let state: Option<RelayState> = load_state(hub, &mesh.topics, log, Stage::Relay).await?;
    let Some(state) = state else { return Ok(Bridge::Unlimited) };
    let places: Vec<At> = (0..)
        .zip(state.offsets.iter().zip(&state.tails))
        .map(|(partition, (&offset, &seq))| At { partition, offset, seq })
        .collect();
    let broker = &mesh.unit(&log.unit)?.broker;
    let found = of_topic(broker, &mesh.topics.tagged(log), &places, &[]).await?;
    Ok(found.into_iter().min().unwrap_or(Bridge::Unlimited))
}

/// Where a stage stands in a partition: the offset to read next, and the last record it has read.
#[derive(Clone, Copy)]
struct At {
    partition: i32,
    offset: i64,
    seq: Seq,
}

impl At {
    /// Before the first record.
    const START: Self = Self { partition: 0, offset: 0, seq: Seq::NONE };
}

async fn of_topic(
    broker: &Broker,
    topic: &str,
    places: &[At],
    tails: &[Seq],
) -> Result<Vec<Bridge>, Fault> {
    let offsets: Vec<(i32, i64)> = places.iter().map(|at| (at.partition, at.offset)).collect();
    let found = topic::kept(broker, topic, &offsets).await?;
    let tail_of = |at: &At| tails.get(usize::try_from(at.partition).unwrap_or(usize::MAX));
    let bridge = |(at, kept): (&At, Kept)| match is_gone(at, &kept, tail_of(at).copied())? {
        true => Ok(Bridge::Gone),
        false => Ok(kept.left.map_or(Bridge::Unlimited, |left| Bridge::Seconds(left.as_secs()))),
    };
    places.iter().zip(found).map(bridge).collect()
}

/// Whether records are missing between where a stage stands and what is there. Where retention took
/// what the stage has read, nothing is.
fn is_gone(at: &At, kept: &Kept, tail: Option<Seq>) -> Result<bool, Fault> {
    if at.offset >= kept.low {
        return Ok(false);
    }
    match &kept.next {
        Some(record) => {
            let tag = Tag::parse(record.header(HEADER).unwrap_or_default())?;
            Ok(step(at.seq, tag.seq, tag.prev) == Step::Gap)
        }
        None => Ok(tail.is_some_and(|tail| tail > at.seq)),
    }
}

/// The last record of each lane in the topic that sinks read, as its writer stored it.
async fn tails(mesh: &Mesh, log: &Log) -> Result<Vec<Seq>, Fault> {
    let at = mesh.read_at(log);
    let broker = &mesh.unit(at)?.broker;
    if *at == log.unit {
        let state: Option<TransformerState> =
            load_state(broker, &mesh.topics, log, Stage::Transformer).await?;
        return Ok(state.map(|state| state.function.tails).unwrap_or_default());
    }
    let state: Option<RelayState> = load_state(broker, &mesh.topics, log, Stage::Relay).await?;
    Ok(state.map(|state| state.tails).unwrap_or_default())
}

/// Whether each lane of a sink that begins can be gone on with. Where a topic lost all that a lane
/// had still to read, no record comes that would show it. What can't be asked in time is left to the
/// next record.
pub async fn ensure_kept(mesh: &Mesh, log: &Log, to: &Name) -> Result<(), Fault> {
    match timeout(ENSURE_WITHIN, lost_lane(mesh, log, to)).await {
        Ok(Ok(Some(lost))) => Err(of_lane(lost, &log.unit, to)),
        _ => Ok(()),
    }
}

async fn lost_lane(mesh: &Mesh, log: &Log, to: &Name) -> Result<Option<Fault>, Fault> {
    let tails = tails(mesh, log).await?;
    let mut conn = connect(mesh.store(to, &log.store)?).await?;
    let entries = ledger::read_all(&mut conn, log).await;
    let _ = conn.disconnect().await;
    let (broker, topic) = (&mesh.unit(mesh.read_at(log))?.broker, mesh.topics.tagged(log));
    for entry in &entries? {
        let (low, high) = topics::bounds(broker, &topic, entry.lane).await?;
        let tail = tails.get(usize::try_from(entry.lane).unwrap_or(usize::MAX));
        if low == high && entry.topic_offset < low && tail.is_some_and(|tail| *tail > entry.seq) {
            let what = format!(
                "{topic}[{}]: offset {} is gone, the topic begins at {low}; records after {} are not applied",
                entry.lane, entry.topic_offset, entry.seq
            );
            return Ok(Some(Fault::fatal(Code::OffsetGone, what)));
        }
    }
    Ok(None)
}

/// What makes a unit equal again that missed something of another; all units, where none is named.
pub fn resync(from: &Name, to: Option<&Name>) -> String {
    let to = to.map(|to| format!(" --to {to}")).unwrap_or_default();
    format!("unitflow resync full --from {from}{to} --why …")
}

/// Where what a lane was to read is gone, says which command mends that.
pub fn of_lane(fault: Fault, unit: &Name, to: &Name) -> Fault {
    match fault.code {
        Code::OffsetGone => {
            let command = resync(unit, Some(to));
            fault.hint(format!("{command}, see the runbook; then raise the topic's retention"))
        }
        _ => fault,
    }
}

/// The same for a stage that all units depend on.
pub fn of_stage<'a>(fault: Fault, unit: &Name, to: impl IntoIterator<Item = &'a Name>) -> Fault {
    let keep = match fault.code {
        Code::OffsetGone => "then raise the topic's retention",
        Code::SourceLostTail => {
            let from = to.into_iter().next().map_or("…", |other| other.as_str());
            let hint = format!(
                "if another server of this store still has these, fail over to it; else unitflow resync lost {unit} --from {from} --why … lists what the others hold (--dry-run) and gives it back, see the runbook"
            );
            return fault.hint(hint);
        }
        Code::PositionPurged => "or put the log files back; then raise binlog_expire_logs_seconds",
        _ => return fault,
    };
    fault.hint(format!("{}, see the runbook; {keep}", resync(unit, None)))
}

/// The units that a log travels to.
pub fn targets<'a>(mesh: &'a Mesh, log: &'a Log) -> impl Iterator<Item = &'a Name> {
    mesh.flows[&log.store].to.iter().filter(|to| **to != log.unit)
}

/// Measures for ever what the roles of a worker may miss.
pub async fn measure(mesh: Arc<Mesh>, unit: Name, roles: Vec<Role>, meters: Meters) {
    loop {
        let measured = timeout(MEASURE_WITHIN, measure_once(&mesh, &unit, &roles, &meters)).await;
        match measured {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => debug!(%fault, "the bridged outage is not measured"),
            Err(_) => debug!("the bridged outage is not measured in time"),
        }
        tokio::time::sleep(MEASURE_EVERY).await;
    }
}

async fn measure_once(
    mesh: &Mesh,
    unit: &Name,
    roles: &[Role],
    meters: &Meters,
) -> Result<(), Fault> {
    let has = |role| roles.is_empty() || roles.contains(&role);
    for (log, _) in mesh.logs().filter(|(log, _)| log.unit == *unit) {
        let broker = &mesh.unit(unit)?.broker;
        let connector: Option<ConnectorState> =
            load_state(broker, &mesh.topics, &log, Stage::Connector).await?;
        let Some(connector) = connector else { continue };
        if has(Role::Connector) {
            let bridge = of_binlog(mesh, &log, &connector).await?;
            meters.bridge(&log, unit, "binlog", bridge.seconds());
        }
        if has(Role::Transformer) {
            let state = load_state(broker, &mesh.topics, &log, Stage::Transformer).await?;
            let bridge = of_captured(mesh, &log, state.as_ref(), connector.seq).await?;
            meters.bridge(&log, unit, "captured", bridge.seconds());
        }
    }
    for log in relayed_at(mesh, unit).filter(|_| has(Role::Relay)) {
        let bridge = of_relay(mesh, &log).await?;
        meters.bridge(&log, unit, "relayed", bridge.seconds());
    }
    for (log, _) in mesh.logs_to(unit).filter(|_| has(Role::Sink)) {
        let mut conn = connect(mesh.store(unit, &log.store)?).await?;
        let entries = ledger::read_all(&mut conn, &log).await?;
        let _ = conn.disconnect().await;
        if let Some(least) = of_lanes(mesh, &log, &entries).await?.into_iter().min() {
            meters.bridge(&log, unit, "tagged", least.seconds());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use unitflow_kafka::OwnedRecord;

    fn kept(low: i64, header: Option<&str>) -> Kept {
        let record = |text: &str| OwnedRecord {
            offset: low,
            next_offset: low + 1,
            key: None,
            value: None,
            headers: vec![(HEADER.to_owned(), text.as_bytes().to_vec())],
            timestamp_ms: None,
        };
        Kept { partition: 0, low, next: header.map(record), left: None }
    }

    #[test]
    fn what_was_read_may_go_and_what_was_not_is_gone() {
        let at = At { partition: 0, offset: 5, seq: Seq(8) };
        let gone = |kept: &Kept, tail| is_gone(&at, kept, tail).unwrap();
        assert!(!gone(&kept(5, Some("1;row;20;18;;0;1;0;;")), None), "it is there still");
        assert!(!gone(&kept(9, Some("1;row;20;8;;0;1;0;;")), None), "it follows");
        assert!(gone(&kept(9, Some("1;row;20;10;;0;1;0;;")), None), "10 is missing");
        assert!(!gone(&kept(9, None), Some(Seq(8))), "all was read");
        assert!(gone(&kept(9, None), Some(Seq(10))), "10 is missing, and nothing is left");
    }

    #[test]
    fn the_least_bridge_counts() {
        let all = [Bridge::Unlimited, Bridge::Seconds(5), Bridge::Gone];
        assert_eq!(all.into_iter().min(), Some(Bridge::Gone));
        assert_eq!(all.into_iter().max(), Some(Bridge::Unlimited));
    }

    #[test]
    fn the_remedy_names_the_command() {
        let [a, b] = ["A", "B"].map(|name| name.parse::<Name>().unwrap());
        let fault = of_stage(Fault::fatal(Code::PositionPurged, "x"), &a, [&b]);
        assert!(fault.hint.starts_with("unitflow resync full --from A --why …, see"), "{fault}");
        let fault = of_lane(Fault::fatal(Code::OffsetGone, "x"), &a, &b);
        assert!(fault.hint.starts_with("unitflow resync full --from A --to B --why"), "{fault}");
        assert_eq!(of_stage(Fault::fatal(Code::Gap, "x"), &a, [&b]).hint, "");
    }
}
