//! Changes that come before what they were made behind.
//!
//! Each log keeps its order, and logs do not wait for each other: what unit B wrote behind a change of
//! unit C may be here before that change is. It does not fit then, and will a moment later. What it was
//! made behind had been applied in B, so it stood in the Kafka that C's log is read from before B's
//! change did: up to where that Kafka ends now is far enough.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use unitflow_change::fault::Kind;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_change::tag::{HEADER, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::{Broker, last_committed};

use crate::lane::Lane;
use crate::ledger;

/// How long a change waits for others that it may have been made behind.
const CAUSES_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether they are here.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Another log that is applied to the same store.
#[derive(Clone, Debug)]
pub struct Other {
    /// The log.
    pub log: Log,
    /// The Kafka it is read from.
    pub broker: Broker,
    /// Its tagged topic there.
    pub topic: String,
}

/// A lane of another log, and its last record.
type Tail = (Log, i32, Seq);

impl Lane<'_> {
    /// Whether what does not fit may fit later, and somebody would miss it. What is filled with the rows of
    /// another unit comes again from there.
    pub(crate) async fn may_be_early(&mut self) -> Result<bool, Fault> {
        Ok(!self.way.others.is_empty() && !self.is_filled_from_elsewhere().await?)
    }

    /// Waits until this unit has applied what other logs hold by now; gives the first log that it has not
    /// come to the end of in time.
    pub(crate) async fn wait_for_causes(&mut self) -> Result<Option<Log>, Fault> {
        let tails = self.tails().await?;
        let begun = Instant::now();
        loop {
            let stands = ledger::read_logs(self.applier.conn()).await?;
            let Some(log) = first_behind(&tails, &stands) else { return Ok(None) };
            if begun.elapsed() > CAUSES_WITHIN {
                return Ok(Some(log.clone()));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The last record of each lane of the other logs.
    async fn tails(&mut self) -> Result<Vec<Tail>, Fault> {
        let lanes = ledger::read_logs(self.applier.conn()).await?;
        let mut tails = Vec::new();
        for Other { log, broker, topic } in &self.way.others {
            for (_, lane, _) in lanes.iter().filter(|(of, ..)| of == log) {
                if let Some(record) = last_committed(broker, topic, *lane).await? {
                    let tag = Tag::parse(record.header(HEADER).unwrap_or_default())?;
                    tails.push((log.clone(), *lane, tag.seq));
                }
            }
        }
        Ok(tails)
    }
}

/// The first log that is not applied up to these tails. One that does not come here any more brings
/// nothing.
fn first_behind<'t>(tails: &'t [Tail], stands: &[Tail]) -> Option<&'t Log> {
    let is_behind = |tail: &&Tail| {
        stands.iter().any(|(log, lane, seq)| (log, lane) == (&tail.0, &tail.1) && *seq < tail.2)
    };
    tails.iter().find(is_behind).map(|(log, ..)| log)
}

/// Whether a change did not fit the row that it found.
pub(crate) fn is_misfit(fault: &Fault) -> bool {
    fault.code == Code::Conflict && fault.kind == Kind::Fatal
}

/// A change that may fit yet, once more of another log is here.
pub(crate) fn not_yet(fault: &Fault, log: &Log) -> Fault {
    let what = format!(
        "{}; it may have been made behind a change of {log}, of which not all is applied here yet",
        fault.what
    );
    Fault::retry(Code::Timeout, what)
}

/// A change of a transaction that has to begin anew to be tried again, now that all is here: if the same
/// does not fit then, it never will.
pub(crate) fn once_more(fault: Fault) -> Fault {
    Fault { kind: Kind::Retry, ..fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_waited_for_up_to_its_tails() {
        let tail = |name: &str, lane, seq| (Log::parse(name).unwrap(), lane, Seq(seq));
        let tails = [tail("b.shop", 0, 5), tail("b.shop", 1, 7), tail("c.shop", 0, 9)];
        let stands = |b1, c0| [tail("b.shop", 0, 6), tail("b.shop", 1, b1), tail("c.shop", 0, c0)];
        let behind = |b1, c0| first_behind(&tails, &stands(b1, c0)).map(ToString::to_string);
        assert_eq!(behind(6, 9), Some("b.shop".into()));
        assert_eq!(behind(7, 8), Some("c.shop".into()));
        assert_eq!(behind(7, 9), None);
        assert_eq!(first_behind(&tails, &[]), None);
    }
}
