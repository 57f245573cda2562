//! Runs a schema change in the target once, whatever happens in between.
//!
//! A statement commits by itself: it can share no transaction with the ledger. So it is announced
//! first, in a marked transaction of its own, together with what the target had executed by then;
//! then run, with a comment that names the announcement; then the ledger moves past it. After a
//! crash the target's own log, read from where the announcement stands, tells whether the
//! statement was run.

use std::fmt::Display;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::{Instant, sleep_until};
use tracing::info;
use unitflow_change::ddl::{Session, Statement};
use unitflow_change::gtid::GtidSet;
use unitflow_change::intent::Intent;
use unitflow_change::position::Position;
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault, inject};
use unitflow_mysql::connect::{Server, Store, connect_to_write, fault as judge};
use unitflow_mysql::literal::{quote_identifier, quote_string};
use unitflow_mysql::stream::{Event, Options, Stream};
use xxhash_rust::xxh3::xxh3_64;

use super::apply::{Applier, End};
use super::session;

/// How often the lane's own connection shows that it is alive while a statement runs.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Heartbeats without an event after which the log's end can't be made out.
const BEATS_MAX: u32 = 5;

/// How long an attempt of before, whose worker is gone, may still run before this one gives up.
const HELD_SECONDS: u64 = 10;

/// What the session needs besides what the statement's own had. A statement that waits for a table
/// makes all others wait behind it, so it gives up soon and is tried again. The source has checked
/// foreign keys.
const SESSION: &str = "SET SESSION lock_wait_timeout=10, SESSION foreign_key_checks=0";

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
    let mut conn = connect_to_write(store).await?;
    hold(&mut conn, intent).await?;
    match position(applier, intent).await? {
        None => {
            announce(applier, &mut conn, intent, at).await?;
            inject::die_at("die_after_intent");
        }
        Some(before) if was_run(store, intent, &before).await? => {
            info!(log = intent.log, seq = intent.seq.0, "the schema change was run before");
            return Ok(());
        }
        Some(_) => {}
    }
    info!(log = intent.log, seq = intent.seq.0, ddl = intent.statement.ddl, "schema change");
    let run = execute(&mut conn, intent);
    tokio::pin!(run);
    let outcome = loop {
        tokio::select! {
            outcome = &mut run => break outcome,
            () = sleep_until(Instant::now() + PING_EVERY) => applier.ping().await?,
        }
    };
    inject::die_at("die_after_ddl");
    outcome
}

/// A server goes on with the statement of a client that is gone, and logs it only at its end. The
/// lock is its connection's, so whoever gets it finds in the log what was run before.
async fn hold(conn: &mut Conn, intent: &Intent) -> Result<(), Fault> {
    let name = format!("unitflow ddl {:016x}", xxh3_64(intent.log.as_bytes()));
    let query = format!("SELECT GET_LOCK('{name}', {HELD_SECONDS})");
    match conn.query_first::<Option<i64>, _>(query).await {
        Ok(Some(Some(1))) => Ok(()),
        Ok(_) => {
            let what = "an earlier attempt at a schema change still runs at the target";
            Err(Fault::retry(Code::Timeout, what))
        }
        Err(error) => Err(judge(&error)),
    }
}

/// An announcement that stands in the target, and whether it was seen to be done.
pub async fn announced(
    applier: &mut Applier,
    log: &str,
    seq: Seq,
) -> Result<Option<(Intent, bool)>, Fault> {
    let query = "SELECT db, ddl, sql_mode, session, done_at IS NOT NULL FROM unitflow.ddl \
                 WHERE log = ? AND seq = ?";
    let found: Option<(String, String, u64, String, bool)> =
        applier.ask(query, (log, seq.0)).await?;
    let Some((database, ddl, sql_mode, session, ran)) = found else { return Ok(None) };
    let session = Session::parse(&session)?;
    let statement = Statement { session, ..Statement::new(&database, &ddl, sql_mode) };
    Ok(Some((Intent { log: log.to_owned(), seq, statement }, ran)))
}

/// The statement that notes that the announced one was run, by whomever; it changes one row, once.
#[must_use]
pub fn done(log: impl Display, seq: Seq) -> String {
    format!(
        "UPDATE unitflow.ddl SET done_at=CURRENT_TIMESTAMP(6) \
         WHERE log='{log}' AND seq={seq} AND done_at IS NULL"
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
    conn: &mut Conn,
    intent: &Intent,
    at: End,
) -> Result<(), Fault> {
    let executed = Server::read(conn).await?.executed.to_string();
    let Intent { log, seq, statement } = intent;
    let session = statement.session.to_json();
    let mut row = format!(
        "INSERT INTO unitflow.ddl (log,seq,sql_mode,db,ddl,session,position) VALUES ('{log}',{seq},{}",
        statement.sql_mode
    )
    .into_bytes();
    for text in [&statement.database, &statement.ddl, &session, &executed] {
        row.push(b',');
        quote_string(&mut row, text);
    }
    row.push(b')');
    applier.step_with(at, at, false, &[row]).await
}

async fn execute(conn: &mut Conn, intent: &Intent) -> Result<(), Fault> {
    let statement = &intent.statement;
    session::enter(conn, statement).await?;
    conn.query_drop(SESSION).await.map_err(|error| judge(&error))?;
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
    let text = statement.as_read();
    let text = text.strip_suffix("START TRANSACTION").unwrap_or(&text);
    let text = format!("{text}\n{}", intent.comment());
    conn.query_drop(text).await.map_err(|error| judge(&error))
}

fn is_unknown_database(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Server(server) if server.code == 1049)
}

/// Whether the target's log, behind what it had executed, holds the statement.
async fn was_run(store: &Store, intent: &Intent, before: &str) -> Result<bool, Fault> {
    if inject::on("forget_ddl") {
        return Ok(false);
    }
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
