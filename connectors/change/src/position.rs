//! How far a MySQL or MariaDB source has been captured.
//!
//! The position names transactions, never files: after a failover the same transaction stands at
//! another place. It travels as JSON, stored together with the records it describes.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::fault::{Code, Fault};
use crate::gtid::{Gtid, GtidSet};

/// How far a source has been captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Captured wholly, or before the capture began.
    pub done: GtidSet,
    /// The transaction captured last; a reconnect reads it again and compares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Captured>,
    /// The transaction of which only the first rows were captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Open>,
    /// XA transactions that were prepared and neither committed nor rolled back: their rows are read
    /// again when they commit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepared: Vec<Prepared>,
}

/// An XA transaction that was prepared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// Its name, as the log has it: `X'61',X'',1`.
    pub xid: String,
    /// What the log holds of it.
    pub transaction: Captured,
}

/// A transaction captured to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Captured {
    /// Its name.
    pub gtid: Gtid,
    /// How many rows and statements it had.
    pub rows: u64,
    /// Over all of them.
    pub digest: Digest,
    /// MariaDB: what its domain had reached before, so that it can be asked for again. MySQL
    /// needs none: there `done` without `gtid` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Gtid>,
}

/// A transaction captured in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Its name.
    pub gtid: Gtid,
    /// How many rows and statements of it were captured.
    pub rows: u64,
    /// Over these.
    pub digest: Digest,
}

/// A running digest over a transaction's rows, 64 bits of XXH3. It covers database, table,
/// operation and the bytes of the row images, and nothing that differs between a server and its
/// replica (table numbers, places, times, server ids). It finds loss and mix-ups; it is no
/// evidence against forgery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// What [`Digest::add`] takes for a table; computed once for each table.
    #[must_use]
    pub fn of_table(database: &str, table: &str) -> u64 {
        xxh3_64_with_seed(table.as_bytes(), xxh3_64(database.as_bytes()))
    }

    /// Adds a row's images; `operation` tells inserts, updates, deletes and statements apart.
    pub fn add(&mut self, table: u64, operation: u8, images: &[u8]) {
        let seed = self.0.rotate_left(17) ^ table ^ u64::from(operation);
        self.0 = xxh3_64_with_seed(images, seed);
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let hexadecimal = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(&text, 16) {
            Ok(digest) if hexadecimal => Ok(Self(digest)),
            _ => Err(serde::de::Error::custom("a digest has 16 hexadecimal digits")),
        }
    }
}

impl Position {
    /// A position before anything was captured: what comes after `done` is to be read.
    #[must_use]
    pub fn after(done: GtidSet) -> Self {
        Self { done, last: None, open: None, prepared: Vec::new() }
    }

    /// Reads what [`Position::to_json`] wrote.
    pub fn from_json(text: &[u8]) -> Result<Self, Fault> {
        let position: Self = serde_json::from_slice(text)
            .map_err(|error| unreadable(format!("the stored position can't be read: {error}")))?;
        position.check()?;
        Ok(position)
    }

    /// The text to store.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_else(|error| unreachable!("strings and numbers only: {error}"))
    }

    /// All that the source must still have: what is done and what is open.
    #[must_use]
    pub fn seen(&self) -> GtidSet {
        let mut seen = self.done.clone();
        if let Some(open) = &self.open {
            seen.insert(&open.gtid);
        }
        seen
    }

    fn check(&self) -> Result<(), Fault> {
        let last =
            self.last.iter().flat_map(|last| [Some(&last.gtid), last.before.as_ref()]).flatten();
        let prepared = self.prepared.iter().map(|one| &one.transaction.gtid);
        let mut all = last.chain(self.open.iter().map(|open| &open.gtid)).chain(prepared);
        let mixed = all.any(|gtid| {
            !self.done.is_empty()
                && matches!(gtid, Gtid::Mysql { .. }) != matches!(self.done, GtidSet::Mysql(_))
        });
        if mixed {
            return Err(unreadable("the stored position mixes GTIDs of MySQL and of MariaDB"));
        }
        if self.last.as_ref().is_some_and(|last| !self.done.contains(&last.gtid)) {
            return Err(unreadable(
                "the stored position's last transaction is not among those done",
            ));
        }
        if self.open.as_ref().is_some_and(|open| self.done.contains(&open.gtid)) {
            return Err(unreadable("the stored position's open transaction is among those done"));
        }
        if self.prepared.iter().any(|one| !self.done.contains(&one.transaction.gtid)) {
            return Err(unreadable(
                "the stored position's prepared transaction is not among those done",
            ));
        }
        Ok(())
    }
}

fn unreadable(what: impl Into<String>) -> Fault {
    Fault::fatal(Code::PositionUnreadable, what)
        .hint("restore the position record, or see the runbook for how a log begins anew")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position() -> Position {
        Position {
            done: "0-1-40,1-1-2".parse().unwrap(),
            last: Some(Captured {
                gtid: "0-1-40".parse().unwrap(),
                rows: 3,
                digest: Digest(7),
                before: Some("0-1-39".parse().unwrap()),
            }),
            open: Some(Open { gtid: "0-1-41".parse().unwrap(), rows: 1, digest: Digest(u64::MAX) }),
            prepared: vec![],
        }
    }

    #[test]
    fn json_round_trips() {
        let text = position().to_json();
        assert_eq!(
            text,
            r#"{"done":"0-1-40,1-1-2","last":{"gtid":"0-1-40","rows":3,"digest":"0000000000000007","before":"0-1-39"},"open":{"gtid":"0-1-41","rows":1,"digest":"ffffffffffffffff"}}"#
        );
        assert_eq!(Position::from_json(text.as_bytes()).unwrap(), position());
        let transaction = Captured { before: None, ..position().last.unwrap() };
        let prepared = vec![Prepared { xid: "X'61',X'',1".into(), transaction }];
        let waiting = Position { prepared, ..Position::after("0-1-41".parse().unwrap()) };
        let text = waiting.to_json();
        assert_eq!(
            text,
            r#"{"done":"0-1-41","prepared":[{"xid":"X'61',X'',1","transaction":{"gtid":"0-1-40","rows":3,"digest":"0000000000000007"}}]}"#
        );
        assert_eq!(Position::from_json(text.as_bytes()).unwrap(), waiting);
        let fresh = Position::after(GtidSet::mysql());
        assert_eq!(Position::from_json(fresh.to_json().as_bytes()).unwrap(), fresh);
    }

    #[test]
    fn what_is_not_a_position_is_refused() {
        for text in [
            "",
            "{}",
            "null",
            r#"{"done":"x"}"#,
            r#"{"done":"0-1-1","offset":4}"#,
            r#"{"done":"0-1-1","open":{"gtid":"0-1-1","rows":1,"digest":"0000000000000000"}}"#,
            r#"{"done":"0-1-1","open":{"gtid":"0-1-2","rows":1,"digest":"+000000000000000"}}"#,
            r#"{"done":"0-1-1","last":{"gtid":"0-1-2","rows":1,"digest":"0000000000000000"}}"#,
            r#"{"done":"0-1-1","prepared":[{"xid":"X'',X'',1","transaction":{"gtid":"0-1-2","rows":1,"digest":"0000000000000000"}}]}"#,
            r#"{"done":"0-1-1","open":{"gtid":"3e11fa47-71ca-11e1-9e33-c80aa9429562:1","rows":1,"digest":"0000000000000000"}}"#,
        ] {
            let fault = Position::from_json(text.as_bytes()).unwrap_err();
            assert_eq!(fault.code, Code::PositionUnreadable, "{text}");
        }
    }

    #[test]
    fn the_digest_sees_order_table_and_operation() {
        let table = Digest::of_table("shop", "items");
        let digest = |steps: &[(u64, u8, &[u8])]| {
            let mut digest = Digest::default();
            for &(table, operation, images) in steps {
                digest.add(table, operation, images);
            }
            digest
        };
        let one = digest(&[(table, 1, b"a"), (table, 1, b"b")]);
        assert_ne!(one, digest(&[(table, 1, b"b"), (table, 1, b"a")]));
        assert_ne!(one, digest(&[(table, 1, b"a"), (table, 2, b"b")]));
        assert_ne!(one, digest(&[(Digest::of_table("shopi", "tems"), 1, b"a"), (table, 1, b"b")]));
    }
}
