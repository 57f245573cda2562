//! Has rows read again until none is in doubt, and asks for what the targets hold and the authority
//! lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;
use unitflow_change::Fault;
use unitflow_change::key::Key;
use unitflow_mysql::snapshot::Reader;
use unitflow_sinks::copy::filling::{self, Note};

use super::copy;
use super::plan::{Filled, Plan};

/// Notes taken up at once.
const NOTES_MAX: usize = 5_000;
/// How long rows are read again before the rest is left.
const SETTLE_WITHIN: Duration = Duration::from_secs(600);
/// The pause between two rounds: what is under way arrives.
const PAUSE: Duration = Duration::from_millis(300);
/// Rows of a target looked up in the authority at once.
const ROWS_AT_ONCE: usize = 1_000;
/// And about their bytes.
const BYTES_AT_ONCE: usize = 4 << 20;

/// Reads noted rows again until there is none; gives how many are left.
pub async fn notes(plan: &Plan<'_>) -> Result<u64, Fault> {
    let until = Instant::now() + SETTLE_WITHIN;
    loop {
        let Doubts { keys, own, told } = gather(plan).await?;
        if keys.is_empty() {
            return Ok(0);
        }
        if Instant::now() > until {
            return Ok(keys.len() as u64);
        }
        info!(rows = keys.len(), "reading again: {told}");
        copy::keys(&plan.to_others(), keys.into_iter().collect()).await?;
        // Every other unit was sent these rows since, or has noted them itself.
        let mut conn = plan.connect(&plan.log.unit).await?;
        filling::forget(&mut conn, &own).await?;
        sleep(PAUSE).await;
    }
}

/// What is noted in all units.
struct Doubts {
    keys: BTreeSet<String>,
    /// The authority's own notes.
    own: Vec<Note>,
    /// How many notes there are for which reason, in words.
    told: String,
}

async fn gather(plan: &Plan<'_>) -> Result<Doubts, Fault> {
    let mut keys = BTreeSet::new();
    let mut own = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for unit in &plan.units {
        let mut conn = plan.connect(unit).await?;
        let notes = filling::notes(&mut conn, &plan.tables, NOTES_MAX).await?;
        for note in &notes {
            keys.insert(String::from_utf8_lossy(&note.key).into_owned());
            *reasons.entry(format!("{} in {unit} from {}", note.why, note.log)).or_default() += 1;
        }
        if *unit == plan.log.unit {
            own = notes;
        }
    }
    let reasons = reasons.iter().map(|(why, count)| format!("{count} {why}"));
    Ok(Doubts { keys, own, told: reasons.collect::<Vec<_>>().join(", ") })
}

/// Asks for the rows that targets hold and the authority lacks, which removes them; gives how many.
pub async fn extras(plan: &Plan<'_>, filled: &[Filled]) -> Result<u64, Fault> {
    let mut count = 0;
    for (unit, table) in filled {
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
            continue;
        };
        let mesh_head = Key::head(&table.database, &table.table);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = there.scan(&their, after.as_deref(), ROWS_AT_ONCE, BYTES_AT_ONCE).await?;
            let columns: Vec<&[u8]> =
                rows.rows.iter().map(|row| &row.key[their.key_head().len()..]).collect();
            let wanted: Vec<Vec<u8>> =
                columns.iter().map(|columns| [our.key_head(), columns].concat()).collect();
            let wanted: Vec<&[u8]> = wanted.iter().map(Vec::as_slice).collect();
            let found = here.get(&our, &wanted).await?;
            let mut extras = Vec::new();
            if found.len() < wanted.len() {
                let known: BTreeSet<&[u8]> = found.iter().map(|row| &row.key[..]).collect();
                for (key, columns) in wanted.iter().zip(&columns) {
                    // The server may hold another key for equal to it.
                    if !known.contains(key) && here.get(&our, &[key]).await?.is_empty() {
                        let key = [&mesh_head, *columns].concat();
                        extras.push(String::from_utf8_lossy(&key).into_owned());
                    }
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
