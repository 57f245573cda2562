//! Which commands a stream may hold, and where their keys are: the table in `commands.toml`.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Deserialize;
use unitflow_change::fault::{Code, Fault};

use crate::command::Command;

/// Whether a command stands in a stream as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrives {
    /// It is a change of keys.
    Yes,
    /// Servers write its effect instead.
    No,
    /// It acts on more than keys.
    Policy,
}

/// Which words of a command are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Keys {
    First,
    Second,
    Both,
    All,
    #[serde(rename = "from second")]
    FromSecond,
    Pairs,
    #[serde(rename = "counted pairs")]
    CountedPairs,
    Counted,
    Sorted,
    Found,
    None,
}

/// What is known of a command.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Whether it stands in a stream.
    pub arrives: Arrives,
    keys: Keys,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    commands: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    arrives: Arrives,
    keys: Keys,
    names: Vec<String>,
}

static TABLE: LazyLock<HashMap<String, Form>> = LazyLock::new(|| {
    // A test reads it too: it can't fail later.
    #[expect(clippy::expect_used, reason = "it is compiled in")]
    let table: Table = toml::from_str(include_str!("commands.toml")).expect("commands.toml");
    let entries = table.commands.into_iter();
    entries
        .flat_map(|Entry { arrives, keys, names }| {
            names.into_iter().map(move |name| (name, Form { arrives, keys }))
        })
        .collect()
});

/// What is known of the command of this name: `SET`, `XGROUP|CREATE`.
#[must_use]
pub fn form_of(name: &str) -> Option<Form> {
    TABLE.get(name).copied()
}

/// A command's name as the table has it.
#[must_use]
pub fn name_of(command: &Command) -> String {
    let upper = |word: &[u8]| String::from_utf8_lossy(word).to_ascii_uppercase();
    let name = upper(command.word(0));
    match name.as_str() {
        "XGROUP" | "FUNCTION" | "SCRIPT" | "CLUSTER" => {
            format!("{name}|{}", upper(command.word(1)))
        }
        _ => name,
    }
}

/// What is known of a command.
///
/// # Errors
/// [`Code::StreamUnknown`] where that is nothing, or that it never stands in a stream.
pub fn form(command: &Command) -> Result<Form, Fault> {
    let name = name_of(command);
    match form_of(&name) {
        Some(form) if form.arrives != Arrives::No => Ok(form),
        _ => Err(Fault::fatal(
            Code::StreamUnknown,
            format!("the stream holds the command {}", name.escape_debug()),
        )),
    }
}

impl Form {
    /// Which words of the command are keys, each once, in their order.
    ///
    /// # Errors
    /// [`Code::StreamCorrupt`] where they are not there.
    pub fn keys(self, command: &Command) -> Result<Vec<usize>, Fault> {
        let last = command.len().saturating_sub(1);
        let keys: Vec<usize> = match self.keys {
            Keys::First => vec![1],
            Keys::Second => vec![2],
            Keys::Both => vec![1, 2],
            Keys::All => (1..=last.max(1)).collect(),
            Keys::FromSecond => (2..=last.max(2)).collect(),
            Keys::Pairs => (1..=last.max(1)).step_by(2).collect(),
            Keys::CountedPairs => {
                let end = count_at(command, 1).saturating_mul(2).saturating_add(2);
                (2..end.min(last + 2)).step_by(2).collect()
            }
            Keys::Counted => {
                let end = count_at(command, 2).saturating_add(3);
                [1].into_iter().chain(3..end.min(last + 2)).collect()
            }
            Keys::Sorted => [1].into_iter().chain(stored(command, 2)).collect(),
            // Behind a place, or a member that may have any name, and a distance.
            Keys::Found => [1].into_iter().chain(stored(command, 5)).collect(),
            Keys::None => Vec::new(),
        };
        match keys.last() {
            Some(place) if *place > last => Err(Fault::fatal(
                Code::StreamCorrupt,
                format!("the stream holds a {} without its keys", name_of(command)),
            )),
            _ => Ok(keys),
        }
    }
}

/// How many keys a word says there are; more than there can be where it says nothing.
fn count_at(command: &Command, place: usize) -> usize {
    let count = std::str::from_utf8(command.word(place)).ok();
    count.and_then(|count| count.parse().ok()).unwrap_or(usize::MAX)
}

/// Where a command names the key that it stores to, among options from this word on.
fn stored(command: &Command, options: usize) -> Option<usize> {
    let mut place = options;
    let mut found = None;
    while place < command.len() {
        let word = command.word(place).to_ascii_uppercase();
        place += match word.as_slice() {
            b"BY" | b"GET" | b"COUNT" => 2,
            b"LIMIT" => 3,
            b"STORE" | b"STOREDIST" => {
                found = Some(place + 1);
                2
            }
            _ => 1,
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_where_the_table_says() {
        for (text, expected) in [
            ("set k v", vec!["k"]),
            ("XGROUP create k g 0", vec!["k"]),
            ("RENAME a b", vec!["a", "b"]),
            ("DEL a b c", vec!["a", "b", "c"]),
            ("BITOP AND to a b", vec!["to", "a", "b"]),
            ("MSET a 1 b 2", vec!["a", "b"]),
            ("ZUNIONSTORE to 2 a b WEIGHTS 1 2", vec!["to", "a", "b"]),
            ("SORT from BY store STORE to GET store LIMIT 0 9 ASC", vec!["from", "to"]),
            ("GEORADIUS from 1 2 3 m COUNT 4 STOREDIST to", vec!["from", "to"]),
            ("GEORADIUSBYMEMBER from store 3 m ASC STORE to", vec!["from", "to"]),
            ("MSETEX 2 a 1 b 2 PXAT 9", vec!["a", "b"]),
            ("FLUSHALL", vec![]),
        ] {
            let command = Command::of(text.split(' '));
            let keys = form(&command).unwrap().keys(&command).unwrap();
            let keys: Vec<_> = keys.iter().map(|place| command.word(*place)).collect();
            assert_eq!(
                keys,
                expected.iter().map(|key| key.as_bytes()).collect::<Vec<_>>(),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (text, code) in [
            ("BLPOP k 0", Code::StreamUnknown),
            ("NEW.COMMAND k", Code::StreamUnknown),
            ("SET", Code::StreamCorrupt),
            ("RENAME a", Code::StreamCorrupt),
            ("ZUNIONSTORE to 9 a", Code::StreamCorrupt),
            ("ZUNIONSTORE to x a", Code::StreamCorrupt),
            ("MSETEX 9 a 1", Code::StreamCorrupt),
        ] {
            let command = Command::of(text.split(' '));
            let fault = form(&command).and_then(|form| form.keys(&command)).unwrap_err();
            assert_eq!(fault.code, code, "{text}: {fault}");
        }
    }
}
