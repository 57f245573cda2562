//! What `check` looks at in Redis stores.

use redis::Value;
use unitflow_change::name::{Log, Name, Stage};
use unitflow_change::{Code, Fault};
use unitflow_redis::client::refusal;
use unitflow_redis::{Client, Store, Tls};
use unitflow_sinks::redis::ledger;

use super::finding::Finding;
use crate::config::{CacheFlow, Eviction, Mesh};
use crate::pipeline::load_state;
use crate::pipeline::redis::ConnectorState;

/// The oldest version whose commands are used here, as its first number.
const VERSION_LEAST: u32 = 7;
/// A backlog below this runs over while a connector is started again under load.
const BACKLOG_BYTES_LEAST: u64 = 64 << 20;

/// What is found in a unit's Redis stores.
pub async fn check_caches(mesh: &Mesh, unit: &Name) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, store) in &mesh.units[unit].caches {
        let log = Log { unit: unit.clone(), store: name.clone() };
        if let Err(fault) = check_cache(mesh, &log, store, &mut findings).await {
            findings.push(Finding::fault(&log.to_string(), "server", &fault));
        }
    }
    findings
}

async fn check_cache(
    mesh: &Mesh,
    log: &Log,
    store: &Store,
    findings: &mut Vec<Finding>,
) -> Result<(), Fault> {
    let place = log.to_string();
    let flow = &mesh.cache_flows[&log.store];
    findings.extend(unverified_tls(&place, store));
    let mut client = Client::open(store).await?;
    let info = Info::read(&mut client).await?;
    findings.extend(check_version(&place, &info));
    let (captured, applied) = (flow.from.contains(&log.unit), flow.to.contains(&log.unit));
    findings.extend(check_rights(&place, &mut client, captured, applied).await?);
    if captured {
        findings.extend(check_source(&place, &info, flow.eviction));
        findings.extend(check_log(mesh, log).await?);
    }
    for (from, to) in
        mesh.cache_ways().filter(|(from, to)| *to == log.unit && from.store == log.store)
    {
        let known = ledger::read_all(&mut client, &from, mesh.lanes(&from)).await?;
        if known.is_empty() {
            findings.push(
                Finding::new(&format!("{from} to {to}"), Code::LedgerMissing, "ledger keys")
                    .expected("one for each lane", "none")
                    .remedy("a new flow: unitflow init; one that has run: see the runbook"),
            );
        }
    }
    Ok(())
}

/// What a server says of itself.
struct Info(String);

impl Info {
    async fn read(client: &mut Client) -> Result<Self, Fault> {
        match client.ask(&redis::cmd("INFO")).await? {
            Value::BulkString(text) => Ok(Self(String::from_utf8_lossy(&text).into_owned())),
            Value::VerbatimString { text, .. } => Ok(Self(text)),
            _ => Err(Fault::fatal(Code::StreamCorrupt, "the server answers INFO with no text")),
        }
    }

    fn get(&self, name: &str) -> &str {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default()
    }
}

/// Whether the user may do what is needed, as far as that can be tried without a trace.
async fn check_rights(
    place: &str,
    client: &mut Client,
    captured: bool,
    applied: bool,
) -> Result<Vec<Finding>, Fault> {
    const BY_CONNECTORS: [&str; 6] = [
        "REPLCONF capa eof",
        "SCAN 0 COUNT 1",
        "EXISTS unitflow:none",
        "DUMP unitflow:none",
        "MEMORY USAGE unitflow:none",
        "PEXPIRETIME unitflow:none",
    ];
    const BY_SINKS: [&str; 8] = [
        "WATCH unitflow:none",
        "UNWATCH",
        "HMGET unitflow:none none",
        "HGETALL unitflow:none",
        "HSCAN unitflow:none 0",
        "HLEN unitflow:none",
        "PFCOUNT unitflow:none",
        "UNLINK unitflow:none",
    ];
    let tried = BY_CONNECTORS.iter().filter(|_| captured);
    let tried: Vec<&str> = tried.chain(BY_SINKS.iter().filter(|_| applied)).copied().collect();
    let mut pipeline = redis::Pipeline::new();
    for command in &tried {
        let mut words = command.split(' ');
        let asked = pipeline.cmd(words.next().unwrap_or_default());
        words.for_each(|word| _ = asked.arg(word));
    }
    let answers = client.answers(&pipeline).await?;
    let refused = tried.iter().zip(&answers).filter_map(|(command, answer)| {
        let fault = refusal(answer).filter(|fault| fault.code == Code::Grant)?;
        Some(
            Finding::new(place, Code::Grant, *command)
                .expected("the user may do that", fault.what)
                .remedy("give it the rights that unitflow init --print names"),
        )
    });
    Ok(refused.collect())
}

fn check_version(place: &str, info: &Info) -> Option<Finding> {
    // Valkey names the Redis that it is compatible with as well.
    let version = info.get("redis_version");
    let first = version.split('.').next().and_then(|number| number.parse::<u32>().ok());
    if first.is_some_and(|first| first >= VERSION_LEAST) {
        return None;
    }
    Some(
        Finding::new(place, Code::Setting, "version")
            .expected(format!("{VERSION_LEAST} or newer"), version)
            .remedy("upgrade the server"),
    )
}

/// What a store that is captured has to be like.
fn check_source(place: &str, info: &Info, eviction: Eviction) -> Vec<Finding> {
    let mut findings = Vec::new();
    let policy = info.get("maxmemory_policy");
    if policy != "noeviction" && eviction == Eviction::Refused {
        findings.push(
            Finding::new(place, Code::Setting, "maxmemory-policy")
                .expected(
                    "noeviction: an eviction looks like a client's DEL, and would travel",
                    policy,
                )
                .remedy("CONFIG SET maxmemory-policy noeviction, in the configuration file too; or eviction = \"travels\" in the flow: what one unit throws out goes in all"),
        );
    }
    let backlog = info.get("repl_backlog_size").parse().unwrap_or(0);
    if backlog < BACKLOG_BYTES_LEAST {
        findings.push(
            Finding::new(place, Code::Setting, "repl-backlog-size")
                .expected("64mb or more: what is written while the connector is away has to fit", format!("{backlog} bytes"))
                .remedy("CONFIG SET repl-backlog-size 256mb, and repl-backlog-ttl 0, in the configuration file too")
                .warning(),
        );
    }
    findings
}

/// Whether the log that runs is the one that the configuration names.
async fn check_log(mesh: &Mesh, log: &Log) -> Result<Option<Finding>, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let place = log.to_string();
    let state = load_state::<ConnectorState>(broker, &mesh.topics, log, Stage::Connector).await;
    let CacheFlow { keyspace, .. } = &mesh.cache_flows[&log.store];
    Ok(match state {
        Ok(Some(state)) if state.keyspace != *keyspace => Some(
            Finding::new(&place, Code::Routing, "keys, exclude, commands")
                .expected("as configured", "the log carries what an older configuration said")
                .remedy("start the connector again; what keys held before is not copied")
                .warning(),
        ),
        Ok(Some(_)) => None,
        Ok(None) => Some(
            Finding::new(&place, Code::PositionMissing, mesh.topics.position(log))
                .expected("the position of its connector", "none")
                .remedy("a new mesh: unitflow init; one that has run: see the runbook"),
        ),
        // The topic is a finding already.
        Err(fault) if fault.code == Code::TopicMissing => None,
        Err(fault) => Some(Finding::fault(&place, "position", &fault)),
    })
}

fn unverified_tls(place: &str, store: &Store) -> Option<Finding> {
    let actual = match store.tls {
        Tls::Off => "off: nothing is encrypted",
        Tls::NoVerify => "no-verify: encrypted, to whoever answers",
        Tls::Verify { .. } => return None,
    };
    Some(super::unverified(place, actual))
}
