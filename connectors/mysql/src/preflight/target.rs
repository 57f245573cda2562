//! Guards of a server that is written to.

use std::collections::BTreeSet;

use mysql_async::Conn;
use unitflow_change::ddl::Stored;
use unitflow_change::fault::{Code, Fault};
use unitflow_change::routing::PartitionBy;

use super::grants::excess;
use super::source::ensure_version;
use super::{Facts, Finding, Severity, TargetNeeds, setting};
use crate::schema::{self, Table, Type};

/// What a sink does with tables.
const RIGHTS: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// And with their schema, where it applies another unit's changes.
const DDL_RIGHTS: &[&str] = &["CREATE", "ALTER", "DROP", "INDEX", "REFERENCES"];

/// By which a sink sees after a crash whether it has run a schema change.
const READ_LOG: &str = "REPLICATION SLAVE";

/// Rights that no sink needs.
const EXCESSIVE: &[&str] = &[
    "DROP",
    "SUPER",
    "FILE",
    "SHUTDOWN",
    "CREATE USER",
    "PROCESS",
    "SYSTEM_VARIABLES_ADMIN",
    "BINLOG_ADMIN",
    "BINLOG ADMIN",
    READ_LOG,
];

/// Twice what a sink sends at once while rows are of ordinary size.
const PACKET_BYTES_MIN: u64 = 8 << 20;

pub(super) async fn guards(
    conn: &mut Conn,
    facts: &Facts,
    needs: &TargetNeeds,
) -> Result<Vec<Finding>, Fault> {
    let mut findings = Vec::new();
    findings.extend(ensure_version(facts));
    findings.extend(ensure_writable(facts));
    findings.extend(ensure_packets(facts, needs));
    if needs.applies_ddl {
        findings.extend(ensure_reads_own_log(facts));
        findings.extend(ensure_stores_code(facts, needs));
    }
    let needed = |right: &&&str| {
        !(needs.applies_ddl && (DDL_RIGHTS.contains(*right) || **right == READ_LOG))
    };
    let excessive: Vec<&str> = EXCESSIVE.iter().filter(needed).copied().collect();
    findings.extend(excess(&facts.grants, &facts.user, &excessive, "apply"));
    let rights = if needs.applies_ddl { [RIGHTS, DDL_RIGHTS].concat() } else { RIGHTS.to_vec() };
    let ledger: Vec<_> = needs
        .ledger_tables
        .iter()
        .map(|table| (needs.ledger_database.clone(), table.clone()))
        .collect();
    for name in &ledger {
        findings.extend(ensure_rights(facts, name, RIGHTS));
        if find(conn, facts, name).await?.is_none() {
            findings.push(missing_ledger(name));
        }
    }
    for name in &needs.tables {
        findings.extend(ensure_rights(facts, name, &rights));
        let Some(table) = find(conn, facts, name).await? else {
            findings.push(missing_table(name));
            continue;
        };
        findings.extend(ensure_transactional(&table));
        findings.extend(ensure_no_history(&table));
        findings.extend(ensure_primary_key(&table));
        findings.extend(ensure_no_triggers(facts, &table));
        findings.extend(ensure_types(&table));
        let by_key = vec![PartitionBy::Key];
        let spread = needs.spread.get(name).unwrap_or(&by_key);
        let mut keyed = spread.iter().filter(|_| !table.primary_key.is_empty());
        findings.extend(keyed.find_map(|by| ensure_together(&table, by)));
    }
    Ok(findings)
}

async fn find(
    conn: &mut Conn,
    facts: &Facts,
    name: &(String, String),
) -> Result<Option<Table>, Fault> {
    match schema::load(conn, facts.server.flavor, std::slice::from_ref(name)).await {
        Ok(mut tables) => Ok(tables.pop()),
        Err(fault) if fault.code == Code::Table => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn missing_table(name: &(String, String)) -> Finding {
    Finding {
        code: Code::Table,
        severity: Severity::Error,
        subject: format!("{}.{}", name.0, name.1),
        expected: "the table".into(),
        actual: "not there, or not to be seen by this user".into(),
        remedy: "create the table as it is at the source, or exclude it".into(),
    }
}

fn missing_ledger(name: &(String, String)) -> Finding {
    Finding {
        code: Code::LedgerMissing,
        subject: format!("{}.{}", name.0, name.1),
        expected: "the ledger".into(),
        remedy: "run unitflow init, or have a DBA run what unitflow init --print shows".into(),
        ..missing_table(name)
    }
}

fn ensure_writable(facts: &Facts) -> Option<Finding> {
    ["super_read_only", "read_only"]
        .into_iter()
        .find(|name| matches!(facts.variable(name).to_ascii_uppercase().as_str(), "ON" | "1"))
        .map(|name| Finding {
            code: Code::Setting,
            severity: Severity::Error,
            subject: name.into(),
            expected: "OFF".into(),
            actual: facts.variable(name).into(),
            remedy: "point the store at the unit's primary, or SET GLOBAL read_only=OFF".into(),
        })
}

/// A statement of ordinary rows has to fit; and a row that a source took should, too.
fn ensure_packets(facts: &Facts, needs: &TargetNeeds) -> Option<Finding> {
    let name = "max_allowed_packet";
    let actual: u64 = facts.variable(name).parse().unwrap_or(0);
    let (severity, expected, why) = if actual < PACKET_BYTES_MIN {
        (Severity::Error, PACKET_BYTES_MIN, "")
    } else if actual < needs.packet_bytes {
        (Severity::Warning, needs.packet_bytes, ", as at the source: a larger row parks its table")
    } else {
        return None;
    };
    Some(Finding {
        code: if severity == Severity::Error { Code::Setting } else { Code::TooLarge },
        severity,
        subject: name.into(),
        expected: format!("{expected} or more{why}"),
        actual: actual.to_string(),
        remedy: format!(
            "SET GLOBAL max_allowed_packet={}, and in the server's configuration; then restart the sink",
            expected.max(needs.packet_bytes)
        ),
    })
}

fn ensure_rights(facts: &Facts, name: &(String, String), rights: &[&str]) -> Option<Finding> {
    let missing: Vec<_> = rights
        .iter()
        .filter(|right| !facts.grants.has_on_table(right, &name.0, &name.1))
        .copied()
        .collect();
    (!missing.is_empty()).then(|| {
        let scope = format!("`{}`.`{}`", name.0.replace('`', "``"), name.1.replace('`', "``"));
        lacking(facts, &scope, rights, &missing)
    })
}

fn ensure_global(facts: &Facts, any_of: &[&str], why: &str) -> Option<Finding> {
    let has = any_of.iter().any(|right| facts.grants.has_global(right));
    (!has).then(|| Finding {
        code: Code::Grant,
        severity: Severity::Error,
        subject: facts.user.clone(),
        expected: format!("{} ON *.*, {why}", any_of.join(" or ")),
        actual: "missing".into(),
        remedy: format!("GRANT {} ON *.* TO {}", any_of[0], facts.user),
    })
}

fn ensure_reads_own_log(facts: &Facts) -> Option<Finding> {
    ensure_global(facts, &[READ_LOG], "to see after a crash whether a schema change was run")
}

/// What the server asks of whoever stores code in the name of others.
fn ensure_stores_code(facts: &Facts, needs: &TargetNeeds) -> Vec<Finding> {
    let mut rights: Vec<&str> =
        needs.stored_code.iter().flat_map(|kind| code_rights(*kind)).copied().collect();
    rights.sort_unstable();
    let databases: BTreeSet<&String> = needs.tables.iter().map(|(database, _)| database).collect();
    let mut findings: Vec<Finding> = databases
        .into_iter()
        .filter_map(|database| ensure_rights_on_database(facts, database, &rights))
        .collect();
    if !needs.stored_code.is_empty() {
        let definer: &[&str] = match facts.is_mysql() {
            true if facts.server.at_least(8, 2) => &["SET_ANY_DEFINER"],
            true => &["SET_USER_ID", "SUPER"],
            false => &["SET USER", "SUPER"],
        };
        findings.extend(ensure_global(facts, definer, "to store code for its definer"));
    }
    let may_change = |kind: &Stored| matches!(kind, Stored::Routine | Stored::Trigger);
    if needs.stored_code.iter().any(may_change) && !facts.grants.has_global("SUPER") {
        let remedy =
            "SET GLOBAL log_bin_trust_function_creators=ON, and in the server's configuration";
        findings.extend(setting(facts, "log_bin_trust_function_creators", "ON", remedy));
    }
    findings
}

/// The rights on a database that it takes to store code of this kind in it.
#[must_use]
pub fn code_rights(kind: Stored) -> &'static [&'static str] {
    match kind {
        Stored::View => &["CREATE VIEW"],
        Stored::Trigger => &["TRIGGER"],
        Stored::Routine => &["ALTER ROUTINE", "CREATE ROUTINE"],
        Stored::Event => &["EVENT"],
    }
}

fn ensure_rights_on_database(facts: &Facts, database: &str, rights: &[&str]) -> Option<Finding> {
    let missing: Vec<&str> = rights
        .iter()
        .filter(|right| !facts.grants.has_on_database(right, database))
        .copied()
        .collect();
    (!missing.is_empty()).then(|| {
        let scope = format!("`{}`.*", database.replace('`', "``"));
        lacking(facts, &scope, rights, &missing)
    })
}

fn lacking(facts: &Facts, scope: &str, rights: &[&str], missing: &[&str]) -> Finding {
    Finding {
        code: Code::Grant,
        severity: Severity::Error,
        subject: facts.user.clone(),
        expected: format!("{} ON {scope}", rights.join(", ")),
        actual: format!("missing: {}", missing.join(", ")),
        remedy: format!("GRANT {} ON {scope} TO {}", missing.join(", "), facts.user),
    }
}

fn of_table(table: &Table, code: Code, expected: &str, actual: String, remedy: &str) -> Finding {
    Finding {
        code,
        severity: Severity::Error,
        subject: format!("{}.{}", table.database, table.name),
        expected: expected.into(),
        actual,
        remedy: remedy.into(),
    }
}

/// Mark and data have to commit together.
fn ensure_transactional(table: &Table) -> Option<Finding> {
    (!table.engine.eq_ignore_ascii_case("InnoDB")).then(|| {
        let engine = if table.engine.is_empty() { "a view".into() } else { table.engine.clone() };
        of_table(
            table,
            Code::Table,
            "engine InnoDB",
            engine,
            "ALTER TABLE … ENGINE=InnoDB, or exclude it",
        )
    })
}

/// A system-versioned table's old rows and times are its own; they would begin anew.
fn ensure_no_history(table: &Table) -> Option<Finding> {
    table.versioned.then(|| {
        of_table(
            table,
            Code::Table,
            "no system versioning",
            "system-versioned".into(),
            "ALTER TABLE … DROP SYSTEM VERSIONING, or exclude the table",
        )
    })
}

fn ensure_primary_key(table: &Table) -> Option<Finding> {
    table.primary_key.is_empty().then(|| {
        of_table(
            table,
            Code::NoPrimaryKey,
            "a primary key",
            "none".into(),
            "add a primary key in every unit, or exclude the table",
        )
    })
}

/// A trigger's effects are in the source's log already and would be made a second time.
fn ensure_no_triggers(facts: &Facts, table: &Table) -> Option<Finding> {
    if !facts.grants.has_on_table("TRIGGER", &table.database, &table.name) {
        let finding = of_table(
            table,
            Code::Grant,
            "to see whether the table has triggers",
            "the user lacks TRIGGER on it".into(),
            "look for triggers by hand, or let a user with more rights run the check",
        );
        return Some(Finding { severity: Severity::Warning, ..finding });
    }
    (!table.triggers.is_empty()).then(|| {
        of_table(
            table,
            Code::Table,
            "no triggers",
            table.triggers.join(", "),
            "drop the triggers, or exclude the table: what they write travels by itself",
        )
    })
}

/// Rows that exclude each other have to come in one order: two rows may swap a unique value, and one
/// text may follow another that the server takes for equal.
fn ensure_together(table: &Table, by: &PartitionBy) -> Option<Finding> {
    let key = table.parted_key(by)?;
    let finding = of_table(
        table,
        Code::Table,
        "no unique key but the primary, or all changes in one lane",
        key.to_owned(),
        "keep the table in one lane: partition_by = { \"…\" = \"table\" }, which a unique key at the source does by itself",
    );
    Some(match key {
        // By the bytes of a key that the server folds; who writes it may know that it never differs.
        "PRIMARY" => Finding {
            severity: Severity::Warning,
            expected: "a primary key of exact values, or all changes in one lane".into(),
            ..finding
        },
        _ => finding,
    })
}

fn ensure_types(table: &Table) -> Vec<Finding> {
    table
        .columns
        .iter()
        .filter_map(|column| match &column.kind {
            Type::Other(kind) => Some(of_table(
                table,
                Code::Table,
                "columns of known types",
                format!("{} {kind}", column.name),
                "change the column's type, or exclude the table",
            )),
            _ => None,
        })
        .collect()
}
