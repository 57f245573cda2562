//! The document that lists the differences.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};

use crate::plain::Difference;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/envelope.md");

/// Sees that the tables under headings that begin so list these differences and no other.
pub fn ensure_lists(heading: &str, found: &BTreeSet<Difference>) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(PATH).context(PATH)?;
    let sections =
        text.split("\n## ").filter(|section| format!("## {section}").starts_with(heading));
    let listed = sections.flat_map(listed).collect();
    let rows = |set: BTreeSet<&Difference>| {
        set.into_iter()
            .map(|(about, theirs, ours)| format!("| `{about}` | `{theirs}` | `{ours}` | |\n"))
            .collect::<String>()
    };
    let new = rows(found.difference(&listed).collect());
    let gone = rows(listed.difference(found).collect());
    ensure!(
        new.is_empty() && gone.is_empty(),
        "deploy/envelope.md does not say what differs.\nFound and not listed:\n{new}Listed and not found:\n{gone}"
    );
    Ok(())
}

/// The properties of a JDBC sink connector that the document shows.
pub fn sink_properties() -> anyhow::Result<String> {
    let text = std::fs::read_to_string(PATH).context(PATH)?;
    let (_, rest) = text.split_once("```properties\n").context("properties in the document")?;
    let (properties, _) = rest.split_once("```").context("their end")?;
    Ok(properties.to_owned())
}

/// The first three cells of each row whose first three are code.
fn listed(section: &str) -> BTreeSet<Difference> {
    section
        .lines()
        .filter_map(|line| {
            let mut cells = line
                .strip_prefix("| ")?
                .split(" | ")
                .map(|cell| Some(cell.trim().strip_prefix('`')?.strip_suffix('`')?.to_owned()));
            Some((cells.next()??, cells.next()??, cells.next()??))
        })
        .collect()
}
