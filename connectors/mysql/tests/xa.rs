//! XA transactions on real servers: prepared now, committed later, over another connection and
//! after a restart of the reader.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use support::{FLAVORS, Seen, conn, now, options, read_after, run, start, store};
use unitflow_change::envelope::{Envelope, Op};
use unitflow_change::fault::{Code, Kind};
use unitflow_change::gtid::GtidSet;
use unitflow_change::position::Position;
use unitflow_local::{Flavor, Mysql};
use unitflow_mysql::{Event, Server, Stream};

async fn shop(flavor: Flavor) -> (Mysql, Conn, Position) {
    let server = start(flavor).await;
    let mut conn = conn(&server).await;
    run(
        &mut conn,
        ["create database shop", "create table shop.items (id int primary key, name varchar(60))"],
    )
    .await;
    let start = now(&mut conn).await;
    (server, conn, start)
}

/// Prepares on a connection that ends then, as an application's does that crashes.
async fn prepare(server: &Mysql, xid: &str, statements: &[&str]) {
    let mut other = conn(server).await;
    run(&mut other, [format!("xa start {xid}").as_str()]).await;
    run(&mut other, statements.iter().copied()).await;
    run(&mut other, [format!("xa end {xid}").as_str(), format!("xa prepare {xid}").as_str()]).await;
    other.disconnect().await.unwrap();
}

/// Commits or rolls back what another connection prepared, once the server has noticed that it is
/// gone.
async fn complete(conn: &mut Conn, statement: &str) {
    const UNKNOWN_XID: u16 = 1397;
    let tried = async {
        loop {
            match conn.query_drop(statement).await {
                Err(mysql_async::Error::Server(error)) if error.code == UNKNOWN_XID => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                done => break done,
            }
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(10), tried).await.unwrap();
    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

/// An event without the clock, and with the transaction that a row says it belongs to.
fn brief(seen: &Seen) -> String {
    match seen {
        Seen::Row { op, key, value, .. } => {
            let envelope = Envelope::parse(value.as_bytes()).unwrap();
            let source: serde_json::Value =
                serde_json::from_str(envelope.source.unwrap().get()).unwrap();
            let after = envelope.after.as_ref().and_then(|row| row.get("name")).unwrap_or("-");
            let (gtid, row) = (source["gtid"].as_str().unwrap(), &source["row"]);
            format!("{} {key} {after} {gtid} {row}", op.as_str())
        }
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn rows_come_with_the_commit_whenever_the_reader_restarts() {
    for flavor in FLAVORS {
        let (server, mut conn, start) = shop(flavor).await;
        run(&mut conn, ["insert into shop.items values (1,'a'),(2,'b'),(3,'c')"]).await;
        prepare(&server, "'one','x',7", &["update shop.items set name = 'one' where id in (1, 2)"])
            .await;
        prepare(&server, "'two'", &["delete from shop.items where id = 3"]).await;
        run(&mut conn, ["flush binary logs", "insert into shop.items values (4,'d')"]).await;
        complete(&mut conn, "xa rollback 'two'").await;
        run(&mut conn, ["insert into shop.items values (5,'e')"]).await;
        complete(&mut conn, "xa commit 'one','x',7").await;
        run(&mut conn, ["insert into shop.items values (6,'f')"]).await;
        // The same name again, and both at once; a savepoint; nothing at all.
        prepare(&server, "'one','x',7", &["insert into shop.items values (7,'g'),(8,'h')"]).await;
        run(
            &mut conn,
            [
                "xa start 'three'",
                "insert into shop.items values (9,'i')",
                "savepoint s",
                "insert into shop.items values (10,'j')",
                "rollback to savepoint s",
                "insert into shop.items values (11,'k')",
                "xa end 'three'",
                "xa commit 'three' one phase",
            ],
        )
        .await;
        complete(&mut conn, "xa commit 'one','x',7").await;
        run(
            &mut conn,
            [
                "xa start 'four'",
                "xa end 'four'",
                "xa prepare 'four'",
                "xa commit 'four'",
                "insert into shop.items values (12,'l')",
            ],
        )
        .await;
        if flavor == Flavor::Mysql9 {
            run(&mut conn, ["set global binlog_transaction_compression = on"]).await;
        }
        let long = "insert into shop.items values (13, repeat('m', 60))";
        prepare(&server, "'five'", &[long]).await;
        complete(&mut conn, "xa commit 'five'").await;
        // Several at once, committed in another order than they were prepared in.
        for (xid, id) in [("'six'", 14), ("'seven'", 15), ("'eight'", 16)] {
            let insert = format!("insert into shop.items values ({id}, 'n')");
            prepare(&server, xid, &[insert.as_str()]).await;
        }
        for xid in ["'seven'", "'eight'", "'six'"] {
            complete(&mut conn, &format!("xa commit {xid}")).await;
        }
        let all = read_after(&server, &start).await.unwrap();
        let events: Vec<_> = all.iter().map(|(seen, _)| brief(seen)).collect();
        let rows: Vec<_> = all
            .iter()
            .filter_map(|(seen, _)| match seen {
                Seen::Row { op, key, .. } => Some((*op, key.split(':').next_back().unwrap())),
                _ => None,
            })
            .collect();
        let expected = [
            (Op::Insert, "1"),
            (Op::Insert, "2"),
            (Op::Insert, "3"),
            (Op::Insert, "4"),
            (Op::Insert, "5"),
            (Op::Update, "1"),
            (Op::Update, "2"),
            (Op::Insert, "6"),
            (Op::Insert, "9"),
            (Op::Insert, "11"),
            (Op::Insert, "7"),
            (Op::Insert, "8"),
            (Op::Insert, "12"),
            (Op::Insert, "13"),
            (Op::Insert, "15"),
            (Op::Insert, "16"),
            (Op::Insert, "14"),
        ];
        let rows: Vec<_> = rows.iter().map(|(op, id)| (*op, id.trim_end_matches("}]"))).collect();
        assert_eq!(rows, expected, "{flavor:?} {events:#?}");
        // Each row says the transaction that ends behind it.
        let mut ended = "";
        for event in events.iter().rev() {
            match event.strip_prefix("End(\"") {
                Some(gtid) => ended = gtid.trim_end_matches("\")"),
                None => assert!(event.contains(ended), "{event} in {ended}"),
            }
        }
        let (_, last) = all.last().unwrap();
        assert_eq!(last.prepared, [], "{flavor:?}");
        assert!(all.iter().any(|(_, position)| position.prepared.len() == 3));
        for (i, (_, position)) in all.iter().enumerate() {
            let position = Position::from_json(position.to_json().as_bytes()).unwrap();
            let rest =
                read_after(&server, &position).await.unwrap_or_else(|fault| panic!("{i}: {fault}"));
            let rest: Vec<_> = rest.iter().map(|(seen, _)| brief(seen)).collect();
            assert_eq!(rest, events[i + 1..], "{flavor:?} after event {i}: {}", events[i]);
        }
    }
}

#[tokio::test]
async fn waits_that_are_given_up_lose_nothing() {
    for flavor in FLAVORS {
        let (server, mut conn, start) = shop(flavor).await;
        prepare(&server, "'x'", &["insert into shop.items values (1,'a'),(2,'b'),(3,'c')"]).await;
        let mut stream = Stream::open(&store(&server), start, options(4712)).await.unwrap();
        let mut keys = Vec::new();
        let (mut given_up, mut until) = (0, None);
        while until.as_ref().is_none_or(|until: &GtidSet| !until.is_subset(&stream.position().done))
        {
            // Polled once and dropped, again and again.
            match tokio::time::timeout(Duration::ZERO, stream.next()).await {
                Ok(event) => {
                    if let Event::Row(row) = event.unwrap() {
                        keys.push(String::from_utf8_lossy(row.key).into_owned());
                    }
                }
                Err(_) => {
                    given_up += 1;
                    // What is waited for comes only behind a wait that was given up.
                    match given_up {
                        1 => complete(&mut conn, "xa commit 'x'").await,
                        2 => {
                            run(&mut conn, ["insert into shop.items values (4,'d')"]).await;
                            until = Some(Server::read(&mut conn).await.unwrap().executed);
                        }
                        _ => tokio::time::sleep(Duration::from_micros(200)).await,
                    }
                }
            }
        }
        let expected: Vec<_> =
            (1..5).map(|id| format!("[\"shop\",\"items\",{{\"id\":{id}}}]")).collect();
        assert_eq!(keys, expected, "{flavor:?}");
        assert!(given_up >= 2, "{flavor:?}: no wait was given up");
    }
}

#[tokio::test]
async fn what_is_no_longer_in_the_log_is_told() {
    for flavor in FLAVORS {
        let (server, mut conn, start) = shop(flavor).await;
        run(&mut conn, ["insert into shop.items values (1,'a')"]).await;
        prepare(&server, "'x'", &["insert into shop.items values (2,'b')"]).await;
        let behind = read_after(&server, &start).await.unwrap().pop().unwrap().1;
        assert_eq!(behind.prepared.len(), 1);
        // A capture that begins now does not know it.
        let fresh = now(&mut conn).await;
        run(&mut conn, ["flush binary logs", "insert into shop.items values (3,'c')"]).await;
        run(&mut conn, ["flush binary logs"]).await;
        complete(&mut conn, "xa commit 'x'").await;
        let fault = read_after(&server, &fresh).await.unwrap_err();
        assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::PositionMissing), "{fault}");
        assert_eq!(read_after(&server, &behind).await.unwrap().len(), 4, "{flavor:?}");

        // Another transaction under its name.
        let mut other = behind.clone();
        other.prepared[0].transaction.rows = 2;
        let fault = read_after(&server, &other).await.unwrap_err();
        assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::SourceLostTail), "{fault}");

        // MariaDB keeps a file that it may need for recovery until a checkpoint has passed.
        let purged = async {
            loop {
                let logs: Vec<mysql_async::Row> = conn.query("show binary logs").await.unwrap();
                let name = |row: &mysql_async::Row| row.get::<String, _>(0).unwrap();
                if logs.len() == 2 {
                    break;
                }
                let keep = name(&logs[logs.len() - 2]);
                run(&mut conn, [format!("purge binary logs to '{keep}'").as_str()]).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), purged).await.unwrap();
        let fault = read_after(&server, &behind).await.unwrap_err();
        assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::PositionPurged), "{fault}");
        assert!(fault.what.contains("XA"), "{fault}");
    }
}
