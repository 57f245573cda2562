//! Rows that a server loads from a file.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::ensure;
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::beside;

use super::{LIMIT, QUIET, setup};

const ROWS: u32 = 20_000;

#[test]
fn rows_loaded_from_a_file() {
    beside("rows loaded from a file", LIMIT, async {
        let mut mesh = setup(&[Mysql9, Mariadb])
            .kafka_shared()
            .setting("secure_file_priv", "")
            .tables("CREATE TABLE loaded (id INT PRIMARY KEY, text VARCHAR(60), at DATETIME(3), bytes VARBINARY(9))")
            .start()
            .await?;
        mesh.start_workers()?;
        fs::set_permissions(mesh.folder(), fs::Permissions::from_mode(0o755))?;
        for (unit, first) in [("A", 0), ("B", ROWS)] {
            let (new, replaced) = (lines(first, ROWS, "new"), lines(first, ROWS / 10, "replaced"));
            for (name, mode, text) in [("new", "", new), ("replaced", "REPLACE", replaced)] {
                let path = mesh.folder().join(format!("{unit}-{name}.csv"));
                fs::write(&path, text)?;
                let load = format!(
                    "LOAD DATA INFILE '{}' {mode} INTO TABLE shop.loaded CHARACTER SET utf8mb4 \
                     FIELDS TERMINATED BY ',' ENCLOSED BY '\"'",
                    path.display()
                );
                mesh.server(unit).sql(&load).await?;
            }
        }
        mesh.quiesce(QUIET).await?;
        let query = "SELECT id, text, at, HEX(bytes) FROM shop.loaded ORDER BY id";
        let rows = mesh.server("A").sql(query).await?;
        ensure!(rows == mesh.server("B").sql(query).await?, "the units differ");
        ensure!(rows.lines().count() == 2 * ROWS as usize, "{} rows", rows.lines().count());
        ensure!(rows.matches("replaced").count() == 2 * (ROWS / 10) as usize, "none was replaced");
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

/// Rows of a file, with quotes, separators and NULL in them.
fn lines(first: u32, count: u32, word: &str) -> String {
    let mut text = String::new();
    for id in first..first + count {
        let at = if id.is_multiple_of(7) { "\\N" } else { "2026-01-02 03:04:05.678" };
        let _ = writeln!(
            text,
            "{id},\"{word}, \"\"\u{e9}\u{1f600}\"\" {id}\",{at},\"b\\\\{}\"",
            id % 10
        );
    }
    text
}
