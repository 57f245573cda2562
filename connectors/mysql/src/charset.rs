//! Character sets of columns and statements, as far as they are known to be exactly the servers'.
//!
//! A column is known by the number of its collation. Text leaves as UTF-8. Bytes that are no text
//! in the column's character set are a fault, never a question mark; so are those that are text,
//! but not the bytes that the servers write for it (some sets have two codes for one character):
//! such a value would come out as other bytes at the target.

mod differences;
mod double;
mod single;

use double::Double;

/// A character set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charset {
    /// `utf8mb4` and `utf8mb3`.
    Utf8,
    /// `ascii`.
    Ascii,
    /// `binary`: bytes, not text.
    Binary,
    /// `utf16`, high bytes first.
    Utf16,
    /// `utf16le`.
    Utf16Le,
    /// `ucs2`: `utf16` without surrogates.
    Ucs2,
    /// `utf32`, high bytes first.
    Utf32,
    /// `swe7`: seven bits, with Swedish letters in the place of brackets.
    Swe7,
    /// One byte a character.
    Single(Single),
    /// Two bytes a character, or more.
    Double(Double),
}

/// A character set of one byte a character over ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Single {
    Armscii8,
    Cp1250,
    Cp1251,
    Cp1256,
    Cp1257,
    Cp850,
    Cp852,
    Cp866,
    Dec8,
    Geostd8,
    Greek,
    Hebrew,
    Hp8,
    Keybcs2,
    Koi8r,
    Koi8u,
    Latin1,
    Latin2,
    Latin5,
    Latin7,
    Macce,
    Macroman,
    Tis620,
}

impl Charset {
    /// The character set of a collation number; `None` where the decoder does not know it.
    pub fn of_collation(number: u64) -> Option<Self> {
        // MariaDB's NO PAD collations are 1024 above those they derive from.
        let base = if (1025..2048).contains(&number) { number - 1024 } else { number };
        Some(match base {
            63 => Self::Binary,
            11 | 65 => Self::Ascii,
            10 | 82 => Self::Swe7,
            // utf8mb3, with MariaDB's own.
            33 | 76 | 83 | 192..=215 | 223 | 576..=578 => Self::Utf8,
            // utf8mb4, MySQL's 0900 family and MariaDB's own.
            45 | 46 | 224..=247 | 255..=323 | 608..=610 => Self::Utf8,
            35 | 90 | 128..=151 | 159 | 640..=642 => Self::Ucs2,
            54 | 55 | 101..=124 | 672..=674 => Self::Utf16,
            56 | 62 => Self::Utf16Le,
            60 | 61 | 160..=183 | 736..=738 => Self::Utf32,
            // MariaDB's UCA 14.0.0: 256 numbers for each of utf8mb3, utf8mb4, ucs2, utf16, utf32.
            2048..=2559 => Self::Utf8,
            2560..=2815 => Self::Ucs2,
            2816..=3071 => Self::Utf16,
            3072..=3327 => Self::Utf32,
            _ => {
                return Double::of_collation(base)
                    .map(Self::Double)
                    .or_else(|| Single::of_collation(base).map(Self::Single));
            }
        })
    }

    /// Whether bytes that are all below 0x80 are ASCII.
    pub fn extends_ascii(self) -> bool {
        match self {
            Self::Utf8 | Self::Ascii | Self::Single(_) => true,
            Self::Double(double) => double != Double::Sjis,
            _ => false,
        }
    }

    /// Hands on the characters; the error is the place of the first byte that is none.
    pub fn decode(self, bytes: &[u8], put: &mut impl FnMut(char)) -> Result<(), usize> {
        match self {
            Self::Binary => Err(0),
            Self::Utf8 => match std::str::from_utf8(bytes) {
                Ok(text) => {
                    text.chars().for_each(put);
                    Ok(())
                }
                Err(error) => Err(error.valid_up_to()),
            },
            Self::Ascii => each(bytes, put, |byte| byte.is_ascii().then_some(byte.into())),
            Self::Swe7 => each(bytes, put, swe7),
            Self::Single(single) => {
                let upper = single.upper();
                each(bytes, put, |byte| match byte {
                    0..0x80 => Some(byte.into()),
                    _ => present(upper[usize::from(byte - 0x80)]),
                })
            }
            Self::Utf16 => wide(bytes, put, u16::from_be_bytes, true),
            Self::Utf16Le => wide(bytes, put, u16::from_le_bytes, true),
            Self::Ucs2 => wide(bytes, put, u16::from_be_bytes, false),
            Self::Utf32 => {
                let (codes, rest) = bytes.as_chunks::<4>();
                for (i, code) in codes.iter().enumerate() {
                    put(char::from_u32(u32::from_be_bytes(*code)).ok_or(4 * i)?);
                }
                if rest.is_empty() { Ok(()) } else { Err(4 * codes.len()) }
            }
            Self::Double(double) => double.decode(bytes, put),
        }
    }
}

/// One character a byte.
fn each(
    bytes: &[u8],
    put: &mut impl FnMut(char),
    character: impl Fn(u8) -> Option<char>,
) -> Result<(), usize> {
    for (at, &byte) in bytes.iter().enumerate() {
        put(character(byte).ok_or(at)?);
    }
    Ok(())
}

/// One character a unit of two bytes, or two units where surrogates may stand.
fn wide(
    bytes: &[u8],
    put: &mut impl FnMut(char),
    unit: fn([u8; 2]) -> u16,
    surrogates: bool,
) -> Result<(), usize> {
    let (units, rest) = bytes.as_chunks::<2>();
    let mut at = 0;
    for character in char::decode_utf16(units.iter().map(|bytes| unit(*bytes))) {
        let character = character
            .ok()
            .filter(|character| surrogates || character.len_utf16() == 1)
            .ok_or(at)?;
        put(character);
        at += 2 * character.len_utf16();
    }
    if rest.is_empty() { Ok(()) } else { Err(at) }
}

/// What a table says; 0 stands for no character.
fn present(code: u16) -> Option<char> {
    if code == 0 { None } else { char::from_u32(code.into()) }
}

fn swe7(byte: u8) -> Option<char> {
    Some(match byte {
        0x40 => 'É',
        0x5b => 'Ä',
        0x5c => 'Ö',
        0x5d => 'Å',
        0x5e => 'Ü',
        0x60 => 'é',
        0x7b => 'ä',
        0x7c => 'ö',
        0x7d => 'å',
        0x7e => 'ü',
        0x7f.. => return None,
        _ => byte.into(),
    })
}

impl Single {
    fn of_collation(number: u64) -> Option<Self> {
        Some(match number {
            32 | 64 => Self::Armscii8,
            26 | 34 | 44 | 66 | 99 => Self::Cp1250,
            14 | 23 | 50 | 51 | 52 => Self::Cp1251,
            57 | 67 => Self::Cp1256,
            29 | 58 | 59 => Self::Cp1257,
            4 | 80 => Self::Cp850,
            40 | 81 => Self::Cp852,
            36 | 68 => Self::Cp866,
            3 | 69 => Self::Dec8,
            92 | 93 => Self::Geostd8,
            25 | 70 => Self::Greek,
            16 | 71 => Self::Hebrew,
            6 | 72 => Self::Hp8,
            37 | 73 => Self::Keybcs2,
            7 | 74 => Self::Koi8r,
            22 | 75 => Self::Koi8u,
            5 | 8 | 15 | 31 | 47 | 48 | 49 | 94 => Self::Latin1,
            2 | 9 | 21 | 27 | 77 => Self::Latin2,
            30 | 78 => Self::Latin5,
            20 | 41 | 42 | 79 => Self::Latin7,
            38 | 43 => Self::Macce,
            39 | 53 => Self::Macroman,
            18 | 89 => Self::Tis620,
            _ => return None,
        })
    }

    fn upper(self) -> &'static single::Upper {
        match self {
            Self::Armscii8 => &single::ARMSCII8,
            Self::Cp1250 => &single::CP1250,
            Self::Cp1251 => &single::CP1251,
            Self::Cp1256 => &single::CP1256,
            Self::Cp1257 => &single::CP1257,
            Self::Cp850 => &single::CP850,
            Self::Cp852 => &single::CP852,
            Self::Cp866 => &single::CP866,
            Self::Dec8 => &single::DEC8,
            Self::Geostd8 => &single::GEOSTD8,
            Self::Greek => &single::GREEK,
            Self::Hebrew => &single::HEBREW,
            Self::Hp8 => &single::HP8,
            Self::Keybcs2 => &single::KEYBCS2,
            Self::Koi8r => &single::KOI8R,
            Self::Koi8u => &single::KOI8U,
            Self::Latin1 => &single::LATIN1,
            Self::Latin2 => &single::LATIN2,
            Self::Latin5 => &single::LATIN5,
            Self::Latin7 => &single::LATIN7,
            Self::Macce => &single::MACCE,
            Self::Macroman => &single::MACROMAN,
            Self::Tis620 => &single::TIS620,
        }
    }
}

#[cfg(test)]
mod tests;
