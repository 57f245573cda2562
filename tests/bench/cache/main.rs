//! `cargo bench --bench cache`: a backlog of Redis writes drained by Unitflow, beside the server's own replica.
//!
//! **Method.** A primary, a replica of it that is frozen (SIGSTOP), and a second primary, empty. The backlog, pipelined `SET`s of
//! so many bytes on random keys, is written and finished; the primary holds it for both. Then the replica is let go on, and
//! the clock runs until its offset is the primary's; and then the same for Unitflow as three processes (connector,
//! transformer, sink) through a real broker, from their start until `unitflow wait`. Processor time is what the kernel counts
//! for each process. In the end the primaries must hold the same keys.
//!
//! **Limits.** Everything shares one machine, and Unitflow has more processes; its workers' start, about a second,
//! counts. The native replica does no more than copy bytes into a dictionary: it neither keeps a log that others
//! read later nor could it be written to.
//!
//! Exit codes: 0 done, 1 the primaries differ, 2 wrong use, 3 failed.

#[path = "../flow.rs"]
#[expect(dead_code, reason = "what is for MySQL stores")]
mod flow;
#[path = "../meter.rs"]
mod meter;
#[path = "../words.rs"]
mod words;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Parser;
use tokio::time::sleep;
use unitflow_harness::Kafka;
use unitflow_harness::random::Random;
use unitflow_local::{Redis, RedisFlavor};

use flow::Flow;
use meter::{Meter, Reading};
use words::{progress, thousands};

/// Nothing drains for longer.
const LIMIT: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Commands of one pipeline.
const AT_ONCE: u64 = 500;
const KEYS: usize = 200_000;
const ROLES: [(&str, &str); 3] = [("connector", "A"), ("transformer", "A"), ("sink", "B")];

/// Drains a prepared backlog of Redis writes by Unitflow and by the server's own replica.
#[derive(Debug, Parser)]
#[command(name = "cache", max_term_width = 100)]
struct Arguments {
    /// Commands of the backlog.
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    commands: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// How often it is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    repeat: u32,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.bench {
        println!("nothing is measured without an optimised build: cargo bench --bench cache");
        return ExitCode::SUCCESS;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.context("a runtime").and_then(|runtime| runtime.block_on(run(&arguments))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("cache: {error:#}");
            ExitCode::from(3)
        }
    }
}

/// What one drain took: commands a second, µs a command of each process, others' share of the machine.
struct Drained {
    rate: f64,
    cpu: Vec<f64>,
    others: f64,
}

impl Drained {
    fn of(reading: &Reading, commands: u64) -> Self {
        let per_command = |cpu: &Duration| cpu.as_secs_f64() * 1e6 / commands as f64;
        Self {
            rate: commands as f64 / reading.wall.as_secs_f64(),
            cpu: reading.cpu.iter().map(per_command).collect(),
            others: reading.others,
        }
    }
}

/// Prints a line for each round, then the medians. `false`: primaries differ.
async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    unitflow_harness::mesh::install().await?;
    let kafka = Kafka::setup().jvm("-XX:TieredStopAtLevel=4").start().await?;
    let mut rounds = Vec::new();
    let mut equal = true;
    for number in 0..=arguments.repeat {
        let commands = if number == 0 { arguments.commands / 10 } else { arguments.commands };
        progress(if number == 0 { "warming up the broker" } else { "draining" });
        let (native, ours, same) = round(arguments, number, commands, &kafka).await?;
        equal &= same;
        if number == 0 {
            continue;
        }
        let of_ours: f64 = ours.cpu[..ROLES.len()].iter().sum();
        println!(
            "native {}/s, {:.1} µs a command in the replica; Unitflow {}/s ({:.2} of native), {of_ours:.1} µs a command in connector + transformer + sink ({:.1} + {:.1} + {:.1}), {:.1} in the target; others took {:.0} and {:.0} % of the machine",
            thousands(native.rate),
            native.cpu[0],
            thousands(ours.rate),
            ours.rate / native.rate,
            ours.cpu[0],
            ours.cpu[1],
            ours.cpu[2],
            ours.cpu[3],
            native.others * 100.0,
            ours.others * 100.0,
        );
        rounds.push((native.rate, ours.rate, of_ours));
    }
    let middle = |figures: Vec<f64>| {
        let mut figures = figures;
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    println!(
        "medians of {}: native {}/s, Unitflow {}/s, {:.1} µs a command",
        rounds.len(),
        thousands(middle(rounds.iter().map(|round| round.0).collect())),
        thousands(middle(rounds.iter().map(|round| round.1).collect())),
        middle(rounds.iter().map(|round| round.2).collect()),
    );
    Ok(equal)
}

async fn round(
    arguments: &Arguments,
    number: u32,
    commands: u64,
    kafka: &Kafka,
) -> anyhow::Result<(Drained, Drained, bool)> {
    let source = server(RedisFlavor::Redis7).await?;
    let replica = server(RedisFlavor::Redis7).await?;
    let target = server(RedisFlavor::Redis7).await?;
    replica.cli(["REPLICAOF", "127.0.0.1", &source.port().to_string()]).await?;
    until(
        "the replica is linked",
        async || Ok(info(&replica, "master_link_status").await? == "up"),
    )
    .await?;
    let flow = Flow::configured(&config(number, kafka, &source, &target))?;
    flow.init(&[]).await?;
    replica.suspend().await?;
    write(&source, commands, arguments.bytes).await?;
    let native = drain_natively(&source, &replica, commands).await?;
    let ours = drain_ours(&flow, &target, commands).await?;
    let keys = source.cli(["DBSIZE"]).await?.parse::<u64>()?;
    // The target has a ledger key of its own, and so has the source.
    let same = target.cli(["DBSIZE"]).await?.parse::<u64>()? == keys;
    if !same {
        progress("the target differs from its source");
    }
    Ok((native, ours, same))
}

async fn server(flavor: RedisFlavor) -> anyhow::Result<Redis> {
    let setup = Redis::setup().flavor(flavor);
    let setup = setup.setting("appendonly", "no").setting("repl-backlog-size", "2gb");
    let setup = setup.setting("client-output-buffer-limit", "replica 0 0 0");
    Ok(setup.start().await?)
}

fn config(number: u32, kafka: &Kafka, source: &Redis, target: &Redis) -> String {
    let unit = |name: &str, server: &Redis| {
        format!(
            "[units.{name}]\nkafka = {{ bootstrap = \"{}\", replication = 1 }}\n\
             [units.{name}.stores.cache]\nkind = \"redis\"\nendpoints = [\"127.0.0.1:{}\"]\n\
             tls = \"off\"\n",
            kafka.bootstrap(),
            server.port()
        )
    };
    let prefix = format!("bench-{}-{number}", std::process::id());
    format!(
        "prefix = \"{prefix}\"\noutage_longest_hours = 1\n{}{}[flows.cache]\nkeys = [\"*\"]\n",
        unit("A", source),
        unit("B", target)
    )
}

/// Pipelined writes of random keys.
async fn write(server: &Redis, commands: u64, bytes: usize) -> anyhow::Result<()> {
    let client = redis::Client::open(server.url())?;
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(LIMIT));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let mut random = Random::new(7);
    let value = vec![b'x'; bytes];
    let mut left = commands;
    while left > 0 {
        let some = left.min(AT_ONCE);
        let mut pipeline = redis::pipe();
        for _ in 0..some {
            let key = format!("key:{}", random.place(KEYS));
            pipeline.cmd("SET").arg(key).arg(&value).ignore();
        }
        pipeline.query_async::<()>(&mut connection).await?;
        left -= some;
    }
    Ok(())
}

async fn drain_natively(source: &Redis, replica: &Redis, commands: u64) -> anyhow::Result<Drained> {
    let end = info(source, "master_repl_offset").await?;
    let pid = replica.pid().context("the replica has gone")?;
    let mut meter = Meter::start(&[pid])?;
    replica.resume()?;
    until("the replica has all", async || {
        Ok(offset(&info(replica, "slave_repl_offset").await?)? >= offset(&end)?)
    })
    .await?;
    let reading = meter.stop(&[])?;
    // It takes no part in what follows.
    replica.stop().await?;
    Ok(Drained::of(&reading, commands))
}

async fn drain_ours(flow: &Flow, target: &Redis, commands: u64) -> anyhow::Result<Drained> {
    let mut meter = Meter::start(&[target.pid().context("the target has gone")?])?;
    let mut workers =
        ROLES.into_iter().map(|role| flow.start(role)).collect::<anyhow::Result<Vec<_>>>()?;
    let wait = ["wait", "--from", "A", "--to", "B", "--timeout-seconds", "600"];
    flow.unitflow(&wait, LIMIT).await?;
    let pids: Vec<u32> = workers.iter().map(|worker| worker.pid()).collect();
    let mut reading = meter.stop(&pids)?;
    // The workers first, then the target.
    reading.cpu.rotate_left(1);
    flow::ensure_alive(&mut workers).with_context(|| flow::log_ends(&workers))?;
    flow::stop(&mut workers).await?;
    Ok(Drained::of(&reading, commands))
}

async fn info(server: &Redis, name: &str) -> anyhow::Result<String> {
    let text = server.cli(["INFO", "replication"]).await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name} in {text}"))?.trim().to_owned())
}

fn offset(text: &str) -> anyhow::Result<u64> {
    text.parse().with_context(|| format!("{text:?} is no offset"))
}

async fn until(what: &str, is_so: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is_so().await? {
        ensure!(begun.elapsed() < LIMIT, "not in time: {what}");
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}
