//! A table, a filter and a store are added to a flow that runs: what is new is copied, the rest flows on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mysql_async::prelude::Queryable as _;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::load::connect;
use unitflow_harness::random::{Random, is_full, seed};
use unitflow_harness::{Mesh, MeshSetup, Mysql, beside};

use crate::writers::{NEW_ROWS, Writers};
use crate::{
    BINARY, CLASHING, GOODS, arrive, die_while_copying, ensure_kept, ensure_kept_in, ensure_newest,
    ensure_no_echo, ensure_well, fill, fill_table, limit, says, shows, watch_goods,
};

/// A worker that is started again is at work within this, also on a busy machine; nothing that
/// flowed before rests for longer.
const REST: Duration = Duration::from_secs(30);
/// Rows of the prices that travelled before, and those that do afterwards; the last of these are written by
/// several units.
const TRAVELS: [u64; 2] = [2_000, 3_000];
const PRICES_CLASHING: std::ops::Range<u64> = 2_900..3_000;
const PER_SECOND: &str = "1500";
const ROLES: [&str; 3] = ["connector", "transformer", "sink"];

fn rows() -> u64 {
    if is_full() { 60_000 } else { 12_000 }
}

/// Like the goods, under other names.
fn like_goods(name: &str) -> String {
    GOODS.replace("goods", name)
}

fn flow(tables: &str, below: u64) -> String {
    format!("tables = [{tables}]\nrows = {{ \"shop.prices\" = \"id < {below}\" }}")
}

#[test]
fn a_table_a_filter_and_a_store_are_added() {
    beside("a table, a filter and a store are added", limit(), grow());
}

/// Before: A and B exchange the goods, and prices of low numbers. Then novelties travel too, more of
/// the prices, and another store with whole transactions.
async fn grow() -> anyhow::Result<()> {
    let random = Random::new(seed("filling"));
    let prices = fill_table("shop.prices", 2 * TRAVELS[0]);
    let only = format!("{prices}DELETE FROM shop.prices WHERE id >= {};", TRAVELS[0]);
    let mut mesh = MeshSetup::new(BINARY, &[Mysql9, Mariadb])
        .kafka_shared()
        .tables(&[GOODS, &like_goods("novelties"), &like_goods("prices")].concat())
        .prepare("A", &[fill(), prices, fill_table("shop.novelties", rows())].concat())
        .prepare("B", &[fill(), only].concat())
        .flow(&flow("\"shop.goods\", \"shop.prices\"", TRAVELS[0]))
        .start()
        .await?;
    let people = [people(rows()).await?, people(0).await?];
    mesh.start_workers()?;
    let (mut goods, mut prices) = (Writers::slow(), Writers::slow());
    for (place, unit) in (0..).zip(mesh.units()) {
        let server = &unit.server;
        goods.own((server, "shop.goods"), (place, 2), 0..4_000, random.branch(place)).await?;
        let below = 0..PRICES_CLASHING.start;
        prices.own((server, "shop.prices"), (place, 2), below, random.branch(place + 10)).await?;
    }
    mesh.change_flow(&flow("\"shop.goods\", \"shop.prices\", \"shop.novelties\"", TRAVELS[1]))?;
    mesh.append(&crm(&people))?;
    mesh.run(&["init"]).await?;
    // Servers of a test are not as safe as check wants them.
    let checked = mesh.run(&["check"]).await.unwrap_or_else(|error| error.to_string());
    ensure!(checked.contains("what an older configuration said"), "{checked}");
    let rest = Rest::watch(mesh.server("B")).await?;
    let watch = watch_goods(&mesh, "B").await?;
    let copies = [
        copy(&mesh, &["--store", "shop", "--table", "shop.novelties", "--table", "shop.prices"])?,
        copy(&mesh, &["--store", "crm"])?,
    ];
    says(&mesh, "waiting: log A.shop does not carry").await?;
    // The old workers die, the new ones know more.
    for (unit, role) in ["B", "A"].into_iter().flat_map(|unit| ROLES.map(|role| (unit, role))) {
        die_and_come_back(&mut mesh, unit, role)?;
    }
    let (mut more, mut clashing) = (Writers::slow(), Writers::slow());
    // One that both write and A deletes is left as it is in B: it may be one that does not travel.
    let mut at_prices = Writers::slow().keeping();
    let mut others = Writers::slow();
    for (place, server) in (0..).zip(mesh.units().iter().map(|unit| &unit.server)) {
        let table = (server, "shop.novelties");
        more.own(table, (place, 2), 0..CLASHING.start, random.branch(place + 20)).await?;
        clashing.clashing(table, CLASHING, random.branch(place + 30)).await?;
        let table = (server, "shop.prices");
        at_prices.clashing(table, PRICES_CLASHING, random.branch(place + 60)).await?;
    }
    for (place, server) in (0..).zip(&people) {
        let table = (server, "shop.people");
        others.own(table, (place, 2), 0..CLASHING.start, random.branch(place + 40)).await?;
        clashing.clashing(table, CLASHING, random.branch(place + 50)).await?;
    }
    shows(&mesh, "B", "SELECT COUNT(*) > 1000 FROM shop.novelties").await?;
    for (unit, role) in [("B", "sink"), ("A", "connector")] {
        die_and_come_back(&mut mesh, unit, role)?;
        sleep(Duration::from_millis(1_500)).await;
    }
    die_while_copying(&mut mesh, "B").await?;
    sleep(Duration::from_secs(1)).await;
    // Rows that several units write never come to rest while they do.
    clashing.stop().await?;
    at_prices.stop().await?;
    for copy in copies {
        ensure_well(&mesh, copy).await?;
    }
    rest.ensure_short().await?;
    let last =
        [goods.stop().await?, prices.stop().await?, more.stop().await?, others.stop().await?];
    arrive(&mut mesh).await?;
    for worker in mesh.workers() {
        ensure!(!worker.log()?.contains("code=conflict"), "a lane of {} stopped", worker.name());
    }
    ensure_newest(watch).await?;
    ensure_kept(&mesh, &last[0]).await?;
    ensure_no_echo(&mesh)?;
    let servers: Vec<_> = mesh.units().iter().map(|unit| (&unit.name[..], &unit.server)).collect();
    let low = last[1].iter().filter(|(id, _)| **id < TRAVELS[1]);
    let low = low.map(|(id, n)| (*id, *n)).collect();
    let those = format!("shop.prices WHERE id < {}", TRAVELS[1]);
    ensure_kept_in(&servers, &those, &low).await?;
    // B writes new ones itself.
    let stray = format!(
        "SELECT COUNT(*) FROM shop.prices WHERE id >= {} AND (id < {NEW_ROWS} OR id % 2 = 0)",
        TRAVELS[1]
    );
    ensure!(mesh.server("B").sql(&stray).await? == "0", "prices came that do not travel");
    ensure_kept_in(&servers, "shop.novelties", &last[2]).await?;
    let servers: Vec<_> = ["A", "B"].into_iter().zip(&people).collect();
    ensure_kept_in(&servers, "shop.people", &last[3]).await?;
    mesh.ensure_still().await?;
    mesh.finish();
    Ok(())
}

/// A server of the other store.
async fn people(rows: u64) -> anyhow::Result<Mysql> {
    let server = Mysql::setup(Mariadb).start().await?;
    let table = like_goods("people");
    server.sql(&format!("CREATE DATABASE shop; USE shop; {table}")).await?;
    if rows > 0 {
        server.sql(&fill_table("shop.people", rows)).await?;
    }
    Ok(server)
}

/// The other store in the configuration.
fn crm(servers: &[Mysql; 2]) -> String {
    let store = |(unit, server): (&str, &Mysql)| {
        format!(
            "[units.{unit}.stores.crm]\nkind = \"mysql\"\nendpoints = [\"127.0.0.1:{}\"]\n\
             tls = \"off\"\nuser = \"root\"\n",
            server.port()
        )
    };
    let stores: String = ["A", "B"].into_iter().zip(servers).map(store).collect();
    format!(
        "\n{stores}[flows.crm]\nlanes = 1\norder = \"transaction\"\ntables = [\"shop.*\"]\n\
         heartbeat = false\n"
    )
}

fn copy(mesh: &Mesh, what: &[&str]) -> anyhow::Result<tokio::process::Child> {
    let head = ["resync", "full", "--from", "A", "--why", "test", "--by", "test"];
    mesh.spawn(&[&head, what, &["--rows-per-second", PER_SECOND]].concat())
}

fn die_and_come_back(mesh: &mut Mesh, unit: &str, role: &str) -> anyhow::Result<()> {
    mesh.worker(unit, role)?.kill()?;
    mesh.start_worker(unit, role, "")
}

/// How long the goods that A writes rest in B, and how often they move while novelties are half there.
struct Rest {
    seen: JoinHandle<anyhow::Result<(Duration, u32)>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Rest {
    async fn watch(server: &Mysql) -> anyhow::Result<Self> {
        let mut conn = connect(server).await?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let half = 100..rows() - 100;
        let seen = tokio::spawn(async move {
            let (mut last, mut since, mut longest) = (None, Instant::now(), Duration::ZERO);
            let (mut moves, mut within) = (0, false);
            while !*stopped.borrow() {
                let query = "SELECT MAX(n), (SELECT COUNT(*) FROM shop.novelties) \
                             FROM shop.goods WHERE id % 2 = 0";
                let (now, copied) =
                    conn.query_first::<(Option<u64>, u64), _>(query).await?.unwrap_or_default();
                if now != last {
                    // What is seen first may have been there before.
                    moves += u32::from(within && half.contains(&copied));
                    (last, since) = (now, Instant::now());
                }
                within = half.contains(&copied);
                longest = longest.max(since.elapsed());
                sleep(Duration::from_millis(50)).await;
            }
            Ok((longest, moves))
        });
        Ok(Self { seen, stop })
    }

    async fn ensure_short(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        let (longest, moves) = self.seen.await.context("the watch panicked")??;
        println!(
            "  what flowed before rested for {longest:.1?} at most, and moved {moves} times amid the copy"
        );
        ensure!(moves > 0, "what flowed before rested until the copy was there");
        ensure!(longest < REST, "what flowed before rested for {longest:?}");
        Ok(())
    }
}
