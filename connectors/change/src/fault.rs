//! What can go wrong, judged once.
//!
//! Every external system has one place that turns its errors into a [`Fault`]; from there on
//! only the [`Kind`] decides what happens next and only the [`Code`] is what an operator looks
//! up. Each code has a section of the same name in `deploy/runbook.md`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the worker may do about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Nothing was done; the same attempt may succeed later (server away, deadlock).
    Retry,
    /// It may have been done (connection lost while COMMIT was under way): look before acting.
    Ambiguous,
    /// This record can't be processed and never will be; others can.
    Poison,
    /// Only a person can mend it. What is not known is of this kind.
    Fatal,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $remedy:literal,)+) => {
        /// The name under which a fault stands in the runbook, in `status` and in metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// All codes, in the order of the runbook.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// The code as it is written: lower case with underscores.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)+ }
            }

            /// What mends it, where a fault does not say that better. The runbook says more.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Code::$name => $remedy,)+ }
            }
        }
    };
}

codes! {
    /// The configuration file does not parse or contradicts itself.
    Config = "config", "correct the place named; deploy/examples/unitflow.toml shows each setting",
    /// A secret's reference can't be followed, or its file may be read by others.
    Secret = "secret", "name a variable that is set, or a file that only this user may read",
    /// A server does not answer or closed the connection.
    Unreachable = "unreachable", "see whether the server runs and can be reached from this machine; it is tried again",
    /// A server refused the user or the password.
    Denied = "denied", "correct user or password of the store",
    /// The user lacks a privilege that the role needs.
    Grant = "grant", "unitflow init --print lists the grants that are needed, unitflow check those that are missing",
    /// A server's setting is not what Unitflow needs.
    Setting = "setting", "unitflow check shows what is expected, and what the server has",
    /// TLS could not be established as configured.
    Tls = "tls", "correct the server's certificate, or tls of the store",
    /// The binlog holds an event, a type or an encoding that the decoder does not know.
    BinlogUnknown = "binlog_unknown", "exclude the table if a type of it is the reason, else upgrade Unitflow",
    /// The binlog's bytes contradict themselves: wrong checksum, wrong length.
    BinlogCorrupt = "binlog_corrupt", "find the event with mysqlbinlog --verify-binlog-checksum, and read from a server of the store whose log is whole",
    /// A Redis snapshot or stream holds a version, a type or a command that is not known.
    StreamUnknown = "stream_unknown", "leave out what is named, else upgrade Unitflow",
    /// The bytes of a Redis snapshot or stream contradict themselves.
    StreamCorrupt = "stream_corrupt", "see the server's log; a worker that starts again asks for a new snapshot",
    /// A Redis command acts on more than keys that travel, and the flow does not say what is to happen with it.
    Command = "command", "say under commands of the flow what happens with it, see the runbook",
    /// A row event carries only a part of the row.
    RowImage = "row_image", "set binlog_row_image=FULL and binlog_row_metadata=FULL at the source, for open sessions too",
    /// The position to resume from is no longer in the source's binlog.
    PositionPurged = "position_purged", "unitflow resync full from this unit, see the runbook; then keep the server's log for longer",
    /// The source no longer has changes that were captured from it: it lost its tail.
    SourceLostTail = "source_lost_tail", "unitflow resync lost lists what was lost, and gives it back",
    /// No position is stored where one is needed.
    PositionMissing = "position_missing", "unitflow init where the flow has never run, else see the runbook for how a log begins anew",
    /// A stored position can't be read, or is of another kind than the source.
    PositionUnreadable = "position_unreadable", "run the build that wrote it, or a newer one",
    /// A topic does not exist.
    TopicMissing = "topic_missing", "unitflow init where the flow has never run, else see the runbook for how a log begins anew",
    /// A topic was deleted and created again: its offsets mean something else now.
    TopicRecreated = "topic_recreated", "see the runbook for how a log begins anew",
    /// A topic ends before what was written to it: it lost its tail.
    TopicTruncated = "topic_truncated", "see the runbook for how a log begins anew",
    /// A topic's settings are not what Unitflow needs.
    TopicSetting = "topic_setting", "unitflow check shows what is expected, and what the topic has",
    /// The offset to read from is no longer in the topic.
    OffsetGone = "offset_gone", "unitflow resync full, see the runbook; then raise the topic's retention",
    /// Someone moved a consumer group's offset forwards over records that were not applied.
    OffsetForward = "offset_forward", "set the offset back, or unitflow skip the records that are never to be applied",
    /// Another worker took this role over.
    Fenced = "fenced", "see which other worker has this role; one of the two is enough",
    /// Kafka refused or failed.
    Kafka = "kafka", "see the broker's log",
    /// A record can't be read, or is of a newer format.
    Record = "record", "upgrade this worker if a newer one wrote it, else find out who writes there",
    /// A row is larger than a record may be, or than the target takes.
    TooLarge = "too_large", "raise the limit that is named, then unitflow retry",
    /// A record does not follow the one applied before it.
    Gap = "gap", "see the runbook for how a log begins anew",
    /// The ledger has no row for a lane of a flow that has run, or was never initialised.
    LedgerMissing = "ledger_missing", "put the rows back from a backup of the store, or see the runbook for how a log begins anew",
    /// The ledger moved by another hand than this lane's.
    LedgerMoved = "ledger_moved", "see which other worker applies this lane",
    /// The ledger stands lower than what this lane committed: the target lost commits.
    TargetLostCommits = "target_lost_commits", "see whether the target failed over or was restored; what it lost is applied again",
    /// The ledger's writes are not in the store's own log, so that marks are invisible.
    LedgerHidden = "ledger_hidden", "let the server log what is written to the database unitflow, see the runbook",
    /// A unit's own change came back to it.
    Looped = "looped", "do not restart: find out who writes to the tagged topic",
    /// A row at the target is not as the change expects it and the table has no policy.
    Conflict = "conflict", "compare the row in both units, make this unit's row as it was before that change, and restart the sink",
    /// A schema change arrived and the flow's policy is to stop.
    Ddl = "ddl", "bring the tables to the same schema, then unitflow resume",
    /// A control record can't be read, or asks for what can't be.
    Control = "control", "give orders by unitflow pause, resume, retry, skip or resync",
    /// A copy of rows that was ordered could not be made.
    Copy = "copy", "mend the reason, and give the same command again",
    /// Changes of a table wait for a person.
    Parked = "parked", "mend the table, then unitflow resume",
    /// A table at the target can't take the change: missing table or column, unsuitable type.
    Table = "table", "bring the table to the source's definition, then unitflow resume",
    /// A table has no primary key.
    NoPrimaryKey = "no_primary_key", "give the table a primary key in every unit, or exclude it",
    /// The target refused a statement.
    Apply = "apply", "see what the server says, mend that at the target, then unitflow retry",
    /// The routing changed in a way that a running log can't follow.
    Routing = "routing", "take the change back, or see the runbook for how a log begins anew",
    /// A program that is needed on this machine is missing or failed.
    Local = "local", "mend what this machine says, and run it again",
    /// Something took longer than its limit.
    Timeout = "timeout", "see why it takes that long; it is tried again",
    /// Unitflow contradicts itself.
    Bug = "bug", "report it with the worker's log",
}

impl Code {
    /// The code of this name, if there is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that went wrong: what may be done, under which name, what happened and what mends it.
///
/// Texts never hold row values or secrets.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Fault {
    /// What the worker may do.
    pub kind: Kind,
    /// The name in the runbook.
    pub code: Code,
    /// What happened, and where.
    pub what: String,
    /// What mends it; empty where the code's remedy says all there is to say.
    pub hint: String,
}

impl Fault {
    /// A fault of any kind.
    pub fn new(kind: Kind, code: Code, what: impl Into<String>) -> Self {
        Self { kind, code, what: what.into(), hint: String::new() }
    }

    /// The same attempt may succeed later.
    pub fn retry(code: Code, what: impl Into<String>) -> Self {
        Self::new(Kind::Retry, code, what)
    }

    /// It may have been done.
    pub fn ambiguous(code: Code, what: impl Into<String>) -> Self {
        Self::new(Kind::Ambiguous, code, what)
    }

    /// This record can't be processed.
    pub fn poison(code: Code, what: impl Into<String>) -> Self {
        Self::new(Kind::Poison, code, what)
    }

    /// Only a person can mend it.
    pub fn fatal(code: Code, what: impl Into<String>) -> Self {
        Self::new(Kind::Fatal, code, what)
    }

    /// Says what mends it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// What mends it.
    #[must_use]
    pub fn remedy(&self) -> &str {
        if self.hint.is_empty() { self.code.remedy() } else { &self.hint }
    }

    /// Says where it happened, before what happened.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    /// Whether the same attempt may be made again without a person.
    #[must_use]
    pub fn is_retry(&self) -> bool {
        matches!(self.kind, Kind::Retry | Kind::Ambiguous)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}\n  to mend it: {}", self.code, self.what, self.remedy())
    }
}
