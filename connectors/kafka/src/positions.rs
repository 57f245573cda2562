//! A stage's durable state: the last record of its own partition in the position topic.
//!
//! The topic is compacted and has **one partition per stage**, so that a stage's state is the last
//! committed record there. It is written by the stage's [`Writer`] in the transaction of the
//! records it speaks of, so that both become visible together; and because the writer is fenced
//! before the state is read, nobody else can write it in between.

use unitflow_change::fault::{Code, Fault};

use crate::broker::Broker;
use crate::last::{OwnedRecord, last_committed, last_record};
use crate::topics::{Retention, Spec};
use crate::writer::Writer;

/// Of one state; its record must travel whole.
const STATE_BYTES_MAX: usize = 3 << 20;

/// The position topic as it has to be.
///
/// Every commit adds a record, so segments are as small as Kafka allows (1 MiB) and cleaned early:
/// finding the last record stays a matter of one read, and the topic stays small.
#[must_use]
pub fn spec(name: impl Into<String>, stages: i32, replication: i32, min_insync: i32) -> Spec {
    let settings = [
        ("segment.bytes", "1048576"),
        ("segment.ms", "3600000"),
        ("min.cleanable.dirty.ratio", "0.1"),
        ("max.compaction.lag.ms", "3600000"),
        ("delete.retention.ms", "3600000"),
    ];
    Spec {
        name: name.into(),
        partitions: stages,
        retention: Retention::Compacted,
        max_message_bytes: 8 << 20,
        replication,
        min_insync,
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
    }
}

/// The state of the stage that has this partition; `None` if it never had one. Call it after
/// [`Writer::open`].
///
/// # Errors
/// As [`last_record`]; [`Code::PositionUnreadable`] if the last record is empty.
pub async fn load(broker: &Broker, topic: &str, stage: i32) -> Result<Option<Vec<u8>>, Fault> {
    state_in(last_record(broker, topic, stage).await?, topic, stage)
}

/// The same as it is committed by now, for whoever does not hold the role: the stage's writer may be
/// at work.
///
/// # Errors
/// As [`load`].
pub async fn look(broker: &Broker, topic: &str, stage: i32) -> Result<Option<Vec<u8>>, Fault> {
    state_in(last_committed(broker, topic, stage).await?, topic, stage)
}

fn state_in(
    record: Option<OwnedRecord>,
    topic: &str,
    stage: i32,
) -> Result<Option<Vec<u8>>, Fault> {
    let Some(record) = record else { return Ok(None) };
    match record.value {
        Some(value) => Ok(Some(value)),
        None => {
            let what = format!("{topic}[{stage}]: the state at offset {} is empty", record.offset);
            let hint = "someone deleted it: start a new generation";
            Err(Fault::fatal(Code::PositionUnreadable, what).hint(hint))
        }
    }
}

/// When the stage that has this partition stored its state last, in ms since 1970 by its own clock; `None` if it never did.
///
/// # Errors
/// As [`last_record`].
pub async fn stored_at(broker: &Broker, topic: &str, stage: i32) -> Result<Option<i64>, Fault> {
    Ok(last_record(broker, topic, stage).await?.and_then(|record| record.timestamp_ms))
}

/// Adds a stage's new state to the writer's transaction. It counts from the commit on.
///
/// # Errors
/// As [`Writer::send`]; [`Code::TooLarge`] where it is no state that a stage can have.
pub fn store(writer: &mut Writer, topic: &str, stage: i32, state: &[u8]) -> Result<(), Fault> {
    let key = writer.id().to_owned();
    store_for(writer, topic, stage, &key, state)
}

/// The same for a stage whose writer has this id, and which this writer keeps from its role.
///
/// # Errors
/// As [`store`].
pub fn store_for(
    writer: &mut Writer,
    topic: &str,
    stage: i32,
    id: &str,
    state: &[u8],
) -> Result<(), Fault> {
    // Compaction would leave the last piece only.
    if state.len() > STATE_BYTES_MAX {
        let what = format!("{topic}[{stage}]: a state of {} bytes", state.len());
        return Err(Fault::fatal(Code::TooLarge, what).hint(
            "GTIDs with too many gaps, or too many prepared XA transactions: see the runbook",
        ));
    }
    // One key per partition, the writer's id, so that compaction keeps the last state only.
    writer.send(topic, stage, Some(id.as_bytes()), Some(state), &[], now_ms())
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    now.ok().and_then(|now| i64::try_from(now.as_millis()).ok()).unwrap_or(0)
}
