//! The target's tables as the statements need them, read once and remembered.

use std::collections::HashMap;

use mysql_async::Conn;
use unitflow_change::ddl::TableName;
use unitflow_change::envelope::{Row, is_same_column};
use unitflow_change::key::Key;
use unitflow_change::rename::Rename;
use unitflow_change::{Code, Fault};
use unitflow_mysql::connect::Flavor;
use unitflow_mysql::literal::quote_identifier;
use unitflow_mysql::schema::{self, Column, Table, Type};

/// The columns of row images as they arrive, matched with the target's.
#[derive(Debug)]
pub struct Columns {
    /// Number of the table.
    pub table: usize,
    names: Vec<String>,
    /// For each column of the image its place in the target's table; none for one that the target
    /// computes itself.
    pub places: Vec<Option<usize>>,
    /// `a,b,…` of an INSERT.
    pub insert_list: Vec<u8>,
}

/// One table of the target.
#[derive(Debug)]
pub struct Target {
    /// What the server says of it.
    pub table: Table,
    /// Its quoted name.
    pub name: String,
    /// Whether its rows may exclude each other by more than the primary key.
    pub serial: bool,
    /// For each column of the table, whether it belongs to the primary key.
    pub in_key: Vec<bool>,
    /// Each column's quoted name.
    pub quoted: Vec<Vec<u8>>,
    /// Whether it has ENUM columns.
    pub has_choices: bool,
    /// Whether it has FLOAT or DOUBLE columns.
    pub has_doubles: bool,
    /// The kind of server it is in.
    pub flavor: Flavor,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Tables {
    by_key: HashMap<Box<[u8]>, usize>,
    list: Vec<Target>,
    columns: Vec<Columns>,
    columns_of: Vec<Vec<usize>>,
    /// Where the last attempt failed.
    blamed: Option<Blamed>,
}

/// Where an attempt failed: the table's part of a key, and the batch's record where it is known
/// to be that one.
#[derive(Debug)]
struct Blamed {
    part: Vec<u8>,
    slot: Option<usize>,
}

impl Tables {
    /// Forgets all, so that the next change reads the tables again.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Reads the tables of these keys that are not known yet. Keys have the mesh's names.
    pub async fn load<'a>(
        &mut self,
        conn: &mut Conn,
        flavor: Flavor,
        rename: &Rename,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Fault> {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut names = Vec::new();
        for key in keys {
            let part = Key::table_part(key)?;
            if !self.by_key.contains_key(part) && !parts.contains(&part) {
                self.blame(key, None);
                let key = Key::parse(key)?;
                let local = rename.local(&key.database, &key.table).ok_or_else(|| {
                    Fault::fatal(
                        Code::Table,
                        format!(
                            "{}.{} has no place in this unit: another table has its name there",
                            key.database, key.table
                        ),
                    )
                    .hint("give it a name of its own under rename, or exclude it")
                })?;
                parts.push(part);
                names.push(local);
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        // All at once: MariaDB looks at every table for each question about some.
        let tables = match schema::load(conn, flavor, &names).await {
            Err(fault) if fault.code == Code::Table => {
                return Err(self.find_missing(conn, flavor, (&parts, &names), fault).await);
            }
            tables => tables?,
        };
        self.blamed = None;
        for (part, table) in parts.into_iter().zip(tables) {
            let number = self.list.len();
            let target = examine(flavor, table);
            if target.is_err() {
                self.blame_table(part);
            }
            self.list.push(target?);
            self.columns_of.push(Vec::new());
            self.by_key.insert(part.into(), number);
        }
        Ok(())
    }

    /// Blames the first of these tables that can't be read.
    async fn find_missing(
        &mut self,
        conn: &mut Conn,
        flavor: Flavor,
        (parts, names): (&[&[u8]], &[(String, String)]),
        fault: Fault,
    ) -> Fault {
        for (part, name) in parts.iter().zip(names) {
            if let Err(fault) = schema::load(conn, flavor, std::slice::from_ref(name)).await {
                self.blame_table(part);
                return fault;
            }
        }
        fault
    }

    /// Notes that an attempt failed at the table of this key, and at this record of the batch where
    /// it is known to be that one.
    pub fn blame(&mut self, key: &[u8], slot: Option<usize>) {
        let part = Key::table_part(key).ok().map(<[u8]>::to_vec);
        self.blamed = part.map(|part| Blamed { part, slot });
    }

    /// The same of a table, by its part of a key.
    fn blame_table(&mut self, part: &[u8]) {
        self.blamed = Some(Blamed { part: part.to_vec(), slot: None });
    }

    /// Where the last attempt failed, if it was at a table.
    pub fn take_blamed(&mut self) -> Option<(TableName, Option<usize>)> {
        let Blamed { part: mut key, slot } = self.blamed.take()?;
        key.extend_from_slice(b"null]");
        let key = Key::parse(&key).ok()?;
        let table =
            TableName { database: key.database.into_owned(), table: key.table.into_owned() };
        Some((table, slot))
    }

    /// The number of the table of this key; it was loaded before.
    pub fn number(&self, key: &[u8]) -> Result<usize, Fault> {
        self.by_key
            .get(Key::table_part(key)?)
            .copied()
            .ok_or_else(|| Fault::fatal(Code::Bug, "a table is used before it is loaded"))
    }

    /// A table by its number.
    #[must_use]
    pub fn target(&self, number: usize) -> &Target {
        &self.list[number]
    }

    /// Matched columns by their number.
    #[must_use]
    pub fn columns(&self, number: usize) -> &Columns {
        &self.columns[number]
    }

    /// The number of the columns of this row image of a table.
    pub fn columns_number(&mut self, table: usize, row: &Row<'_>) -> Result<usize, Fault> {
        let known = self.columns_of[table].iter().copied().find(|number| {
            let names = &self.columns[*number].names;
            names.len() == row.len() && names.iter().zip(row.iter()).all(|(a, (b, _))| a == b)
        });
        if let Some(number) = known {
            return Ok(number);
        }
        let columns = match_columns(&self.list[table], table, row)?;
        self.columns.push(columns);
        self.columns_of[table].push(self.columns.len() - 1);
        Ok(self.columns.len() - 1)
    }
}

fn examine(flavor: Flavor, table: Table) -> Result<Target, Fault> {
    if table.primary_key.is_empty() {
        return Err(Fault::fatal(
            Code::NoPrimaryKey,
            format!("{}.{} has no primary key at the target", table.database, table.name),
        )
        .hint("give it a primary key in every unit, or exclude it from the flow"));
    }
    refuse_side_effects(&table)?;
    let in_key = (0..table.columns.len()).map(|place| table.primary_key.contains(&place)).collect();
    let quoted = table.columns.iter().map(|column| quote(&column.name)).collect();
    Ok(Target {
        name: table.quoted(),
        serial: table.is_serial(),
        in_key,
        quoted,
        has_choices: table.columns.iter().any(|column| matches!(column.kind, Type::Enum(_))),
        has_doubles: table
            .columns
            .iter()
            .any(|column| matches!(column.kind, Type::Float | Type::Double)),
        flavor,
        table,
    })
}

/// What the server would do to other rows by itself: the source's log holds it too, and it would be
/// done twice. Foreign keys do nothing: their checks are off, and what they did at the source is in
/// its log, or else its connector does not start.
fn refuse_side_effects(table: &Table) -> Result<(), Fault> {
    let refuse = |what: String, hint: &str| {
        Err(Fault::fatal(Code::Table, format!("{}: {what}", table.quoted())).hint(hint))
    };
    if !table.engine.eq_ignore_ascii_case("InnoDB") {
        return refuse(
            format!("its engine is {}, which has no transactions", table.engine),
            "ALTER TABLE … ENGINE=InnoDB",
        );
    }
    if table.versioned {
        return refuse(
            "it keeps the history of its rows, which would begin anew here with each change"
                .to_owned(),
            "ALTER TABLE … DROP SYSTEM VERSIONING, or exclude the table",
        );
    }
    // Those of pt-online-schema-change keep its copy of the table up to date, which is this unit's
    // own affair and has to see what comes from others.
    let triggers = table.triggers.iter().find(|name| !name.starts_with("pt_osc_"));
    if let Some(trigger) = triggers {
        return refuse(
            format!("the trigger {trigger} would fire here as it did at the source"),
            "drop it in this unit, or exclude the table",
        );
    }
    Ok(())
}

fn quote(name: &str) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(name.len() + 2);
    quote_identifier(&mut quoted, name);
    quoted
}

fn match_columns(target: &Target, table: usize, row: &Row<'_>) -> Result<Columns, Fault> {
    let mut places = Vec::with_capacity(row.len());
    let mut list = Vec::with_capacity(row.len());
    for (name, _) in row.iter() {
        let columns = || target.table.columns.iter();
        let place = columns()
            .position(|column| column.name == name)
            .or_else(|| columns().position(|column| is_same_column(&column.name, name)));
        let place = place.ok_or_else(|| {
            Fault::fatal(Code::Table, format!("{} has no column {name:?}", target.name))
                .hint("bring the table to the source's schema, then restart the sink")
        })?;
        let computed = target.table.columns[place].generated.is_some();
        if !computed {
            list.push(target.quoted[place].clone());
        }
        places.push((!computed).then_some(place));
    }
    let key_present = target.table.primary_key.iter().all(|key| places.contains(&Some(*key)));
    if !key_present {
        return Err(Fault::fatal(
            Code::Table,
            format!("a change for {} lacks a column of the target's primary key", target.name),
        )
        .hint("the table needs the same primary key in every unit"));
    }
    Ok(Columns {
        table,
        names: row.iter().map(|(name, _)| name.to_owned()).collect(),
        places,
        insert_list: list.join(&b','),
    })
}

impl Target {
    /// A column by its place.
    #[must_use]
    pub fn column(&self, place: usize) -> &Column {
        &self.table.columns[place]
    }
}
