//! `unitflow check`: servers, grants, tables and topics, every fault with its remedy.
//!
//! All guards run and all findings are printed; what can't be reached is a finding too. Nothing is
//! changed, but for the canary: a row that is put into the ledger and taken out again in one
//! transaction, to see that both stand in the store's own log.

mod canary;
mod finding;
mod generated_keys;
mod outages;
mod redis;
mod tables;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use mysql_async::Conn;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::routing::{INTERNAL_DATABASE, LEDGER_TABLE};
use unitflow_change::{Code, Fault};
use unitflow_kafka::topics;
use unitflow_mysql::connect::{Store, Tls, connect, connect_to_write};
use unitflow_mysql::preflight::{
    self, Severity, SourceNeeds, TargetNeeds, check_source, check_target,
};
use unitflow_mysql::schema::Table;
use unitflow_sinks::ledger;
use unitflow_sinks::schema::{self, Lack};

use canary::canary;
use finding::{Finding, print};
use generated_keys::Steps;
use outages::{check_lanes_kept, check_log_kept};
use tables::{Incoming, check_cascades, check_filters, check_incoming};

use crate::Outcome;
use crate::cli::CheckArgs;
use crate::config::Mesh;
use crate::init::{identity, topic_specs};
use crate::output::say;
use crate::pipeline::{ConnectorState, load_state};
use crate::tables::{self as store_tables, Carried};

/// Examines the mesh, or one unit of it.
pub async fn run(mesh: &Mesh, args: &CheckArgs) -> Result<Outcome, Fault> {
    if let Some(unit) = &args.unit {
        mesh.unit(unit)?;
    }
    let wanted = |unit: &&Name| args.unit.as_ref().is_none_or(|only| only == *unit);
    let units: Vec<&Name> = mesh.units.keys().filter(wanted).collect();
    let kafkas = join_all(units.iter().map(|unit| check_kafka(mesh, unit))).await;
    // Not asked again: each question to a broker that is away takes its time.
    let away: BTreeSet<&Name> =
        units.iter().zip(&kafkas).filter(|(_, (_, away))| *away).map(|(unit, _)| *unit).collect();
    let (stores, across) = tokio::join!(
        join_all(units.iter().map(|unit| check_stores(mesh, unit, &away))),
        check_across(mesh)
    );
    let kafkas = kafkas.into_iter().map(|(findings, _)| findings);
    let findings: Vec<Finding> = kafkas.chain(stores).chain([across]).flatten().collect();
    let errors = findings.iter().filter(|finding| !finding.warning).count();
    if args.json {
        say(&serde_json::to_string_pretty(&findings).unwrap_or_default());
    } else {
        print(&findings, errors);
    }
    Ok(if errors > 0 { Outcome::Findings } else { Outcome::Fine })
}

/// What is found in a unit's Kafka, and whether it is away.
async fn check_kafka(mesh: &Mesh, unit: &Name) -> (Vec<Finding>, bool) {
    let mut findings = Vec::new();
    let place = format!("Kafka of {unit}");
    let Err(fault) = check_topics(mesh, unit, &place, &mut findings).await else {
        return (findings, false);
    };
    let bootstrap = &mesh.units[unit].broker.bootstrap;
    findings.push(Finding::fault(&place, bootstrap, &fault));
    (findings, fault.code == Code::Unreachable)
}

async fn check_stores(mesh: &Mesh, unit: &Name, away: &BTreeSet<&Name>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, store) in &mesh.units[unit].stores {
        let log = Log { unit: unit.clone(), store: name.clone() };
        if let Err(fault) = check_store(mesh, &log, store, away, &mut findings).await {
            findings.push(Finding::fault(&log.to_string(), "server", &fault));
        }
    }
    findings.extend(redis::check_caches(mesh, unit).await);
    findings
}

async fn check_topics(
    mesh: &Mesh,
    unit: &Name,
    place: &str,
    findings: &mut Vec<Finding>,
) -> Result<(), Fault> {
    let broker = &mesh.unit(unit)?.broker;
    let specs = topic_specs(mesh, unit)?;
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let found = topics::describe(broker, &names).await?;
    let missing: Vec<&str> = names
        .iter()
        .zip(&found)
        .filter(|(_, topic)| topic.is_none())
        .map(|(name, _)| *name)
        .collect();
    if missing.len() == names.len() {
        let finding = Finding::new(place, Code::TopicMissing, "all topics of this unit");
        findings.push(finding.expected(names.join(", "), "none").remedy("unitflow init"));
        return Ok(());
    }
    findings.extend(missing.into_iter().map(|name| {
        Finding::new(place, Code::TopicMissing, name)
            .expected("exists", "does not")
            .remedy("a new mesh: unitflow init; one that has run: see the runbook")
    }));
    for (spec, topic) in specs.iter().zip(&found) {
        let found = topic.as_ref().map(|topic| topics::check(spec, topic)).unwrap_or_default();
        findings.extend(found.into_iter().map(|finding| {
            Finding::new(
                place,
                Code::TopicSetting,
                format!("{} {}", finding.topic, finding.setting),
            )
            .expected(finding.expected, finding.actual)
            .remedy(with_server(&finding.remedy, &broker.bootstrap))
        }));
    }
    for (log, _) in mesh.logs().filter(|(log, _)| log.unit == *unit) {
        check_log(mesh, &log, findings).await?;
    }
    Ok(())
}

/// A remedy that can be run as it stands names the server.
fn with_server(remedy: &str, bootstrap: &str) -> String {
    match remedy.split_once(' ') {
        Some((tool, rest)) if tool == "kafka-configs" => {
            format!("{tool} --bootstrap-server {bootstrap} {rest}")
        }
        _ => remedy.to_owned(),
    }
}

/// Whether the log that runs is the one that the configuration names.
async fn check_log(mesh: &Mesh, log: &Log, findings: &mut Vec<Finding>) -> Result<(), Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let place = log.to_string();
    let state = load_state::<ConnectorState>(broker, &mesh.topics, log, Stage::Connector).await;
    match state {
        Ok(Some(state)) => {
            for (subject, fits) in [
                ("lanes, order", state.ensure_leads_to(log, &mesh.routing(log)?)),
                ("envelope", state.ensure_form(log, mesh.flows[&log.store].envelope)),
            ] {
                if let Err(fault) = fits {
                    let finding = Finding::new(&place, fault.code, subject);
                    let finding = finding.expected("as the log runs", &fault.what);
                    findings.push(finding.remedy(fault.remedy()));
                }
            }
            if !state.routing.lets_all_through_as(&mesh.routing(log)?) {
                let finding = Finding::new(&place, Code::Routing, "tables, exclude, columns, rows");
                let finding = finding
                    .expected("as configured", "the log carries what an older configuration said");
                findings.push(finding.remedy(format!(
                    "for what it will let through from now on: unitflow resync full --from … --store {} --table …, which waits; then start the connector of unit {} with this configuration",
                    log.store, log.unit
                )).warning());
            }
        }
        Ok(None) => findings.push(
            Finding::new(&place, Code::PositionMissing, mesh.topics.position(log))
                .expected("the position of its connector", "none")
                .remedy("a new mesh: unitflow init; one that has run: see the runbook"),
        ),
        // The topic is a finding already.
        Err(fault) if fault.code == Code::TopicMissing => {}
        Err(fault) => findings.push(Finding::fault(&place, "position", &fault)),
    }
    Ok(())
}

async fn check_store(
    mesh: &Mesh,
    log: &Log,
    store: &Store,
    away: &BTreeSet<&Name>,
    findings: &mut Vec<Finding>,
) -> Result<(), Fault> {
    let place = log.to_string();
    findings.extend(unverified_tls(&place, store));
    let mut conn = match connect_to_write(store).await {
        // That is a finding among others.
        Err(fault) if fault.code == Code::Setting => connect(store).await?,
        conn => conn?,
    };
    let flow = &mesh.flows[&log.store];
    let routing = mesh.routing(log)?;
    let own = store_tables::read(&mut conn, &routing).await?;
    let mut found = Vec::new();
    if flow.from.contains(&log.unit) {
        found = check_source(&mut conn, &source_needs(mesh, &own)).await?;
        findings.extend(check_cascades(&mut conn, &place, &own).await?);
        findings.extend(check_filters(&place, &routing, &own));
        if !away.contains(&log.unit) {
            findings.extend(check_log_kept(mesh, log).await);
        }
    }
    // What the log itself lacks would only make the canary's answer doubtful.
    let log_is_sound = found.iter().all(|finding| finding.severity == Severity::Warning);
    let lacks = schema::lacking(&mut conn).await?;
    let ready = lacks.iter().all(|lack| !["", LEDGER_TABLE].contains(&lack.table));
    findings.extend(check_schema(&place, &lacks));
    if flow.to.contains(&log.unit) {
        let incoming = Incoming::read(mesh, log).await;
        findings.extend(check_incoming(&place, &own, &incoming));
        let packet_bytes = largest_packet(mesh, log).await;
        let applies_ddl = flow.runs_ddl_in(&log.unit);
        let stored_code = if applies_ddl { flow.stored_code.clone() } else { Vec::new() };
        let needs = target_needs(&own, &incoming);
        let needs = TargetNeeds { packet_bytes, applies_ddl, stored_code, ..needs };
        let target = check_target(&mut conn, &needs).await?;
        found = both(found, target, flow.from.contains(&log.unit));
        if ready {
            check_lanes(mesh, log, &mut conn, away, findings).await?;
        }
    }
    findings.extend(found.into_iter().map(|finding| Finding::of(&place, finding)));
    if ready && log_is_sound && flow.from.contains(&log.unit) {
        findings.extend(canary(&mut conn, store, &place).await?);
    }
    Ok(())
}

/// A table that is not there at all is a finding of whoever writes to it.
fn check_schema(place: &str, lacks: &[Lack]) -> Vec<Finding> {
    let older = lacks.iter().filter(|lack| lack.alters);
    let finding = |lack: &Lack| {
        Finding::new(place, Code::LedgerMissing, &lack.what)
            .expected("the column, which this build needs", "none: an older build made the table")
            .remedy(format!("unitflow init, or have a DBA run: {}", lack.statement))
    };
    older.map(finding).collect()
}

/// Where one user captures and applies, what one role needs is no excess of the other, and what
/// neither needs is said once.
fn both(
    source: Vec<preflight::Finding>,
    target: Vec<preflight::Finding>,
    captures: bool,
) -> Vec<preflight::Finding> {
    let is_excess = |finding: &preflight::Finding| {
        finding.code == Code::Grant && finding.expected.starts_with("only what ")
    };
    let mut all = source;
    for finding in target {
        let needed = captures && finding.actual == "REPLICATION SLAVE ON *.*";
        let said = all.iter().any(|one| is_excess(one) && one.actual == finding.actual);
        if !(is_excess(&finding) && (needed || said)) && !all.contains(&finding) {
            all.push(finding);
        }
    }
    for finding in all.iter_mut().filter(|finding| is_excess(finding)) {
        finding.expected = "only what Unitflow needs".to_owned();
        finding.remedy = finding.remedy.split(", or give").next().unwrap_or_default().to_owned();
    }
    all
}

fn unverified_tls(place: &str, store: &Store) -> Option<Finding> {
    let actual = match store.tls {
        Tls::Off => "off: nothing is encrypted",
        Tls::NoVerify => "no-verify: encrypted, to whoever answers",
        Tls::Verify { .. } => return None,
    };
    Some(unverified(place, actual))
}

fn unverified(place: &str, actual: &str) -> Finding {
    Finding::new(place, Code::Tls, "tls")
        .expected("verify", actual)
        .remedy("set tls = \"verify\" or { ca = \"…\" } unless the network is trusted")
        .warning()
}

/// What a store that is captured from is looked at for.
pub fn source_needs(mesh: &Mesh, tables: &[(Carried, Table)]) -> SourceNeeds {
    let databases: BTreeSet<String> =
        tables.iter().map(|(table, _)| table.local.0.clone()).collect();
    SourceNeeds {
        databases: databases.into_iter().collect(),
        ledger_database: INTERNAL_DATABASE.to_owned(),
        outage_seconds_max: mesh.outage_longest.as_secs(),
    }
}

fn target_needs(tables: &[(Carried, Table)], incoming: &[Incoming]) -> TargetNeeds {
    let ledger_tables = schema::OBJECTS.iter().map(|(name, _)| *name);
    let spread = |(table, _): &(Carried, Table)| {
        let (database, name) = &table.name;
        let by = incoming.iter().map(|from| from.routing.spread(database, name)).collect();
        (table.local.clone(), by)
    };
    TargetNeeds {
        spread: tables.iter().map(spread).collect(),
        tables: tables.iter().map(|(table, _)| table.local.clone()).collect(),
        ledger_database: INTERNAL_DATABASE.to_owned(),
        ledger_tables: ledger_tables
            .filter(|name| !name.is_empty() && *name != "lag")
            .map(str::to_owned)
            .collect(),
        packet_bytes: 0,
        applies_ddl: false,
        stored_code: Vec::new(),
    }
}

/// What the units that write to this one allow; one that can't be reached is a finding of its own.
async fn largest_packet(mesh: &Mesh, log: &Log) -> u64 {
    let mut largest = 0;
    for (from, _) in mesh.logs_to(&log.unit).filter(|(from, _)| from.store == log.store) {
        let there = async {
            let mut conn = connect(mesh.store(&from.unit, &from.store)?).await?;
            preflight::packet_bytes(&mut conn).await
        };
        largest = largest.max(there.await.unwrap_or(0));
    }
    largest
}

/// Whether each lane into this unit has its ledger row, and reads the topic that is there.
async fn check_lanes(
    mesh: &Mesh,
    log: &Log,
    conn: &mut Conn,
    away: &BTreeSet<&Name>,
    findings: &mut Vec<Finding>,
) -> Result<(), Fault> {
    for (from, flow) in mesh.logs_to(&log.unit).filter(|(from, _)| from.store == log.store) {
        let place = format!("{from} to {}", log.unit);
        let entries = ledger::read_all(conn, &from).await?;
        let missing: Vec<String> = (0..flow.routing.partitions)
            .filter(|lane| entries.iter().all(|entry| entry.lane != *lane))
            .map(|lane| lane.to_string())
            .collect();
        if !missing.is_empty() {
            findings.push(
                Finding::new(&place, Code::LedgerMissing, "unitflow.ledger")
                    .expected("a row for each lane", format!("none for lanes {}", missing.join(", ")))
                    .remedy("a flow that never ran: unitflow init; one that ran: restore the rows, or see the runbook for how a log begins anew"),
            );
        }
        // A broker or a topic that is not there is a finding of its unit.
        let (topic, at) = (mesh.topics.tagged(&from), mesh.read_at(&from));
        if away.contains(at) {
            continue;
        }
        let found = topics::describe(&mesh.unit(at)?.broker, &[&topic]).await;
        let Some(topic) = found.ok().and_then(|mut found| found.pop().flatten()) else { continue };
        if entries.iter().any(|entry| entry.topic_id != topic.id.as_str()) {
            findings.push(
                Finding::new(&place, Code::TopicRecreated, topic.name)
                    .expected("the topic that the ledger names", "another one of this name")
                    .remedy("what the old one held may not have arrived: see the runbook for how a log begins anew"),
            );
        } else if !entries.is_empty() {
            findings.extend(check_lanes_kept(mesh, &from, &log.unit, &entries).await);
        }
    }
    Ok(())
}

/// What no store shows by itself: two names for one server, and generated keys that collide.
async fn check_across(mesh: &Mesh) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut servers: BTreeMap<String, String> = BTreeMap::new();
    let mut steps: BTreeMap<&Name, Vec<Steps>> = BTreeMap::new();
    for (unit, at) in &mesh.units {
        for (name, store) in &at.stores {
            let place = format!("{unit}.{name}");
            // One that can't be reached is a finding of its unit.
            let Ok(mut conn) = connect(store).await else { continue };
            let Ok(identity) = identity(&mut conn).await else { continue };
            if let Some(other) = servers.insert(identity, place.clone()) {
                findings.push(
                    Finding::new(&place, Code::Config, "server")
                        .expected("one of its own", format!("the server of {other}"))
                        .remedy("give each store a server of its own; two copies of one data folder need other UUIDs (auto.cnf)"),
                );
            }
            if mesh.flows[name].from.contains(unit) {
                let found = Steps::read(&mut conn, &place).await.ok().flatten();
                steps.entry(name).or_default().extend(found);
            }
        }
    }
    let of_flow = |(name, steps): (&Name, Vec<Steps>)| {
        generated_keys::check(&steps, mesh.flows[name].from.len())
    };
    findings.extend(steps.into_iter().flat_map(of_flow));
    findings
}
