//! Statements that change a schema: how they travel, and what they are about.
//!
//! A statement is judged by its leading words and by the names they introduce, nothing else; the
//! rest is the server's business. What is not recognised is [`Class::Unknown`] and never guessed:
//! it travels, and whoever is to act on it stops.
//!
//! Grammar: <https://dev.mysql.com/doc/refman/9.0/en/sql-data-definition-statements.html> and
//! <https://mariadb.com/kb/en/data-definition/>.

mod alteration;
mod classify;
mod words;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fault::{Code, Fault};
use crate::form;
use crate::seq::Seq;
use classify::classify;
use words::{Token, Words};

/// Stands in each statement that Unitflow itself executes on a store for itself.
pub const INTERNAL_COMMENT: &str = "/* unitflow internal */";

/// Begins the comment that stands in each statement of another unit that Unitflow executes.
pub const MARK: &str = "/* unitflow ";

/// A statement as it stands in a record's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The session's database, in which unqualified names are looked up; may be empty.
    pub database: String,
    /// The statement's text as the server logged it.
    pub ddl: String,
    /// The session's `sql_mode` as the server logged it, as a number; both servers use the same
    /// bits for what they both know.
    #[serde(default)]
    pub sql_mode: u64,
    /// What else of the session the statement depends on.
    #[serde(default)]
    pub session: Session,
    /// Whether it may bring rows that never travelled, out of a table that the routing leaves out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unseen: bool,
    /// Where another unit's statement was run in this one: its record. It is not run again; what
    /// follows expects the schema that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
}

/// A session's settings that a statement's outcome depends on, as far as the server logged them.
/// Collations go by their numbers, which mean the same in both servers where both know them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// When the statement began by the session's clock, in µs since 1970; 0 if unknown.
    pub at_us: u64,
    /// `time_zone`, where the statement looked at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// The server's own time zone, where `time_zone` is `SYSTEM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_zone: Option<String>,
    /// `collation_connection`: what literals are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collation: Option<u16>,
    /// `collation_server`: what new databases have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collation_server: Option<u16>,
    /// MySQL's `default_collation_for_utf8mb4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collation_utf8mb4: Option<u16>,
    /// `auto_increment_increment` and `auto_increment_offset`, where they are not both 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_increment: Option<(u16, u16)>,
    /// `explicit_defaults_for_timestamp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explicit_timestamps: Option<bool>,
    /// `lower_case_table_names = 1`: the server logs rows under names in lower case, but statements as
    /// they were typed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub folds_names: bool,
}

/// The record of a statement that one unit took over from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Applied {
    /// The log it came from.
    pub log: String,
    /// Its number there.
    pub seq: Seq,
}

/// A table by its full name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// The database.
    pub database: String,
    /// The table.
    pub table: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}

/// `` `database`.`table` ``.
#[must_use]
pub fn quote(name: &TableName) -> String {
    let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
    format!("{}.{}", quoted(&name.database), quoted(&name.table))
}

/// What a statement does with the tables it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `CREATE TABLE`.
    Create,
    /// `CREATE INDEX`, `DROP INDEX`, and `ALTER TABLE` that does no more than these.
    Index,
    /// `ALTER TABLE` that adds columns, besides indexes.
    Extend,
    /// `ALTER TABLE` that does anything else.
    Alter,
    /// `DROP TABLE`.
    Drop,
    /// `TRUNCATE`.
    Truncate,
}

/// What a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// These tables.
    Tables(Verb, Vec<TableName>),
    /// Tables that take other names: from, to, in order.
    Rename(Vec<(TableName, TableName)>),
    /// A whole database: created, altered or dropped.
    Database(Verb, String),
    /// A view, trigger, routine or event: code that is stored under this name.
    Stored(Stored, TableName),
    /// An account, maintenance, a temporary table: each unit's own affair.
    Local,
    /// Nothing that is recognised.
    Unknown,
}

impl Class {
    /// The same with the names of databases and tables in lower case.
    fn in_lower_case(self) -> Self {
        let table = |name: TableName| TableName {
            database: name.database.to_lowercase(),
            table: name.table.to_lowercase(),
        };
        match self {
            Self::Tables(verb, tables) => {
                Self::Tables(verb, tables.into_iter().map(table).collect())
            }
            Self::Rename(pairs) => {
                Self::Rename(pairs.into_iter().map(|(from, to)| (table(from), table(to))).collect())
            }
            Self::Database(verb, name) => Self::Database(verb, name.to_lowercase()),
            other => other,
        }
    }

    /// Whether servers write such statements into their logs in other words, without comments.
    #[must_use]
    pub fn is_written_anew(&self) -> bool {
        matches!(
            self,
            Self::Tables(Verb::Create | Verb::Drop, _)
                | Self::Database(Verb::Drop, _)
                | Self::Stored(..)
        )
    }
}

/// Code that a server stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A view.
    View,
    /// A trigger.
    Trigger,
    /// A procedure or function.
    Routine,
    /// An event of the scheduler.
    Event,
}

impl Session {
    /// Reads what [`to_json`](Self::to_json) wrote; nothing is what an older build noted.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(text).map_err(|error| {
            Fault::fatal(Code::Record, format!("a statement's session can't be read: {error}"))
        })
    }

    /// One line of text.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_else(|error| unreachable!("strings and numbers only: {error}"))
    }
}

impl Statement {
    /// A statement of a session.
    #[must_use]
    pub fn new(database: &str, ddl: &str, sql_mode: u64) -> Self {
        let (database, ddl) = (database.to_owned(), ddl.to_owned());
        Self { database, ddl, sql_mode, session: Session::default(), unseen: false, applied: None }
    }

    /// Reads a record's value.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(form::payload(bytes)?).map_err(|error| {
            Fault::fatal(Code::Record, format!("a statement record can't be read: {error}"))
        })
    }

    /// The record's value.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_else(|error| unreachable!("strings and a number only: {error}"))
    }

    /// What the statement is about.
    #[must_use]
    pub fn class(&self) -> Class {
        let class = classify(self.words(), &self.database).unwrap_or(Class::Unknown);
        if self.session.folds_names { class.in_lower_case() } else { class }
    }

    /// Whether Unitflow executed it, for itself or for another unit.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.ddl.contains(MARK)
    }

    /// Whether both are the same but for blanks, comments and the case of bare words.
    #[must_use]
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let mut both = [self.words(), other.words()];
        loop {
            let [one, another] = both.each_mut().map(|words| {
                words.skip_blanks();
                let start = words.at;
                let token = words.next();
                token.map(|token| (token, words.text.get(start..words.at).unwrap_or_default()))
            });
            match (one, another) {
                (None, None) => return both.iter().all(|words| words.rest().is_empty()),
                (Some((Token::Word(one), _)), Some((Token::Word(another), _)))
                    if one.eq_ignore_ascii_case(another) => {}
                (Some(one), Some(another)) if one == another => {}
                _ => return false,
            }
        }
    }

    /// Whether both begin with the same word.
    #[must_use]
    pub fn begins_like(&self, other: &Self) -> bool {
        self.words().keyword() == other.words().keyword()
    }

    fn words(&self) -> Words<'_> {
        Words { text: &self.ddl, at: 0, sql_mode: self.sql_mode }
    }

    /// The tables that it names, in order.
    #[must_use]
    pub fn tables(&self) -> Vec<TableName> {
        match self.class() {
            Class::Tables(_, tables) => tables,
            Class::Rename(pairs) => pairs.into_iter().flat_map(|(from, to)| [from, to]).collect(),
            _ => Vec::new(),
        }
    }

    /// The text as the server that logged it has read it. What stands in an executable comment was
    /// executed there, for a server unmarks the others in its log; another may not do the same.
    #[must_use]
    pub fn as_read(&self) -> String {
        let mut words = self.words();
        let mut text = String::with_capacity(self.ddl.len());
        loop {
            let start = words.at;
            let blanks = words.rest().len() - words.rest().trim_start().len();
            words.at += blanks;
            if let Some(length) = words.mark() {
                text.push_str(&words.text[start..words.at]);
                text.push(' ');
                words.at += length;
                continue;
            }
            match words.comment() {
                Some(length) => words.at += length,
                None if words.next().is_some() => {}
                None => words.at = words.text.len(),
            }
            match words.text.get(start..words.at) {
                None | Some("") => return text,
                Some(piece) => text.push_str(piece),
            }
        }
    }

    /// The same with the event that it makes or enables disabled: it is to run in one unit only.
    #[must_use]
    pub fn with_event_disabled(self) -> Self {
        let mut words = self.words();
        loop {
            words.skip_blanks();
            let start = words.at;
            let end = match words.next() {
                Some(Token::Word(word)) if word.eq_ignore_ascii_case("ENABLE") => words.at,
                // The body begins here.
                Some(Token::Word(word)) if word.eq_ignore_ascii_case("DO") => start,
                Some(Token::Word(word)) if word.eq_ignore_ascii_case("DISABLE") => return self,
                Some(_) => continue,
                None => return self,
            };
            let (before, after) = (&self.ddl[..start], &self.ddl[end..]);
            let ddl = format!("{before}DISABLE {after}");
            return Self { ddl, ..self };
        }
    }

    /// What an `ALTER TABLE` does: all behind the table's name.
    #[must_use]
    pub fn alteration(&self) -> Option<&str> {
        Some(self.altering()?.1.rest().trim())
    }

    /// Whether an `ALTER TABLE` does no more than set the counter that new keys are taken from.
    #[must_use]
    pub fn sets_the_counter(&self) -> bool {
        let Some((_, mut words)) = self.altering() else { return false };
        let is_counter = words.skip("AUTO_INCREMENT");
        words.punctuation(b'=');
        words.next();
        words.skip_blanks();
        is_counter && words.rest().is_empty()
    }

    /// Whether an `ALTER TABLE` may make other rows of the same ones than a copy of them has that was
    /// altered while it was empty: values stay in a column that takes the place of one of its name,
    /// new ones come from the clock, times are read in a time zone that no log names, or rows go with
    /// their partition.
    #[must_use]
    pub fn differs_from_copying(&self) -> bool {
        let Some((_, words)) = self.altering() else { return true };
        let parts = words.parts();
        let columns = |verb| parts.iter().filter_map(move |part| part.column(verb));
        let stays = columns("DROP")
            .any(|dropped| columns("ADD").any(|added| added.is_none() || added == dropped));
        let implied = self.session.explicit_timestamps == Some(false);
        let unknown_zone = self.session.time_zone.is_none();
        let times = &["TIMESTAMP", "DATETIME", "DATE", "TIME"];
        stays
            || parts.iter().any(|part| {
                let timed = part.asks_the_clock() || implied && part.has_any(&["TIMESTAMP"]);
                part.moves_rows()
                    || part.adds_a_column() && timed
                    || part.changes_a_column() && unknown_zone && part.has_any(times)
            })
    }

    /// Whether an `ALTER TABLE` gives a column another name in so many words.
    #[must_use]
    pub fn renames_a_column(&self) -> bool {
        self.altering().is_some_and(|(_, words)| {
            words.parts().into_iter().any(|mut part| part.skip("RENAME") && part.skip("COLUMN"))
        })
    }

    /// Whether it gives a table the name that another had until then.
    #[must_use]
    pub fn swaps_names(&self) -> bool {
        let Class::Rename(pairs) = self.class() else { return false };
        pairs.iter().any(|(_, to)| pairs.iter().any(|(from, _)| from == to))
    }

    /// Whether a table of this name stands in it, as a name of its own.
    #[must_use]
    pub fn mentions(&self, table: &str) -> bool {
        let mut words = self.words();
        while let Some(token) = words.next() {
            if match token {
                Token::Word(word) => word == table,
                Token::Name(name) => name == table,
                _ => false,
            } {
                return true;
            }
        }
        false
    }

    /// Whether a `CREATE` does nothing where there is one of the name.
    #[must_use]
    pub fn creates_if_missing(&self) -> bool {
        let mut words = self.words();
        words.skip("CREATE") && words.skip("TABLE") && words.skip("IF")
    }

    /// Whether it takes tables away where they are: that it was logged does not say that they were.
    #[must_use]
    pub fn drops_if_there(&self) -> bool {
        let mut words = self.words();
        words.skip("DROP") && words.skip("TABLE") && words.skip("IF")
    }

    /// Whether it may make other rows of the same ones where it is run again: it fills a column
    /// with values that are made up on the way, or drops rows that come second.
    #[must_use]
    pub fn makes_up_values(&self) -> bool {
        let Some((ignore, words)) = self.altering() else { return false };
        let parts = words.parts();
        ignore || parts.iter().any(|part| part.adds_a_column() && part.makes_up_a_value())
    }

    /// Whether it first takes away the table that has its name (MariaDB).
    #[must_use]
    pub fn replaces(&self) -> bool {
        let mut words = self.words();
        words.skip("CREATE") && words.skip("OR") && words.skip("REPLACE")
    }

    /// Whether it has a column count the rows that are there, in their order.
    #[must_use]
    pub fn counts_rows(&self) -> bool {
        self.altering().is_some_and(|(_, words)| words.parts().iter().any(Words::counts))
    }

    /// An `ALTER TABLE`: whether rows that do not fit are dropped, and all behind the table's name.
    fn altering(&self) -> Option<(bool, Words<'_>)> {
        let mut words = self.words();
        words.expect("ALTER")?;
        words.skip("ONLINE");
        let ignore = words.skip("IGNORE");
        words.expect("TABLE")?;
        words.skip_if_exists();
        words.table("")?;
        words.skip_wait();
        Some((ignore, words))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::words::{ANSI_QUOTES, NO_BACKSLASH_ESCAPES};
    use super::*;

    fn statement(ddl: &str) -> Statement {
        Statement::new("shop", ddl, 0)
    }

    fn tables(verb: Verb, names: &[(&str, &str)]) -> Class {
        Class::Tables(verb, names.iter().map(|(database, table)| name(database, table)).collect())
    }

    fn name(database: &str, table: &str) -> TableName {
        TableName { database: database.into(), table: table.into() }
    }

    #[test]
    fn statements_are_about_the_tables_that_they_name() {
        for (ddl, class) in [
            ("create table t (a int)", tables(Verb::Create, &[("shop", "t")])),
            (
                "CREATE TABLE IF NOT EXISTS `a`.`b``c` LIKE x.y",
                tables(Verb::Create, &[("a", "b`c")]),
            ),
            ("/* x */ CREATE OR REPLACE TABLE t SELECT 1", tables(Verb::Create, &[("shop", "t")])),
            ("ALTER TABLE t ADD COLUMN b INT DEFAULT 1", tables(Verb::Extend, &[("shop", "t")])),
            ("alter online table t modify b bigint", tables(Verb::Alter, &[("shop", "t")])),
            (
                "ALTER TABLE t ADD INDEX (a), DROP KEY k, ALGORITHM=INPLACE",
                tables(Verb::Index, &[("shop", "t")]),
            ),
            ("ALTER TABLE t ADD INDEX (a), ADD b INT", tables(Verb::Extend, &[("shop", "t")])),
            ("ALTER TABLE t DROP PARTITION p1", tables(Verb::Alter, &[("shop", "t")])),
            ("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0)", tables(Verb::Alter, &[("shop", "t")])),
            (
                "ALTER TABLE t RENAME TO u.v",
                Class::Rename(vec![(name("shop", "t"), name("u", "v"))]),
            ),
            (
                "ALTER TABLE t WAIT 5 RENAME TO u",
                Class::Rename(vec![(name("shop", "t"), name("shop", "u"))]),
            ),
            (
                "ALTER TABLE IF EXISTS x.t NOWAIT ADD b INT, RENAME u",
                Class::Rename(vec![(name("x", "t"), name("shop", "u"))]),
            ),
            ("ALTER TABLE t WAIT 1 ADD INDEX (a)", tables(Verb::Index, &[("shop", "t")])),
            ("ALTER TABLE `wait` NOWAIT ADD b INT", tables(Verb::Extend, &[("shop", "wait")])),
            (
                "ALTER TABLE t EXCHANGE PARTITION p WITH TABLE x.u WITHOUT VALIDATION",
                tables(Verb::Alter, &[("shop", "t"), ("x", "u")]),
            ),
            (
                "ALTER TABLE x.t CONVERT PARTITION `p` TO TABLE u",
                tables(Verb::Alter, &[("x", "t"), ("shop", "u")]),
            ),
            (
                "ALTER TABLE t CONVERT TABLE u TO PARTITION p VALUES LESS THAN (9)",
                tables(Verb::Alter, &[("shop", "t"), ("shop", "u")]),
            ),
            (
                "ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4",
                tables(Verb::Alter, &[("shop", "t")]),
            ),
            ("ALTER TABLE t RENAME COLUMN a TO b", tables(Verb::Alter, &[("shop", "t")])),
            ("ALTER TABLE t COMMENT 'a, rename to x'", tables(Verb::Index, &[("shop", "t")])),
            ("CREATE UNIQUE INDEX i ON t (a)", tables(Verb::Index, &[("shop", "t")])),
            (
                "CREATE INDEX IF NOT EXISTS i USING BTREE ON x.t (a)",
                tables(Verb::Index, &[("x", "t")]),
            ),
            ("drop index `i` on t", tables(Verb::Index, &[("shop", "t")])),
            (
                "DROP TABLE IF EXISTS `t`,`x`.`u` /* generated by server */",
                tables(Verb::Drop, &[("shop", "t"), ("x", "u")]),
            ),
            ("TRUNCATE t", tables(Verb::Truncate, &[("shop", "t")])),
            ("truncate table `truncate`", tables(Verb::Truncate, &[("shop", "truncate")])),
            (
                "rename /* gh-ost */ table `s`.`t` to `s`.`_t_del`, `s`.`_t_gho` to `s`.`t`",
                Class::Rename(vec![
                    (name("s", "t"), name("s", "_t_del")),
                    (name("s", "_t_gho"), name("s", "t")),
                ]),
            ),
            (
                "RENAME TABLE a WAIT 5 TO b",
                Class::Rename(vec![(name("shop", "a"), name("shop", "b"))]),
            ),
            ("DROP DATABASE IF EXISTS x", Class::Database(Verb::Drop, "x".into())),
            ("ALTER DATABASE CHARACTER SET utf8mb4", Class::Database(Verb::Alter, "shop".into())),
            (
                "CREATE DEFINER=`a`@`%` TRIGGER x.t1 BEFORE INSERT ON t FOR EACH ROW SET @a=1",
                Class::Stored(Stored::Trigger, name("x", "t1")),
            ),
            (
                "CREATE ALGORITHM=UNDEFINED DEFINER=CURRENT_USER() SQL SECURITY INVOKER VIEW v AS SELECT 1",
                Class::Stored(Stored::View, name("shop", "v")),
            ),
            (
                "CREATE DEFINER = root@localhost PROCEDURE p() BEGIN END",
                Class::Stored(Stored::Routine, name("shop", "p")),
            ),
            ("DROP EVENT IF EXISTS e", Class::Stored(Stored::Event, name("shop", "e"))),
            ("CREATE USER a", Class::Local),
            ("grant all on *.* to a", Class::Local),
            ("/* hello */ ANALYZE TABLE t", Class::Local),
            ("DROP /*!40005 TEMPORARY */ TABLE IF EXISTS `t`", Class::Local),
            ("create temporary table t (a int)", Class::Local),
            ("FLUSH TABLES", Class::Local),
            ("create usergroup", Class::Unknown),
            ("/*", Class::Unknown),
            ("", Class::Unknown),
            ("DROP TABLE", Class::Unknown),
            ("LOCK TABLES t WRITE", Class::Unknown),
        ] {
            assert_eq!(statement(ddl).class(), class, "{ddl}");
        }
    }

    #[test]
    fn statements_in_comments_are_read_as_the_server_reads_them() {
        for (ddl, read, class) in [
            (
                "/*!50000 ALTER TABLE t ADD e INT */",
                "  ALTER TABLE t ADD e INT  ",
                tables(Verb::Extend, &[("shop", "t")]),
            ),
            (
                "ALTER TABLE t ADD f INT /*!80023 INVISIBLE */ /* a 'word' /*! */",
                "ALTER TABLE t ADD f INT   INVISIBLE   /* a 'word' /*! */",
                tables(Verb::Extend, &[("shop", "t")]),
            ),
            (
                "-- by hand\nTRUNCATE /*M!100100 TABLE */ `/*!t*/` -- now",
                "-- by hand\nTRUNCATE   TABLE   `/*!t*/` -- now",
                tables(Verb::Truncate, &[("shop", "/*!t*/")]),
            ),
            (
                "/* a */ CREATE /* b */ INDEX i /* c */ ON t (a) COMMENT '/*! */' # d",
                "/* a */ CREATE /* b */ INDEX i /* c */ ON t (a) COMMENT '/*! */' # d",
                tables(Verb::Index, &[("shop", "t")]),
            ),
            ("DROP TABLE 'never ended", "DROP TABLE 'never ended", Class::Unknown),
        ] {
            assert_eq!(statement(ddl).as_read(), read);
            assert_eq!(statement(ddl).class(), class, "{ddl}");
        }
    }

    #[test]
    fn what_differs_from_run_to_run_is_seen() {
        for (ddl, made_up, counted) in [
            ("ALTER TABLE t ADD c CHAR(36) DEFAULT (uuid())", true, false),
            ("ALTER TABLE t ADD COLUMN (a INT, b DOUBLE DEFAULT ( 1 + RAND ( ) ))", true, false),
            ("ALTER TABLE t ADD c VARCHAR(9) DEFAULT CURRENT_USER", true, false),
            ("ALTER TABLE t ADD c INT DEFAULT NEXT VALUE FOR s", true, false),
            ("ALTER TABLE t ADD c INT DEFAULT @@pseudo_thread_id", true, false),
            ("ALTER IGNORE TABLE t ADD UNIQUE (a)", true, false),
            ("ALTER TABLE t ADD c TIMESTAMP(6) DEFAULT now(6)", false, false),
            ("ALTER TABLE t ADD rand INT, ADD uuid CHAR(36) COMMENT 'uuid()'", false, false),
            ("ALTER TABLE t ALTER c SET DEFAULT (uuid())", false, false),
            ("ALTER TABLE t ADD CHECK (a > rand())", false, false),
            ("CREATE TABLE t (c CHAR(36) DEFAULT (uuid()))", false, false),
            ("ALTER TABLE t ADD id BIGINT AUTO_INCREMENT UNIQUE", false, true),
            ("ALTER TABLE t ADD (a INT, `id` SERIAL)", false, true),
            ("ALTER TABLE t MODIFY id INT NOT NULL AUTO_INCREMENT", false, true),
            ("ALTER TABLE t ADD a INT, AUTO_INCREMENT = 5", false, false),
            ("ALTER TABLE t ENGINE=InnoDB auto_increment 5", false, false),
            ("ALTER TABLE t ADD serial INT, ADD COLUMN (serial INT)", false, false),
        ] {
            let statement = statement(ddl);
            assert_eq!(statement.makes_up_values(), made_up, "{ddl}");
            assert_eq!(statement.counts_rows(), counted, "{ddl}");
        }
    }

    #[test]
    fn double_quotes_are_names_where_the_session_says_so() {
        let mut quoted = statement("DROP TABLE \"a b\"");
        assert_eq!(quoted.class(), Class::Unknown);
        quoted.sql_mode = ANSI_QUOTES;
        assert_eq!(quoted.class(), tables(Verb::Drop, &[("shop", "a b")]));
        let mut escaped = statement("ALTER TABLE t COMMENT 'a\\', DROP COLUMN b");
        assert_eq!(escaped.class(), tables(Verb::Index, &[("shop", "t")]));
        escaped.sql_mode = NO_BACKSLASH_ESCAPES;
        assert_eq!(escaped.class(), tables(Verb::Alter, &[("shop", "t")]));
    }

    #[test]
    fn names_are_in_lower_case_where_the_server_has_them_so() {
        let mut typed = statement("RENAME TABLE SHOP.Orders TO `Old`, `Ä` TO x.Y");
        typed.session.folds_names = true;
        typed.database = "Shop".into();
        let pairs = [("orders", "old"), ("ä", "y")]
            .map(|(from, to)| (name("shop", from), name(if to == "y" { "x" } else { "shop" }, to)));
        assert_eq!(typed.class(), Class::Rename(pairs.to_vec()));
        let read = Session::parse(&typed.session.to_json()).unwrap();
        assert!(read.folds_names && !Session::parse("{}").unwrap().folds_names);
    }

    #[test]
    fn a_table_may_be_taken_away_first() {
        for (ddl, replaces) in [
            ("create /* a */ or replace table t (a int)", true),
            ("CREATE TABLE t (a INT) REPLACE SELECT 1", false),
        ] {
            assert_eq!(statement(ddl).replaces(), replaces, "{ddl}");
        }
    }

    #[test]
    fn events_are_disabled_on_the_way() {
        for (ddl, expected) in [
            (
                "CREATE EVENT `do` ON SCHEDULE EVERY 1 DAY DO DELETE FROM t",
                "CREATE EVENT `do` ON SCHEDULE EVERY 1 DAY DISABLE DO DELETE FROM t",
            ),
            (
                "CREATE EVENT e ON SCHEDULE EVERY 1 DAY ENABLE COMMENT 'do it' DO SET @a = 1",
                "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE  COMMENT 'do it' DO SET @a = 1",
            ),
            ("ALTER EVENT e ENABLE", "ALTER EVENT e DISABLE "),
            ("ALTER EVENT e RENAME TO f", "ALTER EVENT e RENAME TO f"),
            (
                "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1",
                "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1",
            ),
        ] {
            assert_eq!(statement(ddl).with_event_disabled().ddl, expected);
        }
    }

    #[test]
    fn what_an_alter_does_stands_behind_the_name() {
        let alter = statement("alter /* gh-ost */ table `s`.`_t_gho` add column b int, drop c");
        assert_eq!(alter.alteration(), Some("add column b int, drop c"));
        assert_eq!(statement("TRUNCATE t").alteration(), None);
    }

    #[test]
    fn a_counter_is_set_alone_or_beside_other_things() {
        for (ddl, alone) in [
            ("alter /* gh-ost */ table `s`.`_t_gho` AUTO_INCREMENT=236", true),
            ("ALTER TABLE t auto_increment 5 /* now */", true),
            ("ALTER TABLE t AUTO_INCREMENT = 5, ADD b INT", false),
            ("ALTER TABLE t ADD b INT", false),
            ("ALTER TABLE t ADD `AUTO_INCREMENT` INT", false),
        ] {
            assert_eq!(statement(ddl).sets_the_counter(), alone, "{ddl}");
        }
    }

    #[test]
    fn what_comes_of_a_copy_is_not_always_what_comes_of_the_table() {
        for (ddl, differs) in [
            ("ALTER TABLE t ADD b INT NOT NULL DEFAULT 7, DROP c", false),
            ("ALTER TABLE t DROP COLUMN b, ADD KEY b (a)", false),
            (
                "ALTER TABLE t DROP INDEX i, ADD INDEX i (a), DROP PRIMARY KEY, ADD PRIMARY KEY (a)",
                false,
            ),
            ("ALTER TABLE t MODIFY a BIGINT, ADD d DATETIME DEFAULT '2026-01-01'", false),
            ("ALTER TABLE t DROP COLUMN b, ADD COLUMN `B` VARCHAR(80)", true),
            ("ALTER TABLE t DROP b, ADD (b INT, c INT)", true),
            ("ALTER TABLE t ADD made DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP", true),
            ("ALTER TABLE t ADD day DATE DEFAULT (curdate())", true),
            ("ALTER TABLE t MODIFY since DATETIME", true),
            ("ALTER TABLE t CHANGE since till TIMESTAMP NULL", true),
            ("ALTER TABLE t MODIFY since DATE", true),
            ("ALTER TABLE t TRUNCATE PARTITION p0", true),
            ("ALTER TABLE t DROP PARTITION p0", true),
            ("ALTER TABLE t EXCHANGE PARTITION p0 WITH TABLE u", true),
            ("ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4", false),
        ] {
            assert_eq!(statement(ddl).differs_from_copying(), differs, "{ddl}");
        }
        let zoned = |time_zone: &str, explicit| {
            let mut zoned = statement("ALTER TABLE t MODIFY since DATETIME, ADD u TIMESTAMP");
            zoned.session.time_zone = Some(time_zone.into());
            zoned.session.explicit_timestamps = explicit;
            zoned.differs_from_copying()
        };
        assert!(!zoned("+08:00", None));
        assert!(zoned("+08:00", Some(false)));
    }

    #[test]
    fn a_name_is_found_as_a_whole() {
        let trigger = statement(
            "CREATE TRIGGER `x` AFTER DELETE ON `s`.`t` FOR EACH ROW DELETE IGNORE FROM `s`.`_t_new` WHERE 1",
        );
        assert!(trigger.mentions("_t_new"));
        assert!(!trigger.mentions("_t") && !trigger.mentions("t_new"));
    }

    #[test]
    fn a_drop_says_whether_there_was_a_table() {
        assert!(statement("DROP TABLE IF EXISTS `t` /* generated by server */").drops_if_there());
        assert!(!statement("DROP TABLE `if` /* generated by server */").drops_if_there());
    }

    proptest! {
        #[test]
        fn no_text_panics(ddl in "(CREATE|ALTER|DROP|RENAME) ?(TABLE|INDEX|VIEW|DEFINER)?[ a`'\"/*!,.()é#-]{0,30}") {
            let _ = statement(&ddl).class();
            let _ = statement(&ddl).alteration();
            let _ = statement(&ddl).as_read();
        }

        #[test]
        fn quoted_names_are_read_back(table in "[^\u{0}]{1,20}") {
            let quoted = table.replace('`', "``");
            let found = statement(&format!("ALTER TABLE `x`.`{quoted}` ADD a INT")).class();
            prop_assert_eq!(found, tables(Verb::Extend, &[("x", &table)]));
        }
    }
}
