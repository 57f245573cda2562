//! Tables are filled, brought back in line and joined while every unit writes them, and workers are
//! killed meanwhile.
//!
//! Units share a Kafka in most of them: what two cores bear goes into servers and workers.
//!
//! The judge is twofold: the servers' own clients must find all units equal, and each row that only
//! one unit wrote must hold what that unit wrote last.

mod back;
mod causes;
mod growing;
mod keys;
mod pace;
mod spread;
mod upgrade;
mod writers;

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};
use unitflow_harness::Flavor::{Mariadb, Mysql9};
use unitflow_harness::random::{Random, is_full, seed};
use unitflow_harness::watch::{self, Watch};
use unitflow_harness::{Mesh, MeshSetup, Mysql, beside, tagged};
use writers::{Last, NEW_ROWS, Writers};

const BINARY: &str = env!("CARGO_BIN_EXE_unitflow");
/// Nor does what was written take longer to arrive.
const QUIET: Duration = Duration::from_secs(60);
/// Rows that several units write.
const CLASHING: std::ops::Range<u64> = 4_000..4_400;
/// Read no faster than this, so that there is time to write and to kill.
const ROWS_PER_SECOND: &str = "3000";

/// How an older row that was put over a newer one shows.
const FOUND_OUT: [&str; 2] = [WENT_BACK, MET_A_CONFLICT];
const WENT_BACK: &str = "lost what was written last";
const MET_A_CONFLICT: &str = "met a conflict";

const GOODS: &str = "CREATE TABLE goods (id BIGINT PRIMARY KEY, n BIGINT NOT NULL, \
    body VARCHAR(200) NOT NULL, price DECIMAL(10,2) NOT NULL DEFAULT 1.50);";

/// No test takes longer.
fn limit() -> Duration {
    Duration::from_secs(if is_full() { 600 } else { 300 })
}

fn rows() -> u64 {
    if is_full() { 100_000 } else { 20_000 }
}

/// The prepared rows, by doubling.
fn fill() -> String {
    fill_table("shop.goods", rows())
}

/// A table like the goods with rows 0 to `rows`.
fn fill_table(table: &str, rows: u64) -> String {
    let mut sql = format!("INSERT INTO {table} (id, n, body) VALUES (0, 0, 'first');");
    let mut count = 1;
    while count < rows {
        let some = count.min(rows - count);
        sql.push_str(&format!(
            "INSERT INTO {table} (id, n, body) SELECT id + {count}, 0, CONCAT('row ', id + {count}) FROM {table} WHERE id < {some};"
        ));
        count += some;
    }
    sql
}

#[test]
fn a_table_that_holds_rows_arrives_while_all_write() {
    beside("a first copy, MySQL to MariaDB", limit(), async {
        let setup = MeshSetup::new(BINARY, &[Mysql9, Mariadb]).tables(GOODS).prepare("A", &fill());
        scene(setup, "", &[("A", "connector"), ("B", "sink"), ("A", "transformer")])
            .await?
            .finish();
        Ok(())
    });
}

#[test]
fn a_table_is_brought_back_in_line_while_all_write() {
    beside("a full resync, MariaDB to MySQL", limit(), async {
        let kills = [("B", "sink"), ("B", "connector"), ("A", "connector")];
        scene(both(), "", &kills).await?.finish();
        Ok(())
    });
}

#[test]
fn a_unit_joins_while_the_others_write() {
    beside("a unit joins", limit(), join());
}

/// C comes to A and B, which hold equal rows and go on writing. A worker of each kind is killed.
async fn join() -> anyhow::Result<()> {
    let random = Random::new(seed("filling"));
    let mut mesh = MeshSetup::new(BINARY, &[Mysql9, Mariadb, Mysql9])
        .kafka_shared()
        .late("C")
        .tables(GOODS)
        .prepare("A", &fill())
        .prepare("B", &fill())
        .start()
        .await?;
    mesh.start_workers()?;
    let mut own = Writers::slow();
    for (place, unit) in [(0, "A"), (1, "B")] {
        let rows = 0..CLASHING.start;
        own.own((mesh.server(unit), "shop.goods"), (place, 3), rows, random.branch(place)).await?;
    }
    // They have read the configuration that does not name C.
    for worker in mesh.workers() {
        worker.says("running", QUIET).await?;
    }
    mesh.admit()?;
    let join = ["resync", "join", "C", "--from", "A", "--why", "test", "--by", "test"];
    ensure_only_the_empty_join(&mesh, &join).await?;
    let join = [&join[..], &["--rows-per-second", ROWS_PER_SECOND]].concat();
    let mut killed = mesh.spawn(&join)?;
    shows(&mesh, "C", "SELECT COUNT(*) > 4 FROM unitflow.ledger").await?;
    for unit in ["A", "B", "C"] {
        shows(&mesh, unit, "SELECT COUNT(*) > 0 FROM unitflow.filling").await?;
    }
    let mut clashing = Writers::slow();
    for (place, unit) in (0..).zip(mesh.units()) {
        let table = (&unit.server, "shop.goods");
        clashing.clashing(table, CLASHING, random.branch(100 + place)).await?;
    }
    let watch = watch_goods(&mesh, "C").await?;
    for worker in mesh.workers() {
        worker.kill()?;
    }
    killed.kill().await?;
    mesh.start_workers()?;
    let mut command = mesh.spawn(&join)?;
    own.own((mesh.server("C"), "shop.goods"), (2, 3), 0..CLASHING.start, random.branch(2)).await?;
    die_while_copying(&mut mesh, "C").await?;
    kill_each(&mut mesh, &mut command, &[("A", "connector")], 2_500, "").await?;
    clashing.stop().await?;
    ensure_well(&mesh, command).await?;
    let last = own.stop().await?;
    arrive(&mut mesh).await?;
    ensure_newest(watch).await?;
    ensure_kept(&mesh, &last).await?;
    ensure_no_echo(&mesh)?;
    mesh.ensure_still().await?;
    mesh.finish();
    Ok(())
}

/// A unit with rows of its own is left alone, and nothing is made there.
async fn ensure_only_the_empty_join(mesh: &Mesh, join: &[&str]) -> anyhow::Result<()> {
    let server = mesh.server("C");
    server.sql("INSERT INTO shop.goods (id, n, body) VALUES (1, 1, 'of its own')").await?;
    let refused = mesh.run(join).await.err().context("it joined with rows")?.to_string();
    let because = "`shop`.`goods` holds rows in unit C, and a unit that joins is empty";
    ensure!(refused.contains(because), "{refused}");
    let made = "SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = 'unitflow'";
    ensure!(server.sql(made).await? == "0", "something was made in C");
    server.sql("DROP TABLE shop.goods").await?;
    Ok(())
}

#[test]
fn chunks_that_overwrite_are_found_out() {
    beside("a resync that overwrites", limit(), async {
        match scene(both(), "copy_overwrites", &[]).await {
            Ok(_) => bail!("rows were overwritten by older ones and nobody noticed"),
            // A row that went back in time is found by the comparison, or sooner by a sink: the
            // next change of that row is sent with a row before it that no other unit has.
            Err(error) if FOUND_OUT.iter().any(|word| error.to_string().contains(word)) => {
                println!("  found out: {error}");
            }
            Err(error) => return Err(error.context("found out by another word than expected")),
        }
        Ok(())
    });
}

/// Two units that both hold the rows; some of those of B are changed, missing or too many. They are
/// rows that A writes: what B would write to a row that is wrong there does not count.
fn both() -> MeshSetup {
    let damage = "UPDATE shop.goods SET body = 'damaged' WHERE id % 50 = 6; \
        DELETE FROM shop.goods WHERE id % 50 = 8; \
        INSERT INTO shop.goods (id, n, body) SELECT id + 1000000, 0, 'too many' FROM shop.goods WHERE id % 50 = 9;";
    MeshSetup::new(BINARY, &[Mariadb, Mysql9])
        .kafka_shared()
        .tables(GOODS)
        .prepare("A", &fill())
        .prepare("B", &format!("{}{damage}", fill()))
}

/// Copies the goods from A while both units write, kills workers meanwhile, and compares.
async fn scene(setup: MeshSetup, inject: &str, kills: &[(&str, &str)]) -> anyhow::Result<Mesh> {
    let mut mesh = setup.start().await?;
    mesh.start_workers_broken(inject)?;
    let mut copy = Copy::begin(&mesh).await?;
    kill_each(&mut mesh, &mut copy.command, kills, 1_500, inject).await?;
    if !kills.is_empty() {
        copy.command.kill().await?;
        copy.command = mesh.spawn(&Copy::ORDER)?;
        die_while_copying(&mut mesh, "B").await?;
    }
    copy.end(&mut mesh).await?;
    Ok(mesh)
}

/// The goods are copied from A, and every unit writes them.
struct Copy {
    command: Child,
    own: Writers,
    clashing: Writers,
    watch: Watch<u64>,
}

impl Copy {
    const ORDER: [&str; 12] = [
        "resync",
        "full",
        "--from",
        "A",
        "--table",
        "shop.goods",
        "--why",
        "test",
        "--by",
        "test",
        "--rows-per-second",
        ROWS_PER_SECOND,
    ];

    async fn begin(mesh: &Mesh) -> anyhow::Result<Self> {
        let random = Random::new(seed("filling"));
        let command = mesh.spawn(&Self::ORDER)?;
        let (own, clashing) = write_while_filling(mesh, Writers::none, &random).await?;
        Ok(Self { command, own, clashing, watch: watch_goods(mesh, "B").await? })
    }

    /// Lets it come to its end, and compares.
    async fn end(self, mesh: &mut Mesh) -> anyhow::Result<()> {
        sleep(Duration::from_secs(3)).await;
        // Rows that several units write never come to rest while they do.
        self.clashing.stop().await?;
        ensure_well(mesh, self.command).await?;
        let last = self.own.stop().await?;
        arrive(mesh).await?;
        ensure_newest(self.watch).await?;
        ensure_kept(mesh, &last).await?;
        ensure_no_echo(mesh)?;
        mesh.ensure_still().await
    }
}

/// Each unit writes goods of its own and goods that all write, as soon as that fits.
async fn write_while_filling(
    mesh: &Mesh,
    writers: fn() -> Writers,
    random: &Random,
) -> anyhow::Result<(Writers, Writers)> {
    let clashing = clash_while_filling(mesh, writers(), random).await?;
    let mut own = writers();
    let units = mesh.units().len() as u64;
    for (place, unit) in (0..).zip(mesh.units()) {
        let goods = (&unit.server, "shop.goods");
        own.own(goods, (place, units), 0..CLASHING.start, random.branch(place)).await?;
    }
    Ok((own, clashing))
}

/// All units write the same goods as soon as tables are marked as being filled: before that a change that
/// does not fit stops its lane, and a sink without a lane ends.
async fn clash_while_filling(
    mesh: &Mesh,
    mut writers: Writers,
    random: &Random,
) -> anyhow::Result<Writers> {
    for unit in mesh.units() {
        shows(mesh, &unit.name, "SELECT COUNT(*) > 0 FROM unitflow.filling").await?;
    }
    for (place, unit) in (0..).zip(mesh.units()) {
        let goods = (&unit.server, "shop.goods");
        writers.clashing(goods, CLASHING, random.branch(100 + place)).await?;
    }
    Ok(writers)
}

/// Watches the goods of one writer in a unit: no newer write is ever undone there.
async fn watch_goods(mesh: &Mesh, unit: &str) -> anyhow::Result<Watch<u64>> {
    let below = CLASHING.start;
    let goods = format!("SELECT id, n FROM shop.goods WHERE id < {below} OR id >= {NEW_ROWS}");
    watch::rows(mesh.server(unit), &goods).await
}

async fn ensure_newest(watch: Watch<u64>) -> anyhow::Result<()> {
    let polls = watch.stop().await.context(WENT_BACK)?;
    ensure!(polls > 10, "the goods were looked at {polls} times");
    Ok(())
}

/// Whether what each unit says to have changed of the goods is its own. Of those of one writer it shows
/// by their numbers.
fn ensure_no_echo(mesh: &Mesh) -> anyhow::Result<()> {
    let units = mesh.units().len() as u64;
    for (place, unit) in (0..).zip(mesh.units()) {
        let topic = mesh.topic(&format!("{}.shop.tagged", unit.name));
        let changes = tagged::read(&mesh.kafka(&unit.name).bootstrap(), &topic)?;
        let goods = changes.iter().filter(|change| change.table == "goods");
        let mut seen = 0;
        for id in goods.filter_map(|change| change.id) {
            if !(CLASHING.start..NEW_ROWS).contains(&id) {
                let number = id.checked_sub(NEW_ROWS).unwrap_or(id);
                ensure!(
                    number % units == place,
                    "{topic} has goods {id}, which another unit wrote"
                );
                seen += 1;
            }
        }
        ensure!(seen > 100, "{topic} has {seen} changes of goods");
    }
    Ok(())
}

/// `kill -9` of these workers (unit, role) while the command is at work, each after a pause and started again
/// at once.
async fn kill_each(
    mesh: &mut Mesh,
    command: &mut Child,
    workers: &[(&str, &str)],
    pause_ms: u64,
    inject: &str,
) -> anyhow::Result<()> {
    for (unit, role) in workers {
        sleep(Duration::from_millis(pause_ms)).await;
        let ended = command.try_wait()?;
        ensure!(
            ended.is_none(),
            "the command ended with {ended:?} before {unit}'s {role} was killed"
        );
        let worker = mesh.worker(unit, role)?;
        ensure!(worker.ended().is_none(), "{unit}'s {role} had ended:\n{}", worker.log_end());
        worker.kill()?;
        mesh.start_worker(unit, role, inject)?;
    }
    Ok(())
}

/// A sink that dies with copied rows written and not committed.
async fn die_while_copying(mesh: &mut Mesh, unit: &str) -> anyhow::Result<()> {
    shall_die_while_copying(mesh, unit)?;
    has_died(mesh, unit).await
}

fn shall_die_while_copying(mesh: &mut Mesh, unit: &str) -> anyhow::Result<()> {
    mesh.worker(unit, "sink")?.kill()?;
    mesh.start_worker(unit, "sink", "die_while_copying")
}

async fn has_died(mesh: &mut Mesh, unit: &str) -> anyhow::Result<()> {
    let status = mesh.worker(unit, "sink")?.wait(limit()).await?;
    ensure!(status.code().is_none(), "the sink of {unit} ended with {status}");
    mesh.start_worker(unit, "sink", "")
}

/// Whether the command comes to its end and has done what it shall.
async fn ensure_well(mesh: &Mesh, command: Child) -> anyhow::Result<()> {
    let ended = timeout(limit(), command.wait_with_output()).await;
    let ended = ended
        .with_context(|| format!("the resync hangs:\n{}", said(mesh).unwrap_or_default()))??;
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    ensure!(ended.status.success(), "resync: {}\n{text}{}", ended.status, said(mesh)?);
    println!("  {}", text.trim().lines().next_back().unwrap_or_default());
    Ok(())
}

/// Waits until all is applied everywhere, and tells apart what a sink refused.
async fn arrive(mesh: &mut Mesh) -> anyhow::Result<()> {
    let Err(error) = mesh.quiesce(QUIET).await else { return Ok(()) };
    for worker in mesh.workers() {
        if worker.log()?.contains("code=conflict") {
            return Err(error.context(format!("{} {MET_A_CONFLICT}", worker.name())));
        }
    }
    Err(error)
}

/// Waits until a unit answers 1, as the command makes it.
async fn shows(mesh: &Mesh, unit: &str, query: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + QUIET;
    while mesh.server(unit).sql(query).await.ok().as_deref() != Some("1") {
        ensure!(Instant::now() < deadline, "{unit} does not show {query}:\n{}", said(mesh)?);
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Waits until the command says this besides its result.
async fn says(mesh: &Mesh, text: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + QUIET;
    while !said(mesh)?.contains(text) {
        ensure!(Instant::now() < deadline, "the command does not say {text:?}:\n{}", said(mesh)?);
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// What the command said besides its result.
fn said(mesh: &Mesh) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(mesh.folder().join("command.log"))?)
}

/// Whether all units are equal, and rows of one writer hold what it wrote last.
async fn ensure_kept(mesh: &Mesh, last: &Last) -> anyhow::Result<()> {
    let servers: Vec<_> = mesh.units().iter().map(|unit| (&unit.name[..], &unit.server)).collect();
    ensure_kept_in(&servers, "shop.goods", last).await
}

/// The same of these servers, and this table or a part of it.
async fn ensure_kept_in(
    servers: &[(&str, &Mysql)],
    table: &str,
    last: &Last,
) -> anyhow::Result<()> {
    ensure!(last.len() > 20, "only {} rows of one writer are known", last.len());
    let mut first: Option<String> = None;
    for (unit, server) in servers {
        let all = format!("SELECT id, n, body, price FROM {table} ORDER BY id");
        let all = server.sql(&all).await?;
        let mut lost = Vec::new();
        let found: std::collections::BTreeMap<u64, u64> = all
            .lines()
            .filter_map(|line| {
                let mut parts = line.split('\t');
                Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
            })
            .collect();
        for (id, n) in last {
            if found.get(id) != n.as_ref() {
                lost.push(format!("{id}: {n:?} was written last, {:?} is there", found.get(id)));
            }
        }
        ensure!(
            lost.is_empty(),
            "unit {unit}: {} rows {WENT_BACK} in {table}:\n{}",
            lost.len(),
            lost.iter().take(8).cloned().collect::<Vec<_>>().join("\n")
        );
        match &first {
            None => first = Some(all),
            Some(other) => ensure!(*other == all, "{table} of unit {unit} differs"),
        }
    }
    println!(
        "  {table}: {} rows of one writer are as written last, all units are equal",
        last.len()
    );
    Ok(())
}
