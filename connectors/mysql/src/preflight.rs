//! What has to be so before a server is captured from or written to.
//!
//! Small guards, each about one thing; all run, and all that is found is returned. Facts are read
//! first, so that most guards are plain functions of them. What can't be read at all is a fault.

mod fit;
mod grants;
mod source;
mod target;

use std::collections::{BTreeMap, HashMap};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use unitflow_change::ddl::Stored;
use unitflow_change::fault::{Code, Fault};
use unitflow_change::routing::PartitionBy;

pub use fit::check_fit;
pub use grants::Grants;
pub use target::code_rights;

use crate::connect::{Flavor, Server, fault, first};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, but something may be lost or done that should not be.
    Warning,
    /// It does not work, or loses changes.
    Error,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The section of the runbook.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// The setting, right or table.
    pub subject: String,
    /// What it should be.
    pub expected: String,
    /// What it is.
    pub actual: String,
    /// What mends it: a statement, where there is one.
    pub remedy: String,
}

/// What a source is checked for.
#[derive(Clone, Debug)]
pub struct SourceNeeds {
    /// The databases to capture; MariaDB's hidden column types are asked for there.
    pub databases: Vec<String>,
    /// The database of the ledger, which the log must not leave out.
    pub ledger_database: String,
    /// The longest outage that the source's log has to bridge.
    pub outage_seconds_max: u64,
}

/// What a target is checked for.
#[derive(Clone, Debug)]
pub struct TargetNeeds {
    /// The tables to write to.
    pub tables: Vec<(String, String)>,
    /// How the logs that are applied here spread the rows of these tables over lanes, where it is
    /// not by primary key.
    pub spread: BTreeMap<(String, String), Vec<PartitionBy>>,
    /// The database of the ledger.
    pub ledger_database: String,
    /// The ledger's tables.
    pub ledger_tables: Vec<String>,
    /// The largest `max_allowed_packet` among the sources; 0 where it is not known.
    pub packet_bytes: u64,
    /// Schema changes of another unit are run here.
    pub applies_ddl: bool,
    /// And so is code of these kinds that it stores.
    pub stored_code: Vec<Stored>,
}

/// Checks a server that is captured from, as the user of this connection.
pub async fn check_source(conn: &mut Conn, needs: &SourceNeeds) -> Result<Vec<Finding>, Fault> {
    let facts = Facts::read(conn).await?;
    Ok(source::guards(&facts, needs))
}

/// Checks a server that is written to, as the user of this connection.
pub async fn check_target(conn: &mut Conn, needs: &TargetNeeds) -> Result<Vec<Finding>, Fault> {
    let facts = Facts::read(conn).await?;
    target::guards(conn, &facts, needs).await
}

/// The `max_allowed_packet` of a server: no client can have written a larger row there.
pub async fn packet_bytes(conn: &mut Conn) -> Result<u64, Fault> {
    first::<(u64,)>(conn, "SELECT @@global.max_allowed_packet").await.map(|(bytes,)| bytes)
}

/// What is read of a server before any guard looks at it.
struct Facts {
    server: Server,
    variables: HashMap<String, String>,
    grants: Grants,
    /// As a statement names it.
    user: String,
    /// The databases that the log is limited to, and those that it leaves out.
    log_only: Vec<String>,
    log_without: Vec<String>,
}

impl Facts {
    async fn read(conn: &mut Conn) -> Result<Self, Fault> {
        let server = Server::read(conn).await?;
        let variables: Vec<(String, String)> =
            conn.query("SHOW GLOBAL VARIABLES").await.map_err(|error| fault(&error))?;
        let variables =
            variables.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
        let (user,): (String,) = first(conn, "SELECT CURRENT_USER()").await?;
        let user = match user.rsplit_once('@') {
            Some((name, host)) => {
                format!("'{}'@'{}'", name.replace('\'', "''"), host.replace('\'', "''"))
            }
            None => user,
        };
        let grants = conn.query("SHOW GRANTS").await.map_err(|error| fault(&error))?;
        let (log_only, log_without) = read_filters(conn, &server).await?;
        Ok(Self { server, variables, grants: Grants::parse(&grants), user, log_only, log_without })
    }

    fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    fn is_mysql(&self) -> bool {
        self.server.flavor == Flavor::Mysql
    }
}

/// `binlog_do_db` and `binlog_ignore_db` are no variables; they stand beside the log's position.
/// Without the right to see it the guard of that right speaks.
async fn read_filters(
    conn: &mut Conn,
    server: &Server,
) -> Result<(Vec<String>, Vec<String>), Fault> {
    let query = match server.flavor {
        Flavor::Mysql if server.at_least(8, 2) => "SHOW BINARY LOG STATUS",
        _ => "SHOW MASTER STATUS",
    };
    let row: Option<mysql_async::Row> = match conn.query_first(query).await {
        Ok(row) => row,
        Err(error) => {
            let fault = fault(&error);
            if fault.code == Code::Grant { None } else { return Err(fault) }
        }
    };
    let list = |place: usize| -> Vec<String> {
        let text =
            row.as_ref().and_then(|row| row.get_opt::<String, _>(place)).and_then(Result::ok);
        text.unwrap_or_default()
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect()
    };
    Ok((list(2), list(3)))
}

/// A setting that has to have a value.
fn setting(
    facts: &Facts,
    name: &str,
    expected: &str,
    remedy: impl Into<String>,
) -> Option<Finding> {
    let actual = facts.variable(name);
    let on = |text: &str| matches!(text.to_ascii_uppercase().as_str(), "ON" | "1" | "YES");
    let same = actual.eq_ignore_ascii_case(expected) || (on(actual) && on(expected));
    (!same).then(|| Finding {
        code: Code::Setting,
        severity: Severity::Error,
        subject: name.into(),
        expected: if expected.is_empty() { "empty".into() } else { expected.into() },
        actual: match facts.variables.get(name) {
            None => "not there".into(),
            Some(actual) if actual.is_empty() => "empty".into(),
            Some(actual) => actual.clone(),
        },
        remedy: remedy.into(),
    })
}
