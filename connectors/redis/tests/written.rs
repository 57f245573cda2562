//! Every command by which a server's data change, and what its replicas get of it.

#![allow(clippy::unwrap_used, reason = "a fault of the test itself")]

mod examples;
mod support;

use std::collections::BTreeSet;

use examples::written;
use support::{behind_snapshot, events, run, setup};
use unitflow_local::RedisFlavor;
use unitflow_redis::Command;
use unitflow_redis::commands::{Arrives, form, form_of, name_of};

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
