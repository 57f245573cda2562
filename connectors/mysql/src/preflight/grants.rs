//! What a user may do, from what `SHOW GRANTS` prints.

use unitflow_change::fault::Code;

use super::{Finding, Severity};

/// Where a right holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    Global,
    /// A pattern: `%` and `_` stand for anything, behind a backslash for themselves.
    Database(String),
    Table(String, String),
}

/// A user's rights.
#[derive(Clone, Debug, Default)]
pub struct Grants(Vec<(Vec<String>, Scope)>);

impl Grants {
    /// Reads the lines of `SHOW GRANTS`. Rights on columns and routines, proxies and revocations
    /// are left out: they never make a right that is needed.
    #[must_use]
    pub fn parse(lines: &[String]) -> Self {
        Self(lines.iter().filter_map(|line| parse_line(line)).collect())
    }

    /// Whether the right holds everywhere.
    #[must_use]
    pub fn has_global(&self, right: &str) -> bool {
        self.any(right, |scope| *scope == Scope::Global)
    }

    /// Whether the right holds on all tables of the database.
    #[must_use]
    pub fn has_on_database(&self, right: &str, database: &str) -> bool {
        self.any(right, |scope| match scope {
            Scope::Global => true,
            Scope::Database(pattern) => matches(pattern, database),
            Scope::Table(..) => false,
        })
    }

    /// Whether the right holds on the table.
    #[must_use]
    pub fn has_on_table(&self, right: &str, database: &str, table: &str) -> bool {
        self.has_on_database(right, database)
            || self.any(right, |scope| {
                matches!(scope, Scope::Table(on, name) if on == database && name.eq_ignore_ascii_case(table))
            })
    }

    fn any(&self, right: &str, holds: impl Fn(&Scope) -> bool) -> bool {
        self.0.iter().any(|(rights, scope)| {
            holds(scope)
                && rights
                    .iter()
                    .any(|had| had == right || (had == "ALL PRIVILEGES" && right != "GRANT OPTION"))
        })
    }

    /// Whether the line itself is there, not implied by another.
    fn states(&self, right: &str) -> bool {
        self.0
            .iter()
            .any(|(rights, scope)| *scope == Scope::Global && rights.iter().any(|had| had == right))
    }
}

/// Rights that go beyond the role, as warnings.
pub(super) fn excess(grants: &Grants, user: &str, rights: &[&str], role: &str) -> Vec<Finding> {
    ["ALL PRIVILEGES", "GRANT OPTION"]
        .iter()
        .chain(rights)
        .filter(|right| grants.states(right))
        .map(|right| Finding {
            code: Code::Grant,
            severity: Severity::Warning,
            subject: user.into(),
            expected: format!("only what {role} needs"),
            actual: format!("{right} ON *.*"),
            remedy: format!(
                "REVOKE {right} ON *.* FROM {user}, or give the role a user of its own"
            ),
        })
        .collect()
}

/// `GRANT SELECT, INSERT (a, b) ON `shop`.* TO `u`@`%` WITH GRANT OPTION`
fn parse_line(line: &str) -> Option<(Vec<String>, Scope)> {
    let rest = line.strip_prefix("GRANT ")?;
    let (rights, rest) = split_outside(rest, " ON ")?;
    let (scope, rest) = split_outside(rest, " TO ")?;
    let mut list = Vec::new();
    for right in split_all(rights, ',') {
        let right = right.trim();
        if !right.contains('(') {
            list.push(right.to_ascii_uppercase());
        }
    }
    if rest.to_ascii_uppercase().contains("WITH GRANT OPTION") {
        list.push("GRANT OPTION".into());
    }
    Some((list, parse_scope(scope.trim())?))
}

fn parse_scope(scope: &str) -> Option<Scope> {
    if scope == "*.*" {
        return Some(Scope::Global);
    }
    let (database, table) = split_outside(scope, ".")?;
    let database = unquote(database)?;
    if table == "*" {
        Some(Scope::Database(database))
    } else {
        Some(Scope::Table(database, unquote(table)?))
    }
}

fn unquote(name: &str) -> Option<String> {
    Some(name.strip_prefix('`')?.strip_suffix('`')?.replace("``", "`"))
}

/// Splits at the first `mark` that stands outside quotes and brackets.
fn split_outside<'a>(text: &'a str, mark: &str) -> Option<(&'a str, &'a str)> {
    let mut outside = Outside::default();
    text.char_indices().find_map(|(at, character)| {
        let here = outside.is() && text[at..].starts_with(mark);
        outside.pass(character);
        here.then(|| (&text[..at], &text[at + mark.len()..]))
    })
}

fn split_all(text: &str, mark: char) -> Vec<&str> {
    let mut outside = Outside::default();
    text.split(|character| {
        let here = outside.is() && character == mark;
        outside.pass(character);
        here
    })
    .collect()
}

/// Whether we are outside quotes and brackets.
#[derive(Default)]
struct Outside {
    quote: Option<char>,
    depth: u32,
}

impl Outside {
    fn is(&self) -> bool {
        self.quote.is_none() && self.depth == 0
    }

    fn pass(&mut self, character: char) {
        match (self.quote, character) {
            (Some(quote), character) if quote == character => self.quote = None,
            (Some(_), _) => {}
            (None, '`' | '\'' | '"') => self.quote = Some(character),
            (None, '(') => self.depth += 1,
            (None, ')') => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// SQL's LIKE, for databases in grants.
fn matches(pattern: &str, name: &str) -> bool {
    let mut characters = pattern.chars();
    match characters.next() {
        None => name.is_empty(),
        Some('%') => (0..=name.len())
            .filter(|at| name.is_char_boundary(*at))
            .any(|at| matches(characters.as_str(), &name[at..])),
        Some('\\') => {
            let Some(literal) = characters.next() else { return name == "\\" };
            name.strip_prefix(literal).is_some_and(|rest| matches(characters.as_str(), rest))
        }
        Some('_') => {
            let mut rest = name.chars();
            rest.next().is_some() && matches(characters.as_str(), rest.as_str())
        }
        Some(literal) => {
            name.strip_prefix(literal).is_some_and(|rest| matches(characters.as_str(), rest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(lines: &[&str]) -> Grants {
        Grants::parse(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn rights_are_found_where_they_hold() {
        let grants = grants(&[
            "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `u`@`%`",
            "GRANT SELECT, INSERT (`a`, `b`) ON `shop`.* TO `u`@`%`",
            "GRANT UPDATE ON `shop`.`or``d ON er` TO `u`@`%` WITH GRANT OPTION",
            "GRANT DELETE ON `a\\_b`.* TO `u`@`%`",
            "GRANT DELETE ON `c%`.* TO `u`@`%`",
            "GRANT `role`@`%` TO `u`@`%`",
            "GRANT PROXY ON ''@'' TO 'root'@'localhost' WITH GRANT OPTION",
            "GRANT EXECUTE ON PROCEDURE `shop`.`p` TO `u`@`%`",
        ]);
        assert!(grants.has_global("REPLICATION SLAVE") && !grants.has_global("SELECT"));
        assert!(
            grants.has_on_table("SELECT", "shop", "x")
                && !grants.has_on_table("SELECT", "shopx", "x")
        );
        assert!(!grants.has_on_table("INSERT", "shop", "x"));
        assert!(
            grants.has_on_table("UPDATE", "shop", "or`d ON er")
                && !grants.has_on_table("UPDATE", "shop", "x")
        );
        assert!(
            grants.has_on_database("DELETE", "a_b") && !grants.has_on_database("DELETE", "axb")
        );
        assert!(grants.has_on_database("DELETE", "customers"));
        assert!(excess(&grants, "u", &["SELECT", "FILE"], "capture").is_empty());
    }

    #[test]
    fn all_privileges_are_all_and_too_many() {
        let grants = grants(&[
            "GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` IDENTIFIED VIA x WITH GRANT OPTION",
        ]);
        assert!(grants.has_on_table("SELECT", "a", "b") && grants.has_global("REPLICATION SLAVE"));
        let found = excess(&grants, "root", &["FILE"], "capture");
        assert_eq!(
            found.iter().map(|finding| finding.actual.as_str()).collect::<Vec<_>>(),
            ["ALL PRIVILEGES ON *.*", "GRANT OPTION ON *.*"]
        );
    }
}
