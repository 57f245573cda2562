use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use unitflow_kafka::members::{Options, committed};
use unitflow_kafka::{Broker, Change, Members, Writer};

use crate::{broker, kafka, own_kafka, read_from, topic, unique, within, write};

const CHILD: &str = "UNITFLOW_TEST_MEMBER";

fn options(stop_within: Duration) -> Options {
    Options { session_timeout: Duration::from_secs(6), stop_within }
}

fn join(broker: &Broker, group: &str, topic: &str) -> Members {
    Members::join(broker, group, topic, &options(Duration::from_secs(10))).unwrap()
}

/// What a worker does: starts and stops its lanes and confirms.
fn follow(mine: &mut BTreeSet<i32>, change: Change) -> bool {
    match change {
        Change::Added { partitions } => {
            for partition in partitions {
                assert!(mine.insert(partition), "{partition} was added twice");
            }
            false
        }
        Change::Removed { partitions, lost, stopped } => {
            for partition in partitions {
                assert!(mine.remove(&partition), "{partition} was not there");
            }
            stopped.confirm();
            lost
        }
    }
}

async fn until(members: &mut Members, mine: &mut BTreeSet<i32>, count: usize) {
    while mine.len() != count {
        let change = within(members.next()).await.unwrap();
        follow(mine, change);
    }
}

#[tokio::test]
async fn two_members_share_and_a_leaving_one_hands_over() {
    let broker = broker().await;
    let (topic, group) = (topic(&broker, 4).await, unique("group"));
    let mut first = join(&broker, &group, &topic);
    let (mut a, mut b) = (BTreeSet::new(), BTreeSet::new());
    until(&mut first, &mut a, 4).await;
    let mut second = join(&broker, &group, &topic);
    let (_, ()) = tokio::join!(until(&mut second, &mut b, 2), until(&mut first, &mut a, 2));
    assert!(a.is_disjoint(&b) && a.union(&b).count() == 4, "{a:?} {b:?}");
    let left = Instant::now();
    second.leave().await;
    until(&mut first, &mut a, 4).await;
    assert!(left.elapsed() < Duration::from_secs(5), "{:?}", left.elapsed());
}

#[tokio::test]
async fn a_partition_is_held_back_until_its_lane_has_stopped() {
    let broker = broker().await;
    let (topic, group) = (topic(&broker, 2).await, unique("group"));
    let held = Duration::from_secs(3);
    let mut first = Members::join(&broker, &group, &topic, &options(held)).unwrap();
    let mut a = BTreeSet::new();
    until(&mut first, &mut a, 2).await;
    let mut second = join(&broker, &group, &topic);
    let Change::Removed { partitions, lost, stopped } = within(first.next()).await.unwrap() else {
        panic!("one goes to the second member")
    };
    assert!(partitions.len() == 1 && !lost);
    let asked = Instant::now();
    // Not confirmed: it is held back for the whole time, and no longer.
    drop(stopped);
    let Change::Added { partitions: got } = within(second.next()).await.unwrap() else {
        panic!("the second member gets it")
    };
    assert_eq!(got, partitions);
    assert!(asked.elapsed() > held - Duration::from_millis(100), "{:?}", asked.elapsed());
    assert!(asked.elapsed() < held + Duration::from_secs(4), "{:?}", asked.elapsed());
}

/// Not a test by itself: the member that the next test kills.
#[tokio::test]
async fn member_to_be_killed() {
    let Ok(place) = std::env::var(CHILD) else { return };
    let [bootstrap, group, topic] = place.split(' ').collect::<Vec<_>>()[..] else { panic!() };
    let mut members = join(&Broker::new(bootstrap), group, topic);
    let mut mine = BTreeSet::new();
    loop {
        let change = members.next().await.unwrap();
        follow(&mut mine, change);
    }
}

#[tokio::test]
async fn a_killed_member_s_partitions_move_within_the_session_timeout() {
    let broker = broker().await;
    let (topic, group) = (topic(&broker, 4).await, unique("group"));
    let mut first = join(&broker, &group, &topic);
    let mut a = BTreeSet::new();
    until(&mut first, &mut a, 4).await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memberships::member_to_be_killed", "--nocapture"])
        .env(CHILD, format!("{} {group} {topic}", broker.bootstrap))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until(&mut first, &mut a, 2).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    until(&mut first, &mut a, 4).await;
    // The session, and the heartbeat that tells the survivor.
    assert!(killed.elapsed() < Duration::from_secs(6 + 3), "{:?}", killed.elapsed());
}

#[tokio::test]
async fn mirrored_offsets_show_a_true_lag_of_zero() {
    let broker = broker().await;
    let (topic, group) = (topic(&broker, 2).await, unique("group"));
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    write(&mut writer, &topic, 0, ["a", "b"]);
    write(&mut writer, &topic, 1, ["c"]);
    let nothing = committed(&broker, &group, &topic, 2).await.unwrap();
    assert_eq!(nothing, [None, None]);

    let mut members = join(&broker, &group, &topic);
    let mut mine = BTreeSet::new();
    until(&mut members, &mut mine, 2).await;
    let ends = [read_from(&broker, &topic, 0, 0).await.1, read_from(&broker, &topic, 1, 0).await.1];
    assert_eq!(ends, [3, 2]);
    members.commit(&[(0, 1, "early"), (1, 0, "")]).unwrap();
    members.commit(&[(0, ends[0], "unitflow 1 é")]).unwrap();
    members.commit(&[(1, ends[1], "unitflow 1")]).unwrap();
    let wanted = [Some((3, "unitflow 1 é".to_owned())), Some((2, "unitflow 1".to_owned()))];
    let arrived = async {
        while committed(&broker, &group, &topic, 2).await.unwrap() != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(arrived).await;
    assert_eq!(members.commits_refused().0, 0);

    let shown = kafka().await.run_tool("kafka-consumer-groups", ["--describe", "--group", &group]);
    let shown = shown.await.unwrap();
    let lags: Vec<&str> = shown
        .lines()
        .filter(|line| line.contains(&topic))
        .map(|line| line.split_whitespace().nth(5).unwrap())
        .collect();
    assert_eq!(lags, ["0", "0"], "{shown}");
    assert!(shown.contains("unitflow"), "the member is shown: {shown}");
    members.leave().await;
}

#[tokio::test]
async fn a_lost_session_removes_everything_and_comes_back() {
    let kafka = own_kafka().await;
    let broker = Broker::new(kafka.bootstrap());
    let topic = topic(&broker, 3).await;
    let mut members = join(&broker, "group", &topic);
    let mut mine = BTreeSet::new();
    until(&mut members, &mut mine, 3).await;
    kafka.kill().await.unwrap();
    let killed = Instant::now();
    let change = within(members.next()).await.unwrap();
    assert!(follow(&mut mine, change), "it is said to be lost");
    assert!(mine.is_empty());
    assert!(killed.elapsed() < Duration::from_secs(9), "{:?}", killed.elapsed());
    kafka.start_again().await.unwrap();
    until(&mut members, &mut mine, 3).await;
    // Leaving does not hang where there is nobody to tell.
    kafka.kill().await.unwrap();
    let leaving = Instant::now();
    members.leave().await;
    assert!(leaving.elapsed() < Duration::from_secs(5), "{:?}", leaving.elapsed());
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_a_fault() {
    let broker = broker().await;
    let mut members = join(&broker, &unique("group"), "no-such-topic");
    let fault = within(members.next()).await.unwrap_err();
    assert_eq!(fault.code, unitflow_change::fault::Code::TopicMissing, "{fault}");
}
