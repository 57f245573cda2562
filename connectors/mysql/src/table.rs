//! `TABLE_MAP`: what the rows after it look like.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

use unitflow_change::fault::Code;
use unitflow_change::position::Digest;

use crate::bytes::{Broken, Bytes, Parsed};
use crate::charset::Charset;
use crate::connect::Flavor;
use crate::value::{Decimal, write_escaped, write_string};

/// More columns than any server allows.
const COLUMNS_MAX: usize = 4096;

/// How a column's values are stored and written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Integer {
        bytes: u8,
        unsigned: bool,
    },
    Float,
    Double,
    Decimal(Decimal),
    Year,
    Date,
    Time {
        fraction: u8,
    },
    Datetime {
        fraction: u8,
    },
    Timestamp {
        fraction: u8,
    },
    Bit {
        bytes: u8,
        single: bool,
    },
    /// CHAR, VARCHAR and the TEXT family; `prefix` bytes hold the length.
    Text {
        prefix: u8,
        charset: Charset,
    },
    /// VARBINARY and the BLOB family.
    Blob {
        prefix: u8,
    },
    /// BINARY, whose trailing zero bytes are not in the log.
    Binary {
        prefix: u8,
        length: usize,
    },
    /// Each value as a JSON string.
    Enum {
        bytes: u8,
        values: Vec<Vec<u8>>,
    },
    /// Each value as the inside of a JSON string.
    Set {
        bytes: u8,
        values: Vec<Vec<u8>>,
    },
    Json {
        prefix: u8,
    },
    Geometry {
        prefix: u8,
    },
    Vector {
        prefix: u8,
    },
    Uuid {
        prefix: u8,
        swapped: bool,
    },
    Inet6 {
        prefix: u8,
    },
    Inet4 {
        prefix: u8,
    },
}

/// What MariaDB's log does not tell about a column of type BINARY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disguised {
    Uuid,
    /// From before 10.11.5: all versions are stored in reverse order.
    OldUuid,
    Inet6,
    Inet4,
}

impl Disguised {
    fn kind(self, prefix: u8) -> Kind {
        match self {
            Self::Uuid => Kind::Uuid { prefix, swapped: false },
            Self::OldUuid => Kind::Uuid { prefix, swapped: true },
            Self::Inet6 => Kind::Inet6 { prefix },
            Self::Inet4 => Kind::Inet4 { prefix },
        }
    }
}

/// The columns of a table that are not what they look like, by name.
pub(crate) type Disguises = HashMap<String, Disguised>;

/// What a table map gives.
#[derive(Debug)]
pub(crate) enum Parsing {
    /// All that is needed.
    Ready(Table),
    /// Nothing, before the columns' true types are known.
    Veiled { database: String, name: String },
}

/// One column.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub name: String,
    /// `{"name":` for the first column, `,"name":` for the others.
    pub lead: Vec<u8>,
    pub kind: Kind,
    /// Its place in the primary key.
    pub key: Option<usize>,
}

/// A table as a table map describes it.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub database: String,
    pub name: String,
    /// Over the table map's content, so that the same need not be read again.
    pub content: u64,
    /// MariaDB: some columns' true types may be hidden, and were asked for.
    pub disguised: bool,
    /// For the running digest of a transaction.
    pub digest: u64,
    pub columns: Vec<Column>,
    /// The primary key's columns, in the key's order.
    pub key: Vec<usize>,
    /// The record key up to its columns: `["db","table",`.
    pub key_head: Vec<u8>,
    /// The envelope's source from `snapshot` to `server_id`.
    pub source: Vec<u8>,
}

impl Table {
    /// The number by which rows refer to the table, and a digest over all else. Cheap.
    pub fn identify(body: &[u8]) -> Parsed<(u64, u64)> {
        let mut bytes = Bytes::new(body);
        let id = bytes.unsigned(6)?;
        Ok((id, xxh3_64(bytes.rest())))
    }

    /// Reads a table map. MariaDB's log shows UUIDs and addresses as if they were BINARY:
    /// `disguised` names them where they were asked for.
    pub fn parse(flavor: Flavor, body: &[u8], disguised: Option<&Disguises>) -> Parsed<Parsing> {
        let (_, content) = Self::identify(body)?;
        let mut bytes = Bytes::new(body);
        bytes.take(8)?;
        let database = read_name(&mut bytes)?;
        let name = read_name(&mut bytes)?;
        let count = bytes.length()? as usize;
        if count == 0 || count > COLUMNS_MAX {
            return Err(bytes.corrupt("a table without columns, or with too many"));
        }
        let types = bytes.take(count)?;
        let shapes = Bytes::new(bytes.counted()?);
        bytes.take(count.div_ceil(8))?;
        let place = format!("{database}.{name}");
        let details = Details::parse(&mut bytes, types)?;
        if details.names.len() != count {
            return Err(Broken {
                code: Code::Setting,
                what: format!("the log does not name the columns of {place}").into(),
                offset: bytes.at(),
                hint: "set binlog_row_metadata=FULL at the source, then restart the writers' sessions; \
                       what was logged before needs a resynchronisation",
            });
        }
        let mut kinds = kinds(flavor, &place, types, shapes, &details)?;
        let may_be = flavor == Flavor::Mariadb
            && kinds.iter().any(|kind| matches!(kind, Kind::Binary { length: 4 | 16, .. }));
        if may_be {
            let Some(disguised) = disguised else {
                return Ok(Parsing::Veiled { database, name });
            };
            for (kind, column) in kinds.iter_mut().zip(&details.names) {
                if let (Kind::Binary { prefix, .. }, Some(disguised)) =
                    (&*kind, disguised.get(column))
                {
                    *kind = disguised.kind(*prefix);
                }
            }
        }
        let mut columns: Vec<_> = details
            .names
            .into_iter()
            .zip(kinds)
            .enumerate()
            .map(|(i, (name, kind))| {
                let mut lead = vec![if i == 0 { b'{' } else { b',' }];
                write_string(&mut lead, &name);
                lead.push(b':');
                Column { name, lead, kind, key: None }
            })
            .collect();
        for (place, &column) in details.key.iter().enumerate() {
            let column = columns
                .get_mut(column)
                .ok_or_else(|| bytes.corrupt("a key over a column that is not there"))?;
            column.key = Some(place);
        }
        let mut key_head = vec![b'['];
        write_string(&mut key_head, &database);
        key_head.push(b',');
        write_string(&mut key_head, &name);
        key_head.push(b',');
        let mut source = b",\"snapshot\":\"false\",\"db\":".to_vec();
        write_string(&mut source, &database);
        source.extend_from_slice(b",\"sequence\":null,\"table\":");
        write_string(&mut source, &name);
        source.extend_from_slice(b",\"server_id\":");
        let digest = Digest::of_table(&database, &name);
        Ok(Parsing::Ready(Self {
            database,
            name,
            content,
            disguised: may_be,
            digest,
            columns,
            key: details.key,
            key_head,
            source,
        }))
    }
}

fn read_name(bytes: &mut Bytes<'_>) -> Parsed<String> {
    let length = bytes.u8()?;
    let name = bytes.text(length.into())?.to_owned();
    bytes.u8()?;
    Ok(name)
}

/// The column types as numbers.
mod code {
    pub const TINY: u8 = 1;
    pub const SHORT: u8 = 2;
    pub const LONG: u8 = 3;
    pub const FLOAT: u8 = 4;
    pub const DOUBLE: u8 = 5;
    pub const OLD_TIMESTAMP: u8 = 7;
    pub const LONGLONG: u8 = 8;
    pub const INT24: u8 = 9;
    pub const DATE: u8 = 10;
    pub const OLD_TIME: u8 = 11;
    pub const OLD_DATETIME: u8 = 12;
    pub const YEAR: u8 = 13;
    pub const VARCHAR: u8 = 15;
    pub const BIT: u8 = 16;
    pub const TIMESTAMP: u8 = 17;
    pub const DATETIME: u8 = 18;
    pub const TIME: u8 = 19;
    pub const VECTOR: u8 = 242;
    pub const JSON: u8 = 245;
    pub const DECIMAL: u8 = 246;
    pub const ENUM: u8 = 247;
    pub const SET: u8 = 248;
    pub const BLOB: u8 = 252;
    pub const VAR_STRING: u8 = 253;
    pub const STRING: u8 = 254;
    pub const GEOMETRY: u8 = 255;
}

/// What stands behind the columns' types: `binlog_row_metadata`.
#[derive(Default)]
struct Details {
    /// For each numeric column whether it is unsigned.
    unsigned: Vec<bool>,
    charsets: Charsets,
    choice_charsets: Charsets,
    names: Vec<String>,
    enums: Vec<Vec<Vec<u8>>>,
    sets: Vec<Vec<Vec<u8>>>,
    key: Vec<usize>,
}

/// The collations of the text columns, counted among themselves.
#[derive(Default)]
struct Charsets {
    default: Option<u64>,
    listed: Vec<u64>,
    exceptions: Vec<(u64, u64)>,
}

impl Charsets {
    fn of(&self, index: usize) -> Option<u64> {
        self.exceptions
            .iter()
            .find(|&&(column, _)| column == index as u64)
            .map(|&(_, collation)| collation)
            .or_else(|| self.listed.get(index).copied())
            .or(self.default)
    }

    fn read_default(&mut self, bytes: &mut Bytes<'_>) -> Parsed<()> {
        self.default = Some(bytes.length()?);
        while !bytes.is_empty() {
            self.exceptions.push((bytes.length()?, bytes.length()?));
        }
        Ok(())
    }

    fn read_listed(&mut self, bytes: &mut Bytes<'_>) -> Parsed<()> {
        while !bytes.is_empty() {
            self.listed.push(bytes.length()?);
        }
        Ok(())
    }
}

impl Details {
    fn parse(bytes: &mut Bytes<'_>, types: &[u8]) -> Parsed<Self> {
        let mut details = Self::default();
        while !bytes.is_empty() {
            let kind = bytes.u8()?;
            let mut field = Bytes::new(bytes.counted()?);
            match kind {
                1 => {
                    let bits = field.rest();
                    details.unsigned = bits
                        .iter()
                        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1))
                        .collect();
                }
                2 => details.charsets.read_default(&mut field)?,
                3 => details.charsets.read_listed(&mut field)?,
                4 => {
                    while !field.is_empty() {
                        let length = field.length()? as usize;
                        details.names.push(field.text(length)?.to_owned());
                    }
                }
                5 => details.sets = read_choices(&mut field)?,
                6 => details.enums = read_choices(&mut field)?,
                8 => {
                    while !field.is_empty() {
                        details.key.push(field.length()? as usize);
                    }
                }
                9 => {
                    while !field.is_empty() {
                        details.key.push(field.length()? as usize);
                        // Over how many characters; the record key holds the whole value.
                        field.length()?;
                    }
                }
                10 => details.choice_charsets.read_default(&mut field)?,
                11 => details.choice_charsets.read_listed(&mut field)?,
                // Geometry types, visibility, vector lengths: rows can be read without. The same
                // holds for what later servers add here; a change of the rows themselves would
                // come as another type of event or column.
                _ => {}
            }
        }
        if details.names.len() > types.len() || details.key.len() > types.len() {
            return Err(bytes.corrupt("a table map describes more columns than it has"));
        }
        Ok(details)
    }
}

fn read_choices(field: &mut Bytes<'_>) -> Parsed<Vec<Vec<Vec<u8>>>> {
    let mut columns = Vec::new();
    while !field.is_empty() {
        let count = field.length()? as usize;
        if count > field.left() {
            return Err(field.corrupt("a column with more choices than bytes"));
        }
        let mut choices = Vec::with_capacity(count);
        for _ in 0..count {
            choices.push(field.counted()?.to_vec());
        }
        columns.push(choices);
    }
    Ok(columns)
}

/// Numeric columns, to which bits of signedness belong; the servers count YEAR among them.
fn is_numeric(kind: u8) -> bool {
    matches!(
        kind,
        code::YEAR
            | code::TINY
            | code::SHORT
            | code::INT24
            | code::LONG
            | code::LONGLONG
            | code::DECIMAL
            | code::FLOAT
            | code::DOUBLE
    )
}

fn kinds(
    flavor: Flavor,
    place: &str,
    types: &[u8],
    mut shapes: Bytes<'_>,
    details: &Details,
) -> Parsed<Vec<Kind>> {
    let mut kinds = Vec::with_capacity(types.len());
    let (mut numeric, mut text, mut choice, mut enums, mut sets) = (0, 0, 0, 0, 0);
    for (i, &kind) in types.iter().enumerate() {
        let unnamed = format!("number {}", i + 1);
        let column = details.names.get(i).map_or(unnamed.as_str(), String::as_str);
        let unsigned = is_numeric(kind) && {
            numeric += 1;
            details.unsigned.get(numeric - 1).copied().unwrap_or(false)
        };
        let charset_of = |text: &mut usize, shapes: &Bytes<'_>| {
            *text += 1;
            charset(details.charsets.of(*text - 1), place, column, shapes)
        };
        let kind = match kind {
            code::TINY => Kind::Integer { bytes: 1, unsigned },
            code::SHORT => Kind::Integer { bytes: 2, unsigned },
            code::INT24 => Kind::Integer { bytes: 3, unsigned },
            code::LONG => Kind::Integer { bytes: 4, unsigned },
            code::LONGLONG => Kind::Integer { bytes: 8, unsigned },
            code::FLOAT => {
                shapes.u8()?;
                Kind::Float
            }
            code::DOUBLE => {
                shapes.u8()?;
                Kind::Double
            }
            code::DECIMAL => {
                let (precision, scale) = (shapes.u8()?, shapes.u8()?);
                Kind::Decimal(
                    Decimal::new(precision, scale)
                        .ok_or_else(|| shapes.corrupt("a DECIMAL of an impossible shape"))?,
                )
            }
            code::YEAR => Kind::Year,
            code::DATE => Kind::Date,
            code::TIME => Kind::Time { fraction: read_fraction(&mut shapes)? },
            code::DATETIME => Kind::Datetime { fraction: read_fraction(&mut shapes)? },
            code::TIMESTAMP => Kind::Timestamp { fraction: read_fraction(&mut shapes)? },
            code::BIT => {
                let (odd, whole) = (shapes.u8()?, shapes.u8()?);
                if odd > 7 || whole > 8 || (whole == 8 && odd > 0) {
                    return Err(shapes.corrupt("a BIT column of an impossible width"));
                }
                Kind::Bit { bytes: whole + u8::from(odd > 0), single: whole == 0 && odd == 1 }
            }
            code::VARCHAR | code::VAR_STRING => {
                let prefix = if shapes.u16()? > 255 { 2 } else { 1 };
                match charset_of(&mut text, &shapes)? {
                    Charset::Binary => Kind::Blob { prefix },
                    charset => Kind::Text { prefix, charset },
                }
            }
            code::BLOB => {
                let prefix = read_prefix(&mut shapes)?;
                match charset_of(&mut text, &shapes)? {
                    Charset::Binary => Kind::Blob { prefix },
                    charset => Kind::Text { prefix, charset },
                }
            }
            code::JSON => Kind::Json { prefix: read_prefix(&mut shapes)? },
            code::GEOMETRY => {
                // MariaDB counts these among the columns with a character set, MySQL does not.
                text += usize::from(flavor == Flavor::Mariadb);
                Kind::Geometry { prefix: read_prefix(&mut shapes)? }
            }
            code::VECTOR if flavor == Flavor::Mysql => {
                text += 1;
                Kind::Vector { prefix: read_prefix(&mut shapes)? }
            }
            code::STRING | code::ENUM | code::SET => {
                let (first, second) = (shapes.u8()?, shapes.u8()?);
                // The high bits of a long CHAR's length hide, inverted, in its type.
                let (real, length) = if first & 0x30 == 0x30 {
                    (first, usize::from(second))
                } else {
                    (first | 0x30, usize::from(second) | usize::from(first & 0x30 ^ 0x30) << 4)
                };
                let prefix = if length > 255 { 2 } else { 1 };
                match real {
                    code::STRING => match charset_of(&mut text, &shapes)? {
                        Charset::Binary => Kind::Binary { prefix, length },
                        charset => Kind::Text { prefix, charset },
                    },
                    code::ENUM | code::SET => {
                        let set = real == code::SET;
                        let (all, next) = if set {
                            (&details.sets, &mut sets)
                        } else {
                            (&details.enums, &mut enums)
                        };
                        let raw = all.get(*next).map_or(&[][..], Vec::as_slice);
                        *next += 1;
                        let charset = match details.choice_charsets.of(choice) {
                            // Without metadata there are no names either, which is told later.
                            None => Charset::Utf8,
                            collation => charset(collation, place, column, &shapes)?,
                        };
                        choice += 1;
                        let sizes: &[usize] = if set { &[1, 2, 3, 4, 8] } else { &[1, 2] };
                        if !sizes.contains(&length) {
                            return Err(shapes.corrupt("an ENUM or SET of an impossible size"));
                        }
                        let values = raw
                            .iter()
                            .map(|raw| choice_text(raw, charset, !set, &shapes))
                            .collect::<Parsed<Vec<_>>>()?;
                        let bytes = length as u8;
                        if set { Kind::Set { bytes, values } } else { Kind::Enum { bytes, values } }
                    }
                    other => return Err(unknown_type(other, place, column, &shapes)),
                }
            }
            code::OLD_TIMESTAMP | code::OLD_TIME | code::OLD_DATETIME => {
                return Err(shapes
                    .unknown(format!("{place}.{column} stores time in the format before MySQL 5.6"))
                    .hint("rebuild the table: ALTER TABLE … FORCE, in MariaDB with mysql56_temporal_format=ON"));
            }
            other => return Err(unknown_type(other, place, column, &shapes)),
        };
        kinds.push(kind);
    }
    Ok(kinds)
}

fn unknown_type(kind: u8, place: &str, column: &str, shapes: &Bytes<'_>) -> Broken {
    shapes.unknown(format!(
        "{place}.{column} has a type that the decoder does not know (number {kind})"
    ))
}

fn read_fraction(shapes: &mut Bytes<'_>) -> Parsed<u8> {
    match shapes.u8()? {
        fraction @ 0..=6 => Ok(fraction),
        _ => Err(shapes.corrupt("a time with more than six fractional digits")),
    }
}

fn read_prefix(shapes: &mut Bytes<'_>) -> Parsed<u8> {
    match shapes.u8()? {
        prefix @ 1..=4 => Ok(prefix),
        _ => Err(shapes.corrupt("a length in more than four bytes")),
    }
}

fn charset(
    collation: Option<u64>,
    place: &str,
    column: &str,
    shapes: &Bytes<'_>,
) -> Parsed<Charset> {
    let Some(collation) = collation else {
        return Err(shapes
            .unknown(format!("the log does not tell the character set of {place}.{column}"))
            .hint("set binlog_row_metadata=FULL at the source"));
    };
    Charset::of_collation(collation).ok_or_else(|| {
        shapes
            .unknown(format!("{place}.{column} has a character set that the decoder does not know (collation {collation})"))
            .hint("convert the column to utf8mb4, or exclude the table")
    })
}

/// A member of an ENUM (a whole JSON string) or a SET (the inside of one).
fn choice_text(raw: &[u8], charset: Charset, quoted: bool, shapes: &Bytes<'_>) -> Parsed<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len() + 2);
    if quoted {
        out.push(b'"');
    }
    match charset {
        Charset::Binary => match std::str::from_utf8(raw) {
            Ok(_) => write_escaped(&mut out, raw),
            Err(_) => return Err(shapes.unknown("an ENUM or SET of bytes that are no text")),
        },
        charset => crate::value::write_text(&mut out, charset, raw, shapes.at())?,
    }
    if quoted {
        out.push(b'"');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_without_columns_is_refused() {
        let body = [1, 0, 0, 0, 0, 0, 1, 0, 1, b'd', 0, 1, b't', 0, 0, 0];
        let broken = Table::parse(Flavor::Mysql, &body, None).err().unwrap();
        assert!(broken.what.contains("without columns"), "{}", broken.what);
    }

    proptest! {
        #[test]
        fn no_table_map_panics(body in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Table::parse(Flavor::Mysql, &body, None);
            // And one whose head is sound.
            let mut sound = vec![1, 0, 0, 0, 0, 0, 1, 0, 1, b'd', 0, 1, b't', 0];
            sound.extend_from_slice(&body);
            let _ = Table::parse(Flavor::Mariadb, &sound, Some(&Disguises::new()));
        }
    }
}
