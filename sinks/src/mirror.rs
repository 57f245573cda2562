//! Where lanes stand, for the eyes of operators: mirrored to the consumer group now and then.
//!
//! Nothing is ever read from it to decide where to go on, with one exception: an offset without
//! our note was set by an operator.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use unitflow_change::seq::Seq;

/// The note beside a mirrored offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The ledger's `seq` when it was written.
    pub seq: Seq,
}

impl Mark {
    /// The note's text: `unitflow seq=281474976710658`.
    #[must_use]
    pub fn text(self) -> String {
        format!("unitflow seq={}", self.seq)
    }

    /// Reads a note; `None` if it is not one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let seq = text.strip_prefix("unitflow seq=")?.parse().ok()?;
        Some(Self { seq: Seq(seq) })
    }
}

/// The lanes of one flow in this worker.
#[derive(Debug, Default)]
pub struct Mirror {
    lanes: Mutex<HashMap<i32, Standing>>,
    /// Told at each commit.
    moved: watch::Sender<()>,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    offset: i64,
    seq: Seq,
    told: bool,
}

impl Mirror {
    /// A lane has applied all before `offset`.
    pub fn applied(&self, lane: i32, offset: i64, seq: Seq) {
        let standing = Standing { offset, seq, told: false };
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).insert(lane, standing);
        self.moved.send_replace(());
    }

    /// Returns once this worker has committed `seq` for a lane, at the latest after `patience`:
    /// the lane may be another worker's.
    pub async fn reached(&self, lane: i32, seq: Seq, patience: Duration) {
        let mut moved = self.moved.subscribe();
        let reached = async {
            while self.believed(lane).is_none_or(|at| at < seq) {
                if moved.changed().await.is_err() {
                    return;
                }
            }
        };
        let _in_time = timeout(patience, reached).await;
    }

    /// The last `seq` this worker committed for a lane, if it worked on it before.
    #[must_use]
    pub fn believed(&self, lane: i32) -> Option<Seq> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.get(&lane).map(|standing| standing.seq)
    }

    /// Another worker has the lane now.
    pub fn forget(&self, lane: i32) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).remove(&lane);
    }

    /// What has changed since the last call: lane, offset, note.
    #[must_use]
    pub fn take_news(&self) -> Vec<(i32, i64, String)> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let news = lanes.iter_mut().filter(|(_, standing)| !standing.told);
        news.map(|(lane, standing)| {
            standing.told = true;
            (*lane, standing.offset, Mark { seq: standing.seq }.text())
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_notes_are_read() {
        let mark = Mark { seq: Seq(7) };
        assert_eq!(Mark::parse(&mark.text()), Some(mark));
        assert_eq!(Mark::parse(""), None);
        assert_eq!(Mark::parse("unitflow seq=x"), None);
    }

    #[tokio::test]
    async fn a_lane_is_waited_for_until_it_is_there_or_for_as_long_as_one_is_patient() {
        let mirror = Mirror::default();
        let forever = Duration::from_secs(3600);
        let moves = async {
            for (lane, seq) in [(2, 8), (1, 4), (1, 6)] {
                tokio::task::yield_now().await;
                mirror.applied(lane, 0, Seq(seq));
            }
        };
        let waits = async {
            mirror.reached(1, Seq(5), forever).await;
            mirror.believed(1)
        };
        let (seen, ()) = tokio::join!(waits, moves);
        assert_eq!(seen, Some(Seq(6)));
        mirror.reached(3, Seq(1), Duration::from_millis(1)).await;
    }

    #[test]
    fn news_are_told_once() {
        let mirror = Mirror::default();
        mirror.applied(1, 10, Seq(4));
        assert_eq!(mirror.take_news(), [(1, 10, "unitflow seq=4".to_owned())]);
        assert!(mirror.take_news().is_empty());
        assert_eq!(mirror.believed(1), Some(Seq(4)));
    }
}
