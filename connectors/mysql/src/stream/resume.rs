//! Going on from a position: what a server must still have, and what it must still keep.

use tracing::warn;
use unitflow_change::fault::{Code, Fault};
use unitflow_change::gtid::{Gtid, GtidSet};
use unitflow_change::position::{Captured, Digest, Open, Position};

use super::Stream;
use super::source::{Found, Source};
use crate::connect::{self, Flavor, Server, Store};

/// Where a search for a transaction ended.
enum Sought {
    /// At the row, or at the end, that was looked for.
    There,
    /// At the end of an XA transaction whose rows stand elsewhere.
    Elsewhere(Found),
    /// Nowhere.
    Missing,
}

impl Stream {
    /// Reads up to the end of the last captured transaction, and compares.
    pub(super) async fn compare_last(
        &mut self,
        last: &Captured,
        server: &Server,
    ) -> Result<(), Fault> {
        let mut passed = GtidSet::mysql();
        match self.seek(&last.gtid, u64::MAX, &server.executed, &mut passed).await {
            Ok(Sought::There | Sought::Elsewhere(_)) => {}
            Ok(Sought::Missing) => {
                return Err(lost_tail(
                    &[last.gtid.to_string()],
                    "the source's log does not hold it any more",
                ));
            }
            // MariaDB alone does not say beforehand what it has purged.
            Err(fault)
                if fault.code == Code::PositionPurged && server.flavor == Flavor::Mariadb =>
            {
                warn_uncompared(&self.store, Some(last));
                return self.ask_again().await;
            }
            Err(fault) => return Err(fault),
        }
        let decoder = &mut self.source.decoder;
        let same = (decoder.count(), decoder.digest()) == (last.rows, last.digest);
        decoder.ended();
        if !same {
            return Err(lost_tail(
                &[last.gtid.to_string()],
                "the source has another transaction under this name than the one that was captured",
            ));
        }
        // A replica that commits in another order: what came first is still to be captured.
        if passed.is_empty() { Ok(()) } else { self.ask_again().await }
    }

    /// Reads the rows again that were captured of a transaction, and compares.
    pub(super) async fn go_on_with(&mut self, open: &Open, server: &Server) -> Result<(), Fault> {
        let mut passed = GtidSet::mysql();
        let read = match self.seek(&open.gtid, open.rows, &server.executed, &mut passed).await? {
            Sought::There => {
                let decoder = &self.source.decoder;
                Some((decoder.count(), decoder.digest()))
            }
            Sought::Elsewhere(found) => self.replay_again(found, open.rows).await?,
            Sought::Missing => None,
        };
        if read != Some((open.rows, open.digest)) {
            return Err(lost_tail(
                &[open.gtid.to_string()],
                "the source does not have the same rows that were captured of it before its end",
            ));
        }
        self.passed_over = !passed.is_empty();
        Ok(())
    }

    /// Reads the rows of an XA transaction again that were captured as those of its commit: how
    /// many there were, and the digest over them.
    async fn replay_again(
        &mut self,
        found: Found,
        rows: u64,
    ) -> Result<Option<(u64, Digest)>, Fault> {
        let Some(mut replay) = self.replay_of(found)? else { return Ok(None) };
        for _ in 0..rows {
            if !replay.next().await? {
                return Ok(None);
            }
        }
        let read = replay.read();
        self.replay = Some(replay);
        Ok(read)
    }

    /// Passes over transactions until `rows` of the wanted one were read, or its end. Nowhere, if
    /// its end came first, or the end of what the server had when it was asked.
    async fn seek(
        &mut self,
        wanted: &Gtid,
        rows: u64,
        executed: &GtidSet,
        passed: &mut GtidSet,
    ) -> Result<Sought, Fault> {
        let mut beat = None;
        for ends in 1_u64.. {
            let found = self.source.advance().await?;
            let decoder = &self.source.decoder;
            let is_wanted = decoder.transaction().gtid == *wanted;
            match found {
                Found::Row | Found::Ddl if is_wanted && !decoder.is_xa() => {
                    if decoder.count() == rows {
                        return Ok(Sought::There);
                    }
                }
                Found::Row | Found::Ddl => {}
                Found::End if is_wanted && rows < u64::MAX => return Ok(Sought::Missing),
                Found::End if is_wanted => return Ok(Sought::There),
                Found::Prepared | Found::OnePhase | Found::Completed(_) if is_wanted => {
                    return Ok(Sought::Elsewhere(found));
                }
                Found::End | Found::Prepared | Found::OnePhase | Found::Completed(_) => {
                    passed.insert(&self.source.decoder.transaction().gtid);
                    self.source.decoder.ended();
                    let seen = || self.position.done.union(passed);
                    if ends.is_multiple_of(256)
                        && seen().is_some_and(|seen| executed.is_subset(&seen))
                    {
                        return Ok(Sought::Missing);
                    }
                }
                // A server that passes over what it was told to leave out also sends
                // heartbeats; one that stands at the end of its log repeats them.
                Found::Heartbeat if beat == Some(decoder.beat()) => return Ok(Sought::Missing),
                Found::Heartbeat => beat = Some(decoder.beat()),
            }
        }
        Ok(Sought::Missing)
    }

    /// Connects again and asks for what comes after `done`.
    pub(super) async fn ask_again(&mut self) -> Result<(), Fault> {
        let mut conn = connect::connect(&self.store).await?;
        let server = Server::read(&mut conn).await?;
        check(&server, &self.position)?;
        self.source =
            Source::start(&self.store, conn, &server, &self.position.done, &self.options).await?;
        self.behind = false;
        Ok(())
    }
}

/// Whether the server has all that was captured and keeps all that was not.
pub(super) fn check(server: &Server, position: &Position) -> Result<(), Fault> {
    let seen = position.seen();
    match (&seen, server.flavor) {
        (GtidSet::Mysql(_), Flavor::Mysql) | (GtidSet::Mariadb(_), Flavor::Mariadb) => {}
        (empty, _) if empty.is_empty() => {}
        _ => return Err(other_kind().at(format_args!("the server is a {}", server.flavor))),
    }
    let missing = match (&seen, server.flavor) {
        (GtidSet::Mariadb(seen), Flavor::Mariadb) => missing_mariadb(seen, &server.state),
        _ => seen.missing(&server.executed),
    };
    if !missing.is_empty() {
        let all = server.executed.is_empty();
        let why = if all {
            "its log is empty: it was reset, or is another server"
        } else {
            "it was restored, failed over to a replica that lagged, or lost its log's end in a crash"
        };
        return Err(lost_tail(&missing, why));
    }
    if server.flavor == Flavor::Mysql && !server.purged.is_subset(&position.done) {
        let gone = server.purged.missing(&position.done).join(", ");
        return Err(purged(&format!("never captured and purged: {gone}")));
    }
    Ok(())
}

/// What MariaDB lacks: a domain's state names, for each server that wrote into it, the last
/// sequence of that server.
pub(super) fn missing_mariadb(
    seen: &std::collections::BTreeMap<u32, (u32, u64)>,
    state: &[(u32, u32, u64)],
) -> Vec<String> {
    seen.iter()
        .filter(|&(&domain, &(server, sequence))| {
            sequence > 0
                && !state.iter().any(|&(d, s, last)| d == domain && s == server && last >= sequence)
        })
        .map(|(domain, (server, sequence))| {
            let last = state
                .iter()
                .filter(|(d, s, _)| (d, s) == (domain, server))
                .map(|&(_, _, last)| last)
                .max()
                .unwrap_or(0);
            match last {
                0 => format!("{domain}-{server}-{sequence}"),
                last if last + 1 == *sequence => format!("{domain}-{server}-{sequence}"),
                last => format!("{domain}-{server}-{} to {sequence}", last + 1),
            }
        })
        .collect()
}

pub(super) fn lost_tail(missing: &[String], why: &str) -> Fault {
    const SHOWN_MAX: usize = 20;
    let mut list = missing.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
    if missing.len() > SHOWN_MAX {
        list.push_str(&format!(" and {} more", missing.len() - SHOWN_MAX));
    }
    Fault::fatal(Code::SourceLostTail, format!("the source lost what was captured from it: {list}; {why}")).hint(
        "if another server of this store still has these, fail over to it; else put them back from the other units, \
         see the runbook",
    )
}

pub(super) fn purged(what: &str) -> Fault {
    Fault::fatal(
        Code::PositionPurged,
        format!("the source no longer keeps what is to be captured next: {what}"),
    )
    .hint("restore the log files or resync, see the runbook; raise binlog_expire_logs_seconds")
}

pub(super) fn other_kind() -> Fault {
    Fault::fatal(Code::PositionUnreadable, "the stored position is of another kind of server")
        .hint("point the store at the server it was captured from, or resynchronise it")
}

/// The source had the transaction that was captured last, and no longer keeps it.
pub(super) fn warn_uncompared(store: &Store, last: Option<&Captured>) {
    let gtid = last.map(|last| last.gtid.to_string()).unwrap_or_default();
    warn!(
        store = store.name,
        gtid, "the source purged the last captured transaction: it can't be compared"
    );
}

/// What to ask for so that `last` is sent again.
pub(super) fn without(done: &GtidSet, last: &Captured) -> GtidSet {
    match (done, &last.gtid) {
        (GtidSet::Mysql(_), gtid) => {
            let mut one = GtidSet::mysql();
            one.insert(gtid);
            done.subtract(&one)
        }
        (GtidSet::Mariadb(reached), Gtid::Mariadb { domain, .. }) => {
            let mut reached = reached.clone();
            reached.remove(domain);
            if let Some(Gtid::Mariadb { server, sequence, .. }) = last.before {
                reached.insert(*domain, (server, sequence));
            }
            GtidSet::Mariadb(reached)
        }
        (done, _) => done.clone(),
    }
}

/// What a MariaDB domain had reached before this transaction.
pub(super) fn before(done: &GtidSet, gtid: &Gtid) -> Option<Gtid> {
    match (done, gtid) {
        (GtidSet::Mariadb(reached), &Gtid::Mariadb { domain, .. }) => reached
            .get(&domain)
            .map(|&(server, sequence)| Gtid::Mariadb { domain, server, sequence }),
        _ => None,
    }
}
