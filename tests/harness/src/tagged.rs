//! Reads a tagged topic, as any consumer could.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use unitflow_change::envelope::Envelope;
use unitflow_change::key::Key;
use unitflow_change::tag::{HEADER, Kind, Tag};
use unitflow_change::{Seq, invariants::Chain};

const PATIENCE: Duration = Duration::from_secs(30);

/// A row's change in a tagged topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    /// Its lane.
    pub lane: i32,
    /// Its offset there.
    pub offset: i64,
    /// Its number.
    pub seq: Seq,
    /// The table.
    pub table: String,
    /// The row's number and version behind the change; nothing for a delete.
    pub row: Option<(u32, u32)>,
}

/// All row changes of the topic, in the order of each lane. Sees to it that the chain of each
/// lane's records is whole.
pub fn read(bootstrap: &str, topic: &str) -> anyhow::Result<Vec<Tagged>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "unitflow-harness")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let lanes = metadata.topics().first().context("the topic")?.partitions().len();
    let mut assignment = TopicPartitionList::new();
    for lane in 0..lanes {
        let lane = i32::try_from(lane).context("few lanes")?;
        assignment.add_partition_offset(topic, lane, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut chains = vec![Chain::default(); lanes];
    let mut changes = Vec::new();
    let mut ended = vec![false; lanes];
    let deadline = Instant::now() + PATIENCE;
    while ended.contains(&false) {
        if Instant::now() > deadline {
            bail!("{topic} can't be read to its end");
        }
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(lane))) => {
                ended[usize::try_from(lane)?] = true;
            }
            Some(Err(error)) => return Err(error).with_context(|| format!("read {topic}")),
            Some(Ok(message)) => {
                let headers = message.headers().context("a record has headers")?;
                let header = headers.iter().find(|header| header.key == HEADER);
                let tag = Tag::parse(header.and_then(|header| header.value).unwrap_or_default())?;
                chains[usize::try_from(message.partition())?].see(tag.seq, tag.prev)?;
                if tag.kind != Kind::Row {
                    continue;
                }
                let key = Key::parse(message.key().context("a row's record has a key")?)?;
                let envelope = Envelope::parse(message.payload().context("and a value")?)?;
                let column = |name: &str| {
                    let text = envelope.after.as_ref()?.get(name)?;
                    text.parse().ok()
                };
                changes.push(Tagged {
                    lane: message.partition(),
                    offset: message.offset(),
                    seq: tag.seq,
                    table: key.table.into_owned(),
                    row: column("number").zip(column("version")),
                });
            }
        }
    }
    Ok(changes)
}
