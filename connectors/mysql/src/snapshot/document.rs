//! Values of SQL types in the text of a JSON document.
//!
//! MySQL prints a date inside a document as it prints a string that looks like one. So the strings
//! that look like one are found, and the server is asked what they are; the envelope marks those
//! that are none by escaping their first character.

use mysql_async::Value;

use super::column::quoted;
use crate::literal::quote_string;

/// Strings that one statement asks about.
pub(super) const PATHS_PER_QUERY: usize = 256;

/// A string that looks like a value of an SQL type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    /// Where its first character stands, behind the quote.
    at: usize,
    /// The way to it, as the server takes it: `$."a"[3]`.
    path: String,
}

/// A step into a document.
enum Leg<'a> {
    /// The member with this name, in quotes, once that was read.
    Member(&'a str),
    Cell(usize),
}

/// The strings of a document, in the server's own text, that look like values of SQL types.
pub(super) fn suspects(text: &str) -> Vec<Suspect> {
    let mut found = Vec::new();
    let mut legs: Vec<Leg<'_>> = Vec::new();
    let mut names = false;
    let mut at = 0;
    while let Some(&byte) = text.as_bytes().get(at) {
        at += 1;
        match byte {
            b'{' => {
                legs.push(Leg::Member(""));
                names = true;
            }
            b'[' => legs.push(Leg::Cell(0)),
            b'}' | b']' => {
                legs.pop();
                names = false;
            }
            b',' => match legs.last_mut() {
                Some(Leg::Cell(place)) => *place += 1,
                Some(Leg::Member(_)) => names = true,
                None => {}
            },
            b'"' => {
                let end = at + string_length(&text[at..]);
                match legs.last_mut() {
                    Some(Leg::Member(name)) if names => {
                        *name = &text[at - 1..(end + 1).min(text.len())];
                        names = false;
                    }
                    _ if looks_typed(&text.as_bytes()[at..end]) => {
                        found.push(Suspect { at, path: path(&legs) });
                    }
                    _ => {}
                }
                at = end + 1;
            }
            _ => {}
        }
    }
    found
}

/// How long the inside of a string is.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().position(|byte| match byte {
        _ if escaped => {
            escaped = false;
            false
        }
        b'\\' => {
            escaped = true;
            false
        }
        byte => byte == b'"',
    });
    end.unwrap_or(text.len())
}

fn path(legs: &[Leg<'_>]) -> String {
    let mut path = "$".to_owned();
    for leg in legs {
        match leg {
            Leg::Member(name) => {
                path.push('.');
                path.push_str(name);
            }
            Leg::Cell(place) => path.push_str(&format!("[{place}]")),
        }
    }
    path
}

/// `2026-01-02`, `-12:34:56.700000`, both with a space between, or `base64:type15:AA==`.
fn looks_typed(text: &[u8]) -> bool {
    let is_date = |text: &[u8]| fits(text, b"0000-00-00");
    let is_time = |text: &[u8]| {
        let span = text.strip_prefix(b"-").unwrap_or(text);
        fits(span, b"00:00:00.000000") || fits(span, b"000:00:00.000000")
    };
    text.starts_with(b"base64:type")
        || is_date(text)
        || is_time(text)
        || (text.get(10) == Some(&b' ') && is_date(&text[..10]) && is_time(&text[11..]))
}

/// Whether there is a digit for each `0`, and the same for everything else.
fn fits(text: &[u8], shape: &[u8]) -> bool {
    text.len() == shape.len()
        && text.iter().zip(shape).all(|(byte, like)| match like {
            b'0' => byte.is_ascii_digit(),
            like => byte == like,
        })
}

/// Appends what to select of the column `name` to learn the suspects' types.
pub(super) fn write_types(out: &mut Vec<u8>, name: &str, suspects: &[Suspect]) {
    for (place, suspect) in suspects.iter().enumerate() {
        out.extend_from_slice(if place == 0 { b"" } else { b"," });
        out.extend_from_slice(format!("JSON_TYPE(JSON_EXTRACT({},", quoted(name)).as_bytes());
        quote_string(out, &suspect.path);
        out.extend_from_slice(b"))");
    }
}

/// Where those of them stand that are no strings.
pub(super) fn typed(suspects: &[Suspect], types: &[Value]) -> Vec<usize> {
    let answered = suspects.iter().zip(types);
    let others = answered.filter(|(_, kind)| **kind != Value::Bytes(b"STRING".to_vec()));
    others.map(|(suspect, _)| suspect.at).collect()
}

/// The text with the characters in these places escaped.
pub(super) fn mark(text: &str, places: &[usize]) -> String {
    let mut out = String::with_capacity(text.len() + 5 * places.len());
    let mut done = 0;
    for &place in places {
        let Some(&byte) = text.as_bytes().get(place) else { continue };
        out.push_str(&text[done..place]);
        out.push_str(&format!("\\u{byte:04x}"));
        done = place + 1;
    }
    out.push_str(&text[done..]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_that_look_like_dates_are_found_and_marked() {
        let text = r#"{"a": [1, "2026-01-02", {"q\"é.": "-12:34:56.700000"}], "2026-01-02": "2026-01-2", "z": "2026-01-02 03:04:05.000000"}"#;
        let found = suspects(text);
        let paths: Vec<_> = found.iter().map(|suspect| suspect.path.as_str()).collect();
        assert_eq!(paths, [r#"$."a"[1]"#, r#"$."a"[2]."q\"é.""#, r#"$."z""#]);
        let marked = mark(text, &[found[0].at, found[1].at]);
        let expected = text
            .replacen("\"2026-01-02\"", "\"\\u0032026-01-02\"", 1)
            .replace("\"-12", "\"\\u002d12");
        assert_eq!(marked, expected);
        assert_eq!(suspects(r#""838:59:59.000000""#)[0].path, "$");
        assert_eq!(suspects(r#"["base64:type15:AA==", "base64", "x\"2026-01-02"]"#).len(), 1);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in r#"[\[\]{}",:\\é0-9-]{0,40}"#) {
            for suspect in suspects(&text) {
                let _ = mark(&text, &[suspect.at]);
            }
        }
    }
}
