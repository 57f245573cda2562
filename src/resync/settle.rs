//! Has rows read again until none is in doubt, and asks for what the targets hold and the authority
//! lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};
use unitflow_change::condition::Condition;
use unitflow_change::ddl::TableName;
use unitflow_change::key::Key;
use unitflow_change::name::{Log, Name};
use unitflow_change::routing::{PartitionBy, Routing};
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault, envelope};
use unitflow_mysql::snapshot::{Reader, Row, Table};
use unitflow_sinks::copy::filling::{self, Note};
use unitflow_sinks::ledger;

use crate::wait;

use super::copy;
use super::plan::{Filled, Plan};

/// Notes taken up at once.
pub const NOTES_MAX: usize = 5_000;
/// How long rows are read again before the rest is left.
pub const SETTLE_WITHIN: Duration = Duration::from_secs(600);
/// How long is waited for what may be under way to a row that the authority lacks.
const UNDER_WAY: Duration = Duration::from_secs(60);
/// The pause between two rounds: what is under way arrives.
pub const PAUSE: Duration = Duration::from_millis(300);
/// Rows of a target looked up in the authority at once.
const ROWS_AT_ONCE: usize = 1_000;
/// And about their bytes.
const BYTES_AT_ONCE: usize = 4 << 20;

/// Rows that the authority lacks, by unit, which stay there: of tables of which a row that is gone can't be
/// copied.
pub type Kept = BTreeSet<(Name, String)>;

/// Reads noted rows again until there is none; gives how many are left, and says why.
pub async fn notes(plan: &Plan<'_>, kept: &mut Kept) -> Result<u64, Fault> {
    let until = Instant::now() + SETTLE_WITHIN;
    let mut asked = BTreeSet::new();
    loop {
        let Doubts { all, mut keys, taken, own, told } = gather(plan).await?;
        if keys.is_empty() {
            return Ok(0);
        }
        if Instant::now() > until {
            warn!("rows are not settled: {told}");
            return Ok(keys.len() as u64);
        }
        info!(rows = keys.len(), "reading again: {told}");
        let silent = silent(plan, &all).await?;
        let again = all.into_iter().filter(|(_, note)| asked.contains(&text(note)));
        keys.extend(spell_as_authority(plan, again.collect()).await?);
        asked.clone_from(&keys);
        // What belongs together is read together, before all else.
        let mut ordered = in_the_way(plan, &taken).await?;
        for key in &ordered {
            keys.remove(key);
        }
        ordered.extend(keys);
        copy::keys(&plan.to_others(), ordered).await?;
        // Every other unit was sent these rows since, or has noted them itself.
        let mut conn = plan.connect(&plan.log.unit).await?;
        filling::forget(&mut conn, &own).await?;
        silent.forget(plan, kept).await?;
        sleep(PAUSE).await;
    }
}

/// Notes that no copy takes back: of tables of which a row that is gone can't be copied, where the authority
/// has none of this key that travels.
struct Silent {
    notes: BTreeMap<Name, Vec<Note>>,
    /// What the authority had applied when it was asked.
    stands: Vec<(Log, i32, Seq)>,
}

async fn silent(plan: &Plan<'_>, all: &[(Name, Note)]) -> Result<Silent, Fault> {
    let routing = plan.mesh.routing(&plan.log)?;
    let mut found = Silent { notes: BTreeMap::new(), stands: Vec::new() };
    for table in &plan.tables {
        let head = Key::head(&table.database, &table.table);
        let noted = |(_, note): &&(Name, Note)| note.key.starts_with(&head);
        let conditions = routing.conditions(&table.database, &table.table);
        let by = routing.partition_by(&table.database, &table.table);
        let may_be = !conditions.is_empty() || matches!(by, PartitionBy::Columns(_));
        if !may_be || !all.iter().any(|note| noted(&note)) {
            continue;
        }
        let Some(mut ends) = Ends::open(plan, &plan.log.unit, table).await? else { continue };
        if !only_by_rows(&routing, table, &ends.our) {
            continue;
        }
        for (unit, note) in all.iter().filter(noted) {
            let key = text(note);
            let travels = match ends.row(&key).await? {
                Some(row) => row_meets(&row, &conditions)?,
                None => false,
            };
            if !travels {
                found.notes.entry(unit.clone()).or_default().push(note.clone());
            }
        }
    }
    if !found.notes.is_empty() {
        found.stands = ledger::read_logs(&mut plan.connect(&plan.log.unit).await?).await?;
    }
    Ok(found)
}

impl Silent {
    /// Takes them back where all has been applied that the authority knew: what it deleted is deleted, or
    /// noted anew. Says which rows are left as they are.
    async fn forget(self, plan: &Plan<'_>, kept: &mut Kept) -> Result<(), Fault> {
        for (unit, notes) in self.notes {
            let mut conn = plan.connect(&unit).await?;
            if !ledger::is_up_to(&ledger::read_logs(&mut conn).await?, &self.stands) {
                continue;
            }
            filling::forget(&mut conn, &notes).await?;
            if unit != plan.log.unit {
                keep(plan, &unit, &notes, kept).await?;
            }
        }
        Ok(())
    }
}

/// Whether of this table a row that is gone can't be copied: by which lane it would go, or whether it would travel
/// at all, only the row could tell. Nobody knows there whether one that another unit holds is too many.
fn only_by_rows(routing: &Routing, table: &TableName, our: &Table) -> bool {
    let (database, name) = (table.database.as_str(), table.table.as_str());
    let in_the_key = |column: &String| our.schema.key_columns().any(|known| known.name == *column);
    let by_others = match routing.partition_by(database, name) {
        PartitionBy::Columns(columns) => !columns.iter().all(in_the_key),
        _ => false,
    };
    by_others || !routing.conditions(database, name).is_empty()
}

/// Which of these rows a unit holds all the same.
async fn keep(plan: &Plan<'_>, unit: &Name, notes: &[Note], kept: &mut Kept) -> Result<(), Fault> {
    let mut open = BTreeMap::new();
    for key in notes.iter().map(text) {
        let table = table_of(&key)?;
        if !open.contains_key(&table)
            && let Some(ends) = Ends::open(plan, unit, &table).await?
        {
            open.insert(table.clone(), ends);
        }
        if let Some(ends) = open.get_mut(&table)
            && ends.their_row(&key).await?.is_some()
        {
            kept.insert((unit.clone(), key));
        }
    }
    Ok(())
}

/// Which of the rows that were asked for by their keys stay where they are.
pub async fn asked(plan: &Plan<'_>, keys: &[String], kept: &mut Kept) -> Result<(), Fault> {
    let routing = plan.mesh.routing(&plan.log)?;
    for unit in &plan.to {
        let mut open = BTreeMap::new();
        for key in keys {
            let table = table_of(key)?;
            if !open.contains_key(&table)
                && let Some(ends) = Ends::open(plan, unit, &table).await?
            {
                open.insert(table.clone(), ends);
            }
            let Some(ends) = open.get_mut(&table) else { continue };
            if only_by_rows(&routing, &table, &ends.our)
                && ends.row(key).await?.is_none()
                && ends.their_row(key).await?.is_some()
            {
                kept.insert((unit.clone(), key.clone()));
            }
        }
    }
    Ok(())
}

/// Which of these rows stay: those that are there, the same, and that the authority lacks once each of the two
/// has applied what the other knew. Any other was only under way.
pub async fn staying(plan: &Plan<'_>, kept: &Kept) -> Result<Kept, Fault> {
    let mut staying = Kept::new();
    for unit in &plan.to {
        let until = Instant::now() + UNDER_WAY;
        let keys = kept.iter().filter(|(of, _)| of == unit).map(|(_, key)| key);
        let mut rows = lacking(plan, unit, keys).await?;
        while !rows.is_empty() {
            let mut in_time = knows(plan, unit, &plan.log.unit, until).await?;
            // What the authority got meanwhile is dropped; what it got and deleted is on the way back.
            let lacked = lacking(plan, unit, rows.keys()).await?;
            in_time &= knows(plan, &plan.log.unit, unit, until).await?;
            let now = lacking(plan, unit, lacked.keys()).await?;
            let is_still = now == rows;
            rows = now;
            if is_still || !in_time {
                break;
            }
        }
        staying.extend(rows.into_keys().map(|key| (unit.clone(), key)));
    }
    Ok(staying)
}

/// The rows of these keys that a unit holds and the authority lacks.
async fn lacking(
    plan: &Plan<'_>,
    unit: &Name,
    keys: impl Iterator<Item = &String>,
) -> Result<BTreeMap<String, Vec<u8>>, Fault> {
    let mut open = BTreeMap::new();
    let mut rows = BTreeMap::new();
    for key in keys {
        let table = table_of(key)?;
        if !open.contains_key(&table)
            && let Some(ends) = Ends::open(plan, unit, &table).await?
        {
            open.insert(table.clone(), ends);
        }
        let Some(ends) = open.get_mut(&table) else { continue };
        // The other unit first: what it got before it was asked, the authority knew.
        if let Some(row) = ends.their_row(key).await?
            && ends.row(key).await?.is_none()
        {
            rows.insert(key.clone(), row.after);
        }
    }
    Ok(rows)
}

/// Waits until a unit has applied what another holds now, of its own and of third units; `false` if it has
/// not in time.
async fn knows(plan: &Plan<'_>, from: &Name, to: &Name, until: Instant) -> Result<bool, Fault> {
    let log = Log { unit: from.clone(), store: plan.log.store.clone() };
    if !plan.mesh.ways().any(|(way, unit, _)| way == log && unit == *to) {
        return Ok(true);
    }
    let stands = ledger::read_logs(&mut plan.connect(from).await?).await?;
    let applied = async {
        wait::caught_up(plan.mesh, &log, to).await?;
        let mut conn = plan.connect(to).await?;
        while !ledger::is_up_to(&ledger::read_logs(&mut conn).await?, &stands) {
            sleep(PAUSE).await;
        }
        Ok(())
    };
    timeout_at(until, applied).await.map_or(Ok(false), |applied| applied.map(|()| true))
}

fn row_meets(row: &Row, conditions: &[&Condition]) -> Result<bool, Fault> {
    let image = image(row)?;
    conditions.iter().try_fold(true, |meets, condition| Ok(meets && condition.holds(&image)?))
}

fn image(row: &Row) -> Result<envelope::Row<'_>, Fault> {
    serde_json::from_slice(&row.after).map_err(|error| {
        Fault::fatal(Code::Bug, format!("a row that was read can't be read: {error}"))
    })
}

fn text(note: &Note) -> String {
    String::from_utf8_lossy(&note.key).into_owned()
}

/// A note is taken back by a copy under its key. Where the authority's server holds another key for equal
/// to it, the row is noted under that one; gives these.
async fn spell_as_authority(
    plan: &Plan<'_>,
    notes: Vec<(Name, Note)>,
) -> Result<Vec<String>, Fault> {
    let mut all = Vec::new();
    let mut open = BTreeMap::new();
    for (unit, note) in notes {
        let key = text(&note);
        let place = (unit, table_of(&key)?);
        if !open.contains_key(&place)
            && let Some(ends) = Ends::open(plan, &place.0, &place.1).await?
        {
            open.insert(place.clone(), ends);
        }
        let Some(ends) = open.get_mut(&place) else { continue };
        let Some(spelt) = ends.here_as(&key).await?.filter(|spelt| *spelt != key) else {
            continue;
        };
        let mut conn = plan.connect(&place.0).await?;
        let renamed = Note { key: spelt.clone().into_bytes(), ..note.clone() };
        filling::note(&mut conn, &[renamed]).await?;
        filling::forget(&mut conn, &[note]).await?;
        all.push(spelt);
    }
    Ok(all)
}

/// What is noted in all units.
struct Doubts {
    all: Vec<(Name, Note)>,
    keys: BTreeSet<String>,
    /// Those that another row keeps out, and in which unit.
    taken: Vec<(Name, String)>,
    /// The authority's own notes.
    own: Vec<Note>,
    /// How many notes there are for which reason, in words.
    told: String,
}

async fn gather(plan: &Plan<'_>) -> Result<Doubts, Fault> {
    let mut all = Vec::new();
    let mut keys = BTreeSet::new();
    let mut taken = Vec::new();
    let mut own = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for unit in &plan.units {
        let mut conn = plan.connect(unit).await?;
        let notes = filling::notes(&mut conn, &plan.tables, NOTES_MAX).await?;
        for note in &notes {
            let key = text(note);
            if note.why == filling::TAKEN {
                taken.push((unit.clone(), key.clone()));
            }
            keys.insert(key);
            *reasons.entry(format!("{} in {unit} from {}", note.why, note.log)).or_default() += 1;
        }
        if *unit == plan.log.unit {
            own.clone_from(&notes);
        }
        all.extend(notes.into_iter().map(|note| (unit.clone(), note)));
    }
    let reasons = reasons.iter().map(|(why, count)| format!("{count} {why}"));
    Ok(Doubts { all, keys, taken, own, told: reasons.collect::<Vec<_>>().join(", ") })
}

/// Rows that other rows keep out by a unique value, with those: each behind the ones that it waits for,
/// so that swaps come in one chunk, and where values moved on from row to row the last one comes first.
pub async fn in_the_way(plan: &Plan<'_>, taken: &[(Name, String)]) -> Result<Vec<String>, Fault> {
    let mut ordered = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open = BTreeMap::new();
    for (unit, key) in taken {
        let place = (unit, table_of(key)?);
        if !open.contains_key(&place)
            && let Some(ends) = Ends::open(plan, unit, &place.1).await?
        {
            open.insert(place.clone(), ends);
        }
        let Some(ends) = open.get_mut(&place) else { continue };
        let mut chain = Vec::new();
        let mut next = vec![key.clone()];
        while let Some(key) = next.pop() {
            if seen.insert(key.clone()) {
                next.extend(ends.holders(&key).await?);
                chain.push(key);
            }
        }
        ordered.extend(chain.into_iter().rev());
    }
    Ok(ordered)
}

fn table_of(key: &str) -> Result<TableName, Fault> {
    let key = Key::parse(key.as_bytes())?;
    Ok(TableName { database: key.database.into_owned(), table: key.table.into_owned() })
}

/// A table in the authority and in another unit.
struct Ends {
    /// How its keys begin in the mesh.
    head: Vec<u8>,
    here: Reader,
    our: Table,
    there: Reader,
    their: Table,
}

impl Ends {
    async fn open(plan: &Plan<'_>, unit: &Name, table: &TableName) -> Result<Option<Self>, Fault> {
        let name = |unit| -> Result<(String, String), Fault> {
            let rename = plan.mesh.rename(unit, &plan.log.store)?;
            Ok(rename.local(&table.database, &table.table).unwrap_or_default())
        };
        let mut there = Reader::open(plan.mesh.store(unit, &plan.log.store)?).await?;
        let mut here = Reader::open(plan.mesh.store(&plan.log.unit, &plan.log.store)?).await?;
        let (Some(their), Some(our)) = (
            there.tables(&[name(unit)?]).await?.pop(),
            here.tables(&[name(&plan.log.unit)?]).await?.pop(),
        ) else {
            return Ok(None);
        };
        let head = Key::head(&table.database, &table.table);
        Ok(Some(Self { head, here, our, there, their }))
    }

    /// The authority's row of this key.
    async fn row(&mut self, key: &str) -> Result<Option<Row>, Fault> {
        let key = [self.our.key_head(), &key.as_bytes()[self.head.len()..]].concat();
        Ok(self.here.get(&self.our, &[&key]).await?.pop())
    }

    /// The other unit's row of this key.
    async fn their_row(&mut self, key: &str) -> Result<Option<Row>, Fault> {
        let key = [self.their.key_head(), &key.as_bytes()[self.head.len()..]].concat();
        Ok(self.there.get(&self.their, &[&key]).await?.pop())
    }

    /// The key that this row has in the authority, in the mesh's names.
    async fn here_as(&mut self, key: &str) -> Result<Option<String>, Fault> {
        let row = self.row(key).await?;
        Ok(row.map(|row| {
            let key = [&self.head, &row.key[self.our.key_head().len()..]].concat();
            String::from_utf8_lossy(&key).into_owned()
        }))
    }

    /// The rows that hold a unique value there which the authority's row of this key has.
    async fn holders(&mut self, key: &str) -> Result<Vec<String>, Fault> {
        let Some(row) = self.row(key).await? else { return Ok(Vec::new()) };
        let holders = self.there.holders(&self.their, &image(&row)?).await?;
        Ok(holders.iter().map(|row| self.named(&row.key)).collect())
    }

    /// Those of the other unit's rows that the authority does not have.
    async fn lacking<'r>(&mut self, rows: &'r [Row]) -> Result<Vec<&'r Row>, Fault> {
        let ours =
            |row: &Row| [self.our.key_head(), &row.key[self.their.key_head().len()..]].concat();
        let wanted: Vec<Vec<u8>> = rows.iter().map(ours).collect();
        let wanted: Vec<&[u8]> = wanted.iter().map(Vec::as_slice).collect();
        let found = self.here.get(&self.our, &wanted).await?;
        let mut lacking = Vec::new();
        if found.len() == wanted.len() {
            return Ok(lacking);
        }
        let known: BTreeSet<&[u8]> = found.iter().map(|row| &row.key[..]).collect();
        for (key, row) in wanted.iter().zip(rows) {
            // The server may hold another key for equal to it.
            if !known.contains(key) && self.here.get(&self.our, &[key]).await?.is_empty() {
                lacking.push(row);
            }
        }
        Ok(lacking)
    }

    /// A key of the other unit's table in the mesh's names.
    fn named(&self, key: &[u8]) -> String {
        let key = [&self.head, &key[self.their.key_head().len()..]].concat();
        String::from_utf8_lossy(&key).into_owned()
    }
}

/// Asks for the rows that targets hold and the authority lacks, which removes them, where that can be asked
/// for; gives how many.
pub async fn extras(plan: &Plan<'_>, filled: &[Filled], kept: &mut Kept) -> Result<u64, Fault> {
    let routing = plan.mesh.routing(&plan.log)?;
    let mut count = 0;
    for (unit, table) in filled {
        let Some(mut ends) = Ends::open(plan, unit, table).await? else { continue };
        let conditions = routing.conditions(&table.database, &table.table);
        let stay = only_by_rows(&routing, table, &ends.our);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows =
                ends.there.scan(&ends.their, after.as_deref(), ROWS_AT_ONCE, BYTES_AT_ONCE).await?;
            let mut extras = Vec::new();
            for row in ends.lacking(&rows.rows).await? {
                // One that does not meet the condition is none that travels.
                if !stay {
                    extras.push(ends.named(&row.key));
                } else if row_meets(row, &conditions)? {
                    kept.insert((unit.clone(), ends.named(&row.key)));
                }
            }
            if !extras.is_empty() {
                info!(%table, %unit, rows = extras.len(), "rows that {} lacks", plan.log.unit);
                count += extras.len() as u64;
                copy::keys(plan, extras).await?;
            }
            after = rows.last().map(<[u8]>::to_vec);
            if rows.done || after.is_none() {
                break;
            }
        }
    }
    Ok(count)
}
