//! `unitflow wait`: until a unit has applied all that another has committed by now.
//!
//! Followed through the stages' durable positions, never through what a worker says of itself:
//! the source's executed GTIDs, the connector's position that holds them, the transformer's that
//! has passed the connector's last record, the ledger rows that have reached every lane's end, and no
//! change that came to its lane's end and was not applied, as those of parked tables.

pub mod redis;

use std::collections::BTreeSet;
use std::time::Duration;

use mysql_async::Conn;
use tokio::time::{Instant, sleep, timeout_at};
use unitflow_change::gtid::GtidSet;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::{Code, Fault};
use unitflow_mysql::connect::{Flavor, Server, connect};
use unitflow_sinks::copy::filling;
use unitflow_sinks::{ledger, park};

use crate::Outcome;
use crate::cli::WaitArgs;
use crate::config::Mesh;
use crate::output::say;
use crate::pipeline::{ConnectorState, TransformerState, load_state};

/// How often a position is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits for each store that flows from one unit to the other.
pub async fn run(mesh: &Mesh, args: &WaitArgs) -> Result<Outcome, Fault> {
    mesh.unit(&args.from)?;
    mesh.unit(&args.to)?;
    let wanted = |log: &Log, to: &Name| {
        log.unit == args.from
            && *to == args.to
            && args.store.as_ref().is_none_or(|store| *store == log.store)
    };
    let logs: Vec<Log> =
        mesh.all_ways().filter(|(log, to)| wanted(log, to)).map(|(log, _)| log).collect();
    if logs.is_empty() {
        return Err(Fault::fatal(
            Code::Config,
            match &args.store {
                None => format!("nothing flows from {} to {}", args.from, args.to),
                Some(store) => format!("no store {store} flows from {} to {}", args.from, args.to),
            },
        )
        .hint("see the flows in the configuration: from, to"));
    }
    let within = Within::seconds(args.timeout_seconds);
    for log in logs {
        if !arrives(mesh, &log, &args.to, args.gtid.as_deref(), within, Until::Applied).await? {
            return Ok(Outcome::Findings);
        }
    }
    Ok(Outcome::Fine)
}

/// How long is waited, over all that is waited for.
#[derive(Clone, Copy)]
pub struct Within {
    begun: Instant,
    seconds: u64,
}

impl Within {
    /// From now on.
    pub fn seconds(seconds: u64) -> Self {
        Self { begun: Instant::now(), seconds }
    }
}

/// When a unit has what a log brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// All of it is applied.
    Applied,
    /// Or noted, of tables that are being filled: it comes again.
    CaughtUp,
}

/// Waits until a unit has what a log's store has committed by now, or a GTID (set) of it, and says so.
/// `false` if it has not in time.
pub async fn arrives(
    mesh: &Mesh,
    log: &Log,
    to: &Name,
    gtid: Option<&str>,
    Within { begun, seconds }: Within,
    until: Until,
) -> Result<bool, Fault> {
    let end = begun + Duration::from_secs(seconds);
    let mut missing = behind("connector");
    let followed = follow(mesh, (log, to), gtid, until, &mut missing);
    let Ok(result) = timeout_at(end, followed).await else {
        say(&format!(
            "{log} to {to}: not yet after {seconds} s; {missing}, unitflow status shows more"
        ));
        return Ok(false);
    };
    result?;
    let took = begun.elapsed().as_secs_f64();
    say(&format!("{log} to {to}: applied after {took:.1} s"));
    Ok(true)
}

/// Waits until a unit has what a log's store has committed by now, applied or noted.
pub async fn caught_up(mesh: &Mesh, log: &Log, to: &Name) -> Result<(), Fault> {
    follow(mesh, (log, to), None, Until::CaughtUp, &mut String::new()).await
}

fn behind(stage: &str) -> String {
    format!("the {stage} is behind")
}

/// Returns once nothing is missing, and says meanwhile what is.
async fn follow(
    mesh: &Mesh,
    (log, to): (&Log, &Name),
    gtid: Option<&str>,
    until: Until,
    missing: &mut String,
) -> Result<(), Fault> {
    if mesh.cache_flows.contains_key(&log.store) {
        return redis::follow(mesh, (log, to), gtid, missing).await;
    }
    let broker = &mesh.unit(&log.unit)?.broker;
    let goal = goal(mesh, log, gtid).await?;
    let captured = loop {
        let state: ConnectorState =
            required(load_state(broker, &mesh.topics, log, Stage::Connector).await?, log)?;
        if goal.is_subset(&state.position.done) {
            break state.seq;
        }
        sleep(LOOK_EVERY).await;
    };
    *missing = behind("transformer");
    let tails = loop {
        let state: Option<TransformerState> =
            load_state(broker, &mesh.topics, log, Stage::Transformer).await?;
        if let Some(state) = state.filter(|state| state.function.seq >= captured) {
            break state.function.tails;
        }
        sleep(LOOK_EVERY).await;
    };
    *missing = behind("sink");
    let mut conn = connect(mesh.store(to, &log.store)?).await?;
    loop {
        let entries = ledger::read_all(&mut conn, log).await?;
        if ledger::reached(&entries, &tails) {
            let Some(kept) = kept_back(&mut conn, log, until).await? else { return Ok(()) };
            *missing = format!("all is applied but {kept}");
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What came to its lane's end and was not applied: its table waits for a person, or is being filled and its row
/// is still to be read again.
async fn kept_back(conn: &mut Conn, log: &Log, until: Until) -> Result<Option<String>, Fault> {
    let parked = park::read_all(conn, log).await?;
    let parked: BTreeSet<String> = parked.iter().map(|(table, _)| table.to_string()).collect();
    if !parked.is_empty() {
        let tables = Vec::from_iter(parked).join(", ");
        return Ok(Some(format!("the changes of parked tables: {tables}")));
    }
    if until == Until::CaughtUp {
        return Ok(None);
    }
    let noted = filling::noted_of(conn, log).await?;
    let tables: Vec<String> = noted.iter().map(ToString::to_string).collect();
    Ok((!tables.is_empty()).then(|| {
        format!("rows of tables that are being filled, which come again: {}", tables.join(", "))
    }))
}

/// What must have been captured: the GTIDs named, or all that are executed now.
async fn goal(mesh: &Mesh, log: &Log, gtid: Option<&str>) -> Result<GtidSet, Fault> {
    let mut conn = connect(mesh.store(&log.unit, &log.store)?).await?;
    let server = Server::read(&mut conn).await?;
    let Some(text) = gtid else { return Ok(server.executed) };
    let parsed = match server.flavor {
        Flavor::Mysql => GtidSet::parse_mysql(text),
        Flavor::Mariadb => GtidSet::parse_mariadb(text),
    };
    parsed.map_err(|error| {
        Fault::fatal(Code::Config, format!("--gtid {text:?}: {error}")).hint(match server.flavor {
            Flavor::Mysql => "MySQL: 3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5",
            Flavor::Mariadb => "MariaDB: 0-1-5",
        })
    })
}

fn required(state: Option<ConnectorState>, log: &Log) -> Result<ConnectorState, Fault> {
    state.ok_or_else(|| {
        Fault::fatal(Code::PositionMissing, format!("log {log} has no position"))
            .hint("unitflow init first")
    })
}
