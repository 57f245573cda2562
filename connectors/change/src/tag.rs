//! The packed `unitflow` header that every record carries beside its key and value.
//!
//! ```text
//! 1;row;281474976710658;281474976710656;3e11fa47-…:23;0;1;1764000000000000;;
//! │ │   seq             prev            transaction   │ │ commit µs        │└ to: addressees of a
//! │ kind                                  index in it ┘ │                  │   copied row, by comma
//! format                          last of it in this ───┘                  └ after: what to wait
//!                                 partition                                  for, each `lane:seq`,
//!                                                                            by comma
//! ```
//!
//! What format 1 can say is written in it, so that a reader of before stops only where it has to.
//!
//! Readable in any console consumer, one header instead of five (each costs a row about 0.4 µs).
//! A format newer than [`FORMAT`] stops the reader: it may mean something the reader must not
//! guess. Older ones are read, so that readers can be upgraded before writers. The `origin` header beside it holds the unit.

use std::fmt;
use std::io::Write as _;

use crate::fault::{Code, Fault};
use crate::inject;
use crate::seq::Seq;

/// The newest format this build reads.
pub const FORMAT: u8 = 3;

/// The newest format of this build; in tests also of the next one, which knows one more.
fn newest() -> u8 {
    FORMAT + u8::from(inject::on("next_format"))
}

/// The header's name.
pub const HEADER: &str = "unitflow";

/// The name of the header that holds the unit a change comes from.
pub const ORIGIN: &str = "origin";

/// The name of a header of tagged records that are for Unitflow alone: all that are no rows, and
/// the rows of its own tables. It holds the record's kind; other consumers leave these records out
/// by it.
pub const CONTROL: &str = "unitflow.control";

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One row change, in Debezium's envelope.
    Row,
    /// One update that changed the row's primary key; only in captured topics, its key is the old one.
    Move,
    /// One statement that changes the schema; copied to every partition.
    Ddl,
    /// Nothing but its number, so that idle positions move; copied to every partition.
    Watermark,
    /// The start of a generation, with the routing it uses; copied to every partition.
    Barrier,
    /// Another routing from here on; only in captured topics.
    Routing,
    /// What copied rows follow, and what the source had applied when they were read; copied to
    /// every partition. Since format 2.
    Chunk,
    /// One copied row, or with an empty value the word that there is none. Since format 2.
    Copy,
    /// One write of a Redis store. Since format 3.
    Command,
    /// When keys of a Redis store expire, as its snapshot says; only in captured topics. Since format 3.
    Expiry,
}

impl Kind {
    const NAMES: [(Self, &'static str); 10] = [
        (Self::Row, "row"),
        (Self::Move, "move"),
        (Self::Ddl, "ddl"),
        (Self::Watermark, "watermark"),
        (Self::Barrier, "barrier"),
        (Self::Routing, "routing"),
        (Self::Chunk, "chunk"),
        (Self::Copy, "copy"),
        (Self::Command, "command"),
        (Self::Expiry, "expiry"),
    ];

    /// The kind's name in the header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize].1
    }

    /// The format that can say it.
    const fn format(self) -> u8 {
        match self {
            Self::Chunk | Self::Copy => 2,
            Self::Command | Self::Expiry => 3,
            _ => 1,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, name)| *name == text).map(|(kind, _)| *kind)
    }
}

/// A position in another lane of the same log that must be applied before a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// The lane, which is the partition.
    pub lane: i32,
    /// What that lane's ledger row must have reached.
    pub seq: Seq,
}

/// Positions in other lanes that must be applied before a record, as the header has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Afters<'a>(&'a str);

impl<'a> Afters<'a> {
    /// Writes positions into `text` and stands for them.
    pub fn write(positions: &[After], text: &'a mut String) -> Self {
        text.clear();
        for After { lane, seq } in positions {
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a String can't fail.
            let _ = fmt::Write::write_fmt(text, format_args!("{comma}{lane}:{seq}"));
        }
        Self(text)
    }

    /// Reads them as they are written; `None` if something else is there.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let good = text.is_empty() || text.split(',').all(|part| position(part).is_some());
        good.then_some(Self(text))
    }

    /// As they are written.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// One by one.
    pub fn iter(self) -> impl Iterator<Item = After> + 'a {
        self.0.split(',').filter_map(position)
    }
}

/// `lane:seq`.
fn position(text: &str) -> Option<After> {
    let (lane, seq) = text.split_once(':')?;
    Some(After { lane: lane.parse().ok()?, seq: Seq(seq.parse().ok()?) })
}

/// A record's place in its log, its partition and its source transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// What the record is.
    pub kind: Kind,
    /// Its number in the log.
    pub seq: Seq,
    /// The number of the record before it in this partition.
    pub prev: Seq,
    /// The source's own name of the transaction (a GTID); empty where there is none.
    pub transaction: &'a str,
    /// The record's place in that transaction, from 0.
    pub index: u64,
    /// Whether it is the transaction's last record in this partition.
    pub last: bool,
    /// When the source committed, in µs since 1970.
    pub commit_us: u64,
    /// What other lanes must have applied first.
    pub after: Afters<'a>,
    /// For what is copied: the units it is for, by comma; empty for all.
    pub to: &'a str,
}

/// Whether `to`, as it stands in a tag, names a unit.
#[must_use]
pub fn is_for(to: &str, unit: &str) -> bool {
    to.is_empty() || to.split(',').any(|name| name == unit)
}

impl<'a> Tag<'a> {
    /// Appends the packed form.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Writing to a Vec can't fail.
        let format = match inject::on("next_format") {
            true => FORMAT + 1,
            false => self.kind.format(),
        };
        let _ = write!(out, "{format};{};{};{};", self.kind.as_str(), self.seq, self.prev);
        let _ = write!(out, "{};{};", self.transaction, self.index);
        let _ = write!(out, "{};{};", u8::from(self.last), self.commit_us);
        let _ = write!(out, "{};{}", self.after.as_str(), self.to);
    }

    /// Reads the packed form; a newer format or anything unexpected is a fault.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let unreadable =
            || Fault::fatal(Code::Record, format!("unreadable unitflow header: {}", Shown(bytes)));
        let text = std::str::from_utf8(bytes).map_err(|_| unreadable())?;
        let mut fields = text.split(';');
        let mut field = || fields.next().ok_or_else(unreadable);
        let found: u32 = field()?.parse().map_err(|_| unreadable())?;
        let known = u32::from(newest());
        if found == 0 {
            return Err(unreadable());
        }
        if found > known {
            return Err(Fault::fatal(
                Code::Record,
                format!("record format {found} is newer than this build's {known}"),
            )
            .hint("upgrade this worker: sinks before transformers, transformers before connectors; nothing was passed over"));
        }
        let number = |text: &str| text.parse::<u64>().map_err(|_| unreadable());
        let tag = Self {
            kind: Kind::parse(field()?).ok_or_else(unreadable)?,
            seq: Seq(number(field()?)?),
            prev: Seq(number(field()?)?),
            transaction: field()?,
            index: number(field()?)?,
            last: match field()? {
                "0" => false,
                "1" => true,
                _ => return Err(unreadable()),
            },
            commit_us: number(field()?)?,
            after: Afters::parse(field()?).ok_or_else(unreadable)?,
            to: field()?,
        };
        if fields.next().is_some() { Err(unreadable()) } else { Ok(tag) }
    }
}

/// The beginning of bytes from outside, safe to print.
struct Shown<'a>(&'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..self.0.len().min(120)].escape_ascii().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &[u8] =
        b"1;row;281474976710659;281474976710656;0-1-45;3;1;1764000000000000;2:281474976710658;";

    #[test]
    fn the_packed_form_is_the_documented_one() {
        let tag = Tag::parse(TEXT).unwrap();
        assert_eq!(tag.transaction, "0-1-45");
        let position = After { lane: 2, seq: Seq((1 << 48) + 2) };
        assert_eq!(tag.after.iter().collect::<Vec<_>>(), [position]);
        assert!(tag.last);
        let mut again = Vec::new();
        tag.write(&mut again);
        assert_eq!(again, TEXT);
    }

    #[test]
    fn only_what_needs_it_is_written_in_a_newer_format() {
        let text = b"2;copy;6;4;;1;1;0;;B,C";
        let tag = Tag::parse(text).unwrap();
        assert!(is_for(tag.to, "C") && !is_for(tag.to, "A") && is_for("", "A"));
        let mut again = Vec::new();
        tag.write(&mut again);
        assert_eq!(again, text);
        again.clear();
        Tag { kind: Kind::Row, ..tag }.write(&mut again);
        assert_eq!(again, b"1;row;6;4;;1;1;0;;B,C");
    }

    #[test]
    fn several_positions_are_read_as_they_were_written() {
        let positions = [After { lane: 3, seq: Seq(7) }, After { lane: 0, seq: Seq(9) }];
        let mut text = String::new();
        for some in 0..=positions.len() {
            let afters = Afters::write(&positions[..some], &mut text);
            assert_eq!(afters.is_empty(), some == 0);
            assert_eq!(afters.iter().collect::<Vec<_>>(), positions[..some]);
            assert_eq!(Afters::parse(afters.as_str()), Some(afters));
        }
        assert_eq!(text, "3:7,0:9");
        for bad in [",", "3:7,", "3:7,0", "3:", "x:1", "3;7"] {
            assert_eq!(Afters::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_newer_format_stops() {
        let fault = Tag::parse(b"4;row;1;0;;0;1;0;;").unwrap_err();
        assert!(fault.what.contains("newer"), "{fault}");
    }

    proptest! {
        #[test]
        fn damaged_headers_never_panic_and_never_pass_as_another(at in 0..TEXT.len(), byte: u8) {
            let mut bytes = TEXT.to_vec();
            bytes[at] = byte;
            if let Ok(tag) = Tag::parse(&bytes) {
                let mut again = Vec::new();
                tag.write(&mut again);
                // Numbers may be written with leading zeros or a plus sign, and what format 1 can
                // say in format 2; nothing else may differ.
                prop_assert!(again == bytes || matches!(byte, b'0' | b'+') || at == 0);
            }
            let _ = Tag::parse(&bytes[..at]);
        }
    }
}
