//! XA transactions: rows that are logged when the transaction is prepared, and count once it commits.
//!
//! The log holds a prepared transaction as one of its own, with a GTID, and its commit or rollback as
//! another, with nothing but its name; hours may lie between them. So the stream passes over the rows,
//! keeps the GTID under the name in its position, and reads the rows again, over a connection of
//! their own, when the commit comes. They are then rows of the committing transaction. A transaction
//! that is prepared and committed in one takes the same way, as its rows come before it is known.
//!
//! The second connection is kept for a moment and reads on where the next rows come soon behind: MariaDB
//! takes a tenth of a second to open another.
//!
//! Nothing is held in memory but the names. A log that was purged in between is
//! [`Code::PositionPurged`].

use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;
use unitflow_change::fault::{Code, Fault};
use unitflow_change::gtid::GtidSet;
use unitflow_change::position::{Captured, Digest, Prepared};

use super::resume::{before, lost_tail, purged, without};
use super::source::{Found, Source};
use super::{Options, Stream, Transaction};
use crate::connect::{self, Server, Store};

/// Told apart from the stream that the commit came by: a server ends the older of two readers
/// with the same number.
const SECOND_READER: u32 = 0x1000_0000;

/// How long the second connection is kept for what comes next; the server stands still on it.
const SPARE_FOR: Duration = Duration::from_secs(1);

/// How many events it may read over on its way to the next rows.
const SPARE_EVENTS_MAX: u64 = 5_000;

/// A second connection that has read its rows, and how far that is in the log.
pub(super) struct Spare {
    source: Box<Source>,
    at: u64,
    since: Instant,
}

/// The rows of one XA transaction, read again.
pub(super) struct Replay {
    /// Where they stand, if this stream has passed them.
    at: Option<u64>,
    prepared: Captured,
    place: Place,
    reading: Reading,
}

/// Where to read them, and whose they are now.
struct Place {
    store: Store,
    options: Options,
    start: GtidSet,
    committing: Transaction,
}

impl Place {
    fn connect(&self) -> Reading {
        let (store, options) = (self.store.clone(), self.options.clone());
        let (start, committing) = (self.start.clone(), self.committing.clone());
        Reading::Connecting(AbortOnDropHandle::new(tokio::spawn(async move {
            let mut conn = connect::connect(&store).await?;
            let server = Server::read(&mut conn).await?;
            let mut source = Source::start(&store, conn, &server, &start, &options).await?;
            source.decoder.rename(committing);
            Ok(source)
        })))
    }
}

enum Reading {
    /// Goes on where whoever waits for it gives up and comes again.
    Connecting(AbortOnDropHandle<Result<Source, Fault>>),
    Rows {
        source: Box<Source>,
        /// The last heartbeat: the same again says that the log has ended.
        beat: Option<(u64, u32)>,
        /// Whether it was asked for these rows; a spare one may have passed them.
        from_start: bool,
    },
}

impl Stream {
    /// What reads the rows of the XA transaction that was found to commit; `None` where it does not.
    pub(super) fn replay_of(&mut self, found: Found) -> Result<Option<Replay>, Fault> {
        let decoder = &self.source.decoder;
        let prepared = match found {
            Found::OnePhase => {
                let gtid = decoder.transaction().gtid.clone();
                let before = before(&self.position.done, &gtid);
                Captured { gtid, rows: decoder.count(), digest: decoder.digest(), before }
            }
            Found::Completed(true) => {
                let known = self.position.prepared.iter().find(|one| one.xid == decoder.xid());
                known.map(|one| one.transaction.clone()).ok_or_else(|| unknown(decoder.xid()))?
            }
            _ => return Ok(None),
        };
        let mut options = self.options.clone();
        options.server_id ^= SECOND_READER;
        let place = Place {
            store: self.store.clone(),
            options,
            start: without(&self.position.done, &prepared),
            committing: decoder.transaction().clone(),
        };
        let at = match found {
            Found::OnePhase => Some(self.passed),
            _ => self.marks.remove(&prepared.gtid),
        };
        let spare = self.spare.take().filter(|spare| {
            let near = at.is_some_and(|at| spare.at < at && at - spare.at < SPARE_EVENTS_MAX);
            near && spare.since.elapsed() < SPARE_FOR
        });
        let reading = match spare {
            None => place.connect(),
            Some(Spare { mut source, .. }) => {
                source.decoder.rename(place.committing.clone());
                Reading::Rows { source, beat: None, from_start: false }
            }
        };
        Ok(Some(Replay { at, prepared, place, reading }))
    }

    /// Keeps the connection of rows that were all read for those that may come soon.
    pub(super) fn keep(&mut self, replay: Replay) {
        if let (Some(at), Reading::Rows { mut source, .. }) = (replay.at, replay.reading) {
            source.decoder.ended();
            self.spare = Some(Spare { source, at, since: Instant::now() });
        }
    }

    /// What was rolled back is not asked for again.
    pub(super) fn forget(&mut self) {
        let xid = self.source.decoder.xid();
        let gone = self.position.prepared.iter().find(|one| one.xid == xid);
        if let Some(gone) = gone {
            self.marks.remove(&gone.transaction.gtid);
        }
    }

    /// Closes the second connection once nothing came soon.
    pub(super) fn close_spare(&mut self) {
        self.spare.take_if(|spare| spare.since.elapsed() > SPARE_FOR);
    }

    /// What the position keeps of the XA transaction that was found to be prepared.
    pub(super) fn prepared(&mut self) -> Prepared {
        let decoder = &self.source.decoder;
        let gtid = decoder.transaction().gtid.clone();
        let before = before(&self.position.done, &gtid);
        let (rows, digest) = (decoder.count(), decoder.digest());
        self.marks.insert(gtid.clone(), self.passed);
        let transaction = Captured { gtid, rows, digest, before };
        Prepared { xid: decoder.xid().to_owned(), transaction }
    }
}

impl Replay {
    /// The transaction whose rows they are now.
    pub fn committing(&self) -> &Transaction {
        &self.place.committing
    }

    /// The connection that has the row, once there is one.
    pub fn source(&self) -> Option<&Source> {
        match &self.reading {
            Reading::Connecting(_) => None,
            Reading::Rows { source, .. } => Some(source),
        }
    }

    /// How many rows were read, and the digest over them.
    pub fn read(&self) -> Option<(u64, Digest)> {
        self.source().map(|source| (source.decoder.count(), source.decoder.digest()))
    }

    /// Goes to the next row; `false` after the last one.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<bool, Fault> {
        self.try_next().await.map_err(|fault| match fault.code {
            Code::PositionPurged => {
                let what =
                    format!("{}, the prepared part of an XA transaction", self.prepared.gtid);
                purged(&what)
            }
            _ => fault,
        })
    }

    async fn try_next(&mut self) -> Result<bool, Fault> {
        loop {
            let (source, beat, from_start) = match &mut self.reading {
                Reading::Rows { source, beat, from_start } => (source, beat, *from_start),
                Reading::Connecting(connecting) => {
                    let source = connecting.await.map_err(|error| {
                        Fault::fatal(Code::Bug, format!("a connection ended: {error}"))
                    })??;
                    let source = Box::new(source);
                    self.reading = Reading::Rows { source, beat: None, from_start: true };
                    continue;
                }
            };
            let found = source.advance().await?;
            let decoder = &mut source.decoder;
            let is_wanted = decoder.transaction().gtid == self.prepared.gtid;
            match found {
                Found::Row if is_wanted => return Ok(true),
                Found::Row | Found::Ddl => {}
                // A replica may have them in another order.
                Found::Heartbeat if *beat == Some(decoder.beat()) && !from_start => {
                    self.reading = self.place.connect();
                }
                Found::Heartbeat if *beat == Some(decoder.beat()) => {
                    return Err(self.lost("the source's log does not hold it any more"));
                }
                Found::Heartbeat => *beat = Some(decoder.beat()),
                _ if !is_wanted => decoder.ended(),
                _ if (decoder.count(), decoder.digest())
                    == (self.prepared.rows, self.prepared.digest) =>
                {
                    return Ok(false);
                }
                _ => return Err(self.lost("the source has other rows than when it was prepared")),
            }
        }
    }

    fn lost(&self, why: &str) -> Fault {
        lost_tail(&[self.prepared.gtid.to_string()], why)
    }
}

/// Prepared before the capture began.
fn unknown(xid: &str) -> Fault {
    Fault::fatal(
        Code::PositionMissing,
        format!("the XA transaction {xid} commits, and was prepared before the capture began"),
    )
    .hint("begin the capture anew, with tables that are equal in all units, while XA RECOVER lists nothing")
}
