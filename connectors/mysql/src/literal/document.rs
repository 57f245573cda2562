//! Documents for a column of MySQL's JSON.
//!
//! MySQL reads a document's text into values: an integer of more than 64 bits or a decimal becomes
//! a double and loses digits, a date stays a string, of two members of one name the first is gone.
//! None of that happens here. Most documents are written as they stand. Where some value would not
//! come out as its text says, or stands for a value of an SQL type (see the module `json`), it is
//! set into the document by itself: `JSON_SET(CAST('…' AS JSON), '$."price"', 1.10)`.
//! What no value of MySQL is equal to is refused.

use std::borrow::Cow;

use super::number;
use super::{Refused, write_binary, write_escaped};
use crate::json::write_double;

/// How deep MySQL lets documents nest.
const DEPTH_MAX: usize = 100;

/// The most digits of a DECIMAL, and the most of them behind the point.
const DECIMAL_DIGITS_MAX: (usize, usize) = (65, 30);

/// Appends an expression for the document that this JSON string of the envelope holds.
pub(super) fn write(out: &mut Vec<u8>, json: &str) -> Result<(), Refused> {
    let text: Cow<'_, str> = match json.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(inside) if !inside.contains(['\\', '"']) => inside.into(),
        _ => serde_json::from_str::<String>(json).map_err(|_| Refused::Malformed)?.into(),
    };
    let mut reader = Reader {
        text: &text,
        at: 0,
        kept: 0,
        plain: Vec::new(),
        path: Vec::new(),
        set: Vec::new(),
    };
    reader.blank();
    reader.value()?;
    reader.blank();
    if reader.at != text.len() {
        return Err(Refused::Malformed);
    }
    let Reader { kept, mut plain, set, .. } = reader;
    if set.is_empty() {
        out.push(b'\'');
        write_escaped(out, text.as_bytes());
        out.push(b'\'');
        return Ok(());
    }
    plain.extend_from_slice(&text.as_bytes()[kept..]);
    out.extend_from_slice(b"JSON_SET(CAST('");
    write_escaped(out, &plain);
    out.extend_from_slice(b"' AS JSON)");
    for (path, value) in set {
        out.extend_from_slice(b",'");
        write_escaped(out, path.as_bytes());
        out.extend_from_slice(b"',");
        out.extend_from_slice(&value);
    }
    out.push(b')');
    Ok(())
}

/// A step into the document.
#[derive(Clone, Copy)]
enum Leg<'a> {
    /// The member's name with its quotes, as the document spells it.
    Member(&'a str),
    Cell(usize),
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// The text up to `kept`, with `null` in the place of what is set by itself.
    kept: usize,
    plain: Vec<u8>,
    path: Vec<Leg<'a>>,
    /// Paths and the expressions that are set there.
    set: Vec<(String, Vec<u8>)>,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn value(&mut self) -> Result<(), Refused> {
        if self.path.len() > DEPTH_MAX {
            return Err(Refused::Inexact(
                "a JSON document that is nested deeper than MySQL allows",
            ));
        }
        match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => {
                let token = self.string()?;
                self.typed(token)
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                let rest = &self.text[self.at..];
                let word =
                    ["null", "true", "false"].into_iter().find(|word| rest.starts_with(word));
                self.at += word.ok_or(Refused::Malformed)?.len();
                Ok(())
            }
        }
    }

    fn object(&mut self) -> Result<(), Refused> {
        self.at += 1;
        let mut names = Vec::new();
        self.blank();
        while !self.eat(b'}') {
            if !names.is_empty() {
                self.separator()?;
            }
            let name = self.string()?;
            names.push(name);
            self.blank();
            if !self.eat(b':') {
                return Err(Refused::Malformed);
            }
            self.blank();
            self.path.push(Leg::Member(name));
            self.value()?;
            self.path.pop();
            self.blank();
        }
        if has_double(names) {
            return Err(Refused::Inexact(
                "a JSON object with two members of one name, of which MySQL keeps one",
            ));
        }
        Ok(())
    }

    fn array(&mut self) -> Result<(), Refused> {
        self.at += 1;
        self.blank();
        for cell in 0.. {
            if self.eat(b']') {
                break;
            }
            if cell > 0 {
                self.separator()?;
            }
            self.path.push(Leg::Cell(cell));
            self.value()?;
            self.path.pop();
            self.blank();
        }
        Ok(())
    }

    fn separator(&mut self) -> Result<(), Refused> {
        if !self.eat(b',') {
            return Err(Refused::Malformed);
        }
        self.blank();
        Ok(())
    }

    /// A string with its quotes; its escapes are read where that is needed.
    fn string(&mut self) -> Result<&'a str, Refused> {
        let start = self.at;
        if !self.eat(b'"') {
            return Err(Refused::Malformed);
        }
        loop {
            match self.peek().ok_or(Refused::Malformed)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.text.get(start..self.at).ok_or(Refused::Malformed)
    }

    fn number(&mut self) -> Result<(), Refused> {
        let start = self.at;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        let whole = !text.contains(['.', 'e', 'E']);
        if whole && (text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok()) {
            return Ok(());
        }
        let double: f64 = text.parse().map_err(|_| Refused::Malformed)?;
        let mut canonical = Vec::new();
        // A number beyond all doubles may still be a decimal.
        let is_double = write_double(&mut canonical, double).is_ok();
        let canonical = String::from_utf8_lossy(&canonical);
        // As MySQL would print it, or in a form that only a double has.
        if is_double
            && (text == canonical
                || (number::same(text, &canonical) && number::digits(text).is_none()))
        {
            return Ok(());
        }
        match number::digits(text) {
            Some((before, behind))
                if behind <= DECIMAL_DIGITS_MAX.1 && before + behind <= DECIMAL_DIGITS_MAX.0 =>
            {
                self.set(start, text.as_bytes().to_vec());
                Ok(())
            }
            _ if is_double && number::same(text, &canonical) => Ok(()),
            _ => Err(Refused::Inexact("a JSON number with more digits than MySQL keeps")),
        }
    }

    /// A string that may stand for a value of an SQL type.
    fn typed(&mut self, token: &str) -> Result<(), Refused> {
        if !super::is_typed(token) {
            return Ok(());
        }
        let start = self.at - token.len();
        let text: String = serde_json::from_str(token).map_err(|_| Refused::Malformed)?;
        let mut value = Vec::new();
        if let Some(opaque) = text.strip_prefix("base64:type") {
            let (kind, content) = opaque.split_once(':').ok_or(Refused::Malformed)?;
            // What CAST(… AS BINARY) makes; other types of bytes can't be made of a literal.
            if kind != "15" {
                return Err(Refused::Inexact("bytes of an SQL type in a JSON document"));
            }
            value.extend_from_slice(b"CAST(");
            write_binary(&mut value, content).ok_or(Refused::Malformed)?;
            value.extend_from_slice(b" AS BINARY)");
        } else {
            if token.contains("\\u0020") {
                return Err(Refused::Inexact("a TIMESTAMP in a JSON document"));
            }
            let kind = match (text.contains(' '), text.contains(':')) {
                (true, _) => "DATETIME(6)",
                (false, true) => "TIME(6)",
                (false, false) => "DATE",
            };
            let clean = |byte| matches!(byte, b'0'..=b'9' | b'-' | b':' | b'.' | b' ');
            if !text.bytes().all(clean) {
                return Err(Refused::Malformed);
            }
            value.extend_from_slice(format!("CAST('{text}' AS {kind})").as_bytes());
        }
        self.set(start, value);
        Ok(())
    }

    /// Sets the value that began at `start` by itself.
    fn set(&mut self, start: usize, value: Vec<u8>) {
        self.plain.extend_from_slice(&self.text.as_bytes()[self.kept..start]);
        self.plain.extend_from_slice(b"null");
        self.kept = self.at;
        let mut path = String::from("$");
        for leg in &self.path {
            match leg {
                Leg::Member(name) => {
                    path.push('.');
                    path.push_str(name);
                }
                Leg::Cell(cell) => path.push_str(&format!("[{cell}]")),
            }
        }
        self.set.push((path, value));
    }
}

/// Whether a name comes twice. MySQL's own documents are sorted, which shows without a search.
fn has_double(names: Vec<&str>) -> bool {
    let sorted = names
        .windows(2)
        .all(|pair| (pair[0].len(), pair[0]) < (pair[1].len(), pair[1]) && !pair[0].contains('\\'));
    if sorted && names.last().is_none_or(|last| !last.contains('\\')) {
        return false;
    }
    let mut names: Vec<String> =
        names.into_iter().map(|name| serde_json::from_str(name).unwrap_or_default()).collect();
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(document: &str) -> Result<String, Refused> {
        let mut out = Vec::new();
        write(&mut out, &serde_json::to_string(document).unwrap())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn most_documents_stay_as_they_are() {
        for document in [
            "null",
            " {} ",
            "[]",
            "[1, -1, 18446744073709551615, -9223372036854775808, 1.5, 1.0, -0.0, 1e15, 1E3, 0.1]",
            r#"{"a": {"b": [true, false, "x"]}, "bb": "2026-01-02", "": "base64:type15:AA=="}"#,
            "[1.7976931348623157e308, 5e-324, 0.000000000000001, 123456789012345.6]",
        ] {
            assert_eq!(written(document).unwrap(), format!("'{}'", document.replace('"', "\\\"")));
        }
    }

    #[test]
    fn what_text_can_not_say_is_set_by_itself() {
        for (document, expected) in [
            (r#"{"a": 1.10}"#, r#"JSON_SET(CAST('{\"a\": null}' AS JSON),'$.\"a\"',1.10)"#),
            ("18446744073709551616", "JSON_SET(CAST('null' AS JSON),'$',18446744073709551616)"),
            (
                r#"[0, {"d\"": "\u0032026-01-02"}, "\u002d12:00:00.5"]"#,
                r#"JSON_SET(CAST('[0, {\"d\\\"\": null}, null]' AS JSON),'$[1].\"d\\\"\"',CAST('2026-01-02' AS DATE),'$[2]',CAST('-12:00:00.5' AS TIME(6)))"#,
            ),
            (
                r#"["\u0032026-01-02 03:04:05.000000", "\u0062ase64:type15:AP8="]"#,
                "JSON_SET(CAST('[null, null]' AS JSON),'$[0]',CAST('2026-01-02 03:04:05.000000' AS DATETIME(6)),'$[1]',CAST(X'00FF' AS BINARY))",
            ),
        ] {
            assert_eq!(written(document).unwrap(), expected);
        }
    }

    #[test]
    fn what_mysql_has_no_value_for_is_refused() {
        let deep = format!("{}{}", "[".repeat(102), "]".repeat(102));
        for (document, inexact) in [
            ("3.1415926535897932384626433832795", true),
            ("1e400", true),
            (r#"{"a": 1, "\u0061": 2}"#, true),
            (r#"{"a": 1, "b": 0, "a": 2}"#, true),
            (r#""\u0062ase64:type252:AA==""#, true),
            (deep.as_str(), true),
            ("{", false),
            ("[1 2]", false),
            ("[1] 2", false),
            (r#"{"a" 1}"#, false),
            ("\"a", false),
            ("\"\\", false),
            ("1.2.3", false),
            ("", false),
        ] {
            let refused = written(document).unwrap_err();
            assert_eq!(matches!(refused, Refused::Inexact(_)), inexact, "{document}");
        }
    }
}
