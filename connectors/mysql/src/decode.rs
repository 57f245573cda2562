//! From events to transactions.
//!
//! The decoder is a state machine without I/O: [`Decoder::feed`] takes one event and says what
//! came of it, [`Decoder::next_row`] then writes one row at a time as a record.
//! What it does not know, or what does not fit where it stands, is a fault; nothing is skipped
//! that could change data.

use std::collections::HashMap;
use std::fmt::Write as _;

use unitflow_change::ddl::Statement;
use unitflow_change::envelope::Op;
use unitflow_change::fault::{Code, Fault};
use unitflow_change::form::Form;
use unitflow_change::gtid::Gtid;
use unitflow_change::position::Digest;

use crate::bytes::{Broken, Bytes, Parsed};
use crate::connect::{Flavor, Server};
use crate::declare::declare;
use crate::event::{self, Begin, Header, Raw, kind};
use crate::record::{Place, Record};
use crate::stream::Transaction;
use crate::table::{Disguises, Parsing, Table};

/// How many table maps are kept; more come and go with partitions and rebuilt tables.
const TABLES_MAX: usize = 4096;

/// A buffer above this is given back after a large event.
const BUFFER_BYTES_KEPT: usize = 8 << 20;

/// The number of a rows event without table, which only ends a statement.
const NO_TABLE: u64 = 0xff_ffff;

/// The name of an XA transaction until its events tell it (MariaDB).
const UNNAMED: &str = "?";

/// The digest's mark of a statement; rows take their operation's letter.
const STATEMENT: u8 = b'q';

/// What came of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing that travels.
    Nothing,
    /// Rows, to be taken by `next_row` until there are no more.
    Rows,
    /// A statement outside row format: `ddl`.
    Ddl,
    /// The transaction is complete.
    End,
    /// The rows so far are those of an XA transaction, which is prepared with this.
    Prepared,
    /// The same, committed at once.
    OnePhase,
    /// An XA transaction that was prepared before is committed with this (`true`) or rolled back.
    Completed(bool),
    /// The server is alive.
    Heartbeat,
    /// The true types of a table's columns have to be asked for: `veiled`.
    Veiled,
}

/// Where the decoder stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between transactions.
    Idle,
    /// A transaction was named; whether it is a statement or rows shows next.
    Named,
    /// Inside.
    Open,
    /// A statement was all there is; the end is due.
    Ending,
}

/// Rows that wait to be taken.
#[derive(Clone, Copy, Debug)]
struct Rows {
    table: u64,
    op: Op,
    at: usize,
    /// They stand in `unpacked`, not in the event.
    unpacked: bool,
    /// Documents of an after-image may be changes to those of the before-image.
    partial: bool,
}

/// A table map that waits for its columns' true types.
#[derive(Debug)]
struct Veiled {
    body: Vec<u8>,
    database: String,
    table: String,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Decoder {
    flavor: Flavor,
    /// Records carry their schemas, whose names begin with this.
    declares: Option<String>,
    state: State,
    transaction: Transaction,
    /// Rows and statements of the transaction so far, and a digest over them.
    count: u64,
    digest: Digest,
    tables: HashMap<u64, Table>,
    /// True types of MariaDB's columns, by the table map's content.
    disguises: HashMap<u64, Disguises>,
    veiled: Option<Veiled>,
    file: String,
    at: u64,
    beat: (u64, u32),
    /// Bytes of events that are still to come out of a compressed transaction.
    packed: u64,
    rows: Option<Rows>,
    ddl: Statement,
    /// The server's own time zone.
    system_zone: String,
    folds_names: bool,
    /// Of the current event's header.
    timestamp: u32,
    /// The name of the XA transaction that the current one is a part of; empty where it is none.
    xid: String,
    /// The name under which rows are written, where it is not that of their transaction.
    renamed: Option<Transaction>,
    /// The body of an event that came compressed.
    unpacked: Vec<u8>,
    record: Record,
}

impl Decoder {
    pub fn new(flavor: Flavor, connector_name: &str, form: Form) -> Self {
        Self {
            flavor,
            declares: (form == Form::WithSchema).then(|| connector_name.to_owned()),
            state: State::Idle,
            transaction: Transaction {
                gtid: Gtid::Mariadb { domain: 0, server: 0, sequence: 0 },
                gtid_text: String::new(),
                commit_us: 0,
                timestamp: 0,
                server_id: 0,
            },
            count: 0,
            digest: Digest::default(),
            tables: HashMap::new(),
            disguises: HashMap::new(),
            veiled: None,
            file: String::new(),
            at: 0,
            beat: (0, 0),
            packed: 0,
            rows: None,
            ddl: Statement::new("", "", 0),
            system_zone: String::new(),
            folds_names: false,
            timestamp: 0,
            xid: String::new(),
            renamed: None,
            unpacked: Vec::new(),
            record: Record::new(flavor, connector_name),
        }
    }

    /// What a statement depends on that the server does not log.
    pub fn of_server(self, server: &Server) -> Self {
        Self { system_zone: server.zone.clone(), folds_names: server.folds_names, ..self }
    }

    /// The transaction of what was returned last.
    pub fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    /// From here on rows are written as of this transaction.
    pub fn rename(&mut self, transaction: Transaction) {
        self.renamed = Some(transaction);
    }

    /// The name of the XA transaction that the current one is a part of.
    pub fn xid(&self) -> &str {
        &self.xid
    }

    /// Whether the rows are those of an XA transaction: they count once it is committed.
    pub fn is_xa(&self) -> bool {
        !self.xid.is_empty()
    }

    /// Rows and statements of the transaction that were returned so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Over these.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The statement that `Step::Ddl` announced.
    pub fn ddl(&self) -> &Statement {
        &self.ddl
    }

    /// The row that `next_row` wrote.
    pub fn row(&self) -> Option<crate::stream::Row<'_>> {
        let rows = self.rows?;
        let table = self.tables.get(&rows.table)?;
        let (key, value, moves) = self.record.parts();
        Some(crate::stream::Row {
            database: &table.database,
            table: &table.name,
            op: rows.op,
            key,
            value,
            moves,
        })
    }

    /// Where the server stood at the last heartbeat; opaque.
    pub fn beat(&self) -> (u64, u32) {
        self.beat
    }

    /// Whether a statement that was returned ends its transaction.
    pub fn is_ending(&self) -> bool {
        self.state == State::Ending
    }

    /// The end was returned.
    pub fn ended(&mut self) {
        self.state = State::Idle;
    }

    /// Where the current event stands, for messages.
    pub fn place(&self) -> String {
        let mut place = format!("{}:{}", self.file, self.at);
        if self.state != State::Idle {
            let _ = write!(place, " in {}", self.transaction.gtid_text);
        }
        place
    }

    /// The table whose columns' types are to be asked for: database and name.
    pub fn veiled(&self) -> Option<(&str, &str)> {
        self.veiled.as_ref().map(|veiled| (veiled.database.as_str(), veiled.table.as_str()))
    }

    /// Says what the columns of the veiled table are.
    pub fn unveil(&mut self, types: Disguises) -> Result<(), Fault> {
        let Some(veiled) = self.veiled.take() else { return Ok(()) };
        let read = Table::identify(&veiled.body).and_then(|(id, content)| {
            self.disguises.insert(content, types);
            self.describe(id, content, &veiled.body)
        });
        read.map(|_| ()).map_err(|broken| self.locate(broken, kind::TABLE_MAP))
    }

    /// Takes one event.
    pub fn feed(&mut self, raw: &Raw<'_>) -> Result<Step, Fault> {
        let header = raw.header;
        if self.packed == 0 && header.next != 0 {
            self.at = u64::from(header.next).saturating_sub(header.size.into());
        }
        raw.verify()
            .and_then(|()| self.step(raw))
            .map_err(|broken| self.locate(broken, header.kind))
    }

    #[cold]
    fn locate(&self, broken: Broken, kind: u8) -> Fault {
        broken.into_fault().at(format_args!(
            "{}, event {} ({kind})",
            self.place(),
            event::name(kind)
        ))
    }

    fn step(&mut self, raw: &Raw<'_>) -> Parsed<Step> {
        let Raw { header, body, .. } = raw;
        self.timestamp = header.timestamp;
        if self.packed > 0 {
            self.unpack(header)?;
        }
        match header.kind {
            kind::FORMAT_DESCRIPTION => {
                self.expect_idle("a log file starts")?;
                if Bytes::new(body).u16()? != 4 {
                    return Err(Broken::unknown("a log of another version than 4", 0));
                }
                raw.checksums()?;
                self.tables.clear();
                Ok(Step::Nothing)
            }
            kind::ROTATE => {
                self.expect_idle("a log file ends")?;
                let (file, at) = event::parse_rotate(header, body)?;
                (self.file, self.at) = (file, at);
                Ok(Step::Nothing)
            }
            kind::STOP
            | kind::IGNORABLE
            | kind::ROWS_QUERY
            | kind::PREVIOUS_GTIDS
            | kind::TRANSACTION_CONTEXT
            | kind::VIEW_CHANGE
            | kind::MARIADB_ANNOTATE_ROWS
            | kind::MARIADB_BINLOG_CHECKPOINT
            | kind::MARIADB_GTID_LIST
            | kind::MARIADB_START_ENCRYPTION => Ok(Step::Nothing),
            kind::HEARTBEAT | kind::HEARTBEAT_2 => {
                if self.packed > 0 {
                    return Err(Broken::corrupt(
                        "a compressed transaction could not be unpacked",
                        0,
                    ));
                }
                self.beat = (xxhash_rust::xxh3::xxh3_64(body), header.next);
                Ok(Step::Heartbeat)
            }
            kind::GTID => self.begin(header, event::parse_gtid(header, body)?),
            kind::GTID_TAGGED => self.begin(header, event::parse_gtid_tagged(body)?),
            kind::MARIADB_GTID => self.begin(header, event::parse_gtid_mariadb(header, body)?),
            kind::QUERY => self.query(body),
            kind::XID => self.end(),
            kind::XA_PREPARE => self.xa_prepare(body),
            kind::TABLE_MAP => self.table_map(body),
            kind::WRITE_ROWS => self.rows(body, Op::Insert, true),
            kind::UPDATE_ROWS => self.rows(body, Op::Update, true),
            kind::PARTIAL_UPDATE_ROWS => self.partial_rows(body),
            kind::DELETE_ROWS => self.rows(body, Op::Delete, true),
            kind::WRITE_ROWS_1 => self.rows(body, Op::Insert, false),
            kind::UPDATE_ROWS_1 => self.rows(body, Op::Update, false),
            kind::DELETE_ROWS_1 => self.rows(body, Op::Delete, false),
            kind::MARIADB_QUERY_COMPRESSED..=kind::MARIADB_DELETE_ROWS_COMPRESSED => {
                self.compressed(header.kind, body)
            }
            kind::TRANSACTION_PAYLOAD => {
                if self.packed > 0 || self.state != State::Named {
                    return Err(Broken::corrupt("a compressed transaction out of place", 0));
                }
                self.packed = event::parse_payload(body)?;
                Ok(Step::Nothing)
            }
            other => Err(Self::refuse(other)),
        }
    }

    /// Why an event can't be taken. The flag by which a server lets replicas ignore an event is not
    /// asked: what an unknown event holds is unknown.
    #[cold]
    fn refuse(kind: u8) -> Broken {
        let refusal =
            |code, what: &'static str, hint| Broken { code, what: what.into(), offset: 0, hint };
        match kind {
            kind::ANONYMOUS_GTID => refusal(
                Code::Setting,
                "a transaction without GTID",
                "set gtid_mode=ON at the source; what was logged before needs a resynchronisation",
            ),
            kind::INTVAR
            | kind::RAND
            | kind::USER_VAR
            | kind::BEGIN_LOAD_QUERY
            | kind::EXECUTE_LOAD_QUERY => {
                refusal(Code::Setting, "a change in statement format", STATEMENT_HINT)
            }
            kind::INCIDENT => refusal(
                Code::BinlogCorrupt,
                "the source says that its log lacks changes",
                "resynchronise this store",
            ),
            _ => refusal(
                Code::BinlogUnknown,
                "an event of a type that the decoder does not know",
                "this server's version may be newer than this release of Unitflow knows",
            ),
        }
    }

    fn expect_idle(&self, what: &str) -> Parsed<()> {
        if self.state == State::Idle && self.packed == 0 {
            Ok(())
        } else {
            Err(Broken::corrupt(format!("{what} inside a transaction"), 0))
        }
    }

    /// Counts an event that came out of a compressed transaction. The driver unpacks it, and
    /// gives nothing at all where it can't.
    fn unpack(&mut self, header: &Header) -> Parsed<()> {
        let inner = matches!(
            header.kind,
            kind::QUERY | kind::XID | kind::XA_PREPARE | kind::TABLE_MAP | kind::ROWS_QUERY | kind::IGNORABLE
                | kind::WRITE_ROWS_1..=kind::DELETE_ROWS_1
                | kind::WRITE_ROWS..=kind::DELETE_ROWS
                | kind::PARTIAL_UPDATE_ROWS
        );
        match self.packed.checked_sub(header.size.into()) {
            Some(left) if inner => {
                self.packed = left;
                Ok(())
            }
            _ => Err(Broken::corrupt("a compressed transaction could not be unpacked", 0)),
        }
    }

    fn begin(&mut self, header: &Header, begin: Begin) -> Parsed<Step> {
        self.expect_idle("a transaction starts")?;
        self.state = if begin.begins { State::Open } else { State::Named };
        self.count = 0;
        self.digest = Digest::default();
        let transaction = &mut self.transaction;
        transaction.gtid = begin.gtid;
        transaction.gtid_text.clear();
        let _ = write!(transaction.gtid_text, "{}", transaction.gtid);
        transaction.commit_us = begin.commit_us;
        transaction.timestamp = header.timestamp;
        transaction.server_id = header.server_id;
        self.xid.clear();
        if begin.prepares {
            self.xid.push_str(UNNAMED);
        }
        let named = self.renamed.as_ref().unwrap_or(&self.transaction);
        self.record.begin(&named.gtid_text, &self.file);
        Ok(Step::Nothing)
    }

    /// A statement that is a part of an XA transaction.
    fn xa_statement(&mut self, statement: &str) -> Parsed<Step> {
        let (verb, name) = statement.split_once(' ').unwrap_or((statement, ""));
        let verb = verb.to_ascii_uppercase();
        match (verb.as_str(), self.state) {
            ("START" | "BEGIN", State::Named) => {
                self.xid = event::parse_xid(name)?;
                self.state = State::Open;
                Ok(Step::Nothing)
            }
            ("END", State::Open) if self.is_xa() => Ok(Step::Nothing),
            ("COMMIT" | "ROLLBACK", State::Named | State::Open) if self.count == 0 => {
                self.xid = event::parse_xid(name)?;
                self.state = State::Ending;
                Ok(Step::Completed(verb == "COMMIT"))
            }
            _ => Err(Broken::corrupt("a part of an XA transaction out of place", 0)),
        }
    }

    fn xa_prepare(&mut self, body: &[u8]) -> Parsed<Step> {
        if self.state != State::Open || self.packed > 0 || !self.is_xa() {
            return Err(Broken::corrupt("an XA transaction is prepared that was not started", 0));
        }
        let (one_phase, xid) = event::parse_xa_prepare(body)?;
        if self.xid != UNNAMED && self.xid != xid {
            return Err(Broken::corrupt("another XA transaction is prepared than was started", 0));
        }
        self.xid = xid;
        self.state = State::Ending;
        Ok(if one_phase { Step::OnePhase } else { Step::Prepared })
    }

    fn end(&mut self) -> Parsed<Step> {
        if self.state != State::Open || self.packed > 0 {
            return Err(Broken::corrupt("a transaction ends that was not open", 0));
        }
        self.state = State::Ending;
        Ok(Step::End)
    }

    fn query(&mut self, body: &[u8]) -> Parsed<Step> {
        let query = event::parse_query(self.flavor, body)?;
        let statement = query.statement.trim();
        let starts = |words: &str| {
            statement.get(..words.len()).is_some_and(|start| start.eq_ignore_ascii_case(words))
        };
        if starts("XA ") {
            return self.xa_statement(statement[3..].trim_start());
        }
        match self.state {
            State::Named if statement.eq_ignore_ascii_case("BEGIN") => {
                self.state = State::Open;
                self.record.thread(query.thread);
                return Ok(Step::Nothing);
            }
            State::Named => self.state = State::Ending,
            State::Open if statement.eq_ignore_ascii_case("COMMIT") => return self.end(),
            State::Open if starts("SAVEPOINT") || starts("RELEASE SAVEPOINT") => {
                return Ok(Step::Nothing);
            }
            State::Open if starts("BEGIN") && self.count == 0 => return Ok(Step::Nothing),
            // The row changes that it would take back were returned already.
            State::Open if starts("ROLLBACK") => {
                return Err(Broken::unknown("a transaction that was rolled back in part", 0)
                    .hint("the source mixed transactional and other tables in one transaction; use InnoDB"));
            }
            // Temporary tables do not travel in row format; the server drops them at both ends.
            State::Open
                if starts("DROP")
                    && statement.get(..40).unwrap_or(statement).contains("TEMPORARY") =>
            {
                return Ok(Step::Nothing);
            }
            // CREATE TABLE … SELECT: the table, then its rows, in one transaction.
            State::Open if starts("CREATE") => {}
            State::Open => {
                return Err(Broken {
                    code: Code::Setting,
                    what: "a change in statement format".into(),
                    offset: 0,
                    hint: STATEMENT_HINT,
                });
            }
            State::Idle | State::Ending => {
                return Err(Broken::corrupt("a statement outside a transaction", 0));
            }
        }
        self.count += 1;
        self.digest.add(0, STATEMENT, b"");
        let (sql_mode, mut session) = query.session(self.timestamp);
        if session.time_zone.as_deref() == Some("SYSTEM") {
            session.system_zone = Some(self.system_zone.clone());
        }
        session.folds_names = self.folds_names;
        self.ddl = Statement { session, ..Statement::new(query.database, statement, sql_mode) };
        self.disguises.clear();
        Ok(Step::Ddl)
    }

    fn table_map(&mut self, body: &[u8]) -> Parsed<Step> {
        let (id, content) = Table::identify(body)?;
        let known = self.tables.get(&id).filter(|known| known.content == content);
        // After a schema change hidden types have to be asked for again.
        if known.is_some_and(|known| !known.disguised || self.disguises.contains_key(&content)) {
            return Ok(Step::Nothing);
        }
        self.describe(id, content, body)
    }

    fn describe(&mut self, id: u64, content: u64, body: &[u8]) -> Parsed<Step> {
        match Table::parse(self.flavor, body, self.disguises.get(&content))? {
            Parsing::Ready(mut table) => {
                if let Some(name) = &self.declares {
                    table.declared = Some(declare(self.flavor, name, &table));
                }
                if self.tables.len() >= TABLES_MAX {
                    self.tables.clear();
                }
                self.tables.insert(id, table);
                Ok(Step::Nothing)
            }
            Parsing::Veiled { database, name } => {
                self.veiled = Some(Veiled { body: body.to_vec(), database, table: name });
                Ok(Step::Veiled)
            }
        }
    }

    fn rows(&mut self, body: &[u8], op: Op, extra: bool) -> Parsed<Step> {
        let mut bytes = Bytes::new(body);
        let id = bytes.unsigned(6)?;
        bytes.u16()?;
        if extra {
            let size = bytes
                .u16()?
                .checked_sub(2)
                .ok_or_else(|| bytes.corrupt("a rows event with a negative size"))?;
            bytes.take(size.into())?;
        }
        if id == NO_TABLE {
            return Ok(Step::Nothing);
        }
        if self.state != State::Open {
            return Err(bytes.corrupt("rows outside a transaction"));
        }
        let table = self
            .tables
            .get(&id)
            .ok_or_else(|| bytes.corrupt("rows of a table that was not described"))?;
        let count = table.columns.len();
        if bytes.length()? != count as u64 {
            return Err(bytes.corrupt("rows with another number of columns than their table"));
        }
        for _ in 0..if op == Op::Update { 2 } else { 1 } {
            let present = bytes.take(count.div_ceil(8))?;
            if let Some(absent) =
                (0..count).find(|&column| present[column / 8] >> (column % 8) & 1 == 0)
            {
                return Err(Broken {
                    code: Code::RowImage,
                    what: format!(
                        "a change of {}.{} lacks the column {}",
                        table.database, table.name, table.columns[absent].name
                    )
                    .into(),
                    offset: bytes.at(),
                    hint: "set binlog_row_image=FULL at the source, globally and in all sessions; \
                           what was logged before needs a resynchronisation",
                });
            }
        }
        self.rows = Some(Rows { table: id, op, at: bytes.at(), unpacked: false, partial: false });
        self.record.stamp();
        Ok(Step::Rows)
    }

    /// MySQL's updates under `binlog_row_value_options=PARTIAL_JSON`.
    fn partial_rows(&mut self, body: &[u8]) -> Parsed<Step> {
        let step = self.rows(body, Op::Update, true)?;
        if let Some(rows) = &mut self.rows {
            rows.partial = true;
        }
        Ok(step)
    }

    /// One of MariaDB's compressed events.
    fn compressed(&mut self, kind: u8, body: &[u8]) -> Parsed<Step> {
        let mut unpacked = std::mem::take(&mut self.unpacked);
        unpacked.clear();
        if unpacked.capacity() > BUFFER_BYTES_KEPT {
            unpacked = Vec::new();
        }
        let step = self.unpack_event(kind, body, &mut unpacked);
        self.unpacked = unpacked;
        step
    }

    fn unpack_event(&mut self, kind: u8, body: &[u8], unpacked: &mut Vec<u8>) -> Parsed<Step> {
        let (op, extra) = match kind {
            kind::MARIADB_WRITE_ROWS_COMPRESSED_1 => (Op::Insert, false),
            kind::MARIADB_UPDATE_ROWS_COMPRESSED_1 => (Op::Update, false),
            kind::MARIADB_DELETE_ROWS_COMPRESSED_1 => (Op::Delete, false),
            kind::MARIADB_WRITE_ROWS_COMPRESSED => (Op::Insert, true),
            kind::MARIADB_UPDATE_ROWS_COMPRESSED => (Op::Update, true),
            kind::MARIADB_DELETE_ROWS_COMPRESSED => (Op::Delete, true),
            _ => {
                event::unpack_query(body, unpacked)?;
                return self.query(unpacked);
            }
        };
        let images = if op == Op::Update { 2 } else { 1 };
        event::unpack_rows(body, extra, images, unpacked)?;
        let step = self.rows(unpacked, op, extra)?;
        if let Some(rows) = &mut self.rows {
            rows.unpacked = true;
        }
        Ok(step)
    }

    /// Writes the next row of the event whose body this is; `false` where there is none.
    pub fn next_row(&mut self, kind: u8, body: &[u8]) -> Result<bool, Fault> {
        let Some(rows) = self.rows else { return Ok(false) };
        let unpacked = std::mem::take(&mut self.unpacked);
        let body = if rows.unpacked { unpacked.as_slice() } else { body };
        let written = if rows.at < body.len() {
            self.write_record(rows, body).map(|()| true)
        } else {
            self.rows = None;
            Ok(false)
        };
        self.unpacked = unpacked;
        written.map_err(|broken| self.locate(broken, kind))
    }

    fn write_record(&mut self, rows: Rows, body: &[u8]) -> Parsed<()> {
        let mut bytes = Bytes::from(body, rows.at);
        let table = self
            .tables
            .get(&rows.table)
            .ok_or_else(|| bytes.corrupt("rows of a table that was not described"))?;
        let named = self.renamed.as_ref().unwrap_or(&self.transaction);
        let place = Place {
            commit_us: named.commit_us,
            server_id: named.server_id,
            at: self.at,
            row: self.count,
        };
        self.record.write(table, (rows.op, rows.partial), &mut bytes, place)?;
        // A table without columns has rows without end.
        if bytes.at() == rows.at {
            return Err(bytes.corrupt("a row without a byte"));
        }
        self.digest.add(table.digest, rows.op.as_str().as_bytes()[0], bytes.since(rows.at));
        self.count += 1;
        self.rows = Some(Rows { at: bytes.at(), ..rows });
        Ok(())
    }
}

/// What to say about statement format.
const STATEMENT_HINT: &str = "set binlog_format=ROW at the source, globally and in all sessions; \
                              what was logged before needs a resynchronisation";

#[cfg(test)]
mod tests {
    use proptest::prelude::Rng as _;
    use proptest::test_runner::{RngAlgorithm, TestRng};
    use unitflow_local::{Flavor as Kind, Mysql};

    use super::*;

    /// Statements run on a real server, and its log's events after the magic number.
    async fn record(kind: Kind, statements: &str) -> (Flavor, Vec<Vec<u8>>) {
        let setup = Mysql::setup(kind).setting("binlog_row_metadata", "FULL");
        let setup = match kind {
            Kind::Mysql9 => setup.setting("binlog_row_value_options", "PARTIAL_JSON"),
            Kind::Mariadb => {
                setup.setting("log_bin_compress", "ON").setting("log_bin_compress_min_len", 10)
            }
        };
        let server = setup.start().await.unwrap();
        server.sql(statements).await.unwrap();
        let file = std::fs::read(&server.binlog_files().unwrap()[0]).unwrap();
        let mut events = Vec::new();
        let mut rest = &file[4..];
        while let Some(size) = rest.get(9..13) {
            let size = u32::from_le_bytes(size.try_into().unwrap()) as usize;
            events.push(rest[..size].to_vec());
            rest = &rest[size..];
        }
        let flavor = match kind {
            Kind::Mysql9 => Flavor::Mysql,
            Kind::Mariadb => Flavor::Mariadb,
        };
        (flavor, events)
    }

    /// Decodes events, and returns how many rows they held.
    fn decode(flavor: Flavor, events: &[Vec<u8>], checksums: bool) -> Result<u64, Fault> {
        let mut decoder = Decoder::new(flavor, "A.shop", Form::Plain);
        let mut rows = 0;
        for event in events {
            let raw = Raw::parse(event, checksums).map_err(Broken::into_fault)?;
            match decoder.feed(&raw)? {
                Step::End => decoder.ended(),
                Step::Ddl if decoder.is_ending() => decoder.ended(),
                Step::Rows => {
                    while decoder.next_row(raw.header.kind, raw.body)? {
                        rows += 1;
                    }
                }
                Step::Veiled => decoder.unveil(Disguises::new())?,
                _ => {}
            }
        }
        Ok(rows)
    }

    #[test]
    fn unknown_events_stop_with_type_and_position_whatever_their_flags() {
        const IGNORABLE: u16 = 0x0080;
        for kind in [43, 150, 172, 255] {
            for flags in [0, IGNORABLE] {
                let mut decoder = Decoder::new(Flavor::Mysql, "A.shop", Form::Plain);
                let fault = decoder.feed(&Raw::parse(&bare(kind, 477, flags), false).unwrap());
                let fault = fault.unwrap_err();
                assert_eq!(fault.code, Code::BinlogUnknown);
                assert!(!fault.is_retry());
                let text = fault.to_string();
                assert!(text.contains(&format!("event unknown ({kind})")), "{text}");
                assert!(text.contains(":477,"), "{text}");
            }
        }
    }

    /// An event without body or checksum that begins at `at`.
    fn bare(kind: u8, at: u32, flags: u16) -> Vec<u8> {
        let size = event::HEADER_BYTES as u32;
        let mut bytes = vec![0; 4];
        bytes.push(kind);
        for field in [1, size, at + size] {
            bytes.extend_from_slice(&u32::to_le_bytes(field));
        }
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes
    }

    const EVERYTHING: &str = "create database shop; create table shop.t (id int primary key, a decimal(30,10), b json, \
        c varchar(300), d datetime(6), e enum('x','y'), f set('p','q'), g geometry, h bit(20), i binary(16), j time(3), \
        k double, l blob, m year, n date, o timestamp(2) null); \
        insert into shop.t values (1, 1.5, '{\"a\": [1, 2.5, \"x\", null]}', 'text', '2026-01-02 03:04:05', 'y', 'p,q', \
        st_geomfromtext('POINT(1 2)'), 5, x'01', '-01:02:03', 0.1, 'blob', 2026, '2026-01-02', '2026-01-02 03:04:05'); \
        update shop.t set c = 'other'; update shop.t set b = json_set(b, '$.a[1]', 3.5, '$.n', repeat('n', 40)); begin; insert into shop.t (id) values (2), (3); delete from shop.t; commit;";

    #[tokio::test]
    async fn damaged_logs_are_refused_and_never_panic() {
        for kind in [Kind::Mysql9, Kind::Mariadb] {
            let (flavor, events) = record(kind, EVERYTHING).await;
            assert_eq!(decode(flavor, &events, true).unwrap(), 8);
            let special = match kind {
                Kind::Mysql9 => vec![kind::PARTIAL_UPDATE_ROWS],
                Kind::Mariadb => vec![
                    kind::MARIADB_QUERY_COMPRESSED,
                    kind::MARIADB_WRITE_ROWS_COMPRESSED_1,
                    kind::MARIADB_UPDATE_ROWS_COMPRESSED_1,
                    kind::MARIADB_DELETE_ROWS_COMPRESSED_1,
                ],
            };
            for wanted in special {
                assert!(events.iter().any(|event| event[4] == wanted), "{}", event::name(wanted));
            }
            let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
            let mut below = |limit: usize| random.next_u32() as usize % limit;
            for round in 0..20_000 {
                let at = below(events.len());
                let mut event = events[at].clone();
                let place = below(event.len());
                event[place] ^= 1 << below(8);
                // With checksums no flipped bit gets through, but for the flag that a crash
                // leaves behind and what a log without checksums would say.
                let raw = Raw::parse(&event, true);
                let first = event[4] == kind::FORMAT_DESCRIPTION
                    || events[at][4] == kind::FORMAT_DESCRIPTION;
                let refused = raw.and_then(|raw| raw.verify()).err().map(|broken| broken.code);
                assert!(first || refused == Some(Code::BinlogCorrupt), "round {round}");
                // Without them it may, or may not; it must not panic.
                let without: Vec<Vec<u8>> = events
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| *i > 0)
                    .map(|(i, original)| {
                        let mut whole = if i == at { event.clone() } else { original.clone() };
                        whole.truncate(whole.len() - 4);
                        let size = whole.len() as u32;
                        whole[9..13].copy_from_slice(&size.to_le_bytes());
                        if i == at && round % 3 == 0 {
                            let cut = below(whole.len());
                            whole.truncate(cut);
                        }
                        whole
                    })
                    .collect();
                let _ = decode(flavor, &without, false);
            }
        }
    }
}
