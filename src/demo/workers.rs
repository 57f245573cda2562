//! Worker processes, their metrics, and other commands of this binary.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use unitflow_change::{Code, Fault};
use unitflow_local::{Program, free_port};

use crate::demo::local;

/// Unit and role of each process, in the order of the data, and the name under which it is known.
const PROCESSES: [(&str, &str, &str); 6] = [
    ("A", "connector", "A-connector"),
    ("B", "connector", "B-connector"),
    ("A", "transformer", "A-transformer"),
    ("B", "transformer", "B-transformer"),
    ("A", "sink", "A-sink"),
    ("B", "sink", "B-sink"),
];
/// How many lines of a worker's log are repeated when the demo fails.
const TAIL_LINES: usize = 8;

/// The binary that we are.
pub fn binary() -> Result<PathBuf, Fault> {
    std::env::current_exe().map_err(|error| {
        Fault::fatal(Code::Local, format!("this program does not find itself: {error}"))
    })
}

/// Where flows stand, as `unitflow status` tells it; its exit code says whether all is well, which is no question here.
pub async fn read_status(config: &Path) -> String {
    match run(config, &["status"]).await {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(fault) => fault.what,
    }
}

/// Runs a command of this binary to its end; any exit code but 0 is a fault that says what it said.
pub async fn unitflow(config: &Path, arguments: &[&str]) -> Result<String, Fault> {
    let output = run(config, arguments).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
    let line = arguments.join(" ");
    Err(Fault::fatal(
        Code::Local,
        format!("unitflow {line} ended with {}:\n{}", output.status, said.trim()),
    ))
}

async fn run(config: &Path, arguments: &[&str]) -> Result<Output, Fault> {
    let output = Command::new(binary()?)
        .arg("--config")
        .arg(config)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    output.await.map_err(|error| {
        Fault::fatal(Code::Local, format!("unitflow {}: {error}", arguments.join(" ")))
    })
}

/// One worker process.
#[derive(Debug)]
pub struct Worker {
    /// `B-sink`, as its log is named.
    pub name: &'static str,
    /// The process.
    pub program: Program,
    metrics: u16,
    /// It is being killed and started again.
    down: AtomicBool,
}

impl Worker {
    async fn start(
        folder: &Path,
        (unit, role, name): (&str, &str, &'static str),
    ) -> Result<Self, Fault> {
        let metrics = free_port().map_err(local)?;
        let address = format!("127.0.0.1:{metrics}");
        let config = folder.join("unitflow.toml").display().to_string();
        let program = Program::setup(name, binary()?)
            .arguments([
                "--config",
                &config,
                "run",
                "--unit",
                unit,
                "--role",
                role,
                "--prometheus",
                &address,
            ])
            .environment("NO_COLOR", "1")
            .start(folder, metrics)
            .await
            .map_err(local)?;
        Ok(Self { name, program, metrics, down: AtomicBool::new(false) })
    }

    /// `kill -9`, and starts it again. Returns the id that it had.
    pub async fn crash(&self) -> Result<u32, Fault> {
        let pid = self.program.pid().unwrap_or_default();
        self.down.store(true, Ordering::Relaxed);
        self.program.kill().await.map_err(local)?;
        self.program.start_again().await.map_err(local)?;
        self.down.store(false, Ordering::Relaxed);
        Ok(pid)
    }

    /// Whether it ended though nobody wanted it to.
    pub fn is_gone(&self) -> bool {
        !self.down.load(Ordering::Relaxed) && self.program.pid().is_none()
    }

    /// The sum of a counter over all lines that contain `label`.
    pub async fn counter(&self, name: &str, label: &str) -> Result<u64, Fault> {
        let text = self.read_metrics().await.map_err(|error| {
            Fault::fatal(
                Code::Local,
                format!("{}: no metrics at 127.0.0.1:{}: {error}", self.name, self.metrics),
            )
        })?;
        let values = text
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('{') && rest.contains(label))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        Ok(values.sum::<f64>() as u64)
    }

    async fn read_metrics(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics)).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Whether something went wrong with it, as far as one can see from here.
    pub fn is_troubled(&self) -> bool {
        let log = std::fs::read_to_string(self.program.log()).unwrap_or_default();
        self.program.pid().is_none() || log.contains(" WARN ") || log.contains("ERROR ")
    }

    /// Its name and the end of its log.
    pub fn tail(&self) -> String {
        let end = self.program.log_end();
        let lines: Vec<&str> = end.lines().collect();
        format!(
            "---- {}\n{}",
            self.name,
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        )
    }
}

/// Starts all of them, at once.
pub async fn start_all(folder: &Path) -> Result<Vec<Worker>, Fault> {
    let [a, b, c, d, e, f] = PROCESSES.map(|process| Worker::start(folder, process));
    let (a, b, c, d, e, f) = tokio::try_join!(a, b, c, d, e, f)?;
    Ok(vec![a, b, c, d, e, f])
}
