//! Real servers on this machine, for the demo and the tests: MySQL 9, MariaDB 10.11, Redis 7 and 8, Valkey 9, Apache Kafka 4 and its Connect.
//!
//! [`ensure`] brings what is missing into the user's cache folder, by the `install` script beside this crate; whoever
//! starts a server gets it brought first.
//! [`Mysql`], [`Kafka`] and [`Redis`] then start any number of servers, each on a free port of 127.0.0.1 and in a
//! temporary folder of its own, and do to them what happens to servers: stop, kill, freeze, start again, go back in time.
//!
//! What is guaranteed:
//! * A started server answers: `start` returns once a request of its own protocol was answered by that very process.
//! * It ends with its owner: when the handle is dropped, or when the owning process dies in whatever way, by SIGKILL
//!   too. Each server's parent is a small shell (`guard.sh`) which holds a pipe from us and kills it when that closes.
//!   Only `keep` lets one live on.
//! * A signal goes to one process, by its id; nothing is ever looked up by name.
//! * A Ctrl-C at the terminal reaches the owner only, which can then take its servers down in order.
//!
//! What can go wrong: a component can't be brought, a server does not come up (its last log lines are in the fault).
//!
//! | file | subject |
//! |---|---|
//! | `component.rs` | which components there are and where they live |
//! | `install.rs` | running the installer |
//! | `mysql.rs` | MySQL 9 and MariaDB; `mysql/blank.rs` makes their first data folder |
//! | `kafka.rs` | a single broker; `kafka/blank.rs` makes its first log folder |
//! | `connect.rs` | a Kafka Connect worker with Debezium's connectors |
//! | `redis.rs` | a Redis or Valkey server |
//! | `program.rs` | any other program, such as a worker |
//! | `service.rs` | what all of them share: start, stop, kill, freeze, keep |
//! | `process.rs`, `guard.sh` | one process that ends with us |
//! | `probe.rs` | does it answer? |
//! | `prepared.rs` | folders made once and copied from then on |
//! | `port.rs` | free ports |

mod command;
mod component;
mod connect;
mod fault;
mod install;
mod kafka;
mod mysql;
mod port;
mod prepared;
mod probe;
mod process;
mod program;
mod redis;
mod service;

pub use component::{Component, Home, cache_folder};
pub use connect::{Connect, ConnectSetup};
pub use fault::Fault;
pub use install::ensure;
pub use kafka::{Kafka, KafkaSetup};
pub use mysql::{Flavor, Mysql, MysqlSetup};
pub use port::free as free_port;
pub use program::{Program, ProgramSetup};
pub use redis::{Redis, RedisFlavor, RedisSetup};
pub use service::{Kept, new_folder};
pub use tempfile::TempDir;
