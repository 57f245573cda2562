//! What the tests against real servers share.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

pub mod cases;
pub mod proxy;

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use unitflow_change::envelope::Op;
use unitflow_change::fault::Fault;
use unitflow_change::gtid::GtidSet;
use unitflow_change::position::Position;
use unitflow_local::{Flavor, Mysql};
use unitflow_mysql::{Event, Options, Server, Store, Stream, Tls, connect};

pub const FLAVORS: [Flavor; 2] = [Flavor::Mysql9, Flavor::Mariadb];

/// A server as capture wants it.
pub async fn start(flavor: Flavor) -> Mysql {
    Mysql::setup(flavor).setting("binlog_row_metadata", "FULL").start().await.unwrap()
}

pub fn store(server: &Mysql) -> Store {
    Store {
        name: "A.shop".into(),
        endpoints: vec![("127.0.0.1".into(), server.port())],
        user: "root".into(),
        password: None,
        tls: Tls::Off,
    }
}

pub async fn conn(server: &Mysql) -> Conn {
    connect(&store(server)).await.unwrap()
}

/// Runs statements one by one.
pub async fn run<'a>(conn: &mut Conn, statements: impl IntoIterator<Item = &'a str>) {
    for statement in statements {
        if let Err(error) = conn.query_drop(statement).await {
            panic!("{statement}: {error}");
        }
    }
}

pub async fn now(conn: &mut Conn) -> Position {
    Position::after(Server::read(conn).await.unwrap().executed)
}

pub fn options(server_id: u32) -> Options {
    let mut options = Options::new(server_id, "A.shop");
    options.heartbeat = Duration::from_millis(200);
    options
}

/// An event with all it borrows.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Row { table: String, op: Op, key: String, value: String, moves: bool },
    Ddl { database: String, statement: String },
    End(String),
}

/// Reads until all of this is captured; each event with the position behind it.
pub async fn read(stream: &mut Stream, until: &GtidSet) -> Result<Vec<(Seen, Position)>, Fault> {
    let mut all = Vec::new();
    read_into(&mut all, stream, until).await?;
    Ok(all)
}

/// As [`read`]; what came before a fault is kept.
pub async fn read_into(
    all: &mut Vec<(Seen, Position)>,
    stream: &mut Stream,
    until: &GtidSet,
) -> Result<(), Fault> {
    while !until.is_subset(&stream.position().done) {
        let seen = match stream.next().await? {
            Event::Row(row) => Seen::Row {
                table: format!("{}.{}", row.database, row.table),
                op: row.op,
                key: String::from_utf8(row.key.to_vec()).unwrap(),
                value: String::from_utf8(row.value.to_vec()).unwrap(),
                moves: row.moves,
            },
            Event::Ddl(ddl) => {
                Seen::Ddl { database: ddl.database.clone(), statement: ddl.ddl.clone() }
            }
            Event::End => Seen::End(stream.transaction().gtid_text.clone()),
            Event::Heartbeat => continue,
        };
        all.push((seen, stream.position().clone()));
    }
    Ok(())
}

/// All that the server has after a position.
pub async fn read_after(
    server: &Mysql,
    position: &Position,
) -> Result<Vec<(Seen, Position)>, Fault> {
    let until = Server::read(&mut conn(server).await).await?.executed;
    let mut stream = Stream::open(&store(server), position.clone(), options(4711)).await?;
    let all = read(&mut stream, &until).await?;
    stream.close().await;
    Ok(all)
}

pub fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
