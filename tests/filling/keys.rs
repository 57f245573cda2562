//! Rows that went wrong in one unit come back by their keys, while they are written and workers die.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::sleep;
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::random::{Random, seed};
use unitflow_harness::{Mesh, MeshSetup, beside};

use crate::writers::Writers;
use crate::{
    BINARY, CLASHING, GOODS, arrive, die_while_copying, ensure_kept, ensure_newest, ensure_no_echo,
    ensure_well, fill_table, kill_each, limit, shows, watch_goods,
};

/// A table with a second unique value in each row.
const PLACES_TABLE: &str =
    "CREATE TABLE places (id BIGINT PRIMARY KEY, place BIGINT NOT NULL UNIQUE);";
const GOODS_ROWS: u64 = 5_000;
/// Rows of the table with a second unique value.
const PLACES: u64 = 800;
/// Those whose keys are given; in B their values are held by rows that nobody names.
const NAMED: u64 = 10;

#[test]
fn rows_are_brought_back_by_their_keys_while_all_write() {
    beside("a resync by keys, MariaDB to MySQL", limit(), async {
        let setup = MeshSetup::new(BINARY, &[Mariadb, Mysql9]).kafka_shared();
        let setup = setup.tables(&[GOODS, PLACES_TABLE].concat());
        let rows = fill_table("shop.goods", GOODS_ROWS);
        let mut mesh = setup.prepare("A", &rows).prepare("B", &rows).start().await?;
        mesh.start_workers()?;
        rows_are_brought_back(&mut mesh).await?;
        mesh.finish();
        Ok(())
    });
}

/// In B goods that A writes are changed or gone, places stand the other way round, and the last one is
/// held by a row too many. Only some of the keys are given.
async fn rows_are_brought_back(mesh: &mut Mesh) -> anyhow::Result<()> {
    let random = Random::new(seed("filling"));
    for (unit, place) in [("A", "id".to_owned()), ("B", format!("{PLACES} - id"))] {
        let sql = format!(
            "SET SESSION sql_log_bin = 0; INSERT INTO shop.places WITH RECURSIVE n (id) AS \
             (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {PLACES}) SELECT id, {place} FROM n"
        );
        mesh.server(unit).sql(&sql).await?;
    }
    mesh.server("B").sql(DAMAGE).await?;
    let file = mesh.folder().join("keys");
    fs::write(&file, keys(mesh).await?)?;
    let file = file.to_str().context("a path")?;
    let ways = ["--from", "A", "--why", "test", "--by", "test"];
    let dry = mesh
        .run(&[&["resync", "keys", "--keys-file", file, "--dry-run"], &ways[..]].concat())
        .await;
    let listed = dry.err().context("nothing is listed")?.to_string();
    for part in ["TO INSERT", r#"B: overwrite ["shop","goods","#] {
        ensure!(listed.contains(part), "no {part} in {listed}");
    }
    let marks = mesh.server("B").sql("SELECT COUNT(*) FROM unitflow.filling").await?;
    ensure!(marks == "0", "a dry run marks {marks} tables");
    // Nothing is copied before all is written again.
    mesh.worker("A", "connector")?.kill()?;
    let resync = [&["resync", "keys", "--keys-file", file], &ways[..]].concat();
    let mut killed = mesh.spawn(&resync)?;
    // Before that a change that does not fit stops its lane, and a sink without a lane ends.
    for unit in mesh.units() {
        shows(mesh, &unit.name, "SELECT COUNT(*) = 2 FROM unitflow.filling").await?;
    }
    let (mut own, mut clashing) = (Writers::none(), Writers::none());
    for (place, unit) in (0..).zip(mesh.units()) {
        let table = (&unit.server, "shop.goods");
        own.own(table, (place, 2), 0..CLASHING.start, random.branch(place)).await?;
        clashing.clashing(table, CLASHING, random.branch(100 + place)).await?;
    }
    let watch = watch_goods(mesh, "B").await?;
    mesh.start_worker("A", "connector", "")?;
    kill_each(mesh, &mut killed, &[("A", "connector"), ("A", "transformer")], 700, "").await?;
    killed.kill().await?;
    let command = mesh.spawn(&resync)?;
    die_while_copying(mesh, "B").await?;
    sleep(Duration::from_secs(2)).await;
    clashing.stop().await?;
    ensure_well(mesh, command).await?;
    let last = own.stop().await?;
    arrive(mesh).await?;
    ensure_newest(watch).await?;
    ensure_kept(mesh, &last).await?;
    let query = "SELECT * FROM shop.places WHERE id <> place ORDER BY id";
    ensure!(mesh.server("A").sql(query).await?.is_empty(), "the authority's places were changed");
    let left = mesh.server("B").sql(query).await?;
    // The one in the middle was right, the last one is not among the others.
    let others = PLACES - 2 - 2 * NAMED;
    ensure!(
        left.lines().count() as u64 == others,
        "not {others} places are wrong as before:\n{left}"
    );
    for id in (1..=NAMED).chain([PLACES]) {
        let wrong = left.lines().any(|line| line.starts_with(&format!("{id}\t")));
        ensure!(!wrong, "place {id} is still wrong:\n{left}");
    }
    ensure_no_echo(mesh)?;
    mesh.ensure_still().await
}

/// Rows that A writes, and one in the way of the last place.
const DAMAGE: &str = "SET SESSION sql_log_bin = 0;
    UPDATE shop.goods SET body = 'damaged' WHERE id % 40 = 6 AND id < 4000;
    DELETE FROM shop.goods WHERE id % 40 = 8 AND id < 4000;
    UPDATE shop.places SET id = 5000 WHERE id = 800;
    UPDATE shop.places SET place = 800 WHERE id = 5000;";

/// What was damaged, some that only B writes, what several units write, and some of the places.
async fn keys(mesh: &Mesh) -> anyhow::Result<String> {
    let damaged = "SELECT id FROM shop.goods WHERE id % 40 IN (6, 7, 8, 9) AND id < 4000";
    let damaged = mesh.server("A").sql(damaged).await?;
    let mut keys = String::new();
    let clashing = CLASHING.map(|id| id.to_string());
    for id in damaged.lines().map(str::to_owned).chain(clashing) {
        writeln!(keys, r#"["shop","goods",{{"id":{id}}}]"#)?;
    }
    for id in (1..=NAMED).chain([PLACES]) {
        writeln!(keys, r#"["shop","places",{{"id":{id}}}]"#)?;
    }
    Ok(keys)
}
