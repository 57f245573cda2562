//! `cargo bench --bench fill`: a table with rows copied to an empty unit, beside the servers' own clients.
//!
//! **Method.** The source is filled past its binlog. Short writes at an even pace then go to it in every
//! part of the run: alone, while `mysqldump --single-transaction | mysql` copies the table to one empty
//! server, while `unitflow resync full` copies it to another, and while Unitflow only carries them. Each
//! write is timed, so that the source's slowdown is a ratio. Half of the writes are updates of rows that
//! are copied. Unitflow runs as six processes (connector, transformer and sink of both units: both
//! are captured, as where both write), through one real broker. Processor time is what the kernel
//! counts for each process (`/proc/<pid>/stat`) from the command to its end; peak memory is `VmHWM`
//! of all the run. Locks are looked for as [`locks`] says. In the end both servers compute a digest of
//! all rows. Of those that the dump brought, those that were written meanwhile are left out: it is of
//! the moment when it began, and nothing follows it.
//!
//! **Limits.**
//! * Everything shares one machine, the broker too, so Unitflow, which has more processes, gains most
//!   from more cores. What others took of it meanwhile is printed.
//! * The dump is not what a replica needs to go on from: it lacks the position, for which
//!   `mysqldump --source-data` locks all tables for a moment.
//! * `resync` waits three seconds before its first chunk, which count.
//! * Nothing is synced at a commit (`sync_binlog=0`, `innodb_flush_log_at_trx_commit=2`).
//!
//! | file | what it holds |
//! |---|---|
//! | [`arguments`] | the command line |
//! | [`rows`] | the table and its digest |
//! | [`load`] | the writes to the source |
//! | [`locks`] | which table locks a server saw |
//! | [`ways`] | the two ways of copying |
//! | [`report`] | the tables, and what must not be |
//! | [`flow`] | Unitflow's configuration, commands and workers |
//! | [`meter`] | processor time |
//! | [`words`] | progress, figures |
//!
//! Exit codes: 0 done, 1 a worker had more than 128 MiB, a table was locked by us, or rows differ, 2
//! wrong use, 3 failed; what was measured before is printed then as well.

mod arguments;
#[path = "../flow.rs"]
mod flow;
mod load;
mod locks;
#[path = "../meter.rs"]
mod meter;
mod report;
mod rows;
mod ways;
#[path = "../words.rs"]
mod words;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use unitflow_harness::{Kafka, Mysql};

use arguments::Arguments;
use report::Report;
use words::progress;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.bench {
        println!("nothing is measured without an optimised build: cargo bench --bench fill");
        return ExitCode::SUCCESS;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.context("a runtime").and_then(|runtime| runtime.block_on(run(&arguments))) {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            faults.iter().for_each(|fault| eprintln!("fill: {fault}"));
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("fill: {error:#}");
            ExitCode::from(3)
        }
    }
}

/// Measures and prints, also what was measured before something failed; gives what must not be.
async fn run(arguments: &Arguments) -> anyhow::Result<Vec<String>> {
    unitflow_harness::mesh::install().await?;
    let mut report = Report::new(arguments);
    let outcome = measure(arguments, &mut report).await;
    report.print();
    outcome.map(|()| report.faults())
}

async fn measure(arguments: &Arguments, report: &mut Report<'_>) -> anyhow::Result<()> {
    let source = start(arguments).await?;
    progress(&format!("filling a table with {} rows", arguments.rows));
    rows::create(&source).await?;
    rows::fill(&source, arguments.rows).await?;
    progress("the source's load alone");
    let (rows, rate) = (arguments.rows, arguments.writes_per_second);
    report.alone = Some(load::alone(&source, 0, rows, rate, ways::QUIET).await?);
    if !arguments.alone {
        progress("mysqldump | mysql");
        let target = start(arguments).await?;
        report.dump = Some(ways::dump(&source, &target, (arguments, 1)).await?);
        target.kill().await?;
    }
    progress("unitflow resync full");
    let target = start(arguments).await?;
    let kafka = Kafka::setup().jvm("-XX:TieredStopAtLevel=4").start().await?;
    report.resync = Some(ways::resync(&source, &target, &kafka, (arguments, 2)).await?);
    Ok(())
}

async fn start(arguments: &Arguments) -> anyhow::Result<Mysql> {
    let setup = Mysql::setup(arguments.flavor());
    let setup =
        locks::SETTINGS.iter().fold(setup, |setup, (name, value)| setup.setting(*name, value));
    Ok(setup.start().await?)
}
