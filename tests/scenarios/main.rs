//! Meshes of real servers in every shape, under a mixed load, before the judge.
//!
//! One test at a time: each starts servers and workers enough for two cores. `UNITFLOW_FULL=1`
//! writes more; `UNITFLOW_SEED` repeats a run.

mod causes;
mod ddl;
mod lanes;
mod loads;
mod maintenance;
mod metrics;
mod parked;
mod strangers;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::load::bulk;
use unitflow_harness::plan::Mix;
use unitflow_harness::random::{Random, is_full, seed};
use unitflow_harness::{Flavor, Load, Mesh, MeshSetup, Worker, Written, beside, watch};

mod tables;
mod tls;

const BINARY: &str = env!("CARGO_BIN_EXE_unitflow");
/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(300);
/// Nor does what was written take longer to arrive.
const QUIET: Duration = Duration::from_secs(90);
/// What a worker may have resident, at its peak.
const PEAK_MIB_MOST: u64 = 256;
/// The same where a row of 64 MiB is updated: its two images in base64 are 171 MiB, and each hand
/// that the record passes through has a copy.
const PEAK_MIB_LARGE: u64 = 1024;

/// Where all units write [`transactions`].
fn limit() -> Duration {
    if is_full() { LIMIT * 2 } else { LIMIT }
}

/// Of each unit.
fn transactions(units: usize) -> u64 {
    match (units > 2, is_full()) {
        (false, false) => 2_500,
        (false, true) => 6_000,
        (true, false) => 1_500,
        (true, true) => 3_000,
    }
}

#[test]
fn two_units_mysql_and_mysql() {
    beside("two units, MySQL and MySQL", limit(), everybody_writes(setup(&[Mysql9, Mysql9])));
}

#[test]
fn two_units_mysql_and_mariadb() {
    beside("two units, MySQL and MariaDB", limit(), everybody_writes(setup(&[Mysql9, Mariadb])));
}

#[test]
fn two_units_mariadb_and_mariadb() {
    beside("two units, MariaDB and MariaDB", limit(), everybody_writes(setup(&[Mariadb, Mariadb])));
}

#[test]
fn mesh_of_three() {
    let setup = setup(&[Mysql9, Mariadb, Mysql9]);
    beside("a mesh of three", limit(), everybody_writes(setup));
}

#[test]
fn star_through_a_hub() {
    let setup = setup(&[Mariadb, Mysql9, Mariadb]).hub("B");
    beside("a star through a hub", limit(), everybody_writes(setup));
}

fn setup(flavors: &[Flavor]) -> MeshSetup {
    MeshSetup::new(BINARY, flavors)
}

/// The mixed load on all units at once, and all that has to hold then.
async fn everybody_writes(setup: MeshSetup) -> anyhow::Result<()> {
    let random = Random::new(seed("scenario"));
    let mut mesh = setup.start().await?;
    mesh.start_workers()?;
    let watches =
        [watch::versions(mesh.server("A")).await?, watch::versions(mesh.server("B")).await?];
    let load = Load::shop().transactions(transactions(mesh.units().len()));
    let written = write_everywhere(&mesh, &load, 0, &random).await?;
    mesh.ensure_done(&written, QUIET).await?;
    for watch in watches {
        ensure!(watch.stop().await? > 0, "nobody watched");
    }
    ensure_status_shows_rest(&mesh).await?;
    mesh.finish();
    Ok(())
}

/// A mesh at rest has nothing that a person has to look at, and no stage, the relay of a star too, is behind.
async fn ensure_status_shows_rest(mesh: &Mesh) -> anyhow::Result<()> {
    let status: serde_json::Value = serde_json::from_str(&mesh.run(&["status", "--json"]).await?)?;
    for log in status["logs"].as_array().context("logs")? {
        let relayed =
            mesh.hub().is_some_and(|hub| !log["log"].as_str().unwrap_or("").starts_with(hub));
        let relay = if relayed { 0.into() } else { serde_json::Value::Null };
        ensure!(log["relay_lag_records"] == relay && log["transformer_lag_records"] == 0, "{log}");
        ensure!(log["bridged_by_tagged"].is_null() != relayed, "{log}");
    }
    Ok(())
}

/// Lets the same load run on all units until each has written its transactions.
async fn write_everywhere(
    mesh: &Mesh,
    load: &Load,
    first: u32,
    random: &Random,
) -> anyhow::Result<Written> {
    let mut running = Vec::new();
    for unit in mesh.units() {
        running.push(load.start(&unit.server, &unit.name, first, random).await?);
    }
    let mut written = Written::default();
    for running in running {
        written.add(running.finish(limit()).await?);
    }
    Ok(written)
}

#[test]
fn a_transaction_of_two_hundred_thousand_rows() {
    beside("200,000 rows in one transaction", LIMIT, async {
        const ROWS: u32 = 200_000;
        let random = Random::new(seed("scenario"));
        let mut mesh = setup(&[Mysql9, Mariadb]).kafka_shared().start().await?;
        mesh.start_workers()?;
        // Small ones go on beside it, so that the large one has neighbours in every lane.
        let beside = Load::shop().rate(100);
        let running = beside.start(mesh.server("A"), "A", 0, &random).await?;
        let mut written = bulk(mesh.server("A"), "A", 30, ROWS, &random).await?;
        println!("  {ROWS} rows written in {:.1?}", written.took);
        written.add(bulk(mesh.server("B"), "B", 31, ROWS, &random).await?);
        written.add(running.stop().await?);
        mesh.ensure_done(&written, QUIET * 2).await?;
        tell_peaks(&mut mesh, PEAK_MIB_MOST)?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn a_row_of_64_mib() {
    beside("a row of 64 MiB", LIMIT, async {
        // Bytes of every value, and characters that need two bytes, quotes and backslashes.
        const ROWS: [&str; 2] = [
            "REPEAT(RANDOM_BYTES(1024), 65536), NULL",
            "NULL, REPEAT('\u{e9}\\'\\\\\"\\n', 2000000)",
        ];
        let mut mesh = setup(&[Mysql9, Mariadb])
            .kafka_shared()
            .setting("max_allowed_packet", "1G")
            .tables("CREATE TABLE large (id VARCHAR(9) PRIMARY KEY, body LONGBLOB, text LONGTEXT CHARACTER SET latin1)")
            .start()
            .await?;
        mesh.start_workers()?;
        let change = async |mesh: &mut Mesh, statements: &dyn Fn(&str) -> String| {
            for unit in ["A", "B"] {
                mesh.server(unit).sql(&statements(unit)).await?;
            }
            mesh.quiesce(QUIET).await?;
            let query = "SELECT id, SHA2(body, 256), LENGTH(body), SHA2(text, 256), LENGTH(text) FROM shop.large ORDER BY id";
            let rows = mesh.server("A").sql(query).await?;
            ensure!(rows == mesh.server("B").sql(query).await?, "they differ: {rows}");
            anyhow::Ok(rows)
        };
        let insert = |unit: &str| {
            let row = |(number, row)| {
                format!("INSERT INTO shop.large VALUES ('{unit}{number}', {row}); ")
            };
            (0..).zip(ROWS).map(row).collect()
        };
        let update = |unit: &str| {
            format!(
                "UPDATE shop.large SET body = CONCAT(body, 'x'), text = CONCAT('\u{fc}', text) WHERE id LIKE '{unit}_'"
            )
        };
        let delete = |unit: &str| format!("DELETE FROM shop.large WHERE id LIKE '{unit}_'");
        let inserted = change(&mut mesh, &insert).await?;
        ensure!(inserted.contains("67108864"), "no row of 64 MiB: {inserted}");
        // In the middle of it, those who read it are killed and begin again.
        let pieces = async |mesh: &mut Mesh| {
            mesh.server("A").sql("UPDATE shop.large SET text = 'killed' WHERE id = 'A0'").await?;
            mesh.server("A").sql(&update("A")).await?;
            for (unit, role) in [("A", "transformer"), ("B", "sink")] {
                tokio::time::sleep(Duration::from_millis(700)).await;
                mesh.worker(unit, role)?.kill()?;
                mesh.start_worker(unit, role, "")?;
            }
            anyhow::Ok(())
        };
        pieces(&mut mesh).await?;
        let updated = change(&mut mesh, &update).await?;
        ensure!(updated.contains("67108866"), "the row was not updated: {updated}");
        ensure!(change(&mut mesh, &delete).await?.is_empty(), "the rows were not deleted");
        tell_peaks(&mut mesh, PEAK_MIB_LARGE)?;
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn a_target_that_takes_no_such_row_says_so() {
    beside("a row that the target does not take", LIMIT, async {
        let mut mesh = setup(&[Mysql9, Mariadb])
            .kafka_shared()
            .one_way("A", "B")
            .setting("max_allowed_packet", "64M")
            .tables("CREATE TABLE large (id INT PRIMARY KEY, body LONGBLOB)")
            .start()
            .await?;
        mesh.server("B").sql("SET GLOBAL max_allowed_packet = 8388608").await?;
        mesh.start_workers()?;
        let row = "INSERT INTO shop.large VALUES (1, REPEAT(RANDOM_BYTES(1024), 10240))";
        mesh.server("A").sql(row).await?;
        // The table waits, all else goes on.
        let told = async {
            loop {
                // With something that waits for a person it ends with 1.
                let status = mesh.run(&["status"]).await;
                let status = status.unwrap_or_else(|error| error.to_string());
                if status.contains("PARKED shop.large in A-to-B.shop, 1 lane [too_large]") {
                    break status;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let status = tokio::time::timeout(QUIET, told).await?;
        for part in ["`shop`.`large`", "8388608", "SET GLOBAL max_allowed_packet=1073741824"] {
            ensure!(status.contains(part), "no {part} in {status}");
        }
        mesh.server("B").sql("SET GLOBAL max_allowed_packet = 1073741824").await?;
        mesh.quiesce_but_parked("A", "B", QUIET).await?;
        mesh.run(&["retry", "A-to-B.shop", "--why", "larger packets", "--by", "test"]).await?;
        mesh.quiesce(QUIET).await?;
        let found = mesh.server("B").sql("SELECT LENGTH(body) FROM shop.large").await?;
        ensure!(found == "10485760", "B has {found}");
        mesh.finish();
        Ok(())
    });
}

#[test]
fn many_rows_deleted_by_one_statement() {
    let powers = if is_full() { 6 } else { 5 };
    beside("many rows deleted by one statement", LIMIT * 2, async {
        let digits = "(SELECT 0 n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 \
             UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)";
        let from: Vec<_> = (0..powers).map(|power| format!("{digits} d{power}")).collect();
        let id: Vec<_> =
            (0..powers).map(|power| format!("d{power}.n * {}", 10_u32.pow(power))).collect();
        let rows = 10_u32.pow(powers);
        let mut mesh = setup(&[Mysql9, Mariadb])
            .kafka_shared()
            .tables("CREATE TABLE many (id INT PRIMARY KEY, name VARCHAR(40), at DATETIME)")
            .start()
            .await?;
        mesh.start_workers()?;
        let insert = format!(
            "INSERT INTO shop.many SELECT {}, UUID(), NOW() FROM {}",
            id.join(" + "),
            from.join(", ")
        );
        for (unit, other) in [("A", "B"), ("B", "A")] {
            for (statement, left) in [(insert.as_str(), rows), ("DELETE FROM shop.many", 0)] {
                mesh.server(unit).sql(statement).await?;
                let begun = std::time::Instant::now();
                mesh.quiesce(QUIET * 4).await?;
                println!("  {rows} rows of {unit} took {:.1?}", begun.elapsed());
                let query = "SELECT COUNT(*), COUNT(DISTINCT name) FROM shop.many";
                let found = mesh.server(other).sql(query).await?;
                ensure!(found.trim() == format!("{left}\t{left}"), "{other} has {found}");
            }
        }
        tell_peaks(&mut mesh, PEAK_MIB_MOST)?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn xa_transactions_arrive_when_they_commit() {
    beside("XA transactions", LIMIT, async {
        let mut mesh = setup(&[Mysql9, Mariadb])
            .kafka_shared()
            .tables("CREATE TABLE parts (id INT PRIMARY KEY, unit CHAR(1))")
            .start()
            .await?;
        mesh.start_workers()?;
        for (unit, first) in [("A", 0), ("B", 100)] {
            let prepare = |xid: &str, id: u32| {
                format!(
                    "XA START '{xid}'; INSERT INTO shop.parts VALUES ({id}, '{unit}'), ({}, '{unit}'); \
                     XA END '{xid}'; XA PREPARE '{xid}'",
                    id + 1
                )
            };
            mesh.server(unit).sql(&prepare("kept", first)).await?;
            mesh.server(unit).sql(&prepare("dropped", first + 10)).await?;
            let row = |id: u32| format!("INSERT INTO shop.parts VALUES ({id}, '{unit}')");
            mesh.server(unit).sql(&row(first + 20)).await?;
            mesh.quiesce(QUIET).await?;
        }
        let query = "SELECT id, unit FROM shop.parts ORDER BY id";
        for unit in ["A", "B"] {
            let found = mesh.server(unit).sql(query).await?;
            ensure!(found == "20\tA\n120\tB", "{unit} has {found}");
            mesh.worker(unit, "connector")?.kill()?;
            mesh.start_worker(unit, "connector", "")?;
        }
        for unit in ["A", "B"] {
            complete_xa(&mesh, unit, "XA ROLLBACK 'dropped'").await?;
            complete_xa(&mesh, unit, "XA COMMIT 'kept'").await?;
        }
        mesh.quiesce(QUIET).await?;
        for unit in ["A", "B"] {
            let found = mesh.server(unit).sql(query).await?;
            let rows = "0\tA\n1\tA\n20\tA\n100\tB\n101\tB\n120\tB";
            ensure!(found == rows, "{unit} has {found}");
        }
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

/// Ends what another connection prepared, once the server has noticed that it is gone.
async fn complete_xa(mesh: &Mesh, unit: &str, statement: &str) -> anyhow::Result<()> {
    let done = async {
        while let Err(error) = mesh.server(unit).sql(statement).await {
            ensure!(error.to_string().contains("Unknown XID"), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    tokio::time::timeout(QUIET, done).await?
}

/// What each worker had resident, which must be below this.
fn tell_peaks(mesh: &mut Mesh, most: u64) -> anyhow::Result<()> {
    for worker in mesh.workers() {
        let peak = worker.peak_kib() / 1024;
        println!("  {}: at most {peak} MiB resident", worker.name());
        ensure!(
            (1..most).contains(&peak),
            "{} had {peak} MiB resident, {most} are allowed",
            worker.name()
        );
    }
    Ok(())
}

#[test]
fn whole_transactions_keep_a_total() {
    beside("whole transactions", LIMIT, async {
        let random = Random::new(seed("scenario"));
        let mut mesh =
            setup(&[Mariadb, Mysql9]).kafka_shared().whole_transactions().start().await?;
        mesh.start_workers()?;
        let totals =
            [watch::totals(mesh.server("A")).await?, watch::totals(mesh.server("B")).await?];
        let versions = watch::versions(mesh.server("B")).await?;
        let load = Load::shop().mix(Mix::Bank).transactions(transactions(2));
        let written = write_everywhere(&mesh, &load, 0, &random).await?;
        mesh.ensure_done(&written, QUIET).await?;
        for reads in totals {
            let reads = reads.stop().await?;
            println!("  {reads} reads of a unit's total");
            ensure!(reads > 50, "the totals were read {reads} times only");
        }
        versions.stop().await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn records_delivered_again_change_nothing() {
    beside("whole topics delivered again", LIMIT, async {
        let random = Random::new(seed("scenario"));
        let mut mesh = setup(&[Mysql9, Mariadb]).kafka_shared().start().await?;
        mesh.start_workers()?;
        let load = Load::shop().transactions(1000);
        let mut written = write_everywhere(&mesh, &load, 0, &random).await?;
        mesh.quiesce(QUIET).await?;
        deliver_again(&mut mesh, "").await?;
        written.add(write_everywhere(&mesh, &load, 10, &random).await?);
        mesh.ensure_done(&written, QUIET).await?;
        mesh.finish();
        Ok(())
    });
}

/// Lets new sinks read their whole topics again: their ledger rows keep their `seq` and name the
/// topic's beginning as the offset to go on from.
async fn deliver_again(mesh: &mut Mesh, inject: &str) -> anyhow::Result<()> {
    for unit in ["A", "B"] {
        // In order, so that the group lets go of its lanes at once. A broken one may have ended.
        mesh.worker(unit, "sink")?.stop(QUIET).await?;
        mesh.server(unit).sql("UPDATE unitflow.ledger SET topic_offset = 0").await?;
        mesh.start_worker(unit, "sink", inject)?;
    }
    Ok(())
}

// Only rows that come and go can be applied twice without a conflict that stops the lane: with
// them the mutants run free, and the judge has to find what they are about.

#[test]
fn the_judge_fails_where_the_mark_is_ignored() {
    beside("mutant: the mark is ignored", LIMIT, must_fail("ignore_mark", "echoes"));
}

#[test]
fn the_judge_fails_where_the_ledger_is_written_apart() {
    beside("mutant: the ledger is written apart", LIMIT, must_fail("ledger_apart", "unmarked"));
}

#[test]
fn the_judge_fails_where_nothing_compares_and_sets() {
    beside("mutant: nothing compares and sets", LIMIT, async {
        let (mut mesh, written) = wake_a_frozen_sink("no_cas").await?;
        mesh.workers().iter_mut().try_for_each(Worker::kill)?;
        judge_finds(&mesh, &written, "no_cas", "doubled").await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn a_frozen_sink_that_wakes_up_changes_nothing() {
    beside("a frozen sink wakes up", LIMIT, async {
        let (mut mesh, written) = wake_a_frozen_sink("").await?;
        mesh.ensure_done(&written, QUIET).await?;
        mesh.finish();
        Ok(())
    });
}

/// A sink is frozen with a batch in hand in each lane, another takes the lanes over and applies
/// all that the first one holds and more, and the first one wakes up and goes on where it was.
async fn wake_a_frozen_sink(inject: &str) -> anyhow::Result<(Mesh, Written)> {
    const SOME: Duration = Duration::from_secs(2);
    const TRIED: Duration = Duration::from_secs(20);
    let random = Random::new(seed("frozen"));
    let mut mesh = setup(&[Mysql9, Mariadb]).kafka_shared().one_way("A", "B").start().await?;
    mesh.start_workers_broken(&format!("{inject},dawdle"))?;
    let load = Load::shop().mix(Mix::Flash).rate(200);
    let running = load.start(mesh.server("A"), "A", 0, &random).await?;
    tokio::time::sleep(SOME).await;
    mesh.quiesce(QUIET).await?;
    let mut frozen = mesh.freeze_sink("B").await?;
    mesh.start_worker("B", "sink", inject)?;
    tokio::time::sleep(SOME).await;
    let written = running.stop().await?;
    mesh.quiesce(QUIET).await?;
    let before = places(&mesh).await?;
    frozen.resume()?;
    // It is told that its lane was moved, or moves the ledger back.
    let tried = async {
        while !frozen.log()?.contains("code=ledger_moved") {
            let now = places(&mesh).await?;
            if now.iter().zip(&before).any(|(now, before)| now < before) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(TRIED, tried).await.context("the frozen sink tried nothing")??;
    frozen.stop(QUIET).await?;
    Ok((mesh, written))
}

/// Where B's lanes stand.
async fn places(mesh: &Mesh) -> anyhow::Result<Vec<u64>> {
    let rows = mesh.server("B").sql("SELECT seq FROM unitflow.ledger ORDER BY lane").await?;
    rows.lines().map(|seq| seq.parse().context("a ledger row's seq")).collect()
}

/// The same scene with sound workers.
#[test]
fn what_the_judge_finds_is_not_there_unbroken() {
    beside("the scene of the mutants, unbroken", LIMIT, async {
        let (mut mesh, written) = delivered_again_amid_flashes("").await?;
        mesh.ensure_done(&written, QUIET).await?;
        mesh.finish();
        Ok(())
    });
}

/// The judge has to find `finding`.
async fn must_fail(inject: &str, finding: &str) -> anyhow::Result<()> {
    let (mut mesh, written) = delivered_again_amid_flashes(inject).await?;
    mesh.workers().iter_mut().try_for_each(Worker::kill)?;
    judge_finds(&mesh, &written, inject, finding).await?;
    mesh.finish();
    Ok(())
}

/// Two units that write the same rows over and over, with whole topics delivered again in between.
async fn delivered_again_amid_flashes(inject: &str) -> anyhow::Result<(Mesh, Written)> {
    const PATIENCE: Duration = Duration::from_secs(8);
    let random = Random::new(seed("mutant"));
    let mut mesh = setup(&[Mysql9, Mariadb]).kafka_shared().start().await?;
    mesh.start_workers_broken(inject)?;
    let load = Load::shop().mix(Mix::Flash).transactions(300);
    let mut written = write_everywhere(&mesh, &load, 0, &random).await?;
    // A broken flow need not come to rest.
    let _ = mesh.quiesce(PATIENCE).await;
    deliver_again(&mut mesh, inject).await?;
    written.add(write_everywhere(&mesh, &load, 10, &random).await?);
    let _ = mesh.quiesce(PATIENCE).await;
    Ok((mesh, written))
}

/// The judge has to fail, and to find this.
async fn judge_finds(
    mesh: &Mesh,
    written: &Written,
    inject: &str,
    finding: &str,
) -> anyhow::Result<()> {
    let Err(error) = mesh.judge(written).await else {
        anyhow::bail!("the judge passes with {inject}");
    };
    let text = error.to_string();
    ensure!(text.contains("the judge finds"), "it is not the judge who fails: {error:?}");
    let lines = text.lines().filter(|line| line.starts_with("unit"));
    println!("  {}", lines.collect::<Vec<_>>().join("; "));
    ensure!(text.contains(finding), "no {finding} among what the judge finds: {text}");
    Ok(())
}
