//! The tables of the two ends of each way, and what filters make of them.

use std::collections::BTreeMap;

use mysql_async::Conn;
use unitflow_change::name::Log;
use unitflow_change::routing::Routing;
use unitflow_change::{Code, Fault};
use unitflow_mysql::connect::connect;
use unitflow_mysql::preflight::check_fit;
use unitflow_mysql::schema::{ForeignKey, Table};

use super::finding::Finding;
use crate::config::Mesh;
use crate::tables::{Bound, Carried, bound, filter_faults, read, unlogged_cascades};

/// A log that is applied in a unit, with the tables at its source.
pub(super) struct Incoming {
    log: Log,
    /// As its connector makes it from configuration and schema.
    pub routing: Routing,
    tables: Vec<(Carried, Table)>,
}

impl Incoming {
    /// The logs that travel to this unit's store. A source that can't be reached is a finding of
    /// its own unit.
    pub async fn read(mesh: &Mesh, to: &Log) -> Vec<Self> {
        let mut incoming = Vec::new();
        for (log, _) in mesh.logs_to(&to.unit).filter(|(log, _)| log.store == to.store) {
            let tables = async {
                let mut conn = connect(mesh.store(&log.unit, &log.store)?).await?;
                read(&mut conn, &mesh.routing(&log)?).await
            };
            let Ok(routing) = mesh.routing(&log) else { continue };
            let tables = tables.await.unwrap_or_default();
            let routing = bound(routing, &tables, &Bound::new());
            incoming.push(Self { log, routing, tables });
        }
        incoming
    }
}

/// Whether this unit has each table that others' changes need, and each takes what they send.
pub(super) fn check_incoming(
    place: &str,
    own: &[(Carried, Table)],
    incoming: &[Incoming],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut missing: BTreeMap<&(String, String), Vec<String>> = BTreeMap::new();
    for from in incoming {
        for (carried, source) in &from.tables {
            let Some((_, target)) = own.iter().find(|(own, _)| own.name == carried.name) else {
                missing.entry(&carried.name).or_default().push(from.log.to_string());
                continue;
            };
            let hidden = from.routing.hidden(&carried.name.0, &carried.name.1);
            let way = format!("{} to {}", from.log, place.split('.').next().unwrap_or_default());
            let found = check_fit(source, target, &hidden);
            findings.extend(found.into_iter().map(|finding| Finding::of(&way, finding)));
        }
    }
    findings.extend(missing.into_iter().map(|((database, table), from)| {
        Finding::new(place, Code::Table, format!("{database}.{table}"))
            .expected(
                format!("exists, as in {}", from.join(", ")),
                "does not, or the user may not see it",
            )
            .remedy("create it as in the source and grant its use, or exclude it from the flow")
    }));
    findings
}

/// What foreign keys do by themselves has to stand in the source's log: the sinks only repeat that.
pub(super) async fn check_cascades(
    conn: &mut Conn,
    place: &str,
    own: &[(Carried, Table)],
) -> Result<Vec<Finding>, Fault> {
    let keys = unlogged_cascades(conn, own).await?.into_iter();
    let finding = |(table, key): (&Table, &ForeignKey)| {
        Finding::new(place, Code::Table, format!("{}.{}", table.database, table.name))
            .expected(
                "no cascading foreign keys: this server's log does not hold what they do",
                format!("{} cascades from {}.{}", key.name, key.parent.0, key.parent.1),
            )
            .remedy("let the foreign key restrict and change the children explicitly, or exclude the table; MySQL logs it from 9.6 on, without innodb_native_foreign_keys")
    };
    Ok(keys.map(finding).collect())
}

/// Whether the filters can be followed on the tables that they are for.
pub(super) fn check_filters(
    place: &str,
    routing: &Routing,
    own: &[(Carried, Table)],
) -> Vec<Finding> {
    let found = own.iter().flat_map(|(carried, table)| filter_faults(routing, carried, table));
    let finding = |fault: Fault| {
        Finding::new(place, fault.code, "columns, rows")
            .expected("filters that fit the tables", &fault.what)
            .remedy(fault.remedy())
    };
    found.map(finding).collect()
}
