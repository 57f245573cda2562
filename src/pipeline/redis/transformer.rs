//! The transformer's worker of a Redis log: feeds the captured topic to the function and commits what it puts out together
//! with its state and with what changed of the expiry times.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;
use unitflow_change::name::{Log, Stage};
use unitflow_change::{Code, Fault};
use unitflow_kafka::broker::Broker;
use unitflow_kafka::reader::{Item, QUEUE_BYTES, Reader, Record};
use unitflow_kafka::{Writer, positions, topics};
use unitflow_transformer::redis::{Index, State, Transformer};

use super::state::TransformerState;
use crate::config::Mesh;
use crate::pipeline::grouping::{Grouped, Grouping, feed};
use crate::pipeline::state::{ensure_same_topic, ensure_tail, load};
use crate::pipeline::transformer::{ToTopic, captured};
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
        info!(%log, offset = start, expiring = stage.function.index().len(), "transforming");
        feed(&mut stage, &reader).await
    };
    tokio::select! {
        () = cancel.cancelled() => Ok(()),
        result = work => result,
    }
}

struct Stager {
    function: Transformer,
    out: ToTopic,
    expiry: String,
    position_topic: String,
    /// The ids of the captured, the tagged and the expiry topic.
    ids: [String; 3],
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
        let (tagged, expiry) = (mesh.topics.tagged(log), mesh.topics.expiry(log));
        let known = state.as_ref();
        let ids = [
            (&mesh.topics.captured(log), known.map(|state| state.captured_id.as_str())),
            (&tagged, known.map(|state| state.tagged_id.as_str())),
            (&expiry, known.map(|state| state.expiry_id.as_str())),
        ];
        let [captured_id, tagged_id, expiry_id] = ids;
        let ids = [
            ensure_same_topic(broker, captured_id.0, captured_id.1).await?,
            ensure_same_topic(broker, tagged_id.0, tagged_id.1).await?,
            ensure_same_topic(broker, expiry_id.0, expiry_id.1).await?,
        ];
        let function = state.map_or_else(State::start, |state| state.function);
        for (partition, tail) in (0..).zip(&function.tails) {
            ensure_tail(broker, &tagged, partition, *tail).await?;
        }
        let index = read_index(broker, &expiry).await?;
        Ok(Self {
            function: Transformer::new(function, index),
            out: ToTopic::new(writer, tagged, &log.unit),
            expiry,
            position_topic: mesh.topics.position(log),
            ids,
            grouping: Grouping::new(),
            meters: meters.transform(log),
        })
    }
}

/// What is known of expiry times: the last word on each key.
async fn read_index(broker: &Broker, topic: &str) -> Result<Index, Fault> {
    let mut index = Index::default();
    let (low, _) = topics::bounds(broker, topic, 0).await?;
    let reader = Reader::open(broker, topic, &[(0, low)], QUEUE_BYTES).await?;
    loop {
        match reader.next().await? {
            Item::Record(record) => {
                index.restore(record.key().unwrap_or_default(), record.value())?;
            }
            Item::End { .. } => return Ok(index),
        }
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
        // A transaction of the source is whole in the captured topic: its end comes soon.
        if self.function.is_inside() {
            return Ok(());
        }
        let [captured_id, tagged_id, expiry_id] = self.ids.clone();
        let function = self.function.state().clone();
        let state = TransformerState { function, captured_id, tagged_id, expiry_id };
        let state = serde_json::to_vec(&state).map_err(|error| {
            Fault::fatal(Code::Bug, format!("a state can't be written: {error}"))
        })?;
        let (writer, expiry) = (&mut self.out.writer, &self.expiry);
        self.function
            .index()
            .store(|key, value| writer.send(expiry, 0, Some(key), value, &[], 0))?;
        let stage = Stage::Transformer.partition();
        positions::store(&mut self.out.writer, &self.position_topic, stage, &state)?;
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
