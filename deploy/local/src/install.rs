//! Runs the installer, which is carried inside the binary, so that a machine needs no checkout.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::component::{Component, Home, cache_folder};
use crate::fault::Fault;

const FILES: [(&str, &str); 4] = [
    ("install", include_str!("../install")),
    ("kafka-pom.xml", include_str!("../kafka-pom.xml")),
    ("connect-pom.xml", include_str!("../connect-pom.xml")),
    ("kafka-log4j2.properties", include_str!("../kafka-log4j2.properties")),
];

/// How many of the installer's last lines a fault repeats.
const LINES_IN_FAULT: usize = 12;

/// Brings what of `components` is missing; nothing is run where all are here. Any number of processes may ask for the
/// same at once: one brings it, the others wait.
///
/// `progress` gets the installer's lines as they come, among them what is fetched and how large it is.
///
/// # Errors
/// [`Fault::Install`] with what failed and what to do.
pub async fn ensure(components: &[Component], progress: impl FnMut(&str)) -> Result<(), Fault> {
    let missing: Vec<&str> = components
        .iter()
        .filter(|component| component.home().is_err())
        .map(|component| component.name())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let script = unpack(&cache_folder().join(".installer"))?;
    run(&script, &missing, progress).await
}

/// Where a component lives; it is brought first where it is missing. Says so past what a test captures, since it may
/// take minutes.
pub(crate) async fn home(component: Component) -> Result<Home, Fault> {
    ensure(&[component], |line| _ = writeln!(io::stderr(), "{line}")).await?;
    component.home()
}

/// Each file appears at once: another process may be running those that are there.
fn unpack(folder: &Path) -> Result<PathBuf, Fault> {
    std::fs::create_dir_all(folder).map_err(Fault::io("create", folder))?;
    for (name, text) in FILES {
        let path = folder.join(name);
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(Fault::io("write", &path))?;
    }
    Ok(folder.join("install"))
}

async fn run(
    script: &Path,
    components: &[&str],
    mut progress: impl FnMut(&str),
) -> Result<(), Fault> {
    let mut installer = Command::new("bash")
        .arg(script)
        .args(components)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(Fault::io("run", script))?;

    let mut last = VecDeque::with_capacity(LINES_IN_FAULT);
    if let Some(stderr) = installer.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Some(line) = lines.next_line().await.map_err(Fault::io("read from", script))? {
            progress(&line);
            if last.len() == LINES_IN_FAULT {
                last.pop_front();
            }
            last.push_back(line);
        }
    }
    let status = installer.wait().await.map_err(Fault::io("wait for", script))?;
    if status.success() {
        return Ok(());
    }
    Err(Fault::Install { detail: Vec::from(last).join("\n") })
}
