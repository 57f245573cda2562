//! The same rows by two decoders: ours, and that of the driver's crate `mysql_common`.
//!
//! Both read what a real server recorded. They have to agree on every value of every type, save
//! for [`KNOWN`], where the crate is wrong; there they have to differ, so that the list shrinks
//! once the crate is mended.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use mysql_async::binlog::events::{EventData, OptionalMetadataField, TableMapEvent};
use mysql_async::binlog::row::BinlogRow;
use mysql_async::binlog::value::BinlogValue;
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStreamRequest, Value};
use serde_json::{Value as Json, json};
use support::cases::{As, Case, cases, create, inserts};
use support::{Seen, conn, now, read_after, run, start};
use unitflow_local::{Flavor, Mysql};

/// A value that the crate gets wrong: its type, the start of ours, and what the crate makes of it.
struct Known(&'static str, &'static str, &'static str);

/// The only values that may differ, and have to.
const KNOWN: &[Known] = &[
    Known("year", "0", "1900"),
    Known("mediumint", "-8388608", "positive: the sign is not carried on"),
    Known("mediumint", "-1", "positive: the sign is not carried on"),
    Known(
        "time(1)",
        "\"-00:00:00.1Z\"",
        "overflow: a panic, or nonsense where overflow is not checked",
    ),
    Known("time(2)", "\"-00:00:00.01Z\"", "the same"),
    Known("time(2)", "\"-00:00:01.99Z\"", "the same"),
    Known(
        "binary(16)",
        "\"AAAAAAAAAAAAAAAAAAAAAA==\"",
        "without the zeros that the log leaves away at the end",
    ),
    Known("binary(16)", "\"AQIAAAAAAAAAAAAAAAAAAA==\"", "the same"),
    Known("binary(255)", "\"/wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "the same"),
    Known("binary(255)", "\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "the same"),
];

/// Those of MySQL's own types.
const KNOWN_MYSQL: &[Known] = &[
    Known("json", "1.1", "an error: the document holds a DECIMAL"),
    Known("json", "[\"2026-01-02\",\"-12:34:56.700000\",\"2026-0", "an error: dates and times"),
    Known(
        "json",
        "{\"blob\":\"base64:type15:AP8=\",\"d\":-1e+20,",
        "an error: bytes and a DECIMAL",
    ),
];

fn known(flavor: Flavor) -> impl Iterator<Item = &'static Known> {
    KNOWN.iter().chain(KNOWN_MYSQL.iter().filter(move |_| flavor == Flavor::Mysql9))
}

/// What stands behind the columns of the cases in every table.
const KEY: [Case; 2] = [Case("int", As::Number, &[]), Case("varchar(8)", As::Text, &[])];

/// A row image: the values of its columns, or why there are none.
type Image = Result<Vec<Result<Json, String>>, String>;

/// One change as one decoder gives it: the table, the row before and after.
#[derive(Debug)]
struct Change {
    table: String,
    before: Option<Image>,
    after: Option<Image>,
}

/// What our decoder makes of all rows since the position.
async fn ours(server: &Mysql, start: &unitflow_change::position::Position) -> Vec<Change> {
    let seen = read_after(server, start).await.unwrap();
    let rows = seen.iter().filter_map(|(seen, _)| match seen {
        Seen::Row { table, value, .. } => Some((table.clone(), support::json(value))),
        _ => None,
    });
    rows.map(|(table, envelope)| {
        let image = |which: &str| {
            let columns = envelope[which].as_object()?;
            // Without `preserve_order` an object is sorted by name.
            let count = columns.len() - 2;
            let names = (0..count).map(|i| format!("v{i}")).chain(["id".into(), "part".into()]);
            Some(Ok(names.map(|name| Ok(columns[&name].clone())).collect()))
        };
        Change { table, before: image("before"), after: image("after") }
    })
    .collect()
}

/// What the crate makes of the whole log; `of` says how the columns of a table are compared.
async fn theirs(server: &Mysql, of: impl Fn(&str) -> Vec<&'static Case>) -> Vec<Change> {
    let mut conn = conn(server).await;
    conn.query_drop("set @mariadb_slave_capability = 4").await.unwrap();
    let request = BinlogStreamRequest::new(4712).with_non_blocking();
    let mut stream = conn.get_binlog_stream(request).await.unwrap();
    let mut changes = Vec::new();
    while let Some(event) = stream.next().await {
        let event = event.unwrap();
        if !matches!(event.header().event_type_raw(), 23..=25 | 30..=32) {
            continue;
        }
        let Some(EventData::RowsEvent(rows)) = event.read_data().unwrap() else {
            panic!("rows were expected")
        };
        let map = stream.get_tme(rows.table_id()).unwrap();
        let table = format!("{}.{}", map.database_name(), map.table_name());
        let columns = of(&table);
        let mut iterator = rows.rows(map);
        // One after the other: the crate panics on some rows where overflow is checked.
        loop {
            let next = catch_unwind(AssertUnwindSafe(|| iterator.next()));
            let failed = |why: String| Change {
                table: table.clone(),
                before: rows.columns_before_image().map(|_| Err(why.clone())),
                after: rows.columns_after_image().map(|_| Err(why.clone())),
            };
            match next {
                Ok(None) => break,
                Ok(Some(Ok((before, after)))) => changes.push(Change {
                    table: table.clone(),
                    before: before.map(|row| Ok(image(&columns, map, &row))),
                    after: after.map(|row| Ok(image(&columns, map, &row))),
                }),
                // After an error the iterator stands where it stood.
                Ok(Some(Err(error))) => {
                    changes.push(failed(error.to_string()));
                    break;
                }
                Err(_) => {
                    changes.push(failed("a panic".into()));
                    break;
                }
            }
        }
    }
    changes
}

fn image(columns: &[&Case], map: &TableMapEvent<'_>, row: &BinlogRow) -> Vec<Result<Json, String>> {
    assert_eq!(row.len(), columns.len());
    let mut enums = members(map, false).into_iter();
    let mut sets = members(map, true).into_iter();
    columns
        .iter()
        .enumerate()
        .map(|(i, case)| {
            let members = match case.0 {
                kind if kind.starts_with("enum") => enums.next().unwrap(),
                kind if kind.starts_with("set") => sets.next().unwrap(),
                _ => Vec::new(),
            };
            let column = Column {
                case,
                charset: row.columns_ref()[i].character_set(),
                fraction: map.get_column_metadata(i).and_then(|meta| meta.first()).copied(),
                members,
            };
            column.value(row.as_ref(i).unwrap())
        })
        .collect()
}

/// The members of the ENUM or SET columns.
fn members(map: &TableMapEvent<'_>, sets: bool) -> Vec<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for field in map.iter_optional_meta() {
        match field.unwrap() {
            OptionalMetadataField::EnumStrValue(columns) if !sets => {
                for column in columns.iter_values() {
                    let column = column.unwrap();
                    all.push(
                        column.values().iter().map(|value| value.value_raw().to_vec()).collect(),
                    );
                }
            }
            OptionalMetadataField::SetStrValue(columns) if sets => {
                for column in columns.iter_values() {
                    let column = column.unwrap();
                    all.push(
                        column.values().iter().map(|value| value.value_raw().to_vec()).collect(),
                    );
                }
            }
            _ => {}
        }
    }
    all
}

/// What is needed of a column to write the crate's values as the envelope has them.
struct Column<'a> {
    case: &'a Case,
    charset: u16,
    fraction: Option<u8>,
    members: Vec<Vec<u8>>,
}

impl Column<'_> {
    fn value(&self, value: &BinlogValue<'_>) -> Result<Json, String> {
        let value = match value {
            BinlogValue::Value(Value::NULL) => return Ok(Json::Null),
            BinlogValue::Value(value) => value,
            BinlogValue::Jsonb(document) => {
                return Json::try_from(document.clone()).map_err(|error| error.to_string());
            }
            BinlogValue::JsonDiff(_) => return Err("a part of a document".into()),
        };
        let Case(kind, how, _) = self.case;
        Ok(match (how, value) {
            (As::Number, Value::Int(number)) => json!(number),
            (As::Number, Value::UInt(number)) => json!(number),
            (As::Number, Value::Bytes(digits)) => serde_json::from_slice(digits).unwrap(),
            (As::Float, Value::Float(number)) => json!(f64::from(*number)),
            (As::Double, Value::Double(number)) => json!(number),
            (As::Text, Value::Int(0)) => json!(""),
            (As::Text, Value::Int(index)) => json!(self.text(&self.members[*index as usize - 1])),
            (As::Text, Value::Bytes(bits)) if kind.starts_with("set") => {
                let chosen = self.members.iter().enumerate();
                let chosen = chosen.filter(|(i, _)| bits[i / 8] >> (i % 8) & 1 == 1);
                json!(chosen.map(|(_, member)| self.text(member)).collect::<Vec<_>>().join(","))
            }
            (As::Text, Value::Bytes(bytes)) => json!(self.text(bytes)),
            (As::Date, Value::Date(year, month, day, 0, 0, 0, 0)) => {
                json!(format!("{year:04}-{month:02}-{day:02}Z"))
            }
            (As::Moment, &Value::Date(year, month, day, hour, minute, second, micro)) => {
                let fraction = self.fraction(micro);
                json!(format!(
                    "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"
                ))
            }
            (As::Moment, Value::Bytes(since)) => json!(self.timestamp(since)),
            (As::Time, &Value::Time(negative, days, hours, minutes, seconds, micro)) => {
                let sign = if negative { "-" } else { "" };
                let (hours, fraction) = (days * 24 + u32::from(hours), self.fraction(micro));
                json!(format!("{sign}{hours:02}:{minutes:02}:{seconds:02}{fraction}Z"))
            }
            (As::Bytes, Value::Bytes(bytes)) => json!(STANDARD.encode(bytes)),
            (As::Bool, Value::Bytes(bit)) => json!(bit == &[1]),
            (As::Bits, Value::Bytes(bits)) => {
                json!(STANDARD.encode(bits.iter().rev().copied().collect::<Vec<_>>()))
            }
            (As::Geometry, Value::Bytes(bytes)) => {
                let (srid, wkb) = bytes.split_first_chunk().unwrap();
                let srid = Some(u32::from_le_bytes(*srid)).filter(|srid| *srid != 0);
                json!({ "wkb": STANDARD.encode(wkb), "srid": srid })
            }
            (As::Vector, Value::Bytes(bytes)) => bytes
                .chunks_exact(4)
                .map(|four| json!(f64::from(f32::from_le_bytes(four.try_into().unwrap()))))
                .collect(),
            (how, value) => return Err(format!("{value:?} is no {how:?}")),
        })
    }

    /// Text in the column's character set; MariaDB's types without one are looked through.
    fn text(&self, bytes: &[u8]) -> String {
        match (self.case.0, self.charset) {
            ("inet4", _) => Ipv4Addr::from(padded::<4>(bytes)).to_string(),
            ("inet6", _) => Ipv6Addr::from(padded::<16>(bytes)).to_string(),
            ("uuid", _) => uuid(padded(bytes)),
            (_, 5 | 8 | 15 | 31 | 47 | 48 | 49 | 94) => bytes
                .iter()
                .map(|&byte| if byte == 0x80 { '€' } else { char::from(byte) })
                .collect(),
            _ => String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    fn fraction(&self, micro: u32) -> String {
        match self.fraction {
            Some(digits @ 1..) => format!(".{micro:06}")[..=usize::from(digits)].to_owned(),
            _ => String::new(),
        }
    }

    /// From seconds since 1970, with a point and µs where there are any.
    fn timestamp(&self, since: &[u8]) -> String {
        let since = std::str::from_utf8(since).unwrap();
        let (seconds, micro) = since.split_once('.').unwrap_or((since, "0"));
        let seconds: i64 = seconds.parse().unwrap();
        let (mut year, mut month, mut days) = (1970, 1, seconds / 86_400 + 1);
        let leap = |year: i64| year % 4 == 0 && year % 100 != 0 || year % 400 == 0;
        let in_month = |year, month| match month {
            2 if leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        while days > in_month(year, month) {
            days -= in_month(year, month);
            (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        }
        if since == "0" {
            (year, month, days) = (0, 0, 0);
        }
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let fraction = self.fraction(micro.parse().unwrap());
        format!("{year:04}-{month:02}-{days:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
    }
}

/// The log leaves zeros at the end away.
fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut whole = [0; N];
    whole[..bytes.len()].copy_from_slice(bytes);
    whole
}

/// Stored with the groups in the other order, save for those sorted by time (6 and 7) and what is
/// no UUID of RFC 4122.
fn uuid(stored: [u8; 16]) -> String {
    let groups = |lengths: [usize; 5]| {
        let mut rest = &stored[..];
        lengths.map(|length| {
            let (group, behind) = rest.split_at(length);
            rest = behind;
            group.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        })
    };
    let mut swapped = groups([6, 2, 2, 2, 4]);
    swapped.reverse();
    let version = swapped[2].as_bytes()[0];
    let variant = swapped[3].as_bytes()[0];
    if matches!(version, b'1'..=b'5') && matches!(variant, b'8' | b'9' | b'a' | b'b') {
        swapped.join("-")
    } else {
        groups([4, 2, 2, 2, 6]).join("-")
    }
}

/// Our value in the form in which the crate's is written: numbers as wide as they are, documents
/// as documents.
fn normal(flavor: Flavor, case: &Case, value: &Json) -> Json {
    let narrow = |number: &Json| json!(f64::from(number.as_f64().unwrap() as f32));
    match (case.1, value) {
        (_, Json::Null) => Json::Null,
        (As::Float, number) => narrow(number),
        (As::Vector, numbers) => numbers.as_array().unwrap().iter().map(narrow).collect(),
        (As::Document, Json::String(text)) if case.0 == "json" && flavor == Flavor::Mysql9 => {
            support::json(text)
        }
        (_, value) => value.clone(),
    }
}

async fn compare(flavor: Flavor) {
    let server = start(flavor).await;
    let mut conn = conn(&server).await;
    let all = cases(flavor);
    // Where the crate fails it loses the whole row and those behind it: such types stand alone.
    let (wrong, right): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|case| known(flavor).any(|known| known.0 == case.0));
    let mut tables = vec![("wide".to_owned(), right)];
    tables.extend(wrong.into_iter().enumerate().map(|(i, case)| (format!("t{i}"), vec![case])));
    run(&mut conn, ["create database shop character set utf8mb4"]).await;
    let start = now(&mut conn).await;
    for (table, cases) in &tables {
        let statements = inserts(table, cases);
        run(&mut conn, [create(table, cases).as_str()]).await;
        run(&mut conn, statements.iter().map(String::as_str)).await;
    }
    run(&mut conn, ["update shop.wide set id = id + 1000", "delete from shop.wide"]).await;

    let columns = |table: &str| -> Vec<&'static Case> {
        let (_, cases) = tables.iter().find(|(name, _)| format!("shop.{name}") == table).unwrap();
        cases.iter().copied().chain(&KEY).collect()
    };
    let (ours, theirs) = (ours(&server, &start).await, theirs(&server, columns).await);
    assert_eq!(ours.len(), theirs.len());
    let (mut compared, mut differences, mut details) = (0, BTreeSet::new(), Vec::new());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours.table, theirs.table);
        for (ours_image, theirs_image) in
            [(&ours.before, &theirs.before), (&ours.after, &theirs.after)]
        {
            let (Some(Ok(mine)), Some(other)) = (ours_image, theirs_image) else {
                assert!(ours_image.is_none() && theirs_image.is_none(), "{ours:?}\n{theirs:?}");
                continue;
            };
            for (i, case) in columns(&ours.table).into_iter().enumerate() {
                let mine = normal(flavor, case, mine[i].as_ref().unwrap());
                let other = match other {
                    Ok(values) => values[i].clone(),
                    // The value of the case is what the row failed for.
                    Err(why) if i == 0 => Err(why.clone()),
                    Err(_) => continue,
                };
                compared += 1;
                if other.as_ref() != Ok(&mine) {
                    let mine: String = mine.to_string().chars().take(40).collect();
                    details.push(format!("{}: {mine} is not {other:?}", case.0));
                    differences.insert((case.0, mine));
                }
            }
        }
    }
    assert!(compared > 1500, "{compared}");
    let unknown = |(kind, value): &&(&str, String)| {
        !known(flavor).any(|Known(known, ours, _)| known == kind && ours == value)
    };
    assert_eq!(
        differences.iter().filter(unknown).count(),
        0,
        "{flavor:?}: the decoders differ:\n{}",
        details.join("\n")
    );
    let mended: Vec<_> = known(flavor)
        .filter(|Known(kind, ours, _)| !differences.contains(&(*kind, (*ours).to_owned())))
        .map(|Known(kind, ours, theirs)| format!("{kind}: {ours} is no longer {theirs}"))
        .collect();
    assert!(mended.is_empty(), "{flavor:?}: mended, take it off the list: {mended:#?}");
}

#[tokio::test]
async fn both_decoders_agree_on_mysql() {
    compare(Flavor::Mysql9).await;
}

#[tokio::test]
async fn both_decoders_agree_on_mariadb() {
    compare(Flavor::Mariadb).await;
}
