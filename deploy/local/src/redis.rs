//! A Redis or Valkey server. Each write is in its append-only file before it is acknowledged, so a killed one loses nothing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::command::output;
use crate::component::{Component, Home};
use crate::fault::Fault;
use crate::install;
use crate::port;
use crate::probe::Probe;
use crate::process::Launch;
use crate::service::{Folder, Kept, Service, new_folder};

/// The servers there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RedisFlavor {
    /// Redis 7.0.
    #[default]
    Redis7,
    /// Redis 8.
    Redis8,
    /// Valkey 9.
    Valkey,
}

impl RedisFlavor {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Redis7, Self::Redis8, Self::Valkey];

    fn component(self) -> Component {
        match self {
            Self::Redis7 => Component::Redis,
            Self::Redis8 => Component::Redis8,
            Self::Valkey => Component::Valkey,
        }
    }

    fn program(self, what: &str) -> String {
        let name = if self == Self::Valkey { "valkey" } else { "redis" };
        format!("{name}-{what}")
    }
}

/// How a server is to be started.
#[derive(Debug, Clone, Default)]
pub struct RedisSetup {
    flavor: RedisFlavor,
    settings: Vec<(String, String)>,
}

impl RedisSetup {
    /// Another server than Redis 7.
    #[must_use]
    pub fn flavor(mut self, flavor: RedisFlavor) -> Self {
        self.flavor = flavor;
        self
    }

    /// Any directive of `redis.conf`. The last one set wins, over the defaults too.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// Starts it on a free port of 127.0.0.1, in a temporary folder, empty.
    ///
    /// # Errors
    /// [`Fault::Install`] where it is not here and can't be brought, or [`Fault::Start`] with the end of its log.
    pub async fn start(self) -> Result<Redis, Fault> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.start_on(port::free()?).await {
                Err(fault) if fault.is_address_in_use() && tries < port::TRIES => {}
                outcome => return outcome,
            }
        }
    }

    async fn start_on(&self, port: u16) -> Result<Redis, Fault> {
        let home = install::home(self.flavor.component()).await?;
        let folder = new_folder("redis")?;
        let socket = folder.path().join("socket");
        let launch = Launch {
            name: "Redis",
            program: home.program(&self.flavor.program("server"))?,
            arguments: self.arguments(port, &socket),
            environment: vec![],
            folder: folder.path().to_owned(),
            file: "server",
        };
        let service = Service::new(Folder::Own(folder), launch, Probe::RedisPing { socket });
        service.start().await?;
        Ok(Redis { service, home, port, flavor: self.flavor })
    }

    fn arguments(&self, port: u16, socket: &Path) -> Vec<String> {
        let (port, socket) = (port.to_string(), socket.display().to_string());
        let defaults = [
            ("port", port.as_str()),
            ("bind", "127.0.0.1"),
            ("unixsocket", socket.as_str()),
            ("daemonize", "no"),
            ("appendonly", "yes"),
            ("save", ""),
            // Wait for no second replica before a full synchronisation.
            ("repl-diskless-sync-delay", "0"),
        ];
        let settings = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        defaults
            .into_iter()
            .chain(settings)
            .flat_map(|(name, value)| [format!("--{name}"), value.to_owned()])
            .collect()
    }
}

/// A Redis server of this machine. Dropping it ends the server and removes its folder.
#[derive(Debug)]
pub struct Redis {
    service: Service,
    home: Home,
    port: u16,
    flavor: RedisFlavor,
}

impl Redis {
    /// How to start one.
    pub fn setup() -> RedisSetup {
        RedisSetup::default()
    }

    /// Its port on 127.0.0.1, the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The server's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.service.pid()
    }

    /// Its temporary folder, which is also its `dir`.
    pub fn folder(&self) -> &Path {
        self.service.folder()
    }

    /// What it wrote to its log, over all starts.
    pub fn log(&self) -> PathBuf {
        self.service.log()
    }

    /// The server's program: run with a configuration and `--sentinel` it is a Sentinel.
    ///
    /// # Errors
    /// [`Fault::Install`] where it is not here any more.
    pub fn program(&self) -> Result<PathBuf, Fault> {
        self.home.program(&self.flavor.program("server"))
    }

    /// The server's own client, `redis-cli`.
    ///
    /// # Errors
    /// [`Fault::Install`] where it is not here any more.
    pub fn client(&self) -> Result<PathBuf, Fault> {
        self.home.program(&self.flavor.program("cli"))
    }

    /// One command by `redis-cli`, over TCP; the answer as it prints it into a pipe, without the last line end.
    ///
    /// # Errors
    /// [`Fault::Command`], for an error reply too.
    pub async fn cli(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<String, Fault> {
        let mut client = Command::new(self.client()?);
        client.args(["-e", "-p"]).arg(self.port.to_string()).args(arguments);
        let answer = output(client, b"").await?;
        Ok(answer.strip_suffix('\n').unwrap_or(&answer).to_owned())
    }

    /// Shuts it down in order.
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

    /// Starts it again on the same folder and port, and waits until it answers.
    ///
    /// # Errors
    /// [`Fault::Running`], [`Fault::Start`].
    pub async fn start_again(&self) -> Result<(), Fault> {
        self.service.start().await
    }

    /// Freezes it (SIGSTOP): connections stay open, nothing answers.
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

    /// Lets the server live on after this process.
    ///
    /// # Errors
    /// [`Fault::NotRunning`].
    pub fn keep(self) -> Result<Kept, Fault> {
        self.service.keep()
    }
}
