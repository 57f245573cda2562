//! Keeps roles running: what may be tried again is tried again from durable state, what may not
//! stops alone and is reported.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::notice::Board;
use crate::telemetry::Meters;
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, info, info_span, warn};
use unitflow_change::{Code, Fault};

/// The first pause before another attempt; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause: a server that is back is found within this time.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// An attempt that lasted this long was a success, and the next pause is short again.
const GOOD_RUN: Duration = Duration::from_secs(30);

/// How an attempt begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It takes the role over, from whoever has it.
    AtOnce,
    /// Another worker took the role over: it waits until that one is gone.
    StandBy,
}

/// Runs roles side by side; each is owned here, none is detached.
pub struct Supervisor {
    tasks: JoinSet<Result<(), Fault>>,
    names: HashMap<task::Id, String>,
    cancel: CancellationToken,
    board: Arc<Board>,
    meters: Meters,
}

impl Supervisor {
    /// Stops its roles when `cancel` is cancelled; tells `board` how they fare.
    pub fn new(cancel: CancellationToken, board: Arc<Board>, meters: Meters) -> Self {
        Self { tasks: JoinSet::new(), names: HashMap::new(), cancel, board, meters }
    }

    /// Adds a role. `attempt` runs until it is cancelled or fails; each call begins from durable
    /// state, and is told how.
    pub fn add<A, R>(&mut self, name: String, attempt: A)
    where
        A: Fn(Begin, CancellationToken) -> R + Send + 'static,
        R: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        let (cancel, board, meters) =
            (self.cancel.clone(), self.board.clone(), self.meters.clone());
        let span = info_span!("role", name);
        let role = keep_running(name.clone(), attempt, cancel, board, meters).instrument(span);
        let task = self.tasks.spawn(role);
        self.names.insert(task.id(), name);
    }

    /// Waits for all roles. A role that stopped leaves the others running; the first fault is
    /// returned at the end.
    pub async fn wait(mut self) -> Result<(), Fault> {
        let mut first = None;
        while let Some(ended) = self.tasks.join_next().await {
            let fault = match ended {
                Ok(Ok(())) => continue,
                Ok(Err(fault)) => fault,
                Err(panic) => {
                    let fault = Fault::fatal(Code::Bug, format!("a role panicked: {panic}"));
                    error!(code = %fault.code, "{}", fault.what);
                    let name = self.names.get(&panic.id()).map_or("?", String::as_str);
                    self.meters.fault(name, fault.code);
                    self.board.fault(name, &fault);
                    fault
                }
            };
            first.get_or_insert(fault);
            if !self.tasks.is_empty() {
                warn!(running = self.tasks.len(), "a role stopped; the others go on");
            }
        }
        first.map_or(Ok(()), Err)
    }
}

async fn keep_running<A, R>(
    name: String,
    attempt: A,
    cancel: CancellationToken,
    board: Arc<Board>,
    meters: Meters,
) -> Result<(), Fault>
where
    A: Fn(Begin, CancellationToken) -> R,
    R: Future<Output = Result<(), Fault>>,
{
    let mut pause = PAUSE_MIN;
    let mut begin = Begin::AtOnce;
    loop {
        board.running(&name);
        info!("started");
        let begun = Instant::now();
        let fault = match attempt(begin, cancel.clone()).await {
            Ok(()) => {
                board.stopped(&name);
                info!("stopped");
                return Ok(());
            }
            Err(fault) => fault,
        };
        meters.fault(&name, fault.code);
        board.fault(&name, &fault);
        begin = if fault.code == Code::Fenced { Begin::StandBy } else { Begin::AtOnce };
        if !fault.is_retry() && begin == Begin::AtOnce {
            error!(code = %fault.code, hint = fault.remedy(), "{}", fault.what);
            return Err(fault);
        }
        if begun.elapsed() >= GOOD_RUN {
            pause = PAUSE_MIN;
        }
        warn!(code = %fault.code, again_in_ms = pause.as_millis() as u64, "{}", fault.what);
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::SdkMeterProvider;
    use prometheus::{Registry, TextEncoder};
    use unitflow_kafka::broker::Broker;

    use super::*;

    #[tokio::test]
    async fn a_panic_counts_as_a_fault() {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone());
        let provider = SdkMeterProvider::builder().with_reader(exporter.build().unwrap()).build();
        let meters = Meters::new(&provider.meter("unitflow"));
        let nobody = Broker { bootstrap: "127.0.0.1:1".to_owned(), properties: Default::default() };
        let board = Arc::new(Board::open(&nobody, "notices").unwrap());
        let mut supervisor = Supervisor::new(CancellationToken::new(), board, meters);
        supervisor.add("sink A.shop".to_owned(), |_, _| async { panic!("on purpose") });
        let fault = supervisor.wait().await.unwrap_err();
        assert_eq!(fault.code, Code::Bug);
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let counted = |line: &str| {
            line.starts_with("unitflow_faults_total{")
                && line.contains("code=\"bug\"")
                && line.contains("role=\"sink A.shop\"")
                && line.ends_with(" 1")
        };
        assert!(text.lines().any(counted), "{text}");
    }
}
