//! Unitflow: connector, transformer and sink as processes of their own, through a real broker.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use unitflow_harness::worker::Launch;
use unitflow_harness::{Kafka, Mysql, Worker};
use unitflow_local::{TempDir, new_folder};

use crate::arguments::WORKERS;
use crate::backlog::DATABASE;
use crate::report::progress;
use crate::usage::{Meter, Spent, Usage};

const BINARY: &str = env!("CARGO_BIN_EXE_unitflow");
/// The workers, in the order of the data, and their units.
const ROLES: [(&str, &str); 3] = [("connector", "A"), ("transformer", "A"), ("sink", "B")];
/// No drain takes longer.
const LIMIT: Duration = Duration::from_secs(300);
/// No other command takes longer.
const COMMAND: Duration = Duration::from_secs(60);

/// How often `init` is tried.
const INIT_TRIES: u32 = 5;
const INIT_PAUSE: Duration = Duration::from_secs(1);

/// One flow with topics of its own, from unit A to unit B.
#[derive(Debug)]
pub struct Pipeline {
    folder: TempDir,
}

impl Pipeline {
    /// Initialises the source's unit: what it has so far is taken to be everywhere.
    pub async fn begin(
        number: u32,
        source: &Mysql,
        target: &Mysql,
        kafka: &Kafka,
    ) -> anyhow::Result<Self> {
        let folder = new_folder("flow")?;
        let pipeline = Self { folder };
        let (bootstrap, from, to) = (kafka.bootstrap(), source.port(), target.port());
        let toml = format!(
            "prefix = \"drain-{}-{number}\"\noutage_longest_hours = 1\n\
             [units.A]\nkafka = {{ bootstrap = \"{bootstrap}\", replication = 1 }}\n\
             [units.A.stores.shop]\n\
             kind = \"mysql\"\nendpoints = [\"127.0.0.1:{from}\"]\nuser = \"root\"\ntls = \"off\"\n\
             [units.B]\nkafka = {{ bootstrap = \"{bootstrap}\", replication = 1 }}\n\
             [units.B.stores.shop]\n\
             kind = \"mysql\"\nendpoints = [\"127.0.0.1:{to}\"]\nuser = \"root\"\ntls = \"off\"\n\
             [flows.shop]\n\
             lanes = {WORKERS}\ntables = [\"{DATABASE}.*\"]\nheartbeat = false\nfrom = [\"A\"]\nto = [\"B\"]\n",
            std::process::id(),
        );
        fs::write(pipeline.config(), toml)?;
        pipeline.init("A").await?;
        Ok(pipeline)
    }

    /// Drains `source` into `target`.
    pub async fn drain(
        &self,
        source: &Mysql,
        target: &Mysql,
        kafka: &Kafka,
    ) -> anyhow::Result<Usage> {
        self.init("B").await?;
        let servers =
            [source.pid().context("the source runs")?, target.pid().context("the target runs")?];
        let mut meter = Meter::start(&[servers.as_slice(), kafka.pid().as_slice()].concat())?;
        let mut workers =
            ROLES.iter().map(|role| self.start(*role)).collect::<anyhow::Result<Vec<_>>>()?;

        let seconds = LIMIT.as_secs().to_string();
        let arguments = ["wait", "--from", "A", "--to", "B", "--timeout-seconds", &seconds];
        let waited = self.unitflow(&arguments, LIMIT + COMMAND).await;
        ensure_alive(&mut workers)?;
        if let Err(error) = waited {
            let logs = workers.iter().map(Worker::log_end).collect::<Vec<_>>().join("\n");
            return Err(error.context(logs));
        }
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
        for worker in &mut workers {
            let status = worker.stop(COMMAND).await?;
            ensure!(
                status.success(),
                "{} ended with {status}:\n{}",
                worker.name(),
                worker.log_end()
            );
        }
        Ok(usage)
    }

    /// `init` is safe to repeat, and a broker may not be ready for topics that were just created.
    async fn init(&self, unit: &str) -> anyhow::Result<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.unitflow(&["init", "--unit", unit], COMMAND).await {
                Err(error) if tries < INIT_TRIES => progress(&format!("  again after: {error:#}")),
                outcome => return outcome,
            }
            sleep(INIT_PAUSE).await;
        }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("unitflow.toml")
    }

    fn start(&self, (role, unit): (&str, &str)) -> anyhow::Result<Worker> {
        Worker::start(Launch {
            binary: BINARY.into(),
            config: self.config(),
            unit: unit.into(),
            roles: role.into(),
            inject: String::new(),
            log: self.folder.path().join(format!("{role}.log")),
        })
    }

    async fn unitflow(&self, arguments: &[&str], limit: Duration) -> anyhow::Result<()> {
        let line = format!("unitflow {}", arguments.join(" "));
        let output = Command::new(BINARY)
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(limit, output).await.with_context(|| format!("{line} hangs"))??;
        ensure!(
            output.status.success(),
            "{line}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

fn ensure_alive(workers: &mut [Worker]) -> anyhow::Result<()> {
    for worker in workers {
        if let Some(status) = worker.ended() {
            bail!("{} has ended with {status}:\n{}", worker.name(), worker.log_end());
        }
    }
    Ok(())
}
