//! A table with every common type, at the edges of their values, and what is done to its rows.

use std::fmt::Write as _;

/// The table's name, in the shop.
pub const TABLE: &str = "types";

/// A document that JSON text can't say: a DECIMAL and a DATE inside.
const OPAQUE: &str = "json_array(cast(1.10 as decimal(20,5)), cast('2026-01-02' as date))";

/// A column: its type, and values for it as literals. The first row has the first of each.
pub struct Type(pub &'static str, pub &'static [&'static str]);

/// The first column is `c0`, and so on.
pub const TYPES: &[Type] = &[
    Type("tinyint", &["-128", "127", "0"]),
    Type("tinyint(1)", &["1", "0", "2"]),
    Type("tinyint unsigned", &["255", "0"]),
    Type("smallint", &["-32768", "32767"]),
    Type("smallint unsigned", &["65535"]),
    Type("mediumint", &["-8388608", "8388607", "-1"]),
    Type("mediumint unsigned", &["16777215"]),
    Type("int", &["-2147483648", "2147483647"]),
    Type("int unsigned", &["4294967295"]),
    Type("bigint", &["-9223372036854775808", "9223372036854775807"]),
    Type("bigint unsigned", &["1", "9223372036854775807", "18446744073709551615"]),
    Type("decimal(10,2)", &["-0.01", "12345678.90", "0", "100"]),
    Type(
        "decimal(65,30)",
        &[
            "-12345678901234567890123456789012345.123456789012345678901234567890",
            "0.000000000000000000000000000001",
        ],
    ),
    Type("float", &["0.1", "-3.4028234e38", "1e-45", "16777216", "123456.789"]),
    Type("double", &["0.1", "-1.7976931348623157e308", "5e-324", "1e22", "123456789.125"]),
    Type("bit(1)", &["1", "0"]),
    Type("bit(17)", &["b'10000000100000001'", "1"]),
    Type("bit(64)", &["18446744073709551615", "1"]),
    Type("date", &["'2024-02-29'", "'1000-01-01'", "'9999-12-31'", "'0000-00-00'", "'2024-00-00'"]),
    Type("time", &["'12:34:56'", "'00:00:00'", "'838:59:59'", "'-00:00:01'"]),
    Type("time(2)", &["'12:34:56.70'", "'23:59:59.99'", "'01:02:03'"]),
    Type("time(6)", &["'12:34:56.123456'", "'00:00:00.100000'", "'-838:59:58.999999'"]),
    Type("datetime", &["'2026-01-02 03:04:05'", "'1000-01-01 00:00:00'", "'0000-00-00 00:00:00'"]),
    Type("datetime(3)", &["'2026-01-02 03:04:05.678'", "'2026-01-02 03:04:05.100'"]),
    Type(
        "datetime(6)",
        &[
            "'9999-12-31 23:59:59.999999'",
            "'2026-01-02 03:04:05.000000'",
            "'2026-01-02 03:04:05.120000'",
        ],
    ),
    Type(
        "timestamp null",
        &["'2038-01-19 03:14:07'", "'1970-01-01 00:00:01'", "'0000-00-00 00:00:00'"],
    ),
    Type("timestamp(3) null", &["'2026-03-01 00:00:00.001'", "'2026-03-01 12:00:00.500'"]),
    Type("timestamp(6) null", &["'2038-01-19 03:14:07.999999'", "'2026-03-01 00:00:00'"]),
    Type("year", &["2026", "1901", "2155", "0"]),
    Type("char(10)", &["'日本語😀'", "''", "'a'"]),
    Type("varchar(40)", &["'a\\'b\\\"c\\\\\\n\\t'", "'  '", "''"]),
    Type("varchar(40) character set latin1", &["'é€ÿ'"]),
    Type("text", &["repeat('é', 1000)"]),
    Type("longtext", &["'😀'"]),
    Type("binary(6)", &["x'000102030405'", "x'01'", "x'FF00'"]),
    Type("varbinary(40)", &["x'00ff00'", "''"]),
    Type("blob", &["x'fe00'", "''"]),
    Type("enum('a','b ü','c')", &["'a'", "'b ü'", "0"]),
    Type("set('x','y','z')", &["'x'", "'x,z'", "''"]),
    Type(
        "json",
        &[
            "'{\"b\": 1, \"a\": [1, 2.50, \"é😀\", null, true]}'",
            "'18446744073709551615'",
            "'1e100'",
            "'\"s\"'",
            OPAQUE,
        ],
    ),
    Type("point", &["st_geomfromtext('POINT(1.5 -2)')"]),
    Type("geometry srid 4326", &["st_geomfromtext('POINT(10 20)', 4326)"]),
    Type("vector(3)", &["to_vector('[1,-2.5,0.1]')"]),
];

/// So many rows hold each value at least once.
pub fn rows() -> usize {
    TYPES.iter().map(|Type(_, values)| values.len()).max().unwrap_or(0)
}

/// The literal that a row has in a column.
pub fn literal(column: usize, row: usize) -> &'static str {
    let Type(_, values) = TYPES[column];
    values[row % values.len()]
}

/// The table, kept out of the log. Its key's order is not the columns' order.
pub fn create() -> String {
    let mut statement = format!("SET sql_log_bin = 0, sql_mode = '';\nCREATE TABLE shop.{TABLE} (");
    for (place, Type(kind, _)) in TYPES.iter().enumerate() {
        let _ = write!(statement, "c{place} {kind}, ");
    }
    statement + "id INT NOT NULL, part VARCHAR(8) NOT NULL, PRIMARY KEY (part, id))"
}

/// Values that do not reach a third database by Debezium's JDBC sink, by type, as the document says.
const NOT_FOR_SINKS: &[(&str, &str)] = &[
    ("timestamp null", "'0000-00-00 00:00:00'"),
    ("enum('a','b ü','c')", "0"),
    ("json", OPAQUE),
    ("float", "-3.4028234e38"),
    ("geometry srid 4326", "st_geomfromtext('POINT(10 20)', 4326)"),
];

/// The same for a table that Debezium's JDBC sink has to fill.
pub fn changes_for_sinks() -> String {
    changes_with(|column, row| {
        let literal = literal(column, row);
        if NOT_FOR_SINKS.contains(&(TYPES[column].0, literal)) { "NULL" } else { literal }
    })
}

/// All rows in order; what the client would round or mangle is made hexadecimal.
pub fn query() -> String {
    let columns: Vec<String> = TYPES
        .iter()
        .enumerate()
        .map(|(place, Type(kind, _))| {
            let raw = ["bit", "binary", "varbinary", "blob", "point", "geometry", "vector"];
            match kind {
                kind if raw.iter().any(|raw| kind.starts_with(raw)) => format!("HEX(c{place})"),
                &"float" => format!("c{place} + 0e0"),
                _ => format!("c{place}"),
            }
        })
        .collect();
    format!("SELECT {}, id, part FROM shop.{TABLE} ORDER BY part, id", columns.join(", "))
}

/// What is done: each row is inserted, then changed to the values of the next, another is inserted
/// with nothing in it, one moves to another key, one is deleted.
pub fn changes() -> String {
    changes_with(literal)
}

fn changes_with(literal: impl Fn(usize, usize) -> &'static str) -> String {
    let mut statements = String::from("SET sql_mode = '';\n");
    for row in 0..rows() {
        let values: Vec<&str> = (0..TYPES.len()).map(|column| literal(column, row)).collect();
        let _ = writeln!(
            statements,
            "INSERT INTO shop.{TABLE} VALUES ({}, {row}, 'p\\'{row}');",
            values.join(", ")
        );
    }
    let _ = writeln!(statements, "INSERT INTO shop.{TABLE} (id, part) VALUES (100, 'null');");
    let _ = writeln!(statements, "UPDATE shop.{TABLE} SET c0 = 7, c30 = 'new' WHERE id = 0;");
    let _ = writeln!(statements, "BEGIN; UPDATE shop.{TABLE} SET c0 = 8 WHERE id = 0;");
    let _ = writeln!(statements, "UPDATE shop.{TABLE} SET id = 200 WHERE id = 1; COMMIT;");
    let _ = writeln!(statements, "DELETE FROM shop.{TABLE} WHERE id IN (2, 100);");
    statements
}
