//! What a sink tells of itself, as OpenTelemetry metrics.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use unitflow_change::name::{Log, Name};

use crate::batch::Batch;

/// What the lag is while nobody knows: a gauge keeps its last value otherwise.
const LAG_UNKNOWN: f64 = -1.0;

/// The instruments of all lanes.
#[derive(Clone, Debug)]
pub struct Instruments {
    rows: Counter<u64>,
    commits: Counter<u64>,
    repeated: Counter<u64>,
    retried: Counter<u64>,
    batch_rows: Histogram<u64>,
    lag: Gauge<f64>,
    parked: Gauge<u64>,
    copied: Counter<u64>,
    unsettled: Counter<u64>,
}

impl Instruments {
    /// Registers the instruments.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        Self {
            rows: meter
                .u64_counter("unitflow.sink.rows")
                .with_description("Records applied")
                .build(),
            commits: meter
                .u64_counter("unitflow.sink.commits")
                .with_description("Transactions committed at the target")
                .build(),
            repeated: meter
                .u64_counter("unitflow.sink.repeated")
                .with_description("Records read again and dropped")
                .build(),
            retried: meter
                .u64_counter("unitflow.sink.retried")
                .with_description("Batches tried again after a deadlock or lock wait")
                .build(),
            batch_rows: meter
                .u64_histogram("unitflow.sink.batch_rows")
                .with_description("Records in one commit")
                .with_boundaries(vec![1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0])
                .build(),
            parked: meter
                .u64_gauge("unitflow.sink.parked")
                .with_description("Tables whose changes wait for a person")
                .build(),
            copied: meter
                .u64_counter("unitflow.sink.copied")
                .with_description("Copied rows written, or found as they are")
                .build(),
            unsettled: meter
                .u64_counter("unitflow.sink.unsettled")
                .with_description("Rows of tables being filled that have to be read again")
                .build(),
            lag: meter
                .f64_gauge("unitflow.lag")
                .with_unit("s")
                .with_description(
                    "From the source's commit of the last applied change to its commit here; -1 while the lane does not run here",
                )
                .build(),
        }
    }

    /// The same for one lane.
    #[must_use]
    pub fn lane(&self, log: &Log, to: &Name, lane: i32) -> LaneMetrics {
        let labels = [
            KeyValue::new("log", log.to_string()),
            KeyValue::new("to", to.to_string()),
            KeyValue::new("lane", i64::from(lane)),
        ];
        LaneMetrics { instruments: self.clone(), labels }
    }
}

/// One lane's metrics.
#[derive(Clone, Debug)]
pub struct LaneMetrics {
    instruments: Instruments,
    labels: [KeyValue; 3],
}

impl LaneMetrics {
    /// A batch was applied, and `committed` or not.
    pub fn applied(&self, batch: &Batch, committed: bool) {
        let commit_us = batch.last().map_or(0, |slot| slot.commit_us);
        self.applied_records(batch.slots().len(), commit_us, committed);
    }

    /// So many records were applied, and `committed` or not; the source committed the last at this time, in µs
    /// since 1970.
    pub fn applied_records(&self, records: usize, commit_us: u64, committed: bool) {
        let rows = records as u64;
        self.instruments.rows.add(rows, &self.labels);
        self.instruments.batch_rows.record(rows, &self.labels);
        if committed {
            self.instruments.commits.add(1, &self.labels);
        }
        if commit_us > 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let lag = now.as_secs_f64() - commit_us as f64 / 1e6;
            self.instruments.lag.record(lag.max(0.0), &self.labels);
        }
    }

    /// The lane does not run in this worker any more, or not now: its lag is not known here.
    pub fn stopped(&self) {
        self.instruments.lag.record(LAG_UNKNOWN, &self.labels);
    }

    /// So many tables are parked.
    pub fn parked(&self, tables: usize) {
        self.instruments.parked.record(tables as u64, &self.labels);
    }

    /// So many copied rows were written, and so many rows have to be read again.
    pub fn copied(&self, written: usize, unsettled: usize) {
        self.instruments.copied.add(written as u64, &self.labels);
        self.instruments.unsettled.add(unsettled as u64, &self.labels);
    }

    /// A record was read again.
    pub fn repeated(&self) {
        self.instruments.repeated.add(1, &self.labels);
    }

    /// A batch is tried again.
    pub fn retried(&self) {
        self.instruments.retried.add(1, &self.labels);
    }
}
