//! What all servers share: they are started in a folder, waited for, stopped, killed, frozen, and started again.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::fault::Fault;
use crate::probe::Probe;
use crate::process::{Launch, Process};

/// Long enough for a crash recovery on a busy machine.
const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// How many log lines a fault repeats.
const LOG_LINES: usize = 25;

/// A server of ours in its folder, running or not. Its verbs take `&self`, so that a task which injects faults can
/// share it with those that use it.
#[derive(Debug)]
pub(crate) struct Service {
    // Before the folder, so that the process is gone when that is removed.
    running: Mutex<Option<Process>>,
    folder: Folder,
    launch: Launch,
    probe: Probe,
}

/// Where a service works.
#[derive(Debug)]
pub(crate) enum Folder {
    /// Nobody else does; it goes with the service.
    Own(TempDir),
    /// Others do too.
    Shared(PathBuf),
}

/// A server that lives on after the process that started it.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its process id.
    pub pid: u32,
    /// Its folder: data and log.
    pub folder: PathBuf,
    /// A script that stops the server, and removes the folder if that is its own.
    pub stop: PathBuf,
}

/// A temporary folder that names its owner. Dropping it removes it; `keep` leaves it.
///
/// # Errors
/// [`Fault::Io`].
pub fn new_folder(server: &str) -> Result<TempDir, Fault> {
    let place = std::env::temp_dir();
    tempfile::Builder::new()
        .prefix(&format!("unitflow-{}-{server}-", std::process::id()))
        .tempdir_in(&place)
        .map_err(Fault::io("create a folder in", place))
}

impl Service {
    /// A service that is not running yet.
    pub fn new(folder: Folder, launch: Launch, probe: Probe) -> Self {
        Self { running: Mutex::new(None), folder, launch, probe }
    }

    pub fn folder(&self) -> &Path {
        &self.launch.folder
    }

    pub fn log(&self) -> PathBuf {
        self.launch.log()
    }

    /// Of the running process; a frozen one runs too.
    pub fn pid(&self) -> Option<u32> {
        let mut running = self.lock();
        let process = running.as_mut()?;
        process.ended().is_none().then(|| process.pid())
    }

    /// Starts it and waits until it answers.
    pub async fn start(&self) -> Result<(), Fault> {
        if self.pid().is_some() {
            return Err(Fault::Running { server: self.launch.name });
        }
        let log_from = fs::metadata(self.log()).map_or(0, |log| log.len());
        let mut process = Process::start(&self.launch).await?;
        let deadline = Instant::now() + START;
        loop {
            let answered = self.probe.answers().await;
            let why = match process.ended() {
                Some(status) => format!("it ended with {status}"),
                None if answered => break,
                None if Instant::now() > deadline => {
                    format!("no answer within {} s", START.as_secs())
                }
                None => {
                    sleep(POLL).await;
                    continue;
                }
            };
            return Err(Fault::Start {
                server: self.launch.name,
                why,
                log: self.log_end(log_from),
            });
        }
        *self.lock() = Some(process);
        Ok(())
    }

    /// Asks it to end and waits until it has.
    pub async fn stop(&self) -> Result<(), Fault> {
        if self.take()?.terminate(STOP).await {
            return Ok(());
        }
        Err(Fault::Stop { server: self.launch.name, seconds: STOP.as_secs(), log: self.log_end(0) })
    }

    /// SIGKILL.
    pub async fn kill(&self) -> Result<(), Fault> {
        self.take()?.kill().await;
        Ok(())
    }

    /// SIGSTOP, and waits until no thread runs any more.
    pub async fn suspend(&self) -> Result<(), Fault> {
        self.signal(Signal::SIGSTOP)?;
        let pid = self.pid().ok_or(Fault::NotRunning { server: self.launch.name })?;
        while !is_frozen(pid) {
            if self.pid().is_none() {
                return Err(Fault::NotRunning { server: self.launch.name });
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<(), Fault> {
        self.signal(Signal::SIGCONT)
    }

    /// Lets the running server and its folder outlive us.
    pub fn keep(self) -> Result<Kept, Fault> {
        let process = self.take()?;
        let (name, last) = match &self.folder {
            Folder::Own(_) => ("stop".to_owned(), "cd / && rm -rf \"$folder\"\n"),
            Folder::Shared(_) => (format!("{}.stop", self.launch.file), ""),
        };
        let stop = self.folder().join(name);
        fs::write(&stop, stop_script(process.pid(), self.folder()) + last)
            .map_err(Fault::io("write", &stop))?;
        fs::set_permissions(&stop, fs::Permissions::from_mode(0o700))
            .map_err(Fault::io("change", &stop))?;
        let pid = process.release()?;
        let folder = match self.folder {
            Folder::Own(folder) => folder.keep(),
            Folder::Shared(folder) => folder,
        };
        Ok(Kept { pid, folder, stop })
    }

    fn signal(&self, signal: Signal) -> Result<(), Fault> {
        self.lock().as_mut().ok_or(Fault::NotRunning { server: self.launch.name })?.signal(signal)
    }

    fn take(&self) -> Result<Process, Fault> {
        self.lock().take().ok_or(Fault::NotRunning { server: self.launch.name })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last lines of the log, of those that begin at `from`.
    pub fn log_end(&self, from: u64) -> String {
        let read = || {
            let mut file = fs::File::open(self.log())?;
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// Every thread's state is the letter behind its name in parentheses; T is stopped.
fn is_frozen(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| {
            stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
        })
    })
}

/// The id may have gone to another process since: only one that works in this folder is ours.
fn stop_script(pid: u32, folder: &Path) -> String {
    let folder = folder.display().to_string().replace('\'', r"'\''");
    format!(
        r#"#!/bin/sh
# Stops what was left running here.
folder='{folder}'
ours() {{ case "$(readlink /proc/{pid}/cwd)" in "$folder" | "$folder"/*) true ;; *) false ;; esac; }}
ours && kill -TERM {pid}
waited=0
while ours && [ "$waited" -lt 300 ]; do sleep 0.1; waited=$((waited + 1)); done
ours && kill -KILL {pid}
"#
    )
}
