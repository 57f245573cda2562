//! Schema changes: which of them concern other units, and as what.
//!
//! * **Whose.** A statement commits by itself, so no ledger row can stand in its transaction. A
//!   sink that is about to run one says so beforehand, by an *intent* row in a marked transaction;
//!   the statement that follows is known by the comment that names the intent or, where the server
//!   wrote it anew (`DROP TABLE` loses its comment), by doing the same to the same tables.
//! * **Shadows.** pt-online-schema-change and gh-ost alter a copy of a table and then swap names.
//!   The copy and its rows are the unit's own affair; the swap arrives elsewhere as the
//!   alteration that the copy went through, where the table comes out of it as the copy did. A
//!   table is a shadow from its creation on, if its name is made from that of a carried table:
//!   `_t_new`, and `_t_gho`, `_t_ghc`, `_t_ghk`, `_t_del` where gh-ost says that it is at work;
//!   also what the swap leaves behind: `_t_old`, `_t_del`. gh-ost drops tables of its names
//!   before it creates them.
//! * **Swaps.** Where a copy takes its table's name in another way than a tool has it, or comes out
//!   otherwise than the table would, the statement says so as well.
//! * **Carried.** What names only tables that the routing leaves out does not travel. Where such a
//!   table hands rows to a carried one, by a new name or a partition, the statement says so: no
//!   other unit has these rows.
//!
//! What is not recognised travels: whoever is to act on it stops, which loses nothing.

use serde::{Deserialize, Deserializer, Serialize};
use unitflow_change::Fault;
use unitflow_change::ddl::{Applied, Class, Statement, Stored, TableName, Verb, quote};
use unitflow_change::envelope::{Envelope, Op};
use unitflow_change::intent::Intent;
use unitflow_change::key::Key;
use unitflow_change::routing::Routing;

/// How the names of the copies of pt-online-schema-change end.
const COPIES: &[&str] = &["_new"];
/// How the names of gh-ost's tables end, and those of them that nobody else gives.
const GHOSTS: &[&str] = &["_gho", "_ghc", "_ghk", "_del"];
const GHOSTS_ALONE: &[&str] = &["_gho", "_ghc", "_ghk"];
/// Begins the comment that stands in each statement of gh-ost.
const GHOST_COMMENT: &str = "/* gh-ost";
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
    #[serde(deserialize_with = "noted")]
    alterations: Vec<Statement>,
}

/// An older build noted texts only; of what session they were is not known, so no statement is made
/// of them.
fn noted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Statement>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Noted {
        Statement(Statement),
        Text(String),
    }
    let noted = Vec::<Noted>::deserialize(deserializer)?;
    Ok(noted
        .into_iter()
        .map(|noted| match noted {
            Noted::Statement(statement) => statement,
            Noted::Text(text) => Statement::new("", &text, 0),
        })
        .collect())
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
            Class::Stored(Stored::Trigger, _) if self.mentions_a_shadow(statement) => {
                Verdict::Stays
            }
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
        // An altered copy is about to take the name: with its `drop_swap`, pt-online-schema-change
        // drops the table first.
        let replaced = verb == Verb::Drop && carried.iter().any(|name| self.has_altered_copy(name));
        let unseen = replaced || verb != Verb::Drop && carried.len() < tables.len();
        let ddl = if carried.len() == tables.len() || verb != Verb::Drop {
            statement.ddl.clone()
        } else {
            let names: Vec<String> = carried.into_iter().map(quote).collect();
            format!("DROP TABLE IF EXISTS {}", names.join(","))
        };
        let travels = Statement { ddl, unseen, ..statement.clone() };
        if travels == *statement { Verdict::Travels } else { Verdict::TravelsAs(travels) }
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
                let of = copied(statement, name).filter(|of| carries(routing, of));
                let Some(of) = of else { return false };
                self.shadows.push(Shadow { table: name.clone(), of, alterations: Vec::new() });
            }
            // What the tool clears away before it begins was mostly never there.
            (Verb::Drop, None) if statement.drops_if_there() => {
                return shadowed(name, GHOSTS_ALONE).is_some_and(|of| carries(routing, &of));
            }
            (_, None) => return false,
            (Verb::Drop, Some(place)) => {
                self.shadows.remove(place);
            }
            // Left over from a run that failed, it was moved away or is replaced.
            (Verb::Create, Some(place)) if !statement.creates_if_missing() => {
                self.shadows[place].alterations.clear();
            }
            // Each unit counts for itself.
            (Verb::Alter, Some(_)) if statement.sets_the_counter() => {}
            (Verb::Alter | Verb::Extend | Verb::Index, Some(place)) => {
                self.shadows[place].alterations.push(statement.clone());
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
        let verdict = self.judge_rename(statement, pairs, routing);
        let behind: Vec<Shadow> = pairs
            .iter()
            .filter(|(from, to)| self.leaves_behind(statement, pairs, from, to))
            .map(|(from, to)| Shadow {
                table: to.clone(),
                of: from.clone(),
                alterations: Vec::new(),
            })
            .collect();
        // Whatever has another name now is no copy any more.
        self.shadows.retain(|shadow| pairs.iter().all(|(from, _)| shadow.table != *from));
        self.shadows.extend(behind);
        verdict
    }

    fn judge_rename(
        &self,
        statement: &Statement,
        pairs: &[(TableName, TableName)],
        routing: &Routing,
    ) -> Verdict {
        let mut swapped = Vec::new();
        for (from, to) in pairs {
            match self.shadow(from) {
                Some(copy) if copy.of == *to => swapped.push(copy),
                None if self.leaves_behind(statement, pairs, from, to) => {}
                // A shadow that takes another name than that of its table is moved aside.
                Some(_) if !carries(routing, to) => {}
                _ => return self.rename_plainly(statement, pairs, routing),
            }
        }
        match swapped[..] {
            [] => Verdict::Stays,
            [copy] => copy.swapped_in(statement, pairs),
            // No tool swaps two tables at once.
            _ => unseen(statement),
        }
    }

    /// Names that change, of tables that are no copies, or not as a tool does it.
    fn rename_plainly(
        &self,
        statement: &Statement,
        pairs: &[(TableName, TableName)],
        routing: &Routing,
    ) -> Verdict {
        let travelled = |name: &TableName| carries(routing, name) && self.shadow(name).is_none();
        if pairs.iter().any(|(from, to)| carries(routing, to) && !travelled(from)) {
            return unseen(statement);
        }
        let concerned = pairs.iter().any(|(from, to)| travelled(from) || carries(routing, to));
        if concerned { Verdict::Travels } else { Verdict::Stays }
    }

    /// Whether a tool sets a table aside, whose place a copy of it takes.
    fn leaves_behind(
        &self,
        statement: &Statement,
        pairs: &[(TableName, TableName)],
        from: &TableName,
        to: &TableName,
    ) -> bool {
        let taken_by = |copy: &TableName| self.shadow(copy).is_some_and(|copy| copy.of == *from);
        let follows = || {
            statement.ddl.contains(GHOST_COMMENT)
                && self.shadows.iter().any(|shadow| shadow.of == *from)
        };
        is_set_aside(from, to)
            && (pairs.iter().any(|(copy, name)| name == from && taken_by(copy)) || follows())
    }

    fn shadow(&self, name: &TableName) -> Option<&Shadow> {
        self.shadows.iter().find(|shadow| shadow.table == *name)
    }

    fn has_altered_copy(&self, name: &TableName) -> bool {
        self.shadows.iter().any(|shadow| shadow.of == *name && !shadow.alterations.is_empty())
    }

    fn mentions_a_shadow(&self, statement: &Statement) -> bool {
        self.shadows.iter().any(|shadow| statement.mentions(&shadow.table.table))
    }
}

impl Shadow {
    /// The copy takes its table's name: that arrives as the alteration, if that is all that makes
    /// the copy differ.
    fn swapped_in(&self, swap: &Statement, pairs: &[(TableName, TableName)]) -> Verdict {
        // Each tool alters its copy once. More, or less, was done by a person, as rows may have been.
        let [altered] = &self.alterations[..] else { return unseen(swap) };
        let Some(alteration) = altered.alteration() else { return unseen(swap) };
        let by_a_tool =
            swap.ddl.contains(GHOST_COMMENT) || swap.ddl.eq_ignore_ascii_case(&pt_rename(pairs));
        // Both fill the copy by the columns' names of before, unless they read of the new ones.
        let misses = altered.renames_a_column();
        Verdict::TravelsAs(Statement {
            ddl: format!("ALTER TABLE {} {alteration}", quote(&self.of)),
            unseen: !by_a_tool || misses || altered.differs_from_copying(),
            ..altered.clone()
        })
    }
}

/// The statement brings rows, or the lack of them, that no other unit has seen.
fn unseen(statement: &Statement) -> Verdict {
    Verdict::TravelsAs(Statement { unseen: true, ..statement.clone() })
}

/// The words of pt-online-schema-change 3.
fn pt_rename(pairs: &[(TableName, TableName)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(from, to)| format!("{} TO {}", quote(from), quote(to))).collect();
    format!("RENAME TABLE {}", pairs.join(", "))
}

/// The table that one which is created is a copy of. What an application creates where it is missing
/// may have been there for years.
fn copied(statement: &Statement, name: &TableName) -> Option<TableName> {
    if statement.creates_if_missing() {
        return None;
    }
    let by_ghost = statement.ddl.contains(GHOST_COMMENT);
    shadowed(name, COPIES).or_else(|| by_ghost.then(|| shadowed(name, GHOSTS)).flatten())
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
    fn names_change_as_the_statement_says_where_no_copy_is_known() {
        let swap = "RENAME TABLE orders TO _orders_old, _orders_new TO orders";
        assert_eq!(judge(&mut Memory::default(), swap), Verdict::Travels);
        let retired = "RENAME TABLE orders TO _orders_old";
        assert_eq!(judge(&mut Memory::default(), retired), Verdict::Travels);
        // Also where a run that failed has left something.
        let memory = &mut Memory::default();
        judge(memory, "create /* gh-ost */ table `shop`.`_orders_ghc` (id int)");
        assert_eq!(judge(memory, retired), Verdict::Travels);
        assert_eq!(judge(memory, "DROP TABLE _orders_old"), Verdict::Travels);
    }

    #[test]
    fn a_table_that_is_dropped_for_its_copy_does_not_pass_in_silence() {
        let memory = &mut Memory::default();
        judge(memory, "CREATE TABLE `shop`.`_orders_new` (a INT)");
        judge(memory, "ALTER TABLE `shop`.`_orders_new` ADD COLUMN b INT");
        let drop = "DROP TABLE IF EXISTS `orders` /* generated by server */";
        let unseen = |ddl| Verdict::TravelsAs(Statement { unseen: true, ..statement(ddl) });
        assert_eq!(judge(memory, drop), unseen(drop));
        let both = "DROP TABLE orders, sessions";
        assert_eq!(judge(memory, both), unseen("DROP TABLE IF EXISTS `shop`.`orders`"));
    }

    #[test]
    fn what_an_older_build_noted_of_a_copy_does_not_pass_in_silence() {
        let state = r#"{"intents":[],"shadows":[{"table":{"database":"shop","table":"_orders_new"},"of":{"database":"shop","table":"orders"},"alterations":["ADD COLUMN b INT"]}]}"#;
        let memory = &mut serde_json::from_str(state).unwrap();
        let swap = "RENAME TABLE `shop`.`orders` TO `shop`.`_orders_old`, `shop`.`_orders_new` TO `shop`.`orders`";
        let unseen = Verdict::TravelsAs(Statement { unseen: true, ..statement(swap) });
        assert_eq!(judge(memory, swap), unseen);
    }

    /// Only what comes out the same: else a person has to look.
    #[test]
    fn an_alteration_in_place_stands_for_a_copy_where_both_come_out_the_same() {
        let swap = "RENAME TABLE `shop`.`orders` TO `shop`.`_orders_old`, `shop`.`_orders_new` TO `shop`.`orders`";
        let by_hand = "RENAME TABLE orders TO _orders_old, _orders_new TO orders";
        for (alter, swap, unseen) in [
            ("ADD COLUMN b INT", swap, false),
            ("ADD COLUMN b INT", by_hand, true),
            ("DROP COLUMN b, ADD COLUMN b VARCHAR(80)", swap, true),
            ("RENAME COLUMN a TO b", swap, true),
            ("ADD made DATETIME DEFAULT CURRENT_TIMESTAMP", swap, true),
        ] {
            let memory = &mut Memory::default();
            judge(memory, "CREATE TABLE `shop`.`_orders_new` (a INT)");
            let altering = Statement {
                sql_mode: 4,
                ..statement(&format!("ALTER TABLE `shop`.`_orders_new` {alter}"))
            };
            assert_eq!(memory.judge(&altering, &routing()), Verdict::Stays);
            // In the session that altered the copy, not in that of the swap.
            let ddl = format!("ALTER TABLE `shop`.`orders` {alter}");
            let expected = Verdict::TravelsAs(Statement { ddl, unseen, ..altering });
            assert_eq!(judge(memory, swap), expected, "{alter}");
        }
        let memory = &mut Memory::default();
        judge(memory, "CREATE TABLE `shop`.`_orders_new` (a INT)");
        judge(memory, "ALTER TABLE `shop`.`_orders_new` ADD b INT -- first");
        judge(memory, "CREATE INDEX i ON `shop`.`_orders_new` (a)");
        let unseen = Verdict::TravelsAs(Statement { unseen: true, ..statement(swap) });
        assert_eq!(judge(memory, swap), unseen);
    }

    #[test]
    fn what_a_run_that_failed_left_is_not_done_by_the_next() {
        let again = "create /* gh-ost */ table `shop`.`_orders_gho` like `shop`.`orders`";
        let swap = "rename /* gh-ost */ table `shop`.`orders` to `shop`.`_orders_del`, `shop`.`_orders_gho` to `shop`.`orders`";
        for away in [
            "RENAME TABLE _orders_gho TO attic._orders_gho",
            // The server knows that there is none.
            "SELECT 1",
        ] {
            let memory = &mut Memory::default();
            judge(memory, again);
            judge(memory, "alter /* gh-ost */ table `shop`.`_orders_gho` DROP COLUMN note");
            judge(memory, away);
            assert_eq!(judge(memory, again), Verdict::Stays);
            let alter = "alter /* gh-ost */ table `shop`.`_orders_gho` ADD b INT";
            assert_eq!(judge(memory, alter), Verdict::Stays);
            let ddl = "ALTER TABLE `shop`.`orders` ADD b INT";
            assert_eq!(judge(memory, swap), Verdict::TravelsAs(statement(ddl)), "{away}");
        }
    }

    #[test]
    fn a_swap_that_is_taken_back_does_not_pass_in_silence() {
        let memory = &mut Memory::default();
        judge(memory, "CREATE TABLE `shop`.`_orders_new` (a INT)");
        judge(memory, "ALTER TABLE `shop`.`_orders_new` ADD COLUMN b INT");
        judge(
            memory,
            "RENAME TABLE `shop`.`orders` TO `shop`.`_orders_old`, `shop`.`_orders_new` TO `shop`.`orders`",
        );
        let back = "RENAME TABLE orders TO orders_bad, _orders_old TO orders";
        let unseen = Verdict::TravelsAs(Statement { unseen: true, ..statement(back) });
        assert_eq!(judge(memory, back), unseen);
        assert!(memory.is_empty());
    }

    #[test]
    fn a_table_that_people_use_is_no_shadow() {
        for ddl in [
            "CREATE TABLE IF NOT EXISTS _orders_new (a INT)",
            "CREATE TABLE IF NOT EXISTS _orders_del (a INT)",
            "CREATE TABLE _orders_del (a INT)",
        ] {
            let memory = &mut Memory::default();
            assert_eq!(judge(memory, ddl), Verdict::Travels, "{ddl}");
            assert!(memory.is_empty());
        }
    }

    #[test]
    fn the_triggers_of_a_copy_stay() {
        let memory = &mut Memory::default();
        let trigger = "CREATE TRIGGER `pt_osc_shop_orders_del` AFTER DELETE ON `shop`.`orders` FOR EACH ROW DELETE IGNORE FROM `shop`.`_orders_new` WHERE a <=> OLD.a";
        assert_eq!(judge(memory, trigger), Verdict::Travels);
        judge(memory, "CREATE TABLE `shop`.`_orders_new` (a INT)");
        assert_eq!(judge(memory, trigger), Verdict::Stays);
    }

    #[test]
    fn a_database_goes_by_the_units_own_name() {
        let mut routing = routing();
        routing.rename = serde_json::from_str(r#"{"shop":"shop_jp"}"#).unwrap();
        for (ddl, verdict) in
            [("DROP DATABASE shop_jp", Verdict::Travels), ("DROP DATABASE shop", Verdict::Stays)]
        {
            assert_eq!(Memory::default().judge(&statement(ddl), &routing), verdict, "{ddl}");
        }
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
