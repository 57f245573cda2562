//! Prepared data folders, the sources and targets that are cloned from them, and the comparison.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Command;
use tokio::time::timeout;
use unitflow_harness::{Flavor, Mysql};
use unitflow_local::{TempDir, new_folder};
use xxhash_rust::xxh3::xxh3_64;

use crate::backlog::{self, DATABASE, TABLES};
use crate::words::progress;

/// Nothing that is asked of a server takes longer.
const STATEMENT: Duration = Duration::from_secs(120);

/// The prepared data folder of each flavour.
#[derive(Debug, Default)]
pub struct Clones(Vec<(Flavor, TempDir)>);

impl Clones {
    /// The folder of this flavour, made when it is asked for first: seeded, stopped in order, with an
    /// empty binlog and no identity.
    pub async fn of(&mut self, flavor: Flavor) -> anyhow::Result<PathBuf> {
        if let Some((_, folder)) = self.0.iter().find(|(of, _)| *of == flavor) {
            return Ok(folder.path().join("data"));
        }
        let server = Mysql::setup(flavor).start().await?;
        progress(&format!("preparing {}", version(&server).await?));
        backlog::seed(&server).await?;
        server.sql(reset(flavor)).await?;
        server.stop().await?;
        let folder = new_folder("prepared")?;
        let data = folder.path().join("data");
        server.copy_data_to(&data).await?;
        remove_identity(&data)?;
        self.0.push((flavor, folder));
        Ok(data)
    }
}

/// Binlogs and GTIDs as of a server that has never written.
fn reset(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::Mysql9 => "RESET BINARY LOGS AND GTIDS",
        Flavor::Mariadb => "RESET MASTER",
    }
}

/// MySQL makes a new one; a replica must not have its source's.
fn remove_identity(data: &Path) -> anyhow::Result<()> {
    match fs::remove_file(data.join("auto.cnf")) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("remove auto.cnf"),
        _ => Ok(()),
    }
}

/// What the server says it is.
async fn version(server: &Mysql) -> anyhow::Result<String> {
    let name = match server.flavor() {
        Flavor::Mysql9 => "MySQL",
        Flavor::Mariadb => "MariaDB",
    };
    Ok(format!("{name} {}", query(server, "SELECT VERSION()").await?))
}

/// Runs statements by the server's own client, in bounded time.
pub async fn query(server: &Mysql, sql: &str) -> anyhow::Result<String> {
    Ok(timeout(STATEMENT, server.sql(sql)).await.with_context(|| format!("{sql} hangs"))??)
}

/// A server with a backlog.
#[derive(Debug)]
pub struct Source {
    /// The server.
    pub server: Mysql,
}

impl Source {
    /// Clones it.
    pub async fn start(flavor: Flavor, prepared: PathBuf) -> anyhow::Result<Self> {
        // Its own durability is nobody's concern: this only shortens the preparation.
        let setup = Mysql::setup(flavor).setting("innodb_flush_log_at_trx_commit", 0);
        let server = setup.start().await?;
        server.restore_from(&prepared).await?;
        Ok(Self { server })
    }

    /// Writes the backlog.
    pub async fn write(&self, rows: u64, rows_each: u64) -> anyhow::Result<u64> {
        progress(&format!(
            "writing {rows} rows in transactions of {rows_each} to {}",
            version(&self.server).await?
        ));
        backlog::write(&self.server, rows, rows_each).await
    }

    /// What differs between the two, as their own clients print it.
    pub async fn compare(&self, target: &Target) -> anyhow::Result<Vec<String>> {
        let mut differences = Vec::new();
        for table in TABLES {
            let sql = format!("SELECT * FROM {DATABASE}.{table} ORDER BY id");
            let (here, there) =
                tokio::try_join!(query(&self.server, &sql), query(&target.server, &sql))?;
            let sums = [&here, &there].map(|text| (text.lines().count(), xxh3_64(text.as_bytes())));
            if sums[0] != sums[1] {
                let place = here.lines().zip(there.lines()).position(|(one, other)| one != other);
                differences.push(format!(
                    "{table}: {} rows at the source, {} at the target, unlike from row {}",
                    sums[0].0,
                    sums[1].0,
                    place.unwrap_or(sums[0].0.min(sums[1].0)) + 1
                ));
            }
        }
        Ok(differences)
    }
}

/// A server that is drained to; it runs only for its turn.
#[derive(Debug)]
pub struct Target {
    /// The server.
    pub server: Mysql,
    prepared: PathBuf,
}

impl Target {
    /// Takes a port for it.
    pub async fn new(flavor: Flavor, durable: bool, prepared: PathBuf) -> anyhow::Result<Self> {
        let server = Mysql::setup(flavor).durable(durable).start().await?;
        server.kill().await?;
        Ok(Self { server, prepared })
    }

    /// Clones it anew.
    pub async fn restore(&self) -> anyhow::Result<()> {
        Ok(self.server.restore_from(&self.prepared).await?)
    }

    /// Its turn is over.
    pub async fn discard(&self) -> anyhow::Result<()> {
        Ok(self.server.kill().await?)
    }
}

/// Lets the disk finish what the preparation wrote, so that no drain pays for it.
pub async fn sync() -> anyhow::Result<()> {
    let sync = Command::new("sync")
        .arg("--file-system")
        .arg(std::env::temp_dir())
        .kill_on_drop(true)
        .status();
    timeout(STATEMENT, sync).await.context("sync hangs")??;
    Ok(())
}
