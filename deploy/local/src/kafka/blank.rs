//! The log folder of a broker that has never run, and an archive of its loaded classes.
//!
//! Formatting a folder starts a Java machine, yet gives two small files: `bootstrap.checkpoint`, the same for every
//! broker of a version, and `meta.properties` with the ids. The first is kept, the second written anew.
//! The class archive (<https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html>) halves the start;
//! a Java machine that it does not fit goes without it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::process::Command;
use tokio::time::sleep;

use super::{JVM, java_environment};
use crate::command::output;
use crate::component::Home;
use crate::fault::Fault;
use crate::port;
use crate::prepared::Prepared;
use crate::probe::Probe;
use crate::process::{Launch, Process};

const CHECKPOINT: &str = "bootstrap.checkpoint";
const CLASSES: &str = "classes.jsa";
/// A first start without an archive, on a busy machine.
const FIRST_START: Duration = Duration::from_secs(90);
/// Writing the archive happens at the end of the run.
const FIRST_STOP: Duration = Duration::from_secs(60);

/// What a fresh broker is made from.
pub(super) struct Blank {
    folder: PathBuf,
}

impl Blank {
    /// Makes a log folder for node 1 of the cluster.
    pub fn format(&self, data: &Path, cluster: &str) -> Result<(), Fault> {
        fs::create_dir(data).map_err(Fault::io("create", data))?;
        fs::copy(self.folder.join(CHECKPOINT), data.join(CHECKPOINT))
            .map_err(Fault::io("copy a checkpoint to", data))?;
        let meta = data.join("meta.properties");
        let text =
            format!("version=1\nnode.id=1\ncluster.id={cluster}\ndirectory.id={}\n", random_id());
        fs::write(&meta, text).map_err(Fault::io("write", meta))
    }

    /// The option that makes a Java machine use the archive.
    pub fn shared_classes(&self) -> String {
        format!(
            "-XX:SharedArchiveFile={} -Xlog:cds=off -Xlog:cds+dynamic=off",
            self.folder.join(CLASSES).display()
        )
    }
}

/// An id as Kafka writes them: 16 random bytes in base 64. One that begins with a dash is taken for an option by its tools.
pub(super) fn random_id() -> String {
    loop {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&port::random().to_be_bytes());
        bytes[8..].copy_from_slice(&port::random().to_be_bytes());
        let id = URL_SAFE_NO_PAD.encode(bytes);
        if !id.starts_with('-') {
            return id;
        }
    }
}

/// Made on the first use on a machine, which takes some seconds more.
pub(super) async fn prepare(home: &Home) -> Result<Blank, Fault> {
    let program = home.program("kafka-server-start")?;
    let prepared = Prepared::open("kafka", &program, &[]).await?;
    if !prepared.is_made() {
        let made = prepared.staging()?;
        let blank = Blank { folder: made.path().to_owned() };
        make(home, &blank).await?;
        prepared.publish(made)?;
    }
    Ok(Blank { folder: prepared.path().to_owned() })
}

/// Formats a folder by Kafka's own tool, then runs a broker on it once, for the archive of its classes.
async fn make(home: &Home, blank: &Blank) -> Result<(), Fault> {
    let folder = crate::service::new_folder("kafka-blank")?;
    let (port, controller) = (port::free()?, port::free()?);
    let cluster = random_id();
    let properties = folder.path().join("server.properties");
    let text = super::KafkaSetup::default().properties(port, controller, &[], folder.path());
    fs::write(&properties, text).map_err(Fault::io("write", &properties))?;

    let mut format = Command::new(home.program("kafka-storage")?);
    format.args(["format", "--cluster-id", &cluster, "--config"]).arg(&properties);
    output(format, b"").await?;
    let checkpoint = folder.path().join("data").join(CHECKPOINT);
    fs::copy(&checkpoint, blank.folder.join(CHECKPOINT)).map_err(Fault::io("copy", checkpoint))?;

    let archive = format!(
        "-XX:ArchiveClassesAtExit={} -Xlog:cds=off -Xlog:cds+dynamic=off",
        blank.folder.join(CLASSES).display()
    );
    let launch = Launch {
        name: "Kafka",
        program: home.program("kafka-server-start")?,
        arguments: vec![properties.display().to_string()],
        environment: java_environment(&format!("{JVM} {archive}"), folder.path()),
        folder: folder.path().to_owned(),
        file: "server",
    };
    let process = Process::start(&launch).await?;
    let probe = Probe::KafkaMetadata { port, cluster };
    let ready = async {
        while !probe.answers().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    // Without the archive a broker starts all the same, only later; what is wrong with it shows then.
    let _ = tokio::time::timeout(FIRST_START, ready).await;
    process.terminate(FIRST_STOP).await;
    Ok(())
}
