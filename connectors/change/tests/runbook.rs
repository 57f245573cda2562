//! Every code that an operator may meet has its section in the runbook, in the same order, and
//! wherever one is written it is one of them.
#![allow(clippy::unwrap_used, reason = "a fault of the test itself")]

use std::path::{Path, PathBuf};

use unitflow_change::Code;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// A section that is shorter says neither what happened nor what to do.
const BYTES_LEAST: usize = 60;

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// The runbook's sections by their titles.
fn sections(runbook: &str) -> Vec<(&str, &str)> {
    let sections = runbook.split("\n## ").skip(1);
    sections.map(|section| section.split_once('\n').unwrap()).collect()
}

#[test]
fn each_code_has_its_section() {
    let runbook = read("deploy/runbook.md");
    let titles: Vec<&str> = sections(&runbook).into_iter().map(|(title, _)| title).collect();
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(titles, codes);
}

#[test]
fn each_section_says_something_of_its_own() {
    let runbook = read("deploy/runbook.md");
    let sections = sections(&runbook);
    for (at, (title, body)) in sections.iter().enumerate() {
        assert!(body.trim().len() >= BYTES_LEAST, "{title} says only {body:?}");
        let same = sections[..at].iter().find(|(_, other)| other.trim() == body.trim());
        assert!(same.is_none(), "{title} says the same as {same:?}");
        for link in body.split("](#").skip(1) {
            let link = link.split(')').next().unwrap();
            assert!(Code::parse(link).is_some(), "{title} leads to {link}, which is no section");
        }
    }
}

/// Texts show codes in brackets, as `[no_primary_key] shop.orders …`.
#[test]
fn each_code_in_a_text_is_a_code() {
    let mut files = Vec::new();
    for folder in ["src", "sinks", "connectors", "transformer", "tests"] {
        find(&Path::new(ROOT).join(folder), &mut files);
    }
    let mut seen = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for code in shown(&text) {
            assert!(Code::parse(code).is_some(), "{}: [{code}] is no code", file.display());
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} codes are seen in texts: is this still how they are shown?");
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What stands in brackets behind the words that codes stand behind, in strings.
fn shown(text: &str) -> impl Iterator<Item = &str> {
    const BEFORE: [&str; 5] = ["\"", "\"error ", "\"warning ", " lane ", " lanes "];
    text.match_indices('[').filter_map(move |(at, _)| {
        let (before, behind) = (&text[..at], &text[at + 1..]);
        let (code, rest) = behind.split_once(']')?;
        let is_word =
            !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let is_shown = BEFORE.iter().any(|word| before.ends_with(word))
            && (rest.starts_with('"') || rest.starts_with(' '));
        (is_word && is_shown).then_some(code)
    })
}
