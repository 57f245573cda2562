//! One process that ends with us.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use tokio::time::sleep;

use crate::fault::Fault;

const GUARD: &str = include_str!("guard.sh");

/// How often a process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(5);

/// How to start a program: the same each time it is started again.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// Its name in faults.
    pub name: &'static str,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
    /// Its working folder, which goes when we die.
    pub folder: PathBuf,
    /// What its files in that folder begin with: `<file>.log`, `<file>.pid`.
    pub file: &'static str,
}

impl Launch {
    pub fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.file))
    }

    fn open_log(&self) -> Result<File, Fault> {
        let path = self.log();
        OpenOptions::new().create(true).append(true).open(&path).map_err(Fault::io("open", path))
    }
}

/// A running program and the guard that is its parent. Dropping it kills the program and waits for its end.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    guard: Child,
    /// Open as long as the program may live.
    pipe: Option<ChildStdin>,
    program: Pid,
}

impl Process {
    /// Starts the program; whether it comes up is for the caller to see.
    pub async fn start(launch: &Launch) -> Result<Self, Fault> {
        let pid_file = launch.folder.join(format!("{}.pid", launch.file));
        let _ = fs::remove_file(&pid_file); // of the run before
        let log = launch.open_log()?;
        let errors = log.try_clone().map_err(Fault::io("open", launch.log()))?;
        let mut guard = Command::new("/bin/sh")
            .args(["-c", GUARD, "guard"])
            .arg(&launch.folder)
            .arg(launch.file)
            .arg(&launch.program)
            .args(&launch.arguments)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&launch.folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(Fault::io("start", &launch.program))?;
        let pipe = guard.stdin.take();
        let program = loop {
            if let Some(pid) = read_pid(&pid_file) {
                break pid;
            }
            if let Ok(Some(status)) = guard.try_wait() {
                let log = fs::read_to_string(launch.log()).unwrap_or_default();
                return Err(Fault::Start {
                    server: launch.name,
                    why: format!("its guard ended with {status}"),
                    log,
                });
            }
            sleep(Duration::from_millis(1)).await;
        };
        Ok(Self { name: launch.name, guard, pipe, program })
    }

    pub fn pid(&self) -> u32 {
        self.program.as_raw().unsigned_abs()
    }

    /// The status it ended with, if it has. The guard ends with the program's own.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.guard.try_wait().ok().flatten()
    }

    /// Sends a signal to the program, and to nothing else. While the guard has not reaped it, its id is its own.
    pub fn signal(&mut self, signal: Signal) -> Result<(), Fault> {
        if self.ended().is_some() {
            return Err(Fault::NotRunning { server: self.name });
        }
        match signal::kill(self.program, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(Fault::io("send a signal to", format!("process {}", self.program))(
                errno.into(),
            )),
        }
    }

    /// Asks it to end and waits. `false` when it had to be killed in the end.
    pub async fn terminate(mut self, patience: Duration) -> bool {
        let _ = self.signal(Signal::SIGTERM);
        let _ = self.signal(Signal::SIGCONT); // a frozen one hears nothing
        let deadline = Instant::now() + patience;
        while self.ended().is_none() {
            if Instant::now() > deadline {
                self.kill().await;
                return false;
            }
            sleep(POLL).await;
        }
        true
    }

    /// Ends it at once and waits until it is gone.
    pub async fn kill(mut self) {
        let _ = self.signal(Signal::SIGKILL);
        while self.ended().is_none() {
            sleep(POLL).await;
        }
    }

    /// Lets it live on after us. The guard stays its parent.
    pub fn release(mut self) -> Result<u32, Fault> {
        if let Some(pipe) = self.pipe.as_mut() {
            pipe.write_all(b"keep\n")
                .map_err(Fault::io("release", format!("process {}", self.program)))?;
        }
        let pid = self.pid();
        self.pipe = None; // Drop sees that there is nothing left to end
        Ok(pid)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.pipe.is_none() {
            return;
        }
        let _ = self.signal(Signal::SIGKILL);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.ended().is_none() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
}

fn read_pid(file: &Path) -> Option<Pid> {
    fs::read_to_string(file).ok()?.trim().parse().ok().map(Pid::from_raw)
}
