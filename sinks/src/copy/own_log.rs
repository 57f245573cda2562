//! Reads this unit's own captured log while copies arrive, and knows when it was read up to
//! now.
//!
//! *Now* is a marker that is written through the store and comes back by its log. What was committed before
//! the marker stands before it there.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::info;
use unitflow_change::copy::Chunk;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_change::tag::{HEADER, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::broker::Broker;
use unitflow_kafka::reader::{Item, Reader, Record};
use unitflow_kafka::topics;

use super::identity::Identity;
use super::index::{Index, Lane, Whose, Writer};

/// Bytes fetched ahead.
const QUEUE_BYTES: usize = 1 << 20;
/// How far before the reading of the first chunk the log is begun: what the source had not applied
/// by then is no older, unless it lags more.
const LOOK_BACK: Duration = Duration::from_secs(30);
/// And so many times as long before that, each time a chunk shows an older state than that.
const FURTHER_BACK: u32 = 8;
/// How long what is copied may be held up until the log is read up to now without anybody minding.
const QUICK: Duration = Duration::from_millis(250);
/// How long the log is read on when no copied row comes any more.
const IDLE: Duration = Duration::from_secs(120);

/// Where a unit's own log is found.
#[derive(Clone, Debug)]
pub struct Place {
    /// The log.
    pub log: Log,
    /// The unit's own Kafka.
    pub broker: Broker,
    /// The captured topic.
    pub topic: String,
    /// The log whose copies arrive: what its sinks write here lies in their own order.
    pub copied: Log,
}

/// What there is to know of the store that a log is captured from.
pub trait Source: Send + Sync + 'static {
    /// A connection for markers.
    type Markers: Send;

    /// Opens one.
    fn open(&self) -> impl Future<Output = Result<Self::Markers, Fault>> + Send;

    /// Puts a marker of this name behind all that is committed; its number, higher than any before it.
    fn put_marker(
        &self,
        markers: &mut Self::Markers,
        name: &str,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// Where the lanes of all logs stand that are applied to the store.
    fn lanes(&self) -> impl Future<Output = Result<Vec<(Log, i32, Seq)>, Fault>> + Send;

    /// Takes what a record says into its transaction. Of markers only those of this name count.
    fn take(
        &self,
        record: &Record<'_>,
        tag: &Tag<'_>,
        name: &str,
        transaction: &mut Transaction,
    ) -> Result<(), Fault>;
}

/// See the [module](self). One for all lanes of a flow.
pub struct OwnLog<S: Source> {
    place: Place,
    source: S,
    reading: AsyncMutex<Option<Reading<S::Markers>>>,
    index: Mutex<Option<Read>>,
    /// The logs that are applied here, as lanes last saw it.
    present: Mutex<HashSet<Log>>,
    /// How many readings were begun.
    readings: AtomicU64,
    /// How often [`LOOK_BACK`] was too short.
    further: AtomicU32,
    /// Whether it took no more than a moment to read up to now when that was done last.
    quick: AtomicBool,
}

impl<S: Source> fmt::Debug for OwnLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnLog").field("log", &self.place.log).finish_non_exhaustive()
    }
}

/// What one reading has put into the index.
struct Read {
    reading: u64,
    index: Index,
}

/// A log that is being read.
struct Reading<M> {
    number: u64,
    /// It was begun with the first record that the log still has.
    from_the_first: bool,
    /// The last marker that was read, or why no more will be.
    reached: watch::Receiver<Result<u64, Fault>>,
    markers: M,
    _task: AbortOnDropHandle<()>,
}

impl<S: Source> OwnLog<S> {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(place: Place, source: S) -> Arc<Self> {
        Arc::new(Self {
            place,
            source,
            reading: AsyncMutex::new(None),
            index: Mutex::default(),
            present: Mutex::default(),
            readings: AtomicU64::new(0),
            further: AtomicU32::new(0),
            quick: AtomicBool::new(false),
        })
    }

    /// Which log it is.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.place.log
    }

    /// Sees that the log is read, from as far back as the chunk asks for and the log goes, and that to
    /// read it up to now takes no more than a moment: it does not where that was so last time.
    ///
    /// # Errors
    /// As [`catch_up`](Self::catch_up).
    pub async fn begin_for(
        self: &Arc<Self>,
        chunk: &Chunk,
        since_us: u64,
        patience: Duration,
    ) -> Result<(), Fault> {
        while !self.is_read_for(chunk).await {
            self.catch_up(since_us, patience).await?;
            let behind = self.index().as_ref().is_some_and(|read| read.index.begins_behind(chunk));
            let mut reading = self.reading.lock().await;
            if !behind || reading.as_ref().is_none_or(|reading| reading.from_the_first) {
                return Ok(());
            }
            self.further.fetch_add(1, Ordering::Relaxed);
            *reading = None;
        }
        Ok(())
    }

    async fn is_read_for(&self, chunk: &Chunk) -> bool {
        let reading = self.reading.lock().await;
        let goes_on = reading.as_ref().is_some_and(|reading| {
            // No marker was read yet: lanes of which nothing came are not known.
            let complete = matches!(*reading.reached.borrow(), Ok(marker) if marker > 0);
            complete && reading.reached.has_changed().is_ok()
        });
        goes_on
            && self.quick.load(Ordering::Relaxed)
            && self.index().as_ref().is_some_and(|read| !read.index.begins_behind(chunk))
    }

    /// Reads the log up to now; gives the reading that has. `since_us` is when the oldest of the chunks at
    /// hand was read.
    ///
    /// # Errors
    /// `Retry` where that takes longer than `patience`: the connector is away or lags.
    pub async fn catch_up(
        self: &Arc<Self>,
        since_us: u64,
        patience: Duration,
    ) -> Result<u64, Fault> {
        let begun = Instant::now();
        let result = timeout(patience, self.read_up_to_now(since_us)).await;
        let quick = matches!(result, Ok(Ok(_))) && begun.elapsed() < QUICK;
        self.quick.store(quick, Ordering::Relaxed);
        match result {
            Ok(Ok(reading)) => Ok(reading),
            Ok(Err(fault)) => {
                *self.reading.lock().await = None;
                Err(fault)
            }
            Err(_) => Err(Fault::retry(
                Code::Timeout,
                format!(
                    "log {} was not captured up to now within {} s, so copied rows can't be judged",
                    self.place.log,
                    patience.as_secs()
                ),
            )
            .hint("is this unit's connector running?")),
        }
    }

    async fn read_up_to_now(self: &Arc<Self>, since_us: u64) -> Result<u64, Fault> {
        let (number, marker, mut reached) = {
            let mut reading = self.reading.lock().await;
            let over =
                reading.as_ref().is_some_and(|reading| reading.reached.has_changed().is_err());
            if over {
                // Chunks of another copy may show a younger state.
                self.further.store(0, Ordering::Relaxed);
            }
            if over || reading.is_none() {
                *reading = Some(self.clone().begin(since_us).await?);
            }
            let Some(reading) = reading.as_mut() else {
                return Err(Fault::fatal(Code::Bug, "a log that was begun is not read"));
            };
            let marker = self.source.put_marker(&mut reading.markers, &self.name()).await?;
            (reading.number, marker, reading.reached.clone())
        };
        let read = reached
            .wait_for(|reached| reached.as_ref().map_or(true, |reached| *reached >= marker))
            .await;
        match read {
            Ok(reached) => reached.as_ref().map(|_| number).map_err(Clone::clone),
            Err(_) => Err(Fault::retry(Code::Timeout, "the own log is no longer read")),
        }
    }

    async fn begin(self: Arc<Self>, since_us: u64) -> Result<Reading<S::Markers>, Fault> {
        let Place { log, broker, topic, .. } = &self.place;
        let further = FURTHER_BACK.saturating_pow(self.further.load(Ordering::Relaxed));
        let back = u64::try_from(LOOK_BACK.saturating_mul(further).as_millis()).unwrap_or(u64::MAX);
        let ms = i64::try_from((since_us / 1000).saturating_sub(back)).unwrap_or(0);
        let (low, _) = topics::bounds(broker, topic, 0).await?;
        let start = topics::offset_at(broker, topic, 0, ms).await?.max(low);
        info!(%log, offset = start, "reading this unit's own log: copies arrive");
        let reader = Reader::open(broker, topic, &[(0, start)], QUEUE_BYTES).await?;
        let markers = self.source.open().await?;
        let (tell, reached) = watch::channel(Ok(0));
        let number = self.readings.fetch_add(1, Ordering::Relaxed) + 1;
        *self.index() = None;
        let task = tokio::spawn(async move {
            if let Err(fault) = self.follow(number, &reader, &tell).await {
                drop(tell.send_replace(Err(fault)));
            }
        });
        Ok(Reading {
            number,
            from_the_first: start == low,
            reached,
            markers,
            _task: AbortOnDropHandle::new(task),
        })
    }

    fn name(&self) -> String {
        format!("from {}", self.place.copied)
    }

    /// Puts what the log holds into the index, until nobody has asked for it for long.
    async fn follow(
        &self,
        number: u64,
        reader: &Reader,
        tell: &watch::Sender<Result<u64, Fault>>,
    ) -> Result<(), Fault> {
        let mut transaction = Transaction::default();
        let (mut complete, mut last_marker) = (false, Instant::now());
        while last_marker.elapsed() < IDLE {
            let Ok(item) = timeout(IDLE, reader.next()).await else { return Ok(()) };
            let Item::Record(record) = item? else { continue };
            let tag = Tag::parse(record.header(HEADER).unwrap_or_default())?;
            if self.index().as_ref().is_none_or(|read| read.reading != number) {
                // Half a transaction says nothing.
                if tag.index > 0 {
                    continue;
                }
                let index = Index::new(self.place.log.clone(), tag.prev);
                *self.index() = Some(Read { reading: number, index });
            }
            transaction.of_copied = self.is_of_copied(&transaction);
            self.source.take(&record, &tag, &self.name(), &mut transaction)?;
            if tag.last {
                complete &= !transaction.turned;
                self.put(&mut transaction);
                if let Some(marker) = transaction.marker.take() {
                    if !std::mem::replace(&mut complete, true) {
                        self.stand_in_for_the_silent().await?;
                    }
                    last_marker = Instant::now();
                    drop(tell.send_replace(Ok(marker)));
                }
            }
        }
        Ok(())
    }

    /// Whether a sink of the copied log wrote the transaction, so that nobody asks for its rows. Its mark
    /// stands first.
    fn is_of_copied(&self, transaction: &Transaction) -> bool {
        transaction.mark.as_ref().is_some_and(|mark| mark.lane.log == self.place.copied)
    }

    /// A transaction has ended: all its rows are by whom its mark names, or by this unit.
    fn put(&self, transaction: &mut Transaction) {
        let Transaction { rows, mark, seq, turned, .. } = transaction;
        let mut read = self.index();
        let Some(Read { index, .. }) = read.as_mut() else { return };
        if std::mem::take(turned) {
            // Nor is what other units' lanes wrote in between.
            *index = Index::new(self.place.log.clone(), *seq);
        }
        let by = match mark.take() {
            Some(mark) if mark.lane.log == self.place.copied => None,
            Some(Mark { lane, from, to }) => {
                if let Some(from) = from {
                    index.stood(lane.clone(), from);
                }
                Some(Writer::Other(lane, to))
            }
            None => Some(Writer::Own(*seq)),
        };
        for row in rows.drain(..) {
            if let Some(by) = &by {
                index.note(row, by);
            }
        }
    }

    /// Lanes of which nothing came since the reading began stood all the time where they stand now.
    async fn stand_in_for_the_silent(&self) -> Result<(), Fault> {
        let lanes = self.source.lanes().await?;
        if let Some(Read { index, .. }) = self.index().as_mut() {
            for (log, lane, seq) in lanes.into_iter().filter(|(log, ..)| *log != self.place.copied)
            {
                index.stood(Lane { log, lane }, seq);
            }
        }
        Ok(())
    }

    /// For each of these rows, whose write to it lies beyond what the chunk's source had applied, as far
    /// as read, and by this reading if one is named. `None` where not everything is known that does.
    #[must_use]
    pub fn beyond(
        &self,
        reading: Option<u64>,
        rows: &[Identity],
        chunk: &Chunk,
    ) -> Option<Vec<Option<Whose>>> {
        let mut read = self.index();
        let Read { index, .. } =
            read.as_mut().filter(|read| reading.is_none_or(|reading| reading == read.reading))?;
        index.see_logs(&self.present());
        if !index.covers(chunk) {
            return None;
        }
        Some(rows.iter().map(|row| index.beyond(*row, chunk)).collect())
    }

    /// These logs are applied here by now.
    pub fn see_logs(&self, logs: impl Iterator<Item = Log>) {
        *self.present() = logs.collect();
    }

    fn present(&self) -> MutexGuard<'_, HashSet<Log>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index(&self) -> MutexGuard<'_, Option<Read>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The transaction that is being read.
#[derive(Default)]
pub struct Transaction {
    /// The rows that it wrote.
    pub rows: Vec<Identity>,
    /// Whose it is, where that is another unit's.
    pub mark: Option<Mark>,
    /// Its last record.
    pub seq: Seq,
    /// The marker that it puts.
    pub marker: Option<u64>,
    /// What was written before it was not all captured.
    pub turned: bool,
    /// A sink of the copied log wrote it, so that nobody asks for its rows.
    pub of_copied: bool,
}

/// What a transaction says that another unit's lane wrote.
pub struct Mark {
    /// The lane.
    pub lane: Lane,
    /// Where it stood before, where that is known.
    pub from: Option<Seq>,
    /// Where it stands behind it.
    pub to: Seq,
}
