//! The way from a captured log to the target, driven with input that is repeated, cut, doubled and
//! mixed with that of zombies.
//!
//! A case is a random history of a store, a random schedule of transformer workers and one of
//! sinks. The oracle knows whole transactions; see [`log`]. The seed is printed; put it into
//! `UNITFLOW_SEED` to see a failure again.

use std::time::Instant;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use unitflow_change::Code;
use unitflow_transformer::{State, Transformer};

use crate::broker::{Broker, Puts};
use crate::copies::Sink;
use crate::log::{Entry, Log, Record, build, items, merge, shapes};
use crate::sinks::{Outcome, Target};

mod broker;
mod copies;
mod log;
mod sinks;

/// What happens next to the transformer workers.
#[derive(Clone, Debug)]
enum Event {
    Read(usize),
    Rewind(usize),
    Commit,
    /// The worker dies with what it has not committed.
    Kill,
    /// The worker is stopped, and another takes over.
    Replace,
    /// The worker stopped last reads on.
    ZombieReads(usize),
    /// And tries to commit.
    ZombieCommits,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (1..12_usize).prop_map(Event::Read),
        1 => (1..20_usize).prop_map(Event::Rewind),
        4 => Just(Event::Commit),
        2 => Just(Event::Kill),
        1 => Just(Event::Replace),
        1 => (1..12_usize).prop_map(Event::ZombieReads),
        1 => Just(Event::ZombieCommits),
    ];
    proptest::collection::vec(event, 0..60)
}

/// What happens next to the sinks; lanes are taken modulo their number.
#[derive(Clone, Debug)]
enum Move {
    Take {
        lane: usize,
        count: usize,
    },
    /// The worker of the lane dies; the next begins some records too early.
    Kill {
        lane: usize,
        back: usize,
    },
    /// The worker of the lane is stopped, and another takes over.
    Replace {
        lane: usize,
        back: usize,
    },
    /// The worker stopped last tries to go on.
    ZombieTakes(usize),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let a_move = prop_oneof![
        6 => (0..4_usize, 1..9_usize).prop_map(|(lane, count)| Move::Take { lane, count }),
        1 => (0..4_usize, 0..30_usize).prop_map(|(lane, back)| Move::Kill { lane, back }),
        1 => (0..4_usize, 0..30_usize).prop_map(|(lane, back)| Move::Replace { lane, back }),
        1 => (1..9_usize).prop_map(Move::ZombieTakes),
    ];
    proptest::collection::vec(a_move, 0..60)
}

/// Runs `test` on `cases` random inputs, and says how to see a failure again.
fn check<S: Strategy>(
    name: &str,
    cases: u32,
    strategy: &S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let given = std::env::var("UNITFLOW_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| rand_seed(name));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let begin = Instant::now();
    let result = TestRunner::new_with_rng(config, rng).run(strategy, test);
    println!("{name}: {cases} cases, UNITFLOW_SEED={seed}, {:?}", begin.elapsed());
    if let Err(error) = result {
        panic!("UNITFLOW_SEED={seed}: {error}");
    }
}

fn rand_seed(name: &str) -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// The whole log through one worker that nothing disturbs.
fn undisturbed(captured: &[Entry], state: State) -> Vec<(usize, Record)> {
    let mut transformer = Transformer::new(state);
    let mut puts = Puts::default();
    for entry in captured {
        transformer.step(&entry.captured(), &mut puts).expect("the log is whole");
    }
    puts.0
}

fn without_waits(partitions: &[Vec<Record>]) -> Vec<Vec<Record>> {
    partitions.iter().map(|lane| lane.iter().map(Record::without_waits).collect()).collect()
}

fn by_lane(lanes: usize, puts: Vec<(usize, Record)>) -> Vec<Vec<Record>> {
    let mut partitions = vec![Vec::new(); lanes];
    for (lane, record) in puts {
        partitions[lane].push(record);
    }
    partitions
}

#[test]
fn own_carried_changes_arrive_once_whatever_happens_on_the_way() {
    let duplicates = (0..1000_usize, 0..12_usize, proptest::option::of(any::<u64>()));
    let duplicates = proptest::collection::vec(duplicates, 0..4);
    let strategy = (shapes(), items(40), duplicates, events(), moves());
    check("once", 3000, &strategy, |(shape, items, duplicates, events, moves)| {
        let mut log = build(shape, &items);
        for (at, length, turns) in duplicates {
            match turns {
                None => log.duplicate(at, length),
                Some(turns) => log.interleave(at, length, turns),
            }
        }
        let broker = transform(&log, &events)?;
        prop_assert_eq!(&without_waits(&broker.partitions), &log.tagged);
        sink(&broker.partitions, &moves)
    });
}

/// Lets workers come and go as `events` say, and one finish.
fn transform(log: &Log, events: &[Event]) -> Result<Broker, TestCaseError> {
    let mut broker = Broker::new(log.tagged.len());
    let mut worker = broker.start(&log.captured);
    let mut zombies = Vec::new();
    let read = |worker: &mut broker::Worker, count| {
        worker
            .read(&log.captured, count)
            .map_err(|fault| TestCaseError::fail(format!("a transformer stopped: {fault}")))
    };
    for event in events {
        match event {
            Event::Read(count) => read(&mut worker, *count)?,
            Event::Rewind(count) => worker.rewind(*count),
            Event::Commit => prop_assert!(worker.commit(&mut broker)),
            Event::Kill => worker = broker.start(&log.captured),
            Event::Replace => {
                zombies.push(std::mem::replace(&mut worker, broker.start(&log.captured)));
            }
            Event::ZombieReads(count) => {
                if let Some(zombie) = zombies.last_mut() {
                    read(zombie, *count)?;
                }
            }
            Event::ZombieCommits => {
                if let Some(mut zombie) = zombies.pop() {
                    prop_assert!(!zombie.commit(&mut broker), "a fenced worker committed");
                }
            }
        }
    }
    read(&mut worker, usize::MAX)?;
    prop_assert!(worker.commit(&mut broker));
    Ok(broker)
}

/// Lets sinks come and go as `moves` say, and then finish.
fn sink(partitions: &[Vec<Record>], moves: &[Move]) -> Result<(), TestCaseError> {
    let mut target = Target::new(partitions);
    let lanes = partitions.len();
    let mut sinks: Vec<sinks::Sink> = (0..lanes).map(|lane| target.start(lane, 0)).collect();
    let mut zombies: Vec<sinks::Sink> = Vec::new();
    for a_move in moves {
        match *a_move {
            Move::Take { lane, count } => {
                for _ in 0..count {
                    let outcome = target.take(&mut sinks[lane % lanes]);
                    prop_assert!(!matches!(outcome, Outcome::Gap | Outcome::Fenced));
                }
            }
            Move::Kill { lane, back } => {
                sinks[lane % lanes] = target.start(lane % lanes, back);
            }
            Move::Replace { lane, back } => {
                let next = target.start(lane % lanes, back);
                zombies.push(std::mem::replace(&mut sinks[lane % lanes], next));
            }
            Move::ZombieTakes(count) => {
                if let Some(mut zombie) = zombies.pop() {
                    let before = target.applied.len();
                    let outcomes: Vec<_> = (0..count).map(|_| target.take(&mut zombie)).collect();
                    prop_assert!(!outcomes.contains(&Outcome::Gap));
                    let applied = target.applied.len() > before;
                    prop_assert!(!(applied && outcomes.contains(&Outcome::Fenced)));
                    // As long as the replacement has done nothing, the zombie is as good.
                    if applied {
                        let lane = zombie.lane;
                        sinks[lane] = zombie;
                    }
                }
            }
        }
    }
    let stopped = target.drain(&mut sinks);
    prop_assert!(stopped.iter().all(|outcome| *outcome == Outcome::AtEnd), "{:?}", stopped);
    let applied = target.applied.iter().map(|(lane, record)| (*lane, (*record).clone())).collect();
    prop_assert_eq!(&by_lane(lanes, applied), partitions);
    target.judge().map_err(TestCaseError::fail)
}

#[test]
fn from_every_state_the_rest_follows() {
    check("states", 500, &(shapes(), items(20)), |(shape, items)| {
        let log = build(shape, &items);
        let lanes = log.tagged.len();
        let mut transformer = Transformer::new(State::start());
        let mut before = Puts::default();
        for entry in &log.captured {
            transformer.step(&entry.captured(), &mut before).expect("the log is whole");
            let state = transformer.state();
            // Repeated from the log's beginning as well as from where the state says.
            let rest = log.captured.partition_point(|entry| entry.offset < state.offset);
            for from in [rest, rest.saturating_sub(3), 0] {
                let mut all = before.0.clone();
                all.extend(undisturbed(&log.captured[from..], state.clone()));
                let all = by_lane(lanes, all);
                prop_assert_eq!(&without_waits(&all), &log.tagged);
                sink(&all, &[])?;
            }
        }
        Ok(())
    });
}

#[test]
fn an_older_state_repeats_what_sinks_drop() {
    let strategy =
        (shapes(), items(20), 0..1000_usize, prop_oneof![Just(0), any::<u64>()], moves());
    check("older", 1000, &strategy, |(shape, items, at, turns, moves)| {
        let log = build(shape, &items);
        let mut transformer = Transformer::new(State::start());
        let mut puts = Puts::default();
        let at = at % log.captured.len();
        for entry in &log.captured[..at] {
            transformer.step(&entry.captured(), &mut puts).expect("the log is whole");
        }
        let state = transformer.state();
        let rest = log.captured.partition_point(|entry| entry.offset < state.offset);
        // The topic has all, and the part behind the older state once more: at the end, or where that of the
        // other writer stands, as if nobody fenced the one from the other.
        let whole = by_lane(log.tagged.len(), undisturbed(&log.captured, State::start()));
        let again = by_lane(log.tagged.len(), undisturbed(&log.captured[rest..], state));
        let twice = whole.iter().cloned().zip(again).map(|(mut all, again)| {
            let begin = match again.first().filter(|_| turns > 0) {
                None => all.len(),
                Some(first) => all.partition_point(|record| record.tag().seq < first.tag().seq),
            };
            let rest = all.split_off(begin);
            all.extend(merge(rest, again, turns));
            all
        });
        let topic: Vec<Vec<Record>> = twice.collect();
        let mut target = Target::new(&topic);
        let mut sinks: Vec<_> = (0..topic.len()).map(|lane| target.start(lane, 0)).collect();
        let stopped = target.drain(&mut sinks);
        prop_assert!(stopped.iter().all(|outcome| *outcome == Outcome::AtEnd), "{:?}", stopped);
        let applied =
            target.applied.iter().map(|(lane, record)| (*lane, (*record).clone())).collect();
        let applied = by_lane(topic.len(), applied);
        if turns == 0 {
            prop_assert_eq!(&applied, &whole);
        }
        // What the other writer put first may wait for more.
        prop_assert_eq!(&without_waits(&applied), &without_waits(&whole));
        target.judge().map_err(TestCaseError::fail)?;
        sink(&whole, &moves)
    });
}

#[test]
fn a_missing_record_is_always_noticed() {
    let strategy = (shapes(), items(30), 0..1000_usize, 0..1000_usize);
    check("gap", 2000, &strategy, |(shape, items, captured_at, tagged_at)| {
        let log = build(shape, &items);
        let mut captured = log.captured.clone();
        if captured.len() > 1 {
            captured.remove(captured_at % (captured.len() - 1));
            let mut transformer = Transformer::new(State::start());
            let mut puts = Puts::default();
            let result = captured
                .iter()
                .try_for_each(|entry| transformer.step(&entry.captured(), &mut puts));
            let fault = result.expect_err("a captured record is missing");
            prop_assert!(matches!(fault.code, Code::Gap), "{}", fault);
        }
        for lane in 0..log.tagged.len() {
            let records = &log.tagged[lane];
            if records.len() < 2 {
                continue;
            }
            let hole = tagged_at % (records.len() - 1);
            let mut topic = log.tagged.clone();
            topic[lane].remove(hole);
            let mut target = Target::new(&topic);
            let mut sinks: Vec<_> = (0..topic.len()).map(|lane| target.start(lane, 0)).collect();
            let stopped = target.drain(&mut sinks);
            prop_assert_eq!(stopped[lane], Outcome::Gap, "lane {} without record {}", lane, hole);
            let applied = target.applied.iter().filter(|(at, _)| *at == lane).count();
            prop_assert!(applied <= hole, "a record behind the hole was applied");
        }
        Ok(())
    });
}

#[test]
fn nothing_of_an_applied_transaction_is_put_out() {
    check("echo", 1000, &(shapes(), items(30)), |(shape, items)| {
        let log = build(shape, &items);
        for (_, record) in undisturbed(&log.captured, State::start()) {
            let text = String::from_utf8_lossy(&record.value).into_owned();
            prop_assert!(!text.contains("not"), "an echo: {record:?}");
            let key = String::from_utf8_lossy(&record.key).into_owned();
            prop_assert!(!key.contains("ledger") && !key.contains("secret"), "{key}");
        }
        Ok(())
    });
}

/// Steps of a schedule of three units.
const STEPS: usize = 200;

/// Schedules of three units; in the full run more of them.
fn schedules() -> u64 {
    if std::env::var_os("UNITFLOW_FULL").is_some() { 200_000 } else { 20_000 }
}

#[test]
fn no_copy_undoes_a_write_in_three_units() {
    let mut written = 0;
    for seed in 0..schedules() {
        match copies::run(seed, STEPS, Sink::Whole) {
            Ok(rows) => written += rows,
            Err(what) => panic!("seed {seed}: {what}"),
        }
    }
    // A guard that refuses everything keeps every row too.
    assert!(written as u64 > 10 * schedules(), "only {written} copied rows were written");
    println!("{written} copied rows written");
}

#[test]
fn without_a_rule_some_schedule_goes_wrong() {
    for sink in Sink::BROKEN {
        let wrong = (0..1_000).filter(|seed| copies::run(*seed, STEPS, sink).is_err()).count();
        println!("a sink that {sink:?}: {wrong} of 1000 schedules go wrong");
        let more_than = if sink == Sink::Overwrites { 100 } else { 0 };
        assert!(wrong > more_than, "with a sink that {sink:?} only {wrong} of 1000 go wrong");
    }
}

proptest! {
    #[test]
    fn no_copy_undoes_a_write_in_any_schedule(seed: u64, steps in 1..400_usize) {
        prop_assert_eq!(copies::run(seed, steps, Sink::Whole).err(), None);
    }
}
