//! `unitflow status`: where every flow stands.
//!
//! Read from the positions that stages store with their records and from the ledgers, so a worker
//! that hangs shows as a position that does not move. What workers say of themselves is used for
//! the last fault only.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use unitflow_change::Fault;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_kafka::{notes, topics};
use unitflow_mysql::connect::connect;
use unitflow_sinks::ledger;

use crate::Outcome;
use crate::cli::StatusArgs;
use crate::config::Mesh;
use crate::notice::Notice;
use crate::pipeline::{ConnectorState, TransformerState, load_state};

/// Everything, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Status {
    logs: Vec<LogStatus>,
    flows: Vec<FlowStatus>,
    faults: Vec<FaultStatus>,
}

/// One log at its origin.
#[derive(Debug, Serialize)]
struct LogStatus {
    log: String,
    /// The source's transactions captured so far.
    position: String,
    /// The last captured record.
    captured_seq: Option<u64>,
    /// Captured records that the transformer has not read.
    transformer_lag_records: Option<i64>,
    /// Why a part is missing.
    unknown: Option<String>,
}

/// One log's way into one unit.
#[derive(Debug, Serialize)]
struct FlowStatus {
    log: String,
    to: String,
    lanes: Vec<LaneStatus>,
    /// Why a part is missing.
    unknown: Option<String>,
}

/// One lane, from its ledger row.
#[derive(Debug, Serialize)]
struct LaneStatus {
    lane: i32,
    seq: u64,
    /// Records in the topic that are not applied; transaction markers count as one each.
    lag_records: i64,
    /// From the source's commit to the commit here, of the last change applied.
    last_lag_seconds: Option<f64>,
    /// Since the row was last written.
    idle_seconds: f64,
}

/// A role's last fault.
#[derive(Debug, Serialize)]
struct FaultStatus {
    unit: String,
    role: String,
    /// Whether the role is tried again by itself.
    running: bool,
    code: String,
    what: String,
    hint: String,
    seconds_ago: u64,
}

/// Prints the status, once or over and over.
pub async fn run(mesh: &Mesh, args: &StatusArgs) -> Result<Outcome, Fault> {
    loop {
        let status = read(mesh).await;
        let text = if args.json { json(&status) } else { table(&status) };
        match args.watch {
            None => {
                println!("{text}");
                let stopped = status.faults.iter().any(|fault| !fault.running);
                let unknown = status.logs.iter().any(|log| log.unknown.is_some())
                    || status.flows.iter().any(|flow| flow.unknown.is_some());
                return Ok(if stopped || unknown { Outcome::Findings } else { Outcome::Fine });
            }
            Some(seconds) => {
                // Clear the screen and begin at its top.
                println!("\x1b[2J\x1b[H{text}");
                tokio::time::sleep(Duration::from_secs(seconds.max(1))).await;
            }
        }
    }
}

async fn read(mesh: &Mesh) -> Status {
    let mut status = Status { logs: Vec::new(), flows: Vec::new(), faults: Vec::new() };
    for (log, _) in mesh.logs() {
        status.logs.push(read_log(mesh, &log).await);
    }
    for (log, to, _) in mesh.ways() {
        status.flows.push(read_flow(mesh, &log, &to).await);
    }
    for unit in mesh.units.keys() {
        status.faults.extend(read_faults(mesh, unit).await.unwrap_or_default());
    }
    status
}

async fn read_log(mesh: &Mesh, log: &Log) -> LogStatus {
    let mut found = LogStatus {
        log: log.to_string(),
        position: String::new(),
        captured_seq: None,
        transformer_lag_records: None,
        unknown: None,
    };
    if let Err(fault) = fill_log(mesh, log, &mut found).await {
        found.unknown = Some(fault.to_string());
    }
    found
}

async fn fill_log(mesh: &Mesh, log: &Log, found: &mut LogStatus) -> Result<(), Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let connector: Option<ConnectorState> =
        load_state(broker, &mesh.topics, log, Stage::Connector).await?;
    let Some(connector) = connector else {
        found.unknown = Some("not initialised: unitflow init".to_owned());
        return Ok(());
    };
    found.position = connector.position.seen().to_string();
    found.captured_seq = Some(connector.seq.0);
    let transformer: Option<TransformerState> =
        load_state(broker, &mesh.topics, log, Stage::Transformer).await?;
    // Captured numbers are even and count from the generation's start.
    let read = transformer.map_or(0, |state| state.function.seq.0);
    let behind = connector.seq.0.saturating_sub(read.max(connector.seq.0 & !((1 << 48) - 1)));
    found.transformer_lag_records = i64::try_from(behind / 2).ok();
    Ok(())
}

async fn read_flow(mesh: &Mesh, log: &Log, to: &Name) -> FlowStatus {
    let lanes = read_lanes(mesh, log, to).await;
    let (lanes, unknown) = match lanes {
        Ok(lanes) => (lanes, None),
        Err(fault) => (Vec::new(), Some(fault.to_string())),
    };
    FlowStatus { log: log.to_string(), to: to.to_string(), lanes, unknown }
}

async fn read_lanes(mesh: &Mesh, log: &Log, to: &Name) -> Result<Vec<LaneStatus>, Fault> {
    let broker = &mesh.unit(mesh.read_at(log))?.broker;
    let topic = mesh.topics.tagged(log);
    let origin = &mesh.unit(&log.unit)?.broker;
    let transformer: Option<TransformerState> =
        load_state(origin, &mesh.topics, log, Stage::Transformer).await?;
    let tails = transformer.map(|state| state.function.tails).unwrap_or_default();
    let mut conn = connect(mesh.store(to, &log.store)?).await?;
    let mut lanes = Vec::new();
    for entry in ledger::read_all(&mut conn, log).await? {
        let (_, end) = topics::bounds(broker, &topic, entry.lane).await?;
        let tail = usize::try_from(entry.lane).ok().and_then(|lane| tails.get(lane));
        // Behind the last record stands the marker of its transaction.
        let lag = match tail {
            Some(tail) if entry.seq >= *tail => 0,
            _ => (end - entry.topic_offset - 1).max(1),
        };
        lanes.push(LaneStatus {
            lane: entry.lane,
            seq: entry.seq.0,
            lag_records: lag,
            last_lag_seconds: entry.lag_seconds,
            idle_seconds: entry.idle_seconds,
        });
    }
    Ok(lanes)
}

async fn read_faults(mesh: &Mesh, unit: &Name) -> Result<Vec<FaultStatus>, Fault> {
    let broker = &mesh.unit(unit)?.broker;
    let all = notes::read_all(broker, &mesh.topics.heartbeat(unit)).await?;
    let notices: Vec<Notice> =
        all.values().filter_map(|text| serde_json::from_slice(text).ok()).collect();
    let begun =
        |role: &str| notices.iter().find(|notice| notice.role == role).map(|notice| notice.at_ms);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let current = |notice: &&Notice| match notice.role.split_once(" lane ") {
        // A lane's fault ends with the restart of its role.
        Some((role, _)) => begun(role).is_none_or(|begun| begun <= notice.at_ms),
        None => true,
    };
    Ok(notices
        .iter()
        .filter(current)
        .filter_map(|notice| {
            let past = notice.fault.clone()?;
            Some(FaultStatus {
                unit: unit.to_string(),
                role: notice.role.clone(),
                running: notice.running,
                code: past.code,
                what: past.what,
                hint: past.hint,
                seconds_ago: now.saturating_sub(past.at_ms) / 1000,
            })
        })
        .collect())
}

fn json(status: &Status) -> String {
    serde_json::to_string_pretty(status).unwrap_or_default()
}

fn table(status: &Status) -> String {
    let mut logs = new_table(&["log", "captured up to", "behind: transformer"]);
    for log in &status.logs {
        let behind =
            log.transformer_lag_records.map_or("?".to_owned(), |lag| format!("{lag} records"));
        let position = log.unknown.clone().unwrap_or_else(|| log.position.clone());
        logs.add_row([log.log.clone(), position, behind]);
    }
    let mut flows = new_table(&["flow", "lane", "behind", "last lag", "idle"]);
    for flow in &status.flows {
        let name = format!("{} to {}", flow.log, flow.to);
        if let Some(unknown) = &flow.unknown {
            flows.add_row([
                name.clone(),
                String::new(),
                unknown.clone(),
                String::new(),
                String::new(),
            ]);
        }
        for lane in &flow.lanes {
            flows.add_row([
                name.clone(),
                lane.lane.to_string(),
                format!("{} records", lane.lag_records),
                lane.last_lag_seconds
                    .map_or("-".to_owned(), |lag| format!("{:.3} s", lag.max(0.0))),
                format!("{:.1} s", lane.idle_seconds),
            ]);
        }
    }
    let mut text = format!("{logs}\n\n{flows}");
    if status.faults.is_empty() {
        text.push_str("\n\nno faults");
        return text;
    }
    let mut faults =
        new_table(&["unit", "role", "state", "code", "what, and what mends it", "ago"]);
    for fault in &status.faults {
        faults.add_row([
            fault.unit.clone(),
            fault.role.clone(),
            if fault.running { "runs" } else { "stopped" }.to_owned(),
            fault.code.clone(),
            format!("{}\n{}", fault.what, fault.hint),
            format!("{} s", fault.seconds_ago),
        ]);
    }
    text.push_str(&format!("\n\n{faults}"));
    text
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().copied());
    table
}
