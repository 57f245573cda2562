//! Every code that an operator may meet has its section in the runbook, in the same order, and
//! wherever one is written it is one of them.
#![allow(clippy::unwrap_used, reason = "a fault of the test itself")]

use std::path::{Path, PathBuf};

use unitflow_change::{Code, Fault};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// A section that is shorter says neither what happened nor what to do.
const BYTES_LEAST: usize = 60;

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// The codes' sections by their titles; longer procedures follow them under headings of their own.
fn sections(runbook: &str) -> Vec<(&str, &str)> {
    let codes = runbook.split("\n# ").next().unwrap();
    codes.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap()).collect()
}

#[test]
fn each_code_has_its_section() {
    let runbook = read("deploy/runbook.md");
    let titles: Vec<&str> = sections(&runbook).into_iter().map(|(title, _)| title).collect();
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(titles, codes);
}

/// A fault that says nothing better shows this, wherever it is shown or kept.
#[test]
fn each_fault_says_what_mends_it() {
    for code in Code::ALL {
        let shown = Fault::fatal(*code, "something happened").to_string();
        let (_, remedy) = shown.split_once("\n  to mend it: ").unwrap();
        assert!(remedy.len() > 15 && !remedy.ends_with('.'), "{code}: {remedy:?}");
    }
}

#[test]
fn each_section_says_something_of_its_own() {
    let runbook = read("deploy/runbook.md");
    let sections = sections(&runbook);
    let headings = runbook.lines().filter(|line| line.starts_with('#'));
    let anchors: Vec<String> = headings
        .map(|heading| heading.trim_matches(['#', ' ']).to_lowercase().replace(' ', "-"))
        .collect();
    for (at, (title, body)) in sections.iter().enumerate() {
        assert!(body.trim().len() >= BYTES_LEAST, "{title} says only {body:?}");
        let same = sections[..at].iter().find(|(_, other)| other.trim() == body.trim());
        assert!(same.is_none(), "{title} says the same as {same:?}");
        for link in body.split("](#").skip(1) {
            let link = link.split(')').next().unwrap();
            assert!(
                anchors.contains(&link.to_owned()),
                "{title} leads to {link}, which is not there"
            );
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

/// What no test meets may be what can't happen, or it may say something else than it should.
#[test]
fn each_code_is_met_by_a_test() {
    let tests = tests();
    let unmet: Vec<&str> = Code::ALL
        .iter()
        .filter(|code| !tests.iter().any(|text| meets(text, **code)))
        .map(|code| code.as_str())
        .collect();
    assert_eq!(unmet, Vec::<&str>::new(), "no test expects these codes");
}

/// The texts of all tests but this one: those of files of their own, and those behind the code.
fn tests() -> Vec<String> {
    let mut files = Vec::new();
    for folder in ["src", "sinks", "connectors", "transformer", "verifier", "tests"] {
        find(&Path::new(ROOT).join(folder), &mut files);
    }
    files.retain(|file| !file.ends_with("change/tests/runbook.rs"));
    let text = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        match file.components().any(|part| part.as_os_str() == "tests") {
            true => Some(text),
            false => text.split_once("#[cfg(test)]").map(|(_, tests)| tests.to_owned()),
        }
    };
    files.iter().filter_map(text).collect()
}

/// Whether a test expects the code: by its variant, where it does not make the fault itself; in
/// brackets, as commands show it; or by waiting until `status` does.
fn meets(text: &str, code: Code) -> bool {
    const MADE_BY: [&str; 5] = ["retry(", "ambiguous(", "poison(", "fatal(", "new("];
    let variant = format!("Code::{code:?}");
    let expected = text.match_indices(&variant).any(|(at, _)| {
        let (before, behind) = (text[..at].trim_end(), &text[at + variant.len()..]);
        let is_whole = !behind.starts_with(|next: char| next.is_ascii_alphanumeric());
        is_whole && !MADE_BY.iter().any(|maker| before.ends_with(maker))
    });
    expected
        || text.contains(&format!("[{code}]"))
        || text.contains(&format!("wait_for_fault(\"{code}\""))
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
