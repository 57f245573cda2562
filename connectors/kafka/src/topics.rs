//! Topics: create what is missing, describe what is there, say where it differs from what is needed.
//!
//! A topic's [`TopicId`] is given by Kafka when the topic is created. Offsets mean something only
//! together with it: a topic that was deleted and created again has the same name and another id.
//!
//! What can go wrong: a topic with a shorter retention than the longest outage loses changes
//! without a word; [`check`] finds that before it happens. Topics kept for a time are created with
//! `message.timestamp.type=LogAppendTime`, because Kafka judges the age of a record by its
//! timestamp: with the time of the source's commit a slow or wrong clock, or the copy of an old
//! row, would shorten the retention, and a clock that is an hour fast would have records refused.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use unitflow_change::fault::{Code, Fault, Kind};

use crate::broker::{ASK, Broker, Quiet, blocking, judge, judge_code};
use crate::native;

/// The id that Kafka gave a topic when it was created: 22 characters of base64.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(String);

impl TopicId {
    /// The id of this text, if it can be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'/');
        (text.len() == 22 && text.bytes().all(fits)).then(|| Self(text.to_owned()))
    }

    /// The id as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long a topic keeps its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Every record for at least this long after it was written; the longest outage to survive.
    ForAtLeast(Duration),
    /// The last record of each key, for ever.
    Compacted,
}

/// A topic as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// How many partitions, exactly: another count reorders keys.
    pub partitions: i32,
    /// What is kept.
    pub retention: Retention,
    /// The largest batch the broker takes, in bytes, after compression.
    pub max_message_bytes: u32,
    /// Copies of each partition.
    pub replication: i32,
    /// Copies that must have a record before it counts as written.
    pub min_insync: i32,
    /// Further settings, used at creation only.
    pub settings: Vec<(String, String)>,
}

impl Spec {
    /// What Kafka is told at creation.
    #[must_use]
    pub fn configs(&self) -> Vec<(String, String)> {
        let mut configs = match self.retention {
            Retention::ForAtLeast(time) => vec![
                ("cleanup.policy", "delete".to_owned()),
                ("retention.ms", time.as_millis().to_string()),
                ("retention.bytes", "-1".to_owned()),
            ],
            Retention::Compacted => vec![("cleanup.policy", "compact".to_owned())],
        };
        configs.push(("message.timestamp.type", "LogAppendTime".to_owned()));
        configs.push(("max.message.bytes", self.max_message_bytes.to_string()));
        configs.push(("min.insync.replicas", self.min_insync.to_string()));
        configs.push(("unclean.leader.election.enable", "false".to_owned()));
        let mut configs: Vec<(String, String)> =
            configs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        configs.extend(self.settings.iter().cloned());
        configs
    }
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: TopicId,
    /// How many partitions.
    pub partitions: i32,
    /// Copies of the partition that has the fewest.
    pub replication: i32,
    /// Its settings, the cluster's defaults included.
    pub configs: BTreeMap<String, String>,
}

/// One way in which a topic is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The topic.
    pub topic: String,
    /// What of it.
    pub setting: String,
    /// What it has to be.
    pub expected: String,
    /// What it is.
    pub actual: String,
    /// What mends it.
    pub remedy: String,
}

impl Finding {
    /// The finding as a fault that stops.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let what = format!(
            "topic {}: {} is {}, expected {}",
            self.topic, self.setting, self.actual, self.expected
        );
        Fault::fatal(Code::TopicSetting, what).hint(&self.remedy)
    }
}

/// The admin client and how long it may take.
pub(crate) fn admin(broker: &Broker) -> Result<(AdminClient<Quiet>, AdminOptions), Fault> {
    let config = broker.client(&[], &[])?;
    let client = config
        .create_with_context(Quiet::default())
        .map_err(|error| judge(&error, "Kafka admin client"))?;
    let options = AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK));
    Ok((client, options))
}

/// Creates the topics that are not there, and waits until they can be used. Those that are there
/// are left as they are: see [`check`]. May be repeated after a fault.
///
/// Returns the names of those it created.
///
/// # Errors
/// As Kafka answers; `Retry` if it did not.
pub async fn create_missing(broker: &Broker, specs: &[Spec]) -> Result<Vec<String>, Fault> {
    if specs.is_empty() {
        return Ok(Vec::new());
    }
    let (client, options) = admin(broker)?;
    let configs: Vec<_> = specs.iter().map(Spec::configs).collect();
    let topics: Vec<NewTopic<'_>> = specs
        .iter()
        .zip(&configs)
        .map(|(spec, configs)| {
            let copies = TopicReplication::Fixed(spec.replication);
            let topic = NewTopic::new(&spec.name, spec.partitions, copies);
            configs.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let answers = client
        .create_topics(&topics, &options)
        .await
        .map_err(|error| judge(&error, said("creating topics", &client)))?;
    let mut created = Vec::new();
    for answer in answers {
        match answer {
            Ok(name) => created.push(name),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                return Err(judge_code(code, format!("creating topic {name}"), ""));
            }
        }
    }
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    wait_until_usable(broker, &names).await?;
    Ok(created)
}

/// Waits until every partition of the topics answers. A broker names itself as the leader of a new
/// partition a little before it acts as that.
async fn wait_until_usable(broker: &Broker, names: &[&str]) -> Result<(), Fault> {
    let broker = broker.clone();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    blocking(move || {
        let client = asking(&broker, "read_uncommitted")?;
        let until = Instant::now() + 3 * ASK;
        for name in &names {
            while !is_usable(&client, name)? {
                if Instant::now() > until {
                    let what = format!("topic {name} was created but has no leader");
                    return Err(Fault::retry(Code::Timeout, what));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    })
    .await
}

fn is_usable(client: &BaseConsumer<Quiet>, name: &str) -> Result<bool, Fault> {
    use RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition, UnknownTopicOrPartition};
    let place = || format!("topic {name}");
    let metadata =
        client.fetch_metadata(Some(name), ASK).map_err(|error| judge(&error, place()))?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    let mut any = false;
    for partition in partitions {
        any = true;
        if partition.leader() < 0 {
            return Ok(false);
        }
        if let Err(error) = client.fetch_watermarks(name, partition.id(), ASK) {
            return match error.rdkafka_error_code() {
                Some(LeaderNotAvailable | NotLeaderForPartition | UnknownTopicOrPartition) => {
                    Ok(false)
                }
                _ => Err(judge(&error, place())),
            };
        }
    }
    Ok(any)
}

/// The topics of these names, in this order; `None` where there is none.
///
/// # Errors
/// As Kafka answers; `Retry` if it did not.
pub async fn describe(broker: &Broker, names: &[&str]) -> Result<Vec<Option<Topic>>, Fault> {
    let (client, options) = admin(broker)?;
    let owned: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let (client, described) = blocking(move || {
        let names: Vec<&str> = owned.iter().map(String::as_str).collect();
        let described = native::topic_ids(client.inner(), &names, ASK)
            .map_err(|fault| with_last_words(fault, &client))?;
        Ok((client, described))
    })
    .await?;

    let mut topics = Vec::with_capacity(names.len());
    for (name, described) in names.iter().zip(described) {
        let Some(described) = described else {
            topics.push(None);
            continue;
        };
        let id = TopicId::parse(&described.id).ok_or_else(|| {
            let what = format!("topic {name} has the id `{}`", described.id);
            Fault::fatal(Code::Kafka, what).hint("topic ids need Kafka 2.8 or newer")
        })?;
        topics.push(Some(Topic {
            name: (*name).to_owned(),
            id,
            partitions: i32::try_from(described.partitions).unwrap_or(i32::MAX),
            replication: i32::try_from(described.replicas).unwrap_or(i32::MAX),
            configs: BTreeMap::new(),
        }));
    }
    let wanted: Vec<ResourceSpecifier<'_>> =
        topics.iter().flatten().map(|topic| ResourceSpecifier::Topic(&topic.name)).collect();
    if wanted.is_empty() {
        return Ok(topics);
    }
    let answers = client
        .describe_configs(&wanted, &options)
        .await
        .map_err(|error| judge(&error, said("describing topics' settings", &client)))?;
    for (topic, answer) in topics.iter_mut().flatten().zip(answers) {
        let place = || format!("describing the settings of topic {}", topic.name);
        let answer = answer.map_err(|code| judge_code(code, place(), ""))?;
        topic.configs = answer
            .entries
            .into_iter()
            .filter_map(|entry| Some((entry.name, entry.value?)))
            .collect();
    }
    Ok(topics)
}

/// In what a topic differs from what is needed. Only what can lose, reorder or refuse records
/// counts; a longer retention or more copies than asked for is fine.
#[must_use]
pub fn check(spec: &Spec, topic: &Topic) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut differs = |setting: &str, expected: String, actual: String, remedy: String| {
        findings.push(Finding {
            topic: spec.name.clone(),
            setting: setting.to_owned(),
            expected,
            actual,
            remedy,
        });
    };
    let set = |setting: &str, value: &str| {
        let name = &spec.name;
        format!("kafka-configs --alter --topic {name} --add-config {setting}={value}")
    };
    let is = |setting: &str| topic.configs.get(setting).map_or("", String::as_str);
    let number = |setting: &str| is(setting).parse::<i64>().ok();

    if topic.partitions != spec.partitions {
        let remedy = "another count of partitions reorders keys: change it in the configuration and \
                      start a new generation, or create the topic anew";
        let (expected, actual) = (spec.partitions.to_string(), topic.partitions.to_string());
        differs("partitions", expected, actual, remedy.to_owned());
    }
    if topic.replication < spec.replication {
        let remedy = "kafka-reassign-partitions to more brokers".to_owned();
        let (expected, actual) = (spec.replication.to_string(), topic.replication.to_string());
        differs("replication", format!("{expected} or more"), actual, remedy);
    }
    let (policy, kept) = match spec.retention {
        Retention::ForAtLeast(time) => ("delete", Some(time)),
        Retention::Compacted => ("compact", None),
    };
    if is("cleanup.policy") != policy {
        let actual = is("cleanup.policy").to_owned();
        differs("cleanup.policy", policy.to_owned(), actual, set("cleanup.policy", policy));
    }
    if let Some(time) = kept {
        let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        if !number("retention.ms").is_some_and(|actual| actual == -1 || actual >= millis) {
            let (expected, actual) = (millis.to_string(), is("retention.ms").to_owned());
            let remedy = set("retention.ms", &expected);
            differs("retention.ms", format!("{expected} or more"), actual, remedy);
        }
        if number("retention.bytes") != Some(-1) {
            let actual = is("retention.bytes").to_owned();
            differs("retention.bytes", "-1".to_owned(), actual, set("retention.bytes", "-1"));
        }
        if is("message.timestamp.type") != "LogAppendTime" {
            let actual = is("message.timestamp.type").to_owned();
            let remedy = set("message.timestamp.type", "LogAppendTime");
            differs("message.timestamp.type", "LogAppendTime".to_owned(), actual, remedy);
        }
    }
    for (setting, least) in [
        ("min.insync.replicas", i64::from(spec.min_insync)),
        ("max.message.bytes", i64::from(spec.max_message_bytes)),
    ] {
        if number(setting).is_none_or(|actual| actual < least) {
            let remedy = set(setting, &least.to_string());
            differs(setting, format!("{least} or more"), is(setting).to_owned(), remedy);
        }
    }
    if is("unclean.leader.election.enable") == "true" {
        let remedy = set("unclean.leader.election.enable", "false");
        differs("unclean.leader.election.enable", "false".to_owned(), "true".to_owned(), remedy);
    }
    findings
}

/// Deletes topics and waits until they are gone. Those that are not there are passed over.
///
/// # Errors
/// As Kafka answers; `Retry` if it did not.
pub async fn delete(broker: &Broker, names: &[&str]) -> Result<(), Fault> {
    let (client, options) = admin(broker)?;
    let answers = client
        .delete_topics(names, &options)
        .await
        .map_err(|error| judge(&error, said("deleting topics", &client)))?;
    for answer in answers {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((name, code)) => {
                return Err(judge_code(code, format!("deleting topic {name}"), ""));
            }
        }
    }
    let until = Instant::now() + ASK;
    while describe(broker, names).await?.iter().any(Option::is_some) {
        if Instant::now() > until {
            return Err(Fault::retry(Code::Timeout, "deleting topics: they are still there"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The lowest offset a partition still holds, and the one after its last record (committed or not).
///
/// # Errors
/// As Kafka answers; `Retry` if it did not.
pub async fn bounds(broker: &Broker, topic: &str, partition: i32) -> Result<(i64, i64), Fault> {
    let (asked, name) = (broker.clone(), topic.to_owned());
    let bounds = move || watermarks(&asking(&asked, "read_uncommitted")?, &name, partition);
    match blocking(bounds).await {
        Err(fault) => Err(assured(broker, (topic, partition), fault).await),
        bounds => bounds,
    }
}

/// Where the client alone says that there is no such partition, the broker is asked: a partition
/// without a leader is unknown to the client too.
pub(crate) async fn assured(
    broker: &Broker,
    (topic, partition): (&str, i32),
    fault: Fault,
) -> Fault {
    if fault.code != Code::TopicMissing || !fault.is_retry() {
        return fault;
    }
    match describe(broker, &[topic]).await {
        Ok(found) if found.iter().flatten().any(|topic| topic.partitions > partition) => {
            Fault { code: Code::Unreachable, hint: String::new(), ..fault }
        }
        Ok(_) => Fault { kind: Kind::Fatal, ..fault },
        Err(fault) => fault,
    }
}

/// The first offset of a partition whose record was appended at `ms` (since 1970) or later; the end
/// where there is none.
///
/// # Errors
/// As Kafka answers; `Retry` if it did not.
pub async fn offset_at(
    broker: &Broker,
    topic: &str,
    partition: i32,
    ms: i64,
) -> Result<i64, Fault> {
    let (broker, topic) = (broker.clone(), topic.to_owned());
    blocking(move || {
        let client = asking(&broker, "read_uncommitted")?;
        let (_, end) = watermarks(&client, &topic, partition)?;
        let place = format!("offset of {topic}[{partition}] at {ms}");
        let mut wanted = TopicPartitionList::new();
        let offset = Offset::Offset(ms.max(0));
        let added = wanted.add_partition_offset(&topic, partition, offset);
        added.map_err(|error| judge(&error, &place))?;
        let found = client.offsets_for_times(wanted, ASK).map_err(|error| judge(&error, &place))?;
        Ok(match found.elements().first().map(|element| element.offset()) {
            Some(Offset::Offset(offset)) if offset >= 0 => offset,
            _ => end,
        })
    })
    .await
}

/// A consumer that only asks. `read_committed` makes the upper bound the last *stable* offset.
pub(crate) fn asking(broker: &Broker, isolation: &str) -> Result<BaseConsumer<Quiet>, Fault> {
    let forced = [("isolation.level", isolation), ("enable.auto.commit", "false")];
    broker
        .client(&[], &forced)?
        .create_with_context(Quiet::default())
        .map_err(|error| judge(&error, "Kafka client"))
}

/// The bounds of a partition as this client's isolation shows them.
pub(crate) fn watermarks(
    client: &BaseConsumer<Quiet>,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), Fault> {
    client.fetch_watermarks(topic, partition, ASK).map_err(|error| {
        let fault = judge(&error, format!("bounds of {topic}[{partition}]"));
        said_by(fault, &client.context().said())
    })
}

/// A place that also says what the library said last.
fn said(place: &str, client: &AdminClient<Quiet>) -> String {
    match client.inner().context().said().as_str() {
        "" => place.to_owned(),
        said => format!("{place} ({said})"),
    }
}

/// The same for a fault that was judged already.
fn with_last_words(fault: Fault, client: &AdminClient<Quiet>) -> Fault {
    said_by(fault, &client.inner().context().said())
}

fn said_by(mut fault: Fault, said: &str) -> Fault {
    if !said.is_empty() {
        fault.what = format!("{} ({said})", fault.what);
    }
    fault
}
