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
    /// that are noted, `suspects`, and what was written together with one of them; until it is known what the targets did with
    /// several keys before, all that was written together, if no suspects are named. `older` is the command whose place this one
    /// took.
    pub(super) async fn settle(
        &self,
        mut suspects: Option<BTreeSet<String>>,
        older: Option<&str>,
    ) -> Result<u64, Fault> {
        let tokens: Vec<&str> = older.into_iter().chain([self.token.as_str()]).collect();
        let (mut least, mut since) = (u64::MAX, Instant::now());
        let mut together = Vec::new();
        loop {
            let mut due = self.notes().await?;
            let drained = due.is_empty();
            if drained {
                // What the targets' applications did until now has to be known to the authority.
                let begun = Instant::now();
                self.drain().await?;
                since += begun.elapsed();
            }
            for token in &tokens {
                self.take_notes(token, &mut due, &mut together).await?;
            }
            spread(&together, suspects.as_ref(), &mut due);
            if due.is_empty() {
                self.forget_taken(&tokens).await?;
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
            self.forget_taken(&tokens).await?;
            match &mut suspects {
                suspects if drained => {
                    *suspects = Some(due);
                    together.clear();
                }
                // What was done with earlier ones is not all known yet.
                Some(known) => known.extend(due),
                None => {}
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
            let fillers = filling::fillers(&mut client).await?;
            if fillers.iter().all(|(_, filler)| filler.token != self.token) {
                return Err(self.superseded(unit));
            }
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
        self.travels(&note.key)
            && self.mesh.cache_ways().any(|(log, to)| log == note.log && to == *unit)
    }

    fn travels(&self, key: &str) -> bool {
        parse_key(key.as_bytes()).is_ok_and(|(_, key)| self.keyspace.carries(&key))
    }

    /// Takes what was written together, in any unit, and what is noted in those that are not filled. It stands there until
    /// [`Plan::forget_taken`].
    async fn take_notes(
        &self,
        token: &str,
        due: &mut BTreeSet<String>,
        together: &mut Vec<Vec<String>>,
    ) -> Result<(), Fault> {
        for unit in self.marked() {
            let Some(mut client) = self.client_of_third(unit).await? else { continue };
            let is_filled = self.to.contains(unit);
            let taken = filling::take(&mut client, token, !is_filled).await?;
            due.extend(
                taken.notes.into_iter().map(|note| note.key).filter(|key| self.travels(key)),
            );
            together.extend(
                taken.together.into_iter().map(|keys| {
                    keys.into_iter().filter(|key| self.travels(key)).collect::<Vec<_>>()
                }),
            );
        }
        Ok(())
    }

    async fn forget_taken(&self, tokens: &[&str]) -> Result<(), Fault> {
        for unit in self.marked() {
            let Some(mut client) = self.client_of_third(unit).await? else { continue };
            for token in tokens {
                filling::forget_taken(&mut client, token).await?;
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
            match self.client_of_third(unit).await? {
                Some(mut client) => {
                    filling::end(&mut client, &self.log, &self.token, false).await?;
                }
                None => say(&format!(
                    "{unit} is away and stays marked: what does not fit there is noted in silence until this is run again"
                )),
            }
        }
        for unit in self.to.iter().filter(|_| settled) {
            let mut client = self.client(unit).await?;
            match filling::end(&mut client, &self.log, &self.token, true).await? {
                Ended::Yes => self.tidy(unit).await?,
                Ended::ByAnother => {}
                Ended::Unsettled => left = filling::count(&mut client).await?.max(1),
                Ended::Unknown => return Err(self.superseded(unit)),
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

/// Adds what was written together with a suspect, or with a key that is due; all, where all are suspects.
fn spread(
    together: &[Vec<String>],
    suspects: Option<&BTreeSet<String>>,
    due: &mut BTreeSet<String>,
) {
    let Some(suspects) = suspects else {
        due.extend(together.iter().flatten().cloned());
        return;
    };
    // From one command to the next.
    loop {
        let known = due.len();
        for keys in together {
            if keys.iter().any(|key| suspects.contains(key) || due.contains(key)) {
                due.extend(keys.iter().cloned());
            }
        }
        if due.len() == known {
            return;
        }
    }
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
    #[test]
    fn what_was_written_together_with_a_suspect_is_due() {
        let set = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        let together: Vec<Vec<String>> =
            [["y", "z"], ["x", "y"], ["p", "q"]].map(|keys| keys.map(str::to_owned).into()).into();
        let spread = |suspects: Option<&[&str]>, due: &[&str]| {
            let mut due = set(due);
            super::spread(&together, suspects.map(set).as_ref(), &mut due);
            due
        };
        assert_eq!(spread(Some(&["x"]), &[]), set(&["x", "y", "z"]));
        assert_eq!(spread(Some(&[]), &["q"]), set(&["p", "q"]));
        assert_eq!(spread(Some(&["n"]), &[]), set(&[]));
        assert_eq!(spread(None, &["n"]), set(&["n", "p", "q", "x", "y", "z"]));
    }
}
