//! Lets the log of a Redis store go on in a new generation, behind what the store holds now.

use tracing::info;
use unitflow_change::name::{Log, Stage};
use unitflow_change::{Code, Fault};

use crate::Outcome;
use crate::cli::ResyncAnewArgs;
use crate::config::Mesh;
use crate::init;
use crate::output::say;
use crate::pipeline::is_worked_on;

/// Runs the command. What the store wrote behind the log's last position is not carried.
pub async fn run(mesh: &Mesh, args: &ResyncAnewArgs) -> Result<Outcome, Fault> {
    mesh.cache(&args.from, &args.store)?;
    let log = Log { unit: args.from.clone(), store: args.store.clone() };
    if is_worked_on(mesh, &log.unit, &log, Stage::Connector).await? {
        return Err(Fault::fatal(Code::Config, format!("the connector of {log} is at work"))
            .hint("it needs no new beginning; if it is to have one all the same, stop it first"));
    }
    info!(%log, why = args.why, "the log goes on behind what its store holds now");
    let position = init::redis::begin_anew(mesh, &log).await?;
    say(&format!(
        "{log}: goes on from {position}; what {} wrote before that and was not captured is not carried",
        log.unit
    ));
    Ok(Outcome::Fine)
}
