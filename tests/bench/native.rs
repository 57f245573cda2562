//! The server's own replica.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::time::timeout;
use unitflow_harness::{Flavor, Mysql};

use crate::meter::Meter;
use crate::servers::query;
use crate::usage::Usage;
use crate::words::progress;

/// A replica tells how it is in this time.
const ANSWER: Duration = Duration::from_secs(60);
/// No drain takes longer.
const LIMIT: Duration = Duration::from_secs(300);
/// How long one wait lasts before errors are looked for, in seconds.
const LOOK_EVERY: u32 = 10;

/// Drains `source` into `target` with so many workers; with none in order, by one.
pub async fn drain(source: &Mysql, target: &Mysql, workers: u32) -> anyhow::Result<Usage> {
    let begin = begin(source, workers);
    let goal = goal(source).await?;
    query(target, &begin.prepare).await?;
    let pids = [source.pid(), target.pid()].map(|pid| pid.context("a running server"));
    let [source_pid, target_pid] = pids;
    let mut meter = Meter::start(&[source_pid?, target_pid?])?;
    query(target, begin.start).await?;
    let begun = Instant::now();
    loop {
        let reached =
            query(target, &format!("SELECT {} = 0", wait(source.flavor(), &goal))).await?;
        if reached == "1" {
            break;
        }
        let status = status(target).await?;
        let errors: Vec<&str> = status
            .lines()
            .map(str::trim)
            .filter(|line| line.contains("Error:") && !line.ends_with("Error:"))
            .collect();
        ensure!(errors.is_empty(), "the replica stopped: {}", errors.join("; "));
        if begun.elapsed() > LIMIT {
            bail!("the replica is not there after {LIMIT:?}:\n{status}");
        }
        progress(&format!("  … {:.0} s", begun.elapsed().as_secs_f64()));
    }
    let reading = meter.stop(&[])?;
    query(target, begin.stop).await?;
    let [_, target_cpu] = reading.cpu.as_slice() else { bail!("two processes were watched") };
    Ok(Usage { target: *target_cpu, ..Usage::new(&reading) })
}

struct Statements {
    prepare: String,
    start: &'static str,
    stop: &'static str,
}

fn begin(source: &Mysql, workers: u32) -> Statements {
    let port = source.port();
    let one_at_least = workers.max(1);
    match source.flavor() {
        Flavor::Mysql9 => Statements {
            // It takes no less than one, and would make that of a zero.
            prepare: format!(
                "SET GLOBAL replica_parallel_workers = {one_at_least}, GLOBAL replica_preserve_commit_order = ON;\
                 CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'root', \
                 SOURCE_PASSWORD = '', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1;"
            ),
            start: "START REPLICA",
            stop: "STOP REPLICA",
        },
        Flavor::Mariadb => Statements {
            prepare: format!(
                "SET GLOBAL slave_parallel_threads = {workers}, GLOBAL slave_parallel_mode = 'optimistic';\
                 CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'root', \
                 MASTER_USE_GTID = slave_pos;"
            ),
            start: "START SLAVE",
            stop: "STOP SLAVE",
        },
    }
}

/// What the replica says of itself, a line for each thing.
async fn status(target: &Mysql) -> anyhow::Result<String> {
    let statement = match target.flavor() {
        Flavor::Mysql9 => "SHOW REPLICA STATUS",
        Flavor::Mariadb => "SHOW SLAVE STATUS",
    };
    let mut client = target.client()?;
    let output = client.args(["--vertical", "--execute", statement]).output();
    let output = timeout(ANSWER, output).await.context("the replica does not answer")??;
    ensure!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the source has executed.
async fn goal(source: &Mysql) -> anyhow::Result<String> {
    let variable = match source.flavor() {
        Flavor::Mysql9 => "REPLACE(@@GLOBAL.gtid_executed, '\\n', '')",
        Flavor::Mariadb => "@@GLOBAL.gtid_binlog_pos",
    };
    query(source, &format!("SELECT {variable}")).await
}

/// Zero when the goal is reached.
fn wait(flavor: Flavor, goal: &str) -> String {
    match flavor {
        Flavor::Mysql9 => format!("WAIT_FOR_EXECUTED_GTID_SET('{goal}', {LOOK_EVERY})"),
        Flavor::Mariadb => format!("MASTER_GTID_WAIT('{goal}', {LOOK_EVERY})"),
    }
}
