//! `cargo bench --bench drain`: a backlog drained by Unitflow, beside the servers' own replica.
//!
//! **Method.** A server is prepared once: a schema of four tables, seeded. Its data folder is
//! cloned for the source and for each target, as one makes a replica. On the source the backlog is
//! written and finished before anything reads it. Then one after the other, each on a freshly
//! cloned target, drain it: the native replica with one applier, the native replica with four
//! workers, and Unitflow as three processes (connector, transformer, sink with four lanes) through
//! a real broker. The clock runs from the command that starts reading until the target has
//! executed all (native: its GTID position; Unitflow: `unitflow wait`). Processor time is what the
//! kernel counts for each process (`/proc/<pid>/stat`, all threads) meanwhile, divided by the rows
//! of the backlog; peak memory is `VmHWM`. After each drain the servers' own clients print every
//! table of both sides in the order of the key, and that must be the same text.
//!
//! **Limits.**
//! * Everything shares one machine: source, broker, workers and target compete for its cores, so
//!   Unitflow, which has more processes, gains most from more cores. What others took of the
//!   machine meanwhile is printed; a figure from a busy machine is worth little.
//! * A worker's start, about 50 ms, counts. The broker is one for all drains, warmed up by one that
//!   is not printed; servers start cold for everybody.
//! * MySQL 9 has no replica without workers: serial there is one worker behind a coordinator, which
//!   yields in a loop while it waits. That is most of the processor time of such a server.
//! * Sources are never the limit: nothing is written to them meanwhile. So this is how fast
//!   a lag goes away, not the latency of a change.
//! * *Durable* is about the target (`sync_binlog=1`, `innodb_flush_log_at_trx_commit=1`, else 0 and
//!   2); all targets write their own binlog. Kafka acknowledges to the page cache, as it does.
//! * One row shape, no secondary keys, one machine, no TLS, no network between.
//!
//! | file | what it holds |
//! |---|---|
//! | [`arguments`] | the command line, and which drains it asks for |
//! | [`backlog`] | the tables and what is written |
//! | [`servers`] | prepared folders, sources, targets, the comparison |
//! | [`native`] | the server's own replica |
//! | [`pipeline`] | Unitflow's part |
//! | [`flow`] | its configuration, commands and workers |
//! | [`meter`] | processor time |
//! | [`usage`] | what one drain took |
//! | [`report`] | the table |
//! | [`words`] | progress, figures |
//!
//! Exit codes: 0 done, 1 a target differs from its source, 2 wrong use, 3 failed; what was measured
//! before is printed then as well.

mod arguments;
mod backlog;
mod flow;
mod meter;
mod native;
mod pipeline;
mod report;
mod servers;
mod usage;
mod words;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use unitflow_harness::worker::log_end;
use unitflow_harness::{Flavor, Kafka};

use arguments::{Applier, Arguments, Drain, Pairing};
use pipeline::Pipeline;
use report::Report;
use servers::{Clones, Source, Target};
use usage::Usage;
use words::progress;

/// What the broker's warm-up drains, in rows.
const WARM_UP_ROWS: u64 = 20_000;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.bench {
        println!("nothing is measured without an optimised build: cargo bench --bench drain");
        return ExitCode::SUCCESS;
    }
    if arguments.drains().is_empty() {
        eprintln!("drain: --only leaves nothing; see --help for its words");
        return ExitCode::from(2);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.context("a runtime").and_then(|runtime| runtime.block_on(run(&arguments))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("drain: {error:#}");
            ExitCode::from(3)
        }
    }
}

/// Runs what is asked for and prints the table, also of what was measured before something failed.
/// `false`: a target differs from its source.
async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let drains = arguments.drains();
    unitflow_harness::mesh::install().await?;
    let mut report = Report::new(arguments, &drains);
    let outcome = measure(arguments, &drains, &mut report).await;
    report.print(arguments.markdown);
    outcome.map(|()| report.all_equal())
}

async fn measure(
    arguments: &Arguments,
    drains: &[Drain],
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut clones = Clones::default();
    let kafka = Kafka::setup().jvm("-XX:TieredStopAtLevel=4").start().await?;
    let mut topics = 0;
    if let Some(first) = drains.iter().find(|drain| drain.applier == Applier::Unitflow) {
        let rows = WARM_UP_ROWS.min(arguments.rows);
        progress("warming up the broker");
        let warm_up = [Drain { durable: false, ..*first }];
        drain_one_source(&warm_up, 1, rows, &mut clones, &kafka, &mut topics, &mut |_, _| {})
            .await?;
    }
    let mut record = |drain: &Drain, usage: Usage| report.add(drain, usage);
    for group in drains.chunk_by(|one, other| one.source() == other.source()) {
        let (rows, repeat) = (arguments.rows, arguments.repeat);
        drain_one_source(group, repeat, rows, &mut clones, &kafka, &mut topics, &mut record)
            .await?;
    }
    Ok(())
}

/// Prepares one backlog and drains it in each of these ways, so many times each.
async fn drain_one_source(
    drains: &[Drain],
    repeat: u32,
    rows: u64,
    clones: &mut Clones,
    kafka: &Kafka,
    topics: &mut u32,
    record: &mut impl FnMut(&Drain, Usage),
) -> anyhow::Result<()> {
    let Some(first) = drains.first() else { return Ok(()) };
    let Pairing { source: flavor, .. } = first.pairing;
    let source = Source::start(flavor, clones.of(flavor).await?).await?;
    let mut targets: Vec<(Flavor, bool, Target)> = Vec::new();
    for drain in drains {
        let (flavor, durable) = (drain.pairing.target, drain.durable);
        if !targets.iter().any(|(f, d, _)| (*f, *d) == (flavor, durable)) {
            let target = Target::new(flavor, durable, clones.of(flavor).await?).await?;
            targets.push((flavor, durable, target));
        }
    }
    // Unitflow begins where a store stands when it is initialised, so that comes before the backlog.
    let mut planned = Vec::new();
    for _ in 0..repeat {
        for drain in drains {
            let target =
                targets.iter().find(|(f, d, _)| (*f, *d) == (drain.pairing.target, drain.durable));
            let (_, _, target) = target.context("a target for each drain")?;
            let pipeline = match drain.applier {
                Applier::Unitflow => {
                    *topics += 1;
                    Some(Pipeline::begin(*topics, &source.server, &target.server, kafka).await?)
                }
                Applier::Native { .. } => None,
            };
            planned.push((drain, target, pipeline));
        }
    }
    let rows = source.write(rows, first.rows_each).await?;
    for (drain, target, pipeline) in planned {
        target.restore().await?;
        servers::sync().await?;
        progress(&format!("{drain}: {rows} rows"));
        let mut usage = match (drain.applier, pipeline) {
            (Applier::Unitflow, Some(pipeline)) => {
                pipeline.drain(&source.server, &target.server, kafka).await
            }
            (Applier::Native { workers }, _) => {
                native::drain(&source.server, &target.server, workers).await
            }
            (Applier::Unitflow, None) => unreachable!("planned above"),
        }
        .with_context(|| {
            format!("{drain}; the target's log ends with\n{}", log_end(&target.server.log()))
        })?;
        usage.rows = rows;
        let differences = source.compare(target).await?;
        usage.equal = differences.is_empty();
        progress(&format!("  {usage}"));
        differences.iter().for_each(|difference| progress(&format!("  DIFFERENT: {difference}")));
        target.discard().await?;
        record(drain, usage);
    }
    Ok(())
}
