//! Any other program, such as a worker: a process that ends with us as the servers do.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::fault::Fault;
use crate::probe::Probe;
use crate::process::Launch;
use crate::service::{Folder, Kept, Service};

/// How a program is to be started.
#[derive(Debug, Clone)]
pub struct ProgramSetup {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

impl ProgramSetup {
    /// More arguments.
    #[must_use]
    pub fn arguments<A: AsRef<str>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// A variable of its environment, over those that it has from us.
    #[must_use]
    pub fn environment(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Starts it, and waits until it accepts connections at this port of 127.0.0.1. It works in `folder`, which it may
    /// share with other programs of ours, and which **goes when we die**: with whatever else is in it.
    ///
    /// # Errors
    /// [`Fault::Start`] with the end of its log.
    pub async fn start(self, folder: &Path, port: u16) -> Result<Program, Fault> {
        let launch = Launch {
            name: self.name,
            program: self.program,
            arguments: self.arguments,
            environment: self.environment,
            folder: folder.to_owned(),
            file: self.name,
        };
        let service =
            Service::new(Folder::Shared(folder.to_owned()), launch, Probe::Accepts { port });
        service.start().await?;
        Ok(Program { service })
    }
}

/// A program that was started; it may have ended since. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    service: Service,
}

impl Program {
    /// How to start one. `name` stands in faults, and before `.log` in the name of its log.
    pub fn setup(name: &'static str, program: impl AsRef<OsStr>) -> ProgramSetup {
        let program = PathBuf::from(program.as_ref());
        ProgramSetup { name, program, arguments: vec![], environment: vec![] }
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.service.pid()
    }

    /// What it wrote, over all starts.
    pub fn log(&self) -> PathBuf {
        self.service.log()
    }

    /// The last lines of that.
    pub fn log_end(&self) -> String {
        self.service.log_end(0)
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// [`Fault::NotRunning`], or [`Fault::Stop`] where it had to be killed.
    pub async fn stop(&self) -> Result<(), Fault> {
        self.service.stop().await
    }

    /// SIGKILL, as in a crash.
    ///
    /// # Errors
    /// [`Fault::NotRunning`].
    pub async fn kill(&self) -> Result<(), Fault> {
        self.service.kill().await
    }

    /// Starts it again as it was started first, and waits until it answers.
    ///
    /// # Errors
    /// [`Fault::Running`], [`Fault::Start`].
    pub async fn start_again(&self) -> Result<(), Fault> {
        self.service.start().await
    }

    /// Freezes it (SIGSTOP).
    ///
    /// # Errors
    /// [`Fault::NotRunning`].
    pub async fn suspend(&self) -> Result<(), Fault> {
        self.service.suspend().await
    }

    /// Lets a frozen one go on.
    ///
    /// # Errors
    /// [`Fault::NotRunning`].
    pub fn resume(&self) -> Result<(), Fault> {
        self.service.resume()
    }

    /// Lets it live on after this process; its folder too.
    ///
    /// # Errors
    /// [`Fault::NotRunning`].
    pub fn keep(self) -> Result<Kept, Fault> {
        self.service.keep()
    }
}
