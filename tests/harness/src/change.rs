//! One change of one row, as load and judge both name it.

use std::fmt;

use crate::schema::{TABLES, Table};

/// What a row event does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// The row comes into being with this version.
    Insert,
    /// The row reaches this version.
    Update,
    /// The row, at this version, goes away.
    Delete,
    /// The row reaches this version and leaves its primary key or its lane. Only writers name it
    /// so: in the log it is an update, or a delete of the version before and an insert.
    Move,
}

/// One change. Every row says which unit wrote it, its number there, and its version, which rises
/// with each change; so a change is never made twice by a writer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    /// The table's place in [`TABLES`].
    pub table: u8,
    /// The unit's first letter.
    pub unit: u8,
    /// The row's number.
    pub number: u32,
    /// The row's version.
    pub version: u32,
    /// What happened.
    pub op: Op,
}

impl Change {
    /// A change to a table of the shop.
    #[must_use]
    pub fn new(table: Table, unit: u8, number: u32, version: u32, op: Op) -> Self {
        Self { table: table as u8, unit, number, version, op }
    }

    /// What it is in the log of the unit that made it.
    #[must_use]
    pub fn at_origin(self) -> Self {
        match self.op {
            Op::Move => Self { op: Op::Update, ..self },
            _ => self,
        }
    }

    /// What a move may have become elsewhere.
    #[must_use]
    pub fn as_two(self) -> [Self; 2] {
        [
            Self { op: Op::Delete, version: self.version - 1, ..self },
            Self { op: Op::Insert, ..self },
        ]
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = TABLES.get(usize::from(self.table)).map_or("?", |layout| layout.name);
        let op = match self.op {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
            Op::Move => "move",
        };
        let unit = char::from(self.unit);
        write!(f, "{op} of {table} ({unit}, number {}, version {})", self.number, self.version)
    }
}
