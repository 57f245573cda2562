//! Units with a server and a Kafka each, and the workers between them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use mysql_async::prelude::Queryable;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use unitflow_local::{Component, Flavor, Kafka, Mysql};
use xxhash_rust::xxh3::xxh3_64;

use crate::judge::{Judged, Verdict, judge_ways};
use crate::load::{Written, connect};
use crate::random::is_full;
use crate::schema::{self, DATABASE, TABLES};
use crate::worker::{Launch, Worker, log_end};

/// What the user of [`MeshSetup::least_rights`] logs in with.
const PASSWORD: &str = "not a secret";
/// A command of the binary takes no longer.
const COMMAND: Duration = Duration::from_secs(60);
/// How long a log must stand still to count as quiet, where the judge looks and elsewhere.
const STILL: Duration = Duration::from_secs(10);
const STILL_BRIEFLY: Duration = Duration::from_secs(3);
/// Prepared statements that all workers may have open at one server.
const STATEMENTS_MOST: u32 = 300;
/// A sink is caught between two transactions within this.
const FREEZING: Duration = Duration::from_secs(10);
/// How long after the last change a log may still move.
const SETTLING: Duration = Duration::from_secs(4);

/// What to build.
#[derive(Clone, Debug)]
pub struct MeshSetup {
    binary: PathBuf,
    flavors: Vec<Flavor>,
    kafka_shared: bool,
    kafka_own: bool,
    hub: Option<String>,
    lanes: u16,
    whole_transactions: bool,
    heartbeat: bool,
    with_schema: bool,
    one_way: Option<(String, String)>,
    /// The host by which servers are reached, and how their connections are encrypted.
    reached: (String, String),
    ddl: String,
    /// Further statements that a unit's server runs before `init`, out of its log.
    prepared: Vec<(String, String)>,
    /// Lines of a unit's store.
    store_lines: Vec<(String, String)>,
    /// Which tables travel and how, as lines of the flow.
    flow_lines: String,
    settings: Vec<(String, String)>,
    tables: String,
    prepared_by_kind: Vec<(Flavor, String)>,
    settings_at: Vec<(usize, &'static str, String)>,
    least_rights: bool,
    /// A unit that is not named in the configuration yet.
    late: Option<String>,
    /// What stands behind all else in the configuration.
    more: String,
}

/// One unit.
#[derive(Debug)]
pub struct Unit {
    /// Its name: A, B, C.
    pub name: String,
    /// Its server, with the shop in it.
    pub server: Mysql,
    /// Which of the mesh's brokers is its Kafka.
    kafka: usize,
    /// A replica that is asked where the server does not answer.
    standby: Option<Mysql>,
}

/// Everything that runs. Dropped without [`Mesh::finish`] it tells what the workers said last, and
/// leaves their logs.
#[derive(Debug)]
pub struct Mesh {
    // In the order in which they have to go.
    workers: Vec<Worker>,
    units: Vec<Unit>,
    kafkas: Vec<Kafka>,
    folder: TempDir,
    /// What the names of its topics begin with.
    prefix: String,
    /// The ports of a unit's store, where they are not its server's.
    endpoints: HashMap<String, Vec<u16>>,
    setup: MeshSetup,
    /// How many workers there have been.
    started: usize,
    finished: bool,
}

impl MeshSetup {
    /// Units A, B, C and so on with these servers, each with a Kafka of its own, all writing, each
    /// reading every other. Heartbeats are off, so that logs can come to rest.
    #[must_use]
    pub fn new(binary: &str, flavors: &[Flavor]) -> Self {
        Self {
            binary: binary.into(),
            flavors: flavors.to_vec(),
            kafka_shared: false,
            kafka_own: false,
            hub: None,
            lanes: 4,
            whole_transactions: false,
            heartbeat: false,
            with_schema: false,
            one_way: None,
            late: None,
            more: String::new(),
            reached: ("127.0.0.1".into(), "\"off\"".into()),
            ddl: String::new(),
            prepared: Vec::new(),
            store_lines: Vec::new(),
            flow_lines: format!(
                "tables = [\"{DATABASE}.*\"]\npartition_by = {{ \"{DATABASE}.stock\" = \"table\", \"{DATABASE}.seats\" = \"key\", \"{DATABASE}.items\" = {{ columns = [\"user_id\"] }} }}"
            ),
            settings: vec![],
            tables: String::new(),
            prepared_by_kind: Vec::new(),
            settings_at: Vec::new(),
            least_rights: false,
        }
    }

    /// What the flow does at a schema change, as its configuration writes it.
    #[must_use]
    pub fn ddl(mut self, policy: &str) -> Self {
        self.ddl = format!("ddl = {policy}\n");
        self
    }

    /// Workers log in as a user with no rights but those that `init --print` names.
    #[must_use]
    pub fn least_rights(mut self) -> Self {
        self.least_rights = true;
        self
    }

    /// A setting of all servers.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Statements that create more tables in the shop's database, in all units.
    #[must_use]
    pub fn tables(mut self, statements: &str) -> Self {
        self.tables.push_str(statements);
        self
    }

    /// One broker serves all units: cheaper where the test is not about Kafka.
    #[must_use]
    pub fn kafka_shared(mut self) -> Self {
        self.kafka_shared = true;
        self
    }

    /// Brokers that nobody else uses, also where `UNITFLOW_KAFKA` names one: for a test that kills them, or whose other
    /// programs choose names of topics.
    #[must_use]
    pub fn kafka_own(mut self) -> Self {
        self.kafka_own = true;
        self
    }

    /// A star: spokes read each other by way of this unit, whose Kafka has copies of their topics. So each has one of
    /// its own, whatever `UNITFLOW_KAFKA` says.
    #[must_use]
    pub fn hub(mut self, unit: &str) -> Self {
        self.kafka_own = true;
        self.hub = Some(unit.into());
        self
    }

    /// Whole source transactions, in one lane.
    #[must_use]
    pub fn whole_transactions(mut self) -> Self {
        self.whole_transactions = true;
        self.lanes = 1;
        self
    }

    /// Heartbeats on.
    #[must_use]
    pub fn heartbeat(mut self) -> Self {
        self.heartbeat = true;
        self
    }

    /// Records carry their schema.
    #[must_use]
    pub fn with_schema(mut self) -> Self {
        self.with_schema = true;
        self
    }

    /// Changes travel only from one unit to another.
    #[must_use]
    pub fn one_way(mut self, from: &str, to: &str) -> Self {
        self.one_way = Some((from.into(), to.into()));
        self
    }

    /// Servers are reached by this host, which means this machine, and by connections that are
    /// encrypted so, as the configuration writes it.
    #[must_use]
    pub fn reached(mut self, host: &str, tls: &str) -> Self {
        self.reached = (host.into(), tls.into());
        self
    }

    /// This unit's server and Kafka run, but nobody knows of it until [`Mesh::admit`].
    #[must_use]
    pub fn late(mut self, unit: &str) -> Self {
        self.late = Some(unit.into());
        self
    }

    /// Runs these statements at a unit's server before `init`.
    #[must_use]
    pub fn prepare(mut self, unit: &str, statements: &str) -> Self {
        self.prepared.push((unit.into(), statements.into()));
        self
    }

    /// These lines stand in the configuration of a unit's store.
    #[must_use]
    pub fn store(mut self, unit: &str, lines: &str) -> Self {
        self.store_lines.push((unit.into(), lines.into()));
        self
    }

    /// These lines say which tables travel and how, instead of those of the shop.
    #[must_use]
    pub fn flow(mut self, lines: &str) -> Self {
        self.flow_lines = lines.into();
        self
    }

    /// Statements that every server of this kind runs before anything is captured.
    #[must_use]
    pub fn prepare_each(mut self, flavor: Flavor, statements: &str) -> Self {
        self.prepared_by_kind.push((flavor, statements.into()));
        self
    }

    /// A setting of the server of the unit in this place.
    #[must_use]
    pub fn setting_at(mut self, place: usize, name: &'static str, value: impl ToString) -> Self {
        self.settings_at.push((place, name, value.to_string()));
        self
    }

    /// Starts servers and brokers, creates the shop everywhere, writes the configuration and runs
    /// `init`. No worker runs yet.
    pub async fn start(self) -> anyhow::Result<Mesh> {
        let begin = Instant::now();
        let brokers = if self.kafka_shared { 1 } else { self.flavors.len() };
        let mut starting_kafkas = tokio::task::JoinSet::new();
        for _ in 0..brokers {
            let kafka = if self.kafka_own { Kafka::setup().own() } else { Kafka::setup() };
            starting_kafkas.spawn(kafka.start());
        }
        let mut starting_servers = tokio::task::JoinSet::new();
        for (place, &flavor) in self.flavors.iter().enumerate() {
            let mut server = Mysql::setup(flavor);
            for (name, value) in &self.settings {
                server = server.setting(name, value);
            }
            for (_, name, value) in self.settings_at.iter().filter(|(at, ..)| *at == place) {
                server = server.setting(*name, value);
            }
            let mut create = format!("{} USE {DATABASE}; {}", schema::create(), self.tables);
            for (_, more) in self.prepared_by_kind.iter().filter(|(kind, _)| *kind == flavor) {
                create.push_str(more);
            }
            starting_servers.spawn(async move {
                let server = server.start().await?;
                server.sql(&create).await?;
                anyhow::Ok((place, server))
            });
        }
        let mut servers = Vec::new();
        while let Some(server) = starting_servers.join_next().await {
            servers.push(server??);
        }
        servers.sort_by_key(|(place, _)| *place);
        let mut units = Vec::new();
        for (place, server) in servers {
            let letter = u8::try_from(place).context("few units")? + b'A';
            let kafka = if self.kafka_shared { 0 } else { place };
            units.push(Unit { name: char::from(letter).to_string(), server, kafka, standby: None });
        }
        let mut kafkas = Vec::new();
        while let Some(kafka) = starting_kafkas.join_next().await {
            kafkas.push(kafka??);
        }
        let folder = tempfile::Builder::new().prefix("unitflow-mesh-").tempdir()?;
        println!("  servers are up after {:.1?}", begin.elapsed());
        let mesh = Mesh {
            workers: vec![],
            units,
            kafkas,
            folder,
            prefix: prefix(),
            endpoints: HashMap::new(),
            setup: self,
            started: 0,
            finished: false,
        };
        for (unit, statements) in &mesh.setup.prepared {
            mesh.server(unit).sql(statements).await.with_context(|| format!("prepare {unit}"))?;
        }
        fs::write(mesh.config(), mesh.toml()?)?;
        if mesh.setup.least_rights {
            mesh.create_users().await?;
        }
        mesh.run(&["init"]).await.context("unitflow init")?;
        println!("  initialised after {:.1?}", begin.elapsed());
        Ok(mesh)
    }
}

impl Mesh {
    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("unitflow.toml")
    }

    /// The folder with configuration and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All units.
    #[must_use]
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The server of a unit.
    ///
    /// # Panics
    /// Where there is no such unit.
    #[must_use]
    pub fn server(&self, unit: &str) -> &Mysql {
        &self.unit(unit).server
    }

    /// The Kafka of a unit.
    ///
    /// # Panics
    /// Where there is no such unit.
    #[must_use]
    pub fn kafka(&self, unit: &str) -> &Kafka {
        &self.kafkas[self.unit(unit).kafka]
    }

    /// The hub of a star.
    #[must_use]
    pub fn hub(&self) -> Option<&str> {
        self.setup.hub.as_deref()
    }

    /// The topic of this name in a Kafka of the mesh: `A.shop.tagged`.
    #[must_use]
    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn unit(&self, name: &str) -> &Unit {
        self.units.iter().find(|unit| unit.name == name).expect("the test names its own units")
    }

    /// From whom changes travel to whom.
    #[must_use]
    pub fn ways(&self) -> Vec<(&str, &str)> {
        if let Some((from, to)) = &self.setup.one_way {
            return vec![(from, to)];
        }
        let names = || self.named_units().map(|unit| unit.name.as_str());
        names().flat_map(|from| names().map(move |to| (from, to))).filter(|(a, b)| a != b).collect()
    }

    fn toml(&self) -> anyhow::Result<String> {
        let mut text = format!("prefix = \"{}\"\noutage_longest_hours = 1\n", self.prefix);
        if let Some(hub) = &self.setup.hub {
            writeln!(text, "topology = {{ star = \"{hub}\" }}")?;
        }
        // Each worker takes a free port.
        writeln!(text, "[telemetry]\nprometheus = \"127.0.0.1:0\"")?;
        let (host, tls) = &self.setup.reached;
        for Unit { name, server, kafka, standby } in self.named_units() {
            let bootstrap = self.kafkas[*kafka].bootstrap();
            let ports =
                self.endpoints.get(name).cloned().unwrap_or_else(|| {
                    [server].into_iter().chain(standby).map(Mysql::port).collect()
                });
            let endpoints = ports.iter().map(|port| format!("{host}:{port}"));
            let endpoints: Vec<String> = endpoints.collect();
            writeln!(text, "\n[units.{name}]")?;
            writeln!(text, "kafka = {{ bootstrap = \"{bootstrap}\", replication = 1 }}")?;
            writeln!(text, "[units.{name}.stores.shop]\nkind = \"mysql\"")?;
            writeln!(text, "endpoints = {endpoints:?}\ntls = {tls}")?;
            if self.setup.least_rights {
                let password = self.password_file();
                writeln!(text, "user = \"unitflow\"\npassword = {{ file = {password:?} }}")?;
            } else {
                writeln!(text, "user = \"root\"")?;
            }
            for (_, lines) in self.setup.store_lines.iter().filter(|(unit, _)| unit == name) {
                writeln!(text, "{lines}")?;
            }
        }
        let order = if self.setup.whole_transactions { "transaction" } else { "key" };
        writeln!(text, "\n[flows.shop]\nlanes = {}\norder = \"{order}\"", self.setup.lanes)?;
        writeln!(text, "{}\nheartbeat = {}", self.setup.flow_lines, self.setup.heartbeat)?;
        if self.setup.with_schema {
            writeln!(text, "envelope = \"with-schema\"")?;
        }
        if let Some((from, to)) = &self.setup.one_way {
            writeln!(text, "from = [\"{from}\"]\nto = [\"{to}\"]")?;
        }
        text.push_str(&self.setup.ddl);
        text.push_str(&self.setup.more);
        Ok(text)
    }

    fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// Creates the users as an administrator would who reads what `init --print` says.
    async fn create_users(&self) -> anyhow::Result<()> {
        fs::write(self.password_file(), format!("{PASSWORD}\n"))?;
        fs::set_permissions(self.password_file(), fs::Permissions::from_mode(0o600))?;
        for Unit { name, server, .. } in &self.units {
            let printed = self.run(&["init", "--print", "--unit", name]).await?;
            let flavor = match server.flavor() {
                Flavor::Mysql9 => "# MySQL: ",
                Flavor::Mariadb => "# MariaDB: ",
            };
            // Also what lets `init` create the schema itself.
            let lines = printed.lines().map(|line| {
                let bare = line.strip_prefix(flavor).or_else(|| line.strip_prefix("# "));
                bare.filter(|bare| bare.starts_with("GRANT ")).unwrap_or(line)
            });
            let statements: Vec<&str> = lines
                .filter(|line| line.starts_with("GRANT ") || line.starts_with("CREATE USER "))
                .collect();
            let sql = statements.join("\n").replace("<password>", PASSWORD);
            server.sql(&format!("SET SESSION sql_log_bin = 0;\n{sql}")).await?;
        }
        Ok(())
    }

    /// Runs a command of the binary to its end, and returns what it printed. Any exit code but 0
    /// is an error.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.output(arguments, "").await?;
        ensure!(output.status.success(), "{}", told(arguments, &output));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs one that dies at this point; that it comes to any end is an error.
    pub async fn run_and_die(&self, arguments: &[&str], inject: &str) -> anyhow::Result<()> {
        let output = self.output(arguments, inject).await?;
        ensure!(output.status.code().is_none(), "{}", told(arguments, &output));
        Ok(())
    }

    async fn output(&self, arguments: &[&str], inject: &str) -> anyhow::Result<Output> {
        let output = Command::new(&self.setup.binary)
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .env("NO_COLOR", "1")
            .env("UNITFLOW_INJECT", inject)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(COMMAND * 3, output).await;
        Ok(output.with_context(|| format!("unitflow {} hangs", arguments.join(" ")))??)
    }

    /// From now on the unit that was late is in the configuration. Workers read it at their start.
    pub fn admit(&mut self) -> anyhow::Result<()> {
        self.setup.late = None;
        fs::write(self.config(), self.toml()?)?;
        Ok(())
    }

    fn named_units(&self) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter(|unit| self.setup.late.as_ref() != Some(&unit.name))
    }

    /// Starts a command of the binary. Its result is the child's output; what else it says is
    /// kept beside the workers' logs, as `command.log`.
    pub fn spawn(&self, arguments: &[&str]) -> anyhow::Result<tokio::process::Child> {
        let said = self.folder.path().join("command.log");
        let said = fs::OpenOptions::new().create(true).append(true).open(said)?;
        let child = Command::new(&self.setup.binary)
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(said)
            .kill_on_drop(true)
            .spawn();
        child.with_context(|| format!("unitflow {}", arguments.join(" ")))
    }

    /// From now on these lines say which tables travel and how. Workers read them at their start.
    pub fn change_flow(&mut self, lines: &str) -> anyhow::Result<()> {
        self.setup.flow_lines = lines.into();
        fs::write(self.config(), self.toml()?)?;
        Ok(())
    }

    /// From now on this stands behind all else in the configuration. Workers read it at their start.
    pub fn append(&mut self, lines: &str) -> anyhow::Result<()> {
        self.setup.more.push_str(lines);
        fs::write(self.config(), self.toml()?)?;
        Ok(())
    }

    /// From now on a unit's store is looked for at these ports, in this order. Workers read them at their start.
    pub fn change_endpoints(&mut self, unit: &str, ports: &[u16]) -> anyhow::Result<()> {
        self.endpoints.insert(unit.into(), ports.to_vec());
        fs::write(self.config(), self.toml()?)?;
        Ok(())
    }

    /// Gives a unit's store a second endpoint. Workers read it at their start.
    pub fn stand_by(&mut self, unit: &str, replica: Mysql) -> anyhow::Result<()> {
        let found = self.units.iter_mut().find(|found| found.name == unit);
        found.with_context(|| format!("there is no unit {unit}"))?.standby = Some(replica);
        fs::write(self.config(), self.toml()?)?;
        Ok(())
    }

    /// From now on servers are reached so; see [`MeshSetup::reached`]. Workers read it at their start.
    pub fn change_reached(&mut self, host: &str, tls: &str) -> anyhow::Result<()> {
        self.setup.reached = (host.into(), tls.into());
        fs::write(self.config(), self.toml()?)?;
        Ok(())
    }

    /// From now on the test means the unit's replica by its server. Gives the server it was before; the
    /// configuration stays.
    pub fn promote(&mut self, unit: &str) -> anyhow::Result<Mysql> {
        let found = self.units.iter_mut().find(|found| found.name == unit);
        let found = found.with_context(|| format!("there is no unit {unit}"))?;
        let replica = found.standby.take().context("there is no replica")?;
        Ok(std::mem::replace(&mut found.server, replica))
    }

    /// Takes a unit out of the mesh and its configuration. Gives it, with its server.
    pub fn remove_unit(&mut self, unit: &str) -> anyhow::Result<Unit> {
        let place = self.units.iter().position(|found| found.name == unit);
        let found = self.units.remove(place.with_context(|| format!("there is no unit {unit}"))?);
        fs::write(self.config(), self.toml()?)?;
        Ok(found)
    }

    /// Waits until `status` shows a fault of this code, and returns what it says.
    pub async fn wait_for_fault(&self, code: &str, patience: Duration) -> anyhow::Result<String> {
        let begin = Instant::now();
        let wanted = format!("\"code\": \"{code}\"");
        loop {
            let status = Command::new(&self.setup.binary)
                .arg("--config")
                .arg(self.config())
                .args(["status", "--json"])
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output();
            let status = timeout(COMMAND, status).await.context("unitflow status hangs")??;
            let text = String::from_utf8_lossy(&status.stdout).into_owned();
            if text.contains(&wanted) {
                return Ok(text);
            }
            ensure!(begin.elapsed() < patience, "no fault {code} after {patience:?}: {text}");
        }
    }

    /// Starts a worker for each role of each unit that has something to do.
    pub fn start_workers(&mut self) -> anyhow::Result<()> {
        self.start_workers_broken("")
    }

    /// The same with workers that break at these points.
    pub fn start_workers_broken(&mut self, inject: &str) -> anyhow::Result<()> {
        let ways = self.ways();
        let mut roles: Vec<(String, &str)> = Vec::new();
        for Unit { name, .. } in &self.units {
            if ways.iter().any(|(from, _)| from == name) {
                roles.extend([(name.clone(), "connector"), (name.clone(), "transformer")]);
            }
            if self.setup.hub.as_ref() == Some(name) {
                roles.push((name.clone(), "relay"));
            }
            if ways.iter().any(|(_, to)| to == name) {
                roles.push((name.clone(), "sink"));
            }
        }
        roles.into_iter().try_for_each(|(unit, role)| self.start_worker(&unit, role, inject))
    }

    /// Starts one more worker. [`Mesh::worker`] means the one that was started last.
    pub fn start_worker(&mut self, unit: &str, role: &str, inject: &str) -> anyhow::Result<()> {
        self.started += 1;
        let log = self.folder.path().join(format!("{:02}-{unit}-{role}.log", self.started));
        self.workers.push(Worker::start(Launch {
            binary: self.setup.binary.clone(),
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

    /// Takes a worker out of the mesh, for a zombie that has a life of its own.
    pub fn take_worker(&mut self, unit: &str, role: &str) -> anyhow::Result<Worker> {
        let place = self
            .workers
            .iter()
            .rposition(|worker| worker.launch().unit == unit && worker.launch().roles == role)
            .with_context(|| format!("there is no {role} of {unit}"))?;
        Ok(self.workers.remove(place))
    }

    /// Freezes a unit's sink between two transactions and takes it out of the mesh: it holds no
    /// lock that its successor would wait for, and the server keeps its connections.
    pub async fn freeze_sink(&mut self, unit: &str) -> anyhow::Result<Worker> {
        let mut sink = self.take_worker(unit, "sink")?;
        let deadline = Instant::now() + FREEZING;
        loop {
            sink.suspend().await?;
            // Each of its transactions begins with a row of the ledger.
            let free = "SELECT seq FROM unitflow.ledger FOR UPDATE NOWAIT";
            match self.server(unit).sql(free).await {
                Ok(_) => return Ok(sink),
                Err(error) => ensure!(Instant::now() < deadline, "always inside one: {error}"),
            }
            sink.resume()?;
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// All workers, also those that have ended.
    pub fn workers(&mut self) -> &mut [Worker] {
        &mut self.workers
    }

    /// Whether the workers that were started last in their roles all run.
    pub fn ensure_alive(&mut self) -> anyhow::Result<()> {
        let mut seen = Vec::new();
        for worker in self.workers.iter_mut().rev() {
            let name = worker.name();
            if seen.contains(&name) {
                continue;
            }
            if let Some(status) = worker.ended() {
                bail!("{name} has ended with {status}:\n{}", worker.log_end());
            }
            seen.push(name);
        }
        Ok(())
    }

    /// Waits until all have applied what all have committed by now, and no worker has ended.
    pub async fn quiesce(&mut self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        let ways = self.ways().into_iter().map(|(a, b)| (a.to_owned(), b.to_owned()));
        for (from, to) in ways.collect::<Vec<_>>() {
            let left = deadline.saturating_duration_since(Instant::now()).as_secs().max(1);
            let left = left.to_string();
            let arguments = ["wait", "--from", &from, "--to", &to, "--timeout-seconds", &left];
            let waited = self.run(&arguments).await;
            self.ensure_alive()?;
            waited.with_context(|| format!("waiting from {from} to {to}"))?;
        }
        Ok(())
    }

    /// The same where tables are parked at `to`: all else that `from` has committed is applied there.
    pub async fn quiesce_but_parked(
        &mut self,
        from: &str,
        to: &str,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let arguments = ["wait", "--from", from, "--to", to, "--timeout-seconds", "1"];
            let waited = self.run(&arguments).await;
            self.ensure_alive()?;
            match waited {
                Ok(_) => bail!("nothing is parked at {to}"),
                Err(error) if error.to_string().contains("the changes of parked tables") => {
                    return Ok(());
                }
                Err(error) => ensure!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    /// Whether all units hold the same rows, by the servers' own clients.
    pub async fn ensure_equal(&self) -> anyhow::Result<()> {
        for table in TABLES {
            let query = format!("SELECT * FROM {DATABASE}.{} ORDER BY {}", table.name, table.key);
            let mut first: Option<(&str, String)> = None;
            for unit in &self.units {
                let rows = unit.server.sql(&query).await?;
                match &first {
                    None => first = Some((&unit.name, rows)),
                    Some((_, other)) if xxh3_64(other.as_bytes()) == xxh3_64(rows.as_bytes()) => {}
                    Some((name, other)) => bail!(
                        "{} differs between {name} and {}:\n{}",
                        table.name,
                        unit.name,
                        difference(other, &rows)
                    ),
                }
            }
        }
        Ok(())
    }

    /// Whether no server's log grows any more: it stands still for three seconds, in the full run
    /// for ten. An echo would be back sooner.
    pub async fn ensure_still(&self) -> anyhow::Result<()> {
        self.ensure_still_for(if is_full() { STILL } else { STILL_BRIEFLY }).await
    }

    /// The last watermark may come behind the last change, so the time may begin a little later.
    async fn ensure_still_for(&self, time: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + time + SETTLING;
        let mut before = self.gtids().await?;
        let mut since = Instant::now();
        while since.elapsed() < time {
            sleep(Duration::from_millis(500)).await;
            let after = self.gtids().await?;
            if before == after {
                continue;
            }
            since = Instant::now();
            let moved = self.units.iter().zip(&before).zip(&after);
            let moved: Vec<_> = moved
                .filter(|((_, before), after)| before != after)
                .map(|((unit, before), after)| format!("{}: {before} became {after}", unit.name))
                .collect();
            ensure!(since + time < deadline, "logs grow at rest: {}", moved.join("; "));
            before = after;
        }
        Ok(())
    }

    /// Whether workers let go of the statements that they prepare: a server has a limit for all.
    async fn ensure_few_statements(&self) -> anyhow::Result<()> {
        for unit in &self.units {
            let status = "SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'";
            let line = unit.server.sql(status).await?;
            let count: u32 = line.split('\t').nth(1).context("a count")?.parse()?;
            ensure!(
                count < STATEMENTS_MOST,
                "{count} prepared statements are open at {}",
                unit.name
            );
        }
        Ok(())
    }

    async fn gtids(&self) -> anyhow::Result<Vec<String>> {
        let mut sets = Vec::new();
        for unit in &self.units {
            let variable = match unit.server.flavor() {
                Flavor::Mysql9 => "gtid_executed",
                Flavor::Mariadb => "gtid_binlog_pos",
            };
            sets.push(unit.server.sql(&format!("SELECT @@global.{variable}")).await?);
        }
        Ok(sets)
    }

    /// The verdict on all that was written.
    pub async fn judge(&self, written: &Written) -> anyhow::Result<Verdict> {
        let units: Vec<Judged<'_>> = self
            .units
            .iter()
            .map(|unit| Judged { unit: &unit.name, server: &unit.server, left: false })
            .collect();
        let ways = self.ways();
        judge_ways(&units, written, |from, to| ways.contains(&(from, to))).await
    }

    /// All that has to hold at rest: everything passed, equal rows, the judge, and quiet logs.
    pub async fn ensure_done(
        &mut self,
        written: &Written,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let begin = Instant::now();
        self.quiesce(patience).await?;
        let quiet = begin.elapsed();
        let ((), (), verdict) = tokio::try_join!(
            self.ensure_still_for(STILL),
            self.ensure_equal(),
            self.judge(written)
        )?;
        self.ensure_alive()?;
        self.ensure_few_statements().await?;
        println!(
            "  {} commits at {:.0}/s, quiet after {quiet:.1?}; {verdict}",
            written.commits,
            written.per_second()
        );
        Ok(())
    }

    /// How many transactions of `from`'s writers are visible in `at`: the sum of their pulses.
    pub async fn pulses(&self, from: &str, at: &str) -> anyhow::Result<u64> {
        let mut conn = connect(self.server(at)).await?;
        let query =
            format!("SELECT COALESCE(SUM(version), 0) FROM {DATABASE}.pulse WHERE unit = '{from}'");
        let sum: Option<u64> = timeout(COMMAND, conn.query_first(query)).await??;
        conn.disconnect().await?;
        sum.context("a sum")
    }

    /// Waits until `at` shows at least `pulses` of `from`'s; how long it took.
    pub async fn wait_for_pulses(
        &self,
        from: &str,
        at: &str,
        pulses: u64,
        patience: Duration,
    ) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        loop {
            let seen = self.pulses(from, at).await?;
            if seen >= pulses {
                return Ok(begin.elapsed());
            }
            ensure!(
                begin.elapsed() < patience,
                "{at} shows {seen} of {pulses} pulses of {from} after {patience:?}"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The test has passed: nothing of it is kept.
    pub fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        for worker in &mut self.workers {
            let state = worker.ended().map_or("running".to_owned(), |status| status.to_string());
            println!("---- {} ({state})\n{}", worker.name(), worker.log_end());
        }
        for unit in &self.units {
            println!("---- server of {}\n{}", unit.name, log_end(&unit.server.log()));
        }
        self.folder.disable_cleanup(true);
        println!("---- configuration and logs stay in {}", self.folder.path().display());
    }
}

/// A command and what came of it.
fn told(arguments: &[&str], output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    format!("unitflow {}: {}\n{stdout}{stderr}", arguments.join(" "), output.status)
}

/// One that no other mesh has: a broker that `UNITFLOW_KAFKA` names keeps the topics of all.
fn prefix() -> String {
    static MESHES: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mesh = MESHES.fetch_add(1, Ordering::Relaxed);
    format!("mesh-{}-{}-{mesh}", now.as_millis(), std::process::id())
}

/// Brings the servers that are missing on this machine.
pub async fn install() -> anyhow::Result<()> {
    let components = [Component::Mysql, Component::Mariadb, Component::Kafka];
    unitflow_local::ensure(&components, |line| println!("  {line}")).await?;
    Ok(())
}

/// The first lines that only one of two sorted tables has.
fn difference(one: &str, other: &str) -> String {
    const LINES: usize = 8;
    let only = |a: &str, b: &str| {
        let there: std::collections::HashSet<&str> = b.lines().collect();
        a.lines().filter(|line| !there.contains(line)).map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, second) = (only(one, other), only(other, one));
    let show = |lines: &[String]| {
        lines.iter().take(LINES).map(|line| format!("    {line:.300}\n")).collect::<String>()
    };
    format!(
        "  {} rows only in the first:\n{}  {} rows only in the second:\n{}",
        first.len(),
        show(&first),
        second.len(),
        show(&second)
    )
}
