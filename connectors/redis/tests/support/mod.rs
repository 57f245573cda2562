//! Real servers and what these tests do with them.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::time::Duration;

use anyhow::{Context as _, bail};
use unitflow_local::{Redis, RedisFlavor, RedisSetup};
use unitflow_redis::{Command, Connection, Event, Opened, Options, Position, Store, Stream, Tls};

/// Nothing takes longer to arrive.
pub const WITHIN: Duration = Duration::from_secs(20);

/// How a server is reached.
pub fn store(redis: &Redis) -> Store {
    Store {
        name: "A.cache".into(),
        endpoints: vec![("127.0.0.1".into(), redis.port())],
        user: None,
        password: None,
        tls: Tls::Off,
    }
}

/// A server that tells a digest of what it holds.
pub fn setup(flavor: RedisFlavor) -> RedisSetup {
    Redis::setup().flavor(flavor).setting("enable-debug-command", "yes")
}

/// Runs commands, one a line; words are parted by blanks, and `""` is an empty one.
pub async fn run(redis: &Redis, script: &str) -> anyhow::Result<()> {
    let mut client = Connection::open(&store(redis)).await?;
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        client
            .ask(&Command::of(line.split(' ').map(|word| word.trim_matches('"'))))
            .await
            .with_context(|| line.to_owned())?;
    }
    Ok(())
}

/// What a server gives behind a position.
pub async fn open(redis: &Redis, from: Option<&Position>) -> anyhow::Result<Opened> {
    Ok(Stream::open(&store(redis), from, Options::default()).await?)
}

/// The stream behind a snapshot, of which only the end is of interest.
pub async fn behind_snapshot(redis: &Redis) -> anyhow::Result<Stream> {
    match open(redis, None).await? {
        Opened::Full(snapshot) => Ok(snapshot.read(|_| Ok(())).await?),
        Opened::Continued(_) => bail!("it goes on behind nothing"),
    }
}

/// The stream behind a position that the server still keeps.
pub async fn goes_on(redis: &Redis, from: &Position) -> anyhow::Result<Stream> {
    match open(redis, Some(from)).await? {
        Opened::Continued(stream) => Ok(stream),
        Opened::Full(_) => bail!("it does not go on"),
    }
}

/// The next events as text, one a line, until one of them has this word.
pub async fn events(stream: &mut Stream, last: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    loop {
        let event = tokio::time::timeout(WITHIN, stream.next()).await;
        match event.with_context(|| format!("{last} does not come:\n{text}"))?? {
            Event::Command(database, command) => {
                let words: Vec<_> = command.words().map(String::from_utf8_lossy).collect();
                text.push_str(&format!("{database}: {}\n", words.join(" ")));
            }
            Event::End => {
                text.push_str("end\n");
                if text.contains(last) {
                    return Ok(text);
                }
            }
            Event::Alive => {}
        }
    }
}
