//! Three units write, apply each other's changes and are copied to while they do, in any order, and end
//! equal: no copy undoes a write, and nothing is left out. Each rule of the guard is left away once, and
//! some schedule shows it.
//!
//! Whoever has a row's newest version may write it, as where users roam: so versions have one order, and
//! what a unit writes may come to a third one before what it was written behind. B lacks what the others
//! had from the first, so that changes do not fit there, and copies go from A to both others. The judgement
//! is the sinks' own.

use std::collections::{BTreeMap, BTreeSet};

use unitflow_change::copy::{Chunk, Part, Standing};
use unitflow_change::name::{Log, Name};
use unitflow_change::seq::Seq;
use unitflow_sinks::copy::identity::Identity;
use unitflow_sinks::copy::index::{Index, Lane, Writer};
use unitflow_sinks::ledger::has_applied;

const UNITS: usize = 3;
const LANES: usize = 2;
const ROWS: u64 = 6;
/// The unit whose rows count.
const A: usize = 0;
/// The one that begins without rows.
const B: usize = 1;
/// Rounds after which everything has arrived.
const ROUNDS: usize = 100;

/// What a sink does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// All that it has to.
    Whole,
    /// It writes each copied row.
    Overwrites,
    /// It does not wait for what the source had applied of third units.
    IsBehind,
    /// It does not ask how far back its index knows everything.
    KnowsNotHowFar,
    /// It judges by its own log as far as that happens to be read.
    ReadsNotOn,
    /// It notes what does not fit in the unit whose rows count, at once.
    IsHasty,
    /// It does not note the copied rows that it does not write.
    NotesNot,
}

impl Sink {
    /// Those that leave a rule away.
    pub const BROKEN: [Self; 6] = [
        Self::Overwrites,
        Self::IsBehind,
        Self::KnowsNotHowFar,
        Self::ReadsNotOn,
        Self::IsHasty,
        Self::NotesNot,
    ];
}

/// A row's last version, and whether there is a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Version {
    number: u64,
    stands: bool,
    by: usize,
    /// Whether there was none before.
    inserted: bool,
}

/// A transaction in a unit's log. Its number is its place, from 1 on.
#[derive(Clone)]
enum Entry {
    Write {
        row: u64,
        version: Version,
    },
    /// What a lane of another unit brought: to where, from where, and which row was written.
    Applied {
        lane: Lane,
        from: Seq,
        to: Seq,
        row: Option<u64>,
    },
    Copied {
        lane: usize,
        rows: BTreeMap<u64, Version>,
        chunk: Chunk,
    },
}

#[derive(Default)]
struct Unit {
    rows: BTreeMap<u64, Version>,
    /// How far each lane of each unit's log is applied.
    applied: [[usize; LANES]; UNITS],
    log: Vec<Entry>,
    /// Rows that have to be read again, and because of which record.
    noted: BTreeSet<(u64, usize, usize)>,
    /// What is known of its log, and up to where that is read.
    index: Option<(Index, usize)>,
}

struct World {
    units: [Unit; UNITS],
    newest: BTreeMap<u64, Version>,
    /// A chunk that was read and does not stand in the log yet, without the rows changed since.
    read: Option<(BTreeMap<u64, Version>, Chunk)>,
    sink: Sink,
    /// What does not fit is noted.
    fills: bool,
    /// From where to where nothing arrives for a while.
    held: Option<(usize, usize)>,
    written: usize,
}

fn name_of(unit: usize) -> Name {
    ["a", "b", "c"][unit].parse().expect("a name")
}

fn log_of(unit: usize) -> Log {
    Log { unit: name_of(unit), store: "shop".parse().expect("a name") }
}

fn lane_of(row: u64) -> usize {
    row as usize % LANES
}

fn lane(unit: usize, lane: usize) -> Lane {
    Lane { log: log_of(unit), lane: lane as i32 }
}

fn identity(row: u64) -> Identity {
    Identity { table: 1, row: Some(row) }
}

fn seq(place: usize) -> Seq {
    Seq(place as u64)
}

impl World {
    fn new(sink: Sink) -> Self {
        let mut units: [Unit; UNITS] = Default::default();
        let first = Version { number: 1, stands: true, by: A, inserted: true };
        let newest: BTreeMap<u64, Version> = (0..ROWS).map(|row| (row, first)).collect();
        for (place, unit) in units.iter_mut().enumerate() {
            unit.rows.clone_from(&newest);
            if place == B {
                unit.rows.values_mut().for_each(|version| *version = Version::default());
            }
        }
        Self { units, newest, read: None, sink, fills: true, held: None, written: 0 }
    }

    fn step(&mut self, random: &mut impl FnMut(u64) -> u64) -> Result<(), String> {
        let unit = random(UNITS as u64) as usize;
        match random(16) {
            0..=3 => self.write(unit, random(ROWS), random(4) == 0),
            4..=11 => {
                let from = (unit + 1 + random(2) as usize) % UNITS;
                return self.apply(from, unit, random(LANES as u64) as usize);
            }
            12 if self.read.is_none() => {
                let whole = random(2) == 0;
                self.read_chunk((0..ROWS).filter(|row| whole || row % 3 == 0).collect(), whole);
            }
            12 | 13 => self.put_chunk(),
            14 => self.read_log(unit, random(4) as usize),
            _ if random(8) == 0 => self.begin_index(unit, random(8) as usize),
            _ => {}
        }
        Ok(())
    }

    /// Whoever has the newest version writes the next one. A row that is gone comes back only where it
    /// was deleted: another unit's would not be told from one that is a duplicate.
    fn write(&mut self, unit: usize, row: u64, deletes: bool) {
        let last = self.units[unit].rows[&row];
        if last != self.newest[&row] || (!last.stands && last.by != unit) {
            return;
        }
        let stands = !(last.stands && deletes);
        let version = Version { number: last.number + 1, stands, by: unit, inserted: !last.stands };
        self.newest.insert(row, version);
        self.units[unit].log.push(Entry::Write { row, version });
        self.put(unit, row, version);
    }

    fn put(&mut self, unit: usize, row: u64, version: Version) {
        self.units[unit].rows.insert(row, version);
        if unit == A
            && let Some((rows, _)) = &mut self.read
        {
            rows.remove(&row);
        }
    }

    /// One record of a lane is applied, or waits.
    fn apply(&mut self, from: usize, to: usize, lane: usize) -> Result<(), String> {
        let stands = self.units[to].applied[from][lane];
        let of_lane = |entry: &Entry| match entry {
            Entry::Write { row, .. } => lane_of(*row) == lane,
            Entry::Copied { lane: of, .. } => *of == lane,
            Entry::Applied { .. } => false,
        };
        let rest = self.units[from].log.iter().enumerate().skip(stands);
        let next = rest
            .filter(|(_, entry)| of_lane(entry))
            .map(|(place, entry)| (place + 1, entry.clone()))
            .next();
        let Some((place, entry)) = next else {
            // Nothing but numbers.
            self.units[to].applied[from][lane] = self.units[from].log.len();
            return Ok(());
        };
        match entry {
            Entry::Write { row, version } => self.take(to, (from, place), row, version),
            Entry::Copied { rows, chunk, .. } => self.take_copies(to, (lane, place), &rows, &chunk),
            Entry::Applied { .. } => Ok(()),
        }
    }

    /// The ledger moves, and the log says so, with what was written.
    fn stands(&mut self, unit: usize, (from, place): (usize, usize), to: usize, row: Option<u64>) {
        let stood = std::mem::replace(&mut self.units[unit].applied[from][place], to);
        if stood < to {
            let (lane, from, to) = (lane(from, place), seq(stood), seq(to));
            self.units[unit].log.push(Entry::Applied { lane, from, to, row });
        }
    }

    /// A change is applied where it fits the row it finds.
    fn take(
        &mut self,
        unit: usize,
        (from, place): (usize, usize),
        row: u64,
        version: Version,
    ) -> Result<(), String> {
        let there = self.units[unit].rows[&row];
        let fits = match version.inserted {
            true => !there.stands,
            false => there.stands && there.number + 1 == version.number,
        };
        let lane = lane_of(row);
        if fits {
            self.put(unit, row, version);
            self.stands(unit, (from, lane), place, Some(row));
        } else if self.fills && (unit != A || self.sink == Sink::IsHasty) {
            self.units[unit].noted.insert((row, from, place));
            self.stands(unit, (from, lane), place, None);
        }
        // Else it waits for what it was made behind.
        Ok(())
    }

    fn take_copies(
        &mut self,
        unit: usize,
        (lane, place): (usize, usize),
        rows: &BTreeMap<u64, Version>,
        chunk: &Chunk,
    ) -> Result<(), String> {
        let from = self.units[unit].log.len();
        if self.sink != Sink::ReadsNotOn {
            self.read_log(unit, from);
        }
        let mut written = Vec::new();
        for (row, version) in rows {
            if !self.may_be_written(unit, *row, chunk) {
                if self.sink != Sink::NotesNot {
                    self.units[unit].noted.insert((*row, A, place));
                }
                continue;
            }
            let there = self.units[unit].rows[row];
            if there.number > version.number {
                return Err(format!("row {row}: {version:?} was put over {there:?} in {unit}"));
            }
            self.units[unit].rows.insert(*row, *version);
            written.push(*row);
            self.written += 1;
        }
        let seen = |of: usize, lane: usize, at: usize| match of {
            A => at <= place,
            of => chunk.applied(&log_of(of), lane as i32) >= seq(at),
        };
        self.units[unit]
            .noted
            .retain(|(row, of, at)| !written.contains(row) || !seen(*of, lane_of(*row), *at));
        // Copied rows are nobody's write.
        self.stands(unit, (A, lane), place, None);
        Ok(())
    }

    fn may_be_written(&self, unit: usize, row: u64, chunk: &Chunk) -> bool {
        if self.sink == Sink::Overwrites {
            return true;
        }
        let stands: Vec<(Log, i32, Seq)> = (0..UNITS)
            .flat_map(|of| (0..LANES).map(move |lane| (of, lane)))
            .map(|(of, lane)| (log_of(of), lane as i32, seq(self.units[unit].applied[of][lane])))
            .collect();
        if self.sink != Sink::IsBehind && !has_applied(&stands, chunk, &name_of(unit)) {
            return false;
        }
        let Some((index, _)) = &self.units[unit].index else { return false };
        (self.sink == Sink::KnowsNotHowFar || index.covers(chunk))
            && !index.is_beyond(identity(row), chunk)
    }

    /// A consistent state of these rows: of those there are, or also that others are gone.
    fn read_chunk(&mut self, rows: Vec<u64>, whole: bool) {
        let unit = &self.units[A];
        let ledger = (0..UNITS).filter(|other| *other != A).map(|other| {
            let of_lane = |lane: usize| Standing {
                lane: lane as i32,
                seq: seq(unit.applied[other][lane]),
                holds: None,
            };
            (log_of(other).to_string(), (0..LANES).map(of_lane).collect())
        });
        let chunk =
            Chunk { job: "j".into(), part: Part::Rows, tables: vec![], ledger: ledger.collect() };
        let rows = rows.into_iter().map(|row| (row, unit.rows[&row]));
        self.read = Some((rows.filter(|(_, version)| !whole || version.stands).collect(), chunk));
    }

    /// It stands in the log behind all that it shows.
    fn put_chunk(&mut self) {
        let Some((rows, chunk)) = self.read.take() else { return };
        for lane in 0..LANES {
            let rows = rows.iter().filter(|(row, _)| lane_of(**row) == lane);
            let rows = rows.map(|(row, version)| (*row, *version)).collect();
            self.units[A].log.push(Entry::Copied { lane, rows, chunk: chunk.clone() });
        }
    }

    /// A unit begins to read its own log, so many transactions back.
    fn begin_index(&mut self, unit: usize, back: usize) {
        let from = self.units[unit].log.len().saturating_sub(back);
        self.units[unit].index = Some((Index::new(log_of(unit), seq(from)), from));
    }

    /// It reads on.
    fn read_log(&mut self, unit: usize, most: usize) {
        let Unit { log, index: Some((index, read)), applied, .. } = &mut self.units[unit] else {
            return;
        };
        for entry in log.iter().skip(*read).take(most) {
            *read += 1;
            match entry {
                Entry::Write { row, .. } => index.note(identity(*row), &Writer::Own(seq(*read))),
                Entry::Applied { lane, from, to, row } if lane.log != log_of(A) => {
                    index.stood(lane.clone(), *from);
                    if let Some(row) = row {
                        index.note(identity(*row), &Writer::Other(lane.clone(), *to));
                    }
                }
                Entry::Applied { .. } | Entry::Copied { .. } => {}
            }
        }
        if *read == log.len() {
            // Lanes of which nothing came stood all the time where they stand now.
            for of in (0..UNITS).filter(|of| *of != A && *of != unit) {
                for (place, at) in applied[of].iter().enumerate() {
                    index.stood(lane(of, place), seq(*at));
                }
            }
        }
    }

    /// What is noted is read again until nothing is, as long as that takes; then all arrives, and has to
    /// fit.
    fn settle(&mut self, held: (usize, usize)) -> Result<(), String> {
        for unit in 0..UNITS {
            self.begin_index(unit, 0);
        }
        for (rounds, held) in [(3, Some(held)), (ROUNDS, None)] {
            self.held = held;
            for _ in 0..rounds {
                self.put_chunk();
                while self.all_arrives()? {}
                let noted = self.units.iter().flat_map(|unit| &unit.noted);
                let noted: Vec<u64> = noted.map(|(row, ..)| *row).collect();
                self.fills = self.fills && !noted.is_empty();
                if self.fills {
                    self.units[A].noted.clear();
                    self.read_chunk(noted, false);
                }
            }
        }
        if self.fills { Err("rows are not settled".to_owned()) } else { Ok(()) }
    }

    /// Each lane applies a record; whether anything moved.
    fn all_arrives(&mut self) -> Result<bool, String> {
        let before = self.units.each_ref().map(|unit| unit.applied);
        let held = self.held;
        for from in 0..UNITS {
            for to in (0..UNITS).filter(|to| *to != from && Some((from, *to)) != held) {
                for lane in 0..LANES {
                    self.apply(from, to, lane)?;
                }
            }
        }
        Ok(before != self.units.each_ref().map(|unit| unit.applied))
    }

    fn ensure_equal(&self) -> Result<(), String> {
        for (place, unit) in self.units.iter().enumerate() {
            for (row, newest) in &self.newest {
                let there = unit.rows[row];
                if there != *newest && (there.stands || newest.stands) {
                    return Err(format!("row {row}: {there:?} in {place}, not {newest:?}"));
                }
            }
        }
        Ok(())
    }
}

/// Runs one schedule to its end; how many copied rows were written.
pub fn run(seed: u64, steps: usize, sink: Sink) -> Result<usize, String> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let mut world = World::new(sink);
    for _ in 0..steps {
        world.step(&mut random)?;
    }
    // The whole table once more, as the copy that all this is about.
    world.read = None;
    world.read_chunk((0..ROWS).collect(), false);
    let from = 1 + random(2) as usize;
    world.settle((from, (from + 1 + random(2) as usize) % UNITS))?;
    world.ensure_equal()?;
    Ok(world.written)
}
