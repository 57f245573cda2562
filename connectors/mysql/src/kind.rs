//! The types of columns: from the numbers and shapes of a table map to what a value's bytes mean.
//!
//! Every type, shape and character set that is not known here ends the stream and is named;
//! nothing is read as if it were something like it.

use crate::bytes::{Broken, Bytes, Parsed};
use crate::charset::Charset;
use crate::connect::Flavor;
use crate::table::Details;
use crate::value::{Decimal, write_escaped};

/// The type of a column as the log numbers it. All others end the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum TypeCode {
    Tiny = 1,
    Short = 2,
    Long = 3,
    Float = 4,
    Double = 5,
    Longlong = 8,
    Int24 = 9,
    Date = 10,
    Year = 13,
    Varchar = 15,
    Bit = 16,
    Timestamp = 17,
    Datetime = 18,
    Time = 19,
    BlobCompressed = 140,
    VarcharCompressed = 141,
    Vector = 242,
    Json = 245,
    Decimal = 246,
    Enum = 247,
    Set = 248,
    Blob = 252,
    VarString = 253,
    String = 254,
    Geometry = 255,
}

impl TypeCode {
    /// All that the decoder knows.
    pub const ALL: &'static [Self] = &[
        Self::Tiny,
        Self::Short,
        Self::Long,
        Self::Float,
        Self::Double,
        Self::Longlong,
        Self::Int24,
        Self::Date,
        Self::Year,
        Self::Varchar,
        Self::Bit,
        Self::Timestamp,
        Self::Datetime,
        Self::Time,
        Self::BlobCompressed,
        Self::VarcharCompressed,
        Self::Vector,
        Self::Json,
        Self::Decimal,
        Self::Enum,
        Self::Set,
        Self::Blob,
        Self::VarString,
        Self::String,
        Self::Geometry,
    ];

    fn of(number: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| *code as u8 == number)
    }
}

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
        bits: u8,
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
    /// MariaDB's COMPRESSED columns: VARCHAR and VARBINARY, the TEXT and the BLOB family.
    Compressed {
        prefix: u8,
        /// The most bytes that a value has.
        limit: usize,
        charset: Charset,
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

impl Kind {
    /// Whether values are a date or a time of no zone, written with a `Z` behind them all the same.
    pub fn is_local_time(&self) -> bool {
        matches!(self, Self::Date | Self::Time { .. } | Self::Datetime { .. })
    }
}

/// Reads the types of a table's columns, one after the other.
pub(crate) struct Kinds<'a> {
    flavor: Flavor,
    place: &'a str,
    shapes: Bytes<'a>,
    details: &'a Details,
    /// How many columns of these sorts came so far; details are counted among their sort.
    numeric: usize,
    text: usize,
    choices: usize,
    enums: usize,
    sets: usize,
}

impl<'a> Kinds<'a> {
    /// `place` names the table in messages.
    pub fn new(flavor: Flavor, place: &'a str, shapes: Bytes<'a>, details: &'a Details) -> Self {
        Self { flavor, place, shapes, details, numeric: 0, text: 0, choices: 0, enums: 0, sets: 0 }
    }

    /// Reads all of them.
    pub fn read(mut self, types: &[u8]) -> Parsed<Vec<Kind>> {
        types
            .iter()
            .enumerate()
            .map(|(i, &number)| {
                let unnamed = format!("number {}", i + 1);
                let column = self.details.names.get(i).map_or(unnamed.as_str(), String::as_str);
                let code = TypeCode::of(number).ok_or_else(|| self.refuse(number, column))?;
                self.next(code, column)
            })
            .collect()
    }

    fn next(&mut self, code: TypeCode, column: &str) -> Parsed<Kind> {
        Ok(match code {
            TypeCode::Tiny => Kind::Integer { bytes: 1, unsigned: self.unsigned() },
            TypeCode::Short => Kind::Integer { bytes: 2, unsigned: self.unsigned() },
            TypeCode::Int24 => Kind::Integer { bytes: 3, unsigned: self.unsigned() },
            TypeCode::Long => Kind::Integer { bytes: 4, unsigned: self.unsigned() },
            TypeCode::Longlong => Kind::Integer { bytes: 8, unsigned: self.unsigned() },
            TypeCode::Float => {
                self.unsigned();
                self.shapes.u8()?;
                Kind::Float
            }
            TypeCode::Double => {
                self.unsigned();
                self.shapes.u8()?;
                Kind::Double
            }
            TypeCode::Decimal => {
                self.unsigned();
                let (precision, scale) = (self.shapes.u8()?, self.shapes.u8()?);
                let shape = Decimal::new(precision, scale);
                Kind::Decimal(
                    shape.ok_or_else(|| self.shapes.corrupt("a DECIMAL of an impossible shape"))?,
                )
            }
            TypeCode::Year => {
                // The servers count it among the numeric ones.
                self.unsigned();
                Kind::Year
            }
            TypeCode::Date => Kind::Date,
            TypeCode::Time => Kind::Time { fraction: self.fraction()? },
            TypeCode::Datetime => Kind::Datetime { fraction: self.fraction()? },
            TypeCode::Timestamp => Kind::Timestamp { fraction: self.fraction()? },
            TypeCode::Bit => self.bit()?,
            TypeCode::Varchar | TypeCode::VarString => {
                let prefix = if self.shapes.u16()? > 255 { 2 } else { 1 };
                self.text(prefix, column)?
            }
            TypeCode::Blob => {
                let prefix = self.prefix()?;
                self.text(prefix, column)?
            }
            TypeCode::VarcharCompressed => {
                let limit = usize::from(self.shapes.u16()?);
                let prefix = if limit > 255 { 2 } else { 1 };
                Kind::Compressed { prefix, limit, charset: self.charset(column)? }
            }
            TypeCode::BlobCompressed => {
                let prefix = self.prefix()?;
                let limit = (1 << (8 * usize::from(prefix))) - 1;
                Kind::Compressed { prefix, limit, charset: self.charset(column)? }
            }
            TypeCode::Json => Kind::Json { prefix: self.prefix()? },
            TypeCode::Geometry => {
                // MariaDB counts these among the columns with a character set, MySQL does not.
                self.text += usize::from(self.flavor == Flavor::Mariadb);
                Kind::Geometry { prefix: self.prefix()? }
            }
            TypeCode::Vector => {
                self.text += 1;
                Kind::Vector { prefix: self.prefix()? }
            }
            TypeCode::String | TypeCode::Enum | TypeCode::Set => self.string(column)?,
        })
    }

    /// The sign of the next numeric column.
    fn unsigned(&mut self) -> bool {
        self.numeric += 1;
        self.details.unsigned.get(self.numeric - 1).copied().unwrap_or(false)
    }

    fn fraction(&mut self) -> Parsed<u8> {
        match self.shapes.u8()? {
            fraction @ 0..=6 => Ok(fraction),
            _ => Err(self.shapes.corrupt("a time with more than six fractional digits")),
        }
    }

    fn prefix(&mut self) -> Parsed<u8> {
        match self.shapes.u8()? {
            prefix @ 1..=4 => Ok(prefix),
            _ => Err(self.shapes.corrupt("a length in more than four bytes")),
        }
    }

    fn bit(&mut self) -> Parsed<Kind> {
        let (odd, whole) = (self.shapes.u8()?, self.shapes.u8()?);
        if odd > 7 || whole > 8 || (whole == 8 && odd > 0) {
            return Err(self.shapes.corrupt("a BIT column of an impossible width"));
        }
        Ok(Kind::Bit {
            bytes: whole + u8::from(odd > 0),
            bits: 8 * whole + odd,
            single: whole == 0 && odd == 1,
        })
    }

    fn text(&mut self, prefix: u8, column: &str) -> Parsed<Kind> {
        Ok(match self.charset(column)? {
            Charset::Binary => Kind::Blob { prefix },
            charset => Kind::Text { prefix, charset },
        })
    }

    /// CHAR, BINARY, and what hides behind them.
    fn string(&mut self, column: &str) -> Parsed<Kind> {
        let (first, second) = (self.shapes.u8()?, self.shapes.u8()?);
        // The high bits of a long CHAR's length hide, inverted, in its type.
        let (real, length) = if first & 0x30 == 0x30 {
            (first, usize::from(second))
        } else {
            (first | 0x30, usize::from(second) | usize::from(first & 0x30 ^ 0x30) << 4)
        };
        match TypeCode::of(real) {
            Some(TypeCode::Enum) => self.choice(false, length, column),
            Some(TypeCode::Set) => self.choice(true, length, column),
            Some(TypeCode::String) => {
                let prefix = if length > 255 { 2 } else { 1 };
                Ok(match self.charset(column)? {
                    Charset::Binary => Kind::Binary { prefix, length },
                    charset => Kind::Text { prefix, charset },
                })
            }
            _ => Err(self.refuse(real, column)),
        }
    }

    /// ENUM or SET, stored in so many bytes.
    fn choice(&mut self, set: bool, bytes: usize, column: &str) -> Parsed<Kind> {
        let (all, next) = match set {
            true => (&self.details.sets, &mut self.sets),
            false => (&self.details.enums, &mut self.enums),
        };
        let members = all.get(*next).map_or(&[][..], Vec::as_slice);
        *next += 1;
        let charset = match self.details.choice_charsets.of(self.choices) {
            // Without metadata there are no names either, which is told later.
            None => Charset::Utf8,
            Some(collation) => self.known(collation, column)?,
        };
        self.choices += 1;
        let sizes: &[usize] = if set { &[1, 2, 3, 4, 8] } else { &[1, 2] };
        if !sizes.contains(&bytes) {
            return Err(self.shapes.corrupt("an ENUM or SET of an impossible size"));
        }
        let values = members
            .iter()
            .map(|raw| member(raw, charset, !set, &self.shapes))
            .collect::<Parsed<Vec<_>>>()?;
        let bytes = bytes as u8;
        Ok(if set { Kind::Set { bytes, values } } else { Kind::Enum { bytes, values } })
    }

    /// The character set of the next column that has one.
    fn charset(&mut self, column: &str) -> Parsed<Charset> {
        self.text += 1;
        let Some(collation) = self.details.charsets.of(self.text - 1) else {
            let place = self.place;
            return Err(self
                .shapes
                .unknown(format!("the log does not tell the character set of {place}.{column}"))
                .hint("set binlog_row_metadata=FULL at the source"));
        };
        self.known(collation, column)
    }

    fn known(&self, collation: u64, column: &str) -> Parsed<Charset> {
        Charset::of_collation(collation).ok_or_else(|| {
            let place = self.place;
            self.shapes
                .unknown(format!("{place}.{column} has a character set that the decoder does not know (collation {collation})"))
                .hint("convert the column to utf8mb4, or exclude the table")
        })
    }

    #[cold]
    fn refuse(&self, number: u8, column: &str) -> Broken {
        let place = self.place;
        match number {
            // TIMESTAMP, TIME and DATETIME from before MySQL 5.6.
            7 | 11 | 12 => self
                .shapes
                .unknown(format!("{place}.{column} stores time in the format before MySQL 5.6"))
                .hint("rebuild the table: ALTER TABLE … FORCE, in MariaDB with mysql56_temporal_format=ON"),
            _ => self.shapes.unknown(format!(
                "{place}.{column} has a type that the decoder does not know (number {number})"
            )),
        }
    }
}

/// A member of an ENUM (a whole JSON string) or a SET (the inside of one).
fn member(raw: &[u8], charset: Charset, quoted: bool, shapes: &Bytes<'_>) -> Parsed<Vec<u8>> {
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
    use super::*;

    #[test]
    fn only_the_types_of_the_list_are_read() {
        let details = Details::default();
        let shape = [0xff; 8];
        for number in 0..=u8::MAX {
            let kinds = Kinds::new(Flavor::Mysql, "shop.goods", Bytes::new(&shape), &details);
            let refused = match kinds.read(&[number]) {
                Err(broken) => {
                    broken.what.contains(&format!("(number {number})"))
                        || broken.what.contains("the format before MySQL 5.6")
                }
                Ok(_) => false,
            };
            let known = TypeCode::ALL.iter().any(|code| *code as u8 == number);
            assert_ne!(known, refused, "type {number}");
        }
    }
}
