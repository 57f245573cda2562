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
use unitflow_change::ddl::{Applied, Class, Statement, Stored, TableName, Verb};
use unitflow_change::intent::Intent;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_change::tag::{Kind, Tag};
use unitflow_change::{Code, Fault, inject};
use unitflow_mysql::schema;

use crate::lane::{LONG_WAIT, Lane, OnDdl};
use crate::ledger;
use crate::mysql::apply::End;
use crate::mysql::ddl::{done, run_once};
use crate::park::{Parked, Reason};

/// How often the ledger is looked at while a lane waits for others.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The lane that acts for all.
const FIRST: i32 = 0;

/// What a statement asks of a sink.
#[derive(Debug, PartialEq, Eq)]
enum Act {
    /// Nothing: what follows fits the target as it is, or parks its table.
    Nothing,
    /// Run it.
    Run,
    /// Park these tables: what follows, or the statement itself, does not fit.
    Park(Vec<TableName>),
    /// Stop: what it does is not known, or can't be parked.
    Stop,
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
        self.meet(tag.seq).await
    }

    /// Waits until all lanes stand at the record or beyond; what they then find may be new.
    pub(crate) async fn meet(&mut self, seq: Seq) -> Result<(), Fault> {
        self.wait_until_lowest_is(seq, false).await?;
        self.applier.forget_tables();
        self.parked = Parked::load(self.applier.conn(), &self.way.log, self.lane).await?;
        self.metrics.parked(self.parked.count());
        Ok(())
    }

    async fn wait_until_lowest_is(&mut self, seq: Seq, others: bool) -> Result<(), Fault> {
        let begun = Instant::now();
        let mut told = false;
        while self.applier.lowest(others).await? < seq {
            if begun.elapsed() > LONG_WAIT && !told {
                told = true;
                warn!(lane = self.lane, seq = seq.0, "waiting for the other lanes at a barrier");
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Another unit has run a statement of a third: what it sends from here on expects the schema
    /// that the statement made, so this unit has to have it too.
    async fn wait_for_schema(&mut self, applied: &Applied) -> Result<(), Fault> {
        let Some(log) = Log::parse(&applied.log).filter(|log| log.unit != self.way.to) else {
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
        self.wait_until_lowest_is(seq, true).await?;
        let shown = statement.ddl.clone();
        match self.decide(&statement).await? {
            Act::Nothing => {
                info!(seq = seq.0, ddl = shown, "a schema change is passed over");
                Ok(Vec::new())
            }
            Act::Park(_) if self.way.whole => Err(self.stopped_by(&shown, seq)),
            Act::Park(tables) => {
                let why = format!(
                    "a schema change arrived: {shown}; bring the table to the same schema in unit {}",
                    self.way.to
                );
                self.park_everywhere(&tables, Reason { code: Code::Ddl, why: &why, ddl: None })
                    .await
            }
            Act::Stop => Err(self.stopped_by(&shown, seq)),
            Act::Run => self.run_here(statement, seq).await,
        }
    }

    async fn decide(&mut self, statement: &Statement) -> Result<Act, Fault> {
        let class = statement.class();
        let act =
            match (self.way.on_ddl, class) {
                (OnDdl::Pass, _) | (_, Class::Local) => Act::Nothing,
                (_, Class::Unknown) => Act::Stop,
                (OnDdl::Apply, Class::Stored(kind, _)) if self.way.stored_code.contains(&kind) => {
                    Act::Run
                }
                (_, Class::Stored(..)) => Act::Nothing,
                (OnDdl::Apply, _) => match self.parked.among(&statement.tables()) {
                    Some(_) => Act::Stop,
                    None => Act::Run,
                },
                (OnDdl::Stop, Class::Tables(Verb::Index | Verb::Extend, _)) => Act::Nothing,
                (OnDdl::Stop, _) if self.way.renamed => Act::Stop,
                (OnDdl::Stop, Class::Tables(Verb::Create, tables)) => {
                    if self.has_all(&tables).await? { Act::Nothing } else { Act::Park(tables) }
                }
                (OnDdl::Stop, Class::Tables(_, tables)) => Act::Park(tables),
                (OnDdl::Stop, Class::Rename(_)) => Act::Park(statement.tables()),
                (OnDdl::Stop, Class::Database(Verb::Drop, _)) => Act::Stop,
                (OnDdl::Stop, Class::Database(..)) => Act::Nothing,
            };
        Ok(act)
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
        let intent = Intent { log: self.way.log.to_string(), seq, statement };
        match run_once(&mut self.applier, &self.way.store, &intent, self.at).await {
            Ok(()) => Ok(vec![done(&intent).into_bytes()]),
            Err(fault) if fault.is_retry() || tables.is_empty() || self.way.whole => Err(fault),
            Err(fault) => {
                let why = format!("{}: {}", fault.what, intent.statement.ddl);
                let reason = Reason { code: Code::Ddl, why: &why, ddl: Some(seq) };
                self.park_everywhere(&tables, reason).await
            }
        }
    }

    /// Runs a statement that a table was parked for: the first lane does, the others wait.
    pub(crate) async fn run_again(&mut self, seq: Seq) -> Result<(), Fault> {
        let query = "SELECT db, ddl, sql_mode, done_at IS NOT NULL FROM unitflow.ddl \
                     WHERE log = ? AND seq = ?";
        let log = self.way.log.to_string();
        loop {
            let found = self.applier.ask(query, (log.as_str(), seq.0)).await?;
            let (database, ddl, sql_mode, ran): (String, String, u64, bool) =
                found.ok_or_else(|| {
                    let what = format!("unitflow.ddl has no row for {log} {seq}");
                    Fault::fatal(Code::Parked, what).hint("unitflow resume, once the table fits")
                })?;
            if ran {
                self.applier.forget_tables();
                return Ok(());
            }
            if self.lane == FIRST {
                let statement = Statement::new(&database, &ddl, sql_mode);
                let intent = Intent { log: log.clone(), seq, statement };
                run_once(&mut self.applier, &self.way.store, &intent, self.at).await?;
                let noted = [done(&intent).into_bytes()];
                self.applier.step_with(self.at, self.at, false, &noted).await?;
            }
            sleep(LOOK_EVERY).await;
        }
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

    fn stopped_by(&self, ddl: &str, seq: Seq) -> Fault {
        let Self { way, .. } = self;
        Fault::fatal(
            Code::Ddl,
            format!("{}: a schema change that can't be followed arrived (record {seq}): {ddl}", way.log),
        )
        .hint(format!(
            "bring unit {} to the same schema, then pass over it: unitflow skip {} --seq {seq} --why …",
            way.to, way.flow
        ))
    }
}
