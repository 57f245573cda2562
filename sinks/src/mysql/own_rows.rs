//! What a unit's own log says of its rows, where its store is MySQL or MariaDB. The marker is a row of
//! `unitflow.marker`.

use std::time::{SystemTime, UNIX_EPOCH};

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use unitflow_change::copy::MARKER_TABLE;
use unitflow_change::ddl::Statement;
use unitflow_change::envelope::{Envelope, Row};
use unitflow_change::key::Key;
use unitflow_change::name::Log;
use unitflow_change::rename::Rename;
use unitflow_change::routing::{INTERNAL_DATABASE, LEDGER_TABLE};
use unitflow_change::seq::Seq;
use unitflow_change::tag::{Kind, Tag};
use unitflow_change::{Code, Fault, form};
use unitflow_kafka::reader::Record;
use unitflow_mysql::connect::{Store, connect, connect_to_write, fault as judge};

use crate::copy::identity::Identity;
use crate::copy::index::Lane;
use crate::copy::own_log::{Mark, Source, Transaction};
use crate::ledger;

/// How the keys of our own tables' rows begin.
const INTERNAL: &[u8] = br#"["unitflow","#;

/// See the [module](self).
pub struct OwnRows {
    /// The store that the log is captured from.
    pub store: Store,
    /// What that store calls the mesh's tables.
    pub rename: Rename,
}

impl Source for OwnRows {
    type Markers = Conn;

    async fn open(&self) -> Result<Conn, Fault> {
        connect_to_write(&self.store).await
    }

    async fn put_marker(&self, conn: &mut Conn, name: &str) -> Result<u64, Fault> {
        // A store that went back in time does not give a number again that its log holds already.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let least = u64::try_from(now.as_micros()).unwrap_or(0);
        let put = "INSERT INTO unitflow.marker (name, n) VALUES (?, LAST_INSERT_ID(?)) \
                   ON DUPLICATE KEY UPDATE n = LAST_INSERT_ID(GREATEST(n + 1, ?))";
        let put = conn.exec_drop(put, (name, least, least)).await;
        put.map_err(|error| judge(&error).at("unitflow.marker"))?;
        let put: Option<u64> = conn
            .query_first("SELECT LAST_INSERT_ID()")
            .await
            .map_err(|error| judge(&error).at("unitflow.marker"))?;
        put.ok_or_else(|| Fault::fatal(Code::Bug, "a marker has no number"))
    }

    async fn lanes(&self) -> Result<Vec<(Log, i32, Seq)>, Fault> {
        let mut conn = connect(&self.store).await?;
        let lanes = ledger::read_logs(&mut conn).await;
        let _ = conn.disconnect().await;
        lanes
    }

    fn take(
        &self,
        record: &Record<'_>,
        tag: &Tag<'_>,
        name: &str,
        transaction: &mut Transaction,
    ) -> Result<(), Fault> {
        let value = record.value().unwrap_or_default();
        match tag.kind {
            Kind::Row | Kind::Move => {}
            Kind::Ddl => return self.take_ddl(value, tag, transaction),
            _ => return Ok(()),
        }
        let plain = form::plain_key(record.key().unwrap_or_default())?;
        if transaction.of_copied && !plain.starts_with(INTERNAL) {
            return Ok(());
        }
        let key = Key::parse(&plain)?;
        if &*key.database == INTERNAL_DATABASE {
            return take_internal(&key.table, value, name, transaction);
        }
        transaction.seq = tag.seq;
        let Some((database, table)) = self.rename.canonical(&key.database, &key.table) else {
            return Ok(());
        };
        let named = Key { database: database.into(), table: table.into(), columns: key.columns };
        let columns = &plain[Key::table_part(&plain)?.len()..];
        let head = Key::head(&named.database, &named.table);
        transaction.rows.push(Identity::of(&[&head, columns].concat())?);
        if tag.kind == Kind::Move
            && let Some(after) = &Envelope::parse(value)?.after
        {
            let mut moved = Vec::new();
            named.of_row(after, &mut moved)?;
            transaction.rows.push(Identity::of(&moved)?);
        }
        Ok(())
    }
}

impl OwnRows {
    /// A statement may have written any row of its tables.
    fn take_ddl(
        &self,
        value: &[u8],
        tag: &Tag<'_>,
        transaction: &mut Transaction,
    ) -> Result<(), Fault> {
        for table in Statement::parse(value)?.tables() {
            if let Some((database, table)) = self.rename.canonical(&table.database, &table.table) {
                let head = [&Key::head(&database, &table)[..], b"null]"].concat();
                let table = Identity::of(&head)?;
                transaction.rows.push(Identity { row: None, ..table });
            }
        }
        transaction.seq = tag.seq;
        Ok(())
    }
}

fn take_internal(
    table: &str,
    value: &[u8],
    name: &str,
    transaction: &mut Transaction,
) -> Result<(), Fault> {
    if table != LEDGER_TABLE && table != MARKER_TABLE {
        return Ok(());
    }
    let envelope = Envelope::parse(value)?;
    let Some(after) = &envelope.after else { return Ok(()) };
    if table == MARKER_TABLE {
        if after.get("name").and_then(text).as_deref() == Some(name)
            && let Some(number) = after.get("n").and_then(|n| n.parse().ok())
        {
            transaction.marker = Some(number);
        }
        return Ok(());
    }
    let lane = after.get("lane").and_then(|lane| lane.parse().ok());
    let log = after.get("log").and_then(text).and_then(|log| Log::parse(&log));
    let seq = |row: &Row<'_>| row.get("seq")?.parse().ok().map(Seq);
    if let (Some(log), Some(lane), Some(to)) = (log, lane, seq(after)) {
        // A long transaction marks once more at its end.
        let lane = Lane { log, lane };
        let known = transaction.mark.take().filter(|mark| mark.lane == lane);
        let from = known.map_or_else(|| envelope.before.as_ref().and_then(seq), |mark| mark.from);
        transaction.mark = Some(Mark { lane, from, to });
    }
    Ok(())
}

/// A JSON string's text.
fn text(json: &str) -> Option<String> {
    let text = json.strip_prefix('"')?.strip_suffix('"')?;
    (!text.contains('\\')).then(|| text.to_owned())
}
