//! Servers that go back in time while the others write: a target that Kafka no longer bridges, and a
//! source that lost what was captured from it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::time::{Instant, sleep, timeout};
use unitflow_harness::Flavor::{self, Mariadb, Mysql9};
use unitflow_harness::random::{Random, is_full, seed};
use unitflow_harness::{Mesh, MeshSetup, Mysql, beside, watch};
use unitflow_kafka::Broker;
use unitflow_kafka::topics::bounds;
use unitflow_sinks::copy::passed;

use crate::writers::{Last, NEW_ROWS, Writers};
use crate::{
    BINARY, CLASHING, GOODS, QUIET, arrive, clash_while_filling, die_while_copying, ensure_kept,
    ensure_newest, ensure_no_echo, ensure_well, fill_table, has_died, kill_each, limit, said, says,
    shall_die_while_copying, shows, watch_goods, write_while_filling,
};

const ROWS: u64 = 4_000;
/// Where a log is mended more than once.
const FEWER: u64 = 1_000;
/// Of a table that takes several chunks.
const MORE: u64 = 12_000;

fn few() -> String {
    fill_table("shop.goods", ROWS)
}

#[test]
fn a_target_that_kafka_no_longer_bridges_is_refilled() {
    beside("a target that Kafka no longer bridges", limit(), async {
        let random = Random::new(seed("filling"));
        let more = GOODS.replace("goods", "more");
        let rows = format!("{} {}", few(), fill_table("shop.more", MORE));
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb])
            .kafka_shared()
            .one_way("A", "B")
            .tables(GOODS);
        let setup = setup.tables(&more).prepare("A", &rows).prepare("B", &rows);
        let mut mesh = setup.start().await?;
        mesh.start_workers()?;
        let mut own = Writers::none();
        own.own((mesh.server("A"), "shop.goods"), (0, 1), 0..ROWS, random.branch(0)).await?;
        sleep(Duration::from_secs(1)).await;
        let older = mesh.folder().join("older");
        mesh.server("B").copy_data_to(&older).await?;
        sleep(Duration::from_secs(2)).await;
        mesh.run(&["wait", "--from", "A", "--to", "B"]).await?;
        mesh.worker("B", "sink")?.kill()?;
        mesh.server("B").restore_from(&older).await?;
        trim(&mesh, "A.shop.tagged", [-1; 4]).await?;
        mesh.start_worker("B", "sink", "")?;
        ends_with(&mut mesh, ("B", "sink"), "unitflow resync full --from A --to B").await?;
        let resync = ["resync", "full", "--from", "A", "--why", "test", "--by", "test"];
        let part = mesh.run(&[&resync[..], &["--table", "shop.goods"]].concat()).await;
        let part = part.err().context("a part was enough")?.to_string();
        ensure!(part.contains("[offset_gone]") && part.contains("without --table"), "{part}");
        let watch = watch_goods(&mesh, "B").await?;
        let mut command = mesh.spawn(&resync)?;
        says(&mesh, "what Kafka no longer holds is passed over").await?;
        mesh.start_worker("B", "sink", "")?;
        let workers = [("A", "connector"), ("A", "transformer")];
        kill_each(&mut mesh, &mut command, &workers, 700, "").await?;
        die_while_copying(&mut mesh, "B").await?;
        ensure_well(&mesh, command).await?;
        let mut last = own.stop().await?;
        arrive(&mut mesh).await?;
        ensure_kept(&mesh, &last).await?;
        // Slowly, so that the copy's records stay by far the most.
        let mut own = Writers::slow();
        let goods = (mesh.server("A"), "shop.goods");
        own.own(goods, (0, 1), 0..ROWS, random.branch(1)).await?;
        a_copy_is_cut_in_the_middle(&mut mesh, &resync).await?;
        last.extend(own.stop().await?);
        arrive(&mut mesh).await?;
        ensure_newest(watch).await?;
        ensure_kept(&mesh, &last).await?;
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

/// B is restored while both write: it has lost the end of its own log, and what it has to apply again is
/// gone.
#[test]
fn a_unit_that_kafka_no_longer_bridges_is_refilled() {
    beside("a unit that Kafka no longer bridges", limit(), async {
        let random = Random::new(seed("filling"));
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb]).kafka_shared().tables(GOODS);
        let mut mesh = setup.prepare("A", &few()).prepare("B", &few()).start().await?;
        mesh.start_workers()?;
        let (mut own, mut theirs) = (Writers::none(), Writers::none());
        let goods = |unit| (mesh.server(unit), "shop.goods");
        own.own(goods("A"), (0, 2), 0..ROWS, random.branch(0)).await?;
        theirs.own(goods("B"), (1, 2), 0..ROWS, random.branch(1)).await?;
        sleep(Duration::from_secs(1)).await;
        let older = mesh.folder().join("older");
        mesh.server("B").copy_data_to(&older).await?;
        sleep(Duration::from_secs(2)).await;
        theirs.stop().await?;
        mesh.run(&["wait", "--from", "B", "--to", "A"]).await?;
        mesh.run(&["wait", "--from", "A", "--to", "B"]).await?;
        mesh.worker("B", "sink")?.kill()?;
        mesh.server("B").restore_from(&older).await?;
        trim(&mesh, "A.shop.tagged", [-1; 4]).await?;
        let mut again = Writers::none();
        let goods = (mesh.server("B"), "shop.goods");
        again.own(goods, (1, 2), 0..ROWS, random.branch(2)).await?;
        mesh.start_worker("B", "sink", "")?;
        let refill = "unitflow resync full --from A --to B";
        ends_with(&mut mesh, ("B", "sink"), refill).await?;
        ends_with(&mut mesh, ("B", "connector"), "unitflow resync lost B --from A").await?;
        // The one can't come to its end without the other.
        let why = ["--why", "test", "--by", "test"];
        let lost = [&["resync", "lost", "B", "--from", "A"], &why[..]].concat();
        let command = mesh.spawn(&lost)?;
        goes_on(&mut mesh, "B", "connector").await?;
        let ended = timeout(QUIET * 2, command.wait_with_output()).await.context("it waits")??;
        let text = said(&mesh)?;
        ensure!(ended.status.code() == Some(3) && text.contains(refill), "it ended with {text}");
        let full = [&["resync", "full", "--from", "A", "--to", "B"], &why[..]].concat();
        // Where both wrote since, the authority's rows count.
        let of_a = format!(
            "SELECT id, n FROM shop.goods WHERE id % 2 = 0 AND (id < {ROWS} OR id >= {NEW_ROWS})"
        );
        let watch = watch::rows(mesh.server("B"), &of_a).await?;
        let mut killed = mesh.spawn(&full)?;
        says(&mesh, "what Kafka no longer holds is passed over").await?;
        mesh.start_worker("B", "sink", "")?;
        let clashing = clash_while_filling(&mesh, Writers::slow(), &random).await?;
        let workers = [("B", "connector"), ("A", "connector"), ("A", "transformer")];
        kill_each(&mut mesh, &mut killed, &workers, 700, "").await?;
        killed.kill().await?;
        let command = mesh.spawn(&full)?;
        die_while_copying(&mut mesh, "B").await?;
        clashing.stop().await?;
        ensure_well(&mesh, command).await?;
        let left = mesh.run(&lost).await?;
        ensure!(left.contains("nothing is lost"), "{left}");
        let last = own.stop().await?;
        again.stop().await?;
        arrive(&mut mesh).await?;
        ensure_newest(watch).await?;
        ensure_kept(&mesh, &last).await?;
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

/// What is gone is a part of a copy that is under way: a chunk, and the head of the next one. A goes on
/// writing.
async fn a_copy_is_cut_in_the_middle(mesh: &mut Mesh, resync: &[&str]) -> anyhow::Result<()> {
    mesh.worker("B", "sink")?.kill()?;
    let begun = ends(mesh, "A.shop.tagged").await?;
    let mut killed = mesh.spawn(&[resync, &["--rows-per-second", "1000"]].concat())?;
    let deadline = Instant::now() + QUIET;
    // All goods, and a chunk of the others.
    let cut = loop {
        let now = ends(mesh, "A.shop.tagged").await?;
        let written: i64 = now.iter().zip(begun).map(|(now, begun)| now - begun).sum();
        if written > (ROWS + MORE / 3) as i64 {
            break now.map(|end| end - 10);
        }
        ensure!(Instant::now() < deadline, "only {written} records are written");
        sleep(Duration::from_millis(20)).await;
    };
    killed.kill().await?;
    let lost = format!("SET SESSION sql_log_bin = 0; DELETE FROM shop.more WHERE id < {MORE} / 4");
    mesh.server("B").sql(&lost).await?;
    trim(mesh, "A.shop.tagged", cut).await?;
    mesh.start_worker("B", "sink", "")?;
    ends_with(mesh, ("B", "sink"), "unitflow resync full --from A --to B").await?;
    // Without it nothing is copied again, and so settled, before it was seen.
    mesh.worker("A", "connector")?.kill()?;
    let command = mesh.spawn(resync)?;
    let passed = "SELECT COUNT(*) = 4 FROM unitflow.marker WHERE name LIKE 'passed %'";
    shows(mesh, "B", passed).await?;
    mesh.start_worker("B", "sink", "")?;
    let headless = "SELECT COUNT(*) > 0 FROM unitflow.unsettled WHERE why = 'its head is gone'";
    shows(mesh, "B", headless).await?;
    mesh.start_worker("A", "connector", "")?;
    ensure_well(mesh, command).await?;
    // Nobody writes these.
    let more = "SELECT COUNT(*), SUM(CRC32(CONCAT_WS(',', id, n, body))) FROM shop.more";
    let (a, b) = (mesh.server("A").sql(more).await?, mesh.server("B").sql(more).await?);
    ensure!(a == b, "A has {a} of them, B has {b}");
    let left = "SELECT COUNT(*) FROM unitflow.marker WHERE name LIKE 'passed %'";
    let left = mesh.server("B").sql(left).await?;
    ensure!(left == "0", "{left} lanes still count as lacking what they passed over");
    Ok(())
}

/// Where the four partitions of a topic of A's end.
async fn ends(mesh: &Mesh, topic: &str) -> anyhow::Result<[i64; 4]> {
    let broker = Broker { bootstrap: mesh.kafka("A").bootstrap(), properties: Default::default() };
    let mut ends = [0; 4];
    for (lane, end) in (0..).zip(&mut ends) {
        *end = bounds(&broker, &mesh.topic(topic), lane).await?.1;
    }
    Ok(ends)
}

/// The authority's ledger passes over the changes of a parked table, so nothing is copied from there.
#[test]
fn a_table_that_waits_in_the_authority_is_not_copied_from_it() {
    beside("a table that waits in the authority", limit(), async {
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb]).kafka_shared().tables(GOODS);
        let mut mesh = setup.prepare("A", &few()).prepare("B", &few()).start().await?;
        mesh.start_workers()?;
        mesh.server("A")
            .sql("SET sql_log_bin = 0; ALTER TABLE shop.goods MODIFY body VARCHAR(20)")
            .await?;
        mesh.server("B").sql("UPDATE shop.goods SET body = REPEAT('x', 30) WHERE id = 7").await?;
        mesh.server("B").sql("UPDATE shop.goods SET n = 8 WHERE id < 100").await?;
        let parked = "SELECT COUNT(*) > 0 FROM unitflow.parked";
        let deadline = Instant::now() + QUIET;
        while mesh.server("A").sql(parked).await? == "0" {
            ensure!(Instant::now() < deadline, "nothing is parked");
            sleep(Duration::from_millis(50)).await;
        }
        let why = ["--why", "test", "--by", "test"];
        let refused = mesh.run(&[&["resync", "full", "--from", "A"], &why[..]].concat()).await;
        let refused = refused.err().context("the table was copied")?.to_string();
        for part in [
            "[parked]",
            "shop.goods is parked in unit A",
            "unitflow resume B-to-A.shop --table shop.goods",
        ] {
            ensure!(refused.contains(part), "no {part} in {refused}");
        }
        // Ordered before it was parked, a copy leaves alone what the authority lacks.
        lower(&mesh).await?;
        mesh.server("A")
            .sql("SET sql_log_bin = 0; ALTER TABLE shop.goods MODIFY body VARCHAR(200) NOT NULL")
            .await?;
        mesh.run(&[&["resume", "B-to-A.shop"], &why[..]].concat()).await?;
        arrive(&mut mesh).await?;
        let rows = "SELECT * FROM shop.goods ORDER BY id";
        ensure!(
            mesh.server("A").sql(rows).await? == mesh.server("B").sql(rows).await?,
            "they differ"
        );
        mesh.finish();
        Ok(())
    });
}

/// Which lanes count as standing lower than the ledger says, as a copy's reader asks for it.
async fn lower(mesh: &Mesh) -> anyhow::Result<()> {
    for unit in ["A", "B"] {
        let server = mesh.server(unit);
        server
            .sql("SET sql_log_bin = 0; INSERT INTO unitflow.marker VALUES ('passed C.shop 3', 77)")
            .await?;
        let query = passed::query(&[("shop", "goods"), ("odd", "it's")]);
        let mut found = server.sql(&query).await?;
        server.sql("SET sql_log_bin = 0; DELETE FROM unitflow.marker WHERE n = 77").await?;
        let parked = "SELECT log, lane, seq FROM unitflow.parked";
        let parked = server.sql(parked).await?;
        if parked.is_empty() {
            found.push('\n');
        }
        ensure!(found == format!("C.shop\t3\t77\n{parked}"), "{unit} has {found}");
    }
    Ok(())
}

/// What a connector or a transformer has to read next is removed while both units write.
#[test]
fn a_log_of_which_a_part_is_gone_goes_on_with_a_copy() {
    beside("a log of which a part is gone", limit() * 2, async {
        let random = Random::new(seed("filling"));
        let rows = fill_table("shop.goods", FEWER);
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb]).kafka_shared().tables(GOODS);
        let mut mesh = setup.prepare("A", &rows).prepare("B", &rows).start().await?;
        mesh.start_workers()?;
        let mut own = Writers::none();
        for (place, unit) in (0..).zip(mesh.units()) {
            let server = (&unit.server, "shop.goods");
            own.own(server, (place, 2), 0..FEWER, random.branch(place)).await?;
        }
        let watches = [watch_goods(&mesh, "A").await?, watch_goods(&mesh, "B").await?];
        let all = [("A", "connector"), ("B", "connector"), ("A", "transformer")];
        // Only MariaDB does not say at once what it has purged.
        let steps = if is_full() { &all[..] } else { &all[1..] };
        for &(unit, role) in steps {
            a_part_is_gone(&mut mesh, (unit, role), &random)
                .await
                .with_context(|| format!("{role} of {unit}"))?;
        }
        let last = own.stop().await?;
        arrive(&mut mesh).await?;
        for watch in watches {
            ensure_newest(watch).await?;
        }
        ensure_kept(&mesh, &last).await?;
        ensure_no_echo(&mesh)?;
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

/// Leaves a server only the last file of its log.
async fn purge(server: &Mysql) -> anyhow::Result<()> {
    server.sql("FLUSH BINARY LOGS").await?;
    let deadline = Instant::now() + QUIET;
    while server.binlog_files()?.len() > 1 {
        ensure!(Instant::now() < deadline, "the log is kept");
        server.sql("PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY").await?;
    }
    Ok(())
}

async fn a_part_is_gone(
    mesh: &mut Mesh,
    (unit, role): (&'static str, &'static str),
    random: &Random,
) -> anyhow::Result<()> {
    sleep(Duration::from_secs(1)).await;
    mesh.worker(unit, role)?.kill()?;
    sleep(Duration::from_millis(1500)).await;
    match role {
        "connector" => purge(mesh.server(unit)).await?,
        _ => trim(mesh, &format!("{unit}.shop.captured"), [-1]).await?,
    }
    let advice = format!("unitflow resync full --from {unit} --why");
    // What was written since may be all that is left.
    sleep(Duration::from_millis(500)).await;
    mesh.start_worker(unit, role, "")?;
    ends_with(mesh, (unit, role), &advice).await?;
    let resync = ["resync", "full", "--from", unit, "--why", "test", "--by", "test"];
    let part = mesh.run(&[&resync[..], &["--table", "shop.goods"]].concat()).await;
    let part = part.err().context("a part was enough")?.to_string();
    ensure!(part.contains("copy all tables to all units"), "{part}");
    let mut killed = mesh.spawn(&resync)?;
    goes_on(mesh, unit, role).await?;
    let listed = mesh.run(&["status"]).await.err().context("status finds nothing")?.to_string();
    let to = if unit == "A" { "B" } else { "A" };
    let passed = "SELECT COUNT(*) = 4 FROM unitflow.marker WHERE name LIKE 'passed %'";
    shows(mesh, to, passed).await?;
    let again = format!("unitflow resync full --from {unit} --store shop --why");
    for part in
        [format!("LACKING {unit}-to-{to}.shop"), format!("FILLING shop.goods in {to}"), again]
    {
        ensure!(listed.contains(&part), "no {part} in {listed}");
    }
    killed.kill().await?;
    let mut command = mesh.spawn(&resync)?;
    let clashing = clash_while_filling(mesh, Writers::slow(), random).await?;
    kill_each(mesh, &mut command, &[(unit, "connector")], 700, "").await?;
    die_while_copying(mesh, to).await?;
    clashing.stop().await?;
    ensure_well(mesh, command).await?;
    let passed = "SELECT COUNT(*) FROM unitflow.marker WHERE name LIKE 'passed %'";
    let left = mesh.server(to).sql(passed).await?;
    ensure!(left == "0", "{to} still lacks what it passed over");
    Ok(())
}

/// What the runbook says of a log whose topics are not what they were, while both units write and
/// workers and commands die.
#[test]
fn a_log_whose_topic_was_created_anew_begins_anew() {
    beside("a log that begins anew", limit(), async {
        let random = Random::new(seed("filling"));
        let rows = fill_table("shop.goods", MORE);
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb]).kafka_shared().tables(GOODS);
        let mut mesh = setup.prepare("A", &rows).prepare("B", &rows).start().await?;
        mesh.start_workers()?;
        let mut before = Writers::slow();
        for (place, unit) in (0..).zip(mesh.units()) {
            let goods = (&unit.server, "shop.goods");
            before.own(goods, (place, 2), 0..CLASHING.start, random.branch(10 + place)).await?;
        }
        mesh.run(&["wait", "--from", "A", "--to", "B"]).await?;
        for (unit, role) in [("A", "transformer"), ("B", "sink")] {
            mesh.worker(unit, role)?.kill()?;
        }
        let topic = mesh.topic("A.shop.tagged");
        for what in [&["--delete"][..], &["--create", "--partitions", "4"]] {
            let change = [what, &["--topic", &topic]].concat();
            mesh.kafka("A").run_tool("kafka-topics", change).await?;
        }
        for (unit, role) in [("A", "transformer"), ("B", "sink")] {
            mesh.start_worker(unit, role, "")?;
            ends_with(&mut mesh, (unit, role), "see the runbook for how a log begins anew").await?;
        }
        // What A applies meanwhile is not affected.
        mesh.run(&["wait", "--from", "B", "--to", "A"]).await?;
        for role in ["connector", "sink"] {
            mesh.worker("A", role)?.kill()?;
        }
        begin_anew(&mut mesh).await?;
        let resync = ["resync", "full", "--from", "A", "--why", "test", "--by", "test"];
        let resync = [&resync[..], &["--rows-per-second", "2000"]].concat();
        let mut killed = mesh.spawn(&resync)?;
        shows(&mesh, "B", "SELECT COUNT(*) > 0 FROM unitflow.filling").await?;
        let mut last = before.stop().await?;
        let (own, clashing) = write_while_filling(&mesh, Writers::slow, &random).await?;
        let watch = watch_goods(&mesh, "B").await?;
        mesh.start_worker("A", "sink", "")?;
        mesh.start_worker("B", "sink", "")?;
        let workers = [("A", "connector"), ("B", "connector"), ("A", "sink")];
        kill_each(&mut mesh, &mut killed, &workers, 700, "").await?;
        killed.kill().await?;
        let command = mesh.spawn(&resync)?;
        die_while_copying(&mut mesh, "B").await?;
        clashing.stop().await?;
        ensure_well(&mesh, command).await?;
        last.extend(own.stop().await?);
        arrive(&mut mesh).await?;
        ensure_newest(watch).await?;
        ensure_kept(&mesh, &last).await?;
        ensure_no_echo(&mesh)?;
        mesh.ensure_still().await?;
        mesh.finish();
        Ok(())
    });
}

/// Unit A leaves and comes back; nobody works for it. Its connector and its transformer begin.
async fn begin_anew(mesh: &mut Mesh) -> anyhow::Result<()> {
    let leave = ["leave", "--unit", "A", "--lost", "--topics"];
    let deadline = Instant::now() + QUIET;
    // Kafka lets who was killed go a moment later.
    while let Err(error) = mesh.run_and_die(&leave, "die_leaving").await {
        let early = error.to_string().contains("A can't leave yet");
        ensure!(early && Instant::now() < deadline, "{error:#}");
        sleep(Duration::from_millis(500)).await;
    }
    let left = mesh.run(&leave).await?;
    ensure!(left.contains("unit A has left"), "{left}");
    let made = mesh.run(&["init"]).await?;
    ensure!(made.contains("A.shop to B: 4 lanes in the ledger"), "{made}");
    mesh.start_worker("A", "connector", "")?;
    mesh.start_worker("A", "transformer", "")
}

#[test]
fn a_mysql_source_gets_back_what_it_lost() {
    beside("a MySQL source that lost its end", limit(), lost(&[Mysql9, Mariadb]));
}

#[test]
fn a_mariadb_source_among_three_gets_back_what_it_lost() {
    beside("a MariaDB source that lost its end", limit(), lost(&[Mariadb, Mysql9, Mariadb]));
}

/// Rows that no writer touches, and one loss of each kind.
const KEPT: &str = "(2000001, 1, 'goes'), (2000002, 1, 'changes')";
const LOST: &str = "INSERT INTO shop.goods (id, n, body) VALUES (2000000, 1, 'comes');
    DELETE FROM shop.goods WHERE id = 2000001;
    UPDATE shop.goods SET n = 2 WHERE id = 2000002;";

/// A's server goes back in time and takes writes again before anybody knows, under the names that
/// what it lost had. What it has written since counts, all else comes back from B.
async fn lost(flavors: &[Flavor]) -> anyhow::Result<()> {
    let random = Random::new(seed("filling"));
    let units = flavors.len() as u64;
    let mut setup = MeshSetup::new(BINARY, flavors).tables(GOODS);
    if units > 2 {
        setup = setup.kafka_shared();
    }
    for unit in ["A", "B", "C"].into_iter().take(flavors.len()) {
        setup = setup.prepare(unit, &few());
    }
    let mut mesh = setup.start().await?;
    mesh.start_workers()?;
    // Two cores bear no more of three units.
    let writers = || if units > 2 { Writers::slow() } else { Writers::none() };
    let (mut first, mut others) = (writers(), writers());
    let server = (mesh.server("A"), "shop.goods");
    first.own(server, (0, units), 0..ROWS, random.branch(0)).await?;
    for (place, unit) in (0..).zip(mesh.units()).skip(1) {
        let server = (&unit.server, "shop.goods");
        others.own(server, (place, units), 0..ROWS, random.branch(place)).await?;
    }
    mesh.server("A").sql(&format!("INSERT INTO shop.goods (id, n, body) VALUES {KEPT}")).await?;
    sleep(Duration::from_secs(1)).await;
    let older = mesh.folder().join("older");
    mesh.server("A").copy_data_to(&older).await?;
    mesh.server("A").sql(LOST).await?;
    sleep(Duration::from_secs(2)).await;
    let mut last = first.stop().await?;
    last.extend([(2_000_000, Some(1)), (2_000_001, None), (2_000_002, Some(2))]);
    for unit in ["B", "C"].into_iter().take(flavors.len() - 1) {
        mesh.run(&["wait", "--from", "A", "--to", unit]).await?;
    }
    mesh.server("A").restore_from(&older).await?;
    let mut again = writers();
    let server = (mesh.server("A"), "shop.goods");
    again.own(server, (0, units), 0..ROWS, random.branch(10)).await?;
    ends_with(&mut mesh, ("A", "connector"), "unitflow resync lost A --from B").await?;
    let ways = ["resync", "lost", "A", "--from", "B", "--why", "test", "--by", "test"];
    let listed = mesh.run(&[&ways[..], &["--dry-run"]].concat()).await;
    ensure_listed(&listed.err().context("nothing is listed")?.to_string(), units)?;
    mesh.run_and_die(&ways, "die_before_turning").await?;
    // Killed as soon as it has begun, wherever that is.
    let mut killed = mesh.spawn(&ways)?;
    let begun = "SELECT COUNT(*) FROM unitflow.filling";
    let deadline = Instant::now() + QUIET;
    while mesh.server("A").sql(begun).await? == "0" {
        ensure!(Instant::now() < deadline, "the command does not begin:\n{}", said(&mesh)?);
    }
    killed.kill().await?;
    let mut command = mesh.spawn(&ways)?;
    let watch = watch_goods(&mesh, "A").await?;
    shall_die_while_copying(&mut mesh, "A")?;
    goes_on(&mut mesh, "A", "connector").await?;
    let workers = [("B", "connector"), ("A", "connector"), ("A", "transformer"), ("B", "sink")];
    kill_each(&mut mesh, &mut command, &workers, 700, "").await?;
    has_died(&mut mesh, "A").await?;
    ensure_well(&mesh, command).await?;
    last.extend(others.stop().await?);
    let since: Last = again.stop().await?;
    println!("  {} of A's rows were written before, {} since", last.len(), since.len());
    last.extend(since);
    arrive(&mut mesh).await?;
    ensure_newest(watch).await?;
    ensure_kept(&mesh, &last).await?;
    ensure_no_echo(&mesh)?;
    let left = mesh.run(&[&ways[..], &["--dry-run"]].concat()).await?;
    ensure!(left.contains("nothing is lost"), "{left}");
    mesh.ensure_still().await?;
    mesh.finish();
    Ok(())
}

/// Whether each kind of loss is listed with who holds the row.
fn ensure_listed(text: &str, units: u64) -> anyhow::Result<()> {
    let others = ["B", "C"].into_iter().take(usize::try_from(units)? - 1);
    for other in others {
        for what in ["missing", "different", "not deleted"] {
            let row = |line: &str| {
                let mut parts = line.split_whitespace();
                parts.next() == Some(other)
                    && line.contains(what)
                    && line.contains(r#"["shop","goods",{"id":"#)
            };
            ensure!(text.lines().any(row), "no row of {other} is {what}:\n{text}");
        }
    }
    Ok(())
}

/// Waits until a worker has ended with this advice.
async fn ends_with(
    mesh: &mut Mesh,
    (unit, role): (&str, &str),
    advice: &str,
) -> anyhow::Result<()> {
    let worker = mesh.worker(unit, role)?;
    let ended = worker.wait(QUIET).await?;
    let log = worker.log()?;
    ensure!(ended.code() == Some(3) && log.contains(advice), "it ended with {ended}:\n{log}");
    Ok(())
}

/// Starts a unit's connector or transformer until it finds a log that goes on.
async fn goes_on(mesh: &mut Mesh, unit: &str, role: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + QUIET;
    let works = if role == "connector" { "capturing" } else { "transforming" };
    while Instant::now() < deadline {
        mesh.start_worker(unit, role, "")?;
        let worker = mesh.worker(unit, role)?;
        while worker.ended().is_none() {
            // One that finds records missing says so at once.
            if worker.log()?.contains(works) {
                sleep(Duration::from_secs(1)).await;
                if mesh.worker(unit, role)?.ended().is_none() {
                    return Ok(());
                }
                break;
            }
            ensure!(Instant::now() < deadline, "{unit}'s {role} does not begin");
            sleep(Duration::from_millis(50)).await;
        }
    }
    bail!("{unit}'s {role} does not go on:\n{}", said(mesh)?)
}

/// Removes the records of a topic's partitions before these offsets; all before -1.
async fn trim<const LANES: usize>(
    mesh: &Mesh,
    topic: &str,
    offsets: [i64; LANES],
) -> anyhow::Result<()> {
    let topic = mesh.topic(topic);
    let all = offsets.iter().enumerate().map(|(lane, offset)| {
        format!(r#"{{"topic":"{topic}","partition":{lane},"offset":{offset}}}"#)
    });
    let all = all.collect::<Vec<_>>().join(",");
    let file = mesh.folder().join("trim.json");
    fs::write(&file, format!(r#"{{"partitions":[{all}],"version":1}}"#))?;
    let file = file.to_str().context("a path")?;
    mesh.kafka("A").run_tool("kafka-delete-records", ["--offset-json-file", file]).await?;
    Ok(())
}
