//! `unitflow resync`: brings rows of one unit, the authority, to others while all of them are written.
//!
//! | file | what it does |
//! |---|---|
//! | `plan` | from the arguments to a flow, tables and units |
//! | `filler` | by which command tables are being filled, and how it is given again |
//! | `dry` | compares and says what would be done |
//! | `copy` | orders a copy and follows it to its end |
//! | `settle` | has rows read again until none is in doubt, and removes what the authority lacks |
//! | `join` | fills a new unit |
//! | `broken` | finds out whether a stage lacks what it has to read next, and lets the log go on |
//! | `turn` | lets a log go on in a new generation |
//! | `lost` | gives a unit back what it lost when it went back in time |
//! | `loss` | finds out what that is |
//! | `keys` | the same for Redis stores, whose keys are copied |
//! | `anew` | lets the log of a Redis store go on behind a gap |
//!
//! The command only orders and waits: connectors read, sinks judge and write. It may be killed and
//! run again at any moment; what it left under way is gone on with.

mod anew;
mod broken;
mod copy;
mod dry;
mod filler;
mod join;
mod keys;
mod loss;
mod lost;
mod plan;
mod settle;
mod turn;

use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;
use unitflow_change::ddl::TableName;
use unitflow_change::name::{Log, Name};
use unitflow_change::{Code, Fault};

use crate::Outcome;
use crate::cli::{ResyncCommand, ResyncFullArgs, ResyncKeysArgs, ResyncStopArgs};
use crate::config::Mesh;
use crate::order;
use crate::output::say;

use self::broken::Broken;
use self::filler::Filler;
use self::plan::Plan;

/// How many rows that stay are named.
const KEPT_SHOWN: usize = 20;
/// The pause before another attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs one of its forms, again where a server or Kafka is away for a moment.
pub async fn run(mesh: &Mesh, command: &ResyncCommand) -> Result<Outcome, Fault> {
    loop {
        let outcome = match command {
            ResyncCommand::Full(args) => full(mesh, args).await,
            ResyncCommand::Keys(args) => by_keys(mesh, args).await,
            ResyncCommand::Join(args) => join::run(mesh, args).await,
            ResyncCommand::Lost(args) => lost::run(mesh, args).await,
            ResyncCommand::Anew(args) => anew::run(mesh, args).await,
            ResyncCommand::Stop(args) => stop(mesh, args).await,
        };
        match outcome {
            Err(fault) if fault.is_retry() => {
                warn!(code = %fault.code, "{}; going on where it was", fault.what);
                sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

async fn full(mesh: &Mesh, args: &ResyncFullArgs) -> Result<Outcome, Fault> {
    if let Some(log) = keys::log_of(mesh, &args.ways.from, args.ways.store.as_ref()) {
        return keys::full(mesh, log, args).await;
    }
    let plan = Plan::of_tables(mesh, &args.ways, &args.table).await?;
    if args.dry_run {
        return dry::run(&plan, None).await;
    }
    let bereft = plan.bereft().await?;
    if let Some((unit, lane)) = bereft.first().filter(|_| !args.table.is_empty()) {
        return Err(Fault::fatal(
            Code::OffsetGone,
            format!("{} to {unit}: what lane {} has to read next is gone, and with it changes of any table", plan.log, lane.lane),
        )
        .hint("copy all tables: the same without --table"));
    }
    let broken = Broken::find(&plan).await?;
    if let Some(broken) = &broken {
        broken.ensure_whole(&plan, args.table.is_empty())?;
    }
    let filled = plan.filled_before().await?;
    let filler = Filler::full(&plan.to);
    let units: Vec<Name> = bereft.iter().map(|(unit, _)| unit.clone()).collect();
    plan.begin(&filler, &units).await?;
    if let Some(broken) = broken {
        broken.mend(&plan).await?;
    }
    plan.wait_until_carried().await?;
    let end = copy::tables(&plan, args.rows_per_second, &bereft).await?;
    if end < plan.known_from().await? {
        let what = "the log was turned while it was copied, and what was read before may be gone";
        return Err(Fault::retry(Code::Copy, what));
    }
    let outcome = finish(&plan, (&filled, &[]), &filler).await?;
    if args.table.is_empty() && matches!(outcome, Outcome::Fine) {
        plan.all_is_brought().await?;
    }
    Ok(outcome)
}

async fn by_keys(mesh: &Mesh, args: &ResyncKeysArgs) -> Result<Outcome, Fault> {
    let keys = plan::read_keys(args)?;
    if let Some(log) = keys::log_of(mesh, &args.ways.from, args.ways.store.as_ref()) {
        return keys::keys(mesh, log, args, keys).await;
    }
    let plan = Plan::of_keys(mesh, &args.ways, &keys).await?;
    if args.dry_run {
        return dry::run(&plan, Some(&keys)).await;
    }
    plan.begin(&Filler::Keys, &[]).await?;
    plan.wait_until_carried().await?;
    let keys: Vec<String> = keys.into_iter().collect();
    copy::keys(&plan, keys.clone()).await?;
    finish(&plan, (&[], &keys), &Filler::Keys).await
}

/// Ends copies that are under way; what they have brought stays.
async fn stop(mesh: &Mesh, args: &ResyncStopArgs) -> Result<Outcome, Fault> {
    if let Some(log) = keys::log_of(mesh, &args.from, args.store.as_ref()) {
        return keys::stop(mesh, &log, args).await;
    }
    let log = plan::log_of(mesh, &args.from, args.store.as_ref())?;
    if args.give_up {
        return Err(Fault::fatal(Code::Config, "--give-up is for Redis stores")
            .hint("a table stays marked until a copy of it has come to its end"));
    }
    let by = order::whoever(args.by.as_ref())?;
    let stopped = copy::stop(mesh, &log, (&by, &args.why)).await?;
    if stopped.is_empty() {
        say(&format!("nothing is copied from {log}"));
        return Ok(Outcome::Fine);
    }
    for (name, job) in &stopped {
        let what = if job.keys.is_empty() { job.tables.join(", ") } else { "rows by key".into() };
        say(&format!("stopped  {name}: {what} to {}, ordered by {}", job.to.join(", "), job.by));
    }
    say("its tables stay as they are, half filled: unitflow status shows them, and how to go on");
    Ok(Outcome::Fine)
}

/// The command that goes on with a table that is being filled, by what is written of it.
pub fn goes_on(log: &Log, table: &TableName, filler: &str) -> String {
    Filler::parse(filler).command(log, table)
}

/// Asks again here where a server is away: the copy itself is at its end.
async fn staying(plan: &Plan<'_>, kept: &settle::Kept) -> Result<settle::Kept, Fault> {
    loop {
        match settle::staying(plan, kept).await {
            Err(fault) if fault.is_retry() => {
                warn!(code = %fault.code, "{}; looking again", fault.what);
                sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Settles what is in doubt; `removing` are the units whose tables may hold rows of their own, `asked` the keys
/// of the rows that were asked for.
async fn finish(
    plan: &Plan<'_>,
    (removing, asked): (&[plan::Filled], &[String]),
    filler: &Filler,
) -> Result<Outcome, Fault> {
    let mut kept = settle::Kept::new();
    let mut left = settle::notes(plan, &mut kept).await?;
    let mut removed = 0;
    if left == 0 {
        // What can't be removed yet, because it is only under way, is noted.
        removed = settle::extras(plan, removing, &mut kept).await?;
        left = settle::notes(plan, &mut kept).await?;
        settle::asked(plan, asked, &mut kept).await?;
    }
    if left > 0 {
        say(&format!(
            "{left} rows are not settled: they are written in several units faster than they are read, or another row has their unique value; run this again once that is over"
        ));
        return Ok(Outcome::Findings);
    }
    plan.end(filler).await?;
    let kept = staying(plan, &kept).await?;
    let (to, from) = (plan.to_text(), &plan.log.unit);
    if !kept.is_empty() {
        say(&format!(
            "{} rows that {from} lacks stay where they are: of their tables a row that is gone can't be copied (rows, partition_by); remove those that are too many by hand",
            kept.len()
        ));
        kept.iter().take(KEPT_SHOWN).for_each(|(unit, key)| say(&format!("{unit}: {key}")));
        return Ok(Outcome::Findings);
    }
    let tables = plan.tables_text();
    say(&match removed {
        0 => format!("{to} holds what {from} holds: {tables}"),
        _ => format!(
            "{to} holds what {from} holds: {tables}; {removed} rows that {from} lacks were asked for and removed"
        ),
    });
    Ok(Outcome::Fine)
}
