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
#[derive(Debug, Default)]
pub struct Held {
    /// Whether the rest is meant.
    pub full: bool,
    /// Where a restart would have to begin to see this record again.
    pub offset: i64,
    /// The captured record before it.
    pub before: Seq,
    seq: Seq,
    index: u64,
    commit_us: u64,
    after: String,
    transaction: String,
    /// The record's key.
    pub key: Vec<u8>,
    /// The record's value.
    pub value: Vec<u8>,
}

impl Held {
    /// Takes a record's place and content.
    pub fn take(&mut self, offset: i64, before: Seq, tag: &Tag<'_>, key: &[u8], value: &[u8]) {
        self.full = true;
        self.offset = offset;
        self.before = before;
        self.seq = tag.seq;
        self.index = tag.index;
        self.commit_us = tag.commit_us;
        self.after.clear();
        self.after.push_str(tag.after.as_str());
        self.transaction.clear();
        self.transaction.push_str(tag.transaction);
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
            kind: Kind::Row,
            seq: self.seq,
            prev,
            transaction: &self.transaction,
            index: self.index,
            last,
            commit_us: self.commit_us,
            after: Afters::parse(&self.after).unwrap_or_default(),
            to: "",
        }
    }
}
