//! A statement, token by token.

use std::borrow::Cow;

use super::TableName;

/// Bit of `sql_mode` under which double quotes enclose names.
pub const ANSI_QUOTES: u64 = 1 << 2;
/// Bit of `sql_mode` under which a backslash in a string is only a backslash.
pub const NO_BACKSLASH_ESCAPES: u64 = 1 << 20;

/// One token of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token<'a> {
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
pub struct Words<'a> {
    pub text: &'a str,
    pub at: usize,
    pub sql_mode: u64,
}

impl<'a> Words<'a> {
    pub fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Passes over blanks and comments.
    pub fn skip_blanks(&mut self) {
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
    pub fn comment(&self) -> Option<usize> {
        let rest = self.rest();
        if let Some(inside) = rest.strip_prefix("/*") {
            return Some(inside.find("*/").map_or(rest.len(), |end| end + 4));
        }
        let to_the_end_of_the_line = rest.starts_with('#') || is_dashed_comment(rest);
        to_the_end_of_the_line.then(|| rest.find('\n').unwrap_or(rest.len()))
    }

    /// The length of what begins or ends an executable comment here.
    pub fn mark(&self) -> Option<usize> {
        let rest = self.rest();
        if rest.starts_with("*/") {
            return Some(2);
        }
        let inside = rest.strip_prefix("/*M!").or_else(|| rest.strip_prefix("/*!"))?;
        let digits = inside.bytes().take_while(u8::is_ascii_digit).count();
        Some(rest.len() - inside.len() + digits)
    }

    pub fn next(&mut self) -> Option<Token<'a>> {
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

    pub fn peek(&self) -> Option<Token<'a>> {
        self.clone().next()
    }

    /// The next token, if it is a bare word, in capitals.
    pub fn keyword(&mut self) -> Option<String> {
        match self.next()? {
            Token::Word(word) => Some(word.to_ascii_uppercase()),
            _ => None,
        }
    }

    pub fn at(&self, keyword: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword))
    }

    pub fn skip(&mut self, keyword: &str) -> bool {
        let there = self.at(keyword);
        if there {
            self.next();
        }
        there
    }

    pub fn expect(&mut self, keyword: &str) -> Option<()> {
        self.skip(keyword).then_some(())
    }

    pub fn skip_any(&mut self, keywords: &[&str]) {
        while keywords.iter().any(|keyword| self.skip(keyword)) {}
    }

    /// `IF EXISTS` and `IF NOT EXISTS`.
    pub fn skip_if_exists(&mut self) {
        if self.skip("IF") {
            self.skip_any(&["NOT", "EXISTS"]);
        }
    }

    /// MariaDB's `WAIT n` and `NOWAIT` behind a table's name.
    pub fn skip_wait(&mut self) {
        if self.skip("WAIT") {
            self.next();
        }
        self.skip("NOWAIT");
    }

    /// What stands before the word VIEW, PROCEDURE and the like.
    pub fn skip_stored_options(&mut self) {
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

    pub fn punctuation(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(Token::Punctuation(byte));
        if there {
            self.next();
        }
        there
    }

    pub fn name(&mut self) -> Option<String> {
        match self.next()? {
            Token::Word(word) => Some(word.to_owned()),
            Token::Name(name) => Some(name.into_owned()),
            _ => None,
        }
    }

    /// `table` or `database.table`.
    pub fn table(&mut self, database: &str) -> Option<TableName> {
        let first = self.name()?;
        if !self.punctuation(b'.') {
            return Some(TableName { database: database.to_owned(), table: first });
        }
        Some(TableName { database: first, table: self.name()? })
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
