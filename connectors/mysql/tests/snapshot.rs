//! Rows read from tables against the same rows read from the log, on real servers.
#![allow(clippy::unwrap_used, missing_docs)]

extern crate unitflow_local as unitflow_harness;

#[path = "../../../tests/matrix/cells.rs"]
#[allow(dead_code)]
mod cells;
mod support;

use std::collections::BTreeMap;

use cells::{CELLS, Cell, Source};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use serde::Deserialize;
use serde_json::value::RawValue;
use support::cases::{cases, create, inserts};
use support::{FLAVORS, Seen, conn, json, now, options, read, run, start, store};
use unitflow_change::Form;
use unitflow_change::envelope::Op;
use unitflow_change::fault::Code;
use unitflow_change::position::Position;
use unitflow_local::{Flavor, Mysql};
use unitflow_mysql::snapshot::{Reader, Records, Row, Table};
use unitflow_mysql::{Server, Stream};

const ALL: usize = usize::MAX;

/// Keys and values of a table's inserts, sorted by key.
type Logged = BTreeMap<String, Vec<(String, String)>>;

async fn logged(server: &Mysql, position: &Position, form: Form) -> Logged {
    let until = Server::read(&mut conn(server).await).await.unwrap().executed;
    let options = unitflow_mysql::Options { form, ..options(4711) };
    let mut stream = Stream::open(&store(server), position.clone(), options).await.unwrap();
    let mut tables = Logged::new();
    for (seen, _) in read(&mut stream, &until).await.unwrap() {
        if let Seen::Row { table, op: Op::Insert, key, value, .. } = seen {
            tables.entry(table).or_default().push((key, value));
        }
    }
    stream.close().await;
    tables.values_mut().for_each(|rows| rows.sort());
    tables
}

async fn table(reader: &mut Reader, name: &str) -> Table {
    let (database, name) = name.split_once('.').unwrap();
    reader.tables(&[(database.to_owned(), name.to_owned())]).await.unwrap().remove(0)
}

/// A whole table, so many rows at a time.
async fn scan(reader: &mut Reader, table: &Table, limit: usize, bytes: usize) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    loop {
        let after = rows.last().map(|row| row.key.clone());
        let part = reader.scan(table, after.as_deref(), limit, bytes).await.unwrap();
        assert!(part.rows.len() <= limit);
        assert!(part.done || !part.rows.is_empty(), "a part without rows that is not the last");
        rows.extend(part.rows);
        if part.done {
            return rows;
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn raw_after(value: &str) -> &str {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        after: &'a RawValue,
    }
    let payload = unitflow_change::form::payload(value.as_bytes()).unwrap();
    serde_json::from_slice::<Envelope<'_>>(payload).unwrap().after.get()
}

/// All before the payload: the schema.
fn head(value: &str) -> &[u8] {
    unitflow_change::form::parts(value.as_bytes()).unwrap().unwrap().head
}

/// Tables with columns that MySQL keeps for itself.
const HIDDEN: &[&str] = &[
    "create table shop.computed_key (id int primary key, a varchar(9), key ((lower(a))))",
    "insert into shop.computed_key values (1, 'A'), (2, null)",
    "set session sql_generate_invisible_primary_key = on",
    "create table shop.no_key (a varchar(9))",
    "insert into shop.no_key values ('a'), ('b')",
];

/// All types at their edges, in one table and in a table each.
async fn fill(conn: &mut Conn, flavor: Flavor) {
    run(conn, ["create database shop character set utf8mb4"]).await;
    let cases = cases(flavor);
    run(conn, [create("cases", &cases).as_str()]).await;
    run(conn, inserts("cases", &cases).iter().map(String::as_str)).await;
    if flavor == Flavor::Mysql9 {
        run(conn, HIDDEN.iter().copied()).await;
    }
    run(conn, ["set session sql_mode='ALLOW_INVALID_DATES'"]).await;
    for cell in CELLS {
        let Some(kind) = kind(cell, flavor) else { continue };
        let name = cell.name;
        let create = format!(
            "create table shop.`{name}` (v {kind}, id int, primary key (id)) character set utf8mb4"
        );
        run(conn, [create.as_str()]).await;
        for (id, value) in cell.values.iter().chain(&["null"]).enumerate() {
            let insert = format!("insert into shop.`{name}` (id, v) values ({id}, {value})");
            run(conn, [insert.as_str()]).await;
        }
    }
}

fn kind(cell: &Cell, flavor: Flavor) -> Option<&'static str> {
    let (kind, source) = match flavor {
        Flavor::Mysql9 => (cell.mysql, Source::Mysql),
        Flavor::Mariadb => (cell.mariadb, Source::Mariadb),
    };
    (!kind.is_empty() && [Source::Any, source].contains(&cell.source)).then_some(kind)
}

async fn compare(flavor: Flavor) {
    let server = start(flavor).await;
    let mut conn = conn(&server).await;
    let position = now(&mut conn).await;
    fill(&mut conn, flavor).await;
    let plain = logged(&server, &position, Form::Plain).await;
    let declared = logged(&server, &position, Form::WithSchema).await;
    let mut reader = Reader::open(&store(&server)).await.unwrap();
    reader.begin().await.unwrap();
    let mut records = Records::new(reader.server(), "A.shop");
    let mut wrong = Vec::new();
    for (name, logged) in &plain {
        let mut table = table(&mut reader, name).await;
        let mut rows = scan(&mut reader, &table, 3, ALL).await;
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(rows.len(), logged.len(), "{name}");
        for (row, (key, value)) in rows.iter().zip(logged) {
            if &text(&row.key) != key || text(&row.after) != raw_after(value) {
                let (read, logged) = differing(&text(&row.after), raw_after(value));
                wrong.push(format!("{name} {key}: {read:.200} is not {logged:.200}"));
            }
            let (read_key, read) = records.write(&table, row, 1, 7).unwrap();
            let (read_key, read) = (text(read_key), json(&text(read)));
            assert_eq!((&read_key, read["op"].as_str()), (key, Some("r")));
            assert_eq!(read["source"]["snapshot"], "incremental");
            assert_eq!(read["source"]["table"], json(value)["source"]["table"]);
            assert_eq!(read["source"]["row"], 7);
        }
        table.declare(reader.server().flavor, "A.shop");
        for (row, (key, value)) in rows.iter().zip(&declared[name]) {
            let (read_key, read) = records.write(&table, row, 1, 0).unwrap();
            let (read_key, read) = (text(read_key), text(read));
            assert_eq!(&read_key, key);
            assert_eq!(head(&read), head(value), "{name}");
            assert_eq!(raw_after(&read), raw_after(value), "{name}");
        }
    }
    assert!(wrong.is_empty(), "{flavor:?}\n{}", wrong.join("\n"));
    assert!(plain.len() > 100, "{} tables", plain.len());
}

/// The first column that differs.
fn differing(read: &str, logged: &str) -> (String, String) {
    let columns = |text: &str| -> Vec<(String, String)> {
        let row: unitflow_change::envelope::Row<'_> = serde_json::from_str(text).unwrap();
        row.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let (read, logged) = (columns(read), columns(logged));
    match read.iter().zip(&logged).find(|(read, logged)| read != logged) {
        Some((read, logged)) => (format!("{read:?}"), format!("{logged:?}")),
        None => (format!("{} columns", read.len()), format!("{} columns", logged.len())),
    }
}

#[tokio::test]
async fn rows_of_mysql_are_as_logged() {
    compare(Flavor::Mysql9).await;
}

#[tokio::test]
async fn rows_of_mariadb_are_as_logged() {
    compare(Flavor::Mariadb).await;
}

/// Types of keys with values; in the order of the values they are not.
const KEYS: &[(&str, &[&str])] = &[
    ("int", &["5", "-3", "0"]),
    ("bigint unsigned", &["18446744073709551615", "0", "9223372036854775808"]),
    ("decimal(20,5)", &["-1.5", "99999.99999", "0"]),
    ("float", &["0.1", "-1e-40", "16777217"]),
    ("double", &["0.1", "-5e-324", "1e300"]),
    ("bit(17)", &["65537", "0", "1"]),
    ("year", &["0", "2155", "1901"]),
    ("date", &["'0000-00-00'", "'9999-12-31'", "'2024-02-29'"]),
    ("time(3)", &["'-838:59:59'", "'00:00:00.001'", "'-00:00:00.5'"]),
    ("datetime(6)", &["'0000-00-00'", "'2026-01-02 03:04:05.000001'", "'2026-01-02 03:04:05'"]),
    ("timestamp(2)", &["'0000-00-00'", "'2038-01-19 03:14:07.99'", "'1970-01-01 00:00:01'"]),
    ("char(9) collate utf8mb4_general_ci", &["'b'", "'A'", "'é'", "''", "'a\\'\\\\\"'"]),
    ("varchar(9) collate utf8mb4_bin", &["'b'", "'A'", "'a'", "'😀'", "'a\\t'"]),
    ("varchar(9) character set latin1", &["'ÿ'", "'Z'", "'é'"]),
    ("varchar(9) character set utf16", &["'漢'", "'Z'", "'😀'"]),
    ("varchar(9) character set gbk", &["'汉'", "'Z'", "'a'"]),
    ("binary(4)", &["X'00'", "X'FF00'", "'a'"]),
    ("varbinary(9)", &["X'00'", "X''", "X'0000'", "X'FF27'"]),
    ("enum('z','y','it''s','','😀')", &["'y'", "'z'", "''", "'it\\'s'"]),
    ("set('z','y','a\\\\','x')", &["'y,x'", "'z'", "''", "'a\\\\'"]),
];

const KEYS_OF_MARIADB: &[(&str, &[&str])] = &[
    (
        "uuid",
        &[
            "'123e4567-e89b-12d3-a456-426614174000'",
            "'01020304-0506-1708-890a-0b0c0d0e0f00'",
            "'123e4567-e89b-72d3-a456-426614174000'",
        ],
    ),
    ("inet6", &["'::'", "'ff00::'", "'::1.2.3.4'"]),
];

async fn keys(flavor: Flavor) {
    let server = start(flavor).await;
    let mut conn = conn(&server).await;
    run(&mut conn, ["create database shop character set utf8mb4"]).await;
    let own = if flavor == Flavor::Mariadb { KEYS_OF_MARIADB } else { &[] };
    let mut reader = Reader::open(&store(&server)).await.unwrap();
    for (number, (kind, values)) in KEYS.iter().chain(own).enumerate() {
        let name = format!("shop.k{number}");
        let create =
            format!("create table {name} (w int, k {kind} not null, n int, primary key (k, n))");
        run(&mut conn, [create.as_str()]).await;
        for value in *values {
            let insert = format!("insert into {name} values (1, {value}, 2), (2, {value}, -1)");
            run(&mut conn, [insert.as_str()]).await;
        }
        let table = table(&mut reader, &name).await;
        let whole = scan(&mut reader, &table, ALL, ALL).await;
        assert_eq!(whole.len(), 2 * values.len(), "{kind}");
        let query = format!("select w from {name} order by k, n");
        let order: Vec<i32> = conn.query(query).await.unwrap();
        let read: Vec<_> = whole.iter().map(|row| json(&text(&row.after))["w"].clone()).collect();
        assert_eq!(read, order, "{kind}");
        for limit in [1, 3] {
            assert_eq!(scan(&mut reader, &table, limit, ALL).await, whole, "{kind}");
        }
        let (first, last) = (&whole[0].key[..], &whole[whole.len() - 2].key[..]);
        let within = reader.scan_range(&table, (Some(first), Some(last)), ALL, ALL).await.unwrap();
        assert_eq!(within.rows, whole[1..whole.len() - 1], "{kind}");
        for row in &whole {
            let found = reader.get(&table, &[&row.key]).await.unwrap();
            assert_eq!(&found, std::slice::from_ref(row), "{kind}");
        }
        run(&mut conn, [format!("delete from {name} where n = 2").as_str()]).await;
        let keys: Vec<_> = whole.iter().map(|row| &row.key[..]).collect();
        let left = reader.get(&table, &keys).await.unwrap();
        assert_eq!(left.len(), values.len(), "{kind}");
    }
}

#[tokio::test]
async fn keys_of_mysql_lead_through_a_table() {
    keys(Flavor::Mysql9).await;
}

#[tokio::test]
async fn keys_of_mariadb_lead_through_a_table() {
    keys(Flavor::Mariadb).await;
}

/// How many rows the server's engines were asked for by now.
async fn handled(conn: &mut Conn) -> u64 {
    let query = "show global status like 'Handler\\_read\\_%'";
    let counts: Vec<(String, u64)> = conn.query(query).await.unwrap();
    counts.iter().map(|(_, count)| count).sum()
}

#[tokio::test]
async fn a_part_is_read_by_the_primary_key_alone() {
    for flavor in FLAVORS {
        let server = start(flavor).await;
        let mut conn = conn(&server).await;
        run(&mut conn, ["create database shop"]).await;
        let mut reader = Reader::open(&store(&server)).await.unwrap();
        let kinds = ["int", "varchar(20) collate utf8mb4_general_ci", "float"];
        for (number, kind) in kinds.iter().enumerate() {
            let name = format!("shop.t{number}");
            let create = format!(
                "create table {name} (k {kind} not null, n int not null, m int, primary key (k, n), key (m), key (n))"
            );
            run(&mut conn, [create.as_str()]).await;
            let insert = format!("insert into {name} values (1, 0, 0), (2, 1, 0), (3, 2, 0)");
            run(&mut conn, [insert.as_str()]).await;
            for doubled in 0..13 {
                let beyond = 3 << doubled;
                let insert = format!(
                    "insert into {name} select n mod 30, n, m from (select n + {beyond} as n, m from {name}) grown"
                );
                run(&mut conn, [insert.as_str()]).await;
            }
            run(&mut conn, [format!("analyze table {name}").as_str()]).await;
            let table = table(&mut reader, &name).await;
            let text = ["21", "\"21\"", "21.0"][number];
            let key = format!("[\"shop\",\"t{number}\",{{\"k\":{text},\"n\":20001}}]");
            let before = handled(&mut conn).await;
            let asking = handled(&mut conn).await - before;
            let before = handled(&mut conn).await;
            let part = reader.scan(&table, Some(key.as_bytes()), 10, ALL).await.unwrap();
            let got = reader.get(&table, &[key.as_bytes(), &part.rows[5].key]).await.unwrap();
            let after = handled(&mut conn).await;
            assert_eq!((part.rows.len(), got.len()), (10, 2), "{kind}");
            assert!(
                after - before < asking + 200,
                "{flavor:?} {kind}: {} rows",
                after - before - asking
            );
        }
    }
}

#[tokio::test]
async fn a_state_holds_what_it_says_and_nothing_later() {
    for flavor in FLAVORS {
        let server = start(flavor).await;
        let mut conn = conn(&server).await;
        run(&mut conn, ["create database shop", "create table shop.t (id int primary key, v int)"])
            .await;
        run(&mut conn, ["insert into shop.t values (1, 1), (2, 2)"]).await;
        let mut reader = Reader::open(&store(&server)).await.unwrap();
        let table = table(&mut reader, "shop.t").await;
        let opened = reader.begin().await.unwrap();
        let executed = Server::read(&mut conn).await.unwrap().executed;
        assert_eq!((&opened.before, &opened.after), (&executed, &executed), "{flavor:?}");
        assert!(opened.at_us > 1_700_000_000_000_000);
        run(&mut conn, ["update shop.t set v = 3", "insert into shop.t values (3, 3)"]).await;
        let values = |rows: Vec<Row>| {
            rows.iter().map(|row| json(&text(&row.after))["v"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(values(scan(&mut reader, &table, ALL, ALL).await), [1, 2]);
        reader.end().await.unwrap();
        let opened = reader.begin().await.unwrap();
        assert!(executed.is_subset(&opened.before) && executed != opened.before);
        assert_eq!(values(scan(&mut reader, &table, ALL, ALL).await), [3, 3, 3]);
    }
}

#[tokio::test]
async fn a_part_is_bounded_by_its_bytes() {
    for flavor in FLAVORS {
        let server = start(flavor).await;
        let mut conn = conn(&server).await;
        run(
            &mut conn,
            ["create database shop", "create table shop.t (id int primary key, v longblob)"],
        )
        .await;
        for id in 0..40 {
            let insert = format!("insert into shop.t values ({id}, repeat('x', 100000))");
            run(&mut conn, [insert.as_str()]).await;
        }
        let mut reader = Reader::open(&store(&server)).await.unwrap();
        let table = table(&mut reader, "shop.t").await;
        let part = reader.scan(&table, None, ALL, 250_000).await.unwrap();
        assert_eq!((part.rows.len(), part.done), (3, false), "{flavor:?}");
        let part = reader.scan(&table, part.last(), ALL, 1).await.unwrap();
        assert_eq!((part.rows.len(), part.done), (1, false));
        assert_eq!(scan(&mut reader, &table, ALL, 250_000).await.len(), 40);
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let server = start(Flavor::Mysql9).await;
    let mut conn = conn(&server).await;
    run(&mut conn, ["create database shop", "create table shop.plain (v int)"]).await;
    run(&mut conn, ["create table shop.t (v varchar(9) character set gbk, id int primary key)"])
        .await;
    run(&mut conn, ["insert into shop.t values (_gbk X'A2AB', 1)"]).await;
    let mut reader = Reader::open(&store(&server)).await.unwrap();
    let plain = table(&mut reader, "shop.plain").await;
    let fault = reader.scan(&plain, None, 1, ALL).await.unwrap_err();
    assert!(fault.code == Code::Table && fault.to_string().contains("no primary key"), "{fault}");
    let table = table(&mut reader, "shop.t").await;
    let fault = reader.scan(&table, None, 1, ALL).await.unwrap_err();
    assert!(fault.code == Code::Table && fault.to_string().contains("shop.t.v"), "{fault}");
    let gone = [("shop".to_owned(), "gone".to_owned())];
    assert_eq!(reader.tables(&gone).await.unwrap_err().code, Code::Table);
}
