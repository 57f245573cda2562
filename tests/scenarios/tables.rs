//! Tables of every shape, through a whole mesh: keys, names, columns, filters, names of a unit.
//!
//! One mesh a pairing of servers, with all tables in it. What is written is data: statements in
//! which `{n}` is a number that no other round and no other unit has.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use mysql_async::prelude::Queryable as _;
use unitflow_change::routing::{PartitionBy, lane_of};
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::load::connect;
use unitflow_harness::{Flavor, Mesh, MeshSetup, beside};

use super::{BINARY, LIMIT, QUIET};

/// How often each table's statements are run in each unit. Enough for what belongs in one lane to
/// meet in several where it is spread.
const ROUNDS: u32 = 25;
/// Between the numbers of two units.
const APART: u32 = 1000;

/// A table, and what is done to it.
struct Case {
    name: &'static str,
    /// What stands behind its name in CREATE TABLE.
    create: &'static str,
    /// The same in unit B, where it is another.
    create_in_b: Option<&'static str>,
    /// And where the server is MariaDB.
    create_in_mariadb: Option<&'static str>,
    /// `{t}` is the table.
    writes: &'static [&'static str],
    /// What both units must show the same of.
    columns: &'static str,
    /// Only unit A writes: B has more than A.
    only_a: bool,
}

const fn case(
    name: &'static str,
    create: &'static str,
    columns: &'static str,
    writes: &'static [&'static str],
) -> Case {
    Case {
        name,
        create,
        create_in_b: None,
        create_in_mariadb: None,
        writes,
        columns,
        only_a: false,
    }
}

impl Case {
    const fn in_b(self, create: &'static str) -> Self {
        Self { create_in_b: Some(create), ..self }
    }

    const fn in_mariadb(self, create: &'static str) -> Self {
        Self { create_in_mariadb: Some(create), ..self }
    }

    const fn only_a(self) -> Self {
        Self { only_a: true, ..self }
    }
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    case("odd.composite", "(a INT, b VARBINARY(20), c DATE, v INT, PRIMARY KEY (c, b, a))", "a, HEX(b), c, v", &[
        "INSERT INTO {t} VALUES ({n}, 'x\\0 ', '2026-01-01', 1)",
        "UPDATE {t} SET v = 2 WHERE a = {n}",
        "UPDATE {t} SET c = '2026-02-02', b = CONCAT(b, ' ') WHERE a = {n}",
        "DELETE FROM {t} WHERE a = {n} AND a % 3 = 0",
    ]),
    // 3072 bytes, the most that InnoDB takes.
    case("odd.longest", "(k VARCHAR(768) COLLATE utf8mb4_bin PRIMARY KEY, v INT)", "SHA2(k, 256), v", &[
        "INSERT INTO {t} VALUES (CONCAT(REPEAT('😀', 764), LPAD({n}, 4, '0')), 1)",
        "UPDATE {t} SET v = 2 WHERE RIGHT(k, 4) = LPAD({n}, 4, '0')",
        "UPDATE {t} SET k = CONCAT(REPEAT('ß', 764), LPAD({n}, 4, '0')) WHERE RIGHT(k, 4) = LPAD({n}, 4, '0')",
        "DELETE FROM {t} WHERE RIGHT(k, 4) = LPAD({n}, 4, '0') AND {n} % 3 = 0",
    ]),
    // Only the beginning is the key.
    case("odd.prefixed", "(k TEXT NOT NULL, v INT, PRIMARY KEY (k(6)))", "k, v", &[
        "INSERT INTO {t} VALUES (CONCAT(LPAD({n}, 6, '0'), 'first'), 1)",
        "UPDATE {t} SET k = CONCAT(LPAD({n}, 6, '0'), 'second') WHERE k LIKE CONCAT(LPAD({n}, 6, '0'), '%')",
        "DELETE FROM {t} WHERE k LIKE CONCAT(LPAD({n}, 6, '0'), '%')",
        "INSERT INTO {t} VALUES (CONCAT(LPAD({n}, 6, '0'), 'third'), 3)",
    ]),
    // One key to the server, four to a hash.
    case("odd.folded", "(k VARCHAR(20) COLLATE utf8mb4_general_ci PRIMARY KEY, v INT)", "HEX(k), v", &[
        "INSERT INTO {t} VALUES ('a{n}', 1)",
        "DELETE FROM {t} WHERE k = 'a{n}'",
        "INSERT INTO {t} VALUES ('A{n}', 2)",
        "UPDATE {t} SET k = 'Á{n}' WHERE k = 'a{n}'",
        "DELETE FROM {t} WHERE k = 'a{n}'",
        "INSERT INTO {t} VALUES ('à{n} ', 3)",
        "UPDATE {t} SET v = 4 WHERE k = 'a{n}'",
    ]),
    case("odd.swapped", "(id INT PRIMARY KEY, place INT, UNIQUE (place))", "id, place", &[
        "INSERT INTO {t} VALUES ({n} * 10, {n} * 10), ({n} * 10 + 1, {n} * 10 + 1)",
        "BEGIN; UPDATE {t} SET place = NULL WHERE id = {n} * 10; UPDATE {t} SET place = {n} * 10 WHERE id = {n} * 10 + 1; \
         UPDATE {t} SET place = {n} * 10 + 1 WHERE id = {n} * 10; COMMIT",
        // From one row to the other by two transactions, and by an order that the statement gives.
        "UPDATE {t} SET place = {n} * 10 + 2 WHERE id = {n} * 10",
        "UPDATE {t} SET place = {n} * 10 + 1 WHERE id = {n} * 10 + 1",
        "UPDATE {t} SET place = place + 1 WHERE id DIV 10 = {n} ORDER BY place DESC",
    ]),
    // MariaDB's log also holds the hash of a key that is too long for an index, in a column that
    // nothing else shows; here one of that name is the table's own.
    case("odd.hashed", "(id INT PRIMARY KEY, body TEXT, raw BLOB, DB_ROW_HASH_1 BIGINT UNSIGNED, \
        UNIQUE (body(200)), UNIQUE (raw(200), id))", "id, SHA2(body, 256), HEX(raw), DB_ROW_HASH_1", &[
        "INSERT INTO {t} VALUES ({n}, 'text {n}', x'00FF', {n}), ({n} + 500, NULL, NULL, NULL)",
        "BEGIN; UPDATE {t} SET body = NULL WHERE id = {n}; UPDATE {t} SET body = 'text {n}', raw = '' WHERE id = {n} + 500; COMMIT",
        "UPDATE {t} SET body = CONCAT({n}, REPEAT(' long', 900)), DB_ROW_HASH_1 = NULL WHERE id = {n}",
        "DELETE FROM {t} WHERE id = {n} AND {n} % 3 = 0",
    ]).in_mariadb("(id INT PRIMARY KEY, body TEXT, raw BLOB, DB_ROW_HASH_1 BIGINT UNSIGNED, UNIQUE (body), UNIQUE (raw, id))"),
    // Both keys share a column that is exact: rows are spread by it.
    case("odd.shared", "(shop VARCHAR(9), id INT, name VARCHAR(9), PRIMARY KEY (shop, id), UNIQUE (name, id))", "shop, id, name", &[
        "INSERT INTO {t} VALUES ('b', {n}, 'x')",
        "DELETE FROM {t} WHERE id = {n}",
        "INSERT INTO {t} VALUES ('B', {n}, 'y')",
        "UPDATE {t} SET shop = 'c' WHERE id = {n}",
        "INSERT INTO {t} VALUES ('B', {n}, 'X')",
    ]),
    case("odd.parent", "(id INT PRIMARY KEY, v INT)", "id, v", &[]),
    // The child may be in another lane than its parent.
    case("odd.child", "(id INT PRIMARY KEY, parent INT NOT NULL, FOREIGN KEY (parent) REFERENCES odd.parent (id))", "id, parent", &[
        "BEGIN; INSERT INTO odd.parent VALUES ({n}, 1); INSERT INTO {t} VALUES ({n} + 7, {n}), ({n} + 500, {n}); COMMIT",
        "BEGIN; DELETE FROM {t} WHERE parent = {n} AND {n} % 2 = 0; DELETE FROM odd.parent WHERE id = {n} AND {n} % 2 = 0; COMMIT",
    ]),
    case("odd.parts", "(id INT, day DATE, v INT, PRIMARY KEY (id, day)) PARTITION BY HASH (id) PARTITIONS 4", "id, day, v", &[
        "INSERT INTO {t} VALUES ({n}, '2026-01-01', 1), ({n} + 500, '2026-01-02', 1)",
        "UPDATE {t} SET id = id + 250 WHERE id = {n}",
        "DELETE FROM {t} WHERE id = {n} + 500",
    ]),
    case(r#"`odd ``d".b☃`.`we``ird "t'able".☃*select%_\n`"#,
        r#"(`a``b` INT, `c.d` VARCHAR(20), `select` INT, `q'uo"te\` INT, `ö ☃` INT PRIMARY KEY)"#,
        r#"`a``b`, `c.d`, `select`, `q'uo"te\`, `ö ☃`"#, &[
        "INSERT INTO {t} VALUES (1, 'x', 2, 3, {n})",
        "UPDATE {t} SET `select` = `select` + 1, `a``b` = NULL WHERE `ö ☃` = {n}",
        "DELETE FROM {t} WHERE `ö ☃` = {n} AND {n} % 3 = 0",
    ]),
    // 64 characters.
    case("odd.`order_67890123456789012345678901234567890123456789012345678é☃3`",
        "(`column_7890123456789012345678901234567890123456789012345678é☃23` INT PRIMARY KEY)", "*", &[
        "INSERT INTO {t} VALUES ({n})",
        "DELETE FROM {t} WHERE {n} % 3 = 0 LIMIT 1",
    ]),
    case("odd.another_order", "(id INT PRIMARY KEY, a INT, b VARCHAR(10))", "id, a, b", &[
        "INSERT INTO {t} (id, a, b) VALUES ({n}, 1, 'x')",
        "UPDATE {t} SET b = 'y' WHERE id = {n}",
        "DELETE FROM {t} WHERE id = {n} AND {n} % 3 = 0",
    ]).in_b("(b VARCHAR(10), a INT, ID INT, PRIMARY KEY (ID))"),
    case("odd.more", "(id INT PRIMARY KEY, a INT)", "id, a", &[
        "INSERT INTO {t} VALUES ({n}, 1)",
        "UPDATE {t} SET a = 2 WHERE id = {n}",
        "DELETE FROM {t} WHERE id = {n} AND {n} % 3 = 0",
    ]).in_b("(more VARCHAR(20) NOT NULL DEFAULT 'here', id INT PRIMARY KEY, a INT, at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, none INT)")
    .only_a(),
    case("odd.computed", "(id INT PRIMARY KEY, a INT, kept INT AS (a + 1) STORED, virt INT AS (a * 2) VIRTUAL, \
        unseen INT INVISIBLE DEFAULT 7, u INT AS (id * 3) STORED UNIQUE)", "id, a, kept, virt, unseen, u", &[
        "INSERT INTO {t} (id, a) VALUES ({n}, 1)",
        "UPDATE {t} SET a = a + 1, unseen = {n} WHERE id = {n}",
        "DELETE FROM {t} WHERE id = {n} AND {n} % 3 = 0",
    ]),
];

/// Written to last: no lane gets past them.
const REFUSED: &str =
    "CREATE TABLE odd.keyless (id INT); CREATE TABLE odd.watched (id INT PRIMARY KEY);";

#[test]
fn tables_from_mysql_to_mysql() {
    beside("tables, MySQL and MySQL", LIMIT, tables([Mysql9, Mysql9]));
}

#[test]
fn tables_from_mysql_to_mariadb() {
    beside("tables, MySQL and MariaDB", LIMIT, tables([Mysql9, Mariadb]));
}

#[test]
fn tables_from_mariadb_to_mariadb() {
    beside("tables, MariaDB and MariaDB", LIMIT, tables([Mariadb, Mariadb]));
}

fn create(unit: &str, flavor: Flavor) -> String {
    let mut sql = String::from(
        "CREATE DATABASE odd CHARACTER SET utf8mb4; CREATE DATABASE `odd ``d\".b☃` CHARACTER SET utf8mb4;\n",
    );
    for case in CASES {
        let in_b = case.create_in_b.filter(|_| unit == "B");
        let in_mariadb = case.create_in_mariadb.filter(|_| flavor == Mariadb);
        let create = in_b.or(in_mariadb).unwrap_or(case.create);
        let _ = writeln!(sql, "CREATE TABLE {} {create};", case.name);
    }
    sql + REFUSED
}

/// What all cases write in one unit.
fn writes(unit: u32) -> String {
    let mut sql = String::new();
    for round in 0..ROUNDS {
        let number = (unit * APART + round).to_string();
        for case in CASES.iter().filter(|case| unit == 0 || !case.only_a) {
            for write in case.writes {
                let write = write.replace("{t}", case.name).replace("{n}", &number);
                let _ = writeln!(sql, "{write};");
            }
        }
    }
    sql
}

async fn tables(flavors: [Flavor; 2]) -> anyhow::Result<()> {
    let mut mesh = MeshSetup::new(BINARY, &flavors)
        .kafka_shared()
        .flow("tables = [\"odd*.*\"]")
        .prepare("A", &create("A", flavors[0]))
        .prepare("B", &create("B", flavors[1]))
        .prepare(
            "A",
            "CREATE TRIGGER odd.watch AFTER INSERT ON odd.watched FOR EACH ROW SET @x = 1",
        )
        .start()
        .await?;
    mesh.start_workers()?;
    // One after the other: many of the statements lock whole tables, and whoever writes while a sink
    // does has to bear deadlocks.
    for (place, unit) in [(0, "A"), (1, "B")] {
        mesh.server(unit).sql(&writes(place)).await?;
        mesh.quiesce(QUIET).await?;
    }
    for case in CASES {
        let query = format!("SELECT {} FROM {}", case.columns, case.name);
        ensure_same(&mesh, &query, &query).await?;
    }
    let left = "SELECT DISTINCT more, none IS NULL FROM odd.more";
    ensure!(mesh.server("B").sql(left).await? == "here\t1", "the columns that only B has");
    mesh.ensure_still().await?;
    mesh.server("A").sql("INSERT INTO odd.keyless VALUES (1)").await?;
    mesh.wait_for_fault("no_primary_key", QUIET).await?;
    mesh.server("B").sql("INSERT INTO odd.watched VALUES (1)").await?;
    let said = mesh.wait_for_fault("table", QUIET).await?;
    ensure!(said.contains("the trigger watch would fire"), "{said}");
    mesh.finish();
    Ok(())
}

/// Compares a query in A with one in B, by the servers' own clients. None may be empty.
pub async fn ensure_same(mesh: &Mesh, in_a: &str, in_b: &str) -> anyhow::Result<()> {
    let sorted = |rows: String| {
        let mut lines: Vec<&str> = rows.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    let a = sorted(mesh.server("A").sql(in_a).await?);
    let b = sorted(mesh.server("B").sql(in_b).await?);
    ensure!(!a.is_empty(), "nothing is left: {in_a}");
    ensure!(a == b, "{in_a}\n---- A\n{a:.2000}\n---- B\n{b:.2000}");
    Ok(())
}

#[test]
fn what_foreign_keys_do_travels_where_the_log_holds_it() {
    beside("cascades, MySQL to MariaDB", LIMIT, cascades(Mariadb));
    beside("cascades, MySQL to MySQL", LIMIT, cascades(Mysql9));
}

async fn cascades(target: Flavor) -> anyhow::Result<()> {
    const CREATE: &str = "CREATE DATABASE odd;
        CREATE TABLE odd.parent (id INT PRIMARY KEY, v INT);
        CREATE TABLE odd.child (id INT PRIMARY KEY, parent INT, FOREIGN KEY (parent) REFERENCES odd.parent (id)
            ON DELETE CASCADE ON UPDATE CASCADE);
        CREATE TABLE odd.grandchild (id INT PRIMARY KEY, child INT, FOREIGN KEY (child) REFERENCES odd.child (id)
            ON DELETE SET NULL);";
    let mut mesh = MeshSetup::new(BINARY, &[Mysql9, target])
        .kafka_shared()
        .one_way("A", "B")
        .flow("tables = [\"odd.*\"]")
        .prepare("A", CREATE)
        .prepare("B", CREATE)
        .start()
        .await?;
    mesh.start_workers()?;
    let mut sql = String::new();
    for n in 0..40 {
        let _ = writeln!(
            sql,
            "INSERT INTO odd.parent VALUES ({n}, 1); INSERT INTO odd.child VALUES ({n}, {n}), ({n} + 100, {n}); \
             INSERT INTO odd.grandchild VALUES ({n}, {n}), ({n} + 100, {n} + 100); \
             UPDATE odd.parent SET id = id + 1000 WHERE id = {n}; DELETE FROM odd.parent WHERE id = {n} + 1000 AND {n} % 2 = 0;"
        );
    }
    mesh.server("A").sql(&sql).await?;
    mesh.quiesce(QUIET).await?;
    for (table, left) in [("parent", 20), ("child", 40), ("grandchild", 80)] {
        let query = format!("SELECT * FROM odd.{table} ORDER BY id");
        ensure_same(&mesh, &query, &query).await?;
        let count = mesh.server("A").sql(&format!("SELECT COUNT(*) FROM odd.{table}")).await?;
        ensure!(count == left.to_string(), "{count} rows are left of {table}");
    }
    mesh.finish();
    Ok(())
}

#[test]
fn filters_and_names() {
    beside("filters and a unit's own names", LIMIT, async {
        let in_a = "CREATE DATABASE mall; CREATE TABLE mall.users (id INT PRIMARY KEY, name VARCHAR(20), photo BLOB, secret INT NOT NULL DEFAULT 6);
            CREATE TABLE mall.orders (id INT PRIMARY KEY, region VARCHAR(9), total DECIMAL(10,2), state ENUM('draft','sent'))";
        let in_b = "CREATE DATABASE mall_jp; CREATE TABLE mall_jp.users (id INT PRIMARY KEY, name VARCHAR(20), photo BLOB, secret INT NOT NULL DEFAULT 5);
            CREATE TABLE mall_jp.orders_v2 (id INT PRIMARY KEY, region VARCHAR(9), total DECIMAL(10,2), state ENUM('draft','sent'))";
        let tables = "tables = [\"mall.*\"]\ncolumns = { \"mall.users\" = { exclude = [\"photo\", \"Secret\"] } }\n";
        let rows =
            |condition: &str| format!("{tables}rows = {{ \"mall.orders\" = \"{condition}\" }}\n");
        let first = "region = 'eu' and total >= 9.5 and state != 'draft'";
        let mut mesh = MeshSetup::new(BINARY, &[Mysql9, Mariadb])
            .kafka_shared()
            .flow(&rows(first))
            .prepare("A", in_a)
            .prepare("B", in_b)
            .store(
                "B",
                "rename = { \"mall\" = \"mall_jp\", \"mall.orders\" = \"mall_jp.orders_v2\" }",
            )
            .start()
            .await?;
        mesh.start_workers()?;
        write_orders(&mesh, 0).await?;
        mesh.quiesce(QUIET).await?;
        ensure_filtered(&mesh, first, 0).await?;

        // Other rows from here on; those that were there before are not sent after.
        let second = "total >= 9.5";
        mesh.change_flow(&rows(second))?;
        restart_connectors(&mut mesh).await?;
        write_orders(&mesh, 100).await?;
        mesh.quiesce(QUIET).await?;
        ensure_filtered(&mesh, second, 100).await?;

        // Keys change lanes: a new generation.
        mesh.change_flow(&(rows(second) + "partition_by = { \"mall.orders\" = \"table\" }\n"))?;
        restart_connectors(&mut mesh).await?;
        write_orders(&mesh, 200).await?;
        mesh.quiesce(QUIET).await?;
        ensure_filtered(&mesh, second, 200).await?;
        for (unit, log) in [("B", "A.shop"), ("A", "B.shop")] {
            ensure_generation(&mesh, unit, log, 2).await?;
        }
        mesh.ensure_still().await?;

        // What tells rows apart can't be hidden.
        mesh.change_flow(
            "tables = [\"mall.*\"]\ncolumns = { \"mall.*\" = { exclude = [\"id\"] } }\n",
        )?;
        restart_connectors(&mut mesh).await?;
        write_orders(&mesh, 300).await?;
        let said = mesh.wait_for_fault("routing", QUIET).await?;
        ensure!(said.contains("part of the primary key"), "{said}");
        mesh.finish();
        Ok(())
    });
}

/// Users, and orders that enter and leave each of the conditions, in both units.
async fn write_orders(mesh: &Mesh, first: u32) -> anyhow::Result<()> {
    for (unit, users, orders) in
        [("A", "mall.users", "mall.orders"), ("B", "mall_jp.users", "mall_jp.orders_v2")]
    {
        let mut sql = String::new();
        let base = if unit == "A" { first } else { first + APART };
        for n in base..base + 40 {
            let _ = writeln!(
                sql,
                "INSERT INTO {users} VALUES ({n}, 'x', 'photo', 1); UPDATE {users} SET photo = 'other' WHERE id = {n}; \
                 UPDATE {users} SET name = CONCAT(name, 'y'), secret = 2 WHERE id = {n}; DELETE FROM {users} WHERE id = {n} AND {n} % 3 = 0; \
                 INSERT INTO {orders} VALUES ({n}, IF({n} % 2, 'eu', 'us'), IF({n} % 5, 9.50, 9.49), 'draft'); \
                 UPDATE {orders} SET state = 'sent' WHERE id = {n}; UPDATE {orders} SET total = total + 0.01 WHERE id = {n}; \
                 UPDATE {orders} SET region = IF(region = 'eu', 'us', 'eu') WHERE id = {n} AND {n} % 3 = 0; \
                 UPDATE {orders} SET total = 9 WHERE id = {n} AND {n} % 7 = 0; DELETE FROM {orders} WHERE id = {n} AND {n} % 4 = 0;"
            );
        }
        mesh.server(unit).sql(&sql).await?;
    }
    Ok(())
}

/// Whether each unit has of the other's rows from `first` on what the condition lets through, and
/// nothing else, and no hidden column.
async fn ensure_filtered(mesh: &Mesh, condition: &str, first: u32) -> anyhow::Result<()> {
    for (from, to) in [("A", "B"), ("B", "A")] {
        let base = if from == "A" { first } else { first + APART };
        let range = format!("id BETWEEN {base} AND {base} + 99");
        let query = |unit: &str, condition: &str| {
            let orders = if unit == "A" { "mall.orders" } else { "mall_jp.orders_v2" };
            format!("SELECT * FROM {orders} WHERE {range} AND {condition} ORDER BY id")
        };
        let sent = mesh.server(from).sql(&query(from, condition)).await?;
        let came = mesh.server(to).sql(&query(to, "1 = 1")).await?;
        ensure!(!sent.is_empty() && sent == came, "{from} to {to}\n{sent}\n----\n{came}");
    }
    let names = |users: &str| format!("SELECT id, name FROM {users} ORDER BY id");
    ensure_same(mesh, &names("mall.users"), &names("mall_jp.users")).await?;
    let hidden =
        format!("SELECT DISTINCT photo IS NULL, secret FROM mall_jp.users WHERE id < {APART}");
    let hidden = mesh.server("B").sql(&hidden).await?;
    ensure!(hidden == "1\t5", "hidden columns came: {hidden}");
    Ok(())
}

async fn restart_connectors(mesh: &mut Mesh) -> anyhow::Result<()> {
    for unit in ["A", "B"] {
        mesh.worker(unit, "connector")?.stop(QUIET).await?;
        mesh.start_worker(unit, "connector", "")?;
    }
    Ok(())
}

/// Whether all lanes of a log have reached this generation in a unit.
async fn ensure_generation(mesh: &Mesh, unit: &str, log: &str, least: u16) -> anyhow::Result<()> {
    let query = format!("SELECT MIN(seq >> 48) FROM unitflow.ledger WHERE log = '{log}'");
    let found: u16 = mesh.server(unit).sql(&query).await?.parse()?;
    ensure!(found >= least, "{log} is at generation {found} in {unit}, not {least}");
    Ok(())
}

#[test]
fn a_unique_key_that_comes_later_begins_a_generation() {
    beside("a unique key that comes later", LIMIT, async {
        const CREATE: &str =
            "CREATE DATABASE odd; CREATE TABLE odd.late (id INT PRIMARY KEY, place INT)";
        let mut mesh = MeshSetup::new(BINARY, &[Mysql9, Mariadb])
            .kafka_shared()
            .one_way("A", "B")
            .flow("tables = [\"odd.*\"]\nddl = \"ignore\"")
            .prepare("A", CREATE)
            .prepare("B", CREATE)
            .start()
            .await?;
        mesh.start_workers()?;
        let mut before = String::from("INSERT INTO odd.late VALUES ");
        let mut after = String::new();
        for n in 0..200 {
            let _ = write!(before, "{}({n}, {n})", if n == 0 { "" } else { "," });
            let other = (n + 1) % 200;
            // A value goes from row to row through all lanes.
            let _ = writeln!(
                after,
                "UPDATE odd.late SET place = -{n} - 1 WHERE id = {n}; UPDATE odd.late SET place = {n} WHERE id = {other} AND place <> {n};
                 UPDATE odd.late SET place = {n} + 1000 WHERE id = {other}; UPDATE odd.late SET place = {n} WHERE id = {n};"
            );
        }
        mesh.server("A").sql(&before).await?;
        const ALTER: &str = "ALTER TABLE odd.late ADD UNIQUE (place)";
        mesh.server("B").sql(ALTER).await?;
        mesh.server("A").sql(&format!("{ALTER};\n{after}")).await?;
        mesh.quiesce(QUIET).await?;
        let query = "SELECT * FROM odd.late ORDER BY id";
        ensure_same(&mesh, query, query).await?;
        ensure_generation(&mesh, "B", "A.shop", 2).await?;
        // Its rows stand in the transaction that creates it.
        let copied = "CREATE TABLE odd.copied (PRIMARY KEY (id), UNIQUE (place))";
        mesh.server("B").sql(&format!("{copied} SELECT * FROM odd.late LIMIT 0")).await?;
        mesh.server("A").sql(&format!("{copied} SELECT * FROM odd.late;")).await?;
        mesh.server("A").sql(&after.replace("odd.late", "odd.copied")).await?;
        mesh.quiesce(QUIET).await?;
        let query = "SELECT * FROM odd.copied ORDER BY id";
        ensure_same(&mesh, query, query).await?;
        ensure_generation(&mesh, "B", "A.shop", 3).await?;
        mesh.finish();
        Ok(())
    });
}

#[test]
fn a_generation_waits_for_every_lane() {
    beside("a generation waits for every lane", LIMIT, async {
        const CREATE: &str =
            "CREATE DATABASE odd; CREATE TABLE odd.many (id INT PRIMARY KEY, v INT)";
        let mut mesh = MeshSetup::new(BINARY, &[Mariadb, Mysql9])
            .kafka_shared()
            .one_way("A", "B")
            .flow("tables = [\"odd.*\"]")
            .prepare("A", CREATE)
            .prepare("B", CREATE)
            .start()
            .await?;
        mesh.start_workers()?;
        let rows: Vec<String> = (0..200).map(|n| format!("({n}, 0)")).collect();
        let insert = format!("INSERT INTO odd.many VALUES {}", rows.join(","));
        mesh.server("A").sql(&insert).await?;
        mesh.quiesce(QUIET).await?;

        // One lane can't move, and it is not the one that will have all rows.
        let key = br#"["odd","many",{"id":1}]"#;
        let slow = (lane_of(&PartitionBy::Table, key, None, 4)? + 1) % 4;
        let mut lock = connect(mesh.server("B")).await?;
        lock.query_drop("BEGIN").await?;
        // By its key, so that no other row is locked.
        let row = format!("log = 'A.shop' AND lane = {slow}");
        lock.query_drop(format!("SELECT seq FROM unitflow.ledger WHERE {row} FOR UPDATE")).await?;
        let others = format!("FROM unitflow.ledger WHERE lane <> {slow}");
        let before = mesh.server("B").sql(&format!("SELECT MAX(seq) {others}")).await?;
        mesh.server("A").sql("UPDATE odd.many SET v = 1").await?;
        wait_for(&mesh, &format!("SELECT MIN(seq) > {before} {others}")).await?;
        mesh.change_flow("tables = [\"odd.*\"]\npartition_by = { \"odd.many\" = \"table\" }")?;
        mesh.worker("A", "connector")?.stop(QUIET).await?;
        mesh.start_worker("A", "connector", "")?;
        wait_for(&mesh, &format!("SELECT MIN(seq >> 48) = 2 {others}")).await?;
        mesh.server("A").sql("UPDATE odd.many SET v = 2").await?;
        // The change stands in the topic, and nobody takes it.
        let all = lane_of(&PartitionBy::Table, key, None, 4)?;
        let begin = Instant::now();
        while lag(&mesh, all).await? == 0 {
            let passed = format!("SELECT COUNT(*) {others} AND seq > 2 << 48");
            ensure!(mesh.server("B").sql(&passed).await? == "0", "a lane went on without another");
            ensure!(begin.elapsed() < QUIET, "the change does not come");
        }
        lock.query_drop("ROLLBACK").await?;
        mesh.quiesce(QUIET).await?;
        let query = "SELECT * FROM odd.many";
        ensure_same(&mesh, query, query).await?;
        mesh.finish();
        Ok(())
    });
}

/// How many records of the one flow a lane has not applied.
async fn lag(mesh: &Mesh, lane: i32) -> anyhow::Result<i64> {
    let status: serde_json::Value = serde_json::from_str(&mesh.run(&["status", "--json"]).await?)?;
    let lanes = status["flows"][0]["lanes"].as_array().context("lanes")?;
    let found = lanes.iter().find(|found| found["lane"] == lane);
    found.and_then(|lane| lane["lag_records"].as_i64()).context("a lag")
}

/// Waits until a query in unit B says 1.
pub async fn wait_for(mesh: &Mesh, query: &str) -> anyhow::Result<()> {
    let begin = Instant::now();
    while mesh.server("B").sql(query).await? != "1" {
        ensure!(begin.elapsed() < QUIET, "still not: {query}");
    }
    Ok(())
}
