//! The command line.

use clap::Parser;
use unitflow_harness::{Flavor, Mysql};

use crate::load::Load;

/// Copies a table to an empty unit by `unitflow resync full`, and by the server's own `mysqldump | mysql`, while
/// it is written.
#[derive(Debug, Parser)]
#[command(name = "fill", max_term_width = 100)]
pub struct Arguments {
    /// Rows of the table.
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(10_000..))]
    pub rows: u64,
    /// Both servers are of this kind: mysql or mariadb.
    #[arg(long, default_value = "mysql", value_parser = ["mysql", "mariadb"])]
    pub server: String,
    /// Writes to the source meanwhile.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub writes_per_second: u32,
    /// What `unitflow resync` is told; its own default is 20000.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rows_per_second: u32,
    /// Leave `mysqldump | mysql` out.
    #[arg(long)]
    pub alone: bool,
    /// Print the tables as Markdown.
    #[arg(long)]
    pub markdown: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Arguments {
    /// What the servers are.
    pub fn flavor(&self) -> Flavor {
        if self.server == "mysql" { Flavor::Mysql9 } else { Flavor::Mariadb }
    }

    /// Starts the load that they ask for.
    pub async fn load(&self, source: &Mysql, number: u64) -> anyhow::Result<Load> {
        Load::start(source, number, self.rows, self.writes_per_second).await
    }
}
