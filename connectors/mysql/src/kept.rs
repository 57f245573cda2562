//! How long a server keeps what is still to be captured from it.
//!
//! A server removes a whole log file once it was closed for longer than `binlog_expire_logs_seconds`
//! says. So what counts is the file that the next transaction to be captured stands in: which one
//! it is follows from the GTIDs that each file names at its beginning, and when it was closed from
//! the time at which the next one was begun. MariaDB may also limit the bytes of all files
//! (`max_binlog_total_size`); how long these last is told by the rate at which they grew.

use std::time::Duration;

use futures_util::StreamExt as _;
use mysql_async::prelude::Queryable as _;
use mysql_async::{BinlogStreamRequest, Conn, Row, Value};
use unitflow_change::fault::{Code, Fault};
use unitflow_change::gtid::GtidSet;

use crate::connect::{self, Flavor, Server, Store, connect};

/// The events that may stand before the one that names a file's GTIDs, and that one.
const EVENTS_AT_BEGINNING: u32 = 5;
/// The event that begins each file; its time is that of the file's beginning.
const FORMAT_DESCRIPTION: u8 = 15;
/// How long a server may take to send the beginning of a file.
const BEGINNING_WITHIN: Duration = Duration::from_secs(5);

/// What a server still has of what is to be captured next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is removed after this time from now, if it is not captured before.
    For(Duration),
    /// Nothing removes it but a person, or a full disk.
    Always,
    /// It was removed.
    Gone,
}

/// How long a server keeps what comes after `done`.
///
/// # Errors
/// As the server answers; [`Code::Setting`] where it writes no log.
pub async fn kept(store: &Store, done: &GtidSet) -> Result<Kept, Fault> {
    let mut conn = connect(store).await?;
    let kept = ask(&mut conn, store, done).await;
    let _ = conn.disconnect().await;
    kept
}

async fn ask(conn: &mut Conn, store: &Store, done: &GtidSet) -> Result<Kept, Fault> {
    let flavor = Server::read(conn).await?.flavor;
    let limits = Limits::read(conn, flavor).await?;
    let files = files(conn).await?;
    let Some(needed) = needed(conn, flavor, &files, done).await? else { return Ok(Kept::Gone) };
    let (before, wanted) = files.split_at(needed);
    let by_time = match (limits.expire_seconds, wanted.get(1)) {
        (0, _) => None,
        // The file that is written is never removed, and is closed now at the earliest.
        (seconds, None) => Some(seconds),
        (seconds, Some((next, _))) => {
            let closed = limits.now.saturating_sub(begun(store, next).await?);
            Some(seconds.saturating_sub(closed))
        }
    };
    let by_size = match (limits.bytes_max, files.first()) {
        (0, _) | (_, None) => None,
        (bytes_max, Some((first, _))) => {
            let bytes = |files: &[(String, u64)]| files.iter().map(|(_, size)| size).sum::<u64>();
            let age = limits.now.saturating_sub(begun(store, first).await?).max(1);
            let a_second = ((bytes(before) + bytes(wanted)) / age).max(1);
            Some(bytes_max.saturating_sub(bytes(wanted)) / a_second)
        }
    };
    let seconds = by_time.into_iter().chain(by_size).min();
    Ok(seconds.map_or(Kept::Always, |seconds| Kept::For(Duration::from_secs(seconds))))
}

/// What makes a server remove files; 0 where nothing does.
struct Limits {
    expire_seconds: u64,
    bytes_max: u64,
    /// The server's clock, in seconds since 1970.
    now: u64,
}

impl Limits {
    async fn read(conn: &mut Conn, flavor: Flavor) -> Result<Self, Fault> {
        let names = "'binlog_expire_logs_seconds', 'binlog_expire_logs_auto_purge', 'expire_logs_days', 'max_binlog_total_size'";
        let variables: Vec<(String, String)> = conn
            .query(format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})"))
            .await
            .map_err(|error| connect::fault(&error))?;
        let text = |name: &str| {
            let found = variables.iter().find(|(known, _)| known == name);
            found.map_or("", |(_, value)| value.as_str())
        };
        let number = |name: &str| text(name).parse::<f64>().unwrap_or(0.0);
        let mut expire = number("binlog_expire_logs_seconds");
        // MariaDB shows the one setting under both names; MySQL 8.0 had it under the older alone.
        if expire == 0.0 {
            expire = number("expire_logs_days") * 86_400.0;
        }
        if text("binlog_expire_logs_auto_purge").eq_ignore_ascii_case("OFF") {
            expire = 0.0;
        }
        let now: Option<u64> = conn
            .query_first("SELECT UNIX_TIMESTAMP()")
            .await
            .map_err(|error| connect::fault(&error))?;
        let bytes_max = match flavor {
            Flavor::Mysql => 0.0,
            Flavor::Mariadb => number("max_binlog_total_size"),
        };
        Ok(Self {
            expire_seconds: expire as u64,
            bytes_max: bytes_max as u64,
            now: now.unwrap_or(0),
        })
    }
}

/// The log's files with their sizes, oldest first.
async fn files(conn: &mut Conn) -> Result<Vec<(String, u64)>, Fault> {
    let rows: Vec<Row> =
        conn.query("SHOW BINARY LOGS").await.map_err(|error| connect::fault(&error))?;
    let files: Vec<(String, u64)> =
        rows.iter().filter_map(|row| Some((row.get(0)?, row.get(1)?))).collect();
    match files.is_empty() {
        true => Err(Fault::fatal(Code::Setting, "the server writes no binary log")),
        false => Ok(files),
    }
}

/// The last file that begins with nothing but what is done: the next transaction stands in it or
/// behind it. `None` if even the first begins later. What files begin with only grows.
async fn needed(
    conn: &mut Conn,
    flavor: Flavor,
    files: &[(String, u64)],
    done: &GtidSet,
) -> Result<Option<usize>, Fault> {
    let (mut fits, mut beyond) = (0, files.len());
    // A connector that keeps up needs the last one.
    let mut look = files.len() - 1;
    while fits < beyond {
        if beginning(conn, flavor, &files[look].0).await?.is_subset(done) {
            fits = look + 1;
        } else {
            beyond = look;
        }
        look = usize::midpoint(fits, beyond);
    }
    Ok(fits.checked_sub(1))
}

/// What had been executed when a file was begun.
async fn beginning(conn: &mut Conn, flavor: Flavor, file: &str) -> Result<GtidSet, Fault> {
    let query = format!("SHOW BINLOG EVENTS IN ? LIMIT {EVENTS_AT_BEGINNING}");
    // No placeholder is taken there; a file's name is the server's own, and is quoted as text.
    let name = Value::from(file).as_sql(true);
    let rows: Vec<Row> = conn
        .query(query.replace('?', &name))
        .await
        .map_err(|error| connect::fault(&error).at(file))?;
    for row in &rows {
        let (Some(kind), Some(info)) = (row.get::<String, _>(2), row.get::<String, _>(5)) else {
            continue;
        };
        let parsed = match kind.as_str() {
            "Previous_gtids" => GtidSet::parse_mysql(&info),
            "Gtid_list" => parse_list(&info),
            _ => continue,
        };
        return parsed.map_err(|error| {
            Fault::fatal(Code::BinlogUnknown, format!("{file} begins with {info:?}: {error}"))
        });
    }
    // A file from before GTIDs were turned on begins with none.
    Ok(match flavor {
        Flavor::Mysql => GtidSet::mysql(),
        Flavor::Mariadb => GtidSet::mariadb(),
    })
}

/// MariaDB's list, `[0-1-40,0-2-41]`: for each domain all servers that wrote there, the last one
/// at the end.
fn parse_list(text: &str) -> Result<GtidSet, unitflow_change::gtid::Malformed> {
    let mut last = std::collections::BTreeMap::new();
    for entry in text.trim_matches(['[', ']']).split(',').map(str::trim) {
        if let GtidSet::Mariadb(set) = GtidSet::parse_mariadb(entry)? {
            last.extend(set);
        }
    }
    Ok(GtidSet::Mariadb(last))
}

/// When a file was begun, in seconds since 1970 by the server's clock.
async fn begun(store: &Store, file: &str) -> Result<u64, Fault> {
    let mut conn = connect(store).await?;
    conn.query_drop("SET @master_binlog_checksum='CRC32', @source_binlog_checksum='CRC32'")
        .await
        .map_err(|error| connect::fault(&error))?;
    // An id that no other reader has, so that none is displaced.
    let id = 0x6100_0000 | (std::process::id() & 0x00ff_ffff);
    let request =
        BinlogStreamRequest::new(id).with_filename(file.as_bytes()).with_pos(4).with_non_blocking();
    let mut stream =
        conn.get_binlog_stream(request).await.map_err(|error| connect::fault(&error).at(file))?;
    let reading = async {
        while let Some(event) = stream.next().await {
            let event = event.map_err(|error| connect::fault(&error).at(file))?;
            let header = event.header();
            if header.event_type_raw() == FORMAT_DESCRIPTION {
                return Ok(u64::from(header.timestamp()));
            }
        }
        Err(Fault::fatal(Code::BinlogCorrupt, format!("{file} does not say when it was begun")))
    };
    let begun = tokio::time::timeout(BEGINNING_WITHIN, reading).await;
    let _ = stream.close().await;
    begun.unwrap_or_else(|_| {
        Err(Fault::retry(Code::Timeout, format!("{file}: its beginning does not come")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_the_last_server_of_a_domain_last() {
        assert_eq!(parse_list("[0-1-40,0-2-41,1-1-3]").unwrap(), "0-2-41,1-1-3".parse().unwrap());
        assert!(parse_list("[]").unwrap().is_empty());
        assert!(parse_list("[0-1]").is_err());
    }
}
