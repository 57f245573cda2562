//! By which command tables are being filled, as `unitflow.filling` says, and how it is given again.

use std::fmt;

use unitflow_change::ddl::TableName;
use unitflow_change::name::{Log, Name};
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault};

/// A command that fills tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filler {
    /// Whole tables. `in_place` of a command that gives back what a unit lost, which can't go on before.
    Full {
        /// Whether it may take over what that has begun.
        in_place: bool,
    },
    /// Single rows.
    Keys,
    /// A new unit.
    Join(Name),
    /// What a unit lost that went back in time.
    Lost {
        /// The first record behind the loss.
        from: Seq,
        /// The unit; not known where an older build began it.
        unit: Option<Name>,
    },
}

impl Filler {
    /// Reads what is written of it; older builds wrote less.
    pub fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let read = match words[..] {
            ["keys", ..] => Some(Self::Keys),
            ["join", unit, ..] => unit.parse().ok().map(Self::Join),
            ["lost", from, ref rest @ ..] => from.parse().ok().map(|from| {
                let unit = rest.first().and_then(|unit| unit.parse().ok());
                Self::Lost { from: Seq(from), unit }
            }),
            _ => None,
        };
        read.unwrap_or(Self::Full { in_place: false })
    }

    /// How what is written of this kind begins.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Full { .. } => "full",
            Self::Keys => "keys",
            Self::Join(_) => "join",
            Self::Lost { .. } => "lost",
        }
    }

    /// Whether tables that another command fills become this one's: it brings all that the other would.
    pub fn takes_over(&self) -> bool {
        *self != Self::Keys
    }

    /// Whether it may begin beside what fills these tables already.
    pub fn ensure_may_begin(
        &self,
        log: &Log,
        tables: &[TableName],
        filled: &[(TableName, String)],
    ) -> Result<(), Fault> {
        if matches!(self, Self::Lost { .. } | Self::Full { in_place: true }) {
            return Ok(());
        }
        for (table, job) in filled.iter().filter(|(table, _)| tables.contains(table)) {
            let job = Self::parse(job);
            if let Self::Lost { .. } = job {
                let what =
                    format!("{table} is being given back what it lost, which this would undo");
                return Err(Fault::fatal(Code::Copy, what)
                    .hint(format!("{}, then this again", job.command(log, table))));
            }
        }
        Ok(())
    }

    /// The command that goes on with it, for one of its tables.
    pub fn command(&self, log: &Log, table: &TableName) -> String {
        let Log { unit: from, store } = log;
        let ways = format!("--from {from} --store {store}");
        match self {
            Self::Full { .. } | Self::Keys => {
                format!("unitflow resync full {ways} --table {table} --why …")
            }
            Self::Join(unit) => format!("unitflow resync join {unit} {ways} --why …"),
            Self::Lost { unit, .. } => {
                let unit = unit.as_ref().map_or("UNIT", Name::as_str);
                format!("unitflow resync lost {unit} {ways} --why …")
            }
        }
    }
}

impl fmt::Display for Filler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::Full { .. } | Self::Keys => Ok(()),
            Self::Join(unit) => write!(f, " {unit}"),
            Self::Lost { from, unit: Some(unit) } => write!(f, " {} {unit}", from.0),
            Self::Lost { from, unit: None } => write!(f, " {}", from.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TableName {
        TableName { database: "shop".into(), table: "goods".into() }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let unit = || "osaka".parse().unwrap();
        for filler in [
            Filler::Full { in_place: false },
            Filler::Keys,
            Filler::Join(unit()),
            Filler::Lost { from: Seq(u64::MAX), unit: Some(unit()) },
            Filler::Lost { from: Seq(8), unit: None },
        ] {
            let text = filler.to_string();
            assert!(text.len() <= 64, "{text}");
            assert_eq!(Filler::parse(&text), filler, "{text}");
        }
        assert_eq!(Filler::parse("resync"), Filler::Full { in_place: false });
    }

    #[test]
    fn who_gives_back_what_was_lost_comes_first() {
        let log = Log::parse("tokyo.shop").unwrap();
        let lost = Filler::Lost { from: Seq(8), unit: Some("berlin".parse().unwrap()) };
        let filled = [(table(), lost.to_string())];
        for filler in [Filler::Keys, Filler::Full { in_place: false }] {
            let refused = filler.ensure_may_begin(&log, &[table()], &filled).unwrap_err();
            assert!(
                refused
                    .hint
                    .starts_with("unitflow resync lost berlin --from tokyo --store shop --why …")
            );
            assert!(filler.ensure_may_begin(&log, &[], &filled).is_ok());
        }
        assert!(lost.ensure_may_begin(&log, &[table()], &filled).is_ok());
        let in_place = Filler::Full { in_place: true };
        assert!(in_place.ensure_may_begin(&log, &[table()], &filled).is_ok());
    }
}
