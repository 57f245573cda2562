//! Brings the keys of one unit's Redis store to others while all of them are written.
//!
//! What a target holds and the authority lacks is asked for first: so no command of the log meets what should not be there
//! once all keys were read. Then the store is read by a scan, and what could not be settled is read again until nothing is
//! left.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use redis::Value;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};
use unitflow_change::name::{Log, Name, Stage, Topics};
use unitflow_change::redis::{Keyspace, parse_key, write_key};
use unitflow_change::seq::Seq;
use unitflow_change::tag::{HEADER, Tag};
use unitflow_change::{Code, Fault};
use unitflow_kafka::control::{self, Action, Order};
use unitflow_kafka::jobs::{self, Job, KEYS_MAX};
use unitflow_kafka::last_committed;
use unitflow_redis::chunk::Reader;
use unitflow_redis::client::refusal;
use unitflow_redis::{Client, Opened, Options, Stream};
use unitflow_sinks::redis::copies::aside_key;
use unitflow_sinks::redis::filling::{self, Ended, Filler, Note, Phase, Written};
use unitflow_sinks::redis::ledger;

use super::anew;
use crate::Outcome;
use crate::cli::{ResyncFullArgs, ResyncKeysArgs, ResyncStopArgs, ResyncWays};
use crate::config::Mesh;
use crate::order::whoever;
use crate::output::say;
use crate::pipeline::redis::{ConnectorState, Scan};
use crate::pipeline::{ensure_same_topic, is_worked_on, load_state};
use crate::wait;

/// How often a position is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The pause between two readings of what is not settled.
const SETTLE_EVERY: Duration = Duration::from_millis(300);
/// After how long without less to settle the command gives up.
const SETTLE_FOR: Duration = Duration::from_secs(60);
/// After how long nobody waits for single keys any more that are read.
const LEFT_AFTER: Duration = Duration::from_secs(600);
/// How often it is said how far the copy is, where there is no terminal to show it.
const SAY_EVERY: Duration = Duration::from_secs(20);
/// After how long without progress the likely cause is told.
const SILENT_FOR: Duration = Duration::from_secs(20);
/// About the keys of a scan's answer.
const SCANNED_AT_ONCE: usize = 1_000;
/// Jobs that are under way at once.
const JOBS_AT_ONCE: usize = 20;
/// Notes that are read at once.
const NOTES_AT_ONCE: usize = KEYS_MAX * JOBS_AT_ONCE;

/// The log of a unit's Redis store, if it is one that is meant.
pub fn log_of(mesh: &Mesh, unit: &Name, store: Option<&Name>) -> Option<Log> {
    let mut of_unit = mesh.cache_logs().map(|(log, _)| log).filter(|log| log.unit == *unit);
    match store {
        Some(store) => of_unit.find(|log| log.store == *store),
        // It has to be named where the unit has others.
        None if mesh.logs().any(|(log, _)| log.unit == *unit) => None,
        None => of_unit.next().filter(|_| of_unit.next().is_none()),
    }
}

/// What is brought, and where.
struct Plan<'m> {
    mesh: &'m Mesh,
    log: Log,
    to: Vec<Name>,
    keyspace: Keyspace,
    by: String,
    why: String,
    /// Whether all keys are brought.
    whole: bool,
    /// The command's own name.
    token: String,
}

/// Brings all keys that travel.
pub async fn full(mesh: &Mesh, log: Log, args: &ResyncFullArgs) -> Result<Outcome, Fault> {
    ensure_none(&log, "--table", !args.table.is_empty())?;
    ensure_none(&log, "--dry-run", args.dry_run)?;
    let plan = Plan::of(mesh, log, &args.ways, true)?;
    plan.begin(Phase::Copying).await?;
    plan.mend_log().await?;
    plan.make_lanes().await?;
    plan.wait_until_carried().await?;
    let mut removed = plan.extras().await?;
    plan.copy(args.rows_per_second).await?;
    plan.mark(Phase::Settling).await?;
    let mut left = plan.settle().await?;
    if left == 0 {
        removed += plan.extras().await?;
        left = plan.settle().await?;
    }
    plan.end(left, removed).await
}

/// Brings single keys.
pub async fn keys(
    mesh: &Mesh,
    log: Log,
    args: &ResyncKeysArgs,
    keys: BTreeSet<String>,
) -> Result<Outcome, Fault> {
    ensure_none(&log, "--dry-run", args.dry_run)?;
    let plan = Plan::of(mesh, log, &args.ways, false)?;
    let mut named = BTreeSet::new();
    for text in &keys {
        let (db, key) = parse_key(text.as_bytes()).map_err(|fault| {
            Fault { code: Code::Config, ..fault }
                .hint("a key is given as the topics have it: the number of its database and its name, [0,\"user:7\"]")
        })?;
        if !plan.keyspace.carries(&key) {
            return Err(Fault::fatal(Code::Config, format!("{text} does not travel"))
                .hint("see keys and exclude of the flow"));
        }
        let mut name = Vec::new();
        write_key(&mut name, db, &key);
        named.insert(String::from_utf8_lossy(&name).into_owned());
    }
    plan.begin(Phase::Settling).await?;
    plan.wait_until_carried().await?;
    plan.ask(named.into_iter().collect()).await?;
    let left = plan.settle().await?;
    plan.end(left, 0).await
}

/// Ends copies that are under way; what they have brought stays.
pub async fn stop(mesh: &Mesh, log: &Log, args: &ResyncStopArgs) -> Result<Outcome, Fault> {
    let by = whoever(args.by.as_ref())?;
    let (broker, topic) = (&mesh.unit(&log.unit)?.broker, mesh.topics.control(&log.unit));
    let known = jobs::read(broker, &topic, log).await?;
    if known.is_empty() {
        say(&format!("nothing is copied from {log}"));
        return Ok(Outcome::Fine);
    }
    for (name, (_, job)) in &known {
        jobs::take_back(broker, &topic, log, name, (&by, &args.why)).await?;
        let what = if job.store { "all keys" } else { "single keys" };
        say(&format!("stopped  {name}: {what} to {}, ordered by {}", job.to.join(", "), job.by));
    }
    say(&format!(
        "the targets stay half filled; to go on: unitflow resync full --from {} --store {} --why …",
        log.unit, log.store
    ));
    Ok(Outcome::Fine)
}

fn ensure_none(log: &Log, what: &str, given: bool) -> Result<(), Fault> {
    match given {
        true => Err(Fault::fatal(
            Code::Config,
            format!("{what} is for MySQL stores; {} is a Redis store", log.store),
        )),
        false => Ok(()),
    }
}

impl<'m> Plan<'m> {
    fn of(mesh: &'m Mesh, log: Log, ways: &ResyncWays, whole: bool) -> Result<Self, Fault> {
        let known: Vec<Name> =
            mesh.cache_ways().filter(|(way, _)| *way == log).map(|(_, to)| to).collect();
        if let Some(odd) = ways.to.iter().find(|to| !known.contains(to)) {
            let what = format!("nothing flows from {log} to {odd}");
            return Err(Fault::fatal(Code::Config, what).hint("see the flows in the configuration"));
        }
        let to = if ways.to.is_empty() { known } else { ways.to.clone() };
        to.iter().try_for_each(|unit| ensure_guarded(mesh, &log, unit))?;
        let by = whoever(ways.by.as_ref())?;
        let keyspace = mesh.cache_flows[&log.store].keyspace.clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let token = format!("{:x}", now.as_nanos());
        Ok(Self { mesh, log, to, keyspace, by, why: ways.why.clone(), whole, token })
    }

    /// The units in which it is marked: all in which anything of the store is applied.
    fn marked(&self) -> impl Iterator<Item = &'m Name> {
        self.mesh.cache_flows[&self.log.store].to.iter()
    }

    async fn client(&self, unit: &Name) -> Result<Client, Fault> {
        Client::open(self.mesh.cache(unit, &self.log.store)?).await
    }

    fn to_text(&self) -> String {
        self.to.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Notes in the targets that they are being filled, and lets lanes that a conflict stopped try again.
    async fn begin(&self, phase: Phase) -> Result<(), Fault> {
        for (log, to) in self.ways() {
            let flow = Topics::flow(&log, &to);
            let (broker, topic) = self.control(&to)?;
            if control::last(broker, &topic, &flow).await?.pauses() {
                return Err(Fault::fatal(Code::Control, format!("the flow {flow} is paused"))
                    .hint(format!("unitflow resume {flow} --why …, then this again")));
            }
        }
        for unit in self.marked() {
            let mut client = self.client(unit).await?;
            let fillers = filling::fillers(&mut client).await?;
            let other = fillers.iter().find(|(log, _)| *log != self.log.to_string());
            if let Some((log, filler)) = other {
                return Err(Fault::fatal(
                    Code::Copy,
                    format!(
                        "the store is being filled from {log}, as unit {unit} says ({})",
                        filler.said
                    ),
                )
                .hint("let that come to its end first: the same command again"));
            }
            // Half of a store is more than some of its keys.
            if fillers.iter().any(|(_, filler)| filler.whole) && !self.whole {
                return Err(Fault::fatal(
                    Code::Copy,
                    format!("the store is being filled from {} as a whole", self.log),
                )
                .hint("unitflow resync full … goes on with it"));
            }
        }
        self.mark(phase).await?;
        for (log, to) in self.ways() {
            let (broker, topic) = self.control(&to)?;
            let flow = Topics::flow(&log, &to);
            let wake = match control::last(broker, &topic, &flow).await?.order {
                Some(Order { action: skip @ Action::Skip { .. }, .. }) => skip,
                _ => Action::Resume { tables: vec!["unitflow.none".to_owned()] },
            };
            control::send(broker, &topic, &flow, &Order::new(wake, &self.by, &self.why)).await?;
        }
        Ok(())
    }

    /// Says in every unit how far the targets are filled; see [`filling`].
    async fn mark(&self, phase: Phase) -> Result<(), Fault> {
        for unit in self.marked() {
            let phase = match () {
                () if self.to.contains(unit) => phase,
                () if *unit == self.log.unit => Phase::Copying,
                () => Phase::Settling,
            };
            let said = format!("{}: {}", self.by, self.why);
            let filler = Filler { phase, whole: self.whole, token: self.token.clone(), said };
            filling::set(&mut self.client(unit).await?, &self.log, &filler).await?;
        }
        Ok(())
    }

    /// The ways of the store's logs.
    fn ways(&self) -> Vec<(Log, Name)> {
        let ways = self.mesh.cache_ways();
        ways.filter(|(log, _)| log.store == self.log.store).collect()
    }

    fn control(&self, unit: &Name) -> Result<(&unitflow_kafka::Broker, String), Fault> {
        Ok((&self.mesh.unit(unit)?.broker, self.mesh.topics.control(unit)))
    }

    /// Lets the log go on behind a gap, where its connector can't: what the gap held comes with the copy.
    async fn mend_log(&self) -> Result<(), Fault> {
        if is_worked_on(self.mesh, &self.log.unit, &self.log, Stage::Connector).await? {
            return Ok(());
        }
        let store = self.mesh.cache(&self.log.unit, &self.log.store)?;
        let position = self.state().await?.position;
        let opened = Stream::open(store, Some(&position), Options::default()).await?;
        if matches!(opened, Opened::Full(_)) {
            let ways = self.mesh.cache_ways().filter(|(log, _)| *log == self.log);
            if let Some((_, left)) = { ways }.find(|(_, to)| !self.to.contains(to)) {
                return Err(Fault::fatal(
                    Code::PositionPurged,
                    format!("what is to be captured of {} next is gone, and {left} would not get what it held", self.log),
                )
                .hint("copy to all units: the same without --to"));
            }
            warn!(log = %self.log, "what is to be captured next is gone; the copy brings what it held");
            drop(opened);
            anew::go_on(self.mesh, &self.log, &self.why).await?;
        }
        Ok(())
    }

    /// Makes the ledger keys that a target lacks: it is new, or has lost all. The authority's lanes go on from here, those of third
    /// units from where the authority stands: what came before is in the copy, and what it holds already of what comes
    /// is written over by it.
    async fn make_lanes(&self) -> Result<(), Fault> {
        let mut source = self.client(&self.log.unit).await?;
        for (log, to) in self.ways().into_iter().filter(|(_, to)| self.to.contains(to)) {
            let mut client = self.client(&to).await?;
            let lanes = self.mesh.lanes(&log);
            let known = ledger::read_all(&mut client, &log, lanes).await?;
            let is_missing = |lane: &i32| known.iter().all(|(known, _)| known != lane);
            let missing: Vec<i32> = (0..lanes).filter(is_missing).collect();
            if missing.is_empty() {
                continue;
            }
            let of_source = ledger::read_all(&mut source, &log, lanes).await?;
            if log != self.log && known.is_empty() && of_source.is_empty() {
                // It has not begun anywhere.
                continue;
            }
            for lane in &missing {
                let (seq, id, offset) = match log == self.log {
                    true => self.end_of(*lane).await?,
                    false => of_source
                        .iter()
                        .find(|(known, _)| known == lane)
                        .map(|(_, known)| (known.seq, known.topic_id.clone(), known.topic_offset))
                        .ok_or_else(|| {
                            Fault::fatal(
                                Code::LedgerMissing,
                                format!("{} lacks the ledger keys of {log} as well, so what it holds of that nobody knows", self.log.unit),
                            )
                            .hint("copy from a unit that has them")
                        })?,
                };
                ledger::create(&mut client, &log, *lane, (seq, &id, offset)).await?;
            }
            say(&format!("{log} to {to}: {} lanes in the ledger, which it lacked", missing.len()));
        }
        Ok(())
    }

    /// The last record of a lane of the log, with its topic's id, and the offset behind it.
    async fn end_of(&self, lane: i32) -> Result<(Seq, String, i64), Fault> {
        let broker = &self.mesh.unit(self.mesh.read_at(&self.log))?.broker;
        let topic = self.mesh.topics.tagged(&self.log);
        let id = ensure_same_topic(broker, &topic, None).await?;
        let last = last_committed(broker, &topic, lane).await?.ok_or_else(|| {
            Fault::retry(Code::TopicMissing, format!("{topic}[{lane}] has no record yet"))
        })?;
        let seq = Tag::parse(last.header(HEADER).unwrap_or_default())?.seq;
        Ok((seq, id, last.offset + 1))
    }

    async fn state(&self) -> Result<ConnectorState, Fault> {
        let broker = &self.mesh.unit(&self.log.unit)?.broker;
        let state = load_state(broker, &self.mesh.topics, &self.log, Stage::Connector).await?;
        state.ok_or_else(|| {
            Fault::fatal(Code::PositionMissing, format!("log {} has no position", self.log))
                .hint("unitflow init first")
        })
    }

    /// Waits until the log carries what the configuration says.
    async fn wait_until_carried(&self) -> Result<(), Fault> {
        let mut said: Option<Instant> = None;
        while self.state().await?.keyspace != self.keyspace {
            if said.is_none_or(|said| said.elapsed() > SAY_EVERY) {
                warn!(
                    "waiting: log {} does not carry what the configuration says; start the connector of unit {} with it",
                    self.log, self.log.unit
                );
                said = Some(Instant::now());
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Asks for what the targets hold and the authority lacks; gives how many keys that were.
    async fn extras(&self) -> Result<usize, Fault> {
        let mut count = 0;
        let mut source = self.client(&self.log.unit).await?;
        for unit in &self.to {
            let mut reader = Reader::open(self.mesh.cache(unit, &self.log.store)?).await?;
            let (_, databases) = reader.sizes().await?;
            let mut asked = Vec::new();
            for (db, _) in databases {
                let mut cursor = 0;
                loop {
                    let (next, found) = reader.scan(db, cursor, SCANNED_AT_ONCE).await?;
                    let found: Vec<Vec<u8>> =
                        found.into_iter().filter(|key| self.keyspace.carries(key)).collect();
                    asked.extend(lacking(&mut source, db, &found).await?);
                    if asked.len() >= NOTES_AT_ONCE || next == 0 {
                        count += asked.len();
                        self.ask(std::mem::take(&mut asked)).await?;
                    }
                    if next == 0 {
                        break;
                    }
                    cursor = next;
                }
            }
        }
        Ok(count)
    }

    /// Copies all keys, or goes on with a copy that was ordered before.
    async fn copy(&self, rows_per_second: Option<u32>) -> Result<(), Fault> {
        let (broker, topic) = self.control(&self.log.unit)?;
        let state = self.state().await?;
        let mut job = self.job();
        (job.store, job.rows_per_second) = (true, rows_per_second);
        let mut under_way = None;
        for (name, (_, known)) in jobs::read(broker, &topic, &self.log).await? {
            if !known.store {
                // Left by a command that was killed.
                if state.copy.done.contains_key(&name) && is_left(&name) {
                    jobs::remove(broker, &topic, &self.log, &name).await?;
                }
                continue;
            }
            let open =
                !state.copy.done.contains_key(&name) && !state.copy.failed.contains_key(&name);
            if known.to == job.to && open && under_way.is_none() {
                info!(job = name, "going on with the copy that was ordered before");
                if rows_per_second.is_some() && known.rows_per_second != rows_per_second {
                    jobs::send(broker, &topic, &self.log, &name, &job).await?;
                }
                under_way = Some(name);
            } else if known.to == job.to {
                jobs::remove(broker, &topic, &self.log, &name).await?;
            }
        }
        let name = match under_way {
            Some(name) => name,
            None => self.order("full", &job).await?,
        };
        let mut bar = Bar::new(&format!("{} to {}", self.log, self.to_text()));
        self.follow(&name, Some(&mut bar)).await?;
        bar.close();
        jobs::remove(broker, &topic, &self.log, &name).await
    }

    /// Has keys read, and waits until the targets have taken them.
    async fn ask(&self, keys: Vec<String>) -> Result<(), Fault> {
        let (broker, topic) = self.control(&self.log.unit)?;
        for wave in keys.chunks(KEYS_MAX * JOBS_AT_ONCE) {
            let mut names = Vec::new();
            for keys in wave.chunks(KEYS_MAX) {
                let mut job = self.job();
                job.keys = keys.to_vec();
                names.push(self.order("keys", &job).await?);
            }
            for name in &names {
                self.follow(name, None).await?;
                jobs::remove(broker, &topic, &self.log, name).await?;
            }
        }
        Ok(())
    }

    fn job(&self) -> Job {
        let to: Vec<String> = self.to.iter().map(ToString::to_string).collect();
        Job::new(&to, &self.by, &self.why)
    }

    async fn order(&self, kind: &str, job: &Job) -> Result<String, Fault> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("{kind}-{:x}", now.as_nanos());
        let (broker, topic) = self.control(&self.log.unit)?;
        jobs::send(broker, &topic, &self.log, &name, job).await?;
        Ok(name)
    }

    /// Waits until a job is done and the targets have applied its last record.
    async fn follow(&self, name: &str, mut bar: Option<&mut Bar>) -> Result<(), Fault> {
        let (broker, topic) = self.control(&self.log.unit)?;
        let (mut moved, mut last, mut looked) = (Instant::now(), None, Instant::now());
        let end = loop {
            let state = self.state().await?;
            if let Some(why) = state.copy.failed.get(name) {
                jobs::remove(broker, &topic, &self.log, name).await?;
                return Err(Fault::fatal(Code::Copy, format!("the copy {name} failed: {why}")));
            }
            if let Some(end) = state.copy.done.get(name) {
                break *end;
            }
            if let (Some(bar), Some(scan)) = (&mut bar, &state.copy.scan) {
                bar.show(scan);
            }
            if last.replace(state.seq) != Some(state.seq) {
                moved = Instant::now();
            }
            if moved.elapsed() > SILENT_FOR {
                warn!("nothing is captured in unit {}: does its connector run?", self.log.unit);
                moved = Instant::now();
            }
            if looked.elapsed() > Duration::from_secs(2) {
                looked = Instant::now();
                let known = jobs::read(broker, &topic, &self.log).await?;
                if !known.contains_key(name) && !self.state().await?.copy.done.contains_key(name) {
                    return Err(Fault::fatal(Code::Copy, format!("the copy {name} was stopped"))
                        .hint("unitflow status shows what stays half filled, and how to go on"));
                }
            }
            sleep(LOOK_EVERY).await;
        };
        self.arrived(end).await
    }

    async fn arrived(&self, end: Seq) -> Result<(), Fault> {
        for unit in &self.to {
            let mut client = self.client(unit).await?;
            let mut begun = Instant::now();
            loop {
                let lanes = self.mesh.lanes(&self.log);
                let known = ledger::read_all(&mut client, &self.log, lanes).await?;
                if !known.is_empty() && known.iter().all(|(_, standing)| standing.seq >= end) {
                    break;
                }
                if begun.elapsed() > SILENT_FOR {
                    warn!(
                        "unit {unit} has not applied all yet: does its sink run? unitflow status shows more"
                    );
                    begun = Instant::now();
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Has keys read again until none is in doubt; gives how many are left where that does not come to an end.
    async fn settle(&self) -> Result<u64, Fault> {
        let (mut least, mut since) = (u64::MAX, Instant::now());
        loop {
            let of_targets = self.notes(true).await?;
            let left = of_targets.keys.len() as u64;
            if left == 0 {
                // What the targets' applications did before that has to be known here.
                self.drain().await?;
            }
            let of_others = self.notes(false).await?;
            if left == 0 && of_others.keys.is_empty() {
                return Ok(0);
            }
            if left < least {
                (least, since) = (left, Instant::now());
            }
            if since.elapsed() > SETTLE_FOR {
                return Ok(left.max(1));
            }
            let keys: BTreeSet<String> =
                of_targets.keys.into_iter().chain(of_others.keys).collect();
            info!(keys = keys.len(), "read again");
            self.ask(keys.into_iter().collect()).await?;
            for (unit, written) in of_others.written {
                filling::forget(&mut self.client(unit).await?, &written).await?;
            }
            if left == 0 && self.notes(true).await?.keys.is_empty() {
                return Ok(0);
            }
            sleep(SETTLE_EVERY).await;
        }
    }

    /// The keys that are noted in the targets, or in the other units. Notes of which nothing comes any more are taken back: of
    /// units that have left, of keys that no longer travel.
    async fn notes(&self, of_targets: bool) -> Result<Noted<'m>, Fault> {
        let mut noted = Noted { keys: BTreeSet::new(), written: Vec::new() };
        for unit in self.marked().filter(|unit| self.to.contains(unit) == of_targets) {
            let mut client = self.client(unit).await?;
            let (mut known, mut stale) = (Vec::new(), Vec::new());
            for (written, note) in filling::notes(&mut client, NOTES_AT_ONCE).await? {
                let applies = |note: &Note| {
                    self.mesh.cache_ways().any(|(log, to)| log == note.log && to == *unit)
                };
                let travels = |note: &Note| {
                    parse_key(note.key.as_bytes()).is_ok_and(|(_, key)| self.keyspace.carries(&key))
                };
                match note.filter(|note| applies(note) && travels(note)) {
                    Some(note) => {
                        noted.keys.insert(note.key);
                        known.push(written);
                    }
                    None => stale.push(written),
                }
            }
            filling::forget(&mut client, &stale).await?;
            noted.written.push((unit, known));
        }
        Ok(noted)
    }

    /// Waits until the authority has applied all that the targets have written by now.
    async fn drain(&self) -> Result<(), Fault> {
        for unit in &self.to {
            let log = Log { unit: unit.clone(), store: self.log.store.clone() };
            let back = (log, self.log.unit.clone());
            if !self.mesh.cache_ways().any(|way| way == back) {
                continue;
            }
            let mut missing = String::new();
            let follow = wait::redis::follow(self.mesh, (&back.0, &back.1), None, &mut missing);
            match timeout(SETTLE_FOR, follow).await {
                Ok(followed) => followed?,
                Err(_) => {
                    return Err(Fault::fatal(
                        Code::Timeout,
                        format!("{} has not applied what {unit} wrote, so nobody knows what is settled", self.log.unit),
                    )
                    .hint("unitflow status shows which worker does not run; then the same command again"));
                }
            }
        }
        Ok(())
    }

    async fn end(&self, mut left: u64, removed: usize) -> Result<Outcome, Fault> {
        // The targets first: the others count as long as one of them is marked.
        let settled = left == 0;
        for unit in self.to.iter().filter(|_| settled) {
            let mut client = self.client(unit).await?;
            match filling::end(&mut client, &self.log, &self.token, true).await? {
                Ended::Yes => self.tidy(unit).await?,
                Ended::ByAnother => {}
                Ended::Unsettled => left = filling::count(&mut client).await?.max(1),
                Ended::Unknown => {
                    let what = format!("unit {unit} no longer knows that it is being filled");
                    return Err(Fault::retry(Code::Copy, format!("{what}: from the beginning")));
                }
            }
        }
        for unit in self.marked().filter(|unit| left == 0 && !self.to.contains(unit)) {
            filling::end(&mut self.client(unit).await?, &self.log, &self.token, false).await?;
        }
        let (to, from) = (self.to_text(), &self.log.unit);
        if left > 0 {
            say(&format!(
                "{left} keys are not settled: they are written in several units faster than they are read; run this again once that is over"
            ));
            return Ok(Outcome::Findings);
        }
        let keys = self.keyspace.keys.join(", ");
        say(&match removed {
            0 => format!("{to} holds what {from} holds: {keys}"),
            _ => format!(
                "{to} holds what {from} holds: {keys}; {removed} keys that {from} lacked were asked for"
            ),
        });
        Ok(Outcome::Fine)
    }

    /// Removes what killed sinks may have left of keys that were built aside.
    async fn tidy(&self, unit: &Name) -> Result<(), Fault> {
        let mut reader = Reader::open(self.mesh.cache(unit, &self.log.store)?).await?;
        let (_, databases) = reader.sizes().await?;
        let mut pipeline = redis::Pipeline::new();
        for (db, _) in databases {
            pipeline.cmd("SELECT").arg(db);
            for lane in 0..self.mesh.lanes(&self.log) {
                pipeline.cmd("UNLINK").arg(aside_key(&self.log, lane));
            }
        }
        pipeline.cmd("SELECT").arg(0);
        let mut client = self.client(unit).await?;
        let answers = client.answers(&pipeline).await?;
        answers.iter().find_map(refusal).map_or(Ok(()), |fault| Err(fault.at(client.place())))
    }
}

/// What is noted in some units.
struct Noted<'m> {
    /// The keys, as records name them.
    keys: BTreeSet<String>,
    /// The notes of each unit, as they are written.
    written: Vec<(&'m Name, Vec<Written>)>,
}

/// Whether a unit can tell what is newer than a copy: by its own log, or because nobody but the copy's source writes there.
fn ensure_guarded(mesh: &Mesh, log: &Log, unit: &Name) -> Result<(), Fault> {
    let flow = &mesh.cache_flows[&log.store];
    let captured = flow.from.contains(unit);
    if captured && !flow.to.contains(&log.unit) {
        return Err(Fault::fatal(
            Code::Config,
            format!("what {unit} writes does not come to {}, so nobody can tell what of it is newer than a copy", log.unit),
        )
        .hint(format!("let the store flow to {} as well, or copy from a unit that has all", log.unit)));
    }
    let mut others = mesh
        .cache_ways()
        .filter(|(other, to)| to == unit && other.store == log.store && other != log);
    match others.next().filter(|_| !captured) {
        None => Ok(()),
        Some((other, _)) => Err(Fault::fatal(
            Code::Config,
            format!("unit {unit} also applies {other}, and nothing is captured from it: it can't tell what is newer than a copy"),
        )
        .hint(format!("let {} flow from {unit} too (from of the flow): keys are judged by its own log", log.store))),
    }
}

/// Whether nobody waits for a job any more that is done, by the time in its name.
fn is_left(name: &str) -> bool {
    let ordered = name.rsplit('-').next().and_then(|nanos| u128::from_str_radix(nanos, 16).ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ordered.is_none_or(|ordered| now.as_nanos().saturating_sub(ordered) > LEFT_AFTER.as_nanos())
}

/// Those of some keys that a store lacks, as records name them.
async fn lacking(client: &mut Client, db: u32, keys: &[Vec<u8>]) -> Result<Vec<String>, Fault> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = redis::Pipeline::new();
    pipeline.cmd("SELECT").arg(db);
    for key in keys {
        pipeline.cmd("EXISTS").arg(key);
    }
    let answers = client.answers(&pipeline).await?;
    if let Some(fault) = answers.iter().find_map(refusal) {
        return Err(fault.at(client.place()));
    }
    let found = keys.iter().zip(&answers[1..]).filter(|(_, answer)| **answer == Value::Int(0));
    let name = |key: &[u8]| {
        let mut name = Vec::new();
        write_key(&mut name, db, key);
        String::from_utf8_lossy(&name).into_owned()
    };
    Ok(found.map(|(key, _)| name(key)).collect())
}

/// Progress on stderr; a line now and then where that is no terminal.
struct Bar {
    bar: ProgressBar,
    said: Instant,
}

impl Bar {
    fn new(what: &str) -> Self {
        let bar = ProgressBar::new(1);
        let style =
            "  {bar:30} {human_pos} of about {human_len} keys  {per_sec}  {eta} left  {wide_msg}";
        bar.set_style(
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(what.to_owned());
        Self { bar, said: Instant::now() }
    }

    fn show(&mut self, scan: &Scan) {
        self.bar.set_length(scan.of.max(scan.keys).max(1));
        self.bar.set_position(scan.keys);
        if self.bar.is_hidden() && self.said.elapsed() > SAY_EVERY {
            self.said = Instant::now();
            let (keys, of) = (HumanCount(scan.keys), HumanCount(scan.of));
            let rest = HumanDuration(self.bar.eta());
            info!(%keys, %of, %rest, "copying {}", self.bar.message());
        }
    }

    fn close(&self) {
        info!(keys = %HumanCount(self.bar.position()), "copied");
        self.bar.finish_and_clear();
    }
}
