//! Keys read from real servers at one moment, and rebuilt in another.

#![allow(clippy::unwrap_used, reason = "a fault of the test itself")]

mod support;

use std::collections::HashSet;

use anyhow::ensure;
use support::{behind_snapshot, run, setup, store};
use unitflow_change::Code;
use unitflow_local::{Redis, RedisFlavor};
use unitflow_redis::chunk::{Found, Name, Reader, Wanted};
use unitflow_redis::rebuild::Rebuild;
use unitflow_redis::{Command, Connection, Event};

const MARKER: &[u8] = b"unitflow:marker:A.cache";

/// Of each type, in two databases, with a text that is larger than what is read at once.
async fn fill(redis: &Redis) -> anyhow::Result<()> {
    run(
        redis,
        "SET text one
         SETRANGE large 3000000 end
         SET expires soon PXAT 4102444800123
         HSET user name anna age 41
         RPUSH list one 2 -3 4000
         SADD words one two
         ZADD scores 1 one 1.5 two -inf three
         XADD log 1-1 name anna
         XGROUP CREATE log readers 0
         XREADGROUP GROUP readers anna COUNT 1 STREAMS log >
         SELECT 3
         SET text three
         SET unitflow:ledger:B.cache:0 seven",
    )
    .await
}

/// All keys of a server, by scans of a few at a time.
async fn scanned(reader: &mut Reader) -> anyhow::Result<HashSet<Name>> {
    let mut all = HashSet::new();
    let (run, sizes) = reader.sizes().await?;
    ensure!(run.len() == 40, "{run:?}");
    for (database, _) in sizes {
        let mut cursor = 0;
        loop {
            let (next, keys) = reader.scan(database, cursor, 2).await?;
            all.extend(keys.into_iter().map(|key| (database, key)));
            if next == 0 {
                break;
            }
            cursor = next;
        }
    }
    Ok(all)
}

#[tokio::test]
async fn keys_are_read_and_rebuilt_whole() {
    for flavor in RedisFlavor::ALL {
        let source = setup(flavor).start().await.unwrap();
        let target = setup(flavor).start().await.unwrap();
        fill(&source).await.unwrap();
        source.cli(["SET", "known", "yes"]).await.unwrap();
        let mut reader = Reader::open(&store(&source)).await.unwrap();
        let mut keys: Vec<Name> = scanned(&mut reader).await.unwrap().into_iter().collect();
        assert_eq!(keys.len(), 11);
        let sizes = reader.memory(&keys).await.unwrap();
        assert!(sizes.iter().all(|size| *size > 0), "{sizes:?}");
        let large = keys.iter().position(|(_, key)| key == b"large").unwrap();
        assert!(sizes[large] > 3_000_000, "{sizes:?}");
        assert_eq!(reader.memory(&[(0, b"nobody".to_vec())]).await.unwrap(), [0]);
        keys.push((3, b"nobody".to_vec()));
        keys.push((0, b"nobody".to_vec()));
        let wanted = Wanted {
            marker: (MARKER.to_vec(), 7),
            texts: vec![b"known".to_vec(), b"unknown".to_vec()],
            keys,
        };
        let mut stream = behind_snapshot(&source).await.unwrap();
        let mut answer = reader.ask(wanted).await.unwrap();
        assert_eq!(answer.texts().await.unwrap(), [Some(b"yes".to_vec()), None]);
        let mut commands: Vec<(u32, Command)> = Vec::new();
        let mut rebuild = Rebuild::new("");
        let (mut expires, mut gone) = (None, 0);
        let values = answer.values(|(database, key), found| {
            match found {
                Found::Key { expires_ms } => {
                    rebuild = Rebuild::new(key.clone());
                    expires = expires_ms;
                }
                Found::Piece(piece) => {
                    commands.extend(rebuild.add(&piece).into_iter().map(|made| (*database, made)));
                }
                Found::End => {
                    commands.extend(rebuild.end().map(|made| (*database, made)));
                    if let Some(ms) = expires {
                        let ms = ms.to_string();
                        let made = Command::of([b"PEXPIREAT", &key[..], ms.as_bytes()]);
                        commands.push((*database, made));
                    }
                }
                Found::Gone => gone += 1,
            }
            Ok(())
        });
        let mut reader = values.await.unwrap();
        assert_eq!(gone, 2);
        let mut client = Connection::open(&store(&target)).await.unwrap();
        for (database, command) in commands {
            let database = database.to_string();
            client.ask(&Command::of(["SELECT", &database])).await.unwrap();
            client.ask(&command).await.unwrap();
        }
        source.cli(["DEL", "unitflow:marker:A.cache"]).await.unwrap();
        let digest = async |of: &Redis| of.cli(["DEBUG", "DIGEST"]).await.unwrap();
        assert_eq!(digest(&source).await, digest(&target).await, "{flavor:?}");
        // The marker stands in the stream, and the connection is as it was.
        loop {
            if let Event::Command(0, command) = stream.next().await.unwrap() {
                assert_eq!(*command, Command::of([b"SET", MARKER, b"7"]));
                break;
            }
        }
        assert_eq!(scanned(&mut reader).await.unwrap().len(), 11);
    }
}

#[tokio::test]
async fn a_user_without_the_right_gets_a_word() {
    let redis = setup(RedisFlavor::Redis7).start().await.unwrap();
    let user = ["ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-dump"];
    redis.cli(user).await.unwrap();
    let mut store = store(&redis);
    (store.user, store.password) = (Some("reader".into()), Some("secret".to_owned().into()));
    let reader = Reader::open(&store).await.unwrap();
    let keys = vec![(0, b"k".to_vec())];
    let wanted = Wanted { marker: (MARKER.to_vec(), 1), texts: Vec::new(), keys };
    let fault = reader.ask(wanted).await.err().unwrap();
    assert_eq!(fault.code, Code::Grant, "{fault}");
}
