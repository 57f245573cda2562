//! Stores that are being filled with another unit's keys, and keys that could not be settled yet.
//!
//! | key | of | is |
//! |---|---|---|
//! | `unitflow:filling` | a log whose unit's keys count | how far the store is filled with them, by which command, in which units, and why: `copying full 18ec4e52 B,C anna: new unit`, then `settling …` |
//! | `unitflow:unsettled` | log, lane and key: `A.cache 0 [0,"user:7"]` | the last record that was not applied to it, and why: `281474976710660 written here since` |
//! | `unitflow:spread` | log, lane and record | the keys that this record's command wrote together, as a JSON array |
//!
//! All are hashes in database 0. While the first is there, a command that does not fit what a key holds is noted in the second:
//! the key is read again where it counts. A command takes what is wrong from one key to another: until all keys were read
//! once, every key of a command with several is noted, and later it stands in the third which keys it wrote together. Until then a
//! key is noted too that a command may have emptied: it goes without a word, and may come again behind the scan.
//!
//! The other units' stores have the first, too. There it counts for what comes from the units that are filled: their applications work
//! with keys that are wrong. It may not fit, and is noted; and so is in the authority what they did with several keys at once, for
//! these may be wrong where it was done.

use std::collections::BTreeSet;

use redis::{Cmd, Value};
use unitflow_change::copy::Chunk;
use unitflow_change::name::{Log, Name};
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault};
use unitflow_redis::Client;

/// The hash of what fills the store.
pub const FILLING: &[u8] = b"unitflow:filling";
/// The hash of what is not settled.
pub const UNSETTLED: &[u8] = b"unitflow:unsettled";
/// The hash of keys that were written together.
const SPREAD: &[u8] = b"unitflow:spread";

/// What a lane notes, the least of it first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing: no store is filled that its commands come from or go to.
    #[default]
    Filled,
    /// What does not fit.
    Misfits,
    /// That, and which keys were written together. All keys were read once.
    Spreading,
    /// What does not fit, keys that were written together, and keys that may have been emptied.
    Emptying,
    /// That, and keys whose time has come elsewhere. Any key may be wrong.
    Copying,
}

impl Phase {
    /// By what fills a store, as the server answers, for a lane of this log in a unit.
    #[must_use]
    pub fn of(answer: &Value, lane: &Log, here: &Name) -> Self {
        if matches!(answer, Value::Array(fields) if fields.is_empty()) {
            return Self::Filled;
        }
        let fillers: Vec<(String, String)> =
            redis::from_redis_value(answer.clone()).unwrap_or_default();
        let phases = fillers.iter().map(|(log, text)| {
            let filler = Filler::parse(text);
            match filler.phase {
                phase if filler.is_to(here) => phase,
                _ if !filler.is_to(&lane.unit) => Self::Filled,
                Self::Copying if is_of(log, here) => Self::Emptying,
                phase if is_of(log, here) => phase,
                _ => Self::Misfits,
            }
        });
        phases.max().unwrap_or_default()
    }
}

fn is_of(log: &str, unit: &Name) -> bool {
    Log::parse(log).is_some_and(|log| log.unit == *unit)
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

/// The command that says which keys a record's command wrote together.
#[must_use]
pub fn together(log: &Log, lane: i32, seq: Seq, keys: &[String]) -> Cmd {
    let mut command = redis::cmd("HSET");
    command.arg(SPREAD).arg(format!("{log} {lane} {seq}"));
    command.arg(serde_json::to_string(keys).unwrap_or_default());
    command
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

/// What fills stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filler {
    /// How far: [`Phase::Copying`] or [`Phase::Spreading`].
    pub phase: Phase,
    /// Whether with all keys, or only some.
    pub whole: bool,
    /// The command's own name.
    pub token: String,
    /// The units that are filled; all where that is not known.
    pub to: BTreeSet<String>,
    /// By whom, and why.
    pub said: String,
}

impl Filler {
    /// Whether this unit is filled.
    #[must_use]
    pub fn is_to(&self, unit: &Name) -> bool {
        self.to.is_empty() || self.to.contains(unit.as_str())
    }

    /// As the hash has it.
    fn text(&self) -> String {
        let phase = if self.phase == Phase::Spreading { "settling" } else { "copying" };
        let what = if self.whole { "full" } else { "keys" };
        let to = self.to.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        format!("{phase} {what} {} {to} {}", self.token, self.said)
    }

    /// Reads it; what cannot be read is of a newer build, and may be anything.
    fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.splitn(5, ' ').collect();
        let (phase, what, token, to, said) = match words[..] {
            [phase @ ("copying" | "settling"), what, token, to, said] => {
                (phase, what, token, to, said)
            }
            _ => ("copying", "full", "", "", text),
        };
        Self {
            phase: if phase == "settling" { Phase::Spreading } else { Phase::Copying },
            whole: what != "keys",
            token: token.to_owned(),
            to: to.split(',').filter(|unit| !unit.is_empty()).map(str::to_owned).collect(),
            said: said.to_owned(),
        }
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

/// The store is being filled with the keys of a log's unit. Where a token is named it has to be that of the command that
/// does so by now; `false`, and nothing done, if it is not.
///
/// # Errors
/// Those of the connection, and what the server refuses.
pub async fn set(
    client: &mut Client,
    log: &Log,
    filler: &Filler,
    over: Option<&str>,
) -> Result<bool, Fault> {
    loop {
        client.ask(redis::cmd("WATCH").arg(FILLING)).await?;
        let known = fillers(client).await?.into_iter().find(|(known, _)| *known == log.to_string());
        let known = known.map(|(_, filler)| filler.token);
        if over.is_some_and(|token| known.as_deref() != Some(token)) {
            client.ask(&redis::cmd("UNWATCH")).await?;
            return Ok(false);
        }
        let mut pipeline = redis::Pipeline::new();
        pipeline.cmd("MULTI").cmd("HSET").arg(FILLING).arg(log.to_string()).arg(filler.text());
        pipeline.cmd("EXEC");
        let answers = client.answers(&pipeline).await?;
        match answers.iter().find_map(unitflow_redis::client::refusal) {
            Some(fault) => return Err(fault.at(client.place())),
            None if answers.last() == Some(&Value::Nil) => {}
            None => return Ok(true),
        }
    }
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
    /// Nothing says any more that it is being filled: it was given up, or the store went back in time.
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
        let mut watch = redis::cmd("WATCH");
        watch.arg(FILLING);
        if notes_count {
            watch.arg(UNSETTLED);
        }
        client.ask(&watch).await?;
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
            None => {
                client.ask(redis::cmd("UNLINK").arg(SPREAD)).await?;
                return Ok(Ended::Yes);
            }
        }
    }
}

/// Forgets that the store is being filled with the keys of a log's unit, and what is noted, whatever is left undone.
///
/// # Errors
/// Those of the connection, and what the server refuses.
pub async fn give_up(client: &mut Client, log: &Log) -> Result<(), Fault> {
    client.ask(redis::cmd("HDEL").arg(FILLING).arg(log.to_string())).await?;
    client.ask(redis::cmd("UNLINK").arg(UNSETTLED).arg(SPREAD)).await.map(drop)
}

/// What a command takes out of a store's hashes, where lanes go on writing others.
#[derive(Debug, Default)]
pub struct Taken {
    /// Notes.
    pub notes: Vec<Note>,
    /// Keys that were written together.
    pub together: Vec<Vec<String>>,
}

/// Takes what was written together, and the notes as well if told so. Until [`forget_taken`] it stands in hashes of the command's
/// own, so that whoever takes its place finds it.
///
/// # Errors
/// Those of the connection, and what the server refuses.
pub async fn take(client: &mut Client, token: &str, notes: bool) -> Result<Taken, Fault> {
    let hashes = [SPREAD, UNSETTLED].into_iter().take(if notes { 2 } else { 1 });
    for hash in hashes {
        let taken = taken(hash, token);
        let mut exist = redis::Pipeline::new();
        exist.cmd("EXISTS").arg(&taken).cmd("EXISTS").arg(hash);
        // What was taken last, and is not done with, comes first.
        if client.answers(&exist).await?[..] == [Value::Int(0), Value::Int(1)] {
            client.ask(redis::cmd("RENAME").arg(hash).arg(&taken)).await?;
        }
    }
    let fields = async |client: &mut Client, hash: &[u8]| {
        let (mut all, mut cursor) = (Vec::new(), 0_u64);
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(taken(hash, token)).arg(cursor).arg("COUNT").arg(1_000);
            let (next, found): (u64, Value) =
                redis::from_redis_value(client.ask(&scan).await?).map_err(|_| odd())?;
            all.extend(texts(found)?);
            cursor = next;
            if cursor == 0 {
                return Ok::<_, Fault>(all);
            }
        }
    };
    let together = fields(client, SPREAD).await?;
    let notes = fields(client, UNSETTLED).await?;
    Ok(Taken {
        notes: notes.iter().filter_map(|(field, value)| Note::parse(field, value)).collect(),
        together: together.iter().filter_map(|(_, keys)| serde_json::from_str(keys).ok()).collect(),
    })
}

/// What was taken is done with.
///
/// # Errors
/// Those of the connection, and what the server refuses.
pub async fn forget_taken(client: &mut Client, token: &str) -> Result<(), Fault> {
    let (spread, notes) = (taken(SPREAD, token), taken(UNSETTLED, token));
    client.ask(redis::cmd("UNLINK").arg(spread).arg(notes)).await.map(drop)
}

fn taken(hash: &[u8], token: &str) -> Vec<u8> {
    [hash, b":", token.as_bytes()].concat()
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
    fn a_mark_counts_for_what_comes_to_or_from_units_that_are_filled() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let of = |text: &str, lane: &str, here: &str| {
            let fields = ["A.cache", text].map(|text| Value::BulkString(text.as_bytes().to_vec()));
            Phase::of(&Value::Array(fields.into()), &Log::parse(lane).unwrap(), &name(here))
        };
        let (copying, settling) = ("copying full 1 B anna: x", "settling keys 1 B anna: x");
        assert_eq!(of(copying, "A.cache", "B"), Phase::Copying);
        assert_eq!(of(settling, "C.cache", "B"), Phase::Spreading);
        assert_eq!(of(copying, "B.cache", "A"), Phase::Emptying);
        assert_eq!(of(settling, "B.cache", "A"), Phase::Spreading);
        assert_eq!(of(copying, "B.cache", "C"), Phase::Misfits);
        // What these two write is theirs to settle.
        assert_eq!(of(copying, "C.cache", "A"), Phase::Filled);
        assert_eq!(of(copying, "A.cache", "C"), Phase::Filled);
        assert_eq!(of("of a newer build", "A.cache", "C"), Phase::Copying);
        let none = Value::Array(Vec::new());
        assert_eq!(Phase::of(&none, &Log::parse("A.cache").unwrap(), &name("B")), Phase::Filled);
    }

    #[test]
    fn fillers_are_read_as_they_are_written() {
        let filler = Filler {
            phase: Phase::Spreading,
            whole: true,
            token: "18ec".into(),
            to: ["B", "C"].map(str::to_owned).into(),
            said: "anna: new unit".into(),
        };
        assert_eq!(filler.text(), "settling full 18ec B,C anna: new unit");
        assert_eq!(Filler::parse(&filler.text()), filler);
        let newer = Filler::parse("of a newer build");
        assert!(newer.whole && newer.phase == Phase::Copying && newer.to.is_empty());
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
