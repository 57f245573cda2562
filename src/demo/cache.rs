//! The shop's cache: a Redis in one unit and a Valkey in the other, written beside the databases.
//!
//! Carts, sessions and lists belong to one unit; one counter and one ranking belong to both, and both add to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, RedisError, Value};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use unitflow_change::{Code, Fault};
use unitflow_local::{Redis, RedisFlavor};

use crate::demo::local;

/// From one pipeline of a client to its next one.
const PACE: Duration = Duration::from_millis(20);
/// A server answers within this, also where a process beside it is killed and started again.
const ANSWER: Duration = Duration::from_secs(30);
/// Carts, and as many sessions, of each unit.
const CARTS: u64 = 200;
/// Keys that are compared at once.
const KEYS_AT_ONCE: usize = 500;
/// What the names of Unitflow's own keys begin with.
const OWN_KEYS: &[u8] = b"unitflow:";

/// A unit's Redis.
#[derive(Debug)]
pub struct Cache {
    /// The server.
    pub server: Redis,
    /// What it calls itself: `Redis 7.0.15`.
    pub version: String,
}

impl Cache {
    /// Starts an empty one.
    pub async fn start(flavor: RedisFlavor) -> Result<Self, Fault> {
        // By its own digests it is compared.
        let setup = Redis::setup().flavor(flavor).setting("enable-debug-command", "yes");
        let server = setup.setting("repl-backlog-size", "64mb").start().await.map_err(local)?;
        let info = server.cli(["INFO", "server"]).await.map_err(local)?;
        let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name));
        let version = match value("valkey_version:") {
            Some(version) => format!("Valkey {}", version.trim()),
            None => format!("Redis {}", value("redis_version:").unwrap_or_default().trim()),
        };
        Ok(Self { server, version })
    }

    /// A connection as the shop's application has it.
    pub async fn connect(&self) -> Result<MultiplexedConnection, Fault> {
        let client = Client::open(self.server.url()).map_err(|error| self.fault(&error))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER))
            .set_response_timeout(Some(ANSWER));
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        connected.map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &RedisError) -> Fault {
        Fault::fatal(Code::Local, format!("{}: {error}", self.version))
    }
}

/// What was written and acknowledged in one unit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Commands.
    pub commands: u64,
    /// What was added to the counter of both units.
    pub visits: i64,
}

/// A client in each unit, at work until it is stopped.
#[derive(Debug)]
pub struct Users {
    stop: Arc<AtomicBool>,
    tasks: Vec<AbortOnDropHandle<Result<Used, Fault>>>,
}

impl Users {
    /// Begins to write in these units' caches.
    pub async fn start(caches: &[(&'static str, &Cache)]) -> Result<Self, Fault> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for (unit, cache) in caches {
            let writing = write(unit, cache.connect().await?, stop.clone());
            tasks.push(AbortOnDropHandle::new(tokio::spawn(writing)));
        }
        Ok(Self { stop, tasks })
    }

    /// Ends it; what was written, by unit.
    pub async fn stop(self) -> Result<[Used; 2], Fault> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = [Used::default(); 2];
        for (used, task) in all.iter_mut().zip(self.tasks) {
            *used = task.await.map_err(|panic| {
                Fault::fatal(Code::Bug, format!("a user of a cache panicked: {panic}"))
            })??;
        }
        Ok(all)
    }
}

async fn write(
    unit: &'static str,
    mut conn: MultiplexedConnection,
    stop: Arc<AtomicBool>,
) -> Result<Used, Fault> {
    let mut used = Used::default();
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        ticks.tick().await;
        let (number, visits) = (round % CARTS, i64::try_from(round % 7 + 1).unwrap_or(1));
        let mut pipeline = Pipeline::new();
        pipeline.cmd("INCRBY").arg("visits").arg(visits);
        pipeline.cmd("ZINCRBY").arg("bestsellers").arg(1).arg(format!("product {}", round % 20));
        pipeline.cmd("HINCRBY").arg(format!("cart:{unit}:{number}")).arg("tea").arg(1);
        pipeline.cmd("SET").arg(format!("session:{unit}:{number}")).arg(round).arg("EX").arg(3600);
        pipeline.cmd("LPUSH").arg(format!("recent:{unit}")).arg(round);
        pipeline.cmd("LTRIM").arg(format!("recent:{unit}")).arg(0).arg(99);
        pipeline.cmd("XADD").arg(format!("events:{unit}")).arg("*").arg("order").arg(round);
        pipeline.exec_async(&mut conn).await.map_err(|error| {
            Fault::fatal(Code::Local, format!("a user of the cache in unit {unit}: {error}"))
        })?;
        used.commands += pipeline.len() as u64;
        used.visits += visits;
    }
    Ok(used)
}

/// Both caches, compared by the servers' own digests.
#[derive(Debug)]
pub struct CachesCompared {
    /// Keys in each unit.
    pub keys: [u64; 2],
    /// What the counter of both shows in each unit.
    pub visits: [i64; 2],
    /// The first key that is not the same in both, if there is one.
    pub difference: Option<String>,
}

/// Compares two units' caches: each key's type, digest and time to live.
pub async fn compare(first: &Cache, second: &Cache) -> Result<CachesCompared, Fault> {
    let (one, other) = tokio::try_join!(contents(first), contents(second))?;
    let all = one.keys().chain(other.keys());
    let difference = all.filter(|key| one.get(*key) != other.get(*key)).min();
    let visits = async |cache: &Cache| {
        let mut conn = cache.connect().await?;
        let visits: Result<Option<i64>, _> =
            redis::cmd("GET").arg("visits").query_async(&mut conn).await;
        visits.map(Option::unwrap_or_default).map_err(|error| cache.fault(&error))
    };
    Ok(CachesCompared {
        keys: [one.len() as u64, other.len() as u64],
        visits: [visits(first).await?, visits(second).await?],
        difference: difference.map(|key| key.escape_ascii().to_string()),
    })
}

/// What a cache holds: each key, and what has to be the same everywhere.
async fn contents(cache: &Cache) -> Result<BTreeMap<Vec<u8>, Vec<Value>>, Fault> {
    let judge = |error: RedisError| cache.fault(&error);
    let mut conn = cache.connect().await?;
    let keys: Vec<Vec<u8>> =
        redis::cmd("KEYS").arg("*").query_async(&mut conn).await.map_err(judge)?;
    let keys: Vec<_> = keys.into_iter().filter(|key| !key.starts_with(OWN_KEYS)).collect();
    let mut contents = BTreeMap::new();
    for some in keys.chunks(KEYS_AT_ONCE) {
        let mut asked = Pipeline::new();
        for key in some {
            asked.cmd("TYPE").arg(key).cmd("DEBUG").arg("DIGEST-VALUE").arg(key);
            asked.cmd("PEXPIRETIME").arg(key);
        }
        let answers: Vec<Value> = asked.query_async(&mut conn).await.map_err(judge)?;
        let held = answers.chunks(3).map(<[Value]>::to_vec);
        contents.extend(some.iter().cloned().zip(held));
    }
    Ok(contents)
}
