//! Logs by `tracing` to stderr, metrics by OpenTelemetry with a Prometheus endpoint.

use std::io::IsTerminal as _;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::{TcpListener, lookup_host};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;
use unitflow_change::name::{Log, Name};
use unitflow_change::{Code, Fault};
use unitflow_sinks::metrics::Instruments;
use unitflow_transformer::transformer::Counts;

use crate::cli::LogFormat;

/// Starts logging: workers say what they do, other commands only what is wrong.
pub fn log_to_stderr(format: LogFormat, lasting: bool) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(if lasting { "info" } else { "warn" }));
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && !no_color)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// What keeps metrics served; dropping it ends that.
pub struct Served {
    _server: Option<AbortOnDropHandle<()>>,
    _provider: SdkMeterProvider,
}

/// A meter, and an endpoint that shows what it measures if an address is given. Where it can't be had, as when another
/// worker with the same configuration has it, the worker goes on without.
pub async fn serve_metrics(address: Option<&String>) -> Result<(Meter, Served), Fault> {
    let registry = Registry::new();
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()
        .map_err(|error| Fault::fatal(Code::Bug, format!("metrics: {error}")))?;
    let provider = SdkMeterProvider::builder().with_reader(exporter).build();
    let meter = provider.meter("unitflow");
    let server = match address {
        None => None,
        Some(address) => listen(address).await?.map(|listener| serve(listener, registry)),
    };
    Ok((meter, Served { _server: server, _provider: provider }))
}

async fn listen(address: &str) -> Result<Option<TcpListener>, Fault> {
    let unknown = |error| Fault::fatal(Code::Config, format!("no metrics at {address}: {error}"));
    let addresses: Vec<_> = lookup_host(address).await.map_err(unknown)?.collect();
    match TcpListener::bind(addresses.as_slice()).await {
        Ok(listener) => {
            // Port 0 is any that is free: where it is says the listener.
            let bound = listener.local_addr().map_or(address.to_owned(), |bound| bound.to_string());
            info!("metrics at http://{bound}/metrics");
            Ok(Some(listener))
        }
        Err(error) => {
            warn!(
                "no metrics at {address}: {error}; give each worker of a machine its own --prometheus"
            );
            Ok(None)
        }
    }
}

fn serve(listener: TcpListener, registry: Registry) -> AbortOnDropHandle<()> {
    let show = move || async move { render(&registry) };
    let router = axum::Router::new().route("/metrics", axum::routing::get(show));
    AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = axum::serve(listener, router).await;
    }))
}

fn render(registry: &Registry) -> Vec<u8> {
    let mut text = Vec::new();
    // Writing to a Vec can't fail, and metrics that can't be shown are not worth a fault.
    let _ = TextEncoder::new().encode(&registry.gather(), &mut text);
    text
}

/// All instruments, cheap to clone.
#[derive(Clone, Debug)]
pub struct Meters {
    faults: Counter<u64>,
    captured: Counter<u64>,
    transformed: Counter<u64>,
    relayed: Counter<u64>,
    commits: Counter<u64>,
    bridge: Gauge<f64>,
    sinks: Instruments,
}

impl Meters {
    /// Registers the instruments.
    pub fn new(meter: &Meter) -> Self {
        let counter = |name: &'static str, what: &'static str| {
            meter.u64_counter(name).with_description(what).build()
        };
        Self {
            faults: counter("unitflow.faults", "Faults by role and code"),
            captured: counter("unitflow.connector.rows", "Row changes captured"),
            transformed: counter(
                "unitflow.transformer.records",
                "Captured records by what became of them: put, echo, filtered, repeated",
            ),
            relayed: counter("unitflow.relay.records", "Records copied to the hub"),
            commits: counter("unitflow.kafka.commits", "Transactions committed to Kafka"),
            bridge: meter
                .f64_gauge("unitflow.bridge")
                .with_unit("s")
                .with_description(
                    "For how long from now what a role has still to read is kept; 0 once it is gone",
                )
                .build(),
            sinks: Instruments::new(meter),
        }
    }

    /// A role failed.
    pub fn fault(&self, role: &str, code: Code) {
        let labels = [KeyValue::new("role", role.to_owned()), KeyValue::new("code", code.as_str())];
        self.faults.add(1, &labels);
    }

    /// An outage of this length of a unit's role is bridged. `by`: binlog, captured, relayed, tagged.
    pub fn bridge(&self, log: &Log, unit: &Name, by: &'static str, seconds: f64) {
        let labels = [
            KeyValue::new("log", log.to_string()),
            KeyValue::new("unit", unit.to_string()),
            KeyValue::new("by", by),
        ];
        self.bridge.record(seconds, &labels);
    }

    /// Those of a connector.
    pub fn capture(&self, log: &Log) -> CaptureMeters {
        CaptureMeters {
            rows: self.captured.clone(),
            commits: self.commits.clone(),
            labels: [KeyValue::new("log", log.to_string()), KeyValue::new("stage", "connector")],
        }
    }

    /// Those of a transformer.
    pub fn transform(&self, log: &Log) -> TransformMeters {
        TransformMeters {
            records: self.transformed.clone(),
            commits: self.commits.clone(),
            log: log.to_string(),
            told: Counts::default(),
        }
    }

    /// Those of a relay.
    pub fn relay(&self, log: &Log) -> RelayMeters {
        RelayMeters {
            records: self.relayed.clone(),
            labels: [KeyValue::new("log", log.to_string())],
        }
    }

    /// Those of sinks.
    pub fn sinks(&self) -> Instruments {
        self.sinks.clone()
    }
}

/// A connector's instruments.
pub struct CaptureMeters {
    pub rows: Counter<u64>,
    pub commits: Counter<u64>,
    pub labels: [KeyValue; 2],
}

/// A relay's instruments.
pub struct RelayMeters {
    pub records: Counter<u64>,
    pub labels: [KeyValue; 1],
}

/// A transformer's instruments.
pub struct TransformMeters {
    records: Counter<u64>,
    commits: Counter<u64>,
    log: String,
    told: Counts,
}

impl TransformMeters {
    /// Tells what was counted since the last call.
    pub fn transformed(&mut self, counts: Counts) {
        let told = self.told;
        let log = || KeyValue::new("log", self.log.clone());
        for (outcome, now, before) in [
            ("put", counts.put, told.put),
            ("echo", counts.echoes, told.echoes),
            ("filtered", counts.filtered, told.filtered),
            ("repeated", counts.repeated, told.repeated),
        ] {
            self.records.add(now - before, &[log(), KeyValue::new("outcome", outcome)]);
        }
        self.commits.add(1, &[log(), KeyValue::new("stage", "transformer")]);
        self.told = counts;
    }
}
