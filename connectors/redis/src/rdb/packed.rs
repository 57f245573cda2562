//! Small values that a server keeps, and writes, as one run of bytes: listpacks, ziplists, intsets.
//!
//! Sources of the formats: `listpack.c`, `ziplist.c` and `intset.c` of Redis 7.

use unitflow_change::fault::Fault;

use super::corrupt;

/// An element: text, or a number that is written as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element<'a> {
    Text(&'a [u8]),
    Number(i64),
}

impl Element<'_> {
    /// As a client reads it.
    pub fn to_vec(self) -> Vec<u8> {
        match self {
            Element::Text(text) => text.to_vec(),
            Element::Number(number) => itoa::Buffer::new().format(number).into(),
        }
    }

    /// As a number, where it is one.
    pub fn number(self) -> Result<i64, Fault> {
        match self {
            Element::Number(number) => Ok(number),
            Element::Text(text) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| corrupt("a packed value has text where a number belongs")),
        }
    }
}

/// The elements of a listpack.
pub fn listpack(bytes: &[u8]) -> Result<Elements<'_>, Fault> {
    Elements::of(Form::Listpack, bytes, 6)
}

/// The elements of a ziplist.
pub fn ziplist(bytes: &[u8]) -> Result<Elements<'_>, Fault> {
    Elements::of(Form::Ziplist, bytes, 10)
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Listpack,
    Ziplist,
}

/// One element after the other, up to the end byte.
#[derive(Debug)]
pub struct Elements<'a> {
    form: Form,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Elements<'a> {
    fn of(form: Form, bytes: &'a [u8], header: usize) -> Result<Self, Fault> {
        let size = bytes.first_chunk().map(|size| u32::from_le_bytes(*size) as usize);
        if size != Some(bytes.len()) || bytes.len() < header {
            return Err(corrupt("a packed value has another size than it says"));
        }
        Ok(Self { form, bytes, at: header })
    }

    /// The next one, which has to be there.
    pub fn expect(&mut self) -> Result<Element<'a>, Fault> {
        self.next()?.ok_or_else(|| corrupt("a packed value ends too early"))
    }

    /// The next one, if there is one.
    pub fn next(&mut self) -> Result<Option<Element<'a>>, Fault> {
        if self.bytes.get(self.at) == Some(&0xff) {
            return match self.at + 1 == self.bytes.len() {
                true => Ok(None),
                false => Err(corrupt("a packed value goes on behind its end")),
            };
        }
        match self.form {
            Form::Listpack => self.of_listpack().map(Some),
            Form::Ziplist => self.of_ziplist().map(Some),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| corrupt("a packed value is cut"))?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        self.take(1).map(|taken| taken[0])
    }

    /// A number of so many bytes, the low one first.
    fn number(&mut self, count: usize) -> Result<Element<'a>, Fault> {
        Ok(Element::Number(little(self.take(count)?)))
    }

    fn text(&mut self, count: usize) -> Result<Element<'a>, Fault> {
        self.take(count).map(Element::Text)
    }

    fn of_listpack(&mut self) -> Result<Element<'a>, Fault> {
        let begin = self.at;
        let first = self.byte()?;
        let element = match first {
            0..0x80 => Element::Number(first.into()),
            0x80..0xc0 => self.text(usize::from(first & 0x3f))?,
            0xc0..0xe0 => {
                let value = i64::from(first & 0x1f) << 8 | i64::from(self.byte()?);
                Element::Number(if value < 1 << 12 { value } else { value - (1 << 13) })
            }
            0xe0..0xf0 => {
                let count = usize::from(first & 0xf) << 8 | usize::from(self.byte()?);
                self.text(count)?
            }
            0xf0 => {
                let count =
                    self.take(4)?.iter().rev().fold(0, |n, &byte| n << 8 | usize::from(byte));
                self.text(count)?
            }
            0xf1 => self.number(2)?,
            0xf2 => self.number(3)?,
            0xf3 => self.number(4)?,
            0xf4 => self.number(8)?,
            _ => return Err(corrupt("an element of a listpack has an unknown encoding")),
        };
        // Its size again, for who reads backwards.
        let backwards = match self.at - begin {
            0..=127 => 1,
            128..16_383 => 2,
            16_383..2_097_151 => 3,
            2_097_151..268_435_455 => 4,
            _ => 5,
        };
        self.take(backwards)?;
        Ok(element)
    }

    fn of_ziplist(&mut self) -> Result<Element<'a>, Fault> {
        // The size of the element before it.
        if self.byte()? == 0xfe {
            self.take(4)?;
        }
        let first = self.byte()?;
        match first {
            0..0x40 => self.text(first.into()),
            0x40..0x80 => {
                let count = usize::from(first & 0x3f) << 8 | usize::from(self.byte()?);
                self.text(count)
            }
            0x80 => {
                let count = self.take(4)?.iter().fold(0, |n, &byte| n << 8 | usize::from(byte));
                self.text(count)
            }
            0xc0 => self.number(2),
            0xd0 => self.number(4),
            0xe0 => self.number(8),
            0xf0 => self.number(3),
            0xfe => self.number(1),
            0xf1..=0xfd => Ok(Element::Number(i64::from(first & 0xf) - 1)),
            _ => Err(corrupt("an element of a ziplist has an unknown encoding")),
        }
    }
}

/// The numbers of an intset.
pub fn intset(bytes: &[u8]) -> Result<impl Iterator<Item = i64>, Fault> {
    let (width, rest) =
        bytes.split_first_chunk::<4>().ok_or_else(|| corrupt("an intset is cut"))?;
    let (count, rest) = rest.split_first_chunk::<4>().ok_or_else(|| corrupt("an intset is cut"))?;
    let (width, count) = (u32::from_le_bytes(*width) as usize, u32::from_le_bytes(*count) as usize);
    if !matches!(width, 2 | 4 | 8) || count.checked_mul(width) != Some(rest.len()) {
        return Err(corrupt("an intset has another size than it says"));
    }
    Ok(rest.chunks_exact(width).map(little))
}

/// A signed number, its low byte first; at most eight bytes.
fn little(bytes: &[u8]) -> i64 {
    let mut wide = match bytes.last() {
        Some(high) if high & 0x80 != 0 => [0xff; 8],
        _ => [0; 8],
    };
    wide[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(wide)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(mut elements: Elements<'_>) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(element) = elements.next().unwrap() {
            found.push(String::from_utf8(element.to_vec()).unwrap());
        }
        found
    }

    #[test]
    fn a_listpack_with_each_encoding() {
        let long = "x".repeat(200);
        let mut bytes = vec![0; 6];
        for (element, backwards) in [
            (vec![5], vec![1]),
            (b"\x83abc".to_vec(), vec![4]),
            (vec![0xdf, 0xff], vec![2]),
            ([&[0xe0, 200][..], long.as_bytes()].concat(), vec![1, 0xca]),
            (vec![0xf1, 0x00, 0x80], vec![3]),
            (vec![0xf2, 0xff, 0xff, 0xff], vec![4]),
            (vec![0xf3, 0, 0, 0, 0x80], vec![5]),
            (vec![0xf4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], vec![9]),
            (b"\xf0\x02\0\0\0hi".to_vec(), vec![7]),
        ] {
            bytes.extend(element);
            bytes.extend(backwards);
        }
        bytes.push(0xff);
        let size = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&size.to_le_bytes());
        let expected =
            ["5", "abc", "-1", &long, "-32768", "-1", "-2147483648", "9223372036854775807", "hi"];
        assert_eq!(all(listpack(&bytes).unwrap()), expected);
        assert!(listpack(&bytes[1..]).is_err());
    }

    #[test]
    fn a_ziplist_with_each_encoding() {
        let mut bytes = vec![0; 10];
        for element in [
            &b"\x00\x03abc"[..],
            b"\x05\x40\x02hi",
            b"\x06\x80\0\0\0\x01z",
            b"\xfe\0\0\0\x07\xc0\x00\x80",
            b"\x04\xd0\xff\xff\xff\xff",
            b"\x06\xe0\0\0\0\0\0\0\0\x80",
            b"\x0a\xf0\xff\xff\x7f",
            b"\x05\xfe\x80",
            b"\x03\xf1",
            b"\x02\xfd",
        ] {
            bytes.extend_from_slice(element);
        }
        bytes.push(0xff);
        let size = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&size.to_le_bytes());
        let expected = [
            "abc",
            "hi",
            "z",
            "-32768",
            "-1",
            "-9223372036854775808",
            "8388607",
            "-128",
            "0",
            "12",
        ];
        assert_eq!(all(ziplist(&bytes).unwrap()), expected);
    }

    #[test]
    fn an_intset_of_each_width() {
        let of = |width: u32, bytes: &[u8]| {
            let count = (bytes.len() / width as usize) as u32;
            let all = [&width.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat();
            intset(&all).unwrap().collect::<Vec<_>>()
        };
        assert_eq!(of(2, &[0xff, 0xff, 1, 0]), [-1, 1]);
        assert_eq!(of(4, &[0, 0, 0, 0x80]), [-2_147_483_648]);
        assert_eq!(of(8, &[0xff; 8]), [-1]);
        assert!(intset(&[3, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(intset(&[2, 0, 0, 0, 2, 0, 0, 0, 1, 1]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(mut bytes in prop::collection::vec(any::<u8>(), 10..200)) {
            let size = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&size.to_le_bytes());
            for mut elements in [listpack(&bytes).unwrap(), ziplist(&bytes).unwrap()] {
                while let Ok(Some(_)) = elements.next() {}
            }
            let _ = intset(&bytes).map(Iterator::count);
        }
    }
}
