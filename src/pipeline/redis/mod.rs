//! The roles for Redis stores.

pub mod connector;
mod copier;
pub mod sink;
mod state;
pub mod transformer;

pub use copier::{Progress, Scan};
pub use state::{ConnectorState, TransformerState};
