//! Runs a schema change in the target once, whatever happens in between.
//!
//! A statement commits by itself: it can share no transaction with the ledger. So it is announced
//! first, in a marked transaction of its own, together with what the target had executed by then;
//! then run, with a comment that names the announcement; then the ledger moves past it. After a
//! crash the target's own log, read from where the announcement stands, tells whether the
//! statement was run.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use tokio::time::{Instant, sleep_until};
use tracing::info;
use unitflow_change::gtid::GtidSet;
use unitflow_change::intent::Intent;
use unitflow_change::position::Position;
use unitflow_change::{Code, Fault, inject};
use unitflow_mysql::connect::{Server, Store, connect_to_write, fault as judge};
use unitflow_mysql::literal::{quote_identifier, quote_string};
use unitflow_mysql::stream::{Event, Options, Stream};
use xxhash_rust::xxh3::xxh3_64;

use super::apply::{Applier, End};

/// How often the lane's own connection shows that it is alive while a statement runs.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Heartbeats without an event after which the log's end can't be made out.
const BEATS_MAX: u32 = 5;

/// What the session needs besides the statement's own mode. A statement that waits for a table
/// makes all others wait behind it, so it gives up soon and is tried again. The source has checked
/// foreign keys.
const SESSION: &str = "SET SESSION lock_wait_timeout=10, SESSION foreign_key_checks=0";

/// The modes that both servers know, by their bits.
const MODES: [(u32, &str); 15] = [
    (0, "REAL_AS_FLOAT"),
    (1, "PIPES_AS_CONCAT"),
    (2, "ANSI_QUOTES"),
    (3, "IGNORE_SPACE"),
    (6, "NO_UNSIGNED_SUBTRACTION"),
    (19, "NO_AUTO_VALUE_ON_ZERO"),
    (20, "NO_BACKSLASH_ESCAPES"),
    (21, "STRICT_TRANS_TABLES"),
    (22, "STRICT_ALL_TABLES"),
    (23, "NO_ZERO_IN_DATE"),
    (24, "NO_ZERO_DATE"),
    (25, "ALLOW_INVALID_DATES"),
    (26, "ERROR_FOR_DIVISION_BY_ZERO"),
    (29, "HIGH_NOT_PRECEDENCE"),
    (30, "NO_ENGINE_SUBSTITUTION"),
];

/// Runs the announced statement unless it was run before. The ledger stands at `at` and stays
/// there; who calls moves it, together with [`done`].
///
/// A fault that is no retry is the server's refusal: nothing was changed.
pub async fn run_once(
    applier: &mut Applier,
    store: &Store,
    intent: &Intent,
    at: End,
) -> Result<(), Fault> {
    match position(applier, intent).await? {
        None => {
            announce(applier, store, intent, at).await?;
            inject::die_at("die_after_intent");
        }
        Some(before) if was_run(store, intent, &before).await? => {
            info!(log = intent.log, seq = intent.seq.0, "the schema change was run before");
            return Ok(());
        }
        Some(_) => {}
    }
    info!(log = intent.log, seq = intent.seq.0, ddl = intent.statement.ddl, "schema change");
    let run = execute(store, intent);
    tokio::pin!(run);
    let outcome = loop {
        tokio::select! {
            outcome = &mut run => break outcome,
            () = sleep_until(Instant::now() + PING_EVERY) => applier.ping().await?,
        }
    };
    inject::die_at("die_after_ddl");
    match outcome {
        Err(refused) if !refused.is_retry() => {
            // An attempt whose answer was lost may have come through meanwhile.
            let before = position(applier, intent).await?.unwrap_or_default();
            if was_run(store, intent, &before).await? { Ok(()) } else { Err(refused) }
        }
        outcome => outcome,
    }
}

/// The statement that notes that the announced one was run; it changes one row.
#[must_use]
pub fn done(intent: &Intent) -> String {
    format!(
        "UPDATE unitflow.ddl SET done_at=CURRENT_TIMESTAMP(6) WHERE log='{}' AND seq={}",
        intent.log, intent.seq
    )
}

/// What the target had executed when the statement was announced.
async fn position(applier: &mut Applier, intent: &Intent) -> Result<Option<String>, Fault> {
    let query = "SELECT position FROM unitflow.ddl WHERE log = ? AND seq = ?";
    let found = applier.conn().exec_first(query, (intent.log.as_str(), intent.seq.0)).await;
    found.map_err(|error| judge(&error).at("unitflow.ddl"))
}

async fn announce(
    applier: &mut Applier,
    store: &Store,
    intent: &Intent,
    at: End,
) -> Result<(), Fault> {
    let mut conn = connect_to_write(store).await?;
    let executed = Server::read(&mut conn).await?.executed.to_string();
    let mut row = format!(
        "INSERT INTO unitflow.ddl (log,seq,db,ddl,sql_mode,position) VALUES ('{}',{},",
        intent.log, intent.seq
    )
    .into_bytes();
    quote_string(&mut row, &intent.statement.database);
    row.push(b',');
    quote_string(&mut row, &intent.statement.ddl);
    row.extend_from_slice(format!(",{},", intent.statement.sql_mode).as_bytes());
    quote_string(&mut row, &executed);
    row.push(b')');
    applier.step_with(at, at, false, &[row]).await
}

async fn execute(store: &Store, intent: &Intent) -> Result<(), Fault> {
    let mut conn = connect_to_write(store).await?;
    let statement = &intent.statement;
    let modes: Vec<&str> = MODES
        .iter()
        .filter(|(bit, _)| statement.sql_mode >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    let modes = format!("SET SESSION sql_mode='{}'", modes.join(","));
    for setting in [SESSION, &modes] {
        conn.query_drop(setting).await.map_err(|error| judge(&error))?;
    }
    if !statement.database.is_empty() {
        let mut name = b"USE ".to_vec();
        quote_identifier(&mut name, &statement.database);
        let chosen = conn.query_drop(name).await;
        // It need not be there where the statement names its tables in full.
        if let Err(error) = chosen
            && !is_unknown_database(&error)
        {
            return Err(judge(&error));
        }
    }
    // MySQL logs CREATE TABLE … SELECT with the start of the transaction that its rows are in.
    let text = statement.ddl.strip_suffix("START TRANSACTION").unwrap_or(&statement.ddl);
    let text = format!("{text}\n{}", intent.comment());
    conn.query_drop(text).await.map_err(|error| judge(&error))
}

fn is_unknown_database(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Server(server) if server.code == 1049)
}

/// Whether the target's log, behind what it had executed, holds the statement.
async fn was_run(store: &Store, intent: &Intent, before: &str) -> Result<bool, Fault> {
    let before: GtidSet = before.parse().map_err(|error| {
        Fault::fatal(
            Code::PositionUnreadable,
            format!("unitflow.ddl: the position of {} {}: {error}", intent.log, intent.seq),
        )
    })?;
    let executed = Server::read(&mut connect_to_write(store).await?).await?.executed;
    let name = format!("{} ddl", intent.log);
    let options = Options::new(0x6000_0000 | (xxh3_64(name.as_bytes()) as u32 >> 4), name);
    let mut stream = Stream::open(store, Position::after(before), options).await?;
    let mut beats = 0;
    let found = loop {
        if executed.is_subset(&stream.position().done) {
            break false;
        }
        match stream.next().await? {
            Event::Ddl(statement) if intent.is(statement, &statement.class()) => break true,
            Event::Heartbeat if beats == BEATS_MAX => {
                let what = "the target's log does not reach what it says it has executed, so \
                            whether a schema change was run can't be seen";
                return Err(Fault::retry(Code::Timeout, what));
            }
            Event::Heartbeat => beats += 1,
            _ => beats = 0,
        }
    };
    stream.close().await;
    Ok(found)
}
