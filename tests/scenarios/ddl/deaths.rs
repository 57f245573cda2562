//! Each kind of schema change, with the sink that runs it killed at each point where it may be
//! forgotten or done twice.
//!
//! A cell is a kind of statement and a number. A statement's sinks die in two units at once, one of
//! MySQL and one of MariaDB, at points that follow from the number. By default one kind of owner and
//! an eighteenth of the cells are run, others with each seed; with `UNITFLOW_FULL=1` all of them from
//! both.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::time::sleep;
use unitflow_change::ddl::{Class, Statement};
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::random::{Random, is_full, seed};
use unitflow_harness::{Flavor, Load, Mesh, Mysql, Written, beside};

use super::{ARRIVES_WITHIN, DIES_WITHIN, Writer, bare};
use crate::{LIMIT, QUIET, setup};

/// Which servers run what the owner does.
const TARGETS: [(&str, Flavor); 2] = [("B", Mysql9), ("C", Mariadb)];
/// By default one cell in so many is run.
const APART: usize = 18;

/// Where the sink dies: the statement is read and all lanes stand at it; it is announced; it is run
/// and the ledger does not know.
const POINTS: [&str; 3] = ["die_before_intent", "die_after_intent", "die_after_ddl"];

/// A kind of statement; `#` is the number of the cell's point, so that each has a subject of its own.
struct Kind {
    name: &'static str,
    ddl: &'static str,
    /// Run at the owner behind it.
    then: &'static str,
}

const fn kind(name: &'static str, ddl: &'static str, then: &'static str) -> Kind {
    Kind { name, ddl, then }
}

/// While these are run all units write to `wares`.
const BESIDE_WRITERS_EVERYWHERE: &[Kind] = &[
    kind(
        "add a column",
        "ALTER TABLE shop.wares ADD COLUMN a# VARCHAR(9) NOT NULL DEFAULT 'x#'",
        "",
    ),
    kind("retype a column", "ALTER TABLE shop.wares MODIFY t# BIGINT NOT NULL DEFAULT 2", ""),
    kind(
        "add an index",
        "ALTER TABLE shop.wares ADD INDEX b# (n, t#), ADD UNIQUE KEY u# (t#, id)",
        "",
    ),
    kind("drop an index", "DROP INDEX i# ON shop.wares", ""),
    kind(
        "partition",
        "ALTER TABLE shop.plain# PARTITION BY HASH (id) PARTITIONS 3",
        "INSERT INTO shop.plain# VALUES (7)",
    ),
    kind(
        "drop a partition",
        "ALTER TABLE shop.days# DROP PARTITION p0",
        "INSERT INTO shop.days# VALUES (8)",
    ),
    kind(
        "rename a table",
        "RENAME TABLE shop.from# TO shop.to#",
        "INSERT INTO shop.to# VALUES (9)",
    ),
    kind("truncate", "TRUNCATE TABLE shop.slips#", "INSERT INTO shop.slips# VALUES (10)"),
    kind(
        "create a table",
        "CREATE TABLE shop.new# (id INT PRIMARY KEY, at DATE DEFAULT '2026-01-02')",
        "INSERT INTO shop.new# (id) VALUES (11)",
    ),
    kind("drop a table", "DROP TABLE shop.gone#", ""),
];

/// What another unit still writes in the old shape would not fit any more: it writes to other
/// tables.
const BESIDE_A_WRITER_AT_THE_OWNER: &[Kind] = &[
    kind("drop a column", "ALTER TABLE shop.wares DROP COLUMN d#", ""),
    kind("rename a column", "ALTER TABLE shop.wares RENAME COLUMN r# TO s#", ""),
];

/// Which tables are the test's.
const OURS: &str = "table_schema = 'shop' AND table_name REGEXP '^(wares|plain|days|from|to|slips|new|gone)[0-9]?$'";

/// What the servers say of their schema. They quote defaults in their own ways.
const SCHEMA: &[&str] = &[
    "SELECT table_name, column_name, ordinal_position, REPLACE(COALESCE(column_default, 'NULL'), '''', ''), is_nullable, \
     data_type, character_maximum_length, numeric_precision FROM information_schema.columns WHERE",
    "SELECT table_name, index_name, seq_in_index, column_name, non_unique, sub_part, index_type \
     FROM information_schema.statistics WHERE",
    "SELECT table_name, partition_ordinal_position, partition_name, partition_method, partition_expression, \
     partition_description FROM information_schema.partitions WHERE",
];

#[test]
fn each_schema_change_survives_a_death_at_each_point() {
    let limit = if is_full() { LIMIT * 8 } else { LIMIT };
    beside("each schema change, a death at each point", limit, async {
        let turn = usize::try_from(seed("deaths") % (2 * APART as u64))?;
        let owners = [[Mysql9, Mariadb], [Mariadb, Mysql9]][turn / APART];
        for owner in owners.into_iter().take(if is_full() { 2 } else { 1 }) {
            run(owner, turn % APART).await?;
        }
        Ok(())
    });
}

async fn run(owner: Flavor, turn: usize) -> anyhow::Result<()> {
    println!("  the owner is a {owner:?}");
    let random = Random::new(seed("scenario"));
    let servers = [owner, TARGETS[0].1, TARGETS[1].1];
    let setup = setup(&servers).kafka_shared().ddl("{ apply = \"A\" }").tables(&tables());
    let mut mesh = setup.start().await?;
    mesh.start_workers()?;
    let mut before = Vec::new();
    let mut load = Vec::new();
    for unit in mesh.units() {
        before.push(classes(&unit.server).await?.len());
        load.push(Load::shop().rate(30).start(&unit.server, &unit.name, 0, &random).await?);
    }
    let at_owner = Writer::start_from(mesh.server("A"), 1).await?;
    let elsewhere = [
        Writer::start_from(mesh.server("B"), 1_000_000).await?,
        Writer::start_from(mesh.server("C"), 2_000_000).await?,
    ];
    let mut ran = Vec::new();
    let beside = (0..).zip(BESIDE_WRITERS_EVERYWHERE);
    run_all(&mut mesh, beside, turn, &mut ran).await?;
    for writer in elsewhere {
        println!("  {} rows written elsewhere meanwhile", writer.stop().await?);
    }
    mesh.quiesce(ARRIVES_WITHIN).await?;
    let beside = (BESIDE_WRITERS_EVERYWHERE.len()..).zip(BESIDE_A_WRITER_AT_THE_OWNER);
    run_all(&mut mesh, beside, turn, &mut ran).await?;
    println!("  {} rows written at A meanwhile", at_owner.stop().await?);
    let mut written = Written::default();
    for load in load {
        written.add(load.stop().await?);
    }
    mesh.ensure_done(&written, QUIET).await?;
    ensure_same_schema(&mesh).await?;
    ensure_same_rows(&mesh).await?;
    for (unit, before) in mesh.units().iter().zip(before) {
        ensure_logged_once(&unit.server, before, &ran).await.with_context(|| unit.name.clone())?;
        let parked = unit.server.sql("SELECT * FROM unitflow.parked").await?;
        ensure!(parked.is_empty(), "unit {} parked a table: {parked}", unit.name);
    }
    mesh.finish();
    Ok(())
}

/// A sink that does not look what was run before runs it again, which the count has to notice: the
/// tables are the same either way.
#[test]
fn the_count_fails_where_nobody_looks_what_was_run() {
    beside("mutant: nobody looks what was run", LIMIT, async {
        const TRUNCATE: &str = "TRUNCATE TABLE shop.slips0";
        let setup = setup(&[Mysql9, Mariadb]).kafka_shared().ddl("{ apply = \"A\" }");
        let mut mesh = setup.tables(&tables()).start().await?;
        mesh.start_workers()?;
        mesh.worker("B", "sink")?.stop(QUIET).await?;
        mesh.start_worker("B", "sink", "die_after_ddl")?;
        let before = classes(mesh.server("B")).await?.len();
        mesh.server("A").sql(TRUNCATE).await?;
        mesh.worker("B", "sink")?.wait(DIES_WITHIN).await?;
        mesh.start_worker("B", "sink", "forget_ddl")?;
        mesh.quiesce(ARRIVES_WITHIN).await?;
        let counted = ensure_logged_once(mesh.server("B"), before, &[TRUNCATE.to_owned()]).await;
        let Err(error) = counted else { anyhow::bail!("nobody noticed") };
        ensure!(error.to_string().contains(": 2,"), "{error}");
        mesh.finish();
        Ok(())
    });
}

/// The tables that the cells are about, with rows.
fn tables() -> String {
    let mut sql = String::from(
        "CREATE TABLE wares (id BIGINT NOT NULL PRIMARY KEY, n INT NOT NULL, note VARCHAR(40)",
    );
    for point in 0..POINTS.len() {
        sql.push_str(&format!(
            ", d{point} INT NOT NULL DEFAULT 1, r{point} VARCHAR(9) DEFAULT 'r', t{point} INT NOT NULL DEFAULT 2, \
             INDEX i{point} (note, n, t{point})"
        ));
    }
    sql.push_str(");");
    for point in 0..POINTS.len() {
        for table in ["plain", "from", "slips", "gone"] {
            sql.push_str(&format!(
                "CREATE TABLE {table}{point} (id INT PRIMARY KEY); INSERT INTO {table}{point} VALUES (1), (2), (3);"
            ));
        }
        sql.push_str(&format!(
            "CREATE TABLE days{point} (id INT PRIMARY KEY) PARTITION BY RANGE (id) \
             (PARTITION p0 VALUES LESS THAN (3), PARTITION p1 VALUES LESS THAN MAXVALUE); \
             INSERT INTO days{point} VALUES (1), (2), (3);"
        ));
    }
    sql
}

/// Runs the cells of this turn, one after the other.
async fn run_all(
    mesh: &mut Mesh,
    kinds: impl Iterator<Item = (usize, &Kind)>,
    turn: usize,
    ran: &mut Vec<String>,
) -> anyhow::Result<()> {
    for (place, kind) in kinds {
        for number in 0..POINTS.len() {
            let cell = POINTS.len() * place + number;
            if !is_full() && cell % APART != turn {
                continue;
            }
            let fill = |text: &str| text.replace('#', &number.to_string());
            let (begun, ddl) = (Instant::now(), fill(kind.ddl));
            let points = [POINTS[number], POINTS[(number + 1) % POINTS.len()]];
            let said = format!("{}, {points:?}", kind.name);
            die_at(mesh, points, &ddl).await.with_context(|| said.clone())?;
            mesh.server("A").sql(&fill(kind.then)).await?;
            ran.push(ddl);
            wait_until_done(mesh, ran.len()).await?;
            ensure_same_schema(mesh).await.with_context(|| said.clone())?;
            println!("  {said}: {:.1?}", begun.elapsed());
        }
    }
    Ok(())
}

/// The sinks of the targets die at these points of the statement, and others take their places.
async fn die_at(mesh: &mut Mesh, points: [&str; 2], ddl: &str) -> anyhow::Result<()> {
    for ((unit, _), point) in TARGETS.into_iter().zip(points) {
        mesh.worker(unit, "sink")?.stop(QUIET).await?;
        mesh.start_worker(unit, "sink", point)?;
    }
    mesh.server("A").sql(ddl).await?;
    for ((unit, _), point) in TARGETS.into_iter().zip(points) {
        let status = mesh.worker(unit, "sink")?.wait(DIES_WITHIN).await?;
        ensure!(status.code().is_none(), "the sink of {unit} ended with {status}, not at {point}");
        mesh.start_worker(unit, "sink", "")?;
    }
    Ok(())
}

/// Until the targets have noted that so many statements were run.
async fn wait_until_done(mesh: &mut Mesh, count: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + ARRIVES_WITHIN;
    let query = "SELECT COUNT(*), COUNT(done_at) FROM unitflow.ddl";
    let expected = format!("{count}\t{count}");
    for (unit, _) in TARGETS {
        loop {
            let found = mesh.server(unit).sql(query).await?;
            if found == expected {
                break;
            }
            mesh.ensure_alive()?;
            ensure!(Instant::now() < deadline, "{unit} announced and did {found}, not {expected}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

async fn ensure_same_schema(mesh: &Mesh) -> anyhow::Result<()> {
    for query in SCHEMA {
        let query = format!("{query} {OURS} ORDER BY 1, 2, 3");
        let owner = mesh.server("A").sql(&query).await?;
        for (unit, _) in TARGETS {
            let found = mesh.server(unit).sql(&query).await?;
            ensure!(
                !owner.is_empty() && owner == found,
                "{query}\nat A:\n{owner}\nat {unit}:\n{found}"
            );
        }
    }
    Ok(())
}

async fn ensure_same_rows(mesh: &Mesh) -> anyhow::Result<()> {
    let tables =
        format!("SELECT table_name FROM information_schema.tables WHERE {OURS} ORDER BY 1");
    for table in mesh.server("A").sql(&tables).await?.lines() {
        let query = format!("SELECT * FROM shop.{table} ORDER BY id");
        let owner = mesh.server("A").sql(&query).await?;
        ensure!(!owner.is_empty(), "{table} is empty");
        for (unit, _) in TARGETS {
            let found = mesh.server(unit).sql(&query).await?;
            let differ = owner.lines().zip(found.lines()).find(|(a, b)| a != b);
            let (here, there) = (owner.lines().count(), found.lines().count());
            ensure!(
                owner == found,
                "{table} differs between A, {here} rows, and {unit}, {there} rows: {differ:?}"
            );
        }
    }
    Ok(())
}

/// Whether a unit's own log holds each statement once: run again, or come back, it would be there
/// twice. Servers write some anew, so they are told by what they do to which tables.
async fn ensure_logged_once(server: &Mysql, before: usize, ran: &[String]) -> anyhow::Result<()> {
    let count = |classes: Vec<Class>| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for class in classes {
            *counts.entry(format!("{class:?}")).or_default() += 1;
        }
        counts
    };
    let logged = count(classes(server).await?.split_off(before));
    let ran = count(ran.iter().map(|ddl| Statement::new("shop", ddl, 0).class()).collect());
    ensure!(logged == ran, "the log holds\n{logged:#?}\nwhile these were run\n{ran:#?}");
    Ok(())
}

/// What the statements of a server's log do to the tables of the shop.
async fn classes(server: &Mysql) -> anyhow::Result<Vec<Class>> {
    let mut found = Vec::new();
    for file in server.binlog_files()? {
        let name = file.file_name().context("a file name")?.to_string_lossy().into_owned();
        for line in server.sql(&format!("SHOW BINLOG EVENTS IN '{name}'")).await?.lines() {
            let mut fields = line.split('\t').skip(2);
            if fields.next() != Some("Query") {
                continue;
            }
            let text = fields.nth(2).unwrap_or_default().replace("\\n", "\n");
            let statement = Statement::new("shop", bare(&text), 0);
            if statement.tables().iter().any(|table| table.database == "shop") {
                found.push(statement.class());
            }
        }
    }
    Ok(found)
}
