//! A write of a Redis store, as it travels: one command.
//!
//! ```text
//! {"db":0,"cmd":["SET","user:7",{"base64":"/wA="}],"keys":[1]}
//! ```
//!
//! `cmd` holds the command's words, of which those at the places `keys` are keys. A word that is no UTF-8 stands as
//! base64. Of a deletion that may be an expiry `due` says when the key was to expire, in ms since 1970, and whether that is
//! sure: `{"ms":1764000000000,"sure":true}`.
//!
//! A record's key is `[db,"key"]`, of the command's first key.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::fault::{Code, Fault};
use crate::routing::fits;

/// What names of Unitflow's own keys begin with: none of them travels.
pub const INTERNAL_PREFIX: &[u8] = b"unitflow:";

/// What names of ledger keys begin with: `unitflow:ledger:A.cache:0`. A transaction that writes one first is a sink's.
pub const LEDGER_PREFIX: &[u8] = b"unitflow:ledger:";

/// What names of markers begin with: keys that are written for their place in the stream alone.
pub const MARKER_PREFIX: &[u8] = b"unitflow:marker:";

/// Whether a key is Unitflow's own.
#[must_use]
pub fn is_internal(key: &[u8]) -> bool {
    key.starts_with(INTERNAL_PREFIX)
}

/// One word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word<'a>(pub Cow<'a, [u8]>);

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write<'a> {
    /// The number of the database.
    pub db: u32,
    /// The command, its name first.
    #[serde(borrow)]
    pub cmd: Vec<Word<'a>>,
    /// Which words are keys.
    pub keys: Vec<usize>,
    /// Of a deletion: when the key was to expire.
    #[serde(default)]
    pub due: Option<Due>,
}

/// When a key was to expire that was deleted after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Due {
    /// In ms since 1970.
    pub ms: u64,
    /// Whether the server deleted it for that; else it may have gone and come back, and a client may have deleted it.
    pub sure: bool,
}

impl<'a> Write<'a> {
    /// Reads a record's value.
    ///
    /// # Errors
    /// [`Code::Record`].
    pub fn parse(value: &'a [u8]) -> Result<Self, Fault> {
        let write: Self = serde_json::from_slice(value).map_err(|error| {
            Fault::fatal(Code::Record, format!("a command record can't be read: {error}"))
        })?;
        let last = write.keys.iter().max();
        if write.cmd.is_empty() || last.is_some_and(|place| *place >= write.cmd.len()) {
            return Err(Fault::fatal(Code::Record, "a command record lacks words that it names"));
        }
        Ok(write)
    }

    /// A word, and nothing where there is none.
    #[must_use]
    pub fn word(&self, place: usize) -> &[u8] {
        self.cmd.get(place).map_or(&[], |word| &word.0)
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(|place| self.word(*place))
    }

    /// The key that a `MOVE` or a `COPY` writes in another database, and which that is.
    #[must_use]
    pub fn in_another_database(&self) -> Option<(u32, &[u8])> {
        let place = match () {
            () if self.is("MOVE") => 2,
            () if self.is("COPY") => {
                1 + (3..self.cmd.len())
                    .find(|place| self.word(*place).eq_ignore_ascii_case(b"DB"))?
            }
            () => return None,
        };
        let db = std::str::from_utf8(self.word(place)).ok()?.parse().ok()?;
        Some((db, self.word(self.keys.last().copied()?)))
    }

    /// Whether the command may take the last element of what a key holds: the key goes then, and the server says nothing of
    /// it.
    #[must_use]
    pub fn may_empty(&self) -> bool {
        const TAKE: [&str; 18] = [
            "LPOP",
            "RPOP",
            "LTRIM",
            "LREM",
            "LMOVE",
            "RPOPLPUSH",
            "SREM",
            "SMOVE",
            "ZREM",
            "ZREMRANGEBYLEX",
            "ZREMRANGEBYRANK",
            "ZREMRANGEBYSCORE",
            "ZPOPMIN",
            "ZPOPMAX",
            "HDEL",
            "HGETDEL",
            "HPEXPIREAT",
            "HSETEX",
        ];
        TAKE.iter().any(|name| self.is(name))
    }

    /// Whether the command has this name, given in upper case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.word(0).eq_ignore_ascii_case(name.as_bytes())
    }

    /// Appends the record's value.
    pub fn write(&self, out: &mut Vec<u8>) {
        write(out, self.db, self.cmd.iter().map(|word| &*word.0), &self.keys);
        if let Some(Due { ms, sure }) = self.due {
            out.pop();
            // Writing to a Vec can't fail.
            let _ = write!(out, ",\"due\":{{\"ms\":{ms},\"sure\":{sure}}}}}");
        }
    }
}

/// Appends the value of a record of this command.
pub fn write<'w>(
    out: &mut Vec<u8>,
    db: u32,
    words: impl Iterator<Item = &'w [u8]>,
    keys: &[usize],
) {
    let mut number = itoa::Buffer::new();
    out.extend_from_slice(b"{\"db\":");
    out.extend_from_slice(number.format(db).as_bytes());
    out.extend_from_slice(b",\"cmd\":[");
    for (place, word) in words.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        write_word(out, word);
    }
    out.extend_from_slice(b"],\"keys\":[");
    for (place, key) in keys.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(number.format(*key).as_bytes());
    }
    out.extend_from_slice(b"]}");
}

/// Appends the key of a record about this key: `[0,"user:7"]`.
pub fn write_key(out: &mut Vec<u8>, db: u32, key: &[u8]) {
    out.push(b'[');
    out.extend_from_slice(itoa::Buffer::new().format(db).as_bytes());
    out.push(b',');
    write_word(out, key);
    out.push(b']');
}

/// Reads the key of a record: the number of the database, and the key.
///
/// # Errors
/// [`Code::Record`].
pub fn parse_key(text: &[u8]) -> Result<(u32, Vec<u8>), Fault> {
    let (db, Word(key)): (u32, Word<'_>) = serde_json::from_slice(text).map_err(|error| {
        Fault::fatal(Code::Record, format!("the key of a record can't be read: {error}"))
    })?;
    Ok((db, key.into_owned()))
}

fn write_word(out: &mut Vec<u8>, word: &[u8]) {
    match std::str::from_utf8(word) {
        // A text and a Vec always take each other.
        Ok(text) => drop(serde_json::to_writer(out, text)),
        Err(_) => {
            out.extend_from_slice(b"{\"base64\":\"");
            out.extend_from_slice(STANDARD.encode(word).as_bytes());
            out.extend_from_slice(b"\"}");
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Word<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Words)
    }
}

struct Words;

impl<'de> Visitor<'de> for Words {
    type Value = Word<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or {\"base64\":\"…\"}")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Word(Cow::Borrowed(text.as_bytes())))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Word(Cow::Owned(text.as_bytes().to_vec())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        use serde::de::Error as _;
        let entry: Option<(Cow<'_, str>, Cow<'_, str>)> = map.next_entry()?;
        let Some(("base64", text)) = entry.as_ref().map(|(name, text)| (&**name, text)) else {
            return Err(A::Error::custom("a word is a text, or one in base64"));
        };
        let bytes = STANDARD.decode(text.as_bytes()).map_err(A::Error::custom)?;
        match map.next_key::<Cow<'_, str>>()? {
            None => Ok(Word(Cow::Owned(bytes))),
            Some(more) => Err(A::Error::custom(format!("{more:?} is no part of a word"))),
        }
    }
}

/// When keys expire, as a snapshot says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expiries<'a> {
    /// The number of the database.
    pub db: u32,
    /// Keys, and when they expire, in ms since 1970.
    #[serde(borrow)]
    pub expires: Vec<(Word<'a>, u64)>,
}

impl<'a> Expiries<'a> {
    /// Reads a record's value.
    ///
    /// # Errors
    /// [`Code::Record`].
    pub fn parse(value: &'a [u8]) -> Result<Self, Fault> {
        serde_json::from_slice(value).map_err(|error| {
            Fault::fatal(Code::Record, format!("a record of expiry times can't be read: {error}"))
        })
    }

    /// Appends the record's value.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Writing to a Vec can't fail.
        let _ = write!(out, "{{\"db\":{},\"expires\":[", self.db);
        for (number, (key, ms)) in self.expires.iter().enumerate() {
            out.extend_from_slice(if number == 0 { b"[" } else { b",[" });
            write_word(out, &key.0);
            let _ = write!(out, ",{ms}]");
        }
        out.extend_from_slice(b"]}");
    }
}

/// What happens with a command that acts on more than keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The flow stops before it, until a person has decided.
    Stop,
    /// It stays in its unit.
    Stay,
}

/// Which keys of a Redis store travel: what the routing is to tables. It stands in the captured log itself, so that
/// a transformer that replays it decides as it did before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyspace {
    /// How many partitions, and so lanes, the tagged topic has.
    pub partitions: i32,
    /// Patterns of keys that travel; `*` stands for any text.
    pub keys: Vec<String>,
    /// Patterns of those that do not, taken out of the former.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// What happens with commands that act on more than keys, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub commands: BTreeMap<String, Policy>,
}

impl Keyspace {
    /// Whether writes to this key travel.
    #[must_use]
    pub fn carries(&self, key: &[u8]) -> bool {
        !is_internal(key)
            && self.keys.iter().any(|pattern| fits(pattern, key))
            && !self.exclude.iter().any(|pattern| fits(pattern, key))
    }

    /// Reads it from a barrier or a routing record.
    ///
    /// # Errors
    /// [`Code::Record`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(bytes).map_err(|error| {
            Fault::fatal(Code::Record, format!("a keyspace record can't be read: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(bytes: &[u8]) -> Word<'_> {
        Word(Cow::Borrowed(bytes))
    }

    #[test]
    fn the_form_is_the_documented_one() {
        let write = Write {
            db: 0,
            cmd: vec![word(b"SET"), word(b"user:7"), word(b"\xff\0")],
            keys: vec![1],
            due: None,
        };
        let mut text = Vec::new();
        write.write(&mut text);
        assert_eq!(text, br#"{"db":0,"cmd":["SET","user:7",{"base64":"/wA="}],"keys":[1]}"#);
        assert_eq!(Write::parse(&text).unwrap(), write);
        text.clear();
        Write { due: Some(Due { ms: 5, sure: false }), ..write }.write(&mut text);
        assert!(text.ends_with(br#""keys":[1],"due":{"ms":5,"sure":false}}"#));
        let mut key = Vec::new();
        write_key(&mut key, 3, b"a\"b");
        assert_eq!(key, br#"[3,"a\"b"]"#);
        assert_eq!(parse_key(&key).unwrap(), (3, b"a\"b".to_vec()));
        for bad in ["", "[]", "[3]", r#"["shop","orders",{"id":7}]"#, r#"[-1,"a"]"#] {
            assert_eq!(parse_key(bad.as_bytes()).unwrap_err().code, Code::Record, "{bad}");
        }
    }

    #[test]
    fn some_commands_write_in_another_database() {
        for (text, keys, expected) in [
            ("MOVE k 3", vec![1], Some((3, &b"k"[..]))),
            ("COPY a b DB 2 REPLACE", vec![1, 2], Some((2, &b"b"[..]))),
            ("COPY a b REPLACE", vec![1, 2], None),
            ("SET k 3", vec![1], None),
        ] {
            let cmd = text.split(' ').map(|part| word(part.as_bytes())).collect();
            let write = Write { db: 0, cmd, keys, due: None };
            assert_eq!(write.in_another_database(), expected, "{text}");
            assert!(!write.may_empty());
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"db":0,"cmd":[],"keys":[]}"#,
            r#"{"db":0,"cmd":["SET"],"keys":[1]}"#,
            r#"{"db":0,"cmd":["DEL"],"keys":[0],"due":{"ms":1}}"#,
            r#"{"db":0,"cmd":["SET",{"base64":"?"}],"keys":[]}"#,
            r#"{"db":0,"cmd":["SET",{"base64":"","x":""}],"keys":[]}"#,
            r#"{"db":0,"cmd":["SET",{}],"keys":[]}"#,
            r#"{"db":0,"cmd":["SET",7],"keys":[]}"#,
            r#"{"db":0,"cmd":["SET"],"keys":[],"more":1}"#,
        ] {
            assert_eq!(Write::parse(text.as_bytes()).unwrap_err().code, Code::Record, "{text}");
        }
    }

    #[test]
    fn own_keys_and_what_is_excluded_stay() {
        let keyspace = Keyspace {
            partitions: 1,
            keys: vec!["shop:*".into(), "*".into()],
            exclude: vec!["shop:tmp:*".into()],
            commands: BTreeMap::new(),
        };
        assert!(keyspace.carries(b"shop:1") && keyspace.carries(b"\xff"));
        assert!(!keyspace.carries(b"shop:tmp:1") && !keyspace.carries(b"unitflow:ledger:A.c:0"));
        let text = serde_json::to_vec(&keyspace).unwrap();
        assert_eq!(Keyspace::parse(&text).unwrap(), keyspace);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            db: u32,
            words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 1..6),
            ms: u64,
        ) {
            let write = Write {
                db,
                cmd: words.iter().map(|bytes| word(bytes)).collect(),
                keys: vec![words.len() - 1],
                due: Some(Due { ms, sure: ms % 2 == 0 }),
            };
            let mut text = Vec::new();
            write.write(&mut text);
            prop_assert_eq!(Write::parse(&text).unwrap(), write);
            let expires = words.iter().map(|bytes| (word(bytes), ms)).collect();
            let expiries = Expiries { db, expires };
            let mut text = Vec::new();
            expiries.write(&mut text);
            prop_assert_eq!(Expiries::parse(&text).unwrap(), expiries);
        }

        #[test]
        fn any_bytes_are_borne(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Write::parse(&bytes);
            let _ = Expiries::parse(&bytes);
        }
    }
}
