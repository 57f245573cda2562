//! Writers: several connections in each unit, each with customers and orders of its own.
//!
//! A transaction is what a shop does: an order with its items, now and then with an update of the customer; a change
//! of an order's state; a cancelled order, deleted with its items.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Error, Params, Value};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use unitflow_change::{Code, Fault};

use crate::demo::unit::{self, Unit};

/// Connections in each unit.
const WRITERS: u64 = 4;
/// Customers of each writer, there before its first order.
const CUSTOMERS: u64 = 50;
/// Rows a second in each unit: brisk, but with enough left of two cores for the replication of it. More where the load
/// would otherwise last longer than [`LASTS_SECONDS`].
const ROWS_A_SECOND_MIN: u64 = 2_500;
/// How long the load lasts at most, if the servers can take it.
const LASTS_SECONDS: u64 = 20;
/// How many rows a transaction inserts on average; the dice below make it so.
const ROWS_A_TRANSACTION: u64 = 4;
/// How often a transaction that met a deadlock is tried again.
const TRIES: u32 = 10;

const NAMES: [&str; 8] = [
    "Zoë Müller",
    "李娜",
    "Łukasz Żak",
    "Nguyễn Văn An",
    "O'Brien, Sinéad",
    "Анна Ковальчук",
    "محمد",
    "Ana 🌻",
];
const PRODUCTS: [&str; 6] = [
    "tea, 250 g",
    "Kaffee „Röstfein“",
    "絹のスカーフ",
    "notebook \\ A5",
    "🎁 gift box",
    "crème brûlée set",
];
const NOTES: [&str; 3] =
    ["leave at the door", "gift:\twrap it\nplease 🎀", "配達は午後でお願いします"];

/// What was written and committed in one unit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Rows inserted.
    pub inserted: u64,
    /// Rows updated.
    pub updated: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Transactions.
    pub transactions: u64,
}

impl Written {
    /// Rows that are still there.
    pub fn rows(&self) -> u64 {
        self.inserted.saturating_sub(self.deleted)
    }
}

/// The same while it grows.
#[derive(Debug, Default)]
struct Counters {
    inserted: AtomicU64,
    updated: AtomicU64,
    deleted: AtomicU64,
    transactions: AtomicU64,
}

impl Counters {
    fn add(&self, written: Written) {
        self.inserted.fetch_add(written.inserted, Ordering::Relaxed);
        self.updated.fetch_add(written.updated, Ordering::Relaxed);
        self.deleted.fetch_add(written.deleted, Ordering::Relaxed);
        self.transactions.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Written {
        // Deleted before inserted, so that what is deleted was counted as inserted.
        let deleted = self.deleted.load(Ordering::Relaxed);
        Written {
            inserted: self.inserted.load(Ordering::Relaxed),
            updated: self.updated.load(Ordering::Relaxed),
            deleted,
            transactions: self.transactions.load(Ordering::Relaxed),
        }
    }
}

/// What all writers have committed so far, by the place of their unit.
#[derive(Clone, Debug, Default)]
pub struct Tally([Arc<Counters>; 2]);

impl Tally {
    /// What has been committed in a unit.
    pub fn of(&self, place: usize) -> Written {
        self.0[place].read()
    }
}

/// Writers at work in both units. Dropping them stops them.
#[derive(Debug)]
pub struct Writers {
    tasks: JoinSet<Result<(), Fault>>,
    tally: Tally,
}

impl Writers {
    /// Starts writing until `rows` rows are inserted in each unit.
    pub async fn start(units: &[Unit], rows: u64) -> Result<Self, Fault> {
        let a_second = ROWS_A_SECOND_MIN.max(rows / LASTS_SECONDS);
        let pause = Duration::from_micros(1_000_000 * WRITERS * ROWS_A_TRANSACTION / a_second);
        let mut writers = Vec::new();
        for (place, unit) in (0..).zip(units) {
            for number in 0..WRITERS {
                writers.push(Writer {
                    unit: unit.name,
                    server: unit.title(),
                    conn: unit.connect().await?,
                    dice: Dice(place << 32 | number),
                    customers: vec![],
                    orders: vec![],
                });
            }
        }
        let tally = Tally::default();
        let mut tasks = JoinSet::new();
        for (number, writer) in (0..).zip(writers) {
            let counters = tally.0[usize::from(number >= WRITERS)].clone();
            tasks.spawn(writer.write(counters, rows, pause));
        }
        Ok(Self { tasks, tally })
    }

    /// What they have committed, also later.
    pub fn tally(&self) -> Tally {
        self.tally.clone()
    }

    /// Waits until all is written.
    pub async fn finish(mut self) -> Result<[Written; 2], Fault> {
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(|panic| {
                Fault::fatal(Code::Bug, format!("a writer panicked: {panic}"))
            })??;
        }
        Ok([self.tally.of(0), self.tally.of(1)])
    }
}

/// One connection of the shop's application.
struct Writer {
    unit: &'static str,
    server: String,
    conn: Conn,
    dice: Dice,
    customers: Vec<u64>,
    /// Orders that are there, and how many items each has.
    orders: Vec<(u64, u64)>,
}

impl Writer {
    async fn write(
        mut self,
        counters: Arc<Counters>,
        rows: u64,
        pause: Duration,
    ) -> Result<(), Fault> {
        let first = self.add_customers().await.map_err(|error| self.fault(&error))?;
        counters.add(first);
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while counters.inserted.load(Ordering::Relaxed) < rows {
            ticks.tick().await;
            let written = self.commit_something().await.map_err(|error| self.fault(&error))?;
            counters.add(written);
        }
        self.conn.disconnect().await.ok();
        Ok(())
    }

    fn fault(&self, error: &Error) -> Fault {
        unit::fault(error, format_args!("a writer in {}", self.server))
    }

    async fn add_customers(&mut self) -> Result<Written, Error> {
        let rows = vec!["(?, ?, ?, ?, ?, NOW(6))"; CUSTOMERS as usize].join(", ");
        let mut values: Vec<Value> = Vec::new();
        for number in 0..CUSTOMERS {
            let name = self.dice.pick(&NAMES);
            let email = (number % 5 != 0).then(|| format!("customer-{number}@shop.example"));
            values.extend([
                self.unit.into(),
                name.into(),
                email.into(),
                0.into(),
                self.settings().into(),
            ]);
        }
        let sql = format!(
            "INSERT INTO customers (unit, name, email, points, settings, written_at) VALUES {rows}"
        );
        self.conn.exec_drop(sql, Params::Positional(values)).await?;
        // The server gives one statement's keys in a row, two apart.
        let first = self.conn.last_insert_id().unwrap_or_default();
        self.customers = (0..CUSTOMERS).map(|number| first + 2 * number).collect();
        Ok(Written { inserted: CUSTOMERS, ..Written::default() })
    }

    /// One transaction. One that met a deadlock was rolled back by the server and is tried again.
    async fn commit_something(&mut self) -> Result<Written, Error> {
        let kind = self.dice.below(100);
        let mut tries = 0;
        loop {
            tries += 1;
            let attempt = match kind {
                0..3 if self.orders.len() > 10 => self.cancel_order().await,
                3..15 if !self.orders.is_empty() => self.change_order().await,
                _ => self.place_order().await,
            };
            match attempt {
                Err(Error::Server(error)) if matches!(error.code, 1205 | 1213) && tries < TRIES => {
                    self.conn.query_drop("ROLLBACK").await?;
                }
                outcome => return outcome,
            }
        }
    }

    async fn place_order(&mut self) -> Result<Written, Error> {
        let lines: Vec<(u64, u64)> = (0..=self.dice.below(6))
            .map(|_| (1 + self.dice.below(3), 99 + self.dice.below(20_000)))
            .collect();
        let total = money(lines.iter().map(|(quantity, cents)| quantity * cents).sum());
        let customer = self.customers[self.dice.below(CUSTOMERS) as usize];
        let note = (self.dice.below(3) == 0).then(|| self.dice.pick(&NOTES));
        self.conn.query_drop("BEGIN").await?;
        let sql = "INSERT INTO orders (unit, customer_id, total, note, written_at) VALUES (?, ?, ?, ?, NOW(6))";
        self.conn.exec_drop(sql, (self.unit, customer, total, note)).await?;
        let order = self.conn.last_insert_id().unwrap_or_default();
        let items = self.add_items(order, &lines).await?;
        let mut written = Written { inserted: 1 + items, ..Written::default() };
        if self.dice.below(4) == 0 {
            let sql = "UPDATE customers SET points = points + 1, written_at = NOW(6) WHERE unit = ? AND id = ?";
            self.conn.exec_drop(sql, (self.unit, customer)).await?;
            written.updated = 1;
        }
        self.conn.query_drop("COMMIT").await?;
        self.orders.push((order, items));
        Ok(written)
    }

    /// All items of an order in one statement. Returns how many.
    async fn add_items(&mut self, order: u64, lines: &[(u64, u64)]) -> Result<u64, Error> {
        let mut values: Vec<Value> = Vec::new();
        for (line, (quantity, cents)) in (1_u64..).zip(lines) {
            values.extend([
                self.unit.into(),
                order.into(),
                line.into(),
                self.dice.pick(&PRODUCTS).into(),
                quantity.into(),
                money(*cents).into(),
                self.attributes().into(),
            ]);
        }
        let rows = vec!["(?, ?, ?, ?, ?, ?, ?, NOW(6))"; lines.len()].join(", ");
        let sql = format!(
            "INSERT INTO items (unit, order_id, line, product, quantity, price, attributes, written_at) VALUES {rows}"
        );
        self.conn.exec_drop(sql, Params::Positional(values)).await?;
        Ok(lines.len() as u64)
    }

    async fn change_order(&mut self) -> Result<Written, Error> {
        let place = self.dice.below(self.orders.len() as u64) as usize;
        let state = self.dice.pick(&["paid", "sent"]);
        let sql = "UPDATE orders SET state = ?, written_at = NOW(6) WHERE unit = ? AND id = ?";
        self.conn.exec_drop(sql, (state, self.unit, self.orders[place].0)).await?;
        Ok(Written { updated: 1, ..Written::default() })
    }

    async fn cancel_order(&mut self) -> Result<Written, Error> {
        let place = self.dice.below(self.orders.len() as u64) as usize;
        let (order, items) = self.orders[place];
        self.conn.query_drop("BEGIN").await?;
        let key = (self.unit, order);
        self.conn.exec_drop("DELETE FROM items WHERE unit = ? AND order_id = ?", key).await?;
        self.conn.exec_drop("DELETE FROM orders WHERE unit = ? AND id = ?", key).await?;
        self.conn.query_drop("COMMIT").await?;
        self.orders.swap_remove(place);
        Ok(Written { deleted: 1 + items, ..Written::default() })
    }

    fn settings(&mut self) -> String {
        format!(
            r#"{{"language": "{}", "newsletter": {}}}"#,
            self.dice.pick(&["de", "pl", "zh"]),
            self.dice.below(2) == 0
        )
    }

    fn attributes(&mut self) -> Option<String> {
        let size = self.dice.pick(&["S", "M", "L", "ÅÄÖ"]);
        let grams = self.dice.below(5_000);
        // MySQL keeps JSON in a form of its own, MariaDB as it is written here.
        let text = format!(r#"{{"size":"{size}", "tags":["new", "sale"],"weight_g":{grams}}}"#);
        (self.dice.below(3) > 0).then_some(text)
    }
}

fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// Random enough, and the same each time (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn pick(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.below(choices.len() as u64) as usize]
    }
}
