//! From events to transactions, and from row images to records.
//!
//! The decoder is a state machine without I/O: [`Decoder::feed`] takes one event and says what
//! came of it, [`Decoder::next_row`] then writes one row at a time into buffers that are reused.
//! What it does not know, or what does not fit where it stands, is a fault; nothing is skipped
//! that could change data.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use unitflow_change::envelope::Op;
use unitflow_change::fault::{Code, Fault};
use unitflow_change::gtid::Gtid;
use unitflow_change::position::Digest;

use crate::bytes::{Broken, Bytes, Parsed};
use crate::connect::Flavor;
use crate::event::{self, Begin, FLAG_IGNORABLE, Header, Raw, kind};
use crate::json;
use crate::stream::Transaction;
use crate::table::{Disguises, Kind, Parsing, Table};
use crate::value;

/// Buffers above this are given back after a large row.
const BUFFER_BYTES_KEPT: usize = 8 << 20;

/// How many table maps are kept; more come and go with partitions and rebuilt tables.
const TABLES_MAX: usize = 4096;

/// The number of a rows event without table, which only ends a statement.
const NO_TABLE: u64 = 0xff_ffff;

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
    moves: bool,
    ddl: (String, String),
    /// `,"source":{"version":…,"ts_ms":`
    head: Vec<u8>,
    /// `,"gtid":…,"file":…,"pos":`
    names: Vec<u8>,
    now_ms: u64,
    key: Vec<u8>,
    value: Vec<u8>,
    scratch: Vec<u8>,
    spans: Vec<(usize, usize)>,
    spans_after: Vec<(usize, usize)>,
}

impl Decoder {
    pub fn new(flavor: Flavor, connector_name: &str) -> Self {
        let mut head = format!(
            ",\"source\":{{\"version\":\"{}\",\"connector\":\"{}\",\"name\":",
            env!("CARGO_PKG_VERSION"),
            flavor.as_str()
        )
        .into_bytes();
        value::write_string(&mut head, connector_name);
        head.extend_from_slice(b",\"ts_ms\":");
        Self {
            flavor,
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
            moves: false,
            ddl: (String::new(), String::new()),
            head,
            names: Vec::new(),
            now_ms: 0,
            key: Vec::new(),
            value: Vec::new(),
            scratch: Vec::new(),
            spans: Vec::new(),
            spans_after: Vec::new(),
        }
    }

    /// The transaction of what was returned last.
    pub fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    /// Rows and statements of the transaction that were returned so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Over these.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The statement that `Step::Ddl` announced: database and text.
    pub fn ddl(&self) -> (&str, &str) {
        (&self.ddl.0, &self.ddl.1)
    }

    /// The row that `next_row` wrote.
    pub fn row(&self) -> Option<crate::stream::Row<'_>> {
        let rows = self.rows?;
        let table = self.tables.get(&rows.table)?;
        Some(crate::stream::Row {
            database: &table.database,
            table: &table.name,
            op: rows.op,
            key: &self.key,
            value: &self.value,
            moves: self.moves,
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
            kind::TABLE_MAP => self.table_map(body),
            kind::WRITE_ROWS => self.rows(body, Op::Insert, true),
            kind::UPDATE_ROWS => self.rows(body, Op::Update, true),
            kind::DELETE_ROWS => self.rows(body, Op::Delete, true),
            kind::WRITE_ROWS_1 => self.rows(body, Op::Insert, false),
            kind::UPDATE_ROWS_1 => self.rows(body, Op::Update, false),
            kind::DELETE_ROWS_1 => self.rows(body, Op::Delete, false),
            kind::TRANSACTION_PAYLOAD => {
                if self.packed > 0 || self.state != State::Named {
                    return Err(Broken::corrupt("a compressed transaction out of place", 0));
                }
                self.packed = event::parse_payload(body)?;
                Ok(Step::Nothing)
            }
            other => match Self::refuse(other, header.flags) {
                Some(broken) => Err(broken),
                None => Ok(Step::Nothing),
            },
        }
    }

    /// Why an event can't be taken; `None` where it may be ignored.
    #[cold]
    fn refuse(kind: u8, flags: u16) -> Option<Broken> {
        let refusal =
            |code, what: &'static str, hint| Broken { code, what: what.into(), offset: 0, hint };
        Some(match kind {
            kind::ANONYMOUS_GTID => refusal(
                Code::Setting,
                "a transaction without GTID",
                "set gtid_mode=ON at the source; what was logged before needs a resynchronisation",
            ),
            kind::PARTIAL_UPDATE_ROWS => refusal(
                Code::RowImage,
                "an update that holds only a part of a JSON document",
                "set binlog_row_value_options='' at the source, globally and in all sessions",
            ),
            kind::INTVAR
            | kind::RAND
            | kind::USER_VAR
            | kind::BEGIN_LOAD_QUERY
            | kind::EXECUTE_LOAD_QUERY => {
                refusal(Code::Setting, "a change in statement format", STATEMENT_HINT)
            }
            kind::XA_PREPARE => refusal(Code::BinlogUnknown, "an XA transaction", event::XA_HINT),
            kind::INCIDENT => refusal(
                Code::BinlogCorrupt,
                "the source says that its log lacks changes",
                "resynchronise this store",
            ),
            kind::MARIADB_QUERY_COMPRESSED..=kind::MARIADB_DELETE_ROWS_COMPRESSED => refusal(
                Code::BinlogUnknown,
                "a compressed event",
                "set log_bin_compress=OFF at the source; what was logged before needs a resynchronisation",
            ),
            _ if flags & FLAG_IGNORABLE != 0 => return None,
            _ => refusal(
                Code::BinlogUnknown,
                "an event of a type that the decoder does not know",
                "this server's version may be newer than this release of Unitflow knows",
            ),
        })
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
            kind::QUERY | kind::XID | kind::TABLE_MAP | kind::ROWS_QUERY | kind::IGNORABLE
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
        self.names.clear();
        self.names.extend_from_slice(b",\"gtid\":\"");
        self.names.extend_from_slice(transaction.gtid_text.as_bytes());
        self.names.extend_from_slice(b"\",\"file\":");
        value::write_string(&mut self.names, &self.file);
        self.names.extend_from_slice(b",\"pos\":");
        Ok(Step::Nothing)
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
            return Err(Broken::unknown("an XA transaction", 0).hint(event::XA_HINT));
        }
        match self.state {
            State::Named if statement.eq_ignore_ascii_case("BEGIN") => {
                self.state = State::Open;
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
        self.ddl.0.clear();
        self.ddl.0.push_str(query.database);
        self.ddl.1.clear();
        self.ddl.1.push_str(statement);
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
            Parsing::Ready(table) => {
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
        self.rows = Some(Rows { table: id, op, at: bytes.at() });
        self.now_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        Ok(Step::Rows)
    }

    /// Writes the next row of the event whose body this is; `false` where there is none.
    pub fn next_row(&mut self, kind: u8, body: &[u8]) -> Result<bool, Fault> {
        let Some(rows) = self.rows else { return Ok(false) };
        if rows.at >= body.len() {
            self.rows = None;
            return Ok(false);
        }
        self.write_record(rows, body).map_err(|broken| self.locate(broken, kind))?;
        Ok(true)
    }

    fn write_record(&mut self, rows: Rows, body: &[u8]) -> Parsed<()> {
        let mut bytes = Bytes::from(body, rows.at);
        let table = self
            .tables
            .get(&rows.table)
            .ok_or_else(|| bytes.corrupt("rows of a table that was not described"))?;
        let Self { key, value, scratch, spans, spans_after, .. } = self;
        for buffer in [&mut *key, &mut *value, &mut *scratch] {
            if buffer.capacity() > BUFFER_BYTES_KEPT {
                *buffer = Vec::new();
            }
            buffer.clear();
        }
        value.extend_from_slice(b"{\"before\":");
        self.moves = false;
        match rows.op {
            Op::Insert => {
                value.extend_from_slice(b"null,\"after\":");
                write_image(table, &mut bytes, value, scratch, spans)?;
            }
            Op::Delete => {
                write_image(table, &mut bytes, value, scratch, spans)?;
                value.extend_from_slice(b",\"after\":null");
            }
            Op::Update => {
                write_image(table, &mut bytes, value, scratch, spans)?;
                value.extend_from_slice(b",\"after\":");
                write_image(table, &mut bytes, value, scratch, spans_after)?;
                self.moves = spans
                    .iter()
                    .zip(spans_after.iter())
                    .any(|(before, after)| value[before.0..before.1] != value[after.0..after.1]);
            }
        }
        key.extend_from_slice(&table.key_head);
        if table.key.is_empty() {
            key.extend_from_slice(b"null]");
        } else {
            for (place, (&column, &(start, end))) in table.key.iter().zip(spans.iter()).enumerate()
            {
                key.push(if place == 0 { b'{' } else { b',' });
                key.extend_from_slice(&table.columns[column].lead[1..]);
                key.extend_from_slice(&value[start..end]);
            }
            key.extend_from_slice(b"}]");
        }
        value.extend_from_slice(&self.head);
        value::write_integer(value, self.transaction.commit_us / 1000);
        value.extend_from_slice(&table.source);
        value::write_integer(value, self.transaction.server_id);
        value.extend_from_slice(&self.names);
        value::write_integer(value, self.at);
        value.extend_from_slice(b",\"row\":");
        value::write_integer(value, self.count);
        value.extend_from_slice(b",\"thread\":null,\"query\":null},\"op\":\"");
        value.extend_from_slice(rows.op.as_str().as_bytes());
        value.extend_from_slice(b"\",\"ts_ms\":");
        value::write_integer(value, self.now_ms);
        value.extend_from_slice(b",\"transaction\":null}");
        self.digest.add(table.digest, rows.op.as_str().as_bytes()[0], bytes.since(rows.at));
        self.count += 1;
        self.rows = Some(Rows { at: bytes.at(), ..rows });
        Ok(())
    }
}

/// What to say about statement format.
const STATEMENT_HINT: &str = "set binlog_format=ROW at the source, globally and in all sessions; \
                              what was logged before needs a resynchronisation";

/// Appends a row image as a JSON object, and notes where the key columns' values stand.
fn write_image(
    table: &Table,
    bytes: &mut Bytes<'_>,
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    spans: &mut Vec<(usize, usize)>,
) -> Parsed<()> {
    let nulls = bytes.take(table.columns.len().div_ceil(8))?;
    spans.clear();
    spans.resize(table.key.len(), (0, 0));
    if table.columns.is_empty() {
        out.push(b'{');
    }
    for (i, column) in table.columns.iter().enumerate() {
        out.extend_from_slice(&column.lead);
        let start = out.len();
        if nulls[i / 8] >> (i % 8) & 1 == 1 {
            out.extend_from_slice(b"null");
        } else if let Err(broken) = write_value(&column.kind, bytes, out, scratch) {
            let place = format!("{}.{}.{}", table.database, table.name, column.name);
            return Err(Broken { what: format!("{place}: {}", broken.what).into(), ..broken });
        }
        if let Some(span) = column.key.and_then(|place| spans.get_mut(place)) {
            *span = (start, out.len());
        }
    }
    out.push(b'}');
    Ok(())
}

fn write_value(
    kind: &Kind,
    bytes: &mut Bytes<'_>,
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
) -> Parsed<()> {
    fn prefixed<'a>(bytes: &mut Bytes<'a>, prefix: u8) -> Parsed<&'a [u8]> {
        let length = bytes.unsigned(prefix.into())?;
        bytes.take(usize::try_from(length).unwrap_or(usize::MAX))
    }
    match kind {
        Kind::Integer { bytes: size, unsigned } => {
            let raw = bytes.unsigned((*size).into())?;
            if *unsigned {
                value::write_integer(out, raw);
            } else {
                let shift = 64 - 8 * u32::from(*size);
                value::write_integer(out, (raw << shift).cast_signed() >> shift);
            }
        }
        Kind::Float => value::write_float(out, f32::from_bits(bytes.u32()?), bytes.at())?,
        Kind::Double => value::write_double(out, f64::from_bits(bytes.u64()?), bytes.at())?,
        Kind::Decimal(shape) => {
            out.push(b'"');
            shape.write(out, bytes)?;
            out.push(b'"');
        }
        Kind::Year => match bytes.u8()? {
            0 => out.push(b'0'),
            year => value::write_integer(out, 1900 + u16::from(year)),
        },
        Kind::Date => value::write_date(out, bytes)?,
        Kind::Time { fraction } => value::write_time(out, bytes, *fraction)?,
        Kind::Datetime { fraction } => value::write_datetime(out, bytes, *fraction)?,
        Kind::Timestamp { fraction } => value::write_timestamp(out, bytes, *fraction)?,
        Kind::Bit { single: true, .. } => match bytes.u8()? {
            0 => out.extend_from_slice(b"false"),
            1 => out.extend_from_slice(b"true"),
            _ => return Err(bytes.corrupt("a single bit is neither 0 nor 1")),
        },
        Kind::Bit { bytes: size, .. } => {
            let size = usize::from(*size);
            let raw = bytes.unsigned_big(size)?;
            value::write_base64(out, &raw.to_le_bytes()[..size]);
        }
        Kind::Text { prefix, charset } => {
            let raw = prefixed(bytes, *prefix)?;
            out.push(b'"');
            value::write_text(out, *charset, raw, bytes.at() - raw.len())?;
            out.push(b'"');
        }
        Kind::Blob { prefix } => value::write_base64(out, prefixed(bytes, *prefix)?),
        Kind::Binary { prefix, length } => {
            let raw = prefixed(bytes, *prefix)?;
            if raw.len() > *length {
                return Err(bytes.corrupt("a BINARY is longer than its column"));
            }
            if raw.len() == *length {
                value::write_base64(out, raw);
            } else {
                scratch.clear();
                scratch.extend_from_slice(raw);
                scratch.resize(*length, 0);
                value::write_base64(out, scratch);
            }
        }
        Kind::Enum { bytes: size, values } => match bytes.unsigned((*size).into())? {
            0 => out.extend_from_slice(b"\"\""),
            index => {
                let text = values.get(index as usize - 1).ok_or_else(|| {
                    bytes.corrupt("an ENUM has a number that its column does not have")
                })?;
                out.extend_from_slice(text);
            }
        },
        Kind::Set { bytes: size, values } => {
            let mut left = bytes.unsigned((*size).into())?;
            out.push(b'"');
            while left != 0 {
                let text = values.get(left.trailing_zeros() as usize).ok_or_else(|| {
                    bytes.corrupt("a SET has a member that its column does not have")
                })?;
                out.extend_from_slice(text);
                left &= left - 1;
                if left != 0 {
                    out.push(b',');
                }
            }
            out.push(b'"');
        }
        Kind::Json { prefix } => {
            let raw = prefixed(bytes, *prefix)?;
            let offset = bytes.at() - raw.len();
            scratch.clear();
            json::write_document(scratch, raw)
                .map_err(|broken| Broken { offset: offset + broken.offset, ..broken })?;
            out.push(b'"');
            value::write_escaped(out, scratch);
            out.push(b'"');
        }
        Kind::Geometry { prefix } => {
            let raw = prefixed(bytes, *prefix)?;
            value::write_geometry(out, raw, bytes.at())?;
        }
        Kind::Vector { prefix } => {
            let raw = prefixed(bytes, *prefix)?;
            value::write_vector(out, raw, bytes.at())?;
        }
        Kind::Uuid { prefix, swapped } => {
            let raw = prefixed(bytes, *prefix)?;
            value::write_uuid(out, raw, *swapped, bytes.at())?;
        }
        Kind::Inet6 { prefix } => {
            let raw = prefixed(bytes, *prefix)?;
            value::write_inet::<16>(out, raw, bytes.at())?;
        }
        Kind::Inet4 { prefix } => {
            let raw = prefixed(bytes, *prefix)?;
            value::write_inet::<4>(out, raw, bytes.at())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::Rng as _;
    use proptest::test_runner::{RngAlgorithm, TestRng};
    use unitflow_local::{Flavor as Kind, Mysql};

    use super::*;

    /// Statements run on a real server, and its log's events after the magic number.
    async fn record(kind: Kind, statements: &str) -> (Flavor, Vec<Vec<u8>>) {
        let server =
            Mysql::setup(kind).setting("binlog_row_metadata", "FULL").start().await.unwrap();
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

    /// Decodes events, and returns how many rows they held and how long their records are.
    fn decode(flavor: Flavor, events: &[Vec<u8>], checksums: bool) -> Result<(u64, u64), Fault> {
        let mut decoder = Decoder::new(flavor, "A.shop");
        let (mut rows, mut bytes) = (0, 0);
        for event in events {
            let raw = Raw::parse(event, checksums).map_err(Broken::into_fault)?;
            match decoder.feed(&raw)? {
                Step::End => decoder.ended(),
                Step::Ddl if decoder.is_ending() => decoder.ended(),
                Step::Rows => {
                    while decoder.next_row(raw.header.kind, raw.body)? {
                        rows += 1;
                        bytes +=
                            decoder.row().map_or(0, |row| (row.key.len() + row.value.len()) as u64);
                    }
                }
                Step::Veiled => decoder.unveil(Disguises::new())?,
                _ => {}
            }
        }
        Ok((rows, bytes))
    }

    const EVERYTHING: &str = "create database shop; create table shop.t (id int primary key, a decimal(30,10), b json, \
        c varchar(300), d datetime(6), e enum('x','y'), f set('p','q'), g geometry, h bit(20), i binary(16), j time(3), \
        k double, l blob, m year, n date, o timestamp(2) null); \
        insert into shop.t values (1, 1.5, '{\"a\": [1, 2.5, \"x\", null]}', 'text', '2026-01-02 03:04:05', 'y', 'p,q', \
        st_geomfromtext('POINT(1 2)'), 5, x'01', '-01:02:03', 0.1, 'blob', 2026, '2026-01-02', '2026-01-02 03:04:05'); \
        update shop.t set c = 'other'; begin; insert into shop.t (id) values (2), (3); delete from shop.t; commit;";

    #[tokio::test]
    async fn damaged_logs_are_refused_and_never_panic() {
        for kind in [Kind::Mysql9, Kind::Mariadb] {
            let (flavor, events) = record(kind, EVERYTHING).await;
            assert_eq!(decode(flavor, &events, true).unwrap().0, 7);
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
                assert!(first || raw.and_then(|raw| raw.verify()).is_err(), "round {round}");
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

    /// `cargo test --release -p unitflow-mysql --lib decode_speed -- --ignored --nocapture`
    #[tokio::test]
    #[ignore = "a measurement"]
    async fn decode_speed() {
        const ROWS: u64 = 200_000;
        let series = format!("set cte_max_recursion_depth = {ROWS}; ");
        let seq = format!(
            "(with recursive s(n) as (select 1 union all select n + 1 from s where n < {ROWS}) select n from s) q"
        );
        let four = format!(
            "create database shop; create table shop.t (id int primary key, amount decimal(12,2), name varchar(40), at datetime(3)); {series} \
             insert into shop.t select n, n / 7, concat('name of ', n), '2026-01-02 03:04:05.678' from {seq};"
        );
        let twelve = format!(
            "create database shop; create table shop.t (id bigint primary key, a int, b int unsigned, c decimal(12,2), d varchar(40), e varchar(100), \
             f datetime(6), g timestamp(3) null, h double, i char(10), j tinyint, k text); {series} \
             insert into shop.t select n, n * 3, n, n / 7, concat('name of ', n), repeat('abcdefgh', 8), '2026-01-02 03:04:05.678901', \
             '2026-01-02 03:04:05', n / 3, 'x', 1, 'some text that is a little longer' from {seq};"
        );
        for (columns, statements) in [(4, four), (12, twelve)] {
            let (flavor, events) = record(Kind::Mysql9, &statements).await;
            let size: usize = events.iter().map(Vec::len).sum();
            let mut best = f64::MAX;
            let mut bytes = 0;
            for _ in 0..5 {
                let since = Instant::now();
                let (rows, written) = decode(flavor, &events, true).unwrap();
                assert_eq!(rows, ROWS);
                best = best.min(since.elapsed().as_secs_f64());
                bytes = written;
            }
            println!(
                "{columns} columns: {:.0} rows/s, {:.2} µs a row; {} bytes a row in the log, {} in the record",
                ROWS as f64 / best,
                best * 1e6 / ROWS as f64,
                size as u64 / ROWS,
                bytes / ROWS,
            );
        }
    }
}
