//! Unitflow: connector, transformer and sink as processes of their own, through a real broker.

use std::time::Duration;

use anyhow::{Context as _, bail};
use unitflow_harness::{Kafka, Mysql, Worker};

use crate::backlog::DATABASE;
use crate::flow::{self, COMMAND, Flow};
use crate::meter::Meter;
use crate::usage::{Spent, Usage};

/// The workers, in the order of the data, and their units.
const ROLES: [(&str, &str); 3] = [("connector", "A"), ("transformer", "A"), ("sink", "B")];
/// No drain takes longer.
const LIMIT: Duration = Duration::from_secs(300);

/// One flow with topics of its own, from unit A to unit B.
#[derive(Debug)]
pub struct Pipeline {
    flow: Flow,
}

impl Pipeline {
    /// Initialises the source's unit: what it has so far is taken to be everywhere.
    pub async fn begin(
        number: u32,
        source: &Mysql,
        target: &Mysql,
        kafka: &Kafka,
    ) -> anyhow::Result<Self> {
        let lines =
            format!("tables = [\"{DATABASE}.*\"]\nheartbeat = false\nfrom = [\"A\"]\nto = [\"B\"]");
        let flow = Flow::new(&format!("drain-{number}"), [source, target], kafka, &lines)?;
        flow.init(&["--unit", "A"]).await?;
        Ok(Self { flow })
    }

    /// Drains `source` into `target`.
    pub async fn drain(
        &self,
        source: &Mysql,
        target: &Mysql,
        kafka: &Kafka,
    ) -> anyhow::Result<Usage> {
        self.flow.init(&["--unit", "B"]).await?;
        let servers =
            [source.pid().context("the source runs")?, target.pid().context("the target runs")?];
        let mut meter = Meter::start(&[servers.as_slice(), kafka.pid().as_slice()].concat())?;
        let mut workers =
            ROLES.iter().map(|role| self.flow.start(*role)).collect::<anyhow::Result<Vec<_>>>()?;

        let seconds = LIMIT.as_secs().to_string();
        let arguments = ["wait", "--from", "A", "--to", "B", "--timeout-seconds", &seconds];
        let waited = self.flow.unitflow(&arguments, LIMIT + COMMAND).await;
        flow::ensure_alive(&mut workers)?;
        waited.with_context(|| flow::log_ends(&workers))?;
        let pids: Vec<u32> = workers.iter().map(Worker::pid).collect();
        let reading = meter.stop(&pids)?;

        let [_, target_cpu, others @ ..] = reading.cpu.as_slice() else {
            bail!("two servers were watched")
        };
        let (broker, own) = others.split_at(others.len() - workers.len());
        let mut usage =
            Usage { target: *target_cpu, broker: broker.first().copied(), ..Usage::new(&reading) };
        for (worker, &cpu) in workers.iter_mut().zip(own) {
            usage.workers.push(Spent { cpu, peak_kib: worker.peak_kib() });
        }
        flow::stop(&mut workers).await?;
        Ok(usage)
    }
}
