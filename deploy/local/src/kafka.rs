//! One Apache Kafka broker that is its own controller, or the one that `UNITFLOW_KAFKA` names.

mod blank;

use std::env;
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

/// Names a broker (`host:port`) to use instead of starting one.
const OTHER_BROKER: &str = "UNITFLOW_KAFKA";

/// Compiling less thoroughly halves the start and the processor time of a short life; replace it by `.jvm(…)` to measure throughput.
const JVM: &str = "-Xms256m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1";

/// How a broker is to be started.
#[derive(Debug, Clone, Default)]
pub struct KafkaSetup {
    settings: Vec<(String, String)>,
    jvm: Vec<String>,
    links: Vec<String>,
    own: bool,
}

impl KafkaSetup {
    /// One of our own, also where `UNITFLOW_KAFKA` names another: for those who kill it, need several, or need it to be
    /// as they set it.
    #[must_use]
    pub fn own(mut self) -> Self {
        self.own = true;
        self
    }

    /// Any broker property. The last one set wins, over the defaults too.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// One more option of the Java machine, behind ours, so that it wins.
    #[must_use]
    pub fn jvm(mut self, option: impl Into<String>) -> Self {
        self.jvm.push(option.into());
        self
    }

    /// One more listener, for clients that come through a proxy at `advertised` (`host:port`): a client goes on to
    /// the address that the broker tells it, so a link that can be cut needs a listener of its own. See [`Kafka::link_ports`].
    #[must_use]
    pub fn link(mut self, advertised: impl Into<String>) -> Self {
        self.links.push(advertised.into());
        self
    }

    /// Starts it on free ports of 127.0.0.1, in a temporary folder, without topics. Where `UNITFLOW_KAFKA` names a
    /// broker, that one is used and nothing is started: topics of others are there, so names have to be the caller's own.
    ///
    /// # Errors
    /// [`Fault::Install`] where it is not here and can't be brought, or [`Fault::Start`] with the end of its log.
    pub async fn start(self) -> Result<Kafka, Fault> {
        let other = env::var(OTHER_BROKER).ok().filter(|address| !self.own && !address.is_empty());
        if let Some(address) = other {
            return Ok(Kafka {
                home: install::home(Component::Kafka).await?,
                broker: Broker::Other { address },
            });
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match self.start_once().await {
                Err(fault) if fault.is_address_in_use() && tries < port::TRIES => {}
                outcome => return outcome,
            }
        }
    }

    async fn start_once(&self) -> Result<Kafka, Fault> {
        let home = install::home(Component::Kafka).await?;
        let (port, controller) = (port::free()?, port::free()?);
        let link_ports = self.links.iter().map(|_| port::free()).collect::<Result<Vec<_>, _>>()?;
        let folder = new_folder("kafka")?;
        let blank = blank::prepare(&home).await?;
        let cluster = blank::random_id();
        blank.format(&folder.path().join("data"), &cluster)?;

        let properties = folder.path().join("server.properties");
        let text = self.properties(port, controller, &link_ports, folder.path());
        std::fs::write(&properties, text).map_err(Fault::io("write", &properties))?;
        let launch = Launch {
            name: "Kafka",
            program: home.program("kafka-server-start")?,
            arguments: vec![properties.display().to_string()],
            environment: java_environment(
                &format!("{JVM} {} {}", blank.shared_classes(), self.jvm.join(" ")),
                folder.path(),
            ),
            folder: folder.path().to_owned(),
            file: "server",
        };
        let service =
            Service::new(Folder::Own(folder), launch, Probe::KafkaMetadata { port, cluster });
        service.start().await?;
        Ok(Kafka { home, broker: Broker::Ours { service: Box::new(service), port, link_ports } })
    }

    fn properties(&self, port: u16, controller: u16, link_ports: &[u16], folder: &Path) -> String {
        let mut listeners = format!("PLAINTEXT://127.0.0.1:{port}");
        let mut advertised = listeners.clone();
        let mut protocols = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned();
        for (index, (at, as_seen)) in link_ports.iter().zip(&self.links).enumerate() {
            listeners += &format!(",LINK{index}://127.0.0.1:{at}");
            advertised += &format!(",LINK{index}://{as_seen}");
            protocols += &format!(",LINK{index}:PLAINTEXT");
        }
        let given = [
            ("process.roles", "broker,controller".to_owned()),
            ("node.id", "1".to_owned()),
            ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("listeners", format!("{listeners},CONTROLLER://127.0.0.1:{controller}")),
            ("advertised.listeners", advertised),
            ("listener.security.protocol.map", protocols),
            ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
            ("log.dirs", folder.join("data").display().to_string()),
        ];
        // One broker holds every replica; few partitions of the inner topics start and recover quickly.
        const FIXED: [(&str, &str); 14] = [
            ("offsets.topic.replication.factor", "1"),
            ("offsets.topic.num.partitions", "4"),
            ("transaction.state.log.replication.factor", "1"),
            ("transaction.state.log.min.isr", "1"),
            ("transaction.state.log.num.partitions", "4"),
            ("share.coordinator.state.topic.replication.factor", "1"),
            ("share.coordinator.state.topic.min.isr", "1"),
            ("share.coordinator.state.topic.num.partitions", "1"),
            ("group.initial.rebalance.delay.ms", "0"),
            ("auto.create.topics.enable", "false"),
            // How long a killed broker's registration stands in the way of its next start. Its controller is in the same
            // process, so that a pause of one is a pause of both.
            ("broker.session.timeout.ms", "6000"),
            ("broker.heartbeat.interval.ms", "1000"),
            ("num.network.threads", "2"),
            ("num.io.threads", "4"),
        ];
        let given = given.iter().map(|(name, value)| (*name, value.as_str()));
        let chosen = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        given.chain(FIXED).chain(chosen).map(|(name, value)| format!("{name}={value}\n")).collect()
    }
}

/// By the names of our own starter and of Apache's scripts, which a folder named by `UNITFLOW_KAFKA_HOME` has.
fn java_environment(options: &str, folder: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("UNITFLOW_JAVA_OPTIONS", options.to_owned()),
        ("KAFKA_HEAP_OPTS", options.to_owned()),
        ("LOG_DIR", folder.display().to_string()),
    ]
}

/// A Kafka broker. Dropping it ends the broker and removes its folder, if it is ours.
#[derive(Debug)]
pub struct Kafka {
    home: Home,
    broker: Broker,
}

#[derive(Debug)]
enum Broker {
    Ours { service: Box<Service>, port: u16, link_ports: Vec<u16> },
    Other { address: String },
}

impl Kafka {
    /// How to start one.
    pub fn setup() -> KafkaSetup {
        KafkaSetup::default()
    }

    /// `host:port` for clients, the same after a restart.
    pub fn bootstrap(&self) -> String {
        match &self.broker {
            Broker::Ours { port, .. } => format!("127.0.0.1:{port}"),
            Broker::Other { address } => address.clone(),
        }
    }

    /// Whether it was started by us, and so may be killed by us.
    pub fn is_ours(&self) -> bool {
        matches!(self.broker, Broker::Ours { .. })
    }

    /// Where the listeners of [`KafkaSetup::link`] really are, in their order: what the proxies have to forward to.
    pub fn link_ports(&self) -> &[u16] {
        match &self.broker {
            Broker::Ours { link_ports, .. } => link_ports,
            Broker::Other { .. } => &[],
        }
    }

    /// The broker's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.service("watch").ok()?.pid()
    }

    /// Its temporary folder.
    ///
    /// # Errors
    /// [`Fault::NotOurs`].
    pub fn folder(&self) -> Result<&Path, Fault> {
        Ok(self.service("look into")?.folder())
    }

    /// What it wrote to its log, over all starts.
    ///
    /// # Errors
    /// [`Fault::NotOurs`].
    pub fn log(&self) -> Result<PathBuf, Fault> {
        Ok(self.service("look into")?.log())
    }

    /// Runs one of Kafka's tools, such as `kafka-topics`, against this broker, and returns what it printed. The
    /// broker's address is added by us. Each run starts a Java machine: a second or two.
    ///
    /// # Errors
    /// [`Fault::Command`].
    pub async fn run_tool(
        &self,
        tool: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<String, Fault> {
        self.run_tool_with(tool, arguments, "").await
    }

    /// The same for a tool that reads standard input, such as `kafka-console-producer`.
    ///
    /// # Errors
    /// [`Fault::Command`].
    pub async fn run_tool_with(
        &self,
        tool: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: &str,
    ) -> Result<String, Fault> {
        let mut command = Command::new(self.home.program(tool)?);
        if !matches!(tool, "kafka-storage" | "kafka-dump-log") {
            command.args(["--bootstrap-server", &self.bootstrap()]);
        }
        output(
            {
                command.args(arguments);
                command
            },
            input.as_bytes(),
        )
        .await
    }

    /// Shuts it down in order.
    ///
    /// # Errors
    /// [`Fault::NotOurs`], [`Fault::NotRunning`], or [`Fault::Stop`] where it had to be killed.
    pub async fn stop(&self) -> Result<(), Fault> {
        self.service("stop")?.stop().await
    }

    /// SIGKILL, as in a crash.
    ///
    /// # Errors
    /// [`Fault::NotOurs`], [`Fault::NotRunning`].
    pub async fn kill(&self) -> Result<(), Fault> {
        self.service("kill")?.kill().await
    }

    /// Starts it again on the same folder and port, and waits until it answers.
    ///
    /// # Errors
    /// [`Fault::NotOurs`], [`Fault::Running`], [`Fault::Start`].
    pub async fn start_again(&self) -> Result<(), Fault> {
        self.service("start")?.start().await
    }

    /// Freezes it (SIGSTOP): connections stay open, nothing answers.
    ///
    /// # Errors
    /// [`Fault::NotOurs`], [`Fault::NotRunning`].
    pub async fn suspend(&self) -> Result<(), Fault> {
        self.service("suspend")?.suspend().await
    }

    /// Lets a frozen one go on.
    ///
    /// # Errors
    /// [`Fault::NotOurs`], [`Fault::NotRunning`].
    pub fn resume(&self) -> Result<(), Fault> {
        self.service("resume")?.resume()
    }

    /// Lets the broker live on after this process.
    ///
    /// # Errors
    /// [`Fault::NotOurs`], [`Fault::NotRunning`].
    pub fn keep(self) -> Result<Kept, Fault> {
        self.service("keep")?;
        match self.broker {
            Broker::Ours { service, .. } => service.keep(),
            Broker::Other { address } => Err(not_ours(address, "keep")),
        }
    }

    fn service(&self, verb: &'static str) -> Result<&Service, Fault> {
        match &self.broker {
            Broker::Ours { service, .. } => Ok(service),
            Broker::Other { address } => Err(not_ours(address.clone(), verb)),
        }
    }
}

fn not_ours(address: String, verb: &'static str) -> Fault {
    Fault::NotOurs { server: "Kafka", address, verb, variable: OTHER_BROKER }
}
