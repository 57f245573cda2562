//! A lane's part of a chunk of copied rows.
//!
//! The rows are judged by what this unit's own log says of them, first as far as it is read, then again
//! when they are locked: a write that came between shows in the log before the marker that follows it,
//! and one that comes later has to wait. Rows that are not there can only be locked by writing them, so
//! they are judged behind that. Rows in doubt are left as they are and noted.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};
use unitflow_change::copy::{Chunk, Part as ChunkPart};
use unitflow_change::ddl::TableName;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_change::tag::Kind;
use unitflow_change::{Code, Fault, inject};

use super::filling::{self, Mark, Note};
use super::identity::Identity;
use super::index::Whose;
use super::known;
use super::own_log::OwnLog;
use crate::lane::Lane;
use crate::ledger;
use crate::mysql::apply::End;
use crate::mysql::copies::Standing;
use crate::mysql::own_rows::OwnRows;
use crate::park::{Parked, parks};

/// How long a chunk waits until this unit has applied what its source had applied.
const BEHIND_FOR: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long the own log may take to be read up to now before rows are locked.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);
/// The same while they are: nobody may wait for them long.
const LOCKED_FOR: Duration = Duration::from_secs(5);

/// What a lane knows of the chunk that it gathers.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub chunk: Chunk,
    /// When its rows were read, in µs since 1970.
    pub read_us: u64,
}

/// A row that is left as it is, by its place in the batch, and why.
type Late = (usize, &'static str);

/// Why a row is left as it is.
mod why {
    /// This unit lacks what the source had applied.
    pub const BEHIND: &str = "behind";
    pub use crate::copy::filling::WRITTEN_HERE;
    /// It was written by another unit since, or may have been.
    pub const BEYOND: &str = "written since";
    /// What was written here is no longer known that far back.
    pub const UNKNOWN: &str = "too long ago to judge";
    pub use crate::copy::filling::TAKEN;
    /// Its table waits for a person.
    pub const PARKED: &str = "parked";
    /// The head of its chunk is gone, so that nobody knows when it was read.
    pub const HEADLESS: &str = "its head is gone";
}

impl Lane<'_> {
    /// Does what the head of a chunk says, rows aside.
    pub(crate) async fn heed(&mut self, chunk: &Chunk, to: End) -> Result<(), Fault> {
        if chunk.part != ChunkPart::Begin || self.parked.among(&chunk.tables).is_none() {
            return self.step(to, &[]).await;
        }
        // All of the tables comes again.
        let released: Vec<_> = chunk.tables.iter().map(|table| self.unparked(table)).collect();
        self.step(to, &released).await?;
        self.parked = Parked::load(self.applier.conn(), &self.way.road.log, self.lane).await?;
        self.metrics.parked(self.parked.count());
        Ok(())
    }

    /// Passes over a copied row whose chunk's head is gone.
    pub(crate) async fn note_headless(&mut self, key: &[u8], to: End) -> Result<(), Fault> {
        let note = self.noted(key, to.seq, why::HEADLESS)?;
        self.metrics.copied(0, 1);
        self.step(to, &[note]).await
    }

    async fn step(&mut self, to: End, also: &[Vec<u8>]) -> Result<(), Fault> {
        self.applier.step_with(self.at, to, false, also).await?;
        self.stands_at(to);
        Ok(())
    }

    /// Writes the gathered rows that may be written, and notes the others.
    pub(crate) async fn apply_chunk(&mut self, gathered: Gathered, to: End) -> Result<(), Fault> {
        let outcome = self.try_chunk(&gathered, to).await;
        match outcome {
            Ok(()) => {
                self.metrics.applied(&self.batch, true);
                self.batch.clear();
                self.stands_at(to);
                Ok(())
            }
            Err(fault) if parks(&fault) && !self.way.whole => {
                self.applier.roll_back().await?;
                Err(self.park(fault).await)
            }
            Err(fault) => Err(fault),
        }
    }

    async fn try_chunk(&mut self, gathered: &Gathered, to: End) -> Result<(), Fault> {
        let mut late = self.judge_first(gathered).await?;
        loop {
            let wanted: Vec<usize> =
                self.copies().filter(|place| !is_among(*place, &late)).collect();
            if wanted.is_empty() {
                return self.note_only(&late, to).await;
            }
            self.applier.begin_copies(&self.batch, self.at, to).await?;
            match self.write_judged(wanted, gathered, &mut late).await {
                Ok(Some(written)) => {
                    let mut also = self.notes(&late)?;
                    also.extend(self.settled(&written, &gathered.chunk, to.seq).await?);
                    self.metrics.copied(written.len(), late.len());
                    return self.applier.commit_copies((self.at, to), &also).await;
                }
                Ok(None) => self.applier.roll_back().await?,
                Err(fault) => {
                    // What is locked should not wait until the connection's end is noticed.
                    if fault.code != Code::Unreachable {
                        drop(self.applier.roll_back().await);
                    }
                    return Err(fault);
                }
            }
        }
    }

    /// Locks and judges rows, and writes those in whose place nothing newer stands; gives these. The others
    /// become late. `None` where the transaction has to be undone: a row that was not there to be locked
    /// was written here before this one was.
    async fn write_judged(
        &mut self,
        mut wanted: Vec<usize>,
        gathered: &Gathered,
        late: &mut Vec<Late>,
    ) -> Result<Option<Vec<usize>>, Fault> {
        let mut standing = Standing::default();
        let mut refused = Vec::new();
        // Likely there is nothing to lock.
        if !self.fresh || !self.applier.insert_copies(&self.batch, &wanted).await? {
            standing = self.applier.lock_copies(&self.batch, &wanted).await?;
            let newly = self.judge_again(&wanted, gathered).await?;
            wanted.retain(|place| !is_among(*place, &newly));
            late.extend(newly);
            refused = self.applier.write_copies(&self.batch, &wanted, &standing).await?;
        }
        inject::die_at("die_while_copying");
        let new: Vec<usize> =
            wanted.iter().copied().filter(|place| !standing.holds(*place)).collect();
        let newly = self.judge_again(&new, gathered).await?;
        let is_written = |place: &usize| !refused.contains(place) && !self.batch.is_gone(*place);
        if newly.iter().any(|(place, _)| is_written(place)) {
            debug!(rows = newly.len(), "written here while they were copied");
            late.extend(newly);
            return Ok(None);
        }
        self.fresh = refused.is_empty() && new.len() * 2 > wanted.len();
        refused.retain(|place| !is_among(*place, &newly));
        wanted.retain(|place| !refused.contains(place) && !is_among(*place, &newly));
        late.extend(refused.into_iter().map(|place| (place, why::TAKEN)).chain(newly));
        Ok(Some(wanted))
    }

    async fn note_only(&mut self, late: &[Late], to: End) -> Result<(), Fault> {
        let also = self.notes(late)?;
        self.metrics.copied(0, late.len());
        self.applier.step_with(self.at, to, false, &also).await
    }

    /// The places of the batch's copied rows.
    fn copies(&self) -> impl Iterator<Item = usize> + '_ {
        let slots = self.batch.slots().iter().enumerate();
        slots.filter(|(_, slot)| slot.kind == Kind::Copy).map(|(place, _)| place)
    }

    /// Judges while nothing is locked: the rows that can't be written.
    async fn judge_first(&mut self, gathered: &Gathered) -> Result<Vec<Late>, Fault> {
        let chunk = &gathered.chunk;
        let copies: Vec<usize> = self.copies().collect();
        let all = |why| copies.iter().map(|place| (*place, why)).collect();
        let mut late = Vec::new();
        for &place in &copies {
            if self.parked.holds(self.batch.key(&self.batch.slots()[place]))? {
                late.push((place, why::PARKED));
            }
        }
        if inject::on("copy_overwrites") {
            return Ok(late);
        }
        if !self.wait_for_others(chunk).await? {
            return Ok(all(why::BEHIND));
        }
        let Some(own) = &self.way.own_log else { return Ok(late) };
        if chunk.applied_by_all(own.log()) < known::from(self.applier.conn()).await? {
            return Ok(all(why::UNKNOWN));
        }
        own.begin_for(chunk, gathered.read_us, CATCH_UP_WITHIN).await?;
        let others: Vec<usize> =
            copies.into_iter().filter(|place| !is_among(*place, &late)).collect();
        late.extend(self.beyond(own, None, &others, chunk)?);
        Ok(late)
    }

    /// Judges again with the rows locked: those that were written here meanwhile.
    async fn judge_again(&self, places: &[usize], gathered: &Gathered) -> Result<Vec<Late>, Fault> {
        let Some(own) = &self.way.own_log else { return Ok(Vec::new()) };
        if places.is_empty() || inject::on("copy_overwrites") {
            return Ok(Vec::new());
        }
        let reading = own.catch_up(gathered.read_us, LOCKED_FOR).await?;
        self.beyond(own, Some(reading), places, &gathered.chunk)
    }

    /// The rows that can't be written, by what the own log says of them.
    fn beyond(
        &self,
        own: &OwnLog<OwnRows>,
        reading: Option<u64>,
        places: &[usize],
        chunk: &Chunk,
    ) -> Result<Vec<Late>, Fault> {
        let identity = |place: &usize| Identity::of(self.batch.key(&self.batch.slots()[*place]));
        let rows: Vec<_> = places.iter().map(identity).collect::<Result<_, _>>()?;
        let Some(beyond) = own.beyond(reading, &rows, chunk) else {
            return Ok(places.iter().map(|place| (*place, why::UNKNOWN)).collect());
        };
        let late = places.iter().zip(beyond).filter_map(|(place, whose)| match whose? {
            Whose::Own => Some((*place, why::WRITTEN_HERE)),
            Whose::Other => Some((*place, why::BEYOND)),
        });
        Ok(late.collect())
    }

    /// Waits until this unit has applied what the source had applied of third units; `false` if it
    /// takes too long.
    async fn wait_for_others(&mut self, chunk: &Chunk) -> Result<bool, Fault> {
        let begun = Instant::now();
        loop {
            let stands = ledger::read_logs(self.applier.conn()).await?;
            if let Some(own) = &self.way.own_log {
                own.see_logs(stands.iter().map(|(log, ..)| log.clone()));
            }
            if ledger::has_applied(&stands, chunk, &self.way.road.to) {
                return Ok(true);
            }
            if begun.elapsed() > BEHIND_FOR {
                warn!(lane = self.lane, "copied rows know more of other units than this one");
                return Ok(false);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn notes(&self, late: &[Late]) -> Result<Vec<Vec<u8>>, Fault> {
        late.iter()
            .map(|(place, why)| {
                let slot = &self.batch.slots()[*place];
                self.noted(self.batch.key(slot), slot.seq, why)
            })
            .collect()
    }

    /// The statement that notes a record that was not applied to its row.
    pub(crate) fn noted(&self, key: &[u8], seq: Seq, why: &str) -> Result<Vec<u8>, Fault> {
        filling::noted(&Note {
            key: key.to_vec(),
            log: self.way.road.log.clone(),
            lane: self.lane,
            seq,
            why: why.to_owned(),
        })
    }

    async fn settled(
        &mut self,
        written: &[usize],
        chunk: &Chunk,
        seq: Seq,
    ) -> Result<Vec<Vec<u8>>, Fault> {
        let tables = chunk.tables.as_slice();
        if !filling::is_any(self.applier.conn(), tables).await? {
            return Ok(Vec::new());
        }
        let keys: Vec<&[u8]> =
            written.iter().map(|place| self.batch.key(&self.batch.slots()[*place])).collect();
        filling::settled(self.applier.conn(), &keys, chunk, (&self.way.road.log, seq)).await
    }

    /// The tables that are being filled in this unit.
    pub(crate) async fn filled(&mut self) -> Result<BTreeSet<TableName>, Fault> {
        filling::tables(self.applier.conn()).await
    }

    /// Whether something is being filled here, and all of it with the rows of another unit: a change that
    /// does not fit is noted at once then, and its row comes again.
    pub(crate) async fn is_filled_from_elsewhere(&mut self) -> Result<bool, Fault> {
        let marks = filling::marks(self.applier.conn()).await?;
        Ok(!marks.is_empty() && !marks.iter().any(|mark| self.is_of_here(mark)))
    }

    /// Whether something is being filled with this unit's rows: a change that does not fit them is passed over.
    pub(crate) async fn is_filled_from_here(&mut self) -> Result<bool, Fault> {
        let marks = filling::marks(self.applier.conn()).await?;
        Ok(marks.iter().any(|mark| self.is_of_here(mark)))
    }

    fn is_of_here(&self, mark: &Mark) -> bool {
        Log::parse(&mark.log).is_none_or(|log| log.unit == self.way.road.to)
    }
}

fn is_among(place: usize, late: &[Late]) -> bool {
    late.iter().any(|(known, _)| *known == place)
}
