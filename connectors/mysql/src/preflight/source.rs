//! Guards of a server that is captured from.

use unitflow_change::fault::Code;

use super::grants::excess;
use super::{Facts, Finding, Severity, SourceNeeds, setting};

/// Rights with which the capture user could change or take away what it should only read.
const EXCESSIVE: &[&str] = &[
    "INSERT",
    "UPDATE",
    "DELETE",
    "CREATE",
    "DROP",
    "ALTER",
    "SUPER",
    "FILE",
    "SHUTDOWN",
    "CREATE USER",
    "SYSTEM_VARIABLES_ADMIN",
    "BINLOG_ADMIN",
    "BINLOG ADMIN",
    "REPLICATION MASTER ADMIN",
];

/// Rights of which MariaDB wants one before it shows what foreign keys do.
const SHOWS_KEYS: &[&str] =
    &["TRIGGER", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "INDEX", "REFERENCES"];

pub(super) fn guards(facts: &Facts, needs: &SourceNeeds) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(ensure_version(facts));
    findings.extend(ensure_log(facts));
    findings.extend(ensure_row_format(facts));
    findings.extend(ensure_row_image(facts));
    findings.extend(ensure_row_metadata(facts));
    findings.extend(ensure_transactions_fit(facts));
    findings.extend(ensure_gtids(facts));
    findings.extend(ensure_replicated_changes_are_logged(facts));
    findings.extend(ensure_log_is_kept(facts, needs));
    findings.extend(ensure_ledger_is_logged(facts, needs));
    findings.extend(ensure_nothing_is_left_out(facts, needs));
    findings.extend(ensure_durable(facts));
    findings.extend(ensure_rights(facts, needs));
    findings.extend(excess(&facts.grants, &facts.user, EXCESSIVE, "capture"));
    findings
}

pub(super) fn ensure_version(facts: &Facts) -> Option<Finding> {
    let (floor, text) =
        if facts.is_mysql() { ((8, 0), "MySQL 8.0") } else { ((10, 6), "MariaDB 10.6") };
    let (major, minor, patch) = facts.server.version;
    (!facts.server.at_least(floor.0, floor.1)).then(|| Finding {
        code: Code::Setting,
        severity: Severity::Error,
        subject: "version".into(),
        expected: format!("{text} or later"),
        actual: format!("{major}.{minor}.{patch}"),
        remedy: "upgrade the server".into(),
    })
}

fn ensure_log(facts: &Facts) -> Option<Finding> {
    setting(facts, "log_bin", "ON", "start the server with log_bin=binlog")
}

fn ensure_row_format(facts: &Facts) -> Option<Finding> {
    setting(
        facts,
        "binlog_format",
        "ROW",
        "SET GLOBAL binlog_format='ROW', and in the server's configuration; sessions keep theirs until they reconnect",
    )
}

fn ensure_row_image(facts: &Facts) -> Option<Finding> {
    setting(
        facts,
        "binlog_row_image",
        "FULL",
        "SET GLOBAL binlog_row_image='FULL', and in the server's configuration; sessions keep theirs until they reconnect",
    )
}

fn ensure_row_metadata(facts: &Facts) -> Option<Finding> {
    setting(
        facts,
        "binlog_row_metadata",
        "FULL",
        "SET GLOBAL binlog_row_metadata='FULL', and in the server's configuration",
    )
}

/// MySQL may pack whole transactions, which the driver unpacks at once and in memory.
fn ensure_transactions_fit(facts: &Facts) -> Option<Finding> {
    if !facts.variables.contains_key("binlog_transaction_compression") {
        return None;
    }
    let finding = setting(
        facts,
        "binlog_transaction_compression",
        "OFF",
        "SET GLOBAL binlog_transaction_compression=OFF, or give the connector as much memory as the largest transaction has rows",
    );
    finding.map(|finding| Finding { severity: Severity::Warning, ..finding })
}

fn ensure_gtids(facts: &Facts) -> Vec<Finding> {
    let needed: &[(&str, &str)] = if facts.is_mysql() {
        &[
            ("gtid_mode", "step by step as the manual says: OFF_PERMISSIVE, ON_PERMISSIVE, ON"),
            ("enforce_gtid_consistency", "SET GLOBAL enforce_gtid_consistency=ON"),
        ]
    } else {
        &[("gtid_strict_mode", "SET GLOBAL gtid_strict_mode=ON, and in the server's configuration")]
    };
    needed.iter().filter_map(|(name, remedy)| setting(facts, name, "ON", *remedy)).collect()
}

/// Else changes that came by native replication, and a former replica's whole log, are missing.
fn ensure_replicated_changes_are_logged(facts: &Facts) -> Option<Finding> {
    let name = match facts.variables.contains_key("log_replica_updates") {
        true => "log_replica_updates",
        false => "log_slave_updates",
    };
    setting(facts, name, "ON", format!("{name}=ON in the server's configuration, then restart it"))
}

fn ensure_log_is_kept(facts: &Facts, needs: &SourceNeeds) -> Option<Finding> {
    let kept: u64 = facts.variable("binlog_expire_logs_seconds").parse().unwrap_or(0);
    let never =
        kept == 0 || facts.variable("binlog_expire_logs_auto_purge").eq_ignore_ascii_case("OFF");
    (!never && kept < needs.outage_seconds_max).then(|| Finding {
        code: Code::Setting,
        severity: Severity::Error,
        subject: "binlog_expire_logs_seconds".into(),
        expected: format!(
            "0, or at least {} (the longest outage to bridge)",
            needs.outage_seconds_max
        ),
        actual: kept.to_string(),
        remedy: format!(
            "SET GLOBAL binlog_expire_logs_seconds={}, and in the server's configuration",
            needs.outage_seconds_max
        ),
    })
}

fn ensure_ledger_is_logged(facts: &Facts, needs: &SourceNeeds) -> Vec<Finding> {
    let ledger = &needs.ledger_database;
    let hidden = |subject: &str, expected: String, list: &[String]| Finding {
        code: Code::LedgerHidden,
        severity: Severity::Error,
        subject: subject.into(),
        expected,
        actual: list.join(","),
        remedy: format!(
            "change {subject} in the server's configuration and restart it: without the ledger in the log every applied change travels back"
        ),
    };
    let mut findings = Vec::new();
    if !facts.log_only.is_empty() && !facts.log_only.contains(ledger) {
        findings.push(hidden("binlog_do_db", format!("empty, or with {ledger}"), &facts.log_only));
    }
    if facts.log_without.contains(ledger) {
        findings.push(hidden("binlog_ignore_db", format!("without {ledger}"), &facts.log_without));
    }
    findings
}

/// Databases to be captured that the log leaves out.
fn ensure_nothing_is_left_out(facts: &Facts, needs: &SourceNeeds) -> Option<Finding> {
    let missing: Vec<_> = needs
        .databases
        .iter()
        .filter(|name| {
            (!facts.log_only.is_empty() && !facts.log_only.contains(name))
                || facts.log_without.contains(name)
        })
        .cloned()
        .collect();
    (!missing.is_empty()).then(|| Finding {
        code: Code::Setting,
        severity: Severity::Error,
        subject: "binlog_do_db, binlog_ignore_db".into(),
        expected: "all captured databases in the log".into(),
        actual: format!("left out: {}", missing.join(", ")),
        remedy: "change the filters in the server's configuration and restart it".into(),
    })
}

/// A crash of the machine may take back what was captured already.
fn ensure_durable(facts: &Facts) -> Vec<Finding> {
    ["sync_binlog", "innodb_flush_log_at_trx_commit"]
        .into_iter()
        .filter_map(|name| setting(facts, name, "1", format!("SET GLOBAL {name}=1, and in the server's configuration; otherwise a crash of the machine can lose changes that other units have already")))
        .map(|finding| Finding { severity: Severity::Warning, ..finding })
        .collect()
}

fn ensure_rights(facts: &Facts, needs: &SourceNeeds) -> Vec<Finding> {
    let grants = &facts.grants;
    let mut findings = Vec::new();
    let mut missing = |right: &str, scope: String| {
        findings.push(Finding {
            code: Code::Grant,
            severity: Severity::Error,
            subject: facts.user.clone(),
            expected: format!("{right} ON {scope}"),
            actual: "missing".into(),
            remedy: format!("GRANT {right} ON {scope} TO {}", facts.user),
        });
    };
    if !grants.has_global("REPLICATION SLAVE") {
        missing("REPLICATION SLAVE", "*.*".into());
    }
    // One right under two names: MariaDB calls it BINLOG MONITOR since 10.5.
    let monitor = if facts.is_mysql() { "REPLICATION CLIENT" } else { "BINLOG MONITOR" };
    if !grants.has_global("REPLICATION CLIENT") && !grants.has_global("BINLOG MONITOR") {
        missing(monitor, "*.*".into());
    }
    // MySQL's log says everything about columns; MariaDB's does not.
    if !facts.is_mysql() {
        for database in &needs.databases {
            if !grants.has_on_database("SELECT", database) {
                missing("SELECT", format!("`{}`.*", database.replace('`', "``")));
            }
            if !SHOWS_KEYS.iter().any(|right| grants.has_on_database(right, database)) {
                missing("TRIGGER", format!("`{}`.*", database.replace('`', "``")));
            }
        }
    }
    findings
}
