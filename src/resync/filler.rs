//! By which command tables are being filled, as `unitflow.filling` says, and how it is given again.

use std::collections::BTreeSet;
use std::fmt;

use unitflow_change::ddl::TableName;
use unitflow_change::name::{Log, Name};
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault};
use unitflow_sinks::copy::filling::Mark;

/// What fits into the column of `unitflow.filling`.
const BYTES_MAX: usize = 64;

/// A command that fills tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filler {
    /// Whole tables, in these units; not known where there are too many to be written down, or an older
    /// build began it.
    Full(Option<BTreeSet<Name>>),
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
    /// One that a newer build knows.
    Newer(String),
}

impl Filler {
    /// Whole tables in these units.
    pub fn full(to: &[Name]) -> Self {
        let known = Self::Full(Some(to.iter().cloned().collect()));
        if known.to_string().len() <= BYTES_MAX { known } else { Self::Full(None) }
    }

    /// Reads what is written of it; older builds wrote less.
    pub fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let read = match words[..] {
            ["full" | "resync"] => Some(Self::Full(None)),
            ["full", units] => {
                let units: Result<_, _> = units.split(',').map(str::parse).collect();
                units.ok().map(|units| Self::Full(Some(units)))
            }
            ["keys"] => Some(Self::Keys),
            ["join", unit] => unit.parse().ok().map(Self::Join),
            ["lost", from] => {
                from.parse().ok().map(|from| Self::Lost { from: Seq(from), unit: None })
            }
            ["lost", from, unit] => from
                .parse()
                .ok()
                .zip(unit.parse().ok())
                .map(|(from, unit)| Self::Lost { from: Seq(from), unit: Some(unit) }),
            _ => None,
        };
        read.unwrap_or_else(|| Self::Newer(text.to_owned()))
    }

    /// Whether tables that another command fills become this one's, which brings all that the other would.
    pub fn takes_over(&self) -> bool {
        *self != Self::Keys
    }

    /// Whether it brings all rows of its tables.
    pub fn brings_all(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Join(_))
    }

    /// Whether it gives a unit back what that has lost.
    pub fn gives_back_to(&self, unit: &Name) -> bool {
        matches!(self, Self::Lost { unit: of, .. } if of.as_ref().is_none_or(|of| of == unit))
    }

    /// Whether this unit's marks say whether it has come to its end: they are the last to go.
    pub fn ends_with(&self, unit: &Name) -> bool {
        self.gives_back_to(unit) || matches!(self, Self::Join(to) if to == unit)
    }

    /// The first record behind a loss.
    pub fn from(&self) -> Seq {
        match self {
            Self::Lost { from, .. } => *from,
            _ => Seq::NONE,
        }
    }

    /// Whether a unit may be half filled by it.
    fn fills(&self, unit: &Name) -> bool {
        match self {
            Self::Full(to) => to.as_ref().is_none_or(|to| to.contains(unit)),
            Self::Join(to) => to == unit,
            Self::Keys | Self::Lost { .. } | Self::Newer(_) => false,
        }
    }

    /// Whether it may begin, with the rows of this log's unit, beside what fills a table already. `bereft`:
    /// units that can't go on before it has ended.
    ///
    /// # Errors
    /// The command that has to come to its end first.
    pub fn ensure_may_begin(&self, log: &Log, mark: &Mark, bereft: &[Name]) -> Result<(), Fault> {
        let other = Self::parse(&mark.filler);
        let whose = Log::parse(&mark.log).unwrap_or_else(|| log.clone());
        let because = match &other {
            Self::Newer(_) => Some("is being filled by a command of a newer build"),
            Self::Lost { unit: Some(unit), .. }
                if self.gives_back_to(unit) || bereft.contains(unit) =>
            {
                None
            }
            Self::Lost { unit: None, .. } if matches!(self, Self::Lost { .. }) => None,
            Self::Lost { .. } => Some("is being given back what it lost, which this would undo"),
            _ if whose != *log && other.fills(&log.unit) => {
                Some("is half filled in the unit whose rows shall count")
            }
            _ if !self.brings_all() => None,
            Self::Full(Some(to)) if to.iter().any(|unit| !self.fills(unit)) => {
                Some("is being filled in more units than this fills")
            }
            Self::Join(unit) if !self.fills(unit) => Some("is being filled in a unit that joins"),
            Self::Full(_) | Self::Join(_) | Self::Keys => None,
        };
        let Some(because) = because else { return Ok(()) };
        let table = &mark.table;
        Err(Fault::fatal(Code::Copy, format!("{table} {because}"))
            .hint(format!("{}, then this again", other.command(&whose, table))))
    }

    /// The command that goes on with it, for one of its tables.
    pub fn command(&self, log: &Log, table: &TableName) -> String {
        let Log { unit: from, store } = log;
        let ways = format!("--from {from} --store {store}");
        match self {
            Self::Full(None) => format!("unitflow resync full {ways} --table {table} --why …"),
            Self::Full(Some(to)) => {
                let to = joined(to);
                format!("unitflow resync full {ways} --to {to} --table {table} --why …")
            }
            Self::Keys => format!("unitflow resync keys {ways} --key … --why …"),
            Self::Join(unit) => format!("unitflow resync join {unit} {ways} --why …"),
            Self::Lost { unit, .. } => {
                let unit = unit.as_ref().map_or("UNIT", Name::as_str);
                format!("unitflow resync lost {unit} {ways} --why …")
            }
            Self::Newer(text) => format!("the command of a newer build ({text})"),
        }
    }
}

fn joined(units: &BTreeSet<Name>) -> String {
    units.iter().map(Name::as_str).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Filler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(None) => f.write_str("full"),
            Self::Full(Some(to)) => write!(f, "full {}", joined(to)),
            Self::Keys => f.write_str("keys"),
            Self::Join(unit) => write!(f, "join {unit}"),
            Self::Lost { from, unit: Some(unit) } => write!(f, "lost {} {unit}", from.0),
            Self::Lost { from, unit: None } => write!(f, "lost {}", from.0),
            Self::Newer(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<Name> {
        text.split(' ').map(|name| name.parse().unwrap()).collect()
    }

    fn lost(unit: &str) -> Filler {
        Filler::Lost { from: Seq(8), unit: Some(unit.parse().unwrap()) }
    }

    fn log(unit: &str) -> Log {
        Log::parse(&format!("{unit}.shop")).unwrap()
    }

    fn mark(log: &Log, filler: &Filler) -> Mark {
        let table = TableName { database: "shop".into(), table: "goods".into() };
        Mark { table, log: log.to_string(), filler: filler.to_string() }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for filler in [
            Filler::full(&names("osaka tokyo")),
            Filler::Keys,
            Filler::Join("osaka".parse().unwrap()),
            Filler::Lost { from: Seq(u64::MAX), unit: Some("x".repeat(32).parse().unwrap()) },
            Filler::Lost { from: Seq(8), unit: None },
        ] {
            let text = filler.to_string();
            assert!(text.len() <= BYTES_MAX, "{text}");
            assert_eq!(Filler::parse(&text), filler, "{text}");
        }
        let many: Vec<Name> =
            (10..40).map(|number| format!("unit{number}").parse().unwrap()).collect();
        assert_eq!(Filler::full(&many), Filler::Full(None));
        assert_eq!(Filler::parse("resync"), Filler::Full(None));
        assert_eq!(Filler::parse("full to the brim"), Filler::Newer("full to the brim".into()));
    }

    #[test]
    fn the_marks_that_tell_of_the_end_go_last() {
        let (osaka, tokyo) = ("osaka".parse().unwrap(), "tokyo".parse().unwrap());
        for filler in [Filler::Join("osaka".parse().unwrap()), lost("osaka")] {
            assert!(filler.ends_with(&osaka) && !filler.ends_with(&tokyo), "{filler}");
        }
        assert!(!Filler::full(&names("osaka tokyo")).ends_with(&osaka));
    }

    #[test]
    fn what_has_to_end_first_is_told() {
        let full = |to: &str| Filler::full(&names(to));
        let join = |unit: &str| Filler::Join(unit.parse().unwrap());
        let lost_again = "unitflow resync lost a --from c --store shop --why …";
        let full_again = "unitflow resync full --from a --store shop --to b";
        for (filler, from, other, of, bereft, refused) in [
            (full("b c"), "a", lost("a"), "c", "x", lost_again),
            (Filler::Keys, "c", lost("a"), "c", "x", lost_again),
            (lost("b"), "c", lost("a"), "c", "x", lost_again),
            (lost("a"), "c", lost("a"), "c", "x", ""),
            // Who is bereft can't go on before.
            (full("a"), "c", lost("a"), "c", "a", ""),
            (full("b c"), "a", lost("a"), "c", "b", lost_again),
            (full("b"), "a", full("b c"), "a", "x", full_again),
            (full("b c"), "a", full("b"), "a", "x", ""),
            (full("b c"), "a", join("c"), "a", "x", ""),
            (full("b"), "a", join("c"), "a", "x", "unitflow resync join c --from a"),
            (Filler::Keys, "a", full("b c"), "a", "x", ""),
            // Its rows are half of another's.
            (full("a c"), "b", full("b c"), "a", "x", full_again),
            (Filler::Keys, "b", full("b"), "a", "x", full_again),
            (full("b c"), "a", Filler::Keys, "b", "x", ""),
            (full("b c"), "a", Filler::Newer("heal".into()), "a", "x", "the command of a newer"),
        ] {
            let mark = mark(&log(of), &other);
            let outcome = filler.ensure_may_begin(&log(from), &mark, &names(bereft));
            let hint = outcome.err().map(|fault| fault.hint.to_string()).unwrap_or_default();
            let right =
                if refused.is_empty() { hint.is_empty() } else { hint.starts_with(refused) };
            assert!(right, "{filler} from {from} over {other} from {of}: {hint:?}");
        }
    }
}
