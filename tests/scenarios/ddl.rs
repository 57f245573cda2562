//! Schema changes while both units write: run once in every unit, through crashes, and never back.

mod deaths;
mod orders;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mysql_async::prelude::Queryable as _;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::load::connect;
use unitflow_harness::random::{Random, seed};
use unitflow_harness::{Flavor, Load, Mesh, Mysql, beside};
use unitflow_local::Component;

use crate::{LIMIT, QUIET, setup};

/// Where the tool's client library has its plugins.
const PLUGINS: &str = "usr/lib/x86_64-linux-gnu/libmariadb3/plugin";
/// How long a worker that is to die at a point may take to get there: on a busy machine what was
/// written before it has to be applied first.
const DIES_WITHIN: Duration = Duration::from_secs(100);
/// How long a schema change may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(100);
/// Between a writer's rounds. Each schema change holds all lanes up: faster, rows would pile up.
const WRITER_PAUSE: Duration = Duration::from_millis(40);
/// Transactions a second of the load in each unit: two tests side by side must leave two cores some
/// room, or the rows of a pause are never caught up with.
const RATE: u32 = 25;

/// Each is run at the owner while rows are written; `wares` is the writers' table.
const SCRIPT: &[&str] = &[
    "ALTER TABLE shop.wares ADD COLUMN c INT NOT NULL DEFAULT 5",
    "ALTER TABLE shop.wares ADD INDEX by_n (n), ADD UNIQUE KEY by_both (n, id)",
    "CREATE INDEX by_c ON shop.wares (c)",
    "CREATE TABLE shop.boxes (id INT PRIMARY KEY, label VARCHAR(20))",
    "INSERT INTO shop.boxes VALUES (1, 'one'), (2, 'two')",
    "ALTER TABLE shop.wares MODIFY n BIGINT NOT NULL",
    "RENAME TABLE shop.boxes TO shop.crates",
    "INSERT INTO shop.crates VALUES (3, 'three')",
    "ALTER TABLE shop.wares RENAME COLUMN c TO d",
    "DROP INDEX by_n ON shop.wares",
    "TRUNCATE TABLE shop.crates",
    "INSERT INTO shop.crates VALUES (4, 'four')",
    "ALTER TABLE shop.wares PARTITION BY HASH (id) PARTITIONS 4",
    "ALTER TABLE shop.wares DROP COLUMN d, DROP INDEX by_both",
    "ALTER TABLE shop.crates RENAME TO shop.cases",
    "DROP TABLE IF EXISTS shop.cases, shop.never_there",
];

/// Where a sink dies, and the statement that it dies at.
const DEATHS: &[(&str, &str)] = &[
    ("die_before_intent", "ALTER TABLE shop.wares ADD COLUMN e1 VARCHAR(9) DEFAULT 'x'"),
    ("die_after_intent", "ALTER TABLE shop.wares ADD COLUMN e2 VARCHAR(9) DEFAULT 'y'"),
    ("die_after_ddl", "ALTER TABLE shop.wares ADD COLUMN e3 VARCHAR(9) DEFAULT 'z'"),
    ("die_after_ddl", "TRUNCATE TABLE shop.slips"),
    ("die_after_ddl", "DROP TABLE shop.slips"),
];

#[test]
fn schema_changes_from_mysql_to_mariadb() {
    beside("schema changes, MySQL to MariaDB", LIMIT, schema_changes(Mysql9, Mariadb));
}

#[test]
fn schema_changes_from_mariadb_to_mysql() {
    beside("schema changes, MariaDB to MySQL", LIMIT, schema_changes(Mariadb, Mysql9));
}

/// Both tools alter a copy and swap it in. Elsewhere that arrives as the alteration, so that what
/// other units write meanwhile is in the table and not in a copy.
#[test]
fn online_schema_changes_of_mariadb_arrive_as_what_they_mean() {
    beside("online schema changes of MariaDB", LIMIT, online_schema_changes(Mariadb, Mysql9));
}

#[test]
fn online_schema_changes_of_mysql_arrive_as_what_they_mean() {
    beside("online schema changes of MySQL", LIMIT, online_schema_changes(Mysql9, Mariadb));
}

async fn online_schema_changes(owner: Flavor, other: Flavor) -> anyhow::Result<()> {
    let setup = setup(&[owner, other]).kafka_shared().ddl("{ apply = \"A\" }");
    let mut mesh = setup.start().await?;
    mesh.start_workers()?;
    let create = "CREATE TABLE shop.wares \
        (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, n INT NOT NULL, note VARCHAR(40))";
    mesh.server("A").sql(create).await?;
    mesh.quiesce(ARRIVES_WITHIN).await?;
    let writers = [
        Writer::start_from(mesh.server("A"), 1).await?,
        Writer::start_from(mesh.server("B"), 1_000_000).await?,
    ];
    pt_online_schema_change(mesh.server("A"), "ADD COLUMN by_pt INT NOT NULL DEFAULT 7").await?;
    mesh.quiesce(ARRIVES_WITHIN).await?;
    // The copy is not kept up to date here, so nobody may write to the table meanwhile.
    for writer in writers {
        println!("  {} rows written", writer.stop().await?);
    }
    mesh.quiesce(ARRIVES_WITHIN).await?;
    mesh.server("A").sql(include_str!("gh-ost.sql")).await?;
    mesh.server("B").sql("UPDATE shop.wares SET n = -1 WHERE id = 1").await?;
    mesh.quiesce(ARRIVES_WITHIN).await?;
    ensure_same(&mesh, "wares").await?;
    for unit in ["A", "B"] {
        let parked = mesh.server(unit).sql("SELECT * FROM unitflow.parked").await?;
        ensure!(parked.is_empty(), "unit {unit} parked a table: {parked}");
    }
    let ran = statements(mesh.server("B")).await?;
    ensure!(ran.len() == 3, "B ran other statements than three:\n{}", ran.join("\n"));
    for column in ["by_pt", "by_gho"] {
        let altered = ran.iter().any(|ran| ran.contains("ALTER TABLE") && ran.contains(column));
        ensure!(altered, "B did not alter the table by {column}:\n{}", ran.join("\n"));
    }
    mesh.ensure_still().await?;
    mesh.finish();
    Ok(())
}

/// Each is run by a session of its own kind; what it does to the rows that are there depends on it.
const SESSIONS: &[(&str, &str)] = &[
    (
        "SET timestamp = 1700000000.123456",
        "ALTER TABLE shop.wares ADD COLUMN made TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)",
    ),
    (
        "SET time_zone = '+07:30'",
        "ALTER TABLE shop.wares ADD COLUMN since TIMESTAMP NOT NULL DEFAULT '2026-01-02 03:04:05'",
    ),
    ("SET time_zone = '-05:00'", "ALTER TABLE shop.wares MODIFY since DATETIME NOT NULL"),
    ("SET sql_mode = 'ANSI_QUOTES'", "ALTER TABLE \"shop\".\"wares\" ADD COLUMN \"odd name\" INT"),
    (
        "SET sql_mode = 'NO_BACKSLASH_ESCAPES'",
        "ALTER TABLE shop.wares ADD COLUMN path VARCHAR(9) NOT NULL DEFAULT 'a\\b'",
    ),
    (
        "SET NAMES latin1",
        "ALTER TABLE shop.wares ADD COLUMN word VARCHAR(9) NOT NULL DEFAULT 'Gr\u{fc}n'",
    ),
    (
        "SET timestamp = 1700000000",
        "/* by hand */ ALTER /* of */ TABLE shop.wares /*!50000 ADD COLUMN day DATE NOT NULL DEFAULT (CURRENT_DATE) */ -- now",
    ),
    (
        "SET explicit_defaults_for_timestamp = 0, sql_mode = ''",
        "ALTER TABLE shop.wares ADD COLUMN touched TIMESTAMP",
    ),
];

/// What the servers say of the columns that the sessions made.
const MADE: &[&str] = &[
    "SELECT * FROM shop.wares ORDER BY id",
    "SELECT column_name, is_nullable, data_type, datetime_precision, character_set_name FROM information_schema.columns \
     WHERE table_schema = 'shop' AND table_name = 'wares' ORDER BY ordinal_position",
];

#[test]
fn a_schema_change_is_run_as_its_session_was() {
    beside("a schema change as its session was", LIMIT, async {
        for pairing in [[Mysql9, Mariadb], [Mariadb, Mysql9]] {
            let mut mesh = setup(&pairing)
                .kafka_shared()
                .ddl("{ apply = \"A\" }")
                .tables(
                    "CREATE TABLE wares (id INT PRIMARY KEY); INSERT INTO wares VALUES (1), (2);",
                )
                .start()
                .await?;
            mesh.start_workers()?;
            for (session, ddl) in SESSIONS {
                let mut conn = connect(mesh.server("A")).await?;
                conn.query_drop(*session).await?;
                let ddl: Vec<u8> = match session.contains("latin1") {
                    true => ddl
                        .chars()
                        .map(|letter| u8::try_from(u32::from(letter)))
                        .collect::<Result<_, _>>()?,
                    false => ddl.as_bytes().to_vec(),
                };
                conn.query_drop(ddl).await.with_context(|| *session)?;
                conn.disconnect().await?;
            }
            mesh.quiesce(ARRIVES_WITHIN).await?;
            let parked = mesh.server("B").sql("SELECT why FROM unitflow.parked").await?;
            ensure!(parked.is_empty(), "B parked a table: {parked}");
            for query in MADE {
                let (a, b) =
                    (mesh.server("A").sql(query).await?, mesh.server("B").sql(query).await?);
                ensure!(a == b, "{query}\nat A:\n{a}\nat B:\n{b}");
            }
            mesh.finish();
        }
        Ok(())
    });
}

/// Stored code comes along where it is named; events arrive disabled, accounts never.
#[test]
fn stored_code_comes_along_where_it_is_named() {
    beside("stored code", LIMIT, async {
        let policy = "{ apply = \"A\" }\nstored_code = [\"views\", \"events\"]";
        let mut mesh = setup(&[Mysql9, Mariadb]).kafka_shared().ddl(policy).start().await?;
        mesh.start_workers()?;
        for statement in [
            "CREATE USER somebody",
            "CREATE TABLE shop.wares (id INT PRIMARY KEY)",
            "CREATE SQL SECURITY INVOKER VIEW shop.all_wares AS SELECT id FROM shop.wares",
            "CREATE PROCEDURE shop.nothing() SELECT 1",
            "CREATE EVENT shop.clean_up ON SCHEDULE EVERY 1 DAY DO DELETE FROM shop.wares",
        ] {
            mesh.server("A").sql(statement).await?;
        }
        mesh.quiesce(ARRIVES_WITHIN).await?;
        for (query, expected) in [
            (
                "SELECT table_name FROM information_schema.views WHERE table_schema = 'shop'",
                "all_wares",
            ),
            (
                "SELECT status FROM information_schema.events WHERE event_schema = 'shop'",
                "DISABLED",
            ),
            ("SELECT COUNT(*) FROM information_schema.routines WHERE routine_schema = 'shop'", "0"),
            ("SELECT COUNT(*) FROM mysql.user WHERE user = 'somebody'", "0"),
        ] {
            let found = mesh.server("B").sql(query).await?;
            ensure!(found.trim() == expected, "{query} gives {found}");
        }
        let ran = statements(mesh.server("A")).await?;
        ensure!(ran.len() == 3, "A's log has other statements than three:\n{}", ran.join("\n"));
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

/// Runs the tool itself.
async fn pt_online_schema_change(server: &Mysql, alteration: &str) -> anyhow::Result<()> {
    unitflow_local::ensure(&[Component::Percona], |line| println!("  {line}")).await?;
    let home = Component::Percona.home()?;
    let port = server.port();
    let run = Command::new(home.program("pt-online-schema-change")?)
        // Its client library looks for what MySQL's log-in needs where a package would put it.
        .env("MARIADB_PLUGIN_DIR", home.folder().join(PLUGINS))
        .args(["--execute", "--recursion-method=none", "--no-version-check", "--chunk-size=200"])
        .args(["--alter", alteration, &format!("h=127.0.0.1,P={port},u=root,D=shop,t=wares")])
        .kill_on_drop(true)
        .output();
    let output = timeout(ARRIVES_WITHIN, run).await.context("the tool hangs")??;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.contains("Successfully altered"),
        "pt-online-schema-change: {}\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

async fn schema_changes(owner: Flavor, other: Flavor) -> anyhow::Result<()> {
    let random = Random::new(seed("scenario"));
    let setup = setup(&[owner, other]).kafka_shared().ddl("{ apply = \"A\" }");
    let mut mesh = setup.start().await?;
    mesh.start_workers()?;
    let mut load = Vec::new();
    for unit in mesh.units() {
        load.push(Load::shop().rate(RATE).start(&unit.server, &unit.name, 0, &random).await?);
    }
    let mut ran = vec![
        "CREATE TABLE shop.wares (id BIGINT NOT NULL PRIMARY KEY, n INT NOT NULL, note VARCHAR(40))",
        "CREATE TABLE shop.slips (id INT PRIMARY KEY)",
    ];
    for statement in &ran {
        mesh.server("A").sql(statement).await?;
    }
    let writer = Writer::start(mesh.server("A")).await?;
    for statement in SCRIPT {
        mesh.server("A").sql(statement).await.with_context(|| format!("at A: {statement}"))?;
        sleep(Duration::from_millis(100)).await;
    }
    ran.extend(SCRIPT.iter().filter(|statement| !statement.starts_with("INSERT")));
    mesh.quiesce(ARRIVES_WITHIN).await?;
    for (point, statement) in DEATHS {
        die_at(&mut mesh, "B", point, statement).await?;
        ran.push(statement);
    }
    println!("  {} rows written at A meanwhile", writer.stop().await?);
    let mut written = load.remove(0).stop().await?;
    for load in load {
        written.add(load.stop().await?);
    }
    mesh.ensure_done(&written, QUIET).await?;
    ensure_same(&mesh, "wares").await?;
    ensure_each_ran_once(&mesh, &ran).await?;
    mesh.finish();
    Ok(())
}

/// The sink of a unit dies at this point of the statement, and another takes its place.
async fn die_at(mesh: &mut Mesh, unit: &str, point: &str, statement: &str) -> anyhow::Result<()> {
    mesh.worker(unit, "sink")?.stop(QUIET).await?;
    mesh.start_worker(unit, "sink", point)?;
    mesh.server("A").sql(statement).await?;
    let status = mesh.worker(unit, "sink")?.wait(DIES_WITHIN).await?;
    ensure!(status.code().is_none(), "the sink ended with {status}, not at {point}");
    mesh.start_worker(unit, "sink", "")?;
    let begin = Instant::now();
    mesh.quiesce(ARRIVES_WITHIN).await?;
    println!("  died at {point} of {statement:.40}…, there after {:.1?}", begin.elapsed());
    Ok(())
}

/// Writes rows of `wares` by columns that no statement takes away.
struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<u64>>,
}

impl Writer {
    async fn start(server: &Mysql) -> anyhow::Result<Self> {
        Self::start_from(server, 1).await
    }

    /// Its rows are numbered from here.
    async fn start_from(server: &Mysql, first: u64) -> anyhow::Result<Self> {
        let mut conn = connect(server).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut count = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                let id = first + count;
                count += 1;
                conn.query_drop(format!(
                    "INSERT INTO shop.wares (id, n, note) VALUES ({id}, {id}, 'ware {id}')"
                ))
                .await?;
                if count.is_multiple_of(3) {
                    let old = first + count / 3;
                    conn.query_drop(format!("UPDATE shop.wares SET n = n + 1 WHERE id = {old}"))
                        .await?;
                }
                if count.is_multiple_of(7) {
                    let old = first + count / 7;
                    conn.query_drop(format!("DELETE FROM shop.wares WHERE id = {old}")).await?;
                }
                sleep(WRITER_PAUSE).await;
            }
            conn.disconnect().await?;
            Ok(count)
        });
        Ok(Self { stop, task })
    }

    async fn stop(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// Whether a table has the same columns, indexes and rows in all units.
async fn ensure_same(mesh: &Mesh, table: &str) -> anyhow::Result<()> {
    for query in [
        format!("SELECT * FROM shop.{table} ORDER BY 1"),
        format!(
            "SELECT column_name, data_type, is_nullable, ordinal_position FROM information_schema.columns \
             WHERE table_schema = 'shop' AND table_name = '{table}' ORDER BY ordinal_position"
        ),
        format!(
            "SELECT index_name, seq_in_index, column_name, non_unique FROM information_schema.statistics \
             WHERE table_schema = 'shop' AND table_name = '{table}' ORDER BY 1, 2"
        ),
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'shop' ORDER BY 1"
            .into(),
    ] {
        let (a, b) = (mesh.server("A").sql(&query).await?, mesh.server("B").sql(&query).await?);
        let only = |these: &str, others: &str| {
            let others: std::collections::HashSet<&str> = others.lines().collect();
            these
                .lines()
                .filter(|line| !others.contains(line))
                .take(20)
                .collect::<Vec<_>>()
                .join("\n")
        };
        ensure!(a == b, "{query} differs; A only:\n{}\nB only:\n{}", only(&a, &b), only(&b, &a));
        ensure!(!a.is_empty(), "{query} finds nothing");
    }
    Ok(())
}

/// Whether the units' own logs hold each statement once: run again, or come back, it would be there
/// twice. Servers write some of them anew, so they are counted by how they begin and what they name.
async fn ensure_each_ran_once(mesh: &Mesh, ran: &[&str]) -> anyhow::Result<()> {
    for unit in ["A", "B"] {
        let logged = statements(mesh.server(unit)).await?;
        ensure!(
            logged.len() == ran.len(),
            "unit {unit} ran {} of {} statements:\n{}",
            logged.len(),
            ran.len(),
            logged.join("\n")
        );
    }
    Ok(())
}

/// The schema changes of the test's tables in a server's log.
async fn statements(server: &Mysql) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for file in server.binlog_files()? {
        let name = file.file_name().context("a file name")?.to_string_lossy().into_owned();
        let events = server.sql(&format!("SHOW BINLOG EVENTS IN '{name}'")).await?;
        let words = ["CREATE", "ALTER", "DROP", "RENAME", "TRUNCATE"];
        let tables = ["wares", "slips", "boxes", "crates", "cases"];
        for line in events.lines() {
            let text = line.split('\t').nth(5).unwrap_or_default();
            let statement = bare(text);
            let upper = statement.trim_start().to_uppercase();
            if words.iter().any(|word| upper.starts_with(word))
                && tables.iter().any(|table| statement.contains(table))
            {
                found.push(statement.to_owned());
            }
        }
    }
    Ok(found)
}

/// A logged statement without what servers say before it of the session that it was run in.
fn bare(text: &str) -> &str {
    ["use `shop`; ", "set foreign_key_checks=0; "]
        .into_iter()
        .fold(text, |text, words| text.strip_prefix(words).unwrap_or(text))
}
