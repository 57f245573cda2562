//! Logs of real servers, damaged.

use unitflow_harness::random::Random;
use unitflow_mysql::{Flavor, fuzz as decoders};

use crate::{damage, fuzz, hex};

/// What stands before the events of a log file.
const MAGIC: &[u8] = b"\xfebin";
/// A header, with the event's size at its place.
const HEADER_BYTES: usize = 19;
const SIZE_AT: std::ops::Range<usize> = 9..13;
/// The types of events that start a transaction.
const GTIDS: [u8; 3] = [33, 42, 162];

/// Logs that `corpus/statements.sql` made.
pub static MYSQL: &[u8] = include_bytes!("corpus/mysql.binlog");
static MARIADB: &[u8] = include_bytes!("corpus/mariadb.binlog");

/// The events without their checksums, which would hide all damage, and the file's first, which says
/// that there are some.
pub fn corpus(log: &'static [u8]) -> Vec<Vec<u8>> {
    let log = log.strip_prefix(MAGIC).unwrap();
    decoders::split(log).into_iter().skip(1).map(|event| sized(&event[..event.len() - 4])).collect()
}

/// The event with the size that it has.
fn sized(event: &[u8]) -> Vec<u8> {
    let mut event = event.to_vec();
    let size = u32::try_from(event.len()).unwrap().to_le_bytes();
    if let Some(place) = event.get_mut(SIZE_AT) {
        place.copy_from_slice(&size);
    }
    event
}

fn damaged(random: &mut Random, events: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut events = events.to_vec();
    let others: Vec<Vec<u8>> = (0..2).map(|_| events[random.place(events.len())].clone()).collect();
    let others: Vec<&[u8]> = others.iter().map(Vec::as_slice).collect();
    for _ in 0..=random.below(3) {
        let at = random.place(events.len());
        match random.below(12) {
            0 => drop(events.remove(at)),
            1 => events.insert(at, events[at].clone()),
            2 => {
                let other = random.place(events.len());
                events.swap(at, other);
            }
            // With its header, and the size that it said before.
            3 => damage::bytes(random, &mut events[at], &others),
            _ => {
                let head = HEADER_BYTES.min(events[at].len());
                let mut body = events[at].split_off(head);
                damage::bytes(random, &mut body, &others);
                events[at].extend_from_slice(&body);
                events[at] = sized(&events[at]);
            }
        }
        if events.is_empty() {
            events.push(vec![]);
        }
    }
    events
}

fn target(name: &str, flavor: Flavor, log: &'static [u8], rows: u64) {
    let whole = corpus(log);
    let decode =
        |events: &Vec<Vec<u8>>| decoders::events(flavor, events.iter().map(Vec::as_slice), false);
    // The corpus itself is sound, so that the damage is what is tried.
    assert_eq!(decode(&whole).unwrap(), rows, "{name}");
    let starts: Vec<usize> = (0..whole.len()).filter(|at| GTIDS.contains(&whole[*at][4])).collect();
    assert!(starts.len() > 20, "{name}: {} transactions", starts.len());
    fuzz(
        name,
        |random| {
            // Up to three transactions, as all of them take long.
            let first = random.place(starts.len());
            let end = starts.get(first + 1 + random.place(3)).copied().unwrap_or(whole.len());
            damaged(random, &whole[starts[first]..end])
        },
        |events| drop(decode(events)),
        |events| events.iter().map(|event| hex(event) + "\n").collect(),
    );
}

#[test]
fn mysql() {
    target("binlog of MySQL", Flavor::Mysql, MYSQL, 60);
}

#[test]
fn mariadb() {
    target("binlog of MariaDB", Flavor::Mariadb, MARIADB, 58);
}
