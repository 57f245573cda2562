//! The keys that servers generate (`AUTO_INCREMENT`): no two units may come to the same one.
//!
//! A server gives `offset`, `offset + increment` and so on, and takes no notice of an offset above its increment. So all
//! units need one increment that has room for all, and an offset of their own within it.

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use unitflow_change::{Code, Fault};
use unitflow_mysql::connect::fault;

use super::finding::Finding;

/// How one unit's server generates keys.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    /// `A.shop`.
    place: String,
    increment: u64,
    offset: u64,
}

impl Steps {
    /// Asks a server.
    pub async fn read(conn: &mut Conn, place: &str) -> Result<Option<Self>, Fault> {
        let query = "SELECT @@global.auto_increment_increment, @@global.auto_increment_offset";
        let found = conn.query_first(query).await.map_err(|error| fault(&error))?;
        Ok(found.map(|(increment, offset)| Self { place: place.to_owned(), increment, offset }))
    }
}

/// Whether the units that write to the same tables, `units` in number, can't come to one key. Of those the ones given
/// were asked.
pub(super) fn check(asked: &[Steps], units: usize) -> Vec<Finding> {
    if units < 2 {
        return Vec::new();
    }
    let least = u64::try_from(units).unwrap_or(u64::MAX);
    let increment = asked.iter().map(|steps| steps.increment).max().unwrap_or(0).max(least);
    let mut findings = Vec::new();
    for (place, steps) in asked.iter().enumerate() {
        if steps.increment != increment {
            let expected =
                format!("{increment}, the same in all units and at least {units}, their number");
            findings.push(steps.finding(
                "auto_increment_increment",
                expected,
                steps.increment.to_string(),
                increment,
            ));
        }
        let earlier = &asked[..place];
        let other = earlier.iter().find(|other| other.offset == steps.offset);
        if other.is_none() && steps.offset <= increment {
            continue;
        }
        let taken = |offset: &u64| asked.iter().any(|other| other.offset == *offset);
        let free = (1..=increment).find(|offset| !taken(offset)).unwrap_or(1);
        let actual = match other {
            Some(other) => format!("{}, as {}", steps.offset, other.place),
            None => steps.offset.to_string(),
        };
        let expected = format!("1 to {increment}, another one in each unit");
        findings.push(steps.finding("auto_increment_offset", expected, actual, free));
    }
    findings
}

impl Steps {
    fn finding(&self, subject: &str, expected: String, actual: String, value: u64) -> Finding {
        Finding::new(&self.place, Code::Setting, subject).expected(expected, actual).remedy(format!(
            "SET GLOBAL {subject}={value}, and in the server's configuration; sessions keep theirs until they reconnect"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn ensure(settings: &[(u64, u64)], units: usize, expected: &[&str]) {
        let place = |place: usize| char::from(b'A' + u8::try_from(place).unwrap()).to_string();
        let steps = settings.iter().enumerate().map(|(at, &(increment, offset))| Steps {
            place: place(at),
            increment,
            offset,
        });
        let findings = check(&steps.collect::<Vec<_>>(), units);
        let told = findings.iter().map(|finding| {
            let remedy = finding.remedy.split(',').next().unwrap_or_default();
            format!("{} {}: {remedy}", finding.place, finding.actual)
        });
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn equal_steps_with_room_for_all_and_offsets_that_differ_are_fine() {
        ensure(&[(2, 1), (2, 2)], 2, &[]);
        ensure(&[(10, 7), (10, 3), (10, 10)], 3, &[]);
        ensure(&[(1, 1)], 1, &[]);
    }

    #[test]
    fn steps_that_are_too_short_or_differ_are_found() {
        let raise = |unit, to| format!("{unit} 2: SET GLOBAL auto_increment_increment={to}");
        ensure(&[(2, 1), (2, 2)], 3, &[&raise("A", 3), &raise("B", 3)]);
        ensure(&[(2, 1), (4, 2)], 2, &[&raise("A", 4)]);
    }

    #[test]
    fn offsets_that_are_taken_or_out_of_reach_are_found() {
        ensure(&[(3, 1), (3, 1), (3, 3)], 3, &["B 1, as A: SET GLOBAL auto_increment_offset=2"]);
        ensure(&[(2, 1), (2, 3)], 2, &["B 3: SET GLOBAL auto_increment_offset=2"]);
    }
}
