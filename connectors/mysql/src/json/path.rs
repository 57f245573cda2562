//! Paths into JSON documents, as MySQL writes them: `$.name."odd name"[3][last-1]`.

use crate::bytes::{Broken, Parsed};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leg {
    /// Into an object.
    Member(String),
    /// Into an array, counted from its start.
    Cell(usize),
    /// Into an array, counted from its end; 0 is the last.
    CellFromEnd(usize),
}

/// Reads a path. Wildcards have no place in what is read here.
pub(super) fn parse(text: &str) -> Parsed<Vec<Leg>> {
    let broken = || Broken::corrupt("a JSON path can't be read", 0);
    let mut rest = text.trim_start().strip_prefix('$').ok_or_else(broken)?.trim_start();
    let mut legs = Vec::new();
    while !rest.is_empty() {
        let leg;
        (leg, rest) = if let Some(after) = rest.strip_prefix('.') {
            read_member(after.trim_start()).ok_or_else(broken)?
        } else {
            let inside = rest.strip_prefix('[').ok_or_else(broken)?;
            let (cell, after) = inside.split_once(']').ok_or_else(broken)?;
            (read_cell(cell.trim()).ok_or_else(broken)?, after)
        };
        legs.push(leg);
        rest = rest.trim_start();
    }
    Ok(legs)
}

fn read_member(text: &str) -> Option<(Leg, &str)> {
    if !text.starts_with('"') {
        let end = text.find(['.', '[', ' ']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        return (!name.is_empty()).then(|| (Leg::Member(name.to_owned()), rest));
    }
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|&(_, character)| {
        let ends = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        ends
    });
    let (quoted, rest) = text.split_at(end?.0 + 1);
    Some((Leg::Member(serde_json::from_str(quoted).ok()?), rest))
}

fn read_cell(text: &str) -> Option<Leg> {
    match text.strip_prefix("last") {
        None => text.parse().ok().map(Leg::Cell),
        Some("") => Some(Leg::CellFromEnd(0)),
        Some(back) => {
            back.trim_start().strip_prefix('-')?.trim_start().parse().ok().map(Leg::CellFromEnd)
        }
    }
}

impl Leg {
    /// The place that a leg means in an array of so many elements; `None` where there is none.
    pub fn cell(&self, count: usize) -> Option<usize> {
        match self {
            Self::Cell(place) => (*place < count).then_some(*place),
            Self::CellFromEnd(back) => count.checked_sub(back + 1),
            Self::Member(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legs_of_all_kinds() {
        let member = |name: &str| Leg::Member(name.into());
        assert_eq!(parse("$").unwrap(), []);
        assert_eq!(
            parse(r#"$.a[0]."b \"\u00e9.[x"[last][last - 2].$c"#).unwrap(),
            [
                member("a"),
                Leg::Cell(0),
                member("b \"é.[x"),
                Leg::CellFromEnd(0),
                Leg::CellFromEnd(2),
                member("$c"),
            ]
        );
        for wrong in ["", "a", "$a", "$.", "$[", "$[*]", "$[1", "$.\"a", "$[last+1]", "$."] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
