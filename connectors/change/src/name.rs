//! Units, stores, logs and flows, and the topics, groups and ids named after them.
//!
//! A name is one to 32 letters, digits or hyphens, beginning with a letter or digit: dots and
//! underscores separate and would make topic names ambiguous.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::fault::{Code, Fault};

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 32;

/// The name of a unit or of a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let fits = text.len() <= NAME_BYTES_MAX
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if fits {
            return Ok(Self(text.into()));
        }
        Err(Fault::fatal(Code::Config, format!("{text:?} can't name a unit or a store"))
            .hint("use 1 to 32 letters, digits or hyphens, a letter or digit first"))
    }
}

impl TryFrom<String> for Name {
    type Error = Fault;

    fn try_from(text: String) -> Result<Self, Fault> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one source writes: the changes of one store in one unit, in one order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Log {
    /// The unit whose own changes these are.
    pub unit: Name,
    /// The store's configured name.
    pub store: Name,
}

impl Log {
    /// Reads `unit.store`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (unit, store) = text.split_once('.')?;
        Some(Self { unit: unit.parse().ok()?, store: store.parse().ok()? })
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.unit, self.store)
    }
}

/// The stages that write to Kafka; each has one transactional id per log and one partition of the
/// position topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Reads the store, writes the captured topic.
    Connector,
    /// Reads the captured topic, writes the tagged topic.
    Transformer,
    /// Copies a tagged topic into the hub's Kafka.
    Relay,
}

impl Stage {
    /// All of them, by their partition in the position topic.
    pub const ALL: [Self; 3] = [Self::Connector, Self::Transformer, Self::Relay];

    /// The stage's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connector => "connector",
            Self::Transformer => "transformer",
            Self::Relay => "relay",
        }
    }

    /// The partition of the position topic that holds this stage's state.
    #[must_use]
    pub const fn partition(self) -> i32 {
        self as i32
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names everything in Kafka, from one configurable prefix.
#[derive(Clone, Debug)]
pub struct Topics {
    prefix: Arc<str>,
}

impl Topics {
    /// Names below `prefix`; the default is `unitflow`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// What all names begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What the connector saw, in order; one partition.
    #[must_use]
    pub fn captured(&self, log: &Log) -> String {
        format!("{}.{log}.captured", self.prefix)
    }

    /// The unit's own changes by key; one partition a lane.
    #[must_use]
    pub fn tagged(&self, log: &Log) -> String {
        format!("{}.{log}.tagged", self.prefix)
    }

    /// The state of the log's stages; one partition a stage, compacted.
    #[must_use]
    pub fn position(&self, log: &Log) -> String {
        format!("{}.{log}.position", self.prefix)
    }

    /// When the keys of a Redis store expire; compacted.
    #[must_use]
    pub fn expiry(&self, log: &Log) -> String {
        format!("{}.{log}.expiry", self.prefix)
    }

    /// What the workers of a unit last said of themselves; compacted.
    #[must_use]
    pub fn heartbeat(&self, unit: &Name) -> String {
        format!("{}.{unit}.heartbeat", self.prefix)
    }

    /// What people tell the flows into a unit to do; compacted.
    #[must_use]
    pub fn control(&self, unit: &Name) -> String {
        format!("{}.{unit}.control", self.prefix)
    }

    /// What the flows into a unit did not apply.
    #[must_use]
    pub fn quarantine(&self, unit: &Name) -> String {
        format!("{}.{unit}.quarantine", self.prefix)
    }

    /// The name of a flow, as people and control records write it: `A-to-B.shop`.
    #[must_use]
    pub fn flow(log: &Log, to: &Name) -> String {
        format!("{}-to-{to}.{}", log.unit, log.store)
    }

    /// The transactional id that fences the writers of this stage of this log.
    #[must_use]
    pub fn transactional_id(&self, log: &Log, stage: Stage) -> String {
        format!("{}.{log}.{stage}", self.prefix)
    }

    /// The consumer group of the sinks that carry `log` to unit `to`.
    #[must_use]
    pub fn group(&self, log: &Log, to: &Name) -> String {
        format!("{}.{}", self.prefix, Self::flow(log, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_make_topics_ambiguous_are_refused() {
        for bad in ["", "a.b", "a_b", "-a", "ü", &"x".repeat(33)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
        assert_eq!("eu-west-1".parse::<Name>().unwrap().as_str(), "eu-west-1");
    }

    #[test]
    fn everything_in_kafka_is_named_by_the_log() {
        let log = Log { unit: "A".parse().unwrap(), store: "orders".parse().unwrap() };
        let topics = Topics::new("unitflow");
        assert_eq!(topics.captured(&log), "unitflow.A.orders.captured");
        assert_eq!(topics.transactional_id(&log, Stage::Relay), "unitflow.A.orders.relay");
        assert_eq!(topics.group(&log, &"B".parse().unwrap()), "unitflow.A-to-B.orders");
    }
}
