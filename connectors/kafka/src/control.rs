//! The control topic: what people tell a flow to do.
//!
//! Compacted, keyed by flow (`A-to-B.shop`); the last good record of a flow holds. Records are
//! JSON and may be written by `unitflow pause` and its like or by any Kafka producer:
//!
//! ```text
//! key    A-to-B.shop
//! value  {"format":1,"action":"pause","by":"anna","why":"schema review"}
//!        {"format":1,"action":"resume","tables":["shop.orders"],"by":"anna","why":"column added"}
//!        {"format":1,"action":"retry","by":"anna","why":"disk grown"}
//!        {"format":1,"action":"skip","lane":2,"from_seq":281474976710662,"to_seq":281474976710662,
//!         "by":"anna","why":"row is gone at both ends"}
//! ```
//!
//! What can't be read is reported and changes nothing; so does the topic being away. It takes the
//! place of the order before it when the topic is compacted, though, so what of that one has to
//! hold on (a pause, records that are passed over) is written again behind it.

use std::collections::BTreeMap;

use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::{info, warn};
use unitflow_change::{Code, Fault, Seq};

use crate::broker::{Broker, judge};
use crate::reader::{Item, Reader, Record};
use crate::{jobs, topics};

/// The format that this build writes and reads.
const FORMAT: u8 = 1;
/// Bytes fetched ahead.
const QUEUE_BYTES: usize = 64 << 10;
/// The longest text of `by` and `why`.
const TEXT_BYTES_MAX: usize = 1_000;

/// What a flow is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Action {
    /// Stop applying, until another record comes.
    Pause,
    /// Apply; the parked tables named (all, where none is) go on as they are: a person has brought
    /// them to the schema that their changes expect.
    Resume {
        /// As `database.table`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tables: Vec<String>,
    },
    /// Apply; what parked these tables (all, where none is named) is tried again, a schema change too.
    Retry {
        /// As `database.table`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tables: Vec<String>,
    },
    /// Apply, but pass over these records of a lane; they go to quarantine.
    Skip {
        /// The lane; all of them for a schema change.
        lane: Option<i32>,
        /// The first record.
        from_seq: Seq,
        /// The last record.
        to_seq: Seq,
    },
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// 1.
    pub format: u8,
    /// What to do.
    #[serde(flatten)]
    pub action: Action,
    /// Who says so.
    pub by: String,
    /// Why.
    pub why: String,
}

impl Order {
    /// An order in today's format.
    pub fn new(action: Action, by: impl Into<String>, why: impl Into<String>) -> Self {
        Self { format: FORMAT, action, by: by.into(), why: why.into() }
    }

    /// Reads and checks a record's value.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let bad = |what: String| Fault::fatal(Code::Control, what);
        let order: Self = serde_json::from_slice(bytes)
            .map_err(|error| bad(format!("a control record can't be read: {error}")))?;
        if order.format != FORMAT {
            return Err(bad(format!("control record format {} is not known here", order.format)));
        }
        for (name, text) in [("by", &order.by), ("why", &order.why)] {
            if text.trim().is_empty() || text.len() > TEXT_BYTES_MAX {
                return Err(bad(format!(
                    "a control record's {name:?} must say something, in at most {TEXT_BYTES_MAX} bytes"
                )));
            }
        }
        match &order.action {
            Action::Resume { tables } | Action::Retry { tables } => {
                match tables.iter().find(|table| !table.contains('.')) {
                    Some(table) => Err(bad(format!("{table:?} is not database.table"))),
                    None => Ok(order),
                }
            }
            Action::Skip { from_seq, to_seq, .. } if from_seq > to_seq => {
                Err(bad(format!("skip from {from_seq} to {to_seq} is no range")))
            }
            _ => Ok(order),
        }
    }
}

/// The order in force, with its offset: a later one is greater.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Its place in the control topic; -1 before the first.
    pub offset: i64,
    /// What it says; none before the first.
    pub order: Option<Order>,
}

impl Default for InForce {
    fn default() -> Self {
        Self { offset: -1, order: None }
    }
}

impl InForce {
    /// Whether the flow is to stand still.
    #[must_use]
    pub fn pauses(&self) -> bool {
        self.order.as_ref().is_some_and(|order| order.action == Action::Pause)
    }

    /// Whether a record is to be passed over.
    #[must_use]
    pub fn skips(&self, lane: i32, seq: Seq) -> bool {
        match self.order.as_ref().map(|order| &order.action) {
            Some(Action::Skip { lane: at, from_seq, to_seq }) => {
                at.is_none_or(|at| at == lane) && (*from_seq..=*to_seq).contains(&seq)
            }
            _ => false,
        }
    }

    /// Whether records of a lane behind `from` and up to `to` are to be passed over, by an order that
    /// came after `since`.
    #[must_use]
    pub fn skips_some(&self, lane: i32, (from, to): (Seq, Seq), since: i64) -> bool {
        match self.order.as_ref().map(|order| &order.action) {
            Some(Action::Skip { lane: at, from_seq, to_seq }) => {
                let met = *to_seq > from && *from_seq <= to;
                self.offset > since && at.is_none_or(|at| at == lane) && met
            }
            _ => false,
        }
    }

    /// Whether a table that was parked when `since` was in force is to go on, and if so whether
    /// what parked it is to be tried again.
    #[must_use]
    pub fn releases(&self, table: &str, since: i64) -> Option<bool> {
        let (tables, again) = match self.order.as_ref().map(|order| &order.action)? {
            Action::Resume { tables } => (tables, false),
            Action::Retry { tables } => (tables, true),
            _ => return None,
        };
        (self.offset > since && (tables.is_empty() || self.names(table))).then_some(again)
    }

    /// Whether the order names this table.
    #[must_use]
    pub fn names(&self, table: &str) -> bool {
        match self.order.as_ref().map(|order| &order.action) {
            Some(Action::Resume { tables } | Action::Retry { tables }) => {
                tables.iter().any(|name| name == table)
            }
            _ => false,
        }
    }
}

/// Writes an order; it is acknowledged when this returns.
///
/// # Errors
/// As Kafka answers.
pub async fn send(broker: &Broker, topic: &str, flow: &str, order: &Order) -> Result<(), Fault> {
    let value = serde_json::to_vec(order)
        .map_err(|error| Fault::fatal(Code::Bug, format!("an order can't be written: {error}")))?;
    let producer: FutureProducer = broker
        .client(&[], &[("enable.idempotence", "true"), ("message.timeout.ms", "10000")])?
        .create()
        .map_err(|error| judge(&error, format!("writing to {topic}")))?;
    let record = FutureRecord::to(topic).partition(0).key(flow).payload(&value);
    let sent = producer.send(record, std::time::Duration::ZERO).await;
    sent.map(drop).map_err(|(error, _)| judge(&error, format!("writing to {topic}")))
}

/// The order in force for a flow.
///
/// # Errors
/// As [`Reader::next`].
pub async fn last(broker: &Broker, topic: &str, flow: &str) -> Result<InForce, Fault> {
    let (tell, mut orders) = watch::channel(None);
    tokio::select! {
        result = follow(broker, topic, flow, &tell) => result.map(|()| InForce::default()),
        known = orders.wait_for(Option::is_some) => {
            Ok(known.map(|order| order.clone().unwrap_or_default()).unwrap_or_default())
        }
    }
}

/// Keeps `orders` at the last good order of a flow; the first value is set when the topic was read to
/// its end. Runs until it fails.
///
/// # Errors
/// As [`Reader::next`].
pub async fn follow(
    broker: &Broker,
    topic: &str,
    flow: &str,
    orders: &watch::Sender<Option<InForce>>,
) -> Result<(), Fault> {
    let (low, high) = topics::bounds(broker, topic, 0).await?;
    let reader = Reader::open(broker, topic, &[(0, low)], QUEUE_BYTES).await?;
    let mut heard = Heard::default();
    let mut kept_behind = None;
    let mut reached = low == high;
    loop {
        if reached && orders.borrow().as_ref() != Some(&heard.in_force) {
            orders.send_replace(Some(heard.in_force.clone()));
        }
        match reader.next().await? {
            Item::End { .. } => {
                reached = true;
                let refused = heard.refused.as_ref().map(|refused| refused.offset);
                if let Some(order) = heard.to_be_kept().filter(|_| kept_behind != refused) {
                    send(broker, topic, flow, order).await?;
                    kept_behind = refused;
                }
            }
            Item::Record(record) if record.key() == Some(flow.as_bytes()) => {
                heard.take(&record);
                match &heard.refused {
                    Some(refused) if refused.offset == record.offset() => {
                        warn!(code = %Code::Control, "{topic} {}: {}; the order before it holds", refused.offset, refused.what);
                    }
                    _ => info!(offset = record.offset(), order = ?heard.in_force.order, "order"),
                }
            }
            Item::Record(_) => {}
        }
    }
}

/// What a control topic says of each of its keys but jobs', by now. A tombstone leaves nothing of a
/// key.
///
/// # Errors
/// As [`Reader::next`].
pub async fn read_all(broker: &Broker, topic: &str) -> Result<BTreeMap<String, Heard>, Fault> {
    let (low, high) = topics::bounds(broker, topic, 0).await?;
    let mut all: BTreeMap<String, Heard> = BTreeMap::new();
    if low == high {
        return Ok(all);
    }
    let reader = Reader::open(broker, topic, &[(0, low)], QUEUE_BYTES).await?;
    loop {
        match reader.next().await? {
            Item::End { .. } => return Ok(all),
            // Those are for connectors.
            Item::Record(record) if jobs::is_key(record.key().unwrap_or_default()) => {}
            Item::Record(record) => {
                let key = String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned();
                match record.value() {
                    Some(_) => all.entry(key).or_default().take(&record),
                    None => drop(all.remove(&key)),
                }
            }
        }
    }
}

/// What the topic said of one flow.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// The last good order.
    pub in_force: InForce,
    /// What came behind it and is no order.
    pub refused: Option<Refused>,
}

/// A record that is no order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Its place in the control topic.
    pub offset: i64,
    /// What is wrong with it.
    pub what: String,
}

impl Heard {
    fn take(&mut self, record: &Record<'_>) {
        let offset = record.offset();
        match Order::parse(record.value().unwrap_or_default()) {
            Ok(order) => {
                // One that is written again, word for word, says nothing of what came between.
                let is_news = self.in_force.order.as_ref() != Some(&order);
                self.in_force = InForce { offset, order: Some(order) };
                self.refused.take_if(|_| is_news);
            }
            Err(fault) => self.refused = Some(Refused { offset, what: fault.what }),
        }
    }

    /// The order that has to be written again, or the topic's compaction would leave only what is
    /// none. Orders that have done what they are for need not hold on.
    fn to_be_kept(&self) -> Option<&Order> {
        let last = self.refused.as_ref()?.offset > self.in_force.offset;
        self.in_force
            .order
            .as_ref()
            .filter(|order| last && matches!(order.action, Action::Pause | Action::Skip { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_documented() {
        let order = Order::parse(br#"{"format":1,"action":"pause","by":"anna","why":"review"}"#);
        assert_eq!(order.unwrap(), Order::new(Action::Pause, "anna", "review"));
        let skip =
            br#"{"format":1,"action":"skip","lane":2,"from_seq":6,"to_seq":8,"by":"a","why":"b"}"#;
        let in_force = InForce { offset: 3, order: Some(Order::parse(skip).unwrap()) };
        assert!(
            in_force.skips(2, Seq(7)) && !in_force.skips(1, Seq(7)) && !in_force.skips(2, Seq(9))
        );
    }

    #[test]
    fn bad_orders_are_refused() {
        for bad in [
            "",
            "{}",
            r#"{"format":2,"action":"pause","by":"a","why":"b"}"#,
            r#"{"format":1,"action":"pause","by":" ","why":"b"}"#,
            r#"{"format":1,"action":"pause","by":"a"}"#,
            r#"{"format":1,"action":"explode","by":"a","why":"b"}"#,
            r#"{"format":1,"action":"resume","tables":["orders"],"by":"a","why":"b"}"#,
            r#"{"format":1,"action":"skip","from_seq":8,"to_seq":6,"by":"a","why":"b"}"#,
        ] {
            assert_eq!(Order::parse(bad.as_bytes()).unwrap_err().code, Code::Control, "{bad}");
        }
    }

    #[test]
    fn an_order_releases_what_was_parked_before_it() {
        let order = Order::new(Action::Resume { tables: vec!["shop.a".into()] }, "a", "b");
        let in_force = InForce { offset: 5, order: Some(order) };
        assert_eq!(in_force.releases("shop.a", 4), Some(false));
        assert_eq!(in_force.releases("shop.a", 5), None);
        assert_eq!(in_force.releases("shop.b", 4), None);
    }
}
