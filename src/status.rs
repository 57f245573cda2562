//! `unitflow status`: where every flow stands.
//!
//! Read from the positions that stages store with their records and from the ledgers, so a worker
//! that hangs shows as a position that does not move. What workers say of themselves tells when a
//! role was started or stopped, and its last fault. One that was killed says nothing more: its stage no
//! longer stores its state, its sink is no longer in the flow's group, and so it is shown as silent.

mod redis;
mod show;

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use serde::Serialize;
use tokio::time::timeout;
use unitflow_change::ddl::Statement;
use unitflow_change::name::{Log, Name, Stage, Topics};
use unitflow_change::tag::{HEADER, Kind, Tag};
use unitflow_change::{Fault, Seq};
use unitflow_kafka::broker::Broker;
use unitflow_kafka::control::{self, Action, Heard, Order, Refused};
use unitflow_kafka::reader::{Item, QUEUE_BYTES, Reader};
use unitflow_kafka::{members, notes, positions, topics};
use unitflow_mysql::connect::connect;
use unitflow_sinks::copy::filling::{self, Filling};
use unitflow_sinks::copy::passed;
use unitflow_sinks::ledger::{self, Entry, Meeting};
use unitflow_sinks::park;

use crate::Outcome;
use crate::bridge::{self, Bridge};
use crate::cli::StatusArgs;
use crate::config::Mesh;
use crate::notice::Notice;
use crate::output::say;
use crate::pipeline::{
    ConnectorState, GONE_AFTER, RelayState, TransformerState, load_state, relayed_at,
};
use crate::resync;

use show::{json, text};

/// How long each part may take: at night nobody waits for a Kafka that is away.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Lanes that wait for each other for less than this are on their way.
const WAITING_FROM: Duration = Duration::from_secs(10);
/// A fault this old is no longer what the role is doing.
const FAILING_FOR: Duration = Duration::from_secs(10);

/// Everything, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Status {
    logs: Vec<LogStatus>,
    flows: Vec<FlowStatus>,
    /// What stands in the control topics and is no order, or of no flow.
    not_orders: Vec<NotOrder>,
    roles: Vec<RoleStatus>,
}

/// A control record that changes nothing.
#[derive(Debug, Serialize)]
struct NotOrder {
    /// Whose control topic it is.
    unit: String,
    /// The record's key.
    flow: String,
    #[serde(flatten)]
    refused: Refused,
}

/// One log at its origin.
#[derive(Debug, Default, Serialize)]
struct LogStatus {
    log: String,
    /// The source's transactions captured so far.
    position: String,
    /// The server that it was captured from last: MySQL's uuid, MariaDB's server_id.
    server: Option<String>,
    /// The last captured record.
    captured_seq: Option<u64>,
    /// Captured records that the transformer has not read.
    transformer_lag_records: Option<i64>,
    /// In a star: tagged records that the hub has not copied; transaction markers count as one each.
    relay_lag_records: Option<i64>,
    /// The outage of the connector that the binlog bridges.
    bridged_by_binlog: Option<Bridge>,
    /// The outage of the transformer that the captured topic bridges.
    bridged_by_captured: Option<Bridge>,
    /// In a star: the outage of the hub's relay that the log's own tagged topic bridges.
    bridged_by_tagged: Option<Bridge>,
    /// Why a part is missing.
    unknown: Option<String>,
}

/// One log's way into one unit.
#[derive(Debug, Serialize)]
struct FlowStatus {
    log: String,
    to: String,
    /// As orders name it.
    flow: String,
    lanes: Vec<LaneStatus>,
    parked: Vec<ParkedStatus>,
    /// Lanes that passed over records whose changes have still to be copied.
    lacking: Vec<i32>,
    /// Tables that are being filled with this log's unit's rows.
    filling: Vec<FillingStatus>,
    /// Where its lanes wait for each other.
    meeting: Option<MeetingStatus>,
    /// The order that holds, if one was ever given.
    order: Option<Order>,
    /// Why a part is missing.
    unknown: Option<String>,
}

/// A table, or a Redis store, that is being filled, by a command that runs or was given up: meanwhile changes that
/// do not fit stop nobody.
#[derive(Debug, Serialize)]
struct FillingStatus {
    table: String,
    /// Rows that are not settled yet.
    unsettled: u64,
    /// The command that goes on with it.
    command: String,
}

/// A table whose changes wait for a person.
#[derive(Debug, Serialize)]
struct ParkedStatus {
    table: String,
    /// In how many lanes.
    lanes: usize,
    code: String,
    why: String,
}

/// A record that all lanes have to pass together and some have not come to.
#[derive(Debug, Serialize)]
struct MeetingStatus {
    seq: u64,
    /// The lanes that are waited for; none where the first does what the record asks for.
    missing: Vec<i32>,
    seconds: f64,
    /// The schema change, where it is one.
    ddl: Option<String>,
}

/// One lane, from its ledger row.
#[derive(Debug, Serialize)]
struct LaneStatus {
    lane: i32,
    seq: u64,
    /// Records in the topic that are not applied; transaction markers count as one each.
    lag_records: i64,
    /// From the source's commit to the commit here, of the last change applied.
    last_lag_seconds: Option<f64>,
    /// The outage of the sink that the tagged topic bridges.
    bridged: Option<Bridge>,
    /// Since the row was last written.
    idle_seconds: f64,
}

/// What is known of one role.
#[derive(Debug, Serialize)]
struct RoleStatus {
    unit: String,
    /// `connector A.shop`, `sink B.shop`, `sink B.shop lane 3`.
    role: String,
    state: State,
    /// Since it said so.
    seconds_ago: Option<u64>,
    /// How long a stage that has started has stored nothing, though it does so every two seconds at least.
    silent_seconds: Option<u64>,
    /// The last fault since its process started.
    fault: Option<FaultStatus>,
}

/// What a role said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Nothing yet.
    Never,
    /// That it starts, and it runs.
    Started,
    /// That it starts, but it shows no sign of life: it was killed, or hangs.
    Silent,
    /// That it failed and is tried again by itself.
    Failing,
    /// That it failed and waits for a person.
    Failed,
    /// That it was told to stop.
    Stopped,
}

#[derive(Debug, Serialize)]
struct FaultStatus {
    code: String,
    what: String,
    hint: String,
    seconds_ago: u64,
}

/// Prints the status, once or over and over.
pub async fn run(mesh: &Mesh, args: &StatusArgs) -> Result<Outcome, Fault> {
    let Some(seconds) = args.watch else {
        let status = read(mesh).await;
        say(&if args.json { json(&status, true) } else { text(&status) });
        return Ok(status.outcome());
    };
    loop {
        let status = read(mesh).await;
        match (args.json, std::io::stdout().is_terminal()) {
            // One document a line, for programs.
            (true, _) => say(&json(&status, false)),
            // Clear the screen and begin at its top.
            (false, true) => say(&format!("\x1b[2J\x1b[H{}", text(&status))),
            (false, false) => say(&format!("{}\n", text(&status))),
        }
        tokio::time::sleep(Duration::from_secs(seconds.max(1))).await;
    }
}

impl FlowStatus {
    /// Whether it waits for a person.
    fn waits(&self) -> bool {
        let paused = self.order.as_ref().is_some_and(|order| order.action == Action::Pause);
        paused || !self.parked.is_empty() || !self.lacking.is_empty() || !self.filling.is_empty()
    }
}

impl MeetingStatus {
    fn text(&self) -> String {
        let lanes: Vec<String> = self.missing.iter().map(i32::to_string).collect();
        let whom = match lanes.as_slice() {
            [] => "lane 0 to do what is asked for".to_owned(),
            lanes => format!("lane {} to come", lanes.join(", ")),
        };
        let ddl = self.ddl.as_ref().map_or(String::new(), |ddl| format!(": {ddl}"));
        format!("at record {} since {:.0} s for {whom}{ddl}", self.seq, self.seconds)
    }
}

impl Status {
    /// Whether something that has still to be read was removed.
    fn has_gone(&self) -> bool {
        let logs = self.logs.iter();
        let of_logs = logs.flat_map(|log| {
            [log.bridged_by_binlog, log.bridged_by_captured, log.bridged_by_tagged]
        });
        let of_lanes = self.flows.iter().flat_map(|flow| &flow.lanes).map(|lane| lane.bridged);
        of_logs.chain(of_lanes).any(|bridge| bridge == Some(Bridge::Gone))
    }

    fn outcome(&self) -> Outcome {
        let failed =
            self.roles.iter().any(|role| matches!(role.state, State::Failed | State::Silent));
        let unknown = self.logs.iter().any(|log| log.unknown.is_some())
            || self.flows.iter().any(|flow| flow.unknown.is_some());
        let waits = self.flows.iter().any(FlowStatus::waits) || !self.not_orders.is_empty();
        if failed || unknown || waits || self.has_gone() {
            Outcome::Findings
        } else {
            Outcome::Fine
        }
    }
}

/// What a log's two stages stored last.
type States = (ConnectorState, Option<TransformerState>);

async fn read(mesh: &Mesh) -> Status {
    let logs: Vec<Log> = mesh.all_logs().collect();
    let ways: Vec<(Log, Name)> = mesh.all_ways().collect();
    let heard: BTreeMap<&Name, BTreeMap<String, Heard>> =
        join_all(mesh.units.keys().map(|unit| read_orders(mesh, unit))).await.into_iter().collect();
    let (logs, mut flows, roles) = tokio::join!(
        join_all(logs.iter().map(|log| read_log(mesh, log))),
        join_all(ways.iter().map(|(log, to)| read_flow(mesh, log, to))),
        join_all(mesh.units.keys().map(|unit| read_roles(mesh, unit))),
    );
    for (flow, (_, to)) in flows.iter_mut().zip(&ways) {
        let heard = heard.get(to).and_then(|orders| orders.get(&flow.flow));
        flow.order = heard.and_then(|heard| heard.in_force.order.clone());
    }
    let not_orders = heard.iter().flat_map(|(unit, orders)| not_orders(unit, orders, &flows));
    let not_orders = not_orders.collect();
    Status { logs, flows, not_orders, roles: roles.into_iter().flatten().collect() }
}

/// What a unit's control topic says; nothing where it can't be read, and then the flows say why.
async fn read_orders<'a>(mesh: &Mesh, unit: &'a Name) -> (&'a Name, BTreeMap<String, Heard>) {
    let topic = mesh.topics.control(unit);
    let read = async { control::read_all(&mesh.unit(unit)?.broker, &topic).await };
    (unit, answer("orders", read).await.unwrap_or_default())
}

fn not_orders(
    unit: &Name,
    orders: &BTreeMap<String, Heard>,
    flows: &[FlowStatus],
) -> Vec<NotOrder> {
    let told = orders.iter().filter_map(|(name, heard)| {
        let is_flow = flows.iter().any(|flow| flow.flow == *name && flow.to == unit.as_str());
        let refused = match &heard.refused {
            Some(refused) => refused.clone(),
            None if is_flow => return None,
            None => Refused {
                offset: heard.in_force.offset,
                what: format!("no flow of this name leads to unit {unit}"),
            },
        };
        Some(NotOrder { unit: unit.to_string(), flow: name.clone(), refused })
    });
    told.collect()
}

/// What a part gave, or in one line why it gave nothing.
async fn answer<T>(whose: &str, part: impl Future<Output = Result<T, Fault>>) -> Result<T, String> {
    match timeout(ANSWER_WITHIN, part).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(fault)) => Err(format!("[{}] {}", fault.code, fault.what)),
        Err(_) => {
            Err(format!("[unreachable] {whose}: no answer within {} s", ANSWER_WITHIN.as_secs()))
        }
    }
}

async fn read_log(mesh: &Mesh, log: &Log) -> LogStatus {
    let mut found = LogStatus { log: log.to_string(), ..LogStatus::default() };
    let kafka = mesh.units.get(&log.unit).map_or("", |unit| &unit.broker.bootstrap);
    let whose = format!("Kafka of {} at {kafka}", log.unit);
    if is_redis(mesh, log) {
        if let Err(why) = answer(&whose, redis::fill_log(mesh, log, &mut found)).await {
            found.unknown = Some(why);
        }
        return found;
    }
    match answer(&whose, fill_log(mesh, log, &mut found)).await {
        Ok(Some((connector, transformer))) => {
            let (binlog, captured) = tokio::join!(
                answer(&whose, bridge::of_binlog(mesh, log, &connector)),
                answer(&whose, bridge::of_captured(mesh, log, transformer.as_ref(), connector.seq)),
            );
            (found.bridged_by_binlog, found.bridged_by_captured) = (binlog.ok(), captured.ok());
            if found.relay_lag_records.is_some() {
                found.bridged_by_tagged = answer(&whose, bridge::of_relay(mesh, log)).await.ok();
            }
        }
        Ok(None) => {}
        Err(why) => found.unknown = Some(why),
    }
    found
}

async fn fill_log(mesh: &Mesh, log: &Log, found: &mut LogStatus) -> Result<Option<States>, Fault> {
    let broker = &mesh.unit(&log.unit)?.broker;
    let connector: Option<ConnectorState> =
        load_state(broker, &mesh.topics, log, Stage::Connector).await?;
    let Some(connector) = connector else {
        found.unknown = Some("[position_missing] not initialised: unitflow init".to_owned());
        return Ok(None);
    };
    found.position = connector.position.seen().to_string();
    found.server.clone_from(&connector.server);
    found.captured_seq = Some(connector.seq.0);
    let transformer: Option<TransformerState> =
        load_state(broker, &mesh.topics, log, Stage::Transformer).await?;
    let read = transformer.as_ref().map_or(Seq::NONE, |state| state.function.seq);
    found.transformer_lag_records = captured_behind(connector.seq, read);
    if mesh.read_at(log) != &log.unit {
        let tails = transformer.as_ref().map(|state| state.function.tails.clone());
        found.relay_lag_records = Some(relay_lag(mesh, log, &tails.unwrap_or_default()).await?);
    }
    Ok(Some((connector, transformer)))
}

/// Captured records up to `last` behind the one that was read last.
fn captured_behind(last: Seq, read: Seq) -> Option<i64> {
    // Captured numbers are even and count from the generation's start.
    let behind = last.0.saturating_sub(read.0.max(last.0 & !((1 << 48) - 1)));
    i64::try_from(behind / 2).ok()
}

fn is_redis(mesh: &Mesh, log: &Log) -> bool {
    mesh.cache_flows.contains_key(&log.store)
}

/// What the hub has not copied of a spoke's tagged topic, whose lanes end with `tails`.
async fn relay_lag(mesh: &Mesh, log: &Log, tails: &[Seq]) -> Result<i64, Fault> {
    let hub = &mesh.unit(mesh.read_at(log))?.broker;
    let state: Option<RelayState> = load_state(hub, &mesh.topics, log, Stage::Relay).await?;
    let (source, topic) = (&mesh.unit(&log.unit)?.broker, mesh.topics.tagged(log));
    let mut behind = 0;
    for (place, (lane, tail)) in (0..).zip(tails).enumerate() {
        let copied = state
            .as_ref()
            .and_then(|state| Some((*state.offsets.get(place)?, *state.tails.get(place)?)));
        let (offset, last) = copied.unwrap_or((0, Seq::NONE));
        let (_, end) = topics::bounds(source, &topic, lane).await?;
        behind += lag(offset, end, last >= *tail);
    }
    Ok(behind)
}

/// Records of a lane from `offset` on. Behind the last one stands the marker of its transaction.
fn lag(offset: i64, end: i64, has_last: bool) -> i64 {
    if has_last || end == 0 { 0 } else { (end - offset - 1).max(1) }
}

async fn read_flow(mesh: &Mesh, log: &Log, to: &Name) -> FlowStatus {
    let mut flow = FlowStatus {
        log: log.to_string(),
        to: to.to_string(),
        flow: Topics::flow(log, to),
        lanes: Vec::new(),
        parked: Vec::new(),
        lacking: Vec::new(),
        filling: Vec::new(),
        meeting: None,
        order: None,
        unknown: None,
    };
    let whose = format!("Kafka of {}, or the server of {to}", mesh.read_at(log));
    match answer(&whose, read_lanes(mesh, log, to)).await {
        Ok((lanes, entries)) => {
            flow.unknown = missing_lanes(mesh, log, &lanes);
            flow.lanes = lanes;
            let bridges = bridge::of_lanes(mesh, log, &entries);
            let bridges = answer(&whose, bridges).await.unwrap_or_default();
            for (lane, bridge) in flow.lanes.iter_mut().zip(bridges) {
                lane.bridged = Some(bridge);
            }
        }
        Err(why) => flow.unknown = Some(why),
    }
    if is_redis(mesh, log) {
        flow.filling = answer(&whose, redis::filling(mesh, log, to)).await.unwrap_or_default();
        return flow;
    }
    // Where these can't be had the lanes say why.
    flow.parked = answer(&whose, read_parked(mesh, log, to)).await.unwrap_or_default();
    (flow.lacking, flow.filling) =
        answer(&whose, read_copies(mesh, log, to)).await.unwrap_or_default();
    flow.meeting = answer(&whose, read_meeting(mesh, log, to)).await.unwrap_or_default();
    flow
}

/// Lanes that lack what they passed over, and tables that are being filled.
async fn read_copies(
    mesh: &Mesh,
    log: &Log,
    to: &Name,
) -> Result<(Vec<i32>, Vec<FillingStatus>), Fault> {
    let mut conn = connect(mesh.store(to, &log.store)?).await?;
    let lacking = passed::lanes(&mut conn, log).await?;
    let mut tables = Vec::new();
    for Filling { table, filler, unsettled } in filling::of(&mut conn, log).await? {
        let command = resync::goes_on(log, &table, &filler);
        tables.push(FillingStatus { table: table.to_string(), unsettled, command });
    }
    let _ = conn.disconnect().await;
    Ok((lacking, tables))
}

async fn read_parked(mesh: &Mesh, log: &Log, to: &Name) -> Result<Vec<ParkedStatus>, Fault> {
    let mut conn = connect(mesh.store(to, &log.store)?).await?;
    let mut parked: Vec<ParkedStatus> = Vec::new();
    for (table, standing) in park::read_all(&mut conn, log).await? {
        let table = table.to_string();
        match parked.last_mut().filter(|last| last.table == table) {
            Some(last) => last.lanes += 1,
            None => {
                let (code, why) = (standing.code, standing.why);
                parked.push(ParkedStatus { table, lanes: 1, code, why });
            }
        }
    }
    Ok(parked)
}

async fn read_meeting(mesh: &Mesh, log: &Log, to: &Name) -> Result<Option<MeetingStatus>, Fault> {
    let mut conn = connect(mesh.store(to, &log.store)?).await?;
    let entries = ledger::read_all(&mut conn, log).await?;
    let waits = |meeting: &Meeting| meeting.seconds >= WAITING_FROM.as_secs_f64();
    let Some(meeting) = ledger::meeting(&entries).filter(waits) else { return Ok(None) };
    let Some(met) = entries.iter().find(|entry| entry.lane == meeting.met) else {
        return Ok(None);
    };
    let broker = &mesh.unit(mesh.read_at(log))?.broker;
    let topic = mesh.topics.tagged(log);
    let record = read_statement(broker, &topic, met, meeting.seq);
    // Without the text there is still the record's number.
    let ddl = timeout(ANSWER_WITHIN / 2, record).await.ok().and_then(Result::ok).flatten();
    let Meeting { seq, missing, seconds, .. } = meeting;
    Ok(Some(MeetingStatus { seq: seq.0, missing, seconds, ddl }))
}

/// The schema change of this number, from a lane that has come to it.
async fn read_statement(
    broker: &Broker,
    topic: &str,
    lane: &Entry,
    seq: Seq,
) -> Result<Option<String>, Fault> {
    let start = (lane.topic_offset - 1).max(0);
    let reader = Reader::open(broker, topic, &[(lane.lane, start)], QUEUE_BYTES).await?;
    loop {
        let Item::Record(record) = reader.next().await? else { continue };
        let tag = Tag::parse(record.header(HEADER).unwrap_or_default())?;
        if tag.seq == seq && tag.kind == Kind::Ddl {
            let statement = Statement::parse(record.value().unwrap_or_default())?;
            return Ok(Some(statement.ddl));
        }
        if tag.seq >= seq {
            return Ok(None);
        }
    }
}

fn missing_lanes(mesh: &Mesh, log: &Log, found: &[LaneStatus]) -> Option<String> {
    let missing: Vec<String> = (0..mesh.lanes(log))
        .filter(|lane| found.iter().all(|row| row.lane != *lane))
        .map(|lane| lane.to_string())
        .collect();
    (!missing.is_empty()).then(|| {
        let ledger = if is_redis(mesh, log) {
            "the store has no ledger key"
        } else {
            "unitflow.ledger has no row"
        };
        format!("[ledger_missing] {ledger} for lane {}", missing.join(", "))
    })
}

/// The lanes of a log into a unit, with the ledger's rows.
async fn read_lanes(
    mesh: &Mesh,
    log: &Log,
    to: &Name,
) -> Result<(Vec<LaneStatus>, Vec<Entry>), Fault> {
    let broker = &mesh.unit(mesh.read_at(log))?.broker;
    let topic = mesh.topics.tagged(log);
    let (tails, entries) = match is_redis(mesh, log) {
        true => (redis::tails(mesh, log).await?, redis::entries(mesh, log, to).await?),
        false => {
            let origin = &mesh.unit(&log.unit)?.broker;
            let transformer: Option<TransformerState> =
                load_state(origin, &mesh.topics, log, Stage::Transformer).await?;
            let mut conn = connect(mesh.store(to, &log.store)?).await?;
            let tails = transformer.map(|state| state.function.tails).unwrap_or_default();
            (tails, ledger::read_all(&mut conn, log).await?)
        }
    };
    let mut lanes = Vec::new();
    for entry in &entries {
        let (_, end) = topics::bounds(broker, &topic, entry.lane).await?;
        let tail = usize::try_from(entry.lane).ok().and_then(|lane| tails.get(lane));
        let has_last = tail.is_some_and(|tail| entry.seq >= *tail);
        lanes.push(LaneStatus {
            lane: entry.lane,
            seq: entry.seq.0,
            lag_records: lag(entry.topic_offset, end, has_last),
            last_lag_seconds: entry.lag_seconds,
            bridged: None,
            idle_seconds: entry.idle_seconds,
        });
    }
    Ok((lanes, entries))
}

/// The roles that a unit has, and what is known of each. Where its Kafka can't be asked the logs
/// say so.
async fn read_roles(mesh: &Mesh, unit: &Name) -> Vec<RoleStatus> {
    let Ok(at) = mesh.unit(unit) else { return Vec::new() };
    let topic = mesh.topics.heartbeat(unit);
    let Ok(all) = answer("notes", notes::read_all(&at.broker, &topic)).await else {
        return Vec::new();
    };
    let notices: Vec<Notice> =
        all.values().filter_map(|text| serde_json::from_slice(text).ok()).collect();
    let mut roles = Vec::new();
    for (name, log, stage) in roles_of(mesh, unit) {
        let notice = notices.iter().find(|notice| notice.role == name);
        let mut of_role = role(unit, &name, notice);
        if of_role.state == State::Started && of_role.seconds_ago > Some(GONE_AFTER.as_secs()) {
            let sign = answer("sign of life", last_sign(mesh, unit, &log, stage)).await;
            of_role.note(sign.unwrap_or(Sign::Fresh));
        }
        roles.push(of_role);
        // A lane's fault ends with the restart of its role.
        let of_lane = |lane: &&Notice| {
            lane.role.strip_prefix(&name).is_some_and(|rest| rest.starts_with(" lane "))
                && notice.is_none_or(|notice| notice.began_ms <= lane.at_ms)
        };
        roles.extend(notices.iter().filter(of_lane).map(|lane| role(unit, &lane.role, Some(lane))));
    }
    roles
}

/// A unit's roles: their names, their logs, and their stages if they have one.
fn roles_of(mesh: &Mesh, unit: &Name) -> Vec<(String, Log, Option<Stage>)> {
    let own = mesh.all_logs().filter(|log| log.unit == *unit);
    let of_stage = |stage: Stage, log: Log| (format!("{stage} {log}"), log, Some(stage));
    let mut roles: Vec<_> = own
        .flat_map(|log| {
            [Stage::Connector, Stage::Transformer].map(|stage| of_stage(stage, log.clone()))
        })
        .collect();
    roles.extend(relayed_at(mesh, unit).map(|log| of_stage(Stage::Relay, log)));
    let into = mesh.all_ways().filter(|(_, to)| to == unit);
    roles.extend(into.map(|(log, _)| (format!("sink {log}"), log, None)));
    roles
}

/// What shows that a role is at work.
enum Sign {
    /// It was seen lately, or can't be looked for.
    Fresh,
    /// Its stage stored its state so many seconds ago.
    Stale(u64),
    /// Its group has no members.
    NoMember,
}

async fn last_sign(
    mesh: &Mesh,
    unit: &Name,
    log: &Log,
    stage: Option<Stage>,
) -> Result<Sign, Fault> {
    let Some(stage) = stage else {
        let group = mesh.topics.group(log, unit);
        let present = members::present(&mesh.unit(mesh.read_at(log))?.broker, &group).await?;
        return Ok(if present == 0 { Sign::NoMember } else { Sign::Fresh });
    };
    let (broker, topic) = (&mesh.unit(unit)?.broker, mesh.topics.position(log));
    let stored = positions::stored_at(broker, &topic, stage.partition()).await?;
    let Some(at_ms) = stored.and_then(|at_ms| u64::try_from(at_ms).ok()) else {
        return Ok(Sign::Fresh);
    };
    let seconds = seconds_since(at_ms);
    Ok(if seconds > GONE_AFTER.as_secs() { Sign::Stale(seconds) } else { Sign::Fresh })
}

impl RoleStatus {
    /// A role that has started shows this.
    fn note(&mut self, sign: Sign) {
        match sign {
            Sign::Fresh => return,
            Sign::Stale(seconds) => {
                self.silent_seconds = Some(self.seconds_ago.unwrap_or(seconds).min(seconds));
            }
            Sign::NoMember => {}
        }
        self.state = State::Silent;
    }
}

fn seconds_since(at_ms: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(now).unwrap_or(0).saturating_sub(at_ms) / 1000
}

fn role(unit: &Name, name: &str, notice: Option<&Notice>) -> RoleStatus {
    let fault = notice.and_then(|notice| notice.fault.clone()).map(|past| FaultStatus {
        code: past.code,
        what: past.what,
        hint: past.hint,
        seconds_ago: seconds_since(past.at_ms),
    });
    let state = match (notice, &fault) {
        (None, _) => State::Never,
        (Some(notice), Some(fault)) if notice.running => {
            let is_recent = fault.seconds_ago < FAILING_FOR.as_secs();
            if is_recent { State::Failing } else { State::Started }
        }
        (Some(notice), None) if notice.running => State::Started,
        (Some(_), Some(_)) => State::Failed,
        (Some(_), None) => State::Stopped,
    };
    RoleStatus {
        unit: unit.to_string(),
        role: name.to_owned(),
        state,
        seconds_ago: notice.map(|notice| seconds_since(notice.at_ms)),
        silent_seconds: None,
        fault,
    }
}
