//! Short notes by key in a compacted topic: what workers last said of themselves.
//!
//! Notes are for the eyes of operators. Writing one never waits and never fails the writer; the
//! last one of a key counts, and nothing is decided by it.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use tracing::debug;
use unitflow_change::fault::Fault;

use crate::broker::{Broker, blocking, judge};
use crate::reader::{Item, Reader};
use crate::topics::{self, Retention, Spec};

/// How long [`Notes::close`] waits for what is under way.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// The topic of notes as it has to be: one partition, compacted.
#[must_use]
pub fn spec(name: impl Into<String>, replication: i32, min_insync: i32) -> Spec {
    let settings = [("segment.bytes", "1048576"), ("max.compaction.lag.ms", "3600000")];
    Spec {
        name: name.into(),
        partitions: 1,
        retention: Retention::Compacted,
        max_message_bytes: 1 << 20,
        replication,
        min_insync,
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
    }
}

/// Writes notes.
pub struct Notes {
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
}

impl Notes {
    /// Notes to this topic.
    ///
    /// # Errors
    /// [`unitflow_change::Code::Config`]; whether Kafka answers is not asked.
    pub fn open(broker: &Broker, topic: &str) -> Result<Self, Fault> {
        let producer = broker
            .client(&[("queue.buffering.max.messages", "1000")], &[("enable.idempotence", "true")])?
            .create()
            .map_err(|error| judge(&error, format!("notes to {topic}")))?;
        Ok(Self { producer, topic: topic.to_owned() })
    }

    /// Replaces the note of this key.
    pub fn write(&self, key: &str, value: &[u8]) {
        let record = BaseRecord::to(&self.topic).partition(0).key(key).payload(value);
        if let Err((error, _)) = self.producer.send(record) {
            debug!(%error, "a note was not taken");
        }
    }

    /// Waits for a moment until the last notes are written.
    pub async fn close(&self) {
        let producer = self.producer.clone();
        let flushed =
            blocking(move || producer.flush(CLOSE_WITHIN).map_err(|error| judge(&error, "notes")));
        if let Err(fault) = flushed.await {
            debug!(%fault, "the last notes");
        }
    }
}

/// All notes by key.
///
/// # Errors
/// As [`Reader::open`].
pub async fn read_all(broker: &Broker, topic: &str) -> Result<BTreeMap<String, Vec<u8>>, Fault> {
    let (low, high) = topics::bounds(broker, topic, 0).await?;
    let mut notes = BTreeMap::new();
    if low == high {
        return Ok(notes);
    }
    let reader = Reader::open(broker, topic, &[(0, low)], 1 << 20).await?;
    loop {
        match reader.next().await? {
            Item::End { .. } => return Ok(notes),
            Item::Record(record) => {
                let key = String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned();
                notes.insert(key, record.value().unwrap_or_default().to_vec());
            }
        }
    }
}
