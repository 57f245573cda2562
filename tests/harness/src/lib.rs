//! Real servers, real workers and the judge, for the tests.
//!
//! A test builds a [`Mesh`]: units with a server and a Kafka each, workers as processes of their
//! own. [`Load`] writes to the units' servers, and keeps a record of what was acknowledged. In the
//! end [`judge`](judge::judge) reads the servers' own logs with the servers' own tool, and says
//! whether each change is everywhere exactly once. What has to hold meanwhile is watched by
//! [`watch`].
//!
//! | file | what it holds |
//! |---|---|
//! | [`mesh`] | servers, configuration, workers, waiting |
//! | [`mod@turns`] | tests side by side, with a limit and a clock |
//! | [`worker`] | one worker process: start, kill, freeze, measure |
//! | [`metrics`] | what a worker tells Prometheus |
//! | [`random`] | the seed that a test prints, and the choices made from it |
//! | [`schema`] | the tables of the shop, and where a row says whose it is |
//! | [`change`] | one change of one row, as load and judge both name it |
//! | [`load`] | writers, and the record of what was acknowledged |
//! | [`plan`] | what a writer does next |
//! | [`binlog`] | reads what `mysqlbinlog` prints |
//! | [`mod@judge`] | the verdict |
//! | [`watch`] | versions never go down, totals stay, positions never pass the data |
//! | [`tagged`] | reads a tagged topic |
//!
//! Nothing here waits without a limit, and all that was started ends with the test.

pub mod binlog;
pub mod change;
pub mod judge;
pub mod load;
pub mod mesh;
pub mod metrics;
pub mod plan;
pub mod random;
pub mod schema;
pub mod tagged;
pub mod turns;
pub mod watch;
pub mod worker;

pub use change::{Change, Op};
pub use judge::{Verdict, judge};
pub use load::{Load, Written};
pub use mesh::{Mesh, MeshSetup};
pub use random::{Random, is_full};
pub use turns::{alone, beside};
pub use unitflow_local::{Flavor, Kafka, Mysql};
pub use worker::Worker;
