//! `TABLE_MAP`: what the rows after it look like.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

use unitflow_change::fault::Code;
use unitflow_change::position::Digest;

use crate::bytes::{Broken, Bytes, Parsed};
use crate::connect::Flavor;
use crate::declare::Declared;
use crate::kind::{Kind, Kinds};
use crate::value::write_string;

/// More columns than any server allows.
const COLUMNS_MAX: usize = 4096;

/// MariaDB keeps the hash of what a key takes that is too long for an index in a column of its own,
/// which its log holds and nothing else shows; the number behind this is one that is free.
const HASH_OF_LONG_KEY: &str = "DB_ROW_HASH_";

/// What MariaDB's log does not tell: the true type of a column that looks like BINARY, and whether
/// one that is named like the hash of a long key is somebody's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disguised {
    Uuid,
    /// From before 10.11.5: all versions are stored in reverse order.
    OldUuid,
    Inet6,
    Inet4,
    /// It is what it looks like.
    Itself,
}

impl Disguised {
    /// What a column that looks like BINARY is.
    fn reveal(self, kind: &mut Kind) {
        let Kind::Binary { prefix, .. } = *kind else { return };
        match self {
            Self::Itself => {}
            Self::Uuid => *kind = Kind::Uuid { prefix, swapped: false },
            Self::OldUuid => *kind = Kind::Uuid { prefix, swapped: true },
            Self::Inet6 => *kind = Kind::Inet6 { prefix },
            Self::Inet4 => *kind = Kind::Inet4 { prefix },
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
    pub nullable: bool,
    /// Its place in the primary key.
    pub key: Option<usize>,
    /// The server's own: rows hold it, records do not.
    pub hidden: bool,
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
    /// What stands before key and value where records carry their schema.
    pub declared: Option<Declared>,
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
        let nullable = bytes.take(count.div_ceil(8))?;
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
        let mut kinds = Kinds::new(flavor, &place, shapes, &details).read(types)?;
        let may_be_binary = |kind: &Kind| matches!(kind, Kind::Binary { length: 4 | 16, .. });
        let may_be_hash = |(kind, name): (&Kind, &String)| {
            name.starts_with(HASH_OF_LONG_KEY)
                && matches!(kind, Kind::Integer { bytes: 8, unsigned: true })
        };
        let may_be = flavor == Flavor::Mariadb
            && (kinds.iter().any(may_be_binary)
                || kinds.iter().zip(&details.names).any(may_be_hash));
        let mut hidden = vec![false; count];
        if may_be {
            let Some(disguised) = disguised else {
                return Ok(Parsing::Veiled { database, name });
            };
            for (i, (kind, column)) in kinds.iter_mut().zip(&details.names).enumerate() {
                let known = disguised.get(column);
                hidden[i] = known.is_none() && may_be_hash((&*kind, column));
                known.into_iter().for_each(|known| known.reveal(kind));
            }
        }
        let mut columns: Vec<_> = details
            .names
            .into_iter()
            .zip(kinds)
            .enumerate()
            .map(|(i, (name, kind))| {
                let nullable = nullable[i / 8] >> (i % 8) & 1 == 1;
                Column { hidden: hidden[i], ..Column::new(i, name, kind, nullable) }
            })
            .collect();
        for (place, &column) in details.key.iter().enumerate() {
            let column = columns
                .get_mut(column)
                .ok_or_else(|| bytes.corrupt("a key over a column that is not there"))?;
            column.key = Some(place);
        }
        let table = Self::new((database, name), columns, details.key, "false");
        Ok(Parsing::Ready(Self { content, disguised: may_be, ..table }))
    }

    /// A table of these columns; `snapshot` is what the envelope says of where its rows come from.
    pub fn new(
        (database, name): (String, String),
        columns: Vec<Column>,
        key: Vec<usize>,
        snapshot: &str,
    ) -> Self {
        let mut key_head = vec![b'['];
        write_string(&mut key_head, &database);
        key_head.push(b',');
        write_string(&mut key_head, &name);
        key_head.push(b',');
        let mut source = format!(",\"snapshot\":\"{snapshot}\",\"db\":").into_bytes();
        write_string(&mut source, &database);
        source.extend_from_slice(b",\"sequence\":null,\"table\":");
        write_string(&mut source, &name);
        source.extend_from_slice(b",\"server_id\":");
        let digest = Digest::of_table(&database, &name);
        Self {
            database,
            name,
            content: 0,
            disguised: false,
            digest,
            columns,
            key,
            key_head,
            source,
            declared: None,
        }
    }
}

impl Column {
    /// The column in this place, of no key.
    pub fn new(place: usize, name: String, kind: Kind, nullable: bool) -> Self {
        let mut lead = vec![if place == 0 { b'{' } else { b',' }];
        write_string(&mut lead, &name);
        lead.push(b':');
        Self { name, lead, kind, nullable, key: None, hidden: false }
    }
}

fn read_name(bytes: &mut Bytes<'_>) -> Parsed<String> {
    let length = bytes.u8()?;
    let name = bytes.text(length.into())?.to_owned();
    bytes.u8()?;
    Ok(name)
}

/// What stands behind the columns' types: `binlog_row_metadata`.
#[derive(Default)]
pub(crate) struct Details {
    /// For each numeric column whether it is unsigned.
    pub unsigned: Vec<bool>,
    pub charsets: Charsets,
    pub choice_charsets: Charsets,
    pub names: Vec<String>,
    /// The members of each ENUM column.
    pub enums: Vec<Vec<Vec<u8>>>,
    /// The members of each SET column.
    pub sets: Vec<Vec<Vec<u8>>>,
    key: Vec<usize>,
}

/// The collations of the text columns, counted among themselves.
#[derive(Default)]
pub(crate) struct Charsets {
    default: Option<u64>,
    listed: Vec<u64>,
    exceptions: Vec<(u64, u64)>,
}

impl Charsets {
    /// The collation's number of the column in this place.
    pub fn of(&self, index: usize) -> Option<u64> {
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
