//! The two ways of copying, each with the source's load beside it.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mysql_async::prelude::Queryable as _;
use tokio::time::{Instant, sleep, timeout};
use unitflow_harness::load::connect;
use unitflow_harness::{Flavor, Kafka, Mysql, Worker};

use crate::arguments::Arguments;
use crate::flow::{self, COMMAND, Flow};
use crate::load::Pace;
use crate::locks::{Seen, Watch};
use crate::meter::{Meter, children_time};
use crate::rows::{self, DATABASE, TABLE};

/// Both units write, so both are captured; the workers stand in the order of the data.
const ROLES: [(&str, &str); 6] = [
    ("connector", "A"),
    ("transformer", "A"),
    ("sink", "B"),
    ("connector", "B"),
    ("transformer", "B"),
    ("sink", "A"),
];
/// No copy takes longer.
const LIMIT: Duration = Duration::from_secs(3600);
/// For how long the load alone is measured.
pub const QUIET: Duration = Duration::from_secs(20);
/// How often it is looked whether the copy has begun.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What one way took.
#[derive(Debug)]
pub struct Copied {
    /// From the command to its end.
    pub wall: Duration,
    /// Processor time, by process.
    pub cpu: Vec<(String, Duration)>,
    /// The most resident memory of each worker, in KiB.
    pub peaks: Vec<(String, u64)>,
    /// Locks seen at the source and at the target.
    pub locks: [Seen; 2],
    /// How the source's load went meanwhile.
    pub pace: Pace,
    /// How it went while the workers ran and nothing was copied.
    pub idle: Option<Pace>,
    /// Rows and digests at the source and at the target.
    pub digests: [String; 2],
    /// How much of the machine others had.
    pub others: f64,
}

/// `mysqldump --single-transaction | mysql`.
pub async fn dump(
    source: &Mysql,
    target: &Mysql,
    (arguments, number): (&Arguments, u64),
) -> anyhow::Result<Copied> {
    rows::run(target, &format!("CREATE DATABASE {DATABASE}")).await?;
    let watches = [Watch::start(source).await?, Watch::start(target).await?];
    let mut meter = Meter::start(&pids([source, target])?)?;
    let clients = children_time()?;
    let load = arguments.load(source, number).await?;
    let begun = Instant::now();
    timeout(LIMIT, pipe(source, target)).await.context("the dump hangs")??;
    let ended = Instant::now();
    let reading = meter.stop(&[])?;
    let clients = children_time()? - clients;
    let pace = load.stop().await?.within(begun, ended)?;
    let [source_seen, target_seen] = watches;
    let locks = [source_seen.stop().await?, target_seen.stop().await?];
    let digests = [source, target].map(|server| rows::digest(server, Some(arguments.rows)));
    let [here, there] = digests;
    let names = ["source", "target"].map(str::to_owned).into_iter();
    let cpu = names.zip(reading.cpu).chain([("clients".to_owned(), clients)]).collect();
    Ok(Copied {
        wall: reading.wall,
        cpu,
        peaks: Vec::new(),
        locks,
        pace,
        idle: None,
        digests: tokio::try_join!(here, there)?.into(),
        others: reading.others,
    })
}

async fn pipe(source: &Mysql, target: &Mysql) -> anyhow::Result<()> {
    let (_, table) = TABLE.split_once('.').context("a table in a schema")?;
    let mut dump = source.dump()?;
    dump.arg("--single-transaction");
    if source.flavor() == Flavor::Mysql9 {
        // With the GTIDs it would lock all tables for a moment.
        dump.args(["--set-gtid-purged=OFF", "--no-tablespaces"]);
    }
    let mut dump =
        dump.args([DATABASE, table]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let rows: Stdio = dump.stdout.take().context("the dump's output")?.try_into()?;
    let mut client = target.client()?.arg(DATABASE).stdin(rows).spawn()?;
    let (dump, client) = tokio::try_join!(dump.wait(), client.wait())?;
    ensure!(
        dump.success() && client.success(),
        "the dump ended with {dump}, its reader with {client}"
    );
    Ok(())
}

/// `unitflow resync full`.
pub async fn resync(
    source: &Mysql,
    target: &Mysql,
    kafka: &Kafka,
    (arguments, number): (&Arguments, u64),
) -> anyhow::Result<Copied> {
    rows::create(target).await?;
    let lines = format!("tables = [\"{DATABASE}.*\"]");
    let flow = Flow::new("fill", [source, target], kafka, &lines)?;
    flow.init(&[]).await?;
    let mut workers =
        ROLES.iter().map(|role| flow.start(*role)).collect::<anyhow::Result<Vec<_>>>()?;
    for worker in &workers {
        let word = match worker.launch().roles.as_str() {
            "connector" => "capturing",
            "transformer" => "transforming",
            _ => "lane begins",
        };
        worker.says(word, COMMAND).await?;
    }
    let copied = copy(&flow, [source, target], kafka, &mut workers, (arguments, number)).await;
    flow::ensure_alive(&mut workers)?;
    let copied = copied.with_context(|| flow::log_ends(&workers))?;
    flow::stop(&mut workers).await?;
    Ok(copied)
}

async fn copy(
    flow: &Flow,
    [source, target]: [&Mysql; 2],
    kafka: &Kafka,
    workers: &mut [Worker],
    (arguments, number): (&Arguments, u64),
) -> anyhow::Result<Copied> {
    let watches = [Watch::start(source).await?, Watch::start(target).await?];
    let servers = pids([source, target])?;
    let running = workers.iter().map(Worker::pid);
    let all: Vec<u32> = servers.into_iter().chain(kafka.pid()).chain(running).collect();
    let mut meter = Meter::start(&all)?;
    let command = children_time()?;
    let rate = arguments.rows_per_second.to_string();
    let words = ["resync", "full", "--from", "A", "--table", TABLE, "--rows-per-second", &rate];
    let words = [&words[..], &["--why", "bench", "--by", "bench"]].concat();
    let resync = async {
        flow.unitflow(&words, LIMIT).await?;
        anyhow::Ok((Instant::now(), meter.stop(&[])?))
    };
    let load = async {
        // An update of a row that is not there yet is a conflict until the target knows of the copy.
        has_begun(target).await?;
        anyhow::Ok((Instant::now(), arguments.load(source, number).await?))
    };
    let ((ended, reading), (loaded, load)) = tokio::try_join!(resync, load)?;
    let command = children_time()? - command;
    sleep(QUIET).await;
    let idle = Instant::now();
    let written = load.stop().await?;
    let [source_seen, target_seen] = watches;
    let locks = [source_seen.stop().await?, target_seen.stop().await?];
    let seconds = COMMAND.as_secs().to_string();
    let wait = ["wait", "--from", "A", "--to", "B", "--timeout-seconds", &seconds];
    flow.unitflow(&wait, COMMAND * 2).await?;
    let digests = [source, target].map(|server| rows::digest(server, None));
    let [here, there] = digests;
    let names = ["source", "target", "broker"].map(str::to_owned).into_iter();
    let names = names.chain(workers.iter().map(Worker::name));
    let cpu = names.zip(reading.cpu).chain([("command".to_owned(), command)]).collect();
    let peaks = workers.iter_mut().map(|worker| (worker.name(), worker.peak_kib())).collect();
    Ok(Copied {
        wall: reading.wall,
        cpu,
        peaks,
        locks,
        pace: written.within(loaded, ended)?,
        idle: Some(written.within(ended, idle)?),
        digests: tokio::try_join!(here, there)?.into(),
        others: reading.others,
    })
}

async fn has_begun(target: &Mysql) -> anyhow::Result<()> {
    let mut conn = connect(target).await?;
    let begun = Instant::now();
    while conn.query_first::<u64, _>("SELECT COUNT(*) FROM unitflow.filling").await? == Some(0) {
        ensure!(begun.elapsed() < COMMAND, "no copy begins");
        sleep(LOOK_EVERY).await;
    }
    Ok(conn.disconnect().await?)
}

fn pids(servers: [&Mysql; 2]) -> anyhow::Result<Vec<u32>> {
    servers.iter().map(|server| server.pid().context("a running server")).collect()
}
