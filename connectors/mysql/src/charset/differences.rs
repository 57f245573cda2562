//! What the servers' tables of the East Asian sets have otherwise than `encoding_rs`.
//!
//! Most of what is taken away are characters that the web has and the servers have not; some are
//! second codes of a character, which the servers read but write as the first. A test that fails
//! prints these lists as they should be.

use super::double::Double;

/// There is nothing from the first of these codes to the last.
pub(super) type Without = &'static [(u16, u16)];

/// From these codes on stand these characters.
pub(super) type With = &'static [(u16, &'static str)];

impl Double {
    /// Of codes of two bytes.
    pub(super) fn differences(self) -> (Without, With) {
        match self {
            Self::Big5 => (
                &[
                    (0x8740, 0xa0fd),
                    (0xa15a, 0xa15a),
                    (0xa1c3, 0xa1c3),
                    (0xa1c5, 0xa1c5),
                    (0xa1fe, 0xa240),
                    (0xa2cc, 0xa2cc),
                    (0xa3c0, 0xa3e1),
                    (0xc7fd, 0xc8fe),
                    (0xf9dd, 0xfefe),
                ],
                BIG5,
            ),
            Self::Cp932 => (
                &[
                    (0x8790, 0x8792),
                    (0x8795, 0x8797),
                    (0x879a, 0x879c),
                    (0xed40, 0xeefc),
                    (0xfa4a, 0xfa54),
                    (0xfa58, 0xfa5b),
                ],
                &[],
            ),
            Self::Eucjpms => (&[(0xadf0, 0xadf2), (0xadf5, 0xadf7), (0xadfa, 0xadfc)], &[]),
            Self::Euckr => (&[], &[]),
            // The table of 2005; that of 2022 has other codes for these.
            Self::Gb18030 => (
                &[],
                &[
                    (0xa3a0, "\u{e5e5}"),
                    (0xa6d9, "\u{e78d}\u{e78e}\u{e78f}\u{e790}\u{e791}\u{e792}\u{e793}"),
                    (0xa6ec, "\u{e794}\u{e795}"),
                    (0xa6f3, "\u{e796}"),
                    (0xfe59, "\u{e81e}"),
                    (0xfe61, "\u{e826}"),
                    (0xfe66, "\u{e82b}\u{e82c}"),
                    (0xfe6d, "\u{e832}"),
                    (0xfe7e, "\u{e843}"),
                    (0xfe90, "\u{e854}"),
                    (0xfea0, "\u{e864}"),
                ],
            ),
            Self::Gb2312 => (GB2312, &[(0xa1a4, "・"), (0xa1aa, "―")]),
            Self::Gbk => (GBK, &[]),
            Self::Sjis => (
                &[(0x8740, 0x879c), (0xed40, 0xfc4b)],
                &[(0x815f, "\\〜‖"), (0x817c, "−"), (0x8191, "¢£"), (0x81ca, "¬")],
            ),
            Self::Ujis => (
                &[(0xa1c0, 0xa1c0), (0xada1, 0xadfc)],
                &[(0xa1c1, "〜‖"), (0xa1dd, "−"), (0xa1f1, "¢£"), (0xa2cc, "¬")],
            ),
        }
    }

    /// Of codes of three bytes, by the last two.
    pub(super) fn differences_of_triples(self) -> (Without, With) {
        match self {
            Self::Eucjpms => (&[(0xa2b7, 0xa2b7), (0xa2f1, 0xa2f1)], EUCJPMS),
            Self::Ujis => (&[(0xa2b7, 0xa2b7)], &[]),
            _ => (&[], &[]),
        }
    }
}

const BIG5: With = &[
    (0xa145, "•"),
    (0xa14e, "､"),
    (0xa1c2, "‾"),
    (0xa1e3, "∼"),
    (0xa1f2, "♁☉"),
    (0xa241, "／＼"),
    (0xa244, "¥"),
    (0xa246, "¢£"),
    (0xa2ce, "\u{fffd}"),
    (
        0xc6a1,
        "ヾゝゞ々ぁあぃいぅうぇえぉおかがきぎくぐけげこごさざしじすずせぜそぞただちぢっつづてでとどなにぬねのはばぱひびぴふぶぷへべぺほぼぽまみむめもゃやゅゆょよらりるれろゎわゐゑをんァアィイゥウェ",
    ),
    (
        0xc740,
        "エォオカガキギクグケゲコゴサザシジスズセゼソゾタダチヂッツヅテデトドナニヌネノハバパヒビピフブプヘベペホボポマミムメモャヤュユ",
    ),
    (
        0xc7a1,
        "ョヨラリルレロヮワヰヱヲンヴヵヶДЕЁЖЗИЙКЛМУФХЦЧШЩЪЫЬЭЮЯабвгдеёжзийклмнопрстуфхцчшщъыьэюя①②③④⑤⑥⑦⑧⑨⑩⑴⑵⑶⑷⑸⑹⑺⑻⑼⑽",
    ),
];

const GB2312: Without = &[
    (0x81a1, 0xa0fe),
    (0xa2a1, 0xa2b0),
    (0xa2e3, 0xa2e4),
    (0xa2ef, 0xa2f0),
    (0xa2fd, 0xa2fe),
    (0xa4f4, 0xa4fe),
    (0xa5f7, 0xa5fe),
    (0xa6b9, 0xa6c0),
    (0xa6d9, 0xa6fe),
    (0xa7c2, 0xa7d0),
    (0xa7f2, 0xa7fe),
    (0xa8bb, 0xa8c4),
    (0xa8ea, 0xa9a3),
    (0xa9f0, 0xb0a0),
    (0xd7fa, 0xd7fe),
    (0xf8a1, 0xfefe),
];

const GBK: Without = &[
    (0xa140, 0xa1a0),
    (0xa240, 0xa2a0),
    (0xa2ab, 0xa2b0),
    (0xa2e3, 0xa2e4),
    (0xa2ef, 0xa2f0),
    (0xa2fd, 0xa3a0),
    (0xa440, 0xa4a0),
    (0xa4f4, 0xa5a0),
    (0xa5f7, 0xa6a0),
    (0xa6b9, 0xa6c0),
    (0xa6d9, 0xa6df),
    (0xa6ec, 0xa6ed),
    (0xa6f3, 0xa6f3),
    (0xa6f6, 0xa7a0),
    (0xa7c2, 0xa7d0),
    (0xa7f2, 0xa7fe),
    (0xa896, 0xa8a0),
    (0xa8bc, 0xa8bc),
    (0xa8bf, 0xa8bf),
    (0xa8c1, 0xa8c4),
    (0xa8ea, 0xa8fe),
    (0xa958, 0xa958),
    (0xa95b, 0xa95b),
    (0xa95d, 0xa95f),
    (0xa989, 0xa995),
    (0xa997, 0xa9a3),
    (0xa9f0, 0xa9fe),
    (0xaaa1, 0xaafe),
    (0xaba1, 0xabfe),
    (0xaca1, 0xacfe),
    (0xada1, 0xadfe),
    (0xaea1, 0xaefe),
    (0xafa1, 0xaffe),
    (0xd7fa, 0xd7fe),
    (0xf8a1, 0xf8fe),
    (0xf9a1, 0xf9fe),
    (0xfaa1, 0xfafe),
    (0xfba1, 0xfbfe),
    (0xfca1, 0xfcfe),
    (0xfda1, 0xfdfe),
    (0xfe50, 0xfefe),
];

const EUCJPMS: With = &[
    (0xa2c3, "￤"),
    (0xf3f3, "ⅰⅱⅲⅳⅴⅵⅶⅷⅸⅹ"),
    (0xf4a9, "＇＂"),
    (
        0xf4ae,
        "炻仼僴凬匇匤﨎咊坙﨏塚增寬峵嵓﨑德悅愠敎昻晥晴朗栁﨓﨔橫櫢淸淲瀨凞猪甁皂皞益礰礼神祥福竧靖精綠緖羽荢﨟薰蘒﨡蠇諸譿賴赶﨣﨤逸郞都鄕﨧﨨閒隆﨩霻靍靑飯飼館馞髙魲鶴黑",
    ),
];
