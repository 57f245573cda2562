//! Redis and Valkey: what a server writes, as its replicas get it.
//!
//! | file | what happens there |
//! |---|---|
//! | [`mod@connect`] | connections, and the judge of a server's errors |
//! | [`client`] | commands to a primary, by the driver `redis` |
//! | [`mod@chunk`] | keys as they are at one moment, and where in the stream that is |
//! | [`stream`] | a snapshot, then the writes behind it; what it guarantees stands there |
//! | [`mod@rdb`] | a snapshot, read as it comes |
//! | [`mod@rebuild`] | a value as the commands that make it |
//! | [`mod@command`] | a command as it stands in the stream |
//! | [`mod@commands`] | which commands that may be, and where their keys are |
//! | `lzf`, `input` | compressed texts; buffered reading that counts bytes |

pub mod chunk;
pub mod client;
pub mod command;
pub mod commands;
pub mod connect;
pub mod rdb;
pub mod rebuild;
pub mod stream;

mod input;
mod lzf;

pub use client::Client;
pub use command::Command;
pub use connect::{Connection, Store, Tls};
pub use stream::{Event, Opened, Options, Position, Snapshot, Stream};
