use unitflow_change::fault::{Code, Kind};
use unitflow_kafka::pieces::RECORD_BYTES_MAX;
use unitflow_kafka::{Broker, Writer, positions};

use crate::{broker, noise, read_from, send, spec, stands, topic, unique, write};

#[tokio::test]
async fn a_newer_writer_fences_the_older_one_and_its_records_are_never_seen() {
    let broker = broker().await;
    let (topic, id) = (topic(&broker, 1).await, unique("id"));
    let mut old = Writer::open(&broker, &id).await.unwrap();
    write(&mut old, &topic, 0, ["kept"]);
    send(&mut old, &topic, 0, "lost with its transaction").unwrap();
    stands(&broker, &topic, 0, 3).await;

    let mut new = Writer::open(&broker, &id).await.unwrap();
    let fault = old.commit().unwrap_err();
    assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::Fenced), "{fault}");
    assert_eq!(send(&mut old, &topic, 0, "dead").unwrap_err().code, Code::Fenced);
    drop(old);
    write(&mut new, &topic, 0, ["new"]);
    assert_eq!(read_from(&broker, &topic, 0, 0).await.0, ["kept", "new"]);
}

#[tokio::test]
async fn a_writer_that_comes_late_to_its_first_record_is_fenced_too() {
    let broker = broker().await;
    let (topic, id) = (topic(&broker, 1).await, unique("id"));
    let mut zombie = Writer::open(&broker, &id).await.unwrap();
    let mut new = Writer::open(&broker, &id).await.unwrap();
    write(&mut new, &topic, 0, ["new"]);
    let wrote = send(&mut zombie, &topic, 0, "zombie").and_then(|()| zombie.commit());
    assert_eq!(wrote.unwrap_err().code, Code::Fenced);
    assert_eq!(read_from(&broker, &topic, 0, 0).await.0, ["new"]);
    // And the newer one is not disturbed by it.
    write(&mut new, &topic, 0, ["more"]);
    assert_eq!(read_from(&broker, &topic, 0, 0).await.0, ["new", "more"]);
}

#[tokio::test]
async fn nothing_is_seen_before_the_commit_and_a_dropped_writer_aborts() {
    let broker = broker().await;
    let topic = topic(&broker, 2).await;
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    writer.commit().unwrap();
    send(&mut writer, &topic, 0, "a").unwrap();
    send(&mut writer, &topic, 1, "b").unwrap();
    assert_eq!((writer.pending_records(), writer.pending_bytes()), (2, 8));
    assert_eq!(read_from(&broker, &topic, 0, 0).await, (vec![], 0));
    writer.commit().unwrap();
    assert_eq!((writer.pending_records(), writer.pending_bytes()), (0, 0));
    // One record and the marker.
    assert_eq!(read_from(&broker, &topic, 0, 0).await, (vec!["a".to_owned()], 2));
    assert_eq!(read_from(&broker, &topic, 1, 0).await, (vec!["b".to_owned()], 2));

    send(&mut writer, &topic, 0, "never").unwrap();
    stands(&broker, &topic, 0, 3).await;
    drop(writer);
    let mut other = Writer::open(&broker, &unique("id")).await.unwrap();
    write(&mut other, &topic, 0, ["c"]);
    assert_eq!(read_from(&broker, &topic, 0, 0).await.0, ["a", "c"]);
}

#[tokio::test]
async fn a_record_over_the_limit_is_poison_here_and_ends_the_writer_there() {
    let broker = broker().await;
    let name = unique("small");
    let mut small = spec(&name, 1);
    small.max_message_bytes = 1 << 20;
    unitflow_kafka::topics::create_missing(&broker, &[small]).await.unwrap();
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    let huge = vec![7; RECORD_BYTES_MAX + 1];
    let fault = writer.send(&name, 0, None, Some(&huge), &[], 1).unwrap_err();
    assert_eq!((fault.kind, fault.code), (Kind::Poison, Code::TooLarge), "{fault}");
    write(&mut writer, &name, 0, ["still alive"]);

    // The broker takes 1 MiB, and noise shrinks by a quarter at best.
    writer.send(&name, 0, None, Some(noise(1, 3 << 20).as_bytes()), &[], 1).unwrap();
    let fault = writer.commit().unwrap_err();
    assert_eq!((fault.kind, fault.code), (Kind::Poison, Code::Record), "{fault}");
    assert_eq!(writer.check().unwrap_err().code, Code::Record);
    drop(writer);
    assert_eq!(read_from(&broker, &name, 0, 0).await.0, ["still alive"]);
}

#[tokio::test]
async fn a_missing_topic_ends_the_writer() {
    let broker = broker().await;
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    let name = topic(&broker, 1).await;
    // Whether it is there is asked of the broker by whoever opens the next one.
    let fault = send(&mut writer, &name, 9, "x").and_then(|()| writer.commit()).unwrap_err();
    assert_eq!((fault.kind, fault.code), (Kind::Retry, Code::TopicMissing), "{fault}");
}

#[tokio::test]
async fn opening_without_a_broker_is_to_be_tried_again() {
    let fault = Writer::open(&Broker::new("127.0.0.1:9"), "nobody").await.err().unwrap();
    assert_eq!((fault.kind, fault.code), (Kind::Retry, Code::Unreachable), "{fault}");
}

#[tokio::test]
async fn a_state_is_committed_with_its_records_and_loaded_after_the_fence() {
    let broker = broker().await;
    let (data, id, name) = (topic(&broker, 1).await, unique("id"), unique("position"));
    let topics = [positions::spec(&name, 2, 1, 1)];
    unitflow_kafka::topics::create_missing(&broker, &topics).await.unwrap();
    assert_eq!(positions::load(&broker, &name, 1).await.unwrap(), None);

    let mut writer = Writer::open(&broker, &id).await.unwrap();
    for round in 1..=3 {
        send(&mut writer, &data, 0, &format!("row {round}")).unwrap();
        positions::store(&mut writer, &name, 1, format!("state {round}").as_bytes()).unwrap();
        if round < 3 {
            writer.commit().unwrap();
        }
    }
    stands(&broker, &data, 0, 5).await;
    // The third is never committed: its worker was killed.
    std::mem::forget(writer);
    let _next = Writer::open(&broker, &id).await.unwrap();
    assert_eq!(positions::load(&broker, &name, 1).await.unwrap().unwrap(), b"state 2");
    assert_eq!(positions::load(&broker, &name, 0).await.unwrap(), None);
    assert_eq!(read_from(&broker, &data, 0, 0).await.0, ["row 1", "row 2"]);
}
