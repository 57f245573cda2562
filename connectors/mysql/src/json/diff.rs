//! Partial updates of documents: `binlog_row_value_options=PARTIAL_JSON`.
//!
//! The log then holds the document before, and what changed in it: values replaced, inserted and
//! removed at paths, one after the other. They are applied here, so that the envelope has the
//! whole document. What can't be applied means that the two do not belong together, and is a fault.
//!
//! Format and rules: `read_json_diff` and `apply_json_diff` in sql-common/json_diff.cc of MySQL.

use std::borrow::Cow;

use super::path::{self, Leg};
use super::{Container, DEPTH_MAX, Element, GROWTH_MAX, write_quoted, write_value};
use crate::bytes::{Broken, Bytes, Parsed};

/// A value; containers are taken apart only where something inside them changes.
enum Node<'a> {
    /// As it stands in the log.
    Whole {
        kind: u8,
        value: &'a [u8],
    },
    Array(Vec<Node<'a>>),
    /// Sorted as MySQL sorts keys: shorter ones first, then by bytes.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

/// Appends the text of a document after its changes.
pub(crate) fn write_changed(out: &mut Vec<u8>, document: &[u8], changes: &[u8]) -> Parsed<()> {
    let (&kind, value) = document
        .split_first()
        .ok_or_else(|| Broken::corrupt("a change of an empty JSON document", 0))?;
    let mut root = Node::Whole { kind, value };
    let mut bytes = Bytes::new(changes);
    while !bytes.is_empty() {
        apply(&mut root, &mut bytes)?;
    }
    let size = document.len() + changes.len();
    let limit = out.len() + 64 + size.saturating_mul(GROWTH_MAX);
    root.write(out, 0, limit)
}

fn apply<'a>(root: &mut Node<'a>, bytes: &mut Bytes<'a>) -> Parsed<()> {
    let operation = bytes.u8()?;
    let length = usize::try_from(bytes.length()?).unwrap_or(usize::MAX);
    let path = path::parse(bytes.text(length)?)?;
    let Some((last, above)) = path.split_last().filter(|_| path.len() <= DEPTH_MAX) else {
        return Err(bytes.corrupt("a change of a whole JSON document, or too deep in it"));
    };
    let rejected = Broken::corrupt(
        "a change of a JSON document does not fit the document before it",
        bytes.at(),
    );
    let mut parent = root;
    for leg in above {
        parent = match parent.child(leg)? {
            Some(child) => child,
            None => return Err(rejected),
        };
    }
    let done = match operation {
        0 => {
            let new = read_value(bytes)?;
            parent.child(last)?.map(|old| *old = new)
        }
        1 => {
            let new = read_value(bytes)?;
            parent.insert(last, new)?
        }
        2 => parent.remove(last)?,
        other => return Err(bytes.unknown(format!("a change of a JSON document of kind {other}"))),
    };
    done.ok_or(rejected)
}

fn read_value<'a>(bytes: &mut Bytes<'a>) -> Parsed<Node<'a>> {
    let (&kind, value) = bytes
        .counted()?
        .split_first()
        .ok_or_else(|| bytes.corrupt("an empty value in a change of a JSON document"))?;
    Ok(Node::Whole { kind, value })
}

impl<'a> Node<'a> {
    /// Takes a container apart.
    fn open(&mut self) -> Parsed<()> {
        let Self::Whole { kind: kind @ 0..=3, value } = *self else { return Ok(()) };
        let mut container = Container::parse(kind, value)?;
        let mut array = Vec::new();
        let mut object = Vec::new();
        while let Some(Element { key, kind, value }) = container.next()? {
            let node = Self::Whole { kind, value };
            match key {
                Some(key) => object.push((Cow::Borrowed(key), node)),
                None => array.push(node),
            }
        }
        *self = if container.is_object() { Self::Object(object) } else { Self::Array(array) };
        Ok(())
    }

    fn child(&mut self, leg: &Leg) -> Parsed<Option<&mut Self>> {
        self.open()?;
        Ok(match (self, leg) {
            (Self::Array(elements), leg) => {
                leg.cell(elements.len()).and_then(|place| elements.get_mut(place))
            }
            (Self::Object(members), Leg::Member(name)) => {
                members.iter_mut().find(|(key, _)| key == name).map(|(_, child)| child)
            }
            _ => None,
        })
    }

    fn insert(&mut self, leg: &Leg, new: Node<'a>) -> Parsed<Option<()>> {
        self.open()?;
        Ok(match (self, leg) {
            (Self::Array(elements), Leg::Cell(place)) => {
                // Behind the end is at the end.
                elements.insert((*place).min(elements.len()), new);
                Some(())
            }
            (Self::Array(elements), Leg::CellFromEnd(back)) => {
                elements.insert(elements.len().saturating_sub(back + 1), new);
                Some(())
            }
            (Self::Object(members), Leg::Member(name)) => {
                let order = |name: &str| (name.len(), name.as_bytes().to_vec());
                let wanted = order(name);
                match members.binary_search_by_key(&wanted, |(key, _)| order(key)) {
                    Ok(_) => None,
                    Err(place) => {
                        members.insert(place, (Cow::Owned(name.clone()), new));
                        Some(())
                    }
                }
            }
            _ => None,
        })
    }

    fn remove(&mut self, leg: &Leg) -> Parsed<Option<()>> {
        self.open()?;
        Ok(match (self, leg) {
            (Self::Array(elements), leg) => {
                leg.cell(elements.len()).map(|place| drop(elements.remove(place)))
            }
            (Self::Object(members), Leg::Member(name)) => members
                .iter()
                .position(|(key, _)| key == name)
                .map(|place| drop(members.remove(place))),
            _ => None,
        })
    }

    fn write(&self, out: &mut Vec<u8>, depth: usize, limit: usize) -> Parsed<()> {
        match self {
            Self::Whole { kind, value } => write_value(out, *kind, value, depth, limit)?,
            Self::Array(elements) => {
                out.push(b'[');
                for (i, element) in elements.iter().enumerate() {
                    out.extend_from_slice(if i > 0 { b", " } else { b"" });
                    element.write(out, depth + 1, limit)?;
                }
                out.push(b']');
            }
            Self::Object(members) => {
                out.push(b'{');
                for (i, (key, child)) in members.iter().enumerate() {
                    out.extend_from_slice(if i > 0 { b", " } else { b"" });
                    write_quoted(out, key);
                    out.extend_from_slice(b": ");
                    child.write(out, depth + 1, limit)?;
                }
                out.push(b'}');
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// {"a": [1, "x"]}
    const DOCUMENT: [u8; 28] = [
        0, 1, 0, 27, 0, 11, 0, 1, 0, 2, 12, 0, b'a', 2, 0, 12, 0, 5, 1, 0, 12, 10, 0, 1, b'x', 0,
        0, 0,
    ];

    fn change(operation: u8, path: &str, value: &[u8]) -> Vec<u8> {
        let mut change = vec![operation, path.len() as u8];
        change.extend_from_slice(path.as_bytes());
        if operation < 2 {
            change.push(value.len() as u8);
            change.extend_from_slice(value);
        }
        change
    }

    fn changed(changes: &[Vec<u8>]) -> Option<String> {
        let mut out = Vec::new();
        write_changed(&mut out, &DOCUMENT, &changes.concat()).ok()?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn changes_are_applied_in_order() {
        assert_eq!(changed(&[]).unwrap(), r#"{"a": [1, "x"]}"#);
        let text = changed(&[
            change(0, "$.a[1]", &[4, 1]),
            change(1, "$.a[9]", &[5, 7, 0]),
            change(1, "$.\"0\"", &[4, 0]),
            change(1, "$.bb", &[2, 0, 0, 4, 0]),
            change(1, "$.bb[0]", &[4, 2]),
            change(2, "$.a[0]", &[]),
        ]);
        assert_eq!(text.unwrap(), r#"{"0": null, "a": [true, 7], "bb": [false]}"#);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for change in [
            change(0, "$", &[4, 1]),
            change(0, "$.b", &[4, 1]),
            change(0, "$.a[2]", &[4, 1]),
            change(0, "$.a.b", &[4, 1]),
            change(1, "$.a", &[4, 1]),
            change(1, "$.b.c", &[4, 1]),
            change(2, "$.b", &[]),
            change(2, "$.a[last-2]", &[]),
            change(3, "$.a", &[]),
            change(0, "$.a", &[]),
        ] {
            assert_eq!(changed(std::slice::from_ref(&change)), None, "{change:?}");
        }
    }

    proptest! {
        #[test]
        fn no_change_panics(changes in proptest::collection::vec(any::<u8>(), 0..60), path in "[$.a0-9\\[\\]\"last-]{0,9}") {
            let _ = changed(std::slice::from_ref(&changes));
            let _ = changed(&[change(1, &path, &changes)]);
        }
    }
}
