//! Whether an outage as long as the configured one is bridged from now on.

use unitflow_change::Code;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_sinks::ledger::Entry;

use super::finding::Finding;
use crate::bridge::{self, Bridge};
use crate::config::Mesh;
use crate::pipeline::{ConnectorState, load_state};

/// A stage that is at work is behind by moments; that is no outage.
const BEHIND_SECONDS: u64 = 60;

/// What keeps the changes that a stage has still to read.
struct Keeper {
    place: String,
    code: Code,
    subject: String,
    /// What makes it keep them for longer.
    longer: String,
    /// What makes the units equal again once they are gone.
    resync: String,
}

/// What the store's binlog and the captured topic keep of a log. Where positions or servers can't be
/// had, that is a finding already.
pub(super) async fn check_log_kept(mesh: &Mesh, log: &Log) -> Vec<Finding> {
    let Ok(unit) = mesh.unit(&log.unit) else { return Vec::new() };
    let (broker, topics) = (&unit.broker, &mesh.topics);
    let loaded = load_state::<ConnectorState>(broker, topics, log, Stage::Connector).await;
    let Ok(Some(connector)) = loaded else { return Vec::new() };
    let resync = bridge::resync(&log.unit, None);
    let mut findings = Vec::new();
    if let Ok(bridge) = bridge::of_binlog(mesh, log, &connector).await {
        let keeper = Keeper {
            place: log.to_string(),
            code: Code::PositionPurged,
            subject: "binlog".to_owned(),
            longer: "raise binlog_expire_logs_seconds".to_owned(),
            resync: resync.clone(),
        };
        findings.extend(keeper.judge(mesh, bridge));
    }
    let Ok(transformer) = load_state(broker, topics, log, Stage::Transformer).await else {
        return findings;
    };
    let captured = bridge::of_captured(mesh, log, transformer.as_ref(), connector.seq).await;
    if let Ok(bridge) = captured {
        let keeper = Keeper::topic(mesh, &log.unit, topics.captured(log), log.to_string(), resync);
        findings.extend(keeper.judge(mesh, bridge));
    }
    findings.extend(check_relay_kept(mesh, log).await);
    findings
}

/// What the tagged topic at its origin keeps of a log for the hub of a star.
async fn check_relay_kept(mesh: &Mesh, log: &Log) -> Option<Finding> {
    if mesh.read_at(log) == &log.unit {
        return None;
    }
    let bridge = bridge::of_relay(mesh, log).await.ok()?;
    let anew = "let the log begin anew".to_owned();
    let tagged = mesh.topics.tagged(log);
    Keeper::topic(mesh, &log.unit, tagged, format!("relay of {log}"), anew).judge(mesh, bridge)
}

/// What the tagged topic keeps of a log for a unit, of the lane that has the least.
pub(super) async fn check_lanes_kept(
    mesh: &Mesh,
    log: &Log,
    to: &Name,
    entries: &[Entry],
) -> Option<Finding> {
    let bridges = bridge::of_lanes(mesh, log, entries).await.ok()?;
    let (lane, least) = (0..).zip(bridges).min_by_key(|(_, bridge)| *bridge)?;
    let subject = format!("{}, lane {lane}", mesh.topics.tagged(log));
    let resync = bridge::resync(&log.unit, Some(to));
    let keeper = Keeper::topic(mesh, mesh.read_at(log), subject, format!("{log} to {to}"), resync);
    keeper.judge(mesh, least)
}

impl Keeper {
    fn topic(mesh: &Mesh, at: &Name, subject: String, place: String, resync: String) -> Self {
        let name = subject.split(',').next().unwrap_or_default();
        let longer = format!(
            "raise retention.ms: kafka-configs --bootstrap-server {} --alter --topic {name} --add-config retention.ms=…",
            mesh.units[at].broker.bootstrap
        );
        Self { place, code: Code::OffsetGone, subject, longer, resync }
    }

    fn judge(self, mesh: &Mesh, bridge: Bridge) -> Option<Finding> {
        let longest = mesh.outage_longest.as_secs();
        let Self { place, code, subject, longer, resync } = self;
        let finding = Finding::new(&place, code, subject);
        let text = |seconds| Bridge::Seconds(seconds).text();
        match bridge {
            Bridge::Gone => Some(
                finding
                    .expected("what has still to be read", "it was removed")
                    .remedy(format!("{resync}; see the runbook")),
            ),
            Bridge::Seconds(left) if left.saturating_add(BEHIND_SECONDS) < longest => Some(
                finding
                    .expected(
                        format!("an outage of {} from now on is bridged", text(longest)),
                        format!(
                            "{}: older than that what has still to be read is removed",
                            text(left)
                        ),
                    )
                    .remedy(format!("start what is behind (unitflow status), or {longer}"))
                    .warning(),
            ),
            Bridge::Seconds(_) | Bridge::Unlimited => None,
        }
    }
}
