//! The sink of Redis stores.
//!
//! A batch is one transaction at the target: `MULTI`, the `SET` of the lane's ledger key, the writes, `EXEC`. The key
//! is watched since it was read, so that a second sink's batch does nothing; it is the first write, so that the target's
//! own transformer knows the transaction as applied. What became of one whose answer is lost the ledger says.
//!
//! | file | what it does |
//! |---|---|
//! | [`ledger`] | where a lane stands: one key |
//! | [`lane`] | one partition in order: gather, apply, go on |
//! | [`batch`] | commands gathered for one transaction |
//! | [`copies`] | copied keys: written where nothing newer stands |
//! | [`own_keys`] | what this unit's own log says of its keys |
//! | [`filling`] | what fills a store, and keys that could not be settled yet |
//! | [`late`] | expiry times that have passed before they arrive |

pub mod batch;
pub mod copies;
pub mod filling;
pub mod lane;
pub mod late;
pub mod ledger;
pub mod own_keys;
