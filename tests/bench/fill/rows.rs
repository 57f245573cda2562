//! The table that is copied, how it is filled, and how two servers compare it.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::timeout;
use unitflow_harness::Mysql;

/// The schema's name.
pub const DATABASE: &str = "bench";
/// The table's name with it.
pub const TABLE: &str = "bench.parcels";
/// Of so many rows that were there first, one is written meanwhile.
pub const WRITTEN_EACH: u64 = 50;

/// In words, for the report.
pub const SHAPE: &str = "one table of seven columns, ~200 bytes a row";

const COLUMNS: &str = "id BIGINT UNSIGNED NOT NULL PRIMARY KEY, customer_id INT UNSIGNED NOT NULL, \
                       status VARCHAR(16) NOT NULL, amount DECIMAL(12,2) NOT NULL, revision INT UNSIGNED NOT NULL, \
                       changed_at DATETIME(3) NOT NULL, note VARCHAR(255) NOT NULL";
const NAMES: &str = "id, customer_id, status, amount, revision, changed_at, note";
/// Rows of one statement that fills.
const ROWS_AT_ONCE: u64 = 250_000;
/// No statement takes longer.
const STATEMENT: Duration = Duration::from_secs(600);

/// The table, empty.
pub async fn create(server: &Mysql) -> anyhow::Result<()> {
    run(server, &format!("CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4; CREATE TABLE {TABLE} ({COLUMNS}) ENGINE=InnoDB"))
        .await
        .map(drop)
}

/// The rows 1 to `rows`, from the rows before them, past the binlog.
pub async fn fill(server: &Mysql, rows: u64) -> anyhow::Result<()> {
    let values = |id: &str| {
        format!(
            "{id}, {id} * 7919 % 100000, ELT(1 + {id} % 4, 'open', 'paid', 'shipped', 'returned'), \
             {id} * 104729 % 100000000 / 100, 0, '2025-03-14 00:00:00.123' + INTERVAL {id} % 86400 SECOND, \
             CONCAT(SHA2({id}, 256), ' parcel ', SHA2(CONCAT('-', {id}), 256), ' parcels')"
        )
    };
    let mut sql = format!("SET sql_log_bin = 0; INSERT INTO {TABLE} SELECT {};", values("1"));
    let mut count = 1;
    while count < rows {
        let some = count.min(rows - count).min(ROWS_AT_ONCE);
        let values = values(&format!("(id + {count})"));
        sql += &format!("INSERT INTO {TABLE} SELECT {values} FROM {TABLE} WHERE id <= {some};");
        count += some;
    }
    run(server, &sql).await.map(drop)
}

/// Rows and digests, as the server itself computes them: of all rows, or of those that stand still.
pub async fn digest(server: &Mysql, still: Option<u64>) -> anyhow::Result<String> {
    let still = still.map_or_else(String::new, |rows| {
        format!("WHERE id <= {rows} AND id % {WRITTEN_EACH} <> 0")
    });
    let row = format!("SHA2(CONCAT_WS('|', {NAMES}), 256)");
    run(
        server,
        &format!(
            "SELECT COUNT(*), BIT_XOR(CAST(CONV(LEFT({row}, 16), 16, 10) AS UNSIGNED)), \
             BIT_XOR(CAST(CONV(RIGHT({row}, 16), 16, 10) AS UNSIGNED)) FROM {TABLE} {still}"
        ),
    )
    .await
}

/// Runs statements by the server's own client, in bounded time.
pub async fn run(server: &Mysql, sql: &str) -> anyhow::Result<String> {
    Ok(timeout(STATEMENT, server.sql(sql)).await.with_context(|| format!("{sql} hangs"))??)
}
