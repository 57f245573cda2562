//! Tables that wait for a person while the rest of the flow goes on, and what it takes to let them
//! go on: every lane has to see it, and what comes later has to be read again as it came.

use std::fmt::Write as _;

use anyhow::ensure;
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::{Mesh, MeshSetup, serial};

use super::tables::{ensure_same, wait_for};
use super::{BINARY, LIMIT, QUIET};

/// Rows go by their owner, so that one and the same row comes by several lanes.
const TABLES: &str =
    "tables = [\"odd.*\"]\npartition_by = { \"odd.parted\" = { columns = [\"owner\"] } }";
const PARTED: &str =
    "CREATE TABLE odd.parted (id INT PRIMARY KEY, owner INT, note VARCHAR(40), body LONGBLOB)";
const OWNERS: u32 = 12;

#[test]
fn parked_tables_catch_up() {
    serial("parked tables catch up", LIMIT, async {
        let create = format!(
            "CREATE DATABASE odd; CREATE TABLE odd.beside (id INT PRIMARY KEY, v INT); {PARTED}"
        );
        let mut mesh = MeshSetup::new(BINARY, &[Mysql9, Mariadb])
            .kafka_shared()
            .one_way("A", "B")
            .with_schema()
            .flow(TABLES)
            .prepare("A", &create)
            .prepare("B", &create)
            .start()
            .await?;
        mesh.start_workers()?;
        parked_in_all_lanes(&mut mesh).await?;
        parked_in_one_lane(&mut mesh).await?;
        mesh.finish();
        Ok(())
    });
}

/// All lanes meet at the same time what none of them can apply.
async fn parked_in_all_lanes(mesh: &mut Mesh) -> anyhow::Result<()> {
    mesh.server("B").sql("DROP TABLE odd.parted").await?;
    let mut sql = String::new();
    for n in 0..OWNERS {
        writeln!(
            sql,
            "INSERT INTO odd.parted VALUES ({n}, {n}, 'first', NULL), ({n} + 100, {n}, 'second', 'b');
             INSERT INTO odd.beside VALUES ({n}, 1); UPDATE odd.beside SET v = 2 WHERE id = {n};
             UPDATE odd.parted SET note = 'changed' WHERE id = {n};
             UPDATE odd.parted SET owner = owner + 1 WHERE id = {n} + 100; DELETE FROM odd.parted WHERE id = {n} AND {n} % 3 = 0;"
        )?;
    }
    // Larger than a record may be, so it comes in pieces.
    sql.push_str("UPDATE odd.parted SET body = REPEAT('large', 1200000) WHERE id = 1;");
    mesh.server("A").sql(&sql).await?;
    mesh.quiesce_but_parked("A", "B", QUIET).await?;
    ensure_parked(mesh, 4).await?;
    let beside = "SELECT * FROM odd.beside";
    ensure_same(mesh, beside, beside).await?;
    mesh.server("B").sql(PARTED).await?;
    goes_on(mesh, "resume").await
}

/// One lane meets a value that the target's column does not hold. The row then moves to another
/// lane, which may not insert it before it is deleted here.
async fn parked_in_one_lane(mesh: &mut Mesh) -> anyhow::Result<()> {
    mesh.server("B").sql("ALTER TABLE odd.parted MODIFY note VARCHAR(10)").await?;
    mesh.server("A").sql("UPDATE odd.parted SET note = 'longer than ten' WHERE id = 1").await?;
    mesh.quiesce_but_parked("A", "B", QUIET).await?;
    ensure_parked(mesh, 1).await?;
    mesh.server("A")
        .sql("UPDATE odd.parted SET note = 'short' WHERE id = 1; UPDATE odd.parted SET owner = owner + 1 WHERE owner < 1000;")
        .await?;
    mesh.quiesce_but_parked("A", "B", QUIET).await?;
    wait_for(mesh, "SELECT COUNT(*) > 1 FROM unitflow.parked").await?;
    mesh.server("B").sql("ALTER TABLE odd.parted MODIFY note VARCHAR(40)").await?;
    goes_on(mesh, "retry").await
}

async fn ensure_parked(mesh: &Mesh, lanes: u32) -> anyhow::Result<()> {
    let parked =
        mesh.server("B").sql("SELECT tbl, COUNT(*) FROM unitflow.parked GROUP BY tbl").await?;
    ensure!(parked == format!("parted\t{lanes}"), "parked in lanes: {parked}");
    Ok(())
}

async fn goes_on(mesh: &mut Mesh, order: &str) -> anyhow::Result<()> {
    mesh.run(&[order, "A-to-B.shop", "--why", "mended", "--by", "test"]).await?;
    mesh.quiesce(QUIET).await?;
    let rows = "SELECT id, owner, note, SHA2(body, 256) FROM odd.parted";
    ensure_same(mesh, rows, rows).await
}
