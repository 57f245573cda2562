//! Tables as schemas of Kafka Connect, for flows whose records carry theirs.
//!
//! The types are those that Debezium's MySQL connector declares, by the names that sinks know
//! (`io.debezium.data.Json`), with these exceptions, so that a sink can write each value without
//! knowing ours:
//!
//! * bytes are `bytes`, whose JSON is the same base64 text;
//! * `BIGINT UNSIGNED` is Connect's `Decimal`, for 64 bits with a sign do not hold it;
//! * the row's number, which counts the transaction, has 64 bits;
//! * a `POINT` is a `GEOMETRY`;
//! * `DATE`, `TIME` and `DATETIME` are plain strings as the servers read them, without the `Z` of the
//!   plain form: Debezium's own types hold neither zero dates nor 838 hours.
//!
//! Each field may be null where its column may be. The schema's JSON is what Kafka Connect's
//! `JsonConverter` writes: <https://github.com/apache/kafka/tree/trunk/connect/json>.

use unitflow_change::form::key_schema_head;

use crate::charset::Charset;
use crate::connect::Flavor;
use crate::kind::Kind;
use crate::table::{Column, Table};
use crate::value::write_string;

/// What stands before a table's keys and values.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    /// `{"schema":{…},"payload":`
    pub key_head: Vec<u8>,
    /// The same of the envelope.
    pub value_head: Vec<u8>,
}

/// Describes a table's records; the names of the schemas begin with the connector's.
pub(crate) fn declare(flavor: Flavor, connector_name: &str, table: &Table) -> Declared {
    let name =
        |part: &str| quoted(&format!("{connector_name}.{}.{}.{part}", table.database, table.name));
    let key = table.key.iter().map(|&column| field(&table.columns[column])).collect::<Vec<_>>();
    let shown = table.columns.iter().filter(|column| !column.hidden);
    let columns = shown.map(field).collect::<Vec<_>>().join(",");
    let image = |field: &str| {
        format!(
            r#"{{"type":"struct","fields":[{columns}],"optional":true,"name":{},"field":"{field}"}}"#,
            name("Value")
        )
    };
    let key_head = format!(
        r#"{},"fields":[{}],"optional":{},"name":{}}},"payload":"#,
        key_schema_head(&quoted(&table.database), &quoted(&table.name)),
        key.join(","),
        key.is_empty(),
        name("Key"),
    );
    let value_head = format!(
        r#"{{"schema":{{"type":"struct","fields":[{},{},{},{TRANSACTION},{}],"optional":false,"name":{},"version":2}},"payload":"#,
        image("before"),
        image("after"),
        source(flavor),
        CHANGE.map(plain_field).join(","),
        name("Envelope"),
    );
    Declared { key_head: key_head.into_bytes(), value_head: value_head.into_bytes() }
}

/// Type, name and whether it may be null.
type Plain = (&'static str, &'static str, bool);

/// The envelope's fields behind the source.
const CHANGE: [Plain; 4] = [
    ("string", "op", false),
    ("int64", "ts_ms", true),
    ("int64", "ts_us", true),
    ("int64", "ts_ns", true),
];

/// The source's field `snapshot`; ours is `false`, or `incremental` for a row that was read.
const SNAPSHOT: &str = r#"{"type":"string","optional":true,"name":"io.debezium.data.Enum","version":1,"parameters":{"allowed":"true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},"default":"false","field":"snapshot"}"#;

/// The source's other fields.
const SOURCE: [Plain; 16] = [
    ("string", "version", false),
    ("string", "connector", false),
    ("string", "name", false),
    ("int64", "ts_ms", false),
    ("int64", "ts_us", true),
    ("int64", "ts_ns", true),
    ("string", "db", false),
    ("string", "sequence", true),
    ("string", "table", true),
    ("int64", "server_id", false),
    ("string", "gtid", true),
    ("string", "file", false),
    ("int64", "pos", false),
    // Debezium's counts within one event and has 32 bits, ours within the transaction.
    ("int64", "row", false),
    ("int64", "thread", true),
    ("string", "query", true),
];

/// Always null; Debezium's place in a transaction, where it is told to say it.
const TRANSACTION: &str = r#"{"type":"struct","fields":[{"type":"string","optional":false,"field":"id"},{"type":"int64","optional":false,"field":"total_order"},{"type":"int64","optional":false,"field":"data_collection_order"}],"optional":true,"name":"event.block","version":1,"field":"transaction"}"#;

fn plain_field((kind, name, optional): Plain) -> String {
    format!(r#"{{"type":"{kind}","optional":{optional},"field":"{name}"}}"#)
}

fn source(flavor: Flavor) -> String {
    format!(
        r#"{{"type":"struct","fields":[{SNAPSHOT},{}],"optional":false,"name":"io.debezium.connector.{}.Source","version":1,"field":"source"}}"#,
        SOURCE.map(plain_field).join(","),
        flavor.as_str()
    )
}

fn field(column: &Column) -> String {
    format!(
        r#"{{{},"optional":{},"field":{}}}"#,
        kind(&column.kind),
        column.nullable,
        quoted(&column.name)
    )
}

/// A type's JSON without its braces.
fn kind<'a>(kind: &'a Kind) -> String {
    match kind {
        Kind::Integer { bytes: 8, unsigned: true } => {
            r#""type":"bytes","name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"scale":"0","connect.decimal.precision":"20"}"#.to_owned()
        }
        // The next wider one where there is no sign.
        Kind::Integer { bytes, unsigned } => match bytes + u8::from(*unsigned) {
            1 | 2 => plain("int16"),
            3 | 4 => plain("int32"),
            _ => plain("int64"),
        },
        Kind::Float => plain("float"),
        Kind::Double => plain("double"),
        Kind::Decimal(_)
        | Kind::Date
        | Kind::Time { .. }
        | Kind::Datetime { .. }
        | Kind::Text { .. }
        | Kind::Inet6 { .. }
        | Kind::Inet4 { .. } => plain("string"),
        Kind::Year => named("int32", "io.debezium.time.Year"),
        Kind::Timestamp { .. } => named("string", "io.debezium.time.ZonedTimestamp"),
        Kind::Bit { single: true, .. } => plain("boolean"),
        Kind::Bit { bits, .. } => format!(
            r#"{},"parameters":{{"length":"{bits}"}}"#,
            named("bytes", "io.debezium.data.Bits")
        ),
        Kind::Blob { .. }
        | Kind::Binary { .. }
        | Kind::Compressed { charset: Charset::Binary, .. } => plain("bytes"),
        Kind::Compressed { .. } => plain("string"),
        Kind::Enum { values, .. } => {
            let inside = |value: &'a Vec<u8>| value.strip_prefix(b"\"")?.strip_suffix(b"\"");
            choices("io.debezium.data.Enum", values.iter().filter_map(inside))
        }
        Kind::Set { values, .. } => {
            choices("io.debezium.data.EnumSet", values.iter().map(Vec::as_slice))
        }
        Kind::Json { .. } => named("string", "io.debezium.data.Json"),
        Kind::Geometry { .. } => format!(
            r#"{},"doc":"Geometry","fields":[{{"type":"bytes","optional":false,"field":"wkb"}},{{"type":"int32","optional":true,"field":"srid"}}]"#,
            named("struct", "io.debezium.data.geometry.Geometry")
        ),
        Kind::Vector { .. } => format!(
            r#"{},"items":{{"type":"float","optional":false}}"#,
            named("array", "io.debezium.data.FloatVector")
        ),
        Kind::Uuid { .. } => named("string", "io.debezium.data.Uuid"),
    }
}

fn plain(kind: &str) -> String {
    format!(r#""type":"{kind}""#)
}

fn named(kind: &str, name: &str) -> String {
    format!(r#""type":"{kind}","name":"{name}","version":1"#)
}

/// The values are the insides of JSON strings.
fn choices<'a>(name: &str, values: impl Iterator<Item = &'a [u8]>) -> String {
    let values = values.map(String::from_utf8_lossy).collect::<Vec<_>>().join(",");
    format!(r#"{},"parameters":{{"allowed":"{values}"}}"#, named("string", name))
}

fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_string(&mut out, text);
    String::from_utf8_lossy(&out).into_owned()
}
