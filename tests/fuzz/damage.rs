//! Ways in which bytes go wrong.

use unitflow_harness::random::Random;

/// Numbers at which lengths and counts turn over.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x00ff_ffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// One to six changes. `others` lends pieces.
pub fn bytes(random: &mut Random, bytes: &mut Vec<u8>, others: &[&[u8]]) {
    for _ in 0..=random.below(6) {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let at = random.place(bytes.len());
        match random.below(11) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = low_byte(random.next()),
            3 => bytes[at] = low_byte(EDGES[random.place(EDGES.len())]),
            4 => bytes.truncate(at),
            5 => {
                let end = (at + random.place(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => bytes.insert(at, low_byte(random.next())),
            7 => {
                let end = (at + 1 + random.place(64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.place(bytes.len());
                bytes.splice(to..to, piece);
            }
            8 if !others.is_empty() => {
                let other = others[random.place(others.len())];
                if !other.is_empty() {
                    let from = random.place(other.len());
                    let end = (from + 1 + random.place(200)).min(other.len());
                    bytes.splice(at..at, other[from..end].iter().copied());
                }
            }
            _ => {
                let edge = EDGES[random.place(EDGES.len())].to_le_bytes();
                let width = [1, 2, 3, 4, 8][random.place(5)];
                for (byte, edge) in bytes[at..].iter_mut().zip(&edge[..width]) {
                    *byte = *edge;
                }
            }
        }
    }
}

/// One to six changes to what is meant to be text: bytes as above, and characters that mean
/// something in it.
pub fn text(random: &mut Random, all: &mut Vec<u8>, others: &[&[u8]]) {
    const MEANT: &[u8] = b"{}[]\",:;-/\\'0123456789.eE+ ntfu\0\xff*";
    for _ in 0..=random.below(5) {
        let at = random.place(all.len() + 1);
        let meant = MEANT[random.place(MEANT.len())];
        match random.below(5) {
            0 => all.insert(at, meant),
            1 => all
                .splice(at..at, EDGES[random.place(EDGES.len())].to_string().bytes())
                .for_each(drop),
            2 => all.splice(at..at, std::iter::repeat_n(meant, random.place(3000))).for_each(drop),
            3 => {
                if let Some(byte) = all.get_mut(at) {
                    *byte = meant;
                }
            }
            _ => bytes(random, all, others),
        }
    }
}

fn low_byte(number: u64) -> u8 {
    number.to_le_bytes()[0]
}
