//! Tables that are being filled, and rows of them that could not be settled yet.
//!
//! While a table is filled, a change that does not fit the row it finds does not stop its lane: the
//! row is noted, and read again from the unit whose rows count. So the table may be half there, and
//! units may write to the very rows that are under way. A note goes when a copy is written that the
//! noted change was part of.

use std::collections::BTreeSet;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use unitflow_change::copy::Chunk;
use unitflow_change::ddl::TableName;
use unitflow_change::key::Key;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault};
use unitflow_mysql::connect::fault as judge;
use unitflow_mysql::literal::quote_string;

use super::identity;

/// Keys looked up in the notes by one statement.
const NAMES_PER_STATEMENT: usize = 500;

/// Why a row is noted that this unit has written since it was read.
pub const WRITTEN_HERE: &str = "written here since";
/// Why a row is noted that can't be written before another one gives up a unique value.
pub const TAKEN: &str = "unique value taken";

/// A record that was not applied to its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The row's key, plain, in the mesh's names.
    pub key: Vec<u8>,
    /// The log of the record.
    pub log: Log,
    /// Its lane.
    pub lane: i32,
    /// Its number.
    pub seq: Seq,
    /// In a word or two.
    pub why: String,
}

/// Notes rows, in one transaction.
pub async fn note(conn: &mut Conn, notes: &[Note]) -> Result<(), Fault> {
    let judge = |error: mysql_async::Error| judge(&error).at("unitflow.unsettled");
    conn.query_drop("BEGIN").await.map_err(judge)?;
    for note in notes {
        conn.query_drop(noted(note)?).await.map_err(judge)?;
    }
    conn.query_drop("COMMIT").await.map_err(judge)
}

/// What is written of a table that is being filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// In the mesh's names.
    pub table: TableName,
    /// The log whose unit's rows count.
    pub log: String,
    /// The command that fills it.
    pub filler: String,
}

/// All that is being filled in this unit.
pub async fn marks(conn: &mut Conn) -> Result<Vec<Mark>, Fault> {
    let rows: Vec<(String, String, String, String)> = conn
        .query("SELECT db, tbl, log, job FROM unitflow.filling ORDER BY db, tbl")
        .await
        .map_err(|error| judge(&error).at("unitflow.filling"))?;
    let named =
        |(database, table, log, filler)| Mark { table: TableName { database, table }, log, filler };
    Ok(rows.into_iter().map(named).collect())
}

/// The tables that are being filled in this unit.
pub async fn tables(conn: &mut Conn) -> Result<BTreeSet<TableName>, Fault> {
    let rows: Vec<(String, String)> = conn
        .query("SELECT db, tbl FROM unitflow.filling")
        .await
        .map_err(|error| judge(&error).at("unitflow.filling"))?;
    Ok(rows.into_iter().map(|(database, table)| TableName { database, table }).collect())
}

/// A table that is being filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filling {
    /// In the mesh's names.
    pub table: TableName,
    /// The command that fills it.
    pub filler: String,
    /// How many of its rows are noted.
    pub unsettled: u64,
}

/// The tables that are being filled in this unit with the rows of a log's unit.
pub async fn of(conn: &mut Conn, log: &Log) -> Result<Vec<Filling>, Fault> {
    let rows: Vec<(String, String, String, u64)> = conn
        .exec(
            "SELECT db, tbl, job, (SELECT COUNT(DISTINCT row_hash) FROM unitflow.unsettled AS noted \
             WHERE noted.db = filling.db AND noted.tbl = filling.tbl) \
             FROM unitflow.filling AS filling WHERE log = ? ORDER BY db, tbl",
            (log.to_string(),),
        )
        .await
        .map_err(|error| judge(&error).at("unitflow.filling"))?;
    let named = |(database, table, filler, unsettled)| Filling {
        table: TableName { database, table },
        filler,
        unsettled,
    };
    Ok(rows.into_iter().map(named).collect())
}

/// Lets these tables be filled by a command. One that is filled already becomes that command's if it
/// `takes_over`; else nothing changes.
pub async fn begin(
    conn: &mut Conn,
    tables: &[TableName],
    log: &Log,
    (filler, takes_over): (&str, bool),
) -> Result<(), Fault> {
    let known = if takes_over { "log = VALUES(log), job = VALUES(job)" } else { "job = job" };
    let begin = format!(
        "INSERT INTO unitflow.filling (db, tbl, log, job) VALUES (?, ?, ?, ?) ON DUPLICATE KEY UPDATE {known}"
    );
    for table in tables {
        conn.exec_drop(&begin, (&table.database, &table.table, log.to_string(), filler))
            .await
            .map_err(|error| judge(&error).at("unitflow.filling"))?;
    }
    Ok(())
}

/// These tables are filled, where it was this command that did it.
pub async fn end(conn: &mut Conn, tables: &[TableName], filler: &str) -> Result<(), Fault> {
    for table in tables {
        conn.exec_drop(
            "DELETE FROM unitflow.filling WHERE db = ? AND tbl = ? AND job = ?",
            (&table.database, &table.table, filler),
        )
        .await
        .map_err(|error| judge(&error).at("unitflow.filling"))?;
    }
    Ok(())
}

/// All notes of at most `limit` rows of these tables.
pub async fn notes(
    conn: &mut Conn,
    tables: &[TableName],
    limit: usize,
) -> Result<Vec<Note>, Fault> {
    let mut sql = b"SELECT row_key, log, lane, seq, why FROM unitflow.unsettled JOIN \
        (SELECT DISTINCT row_hash FROM unitflow.unsettled WHERE (db, tbl) IN ("
        .to_vec();
    write_tables(&mut sql, tables);
    sql.extend_from_slice(format!(") LIMIT {limit}) AS noted USING (row_hash)").as_bytes());
    let rows: Vec<(String, String, i32, u64, String)> =
        conn.query(sql).await.map_err(|error| judge(&error).at("unitflow.unsettled"))?;
    rows.into_iter()
        .map(|(key, log, lane, seq, why)| {
            let log = Log::parse(&log).ok_or_else(|| {
                Fault::fatal(Code::Record, format!("unitflow.unsettled names the log {log:?}"))
            })?;
            Ok(Note { key: key.into_bytes(), log, lane, seq: Seq(seq), why })
        })
        .collect()
}

/// The tables of which a change of this log is noted: it was not applied.
pub async fn noted_of(conn: &mut Conn, log: &Log) -> Result<Vec<TableName>, Fault> {
    let rows: Vec<(String, String)> = conn
        .exec(
            "SELECT DISTINCT db, tbl FROM unitflow.unsettled WHERE log = ? ORDER BY db, tbl",
            (log.to_string(),),
        )
        .await
        .map_err(|error| judge(&error).at("unitflow.unsettled"))?;
    Ok(rows.into_iter().map(|(database, table)| TableName { database, table }).collect())
}

/// Whether a row of these tables is noted.
pub async fn is_any(conn: &mut Conn, tables: &[TableName]) -> Result<bool, Fault> {
    let mut sql = b"SELECT 1 FROM unitflow.unsettled WHERE (db, tbl) IN (".to_vec();
    write_tables(&mut sql, tables);
    sql.extend_from_slice(b") LIMIT 1");
    let any: Option<u8> =
        conn.query_first(sql).await.map_err(|error| judge(&error).at("unitflow.unsettled"))?;
    Ok(any.is_some())
}

/// Takes back notes of the unit whose rows count: every other unit has been sent the row since.
pub async fn forget(conn: &mut Conn, notes: &[Note]) -> Result<(), Fault> {
    for note in notes {
        conn.exec_drop(
            "DELETE FROM unitflow.unsettled WHERE row_hash = ? AND log = ? AND lane = ? AND seq = ?",
            (identity::name(&note.key), note.log.to_string(), note.lane, note.seq.0),
        )
        .await
        .map_err(|error| judge(&error).at("unitflow.unsettled"))?;
    }
    Ok(())
}

fn write_tables(sql: &mut Vec<u8>, tables: &[TableName]) {
    for (place, table) in tables.iter().enumerate() {
        sql.extend_from_slice(if place == 0 { b"(" } else { b",(" });
        quote_string(sql, &table.database);
        sql.push(b',');
        quote_string(sql, &table.table);
        sql.push(b')');
    }
}

/// The statement that notes a record that was not applied to its row.
pub(crate) fn noted(note: &Note) -> Result<Vec<u8>, Fault> {
    let key = Key::parse(&note.key)?;
    let mut sql =
        b"INSERT INTO unitflow.unsettled (row_hash,log,lane,seq,db,tbl,row_key,why) VALUES ('"
            .to_vec();
    sql.extend_from_slice(identity::name(&note.key).as_bytes());
    let Note { log, lane, seq, .. } = note;
    sql.extend_from_slice(format!("','{log}',{lane},{seq},").as_bytes());
    quote_string(&mut sql, &key.database);
    sql.push(b',');
    quote_string(&mut sql, &key.table);
    sql.push(b',');
    quote_string(&mut sql, &String::from_utf8_lossy(&note.key));
    sql.push(b',');
    quote_string(&mut sql, &note.why);
    // An attempt before this one may have left it.
    sql.extend_from_slice(b") ON DUPLICATE KEY UPDATE noted_at=CURRENT_TIMESTAMP(6)");
    Ok(sql)
}

/// The statements that take back what a written copy settles: all that its source had applied when
/// it read these rows, and all of its own log up to `seq`.
///
/// Notes are looked up without a lock and named by their whole key. A DELETE of many names may read
/// the whole table, and so wait for other lanes' notes while they wait for this one's. A note that
/// comes in between stays, and its row is read once more.
pub(crate) async fn settled(
    conn: &mut Conn,
    keys: &[&[u8]],
    chunk: &Chunk,
    (log, seq): (&Log, Seq),
) -> Result<Vec<Vec<u8>>, Fault> {
    // Of a unit that has left nothing more is said.
    let mut seen =
        format!("(log='{log}' AND seq<={seq}) OR log NOT IN (SELECT log FROM unitflow.ledger)");
    for (name, lanes) in &chunk.ledger {
        // It comes from the topic and goes into a statement.
        let Some(log) = Log::parse(name) else { continue };
        for standing in lanes {
            let (lane, seq) = (standing.lane, standing.holds());
            seen.push_str(&format!(" OR (log='{log}' AND lane={lane} AND seq<={seq})"));
        }
    }
    let mut statements = Vec::new();
    for keys in keys.chunks(NAMES_PER_STATEMENT) {
        let names: Vec<_> = keys.iter().map(|key| format!("'{}'", identity::name(key))).collect();
        let names = names.join(",");
        let query = format!(
            "SELECT row_hash, log, lane, seq FROM unitflow.unsettled WHERE row_hash IN ({names}) AND ({seen})"
        );
        let noted: Vec<(String, String, i32, u64)> =
            conn.query(query).await.map_err(|error| judge(&error).at("unitflow.unsettled"))?;
        statements.extend(noted.into_iter().map(|(name, log, lane, seq)| {
            format!(
                "DELETE FROM unitflow.unsettled WHERE row_hash='{name}' AND log='{log}' AND lane={lane} AND seq={seq}"
            )
            .into_bytes()
        }));
    }
    Ok(statements)
}
