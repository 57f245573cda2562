//! Two units on real servers, and what can be done to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::future::{join_all, try_join_all};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use unitflow_harness::worker::{Launch, Worker};
use unitflow_harness::{Flavor, Kafka, Mysql};
use unitflow_kafka::Broker;
use unitflow_kafka::reader::{Item, Reader};
use unitflow_kafka::topics::{self, Retention, Spec};
use unitflow_local::{MysqlSetup, TempDir, new_folder};

use crate::cases::{Case, Do, Leaves};
use crate::traces::{self, Traces};

const BINARY: &str = env!("CARGO_BIN_EXE_unitflow");
/// No command takes longer.
const COMMAND: Duration = Duration::from_secs(40);
/// A fault shows in `status` within this.
const SHOWS_WITHIN: Duration = Duration::from_secs(25);
/// How often units are compared that come to be equal.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What the unit's user logs in with.
const PASSWORD: &str = "not a secret";

/// The configuration; a case changes a copy.
const CONFIG: &str = r#"prefix = "{prefix}"
outage_longest_hours = 1

[units.A]
kafka = { bootstrap = "{K}", replication = 1 }
[units.A.stores.shop]
kind = "mysql"
endpoints = ["127.0.0.1:{A}"]
user = "unitflow"
password = { file = "{folder}/password" }
tls = "off"

[units.B]
kafka = { bootstrap = "{K}", replication = 1 }
[units.B.stores.shop]
kind = "mysql"
endpoints = ["127.0.0.1:{B}"]
user = "unitflow"
password = { file = "{folder}/password" }
tls = "off"

[flows.shop]
lanes = 4
tables = ["shop.*"]
heartbeat = false
"#;

/// Servers, broker, and the workers in the background.
pub struct World {
    // In the order in which they have to go.
    workers: BTreeMap<String, Worker>,
    servers: BTreeMap<&'static str, Mysql>,
    traces: Traces,
    kafka: Kafka,
    folder: TempDir,
    meshes: u32,
    started: u32,
    configs: AtomicU32,
    captured: String,
    seq: String,
    record: String,
    finished: bool,
}

/// What a command did.
#[derive(Clone, Debug)]
struct Outcome {
    exit: Option<i32>,
    text: String,
}

impl World {
    /// Starts these units' servers with an empty shop and the user that `init --print` describes.
    pub async fn start(units: &[&'static str]) -> anyhow::Result<Self> {
        // A broker that creates topics by itself, as brokers do that nobody told otherwise.
        let kafka = Kafka::setup().own().setting("auto.create.topics.enable", "true");
        let servers = units.iter().map(|unit| server_of(unit).start());
        let (servers, kafka) = tokio::try_join!(try_join_all(servers), kafka.start())?;
        let world = Self {
            workers: BTreeMap::new(),
            servers: units.iter().copied().zip(servers).collect(),
            traces: Traces::open(&kafka)?,
            kafka,
            folder: new_folder("operate")?,
            meshes: 1,
            started: 0,
            configs: AtomicU32::new(0),
            captured: String::new(),
            seq: String::new(),
            record: String::new(),
            finished: false,
        };
        for (name, text, mode) in [
            ("password", PASSWORD, 0o600),
            ("password.open", PASSWORD, 0o644),
            ("password.wrong", "something else", 0o600),
        ] {
            let path = world.folder.path().join(name);
            fs::write(&path, format!("{text}\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        let grants = world.printed_sql("A").await?;
        let grants: Vec<&str> = grants
            .lines()
            // Also what lets `init` create the schema itself.
            .map(|line| {
                line.strip_prefix("# ").filter(|line| line.starts_with("GRANT")).unwrap_or(line)
            })
            .filter(|line| line.starts_with("GRANT") || line.starts_with("CREATE USER"))
            .collect();
        for server in world.servers.values() {
            server
                .sql(&format!(
                    "SET SESSION sql_log_bin = 0; CREATE DATABASE shop; CREATE DATABASE test_ledger;
                     CREATE TABLE shop.orders (id BIGINT AUTO_INCREMENT PRIMARY KEY, note VARCHAR(40));
                     CREATE USER guest@'%' IDENTIFIED BY '{PASSWORD}'; {}",
                    grants.join("\n")
                ))
                .await?;
        }
        Ok(world)
    }

    /// The SQL of `init --print` for a unit, as an administrator would run it.
    async fn printed_sql(&self, unit: &str) -> anyhow::Result<String> {
        let config = self.write_config("print", &[])?;
        let printed = self.command(&config, &format!("init --print --unit {unit}")).await?;
        ensure!(printed.exit == Some(0), "{printed:?}");
        let sql = printed.text.split("# ---- Kafka").next().unwrap_or_default();
        Ok(sql.replace("<password>", PASSWORD))
    }

    /// Runs cases that change nothing, side by side.
    pub async fn run_together(&self, cases: &[Case]) -> anyhow::Result<()> {
        let begun = Instant::now();
        let before = self.traces().await?;
        let outcomes = cases.iter().map(|case| async move {
            let config = self.write_config(case.name, case.breaking)?;
            let outcome = self.command(&config, &self.fill(case.command)).await?;
            self.judge(case, &outcome)
        });
        let outcomes = join_all(outcomes).await;
        let failed: Vec<String> = outcomes
            .into_iter()
            .filter_map(Result::err)
            .map(|error| format!("{error:#}"))
            .collect();
        ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
        self.ensure_nothing_left(&before).await?;
        println!("  {} cases before init: {:.1?}", cases.len(), begun.elapsed());
        Ok(())
    }

    /// Stops a server that no case needs any more.
    pub fn forget(&mut self, unit: &str) {
        self.servers.remove(unit);
    }

    /// Runs each case on what the one before it left; nothing of this world is kept then.
    pub async fn run_in_order(mut self, cases: &[Case]) -> anyhow::Result<()> {
        for case in cases {
            let begun = Instant::now();
            self.run(case).await.with_context(|| format!("the case {:?}", case.name))?;
            println!("  {}: {:.1?}", case.name, begun.elapsed());
        }
        self.finished = true;
        Ok(())
    }

    /// Breaks, commands, judges, mends.
    async fn run(&mut self, case: &Case) -> anyhow::Result<()> {
        let config = self.break_it(case).await?;
        let before = self.traces().await?;
        let command = self.fill(case.command);
        let deadline = Instant::now() + SHOWS_WITHIN;
        loop {
            let outcome = self.command(&config, &command).await?;
            let verdict = self.judge(case, &outcome);
            // What workers meet shows a little later.
            if verdict.is_ok() || !command.starts_with("status") || Instant::now() > deadline {
                verdict?;
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        if case.leaves == Leaves::Nothing {
            self.ensure_nothing_left(&before).await?;
        }
        for mending in case.mending {
            self.act(mending, &config).await.with_context(|| format!("{mending:?}"))?;
        }
        Ok(())
    }

    async fn break_it(&mut self, case: &Case) -> anyhow::Result<PathBuf> {
        let mut config = self.write_config(case.name, case.breaking)?;
        for breaking in case.breaking {
            self.act(breaking, &config).await.with_context(|| format!("{breaking:?}"))?;
            if matches!(breaking, Do::NewMesh) {
                config = self.write_config(case.name, case.breaking)?;
            }
        }
        Ok(config)
    }

    async fn act(&mut self, what: &Do, config: &Path) -> anyhow::Result<()> {
        match *what {
            Do::Config(..) => {}
            Do::Sql(unit, statements) => drop(self.server(unit).sql(&self.fill(statements)).await?),
            Do::Unlogged(unit, statements) => self.unlogged(unit, statements).await?,
            Do::Holds(unit, query, expected) => {
                let found = self.server(unit).sql(query).await?;
                ensure!(found == expected, "{unit} holds {found:?}, expected {expected:?}");
            }
            Do::KeepPosition(unit) => {
                let log = self.log(config, unit).await?;
                self.captured = log["position"].as_str().context("a position")?.to_owned();
                self.seq = log["captured_seq"].to_string();
            }
            Do::NewMesh => self.new_mesh().await?,
            Do::Purge(unit) => self.purge(unit).await?,
            Do::Start(unit) => self.start_worker(unit, config)?,
            Do::Stop(unit) => {
                let mut worker = self.workers.remove(unit).context("it does not run")?;
                worker.stop(COMMAND).await?;
            }
            Do::Kill(unit) => self.workers.remove(unit).context("it does not run")?.kill()?,
            Do::Freeze(unit) => {
                self.workers.get_mut(unit).context("it does not run")?.suspend().await?
            }
            Do::Thaw(unit) => self.workers.get_mut(unit).context("it does not run")?.resume()?,
            Do::Arrives(from, to) => {
                let command = format!("wait --from {from} --to {to} --timeout-seconds 25");
                let outcome = self.command(config, &command).await?;
                ensure!(outcome.exit == Some(0), "{}", outcome.text);
            }
            Do::Behind(from, to) => self.wait_until_tagged(config, from, to).await?,
            Do::Equal => self.come_to_be_equal().await?,
            Do::ResetOffsets(to) => self.reset_offsets(to).await?,
            Do::Produce(topic, key, value) => self.produce(topic, key, value).await?,
            Do::Topic(topic, text, times) => self.ensure_in_topic(topic, text, times).await?,
            Do::KeepRecord => self.record = self.blamed_record(config).await?,
            Do::Recreate(topic) => self.recreate(&self.fill(topic)).await?,
            Do::Trim(topic) => self.trim(&self.fill(topic)).await?,
            Do::Measures(unit, text) => self.ensure_measured(unit, text).await?,
        }
        Ok(())
    }

    /// Where another table is parked, no command waits for the rest.
    async fn come_to_be_equal(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + SHOWS_WITHIN;
        loop {
            match self.ensure_equal().await {
                Err(_) if Instant::now() < deadline => sleep(LOOK_EVERY).await,
                outcome => return outcome,
            }
        }
    }

    async fn wait_until_tagged(&self, config: &Path, from: &str, to: &str) -> anyhow::Result<()> {
        let command = format!("wait --from {from} --to {to} --timeout-seconds 1");
        let deadline = Instant::now() + SHOWS_WITHIN;
        loop {
            let outcome = self.command(config, &command).await?;
            if outcome.text.contains("the sink is behind") {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{}", outcome.text);
        }
    }

    fn server(&self, unit: &str) -> &Mysql {
        &self.servers[unit]
    }

    async fn unlogged(&self, unit: &str, statements: &str) -> anyhow::Result<()> {
        let statements = self.fill(statements);
        self.server(unit).sql(&format!("SET SESSION sql_log_bin = 0; {statements}")).await?;
        Ok(())
    }

    /// Until only the log's last file is left: MariaDB keeps one for a moment after it was closed.
    async fn purge(&self, unit: &str) -> anyhow::Result<()> {
        let server = self.server(unit);
        server.sql("FLUSH BINARY LOGS").await?;
        let deadline = Instant::now() + SHOWS_WITHIN;
        while server.binlog_files()?.len() > 1 {
            ensure!(Instant::now() < deadline, "{unit} keeps its log");
            server.sql("PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY").await?;
        }
        Ok(())
    }

    /// What `status` knows of a unit's log.
    async fn log(&self, config: &Path, unit: &str) -> anyhow::Result<serde_json::Value> {
        let outcome = self.command(config, "status --json").await?;
        let status: serde_json::Value = serde_json::from_str(&outcome.text)?;
        let log = format!("{unit}.shop");
        let logs = status["logs"].as_array().context("logs")?;
        Ok(logs.iter().find(|found| found["log"] == log.as_str()).context("the log")?.clone())
    }

    /// The number of the record that `status` names where a table is parked.
    async fn blamed_record(&self, config: &Path) -> anyhow::Result<String> {
        let outcome = self.command(config, "status").await?;
        let parked = outcome.text.split("PARKED").nth(1).context("a parked table")?;
        let number = parked.split("record ").nth(1).context("a record")?;
        Ok(number.chars().take_while(char::is_ascii_digit).collect())
    }

    /// As anybody may who has Kafka's own tools; `NULL` is a tombstone.
    async fn produce(&self, topic: &str, key: &str, value: &str) -> anyhow::Result<()> {
        let arguments = [
            "--topic",
            &self.fill(topic),
            "--property",
            "parse.key=true",
            "--property",
            "null.marker=NULL",
        ];
        let record = format!("{key}\t{value}\n");
        self.kafka.run_tool_with("kafka-console-producer", arguments, &record).await?;
        Ok(())
    }

    /// Waits until a text stands in a topic this many times.
    async fn ensure_in_topic(&self, topic: &str, text: &str, times: usize) -> anyhow::Result<()> {
        let (topic, text) = (self.fill(topic), self.fill(text));
        let broker = Broker::new(self.kafka.bootstrap());
        let deadline = Instant::now() + SHOWS_WITHIN;
        loop {
            let all = values_of(&broker, &topic).await?;
            let found = all.iter().filter(|value| value.contains(&text)).count();
            if found == times {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{topic} has {text} {found} times: {all:#?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Other topics, and a ledger that an administrator has made from what `init --print` shows.
    async fn new_mesh(&mut self) -> anyhow::Result<()> {
        self.workers.clear();
        self.meshes += 1;
        for unit in ["A", "B"] {
            self.unlogged(unit, "DROP DATABASE IF EXISTS unitflow; DELETE FROM shop.orders")
                .await?;
            let rows: Vec<String> = (1..=8).map(|id| format!("({id}, 'row {id}')")).collect();
            let insert = format!("INSERT INTO shop.orders (id, note) VALUES {}", rows.join(", "));
            self.unlogged(unit, &insert).await?;
            let sql = self.printed_sql(unit).await?;
            self.server(unit).sql(&sql).await?;
        }
        let config = self.write_config("new mesh", &[])?;
        let outcome = self.command(&config, "init").await?;
        ensure!(outcome.exit == Some(0), "init: {}", outcome.text);
        Ok(())
    }

    fn start_worker(&mut self, unit: &str, config: &Path) -> anyhow::Result<()> {
        self.started += 1;
        let worker = Worker::start(Launch {
            binary: BINARY.into(),
            config: config.into(),
            unit: unit.into(),
            roles: "connector,transformer,relay,sink".into(),
            inject: String::new(),
            log: self.folder.path().join(format!("{:02}-{unit}.log", self.started)),
        })?;
        ensure!(self.workers.insert(unit.into(), worker).is_none(), "{unit} runs already");
        Ok(())
    }

    async fn ensure_equal(&self) -> anyhow::Result<()> {
        const ROWS: &str = "SELECT * FROM shop.orders ORDER BY id";
        let (a, b) = (self.server("A").sql(ROWS).await?, self.server("B").sql(ROWS).await?);
        ensure!(a == b, "the units differ:\nA\n{a}\nB\n{b}");
        Ok(())
    }

    async fn reset_offsets(&self, to: &str) -> anyhow::Result<()> {
        let (group, topic) =
            (self.fill("{prefix}.A-to-B.shop"), self.fill("{prefix}.A.shop.tagged"));
        let arguments = ["--group", &group, "--topic", &topic, "--reset-offsets", to, "--execute"];
        self.kafka.run_tool("kafka-consumer-groups", arguments).await?;
        Ok(())
    }

    async fn recreate(&self, topic: &str) -> anyhow::Result<()> {
        let broker = Broker::new(self.kafka.bootstrap());
        topics::delete(&broker, &[topic]).await?;
        let spec = Spec {
            name: topic.to_owned(),
            partitions: 4,
            retention: Retention::ForAtLeast(Duration::from_secs(3600)),
            max_message_bytes: 16 << 20,
            replication: 1,
            min_insync: 1,
            settings: Vec::new(),
        };
        topics::create_missing(&broker, &[spec]).await?;
        Ok(())
    }

    async fn trim(&self, topic: &str) -> anyhow::Result<()> {
        let all: Vec<String> = (0..4)
            .map(|lane| format!(r#"{{"topic":"{topic}","partition":{lane},"offset":-1}}"#))
            .collect();
        let file = self.folder.path().join("trim.json");
        fs::write(&file, format!(r#"{{"partitions":[{}],"version":1}}"#, all.join(",")))?;
        let file = file.display().to_string();
        self.kafka.run_tool("kafka-delete-records", ["--offset-json-file", &file]).await?;
        Ok(())
    }

    /// Waits until a worker shows this among its metrics, at the address that it says.
    async fn ensure_measured(&self, unit: &str, text: &str) -> anyhow::Result<()> {
        let log = self.workers.get(unit).context("it does not run")?.log()?;
        let (_, rest) = log.split_once("http://").context("no address of metrics")?;
        let address = rest.split('/').next().context("an address")?;
        let deadline = Instant::now() + SHOWS_WITHIN;
        loop {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
            let mut shown = String::new();
            stream.read_to_string(&mut shown).await?;
            if shown.contains(text) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{unit} does not measure {text:?}:\n{shown}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Puts ports, paths and names into a text.
    fn fill(&self, text: &str) -> String {
        let port = |unit| self.servers.get(unit).map_or(0, Mysql::port).to_string();
        text.replace("{A}", &port("A"))
            .replace("{B}", &port("B"))
            .replace("{C}", &port("C"))
            .replace("{K}", &self.kafka.bootstrap())
            .replace("{folder}", &self.folder.path().display().to_string())
            .replace("{prefix}", &format!("mesh{}", self.meshes))
            .replace("{captured}", &self.captured)
            .replace("{seq}", &self.seq)
            .replace("{record}", &self.record)
    }

    /// The configuration as this case has it, in a file of its own.
    fn write_config(&self, name: &str, changes: &[Do]) -> anyhow::Result<PathBuf> {
        let mut text = CONFIG.to_owned();
        for change in changes {
            if let Do::Config(from, to) = change {
                ensure!(text.contains(from), "{name}: the configuration has no {from:?}");
                text = text.replace(from, to);
            }
        }
        let number = self.configs.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("{number:03}.toml"));
        fs::write(&path, self.fill(&text))?;
        Ok(path)
    }

    /// Words of the form `NAME=value` are for the environment.
    async fn command(&self, config: &Path, words: &str) -> anyhow::Result<Outcome> {
        let mut command = Command::new(BINARY);
        if !words.contains("--config") {
            command.arg("--config").arg(config);
        }
        let (variables, arguments): (Vec<&str>, Vec<&str>) =
            words.split_whitespace().partition(|word| word.starts_with("UNITFLOW_"));
        let output = command
            .args(arguments)
            .envs(variables.iter().filter_map(|variable| variable.split_once('=')))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(COMMAND, output).await;
        let output = output.with_context(|| format!("unitflow {words} does not end"))??;
        let text = [output.stdout, output.stderr].concat();
        Ok(Outcome {
            exit: output.status.code(),
            text: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    fn judge(&self, case: &Case, outcome: &Outcome) -> anyhow::Result<()> {
        let mut wrong = Vec::new();
        if outcome.exit != Some(case.exit) {
            wrong.push(format!("exit code {:?}, expected {}", outcome.exit, case.exit));
        }
        for says in case.says {
            let (text, wanted) = match says.strip_prefix('!') {
                Some(text) => (self.fill(text), false),
                None => (self.fill(says), true),
            };
            if outcome.text.contains(&text) != wanted {
                wrong.push(format!("{} {text:?}", if wanted { "it lacks" } else { "it has" }));
            }
        }
        if let Some(line) = without_remedy(&outcome.text) {
            wrong.push(format!("nothing says how to mend {line:?}"));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        bail!("{:?}, unitflow {}: {}\n{}", case.name, case.command, wrong.join("; "), outcome.text)
    }

    async fn traces(&self) -> anyhow::Result<BTreeSet<String>> {
        let servers = self.servers.values().collect::<Vec<_>>();
        self.traces.of(&servers, self.workers.is_empty()).await
    }

    async fn ensure_nothing_left(&self, before: &BTreeSet<String>) -> anyhow::Result<()> {
        let after = self.traces().await?;
        let differs: Vec<_> = before.symmetric_difference(&after).collect();
        ensure!(differs.is_empty(), "these came or went: {differs:#?}");
        if self.workers.is_empty() {
            traces::ensure_no_connections(&self.servers.values().collect::<Vec<_>>()).await?;
        }
        Ok(())
    }
}

/// The first fault or finding of a command without a word that mends it in its block.
fn without_remedy(text: &str) -> Option<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let begins = |line: &str| {
        let heads = ["unitflow: [", "error [", "FAILED [", "failing ["];
        heads.iter().any(|head| line.starts_with(head))
    };
    let says = |line: &&&str| {
        let words = line.trim_start();
        ["to mend it: ", "remedy: "]
            .iter()
            .any(|head| words.strip_prefix(head).is_some_and(|remedy| !remedy.trim().is_empty()))
    };
    let faults = lines.iter().enumerate().filter(|(_, line)| begins(line));
    let mut bare = faults.filter(|(place, _)| {
        let mut block = lines[place + 1..].iter().take_while(|line| !begins(line));
        block.find(says).is_none()
    });
    bare.next().map(|(_, line)| *line)
}

/// A's server and B's as they should be, and one that no unit can use.
fn server_of(unit: &str) -> MysqlSetup {
    let sound = |flavor, offset| {
        let setup = Mysql::setup(flavor).auto_increment(2, offset);
        setup.setting("binlog_expire_logs_seconds", 7200).durable(true)
    };
    match unit {
        "A" => sound(Flavor::Mysql9, 1),
        "B" => sound(Flavor::Mariadb, 2),
        _ => Mysql::setup(Flavor::Mysql9)
            .setting("gtid_mode", "OFF")
            .setting("enforce_gtid_consistency", "OFF")
            .setting("binlog_ignore_db", "unitflow"),
    }
}

/// The values of a topic's only partition.
async fn values_of(broker: &Broker, topic: &str) -> anyhow::Result<Vec<String>> {
    let (low, high) = topics::bounds(broker, topic, 0).await?;
    let mut values = Vec::new();
    if low == high {
        return Ok(values);
    }
    let reader = Reader::open(broker, topic, &[(0, low)], 1 << 20).await?;
    loop {
        match reader.next().await? {
            Item::End { .. } => return Ok(values),
            Item::Record(record) => {
                let value = record.value().unwrap_or_default();
                values.push(String::from_utf8_lossy(value).into_owned());
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        for worker in self.workers.values_mut() {
            println!("---- {}\n{}", worker.name(), worker.log_end());
        }
        self.folder.disable_cleanup(true);
        println!("---- configurations and logs stay in {}", self.folder.path().display());
    }
}
