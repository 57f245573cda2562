//! The East Asian character sets: two bytes a character, some three or four.
//!
//! The tables are built once, at the first use of a set, from those of `encoding_rs`, which are
//! the WHATWG's, and from what the servers see otherwise. A code that is not in the table is a
//! fault, also where one of the servers would take it: a test compares every sequence with both.

use std::sync::OnceLock;

use encoding_rs::Encoding;

use super::differences::{With, Without};
use super::present;

/// A character set of two bytes a character, or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Double {
    Big5,
    Cp932,
    Eucjpms,
    Euckr,
    Gb18030,
    Gb2312,
    Gbk,
    Sjis,
    Ujis,
}

/// Characters by their two bytes; 0 for none.
struct Table {
    pairs: Box<[u16]>,
    /// Codes of three bytes, by the last two: those after 0x8f in `ujis` and `eucjpms`.
    triples: Box<[u16]>,
}

impl Double {
    pub(super) fn of_collation(number: u64) -> Option<Self> {
        Some(match number {
            1 | 84 => Self::Big5,
            95 | 96 => Self::Cp932,
            97 | 98 => Self::Eucjpms,
            19 | 85 => Self::Euckr,
            248..=250 => Self::Gb18030,
            24 | 86 => Self::Gb2312,
            28 | 87 => Self::Gbk,
            13 | 88 => Self::Sjis,
            12 | 91 => Self::Ujis,
            _ => return None,
        })
    }
}

impl Double {
    pub(super) fn decode(self, bytes: &[u8], put: &mut impl FnMut(char)) -> Result<(), usize> {
        let table = self.table();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let (character, length) = match byte {
                // The servers write another code for it, of two bytes.
                b'\\' if self == Self::Sjis => (None, 1),
                0..0x80 => (Some(byte.into()), 1),
                _ => self.character(table, &bytes[at..]),
            };
            put(character.ok_or(at)?);
            at += length;
        }
        Ok(())
    }

    /// The character at the start of these bytes, whose first is above 0x7f, and its length.
    fn character(self, table: &Table, bytes: &[u8]) -> (Option<char>, usize) {
        let pair = |at: usize| {
            let pair = bytes.get(at..)?.first_chunk()?;
            Some(usize::from(u16::from_be_bytes(*pair)))
        };
        match (self, bytes[0]) {
            (Self::Cp932 | Self::Sjis, 0xa1..=0xdf) => (katakana(bytes[0]), 1),
            (Self::Eucjpms | Self::Ujis, 0x8e) => (bytes.get(1).and_then(|&low| katakana(low)), 2),
            (Self::Eucjpms | Self::Ujis, 0x8f) => {
                (pair(1).and_then(|pair| present(table.triples[pair])), 3)
            }
            (Self::Gb18030, _) if bytes.get(1).is_some_and(u8::is_ascii_digit) => {
                (bytes.first_chunk().and_then(|code| four(*code)), 4)
            }
            _ => (pair(0).and_then(|pair| present(table.pairs[pair])), 2),
        }
    }

    fn table(self) -> &'static Table {
        static TABLES: [OnceLock<Table>; 9] = [const { OnceLock::new() }; 9];
        TABLES[self as usize].get_or_init(|| Table::build(self))
    }
}

impl Table {
    fn build(set: Double) -> Self {
        let encoding = set.encoding();
        let mut table = Self { pairs: empty(), triples: empty() };
        for high in 0x80..=0xff_u8 {
            for low in set.lowest()..=0xff_u8 {
                let code = usize::from(u16::from_be_bytes([high, low]));
                table.pairs[code] = one(encoding, &[high, low]);
                if matches!(set, Double::Eucjpms | Double::Ujis) {
                    table.triples[code] = one(encoding, &[0x8f, high, low]);
                }
            }
        }
        if matches!(set, Double::Eucjpms | Double::Ujis) {
            own(&mut table.pairs, 0xe000);
            own(&mut table.triples, 0xe3ac);
        }
        change(&mut table.pairs, set.differences());
        change(&mut table.triples, set.differences_of_triples());
        table
    }
}

fn empty() -> Box<[u16]> {
    vec![0; 1 << 16].into_boxed_slice()
}

/// The one character of this code that two bytes can name; 0 where it is none or more.
fn one(encoding: &'static Encoding, code: &[u8]) -> u16 {
    let text = encoding.decode_without_bom_handling_and_without_replacement(code);
    let mut units = text.as_deref().unwrap_or_default().encode_utf16();
    match (units.next(), units.next()) {
        (Some(unit), None) => unit,
        _ => 0,
    }
}

/// The user's own characters: ten rows of 94.
fn own(table: &mut [u16], first: u16) {
    for row in 0..10_u16 {
        for cell in 0..94_u16 {
            let code = u16::from_be_bytes([0xf5 + row as u8, 0xa1 + cell as u8]);
            table[usize::from(code)] = first + 94 * row + cell;
        }
    }
}

fn change(table: &mut [u16], (without, with): (Without, With)) {
    for &(first, last) in without {
        table[usize::from(first)..=usize::from(last)].fill(0);
    }
    for &(first, characters) in with {
        for (place, unit) in table[usize::from(first)..].iter_mut().zip(characters.encode_utf16()) {
            *place = unit;
        }
    }
}

/// Half-width katakana, one byte each in the Japanese sets.
fn katakana(byte: u8) -> Option<char> {
    (0xa1..=0xdf).contains(&byte).then(|| char::from_u32(0xff61 + u32::from(byte - 0xa1)))?
}

/// A code of four bytes in `gb18030`: those of the first plane by a table, the others counted.
fn four(code: [u8; 4]) -> Option<char> {
    let places = [(0x81, 0xfe), (0x30, 0x39), (0x81, 0xfe), (0x30, 0x39)];
    let mut linear = 0;
    for (byte, (first, last)) in code.into_iter().zip(places) {
        if !(first..=last).contains(&byte) {
            return None;
        }
        linear = linear * u32::from(last - first + 1) + u32::from(byte - first);
    }
    // 0x90308130, where the other planes start.
    match linear.checked_sub(189_000) {
        Some(above) => char::from_u32(0x1_0000 + above),
        None => present(one(encoding_rs::GB18030, &code)),
    }
}

impl Double {
    /// The lowest second byte.
    fn lowest(self) -> u8 {
        if self == Self::Gb2312 { 0xa1 } else { 0x40 }
    }

    fn encoding(self) -> &'static Encoding {
        match self {
            Self::Big5 => encoding_rs::BIG5,
            Self::Cp932 | Self::Sjis => encoding_rs::SHIFT_JIS,
            Self::Eucjpms | Self::Ujis => encoding_rs::EUC_JP,
            Self::Euckr => encoding_rs::EUC_KR,
            Self::Gb18030 => encoding_rs::GB18030,
            Self::Gb2312 | Self::Gbk => encoding_rs::GBK,
        }
    }
}
