//! The components that the installer brings, and where they live.

use std::env;
use std::path::{Path, PathBuf};

use crate::fault::Fault;

/// A kind of server that can be had on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Component {
    /// MySQL 9: server, client, `mysqlbinlog`.
    Mysql,
    /// MariaDB 10.11: server, client, `mariadb-binlog`.
    Mariadb,
    /// Redis 7: server, client.
    Redis,
    /// Apache Kafka 4: broker, tools.
    Kafka,
    /// Redis 8: server, client.
    Redis8,
    /// Valkey 9: server, client.
    Valkey,
    /// Kafka Connect with Debezium's MySQL and JDBC connectors.
    Connect,
    /// Percona Toolkit: `pt-online-schema-change`.
    Percona,
}

impl Component {
    /// All that are brought unasked.
    pub const ALL: [Self; 4] = [Self::Mysql, Self::Mariadb, Self::Redis, Self::Kafka];

    /// The name by which the installer and the cache folder know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mysql => "mysql",
            Self::Mariadb => "mariadb",
            Self::Redis => "redis",
            Self::Kafka => "kafka",
            Self::Redis8 => "redis8",
            Self::Valkey => "valkey",
            Self::Connect => "connect",
            Self::Percona => "percona",
        }
    }

    /// The environment variable that names a server folder to use instead.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Mysql => "UNITFLOW_MYSQL_HOME",
            Self::Mariadb => "UNITFLOW_MARIADB_HOME",
            Self::Redis => "UNITFLOW_REDIS_HOME",
            Self::Kafka => "UNITFLOW_KAFKA_HOME",
            Self::Redis8 => "UNITFLOW_REDIS8_HOME",
            Self::Valkey => "UNITFLOW_VALKEY_HOME",
            Self::Connect => "UNITFLOW_CONNECT_HOME",
            Self::Percona => "UNITFLOW_PERCONA_HOME",
        }
    }

    /// Looks where it lives, without bringing anything.
    ///
    /// # Errors
    /// [`Fault::NotInstalled`].
    pub fn home(self) -> Result<Home, Fault> {
        if let Some(folder) = named_folder(self.variable()) {
            return Ok(Home { component: self, folder });
        }
        let folder = cache_folder().join(self.name());
        if !folder.join(".complete").is_file() {
            return Err(self.not_installed(format!("there is no complete {}", folder.display())));
        }
        Ok(Home { component: self, folder })
    }

    fn not_installed(self, detail: String) -> Fault {
        Fault::NotInstalled { component: self.name(), detail, variable: self.variable() }
    }
}

/// The folder of one installed component.
#[derive(Debug, Clone)]
pub struct Home {
    component: Component,
    folder: PathBuf,
}

impl Home {
    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A program of this component by its bare name. Finds the installer's layout, a vendor's archive, and a system's `/usr`.
    ///
    /// # Errors
    /// [`Fault::NotInstalled`] where the folder has no such program.
    pub fn program(&self, name: &str) -> Result<PathBuf, Fault> {
        let script = format!("{name}.sh");
        ["bin", "sbin", "libexec"]
            .iter()
            .flat_map(|place| {
                [self.folder.join(place).join(name), self.folder.join(place).join(&script)]
            })
            .find(|path| path.is_file())
            .ok_or_else(|| {
                self.component
                    .not_installed(format!("{} has no program {name}", self.folder.display()))
            })
    }

    /// A file of the server's shared data, by its bare name.
    pub(crate) fn shared(&self, name: &str) -> Result<PathBuf, Fault> {
        ["usr/share/mysql", "share/mysql", "share/mariadb", "share"]
            .iter()
            .map(|place| self.folder.join(place).join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| {
                self.component.not_installed(format!("{} has no {name}", self.folder.display()))
            })
    }
}

/// The one folder that holds everything brought or prepared: `$UNITFLOW_HOME`, else `$XDG_CACHE_HOME/unitflow`, else
/// `~/.cache/unitflow`. The installer has the same rule.
pub fn cache_folder() -> PathBuf {
    named_folder("UNITFLOW_HOME")
        .or_else(|| named_folder("XDG_CACHE_HOME").map(|cache| cache.join("unitflow")))
        .or_else(|| named_folder("HOME").map(|home| home.join(".cache/unitflow")))
        .unwrap_or_else(|| env::temp_dir().join("unitflow-cache"))
}

fn named_folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}
