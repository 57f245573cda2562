//! Global transaction identifiers: one transaction's name, and sets of them.
//!
//! MySQL names a transaction `uuid:number` or `uuid:tag:number`, and a set of them is a set:
//! numbers may be missing in the middle. MariaDB names it `domain-server-sequence`, and a set is
//! only how far each domain has come, because in strict mode sequences never go back. Both parse
//! from and print to the servers' own text, except that entries are joined by a bare comma.
//!
//! Sets are ordered by inclusion, so two of them may be incomparable ([`PartialOrd`]). The empty
//! set belongs to both kinds and equals itself in either.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest number that MySQL gives.
pub const NUMBER_MAX: u64 = i64::MAX as u64 - 1;

/// The longest tag that MySQL accepts.
pub const TAG_LENGTH_MAX: usize = 32;

/// Why a text is not a transaction's name or a set of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a GTID: {what} at byte {offset}")]
pub struct Malformed {
    /// What was expected or found.
    pub what: &'static str,
    /// Where in the text.
    pub offset: usize,
}

/// A server's identity in MySQL's GTIDs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uuid {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut bytes = [0; 16];
        let mut digits = 0;
        for (offset, byte) in text.bytes().enumerate() {
            if byte == b'-' && matches!(offset, 8 | 13 | 18 | 23) {
                continue;
            }
            let digit = (byte as char)
                .to_digit(16)
                .ok_or(Malformed { what: "a hexadecimal digit was expected", offset })?;
            let place: &mut u8 = bytes
                .get_mut(digits / 2)
                .ok_or(Malformed { what: "a UUID has 32 digits, this has more", offset })?;
            *place = *place << 4 | digit as u8;
            digits += 1;
        }
        if digits == 32 {
            Ok(Self(bytes))
        } else {
            Err(Malformed { what: "a UUID has 32 digits, this has fewer", offset: text.len() })
        }
    }
}

/// What MySQL counts transactions by: a server, and a tag where the session set one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The server on which the transaction first committed.
    pub uuid: Uuid,
    /// The tag, in lower case.
    pub tag: Option<Box<str>>,
}

impl Source {
    /// A source; the tag is checked and put in lower case.
    pub fn new(uuid: Uuid, tag: Option<&str>) -> Result<Self, Malformed> {
        Ok(Self { uuid, tag: tag.map(|tag| parse_tag(tag, 0)).transpose()? })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tag {
            None => write!(f, "{}", self.uuid),
            Some(tag) => write!(f, "{}:{tag}", self.uuid),
        }
    }
}

/// One transaction's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Gtid {
    /// `uuid:number` or `uuid:tag:number`.
    Mysql {
        /// The server and tag that counted it.
        source: Source,
        /// From 1.
        number: u64,
    },
    /// `domain-server-sequence`.
    Mariadb {
        /// The replication domain: a stream with its own order.
        domain: u32,
        /// The server on which the transaction first committed.
        server: u32,
        /// From 1, growing within the domain.
        sequence: u64,
    },
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mysql { source, number } => write!(f, "{source}:{number}"),
            Self::Mariadb { domain, server, sequence } => write!(f, "{domain}-{server}-{sequence}"),
        }
    }
}

impl FromStr for Gtid {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if !text.contains(':') {
            let (domain, server, sequence) = parse_mariadb_gtid(text, 0)?;
            return Ok(Self::Mariadb { domain, server, sequence });
        }
        let (head, number) = text.rsplit_once(':').unwrap_or((text, ""));
        let number = parse_number(number, head.len() + 1)?;
        let (uuid, tag) = match head.split_once(':') {
            None => (head, None),
            Some((uuid, tag)) => (uuid, Some(parse_tag(tag, uuid.len() + 1)?)),
        };
        Ok(Self::Mysql { source: Source { uuid: uuid.parse()?, tag }, number })
    }
}

/// Numbers as sorted, disjoint, not adjacent ranges; both ends belong to a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intervals(Vec<(u64, u64)>);

impl Intervals {
    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// How many numbers there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    fn contains(&self, number: u64) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= number);
        after > 0 && number <= self.0[after - 1].1
    }

    fn insert(&mut self, first: u64, last: u64) {
        // The common case: the next number of a source that has no gap.
        if let Some(end) = self.0.last_mut()
            && first >= end.0
            && first <= end.1.saturating_add(1)
        {
            end.1 = end.1.max(last);
            return;
        }
        let from = self.0.partition_point(|&(_, end)| end.saturating_add(1) < first);
        let to = self.0.partition_point(|&(start, _)| start <= last.saturating_add(1));
        let mut merged = (first, last);
        for &(start, end) in &self.0[from..to] {
            merged = (merged.0.min(start), merged.1.max(end));
        }
        self.0.splice(from..to, [merged]);
    }

    fn subtract(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut holes = other.0.iter().copied().peekable();
        for &(first, last) in &self.0 {
            let mut start = first;
            let mut done = false;
            while let Some(&(hole_first, hole_last)) = holes.peek() {
                if hole_last < start {
                    holes.next();
                    continue;
                }
                if hole_first > last {
                    break;
                }
                if hole_first > start {
                    left.push((start, hole_first - 1));
                }
                if hole_last >= last {
                    done = true;
                    break;
                }
                start = hole_last + 1;
                holes.next();
            }
            if !done {
                left.push((start, last));
            }
        }
        Self(left)
    }
}

impl fmt::Display for Intervals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(":")?;
            }
            if first == last { write!(f, "{first}")? } else { write!(f, "{first}-{last}")? }
        }
        Ok(())
    }
}

/// A set of transactions, as one kind of server describes it.
#[derive(Clone, Debug)]
pub enum GtidSet {
    /// Which numbers of each source.
    Mysql(BTreeMap<Source, Intervals>),
    /// The server and sequence that each domain has reached; all before belong to the set.
    Mariadb(BTreeMap<u32, (u32, u64)>),
}

impl GtidSet {
    /// An empty set for MySQL.
    #[must_use]
    pub const fn mysql() -> Self {
        Self::Mysql(BTreeMap::new())
    }

    /// An empty set for MariaDB.
    #[must_use]
    pub const fn mariadb() -> Self {
        Self::Mariadb(BTreeMap::new())
    }

    /// Reads MySQL's text: `uuid:1-5:tag:1-3,uuid2:7`, white space allowed around entries.
    pub fn parse_mysql(text: &str) -> Result<Self, Malformed> {
        let mut set = BTreeMap::<Source, Intervals>::new();
        for (start, entry) in pieces(text, 0, ',') {
            if entry.is_empty() {
                continue;
            }
            let mut source = None::<Source>;
            let mut counted = true;
            for (offset, part) in pieces(entry, start, ':') {
                let Some(current) = &mut source else {
                    let uuid = part.parse().map_err(|error: Malformed| Malformed {
                        offset: offset + error.offset,
                        ..error
                    })?;
                    source = Some(Source { uuid, tag: None });
                    counted = false;
                    continue;
                };
                if part.starts_with(|c: char| c.is_ascii_digit()) {
                    let (first, last) = match part.split_once('-') {
                        None => (part, part),
                        Some((first, last)) => (first.trim_end(), last.trim_start()),
                    };
                    let (first, last) = (parse_number(first, offset)?, parse_number(last, offset)?);
                    if last < first {
                        return Err(Malformed { what: "a range ends before it starts", offset });
                    }
                    set.entry(current.clone()).or_default().insert(first, last);
                    counted = true;
                } else {
                    current.tag = Some(parse_tag(part, offset)?);
                    counted = false;
                }
            }
            if !counted {
                return Err(Malformed { what: "a source without numbers", offset: start });
            }
        }
        Ok(Self::Mysql(set))
    }

    /// Reads MariaDB's text: `0-1-40,1-2-3`.
    pub fn parse_mariadb(text: &str) -> Result<Self, Malformed> {
        let mut set = BTreeMap::new();
        for (offset, entry) in pieces(text, 0, ',') {
            if entry.is_empty() {
                continue;
            }
            let (domain, server, sequence) = parse_mariadb_gtid(entry, offset)?;
            if set.insert(domain, (server, sequence)).is_some() {
                return Err(Malformed { what: "a domain stands twice", offset });
            }
        }
        Ok(Self::Mariadb(set))
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Mysql(set) => set.is_empty(),
            Self::Mariadb(set) => set.is_empty(),
        }
    }

    /// Whether the transaction is in it. A name of the other kind never is.
    #[must_use]
    pub fn contains(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (Self::Mysql(set), Gtid::Mysql { source, number }) => {
                set.get(source).is_some_and(|intervals| intervals.contains(*number))
            }
            (Self::Mariadb(set), Gtid::Mariadb { domain, server, sequence }) => {
                set.get(domain).is_some_and(|&reached| covers(reached, (*server, *sequence)))
            }
            _ => false,
        }
    }

    /// Adds a transaction. The name has to be of the set's kind, except that an empty set takes
    /// either; `false` where it is not and nothing was added.
    pub fn insert(&mut self, gtid: &Gtid) -> bool {
        match (&mut *self, gtid) {
            (Self::Mysql(set), Gtid::Mysql { source, number }) => {
                if let Some(intervals) = set.get_mut(source) {
                    intervals.insert(*number, *number);
                } else {
                    set.insert(source.clone(), Intervals(vec![(*number, *number)]));
                }
                true
            }
            (Self::Mariadb(set), Gtid::Mariadb { domain, server, sequence }) => {
                let new = (*server, *sequence);
                let reached = set.entry(*domain).or_insert(new);
                *reached = further(*reached, new);
                true
            }
            (empty, _) if empty.is_empty() => {
                *empty = match gtid {
                    Gtid::Mysql { .. } => Self::mysql(),
                    Gtid::Mariadb { .. } => Self::mariadb(),
                };
                empty.insert(gtid)
            }
            _ => false,
        }
    }

    /// All that is in either. Sets of different kinds can't be joined: `None`.
    #[must_use]
    pub fn union(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (_, other) if other.is_empty() => Some(self.clone()),
            (own, _) if own.is_empty() => Some(other.clone()),
            (Self::Mysql(own), Self::Mysql(other)) => {
                let mut all = own.clone();
                for (source, intervals) in other {
                    let into = all.entry(source.clone()).or_default();
                    for &(first, last) in intervals.ranges() {
                        into.insert(first, last);
                    }
                }
                Some(Self::Mysql(all))
            }
            (Self::Mariadb(own), Self::Mariadb(other)) => {
                let mut all = own.clone();
                for (&domain, &new) in other {
                    let reached = all.entry(domain).or_insert(new);
                    *reached = further(*reached, new);
                }
                Some(Self::Mariadb(all))
            }
            _ => None,
        }
    }

    /// What is here and not in `other`. Of MariaDB the domains that are further here, with how
    /// far they are: [`GtidSet::missing`] gives the ranges. A set of another kind takes nothing
    /// away.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Mysql(own), Self::Mysql(other)) => Self::Mysql(
                own.iter()
                    .filter_map(|(source, intervals)| {
                        let left = match other.get(source) {
                            None => intervals.clone(),
                            Some(taken) => intervals.subtract(taken),
                        };
                        (!left.0.is_empty()).then(|| (source.clone(), left))
                    })
                    .collect(),
            ),
            (Self::Mariadb(own), Self::Mariadb(other)) => Self::Mariadb(
                own.iter()
                    .filter(|(domain, reached)| {
                        !other.get(domain).is_some_and(|&there| covers(there, **reached))
                    })
                    .map(|(&domain, &reached)| (domain, reached))
                    .collect(),
            ),
            (own, _) => own.clone(),
        }
    }

    /// Whether everything here is also in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.subtract(other).is_empty()
    }

    /// What is here and not in `other`, in words for a person: one entry for each range.
    #[must_use]
    pub fn missing(&self, other: &Self) -> Vec<String> {
        match self.subtract(other) {
            Self::Mysql(left) => left
                .iter()
                .flat_map(|(source, intervals)| {
                    intervals.ranges().iter().map(move |&(first, last)| {
                        if first == last {
                            format!("{source}:{first}")
                        } else {
                            format!("{source}:{first}-{last}")
                        }
                    })
                })
                .collect(),
            Self::Mariadb(left) => left
                .iter()
                .map(|(domain, &(server, last))| {
                    let there = match other {
                        Self::Mariadb(other) => other.get(domain).map_or(0, |&(_, there)| there),
                        Self::Mysql(_) => 0,
                    };
                    if there + 1 >= last {
                        format!("{domain}-{server}-{last}")
                    } else {
                        format!("{domain}-{server}-{last} and all of domain {domain} after {there}")
                    }
                })
                .collect(),
        }
    }
}

/// In MariaDB a domain that reached a sequence has all before it. The same sequence of another
/// server is another transaction: two servers wrote into one domain.
fn covers(reached: (u32, u64), (server, sequence): (u32, u64)) -> bool {
    reached.1 > sequence || reached == (server, sequence)
}

fn further(one: (u32, u64), other: (u32, u64)) -> (u32, u64) {
    if (other.1, other.0) > (one.1, one.0) { other } else { one }
}

impl PartialEq for GtidSet {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mysql(own), Self::Mysql(other)) => own == other,
            (Self::Mariadb(own), Self::Mariadb(other)) => own == other,
            _ => self.is_empty() && other.is_empty(),
        }
    }
}

impl Eq for GtidSet {}

impl PartialOrd for GtidSet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self.is_subset(other), other.is_subset(self)) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Less),
            (false, true) => Some(Ordering::Greater),
            (false, false) => None,
        }
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mysql(set) => {
                let mut previous = None;
                for (source, intervals) in set {
                    if previous != Some(source.uuid) {
                        let comma = if previous.is_some() { "," } else { "" };
                        write!(f, "{comma}{}", source.uuid)?;
                        previous = Some(source.uuid);
                    }
                    if let Some(tag) = &source.tag {
                        write!(f, ":{tag}")?;
                    }
                    write!(f, ":{intervals}")?;
                }
            }
            Self::Mariadb(set) => {
                for (i, (domain, (server, sequence))) in set.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{domain}-{server}-{sequence}")?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for GtidSet {
    type Err = Malformed;

    /// Reads either kind; an empty text is the empty set.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.contains(':') || text.trim().is_empty() {
            Self::parse_mysql(text)
        } else {
            Self::parse_mariadb(text)
        }
    }
}

macro_rules! serde_as_text {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

serde_as_text!(Gtid);
serde_as_text!(GtidSet);

/// Splits at a separator and trims; each piece with its offset in the whole text.
fn pieces(text: &str, start: usize, separator: char) -> impl Iterator<Item = (usize, &str)> {
    let mut next = start;
    text.split(separator).map(move |piece| {
        let offset = next + (piece.len() - piece.trim_start().len());
        next += piece.len() + separator.len_utf8();
        (offset, piece.trim())
    })
}

fn parse_number(text: &str, offset: usize) -> Result<u64, Malformed> {
    match parse_digits(text, offset)? {
        0 => Err(Malformed { what: "numbers start at 1", offset }),
        number if number > NUMBER_MAX => Err(Malformed { what: "a number too large", offset }),
        number => Ok(number),
    }
}

/// `str::parse` would take a leading plus sign.
fn parse_digits(text: &str, offset: usize) -> Result<u64, Malformed> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed { what: "a number was expected", offset });
    }
    text.parse().map_err(|_| Malformed { what: "a number too large", offset })
}

fn parse_tag(text: &str, offset: usize) -> Result<Box<str>, Malformed> {
    let good = !text.is_empty()
        && text.len() <= TAG_LENGTH_MAX
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if good {
        Ok(text.to_ascii_lowercase().into())
    } else {
        Err(Malformed { what: "a number or a tag was expected", offset })
    }
}

fn parse_mariadb_gtid(text: &str, offset: usize) -> Result<(u32, u32, u64), Malformed> {
    let mut parts = pieces(text, offset, '-');
    let mut next = |what| parts.next().ok_or(Malformed { what, offset });
    let shape = "domain-server-sequence was expected";
    let (domain, server, sequence) = (next(shape)?, next(shape)?, next(shape)?);
    if let Some((offset, _)) = parts.next() {
        return Err(Malformed { what: "more than domain-server-sequence", offset });
    }
    let narrow = |(offset, part)| {
        u32::try_from(parse_digits(part, offset)?)
            .map_err(|_| Malformed { what: "a number too large", offset })
    };
    Ok((narrow(domain)?, narrow(server)?, parse_digits(sequence.1, sequence.0)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "8f1d2a30-0000-11e1-9e33-c80aa9429562";

    fn mysql(text: &str) -> GtidSet {
        GtidSet::parse_mysql(text).unwrap()
    }

    fn mariadb(text: &str) -> GtidSet {
        GtidSet::parse_mariadb(text).unwrap()
    }

    #[test]
    fn reads_what_servers_print() {
        let text = format!("{A}:1-5:7:tag_1:1-3,\n {B}:2 ");
        assert_eq!(mysql(&text).to_string(), format!("{A}:1-5:7:tag_1:1-3,{B}:2"));
        assert_eq!(mysql(&format!("{A}:3-4:1-2:TAG:9")).to_string(), format!("{A}:1-4:tag:9"));
        assert_eq!(mysql(&format!("{A}:1,{A}:2,{A}:t:4")).to_string(), format!("{A}:1-2:t:4"));
        assert_eq!(mysql("").to_string(), "");
        assert_eq!(mariadb("1-2-3, 0-1-40").to_string(), "0-1-40,1-2-3");
        assert_eq!(format!("{A}:t:4").parse::<Gtid>().unwrap().to_string(), format!("{A}:t:4"));
        assert_eq!("0-1-40".parse::<Gtid>().unwrap().to_string(), "0-1-40");
    }

    #[test]
    fn refuses_what_is_malformed() {
        for text in [
            "x",
            ":1",
            &A[1..],
            A,
            &format!("{A}:"),
            &format!("{A}:0"),
            &format!("{A}:5-4"),
            &format!("{A}:t"),
            &format!("{A}:+1"),
            &format!("{A}:1-"),
            &format!("{A}:9223372036854775807"),
            &format!("{A}:99999999999999999999"),
            &format!("{A}:tag-1:1"),
            &format!("{A}0:1"),
            "é:1",
        ] {
            assert!(GtidSet::parse_mysql(text).is_err(), "{text}");
        }
        for text in
            ["0", "0-1", "0-1-2-3", "0-1-x", "4294967296-1-1", "0-1-1,0-1-2", "-1-1-1", "0-1--1"]
        {
            assert!(GtidSet::parse_mariadb(text).is_err(), "{text}");
        }
        for text in ["", "0-1", A, &format!("{A}:1-2"), &format!("{A}:t:u:1")] {
            assert!(text.parse::<Gtid>().is_err(), "{text}");
        }
    }

    #[test]
    fn lists_what_is_missing() {
        let captured = mysql(&format!("{A}:1-10:t:1-2"));
        assert_eq!(
            captured.missing(&mysql(&format!("{A}:1-3:5-8"))),
            [format!("{A}:4"), format!("{A}:9-10"), format!("{A}:t:1-2")]
        );
        assert_eq!(
            mariadb("0-1-9,1-1-3").missing(&mariadb("0-1-7,1-1-3")),
            ["0-1-9 and all of domain 0 after 7"]
        );
        assert_eq!(mariadb("0-1-9").missing(&mariadb("0-2-9")), ["0-1-9"]);
    }

    #[test]
    fn order_is_inclusion() {
        assert_eq!(mariadb("0-1-3").partial_cmp(&mariadb("0-2-4")), Some(Ordering::Less));
        assert_eq!(mariadb("0-1-3").partial_cmp(&mariadb("1-1-3")), None);
        assert_eq!(mysql("").partial_cmp(&mariadb("")), Some(Ordering::Equal));
        assert_eq!(mysql("").partial_cmp(&mariadb("0-1-1")), Some(Ordering::Less));
    }

    fn any_mysql() -> impl Strategy<Value = Vec<(Source, u64)>> {
        let source = (0..2_u8, proptest::option::of("[a-c]"))
            .prop_map(|(server, tag)| Source::new(Uuid([server; 16]), tag.as_deref()).unwrap());
        proptest::collection::vec((source, 1..30_u64), 0..40)
    }

    fn set_of(members: &[(Source, u64)]) -> GtidSet {
        let mut set = GtidSet::mysql();
        for (source, number) in members {
            set.insert(&Gtid::Mysql { source: source.clone(), number: *number });
        }
        set
    }

    proptest! {
        #[test]
        fn text_round_trips(members in any_mysql()) {
            let set = set_of(&members);
            prop_assert_eq!(&mysql(&set.to_string()), &set);
            let json = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(serde_json::from_str::<GtidSet>(&json).unwrap(), set);
        }

        #[test]
        fn laws_of_sets_hold(one in any_mysql(), two in any_mysql()) {
            use std::collections::BTreeSet;
            let (model_one, model_two) =
                (one.iter().cloned().collect::<BTreeSet<_>>(), two.iter().cloned().collect::<BTreeSet<_>>());
            let (a, b) = (set_of(&one), set_of(&two));
            let of = |model: BTreeSet<(Source, u64)>| set_of(&model.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(a.union(&b).unwrap(), of(&model_one | &model_two));
            prop_assert_eq!(a.subtract(&b), of(&model_one - &model_two));
            prop_assert_eq!(a.is_subset(&b), model_one.is_subset(&model_two));
            prop_assert!(a <= a.union(&b).unwrap());
            for (source, number) in &two {
                let gtid = Gtid::Mysql { source: source.clone(), number: *number };
                prop_assert_eq!(a.contains(&gtid), model_one.contains(&(source.clone(), *number)));
            }
        }

        #[test]
        fn laws_of_positions_hold(
            one in proptest::collection::btree_map(0..3_u32, 0..9_u64, 0..3),
            two in proptest::collection::btree_map(0..3_u32, 0..9_u64, 0..3),
        ) {
            let set = |reached: BTreeMap<u32, u64>| {
                GtidSet::Mariadb(reached.into_iter().map(|(domain, sequence)| (domain, (1, sequence))).collect())
            };
            let (a, b) = (set(one), set(two));
            let all = a.union(&b).unwrap();
            prop_assert!(a <= all && b <= all);
            prop_assert_eq!(&all, &b.union(&a).unwrap());
            prop_assert_eq!(a.subtract(&b).is_empty(), a <= b);
            prop_assert_eq!(&mariadb(&all.to_string()), &all);
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f:, \\-é+_t\n]{0,60}") {
            let _ = GtidSet::parse_mysql(&text);
            let _ = GtidSet::parse_mariadb(&text);
            let _ = text.parse::<Gtid>();
        }
    }
}
