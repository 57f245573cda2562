//! Commands gathered for one transaction at the target.

use redis::{Cmd, Pipeline, Value};
use unitflow_change::redis::Write;
use unitflow_change::seq::Seq;

/// Commands after which a batch is applied at the next end of a source transaction.
const COMMANDS: usize = 1_000;
/// Bytes of their words after which it is.
const BYTES: usize = 1 << 20;

/// A command's place in its log and its topic.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its number.
    pub seq: Seq,
    /// Its offset.
    pub offset: i64,
    /// What it answers where it did nothing, though it did something at its source.
    pub idle: Option<Idle>,
    /// The keys that are to be noted where it does not fit, as records name them; none where that is a conflict.
    pub noted: Vec<String>,
}

impl Place {
    /// Of a command of which nothing more is to be known.
    #[must_use]
    pub fn at(seq: Seq, offset: i64) -> Self {
        Self { seq, offset, idle: None, noted: Vec::new() }
    }
}

/// An answer that says that nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// 0.
    Zero,
    /// Nothing.
    Nil,
}

impl Idle {
    /// What a command answers where it does nothing; none where that can't be told.
    #[must_use]
    pub fn of(write: &Write<'_>) -> Option<Self> {
        let zero =
            ["SETNX", "MSETNX", "HSETNX", "RENAMENX", "COPY", "MOVE", "PEXPIREAT", "PERSIST"];
        if zero.iter().any(|name| write.is(name)) {
            return Some(Self::Zero);
        }
        let has = |option: &[u8]| {
            write.cmd.iter().skip(3).any(|word| word.0.eq_ignore_ascii_case(option))
        };
        (write.is("SET") && (has(b"NX") || has(b"XX")) && !has(b"GET")).then_some(Self::Nil)
    }

    /// Whether an answer is this one.
    #[must_use]
    pub fn is(self, answer: &Value) -> bool {
        match self {
            Self::Zero => *answer == Value::Int(0),
            Self::Nil => *answer == Value::Nil,
        }
    }
}

/// See the [module](self).
#[derive(Default)]
pub struct Batch {
    commands: Vec<Cmd>,
    /// Of each command, the record that it stands for; none for what only chooses a database.
    places: Vec<Option<Place>>,
    db: u32,
    bytes: usize,
    records: usize,
    /// Whether the last record ends its source transaction.
    ends: bool,
    /// When the source committed the last write.
    committed_us: u64,
    /// Whether a key is watched for it: it should be applied soon.
    hurries: bool,
}

impl Batch {
    /// Adds a write.
    pub fn push(&mut self, place: Place, write: &Write<'_>) {
        self.choose(write.db);
        let mut command = Cmd::new();
        for word in &write.cmd {
            self.bytes += word.0.len();
            command.arg(&*word.0);
        }
        self.commands.push(command);
        self.places.push(Some(place));
    }

    /// Adds a command that stands for no record, in database 0.
    pub fn push_note(&mut self, note: Cmd) {
        self.push_cleanup(0, note);
    }

    /// Adds a command that stands for no record, in this database.
    pub fn push_cleanup(&mut self, db: u32, command: Cmd) {
        self.choose(db);
        self.commands.push(command);
        self.places.push(None);
    }

    /// A record was taken, whether or not it brought commands.
    pub fn took(&mut self, ends: bool, committed_us: u64) {
        self.records += 1;
        self.ends = ends;
        self.committed_us = committed_us;
    }

    fn choose(&mut self, db: u32) {
        if self.db != db {
            self.commands.push(select(db));
            self.places.push(None);
            self.db = db;
        }
    }

    /// Whether nothing was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// How many records were taken.
    #[must_use]
    pub fn records(&self) -> usize {
        self.records
    }

    /// When the source committed the last write, in µs since 1970.
    #[must_use]
    pub fn committed_us(&self) -> u64 {
        self.committed_us
    }

    /// Whether it may be applied: its last record ends a source transaction.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.ends && self.records > 0
    }

    /// It is applied at the next end of a source transaction: others may write what was looked at for it.
    pub fn hurry(&mut self) {
        self.hurries = true;
    }

    /// Whether no more should be gathered before it is.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let is_much = self.records >= COMMANDS || self.bytes >= BYTES;
        self.is_whole() && (is_much || self.hurries)
    }

    /// Adds the transaction that begins with `mark` to a pipeline, in which database 0 is chosen before and after it.
    /// Gives for each of its commands the record that it stands for.
    pub fn transaction(&mut self, mark: Cmd, pipeline: &mut Pipeline) -> Vec<Option<Place>> {
        self.choose(0);
        pipeline.cmd("MULTI").add_command(mark);
        for command in self.commands.drain(..) {
            pipeline.add_command(command);
        }
        pipeline.cmd("EXEC");
        let mut places = vec![None];
        places.append(&mut self.places);
        *self = Self::default();
        places
    }
}

/// The command that chooses a database.
pub(super) fn select(db: u32) -> Cmd {
    let mut command = redis::cmd("SELECT");
    command.arg(db);
    command
}
