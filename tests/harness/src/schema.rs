//! The tables of the shop, and where a row says whose it is.
//!
//! Every row carries (unit, number, version), with the unit in its primary key: each unit writes
//! rows of its own only, so nothing ever conflicts.

/// The schema's name.
pub const DATABASE: &str = "shop";

/// A table, as its place in [`TABLES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// One hot row a writer; every transaction raises its version.
    Pulse,
    /// The plain one.
    Orders,
    /// Several rows a statement; spread by the column `user_id`.
    Items,
    /// A key of three columns, text among them.
    Stock,
    /// The primary key changes.
    Seats,
    /// Money that only moves: each unit's total is constant.
    Accounts,
    /// Every kind of column, at its edges.
    Kinds,
    /// Large transactions.
    Bulk,
}

/// Where a table's rows carry what the judge looks for: columns counted from 1, as in the log.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The table's name.
    pub name: &'static str,
    /// The column of the unit; number and version are the two behind it.
    pub unit_at: usize,
    /// What stands between the parentheses of CREATE TABLE.
    columns: &'static str,
    /// The primary key's columns.
    pub key: &'static str,
}

impl Layout {
    /// The column of the row's number.
    #[must_use]
    pub const fn number_at(&self) -> usize {
        self.unit_at + 1
    }

    /// The column of the row's version.
    #[must_use]
    pub const fn version_at(&self) -> usize {
        self.unit_at + 2
    }
}

const ROW: &str = "unit VARCHAR(8) CHARACTER SET ascii NOT NULL, number INT UNSIGNED NOT NULL, version INT UNSIGNED NOT NULL";

/// All tables, by their place.
pub const TABLES: &[Layout] = &[
    Layout { name: "pulse", unit_at: 1, columns: "", key: "unit, number" },
    Layout {
        name: "orders",
        unit_at: 1,
        columns: "status VARCHAR(20) NOT NULL, total DECIMAL(20,4) NOT NULL, note TEXT, KEY (status)",
        key: "unit, number",
    },
    Layout {
        name: "items",
        unit_at: 1,
        columns: "user_id INT NOT NULL, amount INT NOT NULL, price DECIMAL(10,2), KEY (user_id)",
        key: "unit, number",
    },
    Layout {
        name: "stock",
        unit_at: 3,
        columns: "amount BIGINT NOT NULL",
        key: "warehouse, sku, unit",
    },
    Layout {
        name: "seats",
        unit_at: 1,
        columns: "place INT NOT NULL, label VARCHAR(40) NOT NULL, UNIQUE KEY (unit, number)",
        key: "unit, place",
    },
    Layout {
        name: "accounts",
        unit_at: 1,
        columns: "balance BIGINT NOT NULL",
        key: "unit, number",
    },
    Layout {
        name: "kinds",
        unit_at: 1,
        columns: "tiny TINYINT, utiny TINYINT UNSIGNED, medium MEDIUMINT, big BIGINT, ubig BIGINT UNSIGNED, \
                  exact DECIMAL(65,30), near DOUBLE, day DATE, at DATETIME(6), stamp TIMESTAMP(3) NULL, \
                  span TIME(2), year YEAR, bits BIT(17), fixed BINARY(6), loose VARBINARY(40), \
                  text VARCHAR(60), latin VARCHAR(40) CHARACTER SET latin1, long_text MEDIUMTEXT, raw BLOB, \
                  one ENUM('a','b ü','c'), many SET('x','y','z'), document JSON",
        key: "unit, number",
    },
    Layout {
        name: "bulk",
        unit_at: 1,
        columns: "payload VARCHAR(120) NOT NULL",
        key: "unit, number",
    },
];

/// A table's layout.
#[must_use]
pub fn layout(table: Table) -> &'static Layout {
    &TABLES[table as usize]
}

/// The table of this name.
#[must_use]
pub fn place_of(name: &str) -> Option<u8> {
    TABLES.iter().position(|table| table.name == name).and_then(|place| u8::try_from(place).ok())
}

/// The statements that create the schema with all its tables, empty.
#[must_use]
pub fn create() -> String {
    let mut statements = format!("CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4;\n");
    for table in TABLES {
        let before = match table.name {
            "stock" => "warehouse VARCHAR(12) NOT NULL, sku VARBINARY(16) NOT NULL, ",
            _ => "",
        };
        let comma = if table.columns.is_empty() { "" } else { ", " };
        statements += &format!(
            "CREATE TABLE {DATABASE}.{} ({before}{ROW}{comma}{}, PRIMARY KEY ({})) ENGINE=InnoDB;\n",
            table.name, table.columns, table.key
        );
    }
    statements
}
