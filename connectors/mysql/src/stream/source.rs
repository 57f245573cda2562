//! A connection that sends events, and the decoder that they are fed to.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use mysql_async::binlog::events;
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, Sid};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use unitflow_change::fault::{Code, Fault};
use unitflow_change::gtid::{GtidSet, Uuid};

use super::Options;
use super::resume::{other_kind, purged};
use crate::connect::{self, Flavor, Server, Store};
use crate::decode::{Decoder, Step};
use crate::event::Raw;
use crate::table::{Disguised, Disguises};

/// How many heartbeats may stay out before the connection counts as dead.
const HEARTBEATS_MISSED_MAX: u32 = 4;

/// The least patience with a silent server: one that is busy flushing may hold heartbeats back.
const SILENCE_MIN: Duration = Duration::from_secs(5);

/// How much longer than that an event may take while the server says that it is sending it: 64 MiB
/// twice, at 10 Mbit/s.
const OVERTIME_MAX: Duration = Duration::from_secs(120);

/// How long the server may take to say so.
const INQUIRY_WITHIN: Duration = Duration::from_secs(3);

/// How long the server keeps a reader that takes nothing, as while Kafka is away.
const WRITE_SECONDS_MAX: u32 = 3600;

/// What `advance` found; the event itself stands in the decoder's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Row,
    Ddl,
    End,
    Heartbeat,
    /// The rows so far are those of an XA transaction, which is prepared with this.
    Prepared,
    /// The same, committed at once.
    OnePhase,
    /// An XA transaction that was prepared before is committed with this (`true`) or rolled back.
    Completed(bool),
}

/// A connection that sends events, and the decoder that they are fed to.
pub(super) struct Source {
    store_name: String,
    pub(super) binlog: BinlogStream,
    pub(super) decoder: Decoder,
    /// The event whose rows are being taken.
    event: Option<events::Event>,
    silence: Duration,
    /// How long was waited since the server last sent something. Kept here, since whoever waits
    /// may give up and ask again before the silence is over; time in which nobody asked does not
    /// count.
    waited: Duration,
    /// The time beyond `silence` that the event that follows has taken so far.
    overtime: Duration,
    /// The overtime after which the server last said that it is sending.
    sent_at: Duration,
    /// The server's number of the connection, and a question about it that is under way.
    connection: u32,
    inquiry: Option<AbortOnDropHandle<bool>>,
    /// For questions about columns (MariaDB).
    pub(super) questions: Option<Conn>,
    /// The question under way: it goes on where whoever waits for it gives up and comes again.
    asking: Option<AbortOnDropHandle<Result<(Conn, Disguises), Fault>>>,
    store: Store,
}

impl Source {
    pub(super) async fn start(
        store: &Store,
        mut conn: Conn,
        server: &Server,
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
        match server.flavor {
            Flavor::Mysql => request = request.with_gtid().with_gtid_set(sids(done)?),
            // The set's text holds digits, hyphens and commas only.
            Flavor::Mariadb => setup.push_str(&format!(
                ", @mariadb_slave_capability=4, @slave_connect_state='{done}', \
                 @slave_gtid_strict_mode=1, @slave_gtid_ignore_duplicates=0"
            )),
        }
        conn.query_drop(setup).await.map_err(|error| connect::fault(&error))?;
        let connection = conn.id();
        let binlog = conn
            .get_binlog_stream(request)
            .await
            .map_err(|error| refused(connect::fault(&error)))?;
        Ok(Self {
            store_name: store.name.clone(),
            binlog,
            decoder: Decoder::new(server.flavor, &options.connector_name, options.form)
                .of_server(server),
            event: None,
            silence: (options.heartbeat * HEARTBEATS_MISSED_MAX).max(SILENCE_MIN),
            waited: Duration::ZERO,
            overtime: Duration::ZERO,
            sent_at: Duration::ZERO,
            connection,
            inquiry: None,
            questions: None,
            asking: None,
            store: store.clone(),
        })
    }

    /// Cancel safe: state changes only between the awaits, and what an await was for is still
    /// noted in the decoder when it is asked again.
    pub(super) async fn advance(&mut self) -> Result<Found, Fault> {
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
                Step::Prepared => return Ok(Found::Prepared),
                Step::OnePhase => return Ok(Found::OnePhase),
                Step::Completed(commits) => return Ok(Found::Completed(commits)),
            }
        }
    }

    /// The next event. Silence ends the stream, unless the server says that it is at work on one.
    async fn receive(&mut self) -> Result<events::Event, Fault> {
        loop {
            if let Some(event) = self.receive_in_time().await? {
                self.waited = Duration::ZERO;
                (self.overtime, self.sent_at) = (Duration::ZERO, Duration::ZERO);
                return Ok(event);
            }
            if !self.is_sending().await {
                return Err(Fault::retry(
                    Code::Unreachable,
                    format!(
                        "{} is silent for {} s, not even heartbeats come",
                        self.store_name,
                        (self.silence + self.overtime).as_secs()
                    ),
                ));
            }
            self.overtime += self.silence;
            self.waited = Duration::ZERO;
        }
    }

    /// Whether the server is sending an event that takes its time: a large one, on a slow way.
    async fn is_sending(&mut self) -> bool {
        if self.overtime >= OVERTIME_MAX {
            return false;
        }
        let inquiry = self.inquiry.get_or_insert_with(|| {
            let inquiry = ask_sending(self.store.clone(), self.connection);
            AbortOnDropHandle::new(tokio::spawn(inquiry))
        });
        let sending = inquiry.await.unwrap_or(false);
        self.inquiry = None;
        if sending {
            self.sent_at = self.overtime;
        }
        // What it has sent may be in the sockets' buffers still.
        sending || (self.overtime > self.sent_at && self.overtime < self.sent_at + 3 * self.silence)
    }

    async fn receive_in_time(&mut self) -> Result<Option<events::Event>, Fault> {
        // The driver takes sizes in events on trust and panics where they are wrong.
        let next = AssertUnwindSafe(self.binlog.next()).catch_unwind();
        let patience = self.silence.saturating_sub(self.waited);
        let waiting = Waiting { since: Instant::now(), waited: &mut self.waited };
        let received = tokio::time::timeout(patience, next).await;
        drop(waiting);
        match received {
            Ok(Ok(Some(Ok(event)))) => Ok(Some(event)),
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
            Err(_) => Ok(None),
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

/// The user was let in, so what MySQL denies it here is the log, though it says so as of a login.
fn refused(mut fault: Fault) -> Fault {
    if matches!(fault.code, Code::Denied | Code::Grant) {
        fault.code = Code::Grant;
        fault.hint = "GRANT REPLICATION SLAVE ON *.* to this user".to_owned();
    }
    fault
}

/// Asks a server that has been silent whether it is sending something by this connection. One that
/// waits for what comes next would have sent heartbeats.
async fn ask_sending(store: Store, connection: u32) -> bool {
    let ask = async {
        let mut conn = connect::connect(&store).await.ok()?;
        let query = "SELECT state FROM information_schema.processlist WHERE id = ?";
        conn.exec_first::<Option<String>, _, _>(query, (connection,)).await.ok().flatten().flatten()
    };
    let state = tokio::time::timeout(INQUIRY_WITHIN, ask).await.ok().flatten();
    state.is_some_and(|state| !state.contains("has sent all"))
}

/// Asks MariaDB which columns of a table are UUIDs or addresses, or only named as its own hidden ones
/// are. A table that is gone has none: its rows are then written as the bytes they are.
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
                 WHERE table_schema = ? AND table_name = ? \
                 AND (data_type IN ('uuid', 'inet6', 'inet4') OR LEFT(column_name, 12) = 'DB_ROW_HASH_')";
    let rows: Vec<(String, String, String)> =
        conn.exec(query, (database, table)).await.map_err(|error| connect::fault(&error))?;
    let types = rows
        .into_iter()
        .map(|(name, kind, full)| {
            let kind = match kind.to_ascii_lowercase().as_str() {
                "inet6" => Disguised::Inet6,
                "inet4" => Disguised::Inet4,
                "uuid" if full.contains("old") => Disguised::OldUuid,
                "uuid" => Disguised::Uuid,
                _ => Disguised::Itself,
            };
            (name, kind)
        })
        .collect();
    Ok((conn, types))
}
