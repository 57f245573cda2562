//! Applies another unit's tagged changes to this unit's store, exactly once in effect.
//!
//! | file | what it does |
//! |---|---|
//! | [`flow`] | spreads a log's lanes over the workers of a group and keeps them running |
//! | [`road`] | what all stores have in common: from a tagged topic into a unit |
//! | [`lane`] | one partition in order: gather, apply, commit, wait for other lanes |
//! | [`causes`] | changes that come before what they were made behind |
//! | [`barrier`] | what all lanes pass together: schema changes, new generations |
//! | [`copy`] | copied rows: written where nothing newer stands |
//! | [`park`] | tables whose changes wait for a person |
//! | [`batch`], [`plan`] | what one commit holds, and in which order it is executed |
//! | [`ledger`] | exactly-once record, fence and mark in one row |
//! | [`schema`] | the database that these stand in, and what an older one lacks |
//! | [`mirror`] | where lanes stand, for Kafka's own tools |
//! | [`mysql`] | statements and the transaction they stand in |
//! | [`redis`] | the same lane for Redis: commands, and the ledger as a key |
//! | [`metrics`] | what a sink tells of itself |
//!
//! What it guarantees: a record is applied if and only if the lane's ledger row moves past it, in
//! one transaction of the target; nothing is applied out of order for a key; nothing is
//! overwritten that is not as the source saw it; and where a record is missing the lane stops.

pub mod barrier;
pub mod batch;
pub mod causes;
pub mod copy;
pub mod flow;
pub mod lane;
pub mod ledger;
pub mod metrics;
pub mod mirror;
pub mod mysql;
pub mod park;
pub mod plan;
pub mod redis;
pub mod road;
pub mod schema;
