//! The road against a real broker: one for all tests here, and one of their own for those that
//! take it down.

#![allow(clippy::unwrap_used, reason = "a fault fails the test, as it should")]

mod lasts;
mod memberships;
mod outages;
mod pieces;
mod readings;
mod topics;
mod writings;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer};
use tokio::sync::OnceCell;
use unitflow_change::fault::Fault;
use unitflow_kafka::reader::QUEUE_BYTES;
use unitflow_kafka::{Broker, Item, Reader, Retention, Spec, Writer, topics as road};
use unitflow_local::Kafka;

/// Longer than anything here takes.
pub const SOON: Duration = Duration::from_secs(30);

/// The broker that tests share. It ends with this process.
pub async fn kafka() -> &'static Kafka {
    static KAFKA: OnceCell<Kafka> = OnceCell::const_new();
    KAFKA.get_or_init(|| async { Kafka::setup().start().await.expect("Kafka starts") }).await
}

/// A broker of the test's own.
pub async fn own_kafka() -> Kafka {
    Kafka::setup().own().start().await.expect("Kafka starts")
}

/// Where the shared broker is.
pub async fn broker() -> Broker {
    Broker::new(kafka().await.bootstrap())
}

/// A name that no other test uses.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{}-{count}", std::process::id(), now.as_micros())
}

/// A topic kept for a week.
pub fn spec(name: &str, partitions: i32) -> Spec {
    Spec {
        name: name.to_owned(),
        partitions,
        retention: Retention::ForAtLeast(Duration::from_secs(7 * 24 * 3600)),
        max_message_bytes: 16 << 20,
        replication: 1,
        min_insync: 1,
        settings: Vec::new(),
    }
}

/// A new topic of this many partitions.
pub async fn topic(broker: &Broker, partitions: i32) -> String {
    let name = unique("road");
    let created = road::create_missing(broker, &[spec(&name, partitions)]).await.unwrap();
    assert_eq!(created, [name.as_str()]);
    name
}

/// Sends a record as all tests here do.
pub fn send(writer: &mut Writer, topic: &str, partition: i32, value: &str) -> Result<(), Fault> {
    let headers: &[(&str, &[u8])] = &[("unitflow", b"1 packed")];
    writer.send(topic, partition, Some(b"key"), Some(value.as_bytes()), headers, 1)
}

/// Sends and commits in one transaction.
pub fn write(
    writer: &mut Writer,
    topic: &str,
    partition: i32,
    values: impl IntoIterator<Item = impl AsRef<str>>,
) {
    for value in values {
        send(writer, topic, partition, value.as_ref()).unwrap();
    }
    writer.commit().unwrap();
}

/// Waits until a partition's log ends at this offset or beyond: until what was sent stands in it.
pub async fn stands(broker: &Broker, topic: &str, partition: i32, end: i64) {
    let stands = async { while road::bounds(broker, topic, partition).await.unwrap().1 < end {} };
    within(stands).await;
}

/// Text that does not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_add(1);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(state.to_be_bytes()[0] & 0x3f | 0x40)
    };
    (0..length).map(|_| next()).collect()
}

/// The committed values of a partition from an offset on, and the offset of the end after them.
pub async fn read_from(
    broker: &Broker,
    topic: &str,
    partition: i32,
    from: i64,
) -> (Vec<String>, i64) {
    let reader = Reader::open(broker, topic, &[(partition, from)], QUEUE_BYTES).await.unwrap();
    let mut values = Vec::new();
    loop {
        match within(reader.next()).await.unwrap() {
            Item::Record(record) => values.push(text(record.value())),
            Item::End { offset, .. } => return (values, offset),
        }
    }
}

/// A value as text.
pub fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8(bytes.expect("a value").to_vec()).unwrap()
}

/// Fails the test rather than hang it.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("it takes too long")
}

/// A transactional producer without our writer's manners: it can leave transactions open or abort them.
pub fn rude_producer(bootstrap: &str, id: &str) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("transactional.id", id)
        .set("transaction.timeout.ms", "60000")
        .create()
        .unwrap();
    producer.init_transactions(SOON).unwrap();
    producer
}
