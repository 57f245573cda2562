//! Has keys read again until none is in doubt, removes what the authority lacks, and takes the marks away.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::Value;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;
use unitflow_change::name::{Log, Name};
use unitflow_change::redis::{parse_key, write_key};
use unitflow_change::{Code, Fault};
use unitflow_kafka::jobs::KEYS_MAX;
use unitflow_redis::Client;
use unitflow_redis::chunk::Reader;
use unitflow_redis::client::refusal;
use unitflow_sinks::redis::copies::aside_key;
use unitflow_sinks::redis::filling::{self, Ended, Note, Written};

use super::{JOBS_AT_ONCE, Plan};
use crate::Outcome;
use crate::output::say;
use crate::wait;

/// The pause between two readings of what is not settled.
const SETTLE_EVERY: Duration = Duration::from_millis(300);
/// After how long without less to settle the command gives up.
const SETTLE_FOR: Duration = Duration::from_secs(60);
/// About the keys of a scan's answer.
const SCANNED_AT_ONCE: usize = 1_000;
/// Notes that are read at once.
const NOTES_AT_ONCE: usize = KEYS_MAX * JOBS_AT_ONCE;

impl<'m> Plan<'m> {
    /// Asks for what the targets hold and the authority lacks; gives how many keys that were.
    pub(super) async fn extras(&self) -> Result<usize, Fault> {
        let mut count = 0;
        let mut source = self.client(&self.log.unit).await?;
        for unit in &self.to {
            let mut reader = Reader::open(self.mesh.cache(unit, &self.log.store)?).await?;
            let (_, databases) = reader.sizes().await?;
            let mut asked = Vec::new();
            for (db, _) in databases {
                let mut cursor = 0;
                loop {
                    let (next, found) = reader.scan(db, cursor, SCANNED_AT_ONCE).await?;
                    let found: Vec<Vec<u8>> =
                        found.into_iter().filter(|key| self.keyspace.carries(key)).collect();
                    asked.extend(lacking(&mut source, db, &found).await?);
                    if asked.len() >= NOTES_AT_ONCE || next == 0 {
                        count += asked.len();
                        self.ask(std::mem::take(&mut asked)).await?;
                    }
                    if next == 0 {
                        break;
                    }
                    cursor = next;
                }
            }
        }
        Ok(count)
    }

    /// Has keys read again until none is in doubt; gives how many are left where that does not come to an end.
    pub(super) async fn settle(&self) -> Result<u64, Fault> {
        let (mut least, mut since) = (u64::MAX, Instant::now());
        loop {
            let of_targets = self.notes(true).await?;
            let left = of_targets.keys.len() as u64;
            if left == 0 {
                // What the targets' applications did before that has to be known here.
                self.drain().await?;
            }
            let of_others = self.notes(false).await?;
            if left == 0 && of_others.keys.is_empty() {
                return Ok(0);
            }
            if left < least {
                (least, since) = (left, Instant::now());
            }
            if since.elapsed() > SETTLE_FOR {
                return Ok(left.max(1));
            }
            let keys: BTreeSet<String> =
                of_targets.keys.into_iter().chain(of_others.keys).collect();
            info!(keys = keys.len(), "read again");
            self.ask(keys.into_iter().collect()).await?;
            for (unit, written) in of_others.written {
                filling::forget(&mut self.client(unit).await?, &written).await?;
            }
            if left == 0 && self.notes(true).await?.keys.is_empty() {
                return Ok(0);
            }
            sleep(SETTLE_EVERY).await;
        }
    }

    /// The keys that are noted in the targets, or in the other units. Notes of which nothing comes any more are taken back: of
    /// units that have left, of keys that no longer travel.
    async fn notes(&self, of_targets: bool) -> Result<Noted<'m>, Fault> {
        let mut noted = Noted { keys: BTreeSet::new(), written: Vec::new() };
        for unit in self.marked().filter(|unit| self.to.contains(unit) == of_targets) {
            let mut client = self.client(unit).await?;
            let (mut known, mut stale) = (Vec::new(), Vec::new());
            for (written, note) in filling::notes(&mut client, NOTES_AT_ONCE).await? {
                let applies = |note: &Note| {
                    self.mesh.cache_ways().any(|(log, to)| log == note.log && to == *unit)
                };
                let travels = |note: &Note| {
                    parse_key(note.key.as_bytes()).is_ok_and(|(_, key)| self.keyspace.carries(&key))
                };
                match note.filter(|note| applies(note) && travels(note)) {
                    Some(note) => {
                        noted.keys.insert(note.key);
                        known.push(written);
                    }
                    None => stale.push(written),
                }
            }
            filling::forget(&mut client, &stale).await?;
            noted.written.push((unit, known));
        }
        Ok(noted)
    }

    /// Waits until the authority has applied all that the targets have written by now.
    async fn drain(&self) -> Result<(), Fault> {
        for unit in &self.to {
            let log = Log { unit: unit.clone(), store: self.log.store.clone() };
            let back = (log, self.log.unit.clone());
            if !self.mesh.cache_ways().any(|way| way == back) {
                continue;
            }
            let mut missing = String::new();
            let follow = wait::redis::follow(self.mesh, (&back.0, &back.1), None, &mut missing);
            match timeout(SETTLE_FOR, follow).await {
                Ok(followed) => followed?,
                Err(_) => {
                    return Err(Fault::fatal(
                        Code::Timeout,
                        format!("{} has not applied what {unit} wrote, so nobody knows what is settled", self.log.unit),
                    )
                    .hint("unitflow status shows which worker does not run; then the same command again"));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn end(&self, mut left: u64, removed: usize) -> Result<Outcome, Fault> {
        // The targets first: the others count as long as one of them is marked.
        let settled = left == 0;
        for unit in self.to.iter().filter(|_| settled) {
            let mut client = self.client(unit).await?;
            match filling::end(&mut client, &self.log, &self.token, true).await? {
                Ended::Yes => self.tidy(unit).await?,
                Ended::ByAnother => {}
                Ended::Unsettled => left = filling::count(&mut client).await?.max(1),
                Ended::Unknown => {
                    let what = format!("unit {unit} no longer knows that it is being filled");
                    return Err(Fault::retry(Code::Copy, format!("{what}: from the beginning")));
                }
            }
        }
        for unit in self.marked().filter(|unit| left == 0 && !self.to.contains(unit)) {
            filling::end(&mut self.client(unit).await?, &self.log, &self.token, false).await?;
        }
        let (to, from) = (self.to_text(), &self.log.unit);
        if left > 0 {
            say(&format!(
                "{left} keys are not settled: they are written in several units faster than they are read; run this again once that is over"
            ));
            return Ok(Outcome::Findings);
        }
        let keys = self.keyspace.keys.join(", ");
        say(&match removed {
            0 => format!("{to} holds what {from} holds: {keys}"),
            _ => format!(
                "{to} holds what {from} holds: {keys}; {removed} keys that {from} lacked were asked for"
            ),
        });
        Ok(Outcome::Fine)
    }

    /// Removes what killed sinks may have left of keys that were built aside.
    async fn tidy(&self, unit: &Name) -> Result<(), Fault> {
        let mut reader = Reader::open(self.mesh.cache(unit, &self.log.store)?).await?;
        let (_, databases) = reader.sizes().await?;
        let mut pipeline = redis::Pipeline::new();
        for (db, _) in databases {
            pipeline.cmd("SELECT").arg(db);
            for lane in 0..self.mesh.lanes(&self.log) {
                pipeline.cmd("UNLINK").arg(aside_key(&self.log, lane));
            }
        }
        pipeline.cmd("SELECT").arg(0);
        let mut client = self.client(unit).await?;
        let answers = client.answers(&pipeline).await?;
        answers.iter().find_map(refusal).map_or(Ok(()), |fault| Err(fault.at(client.place())))
    }
}

/// What is noted in some units.
struct Noted<'m> {
    /// The keys, as records name them.
    keys: BTreeSet<String>,
    /// The notes of each unit, as they are written.
    written: Vec<(&'m Name, Vec<Written>)>,
}

/// Those of some keys that a store lacks, as records name them.
async fn lacking(client: &mut Client, db: u32, keys: &[Vec<u8>]) -> Result<Vec<String>, Fault> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = redis::Pipeline::new();
    pipeline.cmd("SELECT").arg(db);
    for key in keys {
        pipeline.cmd("EXISTS").arg(key);
    }
    let answers = client.answers(&pipeline).await?;
    if let Some(fault) = answers.iter().find_map(refusal) {
        return Err(fault.at(client.place()));
    }
    let found = keys.iter().zip(&answers[1..]).filter(|(_, answer)| **answer == Value::Int(0));
    let name = |key: &[u8]| {
        let mut name = Vec::new();
        write_key(&mut name, db, key);
        String::from_utf8_lossy(&name).into_owned()
    };
    Ok(found.map(|(key, _)| name(key)).collect())
}
