//! The ledger in a Redis store: one key a lane, `unitflow:ledger:A.cache:0`, in database 0. It has no expiry.
//!
//! ```text
//! {"seq":281474976710660,"topic_id":"aXk…","topic_offset":42,"committed_us":1764000000000000,"applied_us":…}
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

use redis::{Cmd, Pipeline, Value};
use serde::{Deserialize, Serialize};
use unitflow_change::name::Log;
use unitflow_change::redis::LEDGER_PREFIX;
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault};
use unitflow_redis::Client;
use unitflow_redis::client::refusal;

use super::filling::FILLING;
use super::late::PutOff;
use crate::ledger::Entry;

/// A lane's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The last record applied.
    pub seq: Seq,
    /// The Kafka id of the tagged topic that `topic_offset` belongs to.
    pub topic_id: String,
    /// The offset to read next.
    pub topic_offset: i64,
    /// When the source committed the last write, in µs since 1970; 0 if unknown.
    pub committed_us: u64,
    /// When it was applied here, in µs since 1970, by the sink's clock.
    pub applied_us: u64,
    /// Keys whose expiry was put off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<PutOff>,
}

/// A lane's key.
#[must_use]
pub fn key(log: &Log, lane: i32) -> Vec<u8> {
    [LEDGER_PREFIX, format!("{log}:{lane}").as_bytes()].concat()
}

/// The command that moves a lane.
///
/// # Errors
/// None but [`Code::Bug`].
pub fn set(log: &Log, lane: i32, standing: &Standing) -> Result<Cmd, Fault> {
    let value = serde_json::to_vec(standing).map_err(|error| {
        Fault::fatal(Code::Bug, format!("a ledger value can't be written: {error}"))
    })?;
    let mut command = redis::cmd("SET");
    command.arg(key(log, lane)).arg(value);
    Ok(command)
}

/// Adds what watches a lane's key and what fills the store, and reads both: [`WATCH_COMMANDS`] commands, for
/// [`watched`].
pub fn watch(log: &Log, lane: i32, pipeline: &mut Pipeline) {
    let key = key(log, lane);
    pipeline.cmd("WATCH").arg(&key).arg(FILLING);
    pipeline.cmd("GET").arg(&key).cmd("HGETALL").arg(FILLING);
}

/// How many commands [`watch`] adds.
pub const WATCH_COMMANDS: usize = 3;

/// Reads the answers of [`watch`], which are the last ones: where the lane stands, and what fills stores. A key
/// that is not watched is no fence.
///
/// # Errors
/// Those of [`read`], and what the server refuses.
pub fn watched(log: &Log, lane: i32, answers: &[Value]) -> Result<(Standing, Value), Fault> {
    match answers {
        [.., watched, answer, filling] => match refusal(watched).or_else(|| refusal(filling)) {
            Some(fault) => Err(fault),
            None => Ok((read(log, lane, answer)?, filling.clone())),
        },
        _ => Err(Fault::fatal(Code::Bug, "a ledger key was not asked for")),
    }
}

/// Reads a lane's value; a missing key stops, for it is not a fresh start.
///
/// # Errors
/// [`Code::LedgerMissing`], and what the server refuses.
pub fn read(log: &Log, lane: i32, answer: &Value) -> Result<Standing, Fault> {
    let name = String::from_utf8_lossy(&key(log, lane)).into_owned();
    match answer {
        Value::BulkString(value) => parse(log, lane, value),
        Value::Nil => Err(Fault::fatal(Code::LedgerMissing, format!("there is no key {name}"))
            .hint("a flow that never ran: unitflow init; one that ran has lost its place: unitflow resync full, see the runbook")),
        other => Err(refusal(other).unwrap_or_else(|| {
            Fault::fatal(Code::LedgerMissing, format!("the key {name} holds no text"))
        })),
    }
}

/// Reads a lane's value as it is written.
///
/// # Errors
/// [`Code::LedgerMissing`].
pub fn parse(log: &Log, lane: i32, value: &[u8]) -> Result<Standing, Fault> {
    serde_json::from_slice(value).map_err(|error| {
        let name = String::from_utf8_lossy(&key(log, lane)).into_owned();
        Fault::fatal(Code::LedgerMissing, format!("the key {name} can't be read: {error}"))
            .hint("a newer version may have written it: upgrade this worker; see the runbook")
    })
}

/// Where all lanes of a log stand; those without a key are left out.
///
/// # Errors
/// Those of the connection, and of [`read`].
pub async fn read_all(
    client: &mut Client,
    log: &Log,
    lanes: i32,
) -> Result<Vec<(i32, Standing)>, Fault> {
    let mut found = Vec::new();
    for lane in 0..lanes {
        let answer = client.ask(redis::cmd("GET").arg(key(log, lane))).await?;
        if answer != Value::Nil {
            found.push((lane, read(log, lane, &answer)?));
        }
    }
    Ok(found)
}

/// Creates a lane's first value, behind `seq` and at an offset of the topic, where it has none. Only `init` may, and whoever begins
/// a log anew.
///
/// # Errors
/// Those of the connection, and what the server refuses.
pub async fn create(
    client: &mut Client,
    log: &Log,
    lane: i32,
    (seq, topic_id, topic_offset): (Seq, &str, i64),
) -> Result<(), Fault> {
    let standing = Standing {
        seq,
        topic_id: topic_id.to_owned(),
        topic_offset,
        committed_us: 0,
        applied_us: now_us(),
        late: Vec::new(),
    };
    let mut command = set(log, lane, &standing)?;
    client.ask(command.arg("NX")).await.map(drop)
}

impl Standing {
    /// The same as other stores have it.
    #[must_use]
    pub fn entry(&self, lane: i32) -> Entry {
        let seconds = |later: u64, earlier: u64| later.saturating_sub(earlier) as f64 / 1e6;
        Entry {
            lane,
            seq: self.seq,
            topic_id: self.topic_id.clone(),
            topic_offset: self.topic_offset,
            idle_seconds: seconds(now_us(), self.applied_us),
            lag_seconds: (self.committed_us > 0)
                .then(|| seconds(self.applied_us, self.committed_us)),
            barrier: None,
        }
    }
}

/// Now, by this machine's clock.
#[must_use]
pub fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(0)
}
