//! Tables of which a row's key does not tell all: the lane is another column's, or a condition chooses.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep, timeout};
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::random::{Random, seed};
use unitflow_harness::{MeshSetup, beside};

use crate::writers::Writers;
use crate::{
    BINARY, CLASHING, GOODS, QUIET, arrive, die_while_copying, ensure_kept, ensure_well, fill,
    kill_each, limit, said, says, shows,
};

/// A row of B's that A lacks.
const STRAY: &str = "(900001, 1, 'stray')";
const KEY: &str = r#"["shop","goods",{"id":900001}]"#;
/// And one that A has not got yet.
const LATE: &str = "(900003, 1, 'late')";
const LATE_KEY: &str = r#"["shop","goods",{"id":900003}]"#;
/// Up to where rows travel before and after, and rows a second while they do.
const TRAVELS: [u64; 2] = [6_000, 8_000];
const PACE: &str = "700";

#[test]
fn a_table_spread_by_another_column_arrives_and_what_is_too_many_is_told() {
    beside("a table spread by another column", limit(), async {
        let random = Random::new(seed("filling"));
        let stray = format!("INSERT INTO shop.goods (id, n, body) VALUES {STRAY}");
        let mut mesh = MeshSetup::new(BINARY, &[Mysql9, Mariadb])
            .kafka_shared()
            .tables(GOODS)
            .prepare("A", &fill())
            .prepare("B", &stray)
            .flow("tables = [\"shop.*\"]\npartition_by = { \"shop.goods\" = { columns = [\"body\"] } }")
            .start()
            .await?;
        mesh.start_workers()?;
        let resync = ["resync", "full", "--from", "A", "--table", "shop.goods"];
        let ways = ["--why", "test", "--by", "test", "--rows-per-second", "3000"];
        let mut command = mesh.spawn(&[&resync[..], &ways].concat())?;
        for unit in mesh.units() {
            shows(&mesh, &unit.name, "SELECT COUNT(*) FROM unitflow.filling").await?;
        }
        // They delete rows before these are copied, and update what is not there yet.
        let mut own = Writers::none();
        for (place, unit) in (0..).zip(mesh.units()) {
            let goods = (&unit.server, "shop.goods");
            own.own(goods, (place, 2), 0..CLASHING.start, random.branch(place)).await?;
        }
        kill_each(&mut mesh, &mut command, &[("A", "connector"), ("A", "transformer")], 1_500, "")
            .await?;
        die_while_copying(&mut mesh, "B").await?;
        let ended = timeout(limit(), command.wait_with_output()).await;
        let ended = ended.with_context(|| said(&mesh).unwrap_or_default())??;
        let text = String::from_utf8_lossy(&ended.stdout).into_owned();
        let is_told = text.contains("rows that A lacks stay where they are") && text.contains(KEY);
        ensure!(ended.status.code() == Some(1) && is_told, "{}: {text}", ended.status);
        let keys = ["resync", "keys", "--from", "A", "--key", KEY, "--why", "test", "--by", "test"];
        let told = mesh.run(&keys).await.err().context("it is said to be gone")?.to_string();
        ensure!(told.contains("rows that A lacks stay where they are"), "{told}");
        // A row of B's that is only under way to A does not stay behind.
        let why = ["--why", "test", "--by", "test"];
        mesh.worker("A", "sink")?.kill()?;
        mesh.server("B")
            .sql(&format!("INSERT INTO shop.goods (id, n, body) VALUES {LATE}"))
            .await?;
        let keys = ["resync", "keys", "--from", "A", "--key", LATE_KEY];
        let command = mesh.spawn(&[&keys[..], &why[..]].concat())?;
        sleep(Duration::from_secs(4)).await;
        mesh.start_worker("A", "sink", "")?;
        ensure_well(&mesh, command).await?;
        let last = own.stop().await?;
        mesh.server("B")
            .sql("SET sql_log_bin = 0; DELETE FROM shop.goods WHERE id = 900001")
            .await?;
        arrive(&mut mesh).await?;
        ensure_kept(&mesh, &last).await?;
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

/// The command is killed, the filter lets more through, and the command is given again.
#[test]
fn a_filter_is_widened_while_its_table_is_copied() {
    beside("a filter that is widened amid a copy", limit(), async {
        let flow = |below| {
            format!("tables = [\"shop.*\"]\nrows = {{ \"shop.goods\" = \"id < {below}\" }}")
        };
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb]).kafka_shared().tables(GOODS);
        let setup = setup.prepare("A", &fill()).flow(&flow(TRAVELS[0]));
        let mut mesh = setup.start().await?;
        mesh.start_workers()?;
        let resync = ["resync", "full", "--from", "A", "--table", "shop.goods"];
        let resync =
            [&resync[..], &["--why", "test", "--by", "test", "--rows-per-second"]].concat();
        let mut killed = mesh.spawn(&[&resync[..], &[PACE]].concat())?;
        let all = |below| format!("SELECT COUNT(*) = {below} FROM shop.goods");
        shows(&mesh, "B", &all(TRAVELS[0])).await?;
        killed.kill().await?;
        mesh.change_flow(&flow(TRAVELS[1]))?;
        for unit in ["A", "B"] {
            for role in ["connector", "transformer", "sink"] {
                mesh.worker(unit, role)?.kill()?;
                mesh.start_worker(unit, role, "")?;
            }
        }
        let command = mesh.spawn(&[&resync[..], &["4000"]].concat())?;
        says(&mesh, "going on with the copy that was ordered before").await?;
        ensure_well(&mesh, command).await?;
        arrive(&mut mesh).await?;
        let deadline = Instant::now() + QUIET;
        while mesh.server("B").sql(&all(TRAVELS[1])).await? != "1" {
            ensure!(Instant::now() < deadline, "what the filter lets through since is not there");
            sleep(Duration::from_millis(200)).await;
        }
        mesh.finish();
        Ok(())
    });
}
