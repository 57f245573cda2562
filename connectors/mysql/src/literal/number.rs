//! Decimal numbers as text: whether two of them are the same number.

/// A number taken apart: sign, digits without zeros at either end, and where the point stands,
/// counted from the first of them.
#[derive(Debug, PartialEq, Eq)]
struct Parts<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    point: i64,
}

/// Reads a JSON number, or a decimal with the same look.
fn parts(text: &str) -> Option<Parts<'_>> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse().ok().filter(|exponent| i64::abs(*exponent) < 1 << 32)?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (mut whole, mut fraction) = (whole.as_bytes(), fraction.as_bytes());
    while let [b'0', rest @ ..] = whole {
        whole = rest;
    }
    let mut point = whole.len() as i64 + exponent;
    if whole.is_empty() {
        while let [b'0', rest @ ..] = fraction {
            fraction = rest;
            point -= 1;
        }
    }
    while let [rest @ .., b'0'] = fraction {
        fraction = rest;
    }
    if fraction.is_empty() {
        while let [rest @ .., b'0'] = whole {
            whole = rest;
        }
    }
    if whole.is_empty() && fraction.is_empty() {
        point = 0;
    }
    Some(Parts { negative, whole, fraction, point })
}

/// Whether both are numbers, and the same; a negative zero is another one than zero.
pub(super) fn same(one: &str, other: &str) -> bool {
    match (parts(one), parts(other)) {
        (Some(one), Some(other)) => {
            one.negative == other.negative
                && one.point == other.point
                && one.whole.iter().chain(one.fraction).eq(other.whole.iter().chain(other.fraction))
        }
        _ => false,
    }
}

/// How many digits stand before and behind the point of a number without exponent.
pub(super) fn digits(text: &str) -> Option<(usize, usize)> {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    (all_digits && !whole.is_empty()).then(|| (whole.trim_start_matches('0').len(), fraction.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_number_in_many_forms() {
        for (one, other, expected) in [
            ("1.10", "1.1", true),
            ("100", "1e2", true),
            ("0.00012", "1.2E-4", true),
            ("0", "0.000e9", true),
            ("-0", "-0.0", true),
            ("-0", "0", false),
            ("1", "-1", false),
            ("1.1", "11", false),
            ("0.1", "0.01", false),
            ("12", "1.2", false),
            ("x", "x", false),
            ("1e99999999999999999999", "1", false),
        ] {
            assert_eq!(same(one, other), expected, "{one} {other}");
        }
        assert_eq!(digits("-012.340"), Some((2, 3)));
        assert_eq!(digits("1e5"), None);
    }

    proptest! {
        #[test]
        fn a_double_is_the_same_in_both_its_forms(value in any::<f64>().prop_filter("", |value| value.is_finite())) {
            let (plain, scientific) = (format!("{value}"), format!("{value:e}"));
            prop_assert!(same(&plain, &scientific));
        }
    }
}
