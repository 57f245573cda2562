//! Partitions of one topic, read at given offsets.
//!
//! What can go wrong: the offset is no longer there (retention) or not yet there again (the topic
//! lost its tail or was created anew); the topic is gone; the user may not read. These end the
//! reader with a fault. A broker that is away does not: the client library goes on trying, and
//! [`Reader::down_since`] tells since when.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tracing::debug;
use unitflow_change::fault::{Code, Fault, Kind};

use crate::broker::{ASK, Broker, blocking, judge, judge_code, log};
use crate::last::OwnedRecord;
use crate::pieces::{self, First, Joined, Joining, Piece};
use crate::topics::assured;

/// The client library wants a group's name even where partitions are assigned by hand. Nothing is
/// ever committed to it.
const GROUP: &str = "unitflow.reader";

/// Bytes that a reader fetches ahead unless told otherwise.
pub const QUEUE_BYTES: usize = 8 << 20;

/// How a reader fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes fetched ahead, over all partitions.
    pub queue_bytes: usize,
    /// Bytes that one answer of the broker holds of a partition, compressed: a few times as much in
    /// memory, beside what waits in the queue. A batch that is larger comes all the same.
    pub fetch_bytes: usize,
    /// How soon after the last record its [`Item::End`] is told. It is also how often an idle
    /// reader asks, so a shorter time costs. Records are not delayed by it.
    pub end_within: Duration,
}

impl Default for Options {
    /// 8 MiB, 1 MiB, and a fifth of a second.
    fn default() -> Self {
        let end_within = Duration::from_millis(200);
        Self { queue_bytes: QUEUE_BYTES, fetch_bytes: 1 << 20, end_within }
    }
}

/// Reads partitions of one topic from given offsets.
///
/// * **Committed only.** Records of aborted transactions and control records are never seen; at an
///   open transaction the reader waits.
/// * **In order, from there.** The first record of a partition is the first committed one at or
///   after the given offset; then each one in offset order. An offset that the topic does not hold
///   ends the reader ([`Code::OffsetGone`], [`Code::TopicTruncated`]): it never jumps.
/// * **Whole.** A record that travelled in [pieces] is put together; a part of one is never seen.
/// * **Ends are told.** [`Item::End`] comes whenever the reader has passed everything that stands
///   in a partition, with the offset to resume from, which is past a transaction's marker.
/// * **Bounded.** Records fetched ahead are bounded by the queue, and a record put together by
///   [`pieces::RECORD_BYTES_MAX`] in each partition; what the caller holds is not.
/// * **Undamaged.** Each batch's checksum is compared.
/// * **Dead is dead.** After a fault every call returns that fault.
///
/// Records are borrowed from the reader, so that a batch of them costs no copy. One task reads at
/// a time.
pub struct Reader {
    consumer: BaseConsumer<Watch>,
    topic: String,
    starts: Vec<(i32, i64)>,
    joining: Mutex<Joining>,
    /// Whether a record is being put together.
    is_joining: AtomicBool,
    /// How many pieces were taken.
    pieces: AtomicU64,
    filled: Arc<Notify>,
    dead: Mutex<Option<Fault>>,
    has_died: AtomicBool,
}

/// What a reader yields.
pub enum Item<'a> {
    /// A committed record.
    Record(Record<'a>),
    /// Everything in this partition was read.
    End {
        /// The partition.
        partition: i32,
        /// The next offset to read; past the last transaction's marker.
        offset: i64,
    },
}

/// A committed record. One that travelled whole is borrowed from its reader.
pub struct Record<'a>(Content<'a>);

enum Content<'a> {
    Whole(BorrowedMessage<'a>),
    Joined(Box<Joined>),
}

impl Record<'_> {
    /// The partition it stands in.
    #[must_use]
    pub fn partition(&self) -> i32 {
        match &self.0 {
            Content::Whole(message) => message.partition(),
            Content::Joined(record) => record.partition,
        }
    }

    /// Where it begins: a reader that begins there, or before, sees it.
    #[must_use]
    pub fn offset(&self) -> i64 {
        match &self.0 {
            Content::Whole(message) => message.offset(),
            Content::Joined(record) => record.offset,
        }
    }

    /// The offset after it: what is to be read next.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        match &self.0 {
            Content::Whole(message) => message.offset() + 1,
            Content::Joined(record) => record.next,
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        match &self.0 {
            Content::Whole(message) => message.key(),
            Content::Joined(record) => record.first.key.as_deref(),
        }
    }

    /// Its value; `None` is a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        match &self.0 {
            Content::Whole(message) => message.payload(),
            Content::Joined(record) => Some(&record.value),
        }
    }

    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// All headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let (borrowed, owned) = match &self.0 {
            Content::Whole(message) => (message.headers(), &[][..]),
            Content::Joined(record) => (None, record.first.headers.as_slice()),
        };
        let owned = owned.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        borrowed.into_iter().flat_map(each_header).chain(owned)
    }

    /// When it was written, in milliseconds since 1970, as the topic counts it.
    #[must_use]
    pub fn timestamp_ms(&self) -> Option<i64> {
        match &self.0 {
            Content::Whole(message) => message.timestamp().to_millis(),
            Content::Joined(record) => record.first.timestamp_ms,
        }
    }
}

fn each_header(headers: &BorrowedHeaders) -> impl Iterator<Item = (&str, &[u8])> {
    (0..headers.count()).filter_map(|index| {
        let header = headers.try_get(index)?;
        Some((header.key, header.value.unwrap_or_default()))
    })
}

impl From<Record<'_>> for OwnedRecord {
    fn from(record: Record<'_>) -> Self {
        let (offset, next_offset) = (record.offset(), record.next_offset());
        match record.0 {
            Content::Whole(message) => Self {
                offset,
                next_offset,
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: message.headers().into_iter().flat_map(owned_headers).collect(),
                timestamp_ms: message.timestamp().to_millis(),
            },
            Content::Joined(record) => Self {
                offset,
                next_offset,
                key: record.first.key,
                value: Some(record.value),
                headers: record.first.headers,
                timestamp_ms: record.first.timestamp_ms,
            },
        }
    }
}

fn owned_headers(headers: &BorrowedHeaders) -> impl Iterator<Item = (String, Vec<u8>)> {
    each_header(headers).map(|(key, value)| (key.to_owned(), value.to_vec()))
}

impl Reader {
    /// Opens a reader at these offsets of these partitions and checks that the topic holds them.
    /// `queue_bytes` bounds what is fetched ahead ([`QUEUE_BYTES`] is a good value).
    ///
    /// # Errors
    /// [`Code::OffsetGone`], [`Code::TopicTruncated`], [`Code::TopicMissing`]; `Retry` while Kafka
    /// can't be reached.
    pub async fn open(
        broker: &Broker,
        topic: &str,
        starts: &[(i32, i64)],
        queue_bytes: usize,
    ) -> Result<Self, Fault> {
        let options = Options { queue_bytes, ..Options::default() };
        Self::open_with(broker, topic, starts, options).await
    }

    /// The same with all options.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub async fn open_with(
        broker: &Broker,
        topic: &str,
        starts: &[(i32, i64)],
        options: Options,
    ) -> Result<Self, Fault> {
        let last = starts.iter().map(|(partition, _)| *partition).max().unwrap_or(0);
        let (asked, name, starts) = (broker.clone(), topic.to_owned(), starts.to_vec());
        match blocking(move || Self::open_blocking(&asked, name, starts, &options)).await {
            Err(fault) => Err(assured(broker, (topic, last), fault).await),
            reader => reader,
        }
    }

    fn open_blocking(
        broker: &Broker,
        topic: String,
        starts: Vec<(i32, i64)>,
        options: &Options,
    ) -> Result<Self, Fault> {
        let queue = (options.queue_bytes / 1024).max(1).to_string();
        let fetch = options.fetch_bytes.to_string();
        let wait = options.end_within.as_millis().to_string();
        let defaults = [
            ("fetch.wait.max.ms", wait.as_str()),
            ("queued.max.messages.kbytes", queue.as_str()),
            ("fetch.message.max.bytes", fetch.as_str()),
            // At its default of a second, a backlog is read in fits and starts.
            ("fetch.queue.backoff.ms", "5"),
            ("fetch.error.backoff.ms", "100"),
            // A record as large as the broker takes has to fit.
            ("receive.message.max.bytes", "268435456"),
        ];
        let forced = [
            ("group.id", GROUP),
            ("isolation.level", "read_committed"),
            ("auto.offset.reset", "error"),
            ("enable.partition.eof", "true"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("check.crcs", "true"),
            // Only these tell that a broker is back while there is nothing to read.
            ("statistics.interval.ms", "3000"),
        ];
        let mut consumer: BaseConsumer<Watch> = broker
            .client(&defaults, &forced)?
            .create_with_context(Watch::default())
            .map_err(|error| judge(&error, format!("reader of {topic}")))?;
        let filled = Arc::new(Notify::new());
        consumer.set_nonempty_callback({
            let filled = Arc::clone(&filled);
            move || filled.notify_one()
        });
        let dead = Mutex::new(None);
        let has_died = AtomicBool::new(false);
        let (joining, is_joining) = (Mutex::default(), AtomicBool::new(false));
        let reader = Self {
            consumer,
            topic,
            starts,
            joining,
            is_joining,
            pieces: AtomicU64::new(0),
            filled,
            dead,
            has_died,
        };
        for &(partition, offset) in &reader.starts {
            reader.ensure_held(partition, offset, ASK)?;
            reader.begin_at(partition, offset);
        }
        let mut list = TopicPartitionList::new();
        for &(partition, offset) in &reader.starts {
            list.add_partition_offset(&reader.topic, partition, Offset::Offset(offset))
                .map_err(|error| reader.fault_of(&error))?;
        }
        reader.consumer.assign(&list).map_err(|error| reader.fault_of(&error))?;
        Ok(reader)
    }

    /// The next record or end. Waits for it; may be dropped while it waits without losing anything.
    ///
    /// # Errors
    /// What ended the reader.
    pub async fn next(&self) -> Result<Item<'_>, Fault> {
        loop {
            if let Some(item) = self.try_next()? {
                return Ok(item);
            }
            self.filled.notified().await;
        }
    }

    /// The next record or end if there is one at hand. Never waits.
    ///
    /// # Errors
    /// What ended the reader.
    pub fn try_next(&self) -> Result<Option<Item<'_>>, Fault> {
        if self.has_died.load(Ordering::Relaxed) {
            return Err(self.death());
        }
        let watch = self.consumer.context();
        loop {
            let before = watch.notices.load(Ordering::Relaxed);
            match self.consumer.poll(Duration::ZERO) {
                Some(Ok(message)) => {
                    watch.up();
                    if let Some(record) = self.whole(message)? {
                        return Ok(Some(Item::Record(record)));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    watch.up();
                    let offset = watch.end.swap(-1, Ordering::Relaxed);
                    if offset < 0 {
                        let what = format!("{}: an end without an offset", self.topic);
                        return Err(self.die(Fault::fatal(Code::Bug, what)));
                    }
                    self.expect_closed(partition, offset)?;
                    return Ok(Some(Item::End { partition, offset }));
                }
                Some(Err(error)) => self.bear(&error)?,
                // Either there is nothing, or a line of the log was in the way.
                None if watch.notices.load(Ordering::Relaxed) == before => return Ok(None),
                None => {}
            }
        }
    }

    /// Goes on reading a partition from another offset. Records that were handed out stay valid;
    /// none from before is handed out afterwards. Blocks for a moment.
    ///
    /// # Errors
    /// As [`Reader::open`]; a `Retry` leaves the reader as it was.
    pub fn seek(&self, partition: i32, offset: i64) -> Result<(), Fault> {
        if self.has_died.load(Ordering::Relaxed) {
            return Err(self.death());
        }
        self.ensure_held(partition, offset, ASK)?;
        self.consumer.seek(&self.topic, partition, Offset::Offset(offset), ASK).map_err(
            |error| Fault::retry(Code::Kafka, format!("seek {}[{partition}]: {error}", self.topic)),
        )?;
        self.begin_at(partition, offset);
        Ok(())
    }

    /// Closes the reader without holding up the runtime: a plain drop takes a tenth of a second of
    /// its thread.
    pub async fn close(self) {
        // Dropping can't fail.
        let _ = blocking(move || {
            drop(self);
            Ok(())
        })
        .await;
    }

    /// Since when no broker can be reached, if so. Known to within seconds.
    #[must_use]
    pub fn down_since(&self) -> Option<SystemTime> {
        let millis = self.consumer.context().down_since.load(Ordering::Relaxed);
        (millis != 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    }

    fn begin_at(&self, partition: i32, offset: i64) {
        let mut joining = self.joining.lock().unwrap_or_else(PoisonError::into_inner);
        joining.begin(partition, offset);
        self.is_joining.store(!joining.is_empty(), Ordering::Relaxed);
    }

    /// The record that a message is, or that it completes.
    fn whole<'a>(&self, message: BorrowedMessage<'a>) -> Result<Option<Record<'a>>, Fault> {
        let first = message.headers().filter(|headers| headers.count() > 0);
        let first = first.and_then(|headers| headers.try_get(0));
        let Some(header) = first.filter(|header| header.key == pieces::HEADER) else {
            self.expect_closed(message.partition(), message.offset())?;
            return Ok(Some(Record(Content::Whole(message))));
        };
        let place = (message.partition(), message.offset());
        let Some(piece) = Piece::parse(header.value.unwrap_or_default()) else {
            let what = format!("a piece without a place at offset {}", place.1);
            return Err(self.die(Fault::fatal(Code::Record, what).at(&self.topic)));
        };
        self.pieces.fetch_add(1, Ordering::Relaxed);
        let mut joining = self.joining.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = joining.take(place, piece, message.payload().unwrap_or_default(), || First {
            key: message.key().map(<[u8]>::to_vec),
            headers: message.headers().into_iter().flat_map(owned_headers).skip(1).collect(),
            timestamp_ms: message.timestamp().to_millis(),
        });
        self.is_joining.store(!joining.is_empty(), Ordering::Relaxed);
        match taken {
            Ok(record) => Ok(record.map(|record| Record(Content::Joined(Box::new(record))))),
            Err(fault) => Err(self.die(fault.at(format_args!("{}[{}]", self.topic, place.0)))),
        }
    }

    /// What is no piece, and the end, come only where no record is being put together.
    fn expect_closed(&self, partition: i32, offset: i64) -> Result<(), Fault> {
        if !self.is_joining.load(Ordering::Relaxed) {
            return Ok(());
        }
        let joining = self.joining.lock().unwrap_or_else(PoisonError::into_inner);
        joining
            .expect_closed(partition, offset)
            .map_err(|fault| self.die(fault.at(format_args!("{}[{partition}]", self.topic))))
    }

    /// How many pieces of records it has taken so far: where the number rises, the next record is
    /// under way, however long it takes.
    #[must_use]
    pub fn pieces(&self) -> u64 {
        self.pieces.load(Ordering::Relaxed)
    }

    /// Passes over what the library mends itself; everything else ends the reader.
    fn bear(&self, error: &KafkaError) -> Result<(), Fault> {
        use RDKafkaErrorCode as E;
        let fault = self.fault_of(error);
        match error.rdkafka_error_code() {
            Some(E::AutoOffsetReset | E::OffsetOutOfRange | E::LogTruncation) => {
                Err(self.die(self.why_gone(fault)))
            }
            // No group is used, so it does not matter that this one may not be.
            Some(E::GroupAuthorizationFailed) => Ok(()),
            Some(E::AllBrokersDown) => {
                self.consumer.context().down();
                Ok(())
            }
            _ if fault.kind == Kind::Retry => Ok(()),
            _ => Err(self.die(fault)),
        }
    }

    /// Whether an offset was passed by retention or lies beyond the end; the library tells neither.
    fn why_gone(&self, fault: Fault) -> Fault {
        let list = self.consumer.position().ok();
        for &(partition, start) in &self.starts {
            let place = list.as_ref().and_then(|l| l.find_partition(&self.topic, partition));
            let at = match place.map(|place| place.offset()) {
                Some(Offset::Offset(offset)) => offset,
                _ => start,
            };
            if let Err(fault) = self.ensure_held(partition, at, Duration::from_secs(2))
                && fault.kind == Kind::Fatal
            {
                return fault;
            }
        }
        fault
    }

    fn ensure_held(&self, partition: i32, offset: i64, wait: Duration) -> Result<(), Fault> {
        let place = format!("{}[{partition}]", self.topic);
        let (low, high) = self
            .consumer
            .fetch_watermarks(&self.topic, partition, wait)
            .map_err(|error| self.fault_of(&error))?;
        if offset < low {
            let what = format!("{place}: offset {offset} is gone, the topic begins at {low}");
            let hint = "raise the topic's retention above the longest outage, and resync";
            return Err(Fault::fatal(Code::OffsetGone, what).hint(hint));
        }
        if offset > high {
            let what = format!("{place}: ends at {high}, before the offset {offset} to read from");
            let hint = "the topic lost its tail or was created anew: see the runbook for how a log begins anew";
            return Err(Fault::fatal(Code::TopicTruncated, what).hint(hint));
        }
        Ok(())
    }

    fn fault_of(&self, error: &KafkaError) -> Fault {
        let place = format!("reader of {}", self.topic);
        let said = self.consumer.context().said.lock().map(|said| said.clone()).unwrap_or_default();
        match error.rdkafka_error_code() {
            Some(code) => judge_code(code, place, &said),
            None => judge(error, place),
        }
    }

    fn die(&self, fault: Fault) -> Fault {
        if let Ok(mut dead) = self.dead.lock() {
            *dead = Some(fault.clone());
        }
        self.has_died.store(true, Ordering::Relaxed);
        fault
    }

    fn death(&self) -> Fault {
        let dead = self.dead.lock().ok().and_then(|dead| dead.clone());
        dead.unwrap_or_else(|| Fault::fatal(Code::Bug, "a dead reader without a cause"))
    }
}

/// What the library says besides records. All of it is said inside `poll`, by the polling thread.
#[derive(Default)]
struct Watch {
    /// Counts what made `poll` return without a record though there may be more.
    notices: AtomicU64,
    /// The offset of the end that `poll` is about to report; rdkafka passes on its partition only.
    end: AtomicI64,
    /// Milliseconds since 1970, or 0.
    down_since: AtomicU64,
    said: Mutex<String>,
}

impl Watch {
    fn up(&self) {
        if self.down_since.load(Ordering::Relaxed) != 0 {
            self.down_since.store(0, Ordering::Relaxed);
        }
    }

    fn down(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(1);
        // Only the first report counts.
        let (new, order) = (now, Ordering::Relaxed);
        let _ = self.down_since.compare_exchange(0, new, order, order);
    }
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.notices.fetch_add(1, Ordering::Relaxed);
        log(level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.notices.fetch_add(1, Ordering::Relaxed);
        if self.down_since.load(Ordering::Relaxed) != 0
            && String::from_utf8_lossy(statistics).contains("\"state\":\"UP\"")
        {
            self.up();
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            self.end.store(end_offset(reason).unwrap_or(-1), Ordering::Relaxed);
            return;
        }
        debug!(target: "librdkafka", %error, reason);
        if let Ok(mut said) = self.said.lock() {
            reason.clone_into(&mut said);
        }
    }
}

impl ConsumerContext for Watch {}

/// The offset in librdkafka's "Fetch from broker 1 reached end of partition at offset 42
/// (HighwaterMark 42)".
fn end_offset(reason: &str) -> Option<i64> {
    let (_, rest) = reason.split_once(" at offset ")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_read_from_the_library_s_own_words() {
        let text = "Fetch from broker 1 reached end of partition at offset 42 (HighwaterMark 43)";
        assert_eq!(end_offset(text), Some(42));
        assert_eq!(end_offset("something else"), None);
        assert_eq!(end_offset("at offset x "), None);
    }
}
