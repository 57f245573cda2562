//! The envelope is Debezium's: measured against its own connectors, run by Kafka Connect.
//!
//! * [`plain`]: the records that its MySQL connector writes from the same statements, field by field.
//!   What differs is what `deploy/envelope.md` lists, no more and no less.
//! * [`sink`]: its JDBC sink connector reads a tagged topic whose records carry their schema, into a
//!   third database that ends equal. The schemas differ from those of its MySQL connector as the
//!   same document says.
//!
//! Kafka Connect and the connectors are brought on first use.

mod document;
mod plain;
mod schema;
mod sink;
mod topic;
mod types;

use std::time::Duration;

use unitflow_harness::Mesh;

const BINARY: &str = env!("CARGO_BIN_EXE_unitflow");
/// No test takes longer, the first on a machine included, which brings 130 MB.
const LIMIT: Duration = Duration::from_secs(400);
/// Nor does what was written take longer to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// Creates a table in every unit, kept out of their logs.
async fn create(mesh: &Mesh, statement: &str) -> anyhow::Result<()> {
    for unit in mesh.units() {
        unit.server.sql(statement).await?;
    }
    Ok(())
}
