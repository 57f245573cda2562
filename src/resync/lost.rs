//! Lists what a unit lost that went back in time, and gives it back.
//!
//! The rows that it lost are noted in the unit itself; then its log goes on behind what its server
//! still has, as a new generation. Each noted row is copied to it from the unit named. A row that it has
//! written since is newer, whatever the other unit has applied: that one is copied from it to all
//! others. Both are known by the unit's own log behind the generation's first record.
//!
//! Killed anywhere it may be given again: before the log was turned all is found out anew, behind it
//! the notes say what is left.

use std::collections::BTreeSet;

use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use unitflow_change::ddl::TableName;
use unitflow_change::name::{Log, Name};
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault, inject};
use unitflow_kafka::jobs::Sparing;
use unitflow_mysql::connect::connect;
use unitflow_sinks::copy::filling::{self, Mark, Note};
use unitflow_sinks::ledger;
use unitflow_verifier::Finding;

use super::filler::Filler;
use super::loss::{self, Loss};
use super::plan::Plan;
use super::turn::{self, Onward};
use super::{copy, dry, settle};
use crate::Outcome;
use crate::bridge;
use crate::cli::{ResyncLostArgs, ResyncWays};
use crate::config::Mesh;
use crate::output::{columns, say};
use crate::wait::{self, Until, Within};

/// Why a row is noted that was lost.
const LOST: &str = "lost";
/// Notes written at once.
const NOTES_AT_ONCE: usize = 500;
/// After how long it is said what is waited for.
const SAY_EVERY_SECONDS: u64 = 30;

/// Finds out what is lost, lists it, and gives it back unless it is only asked for.
pub async fn run(mesh: &Mesh, args: &ResyncLostArgs) -> Result<Outcome, Fault> {
    let mut back = Plan::of_ways(mesh, &ways(args, &args.from, Some(&args.unit)))?;
    let own = Log { unit: args.unit.clone(), store: back.log.store.clone() };
    if !mesh.flows[&own.store].from.contains(&own.unit) {
        return Err(Fault::fatal(Code::Config, format!("nothing is captured from {own}"))
            .hint(format!("unitflow resync full --from {} --to {}", args.from, args.unit)));
    }
    let state = copy::state(mesh, &own).await?;
    let filler = match turned(&back, &own, state.seq).await? {
        Some((tables, filler)) => {
            back.tables = tables;
            filler
        }
        None => {
            let Some(loss) = loss::find(mesh, &own, &state).await? else {
                if !args.dry_run {
                    forget(&back, &own.unit).await?;
                }
                say(&format!(
                    "nothing is lost: the store of {own} has all that was captured from it"
                ));
                return Ok(Outcome::Fine);
            };
            tell(&own, &loss);
            if !loss.keys.is_empty() {
                back = Plan::of_keys(mesh, &ways(args, &args.from, Some(&args.unit)), &loss.keys)
                    .await?;
            }
            let listed = list(&back, args, &loss.keys).await?;
            if args.dry_run {
                return Ok(listed);
            }
            let filler = Filler::Lost { from: turn::next(&state)?, unit: Some(own.unit.clone()) };
            note(&back, &own, &loss.keys, &filler).await?;
            inject::die_at("die_before_turning");
            let onward = Onward { position: Some(loss.position), ..Onward::default() };
            turn::to(mesh, &own, &state, onward).await?;
            filler
        }
    };
    if args.dry_run {
        let keys = noted(&back, &own.unit).await?;
        return list(&back, args, &keys).await;
    }
    say(&format!(
        "{own} goes on behind what its store has: start the connector of unit {} again",
        own.unit
    ));
    if back.tables.is_empty() {
        return Ok(Outcome::Fine);
    }
    let mut forth = Plan::of_ways(mesh, &ways(args, &own.unit, None))?;
    forth.tables.clone_from(&back.tables);
    let sparing = Sparing { log: own.to_string(), seq: filler.from() };
    finish((&back, &filler), &forth, &sparing).await
}

fn ways(args: &ResyncLostArgs, from: &Name, to: Option<&Name>) -> ResyncWays {
    ResyncWays {
        from: from.clone(),
        to: to.cloned().into_iter().collect(),
        store: args.store.clone(),
        why: args.why.clone(),
        by: args.by.clone(),
    }
}

/// What a command before this one has begun: the tables, and how they are marked; none where the log was not
/// turned yet.
async fn turned(
    back: &Plan<'_>,
    own: &Log,
    reached: Seq,
) -> Result<Option<(Vec<TableName>, Filler)>, Fault> {
    let mut conn = back.connect(&own.unit).await?;
    let marks = filling::marks(&mut conn).await?.into_iter();
    let (tables, fillers): (Vec<TableName>, Vec<Filler>) = marks
        .map(|mark| (mark.table, Filler::parse(&mark.filler)))
        .filter(|(_, filler)| filler.gives_back_to(&own.unit))
        .unzip();
    let last = fillers.into_iter().max_by_key(Filler::from);
    let Some(filler) = last.filter(|filler| reached >= filler.from()) else { return Ok(None) };
    info!("going on with what a command before this one has begun");
    Ok(Some((tables, filler)))
}

/// Nothing is lost: what a command before this one has noted is taken back.
async fn forget(back: &Plan<'_>, unit: &Name) -> Result<(), Fault> {
    for at in &back.units {
        let mut conn = back.connect(at).await?;
        for mark in filling::marks(&mut conn).await? {
            if !Filler::parse(&mark.filler).gives_back_to(unit) {
                continue;
            }
            let tables = [mark.table];
            let mut notes = filling::notes(&mut conn, &tables, usize::MAX >> 1).await?;
            notes.retain(|note| note.why == LOST);
            filling::forget(&mut conn, &notes).await?;
            filling::end(&mut conn, &tables, &mark.filler).await?;
        }
    }
    Ok(())
}

fn tell(own: &Log, loss: &Loss) {
    say(&format!(
        "the store of {own} lost {} transactions of its own, which changed {} rows",
        loss.transactions,
        loss.keys.len()
    ));
    for table in &loss.altered {
        warn!(
            "the schema of {table} was changed by what is lost: bring it to that of the other units first"
        );
    }
}

/// Lists which of these rows the other units hold otherwise than the unit itself.
async fn list(
    back: &Plan<'_>,
    args: &ResyncLostArgs,
    keys: &BTreeSet<String>,
) -> Result<Outcome, Fault> {
    let unit = &args.unit;
    let mut rows = Vec::new();
    for other in back.units.iter().filter(|other| *other != unit) {
        // Who sends it nothing can't give it anything either.
        let Ok(mut from) = Plan::of_ways(back.mesh, &ways(args, other, Some(unit))) else {
            continue;
        };
        from.tables.clone_from(&back.tables);
        for table in &back.tables {
            for difference in dry::compare(&from, unit, table, Some(keys)).await? {
                let here = match difference.finding {
                    Finding::Missing => "missing",
                    Finding::Different => "different",
                    Finding::Extra => "not deleted",
                };
                let key = String::from_utf8_lossy(&difference.key).into_owned();
                rows.push([other.to_string(), here.to_owned(), key]);
            }
        }
    }
    if rows.is_empty() {
        say(&format!("no other unit holds a row otherwise than {unit}"));
        return Ok(Outcome::Fine);
    }
    let here = format!("IN {unit}");
    say(&columns(["HELD BY", &here, "ROW"], &rows));
    Ok(Outcome::Findings)
}

/// Notes the lost rows in the unit that lost them, and lets all units note what does not fit them.
async fn note(
    back: &Plan<'_>,
    own: &Log,
    keys: &BTreeSet<String>,
    filler: &Filler,
) -> Result<(), Fault> {
    if keys.is_empty() {
        return Ok(());
    }
    let unfinished = unfinished(back).await?;
    back.begin(filler, &[]).await?;
    for command in unfinished {
        warn!(
            "this takes the place of a copy that is not at its end; give that again behind it: {command}"
        );
    }
    let note = |key: &String| Note {
        key: key.clone().into_bytes(),
        log: back.log.clone(),
        lane: 0,
        // Any copy from there settles it.
        seq: Seq::NONE,
        why: LOST.to_owned(),
    };
    let notes: Vec<Note> = keys.iter().map(note).collect();
    let mut conn = back.connect(&own.unit).await?;
    for notes in notes.chunks(NOTES_AT_ONCE) {
        filling::note(&mut conn, notes).await?;
    }
    Ok(())
}

/// The commands that have begun to fill these tables as a whole.
async fn unfinished(back: &Plan<'_>) -> Result<BTreeSet<String>, Fault> {
    let mut commands = BTreeSet::new();
    for unit in &back.units {
        for Mark { table, log, filler } in filling::marks(&mut back.connect(unit).await?).await? {
            let filler = Filler::parse(&filler);
            if let Some(log) = Log::parse(&log)
                && filler.brings_all()
                && back.tables.contains(&table)
            {
                commands.insert(filler.command(&log, &table));
            }
        }
    }
    Ok(commands)
}

/// The rows that are still noted in a unit.
async fn noted(back: &Plan<'_>, unit: &Name) -> Result<BTreeSet<String>, Fault> {
    let mut conn = back.connect(unit).await?;
    let notes = filling::notes(&mut conn, &back.tables, usize::MAX >> 1).await?;
    Ok(notes.into_iter().map(|note| text(&note)).collect())
}

fn text(note: &Note) -> String {
    String::from_utf8_lossy(&note.key).into_owned()
}

/// Gives all noted rows back, or to the others, and lets misfits stop lanes again.
async fn finish(
    (back, filler): (&Plan<'_>, &Filler),
    forth: &Plan<'_>,
    sparing: &Sparing,
) -> Result<Outcome, Fault> {
    // What went back in time is behind with what the others sent, too.
    for (log, to, _) in back.mesh.ways().filter(|(log, ..)| log.store == back.log.store) {
        if log.unit != forth.log.unit && to != forth.log.unit {
            continue;
        }
        let within = || Within::seconds(SAY_EVERY_SECONDS);
        while !wait::arrives(back.mesh, &log, &to, None, within(), Until::CaughtUp).await? {
            ensure_bridged(&forth.log.unit, back.mesh, &log, &to).await?;
        }
    }
    let until = Instant::now() + settle::SETTLE_WITHIN;
    loop {
        let doubts = Doubts::gather(back, &forth.log).await?;
        if doubts.is_empty() {
            break;
        }
        if Instant::now() > until {
            say(&format!("not settled yet: {}; run this again", doubts.told()));
            return Ok(Outcome::Findings);
        }
        info!("{}", doubts.told());
        doubts.settle(back, forth, sparing).await?;
        sleep(settle::PAUSE).await;
    }
    back.end(filler).await?;
    let (unit, from) = (&forth.log.unit, &back.log.unit);
    say(&format!(
        "unit {unit} has back what it lost, as {from} holds it, and others have what {unit} has written since: {}",
        back.tables_text()
    ));
    Ok(Outcome::Fine)
}

/// Whether what a unit has still to apply is kept: else it never arrives.
async fn ensure_bridged(own: &Name, mesh: &Mesh, log: &Log, to: &Name) -> Result<(), Fault> {
    let mut conn = connect(mesh.store(to, &log.store)?).await?;
    let entries = ledger::read_all(&mut conn, log).await?;
    if bridge::bereft(mesh, log, &entries).await?.is_empty() {
        return Ok(());
    }
    let what = format!("what {to} has to apply next of {log} is gone, so it can't catch up first");
    let hint = match log.unit == *own {
        // Its rows are those that lack something.
        true => "see the runbook for how a log begins anew".to_owned(),
        false => format!(
            "{}: it brings the rows of {}, also over those that {to} has written since it went back in time",
            bridge::resync(&log.unit, Some(to)),
            log.unit
        ),
    };
    Err(Fault::fatal(Code::OffsetGone, what).hint(hint))
}

/// Rows that are noted somewhere, by whose row counts.
#[derive(Default)]
struct Doubts {
    /// What the unit lost, or what did not fit what it lost: the giving unit's.
    lost: BTreeSet<String>,
    /// Those that another row keeps out.
    taken: Vec<(Name, String)>,
    /// What it has written since: its own.
    since: BTreeSet<String>,
    /// Between others, at whom the giving unit's counts too.
    others: BTreeSet<String>,
    /// Notes of the unit, and of the giving one, which no copy to them takes back.
    own: [Vec<Note>; 2],
}

impl Doubts {
    async fn gather(back: &Plan<'_>, own: &Log) -> Result<Self, Fault> {
        let mut doubts = Self::default();
        for unit in &back.units {
            let mut conn = back.connect(unit).await?;
            let notes = filling::notes(&mut conn, &back.tables, settle::NOTES_MAX).await?;
            for note in &notes {
                let whose = match (*unit == own.unit, note.log == *own) {
                    (true, _) if note.why == filling::WRITTEN_HERE => &mut doubts.since,
                    (true, _) => &mut doubts.lost,
                    (false, true) => &mut doubts.since,
                    (false, false) => &mut doubts.others,
                };
                whose.insert(text(note));
                if *unit == own.unit && note.why == filling::TAKEN {
                    doubts.taken.push((unit.clone(), text(note)));
                }
            }
            if *unit == own.unit {
                doubts.own[0] = notes;
            } else if *unit == back.log.unit {
                doubts.own[1] = notes;
            }
        }
        for keys in [&mut doubts.lost, &mut doubts.others] {
            keys.retain(|key| !doubts.since.contains(key));
        }
        Ok(doubts)
    }

    fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.since.is_empty() && self.others.is_empty()
    }

    fn told(&self) -> String {
        let [lost, since, others] = [&self.lost, &self.since, &self.others].map(BTreeSet::len);
        format!(
            "{lost} rows to be given back, {since} that were written since, {others} between others"
        )
    }

    async fn settle(
        self,
        back: &Plan<'_>,
        forth: &Plan<'_>,
        sparing: &Sparing,
    ) -> Result<(), Fault> {
        let Self { mut lost, taken, since, others, own: [of_unit, of_giver] } = self;
        let mut ordered = settle::in_the_way(back, &taken).await?;
        for key in &ordered {
            lost.remove(key);
        }
        ordered.extend(lost);
        copy::keys_sparing(back, ordered, Some(sparing)).await?;
        copy::keys(forth, since.iter().cloned().collect()).await?;
        copy::keys(&back.to_others(), others.iter().cloned().collect()).await?;
        let sent = |notes: Vec<Note>, keys: &BTreeSet<String>| -> Vec<Note> {
            notes.into_iter().filter(|note| keys.contains(&text(note))).collect()
        };
        let mut conn = back.connect(&forth.log.unit).await?;
        filling::forget(&mut conn, &sent(of_unit, &since)).await?;
        let mut conn = back.connect(&back.log.unit).await?;
        filling::forget(&mut conn, &sent(of_giver, &others)).await
    }
}
