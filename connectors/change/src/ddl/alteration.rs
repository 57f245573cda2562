//! The parts of an `ALTER TABLE`.

use super::TableName;
use super::words::{Token, Words};

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

/// What else, besides columns and indexes, an `ALTER TABLE` adds and drops.
const NO_COLUMNS: &[&str] =
    &["PARTITION", "CONSTRAINT", "PRIMARY", "FOREIGN", "CHECK", "PERIOD", "SYSTEM"];

/// What a clock says.
const CLOCK: &[&str] = &[
    "CURRENT_TIMESTAMP",
    "NOW",
    "LOCALTIME",
    "LOCALTIMESTAMP",
    "CURRENT_DATE",
    "CURDATE",
    "CURRENT_TIME",
    "CURTIME",
    "UTC_TIMESTAMP",
    "UTC_DATE",
    "UTC_TIME",
    "UNIX_TIMESTAMP",
];

impl<'a> Words<'a> {
    /// What is left, taken apart at the commas that stand in no parentheses.
    pub fn parts(&self) -> Vec<Words<'a>> {
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
    pub fn is_about_indexes(&self) -> bool {
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
    pub fn adds_a_column(&self) -> bool {
        let mut words = self.clone();
        words.skip("ADD") && !NO_COLUMNS.iter().any(|other| words.at(other))
    }

    /// Whether it names anything that differs from run to run, or from session to session.
    pub fn makes_up_a_value(&self) -> bool {
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

    /// Whether one of these bare words stands in it.
    pub fn has_any(&self, keywords: &[&str]) -> bool {
        let mut words = self.clone();
        while let Some(token) = words.next() {
            let Token::Word(word) = token else { continue };
            if keywords.iter().any(|keyword| word.eq_ignore_ascii_case(keyword)) {
                return true;
            }
        }
        false
    }

    /// Whether it asks for the time.
    pub fn asks_the_clock(&self) -> bool {
        self.has_any(CLOCK)
    }

    /// The column that this part of an `ALTER TABLE` takes away or, as `verb` says, adds. Of several
    /// in parentheses there is no name.
    pub fn column(&self, verb: &str) -> Option<Option<String>> {
        let mut words = self.clone();
        words.expect(verb)?;
        if self.is_about_indexes() || NO_COLUMNS.iter().any(|other| words.at(other)) {
            return None;
        }
        words.skip("COLUMN");
        words.skip_if_exists();
        Some(words.name().map(|name| name.to_lowercase()))
    }

    /// Whether rows go or come with this part of an `ALTER TABLE`.
    pub fn moves_rows(&self) -> bool {
        let mut words = self.clone();
        let of_a_partition = words.skip("TRUNCATE") || words.skip("DROP") && words.at("PARTITION");
        of_a_partition || self.partner("").is_some()
    }

    /// Whether this part of an `ALTER TABLE` gives a column that is there another type.
    pub fn changes_a_column(&self) -> bool {
        self.at("MODIFY") || self.at("CHANGE")
    }

    /// Whether this part of an `ALTER TABLE` makes a column count; the option `AUTO_INCREMENT = n`
    /// only says where counting goes on.
    pub fn counts(&self) -> bool {
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
    pub fn partner(&self, database: &str) -> Option<TableName> {
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
    pub fn new_name(&self, database: &str) -> Option<TableName> {
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
