//! Every dependency has a licence that `deny.toml` allows, and comes from the registry.
//!
//! It reads what `cargo deny check licenses sources` reads, so that no tool has to be installed for it. What only that
//! one does: `cargo deny check advisories`.

use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn dependencies_have_licences_that_are_allowed_and_come_from_the_registry() -> anyhow::Result<()> {
    let rules: toml::Table = std::fs::read_to_string("deny.toml")?.parse()?;
    let allowed = texts(&rules["licenses"]["allow"])?;
    let mut used = Vec::new();
    for package in packages(&texts(&rules["graph"]["targets"])?)? {
        let name = package["name"].as_str().context("a name")?;
        let licence = package["license"].as_str().with_context(|| format!("{name}: no licence"))?;
        let taken = taken(licence, &allowed);
        ensure!(taken.is_some(), "{name}: {licence} is not allowed");
        used.extend(taken.into_iter().flatten());
        let source = package["source"].as_str();
        ensure!(source.is_none_or(|source| source == REGISTRY), "{name} comes from {source:?}");
    }
    let unused: Vec<_> = allowed.iter().filter(|licence| !used.contains(licence)).collect();
    ensure!(unused.is_empty(), "no dependency needs {unused:?}");
    Ok(())
}

#[test]
fn an_expression_needs_one_of_its_alternatives_and_all_that_it_joins() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()];
    let takes = |licence| taken(licence, &allowed).is_some();
    assert!(takes("MIT"));
    assert!(takes("GPL-3.0 OR MIT") && takes("GPL-3.0/MIT") && takes("GPL-3.0 / MIT"));
    assert!(takes("ISC AND MIT") && takes("(GPL-3.0 OR MIT) AND ISC"));
    assert!(takes("Apache-2.0 WITH LLVM-exception OR GPL-3.0"));
    assert!(!takes("GPL-3.0") && !takes("GPL-3.0 AND MIT") && !takes("Apache-2.0") && !takes(""));
    assert!(!takes("(GPL-3.0 OR LGPL-3.0) AND ISC") && !takes("MIT AND (ISC AND GPL-3.0)"));
}

/// All packages of all targets, our own too.
fn packages(targets: &[String]) -> anyhow::Result<Vec<Value>> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--locked", "--format-version", "1"]);
    targets.iter().for_each(|target| _ = command.args(["--filter-platform", target]));
    let output = command.output().context("run cargo metadata")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout)?;
    serde_json::from_value(metadata["packages"].take()).context("a list of packages")
}

fn texts(list: &toml::Value) -> anyhow::Result<Vec<String>> {
    Ok(list.clone().try_into()?)
}

/// Which of the allowed licences an expression of SPDX, or its older form with a slash, is satisfied by: in any `OR` the
/// first side that is, in any `AND` both.
fn taken(expression: &str, allowed: &[String]) -> Option<Vec<String>> {
    let expression = expression.trim();
    for separator in [" OR ", "/"] {
        if let Some((one, other)) = split(expression, separator) {
            return taken(one, allowed).or_else(|| taken(other, allowed));
        }
    }
    if let Some((one, other)) = split(expression, " AND ") {
        return Some([taken(one, allowed)?, taken(other, allowed)?].concat());
    }
    match expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(inner) => taken(inner, allowed),
        None => allowed.iter().find(|licence| *licence == expression).map(|one| vec![one.clone()]),
    }
}

/// At the first separator that stands outside parentheses.
fn split<'a>(expression: &'a str, separator: &str) -> Option<(&'a str, &'a str)> {
    let mut pieces = expression.match_indices(separator);
    let (at, _) = pieces.find(|(at, _)| {
        let before = &expression[..*at];
        before.matches('(').count() == before.matches(')').count()
    })?;
    Some((&expression[..at], &expression[at + separator.len()..]))
}
