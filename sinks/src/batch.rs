//! Records gathered for one commit, in the lane's order, in one buffer that is used again.

use std::ops::Range;

use unitflow_change::seq::Seq;
use unitflow_change::tag::{Kind, Tag};

/// A buffer above this is given back.
const BUFFER_BYTES_KEPT: usize = 8 << 20;

/// How much one commit may hold. A source transaction that is larger is applied in several
/// calls inside one commit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows after which a batch is applied at the next end of a source transaction.
    pub rows: usize,
    /// Bytes of keys and values after which a batch is applied at the next end of a source
    /// transaction, and after which a long transaction's part is sent without waiting for it.
    pub bytes: usize,
}

impl Default for Limits {
    /// Measured: beyond some hundreds of rows a commit costs no less a row, and its locks are
    /// held longer.
    fn default() -> Self {
        Self { rows: 1_000, bytes: 2 << 20 }
    }
}

/// One gathered record.
#[derive(Clone, Debug)]
pub struct Slot {
    /// What it is.
    pub kind: Kind,
    /// Its number.
    pub seq: Seq,
    /// Its offset in the tagged topic.
    pub offset: i64,
    /// Whether its source transaction ends here in this lane.
    pub last: bool,
    /// When the source committed it, in µs since 1970.
    pub commit_us: u64,
    key: Range<usize>,
    value: Range<usize>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

impl Batch {
    /// Adds the lane's next record.
    pub fn push(&mut self, offset: i64, tag: &Tag<'_>, key: &[u8], value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.slots.push(Slot {
            kind: tag.kind,
            seq: tag.seq,
            offset,
            last: tag.last,
            commit_us: tag.commit_us,
            key: start..middle,
            value: middle..self.bytes.len(),
        });
    }

    /// Forgets all records and keeps the buffers, unless a large record made them large.
    pub fn clear(&mut self) {
        if self.bytes.capacity() > BUFFER_BYTES_KEPT {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.slots.clear();
    }

    /// Forgets this record and all behind it.
    pub fn truncate(&mut self, place: usize) {
        if let Some(slot) = self.slots.get(place) {
            self.bytes.truncate(slot.key.start);
            self.slots.truncate(place);
        }
    }

    /// The records in order.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// A record's key bytes.
    #[must_use]
    pub fn key(&self, slot: &Slot) -> &[u8] {
        &self.bytes[slot.key.clone()]
    }

    /// A record's value bytes.
    #[must_use]
    pub fn value(&self, slot: &Slot) -> &[u8] {
        &self.bytes[slot.value.clone()]
    }

    /// Whether the record at this place is of a copied row that is gone at its source.
    #[must_use]
    pub fn is_gone(&self, place: usize) -> bool {
        self.value(&self.slots[place]).is_empty()
    }

    /// The last record.
    #[must_use]
    pub fn last(&self) -> Option<&Slot> {
        self.slots.last()
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the last record ends its source transaction in this lane.
    #[must_use]
    pub fn ends_a_transaction(&self) -> bool {
        self.last().is_some_and(|slot| slot.last)
    }

    /// Whether no more should be gathered before it is applied.
    #[must_use]
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.bytes.len() >= limits.bytes
            || (self.slots.len() >= limits.rows && self.ends_a_transaction())
    }
}
