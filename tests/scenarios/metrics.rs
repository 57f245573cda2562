//! What workers tell Prometheus and commands tell programs, after a run of which it is known what it did.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::{Duration, Instant, sleep, timeout};
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::metrics::Metrics;
use unitflow_harness::random::{Random, seed};
use unitflow_harness::{Load, Mesh, Written, beside};

use crate::{LIMIT, QUIET, setup, write_everywhere};

/// The largest batch that a sink commits at once, in rows (the last transaction may go over it).
const BATCH_ROWS_MOST: f64 = 1_100.0;
/// Nothing took longer to arrive, in seconds.
const LAG_MOST: f64 = 60.0;
/// How long a clock does not arrive.
const PAUSED: Duration = Duration::from_secs(4);

#[test]
fn metrics_say_what_was_done() {
    beside("metrics", LIMIT, async {
        let random = Random::new(seed("metrics"));
        let mut mesh = setup(&[Mysql9, Mariadb]).kafka_shared().start().await?;
        mesh.start_workers()?;
        let load = Load::shop().transactions(400);
        let mut written = write_everywhere(&mesh, &load, 0, &random).await?;
        mesh.quiesce(QUIET).await?;
        cut_connections(&mesh, "B").await?;
        written.add(write_everywhere(&mesh, &load, 10, &random).await?);
        mesh.ensure_done(&written, QUIET).await?;
        for (from, to) in [("A", "B"), ("B", "A")] {
            ensure_way(&mut mesh, from, to, &written).await?;
        }
        ensure_faults(&mut mesh).await?;
        ensure_commits_can_be_waited_for(&mesh).await?;
        ensure_programs_can_read(&mesh).await?;
        mesh.finish();
        Ok(())
    });
}

/// Nobody writes but the units' clocks, and where they have not arrived it shows for how long.
#[test]
fn the_clock_of_each_unit_arrives() {
    beside("clocks", LIMIT, async {
        let mut mesh = setup(&[Mysql9, Mariadb]).kafka_shared().heartbeat().start().await?;
        mesh.start_workers()?;
        for (from, to) in [("A", "B"), ("B", "A")] {
            let first = beat(&mesh, from, to, 0).await?;
            beat(&mesh, from, to, first + 3).await?;
        }
        let why = ["--why", "test", "--by", "test"];
        mesh.run(&[&["pause", "A-to-B.shop", "--drain"], &why[..]].concat()).await?;
        sleep(PAUSED).await;
        let before = beat(&mesh, "A", "A", 0).await?;
        let sink = Metrics::of(mesh.worker("B", "sink")?).await?;
        let lags: Vec<f64> = sink.each("unitflow_lag_seconds", &["log=\"A.shop\""]).collect();
        ensure!(
            !lags.is_empty() && lags.iter().all(|lag| *lag == -1.0),
            "lags of {lags:?} s, paused"
        );
        let waiting = records_behind(&mesh, "A-to-B.shop").await?;
        ensure!(waiting > 0, "Kafka's own tool sees nothing that waits");
        let behind = lag(&mesh, "A", "B").await?;
        ensure!(behind >= PAUSED.as_secs_f64(), "only {behind} s behind");
        mesh.run(&[&["resume", "A-to-B.shop"], &why[..]].concat()).await?;
        beat(&mesh, "A", "B", before).await?;
        ensure!(lag(&mesh, "A", "B").await? < behind, "it is behind as before");
        mesh.finish();
        Ok(())
    });
}

/// Waits until a unit's clock has beaten so often at another; how often it has.
async fn beat(mesh: &Mesh, of: &str, at: &str, least: u64) -> anyhow::Result<u64> {
    let query = format!("SELECT beat FROM unitflow.heartbeat WHERE unit = '{of}' AND beat > 0");
    let deadline = Instant::now() + QUIET;
    loop {
        let beat = mesh.server(at).sql(&query).await?.parse().unwrap_or(0);
        if beat >= least.max(1) {
            return Ok(beat);
        }
        ensure!(Instant::now() < deadline, "{of}'s clock stands at {beat} in {at}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// How many records a flow has still to apply, as Kafka's own tool tells it.
async fn records_behind(mesh: &Mesh, flow: &str) -> anyhow::Result<u64> {
    let describe = ["--describe", "--group", &mesh.topic(flow)];
    let told = mesh.kafka("A").run_tool("kafka-consumer-groups", describe).await?;
    let mut lines = told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = lines.find(|words| words.contains(&"LAG")).with_context(|| told.clone())?;
    let lag = head.iter().position(|word| *word == "LAG").context("a column")?;
    let of_lane = |words: Vec<&str>| words.get(lag)?.parse::<u64>().ok();
    Ok(lines.filter_map(of_lane).sum())
}

/// Seconds that a unit's clock is behind at another.
async fn lag(mesh: &Mesh, of: &str, at: &str) -> anyhow::Result<f64> {
    let query = format!("SELECT lag_seconds FROM unitflow.lag WHERE unit = '{of}'");
    Ok(mesh.server(at).sql(&query).await?.parse()?)
}

/// Ends all connections to a unit's server, as one that fails over does.
async fn cut_connections(mesh: &Mesh, unit: &str) -> anyhow::Result<()> {
    let others = "SELECT id FROM information_schema.processlist \
                  WHERE user = 'root' AND id <> CONNECTION_ID()";
    for id in mesh.server(unit).sql(others).await?.lines() {
        // It may have ended by itself.
        let _ = mesh.server(unit).sql(&format!("KILL {id}")).await;
    }
    Ok(())
}

/// Each number of a way's three workers, against what was written.
async fn ensure_way(
    mesh: &mut Mesh,
    from: &str,
    to: &str,
    written: &Written,
) -> anyhow::Result<()> {
    let log = format!("log=\"{from}.shop\"");
    let unit = from.as_bytes()[0];
    let changes = written.acknowledged.iter();
    let own = changes.filter(|change| change.unit == unit).count() as f64;
    let foreign = written.acknowledged.len() as f64 - own;

    let connector = Metrics::of(mesh.worker(from, "connector")?).await?;
    let captured = connector.sum("unitflow_connector_rows_total", &[&log]);
    ensure!(captured >= own + foreign, "{captured} rows captured of {own} and {foreign}");
    ensure!(connector.sum("unitflow_kafka_commits_total", &[&log]) > 0.0, "no commits");

    let transformer = Metrics::of(mesh.worker(from, "transformer")?).await?;
    let of = |outcome: &str| {
        let outcome = format!("outcome=\"{outcome}\"");
        transformer.sum("unitflow_transformer_records_total", &[&log, &outcome])
    };
    // A row that moves is two rows elsewhere, and each batch brings a row of the ledger.
    ensure!(of("echo") > foreign, "{} echoes of {foreign} changes", of("echo"));
    ensure!(
        captured == own + of("echo"),
        "{captured} rows captured, {own} own and {} echoes",
        of("echo")
    );
    ensure!(of("put") >= own, "{} of {own} put out", of("put"));
    ensure!(of("filtered") == 0.0, "{} filtered", of("filtered"));

    let sink = Metrics::of(mesh.worker(to, "sink")?).await?;
    let labels = [log.as_str(), &format!("to=\"{to}\"")];
    let rows = sink.sum("unitflow_sink_rows_total", &labels);
    ensure!(rows >= own && rows <= of("put"), "{rows} rows applied, {} put out", of("put"));
    let (in_batches, batches) = (
        sink.sum("unitflow_sink_batch_rows_sum", &labels),
        sink.sum("unitflow_sink_batch_rows_count", &labels),
    );
    ensure!(in_batches == rows, "{in_batches} rows in batches, {rows} applied");
    ensure!(
        batches > 0.0 && (1.0..=BATCH_ROWS_MOST).contains(&(rows / batches)),
        "{rows} rows in {batches} batches"
    );
    let commits = sink.sum("unitflow_sink_commits_total", &labels);
    ensure!(commits > 0.0 && commits <= batches, "{commits} commits of {batches} batches");
    let lags: Vec<f64> = sink.each("unitflow_lag_seconds", &labels).collect();
    ensure!(lags.len() == 4, "{} lanes tell their lag", lags.len());
    ensure!(lags.iter().all(|lag| (0.0..LAG_MOST).contains(lag)), "lags of {lags:?} s");
    ensure!(lags.iter().any(|lag| *lag > 0.0), "no lag at all: {lags:?}");
    println!(
        "  {from} to {to}: {captured} captured, {} echoes, {rows} applied in {batches} batches, lags {lags:.3?}",
        of("echo")
    );
    Ok(())
}

/// The cut connections are counted by role and code, and nothing else is.
async fn ensure_faults(mesh: &mut Mesh) -> anyhow::Result<()> {
    const FAULTS: &str = "unitflow_faults_total";
    let cut = "code=\"unreachable\"";
    let sink = Metrics::of(mesh.worker("B", "sink")?).await?;
    let lanes = sink.each(FAULTS, &["role=\"sink A.shop lane ", cut]).count();
    ensure!(lanes > 0, "no lane tells that its connection was cut");
    let connector = Metrics::of(mesh.worker("B", "connector")?).await?;
    ensure!(
        connector.sum(FAULTS, &["role=\"connector B.shop\"", cut]) >= 1.0,
        "the connector does not tell that its connection was cut"
    );
    for (unit, role) in [("A", "connector"), ("A", "transformer"), ("A", "sink")] {
        let metrics = Metrics::of(mesh.worker(unit, role)?).await?;
        ensure!(metrics.sum(FAULTS, &[]) == 0.0, "{role} of {unit} counts faults");
    }
    Ok(())
}

/// Those that A, a MySQL, has made, and one that it has not.
async fn ensure_commits_can_be_waited_for(mesh: &Mesh) -> anyhow::Result<()> {
    let made = mesh.server("A").sql("SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')").await?;
    let wait = ["wait", "--from", "A", "--to", "B", "--gtid"];
    mesh.run(&[&wait[..], &[made.trim()]].concat()).await?;
    let server = mesh.server("A").sql("SELECT @@GLOBAL.server_uuid").await?;
    let never = format!("{}:99999999", server.trim());
    let waited = mesh.run(&[&wait[..], &[&never, "--timeout-seconds", "2"]].concat()).await;
    ensure!(waited.is_err(), "A has not made {never}, but B is said to have it");
    Ok(())
}

async fn ensure_programs_can_read(mesh: &Mesh) -> anyhow::Result<()> {
    // The setup of tests has much to be said of.
    let check = mesh.spawn(&["check", "--json"])?.wait_with_output();
    let found: Vec<Value> = serde_json::from_slice(&timeout(QUIET, check).await??.stdout)?;
    for finding in &found {
        let says = |what: &str| finding[what].as_str().is_some_and(|text| !text.is_empty());
        ensure!(says("place") && says("code") && says("remedy"), "it does not say: {finding}");
    }
    for (subject, warning) in [("tls", true), ("shop.seats", false)] {
        let found = found.iter().find(|finding| finding["subject"] == subject);
        let found = found.with_context(|| format!("nothing is said of {subject}"))?;
        ensure!(found["warning"] == warning, "{found}");
    }
    let mut watch = mesh.spawn(&["status", "--watch", "1", "--json"])?;
    let mut lines = BufReader::new(watch.stdout.take().context("its output")?).lines();
    for _ in 0..2 {
        let line = timeout(QUIET, lines.next_line()).await.context("nothing is printed")??;
        let status: Value = serde_json::from_str(&line.context("the watch ended")?)?;
        ensure!(status["flows"].as_array().is_some_and(|flows| flows.len() == 2), "{status}");
    }
    watch.kill().await?;
    Ok(())
}
