use std::time::{Duration, Instant};

use unitflow_change::fault::Kind;
use unitflow_kafka::{Broker, Item, Reader, Writer, last_record, reader, writer};

use crate::{own_kafka, read_from, send, text, topic, within, write};

/// Where the writer's state says it stands: the number in its last committed record.
async fn stands_at(broker: &Broker, topic: &str) -> u32 {
    let last = loop {
        match last_record(broker, topic, 0).await {
            Ok(last) => break last,
            Err(fault) => assert!(fault.is_retry(), "{fault}"),
        }
    };
    last.map_or(0, |last| text(last.value.as_deref()).parse::<u32>().unwrap() + 1)
}

async fn reopened(broker: &Broker) -> Writer {
    loop {
        match Writer::open(broker, "the-writer").await {
            Ok(writer) => return writer,
            Err(fault) => assert!(fault.is_retry(), "{fault}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_broker_loses_and_doubles_nothing() {
    let kafka = own_kafka().await;
    let broker = Broker::new(kafka.bootstrap());
    let topic = topic(&broker, 1).await;
    let reader = Reader::open(&broker, &topic, &[(0, 0)], reader::QUEUE_BYTES).await.unwrap();

    const ALL: u32 = 3000;
    let writing = tokio::spawn({
        let (broker, topic) = (broker.clone(), topic.clone());
        async move {
            let mut faults = 0;
            let mut writer = reopened(&broker).await;
            let mut number = stands_at(&broker, &topic).await;
            while number < ALL {
                let wrote = tokio::task::block_in_place(|| {
                    for next in number..number + 10 {
                        send(&mut writer, &topic, 0, &next.to_string())?;
                    }
                    writer.commit()
                });
                match wrote {
                    Ok(()) => number += 10,
                    Err(fault) => {
                        assert!(fault.is_retry(), "{fault}");
                        faults += 1;
                        writer = reopened(&broker).await;
                        number = stands_at(&broker, &topic).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            faults
        }
    });

    let breaking = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            kafka.kill().await.unwrap();
            tokio::time::sleep(Duration::from_millis(700)).await;
            kafka.start_again().await.unwrap();
        }
    };
    let reading = async {
        let mut next = 0;
        while next < ALL {
            if let Item::Record(record) = reader.next().await.unwrap() {
                assert_eq!(text(record.value()).parse::<u32>().unwrap(), next);
                next += 1;
            }
        }
    };
    let both = async { tokio::join!(breaking, reading) };
    tokio::time::timeout(Duration::from_secs(120), both).await.unwrap();
    let faults = writing.await.unwrap();
    println!("the writer was opened anew {faults} times");
    let (values, _) = read_from(&broker, &topic, 0, 0).await;
    assert!(values.into_iter().eq((0..ALL).map(|number| number.to_string())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_tells_that_the_broker_is_away_and_goes_on_when_it_is_back() {
    let kafka = own_kafka().await;
    let broker = Broker::new(kafka.bootstrap());
    let topic = topic(&broker, 1).await;
    let reader = Reader::open(&broker, &topic, &[(0, 0)], reader::QUEUE_BYTES).await.unwrap();
    assert!(matches!(within(reader.next()).await.unwrap(), Item::End { .. }));
    assert!(reader.down_since().is_none());
    kafka.kill().await.unwrap();
    let noticed = async {
        while reader.down_since().is_none() {
            let wait = Duration::from_millis(50);
            assert!(tokio::time::timeout(wait, reader.next()).await.is_err(), "nothing to read");
        }
    };
    within(noticed).await;
    kafka.start_again().await.unwrap();
    // Nothing is written, and still it is seen that the broker is back.
    let back = async {
        while reader.down_since().is_some() {
            if let Ok(item) = tokio::time::timeout(Duration::from_millis(50), reader.next()).await {
                item.unwrap();
            }
        }
    };
    within(back).await;
    let mut writer = Writer::open(&broker, "w").await.unwrap();
    write(&mut writer, &topic, 0, ["after"]);
    let after = async {
        loop {
            if let Item::Record(record) = reader.next().await.unwrap() {
                return text(record.value());
            }
        }
    };
    assert_eq!(within(after).await, "after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stays_away_ends_the_writer_without_a_commit() {
    let kafka = own_kafka().await;
    let broker = Broker::new(kafka.bootstrap());
    let topic = topic(&broker, 1).await;
    let four = Duration::from_secs(4);
    let options = writer::Options { transaction_timeout: four, ..writer::Options::default() };
    let mut writer = Writer::open_with(&broker, "w", options).await.unwrap();
    write(&mut writer, &topic, 0, ["before"]);
    kafka.kill().await.unwrap();
    let killed = Instant::now();
    let fault = tokio::task::block_in_place(|| {
        send(&mut writer, &topic, 0, "during").and_then(|()| writer.commit()).unwrap_err()
    });
    assert!(fault.is_retry(), "{fault}");
    assert_eq!(fault.kind, Kind::Retry, "it was not sent, so there is no doubt: {fault}");
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    drop(writer);
    kafka.start_again().await.unwrap();
    let mut writer = Writer::open(&broker, "w").await.unwrap();
    write(&mut writer, &topic, 0, ["after"]);
    assert_eq!(read_from(&broker, &topic, 0, 0).await.0, ["before", "after"]);
}
