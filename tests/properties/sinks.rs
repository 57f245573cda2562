//! Sinks in miniature: one ledger row a lane, moved by compare-and-set together with the data.

use std::collections::HashMap;

use unitflow_change::envelope::Envelope;
use unitflow_change::invariants::{Chain, Versions};
use unitflow_change::seq::{Seq, Step, step};
use unitflow_change::tag::Kind;

use crate::log::Record;

/// A target with its lanes.
pub struct Target<'a> {
    partitions: &'a [Vec<Record>],
    /// The ledger: what each lane applied last.
    ledger: Vec<Seq>,
    /// All that was applied, in the order in which it was: lane and record.
    pub applied: Vec<(usize, &'a Record)>,
}

/// A worker of one lane.
#[derive(Clone, Debug)]
pub struct Sink {
    pub lane: usize,
    at: usize,
    last: Seq,
}

/// What came of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Applied, or dropped as seen before.
    Passed,
    /// Another lane has to come first.
    Waits,
    /// There is no further record.
    AtEnd,
    /// A record is missing before this one.
    Gap,
    /// The ledger is not where this worker left it: another took over.
    Fenced,
}

impl<'a> Target<'a> {
    pub fn new(partitions: &'a [Vec<Record>]) -> Self {
        Self { partitions, ledger: vec![Seq::NONE; partitions.len()], applied: Vec::new() }
    }

    /// A worker that begins `back` records before what the ledger says.
    pub fn start(&self, lane: usize, back: usize) -> Sink {
        let last = self.ledger[lane];
        let next = self.partitions[lane].partition_point(|record| record.tag().seq <= last);
        Sink { lane, at: next.saturating_sub(back), last }
    }

    /// Lets the worker take its next record.
    pub fn take(&mut self, sink: &mut Sink) -> Outcome {
        let Some(record) = self.partitions[sink.lane].get(sink.at) else {
            return Outcome::AtEnd;
        };
        let tag = record.tag();
        match step(sink.last, tag.seq, tag.prev) {
            Step::Gap => return Outcome::Gap,
            Step::Seen => {}
            Step::Next if self.must_wait(record) => return Outcome::Waits,
            Step::Next => {
                if self.ledger[sink.lane] != sink.last {
                    return Outcome::Fenced;
                }
                self.ledger[sink.lane] = tag.seq;
                sink.last = tag.seq;
                self.applied.push((sink.lane, record));
            }
        }
        sink.at += 1;
        Outcome::Passed
    }

    /// Lets all workers go on until none can; what stops each.
    pub fn drain(&mut self, sinks: &mut [Sink]) -> Vec<Outcome> {
        loop {
            let before: usize = sinks.iter().map(|sink| sink.at).sum();
            let stopped = sinks
                .iter_mut()
                .map(|sink| {
                    loop {
                        match self.take(sink) {
                            Outcome::Passed => {}
                            outcome => break outcome,
                        }
                    }
                })
                .collect();
            if sinks.iter().map(|sink| sink.at).sum::<usize>() == before {
                return stopped;
            }
        }
    }

    fn must_wait(&self, record: &Record) -> bool {
        let tag = record.tag();
        let place = |lane: i32| usize::try_from(lane).expect("lanes are not negative");
        match tag.kind {
            // Every lane has to have reached the barrier.
            Kind::Barrier | Kind::Ddl => (0..self.ledger.len()).any(|lane| {
                let same = self.partitions[lane].iter().find(|other| other.tag().seq == tag.seq);
                same.is_none_or(|other| self.ledger[lane] < other.tag().prev)
            }),
            _ => tag.after.iter().any(|after| self.ledger[place(after.lane)] < after.seq),
        }
    }

    /// What must hold of all that was applied.
    pub fn judge(&self) -> Result<(), String> {
        let mut chains = vec![Chain::default(); self.partitions.len()];
        let mut versions = Versions::default();
        let mut halves: HashMap<Seq, usize> = HashMap::new();
        for (at, (lane, record)) in self.applied.iter().enumerate() {
            let tag = record.tag();
            chains[*lane].see(tag.seq, tag.prev).map_err(|broken| broken.to_string())?;
            if tag.kind != Kind::Row {
                continue;
            }
            halves.insert(tag.seq, at);
            let number = number_of(record);
            versions.see(&record.key, number).map_err(|broken| broken.to_string())?;
            let first = Seq(tag.seq.0 & !1);
            if tag.seq != first && halves.get(&first).is_none_or(|delete| *delete > at) {
                return Err(format!("the insert {} was applied before its delete", tag.seq));
            }
        }
        Ok(())
    }
}

/// The change's number, which rises with every change of the source.
fn number_of(record: &Record) -> u64 {
    let envelope = Envelope::parse(&record.value).expect("values pass through untouched");
    let row = envelope.after.or(envelope.before).expect("a change has a row");
    row.get("n").and_then(|number| number.parse().ok()).expect("each row has a number")
}
