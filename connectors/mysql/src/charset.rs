//! Character sets of columns, as far as the decoder knows them.
//!
//! A column is known by the number of its collation. Text leaves as UTF-8; bytes that are no text
//! in the column's character set are a fault, never a question mark.

/// A character set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charset {
    /// `utf8mb4` and `utf8mb3`.
    Utf8,
    /// `ascii`.
    Ascii,
    /// `latin1`, which is Windows-1252 with the five holes filled by control characters.
    Latin1,
    /// `binary`: bytes, not text.
    Binary,
}

impl Charset {
    /// The character set of a collation number; `None` where the decoder does not know it.
    pub fn of_collation(number: u64) -> Option<Self> {
        // MariaDB's NO PAD collations are 1024 above those they derive from.
        let base = if (1025..2048).contains(&number) { number - 1024 } else { number };
        match base {
            63 => Some(Self::Binary),
            11 | 65 => Some(Self::Ascii),
            5 | 8 | 15 | 31 | 47 | 48 | 49 | 94 => Some(Self::Latin1),
            // utf8mb3, with MariaDB's own.
            33 | 76 | 83 | 192..=215 | 223 | 576..=578 => Some(Self::Utf8),
            // utf8mb4, MySQL's 0900 family and MariaDB's own.
            45 | 46 | 224..=247 | 255..=323 | 608..=610 => Some(Self::Utf8),
            // MariaDB's UCA 14.0.0: 256 numbers for each of utf8mb3 and utf8mb4.
            2048..=2559 => Some(Self::Utf8),
            _ => None,
        }
    }
}

/// What the bytes 0x80 to 0x9f of `latin1` mean.
const LATIN1_HIGH: [char; 32] = [
    '\u{20ac}', '\u{81}', '\u{201a}', '\u{192}', '\u{201e}', '\u{2026}', '\u{2020}', '\u{2021}',
    '\u{2c6}', '\u{2030}', '\u{160}', '\u{2039}', '\u{152}', '\u{8d}', '\u{17d}', '\u{8f}',
    '\u{90}', '\u{2018}', '\u{2019}', '\u{201c}', '\u{201d}', '\u{2022}', '\u{2013}', '\u{2014}',
    '\u{2dc}', '\u{2122}', '\u{161}', '\u{203a}', '\u{153}', '\u{9d}', '\u{17e}', '\u{178}',
];

/// The character of a `latin1` byte.
pub(crate) fn latin1(byte: u8) -> char {
    match byte {
        0x80..=0x9f => LATIN1_HIGH[usize::from(byte - 0x80)],
        _ => byte as char,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_both_servers() {
        for (number, charset) in [
            (255, Some(Charset::Utf8)),
            (45, Some(Charset::Utf8)),
            (33, Some(Charset::Utf8)),
            (1069, Some(Charset::Utf8)),
            (2304, Some(Charset::Utf8)),
            (8, Some(Charset::Latin1)),
            (1032, Some(Charset::Latin1)),
            (63, Some(Charset::Binary)),
            (11, Some(Charset::Ascii)),
            (28, None),  // gbk
            (35, None),  // ucs2
            (54, None),  // utf16
            (248, None), // gb18030
            (2560, None),
        ] {
            assert_eq!(Charset::of_collation(number), charset, "{number}");
        }
    }

    #[test]
    fn latin1_is_windows_1252() {
        assert_eq!(latin1(0x80), '€');
        assert_eq!(latin1(0x81), '\u{81}');
        assert_eq!(latin1(0xe9), 'é');
    }
}
