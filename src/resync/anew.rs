//! Lets the log of a Redis store go on in a new generation, behind what the store holds now.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::info;
use unitflow_change::name::{Log, Stage};
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault};
use unitflow_redis::Client;
use unitflow_sinks::redis::ledger;

use crate::Outcome;
use crate::cli::ResyncAnewArgs;
use crate::config::Mesh;
use crate::init;
use crate::output::say;
use crate::pipeline::redis::TransformerState;
use crate::pipeline::{is_worked_on, load_state};

/// How long the transformer may take to come to where the log goes on.
const TRANSFORMED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs the command. What the store wrote behind the log's last position is not carried.
pub async fn run(mesh: &Mesh, args: &ResyncAnewArgs) -> Result<Outcome, Fault> {
    mesh.cache(&args.from, &args.store)?;
    let log = Log { unit: args.from.clone(), store: args.store.clone() };
    if is_worked_on(mesh, &log.unit, &log, Stage::Connector).await? {
        return Err(Fault::fatal(Code::Config, format!("the connector of {log} is at work"))
            .hint("it needs no new beginning; if it is to have one all the same, stop it first"));
    }
    let position = go_on(mesh, &log, &args.why).await?;
    say(&format!(
        "{log}: goes on from {position}; what {} wrote before that and was not captured is not carried: unitflow resync full --from {} --store {} --why … brings it",
        log.unit, log.unit, log.store
    ));
    Ok(Outcome::Fine)
}

/// Lets a log go on behind what its store holds now; gives the position. Its connector must not be at work.
pub async fn go_on(mesh: &Mesh, log: &Log, why: &str) -> Result<String, Fault> {
    info!(%log, why, "the log goes on behind what its store holds now");
    let (position, seq) = init::redis::begin_anew(mesh, log).await?;
    for (_, to) in mesh.cache_ways().filter(|(way, _)| way == log) {
        let mut client = Client::open(mesh.cache(&to, &log.store)?).await?;
        let known = ledger::read_all(&mut client, log, mesh.lanes(log)).await?;
        if known.len() < usize::try_from(mesh.lanes(log)).unwrap_or(0) {
            let tails = tails(mesh, log, seq).await?;
            let lanes = init::redis::create_lost_lanes(mesh, log, &to, &tails).await?;
            say(&format!("{log} to {to}: {lanes} lanes in the ledger, which had lost them"));
        }
    }
    Ok(position)
}

/// The last records of the log's lanes, once its transformer has come to `seq`.
async fn tails(mesh: &Mesh, log: &Log, seq: Seq) -> Result<Vec<Seq>, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let begun = Instant::now();
    loop {
        let state: Option<TransformerState> =
            load_state(broker, &mesh.topics, log, Stage::Transformer).await?;
        if let Some(state) = state.filter(|state| state.function.seq >= seq) {
            return Ok(state.function.tails);
        }
        if begun.elapsed() > TRANSFORMED_WITHIN {
            let what = format!("the transformer of {log} has not come to where the log goes on");
            return Err(Fault::fatal(Code::Timeout, what)
                .hint("start it, and the relay of a star, then give the same command again"));
        }
        sleep(LOOK_EVERY).await;
    }
}
