//! What a command may leave behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use unitflow_harness::{Kafka, Mysql};

const ASK: Duration = Duration::from_secs(10);
/// A server sees that a reader of its log has gone when it next has something to tell it: once a
/// second, when it says that it is alive.
const GONE_WITHIN: Duration = Duration::from_secs(4);

/// Looks at servers and broker.
pub struct Traces {
    kafka: Arc<BaseConsumer>,
}

impl Traces {
    /// Connects to the broker.
    pub fn open(kafka: &Kafka) -> anyhow::Result<Self> {
        let client = ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create()?;
        Ok(Self { kafka: Arc::new(client) })
    }

    /// Everything of ours that stands in servers and broker, as lines.
    pub async fn of(&self, servers: &[&Mysql]) -> anyhow::Result<BTreeSet<String>> {
        let mut traces = BTreeSet::new();
        for (place, server) in servers.iter().enumerate() {
            let tables = server
                .sql("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'unitflow'")
                .await?;
            traces.extend(tables.lines().map(|table| format!("server {place}: table {table}")));
            if tables.lines().any(|table| table == "ledger") {
                let rows = server.sql("SELECT log, lane FROM unitflow.ledger").await?;
                traces.extend(rows.lines().map(|row| format!("server {place}: ledger row {row}")));
            }
        }
        let kafka = Arc::clone(&self.kafka);
        traces.extend(spawn_blocking(move || in_kafka(&kafka)).await??);
        Ok(traces)
    }
}

fn in_kafka(client: &BaseConsumer) -> anyhow::Result<Vec<String>> {
    let topics = client.fetch_metadata(None, ASK)?;
    let groups = client.fetch_group_list(None, ASK)?;
    let topics = topics.topics().iter().map(|topic| format!("topic {}", topic.name()));
    let groups = groups.groups().iter().map(|group| format!("group {}", group.name()));
    let ours = |name: &String| !name.contains(" __");
    Ok(topics.chain(groups).filter(ours).collect())
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
