//! Reads what a Redis log is to copy, some keys at a time, beside the capture.
//!
//! A chunk is read in one transaction of the server's that sets a marker, and stands in the log where the marker does: all
//! that the chunk shows is captured before it, and nothing that is captured behind it. So what the log says of a key behind
//! the chunk follows what the chunk says of it.
//!
//! A whole store is read by a scan. A key that is there as long as the scan lasts comes; what happens to any other stands
//! in the log. The log's writer alone puts chunks into it, and stores with each how far the scan has come: a connector that
//! is killed goes on there.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use unitflow_change::copy::{Chunk, Part, Standing};
use unitflow_change::name::Log;
use unitflow_change::redis::{Keyspace, MARKER_PREFIX, parse_key};
use unitflow_change::{Code, Fault, Seq};
use unitflow_kafka::broker::Broker;
use unitflow_kafka::jobs::{self, Job, Jobs, ROWS_PER_SECOND};
use unitflow_redis::chunk::{Answer, Name, Reader, Wanted};
use unitflow_redis::{Command, Store};
use unitflow_sinks::redis::ledger;

/// About the keys of a scan's answer, and the most of a chunk.
const CHUNK_KEYS: usize = 200;
/// About the bytes of a chunk in the server's memory, unless one key has more: it puts the whole answer together at once.
const CHUNK_BYTES: u64 = 4 << 20;
/// The pause before something is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// How far a log's copies have come; stored with the log's records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The store that is being read.
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

/// A job of a whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scan {
    /// Its name.
    pub job: String,
    /// The run of the server that the cursor is of; empty before the first answer.
    pub run: String,
    /// The database that is being read.
    pub db: u32,
    /// Behind what.
    pub cursor: u64,
    /// Keys read.
    pub keys: u64,
    /// How many the server had when the scan began, those that do not travel among them.
    pub of: u64,
}

/// What is read.
enum What {
    Scan(Scan),
    /// These keys, and what follows them.
    Keys(Vec<Name>, After),
}

/// What follows a chunk of a job.
#[derive(Clone, Debug)]
pub enum After {
    /// Nothing more.
    Over,
    /// The scan goes on here.
    Scan(Scan),
    /// More of the keys that the scan, or the job, has named.
    SameScan,
}

/// What a reading came to.
struct Read {
    /// The server's answer; the connection where nothing had to be asked.
    answer: Result<Answer, Reader>,
    /// Keys that were too many for one chunk, and what follows them.
    rest: Option<(Vec<Name>, After)>,
    /// What follows the chunk.
    after: After,
}

/// A chunk under way.
struct Work {
    job: String,
    to: String,
    number: u64,
    /// When it was asked for, in µs since 1970, by the clock of the log.
    asked_us: u64,
    reading: Option<AbortOnDropHandle<Result<Read, Fault>>>,
    read: Option<Read>,
    /// The stream has come to its marker.
    passed: bool,
}

/// A chunk whose place in the log has come.
pub struct Due {
    /// The job.
    pub job: String,
    /// For whom, as in a tag.
    pub to: String,
    /// When it was asked for, in µs since 1970.
    pub asked_us: u64,
    /// The server's answer.
    pub answer: Answer,
    /// What follows.
    pub after: After,
}

/// A job that is over.
pub struct Over {
    /// What stands in the log for it.
    pub head: Chunk,
    /// For whom, as in a tag.
    pub to: String,
}

/// See the [module](self).
pub struct Copier {
    store: Store,
    marker: Vec<u8>,
    /// The ledger keys of other units' lanes, and whose they are.
    ledger: Vec<(Log, i32)>,
    jobs: watch::Receiver<Option<Jobs>>,
    _follower: AbortOnDropHandle<()>,
    work: Option<Work>,
    reader: Option<Reader>,
    limiter: Option<(u32, Arc<DefaultDirectRateLimiter>)>,
    /// Keys of the last chunk: they are paid for before the next one.
    owed: u32,
    /// What is left of the keys of a job, or of its last scan.
    rest: Option<(String, Vec<Name>, After)>,
    /// The number that the last marker was set to.
    number: u64,
    /// A job that can't be done, and why.
    failed: Option<(String, Fault)>,
    not_before: Option<Instant>,
    /// There may be something to begin.
    due: bool,
}

impl Copier {
    /// Hears of a log's jobs from its unit's control topic. `others` are the lanes of other units that are applied to the
    /// store.
    pub fn new(
        log: &Log,
        store: &Store,
        (broker, topic): (Broker, String),
        others: Vec<(Log, i32)>,
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
            store: store.clone(),
            marker: [MARKER_PREFIX, log.to_string().as_bytes()].concat(),
            ledger: others,
            jobs,
            _follower: AbortOnDropHandle::new(follower),
            work: None,
            reader: None,
            limiter: None,
            owed: 0,
            rest: None,
            number: 0,
            failed: None,
            not_before: None,
            due: true,
        }
    }

    /// Waits until there may be something to do. Cancel safe.
    pub async fn ready(&mut self) {
        if let Some(Work { reading, .. }) = &mut self.work {
            match reading {
                Some(reading) => {
                    let outcome = reading.await;
                    self.take(outcome.unwrap_or_else(|error| {
                        Err(Fault::fatal(Code::Bug, format!("a chunk's reading ended: {error}")))
                    }));
                }
                // The stream has to come up to it.
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

    fn take(&mut self, outcome: Result<Read, Fault>) {
        let Some(work) = &mut self.work else { return };
        work.reading = None;
        match outcome {
            Ok(read) => work.read = Some(read),
            Err(fault) if fault.is_retry() => self.begin_again(&fault),
            Err(fault) => {
                self.failed = self.work.take().map(|work| (work.job, fault));
                self.due = true;
            }
        }
    }

    /// Gives up the chunk under way, and begins it again after a while.
    pub fn begin_again(&mut self, fault: &Fault) {
        if let Some(work) = self.work.take() {
            warn!(code = %fault.code, job = work.job, "{}; the chunk is read again", fault.what);
        }
        // With all that was scanned with it.
        self.rest = None;
        self.not_before = Some(Instant::now() + PAUSE);
    }

    /// Whether this write of the stream is the marker of the chunk under way: it is due behind that write's transaction.
    pub fn meets(&mut self, db: u32, command: &Command) {
        let Some(work) = self.work.as_mut().filter(|_| db == 0 && command.is("SET")) else {
            return;
        };
        let number = work.number.to_string();
        work.passed |= command.word(1) == self.marker && command.word(2) == number.as_bytes();
    }

    /// Whether the place of the chunk under way has come.
    pub fn is_due(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.passed)
    }

    /// The chunk whose place has come; `None` where it has to be read again.
    pub async fn due(&mut self) -> Option<Due> {
        if self.work.as_ref()?.reading.is_some() {
            self.ready().await;
        }
        let Work { job, to, asked_us, read, .. } = self.work.take()?;
        let Read { answer: Ok(answer), rest, after } = read? else { return None };
        self.rest = rest.map(|(keys, behind)| (job.clone(), keys, behind));
        Some(Due { job, to, asked_us, answer, after })
    }

    /// The chunk is in the log, and so many keys with it.
    pub fn written(&mut self, reader: Reader, keys: usize) {
        self.reader = Some(reader);
        self.owed = u32::try_from(keys).unwrap_or(u32::MAX);
        self.due = true;
    }

    /// What other units' lanes had applied at the store, by the texts of an answer.
    pub fn standing(
        &self,
        texts: &[Option<Vec<u8>>],
    ) -> Result<BTreeMap<String, Vec<Standing>>, Fault> {
        let mut ledger: BTreeMap<String, Vec<Standing>> = BTreeMap::new();
        for ((log, lane), text) in self.ledger.iter().zip(texts) {
            let Some(text) = text else { continue };
            let seq = ledger::parse(log, *lane, text)?.seq;
            let standing = Standing { lane: *lane, seq, holds: None };
            ledger.entry(log.to_string()).or_default().push(standing);
        }
        Ok(ledger)
    }

    /// Begins what comes next, between two transactions; gives the job that is over by that.
    pub fn next(
        &mut self,
        progress: &mut Progress,
        keyspace: &Keyspace,
        now_us: u64,
    ) -> Option<Over> {
        if let Some((job, fault)) = self.failed.take() {
            self.fail(progress, &job, &fault);
        }
        if let Some(work) = &mut self.work {
            // A scan that found nothing more has no marker.
            let Some(Read { answer: Err(_), .. }) = &work.read else { return None };
            let Work { job, to, read, .. } = self.work.take()?;
            self.reader = read.and_then(|read| read.answer.err());
            self.due = true;
            return Some(self.over(progress, &job, to));
        }
        if !std::mem::take(&mut self.due) || self.not_before.is_some() {
            return None;
        }
        let jobs = self.jobs.borrow_and_update().clone()?;
        progress.done.retain(|job, _| jobs.contains_key(job));
        progress.failed.retain(|job, _| jobs.contains_key(job));
        progress.scan.take_if(|scan| !jobs.contains_key(&scan.job));
        let mut open: Vec<_> = jobs.iter().filter(|(name, _)| !progress.knows(name)).collect();
        // Single keys first.
        open.sort_by_key(|(_, (offset, job))| (job.store, *offset));
        let (name, (_, job)) = open.first()?;
        let rest = self.rest.take_if(|(of, ..)| of == *name);
        let what = match rest {
            Some((_, keys, after)) => What::Keys(keys, after),
            None if job.store => What::Scan(self.scan(progress, name)),
            None => match named(job, keyspace) {
                Ok(keys) => What::Keys(keys, After::Over),
                Err(fault) => {
                    self.fail(progress, name, &fault);
                    return None;
                }
            },
        };
        self.read((name, job), what, keyspace.clone(), now_us);
        None
    }

    /// A job can't be done.
    pub fn fail(&mut self, progress: &mut Progress, job: &str, fault: &Fault) {
        warn!(code = %fault.code, job, "a copy fails: {}", fault.what);
        progress.failed.insert(job.to_owned(), fault.to_string());
        self.rest = None;
        progress.scan.take_if(|scan| scan.job == job);
        self.due = true;
    }

    fn scan(&self, progress: &mut Progress, job: &str) -> Scan {
        progress.scan.take_if(|scan| scan.job != job);
        let begun = || {
            info!(job, "copying all that travels");
            Scan { job: job.to_owned(), ..Scan::default() }
        };
        progress.scan.get_or_insert_with(begun).clone()
    }

    /// A job is over: it is known as done with the record of what is given.
    pub fn over(&self, progress: &mut Progress, job: &str, to: String) -> Over {
        if let Some(scan) = progress.scan.take_if(|scan| scan.job == job) {
            info!(job, keys = scan.keys, "copied");
        }
        let head = Chunk {
            job: job.to_owned(),
            part: Part::End,
            tables: Vec::new(),
            ledger: BTreeMap::new(),
        };
        Over { head, to }
    }

    fn read(&mut self, (name, job): (&str, &Job), what: What, keyspace: Keyspace, now_us: u64) {
        let rate = job.rows_per_second.unwrap_or(ROWS_PER_SECOND);
        if self.limiter.as_ref().is_none_or(|(known, _)| *known != rate) {
            let quota = Quota::per_second(NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN));
            self.limiter = Some((rate, Arc::new(RateLimiter::direct(quota))));
        }
        let limiter = self.limiter.as_ref().map(|(_, limiter)| limiter.clone());
        let mut owed = std::mem::take(&mut self.owed);
        // A connector of before may have set another: its marker is not to be taken for this one.
        self.number = self.number.saturating_add(1).max(now_us);
        let texts = self.ledger.iter().map(|(log, lane)| ledger::key(log, *lane)).collect();
        let marker = (self.marker.clone(), self.number);
        let (reader, store) = (self.reader.take(), self.store.clone());
        let reading = tokio::spawn(async move {
            if let Some(limiter) = limiter {
                while let Some(some) = NonZeroU32::new(owed.min(rate)) {
                    owed -= some.get();
                    // A second's worth fits.
                    let _ = limiter.until_n_ready(some).await;
                }
            }
            let reader = match reader {
                Some(reader) => reader,
                None => Reader::open(&store).await?,
            };
            let wanted = Wanted { marker, texts, keys: Vec::new() };
            read(reader, what, wanted, &keyspace).await.map_err(|fault| fault.at(&store.name))
        });
        self.work = Some(Work {
            job: name.to_owned(),
            to: job.to.join(","),
            number: self.number,
            asked_us: now_us,
            reading: Some(AbortOnDropHandle::new(reading)),
            read: None,
            passed: false,
        });
    }
}

/// The keys that a job names, as far as they travel.
fn named(job: &Job, keyspace: &Keyspace) -> Result<Vec<Name>, Fault> {
    let mut keys = Vec::new();
    for text in &job.keys {
        let (db, key) = parse_key(text.as_bytes())?;
        if !keyspace.carries(&key) {
            return Err(Fault::fatal(Code::Copy, format!("{text} does not travel"))
                .hint("see keys and exclude of the flow"));
        }
        keys.push((db, key));
    }
    // As few changes of the database as can be.
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

async fn read(
    mut reader: Reader,
    what: What,
    wanted: Wanted,
    keyspace: &Keyspace,
) -> Result<Read, Fault> {
    let (mut keys, after) = match what {
        What::Keys(keys, after) => (keys, after),
        What::Scan(scan) => scan_on(&mut reader, scan, keyspace).await?,
    };
    if keys.is_empty() {
        return Ok(Read { answer: Err(reader), rest: None, after });
    }
    let mut bytes = 0;
    let mut count = 0;
    for size in reader.memory(&keys[..keys.len().min(CHUNK_KEYS)]).await? {
        bytes += size;
        if count > 0 && bytes > CHUNK_BYTES {
            break;
        }
        count += 1;
    }
    let rest = keys.split_off(count);
    let (rest, after) = match rest.is_empty() {
        true => (None, after),
        false => (Some((rest, after)), After::SameScan),
    };
    let answer = reader.ask(Wanted { keys, ..wanted }).await?;
    Ok(Read { answer: Ok(answer), rest, after })
}

/// The next keys of a scan that travel, and where it goes on.
async fn scan_on(
    reader: &mut Reader,
    mut scan: Scan,
    keyspace: &Keyspace,
) -> Result<(Vec<Name>, After), Fault> {
    let (run, databases) = reader.sizes().await?;
    if scan.run != run {
        let of = databases.iter().map(|(_, keys)| keys).sum();
        let first = databases.first().map_or(0, |(db, _)| *db);
        // Cursors of another run mean nothing to this one.
        scan = Scan { job: scan.job, run, db: first, cursor: 0, keys: 0, of };
    }
    let mut keys = Vec::new();
    loop {
        let (cursor, some) = reader.scan(scan.db, scan.cursor, CHUNK_KEYS).await?;
        keys.extend(some.into_iter().filter(|key| keyspace.carries(key)).map(|key| (scan.db, key)));
        scan.cursor = cursor;
        if cursor == 0 {
            let Some((next, _)) = databases.iter().find(|(db, _)| *db > scan.db) else {
                scan.keys += keys.len() as u64;
                return Ok((keys, After::Over));
            };
            scan.db = *next;
        }
        if keys.len() >= CHUNK_KEYS {
            scan.keys += keys.len() as u64;
            return Ok((keys, After::Scan(scan)));
        }
    }
}
