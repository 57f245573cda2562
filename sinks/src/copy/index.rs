//! Which rows were written in this unit lately, by whom and how far in the writer's log.
//!
//! Two generations of entries bound its memory: when the younger is full the elder is forgotten, and
//! with it how far back the index knows everything.

use std::collections::{HashMap, HashSet};

use unitflow_change::copy::Chunk;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;

use super::identity::Identity;

/// Rows in one generation; about 60 bytes each.
const ROWS_MAX: usize = 200_000;

/// A lane of another unit's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The log.
    pub log: Log,
    /// The lane.
    pub lane: i32,
}

/// Who wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writer {
    /// This unit, by this record of its captured log.
    Own(Seq),
    /// Another unit, by no later record of this lane.
    Other(Lane, Seq),
}

/// Whose write lies beyond what a chunk's source had applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// This unit's own; another's may too.
    Own,
    /// Another unit's only.
    Other,
}

/// The last writes to one row, or to several taken together.
#[derive(Clone, Debug, Default)]
struct Writes {
    own: Seq,
    /// By number of the lane.
    others: Vec<(u16, Seq)>,
}

impl Writes {
    fn add(&mut self, place: Option<u16>, seq: Seq) {
        let Some(place) = place else {
            self.own = self.own.max(seq);
            return;
        };
        match self.others.iter_mut().find(|(known, _)| *known == place) {
            Some((_, last)) => *last = seq.max(*last),
            None => self.others.push((place, seq)),
        }
    }
}

/// How far back everything is known: all that was written later is in the index.
#[derive(Clone, Debug, Default)]
struct Floor {
    own: Seq,
    others: HashMap<Lane, Seq>,
}

#[derive(Debug, Default)]
struct Generation {
    rows: HashMap<(u64, u64), Writes>,
    /// By table: writes to rows whose key may equal any.
    odd: HashMap<u64, Writes>,
    /// By table: all writes.
    tables: HashMap<u64, Writes>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Index {
    own: Log,
    /// Where the own log stood when the index began.
    began: Seq,
    lanes: Vec<Lane>,
    elder: Generation,
    younger: Generation,
    /// Of the elder and of the younger generation.
    floors: [Floor; 2],
    /// Where all writers stand now.
    now: Floor,
    /// Logs of units that have left: all they wrote is in every unit, or given up.
    left: HashSet<Log>,
    rows_max: usize,
}

impl Index {
    /// An index of a unit whose own log this is, from a place on at which the own log had reached
    /// `from`.
    #[must_use]
    pub fn new(own: Log, from: Seq) -> Self {
        let floor = Floor { own: from, others: HashMap::new() };
        Self {
            own,
            began: from,
            lanes: Vec::new(),
            elder: Generation::default(),
            younger: Generation::default(),
            floors: [floor.clone(), floor.clone()],
            now: floor,
            left: HashSet::new(),
            rows_max: ROWS_MAX,
        }
    }

    /// Another unit's lane stood at `seq` before anything of it came to the index.
    pub fn stood(&mut self, lane: Lane, seq: Seq) {
        for floor in self.floors.iter_mut().chain([&mut self.now]) {
            floor.others.entry(lane.clone()).or_insert(seq);
        }
    }

    /// Only these logs are applied here by now: of others nothing lies beyond any chunk.
    pub fn see_logs(&mut self, present: &HashSet<Log>) {
        let known = self.lanes.iter().chain(self.now.others.keys()).map(|lane| &lane.log);
        self.left = known.filter(|log| !present.contains(log)).cloned().collect();
    }

    /// A row was written.
    pub fn note(&mut self, row: Identity, by: &Writer) {
        if self.younger.rows.len() >= self.rows_max {
            self.elder = std::mem::take(&mut self.younger);
            self.floors.swap(0, 1);
            self.floors[1] = self.now.clone();
        }
        let (place, seq) = match by {
            Writer::Own(seq) => {
                self.now.own = self.now.own.max(*seq);
                (None, *seq)
            }
            Writer::Other(lane, seq) => {
                self.now.others.insert(lane.clone(), *seq);
                (Some(self.number(lane)), *seq)
            }
        };
        let young = &mut self.younger;
        young.tables.entry(row.table).or_default().add(place, seq);
        match row.row {
            Some(hash) => young.rows.entry((row.table, hash)).or_default().add(place, seq),
            None => young.odd.entry(row.table).or_default().add(place, seq),
        }
    }

    /// Whether everything is known that was written here beyond what the chunk's source had applied.
    #[must_use]
    pub fn covers(&self, chunk: &Chunk) -> bool {
        let floor = &self.floors[0];
        let mut others = floor.others.iter().filter(|(lane, _)| !self.left.contains(&lane.log));
        chunk.applied_by_all(&self.own) >= floor.own
            && others.all(|(lane, seq)| chunk.applied(&lane.log, lane.lane) >= *seq)
    }

    /// Whether the index began only behind what the chunk's source had applied of the own log: begun
    /// earlier, it would cover more.
    #[must_use]
    pub fn begins_behind(&self, chunk: &Chunk) -> bool {
        chunk.applied_by_all(&self.own) < self.began
    }

    /// Whose write to this row, or to one that may be the same, lies beyond what the chunk's source had
    /// applied; none if nobody's does.
    #[must_use]
    pub fn beyond(&self, row: Identity, chunk: &Chunk) -> Option<Whose> {
        let writes = [&self.elder, &self.younger].into_iter().flat_map(|generation| {
            let exact = row.row.and_then(|hash| generation.rows.get(&(row.table, hash)));
            let wide = match row.row {
                Some(_) => generation.odd.get(&row.table),
                None => generation.tables.get(&row.table),
            };
            exact.into_iter().chain(wide)
        });
        let mut whose = None;
        for writes in writes {
            if writes.own > chunk.applied_by_all(&self.own) {
                return Some(Whose::Own);
            }
            if self.others_lie_beyond(writes, chunk) {
                whose = Some(Whose::Other);
            }
        }
        whose
    }

    /// Whether anybody's does.
    #[must_use]
    pub fn is_beyond(&self, row: Identity, chunk: &Chunk) -> bool {
        self.beyond(row, chunk).is_some()
    }

    fn others_lie_beyond(&self, writes: &Writes, chunk: &Chunk) -> bool {
        writes.others.iter().any(|(place, seq)| {
            let Lane { log, lane } = &self.lanes[usize::from(*place)];
            *seq > chunk.applied(log, *lane) && !self.left.contains(log)
        })
    }

    fn number(&mut self, lane: &Lane) -> u16 {
        let place = self.lanes.iter().position(|known| known == lane).unwrap_or_else(|| {
            self.lanes.push(lane.clone());
            self.lanes.len() - 1
        });
        u16::try_from(place).unwrap_or(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use unitflow_change::copy::{Part, Standing};

    use super::*;

    fn log(text: &str) -> Log {
        Log::parse(text).unwrap()
    }

    fn row(number: u64) -> Identity {
        Identity { table: 1, row: Some(number) }
    }

    #[test]
    fn what_a_unit_wrote_that_has_left_holds_up_nothing() {
        let mut index = Index::new(log("B.shop"), Seq(2));
        index.stood(Lane { log: log("C.shop"), lane: 0 }, Seq(4));
        index.note(row(7), &third(6));
        // Its source no longer applies the third's log.
        let mut without = chunk(9, 0);
        without.ledger.remove("C.shop");
        assert!(!index.covers(&without) && index.is_beyond(row(7), &without));
        index.see_logs(&HashSet::from([log("A.shop")]));
        assert!(index.covers(&without) && !index.is_beyond(row(7), &without));
        // It comes back.
        index.see_logs(&HashSet::from([log("A.shop"), log("C.shop")]));
        assert!(!index.covers(&without) && index.is_beyond(row(7), &without));
    }

    fn third(seq: u64) -> Writer {
        Writer::Other(Lane { log: log("C.shop"), lane: 0 }, Seq(seq))
    }

    /// A chunk whose source had applied the target's own log up to `own`, and the third's to `other`.
    fn chunk(own: u64, other: u64) -> Chunk {
        let lanes = |seqs: &[u64]| {
            (0..)
                .zip(seqs)
                .map(|(lane, seq)| Standing { lane, seq: Seq(*seq), holds: None })
                .collect()
        };
        let ledger = BTreeMap::from([
            ("B.shop".to_owned(), lanes(&[own, own + 2])),
            ("C.shop".to_owned(), lanes(&[other])),
        ]);
        Chunk { job: "j".into(), part: Part::Rows, tables: vec![], ledger }
    }

    #[test]
    fn a_write_that_the_source_had_not_applied_lies_beyond() {
        let mut index = Index::new(log("B.shop"), Seq(10));
        index.stood(Lane { log: log("C.shop"), lane: 0 }, Seq(4));
        index.note(row(1), &Writer::Own(Seq(12)));
        index.note(row(2), &third(6));
        for (own, other, covered, beyond) in [
            (12, 6, true, [false, false]),
            (10, 6, true, [true, false]),
            (12, 4, true, [false, true]),
            (8, 6, false, [true, false]),
            (12, 2, false, [false, true]),
        ] {
            let chunk = chunk(own, other);
            assert_eq!(index.covers(&chunk), covered, "{own} {other}");
            assert_eq!([1, 2].map(|n| index.is_beyond(row(n), &chunk)), beyond, "{own} {other}");
            assert!(!index.is_beyond(row(3), &chunk));
            assert_eq!(index.begins_behind(&chunk), own < 10);
        }
    }

    #[test]
    fn a_write_of_the_own_unit_is_told_from_others() {
        let mut index = Index::new(log("B.shop"), Seq(0));
        index.note(row(1), &third(6));
        assert_eq!(index.beyond(row(1), &chunk(0, 4)), Some(Whose::Other));
        index.note(row(1), &Writer::Own(Seq(12)));
        assert_eq!(index.beyond(row(1), &chunk(10, 4)), Some(Whose::Own));
        assert_eq!(index.beyond(row(1), &chunk(12, 4)), Some(Whose::Other));
        assert_eq!(index.beyond(row(1), &chunk(12, 6)), None);
    }

    #[test]
    fn a_row_that_may_be_any_is_judged_by_all() {
        let mut index = Index::new(log("B.shop"), Seq(0));
        index.note(row(1), &Writer::Own(Seq(12)));
        let any = Identity { table: 1, row: None };
        assert!(index.is_beyond(any, &chunk(10, 0)));
        assert!(!index.is_beyond(any, &chunk(12, 0)));
        assert!(!index.is_beyond(row(2), &chunk(10, 0)));
        index.note(any, &Writer::Own(Seq(14)));
        assert!(index.is_beyond(row(2), &chunk(12, 0)));
        assert!(!index.is_beyond(Identity { table: 2, row: None }, &chunk(0, 0)));
    }

    #[test]
    fn what_is_forgotten_is_no_longer_covered() {
        let mut index = Index { rows_max: 2, ..Index::new(log("B.shop"), Seq(0)) };
        for number in 1..=5 {
            index.note(row(number), &Writer::Own(Seq(number * 2)));
        }
        // Rows 1 and 2 are gone; 3 and 4 are the elder generation, which began behind 4.
        assert!(!index.covers(&chunk(2, 0)));
        assert!(index.covers(&chunk(4, 0)));
        assert!(index.is_beyond(row(3), &chunk(4, 0)) && index.is_beyond(row(5), &chunk(4, 0)));
    }
}
