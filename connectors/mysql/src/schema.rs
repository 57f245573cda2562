//! A server's tables, as a sink and the preflight need them.

use mysql_async::Conn;
use mysql_async::Row;
use mysql_async::prelude::Queryable;
use unitflow_change::fault::{Code, Fault};

use crate::connect::{Flavor, Server, fault};

/// What a column holds, as far as literals and comparisons differ by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Any integer, signed or not; YEAR too.
    Integer,
    /// Exact numbers.
    Decimal,
    /// Four bytes.
    Float,
    /// Eight bytes.
    Double,
    /// BIT(n).
    Bit,
    /// DATE, TIME, DATETIME and TIMESTAMP.
    Temporal,
    /// Text; the collation under which equal means equal in every character, spaces included.
    Text {
        /// A binary collation without padding.
        exact: &'static str,
    },
    /// BINARY, VARBINARY, BLOB.
    Binary,
    /// ENUM and SET.
    Choice,
    /// MySQL's JSON.
    Json,
    /// MariaDB's JSON, which is text; whether the server can compare two documents.
    JsonText {
        /// JSON_EQUALS exists (10.7).
        comparable: bool,
    },
    /// Spatial types; whether the server knows axis orders (MySQL).
    Geometry {
        /// The third argument of ST_GeomFromWKB exists.
        axis_order: bool,
    },
    /// Vectors, by the function that makes one from text.
    Vector {
        /// `STRING_TO_VECTOR` or `VEC_FromText`.
        from_text: &'static str,
    },
    /// UUID, INET4, INET6: written as text.
    Address,
    /// Something this build does not know.
    Unknown,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Type,
    /// Its type as the server writes it.
    pub sql_type: String,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// Whether the server computes it.
    pub generated: bool,
}

/// A foreign key that changes rows by itself, seen from either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cascade {
    /// Its name.
    pub name: String,
    /// `database.table` that refers.
    pub child: String,
    /// `database.table` referred to.
    pub parent: String,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its database.
    pub database: String,
    /// Its name.
    pub name: String,
    /// Its columns in order, invisible ones too.
    pub columns: Vec<Column>,
    /// Places of the primary key's columns, in key order; empty if there is none.
    pub primary_key: Vec<usize>,
    /// Names of further unique keys.
    pub unique_keys: Vec<String>,
    /// Foreign keys with an effect beyond refusing.
    pub cascades: Vec<Cascade>,
    /// Names of triggers.
    pub triggers: Vec<String>,
    /// Its storage engine.
    pub engine: String,
}

/// Names of all base tables outside the server's own databases, as (database, table).
pub async fn list(conn: &mut Conn) -> Result<Vec<(String, String)>, Fault> {
    conn.query(
        "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' \
         AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') \
         ORDER BY TABLE_SCHEMA, TABLE_NAME",
    )
    .await
    .map_err(|error| fault(&error))
}

/// Reads one table; [`Code::Table`] if there is none of this name.
pub async fn load(conn: &mut Conn, server: &Server, database: &str, table: &str) -> Result<Table, Fault> {
    let place = |error| fault(&error).at(format_args!("{database}.{table}"));
    let names = (database, table);
    let engine: Option<Option<String>> = conn
        .exec_first(
            "SELECT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND TABLE_TYPE = 'BASE TABLE'",
            names,
        )
        .await
        .map_err(place)?;
    let engine = engine.ok_or_else(|| {
        Fault::fatal(Code::Table, format!("{}: there is no table {database}.{table}", server.flavor))
            .hint("create it as in the source, or exclude it from the flow")
    })?;
    let rows: Vec<Row> = conn
        .exec(
            "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE, EXTRA FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION",
            names,
        )
        .await
        .map_err(place)?;
    let checks = json_checks(conn, server, database, table).await?;
    let columns = rows
        .into_iter()
        .map(|row| {
            let (name, data_type, sql_type, nullable, extra): (String, String, String, String, String) =
                mysql_async::from_row_opt(row).map_err(|_| odd(database, table))?;
            let json_text = checks.iter().any(|column| *column == name);
            Ok(Column {
                kind: kind(&data_type, json_text, server),
                nullable: nullable == "YES",
                generated: extra.to_uppercase().contains("GENERATED") && !extra.contains("DEFAULT_GENERATED")
                    || extra.contains("VIRTUAL")
                    || extra.contains("PERSISTENT"),
                name,
                sql_type,
            })
        })
        .collect::<Result<Vec<_>, Fault>>()?;
    let keys: Vec<(String, String)> = conn
        .exec(
            "SELECT INDEX_NAME, COLUMN_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? \
             AND NON_UNIQUE = 0 AND COLUMN_NAME IS NOT NULL ORDER BY INDEX_NAME, SEQ_IN_INDEX",
            names,
        )
        .await
        .map_err(place)?;
    let place_of = |name: &str| columns.iter().position(|column| column.name == name);
    let primary_key =
        keys.iter().filter(|(key, _)| key == "PRIMARY").filter_map(|(_, name)| place_of(name)).collect();
    let mut unique_keys: Vec<String> =
        keys.iter().map(|(key, _)| key.clone()).filter(|key| key != "PRIMARY").collect();
    unique_keys.dedup();
    let triggers: Vec<String> = conn
        .exec(
            "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = ? AND EVENT_OBJECT_TABLE = ? ORDER BY 1",
            names,
        )
        .await
        .map_err(place)?;
    Ok(Table {
        database: database.to_owned(),
        name: table.to_owned(),
        columns,
        primary_key,
        unique_keys,
        cascades: cascades(conn, database, table).await?,
        triggers,
        engine: engine.unwrap_or_default(),
    })
}

async fn cascades(conn: &mut Conn, database: &str, table: &str) -> Result<Vec<Cascade>, Fault> {
    let rows: Vec<(String, String, String, String, String)> = conn
        .exec(
            "SELECT CONSTRAINT_NAME, CONSTRAINT_SCHEMA, TABLE_NAME, UNIQUE_CONSTRAINT_SCHEMA, REFERENCED_TABLE_NAME \
             FROM information_schema.REFERENTIAL_CONSTRAINTS \
             WHERE (UPDATE_RULE NOT IN ('RESTRICT', 'NO ACTION') OR DELETE_RULE NOT IN ('RESTRICT', 'NO ACTION')) \
             AND ((CONSTRAINT_SCHEMA = ? AND TABLE_NAME = ?) OR (UNIQUE_CONSTRAINT_SCHEMA = ? AND REFERENCED_TABLE_NAME = ?))",
            (database, table, database, table),
        )
        .await
        .map_err(|error| fault(&error).at(format_args!("{database}.{table}")))?;
    let cascade = |(name, child_database, child, parent_database, parent)| Cascade {
        name,
        child: format!("{child_database}.{child}"),
        parent: format!("{parent_database}.{parent}"),
    };
    Ok(rows.into_iter().map(cascade).collect())
}

/// MariaDB's JSON columns: text with a check that it is JSON.
async fn json_checks(
    conn: &mut Conn,
    server: &Server,
    database: &str,
    table: &str,
) -> Result<Vec<String>, Fault> {
    if server.flavor == Flavor::Mysql {
        return Ok(Vec::new());
    }
    let clauses: Vec<String> = conn
        .exec(
            "SELECT CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = ? AND TABLE_NAME = ?",
            (database, table),
        )
        .await
        .map_err(|error| fault(&error).at(format_args!("{database}.{table}")))?;
    let column = |clause: &String| {
        Some(clause.strip_prefix("json_valid(`")?.strip_suffix("`)")?.replace("``", "`"))
    };
    Ok(clauses.iter().filter_map(column).collect())
}

fn kind(data_type: &str, json_text: bool, server: &Server) -> Type {
    let mysql = server.flavor == Flavor::Mysql;
    match data_type.to_ascii_lowercase().as_str() {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "year" => Type::Integer,
        "decimal" => Type::Decimal,
        "float" => Type::Float,
        "double" => Type::Double,
        "bit" => Type::Bit,
        "date" | "time" | "datetime" | "timestamp" => Type::Temporal,
        "longtext" if json_text => Type::JsonText { comparable: server.at_least(10, 7) },
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => {
            Type::Text { exact: if mysql { "utf8mb4_0900_bin" } else { "utf8mb4_nopad_bin" } }
        }
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Type::Binary,
        "enum" | "set" => Type::Choice,
        "json" => Type::Json,
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" | "geomcollection" => Type::Geometry { axis_order: mysql },
        "vector" => Type::Vector { from_text: if mysql { "STRING_TO_VECTOR" } else { "VEC_FromText" } },
        "uuid" | "inet4" | "inet6" => Type::Address,
        _ => Type::Unknown,
    }
}

fn odd(database: &str, table: &str) -> Fault {
    Fault::fatal(Code::Table, format!("information_schema describes {database}.{table} in an unknown form"))
}
