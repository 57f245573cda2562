//! From the captured log to the tagged one.
//!
//! A deterministic, synchronous function over the captured log and nothing else: the same records
//! give the same output, whoever runs it and however often. It keeps the unit's own changes,
//! drops the rest, and spreads what it keeps over the lanes by key. Payload bytes pass through
//! untouched, unless a filter hides a part of them. After a restart a record may name more of other
//! lanes' records to wait for, never less.
//!
//! One verb a file:
//!
//! | file | what it does |
//! |---|---|
//! | [`mark`] | tells the unit's own transactions from those that a sink applied |
//! | [`ddl`] | tells which statements concern other units |
//! | [`filter`] | takes out columns and rows that do not travel |
//! | [`route`] | says what applies to a table, and gives each change its lane |
//! | [`gone`] | remembers where deleted keys lived, for they may come back in another lane |
//! | [`hold`] | keeps a lane's last record back until it is known whether its transaction has another |
//! | [`redis`] | the same for Redis, where a change is a command |
//! | [`transformer`] | joins them, record by record, and holds the state that a restart needs |

pub mod ddl;
pub mod filter;
pub mod gone;
pub mod hold;
pub mod mark;
pub mod redis;
pub mod route;
pub mod transformer;

pub use transformer::{Captured, Output, State, Transformer};
