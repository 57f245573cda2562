//! Damaged input for everything that reads bytes from outside: the binlog, binary JSON, DECIMAL,
//! GTID sets, our own records, values on their way into SQL.
//!
//! Each target takes inputs of a corpus, recorded from real servers and workers, and damages them
//! with choices from a seed. Nothing may panic, and no input may make more bytes live than
//! [`allocations::LIVE_MOST`]; what must hold besides is said at each target. The seed is printed; with it
//! (`UNITFLOW_SEED`) a failure is seen again.
//!
//! ```console
//! cargo test --test fuzz                                  # 20 seconds in all
//! UNITFLOW_FUZZ_SECONDS=3600 cargo test --release --test fuzz   # as long as wanted
//! ```

#![allow(clippy::unwrap_used, reason = "a fault of the test itself")]

mod allocations;
mod binlog;
mod damage;
mod records;
mod sets;
mod values;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use unitflow_harness::random::{Random, seed};

/// How many targets share the time.
const TARGETS: u32 = 7;
/// No input takes longer.
const INPUT_WITHIN: Duration = Duration::from_secs(20);
/// How many inputs are tried between two looks at the clock.
const INPUTS_BETWEEN_LOOKS: u32 = 64;

#[global_allocator]
static ALLOCATIONS: allocations::Counting = allocations::Counting;

/// Runs a target on one damaged input after the other until its share of the time is over.
///
/// `damage` makes an input, `decode` must bear it.
fn fuzz<Input>(
    target: &str,
    mut damage: impl FnMut(&mut Random) -> Input,
    mut decode: impl FnMut(&Input),
    show: impl Fn(&Input) -> String,
) {
    let seconds = std::env::var("UNITFLOW_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let share = Duration::from_secs(seconds.unwrap_or(20)) / TARGETS;
    let random = Random::new(seed(target));
    let end = Instant::now() + share;
    let current = watch(target);
    let mut inputs = 0_u64;
    let mut most = 0;
    while inputs == 0 || Instant::now() < end {
        for _ in 0..INPUTS_BETWEEN_LOOKS {
            let input = damage(&mut random.branch(inputs));
            inputs += 1;
            current.store(inputs, Ordering::Relaxed);
            allocations::begin();
            let outcome = catch_unwind(AssertUnwindSafe(|| decode(&input)));
            let live = allocations::most();
            most = most.max(live);
            if let Err(panic) = outcome {
                println!("{target}: input {inputs} makes it panic: {}", show(&input));
                resume_unwind(panic);
            }
            assert!(
                live <= allocations::LIVE_MOST,
                "{target}: input {inputs} makes {live} bytes live: {}",
                show(&input)
            );
        }
    }
    println!("{target}: {inputs} inputs, at most {most} bytes live");
    // Less would be no fuzzing.
    assert!(inputs > 1_000, "{target} tried {inputs} inputs only");
}

/// Ends the process where one input takes too long: what loops for ever can't be stopped otherwise.
/// The number to raise with each input; it lives as long as the target runs.
fn watch(target: &str) -> Arc<AtomicU64> {
    let current = Arc::new(AtomicU64::new(0));
    let (watched, target) = (Arc::downgrade(&current), target.to_owned());
    std::thread::spawn(move || {
        let mut last = (0, Instant::now());
        while let Some(current) = watched.upgrade() {
            let input = current.load(Ordering::Relaxed);
            drop(current);
            if input != last.0 {
                last = (input, Instant::now());
            } else if last.1.elapsed() > INPUT_WITHIN {
                eprintln!("{target}: input {input} takes longer than {INPUT_WITHIN:?}");
                std::process::abort();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    current
}

/// Bytes for a message, so that they can be made a case of a test.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
#[should_panic(expected = "makes 1073741824 bytes live")]
fn the_fuzzer_finds_an_allocation_without_bounds() {
    let decode = |input: &u64| {
        if *input % 100 == 7 {
            drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 30)));
        }
    };
    fuzz("mutant: allocation", Random::next, decode, u64::to_string);
}

#[test]
#[should_panic(expected = "index out of bounds")]
fn the_fuzzer_finds_a_panic() {
    let first = [1, 2, 3];
    let decode = |input: &u64| {
        let place = usize::try_from(*input % 100).unwrap_or(0);
        std::hint::black_box(if place < 99 { 1 } else { first[std::hint::black_box(place)] });
    };
    fuzz("mutant: panic", Random::next, decode, u64::to_string);
}
