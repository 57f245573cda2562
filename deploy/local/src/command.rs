//! Runs a client program or a tool to its end.

use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::fault::Fault;

/// Feeds `input` to the command and returns what it wrote to standard output.
pub(crate) async fn output(mut command: Command, input: &[u8]) -> Result<String, Fault> {
    let program = command.as_std().get_program().to_owned();
    let failed = |doing| Fault::io(doing, Path::new(&program));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("run"))?;

    // Written beside the reading: a program that answers while it reads would otherwise wait for us, and we for it.
    let pipe = child.stdin.take();
    let write = async {
        if let Some(mut pipe) = pipe {
            let _ = pipe.write_all(input).await; // one that ended early says so by its status
        }
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    let output = output.map_err(failed("wait for"))?;

    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Fault::Command {
        program: Path::new(&program).file_name().unwrap_or(&program).to_string_lossy().into_owned(),
        status: output.status.to_string(),
        output: if errors.trim().is_empty() {
            text.trim().to_owned()
        } else {
            errors.trim().to_owned()
        },
    })
}

/// Copies a folder with everything in it. Blocks are shared where the file system can; runs of zeros, of which fresh
/// data folders are full, become holes.
pub(crate) async fn copy_folder(from: &Path, to: &Path) -> Result<(), Fault> {
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--reflink=auto", "--sparse=always", "--no-target-directory", "--"])
        .arg(from)
        .arg(to);
    output(copy, b"").await.map(drop)
}
