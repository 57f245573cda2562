//! The relay: in a star, the hub's copy of a spoke's tagged topic, record by record, unchanged.
//!
//! It adds nothing and decides nothing: numbers, links and headers stay those of the log, so that
//! a sink can't tell the copy from the original.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;
use unitflow_change::name::{Log, Stage};
use unitflow_change::seq::{Seq, Step, step};
use unitflow_change::tag::{HEADER, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::reader::{QUEUE_BYTES, Reader, Record};
use unitflow_kafka::{Writer, positions, topics};

use super::grouping::{Grouped, Grouping, feed};
use super::state::{RelayState, ensure_same_topic, ensure_tail, load};
use crate::config::Mesh;
use crate::supervisor::Begin;
use crate::telemetry::{Meters, RelayMeters};

/// Copies one log to the hub until it is cancelled or fails.
pub async fn run(
    mesh: Arc<Mesh>,
    log: Log,
    meters: Meters,
    begin: Begin,
    cancel: CancellationToken,
) -> Result<(), Fault> {
    let work = async {
        begin.stand_by(&mesh, mesh.read_at(&log), &log, Stage::Relay).await?;
        let mut copy = Copy::open(&mesh, &log, &meters).await?;
        let source = &mesh.unit(&log.unit)?.broker;
        let tagged = mesh.topics.tagged(&log);
        let mut starts = Vec::new();
        for (partition, offset) in (0..).zip(copy.state.offsets.iter().copied()) {
            // What retention took was read; whether something is missing is proved by `prev`.
            let (low, _) = topics::bounds(source, &tagged, partition).await?;
            starts.push((partition, offset.max(low)));
        }
        let reader = Reader::open(source, &tagged, &starts, QUEUE_BYTES).await?;
        info!(%log, "relaying");
        feed(&mut copy, &reader).await
    };
    tokio::select! {
        () = cancel.cancelled() => Ok(()),
        result = work => result,
    }
}

struct Copy {
    writer: Writer,
    topic: String,
    position_topic: String,
    state: RelayState,
    grouping: Grouping,
    /// Records since the last commit, for metrics.
    records: u64,
    meters: RelayMeters,
}

impl Copy {
    async fn open(mesh: &Mesh, log: &Log, meters: &Meters) -> Result<Self, Fault> {
        let hub = &mesh.unit(mesh.read_at(log))?.broker;
        let source = &mesh.unit(&log.unit)?.broker;
        let topic = mesh.topics.tagged(log);
        let writer = Writer::open(hub, &mesh.topics.transactional_id(log, Stage::Relay)).await?;
        let known: Option<RelayState> = load(hub, &mesh.topics, log, Stage::Relay).await?;
        let known_ids =
            known.as_ref().map(|state| (state.source_id.as_str(), state.copy_id.as_str()));
        let source_id = ensure_same_topic(source, &topic, known_ids.map(|ids| ids.0)).await?;
        let copy_id = ensure_same_topic(hub, &topic, known_ids.map(|ids| ids.1)).await?;
        let lanes = usize::try_from(mesh.lanes(log)).unwrap_or(0);
        let state = known.unwrap_or_else(|| RelayState {
            offsets: vec![0; lanes],
            tails: vec![Seq::NONE; lanes],
            source_id,
            copy_id,
        });
        for (partition, tail) in (0..).zip(&state.tails) {
            ensure_tail(hub, &topic, partition, *tail).await?;
        }
        Ok(Self {
            writer,
            position_topic: mesh.topics.position(log),
            topic,
            state,
            grouping: Grouping::new(),
            records: 0,
            meters: meters.relay(log),
        })
    }

    fn put(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let headers: Vec<(&str, &[u8])> = record.headers().collect();
        let at = record.timestamp_ms().unwrap_or(0);
        self.writer.send(
            &self.topic,
            record.partition(),
            record.key(),
            record.value(),
            &headers,
            at,
        )?;
        self.records += 1;
        Ok(())
    }

    fn gap(&self, record: &Record<'_>, tag: &Tag<'_>, last: Seq) -> Fault {
        Fault::fatal(
            Code::Gap,
            format!(
                "{}[{}]: record {} at offset {} follows {}, but the last one copied is {last}",
                self.topic,
                record.partition(),
                tag.seq,
                record.offset(),
                tag.prev
            ),
        )
        .hint("the spoke's topic lost records that the hub has not copied: let the spoke leave and join again, see offset_gone in the runbook")
    }
}

impl Grouped for Copy {
    fn take(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let place = usize::try_from(record.partition()).unwrap_or(usize::MAX);
        let tag = Tag::parse(record.header(HEADER).unwrap_or_default())
            .map_err(|fault| fault.at(format!("{} offset {}", self.topic, record.offset())))?;
        match step(self.state.tails[place], tag.seq, tag.prev) {
            Step::Seen => {}
            Step::Next => {
                self.put(record)?;
                self.state.tails[place] = tag.seq;
            }
            Step::Gap => return Err(self.gap(record, &tag, self.state.tails[place])),
        }
        self.state.offsets[place] = record.next_offset();
        self.grouping.pending();
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        let state = serde_json::to_vec(&self.state).map_err(|error| {
            Fault::fatal(Code::Bug, format!("a state can't be written: {error}"))
        })?;
        positions::store(&mut self.writer, &self.position_topic, Stage::Relay.partition(), &state)?;
        self.grouping.commit(&mut self.writer)?;
        self.meters.records.add(std::mem::take(&mut self.records), &self.meters.labels);
        Ok(())
    }

    fn grouping(&self) -> &Grouping {
        &self.grouping
    }

    fn writer(&self) -> &Writer {
        &self.writer
    }
}
