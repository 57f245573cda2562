//! Every type's edge values, captured and compared with what the server's own SELECT prints.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mysql_async::prelude::Queryable;
use mysql_async::{Row, Value};
use serde_json::Value as Json;
use support::{Seen, conn, json, now, read_after, run, start};
use unitflow_change::envelope::Op;
use unitflow_local::Flavor;

/// How the envelope's value is compared with the server's text.
#[derive(Clone, Copy, Debug)]
enum As {
    Number,
    Float,
    Double,
    Text,
    Date,
    Time,
    Moment,
    Bytes,
    Bits,
    Bool,
    Geometry,
    Vector,
}

struct Case(&'static str, As, &'static [&'static str]);

const BOTH: &[Case] = &[
    Case("tinyint", As::Number, &["-128", "127", "0", "-1"]),
    Case("year", As::Number, &["0", "1901", "2155", "2026"]),
    Case("tinyint unsigned", As::Number, &["0", "255", "128"]),
    Case("smallint", As::Number, &["-32768", "32767", "-1"]),
    Case("smallint unsigned", As::Number, &["65535", "0"]),
    Case("mediumint", As::Number, &["-8388608", "8388607", "-1", "0"]),
    Case("mediumint unsigned", As::Number, &["16777215", "8388608"]),
    Case("int", As::Number, &["-2147483648", "2147483647"]),
    Case("int unsigned", As::Number, &["4294967295"]),
    Case("bigint", As::Number, &["-9223372036854775808", "9223372036854775807"]),
    Case("bigint unsigned", As::Number, &["18446744073709551615", "9223372036854775808"]),
    Case("float", As::Float, &["0", "-0.1", "3.4028234e38", "1.1754944e-38", "1e-45", "16777217", "0.3"]),
    Case("float unsigned", As::Float, &["1.5"]),
    Case("double", As::Double, &["0", "-0.1", "1.7976931348623157e308", "5e-324", "1e22", "123456789.125"]),
    Case("decimal(65,30)", As::Text, &[
        "99999999999999999999999999999999999.999999999999999999999999999999",
        "-99999999999999999999999999999999999.999999999999999999999999999999", "0", "-0.000000000000000000000000000001", "123456789.5",
    ]),
    Case("decimal(65,0)", As::Text, &["99999999999999999999999999999999999999999999999999999999999999999", "-1", "0"]),
    Case("decimal(30,30)", As::Text, &["0.123456789012345678901234567890", "-0.5", "0"]),
    Case("decimal(10,2)", As::Text, &["-0.01", "12345678.90", "0.10", "-12345678.99", "1000000000/100"]),
    Case("decimal(9,9)", As::Text, &["0.000000001", "-0.999999999"]),
    Case("decimal(18,9) unsigned", As::Text, &["1.000000001", "999999999.999999999", "100000000"]),
    Case("bit(1)", As::Bool, &["0", "1"]),
    Case("bit(7)", As::Bits, &["b'1010101'", "0"]),
    Case("bit(17)", As::Bits, &["b'10000000100000001'", "1"]),
    Case("bit(64)", As::Bits, &["18446744073709551615", "1", "0x0102030405060708"]),
    Case("date", As::Date, &["'0000-00-00'", "'2024-02-29'", "'9999-12-31'", "'2024-00-00'", "'0000-01-01'", "'2023-02-31'"]),
    Case("time", As::Time, &["'-838:59:59'", "'838:59:59'", "'00:00:00'", "'-00:00:01'"]),
    Case("time(1)", As::Time, &["'-00:00:00.1'", "'12:34:56.9'", "'-12:00:00.0'"]),
    Case("time(2)", As::Time, &["'-00:00:00.01'", "'-00:00:01.99'", "'-01:00:00'"]),
    Case("time(3)", As::Time, &["'-00:00:00.001'", "'99:59:59.999'", "'100:00:00'"]),
    Case("time(6)", As::Time, &["'-838:59:58.999999'", "'838:59:58.999999'", "'-00:00:00.000001'", "'00:00:00.1'"]),
    Case("datetime", As::Moment, &["'0000-00-00 00:00:00'", "'9999-12-31 23:59:59'", "'2024-02-29 12:00:00'", "'2024-00-00 00:00:01'"]),
    Case("datetime(1)", As::Moment, &["'2026-01-02 03:04:05.9'"]),
    Case("datetime(4)", As::Moment, &["'2026-01-02 03:04:05.0009'"]),
    Case("datetime(6)", As::Moment, &["'2026-01-02 03:04:05.123456'", "'0000-00-00 00:00:00'", "'0001-01-01 00:00:00.000001'"]),
    Case("timestamp null", As::Moment, &["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'", "'0000-00-00 00:00:00'", "'2024-02-29 23:59:59'"]),
    Case("timestamp(3) null", As::Moment, &["'2026-03-01 00:00:00.001'", "'0000-00-00 00:00:00'"]),
    Case("timestamp(6) null", As::Moment, &["'2038-01-19 03:14:07.999999'", "'1970-01-01 00:00:01.000001'"]),
    Case("char(10) character set utf8mb4", As::Text, &["''", "'a\\'b\\\"c\\\\'", "'日本語😀'", "'x\\n\\t\\r\\0\\Z'"]),
    Case("char(255) character set utf8mb4", As::Text, &["repeat('😀',255)", "'a'"]),
    Case("varchar(10) character set latin1", As::Text, &["'é€ÿ'", "_latin1 X'818D8F909D'", "'abc  '"]),
    Case("varchar(300) character set utf8mb3", As::Text, &["repeat('é',300)", "''"]),
    Case("varchar(20) character set ascii", As::Text, &["'~ !'"]),
    Case("tinytext character set utf8mb4", As::Text, &["'t'", "repeat('é', 127)"]),
    Case("text character set latin1", As::Text, &["repeat('é', 65535)"]),
    Case("mediumtext character set utf8mb4", As::Text, &["repeat('x', 70000)", "'\\u0001\\b\\f'"]),
    Case("longtext character set utf8mb4", As::Text, &["concat('😀', char(1), char(31), char(127))"]),
    Case("binary(16)", As::Bytes, &["X'00'", "X'0102'", "X'00000000000000000000000000000001'", "repeat(X'FF',16)"]),
    Case("binary(255)", As::Bytes, &["X'FF00'", "''"]),
    Case("varbinary(300)", As::Bytes, &["X'00'", "repeat(X'00FF',150)", "''"]),
    Case("tinyblob", As::Bytes, &["X'00'"]),
    Case("blob", As::Bytes, &["repeat(X'FE', 65535)", "''"]),
    Case("mediumblob", As::Bytes, &["repeat('ab', 40000)"]),
    Case("longblob", As::Bytes, &["X'FF'"]),
    Case("enum('a','b''c','é\"','')", As::Text, &["'a'", "2", "'é\"'", "4"]),
    Case("enum('x','ÿ') character set latin1", As::Text, &["'ÿ'", "1"]),
    Case("set('a','b','c\\\\','é')", As::Text, &["''", "'a,b,c\\\\,é'", "'b,é'"]),
    Case("set('m1','m2','m3','m4','m5','m6','m7','m8','m9','m10','m11','m12','m13','m14','m15','m16','m17','m18','m19','m20','m21','m22','m23','m24','m25','m26','m27','m28','m29','m30','m31','m32','m33','m34','m35','m36','m37','m38','m39','m40','m41','m42','m43','m44','m45','m46','m47','m48','m49','m50','m51','m52','m53','m54','m55','m56','m57','m58','m59','m60','m61','m62','m63','m64')", As::Text, &["'m1,m64'", "18446744073709551615", "'m33'"]),
    Case("point", As::Geometry, &["st_geomfromtext('POINT(1.5 -2)')"]),
    Case("geometry", As::Geometry, &["st_geomfromtext('LINESTRING(0 0,1 1)')", "st_geomfromtext('GEOMETRYCOLLECTION EMPTY')"]),
];

const MYSQL: &[Case] = &[
    Case("json", As::Text, &[
        "'{}'", "'[]'", "'null'", "'true'", "'\"s\"'", "'1'", "'-1'", "'18446744073709551615'", "'-9223372036854775808'",
        "'1.0'", "'1e100'", "'0.1'", "'-0.0'", "'1e15'", "'123456789012345678'", "'1e-7'", "'3.5e-20'", "'1234567890123456.5'",
        "'{\"b\": 1, \"a\": [1, 2, {\"é😀\": \"\\\\u0001\\\\n\\\\\"\"}], \"\": null}'",
        "cast(cast(1.10 as decimal(20,5)) as json)", "json_array(cast('2026-01-02' as date), cast('-12:34:56.7' as time(1)), cast('2026-01-02 03:04:05.678' as datetime(3)))",
        "json_object('blob', cast(X'00FF' as binary), 'd', cast(-99999999999999999999.000000001 as decimal(40,9)), 'y', cast(0 as unsigned))",
        "json_array(65535, 65536, -32769, 32768, 4294967295, 4294967296, -2147483649)",
        "concat('[', repeat('\"0123456789\",', 7000), '1]')",
        "concat('{', repeat('', 1), '\"k\": \"', repeat('v', 70000), '\"}')",
    ]),
    Case("geometry srid 4326", As::Geometry, &["st_geomfromtext('POINT(10 20)', 4326)"]),
    Case("vector(4)", As::Vector, &["to_vector('[1,-2.5,0.1,3e38]')"]),
    Case("vector", As::Vector, &["to_vector('[0]')"]),
];

const MARIADB: &[Case] = &[
    Case("json", As::Text, &["'{\"a\":  1}'", "'[1,2]'"]),
    Case("uuid", As::Text, &[
        "'123e4567-e89b-12d3-a456-426614174000'", "'123e4567-e89b-72d3-a456-426614174000'", "'00000000-0000-0000-0000-000000000000'",
        "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "'01020304-0506-1708-890a-0b0c0d0e0f00'", "'123e4567-e89b-42d3-a456-420000000000'",
    ]),
    Case("inet6", As::Text, &["'::'", "'2001:db8::ff00:42:8329'", "'::ffff:192.0.2.128'", "'ff00::'"]),
    Case("inet4", As::Text, &["'0.0.0.0'", "'255.255.255.255'", "'10.0.0.0'"]),
];

fn cases(flavor: Flavor) -> Vec<&'static Case> {
    let own = if flavor == Flavor::Mysql9 { MYSQL } else { MARIADB };
    BOTH.iter().chain(own).collect()
}

/// What the server is asked for, so that its answer says everything about the value.
fn selected(flavor: Flavor, how: As, column: &str) -> String {
    match how {
        // As stored: longitude first, whatever the reference system says.
        As::Geometry if flavor == Flavor::Mysql9 => {
            format!("concat(hex(st_aswkb({column}, 'axis-order=long-lat')), ' ', st_srid({column}))")
        }
        As::Float => format!("cast({column} as double)"),
        As::Bits | As::Bool => format!("cast({column} as unsigned)"),
        As::Geometry => format!("concat(hex(st_aswkb({column})), ' ', st_srid({column}))"),
        As::Vector => format!("vector_to_string({column})"),
        _ => column.into(),
    }
}

fn same(how: As, bits: usize, envelope: &Json, server: &Value) -> bool {
    let Value::Bytes(server) = server else {
        return *server == Value::NULL && envelope.is_null();
    };
    let text = String::from_utf8_lossy(server).into_owned();
    let string = || envelope.as_str().unwrap_or("not a string");
    match how {
        As::Number => envelope.to_string() == text || (text == "0000" && *envelope == 0),
        As::Float => f64::from(envelope.as_f64().unwrap() as f32) == text.parse::<f64>().unwrap(),
        As::Double => envelope.as_f64().unwrap() == text.parse::<f64>().unwrap(),
        As::Text => string() == text,
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
            let numbers: Vec<f32> = text.trim_matches(['[', ']']).split(',').map(|n| n.parse().unwrap()).collect();
            let ours: Vec<f32> = envelope.as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as f32).collect();
            numbers.iter().zip(&ours).all(|(a, b)| (a - b).abs() <= a.abs() * 1e-4) && numbers.len() == ours.len()
        }
    }
}

async fn compare(flavor: Flavor) {
    let server = start(flavor).await;
    let mut conn = conn(&server).await;
    let cases = cases(flavor);
    let columns: Vec<String> =
        cases.iter().enumerate().map(|(i, case)| format!("`v{i}` {}", case.0)).collect();
    // The first column is not the key, and the key's order is not the table's.
    let create = format!(
        "create table shop.t ({}, id int not null, part varchar(8) not null, primary key (part, id)) character set utf8mb4",
        columns.join(", ")
    );
    run(&mut conn, ["create database shop character set utf8mb4", create.as_str()]).await;
    let start = now(&mut conn).await;
    let rows = cases.iter().map(|case| case.2.len()).max().unwrap();
    for row in 0..=rows {
        let values: Vec<_> = cases
            .iter()
            .map(|case| if row == rows { "null" } else { case.2[row % case.2.len()] })
            .collect();
        let insert = format!("insert into shop.t values ({}, {row}, 'p\"{row:02}')", values.join(", "));
        run(&mut conn, [insert.as_str()]).await;
    }
    let select: Vec<_> = cases.iter().enumerate().map(|(i, case)| selected(flavor, case.1, &format!("`v{i}`"))).collect();
    let select = format!("select {} from shop.t order by id", select.join(", "));
    let server_rows: Vec<Row> = conn.query(select).await.unwrap();
    run(&mut conn, ["update shop.t set id = id + 1000", "delete from shop.t"]).await;

    let seen = read_after(&server, &start).await.unwrap();
    let rows_of = |wanted: Op| {
        seen.iter().filter_map(move |(seen, _)| match seen {
            Seen::Row { op, key, value, moves, .. } if *op == wanted => Some((key.clone(), json(value), *moves)),
            _ => None,
        })
    };
    let inserts: Vec<_> = rows_of(Op::Insert).collect();
    assert_eq!(inserts.len(), rows + 1);
    let mut wrong = Vec::new();
    for (row, ((key, value, _), printed)) in inserts.iter().zip(&server_rows).enumerate() {
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
    assert_eq!(updates.len(), rows + 1);
    for ((key, value, _), (update_key, update, moves)) in inserts.iter().zip(&updates) {
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
