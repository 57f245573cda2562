//! Meshes of real servers in every shape, under a mixed load, before the judge.
//!
//! One test at a time: each starts servers and workers enough for two cores. `UNITFLOW_FULL=1`
//! writes more; `UNITFLOW_SEED` repeats a run.

mod ddl;

use std::time::Duration;

use anyhow::ensure;
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::load::bulk;
use unitflow_harness::plan::Mix;
use unitflow_harness::random::{Random, is_full, seed};
use unitflow_harness::{Flavor, Load, Mesh, MeshSetup, Written, serial, watch};

mod tables;

const BINARY: &str = env!("CARGO_BIN_EXE_unitflow");
/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(300);
/// Nor does what was written take longer to arrive.
const QUIET: Duration = Duration::from_secs(90);
/// What a worker may have resident, at its peak.
const PEAK_MIB_MOST: u64 = 256;

/// Of each unit.
fn transactions(units: usize) -> u64 {
    if is_full() {
        40_000
    } else if units > 2 {
        1_500
    } else {
        2_500
    }
}

#[test]
fn two_units_mysql_and_mysql() {
    serial("two units, MySQL and MySQL", LIMIT, everybody_writes(setup(&[Mysql9, Mysql9])));
}

#[test]
fn two_units_mysql_and_mariadb() {
    serial("two units, MySQL and MariaDB", LIMIT, everybody_writes(setup(&[Mysql9, Mariadb])));
}

#[test]
fn two_units_mariadb_and_mariadb() {
    serial("two units, MariaDB and MariaDB", LIMIT, everybody_writes(setup(&[Mariadb, Mariadb])));
}

#[test]
fn mesh_of_three() {
    let setup = setup(&[Mysql9, Mariadb, Mysql9]).kafka_shared();
    serial("a mesh of three", LIMIT, everybody_writes(setup));
}

#[test]
fn star_through_a_hub() {
    let setup = setup(&[Mariadb, Mysql9, Mariadb]).hub("B");
    serial("a star through a hub", LIMIT, everybody_writes(setup));
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
    mesh.finish();
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
        written.add(running.finish(LIMIT).await?);
    }
    Ok(written)
}

#[test]
fn a_transaction_of_two_hundred_thousand_rows() {
    serial("200,000 rows in one transaction", LIMIT, async {
        const ROWS: u32 = 200_000;
        let random = Random::new(seed("scenario"));
        let mut mesh = setup(&[Mysql9, Mariadb]).start().await?;
        mesh.start_workers()?;
        // Small ones go on beside it, so that the large one has neighbours in every lane.
        let beside = Load::shop().rate(100);
        let running = beside.start(mesh.server("A"), "A", 0, &random).await?;
        let mut written = bulk(mesh.server("A"), "A", 30, ROWS, &random).await?;
        println!("  {ROWS} rows written in {:.1?}", written.took);
        written.add(bulk(mesh.server("B"), "B", 31, ROWS, &random).await?);
        written.add(running.stop().await?);
        mesh.ensure_done(&written, QUIET * 2).await?;
        for worker in mesh.workers() {
            let peak = worker.peak_kib() / 1024;
            println!("  {}: at most {peak} MiB resident", worker.name());
            ensure!(
                (1..PEAK_MIB_MOST).contains(&peak),
                "{} had {peak} MiB resident, {PEAK_MIB_MOST} are allowed",
                worker.name()
            );
        }
        mesh.finish();
        Ok(())
    });
}

#[test]
fn whole_transactions_keep_a_total() {
    serial("whole transactions", LIMIT, async {
        let random = Random::new(seed("scenario"));
        let mut mesh = setup(&[Mariadb, Mysql9]).whole_transactions().start().await?;
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
    serial("whole topics delivered again", LIMIT, async {
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
    serial("mutant: the mark is ignored", LIMIT, must_fail("ignore_mark", "echoes"));
}

#[test]
fn the_judge_fails_where_the_ledger_is_written_apart() {
    serial("mutant: the ledger is written apart", LIMIT, must_fail("ledger_apart", "unmarked"));
}

#[test]
fn the_judge_fails_where_nothing_compares_and_sets() {
    serial("mutant: nothing compares and sets", LIMIT, must_fail("no_cas", "doubled"));
}

/// Two units with broken workers, whole topics delivered again; the judge has to find `finding`.
async fn must_fail(inject: &str, finding: &str) -> anyhow::Result<()> {
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
    mesh.workers().iter_mut().try_for_each(unitflow_harness::Worker::kill)?;
    let Err(error) = mesh.judge(&written).await else {
        anyhow::bail!("the judge passes with {inject}");
    };
    let text = error.to_string();
    ensure!(text.contains("the judge finds"), "it is not the judge who fails: {error:?}");
    let lines = text.lines().filter(|line| line.starts_with("unit"));
    println!("  {}", lines.collect::<Vec<_>>().join("; "));
    ensure!(text.contains(finding), "no {finding} among what the judge finds: {text}");
    mesh.finish();
    Ok(())
}
