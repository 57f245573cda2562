//! Copied keys: written where, and only where, nothing newer stands.
//!
//! A key is written or removed only if this unit has applied all that the source had applied when it read the key, and no
//! write to it, this unit's own or a third's, lies beyond that. Which writes do is told by this unit's own captured log, read up
//! to a marker that was set while the key was watched: where anybody writes the key behind that, the transaction does
//! nothing, and the key is judged once more. What is in doubt is left as it is and noted in the same transaction
//! ([`super::filling`]), and read again.
//!
//! A key with much in it is built under a name of its own first, in several transactions, and takes its place by a rename.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};
use unitflow_change::copy::{Chunk, Part};
use unitflow_change::name::Log;
use unitflow_change::redis::{INTERNAL_PREFIX, Write, parse_key};
use unitflow_change::seq::Seq;
use unitflow_change::tag::{Tag, is_for};
use unitflow_change::{Code, Fault, inject};
use unitflow_kafka::reader::Record;
use unitflow_redis::client::refusal;

use super::batch::{Place, select};
use super::filling::{self, Note, UNSETTLED};
use super::lane::Lane;
use super::ledger;
use super::own_keys::identity;
use crate::copy::filling::WRITTEN_HERE;
use crate::copy::index::Whose;
use crate::ledger::has_applied;

/// Keys of one transaction.
const KEYS: usize = 200;
/// Bytes of one transaction; a key with more is built aside.
const BYTES: usize = 1 << 20;
/// How long a chunk waits until this unit has applied what its source had applied.
const BEHIND_FOR: Duration = Duration::from_secs(10);
/// For how long none waits then.
const BEHIND_AGAIN: Duration = Duration::from_secs(20);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often a transaction is tried that takes notes back.
const ROUNDS_WITH_NOTES: u32 = 3;
/// How long the own log may take to be read up to now.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);

/// Why a key is left as it is.
mod why {
    /// This unit lacks what the source had applied.
    pub const BEHIND: &str = "behind";
    /// It was written by another unit since, or may have been.
    pub const BEYOND: &str = "written since";
    /// What was written here is no longer known that far back.
    pub const UNKNOWN: &str = "too long ago to judge";
    /// The head of its chunk is gone, so that nobody knows when it was read.
    pub const HEADLESS: &str = "its head is gone";
}

/// A command that makes some of a key.
#[derive(Debug)]
struct Made {
    words: Vec<Vec<u8>>,
    /// Which word is the key.
    place: usize,
}

impl Made {
    /// Whether it gives the key its time.
    fn expires(&self) -> bool {
        self.words.first().is_some_and(|name| name == b"PEXPIREAT")
    }

    /// The same for a key of this name.
    fn of(&self, key: &[u8]) -> Cmd {
        let mut command = Cmd::new();
        for (number, word) in self.words.iter().enumerate() {
            command.arg(if number == self.place { key } else { word });
        }
        command
    }
}

/// A copied key, or the beginning of one.
#[derive(Debug)]
struct Copied {
    db: u32,
    key: Vec<u8>,
    /// As records name it.
    name: String,
    /// What makes it, or the rest of it.
    made: Vec<Made>,
    bytes: usize,
    /// Some of it is built aside.
    aside: bool,
    /// The last record of it, and the offset behind that.
    end: (Seq, i64),
    offset: i64,
}

impl Copied {
    /// Whose the commands are that make it: where one of them does not fit the key is noted.
    fn place(&self) -> Place {
        Place { noted: vec![self.name.clone()], ..Place::at(self.end.0, self.offset) }
    }
}

/// The keys of a chunk that are gathered for one transaction.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// The chunk, and when its keys were read, in µs since 1970.
    chunk: Option<(Chunk, u64)>,
    whole: Vec<Copied>,
    open: Option<Copied>,
    bytes: usize,
    /// In this database something is built aside that does not come to its end.
    broken: Option<u32>,
    /// When third units' lanes were waited for in vain last: for a while nobody waits again.
    behind: Option<Instant>,
}

impl Copies {
    /// Whether keys wait that are whole.
    pub fn waits(&self) -> bool {
        !self.whole.is_empty()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.open.is_none()
    }

    /// A chunk begins, for this unit or for others.
    pub fn begin(&mut self, chunk: Chunk, tag: &Tag<'_>, unit: &str) {
        let ours = chunk.part == Part::Rows && is_for(tag.to, unit);
        self.chunk = ours.then_some((chunk, tag.commit_us));
    }
}

/// Keys that are left as they are, by their places, and why.
type Late = BTreeMap<usize, &'static str>;

impl Lane<'_> {
    /// Another record than one of a copied key comes: what is whole is written, what is not has broken off at its source.
    pub(super) async fn close_copies(&mut self) -> Result<(), Fault> {
        if self.copies.waits() {
            self.apply_copies().await?;
        }
        self.break_off();
        if let Some(db) = self.copies.broken.take() {
            let aside = self.aside();
            self.batch.push_cleanup(db, unlink(&aside));
        }
        Ok(())
    }

    /// The key that is under way does not come to its end.
    fn break_off(&mut self) {
        if let Some(broken) = self.copies.open.take().filter(|broken| broken.aside) {
            self.copies.broken = Some(broken.db);
        }
    }

    /// Takes a record of a copied key.
    pub(super) async fn gather_copy(
        &mut self,
        record: &Record<'_>,
        tag: &Tag<'_>,
    ) -> Result<(), Fault> {
        let end = (tag.seq, record.next_offset());
        let name = record.key().unwrap_or_default();
        if tag.index == 0 {
            self.break_off();
            let (db, key) = parse_key(name)?;
            let name = String::from_utf8_lossy(name).into_owned();
            let (made, offset) = (Vec::new(), record.offset());
            let key = Copied { db, key, name, made, bytes: 0, aside: false, end, offset };
            self.copies.open = Some(key);
        }
        let Some(open) = &mut self.copies.open else {
            // It goes on with what came before this lane began.
            return if tag.last { self.note_headless(name, end).await } else { Ok(()) };
        };
        open.end = end;
        let value = record.value().unwrap_or_default();
        if !value.is_empty() {
            let mut write =
                Write::parse(value).map_err(|fault| fault.at(format!("record {}", tag.seq)))?;
            self.late.put_off(&mut write, tag.commit_us / 1000, self.client.now_us() / 1000);
            let place = write.keys.first().copied().unwrap_or(1);
            let words: Vec<_> = write.cmd.into_iter().map(|word| word.0.into_owned()).collect();
            open.bytes += words.iter().map(Vec::len).sum::<usize>();
            open.made.push(Made { words, place });
        }
        if !tag.last {
            return if open.bytes >= BYTES { self.build_aside().await } else { Ok(()) };
        }
        if let Some(key) = self.copies.open.take() {
            self.copies.bytes += key.bytes;
            self.copies.whole.push(key);
        }
        let is_much = self.copies.whole.len() >= KEYS || self.copies.bytes >= BYTES;
        if is_much { self.apply_copies().await } else { Ok(()) }
    }

    /// Passes over a copied key that nobody can judge.
    async fn note_headless(&mut self, name: &[u8], end: (Seq, i64)) -> Result<(), Fault> {
        let note = self.note(&String::from_utf8_lossy(name), end.0, why::HEADLESS);
        self.metrics.copied(0, 1);
        // What was built aside of it by a lane of before.
        self.copies.broken = Some(parse_key(name)?.0);
        self.commit_or_begin_anew(vec![(None, note.put())], end).await
    }

    /// Commits what can't be judged once more: where it was not done the lane begins anew.
    async fn commit_or_begin_anew(
        &mut self,
        commands: Vec<(Option<Place>, Cmd)>,
        end: (Seq, i64),
    ) -> Result<(), Fault> {
        match self.commit_copies(commands, end).await? {
            true => Ok(()),
            false => {
                Err(Fault::retry(Code::LedgerMoved, "a key that was watched was written since"))
            }
        }
    }

    /// Builds what has come of a key under another name, where nobody looks.
    async fn build_aside(&mut self) -> Result<(), Fault> {
        if self.copies.waits() {
            self.apply_copies().await?;
        }
        let aside = self.aside();
        let Some(open) = &mut self.copies.open else { return Ok(()) };
        let place = open.place();
        let mut commands = vec![(None, select(open.db))];
        if !std::mem::replace(&mut open.aside, true) {
            commands.push((None, unlink(&aside)));
        }
        let made = open.made.drain(..).map(|made| (Some(place.clone()), made.of(&aside)));
        commands.extend(made);
        commands.push((None, select(0)));
        open.bytes = 0;
        let end = open.end;
        self.commit_or_begin_anew(commands, end).await
    }

    /// Writes the gathered keys that may be written, and notes the others.
    pub(super) async fn apply_copies(&mut self) -> Result<(), Fault> {
        self.copies.bytes = 0;
        let copied = std::mem::take(&mut self.copies.whole);
        let Some(end) = copied.last().map(|key| key.end) else { return Ok(()) };
        let mut late = self.judge_first(&copied).await?;
        let mut rounds = 0;
        let written = loop {
            let wanted = wanted(&copied, &late);
            // Others may write notes all the time: where they do, these copies take back none.
            let settled = self.watch_copies(&copied, &wanted, rounds < ROUNDS_WITH_NOTES).await?;
            rounds += 1;
            late.extend(self.judge_again(&copied, &wanted).await?);
            let wanted = self::wanted(&copied, &late);
            inject::die_at("die_while_copying");
            let commands = self.commands_of(&copied, &late, &settled);
            if self.commit_copies(commands, end).await? {
                break wanted.len();
            }
            debug!(keys = wanted.len(), "a key was written here while it was copied");
        };
        self.metrics.copied(written, late.len());
        Ok(())
    }

    /// What writes the keys that are not late, and notes the others.
    fn commands_of(
        &self,
        copied: &[Copied],
        late: &Late,
        settled: &[Note],
    ) -> Vec<(Option<Place>, Cmd)> {
        let aside = self.aside();
        let mut commands = Vec::new();
        let mut db = 0;
        for (number, key) in copied.iter().enumerate() {
            if key.db != db {
                db = key.db;
                commands.push((None, select(db)));
            }
            if late.contains_key(&number) {
                commands.extend(key.aside.then(|| (None, unlink(&aside))));
                continue;
            }
            let place = key.place();
            // What is large is not freed while all wait.
            commands.push((None, unlink(&key.key)));
            if key.aside {
                let (last, made): (Vec<_>, Vec<_>) =
                    key.made.iter().partition(|made| made.expires());
                commands.extend(made.iter().map(|made| (Some(place.clone()), made.of(&aside))));
                let mut rename = redis::cmd("RENAME");
                rename.arg(&aside).arg(&key.key);
                commands.push((Some(place.clone()), rename));
                // A time that has come by now would take it before it is there.
                commands.extend(last.iter().map(|made| (Some(place.clone()), made.of(&key.key))));
            } else {
                let made = key.made.iter().map(|made| (Some(place.clone()), made.of(&key.key)));
                commands.extend(made);
            }
        }
        commands.push((None, select(0)));
        let notes = late.iter().map(|(number, why)| {
            let key = &copied[*number];
            self.note(&key.name, key.end.0, why).put()
        });
        let settled = settled.iter().filter(|note| {
            copied
                .iter()
                .enumerate()
                .any(|(number, key)| key.name == note.key && !late.contains_key(&number))
        });
        let notes: Vec<Cmd> = notes.chain(settled.map(Note::take_back)).collect();
        commands.extend(notes.into_iter().map(|command| (None, command)));
        commands
    }

    fn aside(&self) -> Vec<u8> {
        aside_key(&self.way.road.log, self.lane)
    }

    pub(super) fn note(&self, name: &str, seq: Seq, why: &str) -> Note {
        Note {
            log: self.way.road.log.clone(),
            lane: self.lane,
            key: name.to_owned(),
            seq,
            why: why.to_owned(),
        }
    }

    /// Watches the keys from here on, and reads which of their notes these copies settle.
    async fn watch_copies(
        &mut self,
        copied: &[Copied],
        wanted: &[usize],
        with_notes: bool,
    ) -> Result<Vec<Note>, Fault> {
        if !self.watched {
            self.watch().await?;
        }
        let Some((chunk, _)) = self.copies.chunk.as_ref().filter(|_| !wanted.is_empty()) else {
            return Ok(Vec::new());
        };
        let mut pipeline = Pipeline::new();
        if with_notes {
            pipeline.cmd("WATCH").arg(UNSETTLED);
        }
        let mut db = 0;
        for key in wanted.iter().map(|number| &copied[*number]) {
            if key.db != db {
                db = key.db;
                pipeline.add_command(select(db));
            }
            pipeline.cmd("WATCH").arg(&key.key);
        }
        pipeline.add_command(select(0));
        let before = pipeline.len();
        let names: Vec<&str> = wanted.iter().map(|number| copied[*number].name.as_str()).collect();
        let lanes = &self.way.applied;
        if with_notes {
            filling::ask(&mut pipeline, lanes, &names);
        }
        let answers = self.client.answers(&pipeline).await?;
        if let Some(fault) = answers.iter().find_map(refusal) {
            return Err(fault.at(self.client.place()));
        }
        let notes = filling::answered(&answers[before..], lanes, &names);
        let log = &self.way.road.log;
        Ok(notes.into_iter().filter(|note| note.is_settled_by(chunk, log)).collect())
    }

    /// Executes commands as one with the ledger's move; `false` where a key that is watched was written.
    async fn commit_copies(
        &mut self,
        commands: Vec<(Option<Place>, Cmd)>,
        end: (Seq, i64),
    ) -> Result<bool, Fault> {
        if !self.watched {
            self.watch().await?;
        }
        let (log, lane) = (&self.way.road.log, self.lane);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("MULTI").add_command(ledger::set(log, lane, &self.standing(end, 0))?);
        let mut places = vec![None];
        let broken = self.copies.broken.take();
        let broken = broken.map(|db| [select(db), unlink(&self.aside()), select(0)]);
        let broken = broken.into_iter().flatten().map(|command| (None, command));
        for (place, command) in broken.chain(commands) {
            pipeline.add_command(command);
            places.push(place);
        }
        pipeline.cmd("EXEC");
        let executed = pipeline.len() - 1;
        ledger::watch(log, lane, &mut pipeline);
        self.watched = false;
        let answers = self.client.answers(&pipeline).await?;
        self.watched = true;
        if answers.get(executed) == Some(&Value::Nil) {
            return self.believe(&answers).map(|()| false);
        }
        self.judge(&answers, answers.get(executed), &places).await?;
        self.at = end.0;
        self.believe(&answers)?;
        self.mirror.applied(self.lane, end.1, self.at);
        Ok(true)
    }

    /// Judges before anything is watched: the keys that can't be written.
    async fn judge_first(&mut self, copied: &[Copied]) -> Result<Late, Fault> {
        let all = |why| (0..copied.len()).map(|number| (number, why)).collect();
        let Some((chunk, read_us)) = self.copies.chunk.clone() else {
            return Ok(all(why::HEADLESS));
        };
        if inject::on("copy_overwrites") {
            return Ok(Late::new());
        }
        if !self.wait_for_others(&chunk).await? {
            return Ok(all(why::BEHIND));
        }
        let Some(own) = &self.way.own_log else { return Ok(Late::new()) };
        own.see_logs(self.way.applied.iter().map(|(log, _)| log.clone()));
        own.begin_for(&chunk, read_us, CATCH_UP_WITHIN).await?;
        Ok(self.beyond(None, copied, &(0..copied.len()).collect::<Vec<_>>()))
    }

    /// Judges again with the keys watched: those that were written here meanwhile.
    async fn judge_again(&mut self, copied: &[Copied], wanted: &[usize]) -> Result<Late, Fault> {
        let Some(own) = &self.way.own_log else { return Ok(Late::new()) };
        let Some((_, read_us)) = self.copies.chunk.as_ref().filter(|_| !wanted.is_empty()) else {
            return Ok(Late::new());
        };
        if inject::on("copy_overwrites") {
            return Ok(Late::new());
        }
        let reading = own.catch_up(*read_us, CATCH_UP_WITHIN).await?;
        Ok(self.beyond(Some(reading), copied, wanted))
    }

    /// The keys that can't be written, by what the own log says of them.
    fn beyond(&self, reading: Option<u64>, copied: &[Copied], wanted: &[usize]) -> Late {
        let keys: Vec<_> = wanted
            .iter()
            .map(|number| identity(copied[*number].db, &copied[*number].key))
            .collect();
        let judged = self
            .way
            .own_log
            .as_ref()
            .zip(self.copies.chunk.as_ref())
            .and_then(|(own, (chunk, _))| own.beyond(reading, &keys, chunk));
        let Some(judged) = judged else {
            return wanted.iter().map(|number| (*number, why::UNKNOWN)).collect();
        };
        let late = wanted.iter().zip(judged).filter_map(|(number, whose)| match whose? {
            Whose::Own => Some((*number, WRITTEN_HERE)),
            Whose::Other => Some((*number, why::BEYOND)),
        });
        late.collect()
    }

    /// Waits until this unit has applied what the source had applied of third units; `false` if it takes too long.
    async fn wait_for_others(&mut self, chunk: &Chunk) -> Result<bool, Fault> {
        let begun = Instant::now();
        loop {
            let mut stands = Vec::new();
            for (log, lane) in self.way.applied.iter().filter(|(log, _)| *log != self.way.road.log)
            {
                let answer =
                    self.client.ask(redis::cmd("GET").arg(ledger::key(log, *lane))).await?;
                // One that has not begun here has no keys here.
                if answer != Value::Nil {
                    stands.push((log.clone(), *lane, ledger::read(log, *lane, &answer)?.seq));
                }
            }
            if has_applied(&stands, chunk, &self.way.road.to) {
                self.copies.behind = None;
                return Ok(true);
            }
            if self.copies.behind.is_some_and(|at| at.elapsed() < BEHIND_AGAIN) {
                return Ok(false);
            }
            if begun.elapsed() > BEHIND_FOR {
                warn!(lane = self.lane, "copied keys know more of other units than this one");
                self.copies.behind = Some(Instant::now());
                return Ok(false);
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

fn wanted(copied: &[Copied], late: &Late) -> Vec<usize> {
    (0..copied.len()).filter(|number| !late.contains_key(number)).collect()
}

/// The name under which a key is built that has much in it.
#[must_use]
pub fn aside_key(log: &Log, lane: i32) -> Vec<u8> {
    [INTERNAL_PREFIX, format!("aside:{log}:{lane}").as_bytes()].concat()
}

fn unlink(key: &[u8]) -> Cmd {
    let mut command = redis::cmd("UNLINK");
    command.arg(key);
    command
}
