//! A flow of its own: configuration, commands, and workers as processes of their own.

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

use crate::words::progress;

const BINARY: &str = env!("CARGO_BIN_EXE_unitflow");
/// No command that waits for nobody takes longer.
pub const COMMAND: Duration = Duration::from_secs(60);
/// How many lanes it has.
pub const LANES: u32 = 4;

/// How often `init` is tried.
const INIT_TRIES: u32 = 5;
const INIT_PAUSE: Duration = Duration::from_secs(1);

/// The units A and B, with topics of their own on one broker.
#[derive(Debug)]
pub struct Flow {
    folder: TempDir,
}

impl Flow {
    /// Writes its configuration; `lines` are those of the flow, beside the number of lanes.
    pub fn new(
        prefix: &str,
        [a, b]: [&Mysql; 2],
        kafka: &Kafka,
        lines: &str,
    ) -> anyhow::Result<Self> {
        let mut toml =
            format!("prefix = \"{prefix}-{}\"\noutage_longest_hours = 1\n", std::process::id());
        for (unit, server) in [("A", a), ("B", b)] {
            toml += &format!(
                "[units.{unit}]\nkafka = {{ bootstrap = \"{}\", replication = 1 }}\n\
                 [units.{unit}.stores.shop]\n\
                 kind = \"mysql\"\nendpoints = [\"127.0.0.1:{}\"]\nuser = \"root\"\ntls = \"off\"\n",
                kafka.bootstrap(),
                server.port()
            );
        }
        toml += &format!("[flows.shop]\nlanes = {LANES}\n{lines}\n");
        Self::configured(&toml)
    }

    /// With this configuration.
    pub fn configured(toml: &str) -> anyhow::Result<Self> {
        let flow = Self { folder: new_folder("flow")? };
        fs::write(flow.config(), toml)?;
        Ok(flow)
    }

    /// `init` is safe to repeat, and a broker may not be ready for topics that were just created.
    /// Of all units, or as `words` say.
    pub async fn init(&self, words: &[&str]) -> anyhow::Result<()> {
        let words = [&["init"], words].concat();
        let mut tries = 0;
        loop {
            tries += 1;
            match self.unitflow(&words, COMMAND).await {
                Err(error) if tries < INIT_TRIES => progress(&format!("  again after: {error:#}")),
                outcome => return outcome,
            }
            sleep(INIT_PAUSE).await;
        }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("unitflow.toml")
    }

    /// Starts a worker of one role in one unit.
    pub fn start(&self, (role, unit): (&str, &str)) -> anyhow::Result<Worker> {
        Worker::start(Launch {
            binary: BINARY.into(),
            config: self.config(),
            unit: unit.into(),
            roles: role.into(),
            inject: String::new(),
            log: self.folder.path().join(format!("{role}-{unit}.log")),
        })
    }

    /// Runs a command to its end.
    pub async fn unitflow(&self, arguments: &[&str], limit: Duration) -> anyhow::Result<()> {
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

/// Says which worker has ended, if one has.
pub fn ensure_alive(workers: &mut [Worker]) -> anyhow::Result<()> {
    for worker in workers {
        if let Some(status) = worker.ended() {
            bail!("{} has ended with {status}:\n{}", worker.name(), worker.log_end());
        }
    }
    Ok(())
}

/// What the workers said last.
pub fn log_ends(workers: &[Worker]) -> String {
    workers.iter().map(Worker::log_end).collect::<Vec<_>>().join("\n")
}

/// Stops them in order, which they have to manage.
pub async fn stop(workers: &mut [Worker]) -> anyhow::Result<()> {
    for worker in workers {
        let status = worker.stop(COMMAND).await?;
        ensure!(status.success(), "{} ended with {status}:\n{}", worker.name(), worker.log_end());
    }
    Ok(())
}
