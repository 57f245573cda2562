//! `unitflow.toml`: the whole mesh in one file, the same for every worker.
//!
//! Everything is typed and unknown fields are refused; a problem is never a warning. Secrets stand
//! here by reference only.

mod caches;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use unitflow_change::condition::Condition;
use unitflow_change::ddl::Stored;
use unitflow_change::name::{Log, Name, Topics};
use unitflow_change::redis::Policy;
use unitflow_change::rename::Rename;
use unitflow_change::routing::{Columns, Order, PARTITIONS_MAX, PartitionBy, Routing};
use unitflow_change::{Code, Fault, Form};
use unitflow_kafka::broker::Broker;
use unitflow_mysql::connect::{Store, Tls};
use unitflow_redis::{Store as Cache, Tls as CacheTls};

pub use caches::CacheFlow;

/// Lanes of a flow that does not say: enough to keep one target busy, few enough to read.
const LANES_DEFAULT: i32 = 4;
/// The outage that topics and binlogs must bridge if the file does not say: a long weekend.
const OUTAGE_LONGEST_HOURS_DEFAULT: u64 = 72;

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "prefix_default")]
    prefix: String,
    #[serde(default)]
    topology: Topology,
    #[serde(default = "outage_longest_hours_default")]
    outage_longest_hours: u64,
    #[serde(default)]
    telemetry: Telemetry,
    units: BTreeMap<Name, UnitFile>,
    flows: BTreeMap<Name, FlowFile>,
}

fn prefix_default() -> String {
    "unitflow".to_owned()
}

fn outage_longest_hours_default() -> u64 {
    OUTAGE_LONGEST_HOURS_DEFAULT
}

/// Who reads whose Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Topology {
    /// Every unit reads every other's.
    #[default]
    Mesh,
    /// The hub's: it copies every spoke's tagged topics, and all others read them there.
    Star(Name),
}

/// Where metrics go.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// The address of the Prometheus endpoint; none without it.
    pub prometheus: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitFile {
    kafka: KafkaFile,
    stores: BTreeMap<Name, StoreFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KafkaFile {
    bootstrap: String,
    #[serde(default = "replication_default")]
    replication: i32,
    #[serde(default)]
    properties: BTreeMap<String, String>,
}

/// Three copies, so that two may acknowledge while one is away.
fn replication_default() -> i32 {
    3
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum StoreFile {
    /// MySQL or MariaDB; which one is asked of the server.
    Mysql {
        endpoints: Vec<String>,
        user: String,
        #[serde(default)]
        password: Option<Secret>,
        #[serde(default)]
        tls: TlsFile,
        #[serde(default)]
        rename: BTreeMap<String, String>,
    },
    /// Redis or Valkey, one primary.
    Redis {
        endpoints: Vec<String>,
        #[serde(default)]
        user: Option<String>,
        #[serde(default)]
        password: Option<Secret>,
        #[serde(default)]
        tls: TlsFile,
    },
}

/// A secret by reference.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Secret {
    Env(String),
    File(PathBuf),
}

/// How a server's identity is checked.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum TlsFile {
    /// By the system's certificate authorities.
    #[default]
    Verify,
    /// By this certificate authority.
    Ca(PathBuf),
    /// Encrypted, but to anybody.
    NoVerify,
    /// Not encrypted.
    Off,
}

/// What happens with keys that a Redis server throws out for want of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Eviction {
    /// `check` refuses a server that does so.
    #[default]
    Refused,
    /// They go in every unit: nobody can tell an eviction from a client's deletion.
    Travels,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowFile {
    lanes: Option<i32>,
    #[serde(default)]
    order: Order,
    /// Of MySQL.
    #[serde(default)]
    tables: Vec<String>,
    /// Of Redis.
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    commands: BTreeMap<String, Policy>,
    #[serde(default)]
    eviction: Eviction,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    columns: BTreeMap<String, Columns>,
    #[serde(default)]
    rows: BTreeMap<String, String>,
    #[serde(default)]
    partition_by: BTreeMap<String, PartitionBy>,
    #[serde(default)]
    ddl: Ddl,
    #[serde(default)]
    envelope: Form,
    #[serde(default)]
    stored_code: Vec<StoredCode>,
    heartbeat: Option<bool>,
    from: Option<Vec<Name>>,
    to: Option<Vec<Name>>,
}

/// What a sink does when a schema change arrives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Ddl {
    /// It parks tables whose changes do not fit any more, until a person has brought the target to
    /// the same schema.
    #[default]
    Stop,
    /// It goes on: schemas are kept equal by other means.
    Ignore,
    /// It runs what this unit ran; from others it is as with `Stop`.
    Apply(Name),
}

/// Code that servers store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredCode {
    Views,
    Triggers,
    Routines,
    Events,
}

/// One data centre.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Its Kafka.
    pub broker: Broker,
    /// How many copies its topics have.
    pub replication: i32,
    /// Its MySQL stores by name.
    pub stores: BTreeMap<Name, Store>,
    /// Its Redis stores by name.
    pub caches: BTreeMap<Name, Cache>,
    /// What its stores call the mesh's tables.
    renames: BTreeMap<Name, Rename>,
}

/// The MySQL stores of one name in all units, and what travels between them.
#[derive(Clone, Debug)]
pub struct Flow {
    /// What travels, and in which lane, in the mesh's names; [`Mesh::routing`] is that of a log.
    pub routing: Routing,
    /// What happens at a schema change.
    pub ddl: Ddl,
    /// How keys and values are written.
    pub envelope: Form,
    /// Stored code that comes along with applied schema changes.
    pub stored_code: Vec<Stored>,
    /// Whether each unit's clock travels too.
    pub heartbeat: bool,
    /// The units whose changes travel.
    pub from: Vec<Name>,
    /// The units they travel to.
    pub to: Vec<Name>,
}

impl Flow {
    /// Whether this unit runs what another changes in its schema.
    #[must_use]
    pub fn runs_ddl_in(&self, unit: &Name) -> bool {
        matches!(&self.ddl, Ddl::Apply(owner) if owner != unit) && self.to.contains(unit)
    }
}

/// The mesh.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// Names of all things in Kafka.
    pub topics: Topics,
    /// Who reads whose Kafka.
    pub topology: Topology,
    /// What topics and binlogs must bridge.
    pub outage_longest: Duration,
    /// Where metrics go.
    pub telemetry: Telemetry,
    /// The units by name.
    pub units: BTreeMap<Name, Unit>,
    /// The flows between MySQL stores, by the name of these.
    pub flows: BTreeMap<Name, Flow>,
    /// The flows between Redis stores, by the name of these.
    pub cache_flows: BTreeMap<Name, CacheFlow>,
}

impl Mesh {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self, Fault> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Fault::fatal(Code::Config, format!("{}: {error}", path.display()))
                .hint("name the file with --config, or run where unitflow.toml lies")
        })?;
        Self::parse(&text).map_err(|fault| fault.at(path.display()))
    }

    /// Reads and checks a file's text.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let file: File = toml::from_str(text).map_err(|error| bad(error.to_string().trim_end()))?;
        let mut units = BTreeMap::new();
        for (name, unit) in file.units {
            units.insert(name.clone(), read_unit(&name, unit)?);
        }
        let (mut flows, mut cache_flows) = (BTreeMap::new(), BTreeMap::new());
        for (name, flow) in file.flows {
            if units.values().any(|unit: &Unit| unit.caches.contains_key(&name)) {
                cache_flows.insert(name.clone(), caches::read_flow(&name, flow, &units)?);
            } else {
                flows.insert(name.clone(), read_flow(&name, flow, &units)?);
            }
        }
        ensure_names_differ(&units)?;
        ensure_each_store_flows(&units, |name| {
            flows.contains_key(name) || cache_flows.contains_key(name)
        })?;
        for (name, flow) in &flows {
            let named = units
                .values()
                .any(|unit| unit.renames.get(name).is_some_and(|names| !names.is_empty()));
            if named && matches!(flow.ddl, Ddl::Apply(_)) {
                return Err(bad(format!(
                    "flows.{name}.ddl: statements can't be applied where a unit has other names (rename); use \"stop\""
                )));
            }
        }
        if let Topology::Star(hub) = &file.topology {
            ensure_known(hub, &units, "topology")?;
            ensure_hub_has_its_own_kafka(hub, &units)?;
        }
        if file.outage_longest_hours == 0 {
            return Err(bad("outage_longest_hours must be at least 1"));
        }
        Ok(Self {
            topics: Topics::new(&file.prefix),
            topology: file.topology,
            outage_longest: Duration::from_secs(file.outage_longest_hours * 3600),
            telemetry: file.telemetry,
            units,
            flows,
            cache_flows,
        })
    }

    /// The unit of this name.
    pub fn unit(&self, name: &Name) -> Result<&Unit, Fault> {
        self.units.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.units.keys().map(Name::as_str).collect();
            bad(format!("there is no unit {name}; the file has {}", known.join(", ")))
        })
    }

    /// The logs whose changes travel: what each unit's own store writes.
    pub fn logs(&self) -> impl Iterator<Item = (Log, &Flow)> {
        self.flows.iter().flat_map(|(store, flow)| {
            flow.from
                .iter()
                .map(move |unit| (Log { unit: unit.clone(), store: store.clone() }, flow))
        })
    }

    /// The logs that travel to a unit.
    pub fn logs_to(&self, to: &Name) -> impl Iterator<Item = (Log, &Flow)> {
        self.logs().filter(move |(log, flow)| log.unit != *to && flow.to.contains(to))
    }

    /// Every way of a log to another unit.
    pub fn ways(&self) -> impl Iterator<Item = (Log, Name, &Flow)> {
        self.logs().flat_map(|(log, flow)| {
            let to = flow.to.iter().filter(|to| **to != log.unit).cloned().collect::<Vec<_>>();
            to.into_iter().map(move |to| (log.clone(), to, flow))
        })
    }

    /// What a unit's store calls the mesh's tables.
    pub fn rename(&self, unit: &Name, store: &Name) -> Result<&Rename, Fault> {
        self.store(unit, store)?;
        Ok(&self.unit(unit)?.renames[store])
    }

    /// What the configuration says of a log's routing. What its store's schema adds is not in it.
    pub fn routing(&self, log: &Log) -> Result<Routing, Fault> {
        let rename = self.rename(&log.unit, &log.store)?.clone();
        Ok(Routing { rename, ..self.flows[&log.store].routing.clone() })
    }

    /// The logs of all stores.
    pub fn all_logs(&self) -> impl Iterator<Item = Log> + '_ {
        let of_redis = self.cache_logs().map(|(log, _)| log);
        self.logs().map(|(log, _)| log).chain(of_redis)
    }

    /// Every way of the logs of all stores.
    pub fn all_ways(&self) -> impl Iterator<Item = (Log, Name)> + '_ {
        self.ways().map(|(log, to, _)| (log, to)).chain(self.cache_ways())
    }

    /// How many lanes a log has.
    #[must_use]
    pub fn lanes(&self, log: &Log) -> i32 {
        let of_redis = self.cache_flows.get(&log.store).map(|flow| flow.keyspace.partitions);
        of_redis.unwrap_or_else(|| self.flows[&log.store].routing.partitions)
    }

    /// The unit in whose Kafka other units read this log.
    #[must_use]
    pub fn read_at<'a>(&'a self, log: &'a Log) -> &'a Name {
        match &self.topology {
            Topology::Mesh => &log.unit,
            Topology::Star(hub) => hub,
        }
    }

    /// Whether some unit has names of its own in this flow.
    #[must_use]
    pub fn renames(&self, store: &Name) -> bool {
        let of_unit = |unit: &Unit| unit.renames.get(store).is_some_and(|names| !names.is_empty());
        self.units.values().any(of_unit)
    }

    /// The store that a log is written from.
    pub fn store(&self, unit: &Name, store: &Name) -> Result<&Store, Fault> {
        self.unit(unit)?
            .stores
            .get(store)
            .ok_or_else(|| bad(format!("unit {unit} has no store {store}")))
    }
}

fn bad(what: impl Into<String>) -> Fault {
    Fault::fatal(Code::Config, what)
}

fn read_unit(name: &Name, unit: UnitFile) -> Result<Unit, Fault> {
    let mut stores = BTreeMap::new();
    let mut caches = BTreeMap::new();
    let mut renames = BTreeMap::new();
    for (store, file) in unit.stores {
        let place = format!("units.{name}.stores.{store}");
        match file {
            StoreFile::Mysql { endpoints, user, password, tls, rename } => {
                let rename =
                    Rename::parse(&rename).map_err(|fault| fault.at(format!("{place}.rename")))?;
                renames.insert(store.clone(), rename);
                let place = Place::read(place, &endpoints, password.as_ref())?;
                stores.insert(store, place.mysql(user, tls));
            }
            StoreFile::Redis { endpoints, user, password, tls } => {
                let place = Place::read(place, &endpoints, password.as_ref())?;
                caches.insert(store, place.redis(user, tls));
            }
        }
    }
    if unit.kafka.bootstrap.is_empty() {
        return Err(bad(format!("units.{name}.kafka.bootstrap is empty")));
    }
    Ok(Unit {
        broker: Broker {
            bootstrap: unit.kafka.bootstrap,
            properties: unit.kafka.properties.into_iter().collect(),
        },
        replication: unit.kafka.replication,
        stores,
        caches,
        renames,
    })
}

/// Where a store is, and with which password.
struct Place {
    name: String,
    endpoints: Vec<(String, u16)>,
    password: Option<SecretString>,
}

impl Place {
    fn read(name: String, endpoints: &[String], password: Option<&Secret>) -> Result<Self, Fault> {
        let endpoints =
            endpoints.iter().map(|text| endpoint(&name, text)).collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(bad(format!("{name}.endpoints names no server")));
        }
        let password = password.map(|secret| secret.read(&name)).transpose()?;
        Ok(Self { name, endpoints, password })
    }

    fn mysql(self, user: String, tls: TlsFile) -> Store {
        let Self { name, endpoints, password } = self;
        let tls = match tls {
            TlsFile::Verify => Tls::Verify { ca: None, hostname: None },
            TlsFile::Ca(ca) => Tls::Verify { ca: Some(ca), hostname: None },
            TlsFile::NoVerify => Tls::NoVerify,
            TlsFile::Off => Tls::Off,
        };
        Store { name, endpoints, user, password, tls }
    }

    fn redis(self, user: Option<String>, tls: TlsFile) -> Cache {
        let Self { name, endpoints, password } = self;
        let tls = match tls {
            TlsFile::Verify => CacheTls::Verify { ca: None, hostname: None },
            TlsFile::Ca(ca) => CacheTls::Verify { ca: Some(ca), hostname: None },
            TlsFile::NoVerify => CacheTls::NoVerify,
            TlsFile::Off => CacheTls::Off,
        };
        Cache { name, endpoints, user, password, tls }
    }
}

fn endpoint(place: &str, text: &str) -> Result<(String, u16), Fault> {
    let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parts
        .filter(|(host, _)| !host.is_empty())
        .ok_or_else(|| bad(format!("{place}.endpoints: {text:?} is not host:port")))?;
    Ok((host.trim_matches(['[', ']']).to_owned(), port))
}

impl StoredCode {
    fn kind(self) -> Stored {
        match self {
            Self::Views => Stored::View,
            Self::Triggers => Stored::Trigger,
            Self::Routines => Stored::Routine,
            Self::Events => Stored::Event,
        }
    }
}

impl Secret {
    fn read(&self, place: &str) -> Result<SecretString, Fault> {
        let fault = |what: String| Fault::fatal(Code::Secret, format!("{place}.password: {what}"));
        match self {
            Self::Env(name) => std::env::var(name)
                .map(SecretString::from)
                .map_err(|_| fault(format!("the environment has no {name}"))),
            Self::File(path) => {
                refuse_readable_by_others(path).map_err(|what| {
                    fault(format!("{}: {what}", path.display())).hint("chmod 600 the file")
                })?;
                std::fs::read_to_string(path)
                    .map(|text| SecretString::from(text.trim_end_matches('\n')))
                    .map_err(|error| fault(format!("{}: {error}", path.display())))
            }
        }
    }
}

fn refuse_readable_by_others(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).map_err(|error| error.to_string())?.permissions().mode();
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(format!("others may read it (mode {:o})", mode & 0o777))
    }
}

/// The units that have a store of a flow; those that the flow names are among them.
fn with_store(
    place: &str,
    flow: &FlowFile,
    units: &BTreeMap<Name, Unit>,
    has: impl Fn(&Unit) -> bool,
) -> Result<Vec<Name>, Fault> {
    let with_store: Vec<Name> =
        units.iter().filter(|(_, unit)| has(unit)).map(|(unit, _)| unit.clone()).collect();
    if with_store.len() < 2 {
        return Err(bad(format!(
            "{place}: {} unit has a store of this name; a flow needs two",
            with_store.len()
        )));
    }
    for unit in flow.from.iter().chain(&flow.to).flatten() {
        ensure_known(unit, units, place)?;
        if !with_store.contains(unit) {
            return Err(bad(format!("{place}: unit {unit} has no store of this name")));
        }
    }
    Ok(with_store)
}

fn read_flow(name: &Name, flow: FlowFile, units: &BTreeMap<Name, Unit>) -> Result<Flow, Fault> {
    let place = format!("flows.{name}");
    let with_store = with_store(&place, &flow, units, |unit| unit.stores.contains_key(name))?;
    let of_redis = flow.eviction != Eviction::default();
    if !flow.keys.is_empty() || !flow.commands.is_empty() || of_redis {
        return Err(bad(format!(
            "{place}: keys, commands and eviction are settings of Redis flows; this one has MySQL stores"
        )));
    }
    if let Ddl::Apply(owner) = &flow.ddl {
        ensure_known(owner, units, &format!("{place}.ddl"))?;
        if !with_store.contains(owner) {
            return Err(bad(format!("{place}.ddl: unit {owner} has no store of this name")));
        }
    }
    let lanes = flow.lanes.unwrap_or(LANES_DEFAULT);
    if !(1..=PARTITIONS_MAX).contains(&lanes) {
        return Err(bad(format!("{place}.lanes must be 1 to {PARTITIONS_MAX}, not {lanes}")));
    }
    if flow.tables.is_empty() {
        return Err(bad(format!("{place}.tables is empty: name what travels, such as \"shop.*\"")));
    }
    Ok(Flow {
        stored_code: flow.stored_code.iter().map(|code| code.kind()).collect(),
        routing: read_routing(&place, &flow)?,
        ddl: flow.ddl,
        envelope: flow.envelope,
        heartbeat: flow.heartbeat.unwrap_or(true),
        from: flow.from.unwrap_or_else(|| with_store.clone()),
        to: flow.to.unwrap_or(with_store),
    })
}

fn read_routing(place: &str, flow: &FlowFile) -> Result<Routing, Fault> {
    let patterns = flow.tables.iter().chain(&flow.exclude).chain(flow.partition_by.keys());
    for pattern in patterns.chain(flow.columns.keys()).chain(flow.rows.keys()) {
        if !pattern.contains('.') && pattern != "*" {
            return Err(bad(format!("{place}: {pattern:?} is not a database.table pattern")));
        }
    }
    let mut rows = BTreeMap::new();
    for (pattern, text) in &flow.rows {
        let condition = Condition::parse(text)
            .map_err(|fault| fault.at(format!("{place}.rows.{pattern:?}")))?;
        rows.insert(pattern.clone(), condition);
    }
    let nothing = |columns: &Columns| columns.exclude.is_empty();
    if let Some((pattern, _)) = flow.columns.iter().find(|(_, columns)| nothing(columns)) {
        return Err(bad(format!("{place}.columns.{pattern:?} excludes no column")));
    }
    if flow.envelope == Form::WithSchema && !flow.columns.is_empty() {
        return Err(bad(format!(
            "{place}: columns can't be left out of records that carry their schema"
        ))
        .hint("leave the table out, or set envelope = \"plain\""));
    }
    let routing = Routing {
        partitions: if flow.order == Order::Transaction {
            1
        } else {
            flow.lanes.unwrap_or(LANES_DEFAULT)
        },
        order: flow.order,
        tables: flow.tables.clone(),
        exclude: flow.exclude.clone(),
        partition_by: flow.partition_by.clone(),
        columns: flow.columns.clone(),
        rows,
        ..Routing::default()
    };
    // Of tables named by pattern the connector's store knows which there are.
    for pattern in flow.rows.keys().chain(flow.partition_by.keys()) {
        if let Some((database, table)) = pattern.split_once('.').filter(|_| !pattern.contains('*'))
        {
            routing
                .ensure_ordered(database, table)
                .map_err(|fault| Fault { code: Code::Config, ..fault.at(place) })?;
        }
    }
    Ok(routing)
}

fn ensure_known(unit: &Name, units: &BTreeMap<Name, Unit>, place: &str) -> Result<(), Fault> {
    if units.contains_key(unit) {
        Ok(())
    } else {
        Err(bad(format!("{place}: there is no unit {unit}")))
    }
}

/// The hub's copies have the names of the originals.
fn ensure_hub_has_its_own_kafka(hub: &Name, units: &BTreeMap<Name, Unit>) -> Result<(), Fault> {
    let same = |(name, unit): &(&Name, &Unit)| {
        *name != hub && unit.broker.bootstrap == units[hub].broker.bootstrap
    };
    match units.iter().find(same) {
        None => Ok(()),
        Some((spoke, _)) => Err(bad(format!(
            "units {hub} and {spoke} have the same Kafka: in a star the hub copies the spoke's topics, and needs a Kafka of its own"
        ))),
    }
}

/// Two stores at one endpoint would capture each other's ledger and take it for their own.
fn ensure_names_differ(units: &BTreeMap<Name, Unit>) -> Result<(), Fault> {
    let mut seen = BTreeMap::new();
    let mysql = units.values().flat_map(|unit| unit.stores.values());
    let redis = units.values().flat_map(|unit| unit.caches.values());
    let stores = mysql
        .map(|store| (&store.name, &store.endpoints))
        .chain(redis.map(|cache| (&cache.name, &cache.endpoints)));
    for (name, endpoints) in stores {
        for endpoint in endpoints {
            if let Some(other) = seen.insert(endpoint, name).filter(|other| *other != name) {
                return Err(bad(format!(
                    "{name} and {other} are the same server {}:{}: each store needs its own",
                    endpoint.0, endpoint.1
                )));
            }
        }
    }
    Ok(())
}

fn ensure_each_store_flows(
    units: &BTreeMap<Name, Unit>,
    is_flow: impl Fn(&Name) -> bool,
) -> Result<(), Fault> {
    let names = |unit: &'_ Unit| unit.stores.keys().chain(unit.caches.keys()).cloned().collect();
    let stores = units.iter().flat_map(|(name, unit)| {
        let stores: Vec<Name> = names(unit);
        stores.into_iter().map(move |store| (name, store))
    });
    for (unit, store) in stores {
        if !is_flow(&store) {
            return Err(bad(format!("units.{unit}.stores.{store}: there is no [flows.{store}]")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples/unitflow.toml");
        let text = std::fs::read_to_string(path).unwrap();
        // The example's secrets are not on this machine.
        text.lines().filter(|line| !line.starts_with("password")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn filters_and_names_are_checked_where_they_are_written() {
        for (written, instead, says) in [
            ("region = 'eu'", "region = eu", "flows.shop.rows.\"shop.orders\": at character 10"),
            ("exclude = [\"photo\"]", "exclude = []", "flows.shop.columns.\"shop.users\" excludes"),
            ("exclude = [\"photo\"]", "hide = [\"photo\"]", "unknown field `hide`"),
            ("\"shop.carts\" = { columns", "\"shop.orders\" = { columns", "could overtake"),
            ("\"shop_jp\"", "\"shop\"", "units.tokyo.stores.shop.rename: the mapping"),
            (
                "keys = [\"session",
                "lanes = 2\nkeys = [\"session",
                "flows.cache.lanes is a setting of",
            ),
            ("keys = [\"session:*\", \"stock:*\"]", "keys = []", "flows.cache.keys is empty"),
            ("{ FLUSHDB =", "{ GET =", "flows.cache.commands: GET is none of those"),
            ("tables = [\"shop.*\"]", "tables = [\"shop.*\"]\nkeys = [\"x\"]", "flows.shop: keys"),
            (
                "[units.tokyo.stores.cache]\nkind = \"redis\"",
                "[units.tokyo.stores.cache]\nkind = \"mysql\"",
                "flows.cache: some of its stores are MySQL",
            ),
            ("\"shop_jp\"", "\"shop_jp.x.y\"", "units.tokyo.stores.shop.rename: \"shop_jp.x.y\""),
        ] {
            assert!(example().contains(written), "{written}");
            let fault = Mesh::parse(&example().replacen(written, instead, 1)).unwrap_err();
            let text = fault.to_string();
            assert!(text.starts_with("[config]") && text.contains(says), "{instead}: {text}");
        }
    }

    #[test]
    fn the_example_is_read_and_says_what_it_says() {
        let mesh = Mesh::parse(&example()).unwrap();
        let ways: Vec<String> = mesh.ways().map(|(log, to, _)| format!("{log} to {to}")).collect();
        assert_eq!(ways, ["berlin.shop to tokyo", "tokyo.shop to berlin"]);
        let ways: Vec<String> =
            mesh.cache_ways().map(|(log, to)| format!("{log} to {to}")).collect();
        assert_eq!(ways, ["berlin.cache to tokyo", "tokyo.cache to berlin"]);
        let keyspace = &mesh.cache_flows[&"cache".parse().unwrap()].keyspace;
        assert!(keyspace.carries(b"session:1") && !keyspace.carries(b"session:tmp:1"));
        assert_eq!(keyspace.commands["FLUSHDB"], Policy::Stay);
        let routing = &mesh.flows[&"shop".parse().unwrap()].routing;
        assert_eq!(routing.partition_by("shop", "users"), PartitionBy::Table);
        assert_eq!(
            routing.partition_by("shop", "carts"),
            PartitionBy::Columns(vec!["user_id".to_owned()])
        );
        assert_eq!(routing.hidden("shop", "users"), ["photo"]);
        assert_eq!(routing.conditions("shop", "orders").len(), 1);
        let (tokyo, shop) = ("tokyo".parse().unwrap(), "shop".parse().unwrap());
        let local = mesh.rename(&tokyo, &shop).unwrap().local("shop", "orders");
        assert_eq!(local, Some(("shop_jp".to_owned(), "orders_v2".to_owned())));
    }
}
