//! Expiry times that have passed before they arrive.
//!
//! A server deletes a key at once that is given such a time. But what comes next in the log may renew the key: at the source it had not expired
//! yet. So a time that is due here sooner than the lane lags is put off, to as long from now on as it was ahead at the source when it
//! was written; as long as the lane applies no slower than its source writes, a renewal comes in time. A key that was
//! not renewed lives longer here by what the lane lags.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use unitflow_change::redis::{Word, Write};

/// A time that comes sooner than this is put off: a batch takes its time, and clocks differ.
const SOON_MS: u64 = 100;
/// When at least so many keys are remembered, those are forgotten that have expired.
const REMEMBERED: usize = 50_000;

/// Of so many keys, those that were put off last, the ledger knows it too; and of names of no more bytes than this.
const KEPT: usize = 500;
const KEPT_BYTES: usize = 128;

/// A key that was put off, as it stands in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutOff {
    /// The number of its database.
    pub db: u32,
    /// Its name, in base64.
    pub key: String,
    /// When it was to expire, in ms since 1970.
    pub told: u64,
    /// When it does.
    pub until: u64,
}

/// What was put off by this lane, and has not expired.
#[derive(Debug, Default)]
pub struct Late {
    /// By database and key: when it was to expire, and when it does.
    put_off: HashMap<(u32, Vec<u8>), (u64, u64)>,
    /// Those that the ledger is to know, the last one last.
    recent: VecDeque<(u32, Vec<u8>)>,
    /// How many were left when the expired ones were forgotten last.
    left: usize,
}

impl Late {
    /// Goes on with what the ledger knows.
    #[must_use]
    pub fn known(kept: &[PutOff]) -> Self {
        let mut late = Self::default();
        for PutOff { db, key, told, until } in kept {
            if let Ok(key) = STANDARD.decode(key) {
                late.remember((*db, key), (*told, *until));
            }
        }
        late
    }

    /// What the ledger is to know: another sink goes on with it.
    #[must_use]
    pub fn kept(&self, now_ms: u64) -> Vec<PutOff> {
        let known = self.recent.iter().filter_map(|at| Some((at, self.put_off.get(at)?)));
        let alive = known.filter(|(_, (_, until))| *until > now_ms);
        let put_off = |((db, key), (told, until)): (&(u32, Vec<u8>), &(u64, u64))| PutOff {
            db: *db,
            key: STANDARD.encode(key),
            told: *told,
            until: *until,
        };
        alive.map(put_off).collect()
    }

    fn remember(&mut self, at: (u32, Vec<u8>), times: (u64, u64)) {
        if at.1.len() <= KEPT_BYTES {
            self.recent.push_back(at.clone());
            if self.recent.len() > KEPT {
                self.recent.pop_front();
            }
        }
        self.put_off.insert(at, times);
    }

    /// A key that takes another's name or place takes its expiry along.
    fn follow(&mut self, write: &Write<'_>) {
        if self.put_off.is_empty() {
            return;
        }
        let at = |db: u32, place: usize| (db, write.word(place).to_vec());
        match () {
            () if write.is("RENAME") || write.is("RENAMENX") => {
                if let Some(moved) = self.put_off.remove(&at(write.db, 1)) {
                    self.remember(at(write.db, 2), moved);
                }
            }
            () if write.is("COPY") => {
                if let Some(copied) = self.put_off.get(&at(write.db, 1)).copied() {
                    self.remember(at(write.db, 2), copied);
                }
            }
            () => {}
        }
    }

    /// Puts off the expiry that a write gives to its key, where it is due. The source wrote it at `written_ms`; both in ms since 1970.
    pub fn put_off(&mut self, write: &mut Write<'_>, written_ms: u64, now_ms: u64) {
        drop_condition(write);
        self.follow(write);
        let Some(place) = time_of(write) else { return };
        let told = std::str::from_utf8(write.word(place)).ok().and_then(|text| text.parse().ok());
        let lag_ms = now_ms.saturating_sub(written_ms).max(SOON_MS);
        let Some(told) = told.filter(|told: &u64| *told < now_ms + lag_ms) else { return };
        // Where the connector came late as well, the time of writing is not known: then by as long as it was due.
        let ahead_ms = told.saturating_sub(written_ms).max(now_ms.saturating_sub(told));
        let until = now_ms + SOON_MS + ahead_ms;
        write.cmd[place] = Word(Cow::Owned(until.to_string().into_bytes()));
        if write.is("HPEXPIREAT") || write.is("HSETEX") {
            return;
        }
        if self.put_off.len() >= REMEMBERED.max(2 * self.left) {
            self.put_off.retain(|_, (_, until)| *until > now_ms);
            self.left = self.put_off.len();
        }
        for key in write.keys() {
            self.remember((write.db, key.to_vec()), (told, until));
        }
    }

    /// Whether a key was put off that was to expire then.
    #[must_use]
    pub fn holds(&self, db: u32, key: &[u8], ms: u64) -> bool {
        self.put_off.get(&(db, key.to_vec())).is_some_and(|(told, _)| *told == ms)
    }

    /// When a key was to expire that now expires at `until`.
    #[must_use]
    pub fn told(&self, db: u32, key: &[u8], until: u64) -> u64 {
        match self.put_off.get(&(db, key.to_vec())) {
            Some((told, put_off)) if *put_off == until => *told,
            _ => until,
        }
    }
}

/// `PEXPIREAT key ms GT` and the like was carried out at the source, and is here: the time it would be compared with may be another.
fn drop_condition(write: &mut Write<'_>) {
    if write.is("PEXPIREAT") {
        write.cmd.truncate(3);
    }
}

/// Which word of a command is an expiry time in ms since 1970.
fn time_of(write: &Write<'_>) -> Option<usize> {
    let behind_pxat = |from: usize| {
        (from..write.cmd.len())
            .find(|place| write.word(*place).eq_ignore_ascii_case(b"PXAT"))
            .map(|place| place + 1)
    };
    match () {
        () if write.is("SET") => behind_pxat(3),
        () if write.is("MSETEX") => behind_pxat(write.keys.last()? + 2),
        // Its options come before its fields.
        () if write.is("HSETEX") => behind_pxat(2).filter(|place| *place <= 4),
        () if write.is("PEXPIREAT") || write.is("HPEXPIREAT") => Some(2),
        () if write.is("RESTORE") => Some(2).filter(|place| write.word(*place) != b"0"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &'static str) -> Write<'static> {
        let cmd = text.split(' ').map(|word| Word(Cow::Borrowed(word.as_bytes()))).collect();
        Write { db: 0, cmd, keys: vec![1], due: None }
    }

    fn text(write: &Write<'_>) -> String {
        let words = write.cmd.iter().map(|word| String::from_utf8_lossy(&word.0).into_owned());
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_time_that_is_due_is_put_off_by_what_it_was_ahead() {
        let mut late = Late::default();
        for (told, expected) in [
            ("SET k v PXAT 1500", "SET k v PXAT 18600"),
            ("SET k v", "SET k v"),
            ("SET k v KEEPTTL", "SET k v KEEPTTL"),
            ("SET k PXAT", "SET k PXAT"),
            ("PEXPIREAT k 1500", "PEXPIREAT k 18600"),
            ("PEXPIREAT k 9000 GT", "PEXPIREAT k 18100"),
            ("PEXPIREAT k 18900 NX", "PEXPIREAT k 28000"),
            ("PEXPIREAT k 19000 NX", "PEXPIREAT k 19000"),
            ("HPEXPIREAT k 1500 FIELDS 1 f", "HPEXPIREAT k 18600 FIELDS 1 f"),
            ("HSETEX k PXAT 1500 FIELDS 1 f v", "HSETEX k PXAT 18600 FIELDS 1 f v"),
            ("HSETEX k FNX FIELDS 1 PXAT 1500", "HSETEX k FNX FIELDS 1 PXAT 1500"),
            ("RESTORE k 0 x REPLACE", "RESTORE k 0 x REPLACE"),
            ("INCRBY k 1500", "INCRBY k 1500"),
        ] {
            let mut write = write(told);
            late.put_off(&mut write, 1_000, 10_000);
            assert_eq!(text(&write), expected);
        }
    }

    #[test]
    fn what_was_put_off_is_known_by_its_first_time() {
        let mut late = Late::default();
        late.put_off(&mut write("SET k v PXAT 1500"), 1_000, 10_000);
        assert_eq!(late.told(0, b"k", 18_600), 1_500);
        assert_eq!(late.told(0, b"k", 99_000), 99_000);
        assert_eq!(late.told(1, b"k", 18_600), 18_600);
        let mut moved = write("RENAME k l");
        moved.keys = vec![1, 2];
        late.put_off(&mut moved, 1_000, 10_000);
        assert!(late.holds(0, b"l", 1_500) && !late.holds(0, b"k", 1_500));
        let again = Late::known(&late.kept(10_000));
        assert_eq!(again.told(0, b"l", 18_600), 1_500);
        assert!(again.kept(18_600).is_empty());
    }
}
