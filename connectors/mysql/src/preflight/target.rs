//! Guards of a server that is written to.

use mysql_async::Conn;
use unitflow_change::fault::{Code, Fault};
use unitflow_change::routing::PartitionBy;

use super::grants::excess;
use super::source::ensure_version;
use super::{Facts, Finding, Severity, TargetNeeds};
use crate::schema::{self, Table, Type};

/// What a sink does with tables.
const RIGHTS: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// And with their schema, where it applies another unit's changes.
const DDL_RIGHTS: &[&str] = &["CREATE", "ALTER", "DROP", "INDEX", "REFERENCES"];

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
    "REPLICATION SLAVE",
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
    let needed = |right: &&&str| !(needs.applies_ddl && DDL_RIGHTS.contains(*right));
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
        (Severity::Warning, needs.packet_bytes, ", as at the source: a larger row stops its lane")
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
        Finding {
            code: Code::Grant,
            severity: Severity::Error,
            subject: facts.user.clone(),
            expected: format!("{} ON {scope}", rights.join(", ")),
            actual: format!("missing: {}", missing.join(", ")),
            remedy: format!("GRANT {} ON {scope} TO {}", missing.join(", "), facts.user),
        }
    })
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
