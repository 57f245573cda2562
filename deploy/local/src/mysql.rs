//! MySQL 9 and MariaDB: a primary with a full row binlog and GTIDs.

mod blank;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::command::{copy_folder, output};
use crate::component::{Component, Home};
use crate::fault::Fault;
use crate::install;
use crate::port;
use crate::probe::Probe;
use crate::process::Launch;
use crate::service::{Folder, Kept, Service, new_folder};

/// Which of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// MySQL 9.
    Mysql9,
    /// MariaDB 10.11.
    Mariadb,
}

impl Flavor {
    /// The component that brings it.
    pub fn component(self) -> Component {
        match self {
            Self::Mysql9 => Component::Mysql,
            Self::Mariadb => Component::Mariadb,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Mysql9 => "MySQL",
            Self::Mariadb => "MariaDB",
        }
    }

    fn server_program(self) -> &'static str {
        match self {
            Self::Mysql9 => "mysqld",
            Self::Mariadb => "mariadbd",
        }
    }

    fn client_program(self) -> &'static str {
        match self {
            Self::Mysql9 => "mysql",
            Self::Mariadb => "mariadb",
        }
    }

    fn dump_program(self) -> &'static str {
        match self {
            Self::Mysql9 => "mysqldump",
            Self::Mariadb => "mariadb-dump",
        }
    }

    fn binlog_program(self) -> &'static str {
        match self {
            Self::Mysql9 => "mysqlbinlog",
            Self::Mariadb => "mariadb-binlog",
        }
    }

    /// GTIDs and the row format: what capture needs of a primary.
    fn binlog_settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Mysql9 => {
                &[("gtid_mode", "ON"), ("enforce_gtid_consistency", "ON"), ("mysqlx", "OFF")]
            }
            Self::Mariadb => {
                &[("gtid_strict_mode", "ON"), ("binlog_format", "ROW"), ("log_slave_updates", "ON")]
            }
        }
    }
}

/// How a server is to be started.
#[derive(Debug, Clone)]
pub struct MysqlSetup {
    flavor: Flavor,
    server_id: Option<u32>,
    durable: bool,
    settings: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl MysqlSetup {
    /// The server id. Without one it is the port, which is unique on this machine as long as the server runs.
    #[must_use]
    pub fn server_id(mut self, id: u32) -> Self {
        self.server_id = Some(id);
        self
    }

    /// Binlog and redo log synced with each commit. Without it both are written, not synced: an end of the process
    /// loses nothing, an end of the machine would.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// Generated keys step by `increment` from `offset`, so that units do not collide.
    #[must_use]
    pub fn auto_increment(self, increment: u16, offset: u16) -> Self {
        self.setting("auto_increment_increment", increment).setting("auto_increment_offset", offset)
    }

    /// Any server variable, by its name. The last one set wins, over the defaults too.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }

    /// A whole argument, for what is no `name=value`: `--skip-log-bin`.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts it on a free port of 127.0.0.1, in a temporary folder, without data.
    ///
    /// # Errors
    /// [`Fault::Install`] where it is not here and can't be brought, or [`Fault::Start`] with the end of its log.
    pub async fn start(self) -> Result<Mysql, Fault> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.start_on(port::free()?).await {
                Err(fault) if fault.is_address_in_use() && tries < port::TRIES => {}
                outcome => return outcome,
            }
        }
    }

    async fn start_on(&self, port: u16) -> Result<Mysql, Fault> {
        let home = install::home(self.flavor.component()).await?;
        let folder = new_folder(self.flavor.component().name())?;
        let data = folder.path().join("data");
        blank::copy_to(&data, self.flavor, &home, &self.settings).await?;

        let socket = folder.path().join("socket");
        let launch = Launch {
            name: self.flavor.name(),
            program: home.program(self.flavor.server_program())?,
            arguments: self.arguments(port, &socket, &data),
            environment: vec![],
            folder: folder.path().to_owned(),
            file: "server",
        };
        let service = Service::new(Folder::Own(folder), launch, Probe::MysqlGreeting { socket });
        service.start().await?;
        Ok(Mysql { service, flavor: self.flavor, home, port })
    }

    fn arguments(&self, port: u16, socket: &Path, data: &Path) -> Vec<String> {
        let sync = if self.durable { "1" } else { "0" };
        let flush = if self.durable { "1" } else { "2" };
        let defaults = [
            ("bind_address", "127.0.0.1"),
            ("skip_name_resolve", "ON"),
            ("log_bin", "binlog"),
            ("binlog_row_image", "FULL"),
            ("binlog_row_metadata", "FULL"),
            ("sync_binlog", sync),
            ("innodb_flush_log_at_trx_commit", flush),
            ("innodb_buffer_pool_size", "128M"),
            ("performance_schema", "OFF"),
            ("character_set_server", "utf8mb4"),
            ("default_time_zone", "+00:00"),
            // Whoever asks whether we are up hangs up after the greeting: no reason to lock a host out.
            ("max_connect_errors", "1000000000"),
            ("max_connections", "300"),
        ];
        let mut arguments = vec!["--no-defaults".to_owned()];
        let mut set = |name: &str, value: &str| arguments.push(format!("--{name}={value}"));
        // The server refuses to run as root unless it is told to, and ignores the option for anyone else.
        set("user", "root");
        set("datadir", &data.display().to_string());
        set("socket", &socket.display().to_string());
        set("pid_file", &socket.with_file_name("pid").display().to_string());
        // Debian's default is a folder that only an installed package has.
        set("secure_file_priv", &data.with_file_name("").display().to_string());
        // A server that starts removes what it takes for leftovers of its own, also under the tables
        // that another is using there, which then dies.
        set("tmpdir", &data.with_file_name("").display().to_string());
        set("port", &port.to_string());
        set("server_id", &self.server_id.unwrap_or(u32::from(port)).to_string());
        defaults
            .iter()
            .chain(self.flavor.binlog_settings())
            .for_each(|(name, value)| set(name, value));
        self.settings.iter().for_each(|(name, value)| set(name, value));
        arguments.extend_from_slice(&self.arguments);
        arguments
    }
}

/// A MySQL 9 or MariaDB server of this machine. Dropping it ends the server and removes its folder.
///
/// `root` has no password, by TCP from 127.0.0.1 and by the socket.
#[derive(Debug)]
pub struct Mysql {
    service: Service,
    flavor: Flavor,
    home: Home,
    port: u16,
}

impl Mysql {
    /// How to start one; the defaults are a primary with GTIDs, full row images and full metadata.
    pub fn setup(flavor: Flavor) -> MysqlSetup {
        MysqlSetup { flavor, server_id: None, durable: false, settings: vec![], arguments: vec![] }
    }

    /// Which server it is.
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Its port on 127.0.0.1, the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.service.folder().join("socket")
    }

    /// `mysql://root@127.0.0.1:<port>`, without a database.
    pub fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}", self.port)
    }

    /// The server's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.service.pid()
    }

    /// Its temporary folder.
    pub fn folder(&self) -> &Path {
        self.service.folder()
    }

    /// Its data folder.
    pub fn data_folder(&self) -> PathBuf {
        self.service.folder().join("data")
    }

    /// What it wrote to its error log, over all starts.
    pub fn log(&self) -> PathBuf {
        self.service.log()
    }

    /// Runs statements by the server's own client, over the socket, as root. Returns the rows as the client's batch
    /// mode prints them: values between tabs, special characters escaped, no column names, no last line end.
    ///
    /// # Errors
    /// [`Fault::Command`] with the server's message; statements before the failed one have been run.
    pub async fn sql(&self, statements: &str) -> Result<String, Fault> {
        let mut client = self.client()?;
        client.args(["--batch", "--skip-column-names"]);
        let rows = output(client, statements.as_bytes()).await?;
        Ok(rows.strip_suffix('\n').unwrap_or(&rows).to_owned())
    }

    /// The server's own client, told how to connect, for more arguments.
    ///
    /// # Errors
    /// [`Fault::NotInstalled`] where the server folder has no client.
    pub fn client(&self) -> Result<Command, Fault> {
        let mut client = self.command(self.flavor.client_program())?;
        client.arg("--comments");
        Ok(client)
    }

    /// The server's own `mysqldump`, told how to connect, for more arguments.
    ///
    /// # Errors
    /// [`Fault::NotInstalled`] where the server folder has no such program.
    pub fn dump(&self) -> Result<Command, Fault> {
        self.command(self.flavor.dump_program())
    }

    fn command(&self, program: &str) -> Result<Command, Fault> {
        let mut command = Command::new(self.home.program(program)?);
        command.args(["--no-defaults", "--user=root", "--default-character-set=utf8mb4"]);
        command.arg(format!("--socket={}", self.socket().display())).kill_on_drop(true);
        Ok(command)
    }

    /// Its binlog files, the oldest first.
    ///
    /// # Errors
    /// [`Fault::Io`] where there is no index of them.
    pub fn binlog_files(&self) -> Result<Vec<PathBuf>, Fault> {
        let index = self.data_folder().join("binlog.index");
        let names = fs::read_to_string(&index).map_err(Fault::io("read", &index))?;
        Ok(names
            .lines()
            .filter(|name| !name.is_empty())
            .map(|name| self.data_folder().join(name))
            .collect())
    }

    /// All binlog files as the server's own `mysqlbinlog` reads them, rows as commented pseudo-SQL with their types.
    ///
    /// # Errors
    /// [`Fault::Command`].
    pub async fn mysqlbinlog(
        &self,
        options: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<String, Fault> {
        let mut reader = self.mysqlbinlog_command()?;
        reader
            .args(["--base64-output=decode-rows", "-v", "-v"])
            .args(options)
            .args(self.binlog_files()?);
        output(reader, b"").await
    }

    /// The server's own `mysqlbinlog` without options, for those who want the raw tool.
    ///
    /// # Errors
    /// [`Fault::NotInstalled`].
    pub fn mysqlbinlog_command(&self) -> Result<Command, Fault> {
        let mut reader = Command::new(self.home.program(self.flavor.binlog_program())?);
        reader.arg("--no-defaults").kill_on_drop(true);
        Ok(reader)
    }

    /// Shuts it down in order.
    ///
    /// # Errors
    /// [`Fault::NotRunning`], or [`Fault::Stop`] where it had to be killed.
    pub async fn stop(&self) -> Result<(), Fault> {
        self.service.stop().await
    }

    /// SIGKILL, as in a crash.
    ///
    /// # Errors
    /// [`Fault::NotRunning`].
    pub async fn kill(&self) -> Result<(), Fault> {
        self.service.kill().await
    }

    /// Starts it again on the same folder and port, and waits until it answers.
    ///
    /// # Errors
    /// [`Fault::Running`], [`Fault::Start`].
    pub async fn start_again(&self) -> Result<(), Fault> {
        self.service.start().await
    }

    /// Freezes it (SIGSTOP): connections stay open, nothing answers.
    ///
    /// # Errors
    /// [`Fault::NotRunning`].
    pub async fn suspend(&self) -> Result<(), Fault> {
        self.service.suspend().await
    }

    /// Lets a frozen one go on.
    ///
    /// # Errors
    /// [`Fault::NotRunning`].
    pub fn resume(&self) -> Result<(), Fault> {
        self.service.resume()
    }

    /// Copies the data folder to `target`, which must not exist. A running server is frozen meanwhile, so the copy is
    /// what a crash at that moment would have left.
    ///
    /// # Errors
    /// [`Fault::Command`] from the copy.
    pub async fn copy_data_to(&self, target: &Path) -> Result<(), Fault> {
        let running = self.pid().is_some();
        if running {
            self.suspend().await?;
        }
        let copied = copy_folder(&self.data_folder(), target).await;
        if running {
            self.resume()?;
        }
        copied
    }

    /// Goes back in time: kills the server if it runs, puts an earlier copy in the place of its data, starts it. The
    /// server keeps its uuid, as one restored from a backup of its disk does.
    ///
    /// # Errors
    /// [`Fault::Command`] from the copy, [`Fault::Start`].
    pub async fn restore_from(&self, source: &Path) -> Result<(), Fault> {
        if self.pid().is_some() {
            self.kill().await?;
        }
        let data = self.data_folder();
        fs::remove_dir_all(&data).map_err(Fault::io("remove", &data))?;
        copy_folder(source, &data).await?;
        self.start_again().await
    }

    /// Lets the server live on after this process.
    ///
    /// # Errors
    /// [`Fault::NotRunning`].
    pub fn keep(self) -> Result<Kept, Fault> {
        self.service.keep()
    }
}
