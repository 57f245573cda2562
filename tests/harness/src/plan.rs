//! What a writer does next: the statements of one transaction, and the changes that they make if
//! it commits.
//!
//! A writer owns its rows, so it knows what every statement changes without asking the server.

use std::fmt::Write as _;

use crate::change::{Change, Op};
use crate::random::Random;
use crate::schema::{DATABASE, Table};

/// Rows that a writer keeps alive in a table; beyond, it deletes.
const LIVE_MOST: usize = 400;
/// Rows of one multi-row statement.
const ROWS_MOST: u64 = 12;
/// What each account starts with.
pub const BALANCE: i64 = 1000;
/// Accounts of one writer.
pub const ACCOUNTS: u32 = 10;

/// Which transactions a writer makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Everything: single rows, several tables, keys that change, rollbacks, savepoints.
    Shop,
    /// Mostly small ones, and now and then everything: for many transactions a second on a small
    /// machine.
    Brisk,
    /// Transfers between accounts, two rows each.
    Bank,
    /// Rows that come and go within one transaction: whoever applies one twice meets no conflict.
    Flash,
}

/// One transaction.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Its statements, BEGIN and COMMIT or ROLLBACK among them, joined by semicolons.
    pub sql: String,
    /// What it changes, in order.
    pub changes: Vec<Change>,
    statements: u32,
}

impl Plan {
    fn run(&mut self, statement: impl std::fmt::Display) {
        if self.statements > 0 {
            self.sql.push(';');
        }
        self.statements += 1;
        // Writing to a String can't fail.
        let _ = write!(self.sql, "{statement}");
    }
}

/// A live row.
#[derive(Clone, Copy, Debug)]
struct Row {
    number: u32,
    version: u32,
    /// Of a seat.
    place: u32,
}

/// The rows of a writer in one table.
#[derive(Debug, Default)]
struct Rows {
    live: Vec<Row>,
    /// Deleted, and free to come back with a higher version.
    dead: Vec<Row>,
    /// Numbers given so far.
    given: u32,
}

/// Plans one writer's transactions.
#[derive(Debug)]
pub struct Planner {
    unit: u8,
    /// Before this writer's first number.
    base: u32,
    mix: Mix,
    random: Random,
    rows: [Rows; 8],
    /// Places that no seat of this writer has.
    free_places: Vec<u32>,
    pulse: u32,
}

/// Numbers of one writer.
const SPAN: u32 = 50_000_000;

impl Planner {
    /// Plans for the writer `writer` of `unit`.
    #[must_use]
    pub fn new(unit: u8, writer: u32, mix: Mix, random: Random) -> Self {
        let base = writer * SPAN;
        let free_places = (base..base + 600).collect();
        Self { unit, base, mix, random, rows: Default::default(), free_places, pulse: 0 }
    }

    /// The first transaction: the writer's pulse, and its accounts.
    #[must_use]
    pub fn first(&mut self) -> Plan {
        let mut plan = Plan::default();
        plan.run("BEGIN");
        if self.mix != Mix::Flash {
            self.pulse = 1;
            let unit = char::from(self.unit);
            plan.run(format_args!(
                "INSERT INTO {DATABASE}.pulse VALUES ('{unit}', {}, 1)",
                self.base
            ));
            plan.changes.push(Change::new(Table::Pulse, self.unit, self.base, 1, Op::Insert));
            for _ in 0..ACCOUNTS {
                self.insert(&mut plan, Table::Accounts);
            }
        }
        plan.run("COMMIT");
        plan
    }

    /// The next transaction.
    #[must_use]
    pub fn next_transaction(&mut self) -> Plan {
        let mut plan = Plan::default();
        match self.mix {
            Mix::Shop => self.shop(&mut plan),
            Mix::Brisk if self.random.below(8) == 0 => self.shop(&mut plan),
            Mix::Brisk => self.within(&mut plan, |planner, plan| match planner.random.below(4) {
                0..=1 => planner.insert(plan, Table::Orders),
                _ => planner.update(plan, Table::Orders),
            }),
            Mix::Bank => self.within(&mut plan, Self::transfer),
            Mix::Flash => self.within(&mut plan, |planner, plan| {
                for _ in 0..=planner.random.below(3) {
                    planner.come_and_go(plan);
                }
            }),
        }
        plan
    }

    /// The statements of one transaction that inserts `count` rows into `bulk`.
    #[must_use]
    pub fn bulk(&mut self, count: u32) -> Vec<Plan> {
        const PER_STATEMENT: u32 = 1000;
        let mut statements = vec![Plan { sql: "BEGIN".into(), ..Plan::default() }];
        let mut left = count;
        while left > 0 {
            let mut plan = Plan::default();
            let rows = left.min(PER_STATEMENT);
            self.insert_several(&mut plan, Table::Bulk, rows);
            left -= rows;
            statements.push(plan);
        }
        statements.push(Plan { sql: "COMMIT".into(), ..Plan::default() });
        statements
    }

    fn shop(&mut self, plan: &mut Plan) {
        match self.random.below(20) {
            0..=2 => self.insert(plan, Table::Orders),
            3..=4 => self.update(plan, Table::Orders),
            5 => self.delete(plan, Table::Orders),
            6 => self.insert(plan, Table::Kinds),
            7 => self.update(plan, Table::Kinds),
            8 => self.within(plan, Self::transfer),
            9..=11 => self.within(plan, Self::order_with_items),
            12 => self.within(plan, Self::update_many),
            13..=14 => self.within(plan, Self::move_rows),
            15 => self.within(plan, |planner, plan| {
                planner.delete(plan, Table::Items);
                planner.delete(plan, Table::Stock);
                planner.delete(plan, Table::Seats);
                planner.delete(plan, Table::Kinds);
            }),
            16 => self.within(plan, Self::come_and_go),
            17 => self.within(plan, Self::come_back),
            18 => self.roll_back(plan),
            _ => self.within(plan, Self::save_points),
        }
        // Whatever is run again after a deadlock has to have been one transaction.
        if plan.statements == 2 {
            plan.sql = format!("BEGIN;{};COMMIT", plan.sql);
        }
    }

    /// A transaction of several statements, which raises the pulse somewhere.
    fn within(&mut self, plan: &mut Plan, what: impl FnOnce(&mut Self, &mut Plan)) {
        plan.run("BEGIN");
        let early = self.random.below(2) == 0;
        if early {
            self.beat(plan);
        }
        what(self, plan);
        if !early {
            self.beat(plan);
        }
        plan.run("COMMIT");
    }

    fn beat(&mut self, plan: &mut Plan) {
        if self.mix == Mix::Flash {
            return;
        }
        self.pulse += 1;
        plan.run(format_args!(
            "UPDATE {DATABASE}.pulse SET version = version + 1 WHERE unit = '{}' AND number = {}",
            char::from(self.unit),
            self.base
        ));
        let change = Change::new(Table::Pulse, self.unit, self.base, self.pulse, Op::Update);
        plan.changes.push(change);
    }

    fn order_with_items(&mut self, plan: &mut Plan) {
        self.insert(plan, Table::Orders);
        let count = 1 + self.random.below(ROWS_MOST);
        self.insert_several(plan, Table::Items, u32::try_from(count).expect("small"));
        self.insert(plan, Table::Stock);
        self.update(plan, Table::Stock);
        self.insert(plan, Table::Seats);
    }

    /// Two accounts, one statement each or both in one.
    fn transfer(&mut self, plan: &mut Plan) {
        let unit = char::from(self.unit);
        let length = self.rows[Table::Accounts as usize].live.len();
        let from = self.random.place(length);
        let to = (from + 1 + self.random.place(length - 1)) % length;
        let amount = self.random.below(50);
        let accounts = &mut self.rows[Table::Accounts as usize].live;
        for at in [from, to] {
            accounts[at].version += 1;
            let Row { number, version, .. } = accounts[at];
            let sign = if at == from { '-' } else { '+' };
            plan.run(format_args!(
                "UPDATE {DATABASE}.accounts SET version = {version}, balance = balance {sign} {amount} \
                 WHERE unit = '{unit}' AND number = {number}"
            ));
            let change = Change::new(Table::Accounts, self.unit, number, version, Op::Update);
            plan.changes.push(change);
        }
    }

    /// One statement that changes several rows.
    fn update_many(&mut self, plan: &mut Plan) {
        let unit = char::from(self.unit);
        let live = &mut self.rows[Table::Items as usize].live;
        let count = usize::try_from(1 + self.random.below(ROWS_MOST)).expect("small");
        let count = count.min(live.len());
        if count == 0 {
            return;
        }
        let start = self.random.place(live.len() - count + 1);
        let mut numbers = Vec::new();
        for row in &mut live[start..start + count] {
            row.version += 1;
            numbers.push(row.number.to_string());
            let change = Change::new(Table::Items, self.unit, row.number, row.version, Op::Update);
            plan.changes.push(change);
        }
        plan.run(format_args!(
            "UPDATE {DATABASE}.items SET version = version + 1, amount = amount + 1 \
             WHERE unit = '{unit}' AND number IN ({})",
            numbers.join(",")
        ));
    }

    /// Rows that leave their primary key or their lane.
    fn move_rows(&mut self, plan: &mut Plan) {
        let unit = char::from(self.unit);
        for _ in 0..=self.random.below(3) {
            if let Some(at) = self.pick(Table::Seats) {
                let taken = self.random.place(self.free_places.len());
                let row = &mut self.rows[Table::Seats as usize].live[at];
                row.version += 1;
                std::mem::swap(&mut self.free_places[taken], &mut row.place);
                let Row { number, version, place } = *row;
                plan.run(format_args!(
                    "UPDATE {DATABASE}.seats SET version = {version}, place = {place} \
                     WHERE unit = '{unit}' AND number = {number}"
                ));
                let change = Change::new(Table::Seats, self.unit, number, version, Op::Move);
                plan.changes.push(change);
            }
            if let Some(at) = self.pick(Table::Items) {
                let step = 1 + self.random.below(98);
                let row = &mut self.rows[Table::Items as usize].live[at];
                row.version += 1;
                let Row { number, version, .. } = *row;
                plan.run(format_args!(
                    "UPDATE {DATABASE}.items SET version = {version}, user_id = (user_id + {step}) % 99 \
                     WHERE unit = '{unit}' AND number = {number}"
                ));
                let change = Change::new(Table::Items, self.unit, number, version, Op::Move);
                plan.changes.push(change);
            }
        }
    }

    /// A row that is inserted, changed and deleted in one transaction.
    fn come_and_go(&mut self, plan: &mut Plan) {
        let unit = char::from(self.unit);
        let number = self.fresh(Table::Orders);
        let values = self.values(Table::Orders, number, 1, 0);
        plan.run(format_args!("INSERT INTO {DATABASE}.orders VALUES {values}"));
        plan.run(format_args!(
            "UPDATE {DATABASE}.orders SET version = 2, status = 'gone' WHERE unit = '{unit}' AND number = {number}"
        ));
        plan.run(format_args!(
            "DELETE FROM {DATABASE}.orders WHERE unit = '{unit}' AND number = {number}"
        ));
        for (version, op) in [(1, Op::Insert), (2, Op::Update), (2, Op::Delete)] {
            plan.changes.push(Change::new(Table::Orders, self.unit, number, version, op));
        }
    }

    /// A key that was deleted is inserted again.
    fn come_back(&mut self, plan: &mut Plan) {
        let Some(mut row) = self.rows[Table::Orders as usize].dead.pop() else {
            return self.insert(plan, Table::Orders);
        };
        row.version += 1;
        let values = self.values(Table::Orders, row.number, row.version, 0);
        plan.run(format_args!("INSERT INTO {DATABASE}.orders VALUES {values}"));
        plan.changes.push(Change::new(
            Table::Orders,
            self.unit,
            row.number,
            row.version,
            Op::Insert,
        ));
        self.rows[Table::Orders as usize].live.push(row);
    }

    /// Changes that nobody may ever see.
    fn roll_back(&mut self, plan: &mut Plan) {
        plan.run("BEGIN");
        self.in_vain(plan);
        plan.run("ROLLBACK");
    }

    fn save_points(&mut self, plan: &mut Plan) {
        self.insert(plan, Table::Orders);
        plan.run("SAVEPOINT one");
        self.in_vain(plan);
        plan.run("ROLLBACK TO one");
        self.update(plan, Table::Orders);
        plan.run("SAVEPOINT two");
        self.insert(plan, Table::Stock);
        plan.run("RELEASE SAVEPOINT two");
    }

    /// Statements without a trace in what the planner knows; their numbers are never used again.
    fn in_vain(&mut self, plan: &mut Plan) {
        let unit = char::from(self.unit);
        for table in [Table::Orders, Table::Items, Table::Kinds] {
            let number = self.fresh(table);
            let values = self.values(table, number, 1, 0);
            plan.run(format_args!("INSERT INTO {DATABASE}.{} VALUES {values}", name(table)));
        }
        if let Some(at) = self.pick(Table::Orders) {
            let number = self.rows[Table::Orders as usize].live[at].number;
            plan.run(format_args!(
                "UPDATE {DATABASE}.orders SET version = version + 1000 WHERE unit = '{unit}' AND number = {number}"
            ));
            plan.run(format_args!(
                "DELETE FROM {DATABASE}.orders WHERE unit = '{unit}' AND number = {number}"
            ));
        }
    }

    fn insert(&mut self, plan: &mut Plan, table: Table) {
        self.insert_several(plan, table, 1);
    }

    fn insert_several(&mut self, plan: &mut Plan, table: Table, count: u32) {
        let mut tuples = Vec::new();
        for _ in 0..count {
            let number = self.fresh(table);
            let place = match table {
                Table::Seats => {
                    let at = self.random.place(self.free_places.len());
                    self.free_places.swap_remove(at)
                }
                _ => 0,
            };
            tuples.push(self.values(table, number, 1, place));
            plan.changes.push(Change::new(table, self.unit, number, 1, Op::Insert));
            if table != Table::Bulk {
                self.rows[table as usize].live.push(Row { number, version: 1, place });
            }
        }
        plan.run(format_args!(
            "INSERT INTO {DATABASE}.{} VALUES {}",
            name(table),
            tuples.join(",")
        ));
        if table != Table::Bulk && self.rows[table as usize].live.len() > LIVE_MOST {
            self.delete(plan, table);
        }
    }

    fn update(&mut self, plan: &mut Plan, table: Table) {
        let Some(at) = self.pick(table) else {
            return self.insert(plan, table);
        };
        let row = &mut self.rows[table as usize].live[at];
        row.version += 1;
        let Row { number, version, .. } = *row;
        let unit = char::from(self.unit);
        let set = match table {
            Table::Orders => {
                format!("status = 'paid', total = total + {}.5", self.random.below(100))
            }
            Table::Stock => "amount = amount - 1".to_owned(),
            _ => {
                let kinds = Kinds::choose(&mut self.random);
                kinds.assignments()
            }
        };
        plan.run(format_args!(
            "UPDATE {DATABASE}.{} SET version = {version}, {set} WHERE unit = '{unit}' AND number = {number}{}",
            name(table),
            key_condition(table, number)
        ));
        plan.changes.push(Change::new(table, self.unit, number, version, Op::Update));
    }

    fn delete(&mut self, plan: &mut Plan, table: Table) {
        let Some(at) = self.pick(table) else {
            return self.insert(plan, table);
        };
        let row = self.rows[table as usize].live.swap_remove(at);
        let unit = char::from(self.unit);
        let Row { number, version, place } = row;
        plan.run(format_args!(
            "DELETE FROM {DATABASE}.{} WHERE unit = '{unit}' AND number = {number}{}",
            name(table),
            key_condition(table, number)
        ));
        plan.changes.push(Change::new(table, self.unit, number, version, Op::Delete));
        match table {
            Table::Seats => self.free_places.push(place),
            _ => self.rows[table as usize].dead.push(row),
        }
    }

    fn pick(&mut self, table: Table) -> Option<usize> {
        let length = self.rows[table as usize].live.len();
        (length > 0).then(|| self.random.place(length))
    }

    fn fresh(&mut self, table: Table) -> u32 {
        let rows = &mut self.rows[table as usize];
        rows.given += 1;
        self.base + rows.given
    }

    /// The row between parentheses.
    fn values(&mut self, table: Table, number: u32, version: u32, place: u32) -> String {
        let random = &mut self.random;
        let row = format!("'{}', {number}, {version}", char::from(self.unit));
        match table {
            Table::Pulse => format!("({row})"),
            Table::Orders => {
                let note = NOTES[random.place(NOTES.len())];
                format!(
                    "({row}, 'new', {}.{:04}, {note})",
                    random.below(1_000_000),
                    random.below(9999)
                )
            }
            Table::Items => {
                let (user, amount) = (random.below(99), random.below(20));
                format!("({row}, {user}, {amount}, {}.99)", random.below(500))
            }
            Table::Stock => {
                let (warehouse, sku) = stock_key(number);
                format!("('{warehouse}', {sku}, {row}, {})", random.below(1000))
            }
            Table::Seats => format!("({row}, {place}, 'seat {place}')"),
            Table::Accounts => format!("({row}, {BALANCE})"),
            Table::Kinds => format!("({row}, {})", Kinds::choose(random).values()),
            Table::Bulk => {
                format!(
                    "({row}, 'payload of row {number} {:016x}{:016x}')",
                    random.next(),
                    random.next()
                )
            }
        }
    }
}

fn name(table: Table) -> &'static str {
    crate::schema::layout(table).name
}

/// The columns before the unit in the primary key of `stock`.
fn stock_key(number: u32) -> (String, String) {
    (format!("haus {}", number % 5), format!("x'00{number:08x}00ff'"))
}

fn key_condition(table: Table, number: u32) -> String {
    match table {
        Table::Stock => {
            let (warehouse, sku) = stock_key(number);
            format!(" AND warehouse = '{warehouse}' AND sku = {sku}")
        }
        _ => String::new(),
    }
}

const NOTES: [&str; 6] =
    ["NULL", "''", "'Größe 🦀 ''quoted'' \\\\ \\n'", "'a\\tb'", "'### INSERT INTO x'", "'ß'"];

/// A value for each column of `kinds` behind the first three.
struct Kinds([&'static str; 22]);

/// The columns with values at their edges; equal text in both servers.
const KINDS: [(&str, &[&str]); 22] = [
    ("tiny", &["-128", "127", "NULL", "0"]),
    ("utiny", &["255", "0", "NULL"]),
    ("medium", &["-8388608", "8388607", "-1"]),
    ("big", &["-9223372036854775808", "9223372036854775807", "0"]),
    ("ubig", &["18446744073709551615", "9223372036854775808", "0"]),
    (
        "exact",
        &[
            "-12345678901234567890123456789012345.123456789012345678901234567890",
            "0.000000000000000000000000000001",
            "NULL",
        ],
    ),
    ("near", &["0.1", "-1.7976931348623157e308", "2.5e-300", "NULL"]),
    ("day", &["'1000-01-01'", "'9999-12-31'", "NULL"]),
    ("at", &["'2024-02-29 23:59:59.999999'", "'1000-01-01 00:00:00.000001'", "NULL"]),
    ("stamp", &["'1970-01-01 00:00:01.000'", "'2038-01-19 03:14:07.999'", "NULL"]),
    ("span", &["'-838:59:59.00'", "'838:59:58.99'", "'-00:00:00.01'", "NULL"]),
    ("year", &["0", "1901", "2155", "NULL"]),
    ("bits", &["b'10000000000000001'", "b'0'", "NULL"]),
    ("fixed", &["x'000000000000'", "x'0102'", "'a'", "NULL"]),
    ("loose", &["x'00ff00'", "''", "x'e28228'", "NULL"]),
    ("text", &["'ä 🦀 ''x'''", "''", "'trailing  '", "NULL"]),
    ("latin", &["'Straße €'", "'a'", "NULL"]),
    ("long_text", &["REPEAT('långt ', 400)", "''", "NULL"]),
    ("raw", &["x'00010203fffe'", "REPEAT(x'0aff', 300)", "NULL"]),
    ("one", &["'a'", "'b ü'", "NULL"]),
    ("many", &["'x,z'", "''", "NULL"]),
    ("document", &["'{\"a\": 1, \"b\": [1, 2, {\"c\": null}]}'", "'[]'", "'\"text\"'", "NULL"]),
];

impl Kinds {
    fn choose(random: &mut Random) -> Self {
        Self(KINDS.map(|(_, values)| values[random.place(values.len())]))
    }

    fn values(&self) -> String {
        self.0.join(", ")
    }

    fn assignments(&self) -> String {
        let pairs = KINDS.iter().zip(self.0);
        pairs
            .map(|((column, _), value)| format!("{column} = {value}"))
            .collect::<Vec<_>>()
            .join(", ")
    }
}
