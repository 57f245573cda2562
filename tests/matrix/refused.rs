//! Values that a target can't hold: captured by the stream from a real log, applied by a lane's
//! applier to a real table, and refused with the code that the list says, nothing being written.

use std::fmt::Write as _;

use anyhow::{Context, ensure};
use mysql_async::prelude::Queryable;
use unitflow_change::Fault;
use unitflow_change::name::Log;
use unitflow_change::position::Position;
use unitflow_change::seq::Seq;
use unitflow_change::tag::{Afters, Kind, Tag};
use unitflow_harness::Flavor::{self, Mariadb, Mysql9};
use unitflow_harness::load::connect;
use unitflow_harness::{Mysql, beside};
use unitflow_mysql::stream::{Event, Options, Stream};
use unitflow_mysql::{Server, Store, Tls};
use unitflow_sinks::batch::Batch;
use unitflow_sinks::mysql::apply::{Applier, End, Part};
use unitflow_sinks::{ledger, schema};

use crate::LIMIT;
use crate::cells::{CELLS, Cell, REFUSED, Refusal};

#[test]
fn what_a_target_can_not_hold_is_refused_with_a_code() {
    beside("refused values", LIMIT, every_refusal());
}

async fn every_refusal() -> anyhow::Result<()> {
    let (mysql, mariadb) = tokio::try_join!(prepared(Mysql9), prepared(Mariadb))?;
    let at = |flavor| if flavor == Mysql9 { &mysql } else { &mariadb };
    let mut wrong = String::new();
    for refusal in REFUSED {
        let (source, target) = (at(refusal.source), at(refusal.target));
        match attempt(refusal, source, target).await.with_context(|| refusal.name)? {
            Err(fault) if fault.code == refusal.code && !fault.hint.is_empty() => {}
            Err(fault) => {
                let _ = writeln!(
                    wrong,
                    "{}: {} with the remedy {:?}, and not {}: {fault}",
                    refusal.name, fault.code, fault.hint, refusal.code
                );
            }
            Ok(()) => {
                let held =
                    target.sql(&format!("SELECT HEX(v) FROM shop.to_{}", refusal.name)).await?;
                let _ = writeln!(wrong, "{}: it was written: {held}", refusal.name);
            }
        }
    }
    ensure!(wrong.is_empty(), "not refused as the list says:\n{wrong}");
    println!("  {} values refused", REFUSED.len());
    Ok(())
}

/// The rows of the README's table of what is refused, by how they begin, and the values that show
/// each; a path is another test that does.
const ROWS: &[(&str, &[&str])] = &[
    (
        "`VECTOR` into MariaDB 10.11; `UUID`",
        &["vector_to_text", "inet6_to_number", "inet6_to_inet4"],
    ),
    ("a JSON document with dates", &["json_date_to_mariadb", "json_bytes_to_mariadb"]),
    ("MySQL JSON with bytes", &["json_timestamp", "json_bits"]),
    ("JSON from MariaDB into MySQL", &["json_digits_to_mysql", "json_double_member_to_mysql"]),
    ("`-0.0`", &["negative_zero", "negative_zero_float"]),
    (
        "TIMESTAMP in MariaDB's first second",
        &["first_second", "point_off_the_globe", "unknown_reference_system"],
    ),
    ("text with bytes that are no character", &["no_character_in_gbk"]),
    ("an ENUM whose value is no member", &["no_member_in_key"]),
    (
        "any value that the target's column would",
        &[
            "text_to_uuid",
            "number_too_large",
            "number_below_zero",
            "decimal_scale",
            "double_to_float",
            "integer_to_double",
            "fraction_of_time",
            "fraction_of_moment",
            "moment_to_date",
            "moment_after_2038",
            "text_too_long",
            "spaces_cut",
            "spaces_cut_off_text",
            "space_to_char",
            "character_not_in_set",
            "bytes_filled_up",
            "bits_too_many",
            "member_missing",
            "xml_of_nobody",
        ],
    ),
    ("tables with system versioning", &["to_history", "from_history"]),
    ("TIME, DATETIME, TIMESTAMP columns", &["connectors/mysql/tests/packed.rs"]),
];

#[test]
fn the_readme_lists_what_is_refused_and_nothing_else() {
    const README: &str = include_str!("../../README.md");
    let table = README.lines().skip_while(|line| !line.starts_with("| refused |")).skip(2);
    let table = table.take_while(|line| line.starts_with("| "));
    let rows: Vec<&str> = table.map(|line| line.trim_start_matches("| ")).collect();
    assert_eq!(rows.len(), ROWS.len());
    for (row, (begins, _)) in rows.iter().zip(ROWS) {
        assert!(row.starts_with(begins), "{row:?} does not begin with {begins:?}");
    }
    let mut shown: Vec<&str> = ROWS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    shown.retain(|name| !name.contains('/'));
    let mut known: Vec<&str> = REFUSED.iter().map(|refusal| refusal.name).collect();
    shown.sort_unstable();
    known.sort_unstable();
    assert_eq!(shown, known);
}

/// The cells that do not go to every server, and the refusals of what they hold.
const NOT_EVERYWHERE: &[(&str, &[&str])] = &[
    ("float_zero", &["negative_zero_float"]),
    ("double_zero", &["negative_zero"]),
    ("json_types", &["json_date_to_mariadb", "json_bytes_to_mariadb"]),
];

#[test]
fn what_does_not_arrive_exactly_is_refused() {
    let not_everywhere = |cell: &&Cell| cell.mysql.is_empty() || cell.mariadb.is_empty();
    let cells: Vec<&str> = CELLS.iter().filter(not_everywhere).map(|cell| cell.name).collect();
    assert_eq!(cells, NOT_EVERYWHERE.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for name in NOT_EVERYWHERE.iter().flat_map(|(_, refusals)| *refusals) {
        assert!(REFUSED.iter().any(|refusal| refusal.name == *name), "{name} is no refusal");
    }
}

/// A server with a ledger, and with the tables of its refusals.
async fn prepared(flavor: Flavor) -> anyhow::Result<Mysql> {
    let server = Mysql::setup(flavor).start().await?;
    let mut statements = String::from("CREATE DATABASE shop CHARACTER SET utf8mb4;");
    for (_, statement) in schema::OBJECTS {
        let _ = write!(statements, "{statement};");
    }
    for Refusal { name, source, kind, target, target_kind, in_key, .. } in REFUSED {
        let tables = [("from", source, kind), ("to", target, target_kind)];
        for (place, _, kind) in tables.into_iter().filter(|(_, at, _)| **at == flavor) {
            // A type may bring the end of the table's definition with it.
            let end = if kind.ends_with('(') { "" } else { ")" };
            let kind = kind.trim_end_matches('(');
            let key = if *in_key { "id, v" } else { "id" };
            let _ = write!(
                statements,
                "CREATE TABLE shop.{place}_{name} (id INT, PRIMARY KEY ({key}), v {kind}{end};"
            );
        }
    }
    server.sql(&statements).await?;
    Ok(server)
}

/// Writes the value at the source and carries it to the target; the fault is what stopped it.
async fn attempt(
    refusal: &Refusal,
    source: &Mysql,
    target: &Mysql,
) -> anyhow::Result<Result<(), Fault>> {
    let Refusal { name, value, .. } = refusal;
    let mut conn = connect(source).await?;
    let position = Position::after(Server::read(&mut conn).await?.executed);
    conn.query_drop("SET SESSION sql_mode=''").await?;
    conn.query_drop(format!("INSERT INTO shop.from_{name} VALUES (1, {value})")).await?;
    let mut stream = Stream::open(&store(source), position, Options::new(4711, "A.shop")).await?;
    let record = loop {
        match stream.next().await {
            Ok(Event::Row(row)) => break Ok((row.key.to_vec(), row.value.to_vec())),
            Ok(_) => {}
            Err(fault) => break Err(fault),
        }
    };
    stream.close().await;
    let (key, value) = match record {
        Ok(record) => record,
        Err(fault) => return Ok(Err(fault)),
    };
    // The table has another name at the target.
    let key = String::from_utf8(key)?.replace("\"from_", "\"to_");
    apply(name, target, key.as_bytes(), &value).await
}

/// One record through a lane of its own.
async fn apply(
    name: &str,
    target: &Mysql,
    key: &[u8],
    value: &[u8],
) -> anyhow::Result<Result<(), Fault>> {
    let log = Log { unit: name.replace('_', "-").parse()?, store: "shop".parse()? };
    ledger::create(&mut connect(target).await?, &log, 0, Seq(2), "topic").await?;
    let tag = Tag {
        kind: Kind::Row,
        seq: Seq(4),
        prev: Seq(2),
        transaction: "",
        index: 0,
        last: true,
        commit_us: 0,
        after: Afters::default(),
        to: "",
    };
    let mut batch = Batch::default();
    batch.push(0, &tag, key, value);
    let mut applier =
        Applier::open(&store(target), unitflow_change::rename::Rename::default(), log, 0).await?;
    let (from, to) = (
        End { seq: Seq(2), offset: 0, commit_us: 0 },
        End { seq: Seq(4), offset: 1, commit_us: 0 },
    );
    let applied = applier.apply(&batch, Part::Whole, from, to).await;
    let stands = applier.entry().await?.seq;
    ensure!(
        stands == if applied.is_ok() { Seq(4) } else { Seq(2) },
        "the ledger stands at {stands}"
    );
    Ok(applied)
}

fn store(server: &Mysql) -> Store {
    Store {
        name: "A.shop".into(),
        endpoints: vec![("127.0.0.1".into(), server.port())],
        user: "root".into(),
        password: None,
        tls: Tls::Off,
    }
}
