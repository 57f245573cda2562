//! When to commit to Kafka: at once when nothing more is at hand, but never for each record of a
//! stream that does not pause.

use std::time::{Duration, Instant};

use unitflow_kafka::Writer;

use super::stand_by::ALIVE_EVERY;

/// The shortest time between two commits. One costs the broker about as much as 300 rows.
const COMMIT_EVERY: Duration = Duration::from_millis(10);
/// The longest time a record waits for its commit in a stream that does not pause.
const COMMIT_WITHIN: Duration = Duration::from_millis(50);
/// Bytes after which a commit is due.
const COMMIT_BYTES: usize = 8 << 20;

/// Decides when a stage commits.
#[derive(Debug)]
pub struct Grouping {
    committed: Instant,
    pending_since: Option<Instant>,
}

impl Grouping {
    /// Nothing is pending.
    pub fn new() -> Self {
        Self { committed: Instant::now(), pending_since: None }
    }

    /// Something has to be committed some time.
    pub fn pending(&mut self) {
        self.pending_since.get_or_insert_with(Instant::now);
    }

    /// Whether a stream that goes on must be committed now. Looks at the clock: ask now and then.
    pub fn is_due(&self, writer: &Writer) -> bool {
        self.pending_since.is_some_and(|since| since.elapsed() >= COMMIT_WITHIN)
            || self.is_full(writer)
    }

    /// Whether no more should be gathered. Costs nothing: ask after each record, for a few may be
    /// large.
    pub fn is_full(&self, writer: &Writer) -> bool {
        writer.pending_bytes() >= COMMIT_BYTES
    }

    /// How long a stream that has paused may wait before its commit; `None` if nothing is pending.
    pub fn pause(&self) -> Option<Duration> {
        self.pending_since?;
        Some(COMMIT_EVERY.saturating_sub(self.committed.elapsed()))
    }

    /// Whether a stage that has nothing to commit must show that it is alive.
    pub fn is_silent(&self) -> bool {
        self.committed.elapsed() >= ALIVE_EVERY
    }

    /// Everything is committed.
    pub fn done(&mut self) {
        self.committed = Instant::now();
        self.pending_since = None;
    }
}
