//! Compares both ends and says what would be done.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::sleep;
use unitflow_change::Fault;
use unitflow_change::ddl::TableName;
use unitflow_change::key::Key;
use unitflow_change::name::Name;
use unitflow_mysql::snapshot::Reader;
use unitflow_verifier::{Compare, Difference, Finding, Pair};

use super::plan::Plan;
use crate::Outcome;
use crate::output::{columns, say};

/// Keys that are named.
const SHOWN: usize = 20;
/// How long differences may settle before they are looked at again: most of them are under way.
const SETTLING: Duration = Duration::from_secs(2);

/// Compares the plan's tables, or only these keys of theirs, in each unit that would be filled.
pub async fn run(plan: &Plan<'_>, keys: Option<&BTreeSet<String>>) -> Result<Outcome, Fault> {
    let mut rows = Vec::new();
    let mut all = Vec::new();
    for unit in &plan.to {
        for table in &plan.tables {
            let found = compare(plan, unit, table, keys).await?;
            let count =
                |finding| found.iter().filter(|one| one.finding == finding).count().to_string();
            rows.push([
                unit.to_string(),
                table.to_string(),
                count(Finding::Missing),
                count(Finding::Different),
                count(Finding::Extra),
            ]);
            all.extend(found.into_iter().map(|one| (unit.clone(), one)));
        }
    }
    say(&columns(["UNIT", "TABLE", "TO INSERT", "TO OVERWRITE", "TO REMOVE"], &rows));
    for (unit, Difference { key, finding }) in all.iter().take(SHOWN) {
        let what = match finding {
            Finding::Missing => "insert",
            Finding::Different => "overwrite",
            Finding::Extra => "remove",
        };
        say(&format!("{unit}: {what} {}", String::from_utf8_lossy(key)));
    }
    if all.len() > SHOWN {
        say(&format!("and {} more", all.len() - SHOWN));
    }
    Ok(if all.is_empty() { Outcome::Fine } else { Outcome::Findings })
}

/// What differs in one table, and still does a moment later.
pub async fn compare(
    plan: &Plan<'_>,
    unit: &Name,
    table: &TableName,
    keys: Option<&BTreeSet<String>>,
) -> Result<Vec<Difference>, Fault> {
    let mut here = Reader::open(plan.mesh.store(&plan.log.unit, &plan.log.store)?).await?;
    let mut there = Reader::open(plan.mesh.store(unit, &plan.log.store)?).await?;
    let named = |unit: &Name| -> Result<(String, String), Fault> {
        let rename = plan.mesh.rename(unit, &plan.log.store)?;
        Ok(rename.local(&table.database, &table.table).unwrap_or_default())
    };
    let (Some(source), Some(target)) = (
        here.tables(&[named(&plan.log.unit)?]).await?.pop(),
        there.tables(&[named(unit)?]).await?.pop(),
    ) else {
        return Ok(Vec::new());
    };
    let routing = plan.mesh.routing(&plan.log)?;
    let (database, name) = (table.database.as_str(), table.table.as_str());
    let hidden = routing.hidden(database, name);
    let conditions = routing.conditions(database, name).into_iter().cloned().collect();
    let pair = Pair::new((database, name), source, target, &hidden, conditions)?;
    let mut comparison = Compare::new(pair, &mut here, &mut there);
    let suspects: Vec<Vec<u8>> = match keys {
        Some(keys) => {
            let head = Key::head(database, name);
            let own = keys.iter().map(|key| key.as_bytes().to_vec());
            own.filter(|key| key.starts_with(&head)).collect()
        }
        None => {
            let mut found = Vec::new();
            while let Some(part) = comparison.next().await? {
                found.extend(part.differences.into_iter().map(|one| one.key));
            }
            found
        }
    };
    if keys.is_none() && !suspects.is_empty() {
        sleep(SETTLING).await;
    }
    let suspects: Vec<&[u8]> = suspects.iter().map(Vec::as_slice).collect();
    comparison.again(&suspects).await
}
