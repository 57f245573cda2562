//! A table of one unit and its counterpart in another.

use std::mem::discriminant;

use unitflow_change::condition::Condition;
use unitflow_change::envelope::{Row, is_same_column};
use unitflow_change::fault::{Code, Fault};
use unitflow_change::key::Key;
use unitflow_mysql::schema::{Column, Type};
use unitflow_mysql::snapshot::{self, Table};

use crate::canonical::{self, Family};

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Target,
}

/// A column that both ends have.
#[derive(Clone, Debug)]
struct Shared {
    name: String,
    /// Its places in the two tables.
    source: usize,
    target: usize,
    family: Family,
}

/// Two tables that should hold the same rows.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The key's part before the columns, by the mesh's names.
    head: Vec<u8>,
    source: Table,
    target: Table,
    columns: Vec<Shared>,
    /// Those of the primary key, in its order.
    key: Vec<Shared>,
    conditions: Vec<Condition>,
    ordered: bool,
}

impl Pair {
    /// Two tables as the mesh calls them, `name` being database and table. Compared are the columns
    /// that both have by name, but those that the target computes and those of `hidden`; of the
    /// source only rows that meet all `conditions`.
    ///
    /// # Errors
    /// [`Code::Table`] where they have no primary key, or not the same columns in it.
    pub fn new(
        name: (&str, &str),
        source: Table,
        target: Table,
        hidden: &[String],
        conditions: Vec<Condition>,
    ) -> Result<Self, Fault> {
        let shared = |place: usize| {
            let column = &source.schema.columns[place];
            let named = |other: &Column| is_same_column(&other.name, &column.name);
            let found = target.schema.columns.iter().position(named)?;
            let family = Family::of(&column.kind, &target.schema.columns[found].kind);
            Some(Shared { name: column.name.clone(), source: place, target: found, family })
        };
        let shown = |column: &Shared| {
            target.schema.columns[column.target].generated.is_none()
                && !hidden.iter().any(|hidden| is_same_column(hidden, &column.name))
        };
        let columns: Vec<_> =
            (0..source.schema.columns.len()).filter_map(shared).filter(shown).collect();
        let keys = &source.schema.primary_key;
        let key: Vec<_> = keys.iter().filter_map(|place| shared(*place)).collect();
        let places: Vec<_> = key.iter().map(|column| column.target).collect();
        let others = &target.schema.primary_key;
        let same =
            places.len() == others.len() && others.iter().all(|place| places.contains(place));
        if keys.is_empty() || key.len() != keys.len() || !same {
            let what =
                format!("{}.{} has no primary key, or another at the target", name.0, name.1);
            return Err(Fault::fatal(Code::Table, what)
                .hint("give it the same primary key in both units, or exclude it"));
        }
        let ordered = places == *others
            && !(source.schema.primary_partial || target.schema.primary_partial)
            && key.iter().all(|column| {
                let (one, other) = (column.source, column.target);
                is_same_order(&source.schema.columns[one], &target.schema.columns[other])
            });
        let head = Key::head(name.0, name.1);
        Ok(Self { head, source, target, columns, key, conditions, ordered })
    }

    /// Whether both servers have the same order of keys, and no two keys for one. Then the target is
    /// read by the source's ranges; else each end is asked for the other's keys.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        self.ordered
    }

    pub(crate) fn table(&self, end: End) -> &Table {
        match end {
            End::Source => &self.source,
            End::Target => &self.target,
        }
    }

    /// Whether a row of the source is one that travels.
    pub(crate) fn travels(&self, row: &Row<'_>) -> Result<bool, Fault> {
        for condition in &self.conditions {
            if !condition.holds(row)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The key of a row of either end, so that those of equal keys are equal.
    pub(crate) fn identity(&self, end: End, row: &Row<'_>) -> Result<Vec<u8>, Fault> {
        let mut identity = Vec::new();
        for column in &self.key {
            let (kind, value) = self.value(column, end, row)?;
            canonical::write(&mut identity, column.family, kind, value);
            identity.push(0);
        }
        Ok(identity)
    }

    /// The key of a row of either end as the records of the table have it.
    pub(crate) fn key(&self, end: End, row: &Row<'_>) -> Result<Vec<u8>, Fault> {
        let mut key = self.head.clone();
        for (place, column) in self.key.iter().enumerate() {
            key.push(if place == 0 { b'{' } else { b',' });
            // Writing a string to a Vec can't fail.
            let _ = serde_json::to_writer(&mut key, &column.name);
            key.push(b':');
            key.extend_from_slice(self.value(column, end, row)?.1.as_bytes());
        }
        key.extend_from_slice(b"}]");
        Ok(key)
    }

    /// Whether a row of the source and one of the target hold the same.
    pub(crate) fn is_same(&self, source: &Row<'_>, target: &Row<'_>) -> Result<bool, Fault> {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for column in &self.columns {
            let (kind, value) = self.value(column, End::Source, source)?;
            let (target_kind, target_value) = self.value(column, End::Target, target)?;
            if value == target_value {
                continue;
            }
            one.clear();
            other.clear();
            canonical::write(&mut one, column.family, kind, value);
            canonical::write(&mut other, column.family, target_kind, target_value);
            if one != other {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn value<'a>(
        &self,
        column: &Shared,
        end: End,
        row: &Row<'a>,
    ) -> Result<(&Type, &'a str), Fault> {
        let place = if end == End::Source { column.source } else { column.target };
        let kind = &self.table(end).schema.columns[place].kind;
        let value = row.iter().nth(place).map(|(_, value)| value);
        let value = value.ok_or_else(|| Fault::fatal(Code::Bug, "a row lacks a column"))?;
        Ok((kind, value))
    }
}

/// Reads the columns of a row.
pub(crate) fn columns(row: &snapshot::Row) -> Result<Row<'_>, Fault> {
    serde_json::from_slice(&row.after)
        .map_err(|error| Fault::fatal(Code::Bug, format!("a row can't be read: {error}")))
}

/// Whether both servers order the values of these columns alike and take none for equal that differ.
fn is_same_order(one: &Column, other: &Column) -> bool {
    if one.folds() || other.folds() {
        return false;
    }
    match (&one.kind, &other.kind) {
        (one, other) if canonical::is_number(one) && canonical::is_number(other) => true,
        (Type::Datetime(_) | Type::Timestamp(_), Type::Datetime(_) | Type::Timestamp(_)) => true,
        (Type::Binary(_) | Type::Blob(_), Type::Binary(_) | Type::Blob(_)) => true,
        (Type::Text { collation: one, .. }, Type::Text { collation: other, .. }) => one == other,
        (Type::Enum(one), Type::Enum(other)) | (Type::Set(one), Type::Set(other)) => one == other,
        (one, other) => discriminant(one) == discriminant(other),
    }
}
