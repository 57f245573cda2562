//! Filters, and gives each change its lane.
//!
//! What applies to a table is looked up once by the table's part of the key bytes and remembered
//! until the routing changes.

use std::collections::HashMap;

use unitflow_change::Fault;
use unitflow_change::envelope::Row;
use unitflow_change::intent::DDL_TABLE;
use unitflow_change::key::Key;
use unitflow_change::routing::{
    HEARTBEAT_TABLE, INTERNAL_DATABASE, Order, PartitionBy, Routing, lane_of,
};

use crate::mark::{Whose, whose};

/// What applies to one table.
#[derive(Clone, Debug)]
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
}

/// The routing in force, with a rule for each table seen.
#[derive(Debug)]
pub struct Router {
    routing: Routing,
    rules: HashMap<Box<[u8]>, Rule>,
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

    /// What applies to the table of this key.
    pub fn rule(&mut self, key: &[u8]) -> Result<&Rule, Fault> {
        let table = Key::table_part(key)?;
        if !self.rules.contains_key(table) {
            let name = Key::parse(key)?;
            let rule = Rule {
                first_says: whose(&name.database, &name.table),
                carried: self.routing.carries(&name.database, &name.table),
                clock: name.database == INTERNAL_DATABASE && name.table == HEARTBEAT_TABLE,
                announces: name.database == INTERNAL_DATABASE && name.table == DDL_TABLE,
                by: self.routing.partition_by(&name.database, &name.table),
            };
            self.rules.insert(table.into(), rule);
        }
        Ok(&self.rules[table])
    }

    /// The lane of the row with these key bytes; `row` is needed where `by` names columns.
    pub fn lane(&self, by: &PartitionBy, key: &[u8], row: Option<&Row<'_>>) -> Result<i32, Fault> {
        match self.routing.order {
            Order::Transaction => Ok(0),
            Order::Key => lane_of(by, key, row, self.routing.partitions),
        }
    }
}
