//! The schemas that our records carry beside those of Debezium's connector.

use std::collections::BTreeSet;

use anyhow::Context;
use serde_json::{Map, Value};

use crate::plain::Difference;
use crate::types::TYPES;

/// Every difference between the schemas of two envelopes: ours and theirs.
pub fn differences(ours: &str, theirs: &str) -> anyhow::Result<BTreeSet<Difference>> {
    let mut found = BTreeSet::new();
    let (ours, theirs) = (schema(ours)?, schema(theirs)?);
    for part in ["", "source", "after"] {
        let (ours, theirs) = (fields(&ours, part)?, fields(&theirs, part)?);
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        for name in names {
            let is_struct = ["before", "after", "source"].contains(&name.as_str());
            let (our, their) = (ours.get(name), theirs.get(name));
            if our == their || part.is_empty() && is_struct {
                continue;
            }
            let about = match part {
                "after" => {
                    match name.strip_prefix('c').and_then(|place| place.parse::<usize>().ok()) {
                        Some(place) => TYPES[place].0.to_owned(),
                        None => name.clone(),
                    }
                }
                "" => name.clone(),
                part => format!("{part}.{name}"),
            };
            found.insert((about, told(their), told(our)));
        }
    }
    Ok(found)
}

fn schema(record: &str) -> anyhow::Result<Value> {
    Ok(serde_json::from_str::<Value>(record)?["schema"].take())
}

/// The fields of the envelope, or of a struct in it, by name and without it.
fn fields(schema: &Value, part: &str) -> anyhow::Result<Map<String, Value>> {
    let list = |schema: &Value| schema["fields"].as_array().cloned().context("fields");
    let mut all = list(schema)?;
    if !part.is_empty() {
        let is_it = |field: &&Value| field["field"] == part;
        all = list(all.iter().find(is_it).context("a struct")?)?;
    }
    let named = all.into_iter().map(|mut field| {
        let name = field["field"].take().as_str().context("a name")?.to_owned();
        Ok((name, field))
    });
    named.collect()
}

/// A type as the document has it: what it is, and else what stands in it.
fn told(field: Option<&Value>) -> String {
    let Some(Value::Object(field)) = field else { return "absent".into() };
    let mut field = field.clone();
    field.remove("field");
    let mut text = Vec::new();
    for part in ["type", "name"] {
        if let Some(Value::String(part)) = field.remove(part) {
            text.push(part);
        }
    }
    if field.remove("optional") == Some(Value::Bool(true)) {
        text.push("optional".into());
    }
    field.remove("version");
    if !field.is_empty() {
        text.push(Value::Object(field).to_string());
    }
    text.join(" ")
}
