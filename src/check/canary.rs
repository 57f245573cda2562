//! The canary: a row that is put into the ledger and taken out again, to see that both stand in the
//! store's own log.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use unitflow_change::position::Position;
use unitflow_change::routing::{INTERNAL_DATABASE, LEDGER_TABLE};
use unitflow_change::{Code, Fault};
use unitflow_mysql::connect::{Server, Store, fault};
use unitflow_mysql::stream::{Event, Options, Stream};

use super::finding::Finding;

/// How long the store's log may take to be read to its end.
const CANARY_WITHIN: Duration = Duration::from_secs(30);
/// How often the server says meanwhile that it has nothing to send.
const CANARY_BEAT: Duration = Duration::from_millis(200);
/// The canary's log and lane in the ledger; no real ones.
const CANARY: (&str, i32) = ("unitflow-check", -1);

/// Puts a row into the ledger and takes it out again, and looks for it in the store's log. Both
/// in one transaction, so that nothing stays whatever happens.
pub(super) async fn canary(
    conn: &mut Conn,
    store: &Store,
    place: &str,
) -> Result<Option<Finding>, Fault> {
    let server = Server::read(conn).await?;
    let insert = "INSERT INTO unitflow.ledger (log, lane, seq, topic_id, topic_offset, origin) VALUES (?, ?, 0, '', 0, '')";
    let delete = "DELETE FROM unitflow.ledger WHERE log = ? AND lane = ?";
    let written = async {
        conn.query_drop("BEGIN").await?;
        conn.exec_drop(insert, CANARY).await?;
        conn.exec_drop(delete, CANARY).await?;
        conn.query_drop("COMMIT").await
    };
    written.await.map_err(|error| fault(&error).at("unitflow.ledger"))?;
    // Read from before it, and only now: so a pause means that the log holds no more.
    // An id that no worker has, so that none is displaced.
    let id = 0x6000_0000 | (std::process::id() & 0x0fff_ffff);
    let options = Options { heartbeat: CANARY_BEAT, ..Options::new(id, place) };
    let mut stream = Stream::open(store, Position::after(server.executed), options).await?;
    let seen = tokio::time::timeout(CANARY_WITHIN, sees_ledger(&mut stream)).await;
    stream.close().await;
    let late = |_| Fault::retry(Code::Timeout, "the store's log was not read to its end in time");
    if seen.map_err(late)?? {
        return Ok(None);
    }
    Ok(Some(
        Finding::new(place, Code::LedgerHidden, "unitflow.ledger")
            .expected(
                "its changes stand in the store's own binlog",
                "a row written to it did not appear",
            )
            .remedy(
                "look for binlog-ignore-db, binlog-do-db, and for sql_log_bin=0 in init_connect",
            ),
    ))
}

/// Whether a change to the ledger comes before the server has twice nothing more to send.
async fn sees_ledger(stream: &mut Stream) -> Result<bool, Fault> {
    let mut pauses = 0;
    while pauses < 2 {
        match stream.next().await? {
            Event::Row(row) if (row.database, row.table) == (INTERNAL_DATABASE, LEDGER_TABLE) => {
                return Ok(true);
            }
            Event::Heartbeat => pauses += 1,
            _ => {}
        }
    }
    Ok(false)
}
