//! Tables that wait for a person while the rest of the flow goes on, and what it takes to let them
//! go on: every lane has to see it, and what comes later has to be read again as it came.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::random::is_full;
use unitflow_harness::{Mesh, MeshSetup, beside};

use super::tables::{ensure_same, wait_for};
use super::{BINARY, LIMIT, QUIET};

/// Rows go by their owner, so that one and the same row comes by several lanes.
const TABLES: &str =
    "tables = [\"odd.*\"]\npartition_by = { \"odd.parted\" = { columns = [\"owner\"] } }";
const PARTED: &str =
    "CREATE TABLE odd.parted (id INT PRIMARY KEY, owner INT, note VARCHAR(40), body LONGBLOB)";
const OWNERS: u32 = 12;
/// One table as it is, one with a filter, one that is spread by a column.
const PICTURES: &str = "CREATE DATABASE odd; CREATE TABLE odd.beside (id INT PRIMARY KEY, v INT);
    CREATE TABLE odd.photos (id INT PRIMARY KEY, state VARCHAR(9), body LONGBLOB);
    CREATE TABLE odd.spread (id INT PRIMARY KEY, owner INT, body LONGBLOB);
    CREATE TABLE odd.chosen (id INT PRIMARY KEY, state VARCHAR(9), body LONGBLOB, secret INT NOT NULL DEFAULT 7)";

#[test]
fn parked_tables_catch_up() {
    beside("parked tables catch up", LIMIT, async {
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
        parked_late_in_a_long_transaction(&mut mesh).await?;
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

/// What does not fit comes when several parts of its transaction are applied already.
async fn parked_late_in_a_long_transaction(mesh: &mut Mesh) -> anyhow::Result<()> {
    mesh.server("B").sql("ALTER TABLE odd.parted MODIFY note VARCHAR(10)").await?;
    let mut sql = "BEGIN;".to_owned();
    for n in 0..8 {
        writeln!(
            sql,
            "INSERT INTO odd.parted VALUES ({n} + 7000, 7, 'fits', REPEAT('x', 1000000));"
        )?;
    }
    sql.push_str("INSERT INTO odd.parted VALUES (7008, 7, 'longer than ten', NULL); COMMIT;");
    mesh.server("A").sql(&sql).await?;
    wait_for(mesh, "SELECT COUNT(*) FROM unitflow.parked").await?;
    mesh.quiesce_but_parked("A", "B", QUIET).await?;
    ensure_parked(mesh, 1).await?;
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

/// A person brings the row over by other means and passes over the records that stand for it.
#[test]
fn a_row_larger_than_any_that_travels_parks_its_table_alone() {
    beside("a row larger than any that travels", LIMIT, async {
        // By default the limit is lowered.
        let (inject, large) = match is_full() {
            true => ("", "REPEAT('x', 209715200)"),
            false => ("carry_little", "REPEAT('x', 1048576)"),
        };
        let mut mesh = MeshSetup::new(BINARY, &[Mysql9, Mariadb])
            .kafka_shared()
            .one_way("A", "B")
            .setting("max_allowed_packet", "1G")
            .flow(
                "tables = [\"odd.*\"]\nrows = { \"odd.chosen\" = \"state = 'new'\" }\n\
                 partition_by = { \"odd.spread\" = { columns = [\"owner\"] } }\n\
                 columns = { \"odd.chosen\" = { exclude = [\"secret\"] } }",
            )
            .prepare("A", PICTURES)
            .prepare("B", PICTURES)
            .start()
            .await?;
        mesh.start_workers_broken(inject)?;
        // A table is parked from where its lane stands: what is mended by hand there is applied first.
        let small = "INSERT INTO odd.photos VALUES (1, 'new', 'small'), (2, 'new', 'small')";
        mesh.server("A").sql(small).await?;
        mesh.quiesce(QUIET).await?;
        let write = format!(
            "UPDATE odd.photos SET body = {large} WHERE id = 1; UPDATE odd.photos SET state = 'seen';
             INSERT INTO odd.chosen VALUES (1, 'new', {large}, 1);
             INSERT INTO odd.spread VALUES (1, 1, {large}), (2, 2, 'small'), (3, 3, 'small'), (4, 4, 'small');
             INSERT INTO odd.beside VALUES (1, 1), (2, 2), (3, 3), (4, 4); UPDATE odd.beside SET v = 9"
        );
        mesh.server("A").sql(&write).await?;
        let beside = "SELECT COUNT(*) = 4 AND SUM(v) = 36 FROM odd.beside";
        wait_for(&mesh, beside).await?;
        for table in ["photos", "chosen", "spread"] {
            wait_for(
                &mesh,
                &format!("SELECT COUNT(*) > 0 FROM unitflow.parked WHERE tbl = '{table}'"),
            )
            .await?;
        }
        let Err(status) = mesh.run(&["status"]).await else {
            anyhow::bail!("status says nothing of it");
        };
        let status = status.to_string();
        for part in [
            "PARKED odd.photos in A-to-B.shop, 1 lane [too_large]",
            "PARKED odd.chosen in A-to-B.shop, 1 lane [too_large]",
            "PARKED odd.spread in A-to-B.shop, 4 lanes [too_large]",
            "bytes as a record, more than travels",
            "keep such values elsewhere",
            "no faults",
        ] {
            ensure!(status.contains(part), "no {part} in {status}");
        }
        let by_hand = "UPDATE odd.photos SET body = x'00', state = 'seen' WHERE id = 1;
            REPLACE INTO odd.chosen (id, state, body) VALUES (1, 'new', x'00');
            REPLACE INTO odd.spread VALUES (1, 1, x'00')";
        mesh.server("B")
            .sql(&format!("SET sql_log_bin = 0; {}", by_hand.replace("x'00'", large)))
            .await?;
        // The update of the large row, that of its state, and the insert.
        for table in ["photos", "photos", "chosen", "spread"] {
            pass_over(&mesh, table).await?;
        }
        mesh.quiesce(QUIET).await?;
        let after = "UPDATE odd.photos SET state = 'late' WHERE id = 2";
        mesh.server("A").sql(after).await?;
        mesh.quiesce(QUIET).await?;
        for query in [
            "SELECT id, state, SHA2(body, 256) FROM odd.photos",
            "SELECT id, state, SHA2(body, 256) FROM odd.chosen",
            "SELECT id, owner, SHA2(body, 256) FROM odd.spread",
        ] {
            ensure_same(&mesh, query, query).await?;
        }
        mesh.finish();
        Ok(())
    });
}

/// Lets the table go on without the record that it is parked for.
async fn pass_over(mesh: &Mesh, table: &str) -> anyhow::Result<()> {
    wait_for(mesh, &format!("SELECT COUNT(*) > 0 FROM unitflow.parked WHERE tbl = '{table}'"))
        .await?;
    let why = format!("SELECT MAX(why) FROM unitflow.parked WHERE tbl = '{table}'");
    let why = mesh.server("B").sql(&why).await?;
    let (_, rest) = why.split_once("record ").with_context(|| why.clone())?;
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let order = ["skip", "A-to-B.shop", "--seq", &number, "--why", "by hand", "--by", "test"];
    mesh.run(&order).await?;
    let gone = format!(
        "SELECT COUNT(*) = 0 FROM unitflow.parked WHERE tbl = '{table}' AND why LIKE '%record {number} %'"
    );
    wait_for(mesh, &gone).await
}
