use rdkafka::producer::{BaseRecord, Producer};
use unitflow_change::fault::{Code, Kind};
use unitflow_kafka::{Broker, Writer, last_committed, last_record, topics as road};

use crate::{
    SOON, broker, noise, read_from, rude_producer, send, stands, topic, unique, within, write,
};

async fn last(broker: &Broker, topic: &str) -> Option<(i64, String)> {
    let record = last_record(broker, topic, 0).await.unwrap()?;
    assert_eq!(record.key.as_deref(), Some(&b"key"[..]));
    assert_eq!(record.header("unitflow"), Some(&b"1 packed"[..]));
    Some((record.offset, String::from_utf8(record.value.unwrap()).unwrap()))
}

#[tokio::test]
async fn an_empty_partition_has_none() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    assert_eq!(last(&broker, &topic).await, None);
    // Nor does one with nothing but aborted records and markers.
    for round in 0..3 {
        let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
        send(&mut writer, &topic, 0, "never").unwrap();
        stands(&broker, &topic, 0, 2 * round + 1).await;
    }
    assert_eq!(last(&broker, &topic).await, None);
    assert_eq!(road::bounds(&broker, &topic, 0).await.unwrap(), (0, 6));
    let fault = last_record(&broker, "no-such-topic", 0).await.unwrap_err();
    assert_eq!(fault.code, Code::TopicMissing);
}

#[tokio::test]
async fn it_is_found_behind_a_marker_and_behind_aborted_records() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    write(&mut writer, &topic, 0, ["a", "b"]);
    assert_eq!(last(&broker, &topic).await, Some((1, "b".to_owned())));

    // More than several strides of them.
    for _ in 0..1500 {
        send(&mut writer, &topic, 0, "never").unwrap();
    }
    stands(&broker, &topic, 0, 1503).await;
    drop(writer);
    assert_eq!(last(&broker, &topic).await, Some((1, "b".to_owned())));

    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    write(&mut writer, &topic, 0, ["c"]);
    assert_eq!(last(&broker, &topic).await.unwrap().1, "c");
    for _ in 0..100 {
        write(&mut writer, &topic, 0, ["d"]);
    }
    assert_eq!(last(&broker, &topic).await.unwrap().1, "d");
}

#[tokio::test]
async fn an_open_transaction_is_waited_for() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    write(&mut writer, &topic, 0, ["a"]);
    let id = unique("rude");
    let rude = rude_producer(&broker.bootstrap, &id);
    rude.begin_transaction().unwrap();
    rude.send(BaseRecord::<(), str>::to(&topic).partition(0).payload("open")).unwrap();
    rude.flush(SOON).unwrap();

    let search = tokio::spawn({
        let (broker, topic) = (broker.clone(), topic.clone());
        async move { last(&broker, &topic).await }
    });
    // Who only looks takes what is committed by now.
    let committed = last_committed(&broker, &topic, 0).await.unwrap().unwrap();
    assert_eq!((committed.offset, committed.value.as_deref()), (0, Some(&b"a"[..])));
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(!search.is_finished(), "the end is not stable yet");
    // What a successor does first aborts it.
    let _successor = Writer::open(&broker, &id).await.unwrap();
    assert_eq!(search.await.unwrap(), Some((0, "a".to_owned())));
    std::mem::forget(rude);
}

#[tokio::test]
async fn an_open_transaction_that_does_not_end_is_not_waited_for_for_ever() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let rude = rude_producer(&broker.bootstrap, &unique("rude"));
    rude.begin_transaction().unwrap();
    rude.send(BaseRecord::<(), str>::to(&topic).partition(0).payload("open")).unwrap();
    rude.flush(SOON).unwrap();
    let fault = last_record(&broker, &topic, 0).await.unwrap_err();
    assert_eq!((fault.kind, fault.code), (Kind::Retry, Code::Timeout), "{fault}");
    assert!(fault.what.contains("a transaction is open at 0"), "{fault}");
    std::mem::forget(rude);
}

#[tokio::test]
async fn compaction_may_have_emptied_everything_before_it() {
    let broker = broker().await;
    let name = unique("compacted");
    let mut spec = unitflow_kafka::positions::spec(&name, 1, 1, 1);
    for (name, value) in &mut spec.settings {
        match name.as_str() {
            "min.cleanable.dirty.ratio" => "0.0".clone_into(value),
            "delete.retention.ms" | "max.compaction.lag.ms" | "segment.ms" => {
                "100".clone_into(value);
            }
            _ => {}
        }
    }
    road::create_missing(&broker, &[spec]).await.unwrap();
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    // Segments of 1 MiB: several of them, so that there is something to clean.
    for n in 0..1500 {
        send(&mut writer, &name, 0, &format!("{n} {}", noise(n, 3000))).unwrap();
        if n % 10 == 9 {
            writer.commit().unwrap();
        }
    }
    for _ in 0..500 {
        send(&mut writer, &name, 0, "never").unwrap();
    }
    stands(&broker, &name, 0, 2150).await;
    drop(writer);
    let cleaned = async { while read_from(&broker, &name, 0, 0).await.0.len() > 700 {} };
    within(cleaned).await;
    let found = last(&broker, &name).await.unwrap().1;
    assert!(found.starts_with("1499 "));
}
