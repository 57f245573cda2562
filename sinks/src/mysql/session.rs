//! The session that a statement of another unit runs in: as its own was, as far as its outcome
//! depends on it and this server knows the same.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use unitflow_change::ddl::{Class, Statement, Verb};
use unitflow_change::{Code, Fault};
use unitflow_mysql::connect::{Flavor, Server, fault as judge};
use unitflow_mysql::literal::quote_string;

/// The modes that both servers know, by their bits.
const MODES: [(u32, &str); 15] = [
    (0, "REAL_AS_FLOAT"),
    (1, "PIPES_AS_CONCAT"),
    (2, "ANSI_QUOTES"),
    (3, "IGNORE_SPACE"),
    (6, "NO_UNSIGNED_SUBTRACTION"),
    (19, "NO_AUTO_VALUE_ON_ZERO"),
    (20, "NO_BACKSLASH_ESCAPES"),
    (21, "STRICT_TRANS_TABLES"),
    (22, "STRICT_ALL_TABLES"),
    (23, "NO_ZERO_IN_DATE"),
    (24, "NO_ZERO_DATE"),
    (25, "ALLOW_INVALID_DATES"),
    (26, "ERROR_FOR_DIVISION_BY_ZERO"),
    (29, "HIGH_NOT_PRECEDENCE"),
    (30, "NO_ENGINE_SUBSTITUTION"),
];

/// Sets the session up for a statement.
///
/// Where this server lacks a collation, its own of the same character set takes the place. A time
/// zone that it can't be in, or a setting that the user may not change, is a fault.
pub(super) async fn enter(conn: &mut Conn, statement: &Statement) -> Result<(), Fault> {
    let server = Server::read(conn).await?;
    let session = &statement.session;
    let modes: Vec<&str> = MODES
        .iter()
        .filter(|(bit, _)| statement.sql_mode >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    set(conn, &format!("sql_mode='{}'", modes.join(","))).await?;
    if session.at_us > 0 {
        let (seconds, micros) = (session.at_us / 1_000_000, session.at_us % 1_000_000);
        set(conn, &format!("timestamp={seconds}.{micros:06}")).await?;
    }
    if let Some(zone) = &session.time_zone {
        let zone = zone_here(zone, session.system_zone.as_deref(), &server.zone)?;
        let mut quoted = Vec::new();
        quote_string(&mut quoted, zone);
        set(conn, &format!("time_zone={}", String::from_utf8_lossy(&quoted))).await?;
    }
    if let Some(explicit) = session.explicit_timestamps {
        set(conn, &format!("explicit_defaults_for_timestamp={}", u8::from(explicit))).await?;
    }
    if let Some((increment, offset)) = session.auto_increment.filter(|_| statement.counts_rows()) {
        set(conn, &format!("auto_increment_increment={increment}")).await?;
        set(conn, &format!("auto_increment_offset={offset}")).await?;
    }
    if let Some(number) = session.collation_utf8mb4.filter(|_| server.flavor == Flavor::Mysql) {
        set(conn, &format!("default_collation_for_utf8mb4={number}")).await?;
    }
    if let Some(number) = session.collation {
        set_collation(conn, "collation_connection", number).await?;
    }
    let creates = matches!(statement.class(), Class::Database(Verb::Create, _));
    match session.collation_server.filter(|_| creates) {
        Some(number) => set_collation(conn, "collation_server", number).await,
        None => Ok(()),
    }
}

async fn set(conn: &mut Conn, assignment: &str) -> Result<(), Fault> {
    conn.query_drop(format!("SET SESSION {assignment}")).await.map_err(|error| judge(&error))
}

async fn set_collation(conn: &mut Conn, variable: &str, number: u16) -> Result<(), Fault> {
    match conn.query_drop(format!("SET SESSION {variable}={number}")).await {
        Err(error) if is_unknown_collation(&error) => {
            set(conn, &format!("{variable}={}", usual(number))).await
        }
        outcome => outcome.map_err(|error| judge(&error)),
    }
}

fn is_unknown_collation(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Server(server) if server.code == 1273)
}

/// The collation that both servers have for the character set of one that only one of them has:
/// MySQL's of UCA 9.0.0, MariaDB's of UCA 14.0.0, and MariaDB's without padding.
fn usual(number: u16) -> u16 {
    match number {
        1025..2048 => number - 1024,
        576..=578 | 2048..=2303 => 33,
        640..=642 | 2560..=2815 => 35,
        672..=674 | 2816..=3071 => 54,
        736..=738 | 3072..=3327 => 60,
        _ => 45,
    }
}

/// The name by which this server, in this zone itself, knows the zone that a session was in.
fn zone_here<'a>(zone: &'a str, theirs: Option<&str>, ours: &str) -> Result<&'a str, Fault> {
    match theirs.filter(|_| zone == "SYSTEM") {
        None => Ok(zone),
        Some(theirs) if theirs == ours => Ok(zone),
        Some("UTC" | "GMT" | "Etc/UTC") => Ok("+00:00"),
        Some(theirs) => {
            let what = format!(
                "it depends on the source's own time zone, {theirs}, in which this server, in {ours}, is not"
            );
            Err(Fault::fatal(Code::Ddl, what)
                .hint("SET GLOBAL time_zone to a zone by its name at the source, for the next one"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_the_same_place_or_a_fault() {
        assert_eq!(zone_here("Europe/Berlin", None, "UTC").unwrap(), "Europe/Berlin");
        assert_eq!(zone_here("SYSTEM", Some("CET"), "CET").unwrap(), "SYSTEM");
        assert_eq!(zone_here("SYSTEM", Some("UTC"), "CET").unwrap(), "+00:00");
        assert_eq!(zone_here("SYSTEM", Some("CET"), "UTC").unwrap_err().code, Code::Ddl);
    }

    #[test]
    fn collations_of_one_server_have_a_neighbour_in_both() {
        for (number, neighbour) in [(255, 45), (1069, 45), (2048, 33), (2310, 45), (1032, 8)] {
            assert_eq!(usual(number), neighbour, "{number}");
        }
    }
}
