//! All that has to be taken down: servers, workers, their folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use unitflow_change::{Code, Fault};
use unitflow_local::{TempDir, new_folder};

use crate::demo::cache::{self, Cache, CachesCompared};
use crate::demo::keep;
use crate::demo::screen::Screen;
use crate::demo::unit::{self, Unit};
use crate::demo::workers::{self, Worker, read_status, unitflow};
use crate::demo::{WAYS, local};

/// How long the rest of the changes may take once nobody writes any more.
const WAIT_SECONDS: &str = "120";

/// How long the first heartbeats may take to cross.
const HEARTBEATS_WITHIN: Duration = Duration::from_secs(60);

/// How long those may take that tell where flows stand, after something failed.
const STATUS_WITHIN: Duration = Duration::from_secs(10);

/// What runs. Dropping it kills everything and removes all folders.
#[derive(Debug)]
pub struct Scene {
    // In the order in which they have to go.
    workers: Vec<Worker>,
    units: Vec<Unit>,
    /// Configuration and workers' logs.
    folder: TempDir,
}

impl Scene {
    /// Nothing runs yet.
    pub fn new() -> Result<Self, Fault> {
        Ok(Self { workers: vec![], units: vec![], folder: new_folder("demo").map_err(local)? })
    }

    /// Servers, and the empty shop in each.
    pub async fn start_servers(&mut self, screen: &Screen) -> Result<(), Fault> {
        let step =
            screen.step("starting MySQL and MariaDB, Redis and Valkey, and a Kafka for each unit");
        self.units = unit::start_both().await?.into();
        let [a, b] = self.units() else { return Err(unstarted()) };
        step.done(format!(
            "unit {} is {} and {} with a Kafka, unit {} is {} and {} with another; the same empty shop in both",
            a.name, a.version, a.cache.version, b.name, b.version, b.cache.version
        ));
        Ok(())
    }

    /// The configuration, then `unitflow init` and `unitflow check`.
    pub async fn initialise(&self, screen: &Screen) -> Result<(), Fault> {
        let step = screen.step("unitflow init");
        let config = self.config();
        write(&config, &self.toml())?;
        unitflow(&config, &["init"]).await?;
        step.done("unitflow init: ledger tables, topics and first positions are there");
        let step = screen.step("unitflow check");
        unitflow(&config, &["check"]).await?;
        step.done("unitflow check: settings, grants, tables and topics are as they have to be");
        Ok(())
    }

    /// A connector, a transformer and a sink for each unit.
    pub async fn start_workers(&mut self, screen: &Screen) -> Result<(), Fault> {
        let step = screen.step("starting workers");
        self.workers = workers::start_all(self.folder.path()).await?;
        step.note("waiting until a heartbeat of each unit has come to the other");
        let arrive = async {
            tokio::try_join!(self.heartbeat_arrived(WAYS[0]), self.heartbeat_arrived(WAYS[1]))
                .map(drop)
        };
        tokio::select! {
            arrived = timeout(HEARTBEATS_WITHIN, arrive) => arrived.map_err(|_| {
                let seconds = HEARTBEATS_WITHIN.as_secs();
                Fault::fatal(Code::Timeout, format!("no heartbeat came from one unit to the other within {seconds} s"))
                    .hint("the workers' logs say which of them has not begun")
            })??,
            gone = self.worker_gone() => return Err(gone),
        }
        step.done("six workers, each a process: connector, transformer and sink for each unit; heartbeats arrive");
        Ok(())
    }

    async fn heartbeat_arrived(&self, (from, to): (usize, usize)) -> Result<(), Fault> {
        let (from, to) = (&self.units[from], &self.units[to]);
        while !to.has_heartbeat_of(from.name).await? {
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Until each unit has applied all that the other has committed.
    pub async fn wait_both_ways(&self, screen: &Screen) -> Result<Duration, Fault> {
        let step =
            screen.step("unitflow wait: until each unit has applied all that the other committed");
        let begun = Instant::now();
        let waited = tokio::select! {
            waited = self.wait_once() => waited.map(|()| begun.elapsed())?,
            gone = self.worker_gone() => return Err(gone),
        };
        // Once more, for what the first round wrote: now every transformer has seen all that came from the other unit.
        self.wait_once().await?;
        step.done("unitflow wait: each unit has applied all that the other committed");
        Ok(waited)
    }

    async fn wait_once(&self) -> Result<(), Fault> {
        let config = self.config();
        let wait = |(from, to): (usize, usize)| {
            let names = [self.units[from].name, self.units[to].name];
            let config = &config;
            async move {
                let arguments = [
                    "wait",
                    "--from",
                    names[0],
                    "--to",
                    names[1],
                    "--timeout-seconds",
                    WAIT_SECONDS,
                ];
                unitflow(config, &arguments).await
            }
        };
        tokio::try_join!(wait(WAYS[0]), wait(WAYS[1])).map(drop)
    }

    /// The rows that each unit has of the other, in the order of [`WAYS`].
    pub async fn crossed(&self) -> Result<[u64; 2], Fault> {
        let count = |(from, to): (usize, usize)| async move {
            self.units[to].rows_of(self.units[from].name).await
        };
        tokio::try_join!(count(WAYS[0]), count(WAYS[1])).map(Into::into)
    }

    /// The changes that each unit's transformer stopped because they were not its unit's own.
    pub async fn echoes(&self) -> Result<[u64; 2], Fault> {
        let count = |name| async move {
            self.worker(name)?
                .counter("unitflow_transformer_records_total", "outcome=\"echo\"")
                .await
        };
        tokio::try_join!(count("A-transformer"), count("B-transformer")).map(Into::into)
    }

    /// Both units, once they run.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// Both units' caches, with the units' names.
    pub fn caches(&self) -> Vec<(&'static str, &Cache)> {
        self.units.iter().map(|unit| (unit.name, &unit.cache)).collect()
    }

    /// Whether both caches hold the same.
    pub async fn compare_caches(&self) -> Result<CachesCompared, Fault> {
        let [first, second] = self.units() else { return Err(unstarted()) };
        cache::compare(&first.cache, &second.cache).await
    }

    /// Unit and servers of each: `A`, `MySQL 9.7.0, Redis 7.0.15`.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let named = |unit: &Unit| (unit.name, format!("{}, {}", unit.version, unit.cache.version));
        self.units.iter().map(named).collect()
    }

    /// A worker by its name.
    pub fn worker(&self, name: &str) -> Result<&Worker, Fault> {
        self.workers.iter().find(|worker| worker.name == name).ok_or_else(unstarted)
    }

    /// Until a worker ends though nobody wanted it to.
    pub async fn worker_gone(&self) -> Fault {
        loop {
            if let Some(worker) = self.workers.iter().find(|worker| worker.is_gone()) {
                return Fault::fatal(Code::Local, format!("the worker {} has ended", worker.name))
                    .hint("its log says why");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// What helps to find out what went wrong: the ends of the logs of workers that had trouble, and where flows stand.
    pub async fn evidence(&self) -> String {
        let troubled = self.workers.iter().filter(|worker| worker.is_troubled());
        let mut evidence: Vec<String> = troubled.map(Worker::tail).collect();
        if !self.workers.is_empty() {
            let status = timeout(STATUS_WITHIN, read_status(&self.config())).await;
            evidence.extend(status.map(|status| format!("---- unitflow status\n{status}")));
        }
        evidence.join("\n")
    }

    /// Stops the workers in order, then the servers with all their data.
    pub async fn close(mut self) {
        join_all(self.workers.iter().map(|worker| worker.program.stop())).await;
        self.workers.clear();
    }

    /// Closes it, but leaves all logs. Returns where they are.
    pub async fn rescue_logs(self) -> String {
        join_all(self.workers.iter().map(|worker| worker.program.stop())).await;
        let Self { workers, units, folder } = self;
        drop(workers);
        let folder = folder.keep();
        for unit in &units {
            let servers = [
                ("database", Ok(unit.server.log())),
                ("cache", Ok(unit.cache.server.log())),
                ("kafka", unit.kafka.log()),
            ];
            for (server, log) in servers {
                if let Ok(log) = log {
                    // What cannot be copied is no reason to hide what went wrong before.
                    let _ = fs::copy(log, folder.join(format!("{}-{server}.log", unit.name)));
                }
            }
        }
        folder.display().to_string()
    }

    /// Lets everything run on. Returns how to look around, and how to stop it.
    pub fn keep(self) -> Result<String, Fault> {
        let look_around = keep::look_around(&self.units, &self.config(), &self.prefix())?;
        let Self { workers, units, folder } = self;
        let folder = folder.keep();
        let mut stops = Vec::new();
        for worker in workers {
            stops.push(worker.program.keep().map_err(local)?.stop);
        }
        for Unit { server, cache, kafka, .. } in units {
            stops.push(server.keep().map_err(local)?.stop);
            stops.push(cache.server.keep().map_err(local)?.stop);
            if kafka.is_ours() {
                stops.push(kafka.keep().map_err(local)?.stop);
            }
        }
        let stop = keep::write_stop(&folder, &stops)?;
        Ok(format!("{look_around}\n  stop it all     {}\n", stop.display()))
    }

    /// What all names in Kafka begin with. A broker of someone else may have topics of an earlier demo.
    fn prefix(&self) -> String {
        match self.units.iter().all(|unit| unit.kafka.is_ours()) {
            true => "unitflow".to_owned(),
            false => format!("unitflow-demo-{}", std::process::id()),
        }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("unitflow.toml")
    }

    fn toml(&self) -> String {
        let mut text = format!(
            "# Two units on one machine, written by `unitflow demo`.\n\
             prefix = \"{}\"\n\
             outage_longest_hours = 1\n",
            self.prefix()
        );
        for Unit { name, server, cache, kafka, .. } in &self.units {
            let (bootstrap, port) = (kafka.bootstrap(), server.port());
            let cache = cache.server.port();
            text += &format!(
                "\n[units.{name}]\n\
                 kafka = {{ bootstrap = \"{bootstrap}\", replication = 1 }}\n\
                 [units.{name}.stores.shop]\n\
                 kind = \"mysql\"\n\
                 endpoints = [\"127.0.0.1:{port}\"]\n\
                 user = \"root\"\n\
                 tls = \"off\"\n\
                 [units.{name}.stores.cache]\n\
                 kind = \"redis\"\n\
                 endpoints = [\"127.0.0.1:{cache}\"]\n\
                 tls = \"off\"\n"
            );
        }
        text + "\n[flows.shop]\ntables = [\"shop.*\"]\n\n[flows.cache]\nkeys = [\"*\"]\n"
    }
}

/// Writes a file of the demo.
pub fn write(path: &Path, text: &str) -> Result<(), Fault> {
    fs::write(path, text).map_err(|error| {
        Fault::fatal(Code::Local, format!("cannot write {}: {error}", path.display()))
    })
}

fn unstarted() -> Fault {
    Fault::fatal(Code::Bug, "the demo uses what it has not started")
}
