//! Reads what a log is to copy, a chunk at a time, beside the capture.
//!
//! A chunk is read in a consistent state of the store and stands in the log where all that the state
//! shows is captured, and of the rows in it nothing later. So what the log says of a row behind the
//! chunk follows what the chunk says of it. Rows that were written meanwhile are left out and read
//! again; where the schema changed, all of it is.
//!
//! The log's writer alone puts chunks into it, and stores with each how far the copy has come: a
//! connector that is killed goes on with the chunk that was not committed.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use unitflow_change::copy::{Chunk, Part, Standing};
use unitflow_change::ddl::TableName;
use unitflow_change::envelope::Envelope;
use unitflow_change::gtid::GtidSet;
use unitflow_change::key::Key;
use unitflow_change::name::Log;
use unitflow_change::rename::Rename;
use unitflow_change::routing::Routing;
use unitflow_change::{Code, Fault, Form, Seq, form};
use unitflow_kafka::broker::Broker;
use unitflow_kafka::jobs::{self, Job, Jobs, ROWS_PER_SECOND, Sparing};
use unitflow_mysql::connect::Store;
use unitflow_mysql::snapshot::{Opened, Reader, Records, Row, Table};
use unitflow_mysql::stream;
use unitflow_sinks::copy::identity::Identity;
use unitflow_sinks::copy::passed;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Rows of a chunk at most.
const CHUNK_ROWS: usize = 4096;
/// About the bytes of a chunk at most, unless one row has more.
const CHUNK_BYTES: usize = 4 << 20;
/// How long the first chunk waits behind the word that tables are copied: the targets begin to read
/// their own logs, and what they say there has to arrive here.
const BEGIN_PAUSE: Duration = Duration::from_secs(3);
/// The store's running statements above which no chunk is read.
const RUNNING_MAX: u64 = 48;
/// How long a busy store is waited for before the next chunk is read all the same.
const BUSY_FOR: Duration = Duration::from_secs(30);
/// The pause before something is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Changed rows that are remembered beside a chunk; with more, it is read again.
const TOUCHED_MAX: usize = 1 << 20;
/// How often the changed rows of a chunk are read again before they are left out. The change that kept
/// them out follows in the log: a target that it does not fit notes the row, and it is asked for by key.
const ROUNDS_MAX: u32 = 100;

/// How far a log's copies have come; stored with the log's records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The whole tables that are being read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<Scan>,
    /// Jobs that are done, with the record that says so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub done: BTreeMap<String, Seq>,
    /// Jobs that failed, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<String, String>,
}

impl Progress {
    /// Whether nothing was ever copied, or is remembered of it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn knows(&self, job: &str) -> bool {
        self.done.contains_key(job) || self.failed.contains_key(job)
    }
}

/// A job of whole tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// Its name.
    pub job: String,
    /// How many of its tables are done.
    pub tables: usize,
    /// The last key read of the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Rows read of that table.
    pub rows: u64,
    /// Rows read of all.
    pub all: u64,
    /// A digest of what of its tables travelled when it began; not known where an older build began it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<u64>,
}

/// What is to be put into the log.
pub struct Lot {
    /// Its head.
    pub head: Chunk,
    /// For whom, as in a tag.
    pub to: String,
    /// When it was read, in µs since 1970; 0 where nothing was.
    pub at_us: u64,
    read: Option<Read>,
    absent: Vec<(usize, Vec<u8>)>,
}

impl Lot {
    /// Calls `put` with key and value of each record; the value of a row that is gone is empty.
    pub fn records(
        &self,
        name: &str,
        mut put: impl FnMut(&[u8], &[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let Some(read) = &self.read else { return Ok(()) };
        let mut records = Records::new(&read.server, name);
        // What is gone makes room for what is there.
        for (table, key) in &self.absent {
            let row = Row { key: key.clone(), after: b"{}".to_vec() };
            let (key, _) = records.write(&read.tables[*table], &row, self.at_us, 0)?;
            put(key, b"")?;
        }
        for (number, (table, row)) in (0..).zip(&read.rows) {
            let (key, value) = records.write(&read.tables[*table], row, self.at_us, number)?;
            put(key, value)?;
        }
        Ok(())
    }

    /// How many records there are behind the head.
    pub fn len(&self) -> usize {
        self.absent.len() + self.read.as_ref().map_or(0, |read| read.rows.len())
    }
}

/// What was read in one consistent state.
struct Read {
    server: unitflow_mysql::connect::Server,
    /// All that the state shows is among these.
    shown: GtidSet,
    at_us: u64,
    ledger: BTreeMap<String, Vec<Standing>>,
    tables: Vec<Table>,
    rows: Vec<(usize, Row)>,
    absent: Vec<(usize, Vec<u8>)>,
    /// Of a scan: where it goes on, and whether there is nothing more.
    last: Option<Vec<u8>>,
    done: bool,
}

/// What is read.
#[derive(Clone)]
enum What {
    /// The rows of a table behind a key.
    Behind(Option<Vec<u8>>),
    /// Rows by their keys, in the store's names.
    Keys(Vec<Vec<u8>>),
}

/// A chunk under way.
struct Work {
    job: String,
    to: String,
    tables: Vec<TableName>,
    sparing: Option<Sparing>,
    what: What,
    /// Of a scan: where it goes on once all rows of the chunk are in the log, and how many they are.
    cursor: Option<(Option<Vec<u8>>, bool, u64)>,
    rounds: u32,
    reading: Option<JoinHandle<Result<(Reader, Read), Fault>>>,
    read: Option<Read>,
    /// Rows that were changed since the reading began, by their keys.
    touched: HashSet<u128>,
    /// The same by what some collation may hold for one key, where rows are asked for that may be gone.
    alike: HashSet<(u64, Option<u64>)>,
    /// The schema changed, or too much did.
    broken: bool,
    /// Why it can't be read.
    failed: Option<String>,
}

impl Work {
    fn touch(&mut self, key: &[u8]) -> Result<(), Fault> {
        self.touched.insert(xxh3_128(key));
        if matches!(self.what, What::Keys(_)) {
            let Identity { table, row } = Identity::of(key)?;
            self.alike.insert((table, row));
        }
        Ok(())
    }

    /// Whether a row was changed that may be the one of this key.
    fn is_alike(&self, key: &[u8]) -> bool {
        let Ok(Identity { table, row }) = Identity::of(key) else { return true };
        match row {
            Some(_) => self.alike.contains(&(table, row)) || self.alike.contains(&(table, None)),
            None => self.alike.iter().any(|(of, _)| *of == table),
        }
    }
}

/// A digest of what of a job's tables travels.
fn filter_of(routing: &Routing, job: &Job) -> u64 {
    let texts =
        job.tables().into_iter().map(|name| routing.filter_text(&name.database, &name.table));
    xxh3_64(texts.collect::<Vec<_>>().join("\n").as_bytes())
}

/// See the [module](self).
pub struct Copier {
    /// The log's name where its records carry their schema.
    declared: Option<String>,
    store: Store,
    rename: Rename,
    jobs: watch::Receiver<Option<Jobs>>,
    _follower: AbortOnDropHandle<()>,
    work: Option<Work>,
    reader: Option<Reader>,
    limiter: Option<(u32, Arc<DefaultDirectRateLimiter>)>,
    /// Rows of the last chunk: they are paid for before the next one.
    owed: u32,
    /// A job of keys whose rows are in the log; the word that they are follows.
    passed: Option<String>,
    not_before: Option<Instant>,
    /// There may be something to begin.
    due: bool,
}

impl Copier {
    /// Hears of a log's jobs from its unit's control topic.
    pub fn new(
        log: &Log,
        store: &Store,
        (broker, topic): (Broker, String),
        form: Form,
        rename: Rename,
    ) -> Self {
        let (tell, jobs) = watch::channel(None);
        let of = log.clone();
        let follower = tokio::spawn(async move {
            loop {
                if let Err(fault) = jobs::follow(&broker, &topic, &of, &tell).await {
                    warn!(code = %fault.code, "{}; the copies ordered before go on", fault.what);
                }
                sleep(PAUSE).await;
            }
        });
        Self {
            declared: (form == Form::WithSchema).then(|| log.to_string()),
            store: store.clone(),
            rename,
            jobs,
            _follower: AbortOnDropHandle::new(follower),
            work: None,
            reader: None,
            limiter: None,
            owed: 0,
            passed: None,
            not_before: None,
            due: true,
        }
    }

    /// Whether a chunk is under way, so that changes have to be told.
    pub fn is_reading(&self) -> bool {
        self.work.is_some()
    }

    /// A row of the store was changed.
    pub fn touch(&mut self, row: &stream::Row<'_>) -> Result<(), Fault> {
        let Some(work) = &mut self.work else { return Ok(()) };
        let key = form::plain_key(row.key)?;
        work.touch(&key)?;
        if row.moves
            && let Some(after) = &Envelope::parse(row.value)?.after
        {
            let mut moved = Vec::new();
            Key::parse(&key)?.of_row(after, &mut moved)?;
            work.touch(&moved)?;
        }
        work.broken |= work.touched.len() > TOUCHED_MAX;
        Ok(())
    }

    /// The schema may have changed.
    pub fn schema_changed(&mut self) {
        if let Some(work) = &mut self.work {
            work.broken = true;
        }
    }

    /// Waits until there may be something to do. Cancel safe.
    pub async fn ready(&mut self) {
        if let Some(work) = &mut self.work {
            match &mut work.reading {
                Some(reading) => {
                    let outcome = reading.await.unwrap_or_else(|error| {
                        Err(Fault::fatal(Code::Bug, format!("a chunk's reading ended: {error}")))
                    });
                    work.reading = None;
                    self.take(outcome);
                }
                // The log has to come up to it.
                None => std::future::pending().await,
            }
            return;
        }
        match self.not_before {
            _ if self.due => return,
            Some(at) => {
                tokio::time::sleep_until(at).await;
                self.not_before = None;
            }
            None => {
                if self.jobs.changed().await.is_err() {
                    std::future::pending().await
                }
            }
        }
        self.due = true;
    }

    fn take(&mut self, outcome: Result<(Reader, Read), Fault>) {
        let Some(work) = &mut self.work else { return };
        match outcome {
            Ok((reader, read)) => {
                self.reader = Some(reader);
                work.read = Some(read);
            }
            Err(fault) if fault.is_retry() => {
                warn!(code = %fault.code, job = work.job, "{}; the chunk is read again", fault.what);
                self.work = None;
                self.not_before = Some(Instant::now() + PAUSE);
            }
            Err(fault) => work.failed = Some(fault.to_string()),
        }
    }

    /// The next lot, between two transactions of a log that was captured up to `captured`; `None` if
    /// there is none yet. What it says is part of `progress` already.
    pub fn next(
        &mut self,
        progress: &mut Progress,
        routing: &Routing,
        captured: &GtidSet,
    ) -> Option<Lot> {
        if self.work.is_some() {
            return self.finish(progress, captured);
        }
        if !std::mem::take(&mut self.due) || self.not_before.is_some() {
            return None;
        }
        let lot = self.choose(progress, routing, captured);
        self.due = lot.is_some();
        lot
    }

    /// Begins what comes next.
    fn choose(
        &mut self,
        progress: &mut Progress,
        routing: &Routing,
        captured: &GtidSet,
    ) -> Option<Lot> {
        let jobs = self.jobs.borrow_and_update().clone()?;
        progress.done.retain(|job, _| jobs.contains_key(job));
        progress.failed.retain(|job, _| jobs.contains_key(job));
        progress.scan.take_if(|scan| !jobs.contains_key(&scan.job));
        if let Some(name) = self.passed.take()
            && let Some((_, job)) = jobs.get(&name)
        {
            return Some(head(&name, Part::End, job));
        }
        let mut open: Vec<_> = jobs.iter().filter(|(name, _)| !progress.knows(name)).collect();
        open.sort_by_key(|(_, (offset, job))| (job.keys.is_empty(), *offset));
        if let Some((name, (_, job))) = open.first().filter(|(_, (_, job))| !job.keys.is_empty()) {
            self.begin_keys(name, job, progress, captured);
            return None;
        }
        if let Some(scan) = &progress.scan {
            let (_, job) = &jobs[&scan.job];
            if scan.filter.is_none_or(|filter| filter == filter_of(routing, job)) {
                return self.go_on(scan.clone(), job, progress, captured);
            }
            // What was read before came through the filter of then.
            info!(job = scan.job, "what travels of its tables was changed: from the beginning");
        }
        let begun = progress.scan.take().map(|scan| scan.job);
        let (name, (_, job)) = match &begun {
            Some(name) => jobs.get_key_value(name)?,
            None => *open.first()?,
        };
        info!(job = name, tables = job.tables.join(", "), "copying");
        let filter = Some(filter_of(routing, job));
        progress.scan =
            Some(Scan { job: name.clone(), tables: 0, after: None, rows: 0, all: 0, filter });
        self.not_before = Some(Instant::now() + BEGIN_PAUSE);
        Some(head(name, Part::Begin, job))
    }

    fn begin_keys(&mut self, name: &str, job: &Job, progress: &mut Progress, captured: &GtidSet) {
        let mut keys = Vec::new();
        for key in &job.keys {
            match self.local_key(key.as_bytes()) {
                Ok(key) => keys.push(key),
                Err(fault) => {
                    progress.failed.insert(name.to_owned(), fault.to_string());
                    self.not_before = Some(Instant::now());
                    return;
                }
            }
        }
        let tables = tables_of(&job.keys);
        self.read((name, job), tables, What::Keys(keys), captured);
    }

    fn go_on(
        &mut self,
        scan: Scan,
        job: &Job,
        progress: &mut Progress,
        captured: &GtidSet,
    ) -> Option<Lot> {
        let tables = job.tables();
        let Some(table) = tables.get(scan.tables) else {
            info!(job = scan.job, rows = scan.all, "copied");
            progress.scan = None;
            return Some(head(&scan.job, Part::End, job));
        };
        let behind = scan.after.map(String::into_bytes);
        self.read((&scan.job, job), vec![table.clone()], What::Behind(behind), captured);
        None
    }

    fn read(
        &mut self,
        (name, job): (&str, &Job),
        tables: Vec<TableName>,
        what: What,
        captured: &GtidSet,
    ) {
        let mut work = Work {
            job: name.to_owned(),
            to: job.to.join(","),
            tables,
            sparing: job.sparing.clone(),
            what,
            cursor: None,
            rounds: 0,
            reading: None,
            read: None,
            touched: HashSet::new(),
            alike: HashSet::new(),
            broken: false,
            failed: None,
        };
        let rate = job.rows_per_second.unwrap_or(ROWS_PER_SECOND);
        if self.limiter.as_ref().is_none_or(|(known, _)| *known != rate) {
            let quota = Quota::per_second(NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN));
            self.limiter = Some((rate, Arc::new(RateLimiter::direct(quota))));
        }
        self.start(&mut work, captured);
        self.work = Some(work);
    }

    fn start(&mut self, work: &mut Work, captured: &GtidSet) {
        work.touched.clear();
        work.alike.clear();
        work.broken = false;
        work.read = None;
        let locals: Result<Vec<_>, Fault> =
            work.tables.iter().map(|table| local(&self.rename, table)).collect();
        let (what, captured) = (work.what.clone(), captured.clone());
        let tables = work.tables.clone();
        let (reader, store) = (self.reader.take(), self.store.clone());
        let declared = self.declared.clone();
        let (limiter, owed) = (self.limiter.clone(), std::mem::take(&mut self.owed));
        let (jobs, job) = (self.jobs.clone(), work.job.clone());
        work.reading = Some(tokio::spawn(async move {
            let locals = locals?;
            if let Some((rate, limiter)) = limiter {
                // At another pace nothing is owed.
                tokio::select! {
                    () = pay(&limiter, rate, owed) => {}
                    () = paced_otherwise(jobs, &job, rate) => {}
                }
            }
            let mut reader = match reader {
                Some(reader) => reader,
                None => Reader::open(&store).await?,
            };
            let names = (tables.as_slice(), locals.as_slice());
            let read = read(&mut reader, names, &what, (declared.as_deref(), &captured)).await?;
            Ok((reader, read))
        }));
    }

    /// Puts the chunk that was read into the log, if the log is where it belongs.
    fn finish(&mut self, progress: &mut Progress, captured: &GtidSet) -> Option<Lot> {
        let mut work = self.work.take()?;
        if self.jobs.borrow().as_ref().is_some_and(|jobs| !jobs.contains_key(&work.job)) {
            // It was taken back.
            self.due = true;
            return None;
        }
        if let Some(why) = work.failed {
            warn!(job = work.job, "a copy failed: {why}");
            progress.scan.take_if(|scan| scan.job == work.job);
            progress.failed.insert(work.job, why);
            self.due = true;
            return None;
        }
        let shown = work.read.as_ref().map(|read| read.shown.is_subset(captured));
        if shown != Some(true) {
            self.work = Some(work);
            return None;
        }
        if work.broken {
            self.start(&mut work, captured);
            self.work = Some(work);
            return None;
        }
        let mut read = work.read.take()?;
        if work.cursor.is_none() {
            let rows = read.rows.len() as u64;
            work.cursor = Some((read.last.take(), read.done, rows));
        }
        let lot = self.settle(&mut work, read);
        self.owed = u32::try_from(lot.len()).unwrap_or(u32::MAX);
        if matches!(&work.what, What::Keys(keys) if !keys.is_empty()) && work.rounds < ROUNDS_MAX {
            work.rounds += 1;
            self.start(&mut work, captured);
            self.work = Some(work);
        } else {
            self.advance(work, progress);
        }
        (lot.len() > 0).then_some(lot)
    }

    /// Takes out of a chunk what was changed since: it is what is read next.
    fn settle(&self, work: &mut Work, mut read: Read) -> Lot {
        let mut again = Vec::new();
        let touched = &work.touched;
        read.rows.retain(|(_, row)| {
            let changed = touched.contains(&xxh3_128(&row.key));
            if changed {
                again.push(row.key.clone());
            }
            !changed
        });
        let mut absent = std::mem::take(&mut read.absent);
        absent.retain(|(_, key)| {
            // Its server may hold a new row's key for equal to it.
            let changed = work.is_alike(key);
            if changed {
                again.push(key.clone());
            }
            !changed
        });
        work.what = What::Keys(again);
        if let Some(Sparing { log, seq }) = &work.sparing {
            // Who lost what stands before that record is not to take what stands behind it for seen.
            let lanes = read.ledger.get_mut(log).into_iter().flatten();
            lanes.for_each(|standing| standing.limit(*seq));
        }
        let head = Chunk {
            job: work.job.clone(),
            part: Part::Rows,
            tables: work.tables.clone(),
            ledger: std::mem::take(&mut read.ledger),
        };
        Lot { head, to: work.to.clone(), at_us: read.at_us, read: Some(read), absent }
    }

    /// All rows of a chunk are in the log.
    fn advance(&mut self, work: Work, progress: &mut Progress) {
        self.due = true;
        let Some((last, done, rows)) = work.cursor else { return };
        match &mut progress.scan {
            Some(scan) if scan.job == work.job => {
                (scan.rows, scan.all) = (scan.rows + rows, scan.all + rows);
                scan.after = last.map(|key| String::from_utf8_lossy(&key).into_owned());
                if done {
                    *scan = Scan { tables: scan.tables + 1, after: None, rows: 0, ..scan.clone() };
                }
            }
            _ => self.passed = Some(work.job),
        }
    }

    /// The name in the store of a row that is known by its key in the mesh.
    fn local_key(&self, key: &[u8]) -> Result<Vec<u8>, Fault> {
        let parsed = Key::parse(key)?;
        let name =
            TableName { database: parsed.database.into_owned(), table: parsed.table.into_owned() };
        let (database, table) = local(&self.rename, &name)?;
        let columns = &key[Key::table_part(key)?.len()..];
        Ok([&Key::head(&database, &table), columns].concat())
    }
}

fn head(job: &str, part: Part, order: &Job) -> Lot {
    let tables = match order.keys.is_empty() {
        true => order.tables(),
        false => tables_of(&order.keys),
    };
    let head = Chunk { job: job.to_owned(), part, tables, ledger: BTreeMap::new() };
    Lot { head, to: order.to.join(","), at_us: 0, read: None, absent: Vec::new() }
}

/// The tables of these keys.
fn tables_of(keys: &[String]) -> Vec<TableName> {
    let mut tables: Vec<TableName> = Vec::new();
    for key in keys.iter().filter_map(|key| Key::parse(key.as_bytes()).ok()) {
        let (database, table) = (key.database.into_owned(), key.table.into_owned());
        let name = TableName { database, table };
        if !tables.contains(&name) {
            tables.push(name);
        }
    }
    tables
}

fn local(rename: &Rename, table: &TableName) -> Result<(String, String), Fault> {
    rename.local(&table.database, &table.table).ok_or_else(|| {
        Fault::fatal(Code::Table, format!("{table} has no place in this unit"))
            .hint("another table has its name there; see rename in the configuration")
    })
}

/// Waits until a job is no longer there, or at another pace.
async fn paced_otherwise(mut jobs: watch::Receiver<Option<Jobs>>, name: &str, rate: u32) {
    let rate_of = |job: &Job| job.rows_per_second.unwrap_or(ROWS_PER_SECOND);
    let is_other = |jobs: &Option<Jobs>| {
        let job = jobs.as_ref().and_then(|jobs| jobs.get(name));
        job.is_none_or(|(_, job)| rate_of(job) != rate)
    };
    if jobs.wait_for(is_other).await.is_err() {
        std::future::pending().await
    }
}

/// Waits until so many rows may have been read.
async fn pay(limiter: &DefaultDirectRateLimiter, rate: u32, rows: u32) {
    let mut rest = rows;
    while let Some(some) = NonZeroU32::new(rest.min(rate)) {
        // No more at once than a second's worth, which the limiter always has room for.
        if limiter.until_n_ready(some).await.is_err() {
            return;
        }
        rest -= some.get();
    }
}

async fn read(
    reader: &mut Reader,
    (named, locals): (&[TableName], &[(String, String)]),
    what: &What,
    (declared, captured): (Option<&str>, &GtidSet),
) -> Result<Read, Fault> {
    wait_while_busy(reader).await?;
    let mut tables = reader.tables(locals).await?;
    let server = reader.server().clone();
    for table in &mut tables {
        if let Some(name) = declared {
            table.declare(server.flavor, name);
        }
    }
    let opened = open(reader, captured).await?;
    let mut read = Read {
        server,
        shown: opened.after,
        at_us: opened.at_us,
        ledger: BTreeMap::new(),
        tables,
        rows: Vec::new(),
        absent: Vec::new(),
        last: None,
        done: false,
    };
    let lanes: Vec<(String, i32, u64)> =
        reader.ask("SELECT log, lane, seq FROM unitflow.ledger ORDER BY log, lane").await?;
    for (log, lane, seq) in lanes {
        read.ledger.entry(log).or_default().push(Standing { lane, seq: Seq(seq), holds: None });
    }
    let named: Vec<_> =
        named.iter().map(|name| (name.database.as_str(), name.table.as_str())).collect();
    // The ledger tells more than these rows hold.
    let lower: Vec<(String, i32, u64)> = reader.ask(&passed::query(&named)).await?;
    for (log, lane, seq) in lower {
        let lanes = read.ledger.get_mut(&log).into_iter().flatten();
        for standing in lanes.filter(|standing| standing.lane == lane) {
            standing.limit(Seq(seq));
        }
    }
    match what {
        What::Behind(after) => {
            let rows =
                reader.scan(&read.tables[0], after.as_deref(), CHUNK_ROWS, CHUNK_BYTES).await?;
            (read.last, read.done) = (rows.last().map(<[u8]>::to_vec), rows.done);
            read.rows = rows.rows.into_iter().map(|row| (0, row)).collect();
        }
        What::Keys(keys) => {
            for table in 0..read.tables.len() {
                find(reader, &mut read, table, keys).await?;
            }
        }
    }
    reader.end().await?;
    Ok(read)
}

/// Opens a state that shows all that was captured before: a change may stand in the log a moment
/// before it is visible, and a chunk that lacks it would undo it.
async fn open(reader: &mut Reader, captured: &GtidSet) -> Result<Opened, Fault> {
    loop {
        let opened = reader.begin().await?;
        if captured.is_subset(&opened.before) {
            return Ok(opened);
        }
        reader.end().await?;
        sleep(PAUSE / 500).await;
    }
}

/// Reads a table's rows of these keys, and finds out which of them are gone.
async fn find(
    reader: &mut Reader,
    read: &mut Read,
    number: usize,
    keys: &[Vec<u8>],
) -> Result<(), Fault> {
    let table = &read.tables[number];
    let own: Vec<&[u8]> =
        keys.iter().map(Vec::as_slice).filter(|key| key.starts_with(table.key_head())).collect();
    let rows = reader.get(table, &own).await?;
    if rows.len() < own.len() {
        let found: HashSet<&[u8]> = rows.iter().map(|row| &row.key[..]).collect();
        for key in own.into_iter().filter(|key| !found.contains(key)) {
            // The server may hold another key for equal to it.
            if reader.get(table, &[key]).await?.is_empty() {
                read.absent.push((number, key.to_vec()));
            }
        }
    }
    read.rows.extend(rows.into_iter().map(|row| (number, row)));
    Ok(())
}

/// A store with much to do comes first.
async fn wait_while_busy(reader: &mut Reader) -> Result<(), Fault> {
    let until = Instant::now() + BUSY_FOR;
    loop {
        let status: Vec<(String, String)> =
            reader.ask("SHOW GLOBAL STATUS LIKE 'Threads_running'").await?;
        let running = status.first().and_then(|(_, value)| value.parse::<u64>().ok());
        if running.is_none_or(|running| running <= RUNNING_MAX) || Instant::now() > until {
            return Ok(());
        }
        sleep(PAUSE / 10).await;
    }
}
