//! Says what applies to a table, and gives each change its lane.
//!
//! What applies to a table is looked up once by the table's part of the key bytes and remembered
//! until the routing changes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use unitflow_change::Fault;
use unitflow_change::envelope::Row;
use unitflow_change::intent::DDL_TABLE;
use unitflow_change::key::Key;
use unitflow_change::routing::{
    HEARTBEAT_TABLE, INTERNAL_DATABASE, Order, PartitionBy, Routing, lane_of,
};

use crate::filter::Filter;
use crate::mark::{Whose, whose};

/// What applies to one table.
#[derive(Debug)]
pub struct Rule {
    /// Whose transaction it is if this table is the first that it changes.
    pub first_says: Whose,
    /// Whether its changes travel.
    pub carried: bool,
    /// The units' clocks: each unit makes its own rows, and only their beats travel.
    pub clock: bool,
    /// Its rows announce the schema changes that sinks make.
    pub announces: bool,
    /// Which of its rows share a lane.
    pub by: PartitionBy,
    /// Whether it takes more than a row's key to know that.
    pub by_row: bool,
    /// What does not travel of it.
    pub filter: Option<Filter>,
    /// Its part of the key in the mesh's names, where the unit has others.
    head: Option<Vec<u8>>,
}

impl Rule {
    /// A row's key in the mesh's names.
    pub fn key<'a>(&self, key: &'a [u8]) -> Result<Cow<'a, [u8]>, Fault> {
        let Some(head) = &self.head else { return Ok(Cow::Borrowed(key)) };
        let columns = &key[Key::table_part(key)?.len()..];
        Ok(Cow::Owned([head, columns].concat()))
    }
}

/// The routing in force, with a rule for each table seen.
#[derive(Debug)]
pub struct Router {
    routing: Routing,
    rules: HashMap<Box<[u8]>, Arc<Rule>>,
}

impl Router {
    /// Routes by `routing`.
    #[must_use]
    pub fn new(routing: Routing) -> Self {
        Self { routing, rules: HashMap::new() }
    }

    /// The routing in force.
    #[must_use]
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    /// What applies to the table of this key, which is in the unit's names.
    pub fn rule(&mut self, key: &[u8]) -> Result<Arc<Rule>, Fault> {
        let table = Key::table_part(key)?;
        if let Some(rule) = self.rules.get(table) {
            return Ok(rule.clone());
        }
        let rule = Arc::new(self.make(key)?);
        self.rules.insert(table.into(), rule.clone());
        Ok(rule)
    }

    /// Looks each table up again: a statement may have changed its key.
    pub fn forget(&mut self) {
        self.rules.clear();
    }

    fn make(&self, key: &[u8]) -> Result<Rule, Fault> {
        let mut name = Key::parse(key)?;
        let mut rule = Rule {
            first_says: whose(&name.database, &name.table),
            carried: false,
            clock: name.database == INTERNAL_DATABASE && name.table == HEARTBEAT_TABLE,
            announces: name.database == INTERNAL_DATABASE && name.table == DDL_TABLE,
            by: PartitionBy::Key,
            by_row: false,
            filter: None,
            head: None,
        };
        // What has no place in the mesh does not travel.
        let rename = &self.routing.rename;
        let Some((database, table)) = rename.canonical(&name.database, &name.table) else {
            return Ok(rule);
        };
        if !rename.is_empty() && (&*name.database, &*name.table) != (&*database, &*table) {
            rule.head = Some(Key::head(&database, &table));
        }
        (name.database, name.table) = (database.into(), table.into());
        rule.carried = self.routing.carries(&name.database, &name.table);
        if rule.carried {
            rule.by = self.routing.partition_by(&name.database, &name.table);
            rule.by_row = match (&rule.by, &name.columns) {
                (PartitionBy::Columns(names), Some(key)) => {
                    names.iter().any(|name| key.get(name).is_none())
                }
                (PartitionBy::Columns(_), None) => true,
                _ => false,
            };
            rule.filter = Filter::of(&self.routing, &name)?;
        }
        Ok(rule)
    }

    /// The lane of the row with these key bytes, where the key is enough to know it.
    pub fn lane_of_key(&self, by: &PartitionBy, key: &[u8]) -> Result<i32, Fault> {
        match by {
            PartitionBy::Columns(_) => self.lane(by, key, Key::parse(key)?.columns.as_ref()),
            _ => self.lane(by, key, None),
        }
    }

    /// The lane of the row with these key bytes; `row` is needed where `by` names columns.
    pub fn lane(&self, by: &PartitionBy, key: &[u8], row: Option<&Row<'_>>) -> Result<i32, Fault> {
        match self.routing.order {
            Order::Transaction => Ok(0),
            Order::Key => lane_of(by, key, row, self.routing.partitions),
        }
    }
}
