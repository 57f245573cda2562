//! MySQL and MariaDB: binlog in, changes out; and what else the other stages need of a server.
//!
//! | file | what happens there |
//! |---|---|
//! | [`mod@connect`] | sessions, facts about a server, the judge of its errors |
//! | [`stream`] | the binlog as a stream of changes; what it guarantees stands there |
//! | [`mod@kept`] | how long a server keeps what is still to be captured |
//! | [`schema`], [`literal`] | tables as a sink sees them; values and names as SQL |
//! | [`snapshot`] | rows read from tables, as the log would have shown their insert |
//! | [`equality`] | whether a column holds a value, without sending a large one |
//! | [`fit`] | whether a column holds every value of another unit's |
//! | [`preflight`] | what has to be so before a server is used |
//! | `event`, `table`, `kind` | framing, checksums, the events that are no rows; table maps; the types of columns |
//! | `decode` | events to transactions |
//! | `record` | row images to records: keys and envelopes |
//! | `declare` | tables as schemas of Kafka Connect, for records that carry theirs |
//! | `value`, `json`, `charset` | single values: the log's bytes to the envelope's JSON |
//! | `compressed` | what MariaDB compresses |
//! | `bytes` | checked reading |

pub mod connect;
pub mod equality;
pub mod fit;
pub mod kept;
pub mod literal;
pub mod preflight;
pub mod schema;
pub mod snapshot;
pub mod stream;

mod bytes;
mod charset;
mod compressed;
mod declare;
mod decode;
mod event;
#[doc(hidden)]
pub mod fuzz;
mod json;
mod kind;
mod record;
mod table;
mod value;

pub use connect::{Flavor, Server, Store, Tls, connect};
pub use kind::TypeCode;
pub use stream::{Event, Options, Row, Stream, Transaction};
