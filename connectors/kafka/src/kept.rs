//! How long a topic keeps what is still to be read of it.
//!
//! Kafka removes a record once it is older than `retention.ms`, or once `retention.bytes` newer
//! ones stand behind it in its partition. When the latter will be is told by the rate at which the
//! partition has grown of late, as its records travel uncompressed: rather too soon than too late.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use unitflow_change::fault::{Code, Fault};

use crate::broker::{Broker, blocking};
use crate::last::OwnedRecord;
use crate::reader::{Item, Options, Reader};
use crate::topics::{self, Topic, asking, watermarks};

/// Bytes fetched ahead: one record of each partition is looked at.
const QUEUE_BYTES: usize = 64 << 10;
/// How many offsets at a partition's end show how fast it grows.
const SAMPLE: i64 = 500;
/// A sample is worth no more patience than this.
const SAMPLE_WITHIN: Duration = Duration::from_secs(2);

/// What a partition still holds from an offset on.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The partition.
    pub partition: i32,
    /// The lowest offset that it holds.
    pub low: i64,
    /// The first committed record at the offset, or behind it where that was removed; none where
    /// everything was read.
    pub next: Option<OwnedRecord>,
    /// After how long from now that record is removed, or one that is written now; `None` where the
    /// topic's settings keep it for ever.
    pub left: Option<Duration>,
}

/// Looks at these offsets of a topic.
///
/// # Errors
/// As [`Reader::open`].
pub async fn kept(broker: &Broker, topic: &str, places: &[(i32, i64)]) -> Result<Vec<Kept>, Fault> {
    let Some(described) = topics::describe(broker, &[topic]).await?.pop().flatten() else {
        return Err(Fault::fatal(Code::TopicMissing, format!("the topic {topic} does not exist")));
    };
    let lows = lows(broker, topic, places).await?;
    let starts: Vec<(i32, i64)> = places
        .iter()
        .zip(&lows)
        .map(|(&(partition, offset), low)| (partition, offset.max(*low)))
        .collect();
    let mut found = Vec::with_capacity(places.len());
    for ((&(partition, _), low), next) in
        starts.iter().zip(lows).zip(next_of_each(broker, topic, &starts).await?)
    {
        let age = next.as_ref().and_then(|record| record.timestamp_ms).map_or(0, age_ms);
        let left = left(broker, &described, partition, age).await?;
        found.push(Kept { partition, low, next, left });
    }
    Ok(found)
}

/// The lowest offset that each of these partitions holds.
async fn lows(broker: &Broker, topic: &str, places: &[(i32, i64)]) -> Result<Vec<i64>, Fault> {
    let (broker, topic, places) = (broker.clone(), topic.to_owned(), places.to_vec());
    blocking(move || {
        let client = asking(&broker, "read_uncommitted")?;
        let low = |&(partition, _): &(i32, i64)| Ok(watermarks(&client, &topic, partition)?.0);
        places.iter().map(low).collect()
    })
    .await
}

/// The first record at or behind each of these offsets; none at a partition's end.
async fn next_of_each(
    broker: &Broker,
    topic: &str,
    starts: &[(i32, i64)],
) -> Result<Vec<Option<OwnedRecord>>, Fault> {
    let end_within = Duration::from_millis(20);
    let options = Options { queue_bytes: QUEUE_BYTES, end_within, ..Options::default() };
    let reader = Reader::open_with(broker, topic, starts, options).await?;
    let mut found: Vec<Option<Option<OwnedRecord>>> = vec![None; starts.len()];
    while found.iter().any(Option::is_none) {
        let (partition, next) = match reader.next().await? {
            Item::Record(record) => (record.partition(), Some(OwnedRecord::from(record))),
            Item::End { partition, .. } => (partition, None),
        };
        let place = starts.iter().position(|(wanted, _)| *wanted == partition);
        if let Some(first) = place.and_then(|place| found.get_mut(place)) {
            first.get_or_insert(next);
        }
    }
    reader.close().await;
    Ok(found.into_iter().map(Option::flatten).collect())
}

/// How long the topic goes on keeping a record of this age.
async fn left(
    broker: &Broker,
    topic: &Topic,
    partition: i32,
    age_ms: u64,
) -> Result<Option<Duration>, Fault> {
    // Absent, or -1: without limit.
    let limit = |name: &str| topic.configs.get(name).and_then(|text| text.parse::<u64>().ok());
    let mut kept_ms = limit("retention.ms");
    if let Some(bytes) = limit("retention.bytes") {
        let a_second = bytes_a_second(broker, &topic.name, partition).await?;
        let lasts = (bytes as f64 * 1000.0 / a_second.max(1.0)) as u64;
        kept_ms = Some(kept_ms.map_or(lasts, |kept| kept.min(lasts)));
    }
    Ok(kept_ms.map(|kept| Duration::from_millis(kept.saturating_sub(age_ms))))
}

/// How fast a partition has grown of late.
async fn bytes_a_second(broker: &Broker, topic: &str, partition: i32) -> Result<f64, Fault> {
    let (low, high) = topics::bounds(broker, topic, partition).await?;
    let start = low.max(high - SAMPLE);
    let reader = Reader::open(broker, topic, &[(partition, start)], QUEUE_BYTES * 16).await?;
    let (mut bytes, mut first) = (0_usize, None);
    let reading = async {
        while let Item::Record(record) = reader.next().await? {
            let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
            bytes += length(record.key()) + length(record.value());
            bytes += record.headers().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            first = first.or(record.timestamp_ms());
        }
        Ok(())
    };
    tokio::time::timeout(SAMPLE_WITHIN, reading).await.unwrap_or(Ok(()))?;
    reader.close().await;
    let seconds = first.map_or(0, age_ms).max(1000) as f64 / 1000.0;
    Ok(bytes as f64 / seconds)
}

fn age_ms(timestamp_ms: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let then = u64::try_from(timestamp_ms).unwrap_or(0);
    u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(then)
}
