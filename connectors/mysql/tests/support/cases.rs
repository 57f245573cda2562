//! Every type's edge values.

use unitflow_local::Flavor;

/// How the envelope's value is compared with the server's text.
#[derive(Clone, Copy, Debug)]
pub enum As {
    Number,
    Float,
    Double,
    Text,
    Document,
    Date,
    Time,
    Moment,
    Bytes,
    Bits,
    Bool,
    Geometry,
    Vector,
}

/// A column's type, how it is compared, and the values to try.
pub struct Case(pub &'static str, pub As, pub &'static [&'static str]);

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
    Case(
        "float",
        As::Float,
        &["0", "-0.1", "3.4028234e38", "1.1754944e-38", "1e-45", "16777217", "0.3"],
    ),
    Case("float unsigned", As::Float, &["1.5"]),
    Case(
        "double",
        As::Double,
        &["0", "-0.1", "1.7976931348623157e308", "5e-324", "1e22", "123456789.125"],
    ),
    Case(
        "decimal(65,30)",
        As::Text,
        &[
            "99999999999999999999999999999999999.999999999999999999999999999999",
            "-99999999999999999999999999999999999.999999999999999999999999999999",
            "0",
            "-0.000000000000000000000000000001",
            "123456789.5",
        ],
    ),
    Case(
        "decimal(65,0)",
        As::Text,
        &["99999999999999999999999999999999999999999999999999999999999999999", "-1", "0"],
    ),
    Case("decimal(30,30)", As::Text, &["0.123456789012345678901234567890", "-0.5", "0"]),
    Case(
        "decimal(10,2)",
        As::Text,
        &["-0.01", "12345678.90", "0.10", "-12345678.99", "1000000000/100"],
    ),
    Case("decimal(9,9)", As::Text, &["0.000000001", "-0.999999999"]),
    Case("decimal(18,9) unsigned", As::Text, &["1.000000001", "999999999.999999999", "100000000"]),
    Case("bit(1)", As::Bool, &["0", "1"]),
    Case("bit(7)", As::Bits, &["b'1010101'", "0"]),
    Case("bit(17)", As::Bits, &["b'10000000100000001'", "1"]),
    Case("bit(64)", As::Bits, &["18446744073709551615", "1", "0x0102030405060708"]),
    Case(
        "date",
        As::Date,
        &[
            "'0000-00-00'",
            "'2024-02-29'",
            "'9999-12-31'",
            "'2024-00-00'",
            "'0000-01-01'",
            "'2023-02-31'",
        ],
    ),
    Case("time", As::Time, &["'-838:59:59'", "'838:59:59'", "'00:00:00'", "'-00:00:01'"]),
    Case("time(1)", As::Time, &["'-00:00:00.1'", "'12:34:56.9'", "'-12:00:00.0'"]),
    Case("time(2)", As::Time, &["'-00:00:00.01'", "'-00:00:01.99'", "'-01:00:00'"]),
    Case("time(3)", As::Time, &["'-00:00:00.001'", "'99:59:59.999'", "'100:00:00'"]),
    Case(
        "time(6)",
        As::Time,
        &["'-838:59:58.999999'", "'838:59:58.999999'", "'-00:00:00.000001'", "'00:00:00.1'"],
    ),
    Case(
        "datetime",
        As::Moment,
        &[
            "'0000-00-00 00:00:00'",
            "'9999-12-31 23:59:59'",
            "'2024-02-29 12:00:00'",
            "'2024-00-00 00:00:01'",
        ],
    ),
    Case("datetime(1)", As::Moment, &["'2026-01-02 03:04:05.9'"]),
    Case("datetime(4)", As::Moment, &["'2026-01-02 03:04:05.0009'"]),
    Case(
        "datetime(6)",
        As::Moment,
        &["'2026-01-02 03:04:05.123456'", "'0000-00-00 00:00:00'", "'0001-01-01 00:00:00.000001'"],
    ),
    Case(
        "timestamp null",
        As::Moment,
        &[
            "'1970-01-01 00:00:01'",
            "'2038-01-19 03:14:07'",
            "'0000-00-00 00:00:00'",
            "'2024-02-29 23:59:59'",
        ],
    ),
    Case("timestamp(3) null", As::Moment, &["'2026-03-01 00:00:00.001'", "'0000-00-00 00:00:00'"]),
    Case(
        "timestamp(6) null",
        As::Moment,
        &["'2038-01-19 03:14:07.999999'", "'1970-01-01 00:00:01.000001'"],
    ),
    Case(
        "char(10) character set utf8mb4",
        As::Text,
        &["''", "'a\\'b\\\"c\\\\'", "'日本語😀'", "'x\\n\\t\\r\\0\\Z'"],
    ),
    Case("char(255) character set utf8mb4", As::Text, &["repeat('😀',255)", "'a'"]),
    Case(
        "varchar(10) character set latin1",
        As::Text,
        &["'é€ÿ'", "_latin1 X'818D8F909D'", "'abc  '"],
    ),
    Case("varchar(300) character set utf8mb3", As::Text, &["repeat('é',300)", "''"]),
    Case("varchar(20) character set ascii", As::Text, &["'~ !'"]),
    Case("tinytext character set utf8mb4", As::Text, &["'t'", "repeat('é', 127)"]),
    Case("text character set latin1", As::Text, &["repeat('é', 65535)"]),
    Case("mediumtext character set utf8mb4", As::Text, &["repeat('x', 70000)", "'\\u0001\\b\\f'"]),
    Case(
        "longtext character set utf8mb4",
        As::Text,
        &["concat('😀', char(1), char(31), char(127))"],
    ),
    Case(
        "binary(16)",
        As::Bytes,
        &["X'00'", "X'0102'", "X'00000000000000000000000000000001'", "repeat(X'FF',16)"],
    ),
    Case("binary(255)", As::Bytes, &["X'FF00'", "''"]),
    Case("varbinary(300)", As::Bytes, &["X'00'", "repeat(X'00FF',150)", "''"]),
    Case("tinyblob", As::Bytes, &["X'00'"]),
    Case("blob", As::Bytes, &["repeat(X'FE', 65535)", "''"]),
    Case("mediumblob", As::Bytes, &["repeat('ab', 40000)"]),
    Case("longblob", As::Bytes, &["X'FF'"]),
    Case("enum('a','b''c','é\"','')", As::Text, &["'a'", "2", "'é\"'", "4"]),
    Case("enum('x','ÿ') character set latin1", As::Text, &["'ÿ'", "1"]),
    Case("set('a','b','c\\\\','é')", As::Text, &["''", "'a,b,c\\\\,é'", "'b,é'"]),
    Case(
        "set('m1','m2','m3','m4','m5','m6','m7','m8','m9','m10','m11','m12','m13','m14','m15','m16','m17','m18','m19','m20','m21','m22','m23','m24','m25','m26','m27','m28','m29','m30','m31','m32','m33','m34','m35','m36','m37','m38','m39','m40','m41','m42','m43','m44','m45','m46','m47','m48','m49','m50','m51','m52','m53','m54','m55','m56','m57','m58','m59','m60','m61','m62','m63','m64')",
        As::Text,
        &["'m1,m64'", "18446744073709551615", "'m33'"],
    ),
    Case("point", As::Geometry, &["st_geomfromtext('POINT(1.5 -2)')"]),
    Case(
        "geometry",
        As::Geometry,
        &["st_geomfromtext('LINESTRING(0 0,1 1)')", "st_geomfromtext('GEOMETRYCOLLECTION EMPTY')"],
    ),
];

const MYSQL: &[Case] = &[
    Case(
        "json",
        As::Document,
        &[
            "'{}'",
            "'[]'",
            "'null'",
            "'true'",
            "'\"s\"'",
            "'1'",
            "'-1'",
            "'18446744073709551615'",
            "'-9223372036854775808'",
            "'1.0'",
            "'1e100'",
            "'0.1'",
            "'-0.0'",
            "'1e15'",
            "'123456789012345678'",
            "'1e-7'",
            "'3.5e-20'",
            "'1234567890123456.5'",
            "'{\"b\": 1, \"a\": [1, 2, {\"é😀\": \"\\\\u0001\\\\n\\\\\"\"}], \"\": null}'",
            "cast(cast(1.10 as decimal(20,5)) as json)",
            "json_array(cast('2026-01-02' as date), cast('-12:34:56.7' as time(1)), cast('2026-01-02 03:04:05.678' as datetime(3)))",
            "json_object('blob', cast(X'00FF' as binary), 'd', cast(-99999999999999999999.000000001 as decimal(40,9)), 'y', cast(0 as unsigned))",
            "json_array(65535, 65536, -32769, 32768, 4294967295, 4294967296, -2147483649)",
            "concat('[', repeat('\"0123456789\",', 7000), '1]')",
            "concat('{', repeat('', 1), '\"k\": \"', repeat('v', 70000), '\"}')",
        ],
    ),
    Case("geometry srid 4326", As::Geometry, &["st_geomfromtext('POINT(10 20)', 4326)"]),
    Case("vector(4)", As::Vector, &["to_vector('[1,-2.5,0.1,3e38]')"]),
    Case("vector", As::Vector, &["to_vector('[0]')"]),
];

const MARIADB: &[Case] = &[
    Case("json", As::Text, &["'{\"a\":  1}'", "'[1,2]'"]),
    Case(
        "uuid",
        As::Text,
        &[
            "'123e4567-e89b-12d3-a456-426614174000'",
            "'123e4567-e89b-72d3-a456-426614174000'",
            "'00000000-0000-0000-0000-000000000000'",
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
            "'01020304-0506-1708-890a-0b0c0d0e0f00'",
            "'123e4567-e89b-42d3-a456-420000000000'",
        ],
    ),
    Case(
        "inet6",
        As::Text,
        &["'::'", "'2001:db8::ff00:42:8329'", "'::ffff:192.0.2.128'", "'ff00::'"],
    ),
    Case("inet4", As::Text, &["'0.0.0.0'", "'255.255.255.255'", "'10.0.0.0'"]),
];

pub fn cases(flavor: Flavor) -> Vec<&'static Case> {
    let own = if flavor == Flavor::Mysql9 { MYSQL } else { MARIADB };
    BOTH.iter().chain(own).collect()
}

/// A table with a column `v0`, `v1`, … for each case. The first column is not the key, and the
/// key's order is not the table's.
pub fn create(table: &str, cases: &[&Case]) -> String {
    let columns: Vec<String> =
        cases.iter().enumerate().map(|(i, case)| format!("`v{i}` {}", case.0)).collect();
    format!(
        "create table shop.{table} ({}, id int not null, part varchar(8) not null, primary key (part, id)) character set utf8mb4",
        columns.join(", ")
    )
}

/// Statements that insert each value at least once, and NULL everywhere last.
pub fn inserts(table: &str, cases: &[&Case]) -> Vec<String> {
    let rows = cases.iter().map(|case| case.2.len()).max().unwrap_or(0);
    (0..=rows)
        .map(|row| {
            let values: Vec<_> = cases
                .iter()
                .map(|case| if row == rows { "null" } else { case.2[row % case.2.len()] })
                .collect();
            format!("insert into shop.{table} values ({}, {row}, 'p\"{row:02}')", values.join(", "))
        })
        .collect()
}
