//! Binlog events: framing, checksums, and the bodies of all events that are no rows.
//!
//! Formats: <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html>
//! and <https://mariadb.com/kb/en/replication-protocol/>.

use unitflow_change::ddl::Session;
use unitflow_change::gtid::{Gtid, Source, Uuid};

use crate::bytes::{Broken, Bytes, Parsed};
use crate::charset::Charset;
use crate::compressed::unpack_event;
use crate::connect::Flavor;

/// Bytes of an event's header.
pub(crate) const HEADER_BYTES: usize = 19;

/// Bytes of a checksum.
#[cfg(test)]
const CHECKSUM_BYTES: usize = 4;

/// The file was not closed; the flag changes after the checksum was computed.
const FLAG_IN_USE: u16 = 0x0001;

/// The numbers of events.
pub(crate) mod kind {
    pub const QUERY: u8 = 2;
    pub const STOP: u8 = 3;
    pub const ROTATE: u8 = 4;
    pub const INTVAR: u8 = 5;
    pub const RAND: u8 = 13;
    pub const USER_VAR: u8 = 14;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const BEGIN_LOAD_QUERY: u8 = 17;
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    pub const TABLE_MAP: u8 = 19;
    pub const WRITE_ROWS_1: u8 = 23;
    pub const UPDATE_ROWS_1: u8 = 24;
    pub const DELETE_ROWS_1: u8 = 25;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const IGNORABLE: u8 = 28;
    pub const ROWS_QUERY: u8 = 29;
    pub const WRITE_ROWS: u8 = 30;
    pub const UPDATE_ROWS: u8 = 31;
    pub const DELETE_ROWS: u8 = 32;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const PREVIOUS_GTIDS: u8 = 35;
    pub const TRANSACTION_CONTEXT: u8 = 36;
    pub const VIEW_CHANGE: u8 = 37;
    pub const XA_PREPARE: u8 = 38;
    pub const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_2: u8 = 41;
    pub const GTID_TAGGED: u8 = 42;
    pub const MARIADB_ANNOTATE_ROWS: u8 = 160;
    pub const MARIADB_BINLOG_CHECKPOINT: u8 = 161;
    pub const MARIADB_GTID: u8 = 162;
    pub const MARIADB_GTID_LIST: u8 = 163;
    pub const MARIADB_START_ENCRYPTION: u8 = 164;
    pub const MARIADB_QUERY_COMPRESSED: u8 = 165;
    pub const MARIADB_WRITE_ROWS_COMPRESSED_1: u8 = 166;
    pub const MARIADB_UPDATE_ROWS_COMPRESSED_1: u8 = 167;
    pub const MARIADB_DELETE_ROWS_COMPRESSED_1: u8 = 168;
    pub const MARIADB_WRITE_ROWS_COMPRESSED: u8 = 169;
    pub const MARIADB_UPDATE_ROWS_COMPRESSED: u8 = 170;
    pub const MARIADB_DELETE_ROWS_COMPRESSED: u8 = 171;
}

/// An event's name, for messages.
pub(crate) fn name(kind: u8) -> &'static str {
    match kind {
        kind::QUERY => "QUERY",
        kind::ROTATE => "ROTATE",
        kind::INTVAR => "INTVAR",
        kind::RAND => "RAND",
        kind::USER_VAR => "USER_VAR",
        kind::FORMAT_DESCRIPTION => "FORMAT_DESCRIPTION",
        kind::XID => "XID",
        kind::BEGIN_LOAD_QUERY => "BEGIN_LOAD_QUERY",
        kind::EXECUTE_LOAD_QUERY => "EXECUTE_LOAD_QUERY",
        kind::TABLE_MAP => "TABLE_MAP",
        kind::WRITE_ROWS_1 | kind::WRITE_ROWS => "WRITE_ROWS",
        kind::UPDATE_ROWS_1 | kind::UPDATE_ROWS => "UPDATE_ROWS",
        kind::DELETE_ROWS_1 | kind::DELETE_ROWS => "DELETE_ROWS",
        kind::INCIDENT => "INCIDENT",
        kind::HEARTBEAT | kind::HEARTBEAT_2 => "HEARTBEAT",
        kind::GTID => "GTID",
        kind::ANONYMOUS_GTID => "ANONYMOUS_GTID",
        kind::PREVIOUS_GTIDS => "PREVIOUS_GTIDS",
        kind::XA_PREPARE => "XA_PREPARE",
        kind::PARTIAL_UPDATE_ROWS => "PARTIAL_UPDATE_ROWS",
        kind::TRANSACTION_PAYLOAD => "TRANSACTION_PAYLOAD",
        kind::GTID_TAGGED => "GTID_TAGGED",
        kind::MARIADB_GTID => "GTID",
        kind::MARIADB_START_ENCRYPTION => "START_ENCRYPTION",
        kind::MARIADB_QUERY_COMPRESSED => "QUERY_COMPRESSED",
        kind::MARIADB_WRITE_ROWS_COMPRESSED_1..=kind::MARIADB_DELETE_ROWS_COMPRESSED => {
            "ROWS_COMPRESSED"
        }
        _ => "unknown",
    }
}

/// What stands before every event's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub timestamp: u32,
    pub kind: u8,
    pub server_id: u32,
    /// Of the whole event, with header and checksum.
    pub size: u32,
    /// Where the next event starts; 0 for events that are in no file.
    pub next: u32,
    pub flags: u16,
}

impl Header {
    fn parse(bytes: &mut Bytes<'_>) -> Parsed<Self> {
        Ok(Self {
            timestamp: bytes.u32()?,
            kind: bytes.u8()?,
            server_id: bytes.u32()?,
            size: bytes.u32()?,
            next: bytes.u32()?,
            flags: bytes.u16()?,
        })
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.timestamp.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5..9].copy_from_slice(&self.server_id.to_le_bytes());
        bytes[9..13].copy_from_slice(&self.size.to_le_bytes());
        bytes[13..17].copy_from_slice(&self.next.to_le_bytes());
        bytes[17..].copy_from_slice(&self.flags.to_le_bytes());
        bytes
    }
}

/// One event: header and body, the checksum taken off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    pub header: Header,
    pub body: &'a [u8],
    checksum: Option<[u8; 4]>,
    /// A format description's body ends with the number of the checksum's algorithm, which the
    /// driver takes off together with the checksum.
    algorithm: Option<u8>,
}

impl<'a> Raw<'a> {
    /// An event as it stands in a file; `checksums` as the format description before it said.
    pub fn parse(all: &'a [u8], checksums: bool) -> Parsed<Self> {
        let mut bytes = Bytes::new(all);
        let header = Header::parse(&mut bytes)?;
        if header.size as usize != all.len() {
            return Err(bytes.corrupt("an event has another size than its header says"));
        }
        let description = header.kind == kind::FORMAT_DESCRIPTION;
        let mut body = bytes.rest();
        let mut checksum = None;
        if checksums || description {
            let (rest, last) =
                body.split_last_chunk().ok_or_else(|| bytes.corrupt("an event has no checksum"))?;
            (body, checksum) = (rest, Some(*last));
        }
        let mut algorithm = None;
        if description {
            let (last, rest) =
                body.split_last().ok_or_else(|| bytes.corrupt("a format description is cut"))?;
            (body, algorithm) = (rest, Some(*last));
        }
        Ok(Self { header, body, checksum, algorithm })
    }

    /// An event as the driver gives it.
    pub fn of_driver(event: &'a mysql_async::binlog::events::Event) -> Self {
        let header = event.header();
        let header = Header {
            timestamp: header.timestamp(),
            kind: header.event_type_raw(),
            server_id: header.server_id(),
            size: header.event_size(),
            next: header.log_pos(),
            flags: header.flags_raw(),
        };
        let footer = event.footer();
        let algorithm = footer.get_checksum_alg().ok().flatten().map(|algorithm| algorithm as u8);
        let description = header.kind == kind::FORMAT_DESCRIPTION;
        // Inside a compressed transaction events have no checksums.
        let checksum = if footer.get_checksum_enabled() { event.checksum() } else { None };
        Self { header, body: event.data(), checksum, algorithm: algorithm.filter(|_| description) }
    }

    /// Compares the checksum, where there is one.
    pub fn verify(&self) -> Parsed<()> {
        let Some(checksum) = self.checksum else { return Ok(()) };
        // A format description always has room for a checksum, but only fills it where the log
        // has checksums.
        if self.algorithm.is_some_and(|algorithm| algorithm == 0) {
            return Ok(());
        }
        let mut header = self.header;
        if header.kind == kind::FORMAT_DESCRIPTION {
            header.flags &= !FLAG_IN_USE;
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&header.to_bytes());
        hasher.update(self.body);
        if let Some(algorithm) = self.algorithm {
            hasher.update(&[algorithm]);
        }
        if hasher.finalize() == u32::from_le_bytes(checksum) {
            Ok(())
        } else {
            Err(Broken::corrupt("the event's checksum is wrong", HEADER_BYTES + self.body.len()))
        }
    }

    /// What a format description says about the events after it: whether they have checksums.
    pub fn checksums(&self) -> Parsed<bool> {
        match self.algorithm {
            None | Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(other) => Err(Broken::unknown(
                format!("checksums by the unknown algorithm {other}"),
                HEADER_BYTES,
            )),
        }
    }
}

/// The start of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Begin {
    pub gtid: Gtid,
    /// When it committed first, in µs since 1970.
    pub commit_us: u64,
    /// MariaDB: one statement follows, without an end of its own.
    pub standalone: bool,
    /// MariaDB: the event stands for BEGIN.
    pub begins: bool,
    /// MariaDB: the transaction is prepared with its end, not committed.
    pub prepares: bool,
}

/// `GTID` of MySQL.
pub(crate) fn parse_gtid(header: &Header, body: &[u8]) -> Parsed<Begin> {
    let mut bytes = Bytes::new(body);
    let _flags = bytes.u8()?;
    let uuid = Uuid(bytes.array()?);
    let number = bytes.u64()?;
    // Logical clock: a type byte (2) and two counters; absent in logs of 5.6.
    let mut commit_us = u64::from(header.timestamp) * 1_000_000;
    if bytes.left() >= 24 && bytes.u8()? == 2 {
        bytes.take(16)?;
        let immediate = bytes.unsigned(7)?;
        // The top bit says that the original's time follows, as the two differ.
        commit_us = if immediate >> 55 == 1 { bytes.unsigned(7)? } else { immediate };
    }
    begin_mysql(uuid, None, number, commit_us, &bytes)
}

/// `GTID_TAGGED`: fields of the serialisation library, each behind its number.
pub(crate) fn parse_gtid_tagged(body: &[u8]) -> Parsed<Begin> {
    let mut bytes = Bytes::new(body);
    let version = bytes.u8()?;
    if version != 2 {
        return Err(bytes.unknown(format!(
            "a tagged GTID of the unknown serialisation version {}",
            version >> 1
        )));
    }
    let size = bytes.varlen()?;
    let last_needed = bytes.varlen()?;
    let (mut uuid, mut number, mut tag) = (None, None, None);
    let (mut immediate, mut original) = (0, None);
    while (bytes.at() as u64) < size && !bytes.is_empty() {
        match bytes.varlen()? {
            1 => {
                let mut raw = [0; 16];
                for byte in &mut raw {
                    *byte = u8::try_from(bytes.varlen()?)
                        .map_err(|_| bytes.corrupt("a UUID's byte is too large"))?;
                }
                uuid = Some(Uuid(raw));
            }
            // Signed: the lowest bit is the sign.
            2 => number = Some(bytes.varlen()? >> 1),
            3 => {
                let length = bytes.varlen()?;
                tag = Some(bytes.text(usize::try_from(length).unwrap_or(usize::MAX))?);
            }
            // Flags, logical clock, length, versions, ticket.
            0 | 4 | 5 | 8..=11 => {
                bytes.varlen()?;
            }
            6 => immediate = bytes.varlen()?,
            7 => original = Some(bytes.varlen()?),
            field if field <= last_needed => {
                return Err(bytes.unknown(format!("a tagged GTID with the unknown field {field}")));
            }
            _ => break,
        }
    }
    let (Some(uuid), Some(number), Some(tag)) = (uuid, number, tag) else {
        return Err(bytes.corrupt("a tagged GTID lacks its name"));
    };
    begin_mysql(uuid, Some(tag), number, original.unwrap_or(immediate), &bytes)
}

fn begin_mysql(
    uuid: Uuid,
    tag: Option<&str>,
    number: u64,
    commit_us: u64,
    bytes: &Bytes<'_>,
) -> Parsed<Begin> {
    if number == 0 || number > unitflow_change::gtid::NUMBER_MAX {
        return Err(bytes.corrupt("a GTID with an impossible number"));
    }
    let source = Source::new(uuid, tag.filter(|tag| !tag.is_empty()))
        .map_err(|_| bytes.corrupt("a GTID with an impossible tag"))?;
    Ok(Begin {
        gtid: Gtid::Mysql { source, number },
        commit_us,
        standalone: false,
        begins: false,
        prepares: false,
    })
}

/// `GTID` of MariaDB.
pub(crate) fn parse_gtid_mariadb(header: &Header, body: &[u8]) -> Parsed<Begin> {
    const STANDALONE: u8 = 1;
    const PREPARED_XA: u8 = 64;
    const COMPLETED_XA: u8 = 128;
    let mut bytes = Bytes::new(body);
    let sequence = bytes.u64()?;
    let domain = bytes.u32()?;
    let flags = bytes.u8()?;
    // ALTER TABLE in two phases (binlog_alter_two_phase) stands behind the group's number and the
    // XA transaction's name, which its other events have too.
    const GROUP_COMMIT: u8 = 2;
    const ALTER: u8 = 2 | 4 | 8;
    if flags & GROUP_COMMIT != 0 {
        bytes.u64()?;
        if flags & (PREPARED_XA | COMPLETED_XA) != 0 {
            bytes.u32()?;
            let length = usize::from(bytes.u8()?) + usize::from(bytes.u8()?);
            bytes.take(length)?;
        }
        if !bytes.is_empty() && bytes.u8()? & ALTER != 0 {
            return Err(bytes
                .unknown("an ALTER TABLE in two phases")
                .hint("set binlog_alter_two_phase=OFF at the source"));
        }
    }
    Ok(Begin {
        gtid: Gtid::Mariadb { domain, server: header.server_id, sequence },
        commit_us: u64::from(header.timestamp) * 1_000_000,
        standalone: flags & STANDALONE != 0,
        begins: flags & STANDALONE == 0,
        prepares: flags & PREPARED_XA != 0,
    })
}

/// `XA_PREPARE`: whether the transaction is committed with it, and its name.
pub(crate) fn parse_xa_prepare(body: &[u8]) -> Parsed<(bool, String)> {
    let mut bytes = Bytes::new(body);
    let one_phase = bytes.u8()? != 0;
    let format = bytes.u32()?.cast_signed();
    let (global, branch) = (bytes.u32()?, bytes.u32()?);
    if global > XID_PART_MAX || branch > XID_PART_MAX {
        return Err(bytes.corrupt("the name of an XA transaction is too long"));
    }
    let hex = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (global, branch) = (hex(bytes.take(global as usize)?), hex(bytes.take(branch as usize)?));
    Ok((one_phase, format!("X'{global}',X'{branch}',{format}")))
}

/// Bytes of each part of an XA transaction's name.
const XID_PART_MAX: u32 = 64;

/// The name of an XA transaction as a statement in the log has it: `X'61',X'',1`.
pub(crate) fn parse_xid(text: &str) -> Parsed<String> {
    let name = text.trim().to_ascii_lowercase();
    let mut parts = name.split(',');
    let part = |part: Option<&str>| {
        let hex = part?.strip_prefix("x'")?.strip_suffix('\'')?;
        let good = hex.len() <= 2 * XID_PART_MAX as usize
            && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        good.then(|| hex.to_owned())
    };
    match (
        part(parts.next()),
        part(parts.next()),
        parts.next().map(str::parse::<i32>),
        parts.next(),
    ) {
        (Some(global), Some(branch), Some(Ok(format)), None) => {
            Ok(format!("X'{global}',X'{branch}',{format}"))
        }
        _ => Err(Broken::unknown("an XA transaction with an unreadable name", 0)),
    }
}

/// `QUERY`: a statement and what of its session it depends on.
pub(crate) struct Query<'a> {
    /// The session that it ran in.
    pub thread: u32,
    pub database: &'a str,
    pub statement: std::borrow::Cow<'a, str>,
    variables: Variables<'a>,
}

pub(crate) fn parse_query<'a>(flavor: Flavor, body: &'a [u8]) -> Parsed<Query<'a>> {
    let mut bytes = Bytes::new(body);
    let (thread, database, variables) = read_query_head(&mut bytes)?;
    let variables = Variables { flavor, bytes: Bytes::new(variables) };
    let offset = bytes.at();
    let text = bytes.rest();
    let statement = if text.is_ascii() {
        String::from_utf8_lossy(text)
    } else {
        let charset = variables.clone().client_charset().ok_or_else(|| {
            Broken::unknown("a statement in a character set that the decoder does not know", offset)
        })?;
        let mut statement = String::with_capacity(text.len());
        charset.decode(text, &mut |character| statement.push(character)).map_err(|at| {
            Broken::corrupt(format!("a statement is not {charset:?}"), offset + at)
        })?;
        statement.into()
    };
    Ok(Query { thread, database, statement, variables })
}

impl Query<'_> {
    /// The session's `sql_mode` and the rest of what the server logged of it. `seconds`: when the
    /// statement began.
    pub fn session(&self, seconds: u32) -> (u64, Session) {
        let at_us = u64::from(seconds) * 1_000_000;
        let mut session = Session { at_us, ..Session::default() };
        let mut sql_mode = 0;
        for (number, value) in self.variables.clone() {
            let mut value = Bytes::new(value);
            let mut short = || value.u16().ok();
            match number {
                variable::FLAGS if self.variables.flavor == Flavor::Mariadb => {
                    let flags = value.u32().unwrap_or(0);
                    session.explicit_timestamps = Some(flags & FLAG_EXPLICIT_DEFAULTS != 0);
                }
                variable::AUTO_INCREMENT => session.auto_increment = short().zip(short()),
                variable::SQL_MODE => sql_mode = value.u64().unwrap_or(0),
                variable::CHARSET => {
                    short();
                    (session.collation, session.collation_server) = (short(), short());
                }
                variable::TIME_ZONE => {
                    session.time_zone = Some(String::from_utf8_lossy(value.rest()).into_owned());
                }
                variable::MICROSECONDS | variable::MARIADB_MICROSECONDS => {
                    session.at_us += value.unsigned(3).unwrap_or(0);
                }
                variable::EXPLICIT_DEFAULTS => {
                    session.explicit_timestamps = value.u8().ok().map(|flag| flag != 0);
                }
                variable::COLLATION_FOR_UTF8MB4 => session.collation_utf8mb4 = short(),
                _ => {}
            }
        }
        (sql_mode, session)
    }
}

/// The numbers of a statement's status variables.
mod variable {
    pub const FLAGS: u8 = 0;
    pub const SQL_MODE: u8 = 1;
    pub const AUTO_INCREMENT: u8 = 3;
    pub const CHARSET: u8 = 4;
    pub const TIME_ZONE: u8 = 5;
    pub const INVOKER: u8 = 11;
    pub const DATABASES: u8 = 12;
    pub const MICROSECONDS: u8 = 13;
    pub const EXPLICIT_DEFAULTS: u8 = 16;
    pub const COLLATION_FOR_UTF8MB4: u8 = 18;
    pub const MARIADB_MICROSECONDS: u8 = 128;
}

/// MariaDB's flag for `explicit_defaults_for_timestamp`.
const FLAG_EXPLICIT_DEFAULTS: u32 = 1 << 24;

/// A statement's status variables: number and value, up to the first that is not known. Servers
/// write newer ones behind older ones.
#[derive(Clone)]
struct Variables<'a> {
    flavor: Flavor,
    bytes: Bytes<'a>,
}

impl<'a> Variables<'a> {
    /// The client's character set.
    fn client_charset(mut self) -> Option<Charset> {
        let (_, value) = self.find(|(number, _)| *number == variable::CHARSET)?;
        Charset::of_collation(Bytes::new(value).u16().ok()?.into())
    }

    fn read(&mut self) -> Parsed<Option<(u8, &'a [u8])>> {
        let number = self.bytes.u8()?;
        let start = self.bytes.at();
        let length = match (number, self.flavor) {
            (0 | 3 | 10, _) => 4,
            (1 | 9 | 17, _) => 8,
            (4, _) => 6,
            (variable::TIME_ZONE | 6, _) => usize::from(self.bytes.u8()?),
            (7 | 8 | 18, _) => 2,
            (variable::INVOKER, _) => {
                for _ in ["user", "host"] {
                    let length = usize::from(self.bytes.u8()?);
                    self.bytes.take(length)?;
                }
                return Ok(Some((number, self.bytes.since(start))));
            }
            (variable::DATABASES, _) => {
                self.skip_databases()?;
                return Ok(Some((number, self.bytes.since(start))));
            }
            (13, _) | (128, Flavor::Mariadb) => 3,
            (16 | 19 | 20, _) => 1,
            (129, Flavor::Mariadb) => 8,
            _ => return Ok(None),
        };
        Ok(Some((number, self.bytes.take(length)?)))
    }

    /// Names that end with a zero; more of them than this are not named.
    fn skip_databases(&mut self) -> Parsed<()> {
        const OVER_MAX: u8 = 254;
        let count = self.bytes.u8()?;
        for _ in 0..if count == OVER_MAX { 0 } else { count } {
            while self.bytes.u8()? != 0 {}
        }
        Ok(())
    }
}

impl<'a> Iterator for Variables<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.read().ok().flatten()
    }
}

/// The session, the default database and the status variables, which stand before the statement.
fn read_query_head<'a>(bytes: &mut Bytes<'a>) -> Parsed<(u32, &'a str, &'a [u8])> {
    let thread = bytes.u32()?;
    bytes.take(4)?;
    let database = usize::from(bytes.u8()?);
    bytes.u16()?;
    let variables = usize::from(bytes.u16()?);
    let variables = bytes.take(variables)?;
    let database = bytes.text(database)?;
    bytes.u8()?;
    Ok((thread, database, variables))
}

/// Appends the body of the `QUERY` that a `QUERY_COMPRESSED` stands for.
pub(crate) fn unpack_query(body: &[u8], out: &mut Vec<u8>) -> Parsed<()> {
    let mut bytes = Bytes::new(body);
    read_query_head(&mut bytes)?;
    out.extend_from_slice(bytes.since(0));
    unpack_event(&mut bytes, out)
}

/// Appends the body of the rows event that a compressed one stands for: table, flags, extra data
/// (`extra`: of events of the second version), columns, and a bitmap of them for each image.
pub(crate) fn unpack_rows(
    body: &[u8],
    extra: bool,
    images: usize,
    out: &mut Vec<u8>,
) -> Parsed<()> {
    let mut bytes = Bytes::new(body);
    bytes.take(8)?;
    if extra {
        let size = bytes
            .u16()?
            .checked_sub(2)
            .ok_or_else(|| bytes.corrupt("a rows event with a negative size"))?;
        bytes.take(size.into())?;
    }
    let columns = usize::try_from(bytes.length()?).unwrap_or(usize::MAX);
    bytes.take(columns.div_ceil(8).saturating_mul(images))?;
    out.extend_from_slice(bytes.since(0));
    unpack_event(&mut bytes, out)
}

/// `ROTATE`: the file that follows, and where in it.
pub(crate) fn parse_rotate(header: &Header, body: &[u8]) -> Parsed<(String, u64)> {
    let mut bytes = Bytes::new(body);
    let next = bytes.u64()?;
    let mut name = bytes.rest();
    // MariaDB counts a checksum into the artificial event that it sends before the format
    // description, where the driver does not yet look for one.
    let artificial = header.next == 0 && HEADER_BYTES + body.len() == header.size as usize;
    let file =
        |name: &[u8]| name.iter().rev().take(6).all(u8::is_ascii_digit) && name.contains(&b'.');
    match name.split_last_chunk::<4>() {
        Some((stem, _)) if artificial && file(stem) && !file(name) => name = stem,
        _ => {}
    }
    Ok((String::from_utf8_lossy(name).into_owned(), next))
}

/// `TRANSACTION_PAYLOAD`: how many bytes of events are packed into it, and how.
pub(crate) fn parse_payload(body: &[u8]) -> Parsed<u64> {
    let mut bytes = Bytes::new(body);
    let (mut kind, mut unpacked) = (None, None);
    loop {
        match bytes.length()? {
            0 => break,
            field @ 1..=3 => {
                let mut value = Bytes::new(bytes.counted()?);
                let value = value.length()?;
                match field {
                    2 => kind = Some(value),
                    3 => unpacked = Some(value),
                    _ => {}
                }
            }
            _ => {
                bytes.counted()?;
            }
        }
    }
    // 0: zstd, 255: none.
    match kind {
        Some(0 | 255) => {
            unpacked.ok_or_else(|| bytes.corrupt("a compressed transaction without size"))
        }
        _ => Err(bytes.unknown("a transaction compressed in an unknown way")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event with its checksum.
    fn event(kind: u8, body: &[u8]) -> Vec<u8> {
        let header = Header {
            timestamp: 1_700_000_000,
            kind,
            server_id: 1,
            size: (HEADER_BYTES + body.len() + CHECKSUM_BYTES) as u32,
            next: 500,
            flags: 0,
        };
        let mut event = header.to_bytes().to_vec();
        event.extend_from_slice(body);
        event.extend_from_slice(&crc32fast::hash(&event).to_le_bytes());
        event
    }

    #[test]
    fn one_flipped_bit_is_noticed_wherever_it_is() {
        let event = event(kind::XID, &[7; 8]);
        assert!(Raw::parse(&event, true).unwrap().verify().is_ok());
        for at in 0..event.len() * 8 {
            let mut flipped = event.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            let noticed = Raw::parse(&flipped, true).and_then(|raw| raw.verify());
            assert!(noticed.is_err(), "bit {at}");
        }
    }

    #[test]
    fn a_statement_comes_with_what_it_depends_on() {
        let mut variables = vec![0, 0, 0, 0, 0, 1];
        variables.extend_from_slice(&4_u64.to_le_bytes());
        variables.extend_from_slice(b"\x06\x03std\x03\x02\0\x01\0\x04\x2d\0\x08\0\xff\0");
        variables
            .extend_from_slice(b"\x05\x06+05:00\x0b\x01u\x01h\x0c\x02shop\0x\0\x0d\x40\xe2\x01");
        variables.extend_from_slice(b"\x10\x01\x12\xff\0");
        let mut body = vec![7, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0];
        body.extend_from_slice(&(variables.len() as u16).to_le_bytes());
        body.extend_from_slice(&variables);
        body.extend_from_slice(b"shop\0TRUNCATE t");
        let query = parse_query(Flavor::Mysql, &body).unwrap();
        let expected = Session {
            at_us: 1_700_000_000_123_456,
            time_zone: Some("+05:00".into()),
            system_zone: None,
            collation: Some(8),
            collation_server: Some(255),
            collation_utf8mb4: Some(255),
            auto_increment: Some((2, 1)),
            explicit_timestamps: Some(true),
            folds_names: false,
        };
        assert_eq!((query.database, &*query.statement), ("shop", "TRUNCATE t"));
        assert_eq!(query.session(1_700_000_000), (4, expected));
        // What is not known ends the list, wherever the bytes are cut.
        let all = Variables { flavor: Flavor::Mysql, bytes: Bytes::new(&variables) }.count();
        assert_eq!(all, 11);
        for cut in 0..variables.len() {
            let bytes = Bytes::new(&variables[..cut]);
            assert!(Variables { flavor: Flavor::Mysql, bytes }.count() < all);
        }
    }

    #[test]
    fn names_of_xa_transactions_are_the_same_in_both_forms() {
        let mut body = vec![0];
        for number in [7_u32, 2, 1] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.extend_from_slice(b"\x00aZ");
        let (one_phase, name) = parse_xa_prepare(&body).unwrap();
        assert_eq!((one_phase, name.as_str()), (false, "X'0061',X'5a',7"));
        assert_eq!(parse_xid(" X'0061',X'5A',7").unwrap(), name);
        for bad in ["", "X'',X''", "X'0g',X'',1", "X'',X'',1 ONE PHASE", "'a','b',1"] {
            assert!(parse_xid(bad).is_err(), "{bad}");
        }
        body[5] = 200;
        assert!(parse_xa_prepare(&body).is_err());
    }

    #[test]
    fn artificial_rotations_lose_their_checksum() {
        let mut body = 4_u64.to_le_bytes().to_vec();
        body.extend_from_slice(b"binlog.000003");
        let mut header = Header { size: (HEADER_BYTES + body.len()) as u32, ..Header::default() };
        assert_eq!(parse_rotate(&header, &body).unwrap(), ("binlog.000003".into(), 4));
        body.extend_from_slice(&[0x9f, 0x31, 0x00, 0xe0]);
        header.size += 4;
        assert_eq!(parse_rotate(&header, &body).unwrap(), ("binlog.000003".into(), 4));
    }
}
