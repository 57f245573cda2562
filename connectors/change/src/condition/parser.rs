//! From a condition's text to its tree. A fault names the character, counted from 1.

use super::number::Number;
use super::{Node, Value, Wanted};
use crate::fault::{Code, Fault};

/// How deep parentheses and `not` may nest: a record's condition must not exhaust the stack.
const DEPTH_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// A word without quotes.
    Word(String),
    /// A name in backquotes.
    Name(String),
    Number(String),
    Text(String),
    Sign(&'static str),
    End,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(text) | Self::Number(text) => write!(f, "{text:?}"),
            Self::Name(text) => write!(f, "`{text}`"),
            Self::Text(_) => f.write_str("a text"),
            Self::Sign(sign) => write!(f, "{sign:?}"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// A token and the number of its first character, from 1.
type Placed = (usize, Token);

fn misread(at: usize, what: impl std::fmt::Display) -> Fault {
    Fault::fatal(Code::Config, format!("at character {at}: {what}"))
        .hint("a condition looks like: region = 'eu' and (state != 'draft' or total >= 9.5)")
}

fn unexpected(expected: &str, (at, found): &Placed) -> Fault {
    misread(*at, format_args!("expected {expected}, found {found}"))
}

/// Longer ones first.
const SIGNS: [&str; 10] = ["!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", ","];

fn tokens(text: &str) -> Result<Vec<Placed>, Fault> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let place = |rest: &str| text[..text.len() - rest.len()].chars().count() + 1;
    loop {
        rest = rest.trim_start();
        let at = place(rest);
        let Some(first) = rest.chars().next() else {
            tokens.push((at, Token::End));
            return Ok(tokens);
        };
        let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let (token, length) = match first {
            '\'' => quoted(rest, '\'').map(|(text, length)| (Token::Text(text), length)),
            '`' => quoted(rest, '`').map(|(name, length)| (Token::Name(name), length)),
            _ if sign.is_some() => sign.map(|sign| (Token::Sign(sign), sign.len())),
            '-' | '0'..='9' => {
                number(rest).map(|text| (Token::Number(text.to_owned()), text.len()))
            }
            _ if is_word(first) => {
                let word = rest.split(|c: char| !is_word(c)).next().unwrap_or_default();
                Some((Token::Word(word.to_owned()), word.len()))
            }
            _ => None,
        }
        .ok_or_else(|| {
            let what = match first {
                '\'' | '`' => format!("the {first} has no end"),
                '-' | '0'..='9' => "this is no number".to_owned(),
                _ => format!("{first:?} has no meaning here"),
            };
            misread(at, what)
        })?;
        tokens.push((at, token));
        rest = &rest[length..];
    }
}

/// The inside of what stands in quotes at the text's start, and the length with them.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut inside = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character != quote {
            inside.push(character);
        } else if characters.next_if(|(_, next)| *next == quote).is_some() {
            inside.push(quote);
        } else {
            return Some((inside, at + quote.len_utf8()));
        }
    }
    None
}

/// The number at the text's start; letters behind it belong to it, so that they are refused.
fn number(text: &str) -> Option<&str> {
    let mut before = '-';
    let end = text.find(|c: char| {
        let exponent = matches!(before, 'e' | 'E');
        let part = c.is_alphanumeric() || c == '.' || (matches!(c, '-' | '+') && exponent);
        let first = before == '-' && c == '-';
        before = c;
        !part && !first
    });
    let number = &text[..end.unwrap_or(text.len())];
    Number::parse(number).map(|_| number)
}

struct Parser {
    tokens: Vec<Placed>,
    at: usize,
    depth: usize,
}

/// Reads the whole text.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let root = parser.condition()?;
    match parser.next() {
        (_, Token::End) => Ok(root),
        other => Err(unexpected("and, or, or the end", &other)),
    }
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(_, token)| token)
    }

    /// The next token; the last one, which is the end, comes again and again.
    fn next(&mut self) -> Placed {
        let last = self.tokens.len().saturating_sub(1);
        let token = self.tokens.get(self.at.min(last)).cloned();
        self.at = (self.at + 1).min(last);
        token.unwrap_or((1, Token::End))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(found) if found.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(found) if *found == sign);
        self.at += usize::from(found);
        found
    }

    fn condition(&mut self) -> Result<Node, Fault> {
        let mut nodes = vec![self.all()?];
        while self.take_word("or") {
            nodes.push(self.all()?);
        }
        Ok(Node::Any(nodes))
    }

    fn all(&mut self) -> Result<Node, Fault> {
        let mut nodes = vec![self.one()?];
        while self.take_word("and") {
            nodes.push(self.one()?);
        }
        Ok(Node::All(nodes))
    }

    fn one(&mut self) -> Result<Node, Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let (at, _) = self.next();
            return Err(misread(at, format_args!("nested deeper than {DEPTH_MAX}")));
        }
        let node = if self.take_word("not") {
            Node::Not(Box::new(self.one()?))
        } else if self.take_sign("(") {
            let node = self.condition()?;
            self.close("and, or, or \")\"")?;
            node
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn close(&mut self, expected: &str) -> Result<(), Fault> {
        match self.next() {
            (_, Token::Sign(")")) => Ok(()),
            other => Err(unexpected(expected, &other)),
        }
    }

    fn test(&mut self) -> Result<Node, Fault> {
        let column = match self.next() {
            (_, Token::Name(name)) => name,
            (_, Token::Word(word)) if !is_reserved(&word) => word,
            other => return Err(unexpected("a column, not, or \"(\"", &other)),
        };
        if self.take_word("is") {
            let not = self.take_word("not");
            if !self.take_word("null") {
                return Err(unexpected("null", &self.next()));
            }
            return Ok(negated(not, Node::Null { column }));
        }
        let not = self.take_word("not");
        if self.take_word("in") {
            let values = self.values()?;
            return Ok(negated(not, Node::In { column, values }));
        }
        if not {
            return Err(unexpected("in", &self.next()));
        }
        let wanted = match self.next() {
            (_, Token::Sign("=")) => Wanted::Equal,
            (_, Token::Sign("!=" | "<>")) => Wanted::Different,
            (_, Token::Sign("<")) => Wanted::Less,
            (_, Token::Sign("<=")) => Wanted::LessOrEqual,
            (_, Token::Sign(">")) => Wanted::Greater,
            (_, Token::Sign(">=")) => Wanted::GreaterOrEqual,
            other => return Err(unexpected("a comparison, in, not in, or is", &other)),
        };
        Ok(Node::Compare { column, wanted, value: self.value()? })
    }

    fn values(&mut self) -> Result<Vec<Value>, Fault> {
        if !self.take_sign("(") {
            return Err(unexpected("\"(\"", &self.next()));
        }
        let mut values = vec![self.value()?];
        while self.take_sign(",") {
            values.push(self.value()?);
        }
        self.close("\",\" or \")\"")?;
        Ok(values)
    }

    fn value(&mut self) -> Result<Value, Fault> {
        match self.next() {
            (_, Token::Number(text)) => Ok(Value::Number(text)),
            (_, Token::Text(text)) => Ok(Value::Text(text)),
            (_, Token::Word(word)) if word.eq_ignore_ascii_case("true") => {
                Ok(Value::Number("1".to_owned()))
            }
            (_, Token::Word(word)) if word.eq_ignore_ascii_case("false") => {
                Ok(Value::Number("0".to_owned()))
            }
            (at, Token::Word(word)) if word.eq_ignore_ascii_case("null") => {
                Err(misread(at, "nothing equals null; write is null or is not null"))
            }
            other => Err(unexpected("a number or a 'text'", &other)),
        }
    }
}

fn negated(not: bool, node: Node) -> Node {
    if not { Node::Not(Box::new(node)) } else { node }
}

fn is_reserved(word: &str) -> bool {
    ["and", "or", "not", "in", "is", "null", "true", "false"]
        .iter()
        .any(|reserved| reserved.eq_ignore_ascii_case(word))
}
