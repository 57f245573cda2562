//! What `init` does and what it needs, as text that an administrator can read and run: SQL and
//! shell commands, with comments that both understand.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use unitflow_change::Fault;
use unitflow_change::name::Name;
use unitflow_change::rename::Rename;
use unitflow_mysql::connect::Store;
use unitflow_mysql::preflight::code_rights;
use unitflow_redis::Store as Cache;
use unitflow_sinks::schema;

use super::topic_specs;
use crate::config::{CacheFlow, Flow, Mesh};

/// What each server's configuration has to say; `check` compares it with what is.
const SETTINGS: &str = "\
# Server settings, in the configuration file below [mysqld]:
#   log_bin=binlog  binlog_format=ROW  binlog_row_image=FULL  binlog_row_metadata=FULL
#   sync_binlog=1  innodb_flush_log_at_trx_commit=1
#   MySQL:    gtid_mode=ON  enforce_gtid_consistency=ON  log_replica_updates=ON
#   MariaDB:  gtid_strict_mode=ON  log_slave_updates=ON
";

/// The same of a Redis server that is captured.
const REDIS_SETTINGS: &str = "\
# Server settings, in redis.conf:
#   maxmemory-policy noeviction
#   repl-backlog-size 256mb, or what is written in the longest outage of the connector
#   repl-backlog-ttl 0
";

/// The plan of these units.
pub fn of(mesh: &Mesh, units: &[Name]) -> Result<String, Fault> {
    let mut text = String::new();
    for unit in units {
        for (name, store) in &mesh.unit(unit)?.stores {
            let place = Place { unit, store, rename: mesh.rename(unit, name)? };
            sql(&mut text, mesh, &mesh.flows[name], &place);
        }
        for (name, store) in &mesh.unit(unit)?.caches {
            redis(&mut text, &mesh.cache_flows[name], unit, store);
        }
        kafka(&mut text, mesh, unit)?;
    }
    let only = if let [unit] = units { format!(" --unit {unit}") } else { String::new() };
    let _ = writeln!(
        text,
        "# Then, without further rights:\nunitflow init{only}     # first positions and ledger rows\nunitflow check{only}"
    );
    Ok(text)
}

// Writing to a String can't fail, so what `write!` returns is dropped here.

/// A unit's store.
struct Place<'a> {
    unit: &'a Name,
    store: &'a Store,
    rename: &'a Rename,
}

fn sql(text: &mut String, mesh: &Mesh, flow: &Flow, place: &Place<'_>) {
    let Place { unit, store, rename } = *place;
    let endpoints: Vec<String> =
        store.endpoints.iter().map(|(host, port)| format!("{host}:{port}")).collect();
    let _ = writeln!(text, "# ---- {} at {}", store.name, endpoints.join(", "));
    text.push_str(SETTINGS);
    let _ = writeln!(
        text,
        "#   binlog_expire_logs_seconds={} or more, the longest outage",
        mesh.outage_longest.as_secs()
    );
    if let Some(place) = flow.from.iter().position(|from| from == unit) {
        let _ = writeln!(
            text,
            "#   auto_increment_increment={}  auto_increment_offset={}",
            flow.from.len(),
            place + 1
        );
    }
    let _ = writeln!(text, "\n# SQL. The comments in the statements keep them from travelling:");
    let _ = writeln!(text, "# run it with mysql --comments.");
    for (_, statement) in schema::OBJECTS {
        let _ = writeln!(text, "{statement};");
    }
    let user = format!("'{}'@'%'", store.user.replace('\'', "''"));
    let _ = writeln!(text, "CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '<password>';");
    let mut rights = vec!["SELECT"];
    if flow.from.contains(unit) {
        // BINLOG MONITOR is MariaDB's name for the second, which it also knows by MySQL's.
        let _ = writeln!(
            text,
            "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user};   # MariaDB lists the latter as BINLOG MONITOR"
        );
    }
    if flow.to.contains(unit) {
        rights.extend(["INSERT", "UPDATE", "DELETE"]);
    }
    // So that `check` sees triggers.
    rights.push("TRIGGER");
    if flow.runs_ddl_in(unit) {
        rights.extend(["CREATE", "ALTER", "DROP", "INDEX", "REFERENCES"]);
        let of_code = flow.stored_code.iter().flat_map(|kind| code_rights(*kind));
        rights.extend(of_code.copied().filter(|right| *right != "TRIGGER"));
        if !flow.from.contains(unit) {
            let _ = writeln!(
                text,
                "GRANT REPLICATION SLAVE ON *.* TO {user};   # to see after a crash whether a schema change was run"
            );
        }
        if !flow.stored_code.is_empty() {
            let _ = writeln!(
                text,
                "# MySQL: GRANT SET_ANY_DEFINER ON *.* TO {user};   # SET_USER_ID before 8.2"
            );
            let _ = writeln!(text, "# MariaDB: GRANT SET USER ON *.* TO {user};");
        }
    }
    for scope in databases(flow, rename) {
        let _ = writeln!(text, "GRANT {} ON {scope} TO {user};", rights.join(", "));
    }
    let _ = writeln!(text, "GRANT SELECT, INSERT, UPDATE, DELETE ON unitflow.* TO {user};");
    let _ = writeln!(text, "# Only if unitflow init is to create the schema itself:");
    let _ = writeln!(text, "# GRANT CREATE, CREATE VIEW, ALTER ON unitflow.* TO {user};\n");
}

fn redis(text: &mut String, flow: &CacheFlow, unit: &Name, store: &Cache) {
    let endpoints: Vec<String> =
        store.endpoints.iter().map(|(host, port)| format!("{host}:{port}")).collect();
    let _ = writeln!(text, "# ---- {} at {}", store.name, endpoints.join(", "));
    let captures = flow.from.contains(unit);
    if captures {
        text.push_str(REDIS_SETTINGS);
    }
    let mut rights = vec!["+time"];
    if captures {
        rights.extend(["+psync", "+replconf", "+scan", "+exists", "+dump", "+memory|usage"]);
    }
    rights.extend(["+role", "+info", "+get", "+set", "+multi", "+exec", "+select", "+pexpiretime"]);
    if flow.to.contains(unit) {
        rights.extend(["+watch", "+unwatch", "+ping", "+scan", "+@write", "+pfcount"]);
        rights.extend(["+hmget", "+hgetall", "+hscan", "+hlen"]);
        rights.extend(["-flushall", "-flushdb", "-swapdb"]);
    }
    let keys = if flow.to.contains(unit) { "~*" } else { "~unitflow:* %R~*" };
    let rights = rights.join(" ");
    match &store.user {
        Some(user) => {
            let _ = writeln!(text, "\n# redis-cli; then ACL SAVE, or CONFIG REWRITE:");
            let _ = writeln!(text, "ACL SETUSER {user} on '><password>' {keys} {rights}\n");
        }
        None => {
            let _ = writeln!(
                text,
                "\n# No user is named for this store; one would need: {keys} {rights}\n"
            );
        }
    }
}

/// The databases of the flow's patterns, as the unit calls them and GRANT names them.
fn databases(flow: &Flow, rename: &Rename) -> BTreeSet<String> {
    let scope = |database: &String| {
        let pattern = database.replace('`', "``").replace('_', "\\_").replace('*', "%");
        format!("`{pattern}`.*")
    };
    let scopes = |pattern: &String| match pattern.split_once('.') {
        Some((database, _)) if database != "*" => {
            rename.local_databases(database).iter().map(scope).collect()
        }
        _ => BTreeSet::from(["*.*".to_owned()]),
    };
    flow.routing.tables.iter().flat_map(scopes).collect()
}

fn kafka(text: &mut String, mesh: &Mesh, unit: &Name) -> Result<(), Fault> {
    let at = mesh.unit(unit)?;
    let server = format!("--bootstrap-server {}", at.broker.bootstrap);
    let _ = writeln!(text, "# ---- Kafka of unit {unit}: topics");
    for spec in topic_specs(mesh, unit)? {
        let configs: String = spec
            .configs()
            .iter()
            .map(|(name, value)| format!(" --config {name}={value}"))
            .collect();
        let _ = writeln!(
            text,
            "kafka-topics {server} --create --if-not-exists --topic {} --partitions {} --replication-factor {}{configs}",
            spec.name, spec.partitions, spec.replication
        );
    }
    let prefix = format!("{}.", mesh.topics.prefix());
    let acl = |text: &mut String, principal: &str, operations: &str, resource: &str, name: &str| {
        let operations: String =
            operations.split(' ').map(|operation| format!(" --operation {operation}")).collect();
        let _ = writeln!(
            text,
            "kafka-acls {server} --add --allow-principal {principal}{operations} {resource} {name} --resource-pattern-type prefixed"
        );
    };
    let _ = writeln!(text, "\n# ACLs, where the cluster has any: the workers of unit {unit}");
    let own = format!("'User:<workers of {unit}>'");
    acl(text, &own, "Read Write Describe DescribeConfigs", "--topic", &prefix);
    acl(text, &own, "Write Describe", "--transactional-id", &prefix);
    acl(text, &own, "Read Describe", "--group", &prefix);
    let _ = writeln!(text, "# and those of the units that read here");
    let others = format!("'User:<workers of the units that read {unit}>'");
    acl(text, &others, "Read Describe DescribeConfigs", "--topic", &prefix);
    acl(text, &others, "Read Describe", "--group", &prefix);
    let _ = writeln!(text, "# Only if unitflow init is to create the topics itself:");
    text.push_str("# ");
    acl(text, &own, "Create", "--topic", &prefix);
    text.push('\n');
    Ok(())
}
