//! What a third unit made behind another's change is not undone by a copy, however late that change comes.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::sleep;
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::random::{Random, seed};
use unitflow_harness::{Mesh, MeshSetup, beside};

use crate::writers::Writers;
use crate::{BINARY, CLASHING, GOODS, QUIET, arrive, ensure_kept, ensure_well, fill, limit, shows};

/// A row that each unit writes in turn.
const ROW: u64 = 5_000;
/// Longer than a conflict is waited for.
const LATE: Duration = Duration::from_secs(12);

#[test]
fn a_write_waits_for_the_one_it_was_made_behind() {
    beside("a write behind one that is late", limit(), async {
        let random = Random::new(seed("filling"));
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb, Mysql9]).kafka_shared();
        let setup = setup.tables(GOODS).prepare("A", &fill()).prepare("B", &fill());
        let mut mesh = setup.prepare("C", &fill()).start().await?;
        mesh.start_workers()?;
        let resync = ["resync", "full", "--from", "A", "--table", "shop.goods"];
        let why = ["--why", "test", "--by", "test"];
        let command = mesh.spawn(&[&resync[..], &why, &["--rows-per-second", "1000"]].concat())?;
        for unit in ["A", "B", "C"] {
            shows(&mesh, unit, "SELECT COUNT(*) FROM unitflow.filling").await?;
        }
        let mut own = Writers::slow();
        for (place, unit) in (0..).zip(mesh.units()) {
            let goods = (&unit.server, "shop.goods");
            own.own(goods, (place, 3), 0..CLASHING.start, random.branch(place)).await?;
        }
        mesh.worker("A", "connector")?.says("copying job=", QUIET).await?;
        // A does not hear of C, and so not of what B's change was made behind.
        mesh.run(&[&["pause", "C-to-A.shop"], &why[..]].concat()).await?;
        write(&mesh, "C", 2).await?;
        shows(&mesh, "B", &is(2)).await?;
        write(&mesh, "B", 3).await?;
        shows(&mesh, "C", &is(3)).await?;
        sleep(LATE).await;
        ensure!(mesh.server("A").sql(&is(0)).await? == "1", "A has heard of one of them");
        mesh.run(&[&["resume", "C-to-A.shop"], &why[..]].concat()).await?;
        ensure_well(&mesh, command).await?;
        let last = own.stop().await?;
        arrive(&mut mesh).await?;
        for unit in ["A", "B", "C"] {
            let found = mesh.server(unit).sql(&is(3)).await?;
            ensure!(found == "1", "the last write is lost in {unit}");
        }
        ensure_kept(&mesh, &last).await?;
        mesh.finish();
        Ok(())
    });
}

async fn write(mesh: &Mesh, unit: &str, n: u64) -> anyhow::Result<()> {
    let update = format!("UPDATE shop.goods SET n = {n} WHERE id = {ROW}");
    mesh.server(unit).sql(&update).await?;
    Ok(())
}

fn is(n: u64) -> String {
    format!("SELECT n = {n} FROM shop.goods WHERE id = {ROW}")
}
