//! A reader over bytes from outside: every access is checked, and what is wrong says where.

use std::borrow::Cow;

use unitflow_change::fault::{Code, Fault};

/// What is wrong with some bytes, and where in them.
#[derive(Debug)]
pub(crate) struct Broken {
    pub code: Code,
    pub what: Cow<'static, str>,
    pub offset: usize,
    pub hint: &'static str,
}

impl Broken {
    pub fn corrupt(what: impl Into<Cow<'static, str>>, offset: usize) -> Self {
        Self { code: Code::BinlogCorrupt, what: what.into(), offset, hint: "" }
    }

    pub fn unknown(what: impl Into<Cow<'static, str>>, offset: usize) -> Self {
        Self { code: Code::BinlogUnknown, what: what.into(), offset, hint: "" }
    }

    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    #[cold]
    pub fn into_fault(self) -> Fault {
        let hint = match self.code {
            Code::BinlogCorrupt if self.hint.is_empty() => {
                "check the source's log with mysqlbinlog --verify-binlog-checksum"
            }
            _ => self.hint,
        };
        Fault::fatal(self.code, format!("{} (byte {} of the event)", self.what, self.offset))
            .hint(hint)
    }
}

pub(crate) type Parsed<T> = Result<T, Broken>;

/// Bytes and how far they were read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    pub fn new(all: &'a [u8]) -> Self {
        Self { all, at: 0 }
    }

    pub fn from(all: &'a [u8], at: usize) -> Self {
        Self { all, at: at.min(all.len()) }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn left(&self) -> usize {
        self.all.len() - self.at
    }

    pub fn is_empty(&self) -> bool {
        self.at == self.all.len()
    }

    /// What was read since `start`.
    pub fn since(&self, start: usize) -> &'a [u8] {
        &self.all[start..self.at]
    }

    pub fn rest(&mut self) -> &'a [u8] {
        let rest = &self.all[self.at..];
        self.at = self.all.len();
        rest
    }

    #[cold]
    #[inline(never)]
    fn cut(&self) -> Broken {
        Broken::corrupt("bytes end too early", self.at)
    }

    pub fn corrupt(&self, what: impl Into<Cow<'static, str>>) -> Broken {
        Broken::corrupt(what, self.at)
    }

    pub fn unknown(&self, what: impl Into<Cow<'static, str>>) -> Broken {
        Broken::unknown(what, self.at)
    }

    #[inline]
    pub fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        if count > self.left() {
            return Err(self.cut());
        }
        let taken = &self.all[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        match self.all[self.at..].first_chunk() {
            Some(taken) => {
                self.at += N;
                Ok(*taken)
            }
            None => Err(self.cut()),
        }
    }

    #[inline]
    pub fn u8(&mut self) -> Parsed<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub fn u16(&mut self) -> Parsed<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// `count` bytes, low byte first; at most eight.
    #[inline]
    pub fn unsigned(&mut self, count: usize) -> Parsed<u64> {
        let taken = self.take(count)?;
        let mut wide = [0; 8];
        wide[..count].copy_from_slice(taken);
        Ok(u64::from_le_bytes(wide))
    }

    /// `count` bytes, high byte first; at most eight.
    #[inline]
    pub fn unsigned_big(&mut self, count: usize) -> Parsed<u64> {
        Ok(self.take(count)?.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// MySQL's length-encoded integer.
    pub fn length(&mut self) -> Parsed<u64> {
        match self.u8()? {
            small @ 0..=0xfa => Ok(small.into()),
            0xfc => self.u16().map(u64::from),
            0xfd => self.unsigned(3),
            0xfe => self.u64(),
            _ => Err(self.corrupt("a length starts with an invalid byte")),
        }
    }

    /// As many bytes as a length-encoded integer says.
    pub fn counted(&mut self) -> Parsed<&'a [u8]> {
        let count = self.length()?;
        self.take(usize::try_from(count).map_err(|_| self.cut())?)
    }

    /// UTF-8 text.
    pub fn text(&mut self, count: usize) -> Parsed<&'a str> {
        let offset = self.at;
        std::str::from_utf8(self.take(count)?)
            .map_err(|error| Broken::corrupt("a name is not UTF-8", offset + error.valid_up_to()))
    }

    /// An integer of MySQL's serialisation library: the trailing ones of the first byte count the
    /// bytes that follow it; the value's low bits come first.
    pub fn varlen(&mut self) -> Parsed<u64> {
        let first = self.u8()?;
        let more = first.trailing_ones() as usize;
        let high = self.unsigned(more.min(8))?;
        if more >= 8 {
            return Ok(high);
        }
        let bits = 7 - more;
        let low = if bits == 0 { 0 } else { u64::from(first) >> (more + 1) };
        Ok(high << bits | low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_the_serialisation_library() {
        // Values and encodings as in the manual of mysql::serialization.
        for (bytes, value) in [
            (&[0b0000_0000][..], 0),
            (&[0b1111_1110], 127),
            (&[0b0000_0001, 0b0000_0010], 128),
            (&[0b1111_1101, 0b1111_1111], (1 << 14) - 1),
            (&[0b0000_0011, 0, 0b0000_0010], 1 << 14),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], u64::MAX),
        ] {
            let mut read = Bytes::new(bytes);
            assert_eq!(read.varlen().unwrap(), value, "{bytes:?}");
            assert!(read.is_empty());
        }
    }

    #[test]
    fn nothing_is_read_past_the_end() {
        let mut read = Bytes::new(&[0xfd, 1, 2]);
        assert!(read.length().is_err());
        assert!(Bytes::new(&[0xff]).varlen().is_err());
        assert!(Bytes::new(&[5, 1]).counted().is_err());
        assert!(Bytes::new(&[]).array::<4>().is_err());
        assert!(Bytes::from(&[1], 9).u8().is_err());
    }
}
