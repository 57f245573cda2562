//! What a unit's Redis holds comes to the others, while all of them write.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use unitflow_harness::random::{Random, is_full, seed};
use unitflow_harness::{alone, beside};
use unitflow_local::RedisFlavor::{Redis7, Redis8, Valkey};

use crate::load::Load;
use crate::mesh::{QUIET, RedisMesh, connect};
use crate::{ROLES, STOPS_WITHIN, come_up, ensure_done, limit, write_everywhere};

/// Of every type, in two databases, some of it to expire; and what has much in it.
const HELD: &str = r#"
    for _, db in ipairs({0, 3}) do
        redis.call('SELECT', db)
        for n = 1, 800 do
            redis.call('SET', 'held:text:' .. n, 'value ' .. n)
            redis.call('HSET', 'held:hash:' .. n, 'name', n, 'other', 'x')
            redis.call('RPUSH', 'held:list:' .. n, 1, 2, n)
        end
        for n = 1, 100 do
            redis.call('SADD', 'held:set:' .. n, 1, 'two', n)
            redis.call('ZADD', 'held:scores:' .. n, 1, 'one', n, 'n')
            redis.call('XADD', 'held:log:' .. n, '1-1', 'n', n)
            redis.call('XGROUP', 'CREATE', 'held:log:' .. n, 'readers', '0')
            redis.call('PEXPIREAT', 'held:text:' .. n, 4102444800000 + n)
            redis.call('PFADD', 'held:distinct', n)
        end
        for n = 1, 30000 do
            redis.call('RPUSH', 'held:long list', 'element ' .. n .. string.rep('x', 100))
        end
        redis.call('SETRANGE', 'held:long text', 5000000, 'end')
    end
    return 'OK'"#;

/// In the way of it: of other types, of other values, and what the other unit lacks.
const CLASHING: &str = r#"
    for n = 1, 300 do
        redis.call('RPUSH', 'held:text:' .. n, 'stale')
        redis.call('SET', 'held:hash:' .. n, 'stale')
        redis.call('SET', 'only here:' .. n, 'stale')
    end
    redis.call('SET', 'held:long list', 'stale')
    return 'OK'"#;

const FULL: [&str; 8] =
    ["resync", "full", "--from", "A", "--store", "cache", "--why=test", "--by=test"];

#[test]
fn a_store_that_holds_keys_is_copied_under_load_and_kills() {
    alone("a Redis store is copied", limit(), async {
        let random = Random::new(seed("redis fill"));
        let setup = RedisMesh::of(&[Redis7, Valkey]).holding("A", HELD).holding("B", CLASHING);
        let mut mesh = setup.start().await?;
        let load = write_everywhere(&mesh, 1, &random);
        // Slowly, so that something is left to be killed.
        let copying = mesh.begin(&[&FULL[..], &["--rows-per-second", "800"]].concat());
        let meddling = AbortOnDropHandle::new(tokio::spawn(meddle(
            mesh.server("A").url(),
            mesh.server("B").url(),
        )));
        let mut choice = random.branch(1);
        for _ in 0..if is_full() { 10 } else { 4 } {
            sleep(Duration::from_millis(1_300)).await;
            let unit = ["A", "B"][choice.place(2)];
            mesh.kill_and_restart(unit, ROLES[choice.place(ROLES.len())])?;
        }
        sleep(Duration::from_secs(2)).await;
        meddling.await.context("a client panicked")??;
        let written = load.stop().await?;
        let told = copying.await.context("the command panicked")??;
        ensure!(told.contains("B holds what A holds: *; "), "{told}");
        ensure_done(&mut mesh, &written).await?;
        let left = mesh.server("B").cli(["--scan", "--pattern", "only here*"]).await?;
        ensure!(left.is_empty(), "B still has {left}");
        let read = mesh.server("B").cli(["LLEN", "held:long list"]).await?;
        ensure!(read == "30000", "the long list has {read} elements");
        let left = mesh.server("B").cli(["KEYS", "unitflow:[afu]*"]).await?;
        ensure!(left.is_empty(), "of the copy is left: {left}");
        mesh.finish();
        Ok(())
    });
}

/// Lists that go and come again while the store is scanned, and in the target what takes a value from one key to another that
/// was not copied yet.
async fn meddle(a: String, b: String) -> anyhow::Result<()> {
    let (mut a, mut b) = (connect(&a, 0).await?, connect(&b, 0).await?);
    for n in 1..=200 {
        let list = format!("held:list:{}", 300 + n);
        redis::cmd("LPOP").arg(&list).arg(3).exec_async(&mut a).await?;
        let (text, moved) = (format!("held:text:{n}"), format!("held:moved:{n}"));
        redis::cmd("RENAME").arg(text).arg(moved).exec_async(&mut b).await?;
        let (hash, copied) = (format!("held:hash:{n}"), format!("held:copied:{n}"));
        redis::cmd("COPY").arg(hash).arg(copied).exec_async(&mut b).await?;
        sleep(Duration::from_millis(15)).await;
        redis::cmd("RPUSH").arg(&list).arg("again").exec_async(&mut a).await?;
    }
    Ok(())
}

#[test]
fn three_units_write_while_a_store_is_copied() {
    beside("a Redis store is copied among three", limit(), async {
        let random = Random::new(seed("redis fill"));
        let setup = RedisMesh::of(&[Redis8, Redis7, Valkey]).holding("A", HELD);
        let mut mesh = setup.holding("C", CLASHING).start().await?;
        let load = write_everywhere(&mesh, 1, &random);
        let copying = mesh.begin(&FULL);
        sleep(Duration::from_secs(4)).await;
        mesh.kill_and_restart("C", "sink")?;
        sleep(Duration::from_secs(4)).await;
        let written = load.stop().await?;
        let told = copying.await.context("the command panicked")??;
        ensure!(told.contains("B, C holds what A holds: *"), "{told}");
        ensure_done(&mut mesh, &written).await?;
        mesh.finish();
        Ok(())
    });
}

/// The server's backlog runs over while nobody reads it. What it held is brought by a copy, deletions too.
#[test]
fn a_backlog_that_ran_over_is_made_good() {
    beside("a Redis backlog ran over", limit(), async {
        let mut mesh =
            RedisMesh::of(&[Redis7, Redis8]).setting("repl-backlog-size", "1mb").start().await?;
        come_up(&mesh).await?;
        let a = mesh.server("A");
        for key in ["kept", "deleted", "another type", "moved"] {
            a.cli(["SET", key, "before"]).await?;
        }
        a.cli(["SET", "short-lived", "before", "PX", "3000"]).await?;
        mesh.shows("B", &["EXISTS", "kept", "deleted", "another type", "moved"], "4").await?;
        mesh.worker("A", "connector")?.kill()?;
        let a = mesh.server("A");
        a.cli(["DEL", "deleted", "another type"]).await?;
        a.cli(["RPUSH", "another type", "in the gap"]).await?;
        a.cli(["RENAME", "moved", "moved away"]).await?;
        a.cli(["INCRBY", "counted", "7"]).await?;
        let fill = "for n = 1, 60 do redis.call('SET', 'filler', string.rep('x', 50000) .. n) end";
        a.cli(["EVAL", fill, "0"]).await?;
        mesh.server("B").cli(["INCRBY", "counted", "5"]).await?;
        mesh.shows("A", &["GET", "counted"], "12").await?;
        mesh.start_worker("A", "connector")?;
        mesh.worker("A", "connector")?.says("code=position_purged", STOPS_WITHIN).await?;
        let said = mesh.worker("A", "connector")?.log()?;
        ensure!(said.contains("unitflow resync full --from A --store cache --why …"), "{said}");
        let copying = mesh.begin(&FULL);
        // As whoever supervises workers does.
        let begin = Instant::now();
        while !copying.is_finished() && begin.elapsed() < QUIET {
            sleep(Duration::from_millis(500)).await;
            if mesh.worker("A", "connector")?.ended().is_some() {
                mesh.restart("A", "connector")?;
            }
        }
        copying.await.context("the command panicked")??;
        mesh.server("A").cli(["INCR", "counted"]).await?;
        mesh.quiesce(QUIET).await?;
        mesh.ensure_equal().await?;
        mesh.shows("B", &["GET", "counted"], "13").await?;
        mesh.shows("B", &["EXISTS", "deleted", "moved", "short-lived"], "0").await?;
        mesh.shows("B", &["LRANGE", "another type", "0", "-1"], "in the gap").await?;
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

/// Nothing is left of what a unit held, its place in the others' logs neither. It gets all from one of them.
#[test]
fn a_unit_that_lost_everything_is_filled() {
    beside("a Redis unit that lost everything", limit(), async {
        let random = Random::new(seed("redis fill"));
        let setup = RedisMesh::of(&[Redis7, Redis8, Valkey]).holding("A", HELD);
        let mut mesh = setup.start().await?;
        mesh.change_flow("commands = { FLUSHALL = \"stay\" }")?;
        for unit in mesh.units() {
            mesh.restart(&unit, "connector")?;
        }
        come_up(&mesh).await?;
        let mut load = Load::none();
        for unit in ["A", "C"] {
            load.on(unit, mesh.server(unit), 1, &random);
        }
        sleep(Duration::from_secs(1)).await;
        mesh.server("B").cli(["FLUSHALL"]).await?;
        mesh.worker("B", "sink")?.says("code=ledger_missing", STOPS_WITHIN).await?;
        let copying = mesh.begin(&[&FULL[..], &["--to=B"]].concat());
        let keys = ["EXISTS", "unitflow:ledger:A.cache:0", "unitflow:ledger:C.cache:0"];
        mesh.shows("B", &keys, "2").await?;
        mesh.restart("B", "sink")?;
        sleep(Duration::from_secs(4)).await;
        let written = load.stop().await?;
        let told = copying.await.context("the command panicked")??;
        for log in ["A.cache", "C.cache"] {
            let made = format!("{log} to B: lane 0 in the ledger, which it lacked");
            ensure!(told.contains(&made), "{told}");
        }
        // What A held before is not in C.
        mesh.run(&[&FULL[..], &["--to=C"]].concat()).await?;
        ensure_done(&mut mesh, &written).await?;
        mesh.finish();
        Ok(())
    });
}

/// Neither a large store nor a large key has to fit in a worker's memory.
#[test]
fn a_large_key_is_copied_in_pieces() {
    let limit = Duration::from_secs(if is_full() { 1_200 } else { 180 });
    alone("a large Redis key is copied", limit, async {
        // Twelve MiB each: three of a list, one of a text, and eight of single keys.
        let (parts, peak) = if is_full() { (170, 256) } else { (17, 128) };
        let mut setup = RedisMesh::of(&[Redis8, Valkey]);
        for part in 1..=parts {
            setup = setup.holding(
                "A",
                &format!(
                    "local n = {part}
                     local function text(seed, size) return string.rep(seed .. ' ', size):sub(1, size) end
                     for m = 1, 192 do redis.call('RPUSH', 'long', text(n * m, 16384)) end
                     redis.call('APPEND', 'large', text('x' .. n, 1048576))
                     for m = 1, 512 do redis.call('SET', 'single:' .. n .. ':' .. m, text(m, 16384)) end"
                ),
            );
        }
        let mut mesh = setup.start().await?;
        let begin = Instant::now();
        let command = [&FULL[..], &["--rows-per-second=1000000"]].concat();
        let told = mesh.run(&command).await?;
        ensure!(told.contains("B holds what A holds"), "{told}");
        println!("  {} MiB copied in {:.1?}", 12 * parts, begin.elapsed());
        mesh.quiesce(QUIET).await?;
        mesh.ensure_equal().await?;
        for (unit, role) in [("A", "connector"), ("A", "transformer"), ("B", "sink")] {
            let kib = mesh.worker(unit, role)?.peak_kib();
            println!("  {role} of {unit}: {} MiB", kib / 1024);
            ensure!(kib < peak * 1024, "{role} of {unit} took {} MiB", kib / 1024);
        }
        mesh.finish();
        Ok(())
    });
}

/// A copy knows less than its target: what the target wrote since, and what a third unit did.
#[test]
fn nothing_newer_is_overwritten() {
    beside("a Redis copy overwrites nothing newer", limit(), async {
        let mut mesh = RedisMesh::of(&[Redis7, Valkey, Redis8]).start().await?;
        come_up(&mesh).await?;
        for key in ["written", "deleted", "by a third", "counted"] {
            mesh.server("A").cli(["SET", key, "1"]).await?;
        }
        mesh.shows("B", &["EXISTS", "written", "deleted", "by a third", "counted"], "4").await?;
        mesh.shows("C", &["GET", "counted"], "1").await?;
        mesh.worker("A", "sink")?.kill()?;
        mesh.server("B").cli(["SET", "written", "2"]).await?;
        mesh.server("B").cli(["DEL", "deleted"]).await?;
        mesh.server("B").cli(["INCR", "counted"]).await?;
        mesh.server("C").cli(["SET", "by a third", "2"]).await?;
        mesh.shows("B", &["GET", "by a third"], "2").await?;
        let keys = ["written", "deleted", "by a third", "counted"];
        let keys = keys.map(|key| format!("--key=[0,\"{key}\"]"));
        let mut command = vec!["resync", "keys", "--from", "A", "--why=test", "--by=test"];
        command.extend(keys.iter().map(String::as_str));
        let copying = mesh.begin(&command);
        sleep(Duration::from_secs(4)).await;
        ensure!(!copying.is_finished(), "it settled what A can't know of");
        let status = mesh.run(&["status"]).await.err().context("all is well")?.to_string();
        ensure!(status.contains("FILLING cache in B from A.cache: "), "{status}");
        let again = "resync keys --key … --from A --store cache --to B,C --why …";
        ensure!(status.contains(again), "{status}");
        for (from, to, told) in
            [("A", "B", "--to B,C"), ("C", "A", "resync stop --from … --store … --give-up")]
        {
            let ways = ["--from", from, "--to", to, "--store=cache", "--why=test", "--by=test"];
            let refused = mesh.run(&[&["resync", "full"], &ways[..]].concat()).await.err();
            let refused = refused.context("two copies at once")?.to_string();
            ensure!(refused.contains(told), "{refused}");
        }
        for (key, value) in
            [("written", "2"), ("deleted", ""), ("by a third", "2"), ("counted", "2")]
        {
            let found = mesh.server("B").cli(["GET", key]).await?;
            ensure!(found == value, "{key} is {found:?} in B and not {value:?}");
        }
        mesh.start_worker("A", "sink")?;
        copying.await.context("the command panicked")??;
        mesh.quiesce(QUIET).await?;
        mesh.ensure_equal().await?;
        mesh.shows("A", &["GET", "counted"], "2").await?;
        // The same is seen to fail where copies are not judged.
        mesh.worker("A", "sink")?.kill()?;
        mesh.worker("B", "sink")?.kill()?;
        mesh.start_broken("B", "sink", "copy_overwrites")?;
        mesh.server("B").cli(["SET", "written", "3"]).await?;
        let copying = mesh.begin(&[
            "resync",
            "keys",
            "--from",
            "A",
            "--to",
            "B",
            "--why=test",
            "--by=test",
            "--key=[0,\"written\"]",
        ]);
        mesh.shows("B", &["GET", "written"], "2").await?;
        // Without A's sink it would not come to its end.
        drop(copying);
        let stop = ["resync", "stop", "--from=A", "--give-up", "--why=test", "--by=test"];
        let told = mesh.run(&stop).await?;
        ensure!(told.contains("given up  B"), "{told}");
        let status = mesh.run(&["status"]).await.unwrap_or_else(|told| told.to_string());
        ensure!(!status.contains("FILLING"), "{status}");
        mesh.finish();
        Ok(())
    });
}
