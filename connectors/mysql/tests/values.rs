//! Every type's edge values, captured and compared with what the server's own SELECT prints.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mysql_async::prelude::Queryable;
use mysql_async::{Row, Value};
use serde_json::Value as Json;
use support::cases::{As, cases, create, inserts};
use support::{Seen, conn, json, now, read_after, run, start};
use unitflow_change::envelope::Op;
use unitflow_local::Flavor;

/// What the server is asked for, so that its answer says everything about the value.
fn selected(flavor: Flavor, how: As, column: &str) -> String {
    match how {
        // As stored: longitude first, whatever the reference system says.
        As::Geometry if flavor == Flavor::Mysql9 => {
            format!(
                "concat(hex(st_aswkb({column}, 'axis-order=long-lat')), ' ', st_srid({column}))"
            )
        }
        As::Float => format!("cast({column} as double)"),
        As::Bits | As::Bool => format!("cast({column} as unsigned)"),
        As::Geometry => format!("concat(hex(st_aswkb({column})), ' ', st_srid({column}))"),
        As::Vector => format!("vector_to_string({column})"),
        _ => column.into(),
    }
}

/// A document without the marks of SQL types: the first character of a string, escaped without need.
fn unmarked(document: &str) -> String {
    let mut parts = document.split("\"\\u00");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let byte = u8::from_str_radix(&part[..2], 16).unwrap();
        match byte {
            b'0'..=b'9' | b'-' | b'b' => {
                text.push_str(&format!("\"{}{}", byte as char, &part[2..]))
            }
            _ => text.push_str(&format!("\"\\u00{part}")),
        }
    }
    text
}

fn same(how: As, bits: usize, envelope: &Json, server: &Value) -> bool {
    let Value::Bytes(server) = server else {
        return *server == Value::NULL && envelope.is_null();
    };
    let text = String::from_utf8_lossy(server).into_owned();
    let string = || envelope.as_str().unwrap_or("not a string");
    match how {
        As::Number => {
            let number = envelope.to_string();
            number == text || (number == "0" && text == "0000")
        }
        As::Float => f64::from(envelope.as_f64().unwrap() as f32) == text.parse::<f64>().unwrap(),
        As::Double => envelope.as_f64().unwrap() == text.parse::<f64>().unwrap(),
        As::Text => string() == text,
        As::Document => unmarked(string()) == text,
        As::Date | As::Time => string() == format!("{text}Z"),
        As::Moment => string() == format!("{}Z", text.replace(' ', "T")),
        As::Bytes => STANDARD.decode(string()).unwrap() == *server,
        As::Bool => envelope.as_bool().unwrap() == (text == "1"),
        As::Bits => {
            let mut wide = STANDARD.decode(string()).unwrap();
            assert_eq!(wide.len(), bits.div_ceil(8));
            wide.resize(8, 0);
            u64::from_le_bytes(wide.try_into().unwrap()).to_string() == text
        }
        As::Geometry => {
            let wkb: String = STANDARD
                .decode(envelope["wkb"].as_str().unwrap())
                .unwrap()
                .iter()
                .map(|byte| format!("{byte:02X}"))
                .collect();
            format!("{wkb} {}", envelope["srid"].as_u64().unwrap_or(0)) == text
        }
        As::Vector => {
            let numbers: Vec<f32> =
                text.trim_matches(['[', ']']).split(',').map(|n| n.parse().unwrap()).collect();
            let ours: Vec<f32> =
                envelope.as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as f32).collect();
            numbers.iter().zip(&ours).all(|(a, b)| (a - b).abs() <= a.abs() * 1e-4)
                && numbers.len() == ours.len()
        }
    }
}

async fn compare(flavor: Flavor) {
    let server = start(flavor).await;
    let mut conn = conn(&server).await;
    let cases = cases(flavor);
    let create = create("t", &cases);
    run(&mut conn, ["create database shop character set utf8mb4", create.as_str()]).await;
    let start = now(&mut conn).await;
    let statements = inserts("t", &cases);
    run(&mut conn, statements.iter().map(String::as_str)).await;
    let select: Vec<_> = cases
        .iter()
        .enumerate()
        .map(|(i, case)| selected(flavor, case.1, &format!("`v{i}`")))
        .collect();
    let select = format!("select {} from shop.t order by id", select.join(", "));
    let server_rows: Vec<Row> = conn.query(select).await.unwrap();
    run(&mut conn, ["update shop.t set id = id + 1000", "delete from shop.t"]).await;

    let seen = read_after(&server, &start).await.unwrap();
    let rows_of = |wanted: Op| {
        seen.iter().filter_map(move |(seen, _)| match seen {
            Seen::Row { op, key, value, moves, .. } if *op == wanted => {
                Some((key.clone(), json(value), *moves))
            }
            _ => None,
        })
    };
    let inserted: Vec<_> = rows_of(Op::Insert).collect();
    assert_eq!(inserted.len(), statements.len());
    let mut wrong = Vec::new();
    for (row, ((key, value, _), printed)) in inserted.iter().zip(&server_rows).enumerate() {
        assert_eq!(key, &format!(r#"["shop","t",{{"part":"p\"{row:02}","id":{row}}}]"#));
        assert_eq!(value["before"], Json::Null);
        for (i, case) in cases.iter().enumerate() {
            let bits = case.0.trim_start_matches("bit(").trim_end_matches(')').parse().unwrap_or(0);
            let (ours, theirs) = (&value["after"][format!("v{i}")], printed.as_ref(i).unwrap());
            if !same(case.1, bits, ours, theirs) {
                wrong.push(format!("{}: {ours:.200?} is not {theirs:.200?}", case.0));
            }
        }
    }
    assert!(wrong.is_empty(), "{flavor:?}\n{}", wrong.join("\n"));
    let updates: Vec<_> = rows_of(Op::Update).collect();
    assert_eq!(updates.len(), statements.len());
    for ((key, value, _), (update_key, update, moves)) in inserted.iter().zip(&updates) {
        assert!(moves);
        assert_eq!(key, update_key);
        assert_eq!(value["after"], update["before"]);
        let mut after = update["after"].clone();
        after["id"] = (after["id"].as_i64().unwrap() - 1000).into();
        assert_eq!(value["after"], after);
    }
    for ((_, update, _), (_, delete, _)) in updates.iter().zip(rows_of(Op::Delete)) {
        assert_eq!(update["after"], delete["before"]);
        assert_eq!(delete["after"], Json::Null);
        assert_eq!(delete["op"], "d");
        assert_eq!(delete["source"]["db"], "shop");
    }
}

#[tokio::test]
async fn values_of_mysql() {
    compare(Flavor::Mysql9).await;
}

#[tokio::test]
async fn values_of_mariadb() {
    compare(Flavor::Mariadb).await;
}
