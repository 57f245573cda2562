//! XA transactions: rows that are logged when the transaction is prepared, and count once it commits.
//!
//! The log holds a prepared transaction as one of its own, with a GTID, and its commit or rollback as
//! another, with nothing but its name; hours may lie between them. So the stream passes over the rows,
//! keeps the GTID under the name in its position, and reads the rows again, over a connection of
//! their own, when the commit comes. They are then rows of the committing transaction. A transaction
//! that is prepared and committed in one takes the same way, as its rows come before it is known.
//!
//! Nothing is held in memory but the names. A log that was purged in between is
//! [`Code::PositionPurged`].

use tokio_util::task::AbortOnDropHandle;
use unitflow_change::fault::{Code, Fault};
use unitflow_change::position::{Captured, Digest, Prepared};

use super::resume::{before, lost_tail, purged, without};
use super::source::{Found, Source};
use super::{Stream, Transaction};
use crate::connect::{self, Server};

/// Told apart from the stream that the commit came by: a server ends the older of two readers
/// with the same number.
const SECOND_READER: u32 = 0x1000_0000;

/// The rows of one XA transaction, read again.
pub(super) struct Replay {
    prepared: Captured,
    committing: Transaction,
    reading: Reading,
}

enum Reading {
    /// Goes on where whoever waits for it gives up and comes again.
    Connecting(AbortOnDropHandle<Result<Source, Fault>>),
    /// The last heartbeat beside it: the same again says that the log has ended.
    Rows(Box<Source>, Option<(u64, u32)>),
}

impl Stream {
    /// What reads the rows of the XA transaction that was found to commit; `None` where it does not.
    pub(super) fn replay_of(&self, found: Found) -> Result<Option<Replay>, Fault> {
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
        let start = without(&self.position.done, &prepared);
        let (store, mut options) = (self.store.clone(), self.options.clone());
        options.server_id ^= SECOND_READER;
        let committing = decoder.transaction().clone();
        let renamed = committing.clone();
        let connecting = tokio::spawn(async move {
            let mut conn = connect::connect(&store).await?;
            let flavor = Server::read(&mut conn).await?.flavor;
            let mut source = Source::start(&store, conn, flavor, &start, &options).await?;
            source.decoder.rename(renamed);
            Ok(source)
        });
        let reading = Reading::Connecting(AbortOnDropHandle::new(connecting));
        Ok(Some(Replay { prepared, committing, reading }))
    }

    /// What the position keeps of the XA transaction that was found to be prepared.
    pub(super) fn prepared(&self) -> Prepared {
        let decoder = &self.source.decoder;
        let gtid = decoder.transaction().gtid.clone();
        let before = before(&self.position.done, &gtid);
        let (rows, digest) = (decoder.count(), decoder.digest());
        let transaction = Captured { gtid, rows, digest, before };
        Prepared { xid: decoder.xid().to_owned(), transaction }
    }
}

impl Replay {
    /// The transaction whose rows they are now.
    pub fn committing(&self) -> &Transaction {
        &self.committing
    }

    /// The connection that has the row, once there is one.
    pub fn source(&self) -> Option<&Source> {
        match &self.reading {
            Reading::Connecting(_) => None,
            Reading::Rows(source, _) => Some(source),
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
            let (source, beat) = match &mut self.reading {
                Reading::Rows(source, beat) => (source, beat),
                Reading::Connecting(connecting) => {
                    let source = connecting.await.map_err(|error| {
                        Fault::fatal(Code::Bug, format!("a connection ended: {error}"))
                    })??;
                    self.reading = Reading::Rows(Box::new(source), None);
                    continue;
                }
            };
            let found = source.advance().await?;
            let decoder = &mut source.decoder;
            let is_wanted = decoder.transaction().gtid == self.prepared.gtid;
            match found {
                Found::Row if is_wanted => return Ok(true),
                Found::Row | Found::Ddl => {}
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
