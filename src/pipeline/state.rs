//! What each stage stores in its partition of the position topic, together with its records.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use unitflow_change::name::{Log, Stage, Topics};
use unitflow_change::position::Position;
use unitflow_change::routing::{Routing, Turn};
use unitflow_change::seq::Seq;
use unitflow_change::tag::{HEADER, Tag};
use unitflow_change::{Code, Fault, Form};
use unitflow_kafka::broker::Broker;
use unitflow_kafka::{last_record, positions, topics};
use unitflow_mysql::stream::Options;
use unitflow_transformer::State;
use xxhash_rust::xxh3::xxh3_64;

use super::copier::Progress;

/// The connector's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectorState {
    /// The last record of the captured topic.
    pub seq: Seq,
    /// Where the binlog was read up to.
    pub position: Position,
    /// The routing that the captured log has last named.
    pub routing: Routing,
    /// The captured topic's id.
    pub captured_id: String,
    /// How the log's records are written.
    #[serde(default)]
    pub envelope: Form,
    /// How far copies have come.
    #[serde(default, skip_serializing_if = "Progress::is_empty")]
    pub copy: Progress,
    /// The server that was captured from last; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// Who reads a store's binlog for a log. Each is known to the server by its own number: always the
/// same, so that a successor displaces one that hangs, and no other.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum BinlogReader {
    /// Who captures it.
    Connector = 7,
    /// Who finds out what the source lost.
    Loss = 6,
    /// Who only looks whether the log goes on.
    Look = 5,
}

impl BinlogReader {
    /// In a range that nobody numbers servers with.
    fn number(self, log: &Log) -> u32 {
        (self as u32) << 28 | (xxh3_64(log.to_string().as_bytes()) as u32 & 0x0fff_ffff)
    }
}

impl ConnectorState {
    /// How the store's binlog is read for this log.
    pub fn options(&self, log: &Log, reader: BinlogReader) -> Options {
        let mut options = Options::new(reader.number(log), log.to_string());
        options.form = self.envelope;
        options.server.clone_from(&self.server);
        options
    }

    /// Whether the log's records have this form. They keep it: dates and times are other text in
    /// the other, so that one row would have two keys.
    pub fn ensure_form(&self, log: &Log, form: Form) -> Result<(), Fault> {
        if self.envelope == form {
            return Ok(());
        }
        let (runs, says) = (self.envelope.as_str(), form.as_str());
        Err(Fault::fatal(
            Code::Routing,
            format!("log {log} runs with envelope = {runs:?}; the configuration says {says:?}"),
        )
        .hint("restore this setting: the form of a log's records is fixed once the flow has run"))
    }

    /// Whether the log may go on with this routing. The number of lanes can't change in a running
    /// log.
    pub fn ensure_leads_to(&self, log: &Log, routing: &Routing) -> Result<(), Fault> {
        if self.routing.turn_to(routing) != Turn::Impossible {
            return Ok(());
        }
        // As the configuration writes them.
        let told = |routing: &Routing| {
            let order = serde_json::to_string(&routing.order).unwrap_or_default();
            format!("lanes = {}, order = {order}", routing.partitions)
        };
        Err(Fault::fatal(
            Code::Routing,
            format!("log {log} runs with {}; the configuration says {}", told(&self.routing), told(routing)),
        )
        .hint("restore these settings: a running flow keeps its number of lanes, and so its partitions (order = \"transaction\" has one)"))
    }
}

/// The transformer's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerState {
    /// The function's own.
    pub function: State,
    /// The captured topic's id.
    pub captured_id: String,
    /// The tagged topic's id.
    pub tagged_id: String,
}

/// The relay's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayState {
    /// For each partition the offset to read next.
    pub offsets: Vec<i64>,
    /// For each partition the last record copied.
    pub tails: Vec<Seq>,
    /// The source topic's id.
    pub source_id: String,
    /// The copy's id.
    pub copy_id: String,
}

/// Reads a stage's state from its log's position topic.
pub async fn load<S: DeserializeOwned>(
    broker: &Broker,
    topics: &Topics,
    log: &Log,
    stage: Stage,
) -> Result<Option<S>, Fault> {
    let topic = topics.position(log);
    let loaded = positions::load(broker, &topic, stage.partition()).await;
    parse(loaded, broker, &topic, (log, stage))
}

/// The same for whoever does not hold the role; none is there before the flow was initialised.
pub async fn look<S: DeserializeOwned>(
    broker: &Broker,
    topics: &Topics,
    log: &Log,
    stage: Stage,
) -> Result<Option<S>, Fault> {
    let topic = topics.position(log);
    let seen = positions::look(broker, &topic, stage.partition()).await;
    parse(seen, broker, &topic, (log, stage))
}

fn parse<S: DeserializeOwned>(
    loaded: Result<Option<Vec<u8>>, Fault>,
    broker: &Broker,
    topic: &str,
    (log, stage): (&Log, Stage),
) -> Result<Option<S>, Fault> {
    let loaded = loaded.map_err(|fault| match fault.code {
        Code::TopicMissing => missing(topic),
        _ => at_broker(fault, broker),
    })?;
    let Some(bytes) = loaded else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        Fault::fatal(
            Code::PositionUnreadable,
            format!("the position of {stage} {log} in {topic} can't be read: {error}"),
        )
        .hint("a newer version may have written it: upgrade this worker; see the runbook")
    })
}

/// The same where it must exist: a flow that was never initialised does not begin by itself.
pub async fn require<S: DeserializeOwned>(
    broker: &Broker,
    topics: &Topics,
    log: &Log,
    stage: Stage,
) -> Result<S, Fault> {
    load(broker, topics, log, stage).await?.ok_or_else(|| {
        Fault::fatal(
            Code::PositionMissing,
            format!("{} holds no position of {stage} {log}", topics.position(log)),
        )
        .hint("a new flow: unitflow init; one that has run lost its position: restore the position topic, or see the runbook for how a log begins anew")
    })
}

/// The id of a topic that must exist and be the one that `expected` names, if it names one.
pub async fn ensure_same_topic(
    broker: &Broker,
    topic: &str,
    expected: Option<&str>,
) -> Result<String, Fault> {
    let found = topics::describe(broker, &[topic]).await;
    let found = found.map_err(|fault| at_broker(fault, broker))?.pop().flatten();
    let found = found.ok_or_else(|| missing(topic))?;
    match expected {
        Some(expected) if expected != found.id.as_str() => Err(Fault::fatal(
            Code::TopicRecreated,
            format!(
                "{topic} has the id {}, but was written with {expected}: it was created again",
                found.id
            ),
        )
        .hint("what the old topic held may not have reached all units: see the runbook for how a log begins anew")),
        _ => Ok(found.id.as_str().to_owned()),
    }
}

/// Sees that a partition ends with the record that the stage stored as its last.
pub async fn ensure_tail(
    broker: &Broker,
    topic: &str,
    partition: i32,
    tail: Seq,
) -> Result<(), Fault> {
    let truncated = |found: String| {
        Fault::fatal(
            Code::TopicTruncated,
            format!("{topic}[{partition}] ends with {found}, but record {tail} was committed to it"),
        )
        .hint("the topic lost its tail (unclean leader election, restored disk): see the runbook for how a log begins anew")
    };
    match last_record(broker, topic, partition).await? {
        Some(record) => {
            let tag = Tag::parse(record.header(HEADER).unwrap_or_default())
                .map_err(|fault| fault.at(format!("{topic}[{partition}] {}", record.offset)))?;
            if tag.seq == tail { Ok(()) } else { Err(truncated(format!("record {}", tag.seq))) }
        }
        None if tail == Seq::NONE => Ok(()),
        None => {
            // Retention may have taken everything, but then something was there.
            let (low, _) = topics::bounds(broker, topic, partition).await?;
            if low > 0 { Ok(()) } else { Err(truncated("nothing".to_owned())) }
        }
    }
}

fn missing(topic: &str) -> Fault {
    Fault::fatal(Code::TopicMissing, format!("the topic {topic} does not exist")).hint(
        "a new flow: unitflow init; one that has run: see the runbook for how a log begins anew",
    )
}

/// Says which Kafka it is that does not answer.
fn at_broker(fault: Fault, broker: &Broker) -> Fault {
    match fault.code {
        Code::Unreachable => fault.at(format_args!("Kafka at {}", broker.bootstrap)),
        _ => fault,
    }
}
