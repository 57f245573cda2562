//! `unitflow leave`: takes away what the other units hold about a unit that goes.
//!
//! Nobody may work for the unit any more, and all that it has committed must have been applied in
//! the others: both are looked at first, and nothing is taken away before. What is taken away goes in
//! this order, each step by itself, so that the command may be killed and given again: the unit's
//! rows in the others' ledgers, the consumer groups of its sinks, and, if asked for, its topics, whose
//! writers are fenced before.
//!
//! Its topics' groups stay with its topics: they say that the others have read them, so that `init`
//! never takes what they hold for new. Its own servers are left alone. With its rows in the ledger go
//! the marks of tables that were filled from it, which only a unit that is lost may have left.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::routing::{INTERNAL_DATABASE, LEDGER_TABLE};
use unitflow_change::{Code, Fault, inject};
use unitflow_kafka::{Broker, Writer, groups, topics};
use unitflow_mysql::connect::connect;
use unitflow_mysql::stream::{Event, Options, Stream};
use unitflow_sinks::copy::filling;
use unitflow_sinks::{ledger, park};

use crate::Outcome;
use crate::cli::LeaveArgs;
use crate::config::{Mesh, Topology};
use crate::init::topic_specs;
use crate::output::say;
use crate::pipeline::{ConnectorState, TransformerState, is_worked_on, load_state};

/// How long the end of a store's log may take to come.
const LOG_WITHIN: Duration = Duration::from_secs(60);
/// How often the server says that it has nothing more to send.
const BEAT: Duration = Duration::from_millis(200);

/// Lets a unit leave, or says why it can't yet.
pub async fn run(mesh: &Mesh, args: &LeaveArgs) -> Result<Outcome, Fault> {
    let unit = &args.unit;
    mesh.unit(unit)?;
    if matches!(&mesh.topology, Topology::Star(hub) if hub == unit) {
        let what = format!("{unit} is the hub of the star: the others read each other there");
        return Err(Fault::fatal(Code::Config, what).hint("give the mesh another topology first"));
    }
    if let Some(store) = mesh.unit(unit)?.caches.keys().next() {
        mesh.ensure_no_cache(store, "unitflow leave")?;
    }
    let mut held = at_work(mesh, args).await?;
    if held.is_empty() && !args.lost {
        held = not_applied(mesh, unit).await?;
    }
    if !held.is_empty() {
        held.iter().for_each(|line| say(&format!("not yet  {line}")));
        say(&format!("nothing was changed: unit {unit} can't leave yet"));
        return Ok(Outcome::Findings);
    }
    let mut gone = take_rows(mesh, args).await?;
    gone.extend(take_groups(mesh, args).await?);
    if args.topics {
        gone.extend(take_topics(mesh, args).await?);
    }
    let word = if args.dry_run { "would go" } else { "removed " };
    gone.iter().for_each(|line| say(&format!("{word}  {line}")));
    say(&match (gone.is_empty(), args.dry_run) {
        (true, _) => format!("nothing is left of unit {unit}; nothing was changed"),
        (false, true) => "nothing was changed (--dry-run)".to_owned(),
        (false, false) => {
            format!("unit {unit} has left; take it out of the configuration everywhere")
        }
    });
    Ok(Outcome::Fine)
}

/// The logs that a unit writes.
fn own(mesh: &Mesh, unit: &Name) -> Vec<Log> {
    mesh.logs().map(|(log, _)| log).filter(|log| log.unit == *unit).collect()
}

/// Logs, each with a unit that it flows to.
type Ways = Vec<(Log, Name)>;

/// The ways out of a unit and into it.
fn ways(mesh: &Mesh, unit: &Name) -> (Ways, Ways) {
    let all = mesh.ways().map(|(log, to, _)| (log, to));
    let (out, rest): (Vec<_>, Vec<_>) = all.partition(|(log, _)| log.unit == *unit);
    (out, rest.into_iter().filter(|(_, to)| to == unit).collect())
}

/// Who still works for the unit: its own stages by their positions that move, sinks by their groups.
async fn at_work(mesh: &Mesh, args: &LeaveArgs) -> Result<Vec<String>, Fault> {
    let unit = &args.unit;
    let (out, into) = ways(mesh, unit);
    let mut held = Vec::new();
    for (log, to) in into.iter().chain(&out) {
        // A unit that is lost with its Kafka can't be asked, and needs not be.
        if args.lost && !args.topics && mesh.read_at(log) == unit {
            continue;
        }
        let group = mesh.topics.group(log, to);
        if groups::members(&mesh.unit(mesh.read_at(log))?.broker, &group).await? == 0 {
            continue;
        }
        held.push(match to == unit {
            true => format!("a sink of unit {to} applies {log}: stop the workers of {unit}"),
            false => format!(
                "a sink of unit {to} reads {log}: take {unit} out of the configuration of {to}'s workers and start them again"
            ),
        });
    }
    for log in own(mesh, unit) {
        let mut stages = vec![(unit, Stage::Connector), (unit, Stage::Transformer)];
        if mesh.read_at(&log) != unit {
            stages.push((mesh.read_at(&log), Stage::Relay));
        }
        stages.retain(|(at, _)| !args.lost || args.topics || *at != unit);
        let looks = stages.iter().map(|(at, stage)| is_worked_on(mesh, at, &log, *stage));
        let found = futures_util::future::try_join_all(looks).await?;
        held.extend(stages.iter().zip(found).filter(|(_, works)| *works).map(
            |((at, stage), _)| format!("the {stage} of {log} is at work in unit {at}: stop it"),
        ));
    }
    Ok(held)
}

/// What the unit has committed and the others have not applied.
async fn not_applied(mesh: &Mesh, unit: &Name) -> Result<Vec<String>, Fault> {
    let mut held = Vec::new();
    for log in own(mesh, unit) {
        let mut waiting = Vec::new();
        for (_, to, _) in mesh.ways().filter(|(one, ..)| *one == log) {
            let mut conn = connect(mesh.store(&to, &log.store)?).await?;
            let entries = ledger::read_all(&mut conn, &log).await?;
            let parked = park::read_all(&mut conn, &log).await?;
            let filling = filling::of(&mut conn, &log).await?;
            let _ = conn.disconnect().await;
            held.extend(filling.iter().map(|filling| {
                format!(
                    "{} is being filled from {log} in unit {to}: let the resync come to its end, see unitflow status",
                    filling.table
                )
            }));
            let tables: BTreeSet<String> =
                parked.iter().map(|(table, _)| table.to_string()).collect();
            held.extend(tables.iter().map(|table| {
                format!("{table} of {log} is parked in unit {to}: mend and resume it, see unitflow status")
            }));
            // Rows that are gone were taken away before, and not before all was applied.
            if !entries.is_empty() {
                waiting.push((to, entries));
            }
        }
        if !waiting.is_empty() {
            held.extend(not_reached(mesh, &log, &waiting).await?);
        }
    }
    Ok(held)
}

async fn not_reached(
    mesh: &Mesh,
    log: &Log,
    waiting: &[(Name, Vec<ledger::Entry>)],
) -> Result<Vec<String>, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let connector: Option<ConnectorState> =
        load_state(broker, &mesh.topics, log, Stage::Connector).await?;
    let Some(connector) = connector else {
        let what =
            format!("{log} has no position: what is not applied can't be told; --lost gives it up");
        return Ok(vec![what]);
    };
    let again = format!(
        "start the workers of all units as before, unitflow wait --from {} --to …, and stop them again",
        log.unit
    );
    if let Some(gtid) = uncaptured(mesh, log, &connector).await? {
        return Ok(vec![format!("{gtid} of {log} is not captured: {again}")]);
    }
    let transformer: Option<TransformerState> =
        load_state(broker, &mesh.topics, log, Stage::Transformer).await?;
    let tails = match transformer {
        Some(state) if state.function.seq >= connector.seq => state.function.tails,
        _ => return Ok(vec![format!("{log} is captured further than it is tagged: {again}")]),
    };
    let behind = |(to, entries): &(Name, Vec<ledger::Entry>)| {
        (!ledger::reached(entries, &tails))
            .then(|| format!("unit {to} has not applied all of {log}: {again}"))
    };
    Ok(waiting.iter().filter_map(behind).collect())
}

/// A transaction of the store's own that was committed behind what is captured. What sinks applied
/// there, and its clock, need not be.
async fn uncaptured(
    mesh: &Mesh,
    log: &Log,
    state: &ConnectorState,
) -> Result<Option<String>, Fault> {
    if let Some(open) = &state.position.open {
        return Ok(Some(open.gtid.to_string()));
    }
    let store = mesh.store(&log.unit, &log.store)?;
    // An id that no worker has, so that none is displaced.
    let id = 0x6200_0000 | (std::process::id() & 0x00ff_ffff);
    let options = Options { heartbeat: BEAT, ..Options::new(id, log.to_string()) };
    let mut stream = Stream::open(store, state.position.clone(), options).await?;
    let found = timeout(LOG_WITHIN, first_own(mesh, log, &mut stream)).await;
    stream.close().await;
    found.unwrap_or_else(|_| {
        Err(Fault::retry(Code::Timeout, format!("{log}: the end of its binlog does not come")))
    })
}

async fn first_own(mesh: &Mesh, log: &Log, stream: &mut Stream) -> Result<Option<String>, Fault> {
    let routing = mesh.routing(log)?;
    let (mut pauses, mut applied, mut inside) = (0, false, false);
    while pauses < 2 {
        let own = match stream.next().await? {
            Event::Row(row) => {
                let internal = row.database == INTERNAL_DATABASE;
                if !inside {
                    (inside, applied) = (true, internal && row.table == LEDGER_TABLE);
                }
                let name = routing.rename.canonical(row.database, row.table);
                let carried =
                    name.is_some_and(|(database, table)| routing.carries(&database, &table));
                !applied && !internal && carried
            }
            Event::Ddl(_) => true,
            Event::End => {
                inside = false;
                false
            }
            Event::Heartbeat => {
                pauses += 1;
                false
            }
        };
        if own {
            return Ok(Some(stream.transaction().gtid_text.clone()));
        }
    }
    Ok(None)
}

/// The unit's rows in the other units' ledgers, and its clock there.
async fn take_rows(mesh: &Mesh, args: &LeaveArgs) -> Result<Vec<String>, Fault> {
    let mut gone = Vec::new();
    for (log, to) in ways(mesh, &args.unit).0 {
        let mut conn = connect(mesh.store(&to, &log.store)?).await?;
        let half = filling::of(&mut conn, &log).await?;
        let rows = match args.dry_run {
            true => ledger::read_all(&mut conn, &log).await?.len(),
            false => ledger::forget(&mut conn, &log).await?,
        };
        gone.extend(half.into_iter().map(|filling| {
            let (table, store) = (filling.table, &log.store);
            format!("{to}.{store}: {table} is no longer filled from {log}, and half of it may be: compare it")
        }));
        let _ = conn.disconnect().await;
        if !args.dry_run {
            inject::die_at("die_leaving");
        }
        gone.extend(
            (rows > 0).then(|| format!("{to}.{}: {rows} lanes of {log} in the ledger", log.store)),
        );
    }
    Ok(gone)
}

/// The groups in which the unit's sinks read the others.
async fn take_groups(mesh: &Mesh, args: &LeaveArgs) -> Result<Vec<String>, Fault> {
    let mut gone = Vec::new();
    for (log, to) in ways(mesh, &args.unit).1 {
        gone.extend(take_group(mesh, args, &log, &to).await?);
    }
    Ok(gone)
}

async fn take_group(
    mesh: &Mesh,
    args: &LeaveArgs,
    log: &Log,
    to: &Name,
) -> Result<Option<String>, Fault> {
    let (at, group) = (mesh.read_at(log), mesh.topics.group(log, to));
    let broker = &mesh.unit(at)?.broker;
    let there = match args.dry_run {
        true => groups::exists(broker, &group).await?,
        false => !groups::delete(broker, &[&group]).await?.is_empty(),
    };
    Ok(there.then(|| format!("Kafka of {at}: group {group}")))
}

/// The unit's topics, the hub's copies of them, and the groups that read them.
async fn take_topics(mesh: &Mesh, args: &LeaveArgs) -> Result<Vec<String>, Fault> {
    let unit = &args.unit;
    let mut gone = Vec::new();
    for (log, to) in ways(mesh, unit).0 {
        gone.extend(take_group(mesh, args, &log, &to).await?);
    }
    if !args.dry_run {
        fence(mesh, unit).await?;
    }
    let specs = topic_specs(mesh, unit)?;
    // A unit that comes back goes on with its orders.
    let stays = args.lost.then(|| mesh.topics.control(unit));
    let names = specs.into_iter().map(|spec| spec.name);
    let names = names.filter(|name| Some(name) != stays.as_ref()).collect();
    gone.extend(delete(&mesh.unit(unit)?.broker, unit, names, args.dry_run).await?);
    for log in own(mesh, unit) {
        let at = mesh.read_at(&log);
        if at != unit {
            let names = vec![mesh.topics.tagged(&log), mesh.topics.position(&log)];
            gone.extend(delete(&mesh.unit(at)?.broker, at, names, args.dry_run).await?);
        }
    }
    Ok(gone)
}

/// Shuts out who wrote these topics. What one that died had begun ends here: Kafka would end it by their
/// names later, in topics that are no longer these.
async fn fence(mesh: &Mesh, unit: &Name) -> Result<(), Fault> {
    for log in own(mesh, unit) {
        let mut writers = vec![(unit, Stage::Connector), (unit, Stage::Transformer)];
        if mesh.read_at(&log) != unit {
            writers.push((mesh.read_at(&log), Stage::Relay));
        }
        for (at, stage) in writers {
            let id = mesh.topics.transactional_id(&log, stage);
            drop(Writer::open(&mesh.unit(at)?.broker, &id).await?);
        }
    }
    Ok(())
}

/// Deletes those of these topics that are there; says which.
async fn delete(
    broker: &Broker,
    at: &Name,
    names: Vec<String>,
    dry_run: bool,
) -> Result<Vec<String>, Fault> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = topics::describe(broker, &names).await?;
    let there: Vec<String> = found.into_iter().flatten().map(|topic| topic.name).collect();
    if !dry_run && !there.is_empty() {
        topics::delete(broker, &there.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    }
    Ok(there.iter().map(|name| format!("Kafka of {at}: topic {name}")).collect())
}
