//! Records that somebody else writes to a tagged topic: each stops its lane, and nothing of it is
//! applied.

use anyhow::{Context as _, ensure};
use unitflow_change::tag::{HEADER, ORIGIN};
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::{Mesh, beside};
use unitflow_kafka::{Broker, Writer};

use super::{LIMIT, QUIET, setup};

const KEY: &[u8] = br#"["shop","notes",{"id":1}]"#;
const VALUE: &[u8] = br#"{"before":null,"after":{"id":1},"op":"c"}"#;

#[test]
fn what_others_write_to_a_tagged_topic_is_not_applied() {
    beside("strangers in a tagged topic", LIMIT, async {
        let mut mesh = setup(&[Mysql9, Mariadb])
            .kafka_shared()
            .one_way("A", "B")
            .tables("CREATE TABLE notes (id INT PRIMARY KEY)")
            .start()
            .await?;
        mesh.start_workers()?;
        mesh.server("A").sql("INSERT INTO shop.notes VALUES (2)").await?;
        mesh.quiesce(QUIET).await?;
        for role in ["connector", "transformer"] {
            mesh.worker("A", role)?.stop(QUIET).await?;
        }
        let stands = stands(&mesh).await?;
        let row = |lane: usize, from: u64| {
            let prev = stands[lane] + from;
            format!("1;row;{};{prev};;0;1;0;;", prev + 2)
        };
        write(&mesh, 0, "B", &row(0, 0)).await?;
        let said = mesh.wait_for_fault("looped", QUIET).await?;
        ensure!(said.contains("a change of unit B came to unit B"), "{said}");
        // One between is missing.
        write(&mesh, 1, "A", &row(1, 2)).await?;
        let said = mesh.wait_for_fault("gap", QUIET).await?;
        ensure!(said.contains(&format!("the last one applied is {}", stands[1])), "{said}");
        write(&mesh, 2, "A", "nonsense").await?;
        let said = mesh.wait_for_fault("record", QUIET).await?;
        ensure!(said.contains("unreadable unitflow header: nonsense"), "{said}");
        ensure!(self::stands(&mesh).await? == stands, "a lane went on");
        let found = mesh.server("B").sql("SELECT * FROM shop.notes").await?;
        ensure!(found == "2", "B has {found}");
        mesh.finish();
        Ok(())
    });
}

/// Where each lane stands at B.
async fn stands(mesh: &Mesh) -> anyhow::Result<Vec<u64>> {
    let query = "SELECT seq FROM unitflow.ledger WHERE log = 'A.shop' ORDER BY lane";
    let found = mesh.server("B").sql(query).await?;
    found.lines().map(|seq| seq.parse().context("a number")).collect()
}

async fn write(mesh: &Mesh, lane: i32, origin: &str, header: &str) -> anyhow::Result<()> {
    let broker = Broker::new(mesh.kafka("A").bootstrap());
    let mut writer = Writer::open(&broker, "a stranger").await?;
    let headers = [(HEADER, header.as_bytes()), (ORIGIN, origin.as_bytes())];
    let topic = mesh.topic("A.shop.tagged");
    writer.send(&topic, lane, Some(KEY), Some(VALUE), &headers, 0)?;
    tokio::task::block_in_place(|| writer.commit())?;
    Ok(())
}
