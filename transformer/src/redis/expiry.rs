//! When keys expire: an index over all keys that do, from the commands that say so.
//!
//! A key is known by 64 bits of XXH3 over its name, with the number of its database for a seed; an entry takes 17 bytes and
//! what the table leaves free. Two keys that share a number (in 10 million keys one time in 400,000) have one entry.

use std::collections::HashMap;

use unitflow_change::redis::Write;
use unitflow_change::{Code, Fault};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How long a key is remembered that was due and of which nothing was heard.
pub(super) const FORGOTTEN_AFTER_MS: u64 = 24 * 3_600_000;
/// How many commands come between two sweeps, at least.
pub(super) const SWEEP_AFTER: usize = 100_000;

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// In ms since 1970.
    pub ms: u64,
    /// Whether its value may have been emptied since, so that it may have gone and come back without an expiry.
    pub doubtful: bool,
}

impl Expiry {
    /// As the expiry topic has it: `1764000000000`, with a `?` behind it where it is doubtful.
    fn text(self) -> String {
        format!("{}{}", self.ms, if self.doubtful { "?" } else { "" })
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (ms, doubtful) = text.strip_suffix('?').map_or((text, false), |ms| (ms, true));
        Some(Self { ms: ms.parse().ok()?, doubtful })
    }

    fn pack(self) -> u64 {
        self.ms << 1 | u64::from(self.doubtful)
    }

    fn unpack(packed: u64) -> Self {
        Self { ms: packed >> 1, doubtful: packed & 1 == 1 }
    }
}

/// When keys expire: an index over all keys that do, from the commands that say so.
#[derive(Debug, Default)]
pub struct Index {
    entries: HashMap<u64, u64>,
    /// What was set and removed since it was taken last.
    changes: HashMap<u64, Option<u64>>,
    /// Commands learned since the last sweep.
    learned: usize,
}

impl Index {
    /// What is known of a key.
    #[must_use]
    pub fn get(&self, db: u32, key: &[u8]) -> Option<Expiry> {
        self.entries.get(&number(db, key)).map(|packed| Expiry::unpack(*packed))
    }

    /// How many keys are known to expire.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A key expires then.
    pub fn expires(&mut self, db: u32, key: &[u8], ms: u64) {
        self.set(number(db, key), Some(Expiry { ms, doubtful: false }));
    }

    /// Nothing is known to expire any more.
    pub fn forget_all(&mut self) {
        let all: Vec<u64> = self.entries.keys().copied().collect();
        all.into_iter().for_each(|number| self.set(number, None));
    }

    /// Takes up a record of the expiry topic: a key's number in hexadecimal digits, and its time, or nothing where it
    /// expires no more.
    ///
    /// # Errors
    /// [`Code::Record`].
    pub fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Fault> {
        let unreadable =
            || Fault::fatal(Code::Record, "a record of the expiry topic can't be read");
        let number =
            std::str::from_utf8(key).ok().and_then(|key| u64::from_str_radix(key, 16).ok());
        let number = number.ok_or_else(unreadable)?;
        match value {
            None => self.entries.remove(&number),
            Some(value) => {
                let expiry = Expiry::parse(value).ok_or_else(unreadable)?;
                self.entries.insert(number, expiry.pack())
            }
        };
        Ok(())
    }

    /// Hands out what has changed since the last call, as [`Index::restore`] takes it.
    ///
    /// # Errors
    /// What `each` answers; nothing is forgotten then.
    pub fn store(
        &mut self,
        mut each: impl FnMut(&[u8], Option<&[u8]>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        for (number, packed) in &self.changes {
            let text = packed.map(|packed| Expiry::unpack(packed).text());
            each(format!("{number:016x}").as_bytes(), text.as_ref().map(String::as_bytes))?;
        }
        self.changes.clear();
        Ok(())
    }

    fn set(&mut self, number: u64, expiry: Option<Expiry>) {
        let packed = expiry.map(Expiry::pack);
        let before = match packed {
            Some(packed) => self.entries.insert(number, packed),
            None => self.entries.remove(&number),
        };
        if before != packed {
            self.changes.insert(number, packed);
        }
    }

    /// Forgets keys that were due long ago: their server would have said so, were they still there. A collection that
    /// lost its last element went without a word.
    fn sweep(&mut self, now_ms: u64) {
        self.learned += 1;
        if self.learned < SWEEP_AFTER.max(self.entries.len()) {
            return;
        }
        self.learned = 0;
        let is_old = |packed: u64| Expiry::unpack(packed).ms + FORGOTTEN_AFTER_MS < now_ms;
        let old: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, packed)| is_old(**packed))
            .map(|(key, _)| *key)
            .collect();
        old.into_iter().for_each(|number| self.set(number, None));
    }

    /// Takes up what a command does to expiry times; its server's clock shows `now_ms`.
    pub fn learn(&mut self, write: &Write<'_>, now_ms: u64) {
        self.sweep(now_ms);
        let number = |place: usize| number(write.db, write.word(place));
        let name = write.word(0).to_ascii_uppercase();
        match name.as_slice() {
            b"SET" => self.told(number(1), expiry_among(write, 3)),
            b"MSETEX" => {
                let told = expiry_among(write, write.keys.last().map_or(2, |last| last + 2));
                write.keys.iter().for_each(|place| self.told(number(*place), told));
            }
            b"PEXPIREAT" => self.told(number(1), Told::from(number_at(write, 2))),
            b"RESTORE" => {
                let ms = number_at(write, 2).filter(|ms| *ms > 0);
                self.told(number(1), Told::from(ms));
            }
            b"RENAME" | b"RENAMENX" => {
                let moved = self.entries.get(&number(1)).map(|packed| Expiry::unpack(*packed));
                self.set(number(1), None);
                self.set(number(2), moved);
            }
            b"COPY" => {
                let copied = self.entries.get(&number(1)).map(|packed| Expiry::unpack(*packed));
                let to = option(write, 3, b"DB").and_then(|place| number_at(write, place));
                let db = to.and_then(|db| u32::try_from(db).ok()).unwrap_or(write.db);
                self.set(self::number(db, write.word(2)), copied);
            }
            b"MOVE" => {
                let moved = self.entries.get(&number(1)).map(|packed| Expiry::unpack(*packed));
                let db = number_at(write, 2).and_then(|db| u32::try_from(db).ok());
                self.set(number(1), None);
                self.set(self::number(db.unwrap_or(write.db), write.word(1)), moved);
            }
            // The key is another one from here on.
            b"PERSIST" | b"DEL" | b"UNLINK" | b"SETNX" | b"MSET" | b"MSETNX" => {
                write.keys.iter().for_each(|place| self.set(number(*place), None));
            }
            b"SDIFFSTORE" | b"SINTERSTORE" | b"SUNIONSTORE" | b"ZDIFFSTORE" | b"ZINTERSTORE"
            | b"ZUNIONSTORE" | b"ZRANGESTORE" | b"GEOSEARCHSTORE" | b"BITOP" => {
                let place = write.keys.first().copied().unwrap_or(1);
                self.set(number(place), None);
            }
            b"SORT" | b"GEORADIUS" | b"GEORADIUSBYMEMBER" => {
                if let Some(place) = write.keys.get(1) {
                    self.set(number(*place), None);
                }
            }
            _ if write.may_empty() => self.doubt(number(1)),
            b"FLUSHALL" | b"FLUSHDB" | b"SWAPDB" => {
                let all: Vec<u64> = self.entries.keys().copied().collect();
                all.into_iter().for_each(|number| self.doubt(number));
            }
            _ => {}
        }
    }

    fn told(&mut self, number: u64, told: Told) {
        match told {
            Told::At(ms) => self.set(number, Some(Expiry { ms, doubtful: false })),
            Told::Never => self.set(number, None),
            Told::AsBefore => {}
        }
    }

    fn doubt(&mut self, number: u64) {
        let known = self.entries.get(&number).map(|packed| Expiry::unpack(*packed));
        if let Some(expiry) = known.filter(|expiry| !expiry.doubtful) {
            self.set(number, Some(Expiry { doubtful: true, ..expiry }));
        }
    }
}

/// What a command says of a key's expiry.
#[derive(Clone, Copy)]
enum Told {
    At(u64),
    Never,
    AsBefore,
}

impl From<Option<u64>> for Told {
    fn from(ms: Option<u64>) -> Self {
        ms.map_or(Self::Never, Self::At)
    }
}

/// What stands among a command's options from this word on. Servers write no others than these.
fn expiry_among(write: &Write<'_>, from: usize) -> Told {
    if option(write, from, b"KEEPTTL").is_some() {
        return Told::AsBefore;
    }
    if let Some(place) = option(write, from, b"EXAT") {
        return Told::from(number_at(write, place).map(|seconds| seconds.saturating_mul(1000)));
    }
    Told::from(option(write, from, b"PXAT").and_then(|place| number_at(write, place)))
}

/// The place behind an option, if it is given.
fn option(write: &Write<'_>, from: usize, name: &[u8]) -> Option<usize> {
    (from..write.cmd.len())
        .find(|place| write.word(*place).eq_ignore_ascii_case(name))
        .map(|place| place + 1)
}

fn number_at(write: &Write<'_>, place: usize) -> Option<u64> {
    std::str::from_utf8(write.word(place)).ok()?.parse().ok()
}

fn number(db: u32, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, u64::from(db))
}
