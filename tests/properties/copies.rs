//! Three units write, apply each other's changes and are copied to while they do, in any order. The
//! guard has to let no copy undo a write, and without it some schedule does.
//!
//! Each row has one unit that writes it, so that its versions have one order; copies go from A to B.

use std::collections::{BTreeMap, HashSet};

use unitflow_change::copy::{Chunk, Part, Standing};
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_sinks::copy::identity::Identity;
use unitflow_sinks::copy::index::{Index, Lane, Writer};

const UNITS: usize = 3;
const ROWS: u64 = 6;
/// The unit that is copied from, and the one that is copied to.
const FROM: usize = 0;
const TO: usize = 1;

/// What stands in a unit's log.
#[derive(Clone)]
enum Record {
    Write { row: u64, version: u64 },
    Copied { rows: BTreeMap<u64, u64>, chunk: Chunk },
}

/// Rows and ledger of a unit, and its log.
#[derive(Default)]
struct Unit {
    rows: BTreeMap<u64, u64>,
    /// How many records of each unit's log are applied.
    applied: [usize; UNITS],
    log: Vec<Record>,
}

struct World {
    units: [Unit; UNITS],
    /// Of the unit that is copied to, from some moment on.
    index: Option<Index>,
    /// A chunk that was read and does not stand in the log yet, and the rows changed since.
    read: Option<(BTreeMap<u64, u64>, Chunk, HashSet<u64>)>,
    guarded: bool,
    written: usize,
}

fn log_of(unit: usize) -> Log {
    Log::parse(["A.shop", "B.shop", "C.shop"][unit]).expect("a log's name")
}

fn identity(row: u64) -> Identity {
    Identity { table: 1, row: Some(row) }
}

/// Numbers begin at 1, as the ledger's 0 is before all.
fn seq(records: usize) -> Seq {
    Seq(records as u64)
}

impl World {
    fn new(guarded: bool) -> Self {
        Self { units: Default::default(), index: None, read: None, guarded, written: 0 }
    }

    fn step(&mut self, random: &mut impl FnMut(u64) -> u64) -> Result<(), String> {
        match random(12) {
            0..=2 => self.write(random(ROWS)),
            3..=9 => {
                let from = random(UNITS as u64) as usize;
                return self.apply(from, (from + 1 + random(2) as usize) % UNITS);
            }
            10 if self.read.is_none() => self.read_chunk(),
            10 => self.put_chunk(),
            _ if self.index.is_none() || random(20) == 0 => self.begin_index(),
            _ => self.put_chunk(),
        }
        Ok(())
    }

    /// The row's own unit writes it.
    fn write(&mut self, row: u64) {
        let unit = (row % UNITS as u64) as usize;
        let version = self.units[unit].rows.get(&row).copied().unwrap_or(0) + 1;
        self.units[unit].rows.insert(row, version);
        self.units[unit].log.push(Record::Write { row, version });
        let at = seq(self.units[unit].log.len());
        if unit == TO
            && let Some(index) = &mut self.index
        {
            index.note(identity(row), &Writer::Own(at));
        }
        self.touched(unit, row);
    }

    /// One record of a unit's log is applied in another.
    fn apply(&mut self, from: usize, to: usize) -> Result<(), String> {
        let place = self.units[to].applied[from];
        let Some(record) = self.units[from].log.get(place).cloned() else { return Ok(()) };
        self.units[to].applied[from] = place + 1;
        match record {
            Record::Write { row, version } => {
                self.put(to, row, version)?;
                self.touched(to, row);
                if to == TO
                    && from != FROM
                    && let Some(index) = &mut self.index
                {
                    let lane = Lane { log: log_of(from), lane: 0 };
                    index.note(identity(row), &Writer::Other(lane, seq(place + 1)));
                }
                Ok(())
            }
            Record::Copied { rows, chunk } if to == TO => self.take_copies(&rows, &chunk),
            Record::Copied { .. } => Ok(()),
        }
    }

    /// Changes arrive one by one, so each is the next version of its row; what a copy brought must
    /// not arrive again behind it.
    fn put(&mut self, unit: usize, row: u64, version: u64) -> Result<(), String> {
        let there = self.units[unit].rows.entry(row).or_default();
        if *there + 1 != version {
            return Err(format!("row {row}: version {version} arrived behind {there}"));
        }
        *there = version;
        Ok(())
    }

    fn take_copies(&mut self, rows: &BTreeMap<u64, u64>, chunk: &Chunk) -> Result<(), String> {
        for (row, version) in rows {
            if self.guarded && !self.may_be_written(*row, chunk) {
                continue;
            }
            let there = self.units[TO].rows.get(row).copied().unwrap_or(0);
            if there > *version {
                return Err(format!("row {row}: version {version} was put over {there}"));
            }
            self.units[TO].rows.insert(*row, *version);
            self.written += 1;
        }
        Ok(())
    }

    fn may_be_written(&self, row: u64, chunk: &Chunk) -> bool {
        let third = (0..UNITS).filter(|unit| *unit != FROM && *unit != TO);
        let caught_up = third
            .into_iter()
            .all(|unit| seq(self.units[TO].applied[unit]) >= chunk.applied(&log_of(unit), 0));
        let Some(index) = &self.index else { return false };
        caught_up && index.covers(chunk) && !index.is_beyond(identity(row), chunk)
    }

    /// A consistent state of the unit that is copied from.
    fn read_chunk(&mut self) {
        let unit = &self.units[FROM];
        let ledger = (0..UNITS).filter(|other| *other != FROM).map(|other| {
            let standing = Standing { lane: 0, seq: seq(unit.applied[other]), holds: None };
            (log_of(other).to_string(), vec![standing])
        });
        let chunk =
            Chunk { job: "j".into(), part: Part::Rows, tables: vec![], ledger: ledger.collect() };
        self.read = Some((unit.rows.clone(), chunk, HashSet::new()));
    }

    /// It stands in the log behind all that it shows, without what was changed since.
    fn put_chunk(&mut self) {
        let Some((mut rows, chunk, touched)) = self.read.take() else { return };
        rows.retain(|row, _| !touched.contains(row));
        self.units[FROM].log.push(Record::Copied { rows, chunk });
    }

    /// The unit that is copied to begins to read its own log.
    fn begin_index(&mut self) {
        let unit = &self.units[TO];
        let mut index = Index::new(log_of(TO), seq(unit.log.len()));
        for other in (0..UNITS).filter(|other| *other != FROM && *other != TO) {
            index.stood(Lane { log: log_of(other), lane: 0 }, seq(unit.applied[other]));
        }
        self.index = Some(index);
    }

    fn touched(&mut self, unit: usize, row: u64) {
        if unit == FROM
            && let Some((_, _, touched)) = &mut self.read
        {
            touched.insert(row);
        }
    }
}

/// Runs one schedule to its end; how many copied rows were written.
pub fn run(seed: u64, steps: usize, guarded: bool) -> Result<usize, String> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let mut world = World::new(guarded);
    for _ in 0..steps {
        world.step(&mut random)?;
    }
    Ok(world.written)
}
