//! The roles for Redis stores.

pub mod connector;
pub mod sink;
mod state;
pub mod transformer;

pub use state::{ConnectorState, TransformerState};
