//! The nouns every stage of Unitflow shares. No I/O happens here.
//!
//! | file | what it holds |
//! |---|---|
//! | [`name`] | units, stores, logs, and all that is named after them in Kafka |
//! | [`seq`] | the number of a record in its log |
//! | [`tag`] | the packed header beside a record |
//! | [`key`], [`envelope`] | a row's identity and its change, as they travel |
//! | [`form`] | plain or with schema |
//! | [`routing`] | which changes travel, and in which lane |
//! | [`copy`] | what stands before copied rows |
//! | [`ddl`], [`intent`] | statements that change a schema; the announcement of one |
//! | [`condition`] | which rows of a table travel |
//! | [`rename`] | a unit's own names for databases and tables |
//! | [`redis`] | a write of a Redis store, as it travels |
//! | [`gtid`], [`position`] | where a source was read up to |
//! | [`fault`] | what can go wrong, judged once |
//! | [`invariants`] | what must hold, for tests and production alike |
//! | [`inject`] | named points where tests break the code on purpose |

pub mod condition;
pub mod copy;
pub mod ddl;
pub mod envelope;
pub mod fault;
pub mod form;
pub mod gtid;
pub mod inject;
pub mod intent;
pub mod invariants;
pub mod key;
pub mod name;
pub mod position;
pub mod redis;
pub mod rename;
pub mod routing;
pub mod seq;
pub mod tag;

pub use fault::{Code, Fault};
pub use form::Form;
pub use name::{Log, Name, Stage, Topics};
pub use seq::Seq;
pub use tag::Tag;
