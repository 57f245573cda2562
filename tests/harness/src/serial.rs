//! One test at a time, with a limit and a clock: each of them starts servers enough for two cores.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::mesh::install;

static SERIAL: Mutex<()> = Mutex::new(());

/// Runs one test of real servers, and says how long it took. Servers that are missing on this machine are brought before
/// the clock starts.
///
/// # Panics
/// Where the test fails, or has not ended after `limit`.
pub fn serial(name: &str, limit: Duration, test: impl Future<Output = anyhow::Result<()>>) {
    let _turn = SERIAL.lock().unwrap_or_else(PoisonError::into_inner);
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
