//! What a command may leave behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, TopicPartitionList};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use unitflow_harness::{Kafka, Mysql};

const ASK: Duration = Duration::from_secs(10);
/// A server sees that a reader of its log has gone when it next has something to tell it: once a
/// second, when it says that it is alive.
const GONE_WITHIN: Duration = Duration::from_secs(4);

/// Looks at servers and broker.
pub struct Traces {
    broker: String,
    kafka: Arc<BaseConsumer>,
}

impl Traces {
    /// Connects to the broker.
    pub fn open(kafka: &Kafka) -> anyhow::Result<Self> {
        let broker = kafka.bootstrap();
        let client = ClientConfig::new().set("bootstrap.servers", &broker).create()?;
        Ok(Self { broker, kafka: Arc::new(client) })
    }

    /// Everything of ours that stands in servers and broker, as lines. While workers run in the background, rows,
    /// records and positions are theirs to move: then only what exists, not what it holds.
    pub async fn of(&self, servers: &[&Mysql], at_rest: bool) -> anyhow::Result<BTreeSet<String>> {
        let mut traces = BTreeSet::new();
        for (place, server) in servers.iter().enumerate() {
            let found = in_server(server, at_rest).await?;
            traces.extend(found.into_iter().map(|found| format!("server {place}: {found}")));
        }
        let (broker, client) = (self.broker.clone(), Arc::clone(&self.kafka));
        traces.extend(spawn_blocking(move || in_kafka(&broker, &client, at_rest)).await??);
        Ok(traces)
    }
}

async fn in_server(server: &Mysql, at_rest: bool) -> anyhow::Result<Vec<String>> {
    const TABLES: &str = "SELECT TABLE_NAME, TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'unitflow'";
    let mut found = Vec::new();
    for line in server.sql(TABLES).await?.lines() {
        let (table, kind) = line.split_once('\t').unwrap_or((line, ""));
        found.push(format!("table {table}"));
        if kind != "BASE TABLE" {
            continue;
        }
        let columns = match (at_rest, table) {
            (true, _) => "*",
            (false, "ledger") => "log, lane",
            (false, _) => continue,
        };
        let rows = server.sql(&format!("SELECT {columns} FROM unitflow.`{table}`")).await?;
        found.extend(rows.lines().map(|row| format!("{table} row {row}")));
    }
    Ok(found)
}

fn in_kafka(broker: &str, client: &BaseConsumer, at_rest: bool) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let (metadata, groups) =
        (client.fetch_metadata(None, ASK)?, client.fetch_group_list(None, ASK)?);
    let ours = |name: &&str| !name.starts_with("__");
    let mut lanes = TopicPartitionList::new();
    for topic in metadata.topics() {
        let name = topic.name();
        if !ours(&name) {
            continue;
        }
        found.push(format!("topic {name} of {} partitions", topic.partitions().len()));
        if name.ends_with(".tagged") {
            lanes.add_partition_range(name, 0, i32::try_from(topic.partitions().len())? - 1);
        }
        // What a worker says of itself, it says there.
        if at_rest && !name.ends_with(".heartbeat") {
            for partition in topic.partitions() {
                let (_, end) = client.fetch_watermarks(name, partition.id(), ASK)?;
                found.push(format!("topic {name}[{}] ends at {end}", partition.id()));
            }
        }
    }
    // A sink that runs shows its group when it first commits, whatever a command did meanwhile.
    if at_rest {
        for group in groups.groups().iter().filter(|group| ours(&group.name())) {
            found.push(format!("group {}", group.name()));
            found.extend(positions(broker, group.name(), &lanes)?);
        }
    }
    Ok(found)
}

/// What a group has committed.
fn positions(broker: &str, group: &str, lanes: &TopicPartitionList) -> anyhow::Result<Vec<String>> {
    let mut config = ClientConfig::new();
    let member: BaseConsumer =
        config.set("bootstrap.servers", broker).set("group.id", group).create()?;
    let committed = member.committed_offsets(lanes.clone(), ASK)?;
    let known = committed.elements().into_iter().filter_map(|lane| {
        let offset = lane.offset().to_raw().filter(|offset| *offset >= 0)?;
        let (topic, lane) = (lane.topic(), lane.partition());
        Some(format!("group {group} stands at {offset} in {topic}[{lane}]"))
    });
    Ok(known.collect())
}

/// No connection but the administrator's is left.
pub async fn ensure_no_connections(servers: &[&Mysql]) -> anyhow::Result<()> {
    let deadline = Instant::now() + GONE_WITHIN;
    for server in servers {
        loop {
            let left = server.sql("SHOW PROCESSLIST").await?;
            let foreign = |line: &&str| {
                line.split('\t')
                    .nth(1)
                    .is_some_and(|user| !["root", "event_scheduler", "system user"].contains(&user))
            };
            let left: Vec<&str> = left.lines().filter(foreign).collect();
            if left.is_empty() {
                break;
            }
            ensure!(Instant::now() < deadline, "connections are left: {left:#?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}
