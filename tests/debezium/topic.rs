//! Reads a topic from its beginning.

use std::time::Instant;

use anyhow::{Context, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::PATIENCE;

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    pub key: String,
    /// None: a tombstone.
    pub value: Option<String>,
    /// Whether it has the header that other consumers leave records out by.
    pub control: bool,
}

/// The first records of the topic that `wanted` lets through, so many of them. Partitions are read
/// one after the other as the broker sends them: of one key in order.
pub fn read(
    bootstrap: &str,
    topic: &str,
    count: usize,
    wanted: impl Fn(&Record) -> bool,
) -> anyhow::Result<Vec<Record>> {
    let deadline = Instant::now() + PATIENCE;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "unitflow-debezium")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()?;
    let partitions = loop {
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
        let partitions = metadata.topics().first().context("the topic")?.partitions().len();
        if partitions > 0 {
            break partitions;
        }
        if Instant::now() > deadline {
            bail!("there is no topic {topic}");
        }
    };
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment.add_partition_offset(topic, i32::try_from(partition)?, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut records = Vec::new();
    while records.len() < count {
        if Instant::now() > deadline {
            bail!("{topic} holds {} such records of {count}", records.len());
        }
        let message = match consumer.poll(std::time::Duration::from_millis(200)) {
            None => continue,
            // A topic that is just being made.
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::UnknownTopicOrPartition,
            ))) => continue,
            Some(message) => message?,
        };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec());
        let record = Record {
            key: text(message.key().unwrap_or_default())?,
            value: message.payload().map(text).transpose()?,
            control: message.headers().is_some_and(|headers| {
                headers.iter().any(|header| header.key == unitflow_change::tag::CONTROL)
            }),
        };
        if wanted(&record) {
            records.push(record);
        }
    }
    Ok(records)
}
