//! Statements that change a schema: how they travel, and what they are about.
//!
//! A statement is judged by its leading words and by the names they introduce, nothing else; the
//! rest is the server's business. What is not recognised is [`Class::Unknown`] and never guessed:
//! it travels, and whoever is to act on it stops.
//!
//! Grammar: <https://dev.mysql.com/doc/refman/9.0/en/sql-data-definition-statements.html> and
//! <https://mariadb.com/kb/en/data-definition/>.

use std::borrow::Cow;
use std::{fmt, iter};

use serde::{Deserialize, Serialize};

use crate::fault::{Code, Fault};
use crate::form;
use crate::seq::Seq;

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

/// Functions whose value is another each time, or in each session. What a clock says is not among
/// them: it stands still for a statement.
const VOLATILE: &[&str] = &[
    "UUID",
    "UUID_SHORT",
    "UUID_V4",
    "UUID_V7",
    "SYS_GUID",
    "RAND",
    "RANDOM_BYTES",
    "SYSDATE",
    "CONNECTION_ID",
    "LAST_INSERT_ID",
    "FOUND_ROWS",
    "ROW_COUNT",
    "USER",
    "SESSION_USER",
    "SYSTEM_USER",
    "DATABASE",
    "SCHEMA",
    "VERSION",
    "NEXTVAL",
    "LASTVAL",
    "SETVAL",
    "LOAD_FILE",
];

/// Bit of `sql_mode` under which double quotes enclose names.
const ANSI_QUOTES: u64 = 1 << 2;
/// Bit of `sql_mode` under which a backslash in a string is only a backslash.
const NO_BACKSLASH_ESCAPES: u64 = 1 << 20;

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
        classify(self.words(), &self.database).unwrap_or(Class::Unknown)
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

    /// Whether it may make other rows of the same ones where it is run again: it fills a column
    /// with values that are made up on the way, or drops rows that come second.
    #[must_use]
    pub fn makes_up_values(&self) -> bool {
        let Some((ignore, words)) = self.altering() else { return false };
        let parts = words.parts();
        ignore || parts.iter().any(|part| part.adds_a_column() && part.makes_up_a_value())
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
            words.skip_wait();
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
                None => {
                    let partners = parts.iter().filter_map(|part| part.partner(database));
                    Class::Tables(verb, iter::once(table).chain(partners).collect())
                }
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
    sql_mode: u64,
}

impl<'a> Words<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Passes over blanks and comments.
    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            match self.mark().or_else(|| self.comment()) {
                Some(length) => self.at += length,
                None => return,
            }
        }
    }

    /// The length of a comment that stands here.
    fn comment(&self) -> Option<usize> {
        let rest = self.rest();
        if let Some(inside) = rest.strip_prefix("/*") {
            return Some(inside.find("*/").map_or(rest.len(), |end| end + 4));
        }
        let to_the_end_of_the_line = rest.starts_with('#') || is_dashed_comment(rest);
        to_the_end_of_the_line.then(|| rest.find('\n').unwrap_or(rest.len()))
    }

    /// The length of what begins or ends an executable comment here.
    fn mark(&self) -> Option<usize> {
        let rest = self.rest();
        if rest.starts_with("*/") {
            return Some(2);
        }
        let inside = rest.strip_prefix("/*M!").or_else(|| rest.strip_prefix("/*!"))?;
        let digits = inside.bytes().take_while(u8::is_ascii_digit).count();
        Some(rest.len() - inside.len() + digits)
    }

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blanks();
        let rest = self.rest();
        let first = rest.bytes().next()?;
        match first {
            b'`' => self.quoted(b'`').map(Token::Name),
            b'"' if self.sql_mode & ANSI_QUOTES != 0 => self.quoted(b'"').map(Token::Name),
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
        let escapes = self.sql_mode & NO_BACKSLASH_ESCAPES == 0;
        let mut at = self.at + 1;
        loop {
            match *bytes.get(at)? {
                b'\\' if escapes => at += 2,
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
                parts.push(Words { text, at: from, sql_mode: self.sql_mode });
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

    /// Whether it names anything that differs from run to run, or from session to session.
    fn makes_up_a_value(&self) -> bool {
        let mut words = self.clone();
        while let Some(token) = words.next() {
            match token {
                Token::Punctuation(b'@') => return true,
                Token::Word(word) => {
                    let is = |name: &&str| word.eq_ignore_ascii_case(name);
                    let called = words.peek() == Some(Token::Punctuation(b'('));
                    let bare = ["CURRENT_USER", "CURRENT_ROLE"].iter().any(is);
                    let next = is(&"NEXT") && words.at("VALUE");
                    if bare || next || called && VOLATILE.iter().any(is) {
                        return true;
                    }
                }
                _ => {}
            }
        }
        false
    }

    /// Whether this part of an `ALTER TABLE` makes a column count; the option `AUTO_INCREMENT = n`
    /// only says where counting goes on.
    fn counts(&self) -> bool {
        let mut words = self.clone();
        let mut before = String::new();
        while let Some(token) = words.next() {
            let Token::Word(word) = token else {
                before.clear();
                before.push_str(if matches!(token, Token::Name(_)) { "a name" } else { "," });
                continue;
            };
            let word = word.to_ascii_uppercase();
            let is_option = match words.peek() {
                Some(Token::Punctuation(byte)) => byte == b'=',
                Some(Token::Word(next)) => next.starts_with(|c: char| c.is_ascii_digit()),
                _ => false,
            };
            let is_column = matches!(before.as_str(), "" | "ADD" | "COLUMN" | "EXISTS" | ",");
            match word.as_str() {
                "AUTO_INCREMENT" if !is_option => return true,
                // A type, where a column's name stands before it.
                "SERIAL" if !is_column => return true,
                _ => before = word,
            }
        }
        false
    }

    /// The table that gives a partition to the altered one, or takes one: `EXCHANGE PARTITION p WITH
    /// TABLE name`, `CONVERT PARTITION p TO TABLE name`, `CONVERT TABLE name TO PARTITION p …`.
    fn partner(&self, database: &str) -> Option<TableName> {
        let mut words = self.clone();
        if !words.skip("EXCHANGE") && !words.skip("CONVERT") {
            return None;
        }
        if words.skip("PARTITION") {
            words.name()?;
            words.skip_any(&["WITH", "TO"]);
        }
        words.expect("TABLE")?;
        words.table(database)
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
