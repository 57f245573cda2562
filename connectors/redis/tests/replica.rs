//! A real server as its replica sees it: its snapshot rebuilt in another server, and its writes behind that.

#![allow(clippy::unwrap_used, reason = "a fault of the test itself")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use support::{WITHIN, behind_snapshot, events, goes_on, open, run, setup, store};
use tokio::runtime::Handle;
use tokio::task::block_in_place;
use unitflow_change::Code;
use unitflow_local::{Redis, RedisFlavor};
use unitflow_redis::rdb::Part;
use unitflow_redis::rebuild::Rebuild;
use unitflow_redis::{Command, Connection, Event, Opened, Options, Position, Store, Stream, Tls};

/// Of each type and each way that Redis 7 keeps it, in three databases.
async fn fill(redis: &Redis) -> anyhow::Result<()> {
    run(
        redis,
        r#"SET empty ""
        SET number 12345
        SET negative -7
        SET large 9223372036854775807
        SETRANGE bits 100000 x
        SETBIT bits 77 1
        PFADD distinct a b c d
        GEOADD places 13.361389 38.115556 palermo 15.087269 37.502669 catania
        SADD tiny 1 -2 3
        SADD wide 70000 -70000
        SADD widest 5000000000 -5000000000
        SADD words one two
        ZADD scores 1 one 1.5 two -inf three inf four 3e300 five
        HSET user name anna age 41 empty ""
        RPUSH list one 2 -3 4000 -50000 6000000 -7000000000 8000000000000000000
        SET expires soon PXAT 4102444800123
        HSET expiring a b
        PEXPIREAT expiring 4102444800456
        XADD log 1-1 name anna age 41
        XADD log 1-2 name bert age 42
        XADD log 5-0 other field more fields
        XADD log 5-1 name carl age 43
        XDEL log 1-2
        XADD log 9-9 gone soon
        XDEL log 9-9
        XGROUP CREATE log readers 0
        XGROUP CREATE log others $ ENTRIESREAD 3
        XREADGROUP GROUP readers anna COUNT 2 STREAMS log >
        XREADGROUP GROUP readers bert COUNT 1 STREAMS log >
        XGROUP CREATECONSUMER log readers idle
        XGROUP CREATE bare waiting $ MKSTREAM
        SELECT 3
        SET here three
        SELECT 9
        SET here nine
        SET there too
        SELECT 0"#,
    )
    .await?;
    let mut client = Connection::open(&store(redis)).await?;
    let long = "x".repeat(9_000);
    for (name, first) in [("RPUSH", "long-list"), ("SADD", "long-set"), ("HSET", "long-hash")] {
        for chunk in 0..20 {
            let mut command = Command::of([name, first]);
            for place in 0..50 {
                command.push(format!("element {chunk} {place}"));
                if name == "HSET" {
                    command.push(format!("value {place}"));
                }
            }
            client.ask(&command).await?;
        }
        let mut command = Command::of([name, first, &long]);
        if name == "HSET" {
            command.push("of a long name");
        }
        client.ask(&command).await?;
    }
    let mut sorted = Command::of(["ZADD", "long-sorted"]);
    for place in 0..500 {
        sorted.push(format!("{}", f64::from(place) / 7.0));
        sorted.push(format!("member {place}"));
    }
    client.ask(&sorted).await?;
    for number in 0..500 {
        let id = format!("100-{number}");
        let text = format!("text {number}");
        client.ask(&Command::of(["XADD", "long-log", &id, "number", "1", "text", &text])).await?;
    }
    // One that is compressed well, one that can't be, one of both; all longer than a piece.
    let noise: Vec<u8> =
        (0..700_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mixed = [&noise[..300_000], "abcdefgh".repeat(50_000).as_bytes(), &noise].concat();
    let names: [&[u8]; 3] = [b"dense", b"noise", b"\x00mixed\xff"];
    for (name, value) in names.iter().zip(["abc".repeat(400_000).into_bytes(), noise, mixed]) {
        client.ask(&Command::of([b"SET", *name, &value])).await?;
    }
    Ok(())
}

/// Makes what a snapshot holds in another server; gives how many keys it announced, and how many came.
async fn rebuild(from: &Redis, to: &Redis) -> anyhow::Result<(u64, u64)> {
    let Opened::Full(snapshot) = open(from, None).await? else { bail!("it goes on") };
    let mut client = Connection::open(&store(to)).await?;
    let (mut key, mut rebuild) = (None, Rebuild::new(""));
    let (mut announced, mut keys) = (0, 0);
    let mut parts = Vec::new();
    snapshot
        .read(|part| {
            parts.push(part);
            Ok(())
        })
        .await?;
    for part in parts {
        match part {
            Part::Note(..) => {}
            Part::Sizes { keys, .. } => announced += keys,
            Part::Function(library) => {
                client.ask(&Command::of([b"FUNCTION", &b"LOAD"[..], &library])).await?;
            }
            Part::Key(begun) => {
                client.ask(&Command::of(["SELECT", &begun.database.to_string()])).await?;
                rebuild = Rebuild::new(begun.name.clone());
                key = Some(begun);
                keys += 1;
            }
            Part::Piece(piece) => {
                for command in rebuild.add(&piece) {
                    client.ask(&command).await?;
                }
            }
            Part::End => {
                if let Some(command) = rebuild.end() {
                    client.ask(&command).await?;
                }
                let key = key.take().unwrap();
                if let Some(ms) = key.expires_ms {
                    let mut command = Command::of([b"PEXPIREAT", &key.name[..]]);
                    command.push(ms.to_string());
                    client.ask(&command).await?;
                }
            }
        }
    }
    Ok((announced, keys))
}

#[tokio::test]
async fn a_snapshot_is_rebuilt_elsewhere_whole() {
    for flavor in RedisFlavor::ALL {
        for (diskless, compressed) in [("yes", "yes"), ("no", "no")] {
            let source = setup(flavor).setting("repl-diskless-sync", diskless);
            let source = source.setting("rdbcompression", compressed).start().await.unwrap();
            let target = setup(flavor).start().await.unwrap();
            fill(&source).await.unwrap();
            let library = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
            source.cli(["FUNCTION", "LOAD", library]).await.unwrap();
            if flavor == RedisFlavor::Redis8 {
                let few = "HSET few a 1 b 2 c 3\nHPEXPIREAT few 4102444800123 FIELDS 2 a c";
                let many = "HPEXPIREAT long-hash 4102444800456 FIELDS 1 listed\n";
                let many = format!("HSET long-hash listed 1\n{many}");
                run(&source, &format!("{few}\n{many}")).await.unwrap();
            }
            let (announced, keys) = rebuild(&source, &target).await.unwrap();
            assert_eq!(announced, keys);
            assert!(keys > 25, "{keys} keys");
            same(&source, &target).await.unwrap();
            if flavor == RedisFlavor::Redis8 {
                for question in ["few FIELDS 3 a b c", "long-hash FIELDS 1 listed"] {
                    let question = format!("HPEXPIRETIME {question}");
                    let (one, other) = tokio::join!(
                        source.cli(question.split(' ')),
                        target.cli(question.split(' '))
                    );
                    let one = one.unwrap();
                    assert!(one.contains("41024448"), "{one}");
                    assert_eq!(one, other.unwrap());
                }
            }
        }
    }
}

/// Whether two servers hold the same, by what they say themselves.
async fn same(one: &Redis, other: &Redis) -> anyhow::Result<()> {
    for question in [
        "DEBUG DIGEST",
        "PEXPIRETIME expires",
        "PEXPIRETIME expiring",
        "PTTL number",
        "FUNCTION LIST",
        "XINFO STREAM log",
        "XINFO GROUPS log",
        "XPENDING log readers - + 10 anna",
        "XINFO STREAM bare",
        "XINFO GROUPS bare",
    ] {
        let (one, other) =
            (one.cli(question.split(' ')).await?, other.cli(question.split(' ')).await?);
        // How a stream is laid out in memory, and for how long an entry has been pending.
        let kept = |text: String| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if let Some(place) = lines.iter().position(|line| line == "radix-tree-keys") {
                lines.drain(place..place + 4);
            }
            if question.starts_with("XPENDING") {
                let mut place = 0;
                lines.retain(|_| {
                    place += 1;
                    place % 4 != 3
                });
            }
            lines
        };
        ensure!(kept(one.clone()) == kept(other.clone()), "{question}:\n{one}\n---\n{other}");
    }
    Ok(())
}

#[tokio::test]
async fn writes_come_in_order_with_their_databases_and_transactions() {
    for flavor in RedisFlavor::ALL {
        let redis = setup(flavor).start().await.unwrap();
        let mut stream = behind_snapshot(&redis).await.unwrap();
        run(
            &redis,
            "SET a 1
        SELECT 3
        SET b 2
        MULTI
        INCR b
        SELECT 5
        SET c 3
        EXEC
        MULTI
        SET only one
        EXEC
        EVAL redis.call('SET','d',1);redis.call('SET','e',2) 0
        SET last 1",
        )
        .await
        .unwrap();
        let expected = "0: SET a 1\nend\n3: SET b 2\nend\n3: INCR b\n5: SET c 3\nend\n5: SET only one\nend\n\
                    5: SET d 1\n5: SET e 2\nend\n5: SET last 1\nend\n";
        assert_eq!(events(&mut stream, "last").await.unwrap(), expected);
        assert_eq!(stream.position().database, 5);
        let info = redis.cli(["INFO", "replication"]).await.unwrap();
        assert!(
            info.contains(&format!("master_repl_offset:{}", stream.position().offset)),
            "{info}"
        );
        // It announces no port under which it could be elected.
        assert!(info.contains("slave0:ip=127.0.0.1,port=0,state=online"), "{info}");
    }
}

#[tokio::test]
async fn a_stream_goes_on_where_it_stood() {
    for flavor in RedisFlavor::ALL {
        let redis = setup(flavor).start().await.unwrap();
        let mut stream = behind_snapshot(&redis).await.unwrap();
        run(&redis, "SELECT 4\nSET a 1\nMULTI\nSET b 2\nSET c 3\nEXEC\nSET d 4\nSET e 5")
            .await
            .unwrap();
        let mut positions = Vec::new();
        let mut all = Vec::new();
        for _ in 0..4 {
            positions.push(stream.position().clone());
            let mut one = String::new();
            while !one.ends_with("end\n") {
                match stream.next().await.unwrap() {
                    Event::Command(database, command) => {
                        one.push_str(&format!(
                            "{database} {}\n",
                            String::from_utf8_lossy(command.word(1))
                        ));
                    }
                    Event::End => one.push_str("end\n"),
                    Event::Alive => {}
                }
            }
            all.push(one);
        }
        assert_eq!(all, ["4 a\nend\n", "4 b\n4 c\nend\n", "4 d\nend\n", "4 e\nend\n"]);
        drop(stream);
        for (place, position) in positions.iter().enumerate().rev() {
            let mut stream = goes_on(&redis, position).await.unwrap();
            let found = events(&mut stream, "SET e").await.unwrap();
            let ends = found.matches("end\n").count();
            assert_eq!(ends, 4 - place, "{found}");
            assert!(found.lines().all(|line| line == "end" || line.starts_with("4: ")), "{found}");
        }
    }
}

#[tokio::test]
async fn what_is_acknowledged_counts_as_replicated() {
    for flavor in RedisFlavor::ALL {
        let redis = setup(flavor).start().await.unwrap();
        let mut stream = behind_snapshot(&redis).await.unwrap();
        run(&redis, "SET a 1").await.unwrap();
        events(&mut stream, "SET a").await.unwrap();
        let mut client = Connection::open(&store(&redis)).await.unwrap();
        client.ask(&Command::of(["SET", "b", "2"])).await.unwrap();
        events(&mut stream, "SET b").await.unwrap();
        // It asks for it in the stream, where nothing is safe yet.
        let waiting = async { client.ask(&Command::of(["WAIT", "1", "1500"])).await.unwrap() };
        let reading = async { tokio::time::timeout(Duration::from_secs(2), stream.next()).await };
        let (counted, _) = tokio::join!(waiting, reading);
        assert_eq!(counted, b"0");
        stream.acknowledge(&stream.position().clone());
        assert_eq!(client.ask(&Command::of(["WAIT", "1", "5000"])).await.unwrap(), b"1");
    }
}

#[tokio::test]
async fn a_failover_changes_the_history_and_the_stream_goes_on() {
    for flavor in RedisFlavor::ALL {
        let (old, new) =
            (setup(flavor).start().await.unwrap(), setup(flavor).start().await.unwrap());
        new.cli(["REPLICAOF", "127.0.0.1", &old.port().to_string()]).await.unwrap();
        let mut stream = behind_snapshot(&old).await.unwrap();
        run(&old, "SELECT 2\nSET a 1\nSET b 2").await.unwrap();
        events(&mut stream, "SET b").await.unwrap();
        let deadline = tokio::time::Instant::now() + WITHIN;
        while new.cli(["-n", "2", "GET", "b"]).await.unwrap() != "2" {
            assert!(tokio::time::Instant::now() < deadline, "the replica does not catch up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let position = stream.position().clone();
        old.kill().await.unwrap();
        let lost = events(&mut stream, "SET c").await.unwrap_err();
        assert!(format!("{lost:#}").contains("closed the connection"), "{lost:#}");
        new.cli(["REPLICAOF", "NO", "ONE"]).await.unwrap();
        run(&new, "SELECT 2\nSET c 3").await.unwrap();
        let mut stream = goes_on(&new, &position).await.unwrap();
        assert_ne!(stream.position().history, position.history);
        assert_eq!(stream.position().offset, position.offset);
        assert_eq!(events(&mut stream, "SET c").await.unwrap(), "2: SET c 3\nend\n");
    }
}

#[tokio::test]
async fn a_position_that_the_server_no_longer_keeps_gives_a_snapshot() {
    for flavor in RedisFlavor::ALL {
        let redis = setup(flavor).setting("repl-backlog-size", "16384").start().await.unwrap();
        let stream = behind_snapshot(&redis).await.unwrap();
        let position = stream.position().clone();
        drop(stream);
        let value = "x".repeat(20_000);
        run(&redis, &format!("SET a {value}\nSET b {value}")).await.unwrap();
        for from in [
            position.clone(),
            Position { offset: position.offset + 1_000_000, ..position.clone() },
            Position { history: "f".repeat(40), ..position },
        ] {
            let Opened::Full(snapshot) = open(&redis, Some(&from)).await.unwrap() else {
                panic!("it goes on behind {from:?}")
            };
            let mut keys = 0;
            let count = |part| {
                keys += u32::from(matches!(part, Part::Key(_)));
                Ok(())
            };
            snapshot.read(count).await.unwrap();
            assert_eq!(keys, 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_cut_is_no_snapshot() {
    for flavor in RedisFlavor::ALL {
        let redis = setup(flavor).setting("rdbcompression", "no").start().await.unwrap();
        let mut client = Connection::open(&store(&redis)).await.unwrap();
        let value = vec![b'x'; 1 << 20];
        for key in 0..64 {
            client.ask(&Command::of([b"SET", key.to_string().as_bytes(), &value])).await.unwrap();
        }
        let Opened::Full(snapshot) = open(&redis, None).await.unwrap() else {
            panic!("it goes on")
        };
        let mut seen = 0;
        let outcome = snapshot
            .read(|part| {
                seen += u32::from(matches!(part, Part::Key(_)));
                if seen == 3 && redis.pid().is_some() {
                    block_in_place(|| Handle::current().block_on(redis.kill())).unwrap();
                }
                Ok(())
            })
            .await;
        let fault = outcome.err().expect("it was read to its end");
        assert_eq!((fault.code, fault.is_retry()), (Code::Unreachable, true), "{fault}");
        assert!(seen < 64, "all was there before");
    }
}

#[tokio::test]
async fn a_user_needs_few_rights_and_the_right_password() {
    for flavor in RedisFlavor::ALL {
        let redis = setup(flavor).start().await.unwrap();
        run(
            &redis,
            "ACL SETUSER capture on >secret +psync +replconf +time +info
        ACL SETUSER other on >secret +time +info",
        )
        .await
        .unwrap();
        let as_user = |user: &str, password: &str| Store {
            user: Some(user.into()),
            password: Some(password.to_owned().into()),
            ..store(&redis)
        };
        let opened = Stream::open(&as_user("capture", "secret"), None, Options::default()).await;
        assert!(matches!(opened, Ok(Opened::Full(_))));
        for (user, password, code) in [
            ("capture", "wrong", Code::Denied),
            ("nobody", "secret", Code::Denied),
            ("other", "secret", Code::Grant),
        ] {
            let fault =
                Stream::open(&as_user(user, password), None, Options::default()).await.err();
            let fault = fault.expect("it was let in");
            assert_eq!(fault.code, code, "{fault}");
            assert!(fault.what.contains("A.cache at 127.0.0.1:"), "{fault}");
            assert!(!fault.to_string().contains("secret"), "{fault}");
        }
        redis.stop().await.unwrap();
        let fault = Stream::open(&store(&redis), None, Options::default()).await.err().unwrap();
        assert_eq!((fault.code, fault.is_retry()), (Code::Unreachable, true), "{fault}");
    }
}

/// A certificate authority, and a server of 127.0.0.1 that it vouches for; gives the authority's file.
async fn encrypted(flavor: RedisFlavor, folder: &Path) -> anyhow::Result<(Redis, PathBuf, u16)> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "test");
    let authority = authority.self_signed(&authority_key)?;
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned(), "cache.test".to_owned()])?;
    let server = server.signed_by(&key, &authority, &authority_key)?;
    for (name, text) in [
        ("ca.pem", authority.pem()),
        ("server.pem", server.pem()),
        ("key.pem", key.serialize_pem()),
    ] {
        fs::write(folder.join(name), text)?;
    }
    let at = |name: &str| folder.join(name).display().to_string();
    let port = unitflow_local::free_port()?;
    let redis = setup(flavor)
        .setting("tls-port", port)
        .setting("tls-ca-cert-file", at("ca.pem"))
        .setting("tls-cert-file", at("server.pem"))
        .setting("tls-key-file", at("key.pem"))
        .setting("tls-auth-clients", "no")
        .start()
        .await?;
    Ok((redis, folder.join("ca.pem"), port))
}

#[tokio::test]
async fn certificates_are_checked_unless_told_otherwise() {
    for flavor in RedisFlavor::ALL {
        let folder = tempfile::tempdir().unwrap();
        let (redis, ca, port) = encrypted(flavor, folder.path()).await.unwrap();
        let with =
            |tls| Store { endpoints: vec![("127.0.0.1".into(), port)], tls, ..store(&redis) };
        let verify = |hostname: Option<&str>| Tls::Verify {
            ca: Some(ca.clone()),
            hostname: hostname.map(str::to_owned),
        };
        for tls in [verify(None), verify(Some("cache.test")), Tls::NoVerify] {
            let opened = Stream::open(&with(tls), None, Options::default()).await;
            let Ok(Opened::Full(snapshot)) = opened else {
                panic!("{flavor:?} does not let us in")
            };
            snapshot.read(|_| Ok(())).await.unwrap();
        }
        for tls in [Tls::Verify { ca: None, hostname: None }, verify(Some("other.test"))] {
            let fault = Stream::open(&with(tls), None, Options::default()).await.err();
            let fault = fault.expect("its certificate was taken for right");
            assert_eq!((fault.code, fault.is_retry()), (Code::Tls, false), "{fault}");
        }
        let missing = Tls::Verify { ca: Some(folder.path().join("none.pem")), hostname: None };
        let fault = Stream::open(&with(missing), None, Options::default()).await.err().unwrap();
        assert_eq!(fault.code, Code::Config, "{fault}");
        // The server closes what does not begin with a handshake.
        let fault = Stream::open(&with(Tls::Off), None, Options::default()).await.err().unwrap();
        assert_eq!((fault.code, fault.is_retry()), (Code::Unreachable, true), "{fault}");
    }
}
