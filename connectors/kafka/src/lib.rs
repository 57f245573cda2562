//! The road between the stages: Kafka's topics, written under a fence and read at given offsets.
//!
//! Every stage writes with one [`Writer`] and reads with one [`Reader`]; what they promise each
//! other is stated on these two types and nowhere else. In short: a writer's records become
//! visible together, at commit, or never; only the newest writer of an id can commit; a reader
//! sees committed records only, in offset order, from exactly the offset it was given, and never
//! jumps. Everything that Kafka reports is turned into a [`unitflow_change::fault::Fault`] in one place.
//!
//! | file | what it does |
//! |---|---|
//! | [`broker`] | where Kafka is; the judge of its errors |
//! | [`topics`] | create, describe and check topics; their ids and bounds |
//! | [`writer`] | the fenced transactional writer |
//! | [`reader`] | partitions read at given offsets |
//! | [`pieces`] | records larger than a broker takes |
//! | [`groups`] | consumer groups as a whole |
//! | [`mod@kept`] | how long a topic keeps what is still to be read |
//! | [`last`] | the last committed record of a partition |
//! | [`positions`] | a stage's durable state, in a compacted topic |
//! | [`members`] | who works on which partition; mirrored offsets |
//! | [`notes`] | what workers last said of themselves |
//! | [`control`] | what people tell a flow to do |
//! | [`jobs`] | what a log is to copy |
//! | [`quarantine`] | what a flow did not apply |
//! | `native` | the three calls that rdkafka does not pass on |

pub mod broker;
pub mod control;
pub mod groups;
pub mod jobs;
pub mod kept;
pub mod last;
pub mod members;
mod native;
pub mod notes;
pub mod pieces;
pub mod positions;
pub mod quarantine;
pub mod reader;
pub mod topics;
pub mod writer;

pub use broker::Broker;
pub use last::{OwnedRecord, last_committed, last_record, last_record_before};
pub use members::{Change, Members};
pub use reader::{Item, Reader, Record};
pub use topics::{Retention, Spec, Topic, TopicId};
pub use writer::Writer;
