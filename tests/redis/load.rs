//! Clients that write all kinds of commands on a unit until they are stopped, and keep what was
//! acknowledged.
//!
//! Counters are everybody's: every unit adds to them. Lists and streams are one unit's, all other keys one
//! client's. What can be counted is counted, so that it is known to the last one what must be there. Where a
//! connection broke before the answer, nobody knows whether the server did it: such commands are kept
//! apart, and widen what is expected.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisError, RedisResult, Value};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use unitflow_harness::random::Random;
use unitflow_local::Redis;

use crate::mesh::connect;

/// Commands that a client sends at once.
const AT_ONCE: u64 = 30;
/// From one pipeline of a client to its next one: some 650 commands a second for each client.
const PACE: Duration = Duration::from_millis(50);
/// Before a lost server is asked again.
const PAUSE: Duration = Duration::from_millis(50);
/// The databases that are written.
const DATABASES: u32 = 2;
/// Counters in each database.
const COUNTERS: u64 = 6;
/// Lists, and as many streams, of each unit in each database.
const LISTS: u64 = 3;
/// Keys of each kind that a client has to itself.
const OWN: u64 = 12;
/// Errors that a command may meet: RENAME of a key that is not there.
const NO_SUCH_KEY: &str = "no such key";

/// Gives each amount once, so that a missing one is not made up for by one that came twice.
static AMOUNT: AtomicI64 = AtomicI64::new(1);

fn amount() -> i64 {
    AMOUNT.fetch_add(1, Ordering::Relaxed)
}

/// Clients at work.
pub struct Load {
    begun: Instant,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<anyhow::Result<Written>>,
    /// How many clients there have been.
    clients: u32,
}

impl Load {
    /// Nobody writes.
    pub fn none() -> Self {
        Self { begun: Instant::now(), stop: Arc::default(), tasks: JoinSet::new(), clients: 0 }
    }

    /// This many clients write on a unit from now on.
    pub fn on(&mut self, unit: &str, server: &Redis, clients: u32, random: &Random) {
        for place in 0..clients {
            let client = Client {
                url: server.url(),
                unit: unit.to_owned(),
                name: format!("{unit}{}", self.clients),
                // Counters are shared with the other units' clients of the same database.
                database: place % DATABASES,
                random: random.branch(u64::from(self.clients) + 1_000),
                written: Written::default(),
            };
            self.clients += 1;
            self.tasks.spawn(client.write(self.stop.clone()));
        }
    }

    /// Ends them, and says what they have written.
    pub async fn stop(mut self) -> anyhow::Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        let took = self.begun.elapsed();
        let mut all = Written { took, ..Written::default() };
        while let Some(written) = self.tasks.join_next().await {
            all.add(written.context("a client panicked")??);
        }
        println!(
            "  {} commands acknowledged at {:.0}/s, {} unknown",
            all.acknowledged,
            all.per_second(),
            all.unknown
        );
        Ok(all)
    }
}

/// What can be counted of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Its value.
    Counter,
    /// Its length.
    List,
    /// Its entries.
    Stream,
}

impl Kind {
    const fn command(self) -> &'static str {
        match self {
            Self::Counter => "GET",
            Self::List => "LLEN",
            Self::Stream => "XLEN",
        }
    }
}

/// A key that is counted: its database, what of it, and its name.
type Counted = (u32, Kind, Vec<u8>);

/// What must be there.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Was acknowledged.
    sure: i64,
    /// May have come to that: nothing or less.
    least: i64,
    /// May have come to that: nothing or more.
    most: i64,
}

/// What was written and acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Written {
    took: Duration,
    acknowledged: u64,
    /// Commands of which nobody knows whether they were carried out.
    unknown: u64,
    tallies: BTreeMap<Counted, Tally>,
    /// How often each command was acknowledged that is counted, by its name.
    calls: BTreeMap<&'static str, u64>,
}

impl Written {
    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        for (counted, more) in other.tallies {
            let tally = self.tallies.entry(counted).or_default();
            tally.sure += more.sure;
            tally.least += more.least;
            tally.most += more.most;
        }
        for (name, calls) in other.calls {
            *self.calls.entry(name).or_default() += calls;
        }
    }

    /// A pipeline was acknowledged.
    fn know(&mut self, turn: Turn) {
        self.acknowledged += turn.commands;
        for name in turn.calls {
            *self.calls.entry(name).or_default() += 1;
        }
        for (counted, amount) in turn.counts {
            self.tallies.entry(counted).or_default().sure += amount;
        }
    }

    /// A pipeline may have been carried out, all of it or some.
    fn doubt(&mut self, turn: Turn) {
        self.unknown += turn.commands;
        for (counted, amount) in turn.counts {
            let tally = self.tallies.entry(counted).or_default();
            tally.least += amount.min(0);
            tally.most += amount.max(0);
        }
    }

    /// Commands acknowledged a second, of all clients together.
    pub fn per_second(&self) -> f64 {
        self.acknowledged as f64 / self.took.as_secs_f64().max(0.001)
    }

    /// Whether all that was written is known.
    pub fn ensure_known(&self) -> anyhow::Result<()> {
        ensure!(self.unknown == 0, "of {} commands nobody knows", self.unknown);
        ensure!(self.tallies.len() > 10, "only {} keys are counted", self.tallies.len());
        Ok(())
    }

    /// Whether a unit has all that was counted: each addition, element and entry once.
    pub async fn ensure_in(&self, unit: &str, server: &Redis) -> anyhow::Result<()> {
        let mut wrong = Vec::new();
        for database in 0..DATABASES {
            let mut conn = connect(&server.url(), database).await?;
            for ((_, kind, key), tally) in self.tallies.iter().filter(|(of, _)| of.0 == database) {
                let mut ask = redis::cmd(kind.command());
                let found: Option<i64> = ask.arg(key).query_async(&mut conn).await?;
                let found = found.unwrap_or(0);
                let Tally { sure, least, most } = *tally;
                if !(sure + least..=sure + most).contains(&found) {
                    let name = key.escape_ascii();
                    wrong.push(format!(
                        "{kind:?} {name} in {database}: {found}, {sure} was written"
                    ));
                }
            }
        }
        let shown = wrong.iter().take(10).cloned().collect::<Vec<_>>().join("\n");
        ensure!(wrong.is_empty(), "unit {unit}: {} counts are wrong:\n{shown}", wrong.len());
        println!("  {unit}: all {} counts are as written", self.tallies.len());
        Ok(())
    }
}

impl Written {
    /// Whether a server, by its own statistics, carried out each write once: as many as all units acknowledged.
    pub async fn ensure_once(&self, unit: &str, server: &Redis) -> anyhow::Result<()> {
        let stats = server.cli(["INFO", "commandstats"]).await?;
        for (name, written) in &self.calls {
            let line = stats.lines().find_map(|line| {
                line.strip_prefix("cmdstat_")?.strip_prefix(name)?.strip_prefix(":calls=")
            });
            let calls = line.and_then(|line| line.split(',').next()?.parse::<u64>().ok());
            ensure!(
                calls == Some(*written),
                "{unit} counts {calls:?} calls of {name}, {written} were written"
            );
        }
        println!("  {unit}: each write once, by its own statistics: {:?}", self.calls);
        Ok(())
    }
}

/// One pipeline, and what it adds to.
struct Turn {
    pipe: Pipeline,
    commands: u64,
    counts: Vec<(Counted, i64)>,
    /// The names of those of its commands that are counted.
    calls: Vec<&'static str>,
}

/// One client, with keys of its own.
struct Client {
    url: String,
    unit: String,
    name: String,
    database: u32,
    random: Random,
    written: Written,
}

impl Client {
    async fn write(mut self, stop: Arc<AtomicBool>) -> anyhow::Result<Written> {
        let mut conn = connect(&self.url, self.database).await?;
        let mut tick = interval(PACE);
        while !stop.load(Ordering::Relaxed) {
            tick.tick().await;
            for turn in [self.mixed(), self.moving()] {
                let answers: RedisResult<Vec<RedisResult<Value>>> =
                    turn.pipe.query_async(&mut conn).await;
                match answers {
                    Ok(answers) => {
                        ensure_done(answers).with_context(|| format!("client {}", self.name))?;
                        self.written.know(turn);
                    }
                    Err(error) if is_lost(&error) => {
                        self.written.doubt(turn);
                        match self.connect_again(&stop).await {
                            Some(again) => conn = again,
                            None => return Ok(self.written),
                        }
                    }
                    Err(error) => {
                        return Err(error).with_context(|| format!("client {}", self.name));
                    }
                }
            }
        }
        Ok(self.written)
    }

    /// As soon as the server is back; none where the client is to stop before.
    async fn connect_again(&self, stop: &AtomicBool) -> Option<MultiplexedConnection> {
        while !stop.load(Ordering::Relaxed) {
            sleep(PAUSE).await;
            if let Ok(conn) = connect(&self.url, self.database).await {
                return Some(conn);
            }
        }
        None
    }

    /// Commands of all kinds, each by itself.
    fn mixed(&mut self) -> Turn {
        let mut pipe = redis::pipe();
        // A key to be renamed need not be there.
        pipe.ignore_errors();
        let mut counts = Vec::new();
        let mut calls = Vec::new();
        for _ in 0..AT_ONCE {
            match self.random.below(100) {
                0..16 => {
                    let key = format!("counter \"{}\"", self.random.below(COUNTERS)).into_bytes();
                    let more = amount();
                    pipe.cmd("INCRBY").arg(&key).arg(more);
                    calls.push("incrby");
                    counts.push(((self.database, Kind::Counter, key), more));
                }
                16..26 => {
                    let key = self.of_unit("list");
                    let elements = 1 + self.random.below(3);
                    pipe.cmd("LPUSH").arg(&key);
                    calls.push("lpush");
                    for _ in 0..elements {
                        pipe.arg(self.value());
                    }
                    counts.push(((self.database, Kind::List, key), elements as i64));
                }
                26..34 => {
                    let key = self.of_unit("stream");
                    pipe.cmd("XADD").arg(&key).arg("*").arg(self.value()).arg(self.value());
                    calls.push("xadd");
                    counts.push(((self.database, Kind::Stream, key), 1));
                }
                34..59 => self.members(&mut pipe),
                59..82 => self.passing(&mut pipe),
                _ => self.lasting(&mut pipe),
            }
        }
        Turn { pipe, commands: AT_ONCE, counts, calls }
    }

    /// A transaction of the server that moves an amount from one key to another.
    fn moving(&mut self) -> Turn {
        let from = self.random.below(OWN);
        let to = (from + 1 + self.random.below(OWN - 1)) % OWN;
        let (from, to) = (self.named("purse", from), self.named("purse", to));
        let (receipt, moved) = (self.own("receipt"), amount());
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.cmd("DECRBY").arg(&from).arg(moved);
        pipe.cmd("INCRBY").arg(&to).arg(moved);
        pipe.cmd("HSET").arg(receipt).arg("moved").arg(moved).arg("to").arg(&to);
        let counts = vec![
            ((self.database, Kind::Counter, from), -moved),
            ((self.database, Kind::Counter, to), moved),
        ];
        Turn { pipe, commands: 3, counts, calls: vec!["decrby", "incrby"] }
    }

    /// Members of sets and sorted sets, fields of hashes: they come, change and go.
    fn members(&mut self, pipe: &mut Pipeline) {
        let (place, member) = (self.random.below(9), format!("m {}", self.random.below(40)));
        match place {
            0 | 1 => pipe.cmd("SADD").arg(self.own("set")).arg(member).arg(self.value()),
            2 => pipe.cmd("SREM").arg(self.own("set")).arg(member),
            3 | 4 => pipe.cmd("HSET").arg(self.own("hash")).arg(member).arg(self.value()),
            5 => pipe.cmd("HDEL").arg(self.own("hash")).arg(member),
            6 => {
                let score = format!("{}.25", self.random.below(1_000));
                pipe.cmd("ZADD").arg(self.own("ranks")).arg(score).arg(member)
            }
            7 => pipe.cmd("ZINCRBY").arg(self.own("ranks")).arg("1.5").arg(member),
            _ => pipe.cmd("ZREM").arg(self.own("ranks")).arg(member),
        };
    }

    /// Keys that soon expire, are renewed before or after that, or are deleted.
    fn passing(&mut self, pipe: &mut Pipeline) {
        let (key, ms) = (self.own("passing"), 50 + self.random.below(751));
        match self.random.below(12) {
            0 | 1 => pipe.cmd("PEXPIRE").arg(key).arg(ms),
            2 => pipe.cmd("DEL").arg(key),
            _ => pipe.cmd("SET").arg(key).arg(self.value()).arg("PX").arg(ms),
        };
    }

    /// Keys that stay. Where they get an expiry it lies far ahead: all of them are compared in the end.
    fn lasting(&mut self, pipe: &mut Pipeline) {
        let key = self.own("lasting");
        match self.random.below(10) {
            0 => pipe.cmd("EXPIRE").arg(key).arg(1_000 + self.random.below(1_000)),
            1 => pipe.cmd("PERSIST").arg(key),
            2 => pipe.cmd("RENAME").arg(key).arg(self.own("lasting")),
            3 => pipe.cmd("DEL").arg(key).arg(self.own("lasting")),
            _ => pipe.cmd("SET").arg(key).arg(self.value()),
        };
    }

    /// One of the unit's keys of this kind.
    fn of_unit(&mut self, what: &str) -> Vec<u8> {
        format!("{what} '{}' {}", self.unit, self.random.below(LISTS)).into_bytes()
    }

    /// One of the client's own keys of this kind.
    fn own(&mut self, what: &str) -> Vec<u8> {
        let number = self.random.below(OWN);
        self.named(what, number)
    }

    /// Some names are no text.
    fn named(&self, what: &str, number: u64) -> Vec<u8> {
        let mut name = format!("{what} of \"{}\": {number}", self.name).into_bytes();
        if number.is_multiple_of(4) {
            name.extend([0xff, 0, b'\r', b'\n', 0xc3]);
        }
        name
    }

    /// Mostly text, sometimes bytes that are no text, sometimes nothing.
    fn value(&mut self) -> Vec<u8> {
        match self.random.below(12) {
            0 => Vec::new(),
            1 | 2 => {
                let length = 1 + self.random.below(40);
                (0..length).map(|_| self.random.next().to_le_bytes()[0]).collect()
            }
            3 => format!("{:x} ", self.random.next()).repeat(30).into_bytes(),
            _ => format!("value {}", self.random.below(1_000_000)).into_bytes(),
        }
    }
}

/// Whether each command did what it is for.
fn ensure_done(answers: Vec<RedisResult<Value>>) -> anyhow::Result<()> {
    for answer in answers {
        match answer {
            Err(error) if !error.to_string().contains(NO_SUCH_KEY) => bail!("refused: {error}"),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the answer is missing, so that nobody knows what was done.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}
