//! What the stages of a Redis store's log keep in the position topic.

use serde::{Deserialize, Serialize};
use unitflow_change::redis::Keyspace;
use unitflow_change::seq::Seq;
use unitflow_redis::Position;
use unitflow_transformer::redis::State;

use super::copier::Progress;

/// The connector's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectorState {
    /// The last record of the captured topic.
    pub seq: Seq,
    /// Where the store's stream was read up to.
    pub position: Position,
    /// The keyspace that the captured log has last named.
    pub keyspace: Keyspace,
    /// The captured topic's id.
    pub captured_id: String,
    /// What is copied beside.
    #[serde(default, skip_serializing_if = "Progress::is_empty")]
    pub copy: Progress,
}

/// The transformer's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerState {
    /// The function's own; what it knows of expiry times stands in the expiry topic.
    pub function: State,
    /// The captured topic's id.
    pub captured_id: String,
    /// The tagged topic's id.
    pub tagged_id: String,
    /// The expiry topic's id.
    pub expiry_id: String,
}
