//! Every type at every edge, through real servers, brokers and workers, in all four pairings.
//!
//! `cells` says what is written where. The servers judge: both are asked the same query, with an
//! expression that shows each bit of a value, and have to give the same bytes. Rows are written,
//! changed from each value to each other one, and deleted; after each step both sides are compared.

mod cells;
mod refused;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cells::{CELLS, Cell, KEYS, Source};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use unitflow_harness::Flavor::{self, Mariadb, Mysql9};
use unitflow_harness::load::connect;
use unitflow_harness::{Mesh, MeshSetup, beside};
use unitflow_mysql::TypeCode;

const BINARY: &str = env!("CARGO_BIN_EXE_unitflow");
/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(240);
/// Nor does what was written take longer to arrive.
const QUIET: Duration = Duration::from_secs(60);

#[test]
fn mysql_to_mysql() {
    // B packs its transactions and logs parts of documents only.
    let setup = setup(&[Mysql9, Mysql9])
        .setting_at(1, "binlog_transaction_compression", "ON")
        .setting_at(1, "binlog_row_value_options", "PARTIAL_JSON");
    beside("MySQL to MySQL", LIMIT, async {
        let mut mesh = every_cell(setup).await?;
        large_transaction(&mut mesh).await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn mysql_to_mariadb_and_back() {
    beside("MySQL to MariaDB and back", LIMIT, async {
        // MariaDB gets documents of which the log has parts only.
        let setup = setup(&[Mysql9, Mariadb]);
        let setup = setup.setting_at(0, "binlog_row_value_options", "PARTIAL_JSON");
        every_cell(setup).await?.finish();
        Ok(())
    });
}

#[test]
fn mariadb_to_mariadb() {
    // B packs its events.
    let setup = setup(&[Mariadb, Mariadb]).setting_at(1, "log_bin_compress", "ON").setting_at(
        1,
        "log_bin_compress_min_len",
        10,
    );
    beside("MariaDB to MariaDB", LIMIT, async {
        every_cell(setup).await?.finish();
        Ok(())
    });
}

#[test]
fn each_type_code_of_the_decoder_has_a_cell() {
    for code in TypeCode::ALL {
        assert!(CELLS.iter().any(|cell| cell.codes.contains(code)), "{code:?} has no cell");
    }
}

fn setup(flavors: &[Flavor]) -> MeshSetup {
    let mut setup = MeshSetup::new(BINARY, flavors).kafka_shared();
    for flavor in [Mysql9, Mariadb] {
        let mut tables = String::from("SET sql_mode='ALLOW_INVALID_DATES';");
        for probe in probes().filter(|probe| !probe.cell.kind(flavor).is_empty()) {
            tables.push_str(&probe.create(flavor));
        }
        setup = setup.prepare_each(flavor, &tables);
    }
    setup
}

impl Cell {
    /// The column's type at a server; empty where there is none.
    fn kind(&self, flavor: Flavor) -> &'static str {
        match flavor {
            Mysql9 => self.mysql,
            Mariadb => self.mariadb,
        }
    }

    fn is_written_at(&self, flavor: Flavor) -> bool {
        !self.kind(flavor).is_empty()
            && match self.source {
                Source::Any => true,
                Source::Mysql => flavor == Mysql9,
                Source::Mariadb => flavor == Mariadb,
            }
    }

    /// All values, and NULL.
    fn values(&self) -> Vec<&'static str> {
        self.values.iter().copied().chain(["NULL"]).collect()
    }
}

/// A cell's table: its type is that of any column there, or that of the key.
#[derive(Clone, Copy)]
struct Probe {
    cell: &'static Cell,
    as_key: bool,
}

fn probes() -> impl Iterator<Item = Probe> {
    let probe = |as_key| move |cell| Probe { cell, as_key };
    let keys = CELLS.iter().filter(|cell| KEYS.contains(&cell.name));
    CELLS.iter().map(probe(false)).chain(keys.map(probe(true)))
}

impl Probe {
    fn table(self) -> String {
        format!("shop.{}_{}", if self.as_key { "key" } else { "cell" }, self.cell.name)
    }

    fn create(self, flavor: Flavor) -> String {
        let (table, kind) = (self.table(), self.cell.kind(flavor));
        let (kind, key) = match self.as_key {
            true => (format!("{} NOT NULL", kind.trim_end_matches(" null")), "v, unit"),
            false => (kind.to_owned(), "unit, old, new"),
        };
        format!(
            "CREATE TABLE {table} (unit CHAR(1) CHARACTER SET ascii, old INT, new INT, v {kind}, PRIMARY KEY ({key})) CHARACTER SET utf8mb4;"
        )
    }

    /// A row for each pair of values, which it will have one after the other; a row for each key.
    fn insert(self, unit: &str) -> String {
        let values = self.cell.values();
        let news = if self.as_key { 1 } else { values.len() };
        let mut rows = Vec::new();
        for (old, value) in values.iter().enumerate() {
            for new in 0..news {
                rows.push(format!("('{unit}', {old}, {new}, {value})"));
            }
        }
        if self.as_key {
            // NULL is no key.
            rows.pop();
        }
        format!("INSERT INTO {} (unit, old, new, v) VALUES {}", self.table(), rows.join(", "))
    }

    /// Each row whose pair is two different values gets its second one.
    fn updates(self, unit: &str) -> Vec<String> {
        if self.as_key {
            return self.moves(unit);
        }
        let table = self.table();
        let update = |(new, value)| {
            format!(
                "UPDATE {table} SET v = {value} WHERE unit = '{unit}' AND new = {new} AND old <> {new}"
            )
        };
        let change = |value: &&str| format!("UPDATE {table} SET v = {value} WHERE unit = '{unit}'");
        self.cell
            .values()
            .into_iter()
            .enumerate()
            .map(update)
            .chain(self.cell.changes.iter().map(change))
            .collect()
    }

    /// Each row is found by its key, and one gets the key of another that is gone.
    fn moves(self, unit: &str) -> Vec<String> {
        let (table, first) = (self.table(), self.cell.values[0]);
        vec![
            format!("UPDATE {table} SET new = new + 1 WHERE unit = '{unit}'"),
            format!("DELETE FROM {table} WHERE unit = '{unit}' AND old = 0"),
            format!("UPDATE {table} SET v = {first} WHERE unit = '{unit}' AND old = 1"),
        ]
    }

    fn delete(self, unit: &str) -> String {
        format!("DELETE FROM {} WHERE unit = '{unit}'", self.table())
    }

    fn select(self) -> String {
        let shown = self.cell.shown.replace("{}", "v");
        let table = self.table();
        format!("SELECT unit, old, new, {shown} FROM {table} ORDER BY unit, old, new")
    }
}

/// Each cell of a pairing, in both directions at once.
async fn every_cell(setup: MeshSetup) -> anyhow::Result<Mesh> {
    let mut mesh = setup.start().await?;
    mesh.start_workers()?;
    let mut writers = Vec::new();
    for unit in mesh.units() {
        let mut conn = connect(&unit.server).await?;
        // As an application may: zero dates, dates that are none, values cut to fit.
        conn.query_drop("SET SESSION sql_mode='ALLOW_INVALID_DATES', time_zone='+00:00'").await?;
        writers.push((unit.name.clone(), unit.server.flavor(), conn));
    }
    let here =
        |probe: &Probe| writers.iter().all(|(_, flavor, _)| !probe.cell.kind(*flavor).is_empty());
    let probes: Vec<Probe> = probes().filter(here).collect();
    let steps: [fn(Probe, &str) -> Vec<String>; 3] = [
        |probe, unit| vec![probe.insert(unit)],
        Probe::updates,
        |probe, unit| vec![probe.delete(unit)],
    ];
    for (name, statements) in ["inserted", "updated", "deleted"].into_iter().zip(steps) {
        for (unit, flavor, conn) in &mut writers {
            for probe in probes.iter().filter(|probe| probe.cell.is_written_at(*flavor)) {
                write(conn, &statements(*probe, unit)).await.with_context(|| probe.table())?;
            }
        }
        mesh.quiesce(QUIET).await?;
        let rows = ensure_same(&mesh, &probes).await.with_context(|| name)?;
        ensure!((name == "deleted") == (rows == 0), "{rows} rows were {name}");
        println!("  {} tables, {rows} rows {name} and equal", probes.len());
    }
    Ok(mesh)
}

/// A packed transaction of many megabytes arrives as any other.
async fn large_transaction(mesh: &mut Mesh) -> anyhow::Result<()> {
    const ROWS: u64 = 20_000;
    const ROW_BYTES: u64 = 4_000;
    let mut conn = connect(mesh.server("B")).await?;
    conn.query_drop("SET SESSION cte_max_recursion_depth=1000000").await?;
    let insert = format!(
        "INSERT INTO shop.cell_longblob (unit, old, new, v) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) \
         SELECT 'B', i, 0, REPEAT(CHAR(65 + i % 26), {ROW_BYTES}) FROM n"
    );
    conn.query_drop(insert).await?;
    mesh.quiesce(QUIET * 2).await?;
    let probe = probes().find(|probe| probe.cell.name == "longblob").context("the cell")?;
    let rows = ensure_same(mesh, &[probe]).await?;
    ensure!(rows as u64 == ROWS, "{rows} rows arrived");
    println!("  {} MB in one packed transaction", ROWS * ROW_BYTES / 1_000_000);
    Ok(())
}

async fn write(conn: &mut Conn, statements: &[String]) -> anyhow::Result<()> {
    for statement in statements {
        conn.query_drop(statement).await.with_context(|| format!("{statement:.200}"))?;
    }
    Ok(())
}

/// A row as a server shows it: its key, and the value.
type Shown = (String, i32, i32, Option<Vec<u8>>);

/// Asks both servers the same, and counts the rows.
async fn ensure_same(mesh: &Mesh, probes: &[Probe]) -> anyhow::Result<usize> {
    let mut wrong = String::new();
    let mut count = 0;
    let mut conns = Vec::new();
    for unit in mesh.units() {
        let mut conn = connect(&unit.server).await?;
        conn.query_drop("SET SESSION time_zone='+00:00'").await?;
        conns.push(conn);
    }
    for probe in probes {
        let table = probe.table();
        let mut answers: Vec<Vec<Shown>> = Vec::new();
        for conn in &mut conns {
            answers.push(conn.query(probe.select()).await.with_context(|| table.clone())?);
        }
        count += answers[0].len();
        let rows = answers[0].iter().zip(&answers[1]);
        for (one, other) in rows.filter(|(one, other)| one != other).take(3) {
            let text = |row: &Shown| match &row.3 {
                Some(shown) => String::from_utf8_lossy(shown).into_owned(),
                None => "NULL".to_owned(),
            };
            let (unit, old, new, _) = one;
            let (one, other) = (text(one), text(other));
            let _ = writeln!(wrong, "{table} {unit} {old} {new}: {one:.200} is not {other:.200}");
        }
        if answers[0].len() != answers[1].len() {
            let (one, other) = (answers[0].len(), answers[1].len());
            let _ = writeln!(wrong, "{table}: {one} and {other} rows");
        }
    }
    if !wrong.is_empty() {
        bail!("cells differ:\n{wrong}");
    }
    Ok(count)
}
