//! Every command by which a server's data change, and what its replicas get of it.

#![allow(clippy::unwrap_used, reason = "a fault of the test itself")]

mod support;

use std::collections::BTreeSet;

use support::{behind_snapshot, events, run, setup};
use unitflow_local::RedisFlavor;
use unitflow_redis::Command;
use unitflow_redis::commands::{Arrives, form, form_of, name_of};

/// What is run, each line behind the one before; then what arrives of it, where that is not the same: `~` is any
/// number of digits, `||` parts what different servers make of it.
const WRITTEN: &[(&str, &str)] = &[
    // Texts and bits.
    ("SET t 1", ""),
    ("SETNX u 1", ""),
    ("SETEX v 1000 x", "SET v x PXAT ~"),
    ("PSETEX v 1000000 x", "SET v x PXAT ~"),
    ("SET v y EX 1000", "SET v y PXAT ~"),
    ("SET v z KEEPTTL", ""),
    ("GETEX v EX 2000", "PEXPIREAT v ~"),
    ("GETEX v PERSIST", "PERSIST v"),
    ("GETSET t 2", "SET t 2"),
    ("GETDEL u", "DEL u"),
    ("APPEND t 3", ""),
    ("SETRANGE t 1 9", ""),
    ("INCR t", ""),
    ("INCRBY t 2", ""),
    ("DECR t", ""),
    ("DECRBY t 2", ""),
    ("INCRBYFLOAT t 1.5", "SET t 30.5 KEEPTTL"),
    ("MSET a 1 b 2", ""),
    ("MSETNX c 1 d 2", ""),
    ("SETBIT bits 7 1", ""),
    ("BITFIELD bits SET u8 0 200", ""),
    ("BITOP NOT tibs bits", ""),
    // Keys.
    ("COPY a e", ""),
    ("RENAME e f", ""),
    ("RENAMENX f g", ""),
    ("EXPIRE a 1000", "PEXPIREAT a ~"),
    ("PEXPIRE a 1000000", "PEXPIREAT a ~"),
    ("EXPIREAT a 4102444800", "PEXPIREAT a 4102444800000"),
    ("PEXPIREAT a 4102444800001", ""),
    ("PERSIST a", ""),
    ("MOVE b 1", ""),
    ("DEL c", ""),
    ("UNLINK d", ""),
    // Lists.
    ("RPUSH l 1 2 3 4 5 6 7 8 9", ""),
    ("LPUSH l 0", ""),
    ("LPUSHX l x", ""),
    ("RPUSHX l y", ""),
    ("LINSERT l BEFORE 5 z", ""),
    ("LSET l 0 first", ""),
    ("LREM l 1 z", ""),
    ("LPOP l", ""),
    ("RPOP l 1", ""),
    ("LMOVE l m LEFT RIGHT", ""),
    ("RPOPLPUSH l m", ""),
    ("LMPOP 1 l LEFT COUNT 2", "LPOP l 2"),
    ("BLPOP l 0", "LPOP l"),
    ("BRPOP l 0", "RPOP l"),
    ("BLMOVE l m LEFT LEFT 0", "LMOVE l m LEFT LEFT"),
    ("BRPOPLPUSH m l 0", "RPOPLPUSH m l"),
    ("BLMPOP 0 1 m RIGHT", "RPOP m 1"),
    ("LTRIM l 0 0", ""),
    // Sets.
    ("SADD s 1 2 3 4", ""),
    ("SADD s2 3", ""),
    ("SREM s 4", ""),
    ("SMOVE s s2 2", ""),
    ("SPOP s2 2", "DEL s2||UNLINK s2"),
    ("SDIFFSTORE s3 s s2", ""),
    ("SINTERSTORE s4 s s3", ""),
    ("SUNIONSTORE s5 s s3", ""),
    ("SORT s STORE sorted", ""),
    // Sorted sets.
    ("ZADD z 1 a 2 b 3 c 4 d 5 e 6 f 7 g 8 h 9 i", ""),
    ("ZINCRBY z 1.5 a", ""),
    ("ZREM z i", ""),
    ("ZREMRANGEBYRANK z 0 0", ""),
    ("ZREMRANGEBYSCORE z 3 3", ""),
    ("ZUNIONSTORE z2 2 z z WEIGHTS 1 0", ""),
    ("ZINTERSTORE z3 1 z", ""),
    ("ZDIFFSTORE z4 1 z", ""),
    ("ZRANGESTORE z5 z 0 -1", ""),
    ("ZREMRANGEBYLEX z5 - [a", ""),
    ("ZPOPMIN z", ""),
    ("ZPOPMAX z", ""),
    ("ZMPOP 1 z MIN", "ZPOPMIN z 1"),
    ("BZPOPMIN z 0", "ZPOPMIN z"),
    ("BZPOPMAX z 0", "ZPOPMAX z"),
    ("BZMPOP 0 1 z MAX", "ZPOPMAX z 1"),
    // Hashes.
    ("HSET h a 1 b 2", ""),
    ("HMSET h c 3", ""),
    ("HSETNX h d 4", ""),
    ("HINCRBY h a 5", ""),
    ("HINCRBYFLOAT h a 0.5", "HSET h a 6.5||HSETEX h KEEPTTL FIELDS 1 a 6.5"),
    ("HDEL h d", ""),
    // Places, estimates.
    (
        "GEOADD geo 13.361389 38.115556 palermo",
        "zadd geo 3479099956230698 palermo||ZADD geo 3479099956230698 palermo",
    ),
    ("GEOSEARCHSTORE geo2 geo FROMMEMBER palermo BYRADIUS 9 km", ""),
    ("GEORADIUS geo 13 38 200 km STORE geo3", ""),
    ("GEORADIUSBYMEMBER geo palermo 1 km STORE geo4", ""),
    ("PFADD p a b", ""),
    ("PFADD p2 c", ""),
    ("PFMERGE p p2", ""),
    ("PFCOUNT p", ""),
    // Streams.
    ("XADD x 1-1 f v", ""),
    ("XADD x * f v", "XADD x ~-~ f v"),
    ("XADD x MAXLEN ~ 1000 * f v", "XADD x MAXLEN = ~ ~-~ f v"),
    ("XGROUP CREATE x g 0", ""),
    ("XGROUP CREATECONSUMER x g c", ""),
    (
        "XREADGROUP GROUP g c COUNT 1 STREAMS x >",
        "XCLAIM x g c 0 1-1 TIME ~ RETRYCOUNT 1 FORCE JUSTID LASTID 1-1||\
         XCLAIM x g c 0 1-1 TIME ~ RETRYCOUNT 1 FORCE JUSTID LASTID 1-1\nXGROUP SETID x g 1-1 ENTRIESREAD 1",
    ),
    ("XCLAIM x g d 0 1-1", "XCLAIM x g d 0 1-1 TIME ~ RETRYCOUNT 2 FORCE JUSTID LASTID 1-1"),
    ("XAUTOCLAIM x g c 0 0", "XCLAIM x g c 0 1-1 TIME ~ RETRYCOUNT 3 FORCE JUSTID LASTID 1-1"),
    ("XACK x g 1-1", ""),
    ("XGROUP SETID x g 0", ""),
    ("XGROUP DELCONSUMER x g d", ""),
    ("XGROUP DESTROY x g", ""),
    ("XDEL x 1-1", ""),
    ("XTRIM x MAXLEN 1", ""),
    ("XSETID x 9999999999999-0", ""),
    // Scripts and functions are their effects.
    ("EVAL return{redis.call('SET','t',1),redis.call('INCR','t')} 0", "SET t 1\nINCR t"),
    ("FUNCTION FLUSH", ""),
    // More than keys.
    ("PUBLISH channel message", ""),
    ("SPUBLISH channel message", ""),
    ("SWAPDB 0 1", ""),
    ("FLUSHDB", ""),
    ("FLUSHALL", ""),
];

/// The same of what Redis 7 does not have: fields that expire.
const FIELDS: &[(&str, &str)] = &[
    ("HSET of-fields a 1 b 2 c 3 d 4 e 5 f 6", ""),
    ("HEXPIRE of-fields 1000 FIELDS 1 a", "HPEXPIREAT of-fields ~ FIELDS 1 a"),
    ("HPEXPIRE of-fields 1000000 FIELDS 1 b", "HPEXPIREAT of-fields ~ FIELDS 1 b"),
    ("HEXPIREAT of-fields 4102444800 FIELDS 1 c", "HPEXPIREAT of-fields 4102444800000 FIELDS 1 c"),
    ("HPEXPIREAT of-fields 4102444800001 FIELDS 1 d", ""),
    ("HPERSIST of-fields FIELDS 1 d", ""),
    ("HGETDEL of-fields FIELDS 1 e", "HDEL of-fields e||HGETDEL of-fields FIELDS 1 e"),
    ("HGETEX of-fields EX 1000 FIELDS 1 f", "HPEXPIREAT of-fields ~ FIELDS 1 f"),
    ("HSETEX of-fields EX 1000 FIELDS 2 g 7 h 8", "HSETEX of-fields PXAT ~ FIELDS 2 g 7 h 8"),
];

/// Of Valkey alone.
const VALKEY: &[(&str, &str)] = &[
    ("SET k v", ""),
    ("SET k w IFEQ v", ""),
    ("DELIFEQ k w", "DEL k"),
    ("MSETEX 2 k 1 k2 2 EX 1000", "MSETEX 2 k 1 k2 2 PXAT ~"),
];

fn written(flavor: RedisFlavor) -> Vec<(&'static str, &'static str)> {
    let (mut fields, mut valkey) = (FIELDS, VALKEY);
    if flavor == RedisFlavor::Redis7 {
        fields = &[];
    }
    if flavor != RedisFlavor::Valkey {
        valkey = &[];
    }
    // FLUSHALL comes last.
    [fields, valkey, WRITTEN].concat()
}

/// Of which no example is a line of words, or none is wanted.
const ELSEWHERE: [&str; 8] = [
    // Payloads and sources of functions have blanks.
    "RESTORE",
    "FUNCTION|LOAD",
    "FUNCTION|RESTORE",
    "FUNCTION|DELETE",
    // Between nodes of a Cluster, for the server's own tests, and between two servers.
    "RESTORE-ASKING",
    "CLUSTER|FLUSHSLOT",
    "PFDEBUG",
    "MIGRATE",
];

#[tokio::test]
async fn each_write_arrives_as_the_table_says() {
    let mut arrived = BTreeSet::new();
    for flavor in RedisFlavor::ALL {
        let redis = setup(flavor).start().await.unwrap();
        let mut stream = behind_snapshot(&redis).await.unwrap();
        let mut wrong = Vec::new();
        for (given, expected) in written(flavor) {
            run(&redis, given).await.unwrap();
            run(&redis, "SELECT 15\nSET end-of-example 1").await.unwrap();
            let expected = if expected.is_empty() { given } else { expected };
            let found = events(&mut stream, "end-of-example").await.unwrap();
            let found: Vec<&str> = found
                .lines()
                .filter(|line| *line != "end" && !line.ends_with("SET end-of-example 1"))
                .map(|line| line.split_once(": ").unwrap().1)
                .collect();
            if !expected.split("||").any(|expected| fits(&found.join("\n"), expected)) {
                wrong.push(format!("{given}: {found:?}, not {expected:?}"));
            }
            for found in &found {
                let command = Command::of(found.split(' '));
                match form(&command).and_then(|known| Ok((known, known.keys(&command)?))) {
                    Ok((known, keys)) => {
                        if keys.is_empty() != (known.arrives == Arrives::Policy) {
                            wrong.push(format!("{found} has the keys {keys:?}"));
                        }
                    }
                    Err(fault) => wrong.push(format!("{given}: {found}: {fault}")),
                }
            }
            arrived.extend(found.iter().map(|found| name_of(&Command::of(found.split(' ')))));
        }
        assert!(wrong.is_empty(), "{flavor:?}\n{}", wrong.join("\n"));
    }
    // What arrives as it was given, at least from one of the servers, is said to arrive.
    for (given, _) in written(RedisFlavor::Valkey) {
        let name = name_of(&Command::of(given.split(' ')));
        let arrives = form_of(&name).map(|form| form.arrives != Arrives::No);
        assert_eq!(arrives, Some(arrived.contains(&name)), "{name}");
    }
}

/// Whether a text is as expected, where `~` is any digits.
fn fits(found: &str, expected: &str) -> bool {
    let (mut found, mut expected) = (found, expected);
    while let Some((head, tail)) = expected.split_once('~') {
        let Some(rest) = found.strip_prefix(head) else { return false };
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return false;
        }
        (found, expected) = (&rest[digits..], tail);
    }
    found == expected
}

#[tokio::test]
async fn no_command_that_writes_is_missing() {
    for flavor in RedisFlavor::ALL {
        let redis = setup(flavor).start().await.unwrap();
        // The server's own list, by categories: its answer has too many parts for a line.
        let mut all: BTreeSet<String> = BTreeSet::new();
        for category in ["write", "pubsub", "scripting"] {
            let listed =
                redis.cli(["COMMAND", "LIST", "FILTERBY", "ACLCAT", category]).await.unwrap();
            all.extend(listed.lines().map(|name| name.to_ascii_uppercase()));
        }
        let mut missing = Vec::new();
        for name in &all {
            // A read of these categories is none of ours: the server says which command may write.
            let reads = [
                "SUBSCRIBE",
                "PUBSUB",
                "_RO",
                "|KILL",
                "|HELP",
                "|LIST",
                "|SHOW",
                "|DUMP",
                "|STATS",
                "|EXISTS",
                "|DEBUG",
            ];
            if reads.iter().any(|part| name.contains(part))
                || ["FUNCTION", "SCRIPT", "XGROUP"].contains(&name.as_str())
            {
                continue;
            }
            let shown = written(flavor)
                .iter()
                .any(|(given, _)| name_of(&Command::of(given.split(' '))) == *name);
            let scripts =
                ["EVALSHA", "FCALL", "SCRIPT|LOAD", "SCRIPT|FLUSH"].contains(&name.as_str());
            if form_of(name).is_none() || !(shown || scripts || ELSEWHERE.contains(&name.as_str()))
            {
                missing.push(name.clone());
            }
        }
        assert!(missing.is_empty(), "{flavor:?}: no word of {missing:?}");
        assert!(all.len() > 100, "the server lists {all:?}");
    }
}
