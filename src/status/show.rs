//! How `unitflow status` tells what it found.

use unitflow_kafka::control::{Action, Order, Refused};

use super::{
    FaultStatus, FillingStatus, FlowStatus, LogStatus, NotOrder, ParkedStatus, RoleStatus, State,
    Status,
};
use crate::bridge::Bridge;
use crate::output::columns;

/// As one JSON document.
pub fn json(status: &Status, pretty: bool) -> String {
    let write = if pretty { serde_json::to_string_pretty } else { serde_json::to_string };
    write(status).unwrap_or_default()
}

/// As tables, and a block for each thing that waits or failed.
pub fn text(status: &Status) -> String {
    let mut parts = vec![logs(&status.logs), flows(&status.flows), waiting(status)];
    parts.push(roles(&status.roles));
    let faults = faults(&status.roles);
    parts.push(match (faults.as_str(), status.roles.is_empty()) {
        ("", true) => "faults are not known".to_owned(),
        ("", false) => "no faults".to_owned(),
        (faults, _) => faults.to_owned(),
    });
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn logs(logs: &[LogStatus]) -> String {
    let shown = |lag: Option<i64>, none: &str| lag.map_or(none.to_owned(), |lag| lag.to_string());
    let rows: Vec<[String; 7]> = logs
        .iter()
        .map(|log| {
            let position = log.unknown.as_ref().unwrap_or(&log.position).clone();
            let to_transform = shown(log.transformer_lag_records, "?");
            let to_relay = shown(log.relay_lag_records, "-");
            let [binlog, topic] = [log.bridged_by_binlog, log.bridged_by_captured].map(bridged);
            let relayed = match log.relay_lag_records {
                Some(_) => bridged(log.bridged_by_tagged),
                None => "-".to_owned(),
            };
            [log.log.clone(), to_transform, to_relay, binlog, topic, relayed, position]
        })
        .collect();
    const TITLES: [&str; 7] = [
        "LOG",
        "TO TRANSFORM",
        "TO RELAY",
        "BINLOG LASTS",
        "TOPIC LASTS",
        "RELAYED LASTS",
        "CAPTURED UP TO",
    ];
    if logs.iter().any(|log| log.relay_lag_records.is_some()) {
        return columns(TITLES, &rows);
    }
    let unrelayed: Vec<[String; 5]> = rows
        .into_iter()
        .map(|[log, to_transform, _, binlog, topic, _, position]| {
            [log, to_transform, binlog, topic, position]
        })
        .collect();
    let [log, to_transform, _, binlog, topic, _, position] = TITLES;
    columns([log, to_transform, binlog, topic, position], &unrelayed)
}

/// For how long what has still to be read is kept.
fn bridged(bridge: Option<Bridge>) -> String {
    bridge.map_or("?".to_owned(), Bridge::text)
}

fn flows(flows: &[FlowStatus]) -> String {
    let mut rows = Vec::new();
    for flow in flows {
        let name = format!("{} to {}", flow.log, flow.to);
        rows.extend(flow.lanes.iter().map(|lane| {
            [
                name.clone(),
                lane.lane.to_string(),
                lane.lag_records.to_string(),
                lane.last_lag_seconds
                    .map_or("-".to_owned(), |lag| format!("{:.3} s", lag.max(0.0))),
                bridged(lane.bridged),
                ago(lane.idle_seconds.max(0.0) as u64),
            ]
        }));
        if let Some(unknown) = &flow.unknown {
            let dash = || "?".to_owned();
            rows.push([name, dash(), dash(), dash(), dash(), unknown.clone()]);
        }
    }
    columns(["FLOW", "LANE", "TO APPLY", "LAST LAG", "TOPIC LASTS", "LAST APPLIED"], &rows)
}

/// What waits: for a person, as flows that were told to stand still and tables that are parked, or
/// for lanes.
fn waiting(status: &Status) -> String {
    let mut blocks = Vec::new();
    for NotOrder { unit, flow, refused: Refused { offset, what } } in &status.not_orders {
        blocks.push(format!(
            "NO ORDER at offset {offset} of the control topic of {unit}, for {flow:?} [control]\n  {what}; \
             it changes nothing, and the next good order takes its place"
        ));
    }
    for flow in &status.flows {
        let name = &flow.flow;
        if let Some(Order { action: Action::Pause, by, why, .. }) = &flow.order {
            blocks.push(format!("PAUSED {name} by {by}: {why}\n  unitflow resume {name} --why …"));
        }
        if let Some(meeting) = &flow.meeting {
            blocks.push(format!("WAITING {name} {}", meeting.text()));
        }
        if !flow.lacking.is_empty() {
            blocks.push(format!(
                "LACKING {name}: lanes {} passed over records that were gone, and lack what these changed\n  {}",
                flow.lacking.iter().map(i32::to_string).collect::<Vec<_>>().join(", "),
                refill(flow)
            ));
        }
        for FillingStatus { table, unsettled, command } in &flow.filling {
            blocks.push(format!(
                "FILLING {table} in {} from {}: {unsettled} rows are not settled, and changes that do not fit stop nobody\n  \
                 if no resync runs, give it again: {command}",
                flow.to, flow.log
            ));
        }
        for ParkedStatus { table, lanes, code, why } in &flow.parked {
            let why = why.replace('\n', "\n  ");
            let lanes = if *lanes == 1 { "1 lane".to_owned() } else { format!("{lanes} lanes") };
            blocks.push(format!(
                "PARKED {table} in {name}, {lanes} [{code}]\n  {why}\n  \
                 then: unitflow resume {name} --table {table} --why … (retry, to try the same again)"
            ));
        }
    }
    blocks.join("\n")
}

fn refill(flow: &FlowStatus) -> String {
    let (from, store) = flow.log.split_once('.').unwrap_or((&flow.log, ""));
    format!("unitflow resync full --from {from} --store {store} --why …")
}

fn roles(roles: &[RoleStatus]) -> String {
    let rows: Vec<[String; 3]> = roles
        .iter()
        .map(|role| {
            let when = role.seconds_ago.map(ago).unwrap_or_default();
            let said = match role.state {
                State::Never => "never started".to_owned(),
                State::Started => format!("started {when}"),
                State::Silent => match role.silent_seconds {
                    Some(seconds) => format!("started {when}, SILENT for {seconds} s"),
                    None => format!("started {when}, SILENT: not in its group"),
                },
                State::Failing => "failing, tried again by itself".to_owned(),
                State::Failed => format!("FAILED {when}"),
                State::Stopped => format!("stopped {when}"),
            };
            [role.unit.clone(), role.role.clone(), said]
        })
        .collect();
    if rows.is_empty() { String::new() } else { columns(["UNIT", "ROLE", "LAST SAID"], &rows) }
}

/// Each fault as a block of its own: texts are long, and hold what is to be copied. Lanes of one
/// role that met the same are one block.
fn faults(roles: &[RoleStatus]) -> String {
    let mut blocks: Vec<(&RoleStatus, &FaultStatus, Vec<&str>)> = Vec::new();
    for role in roles {
        let Some(fault) = &role.fault else { continue };
        let (name, lane) = role.role.split_once(" lane ").unwrap_or((&role.role, ""));
        let same = blocks.iter_mut().find(|(first, known, _)| {
            (&first.unit, &known.code) == (&role.unit, &fault.code)
                && first.role.split(" lane ").next() == Some(name)
        });
        match same {
            Some((.., lanes)) => lanes.extend((!lane.is_empty()).then_some(lane)),
            None => {
                blocks.push((role, fault, (!lane.is_empty()).then_some(lane).into_iter().collect()))
            }
        }
    }
    blocks
        .iter()
        .map(|(role, fault, lanes)| block(role, fault, lanes))
        .collect::<Vec<_>>()
        .join("\n")
}

fn block(role: &RoleStatus, fault: &FaultStatus, lanes: &[&str]) -> String {
    let state = match role.state {
        State::Failing => "failing",
        State::Failed => "FAILED",
        _ => "mended",
    };
    let name = role.role.split(" lane ").next().unwrap_or_default();
    let lanes = match lanes {
        [] => String::new(),
        lanes => format!(", lane {}", lanes.join(", ")),
    };
    let hint = match fault.hint.as_str() {
        "" => format!("see [{}] in deploy/runbook.md", fault.code),
        hint => format!("to mend it: {hint}"),
    };
    let (unit, when) = (&role.unit, ago(fault.seconds_ago));
    format!(
        "{state} [{}] in unit {unit}: {name}{lanes}, {when}\n  {}\n  {hint}",
        fault.code, fault.what
    )
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}
