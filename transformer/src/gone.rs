//! Where deleted keys lived, for tables that are spread by columns outside the key.
//!
//! There a key may come back in another lane, and its insert has to wait until its delete is
//! applied. Keys that were deleted lately are remembered one by one. The memory has a limit; of
//! what it gives up it keeps each lane's last delete, and whatever another lane inserts next waits
//! for that one: once, as a lane keeps its order.
//!
//! Waits point to deletes that stand before the insert in the log, so they end.
//!
//! The memory is not durable. After a restart all that was put out before counts as given up, so
//! that an insert may wait for more than it would have to, never for less.

use std::collections::HashMap;

use unitflow_change::seq::Seq;
use unitflow_change::tag::After;
use xxhash_rust::xxh3::xxh3_128;

/// After so many deletes the older ones are given up: at most 8 MiB are held.
const DELETES: usize = 1 << 16;

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Gone {
    /// The last deletes, by key. A key that is in both was deleted again.
    young: HashMap<u128, After>,
    old: HashMap<u128, After>,
    /// By lane: the last delete that was given up.
    given_up: Vec<Seq>,
    /// By lane: what inserts there wait for, of each other lane's `given_up`.
    told: HashMap<i32, Vec<Seq>>,
}

impl Gone {
    /// At the start of a generation, at which all lanes have met.
    #[must_use]
    pub fn new(lanes: usize) -> Self {
        Self { given_up: vec![Seq::NONE; lanes], ..Self::default() }
    }

    /// After a restart behind the captured record `seq`: what follows it is read again, and what
    /// stands before it is in the lanes, which end at `tails`.
    #[must_use]
    pub fn after_restart(seq: Seq, tails: &[Seq]) -> Self {
        let given_up = tails.iter().map(|tail| seq.min(*tail)).collect();
        Self { given_up, ..Self::default() }
    }

    /// A row with this key is deleted there.
    pub fn deleted(&mut self, key: &[u8], at: After) {
        if self.young.len() >= DELETES {
            self.give_up();
        }
        self.young.insert(xxh3_128(key), at);
    }

    /// Any row may have been deleted in any lane by this record.
    pub fn anywhere(&mut self, seq: Seq) {
        self.given_up.iter_mut().for_each(|last| *last = seq.max(*last));
    }

    fn give_up(&mut self) {
        for at in self.old.values() {
            if let Some(last) = self.given_up.get_mut(place(at.lane)) {
                *last = at.seq.max(*last);
            }
        }
        self.old = std::mem::take(&mut self.young);
    }

    /// What a row with this key has to wait for that is inserted into this lane.
    pub fn inserted(&mut self, key: &[u8], lane: i32) -> Vec<After> {
        let told = self.told.entry(lane).or_default();
        told.resize(self.given_up.len(), Seq::NONE);
        let mut waits = Vec::new();
        for (other, (told, last)) in (0..).zip(told.iter_mut().zip(&self.given_up)) {
            if other != lane && *told < *last {
                *told = *last;
                waits.push(After { lane: other, seq: *last });
            }
        }
        let key = xxh3_128(key);
        let own = self.young.get(&key).or_else(|| self.old.get(&key));
        waits.extend(own.filter(|at| at.lane != lane));
        waits
    }
}

fn place(lane: i32) -> usize {
    usize::try_from(lane).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lane: i32, seq: u64) -> After {
        After { lane, seq: Seq(seq) }
    }

    #[test]
    fn a_key_waits_for_its_last_delete_in_another_lane() {
        let mut gone = Gone::new(3);
        gone.deleted(b"a", at(0, 2));
        gone.deleted(b"a", at(1, 8));
        gone.deleted(b"b", at(2, 10));
        assert_eq!(gone.inserted(b"a", 2), [at(1, 8)]);
        assert_eq!(gone.inserted(b"a", 1), []);
        assert_eq!(gone.inserted(b"c", 0), []);
    }

    #[test]
    fn what_is_given_up_is_waited_for_once_by_each_other_lane() {
        let mut gone = Gone::new(3);
        let deletes = DELETES as u64;
        for number in 0..3 * deletes {
            gone.deleted(&number.to_le_bytes(), at((number % 2) as i32, 2 * number + 2));
        }
        let last = [at(0, 2 * deletes - 2), at(1, 2 * deletes)];
        let young = 3 * deletes - 1;
        assert_eq!(gone.inserted(&0_u64.to_le_bytes(), 2), last);
        assert_eq!(gone.inserted(&0_u64.to_le_bytes(), 2), []);
        assert_eq!(gone.inserted(&young.to_le_bytes(), 2), [at(1, 2 * young + 2)]);
        assert_eq!(gone.inserted(b"new", 0), last[1..]);
        assert!(gone.young.len() <= DELETES && gone.old.len() <= DELETES);
    }

    #[test]
    fn after_a_restart_all_that_was_put_out_is_waited_for() {
        let mut gone = Gone::after_restart(Seq(20), &[Seq(8), Seq::NONE, Seq(30)]);
        assert_eq!(gone.inserted(b"a", 1), [at(0, 8), at(2, 20)]);
        assert_eq!(gone.inserted(b"a", 1), []);
    }
}
