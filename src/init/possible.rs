//! What `init` looks at before it makes anything: servers, brokers, and whether what would be made could go on.

use std::collections::BTreeMap;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use unitflow_change::name::{Log, Name};
use unitflow_change::routing::INTERNAL_DATABASE;
use unitflow_change::{Code, Fault};
use unitflow_kafka::topics;
use unitflow_mysql::connect::{Server, connect_to_write, fault};
use unitflow_mysql::preflight::{
    Finding, Grants, Severity, TargetNeeds, check_source, check_target,
};
use unitflow_sinks::schema::{self, Lack};

use super::{connector_state, topic_specs};
use crate::check::source_needs;
use crate::config::Mesh;
use crate::tables;

/// Whether each server and broker answers, and lets the rest be done.
pub(super) async fn ensure_possible(mesh: &Mesh, units: &[Name]) -> Result<(), Fault> {
    let mut servers = BTreeMap::new();
    for unit in units {
        for (name, store) in &mesh.unit(unit)?.stores {
            let mut conn = connect_to_write(store).await?;
            if let Some(other) = servers.insert(identity(&mut conn).await?, &store.name) {
                return Err(Fault::fatal(
                    Code::Config,
                    format!("{} and {other} are the same server", store.name),
                )
                .hint("give each store a server of its own"));
            }
            ensure_created_or_creatable(&mut conn).await.map_err(|fault| fault.at(&store.name))?;
            let log = Log { unit: unit.clone(), store: name.clone() };
            let sound = ensure_sound(mesh, &log, &mut conn).await;
            sound.map_err(|fault| fault.at(&store.name))?;
        }
    }
    for unit in units {
        for (log, _) in mesh.logs().filter(|(log, _)| log.unit == *unit) {
            ensure_same_lanes(mesh, &log).await?;
        }
        ensure_topics_fit(mesh, unit).await?;
    }
    Ok(())
}

/// What tells one server from all others, whatever address it was reached by.
pub async fn identity(conn: &mut Conn) -> Result<String, Fault> {
    if let Some(uuid) = Server::read(conn).await?.uuid {
        return Ok(uuid.to_string());
    }
    let own: Option<String> = conn
        .query_first("SELECT CONCAT_WS(' ', @@hostname, @@port, @@datadir)")
        .await
        .map_err(|error| fault(&error))?;
    Ok(own.unwrap_or_default())
}

async fn ensure_created_or_creatable(conn: &mut Conn) -> Result<(), Fault> {
    let lacking = schema::lacking(conn).await?;
    let (older, missing): (Vec<Lack>, Vec<Lack>) =
        lacking.into_iter().partition(|lack| lack.alters);
    let lines = grants(conn).await?;
    let grants = Grants::parse(&lines);
    let lacks = |right| !grants.has_on_database(right, INTERNAL_DATABASE);
    if has_roles(&lines) {
        return Ok(());
    }
    if !missing.is_empty() && (lacks("CREATE") || lacks("CREATE VIEW")) {
        return Err(Fault::fatal(Code::Grant, "the user may not create the schema unitflow")
            .hint("let an administrator run what unitflow init --print shows, then init again"));
    }
    if let Some(lack) = older.first().filter(|_| lacks("ALTER")) {
        return Err(Fault::fatal(Code::Grant, format!("the user may not add {}", lack.what))
            .hint(format!("let an administrator run: {}", lack.statement)));
    }
    Ok(())
}

/// Whether what is captured here could be told from the log, and what comes in be written: what `check` says of settings,
/// grants and bindings. A mesh that begins otherwise stops at its first change.
async fn ensure_sound(mesh: &Mesh, log: &Log, conn: &mut Conn) -> Result<(), Fault> {
    let flow = &mesh.flows[&log.store];
    let routing = mesh.routing(log)?;
    let tables = tables::read(conn, &routing).await?;
    let mut found = Vec::new();
    if flow.from.contains(&log.unit) {
        found.extend(check_source(conn, &source_needs(mesh, &tables)).await?);
    }
    if flow.to.contains(&log.unit) {
        let needs = TargetNeeds {
            tables: tables.iter().map(|(table, _)| table.local.clone()).collect(),
            spread: BTreeMap::new(),
            ledger_database: INTERNAL_DATABASE.to_owned(),
            ledger_tables: Vec::new(), // made by init itself
            packet_bytes: 0,
            applies_ddl: flow.runs_ddl_in(&log.unit),
            stored_code: match flow.runs_ddl_in(&log.unit) {
                true => flow.stored_code.clone(),
                false => Vec::new(),
            },
        };
        let of_server = |finding: &Finding| matches!(finding.code, Code::Setting | Code::Grant);
        found.extend(check_target(conn, &needs).await?.into_iter().filter(of_server));
    }
    let has_roles = has_roles(&grants(conn).await?);
    let left_to_server = |finding: &Finding| has_roles && finding.code == Code::Grant;
    found.retain(|finding| finding.severity == Severity::Error && !left_to_server(finding));
    if let Some(first) = found.first() {
        return Err(refusal(first, found.len() - 1));
    }
    if flow.from.contains(&log.unit) {
        tables::bind(conn, routing, &tables::Bound::new()).await?;
    }
    Ok(())
}

async fn grants(conn: &mut Conn) -> Result<Vec<String>, Fault> {
    conn.query("SHOW GRANTS").await.map_err(|error| fault(&error))
}

/// Rights that come by roles are not seen, so a user with roles is left to the server.
fn has_roles(grants: &[String]) -> bool {
    grants.iter().any(|line| !line.contains(" ON "))
}

fn refusal(first: &Finding, others: usize) -> Fault {
    let more = match others {
        0 => String::new(),
        others => format!(" ({others} more: unitflow check)"),
    };
    let Finding { subject, actual, expected, .. } = first;
    Fault::fatal(first.code, format!("{subject} is {actual}, expected {expected}{more}"))
        .hint(first.remedy.clone())
}

/// The number of lanes, and the records' text, can't change in a log that runs.
async fn ensure_same_lanes(mesh: &Mesh, log: &Log) -> Result<(), Fault> {
    match connector_state(mesh, log).await? {
        Some(state) => {
            state.ensure_leads_to(log, &mesh.routing(log)?)?;
            state.ensure_form(log, mesh.flows[&log.store].envelope)
        }
        None => Ok(()),
    }
}

/// Topics that were there before, as a broker that creates topics by itself makes them, must be
/// usable.
async fn ensure_topics_fit(mesh: &Mesh, unit: &Name) -> Result<(), Fault> {
    let specs = topic_specs(mesh, unit)?;
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let found = topics::describe(&mesh.unit(unit)?.broker, &names).await?;
    for (spec, topic) in specs.iter().zip(found) {
        let findings = topic.map(|topic| topics::check(spec, &topic)).unwrap_or_default();
        let breaks = |setting: &str| ["partitions", "cleanup.policy"].contains(&setting);
        if let Some(finding) = findings.iter().find(|finding| breaks(&finding.setting)) {
            return Err(finding.fault());
        }
    }
    Ok(())
}
