//! Which table locks a server saw: those held, looked at ten times a second in
//! `performance_schema`, and those asked for, which its status counts without a gap.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use unitflow_harness::load::connect;
use unitflow_harness::{Flavor, Mysql};

use crate::rows::DATABASE;

const LOOK_EVERY: Duration = Duration::from_millis(100);
const STATEMENT: Duration = Duration::from_secs(60);

/// Settings by which a server shows its locks.
pub const SETTINGS: [(&str, &str); 2] = [
    ("performance_schema", "ON"),
    ("performance_schema_instrument", "wait/lock/metadata/sql/mdl=ON"),
];

/// What is counted: statements that lock tables, or a whole server, and waits for such a lock.
const COUNTED: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Com_lock_tables', 'Com_lock_instance', \
                       'Com_flush', 'Com_backup', 'Com_backup_lock', 'Table_locks_waited')";

/// A running watch of one server.
#[derive(Debug)]
pub struct Watch {
    task: JoinHandle<anyhow::Result<Seen>>,
    stop: CancellationToken,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How often it was looked.
    pub looks: u64,
    /// Each lock that was held, or counted.
    pub locks: BTreeSet<String>,
}

impl Watch {
    /// Begins to look.
    pub async fn start(server: &Mysql) -> anyhow::Result<Self> {
        let mut conn = connect(server).await?;
        let before = counted(&mut conn).await?;
        let stop = CancellationToken::new();
        let held = held(server.flavor());
        let task = tokio::spawn(watch(conn, held, before, stop.clone()));
        Ok(Self { task, stop })
    }

    /// Ends.
    pub async fn stop(self) -> anyhow::Result<Seen> {
        self.stop.cancel();
        self.task.await.context("a watch panicked")?
    }
}

async fn watch(
    mut conn: Conn,
    held: String,
    before: BTreeMap<String, u64>,
    stop: CancellationToken,
) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    while timeout(LOOK_EVERY, stop.cancelled()).await.is_err() {
        let locks: Vec<String> =
            timeout(STATEMENT, conn.query(&held)).await.context("a look at locks hangs")??;
        seen.locks.extend(locks);
        seen.looks += 1;
    }
    for (name, count) in counted(&mut conn).await? {
        let more = count - before.get(&name).copied().unwrap_or(0);
        if more > 0 {
            seen.locks.insert(format!("{name} +{more}"));
        }
    }
    conn.disconnect().await?;
    Ok(seen)
}

async fn counted(conn: &mut Conn) -> anyhow::Result<BTreeMap<String, u64>> {
    let counted: Vec<(String, u64)> =
        timeout(STATEMENT, conn.query(COUNTED)).await.context("the status hangs")??;
    Ok(counted.into_iter().collect())
}

/// Asks for locks that keep somebody from reading or writing a table, or all of them. What each
/// statement takes of a table it reads or writes (`SHARED_READ`, `SHARED_WRITE`, intentions) is none.
fn held(flavor: Flavor) -> String {
    let metadata = format!(
        "SELECT CONCAT_WS(' ', OBJECT_TYPE, OBJECT_SCHEMA, OBJECT_NAME, LOCK_TYPE) \
         FROM performance_schema.metadata_locks WHERE LOCK_STATUS = 'GRANTED' AND \
         (OBJECT_TYPE = 'TABLE' AND OBJECT_SCHEMA = '{DATABASE}' AND LOCK_TYPE IN \
         ('SHARED_UPGRADABLE', 'SHARED_READ_ONLY', 'SHARED_NO_WRITE', 'SHARED_NO_READ_WRITE', 'EXCLUSIVE') \
         OR OBJECT_TYPE IN ('GLOBAL', 'COMMIT', 'BACKUP LOCK', 'BACKUP') AND LOCK_TYPE IN \
         ('SHARED', 'EXCLUSIVE', 'FTWRL1', 'FTWRL2'))"
    );
    match flavor {
        Flavor::Mariadb => metadata,
        Flavor::Mysql9 => format!(
            "{metadata} UNION SELECT CONCAT_WS(' ', 'InnoDB', OBJECT_SCHEMA, OBJECT_NAME, LOCK_MODE) \
             FROM performance_schema.data_locks WHERE LOCK_TYPE = 'TABLE' AND OBJECT_SCHEMA = '{DATABASE}' \
             AND LOCK_MODE IN ('S', 'X', 'AUTO_INC')"
        ),
    }
}
