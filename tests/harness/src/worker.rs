//! One worker process: start, kill, freeze, measure.
//!
//! It gets SIGKILL from the kernel when the test dies in whatever way (`setpriv --pdeathsig`), and
//! from [`Drop`] otherwise. What it says goes to a file of its own.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::sleep;

const POLL: Duration = Duration::from_millis(5);
/// How many lines of a log are repeated when a test fails.
const LOG_LINES: usize = 30;

/// How to start a worker.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program.
    pub binary: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
    /// Its unit.
    pub unit: String,
    /// Its roles, by comma.
    pub roles: String,
    /// The points where it breaks, by comma.
    pub inject: String,
    /// Where its log goes.
    pub log: PathBuf,
}

/// A worker that was started; it may have ended since.
#[derive(Debug)]
pub struct Worker {
    launch: Launch,
    child: Child,
    ended: Option<ExitStatus>,
    /// Its peak resident memory when it was last looked at, in KiB.
    peak_kib: u64,
}

impl Worker {
    /// Starts it; what comes of it is for the caller to see.
    pub fn start(launch: Launch) -> anyhow::Result<Self> {
        let log = File::create(&launch.log).with_context(|| format!("create {:?}", launch.log))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&launch.binary)
            .arg("--config")
            .arg(&launch.config)
            .args(["run", "--unit", &launch.unit, "--role", &launch.roles])
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if !launch.inject.is_empty() {
            command.env("UNITFLOW_INJECT", &launch.inject);
        }
        let child = command.spawn().context("start a worker by setpriv")?;
        Ok(Self { launch, child, ended: None, peak_kib: 0 })
    }

    /// Unit and roles, for texts.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} of {}", self.launch.roles, self.launch.unit)
    }

    /// How it was started.
    #[must_use]
    pub const fn launch(&self) -> &Launch {
        &self.launch
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The status it ended with, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if self.ended().is_none() {
            self.measure();
            self.child.kill().context("kill a worker")?;
            self.ended = Some(self.child.wait()?);
        }
        Ok(())
    }

    /// SIGSTOP, and waits until no thread of it runs.
    pub async fn suspend(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while !is_frozen(self.pid()) {
            if Instant::now() > deadline {
                bail!("{} does not stop", self.name());
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// SIGTERM, and waits until it has ended in order.
    pub async fn stop(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        if self.ended().is_none() {
            self.measure();
            self.signal(Signal::SIGTERM)?;
        }
        self.wait(patience).await
    }

    /// Waits until it has ended.
    pub async fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not end within {patience:?}", self.name());
            }
            sleep(POLL).await;
        }
    }

    /// The most resident memory it has had, in KiB, as the kernel says (`VmHWM`).
    pub fn peak_kib(&mut self) -> u64 {
        self.measure();
        self.peak_kib
    }

    fn measure(&mut self) {
        let Ok(status) = fs::read_to_string(format!("/proc/{}/status", self.pid())) else { return };
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        self.peak_kib = self.peak_kib.max(kib.unwrap_or(0));
    }

    fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if let Some(status) = self.ended() {
            bail!("{} has ended: {status}\n{}", self.name(), self.log_end());
        }
        let pid = i32::try_from(self.pid()).context("a process id")?;
        kill(Pid::from_raw(pid), signal).context("send a signal to a worker")
    }

    /// The whole log.
    pub fn log(&self) -> io::Result<String> {
        fs::read(&self.launch.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until its log says this.
    pub async fn says(&self, text: &str, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        while !self.log()?.contains(text) {
            if Instant::now() > deadline {
                bail!("{} does not say {text}:\n{}", self.name(), self.log_end());
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// The log's last lines.
    #[must_use]
    pub fn log_end(&self) -> String {
        log_end(&self.launch.log)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The last lines of a log.
#[must_use]
pub fn log_end(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Every thread's state is the letter behind its name in parentheses; T is stopped.
fn is_frozen(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
    })
}
