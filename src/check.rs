//! `unitflow check`: servers, grants, tables and topics, every fault with its remedy.
//!
//! All guards run and all findings are printed; what can't be reached is a finding too. Nothing is
//! changed, but for the canary: a row that is put into the ledger and taken out again, to see that
//! both stand in the store's own log.

use std::collections::BTreeSet;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use serde::Serialize;
use unitflow_change::name::{Log, Name};
use unitflow_change::position::Position;
use unitflow_change::routing::{INTERNAL_DATABASE, LEDGER_TABLE, Order, PartitionBy, Routing};
use unitflow_change::{Code, Fault};
use unitflow_kafka::topics;
use unitflow_mysql::connect::{Server, Store, Tls, connect, fault};
use unitflow_mysql::preflight::{
    self, Severity, SourceNeeds, TargetNeeds, check_source, check_target,
};
use unitflow_mysql::stream::{Event, Options, Stream};
use unitflow_sinks::ledger;

use crate::Outcome;
use crate::cli::CheckArgs;
use crate::config::Mesh;
use crate::init::topic_specs;

/// How long the canary may take to appear in the store's log.
const CANARY_WITHIN: Duration = Duration::from_secs(5);
/// The canary's log and lane in the ledger; no real ones.
const CANARY: (&str, i32) = ("unitflow-check", -1);

/// One thing that is not as it should be.
#[derive(Debug, Serialize)]
struct Finding {
    /// `unit A`, `A.shop`.
    place: String,
    code: &'static str,
    /// A warning does not make the command fail.
    warning: bool,
    subject: String,
    expected: String,
    actual: String,
    remedy: String,
}

impl Finding {
    fn of(place: &str, finding: preflight::Finding) -> Self {
        Self {
            place: place.to_owned(),
            code: finding.code.as_str(),
            warning: finding.severity == Severity::Warning,
            subject: finding.subject,
            expected: finding.expected,
            actual: finding.actual,
            remedy: finding.remedy,
        }
    }

    fn fault(place: &str, subject: &str, fault: &Fault) -> Self {
        Self {
            place: place.to_owned(),
            code: fault.code.as_str(),
            warning: false,
            subject: subject.to_owned(),
            expected: "an answer".to_owned(),
            actual: fault.what.clone(),
            remedy: fault.hint.clone(),
        }
    }
}

/// Examines the mesh, or one unit of it.
pub async fn run(mesh: &Mesh, args: &CheckArgs) -> Result<Outcome, Fault> {
    if let Some(unit) = &args.unit {
        mesh.unit(unit)?;
    }
    let mut findings = Vec::new();
    for unit in mesh.units.keys().filter(|unit| args.unit.as_ref().is_none_or(|only| only == *unit))
    {
        check_topics(mesh, unit, &mut findings).await;
        for (name, store) in &mesh.units[unit].stores {
            let place = format!("{unit}.{name}");
            let log = Log { unit: unit.clone(), store: name.clone() };
            if let Err(fault) = check_store(mesh, &log, store, &mut findings).await {
                findings.push(Finding::fault(&place, "store", &fault));
            }
        }
    }
    let errors = findings.iter().filter(|finding| !finding.warning).count();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings).unwrap_or_default());
    } else {
        print(&findings, errors);
    }
    Ok(if errors > 0 { Outcome::Findings } else { Outcome::Fine })
}

async fn check_topics(mesh: &Mesh, unit: &Name, findings: &mut Vec<Finding>) {
    let place = format!("{unit} kafka");
    if let Err(fault) = check_topics_of(mesh, unit, &place, findings).await {
        findings.push(Finding::fault(&place, "broker", &fault));
    }
}

async fn check_topics_of(
    mesh: &Mesh,
    unit: &Name,
    place: &str,
    findings: &mut Vec<Finding>,
) -> Result<(), Fault> {
    let specs = topic_specs(mesh, unit)?;
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let found = topics::describe(&mesh.unit(unit)?.broker, &names).await?;
    for (spec, topic) in specs.iter().zip(found) {
        match topic {
            None => findings.push(Finding {
                place: place.to_owned(),
                code: Code::TopicMissing.as_str(),
                warning: false,
                subject: spec.name.clone(),
                expected: "exists".to_owned(),
                actual: "does not".to_owned(),
                remedy: "a new mesh: unitflow init; one that has run: see the runbook".to_owned(),
            }),
            Some(topic) => {
                findings.extend(topics::check(spec, &topic).into_iter().map(|finding| Finding {
                    place: place.to_owned(),
                    code: Code::TopicSetting.as_str(),
                    warning: false,
                    subject: format!("{} {}", finding.topic, finding.setting),
                    expected: finding.expected,
                    actual: finding.actual,
                    remedy: finding.remedy,
                }))
            }
        }
    }
    Ok(())
}

async fn check_store(
    mesh: &Mesh,
    log: &Log,
    store: &Store,
    findings: &mut Vec<Finding>,
) -> Result<(), Fault> {
    let place = log.to_string();
    findings.extend(unverified_tls(&place, store));
    let mut conn = connect(store).await?;
    let flow = &mesh.flows[&log.store];
    let tables = list_tables(&mut conn, &flow.routing).await?;
    if flow.from.contains(&log.unit) {
        let index = flow.from.iter().position(|unit| *unit == log.unit).unwrap_or(0);
        let needs = SourceNeeds {
            databases: tables
                .iter()
                .map(|(database, _)| database.clone())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            ledger_database: INTERNAL_DATABASE.to_owned(),
            outage_seconds_max: mesh.outage_longest.as_secs(),
            units: u16::try_from(flow.from.len()).unwrap_or(u16::MAX),
            unit_index: u16::try_from(index).unwrap_or(u16::MAX),
        };
        let found = check_source(&mut conn, &needs).await?;
        findings.extend(found.into_iter().map(|finding| Finding::of(&place, finding)));
    }
    let ready = has_ledger(&mut conn).await?;
    if flow.to.contains(&log.unit) {
        check_missing_tables(mesh, log, &tables, findings).await;
        let found = check_target(&mut conn, &target_needs(&flow.routing, tables)).await?;
        findings.extend(found.into_iter().map(|finding| Finding::of(&place, finding)));
    }
    if ready && !findings.iter().any(|finding| finding.place == place && !finding.warning) {
        findings.extend(canary(&mut conn, store, &place).await?);
    }
    Ok(())
}

fn unverified_tls(place: &str, store: &Store) -> Option<Finding> {
    let actual = match store.tls {
        Tls::Off => "off: nothing is encrypted",
        Tls::NoVerify => "no-verify: encrypted, to whoever answers",
        Tls::Verify { .. } => return None,
    };
    Some(Finding {
        place: place.to_owned(),
        code: Code::Tls.as_str(),
        warning: true,
        subject: "tls".to_owned(),
        expected: "verify".to_owned(),
        actual: actual.to_owned(),
        remedy: "set tls = \"verify\" or { ca = \"…\" } unless the network is trusted".to_owned(),
    })
}

fn target_needs(routing: &Routing, tables: Vec<(String, String)>) -> TargetNeeds {
    let together = |(database, table): &&(String, String)| {
        routing.order == Order::Transaction
            || routing.partition_by(database, table) == PartitionBy::Table
    };
    TargetNeeds {
        one_lane: tables.iter().filter(together).cloned().collect(),
        tables,
        ledger_database: INTERNAL_DATABASE.to_owned(),
        ledger_tables: ledger::SCHEMA
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .filter(|name| !name.is_empty() && name != "lag")
            .collect(),
    }
}

/// Tables that another unit's changes will need here.
async fn check_missing_tables(
    mesh: &Mesh,
    log: &Log,
    here: &[(String, String)],
    findings: &mut Vec<Finding>,
) {
    for (from, flow) in mesh.logs_to(&log.unit).filter(|(from, _)| from.store == log.store) {
        let there = async {
            let mut conn = connect(mesh.store(&from.unit, &from.store)?).await?;
            list_tables(&mut conn, &flow.routing).await
        };
        // A source that can't be reached is a finding of its own.
        for (database, table) in there.await.unwrap_or_default() {
            if !here.contains(&(database.clone(), table.clone())) {
                findings.push(Finding {
                    place: log.to_string(),
                    code: Code::Table.as_str(),
                    warning: false,
                    subject: format!("{database}.{table}"),
                    expected: format!("exists, as in {from}"),
                    actual: "does not".to_owned(),
                    remedy: "create it as in the source, or exclude it from the flow".to_owned(),
                });
            }
        }
    }
}

/// The tables whose changes travel, the clock aside.
async fn list_tables(conn: &mut Conn, routing: &Routing) -> Result<Vec<(String, String)>, Fault> {
    let all: Vec<(String, String)> = conn
        .query(
            "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' \
             AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', 'unitflow')",
        )
        .await
        .map_err(|error| fault(&error))?;
    Ok(all.into_iter().filter(|(database, table)| routing.carries(database, table)).collect())
}

async fn has_ledger(conn: &mut Conn) -> Result<bool, Fault> {
    let found: Option<u8> = conn
        .exec_first(
            "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
            (INTERNAL_DATABASE, LEDGER_TABLE),
        )
        .await
        .map_err(|error| fault(&error))?;
    Ok(found.is_some())
}

/// Puts a row into the ledger and takes it out again, and looks for it in the store's log.
async fn canary(conn: &mut Conn, store: &Store, place: &str) -> Result<Option<Finding>, Fault> {
    let server = Server::read(conn).await?;
    // An id that no worker has, so that none is displaced.
    let id = 0x6000_0000 | (std::process::id() & 0x0fff_ffff);
    let options = Options::new(id, place.to_owned());
    let mut stream = Stream::open(store, Position::after(server.executed), options).await?;
    for statement in [
        "INSERT INTO unitflow.ledger (log, lane, seq, topic_id, topic_offset, origin) VALUES (?, ?, 0, '', 0, '')",
        "DELETE FROM unitflow.ledger WHERE log = ? AND lane = ?",
    ] {
        conn.exec_drop(statement, CANARY)
            .await
            .map_err(|error| fault(&error).at("unitflow.ledger"))?;
    }
    let seen = tokio::time::timeout(CANARY_WITHIN, async {
        loop {
            if let Event::Row(row) = stream.next().await?
                && row.database == INTERNAL_DATABASE
                && row.table == LEDGER_TABLE
            {
                return Ok::<(), Fault>(());
            }
        }
    });
    match seen.await {
        Ok(result) => result.map(|()| None),
        Err(_) => Ok(Some(Finding {
            place: place.to_owned(),
            code: Code::LedgerHidden.as_str(),
            warning: false,
            subject: "unitflow.ledger".to_owned(),
            expected: "its changes stand in the store's own binlog".to_owned(),
            actual: format!(
                "a row written to it did not appear within {} s",
                CANARY_WITHIN.as_secs()
            ),
            remedy: "remove binlog-ignore-db and binlog-do-db from the server's configuration"
                .to_owned(),
        })),
    }
}

fn print(findings: &[Finding], errors: usize) {
    if !findings.is_empty() {
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_BORDERS_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(["", "where", "what", "expected", "actual", "remedy"]);
        for finding in findings {
            table.add_row([
                if finding.warning { "warning".to_owned() } else { finding.code.to_owned() },
                finding.place.clone(),
                finding.subject.clone(),
                finding.expected.clone(),
                finding.actual.clone(),
                finding.remedy.clone(),
            ]);
        }
        println!("{table}");
    }
    println!("{errors} errors, {} warnings", findings.len() - errors);
}
