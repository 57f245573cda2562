//! Reads a tagged topic, as any consumer could.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use unitflow_change::envelope::Envelope;
use unitflow_change::form;
use unitflow_change::key::Key;
use unitflow_change::tag::{FORMAT, HEADER, Kind, Tag};
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
    /// The row's `id`, where its key has one.
    pub id: Option<u64>,
    /// The row's number and version behind the change; nothing for a delete.
    pub row: Option<(u32, u32)>,
}

/// A record of which all pieces so far were read.
struct Record {
    offset: i64,
    /// Of a row's change.
    seq: Option<Seq>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Record {
    fn change(self, lane: i32) -> anyhow::Result<Option<Tagged>> {
        let Some(seq) = self.seq else { return Ok(None) };
        let key = form::plain_key(&self.key)?;
        let key = Key::parse(&key)?;
        let envelope = Envelope::parse(&self.value)?;
        let column = |name: &str| {
            let text = envelope.after.as_ref()?.get(name)?;
            text.parse().ok()
        };
        let row = column("number").zip(column("version"));
        let id = key.columns.as_ref().and_then(|columns| columns.get("id")?.parse().ok());
        Ok(Some(Tagged { lane, offset: self.offset, seq, table: key.table.into_owned(), id, row }))
    }
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
    // Large records come in pieces.
    let mut open = HashMap::new();
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
                let header = |name| headers.iter().find(|header| header.key == name)?.value;
                // A copied row that is gone has an empty value; a change without one can't be parsed.
                let payload = message.payload().unwrap_or_default();
                let piece = header("piece").map(String::from_utf8_lossy);
                let (number, of) = piece.as_deref().and_then(|at| at.split_once('/')).unzip();
                if number.is_none_or(|number| number == "1") {
                    let header = of_this_build(header(HEADER).unwrap_or_default());
                    let tag = Tag::parse(&header)?;
                    chains[usize::try_from(message.partition())?].see(tag.seq, tag.prev)?;
                    let record = Record {
                        offset: message.offset(),
                        seq: (tag.kind == Kind::Row).then_some(tag.seq),
                        key: message.key().unwrap_or_default().to_vec(),
                        value: Vec::new(),
                    };
                    open.insert(message.partition(), record);
                }
                let lane = message.partition();
                let record = open.get_mut(&lane).context("a piece behind the first")?;
                record.value.extend_from_slice(payload);
                if number == of
                    && let Some(record) = open.remove(&lane)
                {
                    changes.extend(record.change(lane)?);
                }
            }
        }
    }
    Ok(changes)
}

/// The next format, as workers of tests write it, is this build's under another number.
fn of_this_build(header: &[u8]) -> Cow<'_, [u8]> {
    match header.strip_prefix(format!("{};", FORMAT + 1).as_bytes()) {
        Some(rest) => Cow::Owned([format!("{FORMAT};").as_bytes(), rest].concat()),
        None => Cow::Borrowed(header),
    }
}
