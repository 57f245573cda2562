//! Free ports of 127.0.0.1.

use std::collections::HashSet;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::fault::Fault;

const FIRST: u16 = 15_000;
/// Where Linux starts to give out ports for outgoing connections, unless told otherwise.
const OUTGOING: u16 = 32_768;

/// How often a server is started on another port when someone took the one that was free a moment ago.
pub(crate) const TRIES: usize = 5;

static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port that nobody listens on, given to no one else in this process.
///
/// It lies below the range for outgoing connections. A port that the kernel chooses lies inside: while its server is
/// down, a client's own outgoing end may take it, and a client that keeps trying to reach it may connect to itself.
///
/// # Errors
/// [`Fault::NoPort`].
pub fn free() -> Result<u16, Fault> {
    let last = first_outgoing().max(FIRST + 1);
    let span = last - FIRST;
    let start = random() % u64::from(span);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    (0..u64::from(span))
        .filter_map(|step| u16::try_from((start + step) % u64::from(span)).ok())
        .map(|offset| FIRST + offset)
        .find(|&port| {
            !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        })
        .inspect(|&port| _ = given.insert(port))
        .ok_or(Fault::NoPort { from: FIRST, to: last })
}

fn first_outgoing() -> u16 {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(OUTGOING)
}

/// The standard library's hash keys are random, which is all that is needed here.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
