//! A snapshot as a replica gets it: Redis' RDB, read as it comes.
//!
//! # What it guarantees
//!
//! * **In pieces.** No value has to fit in memory: a long string comes as several pieces, a collection as one
//!   piece for each element. Only an element has a limit, [`ELEMENT_BYTES_MAX`].
//! * **Nothing unknown is passed over.** A version, an opcode or a type that is not known here ends the reading with
//!   a fault ([`Code::StreamUnknown`]); bytes that contradict themselves with [`Code::StreamCorrupt`]. A snapshot is
//!   whole only once [`read`] has returned: its checksum comes last.
//! * **Versions 9 to 12 are read**: Redis 6.2 (9), 7.0 (10), 7.2 and Valkey (11), 7.4 and 8.0 (12). Run were 7.0, 8.0
//!   and Valkey 9.1; what only the others write is read as their source has it.
//!
//! Source of the format: `rdb.c` and `t_stream.c` of Redis 8.0.

mod log;
mod packed;
mod text;

use tokio::io::AsyncRead;
use unitflow_change::fault::{Code, Fault};

use crate::input::Input;

/// The longest element of a collection that is read, in bytes; also the longest name of a key.
pub const ELEMENT_BYTES_MAX: usize = 64 << 20;

/// The versions that are read.
const VERSIONS: std::ops::RangeInclusive<u32> = 9..=12;
/// What Valkey 9 puts behind a `DUMP`, whose forms are those of version 11 unless their code is a new one. Its snapshots
/// are of version 11 for a replica that does not say that it knows more.
const VALKEY: u32 = 80;

/// What a snapshot holds, in its order.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// What the server says of itself: `redis-ver`, `repl-id`, `used-mem` and others.
    Note(Vec<u8>, Vec<u8>),
    /// How many keys the database that was named last has, and how many of these expire.
    Sizes {
        /// Keys in all.
        keys: u64,
        /// Those with a time to live.
        expiring: u64,
    },
    /// A library of functions: its source.
    Function(Vec<u8>),
    /// A key begins.
    Key(Key),
    /// More of the value of the key that began last.
    Piece(Piece),
    /// The value of the key that began last is whole.
    End,
}

/// A key, before its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The number of the database.
    pub database: u32,
    /// The key itself.
    pub name: Vec<u8>,
    /// What its value is.
    pub kind: Kind,
    /// When it expires, in ms since 1970.
    pub expires_ms: Option<u64>,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes.
    Text,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set.
    SortedSet,
    /// A hash.
    Hash,
    /// A stream.
    Stream,
}

/// The name of a stream's entry: ms and number.
pub type EntryId = (u64, u64);

/// A part of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// More of a text, whose whole size is given with each piece.
    Text {
        /// The bytes.
        bytes: Vec<u8>,
        /// How many the text has in all.
        of: u64,
    },
    /// A list's next element.
    Element(Vec<u8>),
    /// A member of a set.
    Member(Vec<u8>),
    /// A member of a sorted set, and its score as text.
    Scored(Vec<u8>, Vec<u8>),
    /// A field of a hash.
    Field {
        /// Its name.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
        /// When it expires, in ms since 1970.
        expires_ms: Option<u64>,
    },
    /// A stream's next entry: its name, and fields with their values.
    Entry(EntryId, Vec<(Vec<u8>, Vec<u8>)>),
    /// What a stream knows beside its entries. Comes behind them and before its groups.
    Log {
        /// The last name that was given.
        last: EntryId,
        /// The highest name that was deleted, and how many entries there ever were; since version 10.
        history: Option<(EntryId, u64)>,
    },
    /// A consumer group of a stream.
    Group {
        /// Its name.
        name: Vec<u8>,
        /// The last entry that it delivered.
        last: EntryId,
        /// How many it has delivered, where that is known.
        read: Option<u64>,
    },
    /// A consumer of the group that was named last.
    Consumer {
        /// Its name.
        name: Vec<u8>,
    },
    /// An entry that the consumer named last was given and has not acknowledged.
    Pending {
        /// The entry.
        id: EntryId,
        /// When it was given last, in ms since 1970.
        given_ms: u64,
        /// How often it was given.
        times: u64,
    },
}

/// Reads one snapshot, and hands out its parts as they come.
///
/// # Errors
/// Those of the connection, of the format (see the module), and those of `each`.
pub async fn read<R: AsyncRead + Unpin>(
    input: &mut Input<R>,
    each: &mut impl FnMut(Part) -> Result<(), Fault>,
) -> Result<(), Fault> {
    input.begin_checksum();
    let magic: [u8; 9] = input.array().await?;
    let version = std::str::from_utf8(&magic[5..]).ok().and_then(|text| text.parse::<u32>().ok());
    match version {
        Some(version) if magic.starts_with(b"REDIS") && VERSIONS.contains(&version) => {}
        _ => {
            let magic = magic.escape_ascii();
            return Err(unknown(format!("a snapshot begins with {magic}")));
        }
    }
    Snapshot { input, each, database: 0, expires_ms: None }.read().await?;
    let expected = input.end_checksum();
    let found = u64::from_le_bytes(input.array().await?);
    // A server that computes none writes 0.
    if found != 0 && found != expected {
        return Err(corrupt("its checksum is wrong"));
    }
    Ok(())
}

/// Reads the value of a key as `DUMP` has it: like in a snapshot, with the version and a checksum behind it. Hands out its
/// pieces, then [`Part::End`].
///
/// # Errors
/// As [`read`].
pub(crate) async fn read_value<R: AsyncRead + Unpin>(
    input: &mut Input<R>,
    each: &mut impl FnMut(Part) -> Result<(), Fault>,
) -> Result<(), Fault> {
    input.begin_checksum();
    let code = input.byte().await?;
    let mut value = Snapshot { input, each, database: 0, expires_ms: None };
    value.pieces(code, kind_of(code)?).await?;
    let version = u32::from(u16::from_le_bytes(input.array().await?));
    if !VERSIONS.contains(&version) && version != VALKEY {
        return Err(unknown(format!("a value of version {version}")));
    }
    let expected = input.end_checksum();
    if u64::from_le_bytes(input.array().await?) != expected {
        return Err(corrupt("a value's checksum is wrong"));
    }
    each(Part::End)
}

fn kind_of(code: u8) -> Result<Kind, Fault> {
    Ok(match code {
        0 => Kind::Text,
        14 | 18 => Kind::List,
        2 | 11 | 20 => Kind::Set,
        5 | 12 | 17 => Kind::SortedSet,
        4 | 13 | 16 | 24 | 25 => Kind::Hash,
        15 | 19 | 21 => Kind::Stream,
        6 | 7 => {
            let hint = "delete the module's keys at the source, or leave this store out";
            return Err(unknown("a value of a module").hint(hint));
        }
        _ => return Err(unknown(format!("opcode or type {code}"))),
    })
}

struct Snapshot<'a, R, F> {
    input: &'a mut Input<R>,
    each: &'a mut F,
    database: u32,
    expires_ms: Option<u64>,
}

impl<R: AsyncRead + Unpin, F: FnMut(Part) -> Result<(), Fault>> Snapshot<'_, R, F> {
    async fn read(&mut self) -> Result<(), Fault> {
        loop {
            match self.input.byte().await? {
                // What is known of a key's last use.
                0xf8 => drop(self.length().await?),
                0xf9 => drop(self.input.byte().await?),
                0xfa => {
                    let note = Part::Note(self.text().await?, self.text().await?);
                    (self.each)(note)?;
                }
                0xfb => {
                    let (keys, expiring) = (self.length().await?, self.length().await?);
                    (self.each)(Part::Sizes { keys, expiring })?;
                }
                0xfc => self.expires_ms = Some(self.time().await?),
                0xfe => {
                    self.database = u32::try_from(self.length().await?)
                        .map_err(|_| corrupt("a database has a number that is none"))?;
                }
                0xff => return Ok(()),
                // How large a Cluster's slot is.
                0xf4 => {
                    for _ in 0..3 {
                        self.length().await?;
                    }
                }
                0xf5 => {
                    let library = self.text().await?;
                    (self.each)(Part::Function(library))?;
                }
                0xf7 => {
                    return Err(unknown("the data of a module")
                        .hint("unload the module at the source, or leave this store out"));
                }
                kind => self.value(kind).await?,
            }
        }
    }

    async fn value(&mut self, code: u8) -> Result<(), Fault> {
        let kind = kind_of(code)?;
        let name = self.text().await?;
        let expires_ms = self.expires_ms.take();
        (self.each)(Part::Key(Key { database: self.database, name, kind, expires_ms }))?;
        self.pieces(code, kind).await?;
        (self.each)(Part::End)
    }

    async fn pieces(&mut self, code: u8, kind: Kind) -> Result<(), Fault> {
        match code {
            0 => self.long_text().await?,
            2 => {
                for _ in 0..self.length().await? {
                    let member = self.text().await?;
                    self.give(Piece::Member(member)).await?;
                }
            }
            4 => {
                for _ in 0..self.length().await? {
                    let (name, value) = (self.text().await?, self.text().await?);
                    self.give(Piece::Field { name, value, expires_ms: None }).await?;
                }
            }
            5 => {
                for _ in 0..self.length().await? {
                    let member = self.text().await?;
                    let score = f64::from_le_bytes(self.input.array().await?);
                    self.give(Piece::Scored(member, score.to_string().into_bytes())).await?;
                }
            }
            11 => {
                let packed = self.text().await?;
                for number in packed::intset(&packed)? {
                    self.give(Piece::Member(itoa::Buffer::new().format(number).into())).await?;
                }
            }
            14 | 18 => self.list(code).await?,
            12 | 13 => {
                let packed = self.text().await?;
                self.pairs(kind, packed::ziplist(&packed)?).await?;
            }
            16 | 17 => {
                let packed = self.text().await?;
                self.pairs(kind, packed::listpack(&packed)?).await?;
            }
            20 => {
                let packed = self.text().await?;
                let mut elements = packed::listpack(&packed)?;
                while let Some(member) = elements.next()? {
                    self.give(Piece::Member(member.to_vec())).await?;
                }
            }
            24 | 25 => self.expiring_fields(code).await?,
            _ => self.log(code).await?,
        }
        Ok(())
    }

    async fn give(&mut self, piece: Piece) -> Result<(), Fault> {
        (self.each)(Part::Piece(piece))
    }

    /// A list is several packed ones; since version 10 a long element may stand by itself.
    async fn list(&mut self, code: u8) -> Result<(), Fault> {
        for _ in 0..self.length().await? {
            let plain = code == 18 && self.length().await? == 1;
            let packed = self.text().await?;
            if plain {
                self.give(Piece::Element(packed)).await?;
                continue;
            }
            let mut elements = match code {
                14 => packed::ziplist(&packed)?,
                _ => packed::listpack(&packed)?,
            };
            while let Some(element) = elements.next()? {
                self.give(Piece::Element(element.to_vec())).await?;
            }
        }
        Ok(())
    }

    async fn pairs(&mut self, kind: Kind, mut all: packed::Elements<'_>) -> Result<(), Fault> {
        while let Some(first) = all.next()? {
            let (first, second) = (first.to_vec(), all.expect()?.to_vec());
            self.give(match kind {
                Kind::SortedSet => Piece::Scored(first, second),
                _ => Piece::Field { name: first, value: second, expires_ms: None },
            })
            .await?;
        }
        Ok(())
    }

    /// A hash of which some fields expire: times count from the earliest one, which comes first.
    async fn expiring_fields(&mut self, code: u8) -> Result<(), Fault> {
        let earliest = self.time().await?;
        if code == 25 {
            let packed = self.text().await?;
            let mut all = packed::listpack(&packed)?;
            while let Some(name) = all.next()? {
                let (name, value) = (name.to_vec(), all.expect()?.to_vec());
                let expires_ms = u64::try_from(all.expect()?.number()?).ok().filter(|ms| *ms > 0);
                self.give(Piece::Field { name, value, expires_ms }).await?;
            }
            return Ok(());
        }
        for _ in 0..self.length().await? {
            let after = self.length().await?;
            let expires_ms = (after > 0).then(|| (earliest + after).saturating_sub(1));
            let (name, value) = (self.text().await?, self.text().await?);
            self.give(Piece::Field { name, value, expires_ms }).await?;
        }
        Ok(())
    }

    async fn time(&mut self) -> Result<u64, Fault> {
        // Signed there; a time before 1970 has passed like any other.
        let ms = i64::from_le_bytes(self.input.array().await?);
        Ok(u64::try_from(ms).unwrap_or(0))
    }
}

fn corrupt(what: &str) -> Fault {
    Fault::fatal(Code::StreamCorrupt, format!("the snapshot can't be read: {what}"))
}

fn unknown(what: impl std::fmt::Display) -> Fault {
    Fault::fatal(Code::StreamUnknown, format!("the snapshot holds what is not known here: {what}"))
}
