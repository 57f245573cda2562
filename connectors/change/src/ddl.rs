//! Statements that change a schema: how they travel, and what they are about.
//!
//! A statement is judged by its leading words and by the names they introduce, nothing else; the
//! rest is the server's business. What is not recognised is [`Class::Unknown`] and never guessed:
//! it travels, and whoever is to act on it stops.
//!
//! Grammar: <https://dev.mysql.com/doc/refman/9.0/en/sql-data-definition-statements.html> and
//! <https://mariadb.com/kb/en/data-definition/>.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::fault::{Code, Fault};
use crate::seq::Seq;

/// Stands in each statement that Unitflow itself executes on a store for itself.
pub const INTERNAL_COMMENT: &str = "/* unitflow internal */";

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
    /// Where another unit's statement was run in this one: its record. It is not run again; what
    /// follows expects the schema that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Applied>,
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

/// Bit of `sql_mode` under which double quotes enclose names.
const ANSI_QUOTES: u64 = 1 << 2;

impl Statement {
    /// A statement of a session.
    #[must_use]
    pub fn new(database: &str, ddl: &str, sql_mode: u64) -> Self {
        Self { database: database.to_owned(), ddl: ddl.to_owned(), sql_mode, applied: None }
    }

    /// Reads a record's value.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(bytes).map_err(|error| {
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
        let words = Words::new(&self.ddl, self.sql_mode & ANSI_QUOTES != 0);
        classify(words, &self.database).unwrap_or(Class::Unknown)
    }

    /// Whether Unitflow executed it on this store for itself.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.ddl.contains(INTERNAL_COMMENT)
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

    /// The same with the event that it makes or enables disabled: it is to run in one unit only.
    #[must_use]
    pub fn with_event_disabled(self) -> Self {
        let mut words = Words::new(&self.ddl, self.sql_mode & ANSI_QUOTES != 0);
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
        let mut words = Words::new(&self.ddl, self.sql_mode & ANSI_QUOTES != 0);
        words.expect("ALTER")?;
        words.skip_any(&["ONLINE", "IGNORE"]);
        words.expect("TABLE")?;
        words.skip_if_exists();
        words.table("")?;
        Some(words.rest().trim())
    }
}

fn classify(mut words: Words<'_>, database: &str) -> Option<Class> {
    let first = words.keyword()?;
    match first.as_str() {
        "CREATE" => create(words, database),
        "ALTER" => alter(words, database),
        "DROP" => drop_(words, database),
        "RENAME" => rename(words, database),
        "TRUNCATE" => {
            words.skip_any(&["TABLE"]);
            Some(Class::Tables(Verb::Truncate, vec![words.table(database)?]))
        }
        "GRANT" | "REVOKE" | "SET" | "FLUSH" | "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK"
        | "INSTALL" | "UNINSTALL" | "CACHE" => Some(Class::Local),
        _ => None,
    }
}

fn create(mut words: Words<'_>, database: &str) -> Option<Class> {
    words.skip_any(&["OR", "REPLACE", "ONLINE", "OFFLINE"]);
    words.skip_stored_options();
    let word = words.keyword()?;
    Some(match word.as_str() {
        "TEMPORARY" => Class::Local,
        "TABLE" => {
            words.skip_if_exists();
            Class::Tables(Verb::Create, vec![words.table(database)?])
        }
        "UNIQUE" | "FULLTEXT" | "SPATIAL" | "VECTOR" | "INDEX" => {
            if word != "INDEX" {
                words.expect("INDEX")?;
            }
            words.skip_if_exists();
            words.name()?;
            while !words.at("ON") {
                words.next()?;
            }
            words.expect("ON")?;
            Class::Tables(Verb::Index, vec![words.table(database)?])
        }
        "DATABASE" | "SCHEMA" => {
            words.skip_if_exists();
            Class::Database(Verb::Create, words.name()?)
        }
        "USER" | "ROLE" | "SERVER" | "TABLESPACE" | "LOGFILE" | "RESOURCE" | "UNDO" => Class::Local,
        other => stored(other, words, database)?,
    })
}

fn alter(mut words: Words<'_>, database: &str) -> Option<Class> {
    words.skip_any(&["ONLINE", "IGNORE", "OFFLINE"]);
    words.skip_stored_options();
    let word = words.keyword()?;
    Some(match word.as_str() {
        "TABLE" => {
            words.skip_if_exists();
            let table = words.table(database)?;
            let parts = words.parts();
            let verb = match () {
                () if parts.iter().all(Words::is_about_indexes) => Verb::Index,
                () if parts.iter().all(|part| part.is_about_indexes() || part.adds_a_column()) => {
                    Verb::Extend
                }
                () => Verb::Alter,
            };
            match parts.iter().find_map(|part| part.new_name(database)) {
                Some(to) => Class::Rename(vec![(table, to)]),
                None => Class::Tables(verb, vec![table]),
            }
        }
        "DATABASE" | "SCHEMA" => {
            let name = words.name().unwrap_or_default();
            let options = ["CHARACTER", "CHARSET", "DEFAULT", "COLLATE", "ENCRYPTION", "READ"];
            let unnamed = options.iter().any(|option| name.eq_ignore_ascii_case(option));
            Class::Database(Verb::Alter, if unnamed { database.to_owned() } else { name })
        }
        "USER" | "ROLE" | "SERVER" | "TABLESPACE" | "LOGFILE" | "INSTANCE" | "RESOURCE"
        | "UNDO" => Class::Local,
        other => stored(other, words, database)?,
    })
}

fn drop_(mut words: Words<'_>, database: &str) -> Option<Class> {
    let word = words.keyword()?;
    Some(match word.as_str() {
        "TEMPORARY" => Class::Local,
        "TABLE" | "TABLES" => {
            words.skip_if_exists();
            let mut tables = vec![words.table(database)?];
            while words.punctuation(b',') {
                tables.push(words.table(database)?);
            }
            Class::Tables(Verb::Drop, tables)
        }
        "INDEX" => {
            words.skip_if_exists();
            words.name()?;
            words.expect("ON")?;
            Class::Tables(Verb::Index, vec![words.table(database)?])
        }
        "DATABASE" | "SCHEMA" => {
            words.skip_if_exists();
            Class::Database(Verb::Drop, words.name()?)
        }
        "USER" | "ROLE" | "SERVER" | "TABLESPACE" | "LOGFILE" | "RESOURCE" | "UNDO" | "PREPARE" => {
            Class::Local
        }
        other => stored(other, words, database)?,
    })
}

fn rename(mut words: Words<'_>, database: &str) -> Option<Class> {
    let word = words.keyword()?;
    if matches!(word.as_str(), "USER" | "ROLE") {
        return Some(Class::Local);
    }
    if !matches!(word.as_str(), "TABLE" | "TABLES") {
        return None;
    }
    words.skip_if_exists();
    let mut pairs = Vec::new();
    loop {
        let from = words.table(database)?;
        words.skip_wait();
        words.expect("TO")?;
        pairs.push((from, words.table(database)?));
        if !words.punctuation(b',') {
            return Some(Class::Rename(pairs));
        }
    }
}

/// Stored code, in the database that its name says.
fn stored(word: &str, mut words: Words<'_>, database: &str) -> Option<Class> {
    let kind = match word {
        "VIEW" => Stored::View,
        "TRIGGER" => Stored::Trigger,
        "PROCEDURE" | "FUNCTION" | "AGGREGATE" | "PACKAGE" | "LIBRARY" => Stored::Routine,
        "EVENT" => Stored::Event,
        _ => return None,
    };
    words.skip_any(&["FUNCTION", "BODY"]);
    words.skip_if_exists();
    Some(Class::Stored(kind, words.table(database)?))
}

/// One token of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A bare word: a keyword or a name.
    Word(&'a str),
    /// A quoted name, without its quotes.
    Name(Cow<'a, str>),
    /// A string or a number.
    Literal,
    /// One byte of anything else.
    Punctuation(u8),
}

/// Reads a statement token by token. Comments are passed over; what stands in executable ones is
/// read, since the server does so.
#[derive(Clone, Debug)]
struct Words<'a> {
    text: &'a str,
    at: usize,
    ansi_quotes: bool,
}

impl<'a> Words<'a> {
    fn new(text: &'a str, ansi_quotes: bool) -> Self {
        Self { text, at: 0, ansi_quotes }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Passes over blanks and comments.
    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            let skipped = if let Some(inside) = trimmed.strip_prefix("/*") {
                match inside.strip_prefix("M!").or_else(|| inside.strip_prefix('!')) {
                    // The end of an executable comment is passed over where it comes.
                    Some(executable) => {
                        let digits = executable.bytes().take_while(u8::is_ascii_digit).count();
                        trimmed.len() - executable.len() + digits
                    }
                    None => inside.find("*/").map_or(trimmed.len(), |end| end + 4),
                }
            } else if trimmed.starts_with("*/") {
                2
            } else if trimmed.starts_with('#') || is_dashed_comment(trimmed) {
                trimmed.find('\n').unwrap_or(trimmed.len())
            } else {
                return;
            };
            self.at += skipped;
        }
    }

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blanks();
        let rest = self.rest();
        let first = rest.bytes().next()?;
        match first {
            b'`' => self.quoted(b'`').map(Token::Name),
            b'"' if self.ansi_quotes => self.quoted(b'"').map(Token::Name),
            b'"' | b'\'' => {
                self.string(first)?;
                Some(Token::Literal)
            }
            _ if is_word(rest.chars().next()?) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                self.at += length;
                Some(Token::Word(&rest[..length]))
            }
            _ => {
                self.at += rest.chars().next()?.len_utf8();
                Some(Token::Punctuation(first))
            }
        }
    }

    /// A name in quotes, which stand doubled inside.
    fn quoted(&mut self, quote: u8) -> Option<Cow<'a, str>> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut at = start;
        let mut doubled = false;
        loop {
            let length = bytes.get(at..)?.iter().position(|byte| *byte == quote)?;
            at += length;
            if bytes.get(at + 1) != Some(&quote) {
                break;
            }
            doubled = true;
            at += 2;
        }
        self.at = at + 1;
        let inside = self.text.get(start..at)?;
        let one = char::from(quote).to_string();
        Some(if doubled { inside.replace(&one.repeat(2), &one).into() } else { inside.into() })
    }

    fn string(&mut self, quote: u8) -> Option<()> {
        let bytes = self.text.as_bytes();
        let mut at = self.at + 1;
        loop {
            match *bytes.get(at)? {
                b'\\' => at += 2,
                byte if byte == quote && bytes.get(at + 1) == Some(&quote) => at += 2,
                byte if byte == quote => break,
                _ => at += 1,
            }
        }
        self.at = at + 1;
        Some(())
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.clone().next()
    }

    /// The next token, if it is a bare word, in capitals.
    fn keyword(&mut self) -> Option<String> {
        match self.next()? {
            Token::Word(word) => Some(word.to_ascii_uppercase()),
            _ => None,
        }
    }

    fn at(&self, keyword: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword))
    }

    fn skip(&mut self, keyword: &str) -> bool {
        let there = self.at(keyword);
        if there {
            self.next();
        }
        there
    }

    fn expect(&mut self, keyword: &str) -> Option<()> {
        self.skip(keyword).then_some(())
    }

    fn skip_any(&mut self, keywords: &[&str]) {
        while keywords.iter().any(|keyword| self.skip(keyword)) {}
    }

    /// `IF EXISTS` and `IF NOT EXISTS`.
    fn skip_if_exists(&mut self) {
        if self.skip("IF") {
            self.skip_any(&["NOT", "EXISTS"]);
        }
    }

    /// MariaDB's `WAIT n` and `NOWAIT` behind a table's name.
    fn skip_wait(&mut self) {
        if self.skip("WAIT") {
            self.next();
        }
        self.skip("NOWAIT");
    }

    /// What stands before the word VIEW, PROCEDURE and the like.
    fn skip_stored_options(&mut self) {
        loop {
            if self.skip("ALGORITHM") {
                self.punctuation(b'=');
                self.next();
            } else if self.skip("DEFINER") {
                self.punctuation(b'=');
                // `'user'@'host'`, `user@host`, `CURRENT_USER()`.
                self.next();
                if self.punctuation(b'@') {
                    self.next();
                }
                if self.punctuation(b'(') {
                    self.punctuation(b')');
                }
            } else if self.at("SQL") {
                self.next();
                self.skip("SECURITY");
                self.next();
            } else {
                return;
            }
        }
    }

    fn punctuation(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(Token::Punctuation(byte));
        if there {
            self.next();
        }
        there
    }

    fn name(&mut self) -> Option<String> {
        match self.next()? {
            Token::Word(word) => Some(word.to_owned()),
            Token::Name(name) => Some(name.into_owned()),
            _ => None,
        }
    }

    /// `table` or `database.table`.
    fn table(&mut self, database: &str) -> Option<TableName> {
        let first = self.name()?;
        if !self.punctuation(b'.') {
            return Some(TableName { database: database.to_owned(), table: first });
        }
        Some(TableName { database: first, table: self.name()? })
    }

    /// What is left, taken apart at the commas that stand in no parentheses.
    fn parts(&self) -> Vec<Words<'a>> {
        let mut reader = self.clone();
        let (mut parts, mut depth, mut start) = (Vec::new(), 0_u32, self.at);
        let mut push = |from: usize, to: usize| {
            if let Some(text) = self.text.get(..to) {
                parts.push(Words { text, at: from, ansi_quotes: self.ansi_quotes });
            }
        };
        while let Some(token) = reader.next() {
            match token {
                Token::Punctuation(b'(') => depth += 1,
                Token::Punctuation(b')') => depth = depth.saturating_sub(1),
                Token::Punctuation(b',') if depth == 0 => {
                    push(start, reader.at - 1);
                    start = reader.at;
                }
                _ => {}
            }
        }
        push(start, self.text.len());
        parts
    }

    /// Whether this part of an `ALTER TABLE` touches no row and no column.
    fn is_about_indexes(&self) -> bool {
        let mut words = self.clone();
        let Some(first) = words.keyword() else { return false };
        let index = ["INDEX", "KEY", "UNIQUE", "FULLTEXT", "SPATIAL"];
        match first.as_str() {
            "ADD" | "DROP" | "ALTER" | "RENAME" => index.iter().any(|word| words.at(word)),
            "ALGORITHM" | "LOCK" | "COMMENT" | "STATS_PERSISTENT" | "STATS_AUTO_RECALC"
            | "STATS_SAMPLE_PAGES" | "DISABLE" | "ENABLE" => true,
            _ => false,
        }
    }

    /// Whether this part of an `ALTER TABLE` adds a column, or several.
    fn adds_a_column(&self) -> bool {
        let mut words = self.clone();
        let others = ["PARTITION", "CONSTRAINT", "PRIMARY", "FOREIGN", "CHECK", "PERIOD", "SYSTEM"];
        words.skip("ADD") && !others.iter().any(|other| words.at(other))
    }

    /// The name that `RENAME [TO|AS] name` in an `ALTER TABLE` gives.
    fn new_name(&self, database: &str) -> Option<TableName> {
        let mut words = self.clone();
        words.expect("RENAME")?;
        if ["COLUMN", "INDEX", "KEY"].iter().any(|word| words.at(word)) {
            return None;
        }
        words.skip_any(&["TO", "AS"]);
        words.punctuation(b'=');
        words.table(database)
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// `-- ` begins a comment only before a blank.
fn is_dashed_comment(text: &str) -> bool {
    text.strip_prefix("--")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(|c: char| c.is_whitespace()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn double_quotes_are_names_where_the_session_says_so() {
        let mut quoted = statement("DROP TABLE \"a b\"");
        assert_eq!(quoted.class(), Class::Unknown);
        quoted.sql_mode = ANSI_QUOTES;
        assert_eq!(quoted.class(), tables(Verb::Drop, &[("shop", "a b")]));
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

    proptest! {
        #[test]
        fn no_text_panics(ddl in "(CREATE|ALTER|DROP|RENAME) ?(TABLE|INDEX|VIEW|DEFINER)?[ a`'\"/*!,.()é#-]{0,30}") {
            let _ = statement(&ddl).class();
            let _ = statement(&ddl).alteration();
        }

        #[test]
        fn quoted_names_are_read_back(table in "[^\u{0}]{1,20}") {
            let quoted = table.replace('`', "``");
            let found = statement(&format!("ALTER TABLE `x`.`{quoted}` ADD a INT")).class();
            prop_assert_eq!(found, tables(Verb::Extend, &[("x", &table)]));
        }
    }
}
