//! A Sentinel that watches a primary never takes its reader for a replica that could take the primary's place.

#![allow(clippy::unwrap_used, reason = "a fault of the test itself")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::ensure;
use support::{WITHIN, behind_snapshot, run, setup, store};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use unitflow_local::{Redis, RedisFlavor};
use unitflow_redis::{Opened, Options, Position, Stream};

/// A failover takes no longer.
const FAILS_OVER_WITHIN: Duration = Duration::from_secs(40);

/// A Sentinel, and what it logs. Dropping it ends it.
struct Sentinel {
    _process: Child,
    log: PathBuf,
    _folder: TempDir,
}

impl Sentinel {
    /// Watches a primary alone.
    fn of(primary: &Redis) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (config, log) = (folder.path().join("sentinel.conf"), folder.path().join("log"));
        let lines = [
            "port 0".to_owned(),
            format!("unixsocket {}", folder.path().join("socket").display()),
            format!("logfile {}", log.display()),
            format!("sentinel monitor cache 127.0.0.1 {} 1", primary.port()),
            "sentinel down-after-milliseconds cache 1000".to_owned(),
            "sentinel failover-timeout cache 4000".to_owned(),
        ];
        fs::write(&config, lines.join("\n"))?;
        let process = Command::new(primary.program()?)
            .arg(&config)
            .arg("--sentinel")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self { _process: process, log, _folder: folder })
    }

    /// Waits until it logs this.
    async fn says(&self, text: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + FAILS_OVER_WITHIN;
        loop {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            if said.contains(text) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the Sentinel does not say {text:?}:\n{said}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Reads a stream for as long as this is kept, and acknowledges it, as a connector does.
fn read_on(mut stream: Stream) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        while stream.next().await.is_ok() {
            stream.acknowledge(&stream.position().clone());
        }
    }))
}

/// How many replicas the primary counts.
async fn wait_for_replicas(primary: &Redis, count: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + WITHIN;
    let wanted = format!("connected_slaves:{count}");
    while !primary.cli(["INFO", "replication"]).await?.contains(&wanted) {
        ensure!(Instant::now() < deadline, "the primary has not {count} replicas");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_alone_is_not_elected() {
    let primary = setup(RedisFlavor::Redis7).start().await.unwrap();
    let _reading = read_on(behind_snapshot(&primary).await.unwrap());
    wait_for_replicas(&primary, 1).await.unwrap();
    let sentinel = Sentinel::of(&primary).unwrap();
    sentinel.says("+monitor master cache").await.unwrap();
    primary.kill().await.unwrap();
    sentinel.says("-failover-abort-no-good-slave master cache").await.unwrap();
}

#[tokio::test]
async fn a_replica_is_elected_beside_a_reader_that_goes_on() {
    for flavor in [RedisFlavor::Redis8, RedisFlavor::Valkey] {
        let primary = setup(flavor).start().await.unwrap();
        let replica = setup(flavor).start().await.unwrap();
        replica.cli(["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await.unwrap();
        let mut stream = behind_snapshot(&primary).await.unwrap();
        run(&primary, "SET a 1").await.unwrap();
        support::events(&mut stream, "SET a").await.unwrap();
        let position: Position = stream.position().clone();
        let reading = read_on(stream);
        wait_for_replicas(&primary, 2).await.unwrap();
        let sentinel = Sentinel::of(&primary).unwrap();
        sentinel.says(&format!("+slave slave 127.0.0.1:{}", replica.port())).await.unwrap();
        primary.kill().await.unwrap();
        let switched = format!("127.0.0.1 {} 127.0.0.1 {}", primary.port(), replica.port());
        sentinel.says(&format!("+switch-master cache {switched}")).await.unwrap();
        drop(reading);
        // The store is configured with both.
        let mut both = store(&primary);
        both.endpoints.push(("127.0.0.1".into(), replica.port()));
        run(&replica, "SET b 2").await.unwrap();
        let opened = Stream::open(&both, Some(&position), Options::default()).await.unwrap();
        let Opened::Continued(mut stream) = opened else { panic!("it does not go on") };
        let text = support::events(&mut stream, "SET b").await.unwrap();
        assert_eq!(text.matches("SET").count(), 1, "{text}");
    }
}
