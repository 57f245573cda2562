//! When a stage commits to Kafka: at once when nothing more is at hand, but never for each record of
//! a stream that does not pause, and the less often the longer a commit takes: a busy broker is not made
//! busier.

use std::time::{Duration, Instant};

use tokio::task::block_in_place;
use unitflow_change::Fault;
use unitflow_kafka::Writer;
use unitflow_kafka::reader::{Item, Reader, Record};

use super::stand_by::ALIVE_EVERY;

/// How many records are taken before the clock is looked at.
const RECORDS_BETWEEN_LOOKS: u32 = 256;
/// How often a stage that has nothing to do looks whether its writer still lives.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The shortest time between two commits. One costs the broker about as much as 300 rows.
const COMMIT_EVERY: Duration = Duration::from_millis(10);
/// The longest time a record waits for its commit in a stream that does not pause.
const COMMIT_WITHIN: Duration = Duration::from_millis(50);
/// Between two commits are at least so many times what the last one took.
const COMMIT_TIMES: u32 = 4;
/// But no more than this.
const COMMIT_APART_MOST: Duration = Duration::from_millis(200);
/// Bytes after which a commit is due.
const COMMIT_BYTES: usize = 8 << 20;

/// Decides when a stage commits.
#[derive(Debug)]
pub struct Grouping {
    committed: Instant,
    /// The last commit.
    took: Duration,
    pending_since: Option<Instant>,
}

impl Grouping {
    /// Nothing is pending.
    pub fn new() -> Self {
        Self { committed: Instant::now(), took: Duration::ZERO, pending_since: None }
    }

    /// Something has to be committed some time.
    pub fn pending(&mut self) {
        self.pending_since.get_or_insert_with(Instant::now);
    }

    /// Whether a stream that goes on must be committed now. Looks at the clock: ask now and then.
    pub fn is_due(&self, writer: &Writer) -> bool {
        self.pending_since.is_some_and(|since| since.elapsed() >= self.apart(COMMIT_WITHIN))
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
        Some(self.apart(COMMIT_EVERY).saturating_sub(self.committed.elapsed()))
    }

    /// The time between two commits, `least` where the last one was quick.
    fn apart(&self, least: Duration) -> Duration {
        (self.took * COMMIT_TIMES).clamp(least, COMMIT_APART_MOST)
    }

    /// Whether a stage that has nothing to commit must show that it is alive.
    pub fn is_silent(&self) -> bool {
        self.committed.elapsed() >= ALIVE_EVERY
    }

    /// Commits everything.
    pub fn commit(&mut self, writer: &mut Writer) -> Result<(), Fault> {
        let begun = Instant::now();
        block_in_place(|| writer.commit())?;
        self.committed = Instant::now();
        self.took = self.committed - begun;
        self.pending_since = None;
        Ok(())
    }
}

/// A stage that reads one topic and writes another, in groups.
///
/// [`Grouped::commit`] makes what came of all records taken so far visible, together with the place
/// behind the last of them, or nothing of it.
pub trait Grouped {
    /// Takes one record.
    fn take(&mut self, record: &Record<'_>) -> Result<(), Fault>;
    /// Commits what is pending.
    fn commit(&mut self) -> Result<(), Fault>;
    /// When it does.
    fn grouping(&self) -> &Grouping;
    /// Where to.
    fn writer(&self) -> &Writer;
}

/// Feeds a stage until it fails.
pub async fn feed(stage: &mut impl Grouped, reader: &Reader) -> Result<(), Fault> {
    loop {
        if take_what_is_at_hand(stage, reader)? {
            // A backlog never pauses, and others have to run too.
            tokio::task::yield_now().await;
            continue;
        }
        let pause = stage.grouping().pause();
        tokio::select! {
            biased;
            item = reader.next() => take(stage, &item?)?,
            () = tokio::time::sleep(pause.unwrap_or(LOOK_EVERY)) => {
                if pause.is_some() || stage.grouping().is_silent() {
                    stage.commit()?;
                }
            },
        }
    }
}

/// Takes records as long as there are some, and commits when that is due. `false`: none is left.
fn take_what_is_at_hand(stage: &mut impl Grouped, reader: &Reader) -> Result<bool, Fault> {
    for _ in 0..RECORDS_BETWEEN_LOOKS {
        let Some(item) = reader.try_next()? else { return Ok(false) };
        take(stage, &item)?;
        if stage.grouping().is_full(stage.writer()) {
            break;
        }
    }
    if stage.grouping().is_due(stage.writer()) {
        stage.commit()?;
    }
    Ok(true)
}

fn take(stage: &mut impl Grouped, item: &Item<'_>) -> Result<(), Fault> {
    let Item::Record(record) = item else { return Ok(()) };
    stage.take(record)
}
