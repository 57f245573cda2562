//! The `unitflow` binary: wiring only.
//!
//! | file | what it does |
//! |---|---|
//! | `cli` | the command line |
//! | `config` | `unitflow.toml` |
//! | `bridge` | how long an outage can be bridged |
//! | `init`, `check`, `status`, `wait`, `leave`, `demo` | one command each |
//! | `order` | `pause`, `resume`, `retry`, `skip` |
//! | `resync` | brings rows of one unit to others |
//! | `pipeline/` | the roles of `run`, one file each |
//! | `tables` | a store's tables as the mesh sees them |
//! | `supervisor` | keeps roles running, reports what stopped |
//! | `notice` | what a worker says of its roles |
//! | `output` | how results are put on stdout |
//! | `telemetry` | logs and metrics |

mod bridge;
mod check;
mod cli;
mod config;
mod demo;
mod init;
mod leave;
mod notice;
mod order;
mod output;
mod pipeline;
mod resync;
mod status;
mod supervisor;
mod tables;
mod telemetry;
mod wait;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use unitflow_change::{Code, Fault};

use cli::{Cli, Command};
use config::Mesh;

/// How a command ended, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Fine,
    Findings,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(dispatch(&cli));
            // A question to a server that is away may still be under way on a thread of its own.
            runtime.shutdown_timeout(Duration::from_millis(500));
            outcome
        }
        Err(error) => Err(Fault::fatal(Code::Local, format!("no runtime: {error}"))),
    };
    match outcome {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Err(fault) => {
            eprintln!("unitflow: {fault}");
            eprintln!("  see [{}] in deploy/runbook.md", fault.code);
            ExitCode::from(if matches!(fault.code, Code::Config | Code::Secret) { 2 } else { 3 })
        }
    }
}

async fn dispatch(cli: &Cli) -> Result<Outcome, Fault> {
    let lasting = matches!(cli.command, Command::Run(_) | Command::Resync(_));
    telemetry::log_to_stderr(cli.log_format, lasting);
    if let Command::Demo(args) = &cli.command {
        return demo::run(args).await;
    }
    let mesh = Mesh::read(&cli.config)?;
    match &cli.command {
        Command::Init(args) => init::run(&mesh, args).await,
        Command::Check(args) => check::run(&mesh, args).await,
        Command::Run(args) => pipeline::run(mesh, args).await,
        Command::Status(args) => status::run(&mesh, args).await,
        Command::Wait(args) => wait::run(&mesh, args).await,
        Command::Leave(args) => leave::run(&mesh, args).await,
        Command::Pause(args) => order::pause(&mesh, args).await,
        Command::Resume(args) => order::resume(&mesh, args).await,
        Command::Retry(args) => order::retry(&mesh, args).await,
        Command::Skip(args) => order::skip(&mesh, args).await,
        Command::Resync(command) => resync::run(&mesh, command).await,
        Command::Demo(args) => demo::run(args).await,
    }
}
