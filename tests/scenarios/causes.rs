//! Changes that come before what they were made behind: the lanes that bring that are held for a moment.

use std::time::{Duration, Instant};

use anyhow::ensure;
use mysql_async::prelude::Queryable as _;
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::load::connect;
use unitflow_harness::{Mesh, beside};

use super::{LIMIT, QUIET, setup};

/// Read in several chunks.
const ROWS: u32 = 8_192;
const TABLES: &str = "CREATE TABLE goods (id INT PRIMARY KEY, n INT NOT NULL);";
const EARLY: &str = "waiting for what other logs hold";

#[test]
fn a_change_waits_for_what_it_was_made_behind() {
    beside("a change comes before what it was made behind", LIMIT, async {
        let mut mesh =
            setup(&[Mysql9, Mariadb, Mysql9]).kafka_shared().tables(TABLES).start().await?;
        mesh.start_workers()?;
        let mut some = String::from("INSERT INTO shop.goods VALUES (1, 0);");
        for count in (0..).map(|doubled| 1 << doubled).take_while(|count| *count < ROWS) {
            some += &format!("INSERT INTO shop.goods SELECT id + {count}, 0 FROM shop.goods;");
        }
        mesh.server("A").sql(&some).await?;
        mesh.quiesce(QUIET).await?;

        println!("  alone, and late in a long transaction");
        early(&mut mesh, 1, "WHERE id = 1").await?;
        early(&mut mesh, 1, "ORDER BY id DESC").await?;

        println!("  in the unit whose rows are copied to the others");
        let copy = ["resync", "full", "--from", "A", "--table", "shop.goods", "--rows-per-second"];
        let why = ["--by", "test", "--why", "test"];
        let mut slow = mesh.spawn(&[&copy[..], &["1"], &why].concat())?;
        wait(&mesh, "A", "SELECT COUNT(*) FROM unitflow.filling", "1").await?;
        early(&mut mesh, ROWS, &format!("WHERE id = {ROWS}")).await?;
        slow.kill().await?;
        mesh.run(&[&copy[..], &["100000"], &why].concat()).await?;
        mesh.quiesce(QUIET).await?;
        ensure_equal(&mesh).await?;
        let row = format!("SELECT n FROM shop.goods WHERE id = {ROWS}");
        let found = mesh.server("B").sql(&row).await?;
        // By the long transaction, and by both units then.
        ensure!(found == "21", "n is {found}");
        mesh.finish();
        Ok(())
    });
}

/// C writes a row, B writes it behind that, and A has what B did first.
async fn early(mesh: &mut Mesh, id: u32, which: &str) -> anyhow::Result<()> {
    let mut held = connect(mesh.server("A")).await?;
    held.query_drop("BEGIN").await?;
    held.query_drop("SELECT seq FROM unitflow.ledger WHERE log = 'C.shop' FOR UPDATE").await?;
    let count = mesh.worker("A", "sink")?.log()?.matches(EARLY).count();
    mesh.server("C").sql(&format!("UPDATE shop.goods SET n = n + 1 WHERE id = {id}")).await?;
    let row = format!("SELECT n FROM shop.goods WHERE id = {id}");
    let there = mesh.server("C").sql(&row).await?;
    wait(mesh, "B", &row, &there).await?;
    mesh.server("B").sql(&format!("UPDATE shop.goods SET n = n + 10 {which}")).await?;
    let since = Instant::now();
    while mesh.worker("A", "sink")?.log()?.matches(EARLY).count() == count {
        ensure!(since.elapsed() < QUIET, "{which}: nothing is early");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    held.disconnect().await?;
    mesh.quiesce(QUIET).await?;
    ensure_equal(mesh).await
}

async fn wait(mesh: &Mesh, unit: &str, query: &str, wanted: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let found = mesh.server(unit).sql(query).await?;
        if found == wanted {
            return Ok(());
        }
        ensure!(since.elapsed() < QUIET, "{query} at {unit}: {found}, not {wanted}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ensure_equal(mesh: &Mesh) -> anyhow::Result<()> {
    let all = "SELECT * FROM shop.goods ORDER BY id";
    let there = mesh.server("A").sql(all).await?;
    for unit in ["B", "C"] {
        ensure!(mesh.server(unit).sql(all).await? == there, "A and {unit} differ");
    }
    Ok(())
}
