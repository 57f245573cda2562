//! Units with a Redis or Valkey each hold the same while all write and workers are killed.
//!
//! The judge is twofold: the servers' own digests must be equal everywhere, and what can be counted must be
//! exactly what was acknowledged.

mod fill;
mod load;
mod mesh;
mod written;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use load::{Load, Written};
use mesh::{QUIET, RedisMesh, connect};
use tokio::time::sleep;
use unitflow_harness::random::{Random, is_full, seed};
use unitflow_harness::{alone, beside};
use unitflow_local::RedisFlavor::{Redis7, Redis8, Valkey};

/// A stage that dies, and comes again.
const ROLES: [&str; 3] = ["connector", "transformer", "sink"];
/// From one kill to the next one.
const BETWEEN_KILLS: Duration = Duration::from_millis(1_200);
/// Commands a second that two units must have acknowledged while workers died.
const PER_SECOND: f64 = 1_000.0;

/// A connector that can't go on says so within this.
const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// No test takes longer.
fn limit() -> Duration {
    Duration::from_secs(if is_full() { 400 } else { 180 })
}

/// How long is written where nothing is killed.
fn while_written() -> Duration {
    Duration::from_secs(if is_full() { 30 } else { 6 })
}

#[test]
fn two_units_stay_equal_under_kills() {
    alone("two Redis units under kills", limit(), async {
        let random = Random::new(seed("redis"));
        let mut mesh = RedisMesh::of(&[Redis7, Valkey]).start().await?;
        let load = write_everywhere(&mesh, 2, &random);
        let mut choice = random.branch(1);
        let kills = if is_full() { 20 } else { 6 };
        for _ in 0..kills {
            sleep(BETWEEN_KILLS).await;
            let unit = ["A", "B"][choice.place(2)];
            mesh.kill_and_restart(unit, ROLES[choice.place(ROLES.len())])?;
        }
        sleep(BETWEEN_KILLS).await;
        let written = load.stop().await?;
        ensure!(
            written.per_second() >= PER_SECOND,
            "only {:.0} commands a second",
            written.per_second()
        );
        ensure_done(&mut mesh, &written).await?;
        ensure_once(&mesh, &written).await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn three_units_stay_equal() {
    beside("three Redis units", limit(), async {
        let random = Random::new(seed("redis"));
        let mut mesh = RedisMesh::of(&[Redis7, Redis8, Valkey]).start().await?;
        write_for_a_while(&mut mesh, &random).await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn a_star_relays() {
    beside("a star of Redis units", limit(), async {
        let random = Random::new(seed("redis"));
        let mut mesh = RedisMesh::of(&[Redis7, Valkey, Redis8]).hub("A").start().await?;
        write_for_a_while(&mut mesh, &random).await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn an_expiry_does_not_travel() {
    beside("an expiry does not travel", limit(), async {
        let mut mesh = RedisMesh::of(&[Redis7, Valkey]).start().await?;
        come_up(&mesh).await?;
        renew_elsewhere(&mut mesh).await?;
        delete_what_expired_once(&mesh).await?;
        mesh.quiesce(QUIET).await?;
        mesh.ensure_equal().await?;
        mesh.finish();
        Ok(())
    });
}

/// Waits until what a unit writes is in all others at once: a key that soon expires has to be there before.
async fn come_up(mesh: &RedisMesh) -> anyhow::Result<()> {
    for from in mesh.units() {
        let key = format!("hello from {from}");
        mesh.server(&from).cli(["SET", &key, "1"]).await?;
        for to in mesh.units() {
            mesh.shows(&to, &["GET", &key], "1").await?;
        }
    }
    Ok(())
}

/// A key expires in A. B has renewed it, of which A knows nothing: its end in A must not be its end in B.
async fn renew_elsewhere(mesh: &mut RedisMesh) -> anyhow::Result<()> {
    mesh.worker("A", "sink")?.kill()?;
    // Long enough to be renewed before it expires in B.
    mesh.server("A").cli(["SET", "k", "v", "PX", "12000"]).await?;
    mesh.shows("B", &["GET", "k"], "v").await?;
    mesh.server("B").cli(["SET", "k", "v2"]).await?;
    // Asked for it, A deletes it and says so to whoever replicates.
    mesh.shows("A", &["EXISTS", "k"], "0").await?;
    mesh.server("A").cli(["SET", "after", "1"]).await?;
    mesh.shows("B", &["GET", "after"], "1").await?;
    mesh.settle(QUIET).await?;
    mesh.shows("B", &["GET", "k"], "v2").await?;
    ensure!(mesh.server("A").cli(["EXISTS", "k"]).await? == "0", "A's sink was not stopped");
    mesh.start_worker("A", "sink")?;
    mesh.shows("A", &["GET", "k"], "v2").await?;
    mesh.quiesce(QUIET).await?;
    mesh.ensure_equal().await
}

/// Keys that had an expiry and have none any more are deleted when that time is over: these deletions are a
/// client's, and travel.
async fn delete_what_expired_once(mesh: &RedisMesh) -> anyhow::Result<()> {
    const MS: u64 = 2_000;
    let keys = ["emptied", "overwritten", "persisted", "renamed"];
    let mut conn = connect(&mesh.server("A").url(), 0).await?;
    let mut pipe = redis::pipe();
    for key in keys {
        if key == "emptied" {
            pipe.cmd("LPUSH").arg(key).arg("a");
            pipe.cmd("PEXPIRE").arg(key).arg(MS);
        } else {
            pipe.cmd("SET").arg(key).arg("a").arg("PX").arg(MS);
        }
    }
    // The list is gone with its last element, and comes again without an expiry.
    pipe.cmd("LPOP").arg("emptied");
    pipe.cmd("LPUSH").arg("emptied").arg("b");
    pipe.cmd("SET").arg("overwritten").arg("b");
    pipe.cmd("PERSIST").arg("persisted");
    // The expiry goes with the value.
    pipe.cmd("RENAME").arg("renamed").arg("elsewhere");
    pipe.cmd("SET").arg("renamed").arg("b");
    let given = Instant::now();
    pipe.exec_async(&mut conn).await?;
    let all: Vec<&str> = ["EXISTS"].into_iter().chain(keys).collect();
    mesh.shows("B", &all, "4").await?;
    let over = Duration::from_millis(MS + 300);
    sleep(over.saturating_sub(given.elapsed())).await;
    mesh.shows("B", &all, "4").await?;
    let delete: Vec<&str> = ["DEL"].into_iter().chain(keys).collect();
    let deleted = mesh.server("A").cli(&delete).await?;
    ensure!(deleted == "4", "A had {deleted} of {keys:?}");
    mesh.shows("B", &all, "0").await?;
    mesh.shows("B", &["EXISTS", "elsewhere"], "0").await
}

/// What comes after its time: a key that was renewed before it expired, and one that expired and was made anew.
#[test]
fn what_arrives_late_is_as_at_the_source() {
    beside("what arrives late", limit(), async {
        let mut mesh = RedisMesh::of(&[Redis8, Redis7]).start().await?;
        come_up(&mesh).await?;
        mesh.worker("B", "sink")?.kill()?;
        let a = mesh.server("A");
        a.cli(["SET", "renewed", "1", "PX", "1500"]).await?;
        a.cli(["PERSIST", "renewed"]).await?;
        a.cli(["SET", "counter", "7", "PX", "1500"]).await?;
        a.cli(["RPUSH", "list", "a"]).await?;
        a.cli(["PEXPIRE", "list", "1500"]).await?;
        a.cli(["EXPIRE", "list", "1000"]).await?;
        a.cli(["SET", "gone", "1", "PX", "1500"]).await?;
        sleep(Duration::from_secs(3)).await;
        a.cli(["INCR", "counter"]).await?;
        mesh.start_worker("B", "sink")?;
        mesh.quiesce(QUIET).await?;
        mesh.ensure_equal().await?;
        let b = mesh.server("B");
        ensure!(b.cli(["GET", "counter"]).await? == "1", "it counted on from before");
        ensure!(b.cli(["EXISTS", "renewed", "list", "gone"]).await? == "2", "what is left differs");
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn idle_units_stay_still() {
    beside("idle Redis units stay still", limit(), async {
        let random = Random::new(seed("redis"));
        let mut mesh = RedisMesh::of(&[Redis7, Valkey]).start().await?;
        let load = write_everywhere(&mesh, 1, &random);
        sleep(while_written() / 2).await;
        let written = load.stop().await?;
        // Some expire in both units at the same time, and some are set in both.
        let mut dice = random.branch(2);
        for unit in mesh.units() {
            let mut conn = connect(&mesh.server(&unit).url(), 0).await?;
            let mut pipe = redis::pipe();
            for number in 0..100 {
                let whose = if number % 3 == 0 { "all" } else { unit.as_str() };
                let key = format!("short-lived {number} of {whose}");
                let ms = 1_000 + dice.below(1_000);
                pipe.cmd("SET").arg(key).arg(&unit).arg("PX").arg(ms);
            }
            pipe.exec_async(&mut conn).await?;
        }
        // Longer than the last of them lives.
        sleep(Duration::from_millis(2_500)).await;
        ensure_done(&mut mesh, &written).await?;
        for unit in mesh.units() {
            let left = mesh.server(&unit).cli(["--scan", "--pattern", "short-lived*"]).await?;
            ensure!(left.is_empty(), "{unit} still has {left}");
        }
        mesh.finish();
        Ok(())
    });
}

/// What it applied it keeps, and its sink goes on. Its own log it can't go on with, because it has forgotten its
/// history: the connector says so, and an order lets the log begin behind the gap. What was written in it is brought by
/// another.
#[test]
fn a_redis_that_is_killed_comes_back() {
    beside("a Redis that is killed", limit(), async {
        let random = Random::new(seed("redis"));
        // What a server says it has done outlives it.
        let setup = RedisMesh::of(&[Redis7, Redis8]).setting("appendfsync", "always");
        let mut mesh = setup.start().await?;
        let mut load = Load::none();
        load.on("A", mesh.server("A"), 2, &random);
        sleep(Duration::from_secs(2)).await;
        mesh.server("B").kill().await?;
        sleep(Duration::from_secs(1)).await;
        mesh.server("B").start_again().await?;
        mesh.worker("B", "connector")?
            .says("code=position_purged", Duration::from_secs(20))
            .await?;
        sleep(Duration::from_secs(2)).await;
        mesh.server("B").cli(["SET", "in the gap", "1"]).await?;
        let anew = ["resync", "anew", "--from", "B", "--store", "cache", "--why", "killed"];
        mesh.run(&anew).await?;
        mesh.restart("B", "connector")?;
        mesh.server("B").cli(["SET", "behind the gap", "1"]).await?;
        mesh.shows("A", &["GET", "behind the gap"], "1").await?;
        let told = mesh.run(&anew).await.err().context("a log at work began anew")?.to_string();
        ensure!(told.contains("the connector of B.cache is at work"), "{told}");
        ensure!(
            mesh.server("A").cli(["EXISTS", "in the gap"]).await? == "0",
            "it came all the same"
        );
        let full =
            ["resync", "full", "--from", "B", "--store", "cache", "--why=killed", "--by=test"];
        let copying = mesh.begin(&full);
        mesh.shows("A", &["GET", "in the gap"], "1").await?;
        // What A writes faster than B can answer is not settled before that is over.
        let written = load.stop().await?;
        copying.await.context("the command panicked")??;
        ensure_done(&mut mesh, &written).await?;
        mesh.finish();
        Ok(())
    });
}

/// What a person at night would do: wait for a unit, hold a flow, see what did not fit, let it go on.
#[test]
fn a_flow_is_held_and_looked_into() {
    beside("a Redis flow is held", limit(), async {
        let mut mesh = RedisMesh::of(&[Redis7, Redis8]).start().await?;
        come_up(&mesh).await?;
        let why = ["--why", "test", "--by", "test"];
        mesh.server("A").cli(["SET", "x", "1"]).await?;
        let told = mesh.run(&["wait", "--from", "A", "--to", "B"]).await?;
        ensure!(told.contains("A.cache to B: applied after"), "{told}");
        ensure!(mesh.server("B").cli(["GET", "x"]).await? == "1", "it was not");
        for flow in ["A-to-B.cache", "B-to-A.cache"] {
            mesh.run(&[&["pause", flow], &why[..]].concat()).await?;
        }
        sleep(Duration::from_secs(1)).await;
        mesh.server("A").cli(["RPUSH", "q", "a"]).await?;
        mesh.server("A").cli(["SET", "y", "1"]).await?;
        mesh.server("B").cli(["SET", "q", "b"]).await?;
        let wait = ["wait", "--from", "A", "--to", "B", "--timeout-seconds", "4"];
        let told = mesh.run(&wait).await.err().context("it did not wait")?.to_string();
        ensure!(told.contains("the sink is behind"), "{told}");
        ensure!(mesh.server("B").cli(["EXISTS", "y"]).await? == "0", "the flow was not held");
        // B has a text where A has a list.
        mesh.run(&[&["resume", "A-to-B.cache"], &why[..]].concat()).await?;
        mesh.worker("B", "sink")?.says("code=conflict", STOPS_WITHIN).await?;
        mesh.restart("B", "sink")?;
        mesh.shows("B", &["GET", "y"], "1").await?;
        mesh.run(&[&["resume", "B-to-A.cache"], &why[..]].concat()).await?;
        mesh.shows("A", &["GET", "q"], "b").await?;
        mesh.quiesce(QUIET).await?;
        mesh.ensure_equal().await?;
        mesh.server("A").cli(["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await?;
        let told = mesh.run(&["check"]).await.err().context("all is well")?.to_string();
        ensure!(told.contains("error [setting] A.cache: maxmemory-policy"), "{told}");
        ensure!(!told.contains("error [setting] B.cache"), "{told}");
        mesh.change_flow("eviction = \"travels\"")?;
        let told = mesh.run(&["check"]).await?;
        ensure!(told.contains("0 errors"), "{told}");
        mesh.server("B").cli(["ACL", "SETUSER", "unitflow", "-hgetall"]).await?;
        let told = mesh.run(&["check"]).await.err().context("all is well")?.to_string();
        ensure!(told.contains("error [grant] B.cache: HGETALL unitflow:none"), "{told}");
        mesh.finish();
        Ok(())
    });
}

/// Its replica takes the place of a server that dies. Its history has another name, and the log goes on in it; what is
/// applied there was applied once.
#[test]
fn a_unit_fails_over_to_its_replica() {
    beside("a Redis unit fails over", limit(), async {
        let random = Random::new(seed("redis"));
        let mut mesh = RedisMesh::of(&[Redis7, Valkey]).standby("A").start().await?;
        let load = write_everywhere(&mesh, 1, &random);
        sleep(Duration::from_secs(3)).await;
        let mut written = load.stop().await?;
        mesh.quiesce(QUIET).await?;
        mesh.fail_over("A").await?;
        let load = write_everywhere(&mesh, 1, &random.branch(7));
        sleep(Duration::from_secs(3)).await;
        written.add(load.stop().await?);
        ensure_done(&mut mesh, &written).await?;
        mesh.finish();
        Ok(())
    });
}

/// A unit that has lost its place, as after a FLUSHALL, gets another one where the log begins anew.
#[test]
fn a_lost_ledger_is_made_anew() {
    beside("a lost Redis ledger", limit(), async {
        let mut mesh = RedisMesh::of(&[Redis8, Valkey]).start().await?;
        come_up(&mesh).await?;
        let b = mesh.server("B");
        b.cli(["DEL", "unitflow:ledger:A.cache:0"]).await?;
        mesh.server("A").cli(["SET", "x", "1"]).await?;
        mesh.worker("B", "sink")?.says("code=ledger_missing", STOPS_WITHIN).await?;
        mesh.worker("A", "connector")?.kill()?;
        mesh.server("A").cli(["SET", "y", "1"]).await?;
        let anew = ["resync", "anew", "--from", "A", "--store", "cache", "--why", "flushed"];
        let told = mesh.run(&anew).await?;
        ensure!(told.contains("A.cache to B: 1 lanes in the ledger"), "{told}");
        mesh.start_worker("A", "connector")?;
        mesh.restart("B", "sink")?;
        for key in ["x", "y", "z"] {
            mesh.server("A").cli(["SET", key, "2"]).await?;
        }
        mesh.quiesce(QUIET).await?;
        mesh.ensure_equal().await?;
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn a_dangerous_command_stops_and_is_let_by() {
    beside("FLUSHDB stops, and is let by", limit(), async {
        let mut mesh = RedisMesh::of(&[Redis7, Valkey]).start().await?;
        mesh.server("A").cli(["-n", "3", "SET", "x", "1"]).await?;
        mesh.shows("B", &["-n", "3", "GET", "x"], "1").await?;
        mesh.server("A").cli(["-n", "3", "FLUSHDB"]).await?;
        mesh.worker("A", "connector")?.says("code=command", STOPS_WITHIN).await?;
        let begin = Instant::now();
        loop {
            let status =
                mesh.run(&["status"]).await.err().map_or_else(String::new, |told| told.to_string());
            if status.contains("[command]")
                && status.contains("commands = { \"FLUSHDB\" = \"stay\" }")
            {
                break;
            }
            ensure!(begin.elapsed() < QUIET, "status does not show what to do: {status}");
            sleep(Duration::from_millis(300)).await;
        }
        mesh.change_flow("commands = { FLUSHDB = \"stay\" }")?;
        mesh.restart("A", "connector")?;
        mesh.server("A").cli(["SET", "y", "2"]).await?;
        mesh.shows("B", &["GET", "y"], "2").await?;
        let kept = mesh.server("B").cli(["-n", "3", "GET", "x"]).await?;
        ensure!(kept == "1", "the command went on to B, where x is {kept:?}");
        mesh.ensure_alive()?;
        mesh.finish();
        Ok(())
    });
}

/// All units write from now on, each by this many clients.
fn write_everywhere(mesh: &RedisMesh, clients: u32, random: &Random) -> Load {
    let mut load = Load::none();
    for unit in mesh.units() {
        load.on(&unit, mesh.server(&unit), clients, random);
    }
    load
}

/// All units write for some seconds.
async fn write_for_a_while(mesh: &mut RedisMesh, random: &Random) -> anyhow::Result<()> {
    let load = write_everywhere(mesh, 1, random);
    sleep(while_written()).await;
    let written = load.stop().await?;
    ensure_done(mesh, &written).await?;
    ensure_once(mesh, &written).await
}

/// Each server has carried out each write once, by its own statistics.
async fn ensure_once(mesh: &RedisMesh, written: &Written) -> anyhow::Result<()> {
    for unit in mesh.units() {
        written.ensure_once(&unit, mesh.server(&unit)).await?;
    }
    Ok(())
}

/// All that has to hold at rest: everything has arrived, all units are equal, what can be counted is there
/// exactly once, and nothing moves any more.
async fn ensure_done(mesh: &mut RedisMesh, written: &Written) -> anyhow::Result<()> {
    let begin = Instant::now();
    written.ensure_known()?;
    mesh.quiesce(QUIET).await?;
    println!("  quiet after {:.1?}", begin.elapsed());
    mesh.ensure_equal().await?;
    for unit in mesh.units() {
        written.ensure_in(&unit, mesh.server(&unit)).await?;
    }
    mesh.ensure_still().await?;
    mesh.ensure_alive()
}
