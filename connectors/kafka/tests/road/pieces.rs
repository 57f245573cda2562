//! Records that a broker does not take in one.

use unitflow_change::fault::Code;
use unitflow_kafka::reader::QUEUE_BYTES;
use unitflow_kafka::writer::Options;
use unitflow_kafka::{Broker, Item, Reader, Writer, last_record, positions};

use crate::{
    SOON, broker, noise, read_from, rude_producer, send, text, topic, unique, within, write,
};

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};

/// A writer that cuts records of more than 1000 bytes.
async fn writer(broker: &Broker) -> Writer {
    let options = Options { piece_bytes_max: 1000, ..Options::default() };
    Writer::open_with(broker, &unique("id"), options).await.unwrap()
}

/// What a reader from this offset sees: each record's first and next offset, its key, its headers
/// and its value.
async fn seen(broker: &Broker, topic: &str, from: i64) -> Vec<(i64, i64, String)> {
    let reader = Reader::open(broker, topic, &[(0, from)], QUEUE_BYTES).await.unwrap();
    let mut seen = Vec::new();
    loop {
        match within(reader.next()).await.unwrap() {
            Item::Record(record) => {
                let headers: Vec<_> = record.headers().collect();
                assert_eq!(headers, [("unitflow", b"1 packed".as_slice())]);
                assert_eq!(record.key(), Some(b"key".as_slice()));
                assert!(record.timestamp_ms().is_some());
                seen.push((record.offset(), record.next_offset(), text(record.value())));
            }
            Item::End { offset, .. } => {
                assert!(seen.last().is_none_or(|(_, next, _)| *next < offset));
                return seen;
            }
        }
    }
}

#[tokio::test]
async fn large_and_small_records_come_back_whole_and_in_order() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let (large, larger) = (noise(1, 2_500), noise(2, 10_000));
    let mut writer = writer(&broker).await;
    write(&mut writer, &topic, 0, ["a", &large, "b"]);
    write(&mut writer, &topic, 0, [&larger]);
    assert_eq!(
        seen(&broker, &topic, 0).await,
        [
            (0, 1, "a".to_owned()),
            (1, 4, large.clone()),
            (4, 5, "b".to_owned()),
            (6, 17, larger.clone())
        ]
    );
    // From a record's beginning it is whole; from its middle it is left out, and what follows is not.
    assert_eq!(seen(&broker, &topic, 1).await[0].2, large);
    assert_eq!(seen(&broker, &topic, 2).await[0], (4, 5, "b".to_owned()));
    assert_eq!(seen(&broker, &topic, 3).await[0], (4, 5, "b".to_owned()));
    assert_eq!(seen(&broker, &topic, 16).await, []);
    let last = last_record(&broker, &topic, 0).await.unwrap().unwrap();
    assert_eq!((last.offset, last.next_offset, last.key), (6, 17, Some(b"key".to_vec())));
    assert_eq!(last.value.unwrap(), larger.as_bytes());
    assert_eq!(last.headers, [("unitflow".to_owned(), b"1 packed".to_vec())]);
}

#[tokio::test]
async fn a_last_record_of_more_pieces_than_a_stride_is_found() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let large = noise(3, 100_000);
    let mut writer = writer(&broker).await;
    write(&mut writer, &topic, 0, ["a", &large]);
    let last = last_record(&broker, &topic, 0).await.unwrap().unwrap();
    assert_eq!((last.offset, last.value.as_deref()), (1, Some(large.as_bytes())));
}

#[tokio::test]
async fn a_record_whose_transaction_is_aborted_is_never_seen() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let large = noise(4, 5_000);
    let mut first = writer(&broker).await;
    send(&mut first, &topic, 0, &large).unwrap();
    drop(first);
    let mut second = writer(&broker).await;
    write(&mut second, &topic, 0, [large.as_str(), "z"]);
    let values: Vec<_> = seen(&broker, &topic, 0).await.into_iter().map(|(.., v)| v).collect();
    assert_eq!(values, [large.as_str(), "z"]);
}

#[tokio::test]
async fn a_reader_that_seeks_away_from_a_record_forgets_it() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let large = noise(5, 3_500_000);
    let mut writer = writer(&broker).await;
    write(&mut writer, &topic, 0, ["a", &large]);
    let reader = Reader::open(&broker, &topic, &[(0, 0)], 100_000).await.unwrap();
    let Item::Record(record) = within(reader.next()).await.unwrap() else { panic!("no record") };
    assert_eq!(text(record.value()), "a");
    // Some of the pieces are taken by now, or not: either way they are forgotten.
    let _ = tokio::time::timeout(std::time::Duration::from_millis(20), reader.next()).await;
    reader.seek(0, 0).unwrap();
    for expected in ["a", &large] {
        let Item::Record(record) = within(reader.next()).await.unwrap() else {
            panic!("no record")
        };
        assert!(text(record.value()) == expected);
    }
}

#[tokio::test]
async fn sixty_four_mib_travel_where_the_broker_takes_sixteen() {
    let broker = broker().await;
    let topic = topic(&broker, 1).await;
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    let value = noise(6, 64 << 20);
    write(&mut writer, &topic, 0, ["before", &value, "after"]);
    let (values, end) = read_from(&broker, &topic, 0, 0).await;
    assert!(values == ["before", &value, "after"]);
    // 17 pieces, as the first has the key too, and a marker.
    assert_eq!(end, 20);
}

#[tokio::test]
async fn pieces_of_another_hand_end_the_reader() {
    let broker = broker().await;
    for places in [&["1/2", "1/2"][..], &["2/2"], &["1/3", "3/3"], &["1/2", ""], &["1/2"], &["x"]] {
        let topic = topic(&broker, 1).await;
        let rude = rude_producer(&broker.bootstrap, &unique("rude"));
        rude.begin_transaction().unwrap();
        for place in ["", ""].iter().chain(places) {
            let header = Header { key: "piece", value: Some(*place) };
            let mut record = BaseRecord::<(), str>::to(&topic).partition(0).payload("x");
            if !place.is_empty() {
                record = record.headers(OwnedHeaders::new().insert(header));
            }
            rude.send(record).unwrap();
        }
        rude.commit_transaction(SOON).unwrap();
        let reader = Reader::open(&broker, &topic, &[(0, 0)], QUEUE_BYTES).await.unwrap();
        for _ in 0..2 {
            assert!(matches!(within(reader.next()).await.unwrap(), Item::Record(_)));
        }
        let fault = within(reader.next()).await.err().unwrap();
        assert_eq!(fault.code, Code::Record, "{places:?}: {fault}");
        assert_eq!(reader.try_next().err().unwrap().code, Code::Record);
    }
}

#[tokio::test]
async fn a_state_never_travels_in_pieces() {
    let broker = broker().await;
    let mut writer = Writer::open(&broker, &unique("id")).await.unwrap();
    let fault = positions::store(&mut writer, "any", 0, &vec![b'x'; 4 << 20]).unwrap_err();
    assert_eq!(fault.code, Code::TooLarge);
    assert_eq!(writer.pending_records(), 0);
}
