//! Has keys read again until none is in doubt, removes what the authority lacks, and takes the marks away.

use std::collections::{BTreeMap, BTreeSet};
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
use unitflow_sinks::redis::filling::{self, Ended, Note};

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
    /// Asks for what the targets hold and the authority lacks; gives these keys.
    pub(super) async fn extras(&self) -> Result<BTreeSet<String>, Fault> {
        let mut all = BTreeSet::new();
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
                        all.extend(asked.iter().cloned());
                        self.ask(std::mem::take(&mut asked)).await?;
                    }
                    if next == 0 {
                        break;
                    }
                    cursor = next;
                }
            }
        }
        Ok(all)
    }

    /// Has keys read again until none is in doubt; gives how many are left where that does not come to an end. In doubt are those
    /// that the targets note, and first of all `suspects`, or all that is noted anywhere; and what a command wrote in a target, that
    /// had to do with one of them.
    pub(super) async fn settle(
        &self,
        mut suspects: Option<BTreeSet<String>>,
    ) -> Result<u64, Fault> {
        let (mut least, mut since) = (u64::MAX, Instant::now());
        loop {
            let mut due = self.notes().await?;
            let drained = due.is_empty();
            if drained {
                // What the targets' applications did until now has to be known to the authority.
                let begun = Instant::now();
                self.drain().await?;
                since += begun.elapsed();
            }
            due.extend(spread(&self.take_notes().await?, suspects.as_ref()));
            if due.is_empty() {
                self.forget_taken().await?;
                if self.notes().await?.is_empty() {
                    return Ok(0);
                }
                continue;
            }
            let left = self.count().await?;
            if left < least {
                (least, since) = (left, Instant::now());
            }
            if since.elapsed() > SETTLE_FOR {
                return Ok(left.max(due.len() as u64));
            }
            info!(keys = due.len(), "read again");
            self.ask(due.iter().cloned().collect()).await?;
            self.forget_taken().await?;
            match &mut suspects {
                // What was done with earlier ones is not all known yet.
                Some(known) if !drained => known.extend(due),
                suspects => *suspects = Some(due),
            }
            sleep(SETTLE_EVERY).await;
        }
    }

    /// Keys that are noted in the targets. Notes of which nothing comes any more are taken back: of units that have left, of keys
    /// that no longer travel.
    async fn notes(&self) -> Result<BTreeSet<String>, Fault> {
        let mut noted = BTreeSet::new();
        for unit in &self.to {
            let mut client = self.client(unit).await?;
            let mut stale = Vec::new();
            for (written, note) in filling::notes(&mut client, NOTES_AT_ONCE).await? {
                match note.filter(|note| self.comes_to(note, unit)) {
                    Some(note) => _ = noted.insert(note.key),
                    None => stale.push(written),
                }
            }
            filling::forget(&mut client, &stale).await?;
        }
        Ok(noted)
    }

    /// How many notes there are in the targets.
    async fn count(&self) -> Result<u64, Fault> {
        let mut count = 0;
        for unit in &self.to {
            count += filling::count(&mut self.client(unit).await?).await?;
        }
        Ok(count)
    }

    /// Whether more may come of a note in a unit.
    fn comes_to(&self, note: &Note, unit: &Name) -> bool {
        let travels =
            parse_key(note.key.as_bytes()).is_ok_and(|(_, key)| self.keyspace.carries(&key));
        travels && self.mesh.cache_ways().any(|(log, to)| log == note.log && to == *unit)
    }

    /// What is noted in the other units; it stands there until [`Plan::forget_taken`].
    async fn take_notes(&self) -> Result<Vec<(&'m Name, Note)>, Fault> {
        let mut all = Vec::new();
        for unit in self.others() {
            let Some(mut client) = self.client_of_third(unit).await? else { continue };
            let notes = filling::take(&mut client).await?.into_iter();
            all.extend(notes.filter(|note| self.comes_to(note, unit)).map(|note| (unit, note)));
        }
        Ok(all)
    }

    async fn forget_taken(&self) -> Result<(), Fault> {
        for unit in self.others() {
            if let Some(mut client) = self.client_of_third(unit).await? {
                filling::forget_taken(&mut client).await?;
            }
        }
        Ok(())
    }

    /// The units that are marked and not filled.
    fn others(&self) -> impl Iterator<Item = &'m Name> {
        self.marked().filter(|unit| !self.to.contains(unit))
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

    /// Takes the marks away, if nothing is left, and says what came of it.
    pub(super) async fn end(&self, mut left: u64, removed: usize) -> Result<Outcome, Fault> {
        let settled = left == 0;
        // The targets' last: as long as one is marked there, status tells of it.
        for unit in self.others().filter(|_| settled) {
            if let Some(mut client) = self.client_of_third(unit).await? {
                filling::end(&mut client, &self.log, &self.token, false).await?;
            }
        }
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

/// The keys of commands that had to do with suspects, or with whatever, where all are. A command notes all of its keys with its own
/// number, and how many they are: of one of which some were noted anew since nobody knows what it had to do with.
fn spread(notes: &[(&Name, Note)], suspects: Option<&BTreeSet<String>>) -> BTreeSet<String> {
    let Some(suspects) = suspects else {
        return notes.iter().map(|(_, note)| note.key.clone()).collect();
    };
    let command = |unit: &Name, note: &Note| (unit.clone(), note.log.clone(), note.lane, note.seq);
    let mut commands: BTreeMap<_, Vec<&Note>> = BTreeMap::new();
    for (unit, note) in notes {
        commands.entry(command(unit, note)).or_default().push(note);
    }
    let touched = commands.into_values().filter(|noted| {
        let is_whole = noted.iter().all(|note| note.together == noted.len());
        !is_whole || noted.iter().any(|note| suspects.contains(&note.key))
    });
    touched.flatten().map(|note| note.key.clone()).collect()
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

#[cfg(test)]
mod tests {
    use unitflow_change::seq::Seq;

    use super::*;

    #[test]
    fn what_has_to_do_with_a_suspect_becomes_one() {
        let unit: Name = "A".parse().unwrap();
        let note = |key: &str, seq| Note {
            log: Log::parse("B.cache").unwrap(),
            lane: 0,
            key: key.into(),
            seq: Seq(seq),
            together: 2,
            why: String::new(),
        };
        let notes = [("m", 2), ("n", 2), ("x", 4), ("y", 4)];
        let notes: Vec<_> = notes.map(|(key, seq)| (&unit, note(key, seq))).into();
        let set = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(spread(&notes, Some(&set(&["m"]))), set(&["m", "n"]));
        assert_eq!(spread(&notes, Some(&set(&["z"]))), set(&[]));
        assert_eq!(spread(&notes, None), set(&["m", "n", "x", "y"]));
        // What n was written together with has been noted anew.
        assert_eq!(spread(&notes[1..], Some(&set(&["z"]))), set(&["n"]));
    }
}
