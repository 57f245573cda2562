//! The function itself: one captured record in, tagged records out.
//!
//! Guarantees, for any way the input may repeat or be cut:
//!
//! * a captured record at or below the last one is dropped; one that does not follow it stops;
//! * within a partition, numbers rise and each record names the one before it;
//! * no record of an applied transaction, of an internal table (the heartbeat aside) or of what
//!   the routing leaves out is put out;
//! * the bytes of a change of which all travels pass through untouched;
//! * run again from [`State`], it puts out what is missing and nothing twice. Only what an insert
//!   waits for may then be more than it would have been: see [`gone`](crate::gone).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use unitflow_change::ddl::Statement;
use unitflow_change::envelope::{Envelope, Op};
use unitflow_change::form;
use unitflow_change::key::Key;
use unitflow_change::routing::Routing;
use unitflow_change::seq::{Seq, Step, step};
use unitflow_change::tag::{After, Afters, Kind, Tag};
use unitflow_change::{Code, Fault};

use crate::ddl::{Memory, Verdict};
use crate::filter::{Filter, Left};
use crate::gone::Gone;
use crate::hold::Held;
use crate::mark::Whose;
use crate::route::{Router, Rule};

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
    /// What schema changes before `offset` leave to be remembered.
    #[serde(default, skip_serializing_if = "Memory::is_empty")]
    pub schema: Memory,
}

impl State {
    /// Before the log's first record.
    #[must_use]
    pub fn start() -> Self {
        Self {
            offset: 0,
            seq: Seq::NONE,
            tails: Vec::new(),
            open: None,
            routing: None,
            schema: Memory::default(),
        }
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
    schema: Memory,
    held: Vec<Held>,
    gone: Gone,
    counts: Counts,
}

impl Transformer {
    /// Goes on from `state`.
    #[must_use]
    pub fn new(state: State) -> Self {
        let mut held = Vec::new();
        held.resize_with(state.tails.len(), Held::default);
        Self {
            gone: Gone::after_restart(state.seq, &state.tails),
            offset: state.offset,
            seq: state.seq,
            tails: state.tails,
            open: state.open,
            router: state.routing.map(Router::new),
            schema: state.schema,
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
            schema: self.schema.clone(),
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
            Kind::Copy => self.copied(record, out),
            Kind::Barrier => {
                // The rest of a transaction is lost where the log was begun anew inside it.
                self.open = None;
                self.flush(out)?;
                self.start_generation(record)?;
                self.copy_to_every(record, out)
            }
            kind if self.open.is_some() => Err(Fault::fatal(
                Code::Record,
                format!(
                    "captured record {} ({kind:?}) stands inside a transaction",
                    record.tag.seq
                ),
            )),
            Kind::Watermark => self.copy_to_every(record, out),
            Kind::Ddl => self.schema_change(record, out),
            Kind::Routing => self.reroute(record),
            Kind::Chunk => self.begin_chunk(record, out),
            Kind::Command | Kind::Expiry => Err(Fault::fatal(
                Code::Record,
                format!("captured record {} is of a Redis store", record.tag.seq),
            )),
        }
    }

    /// One statement: it may be a sink's, or nobody else's business, or arrive in other words.
    fn schema_change(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        let statement = Statement::parse(record.value)?;
        let router = self.router.as_mut().ok_or_else(no_barrier)?;
        router.forget();
        let verdict = self.schema.judge(&statement, router.routing());
        // CREATE TABLE … SELECT: its rows follow in the same transaction.
        let applied = matches!(verdict, Verdict::Applied(_));
        let whose = if applied { Whose::Applied } else { Whose::Own };
        self.open = (!record.tag.last).then_some(whose);
        self.counts.echoes += u64::from(applied);
        match verdict {
            Verdict::Stays => {
                self.counts.filtered += 1;
                Ok(())
            }
            Verdict::Travels => self.copy_to_every(record, out),
            Verdict::TravelsAs(other) | Verdict::Applied(other) => {
                let value = form::value_like(record.value, other.to_json().as_bytes())?;
                self.copy_to_every(&Captured { value: &value, ..*record }, out)
            }
        }
    }

    /// The head of copied rows: it stands before those of every lane, and in those without any too.
    fn begin_chunk(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        if self.router.is_none() {
            return Err(no_barrier());
        }
        self.open = (!record.tag.last).then_some(Whose::Copied);
        for lane in 0..self.held.len() {
            self.hold_as_it_is(
                partition(lane),
                record,
                &record.tag,
                record.key,
                record.value,
                out,
            )?;
        }
        if record.tag.last { self.flush(out) } else { Ok(()) }
    }

    /// One copied row, which goes the way of the changes of its key; an empty value says that there
    /// is none.
    fn copied(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        if self.open != Some(Whose::Copied) {
            return Err(misplaced(record, self.open));
        }
        let row = form::plain_key(record.key)?;
        let rule = self.router.as_mut().ok_or_else(no_barrier)?.rule(&row)?;
        if rule.carried {
            self.spread_copy(record, &row, &rule, out)?;
        } else {
            self.counts.filtered += 1;
        }
        if record.tag.last {
            self.open = None;
            self.flush(out)?;
        }
        Ok(())
    }

    fn spread_copy(
        &mut self,
        record: &Captured<'_>,
        row: &[u8],
        rule: &Rule,
        out: &mut impl Output,
    ) -> Result<(), Fault> {
        let key = rule.key(row)?;
        let gone = record.value.is_empty();
        if gone && (rule.by_row || rule.filter.as_ref().is_some_and(Filter::chooses)) {
            // Which lane, or whether it would travel, only the row could tell.
            self.counts.filtered += 1;
            return Ok(());
        }
        if gone || (rule.filter.is_none() && !rule.by_row) {
            let lane = self.router()?.lane_of_key(&rule.by, &key)?;
            return self.hold(lane, record, &record.tag, &key, record.value, out);
        }
        if Envelope::stands_for_larger(record.value)? {
            return self.spread_larger(record, &record.tag, rule, &key, out);
        }
        let envelope = Envelope::parse(record.value)?;
        let left = match &rule.filter {
            Some(filter) => filter.narrow(&envelope, record.value)?,
            None => Some(Left { op: envelope.op, value: record.value.into() }),
        };
        let Some(Left { op: Op::Read, value }) = left else {
            self.counts.filtered += 1;
            return Ok(());
        };
        let lane = self.router()?.lane(&rule.by, &key, envelope.after.as_ref())?;
        self.hold(lane, record, &record.tag, &key, &value, out)
    }

    /// One row: decides whose the transaction is at its first record, and ends it at its last.
    fn change(&mut self, record: &Captured<'_>, out: &mut impl Output) -> Result<(), Fault> {
        let router = self.router.as_mut().ok_or_else(no_barrier)?;
        let row = form::plain_key(record.key)?;
        let rule = router.rule(&row)?;
        let whose = match (record.tag.index, self.open) {
            (0, None) => rule.first_says,
            (1.., Some(whose)) => whose,
            (_, open) => return Err(misplaced(record, open)),
        };
        self.open = Some(whose);
        match whose {
            Whose::Copied => return Err(misplaced(record, self.open)),
            Whose::Applied => {
                self.counts.echoes += 1;
                if rule.announces {
                    self.schema.note(record.value)?;
                }
            }
            Whose::Own if !rule.carried => self.counts.filtered += 1,
            Whose::Own if self.schema.has_shadows() && self.schema.shades(&row)? => {
                self.counts.filtered += 1;
            }
            Whose::Own if rule.clock && Envelope::parse(record.value)?.op != Op::Update => {
                self.counts.filtered += 1;
            }
            Whose::Own => self.spread(record, &row, &rule, out)?,
        }
        if record.tag.last {
            self.open = None;
            self.flush(out)?;
        }
        Ok(())
    }

    /// Gives what is left of an own change its lane; an update that leaves its key or its lane
    /// becomes two. `row` is its plain key, in the unit's names.
    fn spread(
        &mut self,
        record: &Captured<'_>,
        row: &[u8],
        rule: &Rule,
        out: &mut impl Output,
    ) -> Result<(), Fault> {
        let by = &rule.by;
        let key = rule.key(row)?;
        let stays = record.tag.kind == Kind::Row;
        if stays && rule.filter.is_none() && !rule.by_row {
            let lane = self.router()?.lane_of_key(by, &key)?;
            return self.hold(lane, record, &record.tag, &key, record.value, out);
        }
        if Envelope::stands_for_larger(record.value)? {
            let tag = Tag { kind: Kind::Row, ..record.tag };
            return self.spread_larger(record, &tag, rule, &key, out);
        }
        let envelope = Envelope::parse(record.value)?;
        let left = match &rule.filter {
            Some(filter) => filter.narrow(&envelope, record.value)?,
            None => Some(Left { op: envelope.op, value: record.value.into() }),
        };
        let Some(Left { op, value }) = left else {
            self.counts.filtered += 1;
            return Ok(());
        };
        let (old, new) = (envelope.before.as_ref(), envelope.after.as_ref());
        let new_key = match new {
            Some(row) if !stays => {
                let mut moved = Vec::with_capacity(key.len());
                Key::parse(&key)?.of_row(row, &mut moved)?;
                Cow::Owned(moved)
            }
            _ => Cow::Borrowed(&*key),
        };
        match op {
            Op::Read => Err(misplaced(record, self.open)),
            Op::Insert => {
                let lane = self.router()?.lane(by, &new_key, new)?;
                let waits = self.waits(rule, &new_key, lane, record.tag.seq);
                let mut text = String::new();
                let tag = Tag { after: Afters::write(&waits, &mut text), ..record.tag };
                self.hold(lane, record, &tag, &new_key, &value, out)
            }
            Op::Delete => {
                let lane = self.router()?.lane(by, &key, old)?;
                self.note_deleted(rule, &key, lane, record.tag.seq);
                self.hold(lane, record, &record.tag, &key, &value, out)
            }
            Op::Update => {
                let from = self.router()?.lane(by, &key, old)?;
                let to = self.router()?.lane(by, &new_key, new)?;
                if stays && from == to {
                    return self.hold(to, record, &record.tag, &key, &value, out);
                }
                self.split(record, rule, (from, to), (&key, &new_key), &value, out)
            }
        }
    }

    /// What stands for a row that is too large to travel: what it changes nobody knows, so it goes
    /// where it is refused; it shows nothing of the row. Where only the row says which lane that is, it
    /// goes to all, and whatever is inserted from here on may be the row that left one of them.
    fn spread_larger(
        &mut self,
        record: &Captured<'_>,
        tag: &Tag<'_>,
        rule: &Rule,
        key: &[u8],
        out: &mut impl Output,
    ) -> Result<(), Fault> {
        if !rule.by_row {
            let lane = self.router()?.lane_of_key(&rule.by, key)?;
            return self.hold(lane, record, tag, key, record.value, out);
        }
        self.gone.anywhere(tag.seq);
        (0..self.held.len())
            .try_for_each(|place| self.hold(partition(place), record, tag, key, record.value, out))
    }

    /// An update that leaves its key or its lane: a delete, and behind it an insert that waits for
    /// the delete where another lane has it.
    fn split(
        &mut self,
        record: &Captured<'_>,
        rule: &Rule,
        (from, to): (i32, i32),
        (old_key, new_key): (&[u8], &[u8]),
        value: &[u8],
        out: &mut impl Output,
    ) -> Result<(), Fault> {
        let (delete, insert) = Envelope::split(value)?;
        self.note_deleted(rule, old_key, from, record.tag.seq);
        self.hold(from, record, &record.tag, old_key, &delete, out)?;
        let seq = record.tag.seq.second_half();
        let half = After { lane: from, seq: record.tag.seq };
        let mut waits = self.waits(rule, new_key, to, seq);
        if from != to && !waits.contains(&half) {
            waits.push(half);
        }
        let mut text = String::new();
        let tag = Tag { seq, after: Afters::write(&waits, &mut text), ..record.tag };
        self.hold(to, record, &tag, new_key, &insert, out)
    }

    /// A key may come back in another lane where more than the key says which.
    fn note_deleted(&mut self, rule: &Rule, key: &[u8], lane: i32, seq: Seq) {
        if rule.by_row {
            self.gone.deleted(key, After { lane, seq });
        }
    }

    /// What the insert `seq` of this key has to wait for. What was put out before waits for what it
    /// was told then.
    fn waits(&mut self, rule: &Rule, key: &[u8], lane: i32, seq: Seq) -> Vec<After> {
        let tail = usize::try_from(lane).ok().and_then(|place| self.tails.get(place));
        if rule.by_row && tail.is_some_and(|tail| seq > *tail) {
            self.gone.inserted(key, lane)
        } else {
            Vec::new()
        }
    }

    /// Puts out what the lane held, which has a successor now, and holds this record in its place.
    /// `key` is plain, and travels in the form of the record's.
    fn hold(
        &mut self,
        lane: i32,
        record: &Captured<'_>,
        tag: &Tag<'_>,
        key: &[u8],
        value: &[u8],
        out: &mut impl Output,
    ) -> Result<(), Fault> {
        let key = form::key_like(record.key, key)?;
        self.hold_as_it_is(lane, record, tag, &key, value, out)
    }

    fn hold_as_it_is(
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
        self.gone = Gone::new(partitions);
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
        self.router.as_ref().ok_or_else(no_barrier)
    }
}

pub(crate) fn no_barrier() -> Fault {
    Fault::fatal(Code::Record, "the captured log does not begin with a barrier")
}

fn misplaced(record: &Captured<'_>, open: Option<Whose>) -> Fault {
    Fault::fatal(
        Code::Record,
        format!(
            "captured record {} is number {} of its transaction, but {open:?} is open",
            record.tag.seq, record.tag.index
        ),
    )
}

fn partition(place: usize) -> i32 {
    i32::try_from(place).unwrap_or(i32::MAX)
}

pub(crate) fn gap(last: Seq, record: &Captured<'_>) -> Fault {
    Fault::fatal(
        Code::Gap,
        format!(
            "captured record {} at offset {} follows {}, but the last one read was {last}",
            record.tag.seq, record.offset, record.tag.prev
        ),
    )
    .hint("the captured topic lost records or was written by another hand; see the runbook")
}
