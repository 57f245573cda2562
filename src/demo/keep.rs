//! How to look around when all is left running, and how to stop it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use unitflow_change::{Code, Fault};
use unitflow_local::Component;

use crate::demo::local;
use crate::demo::scene::write;
use crate::demo::unit::Unit;
use crate::demo::workers::binary;

/// Commands to try, each in one line that can be pasted.
pub fn look_around(units: &[Unit], config: &Path, prefix: &str) -> Result<String, Fault> {
    let tool = |name: &str| {
        let home = Component::Kafka.home().map_err(local)?;
        home.program(name).map(|path| path.display().to_string()).map_err(local)
    };
    let (groups, consumer) = (tool("kafka-consumer-groups")?, tool("kafka-console-consumer")?);
    let unitflow = format!("{} --config {}", binary()?.display(), config.display());
    let mut text = String::from("Everything is left running. Look around:\n\n");
    text += &format!("  all positions   {unitflow} status\n");
    for (unit, other) in units.iter().zip(units.iter().rev()) {
        let bootstrap = format!("--bootstrap-server {}", unit.kafka.bootstrap());
        let (name, to) = (unit.name, other.name);
        text += &format!(
            "\n  unit {name}, {}\n\
             \x20   client        {}\n\
             \x20   cache         {} -p {}\n\
             \x20   true lag      {groups} {bootstrap} --describe --group {prefix}.{name}-to-{to}.shop\n\
             \x20   what travels  {consumer} {bootstrap} --topic {prefix}.{name}.shop.tagged --from-beginning \
             --max-messages 3 --property print.headers=true\n",
            unit.version,
            client(unit)?,
            unit.cache.server.client().map_err(local)?.display(),
            unit.cache.server.port()
        );
    }
    let [first, second] = units else { return Ok(text) };
    text += &format!(
        "\n  try it\n\
         \x20   in {}:  UPDATE customers SET points = 1000000, written_at = NOW(6) WHERE unit = '{}' LIMIT 1;\n\
         \x20   in {}:  SELECT * FROM customers WHERE points >= 1000000; SELECT * FROM unitflow.ledger; SELECT * FROM unitflow.lag;\n",
        first.name, first.name, second.name
    );
    Ok(text)
}

/// The server's own client, with what it needs to connect.
fn client(unit: &Unit) -> Result<String, Fault> {
    let command = unit.server.client().map_err(local)?;
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    Ok(format!("{} shop", words.join(" ")))
}

/// One script that stops all, workers first, and removes every folder.
pub fn write_stop(folder: &Path, stops: &[PathBuf]) -> Result<PathBuf, Fault> {
    let mut text = String::from(
        "#!/bin/sh\n# Stops what `unitflow demo --keep` left running, and removes its folders.\n",
    );
    for stop in stops {
        text += &format!("sh '{}'\n", stop.display());
    }
    text += &format!("cd / && rm -rf '{}'\n", folder.display());
    let path = folder.join("stop");
    write(&path, &text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).map_err(|error| {
        Fault::fatal(Code::Local, format!("cannot change {}: {error}", path.display()))
    })?;
    Ok(path)
}
