//! A key that comes back in another lane than the one that has to delete it first.

use std::time::Instant;

use anyhow::ensure;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use unitflow_change::Code;
use unitflow_change::envelope::Row;
use unitflow_change::routing::{PartitionBy, lane_of};
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::load::connect;
use unitflow_harness::{Mesh, beside};

use super::{LIMIT, QUIET, setup};

const FLOW: &str = r#"tables = ["shop.visits"]
partition_by = { "shop.visits" = { columns = ["user_id"] } }"#;
/// Of a flow that does not say.
const LANES: i32 = 4;
/// What a lane says that waits for long.
const WAITING: &str = "waiting for another lane";

#[test]
fn a_key_that_comes_back_in_another_lane_waits_for_its_delete() {
    beside("a key comes back in another lane", LIMIT, async {
        let mut mesh = setup(&[Mysql9, Mariadb])
            .kafka_shared()
            .one_way("A", "B")
            .tables(
                "CREATE TABLE visits (id INT PRIMARY KEY, user_id INT NOT NULL, note VARCHAR(20))",
            )
            .flow(FLOW)
            .start()
            .await?;
        mesh.start_workers()?;
        let (one, other) = users_apart()?;
        let insert = |(user, _): (i32, i32), note| {
            format!("INSERT INTO shop.visits VALUES (1, {user}, '{note}')")
        };
        mesh.server("A").sql(&insert(one, "first")).await?;
        mesh.quiesce(QUIET).await?;
        let held = hold(&mesh, one).await?;
        mesh.server("A").sql("DELETE FROM shop.visits").await?;
        mesh.server("A").sql(&insert(other, "second")).await?;
        mesh.worker("B", "sink")?.says(WAITING, QUIET).await?;
        held.disconnect().await?;
        mesh.quiesce(QUIET).await?;
        ensure_equal(&mesh).await?;

        // The same with a table that is parked: in the one lane by what does not fit, in the other
        // because it has to wait for the one.
        mesh.server("B").sql("ALTER TABLE shop.visits CHANGE note other VARCHAR(20)").await?;
        mesh.server("A").sql("UPDATE shop.visits SET note = 'third'").await?;
        wait_for_parked(&mesh, 1).await?;
        let leave = format!("UPDATE shop.visits SET user_id = {}", one.0);
        mesh.server("A").sql(&leave).await?;
        wait_for_parked(&mesh, 2).await?;
        let codes = mesh.server("B").sql("SELECT code FROM unitflow.parked ORDER BY code").await?;
        let expected = [Code::Parked, Code::Table].map(Code::as_str).join("\n");
        ensure!(codes == expected, "parked with the codes {codes}");
        mesh.server("A").sql("DELETE FROM shop.visits").await?;
        mesh.server("A").sql(&insert(other, "fourth")).await?;
        mesh.quiesce_but_parked("A", "B", QUIET).await?;
        mesh.server("B").sql("ALTER TABLE shop.visits CHANGE other note VARCHAR(20)").await?;
        // The lane that comes first can't begin, and the other one is released beside it.
        let held = hold(&mesh, other).await?;
        let why = ["--table", "shop.visits", "--by", "the test", "--why", "the column is back"];
        mesh.run(&[&["resume", "A-to-B.shop"], &why[..]].concat()).await?;
        let sink = mesh.worker("B", "sink")?;
        let since = Instant::now();
        while sink.log()?.matches(WAITING).count() < 2 {
            ensure!(since.elapsed() < QUIET, "nobody waits:\n{}", sink.log_end());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        held.disconnect().await?;
        mesh.quiesce(QUIET).await?;
        ensure_equal(&mesh).await?;
        mesh.finish();
        Ok(())
    });
}

/// Two users whose rows are in different lanes, and the lanes.
fn users_apart() -> anyhow::Result<((i32, i32), (i32, i32))> {
    let by = PartitionBy::Columns(vec!["user_id".to_owned()]);
    let lane = |user: i32| {
        let text = format!("{{\"user_id\":{user}}}");
        let row: Row<'_> = serde_json::from_str(&text)?;
        anyhow::Ok(lane_of(&by, b"", Some(&row), LANES)?)
    };
    let first = (1, lane(1)?);
    for user in 2.. {
        let second = (user, lane(user)?);
        if second.1 != first.1 {
            return Ok((first, second));
        }
    }
    unreachable!("not all users share a lane")
}

/// Keeps a user's lane at B from committing until the connection ends.
async fn hold(mesh: &Mesh, (_, lane): (i32, i32)) -> anyhow::Result<Conn> {
    let mut conn = connect(mesh.server("B")).await?;
    conn.query_drop("BEGIN").await?;
    let row = format!(
        "SELECT seq FROM unitflow.ledger WHERE log = 'A.shop' AND lane = {lane} FOR UPDATE"
    );
    conn.query_drop(row).await?;
    Ok(conn)
}

/// Waits until the table is parked in so many lanes of B.
async fn wait_for_parked(mesh: &Mesh, lanes: usize) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let parked = mesh.server("B").sql("SELECT lane, code, why FROM unitflow.parked").await?;
        if parked.lines().count() == lanes {
            return Ok(());
        }
        ensure!(since.elapsed() < QUIET, "not parked in {lanes} lanes: {parked}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn ensure_equal(mesh: &Mesh) -> anyhow::Result<()> {
    let rows = "SELECT id, user_id, note FROM shop.visits ORDER BY id";
    let (a, b) = (mesh.server("A").sql(rows).await?, mesh.server("B").sql(rows).await?);
    ensure!(a == b && !a.is_empty(), "A has {a}, B has {b}");
    Ok(())
}
