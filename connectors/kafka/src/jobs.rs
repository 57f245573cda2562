//! What a log is to copy: orders to its connector, in its unit's control topic.
//!
//! Written by `unitflow resync`, or by any Kafka producer; one record a job, removed by an empty
//! one. Names are the mesh's, keys are those of records.
//!
//! ```text
//! key    copy A.shop full-6913f0
//! value  {"format":1,"action":"copy","to":["B"],"tables":["shop.orders"],"rows_per_second":20000,
//!         "by":"anna","why":"new table"}
//! key    copy A.shop keys-6913f1
//! value  {"format":1,"action":"copy","to":["B"],"keys":["[\"shop\",\"orders\",{\"id\":7}]"],
//!         "by":"anna","why":"row 7 was lost"}
//! ```
//!
//! Of a Redis store all that travels is named by `"store":true`, and keys as `[0,\"user:7\"]`.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{info, warn};
use unitflow_change::ddl::TableName;
use unitflow_change::key::Key;
use unitflow_change::{Code, Fault, Log, Seq, redis};

use crate::broker::{Broker, judge};
use crate::reader::{Item, Reader};
use crate::topics;

/// The format that this build writes and reads.
const FORMAT: u8 = 1;
/// Bytes fetched ahead.
const QUEUE_BYTES: usize = 1 << 20;
/// Begins the keys of jobs.
const ANY: &str = "copy ";
/// The most keys that one job names.
pub const KEYS_MAX: usize = 500;
/// Rows copied in a second unless a job says otherwise.
pub const ROWS_PER_SECOND: u32 = 20_000;

/// What is newer than a copy, whatever the copy's source has applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sparing {
    /// The log, in its unit: what it holds behind `seq`.
    pub log: String,
    /// The record.
    pub seq: Seq,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// 1.
    pub format: u8,
    /// `copy`, or `give` with [`sparing`](Self::sparing).
    pub action: String,
    /// The units it is for.
    pub to: Vec<String>,
    /// Whole tables, as `database.table`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// All of a Redis store that travels.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub store: bool,
    /// Single rows, by their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// What it must not undo, of a unit that lost what its log holds before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparing: Option<Sparing>,
    /// How fast tables are read at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_per_second: Option<u32>,
    /// Who says so.
    pub by: String,
    /// Why.
    pub why: String,
}

impl Job {
    /// A job in today's format.
    pub fn new(to: &[String], by: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            format: FORMAT,
            action: "copy".to_owned(),
            to: to.to_vec(),
            tables: Vec::new(),
            store: false,
            keys: Vec::new(),
            sparing: None,
            rows_per_second: None,
            by: by.into(),
            why: why.into(),
        }
    }

    /// The same that leaves alone what is newer than a record.
    #[must_use]
    pub fn sparing(self, sparing: Option<Sparing>) -> Self {
        let action = action(sparing.as_ref()).to_owned();
        Self { action, sparing, ..self }
    }

    /// Reads and checks a record's value.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let bad = |what: String| Fault::fatal(Code::Control, what);
        let job: Self = serde_json::from_slice(bytes)
            .map_err(|error| bad(format!("a copy job can't be read: {error}")))?;
        // Who does not know what is to be spared does not know the action either.
        if job.format != FORMAT || job.action != action(job.sparing.as_ref()) {
            return Err(bad(format!("job {:?} of format {} is not known", job.action, job.format)));
        }
        if job.by.trim().is_empty() || job.why.trim().is_empty() || job.to.is_empty() {
            return Err(bad("a copy job says for whom (to), by whom and why".to_owned()));
        }
        let named = [!job.tables.is_empty(), job.store, !job.keys.is_empty()];
        if named.iter().filter(|named| **named).count() != 1 || job.keys.len() > KEYS_MAX {
            let what = "a copy job names tables, a store, or at most";
            return Err(bad(format!("{what} {KEYS_MAX} keys")));
        }
        if job.rows_per_second == Some(0) {
            return Err(bad("rows_per_second is 1 or more".to_owned()));
        }
        if let Some(table) = job.tables.iter().find(|table| !table.contains('.')) {
            return Err(bad(format!("{table:?} is not database.table")));
        }
        let of_rows = |key: &&String| redis::parse_key(key.as_bytes()).is_err();
        for key in job.keys.iter().filter(of_rows) {
            let key = Key::parse(key.as_bytes()).map_err(|fault| bad(fault.what))?;
            if key.columns.is_none() {
                return Err(bad(format!("{}.{}: a key without columns", key.database, key.table)));
            }
        }
        Ok(job)
    }

    /// The whole tables that it is of.
    #[must_use]
    pub fn tables(&self) -> Vec<TableName> {
        let names = self.tables.iter().filter_map(|name| name.split_once('.'));
        names
            .map(|(database, table)| TableName { database: database.into(), table: table.into() })
            .collect()
    }
}

fn action(sparing: Option<&Sparing>) -> &'static str {
    if sparing.is_some() { "give" } else { "copy" }
}

/// The jobs of one log by name, with the offset of each one's order.
pub type Jobs = BTreeMap<String, (i64, Job)>;

/// Orders a job; acknowledged when this returns.
///
/// # Errors
/// As Kafka answers.
pub async fn send(
    broker: &Broker,
    topic: &str,
    log: &Log,
    name: &str,
    job: &Job,
) -> Result<(), Fault> {
    let value = serde_json::to_vec(job)
        .map_err(|error| Fault::fatal(Code::Bug, format!("a job can't be written: {error}")))?;
    write(broker, topic, &key(log, name), (Some(&value), OwnedHeaders::new())).await
}

/// Tidies up after a job; acknowledged when this returns.
///
/// # Errors
/// As Kafka answers.
pub async fn remove(broker: &Broker, topic: &str, log: &Log, name: &str) -> Result<(), Fault> {
    write(broker, topic, &key(log, name), (None, OwnedHeaders::new())).await
}

/// Takes a job back; its empty record says in its headers `by` and `why` who did, and why.
///
/// # Errors
/// As Kafka answers.
pub async fn take_back(
    broker: &Broker,
    topic: &str,
    log: &Log,
    name: &str,
    (by, why): (&str, &str),
) -> Result<(), Fault> {
    let header = |key, value| Header { key, value: Some(value) };
    let headers = OwnedHeaders::new().insert(header("by", by)).insert(header("why", why));
    write(broker, topic, &key(log, name), (None, headers)).await
}

fn key(log: &Log, name: &str) -> String {
    format!("{}{name}", head(log))
}

fn head(log: &Log) -> String {
    format!("{ANY}{log} ")
}

/// Whether a record of a control topic is a job: no flow's name has a space.
pub(crate) fn is_key(key: &[u8]) -> bool {
    key.starts_with(ANY.as_bytes())
}

async fn write(
    broker: &Broker,
    topic: &str,
    key: &str,
    (value, headers): (Option<&[u8]>, OwnedHeaders),
) -> Result<(), Fault> {
    let producer: FutureProducer = broker
        .client(&[], &[("enable.idempotence", "true"), ("message.timeout.ms", "10000")])?
        .create()
        .map_err(|error| judge(&error, format!("writing to {topic}")))?;
    let mut record = FutureRecord::to(topic).partition(0).key(key).headers(headers);
    record.payload = value;
    let sent = producer.send(record, Duration::ZERO).await;
    sent.map(drop).map_err(|(error, _)| judge(&error, format!("writing to {topic}")))
}

/// The jobs of a log as they stand now.
///
/// # Errors
/// As [`Reader::next`].
pub async fn read(broker: &Broker, topic: &str, log: &Log) -> Result<Jobs, Fault> {
    let (tell, mut jobs) = watch::channel(None);
    tokio::select! {
        result = follow(broker, topic, log, &tell) => result.map(|()| Jobs::new()),
        known = jobs.wait_for(Option::is_some) => {
            Ok(known.map(|jobs| jobs.clone().unwrap_or_default()).unwrap_or_default())
        }
    }
}

/// Keeps `jobs` at those of a log; the first value is set when the topic was read to its end. Runs
/// until it fails.
///
/// # Errors
/// As [`Reader::next`].
pub async fn follow(
    broker: &Broker,
    topic: &str,
    log: &Log,
    jobs: &watch::Sender<Option<Jobs>>,
) -> Result<(), Fault> {
    let (low, high) = topics::bounds(broker, topic, 0).await?;
    let reader = Reader::open(broker, topic, &[(0, low)], QUEUE_BYTES).await?;
    let head = head(log);
    let mut known = Jobs::new();
    let mut reached = low == high;
    loop {
        if reached && jobs.borrow().as_ref() != Some(&known) {
            jobs.send_replace(Some(known.clone()));
        }
        let record = match reader.next().await? {
            Item::End { .. } => {
                reached = true;
                continue;
            }
            Item::Record(record) => record,
        };
        let key = std::str::from_utf8(record.key().unwrap_or_default()).unwrap_or_default();
        let Some(name) = key.strip_prefix(&head) else { continue };
        match record.value().map(Job::parse) {
            None => drop(known.remove(name)),
            Some(Ok(job)) => {
                if reached {
                    info!(name, by = job.by, why = job.why, "a copy is ordered");
                }
                known.insert(name.to_owned(), (record.offset(), job));
            }
            Some(Err(fault)) => {
                warn!(code = %fault.code, "{topic} {}: {}", record.offset(), fault.what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_read_as_documented() {
        let text = r#"{"format":1,"action":"copy","to":["B"],"tables":["shop.orders"],"rows_per_second":20000,"by":"anna","why":"new table"}"#;
        let job = Job::parse(text.as_bytes()).unwrap();
        assert_eq!(job.tables(), [TableName { database: "shop".into(), table: "orders".into() }]);
        assert_eq!(serde_json::to_string(&job).unwrap(), text);
        let keys = r#"{"format":1,"action":"copy","to":["B"],"keys":["[\"shop\",\"orders\",{\"id\":7}]"],"by":"a","why":"b"}"#;
        assert_eq!(Job::parse(keys.as_bytes()).unwrap().keys.len(), 1);
        let store = r#"{"format":1,"action":"copy","to":["B"],"store":true,"by":"a","why":"b"}"#;
        assert_eq!(serde_json::to_string(&Job::parse(store.as_bytes()).unwrap()).unwrap(), store);
        let keys = store.replace(r#""store":true"#, r#""keys":["[0,\"user:7\"]"]"#);
        assert_eq!(Job::parse(keys.as_bytes()).unwrap().keys, [r#"[0,"user:7"]"#]);
        let give = text.replace("copy", "give").replace(
            r#""rows_per_second""#,
            r#""sparing":{"log":"B.shop","seq":562949953421312},"rows_per_second""#,
        );
        let job = Job::parse(give.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&job).unwrap(), give);
        assert_eq!(job.sparing.unwrap().seq, Seq(562_949_953_421_312));
    }

    #[test]
    fn bad_jobs_are_refused() {
        for bad in [
            "",
            "{}",
            r#"{"format":2,"action":"copy","to":["B"],"tables":["a.b"],"by":"a","why":"b"}"#,
            r#"{"format":1,"action":"copy","to":[],"tables":["a.b"],"by":"a","why":"b"}"#,
            r#"{"format":1,"action":"copy","to":["B"],"by":"a","why":"b"}"#,
            r#"{"format":1,"action":"copy","to":["B"],"tables":["ab"],"by":"a","why":"b"}"#,
            r#"{"format":1,"action":"copy","to":["B"],"tables":["a.b"],"store":true,"by":"a","why":"b"}"#,
            r#"{"format":1,"action":"copy","to":["B"],"keys":["[0]"],"by":"a","why":"b"}"#,
            r#"{"format":1,"action":"give","to":["B"],"tables":["a.b"],"by":"a","why":"b"}"#,
            r#"{"format":1,"action":"copy","to":["B"],"tables":["a.b"],"sparing":{"log":"B.shop","seq":2},"by":"a","why":"b"}"#,
            r#"{"format":1,"action":"copy","to":["B"],"tables":["a.b"],"keys":["[]"],"by":"a","why":"b"}"#,
            r#"{"format":1,"action":"copy","to":["B"],"keys":["[\"a\",\"b\",null]"],"by":"a","why":"b"}"#,
            r#"{"format":1,"action":"copy","to":["B"],"tables":["a.b"],"rows_per_second":0,"by":"a","why":"b"}"#,
        ] {
            assert_eq!(Job::parse(bad.as_bytes()).unwrap_err().code, Code::Control, "{bad}");
        }
    }
}
