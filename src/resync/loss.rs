//! What a source lost of what was captured from it: it went back in time, or its server was replaced
//! by one that lacks the end.
//!
//! The captured log says what there was. The store's own log is read beside it, from before the loss
//! up to the first transaction that is not the one captured. Names alone prove nothing: a server
//! that went back gives the names of what it lost to what it writes next.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::info;
use unitflow_change::ddl::Statement;
use unitflow_change::envelope::Envelope;
use unitflow_change::gtid::{Gtid, GtidSet};
use unitflow_change::key::Key;
use unitflow_change::name::Log;
use unitflow_change::position::Position;
use unitflow_change::rename::Rename;
use unitflow_change::routing::{INTERNAL_DATABASE, LEDGER_TABLE};
use unitflow_change::tag::{HEADER, Kind, Tag};
use unitflow_change::{Code, Fault, form};
use unitflow_kafka::broker::Broker;
use unitflow_kafka::reader::{Item, Reader};
use unitflow_kafka::topics;
use unitflow_mysql::connect::{Server, connect};
use unitflow_mysql::stream::{Event, Stream};
use xxhash_rust::xxh3::Xxh3;

use crate::config::Mesh;
use crate::pipeline::{BinlogReader, ConnectorState};

/// How far before now the captured log is read first.
const LOOK_BACK: Duration = Duration::from_secs(600);
/// And so many times as far, each time it does not reach back to before the loss.
const FURTHER_BACK: u32 = 8;
/// Bytes fetched ahead.
const QUEUE_BYTES: usize = 4 << 20;
/// After so many signs of life without a change, all that the server has was read.
const SIGNS_OF_LIFE: u32 = 2;

/// What a log's source lost.
#[derive(Debug)]
pub struct Loss {
    /// Where the log goes on: behind the last transaction that the source has as it was captured.
    pub position: Position,
    /// How many transactions it lost that were its unit's own.
    pub transactions: usize,
    /// The rows that these changed, by their keys in the mesh's names.
    pub keys: BTreeSet<String>,
    /// The tables whose schema they changed.
    pub altered: BTreeSet<String>,
}

/// Finds out what a log's source lost; none if it has all that was captured from it.
///
/// # Errors
/// [`Code::OffsetGone`] where the captured topic does not reach back to before the loss, and
/// [`Code::SourceLostTail`] where the log ends inside a transaction.
pub async fn find(mesh: &Mesh, log: &Log, state: &ConnectorState) -> Result<Option<Loss>, Fault> {
    let store = mesh.store(&log.unit, &log.store)?;
    match Stream::open(store, state.position.clone(), state.options(log, BinlogReader::Loss)).await
    {
        Ok(stream) => {
            stream.close().await;
            return Ok(None);
        }
        Err(fault) if fault.code == Code::SourceLostTail => info!("{}", fault.what),
        Err(fault) => return Err(fault),
    }
    if let Some(open) = &state.position.open {
        return Err(Fault::fatal(
            Code::SourceLostTail,
            format!("log {log} ends inside the transaction {}, which its source lost", open.gtid),
        )
        .hint("the rest of it will never come: begin the log anew, see the runbook"));
    }
    let (broker, topic) = (&mesh.unit(&log.unit)?.broker, mesh.topics.captured(log));
    let (low, high) = topics::bounds(broker, &topic, 0).await?;
    let mut back = LOOK_BACK;
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = i64::try_from(now.saturating_sub(back).as_millis()).unwrap_or(0);
        let start = topics::offset_at(broker, &topic, 0, ms).await?.max(low);
        let window = Window { broker, topic: &topic, range: (start, high) };
        if let Some(loss) = window.compare(mesh, log, state).await? {
            return Ok(Some(loss));
        }
        if start <= low {
            return Err(Fault::fatal(
                Code::OffsetGone,
                format!("{topic} does not reach back to before what the source of {log} lost"),
            )
            .hint("what was lost can't be told from what was never there: begin the log anew, see the runbook"));
        }
        back = back.saturating_mul(FURTHER_BACK);
    }
}

/// A part of the captured log, up to its end.
struct Window<'a> {
    broker: &'a Broker,
    topic: &'a str,
    range: (i64, i64),
}

/// A transaction as it was captured.
struct Transaction {
    gtid: Gtid,
    print: u128,
    /// Not a sink's.
    own: bool,
    /// Plain, in the store's names.
    keys: Vec<Vec<u8>>,
    statements: Vec<Statement>,
}

impl Window<'_> {
    /// Reads the store's log beside it; none if it does not begin before the loss.
    async fn compare(
        &self,
        mesh: &Mesh,
        log: &Log,
        state: &ConnectorState,
    ) -> Result<Option<Loss>, Fault> {
        let store = mesh.store(&log.unit, &log.store)?;
        let mut conn = connect(store).await?;
        let server = Server::read(&mut conn).await?;
        let mut prints = HashSet::new();
        let mut held = HashSet::new();
        let mut start = Start::new(&state.position.done, &server.executed);
        self.read(|transaction| {
            if start.is_base(&transaction.gtid) {
                held.insert(transaction.print);
            }
            prints.insert(transaction.print);
            Ok(())
        })
        .await?;
        let mut position = Position::after(start.done);
        position.prepared.clone_from(&state.position.prepared);
        position.prepared.retain(|one| position.done.contains(&one.transaction.gtid));
        let stream =
            Stream::open(store, position.clone(), state.options(log, BinlogReader::Loss)).await;
        let stream = match stream {
            Ok(stream) => stream,
            Err(fault) if is_behind(&fault) => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let walked = walk(stream, &server.executed, &prints, &mut held).await;
        match walked {
            Ok(Some(reached)) => position = reached,
            // Nothing is the same: the loss may begin before the window.
            Ok(None) if self.range.0 > 0 => return Ok(None),
            Ok(None) => {}
            Err(fault) if is_behind(&fault) => return Ok(None),
            Err(fault) => return Err(fault),
        }
        self.lost(mesh, log, position, &held).await.map(Some)
    }

    /// What stands in the window and is not among those that the source has.
    async fn lost(
        &self,
        mesh: &Mesh,
        log: &Log,
        position: Position,
        held: &HashSet<u128>,
    ) -> Result<Loss, Fault> {
        let rename = mesh.rename(&log.unit, &log.store)?;
        let routing = mesh.routing(log)?;
        let mut loss =
            Loss { position, transactions: 0, keys: BTreeSet::new(), altered: BTreeSet::new() };
        self.read(|transaction| {
            if held.contains(&transaction.print) || !transaction.own {
                return Ok(());
            }
            loss.transactions += 1;
            for key in &transaction.keys {
                if let Some((key, database, table)) = in_the_mesh(rename, key)?
                    && routing.carries(&database, &table)
                {
                    loss.keys.insert(key);
                }
            }
            let tables = transaction.statements.iter().flat_map(Statement::tables);
            let tables = tables.filter_map(|table| rename.canonical(&table.database, &table.table));
            let carried = tables.filter(|(database, table)| routing.carries(database, table));
            loss.altered.extend(carried.map(|(database, table)| format!("{database}.{table}")));
            Ok(())
        })
        .await?;
        Ok(loss)
    }

    /// Calls `with` for each whole transaction.
    async fn read(
        &self,
        mut with: impl FnMut(Transaction) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (start, high) = self.range;
        if start >= high {
            return Ok(());
        }
        let reader = Reader::open(self.broker, self.topic, &[(0, start)], QUEUE_BYTES).await?;
        let mut gathered: Option<Gathered> = None;
        loop {
            let record = match reader.next().await? {
                Item::End { offset, .. } if offset >= high => break,
                Item::End { .. } => continue,
                Item::Record(record) => record,
            };
            let tag = Tag::parse(record.header(HEADER).unwrap_or_default())?;
            if matches!(tag.kind, Kind::Row | Kind::Move | Kind::Ddl) {
                if tag.index == 0 {
                    gathered = Some(Gathered::default());
                }
                // Half a transaction says nothing.
                let Some(transaction) = &mut gathered else { continue };
                let (key, value) =
                    (record.key().unwrap_or_default(), record.value().unwrap_or_default());
                transaction.take(tag.kind, key, value)?;
                if tag.last
                    && let Some(transaction) = gathered.take()
                {
                    with(transaction.end(tag.transaction, tag.commit_us)?)?;
                }
            }
            if record.next_offset() >= high {
                break;
            }
        }
        reader.close().await;
        Ok(())
    }
}

/// Whether the store does not have what the window begins with.
fn is_behind(fault: &Fault) -> bool {
    matches!(fault.code, Code::SourceLostTail | Code::PositionPurged)
}

/// Where the store's log is read from, so that the window's transactions come.
struct Start {
    done: GtidSet,
    /// MariaDB: the domains whose first transaction of the window was met, which is taken as given.
    based: HashSet<u32>,
}

impl Start {
    /// Of what was captured the server may lack some that left no record.
    fn new(captured: &GtidSet, executed: &GtidSet) -> Self {
        let done = match captured {
            GtidSet::Mysql(_) => captured.subtract(&captured.subtract(executed)),
            GtidSet::Mariadb(_) => captured.clone(),
        };
        Self { done, based: HashSet::new() }
    }

    fn is_base(&mut self, gtid: &Gtid) -> bool {
        match (&mut self.done, gtid) {
            (GtidSet::Mariadb(reached), Gtid::Mariadb { domain, server, sequence }) => {
                let first = self.based.insert(*domain);
                if first {
                    reached.insert(*domain, (*server, *sequence));
                }
                first
            }
            (done, gtid) => {
                let mut one = GtidSet::mysql();
                one.insert(gtid);
                *done = done.subtract(&one);
                false
            }
        }
    }
}

/// Reads a store's log as long as each transaction is one of `prints`, and puts these into `held`; the
/// position behind the last one, none if there was none.
async fn walk(
    mut stream: Stream,
    executed: &GtidSet,
    prints: &HashSet<u128>,
    held: &mut HashSet<u128>,
) -> Result<Option<Position>, Fault> {
    let mut gathered = Gathered::default();
    let mut reached = None;
    let mut signs = 0;
    while !executed.is_subset(&stream.position().done) && signs < SIGNS_OF_LIFE {
        match stream.next().await? {
            Event::Row(row) => {
                let kind = if row.moves { Kind::Move } else { Kind::Row };
                gathered.print(kind, row.key, row.value)?;
            }
            Event::Ddl(statement) => {
                let value = serde_json::to_vec(statement).map_err(|error| {
                    Fault::fatal(Code::Bug, format!("a statement can't be written: {error}"))
                })?;
                gathered.print(Kind::Ddl, b"", &value)?;
            }
            Event::End => {
                let Gathered { print, count, .. } = std::mem::take(&mut gathered);
                let transaction = stream.transaction();
                let print = named(print, &transaction.gtid_text, transaction.commit_us);
                if count > 0 {
                    if !prints.contains(&print) {
                        break;
                    }
                    held.insert(print);
                    reached = Some(stream.position().clone());
                }
            }
            Event::Heartbeat => {
                signs += 1;
                continue;
            }
        }
        signs = 0;
    }
    stream.close().await;
    Ok(reached)
}

/// A transaction under way.
#[derive(Default)]
struct Gathered {
    print: Xxh3,
    count: u64,
    own: Option<bool>,
    keys: Vec<Vec<u8>>,
    statements: Vec<Statement>,
}

impl Gathered {
    /// Adds what makes a change what it is; the place where a server keeps it does not.
    fn print(&mut self, kind: Kind, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.count += 1;
        if kind == Kind::Ddl {
            self.print.update(form::payload(value)?);
            return Ok(());
        }
        let envelope = Envelope::parse(value)?;
        self.print.update(key);
        for (name, value) in
            [&envelope.before, &envelope.after].into_iter().flatten().flat_map(|row| row.iter())
        {
            self.print.update(name.as_bytes());
            self.print.update(value.as_bytes());
        }
        Ok(())
    }

    /// The same of a captured record, with what it says of rows.
    fn take(&mut self, kind: Kind, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.print(kind, key, value)?;
        if kind == Kind::Ddl {
            self.own.get_or_insert(true);
            self.statements.push(Statement::parse(value)?);
            return Ok(());
        }
        let plain = form::plain_key(key)?;
        let parsed = Key::parse(&plain)?;
        let internal = &*parsed.database == INTERNAL_DATABASE;
        self.own.get_or_insert(!(internal && &*parsed.table == LEDGER_TABLE));
        if internal || parsed.columns.is_none() {
            return Ok(());
        }
        if kind == Kind::Move
            && let Some(after) = &Envelope::parse(value)?.after
        {
            let mut moved = Vec::new();
            parsed.of_row(after, &mut moved)?;
            self.keys.push(moved);
        }
        self.keys.push(plain.into_owned());
        Ok(())
    }

    fn end(self, gtid: &str, commit_us: u64) -> Result<Transaction, Fault> {
        let print = named(self.print, gtid, commit_us);
        let gtid = gtid.parse().map_err(|error| {
            Fault::fatal(
                Code::Record,
                format!("a captured transaction's name can't be read: {error}"),
            )
        })?;
        let own = self.own.unwrap_or(true);
        Ok(Transaction { gtid, print, own, keys: self.keys, statements: self.statements })
    }
}

/// A transaction's content under its name and time.
fn named(mut print: Xxh3, gtid: &str, commit_us: u64) -> u128 {
    print.update(gtid.as_bytes());
    print.update(&commit_us.to_le_bytes());
    print.digest128()
}

/// A plain key of the store in the mesh's names, with its table; none of a table that has no name there.
fn in_the_mesh(rename: &Rename, plain: &[u8]) -> Result<Option<(String, String, String)>, Fault> {
    let key = Key::parse(plain)?;
    let Some((database, table)) = rename.canonical(&key.database, &key.table) else {
        return Ok(None);
    };
    let columns = &plain[Key::table_part(plain)?.len()..];
    let key = [&Key::head(&database, &table), columns].concat();
    Ok(Some((String::from_utf8_lossy(&key).into_owned(), database, table)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn mysql(ranges: &str) -> GtidSet {
        GtidSet::parse_mysql(&format!("{UUID}:{ranges}")).unwrap()
    }

    #[test]
    fn the_store_is_read_from_before_the_window() {
        // Of what was captured, 5 left no record and 9 and 10 are lost.
        let mut start = Start::new(&mysql("1-10"), &mysql("1-8"));
        for number in [6, 7, 8, 9, 10] {
            assert!(!start.is_base(&format!("{UUID}:{number}").parse().unwrap()));
        }
        assert_eq!(start.done, mysql("1-5"));
        let set = |text| GtidSet::parse_mariadb(text).unwrap();
        let mut start = Start::new(&set("0-1-10,2-1-7"), &set("0-1-8,2-1-7"));
        let based = ["0-1-6", "0-1-7", "0-1-9"].map(|gtid| start.is_base(&gtid.parse().unwrap()));
        assert_eq!(based, [true, false, false]);
        assert_eq!(start.done, set("0-1-6,2-1-7"));
    }

    #[test]
    fn a_transaction_is_known_by_content_name_and_time() {
        let print = |n: u32, place: u32, gtid: &str, commit_us| {
            let value = format!(
                r#"{{"before":null,"after":{{"id":1,"n":{n}}},"source":{{"pos":{place}}},"transaction":null,"op":"c","ts_ms":{place}}}"#
            );
            let mut gathered = Gathered::default();
            gathered.print(Kind::Row, br#"["shop","a",{"id":1}]"#, value.as_bytes()).unwrap();
            named(gathered.print, gtid, commit_us)
        };
        let known = print(1, 4, "0-1-5", 7);
        assert_eq!(known, print(1, 9, "0-1-5", 7));
        for other in [print(2, 4, "0-1-5", 7), print(1, 4, "0-1-6", 7), print(1, 4, "0-1-5", 8)] {
            assert_ne!(known, other);
        }
    }
}
