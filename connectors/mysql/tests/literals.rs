//! Captured values written back as literals: the server must hold the same afterwards, and must
//! find them equal, and others not.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use support::cases::cases;
use support::{FLAVORS, Seen, conn, now, read_after, run, start};
use unitflow_change::envelope::Envelope;
use unitflow_local::Flavor;
use unitflow_mysql::equality::write_equality;
use unitflow_mysql::literal::{quote_identifier, write_comparison, write_literal};
use unitflow_mysql::schema::{self, Generated, Rule, Table, Type};

fn kind(flavor: Flavor) -> unitflow_mysql::Flavor {
    match flavor {
        Flavor::Mysql9 => unitflow_mysql::Flavor::Mysql,
        Flavor::Mariadb => unitflow_mysql::Flavor::Mariadb,
    }
}

async fn load(conn: &mut Conn, flavor: Flavor, names: &[(&str, &str)]) -> Vec<Table> {
    let names: Vec<_> =
        names.iter().map(|(database, table)| ((*database).into(), (*table).into())).collect();
    schema::load(conn, kind(flavor), &names).await.unwrap()
}

/// The values of captured inserts, raw JSON, in order.
fn images(
    seen: &[(Seen, unitflow_change::position::Position)],
    columns: &[String],
) -> Vec<Vec<String>> {
    seen.iter()
        .filter_map(|(seen, _)| match seen {
            Seen::Row { value, .. } => {
                let envelope = Envelope::parse(value.as_bytes()).unwrap();
                let after = envelope.after.unwrap();
                Some(columns.iter().map(|column| after.get(column).unwrap().to_owned()).collect())
            }
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn captured_values_written_back_are_the_same() {
    for flavor in FLAVORS {
        let server = start(flavor).await;
        let mut conn = conn(&server).await;
        let cases = cases(flavor);
        let definitions: Vec<_> =
            cases.iter().enumerate().map(|(i, case)| format!("`v{i}` {}", case.0)).collect();
        let create = format!(
            "create table shop.t (id int primary key, {}) character set utf8mb4",
            definitions.join(", ")
        );
        run(
            &mut conn,
            [
                "create database shop character set utf8mb4",
                create.as_str(),
                "create table shop.copy like shop.t",
            ],
        )
        .await;
        let start = now(&mut conn).await;
        let rows = cases.iter().map(|case| case.2.len()).max().unwrap();
        for row in 0..=rows {
            let values: Vec<_> = cases
                .iter()
                .map(|case| if row == rows { "null" } else { case.2[row % case.2.len()] })
                .collect();
            run(
                &mut conn,
                [format!("insert into shop.t values ({row}, {})", values.join(", ")).as_str()],
            )
            .await;
        }
        let seen = read_after(&server, &start).await.unwrap();
        let table = load(&mut conn, flavor, &[("shop", "t")]).await.remove(0);
        let names: Vec<_> = table.columns.iter().map(|column| column.name.clone()).collect();
        let images = images(&seen, &names);
        assert_eq!(images.len(), rows + 1);
        let mut wrong = Vec::new();
        for (row, image) in images.iter().enumerate() {
            let literals: Vec<Vec<u8>> = table
                .columns
                .iter()
                .zip(image)
                .map(|(column, json)| {
                    let mut out = Vec::new();
                    write_literal(&mut out, column, json).unwrap();
                    out
                })
                .collect();
            let mut insert = b"insert into shop.copy values (".to_vec();
            insert.extend_from_slice(&literals.join(&b","[..]));
            insert.push(b')');
            conn.query_drop(insert)
                .await
                .unwrap_or_else(|error| panic!("{flavor:?} row {row}: {error}"));

            // Equal to its own literal, and to another row's just where the values are equal.
            let other = &images[(row + 1) % images.len()];
            for ((column, literal), (json, other)) in
                table.columns.iter().zip(&literals).zip(image.iter().zip(other))
            {
                let mut query = b"select ".to_vec();
                let mut name = Vec::new();
                quote_identifier(&mut name, &column.name);
                write_comparison(&mut query, column, &name, literal);
                let mut other_literal = Vec::new();
                write_literal(&mut other_literal, column, other).unwrap();
                query.extend_from_slice(b", ");
                write_comparison(&mut query, column, &name, &other_literal);
                query.extend_from_slice(format!(" from shop.t where id = {row}").as_bytes());
                let (same, differs): (bool, bool) = conn.query_first(query).await.unwrap().unwrap();
                if !same || differs != (json == other) {
                    wrong.push(format!(
                        "{:?}: {json:.60} is itself: {same}, is {other:.60}: {differs}",
                        column.kind
                    ));
                }
            }
        }
        assert!(wrong.is_empty(), "{flavor:?}\n{}", wrong.join("\n"));

        // The rows themselves, as bytes. Numbers inside JSON may have another type.
        for column in &table.columns {
            if column.kind == Type::Json {
                continue;
            }
            let name = &column.name;
            let query = format!(
                "select t.id, left(hex(cast(t.`{name}` as binary)), 80), left(hex(cast(c.`{name}` as binary)), 80) \
                 from shop.t t join shop.copy c using (id) where not cast(t.`{name}` as binary) <=> cast(c.`{name}` as binary)"
            );
            let differing: Vec<Row> = conn.query(query).await.unwrap();
            assert!(differing.is_empty(), "{flavor:?} {:?} {differing:?}", column.kind);
        }
        let count: Option<Value> =
            conn.query_first("select count(*) from shop.copy").await.unwrap();
        assert_eq!(count, Some(Value::Bytes((rows + 1).to_string().into_bytes())));
    }
}

#[tokio::test]
async fn collations_do_not_hide_differences() {
    for flavor in FLAVORS {
        let server = start(flavor).await;
        let mut conn = conn(&server).await;
        run(&mut conn, [
            "create database shop character set utf8mb4",
            "create table shop.t (a varchar(9) collate utf8mb4_general_ci, b varchar(9) character set latin1, c enum('x','X2'), d varchar(9) collate utf8mb4_bin)",
            "insert into shop.t values ('a', 'a', 'x', 'a')",
        ]).await;
        let table = load(&mut conn, flavor, &[("shop", "t")]).await.remove(0);
        for (column, own, others) in [
            (0, "\"a\"", ["\"A\"", "\"a \"", "\"á\""]),
            (1, "\"a\"", ["\"A\"", "\"a \"", "\"á\""]),
            (2, "\"x\"", ["\"X\"", "\"X2\"", "null"]),
            (3, "\"a\"", ["\"A\"", "\"a \"", "null"]),
        ] {
            let column = &table.columns[column];
            for (json, expected) in
                [(own, true)].into_iter().chain(others.map(|other| (other, false)))
            {
                let mut literal = Vec::new();
                write_literal(&mut literal, column, json).unwrap();
                let mut query = b"select ".to_vec();
                write_comparison(&mut query, column, column.name.as_bytes(), &literal);
                query.extend_from_slice(b" from shop.t");
                let (same,): (bool,) = conn.query_first(query).await.unwrap().unwrap();
                assert_eq!(same, expected, "{flavor:?} {} {json}", column.name);
            }
        }
    }
}

#[tokio::test]
async fn hostile_names_go_through() {
    let long = "x".repeat(64);
    let names = [
        "or`d\"er's; drop table t; -- ",
        "日本語 `",
        "a\\b\tc\n",
        long.as_str(),
        "select",
        "{\"}",
        "%s${x}",
    ];
    for flavor in FLAVORS {
        let server = start(flavor).await;
        let mut conn = conn(&server).await;
        let quoted = |name: &str| {
            let mut out = Vec::new();
            quote_identifier(&mut out, name);
            String::from_utf8(out).unwrap()
        };
        for name in names {
            // A database's name may not end in blanks.
            let (database, table) = (quoted(name.trim_end()), quoted(name.trim_end()));
            run(
                &mut conn,
                [
                    format!("create database {database} character set utf8mb4").as_str(),
                    format!(
                        "create table {database}.{table} ({table} int primary key, v varchar(300))"
                    )
                    .as_str(),
                ],
            )
            .await;
            let begin = now(&mut conn).await;
            run(&mut conn, [format!("insert into {database}.{table} values (1, null)").as_str()])
                .await;
            let seen = read_after(&server, &begin).await.unwrap();
            let Seen::Row { table: seen_table, key, .. } = &seen[0].0 else { panic!("{seen:?}") };
            let name = name.trim_end();
            assert_eq!(seen_table, &format!("{name}.{name}"));
            let parsed: serde_json::Value = serde_json::from_str(key).unwrap();
            assert_eq!(parsed, serde_json::json!([name, name, {name: 1}]));
            let loaded = load(&mut conn, flavor, &[(name, name)]).await.remove(0);
            assert_eq!(loaded.columns[0].name, name);
            assert_eq!(loaded.primary_key, [0]);
            // A value that is as hostile.
            let json = serde_json::to_string(name).unwrap();
            let mut update = format!("update {} set v = ", loaded.quoted()).into_bytes();
            write_literal(&mut update, &loaded.columns[1], &json).unwrap();
            conn.query_drop(update).await.unwrap();
            let (value,): (String,) = conn
                .query_first(format!("select v from {}", loaded.quoted()))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(value, name);
        }
    }
}

#[tokio::test]
async fn tables_are_seen_as_they_are() {
    for flavor in FLAVORS {
        let server = start(flavor).await;
        let mut conn = conn(&server).await;
        let invisible = if flavor == Flavor::Mysql9 {
            "hidden int invisible"
        } else {
            "hidden int invisible default 3"
        };
        let items = format!(
            "create table shop.items (name varchar(20) collate utf8mb4_bin, part int not null, id bigint unsigned not null auto_increment, \
             twice int as (part * 2) virtual, thrice int as (part * 3) stored, {invisible}, doc json, \
             primary key (id, part), unique key by_name (name(5)), unique key by_part (part, name))"
        );
        run(&mut conn, [
            "create database shop character set utf8mb4",
            items.as_str(),
            "create table shop.plain (a int) engine = myisam",
            "create table shop.child (id int primary key, item bigint unsigned, part int, \
             constraint fk foreign key (item, part) references shop.items (id, part) on delete cascade on update set null)",
            "create trigger shop.before_item before insert on shop.items for each row set new.name = 'x'",
        ]).await;
        let tables =
            load(&mut conn, flavor, &[("shop", "child"), ("shop", "items"), ("shop", "plain")])
                .await;
        let (child, items, plain) = (&tables[0], &tables[1], &tables[2]);
        assert_eq!(
            items.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(),
            ["name", "part", "id", "twice", "thrice", "hidden", "doc"]
        );
        assert_eq!(
            items.key_columns().map(|column| column.name.as_str()).collect::<Vec<_>>(),
            ["id", "part"]
        );
        assert_eq!(items.columns[2].kind, Type::Integer { bits: 64, unsigned: true });
        assert!(
            items.columns[2].counted && !items.columns[2].nullable && items.columns[0].nullable
        );
        assert_eq!(items.columns[3].generated, Some(Generated::Virtual));
        assert_eq!(items.columns[4].generated, Some(Generated::Stored));
        assert!(items.columns[5].invisible && !items.columns[4].invisible);
        match (&items.columns[6].kind, flavor) {
            (Type::Json, Flavor::Mysql9) | (Type::Text { json: true, .. }, Flavor::Mariadb) => {}
            other => panic!("{other:?}"),
        }
        assert!(matches!(items.columns[0].kind, Type::Text { json: false, .. }));
        assert_eq!(items.unique_keys.len(), 2);
        assert_eq!(
            (items.unique_keys[0].columns.as_slice(), items.unique_keys[0].partial),
            (&[0][..], true)
        );
        assert_eq!(
            (items.unique_keys[1].columns.as_slice(), items.unique_keys[1].partial),
            (&[1, 0][..], false)
        );
        assert_eq!(items.triggers, ["before_item"]);
        assert_eq!(items.children, child.parents);
        assert!(items.parents.is_empty());
        let key = &items.children[0];
        assert_eq!(
            (key.on_delete, key.on_update, key.cascades()),
            (Rule::Cascade, Rule::SetNull, true)
        );
        assert_eq!(key.child_columns, ["item", "part"]);
        assert_eq!(key.parent_columns, ["id", "part"]);
        assert_eq!((items.engine.as_str(), plain.engine.as_str()), ("InnoDB", "MyISAM"));
        assert!(plain.primary_key.is_empty());
        let fault = schema::load(&mut conn, kind(flavor), &[("shop".into(), "none".into())])
            .await
            .unwrap_err();
        assert!(fault.what.contains("shop.none"), "{fault}");
    }
}

/// MariaDB's documents are compared as documents: the other unit's server has a text of its own.
#[tokio::test]
async fn documents_are_equal_as_documents_and_no_others() {
    let server = start(Flavor::Mariadb).await;
    let mut conn = conn(&server).await;
    run(&mut conn, ["create database shop", "create table shop.t (doc json)"]).await;
    let table = load(&mut conn, Flavor::Mariadb, &[("shop", "t")]).await.remove(0);
    for (held, other, equal) in [
        (r#"{"b": 1, "a": [1,2]}"#, r#"{"a":[1, 2],"b":1}"#, true),
        (r#"[1.50, 1e2, "é"]"#, r#"[1.5, 100.0, "é"]"#, true),
        (r#"["a\n\\\"", 1]"#, r#"["a\n\\\"",1.0]"#, true),
        (r#"["a\n", [1, 2]]"#, r#"["a\n", [2, 1]]"#, false),
        ("[1]", "[[1]]", false),
        ("[1, [1]]", "[[1], 1]", false),
        ("[1, 2]", "[2, 1]", false),
        ("[1, 1, 2]", "[1, 2, 2]", false),
        (r#"{"a": [1]}"#, r#"{"a": [1, 1]}"#, false),
        (r#"["*/", 1]"#, r#"["*/",1]"#, true),
        (r#"["*/", 1]"#, r#"["*/",2]"#, false),
        ("null", "0", false),
    ] {
        let json = serde_json::to_string(other).unwrap();
        let mut query = b"select count(*) from shop.t where ".to_vec();
        write_equality(&mut query, &table.columns[0], b"doc", &json).unwrap();
        conn.query_drop("delete from shop.t").await.unwrap();
        conn.exec_drop("insert into shop.t values (?)", (held,)).await.unwrap();
        let found: Option<u64> = conn.query_first(query.as_slice()).await.unwrap();
        assert_eq!(found, Some(u64::from(equal)), "{held} and {other}");
    }
}

#[tokio::test]
async fn large_values_are_found_by_their_digest_and_no_others() {
    for flavor in FLAVORS {
        let server = start(flavor).await;
        let mut conn = conn(&server).await;
        // Of each type two values that differ in one place, and what else would be taken for equal:
        // another case, a space at the end.
        let cases = [
            ("longblob", "repeat(random_bytes(1000), 100)", "concat('x', {})"),
            (
                "longtext character set utf8mb4",
                "repeat('aé漢😀\\\'\"\\n\\\\', 20000)",
                "concat({}, 'x')",
            ),
            ("longtext character set utf8mb4", "repeat('aé', 50000)", "upper({})"),
            ("longtext character set utf8mb3", "repeat('aé漢', 50000)", "concat({}, ' ')"),
            ("longtext character set latin1", "repeat('aé', 50000)", "lower(concat({}, 'B'))"),
            ("longtext character set ascii", "repeat('ab', 50000)", "reverse({})"),
            ("json", "json_array(repeat('aé', 50000), 1.5)", "json_set({}, '$[1]', 2.5)"),
        ];
        let columns: Vec<_> =
            cases.iter().enumerate().map(|(i, (kind, ..))| format!("c{i} {kind}")).collect();
        let values: Vec<_> = cases.iter().map(|(_, value, _)| *value).collect();
        let changes: Vec<_> = cases
            .iter()
            .enumerate()
            .map(|(i, (.., change))| format!("c{i} = {}", change.replace("{}", &format!("c{i}"))))
            .collect();
        let create = format!("create table shop.t (id int primary key, {})", columns.join(", "));
        run(&mut conn, ["create database shop", &create]).await;
        let start = now(&mut conn).await;
        let insert = format!("insert into shop.t values (1, {})", values.join(", "));
        run(&mut conn, [insert.as_str()]).await;
        let seen = read_after(&server, &start).await.unwrap();
        let table = load(&mut conn, flavor, &[("shop", "t")]).await.remove(0);
        let names: Vec<_> = table.columns.iter().map(|column| column.name.clone()).collect();
        let image = images(&seen, &names).remove(0);
        let mut query = b"select 1".to_vec();
        for (column, json) in table.columns.iter().zip(&image).skip(1) {
            assert!(json.len() > 64 << 10, "{}", column.name);
            query.extend_from_slice(b", ");
            write_equality(&mut query, column, column.name.as_bytes(), json).unwrap();
        }
        let digests = String::from_utf8_lossy(&query).matches("SHA2(").count();
        assert_eq!(digests, cases.len() - 1, "{flavor:?}");
        query.extend_from_slice(b" from shop.t");
        let mut same = async |expected: &str| {
            let row: Row = conn.query_first(query.as_slice()).await.unwrap().unwrap();
            let found: Vec<i64> = (1..row.len()).map(|at| row.get(at).unwrap()).collect();
            assert!(
                found.iter().all(|found| found.to_string() == expected),
                "{flavor:?} {found:?}"
            );
        };
        same("1").await;
        server.sql(&format!("update shop.t set {}", changes.join(", "))).await.unwrap();
        same("0").await;
        let nulls: Vec<_> = (0..cases.len()).map(|i| format!("c{i} = null")).collect();
        server.sql(&format!("update shop.t set {}", nulls.join(", "))).await.unwrap();
        same("0").await;
    }
}

/// MariaDB hides what a foreign key does from who may only read, and then nobody may guess it.
#[tokio::test]
async fn a_foreign_key_that_is_hidden_is_no_foreign_key_that_restricts() {
    for flavor in FLAVORS {
        let server = start(flavor).await;
        let mut root = conn(&server).await;
        run(&mut root, [
            "create database shop",
            "create table shop.parent (id int primary key)",
            "create table shop.child (id int primary key, parent int, foreign key (parent) references shop.parent (id) on delete cascade)",
            "create user reader@'%' identified by ''",
            "grant select on shop.* to reader@'%'",
        ]).await;
        let store = unitflow_mysql::Store { user: "reader".into(), ..support::store(&server) };
        let child = [("shop".to_owned(), "child".to_owned())];
        let mut reader = unitflow_mysql::connect(&store).await.unwrap();
        match (flavor, schema::load(&mut reader, kind(flavor), &child).await) {
            (Flavor::Mysql9, Ok(tables)) => assert!(tables[0].parents[0].cascades()),
            (Flavor::Mariadb, Err(fault)) => {
                assert_eq!(fault.code, unitflow_change::Code::Grant, "{fault}");
                assert!(fault.hint.contains("GRANT TRIGGER ON `shop`.*"), "{fault}");
            }
            (_, other) => panic!("{flavor:?}: {other:?}"),
        }
        let parent = [("shop".to_owned(), "parent".to_owned())];
        assert!(schema::load(&mut reader, kind(flavor), &parent).await.is_ok(), "{flavor:?}");
        run(&mut root, ["grant trigger on shop.* to reader@'%'"]).await;
        let mut reader = unitflow_mysql::connect(&store).await.unwrap();
        let tables = schema::load(&mut reader, kind(flavor), &child).await.unwrap();
        assert!(tables[0].parents[0].cascades(), "{flavor:?}");
    }
}
