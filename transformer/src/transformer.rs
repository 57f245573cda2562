//! The function itself: one captured record in, tagged records out.
//!
//! Guarantees, for any way the input may repeat or be cut:
//!
//! * a captured record at or below the last one is dropped; one that does not follow it stops;
//! * within a partition, numbers rise and each record names the one before it;
//! * no record of an applied transaction, of an internal table (the heartbeat aside) or of a
//!   table that the routing leaves out is put out;
//! * run again from [`State`], it puts out what is missing and nothing twice.

use serde::{Deserialize, Serialize};
use unitflow_change::envelope::{Envelope, Op};
use unitflow_change::key::Key;
use unitflow_change::routing::{PartitionBy, Routing};
use unitflow_change::seq::{Seq, Step, step};
use unitflow_change::tag::{After, Kind, Tag};
use unitflow_change::{Code, Fault};

use crate::ddl::{Statement, travels};
use crate::hold::Held;
use crate::mark::Whose;
use crate::route::Router;

/// One record of the captured topic.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// Its offset.
    pub offset: i64,
    /// The offset after it; a large record takes several.
    pub next_offset: i64,
    /// Its header.
    pub tag: Tag<'a>,
    /// Its key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// Takes what the transformer puts out, in order.
pub trait Output {
    /// Puts one record at the end of a partition of the tagged topic. What was put is durable only
    /// together with the [`State`] that follows it; a fault ends the transformer.
    fn put(&mut self, partition: i32, tag: &Tag<'_>, key: &[u8], value: &[u8])
    -> Result<(), Fault>;
}

/// What a restart needs; stored in the same Kafka transaction as the records put out so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The captured offset to read next.
    pub offset: i64,
    /// The captured record before that offset.
    pub seq: Seq,
    /// The last record of each partition of the tagged topic.
    pub tails: Vec<Seq>,
    /// Whose the transaction is that is open at `offset`, if one is.
    pub open: Option<Whose>,
    /// The routing in force at `offset`; none before the first barrier.
    pub routing: Option<Routing>,
}

impl State {
    /// Before the log's first record.
    #[must_use]
    pub fn start() -> Self {
        Self { offset: 0, seq: Seq::NONE, tails: Vec::new(), open: None, routing: None }
    }
}

/// What was seen so far, for metrics. Counts of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Captured records read.
    pub read: u64,
    /// Records put out.
    pub put: u64,
    /// Changes of other units that came back by the store's log and were stopped here.
    pub echoes: u64,
    /// Own changes that the routing leaves out.
    pub filtered: u64,
    /// Records read again and dropped.
    pub repeated: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Transformer {
    offset: i64,
    seq: Seq,
    tails: Vec<Seq>,
    open: Option<Whose>,
    router: Option<Router>,
    held: Vec<Held>,
    counts: Counts,
}

impl Transformer {
    /// Goes on from `state`.
    #[must_use]
    pub fn new(state: State) -> Self {
        let mut held = Vec::new();
        held.resize_with(state.tails.len(), Held::default);
        Self {
            offset: state.offset,
            seq: state.seq,
            tails: state.tails,
            open: state.open,
            router: state.routing.map(Router::new),
            held,
            counts: Counts::default(),
        }
    }

    /// What was seen since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What a restart needs after all that was put out so far: the first held record is read
    /// again, and it stands in an own transaction, for only such records are held.
    #[must_use]
    pub fn state(&self) -> State {
        let first_held = self.held.iter().filter(|held| held.full).min_by_key(|held| held.offset);
        let (offset, seq, open) = match first_held {
            // The transaction's first record decides for itself whose it is.
            Some(held) => (
                held.offset,
                held.before,
                self.open.filter(|_| held.tag(Seq::NONE, false).index > 0),
            ),
            None => (self.offset, self.seq, self.open),
        };
        State {
            offset,
            seq,
            tails: self.tails.clone(),
            open,
            routing: self.router.as_ref().map(|router| router.routing().clone()),
        }
    }

    /// Takes the next captured record.
    pub fn step(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        self.counts.read += 1;
        match step(self.seq, record.tag.seq, record.tag.prev) {
            Step::Seen => self.counts.repeated += 1,
            Step::Gap => return Err(gap(self.seq, record)),
            Step::Next => {
                self.dispatch(record, out)?;
                self.seq = record.tag.seq;
            }
        }
        self.offset = record.next_offset;
        Ok(())
    }

    fn dispatch(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        match record.tag.kind {
            Kind::Row | Kind::Move => self.change(record, out),
            kind if self.open.is_some() => Err(Fault::fatal(
                Code::Record,
                format!(
                    "captured record {} ({kind:?}) stands inside a transaction",
                    record.tag.seq
                ),
            )),
            Kind::Watermark => self.copy_to_every(record, out),
            Kind::Ddl => {
                let statement: Statement =
                    serde_json::from_slice(record.value).map_err(|error| {
                        Fault::fatal(
                            Code::Record,
                            format!("a statement record can't be read: {error}"),
                        )
                    })?;
                // CREATE TABLE … SELECT: its rows follow in the same transaction.
                self.open = (!record.tag.last).then_some(Whose::Own);
                if travels(&statement.ddl) { self.copy_to_every(record, out) } else { Ok(()) }
            }
            Kind::Barrier => {
                self.start_generation(record)?;
                self.copy_to_every(record, out)
            }
            Kind::Routing => self.reroute(record),
        }
    }

    /// One row: decides whose the transaction is at its first record, and ends it at its last.
    fn change(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        let router = self.router.as_mut().ok_or_else(|| {
            Fault::fatal(Code::Record, "the captured log does not begin with a barrier")
        })?;
        let rule = router.rule(record.key)?;
        let whose = match (record.tag.index, self.open) {
            (0, None) => rule.first_says,
            (1.., Some(whose)) => whose,
            (index, open) => {
                return Err(Fault::fatal(
                    Code::Record,
                    format!(
                        "captured record {} is number {index} of its transaction, but {open:?} is open",
                        record.tag.seq
                    ),
                ));
            }
        };
        self.open = Some(whose);
        match whose {
            Whose::Applied => self.counts.echoes += 1,
            Whose::Own if !rule.carried => self.counts.filtered += 1,
            Whose::Own if rule.clock && Envelope::parse(record.value)?.op != Op::Update => {
                self.counts.filtered += 1;
            }
            Whose::Own => {
                let by = rule.by.clone();
                self.spread(record, &by, out)?;
            }
        }
        if record.tag.last {
            self.open = None;
            self.flush(out)?;
        }
        Ok(())
    }

    /// Gives an own change its lane; one that leaves its key or its lane becomes two.
    fn spread(
        &mut self,
        record: &Captured<'_>,
        by: &PartitionBy,
        out: &mut impl Output,
    ) -> Result<(), Fault> {
        let columns = matches!(by, PartitionBy::Columns(_));
        if record.tag.kind == Kind::Row && !columns {
            let lane = self.router()?.lane(by, record.key, None)?;
            return self.hold(lane, record, &record.tag, record.key, record.value, out);
        }
        let envelope = Envelope::parse(record.value)?;
        let old = envelope.before.as_ref();
        let new = envelope.after.as_ref();
        let (Op::Update, Some(before), Some(after)) = (envelope.op, old, new) else {
            let lane = self.router()?.lane(by, record.key, old.or(new))?;
            return self.hold(lane, record, &record.tag, record.key, record.value, out);
        };
        let from = self.router()?.lane(by, record.key, Some(before))?;
        let mut key = record.key.to_vec();
        if record.tag.kind == Kind::Move {
            Key::parse(record.key)?.of_row(after, &mut key)?;
        }
        let to = self.router()?.lane(by, &key, Some(after))?;
        if record.tag.kind == Kind::Row && from == to {
            return self.hold(to, record, &record.tag, record.key, record.value, out);
        }
        self.split(record, (from, to), &key, out)
    }

    /// An update that leaves its key or its lane: a delete, and behind it an insert that waits for
    /// the delete where another lane has it.
    fn split(
        &mut self,
        record: &Captured<'_>,
        (from, to): (i32, i32),
        new_key: &[u8],
        out: &mut impl Output,
    ) -> Result<(), Fault> {
        let (delete, insert) = Envelope::split(record.value)?;
        self.hold(from, record, &record.tag, record.key, &delete, out)?;
        let tag = Tag {
            seq: record.tag.seq.second_half(),
            after: (from != to).then_some(After { lane: from, seq: record.tag.seq }),
            ..record.tag
        };
        self.hold(to, record, &tag, new_key, &insert, out)
    }

    /// Puts out what the lane held, which has a successor now, and holds this record in its place.
    fn hold(
        &mut self,
        lane: i32,
        record: &Captured<'_>,
        tag: &Tag<'_>,
        key: &[u8],
        value: &[u8],
        out: &mut impl Output,
    ) -> Result<(), Fault> {
        let place = usize::try_from(lane).unwrap_or(usize::MAX);
        if tag.seq <= self.tails[place] {
            self.counts.repeated += 1;
            return Ok(());
        }
        self.put_held(place, false, out)?;
        self.held[place].take(record.offset, self.seq, tag, key, value);
        Ok(())
    }

    /// Puts out all that is held: the transaction has no further record.
    fn flush(&mut self, out: &mut impl Output) -> Result<(), Fault> {
        (0..self.held.len()).try_for_each(|place| self.put_held(place, true, out))
    }

    fn put_held(&mut self, place: usize, last: bool, out: &mut impl Output) -> Result<(), Fault> {
        let held = &mut self.held[place];
        if !held.full {
            return Ok(());
        }
        held.full = false;
        let tag = held.tag(self.tails[place], last);
        out.put(partition(place), &tag, &held.key, &held.value)?;
        self.tails[place] = tag.seq;
        self.counts.put += 1;
        Ok(())
    }

    /// Copies the record to every partition that does not have it yet.
    fn copy_to_every(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        for (place, tail) in self.tails.iter_mut().enumerate() {
            if record.tag.seq <= *tail {
                continue;
            }
            let tag = Tag { prev: *tail, last: true, ..record.tag };
            out.put(partition(place), &tag, record.key, record.value)?;
            *tail = record.tag.seq;
            self.counts.put += 1;
        }
        Ok(())
    }

    fn start_generation(&mut self, record: &Captured<'_>) -> Result<(), Fault> {
        let routing = Routing::parse(record.value)?;
        let partitions = usize::try_from(routing.partitions).unwrap_or(0);
        if !self.tails.is_empty() && self.tails.len() != partitions {
            return Err(Fault::fatal(
                Code::Routing,
                format!(
                    "the log has {} lanes and its next generation {partitions}",
                    self.tails.len()
                ),
            ));
        }
        self.tails.resize(partitions, Seq::NONE);
        self.held.resize_with(partitions, Held::default);
        self.router = Some(Router::new(routing));
        Ok(())
    }

    fn reroute(&mut self, record: &Captured<'_>) -> Result<(), Fault> {
        let next = Routing::parse(record.value)?;
        if !self.router()?.routing().leads_to(&next) {
            return Err(Fault::fatal(
                Code::Routing,
                format!(
                    "captured record {} moves keys between lanes inside a generation",
                    record.tag.seq
                ),
            ));
        }
        self.router = Some(Router::new(next));
        Ok(())
    }

    fn router(&self) -> Result<&Router, Fault> {
        self.router.as_ref().ok_or_else(|| {
            Fault::fatal(Code::Record, "the captured log does not begin with a barrier")
        })
    }
}

fn partition(place: usize) -> i32 {
    i32::try_from(place).unwrap_or(i32::MAX)
}

fn gap(last: Seq, record: &Captured<'_>) -> Fault {
    Fault::fatal(
        Code::Gap,
        format!(
            "captured record {} at offset {} follows {}, but the last one read was {last}",
            record.tag.seq, record.offset, record.tag.prev
        ),
    )
    .hint("the captured topic lost records or was written by another hand; see the runbook")
}
