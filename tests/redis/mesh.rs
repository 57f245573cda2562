//! Units with a Redis or Valkey server each, and the workers between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail, ensure};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value, from_redis_value};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use unitflow_harness::random::is_full;
use unitflow_harness::worker::{Launch, Worker, log_end};
use unitflow_kafka::{Broker, topics};
use unitflow_local::{Kafka, Redis, RedisFlavor};
use xxhash_rust::xxh3::Xxh3;

/// What workers log in with.
const PASSWORD: &str = "none-of-your-business";
const BINARY: &str = env!("CARGO_BIN_EXE_unitflow");
/// Nor does what was written take longer to arrive.
pub const QUIET: Duration = Duration::from_secs(60);
/// A server answers a client within this. The client's own default is half a second, which a killed
/// and restarted process beside it on two cores may use up.
const ANSWER: Duration = Duration::from_secs(30);
/// How long nothing may move before the mesh counts as quiet.
const STILL_BRIEFLY: Duration = Duration::from_secs(3);
/// An echo would be back sooner.
const STILL: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(400);
const POLL: Duration = Duration::from_millis(20);
/// Keys that are asked about at once.
const KEYS_AT_ONCE: usize = 500;
/// Differing keys that are shown.
const SHOWN: usize = 10;
/// What the names of Unitflow's own keys begin with.
const OWN_KEYS: &[u8] = b"unitflow:";

/// What to build.
#[derive(Clone, Debug)]
pub struct RedisMeshSetup {
    flavors: Vec<RedisFlavor>,
    hub: Option<String>,
    /// A unit whose server has a replica.
    standby: Option<String>,
    settings: Vec<(String, String)>,
    flow_lines: String,
    /// Scripts that fill a unit's server before it is part of the mesh.
    held: Vec<(String, String)>,
}

/// One unit.
#[derive(Debug)]
struct Unit {
    /// Its name: A, B, C.
    name: String,
    server: Redis,
    /// A replica of it, to fail over to.
    standby: Option<Redis>,
    /// Which of the mesh's brokers is its Kafka.
    kafka: usize,
}

/// One partition whose end tells whether anything was written.
#[derive(Clone, Debug)]
struct Partition {
    broker: Broker,
    topic: String,
    number: i32,
}

/// Everything that runs. Dropped without [`RedisMesh::finish`] it tells what the workers said last, and
/// leaves their logs.
#[derive(Debug)]
pub struct RedisMesh {
    // In the order in which they have to go.
    workers: Vec<Worker>,
    units: Vec<Unit>,
    kafkas: Vec<Kafka>,
    folder: TempDir,
    /// What the names of its topics begin with.
    prefix: String,
    /// All that is captured and tagged.
    partitions: Vec<Partition>,
    setup: RedisMeshSetup,
    /// How many workers there have been.
    started: usize,
    finished: bool,
}

/// Where a server's stream stands.
async fn offset(server: &Redis, name: &str) -> anyhow::Result<u64> {
    let info = server.cli(["INFO", "replication"]).await?;
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name} in {info}"))?.trim().parse()?)
}

/// What a unit holds, Unitflow's own keys aside: by database and key.
type Contents = BTreeMap<(u32, Vec<u8>), Held>;

/// What stands under a key, as far as it has to be equal everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    kind: String,
    /// The server's own digest of the value. Sets and hashes have the same in whatever order they are kept.
    digest: String,
    /// In ms since 1970; -1 where it does not expire.
    expires: i64,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.12}", self.kind, self.digest)?;
        if self.expires >= 0 { write!(f, " until {}", self.expires) } else { Ok(()) }
    }
}

impl RedisMeshSetup {
    /// A star: spokes read each other by way of this unit, whose Kafka has copies of their topics. So each
    /// has one of its own, whatever `UNITFLOW_KAFKA` says.
    #[must_use]
    pub fn hub(mut self, unit: &str) -> Self {
        self.hub = Some(unit.into());
        self
    }

    /// This unit's server has a replica.
    #[must_use]
    pub fn standby(mut self, unit: &str) -> Self {
        self.standby = Some(unit.into());
        self
    }

    /// A directive of all servers.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// This Lua script runs in a unit's server before `init`.
    #[must_use]
    pub fn holding(mut self, unit: &str, script: &str) -> Self {
        self.held.push((unit.into(), script.into()));
        self
    }

    /// Starts servers and brokers, writes the configuration, runs `init`, and starts all workers.
    pub async fn start(self) -> anyhow::Result<RedisMesh> {
        let begin = Instant::now();
        let folder = tempfile::Builder::new().prefix("unitflow-redis-mesh-").tempdir()?;
        let brokers = if self.hub.is_some() { self.flavors.len() } else { 1 };
        let mut starting_kafkas = JoinSet::new();
        for _ in 0..brokers {
            let kafka = if self.hub.is_some() { Kafka::setup().own() } else { Kafka::setup() };
            starting_kafkas.spawn(kafka.start());
        }
        let mut units = Vec::new();
        for (place, &flavor) in self.flavors.iter().enumerate() {
            let name = char::from(u8::try_from(place).context("few units")? + b'A').to_string();
            let kafka = if self.hub.is_some() { place } else { 0 };
            let server = self.start_server(flavor, &folder, &name).await?;
            let mut standby = None;
            if self.standby.as_ref() == Some(&name) {
                let replica =
                    self.start_server(flavor, &folder, &format!("{name}-standby")).await?;
                replica.cli(["REPLICAOF", "127.0.0.1", &server.port().to_string()]).await?;
                standby = Some(replica);
            }
            units.push(Unit { name, server, standby, kafka });
        }
        let mut kafkas = Vec::new();
        while let Some(kafka) = starting_kafkas.join_next().await {
            kafkas.push(kafka??);
        }
        println!("  servers are up after {:.1?}", begin.elapsed());
        let mut mesh = RedisMesh {
            workers: vec![],
            units,
            kafkas,
            folder,
            prefix: prefix(),
            partitions: vec![],
            setup: self,
            started: 0,
            finished: false,
        };
        fs::write(mesh.password_file(), PASSWORD)?;
        fs::set_permissions(mesh.password_file(), fs::Permissions::from_mode(0o600))?;
        fs::write(mesh.config(), mesh.toml()?)?;
        mesh.create_users().await?;
        for (unit, script) in &mesh.setup.held {
            mesh.server(unit).cli(["EVAL", script, "0"]).await?;
        }
        mesh.run(&["init"]).await.context("unitflow init")?;
        mesh.partitions = mesh.find_partitions().await?;
        println!("  initialised after {:.1?}", begin.elapsed());
        mesh.start_workers()?;
        Ok(mesh)
    }
}

impl RedisMeshSetup {
    async fn start_server(
        &self,
        flavor: RedisFlavor,
        folder: &TempDir,
        name: &str,
    ) -> anyhow::Result<Redis> {
        // Users outlive a restart.
        let users = folder.path().join(format!("{name}.acl"));
        fs::write(&users, "")?;
        let mut server = Redis::setup()
            .flavor(flavor)
            .setting("aclfile", users.display())
            .setting("enable-debug-command", "yes")
            .setting("maxmemory-policy", "noeviction")
            .setting("repl-backlog-size", "64mb");
        for (name, value) in &self.settings {
            server = server.setting(name.as_str(), value);
        }
        Ok(server.start().await?)
    }
}

impl RedisMesh {
    /// Units A, B, C and so on with these servers, all writing, each reading every other. One broker
    /// serves all: what two cores bear goes into servers and workers.
    #[must_use]
    pub fn of(flavors: &[RedisFlavor]) -> RedisMeshSetup {
        RedisMeshSetup {
            flavors: flavors.to_vec(),
            hub: None,
            standby: None,
            settings: vec![],
            flow_lines: String::new(),
            held: vec![],
        }
    }

    /// The names of all units.
    #[must_use]
    pub fn units(&self) -> Vec<String> {
        self.units.iter().map(|unit| unit.name.clone()).collect()
    }

    /// The server of a unit.
    ///
    /// # Panics
    /// Where there is no such unit.
    #[must_use]
    pub fn server(&self, unit: &str) -> &Redis {
        let found = self.units.iter().find(|found| found.name == unit);
        &found.expect("the test names its own units").server
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("unitflow.toml")
    }

    fn toml(&self) -> anyhow::Result<String> {
        let mut text = format!("prefix = \"{}\"\noutage_longest_hours = 1\n", self.prefix);
        if let Some(hub) = &self.setup.hub {
            writeln!(text, "topology = {{ star = \"{hub}\" }}")?;
        }
        // Each worker takes a free port.
        writeln!(text, "[telemetry]\nprometheus = \"127.0.0.1:0\"")?;
        for Unit { name, server, standby, kafka } in &self.units {
            let bootstrap = self.kafkas[*kafka].bootstrap();
            writeln!(text, "\n[units.{name}]")?;
            writeln!(text, "kafka = {{ bootstrap = \"{bootstrap}\", replication = 1 }}")?;
            writeln!(text, "[units.{name}.stores.cache]\nkind = \"redis\"")?;
            let servers = [server].into_iter().chain(standby);
            let endpoints: Vec<String> =
                servers.map(|server| format!("127.0.0.1:{}", server.port())).collect();
            writeln!(text, "endpoints = {endpoints:?}\ntls = \"off\"")?;
            let password = self.password_file();
            writeln!(text, "user = \"unitflow\"\npassword = {{ file = {password:?} }}")?;
        }
        writeln!(text, "\n[flows.cache]\nkeys = [\"*\"]\n{}", self.setup.flow_lines)?;
        Ok(text)
    }

    fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// Creates the users as an administrator would who reads what `init --print` says.
    async fn create_users(&self) -> anyhow::Result<()> {
        for Unit { name, server, standby, .. } in &self.units {
            let printed = self.run(&["init", "--print", "--unit", name]).await?;
            let line = printed.lines().find(|line| line.starts_with("ACL SETUSER "));
            let line = line.context("init prints no user")?.replace("<password>", PASSWORD);
            // A replica has users of its own.
            for server in [server].into_iter().chain(standby) {
                server.cli(line.split(' ').map(|word| word.trim_matches('\''))).await?;
                server.cli(["ACL", "SAVE"]).await?;
            }
        }
        Ok(())
    }

    /// The unit's server dies, and its replica, which has all that it had, takes its place. Nobody may be writing.
    pub async fn fail_over(&mut self, unit: &str) -> anyhow::Result<()> {
        let found =
            self.units.iter_mut().find(|found| found.name == unit).context("no such unit")?;
        let standby = found.standby.take().context("it has no replica")?;
        let begin = Instant::now();
        while offset(&found.server, "master_repl_offset").await?
            != offset(&standby, "slave_repl_offset").await?
        {
            ensure!(begin.elapsed() < QUIET, "the replica of {unit} is behind");
            sleep(POLL).await;
        }
        found.server.kill().await?;
        standby.cli(["REPLICAOF", "NO", "ONE"]).await?;
        // The old one is not stopped yet: its folder goes with it.
        found.standby = Some(std::mem::replace(&mut found.server, standby));
        Ok(())
    }

    /// From now on these lines stand in the flow, too. Workers read them at their start.
    pub fn change_flow(&mut self, lines: &str) -> anyhow::Result<()> {
        self.setup.flow_lines = lines.into();
        fs::write(self.config(), self.toml()?)?;
        Ok(())
    }

    /// Runs a command of the binary to its end, and returns what it printed. Any exit code but 0 is an error.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(self.config(), arguments.iter().map(|&word| word.to_owned()).collect()).await
    }

    /// The same beside whatever else is done.
    pub fn begin(&self, arguments: &[&str]) -> AbortOnDropHandle<anyhow::Result<String>> {
        let arguments = arguments.iter().map(|&word| word.to_owned()).collect();
        AbortOnDropHandle::new(tokio::spawn(run(self.config(), arguments)))
    }

    /// Starts a worker for each role of each unit.
    fn start_workers(&mut self) -> anyhow::Result<()> {
        for unit in self.units() {
            for role in ["connector", "transformer", "sink"] {
                self.start_worker(&unit, role)?;
            }
        }
        match self.setup.hub.clone() {
            Some(hub) => self.start_worker(&hub, "relay"),
            None => Ok(()),
        }
    }

    /// Starts one more worker. [`RedisMesh::worker`] means the one that was started last.
    pub fn start_worker(&mut self, unit: &str, role: &str) -> anyhow::Result<()> {
        self.start_broken(unit, role, "")
    }

    /// The same of one that is broken at a named point.
    pub fn start_broken(&mut self, unit: &str, role: &str, inject: &str) -> anyhow::Result<()> {
        self.started += 1;
        let log = self.folder.path().join(format!("{:02}-{unit}-{role}.log", self.started));
        self.workers.push(Worker::start(Launch {
            binary: BINARY.into(),
            config: self.config(),
            unit: unit.into(),
            roles: role.into(),
            inject: inject.into(),
            log,
        })?);
        Ok(())
    }

    /// The worker of this role in this unit that was started last.
    pub fn worker(&mut self, unit: &str, role: &str) -> anyhow::Result<&mut Worker> {
        let mut workers = self.workers.iter_mut().rev();
        workers
            .find(|worker| worker.launch().unit == unit && worker.launch().roles == role)
            .with_context(|| format!("there is no {role} of {unit}"))
    }

    /// `kill -9` of a worker that runs, and another one in its place at once.
    pub fn kill_and_restart(&mut self, unit: &str, role: &str) -> anyhow::Result<()> {
        let worker = self.worker(unit, role)?;
        if let Some(status) = worker.ended() {
            bail!("{} had ended with {status}:\n{}", worker.name(), worker.log_end());
        }
        self.restart(unit, role)
    }

    /// The same of one that may have ended by itself.
    pub fn restart(&mut self, unit: &str, role: &str) -> anyhow::Result<()> {
        self.worker(unit, role)?.kill()?;
        self.start_worker(unit, role)
    }

    /// Whether the workers that were started last in their roles all run.
    pub fn ensure_alive(&mut self) -> anyhow::Result<()> {
        let mut seen = BTreeSet::new();
        for worker in self.workers.iter_mut().rev() {
            let name = worker.name();
            if !seen.insert(name.clone()) {
                continue;
            }
            if let Some(status) = worker.ended() {
                bail!("{name} has ended with {status}:\n{}", worker.log_end());
            }
        }
        Ok(())
    }

    /// Waits until a server gives this answer, as its own client prints it.
    pub async fn shows(&self, unit: &str, words: &[&str], answer: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + QUIET;
        loop {
            let found = self.server(unit).cli(words).await?;
            if found == answer {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{unit} answers {found:?} to {words:?} and not {answer:?} after {QUIET:?}"
            );
            sleep(POLL).await;
        }
    }

    /// Waits until no topic and no key has moved for a while, whether units are equal or not.
    pub async fn settle(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.come_to_rest(patience, false).await
    }

    /// Waits until all units hold the same and nothing has moved for a while, and no worker has ended.
    pub async fn quiesce(&mut self, patience: Duration) -> anyhow::Result<()> {
        self.come_to_rest(patience, true).await
    }

    async fn come_to_rest(&mut self, patience: Duration, equal: bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        let mut before = self.moving_parts().await?;
        let mut since = Instant::now();
        loop {
            if equal {
                self.ensure_alive()?;
            }
            sleep(LOOK_EVERY).await;
            let looked = Instant::now();
            let after = self.moving_parts().await?;
            let alike = after.1.windows(2).all(|pair| pair[0] == pair[1]);
            let moved = if before.0 != after.0 {
                Some("topics still grow")
            } else if before.1 != after.1 {
                Some("keys still change")
            } else {
                None
            };
            if moved.is_none() && looked >= since + STILL_BRIEFLY && (alike || !equal) {
                return Ok(());
            }
            if looked > deadline {
                let state = moved.unwrap_or("all is still");
                let differing = difference(&self.all_contents().await?);
                let said = self.last_words();
                bail!("not at rest after {patience:?}: {state}; {differing}\n{said}");
            }
            if moved.is_some() {
                since = Instant::now();
                before = after;
            }
        }
    }

    /// The topics' ends and the units' digests.
    async fn moving_parts(&self) -> anyhow::Result<(BTreeMap<String, i64>, Vec<u64>)> {
        let mut digests = Vec::new();
        for unit in &self.units {
            digests.push(self.digest(&unit.name).await?);
        }
        Ok((self.ends().await?, digests))
    }

    /// Whether nothing goes in circles: no topic grows and no key changes for five seconds.
    pub async fn ensure_still(&self) -> anyhow::Result<()> {
        let before = self.moving_parts().await?;
        sleep(STILL).await;
        let after = self.moving_parts().await?;
        let grown: Vec<String> = after
            .0
            .iter()
            .filter(|(place, end)| before.0.get(*place) != Some(*end))
            .map(|(place, end)| format!("{place}: {:?} became {end}", before.0.get(place)))
            .collect();
        ensure!(grown.is_empty(), "topics grow at rest: {}", grown.join("; "));
        ensure!(before.1 == after.1, "keys change at rest");
        Ok(())
    }

    /// One number for all that a unit holds, Unitflow's own keys aside.
    pub async fn digest(&self, unit: &str) -> anyhow::Result<u64> {
        let mut digest = Xxh3::new();
        for ((database, key), held) in self.contents(unit).await? {
            digest.update(&database.to_be_bytes());
            digest.update(&(key.len() as u64).to_be_bytes());
            digest.update(&key);
            digest.update(held.to_string().as_bytes());
            digest.update(held.digest.as_bytes());
        }
        Ok(digest.digest())
    }

    /// Whether all units hold the same keys, of the same types, with the same values, that expire at the
    /// same times.
    pub async fn ensure_equal(&self) -> anyhow::Result<()> {
        let all = self.all_contents().await?;
        let first = all.first().map(|(_, first)| first);
        let alike = all.iter().all(|(_, contents)| Some(contents) == first);
        ensure!(alike, "{}", difference(&all));
        println!("  all units hold the same {} keys", first.map_or(0, BTreeMap::len));
        Ok(())
    }

    async fn all_contents(&self) -> anyhow::Result<Vec<(String, Contents)>> {
        let mut all = Vec::new();
        for name in self.units() {
            let contents = self.contents(&name).await?;
            all.push((name, contents));
        }
        Ok(all)
    }

    /// What a unit holds. Keys that expire meanwhile are there or not.
    async fn contents(&self, unit: &str) -> anyhow::Result<Contents> {
        let url = self.server(unit).url();
        let mut contents = Contents::new();
        for database in databases(&url).await? {
            let mut conn = connect(&url, database).await?;
            let keys: Vec<Vec<u8>> = keys(&mut conn).await?.into_iter().collect();
            for some in keys.chunks(KEYS_AT_ONCE) {
                let mut asked = redis::pipe();
                for key in some {
                    asked.cmd("TYPE").arg(key);
                    asked.cmd("DEBUG").arg("DIGEST-VALUE").arg(key);
                    asked.cmd("PEXPIRETIME").arg(key);
                }
                let answers: Vec<Value> = asked.query_async(&mut conn).await?;
                let mut answers = answers.into_iter();
                for key in some {
                    let mut answer = || answers.next().context("fewer answers than questions");
                    let kind: String = from_redis_value(answer()?)?;
                    let digests: Vec<String> = from_redis_value(answer()?)?;
                    let expires: i64 = from_redis_value(answer()?)?;
                    if kind != "none" {
                        let digest = digests.concat();
                        contents.insert((database, key.clone()), Held { kind, digest, expires });
                    }
                }
            }
        }
        Ok(contents)
    }

    /// Where what is captured and tagged ends, in every Kafka.
    async fn ends(&self) -> anyhow::Result<BTreeMap<String, i64>> {
        let mut asking = JoinSet::new();
        for Partition { broker, topic, number } in self.partitions.clone() {
            asking.spawn(async move {
                let (_, end) = topics::bounds(&broker, &topic, number).await?;
                anyhow::Ok((format!("{topic}[{number}] at {}", broker.bootstrap), end))
            });
        }
        let mut ends = BTreeMap::new();
        while let Some(end) = asking.join_next().await {
            let (place, end) = end??;
            ends.insert(place, end);
        }
        Ok(ends)
    }

    /// The partitions of all topics that captured or tagged changes are in. The hub has copies of the
    /// spokes'.
    async fn find_partitions(&self) -> anyhow::Result<Vec<Partition>> {
        let mut partitions = Vec::new();
        for (place, kafka) in self.kafkas.iter().enumerate() {
            let broker = Broker::new(kafka.bootstrap());
            let is_hub = |unit: &Unit| self.setup.hub.as_ref() == Some(&unit.name);
            let of_hub = self.units.iter().any(|unit| unit.kafka == place && is_hub(unit));
            let mut names = Vec::new();
            for unit in &self.units {
                let topic = |what: &str| format!("{}.{}.cache.{what}", self.prefix, unit.name);
                if unit.kafka == place {
                    names.extend([topic("captured"), topic("tagged")]);
                } else if of_hub {
                    names.push(topic("tagged"));
                }
            }
            let asked: Vec<&str> = names.iter().map(String::as_str).collect();
            let found = topics::describe(&broker, &asked).await?;
            for (name, topic) in names.iter().zip(found) {
                let topic = topic.with_context(|| format!("`init` made no topic {name}"))?;
                partitions.extend((0..topic.partitions).map(|number| Partition {
                    broker: broker.clone(),
                    topic: topic.name.clone(),
                    number,
                }));
            }
        }
        Ok(partitions)
    }

    /// What the workers said last, each behind its name.
    fn last_words(&mut self) -> String {
        let mut text = String::new();
        for worker in &mut self.workers {
            let state = worker.ended().map_or("running".to_owned(), |status| status.to_string());
            text.push_str(&format!("---- {} ({state})\n{}\n", worker.name(), worker.log_end()));
        }
        text
    }

    /// The test has passed: nothing of it is kept.
    pub fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for RedisMesh {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        print!("{}", self.last_words());
        for unit in &self.units {
            println!("---- server of {}\n{}", unit.name, log_end(&unit.server.log()));
        }
        self.folder.disable_cleanup(true);
        println!("---- configuration and logs stay in {}", self.folder.path().display());
    }
}

/// A command of the binary takes no longer.
fn command_within() -> Duration {
    Duration::from_secs(if is_full() { 600 } else { 120 })
}

async fn run(config: PathBuf, arguments: Vec<String>) -> anyhow::Result<String> {
    let output = Command::new(BINARY)
        .arg("--config")
        .arg(config)
        .args(&arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let said = arguments.join(" ");
    let output = timeout(command_within(), output).await;
    let output = output.with_context(|| format!("unitflow {said} hangs"))??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.success(), "unitflow {said}: {}\n{stdout}{stderr}", output.status);
    Ok(stdout)
}

/// A client of this server, in this database.
pub async fn connect(url: &str, database: u32) -> anyhow::Result<MultiplexedConnection> {
    let client = Client::open(format!("{url}/{database}"))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER))
        .set_response_timeout(Some(ANSWER));
    let conn = client.get_multiplexed_async_connection_with_config(&config).await;
    conn.with_context(|| format!("connect to {url}"))
}

/// The databases that hold something.
async fn databases(url: &str) -> anyhow::Result<Vec<u32>> {
    let mut conn = connect(url, 0).await?;
    let info: String = redis::cmd("INFO").arg("keyspace").query_async(&mut conn).await?;
    let numbers = info.lines().filter_map(|line| line.strip_prefix("db")?.split_once(':'));
    numbers.map(|(number, _)| number.parse::<u32>().context("the number of a database")).collect()
}

/// All keys of a database but Unitflow's own. A scan may tell one twice.
async fn keys(conn: &mut MultiplexedConnection) -> anyhow::Result<BTreeSet<Vec<u8>>> {
    let mut keys = BTreeSet::new();
    let mut cursor = 0_u64;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("COUNT").arg(1_000);
        let (next, some): (u64, Vec<Vec<u8>>) = scan.query_async(conn).await?;
        keys.extend(some.into_iter().filter(|key| !key.starts_with(OWN_KEYS)));
        if next == 0 {
            return Ok(keys);
        }
        cursor = next;
    }
}

/// In what units differ from the first: how many keys, and the first of them with both sides.
fn difference(all: &[(String, Contents)]) -> String {
    let Some(((first, there), others)) = all.split_first() else { return "no units".into() };
    let mut text = String::new();
    for (other, here) in others {
        let keys: BTreeSet<_> = there.keys().chain(here.keys()).collect();
        let mut differing = 0;
        let mut lines = String::new();
        for key in keys {
            let (one, two) = (there.get(key), here.get(key));
            if one == two {
                continue;
            }
            differing += 1;
            if differing <= SHOWN {
                let show = |held: Option<&Held>| held.map_or("nothing".into(), Held::to_string);
                let name = key.1.escape_ascii();
                lines.push_str(&format!(
                    "    {name} in {}: {} | {}\n",
                    key.0,
                    show(one),
                    show(two)
                ));
            }
        }
        if differing == 0 {
            text.push_str(&format!("{first} and {other} hold the same\n"));
        } else {
            text.push_str(&format!("{first} and {other} differ in {differing} keys:\n{lines}"));
        }
    }
    text
}

/// One that no other mesh has: a broker that `UNITFLOW_KAFKA` names keeps the topics of all.
fn prefix() -> String {
    static MESHES: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mesh = MESHES.fetch_add(1, Ordering::Relaxed);
    format!("redis-mesh-{}-{}-{mesh}", now.as_millis(), std::process::id())
}
