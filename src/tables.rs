//! A store's tables as the mesh sees them, and what their schema asks of the routing.
//!
//! A filter that can't be followed on a table is refused before it stands in the log.
//!
//! Rows that exclude each other by more than the bytes of their key have to share a lane, or they
//! would be written in any order. Which rows these are only the store's schema says, so the
//! connector looks: at its start, and behind each statement that may have changed it. A table that
//! was bound once stays bound: changes of it may be under way that still need it.

use std::collections::BTreeMap;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use unitflow_change::condition::Compared;
use unitflow_change::envelope::is_same_column;
use unitflow_change::routing::{PartitionBy, Routing};
use unitflow_change::{Code, Fault};
use unitflow_mysql::connect::{Flavor, Server, fault};
use unitflow_mysql::schema::{self, ForeignKey, Table, Type};

/// How often the tables are listed again because one of them went while they were read.
const ATTEMPTS: u32 = 5;

/// A table whose changes travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Database and table, as the mesh calls them.
    pub name: (String, String),
    /// As the store calls them.
    pub local: (String, String),
}

/// The tables whose changes travel, the clock aside. The user sees only what it has rights on.
pub async fn list(conn: &mut Conn, routing: &Routing) -> Result<Vec<Carried>, Fault> {
    let all: Vec<(String, String)> = conn
        .query(
            "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES \
             WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') \
             AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema', 'unitflow')",
        )
        .await
        .map_err(|error| fault(&error))?;
    let carried = all.into_iter().filter_map(|local| {
        let name = routing.rename.canonical(&local.0, &local.1)?;
        routing.carries(&name.0, &name.1).then_some(Carried { name, local })
    });
    Ok(carried.collect())
}

/// The carried tables with all that their schema says.
pub async fn read(conn: &mut Conn, routing: &Routing) -> Result<Vec<(Carried, Table)>, Fault> {
    let flavor = Server::read(conn).await?.flavor;
    let mut attempt = 1;
    loop {
        let carried = list(conn, routing).await?;
        let names: Vec<_> = carried.iter().map(|table| table.local.clone()).collect();
        match schema::load(conn, flavor, &names).await {
            Ok(tables) => return Ok(carried.into_iter().zip(tables).collect()),
            // One was dropped since they were listed.
            Err(fault) if fault.code == Code::Table && attempt < ATTEMPTS => attempt += 1,
            Err(fault) => return Err(fault),
        }
    }
}

/// What a store's schema adds to a routing, by table.
pub type Bound = BTreeMap<String, PartitionBy>;

/// The log's routing with what the schema adds. `before` is what it added until now.
pub async fn bind(conn: &mut Conn, routing: Routing, before: &Bound) -> Result<Routing, Fault> {
    let tables = read(conn, &routing).await?;
    if let Some((table, key)) = unlogged_cascades(conn, &tables).await?.first() {
        return Err(Fault::fatal(
            Code::Table,
            format!("{}: the foreign key {} changes rows by itself, which this server's log does not hold", table.quoted(), key.name),
        )
        .hint("make it RESTRICT and change the children explicitly, or exclude the table; MySQL logs such changes from 9.6 on"));
    }
    let routing = bound(routing, &tables, before);
    let faults = tables.iter().flat_map(|(carried, table)| filter_faults(&routing, carried, table));
    // Once it stands in the log, a transformer would stop at each change of that table.
    match faults.into_iter().next() {
        Some(fault) => Err(fault),
        None => Ok(routing),
    }
}

/// Why this table's changes could not be filtered as the routing says.
pub fn filter_faults(routing: &Routing, carried: &Carried, table: &Table) -> Vec<Fault> {
    let (database, name) = &carried.name;
    let mut faults: Vec<Fault> = routing.ensure_ordered(database, name).err().into_iter().collect();
    let fault = |what: String| Fault::fatal(Code::Routing, format!("{database}.{name}: {what}"));
    let hidden = routing.hidden(database, name);
    let is_hidden = |name: &str| hidden.iter().any(|hidden| is_same_column(hidden, name));
    faults.extend(table.key_columns().filter(|column| is_hidden(&column.name)).map(|column| {
        fault(format!("the column {:?} is hidden, and is part of the primary key", column.name))
            .hint("take it out of columns for this table, or exclude the table")
    }));
    if let PartitionBy::Columns(columns) = routing.spread(database, name) {
        // Named exactly, as values are looked up.
        let lacks = |name: &&String| !table.columns.iter().any(|column| column.name == **name);
        faults.extend(columns.iter().filter(lacks).map(|column| {
            fault(format!("partition_by names the column {column:?}, which the table lacks"))
                .hint("correct partition_by for this table")
        }));
    }
    for condition in routing.conditions(database, name) {
        for (column, compared) in condition.columns() {
            let what = match table.column(column) {
                None => "which the table lacks".to_owned(),
                Some(found) if can_compare(&found.kind, compared) => continue,
                Some(_) => format!("compared with {}, which it does not hold", shown(compared)),
            };
            faults.push(
                fault(format!("a condition names the column {column:?}, {what}"))
                    .hint("correct the condition under rows for this table"),
            );
        }
    }
    faults
}

fn shown(compared: Compared) -> &'static str {
    match compared {
        Compared::Number => "a number",
        Compared::Text => "text",
        Compared::Null => "NULL",
    }
}

/// Whether values of this type travel as what they are compared with.
fn can_compare(kind: &Type, compared: Compared) -> bool {
    use Type::{
        Binary, Bit, Blob, Decimal, Double, Float, Geometry, Integer, Json, Other, Vector, Year,
    };
    let number = matches!(kind, Integer { .. } | Decimal { .. } | Float | Double | Year | Bit(1));
    // Base64 and documents are no text that anybody would write.
    let opaque =
        matches!(kind, Binary(_) | Blob(_) | Bit(_) | Geometry { .. } | Vector | Json | Other(_));
    match compared {
        Compared::Null => true,
        Compared::Number => number,
        Compared::Text => !number && !opaque,
    }
}

/// The same for tables that were read. What `partition_by` names without a pattern is left to it.
pub fn bound(mut routing: Routing, tables: &[(Carried, Table)], before: &Bound) -> Routing {
    let mut all = before.clone();
    for (carried, table) in tables {
        let (database, name) = &carried.name;
        let full = format!("{database}.{name}");
        let by = table.spread();
        match all.get(&full) {
            Some(known) if *known == by => {}
            // Changes may be under way to which either applies.
            Some(_) => drop(all.insert(full, PartitionBy::Table)),
            None if table.parted_key(&routing.spread(database, name)).is_some() => {
                all.insert(full, by);
            }
            None => {}
        }
    }
    all.retain(|name, _| !routing.partition_by.contains_key(name));
    routing.bound = all;
    routing
}

/// The foreign keys by which the server changes rows of carried tables without a word in its log.
pub async fn unlogged_cascades<'a>(
    conn: &mut Conn,
    tables: &'a [(Carried, Table)],
) -> Result<Vec<(&'a Table, &'a ForeignKey)>, Fault> {
    let of_table = |(_, table): &'a (Carried, Table)| {
        table.parents.iter().filter(|key| key.cascades()).map(move |key| (table, key))
    };
    let cascades: Vec<_> = tables.iter().flat_map(of_table).collect();
    Ok(if cascades.is_empty() || logs_cascades(conn).await? { Vec::new() } else { cascades })
}

/// MySQL logs what foreign keys do since 9.6, unless it is told to leave them to InnoDB.
async fn logs_cascades(conn: &mut Conn) -> Result<bool, Fault> {
    let server = Server::read(conn).await?;
    if server.flavor != Flavor::Mysql || !server.at_least(9, 6) {
        return Ok(false);
    }
    let native: Option<(String, String)> = conn
        .query_first("SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'")
        .await
        .map_err(|error| fault(&error))?;
    Ok(native.is_none_or(|(_, value)| value.eq_ignore_ascii_case("OFF")))
}
