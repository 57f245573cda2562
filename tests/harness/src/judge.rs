//! The verdict, by the servers' own logs and not by our code.
//!
//! After quiesce, `mysqlbinlog` of each unit has to show:
//!
//! * each acknowledged change in exactly one row event, in the log of the unit that made it and in
//!   that of every other unit which its changes travel to;
//! * a change of a row's key as one update where it was made, and elsewhere as one too or as a
//!   delete and an insert;
//! * a unit's own writes in transactions that do not begin with an update of `unitflow.ledger`,
//!   every other unit's in those that do, and that ledger row naming the log of that unit;
//! * no row's version going down from one event to the next;
//! * nothing that nobody wrote.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;
use unitflow_change::invariants::{Broken, Tally, Versions};
use unitflow_local::Mysql;

use crate::binlog::{Event, Parser, RowEvent, Verb};
use crate::change::{Change, Op};
use crate::load::Written;
use crate::schema::{DATABASE, TABLES, place_of};

/// Reading one server's log takes no longer.
const READING: Duration = Duration::from_secs(180);
/// The version's is the last column that is looked at, in any table.
const COLUMNS: usize = 5;
/// How many findings of each kind are spelt out.
const FINDINGS_MOST: usize = 5;
/// How many GTIDs are named for one finding.
const GTIDS_MOST: usize = 4;

/// A unit to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// Its name.
    pub unit: &'a str,
    /// Its server.
    pub server: &'a Mysql,
    /// It left the others: what it wrote is looked for there, what they wrote is not looked for here.
    pub left: bool,
}

/// What was found in order.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// By unit.
    pub units: Vec<Count>,
}

/// What one unit's log holds.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// The unit.
    pub unit: String,
    /// Transactions that wrote the shop.
    pub transactions: u64,
    /// Row events of its own.
    pub own: u64,
    /// Row events of others.
    pub foreign: u64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, count) in self.units.iter().enumerate() {
            let comma = if place > 0 { "; " } else { "" };
            write!(
                f,
                "{comma}{}: {} own and {} foreign row events in {} transactions",
                count.unit, count.own, count.foreign, count.transactions
            )?;
        }
        Ok(())
    }
}

/// What one log showed.
#[derive(Debug)]
struct Log {
    unit: u8,
    tally: Tally<Change>,
    findings: Findings,
    count: Count,
}

/// What is wrong, by kind: the first sentences, and how many there are.
#[derive(Debug, Default)]
struct Findings(BTreeMap<&'static str, (usize, Vec<String>)>);

impl Findings {
    fn add(&mut self, kind: &'static str, text: impl FnOnce() -> String) {
        let (count, texts) = self.0.entry(kind).or_default();
        *count += 1;
        if texts.len() < FINDINGS_MOST {
            texts.push(text());
        }
    }

    fn report(&self, unit: &str, out: &mut String) {
        for (kind, (count, texts)) in &self.0 {
            *out += &format!("\nunit {unit}: {count} {kind}");
            texts.iter().for_each(|text| *out += &format!("\n  {text}"));
        }
    }
}

/// Judges units that all write and all hear of each other.
///
/// # Errors
/// Every finding: which row, which unit, how often, in which transactions.
pub async fn judge(units: &[Judged<'_>], written: &Written) -> anyhow::Result<Verdict> {
    judge_ways(units, written, |_, _| true).await
}

/// Judges units between which changes travel only where `travels(from, to)` says so.
///
/// # Errors
/// As [`judge`].
pub async fn judge_ways(
    units: &[Judged<'_>],
    written: &Written,
    travels: impl Fn(&str, &str) -> bool,
) -> anyhow::Result<Verdict> {
    let mut logs = Vec::new();
    for unit in units {
        let log = read(unit).await.with_context(|| format!("judging unit {}", unit.unit))?;
        logs.push(log);
    }
    expect_own(&mut logs, written);
    let came_true = own_changes(&logs, written);
    for (log, unit) in logs.iter_mut().zip(units).filter(|(_, unit)| !unit.left) {
        expect_foreign(log, &came_true, |origin| {
            units
                .iter()
                .find(|from| from.unit.as_bytes().first() == Some(&origin))
                .is_some_and(|from| travels(from.unit, unit.unit))
        });
    }
    let mut report = String::new();
    for (log, unit) in logs.iter_mut().zip(units) {
        if !unit.left {
            settle(log, unit).await?;
        }
        log.findings.report(unit.unit, &mut report);
    }
    ensure!(report.is_empty(), "the judge finds:{report}");
    Ok(Verdict { units: logs.into_iter().map(|log| log.count).collect() })
}

/// What a unit's own log has to show of its own writes.
fn expect_own(logs: &mut [Log], written: &Written) {
    for log in logs {
        for change in written.acknowledged.iter().filter(|change| change.unit == log.unit) {
            log.tally.promise(change.at_origin());
        }
        for change in written.unknown.iter().filter(|change| change.unit == log.unit) {
            log.tally.allow(change.at_origin());
        }
    }
}

/// All changes that were committed where they were made, as their writers name them.
fn own_changes(logs: &[Log], written: &Written) -> Vec<Change> {
    let is_there = |change: &&Change| {
        let own = logs.iter().find(|log| log.unit == change.unit);
        own.is_some_and(|log| log.tally.seen(&change.at_origin()) > 0)
    };
    // What was acknowledged and is not there is lost already; that it is nowhere else is no news.
    let all = written.acknowledged.iter().chain(&written.unknown);
    all.filter(is_there).copied().collect()
}

/// What a unit's log has to show of others' writes.
fn expect_foreign(log: &mut Log, changes: &[Change], arrives: impl Fn(u8) -> bool) {
    let mut arriving = HashMap::new();
    for change in changes.iter().filter(|change| change.unit != log.unit) {
        if !*arriving.entry(change.unit).or_insert_with(|| arrives(change.unit)) {
            continue;
        }
        let one = change.at_origin();
        if change.op == Op::Move && log.tally.seen(&one) == 0 {
            change.as_two().into_iter().for_each(|half| log.tally.promise(half));
        } else {
            log.tally.promise(one);
        }
    }
}

/// Compares what was expected with what was seen; names the transactions of what is wrong.
async fn settle(log: &mut Log, unit: &Judged<'_>) -> anyhow::Result<()> {
    let broken = log.tally.settle();
    if broken.is_empty() {
        return Ok(());
    }
    let named = broken.iter().filter(|(_, broken)| !matches!(broken, Broken::Lost { .. }));
    let named = named.take(10 * FINDINGS_MOST);
    let mut places: HashMap<Change, Vec<String>> =
        named.map(|(change, _)| (*change, Vec::new())).collect();
    let mut gtid = String::new();
    each_event(unit, |event| {
        match event {
            Event::Begin { gtid: next } => gtid = next,
            Event::Row(row) => {
                if let Some(places) = change_of(&row)?.and_then(|change| places.get_mut(&change)) {
                    places.push(gtid.clone());
                }
            }
            Event::Commit | Event::Rollback => {}
        }
        Ok(())
    })
    .await?;
    for (change, broken) in broken {
        let gtids = places.get(&change).map_or(&[][..], Vec::as_slice);
        let named = || gtids.iter().take(GTIDS_MOST).cloned().collect::<Vec<_>>().join(", ");
        match broken {
            Broken::Lost { .. } => log.findings.add("lost", || format!("{change:?}")),
            Broken::Doubled { times, .. } => log
                .findings
                .add("doubled", || format!("{change:?} is there {times} times, in {}", named())),
            Broken::Extra { .. } => {
                log.findings
                    .add("extra", || format!("{change:?} was never written; in {}", named()));
            }
            other => log.findings.add("other", || other.to_string()),
        }
    }
    Ok(())
}

/// Reads a unit's log and looks at marks and versions on the way.
async fn read(unit: &Judged<'_>) -> anyhow::Result<Log> {
    let own = *unit.unit.as_bytes().first().context("a unit has a name")?;
    let count = Count { unit: unit.unit.to_owned(), ..Count::default() };
    let mut log = Log { unit: own, tally: Tally::default(), findings: Findings::default(), count };
    let mut versions: Versions<(u8, u8, u32)> = Versions::default();
    let mut open: Option<Open> = None;
    each_event(unit, |event| {
        match event {
            Event::Begin { gtid } => {
                open = Some(Open { gtid, mark: None, rows: 0, shop: 0 });
            }
            Event::Row(row) => {
                let open = open.as_mut().context("a row stands outside a transaction")?;
                open.see(&row);
                if let Some(change) = change_of(&row)? {
                    log.see(open, change, &mut versions);
                }
            }
            Event::Commit => {
                log.count.transactions += u64::from(open.take().is_some_and(|open| open.shop > 0))
            }
            Event::Rollback => {
                let open = open.take().context("a rollback stands outside a transaction")?;
                ensure!(open.shop == 0, "{} was rolled back and is in the log", open.gtid);
            }
        }
        Ok(())
    })
    .await?;
    Ok(log)
}

/// The transaction that is being read.
#[derive(Debug)]
struct Open {
    gtid: String,
    /// The log that the ledger row at its beginning names.
    mark: Option<String>,
    rows: u64,
    shop: u64,
}

impl Open {
    fn see(&mut self, row: &RowEvent) {
        let ledger = row.database == "unitflow" && row.table == "ledger";
        if self.rows == 0 && ledger && row.verb == Verb::Update {
            self.mark = Some(row.after.get(1).unwrap_or("").to_owned());
        }
        self.rows += 1;
        self.shop += u64::from(row.database == DATABASE);
    }
}

impl Log {
    fn see(&mut self, open: &Open, change: Change, versions: &mut Versions<(u8, u8, u32)>) {
        self.tally.see(change);
        let own = change.unit == self.unit;
        if own {
            self.count.own += 1;
        } else {
            self.count.foreign += 1;
        }
        let gtid = &open.gtid;
        match (&open.mark, own) {
            (None, true) => {}
            (Some(mark), true) => self.findings.add("echoes", || {
                format!(
                    "the unit's own {change:?} stands behind a ledger update of {mark}, in {gtid}"
                )
            }),
            (None, false) => self.findings.add("unmarked", || {
                format!("{change:?} stands in {gtid}, which does not begin with a ledger update")
            }),
            (Some(mark), false) => {
                let unit = char::from(change.unit);
                if mark.split('.').next().and_then(|name| name.chars().next()) != Some(unit) {
                    self.findings.add("mismarked", || {
                        format!("{change:?} stands behind a ledger update of {mark}, in {gtid}")
                    });
                }
            }
        }
        let row = (change.table, change.unit, change.number);
        if let Err(broken) = versions.see(row, u64::from(change.version)) {
            self.findings.add("out of order", || format!("{change:?} in {gtid}: {broken}"));
        }
    }
}

/// The change that a row event is, if it is one of the shop's; tables that a test brings itself
/// are its own affair.
fn change_of(row: &RowEvent) -> anyhow::Result<Option<Change>> {
    if row.database != DATABASE {
        return Ok(None);
    }
    let Some(table) = place_of(&row.table) else { return Ok(None) };
    let layout = &TABLES[usize::from(table)];
    let (image, op) = match row.verb {
        Verb::Insert => (&row.after, Op::Insert),
        Verb::Update => (&row.after, Op::Update),
        Verb::Delete => (&row.before, Op::Delete),
    };
    let column = |at: usize| {
        image.get(at).with_context(|| format!("a row of {} lacks column {at}", layout.name))
    };
    let unit = *column(layout.unit_at)?.as_bytes().first().context("a row has a unit")?;
    let number = column(layout.number_at())?.parse().context("a row's number is below 2^31")?;
    let version = column(layout.version_at())?.parse().context("a row's version")?;
    Ok(Some(Change { table, unit, number, version, op }))
}

/// Streams a server's whole log through `take`.
async fn each_event(
    unit: &Judged<'_>,
    mut take: impl FnMut(Event) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut command = unit.server.mysqlbinlog_command()?;
    command.args(["--base64-output=decode-rows", "-v"]).args(unit.server.binlog_files()?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start mysqlbinlog")?;
    let stdout = child.stdout.take().context("mysqlbinlog has an output")?;
    let reading = async {
        let mut parser = Parser::first_columns(COLUMNS);
        let mut reader = BufReader::with_capacity(1 << 18, stdout);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if reader.read_until(b'\n', &mut bytes).await? == 0 {
                break;
            }
            let line = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes));
            for event in parser.line(&line)?.into_iter().flatten() {
                take(event)?;
            }
        }
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            bail!("mysqlbinlog: {}", String::from_utf8_lossy(&output.stderr));
        }
        anyhow::Ok(())
    };
    timeout(READING, reading).await.context("mysqlbinlog is not done in time")?
}
