//! The data folder of a server that has never run. Making one takes seconds, so it is made once and copied.

use std::fs;
use std::path::Path;

use tokio::process::Command;

use super::Flavor;
use crate::command::{copy_folder, output};
use crate::component::Home;
use crate::fault::Fault;
use crate::prepared::Prepared;

/// Settings that are fixed when the data folder is made; the server has to be told the same ever after.
const FIXED: [&str; 4] = [
    "innodb_page_size",
    "lower_case_table_names",
    "innodb_data_file_path",
    "innodb_undo_tablespaces",
];

/// Puts a fresh data folder at `data`.
pub(super) async fn copy_to(
    data: &Path,
    flavor: Flavor,
    home: &Home,
    settings: &[(String, String)],
) -> Result<(), Fault> {
    let program = home.program(flavor.server_program())?;
    let fixed: Vec<String> = settings
        .iter()
        .filter(|(name, _)| FIXED.contains(&name.replace('-', "_").as_str()))
        .map(|(name, value)| format!("--{name}={value}"))
        .collect();
    let prepared = Prepared::open(flavor.component().name(), &program, &fixed).await?;
    if !prepared.is_made() {
        let made = prepared.staging()?;
        match flavor {
            Flavor::Mysql9 => initialize_mysql(&program, made.path(), &fixed).await?,
            Flavor::Mariadb => initialize_mariadb(&program, home, made.path(), &fixed).await?,
        }
        prepared.publish(made)?;
    }
    copy_folder(prepared.path(), data).await
}

/// `root@localhost` comes with it, for the socket; TCP connections are of `127.0.0.1`, as names are not resolved.
async fn initialize_mysql(program: &Path, data: &Path, fixed: &[String]) -> Result<(), Fault> {
    const ROOT_BY_TCP: &str =
        "CREATE USER root@'127.0.0.1';\nGRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n";
    let statements = data.with_extension("sql");
    fs::write(&statements, ROOT_BY_TCP).map_err(Fault::io("write", &statements))?;

    let mut server = initializer(program, data, fixed);
    server.args([
        "--initialize-insecure",
        "--skip-log-bin",
        "--mysqlx=OFF",
        "--innodb-redo-log-capacity=8M",
    ]);
    server.arg(format!("--init-file={}", statements.display()));
    let outcome = output(server, b"").await;
    let _ = fs::remove_file(&statements);
    outcome?;
    // It holds the server's uuid, which no two servers may share.
    let identity = data.join("auto.cnf");
    fs::remove_file(&identity).map_err(Fault::io("remove", identity))
}

/// What `mariadb-install-db` does, with `root` without a password at `localhost` and `127.0.0.1`, and no anonymous user.
async fn initialize_mariadb(
    program: &Path,
    home: &Home,
    data: &Path,
    fixed: &[String],
) -> Result<(), Fault> {
    let mut statements = String::from(
        "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\nSET @skip_auth_anonymous=1;\n",
    );
    for name in [
        "mysql_system_tables.sql",
        "mysql_performance_tables.sql",
        "mysql_system_tables_data.sql",
        "maria_add_gis_sp_bootstrap.sql",
        "mysql_sys_schema.sql",
    ] {
        let path = home.shared(name)?;
        let text = fs::read_to_string(&path).map_err(Fault::io("read", &path))?;
        // Those lines would also let root in under this machine's own name.
        for line in text.lines().filter(|line| !line.contains("@current_hostname")) {
            statements.push_str(line);
            statements.push('\n');
        }
    }
    let mut server = initializer(program, data, fixed);
    server.args(["--bootstrap", "--enforce-storage-engine=", "--skip-log-bin"]);
    output(server, statements.as_bytes()).await.map(drop)
}

fn initializer(program: &Path, data: &Path, fixed: &[String]) -> Command {
    let mut server = Command::new(program);
    server.args(["--no-defaults", "--user=root", "--innodb-buffer-pool-size=64M"]);
    // Servers that run elsewhere have their temporary tables in the usual place.
    server.arg(format!("--tmpdir={}", data.with_file_name("").display()));
    server.arg(format!("--datadir={}", data.display())).args(fixed);
    server
}
