//! Progress on stderr, and how figures are written.

use std::fmt::Display;

/// Says what is being done.
pub fn progress(what: &str) {
    eprintln!("{what}");
}

/// Digits in groups of three.
pub fn thousands(value: impl Display) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
