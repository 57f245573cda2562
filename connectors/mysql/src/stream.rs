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
//! * **Nothing unknown is passed over.** Events, types and encodings that the decoder does not
//!   know end the stream with a fault that names them and their place.
//! * **Liveness.** The server sends a heartbeat whenever it has had nothing else to send for
//!   [`Options::heartbeat`]; silence for several of these is a fault.
//!
//! After any fault the stream is of no more use: open another.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use mysql_async::binlog::events;
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, Sid};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use unitflow_change::ddl::Statement;
use unitflow_change::envelope::Op;
use unitflow_change::fault::{Code, Fault};
use unitflow_change::gtid::{Gtid, GtidSet, Uuid};
use unitflow_change::position::{Captured, Open, Position};

use crate::connect::{self, Flavor, Server, Store};
use crate::decode::{Decoder, Step};
use crate::event::Raw;
use crate::table::{Disguised, Disguises};

/// How many heartbeats may stay out before the connection counts as dead.
const HEARTBEATS_MISSED_MAX: u32 = 4;

/// The least patience with a silent server: one that is busy flushing may hold heartbeats back.
const SILENCE_MIN: Duration = Duration::from_secs(5);

/// How long the server keeps a reader that takes nothing, as while Kafka is away.
const WRITE_SECONDS_MAX: u32 = 3600;

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
}

impl Options {
    /// Options with a heartbeat each second.
    pub fn new(server_id: u32, connector_name: impl Into<String>) -> Self {
        Self { server_id, heartbeat: Duration::from_secs(1), connector_name: connector_name.into() }
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
    /// The record's key: `["db","table",{"id":1}]`, `null` in place of the columns where the
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

/// What `advance` found; the event itself stands in the decoder's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Row,
    Ddl,
    End,
    Heartbeat,
}

/// A binlog as a stream of changes; the module says what it guarantees.
pub struct Stream {
    store: Store,
    options: Options,
    source: Source,
    position: Position,
    /// Transactions came before the open one that are not captured yet: ask again once it ends.
    passed_over: bool,
    /// Transactions were passed over and have to be asked for again, by another connection.
    behind: bool,
}

/// A connection that sends events, and the decoder that they are fed to.
struct Source {
    store_name: String,
    binlog: BinlogStream,
    decoder: Decoder,
    /// The event whose rows are being taken.
    event: Option<events::Event>,
    silence: Duration,
    /// How long was waited since the server last sent something. Kept here, since whoever waits
    /// may give up and ask again before the silence is over; time in which nobody asked does not
    /// count.
    waited: Duration,
    /// For questions about columns (MariaDB).
    questions: Option<Conn>,
    /// The question under way: it goes on where whoever waits for it gives up and comes again.
    asking: Option<AbortOnDropHandle<Result<(Conn, Disguises), Fault>>>,
    store: Store,
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
        check(&server, &position)?;
        let mut again = position.last.clone();
        if again.as_ref().is_some_and(|last| server.purged.contains(&last.gtid)) {
            warn_uncompared(store, again.take().as_ref());
        }
        let start = match &again {
            Some(last) => without(&position.done, last),
            None => position.done.clone(),
        };
        info!(store = store.name, server = %server.flavor, version = ?server.version, "reading the binlog");
        let source = Source::start(store, conn, server.flavor, &start, &options).await?;
        let mut stream = Self {
            store: store.clone(),
            options,
            source,
            position,
            passed_over: false,
            behind: false,
        };
        if let Some(last) = again {
            stream.compare_last(&last, &server).await?;
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
        let decoder = &self.source.decoder;
        Ok(match found {
            Found::Row => match decoder.row() {
                Some(row) => Event::Row(row),
                None => {
                    return Err(Fault::fatal(Code::Bug, "a row was announced that is not there"));
                }
            },
            Found::Ddl => Event::Ddl(decoder.ddl()),
            Found::End => Event::End,
            Found::Heartbeat => Event::Heartbeat,
        })
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
        self.source.decoder.transaction()
    }

    /// Closes the connection in an orderly way.
    pub async fn close(self) {
        let _ = self.source.binlog.close().await;
        if let Some(conn) = self.source.questions {
            let _ = conn.disconnect().await;
        }
    }

    async fn advance(&mut self) -> Result<Found, Fault> {
        if self.behind {
            self.ask_again().await?;
        }
        let found = self.source.advance().await?;
        let decoder = &self.source.decoder;
        let transaction = decoder.transaction();
        match found {
            Found::Row | Found::Ddl => {
                if decoder.count() == 1 {
                    self.expect_new()?;
                }
                let (rows, digest) = (decoder.count(), decoder.digest());
                match &mut self.position.open {
                    Some(open) => (open.rows, open.digest) = (rows, digest),
                    open @ None => {
                        *open = Some(Open { gtid: transaction.gtid.clone(), rows, digest })
                    }
                }
            }
            Found::End => {
                if decoder.count() == 0 {
                    self.expect_new()?;
                }
                let gtid = transaction.gtid.clone();
                let captured = Captured {
                    rows: decoder.count(),
                    digest: decoder.digest(),
                    before: before(&self.position.done, &gtid),
                    gtid,
                };
                if !self.position.done.insert(&captured.gtid) {
                    return Err(other_kind());
                }
                self.position.last = Some(captured);
                self.position.open = None;
                self.source.decoder.ended();
                self.behind = std::mem::take(&mut self.passed_over);
            }
            Found::Heartbeat => {}
        }
        Ok(found)
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

    /// Reads up to the end of the last captured transaction, and compares.
    async fn compare_last(&mut self, last: &Captured, server: &Server) -> Result<(), Fault> {
        let mut passed = GtidSet::mysql();
        match self.seek(&last.gtid, u64::MAX, &server.executed, &mut passed).await {
            Ok(true) => {}
            Ok(false) => {
                return Err(lost_tail(
                    &[last.gtid.to_string()],
                    "the source's log does not hold it any more",
                ));
            }
            // MariaDB alone does not say beforehand what it has purged.
            Err(fault)
                if fault.code == Code::PositionPurged && server.flavor == Flavor::Mariadb =>
            {
                warn_uncompared(&self.store, Some(last));
                return self.ask_again().await;
            }
            Err(fault) => return Err(fault),
        }
        let decoder = &mut self.source.decoder;
        let same = (decoder.count(), decoder.digest()) == (last.rows, last.digest);
        decoder.ended();
        if !same {
            return Err(lost_tail(
                &[last.gtid.to_string()],
                "the source has another transaction under this name than the one that was captured",
            ));
        }
        // A replica that commits in another order: what came first is still to be captured.
        if passed.is_empty() { Ok(()) } else { self.ask_again().await }
    }

    /// Reads the rows again that were captured of a transaction, and compares.
    async fn go_on_with(&mut self, open: &Open, server: &Server) -> Result<(), Fault> {
        let mut passed = GtidSet::mysql();
        let found = self.seek(&open.gtid, open.rows, &server.executed, &mut passed).await?;
        let decoder = &self.source.decoder;
        if !found || decoder.digest() != open.digest || decoder.count() != open.rows {
            return Err(lost_tail(
                &[open.gtid.to_string()],
                "the source does not have the same rows that were captured of it before its end",
            ));
        }
        self.passed_over = !passed.is_empty();
        Ok(())
    }

    /// Passes over transactions until `rows` of the wanted one were read, or its end. `false`
    /// where its end came first, or the end of what the server had when it was asked.
    async fn seek(
        &mut self,
        wanted: &Gtid,
        rows: u64,
        executed: &GtidSet,
        passed: &mut GtidSet,
    ) -> Result<bool, Fault> {
        let mut beat = None;
        for ends in 1_u64.. {
            match self.source.advance().await? {
                Found::Row | Found::Ddl => {
                    let decoder = &self.source.decoder;
                    if decoder.transaction().gtid == *wanted && decoder.count() == rows {
                        return Ok(true);
                    }
                }
                Found::End if self.source.decoder.transaction().gtid == *wanted => {
                    return Ok(rows == u64::MAX);
                }
                Found::End => {
                    passed.insert(&self.source.decoder.transaction().gtid);
                    self.source.decoder.ended();
                    let seen = || self.position.done.union(passed);
                    if ends.is_multiple_of(256)
                        && seen().is_some_and(|seen| executed.is_subset(&seen))
                    {
                        return Ok(false);
                    }
                }
                // A server that passes over what it was told to leave out also sends
                // heartbeats; one that stands at the end of its log repeats them.
                Found::Heartbeat if beat == Some(self.source.decoder.beat()) => return Ok(false),
                Found::Heartbeat => beat = Some(self.source.decoder.beat()),
            }
        }
        Ok(false)
    }

    /// Connects again and asks for what comes after `done`.
    async fn ask_again(&mut self) -> Result<(), Fault> {
        let mut conn = connect::connect(&self.store).await?;
        let server = Server::read(&mut conn).await?;
        check(&server, &self.position)?;
        self.source =
            Source::start(&self.store, conn, server.flavor, &self.position.done, &self.options)
                .await?;
        self.behind = false;
        Ok(())
    }
}

impl Source {
    async fn start(
        store: &Store,
        mut conn: Conn,
        flavor: Flavor,
        done: &GtidSet,
        options: &Options,
    ) -> Result<Self, Fault> {
        let heartbeat = options.heartbeat.max(Duration::from_millis(100)).as_nanos();
        let uuid = worker_uuid(options);
        let mut setup = format!(
            "SET @master_heartbeat_period={heartbeat}, @source_heartbeat_period={heartbeat}, \
             @master_binlog_checksum='CRC32', @source_binlog_checksum='CRC32', \
             @slave_uuid='{uuid}', @replica_uuid='{uuid}', SESSION net_write_timeout={WRITE_SECONDS_MAX}"
        );
        let mut request = BinlogStreamRequest::new(options.server_id);
        match flavor {
            Flavor::Mysql => request = request.with_gtid().with_gtid_set(sids(done)?),
            // The set's text holds digits, hyphens and commas only.
            Flavor::Mariadb => setup.push_str(&format!(
                ", @mariadb_slave_capability=4, @slave_connect_state='{done}', \
                 @slave_gtid_strict_mode=1, @slave_gtid_ignore_duplicates=0"
            )),
        }
        conn.query_drop(setup).await.map_err(|error| connect::fault(&error))?;
        let binlog = conn
            .get_binlog_stream(request)
            .await
            .map_err(|error| refused(connect::fault(&error)))?;
        Ok(Self {
            store_name: store.name.clone(),
            binlog,
            decoder: Decoder::new(flavor, &options.connector_name),
            event: None,
            silence: (options.heartbeat * HEARTBEATS_MISSED_MAX).max(SILENCE_MIN),
            waited: Duration::ZERO,
            questions: None,
            asking: None,
            store: store.clone(),
        })
    }

    /// Cancel safe: state changes only between the awaits, and what an await was for is still
    /// noted in the decoder when it is asked again.
    async fn advance(&mut self) -> Result<Found, Fault> {
        loop {
            if self.decoder.is_ending() {
                return Ok(Found::End);
            }
            if let Some((database, table)) = self.decoder.veiled() {
                let asking = self.asking.get_or_insert_with(|| {
                    let question = ask_types(
                        self.questions.take(),
                        self.store.clone(),
                        database.to_owned(),
                        table.to_owned(),
                    );
                    AbortOnDropHandle::new(tokio::spawn(question))
                });
                let answer = asking.await;
                self.asking = None;
                let (conn, types) = answer.map_err(|error| {
                    Fault::fatal(Code::Bug, format!("a question ended: {error}"))
                })??;
                self.questions = Some(conn);
                self.decoder.unveil(types)?;
            }
            if let Some(event) = &self.event {
                if self.decoder.next_row(event.header().event_type_raw(), event.data())? {
                    return Ok(Found::Row);
                }
                self.event = None;
            }
            let event = self.receive().await?;
            match self.decoder.feed(&Raw::of_driver(&event))? {
                Step::Nothing | Step::Veiled => {}
                Step::Rows => self.event = Some(event),
                Step::Ddl => return Ok(Found::Ddl),
                Step::End => return Ok(Found::End),
                Step::Heartbeat => return Ok(Found::Heartbeat),
            }
        }
    }

    async fn receive(&mut self) -> Result<events::Event, Fault> {
        // The driver takes sizes in events on trust and panics where they are wrong.
        let next = AssertUnwindSafe(self.binlog.next()).catch_unwind();
        let patience = self.silence.saturating_sub(self.waited);
        let waiting = Waiting { since: Instant::now(), waited: &mut self.waited };
        let received = tokio::time::timeout(patience, next).await;
        drop(waiting);
        match received {
            Ok(Ok(Some(Ok(event)))) => {
                self.waited = Duration::ZERO;
                Ok(event)
            }
            Ok(Ok(Some(Err(error)))) => Err(self.judge(&error)),
            Ok(Ok(None)) => {
                Err(Fault::retry(Code::Unreachable, "the server ended the binlog stream"))
            }
            Ok(Err(_)) => Err(Fault::fatal(
                Code::BinlogCorrupt,
                format!(
                    "{}: the driver could not read the event that follows",
                    self.decoder.place()
                ),
            )),
            Err(_) => Err(Fault::retry(
                Code::Unreachable,
                format!(
                    "{} is silent for {} s, not even heartbeats come",
                    self.store_name,
                    self.silence.as_secs()
                ),
            )),
        }
    }

    fn judge(&self, error: &mysql_async::Error) -> Fault {
        let mut fault = refused(connect::fault(error));
        // The server went away in the middle of a packet; the framing says it in these words.
        let cut = "bytes remaining on stream";
        // What the driver's own reading of events refuses comes as an I/O error that no socket
        // gives.
        if let mysql_async::Error::Io(mysql_async::IoError::Io(io)) = error {
            use std::io::ErrorKind;
            if io.to_string().contains(cut) {
                return Fault::retry(
                    Code::Unreachable,
                    "the server closed the connection in the middle of an event",
                );
            }
            if matches!(
                io.kind(),
                ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::Other
            ) {
                fault = Fault::fatal(Code::BinlogUnknown, format!("{}: {io}", self.decoder.place()))
                    .hint("the event that follows holds something the driver can't read; find it with mysqlbinlog");
            }
        }
        if fault.code == Code::PositionPurged {
            fault = purged(&fault.what);
        }
        fault
    }
}

/// Adds the time that it lives, also where the wait is given up.
struct Waiting<'a> {
    since: Instant,
    waited: &'a mut Duration,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *self.waited += self.since.elapsed();
    }
}

/// Says which store it was, where that is not said yet.
fn named(fault: Fault, store: &Store) -> Fault {
    if fault.what.starts_with(&store.name) { fault } else { fault.at(&store.name) }
}

/// The same for every worker that takes this stream over, so that MySQL ends the old one's.
fn worker_uuid(options: &Options) -> Uuid {
    let name = format!("unitflow/{}/{}", options.connector_name, options.server_id);
    Uuid(xxhash_rust::xxh3::xxh3_128(name.as_bytes()).to_be_bytes())
}

fn sids(set: &GtidSet) -> Result<Vec<Sid<'static>>, Fault> {
    let GtidSet::Mysql(set) = set else {
        return if set.is_empty() { Ok(Vec::new()) } else { Err(other_kind()) };
    };
    set.iter()
        .map(|(source, intervals)| {
            format!("{source}:{intervals}").parse().map_err(|error| {
                Fault::fatal(
                    Code::Bug,
                    format!("the driver does not take the GTIDs of {source}: {error}"),
                )
            })
        })
        .collect()
}

/// Whether the server has all that was captured and keeps all that was not.
fn check(server: &Server, position: &Position) -> Result<(), Fault> {
    let seen = position.seen();
    match (&seen, server.flavor) {
        (GtidSet::Mysql(_), Flavor::Mysql) | (GtidSet::Mariadb(_), Flavor::Mariadb) => {}
        (empty, _) if empty.is_empty() => {}
        _ => return Err(other_kind().at(format_args!("the server is a {}", server.flavor))),
    }
    let missing = match (&seen, server.flavor) {
        (GtidSet::Mariadb(seen), Flavor::Mariadb) => missing_mariadb(seen, &server.state),
        _ => seen.missing(&server.executed),
    };
    if !missing.is_empty() {
        let all = server.executed.is_empty();
        let why = if all {
            "its log is empty: it was reset, or is another server"
        } else {
            "it was restored, failed over to a replica that lagged, or lost its log's end in a crash"
        };
        return Err(lost_tail(&missing, why));
    }
    if server.flavor == Flavor::Mysql && !server.purged.is_subset(&position.done) {
        let gone = server.purged.missing(&position.done).join(", ");
        return Err(purged(&format!("never captured and purged: {gone}")));
    }
    Ok(())
}

/// What MariaDB lacks: a domain's state names, for each server that wrote into it, the last
/// sequence of that server.
fn missing_mariadb(
    seen: &std::collections::BTreeMap<u32, (u32, u64)>,
    state: &[(u32, u32, u64)],
) -> Vec<String> {
    seen.iter()
        .filter(|&(&domain, &(server, sequence))| {
            sequence > 0
                && !state.iter().any(|&(d, s, last)| d == domain && s == server && last >= sequence)
        })
        .map(|(domain, (server, sequence))| {
            let last = state
                .iter()
                .filter(|(d, s, _)| (d, s) == (domain, server))
                .map(|&(_, _, last)| last)
                .max()
                .unwrap_or(0);
            match last {
                0 => format!("{domain}-{server}-{sequence}"),
                last if last + 1 == *sequence => format!("{domain}-{server}-{sequence}"),
                last => format!("{domain}-{server}-{} to {sequence}", last + 1),
            }
        })
        .collect()
}

fn lost_tail(missing: &[String], why: &str) -> Fault {
    const SHOWN_MAX: usize = 20;
    let mut list = missing.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
    if missing.len() > SHOWN_MAX {
        list.push_str(&format!(" and {} more", missing.len() - SHOWN_MAX));
    }
    Fault::fatal(Code::SourceLostTail, format!("the source lost what was captured from it: {list}; {why}")).hint(
        "if another server of this store still has these, fail over to it; else put them back from the other units, \
         see the runbook",
    )
}

/// The user was let in, so what MySQL denies it here is the log, though it says so as of a login.
fn refused(mut fault: Fault) -> Fault {
    if matches!(fault.code, Code::Denied | Code::Grant) {
        fault.code = Code::Grant;
        fault.hint = "GRANT REPLICATION SLAVE ON *.* to this user".to_owned();
    }
    fault
}

fn purged(what: &str) -> Fault {
    Fault::fatal(
        Code::PositionPurged,
        format!("the source no longer keeps what is to be captured next: {what}"),
    )
    .hint("restore the log files or resync, see the runbook; raise binlog_expire_logs_seconds")
}

fn other_kind() -> Fault {
    Fault::fatal(Code::PositionUnreadable, "the stored position is of another kind of server")
        .hint("point the store at the server it was captured from, or resynchronise it")
}

/// The source had the transaction that was captured last, and no longer keeps it.
fn warn_uncompared(store: &Store, last: Option<&Captured>) {
    let gtid = last.map(|last| last.gtid.to_string()).unwrap_or_default();
    warn!(
        store = store.name,
        gtid, "the source purged the last captured transaction: it can't be compared"
    );
}

/// What to ask for so that `last` is sent again.
fn without(done: &GtidSet, last: &Captured) -> GtidSet {
    match (done, &last.gtid) {
        (GtidSet::Mysql(_), gtid) => {
            let mut one = GtidSet::mysql();
            one.insert(gtid);
            done.subtract(&one)
        }
        (GtidSet::Mariadb(reached), Gtid::Mariadb { domain, .. }) => {
            let mut reached = reached.clone();
            reached.remove(domain);
            if let Some(Gtid::Mariadb { server, sequence, .. }) = last.before {
                reached.insert(*domain, (server, sequence));
            }
            GtidSet::Mariadb(reached)
        }
        (done, _) => done.clone(),
    }
}

/// What a MariaDB domain had reached before this transaction.
fn before(done: &GtidSet, gtid: &Gtid) -> Option<Gtid> {
    match (done, gtid) {
        (GtidSet::Mariadb(reached), &Gtid::Mariadb { domain, .. }) => reached
            .get(&domain)
            .map(|&(server, sequence)| Gtid::Mariadb { domain, server, sequence }),
        _ => None,
    }
}

/// Asks MariaDB which columns of a table are UUIDs or addresses. A table that is gone has none:
/// its rows are then written as the bytes they are.
async fn ask_types(
    conn: Option<Conn>,
    store: Store,
    database: String,
    table: String,
) -> Result<(Conn, Disguises), Fault> {
    let mut conn = match conn.filter(|conn| !conn.is_disconnected()) {
        Some(conn) => conn,
        None => connect::connect(&store).await?,
    };
    let query = "SELECT column_name, data_type, column_type FROM information_schema.columns \
                 WHERE table_schema = ? AND table_name = ? AND data_type IN ('uuid', 'inet6', 'inet4')";
    let rows: Vec<(String, String, String)> =
        conn.exec(query, (database, table)).await.map_err(|error| connect::fault(&error))?;
    let types = rows
        .into_iter()
        .map(|(name, kind, full)| {
            let kind = match kind.to_ascii_lowercase().as_str() {
                "inet6" => Disguised::Inet6,
                "inet4" => Disguised::Inet4,
                _ if full.contains("old") => Disguised::OldUuid,
                _ => Disguised::Uuid,
            };
            (name, kind)
        })
        .collect();
    Ok((conn, types))
}
