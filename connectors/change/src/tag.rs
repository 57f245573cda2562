//! The packed `unitflow` header that every record carries beside its key and value.
//!
//! ```text
//! 1;row;281474976710658;281474976710656;3e11fa47-…:23;0;1;1764000000000000;;
//! │ │   seq             prev            transaction   │ │ commit µs        │└ to: addressees of a
//! │ kind                                  index in it ┘ │                  │   copied row, by comma
//! format                          last of it in this ───┘                  └ after: `lane:seq` to
//!                                 partition                                  wait for
//! ```
//!
//! Readable in any console consumer, one header instead of five (each costs a row about 0.4 µs).
//! A format newer than [`FORMAT`] stops the reader: it may mean something the reader must not
//! guess. Older ones are read, so that readers can be upgraded before writers. The `origin` header beside it holds the unit.

use std::fmt;
use std::io::Write as _;

use crate::fault::{Code, Fault};
use crate::inject;
use crate::seq::Seq;

/// The format this build writes, and the newest it reads.
pub const FORMAT: u8 = 1;

/// The format of this build; in tests also of the next one, which knows one more.
fn format() -> u8 {
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
}

impl Kind {
    const NAMES: [(Self, &'static str); 6] = [
        (Self::Row, "row"),
        (Self::Move, "move"),
        (Self::Ddl, "ddl"),
        (Self::Watermark, "watermark"),
        (Self::Barrier, "barrier"),
        (Self::Routing, "routing"),
    ];

    /// The kind's name in the header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize].1
    }

    fn parse(text: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, name)| *name == text).map(|(kind, _)| *kind)
    }
}

/// A position in another lane of the same log that must be applied before this record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// The lane, which is the partition.
    pub lane: i32,
    /// What that lane's ledger row must have reached.
    pub seq: Seq,
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
    /// What another lane must have applied first.
    pub after: Option<After>,
    /// For a copied row: the units it is for, by comma; empty for all.
    pub to: &'a str,
}

impl<'a> Tag<'a> {
    /// Appends the packed form.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Writing to a Vec can't fail.
        let _ = write!(out, "{};{};{};{};", format(), self.kind.as_str(), self.seq, self.prev);
        let _ = write!(out, "{};{};", self.transaction, self.index);
        let _ = write!(out, "{};{};", u8::from(self.last), self.commit_us);
        if let Some(After { lane, seq }) = self.after {
            let _ = write!(out, "{lane}:{seq}");
        }
        let _ = write!(out, ";{}", self.to);
    }

    /// Reads the packed form; a newer format or anything unexpected is a fault.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let unreadable =
            || Fault::fatal(Code::Record, format!("unreadable unitflow header: {}", Shown(bytes)));
        let text = std::str::from_utf8(bytes).map_err(|_| unreadable())?;
        let mut fields = text.split(';');
        let mut field = || fields.next().ok_or_else(unreadable);
        let found: u32 = field()?.parse().map_err(|_| unreadable())?;
        let known = u32::from(format());
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
            after: match field()? {
                "" => None,
                text => {
                    let (lane, seq) = text.split_once(':').ok_or_else(unreadable)?;
                    let lane = lane.parse().map_err(|_| unreadable())?;
                    Some(After { lane, seq: Seq(number(seq)?) })
                }
            },
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
        assert_eq!(tag.after, Some(After { lane: 2, seq: Seq((1 << 48) + 2) }));
        assert!(tag.last);
        let mut again = Vec::new();
        tag.write(&mut again);
        assert_eq!(again, TEXT);
    }

    #[test]
    fn a_newer_format_stops() {
        let fault = Tag::parse(b"2;row;1;0;;0;1;0;;").unwrap_err();
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
                // Numbers may be written with leading zeros or a plus sign; nothing else may differ.
                prop_assert!(again == bytes || byte == b'0' || byte == b'+');
            }
            let _ = Tag::parse(&bytes[..at]);
        }
    }
}
