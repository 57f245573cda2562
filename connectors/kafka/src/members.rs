//! Who works on which partition: membership of an ordinary consumer group.
//!
//! The group only spreads the partitions of a topic over workers, and mirrors offsets so that
//! Kafka's own tools show the lag. It fences nothing: what a lane applies is guarded by its ledger.
//! No record is fetched here; a lane reads with its own [`crate::Reader`].
//!
//! What can go wrong: a worker that does not hear the group for longer than the session time-out
//! loses all its partitions, and hears of it as a removal with `lost`. A lane that does not stop
//! in time overlaps with its successor until the ledger's compare-and-set stops it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tracing::{debug, warn};
use unitflow_change::fault::{Code, Fault, Kind};

use crate::broker::{ASK, Broker, Quiet, blocking, judge, judge_code, log};

/// How long the thread waits for the group before it looks whether it shall end.
const BEAT: Duration = Duration::from_millis(200);

/// How a member behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long the group waits for a silent member before it gives its partitions to others. The
    /// broker allows 6 s to 30 min unless set otherwise.
    pub session_timeout: Duration,
    /// How long a partition is held back until its lane was confirmed to have stopped.
    pub stop_within: Duration,
}

impl Default for Options {
    /// Ten seconds each: a killed worker's lanes move within that.
    fn default() -> Self {
        let ten = Duration::from_secs(10);
        Self { session_timeout: ten, stop_within: ten }
    }
}

/// A change of what this worker works on.
#[derive(Debug)]
pub enum Change {
    /// These partitions are this worker's from now on.
    Added {
        /// Ascending.
        partitions: Vec<i32>,
    },
    /// These partitions go to others. Stop their lanes, then confirm.
    Removed {
        /// Ascending.
        partitions: Vec<i32>,
        /// They may be worked on by others already: the group has not heard from this worker.
        lost: bool,
        /// To be told that the lanes have stopped.
        stopped: Stopped,
    },
}

/// Tells the group that the lanes of removed partitions have stopped. Dropped without
/// [`Stopped::confirm`], it tells nothing, and the partitions are held back for the whole time.
#[derive(Debug)]
pub struct Stopped(std_mpsc::SyncSender<()>);

impl Stopped {
    /// All lanes of the removed partitions have stopped.
    pub fn confirm(self) {
        // The wait may be over already.
        let _ = self.0.try_send(());
    }
}

/// This worker's membership in the group of a topic.
///
/// * **Sum of changes.** What was added and not removed is what this worker works on. Changes come
///   in order; none is left out.
/// * **No overlap if all goes well.** A partition that is removed goes to another member only after
///   [`Stopped::confirm`], or after `stop_within`; a lost one may be there already.
/// * **Nothing is fetched.** Partitions are paused in the moment they are assigned.
/// * **Mirrors.** [`Members::commit`] never moves a lane; it is for the eyes of operators.
///
/// Partitions move one by one (cooperative, sticky); those that stay are not disturbed. Membership
/// is not static: a worker that was stopped leaves at once. Dropping it leaves the group; stop all
/// lanes first.
pub struct Members {
    consumer: Option<Arc<BaseConsumer<Seat>>>,
    seat: Arc<Shared>,
    topic: String,
    changes: mpsc::UnboundedReceiver<Result<Change, Fault>>,
    thread: Option<JoinHandle<()>>,
}

impl Members {
    /// Joins the group. Returns before anything is assigned.
    ///
    /// # Errors
    /// [`Code::Config`]. What Kafka says comes from [`Members::next`].
    pub fn join(
        broker: &Broker,
        group: &str,
        topic: &str,
        options: &Options,
    ) -> Result<Self, Fault> {
        let session = options.session_timeout.as_millis().to_string();
        let heartbeat = (options.session_timeout.as_millis() / 4).to_string();
        let defaults = [
            ("session.timeout.ms", session.as_str()),
            ("heartbeat.interval.ms", heartbeat.as_str()),
            ("queued.max.messages.kbytes", "1"),
            ("fetch.wait.max.ms", "500"),
        ];
        let forced = [
            ("group.id", group),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("isolation.level", "read_committed"),
            ("auto.offset.reset", "error"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
        ];
        let place = format!("group {group}");
        let (send, changes) = mpsc::unbounded_channel();
        let seat = Arc::new(Shared::default());
        let context =
            Seat { changes: send.clone(), stop_within: options.stop_within, seat: seat.clone() };
        let consumer: BaseConsumer<Seat> = broker
            .client(&defaults, &forced)?
            .create_with_context(context)
            .map_err(|error| judge(&error, &place))?;
        consumer.subscribe(&[topic]).map_err(|error| judge(&error, &place))?;
        let consumer = Arc::new(consumer);
        let thread = std::thread::Builder::new().name("unitflow-group".to_owned()).spawn({
            let (consumer, seat) = (Arc::clone(&consumer), Arc::clone(&seat));
            move || attend(&consumer, &seat, &send, &place)
        });
        let thread = thread.map_err(|error| Fault::fatal(Code::Bug, format!("thread: {error}")))?;
        let (consumer, thread) = (Some(consumer), Some(thread));
        Ok(Self { consumer, seat, topic: topic.to_owned(), changes, thread })
    }

    /// The next change. Waits for it; may be dropped while it waits without losing anything.
    ///
    /// # Errors
    /// What the group refuses ([`Code::Grant`], [`Code::Setting`], [`Code::TopicMissing`], …). The
    /// membership goes on trying, so the same fault may come again.
    pub async fn next(&mut self) -> Result<Change, Fault> {
        match self.changes.recv().await {
            Some(change) => change,
            None => Err(Fault::fatal(Code::Bug, "the group's thread has ended")),
        }
    }

    /// Mirrors where lanes stand: partition, next offset to read, note. Does not wait; of several
    /// for one partition the last one counts. Whether it arrived is told by
    /// [`Members::commits_refused`].
    ///
    /// # Errors
    /// `Retry` while there is no session.
    pub fn commit(&self, offsets: &[(i32, i64, &str)]) -> Result<(), Fault> {
        let Some(consumer) = &self.consumer else { return Ok(()) };
        let place = || format!("mirroring offsets of {}", self.topic);
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for &(partition, offset, note) in offsets {
            let mut place = list.add_partition(&self.topic, partition);
            place.set_metadata(note);
            place
                .set_offset(Offset::Offset(offset))
                .map_err(|error| judge(&error, format!("offset {offset}")))?;
        }
        consumer.commit(&list, CommitMode::Async).map_err(|error| judge(&error, place()))
    }

    /// How many mirrored offsets did not arrive, and why the last one did not.
    #[must_use]
    pub fn commits_refused(&self) -> (u64, Option<String>) {
        let why = self.seat.refusal.lock().ok().and_then(|why| why.clone());
        (self.seat.refused.load(Ordering::Relaxed), why)
    }

    /// Leaves the group and waits until that is done. Stop all lanes first.
    pub async fn leave(mut self) {
        let ended = blocking(move || {
            self.end();
            Ok(())
        });
        if let Err(fault) = ended.await {
            warn!(%fault, "leaving the group");
        }
    }

    fn end(&mut self) {
        self.seat.closing.store(true, Ordering::Release);
        // The thread holds the last one, so that the group is left there.
        self.consumer = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the group's thread has panicked");
        }
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.end();
    }
}

/// Serves the group until the membership ends. Sleeps inside `poll`; hearts beat on the library's
/// own threads.
fn attend(
    consumer: &BaseConsumer<Seat>,
    seat: &Shared,
    changes: &mpsc::UnboundedSender<Result<Change, Fault>>,
    place: &str,
) {
    while !seat.closing.load(Ordering::Acquire) {
        match consumer.poll(BEAT) {
            None => {}
            // A batch that was under way when its partition was paused.
            Some(Ok(record)) => drop(record),
            Some(Err(error)) => {
                let said = seat.said.lock().map(|said| said.clone()).unwrap_or_default();
                let fault = match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::PartitionEOF) => {
                        continue;
                    }
                    Some(code) => judge_code(code, place, &said),
                    None => judge(&error, place),
                };
                if fault.kind != Kind::Retry {
                    let _ = changes.send(Err(fault));
                }
            }
        }
    }
}

/// What the thread, the callbacks and the owner share.
#[derive(Default)]
struct Shared {
    closing: AtomicBool,
    refused: AtomicU64,
    refusal: Mutex<Option<String>>,
    said: Mutex<String>,
}

/// The callbacks; all of them run on the group's thread.
struct Seat {
    // Few and far between: one per rebalance, and a removal waits to be confirmed.
    changes: mpsc::UnboundedSender<Result<Change, Fault>>,
    stop_within: Duration,
    seat: Arc<Shared>,
}

impl Seat {
    fn added(&self, partitions: Vec<i32>) {
        if !partitions.is_empty() {
            let _ = self.changes.send(Ok(Change::Added { partitions }));
        }
    }

    /// Reports a removal and waits until it was confirmed.
    fn removed(&self, partitions: Vec<i32>, lost: bool) {
        if partitions.is_empty() || self.seat.closing.load(Ordering::Acquire) {
            return;
        }
        let (confirm, confirmed) = std_mpsc::sync_channel(1);
        let until = Instant::now() + self.stop_within;
        let change = Change::Removed { partitions, lost, stopped: Stopped(confirm) };
        if self.changes.send(Ok(change)).is_err() {
            return;
        }
        while Instant::now() < until && !self.seat.closing.load(Ordering::Acquire) {
            match confirmed.recv_timeout(BEAT) {
                Ok(()) => return,
                Err(std_mpsc::RecvTimeoutError::Timeout) => {}
                Err(std_mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(BEAT),
            }
        }
        warn!("lanes of removed partitions were not confirmed to have stopped");
    }
}

impl ClientContext for Seat {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(target: "librdkafka", %error, reason);
        if let Ok(mut said) = self.seat.said.lock() {
            reason.clone_into(&mut said);
        }
    }
}

impl ConsumerContext for Seat {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let mut partitions: Vec<i32> = list.elements().iter().map(|p| p.partition()).collect();
        partitions.sort_unstable();
        let done = if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // An explicit offset, so that none is looked up; it is never read from.
            let done = list
                .set_all_offsets(Offset::Offset(0))
                .and_then(|()| consumer.incremental_assign(list))
                .and_then(|()| consumer.pause(list));
            self.added(partitions);
            done
        } else {
            self.removed(partitions, consumer.assignment_lost());
            consumer.incremental_unassign(list)
        };
        if let Err(error) = done {
            let _ = self.changes.send(Err(judge(&error, "rebalance")));
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            debug!(%error, "an offset was not mirrored");
            self.seat.refused.fetch_add(1, Ordering::Relaxed);
            if let Ok(mut why) = self.seat.refusal.lock() {
                *why = Some(error.to_string());
            }
        }
    }
}

/// What a group has committed for the partitions `0..partitions` of a topic: next offset and note;
/// `None` where there is nothing.
///
/// # Errors
/// As Kafka answers; `Retry` if it did not.
pub async fn committed(
    broker: &Broker,
    group: &str,
    topic: &str,
    partitions: i32,
) -> Result<Vec<Option<(i64, String)>>, Fault> {
    let (broker, group, topic) = (broker.clone(), group.to_owned(), topic.to_owned());
    blocking(move || {
        let place = format!("offsets of group {group}");
        let forced = [("group.id", group.as_str()), ("enable.auto.commit", "false")];
        let client: BaseConsumer<Quiet> = broker
            .client(&[], &forced)?
            .create_with_context(Quiet::default())
            .map_err(|error| judge(&error, &place))?;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition(&topic, partition);
        }
        let list = ask_coordinator(&client, &list).map_err(|error| judge(&error, &place))?;
        (0..partitions)
            .map(|partition| {
                let Some(found) = list.find_partition(&topic, partition) else { return Ok(None) };
                found.error().map_err(|error| judge(&error, &place))?;
                Ok(match found.offset() {
                    Offset::Offset(offset) => Some((offset, found.metadata().to_owned())),
                    _ => None,
                })
            })
            .collect()
    })
    .await
}

/// How many members a group has now: one that was killed stays in it until its session ends.
///
/// # Errors
/// As Kafka answers; `Retry` if it did not.
pub async fn present(broker: &Broker, group: &str) -> Result<usize, Fault> {
    let (broker, group) = (broker.clone(), group.to_owned());
    blocking(move || {
        let judged = |error: KafkaError| judge(&error, format!("group {group}"));
        let client: BaseConsumer<Quiet> =
            broker.client(&[], &[])?.create_with_context(Quiet::default()).map_err(judged)?;
        let list = client.fetch_group_list(Some(&group), ASK).map_err(judged)?;
        Ok(list.groups().iter().map(|group| group.members().len()).sum())
    })
    .await
}

/// Asks the group's coordinator. A cluster that has just been born, or has lost a broker, has none
/// for a moment: it elects one while it is asked.
fn ask_coordinator(
    client: &BaseConsumer<Quiet>,
    list: &TopicPartitionList,
) -> KafkaResult<TopicPartitionList> {
    use RDKafkaErrorCode as E;
    let until = Instant::now() + ASK;
    loop {
        let answer = client.committed_offsets(list.clone(), ASK);
        let electing = matches!(
            answer.as_ref().err().and_then(KafkaError::rdkafka_error_code),
            Some(E::NotCoordinator | E::CoordinatorLoadInProgress | E::CoordinatorNotAvailable)
        );
        if !electing || Instant::now() > until {
            return answer;
        }
        std::thread::sleep(BEAT);
    }
}
