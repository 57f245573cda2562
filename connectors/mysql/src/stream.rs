//! The binlog as a stream of changes.
//!
//! # What it guarantees
//!
//! * **Order.** Events come in the order of the source's log. All events of a transaction stand
//!   together: rows and statements, then [`Event::End`], also where there are no rows.
//! * **Nothing twice, nothing left out.** After [`Stream::open`] with the position that stood
//!   beside some event, the next event is the one that followed it. Half a transaction is gone on
//!   with at the row after the last. The server is asked by GTID, so that a failover to a replica
//!   changes nothing.
//! * **No silent rewriting of history.** `open` refuses a server that lacks what was captured
//!   ([`Code::SourceLostTail`], listing it), that no longer keeps what was not
//!   ([`Code::PositionPurged`]), or whose last captured transaction differs from what was
//!   captured, by a digest over its rows. It never starts elsewhere than asked.
//! * **XA.** What was only prepared is no change yet: its rows come when it commits, as rows of the
//!   committing transaction, also after a restart; see `prepared`.
//! * **Nothing unknown is passed over.** Events, types and encodings that the decoder does not
//!   know end the stream with a fault that names them and their place.
//! * **Liveness.** The server sends a heartbeat whenever it has had nothing else to send for
//!   [`Options::heartbeat`]; silence for several of these is a fault.
//!
//! After any fault the stream is of no more use: open another.

mod prepared;
mod resume;
mod source;

use std::collections::HashMap;
use std::time::Duration;

use tracing::info;
use unitflow_change::ddl::Statement;
use unitflow_change::envelope::Op;
use unitflow_change::fault::{Code, Fault};
use unitflow_change::form::Form;
use unitflow_change::gtid::Gtid;
use unitflow_change::position::{Captured, Digest, Open, Position};

use self::prepared::{Replay, Spare};
use self::resume::{before, check, other_kind, warn_uncompared, without};
use self::source::{Found, Source};
use crate::connect::{self, Server, Store};

/// How to read a binlog.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the server knows this reader by; no other replica or reader of it may have the same.
    /// A reader with the same number takes the stream over, so a worker that replaces a lost one
    /// ends the lost one's stream.
    pub server_id: u32,
    /// How often an idle server says that it is alive.
    pub heartbeat: Duration,
    /// `source.name` in the envelope: `A.orders`.
    pub connector_name: String,
    /// How keys and values are written.
    pub form: Form,
    /// The server that was captured from last, as [`Stream::server`] named it.
    pub server: Option<String>,
}

impl Options {
    /// Options with a heartbeat each second and plain records.
    pub fn new(server_id: u32, connector_name: impl Into<String>) -> Self {
        Self {
            server_id,
            heartbeat: Duration::from_secs(1),
            connector_name: connector_name.into(),
            form: Form::Plain,
            server: None,
        }
    }
}

/// The transaction of the current event.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Its name.
    pub gtid: Gtid,
    /// The name as text.
    pub gtid_text: String,
    /// When it committed where it was written first, in µs since 1970; MariaDB: whole seconds.
    pub commit_us: u64,
    /// The header time of its start, in seconds since 1970; a session may have set it
    /// (`SET timestamp`).
    pub timestamp: u32,
    /// The server on which it committed first.
    pub server_id: u32,
}

/// One row change, encoded.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The database.
    pub database: &'a str,
    /// The table.
    pub table: &'a str,
    /// What happened.
    pub op: Op,
    /// The record's key, plain: `["db","table",{"id":1}]`, `null` in place of the columns where the
    /// table has no primary key.
    pub key: &'a [u8],
    /// The record's value: Debezium's envelope.
    pub value: &'a [u8],
    /// The update changed the primary key; `key` is then the one before.
    pub moves: bool,
}

/// What the stream gives.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// One row change.
    Row(Row<'a>),
    /// A statement that is logged as text and commits by itself: DDL, grants and the like. It is
    /// a transaction of its own, except for `CREATE TABLE … SELECT`, which is followed by rows.
    Ddl(&'a Statement),
    /// The current transaction is complete.
    End,
    /// The server is alive and had nothing to send for a while, or only what it was told to leave
    /// out: it need not be at the end of its log.
    Heartbeat,
}

/// A binlog as a stream of changes; the module says what it guarantees.
pub struct Stream {
    store: Store,
    /// Which server sends.
    server: String,
    options: Options,
    source: Source,
    position: Position,
    /// Rows that were logged before, of the XA transaction that commits.
    replay: Option<Replay>,
    /// The connection that such rows were read by last.
    spare: Option<Spare>,
    /// How many events were passed, and after how many each prepared transaction came.
    passed: u64,
    marks: HashMap<Gtid, u64>,
    /// Transactions came before the open one that are not captured yet: ask again once it ends.
    passed_over: bool,
    /// Transactions were passed over and have to be asked for again, by another connection.
    behind: bool,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("store", &self.store.name)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Stream {
    /// Connects to whichever endpoint answers, checks that the position can be gone on from, and
    /// reads the last captured transaction again to see that it is still the same.
    ///
    /// A position with an empty `done` reads the log from its start and is refused like any other
    /// where that is purged.
    pub async fn open(store: &Store, position: Position, options: Options) -> Result<Self, Fault> {
        Self::open_unnamed(store, position, options).await.map_err(|fault| named(fault, store))
    }

    async fn open_unnamed(
        store: &Store,
        position: Position,
        options: Options,
    ) -> Result<Self, Fault> {
        let mut conn = connect::connect(store).await?;
        let server = Server::read(&mut conn).await?;
        check(&server, &position).map_err(|fault| replaced(fault, &server, &options))?;
        let identity = server.identity();
        if options.server.as_ref().is_some_and(|before| *before != identity) {
            info!(
                store = store.name,
                server = identity,
                before = options.server,
                "another server, which has all that was captured"
            );
        }
        let mut again = position.last.clone();
        if again.as_ref().is_some_and(|last| server.purged.contains(&last.gtid)) {
            warn_uncompared(store, again.take().as_ref());
        }
        let start = match &again {
            Some(last) => without(&position.done, last),
            None => position.done.clone(),
        };
        info!(store = store.name, server = %server.flavor, version = ?server.version, "reading the binlog");
        let source = Source::start(store, conn, &server, &start, &options).await?;
        let mut stream = Self {
            store: store.clone(),
            server: identity,
            options,
            source,
            position,
            replay: None,
            spare: None,
            passed: 0,
            marks: HashMap::new(),
            passed_over: false,
            behind: false,
        };
        if let Some(last) = again {
            let compared = stream.compare_last(&last, &server).await;
            compared.map_err(|fault| replaced(fault, &server, &stream.options))?;
        }
        if let Some(open) = stream.position.open.clone() {
            stream.go_on_with(&open, &server).await?;
        }
        Ok(stream)
    }

    /// The next event.
    ///
    /// Cancel safe: nothing is lost where the future is dropped before it is ready.
    pub async fn next(&mut self) -> Result<Event<'_>, Fault> {
        let found = match self.advance().await {
            Ok(found) => found,
            Err(fault) => return Err(named(fault, &self.store)),
        };
        let replayed = self.replay.as_ref().and_then(Replay::source);
        let decoder = &replayed.unwrap_or(&self.source).decoder;
        Ok(match found {
            Found::Row => match decoder.row() {
                Some(row) => Event::Row(row),
                None => {
                    return Err(Fault::fatal(Code::Bug, "a row was announced that is not there"));
                }
            },
            Found::Ddl => Event::Ddl(decoder.ddl()),
            Found::Heartbeat => Event::Heartbeat,
            _ => Event::End,
        })
    }

    /// The server that sends, for [`Options::server`] of the next stream.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// As of the last event that `next` returned; what the caller stores together with that
    /// event's record.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The transaction of the last row, statement or end that `next` returned.
    #[must_use]
    pub fn transaction(&self) -> &Transaction {
        self.replay.as_ref().map_or(self.source.decoder.transaction(), Replay::committing)
    }

    /// Closes the connection in an orderly way.
    pub async fn close(self) {
        let _ = self.source.binlog.close().await;
        if let Some(conn) = self.source.questions {
            let _ = conn.disconnect().await;
        }
    }

    /// Cancel safe: what an await was for is asked for again by the next call.
    async fn advance(&mut self) -> Result<Found, Fault> {
        if self.behind {
            self.ask_again().await?;
        }
        loop {
            if let Some(replay) = &mut self.replay {
                if replay.next().await? {
                    let read = replay.read();
                    return Ok(self.counted(Found::Row, read.unwrap_or_default()));
                }
                if let Some(replay) = self.replay.take() {
                    self.keep(replay);
                }
                return self.end();
            }
            let found = self.source.advance().await?;
            self.passed += 1;
            let decoder = &self.source.decoder;
            match found {
                // They come when the transaction commits.
                Found::Row | Found::Ddl if decoder.is_xa() => {}
                Found::Row | Found::Ddl => {
                    let read = (decoder.count(), decoder.digest());
                    if decoder.count() == 1 {
                        self.expect_new()?;
                    }
                    return Ok(self.counted(found, read));
                }
                Found::End => return self.end(),
                Found::Completed(false) => {
                    self.forget();
                    return self.end();
                }
                Found::Prepared => {
                    self.expect_new()?;
                    let prepared = self.prepared();
                    self.position.prepared.push(prepared);
                    return self.end();
                }
                Found::OnePhase | Found::Completed(true) => {
                    self.expect_new()?;
                    self.replay = self.replay_of(found)?;
                }
                Found::Heartbeat => {
                    self.close_spare();
                    return Ok(found);
                }
            }
        }
    }

    /// One row or statement more of the open transaction.
    fn counted(&mut self, found: Found, (rows, digest): (u64, Digest)) -> Found {
        match &mut self.position.open {
            Some(open) => (open.rows, open.digest) = (rows, digest),
            open @ None => {
                let gtid = self.source.decoder.transaction().gtid.clone();
                *open = Some(Open { gtid, rows, digest });
            }
        }
        found
    }

    /// The transaction's end. What is kept of it is what the log holds under its name, which of an
    /// XA transaction's commit is nothing.
    fn end(&mut self) -> Result<Found, Fault> {
        if self.source.decoder.count() == 0 {
            self.expect_new()?;
        }
        let decoder = &mut self.source.decoder;
        let gtid = decoder.transaction().gtid.clone();
        let captured = Captured {
            rows: decoder.count(),
            digest: decoder.digest(),
            before: before(&self.position.done, &gtid),
            gtid,
        };
        if !self.position.done.insert(&captured.gtid) {
            return Err(other_kind());
        }
        // Prepared by this transaction, or completed by it.
        self.position
            .prepared
            .retain(|one| one.xid != decoder.xid() || one.transaction.gtid == captured.gtid);
        self.position.last = Some(captured);
        self.position.open = None;
        decoder.ended();
        self.behind = std::mem::take(&mut self.passed_over);
        Ok(Found::End)
    }

    /// A server never sends what it was told is done, unless its sequences go back.
    fn expect_new(&self) -> Result<(), Fault> {
        let gtid = &self.source.decoder.transaction().gtid;
        if !self.position.done.contains(gtid) {
            return Ok(());
        }
        Err(Fault::fatal(Code::BinlogCorrupt, format!("{gtid} comes again, or its number goes back"))
            .hint("MariaDB: set gtid_strict_mode=ON, and let each server that takes writes have its own gtid_domain_id"))
    }
}

/// Where another server than before lacks something, says so.
fn replaced(fault: Fault, server: &Server, options: &Options) -> Fault {
    let identity = server.identity();
    match &options.server {
        Some(before) if *before != identity => {
            let what = format!("{}; it is another server, {identity}, not {before}", fault.what);
            Fault { what, ..fault }
        }
        _ => fault,
    }
}

/// Says which store it was, where that is not said yet.
fn named(fault: Fault, store: &Store) -> Fault {
    if fault.what.starts_with(&store.name) { fault } else { fault.at(&store.name) }
}
