//! What is done to a mesh at work: upgraded, a server replaced, a unit taken out.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use unitflow_change::tag::FORMAT;
use unitflow_harness::Flavor::{self, Mariadb, Mysql9};
use unitflow_harness::judge::{Judged, judge_ways};
use unitflow_harness::load::Running;
use unitflow_harness::random::{Random, seed};
use unitflow_harness::{Load, Mesh, Mysql, Written, beside};

use crate::{BINARY, LIMIT, QUIET, setup};

/// Transactions a second of each unit.
const RATE: u32 = 60;
/// A point at which a worker knows the format after this build's, and writes it.
const NEXT: &str = "next_format";
/// Numbers of the writers that go on after others.
const LATER: u32 = 20;

#[test]
fn a_rolling_upgrade() {
    beside("a rolling upgrade", LIMIT, async {
        let random = Random::new(seed("scenario"));
        let mut mesh = setup(&[Mysql9, Mariadb]).kafka_shared().start().await?;
        mesh.start_workers()?;
        let load = start_load(&mesh, 0, &random).await?;
        // In the wrong order: what is written is newer than what the reader knows.
        upgrade(&mut mesh, "A", "transformer").await?;
        let ended = mesh.worker("B", "sink")?.wait(QUIET).await?;
        ensure!(ended.code() == Some(3), "the older sink ended with {ended}");
        let status = mesh.wait_for_fault("record", QUIET).await?;
        let newer = format!("record format {} is newer than this build's {FORMAT}", FORMAT + 1);
        for text in [newer.as_str(), "sinks before transformers"] {
            ensure!(status.contains(text), "it does not say {text:?}: {status}");
        }
        upgrade(&mut mesh, "B", "sink").await?;
        catch_up(&mesh, "A", "B").await?;
        // In the right order; the newer read what the older write.
        for (unit, role) in
            [("A", "sink"), ("B", "transformer"), ("A", "connector"), ("B", "connector")]
        {
            upgrade(&mut mesh, unit, role).await?;
            catch_up(&mesh, "A", "B").await?;
            catch_up(&mesh, "B", "A").await?;
        }
        let written = stop_load(load).await?;
        mesh.ensure_done(&written, QUIET).await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn a_mysql_server_replaced_by_its_replica() {
    beside("a MySQL server replaced by its replica", LIMIT, replaced(Mysql9, Mariadb));
}

#[test]
fn a_mariadb_server_replaced_by_its_replica() {
    beside("a MariaDB server replaced by its replica", LIMIT, replaced(Mariadb, Mysql9));
}

/// Unit A's server gives way to its replica, as planned, while B goes on writing. Then it comes back
/// without what was written since, and nobody follows it.
async fn replaced(flavor: Flavor, other: Flavor) -> anyhow::Result<()> {
    let random = Random::new(seed("scenario"));
    let mut mesh = setup(&[flavor, other]).kafka_shared().start().await?;
    let replica = replica_of(mesh.server("A")).await?;
    mesh.stand_by("A", replica)?;
    mesh.start_workers()?;
    let load = Load::shop().rate(RATE);
    let first = load.start(mesh.server("A"), "A", 0, &random).await?;
    let beside = load.start(mesh.server("B"), "B", 0, &random).await?;
    mesh.wait_for_pulses("A", "B", 50, QUIET).await?;
    mesh.wait_for_pulses("B", "A", 50, QUIET).await?;
    let mut written = first.stop().await?;
    mesh.run(&["pause", "B-to-A.shop", "--drain", "--why", "a new server", "--by", "anna"]).await?;
    // From here on nothing is written there: each lane has taken up the order.
    let lanes = |log: String| log.matches("paused lane=").count();
    let deadline = Instant::now() + QUIET;
    while lanes(mesh.worker("A", "sink")?.log()?) < 4 {
        ensure!(Instant::now() < deadline, "the lanes do not pause");
        sleep(Duration::from_millis(20)).await;
    }
    let before = server_of(&mesh, "A").await?;
    let goal = executed(mesh.server("A")).await?;
    let old = mesh.promote("A")?;
    become_source(mesh.server("A"), &goal).await?;
    old.kill().await?;
    for (unit, role) in [("A", "connector"), ("A", "sink"), ("B", "sink")] {
        die_and_come_back(&mut mesh, unit, role)?;
    }
    mesh.run(&["resume", "B-to-A.shop", "--why", "a new server", "--by", "anna"]).await?;
    let second = load.start(mesh.server("A"), "A", LATER, &random).await?;
    mesh.wait_for_pulses("A", "B", mesh.pulses("A", "A").await? + 50, QUIET).await?;
    written.add(second.stop().await?);
    written.add(beside.stop().await?);
    mesh.ensure_done(&written, QUIET).await?;
    let after = server_of(&mesh, "A").await?;
    ensure!(before != after, "the connector did not say that {after} is another server");
    let log = mesh.worker("A", "connector")?.log()?;
    ensure!(log.contains("another server, which has all that was captured"), "{log}");
    old.start_again().await?;
    mesh.worker("A", "connector")?.kill()?;
    mesh.start_worker("A", "connector", "")?;
    let ended = mesh.worker("A", "connector")?.wait(QUIET).await?;
    let log = mesh.worker("A", "connector")?.log()?;
    ensure!(ended.code() == Some(3), "it ended with {ended}:\n{log}");
    for text in ["source_lost_tail", "it is another server", "not "] {
        ensure!(log.contains(text), "it does not say {text:?}:\n{log}");
    }
    mesh.finish();
    Ok(())
}

#[test]
fn a_unit_that_leaves() {
    beside("a unit that leaves", LIMIT, async {
        let random = Random::new(seed("scenario"));
        let mut mesh = setup(&[Mysql9, Mariadb, Mysql9]).kafka_shared().start().await?;
        mesh.start_workers()?;
        let load = Load::shop().rate(RATE);
        let leaving = load.start(mesh.server("C"), "C", 0, &random).await?;
        let others = [
            load.start(mesh.server("A"), "A", 0, &random).await?,
            load.start(mesh.server("B"), "B", 0, &random).await?,
        ];
        mesh.wait_for_pulses("C", "A", 50, QUIET).await?;
        mesh.wait_for_pulses("A", "C", 50, QUIET).await?;
        let mut written = leaving.stop().await?;
        // While it is at work it can't leave; its sink stops last, and what that applies is no obstacle.
        refused(&leave(&mesh, "", "").await?, "the connector of C.shop is at work in unit C")?;
        mesh.worker("C", "connector")?.stop(QUIET).await?;
        let late = load.transactions(20).start(mesh.server("C"), "C", LATER, &random).await?;
        written.add(late.finish(QUIET).await?);
        mesh.worker("C", "transformer")?.stop(QUIET).await?;
        mesh.worker("C", "sink")?.stop(QUIET).await?;
        refused(&leave(&mesh, "", "").await?, "a sink of unit A reads C.shop: take C out")?;
        let with = fs::read_to_string(mesh.config())?;
        let gone = mesh.remove_unit("C")?;
        let without = fs::read_to_string(mesh.config())?;
        fs::write(with_c(&mesh), &with)?;
        start_sinks_again(&mut mesh).await?;
        // Something of it was written after its connector had stopped.
        refused(&leave(&mesh, "", "").await?, "of C.shop is not captured")?;
        fs::write(mesh.config(), &with)?;
        mesh.start_worker("C", "connector", "")?;
        mesh.start_worker("C", "transformer", "")?;
        start_sinks_again(&mut mesh).await?;
        for (unit, role) in [("A", "sink"), ("B", "sink"), ("C", "transformer"), ("A", "connector")]
        {
            die_and_come_back(&mut mesh, unit, role)?;
        }
        for to in ["A", "B"] {
            mesh.run(&["wait", "--from", "C", "--to", to]).await?;
        }
        mesh.worker("C", "connector")?.stop(QUIET).await?;
        mesh.worker("C", "transformer")?.stop(QUIET).await?;
        fs::write(mesh.config(), &without)?;
        start_sinks_again(&mut mesh).await?;
        // Now it can: in words, killed in the middle, and again.
        let (code, text) = leave(&mesh, "--dry-run --topics", "").await?;
        ensure!(code == Some(0) && text.contains("would go  A.shop: 4 lanes of C.shop"), "{text}");
        ensure!(text.contains(".C.shop.tagged"), "{text}");
        ensure_traces(&mesh, (8, 4, 6)).await?;
        let (code, text) = leave(&mesh, "--topics", "die_leaving").await?;
        ensure!(code.is_none(), "it was not killed: {text}");
        ensure_traces(&mesh, (4, 4, 6)).await?;
        let (code, text) = leave(&mesh, "--topics", "").await?;
        ensure!(code == Some(0) && text.contains("unit C has left"), "{text}");
        ensure_traces(&mesh, (0, 0, 0)).await?;
        let (code, text) = leave(&mesh, "--topics", "").await?;
        ensure!(code == Some(0) && text.contains("nothing is left of unit C"), "{text}");
        for running in others {
            written.add(running.stop().await?);
        }
        for role in ["connector", "transformer", "sink"] {
            while mesh.take_worker("C", role).is_ok() {}
        }
        mesh.quiesce(QUIET).await?;
        mesh.ensure_equal().await?;
        mesh.ensure_still().await?;
        let units = mesh.units().iter().chain([&gone]).map(|unit| Judged {
            unit: &unit.name,
            server: &unit.server,
            left: unit.name == "C",
        });
        let verdict = judge_ways(&units.collect::<Vec<_>>(), &written, |_, _| true).await?;
        println!("  {verdict}");
        mesh.finish();
        Ok(())
    });
}

/// The configuration with the unit that leaves.
fn with_c(mesh: &Mesh) -> PathBuf {
    mesh.folder().join("with-c.toml")
}

/// Runs `unitflow leave --unit C`; its exit code, and what it says.
async fn leave(mesh: &Mesh, more: &str, inject: &str) -> anyhow::Result<(Option<i32>, String)> {
    let config = Some(with_c(mesh)).filter(|path| path.exists()).unwrap_or(mesh.config());
    let mut command = Command::new(BINARY);
    command.arg("--config").arg(config).args(["leave", "--unit", "C"]);
    command.args(more.split_whitespace()).env("UNITFLOW_INJECT", inject).kill_on_drop(true);
    let output = timeout(QUIET, command.output()).await.context("unitflow leave hangs")??;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok((output.status.code(), text))
}

fn refused((code, text): &(Option<i32>, String), because: &str) -> anyhow::Result<()> {
    ensure!(*code == Some(1), "exit code {code:?}: {text}");
    ensure!(text.contains(because) && text.contains("nothing was changed"), "{text}");
    Ok(())
}

/// By `kill -9`, while there is something to do.
fn die_and_come_back(mesh: &mut Mesh, unit: &str, role: &str) -> anyhow::Result<()> {
    mesh.worker(unit, role)?.kill()?;
    mesh.start_worker(unit, role, "")
}

/// With the configuration as it is now.
async fn start_sinks_again(mesh: &mut Mesh) -> anyhow::Result<()> {
    for unit in ["A", "B"] {
        mesh.worker(unit, "sink")?.stop(QUIET).await?;
        mesh.start_worker(unit, "sink", "")?;
    }
    Ok(())
}

/// What the mesh holds of C: so many rows in the others' ledgers, groups, topics.
async fn ensure_traces(mesh: &Mesh, wanted: (usize, usize, usize)) -> anyhow::Result<()> {
    let mut rows = 0;
    for unit in ["A", "B"] {
        let query = "SELECT lane FROM unitflow.ledger WHERE log = 'C.shop'";
        rows += mesh.server(unit).sql(query).await?.lines().count();
    }
    let bootstrap = mesh.kafka("A").bootstrap();
    // The client's own lists, at once: Kafka's tools need seconds to start, while the others write on.
    let lists = spawn_blocking(move || -> anyhow::Result<(Vec<String>, Vec<String>)> {
        let client: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &bootstrap).create()?;
        let groups = client.fetch_group_list(None, QUIET)?;
        let topics = client.fetch_metadata(None, QUIET)?;
        let groups = groups.groups().iter().map(|group| group.name().to_owned());
        let topics = topics.topics().iter().map(|topic| topic.name().to_owned());
        Ok((groups.collect(), topics.collect()))
    });
    let (groups, topics) = lists.await??;
    // The broker may serve other meshes too.
    let groups = groups.iter().filter(|name| name.starts_with(&mesh.topic("")));
    let groups = groups.filter(|name| name.contains("-to-C.") || name.contains(".C-to-"));
    let topics = topics.iter().filter(|name| name.starts_with(&mesh.topic("C.")));
    let found = (rows, groups.count(), topics.count());
    ensure!(found == wanted, "of C there are {found:?} rows, groups and topics, not {wanted:?}");
    Ok(())
}

async fn start_load(mesh: &Mesh, first: u32, random: &Random) -> anyhow::Result<Vec<Running>> {
    let mut load = Vec::new();
    for unit in mesh.units() {
        let shop = Load::shop().rate(RATE);
        load.push(shop.start(&unit.server, &unit.name, first, random).await?);
    }
    Ok(load)
}

async fn stop_load(load: Vec<Running>) -> anyhow::Result<Written> {
    let mut written = Written::default();
    for running in load {
        written.add(running.stop().await?);
    }
    Ok(written)
}

/// Replaces a worker by one of the next build. Those of A are killed.
async fn upgrade(mesh: &mut Mesh, unit: &str, role: &str) -> anyhow::Result<()> {
    let worker = mesh.worker(unit, role)?;
    match unit {
        "A" => worker.kill()?,
        _ => drop(worker.stop(QUIET).await?),
    }
    mesh.start_worker(unit, role, NEXT)
}

/// Waits until what is written by now has arrived.
async fn catch_up(mesh: &Mesh, from: &str, to: &str) -> anyhow::Result<Duration> {
    let goal = mesh.pulses(from, from).await? + 1;
    mesh.wait_for_pulses(from, to, goal, QUIET).await
}

/// The server that a unit's store was captured from last.
async fn server_of(mesh: &Mesh, unit: &str) -> anyhow::Result<String> {
    let text = mesh.run(&["status", "--json"]).await;
    // A paused flow is a finding.
    let text = text.unwrap_or_else(|error| format!("{error:#}"));
    let start = text.find('{').context("a status")?;
    let status: serde_json::Value = serde_json::Deserializer::from_str(&text[start..])
        .into_iter()
        .next()
        .context("a status")??;
    let log = format!("{unit}.shop");
    let logs = status["logs"].as_array().context("logs")?;
    let found = logs.iter().find(|found| found["log"] == log.as_str());
    Ok(found.and_then(|found| found["server"].as_str()).context("a server")?.to_owned())
}

/// A new server that replicates another by its own means, from the beginning of its log.
async fn replica_of(source: &Mysql) -> anyhow::Result<Mysql> {
    let replica = Mysql::setup(source.flavor()).start().await?;
    let port = source.port();
    let statements = match source.flavor() {
        Mysql9 => format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'root', \
             SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1; START REPLICA"
        ),
        Mariadb => format!(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'root', \
             MASTER_USE_GTID = slave_pos; START SLAVE"
        ),
    };
    replica.sql(&statements).await?;
    Ok(replica)
}

async fn executed(server: &Mysql) -> anyhow::Result<String> {
    let query = match server.flavor() {
        Mysql9 => "SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')",
        Mariadb => "SELECT @@GLOBAL.gtid_binlog_pos",
    };
    Ok(server.sql(query).await?)
}

/// Waits until a replica has all of this, and makes it a server of its own.
async fn become_source(replica: &Mysql, goal: &str) -> anyhow::Result<()> {
    let (wait, stop) = match replica.flavor() {
        Mysql9 => (
            format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{goal}', 30)"),
            "STOP REPLICA; RESET REPLICA ALL",
        ),
        Mariadb => {
            (format!("SELECT MASTER_GTID_WAIT('{goal}', 30)"), "STOP SLAVE; RESET SLAVE ALL")
        }
    };
    let waited = replica.sql(&wait).await?;
    ensure!(waited == "0", "the replica does not catch up: {waited}");
    replica.sql(stop).await?;
    Ok(())
}
