//! The database `unitflow` as this build needs it, and what one lacks that an older build made.
//!
//! The statements that create it are the only description: each column stands in a line of its own,
//! from which the statement that adds it later is made. Nothing is ever taken away or changed, and
//! what comes later may be NULL or has a default, so an older build goes on beside a newer one.

use std::collections::HashSet;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use unitflow_change::ddl::INTERNAL_COMMENT;
use unitflow_change::{Code, Fault};
use unitflow_mysql::connect::fault as judge;

/// What creates the database (named by the empty text) and its tables, in order, each column in a
/// line of its own. The comment keeps the statements out of other units.
pub const OBJECTS: &[(&str, &str)] = &[
    ("", "CREATE DATABASE unitflow /* unitflow internal */"),
    (
        "ledger",
        "CREATE TABLE unitflow.ledger (
  log VARCHAR(65) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'unit.store the changes come from',
  lane INT NOT NULL COMMENT 'partition of the tagged topic',
  seq BIGINT UNSIGNED NOT NULL COMMENT 'last record applied',
  topic_id VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'Kafka id of the tagged topic',
  topic_offset BIGINT NOT NULL COMMENT 'offset to read next',
  origin VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'unit whose changes these are',
  committed_at TIMESTAMP(6) NULL COMMENT 'when the source committed the last one',
  applied_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  barrier BIGINT UNSIGNED NULL COMMENT 'the last record that all lanes have to reach together',
  PRIMARY KEY (log, lane)
) ENGINE=InnoDB COMMENT='Where each lane stands; written by Unitflow only' /* unitflow internal */",
    ),
    (
        "ddl",
        "CREATE TABLE unitflow.ddl (
  log VARCHAR(65) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'unit.store it comes from',
  seq BIGINT UNSIGNED NOT NULL COMMENT 'its record there',
  db VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'the session''s database',
  ddl MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  sql_mode BIGINT UNSIGNED NOT NULL,
  session TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT ('') COMMENT 'what else of the session it depends on, as JSON',
  position MEDIUMTEXT CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'what this server had executed before it',
  announced_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  done_at TIMESTAMP(6) NULL,
  PRIMARY KEY (log, seq)
) ENGINE=InnoDB COMMENT='Schema changes that Unitflow ran here, or is about to' /* unitflow internal */",
    ),
    (
        "parked",
        "CREATE TABLE unitflow.parked (
  log VARCHAR(65) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'unit.store the changes come from',
  lane INT NOT NULL COMMENT 'partition of the tagged topic',
  db VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  tbl VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  seq BIGINT UNSIGNED NOT NULL COMMENT 'last record of the table that is applied',
  topic_offset BIGINT NOT NULL COMMENT 'offset to go on from',
  ddl_seq BIGINT UNSIGNED NULL COMMENT 'the schema change that it waits for',
  code VARCHAR(32) CHARACTER SET ascii NOT NULL,
  why TEXT CHARACTER SET utf8mb4 NOT NULL,
  control_offset BIGINT NOT NULL COMMENT 'the last order known then',
  parked_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (log, lane, db, tbl)
) ENGINE=InnoDB COMMENT='Tables whose changes wait for a person' /* unitflow internal */",
    ),
    (
        "marker",
        "CREATE TABLE unitflow.marker (
  name VARCHAR(96) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  n BIGINT UNSIGNED NOT NULL,
  PRIMARY KEY (name)
) ENGINE=InnoDB COMMENT='Written to find its place in this server''s log' /* unitflow internal */",
    ),
    (
        "filling",
        "CREATE TABLE unitflow.filling (
  db VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  tbl VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  log VARCHAR(65) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'unit.store whose rows count',
  job VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  begun_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (db, tbl)
) ENGINE=InnoDB COMMENT='Tables that are being copied: what does not fit is read again' /* unitflow internal */",
    ),
    (
        "unsettled",
        "CREATE TABLE unitflow.unsettled (
  row_hash CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  log VARCHAR(65) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'unit.store of the record that was not applied',
  lane INT NOT NULL,
  seq BIGINT UNSIGNED NOT NULL,
  db VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  tbl VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  row_key MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'as in the record',
  why VARCHAR(64) CHARACTER SET ascii NOT NULL,
  noted_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (row_hash, log, lane, seq),
  KEY by_table (db, tbl)
) ENGINE=InnoDB COMMENT='Rows that have to be read again from the unit that they are copied from' /* unitflow internal */",
    ),
    (
        "heartbeat",
        "CREATE TABLE unitflow.heartbeat (
  unit VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  beat BIGINT UNSIGNED NOT NULL,
  beat_at TIMESTAMP(6) NOT NULL,
  PRIMARY KEY (unit)
) ENGINE=InnoDB COMMENT='The clock of each unit, as it arrived here' /* unitflow internal */",
    ),
    (
        "lag",
        "CREATE SQL SECURITY INVOKER VIEW unitflow.lag AS
SELECT unit, beat_at, TIMESTAMPDIFF(MICROSECOND, beat_at, CURRENT_TIMESTAMP(6)) / 1000000 AS lag_seconds
FROM unitflow.heartbeat /* unitflow internal */",
    ),
];

/// Something that the database lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Its name: `schema unitflow`, `unitflow.ledger`, `unitflow.ddl.session`.
    pub what: String,
    /// The table, whose name is empty for the database itself.
    pub table: &'static str,
    /// What adds it.
    pub statement: String,
    /// Whether that takes the right to alter tables, rather than to create them.
    pub alters: bool,
}

/// What the database lacks, in the order in which it has to be added.
pub async fn lacking(conn: &mut Conn) -> Result<Vec<Lack>, Fault> {
    const SCHEMATA: &str =
        "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'unitflow'";
    const COLUMNS: &str = "SELECT TABLE_NAME, COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = 'unitflow'";
    let judged = |error| judge(&error).at("unitflow");
    let database: Option<String> = conn.query_first(SCHEMATA).await.map_err(judged)?;
    let columns: Vec<(String, String)> = conn.query(COLUMNS).await.map_err(judged)?;
    Ok(compare(database.is_some(), &columns))
}

/// Adds it. Who repeats it after a failure goes on where that was.
pub async fn add(conn: &mut Conn, lack: &Lack) -> Result<(), Fault> {
    conn.query_drop(&lack.statement).await.map_err(|error| judge(&error).at(&lack.what))
}

/// What this build needs and the database lacks is a fault, before a statement meets it.
pub async fn ensure_complete(conn: &mut Conn) -> Result<(), Fault> {
    match lacking(conn).await?.first() {
        Some(lack) => Err(Fault::fatal(
            Code::LedgerMissing,
            format!("{} is not there: nobody made it, or an older build the rest", lack.what),
        )
        .hint("unitflow init adds what is lacking; so does a DBA by what unitflow check shows")),
        None => Ok(()),
    }
}

fn compare(has_database: bool, columns: &[(String, String)]) -> Vec<Lack> {
    let tables: HashSet<&str> = columns.iter().map(|(table, _)| table.as_str()).collect();
    let known: HashSet<(&str, &str)> =
        columns.iter().map(|(table, column)| (table.as_str(), column.as_str())).collect();
    let mut lacks = Vec::new();
    for &(table, create) in OBJECTS {
        let exists = if table.is_empty() { has_database } else { tables.contains(table) };
        if !exists {
            let statement = create.to_owned();
            lacks.push(Lack { what: named(table), table, statement, alters: false });
            continue;
        }
        let added = added(table, create).filter(|(column, _)| !known.contains(&(table, *column)));
        lacks.extend(added.map(|(column, statement)| Lack {
            what: format!("{}.{column}", named(table)),
            table,
            statement,
            alters: true,
        }));
    }
    lacks
}

fn named(table: &str) -> String {
    if table.is_empty() { "schema unitflow".to_owned() } else { format!("unitflow.{table}") }
}

/// A table's columns, each with what adds it at its place. A statement's lines that are indented and
/// begin with a small letter are its columns; keys are written in capitals.
fn added<'a>(table: &'a str, create: &'a str) -> impl Iterator<Item = (&'a str, String)> + use<'a> {
    let mut place = "FIRST".to_owned();
    create.lines().filter_map(move |line| {
        let definition = line.strip_prefix("  ")?.trim_end_matches(',');
        let (column, _) = definition.split_once(' ')?;
        column.starts_with(|first: char| first.is_ascii_lowercase()).then(|| {
            let statement = format!(
                "ALTER TABLE unitflow.{table} ADD COLUMN {definition} {place} {INTERNAL_COMMENT}"
            );
            place = format!("AFTER {column}");
            (column, statement)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that there is, but what is taken away.
    fn without(gone: impl Fn(&str, &str) -> bool) -> Vec<(String, String)> {
        let columns_of = |&(table, create): &(&'static str, &'static str)| {
            let mut columns: Vec<_> =
                added(table, create).map(|(column, _)| (table, column.to_owned())).collect();
            if table == "lag" {
                columns.push((table, "unit".to_owned()));
            }
            columns
        };
        let all = OBJECTS.iter().flat_map(columns_of);
        let kept = all.filter(|(table, column)| !gone(table, column));
        kept.map(|(table, column)| (table.to_owned(), column)).collect()
    }

    fn lacks(has_database: bool, columns: &[(String, String)]) -> Vec<String> {
        compare(has_database, columns).into_iter().map(|lack| lack.what).collect()
    }

    #[test]
    fn what_is_lacking_is_named_in_order() {
        assert_eq!(lacks(true, &without(|_, _| false)), Vec::<String>::new());
        assert_eq!(lacks(false, &[]).len(), OBJECTS.len());
        assert_eq!(lacks(false, &[])[0], "schema unitflow");
        let older = without(|table, column| {
            table == "marker" || (table == "ddl" && column == "session") || column == "barrier"
        });
        assert_eq!(
            lacks(true, &older),
            ["unitflow.ledger.barrier", "unitflow.ddl.session", "unitflow.marker"]
        );
    }

    #[test]
    fn a_column_is_added_as_it_is_created() {
        let older = without(|table, column| table == "ledger" && column == "barrier");
        assert_eq!(
            compare(true, &older)[0].statement,
            "ALTER TABLE unitflow.ledger ADD COLUMN barrier BIGINT UNSIGNED NULL \
             COMMENT 'the last record that all lanes have to reach together' AFTER applied_at \
             /* unitflow internal */"
        );
    }

    /// A column that stands in no line of its own would never be added.
    #[test]
    fn each_line_of_a_table_is_a_column_or_a_key() {
        for (table, create) in
            OBJECTS.iter().filter(|(_, create)| create.starts_with("CREATE TABLE"))
        {
            let lines = create.lines().filter(|line| line.starts_with("  "));
            let keys = lines.clone().filter(|line| line.contains("KEY ")).count();
            assert_eq!(added(table, create).count() + keys, lines.count(), "{table}");
            assert!(keys > 0 && create.ends_with(INTERNAL_COMMENT), "{table}");
        }
    }
}
