//! Keeps a lane's last record back until it is known whether its transaction has another there.
//!
//! A sink commits where a source transaction ends in its lane, so each record says whether it is
//! the last of its transaction in its partition; only the next record, or the transaction's end,
//! tells. What is held is never part of the durable state: a restart begins at the first record
//! that was held, and what was already put out is dropped by its number.

use unitflow_change::seq::Seq;
use unitflow_change::tag::{Afters, Kind, Tag};

/// A buffer above this is given back after a large record.
const BUFFER_BYTES_KEPT: usize = 8 << 20;

/// A record that waits for its successor. Buffers are used again.
#[derive(Debug)]
pub struct Held {
    /// Whether the rest is meant.
    pub full: bool,
    /// Where a restart would have to begin to see this record again.
    pub offset: i64,
    /// The captured record before it.
    pub before: Seq,
    kind: Kind,
    seq: Seq,
    index: u64,
    commit_us: u64,
    after: String,
    transaction: String,
    to: String,
    /// The record's key.
    pub key: Vec<u8>,
    /// The record's value.
    pub value: Vec<u8>,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            full: false,
            offset: 0,
            before: Seq::NONE,
            kind: Kind::Row,
            seq: Seq::NONE,
            index: 0,
            commit_us: 0,
            after: String::new(),
            transaction: String::new(),
            to: String::new(),
            key: Vec::new(),
            value: Vec::new(),
        }
    }
}

impl Held {
    /// Takes a record's place and content.
    pub fn take(&mut self, offset: i64, before: Seq, tag: &Tag<'_>, key: &[u8], value: &[u8]) {
        self.full = true;
        self.offset = offset;
        self.before = before;
        // What a lane sees of a move is a row.
        self.kind = if tag.kind == Kind::Move { Kind::Row } else { tag.kind };
        self.seq = tag.seq;
        self.index = tag.index;
        self.commit_us = tag.commit_us;
        self.after.clear();
        self.after.push_str(tag.after.as_str());
        self.transaction.clear();
        self.transaction.push_str(tag.transaction);
        self.to.clear();
        self.to.push_str(tag.to);
        self.key.clear();
        self.key.extend_from_slice(key);
        if self.value.capacity() > BUFFER_BYTES_KEPT {
            self.value = Vec::new();
        }
        self.value.clear();
        self.value.extend_from_slice(value);
    }

    /// The tag it is put out with.
    #[must_use]
    pub fn tag(&self, prev: Seq, last: bool) -> Tag<'_> {
        Tag {
            kind: self.kind,
            seq: self.seq,
            prev,
            transaction: &self.transaction,
            index: self.index,
            last,
            commit_us: self.commit_us,
            after: Afters::parse(&self.after).unwrap_or_default(),
            to: &self.to,
        }
    }
}
