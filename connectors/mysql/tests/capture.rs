//! Going on from a position, and everything that forbids it.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use support::proxy::Proxy;
use support::{FLAVORS, Seen, conn, now, options, read, read_after, read_into, run, start, store};
use unitflow_change::envelope::Op;
use unitflow_change::fault::{Code, Fault, Kind};
use unitflow_change::position::{Digest, Position};
use unitflow_local::{Flavor, Mysql};
use unitflow_mysql::{Event, Server, Stream, Tls, connect};

/// Leaves out the connector's own clock.
fn without_clock(seen: &Seen) -> Seen {
    match seen {
        Seen::Row { table, op, key, value, moves } => {
            let value = value.rsplit_once(",\"ts_ms\":").unwrap().0.to_owned();
            Seen::Row { table: table.clone(), op: *op, key: key.clone(), value, moves: *moves }
        }
        other => other.clone(),
    }
}

async fn fault_of(server: &Mysql, position: &Position) -> Fault {
    match Stream::open(&store(server), position.clone(), options(4711)).await {
        Err(fault) => fault,
        Ok(_) => panic!("the position was taken"),
    }
}

/// A fault that only shows once events are read.
async fn fault_after(server: &Mysql, position: &Position) -> Fault {
    read_after(server, position).await.unwrap_err()
}

async fn prepared(flavor: Flavor) -> (Mysql, mysql_async::Conn, Position) {
    let server = start(flavor).await;
    let mut conn = conn(&server).await;
    run(
        &mut conn,
        ["create database shop", "create table shop.items (id int primary key, name varchar(50))"],
    )
    .await;
    let position = now(&mut conn).await;
    (server, conn, position)
}

#[tokio::test]
async fn goes_on_from_any_event_with_the_next() {
    for flavor in FLAVORS {
        let (server, mut conn, start) = prepared(flavor).await;
        run(
            &mut conn,
            [
                "insert into shop.items values (1,'a'),(2,'b'),(3,'c')",
                "begin",
                "update shop.items set name = 'x'",
                "savepoint one",
                "delete from shop.items where id = 2",
                "insert into shop.items values (9,'9')",
                "rollback to savepoint one",
                "insert into shop.items values (7,'z')",
                "commit",
                "create table shop.copy (id int primary key) select id from shop.items",
                "drop table shop.copy",
                "update shop.items set id = 8 where id = 7",
                "begin",
                "savepoint nothing",
                "commit",
            ],
        )
        .await;
        if flavor == Flavor::Mysql9 {
            run(
                &mut conn,
                [
                    "set binlog_transaction_compression = on",
                    "begin",
                    "insert into shop.items values (20, repeat('x', 50)), (21, repeat('x', 50))",
                    "delete from shop.items where id = 20",
                    "commit",
                    "set gtid_next = 'automatic:tagged'",
                    "insert into shop.items values (30, 'tag')",
                    "set gtid_next = 'automatic'",
                ],
            )
            .await;
        }
        let all = read_after(&server, &start).await.unwrap();
        let events: Vec<_> = all.iter().map(|(seen, _)| without_clock(seen)).collect();
        let rows = events.iter().filter(|seen| matches!(seen, Seen::Row { .. })).count();
        assert_eq!(rows, if flavor == Flavor::Mysql9 { 16 } else { 12 }, "{events:#?}");
        assert!(
            events.iter().any(|seen| matches!(seen, Seen::Row { op: Op::Update, moves: true, .. }))
        );
        for (i, (_, position)) in all.iter().enumerate() {
            let position = Position::from_json(position.to_json().as_bytes()).unwrap();
            let rest =
                read_after(&server, &position).await.unwrap_or_else(|fault| panic!("{i}: {fault}"));
            let rest: Vec<_> = rest.iter().map(|(seen, _)| without_clock(seen)).collect();
            assert_eq!(rest, events[i + 1..], "{flavor:?} after event {i}");
        }
    }
}

#[tokio::test]
async fn a_source_that_lost_what_was_captured_is_refused() {
    for flavor in FLAVORS {
        let (server, mut conn, _) = prepared(flavor).await;
        run(&mut conn, ["insert into shop.items values (1,'a'),(2,'b')"]).await;
        let start = now(&mut conn).await;
        run(&mut conn, ["insert into shop.items values (3,'a'),(4,'b'),(5,'c')"]).await;
        let all = read_after(&server, &start).await.unwrap();
        let (_, done) = all.last().unwrap().clone();
        let (_, half) = all[1].clone();

        // Another content under the same name.
        let mut other = done.clone();
        other.last.as_mut().unwrap().digest = Digest(1);
        let fault = fault_of(&server, &other).await;
        assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::SourceLostTail), "{fault}");
        let mut other = half.clone();
        other.open.as_mut().unwrap().digest = Digest(1);
        assert_eq!(fault_of(&server, &other).await.code, Code::SourceLostTail);
        let mut other = half.clone();
        other.open.as_mut().unwrap().rows = 9;
        assert_eq!(fault_of(&server, &other).await.code, Code::SourceLostTail);

        // Transactions that the server does not have.
        let beyond = match flavor {
            Flavor::Mysql9 => format!("{}:99", done.done),
            Flavor::Mariadb => {
                done.done.to_string().replace(&format!("-{}", last_number(&done)), "-99")
            }
        };
        let beyond = Position::after(beyond.parse().unwrap());
        let fault = fault_of(&server, &beyond).await;
        assert_eq!(fault.code, Code::SourceLostTail);
        assert!(fault.what.contains("99"), "{fault}");

        // Another kind of server, and one that was reset.
        let foreign = match flavor {
            Flavor::Mysql9 => "0-1-1",
            Flavor::Mariadb => "3e11fa47-71ca-11e1-9e33-c80aa9429562:1",
        };
        let foreign = Position::after(foreign.parse().unwrap());
        assert_eq!(fault_of(&server, &foreign).await.code, Code::PositionUnreadable);
        let reset = match flavor {
            Flavor::Mysql9 => "reset binary logs and gtids",
            Flavor::Mariadb => "reset master",
        };
        run(&mut conn, [reset]).await;
        let fault = fault_of(&server, &done).await;
        assert_eq!(fault.code, Code::SourceLostTail);
        assert!(fault.what.contains("reset"), "{fault}");
    }
}

#[tokio::test]
async fn tagged_transactions_are_gone_on_from_like_others() {
    let (server, mut conn, start) = prepared(Flavor::Mysql9).await;
    let uuid = conn.query_first::<String, _>("select @@server_uuid").await.unwrap().unwrap();
    let named = format!("set gtid_next = '{uuid}:blue:7'");
    run(
        &mut conn,
        [
            "set gtid_next = 'automatic:blue'",
            "insert into shop.items values (1,'a')",
            "begin",
            "insert into shop.items values (2,'b'),(3,'c')",
            "update shop.items set name = 'x'",
            "commit",
            "set gtid_next = 'automatic'",
            "insert into shop.items values (4,'d')",
            "set gtid_next = 'automatic:green_1'",
            "update shop.items set id = 5 where id = 4",
            // A number behind a hole, which numbers given later fill.
            &named,
            "insert into shop.items values (6,'f')",
            "set gtid_next = 'automatic:blue'",
            "delete from shop.items where id = 6",
        ],
    )
    .await;
    let all = read_after(&server, &start).await.unwrap();
    let names = all.iter().filter_map(|(seen, _)| match seen {
        Seen::End(name) => name.split_once(':'),
        _ => None,
    });
    let tagged: Vec<_> = names.map(|(_, name)| name).filter(|name| name.contains(':')).collect();
    assert_eq!(tagged, ["blue:1", "blue:2", "green_1:1", "blue:7", "blue:3"]);
    let events: Vec<_> = all.iter().map(|(seen, _)| without_clock(seen)).collect();
    for (i, (_, position)) in all.iter().enumerate() {
        let position = Position::from_json(position.to_json().as_bytes()).unwrap();
        let rest = read_after(&server, &position).await;
        let rest = rest.unwrap_or_else(|fault| panic!("after event {i}: {fault}"));
        let rest: Vec<_> = rest.iter().map(|(seen, _)| without_clock(seen)).collect();
        assert_eq!(rest, events[i + 1..], "after event {i}");
    }

    // What is behind a tag is judged like anything else: content, and what the server lacks.
    let (_, done) = all.last().unwrap();
    let mut other = done.clone();
    other.last.as_mut().unwrap().digest = Digest(1);
    assert_eq!(fault_of(&server, &other).await.code, Code::SourceLostTail);
    let beyond = format!("{},{uuid}:green_1:9", done.done);
    let fault = fault_of(&server, &Position::after(beyond.parse().unwrap())).await;
    assert_eq!(fault.code, Code::SourceLostTail);
    assert!(fault.what.contains("green_1:9"), "{fault}");
}

fn last_number(position: &Position) -> String {
    position.done.to_string().rsplit('-').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_purged_position_is_refused_and_a_purged_last_transaction_is_not() {
    for flavor in FLAVORS {
        let (server, mut conn, start) = prepared(flavor).await;
        run(&mut conn, ["insert into shop.items values (1,'a')"]).await;
        let (_, done) = read_after(&server, &start).await.unwrap().pop().unwrap();
        run(&mut conn, ["flush binary logs"]).await;
        let file: (String,) = match flavor {
            Flavor::Mysql9 => {
                conn.query_first::<mysql_async::Row, _>("show binary log status").await
            }
            Flavor::Mariadb => conn.query_first::<mysql_async::Row, _>("show master status").await,
        }
        .unwrap()
        .map(|row| (row.get(0).unwrap(),))
        .unwrap();
        // MariaDB keeps a file that it may need for recovery until a checkpoint has passed.
        let purge = format!("purge binary logs to '{}'", file.0);
        let since = Instant::now();
        loop {
            run(&mut conn, [purge.as_str()]).await;
            let logs: Vec<mysql_async::Row> = conn.query("show binary logs").await.unwrap();
            if logs.len() == 1 {
                break;
            }
            assert!(since.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        run(&mut conn, ["insert into shop.items values (2,'b')"]).await;
        let fault = match Stream::open(&store(&server), start, options(4711)).await {
            Err(fault) => fault,
            Ok(mut stream) => stream.next().await.map(|_| ()).unwrap_err(),
        };
        assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::PositionPurged), "{fault}");
        let rest = read_after(&server, &done).await.unwrap();
        assert_eq!(rest.len(), 2, "{rest:?}");
    }
}

#[tokio::test]
async fn an_idle_server_is_heard_and_a_frozen_one_is_noticed() {
    for flavor in FLAVORS {
        let (server, _conn, start) = prepared(flavor).await;
        let mut stream = Stream::open(&store(&server), start, options(4711)).await.unwrap();
        let since = Instant::now();
        for _ in 0..5 {
            assert!(matches!(stream.next().await.unwrap(), Event::Heartbeat));
        }
        assert!(
            since.elapsed() > Duration::from_millis(500)
                && since.elapsed() < Duration::from_secs(5)
        );
        server.suspend().await.unwrap();
        // Whoever asks may give up in between, again and again.
        let fault = loop {
            let asked = tokio::time::timeout(Duration::from_millis(300), stream.next()).await;
            if let Ok(Err(fault)) = asked {
                break fault;
            }
            assert!(since.elapsed() < Duration::from_secs(30));
        };
        assert_eq!((fault.kind, fault.code), (Kind::Retry, Code::Unreachable), "{fault}");
        assert!(fault.what.contains("silent"), "{fault}");
        server.resume().unwrap();
    }
}

#[tokio::test]
async fn what_sessions_set_against_the_rules_is_noticed() {
    for flavor in FLAVORS {
        let (server, mut conn, _) = prepared(flavor).await;
        let cases = vec![
            (
                vec![
                    "set binlog_row_image = 'MINIMAL'",
                    "update shop.items set name = 'b'",
                    "set binlog_row_image = 'FULL'",
                ],
                Code::RowImage,
                "binlog_row_image",
            ),
            (
                vec![
                    "set binlog_format = 'STATEMENT'",
                    "update shop.items set name = 'c'",
                    "set binlog_format = 'ROW'",
                ],
                Code::Setting,
                "binlog_format",
            ),
            (
                vec![
                    "set global binlog_row_metadata = 'MINIMAL'",
                    "update shop.items set name = 'd'",
                    "set global binlog_row_metadata = 'FULL'",
                ],
                Code::Setting,
                "binlog_row_metadata",
            ),
        ];
        run(&mut conn, ["insert into shop.items values (1,'a')"]).await;
        for (statements, code, text) in cases {
            let start = now(&mut conn).await;
            run(&mut conn, statements).await;
            let fault = fault_after(&server, &start).await;
            assert_eq!((fault.kind, fault.code), (Kind::Fatal, code), "{flavor:?} {fault}");
            assert!(fault.to_string().contains(text), "{flavor:?} {fault}");
            assert!(fault.what.contains("binlog.0"), "{fault}");
        }
    }
}

#[tokio::test]
async fn a_new_reader_displaces_the_old_one() {
    for flavor in FLAVORS {
        let (server, _conn, start) = prepared(flavor).await;
        let mut old = Stream::open(&store(&server), start.clone(), options(4711)).await.unwrap();
        let _ = old.next().await.unwrap();
        let mut new = Stream::open(&store(&server), start, options(4711)).await.unwrap();
        for _ in 0..3 {
            let _ = new.next().await.unwrap();
        }
        let fault = loop {
            if let Err(fault) = old.next().await {
                break fault;
            }
        };
        assert!(matches!(fault.code, Code::Fenced | Code::Unreachable), "{fault}");
    }
}

#[tokio::test]
async fn a_replica_has_the_same_transactions() {
    for flavor in FLAVORS {
        let (server, mut conn, _) = prepared(flavor).await;
        let replica = start(flavor).await;
        let mut other = support::conn(&replica).await;
        let follow = match flavor {
            Flavor::Mysql9 => vec![
                format!(
                    "change replication source to source_host='127.0.0.1', source_port={}, source_user='root', source_auto_position=1, get_source_public_key=1",
                    server.port()
                ),
                "start replica".into(),
            ],
            Flavor::Mariadb => vec![
                format!(
                    "change master to master_host='127.0.0.1', master_port={}, master_user='root', master_use_gtid=slave_pos",
                    server.port()
                ),
                "start slave".into(),
            ],
        };
        run(&mut other, follow.iter().map(String::as_str)).await;
        let begin = now(&mut conn).await;
        let big = "insert into shop.items select seq, repeat('x', 40) from (with recursive s(seq) as (select 100 union all select seq + 1 from s where seq < 700) select seq from s) t";
        run(
            &mut conn,
            [
                big,
                "update shop.items set name = 'y' where id < 150",
                "delete from shop.items where id > 600",
            ],
        )
        .await;
        let wanted = Server::read(&mut conn).await.unwrap().executed;
        let since = Instant::now();
        while !wanted.is_subset(&Server::read(&mut other).await.unwrap().executed) {
            assert!(since.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let all = read_after(&server, &begin).await.unwrap();
        // Half a transaction from one server, the rest from the other.
        for at in [300, all.len() - 1, all.len() - 20] {
            let rest = read_after(&replica, &all[at].1)
                .await
                .unwrap_or_else(|fault| panic!("{flavor:?} {fault}"));
            assert_eq!(rest.len(), all.len() - at - 1, "{flavor:?}");
            for ((one, _), (two, _)) in rest.iter().zip(&all[at + 1..]) {
                if let (Seen::Row { key: a, .. }, Seen::Row { key: b, .. }) = (one, two) {
                    assert_eq!(a, b);
                }
            }
        }
    }
}

#[tokio::test]
async fn cancelled_reads_lose_nothing() {
    let (server, mut conn, start) = prepared(Flavor::Mariadb).await;
    run(&mut conn, ["create table shop.u (id uuid primary key)", "insert into shop.u values ('123e4567-e89b-12d3-a456-426614174000'), ('123e4567-e89b-12d3-a456-426614174001')", "insert into shop.items values (1,'a')"]).await;
    let until = Server::read(&mut conn).await.unwrap().executed;
    let whole = read_after(&server, &start).await.unwrap();
    let mut stream = Stream::open(&store(&server), start, options(4711)).await.unwrap();
    let mut seen = Vec::new();
    while !until.is_subset(&stream.position().done) {
        // Polled once and dropped, again and again.
        let polled = tokio::time::timeout(Duration::ZERO, stream.next()).await;
        match polled {
            Ok(Ok(Event::Heartbeat)) => {}
            Ok(Ok(Event::Row(row))) => seen.push(String::from_utf8(row.key.to_vec()).unwrap()),
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => panic!("{fault}"),
            Err(_) => tokio::time::sleep(Duration::from_micros(200)).await,
        }
    }
    let rows: Vec<_> = whole
        .into_iter()
        .filter_map(|(seen, _)| match seen {
            Seen::Row { key, .. } => Some(key),
            _ => None,
        })
        .collect();
    assert_eq!(seen, rows);
    assert_eq!(rows.len(), 3);
}

#[tokio::test]
async fn a_stream_can_be_spawned() {
    fn sendable<T: Send>(_: &T) {}
    let (server, mut conn, start) = prepared(Flavor::Mysql9).await;
    let until = Server::read(&mut conn).await.unwrap().executed;
    let mut stream = Stream::open(&store(&server), start, options(4711)).await.unwrap();
    let future = read(&mut stream, &until);
    sendable(&future);
    assert!(future.await.unwrap().is_empty());
}

#[tokio::test]
async fn certificates_are_checked_unless_told_otherwise() {
    let server = start(Flavor::Mysql9).await;
    let mut store = store(&server);
    store.tls = Tls::NoVerify;
    let mut conn = connect(&store).await.unwrap();
    let (_, cipher): (String, String) =
        conn.query_first("show session status like 'Ssl_cipher'").await.unwrap().unwrap();
    assert!(!cipher.is_empty());
    let position = now(&mut conn).await;
    let mut stream = Stream::open(&store, position, options(4711)).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), Event::Heartbeat));
    store.tls = Tls::Verify { ca: None, hostname: None };
    let fault = connect(&store).await.unwrap_err();
    assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::Tls), "{fault}");
    store.tls = Tls::Off;
    store.user = "nobody".into();
    let fault = connect(&store).await.unwrap_err();
    assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::Denied), "{fault}");
}

/// Where the server goes away, half an event may have come: the driver reports that as an error
/// that no socket gives. It is neither lost nor taken for a broken log.
#[tokio::test]
async fn a_connection_that_ends_at_any_byte_is_tried_again_and_nothing_is_lost() {
    for flavor in FLAVORS {
        let (server, mut conn, start) = prepared(flavor).await;
        run(
            &mut conn,
            [
                "create table shop.long_ones (id int primary key, t longtext)",
                "begin",
                "insert into shop.items values (1,'a'),(2,'b'),(3,'c')",
                "insert into shop.long_ones values (1, repeat('x', 20000)), (2, 'y')",
                "delete from shop.items where id = 2",
                "commit",
                "insert into shop.items values (4,'d')",
            ],
        )
        .await;
        let until = Server::read(&mut conn).await.unwrap().executed;
        let proxy = Proxy::start(server.port()).await;
        let mut store = store(&server);
        store.endpoints = vec![("127.0.0.1".into(), proxy.port)];
        let open =
            async |position: &Position| Stream::open(&store, position.clone(), options(4711)).await;

        // How much the server sends before its log, and in all.
        let mut stream = open(&start).await.unwrap();
        let before = u64::MAX - proxy.left();
        let whole = read(&mut stream, &until).await.unwrap();
        let total = u64::MAX - proxy.left();
        drop(stream);
        let whole: Vec<_> = whole.iter().map(|(seen, _)| without_clock(seen)).collect();

        let mut halves = 0;
        for cut in (1..before).step_by(211).chain((before..total).step_by(499)) {
            proxy.allow(cut);
            let mut all = Vec::new();
            let fault = match open(&start).await {
                Ok(mut stream) => read_into(&mut all, &mut stream, &until).await.unwrap_err(),
                Err(fault) => fault,
            };
            assert_eq!(
                (fault.kind, fault.code),
                (Kind::Retry, Code::Unreachable),
                "{flavor:?} {cut} of {total}: {fault}"
            );
            halves += u32::from(fault.what.contains("in the middle of an event"));
            proxy.allow(u64::MAX);
            let position = all.last().map_or(&start, |(_, position)| position).clone();
            read_into(&mut all, &mut open(&position).await.unwrap(), &until).await.unwrap();
            let all: Vec<_> = all.iter().map(|(seen, _)| without_clock(seen)).collect();
            assert_eq!(all, whole, "{flavor:?} {cut} of {total}");
        }
        assert!(halves > 10, "{flavor:?} {halves}");
    }
}

#[tokio::test]
async fn a_large_event_on_a_slow_way_is_waited_for() {
    for flavor in FLAVORS {
        let (server, mut conn, start) = prepared(flavor).await;
        run(&mut conn, ["create table shop.large (id int primary key, body longblob)"]).await;
        run(&mut conn, ["insert into shop.large values (1, repeat(x'00ff', 4000000))"]).await;
        let double = "insert into shop.large select 2, concat(body, body) from shop.large";
        run(&mut conn, [double]).await;
        let until = Server::read(&mut conn).await.unwrap().executed;
        let proxy = Proxy::start(server.port()).await;
        let mut store = store(&server);
        store.endpoints = vec![("127.0.0.1".into(), proxy.port)];
        let mut stream = Stream::open(&store, start, options(4711)).await.unwrap();
        // 2 MB a second: longer than a server may be silent, and its heartbeats have to wait too.
        proxy.slow(Duration::from_millis(8));
        let begun = Instant::now();
        let seen = read(&mut stream, &until).await.unwrap_or_else(|fault| panic!("{fault}"));
        let rows = seen.iter().filter(|(seen, _)| matches!(seen, Seen::Row { .. })).count();
        assert_eq!(rows, 2, "{flavor:?}");
        assert!(begun.elapsed() > Duration::from_secs(7), "{:?}", begun.elapsed());
    }
}
