//! Tables as a sink or a verifier sees them: columns with types rich enough to write literals,
//! keys, foreign keys in both directions, triggers.
//!
//! All is read from `information_schema`, in one round trip a subject for any number of tables.
//! What the user may not see is not there: triggers need the TRIGGER privilege.

mod lanes;

use std::collections::HashMap;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Row};
use unitflow_change::fault::{Code, Fault};

use crate::connect::{Flavor, fault};
use crate::literal::{quote_identifier, quote_string};

/// How many tables are asked for in one query.
const TABLES_PER_QUERY: usize = 500;

/// A column's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// TINYINT to BIGINT.
    Integer {
        /// 8, 16, 24, 32 or 64.
        bits: u8,
        /// Without negative numbers.
        unsigned: bool,
    },
    /// DECIMAL.
    Decimal {
        /// All digits.
        precision: u8,
        /// Those behind the point.
        scale: u8,
    },
    /// FLOAT.
    Float,
    /// DOUBLE.
    Double,
    /// BIT of so many bits.
    Bit(u8),
    /// YEAR.
    Year,
    /// DATE.
    Date,
    /// TIME with so many fractional digits.
    Time(u8),
    /// DATETIME with so many fractional digits.
    Datetime(u8),
    /// TIMESTAMP with so many fractional digits.
    Timestamp(u8),
    /// CHAR, VARCHAR and the TEXT family.
    Text {
        /// `utf8mb4`.
        charset: String,
        /// `utf8mb4_0900_ai_ci`.
        collation: String,
        /// CHAR, whose trailing spaces do not count.
        fixed: bool,
        /// MariaDB's JSON: LONGTEXT with a check that it is valid.
        json: bool,
    },
    /// BINARY of so many bytes.
    Binary(u32),
    /// VARBINARY and the BLOB family, with the most bytes that they hold.
    Blob(u64),
    /// ENUM, as the server writes its type.
    Enum(String),
    /// SET, as the server writes its type.
    Set(String),
    /// MySQL's JSON.
    Json,
    /// GEOMETRY and its kinds.
    Geometry {
        /// MySQL: the server knows reference systems with another order of axes.
        axes: bool,
    },
    /// MySQL's VECTOR.
    Vector,
    /// MariaDB's UUID.
    Uuid,
    /// MariaDB's INET6.
    Inet6,
    /// MariaDB's INET4.
    Inet4,
    /// A type that can't be written.
    Other(String),
}

/// Where a generated column's value is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    /// In the row.
    Stored,
    /// Nowhere.
    Virtual,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name.
    pub name: String,
    /// The type.
    pub kind: Type,
    /// Takes NULL.
    pub nullable: bool,
    /// The server computes it; it can't be written.
    pub generated: Option<Generated>,
    /// Not in `SELECT *`.
    pub invisible: bool,
    /// AUTO_INCREMENT.
    pub counted: bool,
    /// An INSERT has to name it: it takes no NULL, and has neither a default nor a counter.
    pub required: bool,
    /// The most characters (text) or bytes that a value may have; 0 for other types.
    pub length: u64,
    /// The most bytes that a value may have; 0 for other types than text and bytes.
    pub bytes: u64,
}

/// A unique key other than the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueKey {
    /// The index's name.
    pub name: String,
    /// Places of its columns in [`Table::columns`]; those of expressions are left out.
    pub columns: Vec<usize>,
    /// Some part of it is an expression, or only the start of a column.
    pub partial: bool,
}

/// What happens to a child when its parent changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The change is refused.
    Restrict,
    /// The child changes with it.
    Cascade,
    /// The child's columns become NULL.
    SetNull,
    /// The child's columns take their defaults.
    SetDefault,
}

impl Rule {
    /// Whether the server writes rows of its own accord, which its log does not hold.
    #[must_use]
    pub fn writes(self) -> bool {
        self != Self::Restrict
    }

    fn parse(text: &str) -> Self {
        match text {
            "CASCADE" => Self::Cascade,
            "SET NULL" => Self::SetNull,
            "SET DEFAULT" => Self::SetDefault,
            _ => Self::Restrict,
        }
    }
}

/// A foreign key, seen from either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// Database and name of the table that refers.
    pub child: (String, String),
    /// Its columns.
    pub child_columns: Vec<String>,
    /// Database and name of the table referred to.
    pub parent: (String, String),
    /// Its columns.
    pub parent_columns: Vec<String>,
    /// When the parent's key changes.
    pub on_update: Rule,
    /// When the parent goes.
    pub on_delete: Rule,
}

impl ForeignKey {
    /// Whether a change of the parent writes rows of the child.
    #[must_use]
    pub fn cascades(&self) -> bool {
        self.on_update.writes() || self.on_delete.writes()
    }
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The database.
    pub database: String,
    /// The name.
    pub name: String,
    /// `InnoDB`; empty for a view.
    pub engine: String,
    /// MariaDB: it keeps the history of its rows by itself.
    pub versioned: bool,
    /// In the table's order.
    pub columns: Vec<Column>,
    /// Places of the primary key's columns, in the key's order; empty where there is none.
    pub primary_key: Vec<usize>,
    /// The primary key holds only the start of some column.
    pub primary_partial: bool,
    /// The other unique keys.
    pub unique_keys: Vec<UniqueKey>,
    /// Tables that this one refers to.
    pub parents: Vec<ForeignKey>,
    /// Tables that refer to this one.
    pub children: Vec<ForeignKey>,
    /// Names of its triggers.
    pub triggers: Vec<String>,
}

impl Table {
    /// The column of this name; names do not mind case.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        let exact = self.columns.iter().find(|column| column.name == name);
        exact.or_else(|| {
            self.columns.iter().find(|column| column.name.to_lowercase() == name.to_lowercase())
        })
    }

    /// The primary key's columns.
    pub fn key_columns(&self) -> impl ExactSizeIterator<Item = &Column> {
        self.primary_key.iter().map(|&column| &self.columns[column])
    }

    /// `` `database`.`table` ``.
    #[must_use]
    pub fn quoted(&self) -> String {
        let mut out = Vec::new();
        quote_identifier(&mut out, &self.database);
        out.push(b'.');
        quote_identifier(&mut out, &self.name);
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// Reads tables, in the order asked for. A table that is not there is a fault that names it.
pub async fn load(
    conn: &mut Conn,
    flavor: Flavor,
    names: &[(String, String)],
) -> Result<Vec<Table>, Fault> {
    let mut loaded = HashMap::new();
    for names in names.chunks(TABLES_PER_QUERY) {
        load_some(conn, flavor, names, &mut loaded).await?;
    }
    names
        .iter()
        .map(|name| {
            loaded.get(name).cloned().ok_or_else(|| {
                Fault::fatal(
                    Code::Table,
                    format!("there is no table {}.{}, or the user may not see it", name.0, name.1),
                )
                .hint("create the table, grant rights on it, or exclude it")
            })
        })
        .collect()
}

type Tables = HashMap<(String, String), Table>;

async fn load_some(
    conn: &mut Conn,
    flavor: Flavor,
    names: &[(String, String)],
    tables: &mut Tables,
) -> Result<(), Fault> {
    let mut list = Vec::new();
    for (i, (database, table)) in names.iter().enumerate() {
        list.extend_from_slice(if i == 0 { b"(" } else { b",(" });
        quote_string(&mut list, database);
        list.push(b',');
        quote_string(&mut list, table);
        list.push(b')');
    }
    let list = String::from_utf8_lossy(&list).into_owned();
    let names: HashMap<(String, String), (String, String)> = names
        .iter()
        .map(|name| ((name.0.to_lowercase(), name.1.to_lowercase()), name.clone()))
        .collect();
    // A server may keep names in lower case; the caller's spelling is what tables are found by.
    let asked = |database: String, table: String| {
        let exact = (database, table);
        if names.values().any(|name| *name == exact) {
            return Some(exact);
        }
        names.get(&(exact.0.to_lowercase(), exact.1.to_lowercase())).cloned()
    };

    let query = format!(
        "SELECT table_schema, table_name, COALESCE(engine, ''), table_type FROM information_schema.tables \
         WHERE (table_schema, table_name) IN ({list})"
    );
    type Described = (String, String, String, String);
    for (database, table, engine, kind) in all::<Described>(conn, query).await? {
        let Some(name) = asked(database.clone(), table.clone()) else { continue };
        tables.insert(
            name,
            Table {
                database,
                name: table,
                engine,
                versioned: kind.eq_ignore_ascii_case("SYSTEM VERSIONED"),
                columns: Vec::new(),
                primary_key: Vec::new(),
                primary_partial: false,
                unique_keys: Vec::new(),
                parents: Vec::new(),
                children: Vec::new(),
                triggers: Vec::new(),
            },
        );
    }
    load_columns(conn, flavor, &list, &asked, tables).await?;
    load_keys(conn, flavor, &list, &asked, tables).await?;
    load_foreign_keys(conn, &list, &asked, tables).await?;
    let query = format!(
        "SELECT event_object_schema, event_object_table, trigger_name FROM information_schema.triggers \
         WHERE (event_object_schema, event_object_table) IN ({list}) ORDER BY 1, 2, 3"
    );
    for (database, table, trigger) in all::<(String, String, String)>(conn, query).await? {
        if let Some(table) = asked(database, table).and_then(|name| tables.get_mut(&name)) {
            table.triggers.push(trigger);
        }
    }
    Ok(())
}

async fn all<T: FromRow + Send + 'static>(conn: &mut Conn, query: String) -> Result<Vec<T>, Fault> {
    let rows: Vec<Row> = conn.query(query).await.map_err(|error| fault(&error))?;
    rows.into_iter()
        .map(|row| {
            mysql_async::from_row_opt(row).map_err(|_| {
                Fault::fatal(Code::Bug, "information_schema answers in another shape than expected")
            })
        })
        .collect()
}

async fn load_columns(
    conn: &mut Conn,
    flavor: Flavor,
    list: &str,
    asked: &impl Fn(String, String) -> Option<(String, String)>,
    tables: &mut Tables,
) -> Result<(), Fault> {
    let query = format!(
        "SELECT table_schema, table_name, column_name, LOWER(data_type), column_type, is_nullable, LOWER(extra), \
         character_octet_length, numeric_precision, numeric_scale, COALESCE(datetime_precision, 0), \
         COALESCE(character_set_name, ''), COALESCE(collation_name, ''), column_default IS NOT NULL, \
         COALESCE(character_maximum_length, 0) \
         FROM information_schema.columns WHERE (table_schema, table_name) IN ({list}) \
         ORDER BY table_schema, table_name, ordinal_position"
    );
    let rows: Vec<Row> = conn.query(query).await.map_err(|error| fault(&error))?;
    let shape =
        || Fault::fatal(Code::Bug, "information_schema answers in another shape than expected");
    for row in rows {
        let text = |i: usize| row.get_opt::<String, _>(i).and_then(Result::ok).ok_or_else(shape);
        let number = |i: usize| row.get_opt::<u64, _>(i).and_then(Result::ok).unwrap_or(0);
        let Some(table) = asked(text(0)?, text(1)?).and_then(|name| tables.get_mut(&name)) else {
            continue;
        };
        let extra = text(6)?;
        let kind = Described {
            data_type: text(3)?,
            column_type: text(4)?,
            bytes: number(7),
            precision: number(8) as u8,
            scale: number(9) as u8,
            fraction: number(10) as u8,
            charset: text(11)?,
            collation: text(12)?,
        };
        let generated = match () {
            () if extra.contains("virtual generated") => Some(Generated::Virtual),
            () if extra.contains("stored generated") || extra.contains("persistent") => {
                Some(Generated::Stored)
            }
            () => None,
        };
        let nullable = text(5)? == "YES";
        let counted = extra.contains("auto_increment");
        table.columns.push(Column {
            name: text(2)?,
            kind: kind.into_type(flavor),
            nullable,
            generated,
            invisible: extra.contains("invisible"),
            counted,
            required: !nullable && !counted && generated.is_none() && number(13) == 0,
            length: number(14),
            bytes: number(7),
        });
    }
    if flavor == Flavor::Mariadb {
        mark_json(conn, list, asked, tables).await?;
    }
    Ok(())
}

/// MariaDB's JSON is LONGTEXT with a check of this form.
async fn mark_json(
    conn: &mut Conn,
    list: &str,
    asked: &impl Fn(String, String) -> Option<(String, String)>,
    tables: &mut Tables,
) -> Result<(), Fault> {
    let query = format!(
        "SELECT constraint_schema, table_name, check_clause FROM information_schema.check_constraints \
         WHERE (constraint_schema, table_name) IN ({list}) AND check_clause LIKE 'json_valid(%'"
    );
    for (database, table, check) in all::<(String, String, String)>(conn, query).await? {
        let Some(table) = asked(database, table).and_then(|name| tables.get_mut(&name)) else {
            continue;
        };
        for column in &mut table.columns {
            if let Type::Text { json, .. } = &mut column.kind {
                *json |= check == format!("json_valid(`{}`)", column.name.replace('`', "``"));
            }
        }
    }
    Ok(())
}

/// A column as `information_schema` describes it.
struct Described {
    data_type: String,
    column_type: String,
    bytes: u64,
    precision: u8,
    scale: u8,
    fraction: u8,
    charset: String,
    collation: String,
}

impl Described {
    fn into_type(self, flavor: Flavor) -> Type {
        let unsigned = self.column_type.contains("unsigned");
        let text = |fixed| Type::Text {
            charset: self.charset.clone(),
            collation: self.collation.clone(),
            fixed,
            json: false,
        };
        match self.data_type.as_str() {
            "tinyint" => Type::Integer { bits: 8, unsigned },
            "smallint" => Type::Integer { bits: 16, unsigned },
            "mediumint" => Type::Integer { bits: 24, unsigned },
            "int" | "integer" => Type::Integer { bits: 32, unsigned },
            "bigint" => Type::Integer { bits: 64, unsigned },
            "decimal" => Type::Decimal { precision: self.precision, scale: self.scale },
            "float" => Type::Float,
            "double" => Type::Double,
            "bit" => Type::Bit(self.precision),
            "year" => Type::Year,
            "date" => Type::Date,
            "time" => Type::Time(self.fraction),
            "datetime" => Type::Datetime(self.fraction),
            "timestamp" => Type::Timestamp(self.fraction),
            "char" => text(true),
            "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => text(false),
            "binary" => Type::Binary(self.bytes.try_into().unwrap_or(u32::MAX)),
            "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Type::Blob(self.bytes),
            "enum" => Type::Enum(self.column_type),
            "set" => Type::Set(self.column_type),
            "json" => Type::Json,
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
            | "multipolygon" | "geometrycollection" | "geomcollection" => {
                Type::Geometry { axes: flavor == Flavor::Mysql }
            }
            "vector" if flavor == Flavor::Mysql => Type::Vector,
            "uuid" => Type::Uuid,
            "inet6" => Type::Inet6,
            "inet4" => Type::Inet4,
            _ => Type::Other(self.column_type),
        }
    }
}

async fn load_keys(
    conn: &mut Conn,
    flavor: Flavor,
    list: &str,
    asked: &impl Fn(String, String) -> Option<(String, String)>,
    tables: &mut Tables,
) -> Result<(), Fault> {
    // MySQL names no column where the part of an index is an expression.
    let expression = match flavor {
        Flavor::Mysql => "expression IS NOT NULL",
        Flavor::Mariadb => "0",
    };
    let query = format!(
        "SELECT table_schema, table_name, index_name, column_name, sub_part IS NOT NULL OR {expression} \
         FROM information_schema.statistics \
         WHERE non_unique = 0 AND (table_schema, table_name) IN ({list}) \
         ORDER BY table_schema, table_name, index_name, seq_in_index"
    );
    type Part = (String, String, String, Option<String>, bool);
    for (database, table, index, column, partial) in all::<Part>(conn, query).await? {
        let Some(table) = asked(database, table).and_then(|name| tables.get_mut(&name)) else {
            continue;
        };
        let place =
            column.and_then(|column| table.columns.iter().position(|known| known.name == column));
        if index == "PRIMARY" {
            table.primary_key.extend(place);
            table.primary_partial |= partial;
            continue;
        }
        if table.unique_keys.last().is_none_or(|last| last.name != index) {
            table.unique_keys.push(UniqueKey { name: index, columns: Vec::new(), partial: false });
        }
        if let Some(key) = table.unique_keys.last_mut() {
            key.columns.extend(place);
            key.partial |= partial || place.is_none();
        }
    }
    Ok(())
}

async fn load_foreign_keys(
    conn: &mut Conn,
    list: &str,
    asked: &impl Fn(String, String) -> Option<(String, String)>,
    tables: &mut Tables,
) -> Result<(), Fault> {
    let query = format!(
        "SELECT k.constraint_name, k.table_schema, k.table_name, k.column_name, k.referenced_table_schema, \
         k.referenced_table_name, k.referenced_column_name, r.update_rule, r.delete_rule \
         FROM information_schema.key_column_usage k LEFT JOIN information_schema.referential_constraints r \
         ON r.constraint_schema = k.constraint_schema AND r.constraint_name = k.constraint_name \
         AND r.table_name = k.table_name \
         WHERE k.referenced_table_name IS NOT NULL AND ((k.table_schema, k.table_name) IN ({list}) \
         OR (k.referenced_table_schema, k.referenced_table_name) IN ({list})) \
         ORDER BY k.table_schema, k.table_name, k.constraint_name, k.ordinal_position"
    );
    type Part =
        (String, String, String, String, String, String, String, Option<String>, Option<String>);
    let mut keys: Vec<ForeignKey> = Vec::new();
    for part in all::<Part>(conn, query).await? {
        let (name, database, table, column, parent_database, parent, parent_column, update, delete) =
            part;
        let child = (database, table);
        // MariaDB shows what a foreign key does only to who may do more than read.
        let (Some(update), Some(delete)) = (update, delete) else {
            if asked(child.0.clone(), child.1.clone()).is_none() {
                continue;
            }
            return Err(hidden_key(&name, &child));
        };
        match keys.last_mut() {
            Some(key) if key.name == name && key.child == child => {
                key.child_columns.push(column);
                key.parent_columns.push(parent_column);
            }
            _ => keys.push(ForeignKey {
                name,
                child,
                child_columns: vec![column],
                parent: (parent_database, parent),
                parent_columns: vec![parent_column],
                on_update: Rule::parse(&update),
                on_delete: Rule::parse(&delete),
            }),
        }
    }
    for key in keys {
        let find = |name: &(String, String)| asked(name.0.clone(), name.1.clone());
        if let Some(table) = find(&key.child).and_then(|name| tables.get_mut(&name)) {
            table.parents.push(key.clone());
        }
        if let Some(table) = find(&key.parent).and_then(|name| tables.get_mut(&name)) {
            table.children.push(key);
        }
    }
    Ok(())
}

fn hidden_key(name: &str, (database, table): &(String, String)) -> Fault {
    let what = format!("{database}.{table}: the user may not see what the foreign key {name} does");
    Fault::fatal(Code::Grant, what)
        .hint(format!("GRANT TRIGGER ON `{}`.* to the user", database.replace('`', "``")))
}
