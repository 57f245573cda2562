//! Single values: from the binlog's bytes to the envelope's JSON text.
//!
//! All writers append to a buffer that the caller reuses. The forms are Debezium's with
//! `decimal.handling.mode=string`, `binary.handling.mode=base64` and
//! `time.precision.mode=isostring`; what those can't hold (zero dates, hours beyond 23) keeps the
//! same shape, so that every value can be turned back into what the server holds.
//!
//! Formats: <https://dev.mysql.com/doc/dev/mysql-server/latest/field__types_8h.html>, and for the
//! temporal types `sql-common/my_time.cc` of MySQL.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::bytes::{Broken, Bytes, Parsed};
use crate::charset::Charset;

/// How a byte stands in a JSON string: as it is (0), `\u00xx` (`u`), or behind a backslash.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut control = 0;
    while control < 0x20 {
        table[control] = b'u';
        control += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends the inside of a JSON string; the text is UTF-8.
pub(crate) fn write_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut clean = 0;
    for (at, &byte) in text.iter().enumerate() {
        let escape = ESCAPES[usize::from(byte)];
        if escape == 0 {
            continue;
        }
        out.extend_from_slice(&text[clean..at]);
        if escape == b'u' {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        } else {
            out.extend_from_slice(&[b'\\', escape]);
        }
        clean = at + 1;
    }
    out.extend_from_slice(&text[clean..]);
}

/// Appends a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    write_escaped(out, text.as_bytes());
    out.push(b'"');
}

/// Appends text of a character set as the inside of a JSON string.
pub(crate) fn write_text(
    out: &mut Vec<u8>,
    charset: Charset,
    bytes: &[u8],
    offset: usize,
) -> Parsed<()> {
    if charset.extends_ascii() && bytes.is_ascii() {
        write_escaped(out, bytes);
        return Ok(());
    }
    let decoded = match charset {
        Charset::Utf8 => match std::str::from_utf8(bytes) {
            Ok(_) => {
                write_escaped(out, bytes);
                Ok(())
            }
            Err(error) => Err(error.valid_up_to()),
        },
        charset => {
            let mut buffer = [0; 4];
            charset.decode(bytes, &mut |character| {
                write_escaped(out, character.encode_utf8(&mut buffer).as_bytes());
            })
        }
    };
    decoded.map_err(|at| {
        Broken::unknown(format!("text has bytes that are no character in {charset:?}"), offset + at)
            .hint("mend the row at the source, or convert the column to utf8mb4")
    })
}

/// Appends bytes as a base64 string.
pub(crate) fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The place was made as long as the text is.
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
    out.push(b'"');
}

/// Appends an integer.
pub(crate) fn write_integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends `FLOAT`: the shortest number that reads back as the same 32 bits.
pub(crate) fn write_float(out: &mut Vec<u8>, value: f32, offset: usize) -> Parsed<()> {
    if !value.is_finite() {
        return Err(Broken::corrupt("a FLOAT that is no number", offset));
    }
    out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    Ok(())
}

/// Appends `DOUBLE`: the shortest number that reads back as the same 64 bits.
pub(crate) fn write_double(out: &mut Vec<u8>, value: f64, offset: usize) -> Parsed<()> {
    if !value.is_finite() {
        return Err(Broken::corrupt("a DOUBLE that is no number", offset));
    }
    out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    Ok(())
}

/// How many bytes hold that many decimal digits of a part group.
const DIGIT_BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// The shape of a `DECIMAL` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decimal {
    pub precision: u8,
    pub scale: u8,
}

impl Decimal {
    /// A shape as servers allow it.
    pub fn new(precision: u8, scale: u8) -> Option<Self> {
        ((1..=65).contains(&precision) && scale <= precision.min(38))
            .then_some(Self { precision, scale })
    }

    /// How many bytes a value has.
    pub fn size(self) -> usize {
        let (whole, scale) = (usize::from(self.precision - self.scale), usize::from(self.scale));
        whole / 9 * 4 + DIGIT_BYTES[whole % 9] + scale / 9 * 4 + DIGIT_BYTES[scale % 9]
    }

    /// Appends the digits, without quotes, as the server prints them.
    ///
    /// Groups of nine digits stand in four bytes each, high byte first; the shorter group stands
    /// outermost on either side of the point. The first bit is flipped, and all bits are where
    /// the value is negative.
    pub fn write(self, out: &mut Vec<u8>, bytes: &mut Bytes<'_>) -> Parsed<()> {
        let offset = bytes.at();
        let raw = bytes.take(self.size())?;
        let (whole, scale) = (usize::from(self.precision - self.scale), usize::from(self.scale));
        let negative = raw.first().is_some_and(|first| first & 0x80 == 0);
        let mask = if negative { 0xff } else { 0 };
        let mut at = 0;
        let mut group = |digits: usize| {
            let size = DIGIT_BYTES[digits];
            let mut value = 0_u32;
            for _ in 0..size {
                let flip = if at == 0 { 0x80 } else { 0 };
                value = value << 8 | u32::from(raw[at] ^ mask ^ flip);
                at += 1;
            }
            if value >= 10_u32.pow(digits as u32) {
                return Err(Broken::corrupt("a DECIMAL has an impossible digit", offset + at));
            }
            Ok(value)
        };
        let start = out.len();
        if negative {
            out.push(b'-');
        }
        let mut leading = true;
        let mut zero = true;
        let mut put = |out: &mut Vec<u8>, value: u32, digits: usize, leading: bool| {
            zero &= value == 0;
            if leading {
                if value > 0 {
                    write_integer(out, value);
                }
            } else {
                write_padded(out, value, digits);
            }
        };
        for digits in [whole % 9]
            .into_iter()
            .filter(|digits| *digits > 0)
            .chain(std::iter::repeat_n(9, whole / 9))
        {
            let value = group(digits)?;
            put(out, value, digits, leading);
            leading &= value == 0;
        }
        if leading {
            out.push(b'0');
        }
        if scale > 0 {
            out.push(b'.');
            for digits in
                std::iter::repeat_n(9, scale / 9).chain([scale % 9]).filter(|digits| *digits > 0)
            {
                let value = group(digits)?;
                put(out, value, digits, false);
            }
        }
        if negative && zero {
            out.remove(start);
        }
        Ok(())
    }
}

/// Appends a number with leading zeros.
fn write_padded(out: &mut Vec<u8>, mut value: u32, digits: usize) {
    let start = out.len();
    out.resize(start + digits, b'0');
    for place in out[start..].iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// A point in time or a span, taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    pub negative: bool,
    pub year: u32,
    pub month: u32,
    pub day: u32,
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
    pub micro: u32,
}

impl Clock {
    /// `2026-01-02`.
    pub fn write_date(&self, out: &mut Vec<u8>) {
        write_padded(out, self.year, 4);
        out.push(b'-');
        write_padded(out, self.month, 2);
        out.push(b'-');
        write_padded(out, self.day, 2);
    }

    /// `-838:59:59.000001`, with that many fractional digits.
    pub fn write_time(&self, out: &mut Vec<u8>, fraction: u8) {
        if self.negative {
            out.push(b'-');
        }
        write_padded(out, self.hour, if self.hour > 99 { 3 } else { 2 });
        out.push(b':');
        write_padded(out, self.minute, 2);
        out.push(b':');
        write_padded(out, self.second, 2);
        if fraction > 0 {
            out.push(b'.');
            let digits = usize::from(fraction.min(6));
            write_padded(out, self.micro / 10_u32.pow(6 - digits as u32), digits);
        }
    }

    /// From `year*13+month | day | hour | minute | second` in 17+5+5+6+6 bits, and µs.
    fn of_datetime(whole: u64, micro: u32) -> Self {
        let (date, time) = (whole >> 17, whole & 0x1_ffff);
        let month = date >> 5;
        Self {
            negative: false,
            year: (month / 13) as u32,
            month: (month % 13) as u32,
            day: (date & 31) as u32,
            hour: (time >> 12) as u32,
            minute: (time >> 6 & 63) as u32,
            second: (time & 63) as u32,
            micro,
        }
    }

    /// From `hour | minute | second` in 10+6+6 bits, then 24 bits of µs.
    fn of_time(packed: i64) -> Self {
        let (negative, packed) = (packed < 0, packed.unsigned_abs());
        let whole = packed >> 24;
        Self {
            negative,
            hour: (whole >> 12 & 1023) as u32,
            minute: (whole >> 6 & 63) as u32,
            second: (whole & 63) as u32,
            micro: (packed & 0xff_ffff) as u32,
            ..Self::default()
        }
    }

    /// From the eight bytes of a datetime inside a JSON document.
    pub fn of_packed_datetime(packed: i64) -> Self {
        Self::of_datetime(packed.unsigned_abs() >> 24, (packed.unsigned_abs() & 0xff_ffff) as u32)
    }

    /// From the eight bytes of a time inside a JSON document.
    pub fn of_packed_time(packed: i64) -> Self {
        Self::of_time(packed)
    }

    /// From seconds since 1970, UTC. Days to civil dates as by Howard Hinnant,
    /// <https://howardhinnant.github.io/date_algorithms.html>.
    fn of_epoch(seconds: u32, micro: u32) -> Self {
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Self {
            negative: false,
            year: year_of_era + era * 400 + u32::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
            micro,
        }
    }
}

/// Reads the fraction behind a whole number: `fraction` digits in half as many bytes, as µs.
fn read_micro(bytes: &mut Bytes<'_>, fraction: u8) -> Parsed<u32> {
    let size = usize::from(fraction).div_ceil(2);
    let raw = bytes.unsigned_big(size)? as u32;
    let micro = raw * [1, 10_000, 100, 1][size];
    if micro > 999_999 {
        return Err(bytes.corrupt("a fraction of a second is a second or more"));
    }
    Ok(micro)
}

/// Appends `DATE`.
pub(crate) fn write_date(out: &mut Vec<u8>, bytes: &mut Bytes<'_>) -> Parsed<()> {
    let raw = bytes.unsigned(3)? as u32;
    let date = Clock { year: raw >> 9, month: raw >> 5 & 15, day: raw & 31, ..Clock::default() };
    if date.year > 9999 {
        return Err(bytes.corrupt("a DATE after the year 9999"));
    }
    out.push(b'"');
    date.write_date(out);
    out.extend_from_slice(b"Z\"");
    Ok(())
}

/// Appends `TIME`.
pub(crate) fn write_time(out: &mut Vec<u8>, bytes: &mut Bytes<'_>, fraction: u8) -> Parsed<()> {
    let whole = bytes.unsigned_big(3)? as i64 - 0x80_0000;
    let size = usize::from(fraction).div_ceil(2);
    let raw = bytes.unsigned_big(size)? as i64;
    // Whole and fraction are one two's-complement number of 3 + size bytes.
    let unit = [1_i64, 10_000, 100, 1][size];
    let packed = if whole < 0 && raw > 0 {
        ((whole + 1) << 24) + (raw - (1 << (8 * size))) * unit
    } else {
        (whole << 24) + raw * unit
    };
    let clock = Clock::of_time(packed);
    if clock.minute > 59 || clock.second > 59 || clock.micro > 999_999 {
        return Err(bytes.corrupt("a TIME with impossible parts"));
    }
    out.push(b'"');
    clock.write_time(out, digits(clock.micro));
    out.extend_from_slice(b"Z\"");
    Ok(())
}

/// How many fractional digits there are before nothing but zeros follows: so many are written,
/// except of a `TIMESTAMP`, which has those of its column.
pub(crate) fn digits(mut micro: u32) -> u8 {
    let mut digits = 6;
    while digits > 0 && micro.is_multiple_of(10) {
        micro /= 10;
        digits -= 1;
    }
    digits
}

/// Appends `DATETIME`.
pub(crate) fn write_datetime(out: &mut Vec<u8>, bytes: &mut Bytes<'_>, fraction: u8) -> Parsed<()> {
    let whole = bytes.unsigned_big(5)?;
    let micro = read_micro(bytes, fraction)?;
    let Some(whole) = whole.checked_sub(0x80_0000_0000) else {
        return Err(bytes.corrupt("a negative DATETIME"));
    };
    let clock = Clock::of_datetime(whole, micro);
    if clock.year > 9999 || clock.hour > 23 || clock.minute > 59 || clock.second > 59 {
        return Err(bytes.corrupt("a DATETIME with impossible parts"));
    }
    write_moment(out, &clock, digits(clock.micro));
    Ok(())
}

/// Appends `TIMESTAMP`.
pub(crate) fn write_timestamp(
    out: &mut Vec<u8>,
    bytes: &mut Bytes<'_>,
    fraction: u8,
) -> Parsed<()> {
    let seconds = bytes.array().map(u32::from_be_bytes)?;
    let micro = read_micro(bytes, fraction)?;
    // Zero is the zero date: the servers refuse the first second of 1970.
    let clock =
        if seconds == 0 && micro == 0 { Clock::default() } else { Clock::of_epoch(seconds, micro) };
    write_moment(out, &clock, fraction);
    Ok(())
}

/// Appends a date and a time, with that many fractional digits.
pub(crate) fn write_moment(out: &mut Vec<u8>, clock: &Clock, fraction: u8) {
    out.push(b'"');
    clock.write_date(out);
    out.push(b'T');
    clock.write_time(out, fraction);
    out.extend_from_slice(b"Z\"");
}

/// Appends `GEOMETRY`: the number of its reference system, then well-known bytes.
pub(crate) fn write_geometry(out: &mut Vec<u8>, value: &[u8], offset: usize) -> Parsed<()> {
    let mut bytes = Bytes::new(value);
    let srid = bytes.u32().map_err(|_| Broken::corrupt("a GEOMETRY is too short", offset))?;
    out.extend_from_slice(b"{\"wkb\":");
    write_base64(out, bytes.rest());
    out.extend_from_slice(b",\"srid\":");
    if srid == 0 {
        out.extend_from_slice(b"null");
    } else {
        write_integer(out, srid);
    }
    out.push(b'}');
    Ok(())
}

/// Appends `VECTOR`: numbers of 32 bits.
pub(crate) fn write_vector(out: &mut Vec<u8>, value: &[u8], offset: usize) -> Parsed<()> {
    let (numbers, rest) = value.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Broken::corrupt("a VECTOR is cut", offset + value.len()));
    }
    out.push(b'[');
    for (i, number) in numbers.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_float(out, f32::from_le_bytes(*number), offset + 4 * i)?;
    }
    out.push(b']');
    Ok(())
}

/// Appends MariaDB's `UUID`. Versions 1 to 5 are stored with their parts in reverse order, so
/// that they sort by time; `always` where the column is of the first releases, which did that
/// with all. Trailing zero bytes are not in the log.
pub(crate) fn write_uuid(
    out: &mut Vec<u8>,
    value: &[u8],
    always: bool,
    offset: usize,
) -> Parsed<()> {
    let mut raw = [0; 16];
    raw.get_mut(..value.len())
        .ok_or_else(|| Broken::corrupt("a UUID is too long", offset))?
        .copy_from_slice(value);
    let swapped = raw[6] & 0x80 != 0 && raw[8] > 0 && raw[8] < 0x60;
    let order: [usize; 16] = if always || swapped {
        [12, 13, 14, 15, 10, 11, 8, 9, 6, 7, 0, 1, 2, 3, 4, 5]
    } else {
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    };
    out.push(b'"');
    for (i, from) in order.into_iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.push(HEX[usize::from(raw[from] >> 4)]);
        out.push(HEX[usize::from(raw[from] & 15)]);
    }
    out.push(b'"');
    Ok(())
}

/// Appends MariaDB's `INET6` or `INET4`. Trailing zero bytes are not in the log.
pub(crate) fn write_inet<const N: usize>(
    out: &mut Vec<u8>,
    value: &[u8],
    offset: usize,
) -> Parsed<()>
where
    std::net::IpAddr: From<[u8; N]>,
{
    let mut raw = [0; N];
    raw.get_mut(..value.len())
        .ok_or_else(|| Broken::corrupt("an INET address is too long", offset))?
        .copy_from_slice(value);
    let address = match std::net::IpAddr::from(raw) {
        std::net::IpAddr::V6(address) => inet6_text(address.octets()),
        std::net::IpAddr::V4(address) => address.to_string(),
    };
    write_string(out, &address);
    Ok(())
}

/// An IPv6 address as MariaDB prints it. Unlike others it leaves out a single group of zeros too,
/// and writes all that start with six groups of zeros with dots (`Inet6::to_string` in
/// sql/sql_type_inet.cc).
pub(crate) fn inet6_text(raw: [u8; 16]) -> String {
    let (pairs, _) = raw.as_chunks::<2>();
    let groups: Vec<u16> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
    // The first of the longest runs of zeros.
    let (mut gap, mut length) = (groups.len(), 0);
    let mut start = 0;
    for run in groups.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
        if run[0] == 0 && run.len() > length {
            (gap, length) = (start, run.len());
        }
        start += run.len();
    }
    let mut text = String::new();
    let mut at = 0;
    while at < groups.len() {
        if at == gap {
            text.push_str(if at == 0 { "::" } else { ":" });
            at += length;
        } else if at == 6 && gap == 0 && (length == 6 || (length == 5 && groups[5] == 0xffff)) {
            let [.., a, b, c, d] = raw;
            text.push_str(&format!("{a}.{b}.{c}.{d}"));
            break;
        } else {
            text.push_str(&format!("{:x}", groups[at]));
            text.push_str(if at + 1 < groups.len() { ":" } else { "" });
            at += 1;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(
        write: impl FnOnce(&mut Vec<u8>, &mut Bytes<'_>) -> Parsed<()>,
        bytes: &[u8],
    ) -> String {
        let mut out = Vec::new();
        let mut read = Bytes::new(bytes);
        write(&mut out, &mut read).unwrap();
        assert!(read.is_empty());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn decimals_as_in_the_servers_own_example() {
        // 1234567890.1234 as DECIMAL(14,4): 81 0D FB 38 D2 04 D2 (strings/decimal.cc).
        let shape = Decimal::new(14, 4).unwrap();
        let decimal = |bytes: &[u8]| written(|out, read| shape.write(out, read), bytes);
        assert_eq!(decimal(&[0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2]), "1234567890.1234");
        assert_eq!(decimal(&[0x7e, 0xf2, 0x04, 0xc7, 0x2d, 0xfb, 0x2d]), "-1234567890.1234");
        assert_eq!(decimal(&[0x80, 0, 0, 0, 0, 0, 0]), "0.0000");
        assert!(Decimal::new(66, 0).is_none() && Decimal::new(5, 6).is_none());
    }

    #[test]
    fn times_below_zero() {
        let time =
            |fraction, bytes: &[u8]| written(|out, read| write_time(out, read, fraction), bytes);
        assert_eq!(time(0, &[0x80, 0, 0]), "\"00:00:00Z\"");
        assert_eq!(time(0, &[0x7f, 0xff, 0xff]), "\"-00:00:01Z\"");
        assert_eq!(time(2, &[0x7f, 0xff, 0xff, 0xff]), "\"-00:00:00.01Z\"");
        assert_eq!(time(2, &[0x7f, 0xff, 0xff, 0x00]), "\"-00:00:01Z\"");
        assert_eq!(time(2, &[0x7f, 0xff, 0xfe, 0xff]), "\"-00:00:01.01Z\"");
        assert_eq!(time(6, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff]), "\"-00:00:00.000001Z\"");
        assert_eq!(time(0, &[0xb4, 0x6e, 0xfb]), "\"838:59:59Z\"");
    }

    #[test]
    fn timestamps_over_leap_days() {
        let stamp = |seconds: u32| {
            written(|out, read| write_timestamp(out, read, 0), &seconds.to_be_bytes())
        };
        assert_eq!(stamp(0), "\"0000-00-00T00:00:00Z\"");
        assert_eq!(stamp(1), "\"1970-01-01T00:00:01Z\"");
        assert_eq!(stamp(951_782_400), "\"2000-02-29T00:00:00Z\"");
        assert_eq!(stamp(2_147_483_647), "\"2038-01-19T03:14:07Z\"");
        assert_eq!(stamp(u32::MAX), "\"2106-02-07T06:28:15Z\"");
    }

    #[test]
    fn uuids_are_put_in_order() {
        // As MariaDB 10.11 stores 01020304-0506-1708-890a-0b0c0d0e0f00.
        let stored = [0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0, 0x89, 0x0a, 0x17, 0x08, 5, 6, 1, 2, 3, 4];
        let mut out = Vec::new();
        write_uuid(&mut out, &stored, false, 0).unwrap();
        assert_eq!(out, b"\"01020304-0506-1708-890a-0b0c0d0e0f00\"");
    }

    proptest! {
        #[test]
        fn strings_are_as_serde_json_writes_them(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            prop_assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), fraction in 0_u8..7) {
            let mut out = Vec::new();
            let _ = write_date(&mut out, &mut Bytes::new(&bytes));
            let _ = write_time(&mut out, &mut Bytes::new(&bytes), fraction);
            let _ = write_datetime(&mut out, &mut Bytes::new(&bytes), fraction);
            let _ = write_timestamp(&mut out, &mut Bytes::new(&bytes), fraction);
            let _ = write_geometry(&mut out, &bytes, 0);
            let _ = write_vector(&mut out, &bytes, 0);
            let _ = write_uuid(&mut out, &bytes, false, 0);
            let _ = write_inet::<4>(&mut out, &bytes, 0);
            for (precision, scale) in [(1, 0), (1, 1), (65, 30), (18, 9), (10, 3)] {
                let _ = Decimal::new(precision, scale).unwrap().write(&mut out, &mut Bytes::new(&bytes));
            }
        }
    }
}
