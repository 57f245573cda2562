//! The quarantine topic: what a flow did not apply, for people and for the next audit.
//!
//! A record stands for one change that was passed over, or for a table that was parked. It is
//! acknowledged before the commit that passes it, and its key names it, so that one that is written
//! again after a crash is known as the same.

use std::time::Duration;

use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Serialize;
use unitflow_change::{Code, Fault, Seq};

use crate::broker::{Broker, judge};

/// What is in quarantine.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    /// The log it comes from.
    pub log: &'a str,
    /// Its lane.
    pub lane: i32,
    /// Its number.
    pub seq: Seq,
    /// Its offset in the tagged topic.
    pub topic_offset: i64,
    /// The key of the change, or of the table that was parked.
    pub key: &'a str,
    /// The code of the runbook.
    pub code: &'a str,
    /// Why it is here.
    pub why: &'a str,
    /// Who said so; empty where nobody had to.
    pub by: &'a str,
}

/// Writes to a unit's quarantine topic.
pub struct Quarantine {
    producer: FutureProducer,
    topic: String,
}

impl std::fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quarantine").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Quarantine {
    /// To this topic.
    ///
    /// # Errors
    /// [`Code::Config`]; whether Kafka answers is not asked.
    pub fn open(broker: &Broker, topic: &str) -> Result<Self, Fault> {
        let producer = broker
            .client(&[], &[("enable.idempotence", "true"), ("message.timeout.ms", "20000")])?
            .create()
            .map_err(|error| judge(&error, format!("writing to {topic}")))?;
        Ok(Self { producer, topic: topic.to_owned() })
    }

    /// Writes one entry; it is acknowledged when this returns.
    ///
    /// # Errors
    /// As Kafka answers.
    pub async fn put(&self, entry: &Entry<'_>) -> Result<(), Fault> {
        let value = serde_json::to_vec(entry).map_err(|error| {
            Fault::fatal(Code::Bug, format!("a quarantine record can't be written: {error}"))
        })?;
        let key = format!("{} {} {}", entry.log, entry.lane, entry.seq);
        let record = FutureRecord::to(&self.topic).partition(0).key(&key).payload(&value);
        let sent = self.producer.send(record, Duration::ZERO).await;
        sent.map(drop).map_err(|(error, _)| judge(&error, format!("writing to {}", self.topic)))
    }
}
