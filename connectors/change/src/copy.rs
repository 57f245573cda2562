//! What stands before copied rows: which tables they are of, and what the source had applied of
//! other units when it read them.
//!
//! ```text
//! {"job":"full-7","part":"rows","tables":[{"database":"shop","table":"orders"}],
//!  "ledger":{"B.shop":[{"lane":0,"seq":281474976710662},…],"C.shop":[…]}}
//! ```
//!
//! A copied row is what the source holds at its place in the log: whoever has applied the log up to
//! there, and of every other log all that `ledger` names and nothing more for this row's key, may
//! take it over in place of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ddl::TableName;
use crate::fault::{Code, Fault};
use crate::form;
use crate::name::Log;
use crate::seq::Seq;

/// The internal table whose rows are written for their place in the log alone.
pub const MARKER_TABLE: &str = "marker";

/// What a head announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The tables' copy begins.
    Begin,
    /// Rows follow.
    Rows,
    /// All of the job has passed.
    End,
}

/// How far one lane of a log was applied at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The lane.
    pub lane: i32,
    /// The last record applied.
    pub seq: Seq,
    /// The last one that its rows hold with all before it, where that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<Seq>,
}

impl Standing {
    /// Up to where the source's rows hold all.
    #[must_use]
    pub fn holds(&self) -> Seq {
        self.holds.map_or(self.seq, |holds| holds.min(self.seq))
    }

    /// Its rows hold no more than this.
    pub fn limit(&mut self, most: Seq) {
        self.holds = Some(self.holds().min(most)).filter(|holds| *holds < self.seq);
    }
}

/// The value of a [`Chunk`](crate::tag::Kind::Chunk) record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// The order that it belongs to.
    pub job: String,
    /// What follows.
    pub part: Part,
    /// The tables, in the mesh's names.
    pub tables: Vec<TableName>,
    /// The source's ledger when the rows were read, by log.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ledger: BTreeMap<String, Vec<Standing>>,
}

impl Chunk {
    /// Reads the value of a head of either form.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(form::payload(bytes)?).map_err(|error| {
            Fault::fatal(Code::Record, format!("the head of copied rows can't be read: {error}"))
        })
    }

    /// What the source's rows held of one lane; nothing where it knows no such lane.
    #[must_use]
    pub fn applied(&self, log: &Log, lane: i32) -> Seq {
        let lanes = self.ledger.get(&log.to_string());
        let standing = lanes.into_iter().flatten().find(|standing| standing.lane == lane);
        standing.map_or(Seq::NONE, Standing::holds)
    }

    /// What the source's rows held of a log in whatever lane it came.
    #[must_use]
    pub fn applied_by_all(&self, log: &Log) -> Seq {
        let lanes = self.ledger.get(&log.to_string());
        lanes.into_iter().flatten().map(Standing::holds).min().unwrap_or(Seq::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_may_hold_less_than_was_applied() {
        let mut standing = Standing { lane: 0, seq: Seq(20), holds: None };
        assert_eq!(standing.holds(), Seq(20));
        for (most, holds) in [(30, 20), (12, 12), (16, 12)] {
            standing.limit(Seq(most));
            assert_eq!((standing.seq, standing.holds()), (Seq(20), Seq(holds)), "{most}");
        }
        let ledger = BTreeMap::from([("B.shop".to_owned(), vec![standing])]);
        let chunk = Chunk { job: "j".into(), part: Part::Rows, tables: vec![], ledger };
        let read = Chunk::parse(&serde_json::to_vec(&chunk).unwrap()).unwrap();
        let log = Log::parse("B.shop").unwrap();
        assert_eq!((read.applied(&log, 0), read.applied_by_all(&log)), (Seq(12), Seq(12)));
    }

    #[test]
    fn a_head_says_what_was_applied_by_one_lane_and_by_all() {
        let text = r#"{"job":"full-7","part":"rows","tables":[{"database":"shop","table":"a"}],"ledger":{"B.shop":[{"lane":0,"seq":8},{"lane":1,"seq":6}]}}"#;
        let chunk = Chunk::parse(text.as_bytes()).unwrap();
        let log = Log::parse("B.shop").unwrap();
        assert_eq!(chunk.applied(&log, 0), Seq(8));
        assert_eq!(chunk.applied(&log, 2), Seq::NONE);
        assert_eq!(chunk.applied_by_all(&log), Seq(6));
        assert_eq!(chunk.applied_by_all(&Log::parse("C.shop").unwrap()), Seq::NONE);
        assert_eq!(serde_json::to_string(&chunk).unwrap(), text);
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for bad in ["", "{}", r#"{"job":"a","part":"rows","tables":[],"more":1}"#] {
            assert_eq!(Chunk::parse(bad.as_bytes()).unwrap_err().code, Code::Record, "{bad}");
        }
    }
}
