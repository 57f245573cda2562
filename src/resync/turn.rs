//! Lets a log go on behind what can't be read any more, in a new generation.
//!
//! The generation's first record names the routing, and all lanes meet there, so nothing of what stood
//! before it has to be known. It is written together with the states of the stages that go on from it.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::task::block_in_place;
use unitflow_change::name::{Log, Stage};
use unitflow_change::position::Position;
use unitflow_change::seq::Seq;
use unitflow_change::tag::{Afters, HEADER, Kind, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::{Writer, positions, topics};
use unitflow_transformer::State;

use super::copy;
use crate::config::Mesh;
use crate::pipeline::{ConnectorState, TransformerState, ensure_same_topic, load_state};

/// What is other behind the turn.
#[derive(Default)]
pub struct Onward {
    /// Where the store's log is captured from.
    pub position: Option<Position>,
    /// The transformer passes over what it has not read yet.
    pub transformer: bool,
}

/// The first record behind a turn.
pub fn next(state: &ConnectorState) -> Result<Seq, Fault> {
    let next = state.seq.generation().checked_add(1);
    next.map(Seq::start_of)
        .ok_or_else(|| Fault::fatal(Code::Routing, "the log has no generation left to begin"))
}

/// Turns a log that was seen in this state; gives its first record behind the turn.
pub async fn to(
    mesh: &Mesh,
    log: &Log,
    seen: &ConnectorState,
    onward: Onward,
) -> Result<Seq, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    // From here on no stage writes to the log that was started before.
    let transformer = mesh.topics.transactional_id(log, Stage::Transformer);
    if onward.transformer {
        drop(Writer::open(broker, &transformer).await?);
    }
    let connector = mesh.topics.transactional_id(log, Stage::Connector);
    let mut writer = Writer::open(broker, &connector).await?;
    let mut state = copy::state(mesh, log).await?;
    // A connector that still runs may have gone on; one that can't may not.
    if onward.position.is_some() && (state.seq != seen.seq || state.position != seen.position)
        || state.seq.generation() != seen.seq.generation()
    {
        return Err(Fault::retry(Code::Fenced, format!("log {log} went on meanwhile")));
    }
    let captured = mesh.topics.captured(log);
    let (_, end) = topics::bounds(broker, &captured, 0).await?;
    let passed = match onward.transformer {
        true => Some(passing(mesh, log, end, state.seq).await?),
        false => None,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seq = next(&state)?;
    let tag = Tag {
        kind: Kind::Barrier,
        seq,
        prev: state.seq,
        transaction: "",
        index: 0,
        last: true,
        commit_us: u64::try_from(now.as_micros()).unwrap_or(0),
        after: Afters::default(),
        to: "",
    };
    let mut header = Vec::new();
    tag.write(&mut header);
    let routing = json(&state.routing)?;
    state.seq = seq;
    if let Some(position) = onward.position {
        state.position = position;
    }
    if onward.transformer {
        // Only its first rows say whose a transaction is, and they are passed over: it comes again.
        state.position.open = None;
    }
    // What was read of whole tables may stand in what is passed over.
    state.copy.scan = None;
    let value = state.envelope.of_payload(&routing);
    let ms = i64::try_from(now.as_millis()).unwrap_or(0);
    writer.send(&captured, 0, None, Some(&value), &[(HEADER, &header)], ms)?;
    let position = mesh.topics.position(log);
    let states = [
        (Stage::Connector, &connector, Some(json(&state)?)),
        (Stage::Transformer, &transformer, passed),
    ];
    for (stage, id, state) in states {
        if let Some(state) = state {
            positions::store_for(&mut writer, &position, stage.partition(), id, &state)?;
        }
    }
    block_in_place(|| writer.commit())?;
    Ok(seq)
}

/// The state of a transformer that goes on at an offset, behind this record.
async fn passing(mesh: &Mesh, log: &Log, offset: i64, seq: Seq) -> Result<Vec<u8>, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let known: Option<TransformerState> =
        load_state(broker, &mesh.topics, log, Stage::Transformer).await?;
    let topic_id = async |topic: &str| ensure_same_topic(broker, topic, None).await;
    let function = known.map_or_else(State::start, |known| known.function);
    json(&TransformerState {
        // A transaction that is half read has no rest.
        function: State { offset, seq, open: None, ..function },
        captured_id: topic_id(&mesh.topics.captured(log)).await?,
        tagged_id: topic_id(&mesh.topics.tagged(log)).await?,
    })
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value)
        .map_err(|error| Fault::fatal(Code::Bug, format!("a state can't be written: {error}")))
}
