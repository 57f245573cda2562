//! What must hold of records and rows, as predicates: one oracle for property tests, fault tests
//! and production.
//!
//! | predicate | judges |
//! |---|---|
//! | [`Chain`] | no gap, no rewind: the records of one partition |
//! | [`Versions`] | key order: a version seen again and again never goes down |
//! | [`Tally`] | rows conserved: what was promised is there once, and nothing else is |
//! | [`ensure_no_echo`] | no echo: no unit meets its own changes |

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;

use crate::name::Name;
use crate::seq::{Seq, Step, step};

/// Which of them does not hold, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A record does not follow the one before it.
    #[error("gap: record {seq} follows {prev}, but the one before it is {last}")]
    Gap {
        /// The record before.
        last: Seq,
        /// The record.
        seq: Seq,
        /// What it names as the one before.
        prev: Seq,
    },
    /// A record stands behind a later one.
    #[error("rewind: record {seq} stands behind {last}")]
    Rewind {
        /// The later record.
        last: Seq,
        /// The record behind it.
        seq: Seq,
    },
    /// A key went back to an older version.
    #[error("key order: {key} went from version {from} back to {to}")]
    KeyOrder {
        /// The key.
        key: String,
        /// The version it had.
        from: u64,
        /// The version it has now.
        to: u64,
    },
    /// What was promised is not there.
    #[error("lost: {what}")]
    Lost {
        /// What was promised.
        what: String,
    },
    /// Something is there more than once.
    #[error("doubled: {what} is there {times} times")]
    Doubled {
        /// What is there.
        what: String,
        /// How often.
        times: u32,
    },
    /// Something is there that nobody promised.
    #[error("extra: {what} is there, and nobody wrote it")]
    Extra {
        /// What is there.
        what: String,
    },
    /// A unit's own change came back to it.
    #[error("echo: a change of unit {unit} came back to it")]
    Echo {
        /// The unit.
        unit: Name,
    },
}

/// The records of one partition, in order: each has a higher number than the one before it and
/// names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    last: Seq,
}

impl Chain {
    /// Goes on behind `last`; [`Seq::NONE`] is before the first record.
    #[must_use]
    pub const fn after(last: Seq) -> Self {
        Self { last }
    }

    /// The last record seen.
    #[must_use]
    pub const fn last(&self) -> Seq {
        self.last
    }

    /// Sees the next record.
    ///
    /// # Errors
    /// [`Broken::Gap`] or [`Broken::Rewind`]; the chain stays where it was.
    pub fn see(&mut self, seq: Seq, prev: Seq) -> Result<(), Broken> {
        match step(self.last, seq, prev) {
            Step::Next => {
                self.last = seq;
                Ok(())
            }
            Step::Seen => Err(Broken::Rewind { last: self.last, seq }),
            Step::Gap => Err(Broken::Gap { last: self.last, seq, prev }),
        }
    }
}

/// The highest version of each key. Seeing one again is fine, seeing a lower one is not.
#[derive(Clone, Debug)]
pub struct Versions<K> {
    highest: HashMap<K, u64>,
}

impl<K> Default for Versions<K> {
    fn default() -> Self {
        Self { highest: HashMap::new() }
    }
}

impl<K: Eq + Hash + Debug> Versions<K> {
    /// Sees a key at a version.
    ///
    /// # Errors
    /// [`Broken::KeyOrder`]; the highest version stays known.
    pub fn see(&mut self, key: K, version: u64) -> Result<(), Broken> {
        match self.highest.get_mut(&key) {
            Some(highest) if version < *highest => {
                Err(Broken::KeyOrder { key: format!("{key:?}"), from: *highest, to: version })
            }
            Some(highest) => {
                *highest = version;
                Ok(())
            }
            None => {
                self.highest.insert(key, version);
                Ok(())
            }
        }
    }

    /// The highest version seen of a key.
    #[must_use]
    pub fn highest(&self, key: &K) -> Option<u64> {
        self.highest.get(key).copied()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    promised: bool,
    allowed: bool,
    seen: u32,
}

/// What was promised against what is there.
#[derive(Clone, Debug)]
pub struct Tally<K> {
    counts: HashMap<K, Count>,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self { counts: HashMap::new() }
    }
}

impl<K: Eq + Hash + Ord + Clone + Debug> Tally<K> {
    /// It must be there exactly once.
    pub fn promise(&mut self, what: K) {
        self.counts.entry(what).or_default().promised = true;
    }

    /// It may be there, at most once: its writer never heard whether it was committed.
    pub fn allow(&mut self, what: K) {
        self.counts.entry(what).or_default().allowed = true;
    }

    /// It is there.
    pub fn see(&mut self, what: K) {
        self.counts.entry(what).or_default().seen += 1;
    }

    /// How often it is there.
    #[must_use]
    pub fn seen(&self, what: &K) -> u32 {
        self.counts.get(what).map_or(0, |count| count.seen)
    }

    /// All that is there, each once.
    pub fn all_seen(&self) -> impl Iterator<Item = &K> {
        self.counts.iter().filter(|(_, count)| count.seen > 0).map(|(what, _)| what)
    }

    /// What does not hold, with what it concerns, in its order.
    #[must_use]
    pub fn settle(&self) -> Vec<(K, Broken)> {
        let mut broken: Vec<(K, Broken)> = self
            .counts
            .iter()
            .filter_map(|(key, count)| {
                let what = || format!("{key:?}");
                let broken = match count.seen {
                    0 if count.promised => Broken::Lost { what: what() },
                    0 => return None,
                    _ if !count.promised && !count.allowed => Broken::Extra { what: what() },
                    1 => return None,
                    times => Broken::Doubled { what: what(), times },
                };
                Some((key.clone(), broken))
            })
            .collect();
        broken.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        broken
    }
}

/// A change of `origin` arrives at `unit`.
///
/// # Errors
/// [`Broken::Echo`] where they are the same.
pub fn ensure_no_echo(unit: &Name, origin: &Name) -> Result<(), Broken> {
    if unit == origin { Err(Broken::Echo { unit: unit.clone() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_breaks_at_gaps_and_rewinds_and_goes_on_where_it_was() {
        let mut chain = Chain::default();
        chain.see(Seq(2), Seq(0)).unwrap();
        assert!(matches!(chain.see(Seq(8), Seq(4)), Err(Broken::Gap { last: Seq(2), .. })));
        assert!(matches!(chain.see(Seq(2), Seq(0)), Err(Broken::Rewind { .. })));
        chain.see(Seq(4), Seq(2)).unwrap();
        assert_eq!(chain.last(), Seq(4));
    }

    #[test]
    fn versions_may_stay_or_rise() {
        let mut versions = Versions::default();
        for version in [3, 3, 5] {
            versions.see("a", version).unwrap();
        }
        versions.see("b", 1).unwrap();
        let broken = versions.see("a", 4).unwrap_err();
        assert_eq!(broken.to_string(), "key order: \"a\" went from version 5 back to 4");
        assert_eq!(versions.highest(&"a"), Some(5));
    }

    #[test]
    fn a_tally_names_what_is_lost_doubled_and_extra() {
        let mut tally = Tally::default();
        for promised in ["here", "lost", "twice"] {
            tally.promise(promised);
        }
        for maybe in ["maybe", "maybe twice", "never"] {
            tally.allow(maybe);
        }
        for seen in ["here", "twice", "twice", "maybe", "maybe twice", "maybe twice", "extra"] {
            tally.see(seen);
        }
        let texts: Vec<&str> = tally.settle().iter().map(|(what, _)| *what).collect();
        assert_eq!(texts, ["extra", "lost", "maybe twice", "twice"]);
        let [extra, lost, _, twice] = &tally.settle()[..] else { panic!("four") };
        assert!(matches!(extra.1, Broken::Extra { .. }));
        assert!(matches!(lost.1, Broken::Lost { .. }));
        assert!(matches!(twice.1, Broken::Doubled { times: 2, .. }));
    }

    #[test]
    fn only_the_own_unit_is_an_echo() {
        let (a, b): (Name, Name) = ("A".parse().unwrap(), "B".parse().unwrap());
        assert!(ensure_no_echo(&a, &b).is_ok());
        assert_eq!(ensure_no_echo(&a, &a), Err(Broken::Echo { unit: a }));
    }
}
