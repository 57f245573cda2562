//! Conditions that a row has to meet to travel.
//!
//! ```text
//! condition = all { "or" all }                      "or" binds least, then "and", then "not"
//! all       = one { "and" one }
//! one       = "not" one | "(" condition ")" | test
//! test      = column ( "=" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) value
//!           | column [ "not" ] "in" "(" value { "," value } ")"
//!           | column "is" [ "not" ] "null"
//! column    = letters, digits, "_" and "$", no digit first; any other name in backquotes
//! value     = a number | text in single quotes | "true" | "false"
//! ```
//!
//! Inside quotes a quote is doubled. Words and column names do not mind case.
//!
//! Numbers are compared as decimals, exactly, whatever their size; `true` is 1. Text is compared
//! byte by byte, with no collation, as it stands in the envelope: dates as
//! `2026-01-31T23:59:59Z`. NULL is as in SQL: a test of it is neither true nor false, only
//! `is null` sees it, and a row travels where the condition is true. What can't be compared (text
//! with a number) and a column that the row lacks are faults, never a guess.

mod number;
mod parser;

use std::borrow::Cow;
use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::envelope::Row;
use crate::fault::{Code, Fault};

use number::Number;

/// A condition. Equal where its text is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Condition {
    text: String,
    root: Node,
}

/// What a test compares a column with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// With a number.
    Number,
    /// With text.
    Text,
    /// With NULL alone, which any column can be.
    Null,
}

#[derive(Clone, Debug)]
enum Node {
    Any(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
    Compare { column: String, wanted: Wanted, value: Value },
    In { column: String, values: Vec<Value> },
    Null { column: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Equal,
    Different,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Wanted {
    fn meets(self, found: Ordering) -> bool {
        match self {
            Self::Equal => found.is_eq(),
            Self::Different => found.is_ne(),
            Self::Less => found.is_lt(),
            Self::LessOrEqual => found.is_le(),
            Self::Greater => found.is_gt(),
            Self::GreaterOrEqual => found.is_ge(),
        }
    }
}

#[derive(Clone, Debug)]
enum Value {
    /// As it was written; it was seen to be a number.
    Number(String),
    Text(String),
}

impl Condition {
    /// Reads a condition; a fault names the place where it can't be read.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        Ok(Self { text: text.to_owned(), root: parser::parse(text)? })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the row meets it.
    pub fn holds(&self, row: &Row<'_>) -> Result<bool, Fault> {
        Ok(self.root.holds(row)? == Some(true))
    }

    /// Each column that it looks at, with what it is compared with.
    #[must_use]
    pub fn columns(&self) -> Vec<(&str, Compared)> {
        let mut columns = Vec::new();
        self.root.columns(&mut columns);
        columns
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Condition {}

impl TryFrom<String> for Condition {
    type Error = Fault;

    fn try_from(text: String) -> Result<Self, Fault> {
        Self::parse(&text)
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> Self {
        condition.text
    }
}

impl Node {
    /// SQL's three values: none is NULL.
    fn holds(&self, row: &Row<'_>) -> Result<Option<bool>, Fault> {
        match self {
            Self::Any(nodes) => fold(nodes, row, true),
            Self::All(nodes) => fold(nodes, row, false),
            Self::Not(node) => Ok(node.holds(row)?.map(|holds| !holds)),
            Self::Null { column } => Ok(Some(matches!(Given::of(row, column)?, Given::Null))),
            Self::Compare { column, wanted, value } => {
                let found = Given::of(row, column)?.compare(column, value)?;
                Ok(found.map(|found| wanted.meets(found)))
            }
            Self::In { column, values } => {
                let given = Given::of(row, column)?;
                if matches!(given, Given::Null) {
                    return Ok(None);
                }
                for value in values {
                    if given.compare(column, value)? == Some(Ordering::Equal) {
                        return Ok(Some(true));
                    }
                }
                Ok(Some(false))
            }
        }
    }

    fn columns<'a>(&'a self, columns: &mut Vec<(&'a str, Compared)>) {
        let compared = |value: &Value| match value {
            Value::Number(_) => Compared::Number,
            Value::Text(_) => Compared::Text,
        };
        match self {
            Self::Any(nodes) | Self::All(nodes) => {
                nodes.iter().for_each(|node| node.columns(columns));
            }
            Self::Not(node) => node.columns(columns),
            Self::Null { column } => columns.push((column, Compared::Null)),
            Self::Compare { column, value, .. } => columns.push((column, compared(value))),
            Self::In { column, values } => {
                columns.extend(values.iter().map(|value| (column.as_str(), compared(value))));
            }
        }
    }
}

/// One node that is `decisive` decides; else NULL wins over the other value.
fn fold(nodes: &[Node], row: &Row<'_>, decisive: bool) -> Result<Option<bool>, Fault> {
    let mut all = Some(!decisive);
    for node in nodes {
        match node.holds(row)? {
            Some(value) if value == decisive => return Ok(Some(decisive)),
            Some(_) => {}
            None => all = None,
        }
    }
    Ok(all)
}

/// A column's value.
enum Given<'a> {
    Null,
    Number(Number<'a>),
    Text(Cow<'a, str>),
}

impl<'a> Given<'a> {
    fn of(row: &Row<'a>, column: &str) -> Result<Self, Fault> {
        let json = row.named(column).ok_or_else(|| {
            fault(format!(
                "a condition names the column {column:?}, which a row of the table lacks"
            ))
            .hint("correct the condition under rows for this table")
        })?;
        let text = || serde_json::from_str::<Text<'a>>(json).ok().map(|text| Self::Text(text.0));
        let given = match json {
            "null" => Some(Self::Null),
            "true" => Number::parse("1").map(Self::Number),
            "false" => Number::parse("0").map(Self::Number),
            _ if json.starts_with('"') => text(),
            _ => Number::parse(json).map(Self::Number),
        };
        given.ok_or_else(|| incomparable(column, "is neither a number nor text"))
    }

    /// How the column's value stands to the condition's; none where it is NULL.
    fn compare(&self, column: &str, value: &Value) -> Result<Option<Ordering>, Fault> {
        let number = |text: &str| match Number::parse(text) {
            Some(number) => Ok(number.compare(value.number())),
            None => Err(incomparable(column, "is text, and is compared with a number")),
        };
        match (self, value) {
            (Self::Null, _) => Ok(None),
            (Self::Number(given), Value::Number(_)) => Ok(Some(given.compare(value.number()))),
            (Self::Text(given), Value::Text(text)) => {
                Ok(Some(given.as_bytes().cmp(text.as_bytes())))
            }
            // DECIMAL travels as text.
            (Self::Text(given), Value::Number(_)) => number(given).map(Some),
            (Self::Number(_), Value::Text(_)) => {
                Err(incomparable(column, "is a number, and is compared with text"))
            }
        }
    }
}

/// A JSON string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Value {
    fn number(&self) -> Number<'_> {
        match self {
            Self::Number(text) => Number::parse(text).unwrap_or(Number::ZERO),
            Self::Text(_) => Number::ZERO,
        }
    }
}

fn fault(what: impl Into<String>) -> Fault {
    Fault::fatal(Code::Routing, what)
}

fn incomparable(column: &str, why: &str) -> Fault {
    fault(format!("a condition can't be decided: the column {column:?} {why}"))
        .hint("compare numbers with numbers and text with 'text' under rows for this table")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROW: &str = r#"{"id":7,"big":18446744073709551615,"price":"12.50","region":"eu","note":null,"Größe":3,"a`b":"x","f":1e-7,"on":true,"shape":{"wkb":""}}"#;

    fn holds(condition: &str) -> Result<bool, Fault> {
        let row: Row<'_> = serde_json::from_str(ROW).unwrap();
        Condition::parse(condition)?.holds(&row)
    }

    #[test]
    fn conditions_are_decided_as_in_sql() {
        for (condition, expected) in [
            ("id = 7", true),
            ("ID<>7", false),
            ("id != 7.0", false),
            ("id >= 7 and id <= 7", true),
            ("id < -1 or id > 6.999999999999999999999999999999", true),
            // Both are the same number as a double.
            ("big = 18446744073709551615", true),
            ("big = 18446744073709551616", false),
            ("big < 18446744073709551616", true),
            ("price = 12.5", true),
            ("price > 9.75", true),
            ("price = '12.50'", true),
            ("f = 0.0000001", true),
            ("f < 1e-6 and f > -1", true),
            ("on = true and not on = false", true),
            ("region = 'eu'", true),
            ("region = 'EU'", false),
            ("region in ('us', 'eu')", true),
            ("region not in ('us','eu')", false),
            ("region not in ('us')", true),
            ("id in (1, 7.00)", true),
            ("note is null", true),
            ("note is not null", false),
            ("note = 'x'", false),
            ("not note = 'x'", false),
            ("note in ('x')", false),
            ("note not in ('x')", false),
            ("note = 'x' or region = 'eu'", true),
            ("not (note = 'x' and region = 'us')", true),
            ("region = 'us' and id = 7 or id = 7", true),
            ("id = 7 or id = 7 and region = 'us'", true),
            ("not region = 'us' and not (id = 8 or id = 9)", true),
            ("größe = 3", true),
            ("`a``b` = 'x'", true),
        ] {
            assert_eq!(holds(condition).unwrap(), expected, "{condition}");
        }
    }

    #[test]
    fn faults_name_the_place() {
        for (condition, says) in [
            ("", "at character 1: expected a column, not, or \"(\", found the end"),
            ("region = ", "at character 10: expected a number or a 'text', found the end"),
            ("größe = eu", "at character 9: expected a number or a 'text', found \"eu\""),
            ("region = 'eu", "at character 10: the ' has no end"),
            ("(id = 1", "at character 8: expected and, or, or \")\", found the end"),
            ("id = 1)", "at character 7: expected and, or, or the end, found \")\""),
            ("id == 1", "at character 5: expected a number or a 'text', found \"=\""),
            ("id = 1x", "at character 6"),
            ("id = 1.", "at character 6"),
            ("id = null", "at character 6: nothing equals null"),
            ("id not = 1", "at character 8: expected in, found \"=\""),
            ("id in ()", "at character 8"),
            ("id in (1", "at character 9: expected \",\" or \")\""),
            ("id is 1", "at character 7: expected null"),
            ("and = 1", "at character 1: expected a column"),
            ("id = 1; drop", "at character 7: ';' has no meaning here"),
        ] {
            let fault = Condition::parse(condition).unwrap_err();
            assert_eq!(fault.code, Code::Config);
            assert!(fault.what.starts_with(says), "{condition}: {}", fault.what);
        }
        let deep = format!("{}id = 1{}", "(".repeat(5000), ")".repeat(5000));
        assert!(Condition::parse(&deep).unwrap_err().what.contains("nested deeper"));
    }

    #[test]
    fn what_can_not_be_decided_is_a_fault() {
        for condition in ["region = 1", "id = '7'", "shape = 'x'", "gone = 1", "gone is null"] {
            assert_eq!(holds(condition).unwrap_err().code, Code::Routing, "{condition}");
        }
    }

    #[test]
    fn it_travels_as_its_text() {
        let condition = Condition::parse("region = 'eu'").unwrap();
        let json = serde_json::to_string(&condition).unwrap();
        assert_eq!(json, r#""region = 'eu'""#);
        assert_eq!(serde_json::from_str::<Condition>(&json).unwrap(), condition);
        assert!(serde_json::from_str::<Condition>("\"region\"").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[a-c'`()=<>!,. 0-9e-]{0,40}|\\PC{0,20}") {
            let row: Row<'_> = serde_json::from_str(ROW).unwrap();
            if let Ok(condition) = Condition::parse(&text) {
                let _ = condition.holds(&row);
            }
        }
    }
}
