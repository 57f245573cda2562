//! Debezium's JDBC sink connector as a consumer of our tagged topic.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::task::block_in_place;
use unitflow_harness::Flavor::Mysql9;
use unitflow_harness::{Mesh, MeshSetup, Mysql, beside};
use unitflow_local::Connect;

use crate::types::{self, TABLE};
use crate::{BINARY, LIMIT, PATIENCE, create, document, plain, schema, topic};

/// A second table of the same topic, spread over all lanes.
const ORDERS: &str =
    "SET sql_log_bin = 0; CREATE TABLE shop.`orders 2` (id BIGINT UNSIGNED PRIMARY KEY, note TEXT)";
const INSERT_ORDERS: &str = "INSERT INTO shop.`orders 2` WITH RECURSIVE n AS (SELECT 1 AS id UNION ALL SELECT id + 1 FROM n WHERE id < 300) \
     SELECT IF(id = 300, 18446744073709551615, id), CONCAT('note ', id) FROM n";

#[test]
fn a_jdbc_sink_fills_a_third_database() {
    beside("Debezium's JDBC sink", LIMIT, async {
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mysql9]);
        let setup = setup.kafka_shared().kafka_own().one_way("A", "B").heartbeat().with_schema();
        let (mesh, third) = tokio::join!(setup.start(), Mysql::setup(Mysql9).start());
        let (mut mesh, third) = (mesh?, third?);
        third.sql("CREATE DATABASE shop").await?;
        for table in [types::create(), ORDERS.to_owned()] {
            create(&mesh, &table).await?;
            third.sql(&table).await?;
        }
        mesh.start_workers()?;
        let connect = connectors(&mesh, &third).await?;

        let first = mesh.server("A");
        plain::wait_for_readers(first, 2, &connect).await?;
        first.sql(&types::changes_for_sinks()).await?;
        first.sql(INSERT_ORDERS).await?;
        first.sql("UPDATE shop.`orders 2` SET note = 'changed' WHERE id % 3 = 0").await?;
        first
            .sql("UPDATE shop.`orders 2` SET id = id + 1000 WHERE id % 5 = 0 AND id < 300")
            .await?;
        first.sql("DELETE FROM shop.`orders 2` WHERE id % 7 = 0").await?;
        mesh.quiesce(PATIENCE).await?;
        let first = mesh.server("A");
        let ours = difference(&contents(first).await?, &contents(mesh.server("B")).await?);
        ensure!(ours.is_empty(), "our own sink differs: {ours:#?}");
        wait_until_equal(first, &third, &connect).await?;

        // Their types are those of Debezium's own records, but for what the document lists.
        let (bootstrap, tagged) = (mesh.kafka("A").bootstrap(), mesh.topic("A.shop.tagged"));
        let of_table = |record: &topic::Record| record.key.contains("\"table\":\"types\"");
        let found = block_in_place(|| {
            let ours = topic::read(&bootstrap, &tagged, 1, of_table)?.swap_remove(0).value;
            let theirs = format!("A.shop.shop.{TABLE}");
            let theirs = topic::read(&bootstrap, &theirs, 1, |_| true)?.swap_remove(0).value;
            schema::differences(&ours.unwrap_or_default(), &theirs.unwrap_or_default())
        })?;
        document::ensure_lists("## Records with their schema", &found)?;

        // A schema change stops our sink. The connector passes it by, and goes on behind it.
        first.sql("CREATE TABLE shop.later (id INT PRIMARY KEY)").await?;
        first.sql("UPDATE shop.`orders 2` SET note = 'behind it'").await?;
        wait_until_equal(first, &third, &connect).await?;
        // What was passed by was there: one record of each kind, as the converter reads it.
        for part in ["\"partitions\":4", "CREATE TABLE shop.later", "\"payload\":{}}", "\"beat\":"]
        {
            let is_it = |record: &topic::Record| {
                let value = record.value.as_deref().unwrap_or_default();
                record.control && value.starts_with("{\"schema\":") && value.contains(part)
            };
            block_in_place(|| topic::read(&bootstrap, &tagged, 1, is_it)).context(part)?;
        }
        mesh.finish();
        Ok(())
    });
}

/// The sink as the document describes it, reading from unit A's Kafka; and beside it Debezium's
/// own reader of the first database, whose records carry their schemas too.
async fn connectors(mesh: &Mesh, third: &Mysql) -> anyhow::Result<Connect> {
    let properties = document::sink_properties()?
        .replace("<topic>", &mesh.topic("A.shop.tagged"))
        .replace("<server>", &format!("127.0.0.1:{}", third.port()))
        .replace("<user>", "root")
        .replace("<password>", "");
    let setup = Connect::setup()
        .setting("consumer.metadata.max.age.ms", 1000)
        .connector("sink", &properties)
        .connector("source", &plain::source_properties(mesh.server("A")));
    Ok(setup.start(&mesh.kafka("A").bootstrap()).await?)
}

/// All rows of both tables, values that the client would round or mangle as hexadecimal.
async fn contents(server: &Mysql) -> anyhow::Result<String> {
    let types = server.sql(&types::query()).await?;
    let orders = server.sql("SELECT * FROM shop.`orders 2` ORDER BY id").await?;
    Ok(format!("{TABLE}\n{types}\norders\n{orders}"))
}

/// The cells that differ first, and what only one of the two has.
fn difference(one: &str, other: &str) -> Vec<String> {
    let mut found = Vec::new();
    if one.lines().count() != other.lines().count() {
        found.push(format!("{} and {} lines", one.lines().count(), other.lines().count()));
    }
    for (one, other) in one.lines().zip(other.lines()) {
        let cells = one.split('\t').zip(other.split('\t')).enumerate();
        found.extend(
            cells
                .filter(|(_, (one, other))| one != other)
                .map(|(place, (one, other))| format!("c{place}: {one:.100} is {other:.100}")),
        );
    }
    found.truncate(12);
    found
}

async fn wait_until_equal(first: &Mysql, third: &Mysql, connect: &Connect) -> anyhow::Result<()> {
    let begin = Instant::now();
    let expected = contents(first).await?;
    loop {
        let actual = contents(third).await?;
        if actual == expected {
            return Ok(());
        }
        let status = connect.status("sink").await?;
        if status.contains("FAILED") || begin.elapsed() > PATIENCE {
            bail!(
                "the third database is not equal: {:#?}\n{status}\n{}",
                difference(&expected, &actual),
                connect.log_end()
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
