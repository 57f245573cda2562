//! The command line, and which drains it asks for.

use std::fmt::{self, Display, Formatter};

use clap::Parser;
use unitflow_harness::Flavor;

use crate::flow::LANES;

/// How many workers the parallel replica has; as many as Unitflow has lanes.
pub const WORKERS: u32 = LANES;

/// Drains a prepared backlog by Unitflow and by the servers' own replica, one after the other.
#[derive(Debug, Parser)]
#[command(name = "drain", max_term_width = 100, after_help = WORDS)]
pub struct Arguments {
    /// Rows of each backlog.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub rows: u64,
    /// How often each drain is measured; the table then has medians, least and most.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub repeat: u32,
    /// Only drains that all these words name; may be given several times.
    #[arg(long, value_name = "WORDS")]
    pub only: Vec<String>,
    /// Print the table as Markdown.
    #[arg(long)]
    pub markdown: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    pub bench: bool,
}

const WORDS: &str = "Words of --only: mysql-mysql mariadb-mariadb mysql-mariadb, 4-row 1-row, relaxed durable, \
serial parallel unitflow. Example: --only 'mysql-mysql 4-row durable' --only unitflow";

/// From what to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairing {
    /// The server that has the backlog.
    pub source: Flavor,
    /// The server that it goes to.
    pub target: Flavor,
}

/// Who applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applier {
    /// The server's own replica with so many workers; none means in order, by one.
    Native {
        /// How many.
        workers: u32,
    },
    /// Us.
    Unitflow,
}

/// One measurement, repetitions aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// From what to what.
    pub pairing: Pairing,
    /// Rows of each transaction.
    pub rows_each: u64,
    /// Whether the target syncs at each commit.
    pub durable: bool,
    /// Who applies.
    pub applier: Applier,
}

impl Arguments {
    /// The drains asked for; those of one backlog stand together.
    pub fn drains(&self) -> Vec<Drain> {
        let mut drains = Vec::new();
        for source in [Flavor::Mysql9, Flavor::Mariadb] {
            for rows_each in [4, 1] {
                for pairing in PAIRINGS.into_iter().filter(|pairing| pairing.source == source) {
                    // Where the flavours differ there is no replica to stand beside.
                    let appliers = if pairing.source == pairing.target {
                        &APPLIERS[..]
                    } else {
                        &APPLIERS[2..]
                    };
                    for durable in [false, true] {
                        drains.extend(appliers.iter().map(|&applier| Drain {
                            pairing,
                            rows_each,
                            durable,
                            applier,
                        }));
                    }
                }
            }
        }
        drains
            .retain(|drain| self.only.is_empty() || self.only.iter().any(|words| drain.has(words)));
        drains
    }
}

const PAIRINGS: [Pairing; 3] = [
    Pairing { source: Flavor::Mysql9, target: Flavor::Mysql9 },
    Pairing { source: Flavor::Mysql9, target: Flavor::Mariadb },
    Pairing { source: Flavor::Mariadb, target: Flavor::Mariadb },
];
const APPLIERS: [Applier; 3] =
    [Applier::Native { workers: 0 }, Applier::Native { workers: WORKERS }, Applier::Unitflow];

impl Pairing {
    /// For the table.
    pub fn title(self) -> String {
        format!("{} → {}", name(self.source).1, name(self.target).1)
    }
}

impl Drain {
    /// Drains for which this is the same have one backlog.
    pub fn source(&self) -> (Flavor, u64) {
        (self.pairing.source, self.rows_each)
    }

    fn has(&self, words: &str) -> bool {
        let own = self.to_string();
        words.split_whitespace().all(|word| own.split(' ').any(|one| one == word))
    }
}

/// The words by which `--only` knows it.
impl Display for Drain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Pairing { source, target } = self.pairing;
        let durable = if self.durable { "durable" } else { "relaxed" };
        let applier = match self.applier {
            Applier::Native { workers: 0 } => "serial",
            Applier::Native { .. } => "parallel",
            Applier::Unitflow => "unitflow",
        };
        write!(
            f,
            "{}-{} {}-row {durable} {applier}",
            name(source).0,
            name(target).0,
            self.rows_each
        )
    }
}

fn name(flavor: Flavor) -> (&'static str, &'static str) {
    match flavor {
        Flavor::Mysql9 => ("mysql", "MySQL"),
        Flavor::Mariadb => ("mariadb", "MariaDB"),
    }
}
