//! Redis stores, and the flows between them.

use std::collections::BTreeMap;

use unitflow_change::name::{Log, Name};
use unitflow_change::redis::Keyspace;
use unitflow_change::routing::Order;
use unitflow_change::{Fault, Form};
use unitflow_redis::Store as Cache;
use unitflow_redis::commands::{self, Arrives};

use super::{Ddl, Eviction, FlowFile, Mesh, Unit, bad, with_store};

/// The Redis stores of one name in all units, and what travels between them.
#[derive(Clone, Debug)]
pub struct CacheFlow {
    /// Which keys travel.
    pub keyspace: Keyspace,
    /// What happens with keys that are thrown out.
    pub eviction: Eviction,
    /// The units whose writes travel.
    pub from: Vec<Name>,
    /// The units they travel to.
    pub to: Vec<Name>,
}

impl Mesh {
    /// The logs of Redis stores whose writes travel.
    pub fn cache_logs(&self) -> impl Iterator<Item = (Log, &CacheFlow)> {
        self.cache_flows.iter().flat_map(|(store, flow)| {
            flow.from
                .iter()
                .map(move |unit| (Log { unit: unit.clone(), store: store.clone() }, flow))
        })
    }

    /// Every way of a Redis store's log to another unit.
    pub fn cache_ways(&self) -> impl Iterator<Item = (Log, Name)> {
        self.cache_logs().flat_map(|(log, flow)| {
            let to = flow.to.iter().filter(|to| **to != log.unit).cloned().collect::<Vec<_>>();
            to.into_iter().map(move |to| (log.clone(), to))
        })
    }

    /// The Redis store of this name in a unit.
    pub fn cache(&self, unit: &Name, store: &Name) -> Result<&Cache, Fault> {
        self.unit(unit)?
            .caches
            .get(store)
            .ok_or_else(|| bad(format!("unit {unit} has no Redis store {store}")))
    }

    /// Refuses what is only there for MySQL where a store is Redis.
    pub fn ensure_no_cache(&self, store: &Name, what: &str) -> Result<(), Fault> {
        if !self.cache_flows.contains_key(store) {
            return Ok(());
        }
        Err(bad(format!("{what} works on MySQL stores; {store} is a Redis store")))
    }
}

/// Reads and checks a flow whose stores are Redis.
pub fn read_flow(
    name: &Name,
    flow: FlowFile,
    units: &BTreeMap<Name, Unit>,
) -> Result<CacheFlow, Fault> {
    let place = format!("flows.{name}");
    if units.values().any(|unit| unit.stores.contains_key(name)) {
        return Err(bad(format!("{place}: some of its stores are MySQL and some Redis")));
    }
    let with_store = with_store(&place, &flow, units, |unit| unit.caches.contains_key(name))?;
    let of_mysql = [
        ("lanes", flow.lanes.is_some()),
        ("order", flow.order != Order::default()),
        ("tables", !flow.tables.is_empty()),
        ("columns", !flow.columns.is_empty()),
        ("rows", !flow.rows.is_empty()),
        ("partition_by", !flow.partition_by.is_empty()),
        ("ddl", flow.ddl != Ddl::default()),
        ("envelope", flow.envelope != Form::default()),
        ("stored_code", !flow.stored_code.is_empty()),
        ("heartbeat", flow.heartbeat.is_some()),
    ];
    if let Some((setting, _)) = of_mysql.iter().find(|(_, given)| *given) {
        return Err(bad(format!(
            "{place}.{setting} is a setting of MySQL flows; this one has Redis stores"
        )));
    }
    if flow.keys.is_empty() {
        return Err(bad(format!("{place}.keys is empty: name what travels, such as \"shop:*\"")));
    }
    let mut commands = BTreeMap::new();
    for (command, policy) in flow.commands {
        let upper = command.to_ascii_uppercase();
        if !commands::form_of(&upper).is_some_and(|form| form.arrives == Arrives::Policy) {
            return Err(bad(format!(
                "{place}.commands: {command} is none of those that act on more than keys"
            ))
            .hint("such as FLUSHALL, FLUSHDB, SWAPDB, FUNCTION|LOAD"));
        }
        commands.insert(upper, policy);
    }
    Ok(CacheFlow {
        keyspace: Keyspace { partitions: 1, keys: flow.keys, exclude: flow.exclude, commands },
        eviction: flow.eviction,
        from: flow.from.unwrap_or_else(|| with_store.clone()),
        to: flow.to.unwrap_or(with_store),
    })
}
