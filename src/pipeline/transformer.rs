//! The transformer's worker: feeds the captured topic to the function and commits what it puts out
//! together with its state.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::seq::Seq;
use unitflow_change::tag::{CONTROL, HEADER, Kind, ORIGIN, Tag};
use unitflow_change::{Code, Fault, form};
use unitflow_kafka::reader::{QUEUE_BYTES, Reader, Record};
use unitflow_kafka::{Writer, positions, topics};
use unitflow_transformer::{Captured, Output, Transformer};

use super::grouping::{Grouped, Grouping, feed};
use super::state::{TransformerState, ensure_same_topic, ensure_tail, load};
use crate::bridge::{of_stage, targets};
use crate::config::Mesh;
use crate::supervisor::Begin;
use crate::telemetry::{Meters, TransformMeters};

/// Transforms one log until it is cancelled or fails.
pub async fn run(
    mesh: Arc<Mesh>,
    log: Log,
    meters: Meters,
    begin: Begin,
    cancel: CancellationToken,
) -> Result<(), Fault> {
    let work = async {
        begin.stand_by(&mesh, &log.unit, &log, Stage::Transformer).await?;
        let mut stage = Stager::open(&mesh, &log, &meters).await?;
        let broker = &mesh.unit(&log.unit)?.broker;
        let captured = mesh.topics.captured(&log);
        // What retention took was read; whether something is missing is proved by `prev`.
        let (low, _) = topics::bounds(broker, &captured, 0).await?;
        let start = stage.function.state().offset.max(low);
        let reader = Reader::open(broker, &captured, &[(0, start)], QUEUE_BYTES).await?;
        info!(%log, offset = start, "transforming");
        feed(&mut stage, &reader).await.map_err(|fault| match fault.code {
            Code::Gap if start == low && low > 0 => Fault { code: Code::OffsetGone, ..fault },
            _ => fault,
        })
    };
    tokio::select! {
        () = cancel.cancelled() => Ok(()),
        result = work => {
            result.map_err(|fault| of_stage(fault, &log.unit, targets(&mesh, &log)))
        }
    }
}

struct Stager {
    function: Transformer,
    out: ToTopic,
    position_topic: String,
    captured_id: String,
    tagged_id: String,
    grouping: Grouping,
    meters: TransformMeters,
}

impl Stager {
    /// Fences any older transformer, then reads where it stopped and sees that the topics agree.
    async fn open(mesh: &Mesh, log: &Log, meters: &Meters) -> Result<Self, Fault> {
        let broker = &mesh.unit(&log.unit)?.broker;
        let id = mesh.topics.transactional_id(log, Stage::Transformer);
        let writer = Writer::open(broker, &id).await?;
        let state: Option<TransformerState> =
            load(broker, &mesh.topics, log, Stage::Transformer).await?;
        let (captured, tagged) = (mesh.topics.captured(log), mesh.topics.tagged(log));
        let known = state.as_ref();
        let captured_id =
            ensure_same_topic(broker, &captured, known.map(|state| state.captured_id.as_str()))
                .await?;
        let tagged_id =
            ensure_same_topic(broker, &tagged, known.map(|state| state.tagged_id.as_str())).await?;
        let function =
            state.map_or_else(unitflow_transformer::State::start, |state| state.function);
        for (partition, tail) in (0..).zip(&function.tails) {
            ensure_tail(broker, &tagged, partition, *tail).await?;
        }
        if function.tails.is_empty() {
            ensure_tail(broker, &tagged, 0, Seq::NONE).await?;
        }
        Ok(Self {
            function: Transformer::new(function),
            out: ToTopic::new(writer, tagged, &log.unit),
            position_topic: mesh.topics.position(log),
            captured_id,
            tagged_id,
            grouping: Grouping::new(),
            meters: meters.transform(log),
        })
    }
}

impl Grouped for Stager {
    fn take(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let captured = captured(record)?;
        self.function
            .step(&captured, &mut self.out)
            .map_err(|fault| fault.at(format!("captured offset {}", captured.offset)))?;
        self.grouping.pending();
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        let state = TransformerState {
            function: self.function.state(),
            captured_id: self.captured_id.clone(),
            tagged_id: self.tagged_id.clone(),
        };
        let state = serde_json::to_vec(&state).map_err(|error| {
            Fault::fatal(Code::Bug, format!("a state can't be written: {error}"))
        })?;
        positions::store(
            &mut self.out.writer,
            &self.position_topic,
            Stage::Transformer.partition(),
            &state,
        )?;
        self.grouping.commit(&mut self.out.writer)?;
        self.meters.transformed(self.function.counts());
        Ok(())
    }

    fn grouping(&self) -> &Grouping {
        &self.grouping
    }

    fn writer(&self) -> &Writer {
        &self.out.writer
    }
}

/// A record of the captured topic, as the functions take it.
pub fn captured<'a>(record: &'a Record<'_>) -> Result<Captured<'a>, Fault> {
    let tag = Tag::parse(record.header(HEADER).unwrap_or_default())
        .map_err(|fault| fault.at(format!("captured offset {}", record.offset())))?;
    Ok(Captured {
        offset: record.offset(),
        next_offset: record.next_offset(),
        tag,
        key: record.key().unwrap_or_default(),
        value: record.value().unwrap_or_default(),
    })
}

/// Writes what the function puts out to the tagged topic, with its origin.
pub struct ToTopic {
    pub writer: Writer,
    topic: String,
    origin: String,
    header: Vec<u8>,
}

impl ToTopic {
    /// To this topic, of what this unit writes.
    pub fn new(writer: Writer, topic: String, origin: &Name) -> Self {
        Self { writer, topic, origin: origin.to_string(), header: Vec::new() }
    }
}

impl Output for ToTopic {
    fn put(
        &mut self,
        partition: i32,
        tag: &Tag<'_>,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), Fault> {
        self.header.clear();
        tag.write(&mut self.header);
        let headers = [
            (HEADER, self.header.as_slice()),
            (ORIGIN, self.origin.as_bytes()),
            (CONTROL, tag.kind.as_str().as_bytes()),
        ];
        let is_control =
            !matches!(tag.kind, Kind::Row | Kind::Copy | Kind::Command) || form::is_internal(key);
        let headers = &headers[..if is_control { 3 } else { 2 }];
        let key = (!key.is_empty()).then_some(key);
        let at = i64::try_from(tag.commit_us / 1000).unwrap_or(0);
        // Of a copied row that is not there: to other consumers a tombstone.
        let value = (tag.kind != Kind::Copy || !value.is_empty()).then_some(value);
        self.writer.send(&self.topic, partition, key, value, headers, at)
    }
}
