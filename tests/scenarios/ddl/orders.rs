//! Schema changes that wait: for a person, for another flow, for a lane.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mysql_async::prelude::Queryable as _;
use tokio::time::sleep;
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::load::connect;
use unitflow_harness::{Flavor, Mesh, MeshSetup, beside};

use super::ARRIVES_WITHIN;
use crate::{LIMIT, setup};

const WARES: &str = "CREATE TABLE wares (id INT PRIMARY KEY, n INT); INSERT INTO wares VALUES (1, 1), (2, 2), (3, 3);";

/// Statements that stop the flow, what it says, and what an administrator then does at the target.
const STOPS: &[(&str, &str, &str)] = &[
    ("CREATE SEQUENCE shop.numbers", "it is not known what it does", ""),
    ("DROP DATABASE old", "it drops a database", "DROP DATABASE old"),
    (
        "ALTER TABLE shop.wares ADD COLUMN code CHAR(36) NOT NULL DEFAULT (uuid())",
        "it makes up values",
        "ALTER TABLE shop.wares ADD COLUMN code CHAR(36) NOT NULL DEFAULT (uuid())",
    ),
    (
        "ALTER TABLE shop.wares ADD COLUMN place BIGINT NOT NULL AUTO_INCREMENT, ADD INDEX (place)",
        "it numbers the table's rows",
        "ALTER TABLE shop.wares ADD COLUMN place BIGINT NOT NULL AUTO_INCREMENT, ADD INDEX (place)",
    ),
];

#[test]
fn what_cannot_be_followed_stops_until_it_is_skipped() {
    beside("what can't be followed stops", LIMIT, async {
        let create = "CREATE DATABASE old; CREATE TABLE old.things (id INT PRIMARY KEY)";
        let mut mesh = setup(&[Mariadb, Mysql9])
            .kafka_shared()
            .flow("tables = [\"shop.*\", \"old.*\"]")
            .ddl("{ apply = \"A\" }")
            .tables(WARES)
            .prepare("A", create)
            .prepare("B", create)
            .start()
            .await?;
        mesh.start_workers()?;
        for (place, (ddl, why, by_hand)) in (10..).zip(STOPS) {
            mesh.server("A").sql(ddl).await?;
            mesh.server("A")
                .sql(&format!("INSERT INTO shop.wares (id, n) VALUES ({place}, 0)"))
                .await?;
            let seq = stopped_at(&mesh, why).await?;
            let there = mesh.server("B").sql("SELECT MAX(id) FROM shop.wares").await?;
            ensure!(there.parse::<u32>()? < place, "B went on behind {ddl}");
            unlogged(&mesh, by_hand).await?;
            if ddl.contains("uuid") {
                copy_codes(&mesh).await?;
            }
            mesh.run(&[
                "skip",
                "A-to-B.shop",
                "--seq",
                &seq,
                "--why",
                "done by hand",
                "--by",
                "test",
            ])
            .await?;
            mesh.quiesce(ARRIVES_WITHIN).await?;
        }
        ensure_equal(&mesh, "SELECT * FROM shop.wares ORDER BY id").await?;
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

/// Waits until the flow to B has stopped for this reason; the number of the record.
async fn stopped_at(mesh: &Mesh, why: &str) -> anyhow::Result<String> {
    let deadline = Instant::now() + ARRIVES_WITHIN;
    loop {
        let status = mesh.wait_for_fault("ddl", ARRIVES_WITHIN).await?;
        if let Some((before, _)) = status.split_once(&format!("), {why}")) {
            let (_, seq) = before.rsplit_once("(record ").context("a record")?;
            return Ok(seq.to_owned());
        }
        ensure!(Instant::now() < deadline, "nothing stopped because {why}: {status}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Gives B's rows what A's server made up for them.
async fn copy_codes(mesh: &Mesh) -> anyhow::Result<()> {
    let query = "SELECT CONCAT('UPDATE shop.wares SET code = \"', code, '\" WHERE id = ', id, ';') FROM shop.wares";
    let copies = mesh.server("A").sql(query).await?;
    unlogged(mesh, &copies).await
}

/// What an administrator does at B alone.
async fn unlogged(mesh: &Mesh, statements: &str) -> anyhow::Result<()> {
    mesh.server("B").sql(&format!("SET SESSION sql_log_bin = 0; {statements}")).await?;
    Ok(())
}

async fn ensure_equal(mesh: &Mesh, query: &str) -> anyhow::Result<()> {
    let (a, b) = (mesh.server("A").sql(query).await?, mesh.server("B").sql(query).await?);
    ensure!(!a.is_empty() && a == b, "{query}\nat A:\n{a}\nat B:\n{b}");
    Ok(())
}

/// Until a query at B gives this.
async fn wait_for(mesh: &Mesh, query: &str, expected: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + ARRIVES_WITHIN;
    loop {
        let found = mesh.server("B").sql(query).await?;
        if found == expected {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{query} gives {found}, not {expected}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// What the server refuses parks its table, until it is run again or somebody has done it.
#[test]
fn a_refused_schema_change_waits_for_an_order() {
    beside("a refused schema change", LIMIT, async {
        let mut mesh = setup(&[Mysql9, Mariadb])
            .kafka_shared()
            .ddl("{ apply = \"A\" }")
            .tables(WARES)
            .start()
            .await?;
        mesh.start_workers()?;
        const PARKED: &str = "SELECT COUNT(DISTINCT ddl_seq) FROM unitflow.parked";
        const INDEX: &str = "CREATE INDEX by_n ON shop.wares (n)";
        const COLUMN: &str = "ALTER TABLE shop.wares ADD COLUMN c INT DEFAULT 7";
        for (ddl, in_its_way, mended, order) in [
            (
                INDEX,
                "CREATE INDEX by_n ON shop.wares (id)",
                "DROP INDEX by_n ON shop.wares",
                "retry",
            ),
            (COLUMN, COLUMN, "", "resume"),
        ] {
            unlogged(&mesh, in_its_way).await?;
            mesh.server("A").sql(ddl).await?;
            mesh.server("A")
                .sql("INSERT INTO shop.wares (id, n) SELECT id + most, n FROM shop.wares, (SELECT MAX(id) AS most FROM shop.wares) all_wares")
                .await?;
            mesh.server("A").sql("UPDATE shop.wares SET n = n + 1").await?;
            wait_for(&mesh, PARKED, "1").await?;
            mesh.quiesce_but_parked("A", "B", ARRIVES_WITHIN).await?;
            // Tried in vain, it holds nobody else up.
            mesh.run(&["retry", "A-to-B.shop", "--why", "too early", "--by", "test"]).await?;
            mesh.server("A").sql("UPDATE shop.wares SET n = n + 1").await?;
            mesh.quiesce_but_parked("A", "B", ARRIVES_WITHIN).await?;
            unlogged(&mesh, mended).await?;
            mesh.run(&[
                order,
                "A-to-B.shop",
                "--table",
                "shop.wares",
                "--why",
                "mended",
                "--by",
                "test",
            ])
            .await?;
            wait_for(&mesh, PARKED, "0").await?;
            ensure_equal(&mesh, "SELECT * FROM shop.wares ORDER BY id").await?;
            wait_for(&mesh, "SELECT COUNT(*) FROM unitflow.ddl WHERE done_at IS NULL", "0").await?;
        }
        let index = "SELECT column_name FROM information_schema.statistics \
                     WHERE table_name = 'wares' AND index_name = 'by_n'";
        ensure_equal(&mesh, index).await?;
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn a_swap_that_brings_other_rows_waits_where_schemas_are_a_persons() {
    let setup = setup(&[Mysql9, Mariadb]).ddl("\"stop\"");
    beside("a swap that brings other rows", LIMIT, swap_that_brings_other_rows(setup));
}

#[test]
fn a_swap_that_brings_other_rows_waits_where_schemas_are_applied() {
    let setup = setup(&[Mariadb, Mysql9]).ddl("{ apply = \"A\" }");
    beside("a swap that would bring other rows", LIMIT, swap_that_brings_other_rows(setup));
}

/// A copy that holds other values than its table would, altered in place, takes the table's name: nothing
/// of it is done elsewhere until a person has, and has copied the rows.
async fn swap_that_brings_other_rows(setup: MeshSetup) -> anyhow::Result<()> {
    const COLUMN: &str = "ADD COLUMN made DATETIME(6) DEFAULT NOW(6)";
    let mut mesh = setup.kafka_shared().tables(WARES).start().await?;
    mesh.start_workers()?;
    mesh.quiesce(ARRIVES_WITHIN).await?;
    let swap = format!(
        "CREATE TABLE `shop`.`_wares_new` (id INT PRIMARY KEY, n INT);
         ALTER TABLE `shop`.`_wares_new` {COLUMN};
         INSERT INTO shop._wares_new (id, n) SELECT id, n FROM shop.wares;
         RENAME TABLE `shop`.`wares` TO `shop`.`_wares_old`, `shop`.`_wares_new` TO `shop`.`wares`;
         DROP TABLE shop._wares_old; INSERT INTO shop.wares (id, n) VALUES (4, 4)"
    );
    mesh.server("A").sql(&swap).await?;
    wait_for(&mesh, "SELECT GROUP_CONCAT(DISTINCT tbl) FROM unitflow.parked", "wares").await?;
    let why = mesh.server("B").sql("SELECT DISTINCT why FROM unitflow.parked").await?;
    ensure!(why.contains(COLUMN) && why.contains("resync full --from A"), "parked: {why}");
    let columns = "SELECT COUNT(*) FROM information_schema.columns \
                   WHERE table_schema = 'shop' AND table_name = 'wares'";
    wait_for(&mesh, columns, "2").await?;
    unlogged(&mesh, &format!("ALTER TABLE shop.wares {COLUMN}")).await?;
    let because = ["--table", "shop.wares", "--why", "by hand", "--by", "test"];
    mesh.run(&[&["resume", "A-to-B.shop"], &because[..]].concat()).await?;
    mesh.quiesce(ARRIVES_WITHIN).await?;
    mesh.run(&[&["resync", "full", "--from", "A"], &because[..]].concat()).await?;
    mesh.quiesce(ARRIVES_WITHIN).await?;
    ensure_equal(&mesh, "SELECT * FROM shop.wares ORDER BY id").await?;
    mesh.ensure_still().await?;
    // What B writes until it hears of this would be in no table that has the name in both.
    let swap = "CREATE TABLE shop.wares_v2 LIKE shop.wares;
                RENAME TABLE shop.wares TO shop.wares_v1, shop.wares_v2 TO shop.wares";
    mesh.server("A").sql(swap).await?;
    wait_for(&mesh, "SELECT SUM(tbl = 'wares') > 0 FROM unitflow.parked", "1").await?;
    wait_for(&mesh, "SELECT COUNT(*) FROM shop.wares", "4").await?;
    mesh.finish();
    Ok(())
}

/// Changes that wait in one lane precede a statement that comes by all.
#[test]
fn a_schema_change_does_not_pass_what_waits_of_its_table() {
    beside("a schema change behind what waits", LIMIT, async {
        let mut mesh = setup(&[Mysql9, Mariadb])
            .kafka_shared()
            .one_way("A", "B")
            .ddl("{ apply = \"A\" }")
            .tables(WARES)
            .start()
            .await?;
        mesh.start_workers()?;
        mesh.quiesce(ARRIVES_WITHIN).await?;
        unlogged(&mesh, "ALTER TABLE shop.wares MODIFY n TINYINT").await?;
        let rows: Vec<String> = (11..40).map(|id| format!("({id}, 1)")).collect();
        let write = format!(
            "INSERT INTO shop.wares VALUES (10, 1000); INSERT INTO shop.wares VALUES {};
             TRUNCATE shop.wares; INSERT INTO shop.wares VALUES (50, 5)",
            rows.join(",")
        );
        mesh.server("A").sql(&write).await?;
        stopped_at(&mesh, "a table of it is parked").await?;
        let parked = "SELECT COUNT(*) FROM unitflow.parked";
        wait_for(&mesh, parked, "1").await?;
        unlogged(&mesh, "ALTER TABLE shop.wares MODIFY n INT").await?;
        mesh.run(&["resume", "A-to-B.shop", "--why", "mended", "--by", "test"]).await?;
        mesh.quiesce(ARRIVES_WITHIN).await?;
        wait_for(&mesh, parked, "0").await?;
        ensure_equal(&mesh, "SELECT * FROM shop.wares ORDER BY id").await?;
        mesh.finish();
        Ok(())
    });
}

/// Orders that are about other things leave a table alone that waits until a person has changed its
/// schema.
#[test]
fn only_a_person_knows_when_a_schema_fits() {
    beside("a schema that a person changes", LIMIT, async {
        let create = format!("{WARES} CREATE TABLE boxes (id INT PRIMARY KEY, n INT)");
        let mut mesh = setup(&[Mariadb, Mysql9])
            .kafka_shared()
            .one_way("A", "B")
            .tables(&create)
            .start()
            .await?;
        mesh.start_workers()?;
        mesh.quiesce(ARRIVES_WITHIN).await?;
        unlogged(&mesh, "ALTER TABLE shop.boxes MODIFY n TINYINT").await?;
        let parked = |table| format!("SELECT COUNT(*) FROM unitflow.parked WHERE tbl = '{table}'");
        mesh.server("A").sql("DELETE FROM shop.wares WHERE id = 3; TRUNCATE shop.wares").await?;
        wait_for(&mesh, &parked("wares"), "4").await?;
        mesh.server("A").sql("INSERT INTO shop.wares VALUES (7, 7), (8, 8)").await?;
        for (id, order) in [(1, "skip"), (2, "retry")] {
            mesh.server("A").sql(&format!("INSERT INTO shop.boxes VALUES ({id}, 1000)")).await?;
            wait_for(&mesh, &parked("boxes"), "1").await?;
            let stands = "SELECT seq FROM unitflow.parked WHERE tbl = 'boxes'";
            let stands: u64 = mesh.server("B").sql(stands).await?.parse()?;
            let (first, last) = ((stands + 1).to_string(), (stands + 4).to_string());
            let whose = ["A-to-B.shop", "--why", "boxes only", "--by", "test"];
            let numbers = ["--seq", first.as_str(), "--to-seq", last.as_str()];
            if order == "retry" {
                unlogged(&mesh, "ALTER TABLE shop.boxes MODIFY n INT").await?;
                mesh.run(&[&[order], &whose[..]].concat()).await?;
            } else {
                mesh.run(&[&[order], &whose[..], &numbers[..]].concat()).await?;
            }
            wait_for(&mesh, &parked("boxes"), "0").await?;
            mesh.quiesce_but_parked("A", "B", ARRIVES_WITHIN).await?;
            wait_for(&mesh, &parked("wares"), "4").await?;
        }
        wait_for(&mesh, "SELECT GROUP_CONCAT(id) FROM shop.boxes", "2").await?;
        unlogged(&mesh, "TRUNCATE shop.wares").await?;
        let resume = ["resume", "A-to-B.shop", "--table", "shop.wares"];
        mesh.run(&[&resume[..], &["--why", "emptied", "--by", "test"]].concat()).await?;
        mesh.quiesce(ARRIVES_WITHIN).await?;
        ensure_equal(&mesh, "SELECT * FROM shop.wares ORDER BY id").await?;
        mesh.finish();
        Ok(())
    });
}

/// B writes a row in the schema that A's statement made, and C reads B before it reads A.
#[test]
fn rows_of_another_unit_wait_for_the_schema_they_were_written_in() {
    beside("rows wait for their schema", LIMIT, async {
        let mut mesh = setup(&[Mysql9, Mariadb, Mysql9])
            .kafka_shared()
            .ddl("{ apply = \"A\" }")
            .tables(WARES)
            .start()
            .await?;
        mesh.start_workers()?;
        mesh.quiesce(ARRIVES_WITHIN).await?;
        mesh.run(&["pause", "A-to-C.shop", "--why", "B is to be first", "--by", "test"]).await?;
        mesh.server("A").sql("ALTER TABLE shop.wares ADD COLUMN c INT NOT NULL DEFAULT 5").await?;
        mesh.run(&["wait", "--from", "A", "--to", "B", "--timeout-seconds", "60"]).await?;
        mesh.server("B").sql("INSERT INTO shop.wares VALUES (9, 9, 9)").await?;
        let early = mesh.run(&["wait", "--from", "B", "--to", "C", "--timeout-seconds", "3"]).await;
        ensure!(early.is_err(), "C has applied what it can't have had a column for");
        let held =
            "SELECT (SELECT COUNT(*) FROM shop.wares), (SELECT COUNT(*) FROM unitflow.parked)";
        let found = mesh.server("C").sql(held).await?;
        ensure!(found == "3\t0", "C has rows and parked tables: {found}");
        mesh.run(&["resume", "A-to-C.shop", "--why", "B was first", "--by", "test"]).await?;
        mesh.quiesce(ARRIVES_WITHIN).await?;
        for unit in ["A", "B", "C"] {
            let rows = mesh.server(unit).sql("SELECT * FROM shop.wares ORDER BY id").await?;
            ensure!(rows == "1\t1\t5\n2\t2\t5\n3\t3\t5\n9\t9\t9", "{unit} has {rows}");
        }
        let found = mesh.server("C").sql(held).await?;
        ensure!(found == "4\t0", "C has rows and parked tables: {found}");
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

/// A row that somebody holds at the target keeps its lane, and with it all others, from a schema
/// change.
#[test]
fn a_lane_that_does_not_come_to_a_barrier_shows() {
    beside("a lane that does not come", LIMIT, async {
        let mut mesh = setup(&[Mysql9, Mariadb])
            .kafka_shared()
            .ddl("{ apply = \"A\" }")
            .tables(WARES)
            .start()
            .await?;
        mesh.start_workers()?;
        mesh.quiesce(ARRIVES_WITHIN).await?;
        let mut holder = connect(mesh.server("B")).await?;
        holder.query_drop("BEGIN").await?;
        holder.query_drop("SELECT * FROM shop.wares WHERE id = 2 FOR UPDATE").await?;
        mesh.server("A").sql("UPDATE shop.wares SET n = 20 WHERE id = 2").await?;
        mesh.server("A").sql("CREATE TABLE shop.more (id INT PRIMARY KEY)").await?;
        let status = loop {
            // With something that waits it need not end with 0.
            let status = mesh.run(&["status"]).await;
            let status = status.unwrap_or_else(|error| error.to_string());
            if status.contains("WAITING") {
                break status;
            }
            sleep(Duration::from_millis(500)).await;
        };
        for part in ["WAITING A-to-B.shop at record ", " for lane ", ": CREATE TABLE shop.more"] {
            ensure!(status.contains(part), "no {part} in {status}");
        }
        holder.query_drop("ROLLBACK").await?;
        holder.disconnect().await?;
        mesh.quiesce(ARRIVES_WITHIN).await?;
        let status = mesh.run(&["status"]).await?;
        ensure!(!status.contains("WAITING"), "{status}");
        ensure_equal(&mesh, "SELECT * FROM shop.wares ORDER BY id").await?;
        mesh.finish();
        Ok(())
    });
}

/// The rights that `init --print` names are enough, also to see after a crash what was run; and
/// `check` asks for no others.
#[test]
fn a_user_with_no_more_rights_than_needed_runs_schema_changes() {
    beside("least rights", LIMIT, async {
        for pairing in [[Mariadb, Mysql9], [Mysql9, Mariadb]] {
            with_least_rights(pairing).await?;
        }
        Ok(())
    });
}

async fn with_least_rights(pairing: [Flavor; 2]) -> anyhow::Result<()> {
    let app = "CREATE USER app@'%'; GRANT SELECT ON shop.* TO app@'%'";
    let policy = "{ apply = \"A\" }\nstored_code = [\"views\", \"routines\", \"events\"]";
    let mut mesh = setup(&pairing)
        .kafka_shared()
        .one_way("A", "B")
        .least_rights()
        .setting("log_bin_trust_function_creators", "ON")
        .ddl(policy)
        .tables(WARES)
        .prepare("A", app)
        .prepare("B", app)
        .start()
        .await?;
    // Other things than rights it may find.
    let checked = mesh.run(&["check"]).await;
    let checked = checked.unwrap_or_else(|error| error.to_string());
    ensure!(!checked.contains("[grant]"), "{checked}");
    mesh.start_workers()?;
    for ddl in [
        "ALTER TABLE shop.wares ADD COLUMN c INT NOT NULL DEFAULT 5, ADD INDEX (n)",
        "CREATE TABLE shop.boxes (id INT PRIMARY KEY, ware INT, FOREIGN KEY (ware) REFERENCES shop.wares (id))",
        "RENAME TABLE shop.boxes TO shop.crates",
        "TRUNCATE TABLE shop.crates",
        "DROP TABLE shop.crates",
        "CREATE DEFINER = app@'%' VIEW shop.all_wares AS SELECT id FROM shop.wares",
        "CREATE DEFINER = app@'%' PROCEDURE shop.nothing() SELECT 1",
        "CREATE DEFINER = app@'%' EVENT shop.clean_up ON SCHEDULE EVERY 1 DAY DO DELETE FROM shop.wares",
        "DROP PROCEDURE shop.nothing",
    ] {
        mesh.server("A").sql(ddl).await.with_context(|| ddl)?;
    }
    mesh.quiesce(ARRIVES_WITHIN).await?;
    let retype = "ALTER TABLE shop.wares MODIFY n BIGINT";
    super::die_at(&mut mesh, "B", "die_after_ddl", retype).await?;
    let query = "SELECT (SELECT GROUP_CONCAT(data_type ORDER BY ordinal_position) FROM information_schema.columns \
                 WHERE table_schema = 'shop' AND table_name = 'wares'), \
                 (SELECT COUNT(*) FROM information_schema.views WHERE table_schema = 'shop'), \
                 (SELECT COUNT(*) FROM information_schema.routines WHERE routine_schema = 'shop'), \
                 (SELECT status FROM information_schema.events WHERE event_schema = 'shop'), \
                 (SELECT COUNT(*) FROM unitflow.parked), (SELECT COUNT(done_at) FROM unitflow.ddl)";
    let found = mesh.server("B").sql(query).await?;
    ensure!(found == "int,bigint,int\t1\t0\tDISABLED\t0\t10", "B has {found}");
    mesh.finish();
    Ok(())
}
