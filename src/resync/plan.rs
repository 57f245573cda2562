//! From the arguments to a flow, tables and units.

use std::collections::BTreeSet;
use std::time::Duration;

use mysql_async::Conn;
use tokio::time::{Instant, sleep};
use unitflow_change::ddl::TableName;
use unitflow_change::key::Key;
use unitflow_change::name::{Log, Name, Topics};
use unitflow_change::routing::Routing;
use unitflow_change::seq::Seq;
use unitflow_change::{Code, Fault};
use unitflow_kafka::control::{self, Action, Order};
use unitflow_mysql::connect::connect_to_write;
use unitflow_mysql::schema::{self, Type};
use unitflow_mysql::snapshot::{Reader, Table};
use unitflow_sinks::copy::{filling, known, passed};
use unitflow_sinks::{ledger, park};

use super::copy;
use super::filler::Filler;
use crate::bridge::{self, Bereft};
use crate::cli::{ResyncKeysArgs, ResyncWays};
use crate::config::Mesh;
use crate::order;
use crate::tables;

/// How often positions are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it is said what is waited for.
const SAY_EVERY: Duration = Duration::from_secs(20);

/// A table that held rows in a unit before the copy began.
pub type Filled = (Name, TableName);

/// What is copied, and where to.
pub struct Plan<'m> {
    pub mesh: &'m Mesh,
    /// The log of the unit whose rows count.
    pub log: Log,
    /// The units that are filled.
    pub to: Vec<Name>,
    /// All units of the flow that can tell what is newer: in each, changes that do not fit are noted
    /// meanwhile.
    pub units: BTreeSet<Name>,
    /// In the mesh's names.
    pub tables: Vec<TableName>,
    pub by: String,
    pub why: String,
}

impl<'m> Plan<'m> {
    /// Whole tables: those that fit one of the patterns, or all that travel.
    pub async fn of_tables(
        mesh: &'m Mesh,
        ways: &ResyncWays,
        patterns: &[String],
    ) -> Result<Self, Fault> {
        let mut plan = Self::of_ways(mesh, ways)?;
        let routing = mesh.routing(&plan.log)?;
        let mut conn = plan.connect(&plan.log.unit).await?;
        let carried = tables::list(&mut conn, &routing).await?;
        let names = carried
            .into_iter()
            .map(|table| TableName { database: table.name.0, table: table.name.1 });
        let wanted = |table: &TableName| {
            let name = table.to_string();
            patterns.is_empty()
                || patterns.iter().any(|pattern| unitflow_change::routing::fits(pattern, &name))
        };
        plan.tables = names.filter(wanted).collect();
        plan.tables.sort();
        if plan.tables.is_empty() {
            return Err(Fault::fatal(
                Code::Config,
                format!("no table of {} that travels is named {}", plan.log, patterns.join(", ")),
            )
            .hint(
                "tables are named as database.table; see tables and exclude in the configuration",
            ));
        }
        plan.ensure_tables(&routing).await?;
        Ok(plan)
    }

    /// The tables of some rows.
    pub async fn of_keys(
        mesh: &'m Mesh,
        ways: &ResyncWays,
        keys: &BTreeSet<String>,
    ) -> Result<Self, Fault> {
        let mut plan = Self::of_ways(mesh, ways)?;
        let routing = mesh.routing(&plan.log)?;
        let mut tables = BTreeSet::new();
        for key in keys {
            let key = Key::parse(key.as_bytes())
                .map_err(|fault| Fault { code: Code::Config, ..fault })?;
            let (database, table) = (key.database.into_owned(), key.table.into_owned());
            if !routing.carries(&database, &table) {
                return Err(Fault::fatal(
                    Code::Config,
                    format!("{database}.{table} does not travel in {}", plan.log),
                ));
            }
            tables.insert(TableName { database, table });
        }
        plan.tables = tables.into_iter().collect();
        plan.ensure_tables(&routing).await?;
        Ok(plan)
    }

    /// The flow alone.
    pub fn of_ways(mesh: &'m Mesh, ways: &ResyncWays) -> Result<Self, Fault> {
        let log = log_of(mesh, &ways.from, ways.store.as_ref())?;
        let flow = &mesh.flows[&log.store];
        let reached: Vec<Name> = flow.to.iter().filter(|to| **to != log.unit).cloned().collect();
        if let Some(stranger) = ways.to.iter().find(|to| !reached.contains(to)) {
            return Err(Fault::fatal(Code::Config, format!("{log} does not flow to {stranger}"))
                .hint("see from and to of the flow in the configuration"));
        }
        let to = if ways.to.is_empty() { reached } else { ways.to.clone() };
        to.iter().try_for_each(|unit| ensure_guarded(mesh, &log, unit))?;
        let guarded = |unit: &&Name| ensure_guarded(mesh, &log, unit).is_ok();
        Ok(Self {
            mesh,
            units: flow.from.iter().chain(&flow.to).filter(guarded).cloned().collect(),
            log,
            to,
            tables: Vec::new(),
            by: order::whoever(ways.by.as_ref())?,
            why: ways.why.clone(),
        })
    }

    /// Whether each unit has the tables, in a shape in which rows can be told apart.
    async fn ensure_tables(&self, routing: &Routing) -> Result<(), Fault> {
        let mut authority: Option<Vec<Table>> = None;
        for unit in [&self.log.unit].into_iter().chain(&self.to) {
            let rename = self.mesh.rename(unit, &self.log.store)?;
            let mut names = Vec::new();
            for table in &self.tables {
                let local = rename.local(&table.database, &table.table);
                names.push(local.ok_or_else(|| {
                    Fault::fatal(Code::Table, format!("{table} has no place in unit {unit}"))
                })?);
            }
            let mut reader = Reader::open(self.mesh.store(unit, &self.log.store)?).await?;
            let tables = reader.tables(&names).await?;
            for (table, found) in self.tables.iter().zip(&tables) {
                if found.schema.primary_key.is_empty() {
                    return Err(Fault::fatal(
                        Code::NoPrimaryKey,
                        format!("{table} has no primary key in unit {unit}"),
                    )
                    .hint("give it one in every unit, or leave it out with --table"));
                }
                let hides = !routing.conditions(&table.database, &table.table).is_empty();
                if hides && *unit == self.log.unit {
                    tracing::warn!(%table, "only rows that meet its condition are copied; others are left as they are");
                }
            }
            match &authority {
                None => authority = Some(tables),
                // Where nothing is captured nothing is judged by keys.
                Some(_) if !self.mesh.flows[&self.log.store].from.contains(unit) => {}
                Some(of) => {
                    for (table, (one, other)) in self.tables.iter().zip(of.iter().zip(&tables)) {
                        ensure_one_spelling(table, unit, &one.schema, &other.schema)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Rows of a table that waits for a person in the authority lack what others wrote since.
    async fn ensure_nothing_is_parked(&self) -> Result<(), Fault> {
        let mut conn = self.connect(&self.log.unit).await?;
        for (log, _) in self.mesh.logs_to(&self.log.unit) {
            for (table, standing) in park::read_all(&mut conn, &log).await? {
                if self.tables.contains(&table) {
                    let (unit, since) = (&self.log.unit, standing.seq);
                    let what = format!(
                        "{table} is parked in unit {unit}, whose rows count: it lacks what {log} brought after {since}"
                    );
                    let flow = Topics::flow(&log, unit);
                    let hint = format!(
                        "mend it and unitflow resume {flow} --table {table} --why …, or leave the table out with --table"
                    );
                    return Err(Fault::fatal(Code::Parked, what).hint(hint));
                }
            }
        }
        Ok(())
    }

    pub async fn connect(&self, unit: &Name) -> Result<Conn, Fault> {
        connect_to_write(self.mesh.store(unit, &self.log.store)?).await
    }

    /// The tables that hold rows in the units that are filled.
    pub async fn filled_before(&self) -> Result<Vec<Filled>, Fault> {
        let mut filled = Vec::new();
        for unit in &self.to {
            let rename = self.mesh.rename(unit, &self.log.store)?;
            let mut reader = Reader::open(self.mesh.store(unit, &self.log.store)?).await?;
            for table in &self.tables {
                let Some(local) = rename.local(&table.database, &table.table) else { continue };
                let found = reader.tables(std::slice::from_ref(&local)).await?;
                for found in found {
                    if !reader.scan(&found, None, 1, 1).await?.rows.is_empty() {
                        filled.push((unit.clone(), table.clone()));
                    }
                }
            }
        }
        Ok(filled)
    }

    /// From here on changes that do not fit these tables are noted, in every unit; lanes that such a
    /// change has stopped go on. Nothing is begun where a flow is paused, or another command has to come to
    /// its end first. `bereft`: units that can't go on with what they have begun before this has ended.
    pub async fn begin(&self, filler: &Filler, bereft: &[Name]) -> Result<(), Fault> {
        self.ensure_nothing_is_parked().await?;
        for way in self.ways() {
            self.told(&way).await?;
        }
        let mut conns = Vec::new();
        for unit in &self.units {
            let mut conn = self.connect(unit).await?;
            let marks = filling::marks(&mut conn).await?;
            let mut of_ours = marks.iter().filter(|mark| self.tables.contains(&mark.table));
            of_ours.try_for_each(|mark| filler.ensure_may_begin(&self.log, mark, bereft))?;
            conns.push(conn);
        }
        let text = filler.to_string();
        for conn in &mut conns {
            filling::begin(conn, &self.tables, &self.log, (&text, filler.takes_over())).await?;
        }
        self.wake().await
    }

    /// The ways of the store's logs, each into one unit.
    fn ways(&self) -> Vec<(Log, Name)> {
        let all = self.mesh.ways().filter(|(log, ..)| log.store == self.log.store);
        all.map(|(log, to, _)| (log, to)).collect()
    }

    /// What a flow was told last, unless that it shall stand still.
    async fn told(&self, (log, to): &(Log, Name)) -> Result<Option<Order>, Fault> {
        let flow = Topics::flow(log, to);
        let (broker, topic) = (&self.mesh.unit(to)?.broker, self.mesh.topics.control(to));
        let last = control::last(broker, &topic, &flow).await?;
        if last.pauses() {
            return Err(Fault::fatal(Code::Control, format!("the flow {flow} is paused"))
                .hint(format!("unitflow resume {flow} --why …, then this again")));
        }
        Ok(last.order)
    }

    /// Lets stopped lanes try again, in every unit.
    async fn wake(&self) -> Result<(), Fault> {
        for way in self.ways() {
            let (flow, to) = (Topics::flow(&way.0, &way.1), &way.1);
            let (broker, topic) = (&self.mesh.unit(to)?.broker, self.mesh.topics.control(to));
            // Any new order lets lanes go on. Records that were passed over stay so; no other table goes on.
            let wake = match self.told(&way).await?.map(|order| order.action) {
                Some(skip @ Action::Skip { .. }) => skip,
                _ => Action::Resume { tables: vec!["unitflow.none".to_owned()] },
            };
            let order = Order::new(wake, &self.by, &self.why);
            control::send(broker, &topic, &flow, &order).await?;
        }
        Ok(())
    }

    /// The lanes, by unit, whose next record Kafka no longer holds.
    pub async fn bereft(&self) -> Result<Vec<(Name, Bereft)>, Fault> {
        let mut all = Vec::new();
        for unit in &self.to {
            let mut conn = self.connect(unit).await?;
            let entries = ledger::read_all(&mut conn, &self.log).await?;
            let found = bridge::bereft(self.mesh, &self.log, &entries).await?;
            all.extend(found.into_iter().map(|lane| (unit.clone(), lane)));
        }
        Ok(all)
    }

    /// Lets these go on with the first record that is still there. What they pass over has to come with
    /// a copy that is ordered already.
    pub async fn pass_over(&self, bereft: &[(Name, Bereft)]) -> Result<(), Fault> {
        for (unit, Bereft { lane, stands, before, offset }) in bereft {
            tracing::warn!(
                %unit, log = %self.log, lane, from = stands.0, to = before.0,
                "what Kafka no longer holds is passed over; the copy brings it"
            );
            let mut conn = self.connect(unit).await?;
            // Until then the unit's rows are not what its ledger says.
            passed::note(&mut conn, (&self.log, *lane), *stands).await?;
            ledger::pass_over(&mut conn, (&self.log, *lane), (*stands, *before), *offset).await?;
        }
        if bereft.is_empty() { Ok(()) } else { self.wake().await }
    }

    /// From which record of the log on nothing of it was passed over.
    pub async fn known_from(&self) -> Result<Seq, Fault> {
        known::from(&mut self.connect(&self.log.unit).await?).await
    }

    /// What was passed over has come, by a copy of all tables.
    pub async fn all_is_brought(&self) -> Result<(), Fault> {
        for unit in &self.to {
            passed::forget(&mut self.connect(unit).await?, &self.log).await?;
        }
        Ok(())
    }

    /// Waits until the log of each unit carries these tables as the configuration says: connectors that
    /// were started before a table, or a filter, was changed there still leave rows out.
    pub async fn wait_until_carried(&self) -> Result<(), Fault> {
        for (log, _) in self.mesh.logs().filter(|(log, _)| log.store == self.log.store) {
            let wanted = self.mesh.routing(&log)?;
            let mut said: Option<Instant> = None;
            loop {
                let routing = copy::state(self.mesh, &log).await?.routing;
                let carried = self.tables.iter().all(|TableName { database, table }| {
                    routing.lets_through_as(&wanted, database, table)
                });
                if carried {
                    break;
                }
                if said.is_none_or(|said| said.elapsed() > SAY_EVERY) {
                    tracing::warn!(
                        "waiting: log {log} does not carry these tables as the configuration says; start the connector of unit {} with it",
                        log.unit
                    );
                    said = Some(Instant::now());
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// From here on a change that does not fit stops its lane again.
    pub async fn end(&self, filler: &Filler) -> Result<(), Fault> {
        // By its own marks a unit that lost something, or one that joins, finds out that this has not come to
        // its end.
        let (last, first): (Vec<_>, Vec<_>) =
            self.units.iter().partition(|unit| filler.ends_with(unit));
        for unit in first.into_iter().chain(last) {
            let mut conn = self.connect(unit).await?;
            filling::end(&mut conn, &self.tables, &filler.to_string()).await?;
        }
        Ok(())
    }

    /// The same for all of these units that the log flows to.
    pub fn to_others(&self) -> Self {
        let flow = &self.mesh.flows[&self.log.store];
        Self {
            mesh: self.mesh,
            log: self.log.clone(),
            to: flow
                .to
                .iter()
                .filter(|to| **to != self.log.unit && self.units.contains(*to))
                .cloned()
                .collect(),
            units: self.units.clone(),
            tables: self.tables.clone(),
            by: self.by.clone(),
            why: self.why.clone(),
        }
    }

    pub fn to_text(&self) -> String {
        self.to.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
    }

    pub fn tables_text(&self) -> String {
        match self.tables.len() {
            0..=5 => self.tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            many => format!("{many} tables"),
        }
    }
}

/// The log of a unit, which may have to be told by its store.
pub fn log_of(mesh: &Mesh, unit: &Name, store: Option<&Name>) -> Result<Log, Fault> {
    mesh.unit(unit)?;
    if let Some(store) = store {
        mesh.ensure_no_cache(store, "this form of unitflow resync")?;
    }
    let logs = mesh.logs().map(|(log, _)| log).filter(|log| log.unit == *unit);
    let logs: Vec<Log> = logs.filter(|log| store.is_none_or(|store| log.store == *store)).collect();
    <[Log; 1]>::try_from(logs).map(|[log]| log).map_err(|logs| {
        let names: Vec<_> = logs.iter().map(|log| log.store.to_string()).collect();
        let (what, hint) = match names.is_empty() {
            true => (
                format!("nothing flows from unit {unit}"),
                "see the flows in the configuration".to_owned(),
            ),
            false => (
                format!("unit {unit} has several stores"),
                format!("say which with --store: {}", names.join(", ")),
            ),
        };
        Fault::fatal(Code::Config, what).hint(hint)
    })
}

/// Whether a unit can tell what is newer than a copy: by its own log, or because nobody but the copy's
/// source writes there.
fn ensure_guarded(mesh: &Mesh, log: &Log, unit: &Name) -> Result<(), Fault> {
    let others: Vec<String> = mesh
        .logs_to(unit)
        .filter(|(other, _)| other.store == log.store && other != log)
        .map(|(other, _)| other.to_string())
        .collect();
    let captured = mesh.flows[&log.store].from.contains(unit);
    let authority = &log.unit;
    if unit == authority || !captured && others.is_empty() {
        return Ok(());
    }
    if captured && mesh.flows[&log.store].to.contains(authority) {
        return Ok(());
    }
    if captured {
        return Err(Fault::fatal(
            Code::Config,
            format!(
                "nothing flows to unit {authority}, so its rows can't tell what {unit} wrote since"
            ),
        )
        .hint(format!(
            "let {} flow to {authority} too (to of the flow), or leave {unit} out with --to",
            log.store
        )));
    }
    Err(Fault::fatal(
        Code::Config,
        format!(
            "unit {unit} also applies {}, and nothing is captured from it: it can't tell what is newer than a copy",
            others.join(", ")
        ),
    )
    .hint(format!(
        "let {} flow from {unit} too (from of the flow): rows are judged by its own log, which carries nothing as long as nobody writes there; or leave it out with --to",
        log.store
    )))
}

/// A key's value has to be one text in both units, or rows would be judged as others.
fn ensure_one_spelling(
    table: &TableName,
    unit: &Name,
    authority: &schema::Table,
    target: &schema::Table,
) -> Result<(), Fault> {
    for column in authority.key_columns() {
        let Some(other) = target.column(&column.name) else { continue };
        let differs = match (&column.kind, &other.kind) {
            (Type::Decimal { scale: one, .. }, Type::Decimal { scale: other, .. })
            | (Type::Time(one), Type::Time(other))
            | (Type::Datetime(one), Type::Datetime(other))
            | (Type::Timestamp(one), Type::Timestamp(other)) => one != other,
            (Type::Float, Type::Double) | (Type::Double, Type::Float) => true,
            _ => false,
        };
        if differs {
            let what = format!(
                "the key column {} of {table} has other digits in unit {unit}",
                column.name
            );
            return Err(Fault::fatal(Code::Table, what)
                .hint("give it the same type in every unit, or leave the table out with --table"));
        }
    }
    Ok(())
}

/// The keys named on the command line, or one a line in a file.
pub fn read_keys(args: &ResyncKeysArgs) -> Result<BTreeSet<String>, Fault> {
    let mut keys: BTreeSet<String> = args.key.iter().cloned().collect();
    if let Some(path) = &args.keys_file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Fault::fatal(Code::Config, format!("{}: {error}", path.display())))?;
        keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    if keys.is_empty() {
        return Err(Fault::fatal(Code::Config, "no key is named").hint(
            r#"--key '["shop","orders",{"id":7}]', as keys stand in the topics, or --keys-file"#,
        ));
    }
    Ok(keys)
}
