//! The function over a Redis log: one captured command in, at most one tagged command out.
//!
//! Guarantees, for any way the input may repeat or be cut:
//!
//! * a captured record at or below the last one is dropped; one that does not follow it stops;
//! * no write of a sink, of Unitflow's own keys or of keys that the keyspace leaves out is put out;
//! * the writes of a transaction stay together and in order, and travel bytes for bytes, but for deletions by which a server
//!   may say that a key has expired: of these the record says so;
//! * run again from [`State`] and what was put into the index with it, it puts out what is missing and nothing twice.
//!
//! # Expiry
//!
//! A server that finds a key expired deletes it and tells its replicas so by a plain `DEL` (Valkey: `UNLINK`), the same as a
//! client's. Carried out as it is it would delete in another unit what that has renewed. So the function knows when keys
//! expire, from the commands and the snapshot, and of the deletion of one that is due the record says so ([`unitflow_change::redis::Due`]): a
//! target deletes the key only if it would have expired there by then. Left out it must not be, for what comes
//! behind it works on what is left when the key is gone, and a target may come to that sooner by its clock. A
//! collection whose last element may have been taken is *doubtful*: it may have gone and come back without an expiry. Its
//! deletion is carried out where the key does not expire later.

mod expiry;

use serde::{Deserialize, Serialize};
use unitflow_change::redis::{Due, Expiries, Keyspace, LEDGER_PREFIX, Write, parse_key, write_key};
use unitflow_change::seq::{Seq, Step, step};
use unitflow_change::tag::{Kind, Tag};
use unitflow_change::{Code, Fault};

use crate::transformer::{Captured, Counts, Output, gap, no_barrier};

pub use expiry::{Expiry, Index};

/// A deletion so soon after a doubtful key was due is its expiry.
const FOUND_WITHIN_MS: u64 = 1_000;
/// How many deletions may stand before a sink's mark.
const DELETIONS_BEFORE_MARK: usize = 64;

/// What a restart needs beside the index; stored in the same Kafka transaction as the records put out so far. It never
/// stands inside a transaction of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The captured offset to read next.
    pub offset: i64,
    /// The captured record before that offset.
    pub seq: Seq,
    /// The last record of each partition of the tagged topic.
    pub tails: Vec<Seq>,
    /// What travels; none before the first barrier.
    pub keyspace: Option<Keyspace>,
}

impl State {
    /// Before the log's first record.
    #[must_use]
    pub fn start() -> Self {
        Self { offset: 0, seq: Seq::NONE, tails: Vec::new(), keyspace: None }
    }
}

/// Whose the transaction is that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Nobody knows yet: only deletions came so far.
    Unknown,
    Own,
    /// A sink's.
    Applied,
}

/// A record that waits.
#[derive(Debug, Default)]
struct Held {
    kind: Option<Kind>,
    seq: Seq,
    transaction: String,
    index: u64,
    commit_us: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Held {
    /// Its place in the log; key and value are to be filled in.
    fn of(record: &Captured<'_>) -> Self {
        let tag = &record.tag;
        Self {
            kind: Some(tag.kind),
            seq: tag.seq,
            transaction: tag.transaction.to_owned(),
            index: tag.index,
            commit_us: tag.commit_us,
            key: Vec::new(),
            value: Vec::new(),
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Transformer {
    state: State,
    index: Index,
    open: Option<Whose>,
    /// Deletions at a transaction's begin of which nobody knows yet whose they are.
    undecided: Vec<Held>,
    /// What goes out once it is known whether its transaction has another.
    held: Held,
    counts: Counts,
}

impl Transformer {
    /// Goes on from `state`, with what is known of expiry times.
    #[must_use]
    pub fn new(state: State, index: Index) -> Self {
        Self {
            state,
            index,
            open: None,
            undecided: Vec::new(),
            held: Held::default(),
            counts: Counts::default(),
        }
    }

    /// What was seen since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether a transaction has begun and not ended: then there is no state to store.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.open.is_some()
    }

    /// What a restart needs after all that was put out so far, between two transactions.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What is known of expiry times; what changed in it is to be stored with the state.
    pub fn index(&mut self) -> &mut Index {
        &mut self.index
    }

    /// Takes the next captured record.
    pub fn step(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        self.counts.read += 1;
        match step(self.state.seq, record.tag.seq, record.tag.prev) {
            Step::Seen => self.counts.repeated += 1,
            Step::Gap => return Err(gap(self.state.seq, record)),
            Step::Next => {
                self.dispatch(record, out)?;
                self.state.seq = record.tag.seq;
            }
        }
        self.state.offset = record.next_offset;
        Ok(())
    }

    fn dispatch(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        match record.tag.kind {
            Kind::Command => self.command(record, out),
            kind if self.open.is_some() => Err(Fault::fatal(
                Code::Record,
                format!(
                    "captured record {} ({kind:?}) stands inside a transaction",
                    record.tag.seq
                ),
            )),
            Kind::Barrier => {
                let keyspace = Keyspace::parse(record.value)?;
                // What is known of expiry times follows anew.
                self.index.forget_all();
                self.state
                    .tails
                    .resize(usize::try_from(keyspace.partitions).unwrap_or(1), Seq::NONE);
                self.state.keyspace = Some(keyspace);
                self.copy_to_every(record, out)
            }
            Kind::Routing => {
                self.state.keyspace = Some(Keyspace::parse(record.value)?);
                Ok(())
            }
            Kind::Watermark | Kind::Chunk => self.copy_to_every(record, out),
            Kind::Copy => self.copied(record, out),
            Kind::Expiry => {
                let Expiries { db, expires } = Expiries::parse(record.value)?;
                expires.iter().for_each(|(key, ms)| self.index.expires(db, &key.0, *ms));
                Ok(())
            }
            kind => Err(Fault::fatal(
                Code::Record,
                format!(
                    "captured record {} ({kind:?}) has no place in a Redis log",
                    record.tag.seq
                ),
            )),
        }
    }

    /// A part of a copied key travels as it is. What the copy says of its expiry was said when the key got it.
    fn copied(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        let keyspace = self.state.keyspace.as_ref().ok_or_else(no_barrier)?;
        let (_, key) = parse_key(record.key)?;
        if !keyspace.carries(&key) {
            self.counts.filtered += 1;
            return Ok(());
        }
        let tail = self.state.tails.first_mut().ok_or_else(no_barrier)?;
        out.put(0, &Tag { prev: *tail, ..record.tag }, record.key, record.value)?;
        *tail = record.tag.seq;
        self.counts.put += 1;
        Ok(())
    }

    /// One command: decides whose the transaction is, and ends it at its last.
    fn command(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        if self.state.keyspace.is_none() {
            return Err(no_barrier());
        }
        let mut write = Write::parse(record.value)?;
        if (record.tag.index == 0) != self.open.is_none() {
            return Err(Fault::fatal(
                Code::Record,
                format!(
                    "captured record {} is number {} of its transaction, but {:?} is open",
                    record.tag.seq, record.tag.index, self.open
                ),
            ));
        }
        let whose = self.whose(&write);
        self.open = Some(whose);
        write.due = self.due(&write, record.tag.commit_us / 1000);
        self.index.learn(&write, record.tag.commit_us / 1000);
        match whose {
            Whose::Applied => self.counts.echoes += 1,
            Whose::Unknown | Whose::Own => self.own(record, write, out)?,
        }
        if record.tag.last {
            self.end(out)?;
        }
        Ok(())
    }

    /// Whose the open transaction is, with this command in it.
    fn whose(&mut self, write: &Write<'_>) -> Whose {
        match self.open {
            Some(whose @ (Whose::Own | Whose::Applied)) => whose,
            _ if write.is("SET") && write.word(1).starts_with(LEDGER_PREFIX) => {
                self.counts.echoes += self.undecided.len() as u64;
                self.undecided.clear();
                Whose::Applied
            }
            _ if is_deletion(write) && self.undecided.len() < DELETIONS_BEFORE_MARK => {
                Whose::Unknown
            }
            _ => Whose::Own,
        }
    }

    /// When the key of a deletion was to expire, if that was before.
    fn due(&self, write: &Write<'_>, now_ms: u64) -> Option<Due> {
        if !is_deletion(write) || write.keys.len() != 1 {
            return None;
        }
        let expiry =
            self.index.get(write.db, write.word(1)).filter(|expiry| expiry.ms <= now_ms)?;
        // A server finds most keys within a second.
        let sure = !expiry.doubtful || now_ms - expiry.ms <= FOUND_WITHIN_MS;
        Some(Due { ms: expiry.ms, sure })
    }

    fn own(
        &mut self,
        record: &Captured<'_>,
        mut write: Write<'_>,
        out: &mut impl Output,
    ) -> Result<(), Fault> {
        let keys = write.keys.len();
        if !self.narrow(&mut write)? {
            self.counts.filtered += 1;
            return Ok(());
        }
        let mut held = Held::of(record);
        if write.keys.len() == keys && write.due.is_none() {
            held.key.extend_from_slice(record.key);
            held.value.extend_from_slice(record.value);
        } else {
            write_key(&mut held.key, write.db, write.keys().next().unwrap_or_default());
            write.write(&mut held.value);
        }
        if self.open == Some(Whose::Unknown) {
            self.undecided.push(held);
            return Ok(());
        }
        self.decide(out)?;
        self.hold(held, out)
    }

    /// What of a command travels; `false` if nothing does. One that deletes or sets several keys travels for those that do; the
    /// connector lets no other pass of which only some do.
    fn narrow(&self, write: &mut Write<'_>) -> Result<bool, Fault> {
        let keyspace = self.state.keyspace.as_ref().ok_or_else(no_barrier)?;
        let carried = write.keys().filter(|key| keyspace.carries(key)).count();
        if carried == write.keys.len() {
            return Ok(carried > 0);
        }
        if carried == 0 {
            return Ok(false);
        }
        let words = match () {
            () if is_deletion(write) => 1,
            () if write.is("MSET") => 2,
            () => {
                return Err(Fault::fatal(
                    Code::Command,
                    format!(
                        "{} has keys of which only some travel",
                        String::from_utf8_lossy(write.word(0))
                    ),
                ));
            }
        };
        let mut left = vec![write.cmd[0].clone()];
        for place in &write.keys {
            if keyspace.carries(write.word(*place)) {
                left.extend_from_slice(&write.cmd[*place..*place + words]);
            }
        }
        write.keys = (1..left.len()).step_by(words).collect();
        write.cmd = left;
        Ok(true)
    }

    fn end(&mut self, out: &mut impl Output) -> Result<(), Fault> {
        self.decide(out)?;
        self.open = None;
        self.put_held(true, out)
    }

    /// The deletions at the transaction's begin are the unit's own.
    fn decide(&mut self, out: &mut impl Output) -> Result<(), Fault> {
        for held in std::mem::take(&mut self.undecided) {
            self.hold(held, out)?;
        }
        Ok(())
    }

    fn hold(&mut self, held: Held, out: &mut impl Output) -> Result<(), Fault> {
        self.put_held(false, out)?;
        self.held = held;
        Ok(())
    }

    fn put_held(&mut self, last: bool, out: &mut impl Output) -> Result<(), Fault> {
        let Some(kind) = self.held.kind.take() else { return Ok(()) };
        let tail = self.state.tails.first_mut().ok_or_else(no_barrier)?;
        let held = &self.held;
        let tag = Tag {
            kind,
            seq: held.seq,
            prev: *tail,
            transaction: &held.transaction,
            index: held.index,
            last,
            commit_us: held.commit_us,
            after: Default::default(),
            to: "",
        };
        out.put(0, &tag, &held.key, &held.value)?;
        *tail = held.seq;
        self.counts.put += 1;
        Ok(())
    }

    fn copy_to_every(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        for (partition, tail) in (0..).zip(&mut self.state.tails) {
            let tag = Tag { prev: *tail, last: true, ..record.tag };
            out.put(partition, &tag, record.key, record.value)?;
            *tail = record.tag.seq;
            self.counts.put += 1;
        }
        Ok(())
    }
}

fn is_deletion(write: &Write<'_>) -> bool {
    write.is("DEL") || write.is("UNLINK")
}

#[cfg(test)]
mod tests;
