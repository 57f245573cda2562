//! Stores that are being filled with another unit's keys, and keys that could not be settled yet.
//!
//! | key | of | is |
//! |---|---|---|
//! | `unitflow:filling` | a log whose unit's keys count | how far the store is filled with them, by which command, and why: `copying full 18ec4e52 anna: new unit`, then `settling …` |
//! | `unitflow:unsettled` | log, lane and key: `A.cache 0 [0,"user:7"]` | the last record that was not applied to it, and why: `281474976710660 written here since` |
//!
//! Both are hashes in database 0. While the first is there, a command that does not fit what a key holds is noted in the second:
//! the key is read again where it counts. A command takes what is wrong from one key to another: until all keys were read
//! once, every key of a command with several is noted, and later those of one with a key that is. Until then a key is noted
//! too that a command may have emptied: it goes without a word, and may come again behind the scan.
//!
//! The authority's own store has the first, too, as if it were being copied all the time: what its targets' applications did with
//! keys that were not settled there is noted when it comes. In third units it says that the store is settling.

use redis::{Cmd, Value};
use unitflow_change::copy::Chunk;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault};
use unitflow_redis::Client;

/// The hash of what fills the store.
pub const FILLING: &[u8] = b"unitflow:filling";
/// The hash of what is not settled.
pub const UNSETTLED: &[u8] = b"unitflow:unsettled";

/// How far a store is filled; the least of all that fill it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It is not being filled.
    #[default]
    Filled,
    /// All keys were read once; those that are noted are read again.
    Settling,
    /// Any key may be wrong.
    Copying,
}

impl Phase {
    /// By the values of the hash, as the server answers.
    #[must_use]
    pub fn of(answer: &Value) -> Self {
        let Value::Array(values) = answer else { return Self::Filled };
        let phases = values.iter().map(|value| match value {
            Value::BulkString(text) if text.starts_with(b"settling") => Self::Settling,
            _ => Self::Copying,
        });
        phases.max().unwrap_or_default()
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filled => "filled",
            Self::Settling => "settling",
            Self::Copying => "copying",
        }
    }
}

/// A record that was not applied to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whose it is.
    pub log: Log,
    /// Its lane.
    pub lane: i32,
    /// The key, as records name it.
    pub key: String,
    /// The record.
    pub seq: Seq,
    /// In a word or two.
    pub why: String,
}

impl Note {
    fn field(log: &Log, lane: i32, key: &str) -> String {
        format!("{log} {lane} {key}")
    }

    /// Reads a field and its value; nothing where they are none of ours.
    fn parse(field: &str, value: &str) -> Option<Self> {
        let mut words = field.splitn(3, ' ');
        let (log, lane, key) = (words.next()?, words.next()?, words.next()?);
        let (seq, why) = value.split_once(' ')?;
        Some(Self {
            log: Log::parse(log)?,
            lane: lane.parse().ok()?,
            key: key.to_owned(),
            seq: Seq(seq.parse().ok()?),
            why: why.to_owned(),
        })
    }

    /// The command that writes it.
    #[must_use]
    pub fn put(&self) -> Cmd {
        let mut command = redis::cmd("HSET");
        command.arg(UNSETTLED).arg(Self::field(&self.log, self.lane, &self.key));
        command.arg(format!("{} {}", self.seq, self.why));
        command
    }

    /// The command that takes it back.
    #[must_use]
    pub fn take_back(&self) -> Cmd {
        let mut command = redis::cmd("HDEL");
        command.arg(UNSETTLED).arg(Self::field(&self.log, self.lane, &self.key));
        command
    }

    /// Whether a copy that stands behind it in its log, or whose source has applied it, holds what was not applied.
    #[must_use]
    pub fn is_settled_by(&self, chunk: &Chunk, copied: &Log) -> bool {
        self.log == *copied || chunk.applied(&self.log, self.lane) >= self.seq
    }
}

/// Asks for the notes of some keys that lanes may have written: one command a lane, in database 0.
pub(super) fn ask(pipeline: &mut redis::Pipeline, lanes: &[(Log, i32)], keys: &[&str]) {
    for (log, lane) in lanes {
        let ask = pipeline.cmd("HMGET").arg(UNSETTLED);
        for key in keys {
            ask.arg(Note::field(log, *lane, key));
        }
    }
}

/// The notes in the answers to [`ask`].
pub(super) fn answered(answers: &[Value], lanes: &[(Log, i32)], keys: &[&str]) -> Vec<Note> {
    let mut notes = Vec::new();
    for ((log, lane), answer) in lanes.iter().zip(answers) {
        let Value::Array(values) = answer else { continue };
        for (key, value) in keys.iter().zip(values) {
            let Value::BulkString(value) = value else { continue };
            let field = Note::field(log, *lane, key);
            notes.extend(Note::parse(&field, &String::from_utf8_lossy(value)));
        }
    }
    notes
}

/// What fills a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filler {
    /// How far.
    pub phase: Phase,
    /// Whether with all keys, or only some.
    pub whole: bool,
    /// The command's own name.
    pub token: String,
    /// By whom, and why.
    pub said: String,
}

impl Filler {
    /// As the hash has it.
    fn text(&self) -> String {
        let what = if self.whole { "full" } else { "keys" };
        format!("{} {what} {} {}", self.phase.as_str(), self.token, self.said)
    }

    /// Reads it; what cannot be read is of a newer build, and may be anything.
    fn parse(text: &str) -> Self {
        let mut words = text.splitn(4, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (phase, what, token, said) = (word(), word(), word(), word());
        let phase = if phase == "settling" { Phase::Settling } else { Phase::Copying };
        Self { phase, whole: what != "keys", token, said }
    }
}

/// What fills the store, by log.
///
/// # Errors
/// Those of the connection, and what the server refuses.
pub async fn fillers(client: &mut Client) -> Result<Vec<(String, Filler)>, Fault> {
    let found = texts(client.ask(redis::cmd("HGETALL").arg(FILLING)).await?)?;
    Ok(found.into_iter().map(|(log, text)| (log, Filler::parse(&text))).collect())
}

/// The store is being filled with the keys of a log's unit.
///
/// # Errors
/// Those of the connection, and what the server refuses.
pub async fn set(client: &mut Client, log: &Log, filler: &Filler) -> Result<(), Fault> {
    let mut command = redis::cmd("HSET");
    client.ask(command.arg(FILLING).arg(log.to_string()).arg(filler.text())).await.map(drop)
}

/// What came of the end of a filling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The store is filled.
    Yes,
    /// A key is noted.
    Unsettled,
    /// Another command fills it by now, which ends it.
    ByAnother,
    /// Nothing says any more that it is being filled: meanwhile changes may not have been noted.
    Unknown,
}

/// The store is filled by this command, unless a key is noted; or, where notes do not count, in any case.
///
/// # Errors
/// Those of the connection, and what the server refuses.
pub async fn end(
    client: &mut Client,
    log: &Log,
    token: &str,
    notes_count: bool,
) -> Result<Ended, Fault> {
    loop {
        client.ask(redis::cmd("WATCH").arg(UNSETTLED).arg(FILLING)).await?;
        let known = fillers(client).await?.into_iter().find(|(known, _)| *known == log.to_string());
        let ended = match known {
            None => Some(Ended::Unknown),
            Some((_, filler)) if filler.token != token => Some(Ended::ByAnother),
            Some(_) if notes_count && count(client).await? > 0 => Some(Ended::Unsettled),
            Some(_) => None,
        };
        if let Some(ended) = ended {
            client.ask(&redis::cmd("UNWATCH")).await?;
            return Ok(ended);
        }
        let mut pipeline = redis::Pipeline::new();
        pipeline.cmd("MULTI").cmd("HDEL").arg(FILLING).arg(log.to_string()).cmd("EXEC");
        let answers = client.answers(&pipeline).await?;
        match answers.iter().find_map(unitflow_redis::client::refusal) {
            Some(fault) => return Err(fault.at(client.place())),
            None if answers.last() == Some(&Value::Nil) => {}
            None => return Ok(Ended::Yes),
        }
    }
}

/// Some of the notes, each as it is written and as it is read; all where there are no more than about `most`.
///
/// # Errors
/// Those of the connection, and what the server refuses.
pub async fn notes(
    client: &mut Client,
    most: usize,
) -> Result<Vec<(Written, Option<Note>)>, Fault> {
    let mut notes = Vec::new();
    let mut cursor = 0_u64;
    loop {
        let scan =
            client.ask(redis::cmd("HSCAN").arg(UNSETTLED).arg(cursor).arg("COUNT").arg(most)).await;
        let (next, found): (u64, Value) = redis::from_redis_value(scan?).map_err(|_| odd())?;
        notes.extend(texts(found)?.into_iter().map(|(field, value)| {
            let note = Note::parse(&field, &value);
            (Written { field, value }, note)
        }));
        cursor = next;
        if cursor == 0 || notes.len() >= most {
            return Ok(notes);
        }
    }
}

/// A note as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    field: String,
    value: String,
}

/// Takes notes back that are as they were read; those that were written anew since stay.
///
/// # Errors
/// Those of the connection, and what the server refuses.
pub async fn forget(client: &mut Client, notes: &[Written]) -> Result<(), Fault> {
    if notes.is_empty() {
        return Ok(());
    }
    loop {
        let mut asked = redis::cmd("HMGET");
        asked.arg(UNSETTLED);
        notes.iter().for_each(|note| _ = asked.arg(&note.field));
        client.ask(redis::cmd("WATCH").arg(UNSETTLED)).await?;
        let found: Vec<Option<String>> =
            redis::from_redis_value(client.ask(&asked).await?).map_err(|_| odd())?;
        let mut pipeline = redis::Pipeline::new();
        pipeline.cmd("MULTI");
        for (note, found) in notes.iter().zip(found) {
            if found.as_ref() == Some(&note.value) {
                pipeline.cmd("HDEL").arg(UNSETTLED).arg(&note.field);
            }
        }
        pipeline.cmd("EXEC");
        let answers = client.answers(&pipeline).await?;
        match answers.iter().find_map(unitflow_redis::client::refusal) {
            Some(fault) => return Err(fault.at(client.place())),
            None if answers.last() == Some(&Value::Nil) => {}
            None => return Ok(()),
        }
    }
}

/// How many notes there are.
///
/// # Errors
/// Those of the connection, and what the server refuses.
pub async fn count(client: &mut Client) -> Result<u64, Fault> {
    let answer = client.ask(redis::cmd("HLEN").arg(UNSETTLED)).await?;
    redis::from_redis_value(answer).map_err(|_| odd())
}

fn texts(answer: Value) -> Result<Vec<(String, String)>, Fault> {
    redis::from_redis_value(answer).map_err(|_| odd())
}

fn odd() -> Fault {
    Fault::fatal(Code::StreamCorrupt, "the server answers with what is none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_filled_counts() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let of =
            |values: &[&str]| Phase::of(&Value::Array(values.iter().map(|v| text(v)).collect()));
        assert_eq!(of(&[]), Phase::Filled);
        assert_eq!(of(&["settling keys 1 anna: x"]), Phase::Settling);
        assert_eq!(of(&["settling keys 1 anna: x", "copying full 2 bert: y"]), Phase::Copying);
        assert_eq!(of(&["of a newer build"]), Phase::Copying);
    }

    #[test]
    fn fillers_are_read_as_they_are_written() {
        let (token, said) = ("18ec".to_owned(), "anna: new unit".to_owned());
        let filler = Filler { phase: Phase::Settling, whole: true, token, said };
        assert_eq!(filler.text(), "settling full 18ec anna: new unit");
        assert_eq!(Filler::parse(&filler.text()), filler);
        let newer = Filler::parse("of a newer build");
        assert!(newer.whole && newer.phase == Phase::Copying);
    }

    #[test]
    fn notes_are_read_as_they_are_written() {
        let note = Note {
            log: Log::parse("A.cache").unwrap(),
            lane: 0,
            key: r#"[0,"a b"]"#.into(),
            seq: Seq(7),
            why: "written here since".into(),
        };
        let field = Note::field(&note.log, note.lane, &note.key);
        assert_eq!(field, r#"A.cache 0 [0,"a b"]"#);
        assert_eq!(Note::parse(&field, "7 written here since").unwrap(), note);
        for (field, value) in [("", ""), ("A.cache 0", "7 x"), ("A.cache x k", "7 x")] {
            assert!(Note::parse(field, value).is_none());
        }
    }
}
