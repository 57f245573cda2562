//! What can go wrong with servers on this machine: what happened, the detail, what to do.

use std::io;
use std::path::{Path, PathBuf};

/// A server could not be brought, started, or handled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The component is in neither the cache nor the folder that its variable names.
    #[error(
        "{component} is not installed: {detail}; run deploy/local/install {component}, or set {variable} to a server folder"
    )]
    NotInstalled {
        /// The component's name as the installer knows it.
        component: &'static str,
        /// Where was looked, for what.
        detail: String,
        /// The environment variable that names another folder.
        variable: &'static str,
    },

    /// The installer ended with an error.
    #[error("the installer failed: {detail}")]
    Install {
        /// Its last lines: what failed, where the log is, what to do.
        detail: String,
    },

    /// A server did not come up.
    #[error("{server} did not start: {why}; the end of its log:\n{log}")]
    Start {
        /// Which server.
        server: &'static str,
        /// It ended, or it did not answer in time.
        why: String,
        /// The last lines that it wrote.
        log: String,
    },

    /// A server did not end when asked to; it was killed then.
    #[error("{server} did not stop within {seconds} s and was killed; the end of its log:\n{log}")]
    Stop {
        /// Which server.
        server: &'static str,
        /// How long it had.
        seconds: u64,
        /// The last lines that it wrote.
        log: String,
    },

    /// The verb needs a running server.
    #[error("{server} is not running; start it again first")]
    NotRunning {
        /// Which server.
        server: &'static str,
    },

    /// The verb needs a server that is down.
    #[error("{server} is running already; stop or kill it first")]
    Running {
        /// Which server.
        server: &'static str,
    },

    /// The server was started by someone else.
    #[error(
        "{server} at {address} is not ours to {verb}: it was named by {variable}; unset that to have one of our own"
    )]
    NotOurs {
        /// Which server.
        server: &'static str,
        /// Where it is.
        address: String,
        /// What was asked for.
        verb: &'static str,
        /// The variable that named it.
        variable: &'static str,
    },

    /// A client program or a tool failed.
    #[error("{program} failed ({status}): {output}")]
    Command {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// What it wrote to standard error, or to standard output where that is empty.
        output: String,
    },

    /// No port could be had.
    #[error(
        "no free port on 127.0.0.1 between {from} and {to}; are many servers left over from other runs?"
    )]
    NoPort {
        /// First port tried.
        from: u16,
        /// One past the last.
        to: u16,
    },

    /// The operating system refused something.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl Fault {
    /// For `map_err`: what was being done to which path.
    pub(crate) fn io(
        doing: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { doing, path, source }
    }

    /// Another process took the port between our choice and the server's start: the one case for a second try.
    pub(crate) fn is_address_in_use(&self) -> bool {
        matches!(self, Self::Start { log, .. } if log.to_ascii_lowercase().contains("address already in use"))
    }
}
