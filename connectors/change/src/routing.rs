//! What decides which changes travel and in which lane.
//!
//! A routing stands in the captured log itself, in the barrier that starts a generation or in a
//! record of its own: so a transformer that replays the log always decides as it did before, and
//! two workers with different configuration files can't disagree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::condition::Condition;
use crate::envelope::Row;
use crate::fault::{Code, Fault};
use crate::form;
use crate::key::Key;
use crate::rename::Rename;

/// The database that holds Unitflow's own tables in every store.
pub const INTERNAL_DATABASE: &str = "unitflow";

/// The internal table whose changes mark a transaction as applied by a sink.
pub const LEDGER_TABLE: &str = "ledger";

/// The internal table whose changes travel: each unit's clock.
pub const HEARTBEAT_TABLE: &str = "heartbeat";

/// The most lanes a log can have.
pub const PARTITIONS_MAX: i32 = 1024;

/// Which rows share a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum PartitionBy {
    /// Rows of one primary key.
    #[default]
    Key,
    /// All rows of the table.
    Table,
    /// Rows with equal values in these columns.
    Columns(Vec<String>),
}

/// What is kept together on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Changes of one key stay in order; lanes run side by side.
    #[default]
    Key,
    /// Whole source transactions stay whole and in order; one lane carries all.
    Transaction,
}

/// Which columns of a table travel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// These do not.
    pub exclude: Vec<String>,
}

/// The routing of one log. All names are the mesh's; `rename` leads to them from the unit's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// How many partitions, and so lanes, the tagged topic has.
    pub partitions: i32,
    /// What is kept together.
    pub order: Order,
    /// `database.table` patterns of what travels; `*` stands for any text.
    pub tables: Vec<String>,
    /// Patterns of what does not, taken out of the former.
    pub exclude: Vec<String>,
    /// Tables whose rows are not spread by primary key; the first pattern that fits counts, in
    /// the order of the patterns' text.
    pub partition_by: BTreeMap<String, PartitionBy>,
    /// Tables (`database.table`, no patterns) whose rows exclude each other by more than their
    /// key's bytes, as the store's schema says, and what keeps those in one lane that do: all rows
    /// of a table, or those with equal values in some columns of its key. Goes before
    /// `partition_by`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bound: BTreeMap<String, PartitionBy>,
    /// Columns that do not travel, by table pattern; every pattern that fits counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, Columns>,
    /// What a row has to meet to travel, by table pattern; every pattern that fits counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, Condition>,
    /// The unit's own names.
    #[serde(default, skip_serializing_if = "Rename::is_empty")]
    pub rename: Rename,
}

/// What a running log has to do to go on with another routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing: it is the same.
    Stay,
    /// Name it in a record; it holds from there on.
    Record,
    /// Start a new generation: keys change lanes, so every lane has to be waited for.
    Generation,
    /// It can't be followed: the log has another number of lanes.
    Impossible,
}

impl Routing {
    /// Whether changes of this table travel. Internal tables do not, except the heartbeat.
    #[must_use]
    pub fn carries(&self, database: &str, table: &str) -> bool {
        if database == INTERNAL_DATABASE {
            return table == HEARTBEAT_TABLE;
        }
        let name = format!("{database}.{table}");
        self.tables.iter().any(|pattern| fits(pattern, &name))
            && !self.exclude.iter().any(|pattern| fits(pattern, &name))
    }

    /// Whether some table that the unit keeps in this database may travel.
    #[must_use]
    pub fn carries_some(&self, database: &str) -> bool {
        let databases = self.rename.canonical_databases(database);
        let of_one = |pattern: &String| {
            let part = pattern.split_once('.').map_or(pattern.as_str(), |(part, _)| part);
            databases.iter().any(|canonical| fits(part, canonical))
        };
        database != INTERNAL_DATABASE && self.tables.iter().any(of_one)
    }

    /// Which rows of this table share a lane.
    #[must_use]
    pub fn partition_by(&self, database: &str, table: &str) -> PartitionBy {
        if database == INTERNAL_DATABASE {
            return PartitionBy::Key;
        }
        let name = format!("{database}.{table}");
        if let Some(by) = self.bound.get(&name) {
            return by.clone();
        }
        let found = self.partition_by.iter().find(|(pattern, _)| fits(pattern, &name));
        found.map(|(_, by)| by.clone()).unwrap_or_default()
    }

    /// The same, where the log has lanes to spread rows over.
    #[must_use]
    pub fn spread(&self, database: &str, table: &str) -> PartitionBy {
        match self.order == Order::Transaction || self.partitions == 1 {
            true => PartitionBy::Table,
            false => self.partition_by(database, table),
        }
    }

    /// The columns of this table that do not travel.
    #[must_use]
    pub fn hidden(&self, database: &str, table: &str) -> Vec<String> {
        let name = format!("{database}.{table}");
        let found = self
            .columns
            .iter()
            .filter(|(pattern, _)| database != INTERNAL_DATABASE && fits(pattern, &name));
        found.flat_map(|(_, columns)| columns.exclude.clone()).collect()
    }

    /// What a row of this table has to meet to travel.
    #[must_use]
    pub fn conditions(&self, database: &str, table: &str) -> Vec<&Condition> {
        let name = format!("{database}.{table}");
        let found = self
            .rows
            .iter()
            .filter(|(pattern, _)| database != INTERNAL_DATABASE && fits(pattern, &name));
        found.map(|(_, condition)| condition).collect()
    }

    /// Whether the same of this table travels as by another routing: its rows and their columns.
    #[must_use]
    pub fn lets_through_as(&self, other: &Self, database: &str, table: &str) -> bool {
        self.carries(database, table) == other.carries(database, table)
            && self.conditions(database, table) == other.conditions(database, table)
            && self.hidden(database, table) == other.hidden(database, table)
    }

    /// What of this table travels, as a text that is the same where the same does.
    #[must_use]
    pub fn filter_text(&self, database: &str, table: &str) -> String {
        let conditions = self.conditions(database, table).into_iter().cloned();
        let conditions: Vec<String> = conditions.map(String::from).collect();
        let (carries, hidden) = (self.carries(database, table), self.hidden(database, table));
        format!("{database:?} {table:?} {carries} {hidden:?} {conditions:?}")
    }

    /// Whether the same travels as by another routing, of any table.
    #[must_use]
    pub fn lets_all_through_as(&self, other: &Self) -> bool {
        self.tables == other.tables
            && self.exclude == other.exclude
            && self.columns == other.columns
            && self.rows == other.rows
    }

    /// Whether a log that runs may go on with `next` from one record to the next. What moves keys
    /// between lanes needs a new generation; what only lets more or less through does not.
    #[must_use]
    pub fn leads_to(&self, next: &Self) -> bool {
        self.partitions == next.partitions
            && self.order == next.order
            && self.partition_by == next.partition_by
            && self.bound == next.bound
            && self.rename == next.rename
    }

    /// How a log that runs goes on with `next`.
    #[must_use]
    pub fn turn_to(&self, next: &Self) -> Turn {
        if self == next {
            Turn::Stay
        } else if self.leads_to(next) {
            Turn::Record
        } else if self.partitions == next.partitions {
            Turn::Generation
        } else {
            Turn::Impossible
        }
    }

    /// Refuses what can't be carried in order: a row that leaves a condition and comes back may
    /// come back to another lane than the one that still has to remove it.
    pub fn ensure_ordered(&self, database: &str, table: &str) -> Result<(), Fault> {
        // Columns of the key hold a key's whole history in one lane.
        let in_key = self.bound.contains_key(&format!("{database}.{table}"));
        let spread = matches!(self.spread(database, table), PartitionBy::Columns(_)) && !in_key;
        if spread && !self.conditions(database, table).is_empty() {
            return Err(Fault::fatal(
                Code::Routing,
                format!("{database}.{table} has a condition under rows and is spread by columns: its rows could overtake themselves"),
            )
            .hint("set partition_by for this table to \"table\" or \"key\", or drop the condition"));
        }
        Ok(())
    }

    /// Reads a routing from a barrier or a routing record.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(form::payload(bytes)?).map_err(|error| {
            Fault::fatal(Code::Record, format!("a routing record can't be read: {error}"))
        })
    }
}

/// The lane of a row: by its key bytes, or by what `by` says. Stable for ever: xxh3-64 with seed
/// 0 over the bytes named here, modulo `partitions`.
pub fn lane_of(
    by: &PartitionBy,
    key: &[u8],
    row: Option<&Row<'_>>,
    partitions: i32,
) -> Result<i32, Fault> {
    let hash = match by {
        PartitionBy::Key => xxh3_64(key),
        PartitionBy::Table => xxh3_64(Key::table_part(key)?),
        PartitionBy::Columns(columns) => {
            let row =
                row.ok_or_else(|| Fault::fatal(Code::Bug, "a row is needed to route by columns"))?;
            let mut bytes = Vec::with_capacity(64);
            for column in columns {
                let value = row.get(column).ok_or_else(|| {
                    Fault::fatal(Code::Routing, format!("partition_by names the column {column:?}, which a row of the table lacks"))
                        .hint("correct partition_by for this table")
                })?;
                bytes.extend_from_slice(value.as_bytes());
                bytes.push(0);
            }
            xxh3_64(&bytes)
        }
    };
    let partitions = u64::try_from(partitions.max(1)).unwrap_or(1);
    Ok(i32::try_from(hash % partitions).unwrap_or(0))
}

/// Whether `name` fits `pattern`, in which `*` stands for any text.
#[must_use]
pub fn fits(pattern: &str, name: impl AsRef<[u8]>) -> bool {
    let mut parts = pattern.as_bytes().split(|byte| *byte == b'*').peekable();
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.as_ref().strip_prefix(first) else { return false };
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let found = match part.len() {
            0 => Some(0),
            length => rest.windows(length).position(|window| window == part),
        };
        match found {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, expected) in [
            ("shop.*", "shop.orders", true),
            ("shop.*", "workshop.orders", false),
            ("*", "a.b", true),
            ("*.orders", "shop.orders", true),
            ("*.orders", "shop.orders_old", false),
            ("shop.o*s", "shop.orders", true),
            ("shop.o*r*s", "shop.os", false),
            ("shop.orders", "shop.orders", true),
            ("shop.orders", "shop.orders2", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn lanes_never_change() {
        // A different result would send a key's next change past its last one.
        let key = br#"["shop","orders",{"id":42}]"#;
        assert_eq!(lane_of(&PartitionBy::Key, key, None, 16).unwrap(), EXPECTED[0]);
        assert_eq!(lane_of(&PartitionBy::Table, key, None, 16).unwrap(), EXPECTED[1]);
        let row: Row<'_> = serde_json::from_str(r#"{"id":42,"user":"7"}"#).unwrap();
        let by = PartitionBy::Columns(vec!["user".into()]);
        assert_eq!(lane_of(&by, key, Some(&row), 16).unwrap(), EXPECTED[2]);
    }

    const EXPECTED: [i32; 3] = [2, 1, 9];

    fn routing() -> Routing {
        Routing { partitions: 4, tables: vec!["shop.*".into()], ..Routing::default() }
    }

    #[test]
    fn a_routing_of_before_is_read_and_written_as_it_was() {
        let text = r#"{"partitions":4,"order":"key","tables":["shop.*"],"exclude":[],"partition_by":{"shop.users":"table"}}"#;
        let read = Routing::parse(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn filters_may_change_at_any_record_and_lanes_only_with_a_generation() {
        let condition = Condition::parse("id > 1").unwrap();
        let rename: Rename = serde_json::from_str(r#"{"shop":"mall"}"#).unwrap();
        let filtered = Routing {
            exclude: vec!["shop.x".into()],
            columns: [("shop.*".into(), Columns { exclude: vec!["photo".into()] })].into(),
            rows: [("shop.*".into(), condition)].into(),
            ..routing()
        };
        assert_eq!(routing().turn_to(&filtered), Turn::Record);
        assert_eq!(filtered.turn_to(&filtered), Turn::Stay);
        assert!(!routing().lets_all_through_as(&filtered));
        assert!(!routing().lets_through_as(&filtered, "shop", "x"));
        let text = |routing: &Routing, table| routing.filter_text("shop", table);
        assert_ne!(text(&routing(), "x"), text(&filtered, "x"));
        assert_ne!(text(&routing(), "orders"), text(&filtered, "orders"));
        assert_eq!(text(&routing(), "orders"), text(&routing(), "orders"));
        assert!(!routing().lets_through_as(&filtered, "shop", "orders"));
        assert!(routing().lets_through_as(&filtered, "other", "orders"));
        let by = PartitionBy::Table;
        let bound = Routing { bound: [("shop.users".to_owned(), by)].into(), ..routing() };
        let renamed = Routing { rename, ..routing() };
        for next in [&bound, &renamed] {
            assert_eq!(filtered.turn_to(next), Turn::Generation);
        }
        assert_eq!(bound.turn_to(&Routing { partitions: 5, ..routing() }), Turn::Impossible);
        assert_eq!(bound.partition_by("shop", "users"), PartitionBy::Table);
        assert_eq!(bound.partition_by("shop", "orders"), PartitionBy::Key);
    }

    #[test]
    fn every_filter_that_fits_counts() {
        let columns = |name: &str| Columns { exclude: vec![name.into()] };
        let routing = Routing {
            columns: [("*".into(), columns("a")), ("shop.users".into(), columns("b"))].into(),
            ..routing()
        };
        assert_eq!(routing.hidden("shop", "users"), ["a", "b"]);
        assert_eq!(routing.hidden("shop", "orders"), ["a"]);
        assert!(routing.hidden("unitflow", "heartbeat").is_empty());
    }
}
