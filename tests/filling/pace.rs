//! A copy is slowed down, stopped and given again, while both units write and workers die.

use anyhow::{Context as _, ensure};
use tokio::process::Child;
use tokio::time::{Duration, Instant, sleep, timeout};
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::random::{Random, seed};
use unitflow_harness::{Mesh, MeshSetup, beside};

use crate::writers::{NEW_ROWS, Writers};
use crate::{
    BINARY, GOODS, QUIET, arrive, die_while_copying, ensure_kept, ensure_newest, ensure_no_echo,
    ensure_well, fill, kill_each, limit, rows, said, says, watch_goods, write_while_filling,
};

/// Rows of a chunk: what is read at once is paid for before the next one.
const CHUNK: u64 = 4_096;
/// Rows a second of a copy that is stopped after the third of its five chunks.
const PACE: u64 = 700;

#[test]
fn a_copy_is_stopped_and_goes_on_at_another_pace() {
    beside("a copy that is stopped", limit(), async {
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb]).kafka_shared().tables(GOODS);
        let mut mesh = setup.prepare("A", &fill()).start().await?;
        mesh.start_workers()?;
        let first = copy(&mesh, PACE as u32)?;
        let begun = Instant::now();
        let random = Random::new(seed("filling"));
        let (own, clashing) = write_while_filling(&mesh, Writers::slow, &random).await?;
        let watch = watch_goods(&mesh, "B").await?;
        let there = grown(&mesh, 2 * CHUNK).await?;
        let most = PACE * begun.elapsed().as_secs() + 2 * CHUNK;
        ensure!(there <= most, "{there} rows are there, more than {most}");
        let stopped = order(&mesh, &["resync", "stop", "--from", "A"]).await?;
        ensure!(stopped.contains("shop.goods to B, ordered by test"), "{stopped}");
        let ended = timeout(QUIET, first.wait_with_output()).await.context("it waits on")??;
        ensure!(ended.status.code() == Some(3), "the stopped command: {}", ended.status);
        ensure!(said(&mesh)?.contains("was stopped"), "it does not say so: {}", said(&mesh)?);
        come_up(&mesh).await?;
        let there = copied(&mesh).await?;
        ensure!(there < rows(), "all was copied before it was stopped");
        sleep(Duration::from_secs(4)).await;
        ensure!(copied(&mesh).await? == there, "it was copied on");
        let again =
            "give it again: unitflow resync full --from A --store shop --to B --table shop.goods";
        let status = mesh.run(&["status"]).await.err().context("nothing is to be done")?;
        ensure!(status.to_string().contains(again), "{status}");
        ensure!(
            order(&mesh, &["resync", "stop", "--from", "A"]).await?.contains("nothing is copied"),
            "it was stopped twice"
        );

        // The next chunk would come in more than an hour.
        let mut slow = copy(&mesh, 1)?;
        let deadline = Instant::now() + QUIET;
        while mesh.worker("A", "connector")?.log()?.matches("copying job=").count() < 2 {
            ensure!(Instant::now() < deadline, "the second copy does not begin");
            sleep(Duration::from_millis(50)).await;
        }
        sleep(Duration::from_secs(5)).await;
        slow.kill().await?;
        let mut fast = copy(&mesh, 4_000)?;
        says(&mesh, "going on with the copy that was ordered before").await?;
        kill_each(&mut mesh, &mut fast, &[("A", "connector"), ("A", "transformer")], 700, "")
            .await?;
        die_while_copying(&mut mesh, "B").await?;
        clashing.stop().await?;
        ensure_well(&mesh, fast).await?;
        let last = own.stop().await?;
        arrive(&mut mesh).await?;
        ensure_newest(watch).await?;
        ensure_kept(&mesh, &last).await?;
        ensure_no_echo(&mesh)?;
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

fn copy(mesh: &Mesh, rows_per_second: u32) -> anyhow::Result<Child> {
    let rate = rows_per_second.to_string();
    let copy = ["resync", "full", "--from", "A", "--table", "shop.goods"];
    let ways = ["--why", "test", "--by", "test", "--rows-per-second", &rate];
    mesh.spawn(&[&copy[..], &ways].concat())
}

async fn order(mesh: &Mesh, order: &[&str]) -> anyhow::Result<String> {
    mesh.run(&[order, &["--why", "test", "--by", "test"]].concat()).await
}

/// Waits until B has come to where A stands, though rows may be noted that come again.
async fn come_up(mesh: &Mesh) -> anyhow::Result<()> {
    let deadline = Instant::now() + QUIET;
    let wait = ["wait", "--from", "A", "--to", "B", "--timeout-seconds", "2"];
    while let Err(error) = mesh.run(&wait).await {
        if error.to_string().contains("rows of tables that are being filled") {
            break;
        }
        ensure!(Instant::now() < deadline, "{error}");
    }
    Ok(())
}

/// How far the copy has come: it goes by the key, and nobody writes rows behind those of the units.
async fn copied(mesh: &Mesh) -> anyhow::Result<u64> {
    let last = format!("SELECT COALESCE(MAX(id) + 1, 0) FROM shop.goods WHERE id < {NEW_ROWS}");
    Ok(mesh.server("B").sql(&last).await?.parse()?)
}

/// Waits until more rows are there; gives how many.
async fn grown(mesh: &Mesh, from: u64) -> anyhow::Result<u64> {
    let deadline = Instant::now() + QUIET;
    loop {
        let there = copied(mesh).await?;
        if there > from {
            return Ok(there);
        }
        ensure!(Instant::now() < deadline, "no row comes: {}", said(mesh)?);
        sleep(Duration::from_millis(20)).await;
    }
}
