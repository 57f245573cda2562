//! Brings the keys of one unit's Redis store to others while all of them are written.
//!
//! | file | what it does |
//! |---|---|
//! | `road` | lets the log go on behind a gap, and targets begin that lack their place in it |
//! | `copy` | orders copies and follows them to their end |
//! | `settle` | has keys read again until none is in doubt, removes what the authority lacks |
//!
//! What a target holds and the authority lacks is asked for first: so no command of the log meets what should not be there
//! once all keys were read. Then the store is read by a scan, and what could not be settled is read again until nothing is
//! left.

mod copy;
mod road;
mod settle;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::warn;
use unitflow_change::name::{Log, Name, Stage, Topics};
use unitflow_change::redis::{Keyspace, parse_key, write_key};
use unitflow_change::{Code, Fault};
use unitflow_kafka::control::{self, Action, Order};
use unitflow_kafka::jobs;
use unitflow_redis::Client;
use unitflow_sinks::redis::filling::{self, Filler, Phase};

use crate::Outcome;
use crate::cli::{ResyncFullArgs, ResyncKeysArgs, ResyncStopArgs, ResyncWays};
use crate::config::Mesh;
use crate::order::whoever;
use crate::output::say;
use crate::pipeline::look_at_state;
use crate::pipeline::redis::ConnectorState;

/// How often a position is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often it is said how far the copy is, where there is no terminal to show it.
const SAY_EVERY: Duration = Duration::from_secs(20);
/// Jobs that are under way at once.
const JOBS_AT_ONCE: usize = 20;

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
    // What has to be refused is, before anything is marked.
    let gap = plan.has_gap().await?;
    let lanes = plan.lacking_lanes().await?;
    let older = plan.begin(Phase::Copying).await?;
    if gap {
        plan.mend_log().await?;
    }
    plan.make_lanes(lanes).await?;
    plan.wait_until_carried().await?;
    plan.wait_for_thirds().await?;
    let mut removed = plan.extras().await?.len();
    plan.copy(args.rows_per_second).await?;
    plan.goes_on_settling().await?;
    let mut left = plan.settle(None, older.as_deref()).await?;
    if left == 0 {
        let extras = plan.extras().await?;
        removed += extras.len();
        left = plan.settle(Some(extras), None).await?;
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
    let older = plan.begin(Phase::Spreading).await?;
    plan.wait_until_carried().await?;
    plan.wait_for_thirds().await?;
    plan.ask(named.iter().cloned().collect()).await?;
    // What a command was about that was killed nobody knows any more.
    let suspects = older.is_none().then_some(named);
    let left = plan.settle(suspects, older.as_deref()).await?;
    plan.end(left, 0).await
}

/// Ends copies that are under way; what they have brought stays.
pub async fn stop(mesh: &Mesh, log: &Log, args: &ResyncStopArgs) -> Result<Outcome, Fault> {
    let by = whoever(args.by.as_ref())?;
    let (broker, topic) = (&mesh.unit(&log.unit)?.broker, mesh.topics.control(&log.unit));
    let known = jobs::read(broker, &topic, log).await?;
    if known.is_empty() && !args.give_up {
        say(&format!("nothing is copied from {log}"));
        return Ok(Outcome::Fine);
    }
    for (name, (_, job)) in &known {
        jobs::take_back(broker, &topic, log, name, (&by, &args.why)).await?;
        let what = if job.store { "all keys" } else { "single keys" };
        say(&format!("stopped  {name}: {what} to {}, ordered by {}", job.to.join(", "), job.by));
    }
    if !args.give_up {
        say(
            "the targets stay half filled: unitflow status shows them, and how to go on; --give-up forgets it",
        );
        return Ok(Outcome::Fine);
    }
    for unit in &mesh.cache_flows[&log.store].to {
        let mut client = Client::open(mesh.cache(unit, &log.store)?).await?;
        let known = filling::fillers(&mut client).await?;
        if known.iter().any(|(known, _)| *known == log.to_string()) {
            filling::give_up(&mut client, log).await?;
            say(&format!("given up  {unit}: what it holds of {} is what it is now", log.store));
        }
    }
    Ok(Outcome::Fine)
}

fn ensure_none(log: &Log, what: &str, given: bool) -> Result<(), Fault> {
    match given {
        true => Err(Fault::fatal(
            Code::Config,
            format!("{what} is for MySQL stores; {} is a Redis store", log.store),
        )
        .hint("give the command without it")),
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

    /// A connection to a unit that is neither the authority nor filled: what it would note can be done without.
    async fn client_of_third(&self, unit: &Name) -> Result<Option<Client>, Fault> {
        let needed = self.to.contains(unit) || *unit == self.log.unit;
        match self.client(unit).await {
            Err(fault) if fault.is_retry() && !needed => {
                warn!(code = %fault.code, "{}; going on without unit {unit}", fault.what);
                Ok(None)
            }
            client => client.map(Some),
        }
    }

    /// Says that the targets are being filled, and lets lanes that a conflict stopped try again. Gives the command whose place
    /// this one takes.
    async fn begin(&self, phase: Phase) -> Result<Option<String>, Fault> {
        for (log, to) in self.ways_that_matter() {
            let flow = Topics::flow(&log, &to);
            let (broker, topic) = self.control(&to)?;
            if control::last(broker, &topic, &flow).await?.pauses() {
                return Err(Fault::fatal(Code::Control, format!("the flow {flow} is paused"))
                    .hint(format!("unitflow resume {flow} --why …, then this again")));
            }
        }
        let to: BTreeSet<String> = self.to.iter().map(ToString::to_string).collect();
        let mut older = None;
        for unit in self.marked() {
            let Some(mut client) = self.client_of_third(unit).await? else { continue };
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
                .hint("let that come to its end first: unitflow status shows its command; or give it up: unitflow resync stop --from … --store … --give-up --why …"));
            }
            let Some((_, filler)) = fillers.first() else { continue };
            if !filler.to.is_subset(&to) || filler.to.is_empty() {
                let all = filler.to.union(&to).cloned().collect::<Vec<_>>().join(",");
                return Err(Fault::fatal(
                    Code::Copy,
                    format!("the store is being filled in other units too ({})", filler.said),
                )
                .hint(format!("give the same command for all of them: --to {all}")));
            }
            older = Some(filler.token.clone());
            // Half of a store is more than some of its keys.
            if filler.whole && !self.whole {
                return Err(Fault::fatal(
                    Code::Copy,
                    format!("the store is being filled from {} as a whole", self.log),
                )
                .hint("unitflow resync full … goes on with it"));
            }
        }
        self.mark(phase, None).await?;
        for (log, to) in self.ways_that_matter() {
            let (broker, topic) = self.control(&to)?;
            let flow = Topics::flow(&log, &to);
            let wake = match control::last(broker, &topic, &flow).await?.order {
                Some(Order { action: skip @ Action::Skip { .. }, .. }) => skip,
                _ => Action::Resume { tables: vec!["unitflow.none".to_owned()] },
            };
            control::send(broker, &topic, &flow, &Order::new(wake, &self.by, &self.why)).await?;
        }
        Ok(older)
    }

    /// All keys were read once.
    async fn goes_on_settling(&self) -> Result<(), Fault> {
        self.mark(Phase::Spreading, Some(&self.token)).await
    }

    /// Another command took this one's place, or an operator gave the filling up.
    fn superseded(&self, unit: &Name) -> Fault {
        Fault::fatal(
            Code::Copy,
            format!("unit {unit} no longer knows this command: another took its place, the filling was given up, or its store went back in time"),
        )
        .hint("unitflow status shows whether it is still being filled, and how to go on")
    }

    /// Says in every unit how far the targets are filled; see [`filling`].
    async fn mark(&self, phase: Phase, over: Option<&str>) -> Result<(), Fault> {
        let filler = Filler {
            phase,
            whole: self.whole,
            token: self.token.clone(),
            to: self.to.iter().map(ToString::to_string).collect(),
            said: format!("{}: {}", self.by, self.why),
        };
        for unit in self.marked() {
            if let Some(mut client) = self.client_of_third(unit).await? {
                let set = filling::set(&mut client, &self.log, &filler, over).await?;
                if !set && self.to.contains(unit) {
                    return Err(self.superseded(unit));
                }
            }
        }
        Ok(())
    }

    /// The ways of the store's logs.
    fn ways(&self) -> Vec<(Log, Name)> {
        let ways = self.mesh.cache_ways();
        ways.filter(|(log, _)| log.store == self.log.store).collect()
    }

    /// Those that a copy needs: into the targets, and from them to the authority.
    fn ways_that_matter(&self) -> Vec<(Log, Name)> {
        let matters = |(log, to): &(Log, Name)| {
            self.to.contains(to) || *to == self.log.unit && self.to.contains(&log.unit)
        };
        self.ways().into_iter().filter(matters).collect()
    }

    fn control(&self, unit: &Name) -> Result<(&unitflow_kafka::Broker, String), Fault> {
        Ok((&self.mesh.unit(unit)?.broker, self.mesh.topics.control(unit)))
    }

    async fn state(&self) -> Result<ConnectorState, Fault> {
        let broker = &self.mesh.unit(&self.log.unit)?.broker;
        // A killed connector may have left a transaction open: what it had committed counts.
        let state = look_at_state(broker, &self.mesh.topics, &self.log, Stage::Connector).await?;
        state.ok_or_else(|| {
            Fault::fatal(Code::PositionMissing, format!("log {} has no position", self.log))
                .hint("unitflow init first")
        })
    }
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
