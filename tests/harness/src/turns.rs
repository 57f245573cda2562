//! Tests of real servers, with a limit and a clock: no more at a time than two cores bear.

use std::future::Future;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::mesh::install;

/// How many tests run at a time: most of what one does is waiting.
const SEATS: usize = 2;

static FREE: Mutex<usize> = Mutex::new(SEATS);
static FREED: Condvar = Condvar::new();

/// Runs one test of real servers, beside one other of the same program at most, and says how long it
/// took. Servers that are missing on this machine are brought before the clock starts.
///
/// # Panics
/// Where the test fails, or has not ended after `limit`.
pub fn beside(name: &str, limit: Duration, test: impl Future<Output = anyhow::Result<()>>) {
    run(name, limit, test, 1);
}

/// The same with the machine to itself, for a test that counts how much is done in a time.
///
/// # Panics
/// As [`beside`].
pub fn alone(name: &str, limit: Duration, test: impl Future<Output = anyhow::Result<()>>) {
    run(name, limit, test, SEATS);
}

fn run(name: &str, limit: Duration, test: impl Future<Output = anyhow::Result<()>>, seats: usize) {
    let _seats = Seats::take(seats);
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    runtime.block_on(install()).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let begin = Instant::now();
    let outcome = runtime.block_on(async { timeout(limit, test).await });
    let took = begin.elapsed();
    match outcome {
        Ok(Ok(())) => println!("{name}: passed in {took:.1?}"),
        Ok(Err(error)) => panic!("{name}: failed after {took:.1?}: {error:?}"),
        Err(_) => panic!("{name}: not done after {limit:?}"),
    }
}

/// Given back when it is dropped, also where the test panics.
struct Seats(usize);

impl Seats {
    fn take(seats: usize) -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free =
            FREED.wait_while(free, |free| *free < seats).unwrap_or_else(PoisonError::into_inner);
        *free -= seats;
        Self(seats)
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        FREED.notify_all();
    }
}
