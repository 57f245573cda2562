//! Decimal numbers of any size, compared exactly.

use std::cmp::Ordering;

/// The largest power of ten that a number may carry; a DOUBLE ends at 308.
const EXPONENT_MAX: i64 = 10_000;

/// A decimal number of any size: digits, and where the point stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: i64,
}

impl<'a> Number<'a> {
    pub(super) const ZERO: Self = Self { negative: false, whole: "0", fraction: "", exponent: 0 };

    /// `-12.50e3`: a JSON number, or a DECIMAL's text.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (digits, exponent) = match text.split_once(['e', 'E']) {
            Some((digits, exponent)) => (digits, exponent.parse().ok()?),
            None => (text, 0_i64),
        };
        let (whole, fraction) = match digits.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return None,
            None => (digits, ""),
        };
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let good = !whole.is_empty()
            && all_digits(whole)
            && all_digits(fraction)
            && exponent.abs() <= EXPONENT_MAX;
        good.then_some(Self { negative, whole, fraction, exponent })
    }

    fn digits(&self) -> impl Iterator<Item = u8> + 'a {
        self.whole.bytes().chain(self.fraction.bytes()).skip_while(|digit| *digit == b'0')
    }

    fn is_zero(&self) -> bool {
        self.digits().next().is_none()
    }

    /// How many digits stand before the point, counted from the first that is not 0.
    fn point(&self) -> i64 {
        let all = self.whole.len() + self.fraction.len();
        let zeros = all - self.digits().count();
        let length = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
        length(self.whole.len()) - length(zeros) + self.exponent
    }

    pub(super) fn compare(&self, other: Number<'_>) -> Ordering {
        match (self.is_zero(), other.is_zero()) {
            (true, true) => return Ordering::Equal,
            (true, false) if other.negative => return Ordering::Greater,
            (true, false) => return Ordering::Less,
            (false, true) if self.negative => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.compare_size(&other),
            (true, true) => self.compare_size(&other).reverse(),
        }
    }

    fn compare_size(&self, other: &Number<'_>) -> Ordering {
        let digits = || {
            let (mut a, mut b) = (self.digits(), other.digits());
            loop {
                match (a.next(), b.next()) {
                    (None, None) => return Ordering::Equal,
                    (a, b) => match a.unwrap_or(b'0').cmp(&b.unwrap_or(b'0')) {
                        Ordering::Equal => {}
                        different => return different,
                    },
                }
            }
        };
        self.point().cmp(&other.point()).then_with(digits)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_compare_as_integers_do(a: i64, b: i64, scale in 0..19_usize) {
            // The same number with its point moved and an exponent that moves it back.
            let moved = |n: i64| {
                let digits = format!("{:0>20}", n.unsigned_abs());
                let (whole, fraction) = digits.split_at(20 - scale);
                let sign = if n < 0 { "-" } else { "" };
                let point = if scale == 0 { "" } else { "." };
                format!("{sign}{whole}{point}{fraction}e{scale}")
            };
            let (x, y) = (moved(a), b.to_string());
            let (x, y) = (Number::parse(&x).unwrap(), Number::parse(&y).unwrap());
            prop_assert_eq!(x.compare(y), a.cmp(&b));
            prop_assert_eq!(y.compare(x), b.cmp(&a));
        }
    }
}
