//! Every command by which a server's data change, through the whole pipeline.

use anyhow::ensure;
use unitflow_harness::beside;
use unitflow_local::RedisFlavor;
use unitflow_redis::Command;
use unitflow_redis::commands::{Arrives, form_of, name_of};

use crate::mesh::{QUIET, RedisMesh};
use crate::{STOPS_WITHIN, limit};

#[path = "../../connectors/redis/tests/examples/mod.rs"]
mod examples;

/// Commands that give fields of hashes an expiry.
const FIELDS: [&str; 6] = ["HEXPIRE", "HPEXPIRE", "HEXPIREAT", "HPEXPIREAT", "HGETEX", "HSETEX"];

fn name(given: &str) -> String {
    name_of(&Command::of(given.split(' ')))
}

/// Whether it acts on more than keys. A message is no data, and stays without a word.
fn is_policy(given: &str) -> bool {
    let is_policy = form_of(&name(given)).is_some_and(|form| form.arrives == Arrives::Policy);
    is_policy && !given.contains("PUBLISH")
}

fn is_refused(given: &str) -> bool {
    is_policy(given) || FIELDS.contains(&name(given).as_str())
}

#[test]
fn each_write_of_redis_7_arrives_or_is_refused() {
    each_write_arrives_or_is_refused(RedisFlavor::Redis7);
}

#[test]
fn each_write_of_redis_8_arrives_or_is_refused() {
    each_write_arrives_or_is_refused(RedisFlavor::Redis8);
}

#[test]
fn each_write_of_valkey_arrives_or_is_refused() {
    each_write_arrives_or_is_refused(RedisFlavor::Valkey);
}

/// Both ends are of one kind: a command that one of them has is not for all.
fn each_write_arrives_or_is_refused(flavor: RedisFlavor) {
    beside(&format!("each write of {flavor:?}"), limit(), async {
        let mut mesh = RedisMesh::of(&[flavor, flavor]).start().await?;
        let all = examples::written(flavor).into_iter().map(|(given, _)| given);
        let (refused, carried): (Vec<&str>, Vec<&str>) = all.partition(|given| is_refused(given));
        for given in &carried {
            mesh.server("A").cli(given.split(' ')).await?;
        }
        mesh.quiesce(QUIET).await?;
        mesh.ensure_equal().await?;
        refuse(&mut mesh, flavor, &refused).await?;
        println!("  {} commands arrived", carried.len());
        mesh.finish();
        Ok(())
    });
}

/// The flow stops before each, until it is told what to leave where it is.
async fn refuse(
    mesh: &mut RedisMesh,
    flavor: RedisFlavor,
    commands: &[&str],
) -> anyhow::Result<()> {
    let (policy, fields): (Vec<&str>, Vec<&str>) =
        commands.iter().partition(|given| is_policy(given));
    ensure!(policy.len() >= 4, "only {policy:?} are refused by policy");
    let (mut exclude, mut allowed) = ("", Vec::new());
    // One that only gives an expiry comes first, one that writes as well comes last.
    let given = if flavor == RedisFlavor::Redis8 { fields.first() } else { fields.last() };
    if let Some(given) = given {
        stops_before(mesh, given).await?;
        exclude = "exclude = [\"of-fields\"]\n";
        mesh.change_flow(exclude)?;
        mesh.restart("A", "connector")?;
    }
    for given in policy {
        stops_before(mesh, given).await?;
        allowed.push(format!("\"{}\" = \"stay\"", name(given)));
        mesh.change_flow(&format!("{exclude}commands = {{ {} }}", allowed.join(", ")))?;
        mesh.restart("A", "connector")?;
    }
    Ok(())
}

async fn stops_before(mesh: &mut RedisMesh, given: &str) -> anyhow::Result<()> {
    mesh.server("A").cli(given.split(' ')).await?;
    mesh.worker("A", "connector")?.says("code=command", STOPS_WITHIN).await
}
