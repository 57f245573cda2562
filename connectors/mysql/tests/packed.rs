//! Logs in other forms than the plain one say the same: compressed events and transactions, partial
//! documents, statements in another character set.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use support::{FLAVORS, Seen, conn, now, read_after, run, start};
use unitflow_change::Code;
use unitflow_local::{Flavor, Mysql};

/// What statements leave in the log: all but names and places of transactions.
async fn log_of(server: &Mysql, conn: &mut Conn, statements: &[&str]) -> Vec<String> {
    let position = now(conn).await;
    run(conn, statements.iter().copied()).await;
    let seen = read_after(server, &position).await.unwrap();
    seen.into_iter()
        .map(|(seen, _)| match seen {
            Seen::Row { key, value, .. } => {
                let images = value.split(",\"source\":").next().unwrap();
                format!("{key} {images}")
            }
            Seen::Ddl { database, statement } => format!("{database} {statement}"),
            Seen::End(_) => "end".into(),
        })
        .collect()
}

#[tokio::test]
async fn packed_logs_say_the_same_as_plain_ones() {
    for flavor in FLAVORS {
        let server = start(flavor).await;
        let mut conn = conn(&server).await;
        run(&mut conn, ["create database shop character set utf8mb4"]).await;
        let statements = [
            "create table shop.t (id int primary key, b blob, j json) comment 'a comment that is long enough to be worth it'",
            "insert into shop.t values (1, repeat(X'00FF', 3000), '{\"a\": [1, {\"b\": \"0123456789\"}], \"long\": \"0123456789012345678901234567890123456789\"}')",
            "insert into shop.t select id + 1, b, j from shop.t",
            "update shop.t set j = json_set(j, '$.a[1].b', 'x', '$.new', json_array(1, 2)), b = 'c'",
            "update shop.t set j = json_remove(j, '$.a[0]') where id = 1",
            "update shop.t set j = null where id = 2",
            "delete from shop.t",
            "drop table shop.t",
        ];
        let plain = log_of(&server, &mut conn, &statements).await;
        assert!(plain.len() > 16, "{plain:?}");
        let packed: &[&str] = match flavor {
            Flavor::Mysql9 => &[
                "set binlog_row_value_options = 'PARTIAL_JSON'",
                "set binlog_transaction_compression = on",
            ],
            Flavor::Mariadb => {
                &["set global log_bin_compress = on", "set global log_bin_compress_min_len = 10"]
            }
        };
        for setting in packed {
            run(&mut conn, [*setting]).await;
            let log = log_of(&server, &mut conn, &statements).await;
            assert_eq!(log, plain, "{flavor:?} {setting}");
        }
        let names = server.mysqlbinlog([] as [&str; 0]).await.unwrap().to_lowercase();
        let wanted: &[&str] = match flavor {
            Flavor::Mysql9 => &["update_rows_partial", "transaction_payload"],
            Flavor::Mariadb => &["query_compressed"],
        };
        for wanted in wanted {
            assert!(names.contains(wanted), "{flavor:?} logged no {wanted}");
        }
    }
}

#[tokio::test]
async fn statements_in_another_character_set_are_read() {
    for flavor in FLAVORS {
        let server = start(flavor).await;
        let mut conn = conn(&server).await;
        run(&mut conn, ["create database shop character set utf8mb4", "use shop"]).await;
        for (charset, bytes, text) in [
            ("gbk", &b"\xba\xba\xd7\x5c"[..], "汉譢"),
            ("cp1251", b"\xcf\xf0\xe8", "При"),
            ("sjis", b"\x95\x5c\xb1", "表ｱ"),
            ("big5", b"\xb3\x5c", "許"),
        ] {
            let position = now(&mut conn).await;
            run(&mut conn, [format!("set names {charset}").as_str()]).await;
            let statement = [&b"create table c (id int comment '"[..], bytes, b"')"].concat();
            conn.query_drop(statement).await.unwrap();
            run(&mut conn, ["set names utf8mb4", "drop table c"]).await;
            let seen = read_after(&server, &position).await.unwrap();
            let Seen::Ddl { statement, .. } = &seen[0].0 else { panic!("{seen:?}") };
            assert_eq!(
                statement,
                &format!("create table c (id int comment '{text}')"),
                "{flavor:?}"
            );
        }
    }
}

#[tokio::test]
async fn times_in_the_old_format_are_refused() {
    let server = start(Flavor::Mariadb).await;
    let mut conn = conn(&server).await;
    run(&mut conn, ["create database shop", "set global mysql56_temporal_format = off"]).await;
    for (number, kind) in ["time", "datetime", "timestamp null", "time(3)"].iter().enumerate() {
        run(&mut conn, [format!("create table shop.t{number} (v {kind})").as_str()]).await;
        let position = now(&mut conn).await;
        run(&mut conn, [format!("insert into shop.t{number} values (null)").as_str()]).await;
        let fault = read_after(&server, &position).await.unwrap_err();
        assert_eq!(fault.code, Code::BinlogUnknown, "{kind}");
        assert!(fault.what.contains("before MySQL 5.6") && fault.hint.contains("FORCE"), "{fault}");
    }
}
