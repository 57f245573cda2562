//! What a unit's own log says of its keys. The marker is a key, `unitflow:marker:from A.cache`, with a number and the name of
//! the worker that set it: `1764000000000000 5f0c…`.

use std::sync::atomic::{AtomicU64, Ordering};

use unitflow_change::Fault;
use unitflow_change::name::Log;
use unitflow_change::redis::{LEDGER_PREFIX, MARKER_PREFIX, Write, is_internal};
use unitflow_change::seq::Seq;
use unitflow_change::tag::{Kind, Tag};
use unitflow_kafka::reader::Record;
use unitflow_redis::{Client, Store};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::ledger::{self, now_us};
use crate::copy::identity::Identity;
use crate::copy::index::Lane;
use crate::copy::own_log::{Mark, Source, Transaction};

/// See the [module](self).
pub struct OwnKeys {
    store: Store,
    /// The logs that are applied to the store, each with its lanes.
    applied: Vec<(Log, i32)>,
    /// This worker's name: another one's markers say nothing of what this one waits for.
    worker: String,
    /// The last marker's number.
    last: AtomicU64,
}

impl OwnKeys {
    /// Of this store, to which these logs are applied, each with so many lanes.
    #[must_use]
    pub fn new(store: Store, applied: Vec<(Log, i32)>) -> Self {
        let worker = format!("{}-{}", std::process::id(), now_us());
        Self { store, applied, worker, last: AtomicU64::new(0) }
    }
}

/// What makes two names one key: the bytes, and the database.
pub(super) fn identity(db: u32, key: &[u8]) -> Identity {
    Identity { table: 0, row: Some(xxh3_64_with_seed(key, u64::from(db))) }
}

/// Any key.
const ANY: Identity = Identity { table: 0, row: None };

impl Source for OwnKeys {
    type Markers = Client;

    async fn open(&self) -> Result<Client, Fault> {
        Client::open(&self.store).await
    }

    async fn put_marker(&self, client: &mut Client, name: &str) -> Result<u64, Fault> {
        let last = self.last.load(Ordering::Relaxed);
        let number = now_us().max(last + 1);
        self.last.store(number, Ordering::Relaxed);
        let mut set = redis::cmd("SET");
        set.arg(marker_key(name)).arg(format!("{number} {}", self.worker));
        client.ask(&set).await?;
        Ok(number)
    }

    async fn lanes(&self) -> Result<Vec<(Log, i32, Seq)>, Fault> {
        let mut client = Client::open(&self.store).await?;
        let mut all = Vec::new();
        for (log, lanes) in &self.applied {
            let standing = ledger::read_all(&mut client, log, *lanes).await?;
            let named = standing.into_iter().map(|(lane, known)| (log.clone(), lane, known.seq));
            all.extend(named);
        }
        Ok(all)
    }

    fn take(
        &self,
        record: &Record<'_>,
        tag: &Tag<'_>,
        name: &str,
        transaction: &mut Transaction,
    ) -> Result<(), Fault> {
        match tag.kind {
            Kind::Command => {}
            // What was written between two generations is not captured.
            Kind::Barrier => {
                (transaction.seq, transaction.turned) = (tag.seq, true);
                return Ok(());
            }
            _ => return Ok(()),
        }
        let write = Write::parse(record.value().unwrap_or_default())?;
        if write.db == 0 && write.is("SET") && transaction.mark.is_none() {
            transaction.mark = mark_of(&write)?;
        }
        if write.is("SET") && write.word(1) == marker_key(name) {
            transaction.marker = transaction.marker.max(self.number_of(&write));
        }
        transaction.seq = tag.seq;
        if transaction.of_copied {
            return Ok(());
        }
        let keys = write.keys().filter(|key| !is_internal(key));
        transaction.rows.extend(keys.map(|key| identity(write.db, key)));
        if let Some((db, key)) = write.in_another_database() {
            transaction.rows.push(identity(db, key));
        }
        if write.keys.is_empty() {
            transaction.rows.push(ANY);
        }
        Ok(())
    }
}

impl OwnKeys {
    /// The number of a marker that this worker has set.
    fn number_of(&self, write: &Write<'_>) -> Option<u64> {
        let text = std::str::from_utf8(write.word(2)).ok()?;
        let (number, worker) = text.split_once(' ')?;
        number.parse().ok().filter(|_| worker == self.worker)
    }
}

fn marker_key(name: &str) -> Vec<u8> {
    [MARKER_PREFIX, name.as_bytes()].concat()
}

/// Whose a transaction is that sets this key.
fn mark_of(write: &Write<'_>) -> Result<Option<Mark>, Fault> {
    let Some(name) = write.word(1).strip_prefix(LEDGER_PREFIX) else { return Ok(None) };
    let name = std::str::from_utf8(name).unwrap_or_default();
    let Some((log, lane)) = name.rsplit_once(':') else { return Ok(None) };
    let (Some(log), Ok(lane)) = (Log::parse(log), lane.parse()) else { return Ok(None) };
    let to = ledger::parse(&log, lane, write.word(2))?.seq;
    // At least the last of its records was not here before.
    let from = Some(Seq(to.0.saturating_sub(1)));
    Ok(Some(Mark { lane: Lane { log, lane }, from, to }))
}
