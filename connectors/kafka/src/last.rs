//! The last committed record of a partition: what a stage goes on from.
//!
//! The end of a partition is seldom a record: transactions leave markers, aborted ones leave
//! records that do not count, compaction leaves nothing. So the search steps back in growing
//! strides until a committed record is found or the partition's beginning is reached.
//!
//! What can go wrong: a transaction is still open at the end, so that the last record is not yet
//! decided. The search waits until the stable end is the end, for a bounded time: an older writer
//! was fenced before (see [`crate::Writer::open`]), so its transaction ends at once.

use std::time::{Duration, Instant};

use unitflow_change::fault::{Code, Fault, Kind};

use crate::broker::{Broker, blocking};
use crate::reader::{Item, Options, Reader};
use crate::topics::{asking, assured, watermarks};

/// How far the first step back goes, in offsets.
const FIRST_STRIDE: i64 = 64;

/// How long an open transaction at the end is waited for.
const STABLE_WITHIN: Duration = Duration::from_secs(15);

/// How long the records of one stride may take to arrive.
const STRIDE_WITHIN: Duration = Duration::from_secs(30);

/// A committed record, copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Where it begins.
    pub offset: i64,
    /// The offset after it.
    pub next_offset: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// When it was written, in milliseconds since 1970, as the topic counts it.
    pub timestamp_ms: Option<i64>,
}

impl OwnedRecord {
    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_slice())
    }
}

/// The last committed record of a partition; `None` if it holds none.
///
/// # Errors
/// `Retry` if a transaction stays open at the end or Kafka does not answer;
/// [`Code::TopicMissing`].
pub async fn last_record(
    broker: &Broker,
    topic: &str,
    partition: i32,
) -> Result<Option<OwnedRecord>, Fault> {
    last_record_before(broker, topic, partition, i64::MAX).await
}

/// The last record that is committed by now: a transaction that is open at the end is not waited
/// for, and what it holds does not count.
///
/// # Errors
/// As [`last_record`].
pub async fn last_committed(
    broker: &Broker,
    topic: &str,
    partition: i32,
) -> Result<Option<OwnedRecord>, Fault> {
    let bounds = committed_bounds(broker, topic, partition).await;
    search(broker, (topic, partition), bounds, i64::MAX).await
}

/// The last record before an offset.
///
/// # Errors
/// As [`last_record`].
pub async fn last_record_before(
    broker: &Broker,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Option<OwnedRecord>, Fault> {
    let bounds = stable_bounds(broker, topic, partition).await;
    search(broker, (topic, partition), bounds, offset).await
}

/// Steps back from a partition's end, or from `offset`.
async fn search(
    broker: &Broker,
    (topic, partition): (&str, i32),
    bounds: Result<(i64, i64), Fault>,
    offset: i64,
) -> Result<Option<OwnedRecord>, Fault> {
    let (low, end) = match bounds {
        Err(fault) => return Err(assured(broker, (topic, partition), fault).await),
        Ok(bounds) => bounds,
    };
    let end = end.min(offset);
    let mut stride = FIRST_STRIDE;
    let mut upper = end;
    let mut start = low.max(end - stride);
    if start >= end {
        return Ok(None);
    }
    let end_within = Duration::from_millis(10);
    let options = Options { queue_bytes: 1 << 20, end_within, ..Options::default() };
    let starts = [(partition, start)];
    let reader = Reader::open_with(broker, topic, &starts, options).await.map_err(raced)?;
    loop {
        let found = last_between(&reader, upper);
        let found = tokio::time::timeout(STRIDE_WITHIN, found).await.map_err(|_| {
            let what = format!("reading the end of {topic}[{partition}] took too long");
            Fault::retry(Code::Timeout, what)
        })??;
        if found.is_some() || start <= low {
            reader.close().await;
            return Ok(found);
        }
        stride *= 8;
        upper = start;
        start = low.max(start - stride);
        reader.seek(partition, start).map_err(raced)?;
    }
}

/// Reads on up to an offset and gives the last record before it.
async fn last_between(reader: &Reader, upper: i64) -> Result<Option<OwnedRecord>, Fault> {
    let mut last = None;
    loop {
        match reader.next().await? {
            Item::Record(record) if record.offset() >= upper => return Ok(last),
            Item::Record(record) => {
                let record = OwnedRecord::from(record);
                let is_last = record.next_offset >= upper;
                last = Some(record);
                if is_last {
                    return Ok(last);
                }
            }
            Item::End { offset, .. } if offset >= upper => return Ok(last),
            Item::End { .. } => {}
        }
    }
}

/// The beginning of a partition, and the end of what no open transaction holds back.
async fn committed_bounds(
    broker: &Broker,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), Fault> {
    let (broker, topic) = (broker.clone(), topic.to_owned());
    blocking(move || watermarks(&asking(&broker, "read_committed")?, &topic, partition)).await
}

/// The beginning and the end of a partition, once no transaction is open at the end.
async fn stable_bounds(broker: &Broker, topic: &str, partition: i32) -> Result<(i64, i64), Fault> {
    let (broker, topic) = (broker.clone(), topic.to_owned());
    blocking(move || {
        let stable = asking(&broker, "read_committed")?;
        let all = asking(&broker, "read_uncommitted")?;
        let until = Instant::now() + STABLE_WITHIN;
        loop {
            // In this order: what is stable now was written before.
            let (_, stable_end) = watermarks(&stable, &topic, partition)?;
            let (low, end) = watermarks(&all, &topic, partition)?;
            if stable_end == end {
                return Ok((low, end));
            }
            if Instant::now() > until {
                let what = format!("{topic}[{partition}]: a transaction is open at {stable_end}");
                let hint = "is another writer at work on this topic?";
                return Err(Fault::retry(Code::Timeout, what).hint(hint));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    })
    .await
}

/// Retention moved the beginning while we were looking: look again.
fn raced(mut fault: Fault) -> Fault {
    if fault.code == Code::OffsetGone {
        fault.kind = Kind::Retry;
    }
    fault
}
