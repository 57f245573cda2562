//! Tables of real servers, equal but for what was planted.
#![allow(clippy::unwrap_used, missing_docs)]

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use unitflow_change::condition::Condition;
use unitflow_change::fault::Code;
use unitflow_local::{Flavor, Mysql};
use unitflow_mysql::snapshot::{Reader, Table};
use unitflow_mysql::{Store, Tls, connect};
use unitflow_verifier::compare::Finding::{self, Different, Extra, Missing};
use unitflow_verifier::{Compare, Pair};

/// Rows of the large table, several parts.
const ROWS: u32 = 2500;

struct Side {
    _server: Mysql,
    conn: Conn,
    reader: Reader,
    database: &'static str,
}

impl Side {
    async fn start(flavor: Flavor, database: &'static str) -> Self {
        let server = Mysql::setup(flavor).start().await.unwrap();
        let store = Store {
            name: database.into(),
            endpoints: vec![("127.0.0.1".into(), server.port())],
            user: "root".into(),
            password: None,
            tls: Tls::Off,
        };
        let mut conn = connect(&store).await.unwrap();
        let create = format!("create database {database} character set utf8mb4");
        conn.query_drop(create).await.unwrap();
        conn.query_drop(format!("use {database}")).await.unwrap();
        Self { _server: server, conn, reader: Reader::open(&store).await.unwrap(), database }
    }

    async fn run(&mut self, statements: &[&str]) {
        for statement in statements {
            if let Err(error) = self.conn.query_drop(*statement).await {
                panic!("{statement:.200}: {error}");
            }
        }
    }

    async fn table(&mut self, name: &str) -> Table {
        let names = [(self.database.to_owned(), name.to_owned())];
        self.reader.tables(&names).await.unwrap().remove(0)
    }
}

/// Both directions of MySQL and MariaDB; the target calls the database otherwise.
async fn both_ways() -> [(Side, Side); 2] {
    let mut all = Vec::new();
    for (source, target) in [(Flavor::Mysql9, Flavor::Mariadb), (Flavor::Mariadb, Flavor::Mysql9)] {
        all.push((Side::start(source, "shop").await, Side::start(target, "shop_b").await));
    }
    all.try_into().unwrap_or_else(|_| panic!("two"))
}

async fn pair(source: &mut Side, target: &mut Side, name: &str) -> Pair {
    let (one, other) = (source.table(name).await, target.table(name).await);
    Pair::new(("shop", name), one, other, &[], Vec::new()).unwrap()
}

/// All differences, sorted, with how many parts and how many rows of each end there were.
async fn compared(
    pair: Pair,
    source: &mut Side,
    target: &mut Side,
) -> (Vec<(String, Finding)>, [u64; 3]) {
    let mut compare = Compare::new(pair, &mut source.reader, &mut target.reader);
    let mut found = Vec::new();
    let mut counts = [0; 3];
    while let Some(part) = compare.next().await.unwrap() {
        found.extend(part.differences);
        counts[0] += 1;
        counts[1] += part.source_rows;
        counts[2] += part.target_rows;
    }
    // What differs does so when it is looked at again, and nothing else comes of that.
    let keys: Vec<_> = found.iter().map(|difference| &difference.key[..]).collect();
    let mut again = compare.again(&keys).await.unwrap();
    found.sort();
    again.sort();
    assert_eq!(found, again);
    let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
    (found.iter().map(|found| (text(&found.key), found.finding)).collect(), counts)
}

fn expected(table: &str, differences: &[(&str, Finding)]) -> Vec<(String, Finding)> {
    let key = |columns: &str| format!(r#"["shop","{table}",{{{columns}}}]"#);
    let mut all: Vec<_> =
        differences.iter().map(|(columns, finding)| (key(columns), *finding)).collect();
    all.sort();
    all
}

async fn fill_numbers(side: &mut Side, id: &str, amount: &str) {
    let create = format!(
        "create table items (part smallint not null, id {id} not null, amount {amount}, \
         at timestamp(3) null, doc json, twice int generated always as (part * 2) stored, primary key (part, id))"
    );
    side.run(&[&create]).await;
    for start in (0..ROWS).step_by(500) {
        let rows: Vec<_> = (start..start + 500)
            .map(|id| {
                let doc = format!("{{\"a\": [{id}, \"é\"], \"b\": null}}");
                format!("({}, {id}, {id}.5, '2026-01-02 03:04:05.100', '{doc}')", id % 3)
            })
            .collect();
        let insert =
            format!("insert into items (part, id, amount, at, doc) values {}", rows.join(","));
        side.run(&[&insert]).await;
    }
}

#[tokio::test]
async fn planted_differences_are_found_and_nothing_else() {
    for (mut source, mut target) in both_ways().await {
        fill_numbers(&mut source, "int", "decimal(10,2)").await;
        fill_numbers(&mut target, "bigint", "decimal(20,4)").await;
        // Of the same meaning: another order of members and other spaces, where text is kept.
        target
            .run(&["update items set doc = '{\"b\":null,  \"a\":[5,\"\\\\u00e9\"]}' where id = 5"])
            .await;
        let items = pair(&mut source, &mut target, "items").await;
        assert!(items.is_ordered());
        let (found, [parts, one, other]) = compared(items.clone(), &mut source, &mut target).await;
        assert_eq!((found, one, other), (Vec::new(), ROWS.into(), ROWS.into()));
        assert!(parts > 2, "{parts}");

        source
            .run(&[
                "delete from items where id in (0, 1200)",
                "insert into items (part, id) values (9, 9)",
            ])
            .await;
        target
            .run(&[
                "delete from items where id in (2, 777, 2499)",
                "insert into items (part, id) values (-1, 0), (1, 100000), (9, 10)",
                "update items set amount = amount + 0.0001 where id = 1000",
                "update items set at = '2026-01-02 03:04:05.101' where id = 1001",
                "update items set doc = '{\"a\": [1002, \"e\"], \"b\": null}' where id = 1002",
                "update items set amount = null where id = 1003",
            ])
            .await;
        let (found, _) = compared(items, &mut source, &mut target).await;
        assert_eq!(
            found,
            expected(
                "items",
                &[
                    ("\"part\":0,\"id\":0", Extra),
                    ("\"part\":0,\"id\":1200", Extra),
                    ("\"part\":-1,\"id\":0", Extra),
                    ("\"part\":1,\"id\":100000", Extra),
                    ("\"part\":9,\"id\":10", Extra),
                    ("\"part\":9,\"id\":9", Missing),
                    ("\"part\":2,\"id\":2", Missing),
                    ("\"part\":0,\"id\":777", Missing),
                    ("\"part\":0,\"id\":2499", Missing),
                    ("\"part\":1,\"id\":1000", Different),
                    ("\"part\":2,\"id\":1001", Different),
                    ("\"part\":0,\"id\":1002", Different),
                    ("\"part\":1,\"id\":1003", Different),
                ]
            )
        );
    }
}

#[tokio::test]
async fn keys_that_a_collation_folds_are_matched_by_the_servers() {
    for (mut source, mut target) in both_ways().await {
        source
            .run(&["create table users (name varchar(20) collate utf8mb4_general_ci primary key, v int)"])
            .await;
        target
            .run(&["create table users (name varchar(30) collate utf8mb4_unicode_ci primary key, V int)"])
            .await;
        let rows: Vec<_> = (0..ROWS).map(|i| format!("('u{}', {i})", i * 7919 % ROWS)).collect();
        let insert = format!("insert into users values {}", rows.join(","));
        let odd = "insert into users values ('ä', 1), ('Z', 2), ('_', 3), ('😀', 4)";
        for side in [&mut source, &mut target] {
            side.run(&[&insert, odd]).await;
        }
        let users = pair(&mut source, &mut target, "users").await;
        assert!(!users.is_ordered());
        let (found, [_, one, other]) = compared(users.clone(), &mut source, &mut target).await;
        let all = u64::from(ROWS) + 4;
        assert_eq!((found, one, other), (Vec::new(), all, all));

        source.run(&["delete from users where name = 'u9'"]).await;
        target
            .run(&[
                "update users set name = 'U7' where name = 'u7'",
                "update users set v = -1 where name = 'u8'",
                "delete from users where name in ('u5', 'z')",
                "insert into users values ('new', 1)",
            ])
            .await;
        let (found, _) = compared(users, &mut source, &mut target).await;
        assert_eq!(
            found,
            expected(
                "users",
                &[
                    ("\"name\":\"u7\"", Different),
                    ("\"name\":\"u8\"", Different),
                    ("\"name\":\"u5\"", Missing),
                    ("\"name\":\"Z\"", Missing),
                    ("\"name\":\"u9\"", Extra),
                    ("\"name\":\"new\"", Extra),
                ]
            )
        );
    }
}

#[tokio::test]
async fn rows_and_columns_that_do_not_travel_are_not_missed() {
    for (mut source, mut target) in both_ways().await {
        source
            .run(&[
                "create table t (id int primary key, region varchar(9), photo blob)",
                "insert into t values (1, 'eu', 'x'), (2, 'us', 'x'), (3, 'us', 'x')",
            ])
            .await;
        target
            .run(&[
                "create table t (id int primary key, region varchar(9), photo blob, more int)",
                "insert into t values (1, 'eu', null, 5), (3, 'us', null, 5)",
            ])
            .await;
        let (one, other) = (source.table("t").await, target.table("t").await);
        let condition = Condition::parse("region = 'eu'").unwrap();
        let pair =
            Pair::new(("shop", "t"), one, other, &["PHOTO".into()], vec![condition]).unwrap();
        let (found, _) = compared(pair, &mut source, &mut target).await;
        assert_eq!(found, expected("t", &[("\"id\":3", Extra)]));
    }
}

#[tokio::test]
async fn tables_of_other_keys_are_not_compared() {
    let mut side = Side::start(Flavor::Mariadb, "shop").await;
    side.run(&[
        "create table a (id int primary key, v int)",
        "create table b (id int, v int, primary key (id, v))",
        "create table c (id int, v int)",
    ])
    .await;
    for (one, other) in [("a", "b"), ("b", "a"), ("c", "a"), ("a", "c"), ("c", "c")] {
        let (source, target) = (side.table(one).await, side.table(other).await);
        let fault = Pair::new(("shop", one), source, target, &[], Vec::new()).unwrap_err();
        assert_eq!(fault.code, Code::Table, "{one} {other}");
    }
}
