//! Records that all lanes pass together: schema changes, and the start of a generation.
//!
//! Such a record stands in every partition with the same number. A lane that meets it commits what
//! precedes and moves its ledger row onto it; it goes on only when every lane's row stands there or
//! beyond. The first lane is the last to move: it waits for the others and then does what is to be
//! done, once, with nothing else of the log under way. A lane that begins anew between the two
//! finds the number in its ledger row and waits again.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use unitflow_change::ddl::{Applied, Class, Statement, Stored, TableName, Verb, quote};
use unitflow_change::intent::Intent;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_change::tag::{Kind, Tag};
use unitflow_change::{Code, Fault, inject};
use unitflow_mysql::schema;

use crate::lane::{LONG_WAIT, Lane, OnDdl};
use crate::ledger;
use crate::mysql::apply::End;
use crate::mysql::ddl::{announced, done, run_once};
use crate::park::{Parked, Reason, parked_at, read_all};

/// How often the ledger is looked at while a lane waits for others.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Why a statement stops that nothing is recognised in.
const NOT_KNOWN: &str = "it is not known what it does";
/// The lane that acts for all.
const FIRST: i32 = 0;

/// Where a lane waits for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// Before a record that it has to act for; its own place does not count.
    Before,
    /// On it.
    Behind,
}

/// What a statement asks of a sink.
#[derive(Debug, PartialEq, Eq)]
enum Act {
    /// Nothing: what follows fits the target as it is, or parks its table.
    Nothing,
    /// Run it.
    Run,
    /// Park these tables: what follows, or the statement itself, does not fit.
    Park(Vec<TableName>),
    /// Stop, for this reason: it can't be followed, and nothing that follows it can be parked.
    Stop(&'static str),
}

impl Lane<'_> {
    /// Passes a record that all lanes pass together.
    pub(crate) async fn pass(
        &mut self,
        tag: &Tag<'_>,
        (offset, next_offset): (i64, i64),
        value: &[u8],
    ) -> Result<(), Fault> {
        let to = End { seq: tag.seq, offset: next_offset, commit_us: tag.commit_us };
        let mut also = Vec::new();
        if tag.kind == Kind::Ddl {
            let statement = Statement::parse(value)?;
            if let Some(applied) = &statement.applied {
                self.wait_for_schema(applied).await?;
            } else if self.orders.skips(self.lane, tag.seq) {
                self.skip(End { offset, ..to }, "").await?;
            } else if self.lane == FIRST {
                also = self.act(statement, tag.seq).await?;
            }
        }
        self.applier.step_with(self.at, to, true, &also).await?;
        self.stands_at(to);
        self.release_what_is_passed().await?;
        self.meet(tag.seq).await
    }

    /// Waits until all lanes stand at the record or beyond; what they then find may be new.
    pub(crate) async fn meet(&mut self, seq: Seq) -> Result<(), Fault> {
        self.wait_until_lowest_is(seq, Waits::Behind).await?;
        self.applier.forget_tables();
        self.parked = Parked::load(self.applier.conn(), &self.way.road.log, self.lane).await?;
        self.metrics.parked(self.parked.count());
        Ok(())
    }

    async fn wait_until_lowest_is(&mut self, seq: Seq, waits: Waits) -> Result<(), Fault> {
        let begun = Instant::now();
        let mut told = false;
        while self.applier.lowest(waits == Waits::Before).await? < seq {
            if begun.elapsed() > LONG_WAIT && !told {
                told = true;
                warn!(lane = self.lane, seq = seq.0, "waiting for the other lanes at a barrier");
                if waits == Waits::Before {
                    self.note_barrier(seq).await?;
                }
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Notes in the ledger that this lane has come to a barrier which it can't stand on yet, so
    /// that it shows for whom all wait.
    async fn note_barrier(&mut self, seq: Seq) -> Result<(), Fault> {
        let noted = format!(
            "UPDATE unitflow.ledger SET barrier={seq} WHERE log='{}' AND lane={}",
            self.way.road.log, self.lane
        );
        self.applier.step_with(self.at, self.at, false, &[noted.into_bytes()]).await
    }

    /// Another unit has run a statement of a third: what it sends from here on expects the schema
    /// that the statement made, so this unit has to have it too.
    async fn wait_for_schema(&mut self, applied: &Applied) -> Result<(), Fault> {
        let Some(log) = Log::parse(&applied.log).filter(|log| log.unit != self.way.road.to) else {
            return Ok(());
        };
        let begun = Instant::now();
        let mut told = false;
        loop {
            let entries = ledger::read_all(self.applier.conn(), &log).await?;
            // A log that does not come here has no rows here.
            if entries.iter().all(|entry| entry.seq >= applied.seq) {
                return Ok(());
            }
            if begun.elapsed() > LONG_WAIT && !told {
                told = true;
                warn!(lane = self.lane, %log, seq = applied.seq.0, "waiting for a schema change");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Does what a statement asks for, once all other lanes stand at it. Gives what has to be
    /// written together with the ledger's move.
    async fn act(&mut self, statement: Statement, seq: Seq) -> Result<Vec<Vec<u8>>, Fault> {
        self.wait_until_lowest_is(seq, Waits::Before).await?;
        let shown = statement.ddl.clone();
        // What this unit writes until it has heard of it would be in the one table here, and in the
        // other there.
        let unseen = statement.unseen || self.way.own_log.is_some() && statement.swaps_names();
        let statement = Statement { unseen, ..statement };
        match self.decide(&statement, seq).await? {
            Act::Nothing => {
                info!(seq = seq.0, ddl = shown, "a schema change is passed over");
                Ok(Vec::new())
            }
            Act::Park(_) if self.way.whole => {
                Err(self.stopped_by("transactions stay whole, so no table can wait", &shown, seq))
            }
            Act::Park(tables) => {
                let fault = Fault::fatal(Code::Ddl, format!("a schema change arrived: {shown}"));
                let rows = match statement.unseen {
                    true => format!(
                        ", then unitflow resync full --from {} --table …, for rows came or went \
                         with it that no record tells of",
                        self.way.road.log.unit
                    ),
                    false => String::new(),
                };
                let fault = fault.hint(format!(
                    "bring the table to the same schema in unit {}, then unitflow resume{rows}",
                    self.way.road.to
                ));
                let why = fault.to_string();
                self.park_everywhere(&tables, Reason { code: Code::Ddl, why: &why, ddl: None })
                    .await
            }
            Act::Stop(why) => Err(self.stopped_by(why, &shown, seq)),
            Act::Run => self.run_here(statement, seq).await,
        }
    }

    async fn decide(&mut self, statement: &Statement, seq: Seq) -> Result<Act, Fault> {
        let act = match (self.way.on_ddl, statement.class()) {
            (OnDdl::Pass, _) | (_, Class::Local) => Act::Nothing,
            (_, Class::Unknown) => Act::Stop(NOT_KNOWN),
            (_, Class::Database(Verb::Drop, _)) => Act::Stop("it drops a database"),
            (OnDdl::Apply, Class::Stored(kind, _)) if self.way.stored_code.contains(&kind) => {
                Act::Run
            }
            (_, Class::Stored(..)) => Act::Nothing,
            (OnDdl::Apply, _) => self.may_run(statement, seq).await?,
            (OnDdl::Stop, class) => self.without_running(statement, class).await?,
        };
        Ok(act)
    }

    /// A statement that is to be run, unless it would not do the same here.
    async fn may_run(&mut self, statement: &Statement, seq: Seq) -> Result<Act, Fault> {
        let tables = statement.tables();
        Ok(if self.stays_parked(&tables, seq).await? {
            Act::Stop("a table of it is parked")
        } else if statement.unseen {
            Act::Park(tables)
        } else if statement.makes_up_values() {
            Act::Stop("it makes up values, which would be others here")
        } else if statement.counts_rows() && self.would_count(&tables).await? {
            Act::Stop("it numbers the table's rows, which may be others here")
        } else {
            Act::Run
        })
    }

    /// Whether one of these tables waits for a person in any lane: what waits there precedes the
    /// statement. One that is released is waited for.
    async fn stays_parked(&mut self, tables: &[TableName], seq: Seq) -> Result<bool, Fault> {
        let begun = Instant::now();
        let mut told = false;
        loop {
            let parked = read_all(self.applier.conn(), &self.way.road.log).await?;
            let waiting: Vec<_> =
                parked.into_iter().filter(|(table, _)| tables.contains(table)).collect();
            if waiting.is_empty() {
                return Ok(false);
            }
            if waiting.iter().any(|(table, at)| !at.goes_on(table, &self.orders, seq)) {
                return Ok(true);
            }
            if begun.elapsed() > LONG_WAIT && !told {
                told = true;
                warn!(lane = self.lane, seq = seq.0, "waiting for released tables to catch up");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// What a statement means for a target whose schema is in a person's hands.
    async fn without_running(&mut self, statement: &Statement, class: Class) -> Result<Act, Fault> {
        Ok(match class {
            Class::Tables(Verb::Index, _) if !statement.unseen => Act::Nothing,
            // Rows of before would lack what the source has made up for them.
            Class::Tables(Verb::Extend, _)
                if !statement.unseen
                    && !statement.makes_up_values()
                    && !statement.counts_rows() =>
            {
                Act::Nothing
            }
            Class::Database(..) | Class::Stored(..) | Class::Local => Act::Nothing,
            _ if self.way.renamed => Act::Stop("units have other names for its tables"),
            Class::Tables(Verb::Create, tables)
                if !statement.replaces() && self.has_all(&tables).await? =>
            {
                Act::Nothing
            }
            Class::Tables(Verb::Drop, tables)
                if statement.drops_if_there() && !self.has_any(&tables).await? =>
            {
                Act::Nothing
            }
            Class::Tables(_, tables) => Act::Park(tables),
            Class::Rename(_) => Act::Park(statement.tables()),
            Class::Unknown => Act::Stop(NOT_KNOWN),
        })
    }

    /// Whether a table here has rows and no column yet that counts them.
    async fn would_count(&mut self, tables: &[TableName]) -> Result<bool, Fault> {
        let Some(table) = tables.first() else { return Ok(false) };
        let counting = "SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = ? \
                        AND table_name = ? AND extra LIKE '%auto_increment%'";
        let name = (table.database.as_str(), table.table.as_str());
        let counts: Option<u64> = self.applier.ask(counting, name).await?;
        if counts.is_some_and(|count| count > 0) {
            return Ok(false);
        }
        let any = format!("SELECT 1 FROM {} LIMIT 1", quote(table));
        match self.applier.ask::<u64>(any.as_str(), ()).await {
            Ok(row) => Ok(row.is_some()),
            // The statement itself will say what it lacks.
            Err(fault) if fault.code == Code::Table => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    async fn has_any(&mut self, tables: &[TableName]) -> Result<bool, Fault> {
        for table in tables {
            if self.has_all(std::slice::from_ref(table)).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn has_all(&mut self, tables: &[TableName]) -> Result<bool, Fault> {
        let names: Vec<_> =
            tables.iter().map(|name| (name.database.clone(), name.table.clone())).collect();
        let flavor = self.applier.flavor();
        match schema::load(self.applier.conn(), flavor, &names).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.code == Code::Table => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    async fn run_here(&mut self, statement: Statement, seq: Seq) -> Result<Vec<Vec<u8>>, Fault> {
        inject::die_at("die_before_intent");
        let tables = statement.tables();
        let statement = match statement.class() {
            Class::Stored(Stored::Event, _) => statement.with_event_disabled(),
            _ => statement,
        };
        let intent = Intent { log: self.way.road.log.to_string(), seq, statement };
        match run_once(&mut self.applier, &self.way.store, &intent, self.at).await {
            Ok(()) => Ok(vec![done(&intent.log, seq).into_bytes()]),
            Err(fault) if fault.is_retry() || tables.is_empty() || self.way.whole => Err(fault),
            Err(fault) => {
                let fault = Fault { code: Code::Ddl, ..fault }
                    .at(&intent.statement.ddl)
                    .hint(format!(
                        "mend the reason and unitflow retry; or run it by hand in unit {}, then unitflow resume",
                        self.way.road.to
                    ));
                let why = fault.to_string();
                let reason = Reason { code: Code::Ddl, why: &why, ddl: Some(seq) };
                self.park_everywhere(&tables, reason).await
            }
        }
    }

    /// Runs a statement that a table was parked for: the first lane does, the others wait until it
    /// has, or could not.
    pub(crate) async fn run_again(&mut self, seq: Seq, table: &TableName) -> Result<(), Fault> {
        let log = self.way.road.log.to_string();
        loop {
            let found = announced(&mut self.applier, &log, seq).await?;
            let (intent, ran) = found.ok_or_else(|| {
                let what = format!("unitflow.ddl has no row for {log} {seq}");
                Fault::fatal(Code::Parked, what).hint("unitflow resume, once the table fits")
            })?;
            if ran {
                self.applier.forget_tables();
                return Ok(());
            }
            if self.lane == FIRST {
                run_once(&mut self.applier, &self.way.store, &intent, self.at).await?;
                let noted = [done(&log, seq).into_bytes()];
                self.applier.step_with(self.at, self.at, false, &noted).await?;
            } else if self.has_first_failed(table).await? {
                let what = format!("lane {FIRST} could not run {log} {seq}");
                return Err(Fault::fatal(Code::Ddl, what));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether the first lane has tried by the order in force, and the table stays parked there.
    async fn has_first_failed(&mut self, table: &TableName) -> Result<bool, Fault> {
        let first = parked_at(self.applier.conn(), &self.way.road.log, FIRST, table).await?;
        Ok(first.is_some_and(|first| first.released(table, &self.orders).is_none()))
    }

    async fn park_everywhere(
        &mut self,
        tables: &[TableName],
        reason: Reason<'_>,
    ) -> Result<Vec<Vec<u8>>, Fault> {
        for table in tables {
            warn!(code = %reason.code, %table, "parked: {}", reason.why);
            let key = table.to_string();
            self.tell_quarantine(self.at, &key, reason.code, reason.why, "").await?;
        }
        Ok(tables.iter().map(|table| self.parked_rows(table, reason, None)).collect())
    }

    fn stopped_by(&self, why: &str, ddl: &str, seq: Seq) -> Fault {
        let Self { way, .. } = self;
        Fault::fatal(
            Code::Ddl,
            format!(
                "{}: a schema change that can't be followed arrived (record {seq}), {why}: {ddl}",
                way.road.log
            ),
        )
        .hint(format!(
            "bring unit {} to the same schema, then pass over it: unitflow skip {} --seq {seq} --why …",
            way.road.to, way.road.flow
        ))
    }
}
