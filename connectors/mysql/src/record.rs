//! From row images to records.
//!
//! A record's value is Debezium's envelope, its key the row's place in the world:
//! `["db","table",{"id":1}]`. Where records carry their schema, both are payloads behind it, and the
//! key's is the columns alone. Both are written into buffers that are used again for the next row;
//! what does not change within a stream, a transaction or a table is copied as it stands.

use std::time::{SystemTime, UNIX_EPOCH};

use unitflow_change::envelope::Op;

use crate::bytes::{Broken, Bytes, Parsed};
use crate::charset::Charset;
use crate::compressed::unpack_value;
use crate::connect::Flavor;
use crate::json;
use crate::kind::Kind;
use crate::table::Table;
use crate::value;

/// Buffers above this are given back after a large row.
const BUFFER_BYTES_KEPT: usize = 8 << 20;

/// What a hidden column holds.
const HASH_BYTES: usize = 8;

/// Where a row stands: what the envelope says of it besides the data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub commit_us: u64,
    pub server_id: u32,
    /// The event's place in the file.
    pub at: u64,
    /// The row's place in its transaction.
    pub row: u64,
}

/// One record at a time.
#[derive(Debug)]
pub(crate) struct Record {
    /// `,"source":{"version":…,"ts_ms":`
    head: Vec<u8>,
    /// `,"gtid":…,"file":…,"pos":`
    names: Vec<u8>,
    /// The session that wrote the transaction, where the log tells.
    thread: Option<u32>,
    now_us: u64,
    key: Vec<u8>,
    value: Vec<u8>,
    moves: bool,
    scratch: Vec<u8>,
    spans: Vec<(usize, usize)>,
    spans_after: Vec<(usize, usize)>,
}

impl Record {
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
            head,
            names: Vec::new(),
            thread: None,
            now_us: 0,
            key: Vec::new(),
            value: Vec::new(),
            moves: false,
            scratch: Vec::new(),
            spans: Vec::new(),
            spans_after: Vec::new(),
        }
    }

    /// The record that `write` wrote: key, value, and whether the update changed the primary key.
    pub fn parts(&self) -> (&[u8], &[u8], bool) {
        (&self.key, &self.value, self.moves)
    }

    /// What follows is of another transaction.
    pub fn begin(&mut self, gtid: &str, file: &str) {
        self.thread = None;
        self.names.clear();
        self.names.extend_from_slice(b",\"gtid\":\"");
        self.names.extend_from_slice(gtid.as_bytes());
        self.names.extend_from_slice(b"\",\"file\":");
        value::write_string(&mut self.names, file);
        self.names.extend_from_slice(b",\"pos\":");
    }

    /// The session that wrote what follows.
    pub fn thread(&mut self, thread: u32) {
        self.thread = Some(thread);
    }

    /// The records that follow were written now.
    pub fn stamp(&mut self) {
        self.now_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as u64);
    }

    /// Writes the record of the row that the bytes stand at; they are moved behind it.
    ///
    /// `partial` tells that the after-image of an update may hold changes of documents only.
    pub fn write(
        &mut self,
        table: &Table,
        (op, partial): (Op, bool),
        bytes: &mut Bytes<'_>,
        place: Place,
    ) -> Parsed<()> {
        let Self { key, value, scratch, spans, spans_after, .. } = self;
        for buffer in [&mut *key, &mut *value, &mut *scratch] {
            if buffer.capacity() > BUFFER_BYTES_KEPT {
                *buffer = Vec::new();
            }
            buffer.clear();
        }
        if let Some(declared) = &table.declared {
            value.extend_from_slice(&declared.value_head);
        }
        value.extend_from_slice(b"{\"before\":");
        self.moves = false;
        match op {
            // The log holds no rows that were only read.
            Op::Insert | Op::Read => {
                value.extend_from_slice(b"null,\"after\":");
                write_image(table, bytes, value, scratch, spans, &mut Documents::Whole)?;
            }
            Op::Delete => {
                write_image(table, bytes, value, scratch, spans, &mut Documents::Whole)?;
                value.extend_from_slice(b",\"after\":null");
            }
            Op::Update => {
                let mut kept = Vec::new();
                let mut documents =
                    if partial { Documents::Kept(&mut kept) } else { Documents::Whole };
                write_image(table, bytes, value, scratch, spans, &mut documents)?;
                value.extend_from_slice(b",\"after\":");
                let mut documents = match partial {
                    true => Documents::read_options(&kept, bytes)?,
                    false => Documents::Whole,
                };
                write_image(table, bytes, value, scratch, spans_after, &mut documents)?;
                self.moves = spans
                    .iter()
                    .zip(spans_after.iter())
                    .any(|(before, after)| value[before.0..before.1] != value[after.0..after.1]);
            }
        }
        let (head, tail) = key_frame(table);
        key.extend_from_slice(head);
        if table.key.is_empty() {
            key.extend_from_slice(b"null");
        } else {
            for (place, (&column, &(start, end))) in table.key.iter().zip(spans.iter()).enumerate()
            {
                key.push(if place == 0 { b'{' } else { b',' });
                key.extend_from_slice(&table.columns[column].lead[1..]);
                key.extend_from_slice(&value[start..end]);
            }
            key.push(b'}');
        }
        key.push(tail);
        self.finish(table, op, place);
        Ok(())
    }

    /// Writes the record of a row that was read from its table: the columns of its key and all of
    /// its columns, each a JSON object as the log's rows have it.
    pub fn copy(&mut self, table: &Table, key: &[u8], after: &[u8], place: Place) {
        self.key.clear();
        self.value.clear();
        self.moves = false;
        self.names.clear();
        self.names.extend_from_slice(b",\"gtid\":null,\"file\":\"\",\"pos\":");
        let (head, tail) = key_frame(table);
        self.key.extend_from_slice(head);
        self.key.extend_from_slice(key);
        self.key.push(tail);
        if let Some(declared) = &table.declared {
            self.value.extend_from_slice(&declared.value_head);
        }
        self.value.extend_from_slice(b"{\"before\":null,\"after\":");
        self.value.extend_from_slice(after);
        self.finish(table, Op::Read, place);
    }

    /// Appends all that stands behind the row images.
    fn finish(&mut self, table: &Table, op: Op, place: Place) {
        let value = &mut self.value;
        value.extend_from_slice(&self.head);
        write_moment(value, place.commit_us);
        value.extend_from_slice(&table.source);
        value::write_integer(value, place.server_id);
        value.extend_from_slice(&self.names);
        value::write_integer(value, place.at);
        value.extend_from_slice(b",\"row\":");
        value::write_integer(value, place.row);
        value.extend_from_slice(b",\"thread\":");
        match self.thread {
            Some(thread) => value::write_integer(value, thread),
            None => value.extend_from_slice(b"null"),
        }
        value.extend_from_slice(b",\"query\":null},\"transaction\":null,\"op\":\"");
        value.extend_from_slice(op.as_str().as_bytes());
        value.extend_from_slice(b"\",\"ts_ms\":");
        write_moment(value, self.now_us);
        value.push(b'}');
        if table.declared.is_some() {
            value.push(b'}');
        }
    }
}

/// What stands before and behind the columns of a key.
fn key_frame(table: &Table) -> (&[u8], u8) {
    match &table.declared {
        Some(declared) => (&declared.key_head, b'}'),
        None => (&table.key_head, b']'),
    }
}

/// Appends the value of `ts_ms`, and behind it `ts_us` and `ts_ns`.
fn write_moment(out: &mut Vec<u8>, us: u64) {
    value::write_integer(out, us / 1000);
    out.extend_from_slice(b",\"ts_us\":");
    value::write_integer(out, us);
    out.extend_from_slice(b",\"ts_ns\":");
    value::write_integer(out, us.saturating_mul(1000));
}

/// What becomes of the JSON documents of a row image.
enum Documents<'d, 'a> {
    /// They stand there whole.
    Whole,
    /// They are whole, and the after-image may say only what changed in them. NULLs count.
    Kept(&'d mut Vec<Option<&'a [u8]>>),
    /// Those whose bit is set are changes of the kept one in the same place.
    Changed { kept: &'d [Option<&'a [u8]>], bits: &'a [u8], place: usize },
}

impl<'d, 'a> Documents<'d, 'a> {
    /// Reads what stands before an after-image: options, and a bit for each JSON column.
    fn read_options(kept: &'d [Option<&'a [u8]>], bytes: &mut Bytes<'a>) -> Parsed<Self> {
        const PARTIAL_JSON: u64 = 1;
        match bytes.length()? {
            0 => Ok(Self::Whole),
            PARTIAL_JSON => {
                let bits = bytes.take(kept.len().div_ceil(8))?;
                Ok(Self::Changed { kept, bits, place: 0 })
            }
            other => Err(bytes.unknown(format!("rows with the unknown options {other}"))),
        }
    }

    /// Goes on to the next JSON column; the document that it changes, where it is a change.
    fn next(&mut self) -> Parsed<Option<&'a [u8]>> {
        let Self::Changed { kept, bits, place } = self else { return Ok(None) };
        let changed = bits.get(*place / 8).is_some_and(|byte| byte >> (*place % 8) & 1 == 1);
        let document = kept.get(*place).copied().flatten();
        *place += 1;
        match document {
            None if changed => Err(Broken::corrupt("a change of a JSON document that was NULL", 0)),
            document => Ok(document.filter(|_| changed)),
        }
    }

    fn keep(&mut self, document: Option<&'a [u8]>) {
        if let Self::Kept(kept) = self {
            kept.push(document);
        }
    }
}

/// Appends a row image as a JSON object, and notes where the key columns' values stand.
fn write_image<'a>(
    table: &Table,
    bytes: &mut Bytes<'a>,
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    spans: &mut Vec<(usize, usize)>,
    documents: &mut Documents<'_, 'a>,
) -> Parsed<()> {
    let nulls = bytes.take(table.columns.len().div_ceil(8))?;
    spans.clear();
    spans.resize(table.key.len(), (0, 0));
    if table.columns.is_empty() {
        out.push(b'{');
    }
    for (i, column) in table.columns.iter().enumerate() {
        let null = nulls[i / 8] >> (i % 8) & 1 == 1;
        if column.hidden {
            bytes.take(if null { 0 } else { HASH_BYTES })?;
            continue;
        }
        out.extend_from_slice(&column.lead);
        let start = out.len();
        let written = match &column.kind {
            Kind::Json { prefix } => write_json(null, *prefix, bytes, out, scratch, documents),
            _ if null => {
                out.extend_from_slice(b"null");
                Ok(())
            }
            kind => write_value(kind, bytes, out, scratch),
        };
        if let Err(broken) = written {
            let place = format!("{}.{}.{}", table.database, table.name, column.name);
            return Err(Broken { what: format!("{place}: {}", broken.what).into(), ..broken });
        } else if !null && table.declared.is_some() && column.kind.is_local_time() {
            // A plain string is for servers to read, and they know no `Z`.
            out.truncate(out.len() - 2);
            out.push(b'"');
        }
        if let Some(span) = column.key.and_then(|place| spans.get_mut(place)) {
            *span = (start, out.len());
        }
    }
    out.push(b'}');
    Ok(())
}

/// As many bytes as the `prefix` bytes before them say.
fn prefixed<'a>(bytes: &mut Bytes<'a>, prefix: u8) -> Parsed<&'a [u8]> {
    let length = bytes.unsigned(prefix.into())?;
    bytes.take(usize::try_from(length).unwrap_or(usize::MAX))
}

/// Appends a document as a JSON string: whole, or as its changes leave it.
fn write_json<'a>(
    null: bool,
    prefix: u8,
    bytes: &mut Bytes<'a>,
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    documents: &mut Documents<'_, 'a>,
) -> Parsed<()> {
    let changed = documents.next()?;
    if null {
        documents.keep(None);
        out.extend_from_slice(b"null");
        return Ok(());
    }
    let raw = prefixed(bytes, if changed.is_some() { 4 } else { prefix })?;
    documents.keep(Some(raw));
    let offset = bytes.at() - raw.len();
    scratch.clear();
    let written = match changed {
        Some(document) => json::write_changed(scratch, document, raw),
        None => json::write_document(scratch, raw),
    };
    written.map_err(|broken| Broken { offset: offset + broken.offset, ..broken })?;
    out.push(b'"');
    value::write_escaped(out, scratch);
    out.push(b'"');
    Ok(())
}

fn write_value(
    kind: &Kind,
    bytes: &mut Bytes<'_>,
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
) -> Parsed<()> {
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
            // What a server keeps of a value that is no member. Where there is an empty member too,
            // the number tells them apart.
            0 if values.iter().any(|value| value == b"\"\"") => out.push(b'0'),
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
            write_json(false, *prefix, bytes, out, scratch, &mut Documents::Whole)?;
        }
        Kind::Compressed { prefix, limit, charset } => {
            let raw = prefixed(bytes, *prefix)?;
            let offset = bytes.at() - raw.len();
            scratch.clear();
            unpack_value(&mut Bytes::new(raw), *limit, scratch)
                .map_err(|broken| Broken { offset: offset + broken.offset, ..broken })?;
            match charset {
                Charset::Binary => value::write_base64(out, scratch),
                charset => {
                    out.push(b'"');
                    value::write_text(out, *charset, scratch, offset)?;
                    out.push(b'"');
                }
            }
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
    use super::*;
    use crate::table::{Disguised, Disguises, Parsing};

    /// MariaDB 10.11: `create table shop.hashed (id int primary key, body text, n int, unique (body))`.
    const MAP: &[u8] =
        b"\x16\0\0\0\0\0\x01\0\x04shop\0\x06hashed\0\x04\x03\xfc\x03\x08\x01\x02\x0e\
        \x01\x01\x20\x02\x01\x08\x04\x18\x02id\x04body\x01n\x0dDB_ROW_HASH_1\x08\x01\0";
    /// `(1, 'two', 11)`, and behind it `(2, null, 20)`.
    const ROWS: &[u8] = b"\xf0\x01\0\0\0\x03\0two\x0b\0\0\0\x04\xe8\xb3\x02\0\0\0\0\
        \xfa\x02\0\0\0\x14\0\0\0";

    fn rows(disguises: &Disguises) -> Vec<String> {
        let parsed = Table::parse(Flavor::Mariadb, MAP, Some(disguises)).unwrap();
        let Parsing::Ready(table) = parsed else { panic!("the table is veiled") };
        let (mut bytes, mut rows) = (Bytes::new(ROWS), Vec::new());
        while !bytes.is_empty() {
            let (mut out, mut scratch, mut spans) = (Vec::new(), Vec::new(), Vec::new());
            let whole = &mut Documents::Whole;
            write_image(&table, &mut bytes, &mut out, &mut scratch, &mut spans, whole).unwrap();
            rows.push(String::from_utf8(out).unwrap());
        }
        rows
    }

    #[test]
    fn the_hash_of_a_long_key_is_no_part_of_a_row() {
        let asked = Table::parse(Flavor::Mariadb, MAP, None).unwrap();
        assert!(matches!(asked, Parsing::Veiled { .. }), "{asked:?}");
        assert_eq!(
            rows(&Disguises::new()),
            [r#"{"id":1,"body":"two","n":11}"#, r#"{"id":2,"body":null,"n":20}"#]
        );
        let own = Disguises::from([("DB_ROW_HASH_1".to_owned(), Disguised::Itself)]);
        assert_eq!(
            rows(&own),
            [
                r#"{"id":1,"body":"two","n":11,"DB_ROW_HASH_1":45344772}"#,
                r#"{"id":2,"body":null,"n":20,"DB_ROW_HASH_1":null}"#
            ]
        );
    }
}
