//! The tables and what is written to them: the same for the same number of rows.
//!
//! Four tables of one shape, about 200 bytes a row. Each changed row is, one time in two, a new one
//! or an update by key of one that exists, seeded or written before. A transaction's rows go to the
//! tables in turn, so that one of four rows touches all four. Four connections write at once, each
//! to keys of its own.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use mysql_async::prelude::Queryable as _;
use tokio::task::JoinSet;
use tokio::time::timeout;
use unitflow_harness::load::connect;
use unitflow_harness::{Mysql, Random};

/// The schema's name.
pub const DATABASE: &str = "bench";
/// The tables' names.
pub const TABLES: [&str; 4] = ["customers", "orders", "payments", "shipments"];

/// In words, for the report.
pub const MIX: &str = "half inserts, half updates by key of seeded or earlier rows, ~200 bytes a row, 4 tables, \
                       4 connections";

const COLUMNS: &str = "id BIGINT UNSIGNED NOT NULL PRIMARY KEY, customer_id INT UNSIGNED NOT NULL, \
                       status VARCHAR(16) NOT NULL, amount DECIMAL(12,2) NOT NULL, revision INT UNSIGNED NOT NULL, \
                       changed_at DATETIME(3) NOT NULL, note VARCHAR(255) NOT NULL";
const STATES: [&str; 4] = ["open", "paid", "shipped", "returned"];
/// A note's length in bytes: with the other columns about 200.
const NOTE_BYTES: usize = 150;
const WRITERS: u64 = 4;
/// Rows that exist in each table before the backlog.
pub const SEEDED: u64 = 20_000;
/// Rows of one statement that seeds.
const SEEDED_AT_ONCE: u64 = 1_000;
/// Rows that are sent to the server in one go.
const ROWS_AT_ONCE: u64 = 64;
const STATEMENT: Duration = Duration::from_secs(60);
/// The whole backlog is written in this time.
const WRITING: Duration = Duration::from_secs(300);

/// Creates the tables and seeds them.
pub async fn seed(server: &Mysql) -> anyhow::Result<()> {
    let mut sql = format!("CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4;\n");
    let mut random = Random::new(0);
    for table in TABLES {
        writeln!(sql, "CREATE TABLE {DATABASE}.{table} ({COLUMNS}) ENGINE=InnoDB;")?;
        for first in (1..=SEEDED).step_by(usize::try_from(SEEDED_AT_ONCE)?) {
            write!(sql, "INSERT INTO {DATABASE}.{table} VALUES ")?;
            for id in first..first + SEEDED_AT_ONCE {
                let comma = if id == first { "" } else { "," };
                write!(sql, "{comma}({id},{})", Row::random(&mut random).values())?;
            }
            sql.push_str(";\n");
        }
    }
    timeout(WRITING, server.sql(&sql)).await.context("seeding hangs")??;
    Ok(())
}

/// Writes the backlog; how many rows that were: no more than asked, whole transactions for each
/// writer.
pub async fn write(server: &Mysql, rows: u64, rows_each: u64) -> anyhow::Result<u64> {
    let transactions = rows / WRITERS / rows_each;
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let mut writer = Writer::new(number);
        let mut conn = connect(server).await?;
        writers.spawn(async move {
            let mut left = transactions;
            while left > 0 {
                let now = left.min(ROWS_AT_ONCE / rows_each);
                let sql = writer.transactions(now, rows_each);
                timeout(STATEMENT, conn.query_drop(sql)).await.context("a statement hangs")??;
                left -= now;
            }
            conn.disconnect().await.context("disconnect")
        });
    }
    let written = async {
        while let Some(writer) = writers.join_next().await {
            writer??;
        }
        anyhow::Ok(())
    };
    timeout(WRITING, written).await.context("the backlog is not written in time")??;
    Ok(transactions * WRITERS * rows_each)
}

/// One connection's part. Of each table it has the rows whose id is its number, counted in steps
/// of [`WRITERS`].
struct Writer {
    number: u64,
    random: Random,
    /// How many rows of its own each table has.
    owned: [u64; TABLES.len()],
    turn: usize,
}

impl Writer {
    fn new(number: u64) -> Self {
        Self {
            number,
            random: Random::new(1 + number),
            owned: [SEEDED / WRITERS; TABLES.len()],
            turn: 0,
        }
    }

    fn transactions(&mut self, count: u64, rows_each: u64) -> String {
        let mut sql = String::new();
        for _ in 0..count {
            if rows_each > 1 {
                sql.push_str("BEGIN;");
            }
            for _ in 0..rows_each {
                self.change(&mut sql);
            }
            if rows_each > 1 {
                sql.push_str("COMMIT;");
            }
        }
        sql
    }

    fn change(&mut self, sql: &mut String) {
        let table = self.turn % TABLES.len();
        self.turn += 1;
        let (name, owned) = (TABLES[table], self.owned[table]);
        let row = Row::random(&mut self.random);
        // Writing to a String can't fail.
        let _ = if self.random.below(2) == 0 {
            self.owned[table] += 1;
            write!(
                sql,
                "INSERT INTO {DATABASE}.{name} VALUES ({},{});",
                self.id(owned),
                row.values()
            )
        } else {
            let place = self.random.below(owned);
            let id = self.id(place);
            write!(
                sql,
                "UPDATE {DATABASE}.{name} SET status='{}', amount={}, revision=revision+1, changed_at='{}', note='{}' \
                 WHERE id={id};",
                row.status, row.amount, row.changed_at, row.note
            )
        };
    }

    fn id(&self, place: u64) -> u64 {
        place * WRITERS + self.number + 1
    }
}

struct Row {
    customer: u64,
    status: &'static str,
    amount: String,
    changed_at: String,
    note: String,
}

impl Row {
    fn random(random: &mut Random) -> Self {
        let mut note = String::with_capacity(NOTE_BYTES + 16);
        while note.len() < NOTE_BYTES {
            // Words, so that it compresses as text does.
            let _ = write!(note, "{:04x} parcel ", random.below(0x1_0000));
        }
        note.truncate(NOTE_BYTES);
        let second = random.below(86_400);
        Self {
            customer: random.below(100_000),
            status: STATES[random.place(STATES.len())],
            amount: format!("{}.{:02}", random.below(1_000_000), random.below(100)),
            changed_at: format!(
                "2025-03-14 {:02}:{:02}:{:02}.{:03}",
                second / 3600,
                second / 60 % 60,
                second % 60,
                random.below(1000)
            ),
            note,
        }
    }

    /// All columns behind the id.
    fn values(&self) -> String {
        let Self { customer, status, amount, changed_at, note } = self;
        format!("{customer},'{status}',{amount},0,'{changed_at}','{note}'")
    }
}
