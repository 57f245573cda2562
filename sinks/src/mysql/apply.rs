//! One lane's connection to the target, and the transaction on it.
//!
//! A batch costs two round trips: everything up to its last statement in one call (more where it
//! is large), then COMMIT. COMMIT is sent only after the ledger's row was seen to move and every
//! statement to find the rows it names.

use std::future::Future;
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, Params};
use tokio::time::timeout;
use unitflow_change::ddl::TableName;
use unitflow_change::envelope::Op;
use unitflow_change::fault::Kind;
use unitflow_change::name::Log;
use unitflow_change::rename::Rename;
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault, inject};
use unitflow_mysql::connect::{Flavor, Server, Store, connect_to_write, fault as judge, is_lost};

use super::statements::{Call, Expected, Statements};
use super::tables::Tables;
use crate::batch::{Batch, Slot};
use crate::ledger::{self, Entry, Move};

/// Session settings on top of those of every connection: statements fail rather than bend a
/// value, zero dates and keys pass as they are, rows of other lanes are not locked by gaps, and
/// parents may arrive after their children (the source has checked them).
///
/// A worker that vanishes without a word leaves its transaction, and so its lane's ledger row,
/// locked for as long as the server waits for it: not long.
const SESSION: [&str; 2] = [
    "SET SESSION sql_mode='STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES', \
     SESSION foreign_key_checks=0, SESSION innodb_lock_wait_timeout=10, SESSION wait_timeout=60",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
];

/// How long one call may take at the target, and a second more for each MiB. Longer than a lock
/// wait, shorter than TCP's patience with a peer that is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// The part of a source transaction that a batch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All that has to be committed together.
    Whole,
    /// The first part: begin, mark and go on.
    First,
    /// One in the middle.
    Middle,
    /// The last part: move the ledger and commit.
    Last,
}

/// Where the lane stands once a commit is through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The last record applied.
    pub seq: Seq,
    /// The offset to read next.
    pub offset: i64,
    /// When the source committed that record, in µs since 1970; 0 if unknown.
    pub commit_us: u64,
}

/// Decides on a change that does not fit the row it finds: the statement that stands in for it, or
/// none where it is a conflict. Given the change's slot and key.
pub type Passes<'p> = dyn FnMut(&Slot, &[u8]) -> Result<Option<Vec<u8>>, Fault> + Send + 'p;

/// See the [module](self).
#[derive(Debug)]
pub struct Applier {
    pub(super) conn: Conn,
    flavor: Flavor,
    /// The largest call that the server takes.
    pub(super) packet_bytes_max: usize,
    log: Log,
    lane: i32,
    rename: Rename,
    pub(super) tables: Tables,
    statements: Statements,
}

impl Applier {
    /// Connects to the target, which has these names for the mesh's tables.
    pub async fn open(store: &Store, rename: Rename, log: Log, lane: i32) -> Result<Self, Fault> {
        let mut conn = connect_to_write(store).await?;
        for statement in SESSION {
            conn.query_drop(statement).await.map_err(|error| judge(&error))?;
        }
        let flavor = Server::read(&mut conn).await?.flavor;
        let packet: Option<u64> = conn
            .query_first("SELECT @@session.max_allowed_packet")
            .await
            .map_err(|error| judge(&error))?;
        Ok(Self {
            conn,
            flavor,
            packet_bytes_max: packet.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0),
            log,
            lane,
            rename,
            tables: Tables::default(),
            statements: Statements::default(),
        })
    }

    /// The lane's ledger row.
    pub async fn entry(&mut self) -> Result<Entry, Fault> {
        ledger::read(&mut self.conn, &self.log, self.lane).await
    }

    /// Another lane's position, read outside a transaction.
    pub async fn seq_of(&mut self, lane: i32) -> Result<Seq, Fault> {
        Ok(ledger::read(&mut self.conn, &self.log, lane).await?.seq)
    }

    /// Applies a batch of a lane that stands at `from`, and if the part is the last one commits it
    /// with the ledger at `to`. After a fault nothing of the transaction is
    /// left, unless the fault is ambiguous: then only the ledger knows.
    pub async fn apply(
        &mut self,
        batch: &Batch,
        part: Part,
        from: End,
        to: End,
    ) -> Result<(), Fault> {
        self.apply_with(batch, part, (from, to), &[]).await
    }

    /// The same, with statements of ours in the same transaction, which follow the changes.
    pub async fn apply_with(
        &mut self,
        batch: &Batch,
        part: Part,
        (from, to): (End, End),
        also: &[Vec<u8>],
    ) -> Result<(), Fault> {
        let result = self.attempt(batch, part, (from, to), false, also).await;
        let Err(fault) = result else { return Ok(()) };
        if fault.kind == Kind::Ambiguous {
            return Err(fault);
        }
        self.roll_back().await?;
        let by_a_change =
            matches!(fault.code, Code::Conflict | Code::Apply | Code::Table | Code::TooLarge);
        if fault.kind == Kind::Retry || !by_a_change || matches!(part, Part::Middle | Part::Last) {
            return Err(fault);
        }
        // Change by change, in the source's order: it names the change that does not fit, and if
        // none is found the conflict was gone, or they were too large together.
        let again = self.attempt(batch, part, (from, to), true, also).await;
        if again.as_ref().is_err_and(|fault| fault.kind != Kind::Ambiguous) {
            self.roll_back().await?;
        }
        again
    }

    /// The same, but a change that does not fit the row it finds is passed over where `passes` takes
    /// it; in return that says what is written in its place. Slow: a call for each change.
    pub async fn apply_softly(
        &mut self,
        batch: &Batch,
        part: Part,
        (from, to): (End, End),
        passes: &mut Passes<'_>,
    ) -> Result<(), Fault> {
        let outcome = self.attempt_softly(batch, part, (from, to), passes).await;
        if outcome.as_ref().is_err_and(|fault| fault.kind != Kind::Ambiguous) {
            self.roll_back().await?;
        }
        outcome
    }

    async fn attempt_softly(
        &mut self,
        batch: &Batch,
        part: Part,
        (from, to): (End, End),
        passes: &mut Passes<'_>,
    ) -> Result<(), Fault> {
        self.load_tables(batch).await?;
        if matches!(part, Part::Whole | Part::First) {
            self.begin(from, if part == Part::Whole { to } else { from }).await?;
        }
        let mut calls = Vec::new();
        self.statements.build(batch, &mut self.tables, true, &mut calls)?;
        let mut passed = None;
        for call in calls.iter().flat_map(Call::singly) {
            let slot = call.expected[0].slot;
            if passed == Some(slot) {
                continue;
            }
            match self.send(batch, &call, from.seq).await {
                Err(fault) if fault.code == Code::Conflict => {
                    let slot = &batch.slots()[slot];
                    let Some(note) = passes(slot, batch.key(slot))? else { return Err(fault) };
                    self.own(&note).await?;
                    passed = Some(call.expected[0].slot);
                }
                sent => sent?,
            }
        }
        if part == Part::Last {
            let mut call = Call::default();
            let step = self.step(from, to);
            call.add(bookkeeping(1), |sql| step.write(sql));
            self.send(batch, &call, from.seq).await?;
        }
        match part {
            Part::Whole | Part::Last => self.commit(batch, from, to, false).await,
            Part::First | Part::Middle => Ok(()),
        }
    }

    /// Begins a transaction that writes copied rows, with the ledger's move as its mark.
    pub async fn begin_copies(&mut self, batch: &Batch, from: End, to: End) -> Result<(), Fault> {
        self.load_tables(batch).await?;
        self.begin(from, to).await
    }

    /// Commits them together with statements of ours.
    pub async fn commit_copies(
        &mut self,
        (from, to): (End, End),
        also: &[Vec<u8>],
    ) -> Result<(), Fault> {
        for statement in also {
            self.own(statement).await?;
        }
        self.commit(&Batch::default(), from, to, false).await
    }

    async fn begin(&mut self, from: End, to: End) -> Result<(), Fault> {
        let mut call = Call::default();
        call.add(bookkeeping(0), |sql| sql.extend_from_slice(b"BEGIN"));
        let step = self.step(from, to);
        call.add(bookkeeping(1), |sql| step.write(sql));
        self.send(&Batch::default(), &call, from.seq).await
    }

    /// A statement of ours inside the open transaction.
    async fn own(&mut self, statement: &[u8]) -> Result<(), Fault> {
        within(self.conn.query_drop(statement)).await
    }

    /// The same, of a fixed text.
    pub(super) async fn plain(&mut self, statement: &'static str) -> Result<(), Fault> {
        within(self.conn.query_drop(statement)).await
    }

    /// Sends one call and tells how many rows each statement that it counts found.
    pub(super) async fn counts(&mut self, call: &Call) -> Result<Vec<u64>, Fault> {
        let answer = async {
            let mut result = self.conn.query_iter(call.sql.as_slice()).await?;
            let mut counts = Vec::with_capacity(call.expected.len());
            for _ in &call.expected {
                counts.push(result.affected_rows());
                result.next().await?;
            }
            result.drop_result().await?;
            Ok::<_, mysql_async::Error>(counts)
        };
        within(answer).await
    }

    /// Sends one call of SELECTs and tells what the one row of each that finds one says.
    pub(super) async fn found(&mut self, call: &Call) -> Result<Vec<Option<bool>>, Fault> {
        let answer = async {
            let mut result = self.conn.query_iter(call.sql.as_slice()).await?;
            let mut found = Vec::with_capacity(call.expected.len());
            for _ in &call.expected {
                let rows: Vec<Option<bool>> = result.collect().await?;
                found.push(rows.first().map(|says| *says == Some(true)));
            }
            result.drop_result().await?;
            Ok::<_, mysql_async::Error>(found)
        };
        within(answer).await
    }

    /// As [`counts`](Self::counts); `None` if a row's key, or a unique value of it, is taken.
    pub(super) async fn counts_unless_taken(
        &mut self,
        batch: &Batch,
        place: usize,
        call: &Call,
    ) -> Result<Option<Vec<u64>>, Fault> {
        self.ensure_fits(batch, call)?;
        match self.counts(call).await {
            Ok(counts) => Ok(Some(counts)),
            Err(fault) if fault.code == Code::Conflict => Ok(None),
            Err(fault) => {
                self.tables.blame(batch.key(&batch.slots()[place]), Some(place));
                Err(fault)
            }
        }
    }

    /// Moves the ledger from `from` to `to`, which may be the same place, in a transaction of its
    /// own together with statements that change rows of ours, at least one each. `barrier`: `to` is
    /// where all lanes have to meet.
    pub async fn step_with(
        &mut self,
        from: End,
        to: End,
        barrier: bool,
        also: &[Vec<u8>],
    ) -> Result<(), Fault> {
        let mut call = Call::default();
        call.add(bookkeeping(0), |sql| sql.extend_from_slice(b"BEGIN"));
        let step = Move { barrier, ..self.step(from, to) };
        call.add(bookkeeping(1), |sql| step.write(sql));
        for statement in also {
            call.add(bookkeeping(0), |sql| sql.extend_from_slice(statement));
        }
        let batch = Batch::default();
        let sent = self.send(&batch, &call, from.seq).await;
        if let Err(fault) = sent {
            self.roll_back().await?;
            return Err(fault);
        }
        self.commit(&batch, from, to, false).await
    }

    /// The lowest place at which a lane of the log stands, this one aside if `others`.
    pub async fn lowest(&mut self, others: bool) -> Result<Seq, Fault> {
        let entries = ledger::read_all(&mut self.conn, &self.log).await?;
        let lanes = entries.iter().filter(|entry| !others || entry.lane != self.lane);
        Ok(lanes.map(|entry| entry.seq).min().unwrap_or(Seq(u64::MAX)))
    }

    /// The first row of a query's answer, outside a transaction.
    pub async fn ask<T: FromRow + Send + 'static>(
        &mut self,
        query: &str,
        parameters: impl Into<Params> + Send,
    ) -> Result<Option<T>, Fault> {
        within(self.conn.exec_first(query, parameters)).await
    }

    /// The connection, outside a transaction.
    pub fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// What kind of server the target is.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Where the last attempt failed, if it was at a table: the batch's record too where it is known
    /// to be that one.
    pub fn take_blamed(&mut self) -> Option<(TableName, Option<usize>)> {
        self.tables.take_blamed()
    }

    /// Reads the target's tables again before the next change: their schema may have changed.
    pub fn forget_tables(&mut self) {
        self.tables.clear();
    }

    /// Keeps an idle connection alive; a worker that vanished does not, and the server ends its
    /// transaction.
    pub async fn ping(&mut self) -> Result<(), Fault> {
        within(self.conn.ping()).await
    }

    /// Ends the open transaction as if it had not been.
    pub async fn roll_back(&mut self) -> Result<(), Fault> {
        within(self.conn.query_drop("ROLLBACK")).await
    }

    async fn attempt(
        &mut self,
        batch: &Batch,
        part: Part,
        (from, to): (End, End),
        singly: bool,
        also: &[Vec<u8>],
    ) -> Result<(), Fault> {
        self.load_tables(batch).await?;
        let apart = inject::on("ledger_apart");
        let mut calls = vec![Call::default()];
        if matches!(part, Part::Whole | Part::First) {
            calls[0].add(bookkeeping(0), |sql| sql.extend_from_slice(b"BEGIN"));
            if !apart {
                let step = self.step(from, if part == Part::Whole { to } else { from });
                calls[0].add(bookkeeping(1), |sql| step.write(sql));
            }
        }
        self.statements.build(batch, &mut self.tables, singly, &mut calls)?;
        for statement in also {
            if let Some(call) = calls.last_mut() {
                call.add(bookkeeping(0), |sql| sql.extend_from_slice(statement));
            }
        }
        if part == Part::Last && !apart {
            let step = self.step(from, to);
            if let Some(call) = calls.last_mut() {
                call.add(bookkeeping(1), |sql| step.write(sql));
            }
        }
        for call in calls.iter().filter(|call| !call.expected.is_empty()) {
            self.send(batch, call, from.seq).await?;
        }
        inject::die_at("die_after_begin");
        match part {
            Part::Whole | Part::Last => self.commit(batch, from, to, apart).await,
            Part::First | Part::Middle => Ok(()),
        }
    }

    async fn load_tables(&mut self, batch: &Batch) -> Result<(), Fault> {
        let keys = batch.slots().iter().map(|slot| batch.key(slot));
        let keys = keys.filter(|key| !key.is_empty());
        self.tables.load(&mut self.conn, self.flavor, &self.rename, keys).await
    }

    /// The ledger's move; from a place to itself it is the mark that opens a long transaction.
    fn step(&self, from: End, to: End) -> Move<'_> {
        Move {
            log: &self.log,
            lane: self.lane,
            from: from.seq,
            to: to.seq,
            topic_offset: to.offset,
            commit_us: to.commit_us,
            barrier: false,
        }
    }

    async fn commit(
        &mut self,
        batch: &Batch,
        from: End,
        to: End,
        apart: bool,
    ) -> Result<(), Fault> {
        if inject::on("die_after_commit_sent") {
            // The answer is never read: the process ends while the server commits.
            let _ = timeout(Duration::from_millis(1), self.conn.query_drop("COMMIT")).await;
            inject::die_at("die_after_commit_sent");
        }
        match timeout(ANSWER_WITHIN, self.conn.query_drop("COMMIT")).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let fault = judge(&error);
                let kind = if is_lost(&error) { Kind::Ambiguous } else { fault.kind };
                return Err(Fault { kind, ..fault });
            }
            Err(_) => return Err(Fault { kind: Kind::Ambiguous, ..no_answer() }),
        }
        if apart {
            let mut call = Call::default();
            let step = self.step(from, to);
            call.add(bookkeeping(1), |sql| step.write(sql));
            self.send(batch, &call, from.seq).await?;
        }
        Ok(())
    }

    /// Sends one call and compares what each statement found with what it must find.
    async fn send(&mut self, batch: &Batch, call: &Call, from: Seq) -> Result<(), Fault> {
        self.ensure_fits(batch, call)?;
        let mut wrong = None;
        let mut statement = 0;
        let mib = u64::try_from(call.sql.len() >> 20).unwrap_or(u64::MAX);
        let patience = ANSWER_WITHIN + Duration::from_secs(mib);
        let outcome = timeout(patience, async {
            let mut result = self.conn.query_iter(call.sql.as_slice()).await?;
            for (number, expected) in call.expected.iter().enumerate() {
                statement = number;
                let found = result.affected_rows();
                // A statement's own error comes only with the step to the next one.
                result.next().await?;
                if found != expected.rows && expected.rows > 0 && wrong.is_none() {
                    wrong = Some(number);
                }
            }
            result.drop_result().await
        });
        let Ok(outcome) = outcome.await else { return Err(no_answer()) };
        let failed =
            call.expected.get(wrong.unwrap_or(statement)).copied().unwrap_or(bookkeeping(0));
        if (wrong.is_some() || outcome.is_err()) && failed.table.is_some() {
            let known = (failed.rows == 1).then_some(failed.slot);
            self.tables.blame(batch.key(&batch.slots()[failed.slot]), known);
        }
        match (outcome, wrong) {
            (Ok(()), None) => Ok(()),
            (_, Some(_)) if failed.table.is_none() => {
                self.roll_back().await?;
                Err(ledger::explain(&mut self.conn, &self.log, self.lane, from).await)
            }
            (_, Some(_)) => {
                Err(self.conflict(batch, failed, "did not find the row as the source had it"))
            }
            (Err(error), None) if is_duplicate(&error) => {
                Err(self.conflict(batch, failed, "found a row with this key"))
            }
            (Err(error), None) => {
                let fault = judge(&error);
                let fault = match fault.code {
                    Code::Table => fault.hint(
                        "bring the table to the source's schema, or mend the value at the source",
                    ),
                    _ => fault,
                };
                Err(match failed.table {
                    Some(table) if failed.rows == 1 => {
                        let place = self.place(batch, failed);
                        let fault = fault.at(&self.tables.target(table).name);
                        Fault { what: format!("{} {place}", fault.what), ..fault }
                    }
                    Some(table) => fault.at(&self.tables.target(table).name),
                    None => fault,
                })
            }
        }
    }

    /// A server that is sent more than it takes closes the connection, and says why too late.
    fn ensure_fits(&mut self, batch: &Batch, call: &Call) -> Result<(), Fault> {
        if call.sql.len() < self.packet_bytes_max {
            return Ok(());
        }
        // What is that large is a single row, or one with its neighbours in its statement.
        let size = |expected: &&Expected| batch.value(&batch.slots()[expected.slot]).len();
        let changes = call.expected.iter().filter(|expected| expected.table.is_some());
        let Some(largest) = changes.max_by_key(size).copied() else {
            return Err(Fault::fatal(
                Code::Setting,
                "the target's max_allowed_packet is too small",
            ));
        };
        let known = (largest.rows == 1).then_some(largest.slot);
        self.tables.blame(batch.key(&batch.slots()[largest.slot]), known);
        let table = largest.table.map_or("?", |table| self.tables.target(table).name.as_str());
        Err(Fault::poison(
            Code::TooLarge,
            format!(
                "{table}: a change takes a statement of {} bytes, and the target's max_allowed_packet is {} {}",
                call.sql.len(), self.packet_bytes_max, self.place(batch, largest)
            ),
        )
        .hint("SET GLOBAL max_allowed_packet=1073741824 at the target, and in its configuration; then unitflow retry"))
    }

    /// Where a statement's first change comes from.
    fn place(&self, batch: &Batch, of: Expected) -> String {
        let slot = &batch.slots()[of.slot];
        let (log, lane) = (&self.log, self.lane);
        format!("(log {log}, lane {lane}, record {}, offset {})", slot.seq, slot.offset)
    }

    fn conflict(&self, batch: &Batch, failed: Expected, found: &str) -> Fault {
        let table = failed.table.map_or("?", |table| self.tables.target(table).name.as_str());
        let op = match failed.op {
            Op::Insert | Op::Read => "INSERT",
            Op::Update => "UPDATE",
            Op::Delete => "DELETE",
        };
        Fault::fatal(
            Code::Conflict,
            format!("{table}: {op} {found} {}", self.place(batch, failed)),
        )
        .hint("compare the row in both units, make this unit's row as it was before that change, and restart the sink; nothing was overwritten")
    }
}

/// Waits for the server, but not for ever.
async fn within<T>(
    answer: impl Future<Output = Result<T, mysql_async::Error>>,
) -> Result<T, Fault> {
    match timeout(ANSWER_WITHIN, answer).await {
        Ok(answer) => answer.map_err(|error| judge(&error)),
        Err(_) => Err(no_answer()),
    }
}

fn no_answer() -> Fault {
    let seconds = ANSWER_WITHIN.as_secs();
    Fault::retry(Code::Unreachable, format!("the target gave no answer within {seconds} s"))
}

/// A statement of our own: `rows` is 1 for the ledger, 0 where no row is meant.
pub(super) fn bookkeeping(rows: u64) -> Expected {
    Expected { rows, table: None, op: Op::Update, slot: 0 }
}

/// Whether the server refused a row because its key, or a unique value of it, exists.
fn is_duplicate(error: &mysql_async::Error) -> bool {
    matches!(error, mysql_async::Error::Server(server) if server.code == 1062)
}
