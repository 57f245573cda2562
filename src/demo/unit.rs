//! A unit: its MySQL, its Redis, its Kafka, and the shop in it.

use std::fmt;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
use unitflow_change::Fault;
use unitflow_local::{Flavor, Kafka, Mysql, RedisFlavor};
use unitflow_mysql::connect;

use crate::demo::cache::Cache;
use crate::demo::local;

/// One of the shop's tables.
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its primary key. The unit comes first, so that no two units ever write the same key.
    pub key: &'static str,
    /// Its columns in order.
    columns: &'static [&'static str],
    /// Those of them that hold JSON.
    json: &'static [&'static str],
}

/// The shop's tables.
pub const TABLES: [Table; 3] = [
    Table {
        name: "customers",
        key: "unit, id",
        columns: &["unit", "id", "name", "email", "points", "settings", "written_at"],
        json: &["settings"],
    },
    Table {
        name: "orders",
        key: "unit, id",
        columns: &["unit", "id", "customer_id", "state", "total", "note", "written_at"],
        json: &[],
    },
    Table {
        name: "items",
        key: "unit, order_id, line",
        columns: &[
            "unit",
            "order_id",
            "line",
            "product",
            "quantity",
            "price",
            "attributes",
            "written_at",
        ],
        json: &["attributes"],
    },
];

impl Table {
    /// All rows in the order of the key, as text that has to be the same from both servers. MySQL keeps JSON in a form
    /// of its own and prints it with spaces between its parts; MariaDB keeps the text as it was written, so it is asked
    /// for the same spaces.
    pub fn select(&self, flavor: Flavor) -> String {
        let column = |name: &&str| match flavor {
            Flavor::Mariadb if self.json.contains(name) => format!("JSON_LOOSE({name})"),
            _ => (*name).to_owned(),
        };
        let columns: Vec<String> = self.columns.iter().map(column).collect();
        format!("SELECT {} FROM shop.{} ORDER BY {}", columns.join(", "), self.name, self.key)
    }
}

/// The same statements for both servers. `written_at` is the writing unit's clock.
const SHOP: &str = "
CREATE DATABASE shop CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
CREATE TABLE shop.customers (
  unit VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  name VARCHAR(80) NOT NULL,
  email VARCHAR(120) NULL,
  points INT NOT NULL DEFAULT 0,
  settings JSON NOT NULL,
  written_at DATETIME(6) NOT NULL,
  PRIMARY KEY (unit, id), KEY (id)
) ENGINE=InnoDB;
CREATE TABLE shop.orders (
  unit VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  customer_id BIGINT UNSIGNED NOT NULL,
  state ENUM('new','paid','sent') NOT NULL DEFAULT 'new',
  total DECIMAL(12,2) NOT NULL,
  note TEXT NULL,
  written_at DATETIME(6) NOT NULL,
  PRIMARY KEY (unit, id), KEY (id), KEY (unit, written_at)
) ENGINE=InnoDB;
CREATE TABLE shop.items (
  unit VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  order_id BIGINT UNSIGNED NOT NULL,
  line SMALLINT UNSIGNED NOT NULL,
  product VARCHAR(80) NOT NULL,
  quantity SMALLINT UNSIGNED NOT NULL,
  price DECIMAL(10,2) NOT NULL,
  attributes JSON NULL,
  written_at DATETIME(6) NOT NULL,
  PRIMARY KEY (unit, order_id, line)
) ENGINE=InnoDB;";

/// One data centre.
#[derive(Debug)]
pub struct Unit {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Its database.
    pub server: Mysql,
    /// Its cache.
    pub cache: Cache,
    /// Its road to the others.
    pub kafka: Kafka,
    /// What the server calls itself: `MySQL 9.7.0`.
    pub version: String,
}

/// Both units with the empty shop in each. Six servers come up at once.
pub async fn start_both() -> Result<[Unit; 2], Fault> {
    // Keys that the servers generate step by two, from one and from two.
    let first = Mysql::setup(Flavor::Mysql9).auto_increment(2, 1);
    let second = Mysql::setup(Flavor::Mariadb).auto_increment(2, 2);
    let servers = async {
        tokio::try_join!(
            first.start(),
            second.start(),
            Kafka::setup().start(),
            Kafka::setup().start()
        )
        .map_err(local)
    };
    let ((first, second, kafka, other_kafka), cache, other_cache) = tokio::try_join!(
        servers,
        Cache::start(RedisFlavor::Redis7),
        Cache::start(RedisFlavor::Valkey)
    )?;
    tokio::try_join!(
        Unit::new("A", first, cache, kafka),
        Unit::new("B", second, other_cache, other_kafka)
    )
    .map(Into::into)
}

impl Unit {
    async fn new(
        name: &'static str,
        server: Mysql,
        cache: Cache,
        kafka: Kafka,
    ) -> Result<Self, Fault> {
        server.sql(SHOP).await.map_err(local)?;
        let version = server.sql("SELECT VERSION()").await.map_err(local)?;
        let number = version.split('-').next().unwrap_or_default();
        let product = match server.flavor() {
            Flavor::Mysql9 => "MySQL",
            Flavor::Mariadb => "MariaDB",
        };
        Ok(Self { name, version: format!("{product} {number}"), server, cache, kafka })
    }

    /// A connection as the shop's application has it.
    pub async fn connect(&self) -> Result<Conn, Fault> {
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.server.port())
            .user(Some("root"))
            .db_name(Some("shop"));
        Conn::new(options).await.map_err(|error| fault(&error, self.title()))
    }

    /// How many rows of a unit are here.
    pub async fn rows_of(&self, unit: &str) -> Result<u64, Fault> {
        let mut conn = self.connect().await?;
        let rows = conn.exec_first(Self::count_rows(), (unit, unit, unit)).await;
        Ok(rows.map_err(|error| fault(&error, self.title()))?.unwrap_or_default())
    }

    /// Whether a heartbeat of another unit has come here.
    pub async fn has_heartbeat_of(&self, unit: &str) -> Result<bool, Fault> {
        let mut conn = self.connect().await?;
        let beat =
            conn.exec_first("SELECT beat FROM unitflow.heartbeat WHERE unit = ?", (unit,)).await;
        Ok(beat.map_err(|error| fault(&error, self.title()))?.is_some_and(|beat: u64| beat > 0))
    }

    /// Counts the rows of a unit, named once for each table.
    pub fn count_rows() -> String {
        let count = TABLES
            .map(|table| format!("(SELECT COUNT(*) FROM shop.{} WHERE unit = ?)", table.name));
        format!("SELECT {}", count.join(" + "))
    }

    /// For people.
    pub fn title(&self) -> String {
        format!("{} of unit {}", self.version, self.name)
    }
}

/// What a server said, and which one it was.
pub fn fault(error: &mysql_async::Error, server: impl fmt::Display) -> Fault {
    connect::fault(error).at(server)
}
