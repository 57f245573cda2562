//! Rows read from tables: each exactly as the log would have shown its insert.
//!
//! A [`Reader`] is one connection. Between [`begin`](Reader::begin) and [`end`](Reader::end) it sees
//! one consistent state of the server, without a lock; outside, each call sees what is committed.
//! Rows come in the order of the primary key as the server has it, a part of the table at a time:
//! [`scan`](Reader::scan) goes on behind a key, so that a part can be read again, or a table from
//! where another process stopped.
//!
//! A row's key and columns are byte for byte those of [`crate::stream`], whatever the type: values
//! come in the protocol's binary form, texts in their column's own character set. Where the server's
//! text says less than its log, as of dates inside JSON documents, it is asked for the rest.
//!
//! | file | what happens there |
//! |---|---|
//! | `column` | what is selected of a column, and what the answer means |
//! | `condition` | keys as conditions that the primary key's index answers |
//! | `document` | values of SQL types in the text of a JSON document |

mod column;
mod condition;
mod document;

use std::collections::HashMap;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Value};
use unitflow_change::envelope;
use unitflow_change::fault::{Code, Fault};
use unitflow_change::gtid::GtidSet;
use unitflow_change::key::Key;

use crate::connect::{self, Flavor, Server, Store, connect, first};
use crate::declare::declare;
use crate::record::{Place, Record};
use crate::{schema, table};

use column::Selected;

/// Rows asked for while nothing is known of their size.
const ROWS_AT_FIRST: usize = 64;

/// Keys that one statement asks for.
const KEYS_PER_QUERY: usize = 256;

/// What a consistent state holds.
#[derive(Clone, Debug)]
pub struct Opened {
    /// All of these transactions are in it.
    pub before: GtidSet,
    /// Whatever is in it is one of these.
    pub after: GtidSet,
    /// The server's clock, in µs since 1970, when it was opened.
    pub at_us: u64,
}

/// A table as its rows are read.
#[derive(Clone, Debug)]
pub struct Table {
    /// As the server describes it.
    pub schema: schema::Table,
    described: table::Table,
    selected: Vec<Selected>,
    /// What stands between `SELECT` and `FROM`.
    list: String,
    /// How many values that is.
    width: usize,
}

impl Table {
    /// The part of its keys before the columns, as [`Key::table_part`] gives it.
    #[must_use]
    pub fn key_head(&self) -> &[u8] {
        &self.described.key_head
    }

    /// Records of it carry its schema, whose names begin with the connector's.
    pub fn declare(&mut self, flavor: Flavor, connector_name: &str) {
        self.described.declared = Some(declare(flavor, connector_name, &self.described));
    }

    /// All rows, by the primary key's index.
    fn query(&self) -> Vec<u8> {
        let (list, name) = (&self.list, self.schema.quoted());
        format!("SELECT {list} FROM {name} FORCE INDEX (PRIMARY)").into_bytes()
    }

    fn ensure_key(&self) -> Result<(), Fault> {
        if self.schema.primary_key.is_empty() {
            let name = self.schema.quoted();
            return Err(Fault::fatal(Code::Table, format!("{name} has no primary key"))
                .hint("give it one, or exclude the table"));
        }
        Ok(())
    }
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The record's key in its plain form: `["db","table",{"id":1}]`.
    pub key: Vec<u8>,
    /// The columns as a JSON object, in the envelope's plain form.
    pub after: Vec<u8>,
}

/// A part of a table, in the primary key's order.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// The rows.
    pub rows: Vec<Row>,
    /// There are none behind them.
    pub done: bool,
}

impl Rows {
    /// The last row's key, behind which the next part begins.
    #[must_use]
    pub fn last(&self) -> Option<&[u8]> {
        self.rows.last().map(|row| &row.key[..])
    }
}

/// A connection that reads rows.
#[derive(Debug)]
pub struct Reader {
    conn: Conn,
    server: Server,
    /// The bytes of a row, as the last part of a table had them.
    row_bytes: HashMap<String, usize>,
}

impl Reader {
    /// Connects to the store.
    ///
    /// # Errors
    /// As [`connect()`].
    pub async fn open(store: &Store) -> Result<Self, Fault> {
        let mut conn = connect(store).await?;
        let server = Server::read(&mut conn).await?;
        let limit = match server.flavor {
            Flavor::Mysql => "SET SESSION max_execution_time=0",
            Flavor::Mariadb => "SET SESSION max_statement_time=0",
        };
        let isolation = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";
        // Texts come in the character set of their column.
        for statement in [isolation, limit, "SET SESSION character_set_results=NULL"] {
            conn.query_drop(statement).await.map_err(|error| connect::fault(&error))?;
        }
        Ok(Self { conn, server, row_bytes: HashMap::new() })
    }

    /// The server, as it was when the connection was opened.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Opens a consistent state; it ends with [`Self::end`].
    pub async fn begin(&mut self) -> Result<Opened, Fault> {
        const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
        let executed = "SELECT @@global.gtid_executed";
        let before: String = match self.server.flavor {
            Flavor::Mysql => first(&mut self.conn, executed).await?,
            Flavor::Mariadb => String::new(),
        };
        self.conn.query_drop(BEGIN).await.map_err(|error| connect::fault(&error))?;
        let (before, after) = match self.server.flavor {
            Flavor::Mysql => (read_gtids(&before)?, self.visible_at_most().await?),
            Flavor::Mariadb => {
                let exactly = self.visible().await?;
                (exactly.clone(), exactly)
            }
        };
        let clock = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS UNSIGNED)";
        let at_us = first::<(u64,)>(&mut self.conn, clock).await?.0;
        Ok(Opened { before, after, at_us })
    }

    /// All rows of another query's answer, as the open state has them.
    pub async fn ask<T: FromRow + Send + 'static>(&mut self, query: &str) -> Result<Vec<T>, Fault> {
        self.conn.query(query).await.map_err(|error| connect::fault(&error))
    }

    /// Gives the consistent state up.
    pub async fn end(&mut self) -> Result<(), Fault> {
        self.conn.query_drop("COMMIT").await.map_err(|error| connect::fault(&error))
    }

    /// MySQL: a transaction that is visible is executed, or is still owned by the session that
    /// commits it. Those that are owned are read first, so that none slips through.
    async fn visible_at_most(&mut self) -> Result<GtidSet, Fault> {
        let query = "SELECT @@global.gtid_owned, @@global.gtid_executed";
        let (owned, executed): (String, String) = first(&mut self.conn, query).await?;
        let (owned, executed) = (read_owned(&owned)?, read_gtids(&executed)?);
        executed.union(&owned).ok_or_else(|| Fault::fatal(Code::Bug, "GTIDs of two kinds"))
    }

    /// MariaDB says where in its log the state stands.
    async fn visible(&mut self) -> Result<GtidSet, Fault> {
        let query = "SHOW STATUS LIKE 'binlog_snapshot_%'";
        let rows: Vec<(String, String)> =
            self.conn.query(query).await.map_err(|error| connect::fault(&error))?;
        let status = |name: &str| {
            let found = rows.iter().find(|row| row.0.eq_ignore_ascii_case(name));
            found.map(|row| row.1.clone()).unwrap_or_default()
        };
        let place = (status("binlog_snapshot_file"), status("binlog_snapshot_position"));
        let query = "SELECT BINLOG_GTID_POS(?, CAST(? AS UNSIGNED))";
        let answer: Option<Option<String>> =
            self.conn.exec_first(query, place).await.map_err(|error| connect::fault(&error))?;
        let text = answer.flatten().ok_or_else(|| {
            Fault::fatal(
                Code::Setting,
                "the server does not say where in its log a snapshot stands",
            )
            .hint("check that log_bin is on")
        })?;
        GtidSet::parse_mariadb(&text).map_err(odd_gtids)
    }

    /// Looks at tables, in the order asked for.
    ///
    /// # Errors
    /// [`Code::Table`] where one is not there, or has a column whose type can't be read.
    pub async fn tables(&mut self, names: &[(String, String)]) -> Result<Vec<Table>, Fault> {
        let schemas = schema::load(&mut self.conn, self.server.flavor, names).await?;
        let mut tables = Vec::with_capacity(schemas.len());
        for schema in schemas {
            tables.push(self.describe(schema).await?);
        }
        Ok(tables)
    }

    async fn describe(&mut self, schema: schema::Table) -> Result<Table, Fault> {
        let (list, selected) = column::select(&schema);
        let query = format!("SELECT {list} FROM {} LIMIT 0", schema.quoted());
        let statement = self.conn.prep(query).await.map_err(|error| connect::fault(&error))?;
        let shapes = statement.columns();
        self.conn.close(statement).await.map_err(|error| connect::fault(&error))?;
        let mut columns = Vec::with_capacity(selected.len());
        let mut known = Vec::with_capacity(selected.len());
        for (place, (column, selected)) in schema.columns.iter().zip(selected).enumerate() {
            let collation = shapes.get(selected.at).map_or(0, |shape| shape.character_set().into());
            let (kind, selected) = selected.describe(column, collation).map_err(|fault| {
                fault.at(format_args!("{}.{}.{}", schema.database, schema.name, column.name))
            })?;
            columns.push(table::Column::new(place, column.name.clone(), kind, column.nullable));
            known.push(selected);
        }
        for (place, &column) in schema.primary_key.iter().enumerate() {
            columns[column].key = Some(place);
        }
        let name = (schema.database.clone(), schema.name.clone());
        let described = table::Table::new(name, columns, schema.primary_key.clone(), "incremental");
        Ok(Table { schema, described, selected: known, list, width: shapes.len() })
    }

    /// Rows whose primary key is beyond `after`, a plain key of this table or of another with the
    /// same key columns: at most `limit`, and about `bytes` of memory, but at least one if there
    /// is one.
    pub async fn scan(
        &mut self,
        table: &Table,
        after: Option<&[u8]>,
        limit: usize,
        bytes: usize,
    ) -> Result<Rows, Fault> {
        self.scan_range(table, (after, None), limit, bytes).await
    }

    /// As [`scan`](Self::scan), of the rows beyond the first key and up to the second.
    pub async fn scan_range(
        &mut self,
        table: &Table,
        (after, until): (Option<&[u8]>, Option<&[u8]>),
        limit: usize,
        bytes: usize,
    ) -> Result<Rows, Fault> {
        table.ensure_key()?;
        let mut query = table.query();
        query.extend_from_slice(b" WHERE TRUE");
        if let Some(after) = after {
            query.extend_from_slice(b" AND ");
            condition::write_after(&mut query, &table.schema, key_columns(&Key::parse(after)?)?)?;
        }
        if let Some(until) = until {
            query.extend_from_slice(b" AND ");
            condition::write_until(&mut query, &table.schema, key_columns(&Key::parse(until)?)?)?;
        }
        query.extend_from_slice(b" ORDER BY ");
        condition::write_order(&mut query, &table.schema);
        let name = table.schema.quoted();
        let likely = self.row_bytes.get(&name).map_or(ROWS_AT_FIRST, |size| bytes / size.max(&1));
        let asked = likely.clamp(1, limit.max(1));
        query.extend_from_slice(format!(" LIMIT {asked}").as_bytes());
        let (answers, size) = self.select(query, table.width, bytes).await?;
        let count = answers.len();
        if let Some(each) = size.checked_div(count) {
            self.row_bytes.insert(name, each);
        }
        let rows = self.rows(table, answers).await?;
        Ok(Rows { rows, done: count < asked && size < bytes })
    }

    /// The rows of these keys, as the server takes keys for equal, in no particular order. A row
    /// that is not there is not in the answer.
    pub async fn get(&mut self, table: &Table, keys: &[&[u8]]) -> Result<Vec<Row>, Fault> {
        table.ensure_key()?;
        let mut rows = Vec::with_capacity(keys.len());
        for keys in keys.chunks(KEYS_PER_QUERY) {
            let mut query = table.query();
            query.extend_from_slice(b" WHERE ");
            for (place, key) in keys.iter().enumerate() {
                query.extend_from_slice(if place == 0 { b"" } else { b" OR " });
                condition::write_equal(&mut query, &table.schema, key_columns(&Key::parse(key)?)?)?;
            }
            let (answers, _) = self.select(query, table.width, usize::MAX).await?;
            rows.extend(self.rows(table, answers).await?);
        }
        Ok(rows)
    }

    /// The rows that hold a unique value of this one, an image in the plain form, as the server
    /// compares them: itself among them, if it is there. Of unique keys that hold expressions, the
    /// start of a column, or a column that the image lacks, nothing is said.
    pub async fn holders(
        &mut self,
        table: &Table,
        row: &envelope::Row<'_>,
    ) -> Result<Vec<Row>, Fault> {
        let mut rows = Vec::new();
        for unique in table.schema.unique_keys.iter().filter(|unique| !unique.partial) {
            let columns = unique.columns.iter().map(|place| &table.schema.columns[*place]);
            if columns.clone().any(|column| row.named(&column.name).is_none()) {
                continue;
            }
            let mut query =
                format!("SELECT {} FROM {} WHERE ", table.list, table.schema.quoted()).into_bytes();
            condition::write_values(&mut query, columns, row)?;
            let (answers, _) = self.select(query, table.width, usize::MAX).await?;
            rows.extend(self.rows(table, answers).await?);
        }
        Ok(rows)
    }

    /// The answers up to so many bytes, and how many these are. What goes beyond is passed over.
    async fn select(
        &mut self,
        query: Vec<u8>,
        width: usize,
        bytes: usize,
    ) -> Result<(Vec<Vec<Value>>, usize), Fault> {
        let judge = |error: mysql_async::Error| connect::fault(&error);
        let query = String::from_utf8(query)
            .map_err(|_| Fault::fatal(Code::Bug, "a statement is not UTF-8"))?;
        let statement = self.conn.prep(query).await.map_err(judge)?;
        let mut answers = Vec::new();
        let mut size = 0;
        let mut result = self.conn.exec_iter(&statement, ()).await.map_err(judge)?;
        while let Some(row) = result.next().await.map_err(judge)? {
            if size >= bytes && !answers.is_empty() {
                continue;
            }
            if row.len() != width {
                return Err(Fault::retry(Code::Table, "a table has changed while it was read"));
            }
            let values = row.unwrap();
            size += values.iter().map(column::size).sum::<usize>();
            answers.push(values);
        }
        drop(result);
        self.conn.close(statement).await.map_err(judge)?;
        Ok((answers, size))
    }

    async fn rows(&mut self, table: &Table, answers: Vec<Vec<Value>>) -> Result<Vec<Row>, Fault> {
        let mut rows = Vec::with_capacity(answers.len());
        for mut values in answers {
            self.settle_documents(table, &mut values).await?;
            rows.push(write_row(table, &values)?);
        }
        Ok(rows)
    }
}

fn read_gtids(text: &str) -> Result<GtidSet, Fault> {
    GtidSet::parse_mysql(text).map_err(odd_gtids)
}

fn odd_gtids(error: unitflow_change::gtid::Malformed) -> Fault {
    Fault::fatal(Code::BinlogUnknown, format!("the server's GTID state can't be read: {error}"))
}

/// `uuid:4#21:5#22,uuid:tag:1#23`: behind each GTID the session that owns it.
fn read_owned(text: &str) -> Result<GtidSet, Fault> {
    let bare = |entry: &str| {
        let parts = entry.trim().split(':').map(|part| part.split('#').next().unwrap_or(""));
        parts.collect::<Vec<_>>().join(":")
    };
    let named = text.split(',').filter(|entry| entry.contains(':'));
    read_gtids(&named.map(bare).collect::<Vec<_>>().join(","))
}

fn key_columns<'a, 'k>(key: &'k Key<'a>) -> Result<&'k envelope::Row<'a>, Fault> {
    key.columns.as_ref().ok_or_else(|| Fault::fatal(Code::Bug, "a key without columns"))
}

/// Documents that hold values of SQL types, or may, are asked for these.
impl Reader {
    async fn settle_documents(&mut self, table: &Table, values: &mut [Value]) -> Result<(), Fault> {
        let columns = table.schema.columns.iter().zip(&table.selected);
        for (column, selected) in columns.filter(|(column, _)| column.kind == schema::Type::Json) {
            let Some(text) = selected.doubtful(values) else { continue };
            let suspects = document::suspects(&text);
            if suspects.is_empty() {
                continue;
            }
            let mut key = Vec::new();
            write_key(table, values, &mut key)?;
            let mut typed = Vec::new();
            for some in suspects.chunks(document::PATHS_PER_QUERY) {
                let mut query = b"SELECT ".to_vec();
                document::write_types(&mut query, &column.name, some);
                query.extend_from_slice(
                    format!(" FROM {} WHERE ", table.schema.quoted()).as_bytes(),
                );
                let key: envelope::Row<'_> = serde_json::from_slice(&key).map_err(odd_key)?;
                condition::write_equal(&mut query, &table.schema, &key)?;
                let (answers, _) = self.select(query, some.len(), usize::MAX).await?;
                let types = answers
                    .first()
                    .ok_or_else(|| Fault::retry(Code::Table, "a row has gone while it was read"))?;
                typed.extend(document::typed(some, types));
            }
            values[selected.at] = Value::Bytes(document::mark(&text, &typed).into_bytes());
        }
        Ok(())
    }
}

fn odd_key(error: serde_json::Error) -> Fault {
    Fault::fatal(Code::Bug, format!("a key that was written can't be read: {error}"))
}

/// Appends the key's columns as a JSON object.
fn write_key(table: &Table, values: &[Value], out: &mut Vec<u8>) -> Result<(), Fault> {
    for (place, &column) in table.described.key.iter().enumerate() {
        out.push(if place == 0 { b'{' } else { b',' });
        out.extend_from_slice(&table.described.columns[column].lead[1..]);
        write_value(table, column, values, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_row(table: &Table, values: &[Value]) -> Result<Row, Fault> {
    let mut key = table.described.key_head.clone();
    write_key(table, values, &mut key)?;
    key.push(b']');
    let mut after = Vec::with_capacity(values.iter().map(column::size).sum::<usize>() * 2);
    for (place, column) in table.described.columns.iter().enumerate() {
        after.extend_from_slice(&column.lead);
        write_value(table, place, values, &mut after)?;
    }
    after.push(b'}');
    Ok(Row { key, after })
}

fn write_value(
    table: &Table,
    column: usize,
    values: &[Value],
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let described = &table.described;
    let (selected, column) = (&table.selected[column], &described.columns[column]);
    selected.write(&column.kind, values, out).map_err(|broken| {
        let (database, name, column) = (&described.database, &described.name, &column.name);
        Fault::fatal(Code::Table, format!("{database}.{name}.{column}: {}", broken.what))
            .hint(broken.hint)
    })
}

/// Writes rows that were read as records.
#[derive(Debug)]
pub struct Records {
    record: Record,
    server_id: u32,
}

impl Records {
    /// For rows of this server, under the connector's name.
    #[must_use]
    pub fn new(server: &Server, connector_name: &str) -> Self {
        let record = Record::new(server.flavor, connector_name);
        Self { record, server_id: server.server_id }
    }

    /// Key and value of the record of a row, read at `at_us` (µs since 1970, by the server's
    /// clock) as number `number` of those read with it. The operation is
    /// [`Op::Read`](unitflow_change::envelope::Op::Read), the source has no GTID and no place in a file.
    pub fn write(
        &mut self,
        table: &Table,
        row: &Row,
        at_us: u64,
        number: u64,
    ) -> Result<(&[u8], &[u8]), Fault> {
        let place = Place { commit_us: at_us, server_id: self.server_id, at: 0, row: number };
        let bug = || Fault::fatal(Code::Bug, "a row of another table");
        let key = row.key.strip_prefix(&table.described.key_head[..]).ok_or_else(bug)?;
        let key = key.strip_suffix(b"]").ok_or_else(bug)?;
        self.record.stamp();
        if table.described.declared.is_some() {
            let (key, after) = (bare(table, key)?, bare(table, &row.after)?);
            self.record.copy(&table.described, &key, &after, place);
        } else {
            self.record.copy(&table.described, key, &row.after, place);
        }
        let (key, value, _) = self.record.parts();
        Ok((key, value))
    }
}

/// Columns as records with schema have them: a date or a time of no zone has no `Z` behind it.
fn bare(table: &Table, columns: &[u8]) -> Result<Vec<u8>, Fault> {
    let row: envelope::Row<'_> = serde_json::from_slice(columns).map_err(odd_key)?;
    let mut out = Vec::with_capacity(columns.len());
    for (place, (name, value)) in row.iter().enumerate() {
        out.push(if place == 0 { b'{' } else { b',' });
        let column = table.described.columns.iter().find(|column| column.name == name);
        let column = column.ok_or_else(|| Fault::fatal(Code::Bug, "a row of another table"))?;
        out.extend_from_slice(&column.lead[1..]);
        match value.strip_suffix("Z\"").filter(|_| column.kind.is_local_time()) {
            Some(bare) => {
                out.extend_from_slice(bare.as_bytes());
                out.push(b'"');
            }
            None => out.extend_from_slice(value.as_bytes()),
        }
    }
    out.push(b'}');
    Ok(out)
}
