//! Tables whose changes wait for a person, while the rest of the flow goes on.
//!
//! Where a table can't take a change, or a schema change can't be followed, the table is *parked*:
//! a row in `unitflow.parked` says for each lane up to which record its changes are applied. The
//! lane passes over the table's later records, which stay in the topic. An order in the control
//! topic releases the table: what was passed over is read again from the topic and applied, the
//! row moving with it in the same transactions, and goes when the lane's own place is reached.
//!
//! So each of its changes is applied once, in order, as long as the topic still holds them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use tracing::{debug, info, warn};
use unitflow_change::ddl::TableName;
use unitflow_change::key::Key;
use unitflow_change::name::Log;
use unitflow_change::seq::Seq;
use unitflow_change::tag::{HEADER, Kind, Tag};
use unitflow_change::{Code, Fault, form};
use unitflow_kafka::control::InForce;
use unitflow_kafka::reader::{Item, Record};
use unitflow_mysql::connect::fault as judge;
use unitflow_mysql::literal::quote_string;

use crate::batch::{Batch, Slot};
use crate::lane::{Lane, read};
use crate::mysql::apply::{End, Part};
use crate::mysql::ddl::done;

/// The longest reason that is kept, in characters.
const WHY_CHARACTERS_MAX: usize = 2_000;

/// Where a parked table stands in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The lane.
    pub lane: i32,
    /// The last of its records that is applied.
    pub seq: Seq,
    /// Where to go on from in the tagged topic.
    pub topic_offset: i64,
    /// The schema change that could not be run.
    pub ddl_seq: Option<Seq>,
    /// The runbook's code.
    pub code: String,
    /// What happened.
    pub why: String,
    /// The last order that was known then.
    pub control_offset: i64,
}

impl Standing {
    /// Whether it waits for a person to change its schema: no change of its own has failed.
    fn waits_for_schema(&self) -> bool {
        self.ddl_seq.is_none() && self.code == Code::Ddl.as_str()
    }

    /// Whether the order in force lets the table go on, in a lane that stands at `at`.
    pub(crate) fn goes_on(&self, table: &TableName, orders: &InForce, at: Seq) -> bool {
        self.released(table, orders).is_some() || self.is_passed_by(orders, at)
    }

    /// Whether the order in force releases the table, and if so whether what parked it is tried again.
    /// Where no statement was tried, only a person knows when the schema fits, and says so by `resume`
    /// or by naming the table.
    pub(crate) fn released(&self, table: &TableName, orders: &InForce) -> Option<bool> {
        let name = table.to_string();
        let again = orders.releases(&name, self.control_offset)?;
        (!again || !self.waits_for_schema() || orders.names(&name)).then_some(again)
    }

    /// Whether what the table waits for is passed over by the order in force, in a lane that stands
    /// at `at`: its schema change, or one of the records that wait.
    fn is_passed_by(&self, orders: &InForce, at: Seq) -> bool {
        let waits = match self.ddl_seq {
            Some(ddl) => (Seq(ddl.0.saturating_sub(1)), ddl),
            // In each lane it stands on the statement's own record.
            None if self.waits_for_schema() => (Seq(self.seq.0.saturating_sub(1)), self.seq),
            None => (self.seq, at),
        };
        orders.skips_some(self.lane, waits, self.control_offset)
    }
}

/// The parked tables of a lane.
#[derive(Debug, Default)]
pub struct Parked {
    tables: BTreeMap<TableName, Standing>,
    /// By the table's part of a record key, so that keys need not be read.
    known: HashMap<Box<[u8]>, bool>,
}

impl Parked {
    /// Reads them.
    pub async fn load(conn: &mut Conn, log: &Log, lane: i32) -> Result<Self, Fault> {
        let all = read_all(conn, log).await?;
        let own = all.into_iter().filter(|(_, standing)| standing.lane == lane);
        Ok(Self { tables: own.collect(), known: HashMap::new() })
    }

    /// Whether the table of this record key is parked.
    pub fn holds(&mut self, key: &[u8]) -> Result<bool, Fault> {
        if self.tables.is_empty() {
            return Ok(false);
        }
        let part = Key::table_part(key)?;
        if let Some(known) = self.known.get(part) {
            return Ok(*known);
        }
        let holds = self.tables.contains_key(&table_of(key)?);
        self.known.insert(part.into(), holds);
        Ok(holds)
    }

    /// Which of these tables are parked.
    #[must_use]
    pub fn among<'a>(&self, tables: &'a [TableName]) -> Option<&'a TableName> {
        tables.iter().find(|table| self.tables.contains_key(table))
    }

    /// How many tables there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tables.len()
    }

    /// Those that the order in force releases in a lane that stands at `at`, and whether what parked
    /// them is tried again.
    pub(crate) fn released_by(
        &self,
        orders: &InForce,
        at: Seq,
    ) -> Vec<(TableName, Standing, bool)> {
        let released = self.tables.iter().filter_map(|(table, standing)| {
            let again = standing
                .released(table, orders)
                .or_else(|| standing.is_passed_by(orders, at).then_some(false))?;
            Some((table.clone(), standing.clone(), again))
        });
        released.collect()
    }
}

/// All parked tables of a log, with a line for each lane.
pub async fn read_all(conn: &mut Conn, log: &Log) -> Result<Vec<(TableName, Standing)>, Fault> {
    let query = "SELECT lane, db, tbl, seq, topic_offset, ddl_seq, code, why, control_offset \
                 FROM unitflow.parked WHERE log = ? ORDER BY db, tbl, lane";
    let rows: Vec<Row> = conn
        .exec(query, (log.to_string(),))
        .await
        .map_err(|error| judge(&error).at("unitflow.parked"))?;
    rows.into_iter()
        .map(|row| {
            let (lane, database, table, seq, topic_offset, ddl_seq, code, why, control_offset) =
                mysql_async::from_row_opt(row).map_err(|error| {
                    Fault::fatal(
                        Code::Parked,
                        format!("a row of unitflow.parked can't be read: {error}"),
                    )
                })?;
            let ddl_seq: Option<u64> = ddl_seq;
            let (seq, ddl_seq) = (Seq(seq), ddl_seq.map(Seq));
            let standing = Standing { lane, seq, topic_offset, ddl_seq, code, why, control_offset };
            Ok((TableName { database, table }, standing))
        })
        .collect()
}

/// Where a table that is parked in a lane stands there.
pub(crate) async fn parked_at(
    conn: &mut Conn,
    log: &Log,
    lane: i32,
    table: &TableName,
) -> Result<Option<Standing>, Fault> {
    let all = read_all(conn, log).await?.into_iter();
    Ok(all.filter(|(name, at)| name == table && at.lane == lane).map(|(_, at)| at).next())
}

/// Why a table is parked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reason<'a> {
    pub code: Code,
    pub why: &'a str,
    /// The schema change that it waits for.
    pub ddl: Option<Seq>,
}

/// Whether a fault concerns one table's changes and no others.
pub(crate) fn parks(fault: &Fault) -> bool {
    !fault.is_retry()
        && matches!(
            fault.code,
            Code::Table | Code::NoPrimaryKey | Code::Record | Code::TooLarge | Code::Apply
        )
}

impl Lane<'_> {
    /// Parks a table from where the ledger stands, because of a fault.
    pub(crate) async fn park_table(&mut self, table: &TableName, fault: Fault) -> Fault {
        let name = table.to_string();
        match self.park_here(table, (self.at, &name), &fault).await {
            Ok(()) => Fault::retry(Code::Parked, format!("{table} is parked: {}", fault.what)),
            Err(fault) => fault,
        }
    }

    /// Parks the table that an attempt failed at, from where the ledger stands; the fault that is
    /// returned makes the lane begin anew from there.
    pub(crate) async fn park(&mut self, fault: Fault) -> Fault {
        let Some((table, slot)) = self.applier.take_blamed() else { return fault };
        let failed = slot.or_else(|| self.first_of(&table));
        let (at, key) = match slot.and_then(|slot| self.batch.slots().get(slot)) {
            Some(slot) => {
                let key = String::from_utf8_lossy(self.batch.key(slot)).into_owned();
                (End { seq: slot.seq, offset: slot.offset, commit_us: slot.commit_us }, key)
            }
            None => (self.at, table.to_string()),
        };
        if let Some(failed) = failed
            && let Err(fault) = self.apply_what_precedes(failed).await
        {
            return fault;
        }
        match self.park_here(&table, (at, &key), &fault).await {
            Ok(()) => Fault::retry(Code::Parked, format!("{table} is parked: {}", fault.what)),
            Err(fault) => fault,
        }
    }

    /// The first change of a table in the batch.
    fn first_of(&self, table: &TableName) -> Option<usize> {
        let is_its = |slot: &Slot| {
            slot.kind == Kind::Row && table_of(self.batch.key(slot)).is_ok_and(|of| of == *table)
        };
        self.batch.slots().iter().position(is_its)
    }

    /// Applies what stands in the batch before the change that failed, so that no more waits than has
    /// to. Where that does not fit either, or is a part of more, the table waits from where the ledger
    /// stands.
    async fn apply_what_precedes(&mut self, failed: usize) -> Result<(), Fault> {
        let [.., last, next] = self.batch.slots().get(..=failed).unwrap_or_default() else {
            return Ok(());
        };
        let to = End { seq: last.seq, offset: next.offset, commit_us: last.commit_us };
        if self.inside || self.batch.slots().iter().any(|slot| slot.kind == Kind::Copy) {
            return Ok(());
        }
        self.batch.truncate(failed);
        match self.applier.apply(&self.batch, Part::Whole, self.at, to).await {
            Ok(()) => self.stands_at(to),
            Err(fault) if fault.is_retry() => return Err(fault),
            Err(fault) => {
                debug!(code = %fault.code, "what precedes waits too: {}", fault.what);
                drop(self.applier.take_blamed());
            }
        }
        Ok(())
    }

    /// Parks a table from where the ledger stands, for a fault at the change `at` with this key.
    async fn park_here(
        &mut self,
        table: &TableName,
        (at, key): (End, &str),
        fault: &Fault,
    ) -> Result<(), Fault> {
        warn!(code = %fault.code, %table, "parked: {}", fault.what);
        let reason = Reason { code: fault.code, why: &fault.to_string(), ddl: None };
        let rows = [self.parked_rows(table, reason, Some(self.lane))];
        self.tell_quarantine(at, key, fault.code, &fault.what, "").await?;
        self.applier.step_with(self.at, self.at, false, &rows).await
    }

    /// The statement that parks a table where the ledger stands once the transaction has moved it:
    /// in one lane, or in all.
    pub(crate) fn parked_rows(
        &self,
        table: &TableName,
        reason: Reason<'_>,
        lane: Option<i32>,
    ) -> Vec<u8> {
        let log = &self.way.road.log;
        let mut sql = b"INSERT IGNORE INTO unitflow.parked \
            (log,lane,db,tbl,seq,topic_offset,ddl_seq,code,why,control_offset) SELECT log,lane,"
            .to_vec();
        quote_string(&mut sql, &table.database);
        sql.push(b',');
        quote_string(&mut sql, &table.table);
        let ddl = reason.ddl.map_or("NULL".to_owned(), |seq| seq.to_string());
        sql.extend_from_slice(format!(",seq,topic_offset,{ddl},'{}',", reason.code).as_bytes());
        let why: String = reason.why.chars().take(WHY_CHARACTERS_MAX).collect();
        quote_string(&mut sql, &why);
        let known = self.orders.offset;
        sql.extend_from_slice(
            format!(",{known} FROM unitflow.ledger WHERE log='{log}'").as_bytes(),
        );
        if let Some(lane) = lane {
            sql.extend_from_slice(format!(" AND lane={lane}").as_bytes());
        }
        sql
    }

    /// Writes what is not applied to the quarantine topic; acknowledged when this returns.
    pub(crate) async fn tell_quarantine(
        &self,
        at: End,
        key: &str,
        code: Code,
        why: &str,
        by: &str,
    ) -> Result<(), Fault> {
        let (road, at) = (&self.way.road, (at.seq, at.offset));
        road.tell_quarantine(self.lane, at, key, code, (why, by)).await
    }

    /// The same where the lane has come to what the order passes over.
    pub(crate) async fn release_what_is_passed(&mut self) -> Result<(), Fault> {
        if self.parked.released_by(&self.orders, self.at.seq).is_empty() {
            return Ok(());
        }
        self.release().await
    }

    /// Catches up with the tables that the order in force releases. One that fails again stays
    /// parked, until a newer order.
    pub(crate) async fn release(&mut self) -> Result<(), Fault> {
        for (table, standing, again) in self.parked.released_by(&self.orders, self.at.seq) {
            info!(%table, again, "released; catching up");
            let caught_up = self.catch_up(&table, standing, again).await;
            match caught_up {
                Ok(()) => info!(%table, "caught up"),
                Err(fault) if fault.is_retry() => return Err(fault),
                Err(fault) => {
                    warn!(code = %fault.code, %table, "stays parked: {}", fault.what);
                    let still = self.still_parked(&table, &fault);
                    self.applier.step_with(self.at, self.at, false, &[still]).await?;
                }
            }
        }
        self.parked = Parked::load(self.applier.conn(), &self.way.road.log, self.lane).await?;
        Ok(())
    }

    async fn catch_up(
        &mut self,
        table: &TableName,
        standing: Standing,
        again: bool,
    ) -> Result<(), Fault> {
        if let Some(ddl) = standing.ddl_seq.filter(|_| again) {
            self.run_again(ddl, table).await?;
        }
        let reader = read(self.way, self.lane, standing.topic_offset).await?;
        let mut batch = Batch::default();
        let mut reached = standing.seq;
        let mut expected = Some(standing.topic_offset);
        let mut passed = false;
        while reached < self.at.seq {
            let Item::Record(record) = reader.next().await? else { continue };
            let tag = read_tag(&record)?;
            if expected.take().is_some_and(|_| tag.prev > standing.seq && tag.seq > standing.seq) {
                return Err(gone(table, standing.seq, tag.prev));
            }
            if tag.seq > self.at.seq {
                break;
            }
            if tag.seq > reached {
                let key = key_of(&record)?;
                let is_its_row =
                    tag.kind == Kind::Row && !key.is_empty() && table_of(&key)? == *table;
                if is_its_row && self.orders.skips(self.lane, tag.seq) {
                    let commit_us = tag.commit_us;
                    let at = End { seq: tag.seq, offset: record.offset(), commit_us };
                    self.skip(at, &String::from_utf8_lossy(&key)).await?;
                    passed = true;
                } else if is_its_row {
                    if !tag.after.is_empty() {
                        // Others may be waiting for what precedes.
                        let moved = self.moved(table, reached, record.offset());
                        self.apply_released(&batch, &[moved]).await?;
                        batch.clear();
                        self.follow(tag.after, table).await?;
                    }
                    let whole = Tag { last: true, ..tag };
                    batch.push(record.offset(), &whole, &key, payload_of(&record));
                }
                reached = tag.seq;
            }
            // What was passed over need not be named again by the next order.
            if batch.is_full(&self.way.limits) || std::mem::take(&mut passed) {
                let moved = self.moved(table, reached, record.next_offset());
                self.apply_released(&batch, &[moved]).await?;
                batch.clear();
            }
        }
        let mut also = vec![self.unparked(table)];
        // What a person did instead is done: nobody waits for the statement any more.
        also.extend(standing.ddl_seq.map(|seq| done(&self.way.road.log, seq).into_bytes()));
        self.apply_released(&batch, &also).await
    }

    /// The statement that lets a table go on in this lane.
    pub(crate) fn unparked(&self, table: &TableName) -> Vec<u8> {
        let (database, name) = (text(&table.database), text(&table.table));
        format!(
            "DELETE FROM unitflow.parked WHERE log='{}' AND lane={} AND db={database} AND tbl={name}",
            self.way.road.log, self.lane
        )
        .into_bytes()
    }

    async fn apply_released(&mut self, batch: &Batch, also: &[Vec<u8>]) -> Result<(), Fault> {
        self.applier.apply_with(batch, Part::Whole, (self.at, self.at), also).await
    }

    /// The statement that moves a parked table's place.
    fn moved(&self, table: &TableName, seq: Seq, offset: i64) -> Vec<u8> {
        let (database, name) = (text(&table.database), text(&table.table));
        format!(
            "UPDATE unitflow.parked SET seq={seq},topic_offset={offset} \
             WHERE log='{}' AND lane={} AND db={database} AND tbl={name}",
            self.way.road.log, self.lane
        )
        .into_bytes()
    }

    /// The statement that notes that an order did not help.
    fn still_parked(&self, table: &TableName, fault: &Fault) -> Vec<u8> {
        let (database, name) = (text(&table.database), text(&table.table));
        let why: String = fault.to_string().chars().take(WHY_CHARACTERS_MAX).collect();
        format!(
            "UPDATE unitflow.parked SET code='{}',why={},control_offset={} \
             WHERE log='{}' AND lane={} AND db={database} AND tbl={name}",
            fault.code,
            text(&why),
            self.orders.offset,
            self.way.road.log,
            self.lane
        )
        .into_bytes()
    }
}

/// A row moved here from a lane in which its table waits.
fn gone(table: &TableName, stands: Seq, prev: Seq) -> Fault {
    Fault::fatal(
        Code::OffsetGone,
        format!("{table} is applied up to {stands}, but the topic now begins behind {prev}"),
    )
    .hint("the topic no longer holds the table's changes: resync the table, see the runbook")
}

fn read_tag<'a>(record: &'a Record<'_>) -> Result<Tag<'a>, Fault> {
    Tag::parse(record.header(HEADER).unwrap_or_default())
}

/// A record's key as the lane's batches have it, whatever form it travels in.
pub(crate) fn key_of<'r>(record: &'r Record<'_>) -> Result<Cow<'r, [u8]>, Fault> {
    form::plain_key(record.key().unwrap_or_default())
}

/// The same of its value. What is of no form goes on as it is: it fails as a change of its table.
pub(crate) fn payload_of<'r>(record: &'r Record<'_>) -> &'r [u8] {
    let value = record.value().unwrap_or_default();
    form::payload(value).unwrap_or(value)
}

pub(crate) fn table_of(key: &[u8]) -> Result<TableName, Fault> {
    let key = Key::parse(key)?;
    Ok(TableName { database: key.database.into_owned(), table: key.table.into_owned() })
}

fn text(value: &str) -> String {
    let mut quoted = Vec::new();
    quote_string(&mut quoted, value);
    String::from_utf8_lossy(&quoted).into_owned()
}
