//! One table, walked on two servers at once.
//!
//! Memory holds a part of the source's rows and a part of the target's, whatever the table's size.
//! How the two are brought together depends on the primary key ([`Pair::is_ordered`]):
//!
//! * Where both servers have one order of keys (numbers, dates, bytes), the source gives a part, and
//!   the target is read from where that part begins to where it ends. Each end is read once.
//! * Else (text, whose collations may order differently and take different bytes for one key), the
//!   target is asked for the keys of each part of the source, and then the source for those of each
//!   part of the target. Keys are then equal where the server that is asked says so: `A` at the
//!   source and `a` at the target are one row with a difference.

use std::collections::HashMap;

use unitflow_change::fault::Fault;
use unitflow_mysql::snapshot::{Reader, Row};

use crate::pair::{End, Pair, columns};

/// Rows of a part. Larger ones gain nothing: the servers' work is by row.
const PART_ROWS: usize = 1000;

/// Bytes of a part, of each end.
const PART_BYTES: usize = 4 << 20;

/// How a row of the target is not as the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Finding {
    /// It is not there.
    Missing,
    /// The source has none.
    Extra,
    /// It holds something else.
    Different,
}

/// A key whose row is not the same at both ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// As records have it, by the mesh's name of the table: `["shop","orders",{"id":1}]`.
    pub key: Vec<u8>,
    /// What is wrong.
    pub finding: Finding,
}

/// What was found in a part of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Rows of the source that travel, and rows of the target. Where keys are not ordered alike
    /// each end is walked by itself.
    pub source_rows: u64,
    /// Rows of the target that were come by.
    pub target_rows: u64,
    /// In no particular order.
    pub differences: Vec<Difference>,
}

/// Where the walk stands: the last key that was passed at the end that is walked.
#[derive(Debug)]
enum Stage {
    /// Along the source.
    Source(Option<Vec<u8>>),
    /// Along the target, for rows that the source does not have.
    Target(Option<Vec<u8>>),
    Done,
}

/// The walk.
#[derive(Debug)]
pub struct Compare<'r> {
    pair: Pair,
    source: &'r mut Reader,
    target: &'r mut Reader,
    stage: Stage,
}

/// A row, and what it is found by.
struct Entry {
    identity: Vec<u8>,
    row: Row,
}

impl<'r> Compare<'r> {
    /// From the table's beginning. Whether a reader sees a consistent state is its owner's affair.
    #[must_use]
    pub fn new(pair: Pair, source: &'r mut Reader, target: &'r mut Reader) -> Self {
        Self { pair, source, target, stage: Stage::Source(None) }
    }

    /// Compares the next part; none where all is compared. After a fault the same part comes again.
    pub async fn next(&mut self) -> Result<Option<Part>, Fault> {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Done => Ok(None),
            Stage::Source(after) => {
                let walked = self.along_source(after.as_deref()).await;
                if walked.is_err() {
                    self.stage = Stage::Source(after);
                }
                walked.map(Some)
            }
            Stage::Target(after) => {
                let walked = self.along_target(after.as_deref()).await;
                if walked.is_err() {
                    self.stage = Stage::Target(after);
                }
                walked.map(Some)
            }
        }
    }

    /// Looks at these keys again, which are those of differences; what is the same by now is left
    /// out.
    pub async fn again(&mut self, keys: &[&[u8]]) -> Result<Vec<Difference>, Fault> {
        let mut found = Vec::new();
        for keys in keys.chunks(PART_ROWS) {
            let rows = self.source.get(self.pair.table(End::Source), keys).await?;
            let rows = self.travelling(rows)?;
            let mut part = Part::default();
            self.look_up(&rows, &mut part).await?;
            let others = self.target.get(self.pair.table(End::Target), keys).await?;
            self.find_extra(&self.entries(End::Target, others)?, &mut part).await?;
            found.append(&mut part.differences);
        }
        Ok(found)
    }

    async fn along_source(&mut self, after: Option<&[u8]>) -> Result<Part, Fault> {
        let table = self.pair.table(End::Source);
        let rows = self.source.scan(table, after, PART_ROWS, PART_BYTES).await?;
        let (last, done) = (rows.last().map(<[u8]>::to_vec), rows.done);
        let entries = self.travelling(rows.rows)?;
        let mut part = Part { source_rows: entries.len() as u64, ..Part::default() };
        if self.pair.is_ordered() {
            let until = if done { None } else { last.as_deref() };
            self.meet(entries, (after, until), &mut part).await?;
        } else {
            self.look_up(&entries, &mut part).await?;
        }
        self.stage = match (done, self.pair.is_ordered()) {
            (false, _) => Stage::Source(last),
            (true, true) => Stage::Done,
            (true, false) => Stage::Target(None),
        };
        Ok(part)
    }

    async fn along_target(&mut self, after: Option<&[u8]>) -> Result<Part, Fault> {
        let table = self.pair.table(End::Target);
        let rows = self.target.scan(table, after, PART_ROWS, PART_BYTES).await?;
        let (last, done) = (rows.last().map(<[u8]>::to_vec), rows.done);
        let entries = self.entries(End::Target, rows.rows)?;
        let mut part = Part { target_rows: entries.len() as u64, ..Part::default() };
        self.find_extra(&entries, &mut part).await?;
        self.stage = if done { Stage::Done } else { Stage::Target(last) };
        Ok(part)
    }

    /// Brings a part of the source together with the target's rows in its range.
    async fn meet(
        &mut self,
        entries: Vec<Entry>,
        (after, until): (Option<&[u8]>, Option<&[u8]>),
        part: &mut Part,
    ) -> Result<(), Fault> {
        let mut left: HashMap<Vec<u8>, Row> =
            entries.into_iter().map(|entry| (entry.identity, entry.row)).collect();
        let mut after = after.map(<[u8]>::to_vec);
        loop {
            let (table, range) = (self.pair.table(End::Target), (after.as_deref(), until));
            let rows = self.target.scan_range(table, range, PART_ROWS, PART_BYTES).await?;
            after = rows.last().map(<[u8]>::to_vec).or(after);
            part.target_rows += rows.rows.len() as u64;
            for entry in self.entries(End::Target, rows.rows)? {
                match left.remove(&entry.identity) {
                    None => self.note(part, Finding::Extra, End::Target, &entry.row)?,
                    Some(row) => self.compare(part, &row, &entry.row)?,
                }
            }
            if rows.done {
                break;
            }
        }
        left.values().try_for_each(|row| self.note(part, Finding::Missing, End::Source, row))
    }

    /// Asks the target for rows of the source.
    async fn look_up(&mut self, entries: &[Entry], part: &mut Part) -> Result<(), Fault> {
        let found = counterparts(&self.pair, End::Target, self.target, entries).await?;
        for (entry, found) in entries.iter().zip(found) {
            match found {
                None => self.note(part, Finding::Missing, End::Source, &entry.row)?,
                Some(other) => self.compare(part, &entry.row, &other)?,
            }
        }
        Ok(())
    }

    /// Asks the source for rows of the target.
    async fn find_extra(&mut self, entries: &[Entry], part: &mut Part) -> Result<(), Fault> {
        let found = counterparts(&self.pair, End::Source, self.source, entries).await?;
        for (entry, found) in entries.iter().zip(found) {
            let travels = match &found {
                Some(row) => self.pair.travels(&columns(row)?)?,
                None => false,
            };
            if !travels {
                self.note(part, Finding::Extra, End::Target, &entry.row)?;
            }
        }
        Ok(())
    }

    fn compare(&self, part: &mut Part, source: &Row, target: &Row) -> Result<(), Fault> {
        if self.pair.is_same(&columns(source)?, &columns(target)?)? {
            return Ok(());
        }
        self.note(part, Finding::Different, End::Source, source)
    }

    fn note(&self, part: &mut Part, finding: Finding, end: End, row: &Row) -> Result<(), Fault> {
        let key = self.pair.key(end, &columns(row)?)?;
        part.differences.push(Difference { key, finding });
        Ok(())
    }

    fn travelling(&self, rows: Vec<Row>) -> Result<Vec<Entry>, Fault> {
        let mut entries = self.entries(End::Source, rows)?;
        let mut fault = None;
        entries.retain(|entry| {
            let travels = columns(&entry.row).and_then(|row| self.pair.travels(&row));
            travels.unwrap_or_else(|broken| {
                fault = Some(broken);
                false
            })
        });
        fault.map_or(Ok(entries), Err)
    }

    fn entries(&self, end: End, rows: Vec<Row>) -> Result<Vec<Entry>, Fault> {
        let entry = |row: Row| {
            let identity = self.pair.identity(end, &columns(&row)?)?;
            Ok(Entry { identity, row })
        };
        rows.into_iter().map(entry).collect()
    }
}

/// For each of the rows the one at the end `end` that the server there takes for the same.
async fn counterparts(
    pair: &Pair,
    end: End,
    reader: &mut Reader,
    entries: &[Entry],
) -> Result<Vec<Option<Row>>, Fault> {
    let table = pair.table(end);
    let keys: Vec<_> = entries.iter().map(|entry| &entry.row.key[..]).collect();
    let mut others = HashMap::new();
    for row in reader.get(table, &keys).await? {
        others.insert(pair.identity(end, &columns(&row)?)?, row);
    }
    let mut found: Vec<_> = entries.iter().map(|entry| others.remove(&entry.identity)).collect();
    // What is left was found by a key of other bytes.
    for (entry, found) in entries.iter().zip(&mut found) {
        if others.is_empty() {
            break;
        }
        if found.is_none() {
            *found = reader.get(table, &[&entry.row.key]).await?.pop();
            if let Some(row) = found {
                others.remove(&pair.identity(end, &columns(row)?)?);
            }
        }
    }
    Ok(found)
}
