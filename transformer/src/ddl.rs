//! Schema changes: which of them concern other units, and as what.
//!
//! * **Whose.** A statement commits by itself, so no ledger row can stand in its transaction. A
//!   sink that is about to run one says so beforehand, by an *intent* row in a marked transaction;
//!   the statement that follows is known by the comment that names the intent or, where the server
//!   wrote it anew (`DROP TABLE` loses its comment), by doing the same to the same tables.
//! * **Shadows.** pt-online-schema-change and gh-ost alter a copy of a table and then swap names.
//!   The copy and its rows are the unit's own affair; the swap arrives elsewhere as the
//!   alteration that the copy went through. A table is a shadow from its creation on, if its name
//!   is made from that of a carried table: `_t_new`, `_t_gho`, `_t_ghc`, `_t_ghk`; also what the swap
//!   leaves behind: `_t_old`, `_t_del`. gh-ost drops tables of its names before it creates them.
//! * **Carried.** What names only tables that the routing leaves out does not travel. Where such a
//!   table hands rows to a carried one, by a new name or a partition, the statement says so: no
//!   other unit has these rows.
//!
//! What is not recognised travels: whoever is to act on it stops, which loses nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unitflow_change::Fault;
use unitflow_change::ddl::{Applied, Class, Statement, TableName, Verb, quote};
use unitflow_change::envelope::{Envelope, Op};
use unitflow_change::intent::Intent;
use unitflow_change::key::Key;
use unitflow_change::routing::Routing;

/// How the names of shadows end.
const COPIES: &[&str] = &["_new", "_gho", "_ghc", "_ghk", "_del"];
/// Those that nobody but gh-ost gives.
const GHOSTS: &[&str] = &["_gho", "_ghc", "_ghk"];
/// How the names end that tables are set aside under.
const ASIDE: &[&str] = &["_old", "_del"];
/// Digits of the time that gh-ost puts into such a name where it is asked to.
const TIME_DIGITS: usize = 14;

/// What becomes of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A sink ran it here; it came from another unit. Others are told, so that what follows waits
    /// for the same schema.
    Applied(Statement),
    /// It concerns no other unit.
    Stays,
    /// It travels as it is.
    Travels,
    /// It travels in other words.
    TravelsAs(Statement),
}

/// A copy that an online schema change works on, or what its swap left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shadow {
    table: TableName,
    /// The table that it is a copy of.
    of: TableName,
    /// What was done to it since it was created.
    alterations: Vec<String>,
}

/// What has to be remembered from one statement to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// What sinks said that they would run and was not seen yet.
    intents: Vec<Intent>,
    shadows: Vec<Shadow>,
}

impl Memory {
    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.intents.is_empty() && self.shadows.is_empty()
    }

    /// Whether there is any shadow.
    #[must_use]
    pub fn has_shadows(&self) -> bool {
        !self.shadows.is_empty()
    }

    /// Whether the table of this record key is a shadow.
    pub fn shades(&self, key: &[u8]) -> Result<bool, Fault> {
        let key = Key::parse(key)?;
        Ok(self.is_shadow(&key.database, &key.table))
    }

    fn is_shadow(&self, database: &str, table: &str) -> bool {
        self.shadows
            .iter()
            .any(|shadow| shadow.table.database == database && shadow.table.table == table)
    }

    /// Takes a change of the table of intents, made by a sink.
    pub fn note(&mut self, value: &[u8]) -> Result<(), Fault> {
        let change = Envelope::parse(value)?;
        match (change.op, &change.before, &change.after) {
            (Op::Insert, _, Some(after)) => self.intents.push(Intent::of_row(after)?),
            (_, Some(before), _) => {
                let done = Intent::of_row(before)?;
                self.intents.retain(|intent| (&intent.log, intent.seq) != (&done.log, done.seq));
            }
            _ => {}
        }
        Ok(())
    }

    /// Judges the next statement of the log.
    pub fn judge(&mut self, statement: &Statement, routing: &Routing) -> Verdict {
        let class = statement.class();
        if let Some(place) = self.intents.iter().position(|intent| intent.is(statement, &class)) {
            let Intent { log, seq, statement } = self.intents.remove(place);
            return Verdict::Applied(Statement {
                applied: Some(Applied { log, seq }),
                ..statement
            });
        }
        if statement.is_marked() {
            return Verdict::Stays;
        }
        match class {
            Class::Local => Verdict::Stays,
            Class::Unknown => Verdict::Travels,
            Class::Database(_, database) | Class::Stored(_, TableName { database, .. }) => {
                if routing.carries_some(&database) {
                    Verdict::Travels
                } else {
                    Verdict::Stays
                }
            }
            Class::Rename(pairs) => self.rename(statement, &pairs, routing),
            Class::Tables(verb, tables) => self.tables(statement, verb, &tables, routing),
        }
    }

    fn tables(
        &mut self,
        statement: &Statement,
        verb: Verb,
        tables: &[TableName],
        routing: &Routing,
    ) -> Verdict {
        let carried: Vec<&TableName> = tables
            .iter()
            .filter(|name| !self.shade(statement, verb, name, routing))
            .filter(|name| carries(routing, name))
            .collect();
        if carried.is_empty() {
            return Verdict::Stays;
        }
        if carried.len() == tables.len() {
            return Verdict::Travels;
        }
        if verb != Verb::Drop {
            return Verdict::TravelsAs(Statement { unseen: true, ..statement.clone() });
        }
        let names: Vec<String> = carried.into_iter().map(quote).collect();
        let ddl = format!("DROP TABLE IF EXISTS {}", names.join(","));
        Verdict::TravelsAs(Statement { ddl, ..statement.clone() })
    }

    /// Keeps the list of shadows; whether this table is one.
    fn shade(
        &mut self,
        statement: &Statement,
        verb: Verb,
        name: &TableName,
        routing: &Routing,
    ) -> bool {
        let known = self.shadows.iter().position(|shadow| shadow.table == *name);
        match (verb, known) {
            (Verb::Create, None) => {
                let of = shadowed(name, COPIES).filter(|of| carries(routing, of));
                let Some(of) = of else { return false };
                self.shadows.push(Shadow { table: name.clone(), of, alterations: Vec::new() });
            }
            // What the tool clears away before it begins was mostly never there.
            (Verb::Drop, None) if statement.drops_if_there() => {
                return shadowed(name, GHOSTS).is_some_and(|of| carries(routing, &of));
            }
            (_, None) => return false,
            (Verb::Drop, Some(place)) => {
                self.shadows.remove(place);
            }
            // Each unit counts for itself.
            (Verb::Alter, Some(_)) if statement.sets_the_counter() => {}
            (Verb::Alter | Verb::Extend | Verb::Index, Some(place)) => {
                let alteration = statement.alteration().map(str::to_owned);
                self.shadows[place].alterations.extend(alteration);
            }
            (Verb::Create | Verb::Truncate, Some(_)) => {}
        }
        true
    }

    fn rename(
        &mut self,
        statement: &Statement,
        pairs: &[(TableName, TableName)],
        routing: &Routing,
    ) -> Verdict {
        let mut altered: BTreeMap<&TableName, Vec<String>> = BTreeMap::new();
        let mut left_behind = Vec::new();
        for (from, to) in pairs {
            let copy = self.shadows.iter().find(|shadow| shadow.table == *from);
            let aside =
                is_set_aside(from, to) && self.shadows.iter().any(|shadow| shadow.of == *from);
            match copy {
                Some(copy) if copy.of == *to => {
                    altered.insert(to, copy.alterations.clone());
                }
                None if aside => left_behind.push((to.clone(), from.clone())),
                // A shadow that takes another name than that of its table is moved aside.
                Some(_) if !carries(routing, to) => {}
                _ => return rename_plainly(statement, pairs, routing),
            }
        }
        for (from, to) in pairs {
            self.shadows.retain(|shadow| shadow.table != *from || shadow.of != *to);
        }
        self.shadows.extend(left_behind.into_iter().map(|(table, of)| Shadow {
            table,
            of,
            alterations: Vec::new(),
        }));
        // No tool swaps in a copy that it did not alter: a person did, with rows that never travelled.
        if altered.values().any(Vec::is_empty) {
            return Verdict::TravelsAs(Statement { unseen: true, ..statement.clone() });
        }
        let mut altered = altered.into_iter();
        match (altered.next(), altered.next()) {
            (None, _) => Verdict::Stays,
            (Some((table, alterations)), None) => {
                let ddl = format!("ALTER TABLE {} {}", quote(table), alterations.join(", "));
                Verdict::TravelsAs(Statement { ddl, ..statement.clone() })
            }
            // No tool swaps two tables at once.
            (Some(_), Some(_)) => Verdict::Travels,
        }
    }
}

fn rename_plainly(
    statement: &Statement,
    pairs: &[(TableName, TableName)],
    routing: &Routing,
) -> Verdict {
    let carried = || pairs.iter().map(|(from, to)| (carries(routing, from), carries(routing, to)));
    if carried().any(|ends| ends == (false, true)) {
        return Verdict::TravelsAs(Statement { unseen: true, ..statement.clone() });
    }
    let concerned = carried().any(|(from, to)| from || to);
    if concerned { Verdict::Travels } else { Verdict::Stays }
}

/// Whether a table's changes travel; statements name it as the unit does.
fn carries(routing: &Routing, name: &TableName) -> bool {
    let canonical = routing.rename.canonical(&name.database, &name.table);
    canonical.is_some_and(|(database, table)| routing.carries(&database, &table))
}

/// The table that one of this name is a copy of: `t` for `_t_new`; pt-online-schema-change puts
/// more underscores before where a name is taken.
fn shadowed(name: &TableName, endings: &[&str]) -> Option<TableName> {
    let inside = name.table.strip_prefix('_')?.trim_start_matches('_');
    let table = endings.iter().find_map(|ending| inside.strip_suffix(ending))?;
    (!table.is_empty())
        .then(|| TableName { database: name.database.clone(), table: table.to_owned() })
}

/// Whether a table takes a name that is made for leaving it behind: `_t_old`, or gh-ost's `_t_del`,
/// `_t_20260102030405_del` and `_t_rev_del`.
fn is_set_aside(from: &TableName, to: &TableName) -> bool {
    let Some(named) = shadowed(to, ASIDE).filter(|named| named.database == from.database) else {
        return false;
    };
    match named.table.strip_prefix(&from.table) {
        Some("" | "_rev") => true,
        Some(more) => more.strip_prefix('_').is_some_and(|time| {
            time.len() == TIME_DIGITS && time.bytes().all(|digit| digit.is_ascii_digit())
        }),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routing() -> Routing {
        serde_json::from_str(
            r#"{"partitions":4,"order":"key","tables":["shop.*"],"exclude":["shop.session*"],"partition_by":{}}"#,
        )
        .unwrap()
    }

    fn statement(ddl: &str) -> Statement {
        Statement::new("shop", ddl, 0)
    }

    fn judge(memory: &mut Memory, ddl: &str) -> Verdict {
        memory.judge(&statement(ddl), &routing())
    }

    #[test]
    fn what_concerns_carried_tables_travels() {
        let memory = &mut Memory::default();
        for (ddl, verdict) in [
            ("ALTER TABLE orders ADD x INT", Verdict::Travels),
            ("ALTER TABLE sessions ADD x INT", Verdict::Stays),
            ("CREATE TABLE other.orders (a INT)", Verdict::Stays),
            ("GRANT ALL ON *.* TO a", Verdict::Stays),
            ("CREATE TABLE unitflow.x (a INT) /* unitflow internal */", Verdict::Stays),
            ("SOMETHING NEW", Verdict::Travels),
            ("DROP DATABASE other", Verdict::Stays),
            ("DROP DATABASE shop", Verdict::Travels),
            ("RENAME TABLE orders TO archive.orders", Verdict::Travels),
            ("RENAME TABLE sessions TO archive.sessions", Verdict::Stays),
            ("ALTER TABLE orders EXCHANGE PARTITION p WITH TABLE items", Verdict::Travels),
            ("ALTER TABLE other.t EXCHANGE PARTITION p WITH TABLE sessions", Verdict::Stays),
            (
                "DROP TABLE orders, sessions, items",
                Verdict::TravelsAs(statement(
                    "DROP TABLE IF EXISTS `shop`.`orders`,`shop`.`items`",
                )),
            ),
        ] {
            assert_eq!(judge(memory, ddl), verdict, "{ddl}");
        }
        assert!(memory.is_empty());
    }

    #[test]
    fn what_brings_rows_of_a_table_that_is_left_out_says_so() {
        for ddl in [
            "RENAME TABLE archive.orders TO orders",
            "RENAME TABLE orders TO archive.orders, sessions TO orders",
            "ALTER TABLE sessions RENAME TO orders",
            "ALTER TABLE orders EXCHANGE PARTITION p WITH TABLE sessions",
            "ALTER TABLE sessions EXCHANGE PARTITION p WITH TABLE orders",
            "ALTER TABLE orders CONVERT TABLE sessions TO PARTITION p VALUES LESS THAN (9)",
        ] {
            let unseen = Verdict::TravelsAs(Statement { unseen: true, ..statement(ddl) });
            assert_eq!(judge(&mut Memory::default(), ddl), unseen, "{ddl}");
        }
    }

    #[test]
    fn a_swap_arrives_as_the_alteration() {
        for (script, old) in [
            (
                [
                    "CREATE TABLE `shop`.`_orders_new` (a INT)",
                    "ALTER TABLE `shop`.`_orders_new` ADD COLUMN b INT",
                ],
                "_orders_old",
            ),
            (
                [
                    "create /* gh-ost */ table `shop`.`_orders_gho` like `shop`.`orders`",
                    "alter /* gh-ost */ table `shop`.`_orders_gho` ADD COLUMN b INT",
                ],
                "_orders_del",
            ),
        ] {
            let memory = &mut Memory::default();
            for ddl in script {
                assert_eq!(judge(memory, ddl), Verdict::Stays, "{ddl}");
            }
            let copy = memory.shadows[0].table.table.clone();
            assert!(memory.is_shadow("shop", &copy));
            let swap = format!(
                "RENAME TABLE `shop`.`orders` TO `shop`.`{old}`, `shop`.`{copy}` TO `shop`.`orders`"
            );
            let altered =
                Verdict::TravelsAs(statement("ALTER TABLE `shop`.`orders` ADD COLUMN b INT"));
            assert_eq!(judge(memory, &swap), altered);
            assert!(!memory.is_shadow("shop", "orders") && memory.is_shadow("shop", old));
            assert_eq!(
                judge(memory, &format!("DROP TABLE IF EXISTS `shop`.`{old}`")),
                Verdict::Stays
            );
            assert!(memory.is_empty());
        }
    }

    #[test]
    fn what_gh_ost_does_besides_stays() {
        let memory = &mut Memory::default();
        let stay = |memory: &mut Memory, ddl: &str| {
            assert_eq!(judge(memory, ddl), Verdict::Stays, "{ddl}");
        };
        // With --initially-drop-ghost-table; as MySQL logs them.
        for name in ["_orders_gho", "_orders_ghc"] {
            stay(memory, &format!("DROP TABLE IF EXISTS `{name}` /* generated by server */"));
        }
        for name in ["_orders_ghc", "_orders_gho", "_orders_ghk"] {
            stay(
                memory,
                &format!("create /* gh-ost */ table `shop`.`{name}` (id int primary key)"),
            );
        }
        stay(memory, "alter /* gh-ost */ table `shop`.`_orders_gho` ADD COLUMN b INT");
        stay(memory, "alter /* gh-ost */ table `shop`.`_orders_gho` AUTO_INCREMENT=236");
        // With --timestamp-old-table.
        let old = "`shop`.`_orders_20260102030405_del`";
        let swap = format!(
            "rename /* gh-ost */ table `shop`.`orders` to {old}, `shop`.`_orders_gho` to `shop`.`orders`"
        );
        let altered = statement("ALTER TABLE `shop`.`orders` ADD COLUMN b INT");
        assert_eq!(judge(memory, &swap), Verdict::TravelsAs(altered));
        for name in [old, "`shop`.`_orders_ghc`", "`shop`.`_orders_ghk`"] {
            stay(memory, &format!("drop /* gh-ost */ table if exists {name}"));
        }
        assert!(memory.is_empty());
    }

    #[test]
    fn a_drop_of_a_table_that_was_there_before_travels() {
        for ddl in [
            "DROP TABLE _orders_gho",
            "DROP TABLE IF EXISTS _orders_old",
            "DROP TABLE IF EXISTS _orders_del",
            "DROP TABLE orders_del",
        ] {
            assert_eq!(judge(&mut Memory::default(), ddl), Verdict::Travels, "{ddl}");
        }
    }

    #[test]
    fn a_table_is_set_aside_under_its_own_name() {
        let name = |table: &str| TableName { database: "shop".into(), table: table.into() };
        for (to, is) in [
            ("_orders_old", true),
            ("__orders_old", true),
            ("_orders_del", true),
            ("_orders_rev_del", true),
            ("_orders_20260102030405_del", true),
            ("_orders_2026_del", false),
            ("_orders_of_june_del", false),
            ("_items_del", false),
            ("orders_old", false),
            ("_orders_gho", false),
        ] {
            assert_eq!(is_set_aside(&name("orders"), &name(to)), is, "{to}");
        }
    }

    #[test]
    fn a_copy_that_a_person_filled_does_not_pass_in_silence() {
        let memory = &mut Memory::default();
        let swap = "RENAME TABLE orders TO _orders_old, _orders_new TO orders";
        assert_eq!(judge(memory, "CREATE TABLE _orders_new LIKE orders"), Verdict::Stays);
        let unseen = Verdict::TravelsAs(Statement { unseen: true, ..statement(swap) });
        assert_eq!(judge(memory, swap), unseen);
        // And back again.
        let back = "RENAME TABLE orders TO _orders_del, _orders_old TO orders";
        let unseen = Verdict::TravelsAs(Statement { unseen: true, ..statement(back) });
        assert_eq!(judge(memory, back), unseen);
    }

    #[test]
    fn a_copy_that_was_never_seen_is_swapped_as_it_says() {
        let memory = &mut Memory::default();
        let swap = "RENAME TABLE orders TO _orders_old, _orders_new TO orders";
        assert_eq!(judge(memory, swap), Verdict::Travels);
    }

    #[test]
    fn a_sinks_own_statement_is_known_once() {
        let memory = &mut Memory::default();
        let row = |ddl: &str| {
            format!(
                r#"{{"before":null,"after":{{"log":"A.shop","seq":281474976710662,"db":"shop","ddl":{ddl:?},"sql_mode":0,"session":"{{}}","done":0}},"op":"c"}}"#
            )
        };
        memory.note(row("DROP TABLE orders").as_bytes()).unwrap();
        // Somebody else's statement in between.
        assert_eq!(judge(memory, "DROP TABLE items"), Verdict::Travels);
        let applied = |ddl: &str| {
            let from = Applied { log: "A.shop".into(), seq: unitflow_change::Seq((1 << 48) + 6) };
            Verdict::Applied(Statement { applied: Some(from), ..statement(ddl) })
        };
        let rewritten = "DROP TABLE `orders` /* generated by server */";
        assert_eq!(judge(memory, rewritten), applied("DROP TABLE orders"));
        assert_eq!(judge(memory, rewritten), Verdict::Travels);
        memory.note(row("ALTER TABLE orders ADD x INT").as_bytes()).unwrap();
        let marked = "ALTER TABLE orders ADD x INT /* unitflow A.shop 281474976710662 */";
        assert_eq!(judge(memory, marked), applied("ALTER TABLE orders ADD x INT"));
        // Run twice after all: still nobody else's business.
        assert_eq!(judge(memory, marked), Verdict::Stays);
    }
}
