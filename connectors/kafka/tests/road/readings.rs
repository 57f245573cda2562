use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use unitflow_change::fault::{Code, Kind};
use unitflow_kafka::reader::QUEUE_BYTES;
use unitflow_kafka::{Broker, Item, Reader, Writer, topics as road};

use crate::{
    SOON, broker, noise, read_from, rude_producer, send, spec, stands, text, topic, unique, within,
    write,
};

async fn open(broker: &Broker, topic: &str, starts: &[(i32, i64)]) -> Reader {
    Reader::open(broker, topic, starts, QUEUE_BYTES).await.unwrap()
}

/// The next item, as text: `partition:value@offset` or `partition:end@offset`.
async fn next(reader: &Reader) -> String {
    match within(reader.next()).await.unwrap() {
        Item::Record(record) => {
            format!("{}:{}@{}", record.partition(), text(record.value()), record.offset())
        }
        Item::End { partition, offset } => format!("{partition}:end@{offset}"),
    }
}

#[tokio::test]
async fn ends_stand_past_the_markers() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let reader = open(&broker, &topic, &[(0, 0)]).await;
    assert_eq!(next(&reader).await, "0:end@0");
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    write(&mut writer, &topic, 0, ["a", "b"]);
    assert_eq!(next(&reader).await, "0:a@0");
    assert_eq!(next(&reader).await, "0:b@1");
    assert_eq!(next(&reader).await, "0:end@3");
    send(&mut writer, &topic, 0, "never").unwrap();
    stands(&broker, &topic, 0, 4).await;
    drop(writer);
    // The aborted record and its marker: nothing to see, but a new end.
    assert_eq!(next(&reader).await, "0:end@5");
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    write(&mut writer, &topic, 0, ["c"]);
    assert_eq!(next(&reader).await, "0:c@5");
    assert_eq!(next(&reader).await, "0:end@7");
    assert!(reader.try_next().unwrap().is_none());
}

#[tokio::test]
async fn an_open_transaction_holds_the_end_back() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let rude = rude_producer(&broker.bootstrap, &unique("rude"));
    rude.begin_transaction().unwrap();
    rude.send(BaseRecord::<(), str>::to(&topic).partition(0).payload("open")).unwrap();
    rude.flush(SOON).unwrap();
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    write(&mut writer, &topic, 0, ["behind it"]);
    let reader = open(&broker, &topic, &[(0, 0)]).await;
    assert_eq!(next(&reader).await, "0:end@0");
    rude.commit_transaction(SOON).unwrap();
    assert_eq!(next(&reader).await, "0:open@0");
    assert_eq!(next(&reader).await, "0:behind it@1");
    assert_eq!(next(&reader).await, "0:end@4");
}

#[tokio::test]
async fn keys_headers_and_tombstones_arrive_as_sent() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    let headers: &[(&str, &[u8])] = &[("origin", b"A"), ("unitflow", b"\x00\xff"), ("none", b"")];
    writer.send(&topic, 0, Some(b"k"), None, headers, 5).unwrap();
    writer.send(&topic, 0, None, Some(b""), &[], 5).unwrap();
    writer.commit().unwrap();
    let reader = open(&broker, &topic, &[(0, 0)]).await;
    let (Item::Record(first), Item::Record(second)) =
        (within(reader.next()).await.unwrap(), within(reader.next()).await.unwrap())
    else {
        panic!("two records")
    };
    // Both are held at once: a batch is borrowed, not copied.
    assert_eq!((first.key(), first.value()), (Some(&b"k"[..]), None));
    assert_eq!(first.header("unitflow"), Some(&b"\x00\xff"[..]));
    assert_eq!(first.header("absent"), None);
    assert_eq!(first.headers().collect::<Vec<_>>(), headers);
    assert_eq!((second.key(), second.value()), (None, Some(&b""[..])));
    assert_eq!(second.headers().count(), 0);
    assert!(second.timestamp_ms().unwrap() > 1_700_000_000_000, "the time of the broker");
}

#[tokio::test]
async fn a_seek_starts_over_and_tells_the_end_again() {
    let broker = broker().await;
    let topic = topic(&broker, 2).await;
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    write(&mut writer, &topic, 0, (0..1000).map(|n| n.to_string()));
    write(&mut writer, &topic, 1, ["other"]);
    let reader = open(&broker, &topic, &[(0, 990), (1, 0)]).await;
    let mut seen = Vec::new();
    while seen.iter().filter(|item: &&String| item.contains("end")).count() < 2 {
        seen.push(next(&reader).await);
    }
    assert_eq!(seen.len(), 13, "{seen:?}");
    for (from, count) in [(0, 1000), (995, 5), (1001, 0), (10, 990)] {
        reader.seek(0, from).unwrap();
        let mut offsets = Vec::new();
        loop {
            match within(reader.next()).await.unwrap() {
                Item::Record(record) => offsets.push(record.offset()),
                Item::End { partition, offset } => {
                    assert_eq!((partition, offset), (0, 1001));
                    break;
                }
            }
        }
        assert!(offsets.into_iter().eq(from..from + count));
    }
    // In the middle of what was fetched ahead.
    reader.seek(0, 0).unwrap();
    assert_eq!(next(&reader).await, "0:0@0");
    reader.seek(0, 500).unwrap();
    assert_eq!(next(&reader).await, "0:500@500");
}

#[tokio::test]
async fn an_offset_that_is_gone_or_beyond_stops_the_reader() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    write(&mut writer, &topic, 0, ["a", "b", "c", "d"]);

    let fault = Reader::open(&broker, &topic, &[(0, 6)], QUEUE_BYTES).await.err().unwrap();
    assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::TopicTruncated), "{fault}");

    delete_before(&broker, &topic, 3).await;
    let fault = Reader::open(&broker, &topic, &[(0, 2)], QUEUE_BYTES).await.err().unwrap();
    assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::OffsetGone), "{fault}");
    assert_eq!(read_from(&broker, &topic, 0, 3).await, (vec!["d".to_owned()], 5));
}

#[tokio::test]
async fn a_reader_that_retention_overtakes_stops() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    for n in 0..300 {
        write(&mut writer, &topic, 0, [noise(n, 20_000)]);
    }
    // A queue far smaller than the topic, so that it has to go on fetching.
    let reader = Reader::open(&broker, &topic, &[(0, 0)], 64 << 10).await.unwrap();
    assert!(matches!(within(reader.next()).await.unwrap(), Item::Record(r) if r.offset() == 0));
    delete_before(&broker, &topic, 590).await;
    let mut last = 0;
    let fault = loop {
        match within(reader.next()).await {
            Ok(Item::Record(record)) => {
                assert_eq!(record.offset(), last + 2, "it jumped");
                last = record.offset();
            }
            Ok(Item::End { .. }) => panic!("it jumped to the end"),
            Err(fault) => break fault,
        }
    };
    assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::OffsetGone), "{fault}");
    assert_eq!(reader.try_next().err().unwrap().code, Code::OffsetGone);
}

#[tokio::test]
async fn a_topic_created_anew_under_a_reader_stops_it() {
    let broker = broker().await;
    let name = topic(&broker, 1).await;
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    write(&mut writer, &name, 0, ["a", "b", "c"]);
    let reader = open(&broker, &name, &[(0, 4)]).await;
    assert_eq!(next(&reader).await, "0:end@4");
    road::delete(&broker, &[&name]).await.unwrap();
    road::create_missing(&broker, &[spec(&name, 1)]).await.unwrap();
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    write(&mut writer, &name, 0, ["z"]);
    let fault = within(reader.next()).await.err().unwrap();
    assert_eq!(fault.kind, Kind::Fatal, "{fault}");
    assert!(matches!(fault.code, Code::TopicTruncated | Code::OffsetGone), "{fault}");
}

#[tokio::test]
async fn waiting_can_be_given_up_without_losing_a_record() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let reader = open(&broker, &topic, &[(0, 0)]).await;
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    let mut seen = Vec::new();
    let mut sent = 0;
    while seen.len() < 200 {
        if sent < 200 && sent <= seen.len() {
            write(&mut writer, &topic, 0, [sent.to_string()]);
            sent += 1;
        }
        let wait = Duration::from_micros(50 + 37 * (seen.len() as u64 % 40));
        if let Ok(Ok(Item::Record(record))) = tokio::time::timeout(wait, reader.next()).await {
            seen.push(text(record.value()));
        }
    }
    assert!(seen.into_iter().eq((0..200).map(|n| n.to_string())));
}

/// Tasks own readers, and batches of borrowed records cross waits in them.
#[test]
fn readers_and_records_may_move_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Reader>();
    shared::<Item<'_>>();
}

#[tokio::test]
async fn a_missing_topic_is_a_fault_at_once() {
    let broker = broker().await;
    let fault = Reader::open(&broker, "no-such-topic", &[(0, 0)], QUEUE_BYTES).await.err().unwrap();
    assert_eq!((fault.kind, fault.code), (Kind::Fatal, Code::TopicMissing), "{fault}");
}

/// What retention does, at once.
async fn delete_before(broker: &Broker, topic: &str, offset: i64) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &broker.bootstrap).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    admin.delete_records(&list, &AdminOptions::new()).await.unwrap();
}
