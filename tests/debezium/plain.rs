//! Our plain records beside those of Debezium's MySQL connector.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Map, Value};
use tokio::task::block_in_place;
use unitflow_harness::Flavor::Mysql9;
use unitflow_harness::{Mesh, MeshSetup, Mysql, beside};
use unitflow_local::Connect;

use crate::topic::{Record, read};
use crate::types::{self, TABLE, TYPES};
use crate::{BINARY, LIMIT, PATIENCE, create, document};

/// What a difference is about, and the two values.
pub type Difference = (String, String, String);

#[test]
fn plain_records_differ_from_debeziums_as_the_document_says() {
    beside("plain records beside Debezium's", LIMIT, async {
        let setup =
            MeshSetup::new(BINARY, &[Mysql9, Mysql9]).kafka_shared().kafka_own().one_way("A", "B");
        let mut mesh = setup.start().await?;
        create(&mesh, &types::create()).await?;
        mesh.start_worker("A", "connector", "")?;
        mesh.start_worker("A", "transformer", "")?;
        let connect = debezium(&mesh).await?;
        let server = mesh.server("A");
        wait_for_readers(server, 2, &connect).await?;
        server.sql(&types::changes()).await?;
        let (ours, theirs) = block_in_place(|| records(&mesh))
            .with_context(|| format!("Kafka Connect says:\n{}", connect.log_end()))?;
        let found = differences(&ours, &theirs)?;
        document::ensure_lists("## Differences", &found)?;
        mesh.finish();
        Ok(())
    });
}

/// Debezium's connector at unit A, without schemas.
async fn debezium(mesh: &Mesh) -> anyhow::Result<Connect> {
    let setup = Connect::setup()
        .setting("key.converter.schemas.enable", false)
        .setting("value.converter.schemas.enable", false)
        .connector("source", &source_properties(mesh.server("A")));
    Ok(setup.start(&mesh.kafka("A").bootstrap()).await?)
}

/// Debezium's connector at a server, told to write as we do.
pub fn source_properties(server: &Mysql) -> String {
    format!(
        "connector.class=io.debezium.connector.mysql.MySqlConnector\n\
         database.hostname=127.0.0.1\n\
         database.port={}\n\
         database.user=root\n\
         database.password=\n\
         database.server.id=4242\n\
         topic.prefix=A.shop\n\
         table.include.list=shop.{TABLE}\n\
         snapshot.mode=no_data\n\
         include.schema.changes=false\n\
         decimal.handling.mode=string\n\
         binary.handling.mode=base64\n\
         time.precision.mode=isostring\n\
         schema.history.internal=io.debezium.relational.history.MemorySchemaHistory\n\
         topic.creation.enable=true\n\
         topic.creation.default.replication.factor=1\n\
         topic.creation.default.partitions=1\n",
        server.port()
    )
}

/// Waits until so many read the server's log: from then on nothing escapes them.
pub async fn wait_for_readers(
    server: &Mysql,
    count: usize,
    connect: &Connect,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let sessions = server.sql("SHOW PROCESSLIST").await?;
        if sessions.lines().filter(|line| line.contains("Binlog Dump")).count() >= count {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "Debezium does not read the log: {}\n{}",
            connect.status("source").await?,
            connect.log_end()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The records of the table: ours and theirs, each in the order of what was done.
fn records(mesh: &Mesh) -> anyhow::Result<(Vec<Record>, Vec<Record>)> {
    let bootstrap = mesh.kafka("A").bootstrap();
    // Rows, one without values, two updates, a move of two, two deletes; theirs with three tombstones.
    let changes = types::rows() + 1 + 2 + 2 + 2;
    let ours = read(&bootstrap, &mesh.topic("A.shop.tagged"), changes, |record| {
        record.key.starts_with(&format!("[\"shop\",\"{TABLE}\","))
    })?;
    let theirs = read(&bootstrap, &format!("A.shop.shop.{TABLE}"), changes + 3, |_| true)?;
    Ok((ours, theirs))
}

/// Every difference, once.
fn differences(ours: &[Record], theirs: &[Record]) -> anyhow::Result<BTreeSet<Difference>> {
    let mut found = BTreeSet::new();
    let tombstones = theirs.iter().filter(|record| record.value.is_none()).count();
    if tombstones > 0 {
        found.insert(("a tombstone behind each delete".into(), "yes".into(), "no".into()));
    }
    let theirs = by_change(theirs)?;
    let ours = by_change(ours)?;
    ensure!(
        ours.len() == theirs.len(),
        "{} changes of ours, {} of theirs",
        ours.len(),
        theirs.len()
    );
    for ((id, our_key, our), (other, their_key, their)) in ours.iter().zip(&theirs) {
        ensure!(id == other, "another change: {id:?}, {other:?}");
        if our_key != their_key {
            // The columns are the same and differ in nothing.
            ensure!(our_key[2] == *their_key, "other key columns: {our_key} {their_key}");
            found.insert(("key".into(), shape(their_key), shape(our_key)));
        }
        compare_objects("", our, their, &mut found)?;
    }
    Ok(found)
}

/// Changes with their keys, by operation and row. Tombstones are left out.
#[expect(clippy::type_complexity, reason = "three values that belong together, used once")]
fn by_change(
    records: &[Record],
) -> anyhow::Result<Vec<((String, String), Value, Map<String, Value>)>> {
    let mut changes = Vec::new();
    for record in records {
        let Some(value) = &record.value else { continue };
        let key: Value = serde_json::from_str(&record.key)?;
        let value: Map<String, Value> =
            serde_json::from_str(value).with_context(|| value.clone())?;
        let id = (value["op"].to_string(), row_of(&value).to_string());
        changes.push((id, key, value));
    }
    changes.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    Ok(changes)
}

fn row_of(envelope: &Map<String, Value>) -> &Value {
    let image = if envelope["after"].is_null() { "before" } else { "after" };
    &envelope[image]["id"]
}

/// Compares the fields of the envelope, or of its source.
fn compare_objects(
    path: &str,
    ours: &Map<String, Value>,
    theirs: &Map<String, Value>,
    found: &mut BTreeSet<Difference>,
) -> anyhow::Result<()> {
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        let field = format!("{path}{name}");
        match (ours.get(name), theirs.get(name)) {
            (Some(Value::Object(our)), Some(Value::Object(their))) if name == "source" => {
                compare_objects("source.", our, their, found)?;
            }
            (Some(Value::Object(our)), Some(Value::Object(their))) => {
                compare_columns(our, their, found)?;
            }
            (our, their) if our == their => {}
            // When each of the two wrote its record.
            (Some(Value::Number(_)), Some(Value::Number(_))) if field.starts_with("ts_") => {}
            (our, their) => {
                found.insert((field.clone(), told(&field, their), told(&field, our)));
            }
        }
    }
    Ok(())
}

/// Compares a row image.
fn compare_columns(
    ours: &Map<String, Value>,
    theirs: &Map<String, Value>,
    found: &mut BTreeSet<Difference>,
) -> anyhow::Result<()> {
    let (our_names, their_names): (Vec<_>, Vec<_>) =
        (ours.keys().collect(), theirs.keys().collect());
    ensure!(our_names == their_names, "other columns: {our_names:?} {their_names:?}");
    for (name, our) in ours {
        let their = &theirs[name];
        if our == their {
            continue;
        }
        let column: usize = name.strip_prefix('c').context("a column of a type")?.parse()?;
        let row = usize::try_from(row_of_image(ours)?)?;
        let types::Type(kind, _) = TYPES[column];
        if is_same(kind, our, their) {
            continue;
        }
        let about = format!("{kind} {}", types::literal(column, row));
        found.insert((about, their.to_string(), our.to_string()));
    }
    Ok(())
}

/// The row whose values the image has; one moved to 200 from 1.
fn row_of_image(image: &Map<String, Value>) -> anyhow::Result<u64> {
    let id = image["id"].as_u64().context("an id")?;
    Ok(if id == 200 { 1 } else { id })
}

/// Numbers are the same where they are the same bits to their column: `1.4E-45` is `1e-45`.
fn is_same(kind: &str, ours: &Value, theirs: &Value) -> bool {
    match (kind, ours.as_f64(), theirs.as_f64()) {
        #[expect(clippy::cast_possible_truncation, reason = "as the column does")]
        ("float", Some(ours), Some(theirs)) => ours as f32 == theirs as f32,
        ("double", Some(ours), Some(theirs)) => ours == theirs,
        _ => false,
    }
}

/// A value that is another each time is told by its shape.
fn told(field: &str, value: Option<&Value>) -> String {
    match (field, value) {
        (_, None) => "absent".into(),
        ("source.version", Some(_)) => "its own version".into(),
        (
            "source.ts_ms" | "source.ts_us" | "source.ts_ns" | "source.thread",
            Some(Value::Number(_)),
        ) => "a number".into(),
        ("source.row" | "source.pos", Some(Value::Number(_))) => "a number".into(),
        (_, Some(value)) => value.to_string(),
    }
}

fn shape(key: &Value) -> String {
    if key.is_array() { "[database, table, {columns}]".into() } else { "{columns}".into() }
}
