//! Servers that go back in time while the others write: a target that Kafka no longer bridges, and a
//! source that lost what was captured from it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::time::{Instant, sleep};
use unitflow_harness::Flavor::{self, Mariadb, Mysql9};
use unitflow_harness::random::{Random, seed};
use unitflow_harness::{Mesh, MeshSetup, beside};

use crate::writers::{Last, Writers};
use crate::{
    BINARY, GOODS, LIMIT, QUIET, arrive, ensure_kept, ensure_well, fill_table, kill_each, said,
    says,
};

const ROWS: u64 = 4_000;

fn few() -> String {
    fill_table("shop.goods", ROWS)
}

#[test]
fn a_target_that_kafka_no_longer_bridges_is_refilled() {
    beside("a target that Kafka no longer bridges", LIMIT, async {
        let random = Random::new(seed("filling"));
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb]).one_way("A", "B").tables(GOODS);
        let mut mesh = setup.prepare("A", &few()).prepare("B", &few()).start().await?;
        mesh.start_workers()?;
        let mut own = Writers::none();
        own.own((mesh.server("A"), "shop.goods"), (0, 1), 0..ROWS, random).await?;
        sleep(Duration::from_secs(1)).await;
        let older = mesh.folder().join("older");
        mesh.server("B").copy_data_to(&older).await?;
        sleep(Duration::from_secs(2)).await;
        mesh.run(&["wait", "--from", "A", "--to", "B"]).await?;
        mesh.worker("B", "sink")?.kill()?;
        mesh.server("B").restore_from(&older).await?;
        trim(&mesh, "A.shop.tagged").await?;
        mesh.start_worker("B", "sink", "")?;
        ends_with(&mut mesh, ("B", "sink"), "unitflow resync full --from A --to B").await?;
        let resync = ["resync", "full", "--from", "A", "--why", "test", "--by", "test"];
        let part = mesh.run(&[&resync[..], &["--table", "shop.goods"]].concat()).await;
        let part = part.err().context("a part was enough")?.to_string();
        ensure!(part.contains("[offset_gone]") && part.contains("without --table"), "{part}");
        let command = mesh.spawn(&resync)?;
        says(&mesh, "what Kafka no longer holds is passed over").await?;
        mesh.start_worker("B", "sink", "")?;
        kill_each(&mut mesh, &[("B", "sink"), ("A", "connector")], 700, "").await?;
        ensure_well(&mesh, command).await?;
        let last = own.stop().await?;
        arrive(&mut mesh).await?;
        ensure_kept(&mesh, &last).await?;
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn a_mysql_source_gets_back_what_it_lost() {
    beside("a MySQL source that lost its end", LIMIT, lost(&[Mysql9, Mariadb]));
}

#[test]
fn a_mariadb_source_among_three_gets_back_what_it_lost() {
    beside("a MariaDB source that lost its end", LIMIT, lost(&[Mariadb, Mysql9, Mariadb]));
}

/// A's server goes back in time and takes writes again before anybody knows, under the names that
/// what it lost had. What it has written since counts, all else comes back from B.
async fn lost(flavors: &[Flavor]) -> anyhow::Result<()> {
    let random = Random::new(seed("filling"));
    let units = flavors.len() as u64;
    let mut setup = MeshSetup::new(BINARY, flavors).tables(GOODS);
    for unit in ["A", "B", "C"].into_iter().take(flavors.len()) {
        setup = setup.prepare(unit, &few());
    }
    let mut mesh = setup.start().await?;
    mesh.start_workers()?;
    let (mut first, mut others) = (Writers::none(), Writers::none());
    let server = (mesh.server("A"), "shop.goods");
    first.own(server, (0, units), 0..ROWS, random.branch(0)).await?;
    for (place, unit) in (0..).zip(mesh.units()).skip(1) {
        let server = (&unit.server, "shop.goods");
        others.own(server, (place, units), 0..ROWS, random.branch(place)).await?;
    }
    sleep(Duration::from_secs(1)).await;
    let older = mesh.folder().join("older");
    mesh.server("A").copy_data_to(&older).await?;
    sleep(Duration::from_secs(2)).await;
    let mut last = first.stop().await?;
    for unit in ["B", "C"].into_iter().take(flavors.len() - 1) {
        mesh.run(&["wait", "--from", "A", "--to", unit]).await?;
    }
    mesh.server("A").restore_from(&older).await?;
    let mut again = Writers::none();
    let server = (mesh.server("A"), "shop.goods");
    again.own(server, (0, units), 0..ROWS, random.branch(10)).await?;
    ends_with(&mut mesh, ("A", "connector"), "unitflow resync lost A --from B").await?;
    let ways = ["resync", "lost", "A", "--from", "B", "--why", "test", "--by", "test"];
    let listed = mesh.run(&[&ways[..], &["--dry-run"]].concat()).await;
    ensure_listed(&listed.err().context("nothing is listed")?.to_string(), units)?;
    // Killed as soon as it has begun, wherever that is.
    let mut killed = mesh.spawn(&ways)?;
    let begun = "SELECT COUNT(*) FROM unitflow.filling";
    let deadline = Instant::now() + QUIET;
    while mesh.server("A").sql(begun).await? == "0" {
        ensure!(Instant::now() < deadline, "the command does not begin:\n{}", said(&mesh)?);
    }
    killed.kill().await?;
    let command = mesh.spawn(&ways)?;
    goes_on(&mut mesh).await?;
    kill_each(
        &mut mesh,
        &[("A", "sink"), ("B", "connector"), ("A", "connector"), ("B", "sink")],
        700,
        "",
    )
    .await?;
    ensure_well(&mesh, command).await?;
    last.extend(others.stop().await?);
    let since: Last = again.stop().await?;
    println!("  {} of A's rows were written before, {} since", last.len(), since.len());
    last.extend(since);
    arrive(&mut mesh).await?;
    ensure_kept(&mesh, &last).await?;
    let left = mesh.run(&[&ways[..], &["--dry-run"]].concat()).await?;
    ensure!(left.contains("nothing is lost"), "{left}");
    mesh.ensure_still().await?;
    mesh.finish();
    Ok(())
}

/// Whether each kind of loss is listed with who holds the row.
fn ensure_listed(text: &str, units: u64) -> anyhow::Result<()> {
    let others = ["B", "C"].into_iter().take(usize::try_from(units)? - 1);
    for other in others {
        for what in ["missing", "different", "not deleted"] {
            let row = |line: &str| {
                let mut parts = line.split_whitespace();
                parts.next() == Some(other)
                    && line.contains(what)
                    && line.contains(r#"["shop","goods",{"id":"#)
            };
            ensure!(text.lines().any(row), "no row of {other} is {what}:\n{text}");
        }
    }
    Ok(())
}

/// Waits until a worker has ended with this advice.
async fn ends_with(
    mesh: &mut Mesh,
    (unit, role): (&str, &str),
    advice: &str,
) -> anyhow::Result<()> {
    let worker = mesh.worker(unit, role)?;
    let ended = worker.wait(QUIET).await?;
    let log = worker.log()?;
    ensure!(ended.code() == Some(3) && log.contains(advice), "it ended with {ended}:\n{log}");
    Ok(())
}

/// Starts A's connector until it finds a log that goes on.
async fn goes_on(mesh: &mut Mesh) -> anyhow::Result<()> {
    let deadline = Instant::now() + QUIET;
    while Instant::now() < deadline {
        mesh.start_worker("A", "connector", "")?;
        let worker = mesh.worker("A", "connector")?;
        while worker.ended().is_none() {
            if worker.log()?.contains("capturing") {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "A's connector does not begin");
            sleep(Duration::from_millis(50)).await;
        }
    }
    bail!("A's connector does not go on:\n{}", said(mesh)?)
}

/// Removes all records that a topic of four partitions holds.
async fn trim(mesh: &Mesh, topic: &str) -> anyhow::Result<()> {
    let topic = mesh.topic(topic);
    let all = (0..4).map(|lane| format!(r#"{{"topic":"{topic}","partition":{lane},"offset":-1}}"#));
    let all = all.collect::<Vec<_>>().join(",");
    let file = mesh.folder().join("trim.json");
    fs::write(&file, format!(r#"{{"partitions":[{all}],"version":1}}"#))?;
    let file = file.to_str().context("a path")?;
    mesh.kafka("A").run_tool("kafka-delete-records", ["--offset-json-file", file]).await?;
    Ok(())
}
