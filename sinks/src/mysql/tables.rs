//! The target's tables as the statements need them, read once and remembered.

use std::collections::HashMap;

use mysql_async::Conn;
use unitflow_change::envelope::Row;
use unitflow_change::key::Key;
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
}

impl Tables {
    /// Forgets all, so that the next change reads the tables again.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Reads the tables of these keys that are not known yet.
    pub async fn load<'a>(
        &mut self,
        conn: &mut Conn,
        flavor: Flavor,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Fault> {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut names = Vec::new();
        for key in keys {
            let part = Key::table_part(key)?;
            if !self.by_key.contains_key(part) && !parts.contains(&part) {
                let key = Key::parse(key)?;
                parts.push(part);
                names.push((key.database.into(), key.table.into()));
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        // All at once: MariaDB looks at every table for each question about some.
        let tables = schema::load(conn, flavor, &names).await?;
        for (part, table) in parts.into_iter().zip(tables) {
            let number = self.list.len();
            self.list.push(examine(flavor, table)?);
            self.columns_of.push(Vec::new());
            self.by_key.insert(part.into(), number);
        }
        Ok(())
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
        serial: !table.unique_keys.is_empty() || table.key_columns().any(is_folded),
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

/// What the server would do to other rows by itself: the source's log does not hold it, or holds it
/// too, and then it would be done twice.
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
    if let Some(trigger) = table.triggers.first() {
        return refuse(
            format!("the trigger {trigger} would fire here as it did at the source"),
            "drop it in this unit, or exclude the table",
        );
    }
    if let Some(key) = table.parents.iter().chain(&table.children).find(|key| key.cascades()) {
        return refuse(
            format!(
                "the foreign key {} changes rows by itself, which the source's log does not hold",
                key.name
            ),
            "make it RESTRICT and change the children explicitly, or exclude both tables",
        );
    }
    Ok(())
}

/// Whether different texts may be one key: by collation, or by trailing spaces.
fn is_folded(column: &Column) -> bool {
    matches!(&column.kind, Type::Text { collation, .. } if !collation.ends_with("_0900_bin") && !collation.ends_with("_nopad_bin"))
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
        let place = target.table.columns.iter().position(|column| column.name == name);
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
