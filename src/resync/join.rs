//! Fills a new unit and lets it take part.
//!
//! The new unit's ledger is seeded before the first row is copied: for the authority's log with its
//! end of now, for all others with what the authority had applied in one moment. So nothing that is
//! applied behind that is missed, and what the copy brings as well is recognised.

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tracing::info;
use unitflow_change::ddl::TableName;
use unitflow_change::name::{Log, Name, Topics};
use unitflow_change::routing::Routing;
use unitflow_change::seq::Seq;
use unitflow_change::tag::{HEADER, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::{last_record, topics};
use unitflow_mysql::connect::{Flavor, Server, connect, connect_to_write, fault};
use unitflow_mysql::literal::quote_identifier;
use unitflow_sinks::copy::{filling, passed};
use unitflow_sinks::{ledger, park};

use super::filler::Filler;
use super::plan::Plan;
use super::{copy, finish};
use crate::Outcome;
use crate::bridge;
use crate::cli::{ResyncJoinArgs, ResyncWays};
use crate::config::Mesh;
use crate::init;
use crate::output::say;
use crate::tables;

/// Where a lane of the new unit begins.
struct Seed {
    log: Log,
    lane: i32,
    seq: u64,
    topic_id: String,
    topic_offset: i64,
    barrier: Option<u64>,
}

/// Prepares the unit where that is not done yet, and copies all that travels to it.
pub async fn run(mesh: &Mesh, args: &ResyncJoinArgs) -> Result<Outcome, Fault> {
    let ways = ResyncWays {
        from: args.from.clone(),
        to: vec![args.unit.clone()],
        store: args.store.clone(),
        why: args.why.clone(),
        by: args.by.clone(),
    };
    let log = Plan::of_ways(mesh, &ways)?.log;
    let mut conn = connect_to_write(mesh.store(&args.unit, &log.store)?).await?;
    ensure_empty(mesh, &log, &args.unit, &mut conn).await?;
    for line in prepare(mesh, &log, &args.unit, &mut conn).await? {
        say(&format!("created  {line}"));
    }
    say(&format!(
        "unit {} is prepared; its workers and those of the other units, started with this configuration, do the rest",
        args.unit
    ));
    let plan = Plan::of_tables(mesh, &ways, &[]).await?;
    let filled = plan.filled_before().await?;
    let filler = Filler::Join(args.unit.clone());
    plan.begin(&filler, &[]).await?;
    plan.wait_until_carried().await?;
    copy::tables(&plan, args.rows_per_second, &[]).await?;
    finish(&plan, (&filled, &[]), &filler).await
}

/// Whether the unit holds nothing that the copy would remove, unless it is joining already, by its marks.
async fn ensure_empty(mesh: &Mesh, log: &Log, unit: &Name, conn: &mut Conn) -> Result<(), Fault> {
    let judge = |error: mysql_async::Error| fault(&error);
    let ledger = "SELECT 1 FROM information_schema.TABLES \
                  WHERE TABLE_SCHEMA = 'unitflow' AND TABLE_NAME = 'ledger'";
    let has_ledger: Option<u8> = conn.query_first(ledger).await.map_err(judge)?;
    if has_ledger.is_some() {
        let marks = filling::marks(conn).await?;
        let joins = Filler::Join(unit.clone());
        if marks.iter().any(|mark| Filler::parse(&mark.filler) == joins) {
            return Ok(());
        }
    }
    for table in tables::list(conn, &routing_of(mesh, log, unit)?).await? {
        let name = quoted(&table.local);
        let query = format!("SELECT 1 FROM {name} LIMIT 1");
        let found: Option<u8> = conn.query_first(query).await.map_err(judge)?;
        if found.is_some() {
            let what = format!("{name} holds rows in unit {unit}, and a unit that joins is empty");
            // What is removed there is removed everywhere, once the unit takes part.
            let hint = match has_ledger.is_some() && !ledger::read_all(conn, log).await?.is_empty()
            {
                true => format!(
                    "it takes part already: {} fills it anew",
                    bridge::resync(&log.unit, Some(unit))
                ),
                false => {
                    "see that its endpoints lead to the right server, and empty the tables there"
                        .to_owned()
                }
            };
            return Err(Fault::fatal(Code::Table, what).hint(hint));
        }
    }
    Ok(())
}

/// The authority's tables, by the names that they have in the unit.
fn routing_of(mesh: &Mesh, log: &Log, unit: &Name) -> Result<Routing, Fault> {
    let mut there = mesh.routing(&Log { unit: unit.clone(), store: log.store.clone() })?;
    there.tables = mesh.routing(log)?.tables;
    Ok(there)
}

fn quoted((database, table): &(String, String)) -> String {
    format!("{}.{}", quoted_name(database), quoted_name(table))
}

fn quoted_name(name: &str) -> String {
    let mut out = Vec::new();
    quote_identifier(&mut out, name);
    String::from_utf8_lossy(&out).into_owned()
}

async fn prepare(
    mesh: &Mesh,
    log: &Log,
    unit: &Name,
    conn: &mut Conn,
) -> Result<Vec<String>, Fault> {
    let mut done = Vec::new();
    let created = init::create_topics(mesh, unit).await?;
    done.extend(created.iter().map(|topic| format!("{unit}: topic {topic}")));
    let created = init::create_schema(mesh, mesh.store(unit, &log.store)?).await?;
    done.extend(created.iter().map(|object| format!("{unit}.{}: {object}", log.store)));
    let mut authority = connect(mesh.store(&log.unit, &log.store)?).await?;
    done.extend(create_tables(mesh, log, unit, (&mut authority, conn)).await?);
    // The new unit's log begins behind its tables.
    let own = Log { unit: unit.clone(), store: log.store.clone() };
    if mesh.logs().any(|(known, _)| known == own)
        && let Some((position, _)) = init::start_log(mesh, &own).await?
    {
        done.push(format!("{own}: captured from {position} on"));
    }
    for (known, to, flow) in mesh.ways().filter(|(known, ..)| *known == own) {
        let lanes = init::create_lanes(mesh, &known, &to, flow).await?;
        done.extend((lanes > 0).then(|| format!("{known} to {to}: {lanes} lanes in the ledger")));
    }
    let known: Vec<Log> = ledger::read_logs(conn).await?.into_iter().map(|(log, ..)| log).collect();
    let wanted: Vec<Log> = mesh
        .logs_to(unit)
        .map(|(log, _)| log)
        .filter(|wanted| wanted.store == log.store && !known.contains(wanted))
        .collect();
    let seeds = seeds(mesh, log, &wanted, &mut authority).await?;
    for wanted in &wanted {
        let lanes = seeds.iter().filter(|seed| seed.log == *wanted).count();
        done.push(format!(
            "{wanted} to {unit}: {lanes} lanes in the ledger, from where {} stands",
            log.unit
        ));
    }
    // From the first row on that its sinks may write, it is a unit that joins.
    let tables = tables::list(conn, &routing_of(mesh, log, unit)?).await?;
    let named = |table: tables::Carried| TableName { database: table.name.0, table: table.name.1 };
    let tables: Vec<TableName> = tables.into_iter().map(named).collect();
    let filler = Filler::Join(unit.clone());
    filling::begin(conn, &tables, log, (&filler.to_string(), filler.takes_over())).await?;
    plant(conn, &seeds).await?;
    Ok(done)
}

/// Where the new unit's lanes begin.
async fn seeds(
    mesh: &Mesh,
    log: &Log,
    wanted: &[Log],
    authority: &mut Conn,
) -> Result<Vec<Seed>, Fault> {
    for of in wanted {
        if let Some((table, _)) = park::read_all(authority, of).await?.first() {
            let (unit, flow) = (&log.unit, Topics::flow(of, &log.unit));
            return Err(Fault::fatal(
                Code::Parked,
                format!("{table} is parked in unit {unit}, whose ledger is taken over: it lacks what {of} brought"),
            )
            .hint(format!("mend it and unitflow resume {flow} --table {table} --why …, then this again")));
        }
    }
    for of in wanted {
        if !passed::lanes(authority, of).await?.is_empty() {
            let unit = &log.unit;
            let what = format!(
                "unit {unit} lacks what it passed over of {of}, and its ledger is taken over"
            );
            let command = bridge::resync(&of.unit, Some(unit));
            return Err(
                Fault::fatal(Code::OffsetGone, what).hint(format!("{command}, then this again"))
            );
        }
    }
    let mut seeds = Vec::new();
    if wanted.contains(log) {
        seeds.extend(ends(mesh, log).await?);
    }
    let rows: Vec<(String, i32, u64, String, i64, Option<u64>)> = authority
        .query("SELECT log, lane, seq, topic_id, topic_offset, barrier FROM unitflow.ledger")
        .await
        .map_err(|error| fault(&error).at("unitflow.ledger"))?;
    for (name, lane, seq, topic_id, topic_offset, barrier) in rows {
        let Some(of) = Log::parse(&name).filter(|of| wanted.contains(of)) else { continue };
        seeds.push(Seed { log: of, lane, seq, topic_id, topic_offset, barrier });
    }
    let lacking = wanted.iter().find(|wanted| seeds.iter().all(|seed| seed.log != **wanted));
    match lacking {
        None => Ok(seeds),
        Some(other) => Err(Fault::fatal(
            Code::LedgerMissing,
            format!("unit {} does not apply {other}, so a unit that is filled from it could not go on with that log", log.unit),
        )
        .hint("fill it from a unit that all others flow to")),
    }
}

/// The present end of each lane of the authority's own log.
async fn ends(mesh: &Mesh, log: &Log) -> Result<Vec<Seed>, Fault> {
    let broker = &mesh.unit(mesh.read_at(log))?.broker;
    let topic = mesh.topics.tagged(log);
    let found = topics::describe(broker, &[&topic]).await?.pop().flatten();
    let found = found.ok_or_else(|| {
        Fault::fatal(Code::TopicMissing, format!("the topic {topic} does not exist"))
            .hint("unitflow init first, for the mesh without the new unit")
    })?;
    let mut seeds = Vec::new();
    for lane in 0..mesh.flows[&log.store].routing.partitions {
        let record = last_record(broker, &topic, lane).await?.ok_or_else(|| {
            Fault::fatal(Code::OffsetGone, format!("{topic}[{lane}] holds no record to go on from"))
                .hint("write something in that unit and try again: its next watermark is enough")
        })?;
        let tag = Tag::parse(record.header(HEADER).unwrap_or_default())?;
        seeds.push(Seed {
            log: log.clone(),
            lane,
            seq: tag.seq.0,
            topic_id: found.id.as_str().to_owned(),
            topic_offset: record.next_offset,
            barrier: None,
        });
    }
    Ok(seeds)
}

/// All rows in one transaction: a unit half seeded would look as one that lost its place.
async fn plant(conn: &mut Conn, seeds: &[Seed]) -> Result<(), Fault> {
    let judge = |error: mysql_async::Error| fault(&error).at("unitflow.ledger");
    conn.query_drop("BEGIN").await.map_err(judge)?;
    for seed in seeds {
        conn.exec_drop(
            "INSERT INTO unitflow.ledger (log, lane, seq, topic_id, topic_offset, origin, barrier) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                seed.log.to_string(),
                seed.lane,
                Seq(seed.seq).0,
                &seed.topic_id,
                seed.topic_offset,
                seed.log.unit.as_str(),
                seed.barrier,
            ),
        )
        .await
        .map_err(judge)?;
    }
    conn.query_drop("COMMIT").await.map_err(judge)
}

/// Creates the tables that the new unit lacks, as the authority has them.
async fn create_tables(
    mesh: &Mesh,
    log: &Log,
    unit: &Name,
    (authority, conn): (&mut Conn, &mut Conn),
) -> Result<Vec<String>, Fault> {
    let routing = mesh.routing(log)?;
    let wanted = tables::list(authority, &routing).await?;
    let present = tables::list(conn, &routing_of(mesh, log, unit)?).await?;
    let missing: Vec<_> = wanted
        .iter()
        .filter(|table| present.iter().all(|known| known.name != table.name))
        .collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let flavors: (Flavor, Flavor) =
        (Server::read(authority).await?.flavor, Server::read(conn).await?.flavor);
    if flavors.0 != flavors.1 {
        let names: Vec<_> =
            missing.iter().map(|table| format!("{}.{}", table.name.0, table.name.1)).collect();
        return Err(Fault::fatal(Code::Table, format!("unit {unit} lacks {}", names.join(", ")))
            .hint(format!(
                "create them there: {} and {} describe tables in different words",
                flavors.0, flavors.1
            )));
    }
    let rename = mesh.rename(unit, &log.store)?;
    let judge = |error: mysql_async::Error| fault(&error);
    conn.query_drop("SET SESSION foreign_key_checks=0").await.map_err(judge)?;
    let mut done = Vec::new();
    for table in missing {
        let (database, name) =
            rename.local(&table.name.0, &table.name.1).unwrap_or(table.name.clone());
        let query = format!("SHOW CREATE TABLE {}", quoted(&table.local));
        let (_, create): (String, String) =
            authority.query_first(query).await.map_err(judge)?.unwrap_or_default();
        let body = body_of(&create, &table.local.1);
        let database = quoted_name(&database);
        for statement in [
            format!("CREATE DATABASE IF NOT EXISTS {database}"),
            format!("USE {database}"),
            format!("CREATE TABLE {} ({body}", quoted_name(&name)),
        ] {
            conn.query_drop(statement).await.map_err(judge)?;
        }
        info!(table = name, "created");
        done.push(format!("{unit}.{}: table {}.{}", log.store, table.name.0, table.name.1));
    }
    Ok(done)
}

/// What `SHOW CREATE TABLE` says behind a table's name, which may hold anything.
fn body_of<'a>(create: &'a str, name: &str) -> &'a str {
    let head = format!("CREATE TABLE {} (", quoted_name(name));
    let body = create.strip_prefix(&head);
    body.unwrap_or_else(|| create.split_once('(').map_or("", |(_, body)| body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_may_have_any_name() {
        let create = "CREATE TABLE `odd (``name` (\n  `id` int\n) ENGINE=InnoDB";
        assert_eq!(body_of(create, "odd (`name"), "\n  `id` int\n) ENGINE=InnoDB");
        assert_eq!(body_of("CREATE TABLE plain (id int)", "plain"), "id int)");
    }
}
